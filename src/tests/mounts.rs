//! Real network file systems: what arrives, what is lost, and that every loss is told and nothing else.
//!
//! What is lost is found by looking at both sides, object by object, with no help of the code under test; the report
//! has to say the same. sshfs and smbnetfs are mounted by `scripts/fixtures`.

mod support;

#[path = "mounts/local.rs"]
mod local;
#[path = "mounts/windows.rs"]
mod windows;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use support::fixture::{must, set_mode};
use support::{Engine, Job, Network, NetworkMount, Outcome, Rng, Scratch, seed, tree};

/// Losses by path below the root, as keys of the report.
type Losses = BTreeMap<PathBuf, BTreeSet<String>>;

/// Which of two names is copied and which is the link is chance: the link is told of the first here.
fn settled(mut losses: Losses) -> Losses {
    if losses.get_mut(Path::new("dir/second")).is_some_and(|kinds| kinds.remove("hard_link")) {
        losses.entry(PathBuf::from("first")).or_default().insert("hard_link".to_owned());
    }
    losses
}

/// What the report of a job lists.
fn reported(state: &Path) -> Losses {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let text = must(command.args(["report", "-losses", "-format", "ndjson", "-state-dir"]).arg(state));
    let mut losses = Losses::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let Some(path) = line["path"].as_str() else { continue };
        let path = gfast::error::unescape(path).unwrap();
        let kinds = line["losses"].as_array().unwrap().iter().map(|kind| kind.as_str().unwrap().to_owned());
        losses.insert(PathBuf::from(std::ffi::OsStr::from_bytes(&path)), kinds.collect());
    }
    settled(losses)
}

/// Paths of everything below a root, the root itself as `.`.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from(".")];
    let mut next = 0;
    // Ends: each directory is looked into once.
    while next < found.len() {
        let at = root.join(&found[next]);
        if fs::symlink_metadata(&at).unwrap().is_dir() {
            let below = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name());
            let parent = if next == 0 { PathBuf::new() } else { found[next].clone() };
            found.extend(below.map(|name| parent.join(name)));
        }
        next += 1;
    }
    found
}

/// What the copy of each object has not kept, seen through the mount; `served` shows which names are one file.
fn lost(source: &Path, copy: &Path, served: &Path) -> Losses {
    let mut losses = Losses::new();
    let mut firsts = BTreeMap::new();
    for path in paths(source) {
        let from = fs::symlink_metadata(source.join(&path)).unwrap();
        let mut lose = |kind: &str| {
            losses.entry(path.clone()).or_default().insert(kind.to_owned());
        };
        let Ok(to) = fs::symlink_metadata(copy.join(&path)) else {
            lose(match () {
                () if from.is_symlink() => "symlink",
                () if FileType::from_raw_mode(from.mode()).is_fifo() => "fifo_or_socket",
                () if FileType::from_raw_mode(from.mode()).is_socket() => "fifo_or_socket",
                () if !from.is_file() && !from.is_dir() => "device_node",
                () => "names",
            });
            continue;
        };
        assert_eq!(from.file_type(), to.file_type(), "{}", path.display());
        if (from.uid(), from.gid()) != (to.uid(), to.gid()) {
            lose("owner");
        }
        let differing = if from.is_symlink() { 0 } else { from.mode() ^ to.mode() };
        if differing & 0o1777 != 0 {
            lose("mode");
        }
        if differing & 0o6000 != 0 {
            lose("set_ids");
        }
        if from.mtime() != to.mtime() {
            lose("times");
        } else if from.mtime_nsec() != to.mtime_nsec() {
            lose("time_precision");
        }
        if from.nlink() > 1 && !from.is_dir() {
            let there = fs::symlink_metadata(served.join(&path)).unwrap().ino();
            let first = *firsts.entry(from.ino()).or_insert(there);
            if first != there {
                lose("hard_link");
            }
        }
        if from.is_file() {
            let same = fs::read(source.join(&path)).unwrap() == fs::read(copy.join(&path)).unwrap();
            assert!(same, "{} differs", path.display());
        }
        if from.is_symlink() {
            assert_eq!(fs::read_link(source.join(&path)).unwrap(), fs::read_link(copy.join(&path)).unwrap());
        }
    }
    settled(losses)
}

fn set_times(path: &Path, nanos: i64) {
    let time = Timespec { tv_sec: 1_500_000_000, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Files of every size that matters, with names, owners, modes and times that a mount may not keep.
fn grow(root: &Path, seed: u64, names: &[&[u8]]) {
    let mut rng = Rng::new(seed);
    fs::create_dir_all(root.join("dir/below")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    let at = tree::open_dir(&root.join("dir"));
    for size in tree::SIZES {
        tree::regular(&mut rng, &at, &CString::new(format!("size-{size}")).unwrap(), size);
    }
    tree::regular(&mut rng, &at, c"large", (9 << 20) + 77);
    for name in names {
        fs::write(root.join("dir/below").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(root.join("whole-second"), "kept to the second").unwrap();
    fs::write(root.join("first"), "of two names").unwrap();
    fs::hard_link(root.join("first"), root.join("dir/second")).unwrap();
    set_mode(&root.join("first"), 0o640);
    for (target, name) in [("whole-second", "link"), ("no/such", "dir/dangling")] {
        symlink(target, root.join(name)).unwrap();
    }
    mknodat(tree::open_dir(root), "fifo", FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    if rustix::process::geteuid().is_root() {
        let owned = [root.join("first"), root.join("empty"), root.join("link")];
        owned.iter().for_each(|path| std::os::unix::fs::lchown(path, Some(12), Some(34)).unwrap());
    }
    set_times(&root.join("whole-second"), 0);
    set_times(&root.join("link"), 5);
    set_times(&root.join("dir/dangling"), 6);
    set_mode(&root.join("empty"), 0o750);
    for dir in ["dir/below", "dir", "empty", "."] {
        set_times(&root.join(dir), if dir == "empty" { 0 } else { 123_456_789 });
    }
}

/// Nothing is to be done by one more pass.
#[track_caller]
fn assert_nothing_to_do(job: &Job) -> Outcome {
    let again = job.run().expect(0);
    assert_nothing_copied(&again);
    again
}

#[track_caller]
fn assert_nothing_copied(again: &Outcome) {
    assert_eq!((again.number("copied"), again.number("hard_links")), (0, 0), "{again}");
}

/// To a mount, then once more, then once more without a catalog.
fn copy_out(test: &str, network: Network, names: &[&[u8]]) {
    let Some(mount) = NetworkMount::new(test, network) else { return };
    let other = Scratch::new();
    let source = other.path().join("tree");
    fs::create_dir(&source).unwrap();
    grow(&source, seed(test, 101), names);
    let (copy, state) = (mount.path().join("copy"), other.path().join("state"));
    let job = Job::new(&source, &copy, &state, Engine::Auto);
    let outcome = job.run().expect(0);
    let lost = lost(&source, &copy, &mount.folder().join("copy"));
    assert!(lost.values().all(|kinds| !kinds.contains("names")), "missing: {lost:#?}");
    println!("{outcome}\n{lost:#?}");
    assert_eq!(reported(&state), lost);
    assert_nothing_to_do(&job);
    assert_eq!(reported(&state), lost, "after another pass");
    let adopting = Job::new(&source, &copy, other.path().join("other-state"), Engine::Auto);
    let adopted = adopting.run().expect(0);
    // Not adopted: a file whose time the mount does not keep, and one of several names, which it shows as two files.
    let is_copied = |path: &PathBuf| {
        let file = fs::symlink_metadata(source.join(path)).unwrap();
        let has_time = lost.get(path).is_none_or(|losses| !losses.contains("times"));
        file.is_file() && (!has_time || file.nlink() > 1)
    };
    let copied = paths(&source).iter().filter(|path| is_copied(path)).count() as u64;
    assert_eq!(adopted.number("copied") + adopted.number("hard_links"), copied, "{adopted}");
    assert_eq!(reported(&other.path().join("other-state")), lost, "after adopting");
    let strict = Job::new(&source, mount.path().join("strict"), other.path().join("strict"), Engine::Auto);
    let strict = strict.arg("--strict").run().expect(23);
    assert_eq!(strict.number("failed"), lost.len() as u64, "{strict}");
}

/// From a mount: everything that it shows.
fn copy_in(test: &str, network: Network, names: &[&[u8]]) {
    let Some(mut mount) = NetworkMount::new(test, network) else { return };
    let other = Scratch::new();
    fs::create_dir(mount.folder().join("tree")).unwrap();
    grow(&mount.folder().join("tree"), seed(test, 102), names);
    let (source, copy) = (mount.path().join("tree"), other.path().join("copy"));
    // sshfs shows seconds: what is younger than two of them is read again by the next pass.
    std::thread::sleep(Duration::from_millis(2500));
    let job = Job::new(&source, &copy, other.path().join("state"), Engine::Auto);
    let outcome = job.run().expect(0);
    support::Comparison::new(&source, &copy).assert_same();
    assert_eq!(reported(&other.path().join("state")), Losses::new(), "{outcome}");
    assert_nothing_to_do(&job);
    mount.remount();
    assert_nothing_to_do(&job);
    mount.unmount();
    let refused = job.run().expect(2);
    assert!(refused.says("refused"), "{refused}");
}

/// Names of any bytes.
const NAMES: [&[u8]; 6] = [b"new\nline", b"\xff\xfe", b" blanks ", b"e\xcc\x81", b"a:b*c?d\"e<f>g|h\\i", b"trailing."];
/// Names that Windows has, too.
const PLAIN_NAMES: [&[u8]; 3] = [b"two words", b"\xc3\xa9", b"UPPER.TXT"];

#[test]
fn to_sshfs_every_loss_is_told_and_nothing_else() {
    copy_out("to_sshfs_every_loss_is_told_and_nothing_else", Network::Sshfs, &NAMES);
}

#[test]
fn from_sshfs_everything_arrives() {
    copy_in("from_sshfs_everything_arrives", Network::Sshfs, &NAMES);
}

#[test]
fn to_smb_every_loss_is_told_and_nothing_else() {
    copy_out("to_smb_every_loss_is_told_and_nothing_else", Network::Smb, &PLAIN_NAMES);
}

#[test]
fn from_smb_everything_arrives() {
    copy_in("from_smb_everything_arrives", Network::Smb, &PLAIN_NAMES);
}

/// A share that folds case shows two names that differ in nothing else as two files, each with a number of its own.
#[test]
fn two_files_never_become_one_on_a_share_that_folds_case() {
    let test = "two_files_never_become_one_on_a_share_that_folds_case";
    let Some(mount) = NetworkMount::new(test, Network::Smb) else { return };
    let other = Scratch::new();
    let source = other.path().join("tree");
    fs::create_dir(&source).unwrap();
    for name in ["File", "file", "FILE", "other"] {
        fs::write(source.join(name), name).unwrap();
    }
    let copy = mount.path().join("copy");
    let job = Job::new(&source, &copy, other.path().join("state"), Engine::Auto);
    for _ in 0..2 {
        let outcome = job.run().expect(23);
        assert_eq!(outcome.number("failed"), 2, "{outcome}");
        assert!(outcome.says("takes its name for that of"), "{outcome}");
        let there = paths(&mount.folder().join("copy"));
        assert_eq!(there.len(), 3, "{there:?}");
        for path in &there[1..] {
            let content = fs::read(mount.folder().join("copy").join(path)).unwrap();
            assert_eq!(content, path.as_os_str().as_bytes(), "a file of two");
        }
    }
}
