//! What /sys tells of block devices, each a folder of small files.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::Errno;
use crate::ring::loops::{self, Backing};

/// Where /sys tells of a device.
pub(super) fn folder(number: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()
}

/// All block devices, partitions among them.
pub(super) fn all() -> Vec<u64> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    entries.filter_map(|entry| number_of(&entry.path())).collect()
}

/// A device and its partitions.
pub(super) fn with_parts(number: u64) -> Vec<u64> {
    let mut numbers = vec![number];
    let entries = folder(number).and_then(|folder| fs::read_dir(folder).ok());
    let folders = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    numbers.extend(folders.filter(|folder| is_partition(folder)).filter_map(|part| number_of(&part)));
    numbers
}

/// A device and the further ones of the btrfs that it is part of, if that is mounted.
pub(super) fn with_members(number: u64) -> Vec<u64> {
    let systems = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let mut members = systems.map(|system| {
        let devices = fs::read_dir(system.path().join("devices")).into_iter().flatten().flatten();
        devices.filter_map(|device| number_of(&device.path())).collect::<Vec<_>>()
    });
    members.find(|members| members.contains(&number)).unwrap_or_else(|| vec![number])
}

/// The disk that a device is, or is a partition of.
pub(super) fn disk_of(number: u64) -> u64 {
    let partition = folder(number).filter(|folder| is_partition(folder));
    partition.and_then(|folder| number_of(folder.parent()?)).unwrap_or(number)
}

/// Whether a folder tells of a partition.
pub(super) fn is_partition(folder: &Path) -> bool {
    folder.join("partition").exists()
}

/// The number of the device that a folder tells of.
pub(super) fn number_of(folder: &Path) -> Option<u64> {
    parse_number(&text_in(folder, "dev")?)
}

/// What the kernel calls a device.
pub(super) fn name(number: u64) -> String {
    let name = folder(number).and_then(|folder| folder.file_name().map(OsStr::to_owned));
    name.map_or_else(|| "?".to_owned(), |name| crate::error::escape(name.as_bytes()))
}

/// Opens the node of a device, if it is where nodes usually are.
pub(super) fn open_node(number: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
    let folder = folder(number).ok_or(Errno::NODEV)?;
    // In /sys a slash of a node's name is an exclamation mark.
    let name = folder.file_name().unwrap_or_default().as_bytes().iter().map(|&b| if b == b'!' { b'/' } else { b });
    let path = [b"/dev/", &name.collect::<Vec<u8>>()[..]].concat();
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let node = rustix::fs::open(OsStr::from_bytes(&path), flags, Mode::empty())?;
    match rustix::fs::fstat(&node)?.st_rdev == number {
        true => Ok(node),
        false => Err(Errno::NODEV),
    }
}

/// What a loop device lies on. The kernel is asked; where there is no node to ask through, the path that it tells.
pub(super) fn backing(number: u64) -> Option<Backing> {
    let folder = folder(number)?;
    let path = backing_path(&folder)?;
    let asked = open_node(number, OFlags::empty()).and_then(|node| loops::backing(&node));
    asked.ok().or_else(|| {
        let file = fs::metadata(path).ok()?;
        let device = file.file_type().is_block_device().then(|| file.rdev());
        let offset = number_in(&folder, "loop/offset").unwrap_or(0);
        Some(Backing { file: (file.dev(), file.ino()), device, offset })
    })
}

/// The path of the file behind the loop device that a folder tells of.
pub(super) fn backing_path(folder: &Path) -> Option<PathBuf> {
    bytes_in(folder, "loop/backing_file").map(|path| OsString::from_vec(path).into())
}

/// What a file of a folder says, without the line's end.
fn bytes_in(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let mut bytes = fs::read(folder.join(name)).ok()?;
    bytes.pop_if(|last| *last == b'\n');
    Some(bytes)
}

/// The same as text.
pub(super) fn text_in(folder: &Path, name: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&bytes_in(folder, name)?).trim_end_matches('\n').to_owned())
}

/// The same as a number.
pub(super) fn number_in(folder: &Path, name: &str) -> Option<u64> {
    text_in(folder, name)?.trim().parse().ok()
}

/// `8:1` as a device number.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The number of the block device that a path leads to.
pub(super) fn node_number(path: &str) -> Option<u64> {
    let found = fs::metadata(path).ok().filter(|_| path.starts_with('/'))?;
    found.file_type().is_block_device().then(|| found.rdev())
}
