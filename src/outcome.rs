//! What shards tell the checkpoints: outcomes, in one bounded intake per shard.
//!
//! A batch is a consistent cut: all shards' intakes are locked together when it is closed. So whatever a shard put in
//! before it lowered a directory's counter is in the same batch as, or an earlier one than, the outcome "listed" that
//! another shard puts in after. The catalog never calls a directory listed before it knows all of its entries (I1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::bell::Bell;
use crate::catalog::{DirId, FileRecord, Owner, Range, Stamp, Upload};
use crate::config::{CHECKPOINT_OUTCOMES_FIRST, CHECKPOINT_OUTCOMES_MAX, EARLY_RECORD_BYTES};
use crate::error::Error;
use crate::links::LinkKey;
use crate::ring::Name;
use crate::transfer::Copied;
use crate::walk::DirNode;

/// One thing that became of an object.
#[derive(Debug)]
pub struct Outcome {
    /// The directory it lies in, or that it is about.
    pub dir: Arc<DirNode>,
    /// Its name in the source; empty when the directory itself is meant.
    pub name: Name,
    /// What became of it.
    pub what: What,
}

/// What became of an object.
#[derive(Debug)]
pub enum What {
    /// A directory was found in `dir`.
    Found(DirId),
    /// All entries of `dir` up to this key of its bucket have outcomes.
    ListedTo(String),
    /// All entries of `dir` have outcomes.
    Listed,
    /// The object is at the destination, to be sealed.
    Copied(Box<Copied>),
    /// The destination cannot hold it.
    NotMade {
        /// The source's state.
        stamp: Stamp,
        /// Whose it is there.
        owner: Owner,
        /// Its group if it has several names.
        group: Option<LinkKey>,
    },
    /// A further name, to be linked once its group's first is sealed.
    Further(LinkKey, Stamp),
    /// A large file was begun: its record in progress, batch still to be filled in.
    Begun(FileRecord),
    /// A large object's upload was begun.
    Uploading(u64, Upload),
    /// The ranges of an earlier attempt at a large object, and its upload, are of no use any more.
    Abandoned(u64),
    /// The file that these ranges were written to is removed: whatever was told of it before counts no more.
    Removed(u64),
    /// A range of a large file is written.
    Written(u64, Range),
    /// It is about to replace the destination's file of this number, whose first name it is.
    Replacing(u64),
    /// It failed, after this many attempts.
    Failed {
        /// Why.
        error: Error,
        /// How often it was tried.
        attempts: u32,
        /// Its group if it has several names.
        group: Option<LinkKey>,
    },
    /// It was gone.
    Vanished(Option<LinkKey>),
    /// It is as it was, and the first of this group from now on.
    First(LinkKey),
    /// A name that was the first of this group belongs to it no more: its source was replaced.
    Left(LinkKey),
    /// A name of `dir` is taken up by itself: the directory will change.
    Reopened,
}

/// Outcomes between shards and checkpoints.
#[derive(Debug)]
pub struct Intake {
    /// One per shard, so that shards do not meet.
    shards: Vec<Mutex<Vec<Outcome>>>,
    /// Outcomes in all of them.
    count: AtomicUsize,
    /// Outcomes that make a batch due: grows with the job.
    count_due: AtomicUsize,
    /// Outcomes taken so far.
    count_taken: AtomicUsize,
    /// Bytes written since the last checkpoint.
    bytes: AtomicU64,
    /// Bytes that make a batch due: half of what an interruption may cost, for while one half is made durable the other
    /// is written.
    bytes_due: u64,
    /// Bytes of the batch that is being made durable.
    bytes_closing: AtomicU64,
    /// Whether a large file was begun whose record should not wait for the next checkpoint.
    has_early: AtomicBool,
    /// Rung when a batch is due.
    bell: Arc<Bell>,
}

impl Intake {
    /// For `shards` shards; never more than `bytes_max` bytes are written and not yet recorded.
    pub fn new(shards: usize, bytes_max: u64, bell: Arc<Bell>) -> Intake {
        Intake {
            shards: (0..shards).map(|_| Mutex::new(Vec::new())).collect(),
            count: AtomicUsize::new(0),
            count_due: AtomicUsize::new(CHECKPOINT_OUTCOMES_FIRST),
            count_taken: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            bytes_due: (bytes_max / 2).max(1),
            bytes_closing: AtomicU64::new(0),
            has_early: AtomicBool::new(false),
            bell,
        }
    }

    /// Takes an outcome from shard `shard`.
    pub fn push(&self, shard: usize, outcome: Outcome) {
        let is_early = match &outcome.what {
            What::Begun(record) => record.stamp.size >= EARLY_RECORD_BYTES,
            // What nobody records, nobody aborts.
            What::Uploading(..) => true,
            _ => false,
        };
        let mut waiting = self.shards[shard].lock();
        waiting.push(outcome);
        // Counted before the lock is given back: `take` must not subtract what is not yet added.
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        drop(waiting);
        if count == self.count_due.load(Ordering::Relaxed) {
            self.bell.ring();
        }
        if is_early {
            self.has_early.store(true, Ordering::Release);
            self.bell.ring();
        }
    }

    /// A large file that was begun is recorded as soon as can be, whatever its size.
    pub fn hurry(&self) {
        self.has_early.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Whether [`Intake::take_early`] would find a large file.
    pub fn has_early(&self) -> bool {
        self.has_early.load(Ordering::Acquire)
    }

    /// Takes out what may be recorded before any data is durable: directories found, large files begun. They come
    /// before everything else of a batch anyway ([`What::rank`]).
    pub fn take_early(&self) -> Vec<Outcome> {
        self.has_early.store(false, Ordering::Release);
        let mut guards: Vec<_> = self.shards.iter().map(Mutex::lock).collect();
        let early = |outcome: &mut Outcome| outcome.what.rank() <= What::EARLY_RANK_MAX;
        let mut taken: Vec<Outcome> = guards.iter_mut().flat_map(|shard| shard.extract_if(.., early)).collect();
        drop(guards);
        self.count.fetch_sub(taken.len(), Ordering::Relaxed);
        taken.sort_by_key(|outcome| outcome.what.rank());
        taken
    }

    /// Counts bytes written.
    pub fn add_bytes(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < self.bytes_due && before + bytes >= self.bytes_due {
            self.bell.ring();
        }
    }

    /// Whether shards should start nothing more until a checkpoint has passed: outcomes are bounded (I4), and so are
    /// the bytes that an interruption would cost.
    pub fn is_full(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed) + self.bytes_closing.load(Ordering::Relaxed);
        bytes >= self.bytes_due * 2 || self.count.load(Ordering::Relaxed) >= 2 * CHECKPOINT_OUTCOMES_MAX
    }

    /// Outcomes that wait.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes a batch: everything that is there, as one cut, in the order it takes effect, with the bytes written for
    /// it.
    pub fn take(&self) -> (Vec<Outcome>, u64) {
        let mut guards: Vec<_> = self.shards.iter().map(Mutex::lock).collect();
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.bytes_closing.store(bytes, Ordering::Relaxed);
        let mut batch = Vec::with_capacity(guards.iter().map(|shard| shard.len()).sum());
        guards.iter_mut().for_each(|shard| batch.append(shard));
        drop(guards);
        self.count.fetch_sub(batch.len(), Ordering::Relaxed);
        let taken = self.count_taken.fetch_add(batch.len(), Ordering::Relaxed) + batch.len();
        let due = (taken / 8).clamp(CHECKPOINT_OUTCOMES_FIRST, CHECKPOINT_OUTCOMES_MAX);
        self.count_due.store(due, Ordering::Relaxed);
        batch.sort_by_key(|outcome| outcome.what.rank());
        (batch, bytes)
    }

    /// The batch taken last is recorded.
    pub fn close(&self) {
        self.bytes_closing.store(0, Ordering::Relaxed);
    }

    /// Whether a batch is due by number or bytes.
    pub fn is_due(&self) -> bool {
        self.len() >= self.count_due.load(Ordering::Relaxed) || self.bytes.load(Ordering::Relaxed) >= self.bytes_due
    }
}

impl What {
    /// Outcomes up to this rank claim nothing that must be durable first.
    const EARLY_RANK_MAX: u8 = 1;

    /// The order in which outcomes of one batch take effect, whatever shard they come from: a directory is found before
    /// it is listed, a large file begun before a range of it is written, both before the file is done.
    pub fn rank(&self) -> u8 {
        match self {
            What::Found(_) => 0,
            What::Begun(_) | What::Uploading(..) | What::Abandoned(_) => 1,
            What::Written(..) | What::ListedTo(_) | What::Replacing(_) => 2,
            What::Listed | What::Removed(_) => 3,
            What::Copied(_) | What::NotMade { .. } | What::Further(..) | What::Failed { .. } => 4,
            What::Vanished(_) | What::First(_) | What::Left(_) | What::Reopened => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::DirNode;

    #[test]
    fn the_count_is_right_while_batches_are_taken() {
        const OUTCOMES: usize = 200_000;
        let intake = Intake::new(1, u64::MAX, Arc::new(Bell::default()));
        let dir = DirNode::root();
        let mut taken = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..OUTCOMES {
                    intake.push(0, Outcome { dir: dir.clone(), name: Name::default(), what: What::Listed });
                }
            });
            // Ends: every outcome is pushed, and taken once.
            while taken < OUTCOMES {
                taken += intake.take().0.len();
                assert!(intake.len() <= OUTCOMES - taken, "{} wait of {}", intake.len(), OUTCOMES - taken);
            }
        });
        assert!(intake.is_empty());
    }
}
