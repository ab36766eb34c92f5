//! [`Content`]: the bytes of one simulated file, sparse, in blocks of 4 KiB as ext4 and xfs have them.
//!
//! A block is absent (a hole), unwritten (allocated, reads as zeros, no data to SEEK_DATA) or data. The size of the
//! file is not here but with its other attributes, since it survives a power cut independently of the bytes. Bytes
//! behind the size are always zero: whoever shrinks a file calls [`Content::cut`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Bytes of a block, and the granularity of holes.
pub const BLOCK_BYTES: u64 = 4096;

/// One allocated block.
#[derive(Clone)]
enum Block {
    /// Allocated by fallocate, never written.
    Unwritten,
    /// Written.
    Data(Arc<[u8; BLOCK_BYTES as usize]>),
}

/// The bytes of a file. Cloning shares the blocks.
#[derive(Clone, Default)]
pub struct Content {
    /// Allocated blocks by index.
    blocks: BTreeMap<u64, Block>,
}

impl Content {
    /// Fills `out` with the bytes from `offset`; holes read as zeros. The caller has cut `out` to the file's size.
    pub fn read(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        for (index, start, range) in pieces(offset, out.len()) {
            if let Some(Block::Data(data)) = self.blocks.get(&index) {
                let len = range.len();
                out[range].copy_from_slice(&data[start..start + len]);
            }
        }
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (index, start, range) in pieces(offset, bytes.len()) {
            let block = self.blocks.entry(index).or_insert(Block::Unwritten);
            if matches!(block, Block::Unwritten) {
                *block = Block::Data(Arc::new([0; BLOCK_BYTES as usize]));
            }
            if let Block::Data(data) = block {
                let len = range.len();
                Arc::make_mut(data)[start..start + len].copy_from_slice(&bytes[range]);
            }
        }
    }

    /// Whether block `index` takes space.
    pub fn is_allocated(&self, index: u64) -> bool {
        self.blocks.contains_key(&index)
    }

    /// Allocates block `index` without writing it.
    pub fn allocate(&mut self, index: u64) {
        self.blocks.entry(index).or_insert(Block::Unwritten);
    }

    /// Drops what is at and behind `size`; returns the indexes of the blocks that changed.
    pub fn cut(&mut self, size: u64) -> Vec<u64> {
        let mut changed: Vec<u64> = self.blocks.split_off(&size.div_ceil(BLOCK_BYTES)).into_keys().collect();
        let tail = (size % BLOCK_BYTES) as usize;
        if let (true, Some(Block::Data(data))) = (tail > 0, self.blocks.get_mut(&(size / BLOCK_BYTES))) {
            Arc::make_mut(data)[tail..].fill(0);
            changed.push(size / BLOCK_BYTES);
        }
        changed
    }

    /// Makes block `index` what it is in `other`.
    pub fn take_block(&mut self, index: u64, other: &Content) {
        match other.blocks.get(&index) {
            Some(block) => self.blocks.insert(index, block.clone()),
            None => self.blocks.remove(&index),
        };
    }

    /// Makes block `index` allocated and zero: what a power cut leaves of a write that only reached the metadata.
    pub fn zero_block(&mut self, index: u64) {
        self.blocks.insert(index, Block::Unwritten);
    }

    /// Indexes of the allocated blocks.
    pub fn indexes(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }

    /// Allocated bytes.
    pub fn allocated_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES
    }

    /// The first run of data at or behind `from` in a file of `size` bytes, as SEEK_DATA and SEEK_HOLE tell it.
    pub fn next_data(&self, from: u64, size: u64) -> Option<(u64, u64)> {
        let is_data = |block: &Block| matches!(block, Block::Data(_));
        let mut run = self.blocks.range(from / BLOCK_BYTES..).skip_while(|(_, block)| !is_data(block));
        let (&first, _) = run.next()?;
        let start = from.max(first * BLOCK_BYTES);
        let more = run.zip(first + 1..).take_while(|((index, block), next)| *index == next && is_data(block)).count();
        let end = ((first + 1 + more as u64) * BLOCK_BYTES).min(size);
        (start < size).then_some((start, end))
    }

    /// The blocks that hold a byte other than 0: what two files of one size must agree in to be equal.
    fn visible(&self) -> impl Iterator<Item = (u64, &[u8; BLOCK_BYTES as usize])> {
        self.blocks.iter().filter_map(|(&index, block)| match block {
            Block::Data(data) if data.iter().any(|&byte| byte != 0) => Some((index, &**data)),
            _ => None,
        })
    }
}

/// Cuts `len` bytes from `offset` at block borders: (block index, start within the block, range within the bytes).
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % BLOCK_BYTES) as usize;
        let range = done..len.min(done + BLOCK_BYTES as usize - start);
        done = range.end;
        Some((at / BLOCK_BYTES, start, range))
    })
}

/// Equal bytes; whether zeros are holes does not count.
impl PartialEq for Content {
    fn eq(&self, other: &Content) -> bool {
        self.visible().eq(other.visible())
    }
}

impl Eq for Content {}

/// A fingerprint, so that two trees can be printed side by side.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut crc = crc32fast::Hasher::new();
        let mut count = 0;
        for (index, data) in self.visible() {
            crc.update(&index.to_le_bytes());
            crc.update(data);
            count += 1;
        }
        write!(f, "{count} blocks #{:08x}", crc.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_cuts_and_runs() {
        let mut content = Content::default();
        content.write(5000, &[7; 4000]);
        content.allocate(5);
        assert_eq!(content.next_data(0, 9000), Some((4096, 9000)));
        assert_eq!(content.next_data(6000, 9000), Some((6000, 9000)));
        assert_eq!(content.next_data(12288, 30000), None);
        assert_eq!(content.allocated_bytes(), 3 * 4096);
        assert_eq!(content.cut(5001), [2, 5, 1]);
        let mut out = [1; 8];
        content.read(4998, &mut out);
        assert_eq!(out, [0, 0, 7, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn zeros_and_holes_are_equal_but_other_bytes_are_not() {
        let (mut a, mut b) = (Content::default(), Content::default());
        a.write(0, &[0; 10]);
        b.allocate(3);
        assert_eq!(a, b);
        a.write(4096, &[1]);
        assert_ne!(a, b);
    }
}
