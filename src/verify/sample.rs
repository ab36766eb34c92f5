//! Samples: which files and blocks are read when not all are to be, and what that proves. Pure.
//!
//! Every unit (a file of up to a block, a block of a longer one) is drawn by itself with one probability, by a hash of
//! the run's seed, the inode and the block. Of `n` units drawn at random that are all right, each further share `p` of
//! wrong ones would have gone unnoticed with probability `(1 - p)^n`; the bound told is the `p` for which that is 5 %.

use crate::report::{Object, bytes};

/// What is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Of 100.
    percent: f64,
    /// Makes each run draw others.
    seed: u64,
}

impl Sample {
    /// Units with this probability, of 100.
    pub fn new(percent: f64, seed: u64) -> Sample {
        Sample { percent, seed }
    }

    /// Whether a unit is drawn.
    pub fn draws(&self, ino: u64, block: u64) -> bool {
        let hash = mix(mix(self.seed ^ ino) ^ block);
        // 53 bits are a fraction exactly.
        ((hash >> 11) as f64 / (1u64 << 53) as f64) * 100.0 < self.percent
    }
}

/// splitmix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What was really read of what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// What was asked for, of 100.
    pub percent: f64,
    /// Bytes that were compared.
    pub bytes_read: u64,
    /// Bytes there are.
    pub bytes: u64,
    /// Units that were compared.
    pub units_read: u64,
    /// Units there are.
    pub units: u64,
}

impl Sampled {
    /// With 95 % confidence, fewer units than this, of 100, differ, if none of those read does.
    pub fn bound_percent(&self) -> f64 {
        match self.units_read {
            read if read >= self.units => 0.0,
            0 => 100.0,
            read => (1.0 - 0.05f64.powf(1.0 / read as f64)) * 100.0,
        }
    }

    fn read_percent(&self) -> f64 {
        if self.bytes == 0 { 100.0 } else { self.bytes_read as f64 / self.bytes as f64 * 100.0 }
    }

    pub(super) fn text(&self) -> String {
        format!(
            "sample: {:.2} % of the content compared ({} of {}, {} of {} units, {} % asked for); if all of it is the \
             same, then with 95 % confidence fewer than {:.4} % of the units differ",
            self.read_percent(),
            bytes(self.bytes_read),
            bytes(self.bytes),
            self.units_read,
            self.units,
            self.percent,
            self.bound_percent()
        )
    }

    pub(super) fn json(&self) -> Object {
        let mut object = Object::default();
        object.fraction("percent_asked", self.percent);
        object.fraction("percent_read", self.read_percent());
        for (key, value) in [
            ("bytes_compared", self.bytes_read),
            ("bytes", self.bytes),
            ("units_compared", self.units_read),
            ("units", self.units),
        ] {
            object.number(key, value);
        }
        object.fraction("differ_below_percent_95", self.bound_percent());
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_draws_its_share_and_everything_at_100() {
        let share = |percent| {
            let sample = Sample::new(percent, 7);
            (0..100_000u64).filter(|unit| sample.draws(unit / 100, unit % 100)).count()
        };
        assert_eq!((share(0.0), share(100.0)), (0, 100_000));
        assert!((4_500..5_500).contains(&share(5.0)), "{}", share(5.0));
    }

    #[test]
    fn the_bound_is_the_rule_of_three() {
        let sampled = |units_read| Sampled { percent: 1.0, bytes_read: 0, bytes: 0, units_read, units: 1_000_000 };
        assert!((sampled(3_000).bound_percent() - 0.0998).abs() < 0.001);
        assert_eq!((sampled(0).bound_percent(), sampled(1_000_000).bound_percent()), (100.0, 0.0));
    }
}
