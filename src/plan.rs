//! The decision about one object: source, record and destination in, a [`Plan`] with its reason out. Pure.
//!
//! ```text
//! record of this pass          -> Done already                       (a resume: not even the source is looked at)
//! record equals the source     -> Unchanged                          (the destination is not looked at)
//! only its ctime differs       -> Reread: metadata alone if the content has the recorded checksum, else Copy
//! it was racy when it was read -> the same: its ctime proves nothing
//! equal, but it lost something -> Renew: metadata alone              (--strict, --retry-failed)
//! whatever                     -> Copy, replacing what is there      (--recopy)
//! failed, but held until then  -> Adopt, if the destination still has it
//! record differs               -> Copy, replacing what is there
//! no record, no dest name      -> Copy
//! no record, dest looks equal  -> Adopt: size and mtime are the seal of I2, only owner and mode are put right
//! no record, dest differs      -> Copy, replacing what is there
//! ```

use crate::catalog::{FileRecord, Stamp, Status};
use crate::config::{Config, CtimePolicy, LossPolicy, Retry};
use crate::filesystem::{Inodes, Reach};
use crate::report::{Loss, LossSet};
use crate::ring::{Kind, Stat, Time};

/// How far ahead of this machine's clock a ctime may be and still be racy.
const AHEAD_NANOS_MAX: i128 = 60_000_000_000;

/// What to do with one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Skip(Skip),
    /// Copy it, replacing what is there.
    Copy(Reason),
    /// Copy it if, on looking at the destination, it is not there in the same state already.
    Compare,
    /// Nothing but its ctime is new: copy it unless its content still has this CRC64.
    Reread(u64),
    /// It has lost something: give it its metadata once more, or copy it where that cannot be done by itself.
    Renew,
}

impl Plan {
    /// Whether it is done although the destination holds the object as it is recorded.
    pub fn is_again(self) -> bool {
        matches!(self, Plan::Renew | Plan::Copy(Reason::Asked))
    }
}

/// What is done again although the catalog calls it done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Nothing.
    Nothing,
    /// What has lost something that may be kept by now.
    Losses,
    /// All of it.
    All,
}

impl Again {
    /// As it is asked for.
    pub fn of(config: &Config) -> Again {
        match (config.retry, config.losses) {
            (Retry::All, _) => Again::All,
            (Retry::FailedOnly, _) | (_, LossPolicy::Fail) => Again::Losses,
            (Retry::WithAll, LossPolicy::Count) => Again::Nothing,
        }
    }
}

/// Why nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// This pass has handled it already.
    Done,
    /// The source is as it was when it was copied.
    Unchanged,
}

/// Why an object is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was never copied.
    New,
    /// The source differs from what was recorded.
    Changed,
    /// An earlier attempt failed.
    Failed,
    /// An earlier attempt was interrupted.
    Interrupted,
    /// Everything is to be copied again.
    Asked,
}

/// Where a job stands, as far as decisions need it: from the catalog's header.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Records of this batch and later belong to the current pass.
    pub pass_start_batch: u64,
    /// Records up to this batch are sealed and durable.
    pub completed_batch: u64,
    /// `Written` records of this batch and later are of this boot, and so still hold.
    pub boot_batch: u64,
    /// What a new ctime alone means.
    pub ctime: CtimePolicy,
    /// How long the source's inode numbers last: those that do not are not recorded.
    pub inodes: Inodes,
    /// What is done again.
    pub again: Again,
}

impl Progress {
    /// Whether `record` says that the destination holds the object, sealed, as it was in the source then.
    fn holds(&self, record: &FileRecord) -> bool {
        match record.status {
            Status::Done => record.batch <= self.completed_batch,
            Status::Written => record.batch >= self.boot_batch,
            Status::Pending | Status::InProgress | Status::Failed => false,
        }
    }

    /// Whether the current pass has handled the object, so that not even the source need be looked at.
    pub fn is_handled(&self, record: &FileRecord) -> bool {
        record.batch >= self.pass_start_batch && self.holds(record) && !self.is_renewed(record)
    }

    /// Whether an object that lost something is to get it once more.
    pub fn is_renewed(&self, record: &FileRecord) -> bool {
        matches!(record.status, Status::Done | Status::Written) && self.renews(record.losses)
    }

    /// Whether these losses are reason to try again. That a name is no hard link is no matter of metadata.
    pub fn renews(&self, losses: LossSet) -> bool {
        self.again == Again::Losses && !losses.without(Loss::HardLink).is_empty()
    }

    /// Whether a file in state `now` is read again before it is decided about.
    pub fn is_reread(&self, record: &FileRecord, now: &Stamp) -> bool {
        self.holds(record) && !self.is_same(&record.stamp, now) && known_content(record, now).is_some()
    }

    /// What is recorded of a source object.
    pub fn stamp(&self, source: &Stat) -> Stamp {
        let stamp = Stamp::of(source);
        if self.inodes.is_lasting() { stamp } else { Stamp { ino: 0, ..stamp } }
    }

    /// Whether a source in state `now` is the one that was recorded as `then`.
    pub fn is_same(&self, then: &Stamp, now: &Stamp) -> bool {
        match self.ctime {
            _ if then.is_racy() => false,
            CtimePolicy::Heed => then == now,
            CtimePolicy::Ignore => is_same_but_ctime(then, now),
        }
    }
}

/// Whether a file with this ctime could change from `now` on without getting another one: its clock may not have
/// ticked yet. The kernel's ticks 100 times a second or more often; times without a fraction are of a file system that
/// keeps seconds (ext4 with inodes of 128 bytes) or two of them (FAT), and a server's clock is not ours. What lies
/// further ahead of `now` than a clock that is wrong by a little is none of this: it would be read again in each pass.
pub fn is_racy(ctime: Time, now: Time, reach: Reach) -> bool {
    let granule_nanos = match (ctime.nanos, reach) {
        (0, _) | (_, Reach::Remote) => 2_000_000_000,
        _ => 10_000_000,
    };
    let nanos = |time: Time| i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos);
    (-AHEAD_NANOS_MAX..=granule_nanos).contains(&(nanos(now) - nanos(ctime)))
}

/// Whether [`is_racy`] may say so at any time from `began` on.
pub fn may_be_racy(ctime: Time, began: Time) -> bool {
    ctime.secs.saturating_add(3) >= began.secs
}

/// Whether nothing but ctime tells two states apart: attributes, names, or an edit that kept size and mtime.
fn is_same_but_ctime(then: &Stamp, now: &Stamp) -> bool {
    *then == Stamp { ctime: then.ctime, ..*now }
}

/// Decides from source and record. `dest_is_new` says that the destination directory was created by this run.
pub fn decide(source: &Stat, record: Option<&FileRecord>, progress: &Progress, dest_is_new: bool) -> Plan {
    let Some(record) = record else {
        return match (dest_is_new, progress.again) {
            (true, _) => Plan::Copy(Reason::New),
            (false, Again::All) => Plan::Copy(Reason::Asked),
            (false, _) => Plan::Compare,
        };
    };
    if progress.is_handled(record) {
        return Plan::Skip(Skip::Done);
    }
    if progress.again == Again::All {
        return Plan::Copy(Reason::Asked);
    }
    let now = progress.stamp(source);
    match record.status {
        // A failure that left the destination's older file alone, of a source that is what it was then.
        Status::Failed if progress.is_same(&record.stamp, &now) => Plan::Compare,
        Status::Failed => Plan::Copy(Reason::Failed),
        Status::Pending | Status::InProgress => Plan::Copy(Reason::Interrupted),
        Status::Done | Status::Written if !progress.holds(record) => Plan::Copy(Reason::Interrupted),
        // What could not be made is tried again: by another user, or where another version of it is mounted.
        Status::Done | Status::Written if record.losses.has_object() => Plan::Copy(Reason::Failed),
        Status::Done | Status::Written if progress.is_same(&record.stamp, &now) => match progress.is_renewed(record) {
            true => Plan::Renew,
            false => Plan::Skip(Skip::Unchanged),
        },
        Status::Done | Status::Written => match known_content(record, &now) {
            Some(crc64) if source.kind() == Kind::File => Plan::Reread(crc64),
            _ => Plan::Copy(Reason::Changed),
        },
    }
}

/// The CRC64 that a file has if nothing but its ctime is new, and not its content; `None` if only a copy is sure.
fn known_content(record: &FileRecord, now: &Stamp) -> Option<u64> {
    // The CRC64 of nothing is 0, recorded or not.
    let known = record.checksum.map(|checksum| checksum.crc64).or((now.size == 0).then_some(0));
    known.filter(|_| is_same_but_ctime(&record.stamp, now))
}

/// Whether a destination name without a record holds the source's content by the seal of I2: a regular file of the same
/// size whose mtime is the source's, as exactly as the destination keeps times (`granularity_nanos`).
pub fn is_sealed_copy(source: &Stat, dest: &Stat, granularity_nanos: u32) -> bool {
    let is_file = source.kind() == Kind::File && dest.kind() == Kind::File;
    is_file && source.size == dest.size && same_time(source.mtime, dest.mtime, granularity_nanos)
}

/// Whether what is at the destination is the source itself, by another of its names.
pub(crate) fn is_source(source: &Stat, dest: &Stat) -> bool {
    (source.dev, source.ino) == (dest.dev, dest.ino)
}

/// Whether two times are one on a file system that keeps them to `granularity_nanos`.
pub(crate) fn same_time(a: Time, b: Time, granularity_nanos: u32) -> bool {
    let coarse = |time: Time| (time.secs, time.nanos / granularity_nanos.max(1));
    coarse(a) == coarse(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::LossSet;

    const PROGRESS: Progress = Progress {
        pass_start_batch: 10,
        completed_batch: 12,
        boot_batch: 12,
        ctime: CtimePolicy::Heed,
        inodes: Inodes::Lasting,
        again: Again::Nothing,
    };

    fn source() -> Stat {
        let time = Time { secs: 1_700_000_000, nanos: 123_456_789 };
        Stat { mode: libc::S_IFREG | 0o644, size: 5, mtime: time, ctime: time, ino: 9, ..Stat::default() }
    }

    fn record(status: Status, batch: u64) -> FileRecord {
        FileRecord {
            status,
            batch,
            stamp: Stamp::of(&source()),
            dest_ino: 3,
            large_id: 0,
            failure: None,
            checksum: None,
            losses: LossSet::default(),
            owner: Some(crate::catalog::Owner::default()),
        }
    }

    #[test]
    fn a_sealed_record_of_this_pass_is_done_and_of_an_earlier_one_unchanged() {
        let plan = |batch| decide(&source(), Some(&record(Status::Done, batch)), &PROGRESS, false);
        assert_eq!(plan(11), Plan::Skip(Skip::Done));
        assert_eq!(plan(9), Plan::Skip(Skip::Unchanged));
        assert_eq!(plan(13), Plan::Copy(Reason::Interrupted), "durable data without a durable seal is not done");
    }

    #[test]
    fn what_is_done_is_done_again_if_that_is_asked_for() {
        let plan = |record: Option<FileRecord>, again| {
            decide(&source(), record.as_ref(), &Progress { again, ..PROGRESS }, false)
        };
        let mut losses = LossSet::default();
        losses.add(Loss::HardLink);
        let done = |batch, losses| Some(FileRecord { losses, ..record(Status::Done, batch) });
        assert_eq!(plan(done(9, losses), Again::Losses), Plan::Skip(Skip::Unchanged), "links are no metadata");
        losses.add(Loss::Owner);
        assert_eq!(plan(done(9, losses), Again::Losses), Plan::Renew);
        assert_eq!(plan(done(11, losses), Again::Losses), Plan::Renew, "a retry is of the pass that it retries");
        assert_eq!(plan(done(9, losses), Again::Nothing), Plan::Skip(Skip::Unchanged));
        assert_eq!(plan(done(9, LossSet::default()), Again::All), Plan::Copy(Reason::Asked));
        assert_eq!(plan(None, Again::All), Plan::Copy(Reason::Asked));
        assert_eq!(plan(done(11, LossSet::default()), Again::All), Plan::Skip(Skip::Done));
    }

    #[test]
    fn any_difference_in_the_stamp_is_a_change() {
        let done = record(Status::Done, 9);
        for change in [
            |s: &mut Stat| s.size += 1,
            |s: &mut Stat| s.mtime.nanos += 1,
            |s: &mut Stat| s.ctime.secs += 1,
            |s: &mut Stat| s.ino += 1,
        ] {
            let mut changed = source();
            change(&mut changed);
            assert_eq!(decide(&changed, Some(&done), &PROGRESS, false), Plan::Copy(Reason::Changed));
        }
    }

    #[test]
    fn a_new_ctime_alone_is_read_again_where_there_is_something_to_compare() {
        let mut changed = source();
        changed.ctime.secs += 1;
        let checksum = Some(crate::catalog::Checksum { crc64: 7, proof: crate::catalog::Proof::Written });
        let known = FileRecord { checksum, ..record(Status::Done, 9) };
        let plan = |source: &Stat, record: &FileRecord, progress| decide(source, Some(record), progress, false);
        assert_eq!(plan(&changed, &known, &PROGRESS), Plan::Reread(7));
        assert_eq!(plan(&changed, &record(Status::Done, 9), &PROGRESS), Plan::Copy(Reason::Changed));
        let grown = Stat { size: 6, ..changed };
        assert_eq!(plan(&grown, &known, &PROGRESS), Plan::Copy(Reason::Changed));
        let symlink = Stat { mode: libc::S_IFLNK | 0o777, ..changed };
        assert_eq!(plan(&symlink, &known, &PROGRESS), Plan::Copy(Reason::Changed));
        let unsealed = FileRecord { batch: 13, ..known.clone() };
        assert_eq!(plan(&changed, &unsealed, &PROGRESS), Plan::Copy(Reason::Interrupted));
        let ignoring = Progress { ctime: CtimePolicy::Ignore, ..PROGRESS };
        assert_eq!(plan(&changed, &known, &ignoring), Plan::Skip(Skip::Unchanged));
        assert_eq!(plan(&grown, &known, &ignoring), Plan::Copy(Reason::Changed));
    }

    #[test]
    fn a_racy_record_is_never_unchanged() {
        let racy = FileRecord { stamp: Stamp::of(&source()).racy(), ..record(Status::Done, 9) };
        let checksum = Some(crate::catalog::Checksum { crc64: 7, proof: crate::catalog::Proof::Written });
        for ctime in [CtimePolicy::Heed, CtimePolicy::Ignore] {
            let plan = |record: &FileRecord| decide(&source(), Some(record), &Progress { ctime, ..PROGRESS }, false);
            assert_eq!(plan(&racy), Plan::Copy(Reason::Changed));
            assert_eq!(plan(&FileRecord { checksum, ..racy.clone() }), Plan::Reread(7));
        }
    }

    #[test]
    fn a_ctime_is_racy_for_one_tick_of_its_clock() {
        let ctime = Time { secs: 100, nanos: 500_000_000 };
        let now = |nanos| Time { secs: 100, nanos };
        let is = |nanos| is_racy(ctime, now(nanos), Reach::Local);
        assert_eq!([is(499_000_000), is(500_000_000), is(510_000_000), is(510_000_001)], [true, true, true, false]);
        assert!(is_racy(ctime, now(999_999_999), Reach::Remote));
        let whole = Time { nanos: 0, ..ctime };
        assert!(is_racy(whole, Time { secs: 102, nanos: 0 }, Reach::Local));
        assert!(!is_racy(whole, Time { secs: 102, nanos: 1 }, Reach::Local));
        assert!(!is_racy(Time { secs: 161, nanos: 1 }, now(0), Reach::Local), "a clock that was wrong once");
        assert!(may_be_racy(whole, Time { secs: 102, nanos: 1 }) && !may_be_racy(whole, Time { secs: 104, nanos: 0 }));
    }

    #[test]
    fn unfinished_work_is_never_skipped() {
        for status in [Status::Pending, Status::InProgress, Status::Written] {
            assert!(matches!(decide(&source(), Some(&record(status, 11)), &PROGRESS, true), Plan::Copy(_)));
        }
        let failed = record(Status::Failed, 11);
        assert_eq!(decide(&source(), Some(&failed), &PROGRESS, true), Plan::Compare);
        let changed = Stat { size: 6, ..source() };
        assert_eq!(decide(&changed, Some(&failed), &PROGRESS, true), Plan::Copy(Reason::Failed));
        let written = record(Status::Written, 12);
        assert_eq!(decide(&source(), Some(&written), &PROGRESS, true), Plan::Skip(Skip::Done));
    }

    #[test]
    fn adoption_needs_size_and_mtime_and_a_regular_file() {
        let dest = Stat { ino: 77, ..source() };
        assert!(is_sealed_copy(&source(), &dest, 1));
        assert!(!is_sealed_copy(&source(), &Stat { size: 6, ..dest }, 1));
        let coarse = Time { nanos: 123_000_000, ..source().mtime };
        assert!(!is_sealed_copy(&source(), &Stat { mtime: coarse, ..dest }, 1));
        assert!(is_sealed_copy(&source(), &Stat { mtime: coarse, ..dest }, 1_000_000));
        assert!(!is_sealed_copy(&source(), &Stat { mode: libc::S_IFLNK | 0o777, ..dest }, 1));
    }
}
