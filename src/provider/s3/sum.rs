//! [`Sum`]: the CRC64 of what an object or a range of it holds, read for that alone. What breaks off goes on where it
//! did; when, and how often, is for whoever asks.

use super::{ByteRange, Client, Key};
use crate::error::{Cause, Error, Result};

/// An object that is read for its checksum.
pub struct Sum {
    /// Of what has come.
    digest: crc64fast_nvme::Digest,
    /// How much that is.
    done: u64,
    /// What is read of it; all if `None`.
    range: Option<ByteRange>,
    /// Bytes of the object, once an answer has told it.
    size: Option<u64>,
    /// Its state; empty where the server tells none.
    etag: String,
}

impl Sum {
    /// Of this version of an object; of any one version, if `etag` is empty.
    pub fn new(range: Option<ByteRange>, etag: &str) -> Sum {
        let digest = crc64fast_nvme::Digest::new();
        Sum { digest, done: 0, range, size: None, etag: etag.to_owned() }
    }

    /// Bytes that have come.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Their CRC64.
    pub fn crc64(&self) -> u64 {
        self.digest.sum64()
    }

    /// Reads the rest, of the same state of the object. [`Cause::Cut`]: what had come by then counts, and another call
    /// goes on from there.
    pub async fn go_on(&mut self, client: &Client, key: &Key) -> Result<()> {
        if self.etag.is_empty() {
            // Nothing would tell another object from the one that the beginning is of.
            (self.digest, self.done) = (crc64fast_nvme::Digest::new(), 0);
        }
        let whole = self.size.map(|len| ByteRange { offset: 0, len });
        let range = match self.range.or(whole) {
            Some(ByteRange { len, .. }) if self.done == len && self.size.is_some() => return Ok(()),
            Some(ByteRange { offset, len }) if self.range.is_some() || self.done > 0 => {
                Some(ByteRange { offset: offset + self.done, len: len - self.done })
            }
            _ => None,
        };
        let mut body = client.get(key, range, Some(&self.etag)).await?;
        if self.size.is_some_and(|size| size != body.object.size) {
            let object = key.as_str().as_bytes().to_vec();
            return Err(Error { verb: "read", object, cause: Cause::Unstable { attempts: 1 } });
        }
        self.size = Some(body.object.size);
        self.etag.clone_from(&body.object.etag);
        // Ends: the body does.
        while let Some(chunk) = body.chunk().await? {
            self.digest.write(&chunk);
            self.done += chunk.len() as u64;
        }
        Ok(())
    }
}
