//! Building and looking at a [`Disk`] from a test, by path: `a/b/c`, relative to the root, of any bytes.
//!
//! What a test builds is durable at once. A path that is not there, or is taken, is the test's mistake and panics.

use std::collections::{BTreeMap, HashMap};

use super::content::{BLOCK_BYTES, Content};
use super::disk::{Body, Disk, Ino, ROOT};
use super::faults::Change;
use super::random::Random;
use super::xattrs::DEFAULT;
use crate::error::Errno;
use crate::ring::{Stat, Time};

/// A whole tree by path, the root as the empty path: what tests compare.
pub type Dump = BTreeMap<Vec<u8>, Entry>;

/// One object of a [`Dump`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is and holds.
    pub kind: EntryKind,
    /// Permissions: `mode & 07777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Whether it has an access or default ACL.
    pub has_acls: bool,
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an object is and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// The bytes.
        content: Content,
        /// The first path of the same inode, in byte order: its own unless it is a further hard link.
        first: Vec<u8>,
    },
    /// A directory.
    Dir,
    /// A symlink and its target.
    Symlink(Vec<u8>),
    /// A FIFO, socket or device: type bits and device number.
    Special(u32, u64),
}

/// How big a random tree is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Directories.
    pub dirs: usize,
    /// Objects that are not directories.
    pub objects: usize,
    /// The longest file in bytes.
    pub file_bytes_max: u64,
}

impl Disk {
    /// The inode at `path`, if it is there.
    pub(super) fn find(&self, path: &[u8]) -> Result<Ino, Errno> {
        let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(ROOT, |at, name| self.lookup(at, name))
    }

    /// The directory and name of `path`.
    fn split(&self, path: &[u8]) -> (Ino, Vec<u8>) {
        let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        (self.find(dir).expect("the test built this directory"), name.to_vec())
    }

    fn built<T>(&mut self, result: Result<T, Errno>) -> T {
        self.sync_all();
        result.expect("the test builds on what is there")
    }

    /// Adds a directory of mode 0755.
    pub fn add_dir(&mut self, path: &[u8]) {
        let (at, name) = self.split(path);
        let made = self.make_dir(at, &name, 0o755);
        self.built(made);
    }

    /// Adds a file of mode 0644.
    pub fn add_file(&mut self, path: &[u8], bytes: &[u8]) {
        self.add_sparse(path, bytes.len() as u64, &[(0, bytes)]);
    }

    /// Adds a file of `size` bytes with holes but for `runs` of (offset, bytes).
    pub fn add_sparse(&mut self, path: &[u8], size: u64, runs: &[(u64, &[u8])]) {
        let (at, name) = self.split(path);
        let made = self.create_file(at, &name, 0o644).and_then(|ino| {
            for (offset, bytes) in runs {
                self.write(ino, *offset, bytes)?;
            }
            self.truncate(ino, size)
        });
        self.built(made);
    }

    /// Adds a symlink.
    pub fn add_symlink(&mut self, path: &[u8], target: &[u8]) {
        let (at, name) = self.split(path);
        let made = self.make_symlink(at, &name, target);
        self.built(made);
    }

    /// Adds a further name for the object at `existing`.
    pub fn add_link(&mut self, existing: &[u8], path: &[u8]) {
        let ((from_at, from), (at, name)) = (self.split(existing), self.split(path));
        let made = self.link(from_at, &from, at, &name);
        self.built(made);
    }

    /// Adds a FIFO, socket or device.
    pub fn add_special(&mut self, path: &[u8], mode: u32, rdev: u64) {
        let (at, name) = self.split(path);
        let made = self.make_node(at, &name, mode, rdev);
        self.built(made);
    }

    /// Overwrites bytes of a file; mtime and ctime follow.
    pub fn overwrite(&mut self, path: &[u8], offset: u64, bytes: &[u8]) {
        let ino = self.find(path).expect("the test built this file");
        let written = self.write(ino, offset, bytes);
        self.built(written);
    }

    /// Removes an object that is not a directory.
    pub fn remove(&mut self, path: &[u8]) {
        let (at, name) = self.split(path);
        let removed = match self.unlink(at, &name) {
            Err(Errno::ISDIR) => self.remove_dir(at, &name),
            removed => removed,
        };
        self.built(removed);
    }

    /// Sets owner, permissions and mtime.
    pub fn set_attrs(&mut self, path: &[u8], uid: u32, gid: u32, mode: u32, mtime: Time) {
        let ino = self.find(path).expect("the test built this object");
        self.change(ino, |attrs| {
            (attrs.uid, attrs.gid, attrs.atime, attrs.mtime) = (uid, gid, mtime, mtime);
            attrs.mode = (attrs.mode & libc::S_IFMT) | (mode & 0o7777);
        });
        self.sync_all();
    }

    /// Gives a directory a default ACL, which what is created in it inherits.
    pub fn add_default_acl(&mut self, path: &[u8]) {
        let ino = self.find(path).expect("the test built this directory");
        self.change(ino, |attrs| drop(attrs.xattrs.insert(DEFAULT.to_vec(), b"an ACL".to_vec())));
        self.sync_all();
    }

    /// What `statx` says of the object at `path`.
    pub fn stat_path(&self, path: &[u8]) -> Option<Stat> {
        Some(self.stat(self.find(path).ok()?))
    }

    /// The bytes of the file at `path`.
    pub fn read_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let ino = self.find(path).ok()?;
        let mut bytes = vec![0; self.stat(ino).size as usize];
        self.read(ino, 0, &mut bytes);
        Some(bytes)
    }

    /// The tree as the kernel shows it.
    pub fn dump(&self) -> Dump {
        let mut paths = Vec::new();
        let mut found = vec![(Vec::new(), ROOT)];
        while let Some((path, ino)) = found.pop() {
            if let Ok(dir) = self.dir(ino) {
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                found.extend(dir.live.iter().map(|(name, &child)| ([&path, slash, name].concat(), child)));
            }
            paths.push((path, ino));
        }
        paths.sort();
        let mut first: HashMap<Ino, &[u8]> = HashMap::new();
        for (path, ino) in &paths {
            first.entry(*ino).or_insert(path);
        }
        paths.iter().map(|(path, ino)| (path.clone(), self.entry(*ino, first[ino]))).collect()
    }

    fn entry(&self, ino: Ino, first: &[u8]) -> Entry {
        let node = self.node(ino);
        let attrs = &node.attrs;
        let kind = match &node.body {
            Body::File(file) => EntryKind::File { size: attrs.size, content: file.live.clone(), first: first.to_vec() },
            Body::Dir(_) => EntryKind::Dir,
            Body::Symlink(target) => EntryKind::Symlink(target.clone()),
            Body::Special => EntryKind::Special(attrs.mode & libc::S_IFMT, attrs.rdev),
        };
        let (mode, uid, gid, nlink) = (attrs.mode & 0o7777, attrs.uid, attrs.gid, node.nlink);
        let (mtime, has_acls) = (attrs.mtime, attrs.has_acl() || attrs.has_default_acl());
        Entry { kind, mode, uid, gid, nlink, mtime, has_acls, xattrs: attrs.xattrs.clone() }
    }

    /// The first path whose last component is `name`.
    fn path_of(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.dump().into_keys().find(|path| path.rsplit(|&byte| byte == b'/').next() == Some(name))
    }

    /// Somebody else changes the file called `name`; nothing happens if it is no regular file or no longer there.
    pub(super) fn mutate(&mut self, name: &[u8], change: Change, random: &mut Random) {
        let Some(path) = self.path_of(name) else { return };
        let Some(before) = self.stat_path(&path).filter(|stat| stat.mode & libc::S_IFMT == libc::S_IFREG) else {
            return;
        };
        let half = before.size / 2;
        match change {
            Change::Rewrite => self.overwrite(&path, half, &random.bytes((before.size - half) as usize)),
            Change::RewriteQuietly => {
                self.overwrite(&path, half, &random.bytes((before.size - half) as usize));
                self.set_times(before.ino, before.atime, before.mtime).expect("the time was there before");
            }
            Change::Grow => self.overwrite(&path, before.size, &random.bytes(1 + half as usize)),
            Change::Shrink => self.truncate(before.ino, half).expect("half of a size is a size"),
            Change::Replace => {
                self.remove(&path);
                self.add_file(&path, &random.bytes(before.size as usize));
                self.set_attrs(&path, before.uid, before.gid, before.mode, before.mtime);
            }
            Change::Vanish => self.remove(&path),
        }
        self.sync_all();
    }

    /// A tree with everything a tree may hold, drawn from `seed`.
    pub fn random(dev: u64, seed: u64, shape: Shape) -> Disk {
        let mut disk = Disk::new(dev);
        let mut random = Random::new(seed ^ 0x007e_ee5e);
        let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
        for count in 0..shape.dirs {
            let path = draw_path(&dirs, count, b"d", &mut random);
            disk.add_dir(&path);
            dirs.push(path);
        }
        let mut objects: Vec<Vec<u8>> = Vec::new();
        for count in 0..shape.objects {
            let path = draw_path(&dirs, count, b"f", &mut random);
            match random.below(20) {
                0 => disk.add_symlink(&path, [&b"../outside"[..], b"/etc/passwd", b"f0"][random.index(3)]),
                1 => disk.add_special(&path, libc::S_IFIFO | 0o640, 0),
                2 => disk.add_special(&path, libc::S_IFCHR | 0o600, 0x0103),
                3 => disk.add_special(&path, libc::S_IFSOCK | 0o755, 0),
                4..=6 if !objects.is_empty() => {
                    let existing = &objects[random.index(objects.len())];
                    disk.add_link(existing, &path);
                }
                7 => disk.add_random_sparse(&path, shape.file_bytes_max, &mut random),
                _ => {
                    let size = draw_size(shape.file_bytes_max, &mut random);
                    disk.add_file(&path, &random.bytes(size as usize));
                }
            }
            objects.push(path);
        }
        for path in objects.iter().chain(&dirs) {
            disk.set_random_attrs(path, &mut random);
        }
        disk
    }

    fn add_random_sparse(&mut self, path: &[u8], most: u64, random: &mut Random) {
        let size = 1 + random.below(4 * most.max(BLOCK_BYTES));
        let offset = random.below(size);
        let len = (size - offset).min(1 + random.below(3 * BLOCK_BYTES));
        let bytes = random.bytes(len as usize);
        self.add_sparse(path, size, &[(offset, &bytes)]);
    }

    fn set_random_attrs(&mut self, path: &[u8], random: &mut Random) {
        let ids = [0, 0, 1000, 65534];
        let modes = [0o644, 0o755, 0o600, 0o700, 0o4755, 0o2755, 0o1777, 0o400, 0];
        let (uid, gid) = (ids[random.index(4)], ids[random.index(4)]);
        let secs = [0, 1, -86_400, 1_000_000_000, 1_700_000_000][random.index(5)] + random.below(1000) as i64;
        let mtime = Time { secs, nanos: random.below(1_000_000_000) as u32 };
        let is_symlink = self.stat_path(path).is_some_and(|stat| stat.mode & libc::S_IFMT == libc::S_IFLNK);
        let mode = if is_symlink { 0o777 } else { modes[random.index(modes.len())] };
        self.set_attrs(path, uid, gid, mode, mtime);
    }
}

/// A new path in one of `dirs`; `count` and `prefix` make it the only one, and some names are unpleasant.
fn draw_path(dirs: &[Vec<u8>], count: usize, prefix: &[u8], random: &mut Random) -> Vec<u8> {
    let dir = &dirs[random.index(dirs.len())];
    let spice = [&b""[..], b"", b"", b"\xff\xfe", b" \n", b"-rf *", b"'\"\\", &[b'x'; 240]][random.index(8)];
    let slash: &[u8] = if dir.is_empty() { b"" } else { b"/" };
    [dir, slash, prefix, count.to_string().as_bytes(), spice].concat()
}

/// Sizes around the borders that matter: nothing, a block, the longest.
fn draw_size(most: u64, random: &mut Random) -> u64 {
    let size = match random.below(6) {
        0 => 0,
        1 => random.below(100),
        2 => BLOCK_BYTES - 1 + random.below(3),
        3 => most.saturating_sub(random.below(2)),
        _ => random.below(most + 1),
    };
    size.min(most)
}
