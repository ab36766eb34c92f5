//! The desk: does what a running job is told, and says how it stands.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::command::{Change, Command};
use super::status::{
    Answer, ERRORS_MAX, Errors, Latency, Limit, OBJECTS_MAX, Object, Phase, SCHEMA, Stalled, Status, Streams, Totals,
};
use crate::error::{self, escape};
use crate::job::Job;
use crate::limits::Verdict;
use crate::nudges::Heard;
use crate::report::{self, Count, Counters, Pace, SideLatency, Vigil, Walk, Weight, bytes, name_of};
use crate::stop::Stop;

/// What does not change while a job runs.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Where from, as the summary names it.
    pub source: Vec<u8>,
    /// Where to.
    pub dest: Vec<u8>,
    /// "copy", "resume" or "pass N".
    pub run: String,
    /// Entries a former pass counted.
    pub former_entries: Option<u64>,
    /// When it began.
    pub started: Instant,
}

/// Steers one job.
pub(crate) struct Desk {
    /// The job.
    job: Arc<Job>,
    /// Everybody's counters.
    counters: Vec<Arc<Counters>>,
    /// Raised by a stop.
    stop: Stop,
    /// What does not change.
    facts: Facts,
    /// How fast it goes.
    pace: Mutex<Pace>,
    /// What limits it.
    limit: Mutex<Option<Verdict>>,
    /// Whether its storages answer.
    vigil: Vigil,
}

impl Desk {
    /// The desk of `job`.
    pub(crate) fn new(job: Arc<Job>, counters: Vec<Arc<Counters>>, stop: Stop, facts: Facts) -> Desk {
        let pace = Mutex::new(Pace::new(facts.former_entries, &report::Totals::at_once(&counters), facts.started));
        let names = (&facts.source[..], &facts.dest[..]);
        let vigil = Vigil::new(job.console.clone(), job.crowd.clone(), job.config.stall_time, names);
        Desk { job, counters, stop, facts, pace, limit: Mutex::default(), vigil }
    }

    /// Does what signals ask for.
    pub(crate) fn nudge(&self, heard: Heard) {
        // More signals than there are numbers of streams change nothing further.
        let signals = [(heard.raises, Change::Raise, "SIGUSR1"), (heard.lowers, Change::Lower, "SIGUSR2")];
        for (count, change, who) in signals {
            for _ in 0..count.min(64) {
                self.change_streams(change, who);
            }
        }
    }

    /// Does what a client asks for. [`Command::Status`] is answered by [`Desk::status`].
    pub(crate) fn perform(&self, command: Command) -> Answer {
        let gate = &self.job.gate;
        let line = match command {
            Command::Streams(change) => return self.change_streams(change, "ctl"),
            Command::Pause => {
                gate.set_paused(true);
                "paused".to_owned()
            }
            Command::Continue => {
                gate.set_paused(false);
                "goes on".to_owned()
            }
            Command::BytesLimit(limit) => {
                let before = gate.limits.bytes.get();
                gate.limits.bytes.set(limit);
                format!("bwlimit {} -> {}", rate(before), rate(limit))
            }
            Command::OpsLimit(limit) => {
                let before = gate.limits.ops.get();
                gate.limits.ops.set(limit);
                let shown = |limit: Option<u64>| limit.map_or("off".to_owned(), |limit| limit.to_string());
                format!("iops-limit {} -> {}", shown(before), shown(limit))
            }
            Command::Stop => {
                self.stop.request();
                "stopping: what is under way is finished, the rest is for a resume".to_owned()
            }
            Command::Status => "see status".to_owned(),
        };
        self.job.notes.say(&format!("{line} (ctl)"));
        Answer { ok: true, line }
    }

    fn change_streams(&self, change: Change, who: &str) -> Answer {
        let gate = &self.job.gate;
        let Some(wanted) = change.applied(gate.limit()) else {
            gate.set_auto(true);
            let line = format!("streams {} -> auto", gate.limit());
            self.job.notes.say(&format!("{line} ({who})"));
            return Answer { ok: true, line };
        };
        let (before, now) = gate.set_limit_by_hand(wanted);
        let mut line = format!("streams {before} -> {now}");
        if now < wanted {
            line.push_str(&format!(", the most there can be: {wanted} were asked for"));
        }
        self.job.notes.say(&format!("{line} ({who})"));
        Answer { ok: true, line }
    }

    /// Takes a sample of the pace when one is due.
    pub(crate) fn tick(&self, now: Instant) {
        let mut pace = self.pace.lock();
        if pace.is_due(now) {
            pace.sample(&report::Totals::at_once(&self.counters), now);
        }
    }

    /// Says so when a storage has stopped answering, and when it answers again.
    pub(crate) fn watch(&self, now: Instant) {
        self.vigil.look(now);
    }

    fn stalled(&self, now: Instant) -> Vec<Stalled> {
        let silences = self.vigil.silences(now).into_iter();
        silences.map(|(path, silent)| Stalled { path, silent_s: silent.as_secs_f64() }).collect()
    }

    /// Notes what limits the job.
    pub(crate) fn set_limit(&self, limit: Option<Verdict>) {
        *self.limit.lock() = limit;
    }

    /// Asks the threads what they have open; the question's number.
    pub(crate) fn ask(&self) -> u64 {
        self.job.boards.ask()
    }

    /// Whether all have answered.
    pub(crate) fn is_answered(&self, question: u64) -> bool {
        self.job.boards.is_answered(question)
    }

    /// How the job stands.
    pub(crate) fn status(&self, now: Instant) -> Status {
        let (job, gate) = (&self.job, &self.job.gate);
        // Asked first: what is counted after it says that all names are met is all of them.
        let walk = if job.walker.is_walked() { Walk::Ended } else { Walk::Running };
        let totals = report::Totals::at_once(&self.counters);
        let pace = self.pace.lock();
        let (recent, minute) = (pace.recent(&totals, now), pace.minute(&totals, now));
        let eta = pace.eta(&totals, walk, &minute);
        drop(pace);
        let latency = job.boards.latency();
        let errors = job.failures.last();
        Status {
            schema: SCHEMA,
            pid: std::process::id(),
            source: escape(&self.facts.source),
            dest: escape(&self.facts.dest),
            phase: self.phase(),
            run: self.facts.run.clone(),
            elapsed_s: now.saturating_duration_since(self.facts.started).as_secs_f64(),
            streams: Streams {
                limit: gate.limit(),
                active: gate.used(),
                parked: gate.parked(),
                max: gate.max(),
                auto: gate.is_auto(),
            },
            bwlimit: gate.limits.bytes.get(),
            iops_limit: gate.limits.ops.get(),
            totals: totals_of(&totals, walk, job.losses.counts().iter().map(|(_, count)| count).sum()),
            bytes_per_s: recent.bytes,
            files_per_s: recent.files,
            eta_s: eta.filter(|_| !gate.is_paused()).map(|eta| eta.as_secs_f64()),
            source_latency: latency_of(&latency.source),
            dest_latency: latency_of(&latency.dest),
            limit: self
                .limit
                .lock()
                .as_ref()
                .map(|verdict| Limit { cause: verdict.cause.key().to_owned(), text: verdict.text() }),
            stalled: self.stalled(now),
            objects: self.objects(now),
            errors: errors[errors.len().saturating_sub(ERRORS_MAX)..].to_vec(),
            causes: self.causes(totals.get(Count::Vanished)),
        }
    }

    /// What has been done so far: bytes copied, and entries made. What is passed over costs no stream.
    pub(crate) fn work(&self) -> (u64, u64) {
        let totals = report::Totals::at_once(&self.counters);
        (totals.get(Count::BytesCopied), totals.files_made())
    }

    /// What the threads measured, as far as they told.
    pub(crate) fn latency(&self) -> report::Latency {
        self.job.boards.latency()
    }

    fn phase(&self) -> Phase {
        let job = &self.job;
        match () {
            () if self.stop.is_requested() || job.fatal.lock().is_some() => Phase::Stopping,
            () if job.walker.is_done() || job.is_cleared.load(Ordering::Relaxed) => Phase::Finishing,
            () if job.gate.is_paused() => Phase::Paused,
            () => Phase::Running,
        }
    }

    /// All errors by class and cause. What has vanished is no failure, and what ends the job is kept elsewhere.
    fn causes(&self, vanished: u64) -> Vec<Errors> {
        let mut counted = self.job.failures.causes.counted();
        counted.extend((vanished > 0).then(|| (Weight::Object, name_of(&error::Cause::Vanished), vanished)));
        counted.extend(self.job.fatal.lock().as_ref().map(|error| (Weight::Fatal, name_of(&error.cause), 1)));
        let told = |(class, cause, count): (Weight, _, _)| Errors { class: class.name().to_owned(), cause, count };
        counted.into_iter().map(told).collect()
    }

    fn objects(&self, now: Instant) -> Vec<Object> {
        let age_ms = |began| now.saturating_duration_since(began).as_millis() as u64;
        let open = self.job.boards.open(OBJECTS_MAX).into_iter();
        let object = |open: crate::boards::Open| Object {
            path: escape(&open.path),
            size: open.size,
            done: open.done,
            age_ms: age_ms(open.began),
        };
        open.map(object).collect()
    }
}

fn totals_of(totals: &report::Totals, walk: Walk, losses: u64) -> Totals {
    let get = |count| totals.get(count);
    Totals {
        entries_walked: get(Count::EntriesWalked),
        is_walked: walk == Walk::Ended,
        entries_done: totals.entries_done(),
        files_copied: get(Count::FilesCopied) + get(Count::FilesCloned),
        bytes_planned: get(Count::BytesPlanned),
        bytes_copied: get(Count::BytesCopied),
        bytes_durable: get(Count::BytesDurable),
        failed: get(Count::Failed),
        unstable: get(Count::Unstable) + get(Count::Vanished),
        losses,
    }
}

fn latency_of(side: &SideLatency) -> Latency {
    let micros = |took: Duration| took.as_nanos() as f64 / 1e3;
    Latency { p50_us: micros(side.percentile(50.0)), p99_us: micros(side.percentile(99.0)) }
}

fn rate(limit: Option<u64>) -> String {
    limit.map_or_else(|| "off".to_owned(), |limit| format!("{}/s", bytes(limit)))
}
