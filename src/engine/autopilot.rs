//! `--streams auto`: the tuner (tuner.rs) at the wheel of a running job.
//!
//! An epoch is what one number of streams is measured over. Its beginning does not count: a change takes a moment to be
//! felt. Work is bytes and objects, so that small files count for what they cost.

use std::time::{Duration, Instant};

use crate::job::Job;
use crate::tuner::{Epoch, Tuner};

/// How long a number of streams is measured.
const EPOCH: Duration = Duration::from_millis(1000);
/// What is not counted after a change.
const SETTLING: Duration = Duration::from_millis(250);
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
    /// When the epoch began to count; in the future while a change settles.
    began: Instant,
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
            self.flight = Some(Flight { tuner, streams, began: now, work, active: (0, 0) });
            return;
        };
        if now < flight.began {
            flight.work = work;
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
        let settles = if changed == streams { Duration::ZERO } else { SETTLING };
        (flight.streams, flight.began, flight.work, flight.active) = (changed, now + settles, work, (0, 0));
    }
}
