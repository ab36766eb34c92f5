//! The source's side of one object: described, opened, and described again behind its last read.
//!
//! ```text
//! stat_source     what this machine knows of it: a mount may answer from its cache
//! open_source     the same object, open
//! restat_source   what its storage says now: nothing that was read is of another state (I8)
//! ```

use crate::error::{Cause, Errno, Error, Result};
use crate::job::{Job, Place};
use crate::provider::posix::Posix;
use crate::ring::{Access, Caller, Handle, Side, Stat};

/// The source's state; an object that is gone is [`Cause::Vanished`].
pub fn stat_source(job: &Job, caller: &dyn Caller, place: &Place) -> Result<Stat> {
    if let Some(device) = job.device(Side::Source) {
        return device.stat().map_err(|errno| Error::os("stat", &device.path, errno));
    }
    let source = Posix::new(caller, Side::Source);
    source.stat(&place.open.source, &place.name).map_err(|errno| source_error(job, place, "stat", errno))
}

/// The source's state as its storage has it now, behind its last read. It is a question more only where a mount would
/// answer from its cache: NFS mounted without `noatime` asks its server anyway, for the read has changed the atime.
pub fn restat_source(job: &Job, caller: &dyn Caller, place: &Place) -> Result<Stat> {
    if job.device(Side::Source).is_some() {
        return stat_source(job, caller, place);
    }
    let source = Posix::new(caller, Side::Source);
    source.restat(&place.open.source, &place.name).map_err(|errno| source_error(job, place, "stat", errno))
}

/// Opens the source to be read through the page cache; nothing if it is not in the state `stat` any more.
pub fn open_source(job: &Job, caller: &dyn Caller, place: &Place, stat: &Stat) -> Result<Option<Handle>> {
    if let Some(device) = job.device(Side::Source) {
        return Ok(Some(device.buffered.clone()));
    }
    let source = Posix::new(caller, Side::Source);
    let opened = source.open(&place.open.source, &place.name, Access::Read);
    let file = opened.map_err(|errno| source_error(job, place, "open", errno))?;
    let now = source.stat_handle(&file).map_err(|errno| source_error(job, place, "stat", errno))?;
    Ok(stat.is_unchanged_in(&now).then_some(file))
}

/// An error on the source side: ENOENT means that the object is gone.
pub fn source_error(job: &Job, place: &Place, verb: &'static str, errno: Errno) -> Error {
    match errno {
        Errno::NOENT => Error { verb, object: place.path(job, Side::Source), cause: Cause::Vanished },
        errno => place.error(job, Side::Source, verb, errno),
    }
}
