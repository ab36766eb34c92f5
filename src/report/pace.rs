//! How fast a job goes: samples once a second, rates over the last of them, and what is left at those rates.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::counters::{Count, Totals};

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: what the ETA's rates are taken over, in [`SAMPLE_INTERVAL`]s.
pub(super) const SAMPLES_MAX: usize = 60;
/// Samples that "the last seconds" are.
pub(super) const SAMPLES_SHOWN: usize = 5;

/// Whether the number of entries is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// There may be more entries than were counted.
    Running,
    /// Every entry has been counted.
    Ended,
}

/// Units a second between two samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Entries decided.
    pub entries: f64,
    /// Entries made that are no directories.
    pub files: f64,
    /// Bytes written.
    pub bytes: f64,
}

/// Where the job stood at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// When.
    at: Instant,
    /// Entries whose fate was decided.
    entries: u64,
    /// Entries made that are no directories.
    files: u64,
    /// Bytes written.
    bytes: u64,
}

/// The samples.
#[derive(Debug)]
pub struct Pace {
    /// Entries a former pass found.
    former_entries: Option<u64>,
    /// Oldest first, at most [`SAMPLES_MAX`].
    samples: VecDeque<Sample>,
}

impl Pace {
    /// The pace of a job that begins `now` with `totals`. `former_entries` is what a former finished pass counted.
    pub fn new(former_entries: Option<u64>, totals: &Totals, now: Instant) -> Pace {
        let samples = VecDeque::from([Sample::of(totals, now)]);
        Pace { former_entries, samples }
    }

    /// Whether the next sample is due.
    pub fn is_due(&self, now: Instant) -> bool {
        let newest = self.samples.back().map_or(now, |sample| sample.at);
        now.duration_since(newest) >= SAMPLE_INTERVAL
    }

    /// Takes a sample.
    pub fn sample(&mut self, totals: &Totals, now: Instant) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample::of(totals, now));
    }

    /// The rates of the last seconds.
    pub fn recent(&self, totals: &Totals, now: Instant) -> Rates {
        self.rates_over(SAMPLES_SHOWN, totals, now)
    }

    /// The rates of the last minute.
    pub fn minute(&self, totals: &Totals, now: Instant) -> Rates {
        self.rates_over(SAMPLES_MAX, totals, now)
    }

    /// The rates since `count` samples ago, or since the oldest there is.
    fn rates_over(&self, count: usize, totals: &Totals, now: Instant) -> Rates {
        let oldest = self.samples.len().saturating_sub(count);
        self.samples.get(oldest).map_or(Rates::default(), |then| Sample::of(totals, now).since(then))
    }

    /// The longer of what the entries and what the known bytes will take; `None` while either cannot be known.
    pub fn eta(&self, totals: &Totals, walk: Walk, rates: &Rates) -> Option<Duration> {
        let walked = totals.get(Count::EntriesWalked);
        let entries = match walk {
            Walk::Ended => walked,
            Walk::Running => self.former_entries.filter(|&former| former > walked)?,
        };
        let entries_secs = secs_for(entries.saturating_sub(totals.entries_done()), rates.entries)?;
        let bytes_secs = secs_for(totals.bytes_left(), rates.bytes)?;
        Duration::try_from_secs_f64(entries_secs.max(bytes_secs).ceil()).ok()
    }
}

impl Sample {
    fn of(totals: &Totals, at: Instant) -> Sample {
        let bytes = totals.get(Count::BytesCopied);
        Sample { at, entries: totals.entries_done(), files: totals.files_made(), bytes }
    }

    fn since(&self, then: &Sample) -> Rates {
        let secs = self.at.duration_since(then.at).as_secs_f64();
        if secs <= 0.0 {
            return Rates::default();
        }
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / secs;
        Rates {
            entries: rate(self.entries, then.entries),
            files: rate(self.files, then.files),
            bytes: rate(self.bytes, then.bytes),
        }
    }
}

/// Seconds that `left` takes at `rate` a second; `None` when it would never end.
fn secs_for(left: u64, rate: f64) -> Option<f64> {
    match left {
        0 => Some(0.0),
        _ if rate > 0.0 => Some(left as f64 / rate),
        _ => None,
    }
}
