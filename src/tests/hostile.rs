//! Trees, names, moments and destinations that break copiers: nothing is lost, torn, or written where it must not be.

mod support;

#[path = "hostile/full.rs"]
mod full;
#[path = "hostile/handed.rs"]
mod handed;
#[path = "hostile/leased.rs"]
mod leased;
#[path = "hostile/links.rs"]
mod links;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use support::compare::What;
use support::fixture::{can_mount, has, must, set_mode, skip};
use support::{Comparison, Engine, Job, Kind, Mount, Rng, seed, tree};

/// An unprivileged user.
const NOBODY: u32 = 65_534;

/// A source and a destination file system, when they can be mounted.
fn pair(test: &str, mib: u64) -> Option<(Mount, Mount)> {
    can_mount(test).then(|| (Mount::new(Kind::Ext4, mib), Mount::new(Kind::Xfs, mib)))
}

#[test]
fn ten_thousand_levels_arrive() {
    let Some((source, dest)) = pair("ten_thousand_levels_arrive", 512) else { return };
    let tree = source.dir("tree");
    tree::chain(&tree, 10_000, 9);
    for engine in Engine::all() {
        let name = format!("{engine:?}");
        let job = Job::new(&tree, dest.join(&name), dest.join(format!("{name}-state")), engine);
        job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
        let again = job.run().expect(0);
        assert_eq!(again.number("copied"), 0, "{again}");
    }
}

/// 40 levels of 255-byte names: each component is the longest there is, the path far beyond PATH_MAX.
#[test]
fn the_longest_names_arrive_in_depth() {
    let Some((source, dest)) = pair("the_longest_names_arrive_in_depth", 320) else { return };
    let tree = source.dir("tree");
    tree::chain(&tree, 40, 255);
    for engine in Engine::all() {
        let name = format!("{engine:?}");
        Job::new(&tree, dest.join(&name), dest.join(format!("{name}-state")), engine).run().expect(0);
        Comparison::new(&tree, &dest.join(&name)).assert_same();
    }
}

/// Every byte but `/` and NUL, alone and together, in files and directories; the summary stays printable text.
#[test]
fn names_of_any_bytes_arrive_and_are_printed_escaped() {
    let test = "names_of_any_bytes_arrive_and_are_printed_escaped";
    let Some((source, dest)) = pair(test, 320) else { return };
    let tree = source.dir("tree");
    let at = tree::open_dir(&tree);
    let mut rng = Rng::new(seed(test, 21));
    let mut serial = 0;
    for byte in (1..=255u8).filter(|&byte| byte != b'/' && byte != b'.') {
        let name = std::ffi::CString::new([byte]).unwrap();
        tree::regular(&mut rng, &at, &name, 3);
    }
    for _ in 0..1000 {
        let name = tree::name(&mut rng, &mut serial);
        tree::regular(&mut rng, &at, &name, 3);
    }
    for engine in Engine::all() {
        let name = format!("{engine:?}");
        let outcome = Job::new(&tree, dest.join(&name), dest.join(format!("{name}-state")), engine).run().expect(0);
        Comparison::new(&tree, &dest.join(&name)).assert_same();
        assert!(!outcome.stderr.contains('\x1b') && !outcome.stdout.contains('\x1b'), "{outcome}");
    }
}

#[test]
fn a_directory_of_a_hundred_thousand_files_arrives() {
    let Some((source, dest)) = pair("a_directory_of_a_hundred_thousand_files_arrives", 2048) else { return };
    let tree = source.dir("tree");
    tree::wide(&tree, 100_000);
    for engine in Engine::all() {
        let name = format!("{engine:?}");
        Job::new(&tree, dest.join(&name), dest.join(format!("{name}-state")), engine).run().expect(0);
        Comparison::new(&tree, &dest.join(&name)).assert_same();
    }
}

/// Without privilege: what can be read is copied, what cannot is named, counted and tried again by the next run; what
/// belonged to another user does not keep its set-id bits.
#[test]
fn an_ordinary_user_gets_what_may_be_read() {
    let test = "an_ordinary_user_gets_what_may_be_read";
    if !has("setpriv") {
        skip(test, "no setpriv");
        return;
    }
    let Some((source, dest)) = pair(test, 320) else { return };
    let tree = source.dir("tree");
    for name in ["open-dir", "closed-dir"] {
        fs::create_dir(tree.join(name)).unwrap();
        fs::write(tree.join(name).join("file"), name).unwrap();
    }
    for (name, mode) in [("readable", 0o644), ("secret", 0o600), ("set-id", 0o6755)] {
        fs::write(tree.join(name), name).unwrap();
        set_mode(&tree.join(name), mode);
    }
    for engine in Engine::all() {
        set_mode(&tree.join("closed-dir"), 0o700);
        set_mode(&tree.join("secret"), 0o600);
        let base = dest.dir(format!("{engine:?}"));
        chown(&base, Some(NOBODY), Some(NOBODY)).unwrap();
        let job = Job::new(&tree, base.join("copy"), base.join("state"), engine).user(NOBODY);
        for _ in 0..2 {
            let outcome = job.run().expect(23);
            assert!(outcome.stderr.contains("secret") && outcome.stderr.contains("closed-dir"), "{outcome}");
            assert!(outcome.stderr.contains("Permission denied"), "{outcome}");
            let found = Comparison::new(&tree, job.dest()).without_owner().run();
            let missing: BTreeSet<_> =
                found.iter().filter(|found| found.what == What::Missing).map(|d| d.path.clone()).collect();
            assert_eq!(missing, BTreeSet::from([b"secret".to_vec(), b"closed-dir/file".to_vec()]), "{outcome}");
        }
        let copied = fs::metadata(job.dest().join("set-id")).unwrap();
        assert_eq!((copied.uid(), copied.mode() & 0o7777), (NOBODY, 0o755), "set-id bits went to another owner's file");
        set_mode(&tree.join("closed-dir"), 0o755);
        set_mode(&tree.join("secret"), 0o644);
        job.run().expect(0);
        let found = Comparison::new(&tree, job.dest()).without_owner().run();
        assert!(found.iter().all(|found| found.what == What::Mode && found.path == b"set-id"), "{found:?}");
    }
}

/// A tree of an ordinary user's that has directories it may not write to itself: the root, one with a directory that it
/// may write to below, one that nothing ever happens in.
fn shut_tree(tree: &Path) {
    for dir in ["shut/deep/open", "quiet"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
        (0..20).for_each(|number| fs::write(tree.join(dir).join(format!("{number}")), [1; 4096]).unwrap());
    }
    must(Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(tree));
    ["shut/deep", "shut", "quiet", ""].iter().for_each(|dir| set_mode(&tree.join(dir), 0o555));
}

/// New content for the files of the directory that may be written to.
fn change_open(tree: &Path, content: u8) {
    let open = tree.join("shut/deep/open");
    (0..20).for_each(|number| fs::write(open.join(format!("{number}")), vec![content; 4096]).unwrap());
}

/// Whatever is done below them, and even if nothing is, directories that may not be written to have their mode after
/// every pass, a resume's too.
#[test]
fn directories_that_may_not_be_written_to_keep_their_mode() {
    let test = "directories_that_may_not_be_written_to_keep_their_mode";
    if !has("setpriv") {
        skip(test, "no setpriv");
        return;
    }
    let Some((source, dest)) = pair(test, 320) else { return };
    for (engine, extra) in Engine::all().into_iter().flat_map(|engine| [(engine, &[][..]), (engine, &["--delete"])]) {
        let name = format!("{engine:?}-{}", extra.len());
        let (tree, base) = (source.dir(&name), dest.dir(&name));
        shut_tree(&tree);
        chown(&base, Some(NOBODY), Some(NOBODY)).unwrap();
        let job = Job::new(&tree, base.join("copy"), base.join("state"), engine).args(extra).user(NOBODY);
        for pass in 0..4 {
            let outcome = job.run().expect(0);
            assert_eq!(outcome.number("failed"), 0, "{outcome}");
            Comparison::new(&tree, job.dest()).assert_same();
            if pass % 2 == 0 {
                change_open(&tree, 10 + pass);
            }
        }
        change_open(&tree, 99);
        let shut = job.dest().join("shut");
        let running = job.clone().args(&["--bwlimit", "4K"]).start();
        running.run_until(|_| fs::metadata(&shut).is_ok_and(|stat| stat.mode() & 0o200 != 0));
        running.run_for(std::time::Duration::from_millis(300));
        running.kill();
        job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

/// A file that failed is tried again by itself: its directory, which may not be written to, is opened for that alone.
#[test]
fn a_failed_file_of_a_read_only_directory_is_tried_again() {
    let test = "a_failed_file_of_a_read_only_directory_is_tried_again";
    if !has("setpriv") {
        skip(test, "no setpriv");
        return;
    }
    let Some((source, dest)) = pair(test, 320) else { return };
    for engine in Engine::all() {
        let (tree, base) = (source.dir(format!("{engine:?}")), dest.dir(format!("{engine:?}")));
        shut_tree(&tree);
        let secret = tree.join("shut/deep/secret");
        fs::write(&secret, "secret").unwrap();
        set_mode(&secret, 0o600);
        chown(&base, Some(NOBODY), Some(NOBODY)).unwrap();
        let job = Job::new(&tree, base.join("copy"), base.join("state"), engine).user(NOBODY);
        job.run().expect(23);
        chown(&secret, Some(NOBODY), Some(NOBODY)).unwrap();
        let outcome = job.clone().arg("--retry-failed").run().expect(0);
        assert_eq!(outcome.number("copied"), 1, "{outcome}");
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

/// Files that vanish, grow, shrink and are rewritten while they are copied. Whatever the first run makes of them, it
/// marks nothing done that is torn: a second run over the quiet source, which skips what is marked done, ends
/// identical.
#[test]
fn a_source_that_changes_while_it_is_read_is_never_torn() {
    let test = "a_source_that_changes_while_it_is_read_is_never_torn";
    let Some((source, dest)) = pair(test, 1024) else { return };
    let seed = seed(test, 22);
    for engine in Engine::all() {
        let tree = source.dir(format!("{engine:?}"));
        let at = tree::open_dir(&tree);
        let mut rng = Rng::new(seed);
        for index in 0..2000 {
            let name = std::ffi::CString::new(format!("file-{index}")).unwrap();
            tree::regular(&mut rng, &at, &name, if index % 100 == 0 { 8 << 20 } else { 4096 * (1 + index % 9) });
        }
        let job = Job::new(&tree, dest.join(format!("{engine:?}")), dest.join(format!("{engine:?}-state")), engine);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| println!("{} changes while it ran", change_files(&tree, seed, &stop)));
            let _stopped = StopOnDrop(&stop);
            job.run().expect_one_of(&[0, 24]);
        });
        job.run().expect(0);
        let found = Comparison::new(&tree, job.dest()).run();
        let wrong: Vec<_> = found.iter().filter(|found| found.what != What::Extra).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// Ends a thread that works until told to stop, also when the test fails: a scope waits for its threads.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Changes random files until told to stop; returns how many.
fn change_files(tree: &Path, seed: u64, stop: &AtomicBool) -> u32 {
    let mut rng = Rng::new(seed ^ 1);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = tree.join(format!("file-{}", rng.below(2000)));
        let Ok(file) = File::options().write(true).open(&path) else { continue };
        let len = file.metadata().unwrap().len();
        let changed = match rng.below(10) {
            0 if count % 40 == 0 => fs::remove_file(&path),
            1..=3 => file.set_len(len / 2),
            4..=6 => File::options().append(true).open(&path).and_then(|mut file| file.write_all(&[9; 5000])),
            _ => rustix::io::pwrite(&file, &rng.next().to_le_bytes(), rng.below(len + 1)).map(drop).map_err(Into::into),
        };
        changed.unwrap();
        count += 1;
    }
    count
}

/// Exit 11, nothing half-written under a source's name, and the same command ends the job once there is room.
#[test]
fn a_full_destination_stops_the_job_and_it_resumes() {
    let test = "a_full_destination_stops_the_job_and_it_resumes";
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, 23);
    let source = Mount::new(Kind::Ext4, 1024);
    let tree = source.dir("tree");
    tree::mixed(&tree, seed, 200);
    let at = tree::open_dir(&tree);
    for index in 0..6 {
        let name = std::ffi::CString::new(format!("large-{index}")).unwrap();
        tree::regular(&mut Rng::new(seed + index), &at, &name, 20 << 20);
    }
    for (kind, engine) in
        [Kind::Ext4, Kind::Xfs].into_iter().flat_map(|kind| Engine::all().into_iter().map(move |e| (kind, e)))
    {
        let (dest, state) = (Mount::new(kind, 512), Mount::new(Kind::Tmpfs, 256));
        fill_but(&dest, 60 << 20);
        let job = Job::new(&tree, dest.join("copy"), state.join("state"), engine);
        let outcome = job.run().expect(11);
        assert!(outcome.says("No space left"), "{outcome}");
        Comparison::new(&tree, job.dest()).present_only().assert_same();
        job.run().expect(11);
        Comparison::new(&tree, job.dest()).present_only().assert_same();
        fs::remove_file(dest.join("ballast")).unwrap();
        job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

/// A file that leaves only `room` bytes.
fn fill_but(mount: &Mount, room: u64) {
    let stat = rustix::fs::statvfs(mount.path()).unwrap();
    let ballast = File::create(mount.join("ballast")).unwrap();
    let len = stat.f_bavail * stat.f_frsize - room;
    rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
}

/// The catalog's own file system is full: exit 11, and the copy so far claims nothing that is not there.
#[test]
fn a_full_state_file_system_stops_the_job_and_it_resumes() {
    let test = "a_full_state_file_system_stops_the_job_and_it_resumes";
    let Some((source, dest)) = pair(test, 512) else { return };
    let tree = source.dir("tree");
    tree::wide(&tree, 20_000);
    for engine in Engine::all() {
        let state = Mount::new(Kind::Ext4, 32);
        fill_but(&state, 300 << 10);
        let job = Job::new(&tree, dest.join(format!("{engine:?}")), state.join("state"), engine);
        job.run().expect(11);
        if job.dest().exists() {
            Comparison::new(&tree, job.dest()).sealed_only().assert_same();
        }
        fs::remove_file(state.join("ballast")).unwrap();
        job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

/// A state directory inside the source or the destination is neither copied nor harmed.
#[test]
fn a_state_directory_inside_the_trees_is_skipped() {
    let test = "a_state_directory_inside_the_trees_is_skipped";
    let Some((source, dest)) = pair(test, 512) else { return };
    let seed = seed(test, 24);
    for engine in Engine::all() {
        let tree = source.dir(format!("{engine:?}"));
        tree::mixed(&tree, seed, 100);
        set_mode(&tree, 0o755);
        let inside_source = Job::new(&tree, dest.join(format!("{engine:?}-1")), tree.join("the-state"), engine);
        let copy = dest.dir(format!("{engine:?}-2"));
        let inside_dest = Job::new(&tree, &copy, copy.join("the-state-too"), engine);
        for job in [inside_source, inside_dest] {
            for _ in 0..2 {
                job.run().expect(0);
                assert!(!job.dest().join("the-state").exists(), "the state directory was copied");
                let comparison = Comparison::new(&tree, job.dest()).skipping(b"the-state").skipping(b"the-state-too");
                let found = comparison.run();
                let root_times = |d: &&support::compare::Difference| !(d.path.is_empty() && d.what == What::Mtime);
                let wrong: Vec<_> = found.iter().filter(root_times).collect();
                assert!(wrong.is_empty(), "{wrong:?}");
            }
            let _ = fs::remove_dir_all(tree.join("the-state"));
        }
    }
}

#[test]
fn a_read_only_destination_is_refused_in_words() {
    let Some((source, dest)) = pair("a_read_only_destination_is_refused_in_words", 320) else { return };
    let tree = source.dir("tree");
    tree::mixed(&tree, 25, 50);
    let state = Mount::new(Kind::Tmpfs, 64);
    let copy = dest.dir("copy");
    dest.freeze_read_only();
    for engine in Engine::all() {
        let outcome = Job::new(&tree, &copy, state.join(format!("{engine:?}")), engine).run().expect_one_of(&[2, 11]);
        assert!(outcome.says("read-only"), "{outcome}");
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 0);
    }
}

/// Symlinks planted in the destination, where the source has files and directories: what they point at stays as it is.
#[test]
fn symlinks_planted_in_the_destination_are_not_followed() {
    let test = "symlinks_planted_in_the_destination_are_not_followed";
    let Some((source, dest)) = pair(test, 320) else { return };
    let tree = source.dir("tree");
    for name in ["dir", "dir/below", "empty-dir"] {
        fs::create_dir(tree.join(name)).unwrap();
    }
    for name in ["file", "dir/file", "dir/below/file", "hard-1"] {
        fs::write(tree.join(name), name).unwrap();
    }
    fs::hard_link(tree.join("hard-1"), tree.join("hard-2")).unwrap();
    for engine in Engine::all() {
        let base = dest.dir(format!("{engine:?}"));
        let outside = base.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "not yours").unwrap();
        let untouched = fingerprint(&outside);
        let copy = base.join("copy");
        fs::create_dir_all(copy.join("dir")).unwrap();
        symlink(outside.join("file"), copy.join("file")).unwrap();
        symlink(outside.join("new"), copy.join("hard-1")).unwrap();
        symlink(&outside, copy.join("empty-dir")).unwrap();
        symlink(&outside, copy.join("dir/below")).unwrap();
        let outcome = Job::new(&tree, &copy, base.join("state"), engine).run().expect_one_of(&[0, 23]);
        assert_eq!(fingerprint(&outside), untouched, "something outside the destination was touched: {outcome}");
        assert!(fs::symlink_metadata(copy.join("file")).unwrap().is_file(), "{outcome}");
        if outcome.code() == Some(0) {
            Comparison::new(&tree, &copy).assert_same();
        }
    }
}

/// A directory of the destination that is exchanged with a symlink again and again while the job writes below it.
#[test]
fn a_directory_swapped_with_a_symlink_leads_nowhere() {
    let test = "a_directory_swapped_with_a_symlink_leads_nowhere";
    let Some((source, dest)) = pair(test, 512) else { return };
    let tree = source.dir("tree");
    for dir in 0..30 {
        let dir = tree.join(format!("dir-{dir}"));
        fs::create_dir_all(dir.join("below")).unwrap();
        tree::wide(&dir.join("below"), 100);
    }
    for engine in Engine::all() {
        let base = dest.dir(format!("{engine:?}"));
        let outside = base.join("outside");
        fs::create_dir_all(outside.join("below")).unwrap();
        let untouched = fingerprint(&outside.join("below"));
        let job = Job::new(&tree, base.join("copy"), base.join("state"), engine);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| println!("{} swaps while it ran", swap(&base, &outside, &stop)));
            let _stopped = StopOnDrop(&stop);
            for _ in 0..5 {
                job.run().expect_one_of(&[0, 23, 24]);
                let _ = fs::remove_dir_all(base.join("state"));
            }
        });
        assert_eq!(fingerprint(&outside.join("below")), untouched, "a file was written through a swapped directory");
    }
}

/// Exchanges every `dir-N` of the copy with a symlink to `outside`, until told to stop; returns how often.
fn swap(base: &Path, outside: &Path, stop: &AtomicBool) -> u32 {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let planted = base.join("planted");
    symlink(outside, &planted).unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        for dir in 0..30 {
            let dir = base.join("copy").join(format!("dir-{dir}"));
            // There and back: most of the time the directory is where it belongs.
            for _ in 0..2 {
                count += u32::from(renameat_with(CWD, &planted, CWD, &dir, RenameFlags::EXCHANGE).is_ok());
            }
        }
    }
    count
}

/// Everything a write below `dir` would change: names, sizes, inodes, times.
fn fingerprint(dir: &Path) -> Vec<(PathBuf, u64, u64, i64, i64, u32)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((path, stat.ino(), stat.size(), stat.ctime(), stat.ctime_nsec(), stat.mode()));
    }
    found.sort();
    found
}

/// A default ACL of the destination would hand its entries to everything created below it (I9).
#[test]
fn a_default_acl_of_the_destination_is_not_inherited() {
    let test = "a_default_acl_of_the_destination_is_not_inherited";
    if !has("setfacl") {
        skip(test, "no setfacl");
        return;
    }
    let Some((source, dest)) = pair(test, 512) else { return };
    let tree = source.dir("tree");
    tree::mixed(&tree, seed(test, 26), 100);
    for engine in Engine::all() {
        let copy = dest.dir(format!("{engine:?}"));
        must(Command::new("setfacl").args(["-d", "-m", "u:1234:rwx,g:1234:rwx"]).arg(&copy));
        Job::new(&tree, &copy, dest.join(format!("{engine:?}-state")), engine).run().expect(0);
        Comparison::new(&tree, &copy).assert_same();
        for name in
            fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap()).filter(|e| !e.file_type().unwrap().is_symlink())
        {
            let acl = must(Command::new("getfacl").args(["-p", "-c", "--"]).arg(name.path()));
            assert!(!acl.contains("1234"), "{}: {acl}", name.path().display());
        }
    }
}

/// Nothing is readable by others in the copy, not even for a moment, that is not in the source (I9): an observer
/// without privilege tries to open the copies of private files while they are written.
#[test]
fn a_private_file_is_private_while_it_is_copied() {
    let test = "a_private_file_is_private_while_it_is_copied";
    let Some((source, dest)) = pair(test, 512) else { return };
    let tree = source.dir("tree");
    tree::wide(&tree, 2000);
    for entry in fs::read_dir(&tree).unwrap() {
        set_mode(&entry.unwrap().path(), 0o600);
    }
    set_mode(&tree, 0o755);
    for engine in Engine::all() {
        let copy = dest.dir(format!("{engine:?}"));
        let job = Job::new(&tree, &copy, dest.join(format!("{engine:?}-state")), engine);
        let running = job.start();
        let mut looked = 0;
        while running.run_for(std::time::Duration::from_millis(1)) {
            for entry in fs::read_dir(&copy).unwrap().filter_map(Result::ok) {
                let Ok(stat) = entry.metadata() else { continue };
                assert_eq!(stat.mode() & 0o077, 0, "{:?} is open to others", entry.file_name());
                looked += 1;
            }
        }
        println!("looked at {looked} files");
        running.wait().expect(0);
        Comparison::new(&tree, &copy).assert_same();
    }
}

/// A job is held by one process: a second one is refused and changes nothing.
#[test]
fn a_second_process_on_the_same_job_is_refused() {
    let test = "a_second_process_on_the_same_job_is_refused";
    let Some((source, dest)) = pair(test, 1024) else { return };
    let tree = source.dir("tree");
    tree::wide(&tree, 30_000);
    for engine in Engine::all() {
        let job = Job::new(&tree, dest.join(format!("{engine:?}")), dest.join(format!("{engine:?}-state")), engine);
        let first = job.start();
        assert!(first.run_until(|io| io.write_bytes > 1 << 20), "the first job ended before it had written a MiB");
        job.run().expect(2);
        first.wait().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
    }
}
