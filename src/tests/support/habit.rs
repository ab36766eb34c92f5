//! In what the file systems of [`passthrough`](super::passthrough) differ from a local one.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use fuser::INodeNo;

/// In what a file system differs from a local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// In nothing.
    Ordinary,
    /// Names are one that differ in case, or in how they write an e with an acute accent or a sharp s.
    FoldsNames,
    /// Likewise, and its listings tell no inode numbers, as libfuse has it without `use_ino`.
    FoldsNamesUnnumbered,
    /// Names are one as above, and it keeps and lists all of them in lower case and without dots at their ends.
    KeepsLowerCase,
    /// Owner and times for a symlink go to what it leads to, as sshfs and its server have it.
    FollowsLinks,
    /// The first sync of a file called `large` fails, and later ones say that all is well, as the kernel has it.
    LosesFirstSync,
    /// See [`STALE`](super::passthrough::STALE).
    GoesStale,
    /// See [`UNKEPT`](super::passthrough::UNKEPT).
    LosesWrites,
    /// Names with a colon cannot be made (EINVAL), nor can those with a question mark (ENOENT, as exfat-fuse has it).
    RefusesNames,
    /// What is called `lost` cannot be described (EIO), and what is called `stuck` not removed (ENOSPC, as where a full
    /// file system has no room for the change).
    Damaged,
    /// Once a file called `silent` is made, nothing is answered any more, that included.
    FallsSilent,
    /// ACLs are those of NFSv4: of files called `shared` they name a user, of others they say what the mode does.
    HasAclsOfNfs4,
    /// The kernel may believe what it was told for a minute, and nothing can be written through the mount. Somebody
    /// else writes to each file called [`TORN`], behind its first read.
    Remembers,
}

/// Begins the names of files that somebody else writes to.
pub const TORN: &str = "torn-";

/// Somebody else writes to the file at `path`, if it is called so: every bit is another then.
pub fn tear(path: &Path) {
    if path.file_name().unwrap().to_string_lossy().starts_with(TORN) {
        let turned: Vec<u8> = fs::read(path).unwrap().into_iter().map(|byte| !byte).collect();
        fs::File::options().write(true).open(path).unwrap().write_all_at(&turned, 0).unwrap();
    }
}

impl Habit {
    /// How long the kernel may believe an answer.
    pub fn ttl(self) -> Duration {
        if self == Habit::Remembers { Duration::from_secs(60) } else { Duration::ZERO }
    }

    /// Whether names that differ may be one.
    pub fn folds_names(self) -> bool {
        matches!(self, Habit::FoldsNames | Habit::FoldsNamesUnnumbered | Habit::KeepsLowerCase)
    }

    /// What names that are one have in common.
    pub fn folded(self, name: &OsStr) -> String {
        let name = name.to_string_lossy().to_lowercase().replace("e\u{301}", "\u{e9}").replace('\u{df}', "ss");
        match self {
            Habit::KeepsLowerCase => name.trim_end_matches('.').to_owned(),
            _ => name,
        }
    }

    /// Answers to whoever looks for a name.
    pub fn look_for(self, name: &OsStr) -> io::Result<()> {
        refuse(
            name,
            match self {
                Habit::RefusesNames => &[(":", libc::EINVAL), ("?", libc::ENOENT)],
                Habit::Damaged => &[("lost", libc::EIO)],
                _ => &[],
            },
        )
    }

    /// Answers to whoever removes one.
    pub fn remove(self, name: &OsStr) -> io::Result<()> {
        refuse(name, if self == Habit::Damaged { &[("stuck", libc::ENOSPC)] } else { &[] })
    }

    /// The name that it gives what is to be called `name`.
    pub fn kept(self, name: &OsStr) -> OsString {
        match self {
            Habit::KeepsLowerCase => self.folded(name).into(),
            _ => name.to_owned(),
        }
    }

    /// The inode number that a listing tells of an object.
    pub fn listed_number(self, ino: INodeNo) -> INodeNo {
        match self {
            // FUSE_UNKNOWN_INO of libfuse.
            Habit::FoldsNamesUnnumbered => INodeNo(0xffff_ffff),
            _ => ino,
        }
    }
}

/// Refuses a name that has one of these in it.
fn refuse(name: &OsStr, refused: &[(&str, i32)]) -> io::Result<()> {
    let errno = refused.iter().find(|(part, _)| name.to_string_lossy().contains(part));
    errno.map_or(Ok(()), |(_, errno)| Err(io::Error::from_raw_os_error(*errno)))
}
