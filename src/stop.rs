//! The wish to stop, shared between whoever hears it (signals, later the control socket) and the loops that work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that is raised once: no new work, drain, checkpoint, exit resumable.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Raised or not.
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// Not raised.
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Raises it.
    pub fn request(&self) {
        self.flag.store(true, Ordering::SeqCst);
    }

    /// Whether it is raised. Relaxed: loops look at every turn, and nothing is ordered by it.
    pub fn is_requested(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// The flag itself, for a signal handler, which may do nothing but store to it.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.flag.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_sees_it() {
        let stop = Stop::new();
        let seen = stop.clone();
        assert!(!seen.is_requested());
        stop.flag().store(true, Ordering::SeqCst);
        assert!(seen.is_requested());
        let asked = Stop::new();
        asked.clone().request();
        assert!(asked.is_requested());
    }
}
