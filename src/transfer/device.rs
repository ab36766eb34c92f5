//! An end that is a block device: what is decided, opened and finished in another way than a file.
//!
//! ```text
//! decided    done in this pass: nothing to do                                             else: copied
//! opened     the device as it was claimed when the job began                 never created, never removed
//! finished   nothing: durable with the checkpoint's fsync, no owner, mode or times
//! ```
//! A device has no time of change: what a finished pass copied from one, or onto one, is copied again by the next.

use super::{Copied, Ending, NewFile, Prepared, Seal, Subject, Work, ending_of};
use crate::catalog::{FileRecord, Range, Status};
use crate::config::{BadSectors, LiveSource, Overwrite};
use crate::digest;
use crate::error::{Error, Result, escape};
use crate::job::Job;
use crate::plan::{self, Plan, Skip};
use crate::provider::block::Device;
use crate::report::Count;
use crate::ring::{Kind, Side, Stat};

impl Work<'_> {
    /// Decides about a device, or about an image that goes onto one. It is always copied in blocks.
    pub(super) fn prepare_device(&self, record: Option<&FileRecord>) -> Prepared {
        let there = self.dest().stat(self.dest_dir(), &self.place.dest_name).ok();
        let noted = note_standing(self.job, record, there.as_ref()).map(|is_used| {
            if is_used && self.job.config.devices.bad_sectors == BadSectors::Skip {
                let path = escape(&self.place.path(self.job, Side::Dest));
                let why = "is not what this job has left there: what cannot be read becomes zeros";
                self.job.console.note(&format!("gfast: {path} {why}"));
            }
        });
        match noted.and_then(|()| self.decide_device(record)) {
            Ok(Some(ending)) => Prepared::Ended(ending),
            Ok(None) => Prepared::Large(Subject { stat: *self.stat, stamp: self.stamp, known: None }),
            Err(error) => Prepared::Ended(ending_of(error)),
        }
    }

    fn decide_device(&self, record: Option<&FileRecord>) -> Result<Option<Ending>> {
        if self.stat.kind() != Kind::File || self.stat.size == 0 {
            let path = self.place.path(self.job, Side::Source);
            return Err(Error::refused_object(path, "it is no file with content any more"));
        }
        match plan::decide(self.stat, record, &self.job.progress, false) {
            Plan::Skip(Skip::Unchanged) => {
                let path = escape(&self.place.path(self.job, Side::Source));
                let why = "a device does not tell whether it has changed";
                self.job.console.note(&format!("gfast: {path} is copied again: {why}"));
            }
            Plan::Skip(skip) => return Ok(Some(Ending::Skipped(skip))),
            Plan::Copy(_) | Plan::Compare | Plan::Reread(_) | Plan::Renew => {}
        }
        if let Some(record) = record.filter(|record| record.status == Status::Done)
            && !source_holds(self.job, &self.job.catalog.reader()?.ranges(record.large_id)?)
        {
            return Ok(None);
        }
        Ok(self.reseal(record)?.map(|copied| Ending::Copied(Box::new(copied))))
    }

    /// A device whose content an interrupted run has made durable, and whose record only was not completed. The first
    /// of it that was summed is read again: a device that holds something else now was taken into use meanwhile. Where
    /// none was, as in records of before they were kept until the end, all is copied again.
    pub(super) fn device_before(&self, device: &Device, record: Option<&FileRecord>) -> Result<Option<Copied>> {
        let is_durable = |r: &&FileRecord| {
            r.status == Status::Done && r.batch > self.job.progress.completed_batch && r.stamp == self.stamp
        };
        let record = record.filter(is_durable).filter(|r| r.dest_ino == device.identity());
        let Some(record) = record else { return Ok(None) };
        let ranges = self.job.catalog.reader()?.ranges(record.large_id)?;
        match still_holds(device, &ranges)? {
            Some(true) => {}
            Some(false) => return self.refuse_taken(device).map(|()| None),
            None => return Ok(None),
        }
        let mut copied = self.copied(&self.open_device(device).made, Seal::None, 0, Count::FilesCopied);
        (copied.large_id, copied.checksum) = (record.large_id, record.checksum);
        Ok(Some(copied))
    }

    /// The destination device, as the new file that it stands for. It has the room: that was seen to before.
    pub(super) fn open_device(&self, device: &Device) -> NewFile {
        let made = crate::ring::Stat { size: self.stat.size, ..device.described() };
        NewFile { handle: device.buffered.clone(), temp: None, made }
    }

    /// What an interrupted run has made durable on the destination device. The first of it that was summed is read
    /// again: a device that holds something else now was taken into use meanwhile, and nothing more is written to it.
    pub(crate) fn find_on_device(
        &self,
        device: &Device,
        record: Option<&FileRecord>,
    ) -> Result<Option<(NewFile, u64, Vec<Range>)>> {
        let is_ours = |r: &&FileRecord| r.status == Status::InProgress && r.large_id != 0 && r.stamp == self.stamp;
        let record = record.filter(is_ours).filter(|r| r.dest_ino == device.identity());
        let Some(record) = record else { return Ok(None) };
        let ranges = self.job.catalog.reader()?.ranges(record.large_id)?;
        // By ranges of which none is summed it cannot be known.
        let is_there = still_holds(device, &ranges)?.unwrap_or(!ranges.iter().any(Range::is_of_content));
        if !is_there {
            self.refuse_taken(device)?;
        }
        if !is_there || !source_holds(self.job, &ranges) {
            return Ok(None);
        }
        Ok(Some((self.open_device(device), record.large_id, ranges)))
    }

    /// Refuses a device that does not hold any more what this job has written to it, unless it is to be overwritten.
    fn refuse_taken(&self, device: &Device) -> Result<()> {
        match self.job.config.devices.overwrite {
            Overwrite::Allow => Ok(()),
            Overwrite::Refuse => {
                let why =
                    "does not hold any more what this job has written to it: to begin anew say --overwrite-device";
                Err(Error::refused(&device.path, why))
            }
        }
    }

    /// Ends a file of which parts could not be read: it stays, under its name, and has no seal. What is there of a
    /// failing disk may be all that is left of it.
    pub(crate) fn finish_in_part(&self, file: NewFile) -> Result<()> {
        let NewFile { handle, temp, made } = file;
        if let Some(device) = self.job.device(Side::Dest) {
            self.job.standing.set(device.identity(), 0);
            return Ok(());
        }
        let dest = self.dest();
        self.end_way(&handle, &made)?;
        self.keep_metadata(&handle, &made)?;
        dest.sync_file(&handle).map_err(|errno| self.error("sync", errno))?;
        dest.close(handle).map_err(|errno| self.error("close", errno))?;
        if let Some(temp) = &temp {
            let renamed = dest.rename(self.dest_dir(), temp, &self.place.dest_name);
            renamed.map_err(|errno| self.error("rename", errno))?;
        }
        let left = dest.stat(self.dest_dir(), &self.place.dest_name).map_err(|errno| self.error("stat", errno))?;
        self.job.standing.set(self.job.dest_id(&made), image_mark(self.job, &left));
        Ok(())
    }
}

/// Whether a source that is a device still holds what was copied of it, told by the first of these ranges that was
/// summed. Of one that was written to meanwhile, or is another one with the same serial number, the rest would not fit
/// what is there: all of it is copied. What cannot be read any more tells nothing: on a failing disk what it gave once
/// is not given up.
pub(crate) fn source_holds(job: &Job, ranges: &[Range]) -> bool {
    let is_still = job.config.devices.live_source == LiveSource::Refuse;
    let Some(device) = job.device(Side::Source).filter(|_| is_still) else { return true };
    let holds = still_holds(device, ranges).ok().flatten().unwrap_or(true);
    if !holds {
        let why = "does not hold what was copied of it before, and is copied from its beginning";
        job.console.note(&format!("gfast: {} {why}", escape(&device.path)));
    }
    holds
}

/// Takes note of what earlier runs of the job left at the destination, if one of them has written all of it but what it
/// could not read: what that one read stays where this one cannot. What has been in use since is another's: of a device
/// that a whole copy was written to nothing tells, of another its head does, of an image (`there`) its size and mtime.
/// Answers whether there was something that does not count any more.
pub(crate) fn note_standing(job: &Job, record: Option<&FileRecord>, there: Option<&Stat>) -> Result<bool> {
    let Some(record) = record.filter(|_| !job.standing.is_known()) else { return Ok(false) };
    let ranges = match record.status {
        Status::InProgress => job.catalog.reader()?.ranges(record.large_id)?,
        _ => Vec::new(),
    };
    let known_by = match record.status {
        Status::Done | Status::Written if job.device(Side::Dest).is_some() => 0,
        Status::Done | Status::Written | Status::Failed => record.dest_ino,
        Status::Pending => 0,
        Status::InProgress => ranges.iter().find_map(Range::standing_id).unwrap_or(0),
    };
    let (id, mark) = match (job.device(Side::Dest), there) {
        _ if known_by == 0 => (0, 0),
        (Some(device), _) => standing_on(device, known_by, &ranges)?,
        (None, Some(there)) => standing_as(job, there, known_by, record),
        (None, None) => (known_by, known_by),
    };
    job.standing.set(id, mark);
    Ok(known_by != 0 && id == 0)
}

/// What is left on a device of a copy that was known by this, as it is opened and recorded; zeros if it is another's.
fn standing_on(device: &Device, known_by: u64, ranges: &[Range]) -> Result<(u64, u64)> {
    let mark = device.mark().map_err(|errno| Error::os("read", &device.path, errno))?;
    // An interrupted run may have written to the head. Records of before marks tell whose device it is, and no more.
    let is_left = still_holds(device, ranges)?.unwrap_or(known_by == mark || known_by == device.identity());
    Ok(if is_left { (device.identity(), mark) } else { (0, 0) })
}

/// Likewise of an image. Where inode numbers do not last, that of a whole one is known by its size.
fn standing_as(job: &Job, there: &Stat, known_by: u64, record: &FileRecord) -> (u64, u64) {
    let (id, mark) = (job.dest_id(there), image_mark(job, there));
    let is_whole = matches!(record.status, Status::Done | Status::Written) && !job.dest.inodes.is_lasting();
    let is_left = known_by == mark || known_by == id || is_whole && there.size == record.stamp.size;
    if is_left { (id, mark) } else { (0, 0) }
}

/// What the catalog knows an image by that is whole but for what could not be read: which file it is, where inode
/// numbers last, and when it was last written to.
fn image_mark(job: &Job, left: &Stat) -> u64 {
    let (ino, nanos) = match job.dest.inodes.is_lasting() {
        true => (left.ino, left.mtime.nanos),
        // Nor do the fractions of times on some of these.
        false => (0, 0),
    };
    let parts = [ino, left.size, left.mtime.secs as u64, u64::from(nanos)];
    digest::crc64(&parts.map(u64::to_le_bytes).concat())
}

/// What is recorded of what stands at the destination when a copy has failed. Nobody else has written to a device that
/// is claimed, so what its head holds by now is this job's.
pub(crate) fn left_standing(job: &Job) -> u64 {
    match job.device(Side::Dest).filter(|_| job.standing.id() != 0) {
        Some(device) => device.mark().unwrap_or(0),
        None => job.standing.mark(),
    }
}

/// Whether a device holds the first of these ranges that was summed; `None` if none was.
fn still_holds(device: &Device, ranges: &[Range]) -> Result<Option<bool>> {
    let mut contents = ranges.iter().filter(|range| range.is_of_content());
    let Some((first, crc64)) = contents.find_map(|range| Some((range, range.crc64?))) else { return Ok(None) };
    let now = device.crc64(first.offset, first.len);
    Ok(Some(now.map_err(|errno| Error::os("read", &device.path, errno))? == crc64))
}
