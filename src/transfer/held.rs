//! What the destination holds already: sealed again, adopted, or given new metadata. No content is written.
//!
//! A name that is a hard link of its source (`cp -al`) is not the destination's: what it was given the source would get
//! (I6). It is replaced by a copy.

use super::attributes::Kept;
use super::{Copied, Ending, Seal, Work, ending_of, restat_source};
use crate::catalog::{FileRecord, Range, Status};
use crate::error::{Errno, Result};
use crate::filesystem::Reach;
use crate::job::LinkChanges;
use crate::plan;
use crate::provider::metadata::{self, UNSEALED};
use crate::provider::posix::is_missing;
use crate::provider::xattrs::{Made, Trust};
use crate::report::Count;
use crate::ring::{Access, Handle, Kind, Side, Stat};

impl Work<'_> {
    /// A record whose data is durable but whose seal may not be (an interruption between the two), or a large file
    /// whose seal is there but not the record of it: seal it again without copying, if the destination still holds the
    /// inode that was written (I1). Of a large file all ranges must be recorded as well.
    pub(crate) fn reseal(&self, record: Option<&FileRecord>) -> Result<Option<Copied>> {
        if let Some(device) = self.job.device(Side::Dest) {
            return self.device_before(device, record);
        }
        let now = self.state();
        let is_of_source = |record: &&FileRecord| record.stamp == now && !record.losses.has_object();
        let Some(record) = record.filter(is_of_source) else { return Ok(None) };
        let granularity = self.job.clock().granularity_nanos;
        let is_whole = record.status == Status::InProgress && self.job.syncs() && self.has_all_ranges(record)?;
        let is_durable = |dest: &Stat| match record.status {
            Status::Done => record.batch > self.job.progress.completed_batch,
            Status::InProgress => is_whole && plan::is_sealed_copy(self.stat, dest, granularity),
            _ => false,
        };
        if !matches!(record.status, Status::Done | Status::InProgress) {
            return Ok(None);
        }
        let temp = self.place.temp_name(self.job);
        let is_left_as_made = self.is_left_as_made()?;
        for (name, temp) in [(&self.place.dest_name, None), (&temp, Some(temp.clone()))] {
            match self.dest().stat(self.dest_dir(), name) {
                Ok(dest)
                    if self.job.dest_id(&dest) == record.dest_ino
                        && dest.size == self.stat.size
                        && !self.is_source(&dest)
                        && is_durable(&dest)
                        && temp.as_ref().is_none_or(|temp| self.hold(temp)) =>
                {
                    self.remove_leftover(temp.as_ref());
                    let count = match self.stat.kind() {
                        Kind::Symlink => Count::Symlinks,
                        Kind::Special => Count::Specials,
                        _ => Count::FilesCopied,
                    };
                    let seal = match is_left_as_made {
                        true if temp.is_some() => {
                            temp.iter().for_each(|temp| self.release(temp));
                            return Ok(None);
                        }
                        true => Seal::None,
                        false => self.seal(temp),
                    };
                    let mut copied = self.copied(&dest, seal, 0, count);
                    copied.large_id = record.large_id;
                    copied.checksum = record.checksum;
                    for loss in record.losses.iter() {
                        self.job.note_lost(self.place.dir.id, &self.place.name, loss);
                    }
                    return Ok(Some(copied));
                }
                Ok(_) => {}
                Err(errno) if is_missing(errno) => {}
                Err(errno) => return Err(self.error("stat", errno)),
            }
        }
        Ok(None)
    }

    /// Whether every byte of a large file under way is recorded as durable: size and mtime alone may be a half-written
    /// copy's where times are coarse.
    fn has_all_ranges(&self, record: &FileRecord) -> Result<bool> {
        let ranges = self.job.catalog.reader()?.ranges(record.large_id)?;
        if ranges.iter().any(Range::is_unsynced) {
            return Ok(false);
        }
        let end = ranges.iter().filter(|range| range.is_of_content()).fold(0, |end, range| match range.offset <= end {
            true => end.max(range.offset + range.len),
            false => end,
        });
        Ok(end >= self.stat.size)
    }

    /// Takes the seal off a large file that is about to be written to: a power cut could leave it on what is half
    /// overwritten, by another state of the source (I2). It is rare: a run was killed between the seals of a batch and
    /// its commit.
    pub(crate) fn unseal(&self, file: &Handle, made: &Stat) -> Result<()> {
        if !self.job.syncs() || !plan::is_sealed_copy(self.stat, made, self.job.clock().granularity_nanos) {
            return Ok(());
        }
        let dest = self.dest();
        dest.set_times(file, self.stat.atime, UNSEALED).map_err(|errno| self.error("set times of", errno))?;
        dest.sync_file(file).map_err(|errno| self.error("sync", errno))
    }

    /// Whether it is a symlink whose times are none of ours to set.
    fn is_left_as_made(&self) -> Result<bool> {
        Ok(self.stat.kind() == Kind::Symlink && self.link_changes()? == LinkChanges::Never)
    }

    /// Takes what is at the destination if it is the source's copy already; puts owner, mode and attributes right.
    pub(crate) fn adopt(&self) -> Result<Option<Copied>> {
        if self.job.has_device() {
            return Ok(None);
        }
        let name = &self.place.dest_name;
        let dest = match self.dest().stat(self.dest_dir(), name) {
            Ok(dest) => dest,
            Err(errno) if is_missing(errno) => return Ok(None),
            Err(errno) => return Err(self.error("stat", errno)),
        };
        self.own_name()?;
        if self.is_source(&dest) {
            return Ok(None);
        }
        match self.stat.kind() {
            Kind::File if plan::is_sealed_copy(self.stat, &dest, self.granularity()) => {
                if self.stat.nlink != dest.nlink {
                    return Ok(None);
                }
                self.take_over(&dest, Count::Adopted)
            }
            Kind::Symlink if dest.kind() == Kind::Symlink => {
                let same = self.source_target()? == self.dest().read_link(self.dest_dir(), name).unwrap_or_default();
                let owned = (dest.uid, dest.gid) == (self.stat.uid, self.stat.gid) || !self.keeps_metadata();
                if !same || !owned || !plan::same_time(dest.mtime, self.stat.mtime, self.granularity()) {
                    return Ok(None);
                }
                let lost = metadata::lost_time(self.stat.mtime, dest.mtime);
                lost.map_or(Ok(()), |loss| self.job.lose(self.place, loss))?;
                let kept = Kept { permissions: dest.permissions(), trust: Trust::Full };
                self.keep_attributes_at(name, kept, Made::Before)?;
                Ok(Some(self.copied(&dest, Seal::None, 0, Count::Adopted)))
            }
            _ => Ok(None),
        }
    }

    /// Whether a file of the destination is the source itself, by another of its names.
    pub(crate) fn is_source(&self, dest: &Stat) -> bool {
        plan::is_source(self.stat, dest)
    }

    /// How finely the destination keeps times: tried once where its kind does not tell.
    fn granularity(&self) -> u32 {
        match self.job.dest_reach() {
            Reach::Local => self.job.clock().granularity_nanos,
            Reach::Remote => *self.job.measured_nanos.get_or_init(|| {
                // One probe at a time: they have one name.
                let _turn = self.job.link_changes.lock();
                let probe = self.job.temporaries.probe();
                let measured = metadata::measure_granularity(&self.dest(), self.dest_dir(), &probe);
                measured.ok().flatten().unwrap_or(self.job.clock().granularity_nanos)
            }),
        }
    }

    /// Owner, mode and times for a file that is there with the right content.
    fn take_over(&self, seen: &Stat, count: Count) -> Result<Option<Copied>> {
        let name = &self.place.dest_name;
        // A file that cannot be opened for reading (by an ordinary user) is replaced instead.
        let Ok(file) = self.dest().open(self.dest_dir(), name, Access::Read) else { return Ok(None) };
        let now = self.dest().stat_handle(&file).map_err(|errno| self.error("stat", errno))?;
        if (now.dev, now.ino) != (seen.dev, seen.ino) {
            return Ok(None);
        }
        self.remove_leftover(None);
        self.drop_own_acls(&file)?;
        let kept = self.keep_metadata(&file, &now)?;
        self.keep_attributes_of(&file, kept, Made::Before)?;
        Ok(Some(self.copied(&now, self.seal(None), 0, count)))
    }

    /// A file that was there before may grant more by an ACL of its own than its source does (I9). That of another
    /// user's file cannot be taken away, no more than its owner, which is told as a loss.
    fn drop_own_acls(&self, file: &Handle) -> Result<()> {
        if !self.keeps_metadata() {
            return Ok(());
        }
        match self.dest().drop_acls(file) {
            Ok(()) | Err(Errno::PERM) => Ok(()),
            Err(errno) => Err(self.error("clear the ACL of", errno)),
        }
    }

    /// The copy of a source of which only the ctime is new, and not the content: if the destination still holds the
    /// very file that was written, its owner, mode, attributes and times alone are put right.
    pub(crate) fn refresh(&self, record: &FileRecord) -> Result<Option<Copied>> {
        let dest = match self.dest().stat(self.dest_dir(), &self.place.dest_name) {
            Ok(dest) => dest,
            Err(errno) if is_missing(errno) => return Ok(None),
            Err(errno) => return Err(self.error("stat", errno)),
        };
        let is_sealed = plan::is_sealed_copy(self.stat, &dest, self.job.clock().granularity_nanos);
        let is_same = self.job.dest_id(&dest) == record.dest_ino || !self.job.dest.inodes.is_lasting();
        if !is_same || !is_sealed || self.is_source(&dest) {
            return Ok(None);
        }
        let refreshed = self.take_over(&dest, Count::Refreshed)?;
        Ok(refreshed.map(|copied| Copied { checksum: record.checksum, ..copied }))
    }

    /// The second half of a small file that was read again and has its recorded content. `None`: the destination has
    /// not, so it is to be copied.
    pub fn refresh_small(&self, record: &FileRecord) -> Option<Ending> {
        let refreshed = match restat_source(self.job, self.caller, self.place) {
            Ok(after) if self.stat.is_unchanged_in(&after) => self.refresh(record),
            Ok(_) => return Some(Ending::Changed),
            Err(error) => Err(error),
        };
        match refreshed {
            Ok(copied) => copied.map(|copied| Ending::Copied(Box::new(copied))),
            Err(error) => Some(ending_of(error)),
        }
    }
}
