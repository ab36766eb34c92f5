//! S3 as one end of a job: what the lanes ask of it.
//!
//! ```text
//! lane ---> Client (one a lane: its own connections)      client.rs  multipart.rs  download.rs
//!             |  a large body as it is read                    supply.rs
//!             |  every call: sign, send, classify, wait, again      request.rs  retry.rs
//!             v
//!           Bucket (one an end of the job, shared)         bucket.rs
//!             |- where: endpoint, addressing, region       settings.rs
//!             |- who: credentials, refreshed               credentials.rs  sources.rs
//!             '- how much at once: throttle                throttle.rs
//! ```
//! Requests are presigned URLs (UNSIGNED-PAYLOAD: no SHA-256 over the data), each attempt signed anew; integrity comes
//! from CRC64/NVME, which travels as a signed header and is checked by servers that know it. Answers are read
//! tolerantly ([`xml`]), because servers differ in everything but the names of the elements.
//!
//! All of it runs on the lane's current-thread runtime; nothing but a profile's process wants a thread, and every
//! future may be dropped.
//!
//! I8: only a [`Key`] can be sent, and no `Key` holds a segment that a URL would resolve away. I10: a presigned URL
//! never leaves request.rs.

pub mod attributes;
mod body;
mod bucket;
mod client;
mod credentials;
mod download;
pub mod extended;
pub mod keys;
mod multipart;
mod refusal;
mod request;
pub mod retry;
mod settings;
mod sources;
mod sum;
mod supply;
pub mod throttle;
mod times;
pub mod xml;

use std::collections::BTreeMap;

pub use body::Payload;
pub use bucket::Bucket;
pub use client::{Client, of_dest};
pub use download::Download;
pub use keys::Key;
pub use settings::{Variables, process_variables, server_id, server_of};
pub use sum::Sum;
pub use supply::{Demand, Supply, supply};
pub use xml::Unfinished;

use crate::ring::Time;

/// What a server does with the CRC64/NVME that is sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// No answer has shown it yet.
    Unknown,
    /// Stored with the object, compared by the server, and told again.
    Stored,
    /// Ignored: the object has to be read back to be sure.
    Ignored,
}

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first key.
    Start,
    /// Where the page ended that told this token.
    Token(String),
    /// After this key, whole.
    After(String),
}

/// One page of a listing: the keys of one "directory".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, in the server's order.
    pub objects: Vec<Listed>,
    /// Prefixes below, whole, each with its trailing `/`.
    pub prefixes: Vec<String>,
    /// The token of the next page; `None` at the end.
    pub next: Option<String>,
}

/// An object as a listing tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key, whole.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
    /// Entity tag, without quotes.
    pub etag: String,
    /// When it was stored.
    pub modified: Time,
}

/// An object as HEAD and GET tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Size of the whole object in bytes.
    pub size: u64,
    /// Entity tag, without quotes.
    pub etag: String,
    /// When it was stored.
    pub modified: Time,
    /// CRC64/NVME of the whole object, where the server knows it.
    pub crc64: Option<u64>,
    /// User metadata by name: lower case, without `x-amz-meta-`.
    pub attributes: BTreeMap<String, String>,
    /// What HTTP's own headers say of its content, of those that a copy keeps.
    pub headers: Vec<(&'static str, String)>,
}

/// What an object is to say beside its content.
#[derive(Clone, Copy, Debug, Default)]
pub struct Description<'a> {
    /// User metadata, names without `x-amz-meta-`.
    pub attributes: &'a [(String, String)],
    /// HTTP's own headers, as [`Object::headers`].
    pub headers: &'a [(&'static str, String)],
}

impl<'a> std::convert::From<&'a [(String, String)]> for Description<'a> {
    fn from(attributes: &'a [(String, String)]) -> Description<'a> {
        Description { attributes, headers: &[] }
    }
}

impl<'a> std::convert::From<&'a Vec<(String, String)>> for Description<'a> {
    fn from(attributes: &'a Vec<(String, String)>) -> Description<'a> {
        attributes.as_slice().into()
    }
}

impl<'a, const N: usize> std::convert::From<&'a [(String, String); N]> for Description<'a> {
    fn from(attributes: &'a [(String, String); N]) -> Description<'a> {
        attributes.as_slice().into()
    }
}

/// What a finished upload is known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Entity tag, without quotes; empty where the server tells none.
    pub etag: String,
    /// Whether the server compared and kept the CRC64/NVME that was sent.
    pub is_checked: bool,
}

/// One part of a multipart upload that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1..=10,000.
    pub number: u32,
    /// Entity tag, without quotes.
    pub etag: String,
    /// Length in bytes.
    pub len: u64,
    /// CRC64/NVME of its bytes; 0 where the server tells none.
    pub crc64: u64,
}

/// A run of bytes of an object; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, at least 1.
    pub len: u64,
}
