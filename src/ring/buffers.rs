//! One arena of page-aligned memory per shard, handed out as leases.
//!
//! ```text
//! arena   |  block 0  |  block 1  |  block 2  | ...      block = --buffer-size, rounded up to pages
//!             lease       |s|s|s|s|                      a block may be split into small leases for small files
//! ```
//!
//! A [`Lease`] is the only way to the bytes it covers: it cannot be cloned or forged, so whoever holds it (a
//! transfer, or the operation that is under way) has them alone. The arena is mapped once, and unmapped only after
//! the interpreter that could touch it is gone (I3). The ring registers as much of it as RLIMIT_MEMLOCK allows.

#![expect(unsafe_code, reason = "maps the arena and hands out disjoint slices of it")]

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Alignment of every lease in bytes: enough for O_DIRECT on every block size up to a page.
pub const LEASE_ALIGN: usize = 4096;

/// Exclusive use of `len` bytes of the arena, until it is given back with [`FixedBuffers::release`].
#[derive(Debug)]
#[must_use = "a lease that is dropped is lost to the arena"]
pub struct Lease {
    /// Byte offset in the arena, a multiple of [`LEASE_ALIGN`].
    offset: usize,
    /// Length in bytes.
    len: usize,
}

impl Lease {
    /// Length in bytes.
    pub fn capacity(&self) -> usize {
        self.len
    }

    /// Byte offset in the arena: what the ring adds to the registered buffer's address.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

/// Has the kernel back `memory` with pages in one call (MADV_POPULATE_WRITE, Linux 5.14), where it would fault for each
/// of them while data is copied there. What it cannot do, the faults do. The edges, less than a page, are left out.
pub fn populate(memory: &mut [MaybeUninit<u8>]) {
    let start = memory.as_mut_ptr().align_offset(LEASE_ALIGN).min(memory.len());
    let pages = &mut memory[start..];
    let len = pages.len() / LEASE_ALIGN * LEASE_ALIGN;
    // SAFETY: the pages are exclusively borrowed, and populating them changes no byte that is in them.
    let _ = unsafe { rustix::mm::madvise(pages.as_mut_ptr().cast(), len, rustix::mm::Advice::LinuxPopulateWrite) };
}

/// The memory itself, shared by a shard and its interpreter.
#[derive(Debug)]
pub struct Arena {
    /// Start of the mapping.
    base: NonNull<u8>,
    /// Length of the mapping in bytes.
    len: usize,
}

// SAFETY: the mapping is plain memory without thread affinity; access to its bytes goes through a `Lease`, which is
// unique, or through the kernel while an `Op` owns that lease.
unsafe impl Send for Arena {}
// SAFETY: as above: a shared `Arena` gives no access without a unique `Lease`.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps `len` bytes of zeroed anonymous memory.
    fn map(len: usize) -> Result<Arena> {
        // SAFETY: a fresh private anonymous mapping; nothing else refers to it.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE,
            )
        };
        let base = base.map_err(|errno| Error::os("map", "buffers", errno))?;
        // Huge pages where there are any: registering pins every page, and 64 MiB of small ones cost 25 ms.
        // SAFETY: advice on the mapping just made, which holds nothing yet.
        let _ = unsafe { rustix::mm::madvise(base, len, rustix::mm::Advice::LinuxHugepage) };
        let base = NonNull::new(base.cast()).expect("I3: mmap never returns null on success");
        Ok(Arena { base, len })
    }

    /// Start of the arena, for registration and for addresses inside submissions.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the arena holds nothing; it never does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The leased bytes.
    pub fn bytes<'a>(&'a self, lease: &'a Lease) -> &'a [u8] {
        self.check(lease);
        // SAFETY: in bounds; the unique lease is borrowed, and no operation that could write these bytes is in flight,
        // for such an operation would own the lease.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(lease.offset), lease.len) }
    }

    /// The leased bytes, for writing.
    pub fn bytes_mut<'a>(&'a self, lease: &'a mut Lease) -> &'a mut [u8] {
        self.check(lease);
        // SAFETY: as for `bytes`, and the lease is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(lease.offset), lease.len) }
    }

    fn check(&self, lease: &Lease) {
        assert!(lease.offset + lease.len <= self.len, "I3: a lease lies in its arena");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; every lease user holds an `Arc` of this arena, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Hands out leases of one arena; owned by a shard.
#[derive(Debug)]
pub struct FixedBuffers {
    /// The memory.
    arena: Arc<Arena>,
    /// Bytes of one block.
    block_bytes: usize,
    /// Bytes of one small lease; a block splits into `block_bytes / small_bytes` of them.
    small_bytes: usize,
    /// Indexes of blocks that are whole and free.
    free_blocks: Vec<usize>,
    /// Offsets of free small leases.
    free_small: Vec<usize>,
    /// Per block: how many small leases of it are out or free; 0 when the block is not split.
    split: Vec<u32>,
    /// Per block: how many small leases of it are out.
    small_out: Vec<u32>,
}

impl FixedBuffers {
    /// `blocks` blocks of `block_bytes` (rounded up to pages), splitting into leases of `small_bytes` on demand.
    pub fn new(blocks: usize, block_bytes: usize, small_bytes: usize) -> Result<FixedBuffers> {
        let block_bytes = block_bytes.next_multiple_of(LEASE_ALIGN);
        let small_bytes = small_bytes.next_multiple_of(LEASE_ALIGN).min(block_bytes);
        let arena = Arc::new(Arena::map(blocks * block_bytes)?);
        Ok(FixedBuffers {
            arena,
            block_bytes,
            small_bytes,
            free_blocks: (0..blocks).rev().collect(),
            free_small: Vec::with_capacity(blocks * (block_bytes / small_bytes)),
            split: vec![0; blocks],
            small_out: vec![0; blocks],
        })
    }

    /// The memory, for the interpreter.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Bytes of one block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Bytes of one small lease.
    pub fn small_bytes(&self) -> usize {
        self.small_bytes
    }

    /// A lease of at least `len` bytes (at most a block), or `None` while too many are out.
    pub fn acquire(&mut self, len: usize) -> Option<Lease> {
        assert!(len <= self.block_bytes, "a lease is at most one block");
        match len <= self.small_bytes && self.small_bytes < self.block_bytes {
            true => self.acquire_small(),
            false => self.acquire_block(),
        }
    }

    fn acquire_block(&mut self) -> Option<Lease> {
        let block = self.free_blocks.pop()?;
        Some(Lease { offset: block * self.block_bytes, len: self.block_bytes })
    }

    fn acquire_small(&mut self) -> Option<Lease> {
        if self.free_small.is_empty() {
            let block = self.free_blocks.pop()?;
            let count = self.block_bytes / self.small_bytes;
            self.split[block] = count as u32;
            let start = block * self.block_bytes;
            self.free_small.extend((0..count).rev().map(|i| start + i * self.small_bytes));
        }
        let offset = self.free_small.pop()?;
        self.small_out[offset / self.block_bytes] += 1;
        Some(Lease { offset, len: self.small_bytes })
    }

    /// Takes a lease back. A split block is whole again when its last small lease is back.
    pub fn release(&mut self, lease: Lease) {
        let block = lease.offset / self.block_bytes;
        if self.split[block] == 0 {
            self.free_blocks.push(block);
            return;
        }
        self.small_out[block] -= 1;
        self.free_small.push(lease.offset);
        if self.small_out[block] == 0 && self.free_blocks.is_empty() {
            self.free_small.retain(|offset| offset / self.block_bytes != block);
            self.split[block] = 0;
            self.free_blocks.push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_disjoint_and_come_back() {
        let mut buffers = FixedBuffers::new(2, 16384, 4096).unwrap();
        let block = buffers.acquire(16384).unwrap();
        let mut small: Vec<Lease> = (0..4).map(|_| buffers.acquire(100).unwrap()).collect();
        assert!(buffers.acquire(1).is_none());
        let arena = buffers.arena().clone();
        for (i, lease) in small.iter_mut().enumerate() {
            arena.bytes_mut(lease).fill(i as u8);
        }
        for (i, lease) in small.iter().enumerate() {
            assert!(arena.bytes(lease).iter().all(|&b| b == i as u8));
        }
        small.drain(..).for_each(|lease| buffers.release(lease));
        buffers.release(block);
        let blocks: Vec<Lease> = (0..2).map(|_| buffers.acquire(16384).unwrap()).collect();
        assert_eq!(blocks.len(), 2);
        blocks.into_iter().for_each(|lease| buffers.release(lease));
    }
}
