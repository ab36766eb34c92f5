//! The life of a shard's objects: begun, placed, finished, told of.

use std::sync::Arc;
use std::time::Instant;

use super::{Errand, Part, Shard, Started, Task};
use crate::config::UNSTABLE_ATTEMPTS_MAX;
use crate::error::{Cause, Errno, Error, Result};
use crate::filter::Sort;
use crate::job::Ticket;
use crate::large::{LargeFile, LargeTask};
use crate::links::LinkKey;
use crate::outcome::{Outcome, What};
use crate::plan::Skip;
use crate::provider::posix::Posix;
use crate::report::Count;
use crate::ring::{Answer, Completion, Interpreter, Lease, Name, Op, Side, Stat};
use crate::transfer::{Ending, Prepared, Work as Object, ending_of, prepare};
use crate::walk::DirNode;

impl<I: Interpreter> Shard<I> {
    /// Starts one object. Ends: each further turn is a further attempt, and their number is bounded.
    pub(super) fn begin(&mut self, mut errand: Errand) -> Started {
        loop {
            let job = self.job.clone();
            let mut group = None;
            let prepared = prepare(&job, &*self.caller, &errand.place, errand.record.as_ref(), &mut group);
            if let Some(left) = errand.claimed.take().filter(|claimed| group != Some(*claimed)) {
                self.push(&errand.place.dir, errand.place.name.clone(), What::Left(left));
            }
            let ending = match prepared {
                Prepared::Ended(ending) => ending,
                Prepared::Small(stat) => {
                    self.counters.add(Count::BytesPlanned, stat.size);
                    let index = self.insert(Task::Small { errand, stat, group });
                    self.drive(index);
                    return Started::InFlight;
                }
                Prepared::Large(stat) => match self.open_large(&errand, &stat, group) {
                    Ok(file) => {
                        self.begin_large(&errand, file);
                        return Started::InFlight;
                    }
                    Err(error) => ending_of(error),
                },
            };
            match self.end(errand, group, ending) {
                Some(again) => errand = again,
                None => return Started::Ended,
            }
        }
    }

    pub(super) fn open_large(&mut self, errand: &Errand, stat: &Stat, group: Option<LinkKey>) -> Result<LargeFile> {
        let (job, caller, place) = (&*self.job, &*self.caller, &errand.place);
        let object = Object { job, caller, place, stat, group };
        LargeFile::open(&object, errand.record.as_ref(), errand.ticket, errand.attempt)
    }

    pub(super) fn begin_large(&mut self, errand: &Errand, file: LargeFile) {
        let file = Arc::new(file);
        self.counters.add(Count::BytesPlanned, file.stat.size - file.durable_bytes());
        errand.place.dir.touch();
        self.push(&errand.place.dir, errand.place.name.clone(), What::Begun(file.record(0)));
        if file.is_shareable() {
            for _ in 1..self.shards {
                self.help.push(file.clone());
                self.walker().expect_help();
            }
        }
        let index = self.insert(Task::Large(LargeTask::first(file), Part::Opener));
        self.drive(index);
    }

    /// The bytes of a small file are here.
    pub(super) fn place_small(&mut self, index: usize, completion: Completion) {
        if matches!(completion.result, Err(Errno::INTR | Errno::AGAIN)) {
            self.ask(index, Side::Source, completion.op);
            return;
        }
        let Some(Task::Small { errand, stat, group }) = self.remove(index) else { return };
        let Completion { op: Op::ReadWhole { lease, .. }, result, .. } = completion else { return };
        let (lease, ending) = self.place_bytes(&errand, &stat, group, lease, result);
        self.buffers.release(lease);
        let again = self.end(errand, group, ending);
        let started = match again {
            Some(errand) => self.begin(errand),
            None => Started::Ended,
        };
        if started == Started::Ended {
            self.job.gate.release();
        }
    }

    pub(super) fn place_bytes(
        &mut self,
        errand: &Errand,
        stat: &Stat,
        group: Option<LinkKey>,
        lease: Lease,
        result: std::result::Result<Answer, Errno>,
    ) -> (Lease, Ending) {
        let (job, caller, place) = (&*self.job, &*self.caller, &errand.place);
        let object = Object { job, caller, place, stat, group };
        match result {
            Ok(Answer::Count(count)) => {
                let started = Instant::now();
                let placed = object.place_small(lease, count);
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
        if is_last && self.finish_large(&file) == Started::Ended {
            self.job.gate.release();
        }
        if part == Part::Helper {
            self.job.walker.complete();
        }
    }

    pub(super) fn finish_large(&mut self, file: &LargeFile) -> Started {
        let Some(ending) = file.finish(&self.job, &*self.caller) else { return Started::Ended };
        let (ticket, attempt) = (file.ticket, file.attempt);
        let errand = Errand { place: file.place.clone(), ticket, record: None, attempt, claimed: None };
        match self.end(errand, file.group, ending) {
            Some(errand) => self.begin(errand),
            None => Started::Ended,
        }
    }

    /// Tells what became of an object. Returns it if it is to be tried again.
    pub(super) fn end(&mut self, mut errand: Errand, group: Option<LinkKey>, ending: Ending) -> Option<Errand> {
        let dir = errand.place.dir.clone();
        let name = errand.place.name.clone();
        // A file that was made and removed again changes its directory too.
        if !matches!(ending, Ending::Skipped(_) | Ending::IsDir) {
            dir.touch();
        }
        if matches!(ending, Ending::Failed(_) | Ending::Vanished) && self.job.may_have_leftovers(&dir) {
            let dest = Posix::new(&*self.caller, Side::Dest);
            let _ = dest.unlink(&errand.place.open.dest, &errand.place.temp_name(&self.job));
        }
        let group = match (&ending, errand.ticket) {
            // A name that was promoted is its group's first before it is looked at.
            (Ending::Failed(_) | Ending::Vanished, Ticket::Alone) => group.or_else(|| self.group_of(&dir, &name)),
            _ => group,
        };
        match ending {
            Ending::Changed if errand.attempt < UNSTABLE_ATTEMPTS_MAX => {
                errand.attempt += 1;
                errand.claimed = group;
                return Some(errand);
            }
            Ending::Changed => {
                let cause = Cause::Unstable { attempts: errand.attempt };
                let object = errand.place.path(&self.job, Side::Source);
                let error = Error { verb: "copy", object, cause };
                self.push_failure(&dir, name, error, errand.attempt, group);
            }
            Ending::Failed(error) if self.stops(&error) => return None,
            Ending::Failed(error) => self.push_failure(&dir, name, error, errand.attempt, group),
            Ending::Vanished => {
                self.counters.add(Count::Vanished, 1);
                self.push(&dir, name, What::Vanished(group));
            }
            Ending::Skipped(Skip::Done | Skip::Unchanged) => self.counters.add(Count::Unchanged, 1),
            Ending::Further(key, stamp) => self.push(&dir, name, What::Further(key, stamp)),
            Ending::IsDir if !self.job.takes(&dir, &name, Sort::Dir) => {}
            Ending::IsDir => {
                let record = self.job.catalog.reader().and_then(|reader| reader.entry(dir.id, &name));
                if let Err(error) = record.and_then(|record| self.find_dir(&dir, name, record)) {
                    self.job.end_with(error);
                }
            }
            Ending::Copied(copied) => {
                self.counters.add(Count::BytesCopied, copied.bytes);
                self.intake.add_bytes(copied.bytes);
                self.push(&dir, name, What::Copied(copied));
            }
        }
        match errand.ticket {
            Ticket::Listed => self.release_dir(&dir),
            Ticket::Alone => self.job.walker.complete(),
        }
        None
    }

    /// The group that a name is the first of, whatever is known of the name itself.
    pub(super) fn group_of(&self, dir: &DirNode, name: &Name) -> Option<LinkKey> {
        self.job.links.group_of(&(dir.id, name.clone()))
    }

    pub(super) fn push(&self, dir: &Arc<DirNode>, name: Name, what: What) {
        self.intake.push(self.index, Outcome { dir: dir.clone(), name, what });
    }

    pub(super) fn push_failure(
        &self,
        dir: &Arc<DirNode>,
        name: Name,
        error: Error,
        attempts: u32,
        group: Option<LinkKey>,
    ) {
        self.push(dir, name, What::Failed { error, attempts, group });
    }

    /// The last entry of a directory, or its listing, has its outcome.
    pub(super) fn release_dir(&self, dir: &Arc<DirNode>) {
        if dir.release() {
            self.push(dir, Name::default(), What::Listed);
            self.job.walker.complete();
        }
    }
}
