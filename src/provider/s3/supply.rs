//! [`Supply`] and [`Demand`]: a body that is too large for memory, handed over slice by slice.
//!
//! ```text
//! request  Supply   -- an attempt is wanted -------------------------->  Demand  who reads the content
//!          Opening  <-- it may begin ------- Taker
//!                   -- it has its place under the throttle ---------->  Taker
//!          Course   <-- slices from the first byte, as they are taken --
//! ```
//! An attempt that fails drops its channel, and the next one is fed from the start, when whoever reads lets it begin: a
//! job that is paused opens no connection. Whoever reads drops the demand to give up; then the request ends with its
//! attempt. One slice waits in a channel, and none before the attempt has all that it needs, so memory does not grow
//! (I4) and nobody waits for memory that another one holds who waits for a place (lane/buffers.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::report::Meter;

/// Slices that wait to be taken.
const WAITING_MAX: usize = 1;

/// The request's end.
#[derive(Debug)]
pub struct Supply {
    /// Bytes of the body.
    len: u64,
    /// Tells of attempts.
    attempts: mpsc::Sender<Taker>,
    /// Whether the connection waits for the content.
    is_short: Arc<AtomicBool>,
    /// Counts what is sent.
    meter: Option<Arc<Meter>>,
}

/// The end of whoever reads the content.
#[derive(Debug)]
pub struct Demand {
    /// Is told of attempts.
    attempts: mpsc::Receiver<Taker>,
}

/// One attempt, which takes slices.
#[derive(Debug)]
pub struct Taker {
    /// Where they go.
    slices: mpsc::Sender<Bytes>,
    /// Told that it may begin; tells that it has.
    beginning: Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>,
}

/// An attempt that may begin.
#[derive(Debug)]
pub(super) struct Opening {
    /// What it will take.
    course: Course,
    /// Told that it begins.
    begun: oneshot::Sender<()>,
}

impl Opening {
    /// It begins.
    pub(super) fn open(self) -> Course {
        // Whoever reads may have given up: then the course ends early.
        let _ = self.begun.send(());
        self.course
    }
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
    /// Counts them as they are taken.
    pub meter: Option<Arc<Meter>>,
}

/// Both ends of a body of `len` bytes, which `meter` counts as it is sent.
pub fn supply(len: u64, meter: Option<Arc<Meter>>) -> (Supply, Demand) {
    let (sender, attempts) = mpsc::channel(1);
    (Supply { len, attempts: sender, is_short: Arc::default(), meter }, Demand { attempts })
}

impl Supply {
    /// Bytes of the body.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// An attempt, once it may begin; `None` if whoever reads has given up.
    pub(super) async fn attempt(&self) -> Option<Opening> {
        let (sender, slices) = mpsc::channel(WAITING_MAX);
        let (may_begin, beginning) = oneshot::channel();
        let (begun, has_begun) = oneshot::channel();
        self.attempts.send(Taker { slices: sender, beginning: Some((may_begin, has_begun)) }).await.ok()?;
        beginning.await.ok()?;
        self.is_short.store(false, Ordering::Relaxed);
        let (is_short, meter) = (self.is_short.clone(), self.meter.clone());
        Some(Opening { course: Course { left: self.len, slices, is_short, meter }, begun })
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
    /// The next attempt, which waits until it may begin; `None` when the request is done.
    pub async fn next(&mut self) -> Option<Taker> {
        self.attempts.recv().await
    }
}

impl Taker {
    /// Lets the attempt begin, and waits until it does. False if it is over before.
    pub async fn begin(&mut self) -> bool {
        match self.beginning.take() {
            Some((may_begin, has_begun)) => may_begin.send(()).is_ok() && has_begun.await.is_ok(),
            None => true,
        }
    }

    /// Hands over the next bytes, once there is room for them. False if the attempt is over.
    pub async fn send(&self, slice: Bytes) -> bool {
        slice.is_empty() || self.slices.send(slice).await.is_ok()
    }

    /// Waits until there is room, or the attempt is over. May be dropped while it waits.
    pub async fn room(&self) {
        // Room is not kept: nobody else sends.
        drop(self.slices.reserve().await);
    }
}
