//! verify: both sides compared, in parallel, on the copy's own walker and rings.
//!
//! ```text
//! verify -source A -dest B       types, sizes, modes, owners, times, targets, hard links; bytes against bytes
//! verify -dest B -state-dir S    sizes, times and CRC64s as they were recorded; the source is not touched
//! either one in a bucket         the same, by its stored checksums where it has them (bucket.rs)
//! ```
//! Nothing is written on either side. The destination's content is read past the page cache, so that what is compared
//! is what its device holds. Where both sides are read their bytes are compared themselves, which says no less than
//! equal checksums do, and more.

mod attributes;
mod audit;
mod auditor;
mod bucket;
mod compare;
mod content;
mod ends;
mod extras;
mod findings;
mod judge;
mod links;
mod names;
mod reading;
mod sample;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_deque::{Injector, Worker};
use parking_lot::Mutex;

pub use compare::Aspect;
pub use findings::Form;
pub use sample::Sampled;

use crate::bell::Bell;
use crate::catalog::{Catalog, DirId, JobIdentity, KnownBy, RootId};
use crate::config::{
    ARENA_BYTES_MAX, Attributes, BLOCK_BYTES_RANGE, BufferChoice, EngineChoice, FILE_DEPTH, Metadata, Mounts, Output,
    S3Options,
};
use crate::crew::{self, Crew, Engine, Pass};
use crate::engine::{descriptor_limit, raise_descriptor_limit};
use crate::error::{Cause, Error, Result};
use crate::filter::Filter;
use crate::job::JobRoot;
use crate::location::Location;
use crate::report::{Activity, Busy, Console, Crowd, Lookout, Vigil};
use crate::ring::syscalls::Kernel;
use crate::ring::uring::Ring;
use crate::ring::{Caller, FixedBuffers, Name};
use crate::roots::{Root, open_to_read, slow_below};
use crate::selection::{Choice, read_choice};
use crate::stop::Stop;
use crate::walk::{DirNode, Walker, Work};
use audit::{Audit, Tally};
use auditor::Auditor;
use compare::Measure;
use findings::{Findings, Sum};
use links::Groups;
use sample::Sample;

/// Time between two looks at signals.
const TICK: Duration = Duration::from_millis(100);
/// Bytes of a small lease.
const SMALL_LEASE_BYTES: usize = 64 << 10;
/// Least and most blocks of one thread's arena: room for both sides of a large file at its depth.
const BLOCKS_RANGE: std::ops::RangeInclusive<usize> = 4..=32;

/// A comparison, as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the destination is compared with; the catalog in `state_dir` if `None`.
    pub source: Option<Location>,
    /// What is compared.
    pub dest: Location,
    /// Where a job's state is kept.
    pub state_dir: PathBuf,
    /// Files read at once, over all threads.
    pub streams: u32,
    /// Bytes of one read of a large file.
    pub block_bytes: usize,
    /// Which interpreter answers.
    pub engine: EngineChoice,
    /// Whether owner and mode are compared.
    pub metadata: Metadata,
    /// Which attributes are compared beside them.
    pub attributes: Attributes,
    /// Whether mount points below the source are crossed.
    pub mounts: Mounts,
    /// Which names are compared.
    pub filter: Filter,
    /// A file of paths to compare, as in a copy.
    pub files_from: Option<PathBuf>,
    /// Of 100: how much content is compared; all if `None`.
    pub sample: Option<f64>,
    /// Whether holes are compared.
    pub has_holes: bool,
    /// How a source that is a bucket is reached.
    pub source_s3: S3Options,
    /// How a destination that is one is reached.
    pub dest_s3: S3Options,
    /// How differences are written.
    pub form: Form,
    /// Whether nothing but errors goes to stderr.
    pub is_quiet: bool,
    /// Longest time a storage may be silent before that is told.
    pub stall_time: Duration,
}

/// What a comparison came to. Errors that end it early are trouble, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Exit 0: all is the same.
    Same,
    /// Exit 1: something differs.
    Different,
    /// Exit 2: something could not be compared.
    Trouble,
}

impl Verdict {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Verdict::Same => 0,
            Verdict::Different => 1,
            Verdict::Trouble => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Same => "same",
            Verdict::Different => "different",
            Verdict::Trouble => "trouble",
        }
    }
}

/// Compares as `request` asks, until it is done or `stop` is raised; differences go to stdout as they are found.
pub fn run(request: &Request, stop: &Stop) -> Result<Verdict> {
    let started = Instant::now();
    let is_bucket = |location: &Location| matches!(location, Location::S3 { .. });
    raise_descriptor_limit();
    let console = Arc::new(Console::stderr(if request.is_quiet { Output::Quiet } else { Output::Text }));
    let (crowd, _lookout) = watched(request, &console);
    if is_bucket(&request.dest) || request.source.as_ref().is_some_and(is_bucket) {
        return bucket::run(request, stop, started, (console, &crowd));
    }
    let refused = crew::ring_refused(request.engine)?;
    if let Some(reason) = &refused {
        console.note(&format!("gfast: io_uring is not available, plain system calls are used: {reason}"));
    }
    let choice = read_choice(&request.filter, request.files_from.as_deref())?;
    let ends = Ends::open(request, &crowd.enlist())?;
    let bell = Arc::new(Bell::default());
    let slow = ends.slower(request.mounts);
    let crew = Crew::choose(request.engine, refused, slow.as_deref(), (request.streams, Pass::Whole));
    let (walker, workers) = Walker::new(crew.shards, bell.clone());
    let audit = Arc::new(make_audit(request, ends, choice, (walker, &crew), console));
    let root = DirNode::root();
    match &audit.single {
        Some((name, _)) => audit.walker.inject(Work::File(root, name.clone())),
        None => {
            let buffers = FixedBuffers::new(1, 4096, 4096)?;
            audit.compare_roots(&Kernel::new(buffers.arena().clone()).telling(crowd.enlist()));
            audit.walker.inject(Work::List(root));
        }
    }
    let is_interrupted = compare_all((crew.engine, &crowd), &audit, workers, &bell, stop)?;
    if !is_interrupted {
        audit.tell_unmet()?;
    }
    Ok(conclude(request, (&audit.findings, &audit.tally), &audit.dest.path, started, is_interrupted))
}

/// Watches both ends, as long as what comes back is held.
fn watched(request: &Request, console: &Arc<Console>) -> (Arc<Crowd>, Lookout) {
    let crowd: Arc<Crowd> = Arc::default();
    let dest = request.dest.display();
    let source = request.source.as_ref().map_or_else(|| dest.clone(), Location::display);
    let names = (&source[..], &dest[..]);
    let vigil = Vigil::new(console.clone(), crowd.clone(), request.stall_time, names);
    (crowd, Lookout::start(vigil))
}

/// Both ends, open.
struct Ends {
    source: Option<Root>,
    dest: Root,
    single: Option<(Name, Name)>,
    catalog: Option<(Catalog, JobIdentity)>,
}

impl Ends {
    /// Where every operation takes milliseconds: a side, or what is mounted below one.
    fn slower(&self, mounts: Mounts) -> Option<Vec<u8>> {
        let mut sides = [self.source.as_ref(), Some(&self.dest)].into_iter().flatten();
        let side = sides.find(|root| root.file_system.is_remote()).map(|root| root.path.clone());
        let source = self.source.as_ref().unwrap_or(&self.dest);
        side.or_else(|| if self.single.is_some() { None } else { slow_below(source, &self.dest, mounts) })
    }

    /// Opens both; `busy` is told which is waited for.
    fn open(request: &Request, busy: &Busy) -> Result<Ends> {
        busy.set(Activity::DestNames);
        let (dest, dest_name) = open_to_read(&request.dest)?;
        match &request.source {
            Some(source) => {
                busy.set(Activity::SourceNames);
                let (source, name) = open_to_read(source)?;
                let single = match (name, dest_name) {
                    (None, None) => None,
                    (Some(name), None) => Some((name.clone(), name)),
                    (Some(name), Some(dest_name)) => Some((name, dest_name)),
                    (None, Some(_)) => {
                        return Err(Error::refused(
                            &dest.path,
                            "holds the file named as destination, but the source is \
                                                               a directory",
                        ));
                    }
                };
                Ok(Ends { source: Some(source), dest, single, catalog: None })
            }
            None => {
                let path = dest_name.as_ref().map_or(dest.path.clone(), |name| crate::error::join(&dest.path, name));
                // A device may be called otherwise by now.
                let job = Catalog::recorded_between(&request.state_dir, KnownBy::Nothing, dest.known_by(&path));
                let recorded = job.map_or(path.clone(), |job| job.dest);
                let (catalog, identity) = Catalog::open_recorded(&request.state_dir, Some(&recorded))?;
                let then = identity.dest_root;
                if let Some(device) = &dest.device {
                    device.refuse_unknown(then.ino, "compare it with its source (--source)")?;
                }
                let is_it = match &dest.device {
                    Some(device) => device.is_known_as(then.ino),
                    None => {
                        let (ino, birth) = dest.identity();
                        RootId { ino, birth, ..then }.is(&then)
                    }
                };
                if !is_it {
                    let why = "it is not the one this job wrote to: it was replaced, or is not mounted";
                    return Err(Error::refused(path, why));
                }
                let single = dest_name.map(|name| (name.clone(), name));
                Ok(Ends { source: None, dest, single, catalog: Some((catalog, identity)) })
            }
        }
    }
}

fn make_audit(
    request: &Request,
    ends: Ends,
    choice: Choice,
    (walker, crew): (Walker, &Crew),
    console: Arc<Console>,
) -> Audit {
    let is_kept = |identity: &JobIdentity| !identity.options.starts_with(b"metadata=TimesOnly");
    let is_recorded = ends.catalog.as_ref().is_none_or(|(_, identity)| is_kept(identity));
    let state_dir = std::fs::metadata(&request.state_dir).ok();
    let state_dir =
        state_dir.map(|dir| (std::os::unix::fs::MetadataExt::dev(&dir), std::os::unix::fs::MetadataExt::ino(&dir)));
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    let stdout = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout());
    Audit {
        source: JobRoot::of(ends.source.as_ref().unwrap_or(&ends.dest)),
        dest: JobRoot::of(&ends.dest),
        is_of_bucket: ends.catalog.as_ref().is_some_and(|(_, identity)| identity.source.starts_with(b"s3://")),
        catalog: ends.catalog.map(|(catalog, _)| catalog),
        single: ends.single,
        choice,
        measure: Measure {
            has_owner_and_mode: request.metadata == Metadata::Keep && is_recorded,
            attributes: request.attributes,
            granularity_nanos: ends.dest.granularity_nanos(),
        },
        sample: request.sample.map(|percent| Sample::new(percent, seed)),
        has_holes: request.has_holes,
        mounts: request.mounts,
        state_dir,
        walker,
        help: Injector::new(),
        groups: Groups::default(),
        findings: Findings::new(request.form, Box::new(stdout), console),
        next_id: AtomicU64::new(DirId::ROOT.0 + 1),
        found: Mutex::new(HashMap::new()),
        tally: Tally::default(),
        cached_dirs: crew.cached_dirs(descriptor_limit()),
        shards: crew.shards,
        depth: (request.streams as usize).div_ceil(crew.shards),
        block_bytes: fitting_block(request.block_bytes, crew.shards),
    }
}

/// Bytes of a block, so that the least number of blocks of all threads keeps to the bound of memory (I4).
fn fitting_block(asked: usize, shards: usize) -> usize {
    let room = ARENA_BYTES_MAX / shards / BLOCKS_RANGE.start();
    asked.min(1 << room.max(*BLOCK_BYTES_RANGE.start()).ilog2())
}

/// Runs the threads. True if they were stopped before their time.
fn compare_all(
    (engine, crowd): (Engine, &Crowd),
    audit: &Arc<Audit>,
    workers: Vec<Worker<Work>>,
    bell: &Bell,
    stop: &Stop,
) -> Result<bool> {
    let block = audit.block_bytes;
    let blocks = (ARENA_BYTES_MAX / audit.shards / block).clamp(*BLOCKS_RANGE.start(), *BLOCKS_RANGE.end());
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (index, worker) in workers.into_iter().enumerate() {
            let buffers = FixedBuffers::new(blocks, block, SMALL_LEASE_BYTES.min(block));
            let buffers = buffers.inspect_err(|_| audit.walker.stop())?;
            let (shared, busy) = (audit.clone(), crowd.enlist());
            let thread = std::thread::Builder::new().name(format!("verify-{index}"));
            let spawned = thread.spawn_scoped(scope, move || audit_with(engine, shared, worker, (buffers, busy)));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    audit.walker.stop();
                    return Err(Error::refused("threads", format!("cannot be started: {error}")));
                }
            }
        }
        while !audit.walker.is_done() && !audit.walker.is_stopped() {
            bell.wait(TICK);
            audit.findings.flush();
            if stop.is_requested() {
                audit.walker.stop();
            }
        }
        let is_interrupted = !audit.walker.is_done();
        audit.walker.stop();
        threads.into_iter().for_each(|thread| drop(thread.join()));
        Ok(is_interrupted)
    })
}

/// One thread, with the interpreter that its engine means.
fn audit_with(engine: Engine, audit: Arc<Audit>, worker: Worker<Work>, (buffers, busy): (FixedBuffers, Arc<Busy>)) {
    let kernel = Kernel::new(buffers.arena().clone()).telling(busy.clone());
    let caller: Arc<dyn Caller> = Arc::new(kernel.clone());
    let depth = (4 * audit.depth.max(FILE_DEPTH)).clamp(64, 1024);
    match engine {
        Engine::Sync => Auditor::new(audit, caller, worker, (buffers, busy), kernel).run(),
        Engine::Uring => match Ring::new(depth, kernel.arena().clone(), BufferChoice::Registered) {
            Ok(ring) => Auditor::new(audit, caller, worker, (buffers, busy), ring).run(),
            Err(errno) => {
                audit.findings.trouble(&Error::os("set up", "io_uring", errno));
                audit.walker.stop();
            }
        },
    }
}

/// What all that was found comes to.
fn verdict(findings: &Findings, tally: &Tally, path: &[u8]) -> Verdict {
    if tally.unchecked_links.load(Ordering::Relaxed) > 0 {
        let cause =
            Cause::Protected("of some names the hard links were not: more are open at a time than there is room for");
        findings.trouble(&Error { verb: "compare all of", object: path.to_vec(), cause });
    }
    match (findings.troubles(), findings.different()) {
        (0, 0) => Verdict::Same,
        (0, _) => Verdict::Different,
        _ => Verdict::Trouble,
    }
}

fn conclude(
    request: &Request,
    (findings, tally): (&Findings, &Tally),
    path: &[u8],
    started: Instant,
    is_interrupted: bool,
) -> Verdict {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    if is_interrupted && findings.troubles() == 0 {
        let cause = Cause::Protected("it was interrupted; what follows is about a part only");
        findings.trouble(&Error { verb: "compare", object: path.to_vec(), cause });
    }
    let verdict = verdict(findings, tally, path);
    findings.conclude(&Sum {
        verdict: verdict.name(),
        elapsed: started.elapsed(),
        objects: count(&tally.objects),
        bytes_read: count(&tally.bytes_read),
        unproved: count(&tally.unproved),
        unchecked_links: count(&tally.unchecked_links),
        cached: count(&tally.cached),
        sampled: request.sample.map(|percent| Sampled {
            percent,
            bytes_read: count(&tally.bytes_compared),
            bytes: count(&tally.bytes),
            units_read: count(&tally.units_compared),
            units: count(&tally.units),
        }),
    });
    // A summary that could not be written is found out only now.
    if findings.troubles() > 0 { Verdict::Trouble } else { verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_compared_is_not_called_the_same() {
        let findings = || Findings::new(Form::Text, Box::new(Vec::new()), Arc::new(Console::stderr(Output::Quiet)));
        let tally = Tally::default();
        assert_eq!(verdict(&findings(), &tally, b"B"), Verdict::Same);
        tally.unchecked_links.store(1, Ordering::Relaxed);
        let found = findings();
        assert_eq!((verdict(&found, &tally, b"B"), found.troubles()), (Verdict::Trouble, 1));
        let found = findings();
        found.differ(b"a", compare::Aspects::only(Aspect::Size), None);
        assert_eq!(verdict(&found, &tally, b"B"), Verdict::Trouble);
    }
}
