//! How the time of a measurement is spent.

use std::time::{Duration, Instant};

/// Rounds that a median should be of.
pub(super) const ROUNDS_WANTED: u32 = 3;
/// Most rounds, where samples are copied faster than there is time.
const ROUNDS_MAX: u32 = 9;
/// Shortest and longest time of one run.
pub(super) const SLICE_MIN: Duration = Duration::from_millis(100);
/// See [`SLICE_MIN`].
pub(super) const SLICE_MAX: Duration = Duration::from_secs(5);
/// How much of its share of the time a run copies; preparing and clearing take the rest.
const COPYING_SHARE: f64 = 0.7;
/// How the time for a knob is spent: [`ROUNDS_WANTED`] rounds, as long as they may be; more, if runs end early because
/// a sample is copied; fewer, but one, if there is no time for them.
pub(super) struct Pace {
    /// When the first round began.
    started: Instant,
    /// Time for all of them.
    budget: Duration,
    /// Runs of a round.
    runs: u32,
    /// Rounds made.
    rounds: u32,
    /// Shortest slice that says something here.
    least: Duration,
    /// The slices of all runs made.
    sliced: Duration,
}

impl Pace {
    pub fn new(budget: Duration, runs: u32, least: Duration) -> Pace {
        Pace { started: Instant::now(), budget, runs, rounds: 0, least, sliced: Duration::ZERO }
    }

    /// The slice of each run of the next round; `None` if there is to be none.
    pub fn next(&self) -> Option<Duration> {
        let made = self.rounds * self.runs;
        if made == 0 {
            return Some(slice(self.budget, self.runs * ROUNDS_WANTED, self.least));
        }
        let (elapsed, sliced) = (self.started.elapsed(), self.sliced / made);
        let (left, took) = (self.budget.saturating_sub(elapsed), elapsed / made);
        // Preparing, making durable and clearing.
        let overhead = took.saturating_sub(sliced);
        let share = left / self.runs / ROUNDS_WANTED.saturating_sub(self.rounds).max(1);
        let slice = share.saturating_sub(overhead).clamp(self.least, SLICE_MAX);
        let expected = if took < sliced { took } else { slice + overhead };
        // A little late is better than a round less, and far better than a median of too few.
        let grace = if self.rounds < ROUNDS_WANTED { self.budget / 2 } else { self.budget / 20 };
        let is_late = expected * self.runs > left + grace;
        (self.rounds < ROUNDS_MAX && !is_late).then_some(slice)
    }

    /// A round was made, with this slice for each run.
    pub fn count(&mut self, slice: Duration) {
        self.rounds += 1;
        self.sliced += slice * self.runs;
    }
}

/// The time of one of so many runs.
pub(super) fn slice(budget: Duration, runs: u32, least: Duration) -> Duration {
    (budget / runs.max(1)).mul_f64(COPYING_SHARE).clamp(least, SLICE_MAX)
}
