//! The destination: the part of its path that exists, and the names still to be made below it.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{DestOrigin, Found, NO_DATA, Root, c_string, open_source, refused_by};
use crate::error::{Errno, Error, Result, join};
use crate::ring::Kind;

/// Why no file is made below /dev.
const NO_FILES: &str = "no file is made where devices are";

/// Where to write, as far as it exists.
#[derive(Debug)]
pub(super) struct Target {
    /// The destination itself, or its nearest existing ancestor.
    pub found: Found,
    /// Names to make below it, outermost first; empty when the destination is there.
    missing: Vec<CString>,
    /// What the path's last character says it must be.
    form: Form,
}

/// Whether a missing destination can only be a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// It ends in a slash: a directory.
    Dir,
    /// It may become either.
    Any,
}

impl Target {
    /// Goes up from `path` to the nearest ancestor that exists. Ends: the path gets shorter each time, and "/" and
    /// "." exist.
    pub fn find(path: &Path) -> Result<Target> {
        let typed = path.as_os_str().as_bytes();
        let form = if typed.ends_with(b"/") || typed.ends_with(b"/.") { Form::Dir } else { Form::Any };
        let mut missing = Vec::new();
        let mut rest = without_slashes(typed);
        loop {
            let here = Path::new(OsStr::from_bytes(if rest.is_empty() { b"." } else { rest }));
            if let Some(found) = Found::at(here)? {
                refuse_unusable(&found, &missing)?;
                missing.reverse();
                let target = Target { found, missing, form };
                return refuse_missing_device(&target).map(|()| target);
            }
            if rustix::fs::readlink(here, Vec::new()).is_ok() {
                return Err(Error::refused(rest, "is a symlink that leads nowhere"));
            }
            let slash = rest.iter().rposition(|&b| b == b'/');
            let name = &rest[slash.map_or(0, |at| at + 1)..];
            match name {
                b"" => return Err(Error::refused(typed, "has no directory to start from")),
                b".." => return Err(Error::refused(typed, "goes up from a directory that does not exist")),
                b"." => {}
                name => missing.push(c_string(name)?),
            }
            rest = match slash {
                Some(0) => b"/",
                Some(at) => without_slashes(&rest[..at]),
                None => b"",
            };
        }
    }

    /// Whether the destination exists.
    pub fn is_there(&self) -> bool {
        self.missing.is_empty()
    }

    /// Names to make below what was found, outermost first.
    pub fn missing(&self) -> &[CString] {
        &self.missing
    }

    /// Canonical path, there or not.
    pub fn path(&self) -> Vec<u8> {
        self.missing.iter().fold(self.found.path.clone(), |path, name| join(&path, name))
    }

    /// The destination of a single file: the directory it goes into, and its name there. `name` is the one it keeps
    /// when the destination is a directory.
    pub fn for_file(mut self, name: CString) -> Result<(Target, CString)> {
        if !self.is_there() {
            let is_new_name = self.form == Form::Any;
            let name = if is_new_name { self.missing.pop().unwrap_or(name) } else { name };
            return Ok((self, name));
        }
        if self.found.stat.kind() == Kind::Dir {
            return match is_for_devices(&self.found.path) {
                true => Err(Error::refused(&self.found.path, NO_FILES)),
                false => Ok((self, name)),
            };
        }
        let (found, name) = self.found.parent()?;
        Ok((Target { found, missing: Vec::new(), form: Form::Dir }, name))
    }

    /// Opens the destination if it is there; else `place_holder` stands for it.
    pub fn look(self, place_holder: fn(&[u8]) -> Result<Root>) -> Result<(Root, DestOrigin)> {
        match self.is_there() {
            true => Ok((Root::describe(open_source(&self.found)?, self.found.path)?, DestOrigin::Found)),
            false => Ok((place_holder(&self.path())?, DestOrigin::Made)),
        }
    }

    /// Makes what is missing, the last directory with `last_mode` and those above it with `parents_mode`, and opens
    /// the destination. Opened for reading, not O_PATH: syncfs through this descriptor reports what was lost since
    /// now (I1).
    pub fn open(self, parents_mode: u32, last_mode: u32) -> Result<(OwnedFd, Vec<u8>)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut path = self.found.path;
        let mut dir = self.found.fd;
        let count = self.missing.len();
        if count == 0 {
            let opened = rustix::fs::openat(&dir, c".", flags, Mode::empty());
            return Ok((opened.map_err(|errno| refused_by(&path, "opened", errno))?, path));
        }
        for (index, name) in self.missing.iter().enumerate() {
            path = join(&path, name);
            let mode = if index + 1 == count { last_mode } else { parents_mode };
            match rustix::fs::mkdirat(&dir, name.as_c_str(), Mode::from_raw_mode(mode)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(refused_by(&path, "made", errno)),
            }
            let opened = rustix::fs::openat(&dir, name.as_c_str(), flags | OFlags::NOFOLLOW, Mode::empty());
            dir = opened.map_err(|errno| refused_by(&path, "opened", errno))?;
        }
        Ok((dir, path))
    }
}

/// What exists must be a directory to hold what is missing; by itself it may be a file or a block device.
fn refuse_unusable(found: &Found, missing: &[CString]) -> Result<()> {
    match found.stat.kind() {
        Kind::Dir => Ok(()),
        Kind::Special if !found.is_block_device() => Err(Error::refused(&found.path, NO_DATA)),
        Kind::File | Kind::Special if missing.is_empty() => Ok(()),
        _ => Err(Error::refused(&found.path, "is not a directory")),
    }
}

/// What is missing below /dev is a device that is not there (yet), under a name that was not meant: a file in its place
/// would fill the memory that /dev lives in. /dev/shm is for files.
fn refuse_missing_device(target: &Target) -> Result<()> {
    let path = target.path();
    match !target.is_there() && is_for_devices(&path) {
        true => Err(Error::refused(path, format!("is not there: {NO_FILES}"))),
        false => Ok(()),
    }
}

/// Whether a canonical path is the directory of devices, or lies below it.
fn is_for_devices(path: &[u8]) -> bool {
    let is_at = |top: &[u8]| path.strip_prefix(top).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')));
    is_at(b"/dev") && !is_at(b"/dev/shm")
}

/// Without slashes at the end; the root directory keeps its one.
fn without_slashes(path: &[u8]) -> &[u8] {
    let len = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
    &path[..len.max(usize::from(path.starts_with(b"/")))]
}
