//! What stops a file system of a test from answering.

use std::sync::{Condvar, Mutex};

/// Stops a file system from answering.
#[derive(Debug, Default)]
pub struct Halt {
    is_halted: Mutex<bool>,
    changed: Condvar,
}

impl Halt {
    /// From now on nothing is answered, or everything again.
    pub fn set(&self, is_halted: bool) {
        *self.is_halted.lock().unwrap() = is_halted;
        self.changed.notify_all();
    }

    /// Waits while nothing is answered.
    pub fn wait(&self) {
        let is_halted = self.is_halted.lock().unwrap();
        drop(self.changed.wait_while(is_halted, |is_halted| *is_halted).unwrap());
    }
}
