//! Which bytes a device or a file is, told by what it lies on in the end.
//!
//! ```text
//! /sys/dev/block/8:1 -> .../sda/sda1    partition, start, size: bytes of sda
//!                       loop/           backing file, offset: bytes of a file or of a device
//!                       slaves/         devices below (dm, md)
//!                       wwid            the disk itself, which another path may lead to as well
//! ```

use std::fs;

use super::{Ground, sys, usage};
use crate::digest;
use crate::error::Result;

/// Devices on devices that are looked through: more than anybody stacks, and an end if /sys had a loop.
const LEVELS_MAX: u32 = 16;

/// Bytes of something that is no part of anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// What they are part of.
    base: Base,
    /// The first one.
    start: u64,
    /// One past the last one.
    end: u64,
    /// How many of them, where it is not known which: a volume on a device that may hold others.
    some: Option<Share>,
}

/// What a volume has of a device that it lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// Bytes of the volume. None of one whose pool gives each of its volumes bytes of its own.
    bytes: u64,
    /// Bytes of the other devices below it, where its own may lie instead.
    elsewhere: u64,
}

/// What devices lie on in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// A disk, by its number.
    Disk(u64),
    /// A disk, by its WWID: without multipath each path to it is a device with a number of its own.
    Unit(u64),
    /// A file, by the numbers of its file system and its own.
    File(u64, u64),
}

/// What is looked through on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Partitions and loop devices, of which every byte has its known place below.
    Exact,
    /// Volumes and RAIDs as well.
    All,
}

impl Span {
    /// All of a file.
    pub fn of_file(dev: u64, ino: u64) -> Span {
        Span { base: Base::File(dev, ino), start: 0, end: u64::MAX, some: None }
    }

    /// Whether two spans have bytes in common. Volumes beside each other have none: the kernel's device mapper has
    /// seen to that, unless together they are larger than all that they lie on: a snapshot and its origin.
    pub fn meets(&self, other: &Span) -> bool {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        let is_close = match (self.some, other.some) {
            (Some(a), Some(b)) => {
                let room = end.saturating_sub(start).saturating_add(a.elsewhere).saturating_add(b.elsewhere);
                a.bytes.saturating_add(b.bytes) > room
            }
            _ => true,
        };
        self.base == other.base && start < end && is_close
    }

    /// `size` bytes of it from `start` on; what it lies on begins where it does.
    fn part(self, start: u64, size: u64) -> Span {
        let first = self.start.saturating_add(start);
        Span { start: first, end: self.end.min(first.saturating_add(size)), ..self }
    }
}

impl Share {
    /// What a volume has of this part of a device below it.
    fn of(self, volume: Share) -> Share {
        let bytes = self.bytes.min(volume.bytes);
        Share { bytes, elsewhere: self.elsewhere.saturating_add(volume.elsewhere) }
    }
}

/// Whether two ends have bytes in common.
pub(super) fn overlap(source: Ground, dest: Ground) -> Result<bool> {
    let (source, dest) = (of_ground(source)?, of_ground(dest)?);
    Ok(source.iter().any(|a| dest.iter().any(|b| a.meets(b))))
}

fn of_ground(ground: Ground) -> Result<Vec<Span>> {
    match ground {
        Ground::Device(number) => Ok(of_device(number, Depth::All)),
        Ground::File(dev, ino, mount) => {
            let mut spans = of_file_system(dev, mount)?;
            spans.push(Span::of_file(dev, ino));
            Ok(spans)
        }
        Ground::NewFile(dev, mount) => of_file_system(dev, mount),
    }
}

/// The bytes that a file system lies on, by its number. That of one with a number of its own (btrfs, each subvolume
/// another) is of no device: then the mount table tells what was mounted.
fn of_file_system(dev: u64, mount: u64) -> Result<Vec<Span>> {
    let spans = of_device(dev, Depth::All);
    if !spans.is_empty() {
        return Ok(spans);
    }
    Ok(usage::devices_of(mount)?.into_iter().flat_map(|number| of_device(number, Depth::All)).collect())
}

/// The bytes that a device lies on, its own among them. A number without a device (tmpfs, btrfs) has none.
pub(super) fn of_device(number: u64, depth: Depth) -> Vec<Span> {
    within(number, depth, LEVELS_MAX)
}

fn within(number: u64, depth: Depth, levels: u32) -> Vec<Span> {
    let Some(folder) = sys::folder(number).filter(|_| levels > 0) else { return Vec::new() };
    let sectors = |name| sys::number_in(&folder, name).unwrap_or(0).saturating_mul(512);
    let size = sectors("size");
    if sys::is_partition(&folder) {
        let disk = folder.parent().and_then(sys::number_of);
        let whole = disk.map_or_else(Vec::new, |disk| within(disk, depth, levels - 1));
        return whole.into_iter().map(|span| span.part(sectors("start"), size)).collect();
    }
    let wwid = ["wwid", "device/wwid"].iter().find_map(|file| sys::text_in(&folder, file));
    let mut spans = vec![Span { base: disk(number, wwid.as_deref()), start: 0, end: size, some: None }];
    if let Some(backing) = sys::backing(number) {
        let whole = match backing.device {
            Some(device) => within(device, depth, levels - 1),
            None => vec![Span::of_file(backing.file.0, backing.file.1)],
        };
        spans.extend(whole.into_iter().map(|span| span.part(backing.offset, size)));
    }
    if depth == Depth::Exact {
        return spans;
    }
    let is_volume = folder.join("dm").exists();
    let below: Vec<Below> =
        fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten().filter_map(below).collect();
    let all = below.iter().fold(0u64, |all, below| all.saturating_add(below.bytes));
    for Below { number, bytes, is_pool } in below {
        // Which of their bytes a volume has, its table would tell; a RAID has them all.
        let own = Share { bytes: if is_pool { 0 } else { size }, elsewhere: all - bytes };
        let share = |some: Option<Share>| match some {
            Some(part) if is_volume => Some(part.of(own)),
            None if is_volume => Some(own),
            some => some,
        };
        spans.extend(within(number, depth, levels - 1).into_iter().map(|span| Span { some: share(span.some), ..span }));
    }
    spans
}

/// A device that a volume or RAID lies on.
struct Below {
    /// Its number.
    number: u64,
    /// Its size.
    bytes: u64,
    /// Whether it gives each volume on it bytes of its own, as they are written: LVM's thin pools, and those of VDO.
    is_pool: bool,
}

fn below(entry: fs::DirEntry) -> Option<Below> {
    let folder = entry.path();
    let uuid = sys::text_in(&folder, "dm/uuid").unwrap_or_default();
    Some(Below {
        number: sys::number_of(&folder)?,
        bytes: sys::number_in(&folder, "size").unwrap_or(0).saturating_mul(512),
        is_pool: ["-tpool", "-vpool"].iter().any(|pool| uuid.ends_with(pool)),
    })
}

/// A disk as a base. Only WWIDs that are assigned worldwide, or made up of an NVMe drive's serial number, make one disk
/// of two devices: what a vendor calls its disks (`t10.`) may be the same for each.
fn disk(number: u64, wwid: Option<&str>) -> Base {
    let is_assigned = |wwid: &&str| ["naa.", "eui.", "uuid.", "nvme."].iter().any(|kind| wwid.starts_with(kind));
    let unit = wwid.map(str::trim).filter(is_assigned).map(|wwid| Base::Unit(digest::crc64(wwid.as_bytes())));
    unit.unwrap_or(Base::Disk(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_a_wwid_that_no_other_disk_has() {
        let lun = "naa.60050768018105e0f000000000000a1b";
        assert_eq!(disk(1, Some(lun)), disk(2, Some(&format!("{lun}\n"))));
        assert_ne!(disk(1, Some(lun)), disk(1, Some("naa.60050768018105e0f000000000000a1c")));
        for wwid in [None, Some(""), Some("t10.ATA     DISK"), Some("0123456789")] {
            assert_eq!(disk(1, wwid), Base::Disk(1));
        }
    }

    #[test]
    fn spans_overlap_on_one_base_only() {
        let span = |base, start, end| Span { base, start, end, some: None };
        assert_eq!(of_device(rustix::fs::makedev(0, 77), Depth::All), Vec::new());
        let file = Ground::File(rustix::fs::makedev(0, 77), 5, 0);
        assert_eq!(of_ground(file).unwrap(), [span(Base::File(rustix::fs::makedev(0, 77), 5), 0, u64::MAX)]);
        let other = Ground::File(rustix::fs::makedev(0, 77), 6, 0);
        assert!(overlap(file, file).unwrap() && !overlap(file, other).unwrap());
    }

    #[test]
    fn parts_of_parts_stay_within_them() {
        let disk = Span { base: Base::Disk(1), start: 0, end: 100, some: None };
        assert_eq!(disk.part(10, 20).part(5, 50), Span { start: 15, end: 30, ..disk });
        assert!(disk.part(10, 20).meets(&disk.part(29, 1)) && !disk.part(10, 20).meets(&disk.part(30, 1)));
        assert!(!disk.part(10, 20).part(20, 5).meets(&disk), "it lies behind what it is part of");
    }

    #[test]
    fn volumes_beside_each_other_share_nothing_and_each_shares_with_what_it_lies_on() {
        let disk = Span { base: Base::Disk(1), start: 0, end: 100, some: None };
        let spread = |bytes, elsewhere| Span { some: Some(Share { bytes, elsewhere }), ..disk };
        let volume = |bytes| spread(bytes, 0);
        assert!(!volume(40).meets(&volume(60)), "two volumes of one disk");
        assert!(volume(40).meets(&volume(61)), "they have no room beside each other");
        assert!(!spread(160, 100).meets(&volume(40)), "one of them lies on another disk, too");
        assert!(!volume(0).meets(&volume(100)) && volume(0).meets(&disk), "a thin volume");
        assert!(volume(1).meets(&disk) && disk.meets(&volume(1)));
        let part = Span { start: 10, end: 20, ..disk };
        assert!(part.meets(&volume(1)) && part.meets(&disk));
        assert!(!part.meets(&Span { start: 20, ..disk }));
        assert!(!volume(100).meets(&Span { base: Base::Disk(2), ..volume(100) }));
    }
}
