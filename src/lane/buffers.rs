//! The memory of all lanes: whole parts, under one byte budget (I4).
//!
//! A [`Buffer`] is acquired before its bytes are asked for, goes to the kernel or the HTTP client as it is, and comes
//! back when the last of them is done with it: a retry of a request shares it. What the buffers hold
//! together, in use or kept for the next part, never exceeds the budget.
//!
//! Whoever waits for memory or for a place under a throttle (provider/s3/throttle.rs) has nothing that stands behind
//! it here, so nobody waits in a circle:
//! ```text
//! buffer -> place at the destination -> place at the source -> slice of a part that is sent as it is read
//! ```
//! So slices have memory of their own, set apart ([`Pool::split`]) when there is the first such part. What that needs
//! of an object that is there already (salvage.rs) comes by requests that take no place: theirs is the part's.
//!
//! What they hold begins at a multiple of [`LINE_BYTES`]. The allocator's large blocks lie 16 bytes behind a page, and
//! to such an address the kernel's `rep movsb` copies at a quarter of the speed on AMD's Zen: 1 GiB read from memory
//! into a buffer took 0.45 s there, and takes 0.11 s into an aligned one. Their pages are asked for at once: a fault
//! for each was a twentieth of the CPU time of 1 GiB up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ring;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Unit of the budget: a semaphore counts in 32 bits.
const UNIT_BYTES: usize = 4096;
/// Buffers below this are left to the allocator.
const KEPT_BYTES_MIN: usize = 1 << 20;

/// The budget, and buffers that wait to be used again.
#[derive(Debug)]
pub(super) struct Pool {
    /// Free units.
    budget: Arc<Semaphore>,
    /// All units.
    units: AtomicUsize,
    /// Buffers not in use.
    kept: Mutex<Vec<Vec<u8>>>,
}

/// Memory for up to the bytes it was acquired for.
#[derive(Debug)]
pub(super) struct Buffer {
    /// Filled from `start` on.
    bytes: Vec<u8>,
    /// Where its content begins.
    start: usize,
    /// Its part of the budget.
    _permit: OwnedSemaphorePermit,
    /// Where it goes back to.
    pool: Arc<Pool>,
}

impl Pool {
    /// A pool of `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Arc<Pool> {
        let units = (budget_bytes / UNIT_BYTES).max(1);
        let (budget, units) = (Arc::new(Semaphore::new(units)), AtomicUsize::new(units));
        Arc::new(Pool { budget, units, kept: Mutex::new(Vec::new()) })
    }

    /// A pool of `bytes` of this one's budget, which has so much less from now on; once it has them free.
    pub async fn split(&self, bytes: usize) -> Arc<Pool> {
        let units = (bytes / UNIT_BYTES).max(1);
        // Whoever comes from now on is behind this one, and cut to what will be left.
        self.units.fetch_sub(units, Ordering::Relaxed);
        let permit = self.budget.acquire_many(units as u32).await;
        permit.expect("I4: the budget is never closed").forget();
        self.give_way(&mut self.kept.lock());
        Pool::new(bytes)
    }

    /// An empty buffer for `len` bytes, once the budget allows it and `beside`, what others hold for its sake. More
    /// than the whole budget is cut to it: the buffer still has its size, and is alone.
    pub async fn acquire(self: &Arc<Pool>, len: usize, beside: usize) -> Buffer {
        let len = room(len);
        let units = (len + beside).div_ceil(UNIT_BYTES).clamp(1, self.units.load(Ordering::Relaxed));
        let permit = self.budget.clone().acquire_many_owned(units as u32).await;
        let permit = permit.expect("I4: the budget is never closed");
        let mut bytes = self.take(len);
        let start = bytes.as_ptr().align_offset(LINE_BYTES).min(LINE_BYTES);
        bytes.resize(start, 0);
        Buffer { bytes, start, _permit: permit, pool: self.clone() }
    }

    /// Empty memory for `len` bytes from a line's beginning on: what was kept of this size, else new; what is kept
    /// gives way to it. A larger one would hold more than was taken of the budget.
    fn take(&self, len: usize) -> Vec<u8> {
        let capacity = len + LINE_BYTES;
        if len < KEPT_BYTES_MIN {
            return Vec::with_capacity(capacity);
        }
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|bytes| bytes.capacity() == capacity) {
            return kept.swap_remove(at);
        }
        self.give_way(&mut kept);
        drop(kept);
        let mut bytes = Vec::with_capacity(capacity);
        ring::populate(bytes.spare_capacity_mut());
        bytes
    }

    /// Gives back what is kept and more than what is free of the budget. Ends: every turn gives back a buffer.
    fn give_way(&self, kept: &mut Vec<Vec<u8>>) {
        let free = self.budget.available_permits() * UNIT_BYTES;
        let mut held: usize = kept.iter().map(Vec::capacity).sum();
        while held > free {
            match kept.pop() {
                Some(bytes) => held -= bytes.capacity(),
                None => break,
            }
        }
    }
}

/// The size of a buffer for `len` bytes. Large ones come in few sizes, at most an eighth of a power of two above what
/// is asked for, so that one that is kept is of use again.
fn room(len: usize) -> usize {
    match len {
        0..KEPT_BYTES_MIN => len,
        _ => len.next_multiple_of(len.next_power_of_two() / 8),
    }
}

impl Buffer {
    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Appends bytes; the caller keeps within what it acquired.
    pub fn append(&mut self, bytes: &[u8]) {
        assert!(self.bytes.len() + bytes.len() <= self.bytes.capacity(), "I4: a buffer holds what it was acquired for");
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }

    /// Lends the memory to an operation, and tells where its content begins; [`Buffer::put_back`] ends the loan.
    pub fn lend(&mut self) -> (Vec<u8>, usize) {
        (std::mem::take(&mut self.bytes), self.start)
    }

    /// Ends a loan.
    pub fn put_back(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// The bytes as a body that requests can share. The buffer goes back to its pool with the last of them.
    pub fn into_body(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() >= KEPT_BYTES_MIN {
            bytes.clear();
            self.pool.kept.lock().push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_bounds_what_is_out_and_a_buffer_is_used_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pool = Pool::new(4 << 20);
            let mut first = pool.acquire(3 << 20, 0).await;
            first.append(&[7; 100]);
            let address = first.bytes().as_ptr();
            let mut waiting = std::pin::pin!(pool.acquire((3 << 20) - 5, 0));
            let is_out = futures_poll(waiting.as_mut()).await;
            assert!(is_out, "three and three are more than four");
            let body = first.into_body();
            let (one, other) = (body.clone(), body);
            drop(one);
            assert!(futures_poll(waiting.as_mut()).await, "a request still holds it");
            assert_eq!(&other[..], &[7; 100]);
            drop(other);
            let second = waiting.await;
            assert_eq!((second.bytes().len(), second.bytes().as_ptr()), (0, address));
            drop(second);
            // The buffer of three gives way to three of one: kept, it would be a fourth, fifth and sixth MiB.
            let small =
                [pool.acquire(1 << 20, 0).await, pool.acquire(1 << 20, 0).await, pool.acquire(1 << 20, 0).await];
            assert!(small.iter().all(|buffer| buffer.bytes.capacity() == (1 << 20) + LINE_BYTES));
            assert!(small.iter().all(|buffer| buffer.bytes().as_ptr().addr().is_multiple_of(LINE_BYTES)));
            assert!(pool.kept.lock().is_empty());
            drop(small);
            drop(pool.acquire(64 << 20, 0).await);
            let received = pool.acquire(3 << 20, 1 << 20).await;
            let mut waiting = std::pin::pin!(pool.acquire(4096, 0));
            assert!(futures_poll(waiting.as_mut()).await, "what is held beside a buffer counts");
            drop(received);
            waiting.await;
            drop(pool.acquire(4 << 20, 0).await);
            let slices = pool.split(1 << 20).await;
            assert!(pool.kept.lock().is_empty(), "what was kept was of all of it");
            let (all, _slice) = (pool.acquire(4 << 20, 0).await, slices.acquire(1 << 20, 0).await);
            drop(all);
        });
    }

    /// Polls once; true if it is not ready.
    async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}
