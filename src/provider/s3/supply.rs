//! [`Supply`] and [`Demand`]: a body that is too large for memory, handed over slice by slice.
//!
//! ```text
//! request  Supply  -- an attempt begins: a channel for its slices -->  Demand  who reads the content
//!          body  <-- slices from the first byte, as they are taken --  Taker
//! ```
//! An attempt that fails drops its channel, and the next one is fed from the start. Whoever reads drops the demand to
//! give up; then the request ends with its attempt. One slice waits in a channel, so memory does not grow (I4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Slices that wait to be taken.
const WAITING_MAX: usize = 1;

/// The request's end.
#[derive(Debug)]
pub struct Supply {
    /// Bytes of the body.
    len: u64,
    /// Tells of attempts.
    attempts: mpsc::Sender<mpsc::Sender<Bytes>>,
    /// Whether the connection waits for the content.
    is_short: Arc<AtomicBool>,
}

/// The end of whoever reads the content.
#[derive(Debug)]
pub struct Demand {
    /// Is told of attempts.
    attempts: mpsc::Receiver<mpsc::Sender<Bytes>>,
}

/// One attempt, which takes slices.
#[derive(Debug)]
pub struct Taker {
    /// Where they go.
    slices: mpsc::Sender<Bytes>,
}

/// The slices of one attempt, as its body takes them.
#[derive(Debug)]
pub(super) struct Course {
    /// Bytes that have not come yet.
    pub left: u64,
    /// Brings them.
    pub slices: mpsc::Receiver<Bytes>,
    /// Set while they are waited for.
    pub is_short: Arc<AtomicBool>,
}

/// Both ends of a body of `len` bytes.
pub fn supply(len: u64) -> (Supply, Demand) {
    let (sender, attempts) = mpsc::channel(1);
    (Supply { len, attempts: sender, is_short: Arc::default() }, Demand { attempts })
}

impl Supply {
    /// Bytes of the body.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Begins an attempt; `None` if whoever reads has given up.
    pub(super) async fn open(&self) -> Option<Course> {
        let (sender, slices) = mpsc::channel(WAITING_MAX);
        self.attempts.send(sender).await.ok()?;
        self.is_short.store(false, Ordering::Relaxed);
        Some(Course { left: self.len, slices, is_short: self.is_short.clone() })
    }

    /// Whether the connection waits for the content, and not for the server.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether no further attempt can be fed.
    pub(super) fn is_closed(&self) -> bool {
        self.attempts.is_closed()
    }
}

impl Demand {
    /// The next attempt, when it begins; `None` when the request is done.
    pub async fn next(&mut self) -> Option<Taker> {
        self.attempts.recv().await.map(|slices| Taker { slices })
    }
}

impl Taker {
    /// Hands over the next bytes, once there is room for them. False if the attempt is over.
    pub async fn send(&self, slice: Bytes) -> bool {
        slice.is_empty() || self.slices.send(slice).await.is_ok()
    }
}
