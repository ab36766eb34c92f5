//! The progress line: redrawn about four times a second on a terminal, one line a minute elsewhere.
//!
//! ```text
//! [walk 12.3M entries, done] [done 8.1M] [41.2 GiB, 38.0 GiB durable] [3.9 GiB/s] [files/s 18.0k] [streams 32]
//! [err 3] ETA 1h31m
//! ```
//!
//! Rates are those of the last seconds, the ETA's those of the last minute. There is no ETA before the walk has ended,
//! since nobody knows then what is left, unless a former pass has counted the entries. Time comes in from the caller.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::console::{Console, Screen};
use super::counters::{Count, Counters, Totals};
use super::human;

/// Time between two drawings on a terminal.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: what the ETA's rates are taken over, in [`SAMPLE_INTERVAL`]s.
const SAMPLES_MAX: usize = 60;
/// Samples the shown rates are taken over on a terminal.
const SAMPLES_SHOWN: usize = 5;

/// Whether the number of entries is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// There may be more entries than were counted.
    Running,
    /// Every entry has been counted.
    Ended,
}

/// What the caller knows at a tick.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Now.
    pub now: Instant,
    /// Whether the number of entries is known.
    pub walk: Walk,
    /// Streams allowed now.
    pub streams: u32,
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

/// Units a second between two samples.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    /// Entries decided.
    entries: f64,
    /// Entries made that are no directories.
    files: f64,
    /// Bytes written.
    bytes: f64,
}

/// Shows how far the job is. Driven by whoever has a loop that turns a few times a second.
pub struct Progress {
    /// Where to.
    console: Arc<Console>,
    /// All shards' counters.
    counters: Vec<Arc<Counters>>,
    /// Entries a former pass found.
    former_entries: Option<u64>,
    /// Oldest first, at most [`SAMPLES_MAX`].
    samples: VecDeque<Sample>,
    /// When to show next.
    next_show: Instant,
}

impl Progress {
    /// Progress of the job that counts in `counters`, from `now` on. `former_entries` is what a former finished pass
    /// of the same job counted.
    pub fn new(
        console: Arc<Console>,
        counters: Vec<Arc<Counters>>,
        former_entries: Option<u64>,
        now: Instant,
    ) -> Progress {
        let next_show = now + interval(console.screen());
        let mut progress =
            Progress { console, counters, former_entries, samples: VecDeque::with_capacity(SAMPLES_MAX), next_show };
        progress.sample(&Totals::of(&progress.counters), now);
        progress
    }

    /// Shows the line when it is due. Cheap when it is not.
    pub fn tick(&mut self, moment: &Moment) {
        if self.console.screen() == Screen::Quiet {
            return;
        }
        let newest = self.samples.back().map_or(moment.now, |sample| sample.at);
        let is_sample_due = moment.now.duration_since(newest) >= SAMPLE_INTERVAL;
        let is_show_due = moment.now >= self.next_show;
        if !is_sample_due && !is_show_due {
            return;
        }
        let totals = Totals::of(&self.counters);
        if is_show_due {
            self.show(&totals, moment);
        }
        if is_sample_due {
            self.sample(&totals, moment.now);
        }
    }

    /// Takes the line off a terminal. To be called before the summary.
    pub fn finish(self) {
        self.console.erase();
    }

    fn show(&mut self, totals: &Totals, moment: &Moment) {
        self.next_show = moment.now + interval(self.console.screen());
        let line = self.line(totals, moment);
        match self.console.screen() {
            Screen::Terminal => self.console.draw(&line),
            Screen::Log => self.console.note(&line),
            Screen::Quiet => {}
        }
    }

    fn sample(&mut self, totals: &Totals, now: Instant) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample::of(totals, now));
    }

    fn line(&self, totals: &Totals, moment: &Moment) -> String {
        let now = Sample::of(totals, moment.now);
        let minute = self.rates_over(SAMPLES_MAX, &now);
        let shown = match self.console.screen() {
            Screen::Terminal => self.rates_over(SAMPLES_SHOWN, &now),
            _ => minute,
        };
        let walked = match moment.walk {
            Walk::Running => "",
            Walk::Ended => ", done",
        };
        let mut line = format!(
            "[walk {} entries{walked}] [done {}] [{}, {} durable] [{}/s] [files/s {}] [streams {}]",
            human::count(totals.get(Count::EntriesWalked)),
            human::count(totals.entries_done()),
            human::bytes(totals.get(Count::BytesCopied)),
            human::bytes(totals.get(Count::BytesDurable)),
            human::bytes(shown.bytes as u64),
            human::count(shown.files as u64),
            moment.streams,
        );
        if totals.errors() > 0 {
            line.push_str(&format!(" [err {}]", human::count(totals.errors())));
        }
        if let Some(eta) = self.eta(totals, moment.walk, &minute) {
            line.push_str(&format!(" ETA {}", human::duration(eta)));
        }
        line
    }

    /// The rates since `count` samples ago, or since the oldest there is.
    fn rates_over(&self, count: usize, now: &Sample) -> Rates {
        let oldest = self.samples.len().saturating_sub(count);
        self.samples.get(oldest).map_or(Rates::default(), |then| now.since(then))
    }

    /// The longer of what the entries and what the known bytes will take; `None` while either cannot be known.
    fn eta(&self, totals: &Totals, walk: Walk, rates: &Rates) -> Option<Duration> {
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

fn interval(screen: Screen) -> Duration {
    match screen {
        Screen::Terminal => REDRAW_INTERVAL,
        Screen::Log | Screen::Quiet => LINE_INTERVAL,
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

#[cfg(test)]
mod tests {
    use super::super::console::tests::Kept;
    use super::*;

    struct Stage {
        kept: Kept,
        shard: Arc<Counters>,
        progress: Progress,
        start: Instant,
    }

    fn stage(screen: Screen, former_entries: Option<u64>) -> Stage {
        let kept = Kept::default();
        let shard = Arc::new(Counters::default());
        let start = Instant::now();
        let console = Arc::new(Console::new(screen, Box::new(kept.clone())));
        let progress = Progress::new(console, vec![shard.clone()], former_entries, start);
        Stage { kept, shard, progress, start }
    }

    impl Stage {
        fn tick(&mut self, millis: u64, walk: Walk) {
            let now = self.start + Duration::from_millis(millis);
            self.progress.tick(&Moment { now, walk, streams: 32 });
        }

        fn lines(&self) -> Vec<String> {
            self.kept.text().lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn a_log_gets_one_line_a_minute_with_rates_and_an_eta_after_the_walk() {
        let mut stage = stage(Screen::Log, None);
        for second in 1..=120 {
            stage.shard.add(Count::EntriesWalked, 100);
            stage.shard.add(Count::FilesCopied, 50);
            stage.shard.add(Count::BytesPlanned, 4 << 20);
            stage.shard.add(Count::BytesCopied, 2 << 20);
            let walk = if second < 120 { Walk::Running } else { Walk::Ended };
            stage.tick(second * 1000, walk);
        }
        let running = "[walk 6000 entries] [done 3000] [120.0 MiB, 0 B durable] [2.0 MiB/s] [files/s 50] [streams 32]";
        let ended = "[walk 12.0k entries, done] [done 6000] [240.0 MiB, 0 B durable] [2.0 MiB/s] [files/s 50] \
                     [streams 32] ETA 2m00s";
        assert_eq!(stage.lines(), [running, ended]);
    }

    #[test]
    fn a_former_pass_gives_an_eta_during_the_walk() {
        let mut stage = stage(Screen::Log, Some(6_001));
        stage.shard.add(Count::EntriesWalked, 3_000);
        stage.shard.add(Count::Unchanged, 3_000);
        stage.shard.add(Count::Failed, 1);
        stage.tick(60_000, Walk::Running);
        assert!(stage.lines()[0].ends_with("[err 1] ETA 1m00s"), "{:?}", stage.lines());
        stage.shard.add(Count::EntriesWalked, 4_000);
        stage.tick(120_000, Walk::Running);
        assert!(!stage.lines()[1].contains("ETA"), "more entries than last time: {:?}", stage.lines());
    }

    #[test]
    fn a_terminal_is_redrawn_four_times_a_second_and_left_clean() {
        let mut stage = stage(Screen::Terminal, None);
        (1..=100).for_each(|tick| stage.tick(tick * 10, Walk::Running));
        assert_eq!(stage.kept.text().matches("[walk").count(), 4);
        let kept = stage.kept.clone();
        stage.progress.finish();
        assert!(kept.text().ends_with("\r\x1b[K"));
    }

    #[test]
    fn quiet_shows_nothing() {
        let mut stage = stage(Screen::Quiet, None);
        stage.tick(600_000, Walk::Ended);
        assert_eq!(stage.kept.text(), "");
    }
}
