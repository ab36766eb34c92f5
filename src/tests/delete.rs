//! --delete on real file systems: what the source no longer has goes, and nothing else, whatever lies in the way.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::CWD;
use rustix::process::Signal;
use support::fixture::{can_mount, must, set_mode};
use support::{Comparison, Engine, Job, Kind, Mount, Scratch, mutate, seed, tree};

#[path = "delete/lost.rs"]
mod lost;
mod support;
#[path = "delete/told.rs"]
mod told;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// All names below a directory.
fn names(root: &Path) -> BTreeSet<String> {
    let found = must(Command::new("find").arg(root).args(["-mindepth", "1", "-printf", "%P\\n"]));
    found.lines().map(str::to_owned).collect()
}

/// A source and a copy of it with more in it.
struct Scene {
    scratch: Scratch,
    source: PathBuf,
    dest: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let scratch = Scratch::new();
        let (source, dest) = (scratch.path().join("source"), scratch.path().join("dest"));
        for name in ["keep", "d/keep", "d/e/keep"] {
            write(&source.join(name), name);
        }
        for name in ["extra", "d/extra", "gone/a/b/c", "gone/x"] {
            write(&dest.join(name), name);
        }
        Scene { scratch, source, dest }
    }

    fn job(&self, engine: Engine) -> Job {
        Job::new(&self.source, &self.dest, self.scratch.path().join("state"), engine)
    }
}

#[test]
fn a_changed_source_and_its_copy_are_the_same_again() {
    let test = "a_changed_source_and_its_copy_are_the_same_again";
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, 31);
    for engine in Engine::all() {
        for (from, to) in [(Kind::Ext4, Kind::Xfs), (Kind::Xfs, Kind::Btrfs)] {
            let (source, dest) = (Mount::new(from, 1024), Mount::new(to, 1024));
            let root = source.dir("tree");
            tree::mixed(&root, seed, 200);
            mutate::prepare(&source.dir("tree/changing"), seed);
            fs::create_dir_all(root.join("deep/er/est")).unwrap();
            fs::write(root.join("deep/er/est/file"), "x").unwrap();
            write(&root.join("becomes-file/with/content"), "x");
            write(&root.join("becomes-dir"), "x");
            let job = Job::new(&root, dest.join("copy"), dest.join("copy/the-state"), engine).arg("-delete");
            job.run().expect(0);
            mutate::apply(&root.join("changing"));
            fs::remove_dir_all(root.join("deep")).unwrap();
            fs::remove_dir_all(root.join("becomes-file")).unwrap();
            fs::write(root.join("becomes-file"), "now a file").unwrap();
            fs::remove_file(root.join("becomes-dir")).unwrap();
            write(&root.join("becomes-dir/x"), "x");
            write(&job.dest().join("only/here/x"), "x");
            job.run().expect(0);
            Comparison::new(&root, job.dest()).skipping(b"the-state").assert_same();
            // What was deleted is recorded no more: the catalog and the destination agree.
            let mut verify = Command::new(env!("CARGO_BIN_EXE_gfast"));
            verify.arg("verify").arg("-dest").arg(job.dest()).arg("-state-dir").arg(job.dest().join("the-state"));
            must(&mut verify);
            let outcome = job.run().expect(0);
            assert_eq!((outcome.number("removed"), outcome.number("copied")), (0, 0), "{outcome}");
        }
    }
}

#[test]
fn only_what_may_go_goes() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let outside = scene.scratch.path().join("outside");
        write(&outside.join("precious"), "x");
        symlink(&outside, scene.dest.join("link")).unwrap();
        symlink(&outside, scene.dest.join("gone/link")).unwrap();
        write(&scene.dest.join("gone/saved.o"), "x");
        write(&scene.dest.join("saved.o"), "x");
        let before = names(&scene.dest);
        scene.job(engine).run().expect(0);
        assert!(before.is_subset(&names(&scene.dest)), "without --delete nothing goes");
        let scene_state = scene.scratch.path().join("other-state");
        let job = Job::new(&scene.source, &scene.dest, &scene_state, engine).arg("-exclude=*.o").arg("-delete");
        let outcome = job.run();
        // The directory that holds what the rules protect cannot go, and is no failure.
        let outcome = outcome.expect(0);
        let left = ["d", "d/e", "d/e/keep", "d/keep", "gone", "gone/saved.o", "keep", "saved.o"];
        assert_eq!(names(&scene.dest), left.map(str::to_owned).into(), "{outcome}");
        assert!(outcome.number("removed") == 8 && outside.join("precious").exists(), "{outcome}");
    }
}

#[test]
fn a_limit_is_kept_and_told() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let count = names(&scene.dest).len();
        let outcome = scene.job(engine).arg("-delete").arg("-max-delete=2").run().expect(25);
        assert_eq!(outcome.number("removed"), 2, "{outcome}");
        assert_eq!(names(&scene.dest).len(), count - 2 + 4, "{outcome}");
        let outcome = scene.job(engine).arg("-delete").arg("-max-delete=100").run().expect(0);
        assert_eq!(
            (outcome.number("removed"), names(&scene.dest)),
            (count as u64 - 3, names(&scene.source)),
            "{outcome}"
        );
        scene.job(engine).arg("-max-delete=1").run().expect(1);
    }
}

#[test]
fn an_empty_source_deletes_nothing_unless_forced() {
    for engine in Engine::all() {
        let scene = Scene::new();
        fs::remove_dir_all(&scene.source).unwrap();
        fs::create_dir(&scene.source).unwrap();
        let before = names(&scene.dest);
        let outcome = scene.job(engine).arg("-delete").run().expect(25);
        assert!(outcome.says("the source is empty") && names(&scene.dest) == before, "{outcome}");
        scene.job(engine).arg("-force-delete").run().expect(0);
        assert!(names(&scene.dest).is_empty());
        scene.job(engine).arg("-delete").run().expect(0);
    }
}

#[test]
fn a_source_that_cannot_be_read_deletes_nothing_unless_forced() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("a_source_that_cannot_be_read_deletes_nothing", "not root");
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let uid = 12_345;
        write(&scene.source.join("closed/x"), "x");
        write(&scene.dest.join("closed/y"), "y");
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(&scene.dest));
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(&scene.source));
        must(Command::new("chown").arg("0:0").arg(scene.source.join("closed")));
        set_mode(&scene.source.join("closed"), 0o700);
        let state = scene.scratch.path().join("state");
        fs::create_dir(&state).unwrap();
        must(Command::new("chown").arg("12345:12345").arg(&state));
        let before = names(&scene.dest);
        let outcome = scene.job(engine).user(uid).arg("-delete").run().expect(23);
        assert!(outcome.says("nothing is deleted") && before.is_subset(&names(&scene.dest)), "{outcome}");
        scene.job(engine).user(uid).arg("-force-delete").run().expect(23);
        let left = names(&scene.dest);
        assert!(left.contains("closed/y") && !left.contains("extra") && !left.contains("gone"), "{left:?}");
    }
}

#[test]
fn nothing_outside_goes_while_directories_are_swapped_for_symlinks() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let outside = scene.scratch.path().join("outside");
        for index in 0..200 {
            write(&outside.join(format!("d{index}/precious")), "x");
            write(&scene.source.join(format!("common/d{index}/x")), "x");
        }
        let (expected, swaps) = (names(&outside), AtomicU32::new(0));
        scene.job(engine).run().expect(0);
        for round in 0..4 {
            for index in 0..200 {
                write(&scene.dest.join(format!("common/d{index}/precious")), "x");
                write(&scene.dest.join(format!("swapped{round}/d{index}/precious")), "x");
            }
            // Held: its name will lead outside for moments, where nothing may be exchanged.
            let gone = tree::open_dir(&scene.dest.join(format!("swapped{round}")));
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                // Names of directories that go, each exchanged with a symlink that leads outside.
                scope.spawn(|| {
                    let links = scene.scratch.path().join("links");
                    fs::create_dir_all(&links).unwrap();
                    let pairs: Vec<_> = (0..200).map(|index| format!("d{index}")).collect();
                    for name in &pairs {
                        symlink(outside.join(name), links.join(name)).unwrap();
                    }
                    while !is_over.load(Ordering::Relaxed) {
                        for name in &pairs {
                            let exchange = rustix::fs::RenameFlags::EXCHANGE;
                            let swapped = rustix::fs::renameat_with(CWD, links.join(name), &gone, name, exchange);
                            swaps.fetch_add(swapped.is_ok().into(), Ordering::Relaxed);
                        }
                    }
                    fs::remove_dir_all(&links).unwrap();
                });
                scope.spawn(|| {
                    let aside = scene.scratch.path().join("aside");
                    while !is_over.load(Ordering::Relaxed) {
                        for name in ["common".to_owned(), format!("swapped{round}")] {
                            let path = scene.dest.join(name);
                            if fs::rename(&path, &aside).is_ok() {
                                swaps.fetch_add(symlink(&outside, &path).is_ok().into(), Ordering::Relaxed);
                                let _ = fs::remove_file(&path);
                                let _ = fs::rename(&aside, &path);
                            }
                        }
                    }
                });
                let outcome = scene.job(engine).arg("-delete").run();
                is_over.store(true, Ordering::Relaxed);
                outcome.expect_one_of(&[0, 23]);
            });
            let _ = fs::remove_dir_all(scene.scratch.path().join("aside"));
            assert_eq!(names(&outside), expected);
        }
        // It was a race: names led outside again and again while the jobs ran.
        assert!(swaps.load(Ordering::Relaxed) > 1000, "{swaps:?} swaps");
    }
}

#[test]
fn a_deep_tree_goes_with_few_open_directories() {
    let scene = Scene::new();
    fs::create_dir(scene.dest.join("chain")).unwrap();
    tree::chain(&scene.dest.join("chain"), 3_000, 20);
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -n 256 && exec \"$@\"").arg("sh").arg(env!("CARGO_BIN_EXE_gfast"));
    command.arg("-source").arg(&scene.source).arg("-dest").arg(&scene.dest);
    must(command.arg("-state-dir").arg(scene.scratch.path().join("state")).arg("-delete"));
    assert!(!scene.dest.join("chain").exists());
}

#[test]
fn only_what_failed_is_tried_again() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("only_what_failed_is_tried_again", "not root");
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let uid = 12_345;
        write(&scene.source.join("secret"), "x");
        write(&scene.source.join("closed/x"), "x");
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(scene.scratch.path()));
        for name in ["secret", "closed"] {
            must(Command::new("chown").arg("0:0").arg(scene.source.join(name)));
            set_mode(&scene.source.join(name), 0o700);
        }
        let job = scene.job(engine).user(uid);
        job.clone().arg("-retry-failed").run().expect(2);
        assert!(!scene.scratch.path().join("state").exists());
        job.run().expect(23);
        job.clone().arg("-retry-failed").arg("-delete").run().expect(1);
        let outcome = job.clone().arg("-retry-failed").run().expect(23);
        assert_eq!((outcome.number("failed"), outcome.number("copied")), (2, 0), "{outcome}");
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(&scene.source));
        fs::write(scene.source.join("keep"), "changed since").unwrap();
        let outcome = job.clone().arg("-retry-failed").run().expect(0);
        assert_eq!((outcome.number("failed"), outcome.number("copied")), (0, 2), "{outcome}");
        assert_eq!(fs::read(scene.dest.join("closed/x")).unwrap(), b"x");
        assert_eq!(fs::read(scene.dest.join("keep")).unwrap(), b"keep", "nothing else is looked at");
        let outcome = job.clone().arg("-retry-failed").run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("entries_walked")), (0, 0), "{outcome}");
        let outcome = job.arg("-delete").run().expect(0);
        // The new owner counts as a change of all three.
        assert_eq!(outcome.number("copied"), 3, "{outcome}");
        Comparison::new(&scene.source, &scene.dest).assert_same();
    }
}

/// What a retry had found and not come to is not lost: the next run is its rest, not a new pass over what is done.
#[test]
fn a_retry_that_is_cut_short_is_gone_on_with() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("a_retry_that_is_cut_short_is_gone_on_with", "not root");
        return;
    }
    for (engine, is_killed) in Engine::all().into_iter().flat_map(|engine| [(engine, false), (engine, true)]) {
        let scene = Scene::new();
        for number in 0..40 {
            write(&scene.source.join(format!("closed/{number}/a/x")), "x");
        }
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(scene.scratch.path()));
        must(Command::new("chown").arg("0:0").arg(scene.source.join("closed")));
        set_mode(&scene.source.join("closed"), 0o700);
        let job = scene.job(engine).user(12_345);
        job.run().expect(23);
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(&scene.source));
        let retry = job.clone().args(&["-retry-failed", "-iops-limit=20", "-checkpoint-interval=1"]).start();
        let arrived = || files_below(&scene.dest.join("closed"));
        let is_under_way = retry.run_until(|_| arrived() >= 25);
        assert!(is_under_way, "it ended before");
        match is_killed {
            true => drop(retry.kill()),
            false => {
                retry.signal(Signal::INT);
                retry.wait().expect(20);
            }
        }
        assert!(arrived() < 40, "cut too late");
        let refused = job.clone().arg("-retry-failed").run().expect(2);
        assert!(refused.says("interrupted"), "{refused}");
        job.run().expect(0);
        assert_eq!(arrived(), 40);
        job.arg("-delete").run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
    }
}

/// Files below a directory.
fn files_below(root: &Path) -> usize {
    let Ok(listing) = fs::read_dir(root) else { return 0 };
    listing.flatten().map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}

/// What a dry run says of each path: "copy new", "skip unchanged".
fn rehearse(job: &Job, code: i32) -> std::collections::BTreeMap<String, String> {
    let outcome = job.clone().arg("-dry-run").run().expect(code);
    let lines = outcome.stdout.lines().map(|line| {
        let (verb, reason, path) = (&line[..8], &line[9..29], &line[30..]);
        (path.to_owned(), format!("{} {}", verb.trim(), reason.trim()))
    });
    lines.collect()
}

#[test]
fn a_dry_run_says_what_the_run_then_does() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let state = scene.scratch.path().join("state");
        let job = scene.job(engine).arg("-delete").arg("-exclude=*.o");
        write(&scene.source.join("left.o"), "x");
        write(&scene.dest.join("left.o"), "y");
        write(&scene.dest.join("gone/saved.o"), "y");
        let before = names(&scene.dest);
        let said = rehearse(&job, 0);
        assert!(!state.exists() && names(&scene.dest) == before, "nothing is changed");
        let expected = [
            ("keep", "copy new"),
            ("d/keep", "copy new"),
            ("d/e", "make new directory"),
            ("d/e/keep", "copy new"),
            ("extra", "delete not in the source"),
            ("d/extra", "delete not in the source"),
            ("gone/a/b/c", "delete not in the source"),
            ("gone/a/b", "delete not in the source"),
            ("gone/a", "delete not in the source"),
            ("gone/x", "delete not in the source"),
        ];
        let has = |said: &std::collections::BTreeMap<String, String>, path: &str| said.get(path).cloned();
        for (path, what) in expected {
            assert_eq!(has(&said, path).as_deref(), Some(what), "{path}: {said:#?}");
        }
        assert!(
            !said.contains_key("left.o") && !said.contains_key("gone/saved.o") && !said.contains_key("gone"),
            "{said:#?}"
        );
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("removed")), (3, 6), "{outcome}");
        fs::write(scene.source.join("keep"), "changed").unwrap();
        write(&scene.dest.join("later"), "x");
        let catalog = must(Command::new("sh").arg("-c").arg("cat \"$1\"/job-*/data.mdb | cksum").arg("sh").arg(&state));
        let said = rehearse(&job, 0);
        assert_eq!(has(&said, "keep").as_deref(), Some("copy changed"));
        assert_eq!(has(&said, "d/keep").as_deref(), Some("skip unchanged"));
        assert_eq!(has(&said, "later").as_deref(), Some("delete not in the source"));
        let after = must(Command::new("sh").arg("-c").arg("cat \"$1\"/job-*/data.mdb | cksum").arg("sh").arg(&state));
        assert_eq!(catalog, after, "the catalog stays as it is");
        rehearse(&job.clone().arg("-max-delete=0"), 25);
        job.run().expect(0);
        Comparison::new(&scene.source.join("d"), &scene.dest.join("d")).assert_same();
    }
}

/// A job that has listed everything and is still busy with `slow`, a file of 8 MiB at a limited rate, until `seen` is
/// there.
fn start_slowly(scene: &Scene, engine: Engine, seen: &str) -> support::Running {
    fs::write(scene.source.join("slow"), vec![7; 8 << 20]).unwrap();
    // Of many blocks, so that others have their turn between them and not after the last.
    let running = scene.job(engine).args(&["-delete", "-bwlimit=4M", "-buffer-size=64K"]).start();
    assert!(running.run_until(|_| scene.dest.join(seen).exists()), "it is over too early");
    running
}

/// A run that is killed when it has listed `d` and `d/e`, and is busy with a file of the root, `large`.
fn interrupted(scene: &Scene, job: &Job) {
    fs::write(scene.source.join("large"), vec![7; 16 << 20]).unwrap();
    let running = job.clone().args(&["-bwlimit=1M", "-checkpoint-interval=0.2"]).start();
    // Small ones wait for the limit, too: until all have their times, and the checkpoint that gave them is over.
    let mtime = |path: PathBuf| fs::metadata(path).and_then(|stat| stat.modified()).ok();
    let is_done = |name| mtime(scene.dest.join(name)) == mtime(scene.source.join(name));
    assert!(running.run_until(|_| ["keep", "d/keep", "d/e/keep"].into_iter().all(is_done)), "it ended too early");
    assert!(running.run_for(Duration::from_secs(1)), "it ended too early");
    running.kill();
}

#[test]
fn a_source_that_is_removed_while_it_is_read_deletes_nothing() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let before = names(&scene.dest);
        let running = start_slowly(&scene, engine, "d/e/keep");
        fs::remove_dir_all(&scene.source).unwrap();
        // 23 where the last question for names of the root came after its end: a listing that failed.
        let outcome = running.wait().expect_one_of(&[23, 25]);
        assert!(outcome.says("nothing is deleted") && before.is_subset(&names(&scene.dest)), "{outcome}");
    }
}

/// A tmpfs on a directory, detached with the last use of it.
struct Over(PathBuf);

impl Over {
    fn new(at: &Path, args: &[&str]) -> Over {
        fs::create_dir_all(at).unwrap();
        must(Command::new("mount").args(args).arg(at));
        Over(at.to_owned())
    }

    fn tmpfs(at: &Path) -> Over {
        Over::new(at, &["-t", "tmpfs", "tmpfs"])
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_that_is_unmounted_after_it_was_listed_is_not_gone() {
    if !can_mount("a_file_system_that_is_unmounted_after_it_was_listed_is_not_gone") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let mounted = Over::tmpfs(&scene.source.join("sub"));
        write(&scene.source.join("sub/deep/x"), "x");
        scene.job(engine).run().expect(0);
        write(&scene.source.join("sub/deep/new"), "x");
        let running = start_slowly(&scene, engine, "sub/deep/new");
        drop(mounted);
        let outcome = running.wait().expect(25);
        assert!(scene.dest.join("sub/deep/x").exists() && scene.dest.join("sub/deep/new").exists(), "{outcome}");
        assert!(!scene.dest.join("extra").exists(), "what is known to be gone goes: {outcome}");
    }
}

#[test]
fn what_lies_below_a_mount_that_is_not_crossed_stays() {
    if !can_mount("what_lies_below_a_mount_that_is_not_crossed_stays") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let _mounted = Over::tmpfs(&scene.source.join("sub"));
        write(&scene.source.join("sub/other"), "x");
        write(&scene.dest.join("sub/mine"), "x");
        let job = scene.job(engine).arg("-one-file-system").arg("-delete");
        let said = rehearse(&job, 0);
        assert!(said.contains_key("extra") && !said.contains_key("sub/mine"), "{said:?}");
        let outcome = job.run().expect(0);
        assert!(scene.dest.join("sub/mine").exists() && !scene.dest.join("extra").exists(), "{outcome}");
    }
}

#[test]
fn what_is_mounted_on_a_name_that_goes_stays() {
    if !can_mount("what_is_mounted_on_a_name_that_goes_stays") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let outside = scene.scratch.path().join("outside");
        write(&outside.join("d/precious"), "x");
        // Of the same device, on a name that goes itself and on one below it.
        let _mounts = ["bound", "gone/a/bound"]
            .map(|name| Over::new(&scene.dest.join(name), &["--bind", outside.to_str().unwrap()]));
        let _other = Over::tmpfs(&scene.dest.join("mounted"));
        write(&scene.dest.join("mounted/precious"), "x");
        let outcome = scene.job(engine).arg("-delete").run().expect(0);
        assert!(outside.join("d/precious").exists() && scene.dest.join("mounted/precious").exists(), "{outcome}");
        assert!(outcome.says("mounted there") && !scene.dest.join("gone/x").exists(), "{outcome}");
    }
}

#[test]
fn a_directory_that_the_rules_protect_stays_where_the_source_has_a_file() {
    for engine in Engine::all() {
        let scene = Scene::new();
        write(&scene.source.join("cache"), "a file");
        write(&scene.dest.join("cache/x"), "x");
        let outcome = scene.job(engine).arg("-exclude=cache/").arg("-delete").run();
        assert!(scene.dest.join("cache/x").exists(), "{outcome}");
        outcome.expect(23);
    }
}

#[test]
fn the_state_of_another_job_stays() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let (source, dest) = (scene.scratch.path().join("source2"), scene.scratch.path().join("dest2"));
        write(&source.join("x"), "x");
        let other = Job::new(&source, &dest, scene.dest.join("state-of-others"), engine);
        other.run().expect(0);
        write(&scene.dest.join("state-of-others/profiles"), "{}");
        write(&scene.dest.join("gone/profiles"), "of nobody's");
        let before = names(&scene.dest.join("state-of-others"));
        let outcome = scene.job(engine).arg("-delete").run().expect(0);
        assert_eq!(names(&scene.dest.join("state-of-others")), before, "{outcome}");
        assert!(!scene.dest.join("gone").exists());
        assert_eq!(other.run().expect(0).number("copied"), 0);
    }
}

#[test]
fn a_directory_that_could_not_be_listed_and_is_gone_holds_nothing_up() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("a_directory_that_could_not_be_listed_and_is_gone_holds_nothing_up", "not root");
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        write(&scene.source.join("d/closed/x"), "x");
        must(Command::new("chown").args(["-R", "12345:12345"]).arg(scene.scratch.path()));
        must(Command::new("chown").arg("0:0").arg(scene.source.join("d/closed")));
        set_mode(&scene.source.join("d/closed"), 0o700);
        let job = scene.job(engine).user(12_345).arg("-delete");
        assert!(job.run().expect(23).says("nothing is deleted"));
        // As long as it is there it counts.
        assert!(job.run().expect(23).says("nothing is deleted"));
        fs::remove_dir_all(scene.source.join("d/closed")).unwrap();
        let outcome = job.run().expect(0);
        assert_eq!(names(&scene.dest), names(&scene.source), "{outcome}");
        job.run().expect(0);
    }
}
