//! One simulated machine: two disks that stay between runs, a state directory, and runs of the production engine on
//! them.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::bell::Bell;
use crate::catalog::{Catalog, JobIdentity, RootId};
use crate::checkpoint::Checkpointer;
use crate::conduct::{Conductor, Step};
use crate::config::{
    Attributes, BufferChoice, ChecksumPolicy, Config, CtimePolicy, DeviceOptions, DirectChoice, EngineChoice,
    FILE_DEPTH, LossPolicy, Metadata, Mounts, Naming, Output, Pilot, ReflinkChoice, Retry, S3Options, SpecialBits,
    SyncPolicy,
};
use crate::crew::{Crew, Engine};
use crate::engine;
use crate::error::{Error, Result, escape};
use crate::filesystem::{FileSystem, Inodes, Reach};
use crate::filter::Filter;
use crate::location::Location;
use crate::outcome::Intake;
use crate::provider::metadata::Identity;
use crate::readback;
use crate::report::{Console, Count, Counters, End, Screen, Totals};
use crate::resume::{self, Kind};
use crate::ring::sim::{Disk, Failure, Faults, Mutation, Random, Sim, Target};
use crate::ring::{Caller, FixedBuffers, Side, Time};
use crate::roots::{DestOrigin, Root, Roots};
use crate::shard::{Parts, Pulse, Shard};
use crate::stop::Stop;
use crate::walk::Walker;

/// Turns of one run after which it counts as endless; whole runs take a tenth of it.
const TURNS_MAX: u32 = 300_000;

/// How the job is run, drawn once for all its runs.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether owner and mode are kept.
    pub metadata: Metadata,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Objects at once.
    pub streams: u32,
    /// What is made durable.
    pub sync: SyncPolicy,
    /// Whether new names are written in place.
    pub naming: Naming,
    /// When the page cache is passed by.
    pub direct: DirectChoice,
    /// Whether checksums are recorded.
    pub checksum: ChecksumPolicy,
    /// Which attributes are kept.
    pub attributes: Attributes,
    /// How many shards there are.
    pub shards: usize,
    /// Blocks of each shard's arena.
    pub blocks: usize,
    /// Bytes after which a batch is due.
    pub checkpoint_bytes: u64,
    /// Whether checkpoints sync before they seal; the one test that must fail leaves it out.
    pub is_synced: bool,
}

impl Style {
    /// The style of `seed`.
    pub fn draw(random: &mut Random) -> Style {
        let mut is = |permille| random.chance(permille);
        let metadata = if is(100) { Metadata::TimesOnly } else { Metadata::Keep };
        let sync = if is(150) { SyncPolicy::File } else { SyncPolicy::Batch };
        let naming = if is(150) { Naming::Atomic } else { Naming::InPlace };
        let direct = if is(200) { DirectChoice::Never } else { DirectChoice::Auto };
        let block_bytes = [4096, 4096, 8192, 16_384][random.index(4)];
        let streams = [1, 2, 7, 32][random.index(4)];
        // No draw of its own: the lives of all seeds stay what they were.
        let is_decorated = metadata == Metadata::Keep && (block_bytes + streams as usize).is_multiple_of(3);
        Style {
            metadata,
            attributes: if is_decorated { Attributes::All } else { Attributes::None },
            block_bytes,
            streams,
            sync,
            naming,
            direct,
            checksum: [ChecksumPolicy::Free, ChecksumPolicy::Keep, ChecksumPolicy::ReadBack][random.index(3)],
            shards: 1 + random.index(3),
            blocks: 2 + random.index(8),
            checkpoint_bytes: [4096, 50_000, 1 << 30][random.index(3)],
            is_synced: true,
        }
    }
}

/// What becomes of the catalog in a power cut. Whatever was committed is there; the question is for how long commits
/// went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogAt {
    /// On the machine that lost its power: no commit after it.
    SameMachine,
    /// Where it goes on (the destination alone was lost): the step under way may still commit.
    Elsewhere,
}

/// One run to be made.
#[derive(Clone, Debug)]
pub struct Order {
    /// Decides all chance.
    pub seed: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// The turn at which a signal asks it to stop.
    pub stop_at: Option<u32>,
    /// Where the catalog is.
    pub catalog_at: CatalogAt,
    /// What is tried again; where that is refused, it is all.
    pub retry: Retry,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults { failures, mutations, crash_at, .. } = &self.faults;
        write!(f, "run {}: crash at {crash_at:?}, stop at {:?}, {:?}", self.seed, self.stop_at, self.catalog_at)?;
        for Failure { side, verb, target, errno, times } in failures {
            let target = match target {
                Target::Name(name) => escape(name),
                Target::From(first) => format!("from {first}"),
            };
            write!(f, "\n  fails {times}: {side:?} {verb:?} {target:?} {errno}")?;
        }
        for Mutation { name, at_touch, change } in mutations {
            write!(f, "\n  changes: {:?} {change:?} at {at_touch}", escape(name))?;
        }
        Ok(())
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Ran {
    /// What it was.
    pub kind: Kind,
    /// How it ended; `None` after a power cut.
    pub end: Option<End>,
    /// What it counted.
    pub totals: Totals,
    /// Operations executed.
    pub ops: u64,
    /// What it wrote to stderr.
    pub said: String,
}

impl Ran {
    /// Objects that did not arrive.
    pub fn failures(&self) -> u64 {
        self.totals.get(Count::Failed) + self.totals.get(Count::Unstable)
    }
}

/// A machine at rest.
pub struct Machine {
    /// The source, and what it was before each change.
    pub source: Disk,
    /// Earlier states of the source, oldest first.
    pub former_sources: Vec<Disk>,
    /// The destination.
    pub dest: Disk,
    /// How the job is run.
    pub style: Style,
    /// Whether there may be sealed files without a record: the power went, or the destination was not empty.
    pub may_adopt: bool,
    /// The state directory.
    state: StateDir,
}

/// A directory of its own, removed at the end.
struct StateDir(PathBuf);

impl StateDir {
    fn new(seed: u64) -> StateDir {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let thread = format!("{:?}", std::thread::current().id()).replace(|c: char| !c.is_ascii_digit(), "");
        let path = parent.join(format!("gfast-simulation-{}-{thread}-{seed}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        StateDir(path)
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// stderr of a run.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A run under way.
struct Run {
    sim: Sim,
    job: Arc<crate::job::Job>,
    conductor: Conductor,
    shards: Vec<Shard<Sim>>,
    stop: Stop,
    random: Random,
}

impl Machine {
    /// A machine with these disks.
    pub fn new(seed: u64, source: Disk, dest: Disk, style: Style) -> Machine {
        let may_adopt = dest.dump().len() > 1;
        Machine { source, former_sources: Vec::new(), dest, style, may_adopt, state: StateDir::new(seed) }
    }

    /// The catalog, to be looked at between runs.
    pub fn catalog(&self) -> Result<Catalog> {
        Catalog::open(&self.state.0, &identity(), false)
    }

    /// Every state the source has been in.
    pub fn sources(&self) -> Vec<&Disk> {
        self.former_sources.iter().chain([&self.source]).collect()
    }

    /// Remembers what the source is, before a test changes it.
    pub fn keep_source(&mut self) {
        self.former_sources.push(self.source.clone());
    }

    /// Makes one run and leaves the disks as it left them: after a power cut, still to be crashed.
    pub fn run(&mut self, order: Order) -> Result<Ran> {
        let catalog = Arc::new(self.catalog()?);
        let data = catalog.path().join("data.mdb");
        let kind = resume::kind(&catalog, order.retry).or_else(|_| resume::kind(&catalog, Retry::WithAll))?;
        resume::begin(&catalog, kind)?;
        let buffers = FixedBuffers::new(1, 4096, 4096)?;
        let (source, dest) = (self.source.clone(), self.dest.clone());
        let sim = Sim::new(order.seed, order.faults.clone(), source, dest, buffers.arena().clone());
        let said = Said::default();
        let counters: Vec<Arc<Counters>> = (0..=self.style.shards).map(|_| Arc::default()).collect();
        let watched = sim.share(buffers.arena().clone());
        let mut last = read(&data);
        let end = match self.start(&order, kind, catalog, sim, &counters, said.clone()) {
            Ok(run) => run.drive(&order, &data, &mut last),
            Err(error) => Some(End::Stopped(error)),
        };
        let is_crashed = watched.crashed();
        let ops = watched.ops();
        self.former_sources.extend(watched.former_sources());
        (self.source, self.dest) = watched.into_disks();
        if is_crashed && order.catalog_at == CatalogAt::SameMachine {
            std::fs::write(&data, &last).map_err(|error| Error::refused("data.mdb", error.to_string()))?;
        }
        let said = String::from_utf8_lossy(&said.0.lock()).into_owned();
        Ok(Ran { kind, end: end.filter(|_| !is_crashed), totals: Totals::of(&counters), ops, said })
    }

    fn start(
        &self,
        order: &Order,
        kind: Kind,
        catalog: Arc<Catalog>,
        sim: Sim,
        counters: &[Arc<Counters>],
        said: Said,
    ) -> Result<Run> {
        let style = self.style;
        let bell = Arc::new(Bell::default());
        let (walker, workers) = Walker::new(style.shards, bell.clone());
        let console = Arc::new(Console::new(Screen::Log, Box::new(said)));
        let retry = if kind == Kind::Retry { Retry::FailedOnly } else { Retry::WithAll };
        let (roots, config) = (roots(&sim), Config { retry, ..config(&style) });
        let crew = Crew {
            engine: Engine::Uring,
            shards: style.shards,
            slots: style.shards,
            reach: Reach::Local,
            reason: None,
        };
        let mut job = engine::make_job(&config, &roots, catalog, kind, (walker, &crew), console)?;
        job.identity = Identity { uid: 0, gid: 0, umask: config.umask };
        let job = Arc::new(job);
        let intake = Arc::new(Intake::new(style.shards, config.checkpoint_bytes, bell));
        let buffers = readback::buffers(&config, 1)?;
        let caller: Arc<dyn Caller> = Arc::new(sim.share(buffers.arena().clone()));
        let root = engine::prepare_root(&job, &roots, &*caller)?;
        let main = counters[style.shards].clone();
        let mut checkpointer = Checkpointer::new(job.clone(), caller, intake.clone(), main, (1, buffers))?;
        checkpointer.skips_sync = !style.is_synced;
        let stop = Stop::new();
        let conductor = Conductor::new(job.clone(), checkpointer, counters.to_vec(), stop.clone());
        resume::start(&job, kind, root)?;
        let common = Arc::default();
        let mut shards = Vec::new();
        for (index, worker) in workers.into_iter().enumerate() {
            let buffers = FixedBuffers::new(style.blocks, style.block_bytes, 4096)?;
            let interpreter = sim.share(buffers.arena().clone());
            let parts = Parts {
                index,
                job: job.clone(),
                intake: intake.clone(),
                caller: Arc::new(sim.share(buffers.arena().clone())),
                buffers,
                worker,
                common: Arc::clone(&common),
                counters: counters[index].clone(),
                busy: job.crowd.enlist(),
                cached_dirs: job.cached_dirs,
            };
            job.gate.join(1);
            shards.push(Shard::new(parts, interpreter));
        }
        Ok(Run { sim, job, conductor, shards, stop, random: Random::new(order.seed ^ 0x0071_0075) })
    }
}

impl Run {
    /// Shards and conductor in turns, as chance has it, to the end. `last` is the catalog before the step in which the
    /// power went.
    fn drive(mut self, order: &Order, data: &Path, last: &mut Vec<u8>) -> Option<End> {
        let end = self.conduct(order, data, last);
        self.job.walker.stop();
        for shard in &mut self.shards {
            let over = (0..TURNS_MAX).any(|_| shard.turn() == Pulse::Over);
            assert!(over, "a shard does not end");
        }
        if self.sim.crashed() {
            return None;
        }
        keep(order, data, last);
        Some(self.conductor.conclude(end?))
    }

    /// Now and then, more or fewer streams, or a pause for some turns.
    fn steer(&self, hand: &mut Random) {
        let gate = &self.job.gate;
        if hand.chance(4) {
            gate.set_limit(1 + hand.index(9) as u32);
        }
        match gate.is_paused() {
            true => gate.set_paused(!hand.chance(30)),
            false => gate.set_paused(hand.chance(1)),
        }
        assert!(gate.used() <= gate.max(), "{gate:?}");
    }

    fn conduct(&mut self, order: &Order, data: &Path, last: &mut Vec<u8>) -> Option<Result<End>> {
        let count = self.shards.len();
        let mut is_idle = vec![false; count];
        // A generator of its own: lives are the same whether anybody steers them or not, but for what is steered.
        let mut hand = Random::new(order.seed ^ 0x0057_6565_7273);
        for turn in 0..TURNS_MAX {
            if self.sim.crashed() {
                return None;
            }
            self.steer(&mut hand);
            if order.stop_at == Some(turn) {
                self.stop.request();
                self.job.walker.stop();
            }
            let next = self.random.index(8 * count + 1);
            if next < 8 * count {
                let index = next % count;
                is_idle[index] = self.shards[index].turn() == Pulse::Idle;
                self.job.walker.set_hungry(is_idle.iter().filter(|idle| **idle).count());
                if is_idle.contains(&false) {
                    continue;
                }
            }
            keep(order, data, last);
            match self.conductor.step(self.random.chance(150)) {
                Ok(Step::Checkpointed | Step::Waiting) => {}
                Ok(Step::Ended(end)) => return Some(Ok(end)),
                Err(error) => return Some(Err(error)),
            }
        }
        panic!("the run does not end: {:?}", self.job.walker);
    }
}

/// Keeps the catalog as it is, if the power may go.
fn keep(order: &Order, data: &Path, last: &mut Vec<u8>) {
    if order.faults.crash_at.is_some() && order.catalog_at == CatalogAt::SameMachine {
        *last = read(data);
    }
}

fn read(data: &Path) -> Vec<u8> {
    std::fs::read(data).expect("the catalog's file is there")
}

fn identity() -> JobIdentity {
    let root = RootId { ino: 2, birth: Time::default(), dev: 0 };
    let (source, dest) = (b"/source".to_vec(), b"/dest".to_vec());
    let (source_server, dest_server) = (String::new(), String::new());
    JobIdentity { source, dest, source_root: root, dest_root: root, options: Vec::new(), source_server, dest_server }
}

fn roots(sim: &Sim) -> Roots {
    let root = |side, path: &[u8]| Root {
        handle: sim.root(side),
        path: path.to_vec(),
        stat: sim.with_disk(side, |disk| disk.stat_path(b"")).expect("the root is there"),
        birth: Time::default(),
        file_system: FileSystem::Ext,
        inodes: Inodes::Lasting,
        device: None,
    };
    let (source, dest) = (root(Side::Source, b"/source"), root(Side::Dest, b"/dest"));
    Roots { source, dest, dest_origin: DestOrigin::Found, single: None }
}

fn config(style: &Style) -> Config {
    Config {
        source: Location::Posix("/source".into()),
        dest: Location::Posix("/dest".into()),
        streams: style.streams,
        pilot: Pilot::User,
        metrics_addr: None,
        bytes_per_s: None,
        ops_per_s: None,
        block_bytes: style.block_bytes,
        file_depth: FILE_DEPTH,
        buffers: BufferChoice::Registered,
        state_dir: PathBuf::new(),
        metadata: style.metadata,
        attributes: style.attributes,
        engine: EngineChoice::Auto,
        direct: style.direct,
        reflink: ReflinkChoice::Auto,
        sync: style.sync,
        naming: style.naming,
        losses: LossPolicy::Count,
        checkpoint_interval: Duration::ZERO,
        checkpoint_bytes: style.checkpoint_bytes,
        mounts: Mounts::Cross,
        source_s3: S3Options::default(),
        dest_s3: S3Options::default(),
        part_bytes: None,
        checksum: style.checksum,
        ctime: CtimePolicy::Heed,
        devices: DeviceOptions::default(),
        special_bits: SpecialBits::Leave,
        filter: Filter::default(),
        files_from: None,
        retry: Retry::WithAll,
        delete: None,
        output: Output::Quiet,
        umask: 0o022,
        command: Vec::new(),
        stop_time: crate::config::STOP_TIME_MAX,
        stall_time: crate::config::STALL_TIME_MAX,
        open: Vec::new(),
    }
}
