//! What S3 servers answer and are sent in XML. Pure.
//!
//! Of six servers tried three break a strict reader: another root element, no namespace, missing fields, another order.
//! So elements are known by their local name and place below the root, every field is optional, and what is not known
//! is passed over. What is *not* forgiven is a document that ends early, or of another kind than was asked for: a
//! listing that is cut short, or none at all, would silently lose objects.
//!
//! Any bytes are read without panic (fuzz target `s3_xml`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

use super::{Listed, Page, Part, times};
use crate::ring::Time;

/// Deepest nesting that is read: answers of S3 have four levels.
const DEPTH_MAX: usize = 16;

/// A document that is not XML, ends early, or lacks what cannot be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The error a server answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// S3's name for it: "NoSuchKey".
    pub code: String,
    /// The region a request should have been signed for.
    pub region: Option<String>,
}

/// What a server says of an object it has just put together or copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Entity tag, without quotes; empty where none is told.
    pub etag: String,
    /// CRC64/NVME of the whole, where it is told.
    pub crc64: Option<u64>,
}

/// One page of ListObjectsV2 as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The page; its names may be escaped.
    pub page: Page,
    /// Whether the server says that names are URL-encoded.
    pub is_escaped: bool,
}

/// One page of ListParts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartsPage {
    /// The parts, in the server's order.
    pub parts: Vec<Part>,
    /// The part number after which the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// An upload under way, as a bucket lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// The object it will make.
    pub key: String,
    /// The server's name for it.
    pub id: String,
    /// When it was begun, where the server tells.
    pub begun: Option<Time>,
}

/// One page of ListMultipartUploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadsPage {
    /// The uploads, in the server's order.
    pub uploads: Vec<Unfinished>,
    /// Key and upload id after which the next page begins; `None` at the end.
    pub next: Option<(String, String)>,
}

/// What a `+` stands for in percent-escaped text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    /// Itself.
    Literal,
    /// A space, as in forms and in S3's listings.
    Space,
}

/// Reads an `<Error>`; `None` where the document is something else, or nothing at all.
pub fn failure(body: &[u8]) -> Option<Failure> {
    if root_of(body).ok()? != "Error" {
        return None;
    }
    let mut failure = Failure::default();
    let read = walk(body, |path, text| match path {
        "Code" => failure.code = text.trim().to_owned(),
        "Region" => failure.region = Some(text.trim().to_owned()).filter(|region| !region.is_empty()),
        _ => {}
    });
    read.is_ok().then_some(failure)
}

/// Reads a page of ListObjectsV2.
pub fn listing(body: &[u8]) -> Result<Listing, Malformed> {
    let mut page = Page::default();
    let mut object = empty_listed();
    let (mut token, mut is_truncated, mut is_escaped) = (String::new(), None, false);
    walk(body, |path, text| match path {
        "Contents/Key" => object.key = text.to_owned(),
        "Contents/Size" => object.size = number(text),
        "Contents/ETag" => object.etag = etag(text),
        "Contents/LastModified" => object.modified = times::parse(text).unwrap_or_default(),
        "Contents" => page.objects.push(std::mem::replace(&mut object, empty_listed())),
        "CommonPrefixes/Prefix" => page.prefixes.push(text.to_owned()),
        "NextContinuationToken" => token = text.to_owned(),
        "IsTruncated" => is_truncated = Some(text.trim() == "true"),
        "EncodingType" => is_escaped = text.trim() == "url",
        _ => {}
    })?
    .of("ListBucketResult")?;
    page.next = match (is_truncated, token.is_empty()) {
        (Some(true), true) => return Err(Malformed),
        (Some(false), _) | (None, true) => None,
        (_, false) => Some(token),
    };
    Ok(Listing { page, is_escaped })
}

impl Listing {
    /// Undoes the escapes of all names. One that is not what it says stays as it came.
    pub fn unescape(&mut self) {
        let keys = self.page.objects.iter_mut().map(|object| &mut object.key);
        for name in keys.chain(&mut self.page.prefixes) {
            if let Some(plain) = percent_decode(name, Plus::Space) {
                *name = plain;
            }
        }
        self.is_escaped = false;
    }
}

/// Reads a page of ListParts.
pub fn parts(body: &[u8]) -> Result<PartsPage, Malformed> {
    let mut page = PartsPage::default();
    let empty = || Part { number: 0, etag: String::new(), len: 0, crc64: 0 };
    let (mut part, mut next, mut is_truncated) = (empty(), String::new(), false);
    walk(body, |path, text| match path {
        "Part/PartNumber" => part.number = text.trim().parse().unwrap_or(0),
        "Part/ETag" => part.etag = etag(text),
        "Part/Size" => part.len = number(text),
        "Part/ChecksumCRC64NVME" => part.crc64 = decode_crc64(text).unwrap_or(0),
        "Part" => page.parts.push(std::mem::replace(&mut part, empty())),
        "NextPartNumberMarker" => next = text.trim().to_owned(),
        "IsTruncated" => is_truncated = text.trim() == "true",
        _ => {}
    })?
    .of("ListPartsResult")?;
    // A page that says there is more and not where would be read for ever.
    match (is_truncated, next.is_empty() || next == "0") {
        (true, true) => return Err(Malformed),
        (true, false) => page.next = Some(next),
        (false, _) => {}
    }
    Ok(page)
}

/// Reads a page of ListMultipartUploads.
pub fn uploads(body: &[u8]) -> Result<UploadsPage, Malformed> {
    let mut page = UploadsPage::default();
    let mut upload = Unfinished::default();
    let (mut next, mut is_truncated) = ((String::new(), String::new()), false);
    walk(body, |path, text| match path {
        "Upload/Key" => upload.key = text.to_owned(),
        "Upload/UploadId" => upload.id = text.to_owned(),
        "Upload/Initiated" => upload.begun = times::parse(text),
        "Upload" => page.uploads.push(std::mem::take(&mut upload)),
        "NextKeyMarker" => next.0 = text.to_owned(),
        "NextUploadIdMarker" => next.1 = text.to_owned(),
        "IsTruncated" => is_truncated = text.trim() == "true",
        _ => {}
    })?
    .of("ListMultipartUploadsResult")?;
    match (is_truncated, next.0.is_empty()) {
        (true, true) => return Err(Malformed),
        (true, false) => page.next = Some(next),
        (false, _) => {}
    }
    Ok(page)
}

/// Reads the upload id of CreateMultipartUpload.
pub fn upload_id(body: &[u8]) -> Result<String, Malformed> {
    let mut id = String::new();
    walk(body, |path, text| {
        if path == "UploadId" {
            id = text.trim().to_owned();
        }
    })?;
    if id.is_empty() { Err(Malformed) } else { Ok(id) }
}

/// Reads the answer of CompleteMultipartUpload, CopyObject or UploadPartCopy. That it is none of S3's errors was seen
/// before.
pub fn made(body: &[u8]) -> Result<Made, Malformed> {
    let mut made = Made::default();
    walk(body, |path, text| match path {
        "ETag" => made.etag = etag(text),
        "ChecksumCRC64NVME" => made.crc64 = decode_crc64(text),
        _ => {}
    })?
    .of_copy_or_upload()?;
    Ok(made)
}

/// The body of CompleteMultipartUpload: numbers and entity tags. The parts' checksums went with the parts.
pub fn complete(parts: &[&Part]) -> String {
    let mut body = String::with_capacity(128 + parts.len() * 96);
    body.push_str("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        body.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>\"", part.number));
        push_text(&mut body, &part.etag);
        body.push_str("\"</ETag></Part>");
    }
    body.push_str("</CompleteMultipartUpload>");
    body
}

/// A CRC64/NVME as S3 writes it: base64 of 8 bytes, the highest first.
pub fn encode_crc64(crc64: u64) -> String {
    STANDARD.encode(crc64.to_be_bytes())
}

/// Reads a CRC64/NVME; `None` for another form, such as the composite `...-N` of other algorithms.
pub fn decode_crc64(text: &str) -> Option<u64> {
    let bytes: [u8; 8] = STANDARD.decode(text.trim()).ok()?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// An entity tag without the quotes around it.
pub fn etag(text: &str) -> String {
    text.trim().trim_matches('"').to_owned()
}

/// Undoes `%XX`; `None` where what comes out is not UTF-8 or an escape is cut off.
pub fn percent_decode(text: &str, plus: Plus) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'%' => {
                let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
                bytes.push((digit(0)? * 16 + digit(1)?) as u8);
                rest = &after[2..];
            }
            b'+' if plus == Plus::Space => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn empty_listed() -> Listed {
    Listed { key: String::new(), size: 0, etag: String::new(), modified: Default::default() }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn push_text(body: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => body.push_str("&amp;"),
            '<' => body.push_str("&lt;"),
            '>' => body.push_str("&gt;"),
            '"' => body.push_str("&quot;"),
            c => body.push(c),
        }
    }
}

/// The local name of a document's root element.
struct Root(String);

impl Root {
    /// Refuses a document of another kind. moto calls its answers `...Response`.
    fn of(self, kind: &str) -> Result<(), Malformed> {
        let stem = kind.strip_suffix("Result").unwrap_or(kind);
        let is_kind = self.0 == kind || self.0.strip_suffix("Response") == Some(stem);
        if is_kind { Ok(()) } else { Err(Malformed) }
    }

    /// Refuses what is no answer of an operation that makes an object or a part, however its name ends: what was made
    /// is there, and would count as failed.
    fn of_copy_or_upload(self) -> Result<(), Malformed> {
        let kinds = ["CopyObject", "CopyPart", "UploadPartCopy", "CompleteMultipartUpload"];
        if kinds.iter().any(|kind| self.0.starts_with(kind)) { Ok(()) } else { Err(Malformed) }
    }
}

/// The local name of the root element. Ends: every turn takes an event, and events take bytes.
fn root_of(body: &[u8]) -> Result<String, Malformed> {
    let mut reader = Reader::from_reader(body.trim_ascii_start());
    loop {
        match reader.read_event().map_err(|_| Malformed)? {
            Event::Start(start) | Event::Empty(start) => {
                return String::from_utf8(start.local_name().as_ref().to_vec()).map_err(|_| Malformed);
            }
            Event::Eof => return Err(Malformed),
            _ => {}
        }
    }
}

/// Shows `visit` every element below the root when it ends: its path, `Contents/Key`, and its text. Returns the root's
/// name. Ends: every turn takes an event, and events take bytes.
fn walk(body: &[u8], mut visit: impl FnMut(&str, &str)) -> Result<Root, Malformed> {
    // Slow operations send white space while they work, before the document begins.
    let mut reader = Reader::from_reader(body.trim_ascii_start());
    reader.config_mut().expand_empty_elements = true;
    let (mut root, mut path, mut text) = (None, String::new(), String::new());
    // Where in `path` each open element's name begins; the root has none.
    let mut starts: Vec<usize> = Vec::new();
    loop {
        match reader.read_event().map_err(|_| Malformed)? {
            Event::Start(start) => {
                let name = start.local_name();
                let name = std::str::from_utf8(name.as_ref()).map_err(|_| Malformed)?;
                if starts.len() == DEPTH_MAX || (starts.is_empty() && root.is_some()) {
                    return Err(Malformed);
                }
                starts.push(path.len());
                if root.is_none() {
                    root = Some(name.to_owned());
                } else {
                    path.extend((starts.len() > 2).then_some('/'));
                    path.push_str(name);
                }
                text.clear();
            }
            Event::End(_) => {
                let start = starts.pop().ok_or(Malformed)?;
                if !starts.is_empty() {
                    visit(&path, &text);
                }
                path.truncate(start);
                text.clear();
            }
            Event::Text(piece) => text.push_str(&piece.decode().map_err(|_| Malformed)?),
            Event::CData(piece) => text.push_str(&piece.decode().map_err(|_| Malformed)?),
            Event::GeneralRef(reference) => text.push(resolve(&reference)?),
            Event::Eof => break,
            _ => {}
        }
    }
    match root {
        Some(root) if starts.is_empty() => Ok(Root(root)),
        _ => Err(Malformed),
    }
}

/// `&#38;` and the five entities XML knows by itself; there are no others in S3's answers.
fn resolve(reference: &BytesRef<'_>) -> Result<char, Malformed> {
    if let Some(c) = reference.resolve_char_ref().map_err(|_| Malformed)? {
        return Ok(c);
    }
    match reference.decode().map_err(|_| Malformed)?.as_ref() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_whatever_its_namespace_and_order() {
        let body =
            b"<?xml version=\"1.0\"?><n:ListBucketResult xmlns:n='x'><n:CommonPrefixes><n:Prefix>a%2Fb+c/</n:Prefix>\
            </n:CommonPrefixes><n:Contents><n:Size>7</n:Size><n:ETag>&quot;e&quot;</n:ETag><n:Key>a%2Fk%2B&amp;</n:Key>\
            <n:LastModified>2023-11-14T22:13:20.000Z</n:LastModified><n:Owner><n:ID/></n:Owner></n:Contents>\
            <n:EncodingType>url</n:EncodingType><n:IsTruncated>true</n:IsTruncated>\
            <n:NextContinuationToken>t/1==</n:NextContinuationToken></n:ListBucketResult>";
        let modified = crate::ring::Time { secs: 1_700_000_000, nanos: 0 };
        let object = Listed { key: "a/k+&".into(), size: 7, etag: "e".into(), modified };
        let page = Page { objects: vec![object], prefixes: vec!["a/b c/".into()], next: Some("t/1==".into()) };
        let mut read = listing(body).unwrap();
        assert!(read.is_escaped && read.page.prefixes == ["a%2Fb+c/"]);
        read.unescape();
        assert_eq!(read.page, page);
    }

    #[test]
    fn a_document_cut_anywhere_is_refused() {
        let body = b"<ListBucketResult><Contents><Key>k</Key></Contents><IsTruncated>false</IsTruncated>\
            </ListBucketResult>";
        assert_eq!(listing(body).unwrap().page.objects.len(), 1);
        for end in 0..body.len() {
            assert_eq!(listing(&body[..end]), Err(Malformed), "{end}");
        }
        let more = "<IsTruncated>true</IsTruncated>";
        assert_eq!(listing(format!("<ListBucketResult>{more}</ListBucketResult>").as_bytes()), Err(Malformed));
        assert_eq!(parts(format!("<ListPartsResult>{more}</ListPartsResult>").as_bytes()), Err(Malformed));
    }

    #[test]
    fn a_document_of_another_kind_is_no_empty_page() {
        for body in [&b"<Error/>"[..], b"<html><body/></html>", b"<ListAllMyBucketsResult/>", b"<R/>", b""] {
            assert_eq!(listing(body), Err(Malformed));
            assert_eq!(parts(body), Err(Malformed));
            assert_eq!(uploads(body), Err(Malformed));
            assert_eq!(made(body), Err(Malformed));
        }
        assert_eq!(listing(b"<ListBucketResult/>"), Ok(Listing::default()));
        assert_eq!(parts(b"<n:ListPartsResult xmlns:n='x'/>"), Ok(PartsPage::default()));
        for body in [&b"<CopyPartResult/>"[..], b"<UploadPartCopyResponse/>", b"<CompleteMultipartUploadOutput/>"] {
            assert_eq!(made(body), Ok(Made::default()));
        }
    }

    #[test]
    fn an_error_is_told_from_an_answer() {
        let error = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        let expected = Failure { code: "AuthorizationHeaderMalformed".into(), region: Some("eu-west-1".into()) };
        assert_eq!(failure(error), Some(expected));
        assert_eq!(failure(b"<CompleteMultipartUploadResult><Code>x</Code></CompleteMultipartUploadResult>"), None);
        assert_eq!(failure(b""), None);
        assert_eq!(failure(b"<html><body>Bad gateway"), None);
    }

    #[test]
    fn checksums_are_eight_bytes_highest_first() {
        assert_eq!(encode_crc64(0xae8b_1486_0a79_9888), "rosUhgp5mIg=");
        assert_eq!(decode_crc64("rosUhgp5mIg="), Some(0xae8b_1486_0a79_9888));
        assert_eq!(decode_crc64("rosUhg==-2"), None);
    }

    #[test]
    fn parts_and_uploads_are_read_and_parts_are_written() {
        let body = b"<ListPartsResponse><Part><PartNumber>2</PartNumber><ETag>\"e&lt;\"</ETag><Size>9</Size>\
            <ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME></Part></ListPartsResponse>";
        let part = Part { number: 2, etag: "e<".into(), len: 9, crc64: 0xae8b_1486_0a79_9888 };
        assert_eq!(parts(body), Ok(PartsPage { parts: vec![part.clone()], next: None }));
        let expected = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Part><PartNumber>2\
            </PartNumber><ETag>\"e&lt;\"</ETag></Part></CompleteMultipartUpload>";
        assert_eq!(complete(&[&part]), expected);
        let body = b"<ListMultipartUploadsResult><Upload><Key>a&#x20;b</Key><UploadId>u</UploadId></Upload>\
            </ListMultipartUploadsResult>";
        let unfinished = Unfinished { key: "a b".to_owned(), id: "u".to_owned(), begun: None };
        assert_eq!(uploads(body).unwrap().uploads, [unfinished]);
    }
}
