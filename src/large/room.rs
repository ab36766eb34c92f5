//! The size and the space of a large file's copy: taken before it is written, cut to what it should be when it is.
//!
//! ```text
//! source's mtime long ago      |<------- size ------->|            seal: its mtime
//! about now, or still to come  |<------- size ------->|+|  cut, 1970, seal
//! ```
//! A copy has its size long before its bytes, and while it is written its mtime is that moment's. A destination that
//! keeps times by the second may show the mtime of a source that was changed about then, and the half-written copy
//! would pass a comparison of size and mtime (I2). So the copy of such a source is a byte too long until it is whole.

use crate::error::{Errno, Result};
use crate::provider::metadata;
use crate::provider::posix::Posix;
use crate::ring::{Side, Time};
use crate::transfer::{NewFile, Work};

/// How a copy gets its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// With its space.
    Allocated,
    /// As a hole.
    Sparse,
}

/// Bytes that a copy has while it is written.
fn bytes_under_way(size: u64, mtime: Time, now: Time) -> u64 {
    size + u64::from(metadata::may_be_met(mtime, now))
}

/// Gives a copy that is about to be written its size, and its space where the file system can.
pub(crate) fn take_room(work: &Work, file: &NewFile, room: Room) -> Result<()> {
    let size = bytes_under_way(work.stat.size, work.stat.mtime, Time::now());
    let dest = Posix::new(work.caller, Side::Dest);
    let failed = |verb, errno| work.place.error(work.job, Side::Dest, verb, errno);
    let lengthen = || dest.truncate(&file.handle, size).map_err(|errno| failed("set size of", errno));
    // Left by an earlier run, and allocated by it: XFS wants the whole space free to allocate it a second time.
    let is_taken = file.made.size >= work.stat.size;
    match room {
        _ if is_taken && file.made.size >= size => Ok(()),
        Room::Allocated if !is_taken => match dest.allocate(&file.handle, size) {
            // Its writes give it its size, in any order.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if size > work.stat.size => lengthen(),
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(failed("allocate", errno)),
        },
        Room::Allocated | Room::Sparse => lengthen(),
    }
}

/// Cuts a copy that is written to its source's size, if it has another: direct writes are padded, and what was left by
/// an earlier run may be longer than this one writes.
pub(crate) fn settle_size(work: &Work, file: &NewFile) -> Result<()> {
    let (job, place, size) = (work.job, work.place, work.stat.size);
    if job.device(Side::Dest).is_some() {
        return Ok(());
    }
    let dest = Posix::new(work.caller, Side::Dest);
    let failed = |verb, errno| place.error(job, Side::Dest, verb, errno);
    let is_settled = || dest.stat_new(&file.handle).map(|now| now.size == size).map_err(|errno| failed("stat", errno));
    if is_settled()? {
        return Ok(());
    }
    dest.truncate(&file.handle, size).map_err(|errno| failed("set size of", errno))?;
    match is_settled()? {
        true => Ok(()),
        false => Err(failed("set size of", Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_whose_time_might_be_its_sources_is_a_byte_too_long() {
        let at = |secs| Time { secs, nanos: 5 };
        let bytes = |mtime| bytes_under_way(100, at(mtime), at(1_000_000));
        assert_eq!([bytes(999_997), bytes(999_998), bytes(1_000_000), bytes(2_000_000)], [100, 101, 101, 101]);
    }
}
