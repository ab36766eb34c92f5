//! Are two trees the same? An own walk of both sides, sharing nothing with the code under test.
//!
//! ```text
//! source fd ── name ── source fd      one pair of directory fds at a time; the way back up is `..`, checked by
//! copy fd   ── name ── copy fd        (dev, ino). No path is ever built for the kernel, nothing recurses, so 10,000
//!                                     levels and any byte in a name are compared like everything else.
//! ```
//!
//! [`Comparison::run`] reports every difference it finds; [`Comparison::assert_same`] panics with them.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;

/// In what way two objects differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// The source has it, the copy has not.
    Missing,
    /// The copy has it, the source has not.
    Extra,
    /// File against directory and the like.
    Type,
    /// Permission bits.
    Mode,
    /// uid or gid.
    Owner,
    /// Length of a file.
    Size,
    /// Time of the last change of content, to the nanosecond.
    Mtime,
    /// Time of the last access.
    Atime,
    /// Bytes of a file.
    Content,
    /// Where a symlink points.
    Target,
    /// Numbers of a device node.
    Device,
    /// Names that share an inode on one side and not on the other, or links that lead out of the tree.
    Links,
    /// A sparse file became much larger on disk.
    Holes,
    /// One of the sides could not be read.
    Unreadable,
}

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Path below the roots.
    pub path: Vec<u8>,
    /// In what way.
    pub what: What,
    /// The two values, for the reader.
    pub detail: String,
}

/// What a comparison came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every difference.
    pub found: Vec<Difference>,
    /// Regular files whose content was compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How much of each pair of objects is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Everything.
    Whole,
    /// Only what lies under a source name and carries the source's mtime: it claims to be finished (I2).
    Sealed,
    /// Only content and length of the regular files that are there under the source's names.
    Present,
}

/// What to compare, and how.
#[derive(Clone, Debug)]
pub struct Comparison {
    source: PathBuf,
    copy: PathBuf,
    depth: Depth,
    owner: bool,
    atime: bool,
    skipped: Vec<Vec<u8>>,
}

/// Bytes a sparse copy may take on disk beyond its source, plus a quarter: XFS allocates 64 KiB for each lone block
/// that is appended through the page cache, ext4 4 KiB.
const HOLE_SLACK_BYTES: i64 = 4 << 20;
/// Bytes printed of a path, from its end.
const PATH_SHOWN_BYTES: usize = 300;
/// Differences printed by [`Comparison::assert_same`].
const SHOWN_MAX: usize = 40;

impl Comparison {
    /// Compares everything below and including the two roots.
    pub fn new(source: &Path, copy: &Path) -> Comparison {
        let (source, copy) = (source.to_owned(), copy.to_owned());
        Comparison { source, copy, depth: Depth::Whole, owner: true, atime: false, skipped: Vec::new() }
    }

    /// Looks only at what carries the source's mtime in the copy: it must have the source's type, size and content.
    pub fn sealed_only(mut self) -> Comparison {
        self.depth = Depth::Sealed;
        self
    }

    /// Looks only at the content of the regular files that the copy has.
    pub fn present_only(mut self) -> Comparison {
        self.depth = Depth::Present;
        self
    }

    /// Compares access times as well, but those of directories and symlinks: reading them for the copy changes these.
    pub fn with_atime(mut self) -> Comparison {
        self.atime = true;
        self
    }

    /// Leaves owner and group out: the copy was made without privilege.
    pub fn without_owner(mut self) -> Comparison {
        self.owner = false;
        self
    }

    /// Leaves out every object of this name, on both sides.
    pub fn skipping(mut self, name: &[u8]) -> Comparison {
        self.skipped.push(name.to_vec());
        self
    }

    /// Panics with the differences, if there are any.
    #[track_caller]
    pub fn assert_same(&self) {
        let found = self.run();
        let shown: String = found.iter().take(SHOWN_MAX).map(|difference| format!("  {difference}\n")).collect();
        assert!(found.is_empty(), "{} differences between source and copy:\n{shown}", found.len());
    }

    /// Every difference.
    pub fn run(&self) -> Vec<Difference> {
        self.report().found
    }

    /// Every difference, and how much was compared.
    pub fn report(&self) -> Report {
        let mut walk =
            Walk { rules: self, found: Vec::new(), links: Links::default(), path: Vec::new(), files: 0, bytes: 0 };
        match (open_root(&self.source), open_root(&self.copy)) {
            (Ok(source), Ok(copy)) => walk.tree(source, copy),
            (source, copy) => walk.note(What::Unreadable, format!("{:?} / {:?}", source.err(), copy.err())),
        }
        walk.links.check(&mut walk.found);
        Report { found: walk.found, files: walk.files, bytes: walk.bytes }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The end of a path of 12 KB tells more than its start.
        let start = self.path.len().saturating_sub(PATH_SHOWN_BYTES);
        let dots = if start > 0 { "..." } else { "" };
        write!(f, "{:?}: {dots}{}", self.what, self.path[start..].escape_ascii())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// A walk under way.
struct Walk<'a> {
    rules: &'a Comparison,
    found: Vec<Difference>,
    links: Links,
    /// Path of the current object below the roots.
    path: Vec<u8>,
    /// Regular files compared so far.
    files: u64,
    /// Their bytes.
    bytes: u64,
}

/// One level of the walk that is not finished.
struct Level {
    /// Identity of the two directories, to check the way back up.
    identity: [(u64, u64); 2],
    /// Subdirectories still to visit.
    waiting: Vec<CString>,
    /// Length of the path of this level.
    path_len: usize,
}

impl Walk<'_> {
    fn tree(&mut self, mut source: OwnedFd, mut copy: OwnedFd) {
        let mut levels: Vec<Level> = Vec::new();
        levels.extend(self.enter(&source, &copy));
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_len);
            let Some(name) = level.waiting.pop() else {
                levels.pop();
                let Some(parent) = levels.last() else { break };
                source = up(&source, parent.identity[0]);
                copy = up(&copy, parent.identity[1]);
                continue;
            };
            self.push(&name);
            match (open_dir(&source, &name), open_dir(&copy, &name)) {
                (Ok(below_source), Ok(below_copy)) => {
                    if let Some(level) = self.enter(&below_source, &below_copy) {
                        levels.push(level);
                        (source, copy) = (below_source, below_copy);
                    }
                }
                (a, b) => self.note(What::Unreadable, format!("{:?} / {:?}", a.err(), b.err())),
            }
        }
    }

    /// Compares two open directories themselves and all their names; `None` if they cannot be listed.
    fn enter(&mut self, source: &OwnedFd, copy: &OwnedFd) -> Option<Level> {
        let path_len = self.path.len();
        let stats = (rustix::fs::fstat(source), rustix::fs::fstat(copy));
        let (Ok(a), Ok(b)) = stats else {
            self.note(What::Unreadable, format!("{stats:?}"));
            return None;
        };
        self.attributes(&a, &b);
        let names = (self.list(source), self.list(copy));
        let (Ok(in_source), Ok(in_copy)) = names else {
            self.note(What::Unreadable, format!("{:?} / {:?}", names.0.err(), names.1.err()));
            return None;
        };
        let mut waiting = Vec::new();
        for (name, side) in merge(&in_source, &in_copy) {
            self.path.truncate(path_len);
            self.push(name);
            match side {
                Side::Source => self.note_whole(What::Missing),
                Side::Copy => self.note_whole(What::Extra),
                Side::Both if self.object(source, copy, name) => waiting.push(name.to_owned()),
                Side::Both => {}
            }
        }
        let identity = [(a.st_dev, a.st_ino), (b.st_dev, b.st_ino)];
        Some(Level { identity, waiting, path_len })
    }

    /// Compares the objects of one name; true if both are directories, to be entered.
    fn object(&mut self, source: &OwnedFd, copy: &OwnedFd, name: &CStr) -> bool {
        let stats = (statat(source, name, AtFlags::SYMLINK_NOFOLLOW), statat(copy, name, AtFlags::SYMLINK_NOFOLLOW));
        let (Ok(a), Ok(b)) = stats else {
            self.note(What::Unreadable, format!("{stats:?}"));
            return false;
        };
        let (kind, copy_kind) = (kind(&a), kind(&b));
        let relevant = match self.rules.depth {
            Depth::Whole => true,
            Depth::Sealed => kind == FileType::RegularFile && mtime(&a) == mtime(&b),
            Depth::Present => kind == FileType::RegularFile,
        };
        if kind != copy_kind {
            if relevant {
                self.note(What::Type, format!("{kind:?} / {copy_kind:?}"));
            }
            return false;
        }
        if kind == FileType::Directory {
            return true;
        }
        if !relevant {
            return false;
        }
        self.attributes(&a, &b);
        match kind {
            FileType::RegularFile => self.file(source, copy, name, &a, &b),
            FileType::Symlink => self.target(source, copy, name),
            FileType::CharacterDevice | FileType::BlockDevice if a.st_rdev != b.st_rdev => {
                self.note(What::Device, format!("{:#x} / {:#x}", a.st_rdev, b.st_rdev));
            }
            _ => {}
        }
        if self.rules.depth == Depth::Whole {
            self.links.add(&a, &b, &self.path);
        }
        false
    }

    fn attributes(&mut self, a: &Stat, b: &Stat) {
        if self.rules.depth != Depth::Whole {
            return;
        }
        let modes = (a.st_mode & 0o7777, b.st_mode & 0o7777);
        if modes.0 != modes.1 && kind(a) != FileType::Symlink {
            self.note(What::Mode, format!("{:o} / {:o}", modes.0, modes.1));
        }
        if self.rules.owner && (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid) {
            self.note(What::Owner, format!("{}:{} / {}:{}", a.st_uid, a.st_gid, b.st_uid, b.st_gid));
        }
        if mtime(a) != mtime(b) {
            self.note(What::Mtime, format!("{:?} / {:?}", mtime(a), mtime(b)));
        }
        let atimes = ((a.st_atime, a.st_atime_nsec), (b.st_atime, b.st_atime_nsec));
        let kept = !matches!(kind(a), FileType::Directory | FileType::Symlink);
        if self.rules.atime && kept && atimes.0 != atimes.1 {
            self.note(What::Atime, format!("{:?} / {:?}", atimes.0, atimes.1));
        }
    }

    fn file(&mut self, source: &OwnedFd, copy: &OwnedFd, name: &CStr, a: &Stat, b: &Stat) {
        self.files += 1;
        self.bytes += a.st_size as u64;
        if a.st_size != b.st_size {
            return self.note(What::Size, format!("{} / {}", a.st_size, b.st_size));
        }
        let (taken, copy_taken) = (a.st_blocks * 512, b.st_blocks * 512);
        let sparse = taken + (64 << 10) < a.st_size;
        if self.rules.depth == Depth::Whole && sparse && copy_taken > taken + taken / 4 + HOLE_SLACK_BYTES {
            self.note(What::Holes, format!("{taken} / {copy_taken} bytes on disk"));
        }
        match first_difference(source, copy, name, a.st_size as u64) {
            Ok(None) => {}
            Ok(Some(offset)) => self.note(What::Content, format!("at offset {offset} of {}", a.st_size)),
            Err(errno) => self.note(What::Unreadable, format!("{errno}")),
        }
    }

    fn target(&mut self, source: &OwnedFd, copy: &OwnedFd, name: &CStr) {
        let targets = (readlinkat(source, name, Vec::new()), readlinkat(copy, name, Vec::new()));
        if targets.0 != targets.1 || targets.0.is_err() {
            self.note(What::Target, format!("{:?} / {:?}", targets.0, targets.1));
        }
    }

    fn list(&self, dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let name = entry?.file_name().to_owned();
            let bytes = name.to_bytes();
            if bytes != b"." && bytes != b".." && !self.rules.skipped.iter().any(|skipped| skipped == bytes) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn push(&mut self, name: &CStr) {
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
    }

    fn note(&mut self, what: What, detail: String) {
        self.found.push(Difference { path: self.path.clone(), what, detail });
    }

    fn note_whole(&mut self, what: What) {
        if self.rules.depth == Depth::Whole {
            self.note(what, String::new());
        }
    }
}

/// Which inode of one side stands for which of the other, among the objects with several names on either side.
#[derive(Default)]
struct Links {
    pairs: HashMap<Inode, Group>,
    back: HashMap<Inode, Inode>,
    wrong: Vec<Difference>,
}

type Inode = (u64, u64);

/// The names met of one source inode.
struct Group {
    /// Its counterpart in the copy.
    copy: Inode,
    /// Names met.
    count: u64,
    /// Link counts of both sides.
    nlink: [u64; 2],
    /// The first name met.
    path: Vec<u8>,
}

impl Links {
    fn add(&mut self, a: &Stat, b: &Stat, path: &[u8]) {
        let (nlink, copy_nlink) = (a.st_nlink, b.st_nlink);
        if nlink == 1 && copy_nlink == 1 {
            return;
        }
        let (source, copy) = ((a.st_dev, a.st_ino), (b.st_dev, b.st_ino));
        let new = || Group { copy, count: 0, nlink: [nlink, copy_nlink], path: path.to_vec() };
        let group = self.pairs.entry(source).or_insert_with(new);
        group.count += 1;
        let counterpart = *self.back.entry(copy).or_insert(source);
        if group.copy != copy || counterpart != source {
            let detail =
                format!("inode {} / {}, another name says {} / {}", source.1, copy.1, counterpart.1, group.copy.1);
            self.wrong.push(Difference { path: path.to_vec(), what: What::Links, detail });
        }
    }

    /// A group whose names all lie in the tree has exactly as many links in the copy.
    fn check(self, found: &mut Vec<Difference>) {
        found.extend(self.wrong);
        let uneven = |group: &Group| group.count == group.nlink[0] && group.nlink[0] != group.nlink[1];
        for group in self.pairs.into_values().filter(uneven) {
            let detail = format!("{} / {} links", group.nlink[0], group.nlink[1]);
            found.push(Difference { path: group.path, what: What::Links, detail });
        }
    }
}

/// Where a name was found.
enum Side {
    Source,
    Copy,
    Both,
}

/// Both sorted lists as one.
fn merge<'a>(source: &'a [CString], copy: &'a [CString]) -> Vec<(&'a CStr, Side)> {
    let mut merged = Vec::with_capacity(source.len().max(copy.len()));
    let (mut i, mut j) = (0, 0);
    while i < source.len() || j < copy.len() {
        let side = match (source.get(i), copy.get(j)) {
            (Some(a), Some(b)) if a == b => Side::Both,
            (Some(a), Some(b)) if a > b => Side::Copy,
            (None, _) => Side::Copy,
            _ => Side::Source,
        };
        merged.push((if matches!(side, Side::Copy) { &copy[j] } else { &source[i] }.as_c_str(), side));
        let (_, side) = &merged[merged.len() - 1];
        i += usize::from(!matches!(side, Side::Copy));
        j += usize::from(!matches!(side, Side::Source));
    }
    merged
}

/// Offset of the first block with a difference, reading both files to their end.
fn first_difference(source: &OwnedFd, copy: &OwnedFd, name: &CStr, size: u64) -> Result<Option<u64>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |dir: &OwnedFd| {
        openat(dir, name, flags | OFlags::NOATIME, Mode::empty()).or_else(|_| openat(dir, name, flags, Mode::empty()))
    };
    let files = (open(source)?, open(copy)?);
    let block = size.clamp(1, 1 << 20) as usize;
    let mut buffers = (vec![0; block], vec![0; block]);
    let mut offset = 0;
    loop {
        let len = read_full(&files.0, &mut buffers.0, offset)?;
        let copy_len = read_full(&files.1, &mut buffers.1, offset)?;
        if len != copy_len || buffers.0[..len] != buffers.1[..len] {
            return Ok(Some(offset));
        }
        if len < block {
            return Ok(None);
        }
        offset += len as u64;
    }
}

/// Fills `buffer` from `offset`; less only at the end of the file.
fn read_full(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open_dir(at: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

/// The parent of an open directory, which must be the one the walk came from.
fn up(dir: &OwnedFd, expected: (u64, u64)) -> OwnedFd {
    let parent = open_dir(dir, c"..").unwrap();
    let stat = rustix::fs::fstat(parent.as_fd()).unwrap();
    assert_eq!((stat.st_dev, stat.st_ino), expected, "a directory was moved during the comparison");
    parent
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn mtime(stat: &Stat) -> (i64, u64) {
    (stat.st_mtime, stat.st_mtime_nsec)
}
