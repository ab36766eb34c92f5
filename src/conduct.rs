//! The decisions of a run: when a batch is closed, when directories are loaded, when all is done.
//!
//! Decides and acts, and never waits: who calls [`Conductor::step`] waits as it says, the engine for a bell, the
//! simulator not at all. So production and simulation end a pass in the same way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::catalog;
use crate::checkpoint::Checkpointer;
use crate::config::{Retry, scaled};
use crate::delete;
use crate::error::{Error, Result};
use crate::job::{Job, Past};
use crate::links::LinkName;
use crate::report::{Count, Counters, End, Pass, Totals};
use crate::resume;
use crate::stop::Stop;
use crate::unmet;
use crate::walk::Work;

/// Names left over at the end of a pass that go round again at a time (I4).
const LATE_MAX: usize = scaled(1 << 16, 4);
/// Rounds of them, one after the other, after which no fewer wait than before: then they never will.
const ROUNDS_MAX: u32 = 8;

/// Conducts one run.
pub struct Conductor {
    /// The job.
    job: Arc<Job>,
    /// Turns outcomes into records.
    checkpointer: Checkpointer,
    /// Everybody's counters.
    counters: Vec<Arc<Counters>>,
    /// Raised when the run is to be interrupted.
    stop: Stop,
    /// Rounds of names that were left over since fewer of them waited than ever.
    rounds: u32,
    /// The fewest that have waited.
    waiting_min: u64,
    /// Whether what the source no longer has is gone.
    is_cleared: bool,
    /// How far a run that only tries what failed has come.
    retried: Retried,
    /// How far links to what it has replaced are looked for.
    relinked: Scanned,
    /// How far what is missing at the destination is queued.
    restored: Scanned,
    /// When it began.
    started: Instant,
}

/// How far the failed entries of the catalog are queued.
enum Retried {
    /// Up to this one.
    Until(Option<LinkName>),
    /// All of them, and those that lost something up to this one.
    Losses(Option<LinkName>),
    /// All of them, or the run is of another kind.
    All,
}

/// How far the entries of the catalog are looked through.
enum Scanned {
    /// Up to this one.
    Until(Option<LinkName>),
    /// All of them.
    All,
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// A checkpoint was made; the next step may follow at once.
    Checkpointed,
    /// Nothing is to be done until the bell rings or the next checkpoint is due by time.
    Waiting,
    /// The run is over.
    Ended(End),
}

impl Conductor {
    /// A run of `job` whose outcomes `checkpointer` takes in.
    pub fn new(job: Arc<Job>, checkpointer: Checkpointer, counters: Vec<Arc<Counters>>, stop: Stop) -> Conductor {
        let retried = match job.config.retry {
            Retry::FailedOnly => Retried::Until(None),
            Retry::WithAll | Retry::All => Retried::All,
        };
        Conductor {
            job,
            checkpointer,
            counters,
            stop,
            rounds: 0,
            waiting_min: u64::MAX,
            is_cleared: false,
            retried,
            relinked: Scanned::Until(None),
            restored: Scanned::Until(None),
            started: Instant::now(),
        }
    }

    /// Does what is to be done now. `is_time` says that the interval between checkpoints is over.
    pub fn step(&mut self, is_time: bool) -> Result<Step> {
        if self.job.fatal.lock().is_some() || self.stop.is_requested() {
            return Ok(Step::Ended(End::Interrupted));
        }
        if self.job.walker.is_done() {
            return self.end_pass();
        }
        if self.checkpointer.has_early() {
            self.checkpointer.record_early()?;
        }
        if self.job.walker.wants_refill() {
            self.checkpointer.checkpoint()?;
            resume::refill(&self.job)?;
            return Ok(Step::Checkpointed);
        }
        if self.checkpointer.is_due() || (is_time && self.checkpointer.has_work()) {
            self.checkpointer.checkpoint()?;
            return Ok(Step::Checkpointed);
        }
        Ok(Step::Waiting)
    }

    /// Nothing is queued: the last checkpoint, and the end of the pass unless that checkpoint handed names back.
    fn end_pass(&mut self) -> Result<Step> {
        self.checkpointer.checkpoint()?;
        // What a checkpoint hands back may be copied before it is over: then it waits in the intake.
        if !self.job.walker.is_done() || self.checkpointer.has_outcomes() || self.bring_back()? {
            return Ok(Step::Checkpointed);
        }
        if self.queue_retries()? || self.queue_outdated()? {
            return Ok(Step::Checkpointed);
        }
        if !std::mem::replace(&mut self.is_cleared, true) && self.clear()? {
            return Ok(Step::Checkpointed);
        }
        if self.queue_missing()? {
            return Ok(Step::Checkpointed);
        }
        unmet::tell(&self.job, &*self.checkpointer.caller, &self.checkpointer.counters)?;
        let totals = Totals::of(&self.counters);
        let totals = match self.job.config.retry {
            Retry::FailedOnly => self.job.catalog.header().totals,
            Retry::WithAll | Retry::All => {
                let (entries, bytes) = (totals.get(Count::EntriesWalked), totals.get(Count::BytesPlanned));
                catalog::Totals { entries, bytes }
            }
        };
        self.checkpointer.finish_pass(totals, self.cost())?;
        Ok(Step::Ended(End::Finished))
    }

    /// Queues the next of what a run that only tries again tries; false if there is no more.
    fn queue_retries(&mut self) -> Result<bool> {
        self.retried = match &mut self.retried {
            Retried::Until(after) => match resume::retry_failed(&self.job, after.take())? {
                Some(last) => Retried::Until(Some(last)),
                None => Retried::Losses(None),
            },
            Retried::Losses(after) => {
                let (last, dirs) = resume::retry_losses(&self.job, after.take())?;
                self.checkpointer.finish_again(&dirs)?;
                last.map_or(Retried::All, |last| Retried::Losses(Some(last)))
            }
            Retried::All => return Ok(false),
        };
        Ok(true)
    }

    /// Queues the next of the names that are links to what this pass has replaced; false if there is no more. An
    /// interrupted run may have replaced something and not come to this.
    fn queue_outdated(&mut self) -> Result<bool> {
        let is_from_bucket = self.job.source.bucket.is_some() && self.job.dest.bucket.is_none();
        let may_be = self.job.links.has_replaced() || (is_from_bucket && self.job.past == Past::Interrupted);
        match &mut self.relinked {
            Scanned::Until(after) if may_be => {
                self.job.is_resealed.store(true, Ordering::Relaxed);
                let last = resume::queue_outdated(&self.job, after.take())?;
                self.relinked = last.map_or(Scanned::All, |last| Scanned::Until(Some(last)));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Queues the next of what `--delete` found missing, in this run or in one before it that did not come to them;
    /// false if there is no more.
    fn queue_missing(&mut self) -> Result<bool> {
        let Scanned::Until(after) = &mut self.restored else { return Ok(false) };
        let (last, queued) = resume::retry_missing(&self.job, after.take())?;
        self.restored = last.map_or(Scanned::All, |last| Scanned::Until(Some(last)));
        Ok(queued > 0)
    }

    /// What this run came to, if it was a whole pass.
    fn cost(&self) -> Option<(Instant, Pass)> {
        let totals = Totals::of(&self.counters);
        let sum = |counts: &[Count]| counts.iter().map(|&count| totals.get(count)).sum::<u64>();
        let pass = Pass {
            elapsed_ms: 0,
            entries: totals.get(Count::EntriesWalked),
            changes: totals.files_made() + sum(&[Count::Refreshed, Count::Adopted, Count::Removed]),
            bytes: totals.get(Count::BytesCopied),
        };
        (self.job.past != Past::Interrupted).then_some((self.started, pass))
    }

    /// Removes what the source no longer has. True if names whose way is free now go round again, or the run is to
    /// stop.
    fn clear(&mut self) -> Result<bool> {
        self.job.is_cleared.store(true, Ordering::Relaxed);
        let clashes: Vec<_> = std::mem::take(&mut *self.job.clashes.lock()).into_iter().collect();
        let mut nodes = Vec::with_capacity(clashes.len());
        for (dir, name) in clashes {
            nodes.push((self.checkpointer.node(dir)?, name));
        }
        let (job, counters) = (self.job.clone(), self.checkpointer.counters.clone());
        // The last of the counters is this thread's own.
        let threads = self.counters.len().saturating_sub(1).min(job.gate.limit() as usize);
        delete::run(&job, &self.checkpointer.caller, &counters, (threads, &self.stop), &nodes)?;
        let is_repeated = !nodes.is_empty();
        nodes.into_iter().for_each(|(dir, name)| job.walker.inject(Work::File(dir, name)));
        Ok(is_repeated || self.stop.is_requested() || job.fatal.lock().is_some())
    }

    /// Names that still wait for a first name go round again; true if there were any.
    fn bring_back(&mut self) -> Result<bool> {
        let reader = self.job.catalog.reader()?;
        let (late, waiting) = (reader.any_late_links(LATE_MAX)?, reader.late_links_len()?);
        drop(reader);
        if late.is_empty() {
            (self.rounds, self.waiting_min) = (0, u64::MAX);
            return Ok(false);
        }
        (self.rounds, self.waiting_min) = match waiting < self.waiting_min {
            true => (1, waiting),
            false => (self.rounds + 1, self.waiting_min),
        };
        if self.rounds > ROUNDS_MAX {
            return Err(Error::catalog("", "hard links wait for names that never come"));
        }
        self.job.is_resealed.store(true, Ordering::Relaxed);
        self.checkpointer.reopen(&late)?;
        for (_, _, dir, name) in late {
            let node = self.checkpointer.node(dir)?;
            self.job.walker.inject(Work::File(node, name));
        }
        Ok(true)
    }

    /// The last checkpoint of a run that did not finish, once the shards have drained: what they brought home.
    pub fn conclude(mut self, end: Result<End>) -> End {
        let fatal = self.job.fatal.lock().clone();
        match (end, fatal) {
            (Ok(End::Finished), None) => End::Finished,
            (Err(error), _) => End::Stopped(error),
            (Ok(_), fatal) => match (self.checkpointer.checkpoint(), fatal) {
                (_, Some(error)) | (Err(error), None) => End::Stopped(error),
                (Ok(()), None) => End::Interrupted,
            },
        }
    }
}
