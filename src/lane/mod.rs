//! A lane: one thread, one runtime, and the objects that pass through it to or from S3.
//!
//! ```text
//! loop     names from slices of listings, work from the walker, while streams and the intake allow
//! task     one listing (listing.rs) or one object (upload.rs, download.rs, relay.rs), asynchronous
//! parts    a large object cut in parts, by the tasks of all lanes (parts.rs)
//! ```
//!
//! What a shard is for two file systems, a lane is where a bucket is on either side; walker, catalog, checkpoints and
//! outcomes are the same. File operations go to tokio-uring's ring on this thread (disk.rs), requests to the HTTP
//! client beside it; metadata is asked by plain system calls. Memory is bounded by bytes before streams bound it
//! (buffers.rs). When the walker is stopped a lane starts nothing, waits for all its tasks, and ends: no operation is
//! ever dropped (I3).

mod breaks;
mod buffers;
mod disk;
pub(crate) mod download;
mod large;
pub(crate) mod listing;
mod parts;
mod proof;
pub(crate) mod publish;
pub(crate) mod relay;
mod salvage;
mod stream;
mod twins;
pub(crate) mod upload;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use crossbeam_deque::{Injector, Steal, Worker};
use tokio::sync::{Notify, OnceCell};

use crate::boards::Open;
use crate::config::{LANE_BYTES, LISTINGS_PER_LANE, SLICES_PER_LANE, UNSTABLE_ATTEMPTS_MAX};
use crate::errand::{Errand, Errands};
use crate::error::{Cause, Class, Error, Result};
use crate::gate::Turn;
use crate::job::{Job, Place, fnv1a};
use crate::links::LinkKey;
use crate::listing::open_side;
use crate::outcome::{Intake, What};
use crate::provider::s3::Client;
use crate::report::{Activity, Busy, Counters, Latency, Meter, Weight};
use crate::ring::{Caller, Handle, Name, Side};
use crate::transfer::{Ending, ending_of};
use crate::walk::{DirCache, DirNode, DirPair, Entry, Work};
use breaks::Breaks;
use buffers::Pool;
use disk::Disk;
pub(crate) use parts::Parts;

/// Time after which a lane with nothing to do looks for work of other lanes.
const IDLE: Duration = Duration::from_millis(5);
/// Longest sleep before the limits are looked at again: they may have changed.
const SPEND_TIME_MAX: Duration = Duration::from_millis(50);

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From a file system into a bucket.
    Up,
    /// From a bucket into a file system.
    Down,
    /// From a bucket into a bucket.
    Across,
}

/// Names of a directory that wait for their turn.
struct Slice {
    /// The directory.
    dir: Arc<DirNode>,
    /// Its sides, as far as they are directories.
    open: DirPair,
    /// The names.
    entries: VecDeque<Entry>,
}

/// One lane.
pub(crate) struct Lane {
    /// What it does with names.
    errands: Errands,
    /// Which way the data goes.
    way: Way,
    /// Asks the source's bucket.
    source: Option<Client>,
    /// Asks the destination's bucket.
    dest: Option<Client>,
    /// Who reads and writes files.
    disk: Disk,
    /// What it shares with the others.
    common: Arc<Common>,
    /// Its open directories, of the side that has any.
    cache: RefCell<DirCache<Handle>>,
    /// Names that wait.
    slices: RefCell<VecDeque<Slice>>,
    /// A name taken from the walker before there was a stream for it.
    waiting: RefCell<Option<Errand>>,
    /// Listings under way.
    listings: Cell<usize>,
    /// Objects under way, and parts of other lanes' objects.
    active: Cell<usize>,
    /// Told when a task has ended, or names were added.
    news: Notify,
    /// Told when a slice was used up.
    room: Notify,
    /// What it measured.
    latency: RefCell<Latency>,
    /// Told what this thread is busy with.
    busy: Arc<Busy>,
    /// Objects under way, by their number.
    open: RefCell<BTreeMap<u64, Seen>>,
    /// The number of the next object.
    begun: Cell<u64>,
}

/// What all lanes of a job share.
pub(crate) struct Common {
    /// Large objects to help with.
    help: Injector<Arc<Parts>>,
    /// Memory for parts: one budget, however many lanes there are (I4).
    pool: Arc<Pool>,
    /// Memory for slices of parts that are sent as they are read: a part of that budget, once there is such a part.
    slices: OnceCell<Arc<Pool>>,
    /// Why a lane has no ring although it should, once that was said.
    refused: OnceLock<String>,
    /// Set once it was said that keys of others are taken for escaped names.
    unescaped: OnceLock<()>,
}

impl Default for Common {
    fn default() -> Common {
        let (slices, refused, unescaped) = (OnceCell::new(), OnceLock::new(), OnceLock::new());
        Common { help: Injector::new(), pool: Pool::new(LANE_BYTES), slices, refused, unescaped }
    }
}

/// An object under way, as it is told of.
struct Seen {
    /// Its directory.
    dir: Arc<DirNode>,
    /// Its name there.
    name: Name,
    /// Its size in bytes, as far as known.
    size: u64,
    /// When it was begun.
    began: Instant,
    /// Its parts, if it has any; they hold its file, which is closed when the object is done.
    parts: Weak<Parts>,
    /// Whether it has, or had.
    has_parts: bool,
    /// Counts its bytes as they pass, if it is in one piece.
    meter: Arc<Meter>,
}

impl Seen {
    fn new(errand: &Errand, meter: Arc<Meter>) -> Seen {
        let (dir, name) = (errand.place.dir.clone(), errand.place.name.clone());
        let size = errand.listed.map_or(0, |listed| listed.size);
        Seen { dir, name, size, began: Instant::now(), parts: Weak::new(), has_parts: false, meter }
    }

    fn cut(&mut self, parts: &Arc<Parts>) {
        (self.parts, self.has_parts) = (Arc::downgrade(parts), true);
    }

    fn told(&self) -> Open {
        let whole = || (self.size, self.meter.passed());
        let (size, done) = self.parts.upgrade().map_or_else(whole, |parts| (parts.size, parts.done_bytes()));
        Open { path: self.dir.path_of(&self.name), size, done, began: self.began }
    }
}

/// What a lane is made of.
pub(crate) struct LaneParts {
    /// Its number.
    pub index: usize,
    /// The job.
    pub job: Arc<Job>,
    /// Where outcomes go.
    pub intake: Arc<Intake>,
    /// Answers straight-line work.
    pub caller: Arc<dyn Caller>,
    /// Its own queue.
    pub worker: Worker<Work>,
    /// What they share.
    pub common: Arc<Common>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// Told what its thread is busy with.
    pub busy: Arc<Busy>,
    /// Whether files are read and written by a ring.
    pub has_ring: bool,
}

/// Runs a lane on this thread until the walker is stopped and everything under way is back.
pub(crate) fn run(parts: LaneParts) -> Result<Latency> {
    let ring = if parts.has_ring { disk::ring_runtime(&parts.job, &parts.common.refused) } else { None };
    match ring {
        Some(runtime) => runtime.block_on(Lane::new(parts, Disk::Ring)?.run()),
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_start)?;
            let local = tokio::task::LocalSet::new();
            runtime.block_on(local.run_until(Lane::new(parts, Disk::Threads)?.run()))
        }
    }
}

pub(crate) fn cannot_start(error: std::io::Error) -> Error {
    Error::refused("lane", format!("its runtime cannot be started: {error}"))
}

impl Lane {
    fn new(parts: LaneParts, disk: Disk) -> Result<Rc<Lane>> {
        let LaneParts { index, job, intake, caller, worker, common, counters, busy, has_ring: _ } = parts;
        let client =
            |root: &crate::job::JobRoot| root.bucket.as_ref().map(|b| Client::new(b.bucket.clone())).transpose();
        let (source, dest) = (client(&job.source)?, client(&job.dest)?);
        let way = match (&source, &dest) {
            (None, _) => Way::Up,
            (Some(_), None) => Way::Down,
            (Some(_), Some(_)) => Way::Across,
        };
        for root in [&job.source, &job.dest].into_iter().filter_map(|root| root.bucket.as_ref()) {
            root.bucket.tell_retries(&job.failures.causes);
            if way == Way::Up {
                root.bucket.limit_bodies(&job.gate.limits);
            }
        }
        let root = if way == Way::Up { job.source.handle.clone() } else { job.dest.handle.clone() };
        Ok(Rc::new(Lane {
            way,
            source,
            dest,
            disk,
            common,
            cache: RefCell::new(DirCache::new(root, job.cached_dirs)),
            slices: RefCell::default(),
            waiting: RefCell::default(),
            listings: Cell::new(0),
            active: Cell::new(0),
            news: Notify::new(),
            room: Notify::new(),
            latency: RefCell::default(),
            busy,
            open: RefCell::default(),
            begun: Cell::new(0),
            errands: Errands { index, job, intake, caller, worker, counters },
        }))
    }

    async fn run(self: Rc<Lane>) -> Result<Latency> {
        loop {
            self.fill();
            self.tell();
            let is_idle = self.active.get() == 0 && self.listings.get() == 0;
            if is_idle && self.job().walker.is_stopped() {
                return Ok(self.latency.take());
            }
            // Or, for most of the tasks, for files, for memory or for the limits: each says so.
            let is_held = self.job().gate.limits.bytes.wait().is_err();
            self.busy.set(match is_held {
                _ if is_idle => Activity::NoWork,
                true => Activity::Limit,
                false => Activity::Requests,
            });
            let _rest = (is_idle && self.slices.borrow().is_empty()).then(|| self.job().walker.rest());
            // Timing out drops a wait for news, and no operation.
            let _ = tokio::time::timeout(IDLE, self.news.notified()).await;
        }
    }

    fn job(&self) -> &Job {
        &self.errands.job
    }

    fn source(&self) -> &Client {
        self.source.as_ref().expect("I8: the way says that the source is a bucket")
    }

    fn dest(&self) -> &Client {
        self.dest.as_ref().expect("I8: the way says that the destination is a bucket")
    }

    /// Streams this lane may use: its part of them, or all when another lane has nothing to do.
    fn share(&self) -> usize {
        let gate = &self.job().gate;
        match self.job().walker.is_hungry() {
            true => gate.limit() as usize,
            false => gate.share(),
        }
    }

    /// Whether one more object may be begun; it has its permit then.
    fn may_start(&self) -> bool {
        let gate = &self.job().gate;
        self.active.get() < self.share() && gate.limits.ops.wait().is_ok() && gate.try_acquire()
    }

    /// Waits until bytes of a body may pass. Ends: the limits are lifted when the job is stopped.
    async fn spend(&self, bytes: usize) {
        let mut turn = Turn::default();
        let mut held = None;
        while let Err(wait) = self.job().gate.limits.bytes.take_in_turn(bytes as u64, &mut turn) {
            held.get_or_insert_with(|| self.busy.turn_to(Activity::Limit));
            tokio::time::sleep(wait.min(SPEND_TIME_MAX)).await;
        }
    }

    /// Tells what is open, if somebody asks.
    fn tell(&self) {
        let (boards, index) = (&self.job().boards, self.errands.index);
        let Some(question) = boards.question(index) else { return };
        let open = self.open.borrow().values().map(Seen::told).collect();
        boards.answer(index, question, open, &mut self.latency.borrow_mut());
    }

    /// Notes what is known of an open object. Ends: there are as many as streams.
    fn note(&self, place: &Place, note: impl FnOnce(&mut Seen)) {
        let mut open = self.open.borrow_mut();
        let is_it = |seen: &&mut Seen| seen.dir.id == place.dir.id && seen.name == place.name;
        if let Some(seen) = open.values_mut().find(is_it) {
            note(seen);
        }
    }

    /// Starts what can be started. Ends: every turn starts something or finds nothing.
    fn fill(self: &Rc<Self>) {
        while !self.job().walker.is_stopped() && !self.errands.intake.is_full() {
            if self.waiting.borrow().is_none() {
                *self.waiting.borrow_mut() = self.next_name();
            }
            let waiting = self.waiting.take();
            let is_started = match waiting {
                Some(errand) if self.may_start() => {
                    self.job().gate.limits.ops.charge(1);
                    self.start(errand);
                    true
                }
                Some(errand) => {
                    *self.waiting.borrow_mut() = Some(errand);
                    false
                }
                None => self.take_work(),
            };
            if !is_started {
                return;
            }
        }
    }

    /// The next name of the slices at hand. Ends: every turn uses up a name.
    fn next_name(&self) -> Option<Errand> {
        loop {
            let mut slices = self.slices.borrow_mut();
            let slice = slices.front_mut()?;
            let (dir, open) = (slice.dir.clone(), slice.open.clone());
            match slice.entries.pop_front() {
                Some(entry) => {
                    if self.job().walker.is_hungry() && slice.entries.len() >= SHARED_ENTRIES_MIN {
                        let half = slice.entries.split_off(slice.entries.len() / 2);
                        dir.hold();
                        self.job().walker.share(&self.errands.worker, Work::Slice(dir.clone(), half));
                    }
                    drop(slices);
                    if let Some(errand) = self.errands.meet(dir, open, entry) {
                        return Some(errand);
                    }
                    // A name that could not be recorded ends the job: its slice is not through (I1).
                    if self.job().walker.is_stopped() {
                        return None;
                    }
                }
                None => {
                    slices.pop_front();
                    drop(slices);
                    self.room.notify_waiters();
                    self.errands.end_names(&dir);
                    self.job().walker.complete();
                }
            }
        }
    }

    /// Takes a work item; false if there was none, or no room for what it might be.
    fn take_work(self: &Rc<Self>) -> bool {
        if self.active.get() < self.share()
            && let Steal::Success(parts) = self.common.help.steal()
        {
            self.spawn_object(Lane::help_with, parts);
            return true;
        }
        if self.listings.get() >= LISTINGS_PER_LANE {
            return false;
        }
        match self.job().walker.take(&self.errands.worker) {
            None => return false,
            Some(Work::List(dir)) => self.spawn_listing(dir),
            Some(Work::Slice(dir, entries)) => match self.open_dir(&dir) {
                Ok(open) => self.slices.borrow_mut().push_back(Slice { dir, open, entries }),
                Err(error) => {
                    self.errands.fail_dir(&dir, error);
                    self.job().walker.complete();
                }
            },
            Some(Work::File(dir, name)) => *self.waiting.borrow_mut() = self.single(dir, name),
        }
        true
    }

    /// Queues names of a directory, once there is room for them.
    async fn offer(&self, dir: &Arc<DirNode>, open: &DirPair, entries: VecDeque<Entry>) {
        while self.slices.borrow().len() >= SLICES_PER_LANE && !self.job().walker.is_stopped() {
            let _ = tokio::time::timeout(IDLE, self.room.notified()).await;
        }
        if entries.is_empty() {
            return;
        }
        dir.hold();
        // Counted like a slice of the walker's: it is completed like one.
        self.job().walker.expect_slice();
        self.slices.borrow_mut().push_back(Slice { dir: dir.clone(), open: open.clone(), entries });
        self.news.notify_one();
    }

    fn spawn_listing(self: &Rc<Self>, dir: Arc<DirNode>) {
        self.listings.set(self.listings.get() + 1);
        let lane = self.clone();
        tokio::task::spawn_local(async move {
            lane.list(dir).await;
            lane.listings.set(lane.listings.get() - 1);
            lane.news.notify_one();
        });
    }

    fn spawn_object<T: 'static, F: Future<Output = ()>>(
        self: &Rc<Self>,
        work: impl FnOnce(Rc<Lane>, T) -> F + 'static,
        what: T,
    ) {
        self.active.set(self.active.get() + 1);
        let lane = self.clone();
        tokio::task::spawn_local(async move {
            let waits = lane.busy.begin(Activity::Requests);
            work(lane.clone(), what).await;
            drop(waits);
            lane.active.set(lane.active.get() - 1);
            lane.news.notify_one();
        });
    }

    /// Notes how long an object or a part of one took.
    fn time(&self, took: Duration) {
        let mut latency = self.latency.borrow_mut();
        match self.way {
            Way::Up => latency.dest.record(took),
            Way::Down | Way::Across => latency.source.record(took),
        }
    }

    fn start(self: &Rc<Self>, errand: Errand) {
        self.spawn_object(Lane::carry, errand);
    }

    /// One object, to its outcome. Ends: each further turn is a further attempt, and their number is bounded.
    async fn carry(self: Rc<Lane>, mut errand: Errand) {
        let serial = self.begun.replace(self.begun.get() + 1);
        let meter = Meter::new(self.errands.counters.clone());
        errand.meter = Some(meter.clone());
        self.open.borrow_mut().insert(serial, Seen::new(&errand, meter));
        let mut breaks = Breaks::new(serial);
        loop {
            let mut group = None;
            let started = Instant::now();
            let ending = match self.way {
                Way::Up => self.upload(&errand, &mut group).await,
                Way::Down => self.download(&errand, &mut group).await,
                Way::Across => self.relay(&errand).await,
            };
            // Parts have told of themselves.
            if self.open.borrow().get(&serial).is_some_and(|seen| !seen.has_parts) {
                self.time(started.elapsed());
            }
            if let Some(left) = errand.claimed.take().filter(|claimed| group != Some(*claimed)) {
                self.errands.push(&errand.place.dir, errand.place.name.clone(), What::Left(left));
            }
            let ending = match ending {
                Err(error) if self.wait_after_break(&mut breaks, &error).await => {
                    self.job().failures.causes.note(Weight::Retry, &error.cause);
                    errand.claimed = group;
                    continue;
                }
                Err(error) if self.is_left(&error) => break,
                // What arrived is not what was sent: the object is read once more.
                Err(error) if is_wrong(&error) && errand.attempt < UNSTABLE_ATTEMPTS_MAX => {
                    self.job().failures.causes.note(Weight::Retry, &error.cause);
                    errand.attempt += 1;
                    errand.claimed = group;
                    continue;
                }
                Err(error) => ending_of(error),
                Ok(Some(ending)) => ending,
                Ok(None) => break,
            };
            if let Ending::Failed(error) = &ending
                && self.reopen(&mut errand, error)
            {
                errand.claimed = group;
                continue;
            }
            match self.errands.end(errand, group, ending) {
                Some(again) => errand = again,
                None => break,
            }
        }
        self.open.borrow_mut().remove(&serial);
        self.job().gate.release();
    }

    /// Whether an object is to be tried again, because what it was reached by had become stale and could be looked up
    /// from the root: once.
    fn reopen(&self, errand: &mut Errand, error: &Error) -> bool {
        let dir = errand.place.dir.clone();
        if !error.is_stale() || errand.place.is_reopened {
            return false;
        }
        self.cache.borrow_mut().forget(&dir);
        let Ok(open) = self.open_dir(&dir) else { return false };
        self.job().failures.causes.note(Weight::Retry, &error.cause);
        for slice in self.slices.borrow_mut().iter_mut().filter(|slice| slice.dir.id == dir.id) {
            slice.open = open.clone();
        }
        errand.place.open = open;
        errand.place.is_reopened = true;
        true
    }

    /// Counts the bytes of an object that is to be copied.
    fn plan_bytes(&self, place: &Place, bytes: u64) {
        self.note(place, |seen| seen.size = seen.size.max(bytes));
        self.errands.counters.add(crate::report::Count::BytesPlanned, bytes);
    }

    /// The sides of a directory, as far as they are directories.
    fn open_dir(&self, dir: &Arc<DirNode>) -> Result<DirPair> {
        let job = self.job();
        let (source, dest) = (job.source.handle.clone(), job.dest.handle.clone());
        let side = match self.way {
            Way::Up => Side::Source,
            Way::Down => Side::Dest,
            Way::Across => return Ok(DirPair { source, dest }),
        };
        let handle = open_side(job, &*self.errands.caller, side, &mut self.cache.borrow_mut(), dir)?;
        Ok(match side {
            Side::Source => DirPair { source: handle, dest },
            Side::Dest => DirPair { source, dest: handle },
        })
    }

    /// A name handed back by a checkpoint or left by an interrupted run.
    fn single(&self, dir: Arc<DirNode>, name: Name) -> Option<Errand> {
        let opened = self.open_dir(&dir).and_then(|open| self.look_at_dest(&dir, &open).map(|()| open));
        self.errands.single(dir, name, opened)
    }
}

/// Whether another attempt at once may fare better.
fn is_wrong(error: &Error) -> bool {
    error.class() == Class::Retry && !matches!(error.cause, Cause::Cut(_))
}

/// What an object's way comes to; `None`: the job was stopped, and the rest is for a resume.
type Carried = Result<Option<Ending>>;

/// Names of a slice that are worth sharing with an idle lane.
const SHARED_ENTRIES_MIN: usize = 8;

/// A number for a text that no other text of the job will have; compared for equality only.
fn hash(text: &str) -> u64 {
    fnv1a(text.as_bytes())
}

/// The group of the objects that are links to `key`.
fn link_key(key: &str) -> LinkKey {
    LinkKey::in_bucket(hash(key))
}
