//! From a bucket into a bucket: copied by the server where one server holds both, else streamed through a lane.
//!
//! Metadata goes along as it is, and so does what HTTP's own headers say of the content, but for the link attributes of
//! gfast, which name keys and are turned from the source's prefix to the destination's.

use std::rc::Rc;

use super::download::stamp_seen;
use super::{Carried, Lane, hash};
use crate::catalog::{Checksum, Owner, Proof, Stamp, Status};
use crate::config::Knob;
use crate::digest::crc64;
use crate::errand::Errand;
use crate::error::Result;
use crate::plan::Plan;
use crate::provider::s3::{Description, Key, Object, Stored, attributes};
use crate::report::Count;
use crate::transfer::{Copied, Ending, Seal};

/// Most bytes of an object that the server copies in one request; `--part-size` may ask for fewer.
pub(super) const COPY_BYTES_MAX: u64 = 5 << 30;

/// One object on its way across.
pub(super) struct Relay<'a> {
    /// Its errand.
    pub errand: &'a Errand,
    /// The object that is read.
    pub source_key: Key,
    /// The object that is written.
    pub key: Key,
    /// What is read.
    pub object: Object,
    /// What is recorded of it.
    pub stamp: Stamp,
    /// Its metadata at the destination.
    pub attributes: Vec<(String, String)>,
    /// Whether the server copies by itself.
    pub is_server_side: bool,
}

impl Relay<'_> {
    /// What it says at the destination beside its content.
    pub fn description(&self) -> Description<'_> {
        Description { attributes: &self.attributes, headers: &self.object.headers }
    }
}

impl Lane {
    pub(super) async fn relay(self: &Rc<Lane>, errand: &Errand) -> Carried {
        let (source_key, key) = (self.source_key(&errand.place)?, self.dest_key(&errand.place)?);
        let is_server_side = self.dest().bucket().is_same_account(self.source().bucket());
        if let (Some(listed), true) = (errand.listed, is_server_side) {
            // Without a HEAD: nothing of such an object but its bytes has to be known.
            let plan = self.decide(errand, &listed);
            if let Plan::Skip(skip) = plan {
                return Ok(Some(Ending::Skipped(skip)));
            }
        }
        let Some(object) = self.source().head(&source_key).await? else { return Ok(Some(Ending::Vanished)) };
        let stamp = stamp_seen(errand, &object);
        let plan = self.decide(errand, &stamp);
        if let Plan::Skip(skip) = plan {
            return Ok(Some(Ending::Skipped(skip)));
        }
        let prefix = |root: &crate::job::JobRoot| root.bucket.as_ref().map_or(String::new(), |b| b.prefix.clone());
        let attributes = turned(&object, (&prefix(&self.job().source), &prefix(&self.job().dest)));
        let relay = Relay { errand, source_key, key, object, stamp, attributes, is_server_side };
        if let Some(ending) = self.relayed_before(&relay, stamp, plan).await? {
            return Ok(Some(ending));
        }
        errand.place.dir.touch();
        let config = &self.job().config;
        // What a profile found to be best is about bytes that come through here.
        let asked = config.part_bytes.filter(|_| !config.open.contains(&Knob::PartSize));
        let whole = match is_server_side {
            true => asked.unwrap_or(COPY_BYTES_MAX),
            false => self.whole_bytes(),
        };
        if relay.object.size > whole {
            return self.relay_parts(relay).await;
        }
        self.plan_bytes(&errand.place, relay.object.size);
        let (stored, crc64) = match is_server_side {
            true => (self.copy_by_server(&relay).await?, relay.object.crc64),
            false => self.stream_whole(&relay).await?,
        };
        let copied = self.relayed(&relay, stamp, crc64, &stored, relay.object.size).await?;
        Ok(Some(Ending::Copied(Box::new(copied))))
    }

    async fn copy_by_server(&self, relay: &Relay<'_>) -> Result<Stored> {
        let is_as_it_was =
            relay.attributes.iter().all(|(name, value)| relay.object.attributes.get(name) == Some(value));
        let description = (!is_as_it_was).then(|| relay.description());
        let from = self.source().bucket();
        self.dest().copy(from, &relay.source_key, &relay.object.etag, &relay.key, description).await
    }

    async fn stream_whole(&self, relay: &Relay<'_>) -> Result<(Stored, Option<u64>)> {
        let size = relay.object.size as usize;
        let mut buffer = self.memory_for_answer(size).await;
        let mut body = self.source().get(&relay.source_key, None, Some(&relay.object.etag)).await?;
        // Ends: the body does, or it is longer than it may be.
        while let Some(chunk) = body.chunk().await? {
            if buffer.bytes().len() + chunk.len() > size {
                return Err(super::large::corrupt(&relay.source_key));
            }
            self.spend(chunk.len()).await;
            buffer.append(&chunk);
            relay.errand.passed(buffer.bytes().len());
        }
        // Its place goes before one at the destination is waited for (buffers.rs).
        drop(body);
        let crc64 = crc64(buffer.bytes());
        if buffer.bytes().len() != size || relay.object.crc64.is_some_and(|told| told != crc64) {
            return Err(super::large::corrupt(&relay.source_key));
        }
        let stored = self.dest().put(&relay.key, buffer.into_body(), crc64, relay.description()).await?;
        Ok((stored, Some(crc64)))
    }

    /// An object that is there already: as an interrupted run recorded it, or with the same checksum and metadata.
    async fn relayed_before(&self, relay: &Relay<'_>, stamp: Stamp, plan: Plan) -> Result<Option<Ending>> {
        let record = relay.errand.record.as_ref().filter(|_| !plan.is_again());
        if let Some(record) = record.filter(|record| record.status == Status::Done && record.stamp == stamp) {
            let copied = copied(
                (stamp, &relay.object),
                record.dest_ino,
                record.checksum,
                (0, record.large_id),
                Count::FilesCopied,
            );
            return Ok(Some(Ending::Copied(Box::new(copied))));
        }
        if plan != Plan::Compare || relay.object.crc64.is_none() {
            return Ok(None);
        }
        let Some(there) = self.dest().head(&relay.key).await? else { return Ok(None) };
        if !is_relayed(&relay.object, &relay.attributes, &there) {
            return Ok(None);
        }
        let checksum = there.crc64.map(|crc64| Checksum { crc64, proof: Proof::Server });
        let copied = copied((stamp, &relay.object), hash(&there.etag), checksum, (0, 0), Count::Adopted);
        Ok(Some(Ending::Copied(Box::new(copied))))
    }

    /// An object that was just stored, with what is proved of it.
    pub(super) async fn relayed(
        &self,
        relay: &Relay<'_>,
        stamp: Stamp,
        crc64: Option<u64>,
        stored: &Stored,
        bytes: u64,
    ) -> Result<Copied> {
        let checksum = match crc64 {
            Some(crc64) => Some(self.proven(&relay.key, crc64, stored).await?),
            None => self.proven_copy(relay, stored).await?,
        };
        Ok(copied((stamp, &relay.object), hash(&stored.etag), checksum, (bytes, 0), Count::FilesCopied))
    }
}

/// The metadata of an object, link attributes turned from one prefix to the other.
pub(crate) fn turned(object: &Object, (from, to): (&str, &str)) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> =
        object.attributes.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(link) = attributes::decode(&object.attributes).link
        && let Some(below) = link.strip_prefix(from)
    {
        pairs.retain(|(name, _)| name != attributes::LINK);
        pairs.push(attributes::link_pair(&format!("{to}{below}")));
    }
    pairs
}

/// Whether an object without a record is the copy of another: by its checksum, and by what it says.
pub(crate) fn is_relayed(object: &Object, expected: &[(String, String)], there: &Object) -> bool {
    let is_same = object.crc64.is_some() && there.crc64 == object.crc64 && there.size == object.size;
    is_same && there.attributes == expected.iter().cloned().collect() && there.headers == object.headers
}

fn copied(
    (stamp, object): (Stamp, &Object),
    dest_ino: u64,
    checksum: Option<Checksum>,
    (bytes, large_id): (u64, u64),
    count: Count,
) -> Copied {
    let (seal, owner) = (Seal::None, owner_told(object));
    Copied { stamp, dest_ino, dest_dev: 0, seal, bytes, count, group: None, large_id, checksum, attempts: 1, owner }
}

/// The owner that an object tells, if it does.
fn owner_told(object: &Object) -> Option<Owner> {
    let posix = attributes::decode(&object.attributes);
    Some(Owner { uid: posix.uid?, gid: posix.gid? })
}
