//! What earlier runs of a job have left of the copy of a device: what they have read stays where this run cannot read.
//!
//! ```text
//! id     what this run opens it by          inode, device, hash of an ETag; 0 if there is nothing, or another's by now
//! mark   what the catalog knows it by       tells as well whether somebody has written to it since
//! ```
//! Kept apart, for a mark is found out before anything is written, and holds no longer once something is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The copy that stands at the destination, if an earlier run, or this one, has written all of it but what it could not
/// read.
#[derive(Debug, Default)]
pub struct Remains {
    /// What it is opened by; 0 for none.
    id: AtomicU64,
    /// What is recorded of it.
    mark: AtomicU64,
    /// Whether this run has looked: what it writes itself may look like what was there once.
    is_known: AtomicBool,
}

impl Remains {
    /// Takes note of what stands there; 0 for nothing.
    pub fn set(&self, id: u64, mark: u64) {
        self.mark.store(mark, Ordering::Release);
        self.id.store(id, Ordering::Release);
        self.is_known.store(true, Ordering::Release);
    }

    /// Whether note was taken of it before.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Acquire)
    }

    /// What it is opened by; 0 if nothing stands there.
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    /// What the catalog is to know it by; 0 if nothing stands there.
    pub fn mark(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }
}
