//! What the integration tests stand on: file systems, trees, an independent comparison, and the binary under test.
//!
//! Each test file declares `mod support;` and uses the part it needs. Randomness comes from a [`Rng`] whose seed is
//! printed; `GFAST_SEED=n` repeats a run. A test that cannot run here says so on the real stderr and returns
//! ([`fixture::can_mount`]); with `GFAST_NO_SKIP=1` it fails instead.
#![allow(dead_code, unused_imports, reason = "every test file is a crate of its own and uses a part of this module")]

pub mod block;
pub mod compare;
pub mod described;
pub mod fault;
pub mod fixture;
pub mod habit;
pub mod halt;
pub mod lease;
pub mod mutate;
pub mod network;
pub mod passthrough;
pub mod run;
pub mod s3;
pub mod scripted;
pub mod slow;
pub mod tree;
pub mod xattrs;

pub use compare::Comparison;
pub use fixture::{Kind, Mount, Scratch};
pub use network::{Network, NetworkMount};
pub use run::{Engine, Job, Outcome, Running};
pub use slow::SlowMount;

/// A seeded generator (splitmix64): the same seed gives the same tree and the same kill moments.
#[derive(Clone, Debug)]
pub struct Rng {
    /// The state; every step adds an odd constant, so the period is 2^64.
    state: u64,
}

impl Rng {
    /// A generator that starts from `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; `bound` must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Fills `bytes` with noise.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// The seed of this test: `GFAST_SEED`, else `default`. Printed, so that a failure can be repeated.
pub fn seed(test: &str, default: u64) -> u64 {
    let seed = number("GFAST_SEED", default);
    println!("{test}: GFAST_SEED={seed}");
    seed
}

/// A count that the soak raises through the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => default,
    }
}
