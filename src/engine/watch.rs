//! Looks at a running job, a few times a second, and finds what limits it.

use std::time::{Duration, Instant};

use crate::job::Job;
use crate::limits::{Limits, Look};

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two looks at what is not looked at as often: the whole machine's processors, for which the kernel adds
/// up all interrupts of all of them, milliseconds where they are many, and the histograms, which all threads tell.
const AROUND_INTERVAL: Duration = Duration::from_millis(500);

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
    /// Time of all processors of the machine, and the busy part of it, at the last look.
    machine: (u64, u64),
    /// When that was, and the busy part between it and the look before.
    machine_load: (Instant, f64),
}

impl Watch {
    /// Begins now.
    pub fn new() -> Watch {
        let now = Instant::now();
        Watch {
            limits: Limits::new(),
            last: now,
            cpu: cpu_time(),
            processors: processors(),
            machine: machine_time(),
            machine_load: (now, 0.0),
        }
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
        self.look_around(job);
        let machine = self.machine_load.1;
        let (streams, active) = (job.gate.limit(), job.gate.used());
        let (threads, in_flight) = (job.crowd.look(), job.crowd.in_flight());
        self.limits.look(&Look { threads: &threads, in_flight, cpu: used, machine, streams, active, is_paused });
    }

    fn look_around(&mut self, job: &Job) {
        if self.machine_load.0.elapsed() < AROUND_INTERVAL {
            return;
        }
        // Told by the time of the next look, to whoever reads them: the verdict, and figures for Prometheus.
        job.boards.ask();
        let now = machine_time();
        let passed = now.0.saturating_sub(self.machine.0).max(1);
        self.machine_load = (Instant::now(), now.1.saturating_sub(self.machine.1) as f64 / passed as f64);
        self.machine = now;
    }
}

/// Processor time of all threads of the process so far.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Time of all processors of the machine so far, and how much of it somebody used, in ticks: the first line of
/// /proc/stat (proc_stat(5)). Nothing where it cannot be read.
fn machine_time() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guests are counted as users.
    let ticks: Vec<u64> = line.split_ascii_whitespace().skip(1).take(8).flat_map(str::parse).collect();
    let (all, idle) = (ticks.iter().sum(), ticks.iter().skip(3).take(2).sum::<u64>());
    (all, all - idle)
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
