//! [`Meter`]: the bytes of an object or of one of its parts as they pass, for whoever looks on.
//!
//! ```text
//! slice of a body sent, piece of an answer read --> Meter --> Counters, foreseen  --> status, TUI, metrics, tuner
//! part where it should be, object done ------------------------> counted for good --> summary
//! ```
//! A part of an S3 object takes seconds where a limit holds it; counted only when it is through, the rate of the last
//! seconds would be off by whole parts (28 % at 40 MiB/s and parts of 8 MiB).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::counters::{Count, Counters};

/// Counts what passes. However often it is begun again, no byte is counted twice: what counts is how far any attempt
/// came.
#[derive(Debug)]
pub struct Meter {
    /// Where it is counted.
    counters: Arc<Counters>,
    /// How far the best attempt came, in bytes.
    passed: AtomicU64,
    /// The same over all parts of the object.
    object: Arc<AtomicU64>,
}

impl Meter {
    /// Nothing has passed of a whole object.
    pub fn new(counters: Arc<Counters>) -> Arc<Meter> {
        Meter::of_part(counters, Arc::default())
    }

    /// Nothing has passed of a part of an object, of which `object` bytes have.
    pub fn of_part(counters: Arc<Counters>, object: Arc<AtomicU64>) -> Arc<Meter> {
        Arc::new(Meter { counters, passed: AtomicU64::new(0), object })
    }

    /// An attempt has come so far.
    pub fn reach(&self, bytes: u64) {
        let before = self.passed.fetch_max(bytes, Ordering::Relaxed);
        let more = bytes.saturating_sub(before);
        if more > 0 {
            self.counters.foresee(Count::BytesCopied, more);
            self.object.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// All of it, so many bytes, is where it should be.
    pub fn finish(&self, bytes: u64) {
        self.reach(bytes);
        self.counters.settle(Count::BytesCopied, bytes);
    }

    /// How far the best attempt came, in bytes.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::counters::Totals;
    use super::*;

    #[test]
    fn what_passes_twice_counts_once_and_for_good_when_it_is_through() {
        let counters = Arc::new(Counters::default());
        let object = Arc::new(AtomicU64::new(100));
        let meter = Meter::of_part(counters.clone(), object.clone());
        let counted = || {
            let all = [counters.clone()];
            (Totals::of(&all).get(Count::BytesCopied), Totals::at_once(&all).get(Count::BytesCopied))
        };
        meter.reach(30);
        meter.reach(50);
        assert_eq!((counted(), meter.passed(), object.load(Ordering::Relaxed)), ((0, 50), 50, 150));
        // The next attempt begins anew.
        for bytes in [10, 50, 60] {
            meter.reach(bytes);
        }
        assert_eq!(counted(), (0, 60));
        meter.finish(80);
        assert_eq!((counted(), object.load(Ordering::Relaxed)), ((80, 80), 180));
    }
}
