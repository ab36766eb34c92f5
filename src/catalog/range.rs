//! What is known of a large file under way: its finished ranges, and its upload where the destination is a bucket.

use super::bytes::{Damage, Decoded, Put, Take};
use super::record::{VERSION, take_text, take_version};

/// A finished range of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// CRC64/NVME of the bytes where it was computed.
    pub crc64: Option<u64>,
    /// Hash of the ETag of a part of an upload.
    pub etag: Option<u64>,
}

impl Range {
    /// When the file was made that a large file's ranges are of, kept as one of them. It has no bytes, so a program of
    /// before it was kept finds nothing in it.
    pub fn birth(hash: u32) -> Range {
        Range { offset: BIRTH_OFFSET, len: 0, crc64: Some(hash.into()), etag: None }
    }

    /// Whether it is that.
    pub fn is_birth(&self) -> bool {
        self.offset == BIRTH_OFFSET
    }

    /// What the destination was known by, the mark of a device or an image (remains.rs) or the hash of an ETag, when an
    /// earlier run had written all of it but what it could not read; kept as a range without bytes, too. 0 for nothing.
    pub fn standing(id: u64) -> Range {
        Range { offset: STANDING_OFFSET, len: 0, crc64: Some(id), etag: None }
    }

    /// What [`Range::standing`] was given, if it is that.
    pub fn standing_id(&self) -> Option<u64> {
        self.crc64.filter(|_| self.offset == STANDING_OFFSET)
    }

    /// That ranges were never synced (`--sync none`), with the boot they were written in; kept as a range without
    /// bytes.
    pub fn unsynced(boot: [u8; 16]) -> Range {
        Range { offset: UNSYNCED_OFFSET, len: 0, crc64: Some(number_of(boot)), etag: None }
    }

    /// Whether it is that.
    pub fn is_unsynced(&self) -> bool {
        self.offset == UNSYNCED_OFFSET
    }

    /// Whether it is that of another boot than this one: what was written may be gone. No boot is known to be this one
    /// where the kernel tells none.
    pub fn is_of_another_boot(&self, boot: [u8; 16]) -> bool {
        self.is_unsynced() && (boot == [0; 16] || self.crc64 != Some(number_of(boot)))
    }

    /// This range of a device, of which some could not be read: it is to be read again.
    pub fn in_part(self) -> Range {
        Range { crc64: None, etag: Some(IN_PART), ..self }
    }

    /// Whether it is such a range.
    pub fn is_in_part(&self) -> bool {
        self.etag == Some(IN_PART)
    }

    /// Whether it is of bytes that are where they should be.
    pub fn is_of_content(&self) -> bool {
        self.len > 0 && !self.is_in_part()
    }
}

/// A boot's id, which is random, in 64 bits.
fn number_of(boot: [u8; 16]) -> u64 {
    let folded = u128::from_be_bytes(boot);
    (folded >> 64) as u64 ^ folded as u64
}

/// A multipart upload under way, or about to be begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The server's name for it; empty before it has answered.
    pub id: String,
    /// Bytes of each part but the last.
    pub part_bytes: u64,
    /// The object it will make; empty in catalogs of before it was kept.
    pub key: String,
    /// When it was asked for by the server's clock, in seconds since 1970.
    pub begun_secs: u64,
}

const RANGE_CRC64: u8 = 1;
const RANGE_ETAG: u8 = 2;
const TAG_UPLOAD: u8 = 4;
const TAG_UPLOAD_OF_KEY: u8 = 5;

/// Key of an upload among the ranges of its file: no range begins there.
pub(super) const UPLOAD_OFFSET: u64 = u64::MAX;
/// Key of its file's birth: none begins there either.
const BIRTH_OFFSET: u64 = u64::MAX - 1;
/// Key of what stood at the destination before.
const STANDING_OFFSET: u64 = u64::MAX - 2;
/// Key of the boot that ranges are of which were never synced.
const UNSYNCED_OFFSET: u64 = u64::MAX - 3;
/// Stands for the ETag of a range that could not be read whole; a device has none.
const IN_PART: u64 = 0;

/// Appends a range without its offset, which is in the key.
pub fn encode_range(range: &Range, body: &mut Vec<u8>) {
    let tag = (u8::from(range.crc64.is_some()) * RANGE_CRC64) | (u8::from(range.etag.is_some()) * RANGE_ETAG);
    body.push(VERSION << 4 | tag);
    body.put_varint(range.len);
    [range.crc64, range.etag].into_iter().flatten().for_each(|value| body.extend_from_slice(&value.to_le_bytes()));
}

/// Reads the range that begins at `offset`.
pub fn decode_range(offset: u64, body: &[u8]) -> Decoded<Range> {
    let mut take = Take(body);
    let tag = take_version(&mut take)?;
    if tag & !(RANGE_CRC64 | RANGE_ETAG) != 0 {
        return Err(Damage("a record is of no known kind"));
    }
    let len = take.varint()?;
    let mut value = |flag| match tag & flag {
        0 => Ok(None),
        _ => take.array().map(|bytes| Some(u64::from_le_bytes(bytes))),
    };
    let (crc64, etag) = (value(RANGE_CRC64)?, value(RANGE_ETAG)?);
    take.end()?;
    Ok(Range { offset, len, crc64, etag })
}

/// Appends an upload.
pub fn encode_upload(upload: &Upload, body: &mut Vec<u8>) {
    let has_key = !upload.key.is_empty() || upload.begun_secs != 0;
    body.push(VERSION << 4 | if has_key { TAG_UPLOAD_OF_KEY } else { TAG_UPLOAD });
    body.put_varint(upload.part_bytes);
    body.put_bytes(upload.id.as_bytes());
    if has_key {
        body.put_bytes(upload.key.as_bytes());
        body.put_varint(upload.begun_secs);
    }
}

/// Reads an upload.
pub fn decode_upload(body: &[u8]) -> Decoded<Upload> {
    let mut take = Take(body);
    let tag = take_version(&mut take)?;
    if !matches!(tag, TAG_UPLOAD | TAG_UPLOAD_OF_KEY) {
        return Err(Damage("a record is of no known kind"));
    }
    let part_bytes = take.varint()?;
    let id = take_text(&mut take, usize::MAX)?;
    let (key, begun_secs) = match tag {
        TAG_UPLOAD_OF_KEY => (take_text(&mut take, usize::MAX)?, take.varint()?),
        _ => (String::new(), 0),
    };
    take.end()?;
    Ok(Upload { id, part_bytes, key, begun_secs })
}
