//! What a device says of itself that no other device says: the same wherever the kernel puts it.
//!
//! ```text
//! a disk           its WWID or serial number          a volume, a RAID    its UUID
//! a partition      its disk's, and where it begins    a loop device       what it lies on, and where in it
//! ```
//! A disk that tells nothing of that kind (a virtual one, mostly) is known for as long as it stays attached: of two
//! such disks of one size the kernel may give each the other's name at the next boot.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::sys;
use crate::catalog::boot_id;

/// Loop devices on partitions of loop devices that are looked through.
const LEVELS_MAX: u32 = 16;

/// The serial number, UUID or the like of a device; `None` if there is none.
pub(super) fn of(number: u64) -> Option<Vec<u8>> {
    within(number, LEVELS_MAX)
}

/// What [`of`] was where it is another by now: loop devices were known by the path of their image.
pub(super) fn former(number: u64) -> Option<Vec<u8>> {
    told(number, &|_, folder| sys::backing_path(folder).map(|path| path.as_os_str().as_bytes().to_vec()))
}

/// What no other attachment of a device has, of this boot or another: its disk's number, the inode number of its disk's
/// folder in /sys, which the kernel gives no other folder, the number of its medium in it (Linux 5.15), and where it
/// begins on it. Where the boot is not told it is something that nothing has ever again.
pub(super) fn of_attachment(number: u64) -> Vec<u8> {
    let boot = Some(boot_id()).filter(|boot| *boot != [0; 16]).map(u128::from_be_bytes).unwrap_or_else(|| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        (now.tv_sec as u128) << 64 | now.tv_nsec as u128
    });
    let disk = sys::disk_of(number);
    let told = |of: u64, name| sys::folder(of).and_then(|folder| sys::number_in(&folder, name)).unwrap_or(0);
    let folder = sys::folder(disk).and_then(|folder| fs::metadata(folder).ok()).map_or(0, |folder| folder.ino());
    let start = if disk == number { 0 } else { told(number, "start") };
    format!("attached {boot:x} {disk} {folder} {} {start}", told(disk, "diskseq")).into_bytes()
}

fn within(number: u64, levels: u32) -> Option<Vec<u8>> {
    told(number, &|number, folder| if levels > 0 { of_loop(number, folder, levels - 1) } else { None })
}

fn told(number: u64, of_loop: &dyn Fn(u64, &Path) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let folder = sys::folder(number)?;
    if sys::is_partition(&folder) {
        let start = sys::text_in(&folder, "start")?;
        let disk = sys::number_of(folder.parent()?)?;
        return Some([told(disk, of_loop)?, start.into_bytes()].concat());
    }
    // The serial number of an NVMe namespace is its controller's, and others have it as well.
    let files = ["wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid"];
    let text = files.iter().find_map(|file| sys::text_in(&folder, file).filter(|text| !text.is_empty()));
    text.map(String::into_bytes).or_else(|| of_loop(number, &folder))
}

/// The file or device that a loop device lies on, and where in it: another loop device over the same bytes is the same
/// device, another image under the same name is not.
fn of_loop(number: u64, folder: &Path, levels: u32) -> Option<Vec<u8>> {
    let backing = sys::backing(number)?;
    let (below, ino) = match backing.device {
        Some(device) => (within(device, levels)?, 0),
        None => (file_system(folder, backing.file, levels), backing.file.1),
    };
    Some([b"loop ", &below[..], format!(" {ino} {}", backing.offset).as_bytes()].concat())
}

/// What tells the file system of an image from others: the serial number of its device or its own, which last, else
/// the device's number.
fn file_system(folder: &Path, (dev, ino): (u64, u64), levels: u32) -> Vec<u8> {
    let own = || {
        let path = sys::backing_path(folder)?;
        fs::metadata(&path).ok().filter(|file| (file.dev(), file.ino()) == (dev, ino))?;
        let id = rustix::fs::statvfs(&path).ok()?.f_fsid;
        (id != 0).then(|| format!("fsid {id:x}").into_bytes())
    };
    within(dev, levels).or_else(own).unwrap_or_else(|| format!("dev {dev:x}").into_bytes())
}
