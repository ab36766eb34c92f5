//! [`Op`]: every question gfast asks the operating system, as a value that owns its memory.
//!
//! An `Op` carries the handles, names and buffer leases that its execution touches, so nothing the kernel may
//! read or write can be freed or reused before the answer is back (I3): the whole `Op` comes home inside its
//! [`Completion`]. Three interpreters answer the same `Op`: the ring, plain system calls (on the spot or on a
//! helper thread) and, in tests, the seeded simulator.
//!
//! Every name is relative to a held directory handle and is never followed when it is a symlink (I8).

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::buffers::Lease;
use crate::error::Errno;
use crate::report::Activity;

/// An open file or directory. The last clone closes it; [`Op::Close`] closes it with its error checked.
pub type Handle = Arc<OwnedFd>;

/// One name, or a path of several where an operation says so: bytes without NUL.
pub type Name = CString;

/// Which end of the job an operation talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Read only (I6).
    Source,
    /// Written.
    Dest,
}

/// Seconds and nanoseconds since 1970; `nanos` is below 1,000,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

impl Time {
    /// This machine's time, as files that change now get it: without a system call, late by up to a tick of the kernel.
    pub fn now() -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Time { secs: now.tv_sec, nanos: now.tv_nsec as u32 }
    }
}

/// What `statx` says of one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Device of the file system, as `makedev` numbers it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// The mount the object was reached through; differs across a bind mount of one file system.
    pub mount_id: u64,
    /// Whether it is what is mounted there; never where the kernel does not tell (before 5.8).
    pub is_mount: bool,
    /// Alignment of offset and length for O_DIRECT in bytes; 0 where there is no O_DIRECT. Only from
    /// [`Op::StatHandle`] and [`Op::StatNew`].
    pub direct_align: u32,
    /// A hash of when the object was made, which tells it from what had its number before; 0 where the file system does
    /// not tell. It takes no more room than there is. From the same two only.
    pub birth: u32,
}

/// The file type bits of `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket, character or block device.
    Special,
}

impl Stat {
    /// What sort of object this is.
    pub fn kind(&self) -> Kind {
        match self.mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Dir,
            libc::S_IFLNK => Kind::Symlink,
            _ => Kind::Special,
        }
    }

    /// Permission bits, set-id and sticky bits: `mode & 07777`.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether `later` shows the same object with the same content (I8): nothing but atime and blocks may differ.
    pub fn is_unchanged_in(&self, later: &Stat) -> bool {
        (self.dev, self.ino, self.mode & libc::S_IFMT) == (later.dev, later.ino, later.mode & libc::S_IFMT)
            && (self.size, self.mtime, self.ctime) == (later.size, later.mtime, later.ctime)
    }
}

/// How [`Op::Open`] opens a regular file. All of them refuse symlinks and never block on a FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read through the page cache, O_NOATIME where allowed.
    Read,
    /// Read past the page cache.
    ReadDirect,
    /// Create a new file for writing; EEXIST if the name is taken.
    Create,
    /// Open an existing file for writing.
    Write,
    /// Open an existing file for writing past the page cache.
    WriteDirect,
}

/// One question to the operating system. `at` and `dir` are held directories, `name` is one component below them.
#[derive(Debug)]
#[allow(
    missing_docs,
    reason = "the fields are named after the arguments of the system calls and told in each variant's line"
)]
pub enum Op {
    /// Opens a directory for listing. `path` may hold several components; none may be a symlink or leave `at`.
    OpenDir { at: Handle, path: Name },
    /// Fills `buffer` with `linux_dirent64` records; [`Answer::Count`] 0 is the end.
    ReadDir { dir: Handle, buffer: Vec<u8> },
    /// Creates a directory with exactly this mode (the process umask is 0).
    MakeDir { at: Handle, name: Name, mode: u32 },
    /// Describes a name.
    Stat { at: Handle, name: Name },
    /// Describes a name as its storage has it now, whatever this machine remembers of it: one question more to a server
    /// or a daemon, none to a local file system.
    Restat { at: Handle, name: Name },
    /// Likewise an open file, without `direct_align` and `birth`.
    RestatHandle { file: Handle },
    /// Describes an open file, `direct_align` and `birth` included.
    StatHandle { file: Handle },
    /// Describes a file that was just created, like [`Op::StatHandle`] but for its times, which are not asked for: on
    /// a file system with multigrain timestamps (Linux 6.13), asking makes the next write log them once more.
    StatNew { file: Handle },
    /// Opens a small file ([`Access::Read`] or [`Access::ReadDirect`]), reads up to `len` bytes from offset 0 into the
    /// lease, closes it. [`Answer::Count`] is what was read: less than `len` only at the end of the file.
    ReadWhole { at: Handle, name: Name, access: Access, lease: Lease, len: usize },
    /// Opens a regular file; `mode` counts only for [`Access::Create`].
    Open { at: Handle, name: Name, access: Access, mode: u32 },
    /// Reads up to `len` bytes at file `offset` into the lease from its byte `start`. May be short.
    Read { file: Handle, lease: Lease, start: usize, len: usize, offset: u64 },
    /// Writes `len` bytes of the lease from its byte `start` at file `offset`. May be short.
    Write { file: Handle, lease: Lease, start: usize, len: usize, offset: u64, path: WritePath },
    /// Allocates bytes 0..len and extends the file to `len`.
    Allocate { file: Handle, len: u64 },
    /// Sets the file's size.
    Truncate { file: Handle, len: u64 },
    /// Finds the first run of data at or after `from`: [`Answer::Extent`].
    NextData { file: Handle, from: u64 },
    /// Shares all of `from`'s extents with `to` (FICLONE).
    Clone { from: Handle, to: Handle },
    /// Sets owner and group; the kernel clears set-id bits.
    SetOwner { file: Handle, uid: u32, gid: u32 },
    /// Sets permission bits.
    SetMode { file: Handle, mode: u32 },
    /// Sets times.
    SetTimes { file: Handle, atime: Time, mtime: Time },
    /// Sets owner and group of a name, itself if it is a symlink.
    SetOwnerAt { at: Handle, name: Name, uid: u32, gid: u32 },
    /// Sets permission bits of a name; EOPNOTSUPP if it is a symlink.
    SetModeAt { at: Handle, name: Name, mode: u32 },
    /// Sets times of a name, itself if it is a symlink.
    SetTimesAt { at: Handle, name: Name, atime: Time, mtime: Time },
    /// Reads a symlink's target: [`Answer::Target`].
    ReadLink { at: Handle, name: Name },
    /// Creates a symlink.
    MakeSymlink { at: Handle, name: Name, target: Name },
    /// Creates a FIFO, socket or device node with exactly this mode (the process umask is 0).
    MakeNode { at: Handle, name: Name, mode: u32, rdev: u64 },
    /// Gives an existing object a further name; EEXIST if it is taken.
    Link { from_at: Handle, from: Name, at: Handle, name: Name },
    /// Renames within one directory, replacing what had the name.
    Rename { at: Handle, from: Name, to: Name },
    /// Removes a name that is not a directory.
    Unlink { at: Handle, name: Name },
    /// Removes an empty directory.
    RemoveDir { at: Handle, name: Name },
    /// Whether a directory hands a default ACL to what is created in it: [`Answer::Flag`].
    HasDefaultAcl { dir: Handle },
    /// Removes access and default ACL.
    DropAcls { file: Handle },
    /// Removes the access ACL of a name, itself if it is a symlink.
    DropAclsAt { at: Handle, name: Name },
    /// Names of extended attributes, a NUL behind each: [`Answer::Bytes`]. An empty `name` is `at` itself, here and in
    /// the three that follow; a symlink is not followed.
    ListXattrs { at: Handle, name: Name },
    /// The value of an extended attribute or ACL: [`Answer::Bytes`].
    GetXattr { at: Handle, name: Name, key: Name },
    /// Gives an extended attribute a value.
    SetXattr { at: Handle, name: Name, key: Name, value: Vec<u8> },
    /// Removes an extended attribute.
    RemoveXattr { at: Handle, name: Name, key: Name },
    /// Whether the file system of `file` has room left for data and inodes: [`Answer::Flag`].
    HasRoom { file: Handle },
    /// Makes one file durable: fsync.
    SyncFile { file: Handle },
    /// Makes a file's bytes durable and drops them from the page cache, so that the next read asks the device.
    DropCache { file: Handle },
    /// Makes a whole file system durable: syncfs.
    SyncFileSystem { file: Handle },
    /// Closes a file, reporting what the file system only says now (NFS: a full disk).
    Close { file: Handle },
    /// What is left of an answered [`Op::Close`]; never asked.
    Closed,
}

impl Op {
    /// What a thread is busy with that waits for it.
    pub fn activity(&self, side: Side) -> Activity {
        match (self, side) {
            (Op::SyncFile { .. } | Op::SyncFileSystem { .. } | Op::DropCache { .. } | Op::Write { .. }, _) => {
                Activity::WriteDest
            }
            (Op::ReadWhole { .. } | Op::Read { .. } | Op::NextData { .. }, Side::Source) => Activity::ReadSource,
            (Op::ReadWhole { .. } | Op::Read { .. } | Op::Allocate { .. } | Op::Truncate { .. }, _) => {
                Activity::WriteDest
            }
            (_, Side::Source) => Activity::SourceNames,
            (_, Side::Dest) => Activity::DestNames,
        }
    }
}

/// How a [`Op::Write`] reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePath {
    /// Through the page cache: answered by a plain pwrite, in order (a deep queue of buffered ring writes on one
    /// file measured 4.6-5.5 s where 0.8-1.1 s are possible).
    Buffered,
    /// Past the page cache: goes to the ring, in depth.
    Direct,
}

/// What a successful [`Op`] answers.
#[derive(Debug)]
pub enum Answer {
    /// Nothing but success.
    Done,
    /// Bytes read, written or filled.
    Count(usize),
    /// The opened file or directory.
    Handle(Handle),
    /// The description.
    Stat(Stat),
    /// A symlink's target.
    Target(Name),
    /// The next run of data as (start, end); `None` when only a hole follows.
    Extent(Option<(u64, u64)>),
    /// Yes or no.
    Flag(bool),
    /// Bytes of a length that nobody knew.
    Bytes(Vec<u8>),
}

/// An answered [`Op`], with all its memory back.
#[derive(Debug)]
pub struct Completion {
    /// Whose question it was: the asker's slab index.
    pub token: u32,
    /// The question itself.
    pub op: Op,
    /// The answer, or the kernel's errno.
    pub result: Result<Answer, Errno>,
}
