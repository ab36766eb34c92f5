//! What each [`Op`] answers: the arguments are checked in the order in which Linux checks them.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use super::disk::{Body, Ino};
use super::world::{World, component};
use super::xattrs::{ACCESS, DEFAULT};
use crate::error::Errno;
use crate::ring::{Access, Answer, Arena, Handle, Kind, Name, Op, Side};

/// An answer.
type Answered = Result<Answer, Errno>;

impl World {
    /// Executes `op` on the disks.
    pub(super) fn answer(&mut self, side: Side, op: &mut Op, arena: &Arena) -> Answered {
        match op {
            Op::OpenDir { at, path } => self.open_dir(side, at, path),
            Op::ReadDir { dir, buffer } => self.read_dir(side, dir, buffer),
            Op::Stat { at, name } | Op::Restat { at, name } => {
                let ino = self.named(side, at, name)?;
                Ok(Answer::Stat(self.disk(side).stat(ino)))
            }
            Op::StatHandle { file } | Op::StatNew { file } | Op::RestatHandle { file } => {
                let ino = self.ino(side, file)?;
                let mut stat = self.disk(side).stat(ino);
                stat.direct_align = if stat.kind() == Kind::File { self.disk(side).direct_align } else { 0 };
                Ok(Answer::Stat(stat))
            }
            Op::ReadWhole { at, name, lease, len, .. } => {
                let ino = self.open_ino(side, at, name, Access::Read)?;
                match self.disk(side).kind(ino) {
                    Kind::File => {}
                    Kind::Dir => return Err(Errno::ISDIR),
                    _ => return Err(Errno::SPIPE),
                }
                let count = self.disk(side).read(ino, 0, &mut arena.bytes_mut(lease)[..*len]);
                Ok(Answer::Count(count))
            }
            Op::Open { at, name, access: Access::Create, mode } => {
                let at = self.ino(side, at)?;
                let name = component(name);
                let ino = self.disk(side).create_file(at, name, *mode)?;
                Ok(Answer::Handle(self.handle(side, ino, Some(Access::Create), name)))
            }
            Op::Open { at, name, access, .. } => {
                let ino = self.open_ino(side, at, name, *access)?;
                Ok(Answer::Handle(self.handle(side, ino, Some(*access), name.to_bytes())))
            }
            Op::Read { file, lease, start, len, offset } => {
                let ino = self.readable(side, file, *offset, *len, *start)?;
                let len = self.cut_short(file, *len);
                let out = &mut arena.bytes_mut(lease)[*start..*start + len];
                Ok(Answer::Count(self.disk(side).read(ino, *offset, out)))
            }
            Op::Write { file, lease, start, len, offset, path: _ } => {
                let ino = self.ino(side, file)?;
                let errno = if self.disk(side).kind(ino) == Kind::Special { Errno::SPIPE } else { Errno::BADF };
                self.writable(side, file, errno)?;
                self.check_direct(file, *offset, *len, *start)?;
                let len = self.cut_short(file, *len);
                let bytes = &arena.bytes(lease)[*start..*start + len];
                self.disk(side).write(ino, *offset, bytes).map(Answer::Count)
            }
            Op::NextData { file, from } => self.next_data(side, file, *from),
            Op::Close { file } => self.opened(file).map(|_| Answer::Done),
            Op::ReadLink { at, name } => self.read_link(side, at, name),
            Op::HasDefaultAcl { dir } => {
                let ino = self.ino(side, dir)?;
                Ok(Answer::Flag(self.disk(side).node(ino).attrs.has_default_acl()))
            }
            Op::ListXattrs { at, name } => self.list_xattrs(side, at, name).map(Answer::Bytes),
            Op::GetXattr { at, name, key } => self.get_xattr(side, at, name, key).map(Answer::Bytes),
            Op::HasRoom { file } => {
                self.ino(side, file)?;
                Ok(Answer::Flag(self.disk(side).has_room()))
            }
            Op::SyncFile { file } | Op::DropCache { file } => {
                let ino = self.ino(side, file)?;
                if matches!(self.disk(side).kind(ino), Kind::Special) {
                    return Err(Errno::INVAL);
                }
                self.disk(side).sync(ino);
                Ok(Answer::Done)
            }
            Op::SyncFileSystem { file } => {
                self.ino(side, file)?;
                self.disk(side).sync_all();
                Ok(Answer::Done)
            }
            other => self.answer_change(side, other).map(|()| Answer::Done),
        }
    }

    /// The operations that change something and answer nothing more.
    fn answer_change(&mut self, side: Side, op: &mut Op) -> Result<(), Errno> {
        match op {
            Op::MakeDir { at, name, mode } => {
                let at = self.ino(side, at)?;
                self.disk(side).make_dir(at, component(name), *mode).map(drop)
            }
            Op::MakeSymlink { at, name, target } => {
                let at = self.ino(side, at)?;
                self.disk(side).make_symlink(at, component(name), target.to_bytes()).map(drop)
            }
            Op::MakeNode { at, name, mode, rdev } => {
                let at = self.ino(side, at)?;
                self.disk(side).make_node(at, component(name), *mode, *rdev).map(drop)
            }
            Op::Link { from_at, from, at, name } => {
                let (from_at, at) = (self.ino(side, from_at)?, self.ino(side, at)?);
                self.disk(side).link(from_at, component(from), at, component(name))
            }
            Op::Rename { at, from, to } => {
                let at = self.ino(side, at)?;
                self.disk(side).rename(at, component(from), component(to))
            }
            Op::Unlink { at, name } => {
                let at = self.ino(side, at)?;
                self.disk(side).unlink(at, component(name))
            }
            Op::RemoveDir { at, name } => {
                let at = self.ino(side, at)?;
                self.disk(side).remove_dir(at, component(name))
            }
            Op::Allocate { file, len } => {
                let ino = self.ino(side, file)?;
                match *len {
                    0 => Err(Errno::INVAL),
                    len => self.writable(side, file, Errno::BADF).and_then(|_| self.disk(side).allocate(ino, len)),
                }
            }
            Op::Truncate { file, len } => {
                let ino = self.writable(side, file, Errno::INVAL)?;
                self.disk(side).truncate(ino, *len)
            }
            Op::Clone { from, to } => self.clone_file(side, from, to),
            Op::SetOwner { file, uid, gid } => {
                let ino = self.ino(side, file)?;
                self.disk(side).set_owner(ino, *uid, *gid);
                Ok(())
            }
            Op::SetMode { file, mode } => {
                let ino = self.ino(side, file)?;
                let mode = *mode & 0o7777;
                self.disk(side).change(ino, |attrs| attrs.mode = (attrs.mode & libc::S_IFMT) | mode);
                Ok(())
            }
            Op::SetTimes { file, atime, mtime } => {
                let ino = self.ino(side, file)?;
                self.disk(side).set_times(ino, *atime, *mtime)
            }
            Op::SetOwnerAt { at, name, uid, gid } => {
                let ino = self.named(side, at, name)?;
                self.disk(side).set_owner(ino, *uid, *gid);
                Ok(())
            }
            Op::SetModeAt { at, name, mode } => {
                let (ino, mode) = (self.named(side, at, name)?, *mode & 0o7777);
                if self.disk(side).kind(ino) == Kind::Symlink {
                    return Err(Errno::OPNOTSUPP);
                }
                self.disk(side).change(ino, |attrs| attrs.mode = (attrs.mode & libc::S_IFMT) | mode);
                Ok(())
            }
            Op::SetTimesAt { at, name, atime, mtime } => {
                let ino = self.named(side, at, name)?;
                self.disk(side).set_times(ino, *atime, *mtime)
            }
            Op::DropAcls { file } => {
                let ino = self.ino(side, file)?;
                self.disk(side).change(ino, |attrs| attrs.xattrs.retain(|key, _| key != ACCESS && key != DEFAULT));
                Ok(())
            }
            Op::DropAclsAt { at, name } => {
                let ino = self.named(side, at, name)?;
                self.disk(side).change(ino, |attrs| drop(attrs.xattrs.remove(ACCESS)));
                Ok(())
            }
            Op::SetXattr { at, name, key, value } => self.set_xattr(side, at, name, (key, value)),
            Op::RemoveXattr { at, name, key } => self.remove_xattr(side, at, name, key),
            other => unreachable!("answered above: {other:?}"),
        }
    }

    /// The inode of a name in a directory.
    fn named(&mut self, side: Side, at: &Handle, name: &Name) -> Result<Ino, Errno> {
        let at = self.ino(side, at)?;
        self.disk(side).lookup(at, component(name))
    }

    /// openat with O_NOFOLLOW | O_NONBLOCK. A directory may be opened for reading, as in Linux.
    fn open_ino(&mut self, side: Side, at: &Handle, name: &Name, access: Access) -> Result<Ino, Errno> {
        let ino = self.named(side, at, name)?;
        let is_write = matches!(access, Access::Write | Access::WriteDirect);
        let is_direct = matches!(access, Access::ReadDirect | Access::WriteDirect);
        let mode = self.disk(side).stat(ino).mode & libc::S_IFMT;
        match self.disk(side).kind(ino) {
            Kind::Symlink => Err(Errno::LOOP),
            Kind::Dir if is_write => Err(Errno::ISDIR),
            Kind::Dir if is_direct => Err(Errno::INVAL),
            Kind::File if is_direct && self.disk(side).direct_align == 0 => Err(Errno::INVAL),
            Kind::Special if mode != libc::S_IFIFO || is_write => Err(Errno::NXIO),
            _ => Ok(ino),
        }
    }

    /// openat2 with O_DIRECTORY | O_NOFOLLOW, RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS.
    fn open_dir(&mut self, side: Side, at: &Handle, path: &Name) -> Answered {
        let start = self.ino(side, at)?;
        let bytes = path.to_bytes();
        if bytes.starts_with(b"/") {
            return Err(Errno::XDEV);
        }
        if bytes.is_empty() {
            return Err(Errno::NOENT);
        }
        let names: Vec<&[u8]> = bytes.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
        let mut ino = start;
        for (count, &name) in names.iter().enumerate() {
            if name == b".." && ino == start {
                return Err(Errno::XDEV);
            }
            ino = self.disk(side).lookup(ino, name)?;
            let is_last = count + 1 == names.len() && !bytes.ends_with(b"/");
            match self.disk(side).kind(ino) {
                Kind::Dir => {}
                Kind::Symlink if !is_last => return Err(Errno::LOOP),
                _ => return Err(Errno::NOTDIR),
            }
        }
        let name = names.last().copied().unwrap_or_default();
        Ok(Answer::Handle(self.handle(side, ino, None, name)))
    }

    /// The inode of a handle open for reading, with direct I/O's alignment checked.
    fn readable(&mut self, side: Side, file: &Handle, offset: u64, len: usize, start: usize) -> Result<Ino, Errno> {
        let ino = self.ino(side, file)?;
        match self.disk(side).kind(ino) {
            Kind::Dir => return Err(Errno::ISDIR),
            Kind::File => {}
            _ => return Err(Errno::SPIPE),
        }
        match self.opened(file)?.access {
            Some(Access::Read | Access::ReadDirect) => {}
            _ => return Err(Errno::BADF),
        }
        self.check_direct(file, offset, len, start)?;
        Ok(ino)
    }

    /// The inode of a regular file open for writing, or `errno`.
    fn writable(&mut self, side: Side, file: &Handle, errno: Errno) -> Result<Ino, Errno> {
        let ino = self.ino(side, file)?;
        match self.opened(file)?.access {
            Some(Access::Create | Access::Write | Access::WriteDirect) => Ok(ino),
            _ => Err(errno),
        }
    }

    /// The alignment of direct I/O on `file`; 1 through the page cache.
    fn direct_align(&self, file: &Handle) -> Result<u64, Errno> {
        let opened = self.opened(file)?;
        let disk = &self.disks[usize::from(opened.side == Side::Dest)];
        Ok(match opened.access {
            Some(Access::ReadDirect | Access::WriteDirect) => u64::from(disk.direct_align),
            _ => 1,
        })
    }

    /// EINVAL for direct I/O that is not aligned in the file, in length or in memory (leases are aligned).
    fn check_direct(&self, file: &Handle, offset: u64, len: usize, start: usize) -> Result<(), Errno> {
        let align = self.direct_align(file)?;
        match len == 0 || [offset, len as u64, start as u64].iter().all(|value| value % align == 0) {
            true => Ok(()),
            false => Err(Errno::INVAL),
        }
    }

    /// How much of a read or write of `len` bytes is done: at least one byte, or one unit of direct I/O.
    fn cut_short(&mut self, file: &Handle, len: usize) -> usize {
        let align = self.direct_align(file).unwrap_or(1) as usize;
        match len > align && self.random.chance(self.faults.short_permille) {
            true => align * (1 + self.random.index(len.div_ceil(align) - 1)),
            false => len,
        }
    }

    /// SEEK_DATA, then SEEK_HOLE.
    fn next_data(&mut self, side: Side, file: &Handle, from: u64) -> Answered {
        let ino = self.ino(side, file)?;
        let node = self.disk(side).node(ino);
        match &node.body {
            Body::File(content) => Ok(Answer::Extent(content.live.next_data(from, node.attrs.size))),
            Body::Dir(_) => Err(Errno::INVAL),
            _ => Err(Errno::SPIPE),
        }
    }

    /// ioctl FICLONE.
    fn clone_file(&mut self, side: Side, from: &Handle, to: &Handle) -> Result<(), Errno> {
        let (from_side, from_access) = (self.opened(from)?.side, self.opened(from)?.access);
        let (from_ino, to_ino) = (self.ino(from_side, from)?, self.ino(side, to)?);
        if self.disk(from_side).dev != self.disk(side).dev {
            return Err(Errno::XDEV);
        }
        match [self.disk(from_side).kind(from_ino), self.disk(side).kind(to_ino)] {
            [Kind::File, Kind::File] => {}
            kinds if kinds.contains(&Kind::Dir) => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        self.writable(side, to, Errno::BADF)?;
        if !matches!(from_access, Some(Access::Read | Access::ReadDirect)) {
            return Err(Errno::BADF);
        }
        if !self.disk(side).can_clone {
            return Err(Errno::OPNOTSUPP);
        }
        let node = self.disk(from_side).node(from_ino);
        let Body::File(file) = &node.body else { return Err(Errno::INVAL) };
        let (content, size) = (file.live.clone(), node.attrs.size);
        if (from_side, from_ino) == (side, to_ino) && size > 0 {
            return Err(Errno::INVAL);
        }
        self.disk(side).clone_from(to_ino, &content, size)
    }

    fn read_link(&mut self, side: Side, at: &Handle, name: &Name) -> Answered {
        let ino = self.named(side, at, name)?;
        match &self.disk(side).node(ino).body {
            Body::Symlink(target) => {
                let target = CString::new(target.clone()).expect("a target was made from a name without NUL");
                Ok(Answer::Target(target))
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// getdents64. Names come in an order drawn once per listing; those removed meanwhile are left out.
    fn read_dir(&mut self, side: Side, dir: &Handle, buffer: &mut [u8]) -> Answered {
        let ino = self.ino(side, dir)?;
        if self.disk(side).node(ino).nlink == 0 {
            return Err(Errno::NOENT);
        }
        let live: Vec<Vec<u8>> = self.disk(side).dir(ino)?.live.keys().cloned().collect();
        let (mut names, mut told) = match self.opened.get_mut(&dir.as_raw_fd()).and_then(|o| o.listing.take()) {
            Some(listing) => listing,
            None => (self.shuffle(live), 0),
        };
        if told == 0 && !names.iter().any(|name| name == b".") {
            names.splice(0..0, [b".".to_vec(), b"..".to_vec()]);
        }
        let mut filled = 0;
        let is_short = self.random.chance(self.faults.short_permille);
        let mut is_full = false;
        while let Some(name) = names.get(told) {
            let Ok(child) = self.disk(side).lookup(ino, name) else {
                told += 1;
                continue;
            };
            let mode = self.disk(side).stat(child).mode;
            let is_untyped = self.random.chance(self.faults.untyped_permille);
            let kind = if is_untyped { libc::DT_UNKNOWN } else { ((mode & libc::S_IFMT) >> 12) as u8 };
            match put_record(&mut buffer[filled..], child, told as u64 + 1, kind, name) {
                Some(len) => (filled, told) = (filled + len, told + 1),
                None => is_full = true,
            }
            if is_full || (is_short && self.random.chance(300)) {
                break;
            }
        }
        if let Some(opened) = self.opened.get_mut(&dir.as_raw_fd()) {
            opened.listing = Some((names, told));
        }
        match is_full && filled == 0 {
            true => Err(Errno::INVAL),
            false => Ok(Answer::Count(filled)),
        }
    }

    fn shuffle(&mut self, mut names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for last in (1..names.len()).rev() {
            names.swap(last, self.random.index(last + 1));
        }
        names
    }
}

/// Writes one `linux_dirent64`; `None` when it does not fit. Records are padded to 8 bytes.
fn put_record(out: &mut [u8], ino: u64, cookie: u64, kind: u8, name: &[u8]) -> Option<usize> {
    let len = (19 + name.len() + 1).next_multiple_of(8);
    let out = out.get_mut(..len)?;
    out.fill(0);
    out[..8].copy_from_slice(&ino.to_ne_bytes());
    out[8..16].copy_from_slice(&cookie.to_ne_bytes());
    out[16..18].copy_from_slice(&(len as u16).to_ne_bytes());
    out[18] = kind;
    out[19..19 + name.len()].copy_from_slice(name);
    Some(len)
}
