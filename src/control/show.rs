//! A status for people: a few aligned lines.

use std::time::Duration;

use super::status::{Latency, Phase, Stalled, Status};
use crate::report::{bytes, count, duration};

/// Objects and errors shown.
const SHOWN_MAX: usize = 8;

impl Status {
    /// A few aligned lines.
    pub fn text(&self) -> String {
        let phase = match self.phase {
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Stopping => "stopping",
            Phase::Finishing => "finishing",
        };
        let elapsed = duration(Duration::from_secs_f64(self.elapsed_s.max(0.0)));
        let mut lines = vec![
            format!("{}: {} -> {}", self.run, self.source, self.dest),
            line("job", &format!("process {}, {phase} for {elapsed}", self.pid)),
            line("streams", &self.streams_text()),
            line("limits", &self.limits_text()),
            line("entries", &self.entries_text()),
            line("bytes", &self.bytes_text()),
            line("latency", &format!("source {}, dest {}", side(&self.source_latency), side(&self.dest_latency))),
        ];
        lines.extend(self.limit.iter().map(|limit| line("limited by", &limit.text)));
        for Stalled { path, silent_s } in &self.stalled {
            lines.push(line("stalled", &format!("no progress on {path} for {silent_s:.0} s")));
        }
        for object in self.objects.iter().take(SHOWN_MAX) {
            lines.push(line("open", &format!("{} of {} {}", bytes(object.done), bytes(object.size), object.path)));
        }
        let more = self.objects.len().saturating_sub(SHOWN_MAX);
        lines.extend((more > 0).then(|| line("", &format!("and {more} more"))));
        let shown = self.errors.len().saturating_sub(SHOWN_MAX);
        lines.extend(self.errors[shown..].iter().map(|error| line("error", error)));
        lines.join("\n") + "\n"
    }

    fn streams_text(&self) -> String {
        let streams = &self.streams;
        let parked = if streams.parked > 0 { format!(", {} parked", streams.parked) } else { String::new() };
        let auto = if streams.auto { ", chosen by the job" } else { "" };
        format!("{} of {} in use{parked}, at most {}{auto}", streams.active, streams.limit, streams.max)
    }

    fn limits_text(&self) -> String {
        let bytes_limit = self.bwlimit.map(|limit| format!("{}/s", bytes(limit)));
        let ops_limit = self.iops_limit.map(|limit| format!("{limit} operations/s"));
        let limits: Vec<String> = bytes_limit.into_iter().chain(ops_limit).collect();
        if limits.is_empty() { "none".to_owned() } else { limits.join(", ") }
    }

    fn entries_text(&self) -> String {
        let totals = &self.totals;
        let walked = if totals.is_walked { "" } else { " so far" };
        let mut text = format!("{} of {}{walked} done", count(totals.entries_done), count(totals.entries_walked));
        text.push_str(&format!(", {} files/s", count(self.files_per_s as u64)));
        for (number, name) in [(totals.failed, "failed"), (totals.unstable, "unstable")] {
            if number > 0 {
                text.push_str(&format!(", {} {name}", count(number)));
            }
        }
        text
    }

    fn bytes_text(&self) -> String {
        let (copied, durable) = (bytes(self.totals.bytes_copied), bytes(self.totals.bytes_durable));
        let eta = self.eta_s.and_then(|secs| Duration::try_from_secs_f64(secs).ok());
        let eta = eta.map_or_else(String::new, |eta| format!(", ETA {}", duration(eta)));
        format!("{copied} written, {durable} durable, {}/s{eta}", bytes(self.bytes_per_s as u64))
    }
}

fn line(name: &str, text: &str) -> String {
    format!("  {name:<11}{text}").trim_end().to_owned()
}

fn side(latency: &Latency) -> String {
    let shown = |micros: f64| duration(Duration::try_from_secs_f64(micros / 1e6).unwrap_or_default());
    format!("p50 {} p99 {}", shown(latency.p50_us), shown(latency.p99_us))
}

#[cfg(test)]
mod tests {
    use super::super::status::{Object, Streams};
    use super::*;

    #[test]
    fn a_status_is_a_few_aligned_lines() {
        let mut status = Status { run: "copy".into(), source: "/a".into(), dest: "/b".into(), ..Status::default() };
        status.streams = Streams { limit: 8, active: 6, parked: 2, max: 1024, auto: false };
        status.bwlimit = Some(1 << 20);
        status.stalled = vec![Stalled { path: "/mnt".into(), silent_s: 31.4 }];
        status.objects = vec![Object { path: "x".into(), size: 2048, done: 1024, age_ms: 5 }; 10];
        let text = status.text();
        assert!(text.starts_with("copy: /a -> /b\n  job        process 0, running for "), "{text}");
        assert!(text.contains("\n  streams    6 of 8 in use, 2 parked, at most 1024\n"), "{text}");
        assert!(text.contains("\n  limits     1.0 MiB/s\n"), "{text}");
        assert!(text.contains("\n  stalled    no progress on /mnt for 31 s\n"), "{text}");
        assert!(text.ends_with("  open       1.0 KiB of 2.0 KiB x\n             and 2 more\n"), "{text}");
    }
}
