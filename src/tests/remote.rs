//! Slow mounts: where every operation takes milliseconds, the streams are threads and hide it.

mod support;

#[path = "remote/cache.rs"]
mod cache;
#[path = "remote/probe.rs"]
mod probe;
#[path = "remote/silent.rs"]
mod silent;
#[path = "remote/stale.rs"]
mod stale;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use support::fixture::{can_mount, has, skip, traced};
use support::slow::can_mount_fuse;
use support::{Comparison, Engine, Job, Outcome, Rng, Scratch, SlowMount, seed, tree};

/// What each operation takes.
const DELAY: Duration = Duration::from_millis(5);
/// Directories of the tree, and files in each.
const DIRS: u64 = 32;
const FILES: u64 = 16;

/// 512 files of up to 9,000 bytes in 32 directories.
fn grow(at: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    for dir in 0..DIRS {
        let dir = at.join(format!("dir-{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..FILES {
            let mut bytes = vec![0; 1 + rng.below(9000) as usize];
            rng.fill(&mut bytes);
            fs::write(dir.join(format!("file-{file}")), bytes).unwrap();
        }
    }
}

/// Copies into a folder of its own below `dest`.
fn copy(source: &Path, dest: &Path, state: &Path, streams: u64) -> Outcome {
    let name = format!("copy-{streams}");
    let job = Job::new(source, dest.join(&name), state.join(format!("state-{streams}")), Engine::Auto);
    let outcome = job.arg("--streams").arg(streams.to_string()).run().expect(0);
    assert_eq!((outcome.number("copied"), outcome.number("directories")), (DIRS * FILES, DIRS + 1), "{outcome}");
    assert_eq!(outcome.number("threads"), streams, "{outcome}");
    assert!(outcome.number("buffer_bytes") <= 128 << 20, "{outcome}");
    assert!(outcome.says("\"engine\":\"sync\"") && outcome.says("is a network or FUSE mount"), "{outcome}");
    outcome
}

#[track_caller]
fn assert_hidden(alone: &Outcome, together: &Outcome) {
    println!("1 stream {:?}, 32 streams {:?}", alone.elapsed, together.elapsed);
    assert!(alone.elapsed > DELAY * (DIRS * FILES * 4) as u32, "too fast to be slow: {alone}");
    assert!(together.elapsed * 10 <= alone.elapsed, "{:?} against {:?}", together.elapsed, alone.elapsed);
}

#[test]
fn streams_hide_a_slow_source() {
    let test = "streams_hide_a_slow_source";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, dest) = (SlowMount::new(DELAY), Scratch::new());
    grow(slow.folder(), seed(test, 71));
    let [alone, together] = [1, 32].map(|streams| {
        let outcome = copy(slow.path(), dest.path(), dest.path(), streams);
        Comparison::new(slow.folder(), &dest.path().join(format!("copy-{streams}"))).assert_same();
        outcome
    });
    assert_hidden(&alone, &together);
}

#[test]
fn streams_hide_a_slow_destination() {
    let test = "streams_hide_a_slow_destination";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::new(DELAY), Scratch::new());
    let source = other.path().join("tree");
    fs::create_dir(&source).unwrap();
    grow(&source, seed(test, 72));
    let [alone, together] = [1, 32].map(|streams| {
        let outcome = copy(&source, slow.path(), other.path(), streams);
        Comparison::new(&source, &slow.folder().join(format!("copy-{streams}"))).assert_same();
        outcome
    });
    assert_hidden(&alone, &together);
}

/// Mounts `slow` in a folder below a local tree; its own thread for every stream hides it there, too.
#[test]
fn streams_hide_a_slow_mount_below_a_local_root() {
    let test = "streams_hide_a_slow_mount_below_a_local_root";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::new(DELAY), Scratch::new());
    let (tree, copy) = (other.path().join("tree"), other.path().join("copy"));
    for dir in [tree.join("local"), tree.join("far"), copy.join("far")] {
        fs::create_dir_all(dir).unwrap();
    }
    grow(&tree.join("local"), seed(test, 75));
    grow(slow.folder(), seed(test, 76));
    let job = |streams: &str, more: &[&str]| {
        let state = other.path().join(format!("state-{streams}-{}", more.len()));
        let job = Job::new(&tree, other.path().join(format!("copy-{streams}-{}", more.len())), state, Engine::Auto);
        job.args(&["--streams", streams]).args(more).run().expect(0)
    };
    let bound = BindMount::new(slow.path(), &tree.join("far"));
    let [alone, together] = ["1", "32"].map(|streams| job(streams, &[]));
    assert_hidden(&alone, &together);
    assert!(together.says("tree/far is a network or FUSE mount"), "{together}");
    assert_eq!((together.number("copied"), together.number("threads")), (2 * DIRS * FILES, 32), "{together}");
    let staying = job("32", &["--one-file-system"]);
    assert!(!staying.says("is a network or FUSE mount"), "what is not walked into counts for nothing: {staying}");
    drop(bound);
    let _bound = BindMount::new(slow.path(), &copy.join("far"));
    let onto = |state: &str| Job::new(&tree, &copy, other.path().join(state), Engine::Auto);
    let outward = onto("state-onto").run().expect(0);
    assert!(outward.says("copy/far is a network or FUSE mount"), "{outward}");
    fs::remove_dir(tree.join("far")).unwrap();
    let elsewhere = onto("state-elsewhere").run().expect(0);
    assert!(!elsewhere.says("is a network or FUSE mount"), "the source has no such folder: {elsewhere}");
}

/// A bind mount, ended when dropped.
struct BindMount(std::path::PathBuf);

impl BindMount {
    fn new(from: &Path, to: &Path) -> BindMount {
        support::fixture::must(std::process::Command::new("mount").arg("--bind").arg(from).arg(to));
        BindMount(to.to_owned())
    }
}

impl Drop for BindMount {
    fn drop(&mut self) {
        let ended = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        if !matches!(ended, Ok(status) if status.success()) {
            eprintln!("left mounted: {}", self.0.display());
        }
    }
}

/// A file of many blocks, one directory that all threads share, symlinks and hard links: all of it arrives through any
/// engine and any number of threads, and the next pass finds nothing to do.
#[test]
fn everything_arrives_through_a_user_space_daemon() {
    let test = "everything_arrives_through_a_user_space_daemon";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::new(Duration::from_micros(200)), Scratch::new());
    let source = slow.folder().join("tree");
    fs::create_dir_all(source.join("wide")).unwrap();
    let at = tree::open_dir(&source);
    let mut rng = Rng::new(seed(test, 73));
    tree::regular(&mut rng, &at, c"large", (20 << 20) + 77);
    tree::regular(&mut rng, &at, c"middle", 200 << 10);
    for file in 0..300 {
        fs::write(source.join(format!("wide/file-{file}")), vec![file as u8; file]).unwrap();
    }
    symlink("wide/file-1", source.join("link")).unwrap();
    fs::hard_link(source.join("wide/file-2"), source.join("second-name")).unwrap();
    let rings = Engine::all().contains(&Engine::Uring).then_some((Engine::Uring, "40"));
    let threads = [(Engine::Sync, "1"), (Engine::Auto, "40"), (Engine::Auto, "1024")];
    for (engine, streams) in rings.into_iter().chain(threads) {
        let name = format!("{engine:?}-{streams}");
        let inward = Job::new(slow.path().join("tree"), other.path().join(&name), other.path().join("state"), engine);
        let outward = Job::new(&source, slow.path().join(&name), other.path().join("state"), engine);
        let seen = [other.path().join(&name), slow.folder().join(&name)];
        for (job, seen) in [inward, outward].into_iter().zip(seen) {
            let job = job.arg("--streams").arg(streams);
            let outcome = job.run().expect(0);
            assert!(outcome.number("buffer_bytes") <= 128 << 20, "{outcome}");
            Comparison::new(&source, &seen).assert_same();
            let again = job.run().expect(0);
            assert_eq!((again.number("copied"), again.number("hard_links")), (0, 0), "{again}");
        }
    }
}

/// LMDB corrupts on file systems that other machines, or a daemon, change beneath it.
#[test]
fn a_state_directory_on_a_slow_mount_is_refused() {
    let test = "a_state_directory_on_a_slow_mount_is_refused";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::new(Duration::ZERO), Scratch::new());
    let (source, dest) = (other.path().join("source"), other.path().join("dest"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    for engine in Engine::all() {
        let outcome = Job::new(&source, &dest, slow.path().join("state"), engine).run().expect(2);
        assert!(outcome.says("network or FUSE file system") && outcome.says("use a local --state-dir"), "{outcome}");
        assert!(!dest.exists(), "the destination was made");
        assert_eq!(fs::read_dir(slow.folder()).unwrap().count(), 0, "the slow mount was touched");
    }
}

/// A file that a symlink leads to, outside of the tree, is none of the job's (I8).
#[test]
fn what_symlinks_lead_to_stays_as_it_is_where_they_are_followed() {
    if !can_mount_fuse("what_symlinks_lead_to_stays_as_it_is_where_they_are_followed") {
        return;
    }
    let (slow, other) = (SlowMount::following(), Scratch::new());
    let (tree, precious) = (other.path().join("tree"), other.path().join("precious"));
    fs::create_dir_all(tree.join("dir")).unwrap();
    fs::write(&precious, "x").unwrap();
    let before = fs::metadata(&precious).unwrap();
    for (name, target) in [("out", &*precious), ("dir/out", &*precious), ("dangling", Path::new("nowhere"))] {
        symlink(target, tree.join(name)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(tree.join(name), Some(1234), Some(1234)).unwrap();
        }
        let time = rustix::fs::Timespec { tv_sec: 1_500_000_000, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let (at, itself) = (rustix::fs::CWD, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        rustix::fs::utimensat(at, tree.join(name), &times, itself).unwrap();
    }
    let copy = slow.path().join("copy");
    let job = Job::new(&tree, &copy, other.path().join("state"), Engine::Auto);
    let outcome = job.run().expect(0);
    assert_eq!(outcome.number("symlinks"), 3, "{outcome}");
    assert!(outcome.says("\"times\":3"), "{outcome}");
    let after = fs::metadata(&precious).unwrap();
    assert_eq!(
        (after.modified().unwrap(), after.uid(), after.ctime_nsec()),
        (before.modified().unwrap(), before.uid(), before.ctime_nsec())
    );
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!((names(&copy), names(&copy.join("dir"))), (names(&tree), names(&tree.join("dir"))), "a probe is left");
    assert_eq!(fs::read_link(copy.join("dir/out")).unwrap(), precious);
    let again = job.run().expect(0);
    assert_eq!((again.number("symlinks"), again.number("unchanged")), (0, 5), "{again}");
}

/// What a resume counts on was synced, file by file: syncfs says nothing of what a user-space daemon holds back (I1).
#[test]
fn ranges_of_a_large_file_are_synced_before_a_resume_counts_on_them() {
    let test = "ranges_of_a_large_file_are_synced_before_a_resume_counts_on_them";
    if !can_mount_fuse(test) || !(has("strace") || skip(test, "no strace")) {
        return;
    }
    const WHOLE: u64 = 24 << 20;
    let (slow, other) = (SlowMount::new(Duration::ZERO), Scratch::new());
    let tree = other.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut bytes = vec![0; WHOLE as usize];
    Rng::new(seed(test, 91)).fill(&mut bytes);
    fs::write(tree.join("large"), &bytes).unwrap();
    let log = other.path().join("log");
    let wrapper = traced(&other, &format!("-D -y -e trace=fsync -o {}", log.display()));
    let copy = slow.path().join("copy");
    let job = Job::new(&tree, &copy, other.path().join("state"), Engine::Auto);
    let job = job.args(&["--checkpoint-interval", "0.1", "--streams", "1"]);
    let running = job.clone().args(&["--bwlimit", "8M"]).within(&wrapper).start();
    let syncs = || fs::read_to_string(&log).unwrap_or_default().matches("copy/large>) = 0").count();
    // What the first one made durable is recorded before the second one begins. Ends: with the job at the latest.
    while syncs() < 2 {
        assert!(running.run_for(Duration::from_millis(50)), "it was too fast");
    }
    running.kill();
    let resumed = job.run().expect(0);
    assert!(resumed.number("bytes") < WHOLE, "nothing was resumed: {resumed}");
    assert_eq!(fs::read(slow.folder().join("copy/large")).unwrap(), bytes);
    let log = fs::read_to_string(log).unwrap();
    assert!(log.lines().any(|line| line.contains("copy/large>) = 0")), "never synced:\n{log}");
}

/// A mount that stops answering is told, in the log and by the control socket, and nothing counts as done meanwhile.
#[test]
fn a_mount_that_stops_answering_is_told() {
    let test = "a_mount_that_stops_answering_is_told";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::new(Duration::from_millis(2)), Scratch::new());
    let (source, state) = (other.path().join("tree"), other.path().join("state"));
    fs::create_dir(&source).unwrap();
    grow(&source, seed(test, 74));
    let copy = slow.path().join("copy");
    let job = Job::new(&source, &copy, &state, Engine::Auto).args(&["--streams", "2", "--checkpoint-interval", "0.2"]);
    let running = job.env("GFAST_STALL_TIME", "1.5").start();
    let made = || fs::read_dir(slow.folder().join("copy")).map_or(0, Iterator::count);
    assert!(running.run_until(|_| made() > 3), "it was too fast");
    slow.halt(true);
    let told = format!("gfast: no progress on {} for ", copy.display());
    assert!(running.run_until(|_| running.said().contains(&told)), "it ended");
    let status = || {
        let mut ctl = std::process::Command::new(env!("CARGO_BIN_EXE_gfast"));
        let text = support::fixture::must(ctl.args(["ctl", "-json", "status", "-state-dir"]).arg(&state));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let before = status();
    assert_eq!(before["stalled"][0]["path"].as_str(), copy.to_str(), "{before}");
    assert!(before["stalled"][0]["silent_s"].as_f64().unwrap() >= 1.5, "{before}");
    assert!(running.run_for(Duration::from_millis(500)), "it ended");
    let after = status();
    for count in ["entries_done", "files_copied", "bytes_copied", "bytes_durable"] {
        assert_eq!(before["totals"][count], after["totals"][count], "{count}");
    }
    assert_eq!(after["stalled"].as_array().map(Vec::len), Some(1), "the source has not stopped: {after}");
    slow.halt(false);
    let outcome = running.wait().expect(0);
    assert!(outcome.says("answers again, after ") && outcome.number("copied") == DIRS * FILES, "{outcome}");
    Comparison::new(&source, &slow.folder().join("copy")).assert_same();
}

/// An error that a sync tells counts against the file, is told once by the kernel, and does not end the job.
#[test]
fn a_large_file_that_cannot_be_synced_fails_alone() {
    let test = "a_large_file_that_cannot_be_synced_fails_alone";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::losing_a_sync(), Scratch::new());
    let source = other.path().join("tree");
    fs::create_dir(&source).unwrap();
    let mut bytes = vec![0; 16 << 20];
    Rng::new(seed(test, 92)).fill(&mut bytes);
    fs::write(source.join("large"), &bytes).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let job = Job::new(&source, slow.path().join("copy"), other.path().join("state"), Engine::Auto);
    let slowed = job.clone().args(&["--checkpoint-interval", "0.1", "--bwlimit", "8M"]);
    let outcome = slowed.run().expect(23);
    assert_eq!((outcome.number("failed"), outcome.number("copied")), (1, 1), "{outcome}");
    assert!(outcome.says("cannot sync ") && outcome.says("copy/large: Input/output error"), "{outcome}");
    assert!(!slow.folder().join("copy/large").exists(), "a file that is not durable stays");
    let again = job.run().expect(0);
    assert_eq!(again.number("bytes"), bytes.len() as u64, "{again}");
    Comparison::new(&source, &slow.folder().join("copy")).assert_same();
}
