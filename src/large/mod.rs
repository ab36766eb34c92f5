//! The life of a large file: blocks read and written in depth, by one shard or by all of them.
//!
//! ```text
//! file    |        chunk 0         |        chunk 1         | ...    claimed by a cursor, recorded when durable
//!           block block ... block    block ...                  --buffer-size each, `file_depth` in flight a shard
//! block   lease -> Read -> (rest of a short read) -> Write -> (rest of a short write) -> lease back
//! tail    read short at the end of the file, padded with zeros to the alignment, cut by the final truncate
//! ```
//!
//! [`LargeFile`] is what the shards share, [`LargeTask`] one shard's part in it. The last task to leave finishes the
//! file: size, unchanged source, owner, mode, close. Holes are not read: SEEK_DATA finds what lies between them. A
//! destination that direct I/O can reach is allocated first, for extending direct writes are serialised (ext4).
//!
//! A block device is copied in the same way (device.rs): it is written to as it is, zeros of a source device become
//! holes of its image, blocks that a destination has already may be left alone (sparing.rs), and what cannot be read
//! is narrowed down (salvage.rs).
//!
//! A file of which only the ctime is new is read in the same way, and not written: its blocks end with their checksums
//! ([`LargeFile::reread`]), and if they make the recorded one, its copy gets new metadata and nothing else.

mod device;
mod leftover;
mod room;
pub(crate) mod salvage;
mod sparing;
mod task;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::catalog::{Checksum, Failure, FileRecord, Owner, Proof, Range, Stamp, Status};
use crate::config::{ChecksumPolicy, DirectChoice, SEGMENT_BYTES, scaled};
use crate::digest::Assembly;
use crate::error::{Cause, Class, Errno, Error, Result};
use crate::gate::Stream;
use crate::job::{Job, Place, Ticket};
use crate::links::LinkKey;
use crate::provider::posix::Posix;
use crate::report::{Count, LossSet};
use crate::ring::{Access, Caller, Handle, Side, Stat, WritePath};
use crate::transfer::{Ending, NewFile, Work, ending_of, source_error};
use device::DevicePart;
pub(crate) use leftover::{birth_of, find_leftover, forget_ranges};
pub(crate) use room::{Room, settle_size, take_room};
use sparing::Sparing;
pub use task::{LargeTask, Reading, Turn};

/// Least bytes of a chunk: what a resume may have to copy again per stream.
const CHUNK_BYTES_MIN: u64 = scaled(4 << 20, 8 << 10) as u64;
/// Most chunks of one file, so that its recorded ranges stay few whatever its size.
const CHUNKS_MAX: u64 = 16_384;
/// Files below this are copied through the page cache: direct I/O pays from here on.
const DIRECT_BYTES_MIN: u64 = scaled(1 << 20, 16 << 10) as u64;

/// One large file under way, shared by the shards that work on it.
#[derive(Debug)]
pub struct LargeFile {
    /// Where it is.
    pub place: Place,
    /// The source's state when the copy began.
    pub stat: Stat,
    /// What is recorded of that state.
    pub stamp: Stamp,
    /// Its group if it has several names.
    pub group: Option<LinkKey>,
    /// Whom to tell when it has its outcome.
    pub ticket: Ticket,
    /// Which attempt this is.
    pub attempt: u32,
    /// Key of its ranges in the catalog.
    pub id: u64,
    /// The destination's inode, for the record of the file in progress.
    pub dest_ino: u64,
    /// When that was made, for the catalog, where it is known.
    pub birth: Option<Range>,
    /// The source, opened for reading: direct where `source_align` is not 1.
    source: Handle,
    /// The source for descriptions and holes: never direct.
    source_plain: Handle,
    /// What blocks are written to.
    dest: Mutex<Option<Dest>>,
    /// The destination as it was created: owner, mode, size and close go through it.
    file: Mutex<Option<NewFile>>,
    /// Whether blocks are written past the page cache.
    write_path: WritePath,
    /// Alignment of offsets and lengths in bytes; 1 when both sides are buffered.
    align: u64,
    /// Whether holes are looked for.
    is_sparse: bool,
    /// Bytes of a chunk.
    chunk_bytes: u64,
    /// Next chunk to claim.
    next_chunk: AtomicU64,
    /// Ranges that an earlier run made durable, ascending.
    durable: Vec<Range>,
    /// Chunks that are written, or were durable already.
    settled: AtomicU64,
    /// Shards at work on it; 0 once it is being finished.
    tasks: AtomicU32,
    /// Checksums of the chunks, combined as they settle; `None` where none are asked for.
    assembly: Option<Mutex<Assembly>>,
    /// The first thing that went wrong.
    trouble: Mutex<Option<Ending>>,
    /// Bytes written, or durable already.
    written: AtomicU64,
    /// Its permit, which may be parked.
    pub stream: Stream,
    /// What the catalog knew of it when the attempt began.
    former: Option<FileRecord>,
    /// What becomes of its blocks.
    goal: Goal,
    /// Which parts of a block are written.
    sparing: Sparing,
    /// What is known of an end that is a block device.
    device: Option<DevicePart>,
}

/// The destination of a large file, open for its blocks.
#[derive(Clone, Debug)]
struct Dest {
    /// For blocks: direct where that is the write path.
    blocks: Handle,
    /// Through the page cache, for what direct I/O cannot do.
    plain: Handle,
}

/// What a large file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To be written to the destination.
    Copy,
    /// To be compared with the CRC64 that its copy was written with.
    Compare(u64),
}

/// The source of a large file, open.
struct Source {
    /// For its blocks: direct where `align` is not 1.
    direct: Handle,
    /// For descriptions and holes: never direct.
    plain: Handle,
    /// Alignment of offsets and lengths in bytes.
    align: u64,
}

impl LargeFile {
    /// Opens both sides of a large file, continuing an earlier attempt where the record allows.
    pub fn open(work: &Work, record: Option<&FileRecord>, ticket: Ticket, attempt: u32) -> Result<LargeFile> {
        let (job, place) = (work.job, work.place);
        let source = open_source(work, attempt)?;
        let (file, id, recorded) = match find_leftover(work, record)? {
            Some(leftover) => (leftover.file, leftover.id, leftover.ranges),
            None => {
                forget_ranges(work, record, attempt)?;
                (work.create_large()?, job.new_id(), Vec::new())
            }
        };
        let dest_align = direct_align(job, &file.made, work.stat.size, &place.path(job, Side::Dest));
        let dest_align = dest_align.inspect_err(|_| work.remove(file.temp.as_ref()))?;
        let is_begun = !recorded.is_empty() || record.is_some_and(|record| record.large_id == id);
        let device = DevicePart::of(work, &file, is_begun.then_some(&recorded));
        let mut large = LargeFile {
            id,
            dest_ino: job.dest_id(&file.made),
            birth: birth_of(job, &file.made),
            write_path: if dest_align == 1 { WritePath::Buffered } else { WritePath::Direct },
            align: source.align.max(dest_align),
            durable: recorded.into_iter().filter(Range::is_of_content).collect(),
            assembly: (job.config.checksum != ChecksumPolicy::Free).then(Mutex::default),
            sparing: Sparing::of(job, is_begun),
            device,
            ..LargeFile::new(work, record, source, (ticket, attempt))
        };
        large.chunk_bytes = chunk_bytes_of(&large.durable, work.stat.size).unwrap_or(large.chunk_bytes);
        large.durable.iter().for_each(|range| large.note_told(range));
        match large.open_dest(work, &file) {
            Ok(dest) => {
                *large.dest.get_mut() = Some(dest);
                *large.file.get_mut() = Some(file);
                Ok(large)
            }
            Err(error) => {
                if error.class() != Class::Retry && leaves_nothing(&Ending::Failed(error.clone())) {
                    work.remove(file.temp.as_ref());
                }
                Err(error)
            }
        }
    }

    /// Opens the source of a large file whose content is to be compared with `crc64`.
    pub fn reread(
        work: &Work,
        record: Option<&FileRecord>,
        ticket: Ticket,
        attempt: u32,
        crc64: u64,
    ) -> Result<LargeFile> {
        let source = open_source(work, attempt)?;
        let assembly = Some(Mutex::default());
        let goal = Goal::Compare(crc64);
        Ok(LargeFile { assembly, goal, ..LargeFile::new(work, record, source, (ticket, attempt)) })
    }

    /// A file that is to be written nowhere yet.
    fn new(work: &Work, record: Option<&FileRecord>, source: Source, (ticket, attempt): (Ticket, u32)) -> LargeFile {
        LargeFile {
            place: work.place.clone(),
            stat: *work.stat,
            stamp: work.stamp,
            group: work.group,
            ticket,
            attempt,
            id: 0,
            dest_ino: 0,
            birth: None,
            source: source.direct,
            source_plain: source.plain,
            dest: Mutex::new(None),
            file: Mutex::new(None),
            write_path: WritePath::Buffered,
            align: source.align,
            // What is a hole of an image has to be zeros on a device.
            is_sparse: work.stat.blocks * 512 < work.stat.size && !work.job.has_device(),
            chunk_bytes: chunk_bytes(work.stat.size, work.job.config.block_bytes as u64),
            next_chunk: AtomicU64::new(0),
            durable: Vec::new(),
            settled: AtomicU64::new(0),
            tasks: AtomicU32::new(1),
            assembly: None,
            trouble: Mutex::new(None),
            written: AtomicU64::new(0),
            stream: Stream::default(),
            former: record.cloned(),
            goal: Goal::Copy,
            sparing: Sparing::Nothing,
            device: None,
        }
    }

    /// What it is read for.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// What the catalog knew of it when the attempt began.
    pub fn former(&self) -> Option<&FileRecord> {
        self.former.as_ref()
    }

    /// Gives the destination its size or space, and opens it for the blocks.
    fn open_dest(&self, work: &Work, file: &NewFile) -> Result<Dest> {
        let (job, place) = (work.job, work.place);
        if let Some(device) = job.device(Side::Dest) {
            return Ok(DevicePart::dest(device, self.write_path));
        }
        let dest = Posix::new(work.caller, Side::Dest);
        let failed = |verb, errno| place.error(job, Side::Dest, verb, errno);
        let name = file.temp.as_ref().unwrap_or(&place.dest_name);
        let blocks = match self.write_path {
            WritePath::Buffered => file.handle.clone(),
            WritePath::Direct => {
                let opened = dest.open(&place.open.dest, name, Access::WriteDirect);
                let blocks = opened.map_err(|errno| failed("open direct", errno))?;
                let now = dest.stat_handle(&blocks).map_err(|errno| failed("stat", errno))?;
                // Another file has the name by now: nothing is written to that (I8).
                if (now.dev, now.ino) != (file.made.dev, file.made.ino) {
                    return Err(failed("open direct", Errno::STALE));
                }
                blocks
            }
        };
        let handles = Dest { blocks, plain: file.handle.clone() };
        let is_sparse = self.is_sparse || self.sparing.leaves_holes();
        take_room(work, file, if is_sparse { Room::Sparse } else { Room::Allocated })?;
        Ok(handles)
    }

    /// Chunks of the file.
    fn chunks(&self) -> u64 {
        self.stat.size.div_ceil(self.chunk_bytes)
    }

    /// How many other shards may help: none with a file of one segment, and never more than there are chunks.
    pub fn helpers_max(&self) -> usize {
        (self.chunks() - 1) as usize * usize::from(self.stat.size > SEGMENT_BYTES)
    }

    /// The next chunk that is not durable yet, as a range of bytes.
    fn claim(&self) -> Option<(u64, u64)> {
        loop {
            let index = self.next_chunk.fetch_add(1, Ordering::Relaxed);
            if index >= self.chunks() {
                return None;
            }
            let start = index * self.chunk_bytes;
            let end = (start + self.chunk_bytes).min(self.stat.size);
            let Some(range) = self.durable.iter().find(|r| r.offset <= start && end <= r.offset + r.len) else {
                return Some((start, end));
            };
            if let Some(assembly) = &self.assembly {
                // A range recorded without a checksum, or cut another way, is copied once more.
                match range.crc64.filter(|_| (range.offset, range.len) == (start, end - start)) {
                    Some(crc64) => assembly.lock().add(start, end - start, crc64),
                    None => return Some((start, end)),
                }
            }
            self.settled.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether the bytes of a chunk that is begun now are summed: where checksums are asked for, and with a device at
    /// either end until one range's sum is told of. A resume knows the device by it; all sums would be a tenth of a
    /// core's second for each GiB.
    fn is_summed(&self) -> bool {
        self.assembly.is_some() || self.device.as_ref().is_some_and(DevicePart::is_unknown)
    }

    /// Notes that a range was told of, for the catalog.
    pub fn note_told(&self, range: &Range) {
        if let Some(device) = self.device.as_ref().filter(|_| range.crc64.is_some()) {
            device.note_known();
        }
    }

    /// Joins another shard to the work; false when it is being finished already.
    fn join(&self) -> bool {
        self.tasks.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n > 0).then_some(n + 1)).is_ok()
    }

    /// Leaves; true for the last one, who finishes the file.
    fn leave(&self) -> bool {
        self.tasks.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn fail(&self, ending: Ending) {
        self.trouble.lock().get_or_insert(ending);
    }

    fn is_troubled(&self) -> bool {
        self.trouble.lock().is_some()
    }

    /// Notes that more of it is written.
    pub fn note_unsynced(&self, job: &Job) {
        if let Some(dest) = &*self.dest.lock() {
            job.note_unsynced(self.id, &dest.plain);
        }
    }

    /// Bytes that need not be copied, because an earlier run made them durable.
    pub fn durable_bytes(&self) -> u64 {
        covered(&self.durable)
    }

    /// Bytes that are copied, earlier runs included.
    pub fn done(&self) -> u64 {
        self.durable_bytes() + self.written.load(Ordering::Relaxed)
    }

    /// The record of this file while it is in progress.
    pub fn record(&self, batch: u64) -> FileRecord {
        let (status, stamp, losses) = (Status::InProgress, self.stamp, LossSet::default());
        let (dest_ino, large_id) = (self.dest_ino, self.id);
        let owner = Some(Owner::of(&self.stat));
        let tried = self.former.as_ref().map_or(0, FileRecord::tried);
        let failure = (tried > 0).then(|| Failure::tries(tried));
        FileRecord { status, batch, stamp, dest_ino, large_id, failure, checksum: None, losses, owner }
    }

    /// Ends the file, as the last task to leave: `None` when the job was stopped and the rest is for a resume.
    pub fn finish(&self, job: &Job, caller: &dyn Caller) -> Option<Ending> {
        self.dest.lock().take();
        let stamp = self.stamp;
        let work = Work { job, caller, place: &self.place, stat: &self.stat, stamp, group: self.group, told: None };
        let is_complete = self.settled.load(Ordering::Acquire) == self.chunks();
        let trouble = self.trouble.lock().take();
        if let Goal::Compare(crc64) = self.goal {
            return trouble.or_else(|| is_complete.then(|| self.compare(&work, crc64)));
        }
        let file = self.file.lock().take()?;
        let ending = match trouble {
            Some(ending) => ending,
            None if !is_complete => Ending::Failed(job.fatal.lock().clone()?),
            None => match settle_size(&work, &file) {
                Ok(()) if self.missing().is_some() => return Some(self.finish_in_part(&work, file)),
                Ok(()) => return Some(self.seal_ready(&work, file)),
                Err(error) => ending_of(error),
            },
        };
        if self.is_removed_after(job, &ending) {
            work.remove(file.temp.as_ref());
        }
        Some(ending)
    }

    /// Whether what there is of the copy does not stay behind such an end, and its ranges are worth nothing. A device
    /// stays.
    pub fn is_removed_after(&self, job: &Job, ending: &Ending) -> bool {
        self.goal == Goal::Copy && job.device(Side::Dest).is_none() && leaves_nothing(ending)
    }

    fn is_unchanged(&self, work: &Work) -> bool {
        if let Some(device) = work.job.device(Side::Source) {
            return device.stat().is_ok_and(|after| self.stat.is_unchanged_in(&after));
        }
        let after = Posix::new(work.caller, Side::Source).restat_handle(&self.source_plain);
        after.is_ok_and(|after| self.stat.is_unchanged_in(&after))
    }

    /// All of it is read: if it is what was recorded, its copy gets new metadata.
    fn compare(&self, work: &Work, crc64: u64) -> Ending {
        if !self.is_unchanged(work) {
            return Ending::Changed;
        }
        let found = self.assembly.as_ref().map(|assembly| assembly.lock().finish(self.stat.size));
        let Some(record) = self.former.as_ref().filter(|_| found == Some(crc64)) else { return Ending::Differs };
        match work.refresh(record) {
            Ok(Some(copied)) => Ending::Copied(Box::new(copied)),
            Ok(None) => Ending::Differs,
            Err(error) => ending_of(error),
        }
    }

    fn seal_ready(&self, work: &Work, file: NewFile) -> Ending {
        if !self.is_unchanged(work) {
            work.remove(file.temp.as_ref());
            return Ending::Changed;
        }
        match work.finish(file, 0, Count::FilesCopied) {
            Ok(mut copied) => {
                copied.large_id = self.id;
                copied.checksum = self.assembly.as_ref().map(|assembly| {
                    let crc64 = assembly.lock().finish(self.stat.size);
                    Checksum { crc64, proof: Proof::Written }
                });
                Ending::Copied(Box::new(copied))
            }
            Err(error) => ending_of(error),
        }
    }
}

/// Whether what there is of a large file's copy goes when it ends so, and its ranges with it. A full destination gets
/// its space back; whatever else ends the job, this file's or another's, leaves both for the resume (I5).
pub(crate) fn leaves_nothing(ending: &Ending) -> bool {
    match ending {
        Ending::Failed(Error { cause: Cause::Os(Errno::NOSPC | Errno::DQUOT), .. }) => true,
        Ending::Failed(error) => error.class() != Class::Fatal,
        ending => matches!(ending, Ending::Changed | Ending::Vanished),
    }
}

fn open_source(work: &Work, attempt: u32) -> Result<Source> {
    let (job, place) = (work.job, work.place);
    if let Some(device) = job.device(Side::Source) {
        let align = direct_align(job, work.stat, work.stat.size, &device.path)?;
        let direct = if align == 1 { &device.buffered } else { &device.direct };
        return Ok(Source { direct: direct.clone(), plain: device.buffered.clone(), align });
    }
    let source = Posix::new(work.caller, Side::Source);
    let opened = |access| source.open(&place.open.source, &place.name, access);
    let plain = opened(Access::Read).map_err(|errno| source_error(job, place, "open", errno))?;
    let now = source.stat_handle(&plain).map_err(|errno| source_error(job, place, "stat", errno))?;
    if !work.stat.is_unchanged_in(&now) {
        return Err(work.unstable(attempt));
    }
    let align = direct_align(job, &now, work.stat.size, &place.path(job, Side::Source))?;
    let direct = match align {
        1 => plain.clone(),
        _ => {
            let direct = opened(Access::ReadDirect).map_err(|errno| source_error(job, place, "open direct", errno))?;
            let again = source.stat_handle(&direct).map_err(|errno| source_error(job, place, "stat", errno))?;
            // Another file has the name by now (I8).
            if (again.dev, again.ino) != (now.dev, now.ino) {
                return Err(work.unstable(attempt));
            }
            direct
        }
    };
    Ok(Source { direct, plain, align })
}

/// The alignment direct I/O needs on one side; 1 for the page cache.
fn direct_align(job: &Job, stat: &Stat, size: u64, path: &[u8]) -> Result<u64> {
    let align = u64::from(stat.direct_align);
    let fits = align > 0 && align <= 4096 && (job.config.block_bytes as u64).is_multiple_of(align);
    match job.config.direct {
        DirectChoice::Never => Ok(1),
        DirectChoice::Always if !fits => Err(Error::os("open direct", path, Errno::INVAL)),
        DirectChoice::Always => Ok(align),
        DirectChoice::Auto if fits && size >= DIRECT_BYTES_MIN => Ok(align),
        DirectChoice::Auto => Ok(1),
    }
}

/// Bytes of the chunks that an earlier run cut a file into, as its ranges tell: it may have had another block size. The
/// last of them may be shorter.
fn chunk_bytes_of(durable: &[Range], size: u64) -> Option<u64> {
    let whole = durable.iter().filter(|range| range.offset == 0 || range.offset + range.len < size);
    whole.map(|range| range.len).max().filter(|len| len.is_multiple_of(4096) && *len > 0)
}

/// Bytes that ascending ranges cover, each of them once.
fn covered(ranges: &[Range]) -> u64 {
    let add = |(end, bytes): (u64, u64), range: &Range| {
        let range_end = range.offset + range.len;
        (end.max(range_end), bytes + range_end.saturating_sub(end.max(range.offset)))
    };
    ranges.iter().fold((0, 0), add).1
}

fn chunk_bytes(size: u64, block_bytes: u64) -> u64 {
    CHUNK_BYTES_MIN.max(size.div_ceil(CHUNKS_MAX)).next_multiple_of(block_bytes.max(4096))
}
