//! `--streams auto`: how many streams a job should have, from how fast it was with those it had.
//!
//! ```text
//!            more streams, faster          as fast with fewer
//!          .--------------.                .--------------.
//!          v              |                v              |
//! base --> trial up ------'--- no ---> trial down --------'--- no ---> hold --> trial up or down, now and then
//!   ^                                                                   |
//!   '------------------- the storage has become faster or slower -------'
//! ```
//!
//! Hill climbing in epochs, pure: speeds come in, a number of streams goes out. It never stops watching. It does not
//! oscillate: a trial is won only by a clear difference, an unclear one is measured again, and the time between trials
//! that change nothing doubles. What is clear depends on how much epochs with one number of streams differ: that is
//! measured all along. Of two numbers that are as fast the smaller one wins, since every stream costs memory,
//! descriptors and the patience of others on the same storage.

/// Fewest streams it goes down to by itself: one stuck object does not stop a job.
pub const AUTO_MIN: u32 = 4;

/// A gain that makes more streams worth having.
const GAIN: f64 = 0.05;
/// A difference that needs no second measurement.
const CLEAR: f64 = 0.20;
/// What fewer streams may be slower by and count as equally fast: below the noise of an epoch.
const EQUAL: f64 = 0.02;
/// What all steps down together may cost, against the best speed seen.
const GIVEN_UP_MAX: f64 = 0.05;
/// A change at rest that means that the storage, or what is copied, is another than it was.
const SHIFT: f64 = 0.25;
/// Epochs that a shift must last.
const SHIFT_EPOCHS: u32 = 2;
/// Epochs of a trial whose outcome is not clear: as many as the noise asks for, within these bounds.
const TRIAL_EPOCHS: (u32, u32) = (2, 4);
/// Error of a mean that is small enough to judge by.
const ERROR_SMALL: f64 = 0.04;
/// How far epochs with one number of streams lie from their mean, before that was seen, and most that is believed.
const NOISE: (f64, f64) = (0.03, 0.25);
/// Weight of one more epoch in that.
const NOISE_WEIGHT: f64 = 0.15;
/// How many times the noise a difference has to be, to need no second measurement, or to be a shift.
const CLEAR_NOISES: f64 = 3.0;
/// Epochs of rest after a trial that changed nothing: the first, and at most.
const HOLD_EPOCHS: (u32, u32) = (4, 32);

/// One epoch as it was.
#[derive(Clone, Copy, Debug)]
pub struct Epoch {
    /// Work done a second: any unit, always the same one.
    pub speed: f64,
    /// Whether the streams had work: a job that waits for its walk says nothing about streams.
    pub is_saturated: bool,
}

/// Which way a trial goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// More streams.
    Up,
    /// Fewer.
    Down,
}

/// What it is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Measuring what the next trial is compared with.
    Base,
    /// Trying another number than `from`.
    Trial { way: Way, from: u32 },
    /// Resting for some more epochs.
    Hold { left: u32, shifted: u32 },
}

/// Chooses the number of streams.
#[derive(Clone, Debug)]
pub struct Tuner {
    /// Streams now.
    streams: u32,
    /// Most that descriptors and memory allow.
    max: u32,
    /// What it is doing.
    state: State,
    /// Speed that trials are compared with.
    base: f64,
    /// Best speed since the last shift.
    best: f64,
    /// Speeds of the epochs of this state, added up.
    sum: f64,
    /// How many.
    epochs: u32,
    /// Whether the number now was reached by a step up, so that fewer are known to be slower.
    is_from_below: bool,
    /// How far epochs with one number of streams lie from their mean, as a part of it.
    noise: f64,
    /// Rest after the next trial that changes nothing.
    hold: u32,
    /// Where the next trial after a rest goes.
    next_way: Way,
}

impl Tuner {
    /// A tuner that begins with `streams` and never asks for more than `max`.
    pub fn new(streams: u32, max: u32) -> Tuner {
        let max = max.max(1);
        Tuner {
            streams: streams.clamp(1, max),
            max,
            state: State::Base,
            base: 0.0,
            best: 0.0,
            sum: 0.0,
            epochs: 0,
            is_from_below: false,
            noise: NOISE.0,
            hold: HOLD_EPOCHS.0,
            next_way: Way::Up,
        }
    }

    /// The number of streams for the next epoch, after one with the number of the last answer.
    pub fn after(&mut self, epoch: &Epoch) -> u32 {
        if !epoch.is_saturated {
            self.leave_trial();
            return self.streams;
        }
        self.hear(epoch.speed);
        self.sum += epoch.speed;
        self.epochs += 1;
        let mean = self.sum / f64::from(self.epochs);
        match self.state {
            State::Base if self.epochs < self.epochs_of_base() => {}
            State::Base => {
                self.base = mean;
                self.best = mean;
                self.try_way(Way::Up);
            }
            State::Trial { way, from } => self.judge(way, from, mean),
            State::Hold { left, shifted } => self.rest(left, shifted, epoch.speed),
        }
        self.streams
    }

    /// Learns how noisy it is from an epoch that is not the first of its state.
    fn hear(&mut self, speed: f64) {
        if self.epochs == 0 {
            return;
        }
        let mean = self.sum / f64::from(self.epochs);
        // The mean of few is off by as much again.
        let few = (1.0 + 1.0 / f64::from(self.epochs)).sqrt();
        let off = ((speed / mean.max(f64::MIN_POSITIVE) - 1.0).abs() / few).min(NOISE.1);
        self.noise += NOISE_WEIGHT * (off - self.noise);
    }

    /// The error of a mean of so many epochs. (The mean distance of normal noise is 0.8 of its deviation.)
    fn error(&self, epochs: u32) -> f64 {
        1.25 * self.noise / f64::from(epochs.max(1)).sqrt()
    }

    /// Epochs that a mean is to be of.
    fn epochs_wanted(&self) -> u32 {
        let (least, most) = TRIAL_EPOCHS;
        (least..most).find(|&epochs| self.error(epochs) <= ERROR_SMALL).unwrap_or(most)
    }

    /// What is compared with needs no more than a look, until that has been noisy.
    fn epochs_of_base(&self) -> u32 {
        if self.noise <= 2.0 * NOISE.0 { 1 } else { self.epochs_wanted() }
    }

    /// Nothing was learnt: a trial that was under way is forgotten.
    fn leave_trial(&mut self) {
        if let State::Trial { from, .. } = self.state {
            self.streams = from;
        }
        self.begin(State::Hold { left: HOLD_EPOCHS.0, shifted: 0 });
    }

    fn begin(&mut self, state: State) {
        (self.state, self.sum, self.epochs) = (state, 0.0, 0);
    }

    /// Begins a trial; there is none where there is no room.
    fn try_way(&mut self, way: Way) {
        let from = self.streams;
        let step = (from / 2).max(1);
        let streams = match way {
            // What was won by a step up is followed by a step twice as long.
            Way::Up if self.is_from_below => from.saturating_mul(2).min(self.max),
            Way::Up => (from + step).min(self.max),
            Way::Down => (from - from / 3).max(AUTO_MIN.min(self.max)).min(from),
        };
        if streams == from {
            return self.rest_after(way);
        }
        self.streams = streams;
        self.begin(State::Trial { way, from });
    }

    fn judge(&mut self, way: Way, from: u32, mean: f64) {
        let ratio = mean / self.base.max(f64::MIN_POSITIVE);
        let clear = CLEAR.max(CLEAR_NOISES * self.noise);
        // What is worse than it may be is given up soon, for that costs nothing but a chance; what is better has to
        // prove it.
        let least = if way == Way::Up { 1.0 + GAIN } else { 1.0 - EQUAL };
        let is_lost = self.noise > 2.0 * NOISE.0 && ratio < least - self.error(self.epochs);
        if !is_lost && (ratio - 1.0).abs() < clear && self.epochs < self.epochs_wanted() {
            return;
        }
        let is_won = match way {
            Way::Up => ratio >= 1.0 + GAIN.max(1.5 * self.error(self.epochs)),
            Way::Down => ratio >= 1.0 - EQUAL && mean >= self.best * (1.0 - GIVEN_UP_MAX),
        };
        if is_won {
            self.base = mean;
            self.best = self.best.max(mean);
            self.is_from_below = way == Way::Up;
            self.hold = HOLD_EPOCHS.0;
            return self.try_way(way);
        }
        self.streams = from;
        match way {
            Way::Up if !self.is_from_below => self.try_way(Way::Down),
            _ => self.rest_after(way),
        }
    }

    /// Rests; the trial after that goes the other way.
    fn rest_after(&mut self, way: Way) {
        self.next_way = if way == Way::Up { Way::Down } else { Way::Up };
        self.is_from_below = false;
        self.begin(State::Hold { left: self.hold, shifted: 0 });
        self.hold = (self.hold * 2).min(HOLD_EPOCHS.1);
    }

    fn rest(&mut self, left: u32, shifted: u32, speed: f64) {
        let is_shifted = (speed / self.base.max(f64::MIN_POSITIVE) - 1.0).abs() > SHIFT.max(CLEAR_NOISES * self.noise);
        let shifted = if is_shifted { shifted + 1 } else { 0 };
        if shifted >= SHIFT_EPOCHS {
            self.hold = HOLD_EPOCHS.0;
            return self.begin(State::Base);
        }
        // The epochs at rest are a better base than those of the trials before.
        if left > 0 {
            self.state = State::Hold { left: left - 1, shifted };
            return;
        }
        self.base = self.sum / f64::from(self.epochs);
        self.best = self.best.min(self.base / (1.0 - GIVEN_UP_MAX));
        self.try_way(self.next_way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A storage: how fast `streams` are at second `at`.
    type Model = fn(streams: f64, at: u32) -> f64;

    /// Fast with any number, a little slower with many.
    fn ram(streams: f64, _: u32) -> f64 {
        3000.0 * (streams / (streams + 0.5)) / (1.0 + streams / 4000.0)
    }
    /// Faster up to 24 streams, then seeks cost more and more.
    fn knee(streams: f64, _: u32) -> f64 {
        if streams <= 24.0 { 10.0 * streams } else { 240.0 * (24.0 / streams).powf(0.4) }
    }
    /// 20 ms an answer, and a server that can do 10,000 a second.
    fn share(streams: f64, _: u32) -> f64 {
        (50.0 * streams).min(10_000.0)
    }
    /// A share whose server slows down after a minute, and suffers from many streams then.
    fn degrading(streams: f64, at: u32) -> f64 {
        if at < 60 { share(streams, at) } else { knee(streams, at) }
    }
    /// The same speed with any number, a third of it after a minute.
    fn throttling(streams: f64, at: u32) -> f64 {
        let most = if at < 60 { 300.0 } else { 100.0 };
        (100.0 * streams).min(most)
    }

    /// What 180 seconds came to: streams and speed of each.
    fn run(model: Model, noise: f64, seed: u64) -> Vec<(u32, f64)> {
        let mut tuner = Tuner::new(32, 1024);
        let (mut streams, mut random) = (32, seed);
        (0..180)
            .map(|at| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let shake = 1.0 + noise * ((random >> 33) as f64 / f64::from(1u32 << 31) * 2.0 - 1.0);
                let speed = model(f64::from(streams), at);
                let told = (streams, speed);
                streams = tuner.after(&Epoch { speed: speed * shake, is_saturated: true });
                told
            })
            .collect()
    }

    /// Mean speed of the best fixed number of streams.
    fn best(model: Model, seconds: std::ops::Range<usize>) -> f64 {
        let sum = |streams: u32| seconds.clone().map(|at| model(f64::from(streams), at as u32)).sum::<f64>();
        (1..=1024).map(sum).fold(0.0, f64::max) / seconds.len() as f64
    }

    /// Mean speed of some seconds.
    fn mean(told: &[(u32, f64)]) -> f64 {
        told.iter().map(|(_, speed)| speed).sum::<f64>() / told.len() as f64
    }

    /// All models, with names.
    const MODELS: [(&str, Model); 5] =
        [("ram", ram), ("knee", knee), ("share", share), ("degrading", degrading), ("throttling", throttling)];

    #[test]
    fn twenty_seconds_are_enough_on_every_storage() {
        for (name, model) in MODELS {
            let windows = [20..60, 80..120, 120..180].map(|seconds| (seconds.clone(), best(model, seconds)));
            for seed in 0..50 {
                let told = run(model, 0.05, seed);
                for (seconds, best) in windows.clone() {
                    let reached = mean(&told[seconds.clone()]) / best;
                    assert!(reached >= 0.85, "{name}, seed {seed}, {seconds:?}: {reached:.2} of the best, {told:?}");
                }
            }
        }
    }

    /// A slow mount as it was measured.
    fn mount(streams: f64, _: u32) -> f64 {
        if streams <= 156.0 { 16.0 * streams } else { 2500.0 * (156.0 / streams).powf(0.2) }
    }

    /// Epochs of a real copy through a FUSE mount on two busy cores lay up to a quarter off their mean.
    #[test]
    fn noise_leads_it_nowhere() {
        for (name, model) in [("ram", ram as Model), ("knee", knee), ("share", share), ("mount", mount)] {
            let best = best(model, 20..180);
            let of = |seed| {
                let told = run(model, 0.25, seed);
                [20..60, 80..120, 120..180].map(|seconds| mean(&told[seconds]) / best)
            };
            let all: Vec<f64> = (0..200).flat_map(of).collect();
            let (mean, worst) = (all.iter().sum::<f64>() / all.len() as f64, all.iter().copied().fold(1.0, f64::min));
            assert!(mean >= 0.87 && worst >= 0.78, "{name}: {mean:.3} of the best, at worst {worst:.3}");
        }
    }

    #[test]
    fn it_comes_to_rest_and_keeps_watching() {
        for (name, model) in MODELS {
            for seed in 0..50 {
                let told = run(model, 0.05, seed);
                let changes = told[120..].windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
                assert!(changes <= 20, "{name}, seed {seed}: {changes} changes in the last minute");
                assert!(changes >= 2, "{name}, seed {seed}: it does not try anything any more");
            }
        }
    }

    #[test]
    fn streams_that_make_it_slower_are_taken_back() {
        let told = run(knee, 0.0, 1);
        assert!(told[20..].iter().all(|(streams, _)| (8..=64).contains(streams)), "{told:?}");
    }

    #[test]
    fn a_limit_is_kept_and_a_job_that_waits_teaches_nothing() {
        let mut tuner = Tuner::new(32, 40);
        let mut streams = 32;
        for _ in 0..50 {
            streams = tuner.after(&Epoch { speed: f64::from(streams), is_saturated: true });
            assert!((AUTO_MIN..=40).contains(&streams));
        }
        assert!(streams >= 36, "{streams}");
        let mut idle = Tuner::new(32, 1024);
        assert!((0..50).all(|_| idle.after(&Epoch { speed: 0.0, is_saturated: false }) == 32));
        assert_eq!(Tuner::new(1, 1).after(&Epoch { speed: 0.0, is_saturated: true }), 1);
    }
}
