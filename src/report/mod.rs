//! What a run says: counters while it works, failures as they happen, a progress line, and one summary at the end.
//!
//! ```text
//! shard threads --Counters (relaxed, one cache line block each)--+--> Progress --> Console (stderr)
//!               --Failures, Losses (said once, counted) ---------+--> Summary  --> text or JSON (stdout)
//!               --Latency (own histograms, merged at the end) ---+            \-> ExitCode
//! ```
//!
//! stdout carries the summary only; everything else goes through the one [`Console`] to stderr. Nothing here decides
//! anything about the job, and nothing here holds a secret (I10): paths, numbers and errors only.

mod activity;
mod causes;
mod console;
mod counters;
mod exit;
mod failures;
mod forecast;
mod human;
mod json;
mod latency;
mod losses;
mod meter;
mod notes;
mod pace;
mod progress;
mod stall;
mod summary;
mod vigil;
mod waits;

pub use activity::{Activity, Afloat, Answers, Busy, Crowd, Storage};
pub use causes::{Causes, Weight, name_of};
pub use console::{Console, Screen};
pub use counters::{Count, Counters, Totals};
pub use exit::ExitCode;
pub use failures::{FAILURES_SHOWN_MAX, Failure, Failures};
pub use forecast::{Forecast, PASSES_MAX, Pass, forecast};
pub use human::{bytes, count, duration, shell_command};
pub(crate) use json::Object;
pub use latency::{Latency, SideLatency};
pub use losses::{Loss, LossSet, Losses};
pub use meter::Meter;
pub use notes::{NOTES_MAX, Note, Notes};
pub use pace::{Pace, Rates, Walk};
pub use progress::{Moment, Progress};
pub use stall::{Stall, Told};
pub use summary::{Durability, End, EngineUsed, Keeper, Run, SCHEMA, Summary};
pub use vigil::{Lookout, Vigil};
pub use waits::{Limited, Waits};
