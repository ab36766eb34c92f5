//! One run of a job, from the checks before it to the summary after it.
//!
//! ```text
//! main thread    checks -> catalog -> roots -> shards start -> checkpoints, refills -> end of the pass -> summary
//! shard threads  walk, read, write; outcomes into the intake
//! ticker thread  progress line, signals
//! ```
//!
//! The main thread sleeps on a bell: a batch is due, only the catalog has work left, nothing is left, or a stop was
//! asked for.

pub(crate) mod ends;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_deque::{Injector, Worker};
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit};

use self::ends::Ends;
use self::watch::Watch;
use crate::bell::Bell;
use crate::catalog::{Catalog, JobIdentity, RootId};
use crate::checkpoint::Checkpointer;
use crate::conduct::{Conductor, Step};
use crate::config::{Config, FILE_DEPTH, Metadata, ReflinkChoice, Retry, STOP_TIME_MAX, SyncPolicy};
use crate::crew::{self, Crew, Engine};
use crate::error::{Error, Result};
use crate::filesystem::FileSystem;
use crate::filter::Choice;
use crate::gate::Gate;
use crate::job::{Job, JobRoot, Past, Reflink, read_choice};
use crate::lane;
use crate::large::LargeFile;
use crate::limits::Cause;
use crate::links::LinkMap;
use crate::location::Location;
use crate::outcome::Intake;
use crate::plan::Progress as Standing;
use crate::provider::metadata::Identity;
use crate::provider::posix::Posix;
use crate::readback;
use crate::report::{
    Activity, Console, Count, Counters, Crowd, Durability, End, EngineUsed, ExitCode, Failures, Keeper, Latency,
    Losses, Moment, Progress, Run, Summary, Totals, Walk, forecast, shell_command,
};
use crate::resume;
use crate::ring::syscalls::Kernel;
use crate::ring::uring::{Ring, RingFacts};
use crate::ring::{Caller, FixedBuffers, Side};
use crate::roots::{DestOrigin, Root, Roots};
use crate::shard::{Parts, Shard, ShardReport};
use crate::stop::Stop;
use crate::walk::{DestDir, Walker, Work};

/// Time between two looks at signals and progress.
const TICK: Duration = Duration::from_millis(100);

/// Runs the job that `config` asks for, until it is done or `stop` is raised.
pub fn run(config: &Config, stop: &Stop) -> Result<Summary> {
    let started = Instant::now();
    let refused = crew::ring_refused(config.engine)?;
    raise_descriptor_limit();
    let console = Arc::new(Console::stderr(config.output));
    if let Some(reason) = &refused {
        console.note(&format!("gfast: io_uring is not available, plain system calls are used: {reason}"));
    }
    let choice = read_choice(&config.filter, config.files_from.as_deref())?;
    if config.retry == Retry::FailedOnly {
        refuse_first_run(config)?;
    }
    Catalog::check_place(&config.state_dir)?;
    let Ends { roots, names, source, dest } = ends::open(config)?;
    if dest.is_none() {
        make_root_durable(&roots)?;
    }
    let identity = identity_of(config, &choice, &names, &roots);
    let catalog = Arc::new(Catalog::open(&config.state_dir, &identity, false)?);
    let kind = resume::kind(&catalog, config.retry)?;
    resume::begin(&catalog, kind)?;

    let streams = affordable_streams(config, &console);
    let is_remote = source.is_some() || dest.is_some();
    let slow = if is_remote { None } else { roots.slower() };
    let crew = Crew::choose(config.engine, refused, slow, streams);
    let config = &crew.fit(&Config { streams, ..config.clone() });
    let bell = Arc::new(Bell::default());
    let (walker, workers) = Walker::new(crew.shards, bell.clone());
    let mut job = make_job(config, &roots, catalog, kind, (walker, &crew), console)?;
    job.choice = choice;
    (job.source.bucket, job.dest.bucket) = (source, dest);
    if job.dest.bucket.is_some() {
        job.superblocks.get_mut().clear();
    }
    let job = Arc::new(job);
    let setup = Setup { job, bell, crew, started };
    let outcome = setup.run(kind, &roots, workers, stop)?;
    Ok(setup.summary(kind, &names, outcome))
}

/// A job that never ran has nothing to be tried again: refused before its state or its destination is made.
fn refuse_first_run(config: &Config) -> Result<()> {
    let Location::Posix(dest) = &config.dest else { return Ok(()) };
    let path = std::fs::canonicalize(dest);
    let path = path.map_err(|error| Error::refused(dest.as_os_str().as_encoded_bytes(), error.to_string()))?;
    Catalog::open_recorded(&config.state_dir, Some(path.as_os_str().as_encoded_bytes())).map(drop)
}

/// Open files are what streams are made of: as many as the administrator allows, not as few as shells start with.
pub(crate) fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Refused: the lower limit stays, and the directory caches are cut to it.
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

pub(crate) fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Streams as the descriptor limit allows them: each may hold two directories and four files of its own, and a few
/// descriptors are the process's.
fn affordable_streams(config: &Config, console: &Console) -> u32 {
    let limit = descriptor_limit();
    let affordable = u32::try_from(limit.saturating_sub(64) / 8).unwrap_or(u32::MAX).max(1);
    if affordable < config.streams {
        console.note(&format!(
            "gfast: {affordable} streams instead of {}: only {limit} files may be open (remedy: raise `ulimit -n`)",
            config.streams
        ));
    }
    config.streams.min(affordable)
}

/// A destination root that was just made is made durable before a catalog names it: after a power cut the job would
/// find another directory there, or none, and refuse to go on.
fn make_root_durable(roots: &Roots) -> Result<()> {
    if roots.dest_origin == DestOrigin::Found {
        return Ok(());
    }
    let failed = |errno| Error::os("sync", &roots.dest.path, errno);
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let parent = rustix::fs::openat(&roots.dest.handle, "..", flags, rustix::fs::Mode::empty()).map_err(failed)?;
    rustix::fs::fsync(&roots.dest.handle).and_then(|()| rustix::fs::fsync(parent)).map_err(failed)
}

fn identity_of(config: &Config, choice: &Choice, names: &(Vec<u8>, Vec<u8>), roots: &Roots) -> JobIdentity {
    let root_id = |root: &Root| RootId { ino: root.stat.ino, birth: root.birth, dev: root.stat.dev };
    JobIdentity {
        source: names.0.clone(),
        dest: names.1.clone(),
        source_root: root_id(&roots.source),
        dest_root: root_id(&roots.dest),
        options: format!("metadata={:?} mounts={:?}{}", config.metadata, config.mounts, choice.to_text()).into_bytes(),
    }
}

/// What all parts of the run share.
pub(crate) fn make_job(
    config: &Config,
    roots: &Roots,
    catalog: Arc<Catalog>,
    kind: resume::Kind,
    (walker, crew): (Walker, &Crew),
    console: Arc<Console>,
) -> Result<Job> {
    let header = catalog.header();
    let root =
        |root: &Root| JobRoot { handle: root.handle.clone(), path: root.path.clone(), stat: root.stat, bucket: None };
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
        choice: Choice::default(),
        past: match kind {
            resume::Kind::First => Past::Nothing,
            resume::Kind::NextPass => Past::Finished,
            resume::Kind::Resume | resume::Kind::Retry => Past::Interrupted,
        },
        progress: Standing {
            ctime: config.ctime,
            pass_start_batch: header.pass_start_batch,
            completed_batch: header.completed_batch,
            boot_batch: header.boot_batch,
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
        lost: Mutex::default(),
        clashes: Mutex::default(),
        is_cleared: AtomicBool::new(false),
        console,
        crowd: Crowd::default(),
        file_depth: crew.file_depth(),
        reach: crew.reach,
        cached_dirs: crew.cached_dirs(descriptor_limit()),
        next_id: AtomicU64::new(header.next_id),
        is_resealed: AtomicBool::new(false),
        fatal: Mutex::new(None),
        reflink: AtomicU8::new(refused as u8),
        config: config.clone(),
        catalog,
    })
}

/// How finely a destination tells times apart, in nanoseconds: what local file systems keep exactly, others by the
/// second.
pub(crate) fn granularity_nanos(file_system: FileSystem) -> u32 {
    match file_system {
        FileSystem::Fuse | FileSystem::Other | FileSystem::Cluster => 1_000_000_000,
        FileSystem::Smb => 100,
        _ => 1,
    }
}

/// Clears the way at the destination's root, which is nobody's child, and tells what is known of it.
pub(crate) fn prepare_root(job: &Job, roots: &Roots, caller: &dyn Caller) -> Result<DestDir> {
    let (dest, root) = (Posix::new(caller, Side::Dest), &job.dest);
    if root.bucket.is_some() {
        return Ok(if roots.dest_origin == DestOrigin::Made { DestDir::Created } else { DestDir::Existing });
    }
    let failed = |errno| Error::os("prepare", &root.path, errno);
    if dest.has_default_acl(&root.handle).map_err(failed)? {
        return Ok(DestDir::ExistingWithAcl);
    }
    if roots.dest_origin == DestOrigin::Made {
        return Ok(DestDir::Created);
    }
    let is_ours = job.identity.uid == root.stat.uid && root.stat.uid != 0;
    let is_kept = job.config.metadata == Metadata::Keep && roots.single.is_none();
    if is_ours && is_kept && root.stat.permissions() & 0o700 != 0o700 {
        dest.set_mode(&root.handle, root.stat.permissions() | 0o700).map_err(failed)?;
    }
    Ok(DestDir::Existing)
}

/// A run, made up and not yet started.
struct Setup {
    /// The job.
    job: Arc<Job>,
    /// Wakes the main thread.
    bell: Arc<Bell>,
    /// Who does it.
    crew: Crew,
    /// When the run began.
    started: Instant,
}

/// What came of a run.
struct Outcome {
    /// How it ended.
    end: End,
    /// How many shards worked on it.
    shards: usize,
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
    /// What limited the run.
    limit: Option<Cause>,
}

/// What a shard's thread gives back.
type ShardEnd = (ShardReport, Option<RingFacts>, u64);

impl Setup {
    fn run(&self, kind: resume::Kind, roots: &Roots, workers: Vec<Worker<Work>>, stop: &Stop) -> Result<Outcome> {
        let job = &self.job;
        let counters: Vec<Arc<Counters>> = (0..=self.crew.shards).map(|_| Arc::new(Counters::default())).collect();
        let intake = Arc::new(Intake::new(self.crew.shards, job.config.checkpoint_bytes, self.bell.clone()));
        let buffers = readback::buffers(&job.config, self.crew.shards)?;
        let caller: Arc<dyn Caller> = Arc::new(Kernel::new(buffers.arena().clone()));
        let main = Arc::clone(&counters[self.crew.shards]);
        let dest_root = prepare_root(job, roots, &*caller)?;
        let checkpointer = Checkpointer::new(job.clone(), caller, intake.clone(), main, (self.crew.shards, buffers))?;
        let mut conductor = Conductor::new(job.clone(), checkpointer, counters.clone(), stop.clone());
        resume::start(job, kind, dest_root)?;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut shards = Vec::new();
            let (help, common) = (Arc::new(Injector::new()), Arc::new(lane::Common::default()));
            for (index, worker) in workers.into_iter().enumerate() {
                let counters = &counters[index];
                let spawned = match job.is_remote() {
                    true => self.spawn_lane(scope, index, (worker, common.clone()), &intake, counters),
                    false => self.spawn(scope, index, (worker, help.clone()), &intake, counters),
                };
                match spawned {
                    Ok(shard) => shards.push(shard),
                    Err(error) if index == 0 => return Err(error),
                    // The work of a shard is anybody's: those that are there do it.
                    Err(error) => {
                        job.console.note(&format!("gfast: {index} threads instead of {}: {error}", self.crew.shards));
                        break;
                    }
                }
            }
            let ticker = scope.spawn(|| self.tick(&counters, stop, &is_over));
            let end = self.conduct(&mut conductor);
            job.walker.stop();
            let ends: Vec<ShardEnd> = shards.into_iter().filter_map(|shard| shard.join().ok().flatten()).collect();
            let end = conductor.conclude(end);
            is_over.store(true, Ordering::Release);
            ticker.thread().unpark();
            let limit = ticker.join().ok().flatten();
            job.failures.finish();
            if let End::Stopped(error) = &end {
                job.console.error(&format!("gfast: stopped: {error}"));
            }
            Ok(gather(end, ends, &counters, limit))
        })
    }

    fn spawn<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        index: usize,
        (worker, help): (Worker<Work>, Arc<Injector<Arc<LargeFile>>>),
        intake: &Arc<Intake>,
        counters: &Arc<Counters>,
    ) -> Result<ScopedJoinHandle<'scope, Option<ShardEnd>>> {
        let (job, shards, engine) = (self.job.clone(), self.crew.shards, self.crew.engine);
        let (intake, counters) = (intake.clone(), counters.clone());
        let buffers = self.crew.buffers(job.config.block_bytes)?;
        let streams = job.config.streams as usize;
        let thread = std::thread::Builder::new().name(format!("shard-{index}"));
        let spawned = thread.spawn_scoped(scope, move || {
            let busy = job.crowd.enlist();
            let kernel = Kernel::new(buffers.arena().clone()).telling(busy.clone());
            let arena_bytes = buffers.arena().len() as u64;
            let caller: Arc<dyn Caller> = Arc::new(kernel.clone());
            let depth = (streams + 2 * FILE_DEPTH).clamp(64, 1024);
            let parts =
                Parts { index, shards, job: job.clone(), intake, caller, buffers, worker, help, counters, busy };
            match engine {
                Engine::Uring => match Ring::new(depth, kernel.arena().clone()) {
                    Ok(ring) => {
                        let counters = parts.counters.clone();
                        let (ring, report) = Shard::new(parts, ring).run();
                        counters.add(Count::Submissions, ring.usage().submissions);
                        counters.add(Count::Enters, ring.usage().enters);
                        Some((report, Some(ring.facts()), arena_bytes))
                    }
                    Err(errno) => {
                        job.end_with(Error::os("set up", "io_uring", errno));
                        None
                    }
                },
                Engine::Sync => Some((Shard::new(parts, kernel).run().1, None, arena_bytes)),
            }
        });
        spawned.map_err(|error| Error::refused("threads", format!("cannot be started: {error}")))
    }

    /// A lane's thread. A runtime or client that cannot be made ends the job.
    fn spawn_lane<'scope>(
        &self,
        scope: &'scope Scope<'scope, '_>,
        index: usize,
        (worker, common): (Worker<Work>, Arc<lane::Common>),
        intake: &Arc<Intake>,
        counters: &Arc<Counters>,
    ) -> Result<ScopedJoinHandle<'scope, Option<ShardEnd>>> {
        let (job, lanes, has_ring) = (self.job.clone(), self.crew.shards, self.crew.engine == Engine::Uring);
        let (intake, counters) = (intake.clone(), counters.clone());
        let arena = FixedBuffers::new(1, 4096, 4096)?;
        let thread = std::thread::Builder::new().name(format!("lane-{index}"));
        let spawned = thread.spawn_scoped(scope, move || {
            let busy = job.crowd.enlist();
            let caller: Arc<dyn Caller> = Arc::new(Kernel::new(arena.arena().clone()).telling(busy.clone()));
            let own = job.clone();
            let parts = lane::LaneParts { index, lanes, job, intake, caller, worker, common, counters, busy, has_ring };
            match lane::run(parts) {
                Ok(latency) => Some((ShardReport { latency }, None, 0)),
                Err(error) => {
                    own.end_with(error);
                    None
                }
            }
        });
        spawned.map_err(|error| Error::refused("threads", format!("cannot be started: {error}")))
    }

    /// Lets the conductor decide, and sleeps until there is something to decide.
    fn conduct(&self, conductor: &mut Conductor) -> Result<End> {
        let interval = self.job.config.checkpoint_interval;
        let mut last = Instant::now();
        let busy = self.job.crowd.enlist();
        loop {
            // What takes long here is making data durable.
            busy.set(Activity::WriteDest);
            let step = conductor.step(last.elapsed() >= interval)?;
            busy.set(Activity::NoWork);
            match step {
                Step::Checkpointed => last = Instant::now(),
                Step::Ended(end) => return Ok(end),
                Step::Waiting => {
                    let left = interval.saturating_sub(last.elapsed());
                    self.bell.wait(left.max(Duration::from_millis(1)));
                }
            }
        }
    }

    /// Progress and signals; in the end, what limited the run.
    fn tick(&self, counters: &[Arc<Counters>], stop: &Stop, is_over: &AtomicBool) -> Option<Cause> {
        let former = self.job.catalog.header().totals.entries;
        let former = (former > 0).then_some(former);
        let console = self.job.console.clone();
        let mut progress = Progress::new(console, counters.to_vec(), former, Instant::now());
        let (mut stopped, mut watch) = (None, Watch::new());
        while !is_over.load(Ordering::Acquire) {
            if stop.is_requested() {
                self.job.walker.stop();
                let since = *stopped.get_or_insert_with(Instant::now);
                self.leave_if_late(since);
            }
            let walk = if self.job.walker.is_walked() { Walk::Ended } else { Walk::Running };
            progress.tick(&Moment { now: Instant::now(), walk, streams: self.job.gate.limit() });
            watch.tick(&self.job, false);
            std::thread::park_timeout(TICK);
        }
        progress.finish();
        watch.limits.whole()
    }

    /// A stop does not wait for ever for a slow destination: the checkpoint before the last is as good to resume from.
    fn leave_if_late(&self, stopped: Instant) {
        if stopped.elapsed() < STOP_TIME_MAX {
            return;
        }
        let command = shell_command(&self.job.config.command);
        self.job
            .console
            .error("gfast: interrupted; the last checkpoint is not through, a resume goes on from the one before");
        self.job.console.error(&format!("gfast: resume with: {command}"));
        std::process::exit(ExitCode::Interrupted.code().into());
    }

    fn summary(&self, kind: resume::Kind, names: &(Vec<u8>, Vec<u8>), outcome: Outcome) -> Summary {
        let job = &self.job;
        let pass = job.catalog.header().pass;
        let used = if job.sync_each { SyncPolicy::File } else { job.config.sync };
        Summary {
            run: match kind {
                resume::Kind::First => Run::Copy,
                resume::Kind::Resume | resume::Kind::Retry => Run::Resume { pass },
                resume::Kind::NextPass => Run::Pass { pass },
            },
            end: outcome.end,
            source: names.0.clone(),
            dest: names.1.clone(),
            state: job.catalog.path().as_os_str().as_encoded_bytes().to_vec(),
            command: shell_command(&job.config.command),
            totals: outcome.totals,
            forecast: forecast(&job.catalog.header().passes),
            losses: job.losses.counts(),
            elapsed: self.started.elapsed(),
            streams: job.gate.limit(),
            threads: outcome.shards,
            engine: match outcome.facts {
                None if job.is_remote() => EngineUsed::Lanes { fallback: self.crew.reason.clone() },
                Some(facts) => EngineUsed::Uring { flags: facts.flags.to_owned() },
                None => EngineUsed::Sync { reason: self.crew.reason.clone() },
            },
            registered_bytes: outcome.registered_bytes,
            arena_bytes: outcome.arena_bytes,
            latency: outcome.latency,
            limit: outcome.limit.map(|cause| (cause.key(), cause.text())),
            durability: Durability {
                asked: job.config.sync,
                used,
                keeper: if job.dest.bucket.is_some() { Keeper::Server } else { Keeper::FileSystem },
            },
        }
    }
}

fn gather(end: End, ends: Vec<ShardEnd>, counters: &[Arc<Counters>], limit: Option<Cause>) -> Outcome {
    let mut latency = Latency::default();
    let (mut registered_bytes, mut arena_bytes, mut facts) = (0, 0, None);
    let shards = ends.len();
    for (report, ring, arena) in ends {
        latency.merge(&report.latency);
        arena_bytes += arena;
        registered_bytes += ring.as_ref().map_or(0, |ring| ring.registered_bytes as u64);
        facts = facts.or(ring);
    }
    Outcome { end, shards, totals: Totals::of(counters), latency, facts, registered_bytes, arena_bytes, limit }
}
