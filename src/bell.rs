//! A bell: wakes the one thread that decides when a batch is closed, a page of directories loaded, or the job over.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Rung by whoever has news; remembered until it is heard.
#[derive(Debug, Default)]
pub struct Bell {
    /// Rung and not yet heard.
    rung: Mutex<bool>,
    /// Where the hearer waits.
    heard: Condvar,
}

impl Bell {
    /// Rings.
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_one();
    }

    /// Waits until it rings, at most `timeout`. True if it rang.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, timeout);
        }
        std::mem::take(&mut *rung)
    }
}
