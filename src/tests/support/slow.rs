//! A slow file system of a test's own: [`passthrough`](super::passthrough), mounted as long as it is needed.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fuser::BackgroundSession;

use super::Scratch;
use super::fixture::{has, skip};
pub use super::habit::TORN;
use super::halt::Halt;
use super::passthrough::{self, Habit};
pub use super::passthrough::{BAD, LOST, ROT, STALE, UNKEPT};

/// Operations answered at a time.
const THREADS: usize = 64;

/// A folder mounted through FUSE, unmounted when dropped.
#[derive(Debug)]
pub struct SlowMount {
    /// Serves it. Declared first: the mount goes before the mount point.
    session: Option<BackgroundSession>,
    /// Stops it from answering.
    halt: Arc<Halt>,
    /// The mount point.
    point: Scratch,
    /// The folder behind it.
    folder: Scratch,
}

/// Whether a file system can be mounted through FUSE here; if not, the test is reported as skipped.
pub fn can_mount_fuse(test: &str) -> bool {
    let missing = if !rustix::process::geteuid().is_root() && !has("fusermount3") {
        Some("neither root nor fusermount3".to_owned())
    } else {
        let opened = OpenOptions::new().read(true).write(true).open("/dev/fuse");
        opened.err().map(|error| format!("/dev/fuse: {error}")).or_else(|| {
            let mounted = SlowMount::try_new(Duration::ZERO, Habit::Ordinary);
            mounted.err().map(|error| format!("a FUSE mount is refused: {error}"))
        })
    };
    missing.is_none_or(|reason| skip(test, &reason))
}

impl SlowMount {
    /// An empty folder whose every operation takes `delay`.
    pub fn new(delay: Duration) -> SlowMount {
        SlowMount::try_new(delay, Habit::Ordinary).unwrap()
    }

    /// An empty folder that folds case and normalises Unicode, without delay.
    pub fn folding() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::FoldsNames).unwrap()
    }

    /// The same, without inode numbers in its listings.
    pub fn folding_unnumbered() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::FoldsNamesUnnumbered).unwrap()
    }

    /// An empty folder that folds names, and keeps all of them in lower case, without delay.
    pub fn keeping_lower_case() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::KeepsLowerCase).unwrap()
    }

    /// An empty folder whose symlinks are followed when they get an owner or times, without delay.
    pub fn following() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::FollowsLinks).unwrap()
    }

    /// An empty folder where a file called `large` cannot be synced the first time, without delay.
    pub fn losing_a_sync() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::LosesFirstSync).unwrap()
    }

    /// An empty folder of which directories become stale, as files in them say by their names, without delay.
    pub fn going_stale() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::GoesStale).unwrap()
    }

    /// An empty folder that does not keep what is written to files which say so by their names, without delay.
    pub fn losing_writes() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::LosesWrites).unwrap()
    }

    /// An empty folder that cannot hold all names, without delay: see [`Habit::RefusesNames`].
    pub fn refusing_names() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::RefusesNames).unwrap()
    }

    /// An empty folder of which not all can be described or removed, without delay: see [`Habit::Damaged`].
    pub fn damaged() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::Damaged).unwrap()
    }

    /// An empty folder that falls silent, without delay: see [`Habit::FallsSilent`].
    pub fn falling_silent() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::FallsSilent).unwrap()
    }

    /// An empty folder whose ACLs are those of NFSv4, without delay: see [`Habit::HasAclsOfNfs4`].
    pub fn having_acls_of_nfs4() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::HasAclsOfNfs4).unwrap()
    }

    /// An empty folder of which the kernel remembers what it was told, without delay: see [`Habit::Remembers`].
    pub fn remembering() -> SlowMount {
        SlowMount::try_new(Duration::ZERO, Habit::Remembers).unwrap()
    }

    fn try_new(delay: Duration, habit: Habit) -> io::Result<SlowMount> {
        let (point, folder) = (Scratch::new(), Scratch::new());
        let halt = Arc::new(Halt::default());
        let session = passthrough::mount(folder.path(), point.path(), delay, habit, (THREADS, halt.clone()))?;
        Ok(SlowMount { session: Some(session), halt, point, folder })
    }

    /// From now on it answers nothing, or everything again.
    pub fn halt(&self, is_halted: bool) {
        self.halt.set(is_halted);
    }

    /// The mount point: slow.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// The folder behind it: fast.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SlowMount {
    fn drop(&mut self) {
        self.halt.set(false);
        let ended = self.session.take().map(BackgroundSession::umount_and_join);
        if let Some(Err(error)) = ended {
            eprintln!("left mounted: {}: {error}", self.point.path().display());
        }
        // What a killed job's ring still held a moment ago kept it mounted, with nobody to answer.
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.contains(&format!(" {} ", self.point.path().display())) {
            let _ = Command::new("umount").arg("-l").arg(self.point.path()).status();
        }
    }
}
