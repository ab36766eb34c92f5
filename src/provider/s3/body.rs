//! Bodies: sent in slices that show progress, read whole within bounds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use reqwest::Response;
use tokio::time::Sleep;

use super::request::{STALL, describe};
use super::supply::Course;
use crate::gate::{RateLimits, Turn};
use crate::report::Meter;

/// Bodies above this size are handed over in slices of it. Measured cost of slices of 256 KiB against one piece:
/// nothing that shows above the noise (0.033 against 0.031 s of user time a GiB).
const SLICE_BYTES: usize = 256 << 10;
/// The same under a limit, which many bodies share in turns: a hundredth of a second's bytes within this range. So each
/// of a hundred bodies gets on every second, and no server takes its connection for dead.
const SLICE_BYTES_LIMITED: std::ops::RangeInclusive<u64> = 4 << 10..=64 << 10;
/// Longest sleep before the limits are looked at again: they may have changed.
pub(super) const LIMIT_TIME_MAX: Duration = Duration::from_millis(50);
/// Longest answer that is read whole (I4): a page of 1,000 keys of 1,024 bytes, each escaped to three times its length,
/// fits.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What is sent, sharing its memory with the caller, and who counts it as it passes.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// The bytes.
    pub(super) bytes: Bytes,
    /// Counts them. What goes in one piece is not counted on its way.
    pub(super) meter: Option<Arc<Meter>>,
}

impl Payload {
    /// Bytes that `meter` counts.
    pub fn metered(bytes: Bytes, meter: Option<Arc<Meter>>) -> Payload {
        Payload { bytes, meter }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::metered(bytes, None)
    }
}

/// How far a body is on its way.
#[derive(Debug, Default)]
pub(super) struct Passage {
    /// Bytes that the connection has taken.
    pub taken: AtomicU64,
    /// Set while the body waits for its turn under a limit, and the connection for the body.
    pub is_held: AtomicBool,
}

/// A body that tells how far it is, and shares its memory with the caller.
pub(super) struct Slices {
    /// What is still to be taken, as far as it is here.
    rest: Bytes,
    /// Where the rest of a streamed body comes from.
    course: Option<Course>,
    /// How far it is.
    passage: Arc<Passage>,
    /// Who else counts them, over all attempts.
    meter: Option<Arc<Meter>>,
    /// How fast they may be taken.
    limits: Option<Arc<RateLimits>>,
    /// Until when they may not.
    rest_time: Option<Pin<Box<Sleep>>>,
    /// Whose turn it is then.
    turn: Turn,
}

impl Slices {
    /// Whether a body is long enough for its progress to matter.
    pub fn suit(body: &Payload) -> bool {
        body.bytes.len() > SLICE_BYTES
    }

    /// All of `body`, telling of itself in `passage`, no faster than `limits`.
    pub fn new(body: Payload, passage: Arc<Passage>, limits: Option<Arc<RateLimits>>) -> Slices {
        Slices {
            rest: body.bytes,
            course: None,
            passage,
            meter: body.meter,
            limits,
            rest_time: None,
            turn: Turn::default(),
        }
    }

    /// The length of the next slice, once it may go. Ends: every turn waits, or is the last.
    fn poll_len(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        loop {
            let Some((limits, per_s)) = self.limits.as_ref().and_then(|limits| Some((limits, limits.bytes.get()?)))
            else {
                self.rest_time = None;
                return Poll::Ready(self.rest.len().min(SLICE_BYTES));
            };
            let most = (per_s / 100).clamp(*SLICE_BYTES_LIMITED.start(), *SLICE_BYTES_LIMITED.end());
            let len = self.rest.len().min(most as usize);
            if let Some(sleep) = &mut self.rest_time {
                ready!(sleep.as_mut().poll(context));
            }
            self.rest_time = match limits.bytes.take_in_turn(len as u64, &mut self.turn) {
                Ok(()) => None,
                Err(wait) => Some(Box::pin(tokio::time::sleep(wait.min(LIMIT_TIME_MAX)))),
            };
            if self.rest_time.is_none() {
                return Poll::Ready(len);
            }
        }
    }

    /// The same of a body that comes as it is taken.
    pub fn streamed(course: Course, passage: Arc<Passage>, limits: Option<Arc<RateLimits>>) -> Slices {
        let meter = course.meter.clone();
        Slices { course: Some(course), ..Slices::new(Payload::metered(Bytes::new(), meter), passage, limits) }
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
        let polled = self.poll_len(context);
        self.passage.is_held.store(polled.is_pending(), Ordering::Relaxed);
        let len = ready!(polled);
        let slice = self.rest.split_to(len);
        let taken = self.passage.taken.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        if let Some(meter) = &self.meter {
            meter.reach(taken);
        }
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;

    use rusty_s3::Method;

    use super::super::request::{Request, fetch};
    use super::super::retry::Patience;
    use super::super::{Bucket, Key};
    use super::*;
    use crate::config::S3Options;
    use crate::error::Cause;
    use crate::ring::Side;

    /// Bytes a second while nobody has used them up.
    const RATE: u64 = 1 << 30;

    /// Answers what is about the bucket. What is about a key is never answered, and is nobody's fault but the server's:
    /// as soon as that has taken what it takes of the body, others have used up the limit for an hour.
    fn serve(mut socket: TcpStream, limits: &RateLimits, held: &mpsc::Sender<TcpStream>) {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            if socket.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        if !head.contains("/bucket/k-") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            return serve(socket, limits, held);
        }
        if head.contains("/bucket/k-whole") {
            let (_, len) = head.split_once("content-length: ").unwrap();
            let mut body = vec![0; len.lines().next().unwrap().parse().unwrap()];
            socket.read_exact(&mut body).unwrap();
        } else {
            // Until the connection takes no more of it.
            std::thread::sleep(STALL / 2);
        }
        limits.bytes.charge(3600 * RATE);
        held.send(socket).unwrap();
    }

    #[test]
    fn what_waits_for_the_server_is_given_up_under_a_limit_that_others_use_up() {
        let limits = Arc::new(RateLimits::default());
        let (held, _sockets) = mpsc::channel();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint_url = Some(format!("http://{}", listener.local_addr().unwrap()));
        let serving = limits.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (limits, held) = (serving.clone(), held.clone());
                std::thread::spawn(move || serve(socket, &limits, &held));
            }
        });
        let options = S3Options { endpoint_url, ..S3Options::default() };
        let pairs = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bucket = Bucket::open_at("bucket", "", &options, Side::Dest, &variables).await.unwrap();
            bucket.limit_bodies(&limits);
            let http = bucket.connect().unwrap();
            let patience = Patience { silent_max: 1, ..Patience::JOB };
            for (name, bytes) in
                [("k-none", 0), ("k-whole-small", 1000), ("k-whole-large", 3 << 20), ("k-part", 64 << 20)]
            {
                limits.bytes.set(Some(RATE));
                let key = Key::new(name.to_owned()).unwrap();
                let request = match bytes {
                    0 => Request::new("read", Method::Head, Some(&key)),
                    bytes => Request::new("write", Method::Put, Some(&key)).body(Bytes::from(vec![0; bytes])),
                };
                let asked = tokio::time::timeout(STALL * 10, fetch(&bucket, &http, &request, patience)).await;
                let error = asked.unwrap_or_else(|_| panic!("{name}: it waits for ever")).map(|_| ()).unwrap_err();
                assert!(matches!(error.cause, Cause::Silence(_)), "{name}: {error}");
                assert!(limits.bytes.wait().is_err(), "{name}: nothing holds anybody");
            }
        });
    }

    /// What waits for its own turn waits as long as it takes.
    #[test]
    fn what_waits_for_its_turn_says_so() {
        let limits = Arc::new(RateLimits::default());
        limits.bytes.set(Some(RATE));
        limits.bytes.charge(3600 * RATE);
        let passage = Arc::<Passage>::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let body = Payload::from(Bytes::from_static(b"content"));
            let mut slices = Slices::new(body, passage.clone(), Some(limits.clone()));
            let mut context = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(&mut slices).poll_frame(&mut context).is_pending());
            assert!(passage.is_held.load(Ordering::Relaxed));
            limits.lift();
            tokio::time::sleep(LIMIT_TIME_MAX).await;
            assert!(Pin::new(&mut slices).poll_frame(&mut context).is_ready());
            assert!(!passage.is_held.load(Ordering::Relaxed));
            assert_eq!(passage.taken.load(Ordering::Relaxed), 7);
        });
    }
}
