//! [`Bucket`]: what all lanes share about one end of a job.
//!
//! Where it is and in which region, who asks, how far the server's clock is off, what the server can do, and how many
//! requests it bears. All of it may be learned or corrected by any lane's request while others run; each attempt of a
//! request takes what is known when it is signed.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use reqwest::Url;
use rusty_s3::{Method, UrlStyle};
use tokio::sync::OnceCell;

use super::credentials::Credentials;
use super::request::{self, Request};
use super::retry::Patience;
use super::settings::{self, Settings, Variables};
use super::sources::Keys;
use super::throttle::Throttle;
use super::{Checksums, Key};
use crate::config::S3Options;
use crate::error::{Cause, Error, Result};
use crate::gate::RateLimits;
use crate::report::{Causes, Weight};
use crate::ring::Side;

/// How long a signature is good for: longer than any attempt, shorter than keys are renewed ahead of their end.
const SIGNATURE_SECS: u64 = 900;

/// One end of a job, shared by all its lanes.
pub struct Bucket {
    /// Its name.
    name: String,
    /// Which end of the job it is.
    side: Side,
    /// What options, environment and files said.
    settings: Settings,
    /// Who asks.
    credentials: Credentials,
    /// Where it is, as far as known.
    place: Mutex<Arc<Place>>,
    /// What the server's clock is ahead of ours, in milliseconds.
    clock_offset_ms: AtomicI64,
    /// A [`Checksums`], as a number.
    checksums: AtomicU8,
    /// Whether checksums are sent at all.
    takes_checksums: AtomicBool,
    /// Whether it wants each part's checksum with the part; found out when it matters.
    wants_part_checksums: OnceCell<bool>,
    /// An [`Escapes`], as a number.
    escapes: AtomicU8,
    /// How much it bears.
    throttle: Arc<Throttle>,
    /// How fast bodies may go there.
    limits: OnceLock<Arc<RateLimits>>,
    /// Where requests that are sent again are counted.
    retries: OnceLock<Arc<Causes>>,
}

/// Where requests go.
pub(super) struct Place {
    /// Makes URLs.
    urls: rusty_s3::Bucket,
    /// Part of every signature.
    pub region: String,
}

/// Whether listings that call themselves URL-encoded are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escapes {
    /// No key has shown it yet.
    Unknown,
    /// They are.
    Kept,
    /// They are not: the server only repeats what it was asked for (s3s does).
    Claimed,
}

impl Bucket {
    /// Finds out all that is needed to reach the bucket, and asks it: wrong credentials, a missing bucket or a server
    /// that does not answer are refused here, in one line, before anything moves. The job is about keys that begin with
    /// `prefix`: they may be all that the account is allowed to list.
    pub async fn open(name: &str, prefix: &str, options: &S3Options, side: Side) -> Result<Bucket> {
        Bucket::open_at(name, prefix, options, side, &settings::process_variables()).await
    }

    /// The same with given variables for the process's own.
    pub async fn open_at(
        name: &str,
        prefix: &str,
        options: &S3Options,
        side: Side,
        variables: &Variables,
    ) -> Result<Bucket> {
        let refused = |why: String| Error::refused(format!("s3://{name}"), why);
        let settings = Settings::load(options, variables);
        let place = Place::new(&settings, name, &settings.region.clone()).map_err(refused)?;
        let credentials = Credentials::open(&settings, variables).await.map_err(refused)?;
        let bucket = Bucket {
            name: name.to_owned(),
            side,
            credentials,
            place: Mutex::new(Arc::new(place)),
            clock_offset_ms: AtomicI64::new(0),
            checksums: AtomicU8::new(Checksums::Unknown as u8),
            takes_checksums: AtomicBool::new(true),
            wants_part_checksums: OnceCell::new(),
            escapes: AtomicU8::new(Escapes::Unknown as u8),
            throttle: Arc::default(),
            limits: OnceLock::new(),
            retries: OnceLock::new(),
            settings,
        };
        let http = bucket.connect()?;
        match bucket.ask(&http, prefix).await {
            Ok(()) => Ok(bucket),
            Err(error) => Err(refused(bucket.explain(&error.cause))),
        }
    }

    /// Whether it is the same bucket as `other`, whoever asks.
    pub fn is_same(&self, other: &Bucket) -> bool {
        self.name == other.name && self.settings.server() == other.settings.server()
    }

    /// Whether a server-side copy from `other` is possible: one server, and one account. Temporary keys are of one if
    /// they come from the same place, however they read.
    pub fn is_same_account(&self, other: &Bucket) -> bool {
        let key = |bucket: &Bucket| bucket.credentials.latest().access_key.clone();
        let is_same_server = self.settings.server() == other.settings.server();
        is_same_server && (self.settings.asks_as(&other.settings) || key(self) == key(other))
    }

    /// What the server does with checksums, as far as its answers have shown.
    pub fn checksums(&self) -> Checksums {
        match self.checksums.load(Ordering::Relaxed) {
            value if value == Checksums::Stored as u8 => Checksums::Stored,
            value if value == Checksums::Ignored as u8 => Checksums::Ignored,
            _ => Checksums::Unknown,
        }
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which end of the job it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// How much it bears.
    pub(super) fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    /// Whether a request would have to wait for another one to end.
    pub fn is_busy(&self) -> bool {
        self.throttle.is_full()
    }

    /// Lets bodies go there no faster than `limits` say, from now on.
    pub fn limit_bodies(&self, limits: &Arc<RateLimits>) {
        // Every lane says the same.
        let _ = self.limits.set(limits.clone());
    }

    /// Counts requests that are sent again among `causes`, from now on.
    pub fn tell_retries(&self, causes: &Arc<Causes>) {
        // Every lane says the same.
        let _ = self.retries.set(causes.clone());
    }

    /// A request is sent again, for this.
    pub(super) fn note_retry(&self, cause: &Cause) {
        if let Some(causes) = self.retries.get() {
            causes.note(Weight::Retry, cause);
        }
    }

    /// How fast bodies may go there.
    pub(super) fn limits(&self) -> Option<&Arc<RateLimits>> {
        self.limits.get()
    }

    /// The storage class of new objects, where one was asked for.
    pub(super) fn storage_class(&self) -> Option<&str> {
        self.settings.storage_class.as_deref()
    }

    /// An answer to an upload told its checksum, or did not. Once stored is stored: some answers of a server tell it,
    /// others do not.
    pub(super) fn note_checksums(&self, is_stored: bool) {
        let unknown = Checksums::Unknown as u8;
        if is_stored {
            self.checksums.store(Checksums::Stored as u8, Ordering::Relaxed);
        } else {
            let ignored = Checksums::Ignored as u8;
            let _ = self.checksums.compare_exchange(unknown, ignored, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether checksums are to be sent.
    pub(super) fn takes_checksums(&self) -> bool {
        self.takes_checksums.load(Ordering::Relaxed)
    }

    /// Whether each part's checksum has to come with it, once that has been found out.
    pub(super) fn wants_part_checksums(&self) -> &OnceCell<bool> {
        &self.wants_part_checksums
    }

    /// The server refuses what it does not know: no more checksums for it.
    pub(super) fn stop_checksums(&self) {
        self.takes_checksums.store(false, Ordering::Relaxed);
        self.note_checksums(false);
    }

    /// Whether listings are escaped as they say.
    pub(super) fn escapes(&self) -> Escapes {
        match self.escapes.load(Ordering::Relaxed) {
            value if value == Escapes::Kept as u8 => Escapes::Kept,
            value if value == Escapes::Claimed as u8 => Escapes::Claimed,
            _ => Escapes::Unknown,
        }
    }

    /// A listing has shown it.
    pub(super) fn note_escapes(&self, escapes: Escapes) {
        self.escapes.store(escapes as u8, Ordering::Relaxed);
    }

    /// Connections of one lane.
    pub(super) fn connect(&self) -> Result<reqwest::Client> {
        let refused = |why: String| Error::refused(format!("s3://{}", self.name), why);
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            // S3 drops idle connections after 5 to 20 s; a request on one that is being dropped is lost.
            .pool_idle_timeout(Duration::from_secs(4))
            .user_agent(concat!("gfast/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &self.settings.ca_bundle {
            let unusable = |why: String| refused(format!("the CA bundle {path} cannot be used: {why}"));
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            // A file without any is no error to the reader: then nobody would be believed, whatever the reason.
            let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
            let certificates = certificates.ok_or_else(|| unusable("it holds no certificates".to_owned()))?;
            builder = builder.tls_certs_only(certificates);
        }
        builder.build().map_err(|error| refused(format!("no HTTP client: {}", request::describe(error))))
    }

    /// Where the bucket is, as far as known.
    pub(super) fn place(&self) -> Arc<Place> {
        self.place.lock().clone()
    }

    /// The bucket is in `region`, an answer to a request to `asked` said. Whether that is news.
    pub(super) fn move_to(&self, region: &str, asked: &Place) -> bool {
        let mut place = self.place.lock();
        if place.region != asked.region {
            return true;
        }
        match Place::new(&self.settings, &self.name, region) {
            Ok(new) if new.region != place.region => {
                *place = Arc::new(new);
                true
            }
            _ => false,
        }
    }

    /// The keys to sign with now.
    pub(super) async fn keys(&self) -> Arc<Keys> {
        self.credentials.at(Timestamp::now().as_second()).await
    }

    /// The server called `stale` expired. Whether there are other keys.
    pub(super) async fn renew(&self, stale: &Arc<Keys>) -> bool {
        self.credentials.renew(stale).await
    }

    /// The server refused `keys` and did not say why. Whether there are other keys.
    pub(super) async fn suspect(&self, keys: &Arc<Keys>) -> bool {
        self.credentials.suspect(keys).await
    }

    /// The server's time, as far as known.
    pub(super) fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_millis(self.clock_offset_ms.load(Ordering::Relaxed));
        let now = Timestamp::now();
        now.checked_add(offset).unwrap_or(now)
    }

    /// The server's time as far as known, in seconds since 1970.
    pub fn server_secs(&self) -> u64 {
        u64::try_from(self.now().as_second()).unwrap_or(0)
    }

    /// The server's clock shows `secs`.
    pub(super) fn set_clock(&self, secs: i64) {
        let offset_ms = (secs - Timestamp::now().as_second()).saturating_mul(1000);
        self.clock_offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// A presigned URL for `request`: good for [`SIGNATURE_SECS`], a secret for as long (I10).
    pub(super) fn sign(&self, place: &Place, keys: &Keys, request: &Request<'_>) -> Url {
        let url = match request.key {
            Some(key) => place.urls.object_url(key.as_str()),
            None => place.urls.base_url().clone(),
        };
        let pairs = |list: &[(String, String)]| {
            let mut pairs = list.to_vec();
            pairs.sort();
            pairs
        };
        let (query, headers) = (pairs(&request.query), pairs(&request.signed));
        rusty_s3::signing::sign(
            &self.now(),
            request.method,
            url,
            &keys.access_key,
            &keys.secret,
            keys.token.as_deref(),
            &place.region,
            SIGNATURE_SECS,
            query.iter().map(|(name, value)| (name.as_str(), value.as_str())),
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        )
    }

    /// The value of `x-amz-copy-source` for one of the bucket's objects.
    pub(super) fn copy_source(&self, key: &Key) -> String {
        let url = self.place().urls.object_url(key.as_str());
        let base = self.place().urls.base_url().path().len();
        format!("/{}/{}", self.name, &url.path()[base..])
    }

    /// Asks for the bucket. HEAD has no body and wants the right to list all of it, so a refusal is asked about once
    /// more by a listing, which says why.
    async fn ask(&self, http: &reqwest::Client, prefix: &str) -> Result<()> {
        let head = Request::new("open", Method::Head, None);
        let error = match request::fetch(self, http, &head, Patience::START).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let Cause::Remote { status, .. } = error.cause else { return Err(error) };
        if status == 404 {
            return Err(error);
        }
        let list = Request::new("open", Method::Get, None).query("list-type", "2").query("max-keys", "1");
        let list = if prefix.is_empty() { list } else { list.query("prefix", prefix) };
        request::fetch(self, http, &list, Patience::START).await.map(|_| ())
    }

    /// Why the bucket cannot be used, and what to do, in words.
    fn explain(&self, cause: &Cause) -> String {
        let place = self.place();
        let endpoint = self.settings.endpoint_in(&place.region);
        let prefix = if self.side == Side::Source { "source-" } else { "" };
        let Cause::Remote { status, code } = cause else {
            return match cause {
                Cause::Network(what) => format!("{endpoint} cannot be reached: {what}"),
                other => other.to_string(),
            };
        };
        let key = &self.credentials.latest().access_key;
        match (*status, code.as_str()) {
            (_, "InvalidAccessKeyId") => format!("{endpoint} does not know the access key {key}"),
            (_, "SignatureDoesNotMatch") => format!("the secret key does not fit the access key {key} at {endpoint}"),
            (_, "ExpiredToken" | "InvalidToken") => format!("the session of the access key {key} has expired"),
            (404, _) | (_, "NoSuchBucket") => format!("there is no bucket of this name at {endpoint}"),
            (403, code) => format!("the access key {key} is not allowed to list it at {endpoint} ({code})"),
            (301 | 307, _) | (400, "AuthorizationHeaderMalformed") => {
                format!("it is not in the region {}; name its region with --{prefix}region", place.region)
            }
            (status, code) => format!("{endpoint} answered {code} (HTTP {status})"),
        }
    }
}

impl Place {
    /// `Err` is what is wrong with the endpoint, for the user.
    fn new(settings: &Settings, name: &str, region: &str) -> std::result::Result<Place, String> {
        let endpoint = settings.endpoint_in(region);
        // Before it is looked at any closer: no message may show it (I10), least of all the one that it cannot be read.
        if endpoint.contains('@') {
            return Err("the endpoint holds a user name or password; S3 takes keys only".to_owned());
        }
        let wrong = |why: String| format!("the endpoint {endpoint} cannot be used: {why}");
        let url: Url = endpoint.parse().map_err(|error| wrong(format!("{error}")))?;
        let style: UrlStyle = settings.style(name);
        let urls = rusty_s3::Bucket::new(url, style, name.to_owned(), region.to_owned());
        let urls = urls.map_err(|error| wrong(format!("{error}")))?;
        Ok(Place { urls, region: region.to_owned() })
    }
}
