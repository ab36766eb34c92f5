//! What a large file needs to know where an end of it is a block device.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Dest, LargeFile};
use crate::catalog::{Range, Record, Status};
use crate::config::BadSectors;
use crate::error::{Cause, Errno, Error, Result};
use crate::extents::Extents;
use crate::job::Job;
use crate::provider::block::Device;
use crate::ring::{Side, WritePath};
use crate::transfer::{Ending, NewFile, Work, ending_of};

/// What is known of an end that is a block device.
#[derive(Debug)]
pub(super) struct DevicePart {
    /// What could not be read, and what the kernel said of it last.
    missing: Mutex<Option<(Errno, Extents)>>,
    /// Whether the destination is the device: nothing is written to it before the catalog tells that this job does.
    is_dest: bool,
    /// Whether the catalog does.
    is_recorded: AtomicBool,
    /// Whether the checksum of a range is on its way to the catalog, or there, for a resume to know both ends by.
    is_known: AtomicBool,
}

impl DevicePart {
    /// For a job with a device on either side.
    pub fn of(job: &Job) -> Option<DevicePart> {
        let is_dest = job.device(Side::Dest).is_some();
        let (is_recorded, is_known) = (AtomicBool::new(false), AtomicBool::new(false));
        let part = DevicePart { missing: Mutex::default(), is_dest, is_recorded, is_known };
        job.has_device().then_some(part)
    }

    /// A destination device, for blocks written by `path`.
    pub fn dest(device: &Arc<Device>, path: WritePath) -> Dest {
        let blocks = match path {
            WritePath::Direct => device.direct.clone(),
            WritePath::Buffered => device.buffered.clone(),
        };
        Dest { blocks, plain: device.buffered.clone() }
    }

    /// Whether a resume could not know it yet.
    pub fn is_unknown(&self) -> bool {
        !self.is_known.load(Ordering::Acquire)
    }

    /// A resume can know it from now on: the outcome with the range is pushed. What is not summed is begun later.
    pub fn note_known(&self) {
        self.is_known.store(true, Ordering::Release);
    }

    /// Whether the destination is a device.
    pub fn is_dest(&self) -> bool {
        self.is_dest
    }
}

impl LargeFile {
    /// Whether its record should not wait for the next checkpoint, whatever its size.
    pub fn is_recorded_early(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.is_dest)
    }

    /// Whether blocks may be written: a device that shows what this job wrote must be known for its own by a resume.
    pub(super) fn may_write(&self, job: &Job) -> Result<bool> {
        let Some(device) = self.device.as_ref().filter(|device| device.is_dest) else { return Ok(true) };
        if device.is_recorded.load(Ordering::Acquire) {
            return Ok(true);
        }
        let record = job.catalog.reader()?.entry(self.place.dir.id, &self.place.name)?;
        let is_ours = |record: &Record| match record {
            Record::File(record) => record.status == Status::InProgress && record.large_id == self.id,
            Record::Dir(_) => false,
        };
        let is_recorded = record.as_ref().is_some_and(is_ours);
        device.is_recorded.store(is_recorded, Ordering::Release);
        Ok(is_recorded)
    }

    /// Takes note of what cannot be read; an error if the copy is not to go on behind it.
    pub(super) fn note_missing(&self, job: &Job, errno: Errno, extents: &Extents) -> Result<()> {
        let Some(device) = &self.device else { return Err(self.unreadable(job, errno, extents.clone())) };
        if job.config.devices.bad_sectors == BadSectors::Fail {
            // What a failing disk has given once need not be asked of it again.
            let object = self.place.path(job, Side::Source);
            return Err(Error { verb: "read", object, cause: Cause::BadSectors(errno, extents.clone()) });
        }
        let mut missing = device.missing.lock();
        let (last, all) = missing.get_or_insert_with(|| (errno, Extents::default()));
        *last = errno;
        all.extend(extents);
        job.unreadable.lock().extend(extents);
        Ok(())
    }

    fn unreadable(&self, job: &Job, errno: Errno, extents: Extents) -> Error {
        let object = self.place.path(job, Side::Source);
        Error { verb: "read", object, cause: Cause::Unreadable(errno, extents) }
    }

    /// What could not be read.
    pub(super) fn missing(&self) -> Option<(Errno, Extents)> {
        self.device.as_ref()?.missing.lock().clone()
    }

    /// Whether all of a range came from the source. One that did not is read again by a resume, for the map of what is
    /// missing has to be whole.
    pub fn is_whole(&self, range: &Range) -> bool {
        self.missing().is_none_or(|(_, extents)| !extents.touch(range.offset, range.len))
    }

    /// Ends a copy that has zeros where the source could not be read: what there is stays, and it has failed.
    pub(super) fn finish_in_part(&self, work: &Work, file: NewFile) -> Ending {
        let Some((errno, extents)) = self.missing() else { return Ending::Changed };
        match work.finish_in_part(file) {
            Ok(()) => Ending::Failed(self.unreadable(work.job, errno, extents)),
            Err(error) => ending_of(error),
        }
    }
}
