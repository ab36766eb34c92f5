//! The walk: directories as work items, shared by all shards.
//!
//! ```text
//! shard 0   [List d9, List d8, ...]   own end: last in, first out (depth first: few open branches, warm parents)
//! shard 1   [Slice of d2, List d5]    other end: idle shards steal the oldest, that is the largest, subtree
//! injector  [File f, List d7]         what no shard owns: names from checkpoints, directories from the catalog
//! catalog   unlisted directories that found no room in memory, and those an interrupted run left (loaded in pages)
//! ```
//!
//! A [`DirNode`] is one directory known to the walk. It is *listed* when its listing has ended and every entry has an
//! outcome; `pending` counts what is missing. Its own metadata is set at the end of the pass, deepest first.
//! Termination: `outstanding` counts work items from the push until their last outcome is in a shard's batch; it is
//! raised for children before it is lowered for their parent, so it reaches 0 only when nothing is left (I4: queues are
//! bounded by [`crate::config::QUEUED_DIRS_MAX`]; what exceeds it waits in the catalog).

mod cache;
mod pending;
mod seen;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_deque::{Injector, Steal, Stealer, Worker};
use parking_lot::{Condvar, Mutex};

use crate::bell::Bell;
use crate::catalog::{DirId, DirStamp, Record, Stamp};
use crate::config::QUEUED_DIRS_MAX;
use crate::pages::Page;
use crate::ring::Name;

pub use cache::{DirCache, DirPair, OpenDirs, path_steps};
pub use pending::Pending;
pub use seen::{Seen, Twins};

/// One directory of the source, and its counterpart at the destination.
#[derive(Debug)]
pub struct DirNode {
    /// Its key in the catalog.
    pub id: DirId,
    /// The directory it was found in; `None` for the root.
    pub parent: Option<Arc<DirNode>>,
    /// Its name there; empty for the root.
    pub name: Name,
    /// Levels below the root.
    pub depth: u32,
    /// Listing (1) plus entries that have no outcome yet.
    pending: AtomicU32,
    /// What is known of the destination's directory, a [`DestDir`] as number.
    dest: AtomicU8,
    /// Whether this pass changed anything in the destination's directory.
    touched: AtomicBool,
    /// Whether this run has made the destination's directory writable for its owner.
    widened: AtomicBool,
    /// Whether a part of its names could not be read.
    unread: AtomicBool,
    /// Whether the destination's directory tells names apart, a [`Folding`] as number.
    folding: AtomicU8,
    /// Its extended attributes and ACLs as its bucket tells them.
    told: OnceLock<Vec<u8>>,
    /// The source's state when the listing began.
    stamp: OnceLock<Box<DirStamp>>,
    /// The device that it was on in the last pass, by its number in this run.
    recorded_dev: OnceLock<u64>,
}

/// What is known of a destination directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DestDir {
    /// Not opened yet.
    Unknown = 0,
    /// Created by this run: it holds no names but ours.
    Created = 1,
    /// It was there before: a name may be taken.
    Existing = 2,
    /// It was there before and hands a default ACL to what is created in it (I9).
    ExistingWithAcl = 3,
    /// The last pass left it as it should be, and this one has not needed it: it is opened once it does.
    Unneeded = 4,
    /// It was there before and may hand on another group than this process's: setgid, or mounted so (grpid; I9).
    ExistingWithGroup = 5,
}

/// Whether a destination directory tells all names apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Folding {
    /// Nobody has looked.
    Unknown = 0,
    /// It tells upper case from lower.
    None = 1,
    /// It does not.
    Case = 2,
}

impl DirNode {
    /// The root of a walk.
    pub fn root() -> Arc<DirNode> {
        Arc::new(DirNode::new(DirId::ROOT, None, Name::default(), 0))
    }

    /// A directory found in `parent`.
    pub fn child(parent: &Arc<DirNode>, id: DirId, name: Name) -> Arc<DirNode> {
        Arc::new(DirNode::new(id, Some(parent.clone()), name, parent.depth + 1))
    }

    fn new(id: DirId, parent: Option<Arc<DirNode>>, name: Name, depth: u32) -> DirNode {
        DirNode {
            id,
            parent,
            name,
            depth,
            pending: AtomicU32::new(1),
            dest: AtomicU8::new(0),
            touched: AtomicBool::new(false),
            widened: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            folding: AtomicU8::new(0),
            told: OnceLock::new(),
            stamp: OnceLock::new(),
            recorded_dev: OnceLock::new(),
        }
    }

    /// Notes that a part of its names could not be read.
    pub fn note_unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// Whether a part of its names could not be read.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Notes the source's state as its listing begins.
    pub fn set_stamp(&self, stamp: DirStamp) {
        let _ = self.stamp.set(Box::new(stamp));
    }

    /// The source's state when the listing began.
    pub fn stamp(&self) -> Option<DirStamp> {
        self.stamp.get().map(|stamp| **stamp)
    }

    /// Notes the device that the source's directory was on in the last pass.
    pub fn set_recorded_dev(&self, dev: u64) {
        let _ = self.recorded_dev.set(dev);
    }

    /// The device that the source's directory was on in the last pass, where this one has looked.
    pub fn recorded_dev(&self) -> Option<u64> {
        self.recorded_dev.get().copied()
    }

    /// Device and inode of the source's directory, once its listing has begun.
    pub fn source_id(&self) -> Option<(u64, u64)> {
        self.stamp.get().map(|stamp| (stamp.dev, stamp.ino))
    }

    /// Notes what a bucket tells of its extended attributes and ACLs.
    pub fn set_told(&self, told: Vec<u8>) {
        let _ = self.told.set(told);
    }

    /// What a bucket tells of them; empty for nothing.
    pub fn told(&self) -> &[u8] {
        self.told.get().map_or(&[], Vec::as_slice)
    }

    /// Whether the destination's directory tells names apart.
    pub fn folding(&self) -> Folding {
        match self.folding.load(Ordering::Relaxed) {
            1 => Folding::None,
            2 => Folding::Case,
            _ => Folding::Unknown,
        }
    }

    /// Notes whether it does.
    pub fn set_folding(&self, folding: Folding) {
        self.folding.store(folding as u8, Ordering::Relaxed);
    }

    /// Notes that this pass changes something in the destination's directory: its times will have to be set again.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Whether this pass changed anything in the destination's directory.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Notes that the destination's directory had to be made writable for its owner: it has to get its mode back.
    pub fn note_widened(&self) {
        self.widened.store(true, Ordering::Relaxed);
    }

    /// Whether it had to be.
    pub fn is_widened(&self) -> bool {
        self.widened.load(Ordering::Relaxed)
    }

    /// An entry whose outcome is still to come.
    pub fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry, or the listing itself, has its outcome. True for the last one: the directory is listed.
    pub fn release(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// What is known of the destination's directory.
    pub fn dest(&self) -> DestDir {
        match self.dest.load(Ordering::Relaxed) {
            1 => DestDir::Created,
            2 => DestDir::Existing,
            3 => DestDir::ExistingWithAcl,
            4 => DestDir::Unneeded,
            5 => DestDir::ExistingWithGroup,
            _ => DestDir::Unknown,
        }
    }

    /// Notes what is known of the destination's directory.
    pub fn set_dest(&self, dest: DestDir) {
        self.dest.store(dest as u8, Ordering::Relaxed);
    }

    /// The path below the root, without a leading slash.
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut node = self;
        while let Some(parent) = &node.parent {
            names.push(node.name.as_bytes());
            node = parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            if !path.is_empty() && !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }

    /// The path of an entry of this directory below the root.
    pub fn path_of(&self, name: &Name) -> Vec<u8> {
        crate::error::join(&self.path(), name)
    }
}

impl Drop for DirNode {
    /// Unlinks a chain of last references iteratively: a 10,000-level tree must not recurse 10,000 times.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(node) = next {
            next = match Arc::try_unwrap(node) {
                Ok(mut last) => last.parent.take(),
                Err(_) => None,
            };
        }
    }
}

/// One name of a listing.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// `d_type`; DT_UNKNOWN where the file system does not say.
    pub kind: u8,
    /// Inode number: names are handed out in its order, which is the order of the inodes on disk.
    pub ino: u64,
    /// What the catalog knows of it.
    pub record: Option<Record>,
    /// The object as its bucket lists it; a file system is asked later.
    pub stamp: Option<Stamp>,
    /// The page of a bucket's listing that it came with.
    pub page: Option<Arc<Page>>,
}

/// One piece of work for a shard.
#[derive(Debug)]
pub enum Work {
    /// List a directory and copy its entries.
    List(Arc<DirNode>),
    /// Copy these entries of a directory another shard lists.
    Slice(Arc<DirNode>, VecDeque<Entry>),
    /// Copy one name that was set aside (a hard link whose first name failed, a name left by an interrupted run).
    File(Arc<DirNode>, Name),
}

/// The queues all shards share.
#[derive(Debug)]
pub struct Walker {
    /// Work no shard owns.
    injector: Injector<Work>,
    /// The far ends of the shards' own queues.
    stealers: Vec<Stealer<Work>>,
    /// Work items without their last outcome.
    outstanding: AtomicUsize,
    /// Directories in the queues.
    queued_dirs: AtomicUsize,
    /// Directories that wait in the catalog only.
    spilled_dirs: AtomicUsize,
    /// Listings and slices, wherever they wait or are worked on, of which not all names have been met; and names that
    /// may turn out to be directories.
    unmet: Arc<AtomicUsize>,
    /// Shards asleep.
    sleepers: AtomicUsize,
    /// What sleepers wait on.
    wake: (Mutex<()>, Condvar),
    /// No new work is handed out.
    stopped: AtomicBool,
    /// Rung when only the catalog has work left, and when nobody has.
    bell: Arc<Bell>,
}

impl Walker {
    /// A walker for `shards` shards, and each shard's own queue.
    pub fn new(shards: usize, bell: Arc<Bell>) -> (Walker, Vec<Worker<Work>>) {
        let workers: Vec<Worker<Work>> = (0..shards).map(|_| Worker::new_lifo()).collect();
        let walker = Walker {
            injector: Injector::new(),
            stealers: workers.iter().map(Worker::stealer).collect(),
            outstanding: AtomicUsize::new(0),
            queued_dirs: AtomicUsize::new(0),
            spilled_dirs: AtomicUsize::new(0),
            unmet: Arc::default(),
            sleepers: AtomicUsize::new(0),
            wake: (Mutex::new(()), Condvar::new()),
            stopped: AtomicBool::new(false),
            bell,
        };
        (walker, workers)
    }

    /// Queues a directory that `worker`'s shard found, or leaves it to the catalog when the queues are full: the caller
    /// has already put it in its batch as unlisted.
    pub fn push_dir(&self, worker: &Worker<Work>, dir: Arc<DirNode>) -> Queued {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        self.unmet.fetch_add(1, Ordering::Relaxed);
        if self.queued_dirs.load(Ordering::Relaxed) >= QUEUED_DIRS_MAX {
            self.spilled_dirs.fetch_add(1, Ordering::Relaxed);
            return Queued::Spilled;
        }
        self.queued_dirs.fetch_add(1, Ordering::Relaxed);
        worker.push(Work::List(dir));
        self.notify();
        Queued::InMemory
    }

    /// Queues work on a shard's own queue, to be stolen by others.
    pub fn share(&self, worker: &Worker<Work>, work: Work) {
        self.count_in(&work);
        worker.push(work);
        self.notify();
    }

    fn count_in(&self, work: &Work) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        if !matches!(work, Work::File(..)) {
            self.unmet.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a slice that a lane keeps in a queue of its own.
    pub fn expect_slice(&self) {
        self.unmet.fetch_add(1, Ordering::Relaxed);
        self.expect_help();
    }

    /// Counts a name that may turn out to be a directory, until the guard is dropped.
    pub fn expect_dir(&self) -> Unmet {
        self.unmet.fetch_add(1, Ordering::Relaxed);
        Unmet(self.unmet.clone())
    }

    /// Counts a work item that waits in another queue than the walker's (help with a large file), and wakes a taker.
    pub fn expect_help(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        self.notify();
    }

    /// Queues work that no shard owns.
    pub fn inject(&self, work: Work) {
        self.count_in(&work);
        if matches!(work, Work::List(_)) {
            self.queued_dirs.fetch_add(1, Ordering::Relaxed);
        }
        self.injector.push(work);
        self.notify();
    }

    /// Counts directories that wait in the catalog before any of them is loaded.
    pub fn expect_spilled(&self, count: usize) {
        self.outstanding.fetch_add(count, Ordering::Relaxed);
        self.spilled_dirs.fetch_add(count, Ordering::Relaxed);
        self.unmet.fetch_add(count, Ordering::Relaxed);
    }

    /// Queues a directory that waited in the catalog.
    pub fn unspill(&self, dir: Arc<DirNode>) {
        self.spilled_dirs.fetch_sub(1, Ordering::Relaxed);
        self.queued_dirs.fetch_add(1, Ordering::Relaxed);
        self.injector.push(Work::List(dir));
        self.notify();
    }

    /// Directories that wait in the catalog only.
    pub fn spilled(&self) -> usize {
        self.spilled_dirs.load(Ordering::Relaxed)
    }

    /// Directories in the queues.
    pub fn queued(&self) -> usize {
        self.queued_dirs.load(Ordering::Relaxed)
    }

    /// A work item has its last outcome.
    pub fn complete(&self) {
        if self.outstanding.fetch_sub(1, Ordering::AcqRel) - 1 == self.spilled() {
            self.bell.ring();
        }
    }

    /// Whether all that is left waits in the catalog.
    pub fn wants_refill(&self) -> bool {
        let spilled = self.spilled();
        spilled > 0 && self.outstanding.load(Ordering::Acquire) == spilled
    }

    /// All names of a listing or of a slice have been met, those found below them queued; or it failed.
    pub fn met(&self) {
        let before = self.unmet.fetch_sub(1, Ordering::Release);
        debug_assert!(before > 0, "each listing and slice is met once");
    }

    /// Whether every name has been met, so that those counted before this answer are all there are. For passes that
    /// call [`Walker::met`]: those of shards and lanes.
    pub fn is_walked(&self) -> bool {
        self.unmet.load(Ordering::Acquire) == 0
    }

    /// Whether every work item has its outcome.
    pub fn is_done(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) == 0
    }

    /// Hands out no more work.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake_all();
        self.bell.ring();
    }

    /// Whether no more work is handed out.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether some shard has nothing to do: worth cutting work smaller.
    pub fn is_hungry(&self) -> bool {
        self.sleepers.load(Ordering::Relaxed) > 0
    }

    /// The next work for a shard: its own newest, else from the injector, else another shard's oldest.
    pub fn take(&self, worker: &Worker<Work>) -> Option<Work> {
        if self.is_stopped() {
            return None;
        }
        let work = worker.pop().or_else(|| self.steal(worker))?;
        if matches!(work, Work::List(_)) {
            self.queued_dirs.fetch_sub(1, Ordering::Relaxed);
        }
        Some(work)
    }

    /// Ends: `Retry` means another shard made progress on the same queue.
    fn steal(&self, worker: &Worker<Work>) -> Option<Work> {
        loop {
            let stolen = self
                .injector
                .steal_batch_and_pop(worker)
                .or_else(|| self.stealers.iter().map(Stealer::steal).collect::<Steal<Work>>());
            match stolen {
                Steal::Success(work) => return Some(work),
                Steal::Empty => return None,
                Steal::Retry => continue,
            }
        }
    }

    /// Sleeps until work may be there, at most `timeout`.
    pub fn sleep(&self, timeout: Duration) {
        let mut guard = self.wake.0.lock();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let has_work = !self.injector.is_empty() || self.stealers.iter().any(|s| !s.is_empty());
        if !has_work && !self.is_stopped() {
            self.wake.1.wait_for(&mut guard, timeout);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Counts a lane that has nothing to do, and so sleeps on its own clock, until the guard is dropped.
    pub fn rest(&self) -> Rest<'_> {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        Rest(self)
    }

    /// Counts a shard that has nothing to do and does not sleep: the simulator runs all shards on one thread.
    #[cfg(test)]
    pub(crate) fn set_hungry(&self, count: usize) {
        self.sleepers.store(count, Ordering::SeqCst);
    }

    /// Wakes one sleeper for one new work item: many shards would only meet at it.
    pub fn notify(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = self.wake.0.lock();
            self.wake.1.notify_one();
        }
    }

    /// Wakes every sleeper.
    pub fn wake_all(&self) {
        let _guard = self.wake.0.lock();
        self.wake.1.notify_all();
    }
}

/// A name that may turn out to be a directory.
#[derive(Debug)]
pub struct Unmet(Arc<AtomicUsize>);

impl Drop for Unmet {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// A lane at rest.
#[derive(Debug)]
pub struct Rest<'w>(&'w Walker);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where a found directory waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// In a shard's queue.
    InMemory,
    /// In the catalog only.
    Spilled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_walked_when_all_names_are_met_wherever_they_wait() {
        let (walker, workers) = Walker::new(1, Arc::default());
        let root = DirNode::root();
        let child = DirNode::child(&root, DirId(2), Name::default());
        walker.inject(Work::List(root.clone()));
        assert!(matches!(walker.take(&workers[0]), Some(Work::List(_))));
        assert!(!walker.is_walked(), "it is being listed");
        walker.share(&workers[0], Work::Slice(root.clone(), VecDeque::new()));
        walker.expect_slice();
        walker.expect_spilled(1);
        walker.inject(Work::File(root.clone(), Name::default()));
        let unknown = walker.expect_dir();
        for left in ["two slices", "a slice", "a spilled directory", "a name of unknown kind"] {
            walker.met();
            assert!(!walker.is_walked(), "{left}");
        }
        assert_eq!(walker.push_dir(&workers[0], child), Queued::InMemory);
        drop(unknown);
        assert!(!walker.is_walked(), "the name was a directory");
        walker.met();
        assert!(walker.is_walked() && !walker.is_done());
    }

    #[test]
    fn a_directory_is_listed_once_its_last_entry_is_released() {
        let root = DirNode::root();
        root.hold();
        assert!(!root.release());
        assert!(root.release());
    }
}
