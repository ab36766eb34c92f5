//! What goes wrong, and when: rules that the fault server asks about every request. Pure.

use super::super::Rng;
use super::http::Request;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// HEAD of a bucket.
    HeadBucket,
    /// ListObjectsV2.
    List,
    /// HEAD of an object.
    Head,
    /// GET of an object or a range.
    Get,
    /// PutObject.
    Put,
    /// CopyObject.
    Copy,
    /// DeleteObject.
    Delete,
    /// CreateMultipartUpload.
    CreateUpload,
    /// UploadPart.
    PutPart,
    /// UploadPartCopy.
    CopyPart,
    /// CompleteMultipartUpload.
    Complete,
    /// AbortMultipartUpload.
    Abort,
    /// ListParts.
    ListParts,
    /// ListMultipartUploads.
    ListUploads,
    /// Anything else.
    Other,
}

impl Kind {
    /// What `request` asks for.
    pub fn of(request: &Request) -> Kind {
        let has_key = !request.bucket_and_key().1.is_empty();
        let (is_upload, is_copy) = (request.word("uploadId").is_some(), request.header("x-amz-copy-source").is_some());
        let is_uploads = request.query.contains_key("uploads");
        match (request.method.as_str(), has_key) {
            ("HEAD", false) => Kind::HeadBucket,
            ("HEAD", true) => Kind::Head,
            ("GET", false) if is_uploads => Kind::ListUploads,
            ("GET", false) => Kind::List,
            ("GET", true) if is_upload => Kind::ListParts,
            ("GET", true) => Kind::Get,
            ("PUT", true) if is_copy && is_upload => Kind::CopyPart,
            ("PUT", true) if is_copy => Kind::Copy,
            ("PUT", true) if is_upload => Kind::PutPart,
            ("PUT", true) => Kind::Put,
            ("POST", true) if is_uploads => Kind::CreateUpload,
            ("POST", true) if is_upload => Kind::Complete,
            ("DELETE", true) if is_upload => Kind::Abort,
            ("DELETE", true) => Kind::Delete,
            _ => Kind::Other,
        }
    }
}

/// One thing going wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This error, after the whole request was read; nothing is done.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// S3's word for it.
        code: &'static str,
    },
    /// The same with `Retry-After`, in seconds.
    RefuseFor {
        /// The HTTP status.
        status: u16,
        /// S3's word for it.
        code: &'static str,
        /// Seconds the client is asked to wait.
        seconds: u32,
    },
    /// This error after so many bytes of the request's body; the rest is not read and the connection ends.
    RefuseEarly {
        /// The HTTP status.
        status: u16,
        /// S3's word for it.
        code: &'static str,
        /// Bytes of the body read before.
        after_bytes: u64,
    },
    /// A 200 whose body is this error; nothing is done.
    OkWithError(&'static str),
    /// A listing's first page holds nothing and says that more follows.
    EmptyPage,
    /// The connection is reset after so many bytes of the request's body; nothing is done.
    ResetRequest(u64),
    /// The connection is reset after so many bytes of the answer's body.
    ResetAnswer(u64),
    /// Done, but the connection ends without an answer.
    LostAnswer,
    /// So many bytes of the body are missing at its end, and the connection ends.
    Short(u64),
    /// So many bytes more than announced follow the body, and the connection ends.
    Long(u64),
    /// The bit 0 of this byte of the answer's body is wrong; everything else is as it should be.
    FlipAnswer(u64),
    /// The bit 0 of this byte of the request's body is wrong when it arrives, as after a bad wire.
    FlipRequest(u64),
    /// The answer tells another checksum than the object's.
    WrongChecksum,
    /// The answer tells no length; for HEAD, whose answers have no body.
    NoLength,
    /// The answer tells this length; for HEAD.
    WrongLength(u64),
    /// The answer tells another ETag than the object's.
    WrongEtag,
    /// `Content-Range` and body start one byte later than asked for.
    ShiftRange,
    /// A range is answered with 200 and the whole object.
    IgnoreRange,
    /// The answer's body comes at so many bytes a second.
    Slow(u64),
    /// So many milliseconds pass before the answer.
    StallMs(u64),
    /// So many bytes of the answer's body come, then nothing for so many milliseconds, then the rest.
    StallBodyMs(u64, u64),
}

/// When a fault happens.
#[derive(Clone, Debug)]
pub struct Rule {
    fault: Fault,
    kinds: Vec<Kind>,
    key_part: Option<String>,
    allowed: Option<String>,
    skipped: u64,
    left: u64,
    per_mille: u64,
}

impl Rule {
    /// Every request, for ever; narrowed by the methods below.
    pub fn new(fault: Fault) -> Rule {
        Rule { fault, kinds: Vec::new(), key_part: None, allowed: None, skipped: 0, left: u64::MAX, per_mille: 1000 }
    }

    /// Only requests of these kinds.
    pub fn on(mut self, kinds: &[Kind]) -> Rule {
        self.kinds = kinds.to_vec();
        self
    }

    /// Only keys with this in them.
    pub fn key(mut self, part: &str) -> Rule {
        self.key_part = Some(part.to_owned());
        self
    }

    /// Only keys that do not begin with this; a listing's key is its prefix, the bucket's is empty.
    pub fn outside(mut self, prefix: &str) -> Rule {
        self.allowed = Some(prefix.to_owned());
        self
    }

    /// Not the first `count` requests that fit.
    pub fn after(mut self, count: u64) -> Rule {
        self.skipped = count;
        self
    }

    /// `count` times, then never again.
    pub fn times(mut self, count: u64) -> Rule {
        self.left = count;
        self
    }

    /// Out of 1,000 requests that fit so many, by the server's seed.
    pub fn per_mille(mut self, rate: u64) -> Rule {
        self.per_mille = rate;
        self
    }

    fn fits(&self, kind: Kind, key: &str) -> bool {
        let is_kind = self.kinds.is_empty() || self.kinds.contains(&kind);
        let is_allowed = self.allowed.as_ref().is_some_and(|prefix| key.starts_with(prefix.as_str()));
        is_kind && !is_allowed && self.key_part.as_ref().is_none_or(|part| key.contains(part))
    }

    /// What happens to a request, if anything; counts.
    pub fn strike(&mut self, kind: Kind, key: &str, rng: &mut Rng) -> Option<Fault> {
        if !self.fits(kind, key) || self.left == 0 {
            return None;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return None;
        }
        if self.per_mille < 1000 && rng.below(1000) >= self.per_mille {
            return None;
        }
        self.left -= 1;
        Some(self.fault.clone())
    }
}
