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
        Watch { limits: Limits::new(), last: Instant::now(), cpu: cpu_time(), processors: processors() }
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

/// Processors that the process may use: those of its affinity mask, less if its control group has a quota, of which
/// the standard library tells whole processors only.
fn processors() -> f64 {
    let whole = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let quotas = groups.lines().filter_map(quota);
    quotas.fold(whole, f64::min)
}

/// The quota of one line of /proc/self/cgroup, in processors: cpu.max of version 2, cpu.cfs_quota_us of version 1.
fn quota(line: &str) -> Option<f64> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|&number| number > 0.0);
    if controllers.is_empty() {
        let text = read(&format!("{path}/cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        return Some(number(quota)? / number(period)?);
    }
    let of_processors = controllers.split(',').any(|controller| controller == "cpu");
    let file = |name: &str| read(&format!("{controllers}{path}/{name}")).as_deref().and_then(number);
    of_processors.then(|| Some(file("cpu.cfs_quota_us")? / file("cpu.cfs_period_us")?)).flatten()
}
