//! The life of a shard's objects: begun, placed, finished, told of.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Current, Part, Shard, Started, Task};
use crate::catalog::{Checksum, Proof};
use crate::config::{ChecksumPolicy, scaled};
use crate::digest::crc64;
use crate::errand::Errand;
use crate::error::{Cause, Errno, Error, Result};
use crate::job::Place;
use crate::large::{Goal, LargeFile, LargeTask};
use crate::links::LinkKey;
use crate::outcome::What;
use crate::provider::posix::Posix;
use crate::report::{Count, Weight};
use crate::ring::{Access, Answer, Completion, Handle, Interpreter, Lease, Op, Side};
use crate::transfer::{Ending, Prepared, Subject, Work as Object, ending_of, prepare};
use crate::walk::DirPair;

impl<I: Interpreter> Shard<I> {
    /// Starts one object. Ends: a directory is opened once, and each other further turn is a further attempt, of which
    /// the number is bounded.
    pub(super) fn begin(&mut self, mut errand: Errand) -> Started {
        loop {
            let job = self.errands.job.clone();
            let mut group = None;
            let prepared = prepare(&job, &*self.errands.caller, &errand.place, errand.record.as_ref(), &mut group);
            let is_asked = !matches!(prepared, Prepared::Unopened);
            if is_asked && let Some(left) = errand.claimed.take().filter(|claimed| group != Some(*claimed)) {
                self.errands.push(&errand.place.dir, errand.place.name.clone(), What::Left(left));
            }
            let ending = match prepared {
                Prepared::Ended(ending) => ending,
                Prepared::Unopened => match self.open_dest(&errand.place) {
                    Ok(open) => {
                        errand.place.open = open;
                        continue;
                    }
                    Err(error) => ending_of(error),
                },
                Prepared::Small(subject) if subject.stat.size <= self.buffers.block_bytes() as u64 => {
                    self.errands.counters.add(Count::BytesPlanned, subject.stat.size);
                    let index = self.insert(Task::Small { errand, subject, group });
                    self.drive(index);
                    return Started::InFlight;
                }
                Prepared::Small(subject) | Prepared::Large(subject) => {
                    match self.open_large(&errand, &subject, group) {
                        Ok(file) => {
                            self.begin_large(&errand, file);
                            return Started::InFlight;
                        }
                        Err(error) => ending_of(error),
                    }
                }
            };
            match self.end(errand, group, ending) {
                Next::Again(again) => errand = *again,
                Next::Waits => return Started::InFlight,
                Next::Over => return Started::Ended,
            }
        }
    }

    /// Goes on with an object after what became of it.
    fn go_on(&mut self, next: Next) -> Started {
        match next {
            Next::Again(errand) => self.begin(*errand),
            Next::Waits => Started::InFlight,
            Next::Over => Started::Ended,
        }
    }

    /// Tells what became of an object, unless it is to be tried again: also, once, from the root down, where what it
    /// was reached by has become stale (ESTALE), and as long as a lease may keep it from being opened (EAGAIN).
    fn end(&mut self, mut errand: Errand, group: Option<LinkKey>, ending: Ending) -> Next {
        let ended = match ending {
            Ending::Failed(error) if error.is_stale() && !errand.place.is_reopened => {
                let Ok(open) = self.reopen(&errand.place) else {
                    return Next::of(self.errands.end(errand, group, Ending::Failed(error)));
                };
                self.errands.job.failures.causes.note(Weight::Retry, &error.cause);
                errand.place = Place { open, is_reopened: true, ..errand.place };
                errand.claimed = group;
                Some(errand)
            }
            Ending::Failed(Error { verb: "open" | "open direct" | "read", cause: Cause::Os(Errno::AGAIN), .. })
                if may_be_leased(&errand) =>
            {
                errand.claimed = group;
                self.set_aside(errand);
                return Next::Waits;
            }
            ending => self.errands.end(errand, group, ending),
        };
        Next::of(ended)
    }

    /// Keeps an object that somebody has a lease on (a file server, for a client that caches it) until it is tried
    /// again: the holder was asked to give the lease back, and has some time for that. It is tried again soon at first,
    /// then every [`LEASE_PAUSE_MAX`].
    fn set_aside(&mut self, mut errand: Errand) {
        let now = Instant::now();
        let since = *errand.leased.get_or_insert(now);
        let pause = (now - since).clamp(LEASE_PAUSE_MIN, LEASE_PAUSE_MAX);
        let index = self.insert(Task::Leased(errand, now + pause));
        self.starve(index);
    }

    /// Tries an object again that was set aside. A run that is to end leaves it to the resume.
    pub(super) fn try_leased(&mut self, index: usize) {
        let Some(Task::Leased(errand, _)) = self.remove(index) else { return };
        if self.walker().is_stopped() {
            return self.errands.job.gate.release();
        }
        let (source, place) = (Posix::new(&*self.errands.caller, Side::Source), &errand.place);
        let opened = source.open(&place.open.source, &place.name, Access::Read).map(drop);
        if opened == Err(Errno::AGAIN) && may_be_leased(&errand) {
            self.set_aside(errand);
        } else if self.begin(errand) == Started::Ended {
            self.errands.job.gate.release();
        }
    }

    /// Both sides of an object's directory, looked up from the root unless another object has led to that already.
    fn reopen(&mut self, place: &Place) -> Result<DirPair> {
        let dir = &place.dir;
        let (source, dest) = (self.dirs.source.get(dir), self.dirs.dest.get(dir));
        let is = |held: Option<Handle>, other| held.is_some_and(|held| Arc::ptr_eq(&held, other));
        if is(source, &place.open.source) || is(dest, &place.open.dest) {
            self.dirs.forget(dir);
        }
        self.open_dest(place)
    }

    /// Both sides of an object's directory, for all that is met in it from here on.
    fn open_dest(&mut self, place: &Place) -> Result<DirPair> {
        let dir = &place.dir;
        let open = self.open_pair(dir)?;
        if let Some(Current::Listing(listing) | Current::Slice(listing)) = &mut self.current
            && listing.dir.id == dir.id
        {
            listing.open = open.clone();
        }
        Ok(open)
    }

    pub(super) fn open_large(
        &mut self,
        errand: &Errand,
        Subject { stat, stamp, known }: &Subject,
        group: Option<LinkKey>,
    ) -> Result<LargeFile> {
        let (job, caller, place) = (&*self.errands.job, &*self.errands.caller, &errand.place);
        let object = Object { job, caller, place, stat, stamp: *stamp, group, told: None };
        let (record, ticket, attempt) = (errand.record.as_ref(), errand.ticket, errand.attempt);
        match known {
            Some(crc64) => LargeFile::reread(&object, record, ticket, attempt, *crc64),
            None => LargeFile::open(&object, record, ticket, attempt),
        }
    }

    pub(super) fn begin_large(&mut self, errand: &Errand, file: LargeFile) {
        let file = Arc::new(file);
        self.errands.counters.add(Count::BytesPlanned, file.stat.size.saturating_sub(file.durable_bytes()));
        if file.goal() == Goal::Copy {
            errand.place.dir.touch();
            let name = &errand.place.name;
            self.errands.push(&errand.place.dir, name.clone(), What::Begun(file.record(0)));
            if let Some(birth) = file.birth {
                self.errands.push(&errand.place.dir, name.clone(), What::Written(file.id, birth));
            }
            if file.is_recorded_early() {
                self.errands.intake.hurry();
            }
        }
        for _ in 0..file.helpers_max().min(self.errands.job.gate.workers().saturating_sub(1)) {
            self.common.help.push(file.clone());
            self.walker().expect_help();
        }
        let index = self.insert(Task::Large(LargeTask::first(file), Part::Opener));
        self.drive(index);
    }

    /// The bytes of a small file are here.
    pub(super) fn place_small(&mut self, index: usize, completion: Completion) {
        if matches!(completion.result, Err(Errno::INTR)) {
            self.ask(index, Side::Source, completion.op);
            return;
        }
        let Some(Task::Small { errand, subject, group }) = self.remove(index) else { return };
        let Completion { op: Op::ReadWhole { lease, .. }, result, .. } = completion else { return };
        let (lease, ending) = self.place_bytes(&errand, &subject, group, lease, result);
        self.buffers.release(lease);
        let next = self.end(errand, group, ending);
        if self.go_on(next) == Started::Ended {
            self.errands.job.gate.release();
        }
    }

    pub(super) fn place_bytes(
        &mut self,
        errand: &Errand,
        Subject { stat, stamp, known }: &Subject,
        group: Option<LinkKey>,
        lease: Lease,
        result: std::result::Result<Answer, Errno>,
    ) -> (Lease, Ending) {
        let (job, caller, place) = (&*self.errands.job, &*self.errands.caller, &errand.place);
        let (object, known) = (Object { job, caller, place, stat, stamp: *stamp, group, told: None }, *known);
        match result {
            Ok(Answer::Count(count)) => {
                let started = Instant::now();
                let is_kept = job.config.checksum != ChecksumPolicy::Free;
                let crc64 = (is_kept || known.is_some()).then(|| crc64(&self.buffers.arena().bytes(&lease)[..count]));
                let is_known = known.is_some() && known == crc64 && count as u64 == stat.size;
                if is_known && let Some(ending) = errand.record.as_ref().and_then(|r| object.refresh_small(r)) {
                    self.errands.counters.add(Count::BytesSkipped, stat.size);
                    return (lease, ending);
                }
                let checksum = crc64.filter(|_| is_kept).map(|crc64| Checksum { crc64, proof: Proof::Written });
                let placed = object.place_small(lease, count, checksum);
                self.report.latency.dest.record(started.elapsed());
                placed
            }
            Ok(other) => unreachable!("a read answers a count, not {other:?}"),
            Err(errno) => (lease, ending_of(crate::transfer::source_error(job, place, "read", errno))),
        }
    }

    /// This shard's part in a large file is over. The last one finishes it and gives its stream back.
    pub(super) fn leave_large(&mut self, index: usize, is_last: bool) {
        let Some(Task::Large(task, part)) = self.remove(index) else { return };
        let file = task.file;
        if is_last {
            file.stream.take_up(&self.errands.job.gate);
        }
        if is_last && self.finish_large(&file) == Started::Ended {
            self.errands.job.gate.release();
        }
        if part == Part::Helper {
            self.errands.job.walker.complete();
        }
    }

    pub(super) fn finish_large(&mut self, file: &LargeFile) -> Started {
        let Some(ending) = file.finish(&self.errands.job, &*self.errands.caller) else { return Started::Ended };
        if file.is_removed_after(&self.errands.job, &ending) {
            self.errands.push(&file.place.dir, file.place.name.clone(), What::Removed(file.id));
        }
        let (ticket, attempt) = (file.ticket, file.attempt);
        let (place, record) = (file.place.clone(), file.former().cloned());
        let (claimed, listed, page, unmet, meter, leased) = (None, None, None, None, None, None);
        let errand = Errand { place, ticket, record, attempt, claimed, listed, page, unmet, meter, leased };
        let next = self.end(errand, file.group, ending);
        self.go_on(next)
    }
}

/// What comes next of an object.
enum Next {
    /// It is tried again.
    Again(Box<Errand>),
    /// It is set aside.
    Waits,
    /// Nothing: it has its outcome.
    Over,
}

impl Next {
    /// Of an object that is to be tried again, or not.
    fn of(again: Option<Errand>) -> Next {
        again.map_or(Next::Over, |errand| Next::Again(Box::new(errand)))
    }
}

/// Pauses between two tries to open a file that somebody has a lease on.
const LEASE_PAUSE_MIN: Duration = Duration::from_millis(scaled(1, 0) as u64);
const LEASE_PAUSE_MAX: Duration = Duration::from_millis(scaled(50, 0) as u64);

/// Whether a file that could not be opened may be waited for: as long as the kernel lets the holder of a lease keep it
/// (proc_sys_fs(5)), and some seconds more. Then the kernel takes it, or it was none.
fn may_be_leased(errand: &Errand) -> bool {
    let Some(since) = errand.leased else { return true };
    let told = std::fs::read_to_string("/proc/sys/fs/lease-break-time");
    let secs = told.ok().and_then(|secs| secs.trim().parse().ok()).unwrap_or(45_u64);
    since.elapsed() < Duration::from_secs(secs.saturating_add(5))
}
