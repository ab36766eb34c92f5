//! [`Download`]: the body of an object or of a range of it, as it arrives.
//!
//! Servers differ in what they make of conditions and ranges: some ignore If-Match, some answer a range with 200. So
//! every answer's entity tag and Content-Range are compared with what was asked for, and its bytes are counted. Whose
//! checksum the bytes have is the caller's to compare: it hashes them once, where they pass (I7).

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use rusty_s3::Method;

use super::client::{Client, NO_LENGTH, length, object, text};
use super::request::{self, Permit, Request, failure};
use super::retry::Patience;
use super::{ByteRange, Key, Object, body};
use crate::error::{Cause, Error, Result};

/// A body that is arriving.
pub struct Download {
    /// What the object is, by the answer's headers.
    pub object: Object,
    /// The rest of the answer.
    response: Response,
    /// Bytes that are still to come.
    left: u64,
    /// For messages.
    name: Vec<u8>,
    /// Held while the body arrives.
    _permit: Permit,
}

impl Client {
    /// Begins to read an object, or `range` of it, which must lie within it. With `etag` only that version is read:
    /// another is [`Cause::Unstable`]; no object at all is [`Cause::Vanished`].
    pub async fn get(&self, key: &Key, range: Option<ByteRange>, etag: Option<&str>) -> Result<Download> {
        self.begin(Request::new("read", Method::Get, Some(key)), range, etag).await
    }

    /// Likewise `range` of that version, for a request that has a place under the throttle and waits for this one.
    pub async fn get_beside(&self, key: &Key, range: ByteRange, etag: &str) -> Result<Download> {
        self.begin(Request::new("read", Method::Get, Some(key)).beside(), Some(range), Some(etag)).await
    }

    async fn begin(&self, mut request: Request<'_>, range: Option<ByteRange>, etag: Option<&str>) -> Result<Download> {
        let etag = etag.filter(|etag| !etag.is_empty());
        // A server that is asked for a range has no checksum of it to tell.
        if range.is_none() {
            request = request.signed("x-amz-checksum-mode", "ENABLED");
        }
        if let Some(ByteRange { offset, len }) = range {
            request = request.plain("range", format!("bytes={offset}-{}", offset + len - 1));
        }
        if let Some(etag) = etag {
            request = request.plain("if-match", format!("\"{etag}\""));
        }
        let (response, permit) = match request::open(&self.bucket, &self.http, &request, Patience::JOB).await {
            Ok(opened) => opened,
            Err(error) => return Err(meaning(error)),
        };
        let fail = |cause| failure(&self.bucket, &request, cause);
        let mut object = object(response.headers());
        let (size, left) = extent(response.headers(), range).map_err(fail)?;
        object.size = size;
        if etag.is_some_and(|etag| etag != object.etag && !object.etag.is_empty()) {
            return Err(fail(Cause::Unstable { attempts: 1 }));
        }
        let name = fail(Cause::Vanished).object;
        Ok(Download { object, response, left, name, _permit: permit })
    }
}

impl Download {
    /// The next bytes, in the pieces they arrive in; `None` when all have come. What breaks off, stalls for 30 s or
    /// ends early is [`Cause::Cut`], of class Retry: the rest may be asked for again.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let fail = |what| Error { verb: "read", object: self.name.clone(), cause: Cause::Cut(what) };
        match body::next(&mut self.response).await {
            Ok(Some(chunk)) => match self.left.checked_sub(chunk.len() as u64) {
                Some(left) => {
                    self.left = left;
                    Ok(Some(chunk))
                }
                None => Err(fail("more bytes came than were announced".to_owned())),
            },
            Ok(None) if self.left == 0 => Ok(None),
            Ok(None) => Err(fail(format!("it ended {} bytes early", self.left))),
            Err(what) => Err(fail(what)),
        }
    }
}

/// What an error of GET means for the object.
fn meaning(mut error: Error) -> Error {
    if let Cause::Remote { status, code } = &error.cause {
        match (*status, code.as_str()) {
            (404, "NoSuchBucket") => {}
            (404, _) => error.cause = Cause::Vanished,
            // The range lay within the object when it was described.
            (412 | 416, _) => error.cause = Cause::Unstable { attempts: 1 },
            _ => {}
        }
    }
    error
}

/// The size of the whole object and the length of this answer, which must be what was asked for.
fn extent(headers: &HeaderMap, range: Option<ByteRange>) -> std::result::Result<(u64, u64), Cause> {
    let odd = |why: &'static str| Cause::Protected(why);
    let len = length(headers);
    let told = text(headers, CONTENT_RANGE.as_str());
    match (range, told) {
        (None, None) => len.map(|len| (len, len)).ok_or(NO_LENGTH),
        (None, Some(_)) => Err(odd("the server answered a part of it only")),
        (Some(range), Some(told)) => {
            let (first, last, size) =
                content_range(told).ok_or_else(|| odd("the server's answer tells no range that can be read"))?;
            if (first, last) == (range.offset, range.offset + range.len - 1) && last < size {
                Ok((size, range.len))
            } else if first == range.offset && last + 1 == size {
                // Shorter than asked for: the object ends before the range does.
                Err(Cause::Unstable { attempts: 1 })
            } else {
                Err(odd("the server answered another range than was asked for"))
            }
        }
        // The whole object instead of a range is what was asked for only where the range is the whole.
        (Some(range), None) if range.offset == 0 && len == Some(range.len) => Ok((range.len, range.len)),
        (Some(_), None) => Err(odd("the server does not answer ranges")),
    }
}

/// First byte, last byte and size of `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((first, last, size.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{CONTENT_LENGTH, HeaderValue};

    fn headers(len: &str, range: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, HeaderValue::from_str(len).unwrap());
        range.map(|range| headers.insert(CONTENT_RANGE, HeaderValue::from_str(range).unwrap()));
        headers
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let range = Some(ByteRange { offset: 10, len: 5 });
        assert_eq!(extent(&headers("5", Some("bytes 10-14/100")), range), Ok((100, 5)));
        assert_eq!(extent(&headers("7", None), None), Ok((7, 7)));
        let whole = Some(ByteRange { offset: 0, len: 7 });
        assert_eq!(extent(&headers("7", None), whole), Ok((7, 7)));
        let shrunk = extent(&headers("2", Some("bytes 10-11/12")), range);
        assert_eq!(shrunk, Err(Cause::Unstable { attempts: 1 }));
        let odd = ["bytes 0-4/100", "bytes 10-15/100", "bytes 10-14/12", "bytes 14-10/100", "bytes */100", "", "items"];
        for told in odd {
            assert!(extent(&headers("5", Some(told)), range).is_err(), "{told}");
        }
        assert!(extent(&headers("100", None), range).is_err());
        assert!(extent(&headers("5", Some("bytes 10-14/100")), None).is_err());
        assert!(extent(&HeaderMap::new(), None).is_err());
    }
}
