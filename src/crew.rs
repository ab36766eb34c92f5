//! Who does the work of a run: what answers the operations, on how many threads, with how much memory.
//!
//! ```text
//! both sides local     a ring on each core: many operations in flight on one thread
//! no ring allowed      plain system calls on four threads a core
//! one side remote      plain system calls on a thread for every stream, each waiting for its own answers
//! remote mount below   the same
//! ```
//!
//! Over a network or through a user-space daemon every operation takes milliseconds, and nearly all of a copy
//! (creating, describing, closing, setting times) are operations that a ring would only hand to kernel worker threads.
//! So there the streams themselves are threads; also where only a part of a local tree is such a mount: 1,024 small
//! files at 5 ms an operation and 64 streams take 2.9 s, and 20.3 s by the rings of two cores, while 20,000 local ones
//! take no longer (2.1 s against 2.2 s). What they keep in memory and open is bounded over all of them (I4).

use crate::config::{
    ARENA_BYTES_MAX, BLOCK_BYTES_RANGE, Config, DIR_CACHE_PER_SHARD, DIR_CACHE_TOTAL, EngineChoice, SMALL_BYTES_MAX,
};
use crate::error::{Error, Result, escape};
use crate::filesystem::Reach;
use crate::ring::FixedBuffers;
use crate::ring::uring::Ring;

/// Threads of plain system calls for each core, where answers come from this machine.
const THREADS_PER_CORE: usize = 4;
/// Least and most blocks of a ring's arena, unless a file alone takes more.
const BLOCKS_RANGE: std::ops::RangeInclusive<usize> = 4..=24;
/// Least bytes of buffers of a thread that is started when the streams are raised on a slow mount.
const ROOM_LEAST: usize = 64 << 10;
/// Most threads that a checkpoint seals on, unless the job began with more.
const SEALERS_MAX: usize = 64;
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
    /// How many shards there are at first.
    pub(crate) shards: usize,
    /// How many there can be, when the streams are raised.
    pub(crate) slots: usize,
    /// How far away the slower side is.
    pub(crate) reach: Reach,
    /// Why it is not the ring although that was preferred.
    pub(crate) reason: Option<String>,
}

/// What a crew is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// To read most of what is there.
    Whole,
    /// To look for what is new. Describing names is a plain system call on the spot, and waits for the disk: twice as
    /// many threads as cores keep both busy (100,000 unchanged files, cold, on 2 cores: 0.62 s with 2, 0.54 s with 4).
    Repeat,
}

impl Crew {
    /// Who works on `streams` streams; `refused` is why there can be no ring, `slow` a path where every operation takes
    /// milliseconds. A bucket is none: its lanes keep many requests in flight on one thread.
    pub(crate) fn choose(
        choice: EngineChoice,
        refused: Option<String>,
        slow: Option<&[u8]>,
        (streams, pass): (u32, Pass),
    ) -> Crew {
        let reach = if slow.is_some() { Reach::Remote } else { Reach::Local };
        let why_slow = slow.map(|side| format!("{} is a network or FUSE mount", escape(side)));
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
            (Engine::Uring, _) if pass == Pass::Repeat => cores * 2,
            (Engine::Uring, _) => cores,
            (Engine::Sync, Reach::Local) => cores * THREADS_PER_CORE,
            (Engine::Sync, Reach::Remote) => streams as usize,
        };
        let shards = wanted.min(streams as usize).max(1);
        Crew { engine, shards, slots: shards, reach, reason }
    }

    /// The same crew with places for the threads of up to `streams_max` streams.
    pub(crate) fn growing(self, streams_max: u32) -> Crew {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = match (self.engine, self.reach) {
            (Engine::Uring, _) => cores,
            (Engine::Sync, Reach::Local) => cores * THREADS_PER_CORE,
            (Engine::Sync, Reach::Remote) => streams_max as usize,
        };
        Crew { slots: slots.max(self.shards), ..self }
    }

    /// Threads that `streams` streams need.
    pub(crate) fn threads_for(&self, streams: u32) -> usize {
        self.slots.min(streams as usize).max(1)
    }

    /// Whether threads end when the streams are lowered: where each stream is a thread, and so threads are many.
    pub(crate) fn shrinks(&self) -> bool {
        self.engine == Engine::Sync && self.reach == Reach::Remote
    }

    /// Threads that a checkpoint seals on at most.
    pub(crate) fn sealers(&self) -> usize {
        self.slots.min(SEALERS_MAX).max(self.shards)
    }

    /// Bytes of buffers of each of the first threads.
    fn room(&self) -> usize {
        match self.shrinks() {
            true => (ARENA_BYTES_MAX - ROOM_LEAST * (self.slots - self.shards)) / self.shards,
            false => ARENA_BYTES_MAX / self.shards,
        }
    }

    /// Blocks of one large file in flight on one shard: a ring overlaps them, a thread of system calls does not.
    pub(crate) fn file_depth(&self, config: &Config) -> usize {
        match self.engine {
            Engine::Uring => config.file_depth,
            Engine::Sync => 1,
        }
    }

    /// The job as this crew can do it: a thread of system calls holds one block at a time, and many of them smaller
    /// ones.
    pub(crate) fn fit(&self, config: &Config) -> Config {
        let block_bytes = match self.engine {
            Engine::Uring => config.block_bytes,
            Engine::Sync => config.block_bytes.min(1 << self.room().max(*BLOCK_BYTES_RANGE.start()).ilog2()),
        };
        Config { block_bytes, ..config.clone() }
    }

    /// The buffers of a thread for a job as [`Crew::fit`] has it, where `running` others together have `given` bytes. A
    /// file up to [`SMALL_BYTES_MAX`] that is larger than a block is copied as a large one.
    pub(crate) fn buffers_for(&self, running: usize, given: usize, config: &Config) -> Result<FixedBuffers> {
        let block_bytes = config.block_bytes;
        if !self.shrinks() {
            let room = if running < self.shards { self.room() } else { ARENA_BYTES_MAX / self.slots };
            // Half as many again as one file takes: the next one begins while it ends.
            let most = (config.file_depth + config.file_depth / 2).max(*BLOCKS_RANGE.end());
            return self.buffers(room, block_bytes, most);
        }
        if running < self.shards && given == running * block_bytes {
            return self.buffers(block_bytes, block_bytes, 1);
        }
        // Of what is left when each that may still come has the least, a part: the next ones get theirs.
        let free = ARENA_BYTES_MAX.saturating_sub(given + ROOM_LEAST * self.slots.saturating_sub(running + 1));
        let room = (free / 16).max(ROOM_LEAST).min(free.max(*BLOCK_BYTES_RANGE.start()));
        let block_bytes = block_bytes.min(1 << room.ilog2());
        self.buffers(block_bytes, block_bytes, 1)
    }

    fn buffers(&self, room: usize, block_bytes: usize, most: usize) -> Result<FixedBuffers> {
        let least = match self.engine {
            Engine::Uring => *BLOCKS_RANGE.start(),
            Engine::Sync => 1,
        };
        let blocks = (room / block_bytes).clamp(least, most.max(least));
        FixedBuffers::new(blocks, block_bytes, SMALL_LEASE_BYTES.min(block_bytes).min(SMALL_BYTES_MAX))
    }

    /// Open directories each shard may keep at hand: what is left of half the descriptors the process may have
    /// (`limit`), when the checkpoints have theirs.
    pub(crate) fn cached_dirs(&self, limit: u64) -> usize {
        let threads = self.shards.max(self.sealers());
        let pairs = usize::try_from(limit / 4).unwrap_or(usize::MAX) / (threads + 1);
        pairs.min(DIR_CACHE_TOTAL / threads).clamp(4, DIR_CACHE_PER_SHARD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FILE_DEPTH, FILE_DEPTH_RANGE, STREAMS_DEFAULT, STREAMS_MAX};
    use crate::location::Location;

    fn config(block_bytes: usize, file_depth: usize) -> Config {
        let place = || Location::Posix("/x".into());
        Config { block_bytes, file_depth, ..Config::new(place(), place(), "s".into()) }
    }

    fn crew(engine: Engine, shards: usize, slots: usize) -> Crew {
        Crew { engine, shards, slots, reach: Reach::Remote, reason: None }
    }

    #[test]
    fn any_number_of_threads_shares_one_bound_of_memory_and_can_hold_a_block() {
        for first in [1, 2, 3, 8, STREAMS_DEFAULT as usize, 100, 127, 1000, STREAMS_MAX as usize] {
            for asked in [4096, 12288, 1 << 20, 64 << 20] {
                let crew = crew(Engine::Sync, first, STREAMS_MAX as usize);
                let block = asked.min(1 << crew.room().ilog2());
                let (mut given, mut sizes) = (0, Vec::new());
                // All start, most end, all start again.
                for running in (0..crew.slots).chain(first / 2..crew.slots) {
                    given -= sizes.drain(running.min(sizes.len())..).sum::<usize>();
                    let mut buffers = crew.buffers_for(running, given, &config(block, FILE_DEPTH)).unwrap();
                    sizes.push(buffers.arena().len());
                    given += buffers.arena().len();
                    assert!(given <= ARENA_BYTES_MAX, "{first} threads first, blocks of {asked}: {given} bytes");
                    let lease = buffers.acquire(buffers.block_bytes().min(SMALL_BYTES_MAX)).unwrap();
                    assert!(lease.capacity() >= asked.min(ROOM_LEAST));
                    buffers.release(lease);
                }
            }
        }
        let crew = crew(Engine::Sync, 32, STREAMS_MAX as usize);
        let later = crew.buffers_for(40, 40 << 20, &config(1 << 20, FILE_DEPTH)).unwrap();
        assert_eq!(later.block_bytes(), 1 << 20, "there is room for more");
    }

    #[test]
    fn a_ring_has_blocks_for_the_depth_of_a_file_within_the_bound() {
        for shards in [1, 2, 8, 64] {
            let crew = Crew { reach: Reach::Local, ..crew(Engine::Uring, shards, shards) };
            let blocks = |depth, block| crew.buffers_for(0, 0, &config(block, depth)).unwrap().arena().len() / block;
            for depth in [1, FILE_DEPTH, 64, *FILE_DEPTH_RANGE.end()] {
                let found = blocks(depth, 64 << 10);
                let most = ARENA_BYTES_MAX / shards / (64 << 10);
                assert_eq!(found, (depth + depth / 2).max(*BLOCKS_RANGE.end()).min(most), "{depth} on {shards}");
                assert!(blocks(depth, 4 << 20) * (4 << 20) <= (ARENA_BYTES_MAX / shards).max(16 << 20));
            }
        }
    }

    #[test]
    fn directories_kept_open_stay_within_the_descriptors_there_are() {
        for (shards, limit) in [(2, 1024), (8, 1024), (2, 1 << 20), (64, 1 << 20), (1024, 1 << 20)] {
            let cached = crew(Engine::Sync, shards, shards).cached_dirs(limit);
            assert!(2 * cached * shards <= limit as usize / 2 || cached == 4, "{cached} for each of {shards}");
            assert!(cached * shards <= DIR_CACHE_TOTAL);
        }
    }
}
