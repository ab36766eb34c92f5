//! Both ends of a job: looked at, refused where a copy would be wrong, then opened and held.
//!
//! [`examine`] touches nothing. It follows symlinks in what the user typed, holds what it found by O_PATH
//! descriptors, and refuses, before anything is written, whatever would copy a tree into itself or has no data to
//! copy. [`Examined::open`] then makes the destination if it is missing and opens both roots. Below them nothing is
//! ever reached by path again (I8), and the source is only read (I6).
//!
//! ```text
//! --source DIR   --dest D (there or not)   roots: DIR and D
//! --source FILE  --dest DIR or NEW/        roots: FILE's directory and DIR; the name stays
//! --source FILE  --dest NAME (file or not) roots: FILE's directory and NAME's; the name becomes NAME's
//! ```
//! A block device is named like a file, on either side. It is opened here, a destination exclusively, and held
//! (devices.rs).
//!
//! A state directory may lie in either root; it is skipped by (dev, ino) later, not refused here.

mod devices;
mod exports;
mod lasting;
mod mounts;
mod overlap;
mod target;

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};

use crate::config::{Config, Mounts};
use crate::error::{Cause, Errno, Error, Result, join};
use crate::filesystem::{FileSystem, Inodes};
use crate::location::Location;
use crate::provider::block::{Device, Purpose};
use crate::report::{Activity, Busy};
use crate::ring::{Handle, Kind, Stat, Time};
use mounts::MountTable;
use target::Target;

/// One end of the job, open.
#[derive(Debug)]
pub struct Root {
    /// The directory. The source of a single file is only a place to open it from (O_PATH).
    pub handle: Handle,
    /// Canonical path.
    pub path: Vec<u8>,
    /// Its description when it was opened.
    pub stat: Stat,
    /// Time of its creation; zero where the file system keeps none. With the inode number it tells whether a
    /// recorded job still has the same root (lasting.rs).
    pub birth: Time,
    /// The kind of file system it lives on.
    pub file_system: FileSystem,
    /// How long inode numbers last there.
    pub inodes: Inodes,
    /// The block device that the job is about, if it is one.
    pub device: Option<Arc<Device>>,
}

/// The names of a job that copies one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SingleFile {
    /// Its name in the source root.
    pub source_name: CString,
    /// Its name in the destination root.
    pub dest_name: CString,
}

/// Whether the destination was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestOrigin {
    /// It was there, and may hold anything.
    Found,
    /// It was made just now, mode 0700, and is empty.
    Made,
}

/// Both ends of the job, open.
#[derive(Debug)]
pub struct Roots {
    /// Read from.
    pub source: Root,
    /// Written to.
    pub dest: Root,
    /// Whether the destination root was there.
    pub dest_origin: DestOrigin,
    /// For a job that copies one file: its names. Both roots are their parent directories then.
    pub single: Option<SingleFile>,
}

impl Roots {
    /// The path, if there is one, where every operation goes over a network or through a user-space daemon: a side, or
    /// what is mounted below one and walked into.
    pub fn slower(&self, mounts: Mounts) -> Option<Vec<u8>> {
        let side = [&self.source, &self.dest].into_iter().find(|side| side.file_system.is_remote());
        let below = || if self.single.is_some() { None } else { slow_below(&self.source, &self.dest, mounts) };
        side.map(|side| side.path.clone()).or_else(below)
    }

    /// Whether either side is a block device.
    pub fn has_device(&self) -> bool {
        self.source.device.is_some() || self.dest.device.is_some()
    }
}

/// Both ends of the job, looked at and found good; nothing is touched yet.
#[derive(Debug)]
pub struct Examined {
    /// The source directory, or the directory of the source file.
    source: Found,
    /// The destination directory as far as it exists.
    dest: Target,
    /// For a job that copies one file: its names.
    single: Option<SingleFile>,
    /// Source and destination as far as they are block devices.
    devices: [Option<Arc<Device>>; 2],
    /// The user's umask.
    umask: u32,
}

/// An existing object, held by an O_PATH descriptor.
#[derive(Debug)]
struct Found {
    /// The object itself, whatever its path leads to later.
    fd: OwnedFd,
    /// Canonical path.
    path: Vec<u8>,
    /// What it is.
    stat: Stat,
}

/// What no job can be about.
const NO_DATA: &str = "only files, directories and block devices can be copied";

/// Looks at both ends and refuses what must not be copied. Touches nothing. Every error is [`Cause::Refused`]. `busy`
/// is told which end is waited for.
pub fn examine(config: &Config, busy: &Busy) -> Result<Examined> {
    busy.set(Activity::SourceNames);
    let source_path = posix(&config.source)?;
    let source = Found::at(source_path)?
        .ok_or_else(|| Error::refused(source_path.as_os_str().as_bytes(), "there is no such source"))?;
    refuse_kernel_files(&source)?;
    busy.set(Activity::DestNames);
    let dest = Target::find(posix(&config.dest)?)?;
    refuse_kernel_files(&dest.found)?;
    match source.stat.kind() {
        Kind::Dir => examine_tree(source, dest, config, busy),
        Kind::File => examine_file(source, (source_path, dest), config, busy),
        Kind::Special if source.is_block_device() => examine_file(source, (source_path, dest), config, busy),
        Kind::Symlink | Kind::Special => Err(Error::refused(source.path, NO_DATA)),
    }
}

/// One end that is only looked at: the directory, or the one a file lies in and the file's name there. Every error is
/// [`Cause::Refused`].
pub fn open_to_read(location: &Location) -> Result<(Root, Option<CString>)> {
    let path = posix(location)?;
    let found = Found::at(path)?;
    let found = found.ok_or_else(|| Error::refused(path.as_os_str().as_bytes(), "is not there"))?;
    refuse_kernel_files(&found)?;
    let device = match found.is_block_device() {
        true => Some(Arc::new(Device::open(&found.fd, &found.path, Purpose::Look)?)),
        false => None,
    };
    let (dir, name) = match found.stat.kind() {
        Kind::Dir => (found, None),
        _ => found.parent().map(|(dir, name)| (dir, Some(name)))?,
    };
    let root = Root::describe(open_source(&dir)?, dir.path)?;
    Ok((Root { device, ..root }, name))
}

/// Opens the source of a job whose destination is no file system: its root, its path, and its name if it is one file.
pub fn open_source_alone(config: &Config) -> Result<(Root, Vec<u8>, Option<CString>)> {
    let path = posix(&config.source)?;
    let found =
        Found::at(path)?.ok_or_else(|| Error::refused(path.as_os_str().as_bytes(), "there is no such source"))?;
    refuse_kernel_files(&found)?;
    let typed = found.path.clone();
    match found.stat.kind() {
        Kind::Dir => Ok((Root::describe(open_source(&found)?, found.path)?, typed, None)),
        Kind::Special if !found.is_block_device() => Err(Error::refused(typed, NO_DATA)),
        _ => {
            let device = devices::open_source(&found, config)?.map(Arc::new);
            let (dir, name) = found.parent()?;
            let root = Root::describe(dir.fd, dir.path)?;
            Ok((Root { device, ..root }, typed, Some(name)))
        }
    }
}

/// Opens the destination of a job whose source is no file system, making what is missing: its root, its path, whether
/// it was there, and the name there of the one object that `single` names with its size in bytes.
pub fn open_dest_alone(
    config: &Config,
    single: Option<(CString, u64)>,
) -> Result<(Root, Vec<u8>, DestOrigin, Option<CString>)> {
    let (target, path, name, device) = dest_alone(config, single)?;
    let origin = if target.is_there() { DestOrigin::Found } else { DestOrigin::Made };
    let parents_mode = 0o777 & !config.umask;
    let last_mode = if name.is_some() { parents_mode } else { 0o700 };
    let (fd, dest_path) = target.open(parents_mode, last_mode)?;
    let root = Root::describe(fd, dest_path)?;
    Ok((Root { device, ..root }, path, origin, name))
}

/// As [`open_dest_alone`], and makes nothing: `place_holder` stands for a destination that is not there.
pub fn look_at_dest_alone(
    config: &Config,
    single: Option<(CString, u64)>,
    place_holder: fn(&[u8]) -> Result<Root>,
) -> Result<(Root, Vec<u8>, DestOrigin, Option<CString>)> {
    let (target, path, name, device) = dest_alone(config, single)?;
    let (root, origin) = target.look(place_holder)?;
    Ok((Root { device, ..root }, path, origin, name))
}

/// What [`dest_alone`] finds.
type DestAlone = (Target, Vec<u8>, Option<CString>, Option<Arc<Device>>);

/// The destination of a job whose source is no file system, as far as it exists: its path, and the name of the one
/// object that the job is about, and the block device that takes it if it is one.
fn dest_alone(config: &Config, single: Option<(CString, u64)>) -> Result<DestAlone> {
    let target = Target::find(posix(&config.dest)?)?;
    refuse_kernel_files(&target.found)?;
    let device = match &single {
        Some((name, bytes)) if target.is_there() => {
            devices::refuse_image(&target, name)?;
            devices::open_dest(&target.found, *bytes, None)?.map(Arc::new)
        }
        _ => None,
    };
    let (target, name) = match single {
        Some((name, _)) => target.for_file(name).map(|(target, name)| (target, Some(name)))?,
        None if target.found.stat.kind() != Kind::Dir => {
            return Err(Error::refused(target.found.path, "is not a directory, but the source is"));
        }
        None => (target, None),
    };
    let path = match &name {
        Some(name) => join(&target.path(), name),
        None => target.path(),
    };
    Ok((target, path, name, device))
}

fn examine_tree(source: Found, dest: Target, config: &Config, busy: &Busy) -> Result<Examined> {
    if dest.found.stat.kind() != Kind::Dir {
        return Err(Error::refused(dest.found.path, "is not a directory, but the source is"));
    }
    overlap::refuse(&source, &dest, config.mounts, busy)?;
    Ok(Examined { source, dest, single: None, devices: [None, None], umask: config.umask })
}

fn examine_file(file: Found, (typed, dest): (&Path, Target), config: &Config, busy: &Busy) -> Result<Examined> {
    let typed_name = match typed.file_name() {
        Some(name) => c_string(name.as_bytes())?,
        None => file.parent()?.1,
    };
    let devices = devices::examine(&file, &dest, &typed_name, config)?;
    busy.set(Activity::SourceNames);
    let (source, source_name) = file.parent()?;
    busy.set(Activity::DestNames);
    let (dest, dest_name) = dest.for_file(typed_name)?;
    if dest.is_there() {
        refuse_same_file(&file, &dest.found, &dest_name)?;
    }
    let single = Some(SingleFile { source_name, dest_name });
    Ok(Examined { source, dest, single, devices, umask: config.umask })
}

fn refuse_same_file(file: &Found, dir: &Found, name: &CStr) -> Result<()> {
    let path = join(&dir.path, name);
    match describe_at(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(refused_by(&path, "described", errno)),
        Ok((there, _)) if there.kind() == Kind::Dir => {
            Err(Error::refused(path, "is a directory, but the source is a file"))
        }
        Ok((there, _)) if (there.dev, there.ino) == (file.stat.dev, file.stat.ino) => {
            Err(Error::refused(path, "is the source itself"))
        }
        Ok(_) => Ok(()),
    }
}

/// procfs and sysfs answer reads with what they make up on the spot; sizes and times mean nothing there.
fn refuse_kernel_files(found: &Found) -> Result<()> {
    match FileSystem::of(&found.fd) {
        Ok(FileSystem::Kernel) => Err(Error::refused(
            &found.path,
            "lies on a file system of the kernel's own (proc, sys), which holds no data",
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(Error::refused(&found.path, error.cause.to_string())),
    }
}

impl Examined {
    /// Canonical path of the source: of the file itself where it is one.
    pub fn source_path(&self) -> Vec<u8> {
        match &self.single {
            Some(single) => join(&self.source.path, &single.source_name),
            None => self.source.path.clone(),
        }
    }

    /// Canonical path of the destination, there or not: of the file itself where it is one.
    pub fn dest_path(&self) -> Vec<u8> {
        match &self.single {
            Some(single) => join(&self.dest.path(), &single.dest_name),
            None => self.dest.path(),
        }
    }

    /// Whether the destination root is there already.
    pub fn is_dest_there(&self) -> bool {
        self.dest.is_there()
    }

    /// Opens the source, and the destination if it is there; else `place_holder` stands for it. Makes nothing.
    pub fn look(self, place_holder: fn(&[u8]) -> Result<Root>, busy: &Busy) -> Result<Roots> {
        let [source_device, dest_device] = self.devices;
        busy.set(Activity::SourceNames);
        let source = match &self.single {
            Some(_) => Root::describe(self.source.fd, self.source.path)?,
            None => Root::describe(open_source(&self.source)?, self.source.path)?,
        };
        busy.set(Activity::DestNames);
        let (dest, dest_origin) = self.dest.look(place_holder)?;
        let (source, dest) = (Root { device: source_device, ..source }, Root { device: dest_device, ..dest });
        Ok(Roots { source, dest, dest_origin, single: self.single })
    }

    /// Opens the source, then makes what is missing of the destination and opens it.
    pub fn open(self, busy: &Busy) -> Result<Roots> {
        let [source_device, dest_device] = self.devices;
        busy.set(Activity::SourceNames);
        let source = match &self.single {
            Some(_) => Root::describe(self.source.fd, self.source.path)?,
            None => Root::describe(open_source(&self.source)?, self.source.path)?,
        };
        let dest_origin = if self.dest.is_there() { DestOrigin::Found } else { DestOrigin::Made };
        let parents_mode = 0o777 & !self.umask;
        // A directory that will get the source's mode is closed to others until then (I9).
        let last_mode = if self.single.is_some() { parents_mode } else { 0o700 };
        busy.set(Activity::DestNames);
        let (dest_fd, dest_path) = self.dest.open(parents_mode, last_mode)?;
        let dest = Root { device: dest_device, ..Root::describe(dest_fd, dest_path)? };
        let source = Root { device: source_device, ..source };
        Ok(Roots { source, dest, dest_origin, single: self.single })
    }
}

/// A slow mount below either root that a walk of the source comes to. Nothing of it is asked but the mount table.
pub fn slow_below(source: &Root, dest: &Root, mounts: Mounts) -> Option<Vec<u8>> {
    let table = MountTable::read().ok()?;
    let is_walked = |point: &&[u8]| {
        let below = point.get(dest.path.len()..).unwrap_or_default();
        let below = OsStr::from_bytes(below.strip_prefix(b"/").unwrap_or(below));
        rustix::fs::statat(&source.handle, below, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    };
    let of_source = table.slow_points_below(&source.path).next().filter(|_| mounts == Mounts::Cross);
    let found = of_source.or_else(|| table.slow_points_below(&dest.path).find(is_walked));
    found.map(<[u8]>::to_vec)
}

/// Opens the very directory that was examined, for listing; O_NOATIME is only the owner's and root's to ask for.
fn open_source(source: &Found) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat(&source.fd, c".", flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(&source.fd, c".", flags, Mode::empty()),
        result => result,
    };
    opened.map_err(|errno| refused_by(&source.path, "opened", errno))
}

impl Root {
    /// Nanoseconds that its times are told apart by at worst.
    pub fn granularity_nanos(&self) -> u32 {
        self.file_system.granularity_nanos(&self.handle)
    }

    fn describe(fd: OwnedFd, path: Vec<u8>) -> Result<Root> {
        let described = describe_at(&fd, c"", AtFlags::EMPTY_PATH);
        let (stat, birth) = described.map_err(|errno| refused_by(&path, "described", errno))?;
        let file_system = FileSystem::of(&fd).map_err(|error| Error::refused(&path, error.cause.to_string()))?;
        let inodes = lasting::inodes(&fd, file_system, (stat.mount_id, &path));
        Ok(Root { handle: Arc::new(fd), path, stat, birth, file_system, inodes, device: None })
    }
}

impl Found {
    /// What `path` leads to, symlinks followed; `None` when there is nothing. Only who asks for a directory has mounted
    /// what is mounted on demand (autofs, file systems below an export of NFS 4): else that is an empty directory, or
    /// none that can be read (open(2), O_PATH).
    fn at(path: &Path) -> Result<Option<Found>> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = match rustix::fs::open(path, flags | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOTDIR) => rustix::fs::open(path, flags, Mode::empty()),
            opened => opened,
        };
        match opened {
            Ok(fd) => Found::describe(fd, path.as_os_str().as_bytes()).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused_by(path.as_os_str().as_bytes(), "reached", errno)),
        }
    }

    fn describe(fd: OwnedFd, typed: &[u8]) -> Result<Found> {
        let refused = |errno| refused_by(typed, "described", errno);
        let (stat, _) = describe_at(&fd, c"", AtFlags::EMPTY_PATH).map_err(refused)?;
        // The descriptor's own path, so that path and object cannot differ. "/proc" is needed for the mount table too.
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new()).map_err(refused)?.into_bytes();
        if !path.starts_with(b"/") {
            return Err(Error::refused(typed, "has no path from the root directory any more: was it unmounted?"));
        }
        Ok(Found { fd, path, stat })
    }

    /// The directory a file was found in, and its name there.
    fn parent(&self) -> Result<(Found, CString)> {
        let slash = self.path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let name = c_string(&self.path[slash + 1..])?;
        let dir_path = Path::new(std::ffi::OsStr::from_bytes(&self.path[..slash.max(1)]));
        let moved = || Error::refused(&self.path, "was moved while it was looked at");
        let dir = Found::at(dir_path)?.ok_or_else(moved)?;
        match describe_at(&dir.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok((stat, _)) if self.is(&stat) => Ok((dir, name)),
            _ => Err(moved()),
        }
    }

    fn is_block_device(&self) -> bool {
        self.stat.mode & libc::S_IFMT == libc::S_IFBLK
    }

    fn is(&self, other: &Stat) -> bool {
        (self.stat.dev, self.stat.ino) == (other.dev, other.ino)
    }
}

fn posix(location: &Location) -> Result<&Path> {
    match location {
        Location::Posix(path) => Ok(path),
        Location::S3 { .. } => Err(Error::refused(location.display(), "s3:// locations are not there yet")),
    }
}

/// A refusal with the kernel's reason.
fn refused_by(path: impl AsRef<[u8]>, what: &str, errno: Errno) -> Error {
    Error::refused(path, format!("cannot be {what}: {}", Cause::Os(errno)))
}

/// Names from the command line or the kernel hold no NUL; one that did would be no name.
fn c_string(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Error::refused(name, "holds a NUL byte"))
}

/// statx of a name below `dir`, or of `dir` itself: what it is, and when it was made.
fn describe_at(dir: &OwnedFd, name: &CStr, flags: AtFlags) -> std::result::Result<(Stat, Time), Errno> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let statx = rustix::fs::statx(dir, name, flags, mask)?;
    let time = |t: rustix::fs::StatxTimestamp| Time { secs: t.tv_sec, nanos: t.tv_nsec };
    let has_birth = statx.stx_mask & StatxFlags::BTIME.bits() != 0;
    let birth = if has_birth { time(statx.stx_btime) } else { Time::default() };
    let stat = Stat {
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
        direct_align: 0,
        birth: 0,
    };
    Ok((stat, birth))
}
