//! Owner, mode and the moment before the seal: what an open destination file gets after its data (I9).
//!
//! Order: inherited ACLs off, owner, mode (chown clears set-id bits, so mode comes after), and the mtime only later, by
//! the seal (I2). What a process without privilege cannot set is a loss, not a failure, unless `--strict` says so.

use crate::config::Metadata;
use crate::error::Errno;
use crate::filesystem::Reach;
use crate::provider::posix::{Posix, Verb};
use crate::report::{Loss, LossSet};
use crate::ring::{Handle, Kind, Name, Stat, Time};

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

/// setuid and setgid.
const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;
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

/// What its owner needs of a file that is opened again by its name to be written to, and all that anybody has of one
/// whose own mode would not let even the owner, until it is whole.
pub const UNDER_WAY: u32 = 0o600;

/// The mode a large file is created with instead of `mode`: it is opened again, past the page cache and by a resume.
pub fn mode_under_way(mode: u32) -> u32 {
    if mode & UNDER_WAY == UNDER_WAY { mode } else { UNDER_WAY }
}

/// Puts owner and mode right on an open object that `now` describes. Returns what could not be kept. What a server or a
/// user-space daemon says it has done is looked at again: some do nothing and say nothing.
pub fn keep_owner_and_mode(posix: &Posix, file: &Handle, source: &Stat, now: &Stat, reach: Reach) -> Verb<LossSet> {
    let is_owner_right = (source.uid, source.gid) == (now.uid, now.gid);
    let mut is_owner_kept = is_owner_right || keep_owner(posix, file, source, now)?;
    if !is_owner_right && is_owner_kept && reach == Reach::Remote {
        is_owner_kept = is_owned(&posix.stat_handle(file)?, source);
    }
    let wanted = match is_owner_kept {
        true => source.permissions(),
        // I9: set-id bits without their owner would hand out somebody else's rights.
        false => source.permissions() & !SET_IDS,
    };
    let is_mode_right = now.permissions() == wanted && (is_owner_right || wanted & SET_IDS == 0);
    let permissions = match is_mode_right {
        true => wanted,
        false => keep_mode(posix, file, (wanted, now.permissions()), reach)?,
    };
    Ok(lost(source, is_owner_kept, permissions))
}

/// Sets permission bits; those the file has then.
fn keep_mode(posix: &Posix, file: &Handle, (wanted, now): (u32, u32), reach: Reach) -> Verb<u32> {
    match (posix.set_mode(file, wanted), reach) {
        (Ok(()), Reach::Local) => Ok(wanted),
        (Ok(()), Reach::Remote) => Ok(posix.stat_handle(file)?.permissions()),
        (Err(errno), Reach::Remote) if is_denied(errno) => Ok(now),
        (Err(errno), _) => Err(errno),
    }
}

/// Whether it belongs to whom its source does.
pub fn is_owned(now: &Stat, source: &Stat) -> bool {
    (now.uid, now.gid) == (source.uid, source.gid)
}

/// What an object with these permission bits, and its owner or not, has not kept.
pub fn lost(source: &Stat, is_owner_kept: bool, permissions: u32) -> LossSet {
    let differing = source.permissions() ^ permissions;
    let checks = [
        (!is_owner_kept, Loss::Owner),
        (differing & !SET_IDS != 0, Loss::Mode),
        (differing & SET_IDS != 0, Loss::SetIds),
    ];
    let mut losses = LossSet::default();
    checks.iter().filter(|(is_lost, _)| *is_lost).for_each(|(_, loss)| losses.add(*loss));
    losses
}

/// What an object with this mtime has not kept of its source's.
pub fn lost_time(source: Time, now: Time) -> Option<Loss> {
    match (source.secs == now.secs, source.nanos == now.nanos) {
        (true, true) => None,
        (true, false) => Some(Loss::TimePrecision),
        (false, _) => Some(Loss::Times),
    }
}

/// What is known of how a destination keeps times.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Whether what it says it has set is taken for set.
    pub reach: Reach,
    /// Nanoseconds it tells times apart by at worst.
    pub granularity_nanos: u32,
}

impl Clock {
    /// Whether a time is surely kept as it is, so that nobody has to look again: a local file system that keeps
    /// nanoseconds does so from 1901 to 2038 at least. Beyond that the kernel sets the nearest time that the file
    /// system can hold, and says nothing (`timestamp_truncate` in Linux's fs/inode.c): 2038 is the end for xfs without
    /// bigtime and ext4 with inodes of 128 bytes, 2446 for other ext4, 2486 for other xfs.
    fn is_sure_of(self, time: Time) -> bool {
        let is_in_range = (i64::from(i32::MIN) + 1..i64::from(i32::MAX)).contains(&time.secs);
        self.reach == Reach::Local && self.granularity_nanos == 1 && is_in_range
    }
}

/// Sets times of an open object. Returns what could not be kept.
pub fn keep_times(posix: &Posix, file: &Handle, (atime, mtime): (Time, Time), clock: Clock) -> Verb<Option<Loss>> {
    match posix.set_times(file, atime, mtime) {
        Ok(()) if clock.is_sure_of(mtime) => Ok(None),
        Ok(()) => Ok(lost_time(mtime, posix.stat_handle(file)?.mtime)),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some(Loss::Times)),
        Err(Errno::PERM | Errno::ACCESS | Errno::INVAL) if clock.reach == Reach::Remote => Ok(Some(Loss::Times)),
        Err(errno) => Err(errno),
    }
}

/// Likewise of a name.
pub fn keep_times_at(
    posix: &Posix,
    (at, name): (&Handle, &Name),
    (atime, mtime): (Time, Time),
    clock: Clock,
) -> Verb<Option<Loss>> {
    match posix.set_times_at(at, name, atime, mtime) {
        Ok(()) if clock.is_sure_of(mtime) => Ok(None),
        Ok(()) => Ok(lost_time(mtime, posix.stat(at, name)?.mtime)),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some(Loss::Times)),
        Err(errno) => Err(errno),
    }
}

/// Whether owner and group are the source's now.
fn keep_owner(posix: &Posix, file: &Handle, source: &Stat, now: &Stat) -> Verb<bool> {
    match posix.set_owner(file, source.uid, source.gid) {
        Ok(()) => return Ok(true),
        Err(errno) if !is_denied(errno) => return Err(errno),
        Err(_) => {}
    }
    // Without privilege a user may still give files to the groups he is in.
    if source.gid != now.gid {
        match posix.set_owner(file, UNCHANGED, source.gid) {
            Ok(()) if source.uid == now.uid => return Ok(true),
            Ok(()) => {}
            Err(errno) if !is_denied(errno) => return Err(errno),
            Err(_) => {}
        }
    }
    Ok(false)
}

/// Nanoseconds that times are told apart by in a directory, tried on a file named `probe`. `None`: they are kept in
/// another way altogether.
pub fn measure_granularity(posix: &Posix, at: &Handle, probe: &Name) -> Verb<Option<u32>> {
    let file = make_probe(posix, at, probe, || posix.create(at, probe, 0o600))?;
    let kept = posix.set_times(&file, ODD, ODD).and_then(|()| posix.stat_handle(&file));
    posix.unlink(at, probe)?;
    Ok(granularity_of(kept?.mtime))
}

/// Makes something to try the file system with. What an interrupted run left of that is replaced, and nothing else.
pub fn make_probe<T>(posix: &Posix, at: &Handle, probe: &Name, make: impl Fn() -> Verb<T>) -> Verb<T> {
    match make() {
        Err(Errno::EXIST) if is_probe(posix, at, probe)? => {
            posix.unlink(at, probe)?;
            make()
        }
        made => made,
    }
}

/// Removes what an interrupted run left of a probe. Best effort.
pub fn remove_probe(posix: &Posix, at: &Handle, probe: &Name) {
    if is_probe(posix, at, probe) == Ok(true) {
        let _ = posix.unlink(at, probe);
    }
}

/// Whether that is an empty file, or a symlink that leads to itself, as probes are.
fn is_probe(posix: &Posix, at: &Handle, probe: &Name) -> Verb<bool> {
    let there = posix.stat(at, probe)?;
    match there.kind() {
        Kind::File => Ok(there.size == 0),
        Kind::Symlink => Ok(posix.read_link(at, probe)? == *probe),
        _ => Ok(false),
    }
}

/// A time of which every digit tells.
const ODD: Time = Time { secs: 1_234_567_891, nanos: 123_456_789 };

/// The granularity that makes [`ODD`] look like this.
fn granularity_of(seen: Time) -> Option<u32> {
    let counts = [1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000];
    let is_it = |count: &u32| seen == Time { nanos: ODD.nanos / count * count, ..ODD };
    counts.into_iter().find(is_it)
}

/// Whether an errno of chown or mknod means "not with your rights" or "not on this file system".
pub fn is_denied(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)
}

/// Whether a source mtime is so near to `now` that an unsealed copy could carry it: within 2 s (I2).
pub fn is_young(mtime: Time, now: Time) -> bool {
    (mtime.secs - now.secs).abs() <= 2
}

/// Whether what is written from `now` on could get a source's mtime by itself: it was changed within the last 2 s, or
/// is said to be changed yet (I2).
pub fn may_be_met(mtime: Time, now: Time) -> bool {
    mtime.secs >= now.secs - 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_under_way_can_be_opened_again_by_nobody_but_its_owner() {
        let modes = [0o644, 0o600, 0o444, 0o466, 0o200, 0].map(mode_under_way);
        assert_eq!(modes, [0o644, 0o600, 0o600, 0o600, 0o600, 0o600]);
    }

    #[test]
    fn a_granularity_is_what_leaves_the_digits_that_are_seen() {
        let seen = |nanos| granularity_of(Time { nanos, ..ODD });
        assert_eq!([seen(123_456_789), seen(123_456_700), seen(123_000_000)], [Some(1), Some(100), Some(1_000_000)]);
        assert_eq!([seen(0), seen(5)], [Some(1_000_000_000), None]);
        assert_eq!(granularity_of(Time { secs: ODD.secs - 1, nanos: 0 }), None);
    }

    #[test]
    fn only_what_may_not_be_kept_is_looked_at_again() {
        let clock = |granularity_nanos| Clock { reach: Reach::Local, granularity_nanos };
        let at = |secs| Time { secs, nanos: 1 };
        let [now, late, early] = [1_700_000_000, i64::from(i32::MAX), i64::from(i32::MIN)].map(at);
        assert_eq!([now, late, early].map(|time| clock(1).is_sure_of(time)), [true, false, false]);
        assert!(clock(1).is_sure_of(at(late.secs - 1)) && clock(1).is_sure_of(at(early.secs + 1)));
        assert!(!clock(1_000_000_000).is_sure_of(now));
        assert!(!Clock { reach: Reach::Remote, ..clock(1) }.is_sure_of(now));
    }

    #[test]
    fn each_bit_and_digit_that_is_not_kept_is_a_loss() {
        let source = Stat { mode: 0o104_755, uid: 1, gid: 2, ..Stat::default() };
        let kinds = |is_owned, permissions| lost(&source, is_owned, permissions).iter().collect::<Vec<_>>();
        assert_eq!(kinds(true, 0o4755), []);
        assert_eq!(kinds(false, 0o755), [Loss::Owner, Loss::SetIds]);
        assert_eq!(kinds(true, 0o644), [Loss::Mode, Loss::SetIds]);
        let time = |secs, nanos| lost_time(ODD, Time { secs, nanos });
        assert_eq!((time(ODD.secs, ODD.nanos), time(ODD.secs, 0)), (None, Some(Loss::TimePrecision)));
        assert_eq!(time(0, ODD.nanos), Some(Loss::Times));
    }
}
