//! Owner, mode and the moment before the seal: what an open destination file gets after its data (I9).
//!
//! Order: inherited ACLs off, owner, mode (chown clears set-id bits, so mode comes after), and the mtime only later, by
//! the seal (I2). What a process without privilege cannot set is a loss, not a failure, unless `--strict` says so.

use crate::config::Metadata;
use crate::error::Errno;
use crate::provider::posix::{Posix, Verb};
use crate::report::Loss;
use crate::ring::{Handle, Stat, Time};

/// Who this process is, asked once at the start.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// The umask the process was started with; files that do not keep their mode get it taken off.
    pub umask: u32,
}

/// Leaves a chown argument as it is.
const UNCHANGED: u32 = u32::MAX;

/// 1970, the stamp of a file whose source is so young that an unsealed copy could carry its mtime by chance (I2).
pub const UNSEALED: Time = Time { secs: 0, nanos: 0 };

/// The mode a new file is created with: never more permissive than its source (I9). Where owner and group come out
/// right by themselves it is the source's own, which saves a chmod; else nobody but the owner gets in before the chown.
pub fn creation_mode(source: &Stat, keep: Metadata, identity: &Identity) -> u32 {
    let mode = source.mode & 0o777;
    match keep {
        Metadata::TimesOnly => mode & !identity.umask,
        Metadata::Keep if (source.uid, source.gid) == (identity.uid, identity.gid) => mode,
        Metadata::Keep => mode & 0o700,
    }
}

/// Puts owner and mode right on an open object that `now` describes. Returns what could not be kept.
pub fn keep_owner_and_mode(posix: &Posix, file: &Handle, source: &Stat, now: &Stat) -> Verb<Option<Loss>> {
    let loss = keep_owner(posix, file, source, now)?;
    let is_owner_changed = loss.is_none() && (source.uid, source.gid) != (now.uid, now.gid);
    let wanted = match loss {
        None => source.permissions(),
        // I9: set-id bits without their owner would hand out somebody else's rights.
        Some(_) => source.permissions() & !(libc::S_ISUID | libc::S_ISGID),
    };
    let is_mode_right = now.permissions() == wanted && !(is_owner_changed && wanted & 0o6000 != 0);
    if !is_mode_right {
        posix.set_mode(file, wanted)?;
    }
    Ok(loss)
}

fn keep_owner(posix: &Posix, file: &Handle, source: &Stat, now: &Stat) -> Verb<Option<Loss>> {
    if (source.uid, source.gid) == (now.uid, now.gid) {
        return Ok(None);
    }
    match posix.set_owner(file, source.uid, source.gid) {
        Ok(()) => return Ok(None),
        Err(errno) if !is_denied(errno) => return Err(errno),
        Err(_) => {}
    }
    // Without privilege a user may still give files to the groups he is in.
    if source.gid != now.gid {
        match posix.set_owner(file, UNCHANGED, source.gid) {
            Ok(()) if source.uid == now.uid => return Ok(None),
            Ok(()) => {}
            Err(errno) if !is_denied(errno) => return Err(errno),
            Err(_) => {}
        }
    }
    Ok(Some(Loss::Owner))
}

/// Whether an errno of chown or mknod means "not with your rights" or "not on this file system".
pub fn is_denied(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
}

/// Whether a source mtime is so near to `now` that an unsealed copy could carry it: within 2 s (I2).
pub fn is_young(mtime: Time, now: Time) -> bool {
    (mtime.secs - now.secs).abs() <= 2
}
