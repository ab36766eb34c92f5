//! From a file system into a bucket: one object, from its name to the server's answer.
//!
//! ```text
//! stat -> plan -> attributes -> up to one part: read whole, CRC64, stat again, PUT with the checksum
//!                               more: multipart upload (large.rs), stat again before it is completed
//! symlink: its target is the body.  FIFO, socket, device node: no body.  Hard link after the first: the checkpoint's
//! ```
//! What the server has answered for is durable, so an object needs no seal; the catalog calls it Completed with the
//! next checkpoint.

use super::relay::COPY_BYTES_MAX;
use super::salvage::Earlier;
use super::{Carried, Lane, Way, hash};
use crate::catalog::{Checksum, FileRecord, Owner, Proof, Stamp, Status};
use crate::config::{Attributes, Metadata, WHOLE_BYTES, WHOLE_BYTES_NEAR};
use crate::digest::crc64;
use crate::errand::Errand;
use crate::error::{Class, Error, Result};
use crate::job::{Past, Place};
use crate::links::LinkKey;
use crate::plan::{self, Plan, Skip};
use crate::provider::posix::Posix;
use crate::provider::s3::{Description, Key, Object, Payload, attributes, extended};
use crate::provider::xattrs::{self, Thing};
use crate::report::Count;
use crate::ring::{Access, Kind, Name, Side, Stat};
use crate::transfer::{Copied, Ending, Grouping, Seal, claim_group, note_standing, open_source};
use crate::transfer::{restat_source, source_error, stat_source};
use crate::walk::DestDir;

/// Attribute of the first of several hard links: how many names the file had.
pub(crate) const LINKS_ATTRIBUTE: &str = "gfast-links";

/// Bytes of a block of a file that is read again.
const REREAD_BYTES: u64 = 4 << 20;

/// One file on its way up.
pub(super) struct Upload<'a> {
    /// Its errand.
    pub errand: &'a Errand,
    /// The file's state.
    pub stat: Stat,
    /// What is recorded of that state.
    pub stamp: Stamp,
    /// The object.
    pub key: Key,
    /// What the object says of the file.
    pub attributes: Vec<(String, String)>,
    /// Its group if it has several names.
    pub group: Option<LinkKey>,
    /// What an earlier run has made of a device.
    pub earlier: Option<Earlier>,
}

impl Lane {
    pub(super) async fn upload(self: &std::rc::Rc<Lane>, errand: &Errand, group: &mut Option<LinkKey>) -> Carried {
        let (job, place) = (self.job(), &errand.place);
        let stat = stat_source(job, &*self.errands.caller, place)?;
        if stat.kind() == Kind::Dir {
            return Ok(Some(Ending::IsDir));
        }
        // An earlier whole pass has asked for what was there: what is new since is put without a question.
        let is_fresh = place.dir.dest() == DestDir::Created || job.past == Past::Finished;
        let plan = plan::decide(&stat, errand.record.as_ref(), &job.progress, is_fresh);
        match plan {
            // A device does not tell whether it has changed.
            Plan::Skip(Skip::Unchanged) if job.has_device() => {}
            Plan::Skip(Skip::Unchanged) if self.is_link_with_new_ctime(errand, &stat).await? => {}
            Plan::Skip(skip) => return Ok(Some(Ending::Skipped(skip))),
            _ => {}
        }
        let mut stamp = job.stamp_to_read(&stat);
        *group = match stat.nlink {
            0 | 1 => None,
            _ => match claim_group(job, place, job.link_key(&stat), &job.stamp(&stat))? {
                Grouping::Alone => None,
                Grouping::First(key) => Some(key),
                Grouping::Split(key) => {
                    stamp = stamp.racy();
                    Some(key)
                }
                Grouping::Further(key) => return Ok(Some(Ending::Further(key, job.stamp(&stat)))),
            },
        };
        let key = self.dest_key(place)?;
        let stat = job
            .shown(&*self.errands.caller, &place.open.source, &place.name, stat)
            .map_err(|errno| source_error(job, place, "read the ACL of", errno))?;
        let mut attributes = attributes_of(&stat, &place.dest_name, job.config.metadata);
        if job.device(Side::Source).is_some() {
            // A device has no times of its content. What restores the object gives it the time that it was stored at,
            // not that of 1970.
            attributes.retain(|(name, _)| !matches!(name.as_str(), "file-atime" | "file-mtime"));
        }
        self.add_extended(place, &stat, &mut attributes)?;
        let mut earlier = None;
        if job.device(Side::Source).is_some() {
            note_standing(job, errand.record.as_ref(), None)?;
            earlier = self.earlier(&key, stat.size).await?;
        }
        let upload = Upload { errand, stat, stamp, key, attributes, group: *group, earlier };
        if let Some(ending) = self.stored_before(&upload, plan).await? {
            return Ok(Some(ending));
        }
        place.dir.touch();
        if let Plan::Reread(known) = plan
            && let Some(ending) = self.refresh(&upload, known).await?
        {
            return Ok(Some(ending));
        }
        if stat.kind() == Kind::File && stat.size > self.whole_bytes() {
            return self.upload_parts(upload).await;
        }
        self.upload_whole(upload).await.map(Some)
    }

    /// Whether an object that `--ignore-ctime` calls unchanged belongs to a group of hard links that has changed: its
    /// content may be another name's object, which this pass is about to replace.
    async fn is_link_with_new_ctime(&self, errand: &Errand, stat: &Stat) -> Result<bool> {
        let Some(record) = errand.record.as_ref().filter(|record| record.stamp.ctime != stat.ctime) else {
            return Ok(false);
        };
        if self.job().progress.is_handled(record) {
            return Ok(false);
        }
        if stat.nlink > 1 {
            return Ok(true);
        }
        let Some(object) = self.dest().head(&self.dest_key(&errand.place)?).await? else { return Ok(true) };
        let is_first = object.attributes.contains_key(LINKS_ATTRIBUTE);
        Ok(is_first || attributes::decode(&object.attributes).link.is_some())
    }

    /// The key of a name at the destination.
    pub(super) fn dest_key(&self, place: &Place) -> Result<Key> {
        let root = self.job().dest.bucket.as_ref().expect("I8: the way says that the destination is a bucket");
        let key = root.key(&place.dir, &place.dest_name);
        key.map_err(|why| Error::refused_key(place.path(self.job(), Side::Dest), why))
    }

    /// Extended attributes and ACLs, as far as they are asked for and there is room for them. That they are still those
    /// of the file that is read is known when it is described once more.
    fn add_extended(&self, place: &Place, stat: &Stat, pairs: &mut Vec<(String, String)>) -> Result<()> {
        let (job, wanted) = (self.job(), self.job().config.attributes);
        // Of a device the content is kept, and nothing of its node.
        if wanted == Attributes::None || job.device(Side::Source).is_some() {
            return Ok(());
        }
        let posix = Posix::new(&*self.errands.caller, Side::Source);
        let thing = Thing::named(posix, &place.open.source, &place.name);
        let read = xattrs::read(thing, stat.kind(), wanted, extended::BYTES_MAX);
        let (found, mut losses) = read.map_err(|errno| source_error(job, place, "read the attributes of", errno))?;
        losses.extend(extended::append(pairs, found));
        losses.iter().try_for_each(|loss| job.lose(place, loss))
    }

    /// An object that is there already: as an interrupted run recorded it, or as its attributes say.
    async fn stored_before(&self, upload: &Upload<'_>, plan: Plan) -> Result<Option<Ending>> {
        let (job, stamp) = (self.job(), self.job().stamp(&upload.stat));
        // A device does not tell whether it has changed: what an earlier pass has stored is no part of this one.
        let is_of_now = |r: &&FileRecord| !job.has_device() || r.batch > job.progress.completed_batch;
        let is_stored_as = |r: &&FileRecord| r.status == Status::Done && r.stamp == stamp;
        let record = upload.errand.record.as_ref().filter(|_| !plan.is_again());
        if let Some(record) = record.filter(is_stored_as).filter(is_of_now)
            && self.is_still_stored(upload, record).await?
        {
            let mut copied = self.copied(upload, record.dest_ino, 0, record.checksum);
            copied.large_id = record.large_id;
            return Ok(Some(Ending::Copied(Box::new(copied))));
        }
        if plan != Plan::Compare || job.has_device() {
            return Ok(None);
        }
        let Some(object) = self.dest().head(&upload.key).await? else { return Ok(None) };
        let told = upload.attributes.iter().find(|(name, _)| name == extended::KEY).map(|(_, value)| value);
        if !is_stored(&object, &upload.stat, &upload.attributes) || object.attributes.get(extended::KEY) != told {
            return Ok(None);
        }
        // The source was not read: that the server knows the object's checksum says nothing about the file.
        let checksum = object.crc64.map(|crc64| Checksum { crc64, proof: Proof::Length });
        if checksum.is_none() {
            self.errands.counters.add(Count::ProvedByLength, 1);
        }
        let mut copied = self.copied(upload, hash(&object.etag), 0, checksum);
        copied.count = Count::Adopted;
        Ok(Some(Ending::Copied(Box::new(copied))))
    }

    /// Whether the object that an interrupted run has stored is still there. Asked of a device only: beside reading all
    /// of it once more a question is nothing.
    async fn is_still_stored(&self, upload: &Upload<'_>, record: &FileRecord) -> Result<bool> {
        if !self.job().has_device() {
            return Ok(true);
        }
        let object = self.dest().head(&upload.key).await?;
        Ok(object.is_some_and(|object| hash(&object.etag) == record.dest_ino && object.size == upload.stat.size))
    }

    /// A file of which only the ctime is new: it is read, and if it has the content with this CRC64 that the object
    /// holds, the server gives the object its new metadata by itself. `None`: it is to be uploaded.
    async fn refresh(&self, upload: &Upload<'_>, known: u64) -> Result<Option<Ending>> {
        let Some(record) = &upload.errand.record else { return Ok(None) };
        let Some(object) = self.dest().head(&upload.key).await? else { return Ok(None) };
        let size = upload.stat.size;
        if hash(&object.etag) != record.dest_ino || object.size != size || size > COPY_BYTES_MAX {
            return Ok(None);
        }
        let read = self.checksum_of_source(upload).await?;
        let after = restat_source(self.job(), &*self.errands.caller, &upload.errand.place)?;
        match read {
            Some(crc64) if upload.stat.is_unchanged_in(&after) && crc64 == known => {}
            Some(_) if upload.stat.is_unchanged_in(&after) => return Ok(None),
            _ => return Ok(Some(Ending::Changed)),
        }
        let mut etag = object.etag;
        if object.attributes != upload.attributes.iter().cloned().collect() {
            let (bucket, key) = (self.dest().bucket().clone(), &upload.key);
            let description = Description { attributes: &upload.attributes, headers: &object.headers };
            etag = match self.dest().copy(&bucket, key, &etag, key, Some(description)).await {
                Ok(stored) if !stored.etag.is_empty() => stored.etag,
                Err(error) if error.class() == Class::Fatal => return Err(error),
                // An archived object, a server without copies: what is sent anew is right in any case.
                Ok(_) | Err(_) => return Ok(None),
            };
        }
        let mut copied = self.copied(upload, hash(&etag), 0, record.checksum);
        copied.count = Count::Refreshed;
        Ok(Some(Ending::Copied(Box::new(copied))))
    }

    /// The CRC64 of what the file holds now, read a block at a time; `None` if it is shorter than it was.
    async fn checksum_of_source(&self, upload: &Upload<'_>) -> Result<Option<u64>> {
        let (job, place, size) = (self.job(), &upload.errand.place, upload.stat.size);
        let failed = |errno| source_error(job, place, "read", errno);
        let posix = Posix::new(&*self.errands.caller, Side::Source);
        let opened = posix.open(&place.open.source, &place.name, Access::Read);
        let file = self.disk.open(&opened.map_err(|errno| source_error(job, place, "open", errno))?).map_err(failed)?;
        let (mut digest, mut offset) = (crc64fast_nvme::Digest::new(), 0);
        // Ends: every turn reads a block.
        while offset < size {
            let len = (size - offset).min(REREAD_BYTES) as usize;
            let mut block = self.memory(len).await;
            self.read(&file, &mut block, offset, len).await.map_err(failed)?;
            if block.bytes().len() < len {
                return Ok(None);
            }
            digest.write(block.bytes());
            offset += len as u64;
        }
        Ok(Some(digest.sum64()))
    }

    /// Most bytes of an object that goes in one request: it is one buffer.
    pub(super) fn whole_bytes(&self) -> u64 {
        let roots = [&self.job().source.bucket, &self.job().dest.bucket];
        // Reading in ranges costs a server nothing.
        let is_written_near = self.way != Way::Down && roots.into_iter().flatten().all(|root| root.is_near);
        let usual = if is_written_near { WHOLE_BYTES_NEAR } else { WHOLE_BYTES };
        self.job().config.part_bytes.map_or(usual, |bytes| bytes.min(WHOLE_BYTES_NEAR))
    }

    async fn upload_whole(&self, upload: Upload<'_>) -> Result<Ending> {
        let (job, place, stat) = (self.job(), &upload.errand.place, &upload.stat);
        self.plan_bytes(place, if stat.kind() == Kind::File { stat.size } else { 0 });
        let room = if stat.kind() == Kind::Symlink { libc::PATH_MAX as u64 } else { stat.size };
        let mut buffer = self.memory(room as usize).await;
        let (posix, mut missing) = (Posix::new(&*self.errands.caller, Side::Source), None);
        match stat.kind() {
            Kind::File if stat.size > 0 => {
                let Some(handle) = open_source(job, &*self.errands.caller, place, stat)? else {
                    return Ok(Ending::Changed);
                };
                let failed = |errno| source_error(job, place, "read", errno);
                let file = self.disk.open(&handle).map_err(failed)?;
                missing = self
                    .read_source((place, &file), &mut buffer, (0, stat.size as usize), upload.earlier.as_ref())
                    .await?;
            }
            Kind::Symlink => {
                let target = posix.read_link(&place.open.source, &place.name);
                buffer.append(target.map_err(|errno| source_error(job, place, "read link", errno))?.as_bytes());
            }
            _ => {}
        }
        let after = restat_source(job, &*self.errands.caller, place)?;
        let is_whole = stat.kind() != Kind::File || buffer.bytes().len() as u64 == stat.size;
        if !is_whole || !stat.is_unchanged_in(&after) {
            return Ok(Ending::Changed);
        }
        let bytes = if stat.kind() == Kind::File { stat.size } else { 0 };
        let crc64 = crc64(buffer.bytes());
        let body = Payload::metered(buffer.into_body(), upload.errand.meter.clone());
        let stored = self.dest().put(&upload.key, body, crc64, &upload.attributes).await?;
        let checksum = self.proven(&upload.key, crc64, &stored).await?;
        if let Some(ending) = self.stored_in_part(place, missing, &stored) {
            return Ok(ending);
        }
        Ok(Ending::Copied(Box::new(self.copied(&upload, hash(&stored.etag), bytes, Some(checksum)))))
    }

    pub(super) fn copied(&self, upload: &Upload<'_>, dest_ino: u64, bytes: u64, checksum: Option<Checksum>) -> Copied {
        Copied {
            stamp: upload.stamp,
            dest_ino,
            dest_dev: 0,
            seal: Seal::None,
            bytes,
            count: match upload.stat.kind() {
                Kind::Symlink => Count::Symlinks,
                Kind::Special => Count::Specials,
                _ => Count::FilesCopied,
            },
            group: upload.group,
            large_id: 0,
            checksum,
            attempts: 1,
            owner: Some(Owner::of(&upload.stat)),
        }
    }
}

/// What an object says of the file it holds; `name` is the file's at the destination.
pub(crate) fn attributes_of(stat: &Stat, name: &Name, metadata: Metadata) -> Vec<(String, String)> {
    let is_escaped = crate::provider::s3::keys::encode_name(name.as_bytes()).1;
    let raw_name = is_escaped.then_some(name.as_bytes());
    let mut pairs = attributes::encode(stat, raw_name, None);
    if metadata == Metadata::TimesOnly {
        pairs.retain(|(name, _)| !matches!(name.as_str(), "file-owner" | "file-group" | "file-permissions"));
    }
    if stat.nlink > 1 {
        pairs.push((LINKS_ATTRIBUTE.to_owned(), stat.nlink.to_string()));
    }
    pairs
}

/// Whether an object without a record holds a file: by its size and what it says of it, the mtime before all.
pub(crate) fn is_stored(object: &Object, stat: &Stat, expected: &[(String, String)]) -> bool {
    let posix = attributes::decode(&object.attributes);
    let expected = attributes::decode(&expected.iter().cloned().collect());
    let size = if stat.kind() == Kind::Special { 0 } else { stat.size };
    let is_same_file = object.size == size && posix.rdev == expected.rdev && posix.mtime == Some(stat.mtime);
    let told = (posix.mode, posix.uid, posix.gid, posix.link);
    // One that does not call itself the first of several names would be restored apart from them.
    let is_first = stat.nlink < 2 || object.attributes.contains_key(LINKS_ATTRIBUTE);
    is_same_file && is_first && told == (expected.mode, expected.uid, expected.gid, None)
}
