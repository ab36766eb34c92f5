//! Bad sectors of a device on its way into a bucket: read around as a shard does (large/salvage.rs), with zeros in
//! their place, or what an earlier run of the job has read of them and stored. What is missing is told at the end, and
//! by no part that a resume takes for done.

use crate::config::BadSectors;
use crate::error::{Cause, Errno, Error, Result};
use crate::extents::Extents;
use crate::job::Place;
use crate::large::salvage::{Failed, is_of_medium, read_around};
use crate::provider::s3::{ByteRange, Key, Object, Stored};
use crate::ring::syscalls::Kernel;
use crate::ring::{FixedBuffers, Handle, Side};
use crate::transfer::{Ending, source_error};

use super::buffers::Buffer;
use super::disk::LaneFile;
use super::parts::cut_short;
use super::{Lane, hash};

/// Bytes that are read around at a time.
const STEP_BYTES: u64 = 1 << 20;

/// What could not be read, and what the kernel said of it last.
pub(super) type Missing = Option<(Errno, Extents)>;

/// The object that an earlier run of the job has made of a device, as far as it could be read: its key and its ETag.
pub(super) type Earlier = (Key, String);

impl Lane {
    /// Reads `len` bytes of the source into an empty buffer; fewer only at its end. Where a device cannot be read there
    /// is what an earlier run has stored, else zeros, if that is asked for, and what is missing is told.
    pub(super) async fn read_source(
        &self,
        (place, file): (&Place, &LaneFile),
        buffer: &mut Buffer,
        (at, len): (u64, usize),
        earlier: Option<&Earlier>,
    ) -> Result<Missing> {
        let Err(errno) = self.read(file, buffer, at, len).await else { return Ok(None) };
        let job = self.job();
        let failed = |errno| source_error(job, place, "read", errno);
        let device = job.device(Side::Source).filter(|_| is_of_medium(errno)).ok_or_else(|| failed(errno))?;
        let (medium, grain) = (device.direct.clone(), u64::from(device.block_bytes()));
        buffer.clear();
        let (mut missing, mut offset, end) = (Extents::default(), at, at + len as u64);
        // Ends: every turn reads a step.
        while offset < end {
            let step = (offset, STEP_BYTES.min(end - offset));
            let medium = medium.clone();
            let (mut bytes, bad) = on_thread(move || salvage(&medium, grain, step)).await.map_err(failed)?;
            if let Some(earlier) = earlier.filter(|_| !bad.is_empty()) {
                self.recall(earlier, offset, &mut bytes, &bad).await?;
            }
            buffer.append(&bytes);
            missing.extend(&bad);
            offset += step.1;
        }
        match job.config.devices.bad_sectors {
            _ if missing.is_empty() => Ok(None),
            BadSectors::Skip => {
                job.unreadable.lock().extend(&missing);
                Ok(Some((errno, missing)))
            }
            BadSectors::Fail => {
                let object = place.path(job, Side::Source);
                Err(Error { verb: "read", object, cause: Cause::BadSectors(errno, missing) })
            }
        }
    }

    /// The object that an earlier run of the job has stored of a device, for what cannot be read any more.
    pub(super) async fn earlier(&self, key: &Key, size: u64) -> Result<Option<Earlier>> {
        let job = self.job();
        let standing = job.standing.id();
        if standing == 0 || job.config.devices.bad_sectors == BadSectors::Fail {
            return Ok(None);
        }
        let object = self.dest().head(key).await?;
        let is_it = |object: &Object| hash(&object.etag) == standing && object.size == size;
        Ok(object.filter(is_it).map(|object| (key.clone(), object.etag)))
    }

    /// Puts what an earlier run has stored where `bytes`, from `at` on, could not be read. A part that is sent as it is
    /// read has a place meanwhile, and a slice: so it takes none (buffers.rs).
    async fn recall(&self, (key, etag): &Earlier, at: u64, bytes: &mut [u8], bad: &Extents) -> Result<()> {
        let first = bad.iter().next().map_or(at, |(offset, _)| offset);
        let end = bad.iter().last().map_or(at, |(offset, len)| offset + len);
        let range = ByteRange { offset: first, len: end - first };
        let (mut body, mut stored) = (self.dest().get_beside(key, range, etag).await?, Vec::new());
        // Ends: the body does.
        while let Some(chunk) = body.chunk().await? {
            stored.extend_from_slice(&chunk);
        }
        if stored.len() as u64 != range.len {
            return Err(cut_short(key));
        }
        for (offset, len) in bad.iter() {
            let (from, to) = ((offset - first) as usize, (offset - at) as usize);
            bytes[to..to + len as usize].copy_from_slice(&stored[from..from + len as usize]);
        }
        Ok(())
    }

    /// How an object ends that has zeros where the source could not be read: what there is stays, and it has failed.
    pub(super) fn stored_in_part(&self, place: &Place, missing: Missing, stored: &Stored) -> Option<Ending> {
        let (errno, extents) = missing?;
        let id = hash(&stored.etag);
        self.job().standing.set(id, id);
        let object = place.path(self.job(), Side::Source);
        Some(Ending::Failed(Error { verb: "read", object, cause: Cause::Unreadable(errno, extents) }))
    }
}

/// `len` bytes from `at` on with zeros where a device cannot be read, and what lies there.
fn salvage(medium: &Handle, grain: u64, (at, len): (u64, u64)) -> std::result::Result<(Vec<u8>, Extents), Errno> {
    // Past the page cache only whole blocks are read.
    let (start, end) = (at / grain * grain, (at + len).next_multiple_of(grain));
    let bytes = (end - start) as usize;
    let mut buffers = FixedBuffers::new(1, bytes, bytes).map_err(|_| Errno::NOMEM)?;
    let caller = Kernel::new(buffers.arena().clone());
    let lease = buffers.acquire(bytes).ok_or(Errno::NOMEM)?;
    let failed =
        Failed { file: medium, block: start, part: 0..bytes, wanted: bytes, grain: grain as usize, earlier: &[] };
    let (lease, read) = read_around(&caller, buffers.arena(), lease, &failed);
    let first = (at - start) as usize;
    let found = read.map(|missing| (buffers.arena().bytes(&lease)[first..first + len as usize].to_vec(), missing));
    buffers.release(lease);
    found
}

/// A disk that fails takes its time: the lane goes on meanwhile.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Adds what is missing of a part to what is missing of the whole.
pub(super) fn add_missing(all: &mut Missing, part: Missing) {
    if let Some((errno, extents)) = part {
        let (last, known) = all.get_or_insert_with(|| (errno, Extents::default()));
        *last = errno;
        known.extend(&extents);
    }
}
