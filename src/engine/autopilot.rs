//! `--streams auto`: the tuner (tuner.rs) at the wheel of a running job.
//!
//! An epoch is what one number of streams is measured over. Its beginning does not count: a change takes a moment to be
//! felt. Work is bytes and objects, so that small files count for what they cost.

use std::time::{Duration, Instant};

use crate::job::Job;
use crate::tuner::{Epoch, Tuner};

/// How long a number of streams is measured.
const EPOCH: Duration = Duration::from_millis(1000);
/// What is not counted after a change, at least, and at most while the streams that were asked for do not all work yet:
/// where each is a thread, hundreds take a second to start.
const SETTLING: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));
/// Bytes that an object costs as much as.
const OBJECT_BYTES: f64 = 65_536.0;
/// Part of the streams that must be at work for an epoch to say anything about their number.
const SATURATED: f64 = 0.75;

/// Steers the number of streams while it is asked to.
#[derive(Debug, Default)]
pub(super) struct Autopilot {
    /// At the wheel: what it does and measures.
    flight: Option<Flight>,
}

/// The tuner and the epoch under way.
#[derive(Debug)]
struct Flight {
    /// Decides.
    tuner: Tuner,
    /// Streams it asked for last: another number is somebody else's.
    streams: u32,
    /// When the epoch began to count.
    began: Instant,
    /// When the streams were changed, while that settles.
    changed: Option<Instant>,
    /// Work done by then.
    work: f64,
    /// Looks at the streams at work, added up, and their number.
    active: (u64, u64),
}

impl Autopilot {
    /// Looks, and changes the streams at the end of an epoch. To be called several times a second.
    pub fn tick(&mut self, job: &Job, (bytes, objects): (u64, u64), now: Instant) {
        if !job.gate.is_auto() || job.gate.is_paused() {
            self.flight = None;
            return;
        }
        let work = bytes as f64 + OBJECT_BYTES * objects as f64;
        let streams = job.gate.limit();
        let Some(flight) = self.flight.as_mut().filter(|flight| flight.streams == streams) else {
            let tuner = Tuner::new(streams, job.gate.max());
            self.flight = Some(Flight { tuner, streams, began: now, changed: None, work, active: (0, 0) });
            return;
        };
        if flight.settles(now, job.gate.used()) {
            (flight.began, flight.work) = (now, work);
            return;
        }
        flight.active.0 += u64::from(job.gate.used());
        flight.active.1 += 1;
        let elapsed = now.duration_since(flight.began);
        if elapsed < EPOCH {
            return;
        }
        let active = flight.active.0 as f64 / flight.active.1 as f64;
        let is_saturated = active >= SATURATED * f64::from(streams);
        let speed = (work - flight.work) / elapsed.as_secs_f64();
        let wanted = flight.tuner.after(&Epoch { speed, is_saturated });
        let changed = job.gate.set_limit_by_itself(wanted);
        flight.changed = (changed != streams).then_some(now);
        (flight.streams, flight.began, flight.work, flight.active) = (changed, now, work, (0, 0));
    }
}

impl Flight {
    /// Whether a change still settles, where `used` streams are at work.
    fn settles(&mut self, now: Instant, used: u32) -> bool {
        let Some(changed) = self.changed else { return false };
        let (since, (least, most)) = (now.duration_since(changed), SETTLING);
        let is_there = used <= self.streams && f64::from(used) >= SATURATED * f64::from(self.streams);
        let is_settled = since >= if is_there { least } else { most };
        self.changed = self.changed.filter(|_| !is_settled);
        !is_settled
    }
}
