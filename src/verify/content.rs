//! Bytes of one file on both sides, read in units that may come back in any order.
//!
//! ```text
//! small   one unit: the file is opened, read and closed by one operation a side
//! large   units of a block each; all threads claim segments of it, and each keeps several units in flight
//! unit    both sides asked -> both back -> compared byte by byte, or its CRC64 put in its place
//! ```
//! The destination is read past the page cache: what the device holds is compared, not what was meant to be written.
//! Where there is no O_DIRECT the file's pages are written and dropped first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::audit::{Audit, add};
use super::compare::{Aspect, Aspects};
use crate::config::SEGMENT_BYTES;
use crate::digest::{Assembly, crc64};
use crate::error::{Cause, Errno, Error};
use crate::provider::posix::Posix;
use crate::ring::{Access, Arena, Caller, Handle, Lease, Name, Op, Side, Stat};
use crate::walk::{DirNode, DirPair};

/// Alignment that every O_DIRECT read here has; a device that wants more is read through the page cache.
const ALIGN: usize = 4096;

/// A pair of regular files of one size.
#[derive(Debug)]
pub(super) struct Content {
    /// Their directory.
    pub dir: Arc<DirNode>,
    /// It, open.
    pub open: DirPair,
    /// Their name.
    pub name: Name,
    /// The source's file as it was before it is read; none where a catalog stands for it.
    pub source: Option<Stat>,
    /// The destination's.
    pub dest: Stat,
    /// What the catalog says the content's checksum is.
    pub expected: Option<u64>,
    /// What differs in metadata.
    pub aspects: Aspects,
    /// Both, open, if it is a large one.
    pub files: Option<[File; 2]>,
    /// Where the next segment begins.
    next: AtomicU64,
    /// Threads that read it.
    readers: AtomicU32,
    /// What has come of it.
    state: Mutex<State>,
}

/// One side of a large file, open.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// The file; none on the source's side where a catalog stands for it.
    pub handle: Option<Handle>,
    /// Whether it is read past the page cache.
    pub is_direct: bool,
}

#[derive(Debug, Default)]
struct State {
    /// Where the bytes begin to differ, as far as is known.
    differs_at: Option<u64>,
    /// Checksums of units.
    assembly: Assembly,
    /// Why it could not be read.
    error: Option<Error>,
}

/// A part of a file, in flight on one thread.
#[derive(Debug)]
pub(super) struct Unit {
    /// The file.
    pub content: Arc<Content>,
    /// The thread's reading it belongs to; a small file belongs to none.
    pub reading: Option<usize>,
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: usize,
    /// By side: the bytes, once they are back, and how many they are.
    pub sides: [(Option<Lease>, usize); 2],
    /// Answers still to come.
    pub pending: u8,
}

/// A thread's part in a large file.
#[derive(Debug)]
pub(super) struct Reading {
    /// The file.
    pub content: Arc<Content>,
    /// Where its next unit begins.
    at: u64,
    /// Where its segment ends.
    end: u64,
    /// Its units in flight.
    pub in_flight: usize,
}

impl Content {
    /// A pair that is not opened yet.
    pub fn new(dir: &Arc<DirNode>, open: &DirPair, name: Name, source: Option<Stat>, dest: Stat) -> Content {
        Content {
            dir: dir.clone(),
            open: open.clone(),
            name,
            source,
            dest,
            expected: None,
            aspects: Aspects::default(),
            files: None,
            next: AtomicU64::new(0),
            readers: AtomicU32::new(1),
            state: Mutex::default(),
        }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.dest.size
    }

    /// The sides that are read.
    pub fn sides(&self) -> &'static [Side] {
        if self.source.is_some() { &[Side::Source, Side::Dest] } else { &[Side::Dest] }
    }

    /// Opens a large file on the sides that are read.
    pub fn open_files(&mut self, audit: &Audit, caller: &dyn Caller) -> Result<(), (Side, Errno)> {
        let mut files = [Side::Source, Side::Dest].map(|_| File { handle: None, is_direct: false });
        for &side in self.sides() {
            if let Some(device) = audit.device(side) {
                files[side as usize] = File { handle: Some(device.direct.clone()), is_direct: true };
                continue;
            }
            let (at, name) = self.place(audit, side);
            files[side as usize] = open(Posix::new(caller, side), at, name, side).map_err(|errno| (side, errno))?;
        }
        if !files[Side::Dest as usize].is_direct {
            add(&audit.tally.cached, 1);
        }
        self.files = Some(files);
        Ok(())
    }

    /// The directory and the name on one side.
    pub fn place<'a>(&'a self, audit: &'a Audit, side: Side) -> (&'a Handle, &'a Name) {
        match side {
            Side::Source => (&self.open.source, &self.name),
            Side::Dest => (&self.open.dest, audit.dest_name(&self.dir, &self.name)),
        }
    }

    /// Joins those who read a large file; false if they are through.
    pub fn join(&self) -> bool {
        let joined = self.readers.fetch_update(Ordering::AcqRel, Ordering::Acquire, |readers| match readers {
            0 => None,
            readers => Some(readers + 1),
        });
        joined.is_ok()
    }

    /// Leaves; true for the last one.
    pub fn leave(&self) -> bool {
        self.readers.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether there is no need to read on.
    fn is_decided(&self) -> bool {
        let state = self.state.lock();
        state.error.is_some() || state.differs_at.is_some()
    }

    /// Notes that it cannot be read.
    pub fn fail(&self, audit: &Audit, side: Side, errno: Errno) {
        let path = audit.path(side, &self.dir, &self.name);
        let error = match errno {
            Errno::NOENT => Error { verb: "read", object: path, cause: Cause::Vanished },
            errno => Error::os("read", path, errno),
        };
        self.state.lock().error.get_or_insert(error);
    }

    /// Compares the bytes of a unit that is back on all sides.
    pub fn take_in(&self, audit: &Audit, unit: &Unit, arena: &Arena) {
        let bytes = |side: Side| {
            let (lease, filled) = &unit.sides[side as usize];
            lease.as_ref().map_or(&[][..], |lease| &arena.bytes(lease)[..*filled])
        };
        let dest = bytes(Side::Dest);
        add(&audit.tally.bytes_compared, dest.len() as u64);
        // A file that was drawn as a whole is one unit of the sample.
        add(&audit.tally.units_compared, (self.source.is_some() || unit.offset == 0).into());
        add(&audit.tally.bytes_read, (dest.len() * self.sides().len()) as u64);
        let differs_at = match self.source {
            Some(_) if bytes(Side::Source) == dest && dest.len() == unit.len => None,
            Some(_) => Some(unit.offset + first_difference(bytes(Side::Source), dest)),
            None if dest.len() == unit.len => {
                self.state.lock().assembly.add(unit.offset, unit.len as u64, crc64(dest));
                None
            }
            None => Some(unit.offset + dest.len() as u64),
        };
        if let Some(offset) = differs_at {
            let mut state = self.state.lock();
            state.differs_at = Some(state.differs_at.map_or(offset, |known| known.min(offset)));
        }
    }

    /// All of it is compared: says what came of it.
    pub fn finish(&self, audit: &Audit, caller: &dyn Caller) {
        let mut aspects = self.aspects;
        let state = std::mem::take(&mut *self.state.lock());
        if let Some(error) = &state.error {
            audit.findings.trouble(error);
        } else {
            let fits = self.expected.is_none_or(|expected| state.assembly.finish(self.size()) == expected);
            if state.differs_at.is_some() || !fits {
                if self.has_changed(audit, caller) {
                    let object = audit.path(Side::Source, &self.dir, &self.name);
                    audit.findings.trouble(&Error { verb: "compare", object, cause: Cause::Unstable { attempts: 1 } });
                } else {
                    aspects.add(Aspect::Content);
                }
            }
        }
        if !aspects.is_empty() {
            audit.findings.differ(&self.dir.path_of(&self.name), aspects, state.differs_at);
        }
        audit.walker.complete();
    }

    /// Whether the source is not the file any more that was described before it was read.
    fn has_changed(&self, audit: &Audit, caller: &dyn Caller) -> bool {
        let Some(before) = &self.source else { return false };
        let now = audit.stat(caller, Side::Source, &self.open.source, &self.name);
        !now.is_ok_and(|now| before.is_unchanged_in(&now))
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> u64 {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    common as u64
}

/// Opens a large file past the page cache, or else, at the destination, with its pages dropped.
fn open(posix: Posix<'_>, at: &Handle, name: &Name, side: Side) -> Result<File, Errno> {
    let handle = posix.open(at, name, Access::Read)?;
    let align = posix.stat_handle(&handle)?.direct_align as usize;
    if align > 0
        && align <= ALIGN
        && let Ok(direct) = posix.open(at, name, Access::ReadDirect)
    {
        return Ok(File { handle: Some(direct), is_direct: true });
    }
    if side == Side::Dest {
        posix.drop_cache(&handle)?;
    }
    Ok(File { handle: Some(handle), is_direct: false })
}

impl Unit {
    /// What is asked of one side first. The lease has room for whole pages, which is what O_DIRECT reads.
    pub fn first_op(&self, audit: &Audit, side: Side, lease: Lease) -> Op {
        match &self.content.files {
            None => {
                let (at, name) = self.content.place(audit, side);
                let access = if side == Side::Dest { Access::ReadDirect } else { Access::Read };
                let len = self.len.next_multiple_of(ALIGN).min(lease.capacity());
                Op::ReadWhole { at: at.clone(), name: name.clone(), access, lease, len }
            }
            Some(files) => {
                let file = files[side as usize].handle.clone();
                let file = file.expect("I3: a side that is read is open");
                let len = self.len.next_multiple_of(ALIGN).min(lease.capacity());
                Op::Read { file, lease, start: 0, len, offset: self.offset }
            }
        }
    }

    /// What is still to be asked after `count` bytes came back; else the lease, with how many bytes it holds. Ends:
    /// each further question follows bytes that were not there before.
    pub fn follow(&self, side: Side, op: Op, count: usize) -> Result<Op, (Lease, usize)> {
        match op {
            Op::Read { file, lease, start, offset, .. } => {
                let before = self.sides[side as usize].1;
                let filled = (start + count).min(self.len);
                if filled >= self.len || filled <= before {
                    return Err((lease, filled.max(before)));
                }
                let is_direct = self.content.files.as_ref().is_some_and(|files| files[side as usize].is_direct);
                let next = if is_direct { filled / ALIGN * ALIGN } else { filled };
                let begin = offset - start as u64;
                let len = self.len.next_multiple_of(ALIGN).min(lease.capacity()) - next;
                Ok(Op::Read { file, lease, start: next, len, offset: begin + next as u64 })
            }
            Op::ReadWhole { lease, .. } => Err((lease, count.min(self.len))),
            other => unreachable!("units are read, not {other:?}"),
        }
    }
}

/// The same question through the page cache, its pages dropped before: for a device or file system that refuses
/// O_DIRECT only when it comes to it.
pub(super) fn without_direct(audit: &Audit, caller: &dyn Caller, unit: &Unit, op: Op) -> Result<Op, (Errno, Op)> {
    let posix = Posix::new(caller, Side::Dest);
    let (at, name) = unit.content.place(audit, Side::Dest);
    let opened = match audit.device(Side::Dest) {
        Some(device) => Ok(device.buffered.clone()),
        None => posix.open(at, name, Access::Read),
    };
    let opened = opened.and_then(|file| posix.drop_cache(&file).map(|()| file));
    let file = match opened {
        Ok(file) => file,
        Err(errno) => return Err((errno, op)),
    };
    Ok(match op {
        Op::ReadWhole { at, name, lease, len, .. } => {
            add(&audit.tally.cached, 1);
            Op::ReadWhole { at, name, access: Access::Read, lease, len }
        }
        Op::Read { lease, start, len, offset, .. } => Op::Read { file, lease, start, len, offset },
        other => other,
    })
}

impl Reading {
    /// A thread's part in a large file that it opened or joined.
    pub fn new(content: Arc<Content>) -> Reading {
        Reading { content, at: 0, end: 0, in_flight: 0 }
    }

    /// The next unit as offset and length; `None` when nothing is left to claim. Ends: each turn claims a segment,
    /// passes a unit by, or returns.
    pub fn next_unit(&mut self, audit: &Audit, caller: &dyn Caller) -> Result<Option<(u64, usize)>, (Side, Errno)> {
        let content = self.content.clone();
        let size = content.size();
        let block = audit.block_bytes as u64;
        loop {
            if content.is_decided() {
                return Ok(None);
            }
            if self.at >= self.end {
                self.at = content.next.fetch_add(SEGMENT_BYTES, Ordering::Relaxed);
                if self.at >= size {
                    return Ok(None);
                }
                self.end = (self.at + SEGMENT_BYTES).min(size);
            }
            let at = self.pass_holes(&content, caller, block)?;
            if at >= self.end {
                self.at = self.end;
                continue;
            }
            self.at = at + block;
            let ino = content.dest.ino;
            if audit.sample.is_some_and(|sample| content.source.is_some() && !sample.draws(ino, at / block)) {
                continue;
            }
            return Ok(Some((at, block.min(self.end - at) as usize)));
        }
    }

    /// Where the next block with data on any side begins. What is a hole on both needs no reading.
    fn pass_holes(&self, content: &Content, caller: &dyn Caller, block: u64) -> Result<u64, (Side, Errno)> {
        let is_sparse = |stat: &Stat| stat.blocks * 512 < stat.size;
        let all_sparse = is_sparse(&content.dest) && content.source.as_ref().is_none_or(is_sparse);
        let Some(files) = content.files.as_ref().filter(|_| all_sparse) else { return Ok(self.at) };
        let mut next = self.end;
        for &side in content.sides() {
            let Some(file) = &files[side as usize].handle else { continue };
            match Posix::new(caller, side).next_data(file, self.at) {
                Ok(Some((start, _))) => next = next.min(start),
                Ok(None) => {}
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(self.at),
                Err(errno) => return Err((side, errno)),
            }
        }
        Ok((next / block * block).max(self.at))
    }
}
