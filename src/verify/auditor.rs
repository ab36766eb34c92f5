//! One thread of a comparison: names from the walk, and a bounded number of units of content in flight between them.
//!
//! ```text
//! loop   fill   units of large files at hand, else the next name, while leases and depth allow
//!        reap   submit, wait, compare what is back
//! ```
//! When the walker is stopped a thread begins nothing, takes back what is in flight, and ends (I3).

use std::sync::Arc;
use std::time::Duration;

use crossbeam_deque::Worker;

use super::audit::Audit;
use super::content::{Content, Reading, Unit, without_direct};
use super::names::{Names, Next};
use crate::config::{FILE_DEPTH, SMALL_BYTES_MAX};
use crate::error::Errno;
use crate::report::{Activity, Busy};
use crate::ring::{Access, Answer, Asked, Caller, Completion, FixedBuffers, Interpreter, Op, Side};
use crate::walk::{DirCache, DirPair, Work};

/// Longest sleep of a thread with nothing to do: it is woken when there is.
const IDLE: Duration = Duration::from_millis(50);
/// Longest wait for completions.
const REAP: Duration = Duration::from_millis(100);

/// One thread.
pub(super) struct Auditor<I> {
    /// The comparison.
    pub audit: Arc<Audit>,
    /// Answers straight-line work.
    pub caller: Arc<dyn Caller>,
    /// Its own queue.
    pub worker: Worker<Work>,
    /// Its open directories.
    pub cache: DirCache<DirPair>,
    /// Directories whose names it hands out, the one at work last: more than one only while the queues are full.
    pub names: Vec<Names>,
    /// Answers reads.
    interpreter: I,
    /// Told what this thread waits for.
    busy: Arc<Busy>,
    /// Reads that are not back, by [`Side`].
    asked: [usize; 2],
    /// Its memory.
    buffers: FixedBuffers,
    /// Units in flight, by half of their token.
    units: Vec<Option<Unit>>,
    /// Unused indexes of `units`.
    free_units: Vec<usize>,
    /// Large files it takes part in.
    readings: Vec<Option<Reading>>,
    /// A file that waits for leases.
    waiting: Option<Arc<Content>>,
    /// Completions reaped and not yet looked at.
    completions: Vec<Completion>,
}

/// What came of starting a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    /// It is in flight.
    InFlight,
    /// There is no lease for it.
    Starved,
    /// There is none to start.
    Nothing,
}

impl<I: Interpreter> Auditor<I> {
    /// A thread at rest.
    pub fn new(
        audit: Arc<Audit>,
        caller: Arc<dyn Caller>,
        worker: Worker<Work>,
        (buffers, busy): (FixedBuffers, Arc<Busy>),
        interpreter: I,
    ) -> Auditor<I> {
        let root = DirPair { source: audit.source.handle.clone(), dest: audit.dest.handle.clone() };
        Auditor {
            cache: DirCache::new(root, audit.cached_dirs),
            audit,
            caller,
            worker,
            names: Vec::new(),
            interpreter,
            busy,
            asked: [0, 0],
            buffers,
            units: Vec::new(),
            free_units: Vec::new(),
            readings: Vec::new(),
            waiting: None,
            completions: Vec::new(),
        }
    }

    /// Works until the walker is stopped and everything in flight is back.
    pub fn run(mut self) {
        loop {
            self.fill();
            if self.in_flight() > 0 {
                self.reap();
            } else if self.audit.walker.is_stopped() {
                return;
            } else {
                self.audit.walker.sleep(IDLE);
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.units.len() - self.free_units.len()
    }

    /// Starts units while there are files and room. Ends: every turn starts one or returns, or takes a file up.
    fn fill(&mut self) {
        while self.in_flight() < self.audit.depth.max(FILE_DEPTH) {
            match self.start_large() {
                Started::InFlight => continue,
                Started::Starved => return,
                Started::Nothing => {}
            }
            if self.in_flight() >= self.audit.depth {
                return;
            }
            let content = match self.waiting.take() {
                Some(content) => content,
                None => match self.next_name() {
                    Next::Content(content) => Arc::new(*content),
                    Next::Join(content) => {
                        self.take_part(content);
                        continue;
                    }
                    Next::Nothing => return,
                },
            };
            if self.begin(content) == Started::Starved {
                return;
            }
        }
    }

    /// The most bytes of a file that is read by one operation.
    pub fn small_bytes_max(&self) -> u64 {
        SMALL_BYTES_MAX.min(self.buffers.block_bytes()) as u64
    }

    /// Takes up a file that is to be read.
    fn begin(&mut self, content: Arc<Content>) -> Started {
        if content.files.is_some() {
            for _ in 1..self.audit.shards {
                self.audit.help.push(content.clone());
                self.audit.walker.expect_help();
            }
            self.take_part(content);
            return Started::Nothing;
        }
        let len = content.size() as usize;
        let started = self.start(&content, None, 0, len);
        if started == Started::Starved {
            self.waiting = Some(content);
        }
        started
    }

    fn take_part(&mut self, content: Arc<Content>) {
        let reading = Some(Reading::new(content));
        match self.readings.iter().position(Option::is_none) {
            Some(free) => self.readings[free] = reading,
            None => self.readings.push(reading),
        }
    }

    /// Starts the next unit of a large file that is not at its depth; takes leave of one that has none left.
    fn start_large(&mut self) -> Started {
        for index in 0..self.readings.len() {
            let Some(reading) = self.readings[index].as_mut() else { continue };
            if reading.in_flight >= FILE_DEPTH {
                continue;
            }
            let content = reading.content.clone();
            let sides = content.sides().len();
            if !has_room(&mut self.buffers, self.audit.block_bytes, sides) {
                return Started::Starved;
            }
            let next = match self.audit.walker.is_stopped() {
                true => Ok(None),
                false => reading.next_unit(&self.audit, &*self.caller),
            };
            match next {
                Ok(Some((offset, len))) => {
                    reading.in_flight += 1;
                    return self.start(&content, Some(index), offset, len);
                }
                Ok(None) => self.leave(index),
                Err((side, errno)) => content.fail(&self.audit, side, errno),
            }
        }
        Started::Nothing
    }

    /// Takes leave of a large file if nothing of it is in flight here.
    fn leave(&mut self, index: usize) {
        if self.readings[index].as_ref().is_none_or(|reading| reading.in_flight > 0) {
            return;
        }
        let Some(reading) = self.readings[index].take() else { return };
        if reading.content.leave() {
            reading.content.finish(&self.audit, &*self.caller);
        }
    }

    /// Asks for a unit on all sides that are read.
    fn start(&mut self, content: &Arc<Content>, reading: Option<usize>, offset: u64, len: usize) -> Started {
        let sides = content.sides();
        if !has_room(&mut self.buffers, len, sides.len()) {
            return Started::Starved;
        }
        let unit = Unit {
            content: content.clone(),
            reading,
            offset,
            len,
            sides: [(None, 0), (None, 0)],
            pending: sides.len() as u8,
        };
        let index = self.free_units.pop().unwrap_or_else(|| {
            self.units.push(None);
            self.units.len() - 1
        });
        self.units[index] = Some(unit);
        for &side in sides {
            let lease = self.buffers.acquire(len).expect("I4: there was room for both sides");
            let unit = self.units[index].as_ref().expect("I3: a unit stays until its operations are back");
            let op = unit.first_op(&self.audit, side, lease);
            self.ask(index, side, op);
        }
        Started::InFlight
    }

    fn ask(&mut self, index: usize, side: Side, op: Op) {
        let token = (index * 2 + side as usize) as u32;
        self.asked[side as usize] += 1;
        if let Asked::Answered(completion) = self.interpreter.ask(token, side, op) {
            self.completions.push(completion);
        }
    }

    /// Submits, waits, and compares what came back. While only small files are in flight half of them are waited for,
    /// so that submissions go in batches.
    fn reap(&mut self) {
        if self.completions.is_empty() {
            let has_large = self.readings.iter().any(Option::is_some);
            let want = if has_large { 1 } else { (self.interpreter.in_flight() / 2).max(1) };
            let [source, dest] = self.asked;
            self.busy.note(if dest > source { Activity::WriteDest } else { Activity::ReadSource });
            self.interpreter.wait(want, REAP, &mut self.completions);
        } else {
            self.interpreter.wait(0, Duration::ZERO, &mut self.completions);
        }
        // Time is no answer: what has not come back is waited for again.
        if !self.completions.is_empty() {
            self.busy.set(Activity::Computing);
        }
        for completion in std::mem::take(&mut self.completions) {
            self.complete(completion);
        }
    }

    fn complete(&mut self, completion: Completion) {
        let index = completion.token as usize / 2;
        let side = if completion.token.is_multiple_of(2) { Side::Source } else { Side::Dest };
        self.asked[side as usize] -= 1;
        let Completion { op, result, .. } = completion;
        let unit = self.units[index].as_mut().expect("I3: a unit stays until its operations are back");
        let (lease, filled) = match result {
            Ok(Answer::Count(count)) => match unit.follow(side, op, count) {
                Err(done) => done,
                Ok(op) => {
                    if let Op::Read { start, .. } = &op {
                        unit.sides[side as usize].1 = *start;
                    }
                    return self.ask(index, side, op);
                }
            },
            Ok(other) => unreachable!("a read answers a count, not {other:?}"),
            Err(Errno::INTR | Errno::AGAIN) => return self.ask(index, side, op),
            Err(Errno::INVAL) if side == Side::Dest && is_direct(unit, &op) => {
                match without_direct(&self.audit, &*self.caller, unit, op) {
                    Ok(op) => return self.ask(index, side, op),
                    Err((errno, op)) => {
                        unit.content.fail(&self.audit, side, errno);
                        (lease_of(op), 0)
                    }
                }
            }
            Err(errno) => {
                unit.content.fail(&self.audit, side, errno);
                (lease_of(op), 0)
            }
        };
        unit.sides[side as usize] = (Some(lease), filled);
        unit.pending -= 1;
        if unit.pending == 0 {
            self.end_unit(index);
        }
    }

    /// A unit is back on all sides.
    fn end_unit(&mut self, index: usize) {
        let Some(unit) = self.units[index].take() else { return };
        self.free_units.push(index);
        unit.content.take_in(&self.audit, &unit, self.buffers.arena());
        for (lease, _) in unit.sides {
            lease.into_iter().for_each(|lease| self.buffers.release(lease));
        }
        match unit.reading {
            None => unit.content.finish(&self.audit, &*self.caller),
            Some(reading) => {
                if let Some(reading) = self.readings[reading].as_mut() {
                    reading.in_flight -= 1;
                }
            }
        }
    }
}

/// Whether there are leases for all sides of a unit.
fn has_room(buffers: &mut FixedBuffers, len: usize, sides: usize) -> bool {
    let leases: Vec<_> = (0..sides).map_while(|_| buffers.acquire(len)).collect();
    let has_room = leases.len() == sides;
    leases.into_iter().for_each(|lease| buffers.release(lease));
    has_room
}

/// Whether a question was to pass the page cache by.
fn is_direct(unit: &Unit, op: &Op) -> bool {
    match op {
        Op::ReadWhole { access, .. } => *access == Access::ReadDirect,
        // The handle that replaces one that was refused is no longer the file's own.
        Op::Read { file, .. } => unit.content.files.as_ref().is_some_and(|files| {
            let dest = &files[Side::Dest as usize];
            dest.is_direct && dest.handle.as_ref().is_some_and(|own| Arc::ptr_eq(own, file))
        }),
        _ => false,
    }
}

fn lease_of(op: Op) -> crate::ring::Lease {
    match op {
        Op::ReadWhole { lease, .. } | Op::Read { lease, .. } => lease,
        other => unreachable!("units are read, not {other:?}"),
    }
}
