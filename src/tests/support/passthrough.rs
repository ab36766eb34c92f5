//! A folder seen through FUSE, each operation answered after a delay, many at a time, as a file server far away would.
//!
//! Nothing is cached by the kernel, so that every question is asked. Node numbers are the folder's inode numbers; where
//! each is was last seen by its path. Enough for trees of files, directories and symlinks.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::described::{attributes, timespec};
pub use super::habit::Habit;
use super::halt::Halt;

/// Where a file has these bytes it is read with one bit wrong, as from a device that does not keep what it is given.
pub const ROT: &[u8] = b"this rots";
/// Pages that hold these bytes cannot be read, as bad sectors of a disk.
pub const BAD: &[u8] = b"this page is lost";

/// Mounts `folder` at `point`; `threads` operations are answered at a time, each after `delay`.
pub fn mount(
    folder: &Path,
    point: &Path,
    delay: Duration,
    habit: Habit,
    (threads, halt): (usize, Arc<Halt>),
) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("slow".into()), MountOption::DefaultPermissions];
    config.mount_options.extend((habit == Habit::Remembers).then_some(MountOption::RO));
    config.n_threads = Some(threads);
    fuser::spawn_mount(Passthrough::new(folder, delay, habit, halt), point, &config)
}

/// Begins the names of files of which nothing that is written is kept. Whoever next closes a descriptor of the file, or
/// syncs it, is told, and nobody after that: as sshfs has it.
pub const UNKEPT: &str = "unkept-";

/// Begins the names of files on which an operation, named behind it, answers ESTALE the first time; from then on that
/// is what their directory, and all below it, answers to whoever holds it. Looked up again it is there, as when a file
/// server was replaced: `stale-open`, `-create`, `-read`, `-write`, `-times`, `-link`, and `-mkdir` for a directory.
pub const STALE: &str = "stale-";
/// Begins the names of files on which the operation answers ESTALE every time.
pub const LOST: &str = "lost-";

/// The file system itself.
struct Passthrough {
    /// Whether it answers at all.
    halt: Arc<Halt>,
    /// In what it differs from a local one.
    habit: Habit,
    /// How long each operation takes.
    delay: Duration,
    /// Where a node was last seen, by its number.
    paths: Mutex<HashMap<u64, PathBuf>>,
    /// Open files and the number of the next.
    files: Mutex<HashMap<u64, File>>,
    /// Whether a sync has failed.
    has_lost: AtomicBool,
    /// What has become stale, in order: a directory is known by another number each time.
    stale: Mutex<Vec<PathBuf>>,
    /// Nodes of which something was lost that nobody was told of.
    unkept: Mutex<HashSet<u64>>,
    /// Nodes that somebody else has written to.
    torn: Mutex<HashSet<u64>>,
    /// Held by whoever changes a name, and shared by whoever looks for one.
    names: RwLock<()>,
    /// What open directories listed when they were read from their beginning.
    listings: Mutex<HashMap<u64, Vec<(OsString, FileAttr)>>>,
    next_file: AtomicU64,
}

impl Passthrough {
    fn new(folder: &Path, delay: Duration, habit: Habit, halt: Arc<Halt>) -> Passthrough {
        let paths = Mutex::new(HashMap::from([(INodeNo::ROOT.0, folder.to_owned())]));
        Passthrough {
            halt,
            habit,
            delay,
            paths,
            files: Mutex::default(),
            has_lost: AtomicBool::new(false),
            stale: Mutex::default(),
            unkept: Mutex::default(),
            torn: Mutex::default(),
            names: RwLock::default(),
            listings: Mutex::default(),
            next_file: AtomicU64::new(1),
        }
    }

    /// Answers what `answer` finds, after the delay. No name changes meanwhile: the kernel looks names up again without
    /// its lock on their directory.
    fn after_delay<T>(&self, answer: impl FnOnce() -> io::Result<T>) -> Result<T, Errno> {
        std::thread::sleep(self.delay);
        self.halt.wait();
        let _unchanged = self.names.read().unwrap();
        answer().map_err(Errno::from)
    }

    /// Likewise, where names change.
    fn change<T>(&self, change: impl FnOnce() -> io::Result<T>) -> Result<T, Errno> {
        std::thread::sleep(self.delay);
        self.halt.wait();
        let _alone = self.names.write().unwrap();
        change().map_err(Errno::from)
    }

    fn loses_writes(&self, node: INodeNo) -> bool {
        let path = self.path(node).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.habit == Habit::LosesWrites && name.contains(UNKEPT)
    }

    /// Fails once after something was lost.
    fn tell_loss(&self, node: INodeNo) -> io::Result<()> {
        match self.unkept.lock().unwrap().remove(&node.0) {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    fn path(&self, node: INodeNo) -> io::Result<PathBuf> {
        self.paths.lock().unwrap().get(&node.0).cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<PathBuf> {
        let dir = self.path(parent)?;
        self.habit.look_for(name)?;
        if self.habit.folds_names() {
            let wanted = self.habit.folded(name);
            let names = fs::read_dir(&dir)?.collect::<io::Result<Vec<_>>>()?;
            if let Some(there) = names.iter().find(|there| self.habit.folded(&there.file_name()) == wanted) {
                return Ok(there.path());
            }
        }
        Ok(dir.join(self.habit.kept(name)))
    }

    /// Describes what is at `path`, and remembers it by its number.
    fn meet(&self, path: PathBuf) -> io::Result<FileAttr> {
        let mut attr = attributes(&fs::symlink_metadata(&path)?);
        if attr.kind == FileType::Directory {
            let stale = self.stale.lock().unwrap();
            attr.ino.0 |= (stale.iter().filter(|dir| path.starts_with(dir)).count() as u64) << 40;
        }
        self.paths.lock().unwrap().insert(attr.ino.0, path);
        Ok(attr)
    }

    /// Fails the operation `verb` where the name at `path` says so.
    fn trip(&self, verb: &str, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if self.habit != Habit::GoesStale || !name.ends_with(verb) {
            return Ok(());
        }
        let stale = || Err(io::Error::from_raw_os_error(libc::ESTALE));
        if name.starts_with(LOST) {
            return stale();
        }
        let dir = path.parent().unwrap();
        let mut before = self.stale.lock().unwrap();
        if !name.starts_with(STALE) || before.iter().any(|stale| stale == dir) {
            return Ok(());
        }
        before.push(dir.to_owned());
        self.paths.lock().unwrap().retain(|_, path| !path.starts_with(dir));
        stale()
    }

    /// An open file, if nothing on its way has become stale.
    fn file_of(&self, verb: &str, node: INodeNo, handle: FileHandle) -> io::Result<File> {
        if self.habit == Habit::GoesStale {
            self.trip(verb, &self.path(node)?)?;
        }
        self.file(handle)
    }

    fn describe(&self, node: INodeNo) -> io::Result<FileAttr> {
        let attr = attributes(&fs::symlink_metadata(self.path(node)?)?);
        Ok(FileAttr { ino: node, ..attr })
    }

    fn keep(&self, file: File) -> FileHandle {
        let number = self.next_file.fetch_add(1, Ordering::Relaxed);
        self.files.lock().unwrap().insert(number, file);
        FileHandle(number)
    }

    fn file(&self, handle: FileHandle) -> io::Result<File> {
        let files = self.files.lock().unwrap();
        files.get(&handle.0).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?.try_clone()
    }
}

/// An ACL as an NFSv4 mount tells it (RFC 7530, 6.2.1).
fn acl_of_nfs4(names: &[&str]) -> Vec<u8> {
    let mut acl = (names.len() as u32).to_be_bytes().to_vec();
    for name in names {
        [0, 0, 0x16_01ff, name.len() as u32].iter().for_each(|number: &u32| acl.extend(number.to_be_bytes()));
        acl.extend(name.as_bytes());
        acl.resize(acl.len().next_multiple_of(4), 0);
    }
    acl
}

/// Opens as asked for, but for flags that are the kernel's business.
fn open_as(flags: OpenFlags) -> OpenOptions {
    let access = flags.0 & libc::O_ACCMODE;
    let mut options = OpenOptions::new();
    options.read(access != libc::O_WRONLY).write(access != libc::O_RDONLY);
    options
}

impl fuser::Filesystem for Passthrough {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Read-ahead counts as background work, of which only 12 would run at a time.
        config.set_max_background(1024).map_err(|_| io::Error::other("max_background"))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.after_delay(|| self.meet(self.child(parent, name)?)) {
            Ok(attr) => reply.entry(&self.habit.ttl(), &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _request: &Request, node: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        match self.after_delay(|| self.describe(node)) {
            Ok(attr) => reply.attr(&self.habit.ttl(), &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _file: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            let path = self.path(node)?;
            if let Some(size) = size {
                OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            }
            let is_followed = self.habit == Habit::FollowsLinks;
            if uid.is_some() || gid.is_some() {
                match is_followed {
                    true => std::os::unix::fs::chown(&path, uid, gid)?,
                    false => std::os::unix::fs::lchown(&path, uid, gid)?,
                }
            }
            if let Some(mode) = mode {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
            }
            if atime.is_some() || mtime.is_some() {
                self.trip("times", &path)?;
                let times = rustix::fs::Timestamps { last_access: timespec(atime), last_modification: timespec(mtime) };
                let flags = match is_followed {
                    true => rustix::fs::AtFlags::empty(),
                    false => rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
                };
                rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags)?;
            }
            self.describe(node)
        };
        match self.after_delay(set) {
            Ok(attr) => reply.attr(&self.habit.ttl(), &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _request: &Request, node: INodeNo, reply: ReplyData) {
        match self.after_delay(|| fs::read_link(self.path(node)?)) {
            Ok(target) => reply.data(target.as_os_str().as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let make = || {
            let path = self.child(parent, name)?;
            self.trip("mkdir", &path)?;
            fs::DirBuilder::new().mode(mode & 0o7777).create(&path)?;
            self.meet(path)
        };
        match self.change(make) {
            Ok(attr) => reply.entry(&self.habit.ttl(), &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.change(|| self.habit.remove(name).and_then(|()| fs::remove_file(self.child(parent, name)?))) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.change(|| fs::remove_dir(self.child(parent, name)?)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn symlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let make = || {
            let path = self.child(parent, name)?;
            std::os::unix::fs::symlink(target, &path)?;
            self.meet(path)
        };
        match self.change(make) {
            Ok(attr) => reply.entry(&self.habit.ttl(), &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let path = self.child(new_parent, new_name)?;
            fs::rename(self.child(parent, name)?, &path)?;
            self.meet(path)
        };
        match self.change(rename) {
            Ok(_) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn link(&self, _request: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let link = || {
            let path = self.child(parent, name)?;
            self.trip("link", &path)?;
            fs::hard_link(self.path(node)?, &path)?;
            self.meet(path)
        };
        match self.change(link) {
            Ok(attr) => reply.entry(&self.habit.ttl(), &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _request: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = || {
            let path = self.path(node)?;
            self.trip("open", &path)?;
            open_as(flags).open(path)
        };
        match self.after_delay(open) {
            Ok(file) => reply.opened(self.keep(file), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let create = || {
            let path = self.child(parent, name)?;
            self.trip("create", &path)?;
            if self.habit == Habit::FallsSilent && path.ends_with("silent") {
                self.halt.set(true);
                self.halt.wait();
            }
            let file = open_as(OpenFlags(flags)).create_new(true).mode(mode & 0o7777).open(&path)?;
            Ok((file, self.meet(path)?))
        };
        match self.change(create) {
            Ok((file, attr)) => {
                reply.created(&self.habit.ttl(), &attr, Generation(0), self.keep(file), FopenFlags::empty())
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _request: &Request,
        node: INodeNo,
        file: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        let read = || {
            let (file, mut filled) = (self.file_of("read", node, file)?, 0);
            // Ends: every turn fills some of the rest, or the file ends.
            while filled < bytes.len() {
                match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                    0 => break,
                    count => filled += count,
                }
            }
            Ok(filled)
        };
        match self.after_delay(read) {
            Ok(filled) if bytes[..filled].windows(BAD.len()).any(|window| window == BAD) => reply.error(Errno::EIO),
            Ok(filled) => {
                if self.habit == Habit::Remembers && self.torn.lock().unwrap().insert(node.0) {
                    super::habit::tear(&self.path(node).unwrap());
                }
                if let Some(at) = bytes.windows(ROT.len()).position(|window| window == ROT) {
                    bytes[at] ^= 1;
                }
                reply.data(&bytes[..filled]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _request: &Request,
        node: INodeNo,
        file: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || match self.loses_writes(node) {
            true => {
                self.unkept.lock().unwrap().insert(node.0);
                Ok(())
            }
            false => self.file_of("write", node, file)?.write_all_at(data, offset),
        };
        match self.after_delay(write) {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _request: &Request, node: INodeNo, _file: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        match self.after_delay(|| self.tell_loss(node)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _node: INodeNo,
        file: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().unwrap().remove(&file.0);
        reply.ok();
    }

    fn fsync(&self, _request: &Request, node: INodeNo, file: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let is_lost = self.habit == Habit::LosesFirstSync
            && self.path(node).is_ok_and(|path| path.ends_with("large"))
            && !self.has_lost.swap(true, Ordering::Relaxed);
        match self.after_delay(|| self.tell_loss(node).and_then(|()| self.file(file)?.sync_data())) {
            Ok(()) if is_lost => reply.error(Errno::EIO),
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, _request: &Request, _node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.next_file.fetch_add(1, Ordering::Relaxed)), FopenFlags::empty());
    }

    fn releasedir(&self, _request: &Request, _node: INodeNo, dir: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().unwrap().remove(&dir.0);
        reply.ok();
    }

    fn readdir(&self, _request: &Request, node: INodeNo, dir: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = || {
            let mut entries = fs::read_dir(self.path(node)?)?.collect::<io::Result<Vec<_>>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            let described = entries.iter().map(|entry| Ok((entry.file_name(), attributes(&entry.metadata()?))));
            described.collect::<io::Result<Vec<_>>>()
        };
        // What comes and goes meanwhile moves no other name: none is listed twice, or not at all.
        let listed = match offset {
            0 => self.after_delay(list),
            _ => self.after_delay(|| Ok(self.listings.lock().unwrap().remove(&dir.0).unwrap_or_default())),
        };
        match listed {
            Ok(entries) => {
                for (index, (name, attr)) in entries.iter().enumerate().skip(offset as usize) {
                    let number = self.habit.listed_number(attr.ino);
                    if reply.add(number, index as u64 + 1, attr.kind, name) {
                        break;
                    }
                }
                self.listings.lock().unwrap().insert(dir.0, entries);
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fsyncdir(&self, _request: &Request, _node: INodeNo, _file: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.after_delay(|| Ok(())) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _request: &Request, _node: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn getxattr(&self, _request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if self.habit != Habit::HasAclsOfNfs4 || name != "system.nfs4_acl" {
            return reply.error(Errno::ENOTSUP);
        }
        let is_shared = self.path(node).is_ok_and(|path| path.ends_with("shared"));
        let acl = acl_of_nfs4(if is_shared { &["OWNER@", "ann@example.org"] } else { &["OWNER@", "EVERYONE@"] });
        match size {
            0 => reply.size(acl.len() as u32),
            _ => reply.data(&acl),
        }
    }
}
