//! Files to measure with: a sample of the source, read only by name and size, and scratch files where it has none.
//!
//! The walk is breadth first, so that a few thousand names tell something of the whole tree, and ends early on a slow
//! one. Small files are what a ring reads by one chain, large ones what is copied in blocks; those in between
//! are measured by neither. Nothing is followed out of the tree, and mount points are not entered (I6, I8).

use std::collections::VecDeque;
use std::ffi::CStr;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Access, Advice, AtFlags, Dir, FileType, Mode, OFlags};

use crate::config::SMALL_BYTES_MAX;
use crate::error::{Errno, Error, Result, join};
use crate::location::Location;
use crate::stop::Stop;

/// Deepest directory a sample is taken from.
pub(super) const DEPTH_MAX: usize = 48;
/// Names of one directory that are looked at: another directory may hold other sizes.
const NAMES_PER_DIR: usize = 4096;
/// Files larger than this are large.
const LARGE_BYTES_MIN: u64 = 8 << 20;
/// Least small files, and least bytes of large ones, that say something.
const SMALL_FILES_MIN: usize = 64;
const LARGE_TOTAL_MIN: u64 = 32 << 20;
/// Scratch files: how many small ones of which size in how many directories, how many large ones of which size.
const SCRATCH_SMALL: (usize, usize, usize) = (2_000, 16 << 10, 20);
const SCRATCH_LARGE: (usize, usize) = (4, 64 << 20);
/// Bytes of one write of a scratch file.
const WRITE_BYTES: usize = 1 << 20;

/// What is measured: files of one kind of size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Up to [`SMALL_BYTES_MAX`].
    Small,
    /// From [`LARGE_BYTES_MIN`] on.
    Large,
}

/// Where a sample is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The source.
    Source,
    /// Made for the purpose: the source has too few of them.
    Scratch,
}

/// A file of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
}

/// When there is enough.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Files.
    pub names: usize,
    /// Time for the walk.
    pub time: Duration,
    /// Files of one sample.
    pub files: usize,
    /// Bytes of one sample.
    pub bytes: u64,
}

/// Files that are copied again and again.
pub(super) struct Sample {
    /// What they are.
    pub kind: Kind,
    /// Where they are from.
    pub origin: Origin,
    /// The root they are below.
    pub location: Location,
    /// The root, open, where it is in a file system.
    pub root: Option<OwnedFd>,
    /// The files, below the root.
    pub files: Vec<File>,
    /// How a job takes them.
    pub extent: Extent,
}

/// What of its location a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// The files that are listed.
    Listed,
    /// All of it: the one file that it is.
    Whole,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Small, Kind::Large];

    /// For people and machines.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Small => "small",
            Kind::Large => "large",
        }
    }

    fn has(self, size: u64) -> bool {
        match self {
            Kind::Small => size > 0 && size <= SMALL_BYTES_MAX as u64,
            Kind::Large => size > LARGE_BYTES_MIN,
        }
    }

    /// The files of this kind that fit, in their order; none if they are too few to say anything.
    pub fn select(self, files: &[File], limits: &Limits) -> Vec<File> {
        let mut left = limits.bytes;
        let fitting = files.iter().filter(|file| self.has(file.size)).filter(|file| {
            let fits = file.size <= left;
            left -= if fits { file.size } else { 0 };
            fits
        });
        let files: Vec<File> = fitting.take(limits.files).cloned().collect();
        let is_enough = match self {
            Kind::Small => files.len() >= SMALL_FILES_MIN,
            Kind::Large => bytes_of(&files) >= LARGE_TOTAL_MIN,
        };
        if is_enough { files } else { Vec::new() }
    }
}

/// Bytes of all of them.
pub(super) fn bytes_of(files: &[File]) -> u64 {
    files.iter().map(|file| file.size).sum()
}

impl Sample {
    /// The paths, as `--files-from` takes them.
    pub fn list(&self) -> Vec<u8> {
        self.files.iter().flat_map(|file| file.path.iter().copied().chain([0])).collect()
    }

    /// Leaves about as many files as a run gets through: what is not copied need not be prepared either.
    pub fn cut(&mut self, files: usize) {
        let least = if self.kind == Kind::Small { SMALL_FILES_MIN } else { 1 };
        self.files.truncate(files.max(least));
    }

    /// Takes the files out of the page cache, so that every run reads them from the device. Those that cannot be
    /// opened, or are written to just now, stay; so does what is not reached in `time`.
    pub fn drop_from_cache(&self, time: Duration) {
        let (Some(root), started) = (&self.root, Instant::now()) else { return };
        let mut parent: Option<(&[u8], OwnedFd)> = None;
        for file in &self.files {
            if started.elapsed() > time {
                return;
            }
            let (dir, name) = split(&file.path);
            if parent.as_ref().is_none_or(|(path, _)| *path != dir) {
                parent = open_dir(root, dir).ok().map(|opened| (dir, opened));
            }
            if let Some((_, dir)) = &parent
                && let Ok(file) = open_file(dir, name)
            {
                let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            }
        }
    }
}

/// The directory of a path, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A directory below `root`, name by name.
fn open_dir(root: &OwnedFd, path: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = reopen(root, flags)?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        dir = open_quietly(&dir, name, flags)?;
    }
    Ok(dir)
}

/// The directory once more, with a place of its own in the listing.
fn reopen(root: &OwnedFd, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    open_quietly(root, b".", flags)
}

fn open_file(dir: &OwnedFd, name: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    open_quietly(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC)
}

/// Opens without changing the access time, where that is allowed (I6).
fn open_quietly(dir: &OwnedFd, name: &[u8], flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        opened => opened,
    }
}

/// A sample of the regular files below `root`, until there are enough or it takes too long. `skip` are device and inode
/// of a directory that is none of the job's.
pub(super) fn walk(root: &OwnedFd, skip: Option<(u64, u64)>, limits: &Limits, stop: &Stop) -> Vec<File> {
    let started = Instant::now();
    let is_over =
        |files: &Vec<File>| files.len() >= limits.names || started.elapsed() > limits.time || stop.is_requested();
    let (mut files, mut dirs) = (Vec::new(), VecDeque::from([(Vec::new(), 0)]));
    let dev = rustix::fs::fstat(root).map_or(0, |stat| stat.st_dev);
    while let Some((path, depth)) = dirs.pop_front() {
        // What cannot be opened or listed is for the job to tell.
        let Ok(dir) = open_dir(root, &path) else { continue };
        let stat = rustix::fs::fstat(&dir).map(|stat| (stat.st_dev, stat.st_ino));
        if stat.is_err() || stat.is_ok_and(|(own, ino)| own != dev || Some((own, ino)) == skip) {
            continue;
        }
        let Ok(listed) = Dir::read_from(&dir) else { continue };
        for entry in listed.take(NAMES_PER_DIR).flatten() {
            let name = entry.file_name();
            if is_over(&files) {
                return files;
            }
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let path = join(&path, name);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth < DEPTH_MAX && dirs.len() < limits.names => {
                    dirs.push_back((path, depth + 1));
                }
                // Further names of a file would be links.
                FileType::RegularFile if stat.st_nlink == 1 && is_readable(&dir, name) => {
                    files.push(File { path, size: stat.st_size.unsigned_abs() });
                }
                _ => {}
            }
        }
    }
    files
}

/// Whether a job could read it: what it could not would be told by every run.
fn is_readable(dir: &OwnedFd, name: &CStr) -> bool {
    rustix::fs::accessat(dir, name, Access::READ_OK, AtFlags::EACCESS).is_ok()
}

/// Makes files of one kind in an empty folder of our own, as many as there is time and room for.
pub(super) fn make(kind: Kind, folder: OwnedFd, limits: &Limits, stop: &Stop) -> Result<Sample> {
    let (count, size, dirs) = match kind {
        Kind::Small => SCRATCH_SMALL,
        Kind::Large => (SCRATCH_LARGE.0, SCRATCH_LARGE.1, 1),
    };
    let failed = |errno| Error::os("write", "scratch files", errno);
    let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let started = Instant::now();
    let mut noise = Noise::new(kind as u64);
    let (mut files, mut left) = (Vec::new(), limits.bytes);
    for index in 0..count {
        let is_late = started.elapsed() > limits.time && !files.is_empty();
        if is_late || left < size as u64 || stop.is_requested() {
            break;
        }
        let name = format!("{}/{index}", index % dirs);
        if index < dirs {
            rustix::fs::mkdirat(&folder, format!("{index}"), Mode::RWXU).map_err(failed)?;
        }
        let written = std::fs::File::create(format!("{path}/{name}")).and_then(|mut file| noise.fill(&mut file, size));
        written.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        files.push(File { path: name.into_bytes(), size: size as u64 });
        left -= size as u64;
    }
    // Pages that are not on the device yet would not leave the cache.
    rustix::fs::syncfs(&folder).map_err(failed)?;
    let location = Location::Posix(path.into());
    Ok(Sample { kind, origin: Origin::Scratch, location, root: Some(folder), files, extent: Extent::Listed })
}

/// Bytes that no file system can squeeze (splitmix64).
struct Noise {
    /// The generator's state.
    state: u64,
}

impl Noise {
    fn new(seed: u64) -> Noise {
        Noise { state: seed }
    }

    fn fill(&mut self, file: &mut std::fs::File, len: usize) -> std::io::Result<()> {
        let mut left = len;
        let mut block = vec![0; WRITE_BYTES.min(len)];
        while left > 0 {
            block.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next()[..chunk.len()]));
            let part = block.len().min(left);
            file.write_all(&block[..part])?;
            left -= part;
        }
        Ok(())
    }

    fn next(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_fits_and_says_something() {
        let file = |index: usize, size| File { path: index.to_string().into_bytes(), size };
        let limits = Limits { names: 0, time: Duration::ZERO, files: 100, bytes: 64 << 20 };
        let files: Vec<File> = (0..200).map(|index| file(index, 4096)).chain([file(200, 9 << 20)]).collect();
        assert_eq!(Kind::Small.select(&files, &limits).len(), 100);
        assert_eq!(Kind::Small.select(&files[..63], &limits), []);
        assert_eq!(Kind::Large.select(&files, &limits), [], "one file of 9 MiB is too little");
        let large = [file(0, 50 << 20), file(1, 50 << 20), file(2, 10 << 20), file(3, 1 << 20), file(4, 0)];
        assert_eq!(Kind::Large.select(&large, &limits), [large[0].clone(), large[2].clone()]);
    }
}
