//! What a running job says of itself: one line of JSON on the control socket, the same for `gfast ctl status --json`,
//! the TUI and anybody's own tools.
//!
//! Fields are only ever added under one schema number. Rates are those of the last seconds.

use serde::{Deserialize, Serialize};

/// The number that changes when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;
/// Most objects told: a job of more streams tells of the first of each thread.
pub const OBJECTS_MAX: usize = 256;
/// Most error lines told.
pub const ERRORS_MAX: usize = 32;

/// A running job at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Process number.
    pub pid: u32,
    /// Where from, as the summary names it.
    pub source: String,
    /// Where to.
    pub dest: String,
    /// What it is doing.
    pub phase: Phase,
    /// "copy", "resume" or "pass N", as the summary names it.
    pub run: String,
    /// Seconds since the run began.
    pub elapsed_s: f64,
    /// Streams.
    pub streams: Streams,
    /// Most bytes a second; none: no limit.
    pub bwlimit: Option<u64>,
    /// Most operations a second; none: no limit.
    pub iops_limit: Option<u64>,
    /// What was counted.
    pub totals: Totals,
    /// Bytes copied a second.
    pub bytes_per_s: f64,
    /// Files copied a second.
    pub files_per_s: f64,
    /// Seconds left; none before the walk has ended, unless a former pass has counted the entries.
    pub eta_s: Option<f64>,
    /// How long operations on the source took.
    pub source_latency: Latency,
    /// How long operations on the destination took.
    pub dest_latency: Latency,
    /// What limits the job.
    pub limit: Option<Limit>,
    /// Storage that has stopped answering.
    pub stalled: Vec<Stalled>,
    /// Objects open now, at most [`OBJECTS_MAX`].
    pub objects: Vec<Object>,
    /// The last errors, oldest first, at most [`ERRORS_MAX`].
    pub errors: Vec<String>,
    /// All errors by class and cause.
    pub causes: Vec<Errors>,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It copies.
    #[default]
    Running,
    /// It starts nothing until it is told to go on.
    Paused,
    /// It was asked to stop: what is under way is finished.
    Stopping,
    /// Everything is copied; directories and the last checkpoint are under way.
    Finishing,
}

/// Streams of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Streams {
    /// Objects that may be open at once.
    pub limit: u32,
    /// Objects worked on now; never more than the limit within a second of its change.
    pub active: u32,
    /// Open objects that rest, because the limit was lowered; they go on before anything new is begun.
    pub parked: u32,
    /// Most that can be asked for.
    pub max: u32,
    /// Whether the job chooses the limit itself.
    pub auto: bool,
}

/// What a job has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Entries met by the walk.
    pub entries_walked: u64,
    /// Whether the walk has ended, so that `entries_walked` is all there is.
    pub is_walked: bool,
    /// Entries whose fate is decided.
    pub entries_done: u64,
    /// Files copied.
    pub files_copied: u64,
    /// Bytes of files that are to be copied, as far as known.
    pub bytes_planned: u64,
    /// Bytes copied.
    pub bytes_copied: u64,
    /// Bytes that a power cut would leave there.
    pub bytes_durable: u64,
    /// Objects that failed.
    pub failed: u64,
    /// Objects that vanished or kept changing.
    pub unstable: u64,
    /// Losses.
    pub losses: u64,
}

/// Latency of one side, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Half of the operations took no longer.
    pub p50_us: f64,
    /// 99 of 100 operations took no longer.
    pub p99_us: f64,
}

/// A storage that threads wait for, and none has had an answer from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stalled {
    /// The root that lies on it.
    pub path: String,
    /// Seconds since its last answer.
    pub silent_s: f64,
}

/// What limits a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// One word: `source`, `dest`, `metadata`, `cpu`, `network`, `bwlimit`, `streams` or `paused`.
    pub cause: String,
    /// A sentence for people, with what could be done about it.
    pub text: String,
}

/// One open object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Its path below the root; bytes that are not UTF-8 are escaped.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are copied.
    pub done: u64,
    /// Milliseconds since it was begun.
    pub age_ms: u64,
}

/// Errors of one class and cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Errors {
    /// What they meant: `retry` (the same was tried again), `object` (it did not arrive) or `fatal` (the job ends).
    pub class: String,
    /// One word: an errno's name, `http_503` and the like, `vanished`, `unstable`, `network`, ...
    pub cause: String,
    /// How many.
    pub count: u64,
}

/// The answer to any request but `status`: one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// What was done, or why not: one line for people.
    pub line: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_unknown_fields_are_passed_over() {
        let status = Status { schema: SCHEMA, phase: Phase::Paused, eta_s: Some(1.5), ..Status::default() };
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains(r#""phase":"paused""#) && !text.contains('\n'), "{text}");
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
        let newer = text.replacen('{', r#"{"of_the_future":[1,{"a":null}],"#, 1);
        assert_eq!(serde_json::from_str::<Status>(&newer).unwrap(), status);
    }
}
