//! An S3 server in memory that breaks as told: for what real servers do too seldom to wait for.
//!
//! ```text
//! FaultServer (test's thread)  --script--> rules      one thread a connection, blocking:
//!      .counts() .object() ..  <---------- state      head -> rule -> body -> store.handle -> answer, spoilt
//! ```
//!
//! It checks what presigned requests must be ([`Terms`]) but not the signature itself: s3s-fs, garage and radosgw do.
//! Bodies are counted as they pass the socket, so that "a resume sends again at most X" can be asserted.

pub mod crc64;
pub mod http;
mod rule;
mod store;
mod terms;

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::Rng;
use http::{Request, rfc1123, write_head_announcing};

pub use rule::{Fault, Kind, Rule};
pub use store::{Answer, Checksums, Object, Upload};
pub use terms::Terms;

/// A running server; its connections end when it is dropped.
#[derive(Debug)]
pub struct FaultServer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// What has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests by kind, refused ones too.
    pub requests: BTreeMap<Kind, u64>,
    /// Bytes of request bodies.
    pub body_in: u64,
    /// Bytes of answers' bodies.
    pub body_out: u64,
    /// Requests that met a fault.
    pub faults: u64,
    /// Most requests under way at once.
    pub concurrent_max: u64,
    /// Connections accepted.
    pub connections: u64,
}

impl Counts {
    /// Requests of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.requests.get(&kind).copied().unwrap_or(0)
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    is_stopping: AtomicBool,
}

/// What is behind the lock.
#[derive(Debug)]
struct State {
    store: store::Store,
    rules: Vec<Rule>,
    terms: Terms,
    counts: Counts,
    concurrent: u64,
    rng: Rng,
    sockets: Vec<TcpStream>,
}

/// Bytes moved between looks at the clock and the counters.
const CHUNK_BYTES: usize = 64 << 10;
/// Longest body that is kept.
const BODY_BYTES_MAX: u64 = 6 << 30;

impl FaultServer {
    /// A server without buckets; `seed` decides which requests a rate hits.
    pub fn start(seed: u64) -> FaultServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            store: store::Store::new(),
            rules: Vec::new(),
            terms: Terms::default(),
            counts: Counts::default(),
            concurrent: 0,
            rng: Rng::new(seed),
            sockets: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), is_stopping: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        FaultServer { shared, address }
    }

    /// For `--endpoint-url`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// Makes an empty bucket.
    pub fn make_bucket(&self, name: &str) {
        self.state().store.buckets.insert(name.to_owned(), BTreeMap::new());
    }

    /// Adds a rule; of the rules that fit a request the first one strikes.
    pub fn script(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// What a request must be to be let in.
    pub fn set_terms(&self, terms: Terms) {
        self.state().terms = terms;
    }

    /// Whether checksums are verified and told.
    pub fn set_checksums(&self, checksums: Checksums) {
        self.state().store.checksums = checksums;
    }

    /// Most entries of one page of a listing.
    pub fn set_page_max(&self, entries: usize) {
        self.state().store.page_max = entries;
    }

    /// Least bytes of a part that is not the last.
    pub fn set_part_bytes_min(&self, bytes: usize) {
        self.state().store.part_bytes_min = bytes;
    }

    /// What has passed since the start or the last [`FaultServer::reset_counts`].
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// Counts from zero.
    pub fn reset_counts(&self) {
        self.state().counts = Counts::default();
    }

    /// An object as it is.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Object> {
        self.state().store.buckets.get(bucket).and_then(|objects| objects.get(key)).cloned()
    }

    /// The keys of a bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.state().store.buckets.get(bucket).map(|objects| objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// Puts an object there, past all checks.
    pub fn put(&self, bucket: &str, key: &str, body: impl Into<Bytes>, attributes: &[(&str, &str)]) {
        let body = body.into();
        let crc64 = crc64::crc64(&body);
        let attributes = attributes.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut state = self.state();
        let object = state.store.object(body, crc64, attributes);
        state.store.objects(bucket).insert(key.to_owned(), object);
    }

    /// Gives an object headers about its content, past all checks.
    pub fn set_headers(&self, bucket: &str, key: &str, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.state().store.objects(bucket).get_mut(key).expect("an object").headers = headers;
    }

    /// Takes an object away.
    pub fn remove(&self, bucket: &str, key: &str) {
        self.state().store.objects(bucket).remove(key);
    }

    /// Ends all uploads, as a lifecycle rule does.
    pub fn forget_uploads(&self) {
        self.state().store.uploads.clear();
    }

    /// Begins an upload as another client does, past all checks.
    pub fn begin_upload(&self, bucket: &str, key: &str) {
        self.state().store.begin_upload((bucket, key), BTreeMap::new(), BTreeMap::new(), None);
    }

    /// The uploads that have not ended.
    pub fn uploads(&self) -> Vec<Upload> {
        self.state().store.uploads.values().cloned().collect()
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; it sees the flag.
        let _ = TcpStream::connect(self.address);
        for socket in self.state().sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Why a connection is over.
enum End {
    /// The client or the socket ended it, or an answer that ends it was sent.
    Closed,
    /// It is to be reset.
    Reset,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Closed
    }
}

impl Shared {
    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        for socket in listener.incoming() {
            let Ok(socket) = socket else { continue };
            if self.is_stopping() {
                return;
            }
            {
                let mut state = self.state.lock();
                state.counts.connections += 1;
                state.sockets.extend(socket.try_clone());
            }
            let shared = Arc::clone(&self);
            std::thread::spawn(move || shared.serve(&socket));
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn serve(&self, socket: &TcpStream) {
        let _ = socket.set_nodelay(true);
        let mut reader = BufReader::with_capacity(CHUNK_BYTES, socket);
        let end = loop {
            match self.exchange(&mut reader, socket) {
                Ok(()) => {}
                Err(end) => break end,
            }
        };
        if matches!(end, End::Reset) {
            // Closing with a linger of zero sends RST (socket(7)).
            let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
        let mut state = self.state.lock();
        let peer = socket.peer_addr().ok();
        state.sockets.retain(|other| other.peer_addr().ok() != peer);
        drop(state);
        if matches!(end, End::Closed) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// One request and its answer.
    fn exchange(&self, reader: &mut BufReader<&TcpStream>, mut socket: &TcpStream) -> Result<(), End> {
        let request = Request::read(reader)?.ok_or(End::Closed)?;
        let kind = Kind::of(&request);
        let fault = self.begin(&request, kind);
        let _under_way = UnderWay(self);
        if request.expects_continue() {
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = match self.read_body(&request, reader, fault.as_ref())? {
            Body::Whole(body) => body,
            Body::Refused(answer) => {
                self.send(socket, &request, answer.with("Connection", "close"), None)?;
                return Err(End::Closed);
            }
        };
        let answer = self.answer(&request, body, fault.as_ref())?;
        self.send(socket, &request, answer, fault.as_ref())
    }

    /// Counts a request and asks the rules.
    fn begin(&self, request: &Request, kind: Kind) -> Option<Fault> {
        let mut state = self.state.lock();
        let State { rules, rng, counts, concurrent, .. } = &mut *state;
        *counts.requests.entry(kind).or_default() += 1;
        *concurrent += 1;
        counts.concurrent_max = counts.concurrent_max.max(*concurrent);
        let key = match request.bucket_and_key().1 {
            "" => request.word("prefix").unwrap_or(""),
            key => key,
        };
        let fault = rules.iter_mut().find_map(|rule| rule.strike(kind, key, rng));
        counts.faults += u64::from(fault.is_some());
        fault
    }

    fn read_body(
        &self,
        request: &Request,
        reader: &mut BufReader<&TcpStream>,
        fault: Option<&Fault>,
    ) -> Result<Body, End> {
        let Some(len) = request.body_bytes else {
            let is_missing = request.headers.contains_key("transfer-encoding") || request.method == "PUT";
            let refused = || Body::Refused(Answer::error(411, "MissingContentLength"));
            return Ok(if is_missing { refused() } else { Body::Whole(Bytes::new()) });
        };
        if len > BODY_BYTES_MAX {
            return Ok(Body::Refused(Answer::error(400, "EntityTooLarge")));
        }
        let stop = match fault {
            Some(Fault::RefuseEarly { after_bytes, .. } | Fault::ResetRequest(after_bytes)) => len.min(*after_bytes),
            _ => len,
        };
        let mut body = vec![0; stop as usize];
        for chunk in body.chunks_mut(CHUNK_BYTES) {
            reader.read_exact(chunk)?;
            self.state.lock().counts.body_in += chunk.len() as u64;
        }
        match fault {
            Some(Fault::RefuseEarly { status, code, .. }) => Ok(Body::Refused(Answer::error(*status, code))),
            Some(Fault::ResetRequest(_)) => Err(End::Reset),
            Some(Fault::FlipRequest(at)) => {
                flip(&mut body, *at);
                Ok(Body::Whole(body.into()))
            }
            _ => Ok(Body::Whole(body.into())),
        }
    }

    /// What the store says, or the rule in its place.
    fn answer(&self, request: &Request, body: Bytes, fault: Option<&Fault>) -> Result<Answer, End> {
        match fault {
            Some(Fault::Refuse { status, code }) => return Ok(Answer::error(*status, code)),
            Some(Fault::RefuseFor { status, code, seconds }) => {
                return Ok(Answer::error(*status, code).with("Retry-After", seconds.to_string()));
            }
            Some(Fault::OkWithError(code)) => return Ok(Answer { status: 200, ..Answer::error(500, code) }),
            Some(Fault::EmptyPage) => return Ok(Answer::empty_page()),
            Some(Fault::StallMs(time_ms)) => self.wait(Duration::from_millis(*time_ms))?,
            _ => {}
        }
        let mut request = request.clone();
        spoil_request(&mut request, fault);
        let checksums = self.state.lock().store.checksums;
        let crc64 = checksums.of(&body);
        let mut state = self.state.lock();
        let refused = state.terms.check(&request, SystemTime::now());
        let answer = refused.unwrap_or_else(|| state.store.handle(&request, body, crc64));
        drop(state);
        if fault == Some(&Fault::LostAnswer) {
            return Err(End::Closed);
        }
        Ok(answer)
    }

    /// Sends an answer, or what the rule leaves of it.
    fn send(
        &self,
        mut socket: &TcpStream,
        request: &Request,
        mut answer: Answer,
        fault: Option<&Fault>,
    ) -> Result<(), End> {
        let is_head = request.method == "HEAD";
        let announced = match fault {
            Some(Fault::NoLength) => None,
            Some(Fault::WrongLength(bytes)) => Some(*bytes),
            _ => Some(answer.body.len() as u64),
        };
        let now = SystemTime::now();
        let date = self.state.lock().terms.shifted(now);
        answer = answer.with("Date", rfc1123(date)).with("x-amz-request-id", "1");
        spoil_answer(&mut answer, fault);
        write_head_announcing(&mut socket, answer.status, &answer.headers, announced)?;
        let announced = announced.unwrap_or(0);
        if is_head || announced == 0 {
            return Ok(());
        }
        let mut pace = Pace::new(fault);
        let stop = match fault {
            Some(Fault::ResetAnswer(bytes)) => announced.min(*bytes),
            Some(Fault::Short(bytes)) => announced.saturating_sub(*bytes),
            _ => answer.body.len() as u64,
        };
        let mut sent = 0;
        while sent < stop {
            let len = pace.next(sent, stop - sent);
            socket.write_all(&answer.body[sent as usize..][..len as usize])?;
            sent += len;
            self.state.lock().counts.body_out += len;
            self.wait(pace.pause(sent))?;
        }
        match fault {
            Some(Fault::ResetAnswer(_)) => Err(End::Reset),
            Some(Fault::Short(_) | Fault::Long(_)) => Err(End::Closed),
            _ => Ok(()),
        }
    }

    /// Waits, unless the server ends before.
    fn wait(&self, time: Duration) -> Result<(), End> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.is_stopping() {
                return Err(End::Closed);
            }
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// A request's body.
enum Body {
    /// All of it.
    Whole(Bytes),
    /// Not all of it was read: this goes out and the connection ends.
    Refused(Answer),
}

/// Counts one request less under way when dropped.
struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state.lock().concurrent -= 1;
    }
}

/// How fast an answer's body goes out.
enum Pace {
    /// As fast as it can.
    Full,
    /// So many bytes a second.
    Rate(u64),
    /// A pause of the given length after so many bytes.
    Once(u64, Duration),
}

impl Pace {
    fn new(fault: Option<&Fault>) -> Pace {
        match fault {
            Some(Fault::Slow(bytes)) => Pace::Rate((*bytes).max(20)),
            Some(Fault::StallBodyMs(after, time_ms)) => Pace::Once(*after, Duration::from_millis(*time_ms)),
            _ => Pace::Full,
        }
    }

    /// Bytes of the next piece.
    fn next(&self, sent: u64, left: u64) -> u64 {
        let most = match self {
            Pace::Full => CHUNK_BYTES as u64,
            Pace::Rate(bytes) => bytes / 20,
            Pace::Once(after, _) if sent < *after => (after - sent).min(CHUNK_BYTES as u64),
            Pace::Once(..) => CHUNK_BYTES as u64,
        };
        left.min(most)
    }

    /// Time to let pass once `sent` bytes are out.
    fn pause(&mut self, sent: u64) -> Duration {
        match self {
            Pace::Rate(_) => Duration::from_millis(50),
            Pace::Once(after, time) if sent >= *after => std::mem::take(time),
            _ => Duration::ZERO,
        }
    }
}

fn flip(body: &mut [u8], at: u64) {
    if let Some(last) = body.len().checked_sub(1) {
        body[last.min(at as usize)] ^= 1;
    }
}

/// Faults that make the store see another request.
fn spoil_request(request: &mut Request, fault: Option<&Fault>) {
    match fault {
        Some(Fault::IgnoreRange) => drop(request.headers.remove("range")),
        Some(Fault::ShiftRange) => {
            let range = request.headers.get("range").and_then(|range| http::range(range, u64::MAX));
            if let Some((first, last)) = range {
                request.headers.insert("range".to_owned(), format!("bytes={}-{}", first + 1, last + 1));
            }
        }
        _ => {}
    }
}

/// Faults that change the answer; its announced length stays.
fn spoil_answer(answer: &mut Answer, fault: Option<&Fault>) {
    match fault {
        Some(Fault::FlipAnswer(at)) => {
            let mut body = answer.body.to_vec();
            flip(&mut body, *at);
            answer.body = body.into();
        }
        Some(Fault::Long(bytes)) => {
            let mut body = answer.body.to_vec();
            body.resize(body.len() + *bytes as usize, b'+');
            answer.body = body.into();
        }
        Some(Fault::WrongChecksum) => replace(answer, "x-amz-checksum-crc64nvme", &crc64::header(0x5eed)),
        Some(Fault::WrongEtag) => replace(answer, "ETag", "\"0123456789abcdef0123456789abcdef\""),
        _ => {}
    }
}

/// Puts another value in place of a header, if it is there.
fn replace(answer: &mut Answer, name: &str, value: &str) {
    for header in answer.headers.iter_mut().filter(|header| header.0 == name) {
        value.clone_into(&mut header.1);
    }
}
