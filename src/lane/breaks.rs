//! Bodies that break off: waited for and asked for again, as requests that get no answer are.
//!
//! A server that drops connections under load drops the next one, too, if it comes at once. What arrived whole but
//! wrong is another matter: it is asked for again at once, and a few times only. Once the job is to stop nothing is
//! asked for again: what broke off is left for the resume, and has not failed.

use std::time::Instant;

use super::{IDLE, Lane};
use crate::error::{Cause, Error};
use crate::provider::s3::retry::{Attempts, Pace, Patience};

/// The attempts at one body.
pub(super) struct Breaks {
    /// Those that were made, and the waits between them: 8, from 100 ms.
    attempts: Attempts,
    /// When the last began.
    began: Instant,
}

impl Breaks {
    /// None yet; `seed` makes the waits of bodies that break off together differ.
    pub fn new(seed: u64) -> Breaks {
        let began = Instant::now();
        let now = jiff::Timestamp::now().as_nanosecond() as u64;
        Breaks { attempts: Attempts::new(Patience::JOB, now ^ seed.rotate_left(32)), began }
    }
}

impl Lane {
    /// Whether a body is to be asked for again because it broke off: true when it is time to.
    pub(super) async fn wait_after_break(&self, breaks: &mut Breaks, error: &Error) -> bool {
        if !is_break(error) || self.is_left(error) {
            return false;
        }
        let Some(wait) = breaks.attempts.wait(Pace::Error, breaks.began.elapsed(), None) else { return false };
        let until = Instant::now() + wait;
        // Ends: time passes. A job that is stopped waits for nobody.
        while Instant::now() < until && !self.is_left(error) {
            tokio::time::sleep(until.saturating_duration_since(Instant::now()).min(IDLE)).await;
        }
        breaks.began = Instant::now();
        !self.is_left(error)
    }

    /// Whether what broke off is left as it is, because the job is to stop.
    pub(super) fn is_left(&self, error: &Error) -> bool {
        is_break(error) && self.job().walker.is_stopped()
    }
}

fn is_break(error: &Error) -> bool {
    matches!(error.cause, Cause::Cut(_))
}
