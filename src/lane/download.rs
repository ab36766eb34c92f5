//! From a bucket into a file system: one object, from its listing to a closed, not yet sealed, file.
//!
//! ```text
//! listed state -> plan -> GET: up to one part whole, CRC64 against the object's checksum, then create and write
//!                         more: HEAD, then ranged GETs (large.rs)
//! ```
//! How long an object is, its listing, HEAD and GET may tell differently, and metadata is whatever somebody wrote:
//! memory is taken for a body by what is listed, if that is no more than one part, before GET has a place under the
//! throttle (buffers.rs), and once more, with another GET, if that announces more.
//! What the object was made from (a symlink, a device node, a further hard link) stands in its metadata. Creating,
//! owner, mode and the seal are those of a local copy (transfer/, seal.rs).

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::buffers::Buffer;
use super::large::corrupt;
use super::listing::stamp_of;
use super::parts::changed;
use super::upload::LINKS_ATTRIBUTE;
use super::{Carried, Lane, link_key};
use crate::catalog::{Checksum, Owner, Proof, Stamp, Status};
use crate::config::{Attributes, SpecialBits};
use crate::digest::crc64;
use crate::errand::Errand;
use crate::error::{Error, Result, escape};
use crate::job::{Past, Place, Ticket};
use crate::links::LinkKey;
use crate::outcome::What;
use crate::plan::{self, Plan, Skip};
use crate::provider::metadata::Identity;
use crate::provider::posix::Posix;
use crate::provider::s3::{self, Key, Object, attributes, extended, keys};
use crate::provider::xattrs::Told;
use crate::report::Count;
use crate::ring::{Kind, Name, Side, Stat};
use crate::transfer::{Ending, Grouping, Work, claim_group};
use crate::walk::DestDir;

/// Longest target of a symlink: PATH_MAX less its NUL (symlink(2)).
const TARGET_BYTES_MAX: u64 = 4095;

/// One object on its way down.
pub(super) struct Download<'a> {
    /// Its errand.
    pub errand: &'a Errand,
    /// The object's key.
    pub key: Key,
    /// The object.
    pub object: Object,
    /// The file it was, or will be.
    pub stat: Stat,
    /// What is recorded of it.
    pub stamp: Stamp,
    /// Its group if it has several names.
    pub group: Option<LinkKey>,
    /// Its extended attributes and ACLs, as far as they are asked for.
    pub told: Told,
}

impl Download<'_> {
    /// What the local engine's steps need.
    pub fn work<'w>(&'w self, lane: &'w Lane) -> Work<'w> {
        Work {
            job: lane.job(),
            caller: &*lane.errands.caller,
            place: &self.errand.place,
            stat: &self.stat,
            stamp: self.stamp,
            group: self.group,
            told: Some(&self.told),
        }
    }

    /// Whether what it was made from is in its body.
    fn has_content(&self) -> bool {
        match self.stat.kind() {
            Kind::File => true,
            Kind::Symlink => self.object.size <= TARGET_BYTES_MAX,
            Kind::Special | Kind::Dir => false,
        }
    }

    /// Whether what is recorded of it is the state of the object that is read: neither that of a link to it, nor one
    /// that it was listed with and has no more. Only then a record tells whether ranges that came earlier are of it.
    pub fn tells_state(&self) -> bool {
        self.stamp == state_of(&self.object)
    }

    /// What is proved of the file by the checksum of what came.
    pub fn checksum(&self, crc64: u64) -> Checksum {
        let proof = if self.object.crc64 == Some(crc64) { Proof::Server } else { Proof::Length };
        Checksum { crc64, proof }
    }
}

impl Lane {
    pub(super) async fn download(self: &Rc<Lane>, errand: &Errand, group: &mut Option<LinkKey>) -> Carried {
        let place = &errand.place;
        let key = self.source_key(place)?;
        if errand.ticket == Ticket::Alone && !self.find_twins(&place.dir, &place.open).await? {
            return Ok(None);
        }
        let listed = match errand.listed {
            Some(listed) => listed,
            None => match self.source().head(&key).await? {
                Some(object) => state_of(&object),
                None => return Ok(Some(Ending::Vanished)),
            },
        };
        let plan = self.decide(errand, &listed);
        match plan {
            // A device does not tell whether it has changed.
            Plan::Skip(Skip::Unchanged) if self.job().has_device() => {}
            Plan::Skip(skip) => {
                return match self.outdated_link(errand, &key).await? {
                    Some((link, first)) => self.download_link(link, first, group).await,
                    None => Ok(Some(Ending::Skipped(skip))),
                };
            }
            _ => {}
        }
        self.note_replaced(errand, &key)?;
        let is_sealed_before = errand.record.as_ref().is_some_and(|record| record.status == Status::Done);
        // Nothing is written to a device before the catalog tells that this job does: that is seen to by parts.
        let is_large = listed.size > self.whole_bytes() || self.job().device(Side::Dest).is_some();
        // Nothing of the body is wanted before it is known that it is needed.
        if is_large || is_sealed_before || plan == Plan::Compare {
            let Some(object) = self.source().head(&key).await? else { return Ok(Some(Ending::Vanished)) };
            let mut download = self.describe(errand, key.clone(), object);
            // Whoever is first is first however its file came to be there: the other names wait for it.
            download.group = self.claim_first(&download)?;
            *group = download.group;
            if let Some(ending) = self.there_before(&download, plan)? {
                return Ok(Some(ending));
            }
            if is_large && download.stat.kind() == Kind::File {
                place.dir.touch();
                return self.download_parts(download).await;
            }
        }
        self.download_whole(errand, (key, listed.size), group).await
    }

    /// The key of a name in the source.
    pub(super) fn source_key(&self, place: &Place) -> Result<Key> {
        let root = self.job().source.bucket.as_ref().expect("I8: the way says that the source is a bucket");
        let key = root.key(&place.dir, &place.name);
        key.map_err(|why| Error::refused_object(place.path(self.job(), Side::Source), why))
    }

    /// The decision about an object in its listed state.
    pub(super) fn decide(&self, errand: &Errand, listed: &Stamp) -> Plan {
        let Stamp { size, mtime, ctime, ino } = *listed;
        let seen = Stat { mode: libc::S_IFREG, size, mtime, ctime, ino, ..Stat::default() };
        let is_fresh = errand.place.dir.dest() == DestDir::Created;
        plan::decide(&seen, errand.record.as_ref(), &self.job().progress, is_fresh)
    }

    /// The file that an object stands for.
    fn describe<'e>(&self, errand: &'e Errand, key: Key, object: Object) -> Download<'e> {
        self.say_unescaped(&errand.place, &key, &object);
        let stat = file_of(&object, &self.job().identity, self.job().config.special_bits);
        let stamp = stamp_seen(errand, &object);
        let told = match self.job().config.attributes {
            Attributes::None => Vec::new(),
            _ => extended::decode(&extended::told(&object.attributes)),
        };
        Download { errand, key, object, stat, stamp, group: None, told }
    }

    /// Says, once, that the key of an object which no gfast has stored is taken for an escaped name: its attributes
    /// come too late for it to have another one.
    fn say_unescaped(&self, place: &Place, key: &Key, object: &Object) {
        let (component, is_escaped) = keys::encode_name(place.name.as_bytes());
        let is_it = is_escaped && key.as_str().ends_with(&component);
        let is_foreign = is_it && attributes::decode(&object.attributes).name.is_none();
        if is_foreign && self.common.unescaped.set(()).is_ok() {
            let (name, key) = (escape(place.name.as_bytes()), escape(key.as_str().as_bytes()));
            let (bucket, kind) = (self.source().bucket().name(), "as others of its kind do");
            let why = "it looks like a name that gfast has escaped, and does not say so (gfast-name)";
            self.job().console.note(&format!("gfast: s3://{bucket}/{key} comes down as {name}, {kind}: {why}"));
        }
    }

    /// A file that is there already, by its record or by its seal. A further hard link is not looked at: owner, mode
    /// and times are its first's.
    fn there_before(&self, download: &Download<'_>, plan: Plan) -> Result<Option<Ending>> {
        if attributes::decode(&download.object.attributes).link.is_some() {
            return Ok(None);
        }
        let work = download.work(self);
        if let Some(copied) = work.reseal(download.errand.record.as_ref())? {
            return Ok(Some(Ending::Copied(Box::new(copied))));
        }
        if plan == Plan::Compare
            && download.stat.kind() == Kind::File
            && self.job().syncs()
            && let Some(copied) = work.adopt()?
        {
            return Ok(Some(Ending::Copied(Box::new(copied))));
        }
        Ok(None)
    }

    /// Claims the group of an object that others are links to.
    fn claim_first(&self, download: &Download<'_>) -> Result<Option<LinkKey>> {
        if !download.object.attributes.contains_key(LINKS_ATTRIBUTE) {
            return Ok(None);
        }
        let key = link_key(download.key.as_str());
        match claim_group(self.job(), &download.errand.place, key, &download.stamp)? {
            Grouping::First(key) | Grouping::Split(key) => Ok(Some(key)),
            Grouping::Alone | Grouping::Further(_) => Ok(None),
        }
    }

    /// A file may be about to be replaced that other names are links to. Their objects stay as they are: who they are
    /// is found out when the pass ends, from what is recorded here before it is replaced.
    fn note_replaced(&self, errand: &Errand, key: &Key) -> Result<()> {
        let (job, place, group) = (self.job(), &errand.place, link_key(key.as_str()));
        if job.past == Past::Nothing {
            return Ok(());
        }
        let first = job.catalog.reader()?.link(group.dev, group.ino)?;
        if first.is_none_or(|first| (first.dir, first.name) != (place.dir.id, place.name.clone())) {
            return Ok(());
        }
        let there = Posix::new(&*self.errands.caller, Side::Dest).stat(&place.open.dest, &place.dest_name);
        if let Some(there) = there.ok().filter(|there| there.nlink > 1) {
            job.links.note_replaced();
            self.errands.push(&place.dir, place.name.clone(), What::Replacing(job.dest_id(&there)));
        }
        Ok(())
    }

    /// An unchanged further name of a file that this pass has replaced, and the key of its first. To be found once all
    /// firsts have had their turn.
    async fn outdated_link<'e>(&self, errand: &'e Errand, key: &Key) -> Result<Option<(Download<'e>, String)>> {
        let record = errand.record.as_ref().filter(|_| self.job().is_resealed.load(Ordering::Relaxed));
        if !record.map_or(Ok(false), |record| self.job().is_outdated_link(record))? {
            return Ok(None);
        }
        let Some(object) = self.source().head(key).await? else { return Ok(None) };
        let first = attributes::decode(&object.attributes).link;
        Ok(first.map(|first| (self.describe(errand, key.clone(), object), first)))
    }

    async fn download_whole(
        self: &Rc<Lane>,
        errand: &Errand,
        (key, size): (Key, u64),
        group: &mut Option<LinkKey>,
    ) -> Carried {
        let room = size.min(self.whole_bytes());
        let buffer = self.memory_for_answer(room as usize).await;
        let mut body = self.source().get(&key, None, None).await?;
        let object = std::mem::take(&mut body.object);
        let mut download = self.describe(errand, key, object);
        if let Some(first) = attributes::decode(&download.object.attributes).link {
            drop((body, buffer));
            return self.download_link(download, first, group).await;
        }
        download.group = self.claim_first(&download)?;
        *group = download.group;
        // It has grown since it was listed.
        if download.object.size > self.whole_bytes() && download.stat.kind() == Kind::File {
            drop((body, buffer));
            errand.place.dir.touch();
            return self.download_parts(download).await;
        }
        if download.object.size > room && download.has_content() {
            drop((body, buffer));
            let content = self.content_of(&download).await?;
            return self.place(&download, content).await.map(Some);
        }
        let content = self.content(&download, body, buffer).await?;
        self.place(&download, content).await.map(Some)
    }

    /// A further hard link: it waits for its first. One whose first has failed, or has not come by the end of the pass
    /// (it lies outside of what is restored), gets the content of the object it links to, and is the first of the
    /// others.
    async fn download_link(self: &Rc<Lane>, link: Download<'_>, first: String, group: &mut Option<LinkKey>) -> Carried {
        let key = link_key(&first);
        let is_promoted = link.errand.claimed == Some(key);
        if !is_promoted && !self.job().is_resealed.load(Ordering::Relaxed) {
            return Ok(Some(Ending::Further(key, link.stamp)));
        }
        let place = &link.errand.place;
        match claim_group(self.job(), place, key, &link.stamp)? {
            Grouping::Further(key) => return Ok(Some(Ending::Further(key, link.stamp))),
            Grouping::First(key) | Grouping::Split(key) => *group = Some(key),
            Grouping::Alone => {}
        }
        let first = Key::new(first).map_err(|why| self.refused(place, why))?;
        let Some(object) = self.source().head(&first).await? else {
            return Err(self.refused(place, "the object that it is a hard link to is not there"));
        };
        let target = self.describe(link.errand, first, object);
        // What comes in the place of a first that failed is looked at again by the next pass, which tries that one,
        // too.
        let stamp = if is_promoted { link.stamp.racy() } else { link.stamp };
        let target = Download { stamp, group: *group, ..target };
        // However large it is, it fits the budget.
        if target.object.size > self.whole_bytes() && target.stat.kind() == Kind::File {
            place.dir.touch();
            return self.download_parts(target).await;
        }
        let content = self.content_of(&target).await?;
        self.place(&target, content).await.map(Some)
    }

    /// What is wanted of the body of an object that has been described, and is as it was then.
    async fn content_of(&self, download: &Download<'_>) -> Result<Buffer> {
        let Object { size, etag, .. } = &download.object;
        let room = if download.has_content() { *size } else { 0 };
        let buffer = self.memory_for_answer(room as usize).await;
        let body = self.source().get(&download.key, None, Some(etag)).await?;
        if body.object.size != *size {
            return Err(changed(&download.key));
        }
        self.content(download, body, buffer).await
    }

    /// What is wanted of an object's body, in memory that has room for it.
    async fn content(&self, download: &Download<'_>, body: s3::Download, buffer: Buffer) -> Result<Buffer> {
        let place = &download.errand.place;
        match download.stat.kind() {
            Kind::File => self.receive(download, body, buffer).await,
            Kind::Symlink if download.object.size > TARGET_BYTES_MAX => {
                Err(self.refused(place, "its metadata calls it a symlink, and its content is longer than any target"))
            }
            Kind::Symlink => self.receive(download, body, buffer).await,
            Kind::Special => Ok(buffer),
            Kind::Dir => Err(self.refused(place, "its metadata calls it a directory, its key does not")),
        }
    }

    /// The content of an object, compared with its checksum.
    async fn receive(&self, download: &Download<'_>, mut body: s3::Download, mut buffer: Buffer) -> Result<Buffer> {
        let size = download.object.size as usize;
        // Ends: the body does, or it is longer than it may be.
        while let Some(chunk) = body.chunk().await? {
            if buffer.bytes().len() + chunk.len() > size {
                return Err(corrupt(&download.key));
            }
            self.spend(chunk.len()).await;
            buffer.append(&chunk);
            if download.stat.kind() == Kind::File {
                download.errand.passed(buffer.bytes().len());
            }
        }
        let is_right =
            buffer.bytes().len() == size && download.object.crc64.is_none_or(|told| told == crc64(buffer.bytes()));
        if is_right { Ok(buffer) } else { Err(corrupt(&download.key)) }
    }

    /// Makes what an object stands for at the destination.
    async fn place(&self, download: &Download<'_>, mut content: Buffer) -> Result<Ending> {
        let work = download.work(self);
        let place = &download.errand.place;
        place.dir.touch();
        let crc64 = crc64(content.bytes());
        let mut copied = match download.stat.kind() {
            Kind::Symlink => {
                let target = Name::new(content.bytes());
                let target = target.map_err(|_| self.refused(place, "its target holds a NUL"))?;
                match work.make_symlink(&target)? {
                    Some(copied) => copied,
                    None => return Ok(not_made(download)),
                }
            }
            Kind::Special => match work.copy_special()? {
                Some(copied) => copied,
                None => return Ok(not_made(download)),
            },
            Kind::Dir => return Err(self.refused(place, "its metadata calls it a directory, its key does not")),
            Kind::File => {
                let size = download.object.size;
                self.plan_bytes(place, size);
                let file = work.create()?;
                if size > 0
                    && let Err(error) = self.write_file(place, &file.handle, &mut content).await
                {
                    work.remove(file.temp.as_ref());
                    return Err(error);
                }
                work.finish(file, size, Count::FilesCopied)?
            }
        };
        // Of a device node no content was read.
        let is_read = content.bytes().len() as u64 == download.object.size;
        copied.checksum = is_read.then(|| download.checksum(crc64));
        Ok(Ending::Copied(Box::new(copied)))
    }

    async fn write_file(&self, place: &Place, handle: &crate::ring::Handle, content: &mut Buffer) -> Result<()> {
        let failed = |errno| place.error(self.job(), Side::Dest, "write", errno);
        let file = self.disk.open(handle).map_err(failed)?;
        let written = self.write(&file, content, 0).await;
        let closed = self.close(file).await;
        written.and(closed).map_err(failed)
    }

    fn refused(&self, place: &Place, why: &'static str) -> Error {
        Error::refused_object(place.path(self.job(), Side::Source), why)
    }
}

/// The state that is recorded of an object: as it was listed, so that a change since then shows in the next listing; as
/// it is where what was listed was of another size, for then it is not that.
pub(super) fn stamp_seen(errand: &Errand, object: &Object) -> Stamp {
    let is_listed = |listed: &Stamp| listed.size == object.size;
    errand.listed.filter(is_listed).unwrap_or_else(|| state_of(object))
}

/// The state of an object.
pub(super) fn state_of(object: &Object) -> Stamp {
    stamp_of(object.size, object.modified, &object.etag)
}

/// The file that an object stands for.
pub(crate) fn file_of(object: &Object, identity: &Identity, special_bits: SpecialBits) -> Stat {
    let posix = attributes::decode(&object.attributes);
    let mode = posix.mode.unwrap_or(libc::S_IFREG | 0o666 & !identity.umask);
    let special = if special_bits == SpecialBits::Restore { 0 } else { 0o6000 };
    let mtime = posix.mtime.unwrap_or(object.modified);
    Stat {
        mode: mode & !special,
        nlink: 1,
        uid: posix.uid.unwrap_or(identity.uid),
        gid: posix.gid.unwrap_or(identity.gid),
        rdev: posix.rdev.unwrap_or(0),
        size: object.size,
        blocks: object.size.div_ceil(512),
        atime: posix.atime.unwrap_or(mtime),
        mtime,
        ..Stat::default()
    }
}

/// The destination cannot hold such an object.
fn not_made(download: &Download<'_>) -> Ending {
    Ending::NotMade(download.stamp, Owner::of(&download.stat))
}
