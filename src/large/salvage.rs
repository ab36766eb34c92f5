//! Bad sectors: a read that failed is tried again in halves, down to the blocks that cannot be read.
//!
//! ```text
//! |--------------- failed ---------------|
//! |------- read ------||---- failed -----|
//!                      |- read -||failed-|  ... down to one logical block, which has one more chance
//! ```
//! What an earlier run of the job has read of such a block stays: a disk that fails gives less each time, and what it
//! gave once may be the only copy. On the spot, by plain reads: a disk that fails takes its time, and what else is in
//! flight completes meanwhile.

use std::ops::Range;

use crate::error::Errno;
use crate::extents::Extents;
use crate::ring::{Answer, Arena, Caller, Handle, Lease, Op, Side};

/// Times one block is read before it counts as unreadable.
const BLOCK_TRIES: u32 = 2;

/// A part of a block that could not be read.
pub(crate) struct Failed<'f> {
    /// What it is read from.
    pub file: &'f Handle,
    /// Where the block begins.
    pub block: u64,
    /// Its part, in bytes of the lease.
    pub part: Range<usize>,
    /// One past the last byte of the lease that counts.
    pub wanted: usize,
    /// The smallest part that is read.
    pub grain: usize,
    /// What earlier runs have made of it, to be read through the page cache; the first that is not zeros counts.
    pub earlier: &'f [Handle],
}

/// Whether an errno tells of the medium: what lies around it may be readable.
pub(crate) fn is_of_medium(errno: Errno) -> bool {
    matches!(errno, Errno::IO | Errno::NODATA | Errno::REMOTEIO | Errno::ILSEQ)
}

/// Reads what can be read of `failed` into `lease`, and the rest from earlier copies, or zeroes it; the lease, and what
/// is missing. An errno that tells of anything else ends it. Ends: each turn reads a part, gives one up, or halves it.
pub(crate) fn read_around(
    caller: &dyn Caller,
    arena: &Arena,
    mut lease: Lease,
    failed: &Failed<'_>,
) -> (Lease, Result<Extents, Errno>) {
    let mut missing = Extents::default();
    let mut parts = vec![failed.part.clone()];
    while let Some(part) = parts.pop() {
        let is_least = part.len() <= failed.grain;
        let mut result = Err(Errno::IO);
        for _ in 0..if is_least { BLOCK_TRIES } else { 1 } {
            (lease, result) = read((caller, Side::Source), lease, failed.file, (failed, part.clone()));
            if result.is_ok() {
                break;
            }
        }
        match result {
            Ok(()) => {}
            Err(errno) if !is_of_medium(errno) => return (lease, Err(errno)),
            Err(_) if is_least => {
                lease = recall(caller, arena, lease, failed, part.clone());
                let end = part.end.min(failed.wanted);
                missing.add(failed.block + part.start as u64, end.saturating_sub(part.start) as u64);
            }
            Err(_) => {
                let middle = part.start + (part.len() / 2).next_multiple_of(failed.grain);
                parts.extend([middle..part.end, part.start..middle]);
            }
        }
    }
    (lease, Ok(missing))
}

/// Fills a part that cannot be read with what an earlier run has read there, else with zeros.
fn recall(caller: &dyn Caller, arena: &Arena, mut lease: Lease, failed: &Failed<'_>, part: Range<usize>) -> Lease {
    for copy in failed.earlier {
        let read;
        (lease, read) = self::read((caller, Side::Dest), lease, copy, (failed, part.clone()));
        if read.is_ok() && arena.bytes(&lease)[part.clone()].iter().any(|byte| *byte != 0) {
            return lease;
        }
    }
    arena.bytes_mut(&mut lease)[part].fill(0);
    lease
}

/// Reads all of a part that counts. Ends: every turn reads a byte at least.
fn read(
    (caller, side): (&dyn Caller, Side),
    lease: Lease,
    file: &Handle,
    (failed, part): (&Failed<'_>, Range<usize>),
) -> (Lease, Result<(), Errno>) {
    let (file, offset) = (file.clone(), failed.block + part.start as u64);
    let mut op = Op::Read { file, lease, start: part.start, len: part.len(), offset };
    let result = loop {
        let answer = caller.call(side, &mut op);
        let Op::Read { start, len, offset, .. } = &mut op else { unreachable!("a read stays a read") };
        match answer {
            Ok(Answer::Count(0)) => break Err(Errno::IO),
            Ok(Answer::Count(count)) => {
                (*start, *len, *offset) = (*start + count, *len - count, *offset + count as u64);
                if *start >= part.end.min(failed.wanted) {
                    break Ok(());
                }
            }
            Ok(other) => unreachable!("a read answers a count, not {other:?}"),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => break Err(errno),
        }
    };
    let Op::Read { lease, .. } = op else { unreachable!("a read stays a read") };
    (lease, result)
}
