//! The final summary: everything a run can say of itself, as text for people or as one JSON object for machines.

use std::time::Duration;

use super::counters::{Count, Totals};
use super::exit::ExitCode;
use super::forecast::Forecast;
use super::human;
use super::json::Object;
use super::latency::{Latency, SideLatency};
use super::losses::Loss;
use super::waits::Limited;
use crate::config::SyncPolicy;
use crate::error::{Error, escape};
use crate::extents::Extents;

/// Version of the JSON object. Raised when a key changes its meaning or goes; new keys do not raise it.
pub const SCHEMA: u64 = 1;

/// What kind of run it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// The first run of a job.
    Copy,
    /// A pass that an earlier run had not finished.
    Resume {
        /// Number of the pass, from 1.
        pass: u32,
    },
    /// A further pass over a finished job: only what changed.
    Pass {
        /// Number of the pass, from 2.
        pass: u32,
    },
}

impl Run {
    /// For people.
    pub fn name(self) -> String {
        match self {
            Run::Copy => "copy".to_owned(),
            Run::Resume { pass } => format!("resumed pass {pass}"),
            Run::Pass { pass } => format!("pass {pass}"),
        }
    }
}

/// How the run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Every entry has its outcome.
    Finished,
    /// A signal stopped it; resumable.
    Interrupted,
    /// An error stopped it; resumable once the error is dealt with.
    Stopped(Error),
}

/// What answered the operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineUsed {
    /// io_uring.
    Uring {
        /// Set-up flags the kernel accepted.
        flags: String,
    },
    /// Lanes between file systems and S3.
    Lanes {
        /// Why files are not on a ring; `None` when they are, or were not asked to be.
        fallback: Option<String>,
    },
    /// Plain system calls.
    Sync {
        /// Why not the ring; `None` when they were asked for.
        reason: Option<String>,
    },
}

/// How data was made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durability {
    /// What was asked for.
    pub asked: SyncPolicy,
    /// What was done: `File` where syncfs of the destination cannot be trusted.
    pub used: SyncPolicy,
    /// Who makes it durable.
    pub keeper: Keeper,
}

/// Who makes data durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The destination's file system, asked to.
    FileSystem,
    /// A server, by the time it answers.
    Server,
    /// The destination device, asked to (fsync).
    Device,
}

/// Everything a run can say of itself.
#[derive(Clone, Debug)]
pub struct Summary {
    /// What kind of run it was.
    pub run: Run,
    /// How it ended.
    pub end: End,
    /// Canonical source.
    pub source: Vec<u8>,
    /// Canonical destination.
    pub dest: Vec<u8>,
    /// The job's folder in the state directory.
    pub state: Vec<u8>,
    /// The command that resumes the job or starts its next pass, ready for a shell.
    pub command: String,
    /// All counters of this run.
    pub totals: Totals,
    /// How long the next pass will take.
    pub forecast: Option<Forecast>,
    /// What was not kept.
    pub losses: Vec<(Loss, u64)>,
    /// Wall time.
    pub elapsed: Duration,
    /// Streams at the end.
    pub streams: u32,
    /// Changes that were made while it ran.
    pub changes: u64,
    /// Threads that worked on them.
    pub threads: usize,
    /// What answered the operations.
    pub engine: EngineUsed,
    /// Bytes of the buffers that are registered with the ring.
    pub registered_bytes: u64,
    /// Blocks of one large file in flight on one thread.
    pub file_depth: usize,
    /// Bytes of the buffers.
    pub arena_bytes: u64,
    /// Latencies per side.
    pub latency: Latency,
    /// What limited the run.
    pub limit: Option<Limited>,
    /// How data was made durable.
    pub durability: Durability,
    /// Bytes of a source device that could not be read.
    pub unreadable: Extents,
}

impl Summary {
    /// The exit code that all of it together makes.
    pub fn exit_code(&self) -> ExitCode {
        let end = match &self.end {
            End::Finished => ExitCode::Done,
            End::Interrupted => ExitCode::Interrupted,
            End::Stopped(error) => ExitCode::of(error),
        };
        let occurred = |count: Count, code: ExitCode| match self.totals.get(count) {
            0 => ExitCode::Done,
            _ => code,
        };
        end.and(occurred(Count::Failed, ExitCode::Failed))
            .and(occurred(Count::Vanished, ExitCode::Vanished))
            .and(occurred(Count::Unstable, ExitCode::Vanished))
            .and(occurred(Count::DeletesWithheld, ExitCode::DeleteCap))
    }

    /// For people: a headline and one line per subject.
    pub fn text(&self) -> String {
        let code = self.exit_code().code();
        let mut lines = vec![
            self.headline(),
            self.copied_line(),
            self.others_line(),
            self.errors_line(),
            field("losses", &self.losses_text()),
            self.time_line(),
            self.latency_line(),
            field("engine", &self.engine_text()),
            field("durability", self.durability.text()),
            field("integrity", &self.integrity_text()),
            field("state", &escape(&self.state)),
        ];
        lines.extend(self.limit.as_ref().map(|limit| field("limited by", &limit.text)));
        lines.extend(self.forecast_line());
        let label = match (&self.end, code) {
            (End::Finished, 0) => "next pass",
            (End::Finished, _) => "try again",
            _ => "resume",
        };
        lines.extend(self.uploads_line());
        lines.extend(self.unreadable_line());
        lines.push(field(label, &self.command));
        lines.push(field("exit code", &code.to_string()));
        lines.join("\n") + "\n"
    }

    /// How long the next pass will take, if this one was whole.
    fn forecast_line(&self) -> Option<String> {
        let Forecast { walk, copy, last } = self.forecast.filter(|_| self.end == End::Finished)?;
        let (total, walk, copy) = (human::duration(walk + copy), human::duration(walk), human::duration(copy));
        let (entries, bytes) = (human::count(last.entries), human::bytes(last.bytes));
        let changes = human::count(last.changes);
        let why = format!("{walk} to look at {entries} entries, {copy} for {changes} changes of {bytes}");
        Some(field("forecast", &format!("about {total} for the next pass if as much changes: {why}")))
    }

    fn headline(&self) -> String {
        let run = self.run.name();
        let end = match &self.end {
            End::Finished if self.is_idle() => "finished, nothing had to be done".to_owned(),
            End::Finished => "finished".to_owned(),
            End::Interrupted => "interrupted, resumable".to_owned(),
            End::Stopped(error) => format!("stopped, resumable: {error}"),
        };
        format!("{run} {end}: {} -> {}", escape(&self.source), escape(&self.dest))
    }

    /// Nothing was made, removed or missed.
    fn is_idle(&self) -> bool {
        let others = [Count::Refreshed, Count::Adopted, Count::Removed];
        let changed: u64 = others.iter().map(|&count| self.totals.get(count)).sum();
        self.totals.files_made() + self.totals.errors() + changed == 0
    }

    fn copied_line(&self) -> String {
        let get = |count| self.totals.get(count);
        let (written, durable) = (human::bytes(get(Count::BytesCopied)), human::bytes(get(Count::BytesDurable)));
        field("copied", &format!("{} files, {written} written, {durable} durable", get(Count::FilesCopied)))
    }

    /// The other outcomes, those that occurred.
    fn others_line(&self) -> String {
        let shown = [
            (Count::Unchanged, "unchanged"),
            (Count::Refreshed, "metadata only"),
            (Count::Adopted, "adopted"),
            (Count::FilesCloned, "cloned"),
            (Count::Dirs, "directories"),
            (Count::Linked, "hard links"),
            (Count::Symlinks, "symlinks"),
            (Count::Specials, "special files"),
            (Count::Removed, "removed"),
            (Count::DeletesWithheld, "deletes withheld"),
        ];
        let occurred = shown.iter().filter(|&&(count, _)| count == Count::Unchanged || self.totals.get(count) > 0);
        let texts: Vec<String> = occurred.map(|&(count, name)| format!("{} {name}", self.totals.get(count))).collect();
        field("others", &texts.join(", "))
    }

    fn errors_line(&self) -> String {
        let get = |count| self.totals.get(count);
        let (failed, vanished, unstable) = (get(Count::Failed), get(Count::Vanished), get(Count::Unstable));
        field("errors", &format!("{failed} failed, {vanished} vanished, {unstable} unstable"))
    }

    /// How far it is proved that the destination holds what was read.
    fn integrity_text(&self) -> String {
        let shown = [
            (Count::ProvedByServer, "compared by the server (CRC64/NVME)"),
            (Count::ProvedByReading, "read back"),
            (Count::ProvedByLength, "by length only"),
            (Count::ChecksumsKept, "recorded as written (CRC64/NVME)"),
        ];
        let occurred = shown.iter().filter(|&&(count, _)| self.totals.get(count) > 0);
        let mut texts: Vec<String> =
            occurred.map(|&(count, name)| format!("{} {name}", self.totals.get(count))).collect();
        let twice = self.totals.get(Count::PartsReadTwice);
        if twice > 0 {
            texts.push(format!("{twice} parts read twice, since the server wants their checksums before them"));
        }
        if texts.is_empty() { "no checksums asked for".to_owned() } else { texts.join(", ") }
    }

    /// What an administrator has to know of: parts of an upload are stored, and paid for, until it is given up.
    fn uploads_line(&self) -> Option<String> {
        let left = self.totals.get(Count::UploadsLeft);
        let text = format!("{left} unfinished left at the server, named above");
        (left > 0).then(|| field("uploads", &text))
    }

    /// The map of what is missing.
    fn unreadable_line(&self) -> Option<String> {
        let bytes = self.unreadable.bytes();
        let text =
            format!("{bytes} bytes, zeros at the destination unless read by an earlier run: {}", self.unreadable);
        (bytes > 0).then(|| field("unreadable", &text))
    }

    fn losses_text(&self) -> String {
        if self.losses.is_empty() {
            return "none".to_owned();
        }
        let texts: Vec<String> = self.losses.iter().map(|(loss, count)| format!("{} {count}", loss.name())).collect();
        texts.join(", ")
    }

    fn time_line(&self) -> String {
        let rate = human::bytes(self.bytes_per_second() as u64);
        let files = human::count(self.files_per_second() as u64);
        let elapsed = human::duration(self.elapsed);
        let changes = if self.changes > 0 { format!(", {} changes", self.changes) } else { String::new() };
        field("time", &format!("{elapsed}, {rate}/s, {files} files/s, {} streams{changes}", self.streams))
    }

    fn latency_line(&self) -> String {
        let side = |latency: &SideLatency| {
            let (p50, p99) = (latency.percentile(50.0), latency.percentile(99.0));
            format!("p50 {} p99 {}", human::duration(p50), human::duration(p99))
        };
        field("latency", &format!("source {}, dest {}", side(&self.latency.source), side(&self.latency.dest)))
    }

    fn engine_text(&self) -> String {
        let (registered, arena) = (human::bytes(self.registered_bytes), human::bytes(self.arena_bytes));
        match &self.engine {
            EngineUsed::Uring { flags } => {
                let each = self.submissions_per_enter();
                format!(
                    "uring, depth {}, {registered} of {arena} buffers registered, {each:.1} submissions an enter, \
                     flags {flags}",
                    self.file_depth
                )
            }
            EngineUsed::Lanes { fallback: None } => "lanes, files on tokio-uring".to_owned(),
            EngineUsed::Lanes { fallback: Some(why) } => format!("lanes, files on threads, not uring: {why}"),
            EngineUsed::Sync { reason } => {
                let threads =
                    if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
                let why = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
                format!("system calls on {threads}, {arena} buffers{why}")
            }
        }
    }

    fn bytes_per_second(&self) -> f64 {
        per_second(self.totals.get(Count::BytesCopied), self.elapsed)
    }

    fn files_per_second(&self) -> f64 {
        per_second(self.totals.files_made(), self.elapsed)
    }

    fn submissions_per_enter(&self) -> f64 {
        match self.totals.get(Count::Enters) {
            0 => 0.0,
            enters => self.totals.get(Count::Submissions) as f64 / enters as f64,
        }
    }

    /// For machines: one object on one line. Paths are escaped as in all messages: what is not printable UTF-8, and the
    /// backslash, as `\xNN` and `\\`.
    pub fn json(&self) -> String {
        let mut object = Object::default();
        object.number("schema", SCHEMA);
        self.put_run(&mut object);
        Count::ALL.iter().for_each(|&count| object.number(count.key(), self.totals.get(count)));
        let mut losses = Object::default();
        self.losses.iter().for_each(|(loss, count)| losses.number(loss.key(), *count));
        object.object("losses", losses);
        object.fraction("elapsed_s", self.elapsed.as_secs_f64());
        object.fraction("bytes_per_s", self.bytes_per_second());
        object.fraction("files_per_s", self.files_per_second());
        object.number("streams", self.streams.into());
        object.number("steered", self.changes);
        self.put_engine(&mut object);
        let mut latency = Object::default();
        latency.object("source", latency_object(&self.latency.source));
        latency.object("dest", latency_object(&self.latency.dest));
        object.object("latency", latency);
        Limited::put(self.limit.as_ref(), &mut object);
        object.text("sync", policy_name(self.durability.used));
        object.text("sync_asked", policy_name(self.durability.asked));
        object.text("durability", self.durability.text());
        if !self.unreadable.is_empty() {
            object.number("unreadable_bytes", self.unreadable.bytes());
            object.text("unreadable", &self.unreadable.to_string());
        }
        self.put_forecast(&mut object);
        object.text("state", &escape(&self.state));
        object.text("command", &self.command);
        object.number("exit_code", self.exit_code().code().into());
        object.close() + "\n"
    }

    fn put_run(&self, object: &mut Object) {
        let (run, pass) = match self.run {
            Run::Copy => ("copy", 1),
            Run::Resume { pass } => ("resume", pass),
            Run::Pass { pass } => ("pass", pass),
        };
        let (end, error) = match &self.end {
            End::Finished => ("finished", None),
            End::Interrupted => ("interrupted", None),
            End::Stopped(error) => ("stopped", Some(error.to_string())),
        };
        object.text("run", run);
        object.number("pass", pass.into());
        object.text("end", end);
        object.text_or_null("error", error.as_deref());
        object.text("source", &escape(&self.source));
        object.text("dest", &escape(&self.dest));
    }

    fn put_forecast(&self, object: &mut Object) {
        let Some(Forecast { walk, copy, last }) = self.forecast else {
            return object.text_or_null("forecast", None);
        };
        let mut forecast = Object::default();
        forecast.fraction("elapsed_s", (walk + copy).as_secs_f64());
        forecast.fraction("walk_s", walk.as_secs_f64());
        forecast.fraction("changes_s", copy.as_secs_f64());
        forecast.number("entries", last.entries);
        forecast.number("changes", last.changes);
        forecast.number("change_bytes", last.bytes);
        object.object("forecast", forecast);
    }

    fn put_engine(&self, object: &mut Object) {
        let (engine, fallback, flags) = match &self.engine {
            EngineUsed::Uring { flags } => ("uring", None, Some(flags.as_str())),
            EngineUsed::Lanes { fallback } => ("lanes", fallback.as_deref(), None),
            EngineUsed::Sync { reason } => ("sync", reason.as_deref(), None),
        };
        object.text("engine", engine);
        object.text_or_null("engine_fallback", fallback);
        object.number("threads", self.threads as u64);
        object.text_or_null("ring_flags", flags);
        object.number("registered_buffer_bytes", self.registered_bytes);
        object.number("buffer_bytes", self.arena_bytes);
        object.number("file_depth", self.file_depth as u64);
        object.fraction("submissions_per_enter", self.submissions_per_enter());
    }
}

impl Durability {
    /// What the policy gives, for people.
    fn text(&self) -> &'static str {
        if self.keeper == Keeper::Server {
            return "server: durable when the server has answered";
        }
        if self.keeper == Keeper::Device && self.asked != SyncPolicy::None {
            return "device: durable at each checkpoint (fsync of the device)";
        }
        match (self.asked, self.used) {
            (_, SyncPolicy::Batch) => "batch: durable at each checkpoint (syncfs)",
            (SyncPolicy::Batch, SyncPolicy::File) => "file: fsync of each file, for syncfs cannot be trusted here",
            (_, SyncPolicy::File) => "file: fsync of each file",
            (_, SyncPolicy::None) => "none: written, not durable; copied again after a reboot",
        }
    }
}

fn policy_name(policy: SyncPolicy) -> &'static str {
    match policy {
        SyncPolicy::Batch => "batch",
        SyncPolicy::File => "file",
        SyncPolicy::None => "none",
    }
}

fn latency_object(side: &SideLatency) -> Object {
    let nanos = |percent: f64| u64::try_from(side.percentile(percent).as_nanos()).unwrap_or(u64::MAX);
    let mut object = Object::default();
    object.number("count", side.count());
    object.number("p50_ns", nanos(50.0));
    object.number("p99_ns", nanos(99.0));
    object.number("max_ns", nanos(100.0));
    object
}

fn per_second(amount: u64, elapsed: Duration) -> f64 {
    match elapsed.as_secs_f64() {
        secs if secs > 0.0 => amount as f64 / secs,
        _ => 0.0,
    }
}

fn field(name: &str, value: &str) -> String {
    format!("  {name:<11}{value}")
}

#[cfg(test)]
mod tests {
    use super::super::counters::Counters;
    use super::super::forecast::Pass;
    use super::super::waits::Waits;
    use super::*;
    use crate::error::Errno;
    use std::sync::Arc;

    fn summary(end: End, counts: &[(Count, u64)]) -> Summary {
        let shard = Arc::new(Counters::default());
        counts.iter().for_each(|&(count, by)| shard.add(count, by));
        let mut latency = Latency::default();
        latency.source.record(Duration::from_nanos(100));
        let waits = Waits { source: 0.75, streams: 32.0, ..Waits::default() };
        Summary {
            run: Run::Resume { pass: 2 },
            end,
            source: b"/s\xff".to_vec(),
            dest: b"/d".to_vec(),
            state: b"/state/job".to_vec(),
            command: "gfast -source /s -dest /d".to_owned(),
            totals: Totals::of(&[shard]),
            forecast: None,
            losses: vec![(Loss::Owner, 3)],
            elapsed: Duration::from_secs(2),
            streams: 32,
            changes: 0,
            threads: 8,
            engine: EngineUsed::Sync { reason: Some("io_uring is disabled".to_owned()) },
            registered_bytes: 0,
            file_depth: 1,
            arena_bytes: 1 << 20,
            latency,
            limit: Some(Limited { name: "source", text: "reading the source".to_owned(), waits }),
            durability: Durability { asked: SyncPolicy::Batch, used: SyncPolicy::File, keeper: Keeper::FileSystem },
            unreadable: Extents::default(),
        }
    }

    #[test]
    fn exit_code_is_the_worst_of_end_and_outcomes() {
        let code = |end, counts: &[_]| summary(end, counts).exit_code().code();
        let full = || End::Stopped(Error::os("write", "/d/x", Errno::NOSPC));
        assert_eq!(code(End::Finished, &[]), 0);
        assert_eq!(code(End::Finished, &[(Count::Unstable, 1)]), 24);
        assert_eq!(code(End::Finished, &[(Count::Vanished, 1), (Count::Failed, 1)]), 23);
        assert_eq!(code(End::Finished, &[(Count::DeletesWithheld, 1), (Count::Failed, 1)]), 25);
        assert_eq!(code(End::Interrupted, &[(Count::Failed, 1)]), 20);
        assert_eq!(code(full(), &[(Count::Failed, 1)]), 11);
    }

    #[test]
    fn json_is_one_object_with_every_figure() {
        let counts = [(Count::FilesCopied, 4), (Count::BytesCopied, 2048), (Count::Vanished, 1)];
        let expected = concat!(
            r#"{"schema":1,"run":"resume","pass":2,"end":"finished","error":null,"source":"/s\\xff","dest":"/d","#,
            r#""entries_walked":0,"directories":0,"copied":4,"cloned":0,"unchanged":0,"metadata_only":0,"#,
            r#""adopted":0,"hard_links":0,"#,
            r#""symlinks":0,"special_files":0,"failed":0,"vanished":1,"unstable":0,"removed":0,"deletes_withheld":0,"#,
            r#""bytes_planned":0,"bytes_skipped":0,"bytes":2048,"bytes_durable":0,"uploads_left":0,"#,
            r#""parts_read_twice":0,"submissions":0,"enters":0,"#,
            r#""proved_by_server":0,"proved_by_reading":0,"proved_by_length":0,"checksums_recorded":0,"#,
            r#""losses":{"owner":3},"#,
            r#""elapsed_s":2.000,"bytes_per_s":1024.000,"files_per_s":2.000,"streams":32,"steered":0,"#,
            r#""engine":"sync","#,
            r#""engine_fallback":"io_uring is disabled","threads":8,"ring_flags":null,"registered_buffer_bytes":0,"#,
            r#""buffer_bytes":1048576,"file_depth":1,"submissions_per_enter":0.000,"#,
            r#""latency":{"source":{"count":1,"p50_ns":100,"p99_ns":100,"max_ns":100},"#,
            r#""dest":{"count":0,"p50_ns":0,"p99_ns":0,"max_ns":0}},"#,
            r#""limit":"source","limit_text":"reading the source","#,
            r#""waits":{"computing":0.000,"source":0.750,"dest":0.000,"source_names":0.000,"dest_names":0.000,"#,
            r#""requests":0.000,"limits":0.000,"streams":32.000,"in_flight":0.000,"cpu":0.000,"machine":0.000},"#,
            r#""sync":"file","#,
            r#""sync_asked":"batch","durability":"file: fsync of each file, for syncfs cannot be trusted here","#,
            r#""forecast":null,"state":"/state/job","command":"gfast -source /s -dest /d","exit_code":24}"#,
            "\n"
        );
        assert_eq!(summary(End::Finished, &counts).json(), expected);
    }

    #[test]
    fn text_says_what_is_missing_and_how_to_go_on() {
        let text = summary(End::Interrupted, &[(Count::Failed, 1), (Count::FilesCopied, 1)]).text();
        let expected = "\
resumed pass 2 interrupted, resumable: /s\\xff -> /d
  copied     1 files, 0 B written, 0 B durable
  others     0 unchanged
  errors     1 failed, 0 vanished, 0 unstable
  losses     owner 3
  time       2.0 s, 0 B/s, 0 files/s, 32 streams
  latency    source p50 100 ns p99 100 ns, dest p50 0 ns p99 0 ns
  engine     system calls on 8 threads, 1.0 MiB buffers: io_uring is disabled
  durability file: fsync of each file, for syncfs cannot be trusted here
  integrity  no checksums asked for
  state      /state/job
  limited by reading the source
  resume     gfast -source /s -dest /d
  exit code  20
";
        assert_eq!(text, expected);
        assert!(summary(End::Finished, &[]).text().contains("finished, nothing had to be done"));
    }

    #[test]
    fn a_finished_pass_tells_what_the_next_will_take() {
        let last = Pass { elapsed_ms: 2100, entries: 12_345, changes: 70, bytes: 3 << 20 };
        let (walk, copy) = (Duration::from_millis(1400), Duration::from_millis(600));
        let forecast = Some(Forecast { walk, copy, last });
        let told = |end| Summary { forecast, ..summary(end, &[]) };
        let line = "  forecast   about 2.0 s for the next pass if as much changes: \
            1.4 s to look at 12.3k entries, 600.0 ms for 70 changes of 3.0 MiB\n";
        assert!(told(End::Finished).text().contains(line), "{}", told(End::Finished).text());
        assert!(!told(End::Interrupted).text().contains("forecast"));
        let object = r#""forecast":{"elapsed_s":2.000,"walk_s":1.400,"changes_s":0.600,"entries":12345,"changes":70,"#;
        assert!(told(End::Finished).json().contains(object), "{}", told(End::Finished).json());
    }
}
