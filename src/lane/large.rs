//! Large objects: begun or continued, handed to the parts, completed or given up.
//!
//! The catalog knows a large object as soon as it is begun: its upload's id, or its file's inode, and every part that
//! is where it should be, with its checksum. A resume asks the server (ListParts) or the file system what is really
//! there, and takes a part for done only if both agree.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::download::{Download, state_of};
use super::parts::{Parts, Progress, Route};
use super::relay::Relay;
use super::upload::Upload;
use super::{Carried, Lane, hash};
use crate::catalog::{self, Failure, FileRecord, Range, Stamp, Status};
use crate::config::{PART_BYTES_LARGE, PART_BYTES_MIN, PARTS_MAX};
use crate::digest::Assembly;
use crate::errand::{Errand, file_record};
use crate::error::{Cause, Class, Error, Result};
use crate::large::{Room, birth_of, find_leftover, forget_ranges, leaves_nothing, settle_size, take_room};
use crate::outcome::What;
use crate::provider::s3::{Description, Key, Part, Stored};
use crate::report::{Count, LossSet, Weight};
use crate::ring::Side;
use crate::transfer::{Ending, open_source, restat_source, source_holds};

/// Time between two looks for an early record.
const RECORD_LOOK: Duration = Duration::from_millis(1);

/// An upload under way: key of its ranges, what it is, what is done of it.
struct Begun {
    /// Key of its ranges in the catalog.
    large_id: u64,
    /// The upload.
    upload: catalog::Upload,
    /// By index: parts that are there.
    settled: Vec<bool>,
    /// What they come to.
    progress: Progress,
}

/// What there is of an upload.
enum Standing {
    /// It is under way.
    Begun(Box<Begun>),
    /// It was completed by a run that did not live to record it.
    Completed(Completed),
}

/// An object that is there, and whose parts are still recorded.
struct Completed {
    /// Key of its ranges in the catalog.
    large_id: u64,
    /// What the server says of it.
    stored: Stored,
    /// Its checksum, if it is known.
    crc64: Option<u64>,
}

/// Bytes of the parts of an object: few enough of them, whatever its size.
fn part_bytes(size: u64, wanted: Option<u64>) -> u64 {
    let usual = if size >= 1 << 30 { PART_BYTES_LARGE } else { PART_BYTES_MIN };
    wanted.unwrap_or(usual).max(size.div_ceil(PARTS_MAX)).next_multiple_of(1 << 20)
}

impl Lane {
    pub(super) async fn upload_parts(self: &Rc<Lane>, upload: Upload<'_>) -> Carried {
        let (job, place) = (self.job(), &upload.errand.place);
        let stamp = upload.stamp;
        let Some(file) = open_source(job, &*self.errands.caller, place, &upload.stat)? else {
            return Ok(Some(Ending::Changed));
        };
        let description = (&upload.attributes).into();
        let begun = match self.begin_upload(upload.errand, &upload.key, stamp, (description, None)).await? {
            Some(Standing::Begun(begun)) => *begun,
            Some(Standing::Completed(Completed { large_id, stored, crc64 })) => {
                let crc64 = crc64.expect("I7: every part of a file passes through a lane");
                let checksum = self.proven(&upload.key, crc64, &stored).await?;
                let mut copied = self.copied(&upload, hash(&stored.etag), 0, Some(checksum));
                copied.large_id = large_id;
                return Ok(Some(Ending::Copied(Box::new(copied))));
            }
            None => return Ok(None),
        };
        let id = begun.upload.id.clone();
        let (key, earlier) = (upload.key.clone(), upload.earlier.clone());
        let route = Route::Up { file, key, upload: id.clone(), earlier };
        let parts = self.run_parts(upload.errand, route, stamp.size, begun).await;
        let after = restat_source(job, &*self.errands.caller, place);
        if let Some(ending) = self.unfinished(&parts) {
            return self.give_up_upload(upload.errand, (&upload.key, &id), parts.large_id, ending).await;
        }
        if !after.is_ok_and(|after| upload.stat.is_unchanged_in(&after)) {
            return self.give_up_upload(upload.errand, (&upload.key, &id), parts.large_id, Some(Ending::Changed)).await;
        }
        let (list, crc64) = finished(&parts);
        let crc64 = crc64.expect("I7: every part of a file passes through a lane");
        let stored = self.complete(upload.errand, (&upload.key, &id), parts.large_id, &list, crc64).await?;
        let checksum = self.proven(&upload.key, crc64, &stored).await?;
        let missing = parts.progress.lock().missing.take();
        if let Some(ending) = self.stored_in_part(place, missing, &stored) {
            self.abandon(upload.errand, parts.large_id);
            return Ok(Some(ending));
        }
        let mut copied = self.copied(&upload, hash(&stored.etag), 0, Some(checksum));
        copied.large_id = parts.large_id;
        Ok(Some(Ending::Copied(Box::new(copied))))
    }

    pub(super) async fn relay_parts(self: &Rc<Lane>, relay: Relay<'_>) -> Carried {
        // Parts of another state than the one that is read are none of its.
        let stamp = if relay.stamp == state_of(&relay.object) { relay.stamp } else { relay.stamp.racy() };
        let told = (relay.description(), relay.object.crc64);
        let begun = match self.begin_upload(relay.errand, &relay.key, stamp, told).await? {
            Some(Standing::Begun(begun)) => *begun,
            Some(Standing::Completed(Completed { large_id, stored, crc64 })) => {
                let mut copied = self.relayed(&relay, relay.stamp, crc64, &stored, 0).await?;
                copied.large_id = large_id;
                return Ok(Some(Ending::Copied(Box::new(copied))));
            }
            None => return Ok(None),
        };
        let id = begun.upload.id.clone();
        let route = Route::Across {
            source_key: relay.source_key.clone(),
            etag: relay.object.etag.clone(),
            key: relay.key.clone(),
            upload: id.clone(),
            is_server_side: relay.is_server_side,
        };
        let parts = self.run_parts(relay.errand, route, stamp.size, begun).await;
        if let Some(ending) = self.unfinished(&parts) {
            return self.give_up_upload(relay.errand, (&relay.key, &id), parts.large_id, ending).await;
        }
        let (list, crc64) = finished(&parts);
        if let (Some(seen), Some(told)) = (crc64, relay.object.crc64)
            && seen != told
        {
            self.drop_upload(relay.errand, (&relay.key, &id), parts.large_id).await?;
            return Err(corrupt(&relay.source_key));
        }
        let crc64 = crc64.or(relay.object.crc64);
        let to = (&relay.key, id.as_str());
        let stored = self.complete(relay.errand, to, parts.large_id, &list, crc64.unwrap_or(0)).await?;
        let mut copied = self.relayed(&relay, relay.stamp, crc64, &stored, 0).await?;
        copied.large_id = parts.large_id;
        Ok(Some(Ending::Copied(Box::new(copied))))
    }

    /// Puts an upload's parts together. What the server refuses leaves no upload behind; a fatal error leaves it to the
    /// resume.
    async fn complete(
        &self,
        errand: &Errand,
        (key, id): (&Key, &str),
        large_id: u64,
        list: &[Part],
        crc64: u64,
    ) -> Result<Stored> {
        let completed = self.dest().complete_upload(key, id, list, crc64).await;
        if completed.as_ref().is_err_and(|error| error.class() != Class::Fatal) {
            self.drop_upload(errand, (key, id), large_id).await?;
        }
        completed
    }

    /// Continues the upload that the catalog knows, or begins one; `None` if the job was stopped before. The catalog
    /// knows that one is about to be begun before the server does, and knows its id before it has a part:
    /// ```text
    /// key, time -> recorded -> CreateMultipartUpload -> id -> recorded -> parts
    /// killed:                 '-- may leave an upload without parts --'   '- the resume goes on with it
    /// ```
    /// So an upload whose id was never read holds nothing that is stored or paid for. It cannot be told from another
    /// client's; what may be it is said when the pass ends. One that was completed before is not begun again: `told` is
    /// what the object says beside its content, and the checksum that this has, where that is known before.
    async fn begin_upload(
        &self,
        errand: &Errand,
        key: &Key,
        stamp: Stamp,
        told: (Description<'_>, Option<u64>),
    ) -> Result<Option<Standing>> {
        if let Some(standing) = self.upload_before(errand, key, stamp, told).await? {
            return Ok(Some(standing));
        }
        let part_bytes = part_bytes(stamp.size, self.job().config.part_bytes);
        let begun_secs = self.dest().bucket().server_secs().max(1);
        let mut upload = catalog::Upload { id: String::new(), part_bytes, key: key.as_str().to_owned(), begun_secs };
        let large_id = self.job().new_id();
        self.push_begun(errand, stamp, large_id, 0);
        let push_upload = |upload: &catalog::Upload| {
            let (dir, name) = (&errand.place.dir, errand.place.name.clone());
            self.errands.push(dir, name, What::Uploading(large_id, upload.clone()));
        };
        push_upload(&upload);
        if !self.is_upload_recorded(large_id, "").await? {
            return Ok(None);
        }
        upload.id = match self.dest().create_upload(key, told.0).await {
            Err(error @ Error { cause: Cause::Remote { .. }, .. }) => {
                self.abandon(errand, large_id);
                return Err(error);
            }
            created => {
                let (id, is_doubtful) = created?;
                if is_doubtful {
                    // One more, without parts, to be looked for when the pass ends.
                    let (dir, name) = (&errand.place.dir, errand.place.name.clone());
                    self.errands.push(dir, name, What::Uploading(self.job().new_id(), upload.clone()));
                }
                id
            }
        };
        push_upload(&upload);
        if !self.is_upload_recorded(large_id, &upload.id).await? {
            return Ok(None);
        }
        let begun = Begun { large_id, upload, settled: Vec::new(), progress: Progress::default() };
        Ok(Some(Standing::Begun(Box::new(begun))))
    }

    /// Waits until the catalog knows of an upload by this id; false if the job was stopped before. Ends: the record
    /// comes early, or the job is stopped by what keeps it from coming.
    async fn is_upload_recorded(&self, large_id: u64, id: &str) -> Result<bool> {
        loop {
            if self.job().catalog.reader()?.upload(large_id)?.is_some_and(|upload| upload.id == id) {
                return Ok(true);
            }
            if self.job().walker.is_stopped() {
                return Ok(false);
            }
            tokio::time::sleep(RECORD_LOOK).await;
        }
    }

    /// Waits until the catalog knows that this job writes to a destination device, as a shard does; false if the job
    /// was stopped before. Ends: the record comes early, or the job is stopped by what keeps it from coming.
    async fn is_device_recorded(&self, errand: &Errand, large_id: u64) -> Result<bool> {
        if self.job().device(Side::Dest).is_none() {
            return Ok(true);
        }
        self.errands.intake.hurry();
        loop {
            let record = self.job().catalog.reader()?.entry(errand.place.dir.id, &errand.place.name)?;
            if file_record(record).is_some_and(|r| r.status == Status::InProgress && r.large_id == large_id) {
                return Ok(true);
            }
            if self.job().walker.is_stopped() {
                return Ok(false);
            }
            tokio::time::sleep(RECORD_LOOK).await;
        }
    }

    fn push_begun(&self, errand: &Errand, stamp: Stamp, large_id: u64, dest_ino: u64) {
        let tried = errand.record.as_ref().map_or(0, FileRecord::tried);
        let record = FileRecord {
            status: Status::InProgress,
            batch: 0,
            stamp,
            dest_ino,
            large_id,
            failure: (tried > 0).then(|| Failure::tries(tried)),
            checksum: None,
            losses: LossSet::default(),
            // Its end records it.
            owner: None,
        };
        self.errands.push(&errand.place.dir, errand.place.name.clone(), What::Begun(record));
    }

    /// What an interrupted run left of this object's upload. One of another state of the source is aborted.
    async fn upload_before(
        &self,
        errand: &Errand,
        key: &Key,
        stamp: Stamp,
        told: (Description<'_>, Option<u64>),
    ) -> Result<Option<Standing>> {
        let in_progress = |r: &&FileRecord| r.status == Status::InProgress && r.large_id != 0;
        let Some(record) = errand.record.as_ref().filter(in_progress) else { return Ok(None) };
        let reader = self.job().catalog.reader()?;
        let (upload, ranges) = (reader.upload(record.large_id)?, reader.ranges(record.large_id)?);
        drop(reader);
        // One whose id was never read is told of when the pass ends.
        let Some(upload) = upload.filter(|upload| !upload.id.is_empty()) else { return Ok(None) };
        if record.stamp != stamp || stamp.is_racy() || !source_holds(self.job(), &ranges) {
            self.drop_upload(errand, (key, &upload.id), record.large_id).await?;
            return Ok(None);
        }
        let Some(listed) = self.dest().list_parts(key, &upload.id).await? else {
            let begun = (record.large_id, &upload, &ranges[..]);
            let completed = self.completed_before(key, begun, stamp.size, told).await?;
            if completed.is_none() {
                self.abandon(errand, record.large_id);
            }
            return Ok(completed.map(Standing::Completed));
        };
        let count = stamp.size.div_ceil(upload.part_bytes);
        let (mut settled, mut progress) = (vec![false; count as usize], Progress::default());
        for part in listed {
            let Some(range) = ranges.iter().find(|range| is_recorded(range, &part, upload.part_bytes)) else {
                continue;
            };
            let Some(slot) = settled.get_mut(part.number as usize - 1) else { continue };
            if std::mem::replace(slot, true) {
                continue;
            }
            if let Some(crc64) = range.crc64 {
                progress.assembly.add(range.offset, range.len, crc64);
                progress.digested += range.len;
            }
            progress.parts.push(Part { crc64: range.crc64.unwrap_or(0), ..part });
            progress.done += 1;
        }
        self.push_begun(errand, stamp, record.large_id, 0);
        let begun = Begun { large_id: record.large_id, upload, settled, progress };
        Ok(Some(Standing::Begun(Box::new(begun))))
    }

    /// The object that an upload has become of which the server knows nothing any more, but the catalog every part.
    async fn completed_before(
        &self,
        key: &Key,
        (large_id, upload, ranges): (u64, &catalog::Upload, &[Range]),
        size: u64,
        (description, told): (Description<'_>, Option<u64>),
    ) -> Result<Option<Completed>> {
        let Some(seen) = checksum_of_all(ranges, upload.part_bytes, size) else { return Ok(None) };
        let crc64 = seen.or(told);
        if told.is_some() && crc64 != told {
            return Ok(None);
        }
        let count = size.div_ceil(upload.part_bytes) as usize;
        let whole = (size, count, crc64.unwrap_or(0));
        let stored = self.dest().find_completed(key, whole, description, upload.begun_secs as i64).await?;
        Ok(stored.map(|stored| Completed { large_id, stored, crc64 }))
    }

    /// Gives up an upload that nothing will continue. One that the server does not let go changes nothing about what
    /// becomes of the object: it stays recorded, and when the pass ends it is given up once more, or named.
    async fn drop_upload(&self, errand: &Errand, (key, id): (&Key, &str), large_id: u64) -> Result<()> {
        match self.dest().abort_upload(key, id).await {
            Ok(()) => self.abandon(errand, large_id),
            Err(error) if error.class() == Class::Fatal => return Err(error),
            Err(error) => self.job().failures.causes.note(Weight::Retry, &error.cause),
        }
        Ok(())
    }

    /// Forgets the ranges and the upload of an attempt that nothing will continue.
    fn abandon(&self, errand: &Errand, large_id: u64) {
        self.errands.push(&errand.place.dir, errand.place.name.clone(), What::Abandoned(large_id));
    }

    async fn run_parts(self: &Rc<Lane>, errand: &Errand, route: Route, size: u64, begun: Begun) -> Arc<Parts> {
        let Begun { large_id, upload, settled, progress } = begun;
        self.plan_bytes(&errand.place, size.saturating_sub(progress.done * upload.part_bytes));
        let sizes = (size, upload.part_bytes);
        let parts = Parts::new(errand.place.clone(), route, sizes, large_id, (settled, progress));
        self.note(&errand.place, |seen| seen.cut(&parts));
        self.work_on(&parts).await;
        parts
    }

    /// `None` if all parts are done. Else how the object ends: `Some(None)` when the job was stopped.
    fn unfinished(&self, parts: &Parts) -> Option<Option<Ending>> {
        let mut progress = parts.progress.lock();
        match progress.trouble.take() {
            Some(ending) => Some(Some(ending)),
            None if progress.done == parts.count() => None,
            None => Some(None),
        }
    }

    /// An upload that will not be completed by this run: aborted, unless a resume goes on with it.
    async fn give_up_upload(
        &self,
        errand: &Errand,
        (key, id): (&Key, &str),
        large_id: u64,
        ending: Option<Ending>,
    ) -> Carried {
        let is_resumable = match &ending {
            None => true,
            Some(Ending::Failed(error)) => error.class() == Class::Fatal,
            Some(_) => false,
        };
        if !is_resumable {
            self.drop_upload(errand, (key, id), large_id).await?;
        }
        Ok(ending)
    }

    pub(super) async fn download_parts(self: &Rc<Lane>, download: Download<'_>) -> Carried {
        let (job, work, object) = (self.job(), download.work(self), &download.object);
        // A server numbers no ranges: however large the object, they fit their buffers.
        let bytes = part_bytes(object.size, job.config.part_bytes).min(PART_BYTES_LARGE);
        let record = download.errand.record.as_ref();
        let (file, large_id, ranges) = match find_leftover(&work, record.filter(|_| download.tells_state()))? {
            Some(leftover) => (leftover.file, leftover.id, leftover.ranges),
            None => {
                forget_ranges(&work, record, download.errand.attempt)?;
                (work.create_large()?, job.new_id(), Vec::new())
            }
        };
        if job.device(Side::Dest).is_none()
            && let Err(error) = take_room(&work, &file, Room::Allocated)
        {
            work.remove(file.temp.as_ref());
            return Err(error);
        }
        self.push_begun(download.errand, download.stamp, large_id, job.dest_id(&file.made));
        let place = &download.errand.place;
        if let Some(birth) = birth_of(job, &file.made).filter(|_| job.device(Side::Dest).is_none()) {
            self.errands.push(&place.dir, place.name.clone(), What::Written(large_id, birth));
        }
        if !self.is_device_recorded(download.errand, large_id).await? {
            return Ok(None);
        }
        let count = object.size.div_ceil(bytes);
        let (mut settled, mut progress) = (vec![false; count as usize], Progress::default());
        for range in ranges.iter().filter(|range| is_part(range, bytes, object.size)) {
            let Some(crc64) = range.crc64 else { continue };
            settled[(range.offset / bytes) as usize] = true;
            progress.assembly.add(range.offset, range.len, crc64);
            progress.digested += range.len;
            progress.done += 1;
        }
        self.plan_bytes(place, object.size - progress.digested);
        let route = Route::Down { key: download.key.clone(), etag: object.etag.clone(), file: file.handle.clone() };
        let parts = Parts::new(place.clone(), route, (object.size, bytes), large_id, (settled, progress));
        self.note(place, |seen| seen.cut(&parts));
        self.work_on(&parts).await;
        let unfinished = match self.unfinished(&parts) {
            Some(None) => Some(job.fatal.lock().clone().map(Ending::Failed)),
            unfinished => unfinished,
        };
        if let Some(ending) = unfinished {
            if ending.as_ref().is_some_and(leaves_nothing) && job.device(Side::Dest).is_none() {
                work.remove(file.temp.as_ref());
                self.errands.push(&place.dir, place.name.clone(), What::Removed(large_id));
            }
            return Ok(ending);
        }
        let crc64 = finished(&parts).1.expect("I7: every part of a file passes through a lane");
        // The route holds the file, too: closing it is what tells of errors on some file systems.
        drop(parts);
        if object.crc64.is_some_and(|told| told != crc64) {
            work.remove(file.temp.as_ref());
            self.abandon(download.errand, large_id);
            return Err(corrupt(&download.key));
        }
        if let Err(error) = settle_size(&work, &file) {
            work.remove(file.temp.as_ref());
            return Err(error);
        }
        let mut copied = work.finish(file, 0, Count::FilesCopied)?;
        copied.large_id = large_id;
        copied.checksum = Some(download.checksum(crc64));
        Ok(Some(Ending::Copied(Box::new(copied))))
    }
}

/// The parts in order, and the checksum of the whole if all of it passed through lanes.
fn finished(parts: &Parts) -> (Vec<Part>, Option<u64>) {
    let mut progress = parts.progress.lock();
    let mut list = std::mem::take(&mut progress.parts);
    list.sort_by_key(|part| part.number);
    let crc64 = (progress.digested == parts.size).then(|| progress.assembly.finish(parts.size));
    (list, crc64)
}

/// Whether a recorded range is this part of the upload, with this content.
fn is_recorded(range: &Range, part: &Part, part_bytes: u64) -> bool {
    let is_place = part.number > 0 && range.offset == u64::from(part.number - 1) * part_bytes;
    let is_content = part.crc64 == 0 || range.crc64.is_none_or(|crc64| crc64 == part.crc64);
    is_place && range.len == part.len && range.etag == Some(hash(&part.etag)) && is_content
}

/// Whether a recorded range is exactly one part.
fn is_part(range: &Range, part_bytes: u64, size: u64) -> bool {
    range.offset.is_multiple_of(part_bytes) && range.offset < size && range.len == part_bytes.min(size - range.offset)
}

/// The checksum of an object all of whose parts are recorded, and `Some(None)` if not all of theirs are known.
fn checksum_of_all(ranges: &[Range], part_bytes: u64, size: u64) -> Option<Option<u64>> {
    let parts: BTreeMap<u64, &Range> =
        ranges.iter().filter(|range| is_part(range, part_bytes, size)).map(|range| (range.offset, range)).collect();
    if parts.len() as u64 != size.div_ceil(part_bytes) {
        return None;
    }
    let mut assembly = Assembly::default();
    for range in parts.values() {
        let Some(crc64) = range.crc64 else { return Some(None) };
        assembly.add(range.offset, range.len, crc64);
    }
    Some(Some(assembly.finish(size)))
}

/// The bytes of an object are not those its checksum is of.
pub(super) fn corrupt(key: &Key) -> Error {
    let cause = Cause::Transfer("its content is not what its checksum says".to_owned());
    Error { verb: "read", object: key.as_str().as_bytes().to_vec(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_enough_and_whole_mebibytes() {
        assert_eq!(part_bytes(20 << 20, None), 8 << 20);
        assert_eq!(part_bytes(1 << 30, None), 16 << 20);
        assert_eq!(part_bytes(64 << 20, Some(5 << 20)), 5 << 20);
        let huge = 5u64 << 40;
        assert!(huge.div_ceil(part_bytes(huge, Some(5 << 20))) <= 10_000);
    }

    #[test]
    fn an_object_is_whole_when_each_of_its_parts_is_recorded() {
        let part = |offset, len, crc64| Range { offset, len, crc64, etag: Some(1) };
        let content = b"0123456789abcdefghijklmno";
        let crc = |at: std::ops::Range<usize>| Some(crate::digest::crc64(&content[at]));
        let all = [part(10, 10, crc(10..20)), part(0, 10, crc(0..10)), part(20, 5, crc(20..25))];
        assert_eq!(checksum_of_all(&all, 10, 25), Some(crc(0..25)));
        assert_eq!(checksum_of_all(&all[1..], 10, 25), None, "one is missing");
        assert_eq!(checksum_of_all(&[all[0], all[1], all[1]], 10, 25), None, "one is missing, and one is there twice");
        assert_eq!(checksum_of_all(&[all[0], all[1], part(20, 4, None)], 10, 25), None, "one is too short");
        assert_eq!(checksum_of_all(&[all[0], all[1], part(20, 5, None)], 10, 25), Some(None), "the server's own copy");
    }

    #[test]
    fn a_part_counts_only_if_catalog_and_server_agree() {
        let part = Part { number: 2, etag: "x".into(), len: 10, crc64: 7 };
        let range = Range { offset: 10, len: 10, crc64: Some(7), etag: Some(hash("x")) };
        assert!(is_recorded(&range, &part, 10));
        assert!(is_recorded(&range, &Part { crc64: 0, ..part.clone() }, 10), "the server tells no checksum");
        assert!(!is_recorded(&Range { etag: Some(hash("y")), ..range }, &part, 10));
        assert!(!is_recorded(&Range { crc64: Some(8), ..range }, &part, 10));
        assert!(!is_recorded(&Range { len: 9, ..range }, &part, 10));
        assert!(!is_recorded(&range, &Part { number: 1, ..part }, 10));
        assert!(is_part(&Range { offset: 20, len: 5, ..range }, 10, 25) && !is_part(&range, 8, 25));
    }
}
