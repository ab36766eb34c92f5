//! Disks of Windows, behind user-space daemons of this machine: what they cannot hold is told, names included.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::support::fixture::{can_mount, has, must, skip};
use super::support::slow::can_mount_fuse;
use super::support::{Engine, Job, Scratch, seed};
use super::{assert_nothing_copied, grow, lost, paths, reported};

/// How such a disk is made and mounted.
struct Kind {
    make: &'static [&'static str],
    mount: &'static str,
}

const EXFAT: Kind = Kind { make: &["mkfs.exfat"], mount: "mount.exfat-fuse" };
const NTFS: Kind = Kind { make: &["mkfs.ntfs", "-q", "-F", "-Q"], mount: "ntfs-3g" };

/// An empty one, mounted; unmounted and detached when dropped.
struct Disk {
    /// The loop device.
    device: Option<String>,
    point: PathBuf,
    _scratch: Scratch,
}

impl Disk {
    fn new(test: &str, kind: &Kind) -> Option<Disk> {
        let tools = [kind.make[0], kind.mount, "losetup"];
        let missing = tools.iter().find(|tool| !has(tool));
        let is_there = missing.is_none_or(|tool| skip(test, &format!("no {tool}")));
        if !is_there || !can_mount(test) || !can_mount_fuse(test) {
            return None;
        }
        let scratch = Scratch::new();
        let (image, point) = (scratch.path().join("image"), scratch.path().join("point"));
        fs::create_dir(&point).unwrap();
        fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
        let device = must(Command::new("losetup").args(["-f", "--show"]).arg(&image)).trim().to_owned();
        let disk = Disk { device: Some(device.clone()), point, _scratch: scratch };
        must(Command::new(kind.make[0]).args(&kind.make[1..]).arg(&device));
        must(Command::new(kind.mount).arg(&device).arg(&disk.point).stdin(Stdio::null()));
        Some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Not mounted, if it failed before.
        let mut command = Command::new("umount");
        let _ = command.arg(&self.point).stderr(Stdio::null()).status();
        let Some(device) = self.device.take() else { return };
        // The daemon gives the device back a moment after the mount is gone.
        let is_detached = (0..100).any(|_| {
            let detached = Command::new("losetup").args(["-d", &device]).stderr(Stdio::null()).status();
            let is_done = matches!(detached, Ok(status) if status.success());
            if !is_done {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            is_done
        });
        if !is_detached {
            eprintln!("left attached: {device}");
        }
    }
}

/// Copied, copied again, and adopted by another job.
fn copy_to(test: &str, kind: &Kind) {
    let Some(disk) = Disk::new(test, kind) else { return };
    let other = Scratch::new();
    let (tree, copy, state) = (other.path().join("tree"), disk.point.join("copy"), other.path().join("state"));
    fs::create_dir(&tree).unwrap();
    grow(&tree, seed(test, 121), &super::NAMES);
    let job = Job::new(&tree, &copy, &state, Engine::Auto);
    let outcome = job.run().expect(23);
    let lost = lost(&tree, &copy, &copy);
    println!("{outcome}\n{lost:#?}");
    let refused = lost.values().filter(|kinds| kinds.contains("names")).count();
    assert_eq!(outcome.number("failed"), refused as u64, "{outcome}");
    assert!(refused > 0, "{lost:?}");
    assert_eq!(reported(&state), lost);
    assert_nothing_copied(&job.run().expect(23));
    assert_eq!(reported(&state), lost, "after another pass");
    let mut verify = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let output = verify.args(["verify", "-source"]).arg(&tree).arg("-dest").arg(&copy).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "what is not there is missing, and no trouble: {output:?}");
    let adopting = Job::new(&tree, &copy, other.path().join("other"), Engine::Auto).run().expect(23);
    let is_linked = |path: &PathBuf| fs::symlink_metadata(tree.join(path)).is_ok_and(|stat| stat.nlink() > 1);
    let copied = paths(&tree).iter().filter(|path| tree.join(path).is_file() && is_linked(path)).count() as u64;
    assert!(adopting.number("copied") <= copied, "{adopting}");
    assert_eq!(reported(&other.path().join("other")), lost, "after adopting");
}

#[test]
fn to_exfat_every_loss_is_told_and_nothing_else() {
    copy_to("to_exfat_every_loss_is_told_and_nothing_else", &EXFAT);
}

#[test]
fn to_ntfs_every_loss_is_told_and_nothing_else() {
    copy_to("to_ntfs_every_loss_is_told_and_nothing_else", &NTFS);
}
