//! What limits a job: a verdict over many looks at what its threads are busy with. Pure.
//!
//! A thread that waits for the storage nearly always waits for the slower side: reads run ahead of writes by no more
//! than the credits allow, and so pile up on the side that is behind. So it is enough to look at the threads a few
//! times a second and to count. What the user set (a pause, a bandwidth limit) is named first, then the processors,
//! then a number of streams that no storage is filled by, then the side that is waited for most.

use std::collections::VecDeque;

use crate::report::Activity;

/// Looks that the verdict of the moment is about.
const WINDOW: usize = 50;
/// Looks before there is a verdict.
const LOOKS_MIN: u32 = 10;
/// Part of the processors' time above which they are the limit.
const CPU_FULL: f64 = 0.85;
/// The same for threads that nearly never wait for anything else.
const CPU_SHARED: f64 = 0.3;
/// Part of the looks in which something holds, for it to be what limits.
const MOSTLY: f64 = 0.5;
/// Streams that are too few to say that the storage is slow.
const STREAMS_FEW: u32 = 4;

/// What limits a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It is told to wait.
    Paused,
    /// The bandwidth or operations limit that was asked for.
    Bandwidth,
    /// The processors.
    Cpu,
    /// Too few streams to hide the time an answer takes.
    Streams,
    /// Reading the source.
    Source,
    /// Writing the destination, or making it durable.
    Dest,
    /// Names and attributes, on either side.
    Metadata,
    /// The network to an S3 server, or the server.
    Network,
}

impl Cause {
    /// Its name in JSON and on the control socket.
    pub fn key(self) -> &'static str {
        match self {
            Cause::Paused => "paused",
            Cause::Bandwidth => "bwlimit",
            Cause::Cpu => "cpu",
            Cause::Streams => "streams",
            Cause::Source => "source",
            Cause::Dest => "dest",
            Cause::Metadata => "metadata",
            Cause::Network => "network",
        }
    }

    /// What it means and what could be done, for people.
    pub fn text(self) -> &'static str {
        match self {
            Cause::Paused => "the job is paused: gfast ctl continue",
            Cause::Bandwidth => "the bandwidth limit: gfast ctl bwlimit=off lifts it",
            Cause::Cpu => "the processors: more streams would not help; more cores, or less beside the job, would",
            Cause::Streams => "the number of streams: try more (kill -USR1, gfast ctl streams=+8, or streams=auto)",
            Cause::Source => "reading the source: the destination waits for it",
            Cause::Dest => "writing the destination: the source waits for it",
            Cause::Metadata => "names and attributes, not bytes: more streams may hide more of the waiting",
            Cause::Network => "the network or the S3 server: more streams or larger parts may help",
        }
    }
}

/// One look at a running job.
#[derive(Clone, Debug)]
pub struct Look<'a> {
    /// What each thread is busy with.
    pub threads: &'a [Activity],
    /// Part of all processors' time that the job has used since the last look, 0 to 1.
    pub cpu: f64,
    /// Streams that may be open.
    pub streams: u32,
    /// Streams that are open.
    pub active: u32,
    /// Whether it is told to wait.
    pub is_paused: bool,
}

/// Counts of some looks.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Looks.
    looks: u32,
    /// Looks while the job was told to wait.
    paused: u32,
    /// Processor use, added up.
    cpu: f64,
    /// Looks at few streams, all of them open.
    few: u32,
    /// Threads by activity.
    threads: [u32; Activity::ALL.len()],
}

impl Counts {
    fn of(look: &Look<'_>) -> Counts {
        let mut threads = [0; Activity::ALL.len()];
        look.threads.iter().for_each(|&activity| threads[activity as usize] += 1);
        let few = look.streams <= STREAMS_FEW && look.active >= look.streams;
        Counts { looks: 1, paused: look.is_paused.into(), cpu: look.cpu, few: few.into(), threads }
    }

    fn add(&mut self, other: &Counts) {
        self.looks += other.looks;
        self.paused += other.paused;
        self.cpu += other.cpu;
        self.few += other.few;
        for (own, more) in self.threads.iter_mut().zip(other.threads) {
            *own += more;
        }
    }

    /// Part of the looks.
    fn part(&self, count: f64) -> f64 {
        count / f64::from(self.looks.max(1))
    }

    fn cause(&self) -> Option<Cause> {
        if self.looks < LOOKS_MIN {
            return None;
        }
        if self.part(self.paused.into()) >= MOSTLY {
            return Some(Cause::Paused);
        }
        let of = |activity: Activity| f64::from(self.threads[activity as usize]);
        let busy: f64 = Activity::ALL.into_iter().filter(|&activity| activity != Activity::NoWork).map(of).sum();
        if busy == 0.0 {
            return None;
        }
        if of(Activity::Limit) / busy >= MOSTLY {
            return Some(Cause::Bandwidth);
        }
        if self.part(self.cpu) >= CPU_FULL {
            return Some(Cause::Cpu);
        }
        if self.part(self.few.into()) >= MOSTLY {
            return Some(Cause::Streams);
        }
        let sides = [
            (Cause::Source, of(Activity::ReadSource)),
            (Cause::Dest, of(Activity::WriteDest)),
            (Cause::Metadata, of(Activity::SourceNames) + of(Activity::DestNames)),
            (Cause::Network, of(Activity::Requests)),
        ];
        let (cause, threads) = sides.into_iter().max_by(|one, other| one.1.total_cmp(&other.1))?;
        // Threads that compute nearly all of the time, on processors that others use as well.
        let is_computing = of(Activity::Computing) > 2.0 * threads;
        match is_computing {
            false => Some(cause),
            true => (self.part(self.cpu) >= CPU_SHARED).then_some(Cause::Cpu),
        }
    }
}

/// Looks, and what follows from them.
#[derive(Debug, Default)]
pub struct Limits {
    /// The last ones, oldest first, at most [`WINDOW`].
    recent: VecDeque<Counts>,
    /// All of them.
    whole: Counts,
}

impl Limits {
    /// Nothing was seen.
    pub fn new() -> Limits {
        Limits::default()
    }

    /// Takes in a look.
    pub fn look(&mut self, look: &Look<'_>) {
        let counts = Counts::of(look);
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(counts);
        self.whole.add(&counts);
    }

    /// What limits the job now.
    pub fn now(&self) -> Option<Cause> {
        let mut counts = Counts::default();
        self.recent.iter().for_each(|look| counts.add(look));
        counts.cause()
    }

    /// What limited it over all of its time.
    pub fn whole(&self) -> Option<Cause> {
        self.whole.cause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 looks of two threads each.
    fn verdict(threads: [[Activity; 2]; 2], cpu: f64, streams: u32, is_paused: bool) -> Option<Cause> {
        let mut limits = Limits::new();
        for index in 0..20 {
            limits.look(&Look { threads: &threads[index % 2], cpu, streams, active: streams, is_paused });
        }
        assert_eq!(limits.now(), limits.whole());
        limits.now()
    }

    #[test]
    fn every_cause_is_named() {
        use Activity::*;
        let both = |activity| [[activity, activity], [activity, Computing]];
        assert_eq!(verdict(both(ReadSource), 0.2, 32, true), Some(Cause::Paused));
        assert_eq!(verdict(both(Limit), 0.2, 32, false), Some(Cause::Bandwidth));
        assert_eq!(verdict(both(WriteDest), 0.95, 32, false), Some(Cause::Cpu));
        assert_eq!(verdict(both(Computing), 0.5, 32, false), Some(Cause::Cpu), "one of two processors is another's");
        assert_eq!(verdict(both(ReadSource), 0.2, 1, false), Some(Cause::Streams));
        assert_eq!(verdict(both(ReadSource), 0.2, 32, false), Some(Cause::Source));
        assert_eq!(verdict(both(WriteDest), 0.2, 32, false), Some(Cause::Dest));
        assert_eq!(verdict([[SourceNames, DestNames], [WriteDest, Computing]], 0.2, 32, false), Some(Cause::Metadata));
        assert_eq!(verdict(both(Requests), 0.2, 32, false), Some(Cause::Network));
        assert_eq!(verdict(both(NoWork), 0.0, 32, false), None);
        assert_eq!(verdict([[NoWork, NoWork]; 2], 0.0, 32, false), None);
    }

    #[test]
    fn the_verdict_of_the_moment_follows_a_change_and_the_whole_remembers() {
        let mut limits = Limits::new();
        let look = |threads| Look { threads, cpu: 0.1, streams: 32, active: 32, is_paused: false };
        assert_eq!(limits.now(), None);
        for _ in 0..3 * WINDOW {
            limits.look(&look(&[Activity::ReadSource]));
        }
        for _ in 0..WINDOW {
            limits.look(&look(&[Activity::WriteDest]));
        }
        assert_eq!((limits.now(), limits.whole()), (Some(Cause::Dest), Some(Cause::Source)));
    }
}
