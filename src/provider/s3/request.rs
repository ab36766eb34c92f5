//! One request until it is answered: signed, sent, judged, and where that helps sent again.
//!
//! ```text
//! wait for the throttle -> sign -> send -> answer: 2xx -------------------> done
//!        ^                          |        '- error, or <Error> in a 200 -+
//!        |                          '- no answer, or a stall --------------+|
//!        '--- wait, renew keys, set the clock, move to the region <--- judge
//! ```
//! A stall is 30 s without progress, whatever the size: a body is handed over in slices, and each slice taken counts.
//!
//! I10: the signed URL lives in [`Exchange::attempt`] and nowhere else. Errors of reqwest hold it; [`describe`] is the
//! only way from one of them to a text.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Response, Url};
use rusty_s3::Method;

use super::body::{Cut, LIMIT_TIME_MAX, Passage, Payload, Slices, read_whole};
use super::bucket::Place;
use super::retry::{self, Attempts, Pace, Patience, Verdict};
use super::sources::Keys;
use super::supply::{Course, Opening, Supply};
use super::throttle::Throttle;
use super::{Bucket, Description, Key, refusal::Refusal, xml};
use crate::config::scaled;
use crate::error::{Cause, Class, Error, Result};
use crate::gate::Turn;

/// No progress for this long is a stall.
pub(super) const STALL: Duration = Duration::from_secs(scaled(30, 1) as u64);
/// How often one request may be corrected by what an answer says: region, clock, keys.
const CORRECTIONS_MAX: u32 = 4;
/// Clocks further apart than this are set; servers bear 15 minutes.
const CLOCK_SECS_MAX: i64 = 300;

/// What is asked.
pub(super) struct Request<'a> {
    /// For messages: "write".
    pub verb: &'static str,
    /// The HTTP method.
    pub method: Method,
    /// The object; `None` asks the bucket.
    pub key: Option<&'a Key>,
    /// Parameters of the URL.
    pub query: Vec<(String, String)>,
    /// Headers that are signed: every `x-amz-*` must be.
    pub signed: Vec<(String, String)>,
    /// Headers that need not be.
    pub plain: Vec<(&'static str, String)>,
    /// What is sent along.
    pub body: Payload,
    /// What is sent instead where it is too large for memory.
    pub supply: Option<&'a Supply>,
    /// How long the server may think once it has everything.
    pub answer_time: Duration,
    /// Whether it is made for another request, which has a place under the throttle and waits for it.
    pub is_beside: bool,
}

/// A whole answer.
pub(super) struct Answer {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Whether the server may have done what was asked by an earlier attempt already, whose answer did not come.
    pub is_doubtful: bool,
}

/// A place under the throttle, unless the request takes none; given back when dropped.
pub(super) struct Permit(Option<Arc<Throttle>>);

impl Permit {
    /// Waits for a place.
    async fn acquire(bucket: &Bucket, request: &Request<'_>) -> Permit {
        if request.is_beside {
            return Permit(None);
        }
        bucket.throttle().acquire().await;
        Permit(Some(bucket.throttle().clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.iter().for_each(|throttle| throttle.release());
    }
}

/// Why an attempt failed.
enum Trouble {
    /// An error was answered.
    Answered(Box<Refusal>),
    /// There was no answer, or it broke off.
    Network(String),
}

impl Trouble {
    /// What it is called when it is the last.
    fn cause(&self) -> Cause {
        match self {
            Trouble::Answered(refusal) => Cause::Remote { status: refusal.status, code: refusal.code.clone() },
            Trouble::Network(what) => Cause::Network(what.clone()),
        }
    }

    /// Whether the server may have done what was asked all the same.
    fn is_doubtful(&self) -> bool {
        match self {
            Trouble::Network(_) => true,
            Trouble::Answered(refusal) => matches!(refusal.status, 200 | 500 | 502 | 504),
        }
    }
}

impl<'a> Request<'a> {
    /// A request without parameters or body.
    pub fn new(verb: &'static str, method: Method, key: Option<&'a Key>) -> Request<'a> {
        Request {
            verb,
            method,
            key,
            query: Vec::new(),
            signed: Vec::new(),
            plain: Vec::new(),
            body: Payload::default(),
            supply: None,
            answer_time: STALL,
            is_beside: false,
        }
    }

    /// Made for another request that has a place and waits for it: it takes none.
    pub fn beside(mut self) -> Request<'a> {
        self.is_beside = true;
        self
    }

    /// With a parameter.
    pub fn query(mut self, name: &str, value: impl Into<String>) -> Request<'a> {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// With a signed header.
    pub fn signed(mut self, name: &str, value: impl Into<String>) -> Request<'a> {
        self.signed.push((name.to_owned(), value.into()));
        self
    }

    /// With what the object says beside its content.
    pub fn described(mut self, description: Description<'_>) -> Request<'a> {
        let attributes = description.attributes.iter();
        self.signed.extend(attributes.map(|(name, value)| (format!("x-amz-meta-{name}"), value.clone())));
        self.plain.extend(description.headers.iter().cloned());
        self
    }

    /// With a header that is not signed.
    pub fn plain(mut self, name: &'static str, value: impl Into<String>) -> Request<'a> {
        self.plain.push((name, value.into()));
        self
    }

    /// With a body. The server may take a minute to store it.
    pub fn body(mut self, body: impl Into<Payload>) -> Request<'a> {
        self.body = body.into();
        self.answer_time = STALL * 2;
        self
    }

    /// With a body that is read while it is sent.
    pub fn supply(mut self, supply: &'a Supply) -> Request<'a> {
        self.supply = Some(supply);
        self.answer_time = STALL * 2;
        self
    }

    /// Bytes of what is sent.
    fn len(&self) -> u64 {
        self.supply.map_or(self.body.bytes.len() as u64, Supply::len)
    }

    /// Whether the body waits for its content, and not for the server.
    fn is_short(&self) -> bool {
        self.supply.is_some_and(Supply::is_short)
    }

    /// Of the sort that takes the server minutes.
    pub fn slow(mut self) -> Request<'a> {
        self.answer_time = STALL * 10;
        self
    }

    fn headers(&self) -> std::result::Result<HeaderMap, Cause> {
        let unsuited = |_| Cause::Protected("it has an attribute that no HTTP header can carry");
        let mut headers = HeaderMap::new();
        let plain = self.plain.iter().map(|(name, value)| (*name, value));
        for (name, value) in self.signed.iter().map(|(name, value)| (name.as_str(), value)).chain(plain) {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsuited(()))?;
            headers.insert(name, HeaderValue::from_str(value).map_err(|_| unsuited(()))?);
        }
        Ok(headers)
    }
}

/// Sends until there is a whole answer.
pub(super) async fn fetch(
    bucket: &Bucket,
    http: &reqwest::Client,
    request: &Request<'_>,
    patience: Patience,
) -> Result<Answer> {
    let mut exchange = Exchange::begin(bucket, http, request, patience)?;
    let mut is_doubtful = false;
    // Ends: `settle` counts attempts and time.
    loop {
        let trouble = match exchange.attempt().await {
            Ok((response, permit)) => match exchange.read(response).await {
                Ok(answer) => return Ok(Answer { is_doubtful, ..answer }),
                Err(trouble) => {
                    drop(permit);
                    trouble
                }
            },
            Err(trouble) => trouble,
        };
        is_doubtful |= trouble.is_doubtful();
        exchange.settle(trouble).await?;
    }
}

/// Sends until a successful answer begins; its body is the caller's to read, under the permit.
pub(super) async fn open(
    bucket: &Bucket,
    http: &reqwest::Client,
    request: &Request<'_>,
    patience: Patience,
) -> Result<(Response, Permit)> {
    let mut exchange = Exchange::begin(bucket, http, request, patience)?;
    // Ends: `settle` counts attempts and time.
    loop {
        match exchange.attempt().await {
            Ok(answered) => return Ok(answered),
            Err(trouble) => exchange.settle(trouble).await?,
        }
    }
}

/// What reqwest says is wrong, without the URL it happened at (I10): the innermost cause, which names the system's
/// error.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    // Ends: causes form a chain.
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let kind = match () {
        () if error.is_timeout() && error.is_connect() => return "the connection was not accepted in time".to_owned(),
        () if error.is_connect() => "no connection",
        () if error.is_body() || error.is_decode() => "the answer broke off",
        () => "the connection failed",
    };
    format!("{kind}: {innermost}")
}

/// What an attempt was signed with; corrections compare with it, since another lane may have made them already.
struct Signature {
    /// Where it went.
    place: Arc<Place>,
    /// Who asked.
    keys: Arc<Keys>,
    /// When, by the server's clock as it was known, in seconds since 1970.
    time: i64,
}

/// One request on its way.
struct Exchange<'a> {
    /// Whom it is for.
    bucket: &'a Bucket,
    /// The lane's connections.
    http: &'a reqwest::Client,
    /// What is asked.
    request: &'a Request<'a>,
    /// Its headers, the same on every attempt.
    headers: HeaderMap,
    /// Attempts so far.
    attempts: Attempts,
    /// When the last began.
    began: Instant,
    /// Corrections so far.
    corrections: u32,
    /// What the last attempt was signed with.
    signature: Option<Signature>,
}

impl<'a> Exchange<'a> {
    fn begin(
        bucket: &'a Bucket,
        http: &'a reqwest::Client,
        request: &'a Request<'a>,
        patience: Patience,
    ) -> Result<Exchange<'a>> {
        let headers = request.headers().map_err(|cause| failure(bucket, request, cause))?;
        let seed = std::ptr::from_ref(request) as u64 ^ jiff::Timestamp::now().as_nanosecond() as u64;
        let attempts = Attempts::new(patience, seed);
        let began = Instant::now();
        Ok(Exchange { bucket, http, request, headers, attempts, began, corrections: 0, signature: None })
    }

    /// Signs and sends once; waits for the answer's head.
    async fn attempt(&mut self) -> std::result::Result<(Response, Permit), Trouble> {
        if !Slices::suit(&self.request.body) {
            self.wait_for_limits().await;
        }
        // First of all: it may be a long time until it may begin, and neither a signature nor a place is for that.
        let opening = match self.request.supply {
            Some(supply) => Some(supply.attempt().await.ok_or_else(|| Trouble::Network(Cut.to_string()))?),
            None => None,
        };
        self.began = Instant::now();
        let permit = Permit::acquire(self.bucket, self.request).await;
        let (place, keys) = (self.bucket.place(), self.bucket.keys().await);
        let url = self.bucket.sign(&place, &keys, self.request);
        self.signature = Some(Signature { place, keys, time: self.bucket.now().as_second() });
        let (request, passage) = self.assemble(url, opening.map(Opening::open));
        let mut sending = pin!(self.http.execute(request));
        let len = self.request.len();
        let mut seen = passage.taken.load(Ordering::Relaxed).min(len);
        // Ends: each turn but the last has seen more of the body taken, or it waited for its turn or its content.
        let response = loop {
            let time = if seen == len { self.request.answer_time } else { STALL };
            match tokio::time::timeout(time, &mut sending).await {
                Ok(Ok(response)) => break response,
                Ok(Err(error)) => return Err(Trouble::Network(describe(error))),
                Err(_) => {
                    let now = passage.taken.load(Ordering::Relaxed);
                    // What waits for its own turn under a limit is not stuck.
                    let is_held = passage.is_held.load(Ordering::Relaxed);
                    if now == seen && !is_held && !self.request.is_short() {
                        return Err(Trouble::Network(format!("nothing happened for {} s", time.as_secs())));
                    }
                    seen = now;
                }
            }
        };
        if response.status().is_success() {
            self.bucket.throttle().on_answered();
            return Ok((response, permit));
        }
        Err(Trouble::Answered(Box::new(Refusal::read(response).await)))
    }

    /// Waits until a body that goes in one piece may go. Ends: limits are lifted when the job is stopped.
    async fn wait_for_limits(&self) {
        let Some(limits) = self.bucket.limits() else { return };
        let (len, mut turn) = (self.request.body.bytes.len() as u64, Turn::default());
        while len > 0
            && let Err(wait) = limits.bytes.take_in_turn(len, &mut turn)
        {
            tokio::time::sleep(wait.min(LIMIT_TIME_MAX)).await;
        }
    }

    /// The request as reqwest takes it, and how far its body is.
    fn assemble(&self, url: Url, course: Option<Course>) -> (reqwest::Request, Arc<Passage>) {
        let method = match self.request.method {
            Method::Head => reqwest::Method::HEAD,
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
            Method::Delete => reqwest::Method::DELETE,
        };
        let has_body = matches!(self.request.method, Method::Put | Method::Post);
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = self.headers.clone();
        let body = self.request.body.clone();
        let passage = Arc::<Passage>::default();
        let limits = || self.bucket.limits().cloned();
        if let Some(course) = course {
            *request.body_mut() = Some(Body::wrap(Slices::streamed(course, passage.clone(), limits())));
        } else if Slices::suit(&body) {
            *request.body_mut() = Some(Body::wrap(Slices::new(body, passage.clone(), limits())));
        } else if has_body {
            passage.taken.store(body.bytes.len() as u64, Ordering::Relaxed);
            // Without it an empty PUT has no length at all, which servers refuse.
            request.headers_mut().insert(reqwest::header::CONTENT_LENGTH, HeaderValue::from(body.bytes.len()));
            *request.body_mut() = Some(Body::from(body.bytes));
        }
        (request, passage)
    }

    /// Reads a whole answer. An `<Error>` is one whatever the status: some operations begin their answer before they
    /// know, and some servers and those before them do so always.
    async fn read(&self, response: Response) -> std::result::Result<Answer, Trouble> {
        let headers = response.headers().clone();
        let status = response.status().as_u16();
        let body = read_whole(response).await.map_err(Trouble::Network)?;
        if let Some(failure) = xml::failure(&body) {
            return Err(Trouble::Answered(Box::new(Refusal::new(status, &headers, Some(failure)))));
        }
        Ok(Answer { headers, body, is_doubtful: false })
    }

    /// Does what lets the next attempt succeed, or gives the request up.
    async fn settle(&mut self, trouble: Trouble) -> Result<()> {
        if self.request.supply.is_some_and(Supply::is_closed) {
            return Err(failure(self.bucket, self.request, Cause::Transfer(Cut.to_string())));
        }
        let (pace, retry_after) = match &trouble {
            Trouble::Network(_) => (Pace::Network, None),
            Trouble::Answered(refusal) => match self.judge(refusal) {
                Verdict::Again(pace) => (pace, refusal.retry_after),
                Verdict::Fail => return Err(self.fail(trouble)),
                verdict if self.correct(verdict, refusal).await => {
                    self.bucket.note_retry(&trouble.cause());
                    return Ok(());
                }
                _ if refusal.is_named => return Err(self.fail(trouble)),
                Verdict::Credentials | Verdict::Suspicion => {
                    return Err(self.ask_about_session().await.unwrap_or_else(|| self.fail(trouble)));
                }
                _ => return Err(self.fail(trouble)),
            },
        };
        if pace == Pace::Throttle {
            self.bucket.throttle().on_throttled();
        }
        match (self.attempts.wait(pace, self.began.elapsed(), retry_after), trouble) {
            (Some(wait), trouble) => {
                self.bucket.note_retry(&trouble.cause());
                tokio::time::sleep(wait).await;
            }
            (None, Trouble::Network(what)) if self.is_server_there().await => {
                return Err(failure(self.bucket, self.request, Cause::Silence(what)));
            }
            (None, trouble) => return Err(self.fail(trouble)),
        }
        Ok(())
    }

    /// Whether the server answers a question about the bucket: then its silence is about the object, and the job can go
    /// on without it (I5).
    async fn is_server_there(&self) -> bool {
        let is_beside = self.request.is_beside;
        let head = Request { is_beside, ..Request::new("open", Method::Head, None) };
        let Ok(mut exchange) = Exchange::begin(self.bucket, self.http, &head, Patience::START) else { return false };
        !matches!(exchange.attempt().await, Err(Trouble::Network(_)))
    }

    /// Whether the session of the keys has ended, which ends the job: the answer to a HEAD does not say, that to a
    /// listing does.
    async fn ask_about_session(&self) -> Option<Error> {
        let list = Request::new(self.request.verb, Method::Get, None).query("list-type", "2").query("max-keys", "1");
        let list = Request { is_beside: self.request.is_beside, ..list };
        let mut exchange = Exchange::begin(self.bucket, self.http, &list, Patience::START).ok()?;
        match exchange.attempt().await {
            Err(Trouble::Answered(refusal)) => Some(self.fail(Trouble::Answered(refusal))),
            _ => None,
        }
        .filter(|error| error.class() == Class::Fatal)
    }

    /// Corrects what the refusal was about. Whether another attempt differs from the last.
    async fn correct(&mut self, verdict: Verdict, refusal: &Refusal) -> bool {
        self.corrections += 1;
        let Some(signature) = &self.signature else { return false };
        if self.corrections > CORRECTIONS_MAX {
            return false;
        }
        match (verdict, &refusal.region, refusal.date) {
            (Verdict::Region, Some(region), _) => self.bucket.move_to(region, &signature.place),
            (Verdict::Clock, _, Some(date)) if (date - signature.time).abs() > CLOCK_SECS_MAX => {
                self.bucket.set_clock(date);
                true
            }
            (Verdict::Credentials, ..) => self.bucket.renew(&signature.keys).await,
            (Verdict::Suspicion, ..) => self.bucket.suspect(&signature.keys).await,
            _ => false,
        }
    }

    /// The meaning of a refusal. Answers to HEAD name no error: what they may mean is read off their headers. A
    /// presigned URL that by the server's clock has expired, or is of the future, is denied access, as AWS has it.
    fn judge(&self, refusal: &Refusal) -> Verdict {
        let verdict = retry::verdict(refusal.status, &refusal.code);
        if verdict != Verdict::Fail {
            return verdict;
        }
        let Some(signature) = &self.signature else { return Verdict::Fail };
        let is_elsewhere = refusal.region.as_ref().is_some_and(|region| *region != signature.place.region);
        let is_skewed = |date: i64| (date - signature.time).abs() > CLOCK_SECS_MAX;
        let may_be_time = !refusal.is_named || matches!(refusal.code.as_str(), "AccessDenied" | "RequestExpired");
        match (refusal.status, refusal.is_named) {
            (400 | 403, _) if is_elsewhere => Verdict::Region,
            (403, _) if may_be_time && refusal.date.is_some_and(is_skewed) => Verdict::Clock,
            (400, false) if signature.keys.token.is_some() => Verdict::Credentials,
            // Of the bucket a listing is asked next (bucket.rs), which says why.
            (403, false) if signature.keys.token.is_some() && self.asks_about_object() => Verdict::Suspicion,
            _ => Verdict::Fail,
        }
    }

    fn asks_about_object(&self) -> bool {
        matches!(self.request.method, Method::Head) && self.request.key.is_some()
    }

    fn fail(&self, trouble: Trouble) -> Error {
        failure(self.bucket, self.request, trouble.cause())
    }
}

/// The error of a request, by the object's name.
pub(super) fn failure(bucket: &Bucket, request: &Request<'_>, cause: Cause) -> Error {
    let key = request.key.map_or("", Key::as_str);
    Error { verb: request.verb, object: format!("s3://{}/{key}", bucket.name()).into_bytes(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::S3Options;
    use crate::ring::Side;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Cuts every connection that asks for the key `cut`, and answers everything else.
    fn serve(listener: TcpListener) {
        for mut socket in listener.incoming().flatten() {
            let mut head = [0; 4096];
            let len = socket.read(&mut head).unwrap_or(0);
            let line = String::from_utf8_lossy(&head[..len]).into_owned();
            if !line.contains("/bucket/cut?") {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
            if line.contains("/bucket/end?") {
                return;
            }
        }
    }

    #[test]
    fn silence_about_one_object_is_not_the_network_s() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint_url = Some(format!("http://{}", listener.local_addr().unwrap()));
        let server = std::thread::spawn(move || serve(listener));
        let options = S3Options { endpoint_url, ..S3Options::default() };
        let pairs = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bucket = Bucket::open_at("bucket", "", &options, Side::Dest, &variables).await.unwrap();
            let http = bucket.connect().unwrap();
            let patience = Patience { silent_max: 2, ..Patience::JOB };
            let ask = async |name: &str| {
                let key = Key::new(name.to_owned()).unwrap();
                fetch(&bucket, &http, &Request::new("read", Method::Get, Some(&key)), patience).await.map(|_| ())
            };
            let silent = ask("cut").await.unwrap_err();
            assert!(matches!(silent.cause, Cause::Silence(_)) && silent.class() == Class::Object, "{silent}");
            ask("end").await.unwrap();
            let gone = ask("more").await.unwrap_err();
            assert!(matches!(gone.cause, Cause::Network(_)) && gone.class() == Class::Fatal, "{gone}");
        });
        server.join().unwrap();
    }
}
