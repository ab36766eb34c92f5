//! Keeps the simulator honest: the same random operations on a real directory and on a [`Disk`], answers compared.
//!
//! [`Direct`] answers an operation by the plain system call; `model.rs` draws the operations and compares.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags, SeekFrom, StatxFlags, Timespec};
use rustix::process::{Gid, Uid};

use super::answer::put_record;
use crate::error::Errno;
use crate::ring::{Access, Answer, Arena, Asked, Completion, Interpreter, Op, Side, Stat, Time};

/// Asks the kernel on the spot.
pub(super) struct Direct {
    /// Where the leases lie.
    pub arena: Arc<Arena>,
}

impl Interpreter for Direct {
    fn ask(&mut self, token: u32, _side: Side, mut op: Op) -> Asked {
        let result = self.answer(&mut op);
        Asked::Answered(Completion { token, op, result })
    }

    fn wait(&mut self, _want: usize, _timeout: Duration, _completions: &mut Vec<Completion>) {}

    fn in_flight(&self) -> usize {
        0
    }
}

/// Never followed, never blocking, never inherited.
const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOATIME);
const HERE: AtFlags = AtFlags::SYMLINK_NOFOLLOW;

impl Direct {
    fn answer(&mut self, op: &mut Op) -> Result<Answer, Errno> {
        match op {
            Op::OpenDir { at, path } => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | SAFE;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                // `..` answers EAGAIN whenever anything on the machine was renamed meanwhile (openat2(2)).
                loop {
                    match fs::openat2(&*at, &*path, flags, Mode::empty(), resolve) {
                        Err(Errno::AGAIN) => {}
                        opened => return Ok(Answer::Handle(Arc::new(opened?))),
                    }
                }
            }
            Op::ReadDir { dir, buffer } => read_dir(dir, buffer),
            Op::Stat { at, name } => stat(at, name, HERE, false),
            Op::StatHandle { file } => stat(file, c"", AtFlags::EMPTY_PATH, true),
            Op::ReadWhole { at, name, lease, len } => {
                let file = fs::openat(&*at, &*name, OFlags::RDONLY | SAFE, Mode::empty())?;
                Ok(Answer::Count(rustix::io::pread(file, &mut self.arena.bytes_mut(lease)[..*len], 0)?))
            }
            Op::Open { at, name, access, mode } => {
                let flags = match access {
                    Access::Read => OFlags::RDONLY,
                    Access::ReadDirect => OFlags::RDONLY | OFlags::DIRECT,
                    Access::Create => OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
                    Access::Write => OFlags::WRONLY,
                    Access::WriteDirect => OFlags::WRONLY | OFlags::DIRECT,
                };
                Ok(Answer::Handle(Arc::new(fs::openat(&*at, &*name, flags | SAFE, Mode::from_raw_mode(*mode))?)))
            }
            Op::Read { file, lease, start, len, offset } => {
                let out = &mut self.arena.bytes_mut(lease)[*start..*start + *len];
                Ok(Answer::Count(rustix::io::pread(file, out, *offset)?))
            }
            Op::Write { file, lease, start, len, offset, .. } => {
                let bytes = &self.arena.bytes(lease)[*start..*start + *len];
                Ok(Answer::Count(rustix::io::pwrite(file, bytes, *offset)?))
            }
            Op::NextData { file, from } => match fs::seek(&*file, SeekFrom::Data(*from)) {
                Ok(start) => Ok(Answer::Extent(Some((start, fs::seek(&*file, SeekFrom::Hole(start))?)))),
                Err(Errno::NXIO) => Ok(Answer::Extent(None)),
                Err(errno) => Err(errno),
            },
            Op::ReadLink { at, name } => Ok(Answer::Target(fs::readlinkat(&*at, &*name, Vec::new())?)),
            Op::HasDefaultAcl { dir } => match fs::fgetxattr(&*dir, c"system.posix_acl_default", &mut [0u8; 0][..]) {
                Ok(_) => Ok(Answer::Flag(true)),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(Answer::Flag(false)),
                Err(errno) => Err(errno),
            },
            Op::Close { .. } => Ok(Answer::Done),
            other => change(other).map(|()| Answer::Done),
        }
    }
}

/// The operations that answer nothing but success.
fn change(op: &mut Op) -> Result<(), Errno> {
    match op {
        Op::MakeDir { at, name, mode } => fs::mkdirat(&*at, &*name, Mode::from_raw_mode(*mode)),
        Op::MakeSymlink { at, name, target } => fs::symlinkat(&*target, &*at, &*name),
        Op::MakeNode { at, name, mode, rdev } => {
            let kind = fs::FileType::from_raw_mode(*mode);
            fs::mknodat(&*at, &*name, kind, Mode::from_raw_mode(*mode & 0o7777), *rdev)
        }
        Op::Link { from_at, from, at, name } => fs::linkat(&*from_at, &*from, &*at, &*name, AtFlags::empty()),
        Op::Rename { at, from, to } => fs::renameat(&*at, &*from, &*at, &*to),
        Op::Unlink { at, name } => fs::unlinkat(&*at, &*name, AtFlags::empty()),
        Op::RemoveDir { at, name } => fs::unlinkat(&*at, &*name, AtFlags::REMOVEDIR),
        Op::Allocate { file, len } => fs::fallocate(&*file, fs::FallocateFlags::empty(), 0, *len),
        Op::Truncate { file, len } => fs::ftruncate(&*file, *len),
        Op::Clone { from, to } => fs::ioctl_ficlone(&*to, &*from),
        Op::SetOwner { file, uid, gid } => fs::fchown(&*file, owner(*uid), group(*gid)),
        Op::SetMode { file, mode } => fs::fchmod(&*file, Mode::from_raw_mode(*mode)),
        Op::SetTimes { file, atime, mtime } => fs::futimens(&*file, &times(*atime, *mtime)),
        Op::SetOwnerAt { at, name, uid, gid } => fs::chownat(&*at, &*name, owner(*uid), group(*gid), HERE),
        Op::SetTimesAt { at, name, atime, mtime } => fs::utimensat(&*at, &*name, &times(*atime, *mtime), HERE),
        Op::DropAcls { file } => {
            for acl in [c"system.posix_acl_access", c"system.posix_acl_default"] {
                match fs::fremovexattr(&*file, acl) {
                    Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        }
        Op::SyncFile { file } => fs::fsync(&*file),
        Op::SyncFileSystem { file } => fs::syncfs(&*file),
        other => unreachable!("answered above: {other:?}"),
    }
}

fn owner(uid: u32) -> Option<Uid> {
    (uid != u32::MAX).then(|| Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<Gid> {
    (gid != u32::MAX).then(|| Gid::from_raw(gid))
}

fn times(atime: Time, mtime: Time) -> fs::Timestamps {
    let timespec = |time: Time| Timespec { tv_sec: time.secs, tv_nsec: time.nanos.into() };
    fs::Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) }
}

fn stat(at: impl std::os::fd::AsFd, name: &std::ffi::CStr, flags: AtFlags, with_align: bool) -> Result<Answer, Errno> {
    let x = fs::statx(at, name, flags, StatxFlags::BASIC_STATS | StatxFlags::DIOALIGN)?;
    let time = |stamp: fs::StatxTimestamp| Time { secs: stamp.tv_sec, nanos: stamp.tv_nsec };
    Ok(Answer::Stat(Stat {
        dev: fs::makedev(x.stx_dev_major, x.stx_dev_minor),
        ino: x.stx_ino,
        mode: x.stx_mode.into(),
        nlink: x.stx_nlink,
        uid: x.stx_uid,
        gid: x.stx_gid,
        rdev: fs::makedev(x.stx_rdev_major, x.stx_rdev_minor),
        size: x.stx_size,
        blocks: x.stx_blocks,
        atime: time(x.stx_atime),
        mtime: time(x.stx_mtime),
        ctime: time(x.stx_ctime),
        mount_id: 0,
        direct_align: if with_align { x.stx_dio_offset_align } else { 0 },
    }))
}

/// One getdents64, its records written again into `buffer`.
fn read_dir(dir: impl std::os::fd::AsFd, buffer: &mut Vec<u8>) -> Result<Answer, Errno> {
    buffer.resize(buffer.capacity(), 0);
    let mut space = vec![MaybeUninit::uninit(); buffer.len()];
    let mut records = fs::RawDir::new(dir, &mut space);
    let mut filled = 0;
    while let Some(record) = records.next() {
        let record = record?;
        let kind = (record.file_type().as_raw_mode() >> 12) as u8;
        let name = record.file_name().to_bytes();
        let len = put_record(&mut buffer[filled..], record.ino(), record.next_entry_cookie(), kind, name);
        filled += len.expect("what getdents put in as many bytes fits again");
        if records.is_buffer_empty() {
            break;
        }
    }
    Ok(Answer::Count(filled))
}
