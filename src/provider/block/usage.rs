//! Who uses a device, and what it lies on, as /sys and /proc tell.
//!
//! ```text
//! /sys/dev/block/8:1 -> .../sda/sda1    partition, start, size: bytes of sda
//!                       loop/backing_file, offset, sizelimit: bytes of a file
//!                       slaves/, holders/: devices below (dm, md) and above
//! ```
//! O_EXCL has the last word on whether a device is free; what is found here says by whom it is not.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Ground;
use crate::error::{Error, Result, escape};

/// Devices on devices that are looked through: more than anybody stacks, and an end if /sys had a loop.
const LEVELS_MAX: u32 = 16;

/// Bytes of something that is no part of anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    /// What they are part of.
    base: Base,
    /// The first one.
    start: u64,
    /// One past the last one.
    end: u64,
    /// How many of them, where it is not known which: a volume on a device that may hold others.
    some: Option<u64>,
}

impl Span {
    /// Whether two spans have bytes in common. Volumes beside each other have none: the kernel's device mapper has
    /// seen to that, unless together they are larger than what they lie on.
    fn meets(&self, other: &Span) -> bool {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        let is_close = match (self.some, other.some) {
            (Some(a), Some(b)) => a.saturating_add(b) > end.saturating_sub(start),
            _ => true,
        };
        self.base == other.base && start < end && is_close
    }
}

/// What devices lie on in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// A disk, by its number.
    Disk(u64),
    /// A file, by the numbers of its file system and its own.
    File(u64, u64),
}

/// A mounted file system that a device holds.
struct Mounted {
    /// Where.
    point: String,
    /// Whether it may be written to.
    is_writable: bool,
}

/// Whether the kernel lets nobody write to a device.
pub(super) fn is_read_only(number: u64) -> bool {
    folder(number).and_then(|folder| number_in(&folder, "ro")).is_some_and(|ro| ro != 0)
}

/// Who uses a device, or a part of it.
pub(super) fn user(number: u64) -> Result<Option<String>> {
    let mounted = mounted(number)?.into_iter().next();
    Ok(mounted.map(|mounted| format!("mounted at {}", mounted.point)).or_else(|| holder(number)))
}

/// Who may write to a device while it is read.
pub(super) fn writer(number: u64) -> Result<Option<String>> {
    let mounted = mounted(number)?;
    if let Some(mounted) = mounted.iter().find(|mounted| mounted.is_writable) {
        return Ok(Some(format!("mounted read-write at {}", mounted.point)));
    }
    Ok(holder(number))
}

/// A volume, RAID or swap that a device is part of.
fn holder(number: u64) -> Option<String> {
    let parts = with_parts(number);
    let holds = |number: &u64| {
        let holders = fs::read_dir(folder(*number)?.join("holders")).ok()?;
        let name = holders.flatten().next()?.file_name();
        Some(format!("held by {}", escape(name.as_bytes())))
    };
    parts.iter().find_map(holds).or_else(|| {
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let mut paths = swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
        let is_swap = paths.any(|path| node_number(path).is_some_and(|swap| parts.contains(&swap)));
        is_swap.then(|| "used as swap space".to_owned())
    })
}

/// What is mounted of a device and its partitions. A file system of several devices or with a number of its own
/// (btrfs) is known by the device that its line in the mount table names.
fn mounted(number: u64) -> Result<Vec<Mounted>> {
    let table = "/proc/self/mountinfo";
    let read = fs::read(table);
    let text = read.map_err(|error| Error::refused(table, format!("the mount table cannot be read: {error}")))?;
    let parts = with_parts(number);
    Ok(text.split(|&byte| byte == b'\n').filter_map(|line| mounted_by(line, &parts)).collect())
}

fn mounted_by(line: &[u8], devices: &[u64]) -> Option<Mounted> {
    let line = String::from_utf8_lossy(line);
    let (front, back) = line.split_once(" - ")?;
    let mut fields = front.split(' ');
    let dev = parse_number(fields.nth(2)?)?;
    let point = fields.nth(1)?;
    let mut fields = back.split(' ').skip(1);
    let (source, options) = (fields.next()?, fields.next()?);
    let is_it = devices.contains(&dev) || node_number(source).is_some_and(|node| devices.contains(&node));
    let is_writable = options.split(',').any(|option| option == "rw");
    is_it.then(|| Mounted { point: point.to_owned(), is_writable })
}

/// A device and its partitions.
fn with_parts(number: u64) -> Vec<u64> {
    let mut numbers = vec![number];
    let entries = folder(number).and_then(|folder| fs::read_dir(folder).ok());
    let folders = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let parts = folders.filter(|folder| folder.join("partition").exists());
    numbers.extend(parts.filter_map(|part| parse_number(text_in(&part, "dev")?.as_str())));
    numbers
}

/// What the device says of itself that no other device says.
pub(super) fn serial(number: u64) -> Option<Vec<u8>> {
    let folder = folder(number)?;
    if folder.join("partition").exists() {
        let disk = parse_number(&text_in(folder.parent()?, "dev")?)?;
        let start = text_in(&folder, "start")?;
        return Some([serial(disk)?, start.into_bytes()].concat());
    }
    // The serial number of an NVMe namespace is its controller's, and others have it as well.
    let files = ["wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid", "loop/backing_file"];
    files.iter().find_map(|file| text_in(&folder, file).filter(|text| !text.is_empty())).map(String::into_bytes)
}

/// Whether two ends have bytes in common.
pub(super) fn overlap(source: Ground, dest: Ground) -> bool {
    let (source, dest) = (spans(source), spans(dest));
    source.iter().any(|a| dest.iter().any(|b| a.meets(b)))
}

fn spans(ground: Ground) -> Vec<Span> {
    match ground {
        Ground::Device(number) => device_spans(number, LEVELS_MAX),
        Ground::File(dev, ino) => {
            let mut spans = device_spans(dev, LEVELS_MAX);
            spans.push(Span { base: Base::File(dev, ino), start: 0, end: u64::MAX, some: None });
            spans
        }
        Ground::NewFile(dev) => device_spans(dev, LEVELS_MAX),
    }
}

/// The bytes that a device lies on, its own among them. A number without a device (tmpfs, btrfs) has none.
fn device_spans(number: u64, levels: u32) -> Vec<Span> {
    let Some(folder) = folder(number).filter(|_| levels > 0) else { return Vec::new() };
    let sectors = |name| number_in(&folder, name).unwrap_or(0).saturating_mul(512);
    let size = sectors("size");
    if folder.join("partition").exists() {
        let disk = folder.parent().and_then(|disk| parse_number(&text_in(disk, "dev")?));
        let start = sectors("start");
        let whole = disk.map_or_else(Vec::new, |disk| device_spans(disk, levels - 1));
        // What the disk lies on begins where the disk does.
        let part = |span: Span| {
            let first = span.start.saturating_add(start);
            Span { start: first, end: span.end.min(first.saturating_add(size)), ..span }
        };
        return whole.into_iter().map(part).collect();
    }
    let mut spans = vec![Span { base: Base::Disk(number), start: 0, end: size, some: None }];
    if let Some(file) = text_in(&folder, "loop/backing_file").and_then(|path| fs::metadata(path).ok()) {
        let start = number_in(&folder, "loop/offset").unwrap_or(0);
        match file.file_type().is_block_device() {
            true => spans.extend(device_spans(file.rdev(), levels - 1)),
            false => {
                spans.push(Span { base: Base::File(file.dev(), file.ino()), start, end: start + size, some: None })
            }
        }
    }
    let below = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    let numbers = below.filter_map(|entry| parse_number(&text_in(&entry.path(), "dev")?));
    // Which of their bytes a volume has, its table would tell; a RAID has them all.
    let some = folder.join("dm").exists().then_some(size);
    let below = numbers.flat_map(|number| device_spans(number, levels - 1));
    spans.extend(below.map(|span| Span { some: span.some.into_iter().chain(some).min(), ..span }));
    spans
}

/// Where /sys tells of a device.
fn folder(number: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()
}

fn text_in(folder: &Path, name: &str) -> Option<String> {
    let bytes = fs::read(folder.join(name)).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
}

fn number_in(folder: &Path, name: &str) -> Option<u64> {
    text_in(folder, name)?.trim().parse().ok()
}

/// `8:1` as a device number.
fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The number of the block device that a path leads to.
fn node_number(path: &str) -> Option<u64> {
    let found = fs::metadata(path).ok().filter(|_| path.starts_with('/'))?;
    found.file_type().is_block_device().then(|| found.rdev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_its_number_and_tells_whether_it_may_be_written_to() {
        let sda1 = rustix::fs::makedev(8, 1);
        let mounted = |line: &str| mounted_by(line.as_bytes(), &[sda1]).map(|m| (m.point, m.is_writable));
        let line = |dev: &str, own: &str, all: &str| format!("36 35 {dev} / /mnt/b {own} shared:1 - ext4 x {all}");
        assert_eq!(mounted(&line("8:1", "ro,noatime", "rw")), Some(("/mnt/b".to_owned(), true)));
        assert_eq!(mounted(&line("8:1", "ro,noatime", "ro,norecovery")), Some(("/mnt/b".to_owned(), false)));
        assert_eq!(mounted(&line("8:2", "rw", "rw")), None);
        assert_eq!(mounted("36 35 8:1 /"), None);
    }

    #[test]
    fn spans_overlap_on_one_base_only() {
        let span = |base, start, end| Span { base, start, end, some: None };
        assert_eq!(device_spans(rustix::fs::makedev(0, 77), LEVELS_MAX), Vec::new());
        let file = Ground::File(rustix::fs::makedev(0, 77), 5);
        assert_eq!(spans(file), [span(Base::File(rustix::fs::makedev(0, 77), 5), 0, u64::MAX)]);
        assert!(overlap(file, file) && !overlap(file, Ground::File(rustix::fs::makedev(0, 77), 6)));
    }

    #[test]
    fn volumes_beside_each_other_share_nothing_and_each_shares_with_what_it_lies_on() {
        let disk = Span { base: Base::Disk(1), start: 0, end: 100, some: None };
        let volume = |some| Span { some: Some(some), ..disk };
        assert!(!volume(40).meets(&volume(60)), "two volumes of one disk");
        assert!(volume(40).meets(&volume(61)), "they have no room beside each other");
        assert!(volume(1).meets(&disk) && disk.meets(&volume(1)));
        let part = Span { start: 10, end: 20, ..disk };
        assert!(part.meets(&volume(1)) && part.meets(&disk));
        assert!(!part.meets(&Span { start: 20, ..disk }));
        assert!(!volume(100).meets(&Span { base: Base::Disk(2), ..volume(100) }));
    }
}
