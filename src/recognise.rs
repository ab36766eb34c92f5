//! How objects are known again: by a later pass, a resume, or the seal of what was just written.
//!
//! By inode number where numbers last. A user-space daemon makes them up when a name is looked up, and begins anew when
//! it is mounted again ([`crate::filesystem::Inodes`]): there the source is known by size and times alone, names of one
//! file are found within one mount only, and nothing at the destination is taken for what an earlier mount was given.
//!
//! Device numbers do not last: a reboot or another loop device gives the source's root a new one. In the catalog it
//! keeps the one that it had when the job began. A file system mounted below it whose number is another than it was is
//! taken for another one: its directories are finished again.

use std::sync::atomic::Ordering;

use crate::catalog::{BATCH_UNSEALED, DirStamp, DirState, FileRecord, Record, Stamp, Status};
use crate::config::{CtimePolicy, LossPolicy, Metadata};
use crate::error::{Cause, Errno, Error};
use crate::filesystem::Reach;
use crate::job::{Job, Past, Sealed};
use crate::links::{LinkKey, LinkName};
use crate::plan::{self, Again};
use crate::provider::metadata::Clock;
use crate::provider::posix::Posix;
use crate::provider::xattrs::{self, Thing};
use crate::report::{Count, Counters, LossSet};
use crate::ring::{Caller, Handle, Name, Side, Stat, Time};
use crate::walk::{DestDir, DirNode};

impl Job {
    /// What is recorded of an object of the source.
    pub fn stamp(&self, stat: &Stat) -> Stamp {
        self.progress.stamp(stat)
    }

    /// What is recorded of an object of the source that is read from now on: a change within one tick of its clock
    /// would not show. Only what is about as young as the run is costs a look at the clock.
    pub fn stamp_to_read(&self, stat: &Stat) -> Stamp {
        let stamp = self.stamp(stat);
        let is_timed = self.source.bucket.is_none() && !self.has_device();
        let is_racy = is_timed
            && plan::may_be_racy(stat.ctime, self.began)
            && plan::is_racy(stat.ctime, Time::now(), self.clock_reach);
        if is_racy { stamp.racy() } else { stamp }
    }

    /// An object of the source as its copy is to show it: without an ACL that is not kept, the mode grants more than
    /// the ACL did (I9). A user-space daemon is not asked ([`crate::transfer`] says why).
    pub fn shown(&self, caller: &dyn Caller, at: &Handle, name: &Name, stat: Stat) -> Result<Stat, Errno> {
        let is_kept = self.config.attributes.has_acls() || self.config.metadata != Metadata::Keep;
        if is_kept || self.source.bucket.is_some() || self.has_device() || !self.source.inodes.is_lasting() {
            return Ok(stat);
        }
        xattrs::without_acl(Thing::named(Posix::new(caller, Side::Source), at, name), stat)
    }

    /// The number in the catalog of a device of the source, and the device's of that number: see `renumbered`.
    pub fn recorded_dev(&self, dev: u64) -> u64 {
        match self.source.bucket.is_some() || self.has_device() {
            true => dev,
            false => renumbered(dev, (self.source.stat.dev, self.source_dev)),
        }
    }

    /// What is recorded of a directory of the source, and what it is in this run's numbers of what is recorded.
    pub fn recorded_dir(&self, stamp: DirStamp) -> DirStamp {
        DirStamp { dev: self.recorded_dev(stamp.dev), ..stamp }
    }

    /// The group of a source object of several names. That of a mount whose numbers do not last is nobody else's: a
    /// number means another file once it is mounted anew.
    pub fn link_key(&self, stat: &Stat) -> LinkKey {
        let state = LinkKey::state_of(&Stamp::of(stat));
        LinkKey { dev: self.source.inodes.salted(self.recorded_dev(stat.dev)), ino: stat.ino, state }
    }

    /// What an object of the destination is recognised by. Where inode numbers do not last, nothing is recognised that
    /// was written before it was mounted.
    pub fn dest_id(&self, stat: &Stat) -> u64 {
        self.dest.inodes.salted(stat.ino)
    }

    /// The recorded first name of a group, if it stands for the source as it is: copied in this pass, or unchanged
    /// since, or of a file of which only the ctime is new, which its first name is read again for. At the end of a pass
    /// all firsts have had their turn.
    pub fn recorded_first(&self, key: LinkKey, stamp: &Stamp) -> Result<Option<LinkName>, Error> {
        if let Some((first, _)) = self.first_record(key, stamp)? {
            return Ok(Some(first));
        }
        if key.is_in_bucket() || self.is_resealed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let reader = self.catalog.reader()?;
        let Some(first) = reader.link(key.dev, key.ino)? else { return Ok(None) };
        let is_reread = match reader.entry(first.dir, &first.name)? {
            Some(Record::File(record)) => self.progress.is_reread(&record, stamp) || self.progress.is_renewed(&record),
            _ => false,
        };
        Ok(is_reread.then_some((first.dir, first.name)))
    }

    /// Whether a group's file had a first name in this pass when it was in another state.
    pub fn is_split(&self, key: LinkKey) -> Result<bool, Error> {
        let reader = self.catalog.reader()?;
        let first = reader.link(key.dev, key.ino)?.filter(|first| first.batch >= self.progress.pass_start_batch);
        let Some(first) = first.filter(|_| !key.is_in_bucket()) else { return Ok(false) };
        let record = reader.entry(first.dir, &first.name)?;
        Ok(matches!(record, Some(Record::File(record)) if key.state != LinkKey::state_of(&record.stamp)))
    }

    /// As [`Job::recorded_first`], if it can be linked to (an interruption left no doubt of its seal).
    pub fn sealed_first(&self, key: LinkKey, stamp: &Stamp) -> Result<Option<Sealed>, Error> {
        let first = self.first_record(key, stamp)?.filter(|(_, record)| record.batch != BATCH_UNSEALED);
        Ok(first.map(|(name, record)| Sealed::of(name, record)))
    }

    fn first_record(&self, key: LinkKey, stamp: &Stamp) -> Result<Option<(LinkName, FileRecord)>, Error> {
        let reader = self.catalog.reader()?;
        let Some(first) = reader.link(key.dev, key.ino)? else { return Ok(None) };
        let Some(Record::File(record)) = reader.entry(first.dir, &first.name)? else { return Ok(None) };
        let is_resealed = self.is_resealed.load(Ordering::Relaxed);
        let is_right = match first.batch >= self.progress.pass_start_batch {
            // What is copied again is no link to what was there; what gets its metadata again waits for the first's.
            false if self.progress.again == Again::All => false,
            _ if self.progress.is_renewed(&record) && !is_resealed => false,
            true => {
                // A further link changes its ctime, and an inode of the same number may be another file by now.
                let is_same = key.is_in_bucket() || key.state == LinkKey::state_of(&record.stamp);
                is_same && matches!(record.status, Status::Done | Status::Written)
            }
            false => {
                // The link objects of a bucket have stamps of their own; at the end of a pass all firsts are met.
                let is_met = key.is_in_bucket() && is_resealed;
                // An object that others are links to is stored again with all of them, whatever a new ctime means.
                let is_same = match self.dest.bucket {
                    Some(_) => record.stamp == *stamp,
                    None => self.progress.is_same(&record.stamp, stamp),
                };
                record.status == Status::Done && (is_same || is_met)
            }
        };
        let is_lost = record.batch == BATCH_UNSEALED && is_resealed;
        Ok((is_right && !is_lost).then_some(((first.dir, first.name), record)))
    }

    /// Whether a name is a link to a file that was replaced in this pass under its first name: the objects of a bucket
    /// change one by one, and that of a link is as it was.
    pub fn is_outdated_link(&self, record: &FileRecord) -> Result<bool, Error> {
        let reader = self.catalog.reader()?;
        let key = LinkKey::replaced(record.dest_ino);
        let first = reader.link(key.dev, key.ino)?.filter(|first| first.batch >= self.progress.pass_start_batch);
        let (Some(first), 0) = (first, record.stamp.size) else { return Ok(false) };
        let Some(Record::File(first)) = reader.entry(first.dir, &first.name)? else { return Ok(false) };
        Ok(matches!(first.status, Status::Done | Status::Written) && first.dest_ino != record.dest_ino)
    }

    /// Whether a source directory is the one that was recorded, as far as its numbers tell.
    pub fn is_same_dir(&self, recorded: &DirStamp, now: &Stat) -> bool {
        !self.source.inodes.is_lasting() || (recorded.dev, recorded.ino) == (self.recorded_dev(now.dev), now.ino)
    }

    /// Whether a directory's own metadata, as it is `now`, is what the last pass gave its copy; its atime counts for
    /// nothing. After an interruption nobody knows what the interrupted run did in it.
    pub fn is_as_recorded(&self, dir: &DirNode, now: Option<DirStamp>) -> Result<bool, Error> {
        if self.past != Past::Finished || dir.dest() == DestDir::Created {
            return Ok(false);
        }
        let reader = self.catalog.reader()?;
        let record = reader.dir(dir.id)?.filter(|record| !self.progress.renews(record.losses));
        let recorded = record.and_then(|record| record.stamp).filter(|_| self.progress.again != Again::All);
        let (Some(recorded), Some(now)) = (recorded, now.map(|now| self.recorded_dir(now))) else { return Ok(false) };
        let is_finished = !reader.is_open_dir(dir.id, DirState::Unfinished)?;
        let ctime = if self.config.ctime == CtimePolicy::Ignore { now.ctime } else { recorded.ctime };
        let (dev, ino) = match self.source.inodes.is_lasting() {
            true => (recorded.dev, recorded.ino),
            false => (now.dev, now.ino),
        };
        let (atime, is_mount) = (now.atime, now.is_mount);
        Ok(is_finished && DirStamp { atime, ctime, dev, ino, is_mount, ..recorded } == now)
    }

    /// What an object that stays as it is has lost counts as much as if it had been lost now.
    pub(crate) fn stand(&self, (dir, name): (&DirNode, &Name), losses: LossSet, counters: &Counters) {
        let Some(loss) = losses.iter().next() else { return };
        match self.config.losses {
            LossPolicy::Count => self.losses.stand(losses),
            LossPolicy::Fail => {
                let object = crate::error::join(&self.path(Side::Dest, dir), self.dest_name(dir, name));
                self.say(&Error { verb: "copy", object, cause: Cause::Loss(loss.name()) }, 1);
                counters.add(Count::Failed, 1);
            }
        }
    }

    /// Whether what the destination says it has changed is taken for done, or looked at again.
    pub fn dest_reach(&self) -> Reach {
        if self.is_dest_doubted.load(Ordering::Acquire) { Reach::Remote } else { Reach::Local }
    }

    /// What is known of how the destination keeps times.
    pub fn clock(&self) -> Clock {
        let granularity_nanos = self.granularity_nanos.load(Ordering::Relaxed);
        Clock { reach: self.dest_reach(), granularity_nanos }
    }
}

/// A device's number in the catalog: the two numbers of the source's root, the one it has `now` and the one it had
/// `then`, change places, so that no file system below it gets that of the root. Twice is not at all.
pub(crate) fn renumbered(dev: u64, (now, then): (u64, u64)) -> u64 {
    match dev {
        dev if dev == now => then,
        dev if dev == then => now,
        dev => dev,
    }
}
