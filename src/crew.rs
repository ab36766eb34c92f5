//! Who does the work of a run: what answers the operations, on how many threads, with how much memory.
//!
//! ```text
//! both sides local     a ring on each core: many operations in flight on one thread
//! no ring allowed      plain system calls on four threads a core
//! one side remote      plain system calls on a thread for every stream, each waiting for its own answers
//! ```
//!
//! Over a network or through a user-space daemon every operation takes milliseconds, and nearly all of a copy
//! (creating, describing, closing, setting times) are operations that a ring would only hand to kernel worker threads.
//! So there the streams themselves are threads. What they keep in memory and open is bounded over all of them (I4).

use crate::config::{
    ARENA_BYTES_MAX, BLOCK_BYTES_RANGE, Config, DIR_CACHE_PER_SHARD, DIR_CACHE_TOTAL, EngineChoice, FILE_DEPTH,
    SMALL_BYTES_MAX,
};
use crate::error::{Error, Result, escape};
use crate::filesystem::Reach;
use crate::ring::FixedBuffers;
use crate::ring::uring::Ring;
use crate::roots::Root;

/// Threads of plain system calls for each core, where answers come from this machine.
const THREADS_PER_CORE: usize = 4;
/// Least and most blocks of a ring's arena.
const BLOCKS_RANGE: std::ops::RangeInclusive<usize> = 4..=24;
/// Bytes of a small lease: most small files fit in one.
const SMALL_LEASE_BYTES: usize = 64 << 10;

/// What answers the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// One ring per shard.
    Uring,
    /// System calls on more shards.
    Sync,
}

/// Why there can be no ring; `None` if there can, or if none is wanted. Refuses a job that insists on one.
pub(crate) fn ring_refused(choice: EngineChoice) -> Result<Option<String>> {
    match choice {
        EngineChoice::Sync => Ok(None),
        EngineChoice::Auto => Ok(Ring::probe()),
        EngineChoice::Uring => match Ring::probe() {
            None => Ok(None),
            Some(why) => Err(Error::refused("--engine uring", why)),
        },
    }
}

/// The shards of a run.
#[derive(Clone, Debug)]
pub(crate) struct Crew {
    /// What answers.
    pub(crate) engine: Engine,
    /// How many shards.
    pub(crate) shards: usize,
    /// How far away the slower side is.
    pub(crate) reach: Reach,
    /// Why it is not the ring although that was preferred.
    pub(crate) reason: Option<String>,
}

impl Crew {
    /// Who works on `streams` streams; `refused` is why there can be no ring, `slow` a side where every operation takes
    /// milliseconds. A bucket is none: its lanes keep many requests in flight on one thread.
    pub(crate) fn choose(choice: EngineChoice, refused: Option<String>, slow: Option<&Root>, streams: u32) -> Crew {
        let reach = if slow.is_some() { Reach::Remote } else { Reach::Local };
        let why_slow = slow.map(|side| format!("{} is a network or FUSE mount", escape(&side.path)));
        let (engine, reason) = match choice {
            EngineChoice::Uring => (Engine::Uring, None),
            EngineChoice::Sync => (Engine::Sync, None),
            EngineChoice::Auto => match why_slow.or(refused) {
                Some(reason) => (Engine::Sync, Some(reason)),
                None => (Engine::Uring, None),
            },
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let wanted = match (engine, reach) {
            (Engine::Uring, _) => cores,
            (Engine::Sync, Reach::Local) => cores * THREADS_PER_CORE,
            (Engine::Sync, Reach::Remote) => streams as usize,
        };
        Crew { engine, shards: wanted.min(streams as usize).max(1), reach, reason }
    }

    /// Blocks of one large file in flight on one shard: a ring overlaps them, a thread of system calls does not.
    pub(crate) fn file_depth(&self) -> usize {
        match self.engine {
            Engine::Uring => FILE_DEPTH,
            Engine::Sync => 1,
        }
    }

    /// The job as this crew can do it: a thread of system calls holds one block at a time, and many of them smaller
    /// ones.
    pub(crate) fn fit(&self, config: &Config) -> Config {
        let room = ARENA_BYTES_MAX / self.shards;
        let block_bytes = match self.engine {
            Engine::Uring => config.block_bytes,
            Engine::Sync => config.block_bytes.min(1 << room.max(*BLOCK_BYTES_RANGE.start()).ilog2()),
        };
        Config { block_bytes, ..config.clone() }
    }

    /// The buffers of one shard, for blocks of `block_bytes` as [`Crew::fit`] has them. A file up to
    /// [`SMALL_BYTES_MAX`] that is larger than a block is copied as a large one.
    pub(crate) fn buffers(&self, block_bytes: usize) -> Result<FixedBuffers> {
        let least = match self.engine {
            Engine::Uring => *BLOCKS_RANGE.start(),
            Engine::Sync => 1,
        };
        let blocks = (ARENA_BYTES_MAX / self.shards / block_bytes).clamp(least, *BLOCKS_RANGE.end());
        FixedBuffers::new(blocks, block_bytes, SMALL_LEASE_BYTES.min(block_bytes).min(SMALL_BYTES_MAX))
    }

    /// Open directories each shard may keep at hand: what is left of half the descriptors the process may have
    /// (`limit`), when the checkpoints have theirs.
    pub(crate) fn cached_dirs(&self, limit: u64) -> usize {
        let pairs = usize::try_from(limit / 4).unwrap_or(usize::MAX) / (self.shards + 1);
        pairs.min(DIR_CACHE_TOTAL / self.shards).clamp(4, DIR_CACHE_PER_SHARD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{STREAMS_DEFAULT, STREAMS_MAX};

    fn crew(engine: Engine, shards: usize) -> Crew {
        Crew { engine, shards, reach: Reach::Remote, reason: None }
    }

    #[test]
    fn any_number_of_threads_shares_one_bound_of_memory_and_can_hold_a_block() {
        for shards in [1, 2, 3, 8, STREAMS_DEFAULT as usize, 100, 127, 1000, STREAMS_MAX as usize] {
            for asked in [4096, 12288, 1 << 20, 64 << 20] {
                let crew = crew(Engine::Sync, shards);
                let room = ARENA_BYTES_MAX / shards;
                let block = asked.min(1 << room.ilog2());
                let mut buffers = crew.buffers(block).unwrap();
                let total = buffers.arena().len() * shards;
                assert!(total <= ARENA_BYTES_MAX, "{shards} threads with blocks of {asked}: {total} bytes");
                let lease = buffers.acquire(block.min(SMALL_BYTES_MAX)).unwrap();
                assert!(lease.capacity() >= block.min(SMALL_BYTES_MAX));
                buffers.release(lease);
            }
        }
    }

    #[test]
    fn directories_kept_open_stay_within_the_descriptors_there_are() {
        for (shards, limit) in [(2, 1024), (8, 1024), (2, 1 << 20), (64, 1 << 20), (1024, 1 << 20)] {
            let cached = crew(Engine::Sync, shards).cached_dirs(limit);
            assert!(2 * cached * shards <= limit as usize / 2 || cached == 4, "{cached} for each of {shards}");
            assert!(cached * shards <= DIR_CACHE_TOTAL);
        }
    }
}
