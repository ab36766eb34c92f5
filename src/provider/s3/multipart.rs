//! Multipart uploads: begun, filled part by part in any order, put together, or given up.
//!
//! Each part carries its own CRC64/NVME and the whole carries the combined one (type FULL_OBJECT), so the server can
//! refuse what was damaged. An upload is known by its id alone; whoever holds that can go on with it after a crash, and
//! nobody else can tell whose it is: servers list key, time and account of an upload, nothing that its client chose.

use bytes::Bytes;
use rusty_s3::Method;

use super::client::{CLOCK_SLACK_SECS, CRC64_HEADER, Client, copy_source, etag, is_missing, of_dest, of_source, text};
use super::request::{Answer, Request, failure};
use super::xml::{self, Unfinished};
use super::{Bucket, ByteRange, Description, Key, Object, Part, Payload, Stored, Supply};
use crate::digest::crc64;
use crate::error::{Cause, Error, Result};

/// Pages of uploads that are read: a hundred thousand uploads under way.
const UPLOAD_PAGES_MAX: usize = 100;
/// Pages of parts that are read: an upload has 10,000 parts, and servers tell 1,000 at a time, the worst of them 100.
const PART_PAGES_MAX: usize = 200;
/// A part that cannot be named when its upload is completed.
const NO_ETAG: Cause = Cause::Protected("the server tells no entity tag of a part of it");
/// How often an upload is given up again while parts still turn up in it.
const ABORTS_MAX: u32 = 3;

impl Client {
    /// Begins an upload and tells its id, and whether the server may have begun another one whose id was lost with an
    /// answer.
    pub async fn create_upload(&self, key: &Key, description: impl Into<Description<'_>>) -> Result<(String, bool)> {
        let description = description.into();
        let request = |sends_checksums: bool| {
            let request = Request::new("begin to write", Method::Post, Some(key)).query("uploads", "");
            let request = self.with_storage_class(request).described(description);
            match sends_checksums {
                true => {
                    request.signed("x-amz-checksum-algorithm", "CRC64NVME").signed("x-amz-checksum-type", "FULL_OBJECT")
                }
                false => request,
            }
        };
        let is_sent = self.bucket.takes_checksums();
        let answer = match self.fetch(&request(is_sent)).await {
            Err(error) if is_sent && self.may_refuse_checksums(&error) => {
                let answer = self.fetch(&request(false)).await?;
                self.bucket.stop_checksums();
                answer
            }
            answer => answer?,
        };
        let id = xml::upload_id(&answer.body).map_err(|_| self.unreadable(&request(is_sent)))?;
        Ok((id, answer.is_doubtful))
    }

    /// Stores part `number` (1..=10,000); `crc64` is its content's. Sent again it replaces itself.
    pub async fn put_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        body: impl Into<Payload>,
        crc64: u64,
    ) -> Result<Part> {
        let body = body.into();
        let len = body.bytes.len() as u64;
        let request = part_request("write a part of", key, upload, number).body(body);
        let request = match self.bucket.takes_checksums() {
            true => request.signed(CRC64_HEADER, xml::encode_crc64(crc64)),
            false => request,
        };
        let part = self.send_part(&request, (key, upload), number, len).await?;
        match part.crc64 {
            told if told != 0 && told != crc64 => Err(failure(&self.bucket, &request, other_checksum())),
            _ => Ok(Part { crc64, ..part }),
        }
    }

    /// The same with content that is read while it is sent. Its checksum can go along only if it is known before; the
    /// part's `crc64` is what the server tells, 0 where it tells none.
    pub async fn stream_part(
        &self,
        key: &Key,
        upload: &str,
        number: u32,
        supply: Supply,
        crc64: Option<u64>,
    ) -> Result<Part> {
        let request = part_request("write a part of", key, upload, number).supply(&supply);
        let request = match crc64 {
            Some(crc64) => request.signed(CRC64_HEADER, xml::encode_crc64(crc64)),
            None => request,
        };
        self.send_part(&request, (key, upload), number, supply.len()).await
    }

    /// Whether a part must bring its checksum, or the server would not put the upload together (garage). Servers that
    /// want the whole's alone tell the checksum of a part that came without; others tell none of one that came with.
    /// Found out once, by a part of one byte that the real one replaces.
    pub async fn wants_part_checksums(&self, key: &Key, upload: &str, number: u32) -> Result<bool> {
        if !self.bucket.takes_checksums() {
            return Ok(false);
        }
        let wants = self.bucket.wants_part_checksums().get_or_try_init(async || {
            let byte = Bytes::from_static(b"?");
            let without = part_request("write a part of", key, upload, number).body(byte.clone());
            match self.send_part(&without, (key, upload), number, 1).await {
                Ok(part) if part.crc64 != 0 => return Ok(false),
                Ok(_) | Err(Error { cause: Cause::Remote { status: 400, .. }, .. }) => {}
                Err(error) => return Err(error),
            }
            let with = part_request("write a part of", key, upload, number);
            let with = with.signed(CRC64_HEADER, xml::encode_crc64(crc64(&byte))).body(byte);
            Ok(self.send_part(&with, (key, upload), number, 1).await?.crc64 != 0)
        });
        wants.await.copied()
    }

    async fn send_part(
        &self,
        request: &Request<'_>,
        (key, upload): (&Key, &str),
        number: u32,
        len: u64,
    ) -> Result<Part> {
        let answer = self.upload(request, self.may_go_on(key, upload)).await?;
        let crc64 = text(&answer.headers, CRC64_HEADER).and_then(xml::decode_crc64).unwrap_or(0);
        match etag(&answer.headers) {
            // An upload cannot be completed without it.
            etag if etag.is_empty() => Err(failure(&self.bucket, request, NO_ETAG)),
            etag => Ok(Part { number, etag, len, crc64 }),
        }
    }

    /// Copies `range` of an object of the same account as part `number`, the version `etag` only. The part's `crc64` is
    /// 0 where the server tells none.
    #[expect(clippy::too_many_arguments, reason = "both ends of the copy are named by two or three words each")]
    pub async fn copy_part(
        &self,
        source: &Bucket,
        source_key: &Key,
        etag: &str,
        range: ByteRange,
        key: &Key,
        upload: &str,
        number: u32,
    ) -> Result<Part> {
        let ByteRange { offset, len } = range;
        let request = part_request("copy a part to", key, upload, number).slow();
        let request = copy_source(request, source, source_key, etag);
        let request = request.signed("x-amz-copy-source-range", format!("bytes={offset}-{}", offset + len - 1));
        let answer = self.fetch(&request).await.map_err(of_source)?;
        let made = xml::made(&answer.body).map_err(|_| self.unreadable(&request))?;
        if made.etag.is_empty() {
            return Err(failure(&self.bucket, &request, NO_ETAG));
        }
        Ok(Part { number, etag: made.etag, len, crc64: made.crc64.unwrap_or(0) })
    }

    /// Puts the parts together, in the order of their numbers. `crc64` is the whole content's; 0 where it is not known.
    ///
    /// An answer may be lost after the server has done it; asked again it knows no such upload. Then the object itself
    /// is looked at.
    pub async fn complete_upload(&self, key: &Key, upload: &str, parts: &[Part], crc64: u64) -> Result<Stored> {
        let mut sorted: Vec<&Part> = parts.iter().collect();
        sorted.sort_by_key(|part| part.number);
        let request = Request::new("finish", Method::Post, Some(key)).query("uploadId", upload);
        let request = request.body(Bytes::from(xml::complete(&sorted))).slow();
        let request = match crc64 != 0 && self.bucket.takes_checksums() {
            true => request.signed(CRC64_HEADER, xml::encode_crc64(crc64)).signed("x-amz-checksum-type", "FULL_OBJECT"),
            false => request,
        };
        let whole = Whole { size: parts.iter().map(|part| part.len).sum(), count: parts.len(), crc64 };
        let started = self.bucket.now().as_second();
        match self.fetch(&request).await {
            Ok(answer) => self.completed(key, &request, &answer, whole).await,
            Err(error) if is_forgotten(&error) => match self.head(key).await? {
                Some(object) if whole.is_in(&object, started) => Ok(whole.stored(object)),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The object that an upload has become, if it was completed: by somebody who did not live to tell, for the server
    /// does not know the upload any more. It was begun at `since_secs` (seconds since 1970), with this description, to
    /// have so many bytes of so many parts, with this checksum (0 where it is not known). One that says anything else
    /// is another's: the upload may have been given up by a rule of the bucket.
    pub async fn find_completed(
        &self,
        key: &Key,
        (size, count, crc64): (u64, usize, u64),
        description: Description<'_>,
        since_secs: i64,
    ) -> Result<Option<Stored>> {
        let whole = Whole { size, count, crc64 };
        let Description { attributes, headers } = description;
        let is_described = |object: &Object| {
            let is_as_sent = headers.is_empty() || object.headers == headers;
            is_as_sent && object.attributes == attributes.iter().cloned().collect()
        };
        let object = self.head(key).await?;
        let object = object.filter(|object| whole.is_in(object, since_secs) && is_described(object));
        Ok(object.map(|object| whole.stored(object)))
    }

    /// Gives an upload up and frees its parts; that it is gone already is fine. A part that was still on its way may
    /// land after the upload was given up, so it is looked for once more.
    pub async fn abort_upload(&self, key: &Key, upload: &str) -> Result<()> {
        for _ in 0..ABORTS_MAX {
            match self.fetch(&Request::new("give up", Method::Delete, Some(key)).query("uploadId", upload)).await {
                Ok(_) => {}
                Err(error) if is_missing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.list_parts(key, upload).await?.is_none_or(|parts| parts.is_empty()) {
                break;
            }
        }
        Ok(())
    }

    /// The parts an upload has, by number; `None` where the upload is gone. A server that cannot tell has none: they
    /// are sent again.
    pub async fn list_parts(&self, key: &Key, upload: &str) -> Result<Option<Vec<Part>>> {
        match self.told_parts(key, upload).await {
            Err(Error { cause: Cause::Remote { status: 405 | 501, .. }, .. }) => Ok(Some(Vec::new())),
            told => told,
        }
    }

    async fn told_parts(&self, key: &Key, upload: &str) -> Result<Option<Vec<Part>>> {
        let (mut parts, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PART_PAGES_MAX {
            let request = Request::new("list the parts of", Method::Get, Some(key)).query("uploadId", upload);
            let request = match &next {
                Some(marker) => request.query("part-number-marker", marker),
                None => request,
            };
            let answer = match self.fetch(&request).await {
                Ok(answer) => answer,
                Err(error) if is_missing(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let page = xml::parts(&answer.body).map_err(|_| self.unreadable(&request))?;
            parts.extend(page.parts);
            if page.next.is_none() || page.next == next {
                break;
            }
            next = page.next;
        }
        parts.retain(|part: &Part| part.number != 0);
        parts.sort_by_key(|part| part.number);
        parts.dedup_by_key(|part| part.number);
        Ok(Some(parts))
    }

    /// What may be left of an upload that was begun for `key` at `since_secs` (seconds since 1970) or later, and whose
    /// id was never read: uploads without parts. Nothing tells whose they are, and another client may be about to send
    /// its first part; so they are told, and never given up. One that has parts is another client's.
    pub async fn uploads_in_doubt(&self, key: &Key, since_secs: i64) -> Result<Vec<Unfinished>> {
        let mut found = Vec::new();
        for upload in self.list_uploads(key.as_str()).await? {
            let is_since = upload.begun.is_some_and(|begun| begun.secs >= since_secs - CLOCK_SLACK_SECS);
            if upload.key == key.as_str()
                && is_since
                && self.told_parts(key, &upload.id).await?.is_some_and(|parts| parts.is_empty())
            {
                found.push(upload);
            }
        }
        Ok(found)
    }

    /// Every upload under way below `prefix`. A server that cannot tell has none.
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<Unfinished>> {
        let (mut uploads, mut next) = (Vec::new(), None::<(String, String)>);
        for _ in 0..UPLOAD_PAGES_MAX {
            let request = Request::new("list the uploads of", Method::Get, None).query("uploads", "");
            let request = if prefix.is_empty() { request } else { request.query("prefix", prefix) };
            let request = match &next {
                Some((key, upload)) => request.query("key-marker", key).query("upload-id-marker", upload),
                None => request,
            };
            let answer = match self.fetch(&request).await {
                Ok(answer) => answer,
                Err(Error { cause: Cause::Remote { status: 405 | 501, .. }, .. }) => break,
                Err(error) => return Err(error),
            };
            let page = xml::uploads(&answer.body).map_err(|_| self.unreadable(&request))?;
            uploads.extend(page.uploads);
            if page.next.is_none() || page.next == next {
                break;
            }
            next = page.next;
        }
        Ok(uploads)
    }

    /// Whether an upload still takes parts.
    async fn may_go_on(&self, key: &Key, upload: &str) -> Result<()> {
        match self.list_parts(key, upload).await? {
            Some(_) => Ok(()),
            None => {
                let request = Request::new("write a part of", Method::Put, Some(key));
                let cause = Cause::Remote { status: 404, code: "NoSuchUpload".to_owned() };
                Err(failure(&self.bucket, &request, cause))
            }
        }
    }

    /// What a successful answer to Complete has proved. Servers that know the checksum but do not tell it here are
    /// asked for the object.
    async fn completed(&self, key: &Key, request: &Request<'_>, answer: &Answer, whole: Whole) -> Result<Stored> {
        let made = xml::made(&answer.body).unwrap_or_default();
        let told = made.crc64.or_else(|| text(&answer.headers, CRC64_HEADER).and_then(xml::decode_crc64));
        let is_silent = told.is_none() && whole.crc64 != 0 && self.bucket.takes_checksums();
        let (etag, told) = match is_silent || made.etag.is_empty() {
            true => match self.head(key).await? {
                Some(object) if object.size != whole.size => {
                    let cause = Cause::Transfer("the object that was put together has another size".to_owned());
                    return Err(failure(&self.bucket, request, cause));
                }
                Some(object) => (object.etag, object.crc64),
                None => return Err(of_dest(failure(&self.bucket, request, Cause::Vanished))),
            },
            false => (made.etag, told),
        };
        if told.is_some_and(|told| whole.crc64 != 0 && told != whole.crc64) {
            return Err(failure(&self.bucket, request, other_checksum()));
        }
        let is_checked = told.is_some() && whole.crc64 != 0;
        self.bucket.note_checksums(is_checked);
        Ok(Stored { etag, is_checked })
    }
}

/// What the parts make.
#[derive(Clone, Copy, Debug)]
struct Whole {
    /// Bytes of all parts.
    size: u64,
    /// Number of parts.
    count: usize,
    /// CRC64/NVME of the whole; 0 where it is not known.
    crc64: u64,
}

impl Whole {
    /// Whether an object is what an upload that was completed at `started` (seconds since 1970) or later made. Without
    /// a checksum: the size, the number of parts as S3 writes it in entity tags, and the time.
    fn is_in(&self, object: &Object, started: i64) -> bool {
        let has_count = || object.etag.rsplit_once('-').is_some_and(|(_, count)| count == self.count.to_string());
        let is_new = object.modified.secs >= started - CLOCK_SLACK_SECS;
        let is_same = match object.crc64 {
            Some(crc64) if self.crc64 != 0 => crc64 == self.crc64,
            _ => has_count() && is_new,
        };
        object.size == self.size && is_same
    }

    fn stored(&self, object: Object) -> Stored {
        let is_checked = self.crc64 != 0 && object.crc64 == Some(self.crc64);
        Stored { etag: object.etag, is_checked }
    }
}

/// Whether an error can be that of an upload that was completed before: servers say it in three ways.
fn is_forgotten(error: &Error) -> bool {
    matches!(&error.cause, Cause::Remote { status: 403 | 404, code } if code != "NoSuchBucket")
        || matches!(&error.cause, Cause::Remote { code, .. } if code == "NoSuchUpload")
}

fn other_checksum() -> Cause {
    Cause::Transfer("the server stored another checksum than was sent".to_owned())
}

fn part_request<'a>(verb: &'static str, key: &'a Key, upload: &str, number: u32) -> Request<'a> {
    let request = Request::new(verb, Method::Put, Some(key));
    request.query("partNumber", number.to_string()).query("uploadId", upload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Time;

    #[test]
    fn an_object_is_known_again_by_checksum_or_by_size_parts_and_time() {
        let whole = Whole { size: 10, count: 3, crc64: 7 };
        let object = |crc64, etag: &str, secs| {
            let modified = Time { secs, nanos: 0 };
            Object { size: 10, etag: etag.to_owned(), modified, crc64, ..Object::default() }
        };
        assert!(whole.is_in(&object(Some(7), "x", 0), 1000));
        assert!(!whole.is_in(&object(Some(8), "x-3", 1000), 1000));
        assert!(whole.is_in(&object(None, "x-3", 990), 1000));
        assert!(!whole.is_in(&object(None, "x-2", 1000), 1000));
        assert!(!whole.is_in(&object(None, "x-3", 900), 1000));
        assert!(!whole.is_in(&Object { size: 11, ..object(Some(7), "x-3", 1000) }, 1000));
    }
}
