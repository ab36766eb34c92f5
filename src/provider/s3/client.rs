//! [`Client`]: one lane's connections to a bucket, and the requests about whole objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use reqwest::header::{CONTENT_LENGTH, HeaderMap, LAST_MODIFIED};
use rusty_s3::Method;

use super::bucket::Escapes;
use super::request::{self, Answer, Request, failure};
use super::retry::Patience;
use super::{Bucket, Description, From, Key, Object, Page, Payload, Stored, times, xml};
use crate::error::{Cause, Error, Result};

/// The header that carries a CRC64/NVME, both ways.
pub(super) const CRC64_HEADER: &str = "x-amz-checksum-crc64nvme";
/// An answer about an object that does not tell its size.
pub(super) const NO_LENGTH: Cause = Cause::Protected("the server does not tell how long it is");
/// What the clocks of server and client may differ by where it was not measured, in seconds.
pub(super) const CLOCK_SLACK_SECS: i64 = 60;
/// What user metadata begins with as a header.
const ATTRIBUTE_PREFIX: &str = "x-amz-meta-";
/// What else is said of an object and kept by CopyObject.
const CONTENT_HEADERS: [&str; 6] =
    ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];

/// One lane's connections to a bucket. Every method signs, sends, and sends again what may succeed then (see
/// [`super::retry`]); its error is final: [`Cause::Remote`] where the server refused, [`Cause::Network`] where it does
/// not answer at all, [`Cause::Silence`] where it does not answer about this object.
pub struct Client {
    /// What is shared with the other lanes.
    pub(super) bucket: Arc<Bucket>,
    /// The connections.
    pub(super) http: reqwest::Client,
}

impl Client {
    /// A client without connections yet: they are made as requests need them.
    pub fn new(bucket: Arc<Bucket>) -> Result<Client> {
        let http = bucket.connect()?;
        Ok(Client { bucket, http })
    }

    /// The bucket it talks to.
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.bucket
    }

    /// One page of what begins with `prefix`, grouped at the next `/`. Up to 1,000 names.
    pub async fn list(&self, prefix: &str, from: &From) -> Result<Page> {
        let request = list_request(prefix).query("delimiter", "/").query("encoding-type", "url");
        let request = match from {
            From::Start => request,
            From::Token(token) => request.query("continuation-token", token),
            From::After(key) => request.query("start-after", key),
        };
        let answer = self.fetch(&request).await?;
        let mut listing = xml::listing(&answer.body).map_err(|_| self.unreadable(&request))?;
        if listing.is_escaped && self.keeps_escapes(prefix, &listing.page).await? {
            listing.unescape();
        }
        // A server that tells the same page for ever would be read for ever.
        let is_repeated = matches!((from, &listing.page.next), (From::Token(token), Some(next)) if token == next);
        if is_repeated { Err(self.unreadable(&request)) } else { Ok(listing.page) }
    }

    /// What an object is; `None` where there is none.
    pub async fn head(&self, key: &Key) -> Result<Option<Object>> {
        let request = Request::new("look at", Method::Head, Some(key)).signed("x-amz-checksum-mode", "ENABLED");
        match self.fetch(&request).await {
            // Without its length nothing is known of an object; least of all that it is empty.
            Ok(answer) => match length(&answer.headers) {
                Some(size) => Ok(Some(Object { size, ..object(&answer.headers) })),
                None => Err(failure(&self.bucket, &request, NO_LENGTH)),
            },
            Err(Error { cause: Cause::Remote { status: 404, .. }, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores an object in one request. `crc64` is its content's.
    pub async fn put(
        &self,
        key: &Key,
        body: impl Into<Payload>,
        crc64: u64,
        description: impl Into<Description<'_>>,
    ) -> Result<Stored> {
        let (body, description) = (body.into(), description.into());
        let request = |sends_checksum: bool| {
            let request = Request::new("write", Method::Put, Some(key)).body(body.clone()).described(description);
            let request = self.with_storage_class(request);
            if sends_checksum { request.signed(CRC64_HEADER, xml::encode_crc64(crc64)) } else { request }
        };
        let is_sent = self.bucket.takes_checksums();
        let started = self.bucket.now().as_second();
        let answer = match self.upload(&request(is_sent), self.may_write(key)).await {
            Err(error) if is_sent && self.may_refuse_checksums(&error) => {
                let answer = self.upload(&request(false), self.may_write(key)).await?;
                self.bucket.stop_checksums();
                answer
            }
            Err(error) if is_damage(&error) => {
                self.discard(key, body.bytes.len() as u64, started).await;
                return Err(error);
            }
            answer => answer?,
        };
        let is_checked =
            self.is_checked(&answer, crc64).map_err(|cause| failure(&self.bucket, &request(true), cause))?;
        self.bucket.note_checksums(is_checked);
        Ok(Stored { etag: etag(&answer.headers), is_checked })
    }

    /// Copies an object of the same account on the server: up to 5 GiB, the version `etag` only. `description` replaces
    /// all that it says; `None` keeps it. [`Stored::is_checked`] is false: nothing was compared here.
    pub async fn copy(
        &self,
        source: &Bucket,
        source_key: &Key,
        etag: &str,
        key: &Key,
        description: Option<Description<'_>>,
    ) -> Result<Stored> {
        let request = Request::new("copy to", Method::Put, Some(key)).slow();
        let request = copy_source(self.with_storage_class(request), source, source_key, etag);
        let request = match description {
            Some(description) => request.signed("x-amz-metadata-directive", "REPLACE").described(description),
            None => request,
        };
        let answer = self.fetch(&request).await.map_err(of_source)?;
        let made = xml::made(&answer.body).map_err(|_| self.unreadable(&request))?;
        Ok(Stored { etag: made.etag, is_checked: false })
    }

    /// Removes an object; that there is none is fine.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        match self.fetch(&Request::new("delete", Method::Delete, Some(key))).await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends until there is an answer, with the patience of a job.
    pub(super) async fn fetch(&self, request: &Request<'_>) -> Result<Answer> {
        request::fetch(&self.bucket, &self.http, request, Patience::JOB).await
    }

    /// Sends a body. A server that refuses while the body is still coming cuts the connection, and its answer is lost
    /// with it; so when that has happened a few times, `may_upload` asks without a body whether it is a refusal.
    pub(super) async fn upload(
        &self,
        request: &Request<'_>,
        may_upload: impl Future<Output = Result<()>>,
    ) -> Result<Answer> {
        const CUT: Patience = Patience { silent_max: 3, ..Patience::JOB };
        match request::fetch(&self.bucket, &self.http, request, CUT).await {
            Err(Error { cause: Cause::Network(_) | Cause::Silence(_), .. }) => {
                may_upload.await?;
                self.fetch(request).await
            }
            answer => answer,
        }
    }

    /// Removes what a server stored although it found it damaged (s3s-fs compares after it has renamed): it has the
    /// size and the times of the source, and the next pass would take it for a copy (I2). What was there before stays:
    /// it is older, or of another size. That this fails too changes nothing about the error it follows.
    async fn discard(&self, key: &Key, size: u64, started: i64) {
        if let Ok(Some(object)) = self.head(key).await
            && object.size == size
            && object.modified.secs >= started - CLOCK_SLACK_SECS
        {
            let _ = self.delete(key).await;
        }
    }

    /// Whether an object may be written: a multipart upload needs the same permission, and leaves nothing behind.
    async fn may_write(&self, key: &Key) -> Result<()> {
        match Box::pin(self.create_upload(key, Description::default())).await {
            Ok((upload, _)) => self.abort_upload(key, &upload).await,
            Err(Error { cause: Cause::Remote { status: 405 | 501, .. }, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn with_storage_class<'a>(&self, request: Request<'a>) -> Request<'a> {
        match self.bucket.storage_class() {
            Some(class) => request.signed("x-amz-storage-class", class),
            None => request,
        }
    }

    /// Whether an answer confirms the checksum that was sent. One that tells another is not believed to have stored
    /// what was sent.
    fn is_checked(&self, answer: &Answer, crc64: u64) -> std::result::Result<bool, Cause> {
        match text(&answer.headers, CRC64_HEADER).and_then(xml::decode_crc64) {
            Some(told) if told == crc64 => Ok(true),
            Some(_) => Err(Cause::Transfer("the server stored another checksum than was sent".to_owned())),
            None => Ok(false),
        }
    }

    /// Whether the server may have refused because it does not know the checksum. That it does shows when it takes the
    /// same request without one: only then no more are sent.
    pub(super) fn may_refuse_checksums(&self, error: &Error) -> bool {
        const CODES: [&str; 4] = ["InvalidRequest", "InvalidArgument", "NotImplemented", "InvalidHeader"];
        let Cause::Remote { status: 400 | 501, code } = &error.cause else { return false };
        CODES.contains(&code.as_str()) && self.bucket.checksums() != super::Checksums::Stored
    }

    /// An answer that cannot be read is the server's fault with this object.
    pub(super) fn unreadable(&self, request: &Request<'_>) -> Error {
        failure(&self.bucket, request, Cause::Protected("the server's answer cannot be read"))
    }

    /// Whether a page that calls itself URL-encoded is. Some servers repeat the claim and send names as they are; then
    /// `a+b` is not `a b`. The first name that shows a difference is asked for in both readings; where `prefix`, which
    /// all of them begin with, shows it already, nobody is asked: the account may not be allowed to list anything else.
    async fn keeps_escapes(&self, prefix: &str, page: &Page) -> Result<bool> {
        if self.bucket.escapes() != Escapes::Unknown {
            return Ok(self.bucket.escapes() == Escapes::Kept);
        }
        let names = || page.objects.iter().map(|object| &object.key).chain(&page.prefixes);
        let is_plain = |name: &String| name.bytes().any(|byte| byte <= b' ' || byte >= 0x7f);
        let Some(name) = names().find(|name| name.contains(['+', '%'])) else { return Ok(true) };
        let escapes = match xml::percent_decode(name, xml::Plus::Space) {
            _ if names().any(is_plain) => Escapes::Claimed,
            None => Escapes::Claimed,
            Some(plain) if plain.starts_with(prefix) != name.starts_with(prefix) => match name.starts_with(prefix) {
                true => Escapes::Claimed,
                false => Escapes::Kept,
            },
            Some(plain) => match (self.is_listed(&plain).await?, self.is_listed(name).await?) {
                (false, true) => Escapes::Claimed,
                (true, false) => Escapes::Kept,
                _ => return Ok(true),
            },
        };
        self.bucket.note_escapes(escapes);
        Ok(escapes == Escapes::Kept)
    }

    /// Whether anything begins with `prefix`.
    async fn is_listed(&self, prefix: &str) -> Result<bool> {
        let request = list_request(prefix).query("max-keys", "1").query("encoding-type", "url");
        let answer = self.fetch(&request).await?;
        let listing = xml::listing(&answer.body).map_err(|_| self.unreadable(&request))?;
        Ok(!listing.page.objects.is_empty())
    }
}

fn list_request<'a>(prefix: &str) -> Request<'a> {
    let request = Request::new("list", Method::Get, None).query("list-type", "2");
    if prefix.is_empty() { request } else { request.query("prefix", prefix) }
}

/// A request that copies from `source_key`, the version `etag` only.
pub(super) fn copy_source<'a>(request: Request<'a>, source: &Bucket, source_key: &Key, etag: &str) -> Request<'a> {
    let request = request.signed("x-amz-copy-source", source.copy_source(source_key));
    match etag {
        "" => request,
        etag => request.signed("x-amz-copy-source-if-match", format!("\"{etag}\"")),
    }
}

/// What an error of a copy means for the source object.
pub(super) fn of_source(mut error: Error) -> Error {
    if let Cause::Remote { status, code } = &error.cause {
        match (*status, code.as_str()) {
            (_, "NoSuchKey") => error.cause = Cause::Vanished,
            (412, _) => error.cause = Cause::Unstable { attempts: 1 },
            _ => {}
        }
    }
    error
}

/// What an error of reading means where what is read was stored just before: nothing is wrong with the source.
pub fn of_dest(error: Error) -> Error {
    let cause = match error.cause {
        Cause::Vanished => Cause::Protected("what was stored is not there any more"),
        Cause::Unstable { .. } => Cause::Protected("what was stored has been replaced by somebody else"),
        cause => cause,
    };
    Error { cause, ..error }
}

/// Whether the server found what arrived to be other than what was sent.
fn is_damage(error: &Error) -> bool {
    const CODES: [&str; 3] = ["BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch"];
    matches!(&error.cause, Cause::Remote { code, .. } if CODES.contains(&code.as_str()))
}

/// Whether the answer was that there is no such object or upload.
pub(super) fn is_missing(error: &Error) -> bool {
    // The name says it, too, in an answer that calls itself a success.
    match &error.cause {
        Cause::Remote { status: 404, code } => code != "NoSuchBucket",
        Cause::Remote { status: 200, code } => matches!(code.as_str(), "NoSuchUpload" | "NoSuchKey"),
        _ => false,
    }
}

/// A header as text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The entity tag of an answer.
pub(super) fn etag(headers: &HeaderMap) -> String {
    text(headers, "etag").map(xml::etag).unwrap_or_default()
}

/// What an answer tells as its length.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH.as_str())?.trim().parse().ok()
}

/// An object by its headers; its size is the caller's to tell.
pub(super) fn object(headers: &HeaderMap) -> Object {
    let attribute = |(name, value): (&reqwest::header::HeaderName, &reqwest::header::HeaderValue)| {
        // Header names arrive in any case; the library has made them lower already.
        let name = name.as_str().strip_prefix(ATTRIBUTE_PREFIX)?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    };
    let attributes: BTreeMap<String, String> = headers.iter().filter_map(attribute).collect();
    Object {
        size: 0,
        etag: etag(headers),
        modified: text(headers, LAST_MODIFIED.as_str()).and_then(times::parse).unwrap_or_default(),
        crc64: text(headers, CRC64_HEADER).and_then(xml::decode_crc64),
        attributes,
        headers: CONTENT_HEADERS.iter().filter_map(|name| Some((*name, content_header(headers, name)?))).collect(),
    }
}

/// A header about the content. Some hold names in UTF-8. How the body once came to the server is none of the content's
/// affair, though some servers keep that, too.
fn content_header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = String::from_utf8(headers.get(name)?.as_bytes().to_vec()).ok()?;
    let is_kept = |coding: &&str| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked");
    match name {
        "content-encoding" => {
            let kept: Vec<&str> = value.split(',').map(str::trim).filter(is_kept).collect();
            (!kept.is_empty()).then(|| kept.join(", "))
        }
        _ => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn headers_about_the_content_are_kept_and_those_about_its_way_are_not() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/html"));
        headers.insert("content-disposition", HeaderValue::from_str("inline; filename=\u{e4}").unwrap());
        headers.insert("content-encoding", HeaderValue::from_static("aws-chunked, gzip"));
        headers.insert("server", HeaderValue::from_static("x"));
        let kept = [("content-type", "text/html"), ("content-disposition", "inline; filename=\u{e4}")];
        let kept = kept.into_iter().chain([("content-encoding", "gzip")]);
        let kept: Vec<_> = kept.map(|(name, value)| (name, value.to_owned())).collect();
        assert_eq!(object(&headers).headers, kept);
        headers.insert("content-encoding", HeaderValue::from_static("aws-chunked"));
        assert_eq!(object(&headers).headers, kept[..2]);
    }
}
