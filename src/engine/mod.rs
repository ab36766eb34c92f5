//! One run of a job, from the checks before it to the summary after it.
//!
//! ```text
//! main thread    checks -> catalog -> roots -> shards start -> checkpoints, refills -> end of the pass -> summary
//! shard threads  walk, read, write; outcomes into the intake                       (team.rs)
//! ticker thread  progress line, signals, threads as the streams need them
//! control thread the control socket's clients                                      (control/)
//! ```
//!
//! The main thread sleeps on a bell: a batch is due, only the catalog has work left, nothing is left, or a stop was
//! asked for.

mod autopilot;
pub(crate) mod emptied;
pub(crate) mod ends;
mod overwriting;
mod renamed;
mod team;
mod watch;

use std::collections::HashMap;
use std::io::PipeWriter;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crossbeam_deque::Worker;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit};

use self::autopilot::Autopilot;
use self::ends::Ends;
use self::team::{Figures, Team};
use self::watch::Watch;
use crate::bell::Bell;
use crate::boards::Boards;
use crate::catalog::{Catalog, JobIdentity, RootId};
use crate::checkpoint::Checkpointer;
use crate::conduct::{Conductor, Step};
use crate::config::{
    Attributes, Config, DESCRIPTOR_TABLE, Metadata, Pilot, ReflinkChoice, Retry, STREAMS_MAX, SyncPolicy,
};
use crate::control::{self, Desk, Facts};
use crate::crew::{self, Crew, Pass};
use crate::error::{Error, Result};
use crate::filesystem::KernelVersion;
use crate::gate::Gate;
use crate::job::{Job, JobRoot, Past, Reflink};
use crate::limits::Verdict;
use crate::links::LinkMap;
use crate::listing::handed_on;
use crate::location::Location;
use crate::naming::Naming;
use crate::nudges::Nudges;
use crate::outcome::Intake;
use crate::plan::{Again, Progress as Standing};
use crate::provider::metadata::Identity;
use crate::provider::posix::Posix;
use crate::provider::s3;
use crate::readback;
use crate::report::{
    Activity, Console, Counters, Crowd, Durability, End, EngineUsed, ExitCode, Failures, Keeper, Latency, Limited,
    Lookout, Losses, Moment, Notes, Progress, Run, Summary, Totals, Vigil, Walk, forecast, shell_command,
};
use crate::resume;
use crate::ring::syscalls::Kernel;
use crate::ring::{Caller, Side, Time};
use crate::roots::{DestOrigin, Root, Roots};
use crate::selection::{Choice, read_choice};
use crate::stop::Stop;
use crate::temporaries::Temporaries;
use crate::transfer;
use crate::walk::{DestDir, DirNode, Recent, Walker, Work};

/// Time between two looks at signals and progress, and for outcomes once they are overdue.
const TICK: Duration = Duration::from_millis(100);

/// Runs the job that `config` asks for, until it is done or asked to stop.
pub fn run(config: &Config, asks: &Asks) -> Result<Summary> {
    let started = Instant::now();
    let refused = crew::ring_refused(config.engine)?;
    let listener = config.metrics_addr.map(control::metrics::listen).transpose()?;
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
    let (crowd, lookout) = watched(config, &console);
    let Ends { mut roots, names, source, dest } = open_ends(config, &crowd)?;
    let recorded = renamed::recorded_names(config, &mut roots, &names, &console);
    renamed::refuse_unknown(config, &roots, &recorded)?;
    overwriting::refuse(config, &roots, source.as_ref(), &recorded)?;
    let identity = identity_of(config, &choice, &recorded, &roots);
    let catalog = Arc::new(Catalog::open(&config.state_dir, &identity, false)?);
    let kind = resume::kind(&catalog, config.retry)?;
    emptied::refuse(config, &catalog, kind, (&roots, &names.1, dest.as_ref()))?;
    catalog.raise_format(&identity)?;
    resume::begin(&catalog, kind)?;

    let streams = affordable_streams(config, &console);
    let is_remote = source.is_some() || dest.is_some();
    let slow = if is_remote { None } else { roots.slower(config.mounts) };
    let is_walk = !is_remote && !roots.has_device();
    let pass = if kind == resume::Kind::NextPass && is_walk { Pass::Repeat } else { Pass::Whole };
    let crew = Crew::choose(config.engine, refused, slow.as_deref(), (streams, pass)).growing(streams_max());
    let config = &crew.fit(&Config { streams, ..config.clone() });
    let bell = Arc::new(Bell::default());
    let (walker, workers) = Walker::new(crew.slots, bell.clone());
    let mut job = make_job(config, &roots, catalog, kind, (walker, &crew), console)?;
    job.choice = choice;
    (job.source.bucket, job.dest.bucket, job.crowd) = (source, dest, crowd);
    if job.dest.bucket.is_some() || job.dest.device.is_some() {
        job.superblocks.get_mut().clear();
    }
    job.gate.limits.bytes.set(config.bytes_per_s);
    job.gate.limits.ops.set(config.ops_per_s);
    let job = Arc::new(job);
    let header = job.catalog.header();
    let facts = Facts {
        source: names.0.clone(),
        dest: names.1.clone(),
        run: run_of(kind, header.pass).name(),
        former_entries: Some(header.totals.entries).filter(|entries| *entries > 0),
        started,
    };
    let setup = Setup { job, bell, crew, roots, listener, started };
    let outcome = setup.run(kind, facts, (workers, lookout), asks)?;
    Ok(setup.summary(kind, &names, outcome))
}

/// Watches both ends from the first question on, until the threads of the job are watched by its ticker.
fn watched(config: &Config, console: &Arc<Console>) -> (Arc<Crowd>, Lookout) {
    let crowd: Arc<Crowd> = Arc::default();
    let names = (&config.source.display()[..], &config.dest.display()[..]);
    let vigil = Vigil::new(console.clone(), crowd.clone(), config.stall_time, names);
    (crowd, Lookout::start(vigil))
}

/// Opens both ends, and makes durable what was made for it.
fn open_ends(config: &Config, crowd: &Crowd) -> Result<Ends> {
    let busy = crowd.enlist();
    let ends = ends::open(config, &busy)?;
    if ends.dest.is_none() {
        busy.set(Activity::DestNames);
        make_root_durable(&ends.roots)?;
    }
    Ok(ends)
}

/// What may be asked of a run while it runs.
#[derive(Debug, Default)]
pub struct Asks {
    /// To end it.
    pub stop: Stop,
    /// For more or fewer streams.
    pub nudges: Nudges,
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
    grow_descriptor_table();
}

/// Makes the kernel's table of open files as large as a job needs it, while the process has one thread. It grows by
/// doubling, and each step of a process with threads waits for an RCU grace period (`expand_files` in Linux's
/// fs/file.c; 10 to 20 ms), with every thread that opens a file: a pass over 100,000 unchanged files took 0.25 s with
/// such steps and takes 0.20 s without.
fn grow_descriptor_table() {
    let last = descriptor_limit().min(DESCRIPTOR_TABLE) - 1;
    let Ok(last) = i32::try_from(last) else { return };
    // Refused, the table grows as it is used.
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = rustix::io::fcntl_dupfd_cloexec(&null, last);
    }
}

pub(crate) fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Streams as the descriptor limit allows them: each may hold two directories and four files of its own, and a few
/// descriptors are the process's.
fn streams_max() -> u32 {
    let affordable = descriptor_limit().saturating_sub(64) / 8;
    u32::try_from(affordable).unwrap_or(u32::MAX).clamp(1, STREAMS_MAX)
}

fn affordable_streams(config: &Config, console: &Console) -> u32 {
    let (limit, affordable) = (descriptor_limit(), streams_max());
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

/// Whose catalog a run of these ends and options takes for its own.
pub(crate) fn identity_of(config: &Config, choice: &Choice, names: &(Vec<u8>, Vec<u8>), roots: &Roots) -> JobIdentity {
    let root_id = |root: &Root| match &root.device {
        Some(device) => RootId { ino: device.identity(), birth: Time::default(), dev: device.number() },
        None => {
            let (ino, birth) = root.identity();
            RootId { ino, birth, dev: root.stat.dev }
        }
    };
    let attributes = match config.attributes {
        Attributes::None => String::new(),
        kept => format!(" attributes={kept:?}"),
    };
    let server_of = |end: &Location, options| match end {
        Location::S3 { .. } => s3::server_id(options, &s3::process_variables()),
        Location::Posix(_) => String::new(),
    };
    let (metadata, mounts, choice) = (config.metadata, config.mounts, choice.to_text());
    JobIdentity {
        source: names.0.clone(),
        dest: names.1.clone(),
        source_root: root_id(&roots.source),
        dest_root: root_id(&roots.dest),
        options: format!("metadata={metadata:?} mounts={mounts:?}{attributes}{choice}").into_bytes(),
        source_server: server_of(&config.source, &config.source_s3),
        dest_server: server_of(&config.dest, &config.dest_s3),
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
    let last_note = catalog.reader()?.notes()?.last().map(|(serial, _)| *serial);
    let (source, dest) = (JobRoot::of(&roots.source), JobRoot::of(&roots.dest));
    let is_untrusted = !roots.dest.file_system.trusts_syncfs(KernelVersion::running());
    let syncs_each = config.sync == SyncPolicy::File || (config.sync == SyncPolicy::Batch && is_untrusted);
    let refused = if config.reflink == ReflinkChoice::Never { Reflink::Refused } else { Reflink::Untried };
    Ok(Job {
        identity: Identity {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: config.umask,
        },
        superblocks: Mutex::new(HashMap::from([(dest.stat.dev, dest.handle.clone())])),
        link_changes: Mutex::default(),
        unsynced: Mutex::default(),
        unsyncable: Mutex::default(),
        source,
        dest,
        nowhere: ends::nowhere()?,
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
            inodes: roots.source.inodes,
            again: Again::of(config),
        },
        temporaries: Temporaries::new(header.job_id),
        state_dir: catalog.state_dev_ino(),
        source_dev: catalog.source_dev()?.unwrap_or(roots.source.stat.dev),
        began: Time::now(),
        clock_reach: roots.source.file_system.clock_reach(),
        sync_each: AtomicBool::new(syncs_each),
        granularity_nanos: AtomicU32::new(roots.dest.granularity_nanos()),
        measured_nanos: OnceLock::new(),
        dest_file_system: roots.dest.file_system,
        is_dest_remote: AtomicBool::new(roots.dest.file_system.is_remote()),
        is_dest_doubted: AtomicBool::new(!roots.dest.file_system.does_as_it_says()),
        seen: Recent::default(),
        twins: Recent::default(),
        naming: Naming::default(),
        forms: Mutex::default(),
        walker,
        gate: Gate::new(config.streams, streams_max(), 0),
        links: LinkMap::default(),
        failures: Failures::new(console.clone()),
        losses: Losses::new(console.clone()),
        notes: Notes::new(console.clone()),
        next_note: AtomicU64::new(last_note.map_or(0, |serial| serial + 1)),
        boards: Boards::new(crew.slots),
        lost: Mutex::default(),
        clashes: Mutex::default(),
        is_cleared: AtomicBool::new(false),
        console,
        crowd: Arc::default(),
        file_depth: crew.file_depth(config),
        reach: crew.reach,
        cached_dirs: crew.cached_dirs(descriptor_limit()),
        next_id: AtomicU64::new(header.next_id),
        is_resealed: AtomicBool::new(false),
        fatal: Mutex::new(None),
        reflink: AtomicU8::new(refused as u8),
        unreadable: Mutex::default(),
        standing: Default::default(),
        config: config.clone(),
        catalog,
    })
}

/// Clears the way at the destination's root, which is nobody's child, and tells what is known of it.
pub(crate) fn prepare_root(job: &Job, roots: &Roots, caller: &dyn Caller) -> Result<Arc<DirNode>> {
    let (dest, root, node) = (Posix::new(caller, Side::Dest), &job.dest, DirNode::root());
    let is_made = roots.dest_origin == DestOrigin::Made;
    if root.bucket.is_some() {
        node.set_dest(if is_made { DestDir::Created } else { DestDir::Existing });
        return Ok(node);
    }
    let failed = |errno| Error::os("prepare", &root.path, errno);
    let is_ours = job.identity.uid == root.stat.uid && root.stat.uid != 0;
    let is_kept = job.config.metadata == Metadata::Keep && roots.single.is_none();
    if is_ours && is_kept && root.stat.permissions() & 0o700 != 0o700 {
        node.note_widened();
        dest.set_mode(&root.handle, root.stat.permissions() | 0o700).map_err(failed)?;
    }
    node.set_dest(match handed_on(job, dest, &root.handle, &root.stat).map_err(failed)? {
        // Made for a tree it is shut as yet.
        DestDir::ExistingWithGroup if is_made && job.single.is_none() => DestDir::Created,
        DestDir::Existing if is_made => DestDir::Created,
        handed => handed,
    });
    Ok(node)
}

/// A run, made up and not yet started.
struct Setup {
    /// The job.
    job: Arc<Job>,
    /// Wakes the main thread.
    bell: Arc<Bell>,
    /// Who does it.
    crew: Crew,
    /// Both ends.
    roots: Roots,
    /// Where figures are asked for.
    listener: Option<TcpListener>,
    /// When the run began.
    started: Instant,
}

/// What came of a run.
struct Outcome {
    /// How it ended.
    end: End,
    /// What its threads came to.
    figures: Figures,
    /// Everything that was counted.
    totals: Totals,
    /// What the threads measured.
    latency: Latency,
    /// What limited the run.
    limit: Option<Verdict>,
}

impl Setup {
    fn run(
        &self,
        kind: resume::Kind,
        facts: Facts,
        (workers, lookout): (Vec<Worker<Work>>, Lookout),
        asks: &Asks,
    ) -> Result<Outcome> {
        let job = &self.job;
        let slots = self.crew.slots;
        let counters: Vec<Arc<Counters>> = (0..=slots).map(|_| Arc::new(Counters::default())).collect();
        let intake = Arc::new(Intake::new(slots, job.config.checkpoint_bytes, self.bell.clone()));
        let sealers = self.crew.sealers();
        let buffers = readback::buffers(&job.config, sealers)?;
        let kernel = Kernel::new(buffers.arena().clone()).telling(job.crowd.enlist_helpers());
        let caller: Arc<dyn Caller> = Arc::new(kernel);
        transfer::note_unasked(job, &*caller);
        let root = prepare_root(job, &self.roots, &*caller)?;
        let main = Arc::clone(&counters[slots]);
        let checkpointer = Checkpointer::new(job.clone(), caller, intake.clone(), main, (sealers, buffers))?;
        let mut conductor = Conductor::new(job.clone(), checkpointer, counters.clone(), asks.stop.clone());
        resume::start(job, kind, root)?;
        let former_entries = facts.former_entries;
        let desk = Desk::new(job.clone(), counters.clone(), asks.stop.clone(), facts);
        job.gate.set_auto(job.config.pilot == Pilot::Job);
        desk.nudge(asks.nudges.take());
        let team = Team::new(self.crew.clone(), job.clone(), intake, counters.clone(), workers);
        team.adjust()?;
        let progress = Progress::new(job.console.clone(), counters.clone(), former_entries, Instant::now());
        let is_over = AtomicBool::new(false);
        drop(lookout);
        let (end, figures, limit) = std::thread::scope(|scope| {
            let ticker = scope.spawn(|| self.tick(progress, asks, (&desk, &team), &is_over));
            let served = self.serve(scope, &desk);
            let measured = self.show(scope, &desk);
            let end = self.conduct(&mut conductor);
            job.walker.stop();
            let figures = team.close();
            let end = conductor.conclude(end);
            is_over.store(true, Ordering::Release);
            ticker.thread().unpark();
            let limit = ticker.join().ok().flatten();
            // Closed: the threads of the control socket and of the figures end.
            drop((served, measured));
            (end, figures, limit)
        });
        job.failures.finish();
        if let End::Stopped(error) = &end {
            job.console.error(&format!("gfast: stopped: {error}"));
        }
        Ok(Outcome { end, figures, totals: Totals::of(&counters), latency: job.boards.latency(), limit })
    }

    /// Opens the control socket, which closes when what comes back is dropped. A job that cannot have one does without.
    fn serve<'scope>(&self, scope: &'scope Scope<'scope, '_>, desk: &'scope Desk) -> Option<PipeWriter> {
        let opened = control::listen(self.job.catalog.path()).and_then(|socket| Ok((socket, std::io::pipe()?)));
        match opened {
            Ok((socket, (end, closes))) => {
                scope.spawn(move || control::serve(desk, socket, &end));
                Some(closes)
            }
            Err(error) => {
                self.job.console.note(&format!("gfast: no control socket, gfast ctl cannot reach this job: {error}"));
                None
            }
        }
    }

    /// Serves figures for Prometheus, where that was asked for, until what comes back is dropped.
    fn show<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, desk: &'scope Desk) -> Option<PipeWriter> {
        let listener = self.listener.as_ref()?;
        let (end, closes) = std::io::pipe().ok()?;
        scope.spawn(move || control::metrics::serve(desk, listener, &end));
        Some(closes)
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
            // A turn is no answer: those of the storage are counted where it is asked.
            busy.note(Activity::NoWork);
            match step {
                Step::Checkpointed => last = Instant::now(),
                Step::Ended(end) => return Ok(end),
                Step::Waiting => {
                    let left = interval.saturating_sub(last.elapsed());
                    // The interval is over and nothing was done in it: the first that is comes without a bell.
                    self.bell.wait(if left.is_zero() { interval.min(TICK) } else { left });
                }
            }
        }
    }

    /// Progress, signals, and threads as the streams need them; in the end, what limited the run.
    fn tick(
        &self,
        mut progress: Progress,
        asks: &Asks,
        (desk, team): (&Desk, &Team),
        is_over: &AtomicBool,
    ) -> Option<Verdict> {
        let (mut stopped, mut watch, mut autopilot) = (None, Watch::new(), Autopilot::default());
        while !is_over.load(Ordering::Acquire) {
            if asks.stop.is_requested() {
                self.job.walker.stop();
                // What is under way is finished, as fast as it goes.
                self.job.gate.limits.lift();
                let since = *stopped.get_or_insert_with(Instant::now);
                self.leave_if_late(since);
            }
            desk.nudge(asks.nudges.take());
            // Only the first thread is indispensable, and it is there.
            let _ = team.adjust();
            let walk = if self.job.walker.is_walked() { Walk::Ended } else { Walk::Running };
            progress.tick(&Moment { now: Instant::now(), walk, streams: self.job.gate.limit() });
            autopilot.tick(&self.job, desk.work(), Instant::now());
            watch.tick(&self.job, self.job.gate.is_paused());
            desk.watch(Instant::now());
            desk.set_limit(watch.limits.now(&desk.latency()));
            std::thread::park_timeout(TICK);
        }
        progress.finish();
        watch.limits.whole(&desk.latency())
    }

    /// A stop does not wait for ever for a slow destination: the checkpoint before the last is as good to resume from.
    fn leave_if_late(&self, stopped: Instant) {
        if stopped.elapsed() < self.job.config.stop_time {
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
        let used = if job.syncs_each() { SyncPolicy::File } else { job.config.sync };
        Summary {
            run: run_of(kind, pass),
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
            changes: job.notes.count(),
            threads: outcome.figures.threads,
            engine: match outcome.figures.facts {
                None if job.is_remote() => EngineUsed::Lanes { fallback: self.crew.reason.clone() },
                Some(facts) => EngineUsed::Uring { flags: facts.flags.to_owned() },
                None => EngineUsed::Sync { reason: self.crew.reason.clone().or(outcome.figures.refused) },
            },
            registered_bytes: outcome.figures.registered_bytes,
            arena_bytes: outcome.figures.arena_bytes,
            file_depth: job.file_depth,
            latency: outcome.latency,
            limit: outcome.limit.map(|verdict| Limited {
                name: verdict.cause.key(),
                text: verdict.text(),
                waits: verdict.waits,
            }),
            durability: Durability {
                asked: job.config.sync,
                used,
                keeper: match (&job.dest.bucket, &job.dest.device) {
                    (Some(_), _) => Keeper::Server,
                    (None, Some(_)) => Keeper::Device,
                    (None, None) => Keeper::FileSystem,
                },
            },
            unreadable: job.unreadable.lock().clone(),
        }
    }
}

fn run_of(kind: resume::Kind, pass: u32) -> Run {
    match kind {
        resume::Kind::First => Run::Copy,
        resume::Kind::Resume | resume::Kind::Retry => Run::Resume { pass },
        resume::Kind::NextPass => Run::Pass { pass },
    }
}
