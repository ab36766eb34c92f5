//! The progress line: redrawn about four times a second on a terminal, one line a minute elsewhere.
//!
//! ```text
//! [walk 12.3M entries, done] [done 8.1M] [41.2 GiB, 38.0 GiB durable] [3.9 GiB/s] [files/s 18.0k] [streams 32]
//! [err 3] ETA 1h31m
//! ```
//!
//! Rates are those of the last seconds, the ETA's those of the last minute. There is no ETA before the walk has ended,
//! since nobody knows then what is left, unless a former pass has counted the entries. Time comes in from the caller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::console::{Console, Screen};
use super::counters::{Count, Counters, Totals};
use super::human;
use super::pace::{Pace, Walk};

/// Time between two drawings on a terminal.
const REDRAW_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

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

/// Shows how far the job is. Driven by whoever has a loop that turns a few times a second.
pub struct Progress {
    /// Where to.
    console: Arc<Console>,
    /// All shards' counters.
    counters: Vec<Arc<Counters>>,
    /// How fast it is.
    pace: Pace,
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
        let pace = Pace::new(former_entries, &Totals::at_once(&counters), now);
        Progress { console, counters, pace, next_show }
    }

    /// Shows the line when it is due. Cheap when it is not.
    pub fn tick(&mut self, moment: &Moment) {
        if self.console.screen() == Screen::Quiet {
            return;
        }
        let is_sample_due = self.pace.is_due(moment.now);
        let is_show_due = moment.now >= self.next_show;
        if !is_sample_due && !is_show_due {
            return;
        }
        let totals = Totals::at_once(&self.counters);
        if is_show_due {
            self.show(&totals, moment);
        }
        if is_sample_due {
            self.pace.sample(&totals, moment.now);
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

    fn line(&self, totals: &Totals, moment: &Moment) -> String {
        let minute = self.pace.minute(totals, moment.now);
        let shown = match self.console.screen() {
            Screen::Terminal => self.pace.recent(totals, moment.now),
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
        if let Some(eta) = self.pace.eta(totals, moment.walk, &minute) {
            line.push_str(&format!(" ETA {}", human::duration(eta)));
        }
        line
    }
}

fn interval(screen: Screen) -> Duration {
    match screen {
        Screen::Terminal => REDRAW_INTERVAL,
        Screen::Log | Screen::Quiet => LINE_INTERVAL,
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
