//! The plain interpreter's heart: each [`Op`] answered by the system calls it stands for, on the calling thread.
//!
//! The ring uses it too, for everything that io_uring has no operation for or would only hand to a kernel worker
//! thread (design: metadata goes by plain system calls). Where an operation takes several calls (open, read, close)
//! an error leaves nothing open.

#![expect(unsafe_code, reason = "getdents64 and a checked close have no safe wrapper")]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, StatxAttributes, StatxFlags,
    Timestamps, Uid,
};

use super::xattrs;
use super::{Access, Answer, Arena, Asked, Caller, Completion, Handle, Interpreter, Name, Op, Side, Stat, Time};
use crate::error::Errno;
use crate::report::Busy;

/// Flags of every open of a source object: no terminal, no blocking on a FIFO, never through a symlink (I8).
const OPEN_SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Flags of every description of a name.
const STAT_NAME: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);
/// What is asked of a name.
const STAT_MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);
/// What is asked of an open file.
const STAT_HANDLE_MASK: StatxFlags = STAT_MASK.union(StatxFlags::DIOALIGN).union(StatxFlags::BTIME);
/// What is asked of a file that was just created.
const STAT_NEW_MASK: StatxFlags =
    STAT_HANDLE_MASK.difference(StatxFlags::ATIME.union(StatxFlags::MTIME).union(StatxFlags::CTIME));

/// Answers `op` on this thread. An [`Op::Close`] turns into [`Op::Closed`]: its handle is gone.
pub fn answer(side: Side, op: &mut Op, arena: &Arena) -> Result<Answer, Errno> {
    if let Op::Close { .. } = op {
        let Op::Close { file } = std::mem::replace(op, Op::Closed) else { unreachable!("just matched") };
        return close(file).map(|()| Answer::Done);
    }
    loop {
        match perform(side, op, arena) {
            Err(Errno::INTR) => continue,
            result => return result,
        }
    }
}

/// The plain interpreter: answers on the calling thread.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The memory leases point into.
    arena: Arc<Arena>,
    /// Told what the thread is busy with.
    busy: Arc<Busy>,
}

impl Kernel {
    /// Plain system calls on the memory of `arena`.
    pub fn new(arena: Arc<Arena>) -> Kernel {
        Kernel { arena, busy: Arc::default() }
    }

    /// The same, telling `busy` what its thread waits for.
    pub fn telling(self, busy: Arc<Busy>) -> Kernel {
        Kernel { busy, ..self }
    }

    /// The memory leases point into.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }
}

impl Caller for Kernel {
    fn call(&self, side: Side, op: &mut Op) -> Result<Answer, Errno> {
        let before = self.busy.now();
        self.busy.set(op.activity(side));
        let answered = answer(side, op, &self.arena);
        self.busy.set(before);
        answered
    }
}

impl Interpreter for Kernel {
    fn ask(&mut self, token: u32, side: Side, mut op: Op) -> Asked {
        let result = self.call(side, &mut op);
        Asked::Answered(Completion { token, op, result })
    }

    fn wait(&mut self, _want: usize, _timeout: Duration, _completions: &mut Vec<Completion>) {}

    fn in_flight(&self) -> usize {
        0
    }
}

fn perform(side: Side, op: &mut Op, arena: &Arena) -> Result<Answer, Errno> {
    match op {
        Op::ReadWhole { at, name, access, lease, len } => {
            let file = open_file(at, name, *access, 0)?;
            read_fully(&file, &mut arena.bytes_mut(lease)[..*len]).map(Answer::Count)
        }
        Op::Read { file, lease, start, len, offset } => {
            let bytes = &mut arena.bytes_mut(lease)[*start..*start + *len];
            rustix::io::pread(file, bytes, *offset).map(Answer::Count)
        }
        Op::Write { file, lease, start, len, offset, path: _ } => {
            rustix::io::pwrite(file, &arena.bytes(lease)[*start..*start + *len], *offset).map(Answer::Count)
        }
        Op::ReadDir { dir, buffer } => get_dents(dir, buffer).map(Answer::Count),
        Op::OpenDir { at, path } => open_dir(side, at, path).map(handle),
        Op::Open { at, name, access, mode } => open_file(at, name, *access, *mode).map(handle),
        Op::Stat { at, name } => stat(at, name, STAT_NAME, STAT_MASK).map(Answer::Stat),
        Op::Restat { at, name } => {
            stat(at, name, STAT_NAME.union(AtFlags::STATX_FORCE_SYNC), STAT_MASK).map(Answer::Stat)
        }
        Op::RestatHandle { file } => {
            stat(file, c"", AtFlags::EMPTY_PATH.union(AtFlags::STATX_FORCE_SYNC), STAT_MASK).map(Answer::Stat)
        }
        Op::StatHandle { file } => stat(file, c"", AtFlags::EMPTY_PATH, STAT_HANDLE_MASK).map(Answer::Stat),
        Op::StatNew { file } => stat(file, c"", AtFlags::EMPTY_PATH, STAT_NEW_MASK).map(Answer::Stat),
        Op::NextData { file, from } => next_data(file, *from).map(Answer::Extent),
        Op::ReadLink { at, name } => rustix::fs::readlinkat(&**at, &**name, Vec::new()).map(Answer::Target),
        Op::HasDefaultAcl { dir } => has_default_acl(dir).map(Answer::Flag),
        Op::ListXattrs { at, name } => xattrs::list(at, name).map(Answer::Bytes),
        Op::GetXattr { at, name, key } => xattrs::get(at, name, key).map(Answer::Bytes),
        Op::HasRoom { file } => has_room(file).map(Answer::Flag),
        change => perform_change(change).map(|()| Answer::Done),
    }
}

/// The operations that answer nothing but success.
fn perform_change(op: &Op) -> Result<(), Errno> {
    match op {
        Op::MakeDir { at, name, mode } => rustix::fs::mkdirat(at, &**name, Mode::from_raw_mode(*mode)),
        Op::Allocate { file, len } => rustix::fs::fallocate(file, FallocateFlags::empty(), 0, *len),
        Op::Truncate { file, len } => rustix::fs::ftruncate(file, *len),
        Op::Clone { from, to } => rustix::fs::ioctl_ficlone(to, from),
        Op::SetOwner { file, uid, gid } => rustix::fs::fchown(file, owner(*uid), group(*gid)),
        Op::SetMode { file, mode } => rustix::fs::fchmod(file, Mode::from_raw_mode(*mode)),
        Op::SetTimes { file, atime, mtime } => rustix::fs::futimens(file, &timestamps(*atime, *mtime)),
        Op::SetOwnerAt { at, name, uid, gid } => {
            rustix::fs::chownat(at, &**name, owner(*uid), group(*gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        Op::SetTimesAt { at, name, atime, mtime } => {
            rustix::fs::utimensat(at, &**name, &timestamps(*atime, *mtime), AtFlags::SYMLINK_NOFOLLOW)
        }
        Op::MakeSymlink { at, name, target } => rustix::fs::symlinkat(&**target, at, &**name),
        Op::MakeNode { at, name, mode, rdev } => {
            let mode_bits = Mode::from_raw_mode(*mode & 0o7777);
            rustix::fs::mknodat(at, &**name, FileType::from_raw_mode(*mode), mode_bits, *rdev)
        }
        Op::Link { from_at, from, at, name } => rustix::fs::linkat(from_at, &**from, at, &**name, AtFlags::empty()),
        Op::Rename { at, from, to } => rustix::fs::renameat(at, &**from, at, &**to),
        Op::Unlink { at, name } => rustix::fs::unlinkat(at, &**name, AtFlags::empty()),
        Op::RemoveDir { at, name } => rustix::fs::unlinkat(at, &**name, AtFlags::REMOVEDIR),
        Op::SetModeAt { at, name, mode } => set_mode_at(at, name, *mode),
        Op::DropAcls { file } => drop_acls(file),
        Op::DropAclsAt { at, name } => drop_acls_at(at, name),
        Op::SetXattr { at, name, key, value } => xattrs::set(at, name, key, value),
        Op::RemoveXattr { at, name, key } => xattrs::remove(at, name, key),
        Op::DropCache { file } => {
            rustix::fs::fdatasync(file)?;
            rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)
        }
        Op::SyncFile { file } => rustix::fs::fsync(file),
        Op::SyncFileSystem { file } => rustix::fs::syncfs(file),
        other => unreachable!("answered elsewhere: {other:?}"),
    }
}

fn handle(fd: OwnedFd) -> Answer {
    Answer::Handle(Arc::new(fd))
}

/// chown(2) takes the highest number for "as it is".
fn owner(uid: u32) -> Option<Uid> {
    (uid != u32::MAX).then(|| Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<Gid> {
    (gid != u32::MAX).then(|| Gid::from_raw(gid))
}

fn timestamps(atime: Time, mtime: Time) -> Timestamps {
    let timespec = |time: Time| rustix::fs::Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
    Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) }
}

/// Opens for reading with O_NOATIME, which only the owner and root may ask for, else without.
fn open_read(at: &Handle, name: &Name, extra: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OPEN_SAFE | OFlags::RDONLY | extra;
    match rustix::fs::openat(at, &**name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(at, &**name, flags, Mode::empty()),
        result => result,
    }
}

fn open_file(at: &Handle, name: &Name, access: Access, mode: u32) -> Result<OwnedFd, Errno> {
    let write = OPEN_SAFE | OFlags::WRONLY;
    match access {
        Access::Read => open_read(at, name, OFlags::empty()),
        Access::ReadDirect => open_read(at, name, OFlags::DIRECT),
        // For reading, too: a file that is open for writing alone can be neither described nor cut by smbnetfs.
        Access::Create => {
            let flags = OPEN_SAFE | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            rustix::fs::openat(at, &**name, flags, Mode::from_raw_mode(mode))
        }
        Access::Write => rustix::fs::openat(at, &**name, write, Mode::empty()),
        Access::WriteDirect => rustix::fs::openat(at, &**name, write | OFlags::DIRECT, Mode::empty()),
    }
}

/// One component needs no openat2: O_NOFOLLOW refuses the symlink, and a listing never yields "..".
fn open_dir(side: Side, at: &Handle, path: &Name) -> Result<OwnedFd, Errno> {
    let base = OPEN_SAFE | OFlags::RDONLY | OFlags::DIRECTORY;
    let first = match side {
        Side::Source => base | OFlags::NOATIME,
        Side::Dest => base,
    };
    match open_dir_with(at, path, first) {
        Err(Errno::PERM) if side == Side::Source => open_dir_with(at, path, base),
        result => result,
    }
}

fn open_dir_with(at: &Handle, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    if !path.to_bytes().contains(&b'/') {
        return rustix::fs::openat(at, path, flags, Mode::empty());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(at, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere raced with the resolution; openat2(2) says to try again. Renames end.
            Err(Errno::AGAIN) => continue,
            // Kernels and sandboxes without openat2: the same, a component at a time.
            Err(Errno::NOSYS | Errno::PERM) => return open_dir_stepwise(at, path, flags),
            result => return result,
        }
    }
}

fn open_dir_stepwise(at: &Handle, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut dir = at.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
    for component in path.to_bytes().split(|&b| b == b'/').filter(|c| !c.is_empty()) {
        if component == b".." {
            return Err(Errno::XDEV);
        }
        dir = rustix::fs::openat(&dir, component, flags, Mode::empty())?;
    }
    Ok(dir)
}

/// Reads until `bytes` is full or the file ends. Ends: every turn shrinks what is left or returns.
fn read_fully(file: &OwnedFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(file, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

fn get_dents(dir: &Handle, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`, which is borrowed exclusively.
    let count = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    usize::try_from(count).map_err(|_| last_errno())
}

/// close(2) with its error: NFS and FUSE report a full disk or a write error only here.
fn close(file: Handle) -> Result<(), Errno> {
    let Ok(fd) = Arc::try_unwrap(file) else { return Ok(()) };
    // SAFETY: the descriptor was owned and is given up here; close(2) frees it even when it reports an error.
    match unsafe { libc::close(fd.into_raw_fd()) } {
        0 => Ok(()),
        _ => match last_errno() {
            Errno::INTR => Ok(()),
            errno => Err(errno),
        },
    }
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn stat(at: &Handle, name: &CStr, flags: AtFlags, mask: StatxFlags) -> Result<Stat, Errno> {
    let statx = rustix::fs::statx(at.as_fd(), name, flags, mask)?;
    Ok(Stat {
        dev: rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor),
        ino: statx.stx_ino,
        mode: statx.stx_mode.into(),
        nlink: statx.stx_nlink,
        uid: statx.stx_uid,
        gid: statx.stx_gid,
        rdev: rustix::fs::makedev(statx.stx_rdev_major, statx.stx_rdev_minor),
        size: statx.stx_size,
        blocks: statx.stx_blocks,
        atime: time(statx.stx_atime),
        mtime: time(statx.stx_mtime),
        ctime: time(statx.stx_ctime),
        mount_id: statx.stx_mnt_id,
        is_mount: statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        direct_align: statx.stx_dio_offset_align.max(statx.stx_dio_mem_align),
        birth: if statx.stx_mask & StatxFlags::BTIME.bits() == 0 { 0 } else { birth(time(statx.stx_btime)) },
    })
}

/// Seconds spread over all bits (Knuth's multiplicative hash), and the nanoseconds; never 0.
fn birth(time: Time) -> u32 {
    ((time.secs as u32).wrapping_mul(0x9e37_79b1) ^ time.nanos).max(1)
}

fn time(timestamp: rustix::fs::StatxTimestamp) -> Time {
    Time { secs: timestamp.tv_sec, nanos: timestamp.tv_nsec }
}

fn next_data(file: &Handle, from: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => Ok(Some((start, end))),
        // The file was cut between the two calls; the reader will notice.
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn has_default_acl(dir: &Handle) -> Result<bool, Errno> {
    match rustix::fs::fgetxattr(dir, c"system.posix_acl_default", &mut [0u8; 0][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whether more than crumbs are left; a file system that counts no inodes has room for them.
fn has_room(file: &Handle) -> Result<bool, Errno> {
    const BYTES_MIN: u64 = 1 << 20;
    let now = rustix::fs::fstatvfs(file)?;
    Ok(now.f_bavail * now.f_frsize >= BYTES_MIN && (now.f_files == 0 || now.f_favail > 0))
}

fn drop_acls(file: &Handle) -> Result<(), Errno> {
    for name in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        match rustix::fs::fremovexattr(file, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// fchmodat(2) follows symlinks and fchmodat2(2) came with 6.6 only: the object is held and changed through its link in
/// /proc.
fn set_mode_at(at: &Handle, name: &CStr, mode: u32) -> Result<(), Errno> {
    let held = rustix::fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::chmod(format!("/proc/self/fd/{}", held.as_raw_fd()), Mode::from_raw_mode(mode))
}

/// There is no lremovexattrat before Linux 6.13: the held directory is named through procfs instead, and the name below
/// it is not followed.
fn drop_acls_at(at: &Handle, name: &CStr) -> Result<(), Errno> {
    let mut path = format!("/proc/self/fd/{}/", at.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    match rustix::fs::lremovexattr(path, c"system.posix_acl_access") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}
