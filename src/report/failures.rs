//! Objects that did not arrive, said as they happen: the first few in full, the rest by number.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::causes::{Causes, Weight};
use super::console::Console;
use crate::error::Error;

/// Failures shown in full; a million lines help nobody, and the catalog has them all.
pub const FAILURES_SHOWN_MAX: u64 = 20;
/// Failures kept for whoever asks the running job.
pub const FAILURES_KEPT_MAX: usize = 32;

/// One object that did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Verb, path and cause (errno).
    pub error: Error,
    /// How often it was tried.
    pub attempts: u32,
}

impl Failure {
    /// One line for people.
    pub fn line(&self) -> String {
        match self.attempts {
            0 | 1 => format!("gfast: {}", self.error),
            attempts => format!("gfast: {} (tried {attempts} times)", self.error),
        }
    }
}

/// Says failures on the console, bounded.
pub struct Failures {
    /// Where to.
    console: Arc<Console>,
    /// How many there were.
    count: AtomicU64,
    /// Objects that were gone when their turn came.
    vanished: AtomicU64,
    /// The last ones, oldest first, at most [`FAILURES_KEPT_MAX`].
    last: Mutex<VecDeque<String>>,
    /// All of them by cause, and what was tried again before it failed or did not.
    pub causes: Arc<Causes>,
}

impl Failures {
    /// None yet.
    pub fn new(console: Arc<Console>) -> Failures {
        let (count, vanished) = (AtomicU64::new(0), AtomicU64::new(0));
        Failures { console, count, vanished, last: Mutex::default(), causes: Arc::default() }
    }

    /// Says one failure, if it is among the first. The caller counts it and keeps it in the catalog.
    pub fn say(&self, failure: &Failure) {
        self.causes.note(Weight::Object, &failure.error.cause);
        self.tell(failure, &self.count);
    }

    /// Says that an object is not in the source any more, likewise. It is no failure, and nothing is kept of it.
    pub fn say_vanished(&self, failure: &Failure) {
        self.tell(failure, &self.vanished);
    }

    fn tell(&self, failure: &Failure, count: &AtomicU64) {
        let line = failure.line();
        if count.fetch_add(1, Ordering::Relaxed) < FAILURES_SHOWN_MAX {
            self.console.error(&line);
        }
        let mut last = self.last.lock();
        if last.len() == FAILURES_KEPT_MAX {
            last.pop_front();
        }
        last.push_back(line);
    }

    /// The last ones, oldest first, each a line for people.
    pub fn last(&self) -> Vec<String> {
        self.last.lock().iter().cloned().collect()
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Says how many were not shown. To be called once, at the end.
    pub fn finish(&self) {
        let more = self.count().saturating_sub(FAILURES_SHOWN_MAX);
        if more > 0 {
            self.console.error(&format!("gfast: and {more} more, see the catalog"));
        }
        let more = self.vanished.load(Ordering::Relaxed).saturating_sub(FAILURES_SHOWN_MAX);
        if more > 0 {
            self.console.error(&format!("gfast: and {more} more vanished"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::{Screen, tests::Kept};
    use super::*;
    use crate::error::Errno;

    #[test]
    fn the_first_twenty_are_shown_and_the_rest_counted() {
        let kept = Kept::default();
        let failures = Failures::new(Arc::new(Console::new(Screen::Quiet, Box::new(kept.clone()))));
        for i in 0..FAILURES_SHOWN_MAX + 3 {
            let error = Error::os("read", format!("/s/{i}"), Errno::IO);
            failures.say(&Failure { error, attempts: 1 + (i == 1) as u32 });
        }
        failures.finish();
        let text = kept.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), failures.count()), (21, FAILURES_SHOWN_MAX + 3));
        assert_eq!(failures.last()[22], "gfast: cannot read /s/22: Input/output error");
        assert_eq!(lines[0], "gfast: cannot read /s/0: Input/output error");
        assert_eq!(lines[1], "gfast: cannot read /s/1: Input/output error (tried 2 times)");
        assert_eq!(lines[20], "gfast: and 3 more, see the catalog");
    }
}
