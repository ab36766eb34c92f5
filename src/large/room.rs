//! The size of a large file's copy: taken before it is written, cut to what it should be when it is.

use crate::error::{Errno, Result};
use crate::provider::posix::Posix;
use crate::ring::Side;
use crate::transfer::{NewFile, Work};

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
