//! A large object on its way, cut in parts that the tasks of all lanes take from one cursor.
//!
//! ```text
//! object  |  part 1  |  part 2  | ...     claimed by a cursor; recorded when it is where it should be
//! up      read from the file -> CRC64 -> UploadPart          down    ranged GET -> CRC64 -> written at its offset
//! across  UploadPartCopy on one server, else ranged GET -> CRC64 -> UploadPart
//! ```
//! A part is one buffer; one that is too large for that is sent as it is read (stream.rs).
//! The lane that opened the object waits until the last task has left, and then finishes it (large.rs). What earlier
//! runs did is settled from the start.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Lane;
use super::breaks::Breaks;
use super::disk::LaneFile;
use super::salvage::{Earlier, Missing, add_missing};
use super::stream::is_streamed;
use crate::catalog::Range;
use crate::config::PART_DEPTH;
use crate::digest::{Assembly, crc64};
use crate::error::{Cause, Error, Result};
use crate::gate::Stream;
use crate::job::Place;
use crate::outcome::What;
use crate::provider::s3::{ByteRange, Key, Part, Payload};
use crate::report::{Activity, Meter, Weight};
use crate::ring::{Handle, Side};
use crate::transfer::Ending;

/// Times a part whose bytes arrive wrong is sent again.
const CORRUPT_ATTEMPTS_MAX: u32 = 3;

/// A part that is where it should be: the upload's part, and the checksum of what passed here.
type Sent = (Option<Part>, Option<u64>);

/// Where the parts come from and go to.
#[derive(Debug)]
pub(super) enum Route {
    /// From a file into an upload.
    Up {
        /// The file.
        file: Handle,
        /// The object.
        key: Key,
        /// The upload.
        upload: String,
        /// What an earlier run has made of a device.
        earlier: Option<Earlier>,
    },
    /// From an object into a file.
    Down {
        /// The object.
        key: Key,
        /// Its state.
        etag: String,
        /// The file.
        file: Handle,
    },
    /// From an object into an upload.
    Across {
        /// The object that is read.
        source_key: Key,
        /// Its state.
        etag: String,
        /// The object that is written.
        key: Key,
        /// The upload.
        upload: String,
        /// Whether the server copies by itself.
        is_server_side: bool,
    },
}

/// A large object, shared by the lanes that work on it.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Where it is.
    pub(super) place: Place,
    /// Where the parts come from and go to.
    pub(super) route: Route,
    /// Bytes of the object.
    pub(super) size: u64,
    /// Bytes of every part but the last.
    pub(super) part_bytes: u64,
    /// Key of its ranges in the catalog.
    pub(super) large_id: u64,
    /// By index: parts that an earlier run did.
    pub(super) settled: Vec<bool>,
    /// Bytes that have passed, on their way included.
    passed: Arc<AtomicU64>,
    /// Next index to claim.
    next: AtomicU64,
    /// Tasks at work; 0 once it is being finished.
    workers: AtomicU32,
    /// Told when the last task has left.
    left: Notify,
    /// Its permit, which may be parked.
    pub(super) stream: Stream,
    /// What has been done.
    pub(super) progress: Mutex<Progress>,
}

/// What is done of a large object.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Checksums of the parts, combined.
    pub assembly: Assembly,
    /// Bytes that the assembly covers: with a server-side copy nobody here sees them.
    pub digested: u64,
    /// Parts of the upload.
    pub parts: Vec<Part>,
    /// Parts done, earlier runs' included.
    pub done: u64,
    /// What of the source could not be read and has zeros in its place.
    pub missing: Missing,
    /// The first thing that went wrong.
    pub trouble: Option<Ending>,
}

impl Parts {
    /// An object of `size` bytes whose parts `settled` are done, as `progress` says.
    pub(super) fn new(
        place: Place,
        route: Route,
        (size, part_bytes): (u64, u64),
        large_id: u64,
        (settled, progress): (Vec<bool>, Progress),
    ) -> Arc<Parts> {
        let passed = Arc::new(AtomicU64::new(size.min(progress.done * part_bytes)));
        Arc::new(Parts {
            passed,
            place,
            route,
            size,
            part_bytes,
            large_id,
            settled,
            next: AtomicU64::new(0),
            workers: AtomicU32::new(1),
            left: Notify::new(),
            stream: Stream::default(),
            progress: Mutex::new(progress),
        })
    }

    /// How many parts there are.
    pub fn count(&self) -> u64 {
        self.size.div_ceil(self.part_bytes)
    }

    /// Bytes that are done, those on their way included.
    pub(super) fn done_bytes(&self) -> u64 {
        self.passed.load(Ordering::Relaxed).min(self.size)
    }

    /// Whether no more parts are to be taken: all of them are, or one has failed.
    fn is_over(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.count() || self.progress.lock().trouble.is_some()
    }

    /// The next part to do, by index. Ends: the cursor rises.
    fn claim(&self) -> Option<u64> {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count() || self.progress.lock().trouble.is_some() {
                return None;
            }
            if !self.settled.get(index as usize).is_some_and(|settled| *settled) {
                return Some(index);
            }
        }
    }

    /// Takes note of what cannot be read.
    pub(super) fn miss(&self, missing: Missing) {
        add_missing(&mut self.progress.lock().missing, missing);
    }

    fn range(&self, index: u64) -> ByteRange {
        let offset = index * self.part_bytes;
        ByteRange { offset, len: self.part_bytes.min(self.size - offset) }
    }

    /// Joins another lane to the work; false when it is being finished already.
    fn join(&self) -> bool {
        let joined = self.workers.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n > 0).then_some(n + 1));
        joined.is_ok()
    }

    fn leave(&self) {
        if self.workers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.left.notify_waiters();
        }
    }
}

impl Lane {
    /// Works on an object this lane opened, with the help of the others, until nobody does any more.
    pub(super) async fn work_on(self: &Rc<Lane>, parts: &Arc<Parts>) {
        for _ in 1..self.job().gate.workers() {
            self.common.help.push(parts.clone());
            self.job().walker.expect_help();
        }
        self.do_parts(parts).await;
        parts.leave();
        loop {
            let left = parts.left.notified();
            if parts.workers.load(Ordering::Acquire) == 0 {
                parts.stream.take_up(&self.job().gate);
                return;
            }
            left.await;
        }
    }

    /// Joins another lane's work.
    pub(super) async fn help_with(self: Rc<Lane>, parts: Arc<Parts>) {
        if parts.join() {
            self.do_parts(&parts).await;
            parts.leave();
        }
        self.job().walker.complete();
    }

    /// Does parts in depth until there are none.
    async fn do_parts(self: &Rc<Lane>, parts: &Arc<Parts>) {
        let file = match &parts.route {
            Route::Up { file, .. } | Route::Down { file, .. } => match self.disk.open(file) {
                Ok(file) => Some(file),
                Err(errno) => {
                    let side = if matches!(parts.route, Route::Up { .. }) { Side::Source } else { Side::Dest };
                    self.trouble(parts, parts.place.error(self.job(), side, "open", errno));
                    return;
                }
            },
            Route::Across { .. } => None,
        };
        // The object waits for its parts, each of which says what it waits for.
        let _waits = self.busy.turn_to(Activity::NoWork);
        let tasks: Vec<_> = (0..PART_DEPTH)
            .map(|nth| {
                let (lane, parts, file) = (self.clone(), parts.clone(), file.clone());
                tokio::task::spawn_local(async move { lane.do_part_after_part(&parts, file.as_ref(), nth).await })
            })
            .collect();
        for task in tasks {
            if let Err(failed) = task.await {
                std::panic::resume_unwind(failed.into_panic());
            }
        }
        if let Some(file) = file.filter(|_| matches!(parts.route, Route::Down { .. }))
            && let Err(errno) = self.close(file).await
        {
            self.trouble(parts, parts.place.error(self.job(), Side::Dest, "close", errno));
        }
    }

    /// The `nth` task of this lane at an object.
    async fn do_part_after_part(&self, parts: &Parts, file: Option<&LaneFile>, nth: usize) {
        let gate = &self.job().gate;
        // Ends: every turn claims a part.
        loop {
            while self.errands.intake.is_full() || nth >= gate.limit() as usize || parts.stream.rests(gate) {
                if self.job().walker.is_stopped() || parts.is_over() {
                    return;
                }
                tokio::time::sleep(super::IDLE).await;
            }
            while let Err(wait) = gate.limits.ops.wait() {
                tokio::time::sleep(wait.min(super::SPEND_TIME_MAX)).await;
            }
            if self.job().walker.is_stopped() {
                return;
            }
            gate.limits.ops.charge(1);
            let Some(index) = parts.claim() else { return };
            let _waits = self.busy.begin(Activity::Requests);
            if let Err(error) = self.do_part(parts, file, index).await {
                self.trouble(parts, error);
                return;
            }
        }
    }

    fn trouble(&self, parts: &Parts, error: Error) {
        parts.progress.lock().trouble.get_or_insert_with(|| crate::transfer::ending_of(error));
    }

    /// One part, and once more where its bytes came out wrong or broke off. Ends: attempts are bounded.
    async fn do_part(&self, parts: &Parts, file: Option<&LaneFile>, index: u64) -> Result<()> {
        let range = parts.range(index);
        let meter = Meter::of_part(self.errands.counters.clone(), parts.passed.clone());
        let started = Instant::now();
        let (mut attempt, mut breaks) = (1, Breaks::new(range.offset));
        let done = loop {
            match self.try_part(parts, file, (index, range), &meter).await {
                Err(error) if self.wait_after_break(&mut breaks, &error).await => {
                    self.job().failures.causes.note(Weight::Retry, &error.cause);
                }
                Err(error) if self.is_left(&error) => return Ok(()),
                Err(error) if super::is_wrong(&error) && attempt < CORRUPT_ATTEMPTS_MAX => {
                    self.job().failures.causes.note(Weight::Retry, &error.cause);
                    attempt += 1;
                }
                done => break done?,
            }
        };
        let Some((part, crc64)) = done else { return Ok(()) };
        let etag = part.as_ref().map(|part| super::hash(&part.etag));
        let mut progress = parts.progress.lock();
        progress.done += 1;
        progress.parts.extend(part);
        if let Some(crc64) = crc64 {
            progress.assembly.add(range.offset, range.len, crc64);
            progress.digested += range.len;
        }
        // The map of what is missing has to be whole: a resume reads such a part again.
        let is_whole = !progress.missing.as_ref().is_some_and(|(_, all)| all.touch(range.offset, range.len));
        drop(progress);
        let range = Range { offset: range.offset, len: range.len, crc64, etag };
        meter.finish(range.len);
        self.time(started.elapsed());
        if let Route::Down { file, .. } = &parts.route {
            self.job().note_unsynced(parts.large_id, file);
        }
        if is_whole {
            let (dir, name) = (&parts.place.dir, parts.place.name.clone());
            self.errands.push(dir, name, What::Written(parts.large_id, range));
        }
        self.errands.intake.add_bytes(range.len);
        Ok(())
    }

    /// Sends one part. `None` if the job was stopped meanwhile.
    async fn try_part(
        &self,
        parts: &Parts,
        file: Option<&LaneFile>,
        (index, range): (u64, ByteRange),
        meter: &Arc<Meter>,
    ) -> Result<Option<Sent>> {
        let number = index as u32 + 1;
        match &parts.route {
            Route::Up { .. } | Route::Across { is_server_side: false, .. } if is_streamed(range) => {
                let sent = self.stream_part(parts, file, (number, range), meter).await?;
                Ok(sent.map(|(part, crc64)| (Some(part), Some(crc64))))
            }
            Route::Up { key, upload, earlier, .. } => {
                let file = file.expect("I8: this route has a file");
                let mut buffer = self.memory(range.len as usize).await;
                let wanted = (range.offset, range.len as usize);
                let read = self.read_source((&parts.place, file), &mut buffer, wanted, earlier.as_ref()).await;
                parts.miss(read?);
                if (buffer.bytes().len() as u64) < range.len {
                    return Err(self.unstable(&parts.place));
                }
                let crc64 = crc64(buffer.bytes());
                let body = Payload::metered(buffer.into_body(), Some(meter.clone()));
                let part = self.dest().put_part(key, upload, number, body, crc64).await?;
                Ok(Some((Some(part), Some(crc64))))
            }
            Route::Down { key, etag, .. } => {
                let file = file.expect("I8: this route has a file");
                let mut buffer = self.memory_for_answer(range.len as usize).await;
                let crc64 = self.fetch((key, etag, parts.size), range, &mut buffer, meter).await?;
                let written = self.write(file, &mut buffer, range.offset).await;
                written.map_err(|errno| parts.place.error(self.job(), Side::Dest, "write", errno))?;
                Ok(Some((None, Some(crc64))))
            }
            Route::Across { source_key, etag, key, upload, is_server_side: true } => {
                let from = self.source().bucket();
                let part = self.dest().copy_part(from, source_key, etag, range, key, upload, number).await?;
                Ok(Some((Some(part), None)))
            }
            Route::Across { source_key, etag, key, upload, is_server_side: false } => {
                let mut buffer = self.memory_for_answer(range.len as usize).await;
                let crc64 = self.fetch((source_key, etag, parts.size), range, &mut buffer, meter).await?;
                let part = self.dest().put_part(key, upload, number, buffer.into_body(), crc64).await?;
                Ok(Some((Some(part), Some(crc64))))
            }
        }
    }

    /// Reads a range of an object of `size` bytes into an empty buffer; its checksum.
    async fn fetch(
        &self,
        (key, etag, size): (&Key, &str, u64),
        range: ByteRange,
        buffer: &mut super::buffers::Buffer,
        meter: &Meter,
    ) -> Result<u64> {
        let mut download = self.source().get(key, Some(range), Some(etag)).await?;
        if download.object.size != size {
            return Err(changed(key));
        }
        // Ends: the body does, or it is longer than it may be.
        while let Some(chunk) = download.chunk().await? {
            if buffer.bytes().len() + chunk.len() > range.len as usize {
                break;
            }
            self.spend(chunk.len()).await;
            buffer.append(&chunk);
            meter.reach(buffer.bytes().len() as u64);
        }
        match buffer.bytes().len() as u64 == range.len {
            true => Ok(crc64(buffer.bytes())),
            false => Err(cut_short(key)),
        }
    }

    /// The source is another one than it was when it was decided on.
    pub(super) fn unstable(&self, place: &Place) -> Error {
        let object = place.path(self.job(), Side::Source);
        Error { verb: "read", object, cause: Cause::Unstable { attempts: 1 } }
    }
}

/// The object is of another size than it was when its parts were laid out.
pub(super) fn changed(key: &Key) -> Error {
    Error { verb: "read", object: key.as_str().as_bytes().to_vec(), cause: Cause::Unstable { attempts: 1 } }
}

/// The body of an answer about an object has not the length that it was announced with.
pub(super) fn cut_short(key: &Key) -> Error {
    let cause = Cause::Cut("the body of the answer is not as long as it was announced".to_owned());
    Error { verb: "read", object: key.as_str().as_bytes().to_vec(), cause }
}
