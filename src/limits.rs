//! What limits a job: a verdict over many looks at what its threads are busy with, at the operations they have in
//! flight, at its streams, and at how long answers took. Pure.
//!
//! ```text
//! paused | bandwidth limit | processors full | few streams, all open, few operations in flight
//!        | the side that is waited for most: source, destination, names, network
//! advice: are streams idle? has even the quickest answer taken long?
//! ```
//! A thread that waits for the storage nearly always waits for the slower side: reads run ahead of writes by no more
//! than the credits allow, and so pile up on the side that is behind. So it is enough to look at the threads a few
//! times a second and to count. What the user set is named first, then the processors, then a number of streams that
//! no storage is filled by, then the side that is waited for most.

use std::collections::VecDeque;
use std::time::Duration;

use crate::report::{Activity, Latency, SideLatency, Storage, Waits, duration};

/// Looks that the verdict of the moment is about.
const WINDOW: usize = 50;
/// Looks before there is a verdict.
const LOOKS_MIN: u32 = 10;
/// Part of the processors' time above which they are the limit.
const CPU_FULL: f64 = 0.85;
/// Part of the machine's processors' time, whoever used it, above which there is nothing left of it.
const MACHINE_FULL: f64 = 0.9;
/// Part of the processors' time that the job must have used for them to be its limit, where others used the rest or
/// its threads nearly never wait for anything else.
const CPU_SHARED: f64 = 0.3;
/// Part of the looks in which something holds, for it to be what limits.
const MOSTLY: f64 = 0.5;
/// Streams, and operations in flight, that are too few to say that the storage is slow.
const STREAMS_FEW: u32 = 4;
/// Part of the streams in use below which more of them would not help.
const STREAMS_USED: f64 = 0.75;
/// Part of the waiting for names that is one side's, for that side to be named.
const ONE_SIDE: f64 = 2.0 / 3.0;
/// An answer that takes longer comes from far away, if nothing stood in its way.
const DISTANT: Duration = Duration::from_millis(1);
/// Answers that prove something.
const ANSWERS_MIN: u64 = 100;

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

    /// What it means, for people.
    fn text(self) -> &'static str {
        match self {
            Cause::Paused => "the job is paused: gfast ctl continue",
            Cause::Bandwidth => "the bandwidth limit: gfast ctl bwlimit=off lifts it",
            Cause::Cpu => "the processors: more streams would not help; more cores, or less beside the job, would",
            Cause::Streams => "the number of streams: try more (kill -USR1, gfast ctl streams=+8, or streams=auto)",
            Cause::Source => "reading the source: the destination waits for it",
            Cause::Dest => "writing the destination: the source waits for it",
            Cause::Metadata => "names and attributes, not bytes",
            Cause::Network => "the network or the S3 server",
        }
    }
}

/// One look at a running job.
#[derive(Clone, Debug)]
pub struct Look<'a> {
    /// What each thread is busy with.
    pub threads: &'a [Activity],
    /// Operations of the storages and servers in flight.
    pub in_flight: u32,
    /// Part of all processors' time that the job has used since the last look, 0 to 1.
    pub cpu: f64,
    /// The same of all that runs on the machine.
    pub machine: f64,
    /// Streams that may be open.
    pub streams: u32,
    /// Streams that are open.
    pub active: u32,
    /// Whether it is told to wait.
    pub is_paused: bool,
}

/// Sums of some looks.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Looks.
    looks: u32,
    /// Looks while the job was told to wait.
    paused: u32,
    /// Processor use.
    cpu: f64,
    /// Processor use of the whole machine.
    machine: f64,
    /// Operations in flight.
    in_flight: f64,
    /// Streams that might have been open.
    streams: f64,
    /// Streams that were open.
    active: f64,
    /// Looks at few streams, all of them open, and few operations in flight.
    few: u32,
    /// Threads by activity.
    threads: [u32; Activity::ALL.len()],
}

impl Counts {
    fn of(look: &Look<'_>) -> Counts {
        let mut threads = [0; Activity::ALL.len()];
        look.threads.iter().for_each(|&activity| threads[activity as usize] += 1);
        // One stream is many operations where it is a large file on a ring: then the storage has enough to do.
        let is_few = look.streams <= STREAMS_FEW && look.active >= look.streams && look.in_flight <= STREAMS_FEW;
        Counts {
            looks: 1,
            paused: look.is_paused.into(),
            cpu: look.cpu,
            machine: look.machine,
            in_flight: look.in_flight.into(),
            streams: look.streams.into(),
            active: look.active.into(),
            few: is_few.into(),
            threads,
        }
    }

    fn add(&mut self, other: &Counts) {
        self.looks += other.looks;
        self.paused += other.paused;
        self.cpu += other.cpu;
        self.machine += other.machine;
        self.in_flight += other.in_flight;
        self.streams += other.streams;
        self.active += other.active;
        self.few += other.few;
        for (own, more) in self.threads.iter_mut().zip(other.threads) {
            *own += more;
        }
    }

    /// Mean of the looks.
    fn mean(&self, sum: f64) -> f64 {
        sum / f64::from(self.looks.max(1))
    }

    fn of_threads(&self, activity: Activity) -> f64 {
        f64::from(self.threads[activity as usize])
    }

    /// Threads that had work.
    fn busy(&self) -> f64 {
        Activity::ALL.into_iter().filter(|&kind| kind != Activity::NoWork).map(|kind| self.of_threads(kind)).sum()
    }

    /// What is waited for, and for how much of the time of the threads with work: the most, and what comes next.
    fn sides(&self) -> [(Cause, f64); 2] {
        let of = |activity| self.of_threads(activity);
        let mut sides = [
            (Cause::Source, of(Activity::ReadSource)),
            (Cause::Dest, of(Activity::WriteDest)),
            (Cause::Metadata, of(Activity::SourceNames) + of(Activity::DestNames)),
            (Cause::Network, of(Activity::Requests)),
        ];
        sides.sort_by(|one, other| other.1.total_cmp(&one.1));
        [sides[0], sides[1]].map(|(cause, threads)| (cause, threads / self.busy().max(1.0)))
    }

    fn cause(&self) -> Option<Cause> {
        let (busy, cpu) = (self.busy(), self.mean(self.cpu));
        let mostly = |count: u32| self.mean(count.into()) >= MOSTLY;
        if self.looks < LOOKS_MIN {
            return None;
        }
        if mostly(self.paused) {
            return Some(Cause::Paused);
        }
        if busy == 0.0 {
            return None;
        }
        if self.of_threads(Activity::Limit) / busy >= MOSTLY {
            return Some(Cause::Bandwidth);
        }
        // Others beside it, and the kernel's threads that work for it (a loop device, a network), use them up as well.
        let is_crowded = self.mean(self.machine) >= MACHINE_FULL && cpu >= CPU_SHARED;
        if cpu >= CPU_FULL || is_crowded {
            return Some(Cause::Cpu);
        }
        if mostly(self.few) {
            return Some(Cause::Streams);
        }
        let [(cause, part), _] = self.sides();
        // Threads that compute nearly all of the time, on processors that others use as well.
        match self.of_threads(Activity::Computing) / busy > 2.0 * part {
            false => Some(cause),
            true => (cpu >= CPU_SHARED).then_some(Cause::Cpu),
        }
    }

    fn verdict(&self, latency: &Latency) -> Option<Verdict> {
        self.cause().map(|cause| self.told(cause, latency))
    }

    fn told(&self, cause: Cause, latency: &Latency) -> Verdict {
        let names = [Activity::SourceNames, Activity::DestNames].map(|kind| self.of_threads(kind));
        let most = names[0].max(names[1]) >= ONE_SIDE * (names[0] + names[1]);
        let names_of = most.then_some(if names[0] > names[1] { Storage::Source } else { Storage::Dest });
        let side = match (cause, names_of) {
            (Cause::Source, _) | (Cause::Metadata, Some(Storage::Source)) => Some(&latency.source),
            (Cause::Dest, _) | (Cause::Metadata, Some(Storage::Dest)) => Some(&latency.dest),
            // Requests are timed where the bucket is, which one side alone has.
            (Cause::Network, _) if latency.source.count() > latency.dest.count() => Some(&latency.source),
            (Cause::Network, _) => Some(&latency.dest),
            _ => None,
        };
        Verdict {
            cause,
            names_of,
            part: self.sides()[0].1,
            next: self.sides()[1],
            streams: self.mean(self.streams),
            active: self.mean(self.active),
            in_flight: self.mean(self.in_flight),
            quickest: side.and_then(distance),
            waits: self.waits(),
        }
    }

    fn waits(&self) -> Waits {
        let part = |activity| self.of_threads(activity) / self.busy().max(1.0);
        Waits {
            computing: part(Activity::Computing),
            source: part(Activity::ReadSource),
            dest: part(Activity::WriteDest),
            source_names: part(Activity::SourceNames),
            dest_names: part(Activity::DestNames),
            requests: part(Activity::Requests),
            limits: part(Activity::Limit),
            streams: self.mean(self.active),
            in_flight: self.mean(self.in_flight),
            cpu: self.mean(self.cpu),
            machine: self.mean(self.machine),
        }
    }
}

/// The quickest answer of a side, where that took more than half as long as the usual one, and long: then no operation
/// has waited for another, and it is distance that is waited for. Where a storage is busy, the first answers, which it
/// gave before it was, are much quicker than the others.
fn distance(side: &SideLatency) -> Option<Duration> {
    let (quickest, usual) = (side.quickest(), side.percentile(50.0));
    (side.count() >= ANSWERS_MIN && quickest >= DISTANT && 2 * quickest > usual).then_some(quickest)
}

/// What limits a job, and what speaks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What it is.
    pub cause: Cause,
    /// The side whose names and attributes are waited for, if it is one of them.
    names_of: Option<Storage>,
    /// Part of the time of the threads with work that went into waiting for the side that is waited for most.
    part: f64,
    /// The side that comes next, and its part.
    next: (Cause, f64),
    /// Streams that might have been open, on average.
    streams: f64,
    /// Streams that were open.
    active: f64,
    /// Operations in flight.
    in_flight: f64,
    /// The quickest answer, where none has waited for another.
    quickest: Option<Duration>,
    /// What the threads waited for.
    pub waits: Waits,
}

impl Verdict {
    /// What it means, what could be done, and what speaks for it, for people.
    pub fn text(&self) -> String {
        let mut text = self.cause.text().to_owned();
        if let (Cause::Metadata, Some(side)) = (self.cause, self.names_of) {
            text = match side {
                Storage::Source => "names and attributes of the source, not bytes".to_owned(),
                Storage::Dest => "names and attributes of the destination, not bytes".to_owned(),
            };
        }
        if let Cause::Source | Cause::Dest | Cause::Metadata | Cause::Network = self.cause {
            text.push_str(&self.advice());
            text.push_str(&self.evidence());
        }
        text
    }

    fn evidence(&self) -> String {
        let Verdict { active, streams, in_flight, .. } = self;
        let percent = 100.0 * self.part;
        // A copy that is well balanced waits for both sides about as much: said, so that nobody mends the wrong one.
        let next = match self.next {
            (cause, part) if part >= self.part / 2.0 => format!(", {} {:.0} %", cause.key(), 100.0 * part),
            _ => String::new(),
        };
        let streams = format!("{active:.0} of {streams:.0} streams, {in_flight:.0} operations in flight");
        format!(" ({percent:.0} % of the time{next}, {streams})")
    }

    fn advice(&self) -> String {
        let is_idle = self.active < STREAMS_USED * self.streams;
        match (self.cause, self.quickest) {
            _ if is_idle => "; not all streams are in use, and more would not be".to_owned(),
            (_, Some(quickest)) => {
                let quickest = duration(quickest);
                format!("; even the quickest answers take {quickest} and none waits for another: try more streams")
            }
            (Cause::Metadata, None) => "; more streams may hide more of the waiting".to_owned(),
            (Cause::Network, None) => "; more streams or larger parts may help".to_owned(),
            _ => String::new(),
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

    /// What limits the job now; `latency` is what was measured so far. A pause counts from its first moment, and not
    /// beyond its end: whoever says so wants to see it.
    pub fn now(&self, latency: &Latency) -> Option<Verdict> {
        let is_paused = self.recent.back().is_some_and(|look| look.paused > 0);
        let mut counts = Counts::default();
        self.recent.iter().filter(|look| (look.paused > 0) == is_paused).for_each(|look| counts.add(look));
        match is_paused {
            true => Some(counts.told(Cause::Paused, latency)),
            false => counts.verdict(latency),
        }
    }

    /// What limited it over all of its time.
    pub fn whole(&self, latency: &Latency) -> Option<Verdict> {
        self.whole.verdict(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::Activity::*;
    use super::*;

    /// A situation: the looks alternate between two sets of threads. What is not said is as in a job that waits.
    struct Case {
        threads: [[Activity; 2]; 2],
        cpu: f64,
        machine: f64,
        streams: u32,
        active: u32,
        in_flight: u32,
        is_paused: bool,
    }

    /// Threads that do one thing, and compute for a quarter of their time.
    fn on(activity: Activity) -> Case {
        between([[activity, activity], [activity, Computing]])
    }

    fn between(threads: [[Activity; 2]; 2]) -> Case {
        Case { threads, cpu: 0.2, machine: 0.3, streams: 32, active: 32, in_flight: 30, is_paused: false }
    }

    /// 20 looks.
    fn verdict(case: &Case, latency: &Latency) -> Option<Verdict> {
        let mut limits = Limits::new();
        let &Case { cpu, machine, streams, active, in_flight, is_paused, .. } = case;
        for index in 0..20 {
            let threads = &case.threads[index % 2];
            limits.look(&Look { threads, in_flight, cpu, machine, streams, active, is_paused });
        }
        assert_eq!(limits.now(latency), limits.whole(latency));
        limits.now(latency)
    }

    fn cause(case: &Case) -> Option<Cause> {
        verdict(case, &Latency::default()).map(|verdict| verdict.cause)
    }

    #[test]
    fn every_cause_is_named() {
        let cases = [
            (Case { is_paused: true, ..on(ReadSource) }, Some(Cause::Paused), "told to wait"),
            (on(Limit), Some(Cause::Bandwidth), "nothing left of the limit"),
            (Case { cpu: 0.95, ..on(WriteDest) }, Some(Cause::Cpu), "calls that compute"),
            (Case { cpu: 0.5, ..on(Computing) }, Some(Cause::Cpu), "one of two processors is another's"),
            (Case { cpu: 0.5, machine: 0.97, ..on(WriteDest) }, Some(Cause::Cpu), "the rest is a loop device's"),
            (
                Case { cpu: 0.1, machine: 0.97, ..on(WriteDest) },
                Some(Cause::Dest),
                "the job itself has no use for them",
            ),
            (Case { streams: 1, active: 1, in_flight: 1, ..on(ReadSource) }, Some(Cause::Streams), "one by one"),
            (Case { streams: 4, active: 4, in_flight: 4, ..on(Requests) }, Some(Cause::Streams), "one by one"),
            (Case { streams: 1, active: 1, in_flight: 16, ..on(ReadSource) }, Some(Cause::Source), "one file in depth"),
            (Case { streams: 2, active: 1, in_flight: 1, ..on(WriteDest) }, Some(Cause::Dest), "one of them is idle"),
            (on(ReadSource), Some(Cause::Source), "reads"),
            (on(WriteDest), Some(Cause::Dest), "writes"),
            (between([[SourceNames, DestNames], [WriteDest, Computing]]), Some(Cause::Metadata), "names of both sides"),
            (on(Requests), Some(Cause::Network), "a bucket"),
            (on(NoWork), None, "nothing to do"),
            (Case { cpu: 0.0, ..between([[NoWork, NoWork]; 2]) }, None, "nothing to do"),
        ];
        for (case, expected, why) in cases {
            assert_eq!(cause(&case), expected, "{why}");
        }
    }

    #[test]
    fn the_advice_follows_streams_and_histograms() {
        let text = |case: &Case, latency: &Latency| verdict(case, latency).map(|verdict| verdict.text()).unwrap();
        let measured = |first_ms: u64, usual_ms: u64| {
            let mut latency = Latency::default();
            for millis in std::iter::once(first_ms).chain(std::iter::repeat_n(usual_ms, 200)) {
                latency.dest.record(Duration::from_millis(millis));
            }
            latency
        };
        let evidence = " (75 % of the time, 32 of 32 streams, 30 operations in flight)";
        let names = on(DestNames);
        let far = "names and attributes of the destination, not bytes; even the quickest answers take 8.0 ms and none \
            waits for another: try more streams";
        assert_eq!(text(&names, &measured(8, 8)), format!("{far}{evidence}"));
        let near = "names and attributes of the destination, not bytes; more streams may hide more of the waiting";
        assert_eq!(text(&names, &measured(2, 8)), format!("{near}{evidence}"), "they queue: the first was quicker");
        assert_eq!(text(&names, &Latency::default()), format!("{near}{evidence}"), "nothing was measured");
        let both = between([[SourceNames, DestNames], [SourceNames, DestNames]]);
        assert!(
            text(&both, &measured(8, 8)).starts_with("names and attributes, not bytes; more"),
            "{}",
            text(&both, &measured(8, 8))
        );
        let idle = text(&Case { active: 3, in_flight: 3, ..names }, &measured(8, 8));
        let few =
            "names and attributes of the destination, not bytes; not all streams are in use, and more would not be";
        assert_eq!(idle, format!("{few} (75 % of the time, 3 of 32 streams, 3 operations in flight)"));
        assert_eq!(text(&on(WriteDest), &measured(2, 8)), format!("{}{evidence}", Cause::Dest.text()));
        let balanced = "reading the source: the destination waits for it (50 % of the time, dest 25 %, 32";
        let halves = between([[ReadSource, WriteDest], [ReadSource, Computing]]);
        assert!(text(&halves, &Latency::default()).starts_with(balanced), "{}", text(&halves, &Latency::default()));
        assert_eq!(text(&on(Limit), &measured(8, 8)), Cause::Bandwidth.text());
    }

    #[test]
    fn the_verdict_of_the_moment_follows_a_change_and_the_whole_remembers() {
        let (mut limits, latency) = (Limits::new(), Latency::default());
        let look = |threads| Look {
            threads,
            in_flight: 30,
            cpu: 0.1,
            machine: 0.2,
            streams: 32,
            active: 32,
            is_paused: false,
        };
        assert_eq!(limits.now(&latency), None);
        for _ in 0..3 * WINDOW {
            limits.look(&look(&[ReadSource]));
        }
        for _ in 0..WINDOW {
            limits.look(&look(&[WriteDest]));
        }
        let causes = [limits.now(&latency), limits.whole(&latency)].map(|verdict| verdict.map(|found| found.cause));
        assert_eq!(causes, [Some(Cause::Dest), Some(Cause::Source)]);
        let now = |limits: &Limits| limits.now(&latency).map(|verdict| verdict.cause);
        limits.look(&Look { is_paused: true, ..look(&[NoWork]) });
        assert_eq!(now(&limits), Some(Cause::Paused));
        limits.look(&look(&[WriteDest]));
        assert_eq!(now(&limits), Some(Cause::Dest));
    }
}
