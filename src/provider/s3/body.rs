//! Bodies: sent in slices that show progress, read whole within bounds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use reqwest::Response;
use tokio::time::Sleep;

use super::request::{STALL, describe};
use super::supply::Course;
use crate::gate::RateLimits;

/// Bodies above this size are handed over in slices of it. Measured cost of slices of 256 KiB against one piece:
/// nothing that shows above the noise (0.033 against 0.031 s of user time a GiB).
const SLICE_BYTES: usize = 256 << 10;
/// The same under a limit, so that many bodies share it evenly.
const SLICE_BYTES_LIMITED: usize = 64 << 10;
/// Longest sleep before the limits are looked at again: they may have changed.
pub(super) const LIMIT_TIME_MAX: Duration = Duration::from_millis(50);
/// Longest answer that is read whole (I4): a page of 1,000 keys of 1,024 bytes, each escaped to three times its length,
/// fits.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A body that counts what the connection has taken of it, and shares its memory with the caller.
pub(super) struct Slices {
    /// What is still to be taken, as far as it is here.
    rest: Bytes,
    /// Where the rest of a streamed body comes from.
    course: Option<Course>,
    /// Bytes taken so far.
    taken: Arc<AtomicU64>,
    /// How fast they may be taken.
    limits: Option<Arc<RateLimits>>,
    /// Until when they may not.
    rest_time: Option<Pin<Box<Sleep>>>,
}

impl Slices {
    /// Whether a body is long enough for its progress to matter.
    pub fn suit(body: &Bytes) -> bool {
        body.len() > SLICE_BYTES
    }

    /// All of `body`, counting into `taken`, no faster than `limits`.
    pub fn new(body: Bytes, taken: Arc<AtomicU64>, limits: Option<Arc<RateLimits>>) -> Slices {
        Slices { rest: body, course: None, taken, limits, rest_time: None }
    }

    /// The length of the next slice, once it may go. Ends: every turn waits, or is the last.
    fn poll_len(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let Some(limits) = self.limits.as_ref().filter(|limits| limits.bytes.get().is_some()) else {
            return Poll::Ready(self.rest.len().min(SLICE_BYTES));
        };
        let len = self.rest.len().min(SLICE_BYTES_LIMITED);
        loop {
            if let Some(sleep) = &mut self.rest_time {
                ready!(sleep.as_mut().poll(context));
            }
            self.rest_time = match limits.bytes.take(len as u64) {
                Ok(()) => None,
                Err(wait) => Some(Box::pin(tokio::time::sleep(wait.min(LIMIT_TIME_MAX)))),
            };
            if self.rest_time.is_none() {
                return Poll::Ready(len);
            }
        }
    }

    /// The same of a body that comes as it is taken.
    pub fn streamed(course: Course, taken: Arc<AtomicU64>, limits: Option<Arc<RateLimits>>) -> Slices {
        Slices { course: Some(course), ..Slices::new(Bytes::new(), taken, limits) }
    }

    /// Bytes of a streamed body that are not here yet.
    fn coming(&self) -> u64 {
        self.course.as_ref().map_or(0, |course| course.left)
    }

    /// Makes `rest` hold something, unless all has been taken.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let Some(course) = self.course.as_mut().filter(|course| self.rest.is_empty() && course.left > 0) else {
            return Poll::Ready(Ok(()));
        };
        let polled = course.slices.poll_recv(context);
        course.is_short.store(polled.is_pending(), Ordering::Relaxed);
        match ready!(polled) {
            Some(slice) if slice.len() as u64 <= course.left => {
                course.left -= slice.len() as u64;
                self.rest = slice;
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Err(Cut)),
        }
    }
}

/// A streamed body ended before its length: the connection is cut, since nothing else can follow.
#[derive(Debug)]
pub(super) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("what was to be sent ended early")
    }
}

impl std::error::Error for Cut {}

impl Body for Slices {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Err(cut) = ready!(self.poll_more(context)) {
            return Poll::Ready(Some(Err(cut)));
        }
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = ready!(self.poll_len(context));
        let slice = self.rest.split_to(len);
        self.taken.fetch_add(len as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.coming() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64 + self.coming())
    }
}

/// The next bytes of an answer; `Err` tells what broke off.
pub(super) async fn next(response: &mut Response) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(STALL, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(describe(error)),
        Err(_) => Err(format!("the answer stalled for {} s", STALL.as_secs())),
    }
}

/// The whole body of an answer.
pub(super) async fn read_whole(mut response: Response) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    // Ends: with the answer, or at its bound.
    while let Some(chunk) = next(&mut response).await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err("the answer is far too long".to_owned());
        }
    }
    Ok(body.freeze())
}
