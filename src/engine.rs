//! One run of a job, from the checks before it to the summary after it.
//!
//! ```text
//! main thread    checks -> catalog -> roots -> shards start -> checkpoints, refills of the walk -> end of the pass -> summary
//! shard threads  walk, read, write; outcomes into the intake
//! ticker thread  progress line, signals
//! ```
//!
//! The main thread sleeps on a bell: a batch is due, only the catalog has work left, nothing is left, or a stop was asked for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_deque::Worker;
use parking_lot::Mutex;

use crate::bell::Bell;
use crate::catalog::{self, Catalog, JobIdentity, RootId};
use crate::checkpoint::Checkpointer;
use crate::config::{
    ARENA_BYTES_MAX, Config, EngineChoice, FILE_DEPTH, Metadata, ReflinkChoice, SMALL_BYTES_MAX, SyncPolicy,
};
use crate::error::{Error, Result};
use crate::filesystem::FileSystem;
use crate::gate::Gate;
use crate::job::{Job, JobRoot, Reflink};
use crate::links::LinkMap;
use crate::outcome::Intake;
use crate::plan::Progress as Standing;
use crate::provider::metadata::Identity;
use crate::report::{
    Console, Count, Counters, Durability, End, EngineUsed, Failures, Latency, Losses, Moment, Progress, Run, Summary,
    Totals, Walk, shell_command,
};
use crate::resume;
use crate::ring::syscalls::Kernel;
use crate::ring::uring::{Ring, RingFacts};
use crate::ring::{Caller, FixedBuffers};
use crate::roots::{self, DestOrigin, Root, Roots};
use crate::shard::{Parts, Shard, ShardReport};
use crate::stop::Stop;
use crate::walk::{DestDir, Walker, Work};

/// Least and most blocks of one shard's arena.
const BLOCKS_RANGE: std::ops::RangeInclusive<usize> = 4..=32;
/// Bytes of a small lease: most small files fit in one.
const SMALL_LEASE_BYTES: usize = 64 << 10;
/// Time between two looks at signals and progress.
const TICK: Duration = Duration::from_millis(100);
/// Rounds of names left over at the end of a pass before they count as failed.
const ROUNDS_MAX: u32 = 8;

/// Runs the job that `config` asks for, until it is done or `stop` is raised.
pub fn run(config: &Config, stop: &Stop) -> Result<Summary> {
    let started = Instant::now();
    let (engine, fallback) = choose_engine(config.engine)?;
    let console = Arc::new(Console::stderr(config.output));
    if let Some(reason) = &fallback {
        console.note(&format!("gfast: io_uring is not available, plain system calls are used: {reason}"));
    }
    let examined = roots::examine(config)?;
    let names = (examined.source_path().to_vec(), examined.dest_path().to_vec());
    let roots = examined.open()?;
    let identity = identity_of(config, &names, &roots);
    let catalog = Arc::new(Catalog::open(&config.state_dir, &identity, false)?);
    let kind = resume::kind(&catalog)?;
    resume::begin(&catalog, kind)?;

    let shards = shard_count(engine, config.streams);
    let bell = Arc::new(Bell::default());
    let (walker, workers) = Walker::new(shards, bell.clone());
    let job = Arc::new(make_job(config, &roots, catalog, kind, walker, console)?);
    let setup = Setup { job, bell, engine, shards, started };
    let outcome = setup.run(kind, &roots, workers, stop)?;
    Ok(setup.summary(kind, &names, outcome, fallback))
}

/// What answers the operations, and why it is not the ring although that was preferred.
fn choose_engine(choice: EngineChoice) -> Result<(Engine, Option<String>)> {
    match (choice, choice != EngineChoice::Sync && Ring::probe().is_some()) {
        (EngineChoice::Sync, _) => Ok((Engine::Sync, None)),
        (EngineChoice::Auto | EngineChoice::Uring, false) => Ok((Engine::Uring, None)),
        (EngineChoice::Auto, true) => Ok((Engine::Sync, Ring::probe())),
        (EngineChoice::Uring, true) => Err(Error::refused("--engine uring", Ring::probe().unwrap_or_default())),
    }
}

/// What answers the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// One ring per shard.
    Uring,
    /// System calls on more shards.
    Sync,
}

/// The ring keeps many operations in flight on one thread per core; plain system calls need more threads for that.
fn shard_count(engine: Engine, streams: u32) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = match engine {
        Engine::Uring => cores,
        Engine::Sync => cores * 4,
    };
    wanted.min(streams as usize).max(1)
}

fn identity_of(config: &Config, names: &(Vec<u8>, Vec<u8>), roots: &Roots) -> JobIdentity {
    let root_id = |root: &Root| RootId { ino: root.stat.ino, birth: root.birth, dev: root.stat.dev };
    JobIdentity {
        source: names.0.clone(),
        dest: names.1.clone(),
        source_root: root_id(&roots.source),
        dest_root: root_id(&roots.dest),
        options: format!("metadata={:?} mounts={:?}", config.metadata, config.mounts).into_bytes(),
    }
}

fn make_job(
    config: &Config,
    roots: &Roots,
    catalog: Arc<Catalog>,
    kind: resume::Kind,
    walker: Walker,
    console: Arc<Console>,
) -> Result<Job> {
    let header = catalog.header();
    let root = |root: &Root| JobRoot { handle: root.handle.clone(), path: root.path.clone(), stat: root.stat };
    let (source, dest) = (root(&roots.source), root(&roots.dest));
    let is_untrusted = !roots.dest.file_system.trusts_syncfs();
    let refused = if config.reflink == ReflinkChoice::Never { Reflink::Refused } else { Reflink::Untried };
    Ok(Job {
        identity: Identity {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: config.umask,
        },
        superblocks: Mutex::new(HashMap::from([(dest.stat.dev, dest.handle.clone())])),
        source,
        dest,
        single: roots.single.as_ref().map(|single| (single.source_name.clone(), single.dest_name.clone())),
        has_records: kind != resume::Kind::First,
        progress: Standing {
            pass_start_batch: header.pass_start_batch,
            completed_batch: header.completed_batch,
            written_holds: header.is_of_this_boot(),
        },
        job_id: header.job_id,
        state_dir: catalog.state_dev_ino(),
        sync_each: config.sync == SyncPolicy::File || (config.sync == SyncPolicy::Batch && is_untrusted),
        granularity_nanos: granularity_nanos(roots.dest.file_system),
        walker,
        gate: Gate::new(config.streams),
        links: LinkMap::default(),
        failures: Failures::new(console.clone()),
        losses: Losses::new(console.clone()),
        console,
        next_id: AtomicU64::new(header.next_id),
        fatal: Mutex::new(None),
        reflink: AtomicU8::new(refused as u8),
        config: config.clone(),
        catalog,
    })
}

/// How finely a destination tells times apart, in nanoseconds: what local file systems keep exactly, others by the second.
fn granularity_nanos(file_system: FileSystem) -> u32 {
    match file_system {
        FileSystem::Fuse | FileSystem::Other | FileSystem::Cluster => 1_000_000_000,
        FileSystem::Smb => 100,
        _ => 1,
    }
}

/// A run, made up and not yet started.
struct Setup {
    /// The job.
    job: Arc<Job>,
    /// Wakes the main thread.
    bell: Arc<Bell>,
    /// What answers.
    engine: Engine,
    /// How many shards.
    shards: usize,
    /// When the run began.
    started: Instant,
}

/// What came of a run.
struct Outcome {
    /// How it ended.
    end: End,
    /// Everything that was counted.
    totals: Totals,
    /// What the shards measured.
    latency: Latency,
    /// How the rings came to be.
    facts: Option<RingFacts>,
    /// Bytes registered over all rings.
    registered_bytes: u64,
    /// Bytes of all arenas.
    arena_bytes: u64,
}

/// What a shard's thread gives back.
type ShardEnd = (ShardReport, Option<RingFacts>, u64);

impl Setup {
    fn run(&self, kind: resume::Kind, roots: &Roots, workers: Vec<Worker<Work>>, stop: &Stop) -> Result<Outcome> {
        let job = &self.job;
        let counters: Vec<Arc<Counters>> = (0..=self.shards).map(|_| Arc::new(Counters::default())).collect();
        let intake = Arc::new(Intake::new(self.shards, job.config.checkpoint_bytes, self.bell.clone()));
        let caller: Arc<dyn Caller> = Arc::new(Kernel::new(FixedBuffers::new(1, 4096, 4096)?.arena().clone()));
        let main = Arc::clone(&counters[self.shards]);
        let mut checkpointer = Checkpointer::new(job.clone(), caller, intake.clone(), main);
        self.prepare_root(roots, &mut checkpointer)?;
        resume::start(job, kind, roots_dest(roots))?;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut shards = Vec::new();
            for (index, worker) in workers.into_iter().enumerate() {
                shards.push(self.spawn(scope, index, worker, &intake, &counters[index])?);
            }
            let ticker = scope.spawn(|| self.tick(&counters, stop, &is_over));
            let end = self.conduct(&mut checkpointer, stop, &counters);
            job.walker.stop();
            let ends: Vec<ShardEnd> = shards.into_iter().filter_map(|shard| shard.join().ok().flatten()).collect();
            let end = self.conclude(&mut checkpointer, end);
            is_over.store(true, Ordering::Release);
            ticker.thread().unpark();
            let _ = ticker.join();
            job.failures.finish();
            Ok(gather(end, ends, &counters))
        })
    }

    /// Clears the way at the destination's root, whose directory is nobody's child.
    fn prepare_root(&self, roots: &Roots, checkpointer: &mut Checkpointer) -> Result<()> {
        if roots.single.is_some() || roots.dest_origin == DestOrigin::Made {
            return Ok(());
        }
        let dest = checkpointer.dest();
        let failed = |errno| Error::os("prepare", &self.job.dest.path, errno);
        let stat = &self.job.dest.stat;
        let is_ours = self.job.identity.uid == stat.uid && stat.uid != 0;
        if is_ours && self.job.config.metadata == Metadata::Keep && stat.permissions() & 0o700 != 0o700 {
            dest.set_mode(&self.job.dest.handle, stat.permissions() | 0o700).map_err(failed)?;
        }
        Ok(())
    }

    fn spawn<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        index: usize,
        worker: Worker<Work>,
        intake: &Arc<Intake>,
        counters: &Arc<Counters>,
    ) -> Result<ScopedJoinHandle<'scope, Option<ShardEnd>>> {
        let (job, shards, engine) = (self.job.clone(), self.shards, self.engine);
        let (intake, counters) = (intake.clone(), counters.clone());
        let buffers = self.buffers()?;
        let streams = job.config.streams as usize;
        let thread = std::thread::Builder::new().name(format!("shard-{index}"));
        let spawned = thread.spawn_scoped(scope, move || {
            let kernel = Kernel::new(buffers.arena().clone());
            let arena_bytes = buffers.arena().len() as u64;
            let caller: Arc<dyn Caller> = Arc::new(kernel.clone());
            let depth = (streams + 2 * FILE_DEPTH).clamp(64, 1024);
            let ring = match engine {
                Engine::Uring => Ring::new(depth, buffers.arena().clone()).ok(),
                Engine::Sync => None,
            };
            match ring {
                Some(interpreter) => {
                    let parts = Parts {
                        index,
                        shards,
                        job,
                        intake,
                        caller,
                        interpreter,
                        buffers,
                        worker,
                        counters: counters.clone(),
                    };
                    let (ring, report) = Shard::new(parts).run();
                    counters.add(Count::Submissions, ring.usage().submissions);
                    counters.add(Count::Enters, ring.usage().enters);
                    Some((report, Some(ring.facts()), arena_bytes))
                }
                None => {
                    let parts =
                        Parts { index, shards, job, intake, caller, interpreter: kernel, buffers, worker, counters };
                    let (_, report) = Shard::new(parts).run();
                    Some((report, None, arena_bytes))
                }
            }
        });
        spawned.map_err(|error| Error::refused("threads", format!("cannot be started: {error}")))
    }

    fn buffers(&self) -> Result<FixedBuffers> {
        let block = self.job.config.block_bytes.max(SMALL_BYTES_MAX.min(self.job.config.block_bytes));
        let blocks = (ARENA_BYTES_MAX / self.shards / block).clamp(*BLOCKS_RANGE.start(), *BLOCKS_RANGE.end());
        FixedBuffers::new(blocks, block, SMALL_LEASE_BYTES.min(block))
    }

    /// Checkpoints, refills and the decision that all is done, until then.
    fn conduct(&self, checkpointer: &mut Checkpointer, stop: &Stop, counters: &[Arc<Counters>]) -> Result<End> {
        let job = &self.job;
        let interval = job.config.checkpoint_interval;
        let mut last = Instant::now();
        let mut rounds = 0;
        loop {
            if job.fatal.lock().is_some() || stop.is_requested() {
                return Ok(End::Interrupted);
            }
            if job.walker.is_done() {
                checkpointer.checkpoint()?;
                if job.walker.is_done() && !self.bring_back(checkpointer, &mut rounds)? {
                    let totals = Totals::of(counters);
                    let entries = totals.get(Count::EntriesWalked);
                    let bytes = totals.get(Count::BytesPlanned);
                    checkpointer.finish_pass(catalog::Totals { entries, bytes })?;
                    return Ok(End::Finished);
                }
                continue;
            }
            if job.walker.wants_refill() {
                checkpointer.checkpoint()?;
                resume::refill(job)?;
                continue;
            }
            if checkpointer.is_due() || (last.elapsed() >= interval && checkpointer.has_work()) {
                checkpointer.checkpoint()?;
                last = Instant::now();
                continue;
            }
            self.bell.wait(interval.saturating_sub(last.elapsed()).max(Duration::from_millis(1)));
        }
    }

    /// Names that still wait for a first name go round again; true if there were any.
    fn bring_back(&self, checkpointer: &mut Checkpointer, rounds: &mut u32) -> Result<bool> {
        let late = self.job.catalog.reader()?.any_late_links(1 << 16)?;
        *rounds += 1;
        if late.is_empty() {
            return Ok(false);
        }
        if *rounds > ROUNDS_MAX {
            return Err(Error::catalog("", "hard links wait for names that never come"));
        }
        for (_, _, dir, name) in late {
            let node = checkpointer.node(dir)?;
            self.job.walker.inject(Work::File(node, name));
        }
        Ok(true)
    }

    /// The last checkpoint of a run that did not finish: what the shards brought home while they drained.
    fn conclude(&self, checkpointer: &mut Checkpointer, end: Result<End>) -> End {
        let fatal = self.job.fatal.lock().clone();
        match (end, fatal) {
            (Ok(End::Finished), None) => End::Finished,
            (Err(error), _) => End::Stopped(error),
            (Ok(_), fatal) => match (checkpointer.checkpoint(), fatal) {
                (_, Some(error)) | (Err(error), None) => End::Stopped(error),
                (Ok(()), None) => End::Interrupted,
            },
        }
    }

    /// Progress and signals.
    fn tick(&self, counters: &[Arc<Counters>], stop: &Stop, is_over: &AtomicBool) {
        let former = self.job.catalog.header().totals.entries;
        let former = (former > 0).then_some(former);
        let console = self.job.console.clone();
        let mut progress = Progress::new(console, counters.to_vec(), former, Instant::now());
        while !is_over.load(Ordering::Acquire) {
            if stop.is_requested() && !self.job.walker.is_stopped() {
                self.job.walker.stop();
            }
            let walk = if self.job.walker.is_walked() { Walk::Ended } else { Walk::Running };
            progress.tick(&Moment { now: Instant::now(), walk, streams: self.job.gate.limit() });
            std::thread::park_timeout(TICK);
        }
        progress.finish();
    }

    fn summary(
        &self,
        kind: resume::Kind,
        names: &(Vec<u8>, Vec<u8>),
        outcome: Outcome,
        fallback: Option<String>,
    ) -> Summary {
        let job = &self.job;
        let pass = job.catalog.header().pass;
        let used = if job.sync_each { SyncPolicy::File } else { job.config.sync };
        Summary {
            run: match kind {
                resume::Kind::First => Run::Copy,
                resume::Kind::Resume => Run::Resume { pass },
                resume::Kind::NextPass => Run::Pass { pass },
            },
            end: outcome.end,
            source: names.0.clone(),
            dest: names.1.clone(),
            state: job.catalog.path().as_os_str().as_encoded_bytes().to_vec(),
            command: shell_command(&job.config.command),
            totals: outcome.totals,
            losses: job.losses.counts(),
            elapsed: self.started.elapsed(),
            streams: job.gate.limit(),
            engine: match outcome.facts {
                Some(facts) => EngineUsed::Uring { flags: facts.flags.to_owned() },
                None => EngineUsed::Sync { fallback },
            },
            registered_bytes: outcome.registered_bytes,
            arena_bytes: outcome.arena_bytes,
            latency: outcome.latency,
            durability: Durability { asked: job.config.sync, used },
        }
    }
}

/// What is known of the destination's root before it is listed.
fn roots_dest(roots: &Roots) -> DestDir {
    match roots.dest_origin {
        DestOrigin::Made => DestDir::Created,
        DestOrigin::Found => DestDir::Existing,
    }
}

fn gather(end: End, ends: Vec<ShardEnd>, counters: &[Arc<Counters>]) -> Outcome {
    let mut latency = Latency::default();
    let (mut registered_bytes, mut arena_bytes, mut facts) = (0, 0, None);
    for (report, ring, arena) in ends {
        latency.merge(&report.latency);
        arena_bytes += arena;
        registered_bytes += ring.as_ref().map_or(0, |ring| ring.registered_bytes as u64);
        facts = facts.or(ring);
    }
    Outcome { end, totals: Totals::of(counters), latency, facts, registered_bytes, arena_bytes }
}
