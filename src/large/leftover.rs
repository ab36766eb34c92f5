//! What an interrupted attempt at a large file left at the destination, and what of it may be believed.
//!
//! ```text
//! record    InProgress, of this state of the source: inode of the copy, key of its ranges
//! ranges    durable in the file that was made then (its birth is recorded with them)
//! ```
//! An inode number is given away again as soon as its file is gone, mostly to the very next file. So ranges are
//! forgotten before a file is made in place of theirs, and never believed of a file that was born at another time or
//! is too short for them. Those that were never synced (`--sync none`) are of one boot: after it the file is gone on
//! with as one of which nothing is there.

use std::sync::atomic::Ordering;

use crate::catalog::{FileRecord, Range, Record, Status, boot_id};
use crate::error::{Class, Errno, Result};
use crate::job::Job;
use crate::provider::metadata;
use crate::provider::posix::Posix;
use crate::ring::{Access, Handle, Name, Side, Stat};
use crate::transfer::{NewFile, Work, source_holds};

/// What a resume found of an earlier attempt.
pub(crate) struct Leftover {
    /// Open for writing, as it was left.
    pub file: NewFile,
    /// Key of its ranges.
    pub id: u64,
    /// Its durable ranges.
    pub ranges: Vec<Range>,
}

/// The destination file of an interrupted attempt, if source and destination are still what they were.
pub(crate) fn find_leftover(work: &Work, record: Option<&FileRecord>) -> Result<Option<Leftover>> {
    let (job, place) = (work.job, work.place);
    if let Some(device) = job.device(Side::Dest) {
        let Some((file, id, ranges)) = work.find_on_device(device, record)? else { return Ok(None) };
        return Ok(Some(Leftover { file, id, ranges: still_there(job, id, ranges)? }));
    }
    let now = work.state();
    let is_of_source = |r: &&FileRecord| r.status == Status::InProgress && r.large_id != 0 && r.stamp == now;
    let Some(record) = record.filter(is_of_source) else { return Ok(None) };
    if job.device(Side::Source).is_some() && !source_holds(job, &job.catalog.reader()?.ranges(record.large_id)?) {
        return Ok(None);
    }
    let dest = Posix::new(work.caller, Side::Dest);
    let temp = place.temp_name(job);
    for (name, temp) in [(&place.dest_name, None), (&temp, Some(temp.clone()))] {
        let Some(handle) = reopen(work, name, record)? else { continue };
        let made = dest.stat_handle(&handle).map_err(|errno| place.error(job, Side::Dest, "stat", errno))?;
        if job.dest_id(&made) != record.dest_ino || work.is_source(&made) {
            continue;
        }
        let recorded = job.catalog.reader()?.ranges(record.large_id)?;
        if let Some(ranges) = ranges_in(birth_of(job, &made), &made, recorded)
            && temp.as_ref().is_none_or(|temp| work.hold(temp))
        {
            work.clear_acls(&handle)?;
            work.unseal(&handle, &made)?;
            work.remove_leftover(temp.as_ref());
            let (file, id) = (NewFile { handle, temp, made }, record.large_id);
            return Ok(Some(Leftover { file, id, ranges: still_there(job, id, ranges)? }));
        }
    }
    Ok(None)
}

/// Opens what may be a leftover. It may have its source's mode already, which lets not even its owner write to it.
fn reopen(work: &Work, name: &Name, record: &FileRecord) -> Result<Option<Handle>> {
    let (dest, at) = (Posix::new(work.caller, Side::Dest), &work.place.open.dest);
    let opened = match dest.open(at, name, Access::Write) {
        Err(Errno::ACCESS) => dest.stat(at, name).and_then(|there| match work.job.dest_id(&there) == record.dest_ino {
            true => dest.set_mode_at(at, name, metadata::UNDER_WAY).and_then(|()| dest.open(at, name, Access::Write)),
            false => Err(Errno::ACCESS),
        }),
        opened => opened,
    };
    // What this process has no room for is no sign that it is not there.
    let failed = |errno| work.place.error(work.job, Side::Dest, "open", errno);
    opened.map(Some).or_else(|errno| match failed(errno) {
        error if matches!(error.class(), Class::Retry | Class::Fatal) => Err(error),
        _ => Ok(None),
    })
}

/// The ranges that are recorded of a file, with the boot that they are of and without its birth; `None` if they cannot
/// be of this one.
fn ranges_in(birth: Option<Range>, made: &Stat, mut ranges: Vec<Range>) -> Option<Vec<Range>> {
    let mut births = ranges.iter().filter(|range| range.is_birth());
    let is_born_then = births.all(|range| birth.is_none_or(|birth| *range == birth));
    ranges.retain(|range| range.len > 0 || range.is_unsynced());
    let is_long_enough = ranges.iter().all(|range| range.len == 0 || range.offset + range.len <= made.size);
    (is_born_then && is_long_enough).then_some(ranges)
}

/// The ranges of a file that is gone on with; none, and forgotten, if they may have gone with the power.
fn still_there(job: &Job, id: u64, ranges: Vec<Range>) -> Result<Vec<Range>> {
    let boot = boot_id();
    if !ranges.iter().any(|range| range.is_of_another_boot(boot)) {
        return Ok(ranges);
    }
    job.catalog.forget_ranges(id)?;
    Ok(Vec::new())
}

/// Forgets the ranges of an earlier attempt that there is nothing left of, durably: to be called before a file is made
/// in its place. It costs a commit where there are any.
pub(crate) fn forget_ranges(work: &Work, record: Option<&FileRecord>, attempt: u32) -> Result<()> {
    let (job, place) = (work.job, work.place);
    if job.device(Side::Dest).is_some() || (record.is_none() && attempt == 1) {
        return Ok(());
    }
    // What is recorded by now: an attempt before this one may have been of this run.
    let recorded = job.catalog.reader()?.entry(place.dir.id, &place.name)?;
    let Some(Record::File(FileRecord { status: Status::InProgress, large_id, .. })) = recorded else { return Ok(()) };
    if job.catalog.reader()?.ranges(large_id)?.is_empty() {
        return Ok(());
    }
    job.catalog.forget_ranges(large_id)
}

/// A file's birth, as it is recorded with its ranges, where the file system tells it. Servers may make one up of its
/// other times (Samba without a store for it), which change.
pub(crate) fn birth_of(job: &Job, made: &Stat) -> Option<Range> {
    (!job.is_dest_remote.load(Ordering::Acquire) && made.birth != 0).then(|| Range::birth(made.birth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_believed_of_the_file_that_they_are_of() {
        let range = Range { offset: 4096, len: 4096, crc64: Some(1), etag: None };
        let (made, birth) = (Stat { size: 8192, ..Stat::default() }, Range::birth(5));
        let found = |birth, recorded: &[Range]| ranges_in(birth, &made, recorded.to_vec());
        assert_eq!(found(Some(birth), &[range]), Some(vec![range]), "recorded before births were");
        assert_eq!(found(None, &[range, birth]), Some(vec![range]), "where births are not told");
        assert_eq!(found(Some(birth), &[range, birth]), Some(vec![range]));
        assert_eq!(found(Some(Range::birth(6)), &[range, birth]), None, "of another file");
        assert_eq!(ranges_in(None, &Stat { size: 8191, ..made }, vec![range]), None, "of a longer file");
        let unsynced = Range::unsynced([7; 16]);
        assert_eq!(found(None, &[range, birth, unsynced]), Some(vec![range, unsynced]));
    }
}
