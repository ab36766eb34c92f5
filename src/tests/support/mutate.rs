//! What happens to a source between two passes: one object, by name, for every kind of change.
//!
//! [`prepare`] makes the objects, [`apply`] changes them and says what the next pass may touch in the copy and what
//! stays behind there (without `--delete`, what is gone from the source stays).

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Rng, tree};

/// What [`apply`] did, in names below the directory it was given.
#[derive(Debug, Default)]
pub struct Applied {
    /// Changed or new in the source: only these may be new or changed in the copy.
    pub changed: BTreeSet<String>,
    /// Gone from the source: these stay in the copy.
    pub gone: BTreeSet<String>,
}

/// Files whose content, size or attributes change, or which do not change at all.
const FILES: [&str; 21] = [
    "rewritten",
    "ctime-only",
    "grown",
    "shrunk",
    "emptied",
    "mode",
    "owner",
    "time",
    "deleted",
    "renamed",
    "file-to-link",
    "file-to-dir",
    "alone-a",
    "alone-b",
    "group-a-1",
    "group-b-1",
    "group-c-1",
    "large-tail",
    "large-head",
    "untouched-1",
    "untouched-2",
];

/// Makes the objects below `dir`, which must be empty.
pub fn prepare(dir: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    let at = tree::open_dir(dir);
    for name in FILES {
        let size = if name.starts_with("large") { 5 << 20 } else { 10_000 + rng.below(5000) };
        let file = tree::create(&at, &std::ffi::CString::new(name).unwrap());
        tree::write_noise(&mut rng, &file, 0, size);
    }
    for (from, to) in
        [("group-a-1", "group-a-2"), ("group-a-1", "group-a-3"), ("group-b-1", "group-b-2"), ("group-c-1", "group-c-2")]
    {
        fs::hard_link(dir.join(from), dir.join(to)).unwrap();
    }
    fs::copy(dir.join("alone-a"), dir.join("alone-b")).unwrap();
    File::create(dir.join("hole")).unwrap().set_len(20 << 20).unwrap();
    symlink("before", dir.join("retargeted")).unwrap();
    symlink("untouched-1", dir.join("link-to-file")).unwrap();
    for name in ["empty-dir-to-file", "dir-mode", "deleted-dir", "growing-dir"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    for name in ["dir-mode/kept", "deleted-dir/inside", "growing-dir/kept"] {
        fs::write(dir.join(name), name).unwrap();
    }
    // Long ago, so that every change below is newer than what the first pass recorded.
    let past = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000, 42);
    for name in FILES {
        File::open(dir.join(name)).unwrap().set_modified(past).unwrap();
    }
}

/// Changes what [`prepare`] made.
pub fn apply(dir: &Path) -> Applied {
    let mut applied = Applied::default();
    contents(dir, &mut applied);
    attributes(dir, &mut applied);
    kinds(dir, &mut applied);
    names(dir, &mut applied);
    applied
}

fn contents(dir: &Path, applied: &mut Applied) {
    overwrite(dir, "rewritten", 100, b"rewritten");
    overwrite(dir, "large-head", 0, b"head");
    overwrite(dir, "large-tail", (5 << 20) - 4, b"tail");
    overwrite(dir, "hole", 9 << 20, &[7; 70_000]);
    let before = fs::metadata(dir.join("ctime-only")).unwrap();
    overwrite(dir, "ctime-only", 100, b"same size, same mtime");
    File::open(dir.join("ctime-only")).unwrap().set_modified(before.modified().unwrap()).unwrap();
    let open = |name| File::options().append(true).open(dir.join(name)).unwrap();
    open("grown").write_all(&[1; 300_000]).unwrap();
    open("shrunk").set_len(4097).unwrap();
    open("emptied").set_len(0).unwrap();
    let names = ["rewritten", "large-head", "large-tail", "hole", "ctime-only", "grown", "shrunk", "emptied"];
    applied.changed.extend(names.map(String::from));
}

fn attributes(dir: &Path, applied: &mut Applied) {
    fs::set_permissions(dir.join("mode"), Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(dir.join("dir-mode"), Permissions::from_mode(0o1710)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(dir.join("owner"), Some(4321), Some(8765)).unwrap();
    }
    let time = SystemTime::UNIX_EPOCH + Duration::new(999_999_999, 1);
    File::open(dir.join("time")).unwrap().set_modified(time).unwrap();
    applied.changed.extend(["mode", "dir-mode", "owner", "time"].map(String::from));
}

fn kinds(dir: &Path, applied: &mut Applied) {
    for name in ["file-to-link", "link-to-file", "retargeted", "file-to-dir"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    symlink("untouched-2", dir.join("file-to-link")).unwrap();
    symlink("after", dir.join("retargeted")).unwrap();
    fs::write(dir.join("link-to-file"), "now a file").unwrap();
    fs::create_dir(dir.join("file-to-dir")).unwrap();
    fs::write(dir.join("file-to-dir/inside"), "now a directory").unwrap();
    fs::remove_dir(dir.join("empty-dir-to-file")).unwrap();
    fs::write(dir.join("empty-dir-to-file"), "now a file too").unwrap();
    let names =
        ["file-to-link", "link-to-file", "retargeted", "file-to-dir", "file-to-dir/inside", "empty-dir-to-file"];
    applied.changed.extend(names.map(String::from));
}

fn names(dir: &Path, applied: &mut Applied) {
    fs::remove_file(dir.join("deleted")).unwrap();
    fs::remove_dir_all(dir.join("deleted-dir")).unwrap();
    fs::rename(dir.join("renamed"), dir.join("renamed-to")).unwrap();
    applied.gone.extend(["deleted", "deleted-dir", "deleted-dir/inside", "renamed"].map(String::from));
    fs::create_dir(dir.join("new-dir")).unwrap();
    fs::write(dir.join("new-dir/new"), "new").unwrap();
    fs::write(dir.join("growing-dir/new"), "new").unwrap();
    // Content of a whole group, a group that falls apart, one that grows, and two files that become a group.
    overwrite(dir, "group-a-2", 50, b"seen under three names");
    fs::remove_file(dir.join("group-b-2")).unwrap();
    fs::write(dir.join("group-b-2"), "on its own").unwrap();
    fs::hard_link(dir.join("group-c-1"), dir.join("group-c-3")).unwrap();
    fs::remove_file(dir.join("alone-b")).unwrap();
    fs::hard_link(dir.join("alone-a"), dir.join("alone-b")).unwrap();
    let names = [
        "renamed-to",
        "new-dir",
        "new-dir/new",
        "growing-dir/new",
        "group-a-1",
        "group-a-2",
        "group-a-3",
        "group-b-1",
        "group-b-2",
        "group-c-1",
        "group-c-2",
        "group-c-3",
        "alone-a",
        "alone-b",
    ];
    applied.changed.extend(names.map(String::from));
}

fn overwrite(dir: &Path, name: &str, offset: u64, bytes: &[u8]) {
    let path = dir.join(name);
    let size = fs::metadata(&path).unwrap().size();
    let mut file = File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
    assert_eq!(file.metadata().unwrap().size(), size, "the size must stay");
}
