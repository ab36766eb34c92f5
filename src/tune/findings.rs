//! What was measured, as tables for people or one JSON object for machines.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::choice::{self, Vote};
use super::sample::{Kind, Origin, Sample, bytes_of};
use super::settings::{Options, Settings};
use super::trial::Trial;
use crate::report::{Latency, SideLatency, bytes, count, duration};

/// The number that changes when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// All that a measurement has found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// [`SCHEMA`].
    pub(super) schema: u32,
    /// The source, escaped.
    pub(super) source: String,
    /// The destination, escaped.
    pub(super) dest: String,
    /// What tells the source's storage from others.
    pub(super) source_place: String,
    /// What tells the destination's.
    pub(super) dest_place: String,
    /// How long it took.
    pub(super) elapsed_s: f64,
    /// What was copied.
    pub(super) samples: Vec<SampleFacts>,
    /// What each of the settings came to, in the order they were measured.
    pub(super) rows: Vec<Row>,
    /// The best settings, as far as they are not the defaults.
    pub(super) recommended: Options,
    /// The job with these settings, as a command line.
    pub(super) command: String,
    /// Where they were kept.
    pub(super) profile: Option<String>,
    /// What is to be known about it.
    pub(super) notes: Vec<String>,
}

/// A sample.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SampleFacts {
    /// `small` or `large`.
    kind: &'static str,
    /// `source` or `scratch`.
    origin: &'static str,
    /// Files in it.
    files: u64,
    /// Bytes in it.
    bytes: u64,
}

/// What one value of one knob came to with one kind of files.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    /// `small` or `large`.
    kind: &'static str,
    /// What was turned: a knob, or `all` for what won against the defaults.
    knob: &'static str,
    /// Its value, for people.
    setting: String,
    /// All settings that are not the defaults.
    options: Options,
    /// Whether it is what the others of its knob are compared with.
    is_present: bool,
    /// Times it was measured.
    rounds: usize,
    /// `files_per_s` or `bytes_per_s`.
    unit: &'static str,
    /// Median over the rounds.
    rate: f64,
    /// The rates' scattering, as a share of the median.
    scatter: f64,
    /// How much faster than the present settings, as a share of one; the median over the rounds.
    gain: f64,
    /// Latency of half the operations on the source, in microseconds.
    source_p50_us: f64,
    /// Of 99 in a hundred.
    source_p99_us: f64,
    /// The same for the destination.
    dest_p50_us: f64,
    /// The same for the destination.
    dest_p99_us: f64,
}

impl SampleFacts {
    /// Of a sample.
    pub fn of(sample: &Sample) -> SampleFacts {
        let origin = match sample.origin {
            Origin::Source => "source",
            Origin::Scratch => "scratch",
        };
        let (files, bytes) = (sample.files.len() as u64, bytes_of(&sample.files));
        SampleFacts { kind: sample.kind.name(), origin, files, bytes }
    }

    fn heading(&self) -> String {
        let origin = if self.origin == "source" { "of the source" } else { "made for it, the source has too few" };
        format!("{} files: {} {origin}, {}", self.kind, count(self.files), bytes(self.bytes))
    }
}

impl Findings {
    /// Adds the rows of one knob and one kind: candidates, the present settings first, and their runs.
    pub(super) fn add(
        &mut self,
        kind: Kind,
        knob: &'static str,
        candidates: &[(String, Settings)],
        runs: &[Vec<Trial>],
    ) {
        let rates = rates_of(runs);
        for (((setting, candidate), own), trials) in candidates.iter().zip(&rates).zip(runs) {
            let mut latency = Latency::default();
            trials.iter().for_each(|trial| latency.merge(&trial.latency));
            let micros = |side: &SideLatency, percent| side.percentile(percent).as_nanos() as f64 / 1e3;
            self.rows.push(Row {
                kind: kind.name(),
                knob,
                setting: setting.clone(),
                options: candidate.options(),
                is_present: candidate == &candidates[0].1,
                rounds: own.len(),
                unit: if kind == Kind::Small { "files_per_s" } else { "bytes_per_s" },
                rate: choice::median(own),
                scatter: choice::scatter(own),
                gain: choice::gain(own, &rates[0]),
                source_p50_us: micros(&latency.source, 50.0),
                source_p99_us: micros(&latency.source, 99.0),
                dest_p50_us: micros(&latency.dest, 50.0),
                dest_p99_us: micros(&latency.dest, 99.0),
            });
        }
    }

    /// Rounds of the settings that were measured least often.
    pub(super) fn rounds_min(&self) -> usize {
        self.rows.iter().map(|row| row.rounds).min().unwrap_or(0)
    }

    /// For machines: one object on one line.
    pub fn json(&self) -> String {
        let findings = Findings { schema: SCHEMA, ..self.clone() };
        // Plain numbers and texts: there is nothing that could not be written.
        serde_json::to_string(&findings).unwrap_or_default() + "\n"
    }

    /// For people: a table a kind, then what to do.
    pub fn text(&self) -> String {
        let mut text = format!("measured in {:.1} s: {} -> {}\n", self.elapsed_s, self.source, self.dest);
        for sample in &self.samples {
            let rows = self.rows.iter().filter(|row| row.kind == sample.kind);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n{}", sample.heading());
            let _ = writeln!(
                text,
                "  {:<18}{:>14}{:>9}{:>9}{:>7}   {:<20}  dest p50 p99",
                "setting", "median", "gain", "scatter", "runs", "source p50 p99"
            );
            rows.for_each(|row| text.push_str(&row.line()));
        }
        text.push('\n');
        for (label, value) in self.lines() {
            let _ = writeln!(text, "{label:<13}{value}");
        }
        text
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let best = match self.recommended == Options::default() {
            true => "the defaults: nothing else is clearly faster".to_owned(),
            false => self.recommended.text(),
        };
        let notes = self.notes.iter().map(|note| ("note", note.clone()));
        let profile = self.profile.iter().map(|path| ("profile", format!("kept in {path}")));
        let best = [("best", best), ("command", self.command.clone())];
        notes.chain(best).chain(profile).collect()
    }
}

impl Row {
    fn line(&self) -> String {
        let rate = match self.unit {
            "files_per_s" => format!("{} files/s", count(self.rate as u64)),
            _ => format!("{}/s", bytes(self.rate as u64)),
        };
        let gain = if self.is_present { "-".to_owned() } else { format!("{:+.0} %", self.gain * 100.0) };
        let scatter = format!("{:.0} %", self.scatter * 100.0);
        let micros = |value: f64| duration(Duration::from_nanos((value * 1e3) as u64));
        let source = format!("{} {}", micros(self.source_p50_us), micros(self.source_p99_us));
        let dest = format!("{} {}", micros(self.dest_p50_us), micros(self.dest_p99_us));
        let (setting, rounds) = (&self.setting, self.rounds);
        let line = format!("  {setting:<18}{rate:>14}{gain:>9}{scatter:>9}{rounds:>7}   {source:<20}  {dest}");
        line.trim_end().to_owned() + "\n"
    }
}

/// The rates of runs.
pub(super) fn rates_of(runs: &[Vec<Trial>]) -> Vec<Vec<f64>> {
    runs.iter().map(|trials| trials.iter().map(|trial| trial.rate).collect()).collect()
}

/// What a kind says about candidates.
pub(super) fn vote(weight: f64, runs: &[Vec<Trial>]) -> Vote {
    Vote { weight, rates: rates_of(runs) }
}
