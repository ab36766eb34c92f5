//! The simulator: the third interpreter of [`Op`], for tests. One seed is one run, and a run is one seed.
//!
//! ```text
//!   Sim (queue, arena) --+
//!   Sim (queue, arena) --+--> World: source Disk, dest Disk, open handles, faults, one stream of chance
//!   Sim (queue, arena) --+           live | durable
//! ```
//!
//! Every operation gets the answer Linux would give (`model.rs` compares the two), except where [`Faults`] says
//! otherwise. Reads and writes always go pending, others at times; completions come in any order. What is pending is
//! executed when it is asked or when it is reaped, as chance has it: so a sync that is under way covers what came
//! before it, and sometimes what comes after, but never has to. From the crash on everything answers EIO and nothing is
//! executed; `Disk::crash` then tells what a power cut left.
//!
//! Breaking an invariant is a panic, not an errno: changing the source (I6), a name of several components (I8), a
//! handle of the wrong side, an interpreter dropped with operations in flight (I3).

mod answer;
mod content;
mod crash;
mod disk;
mod faults;
mod model;
mod random;
mod tests;
mod tree;
mod world;
mod xattrs;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use content::{BLOCK_BYTES, Content};
pub use disk::{CLOCK_START_SECS, Disk};
pub use faults::{Change, Failure, Faults, Mutation, Target, Verb};
pub use random::Random;
pub use tree::{Dump, Entry, EntryKind, Shape};
use world::World;

use super::{Answer, Arena, Asked, Caller, Completion, Handle, Interpreter, Op, Side, Time};
use crate::error::Errno;

/// An interpreter on a simulated machine.
#[derive(Debug)]
pub struct Sim {
    /// What all interpreters of the run share.
    world: Arc<Mutex<World>>,
    /// Where the leases of this one's operations lie.
    arena: Arc<Arena>,
    /// Asked and not reaped.
    pending: Vec<Pending>,
}

/// An operation under way.
#[derive(Debug)]
struct Pending {
    /// Whose it is.
    token: u32,
    /// The side it talks to.
    side: Side,
    /// The operation.
    op: Op,
    /// Its answer, if it is executed already.
    result: Option<Result<Answer, Errno>>,
}

impl Sim {
    /// A machine with these two file systems; `seed` decides all that `faults` leaves open.
    pub fn new(seed: u64, faults: Faults, source: Disk, dest: Disk, arena: Arc<Arena>) -> Sim {
        println!("simulator: seed {seed}, {faults:?}");
        let world = World::new(seed, faults, source, dest);
        Sim { world: Arc::new(Mutex::new(world)), arena, pending: Vec::new() }
    }

    /// A further interpreter on the same machine, with its own queue and arena.
    pub fn share(&self, arena: Arc<Arena>) -> Sim {
        Sim { world: self.world.clone(), arena, pending: Vec::new() }
    }

    /// A handle on the root of one side.
    pub fn root(&self, side: Side) -> Handle {
        self.world.lock().root(side)
    }

    /// Whether the power is gone.
    pub fn crashed(&self) -> bool {
        self.world.lock().crashed
    }

    /// Operations executed so far: the range of [`Faults::crash_at`].
    pub fn ops(&self) -> u64 {
        self.world.lock().ops
    }

    /// The simulated time.
    pub fn now(&self) -> Time {
        self.world.lock().disks[1].now()
    }

    /// The source as it was before each of its changes, oldest first.
    pub fn former_sources(&self) -> Vec<Disk> {
        self.world.lock().former_sources.clone()
    }

    /// Looks at or changes a disk while the run goes on.
    pub fn with_disk<T>(&self, side: Side, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(self.world.lock().disk(side))
    }

    /// The file systems as the kernel shows them now, source and destination; after a crash, `Disk::crash` them.
    pub fn into_disks(self) -> (Disk, Disk) {
        let [source, dest] = self.world.lock().disks.clone();
        (source, dest)
    }
}

impl Interpreter for Sim {
    fn ask(&mut self, token: u32, side: Side, mut op: Op) -> Asked {
        let mut world = self.world.lock();
        let is_transfer = matches!(op, Op::Read { .. } | Op::Write { .. } | Op::ReadWhole { .. });
        let late_permille = world.faults.late_permille;
        if world.crashed || !(is_transfer || world.random.chance(late_permille)) {
            let result = world.execute(side, &mut op, &self.arena);
            return Asked::Answered(Completion { token, op, result });
        }
        let result = world.random.chance(500).then(|| world.execute(side, &mut op, &self.arena));
        self.pending.push(Pending { token, side, op, result });
        Asked::Pending
    }

    fn wait(&mut self, want: usize, _timeout: Duration, completions: &mut Vec<Completion>) {
        let mut world = self.world.lock();
        let least = want.min(1).min(self.pending.len());
        let mut count = least + world.random.index(self.pending.len() - least + 1);
        while count > 0 || (world.crashed && !self.pending.is_empty()) {
            let Pending { token, side, mut op, result } =
                self.pending.swap_remove(world.random.index(self.pending.len()));
            let result = result.unwrap_or_else(|| world.execute(side, &mut op, &self.arena));
            let result = if world.crashed { Err(Errno::IO) } else { result };
            completions.push(Completion { token, op, result });
            count = count.saturating_sub(1);
        }
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }
}

/// Answers at once: what a thread that blocks in a system call sees. As in production, a call that was interrupted is
/// made again. Ends: chance does not interrupt forever.
impl Caller for Sim {
    fn call(&self, side: Side, op: &mut Op) -> Result<Answer, Errno> {
        loop {
            match self.world.lock().execute(side, op, &self.arena) {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                result => return result,
            }
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.pending.is_empty(), "I3: dropped with {:?} in flight", self.pending);
    }
}
