//! One shard's part in a large file: chunks claimed, blocks read and written in depth.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Goal, LargeFile};
use crate::catalog::Range;
use crate::digest::{Assembly, crc64};
use crate::error::{Errno, Result};
use crate::gate::RateLimits;
use crate::job::Job;
use crate::provider::posix::Posix;
use crate::ring::{Answer, Arena, Caller, Completion, FixedBuffers, Handle, Lease, Op, Side, WritePath};
use crate::transfer::{Ending, ending_of, source_error};

/// A claimed chunk.
#[derive(Debug)]
struct Chunk {
    /// First byte.
    start: u64,
    /// One past the last byte.
    end: u64,
    /// First byte not asked for yet.
    cursor: u64,
    /// End of the run of data that `cursor` is in.
    data_end: u64,
    /// Blocks in flight.
    in_flight: u32,
    /// Bytes written.
    bytes: u64,
    /// Checksums of its blocks; what lies between them are zeros.
    assembly: Assembly,
}

impl Chunk {
    fn is_issued(&self) -> bool {
        self.cursor >= self.end
    }
}

/// Whether a task may ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As much as its depth and the leases allow.
    Allowed,
    /// Not before a checkpoint has passed: enough is written that is not durable.
    Paused,
}

/// What a task wants next.
#[derive(Debug)]
pub enum Turn {
    /// Ask this; more may be wanted at once.
    Ask(Side, Op),
    /// Nothing until a completion comes.
    Wait,
    /// Nothing until a lease is free, or a checkpoint has passed.
    Starved,
    /// Nothing until its stream may go on.
    Parked,
    /// Nothing for so long: the limits of bytes or operations are used up.
    Held(Duration),
    /// This chunk is written: bytes of it that were copied, and its range.
    Written(u64, Range),
    /// This shard's part is over. True for the one who must call [`LargeFile::finish`].
    Left(bool),
}

/// One shard's part in a large file.
#[derive(Debug)]
pub struct LargeTask {
    /// The file.
    pub file: Arc<LargeFile>,
    /// What blocks are written to.
    dest: Option<Handle>,
    /// Chunks with blocks not yet written, oldest first.
    chunks: Vec<Chunk>,
    /// Blocks in flight.
    in_flight: usize,
    /// Whether anything more may be claimed.
    is_exhausted: bool,
}

impl LargeTask {
    /// The part of the shard that opened the file.
    pub fn first(file: Arc<LargeFile>) -> LargeTask {
        let dest = file.dest.lock().clone();
        LargeTask { file, dest, chunks: Vec::new(), in_flight: 0, is_exhausted: false }
    }

    /// The part of a shard that helps; `None` when there is nothing left to help with.
    pub fn helper(file: Arc<LargeFile>) -> Option<LargeTask> {
        file.join().then(|| LargeTask::first(file))
    }

    /// What to do next, when no completion is at hand.
    pub fn turn(&mut self, job: &Job, caller: &dyn Caller, buffers: &mut FixedBuffers, reading: Reading) -> Turn {
        if let Some((bytes, range)) = self.settle() {
            return Turn::Written(bytes, range);
        }
        if job.walker.is_stopped() || self.file.is_troubled() {
            return self.wind_down();
        }
        if self.in_flight >= job.file_depth {
            return Turn::Wait;
        }
        if reading == Reading::Paused {
            return Turn::Starved;
        }
        if self.file.stream.rests(&job.gate) {
            return Turn::Parked;
        }
        match self.next_block(job, caller, buffers.block_bytes()) {
            Ok(Some((offset, len))) => self.read(&job.gate.limits, offset, len, buffers),
            Ok(None) if self.settled_chunk().is_some() => self.turn(job, caller, buffers, reading),
            Ok(None) if self.in_flight > 0 => Turn::Wait,
            Ok(None) => self.leave(),
            Err(error) => {
                self.file.fail(ending_of(error));
                self.wind_down()
            }
        }
    }

    /// Asks for nothing more; leaves when nothing is in flight.
    fn wind_down(&mut self) -> Turn {
        self.is_exhausted = true;
        match self.in_flight {
            0 => self.leave(),
            _ => Turn::Wait,
        }
    }

    fn leave(&mut self) -> Turn {
        self.dest = None;
        Turn::Left(self.file.leave())
    }

    /// The next block to read, as offset and length in bytes; `None` when all is asked for.
    fn next_block(&mut self, job: &Job, caller: &dyn Caller, room: usize) -> Result<Option<(u64, u64)>> {
        let block_bytes = job.config.block_bytes.min(room) as u64;
        loop {
            let file = self.file.clone();
            let Some(chunk) = self.chunks.last_mut().filter(|chunk| !chunk.is_issued()) else {
                if self.is_exhausted || self.settled_chunk().is_some() {
                    return Ok(None);
                }
                match file.claim() {
                    Some((start, end)) => {
                        let data_end = if file.is_sparse { start } else { end };
                        let assembly = Assembly::default();
                        self.chunks.push(Chunk {
                            start,
                            end,
                            cursor: start,
                            data_end,
                            in_flight: 0,
                            bytes: 0,
                            assembly,
                        });
                    }
                    None => self.is_exhausted = true,
                }
                continue;
            };
            if chunk.cursor >= chunk.data_end {
                seek_data(&file, job, caller, chunk)?;
            }
            if chunk.is_issued() {
                continue;
            }
            let offset = chunk.cursor;
            let len = block_bytes.min(chunk.data_end - offset);
            chunk.cursor += len;
            chunk.in_flight += 1;
            if chunk.cursor >= chunk.data_end && chunk.data_end >= chunk.end {
                chunk.cursor = chunk.end;
            }
            return Ok(Some((offset, len)));
        }
    }

    /// Asks for a block; gives it back to its chunk if there is no lease, or it would be too much for this moment.
    fn read(&mut self, limits: &RateLimits, offset: u64, len: u64, buffers: &mut FixedBuffers) -> Turn {
        let Some(lease) = buffers.acquire(buffers.block_bytes()) else {
            self.give_back(offset);
            return Turn::Starved;
        };
        if let Err(wait) = limits.take_block(len) {
            buffers.release(lease);
            self.give_back(offset);
            return Turn::Held(wait);
        }
        self.in_flight += 1;
        let len = (len.next_multiple_of(self.file.align)) as usize;
        Turn::Ask(Side::Source, Op::Read { file: self.file.source.clone(), lease, start: 0, len, offset })
    }

    fn give_back(&mut self, offset: u64) {
        let chunk = self.chunks.last_mut().expect("I4: a block comes from the newest chunk");
        chunk.cursor = offset;
        chunk.in_flight -= 1;
    }

    /// Takes a completion in; the operation it leads to, if any.
    pub fn advance(&mut self, job: &Job, completion: Completion, buffers: &mut FixedBuffers) -> Option<(Side, Op)> {
        let Completion { op, result, .. } = completion;
        let count = match result {
            Ok(Answer::Count(count)) => count,
            Ok(other) => unreachable!("blocks answer counts, not {other:?}"),
            Err(Errno::INTR | Errno::AGAIN) => {
                let side = if matches!(op, Op::Read { .. }) { Side::Source } else { Side::Dest };
                return Some((side, op));
            }
            Err(errno) => {
                self.fail_block(job, op, errno, buffers);
                return None;
            }
        };
        match op {
            Op::Read { .. } => self.advance_read(op, count, buffers),
            Op::Write { .. } => self.advance_write(job, op, count, buffers),
            other => unreachable!("blocks are read and written, not {other:?}"),
        }
    }

    fn advance_read(&mut self, op: Op, count: usize, buffers: &mut FixedBuffers) -> Option<(Side, Op)> {
        let Op::Read { file, mut lease, start, len, offset } = op else { return None };
        let block = offset - start as u64;
        let asked = start + len;
        let wanted = (asked as u64).min(self.file.stat.size - block) as usize;
        let filled = start + count;
        if count == 0 && filled < wanted {
            // The source ends before the size it had: it was cut while it was read.
            self.file.fail(Ending::Changed);
            self.release_block(block, 0, lease, buffers);
            return None;
        }
        if filled < wanted {
            // A direct read that stops off its alignment could not go on from there (EINVAL): the page cache can, and
            // tells whether the file ends here.
            let is_aligned = (filled as u64).is_multiple_of(self.file.align);
            let file = if is_aligned { file } else { self.file.source_plain.clone() };
            let (start, len, offset) = (filled, asked - filled, block + filled as u64);
            return Some((Side::Source, Op::Read { file, lease, start, len, offset }));
        }
        if self.file.assembly.is_some() {
            // The bytes that are written are these: the buffer is the kernel's from here on (I7).
            let crc64 = crc64(&buffers.arena().bytes(&lease)[..wanted]);
            let chunk = self.chunk_of(block);
            chunk.assembly.add(block - chunk.start, wanted as u64, crc64);
        }
        if self.file.goal != Goal::Copy {
            self.release_block(block, 0, lease, buffers);
            return None;
        }
        let len = match self.file.write_path {
            WritePath::Buffered => wanted,
            WritePath::Direct => pad(buffers.arena(), &mut lease, wanted, self.file.align as usize),
        };
        let file = self.dest.clone().expect("I3: a task with blocks in flight holds its destination");
        let path = self.file.write_path;
        Some((Side::Dest, Op::Write { file, lease, start: 0, len, offset: block, path }))
    }

    fn advance_write(&mut self, job: &Job, op: Op, count: usize, buffers: &mut FixedBuffers) -> Option<(Side, Op)> {
        if count == 0 {
            self.fail_block(job, op, Errno::IO, buffers);
            return None;
        }
        let Op::Write { file, lease, start, len, offset, path } = op else { return None };
        if count < len {
            let (start, len, offset) = (start + count, len - count, offset + count as u64);
            return Some((Side::Dest, Op::Write { file, lease, start, len, offset, path }));
        }
        let block = offset - start as u64;
        let written = ((start + len) as u64).min(self.file.stat.size - block);
        self.release_block(block, written, lease, buffers);
        None
    }

    fn fail_block(&mut self, job: &Job, op: Op, errno: Errno, buffers: &mut FixedBuffers) {
        let (error, block, lease) = match op {
            Op::Read { lease, start, offset, .. } => {
                (source_error(job, &self.file.place, "read", errno), offset - start as u64, lease)
            }
            Op::Write { lease, start, offset, .. } => {
                (self.file.place.error(job, Side::Dest, "write", errno), offset - start as u64, lease)
            }
            other => unreachable!("blocks are read and written, not {other:?}"),
        };
        self.file.fail(ending_of(error));
        self.release_block(block, 0, lease, buffers);
    }

    fn release_block(&mut self, block: u64, written: u64, lease: Lease, buffers: &mut FixedBuffers) {
        buffers.release(lease);
        self.in_flight -= 1;
        self.file.written.fetch_add(written, Ordering::Relaxed);
        let chunk = self.chunk_of(block);
        chunk.in_flight -= 1;
        chunk.bytes += written;
    }

    fn chunk_of(&mut self, block: u64) -> &mut Chunk {
        let chunk = self.chunks.iter_mut().find(|c| c.start <= block && block < c.end);
        chunk.expect("I4: a block in flight belongs to a chunk")
    }

    /// A chunk of which every block is written. None once there is trouble: a block of it may be the one that failed.
    fn settled_chunk(&self) -> Option<usize> {
        let settled = self.chunks.iter().position(|chunk| chunk.is_issued() && chunk.in_flight == 0)?;
        (!self.file.is_troubled()).then_some(settled)
    }

    fn settle(&mut self) -> Option<(u64, Range)> {
        let chunk = self.chunks.remove(self.settled_chunk()?);
        self.file.settled.fetch_add(1, Ordering::AcqRel);
        let len = chunk.end - chunk.start;
        let crc64 = self.file.assembly.as_ref().map(|whole| {
            let crc64 = chunk.assembly.finish(len);
            whole.lock().add(chunk.start, len, crc64);
            crc64
        });
        Some((chunk.bytes, Range { offset: chunk.start, len, crc64, etag: None }))
    }
}

/// Moves a chunk's cursor to its next run of data, or to its end.
fn seek_data(file: &LargeFile, job: &Job, caller: &dyn Caller, chunk: &mut Chunk) -> Result<()> {
    let source = Posix::new(caller, Side::Source);
    let found = source.next_data(&file.source_plain, chunk.cursor);
    match found.map_err(|errno| source_error(job, &file.place, "find data in", errno))? {
        Some((start, end)) if start < chunk.end => {
            chunk.cursor = (start / file.align * file.align).max(chunk.cursor);
            chunk.data_end = end.min(chunk.end);
        }
        _ => (chunk.cursor, chunk.data_end) = (chunk.end, chunk.end),
    }
    Ok(())
}

/// Zeroes what follows the `filled` bytes up to the alignment; the padded length.
fn pad(arena: &Arena, lease: &mut Lease, filled: usize, align: usize) -> usize {
    let padded = filled.next_multiple_of(align);
    arena.bytes_mut(lease)[filled..padded].fill(0);
    padded
}
