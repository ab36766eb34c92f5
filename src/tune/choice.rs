//! Which of several settings is best, from runs that were measured in turns. Pure.
//!
//! Storage is noisy: a snapshot somewhere, a neighbour, a cache that fills. So each round measures every candidate
//! once, and what counts is how a candidate did against the present settings in the same round; the median of
//! these ratios decides, and only if it is better by more than a least gain, by more than the ratios scatter, and in
//! three rounds of four, of [`ROUNDS_MIN`] at least.

/// A candidate must be this much faster before it takes the place of the present settings.
pub(super) const GAIN_MIN: f64 = 0.05;
/// What has won before must be this much faster in the proof: the gain has shown twice then, and what is left out for
/// want of a proof is lost (measured: 4 to 6 % between a sweep's best and the defaults).
pub(super) const PROOF_MIN: f64 = 0.02;
/// Fewer rounds than this prove nothing.
const ROUNDS_MIN: usize = 3;
/// A ratio counts for no more than this, and no less than one over it: a run that failed says nothing in numbers.
const RATIO_MAX: f64 = 100.0;

/// What one kind of files says.
#[derive(Clone, Debug)]
pub(super) struct Vote {
    /// How much it counts, from 0 to 1.
    pub weight: f64,
    /// The rate of each candidate in each round, the present settings first.
    pub rates: Vec<Vec<f64>>,
}

/// The middle value; the mean of both middle ones; zero of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (len, half) if len % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// How far values scatter: the median of their distances from the median, as a share of it.
pub(super) fn scatter(values: &[f64]) -> f64 {
    let middle = median(values);
    let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    if middle > 0.0 { median(&distances) / middle } else { 0.0 }
}

/// How much faster a candidate is than the present settings: the median over the rounds, less one.
pub(super) fn gain(own: &[f64], present: &[f64]) -> f64 {
    median(&own.iter().zip(present).map(|(&own, &present)| ratio(own, present)).collect::<Vec<_>>()) - 1.0
}

/// The best candidate, as all kinds of files together have it; the first, which is the present settings, unless another
/// one is clearly better, by `gain_min` at least.
pub(super) fn choose(votes: &[Vote], gain_min: f64) -> usize {
    let candidates = votes.iter().map(|vote| vote.rates.len()).min().unwrap_or(0);
    let judged = (1..candidates).map(|candidate| (candidate, joint_ratios(votes, candidate)));
    let clear = judged.filter(|(_, ratios)| {
        let gain = median(ratios) - 1.0;
        let wins = ratios.iter().filter(|&&ratio| ratio > 1.0).count();
        // Three rounds in four: half of them are won by chance.
        let is_regular = ratios.len() >= ROUNDS_MIN && 4 * wins >= 3 * ratios.len();
        is_regular && gain > gain_min && gain > scatter(ratios)
    });
    let best = clear.max_by(|(_, a), (_, b)| median(a).total_cmp(&median(b)));
    best.map_or(0, |(candidate, _)| candidate)
}

/// A candidate against the present settings, round by round: the geometric mean over the kinds, by their weights.
fn joint_ratios(votes: &[Vote], candidate: usize) -> Vec<f64> {
    let weights: f64 = votes.iter().map(|vote| vote.weight).sum();
    let rounds = votes.iter().map(|vote| vote.rates[candidate].len().min(vote.rates[0].len())).min().unwrap_or(0);
    let joint = |round: usize| {
        let logs =
            votes.iter().map(|vote| vote.weight * ratio(vote.rates[candidate][round], vote.rates[0][round]).ln());
        if weights > 0.0 { (logs.sum::<f64>() / weights).exp() } else { 1.0 }
    };
    (0..rounds).map(joint).collect()
}

fn ratio(own: f64, present: f64) -> f64 {
    match (own > 0.0, present > 0.0) {
        (false, false) => 1.0,
        (true, false) => RATIO_MAX,
        _ => (own / present).clamp(1.0 / RATIO_MAX, RATIO_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(weight: f64, rates: &[&[f64]]) -> Vote {
        Vote { weight, rates: rates.iter().map(|rates| rates.to_vec()).collect() }
    }

    #[test]
    fn medians_and_what_scatters_around_them() {
        assert_eq!([median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[])], [2.0, 2.5, 0.0]);
        assert_eq!([scatter(&[9.0, 10.0, 12.0]), scatter(&[0.0]), scatter(&[])], [0.1, 0.0, 0.0]);
    }

    #[test]
    fn a_clear_gain_wins_and_a_small_or_doubtful_one_does_not() {
        let present: &[f64] = &[100.0, 100.0, 100.0];
        assert_eq!(choose(&[vote(1.0, &[present, &[104.0, 104.0, 104.0]])], GAIN_MIN), 0, "below the least gain");
        assert_eq!(choose(&[vote(1.0, &[present, &[104.0, 104.0, 104.0]])], PROOF_MIN), 1, "it has shown before");
        assert_eq!(choose(&[vote(1.0, &[present, &[101.0, 101.0, 101.0]])], PROOF_MIN), 0);
        assert_eq!(choose(&[vote(1.0, &[present, &[107.0, 106.0, 108.0], &[120.0, 119.0, 121.0]])], GAIN_MIN), 2);
        assert_eq!(
            choose(&[vote(1.0, &[present, &[106.0, 40.0, 170.0]])], GAIN_MIN),
            0,
            "it scatters more than it gains"
        );
        assert_eq!(choose(&[vote(1.0, &[present, &[300.0, 300.0]])], GAIN_MIN), 0, "two rounds are too few");
        let long: &[f64] = &[100.0; 5];
        assert_eq!(
            choose(&[vote(1.0, &[long, &[120.0, 110.0, 120.0, 90.0, 99.0]])], GAIN_MIN),
            0,
            "it lost two rounds of five"
        );
        assert_eq!(choose(&[vote(1.0, &[present])], GAIN_MIN), 0);
        assert_eq!(choose(&[], GAIN_MIN), 0);
    }

    #[test]
    fn a_drift_of_the_storage_is_no_gain() {
        // Everything gets slower by half from round to round; the candidate is a tenth faster in each.
        let rates: [&[f64]; 2] = [&[400.0, 200.0, 100.0], &[440.0, 220.0, 110.0]];
        assert_eq!(choose(&[vote(1.0, &rates)], GAIN_MIN), 1);
        assert!((gain(rates[1], rates[0]) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn kinds_of_files_vote_by_weight() {
        let small: [&[f64]; 2] = [&[10.0; 3], &[20.0; 3]];
        let large: [&[f64]; 2] = [&[10.0; 3], &[4.0; 3]];
        assert_eq!(choose(&[vote(1.0, &small), vote(0.0, &large)], GAIN_MIN), 1);
        assert_eq!(
            choose(&[vote(1.0, &small), vote(1.0, &large)], GAIN_MIN),
            0,
            "twice as fast and less than half as fast"
        );
        assert_eq!(choose(&[vote(0.0, &small)], GAIN_MIN), 0);
    }

    #[test]
    fn runs_that_copied_nothing_are_no_numbers() {
        assert_eq!(choose(&[vote(1.0, &[&[0.0, 5.0, 5.0], &[0.0, 0.0, 0.0]])], GAIN_MIN), 0);
        assert_eq!(choose(&[vote(1.0, &[&[0.0, 0.0, 0.0], &[1.0, 1.0, 1.0]])], GAIN_MIN), 1);
    }
}
