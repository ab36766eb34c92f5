//! Whole copies between file systems, on both engines: everything arrives, a second run copies nothing, a third run
//! copies what changed and nothing else.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use support::compare::{Difference, What};
use support::fixture::{can_mount, has, skip, traced};
use support::{Comparison, Engine, Job, Kind, Mount, Rng, Scratch, mutate, seed, tree};

/// MiB of each file system: the mixed tree takes about 100.
const MIB: u64 = 1024;

#[test]
fn ext4_to_xfs() {
    three_passes("ext4_to_xfs", Kind::Ext4, Kind::Xfs, 1);
}

#[test]
fn xfs_to_ext4() {
    three_passes("xfs_to_ext4", Kind::Xfs, Kind::Ext4, 2);
}

#[test]
fn btrfs_to_xfs() {
    three_passes("btrfs_to_xfs", Kind::Btrfs, Kind::Xfs, 3);
}

#[test]
fn xfs_to_btrfs() {
    three_passes("xfs_to_btrfs", Kind::Xfs, Kind::Btrfs, 4);
}

#[test]
fn tmpfs_to_ext4() {
    three_passes("tmpfs_to_ext4", Kind::Tmpfs, Kind::Ext4, 5);
}

/// Copies a mixed tree, repeats the job, changes the source, repeats it again.
fn three_passes(test: &str, from: Kind, to: Kind, seed_default: u64) {
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, seed_default);
    for engine in Engine::all() {
        let (source, dest) = (Mount::new(from, MIB), Mount::new(to, MIB));
        let tree = source.dir("tree");
        tree::mixed(&tree, seed, 300);
        mutate::prepare(&source.dir("tree/changing"), seed);
        source.settle();
        let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine);
        job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
        nothing_is_copied_again(&job, &tree);
        only_what_changed_is_copied(&job, &tree);
        nothing_is_copied_again(&job, &tree);
    }
}

/// What shows that an object was written or replaced: its inode and change time.
type Marks = BTreeMap<Vec<u8>, (u64, i64, i64)>;

/// The marks of everything below `dir` but directories, whose times any change below them sets again. Names only: the
/// deep part of the tree has paths that cannot be opened, and its files stand for themselves in the comparison.
fn marks(dir: &Path) -> Marks {
    let mut found = Marks::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let stat = entry.metadata().unwrap();
            match stat.is_dir() {
                true if path.as_os_str().len() < 3500 => waiting.push(path),
                true => {}
                false => {
                    let name = path.strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec();
                    found.insert(name, (stat.ino(), stat.ctime(), stat.ctime_nsec()));
                }
            }
        }
    }
    found
}

#[track_caller]
fn nothing_is_copied_again(job: &Job, tree: &Path) {
    let before = marks(job.dest());
    assert!(before.len() > 100, "the marks of {} files are no proof", before.len());
    let outcome = job.run().expect(0);
    assert!(marks(job.dest()) == before, "a repeated job touched files that had not changed: {outcome}");
    assert_eq!((outcome.number("copied"), outcome.number("bytes")), (0, 0), "{outcome}");
    assert!(outcome.number("unchanged") >= before.len() as u64 / 2, "{outcome}");
    let left = |difference: &Difference| difference.what != What::Extra;
    let found: Vec<_> = Comparison::new(tree, job.dest()).run().into_iter().filter(left).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[track_caller]
fn only_what_changed_is_copied(job: &Job, tree: &Path) {
    let before = marks(job.dest());
    let applied = mutate::apply(&tree.join("changing"));
    let outcome = job.run().expect(0);
    let (stayed, wrong): (Vec<_>, Vec<_>) =
        Comparison::new(tree, job.dest()).run().into_iter().partition(|found| found.what == What::Extra);
    assert!(wrong.is_empty(), "{wrong:#?}\n{outcome}");
    for extra in stayed {
        let name = String::from_utf8(extra.path).unwrap();
        let known = name.strip_prefix("changing/").is_some_and(|name| applied.gone.contains(name));
        assert!(known, "{name} is in the copy only");
    }
    for (path, mark) in marks(job.dest()) {
        let name = path.strip_prefix(b"changing/").map(|name| String::from_utf8_lossy(name).into_owned());
        let may_change = name.as_ref().is_some_and(|name| applied.changed.contains(name));
        assert!(may_change || before.get(&path) == Some(&mark), "{} was touched again", path.escape_ascii());
    }
    for gone in applied.gone {
        assert!(job.dest().join("changing").join(&gone).exists(), "{gone} was removed though nobody asked for it");
    }
}

/// Within one file system that can share extents a copy takes no room; with `--reflink never` it does.
#[test]
fn a_copy_within_xfs_shares_its_extents() {
    let test = "a_copy_within_xfs_shares_its_extents";
    if !can_mount(test) {
        return;
    }
    for engine in Engine::all() {
        let mount = Mount::new(Kind::Xfs, MIB);
        let tree = mount.dir("tree");
        tree::mixed(&tree, seed(test, 6), 100);
        let at = tree::open_dir(&tree);
        tree::regular(&mut support::Rng::new(1), &at, c"large", 200 << 20);
        let taken = |name: &str, reflink: &str| {
            mount.settle();
            let before = free_bytes(mount.path());
            let state = mount.join(format!("{name}-state"));
            let job = Job::new(&tree, mount.join(name), state, engine).arg("--reflink").arg(reflink);
            job.run().expect(0);
            Comparison::new(&tree, job.dest()).assert_same();
            mount.settle();
            before.saturating_sub(free_bytes(mount.path()))
        };
        let (shared, copied) = (taken("shared", "auto"), taken("copied", "never"));
        assert!(shared < 100 << 20, "{shared} bytes taken by a copy that could be shared");
        assert!(copied > 200 << 20, "{copied} bytes taken by a copy that may not be shared");
    }
}

/// A file that cannot be cloned (an active swap file, a group of XFS without room) is copied, and the others are cloned
/// all the same.
#[test]
fn a_file_that_cannot_be_cloned_is_copied() {
    let test = "a_file_that_cannot_be_cloned_is_copied";
    if !can_mount(test) || (!has("strace") && !skip(test, "no strace")) {
        return;
    }
    let (mount, scratch) = (Mount::new(Kind::Xfs, 512), Scratch::new());
    let tree = mount.dir("tree");
    tree::wide(&tree, 40);
    let at = tree::open_dir(&tree);
    let mut rng = Rng::new(seed(test, 5));
    tree::regular(&mut rng, &at, c"small", 5000);
    tree::regular(&mut rng, &at, c"large", 3 << 20);
    for (engine, errno) in Engine::all().into_iter().flat_map(|engine| ["ETXTBSY", "ENOSPC"].map(|e| (engine, e))) {
        let name = format!("{engine:?}-{errno}");
        let refused = ["small", "large"].map(|file| format!("-P {}", mount.join(&name).join(file).display()));
        let inject = format!("-o /dev/null {} -e inject=ioctl:error={errno}", refused.join(" "));
        let job = Job::new(&tree, mount.join(&name), mount.join(name + "-state"), engine);
        let job = job.within(&traced(&scratch, &inject));
        let outcome = job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
        // One of the others is empty.
        assert_eq!((outcome.number("cloned"), outcome.number("copied")), (39, 3), "{outcome}");
    }
}

fn free_bytes(path: &Path) -> u64 {
    let stat = rustix::fs::statvfs(path).unwrap();
    stat.f_bfree * stat.f_frsize
}

/// More than one segment, a last block that is no multiple of anything, and both ways past and through the page cache.
#[test]
fn a_file_of_several_segments_arrives_with_and_without_direct_io() {
    let test = "a_file_of_several_segments_arrives_with_and_without_direct_io";
    if !can_mount(test) {
        return;
    }
    let source = Mount::new(Kind::Ext4, MIB);
    let tree = source.dir("tree");
    let at = tree::open_dir(&tree);
    tree::regular(&mut support::Rng::new(seed(test, 7)), &at, c"large", (513 << 20) + 4097);
    tree::sparse(&mut support::Rng::new(1), &at, c"holes", &[(0, 9), (257 << 20, 70_000), (300 << 20, 1)], 400 << 20);
    source.settle();
    for engine in Engine::all() {
        for direct in ["auto", "never"] {
            let dest = Mount::new(Kind::Xfs, MIB);
            let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine).arg("--direct").arg(direct);
            job.load_program();
            let outcome = job.run().expect(0);
            Comparison::new(&tree, job.dest()).assert_same();
            let read = outcome.io.read_bytes;
            assert!(read < 560 << 20, "{read} bytes read for a file of 513 MiB: a byte is read once (I7)");
        }
    }
}

/// Options that change how the copy is made do not change what it is.
#[test]
fn every_way_of_copying_gives_the_same_copy() {
    let test = "every_way_of_copying_gives_the_same_copy";
    if !can_mount(test) {
        return;
    }
    let source = Mount::new(Kind::Ext4, MIB);
    let tree = source.dir("tree");
    tree::mixed(&tree, seed(test, 8), 150);
    let ways: [&[&str]; 7] = [
        &["--streams", "1"],
        &["--streams", "200", "--buffer-size", "64K"],
        &["--buffer-size", "4096"],
        &["--atomic"],
        &["--sync", "file"],
        &["--sync", "none"],
        &["--checkpoint-bytes", "1M", "--checkpoint-interval", "1"],
    ];
    for engine in Engine::all() {
        let dest = Mount::new(Kind::Xfs, 2 * MIB);
        for (index, way) in ways.iter().enumerate() {
            let mut job =
                Job::new(&tree, dest.join(format!("copy-{index}")), dest.join(format!("state-{index}")), engine);
            for word in *way {
                job = job.arg(word);
            }
            job.run().expect(0);
            Comparison::new(&tree, job.dest()).assert_same();
        }
    }
}

/// The source is opened read-only and its access times stay as they were (I6).
#[test]
fn the_source_is_not_touched() {
    let test = "the_source_is_not_touched";
    if !can_mount(test) {
        return;
    }
    for engine in Engine::all() {
        let (source, dest) = (Mount::new(Kind::Ext4, MIB), Mount::new(Kind::Xfs, MIB));
        let tree = source.dir("tree");
        tree::mixed(&tree, seed(test, 9), 150);
        let before = (marks(&tree), access_times(&tree));
        Job::new(&tree, dest.join("copy"), dest.join("state"), engine).run().expect(0);
        assert!(before == (marks(&tree), access_times(&tree)), "the source was changed");
        Comparison::new(&tree, &dest.join("copy")).with_atime().assert_same();
    }
}

/// Access times of the files at the top of the tree.
fn access_times(dir: &Path) -> Vec<(i64, i64)> {
    let mut times: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap()).collect();
    times.retain(|stat| stat.is_file());
    let mut times: Vec<_> = times.iter().map(|stat| (stat.atime(), stat.atime_nsec())).collect();
    times.sort_unstable();
    times
}

/// `--no-metadata` leaves owner and mode to the system and still sets mtime, which is the seal.
#[test]
fn no_metadata_still_seals() {
    let test = "no_metadata_still_seals";
    if !can_mount(test) {
        return;
    }
    for engine in Engine::all() {
        let (source, dest) = (Mount::new(Kind::Ext4, MIB), Mount::new(Kind::Xfs, MIB));
        let tree = source.dir("tree");
        tree::mixed(&tree, seed(test, 10), 150);
        Job::new(&tree, dest.join("copy"), dest.join("state"), engine).arg("--no-metadata").run().expect(0);
        let found = Comparison::new(&tree, &dest.join("copy")).run();
        let wrong: Vec<_> = found.iter().filter(|found| !matches!(found.what, What::Mode | What::Owner)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(found.iter().any(|found| found.what == What::Owner), "the owner was kept all the same");
    }
}
