//! File systems to copy between: loop-mounted ext4, xfs and btrfs, and tmpfs, gone again when dropped.
//!
//! Images lie on /dev/shm when it has room, else in the temporary directory. Unmounting detaches the loop device; both
//! also happen while a failed test unwinds.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::block::LET_GO;

/// A kind of file system that can be made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext4 with 256-byte inodes: nanoseconds and dates until 2446.
    Ext4,
    /// ext4 with 128-byte inodes: seconds until 2038.
    OldExt4,
    /// XFS with reflinks.
    Xfs,
    /// XFS without bigtime: nanoseconds until 2038.
    OldXfs,
    /// Btrfs.
    Btrfs,
    /// tmpfs.
    Tmpfs,
}

/// What a power cut leaves of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// What was not yet written is lost with the page cache.
    Lost,
    /// The journal is flushed first: names, sizes and times survive that data which was never written.
    Flushed,
}

/// A directory of its own, removed when dropped.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is.
    path: PathBuf,
}

/// A mounted file system, unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    /// What it is.
    kind: Kind,
    /// The image behind it; tmpfs has none.
    image: Option<PathBuf>,
    /// The mount point.
    path: PathBuf,
    /// Holds the mount point; removed after the unmount.
    _points: Scratch,
    /// Holds the image.
    _images: Scratch,
}

/// Whether file systems can be mounted here. If not, the reason goes to the real stderr (the test harness would
/// swallow a captured line), or fails the test when `GFAST_NO_SKIP` is set.
pub fn can_mount(test: &str) -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        Some("not root".to_owned())
    } else if File::open("/dev/loop-control").is_err() {
        Some("no loop devices".to_owned())
    } else {
        let tools = ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mount"];
        tools.iter().find(|tool| !has(tool)).map(|tool| format!("no {tool}")).or_else(mount_refused)
    };
    match missing {
        None => true,
        Some(reason) => skip(test, &reason),
    }
}

/// Why this system refuses a mount, found out once: root inside a container may not be allowed to.
fn mount_refused() -> Option<String> {
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    REFUSED
        .get_or_init(|| {
            let scratch = Scratch::new();
            let mount = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(scratch.path()).output().unwrap();
            if mount.status.success() {
                must(Command::new("umount").arg(scratch.path()));
                return None;
            }
            Some(String::from_utf8_lossy(&mount.stderr).trim().to_owned())
        })
        .clone()
}

/// Reports `test` as skipped. Always false, so that a guard can end with it.
pub fn skip(test: &str, reason: &str) -> bool {
    assert!(std::env::var_os("GFAST_NO_SKIP").is_none(), "{test} may not be skipped: {reason}");
    let line = format!("skipped: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    false
}

/// Whether a program can be found.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|dir| dir.join(program).exists())
}

/// A wrapper for [`super::Job::within`] that runs a program under strace with these words.
pub fn traced(scratch: &Scratch, words: &str) -> PathBuf {
    let script = scratch.path().join("traced");
    fs::write(&script, format!("#!/bin/sh\nexec strace -f {words} \"$@\"\n")).unwrap();
    set_mode(&script, 0o755);
    script
}

/// A wrapper for [`super::Job::within`]: the machine was booted again, and `kept` are mounted.
pub fn rebooted(scratch: &Scratch, kept: &[&Mount]) -> PathBuf {
    let [id, inside, script] = ["boot_id", "inside", "rebooted"].map(|name| scratch.path().join(name));
    fs::write(&id, "00000000-0000-4000-8000-000000000002\n").unwrap();
    let kept: String = kept.iter().map(|mount| format!(" -e '^{} $'", mount.path().display())).collect();
    let let_go = LET_GO.replace("| xargs", &format!("| grep -v{kept} | xargs"));
    let bind = format!("mount --bind {} /proc/sys/kernel/random/boot_id", id.display());
    fs::write(&inside, format!("{let_go}\n{bind} && exec \"$@\"\n")).unwrap();
    fs::write(&script, format!("#!/bin/sh\nexec unshare -m sh {} \"$@\"\n", inside.display())).unwrap();
    set_mode(&script, 0o755);
    script
}

impl Scratch {
    /// A fresh directory below the temporary directory, mode 0755 so that other users reach what is in it.
    pub fn new() -> Scratch {
        Scratch::below(&std::env::temp_dir())
    }

    fn below(parent: &Path) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("gfast-test-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap();
        set_mode(&path, 0o755);
        Scratch { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // `rm` walks by directory fds and so removes trees deeper than a path can name.
        let removed = Command::new("rm").arg("-rf").arg("--").arg(&self.path).status();
        if !matches!(removed, Ok(status) if status.success()) {
            eprintln!("left behind: {}", self.path.display());
        }
    }
}

impl Mount {
    /// A new, empty file system of `mib` MiB.
    pub fn new(kind: Kind, mib: u64) -> Mount {
        let points = Scratch::new();
        let images = Scratch::below(&image_parent(mib));
        let path = points.path().join("mnt");
        fs::create_dir(&path).unwrap();
        let image = (kind != Kind::Tmpfs).then(|| images.path().join("image"));
        let mount = Mount { kind, image, path, _points: points, _images: images };
        mount.make(mib);
        mount.attach(mib);
        set_mode(&mount.path, 0o755);
        mount
    }

    fn make(&self, mib: u64) {
        let Some(image) = &self.image else { return };
        File::create(image).unwrap().set_len(mib << 20).unwrap();
        let args: &[&str] = match self.kind {
            Kind::Ext4 => &["mkfs.ext4", "-q", "-F", "-I", "256", "-i", "8192", "-m", "0"],
            Kind::OldExt4 => &["mkfs.ext4", "-q", "-F", "-I", "128", "-m", "0"],
            Kind::Xfs => &["mkfs.xfs", "-q", "-f"],
            Kind::OldXfs => &["mkfs.xfs", "-q", "-f", "-m", "bigtime=0"],
            Kind::Btrfs => &["mkfs.btrfs", "-q", "-f"],
            Kind::Tmpfs => unreachable!("tmpfs has no image"),
        };
        let mut command = Command::new(args[0]);
        must(command.args(&args[1..]).arg(image));
    }

    fn attach(&self, mib: u64) {
        let mut command = Command::new("mount");
        match &self.image {
            Some(image) => command.args(["-o", "loop"]).arg(image),
            None => command.args(["-t", "tmpfs", "-o", &format!("size={mib}m,nr_inodes=400k"), "tmpfs"]),
        };
        must(command.arg(&self.path));
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below the mount point.
    pub fn join(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.path.join(name.as_ref())
    }

    /// A new directory below the mount point.
    pub fn dir(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// Makes everything written so far durable, and drops it from the page cache so that reads reach the device.
    pub fn settle(&self) {
        must(Command::new("sync").arg("-f").arg(&self.path));
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    }

    /// Makes the file system read-only.
    pub fn freeze_read_only(&self) {
        must(Command::new("mount").args(["-o", "remount,ro"]).arg(&self.path));
    }

    /// The moment the power goes: from here on the file system answers EIO and nothing more reaches its device. Works
    /// on xfs and ext4, and leaves the mount in place, for the processes that hold it.
    pub fn cut_power(&self, journal: Journal) {
        let command = match journal {
            Journal::Lost => "shutdown",
            Journal::Flushed => "shutdown -f",
        };
        must(Command::new("xfs_io").args(["-x", "-c", command]).arg(&self.path));
    }

    /// The machine comes back: unmounts and mounts again, which replays the journal. Nobody may hold the mount.
    pub fn power_on(&self) {
        // A killed process's ring gives its files back a moment after the process is gone.
        let unmounted = (0..100).any(|_| {
            let status = Command::new("umount").arg(&self.path).stderr(Stdio::null()).status();
            let is_done = matches!(status, Ok(status) if status.success());
            if !is_done {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            is_done
        });
        assert!(unmounted, "{} stays busy", self.path.display());
        // A mount namespace that was just made has a copy of every mount: what was cut lives on, and would be what is
        // mounted again, until it lets go (block.rs). With the file system goes its loop device.
        let is_gone = (0..200).any(|_| {
            let is_gone = must(Command::new("losetup").arg("-j").args(&self.image)).trim().is_empty();
            if !is_gone {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            is_gone
        });
        assert!(is_gone, "{} is still mounted elsewhere", self.path.display());
        self.attach(0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.path).stderr(Stdio::null()).status();
        if !matches!(unmounted, Ok(status) if status.success()) {
            // Busy because a test died half-way: detached now, unmounted when its last user ends.
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

/// Runs a command that must succeed.
pub fn must(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sets permission bits, whatever the umask.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// /dev/shm when an image of this size leaves it half a GiB, else the temporary directory.
fn image_parent(mib: u64) -> PathBuf {
    let shm = Path::new("/dev/shm");
    match rustix::fs::statvfs(shm) {
        Ok(room) if (room.f_bavail * room.f_frsize) >> 20 > mib + 512 => shm.to_owned(),
        _ => std::env::temp_dir(),
    }
}
