//! The content of a file or device, or a part of it, read for its CRC64 where a bucket is on the other side.

use crate::digest::{combine, crc64};
use crate::error::{Errno, Result};
use crate::provider::block::Device;
use crate::provider::posix::{Posix, Verb};
use crate::provider::s3::ByteRange;
use crate::report::Crowd;
use crate::ring::syscalls::Kernel;
use crate::ring::{Access, FixedBuffers, Handle, LEASE_ALIGN, Name, Side};

/// Bytes of one read.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// Where content is read.
pub(super) enum Place {
    /// In the file of this name.
    File(Handle, Name),
    /// On a device, of which nothing lies behind a range that is asked for.
    Device(std::sync::Arc<Device>),
}

/// Reads all there is, or a range that begins with a block: the CRC64 and the bytes read. At the destination, and from
/// a device, past the page cache.
pub(super) fn read(side: Side, place: &Place, range: Option<ByteRange>, crowd: &Crowd) -> Result<Verb<(u64, u64)>> {
    let mut buffers = FixedBuffers::new(1, BLOCK_BYTES, BLOCK_BYTES)?;
    let kernel = Kernel::new(buffers.arena().clone()).telling(crowd.enlist());
    let posix = Posix::new(&kernel, side);
    let Some(mut lease) = buffers.acquire(BLOCK_BYTES) else { return Ok(Err(Errno::NOMEM)) };
    let (file, align) = match open(posix, side, place) {
        Ok(opened) => opened,
        Err(errno) => return Ok(Err(errno)),
    };
    let start = range.map_or(0, |range| range.offset);
    let end = range.map_or(u64::MAX, |range| range.offset + range.len);
    let (mut value, mut at) = (0, start);
    // Ends: every turn but the last reads a block.
    while at < end {
        let read;
        (lease, read) = posix.read_all(&file, align, lease, BLOCK_BYTES, at);
        let filled = match read {
            Ok(filled) => filled,
            Err(errno) => return Ok(Err(errno)),
        };
        let wanted = filled.min(usize::try_from(end - at).unwrap_or(usize::MAX));
        value = combine(value, crc64(&kernel.arena().bytes(&lease)[..wanted]), wanted as u64);
        at += wanted as u64;
        if filled < BLOCK_BYTES {
            break;
        }
    }
    buffers.release(lease);
    Ok(Ok((value, at - start)))
}

/// Opens it, with what offsets and lengths have to be multiples of.
fn open(posix: Posix<'_>, side: Side, place: &Place) -> Verb<(Handle, usize)> {
    let (at, name) = match place {
        Place::File(at, name) => (at, name),
        Place::Device(device) if device.block_bytes() as usize <= LEASE_ALIGN => {
            return Ok((device.direct.clone(), device.block_bytes() as usize));
        }
        Place::Device(device) => {
            posix.drop_cache(&device.buffered)?;
            return Ok((device.buffered.clone(), 1));
        }
    };
    let plain = posix.open(at, name, Access::Read)?;
    let align = posix.stat_handle(&plain)?.direct_align as usize;
    if align > 0
        && align <= LEASE_ALIGN
        && let Ok(direct) = posix.open(at, name, Access::ReadDirect)
    {
        return Ok((direct, align));
    }
    if side == Side::Dest {
        posix.drop_cache(&plain)?;
    }
    Ok((plain, 1))
}
