//! Stream permits: how many objects may be open at once, over all shards, changeable while the job runs.
//!
//! Pure counting. Lowering the limit takes nothing away: it only lets no new object start until enough have ended.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts open objects against a limit.
#[derive(Debug)]
pub struct Gate {
    /// Most objects open at once.
    limit: AtomicU32,
    /// Objects open now.
    used: AtomicU32,
}

impl Gate {
    /// A gate that lets `limit` objects through at once.
    pub fn new(limit: u32) -> Gate {
        Gate { limit: AtomicU32::new(limit), used: AtomicU32::new(0) }
    }

    /// The limit now.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes a permit if one is free. Ends: a failed exchange means another shard changed the count.
    pub fn try_acquire(&self) -> bool {
        let mut used = self.used.load(Ordering::Relaxed);
        while used < self.limit() {
            match self.used.compare_exchange_weak(used, used + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => used = now,
            }
        }
        false
    }

    /// Whether no permit is free.
    pub fn is_full(&self) -> bool {
        self.used() >= self.limit()
    }

    /// Gives a permit back.
    pub fn release(&self) {
        let before = self.used.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "I4: a permit is given back once");
    }

    /// Objects open now.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_when_raised_and_lowered() {
        let gate = Gate::new(2);
        assert!(gate.try_acquire() && !gate.is_full() && gate.try_acquire() && gate.is_full() && !gate.try_acquire());
        gate.set_limit(3);
        assert!(gate.try_acquire() && !gate.try_acquire());
        gate.set_limit(1);
        gate.release();
        assert!(!gate.try_acquire(), "two are still open");
        gate.release();
        gate.release();
        assert!(gate.try_acquire() && !gate.try_acquire());
    }
}
