//! What is missing at the destination comes back, and what is missing in the source for a reason stays.

use std::os::unix::fs::MetadataExt;

use super::support::block::Loop;
use super::*;

#[test]
fn a_link_takes_the_place_of_a_directory_that_holds_something() {
    for engine in Engine::all() {
        let scene = Scene::new();
        write(&scene.source.join("one"), "one");
        scene.job(engine).run().expect(0);
        write(&scene.dest.join("two/x/y"), "y");
        fs::hard_link(scene.source.join("one"), scene.source.join("two")).unwrap();
        assert!(scene.job(engine).run().expect(23).says("not empty"));
        let outcome = scene.job(engine).arg("-delete").run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
        let inodes = ["one", "two"].map(|name| fs::metadata(scene.dest.join(name)).unwrap().ino());
        assert_eq!(inodes[0], inodes[1], "{outcome}");
        assert_eq!(scene.job(engine).arg("-delete").run().expect(0).number("hard_links"), 0);
    }
}

#[test]
fn what_is_missing_at_the_destination_comes_back() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let job = scene.job(engine).arg("-delete");
        job.run().expect(0);
        fs::remove_file(scene.dest.join("keep")).unwrap();
        fs::remove_dir_all(scene.dest.join("d/e")).unwrap();
        let said = rehearse(&job, 0);
        let says = |path: &str| said.get(path).map(String::as_str);
        assert_eq!((says("keep"), says("d/keep")), (Some("copy missing"), Some("skip unchanged")), "{said:?}");
        assert_eq!((says("d/e"), says("d/e/keep")), (Some("make new directory"), Some("copy new")), "{said:?}");
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("copied"), 2, "{outcome}");
        Comparison::new(&scene.source, &scene.dest).assert_same();
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("copied"), 0, "{outcome}");
        // What neither side has is nobody's loss.
        for root in [&scene.source, &scene.dest] {
            fs::remove_file(root.join("d/keep")).unwrap();
        }
        assert_eq!(job.run().expect(0).number("copied"), 0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
    }
}

#[test]
fn what_was_mounted_in_the_last_pass_is_not_gone() {
    if !can_mount("what_was_mounted_in_the_last_pass_is_not_gone") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let mounted = Over::tmpfs(&scene.source.join("d/sub"));
        write(&scene.source.join("d/sub/deep/x"), "x");
        let job = scene.job(engine);
        job.run().expect(0);
        drop(mounted);
        write(&scene.dest.join("later"), "x");
        let deleting = job.clone().arg("-delete");
        let said = rehearse(&deleting, 25);
        assert!(said.contains_key("later") && !said.keys().any(|path| path.starts_with("d/sub/")), "{said:?}");
        // However often it is run, with and without --delete.
        for job in [&deleting, &deleting, &job, &deleting] {
            let outcome = job.run().expect_one_of(&[0, 25]);
            assert!(scene.dest.join("d/sub/deep/x").exists(), "{outcome}");
        }
        let outcome = deleting.run().expect(25);
        assert!(outcome.says("mounted there") && !scene.dest.join("later").exists(), "{outcome}");
        job.arg("-force-delete").run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
        deleting.run().expect(0);
    }
}

/// A file system on a loop device, detached with it when dropped.
struct Disk {
    device: Loop,
    point: PathBuf,
}

impl Disk {
    fn new(point: &Path) -> Disk {
        let device = Loop::new(16 << 20);
        must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(device.path()));
        let disk = Disk { device, point: point.to_owned() };
        disk.mount();
        disk
    }

    fn mount(&self) {
        fs::create_dir_all(&self.point).unwrap();
        must(Command::new("mount").arg(self.device.path()).arg(&self.point));
    }

    fn unmount(&self) {
        must(Command::new("umount").arg(&self.point));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-q", "-l"]).arg(&self.point).status();
    }
}

#[test]
fn what_was_mounted_is_not_gone_where_the_root_has_its_number_by_now() {
    if !can_mount("what_was_mounted_is_not_gone_where_the_root_has_its_number_by_now") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let mut root = Disk::new(&scene.source);
        let mut other = Disk::new(&scene.source.join("m"));
        write(&scene.source.join("keep"), "keep");
        write(&scene.source.join("m/deep/x"), "x");
        let job = scene.job(engine);
        job.run().expect(0);
        other.unmount();
        root.unmount();
        // The other disk is missing, and the root's has moved into its place.
        other.device.write(0, &root.device.content());
        std::mem::swap(&mut root.device, &mut other.device);
        root.mount();
        let deleting = job.clone().arg("-delete");
        for _ in 0..3 {
            let said = rehearse(&deleting, 25);
            assert!(!said.keys().any(|path| path.starts_with("m/")), "{said:?}");
            let outcome = deleting.run().expect(25);
            assert!(scene.dest.join("m/deep/x").exists(), "{outcome}");
            assert!(outcome.says("mounted there") && outcome.number("copied") == 0, "{outcome}");
        }
        deleting.arg("-force-delete").run().expect(0);
        assert!(!scene.dest.join("m/deep").exists());
    }
}

#[test]
fn what_was_bound_from_the_same_file_system_is_not_gone() {
    if !can_mount("what_was_bound_from_the_same_file_system_is_not_gone") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let elsewhere = scene.scratch.path().join("elsewhere");
        write(&elsewhere.join("deep/x"), "x");
        let bind = || {
            let bound = Over::new(&scene.source.join("d/sub"), &["--bind", elsewhere.to_str().unwrap()]);
            // Itself: it is the same directory without.
            let own = scene.source.join("d/e");
            (bound, Over::new(&own, &["--bind", own.to_str().unwrap()]))
        };
        let bound = bind();
        let job = scene.job(engine);
        job.run().expect(0);
        drop(bound);
        let deleting = job.clone().arg("-delete");
        write(&scene.dest.join("d/e/later"), "x");
        let said = rehearse(&deleting, 25);
        assert!(said.contains_key("d/e/later") && !said.keys().any(|path| path.starts_with("d/sub/")), "{said:?}");
        for job in [&deleting, &deleting, &job, &deleting] {
            let outcome = job.run().expect_one_of(&[0, 25]);
            assert!(scene.dest.join("d/sub/deep/x").exists(), "{outcome}");
        }
        let outcome = deleting.run().expect(25);
        assert!(outcome.says("d/sub: the file system that was mounted there"), "{outcome}");
        assert!(!scene.dest.join("d/e/later").exists(), "{outcome}");
        let bound = bind();
        fs::remove_dir_all(elsewhere.join("deep")).unwrap();
        deleting.run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
        drop(bound);
        deleting.run().expect(25);
        job.arg("-force-delete").run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
        deleting.run().expect(0);
    }
}

/// Also of a pass that was interrupted, and the dry run says so.
#[test]
fn what_is_missing_of_an_interrupted_pass_comes_back() {
    for engine in Engine::all() {
        let scene = Scene::new();
        let job = scene.job(engine).arg("-delete");
        interrupted(&scene, &job);
        fs::remove_file(scene.dest.join("keep")).unwrap();
        let said = rehearse(&job, 0);
        let says = |path: &str| said.get(path).map(String::as_str);
        assert_eq!((says("keep"), says("d/keep")), (Some("copy missing"), Some("skip done")), "{said:?}");
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("copied"), 2, "{outcome}");
        Comparison::new(&scene.source, &scene.dest).assert_same();
    }
}

/// What has another name since an interrupted run listed it is not removed under the old one before it is copied under
/// the new one.
#[test]
fn what_was_renamed_after_an_interruption_does_not_go() {
    for (engine, is_deleting) in Engine::all().into_iter().flat_map(|engine| [(engine, false), (engine, true)]) {
        let scene = Scene::new();
        let (plain, job) = (scene.job(engine), scene.job(engine).arg("-delete"));
        let first = if is_deleting { &job } else { &plain };
        interrupted(&scene, first);
        fs::rename(scene.source.join("d/keep"), scene.source.join("d/e/moved")).unwrap();
        let before = names(&scene.dest);
        let said = rehearse(&job, 25);
        let outcome = job.run().expect(25);
        let after = names(&scene.dest);
        assert!(outcome.says("d: it changed after an earlier run listed it"), "{outcome}");
        assert_eq!(fs::read(scene.dest.join("d/keep")).unwrap(), b"d/keep", "its only copy: {outcome}");
        // What did not change is cleared.
        let gone: BTreeSet<&str> = before.difference(&after).map(String::as_str).collect();
        assert_eq!(gone, ["extra", "gone", "gone/a", "gone/a/b", "gone/a/b/c", "gone/x"].into(), "{outcome}");
        let told = said.iter().filter(|(_, what)| what.starts_with("delete")).map(|(path, _)| path.as_str());
        assert_eq!(told.collect::<BTreeSet<_>>(), gone, "{said:?}");
        job.run().expect(0);
        Comparison::new(&scene.source, &scene.dest).assert_same();
    }
}

/// However many there are: they wait in the catalog.
#[test]
fn all_that_is_missing_comes_back_at_once() {
    const FILES: u64 = 66_000;
    if !can_mount("all_that_is_missing_comes_back_at_once") {
        return;
    }
    let mount = Mount::new(Kind::Tmpfs, 512);
    let (many, copy) = (mount.join("tree/many"), mount.join("copy/many"));
    fs::create_dir_all(&many).unwrap();
    (0..FILES).for_each(|number| drop(fs::File::create(many.join(number.to_string())).unwrap()));
    let job = Job::new(mount.join("tree"), mount.join("copy"), mount.join("state"), Engine::Auto).arg("-delete");
    job.run().expect(0);
    (0..FILES).for_each(|number| fs::remove_file(copy.join(number.to_string())).unwrap());
    let outcome = job.run().expect(0);
    assert_eq!((outcome.number("copied"), outcome.number("failed")), (FILES, 0), "{outcome}");
    assert_eq!(fs::read_dir(&copy).unwrap().count() as u64, FILES);
}

/// A directory of which one file cannot be read by the user who copies it, and one cannot keep its owner.
fn with_failures(scene: &Scene, engine: Engine) -> Job {
    for name in ["secret", "theirs"] {
        write(&scene.source.join("gone/below").join(name), name);
    }
    must(Command::new("chown").args(["-R", "12345:12345"]).arg(scene.scratch.path()));
    // The directory loses its owner, too.
    for name in ["gone", "gone/below/secret", "gone/below/theirs"] {
        must(Command::new("chown").arg("0:0").arg(scene.source.join(name)));
    }
    set_mode(&scene.source.join("gone/below/secret"), 0o600);
    let job = scene.job(engine).user(12_345);
    job.run().expect(23);
    job
}

#[test]
fn what_left_the_source_is_no_failure_of_a_retry() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("what_left_the_source_is_no_failure_of_a_retry", "not root");
        return;
    }
    for engine in Engine::all() {
        for is_replaced in [false, true] {
            let scene = Scene::new();
            let job = with_failures(&scene, engine);
            fs::remove_dir_all(scene.source.join("gone")).unwrap();
            if is_replaced {
                std::os::unix::fs::symlink("d", scene.source.join("gone")).unwrap();
            }
            let retry = job.clone().arg("-retry-failed");
            let outcome = retry.run().expect(24);
            assert_eq!((outcome.number("failed"), outcome.number("vanished")), (0, 2), "{outcome}");
            // Each by its name.
            for name in ["gone/below/secret", "gone/below/theirs"] {
                let line = format!("/{name}: it vanished");
                assert!(outcome.stderr.contains(&line), "{line}: {outcome}");
            }
            let outcome = retry.run();
            assert_eq!((outcome.number("failed"), outcome.number("copied")), (0, 0), "{outcome}");
        }
    }
}

#[test]
fn a_directory_that_neither_side_has_is_finished_with() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("a_directory_that_neither_side_has_is_finished_with", "not root");
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new();
        let job = with_failures(&scene, engine);
        [&scene.source, &scene.dest].iter().for_each(|root| fs::remove_dir_all(root.join("gone")).unwrap());
        let outcome = job.clone().arg("-retry-failed").run().expect(24);
        assert_eq!((outcome.number("failed"), outcome.number("vanished")), (0, 2), "{outcome}");
        job.run().expect(0);
        job.clone().arg("-retry-failed").run().expect(0);
        // As if it had never been there.
        write(&scene.source.join("gone/below/new"), "new");
        job.run().expect(0);
        assert!(scene.dest.join("gone/below/new").exists());
    }
}
