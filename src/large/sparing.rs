//! Which parts of a block are written: all, what is not zeros, or what the destination has not.
//!
//! ```text
//! block    |data|data|0000|0000|data|     zeros of a device become holes of its image
//! runs     |---------|         |----|     written one after the other, from the one lease
//!
//! lease    |  source's bytes  |   destination's bytes  |     --skip-equal: both halves are compared
//! ```

use std::ops::Range;

use crate::config::EqualBlocks;
use crate::job::Job;
use crate::provider::posix::Posix;
use crate::ring::{Caller, Handle, Side};

/// Bytes that are looked at, and written or spared, together: small enough to find most of what can be spared, large
/// enough to be worth a request of their own.
const GRAIN_BYTES: usize = 64 << 10;
/// What they are compared with.
static ZEROS: [u8; GRAIN_BYTES] = [0; GRAIN_BYTES];

/// Which parts of a block are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sparing {
    /// None.
    Nothing,
    /// Zeros: the destination is a new image, in which what is not written is a hole.
    Zeros,
    /// Zeros where the destination has a hole: it was begun by an earlier run.
    ZerosInHoles,
    /// What the destination device has already.
    Equal,
}

impl Sparing {
    /// What a job spares; `is_begun` says that an earlier run has written to the destination.
    pub fn of(job: &Job, is_begun: bool) -> Sparing {
        match (job.device(Side::Source), job.device(Side::Dest), job.config.devices.equal_blocks) {
            (_, Some(_), EqualBlocks::Leave) => Sparing::Equal,
            (Some(_), None, _) if is_begun => Sparing::ZerosInHoles,
            (Some(_), None, _) => Sparing::Zeros,
            _ => Sparing::Nothing,
        }
    }

    /// Whether the destination is to have holes.
    pub fn leaves_holes(self) -> bool {
        matches!(self, Sparing::Zeros | Sparing::ZerosInHoles)
    }

    /// Bytes of a block where a lease holds `room`: half of it if the destination's bytes are read beside them.
    pub fn block_bytes(self, room: usize) -> usize {
        if self.compares(room) { (room / 2) & !4095 } else { room }
    }

    /// Whether the destination's bytes are read. A lease of a single page has no room for them.
    pub fn compares(self, room: usize) -> bool {
        self == Sparing::Equal && room >= 8192
    }
}

/// What a block is spared by.
pub(super) struct Against<'a> {
    /// Where holes are asked for.
    pub caller: &'a dyn Caller,
    /// The destination through the page cache.
    pub dest: &'a Handle,
    /// The destination's bytes, if they were read.
    pub dest_bytes: Option<&'a [u8]>,
    /// Where the block begins.
    pub block: u64,
}

/// The next run of `bytes` from `from` on that is to be written. Ends: each turn is one grain further.
pub(super) fn next_run(sparing: Sparing, bytes: &[u8], from: usize, against: &Against<'_>) -> Option<Range<usize>> {
    let grain = |at: usize| at..(at / GRAIN_BYTES * GRAIN_BYTES + GRAIN_BYTES).min(bytes.len());
    let is_spared = |range: Range<usize>| match (sparing, against.dest_bytes) {
        (Sparing::Equal, Some(dest_bytes)) => bytes[range.clone()] == dest_bytes[range],
        (Sparing::Nothing | Sparing::Equal, _) => false,
        (Sparing::Zeros, _) => bytes[range.clone()] == ZEROS[..range.len()],
        (Sparing::ZerosInHoles, _) => bytes[range.clone()] == ZEROS[..range.len()] && is_hole(against, range),
    };
    let mut start = from;
    while start < bytes.len() && is_spared(grain(start)) {
        start = grain(start).end;
    }
    let mut end = start;
    while end < bytes.len() && !is_spared(grain(end)) {
        end = grain(end).end;
    }
    (start < end).then_some(start..end)
}

/// Whether the destination has no data there. A file system that cannot tell has.
fn is_hole(against: &Against<'_>, range: Range<usize>) -> bool {
    let (start, end) = (against.block + range.start as u64, against.block + range.end as u64);
    let data = Posix::new(against.caller, Side::Dest).next_data(against.dest, start);
    matches!(data, Ok(None)) || data.is_ok_and(|data| data.is_some_and(|(data, _)| data >= end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ring::FixedBuffers;
    use crate::ring::syscalls::Kernel;

    const G: usize = GRAIN_BYTES;

    fn runs(sparing: Sparing, bytes: &[u8], dest_bytes: Option<&[u8]>) -> Vec<(usize, usize)> {
        let kernel = Kernel::new(FixedBuffers::new(1, 4096, 4096).unwrap().arena().clone());
        let dest: Handle = Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        let against = Against { caller: &kernel, dest: &dest, dest_bytes, block: 0 };
        let next = |from| next_run(sparing, bytes, from, &against);
        std::iter::successors(next(0), |run| next(run.end)).map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn runs_are_what_is_not_spared_and_nothing_else() {
        let mut bytes = vec![0; 4 * G + 700];
        assert_eq!(runs(Sparing::Nothing, &bytes, None), [(0, 4 * G + 700)]);
        assert_eq!(runs(Sparing::Zeros, &bytes, None), []);
        (bytes[0], bytes[2 * G - 1], bytes[4 * G + 699]) = (1, 1, 1);
        assert_eq!(runs(Sparing::Zeros, &bytes, None), [(0, 2 * G), (4 * G, 4 * G + 700)]);
        let mut dest = bytes.clone();
        assert_eq!(runs(Sparing::Equal, &bytes, Some(&dest)), []);
        dest[3 * G] = 9;
        assert_eq!(runs(Sparing::Equal, &bytes, Some(&dest)), [(3 * G, 4 * G)]);
        assert_eq!(runs(Sparing::Equal, &bytes, None), [(0, 4 * G + 700)], "not read, so written");
    }

    #[test]
    fn a_lease_is_halved_only_where_both_halves_are_pages() {
        assert_eq!(Sparing::Equal.block_bytes(1 << 20), 512 << 10);
        assert_eq!(Sparing::Equal.block_bytes(12_288), 4096);
        assert_eq!((Sparing::Equal.block_bytes(4096), Sparing::Equal.compares(4096)), (4096, false));
        assert_eq!(Sparing::Zeros.block_bytes(4096), 4096);
    }
}
