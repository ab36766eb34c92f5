//! A shard: one thread, one interpreter, one arena, and a bounded number of transfers between them.
//!
//! ```text
//! loop   fill   names from the current listing, work from the walker, while streams and leases allow
//!        reap   submit what is queued, wait for completions, drive the tasks they belong to
//! task   Small  a lease, ReadWhole in flight, then place_small            Large  many blocks in flight, chunk by chunk
//! ```
//!
//! Everything that became of an object leaves as an [`Outcome`] before the directory's counter is lowered. When the walker is
//! stopped a shard starts nothing, drains what is in flight, and ends (I3).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_deque::Worker;

use crate::catalog::{DirId, DirStamp, DirState, FileRecord, Record};
use crate::config::{DIR_CACHE_PER_SHARD, UNSTABLE_ATTEMPTS_MAX};
use crate::error::{Cause, Error, Result};
use crate::job::{Job, Place, Ticket};
use crate::large::{LargeFile, LargeTask, Turn};
use crate::links::LinkKey;
use crate::listing::{Entry, Listing, Opened, open_pair};
use crate::outcome::{Intake, Outcome, What};
use crate::plan::Skip;
use crate::report::{Count, Counters, Latency};
use crate::ring::{Answer, Asked, Caller, Completion, FixedBuffers, Interpreter, Lease, Name, Op, Side, Stat};
use crate::transfer::{Ending, Prepared, Work as Object, ending_of, is_fatal, prepare};
use crate::walk::{DestDir, DirCache, DirNode, DirPair, Queued, Walker, Work};

/// Longest sleep of a shard with nothing to do: it is woken when there is.
const IDLE: Duration = Duration::from_millis(50);
/// Longest wait for completions.
const REAP: Duration = Duration::from_millis(100);

/// An object on its way.
#[derive(Debug)]
struct Errand {
    /// Where it is.
    place: Place,
    /// Whom to tell.
    ticket: Ticket,
    /// What the catalog knows of it.
    record: Option<FileRecord>,
    /// Which attempt this is, from 1.
    attempt: u32,
}

/// One object in flight.
#[derive(Debug)]
enum Task {
    /// A small file, waiting for its lease or its bytes.
    Small { errand: Errand, stat: Stat, group: Option<LinkKey> },
    /// This shard's part in a large file.
    Large(LargeTask, Part),
}

/// Whose part in a large file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The shard's that opened the file.
    Opener,
    /// Another shard's; a work item of its own.
    Helper,
}

/// What a shard reports when it ends.
#[derive(Debug, Default)]
pub struct ShardReport {
    /// Latencies it measured.
    pub latency: Latency,
}

/// Where a shard takes names from.
enum Current {
    /// A directory it lists itself.
    Listing(Box<Listing>),
    /// Names another shard listed.
    Slice(Box<Listing>),
}

/// One shard.
pub struct Shard<I> {
    /// Its number.
    index: usize,
    /// How many there are.
    shards: usize,
    /// The job.
    job: Arc<Job>,
    /// Where outcomes go.
    intake: Arc<Intake>,
    /// Answers straight-line work.
    caller: Arc<dyn Caller>,
    /// Answers what is asynchronous.
    interpreter: I,
    /// Its memory.
    buffers: FixedBuffers,
    /// Its own queue.
    worker: Worker<Work>,
    /// Its open directories.
    cache: DirCache<DirPair>,
    /// Where it takes names from.
    current: Option<Current>,
    /// Objects in flight.
    tasks: Vec<Option<Task>>,
    /// Unused indexes of `tasks`.
    free: Vec<usize>,
    /// Tasks that wait for a lease.
    starved: VecDeque<usize>,
    /// Task and start of each operation in flight, by token.
    flights: Vec<(usize, Instant)>,
    /// Unused tokens.
    free_flights: Vec<u32>,
    /// Completions reaped and not yet driven.
    completions: Vec<Completion>,
    /// What it counts.
    counters: Arc<Counters>,
    /// What it measured.
    report: ShardReport,
}

/// What a shard is made of.
pub struct Parts<I> {
    /// Its number.
    pub index: usize,
    /// How many there are.
    pub shards: usize,
    /// The job.
    pub job: Arc<Job>,
    /// Where outcomes go.
    pub intake: Arc<Intake>,
    /// Answers straight-line work.
    pub caller: Arc<dyn Caller>,
    /// Answers what is asynchronous.
    pub interpreter: I,
    /// Its memory.
    pub buffers: FixedBuffers,
    /// Its own queue.
    pub worker: Worker<Work>,
    /// What it counts.
    pub counters: Arc<Counters>,
}

impl<I: Interpreter> Shard<I> {
    /// A shard at rest.
    pub fn new(parts: Parts<I>) -> Shard<I> {
        let root = DirPair { source: parts.job.source.handle.clone(), dest: parts.job.dest.handle.clone() };
        Shard {
            index: parts.index,
            shards: parts.shards,
            intake: parts.intake,
            caller: parts.caller,
            interpreter: parts.interpreter,
            buffers: parts.buffers,
            worker: parts.worker,
            cache: DirCache::new(root, DIR_CACHE_PER_SHARD),
            current: None,
            tasks: Vec::new(),
            free: Vec::new(),
            starved: VecDeque::new(),
            flights: Vec::new(),
            free_flights: Vec::new(),
            completions: Vec::new(),
            counters: parts.counters,
            report: ShardReport::default(),
            job: parts.job,
        }
    }

    /// Works until the walker is stopped and everything in flight is back. Returns the interpreter, idle, for its figures.
    pub fn run(mut self) -> (I, ShardReport) {
        while self.turn() {}
        (self.interpreter, self.report)
    }

    /// One turn of the loop; false when the shard is at its end.
    pub fn turn(&mut self) -> bool {
        self.fill();
        if self.active() > 0 {
            self.reap();
            return true;
        }
        if self.job.walker.is_stopped() {
            return false;
        }
        match self.intake.is_full() {
            true => std::thread::sleep(Duration::from_millis(1)),
            false => self.job.walker.sleep(IDLE),
        }
        true
    }

    /// Objects in flight.
    pub fn active(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    /// Streams this shard may use: its part of them, or all when another shard has nothing to do.
    fn share(&self) -> usize {
        let limit = self.job.gate.limit() as usize;
        match self.job.walker.is_hungry() {
            true => limit,
            false => limit.div_ceil(self.shards),
        }
    }

    fn walker(&self) -> &Walker {
        &self.job.walker
    }

    /// Starts objects while there are names, streams and room. Ends: every turn starts an object or runs out of something.
    fn fill(&mut self) {
        while self.active() < self.share() && self.starved.is_empty() && !self.intake.is_full() {
            if self.walker().is_stopped() || !self.job.gate.try_acquire() {
                return;
            }
            let is_started = match self.next_errand() {
                Some(errand) => self.begin(errand),
                None => Started::Nothing,
            };
            match is_started {
                Started::InFlight => {}
                Started::Ended => self.job.gate.release(),
                Started::Nothing => {
                    self.job.gate.release();
                    return;
                }
            }
        }
    }

    /// The next object to work on. Ends: every turn takes a name or a work item, or returns.
    fn next_errand(&mut self) -> Option<Errand> {
        loop {
            let Some(mut current) = self.current.take() else {
                if let Some(errand) = self.take_work()? {
                    return Some(errand);
                }
                continue;
            };
            let listing = match &mut current {
                Current::Listing(listing) | Current::Slice(listing) => listing,
            };
            match listing.next(&self.job, &*self.caller) {
                Ok(Some(entry)) => {
                    let (dir, open) = (listing.dir.clone(), listing.open.clone());
                    if self.walker().is_hungry()
                        && let Some(half) = listing.split()
                    {
                        dir.hold();
                        self.walker().share(&self.worker, Work::Slice(dir.clone(), half));
                    }
                    self.current = Some(current);
                    if let Some(errand) = self.meet(dir, open, entry) {
                        return Some(errand);
                    }
                    if self.walker().is_stopped() || self.intake.is_full() {
                        return None;
                    }
                }
                Ok(None) => self.end_current(current),
                Err(error) => self.fail_listing(current, error),
            }
        }
    }

    /// A work item taken from the walker: an object, or `None` within when it was something else. The outer `None`: no work.
    fn take_work(&mut self) -> Option<Option<Errand>> {
        let job = self.job.clone();
        match job.walker.take(&self.worker)? {
            Work::List(dir) => self.open_listing(dir),
            Work::Slice(dir, entries) => match open_pair(&job, &*self.caller, &mut self.cache, &dir) {
                Ok(open) => self.current = Some(Current::Slice(Box::new(Listing::of_slice(dir, open, entries)))),
                Err(error) => {
                    self.fail_dir(&dir, error);
                    self.job.walker.complete();
                }
            },
            Work::File(dir, name) => return Some(self.single(dir, name)),
            Work::Segments(file) => match LargeTask::helper(file) {
                Some(task) => {
                    let index = self.insert(Task::Large(task, Part::Helper));
                    self.drive(index);
                }
                None => job.walker.complete(),
            },
        }
        Some(None)
    }

    fn open_listing(&mut self, dir: Arc<DirNode>) {
        self.counters.add(Count::EntriesWalked, dir.parent.is_none() as u64);
        match Listing::open(&self.job, &*self.caller, &mut self.cache, &dir) {
            Ok(Opened::Listing(listing)) => {
                match self.is_as_recorded(&dir) {
                    Ok(true) => {}
                    Ok(false) => dir.touch(),
                    Err(error) => self.job.end_with(error),
                }
                self.current = Some(Current::Listing(listing));
            }
            Ok(Opened::LeftOut(reason)) => {
                self.job.note_left_out(&dir, reason);
                self.release_dir(&dir);
            }
            Err(error) => self.fail_dir(&dir, error),
        }
    }

    /// Whether a directory's own metadata is what the last pass gave its copy; its atime counts for nothing.
    fn is_as_recorded(&self, dir: &DirNode) -> Result<bool> {
        if !self.job.has_records || dir.dest() == DestDir::Created {
            return Ok(false);
        }
        let recorded = self.job.catalog.reader()?.dir(dir.id)?.and_then(|record| record.stamp);
        let (Some(recorded), Some(now)) = (recorded, dir.stamp()) else { return Ok(false) };
        Ok(DirStamp { atime: now.atime, ..recorded } == now)
    }

    fn end_current(&mut self, current: Current) {
        match current {
            Current::Listing(listing) => self.release_dir(&listing.dir),
            Current::Slice(listing) => {
                self.release_dir(&listing.dir);
                self.job.walker.complete();
            }
        }
    }

    fn fail_listing(&mut self, current: Current, error: Error) {
        let (Current::Listing(listing) | Current::Slice(listing)) = &current;
        let dir = listing.dir.clone();
        if self.stops(&error) {
            return;
        }
        self.push_failure(&dir, Name::default(), error, 1, None);
        self.end_current(current);
    }

    /// A directory that cannot be opened: recorded under its own number with an empty name.
    fn fail_dir(&mut self, dir: &Arc<DirNode>, error: Error) {
        if self.stops(&error) {
            return;
        }
        if error.cause == Cause::Vanished {
            self.counters.add(Count::Vanished, 1);
        } else {
            self.push_failure(dir, Name::default(), error, 1, None);
        }
        self.release_dir(dir);
    }

    /// Ends the job if the error is of that class.
    fn stops(&self, error: &Error) -> bool {
        if is_fatal(error) {
            self.job.end_with(error.clone());
        }
        is_fatal(error)
    }

    /// A name handed back by a checkpoint or left by an interrupted run.
    fn single(&mut self, dir: Arc<DirNode>, name: Name) -> Option<Errand> {
        let opened = open_pair(&self.job, &*self.caller, &mut self.cache, &dir);
        let record = self.job.catalog.reader().and_then(|reader| reader.entry(dir.id, &name));
        match (opened, record) {
            (Ok(open), Ok(record)) => {
                dir.touch();
                Some(self.errand(dir, open, name, file_record(record), Ticket::Alone))
            }
            (Err(error), _) | (_, Err(error)) => {
                if !self.stops(&error) {
                    self.push_failure(&dir, name, error, 1, None);
                    self.job.walker.complete();
                }
                None
            }
        }
    }

    fn errand(
        &self,
        dir: Arc<DirNode>,
        open: DirPair,
        name: Name,
        record: Option<FileRecord>,
        ticket: Ticket,
    ) -> Errand {
        let dest_name = self.job.dest_name(&dir, &name).clone();
        Errand { place: Place { dir, open, name, dest_name }, ticket, record, attempt: 1 }
    }

    /// Looks at a name of a listing: a directory is queued, an object that is done is counted, any other is an errand.
    fn meet(&mut self, dir: Arc<DirNode>, open: DirPair, entry: Entry) -> Option<Errand> {
        self.counters.add(Count::EntriesWalked, 1);
        if entry.kind == libc::DT_DIR {
            if let Err(error) = self.find_dir(&dir, entry.name, entry.record) {
                self.job.end_with(error);
            }
            return None;
        }
        let record = file_record(entry.record);
        if record.as_ref().is_some_and(|record| self.job.progress.is_handled(record)) {
            self.counters.add(Count::Unchanged, 1);
            return None;
        }
        dir.hold();
        Some(self.errand(dir, open, entry.name, record, Ticket::Listed))
    }

    /// Queues a directory found in `dir`, unless this pass has seen to it already.
    fn find_dir(&mut self, dir: &Arc<DirNode>, name: Name, record: Option<Record>) -> Result<()> {
        let known = match record {
            Some(Record::Dir(id)) => Some(id),
            _ => None,
        };
        if let Some(id) = known
            && self.is_seen_to(id)?
        {
            self.counters.add(Count::Unchanged, 1);
            return Ok(());
        }
        if known.is_none() {
            dir.touch();
        }
        let id = known.unwrap_or_else(|| DirId(self.job.new_id()));
        let child = DirNode::child(dir, id, name.clone());
        self.push(dir, name, What::Found(id));
        match self.job.walker.push_dir(&self.worker, child) {
            Queued::InMemory | Queued::Spilled => Ok(()),
        }
    }

    /// Whether a known directory was listed in this pass, or waits in the catalog for it.
    fn is_seen_to(&self, id: DirId) -> Result<bool> {
        let reader = self.job.catalog.reader()?;
        let is_listed = reader.dir(id)?.is_some_and(|dir| dir.listed_batch >= self.job.progress.pass_start_batch);
        let next = reader.open_dirs_below(Some(DirId(id.0 + 1)), Some(DirState::Unlisted), 1)?;
        Ok(is_listed || next.first().is_some_and(|(unlisted, _)| *unlisted == id))
    }

    /// Starts one object. Ends: each further turn is a further attempt, and their number is bounded.
    fn begin(&mut self, mut errand: Errand) -> Started {
        loop {
            let job = self.job.clone();
            let mut group = None;
            let prepared = prepare(&job, &*self.caller, &errand.place, errand.record.as_ref(), &mut group);
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

    fn open_large(&mut self, errand: &Errand, stat: &Stat, group: Option<LinkKey>) -> Result<LargeFile> {
        let (job, caller, place) = (&*self.job, &*self.caller, &errand.place);
        let object = Object { job, caller, place, stat, group };
        LargeFile::open(&object, errand.record.as_ref(), errand.ticket, errand.attempt)
    }

    fn begin_large(&mut self, errand: &Errand, file: LargeFile) {
        let file = Arc::new(file);
        self.counters.add(Count::BytesPlanned, file.stat.size - file.durable_bytes());
        errand.place.dir.touch();
        self.push(&errand.place.dir, errand.place.name.clone(), What::Begun(file.record(0)));
        if file.is_shareable() {
            for _ in 1..self.shards {
                self.walker().share(&self.worker, Work::Segments(file.clone()));
            }
        }
        let index = self.insert(Task::Large(LargeTask::first(file), Part::Opener));
        self.drive(index);
    }

    fn insert(&mut self, task: Task) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.tasks[index] = Some(task);
                index
            }
            None => {
                self.tasks.push(Some(task));
                self.tasks.len() - 1
            }
        }
    }

    fn remove(&mut self, index: usize) -> Option<Task> {
        let task = self.tasks[index].take();
        self.free.push(index);
        task
    }

    /// Asks all that a task has to ask now. Ends: a task waits when its depth or the leases are used up.
    fn drive(&mut self, index: usize) {
        let job = self.job.clone();
        loop {
            let turn = match self.tasks[index].as_mut() {
                Some(Task::Small { errand, stat, .. }) => {
                    let len = stat.size as usize;
                    let Some(lease) = self.buffers.acquire(len) else {
                        self.starved.push_back(index);
                        return;
                    };
                    let (at, name) = (errand.place.open.source.clone(), errand.place.name.clone());
                    self.ask(index, Side::Source, Op::ReadWhole { at, name, lease, len });
                    return;
                }
                Some(Task::Large(task, _)) => task.turn(&job, &*self.caller, &mut self.buffers),
                None => return,
            };
            match turn {
                Turn::Ask(side, op) => self.ask(index, side, op),
                Turn::Wait => return,
                Turn::Starved => {
                    self.starved.push_back(index);
                    return;
                }
                Turn::Written(bytes, range) => self.written(index, bytes, range),
                Turn::Left(is_last) => {
                    self.leave_large(index, is_last);
                    return;
                }
            }
        }
    }

    fn written(&mut self, index: usize, bytes: u64, range: crate::catalog::Range) {
        let Some(Task::Large(task, _)) = &self.tasks[index] else { return };
        let file = task.file.clone();
        self.counters.add(Count::BytesCopied, bytes);
        self.counters.add(Count::BytesSkipped, range.len - bytes.min(range.len));
        self.push(&file.place.dir, file.place.name.clone(), What::Written(file.id, range));
        self.intake.add_bytes(bytes);
    }

    /// Asks an operation; one that is answered at once is driven at once.
    fn ask(&mut self, index: usize, side: Side, op: Op) {
        let token = self.free_flights.pop().unwrap_or_else(|| {
            self.flights.push((0, Instant::now()));
            (self.flights.len() - 1) as u32
        });
        self.flights[token as usize] = (index, Instant::now());
        if let Asked::Answered(completion) = self.interpreter.ask(token, side, op) {
            self.completions.push(completion);
        }
    }

    /// Submits, waits, and drives what came back. While only small files are in flight, half of them are waited for, so that
    /// submissions go in batches.
    fn reap(&mut self) {
        if self.completions.is_empty() {
            let in_flight = self.interpreter.in_flight();
            let has_large = self.tasks.iter().flatten().any(|task| matches!(task, Task::Large(..)));
            let want = if has_large { 1 } else { (in_flight / 2).max(1) };
            self.interpreter.wait(want, REAP, &mut self.completions);
        } else {
            self.interpreter.wait(0, Duration::ZERO, &mut self.completions);
        }
        for completion in std::mem::take(&mut self.completions) {
            self.complete(completion);
        }
        for _ in 0..self.starved.len() {
            let Some(index) = self.starved.pop_front() else { return };
            self.drive(index);
        }
    }

    fn complete(&mut self, completion: Completion) {
        let (index, started) = self.flights[completion.token as usize];
        self.free_flights.push(completion.token);
        match &completion.op {
            Op::Write { .. } => self.report.latency.dest.record(started.elapsed()),
            _ => self.report.latency.source.record(started.elapsed()),
        }
        let job = self.job.clone();
        match self.tasks[index].as_mut() {
            Some(Task::Large(task, _)) => {
                if let Some((side, op)) = task.advance(&job, completion, &mut self.buffers) {
                    self.ask(index, side, op);
                }
                self.drive(index);
            }
            Some(Task::Small { .. }) => self.place_small(index, completion),
            None => unreachable!("I3: a task stays until its operations are back"),
        }
    }

    /// The bytes of a small file are here.
    fn place_small(&mut self, index: usize, completion: Completion) {
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

    fn place_bytes(
        &mut self,
        errand: &Errand,
        stat: &Stat,
        group: Option<LinkKey>,
        lease: Lease,
        result: std::result::Result<Answer, crate::error::Errno>,
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
    fn leave_large(&mut self, index: usize, is_last: bool) {
        let Some(Task::Large(task, part)) = self.remove(index) else { return };
        let file = task.file;
        if is_last && self.finish_large(&file) == Started::Ended {
            self.job.gate.release();
        }
        if part == Part::Helper {
            self.job.walker.complete();
        }
    }

    fn finish_large(&mut self, file: &LargeFile) -> Started {
        let Some(ending) = file.finish(&self.job, &*self.caller) else { return Started::Ended };
        let (ticket, attempt) = (file.ticket, file.attempt);
        let errand = Errand { place: file.place.clone(), ticket, record: None, attempt };
        match self.end(errand, file.group, ending) {
            Some(errand) => self.begin(errand),
            None => Started::Ended,
        }
    }

    /// Tells what became of an object. Returns it if it is to be tried again.
    fn end(&mut self, mut errand: Errand, group: Option<LinkKey>, ending: Ending) -> Option<Errand> {
        let dir = errand.place.dir.clone();
        let name = errand.place.name.clone();
        match ending {
            Ending::Changed if errand.attempt < UNSTABLE_ATTEMPTS_MAX => {
                errand.attempt += 1;
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
            Ending::Further(key, stamp) => {
                dir.touch();
                self.push(&dir, name, What::Further(key, stamp));
            }
            Ending::IsDir => {
                if let Err(error) = self.find_dir(&dir, name, None) {
                    self.job.end_with(error);
                }
            }
            Ending::Copied(copied) => {
                dir.touch();
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

    fn push(&self, dir: &Arc<DirNode>, name: Name, what: What) {
        self.intake.push(self.index, Outcome { dir: dir.clone(), name, what });
    }

    fn push_failure(&self, dir: &Arc<DirNode>, name: Name, error: Error, attempts: u32, group: Option<LinkKey>) {
        self.push(dir, name, What::Failed { error, attempts, group });
    }

    /// The last entry of a directory, or its listing, has its outcome.
    fn release_dir(&self, dir: &Arc<DirNode>) {
        if dir.release() {
            self.push(dir, Name::default(), What::Listed);
            self.job.walker.complete();
        }
    }
}

/// What starting an object came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    /// It is under way and holds its stream.
    InFlight,
    /// It has its outcome already.
    Ended,
    /// There was none.
    Nothing,
}

fn file_record(record: Option<Record>) -> Option<FileRecord> {
    match record {
        Some(Record::File(record)) => Some(record),
        _ => None,
    }
}
