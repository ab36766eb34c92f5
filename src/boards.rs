//! Looking at the threads at work without slowing them down: they tell what they have open when they are asked to.
//!
//! A thread compares one number on each turn. When it has changed, the thread puts its open objects on its board, and
//! what it measured into one sum. A thread that sleeps or waits for an answer tells later, or not in time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::report::Latency;

/// A thread that is not there answers every question.
const ABSENT: u64 = u64::MAX;

/// One open object.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are copied.
    pub done: u64,
    /// When it was begun.
    pub began: Instant,
}

/// What one thread told last.
#[derive(Debug)]
struct Board {
    /// The question it has answered.
    answered: AtomicU64,
    /// Its open objects.
    open: Mutex<Vec<Open>>,
}

/// What all threads told last.
#[derive(Debug)]
pub struct Boards {
    /// The last question.
    asked: AtomicU64,
    /// By thread.
    boards: Vec<Board>,
    /// What was measured, as far as it was told.
    latency: Mutex<Latency>,
}

impl Boards {
    /// Boards of up to `threads` threads, none of which is there yet.
    pub fn new(threads: usize) -> Boards {
        let board = || Board { answered: AtomicU64::new(ABSENT), open: Mutex::default() };
        Boards { asked: AtomicU64::new(0), boards: (0..threads).map(|_| board()).collect(), latency: Mutex::default() }
    }

    /// A thread begins.
    pub fn enter(&self, thread: usize) {
        self.boards[thread].answered.store(0, Ordering::Relaxed);
    }

    /// A thread ends; what it measured is added to the sum.
    pub fn leave(&self, thread: usize, latency: &Latency) {
        self.latency.lock().merge(latency);
        self.boards[thread].open.lock().clear();
        self.boards[thread].answered.store(ABSENT, Ordering::Release);
    }

    /// Asks all threads; the question's number.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The question a thread has not answered yet.
    pub fn question(&self, thread: usize) -> Option<u64> {
        let asked = self.asked.load(Ordering::Relaxed);
        (self.boards[thread].answered.load(Ordering::Relaxed) < asked).then_some(asked)
    }

    /// A thread's answer. What it measured goes into the sum and is forgotten there.
    pub fn answer(&self, thread: usize, question: u64, open: Vec<Open>, latency: &mut Latency) {
        self.latency.lock().take_in(latency);
        *self.boards[thread].open.lock() = open;
        self.boards[thread].answered.store(question, Ordering::Release);
    }

    /// Whether every thread has answered a question.
    pub fn is_answered(&self, question: u64) -> bool {
        self.boards.iter().all(|board| board.answered.load(Ordering::Acquire) >= question)
    }

    /// Open objects as they were told last: at most `max`, the first of each thread before the second of any.
    pub fn open(&self, max: usize) -> Vec<Open> {
        let boards: Vec<Vec<Open>> = self.boards.iter().map(|board| board.open.lock().clone()).collect();
        let longest = boards.iter().map(Vec::len).max().unwrap_or(0);
        let in_turns = (0..longest).flat_map(|nth| boards.iter().filter_map(move |board| board.get(nth)));
        in_turns.take(max).cloned().collect()
    }

    /// What was measured, as far as it was told.
    pub fn latency(&self) -> Latency {
        self.latency.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn threads_answer_in_their_own_time_and_the_absent_are_not_waited_for() {
        let boards = Boards::new(3);
        boards.enter(0);
        boards.enter(1);
        assert_eq!(boards.question(0), None);
        let asked = boards.ask();
        assert!(!boards.is_answered(asked));
        let open = |name: &str| Open { path: name.into(), size: 1, done: 0, began: Instant::now() };
        let mut latency = Latency::default();
        latency.source.record(Duration::from_millis(1));
        boards.answer(0, asked, vec![open("a"), open("b")], &mut latency);
        assert_eq!((boards.question(0), boards.question(1), latency.source.count()), (None, Some(asked), 0));
        boards.answer(1, asked, vec![open("c")], &mut latency);
        assert!(boards.is_answered(asked));
        let paths = |max| boards.open(max).into_iter().map(|open| open.path).collect::<Vec<_>>();
        assert_eq!((paths(2), paths(9)), (vec![b"a".into(), b"c".into()], vec![b"a".into(), b"c".into(), b"b".into()]));
        boards.leave(0, &latency);
        assert_eq!((boards.open(9).len(), boards.latency().source.count()), (1, 1));
    }
}
