//! How long the next pass will take, from what the passes so far took. Pure.
//!
//! A pass looks at every entry and copies what changed, so it takes `walk * entries + copy * work`, where work is
//! the number of objects made or refreshed and one more for every 64 KiB of them. Both costs are fitted to the passes
//! by least squares of relative errors, the last pass counting as [`LAST_WEIGHT`] others; neither is negative.

use std::time::Duration;

/// Bytes that cost about as much as one more object: what is copied in the time that an object takes.
const BYTES_AN_OBJECT: f64 = 65_536.0;
/// How many earlier passes the last one outweighs: machines, networks and trees change.
const LAST_WEIGHT: f64 = 4.0;
/// Most passes that are remembered.
pub const PASSES_MAX: usize = 8;

/// What a pass came to that nothing interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Milliseconds from its start to its last commit.
    pub elapsed_ms: u64,
    /// Entries it looked at.
    pub entries: u64,
    /// Objects it made, removed or gave new metadata.
    pub changes: u64,
    /// Bytes it copied.
    pub bytes: u64,
}

/// What the next pass will take, if as much changes as before the last one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// To look at all entries.
    pub walk: Duration,
    /// To copy what changed.
    pub copy: Duration,
    /// The last pass: what the next is taken to be like.
    pub last: Pass,
}

impl Pass {
    /// Its work in objects.
    fn work(&self) -> f64 {
        self.changes as f64 + self.bytes as f64 / BYTES_AN_OBJECT
    }

    fn elapsed(&self) -> f64 {
        self.elapsed_ms.max(1) as f64 / 1000.0
    }
}

/// The forecast from `passes`, oldest first. The first pass alone does not tell the walk from the copy.
pub fn forecast(passes: &[Pass]) -> Option<Forecast> {
    let (last, earlier) = passes.split_last()?;
    if earlier.is_empty() {
        return None;
    }
    let (walk, copy) = fit(passes);
    let seconds = |secs: f64| Duration::try_from_secs_f64(secs).unwrap_or_default();
    Some(Forecast { walk: seconds(walk * last.entries as f64), copy: seconds(copy * last.work()), last: *last })
}

/// Seconds an entry and seconds a unit of work.
fn fit(passes: &[Pass]) -> (f64, f64) {
    let mut sums = [0.0; 5];
    for (index, pass) in passes.iter().enumerate() {
        let weight = if index + 1 == passes.len() { LAST_WEIGHT } else { 1.0 } / pass.elapsed().powi(2);
        let (entries, work) = (pass.entries as f64, pass.work());
        let terms = [entries * entries, entries * work, work * work, entries * pass.elapsed(), work * pass.elapsed()];
        sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += weight * term);
    }
    let [entries2, both, work2, entries_time, work_time] = sums;
    let determinant = entries2 * work2 - both * both;
    let walk = (entries_time * work2 - work_time * both) / determinant;
    let copy = (work_time * entries2 - entries_time * both) / determinant;
    match (walk >= 0.0, copy >= 0.0) {
        (true, true) if walk.is_finite() && copy.is_finite() => (walk, copy),
        (false, true) if work2 > 0.0 => (0.0, work_time / work2),
        _ if entries2 > 0.0 => (entries_time / entries2, 0.0),
        _ => (0.0, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass over 100,000 files of 20 KB of which `permille` changed, on a machine with these costs.
    fn pass(permille: u64, walk_us: f64, copy_us: f64) -> Pass {
        let (entries, changes) = (100_000, 100 * permille);
        let micros = entries as f64 * walk_us + changes as f64 * copy_us;
        Pass { elapsed_ms: (micros / 1000.0) as u64, entries, changes, bytes: changes * 20_000 }
    }

    fn seconds(forecast: &Forecast) -> f64 {
        (forecast.walk + forecast.copy).as_secs_f64()
    }

    #[test]
    fn one_pass_is_no_ground_for_a_forecast() {
        assert_eq!(forecast(&[]), None);
        assert_eq!(forecast(&[pass(1000, 3.0, 60.0)]), None);
    }

    #[test]
    fn the_next_pass_is_within_a_quarter_at_none_one_and_five_percent() {
        for permille in [0, 10, 50] {
            // The first pass makes everything anew, on other costs; the others differ by a tenth.
            let mut passes = vec![pass(1000, 4.0, 90.0), pass(20, 3.3, 65.0), pass(permille, 3.0, 60.0)];
            let told = seconds(&forecast(&passes).unwrap());
            let next = pass(permille, 2.7, 66.0).elapsed();
            assert!((told / next - 1.0).abs() < 0.25, "{permille}: {told} s, then it takes {next} s");
            passes.remove(1);
            let told = seconds(&forecast(&passes).unwrap());
            assert!((told / next - 1.0).abs() < 0.25, "{permille} with two passes: {told} s, then {next} s");
        }
    }

    #[test]
    fn walk_and_copy_are_told_apart_and_never_negative() {
        let told = forecast(&[pass(1000, 3.0, 60.0), pass(0, 3.0, 60.0), pass(50, 3.0, 60.0)]).unwrap();
        assert!((told.walk.as_secs_f64() / 0.3 - 1.0).abs() < 0.05, "{told:?}");
        assert!((told.copy.as_secs_f64() / 0.3 - 1.0).abs() < 0.05, "{told:?}");
        let odd = [[pass(1000, 0.0, 1.0), pass(10, 9.0, 0.0)], [pass(0, 9.0, 0.0), pass(1000, 1.0, 0.0)]];
        for passes in odd.iter().chain([&[Pass::default(); 2]]) {
            let told = forecast(passes).unwrap();
            let last = passes[1].elapsed();
            assert!(seconds(&told) <= 2.0 * last, "{told:?} after a pass of {last} s");
        }
    }
}
