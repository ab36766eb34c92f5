//! Where operations are answered: the ring, system calls, helper threads and, in tests, the simulator.
//!
//! A shard owns one [`Interpreter`]. It asks an [`Op`]; what can be answered on the spot comes straight back, the
//! rest is reaped by [`Interpreter::wait`]. Straight-line work (create, describe, rename, seal) goes through a
//! [`Caller`]. Nothing that is in flight is ever dropped: an interpreter is given up only when
//! [`Interpreter::in_flight`] is 0 (I3).

pub mod buffers;
pub(crate) mod loops;
pub mod op;
pub(crate) mod refusal;
#[cfg(test)]
pub mod sim;
pub mod syscalls;
pub mod uring;
mod xattrs;

use std::time::Duration;

pub use buffers::{Arena, FixedBuffers, LEASE_ALIGN, Lease, populate};
pub use op::{Access, Answer, Completion, Handle, Kind, Name, Op, Side, Stat, Time, WritePath};

/// What came of asking an operation.
#[derive(Debug)]
#[must_use = "an answer on the spot carries the operation's memory"]
pub enum Asked {
    /// It is answered already.
    Answered(Completion),
    /// It is under way; its [`Completion`] comes from [`Interpreter::wait`].
    Pending,
}

/// Answers one operation on the calling thread, blocking: what everything uses that is not worth a ring (design: all
/// metadata). Shared by shards, helper threads and checkpoints. In production plain system calls, in tests the
/// simulator.
pub trait Caller: Send + Sync {
    /// Answers `op`; its memory stays with the caller.
    fn call(&self, side: Side, op: &mut Op) -> Result<Answer, crate::error::Errno>;
}

/// Answers operations. In production: the ring, and plain system calls.
pub trait Interpreter {
    /// Starts `op`, which talks to `side`; `token` comes back in its completion.
    fn ask(&mut self, token: u32, side: Side, op: Op) -> Asked;

    /// Appends the completions that are there to `completions`, waiting up to `timeout` for at least `want` of them
    /// (not at all with `want` 0). Fewer may come; more may too.
    fn wait(&mut self, want: usize, timeout: Duration, completions: &mut Vec<Completion>);

    /// Operations asked and not yet reaped.
    fn in_flight(&self) -> usize;
}
