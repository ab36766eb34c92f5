//! Removes what a measurement has made, and only that.
//!
//! A folder is made here and held open from then on. What is in it goes by descriptors, one name at a time, symlinks
//! unfollowed and mount points unentered (I8); its own name goes last, if it still is the folder's.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::error::{Errno, Error, Result, join};

/// Deepest folder that is gone into: samples are not taken from deeper ones.
const DEPTH_MAX: usize = 2 * super::sample::DEPTH_MAX;
/// How a folder is opened to be emptied.
const TO_LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder of our own.
#[derive(Debug)]
pub(super) struct Folder {
    /// The directory it is in.
    parent: OwnedFd,
    /// Its name there.
    name: CString,
    /// Itself.
    dir: OwnedFd,
    /// Its device and inode.
    identity: (u64, u64),
    /// Its path when it was made, for messages.
    path: Vec<u8>,
}

impl Folder {
    /// Makes a folder in `parent`. Refused: there is one of this name.
    pub fn make(parent: OwnedFd, parent_path: &[u8], name: CString) -> Result<Folder> {
        let path = join(parent_path, &name);
        let failed = |verb| move |errno: Errno| (verb, errno);
        let made = rustix::fs::mkdirat(&parent, &name, Mode::RWXU).map_err(failed("create"));
        let opened = made.and_then(|()| {
            let dir = rustix::fs::openat(&parent, &name, TO_LIST, Mode::empty()).map_err(failed("open"))?;
            let stat = rustix::fs::fstat(&dir).map_err(failed("stat"))?;
            Ok((dir, stat))
        });
        let (dir, stat) = opened.map_err(|(verb, errno)| Error::os(verb, &path, errno))?;
        // Between both calls somebody might have put another one there.
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(Error::refused(path, "somebody else has replaced it"));
        }
        Ok(Folder { parent, name, dir, identity: (stat.st_dev, stat.st_ino), path })
    }

    /// Device and inode.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Removes a folder in it with all that it holds; that there is none is fine.
    pub fn clear(&self, name: &CStr) -> Result<()> {
        let failed = |errno| Error::os("remove", join(&self.path, name), errno);
        match remove(&self.dir, name, self.identity.0, 0) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Removes it with all that it holds.
    pub fn remove(self) -> Result<()> {
        let failed = |errno| Error::os("remove", &self.path, errno);
        empty(&self.dir, self.identity.0, 0).map_err(failed)?;
        let stat = match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        if (stat.st_dev, stat.st_ino) != self.identity {
            return Err(Error::refused(&self.path, "somebody else has replaced it; the one made here is empty"));
        }
        rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR).map_err(failed)
    }
}

/// Removes a name, and all below it if it is a directory.
fn remove(dir: &OwnedFd, name: &CStr, dev: u64, depth: usize) -> std::result::Result<(), Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return with_access(dir, || rustix::fs::unlinkat(dir, name, AtFlags::empty()));
    }
    if stat.st_dev != dev || depth >= DEPTH_MAX {
        return Err(Errno::XDEV);
    }
    let path = rustix::fs::openat(dir, name, TO_LIST.union(OFlags::PATH).difference(OFlags::RDONLY), Mode::empty())?;
    let below = with_access(&path, || rustix::fs::openat(&path, c".", TO_LIST, Mode::empty()))?;
    empty(&below, dev, depth + 1)?;
    with_access(dir, || rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR))
}

/// Removes all names of a directory. Ends: what is listed twice because it changed meanwhile is gone the second time.
fn empty(dir: &OwnedFd, dev: u64, depth: usize) -> std::result::Result<(), Errno> {
    loop {
        let names: Vec<CString> = Dir::read_from(dir)?
            .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
            .filter(|name| !matches!(name.as_deref(), Ok(name) if name == c"." || name == c".."))
            .take(NAMES_MAX)
            .collect::<std::result::Result<_, _>>()?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            match remove(dir, &name, dev, depth) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// Names taken from a directory at a time (I4).
const NAMES_MAX: usize = 4096;

/// Does something in a directory, and once more with all rights there if it is refused: a copy of a directory may be
/// one that its owner must not write to.
fn with_access<T>(dir: &OwnedFd, attempt: impl Fn() -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
    match attempt() {
        Err(Errno::ACCESS) => {
            // An O_PATH descriptor cannot be changed itself; its link in /proc can, and leads nowhere else.
            rustix::fs::chmod(format!("/proc/self/fd/{}", dir.as_raw_fd()), Mode::RWXU)?;
            attempt()
        }
        done => done,
    }
}
