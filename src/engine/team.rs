//! The threads of a run: as many as the streams need, started and ended while the job runs.
//!
//! ```text
//! limit rises    a thread for every further stream (or core), each with its own queue, counters and buffers
//! limit falls    who has nothing in flight ends (slow mounts), or has a smaller share (rings, lanes)
//! ```
//! What a thread leaves in its queue is stolen by the others, who also go on with the directory it has begun. Buffers
//! stay within one bound over all threads (I4): the first get blocks as large as was asked for, later ones of what is
//! left, and there is a least one for each that may still come.

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam_deque::Worker;
use parking_lot::Mutex;

use crate::config::DIR_CACHE_LEAST;
use crate::crew::{Crew, Engine};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::lane;
use crate::outcome::Intake;
use crate::report::{Count, Counters, Latency};
use crate::ring::syscalls::Kernel;
use crate::ring::uring::{Ring, RingFacts};
use crate::ring::{Caller, FixedBuffers};
use crate::shard::{self, Parts, Shard};
use crate::walk::Work;

/// The threads of a run.
pub(super) struct Team {
    /// Who they are.
    crew: Crew,
    /// The job.
    job: Arc<Job>,
    /// Where outcomes go.
    intake: Arc<Intake>,
    /// By thread.
    counters: Vec<Arc<Counters>>,
    /// What shards share.
    shards: Arc<shard::Common>,
    /// What lanes share.
    lanes: Arc<lane::Common>,
    /// Why a thread has no ring although it should.
    refused: Arc<OnceLock<String>>,
    /// Who is at work.
    state: Arc<Mutex<State>>,
}

/// Who is at work.
struct State {
    /// Places that no thread has, the first to be taken last.
    idle: Vec<(usize, Worker<Work>)>,
    /// Threads at work.
    running: usize,
    /// Bytes of their buffers.
    arena_bytes: usize,
    /// All threads that were started and not yet joined.
    threads: Vec<JoinHandle<()>>,
    /// Whether no thread is started any more.
    is_closed: bool,
    /// Whether it was said that a thread could not be started.
    is_short: bool,
    /// What came of them.
    figures: Figures,
}

/// What the threads of a run came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Most threads at a time.
    pub threads: usize,
    /// How the rings came to be.
    pub facts: Option<RingFacts>,
    /// Why one of them had no ring.
    pub refused: Option<String>,
    /// Bytes registered over all rings.
    pub registered_bytes: u64,
    /// Most bytes of buffers at a time.
    pub arena_bytes: u64,
}

/// What a thread gives back.
struct Left {
    /// Its queue; a lane ends with the job, and its queue with it.
    worker: Option<Worker<Work>>,
    /// What it measured.
    latency: Latency,
    /// How its ring came to be.
    facts: Option<RingFacts>,
}

impl Team {
    /// The threads of `crew`, none of them started, each with one of `workers` and `counters`.
    pub(super) fn new(
        crew: Crew,
        job: Arc<Job>,
        intake: Arc<Intake>,
        counters: Vec<Arc<Counters>>,
        workers: Vec<Worker<Work>>,
    ) -> Team {
        let state = State {
            idle: workers.into_iter().enumerate().rev().collect(),
            running: 0,
            arena_bytes: 0,
            threads: Vec::new(),
            is_closed: false,
            is_short: false,
            figures: Figures::default(),
        };
        let (shards, lanes) = (Arc::default(), Arc::default());
        let (refused, state) = (Arc::default(), Arc::new(Mutex::new(state)));
        Team { crew, job, intake, counters, shards, lanes, refused, state }
    }

    /// Starts the threads that the streams need now, and lets those end that they do not. An error says that there is
    /// no thread at all.
    pub(super) fn adjust(&self) -> Result<()> {
        let gate = &self.job.gate;
        let wanted = self.crew.threads_for(gate.limit());
        gate.set_workers_wanted(if self.crew.shrinks() { wanted } else { usize::MAX });
        let mut state = self.state.lock();
        state.threads.retain(|thread| !thread.is_finished());
        let mut missing = if state.is_closed { 0 } else { wanted.saturating_sub(state.running).min(state.idle.len()) };
        // Before the first of them looks how many they are.
        gate.join(missing);
        // Ends: every turn starts a thread, or is the last.
        while missing > 0 {
            let Some((index, worker)) = state.idle.pop() else { break };
            match self.start(&mut state, index, worker) {
                Ok(()) => missing -= 1,
                Err(error) if state.running == 0 => return Err(error),
                // The work of a thread is anybody's: those that are there do it.
                Err(error) => {
                    if !std::mem::replace(&mut state.is_short, true) {
                        let running = state.running;
                        self.job.console.note(&format!("gfast: {running} threads instead of {wanted}: {error}"));
                    }
                    break;
                }
            }
        }
        gate.leave(missing);
        Ok(())
    }

    /// Waits for all threads to end, once the walker is stopped.
    pub(super) fn close(&self) -> Figures {
        let threads = {
            let mut state = self.state.lock();
            state.is_closed = true;
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            // A thread that panics has ended the process.
            let _ = thread.join();
        }
        Figures { refused: self.refused.get().cloned(), ..self.state.lock().figures.clone() }
    }

    fn start(&self, state: &mut State, index: usize, worker: Worker<Work>) -> Result<()> {
        match self.job.is_remote() {
            true => self.start_lane(state, index, worker),
            false => self.start_shard(state, index, worker),
        }
    }

    fn start_shard(&self, state: &mut State, index: usize, worker: Worker<Work>) -> Result<()> {
        let is_first = index < self.crew.shards;
        let buffers = match self.crew.buffers_for(state.running, state.arena_bytes, &self.job.config) {
            Ok(buffers) => buffers,
            Err(error) => {
                state.idle.push((index, worker));
                return Err(error);
            }
        };
        let arena_bytes = buffers.arena().len();
        let busy = self.job.crowd.enlist();
        let kernel = Kernel::new(buffers.arena().clone()).telling(busy.clone());
        let (job, engine, refused) = (self.job.clone(), self.crew.engine, self.refused.clone());
        // Objects in flight on one thread: all streams, when the others have nothing to do.
        let depth = (job.gate.max() as usize + 2 * job.config.file_depth).clamp(64, 1024);
        let cached_dirs = if is_first { job.cached_dirs } else { job.cached_dirs.min(DIR_CACHE_LEAST) };
        let (intake, counters, common) = (self.intake.clone(), self.counters[index].clone(), self.shards.clone());
        let caller: Arc<dyn Caller> = Arc::new(kernel.clone());
        let work = move |worker| {
            let parts =
                Parts { index, job: job.clone(), intake, caller, buffers, worker, common, counters, busy, cached_dirs };
            let ring = match engine {
                Engine::Sync => None,
                Engine::Uring => Ring::patient(depth, kernel.arena(), job.config.buffers)
                    .map_err(|why| say_refused(&job, &refused, why))
                    .ok(),
            };
            match ring {
                Some(ring) => {
                    let counters = parts.counters.clone();
                    let (ring, report, worker) = Shard::new(parts, ring).run();
                    counters.add(Count::Submissions, ring.usage().submissions);
                    counters.add(Count::Enters, ring.usage().enters);
                    Left { worker: Some(worker), latency: report.latency, facts: Some(ring.facts()) }
                }
                None => {
                    let (_, report, worker) = Shard::new(parts, kernel).run();
                    Left { worker: Some(worker), latency: report.latency, facts: None }
                }
            }
        };
        self.spawn(state, format!("shard-{index}"), (index, worker), arena_bytes, work)
    }

    /// A lane's thread. A runtime or client that cannot be made ends the job.
    fn start_lane(&self, state: &mut State, index: usize, worker: Worker<Work>) -> Result<()> {
        let job = self.job.clone();
        let arena = match FixedBuffers::new(1, 4096, 4096) {
            Ok(arena) => arena,
            Err(error) => {
                state.idle.push((index, worker));
                return Err(error);
            }
        };
        let busy = job.crowd.enlist();
        let caller: Arc<dyn Caller> = Arc::new(Kernel::new(arena.arena().clone()).telling(busy.clone()));
        let (intake, counters, common) = (self.intake.clone(), self.counters[index].clone(), self.lanes.clone());
        let has_ring = self.crew.engine == Engine::Uring;
        let work = move |worker| {
            let parts =
                lane::LaneParts { index, job: job.clone(), intake, caller, worker, common, counters, busy, has_ring };
            let latency = lane::run(parts).unwrap_or_else(|error| {
                job.end_with(error);
                Latency::default()
            });
            Left { worker: None, latency, facts: None }
        };
        self.spawn(state, format!("lane-{index}"), (index, worker), 0, work)
    }

    fn spawn(
        &self,
        state: &mut State,
        name: String,
        (index, worker): (usize, Worker<Work>),
        arena_bytes: usize,
        work: impl FnOnce(Worker<Work>) -> Left + Send + 'static,
    ) -> Result<()> {
        let (job, shared) = (self.job.clone(), self.state.clone());
        job.boards.enter(index);
        // The queue goes by way of a slot, so that it is not lost with a thread that cannot be started.
        let slot = Arc::new(Mutex::new(Some(worker)));
        let handed = slot.clone();
        let started = std::thread::Builder::new().name(name).spawn(move || {
            let Some(worker) = handed.lock().take() else { return };
            let left = work(worker);
            job.boards.leave(index, &left.latency);
            let mut state = shared.lock();
            state.running -= 1;
            state.arena_bytes -= arena_bytes;
            state.idle.extend(left.worker.map(|worker| (index, worker)));
            state.figures.registered_bytes += left.facts.as_ref().map_or(0, |facts| facts.registered_bytes as u64);
            state.figures.facts = state.figures.facts.take().or(left.facts);
        });
        match started {
            Ok(thread) => {
                state.threads.push(thread);
                state.running += 1;
                state.arena_bytes += arena_bytes;
                state.figures.threads = state.figures.threads.max(state.running);
                state.figures.arena_bytes = state.figures.arena_bytes.max(state.arena_bytes as u64);
                Ok(())
            }
            Err(error) => {
                self.job.boards.leave(index, &Latency::default());
                state.idle.extend(slot.lock().take().map(|worker| (index, worker)));
                Err(Error::refused("threads", format!("cannot be started: {error}")))
            }
        }
    }
}

/// A thread that gets no ring makes plain system calls, and so may the others: said once.
fn say_refused(job: &Job, refused: &OnceLock<String>, why: String) {
    if refused.set(why.clone()).is_ok() {
        job.console.note(&format!("gfast: a thread makes plain system calls: {why}"));
    }
}
