//! Ends that are block devices: refused where a copy would destroy or miss something, else opened.
//!
//! All of it happens before anything is touched. A destination is claimed by the way it is opened (O_EXCL), so what was
//! found here stays true until the job ends.

use std::ffi::CStr;
use std::sync::Arc;

use rustix::fs::AtFlags;

use super::target::Target;
use super::{Found, describe_at};
use crate::config::{Config, EqualBlocks, LiveSource};
use crate::error::{Error, Result};
use crate::provider::block::{self, Device, Ground, Purpose};
use crate::ring::Kind;

/// Source and destination as far as they are devices.
pub(super) type Devices = [Option<Arc<Device>>; 2];

/// Looks at both ends of a job about one file or device; `name` is its name in a destination that is a directory.
pub(super) fn examine(source: &Found, dest: &Target, name: &CStr, config: &Config) -> Result<Devices> {
    let is_dest = dest.is_there() && dest.found.is_block_device();
    if !is_dest && config.devices.equal_blocks == EqualBlocks::Leave {
        return Err(Error::refused(dest.path(), "is no block device: --skip-equal is about those"));
    }
    let dest_ground = dest_ground(dest, name);
    refuse_image_in_use(dest, dest_ground)?;
    if !is_dest && !source.is_block_device() {
        return Ok([None, None]);
    }
    let source_ground = match source.is_block_device() {
        true => Ground::Device(source.stat.rdev),
        false => Ground::File(source.stat.dev, source.stat.ino, source.stat.mount_id),
    };
    block::refuse_overlap(source_ground, dest_ground, (&source.path, &dest.path()))?;
    let mut source_device = open_source(source, config)?;
    let bytes = source_device.as_ref().map_or(source.stat.size, |device| device.size());
    if bytes == 0 {
        return Err(Error::refused(&source.path, "is empty: there is nothing to copy"));
    }
    let mut dest_device = match is_dest {
        true => open_dest(&dest.found, bytes, source_device.as_ref())?,
        false => None,
    };
    if let (Some(source), Some(dest)) = (&mut source_device, &mut dest_device) {
        block::tell_apart(source, dest);
    }
    Ok([source_device, dest_device].map(|device| device.map(Arc::new)))
}

/// Refuses a destination that is the image behind a device in use, for a source that is no file system.
pub(super) fn refuse_image(dest: &Target, name: &CStr) -> Result<()> {
    refuse_image_in_use(dest, dest_ground(dest, name))
}

fn refuse_image_in_use(dest: &Target, ground: Ground) -> Result<()> {
    match ground {
        Ground::File(dev, ino, _) => block::refuse_image_in_use(&dest.path(), dev, ino),
        Ground::Device(_) | Ground::NewFile(..) => Ok(()),
    }
}

/// What the destination lies on: itself, or the file that will be written.
fn dest_ground(dest: &Target, name: &CStr) -> Ground {
    let found = &dest.found;
    match found.stat.kind() {
        _ if found.is_block_device() => Ground::Device(found.stat.rdev),
        Kind::File => Ground::File(found.stat.dev, found.stat.ino, found.stat.mount_id),
        // A directory that is there may hold a file of this name.
        _ => {
            let there = describe_at(&found.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok().filter(|_| dest.is_there());
            let file = there.filter(|(stat, _)| stat.kind() == Kind::File);
            let new = Ground::NewFile(found.stat.dev, found.stat.mount_id);
            file.map_or(new, |(stat, _)| Ground::File(stat.dev, stat.ino, stat.mount_id))
        }
    }
}

/// Opens a source that is a device.
pub(super) fn open_source(found: &Found, config: &Config) -> Result<Option<Device>> {
    if !found.is_block_device() {
        return Ok(None);
    }
    let purpose = match config.devices.live_source {
        LiveSource::Refuse => Purpose::Source,
        LiveSource::Allow => Purpose::Look,
    };
    Device::open(&found.fd, &found.path, purpose).map(Some)
}

/// Claims a destination that is a device, for `bytes` bytes; `source` is the source if it is one as well.
pub(super) fn open_dest(found: &Found, bytes: u64, source: Option<&Device>) -> Result<Option<Device>> {
    if !found.is_block_device() {
        return Ok(None);
    }
    let device = Device::open(&found.fd, &found.path, Purpose::Dest(source))?;
    device.refuse_too_small(bytes)?;
    Ok(Some(device))
}
