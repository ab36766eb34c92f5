//! Stream permits: how many objects may be worked on at once, over all threads, changeable while the job runs.
//!
//! ```text
//! small object   acquire -> worked on -> release
//! large object   acquire -> worked on -> release         its Stream: parked between two blocks when the limit has
//!                              |   ^                     fallen below what is in use, taken up again, before anything
//!                              v   |                     new is begun, when there is room
//!                             parked
//! ```
//! Pure counting. Lowering the limit takes nothing away: it lets no new object start, and large ones rest. A pause is
//! a limit of none that remembers the one before.

mod rate;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

pub use rate::{Rate, RateLimits, Turn};

/// Counts objects that are worked on against a limit.
#[derive(Debug)]
pub struct Gate {
    /// Most objects worked on at once.
    limit: AtomicU32,
    /// Most that can be asked for.
    max: u32,
    /// Whether nothing may go on.
    is_paused: AtomicBool,
    /// Whether the job chooses the limit itself.
    is_auto: Mutex<bool>,
    /// Objects worked on now.
    used: AtomicU32,
    /// Open objects that wait, because the limit was lowered.
    parked: AtomicU32,
    /// Threads that share the streams.
    workers: AtomicU32,
    /// Threads there should be at most.
    workers_wanted: AtomicUsize,
    /// Most bytes and operations a second.
    pub limits: Arc<RateLimits>,
}

impl Gate {
    /// A gate that lets `limit` objects through at once, and never more than `max`, shared by `workers` threads.
    pub fn new(limit: u32, max: u32, workers: usize) -> Gate {
        Gate {
            limit: AtomicU32::new(limit),
            max: max.max(limit),
            is_paused: AtomicBool::new(false),
            is_auto: Mutex::new(false),
            used: AtomicU32::new(0),
            parked: AtomicU32::new(0),
            workers: AtomicU32::new(workers as u32),
            workers_wanted: AtomicUsize::new(usize::MAX),
            limits: Arc::default(),
        }
    }

    /// The limit now; a pause does not change it.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Most that can be asked for.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// Changes the limit, within 1 and the most there can be; the limit before and the one now.
    pub fn set_limit(&self, limit: u32) -> (u32, u32) {
        let now = limit.clamp(1, self.max);
        (self.limit.swap(now, Ordering::Relaxed), now)
    }

    /// Lets nothing go on, or lets it go on again.
    pub fn set_paused(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::Relaxed);
    }

    /// Whether nothing may go on.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// Leaves the limit to the job, or to whoever sets it.
    pub fn set_auto(&self, is_auto: bool) {
        *self.is_auto.lock() = is_auto;
    }

    /// Whether the job chooses the limit itself.
    pub fn is_auto(&self) -> bool {
        *self.is_auto.lock()
    }

    /// Changes the limit for the user, who has the last word: the job does not choose any more.
    pub fn set_limit_by_hand(&self, limit: u32) -> (u32, u32) {
        let mut is_auto = self.is_auto.lock();
        *is_auto = false;
        self.set_limit(limit)
    }

    /// Changes the limit for the job, unless somebody has taken that from it in the meantime; the limit now.
    pub fn set_limit_by_itself(&self, limit: u32) -> u32 {
        let is_auto = self.is_auto.lock();
        if *is_auto { self.set_limit(limit).1 } else { self.limit() }
    }

    /// Threads that share the streams.
    pub fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed) as usize
    }

    /// Notes how many threads there should be at most.
    pub fn set_workers_wanted(&self, workers: usize) {
        self.workers_wanted.store(workers, Ordering::Relaxed);
    }

    /// Whether there are more threads than there should be.
    pub fn is_crowded(&self) -> bool {
        self.workers() > self.workers_wanted.load(Ordering::Relaxed)
    }

    /// Threads begin.
    pub fn join(&self, workers: usize) {
        self.workers.fetch_add(workers as u32, Ordering::Relaxed);
    }

    /// Threads end, or have not begun after all.
    pub fn leave(&self, workers: usize) {
        self.workers.fetch_sub(workers as u32, Ordering::Relaxed);
    }

    /// A thread may end: there are more than there should be. It is not counted any more.
    pub fn try_leave(&self) -> bool {
        let wanted = self.workers_wanted.load(Ordering::Relaxed);
        let left = |workers: u32| (workers as usize > wanted).then(|| workers - 1);
        self.workers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    /// Objects that one of the threads may work on, if all have work.
    pub fn share(&self) -> usize {
        (self.limit() as usize).div_ceil(self.workers().max(1))
    }

    /// Takes a permit for a new object if one is free and no parked object waits for it. Ends: a failed exchange means
    /// another thread changed the count.
    pub fn try_acquire(&self) -> bool {
        self.parked() == 0 && self.take_room()
    }

    fn take_room(&self) -> bool {
        let taken = |used| (used < self.room()).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Gives a permit back because fewer may be in use than are; false if that is not so.
    fn give_way(&self) -> bool {
        let given = |used| (used > self.room()).then(|| used - 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, given).is_ok()
    }

    fn room(&self) -> u32 {
        if self.is_paused() { 0 } else { self.limit() }
    }

    /// Whether no permit is free for a new object.
    pub fn is_full(&self) -> bool {
        self.used() >= self.room() || self.parked() > 0
    }

    /// Whether more permits are in use than may be.
    pub fn is_over(&self) -> bool {
        self.used() > self.room()
    }

    /// Gives a permit back.
    pub fn release(&self) {
        let before = self.used.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "I4: a permit is given back once");
    }

    /// Objects worked on now.
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Open objects that wait, because the limit was lowered.
    pub fn parked(&self) -> u32 {
        self.parked.load(Ordering::Relaxed)
    }
}

/// The permit of a large object that may be parked, shared by the threads that work on it.
#[derive(Debug, Default)]
pub struct Stream {
    /// Whether it is parked: its permit is given back.
    is_parked: AtomicBool,
    /// Held while that changes.
    changing: Mutex<()>,
}

impl Stream {
    /// Whether the object rests now. Whoever works on it asks before every block: the first to ask after the limit was
    /// lowered parks it, the first to ask when there is room again takes it up.
    pub fn rests(&self, gate: &Gate) -> bool {
        if !self.is_parked() && !gate.is_over() {
            return false;
        }
        let _changing = self.changing.lock();
        let is_parked = match self.is_parked() {
            true if gate.take_room() => {
                gate.parked.fetch_sub(1, Ordering::Relaxed);
                false
            }
            false if gate.give_way() => {
                gate.parked.fetch_add(1, Ordering::Relaxed);
                true
            }
            unchanged => unchanged,
        };
        self.is_parked.store(is_parked, Ordering::Relaxed);
        is_parked
    }

    /// Whether it is parked.
    pub fn is_parked(&self) -> bool {
        self.is_parked.load(Ordering::Relaxed)
    }

    /// Takes the permit back whether there is room or not: for the end of the object, which gives it back for good.
    pub fn take_up(&self, gate: &Gate) {
        let _changing = self.changing.lock();
        if self.is_parked.swap(false, Ordering::Relaxed) {
            gate.used.fetch_add(1, Ordering::Relaxed);
            gate.parked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_has_the_last_word() {
        let gate = Gate::new(32, 1024, 2);
        assert_eq!(gate.set_limit_by_itself(64), 32, "nobody asked for it");
        gate.set_auto(true);
        assert_eq!(gate.set_limit_by_itself(64), 64);
        assert_eq!(gate.set_limit_by_hand(8), (64, 8));
        assert_eq!((gate.set_limit_by_itself(96), gate.limit(), gate.is_auto()), (8, 8, false));
    }

    #[test]
    fn the_limit_holds_when_raised_and_lowered() {
        let gate = Gate::new(2, 3, 1);
        assert!(gate.try_acquire() && !gate.is_full() && gate.try_acquire() && gate.is_full() && !gate.try_acquire());
        assert_eq!(gate.set_limit(100), (2, 3));
        assert!(gate.try_acquire() && !gate.try_acquire());
        assert_eq!(gate.set_limit(0), (3, 1));
        gate.release();
        assert!(!gate.try_acquire(), "two are still open");
        gate.release();
        gate.release();
        assert!(gate.try_acquire() && !gate.try_acquire());
    }

    #[test]
    fn large_objects_rest_while_the_limit_is_low_and_go_before_new_ones() {
        let gate = Gate::new(3, 3, 1);
        let large = [Stream::default(), Stream::default(), Stream::default()];
        assert!(large.iter().all(|stream| gate.try_acquire() && !stream.rests(&gate)));
        gate.set_limit(1);
        assert_eq!(large.each_ref().map(|stream| stream.rests(&gate)), [true, true, false]);
        assert_eq!((gate.used(), gate.parked()), (1, 2));
        large[2].take_up(&gate);
        gate.release();
        assert!(!gate.try_acquire(), "a parked object goes first");
        assert_eq!(large.each_ref().map(|stream| stream.is_parked()), [true, true, false]);
        assert!(!large[1].rests(&gate) && large[0].rests(&gate));
        gate.set_limit(3);
        assert!(!large[0].rests(&gate) && gate.try_acquire());
        assert_eq!((gate.used(), gate.parked()), (3, 0));
    }

    #[test]
    fn a_pause_parks_all_and_remembers_the_limit() {
        let gate = Gate::new(8, 8, 1);
        let large = Stream::default();
        assert!(gate.try_acquire());
        gate.set_paused(true);
        assert!(large.rests(&gate) && !gate.try_acquire() && gate.is_full());
        assert_eq!((gate.limit(), gate.used(), gate.parked()), (8, 0, 1));
        // It ends all the same: the job was stopped.
        large.take_up(&gate);
        gate.release();
        assert_eq!((gate.used(), gate.parked()), (0, 0));
        gate.set_paused(false);
        assert!(gate.try_acquire());
    }
}
