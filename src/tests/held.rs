//! What the destination held before the job: adopted, not removed, and never more open than its source.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::fixture::{can_mount, has, must, skip};
use support::slow::can_mount_fuse;
use support::{Engine, Job, Kind, Mount, Scratch, SlowMount};

/// `tree/file` and the same in `copy/`, mtime included.
fn twice(at: &Path) {
    for root in ["tree", "copy"] {
        fs::create_dir(at.join(root)).unwrap();
        fs::write(at.join(root).join("file"), "content").unwrap();
        must(Command::new("touch").args(["-d", "2024-05-06 07:08:09.123456789"]).arg(at.join(root).join("file")));
    }
}

/// The times of another user's file cannot be set; that is no reason to remove it.
#[test]
fn a_file_of_another_user_that_is_the_copy_already_stays() {
    const UID: u32 = 12_345;
    if !rustix::process::geteuid().is_root() {
        skip("a_file_of_another_user_that_is_the_copy_already_stays", "not root");
        return;
    }
    for engine in Engine::all() {
        let at = Scratch::new();
        twice(at.path());
        // The source's atime differs, so there is a time to be set.
        must(Command::new("touch").args(["-a", "-d", "2020-01-01 00:00:00"]).arg(at.path().join("tree/file")));
        for path in ["", "tree", "copy", "tree/file"] {
            chown(at.path().join(path), Some(UID), Some(UID)).unwrap();
        }
        chown(at.path().join("copy/file"), Some(UID + 1), Some(UID)).unwrap();
        let job = Job::new(at.path().join("tree"), at.path().join("copy"), at.path().join("state"), engine).user(UID);
        let outcome = job.run().expect(0);
        assert_eq!(fs::read(at.path().join("copy/file")).unwrap(), b"content", "{outcome}");
        assert_eq!((outcome.number("adopted"), outcome.number("failed")), (1, 0), "{outcome}");
        job.run().expect(0);
        assert!(at.path().join("copy/file").exists());
    }
}

/// An entry for a named user would let one read what the source does not (I9).
#[test]
fn an_adopted_file_loses_an_acl_of_its_own() {
    let test = "an_adopted_file_loses_an_acl_of_its_own";
    if !can_mount(test) || (!has("setfacl") && skip(test, "no setfacl")) {
        return;
    }
    for engine in Engine::all() {
        let mount = Mount::new(Kind::Ext4, 64);
        twice(mount.path());
        for root in ["tree", "copy"] {
            let file = mount.join(root).join("file");
            fs::set_permissions(file, PermissionsExt::from_mode(0o640)).unwrap();
        }
        let copy = mount.join("copy/file");
        must(Command::new("setfacl").args(["-m", "u:77:r"]).arg(&copy));
        assert!(must(Command::new("getfacl").arg("-n").arg(&copy)).contains("user:77:r"));
        let outcome = Job::new(mount.join("tree"), mount.join("copy"), mount.join("state"), engine).run().expect(0);
        assert_eq!(outcome.number("adopted"), 1, "{outcome}");
        assert!(!must(Command::new("getfacl").arg("-n").arg(&copy)).contains("user:77"), "{outcome}");
    }
}

/// What a destination made by `cp -al` holds are the source's own files: they are replaced, and the source stays as it
/// is (I6).
#[test]
fn a_hard_link_of_the_source_is_replaced_and_the_source_left_alone() {
    let test = "a_hard_link_of_the_source_is_replaced_and_the_source_left_alone";
    if !can_mount(test) || (!has("setfacl") && skip(test, "no setfacl")) {
        return;
    }
    const LARGE: usize = 3 << 20;
    for engine in Engine::all() {
        for more in [&[][..], &["--acls"], &["--acls", "--xattrs"], &["--recopy"], &["--no-metadata"], &["--atomic"]] {
            let mount = Mount::new(Kind::Ext4, 64);
            let (tree, copy) = (mount.join("tree"), mount.join("copy"));
            fs::create_dir_all(tree.join("dir")).unwrap();
            for (name, size) in [("empty", 0), ("small", 700), ("dir/large", LARGE)] {
                fs::write(tree.join(name), vec![7; size]).unwrap();
                fs::set_permissions(tree.join(name), PermissionsExt::from_mode(0o660)).unwrap();
                must(Command::new("setfacl").args(["-m", "u:77:rw,g::r"]).arg(tree.join(name)));
                must(Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(tree.join(name)));
            }
            fs::hard_link(tree.join("small"), tree.join("dir/second")).unwrap();
            std::os::unix::fs::symlink("small", tree.join("symlink")).unwrap();
            must(Command::new("mkfifo").arg(tree.join("fifo")));
            must(Command::new("cp").arg("-al").arg(&tree).arg(&copy));
            let seen = |root: &Path| {
                let paths = must(Command::new("find").args(["-printf", "%P %m %s %T@ %n\n"]).current_dir(root));
                let mut lines: Vec<String> = paths.lines().map(str::to_owned).collect();
                lines.sort();
                let acls = must(Command::new("getfacl").args(["-R", "-n", "."]).current_dir(root));
                (lines, acls)
            };
            let content = |root: &Path| fs::read(root.join("dir/large")).unwrap();
            fs::remove_dir_all(&copy).unwrap();
            let before = (seen(&tree), content(&tree));
            must(Command::new("cp").arg("-al").arg(&tree).arg(&copy));
            let job = Job::new(&tree, &copy, mount.join("state"), engine).args(more);
            let told = job.clone().arg("--dry-run").run().expect(0);
            assert!(!told.says("adopt"), "{told}");
            for _ in 0..2 {
                let outcome = job.run().expect(0);
                // Also that no name of it is left at the destination.
                assert_eq!(seen(&tree), before.0, "{more:?} {outcome}");
                assert!(content(&tree) == before.1 && content(&copy) == before.1, "{more:?} {outcome}");
            }
        }
    }
}

/// A file system below the destination whose syncfs cannot be trusted: its files are made durable one by one (I1).
#[test]
fn a_file_system_below_the_destination_is_synced_as_it_needs() {
    let test = "a_file_system_below_the_destination_is_synced_as_it_needs";
    if !can_mount_fuse(test) {
        return;
    }
    let (at, slow) = (Scratch::new(), SlowMount::new(Duration::ZERO));
    for dir in ["tree/there", "copy/there"] {
        fs::create_dir_all(at.path().join(dir)).unwrap();
    }
    fs::write(at.path().join("tree/there/file"), "content").unwrap();
    let bound = at.path().join("copy/there");
    must(Command::new("mount").arg("--bind").arg(slow.path()).arg(&bound));
    let unbind = Unbind(&bound);
    let job = Job::new(at.path().join("tree"), at.path().join("copy"), at.path().join("state"), Engine::Sync);
    let outcome = job.run();
    drop(unbind);
    let outcome = outcome.expect(0);
    assert!(outcome.says("\"sync\":\"file\""), "{outcome}");
    assert_eq!(fs::read(slow.folder().join("file")).unwrap(), b"content");
}

/// Ends a bind mount, also after a failure.
struct Unbind<'p>(&'p Path);

impl Drop for Unbind<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}
