//! Looks at a running job, a few times a second, and finds what limits it.

use std::time::{Duration, Instant};

use crate::job::Job;
use crate::limits::{Limits, Look};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Whoever looks.
pub(super) struct Watch {
    /// What was seen.
    pub limits: Limits,
    /// The last look.
    last: Instant,
    /// Processor time of the process at the last look.
    cpu: Duration,
    /// Processors that may be used, as the control group allows.
    processors: f64,
}

impl Watch {
    /// Begins now.
    pub fn new() -> Watch {
        let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
        Watch { limits: Limits::new(), last: Instant::now(), cpu: cpu_time(), processors }
    }

    /// Looks at the job when it is time to.
    pub fn tick(&mut self, job: &Job, is_paused: bool) {
        let elapsed = self.last.elapsed();
        if elapsed < LOOK_INTERVAL {
            return;
        }
        let cpu = cpu_time();
        let used = cpu.saturating_sub(self.cpu).as_secs_f64() / (elapsed.as_secs_f64() * self.processors);
        (self.last, self.cpu) = (Instant::now(), cpu);
        let (streams, active) = (job.gate.limit(), job.gate.used());
        self.limits.look(&Look { threads: &job.crowd.look(), cpu: used, streams, active, is_paused });
    }
}

/// Processor time of all threads of the process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
