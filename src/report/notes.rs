//! What was changed in a running job, and by whom: said at once, and kept for the record.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::console::Console;

/// Most notes a record keeps: the last ones.
pub const NOTES_MAX: usize = 1000;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When, in seconds since 1970.
    pub at_secs: u64,
    /// What: one line for people.
    pub text: String,
}

/// Says changes, and keeps them until they are recorded.
pub struct Notes {
    /// Where to.
    console: Arc<Console>,
    /// Not recorded yet, oldest first, at most [`NOTES_MAX`].
    waiting: Mutex<VecDeque<Note>>,
    /// How many there were.
    count: AtomicU64,
}

impl Notes {
    /// None yet.
    pub fn new(console: Arc<Console>) -> Notes {
        Notes { console, waiting: Mutex::default(), count: AtomicU64::new(0) }
    }

    /// Says a change.
    pub fn say(&self, text: &str) {
        self.console.note(&format!("gfast: {text}"));
        self.count.fetch_add(1, Ordering::Relaxed);
        let at_secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let mut waiting = self.waiting.lock();
        if waiting.len() == NOTES_MAX {
            waiting.pop_front();
        }
        waiting.push_back(Note { at_secs, text: text.to_owned() });
    }

    /// Hands over what is to be recorded.
    pub fn take(&self) -> Vec<Note> {
        self.waiting.lock().drain(..).collect()
    }

    /// Whether nothing is to be recorded.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::{Screen, tests::Kept};
    use super::*;

    #[test]
    fn all_are_said_and_the_last_thousand_kept() {
        let kept = Kept::default();
        let notes = Notes::new(Arc::new(Console::new(Screen::Log, Box::new(kept.clone()))));
        (0..NOTES_MAX + 2).for_each(|nth| notes.say(&format!("streams {nth} -> 9")));
        assert_eq!((notes.count(), kept.text().lines().count()), (1002, 1002));
        assert!(kept.text().starts_with("gfast: streams 0 -> 9\n"));
        let taken = notes.take();
        assert_eq!((taken.len(), taken[0].text.as_str(), notes.is_empty()), (1000, "streams 2 -> 9", true));
    }
}
