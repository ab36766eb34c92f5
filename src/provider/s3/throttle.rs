//! How many requests a bucket is given at once: halved when the server asks for less, growing back one by one.
//!
//! Additive increase, multiplicative decrease, as TCP does it and as AWS advises for 503 SlowDown. [`Limit`] is pure;
//! [`Throttle`] lets the lanes of all threads wait for it.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Requests in flight when nobody has complained: more than any number of streams asks for.
const LIMIT_MAX: u32 = 4096;
/// The answers of one burst are one complaint: requests that were in flight together are all refused together.
const BURST: Duration = Duration::from_secs(1);

/// The limit, as a value.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Requests that may be in flight.
    limit: u32,
    /// Requests in flight.
    in_flight: u32,
    /// Answers since the limit last grew.
    answers: u32,
    /// When it was last halved.
    halved: Option<Instant>,
}

impl Default for Limit {
    fn default() -> Limit {
        Limit { limit: LIMIT_MAX, in_flight: 0, answers: 0, halved: None }
    }
}

impl Limit {
    /// Takes a place, if there is one.
    pub fn try_acquire(&mut self) -> bool {
        let is_free = self.in_flight < self.limit;
        self.in_flight += u32::from(is_free);
        is_free
    }

    /// Gives a place back.
    pub fn release(&mut self) {
        assert!(self.in_flight > 0, "a place is given back once");
        self.in_flight -= 1;
    }

    /// The server asked for less: half of what is in flight is the new limit, at least 1.
    pub fn on_throttled(&mut self, now: Instant) {
        if self.halved.is_some_and(|then| now.duration_since(then) < BURST) {
            return;
        }
        self.halved = Some(now);
        self.answers = 0;
        self.limit = (self.limit.min(self.in_flight) / 2).max(1);
    }

    /// The server answered: after as many answers as the limit allows at once, it allows one more.
    pub fn on_answered(&mut self) {
        if self.limit == LIMIT_MAX {
            return;
        }
        self.answers += 1;
        if self.answers >= self.limit {
            (self.answers, self.limit) = (0, self.limit + 1);
        }
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// The limit that all lanes share.
#[derive(Debug, Default)]
pub struct Throttle {
    /// The limit itself.
    limit: Mutex<Limit>,
    /// Rung for each place that becomes free.
    free: Notify,
}

impl Throttle {
    /// Waits for a place. May be dropped while it waits: another waiter is woken instead.
    pub async fn acquire(&self) {
        // Ends when a place is free: each release and each growth rings for one waiter.
        while !self.limit.lock().try_acquire() {
            self.free.notified().await;
        }
    }

    /// Gives a place back.
    pub fn release(&self) {
        self.limit.lock().release();
        self.free.notify_one();
    }

    /// Whether there is no place.
    pub fn is_full(&self) -> bool {
        let limit = self.limit.lock();
        limit.in_flight >= limit.limit
    }

    /// The server asked for less.
    pub fn on_throttled(&self) {
        self.limit.lock().on_throttled(Instant::now());
    }

    /// The server answered.
    pub fn on_answered(&self) {
        let mut limit = self.limit.lock();
        let before = limit.limit();
        limit.on_answered();
        if limit.limit() > before {
            self.free.notify_one();
        }
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit.lock().limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_halves_once_and_answers_bring_it_back() {
        let mut limit = Limit::default();
        for _ in 0..64 {
            assert!(limit.try_acquire());
        }
        let start = Instant::now();
        (0..20).for_each(|_| limit.on_throttled(start));
        assert_eq!(limit.limit(), 32);
        assert!(!limit.try_acquire(), "64 are still in flight");
        limit.on_throttled(start + BURST);
        assert_eq!(limit.limit(), 16);
        (0..16).for_each(|_| limit.on_answered());
        assert_eq!(limit.limit(), 17);
        (0..64).for_each(|_| limit.release());
        (0..9).for_each(|burst| limit.on_throttled(start + BURST * (burst + 2)));
        assert_eq!(limit.limit(), 1);
        assert!(limit.try_acquire() && !limit.try_acquire());
    }

    #[test]
    fn a_waiter_is_woken_by_a_free_place() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let throttle = Throttle::default();
            throttle.acquire().await;
            throttle.on_throttled();
            assert_eq!(throttle.limit(), 1);
            let mut waiting = Box::pin(throttle.acquire());
            let is_ready = tokio::select! { biased; () = &mut waiting => true, () = std::future::ready(()) => false };
            assert!(!is_ready);
            throttle.release();
            waiting.await;
        });
    }
}
