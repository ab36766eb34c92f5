//! What the fault server keeps, and S3's rules over it: buckets, objects, uploads, listings. No sockets here.
//!
//! A whole server of a kind that checks CRC64NVME, or, with [`Checksums::Ignored`], of the kind that has never heard
//! of it. ETags are unique per write and no MD5, as behind SSE-KMS: nothing may take them for one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::crc64;
use super::http::{Request, iso8601, percent_decode, percent_encode, range, rfc1123};

/// The header of a checksum.
const CHECKSUM: &str = "x-amz-checksum-crc64nvme";

/// What the server makes of checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// Verified, stored, told: AWS.
    Stored,
    /// The same, and an upload is not put together unless each part came with its own: garage.
    Demanded,
    /// Neither verified nor told: many others.
    Ignored,
}

impl Checksums {
    /// What such a server computes of content: nothing if nobody is told.
    pub fn of(self, content: &[u8]) -> u64 {
        if self == Checksums::Ignored { 0 } else { crc64::crc64(content) }
    }
}

/// One object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its content.
    pub body: Bytes,
    /// Unique per write, without quotes.
    pub etag: String,
    /// CRC64/NVME of the content; 0 where the server has never heard of it.
    pub crc64: u64,
    /// User metadata, without `x-amz-meta-`.
    pub attributes: BTreeMap<String, String>,
    /// HTTP's own headers about the content, as they were sent.
    pub headers: BTreeMap<String, String>,
    /// Storage class asked for.
    pub storage_class: Option<String>,
    /// When it was written.
    pub modified: SystemTime,
}

/// An upload in parts that has not ended.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Bucket and key it is for.
    pub target: (String, String),
    /// Parts by number.
    pub parts: BTreeMap<u32, Object>,
    /// Numbers of parts that came without a checksum.
    unproved: BTreeSet<u32>,
    attributes: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    storage_class: Option<String>,
    begun: SystemTime,
}

/// An answer before it goes out.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// All headers but `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body; a HEAD announces its length only.
    pub body: Bytes,
}

/// Everything the server keeps.
#[derive(Debug)]
pub struct Store {
    /// Buckets by name, objects by key.
    pub buckets: BTreeMap<String, BTreeMap<String, Object>>,
    /// Uploads by id.
    pub uploads: BTreeMap<String, Upload>,
    /// What becomes of checksums.
    pub checksums: Checksums,
    /// Most keys, parts or uploads in one answer.
    pub page_max: usize,
    /// Least bytes of a part that is not the last.
    pub part_bytes_min: usize,
    /// Writes so far: makes ETags and upload ids.
    serial: u64,
}

/// Most bytes of user metadata, names and values together.
const ATTRIBUTES_BYTES_MAX: usize = 2048;
/// Most bytes of a key.
const KEY_BYTES_MAX: usize = 1024;

type Handled = Result<Answer, Answer>;

impl Answer {
    /// An answer without body.
    pub fn new(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// S3's error document.
    pub fn error(status: u16, code: &str) -> Answer {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{code}, as scripted or \
             deserved</Message><RequestId>1</RequestId></Error>"
        );
        Answer::new(status).with("Content-Type", "application/xml").body(text)
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn body(mut self, body: impl Into<Bytes>) -> Answer {
        self.body = body.into();
        self
    }

    /// A listing's page without names that is not the last: the next one begins where this did.
    pub fn empty_page() -> Answer {
        let token = "<NextContinuationToken>after-</NextContinuationToken>";
        Answer::xml("ListBucketResult", &format!("{token}<KeyCount>0</KeyCount><IsTruncated>true</IsTruncated>"))
    }

    fn xml(root: &str, inner: &str) -> Answer {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{root} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             {inner}</{root}>"
        );
        Answer::new(200).with("Content-Type", "application/xml").body(text)
    }
}

impl Store {
    /// An empty server.
    pub fn new() -> Store {
        Store {
            buckets: BTreeMap::new(),
            uploads: BTreeMap::new(),
            checksums: Checksums::Stored,
            page_max: 1000,
            part_bytes_min: 5 << 20,
            serial: 0,
        }
    }

    /// Does what a request asks. `crc64` is that of `body`.
    pub fn handle(&mut self, request: &Request, body: Bytes, crc64: u64) -> Answer {
        self.dispatch(request, body, crc64).unwrap_or_else(|error| error)
    }

    fn dispatch(&mut self, request: &Request, body: Bytes, crc64: u64) -> Handled {
        let (bucket, key) = request.bucket_and_key();
        if !self.buckets.contains_key(bucket) {
            return Err(Answer::error(404, "NoSuchBucket"));
        }
        if key.len() > KEY_BYTES_MAX {
            return Err(Answer::error(400, "KeyTooLongError"));
        }
        let upload = request.word("uploadId");
        match (request.method.as_str(), key.is_empty()) {
            ("HEAD", true) => Ok(Answer::new(200)),
            ("GET", true) if request.query.contains_key("uploads") => Ok(self.list_uploads(request)),
            ("GET", true) if request.word("list-type") == Some("2") => self.list(request),
            ("GET", false) if upload.is_some() => self.list_parts(request),
            ("GET" | "HEAD", false) => self.get(request),
            ("PUT", false) if request.headers.contains_key("x-amz-copy-source") => self.copy(request),
            ("PUT", false) if upload.is_some() => self.put_part(request, body, crc64),
            ("PUT", false) => self.put(request, body, crc64),
            ("POST", false) if request.query.contains_key("uploads") => self.create_upload(request),
            ("POST", false) if upload.is_some() => self.complete(request, &body),
            ("DELETE", false) if upload.is_some() => {
                self.upload(request)?;
                self.uploads.remove(upload.unwrap_or_default());
                Ok(Answer::new(204))
            }
            ("DELETE", false) => {
                self.objects(bucket).remove(key);
                Ok(Answer::new(204))
            }
            _ => Err(Answer::error(501, "NotImplemented")),
        }
    }

    /// The objects of a bucket that is known to be there.
    pub fn objects(&mut self, bucket: &str) -> &mut BTreeMap<String, Object> {
        self.buckets.get_mut(bucket).expect("a bucket that exists")
    }

    /// A new object, with an ETag of its own.
    pub fn object(&mut self, body: Bytes, crc64: u64, attributes: BTreeMap<String, String>) -> Object {
        self.serial += 1;
        let etag = format!("{:016x}{:016x}", crc64 ^ 0x5353, self.serial);
        let (headers, modified) = (BTreeMap::new(), SystemTime::now());
        Object { body, etag, crc64, attributes, headers, storage_class: None, modified }
    }

    fn put(&mut self, request: &Request, body: Bytes, crc64: u64) -> Handled {
        self.verify(request, crc64)?;
        self.refuse_existing(request)?;
        let (bucket, key) = request.bucket_and_key();
        let mut object = self.object(body, crc64, attributes(request)?);
        (object.storage_class, object.headers) = (storage_class(request), headers(request));
        let answer = self.stored(Answer::new(200), &object);
        self.objects(bucket).insert(key.to_owned(), object);
        Ok(answer)
    }

    fn get(&mut self, request: &Request) -> Handled {
        let (bucket, key) = request.bucket_and_key();
        let object = self.buckets[bucket].get(key).ok_or_else(|| Answer::error(404, "NoSuchKey"))?;
        let quoted = format!("\"{}\"", object.etag);
        if request.header("if-match").is_some_and(|wanted| wanted != quoted && wanted != object.etag && wanted != "*") {
            return Err(Answer::error(412, "PreconditionFailed"));
        }
        let mut answer = Answer::new(200)
            .with("ETag", quoted)
            .with("Last-Modified", rfc1123(object.modified))
            .with("Accept-Ranges", "bytes");
        if !object.headers.contains_key("content-type") {
            answer = answer.with("Content-Type", "binary/octet-stream");
        }
        for (name, value) in &object.headers {
            answer = answer.with(name, value);
        }
        for (name, value) in &object.attributes {
            answer = answer.with(&format!("x-amz-meta-{name}"), value);
        }
        if let Some(class) = &object.storage_class {
            answer = answer.with("x-amz-storage-class", class);
        }
        let Some(wanted) = request.header("range") else {
            let asks = request.header("x-amz-checksum-mode") == Some("ENABLED");
            answer = if asks { self.stored(answer, object) } else { answer };
            return Ok(answer.body(object.body.clone()));
        };
        let size = object.body.len();
        let (first, last) = range(wanted, size as u64)
            .ok_or_else(|| Answer::error(416, "InvalidRange").with("Content-Range", format!("bytes */{size}")))?;
        answer.status = 206;
        answer = answer.with("Content-Range", format!("bytes {first}-{last}/{size}"));
        Ok(answer.body(object.body.slice(first as usize..=last as usize)))
    }

    fn copy(&mut self, request: &Request) -> Handled {
        let (bucket, key) = request.bucket_and_key();
        let (from_bucket, from_key) = copy_source(request)?;
        let source = self.buckets.get(&from_bucket).and_then(|objects| objects.get(&from_key));
        let source = source.ok_or_else(|| Answer::error(404, "NoSuchKey"))?.clone();
        let wanted = request.header("x-amz-copy-source-if-match").map(|etag| etag.trim_matches('"'));
        if wanted.is_some_and(|etag| etag != source.etag) {
            return Err(Answer::error(412, "PreconditionFailed"));
        }
        let body = match request.header("x-amz-copy-source-range") {
            None => source.body,
            Some(wanted) => {
                let (first, last) =
                    range(wanted, source.body.len() as u64).ok_or_else(|| Answer::error(416, "InvalidRange"))?;
                source.body.slice(first as usize..=last as usize)
            }
        };
        let crc64 = crc64::crc64(&body);
        if request.word("uploadId").is_some() {
            let part = self.object(body, crc64, BTreeMap::new());
            let answer = copied("CopyPartResult", &part);
            self.upload(request)?.parts.insert(part_number(request)?, part);
            return Ok(answer);
        }
        let is_replaced = request.header("x-amz-metadata-directive") == Some("REPLACE");
        if !is_replaced && from_bucket == bucket && from_key == key {
            return Err(Answer::error(400, "InvalidRequest"));
        }
        let (attributes, headers) = match is_replaced {
            true => (attributes(request)?, headers(request)),
            false => (source.attributes, source.headers),
        };
        let mut object = self.object(body, crc64, attributes);
        (object.storage_class, object.headers) = (storage_class(request), headers);
        let answer = copied("CopyObjectResult", &object);
        self.objects(bucket).insert(key.to_owned(), object);
        Ok(answer)
    }

    fn create_upload(&mut self, request: &Request) -> Handled {
        let (bucket, key) = request.bucket_and_key();
        let id = self.begin_upload((bucket, key), attributes(request)?, headers(request), storage_class(request));
        let inner = format!("<Bucket>{bucket}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>", escape(key));
        Ok(Answer::xml("InitiateMultipartUploadResult", &inner))
    }

    /// Begins an upload; its id.
    pub fn begin_upload(
        &mut self,
        (bucket, key): (&str, &str),
        attributes: BTreeMap<String, String>,
        headers: BTreeMap<String, String>,
        storage_class: Option<String>,
    ) -> String {
        self.serial += 1;
        let id = format!("upload-{:08}", self.serial);
        let upload = Upload {
            target: (bucket.to_owned(), key.to_owned()),
            parts: BTreeMap::new(),
            unproved: BTreeSet::new(),
            attributes,
            headers,
            storage_class,
            begun: SystemTime::now(),
        };
        self.uploads.insert(id.clone(), upload);
        id
    }

    /// The upload a request names, which must be for its key.
    fn upload(&mut self, request: &Request) -> Result<&mut Upload, Answer> {
        let (bucket, key) = request.bucket_and_key();
        let found = request.word("uploadId").and_then(|id| self.uploads.get_mut(id));
        let found = found.filter(|upload| upload.target.0 == bucket && upload.target.1 == key);
        found.ok_or_else(|| Answer::error(404, "NoSuchUpload"))
    }

    fn put_part(&mut self, request: &Request, body: Bytes, crc64: u64) -> Handled {
        self.verify(request, crc64)?;
        let number = part_number(request)?;
        let part = self.object(body, crc64, BTreeMap::new());
        let is_proved = request.header(CHECKSUM).is_some();
        let is_silent = self.checksums == Checksums::Demanded && !is_proved;
        let answer = match is_silent {
            true => Answer::new(200).with("ETag", format!("\"{}\"", part.etag)),
            false => self.stored(Answer::new(200), &part),
        };
        let upload = self.upload(request)?;
        upload.parts.insert(number, part);
        if is_proved {
            upload.unproved.remove(&number)
        } else {
            upload.unproved.insert(number)
        };
        Ok(answer)
    }

    fn complete(&mut self, request: &Request, document: &[u8]) -> Handled {
        self.refuse_existing(request)?;
        let (part_bytes_min, checksums) = (self.part_bytes_min, self.checksums);
        let upload = self.upload(request)?;
        let wanted = wanted_parts(document).ok_or_else(|| Answer::error(400, "MalformedXML"))?;
        let mut body = BytesMut::new();
        for (at, (number, etag)) in wanted.iter().enumerate() {
            if at > 0 && wanted[at - 1].0 >= *number {
                return Err(Answer::error(400, "InvalidPartOrder"));
            }
            let part = upload.parts.get(number).filter(|part| part.etag == *etag);
            let part = part.ok_or_else(|| Answer::error(400, "InvalidPart"))?;
            if checksums == Checksums::Demanded && upload.unproved.contains(number) {
                return Err(Answer::error(400, "InvalidRequest"));
            }
            if at + 1 < wanted.len() && part.body.len() < part_bytes_min {
                return Err(Answer::error(400, "EntityTooSmall"));
            }
            body.extend_from_slice(&part.body);
        }
        let (attributes, storage_class) = (upload.attributes.clone(), upload.storage_class.clone());
        let headers = upload.headers.clone();
        let crc64 = checksums.of(&body);
        self.verify(request, crc64)?;
        let mut object = self.object(body.freeze(), crc64, attributes);
        object.etag = format!("{}-{}", object.etag, wanted.len());
        (object.storage_class, object.headers) = (storage_class, headers);
        let (bucket, key) = request.bucket_and_key();
        let inner = format!("<Bucket>{bucket}</Bucket><Key>{}</Key>{}", escape(key), self.described(&object));
        self.objects(bucket).insert(key.to_owned(), object);
        self.uploads.remove(request.word("uploadId").unwrap_or_default());
        Ok(Answer::xml("CompleteMultipartUploadResult", &inner))
    }

    fn list_parts(&mut self, request: &Request) -> Handled {
        let page_max = page(request, "max-parts", self.page_max);
        let after = request.word("part-number-marker").and_then(|text| text.parse().ok()).unwrap_or(0);
        let parts: Vec<(u32, Object)> = {
            let upload = self.upload(request)?;
            let parts = upload.parts.range((Excluded(after), Unbounded));
            parts.take(page_max + 1).map(|(number, part)| (*number, part.clone())).collect()
        };
        let is_cut = parts.len() > page_max;
        let mut inner = format!("<IsTruncated>{is_cut}</IsTruncated>");
        for (number, part) in parts.iter().take(page_max) {
            let size = part.body.len();
            inner += &format!(
                "<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><LastModified>{}</LastModified>{}</Part>",
                iso8601(part.modified),
                self.described(part)
            );
        }
        if let Some((number, _)) = parts.get(page_max.wrapping_sub(1)).filter(|_| is_cut) {
            inner += &format!("<NextPartNumberMarker>{number}</NextPartNumberMarker>");
        }
        Ok(Answer::xml("ListPartsResult", &inner))
    }

    fn list_uploads(&self, request: &Request) -> Answer {
        let (bucket, prefix) = (request.bucket_and_key().0, request.word("prefix").unwrap_or(""));
        let mut inner = format!("{}<IsTruncated>false</IsTruncated>", encoding(request));
        for (id, upload) in &self.uploads {
            if upload.target.0 == bucket && upload.target.1.starts_with(prefix) {
                let key = written(request, &upload.target.1);
                let begun = iso8601(upload.begun);
                inner += &format!("<Upload><Key>{key}</Key><UploadId>{id}</UploadId>");
                inner += &format!("<Initiated>{begun}</Initiated></Upload>");
            }
        }
        Answer::xml("ListMultipartUploadsResult", &inner)
    }

    fn list(&self, request: &Request) -> Handled {
        let objects = &self.buckets[request.bucket_and_key().0];
        let (prefix, delimiter) = (request.word("prefix").unwrap_or(""), request.word("delimiter").unwrap_or(""));
        let page_max = page(request, "max-keys", self.page_max);
        let token = request.word("continuation-token").map(|token| token.strip_prefix("after-"));
        let token = match token {
            Some(None) => return Err(Answer::error(400, "InvalidArgument")),
            Some(Some(text)) => Some(percent_decode(text).map_err(|_| Answer::error(400, "InvalidArgument"))?),
            None => None,
        };
        let after = token.as_deref().or(request.word("start-after")).unwrap_or("");
        let (mut inner, mut count, mut last, mut is_cut) = (String::new(), 0, String::new(), false);
        let first = if after < prefix || after.is_empty() { Included(prefix) } else { Excluded(after) };
        let met = objects.range::<str, _>((first, Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        for (key, object) in met {
            let rest = &key[prefix.len()..];
            let cut = if delimiter.is_empty() { None } else { rest.find(delimiter) };
            let name = cut.map_or(key.as_str(), |at| &key[..prefix.len() + at + delimiter.len()]);
            // All keys below a common prefix stand for one entry, which the page before may have ended with.
            if cut.is_some() && (name == last || name == after) {
                continue;
            }
            if count == page_max {
                is_cut = true;
                break;
            }
            (count, last) = (count + 1, name.to_owned());
            inner += &match cut {
                Some(_) => format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", written(request, name)),
                None => format!(
                    "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag><Size>{}</Size>\
                     <StorageClass>STANDARD</StorageClass></Contents>",
                    written(request, name),
                    iso8601(object.modified),
                    object.etag,
                    object.body.len()
                ),
            };
        }
        if is_cut {
            let token = escape(&format!("after-{}", percent_encode(&last)));
            inner += &format!("<NextContinuationToken>{token}</NextContinuationToken>");
        }
        inner += &format!("<KeyCount>{count}</KeyCount><IsTruncated>{is_cut}</IsTruncated>{}", encoding(request));
        Ok(Answer::xml("ListBucketResult", &inner))
    }

    /// Refuses content that is not what the client says it sent.
    fn verify(&self, request: &Request, crc64: u64) -> Result<(), Answer> {
        match request.header(CHECKSUM) {
            Some(sent) if self.checksums != Checksums::Ignored && sent != crc64::header(crc64) => {
                Err(Answer::error(400, "BadDigest"))
            }
            _ => Ok(()),
        }
    }

    fn refuse_existing(&self, request: &Request) -> Result<(), Answer> {
        let (bucket, key) = request.bucket_and_key();
        let is_there = self.buckets[bucket].contains_key(key);
        match request.header("if-none-match") {
            Some("*") if is_there => Err(Answer::error(412, "PreconditionFailed")),
            _ => Ok(()),
        }
    }

    /// An answer with what is known about a stored object.
    fn stored(&self, answer: Answer, object: &Object) -> Answer {
        let mut answer = answer;
        if !answer.headers.iter().any(|(name, _)| name == "ETag") {
            answer = answer.with("ETag", format!("\"{}\"", object.etag));
        }
        match self.checksums {
            Checksums::Ignored => answer,
            Checksums::Stored | Checksums::Demanded => {
                answer.with(CHECKSUM, crc64::header(object.crc64)).with("x-amz-checksum-type", "FULL_OBJECT")
            }
        }
    }

    /// The same inside a document.
    fn described(&self, object: &Object) -> String {
        let etag = format!("<ETag>&quot;{}&quot;</ETag>", object.etag);
        match self.checksums {
            Checksums::Ignored => etag,
            Checksums::Stored | Checksums::Demanded => format!(
                "{etag}<ChecksumCRC64NVME>{}</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>",
                crc64::header(object.crc64)
            ),
        }
    }
}

fn copied(root: &str, object: &Object) -> Answer {
    let modified = iso8601(object.modified);
    Answer::xml(root, &format!("<LastModified>{modified}</LastModified><ETag>&quot;{}&quot;</ETag>", object.etag))
}

/// Bucket and key of a copy's source: `/bucket/key` or `bucket/key`, percent-encoded.
fn copy_source(request: &Request) -> Result<(String, String), Answer> {
    let text = request.header("x-amz-copy-source").unwrap_or_default();
    let text = percent_decode(text).map_err(|_| Answer::error(400, "InvalidArgument"))?;
    let parts = text.trim_start_matches('/').split_once('/').ok_or_else(|| Answer::error(400, "InvalidArgument"))?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}

fn part_number(request: &Request) -> Result<u32, Answer> {
    let number = request.word("partNumber").and_then(|text| text.parse().ok());
    number.filter(|number| (1..=10_000).contains(number)).ok_or_else(|| Answer::error(400, "InvalidArgument"))
}

/// The user metadata a request sends.
fn attributes(request: &Request) -> Result<BTreeMap<String, String>, Answer> {
    let meta = request.headers.iter().filter_map(|(name, value)| Some((name.strip_prefix("x-amz-meta-")?, value)));
    let found: BTreeMap<String, String> = meta.map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let bytes: usize = found.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ATTRIBUTES_BYTES_MAX || found.values().any(|value| !value.is_ascii()) {
        return Err(Answer::error(400, "MetadataTooLarge"));
    }
    Ok(found)
}

/// What a request sends of HTTP's own headers about the content.
fn headers(request: &Request) -> BTreeMap<String, String> {
    const NAMES: [&str; 6] =
        ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"];
    NAMES.iter().filter_map(|name| Some(((*name).to_owned(), request.header(name)?.to_owned()))).collect()
}

fn storage_class(request: &Request) -> Option<String> {
    request.header("x-amz-storage-class").map(str::to_owned)
}

/// Numbers and ETags of a Complete document, in its order.
fn wanted_parts(document: &[u8]) -> Option<Vec<(u32, String)>> {
    let text = std::str::from_utf8(document).ok()?;
    let field = |part: &str, name: &str| {
        let (_, rest) = part.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.replace("&quot;", "").replace('"', ""))
    };
    let parts = text.split("<Part>").skip(1);
    let found: Option<Vec<_>> =
        parts.map(|part| Some((field(part, "PartNumber")?.parse().ok()?, field(part, "ETag")?))).collect();
    found.filter(|parts| !parts.is_empty())
}

fn page(request: &Request, word: &str, most: usize) -> usize {
    request.word(word).and_then(|text| text.parse().ok()).unwrap_or(most).min(most)
}

/// Says that keys are percent-encoded, if they are: clients decode them only then.
fn encoding(request: &Request) -> &'static str {
    if request.word("encoding-type") == Some("url") { "<EncodingType>url</EncodingType>" } else { "" }
}

/// A key as the client asked to have it written.
fn written(request: &Request, key: &str) -> String {
    if request.word("encoding-type") == Some("url") { percent_encode(key) } else { escape(key) }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
