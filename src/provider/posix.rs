//! A mounted file system's verbs, typed: each method is one [`Op`] asked through a [`Caller`].
//!
//! All names are single components below a held directory and never followed (I8); the source side is only ever opened
//! for reading (I6). Errors are bare errnos: the caller knows the path and says it.

use crate::error::Errno;
use crate::ring::{Access, Answer, Caller, Handle, Lease, Name, Op, Side, Stat, Time, WritePath};

/// The file system on one side of the job.
#[derive(Clone, Copy)]
pub struct Posix<'a> {
    /// Who answers.
    caller: &'a dyn Caller,
    /// Which side is talked to.
    side: Side,
}

/// The result of one verb.
pub type Verb<T> = Result<T, Errno>;

/// Whether an errno of a look-up says that there is nothing of this name; a file system has nothing either of a name
/// that it cannot hold.
pub fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::INVAL | Errno::ILSEQ | Errno::NAMETOOLONG)
}

impl<'a> Posix<'a> {
    /// The side `side`, answered by `caller`.
    pub fn new(caller: &'a dyn Caller, side: Side) -> Posix<'a> {
        Posix { caller, side }
    }

    fn ask(&self, mut op: Op) -> Verb<Answer> {
        self.caller.call(self.side, &mut op)
    }

    fn change(&self, op: Op) -> Verb<()> {
        self.ask(op).map(drop)
    }

    fn open_with(&self, op: Op) -> Verb<Handle> {
        match self.ask(op)? {
            Answer::Handle(handle) => Ok(handle),
            other => unreachable!("an open answers a handle, not {other:?}"),
        }
    }

    fn describe(&self, op: Op) -> Verb<Stat> {
        match self.ask(op)? {
            Answer::Stat(stat) => Ok(stat),
            other => unreachable!("a stat answers a description, not {other:?}"),
        }
    }

    /// Opens a directory; `path` may have several components.
    pub fn open_dir(&self, at: &Handle, path: &Name) -> Verb<Handle> {
        self.open_with(Op::OpenDir { at: at.clone(), path: path.clone() })
    }

    /// Fills `buffer` with directory records; returns the bytes filled, 0 at the end.
    pub fn read_dir(&self, dir: &Handle, buffer: &mut Vec<u8>) -> Verb<usize> {
        let mut op = Op::ReadDir { dir: dir.clone(), buffer: std::mem::take(buffer) };
        let answer = self.caller.call(self.side, &mut op);
        if let Op::ReadDir { buffer: filled, .. } = op {
            *buffer = filled;
        }
        count(answer)
    }

    /// Opens a regular file.
    pub fn open(&self, at: &Handle, name: &Name, access: Access) -> Verb<Handle> {
        self.open_with(Op::Open { at: at.clone(), name: name.clone(), access, mode: 0 })
    }

    /// Creates a regular file; EEXIST if the name is taken.
    pub fn create(&self, at: &Handle, name: &Name, mode: u32) -> Verb<Handle> {
        self.open_with(Op::Open { at: at.clone(), name: name.clone(), access: Access::Create, mode })
    }

    /// Describes a name.
    pub fn stat(&self, at: &Handle, name: &Name) -> Verb<Stat> {
        self.describe(Op::Stat { at: at.clone(), name: name.clone() })
    }

    /// Describes an open file.
    pub fn stat_handle(&self, file: &Handle) -> Verb<Stat> {
        self.describe(Op::StatHandle { file: file.clone() })
    }

    /// Describes a name as its storage has it now. A mount answers from what this machine remembers otherwise, for up
    /// to a minute (NFS), or for as long as a daemon allows (FUSE).
    pub fn restat(&self, at: &Handle, name: &Name) -> Verb<Stat> {
        self.describe(Op::Restat { at: at.clone(), name: name.clone() })
    }

    /// Likewise an open file.
    pub fn restat_handle(&self, file: &Handle) -> Verb<Stat> {
        self.describe(Op::RestatHandle { file: file.clone() })
    }

    /// Describes a file that was just created; its times are not asked for.
    pub fn stat_new(&self, file: &Handle) -> Verb<Stat> {
        self.describe(Op::StatNew { file: file.clone() })
    }

    /// Writes all of `len` bytes of the lease from its start at `offset`. Ends: each turn writes at least a byte.
    pub fn write_all(&self, file: &Handle, lease: Lease, len: usize, offset: u64) -> (Lease, Verb<()>) {
        let path = WritePath::Buffered;
        let mut op = Op::Write { file: file.clone(), lease, start: 0, len, offset, path };
        let result = loop {
            match count(self.caller.call(self.side, &mut op)) {
                Ok(0) => break Err(Errno::IO),
                Ok(written) => match &mut op {
                    Op::Write { len, .. } if *len == written => break Ok(()),
                    Op::Write { start, len, offset, .. } => {
                        (*start, *len, *offset) = (*start + written, *len - written, *offset + written as u64);
                    }
                    _ => unreachable!("a write stays a write"),
                },
                Err(errno) => break Err(errno),
            }
        };
        let Op::Write { lease, .. } = op else { unreachable!("a write stays a write") };
        (lease, result)
    }

    /// Reads `wanted` bytes from `offset` on to the lease's start, less only at the end of the file. O_DIRECT wants
    /// multiples of `align`, and stops off them at the end only; through the page cache it is 1. Ends: each further
    /// question follows bytes that were not there before.
    pub fn read_all(
        &self,
        file: &Handle,
        align: usize,
        lease: Lease,
        wanted: usize,
        offset: u64,
    ) -> (Lease, Verb<usize>) {
        let asked = wanted.next_multiple_of(align).min(lease.capacity());
        let mut op = Op::Read { file: file.clone(), lease, start: 0, len: asked, offset };
        let result = loop {
            let read = count(self.caller.call(self.side, &mut op));
            let Op::Read { start, len, offset, .. } = &mut op else { unreachable!("a read stays a read") };
            match read {
                Err(errno) => break Err(errno),
                Ok(read) => {
                    (*start, *len, *offset) = (*start + read, *len - read, *offset + read as u64);
                    if read == 0 || *start >= wanted || !start.is_multiple_of(align) {
                        break Ok(wanted.min(*start));
                    }
                }
            }
        };
        let Op::Read { lease, .. } = op else { unreachable!("a read stays a read") };
        (lease, result)
    }

    /// The next run of data at or after `from`, as (start, end).
    pub fn next_data(&self, file: &Handle, from: u64) -> Verb<Option<(u64, u64)>> {
        match self.ask(Op::NextData { file: file.clone(), from })? {
            Answer::Extent(extent) => Ok(extent),
            other => unreachable!("a data search answers an extent, not {other:?}"),
        }
    }

    /// A symlink's target.
    pub fn read_link(&self, at: &Handle, name: &Name) -> Verb<Name> {
        match self.ask(Op::ReadLink { at: at.clone(), name: name.clone() })? {
            Answer::Target(target) => Ok(target),
            other => unreachable!("a readlink answers a target, not {other:?}"),
        }
    }

    /// Whether a directory hands a default ACL to what is created in it.
    pub fn has_default_acl(&self, dir: &Handle) -> Verb<bool> {
        self.flag(Op::HasDefaultAcl { dir: dir.clone() })
    }

    fn flag(&self, op: Op) -> Verb<bool> {
        match self.ask(op)? {
            Answer::Flag(flag) => Ok(flag),
            other => unreachable!("a question of yes or no answers a flag, not {other:?}"),
        }
    }

    /// Creates a directory.
    pub fn make_dir(&self, at: &Handle, name: &Name, mode: u32) -> Verb<()> {
        self.change(Op::MakeDir { at: at.clone(), name: name.clone(), mode })
    }

    /// Creates a symlink.
    pub fn make_symlink(&self, at: &Handle, name: &Name, target: &Name) -> Verb<()> {
        self.change(Op::MakeSymlink { at: at.clone(), name: name.clone(), target: target.clone() })
    }

    /// Creates a FIFO, socket or device node.
    pub fn make_node(&self, at: &Handle, name: &Name, mode: u32, rdev: u64) -> Verb<()> {
        self.change(Op::MakeNode { at: at.clone(), name: name.clone(), mode, rdev })
    }

    /// Gives an existing object a further name.
    pub fn link(&self, from_at: &Handle, from: &Name, at: &Handle, name: &Name) -> Verb<()> {
        let (from_at, from) = (from_at.clone(), from.clone());
        self.change(Op::Link { from_at, from, at: at.clone(), name: name.clone() })
    }

    /// Renames within one directory.
    pub fn rename(&self, at: &Handle, from: &Name, to: &Name) -> Verb<()> {
        self.change(Op::Rename { at: at.clone(), from: from.clone(), to: to.clone() })
    }

    /// Removes a name that is not a directory.
    pub fn unlink(&self, at: &Handle, name: &Name) -> Verb<()> {
        self.change(Op::Unlink { at: at.clone(), name: name.clone() })
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, at: &Handle, name: &Name) -> Verb<()> {
        self.change(Op::RemoveDir { at: at.clone(), name: name.clone() })
    }

    /// Allocates bytes 0..len.
    pub fn allocate(&self, file: &Handle, len: u64) -> Verb<()> {
        self.change(Op::Allocate { file: file.clone(), len })
    }

    /// Sets the size.
    pub fn truncate(&self, file: &Handle, len: u64) -> Verb<()> {
        self.change(Op::Truncate { file: file.clone(), len })
    }

    /// Shares all of `from`'s extents with `to`.
    pub fn clone_extents(&self, from: &Handle, to: &Handle) -> Verb<()> {
        self.change(Op::Clone { from: from.clone(), to: to.clone() })
    }

    /// Sets owner and group of an open file.
    pub fn set_owner(&self, file: &Handle, uid: u32, gid: u32) -> Verb<()> {
        self.change(Op::SetOwner { file: file.clone(), uid, gid })
    }

    /// Sets owner and group of a name.
    pub fn set_owner_at(&self, at: &Handle, name: &Name, uid: u32, gid: u32) -> Verb<()> {
        self.change(Op::SetOwnerAt { at: at.clone(), name: name.clone(), uid, gid })
    }

    /// Sets permission bits of an open file.
    pub fn set_mode(&self, file: &Handle, mode: u32) -> Verb<()> {
        self.change(Op::SetMode { file: file.clone(), mode })
    }

    /// Sets permission bits of a name that is no symlink.
    pub fn set_mode_at(&self, at: &Handle, name: &Name, mode: u32) -> Verb<()> {
        self.change(Op::SetModeAt { at: at.clone(), name: name.clone(), mode })
    }

    /// Sets times of an open file.
    pub fn set_times(&self, file: &Handle, atime: Time, mtime: Time) -> Verb<()> {
        self.change(Op::SetTimes { file: file.clone(), atime, mtime })
    }

    /// Sets times of a name.
    pub fn set_times_at(&self, at: &Handle, name: &Name, atime: Time, mtime: Time) -> Verb<()> {
        self.change(Op::SetTimesAt { at: at.clone(), name: name.clone(), atime, mtime })
    }

    /// Removes access and default ACL of an open file.
    pub fn drop_acls(&self, file: &Handle) -> Verb<()> {
        self.change(Op::DropAcls { file: file.clone() })
    }

    /// Removes the access ACL of a name.
    pub fn drop_acls_at(&self, at: &Handle, name: &Name) -> Verb<()> {
        self.change(Op::DropAclsAt { at: at.clone(), name: name.clone() })
    }

    /// Names of extended attributes, a NUL behind each, of a name or, if that is empty, of `at` itself.
    pub fn list_xattrs(&self, at: &Handle, name: &Name) -> Verb<Vec<u8>> {
        self.bytes(Op::ListXattrs { at: at.clone(), name: name.clone() })
    }

    /// The value of an extended attribute or ACL, likewise.
    pub fn xattr(&self, at: &Handle, name: &Name, key: &Name) -> Verb<Vec<u8>> {
        self.bytes(Op::GetXattr { at: at.clone(), name: name.clone(), key: key.clone() })
    }

    fn bytes(&self, op: Op) -> Verb<Vec<u8>> {
        match self.ask(op)? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => unreachable!("attributes are bytes, not {other:?}"),
        }
    }

    /// Gives an extended attribute or ACL a value, likewise.
    pub fn set_xattr(&self, at: &Handle, name: &Name, key: &Name, value: &[u8]) -> Verb<()> {
        let (at, name, key) = (at.clone(), name.clone(), key.clone());
        self.change(Op::SetXattr { at, name, key, value: value.to_vec() })
    }

    /// Removes an extended attribute or ACL, likewise.
    pub fn remove_xattr(&self, at: &Handle, name: &Name, key: &Name) -> Verb<()> {
        self.change(Op::RemoveXattr { at: at.clone(), name: name.clone(), key: key.clone() })
    }

    /// Whether the file system has room left.
    pub fn has_room(&self, file: &Handle) -> Verb<bool> {
        self.flag(Op::HasRoom { file: file.clone() })
    }

    /// Makes one file durable.
    pub fn sync_file(&self, file: &Handle) -> Verb<()> {
        self.change(Op::SyncFile { file: file.clone() })
    }

    /// Makes a file's bytes durable and drops them from the page cache.
    pub fn drop_cache(&self, file: &Handle) -> Verb<()> {
        self.change(Op::DropCache { file: file.clone() })
    }

    /// Makes a file system durable.
    pub fn sync_file_system(&self, file: &Handle) -> Verb<()> {
        self.change(Op::SyncFileSystem { file: file.clone() })
    }

    /// Closes the last handle of a file with its error.
    pub fn close(&self, file: Handle) -> Verb<()> {
        self.change(Op::Close { file })
    }
}

fn count(answer: Verb<Answer>) -> Verb<usize> {
    match answer? {
        Answer::Count(count) => Ok(count),
        other => unreachable!("a read or write answers a count, not {other:?}"),
    }
}
