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
use crate::provider::posix::Posix;
use crate::ring::{Access, Handle, Kind, Name, Side, WritePath};
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
    /// What earlier runs have made of the copy, and is read where the source cannot be.
    earlier: Vec<Handle>,
    /// Where alone that may be: the rest of a destination device is nobody's copy. None for all of it.
    written: Option<Vec<Range>>,
}

impl DevicePart {
    /// For a job with a device on either side. `begun` is what an interrupted run has recorded of the copy, if it has
    /// begun it.
    pub fn of(work: &Work, file: &NewFile, begun: Option<&[Range]>) -> Option<DevicePart> {
        if !work.job.has_device() {
            return None;
        }
        let dest = work.job.device(Side::Dest);
        let (is_recorded, is_known) = (AtomicBool::new(false), AtomicBool::new(false));
        let (earlier, written) = match dest {
            Some(device) => {
                let is_whole = work.job.standing.id() == device.identity();
                (vec![device.buffered.clone()], (!is_whole).then(|| begun.unwrap_or_default().to_vec()))
            }
            None => (earlier_files(work, file, begun.is_some()), None),
        };
        let missing = Mutex::default();
        Some(DevicePart { missing, is_dest: dest.is_some(), is_recorded, is_known, earlier, written })
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

    /// What is recorded of a range that is written. One that did not come from the source whole is read again by a
    /// resume, for the map of what is missing has to be whole; of a device it is recorded all the same, so that what
    /// was read of it is not given up.
    pub fn recorded(&self, range: Range) -> Option<Range> {
        match self.missing() {
            Some((_, extents)) if extents.touch(range.offset, range.len) => {
                self.is_recorded_early().then(|| range.in_part())
            }
            _ => Some(range),
        }
    }

    /// What earlier runs have made of these bytes of the copy.
    pub(super) fn earlier(&self, offset: u64, len: u64) -> &[Handle] {
        let Some(device) = &self.device else { return &[] };
        let is_in = |range: &Range| range.offset <= offset && offset + len <= range.offset + range.len;
        match &device.written {
            Some(written) if !written.iter().any(is_in) => &[],
            _ => &device.earlier,
        }
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

/// Files that earlier runs of this job have made of a device: the one that is gone on with, and the one that it is to
/// replace. Where inode numbers do not last that one is known by its name and size.
fn earlier_files(work: &Work, file: &NewFile, is_begun: bool) -> Vec<Handle> {
    let (job, place, dest) = (work.job, work.place, Posix::new(work.caller, Side::Dest));
    let open = |name: &Name, id: u64| {
        let copy = dest.open(&place.open.dest, name, Access::Read).ok()?;
        let stat = dest.stat_handle(&copy).ok()?;
        let is_it = job.dest_id(&stat) == id || !job.dest.inodes.is_lasting() && stat.size == work.stat.size;
        (stat.kind() == Kind::File && is_it).then_some(copy)
    };
    let name = file.temp.as_ref().unwrap_or(&place.dest_name);
    let begun = is_begun.then(|| open(name, job.dest_id(&file.made))).flatten();
    let standing = Some(job.standing.id()).filter(|id| *id != 0);
    begun.into_iter().chain(standing.and_then(|id| open(&place.dest_name, id))).collect()
}
