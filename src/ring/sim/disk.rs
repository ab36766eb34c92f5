//! [`Disk`]: one simulated file system, as the kernel shows it (live) and as the platter holds it (durable).
//!
//! ```text
//!          live                        since the last sync                     durable
//!   names  Dir::live                   Dir::changes, in order, each atomic     Dir::durable
//!   inode  Node::attrs                 Node::history, every version            Node::durable
//!   bytes  File::live                  File::dirty, block indexes              File::durable
//! ```
//!
//! Operations on names and inodes are here, with the errnos Linux gives to root; `crash.rs` says what a power cut
//! leaves. Only a sync moves anything into the durable column. A sync of a file does *not* make its name durable
//! (POSIX does not promise it, although ext4 and xfs keep it): the directory has to be synced, or the file system.

use std::collections::{BTreeMap, BTreeSet};

use super::content::{BLOCK_BYTES, Content};
use crate::error::Errno;
use crate::ring::{Kind, Stat, Time};

/// Inode number.
pub type Ino = u64;

/// Where the simulated clock of a new disk starts, in seconds: behind every time a test sets, so that a time says
/// whether it was set or came from the clock.
pub const CLOCK_START_SECS: i64 = 2_000_000_000;

/// The root directory's inode.
pub(super) const ROOT: Ino = 2;

/// What an inode says of itself, but for its number of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attrs {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Last access; reads do not change it.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A directory's names.
#[derive(Clone, Debug, Default)]
pub(super) struct Dir {
    /// The directory it is in; the root is in itself.
    pub parent: Ino,
    /// As the kernel shows them.
    pub live: BTreeMap<Vec<u8>, Ino>,
    /// As they were when last synced.
    pub durable: BTreeMap<Vec<u8>, Ino>,
    /// What happened since: each a set of names that change together.
    pub changes: Vec<Vec<(Vec<u8>, Option<Ino>)>>,
}

/// A regular file's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    /// As the kernel shows them.
    pub live: Content,
    /// As they were when last synced.
    pub durable: Content,
    /// Blocks a sync would write. A sync that fails forgets them, as the kernel does.
    pub dirty: BTreeSet<u64>,
}

/// What an inode holds.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// A regular file.
    File(File),
    /// A directory.
    Dir(Dir),
    /// A symlink and its target.
    Symlink(Vec<u8>),
    /// FIFO, socket, device.
    Special,
}

/// One inode.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// What it holds.
    pub body: Body,
    /// Number of names (a directory's: 2 and its subdirectories); 0 when it is removed but may be open.
    pub nlink: u32,
    /// As the kernel shows them.
    pub attrs: Attrs,
    /// Every version since `durable`, oldest first.
    pub history: Vec<Attrs>,
    /// As they were when last synced; `None` for an inode that was never.
    pub durable: Option<Attrs>,
}

/// One simulated file system.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Device number; two disks of one number are one file system to [`crate::ring::Op::Clone`].
    pub dev: u64,
    /// Alignment of direct I/O in bytes; 0 refuses it.
    pub direct_align: u32,
    /// Whether FICLONE works.
    pub can_clone: bool,
    /// Bytes of blocks it can hold; `None` is no limit.
    pub capacity_bytes: Option<u64>,
    /// Bytes of blocks it holds.
    used_bytes: u64,
    /// Nanoseconds since 1970.
    pub(super) clock_ns: i64,
    /// All inodes, removed ones included as they may be open.
    pub(super) nodes: BTreeMap<Ino, Node>,
    /// The next inode's number.
    pub(super) next_ino: Ino,
}

impl Node {
    /// Whether it is a directory.
    pub(super) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }
}

impl Disk {
    /// An empty file system: a root directory of mode 0755, durable.
    pub fn new(dev: u64) -> Disk {
        let mut disk = Disk {
            dev,
            direct_align: 512,
            can_clone: false,
            capacity_bytes: None,
            used_bytes: 0,
            clock_ns: CLOCK_START_SECS * 1_000_000_000,
            nodes: BTreeMap::new(),
            next_ino: ROOT,
        };
        let body = Body::Dir(Dir { parent: ROOT, ..Dir::default() });
        disk.insert(body, libc::S_IFDIR | 0o755, 0);
        disk.sync_all();
        disk
    }

    /// The simulated time.
    pub fn now(&self) -> Time {
        let (secs, nanos) = (self.clock_ns.div_euclid(1_000_000_000), self.clock_ns.rem_euclid(1_000_000_000));
        Time { secs, nanos: nanos as u32 }
    }

    /// Sets the space that is taken, after a recount.
    pub(super) fn set_used(&mut self, bytes: u64) {
        self.used_bytes = bytes;
    }

    /// Adds an inode without a name.
    fn insert(&mut self, body: Body, mode: u32, rdev: u64) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        let now = self.now();
        let (nlink, size) = match &body {
            Body::Dir(_) => (2, BLOCK_BYTES),
            Body::Symlink(target) => (1, target.len() as u64),
            _ => (1, 0),
        };
        let (atime, mtime, ctime) = (now, now, now);
        let (uid, gid, xattrs) = (0, 0, BTreeMap::new());
        let attrs = Attrs { mode, uid, gid, rdev, size, atime, mtime, ctime, xattrs };
        self.nodes.insert(ino, Node { body, nlink, attrs: attrs.clone(), history: vec![attrs], durable: None });
        ino
    }

    /// What has no name is gone, and its number given to the next, as file systems do it. To be called when nothing is
    /// open and everything is durable.
    pub fn give_numbers_again(&mut self) {
        self.nodes.retain(|_, node| node.nlink > 0);
        self.next_ino = self.nodes.keys().next_back().map_or(ROOT, |last| last + 1);
    }

    pub(super) fn node(&self, ino: Ino) -> &Node {
        self.nodes.get(&ino).expect("I3: an inode that is open or named exists")
    }

    pub(super) fn node_mut(&mut self, ino: Ino) -> &mut Node {
        self.nodes.get_mut(&ino).expect("I3: an inode that is open or named exists")
    }

    /// The directory `ino`, or ENOTDIR.
    pub(super) fn dir(&self, ino: Ino) -> Result<&Dir, Errno> {
        match &self.node(ino).body {
            Body::Dir(dir) => Ok(dir),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> &mut Dir {
        match &mut self.node_mut(ino).body {
            Body::Dir(dir) => dir,
            _ => unreachable!("checked by `dir`"),
        }
    }

    fn file_mut(&mut self, ino: Ino) -> &mut File {
        match &mut self.node_mut(ino).body {
            Body::File(file) => file,
            _ => unreachable!("only regular files are opened for writing"),
        }
    }

    /// The inode that `name` names in directory `at`.
    pub(super) fn lookup(&self, at: Ino, name: &[u8]) -> Result<Ino, Errno> {
        let dir = self.dir(at)?;
        match name {
            b"" => Err(Errno::NOENT),
            b"." => Ok(at),
            b".." => Ok(dir.parent),
            name if name.len() > 255 && self.node(at).nlink > 0 => Err(Errno::NAMETOOLONG),
            name => dir.live.get(name).copied().ok_or(Errno::NOENT),
        }
    }

    /// Whether something may be created as `name` in directory `at`.
    fn check_vacant(&self, at: Ino, name: &[u8]) -> Result<(), Errno> {
        match self.lookup(at, name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) if name.is_empty() || self.node(at).nlink == 0 => Err(Errno::NOENT),
            Err(Errno::NOENT) if self.capacity_bytes.is_some_and(|capacity| self.used_bytes >= capacity) => {
                Err(Errno::NOSPC)
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Changes names of directory `at` in one step.
    fn change_names(&mut self, at: Ino, names: Vec<(Vec<u8>, Option<Ino>)>) {
        let dir = self.dir_mut(at);
        for (name, ino) in &names {
            match ino {
                Some(ino) => dir.live.insert(name.clone(), *ino),
                None => dir.live.remove(name),
            };
        }
        dir.changes.push(names);
        let now = self.now();
        self.change(at, |attrs| attrs.mtime = now);
    }

    /// Changes attributes; ctime follows.
    pub(super) fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Attrs)) {
        let now = self.now();
        let node = self.node_mut(ino);
        change(&mut node.attrs);
        node.attrs.ctime = now;
        node.history.push(node.attrs.clone());
    }

    /// Changes bytes: mtime and ctime follow.
    fn change_bytes(&mut self, ino: Ino, size: u64) {
        let now = self.now();
        self.change(ino, |attrs| (attrs.size, attrs.mtime) = (size, now));
    }

    /// Creates an inode of `mode` (type included) as `name`.
    fn create_node(&mut self, at: Ino, name: &[u8], body: Body, mode: u32, rdev: u64) -> Result<Ino, Errno> {
        self.check_vacant(at, name)?;
        let parent = self.node(at).attrs.clone();
        let ino = self.insert(body, mode, rdev);
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        let node = self.node_mut(ino);
        if parent.mode & libc::S_ISGID != 0 {
            node.attrs.gid = parent.gid;
            node.attrs.mode |= if is_dir { libc::S_ISGID } else { 0 };
        }
        parent.hand_on(&mut node.attrs);
        node.history = vec![node.attrs.clone()];
        if is_dir {
            self.node_mut(at).nlink += 1;
        }
        self.change_names(at, vec![(name.to_vec(), Some(ino))]);
        Ok(ino)
    }

    /// mkdir: set-id bits of `mode` do not count.
    pub(super) fn make_dir(&mut self, at: Ino, name: &[u8], mode: u32) -> Result<Ino, Errno> {
        let body = Body::Dir(Dir { parent: at, ..Dir::default() });
        self.create_node(at, name, body, libc::S_IFDIR | (mode & 0o1777), 0)
    }

    /// open with O_CREAT and O_EXCL.
    pub(super) fn create_file(&mut self, at: Ino, name: &[u8], mode: u32) -> Result<Ino, Errno> {
        self.create_node(at, name, Body::File(File::default()), libc::S_IFREG | (mode & 0o7777), 0)
    }

    /// symlink.
    pub(super) fn make_symlink(&mut self, at: Ino, name: &[u8], target: &[u8]) -> Result<Ino, Errno> {
        match target.len() {
            0 => Err(Errno::NOENT),
            4096.. => Err(Errno::NAMETOOLONG),
            _ => self.create_node(at, name, Body::Symlink(target.to_vec()), libc::S_IFLNK | 0o777, 0),
        }
    }

    /// mknod.
    pub(super) fn make_node(&mut self, at: Ino, name: &[u8], mode: u32, rdev: u64) -> Result<Ino, Errno> {
        let permissions = mode & 0o7777;
        match mode & libc::S_IFMT {
            0 | libc::S_IFREG => self.create_file(at, name, mode),
            kind @ (libc::S_IFIFO | libc::S_IFSOCK) => self.create_node(at, name, Body::Special, kind | permissions, 0),
            kind @ (libc::S_IFCHR | libc::S_IFBLK) => {
                self.create_node(at, name, Body::Special, kind | permissions, rdev)
            }
            libc::S_IFDIR => Err(Errno::PERM),
            _ => Err(Errno::INVAL),
        }
    }

    /// link: a symlink is linked itself.
    pub(super) fn link(&mut self, from_at: Ino, from: &[u8], at: Ino, name: &[u8]) -> Result<(), Errno> {
        let ino = self.lookup(from_at, from)?;
        self.check_vacant(at, name)?;
        if self.dir(ino).is_ok() {
            return Err(Errno::PERM);
        }
        self.node_mut(ino).nlink += 1;
        self.change(ino, |_| {});
        self.change_names(at, vec![(name.to_vec(), Some(ino))]);
        Ok(())
    }

    /// rename within one directory.
    pub(super) fn rename(&mut self, at: Ino, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        self.dir(at)?;
        if from.is_empty() || to.is_empty() {
            return Err(Errno::NOENT);
        }
        if [from, to].iter().any(|name| matches!(*name, b"." | b"..")) {
            return Err(Errno::BUSY);
        }
        let ino = self.lookup(at, from)?;
        let replaced = match self.lookup(at, to) {
            Ok(replaced) => Some(replaced),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        };
        if replaced == Some(ino) {
            return Ok(());
        }
        if let Some(replaced) = replaced {
            match (self.dir(ino).is_ok(), self.dir(replaced)) {
                (true, Err(_)) => return Err(Errno::NOTDIR),
                (false, Ok(_)) => return Err(Errno::ISDIR),
                (true, Ok(dir)) if !dir.live.is_empty() => return Err(Errno::NOTEMPTY),
                _ => self.drop_name_of(at, replaced),
            }
        }
        self.change(ino, |_| {});
        self.change_names(at, vec![(from.to_vec(), None), (to.to_vec(), Some(ino))]);
        Ok(())
    }

    /// unlink.
    pub(super) fn unlink(&mut self, at: Ino, name: &[u8]) -> Result<(), Errno> {
        let ino = self.lookup(at, name)?;
        if self.dir(ino).is_ok() {
            return Err(Errno::ISDIR);
        }
        self.drop_name_of(at, ino);
        self.change_names(at, vec![(name.to_vec(), None)]);
        Ok(())
    }

    /// rmdir.
    pub(super) fn remove_dir(&mut self, at: Ino, name: &[u8]) -> Result<(), Errno> {
        let ino = self.lookup(at, name)?;
        match name {
            b"." => return Err(Errno::INVAL),
            b".." => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        if !self.dir(ino)?.live.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.drop_name_of(at, ino);
        self.change_names(at, vec![(name.to_vec(), None)]);
        Ok(())
    }

    /// An inode loses its name in `at`; with the last one it gives its space back.
    fn drop_name_of(&mut self, at: Ino, ino: Ino) {
        self.change(ino, |_| {});
        if self.dir(ino).is_ok() {
            self.node_mut(ino).nlink = 0;
            self.node_mut(at).nlink -= 1;
            return;
        }
        let node = self.node_mut(ino);
        node.nlink -= 1;
        if let (0, Body::File(file)) = (node.nlink, &node.body) {
            let bytes = file.live.allocated_bytes();
            self.used_bytes = self.used_bytes.saturating_sub(bytes);
        }
    }

    /// pread: what is there of `out.len()` bytes from `offset`, less at the end of the file.
    pub(super) fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> usize {
        let node = self.node(ino);
        let Body::File(file) = &node.body else { unreachable!("only regular files are read") };
        let len = node.attrs.size.saturating_sub(offset).min(out.len() as u64) as usize;
        file.live.read(offset, &mut out[..len]);
        len
    }

    /// pwrite: as many of `bytes` as there is space for; ENOSPC when that is none.
    pub(super) fn write(&mut self, ino: Ino, offset: u64, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut end = offset + bytes.len() as u64;
        if let Some(full) = self.grow(ino, offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES)) {
            end = end.min(full * BLOCK_BYTES);
        }
        if end <= offset {
            return Err(Errno::NOSPC);
        }
        let len = (end - offset) as usize;
        let file = self.file_mut(ino);
        file.live.write(offset, &bytes[..len]);
        file.dirty.extend(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
        let size = self.node(ino).attrs.size.max(end);
        self.change_bytes(ino, size);
        Ok(len)
    }

    /// fallocate of bytes 0..len.
    pub(super) fn allocate(&mut self, ino: Ino, len: u64) -> Result<(), Errno> {
        if len == 0 || len > i64::MAX as u64 {
            return Err(Errno::INVAL);
        }
        let used_before = self.used_bytes;
        if self.grow(ino, 0..len.div_ceil(BLOCK_BYTES)).is_some() {
            self.used_bytes = used_before;
            return Err(Errno::NOSPC);
        }
        let file = self.file_mut(ino);
        for index in 0..len.div_ceil(BLOCK_BYTES) {
            if !file.live.is_allocated(index) {
                file.live.allocate(index);
                file.dirty.insert(index);
            }
        }
        let size = self.node(ino).attrs.size.max(len);
        self.change_bytes(ino, size);
        Ok(())
    }

    /// Takes space for those of `blocks` that have none; the first that finds none, if any.
    fn grow(&mut self, ino: Ino, blocks: std::ops::Range<u64>) -> Option<u64> {
        let (capacity, mut used) = (self.capacity_bytes.unwrap_or(u64::MAX), self.used_bytes);
        let file = self.file_mut(ino);
        let mut full = None;
        for index in blocks.filter(|&index| !file.live.is_allocated(index)) {
            if used + BLOCK_BYTES > capacity {
                full = Some(index);
                break;
            }
            used += BLOCK_BYTES;
        }
        self.used_bytes = used;
        full
    }

    /// ftruncate.
    pub(super) fn truncate(&mut self, ino: Ino, size: u64) -> Result<(), Errno> {
        if size > i64::MAX as u64 {
            return Err(Errno::INVAL);
        }
        let file = self.file_mut(ino);
        let before = file.live.allocated_bytes();
        let changed = file.live.cut(size);
        file.dirty.extend(changed);
        let freed = before - file.live.allocated_bytes();
        self.used_bytes = self.used_bytes.saturating_sub(freed);
        self.change_bytes(ino, size);
        Ok(())
    }

    /// FICLONE: `ino` shares the bytes of a file of `size` bytes; its own longer tail stays.
    pub(super) fn clone_from(&mut self, ino: Ino, from: &Content, size: u64) -> Result<(), Errno> {
        let size_before = self.node(ino).attrs.size;
        if size < size_before && !size.is_multiple_of(BLOCK_BYTES) {
            return Err(Errno::INVAL);
        }
        let file = self.file_mut(ino);
        for index in 0..size.div_ceil(BLOCK_BYTES) {
            if from.is_allocated(index) || file.live.is_allocated(index) {
                file.live.take_block(index, from);
                file.dirty.insert(index);
            }
        }
        if size > 0 {
            self.change_bytes(ino, size.max(size_before));
        }
        Ok(())
    }

    /// chown: `u32::MAX` leaves an id as it is; set-id bits of anything but a directory go.
    pub(super) fn set_owner(&mut self, ino: Ino, uid: u32, gid: u32) {
        self.change(ino, |attrs| {
            attrs.uid = if uid == u32::MAX { attrs.uid } else { uid };
            attrs.gid = if gid == u32::MAX { attrs.gid } else { gid };
            if attrs.mode & libc::S_IFMT != libc::S_IFDIR {
                attrs.mode &= !libc::S_ISUID;
                let executable = attrs.mode & libc::S_IXGRP != 0;
                attrs.mode &= if executable { !libc::S_ISGID } else { !0 };
            }
        });
    }

    /// utimensat.
    pub(super) fn set_times(&mut self, ino: Ino, atime: Time, mtime: Time) -> Result<(), Errno> {
        if atime.nanos.max(mtime.nanos) > 999_999_999 {
            return Err(Errno::INVAL);
        }
        self.change(ino, |attrs| (attrs.atime, attrs.mtime) = (atime, mtime));
        Ok(())
    }

    /// statx.
    pub(super) fn stat(&self, ino: Ino) -> Stat {
        let Node { attrs, nlink, body, .. } = self.node(ino);
        let blocks = match body {
            Body::File(file) => file.live.allocated_bytes() / 512,
            _ => 0,
        };
        let Attrs { mode, uid, gid, rdev, size, atime, mtime, ctime, .. } = attrs.clone();
        let (dev, mount_id, nlink) = (self.dev, self.dev, *nlink);
        Stat { dev, ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime, mount_id, ..Stat::default() }
    }

    /// Whether blocks are left.
    pub(super) fn has_room(&self) -> bool {
        self.capacity_bytes.is_none_or(|capacity| self.used_bytes < capacity)
    }

    /// What sort of object an inode is.
    pub(super) fn kind(&self, ino: Ino) -> Kind {
        self.stat(ino).kind()
    }

    /// fsync that succeeds: one inode's attributes, bytes and, for a directory, names are durable.
    pub(super) fn sync(&mut self, ino: Ino) {
        let node = self.node_mut(ino);
        node.durable = Some(node.attrs.clone());
        node.history.clear();
        match &mut node.body {
            Body::File(file) => {
                for index in std::mem::take(&mut file.dirty) {
                    file.durable.take_block(index, &file.live);
                }
            }
            Body::Dir(dir) if !dir.changes.is_empty() => {
                dir.durable.clone_from(&dir.live);
                dir.changes.clear();
            }
            Body::Dir(_) => {}
            Body::Symlink(_) | Body::Special => {}
        }
    }

    /// syncfs that succeeds.
    pub fn sync_all(&mut self) {
        let inos: Vec<Ino> = self.nodes.keys().copied().collect();
        inos.into_iter().for_each(|ino| self.sync(ino));
    }

    /// fsync that fails: the pages count as clean although they never reached the disk, so that a further sync succeeds
    /// without writing them (wiki.postgresql.org/wiki/Fsync_Errors).
    pub(super) fn fail_sync(&mut self, ino: Ino) {
        if let Body::File(file) = &mut self.node_mut(ino).body {
            file.dirty.clear();
        }
    }
}
