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
mod node;
mod pending;
mod seen;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_deque::{Injector, Steal, Stealer, Worker};
use parking_lot::{Condvar, Mutex};

use crate::bell::Bell;
use crate::catalog::{Record, Stamp};
use crate::config::QUEUED_DIRS_MAX;
use crate::pages::Page;
use crate::ring::Name;

pub use cache::{DirCache, DirPair, OpenDirs, path_steps};
pub use node::{DestDir, DirNode, Folding};
pub use pending::Pending;
pub use seen::{Recent, Seen, Twins};

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
    use crate::catalog::DirId;

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
