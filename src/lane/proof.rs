//! What is proved of an object that was stored: by the server, by reading it back, or by its length alone.
//!
//! ```text
//! the server compared ----------------------------> Server        a checksum it stores is asked for before
//! nothing said, --checksum: HEAD -> GET -> compared -> ReadBack    anything is read back
//! nothing said ------------------------------------> Length
//! ```
//! A server that copied by itself what it knows no checksum of is believed its length; under `--checksum` both objects
//! are read. What breaks off while it is read goes on where it broke off.

use super::breaks::Breaks;
use super::relay::Relay;
use super::{Lane, hash};
use crate::catalog::{Checksum, Proof};
use crate::config::{ChecksumPolicy, PART_BYTES_MIN};
use crate::error::{Cause, Error, Result};
use crate::provider::s3::{Client, Key, Stored, Sum, of_dest};
use crate::report::{Count, Weight};

impl Lane {
    /// What is proved of an object that was stored.
    pub(super) async fn proven(&self, key: &Key, crc64: u64, stored: &Stored) -> Result<Checksum> {
        let proof = |proof| Ok(Checksum { crc64, proof });
        if stored.is_checked {
            return proof(Proof::Server);
        }
        if self.job().config.checksum == ChecksumPolicy::Free {
            return proof(Proof::Length);
        }
        // A server that copied by itself has said nothing yet.
        if self.dest().head(key).await?.is_some_and(|object| object.crc64 == Some(crc64)) {
            return proof(Proof::Server);
        }
        self.read_back(key, crc64, &stored.etag).await?;
        proof(Proof::ReadBack)
    }

    /// The same of an object that the server copied by itself, and whose checksum it knows for neither. `None`: there
    /// is none to record.
    pub(super) async fn proven_copy(&self, relay: &Relay<'_>, stored: &Stored) -> Result<Option<Checksum>> {
        if self.job().config.checksum == ChecksumPolicy::Free {
            self.errands.counters.add(Count::ProvedByLength, 1);
            return Ok(None);
        }
        let crc64 = self.checksum_of(self.source(), &relay.source_key, &relay.object.etag).await?;
        self.proven(&relay.key, crc64, stored).await.map(Some)
    }

    /// Reads an object of the destination back and compares it with what was sent. One that differs does not stay (I2).
    async fn read_back(&self, key: &Key, sent: u64, etag: &str) -> Result<()> {
        if self.checksum_of(self.dest(), key, etag).await.map_err(of_dest)? == sent {
            return Ok(());
        }
        self.dest().delete(key).await?;
        let cause = Cause::Transfer("the object that was stored is not what was sent".to_owned());
        Err(Error { verb: "read back", object: key.as_str().as_bytes().to_vec(), cause })
    }

    /// The checksum of what an object holds, by reading it. Ends: every turn brings a part's bytes or is a break, and
    /// breaks are bounded.
    async fn checksum_of(&self, client: &Client, key: &Key, etag: &str) -> Result<u64> {
        let mut sum = Sum::new(None, etag);
        let mut breaks = Breaks::new(hash(key.as_str()));
        loop {
            let before = sum.done();
            let Err(error) = sum.go_on(client, key).await else { return Ok(sum.crc64()) };
            if sum.done() >= before + PART_BYTES_MIN {
                breaks = Breaks::new(sum.done());
            }
            if !self.wait_after_break(&mut breaks, &error).await {
                return Err(error);
            }
            self.job().failures.causes.note(Weight::Retry, &error.cause);
        }
    }
}
