//! Bodies: sent in slices that show progress, read whole within bounds.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use reqwest::Response;

use super::request::{STALL, describe};

/// Bodies above this size are handed over in slices of it. Measured cost of slices of 256 KiB against one piece:
/// nothing that shows above the noise (0.033 against 0.031 s of user time a GiB).
const SLICE_BYTES: usize = 256 << 10;
/// Longest answer that is read whole (I4): a page of 1,000 keys of 1,024 bytes, each escaped to three times its length,
/// fits.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A body that counts what the connection has taken of it, and shares its memory with the caller.
pub(super) struct Slices {
    /// What is still to be taken.
    rest: Bytes,
    /// Bytes taken so far.
    taken: Arc<AtomicU64>,
}

impl Slices {
    /// Whether a body is long enough for its progress to matter.
    pub fn suit(body: &Bytes) -> bool {
        body.len() > SLICE_BYTES
    }

    /// All of `body`, counting into `taken`.
    pub fn new(body: Bytes, taken: Arc<AtomicU64>) -> Slices {
        Slices { rest: body, taken }
    }
}

impl Body for Slices {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(SLICE_BYTES);
        let slice = self.rest.split_to(len);
        self.taken.fetch_add(len as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
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
