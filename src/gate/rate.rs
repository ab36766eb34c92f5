//! Token buckets: most bytes and most operations a second, changeable while the job runs.
//!
//! A bucket is one number: the moment up to which all that was taken is paid for. Whoever wants to take waits until
//! that moment has come, then takes any amount, which moves it on. So the rate is exact however large a block is, and
//! an idle time gives no more than [`BURST`] of credit.
//!
//! Those who wait in that way are served as they happen to ask again. Where none may be left out, since a server closes
//! a connection on which nothing comes, each takes its tokens at once and waits for its [`Turn`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most time whose tokens are kept.
const BURST: Duration = Duration::from_millis(100);
const NANOS_PER_S: u128 = 1_000_000_000;

/// What a job may use a second.
#[derive(Debug, Default)]
pub struct RateLimits {
    /// Bytes read from the source that go to the destination.
    pub bytes: Rate,
    /// Operations: objects begun, and blocks or parts of large ones.
    pub ops: Rate,
}

impl RateLimits {
    /// Ends both limits.
    pub fn lift(&self) {
        self.bytes.set(None);
        self.ops.set(None);
    }

    /// Takes what a block or part of a large object takes; else how long that has to wait.
    pub fn take_block(&self, bytes: u64) -> Result<(), Duration> {
        self.ops.wait()?;
        self.bytes.take(bytes)?;
        self.ops.charge(1);
        Ok(())
    }
}

/// The place of somebody who waits for tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// Whose turn comes when, in nanoseconds since the bucket's epoch, and the term of the rate it was given in.
    due: Option<(u64, u64)>,
}

/// A token bucket.
#[derive(Debug)]
pub struct Rate {
    /// Tokens a second; 0 for as many as anybody wants.
    per_s: AtomicU64,
    /// Up to when all that was taken is paid for, in nanoseconds since `epoch`.
    paid: AtomicU64,
    /// How often the rate was changed.
    terms: AtomicU64,
    /// When time began.
    epoch: Instant,
}

impl Default for Rate {
    fn default() -> Rate {
        Rate { per_s: AtomicU64::new(0), paid: AtomicU64::new(0), terms: AtomicU64::new(0), epoch: Instant::now() }
    }
}

impl Rate {
    /// Tokens a second; `None` for no limit.
    pub fn get(&self) -> Option<u64> {
        Some(self.per_s.load(Ordering::Relaxed)).filter(|per_s| *per_s > 0)
    }

    /// Changes it. What was taken before is paid for.
    pub fn set(&self, per_s: Option<u64>) {
        self.set_at(per_s, Instant::now());
    }

    fn set_at(&self, per_s: Option<u64>, now: Instant) {
        self.per_s.store(per_s.unwrap_or(0), Ordering::Relaxed);
        self.paid.store(self.nanos(now), Ordering::Relaxed);
        // What was given in the term before is void: who waits asks anew.
        self.terms.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes tokens in turn: who asked first goes first. Else how long to wait before asking again, with the same
    /// `turn`. Nobody loses but a turn who does not.
    pub fn take_in_turn(&self, amount: u64, turn: &mut Turn) -> Result<(), Duration> {
        match self.get() {
            None => {
                turn.due = None;
                Ok(())
            }
            Some(_) => self.take_in_turn_at(amount, turn, Instant::now()),
        }
    }

    fn take_in_turn_at(&self, amount: u64, turn: &mut Turn, now: Instant) -> Result<(), Duration> {
        let Some(per_s) = self.get() else { return Ok(()) };
        let (now, term) = (self.nanos(now), self.terms.load(Ordering::Relaxed));
        let due = match turn.due.take().filter(|(_, given)| *given == term) {
            Some((due, _)) => due,
            None => {
                let start = |paid: u64| paid.max(now.saturating_sub(BURST.as_nanos() as u64));
                let taken = |paid: u64| Some(start(paid).saturating_add(cost(amount, per_s)));
                let taken = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
                // Always succeeds: the closure always answers.
                start(taken.unwrap_or_default())
            }
        };
        if due <= now {
            return Ok(());
        }
        turn.due = Some((due, term));
        Err(Duration::from_nanos(due - now))
    }

    /// Takes tokens; else how long to wait before asking again. The clock is not asked while there is no limit.
    pub fn take(&self, amount: u64) -> Result<(), Duration> {
        match self.get() {
            None => Ok(()),
            Some(_) => self.take_at(amount, Instant::now()),
        }
    }

    /// Whether something could be taken; else how long to wait.
    pub fn wait(&self) -> Result<(), Duration> {
        self.take(0)
    }

    /// Takes tokens that were used already: the next to ask waits for them.
    pub fn charge(&self, amount: u64) {
        if let Some(per_s) = self.get() {
            let start = self.nanos(Instant::now()).saturating_sub(BURST.as_nanos() as u64);
            let charged = |paid: u64| Some(paid.max(start).saturating_add(cost(amount, per_s)));
            // Always succeeds: the closure always answers.
            let _ = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charged);
        }
    }

    fn take_at(&self, amount: u64, now: Instant) -> Result<(), Duration> {
        let Some(per_s) = self.get() else { return Ok(()) };
        let now = self.nanos(now);
        let earliest = now.saturating_sub(BURST.as_nanos() as u64);
        let taken = |paid: u64| (paid <= now).then(|| paid.max(earliest).saturating_add(cost(amount, per_s)));
        let taken = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken);
        taken.map(drop).map_err(|paid| Duration::from_nanos(paid - now))
    }

    fn nanos(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

fn cost(amount: u64, per_s: u64) -> u64 {
    u64::try_from(u128::from(amount) * NANOS_PER_S / u128::from(per_s)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes taken in 10 s by blocks of `block` asked for as soon as they may be, or every `step` at the latest.
    fn taken_in_10_s(rate: &Rate, block: u64, step: Duration) -> u64 {
        let start = rate.epoch + Duration::from_secs(5);
        let (mut now, mut taken) = (start, 0);
        rate.set_at(rate.get(), now);
        while now < start + Duration::from_secs(10) {
            match rate.take_at(block, now) {
                Ok(()) => taken += block,
                Err(wait) => now += wait.max(step),
            }
        }
        taken
    }

    #[test]
    fn the_rate_holds_whatever_the_block_and_however_late_anybody_asks() {
        for (per_s, block, step_ms) in [
            (10 << 20, 4 << 10, 0),
            (10 << 20, 1 << 20, 1),
            (500 << 20, 1 << 20, 20),
            (100_000, 1000, 50),
            (1000, 1, 1),
        ] {
            let rate = Rate::default();
            rate.set(Some(per_s));
            let taken = taken_in_10_s(&rate, block, Duration::from_millis(step_ms)) as f64;
            let wanted = per_s as f64 * 10.0;
            assert!((taken / wanted - 1.0).abs() < 0.03, "{per_s}/s by {block}: {taken}");
        }
    }

    #[test]
    fn rest_earns_a_tenth_of_a_second_and_a_new_limit_owes_nothing() {
        let rate = Rate::default();
        rate.set_at(Some(1000), rate.epoch);
        let late = rate.epoch + Duration::from_secs(100);
        assert_eq!(rate.take_at(100, late), Ok(()), "100 ms of tokens are there");
        assert_eq!(rate.take_at(1, late), Ok(()), "all paid");
        assert_eq!(rate.take_at(1, late), Err(Duration::from_millis(1)));
        assert_eq!(rate.take_at(1_000_000, late + Duration::from_millis(1)), Ok(()));
        assert!(rate.take_at(1, late + Duration::from_secs(900)).is_err());
        rate.set_at(Some(10), late + Duration::from_secs(900));
        assert_eq!(rate.take_at(1, late + Duration::from_secs(900)), Ok(()));
        rate.set_at(None, late);
        assert!((0..1000).all(|_| rate.take(1 << 40).is_ok()));
        assert_eq!((rate.get(), rate.wait()), (None, Ok(())));
    }

    #[test]
    fn who_asked_first_goes_first_whoever_asks_again_first() {
        let rate = Rate::default();
        rate.set(Some(6 << 20));
        let start = rate.epoch + Duration::from_secs(5);
        rate.set_at(rate.get(), start);
        let (mut now, mut turns, mut taken) = (start, [Turn::default(); 5], [0_u64; 5]);
        while now < start + Duration::from_secs(10) {
            let mut waits = Vec::new();
            // The first is always asked before all others.
            for (turn, taken) in turns.iter_mut().zip(&mut taken) {
                while rate.take_in_turn_at(64 << 10, turn, now).is_ok() {
                    *taken += 64 << 10;
                }
                waits.push(rate.take_in_turn_at(64 << 10, turn, now).unwrap_err());
            }
            now += waits.into_iter().min().unwrap().clamp(Duration::from_millis(1), Duration::from_millis(50));
        }
        let all = taken.iter().sum::<u64>() as f64 / (60 << 20) as f64;
        assert!((all - 1.0).abs() < 0.03, "{all}");
        let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
        assert!(most - least <= 1 << 20, "{taken:?}");
        // A turn that is years away does not outlive its limit.
        let mut turn = Turn::default();
        rate.set_at(Some(1), now);
        while rate.take_in_turn_at(1 << 30, &mut turn, now).is_ok() {}
        rate.set_at(Some(1 << 20), now);
        assert_eq!(rate.take_in_turn_at(10, &mut turn, now), Ok(()));
        let _ = rate.take_in_turn_at(1 << 30, &mut turn, now);
        assert!(rate.take_in_turn_at(1 << 30, &mut turn, now).is_err());
        rate.set(None);
        assert_eq!(rate.take_in_turn(1 << 30, &mut turn), Ok(()));
    }

    #[test]
    fn a_block_takes_bytes_and_an_operation() {
        let limits = RateLimits::default();
        limits.ops.set(Some(1000));
        limits.bytes.set(Some(1));
        assert_eq!(limits.take_block(10), Ok(()));
        assert!(limits.take_block(10).is_err(), "the bytes are used up for 10 s");
        limits.bytes.set(None);
        limits.ops.set(Some(1));
        assert_eq!(limits.take_block(1 << 30), Ok(()));
        assert!(limits.take_block(0).is_err(), "one operation a second");
    }
}
