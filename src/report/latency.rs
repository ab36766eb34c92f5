//! How long operations took, per side: a histogram that each shard owns and the summary merges.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency told apart, in nanoseconds: an hour. Longer ones count as this.
const NANOS_MAX: u64 = 3_600_000_000_000;
/// Significant decimal digits kept: 1 % error, 40 KiB a histogram.
const DIGITS: u8 = 2;

/// Latencies of one side's operations, in nanoseconds.
#[derive(Clone, Debug)]
pub struct SideLatency {
    /// The counts.
    histogram: Histogram<u64>,
}

/// Latencies of both sides.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// Operations on the source.
    pub source: SideLatency,
    /// Operations on the destination.
    pub dest: SideLatency,
}

impl Default for SideLatency {
    fn default() -> SideLatency {
        let histogram = Histogram::new_with_bounds(1, NANOS_MAX, DIGITS).expect("I4: bounds and size are constant");
        SideLatency { histogram }
    }
}

impl SideLatency {
    /// Counts one operation.
    pub fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(NANOS_MAX);
        self.histogram.saturating_record(nanos);
    }

    /// Operations counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Operations that took no longer than `bound`, to the precision of the histogram.
    pub fn count_up_to(&self, bound: Duration) -> u64 {
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(NANOS_MAX).min(NANOS_MAX);
        self.histogram.count_between(0, nanos)
    }

    /// The least time that an operation took, to the precision of the histogram; zero when there were none.
    pub fn quickest(&self) -> Duration {
        Duration::from_nanos(self.histogram.min())
    }

    /// Time of all operations together.
    pub fn total(&self) -> Duration {
        Duration::from_secs_f64(self.histogram.mean() * self.histogram.len() as f64 / 1e9)
    }

    /// The latency that `percent` of the operations did not exceed; zero when there were none.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_percentile(percent))
    }

    fn merge(&mut self, other: &SideLatency) {
        // Both have the same bounds, the only thing `add` could refuse.
        let merged = self.histogram.add(&other.histogram);
        debug_assert!(merged.is_ok());
    }
}

impl Latency {
    /// Adds another shard's counts, which begin again at nothing there.
    pub fn take_in(&mut self, other: &mut Latency) {
        self.merge(other);
        other.source.histogram.reset();
        other.dest.histogram.reset();
    }

    /// Adds another shard's counts.
    pub fn merge(&mut self, other: &Latency) {
        self.source.merge(&other.source);
        self.dest.merge(&other.dest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_merged_shards() {
        let (mut one, mut two) = (Latency::default(), Latency::default());
        for micros in 1..=50 {
            one.source.record(Duration::from_micros(micros));
            two.source.record(Duration::from_micros(micros + 50));
        }
        two.dest.record(Duration::from_secs(9_000));
        one.merge(&two);
        assert_eq!((one.source.count(), one.source.quickest()), (100, Duration::from_micros(1)));
        let within = |value: Duration, micros: f64| (value.as_nanos() as f64 / (micros * 1e3) - 1.0).abs() < 0.02;
        assert!(within(one.source.percentile(50.0), 50.0), "{:?}", one.source.percentile(50.0));
        assert!(within(one.source.percentile(99.0), 99.0), "{:?}", one.source.percentile(99.0));
        assert!(within(one.dest.percentile(50.0), 3.6e9), "{:?}", one.dest.percentile(50.0));
        assert_eq!(SideLatency::default().percentile(99.0), Duration::ZERO);
    }
}
