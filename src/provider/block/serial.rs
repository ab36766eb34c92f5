//! What a device says of itself that no other device says.

use std::os::unix::ffi::OsStrExt;

use super::sys;

/// The serial number, UUID or the like of a device; of a partition its disk's and where it begins.
pub(super) fn of(number: u64) -> Option<Vec<u8>> {
    let folder = sys::folder(number)?;
    if sys::is_partition(&folder) {
        let start = sys::text_in(&folder, "start")?;
        return Some([of(sys::number_of(folder.parent()?)?)?, start.into_bytes()].concat());
    }
    // The serial number of an NVMe namespace is its controller's, and others have it as well.
    let files = ["wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid"];
    let text = files.iter().find_map(|file| sys::text_in(&folder, file).filter(|text| !text.is_empty()));
    text.map(String::into_bytes).or_else(|| Some(sys::backing_path(&folder)?.as_os_str().as_bytes().to_vec()))
}
