//! The comparison that proves every copy is itself proven here: each kind of difference is found, and nothing else.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use support::compare::What;
use support::fixture::{can_mount, must};
use support::{Comparison, Kind, Mount, Scratch, seed, tree};

/// What is found between two copies of one small tree, the second of which `change` has changed.
fn found(change: impl Fn(&Path)) -> Vec<(What, String)> {
    let scratch = Scratch::new();
    let sides = ["source", "copy"].map(|side| scratch.path().join(side));
    for side in &sides {
        small_tree(side);
    }
    change(&sides[1]);
    let mut found: Vec<_> = Comparison::new(&sides[0], &sides[1])
        .run()
        .into_iter()
        .map(|difference| (difference.what, String::from_utf8(difference.path).unwrap()))
        .filter(|(what, path)| *what != What::Mtime || !is_dir_of_change(path))
        .collect();
    found.sort();
    found
}

/// Creating and removing entries also changes the times of their directory; the test of directory times is its own.
fn is_dir_of_change(path: &str) -> bool {
    path.is_empty()
}

fn small_tree(root: &Path) {
    fs::create_dir(root).unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    fs::write(root.join("dir/below"), "below").unwrap();
    fs::write(root.join("file"), vec![1; 3 << 20]).unwrap();
    fs::write(root.join("pair-1"), "pair").unwrap();
    fs::hard_link(root.join("pair-1"), root.join("pair-2")).unwrap();
    fs::write(root.join("single-1"), "pair").unwrap();
    fs::write(root.join("single-2"), "pair").unwrap();
    symlink("target", root.join("link")).unwrap();
    must(Command::new("mkfifo").arg(root.join("fifo")));
    File::create(root.join("hole")).unwrap().set_len(16 << 20).unwrap();
    set_times(root);
}

fn set_times(root: &Path) {
    let mut every = vec![root.to_owned()];
    every.extend(fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()));
    every.push(root.join("dir/below"));
    for path in every {
        must(Command::new("touch").args(["-h", "-d", "2001-02-03 04:05:06.789012345"]).arg(path));
    }
}

fn one(what: What, path: &str) -> Vec<(What, String)> {
    vec![(what, path.to_owned())]
}

#[test]
fn equal_trees_have_no_difference() {
    assert_eq!(found(|_| ()), []);
}

#[test]
fn missing_and_extra_objects_are_found() {
    assert_eq!(found(|copy| fs::remove_file(copy.join("file")).unwrap()), one(What::Missing, "file"));
    assert_eq!(found(|copy| fs::remove_dir_all(copy.join("dir")).unwrap()), one(What::Missing, "dir"));
    assert_eq!(found(|copy| fs::write(copy.join("zzz"), "").unwrap()), one(What::Extra, "zzz"));
}

#[test]
fn another_type_is_found() {
    let change = |copy: &Path| {
        fs::remove_file(copy.join("fifo")).unwrap();
        fs::write(copy.join("fifo"), "").unwrap();
    };
    assert_eq!(found(change), one(What::Type, "fifo"));
}

#[test]
fn one_changed_byte_is_found() {
    let change = |copy: &Path| {
        let mut bytes = fs::read(copy.join("file")).unwrap();
        bytes[2_500_000] ^= 1;
        fs::write(copy.join("file"), bytes).unwrap();
        set_times(copy);
    };
    assert_eq!(found(change), one(What::Content, "file"));
}

#[test]
fn another_length_is_found() {
    let change = |copy: &Path| {
        File::options().write(true).open(copy.join("file")).unwrap().set_len((3 << 20) + 1).unwrap();
        set_times(copy);
    };
    assert_eq!(found(change), one(What::Size, "file"));
}

#[test]
fn modes_are_compared_on_files_and_directories() {
    let chmod =
        |copy: &Path, name: &str, mode| fs::set_permissions(copy.join(name), Permissions::from_mode(mode)).unwrap();
    assert_eq!(found(|copy| chmod(copy, "file", 0o4644)), one(What::Mode, "file"));
    assert_eq!(found(|copy| chmod(copy, "dir", 0o1755)), one(What::Mode, "dir"));
    assert_eq!(found(|copy| chmod(copy, "", 0o751)), one(What::Mode, ""));
}

#[test]
fn owners_are_compared_on_files_and_symlinks() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("owners_are_compared_on_files_and_symlinks", "not root");
        return;
    }
    assert_eq!(found(|copy| chown(copy.join("file"), Some(7), None).unwrap()), one(What::Owner, "file"));
    let lchown = |copy: &Path| std::os::unix::fs::lchown(copy.join("link"), None, Some(7)).unwrap();
    assert_eq!(found(lchown), one(What::Owner, "link"));
}

#[test]
fn one_nanosecond_is_found_on_files_directories_and_symlinks() {
    for name in ["file", "dir", "link", "fifo"] {
        let touch = |copy: &Path| {
            must(Command::new("touch").args(["-h", "-d", "2001-02-03 04:05:06.789012346"]).arg(copy.join(name)));
        };
        assert_eq!(found(touch), one(What::Mtime, name));
    }
}

#[test]
fn another_link_target_is_found() {
    let change = |copy: &Path| {
        fs::remove_file(copy.join("link")).unwrap();
        symlink("targeT", copy.join("link")).unwrap();
        set_times(copy);
    };
    assert_eq!(found(change), one(What::Target, "link"));
}

#[test]
fn a_broken_pair_a_false_pair_and_a_link_out_of_the_tree_are_found() {
    let broken = |copy: &Path| {
        fs::remove_file(copy.join("pair-2")).unwrap();
        fs::write(copy.join("pair-2"), "pair").unwrap();
        set_times(copy);
    };
    assert!(found(broken).contains(&(What::Links, "pair-2".into())));
    let false_pair = |copy: &Path| {
        fs::remove_file(copy.join("single-2")).unwrap();
        fs::hard_link(copy.join("single-1"), copy.join("single-2")).unwrap();
        set_times(copy);
    };
    assert!(found(false_pair).contains(&(What::Links, "single-2".into())));
    let outside = |copy: &Path| fs::hard_link(copy.join("file"), copy.join("../outside")).unwrap();
    assert_eq!(found(outside), one(What::Links, "file"));
}

#[test]
fn a_filled_hole_is_found() {
    let change = |copy: &Path| {
        fs::write(copy.join("hole"), vec![0; 16 << 20]).unwrap();
        set_times(copy);
    };
    assert_eq!(found(change), one(What::Holes, "hole"));
}

#[test]
fn another_device_number_is_found() {
    if !rustix::process::geteuid().is_root() {
        support::fixture::skip("another_device_number_is_found", "not root");
        return;
    }
    let scratch = Scratch::new();
    for (side, minor) in [("source", "3"), ("copy", "5")] {
        small_tree(&scratch.path().join(side));
        must(Command::new("mknod").arg(scratch.path().join(side).join("null")).args(["c", "1", minor]));
        must(Command::new("touch").args(["-d", "2001-02-03"]).arg(scratch.path().join(side).join("null")));
        set_times(&scratch.path().join(side));
    }
    let found = Comparison::new(&scratch.path().join("source"), &scratch.path().join("copy")).run();
    assert_eq!(found.iter().map(|difference| difference.what).collect::<Vec<_>>(), [What::Device]);
}

#[test]
fn atimes_are_compared_when_asked() {
    let scratch = Scratch::new();
    let sides = ["source", "copy"].map(|side| scratch.path().join(side));
    sides.iter().for_each(|side| small_tree(side));
    must(Command::new("touch").args(["-a", "-d", "1999-01-01"]).arg(sides[1].join("pair-1")));
    Comparison::new(&sides[0], &sides[1]).assert_same();
    let found = Comparison::new(&sides[0], &sides[1]).with_atime().run();
    assert!(found.iter().any(|difference| difference.what == What::Atime && difference.path == b"pair-1"), "{found:?}");
}

#[test]
fn a_missing_root_is_a_difference() {
    let scratch = Scratch::new();
    let found = Comparison::new(scratch.path(), &scratch.path().join("nowhere")).run();
    assert_eq!(found[0].what, What::Unreadable);
}

/// The trap of I2: right size, right mtime, and only zeros.
#[test]
fn a_sealed_file_with_other_content_is_found_and_an_unsealed_one_is_not() {
    let scratch = Scratch::new();
    let sides = ["source", "copy"].map(|side| scratch.path().join(side));
    sides.iter().for_each(|side| small_tree(side));
    fs::write(sides[1].join("file"), vec![0; 3 << 20]).unwrap();
    fs::remove_file(sides[1].join("pair-2")).unwrap();
    let sealed = || Comparison::new(&sides[0], &sides[1]).sealed_only().run();
    assert!(sealed().is_empty());
    set_times(&sides[1]);
    assert_eq!(sealed().iter().map(|difference| difference.what).collect::<Vec<_>>(), [What::Content]);
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    File::open(sides[1].join("file")).unwrap().set_modified(old).unwrap();
    let present = Comparison::new(&sides[0], &sides[1]).present_only().run();
    assert_eq!(present.iter().map(|difference| difference.what).collect::<Vec<_>>(), [What::Content]);
}

/// The generated trees are the same on every file system, whatever it does with blocks and times.
#[test]
fn one_seed_gives_one_tree_everywhere() {
    if !can_mount("one_seed_gives_one_tree_everywhere") {
        return;
    }
    let seed = seed("one_seed_gives_one_tree_everywhere", 11);
    let mounts = [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs].map(|kind| Mount::new(kind, 512));
    for mount in &mounts {
        tree::mixed(&mount.dir("tree"), seed, 200);
    }
    for mount in &mounts[1..] {
        Comparison::new(&mounts[0].join("tree"), &mount.join("tree")).with_atime().assert_same();
    }
    let other = mounts[0].dir("other");
    tree::mixed(&other, seed + 1, 200);
    assert!(Comparison::new(&mounts[0].join("tree"), &other).run().len() > 100);
}

#[test]
fn ten_thousand_levels_are_walked_and_a_difference_at_the_bottom_is_found() {
    if !can_mount("ten_thousand_levels_are_walked_and_a_difference_at_the_bottom_is_found") {
        return;
    }
    let mounts = [Mount::new(Kind::Xfs, 320), Mount::new(Kind::Tmpfs, 320)];
    for (mount, levels) in mounts.iter().zip([10_000, 10_000]) {
        tree::chain(&mount.dir("tree"), levels, 8);
    }
    let found = Comparison::new(&mounts[0].join("tree"), &mounts[1].join("tree")).run();
    assert!(found.iter().all(|difference| difference.what == What::Mtime), "only the times of the directories differ");
    assert_eq!(found.len(), 10_001);
    assert_eq!(found.iter().map(|difference| difference.path.len()).max(), Some(10_000 * 9 - 1));
}
