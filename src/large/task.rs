//! One shard's part in a large file: chunks claimed, blocks read and written in depth.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::salvage::{Failed, is_of_medium, read_around};
use super::sparing::{Against, Sparing, next_run};
use super::{Dest, Goal, LargeFile};
use crate::catalog::Range;
use crate::digest::{Assembly, crc64};
use crate::error::{Errno, Result};
use crate::gate::RateLimits;
use crate::job::Job;
use crate::provider::posix::Posix;
use crate::ring::{Answer, Arena, Caller, Completion, FixedBuffers, Lease, Op, Side, WritePath};
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
    /// Checksums of its blocks, if it is summed; what lies between them are zeros.
    assembly: Option<Assembly>,
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
    dest: Option<Dest>,
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
        match self.file.may_write(job) {
            Ok(true) => {}
            Ok(false) => return Turn::Starved,
            Err(error) => {
                self.file.fail(ending_of(error));
                return self.wind_down();
            }
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
        let block_bytes = self.block_bytes(job, room) as u64;
        loop {
            let file = self.file.clone();
            let Some(chunk) = self.chunks.last_mut().filter(|chunk| !chunk.is_issued()) else {
                if self.is_exhausted || self.settled_chunk().is_some() {
                    return Ok(None);
                }
                match file.claim() {
                    Some((start, end)) => {
                        let data_end = if file.is_sparse { start } else { end };
                        let assembly = file.is_summed().then(Assembly::default);
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

    /// Bytes of a whole block where a lease has room for `room`.
    fn block_bytes(&self, job: &Job, room: usize) -> usize {
        self.file.sparing.block_bytes(job.config.block_bytes.min(room))
    }

    /// Where the destination's bytes begin in a lease, if they are read.
    fn compared_at(&self, job: &Job, room: usize) -> Option<usize> {
        let is_compared = self.file.sparing.compares(job.config.block_bytes.min(room));
        is_compared.then(|| self.block_bytes(job, room))
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
    pub fn advance(
        &mut self,
        (job, caller): (&Job, &dyn Caller),
        completion: Completion,
        buffers: &mut FixedBuffers,
    ) -> Option<(Side, Op)> {
        let Completion { op, result, .. } = completion;
        let side = self.side_of(job, &op, buffers);
        let count = match result {
            Ok(Answer::Count(count)) => count,
            Ok(other) => unreachable!("blocks answer counts, not {other:?}"),
            Err(Errno::INTR | Errno::AGAIN) => return Some((side, op)),
            Err(errno) if side == Side::Source && self.file.device.is_some() && is_of_medium(errno) => {
                return self.salvage((job, caller), op, errno, buffers);
            }
            Err(errno) => {
                self.fail_block(job, op, errno, buffers);
                return None;
            }
        };
        match op {
            Op::Read { .. } if side == Side::Source => self.advance_read((job, caller), op, count, buffers),
            Op::Read { .. } => self.advance_compared((job, caller), op, count, buffers),
            Op::Write { .. } => self.advance_write((job, caller), op, count, buffers),
            other => unreachable!("blocks are read and written, not {other:?}"),
        }
    }

    /// Which side an operation is about: what is read into the second half of a lease is the destination's.
    fn side_of(&self, job: &Job, op: &Op, buffers: &FixedBuffers) -> Side {
        match op {
            Op::Read { start, .. } if self.compared_at(job, buffers.block_bytes()).is_none_or(|at| *start < at) => {
                Side::Source
            }
            _ => Side::Dest,
        }
    }

    /// Reads around what cannot be read.
    fn salvage(
        &mut self,
        (job, caller): (&Job, &dyn Caller),
        op: Op,
        errno: Errno,
        buffers: &mut FixedBuffers,
    ) -> Option<(Side, Op)> {
        let Op::Read { file, lease, start, len, offset } = op else { return None };
        let block = offset - start as u64;
        let wanted = ((start + len) as u64).min(self.file.stat.size - block) as usize;
        // Down to the source's own blocks, which the destination's may be larger than.
        let (from, grain) = match job.device(Side::Source) {
            Some(device) => (&device.direct, device.block_bytes() as usize),
            None => (&file, if self.file.align > 1 { self.file.align as usize } else { 4096 }),
        };
        let earlier = self.file.earlier(block + start as u64, (wanted - start) as u64);
        let failed = Failed { file: from, block, part: start..start + len, wanted, grain, earlier };
        let (lease, read) = read_around(caller, buffers.arena(), lease, &failed);
        let noted = match read {
            Ok(missing) if missing.is_empty() => Ok(()),
            Ok(missing) => self.file.note_missing(job, errno, &missing),
            Err(errno) => Err(source_error(job, &self.file.place, "read", errno)),
        };
        if let Err(error) = noted {
            self.file.fail(ending_of(error));
            self.release_block(block, 0, lease, buffers);
            return None;
        }
        self.advance_read((job, caller), Op::Read { file, lease, start, len, offset }, wanted - start, buffers)
    }

    fn advance_read(
        &mut self,
        (job, caller): (&Job, &dyn Caller),
        op: Op,
        count: usize,
        buffers: &mut FixedBuffers,
    ) -> Option<(Side, Op)> {
        let Op::Read { file, lease, start, len, offset } = op else { return None };
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
        let chunk = self.chunk_of(block);
        if let Some(assembly) = &mut chunk.assembly {
            // The bytes that are written are these: the buffer is the kernel's from here on (I7).
            let crc64 = crc64(&buffers.arena().bytes(&lease)[..wanted]);
            assembly.add(block - chunk.start, wanted as u64, crc64);
        }
        if self.file.goal != Goal::Copy {
            self.release_block(block, 0, lease, buffers);
            return None;
        }
        if let Some(start) = self.compared_at(job, buffers.block_bytes()) {
            let (file, len) = (self.dest().blocks.clone(), wanted.next_multiple_of(self.file.align as usize));
            return Some((Side::Dest, Op::Read { file, lease, start, len, offset: block }));
        }
        self.write_next((job, caller), (block, 0..wanted), lease, buffers)
    }

    /// The destination's bytes of a block are here, beside the source's.
    fn advance_compared(
        &mut self,
        (job, caller): (&Job, &dyn Caller),
        op: Op,
        count: usize,
        buffers: &mut FixedBuffers,
    ) -> Option<(Side, Op)> {
        let Op::Read { start, len, offset, .. } = op else { return None };
        let at = self.compared_at(job, buffers.block_bytes()).unwrap_or(start);
        let block = offset - (start - at) as u64;
        let wanted = self.block_len(job, block, buffers);
        // What was asked for is aligned, and a device may end before that.
        let is_whole = start + count >= at + wanted;
        if count == 0 && !is_whole {
            self.fail_block(job, op, Errno::IO, buffers);
            return None;
        }
        let Op::Read { lease, .. } = op else { return None };
        if !is_whole {
            // Short reads of a device end anywhere: the page cache goes on from there.
            let (file, start, len) = (self.dest().plain.clone(), start + count, len - count);
            return Some((Side::Dest, Op::Read { file, lease, start, len, offset: offset + count as u64 }));
        }
        self.write_next((job, caller), (block, 0..wanted), lease, buffers)
    }

    /// Bytes of the block that begins at `block`, where blocks are cut at no holes of the source.
    fn block_len(&mut self, job: &Job, block: u64, buffers: &FixedBuffers) -> usize {
        let whole = self.block_bytes(job, buffers.block_bytes()) as u64;
        whole.min(self.chunk_of(block).end - block) as usize
    }

    fn dest(&self) -> &Dest {
        self.dest.as_ref().expect("I3: a task with blocks in flight holds its destination")
    }

    /// Writes the next run of a block whose bytes are all here; its lease comes back when there is none.
    fn write_next(
        &mut self,
        (job, caller): (&Job, &dyn Caller),
        (block, rest): (u64, std::ops::Range<usize>),
        mut lease: Lease,
        buffers: &mut FixedBuffers,
    ) -> Option<(Side, Op)> {
        let run = {
            let bytes = buffers.arena().bytes(&lease);
            let dest_bytes = self.compared_at(job, buffers.block_bytes()).map(|at| &bytes[at..]);
            let against = Against { caller, dest: &self.dest().plain, dest_bytes, block };
            next_run(self.file.sparing, &bytes[..rest.end], rest.start, &against)
        };
        let Some(run) = run else {
            self.release_block(block, rest.end as u64, lease, buffers);
            return None;
        };
        let align = self.file.align as usize;
        let is_device = self.file.device.as_ref().is_some_and(|device| device.is_dest());
        let (start, mut len, mut path) = (run.start, run.len(), self.file.write_path);
        if path == WritePath::Direct && !run.end.is_multiple_of(align) {
            match run.end / align * align {
                // What follows the last byte on a device is not ours: the end of it goes through the page cache.
                aligned if is_device && aligned > start => len = aligned - start,
                _ if is_device => path = WritePath::Buffered,
                _ => len = pad(buffers.arena(), &mut lease, run.end, align) - start,
            }
        }
        let dest = self.dest();
        let file = if path == self.file.write_path { &dest.blocks } else { &dest.plain };
        Some((Side::Dest, Op::Write { file: file.clone(), lease, start, len, offset: block + start as u64, path }))
    }

    fn advance_write(
        &mut self,
        (job, caller): (&Job, &dyn Caller),
        op: Op,
        count: usize,
        buffers: &mut FixedBuffers,
    ) -> Option<(Side, Op)> {
        if count == 0 {
            self.fail_block(job, op, Errno::IO, buffers);
            return None;
        }
        let Op::Write { file, lease, start, len, offset, path } = op else { return None };
        let block = offset - start as u64;
        // Padding is no content.
        let end = (offset + count as u64).min(self.file.stat.size);
        self.chunk_of(block).bytes += end.saturating_sub(offset);
        if count < len {
            let (start, len, offset) = (start + count, len - count, offset + count as u64);
            return Some((Side::Dest, Op::Write { file, lease, start, len, offset, path }));
        }
        if self.file.sparing == Sparing::Nothing && self.file.device.is_none() {
            self.release_block(block, end - block, lease, buffers);
            return None;
        }
        let block_len = self.block_len(job, block, buffers);
        self.write_next((job, caller), (block, start + len..block_len), lease, buffers)
    }

    fn fail_block(&mut self, job: &Job, op: Op, errno: Errno, buffers: &mut FixedBuffers) {
        let side = self.side_of(job, &op, buffers);
        let (error, block, lease) = match op {
            Op::Read { lease, start, offset, .. } if side == Side::Dest => {
                let at = self.compared_at(job, buffers.block_bytes()).unwrap_or(start);
                (self.file.place.error(job, Side::Dest, "read", errno), offset - (start - at) as u64, lease)
            }
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

    /// A block is done with: `done` bytes of it are at the destination.
    fn release_block(&mut self, block: u64, done: u64, lease: Lease, buffers: &mut FixedBuffers) {
        buffers.release(lease);
        self.in_flight -= 1;
        self.file.written.fetch_add(done, Ordering::Relaxed);
        self.chunk_of(block).in_flight -= 1;
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
        let crc64 = chunk.assembly.map(|assembly| assembly.finish(len));
        if let (Some(whole), Some(crc64)) = (&self.file.assembly, crc64) {
            whole.lock().add(chunk.start, len, crc64);
        }
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
            // Where the source's blocks are smaller than the destination's, data ends off the alignment: what follows
            // up to it is read with it, as zeros.
            chunk.data_end = end.next_multiple_of(file.align).min(chunk.end);
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
