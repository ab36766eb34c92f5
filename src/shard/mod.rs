//! A shard: one thread, one interpreter, one arena, and a bounded number of transfers between them.
//!
//! ```text
//! loop   fill   names from the current listing, work from the walker, while streams and leases allow
//!        reap   submit what is queued, wait for completions, drive the tasks they belong to
//! task   Small  a lease, ReadWhole in flight, then place_small            Large  many blocks in flight, chunk by chunk
//! ```
//!
//! Everything that became of an object leaves as an outcome before the directory's counter is lowered. When the walker
//! is stopped a shard starts nothing, drains what is in flight, and ends (I3).

mod names;
mod objects;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_deque::{Injector, Worker};

use crate::boards::Open;
use crate::errand::{Errand, Errands};
use crate::job::Job;
use crate::large::{Goal, LargeFile, LargeTask, Reading, Turn};
use crate::links::LinkKey;
use crate::listing::Listing;
use crate::outcome::{Intake, What};
use crate::report::{Activity, Busy, Count, Counters, Latency};
use crate::ring::{Access, Asked, Caller, Completion, FixedBuffers, Interpreter, Op, Side};
use crate::transfer::Subject;
use crate::walk::{DirPair, OpenDirs, Walker, Work};

/// Longest sleep of a shard with nothing to do: it is woken when there is.
const IDLE: Duration = Duration::from_millis(50);
/// Longest wait for completions.
const REAP: Duration = Duration::from_millis(100);
/// Most open objects that one shard tells of.
const OPEN_TOLD_MAX: usize = 256;

/// One object in flight.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most tasks are small files: a box for each would cost an allocation per file"
)]
enum Task {
    /// A small file, waiting for its lease or its bytes, to be copied unless it has the CRC64 that is known.
    Small { errand: Errand, subject: Subject, group: Option<LinkKey> },
    /// This shard's part in a large file.
    Large(LargeTask, Part),
    /// An object that somebody has a lease on, until it is tried again.
    Leased(Errand, Instant),
}

impl Task {
    /// What is told of it; nothing of another shard's file, which that one tells of.
    fn seen(&self, began: Instant) -> Option<Open> {
        let (place, size, done) = match self {
            Task::Small { errand, subject, .. } => (&errand.place, subject.stat.size, 0),
            Task::Large(task, Part::Opener) => (&task.file.place, task.file.stat.size, task.file.done()),
            Task::Large(_, Part::Helper) => return None,
            Task::Leased(errand, _) => (&errand.place, 0, 0),
        };
        Some(Open { path: place.dir.path_of(&place.name), size, done, began })
    }
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

/// What all shards share besides the walker's queues.
#[derive(Debug, Default)]
pub struct Common {
    /// Large files to help with.
    help: Injector<Arc<LargeFile>>,
    /// What shards that have left were taking names from.
    begun: Injector<Current>,
}

/// Where a shard takes names from.
#[derive(Debug)]
enum Current {
    /// A directory it lists itself.
    Listing(Box<Listing>),
    /// Names another shard listed.
    Slice(Box<Listing>),
}

/// One shard.
pub struct Shard<I> {
    /// What it does with names.
    errands: Errands,
    /// Answers what is asynchronous.
    interpreter: I,
    /// Its memory.
    buffers: FixedBuffers,
    /// What it shares with the others.
    common: Arc<Common>,
    /// Its open directories.
    dirs: OpenDirs,
    /// Where it takes names from.
    current: Option<Current>,
    /// Objects in flight.
    tasks: Vec<Option<Task>>,
    /// By index of `tasks`: when it was begun.
    began: Vec<Instant>,
    /// Unused indexes of `tasks`.
    free: Vec<usize>,
    /// Tasks that wait for memory, a checkpoint, their stream, the limits or their time; marks that are gone count for
    /// nothing.
    starved: VecDeque<usize>,
    /// By index of `tasks`: whether it waits in `starved`.
    is_starved: Vec<bool>,
    /// Whether one of them waits for a lease: nothing new is begun before it has one.
    is_short: bool,
    /// Task and start of each operation in flight, by token.
    flights: Vec<(usize, Instant)>,
    /// Unused tokens.
    free_flights: Vec<u32>,
    /// Writes among them.
    writes: usize,
    /// Told what this thread is busy with.
    busy: Arc<Busy>,
    /// Completions reaped and not yet driven.
    completions: Vec<Completion>,
    /// How long the limits of bytes or operations have nothing left, as far as this turn met them.
    held: Option<Duration>,
    /// What it measured.
    report: ShardReport,
}

/// What a shard is made of.
pub struct Parts {
    /// Its number.
    pub index: usize,
    /// The job.
    pub job: Arc<Job>,
    /// Where outcomes go.
    pub intake: Arc<Intake>,
    /// Answers straight-line work.
    pub caller: Arc<dyn Caller>,
    /// Its memory.
    pub buffers: FixedBuffers,
    /// Its own queue.
    pub worker: Worker<Work>,
    /// What all shards share.
    pub common: Arc<Common>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Told what its thread is busy with.
    pub busy: Arc<Busy>,
    /// Directories it may keep open.
    pub cached_dirs: usize,
}

impl<I: Interpreter> Shard<I> {
    /// A shard at rest, whose asynchronous operations `interpreter` answers.
    pub fn new(parts: Parts, interpreter: I) -> Shard<I> {
        let root = DirPair { source: parts.job.source.handle.clone(), dest: parts.job.dest.handle.clone() };
        let dirs = OpenDirs::new(root, parts.cached_dirs);
        let Parts { index, job, intake, caller, buffers, worker, common, counters, cached_dirs: _, busy } = parts;
        Shard {
            errands: Errands { index, job, intake, caller, worker, counters },
            interpreter,
            buffers,
            common,
            dirs,
            current: None,
            tasks: Vec::new(),
            began: Vec::new(),
            free: Vec::new(),
            starved: VecDeque::new(),
            is_starved: Vec::new(),
            is_short: false,
            flights: Vec::new(),
            free_flights: Vec::new(),
            writes: 0,
            busy,
            completions: Vec::new(),
            held: None,
            report: ShardReport::default(),
        }
    }

    /// Works until the walker is stopped and everything in flight is back, or until there are more threads than there
    /// should be and this one has nothing in its hands. Returns the interpreter, idle, for its figures, and its queue.
    pub fn run(mut self) -> (I, ShardReport, Worker<Work>) {
        loop {
            let pulse = self.turn();
            self.tell();
            let is_over = pulse == Pulse::Over || self.leaves();
            match pulse {
                _ if is_over => return (self.interpreter, self.report, self.errands.worker),
                Pulse::Busy => {}
                Pulse::Idle => self.rest(),
                Pulse::Over => {}
            }
        }
    }

    /// Waits for work, or for leave to go on: what waits for a checkpoint waits for the destination.
    fn rest(&self) {
        let is_full = self.errands.intake.is_full();
        self.busy.note(match () {
            () if self.held.is_some() => Activity::Limit,
            () if is_full => Activity::WriteDest,
            () => Activity::NoWork,
        });
        match self.may_not_begin() {
            true => std::thread::sleep(self.pause()),
            false => self.errands.job.walker.sleep(IDLE),
        }
        self.busy.note(Activity::Computing);
    }

    /// Whether this thread is to end: there are more than there should be, and nothing is in flight here. What is in
    /// its queue others steal, and they go on with the directory it has begun.
    fn leaves(&mut self) -> bool {
        if self.active() > 0 || !self.errands.job.gate.is_crowded() {
            return false;
        }
        if let Some(current) = self.current.take() {
            self.common.begun.push(current);
            self.walker().notify();
        }
        self.errands.job.gate.try_leave()
    }

    /// Tells what is open, if somebody asks.
    fn tell(&mut self) {
        let (boards, index) = (&self.errands.job.boards, self.errands.index);
        let Some(question) = boards.question(index) else { return };
        let began = |index: usize| self.began[index];
        let tasks = self.tasks.iter().enumerate();
        let open = tasks.filter_map(|(index, task)| task.as_ref()?.seen(began(index)));
        let open = open.take(OPEN_TOLD_MAX).collect();
        boards.answer(index, question, open, &mut self.report.latency);
    }

    /// Whether there is, or may be, work that has to wait: for a checkpoint, a stream, or the limits.
    fn may_not_begin(&self) -> bool {
        let (gate, intake) = (&self.errands.job.gate, &self.errands.intake);
        self.active() > 0 || self.held.is_some() || intake.is_full() || gate.is_full()
    }

    /// How long a shard rests that has work and may not begin it: until the limits have something again, else 1 ms, and
    /// longer where there are many shards, so that the rest of them together cost no more than a small part of a core.
    fn pause(&self) -> Duration {
        let gate = &self.errands.job.gate;
        let usual = Duration::from_micros(50 * gate.workers() as u64);
        let wanted = match self.held {
            Some(held) => held,
            None if gate.is_paused() => IDLE,
            None => usual,
        };
        wanted.clamp(Duration::from_millis(1), IDLE)
    }

    /// One turn of the loop. It waits for completions at most, never for work.
    pub fn turn(&mut self) -> Pulse {
        self.held = None;
        self.fill();
        if self.active() > 0 {
            self.reap();
            let is_still = self.interpreter.in_flight() == 0 && self.completions.is_empty();
            // Whatever is open then waits for others: for a checkpoint, a stream, or the limits.
            return match is_still && self.active() > 0 {
                true => Pulse::Idle,
                false => Pulse::Busy,
            };
        }
        match self.errands.job.walker.is_stopped() {
            true => Pulse::Over,
            false => Pulse::Idle,
        }
    }

    /// Objects in flight.
    pub fn active(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    /// Streams this shard may use: its part of them, or all when another shard has nothing to do. A thread of system
    /// calls works on one object after the other: those it took would only be kept from the others.
    fn share(&self) -> usize {
        let gate = &self.errands.job.gate;
        match self.errands.job.file_depth > 1 && self.errands.job.walker.is_hungry() {
            true => gate.limit() as usize,
            false => gate.share(),
        }
    }

    fn walker(&self) -> &Walker {
        &self.errands.job.walker
    }

    /// Starts objects while there are names, streams and room. Ends: every turn starts an object or runs out of
    /// something.
    fn fill(&mut self) {
        while self.active() < self.share() && !self.is_short && !self.errands.intake.is_full() {
            let is_over = self.walker().is_stopped() || self.errands.job.gate.is_crowded();
            if is_over || self.is_held() || !self.errands.job.gate.try_acquire() {
                return;
            }
            let is_started = match self.next_errand() {
                Some(errand) => self.begin(errand),
                None => Started::Nothing,
            };
            if is_started != Started::Nothing {
                self.errands.job.gate.limits.ops.charge(1);
            }
            match is_started {
                Started::InFlight => {}
                Started::Ended => self.errands.job.gate.release(),
                Started::Nothing => {
                    self.errands.job.gate.release();
                    return;
                }
            }
        }
    }

    /// Whether the limit of operations is used up.
    fn is_held(&mut self) -> bool {
        let wait = self.errands.job.gate.limits.ops.wait();
        wait.is_err_and(|wait| self.hold(wait))
    }

    /// Notes that the limits have nothing left for so long.
    fn hold(&mut self, wait: Duration) -> bool {
        self.held = Some(self.held.map_or(wait, |held| held.min(wait)));
        true
    }

    fn insert(&mut self, task: Task) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.tasks[index] = Some(task);
                self.began[index] = Instant::now();
                index
            }
            None => {
                self.tasks.push(Some(task));
                self.began.push(Instant::now());
                self.tasks.len() - 1
            }
        }
    }

    /// Notes that a task waits for a lease, for a checkpoint, for its stream, or for the limits.
    fn starve(&mut self, index: usize) {
        self.is_starved.resize(self.tasks.len(), false);
        if !std::mem::replace(&mut self.is_starved[index], true) {
            self.starved.push_back(index);
        }
    }

    /// Drives the tasks that waited. A task that is gone has left its mark; the place may be another task's by now.
    /// The first for which the limits have nothing left keeps its place unless it has just had something, and so do
    /// those behind it: a small file would otherwise wait for the end of a large one that always asks before it. All
    /// are asked where some are to rest.
    fn feed_starved(&mut self) {
        self.is_short = false;
        let held = self.held.take();
        for _ in 0..self.starved.len() {
            let Some(index) = self.starved.pop_front() else { break };
            let under_way = self.interpreter.in_flight() + self.completions.len();
            if std::mem::take(&mut self.is_starved[index]) {
                self.drive(index);
            }
            if self.held.is_some() && !self.errands.job.gate.is_over() {
                let had_nothing = self.interpreter.in_flight() + self.completions.len() == under_way;
                if had_nothing && self.starved.back() == Some(&index) {
                    self.starved.rotate_right(1);
                }
                break;
            }
        }
        if let Some(wait) = held {
            self.hold(wait);
        }
    }

    fn remove(&mut self, index: usize) -> Option<Task> {
        let task = self.tasks[index].take();
        if let Some(mark) = self.is_starved.get_mut(index) {
            *mark = false;
        }
        self.free.push(index);
        task
    }

    /// Asks all that a task has to ask now. Ends: a task waits when its depth or the leases are used up.
    fn drive(&mut self, index: usize) {
        let job = self.errands.job.clone();
        loop {
            let turn = match self.tasks[index].as_mut() {
                Some(Task::Small { errand, subject: Subject { stat, .. }, .. }) => {
                    let len = stat.size as usize;
                    let Some(lease) = self.buffers.acquire(len) else {
                        self.is_short = true;
                        self.starve(index);
                        return;
                    };
                    if let Err(wait) = job.gate.limits.bytes.take(len as u64)
                        && !job.walker.is_stopped()
                    {
                        self.buffers.release(lease);
                        self.hold(wait);
                        self.starve(index);
                        return;
                    }
                    let (at, name) = (errand.place.open.source.clone(), errand.place.name.clone());
                    let access = Access::Read;
                    self.ask(index, Side::Source, Op::ReadWhole { at, name, access, lease, len });
                    return;
                }
                Some(Task::Large(task, _)) => {
                    let reading = if self.errands.intake.is_full() { Reading::Paused } else { Reading::Allowed };
                    task.turn(&job, &*self.errands.caller, &mut self.buffers, reading)
                }
                Some(Task::Leased(_, until)) if Instant::now() < *until && !job.walker.is_stopped() => {
                    return self.starve(index);
                }
                Some(Task::Leased(..)) => return self.try_leased(index),
                None => return,
            };
            match turn {
                Turn::Ask(side, op) => self.ask(index, side, op),
                Turn::Wait => return,
                Turn::Starved => {
                    self.is_short = true;
                    self.starve(index);
                    return;
                }
                Turn::Parked => {
                    self.starve(index);
                    return;
                }
                Turn::Held(wait) => {
                    self.hold(wait);
                    self.starve(index);
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
        self.errands.counters.add(Count::BytesCopied, bytes);
        self.errands.counters.add(Count::BytesSkipped, range.len - bytes.min(range.len));
        if file.goal() != Goal::Copy {
            return;
        }
        self.errands.intake.add_bytes(bytes);
        let Some(range) = file.recorded(range) else { return };
        file.note_unsynced(&self.errands.job);
        self.errands.push(&file.place.dir, file.place.name.clone(), What::Written(file.id, range));
        file.note_told(&range);
    }

    /// Asks an operation; one that is answered at once is driven at once.
    fn ask(&mut self, index: usize, side: Side, op: Op) {
        let token = self.free_flights.pop().unwrap_or_else(|| {
            self.flights.push((0, Instant::now()));
            (self.flights.len() - 1) as u32
        });
        self.flights[token as usize] = (index, Instant::now());
        self.writes += usize::from(matches!(op, Op::Write { .. }));
        self.busy.set(op.activity(side));
        if let Asked::Answered(completion) = self.interpreter.ask(token, side, op) {
            self.completions.push(completion);
        }
        self.busy.set(Activity::Computing);
    }

    /// Submits, waits, and drives what came back. While only small files are in flight, half of them are waited for, so
    /// that submissions go in batches. What comes back while those are placed is placed as well: where this thread is
    /// slower than the source its batches grow, to all its streams. Ends: nothing is begun here but further attempts.
    fn reap(&mut self) {
        let has_large = self.tasks.iter().flatten().any(|task| matches!(task, Task::Large(..)));
        if self.completions.is_empty() {
            let in_flight = self.interpreter.in_flight();
            let want = if has_large { 1 } else { (in_flight / 2).max(1) };
            let is_writing = self.writes * 2 > in_flight;
            self.tell_depth();
            self.busy.note(if is_writing { Activity::WriteDest } else { Activity::ReadSource });
            self.interpreter.wait(want, REAP, &mut self.completions);
        } else {
            self.interpreter.wait(0, Duration::ZERO, &mut self.completions);
        }
        // Time is no answer: what has not come back is waited for again.
        if !self.completions.is_empty() {
            self.busy.set(Activity::Computing);
        }
        loop {
            for completion in std::mem::take(&mut self.completions) {
                self.complete(completion);
            }
            if has_large || self.interpreter.in_flight() == 0 {
                break;
            }
            self.interpreter.wait(0, Duration::ZERO, &mut self.completions);
            if self.completions.is_empty() {
                break;
            }
        }
        self.feed_starved();
        self.tell_depth();
    }

    /// Tells how many reads and writes are in flight.
    fn tell_depth(&self) {
        self.busy.set_afloat(Activity::ReadSource, self.interpreter.in_flight().saturating_sub(self.writes));
        self.busy.set_afloat(Activity::WriteDest, self.writes.min(self.interpreter.in_flight()));
    }

    fn complete(&mut self, completion: Completion) {
        let (index, started) = self.flights[completion.token as usize];
        self.free_flights.push(completion.token);
        match &completion.op {
            Op::Write { .. } => {
                self.writes -= 1;
                self.report.latency.dest.record(started.elapsed());
            }
            _ => self.report.latency.source.record(started.elapsed()),
        }
        let job = self.errands.job.clone();
        match self.tasks[index].as_mut() {
            Some(Task::Large(task, _)) => {
                let caller = self.errands.caller.clone();
                if let Some((side, op)) = task.advance((&job, &*caller), completion, &mut self.buffers) {
                    self.ask(index, side, op);
                }
                self.drive(index);
            }
            Some(Task::Small { .. }) => self.place_small(index, completion),
            Some(Task::Leased(..)) | None => unreachable!("I3: a task stays until its operations are back"),
        }
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// There is more to do.
    Busy,
    /// Nothing is in flight and nothing can be begun now.
    Idle,
    /// The walker is stopped and nothing is in flight.
    Over,
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
