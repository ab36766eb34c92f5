//! Parts that are too large for a buffer: read slice by slice while they are sent.
//!
//! ```text
//! file, or ranged GET -> slice -> CRC64 -> body of UploadPart        one task, both halves: each waits for the other
//! ```
//! Between two slices it rests when the streams are lowered or the job is paused: it may be gigabytes.
//! Memory is a few slices a part, whatever its size (I4), and none that others keep who wait for this part's place
//! under the throttle (buffers.rs). A request that is sent again reads the part again, and the checksum is that of the
//! attempt that was answered. It cannot go along as a header, because that is sent first; a server that wants it there
//! costs a reading before the one that is sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Lane;
use super::breaks::Breaks;
use super::buffers::Buffer;
use super::disk::LaneFile;
use super::parts::{Parts, Route, changed, cut_short};
use crate::config::{PART_BYTES_LARGE, SLICE_BYTES};
use crate::error::{Cause, Error, Result};
use crate::provider::s3::{self, ByteRange, Demand, Download, Key, Part};
use crate::report::{Count, Meter};

/// Time after which a part that rests sends a byte: servers close a connection on which nothing comes (AWS after 20 s),
/// and the part would have to be sent again.
const REST_BYTE_TIME: Duration = Duration::from_secs(8);
/// Time between two looks whether a part whose slices wait for the connection is to rest.
const REST_LOOK: Duration = Duration::from_millis(20);
/// Bytes of a slice under a limit: up to three of them go their way before a part comes to rest.
const SLICE_BYTES_LIMITED: usize = 128 << 10;

/// A part that is read from its start to its end.
struct Reading<'a> {
    /// Who reads.
    lane: &'a Lane,
    /// What it is a part of.
    parts: &'a Parts,
    /// The file, where it is one.
    file: Option<&'a LaneFile>,
    /// What is still to be read.
    rest: ByteRange,
    /// The body of the object's range, while it arrives.
    body: Option<Download>,
    /// What has arrived beyond the last slice.
    left: Bytes,
    /// Why the body is gone, if it broke off.
    broken: Option<Error>,
    /// How often it did, of the bytes from there on.
    breaks: (Breaks, u64),
}

/// Whether a part is sent as it is read.
pub(super) fn is_streamed(range: ByteRange) -> bool {
    range.len > PART_BYTES_LARGE
}

impl Lane {
    /// Sends a part of an upload as it is read; the upload's part, and the checksum of what was sent. `None` if the
    /// job was stopped: then nobody waits until gigabytes are through.
    pub(super) async fn stream_part(
        &self,
        parts: &Parts,
        file: Option<&LaneFile>,
        (number, range): (u32, ByteRange),
        meter: &Arc<Meter>,
    ) -> Result<Option<(Part, u64)>> {
        let (Route::Up { key, upload, .. } | Route::Across { key, upload, .. }) = &parts.route else {
            return Ok(None);
        };
        self.set_slices_apart().await;
        let told = match self.dest().wants_part_checksums(key, upload, number).await? {
            true => match self.measure(parts, file, range).await? {
                Some(crc64) => Some(crc64),
                None => return Ok(None),
            },
            false => None,
        };
        let (supply, demand) = s3::supply(range.len, Some(meter.clone()));
        let sending = self.dest().stream_part(key, upload, number, supply, told);
        // Neither half is dropped before it is done: a read may be under way in the other (I3).
        let (sent, read) = tokio::join!(sending, self.feed(parts, file, range, demand));
        match (sent, read?) {
            (_, Fed::Stopped) => Ok(None),
            (Ok(part), Fed::Whole(crc64)) if part.crc64 == 0 || part.crc64 == crc64 => Ok(Some((part, crc64))),
            (Ok(_), _) => {
                let cause = Cause::Transfer("the server stored another part than was sent".to_owned());
                Err(Error { verb: "write a part of", object: key.as_str().as_bytes().to_vec(), cause })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Reads a part for its checksum alone; `None` if the job was stopped.
    async fn measure(&self, parts: &Parts, file: Option<&LaneFile>, range: ByteRange) -> Result<Option<u64>> {
        let mut reading = Reading::new(self, parts, file, range);
        let mut digest = crc64fast_nvme::Digest::new();
        // Ends: every slice brings the end nearer.
        while let Some(slice) = reading.next(SLICE_BYTES).await? {
            if self.job().walker.is_stopped() {
                return Ok(None);
            }
            digest.write(slice.bytes());
        }
        self.errands.counters.add(Count::PartsReadTwice, 1);
        Ok(Some(digest.sum64()))
    }

    /// Reads a part for every attempt of its request. Ends: attempts are bounded, and end with the request.
    async fn feed(&self, parts: &Parts, file: Option<&LaneFile>, range: ByteRange, mut demand: Demand) -> Result<Fed> {
        let mut fed = Fed::InPart;
        while let Some(mut taker) = demand.next().await {
            fed = Fed::InPart;
            while self.rests(parts) {
                tokio::time::sleep(super::IDLE).await;
            }
            let mut reading = Reading::new(self, parts, file, range);
            let mut digest = crc64fast_nvme::Digest::new();
            let mut is_going = taker.begin().await;
            let is_taken = loop {
                if !is_going {
                    break false;
                }
                let len = self.rest(parts).await;
                // What has been handed over whole is waited for.
                let Some(slice) = reading.next(len).await? else { break true };
                if self.job().walker.is_stopped() {
                    return Ok(Fed::Stopped);
                }
                digest.write(slice.bytes());
                // A limit may make that long. The stream is given back meanwhile, if that is asked for.
                while tokio::time::timeout(REST_LOOK, taker.room()).await.is_err() {
                    self.rests(parts);
                }
                is_going = taker.send(slice.into_body()).await;
            };
            if is_taken {
                fed = Fed::Whole(digest.sum64());
            }
        }
        Ok(fed)
    }
}

impl Lane {
    /// Whether a part waits, because the streams were lowered or the job is paused. A job that is stopped does not; nor
    /// does a part whose place under a throttle somebody else needs, who may be the one it would wait for.
    fn rests(&self, parts: &Parts) -> bool {
        let (gate, walker) = (&self.job().gate, &self.job().walker);
        let is_busy = || [&self.dest, &self.source].into_iter().flatten().any(|client| client.bucket().is_busy());
        let is_needed = || !gate.is_paused() && is_busy();
        parts.stream.rests(gate) && !walker.is_stopped() && !is_needed()
    }

    /// Waits while a part rests; the length of the slice that may go then. It holds no memory meanwhile, which others
    /// need to end.
    async fn rest(&self, parts: &Parts) -> usize {
        let began = Instant::now();
        while self.rests(parts) {
            if began.elapsed() >= REST_BYTE_TIME {
                return 1;
            }
            tokio::time::sleep(super::IDLE).await;
        }
        // What is on its way when it comes to rest goes on its way.
        if self.job().gate.limits.bytes.get().is_some() { SLICE_BYTES_LIMITED } else { SLICE_BYTES }
    }
}

/// What the last attempt was given.
#[derive(Clone, Copy, Debug)]
enum Fed {
    /// All of the part, which has this checksum.
    Whole(u64),
    /// Not all of it.
    InPart,
    /// Not all of it, because the job was stopped.
    Stopped,
}

impl<'a> Reading<'a> {
    fn new(lane: &'a Lane, parts: &'a Parts, file: Option<&'a LaneFile>, range: ByteRange) -> Reading<'a> {
        let breaks = (Breaks::new(range.offset), range.offset);
        Reading { lane, parts, file, rest: range, body: None, left: Bytes::new(), broken: None, breaks }
    }

    /// The next slice, of up to `len` bytes; `None` at the end of the part.
    async fn next(&mut self, len: usize) -> Result<Option<Buffer>> {
        let len = self.rest.len.min(len as u64) as usize;
        if len == 0 {
            return Ok(None);
        }
        let slice = match (&self.parts.route, self.file) {
            (Route::Across { source_key, etag, .. }, _) => self.receive(source_key, etag, len).await?,
            (route, Some(file)) => {
                let mut slice = self.lane.slice(len).await;
                let wanted = (self.rest.offset, len);
                let earlier = if let Route::Up { earlier, .. } = route { earlier.as_ref() } else { None };
                let from = (&self.parts.place, file);
                self.parts.miss(self.lane.read_source(from, &mut slice, wanted, earlier).await?);
                if slice.bytes().len() < len {
                    return Err(self.lane.unstable(&self.parts.place));
                }
                slice
            }
            (_, None) => return Ok(None),
        };
        let len = slice.bytes().len() as u64;
        self.rest = ByteRange { offset: self.rest.offset + len, len: self.rest.len - len };
        Ok(Some(slice))
    }

    /// A slice of the object. A body that broke off is asked for again from where it did, by the next slice: this one
    /// ends there, since nobody who has one waits for a place. Ends: every turn brings bytes or is a break, and breaks
    /// are bounded.
    async fn receive(&mut self, key: &Key, etag: &str, len: usize) -> Result<Buffer> {
        loop {
            if self.rest.offset >= self.breaks.1 + SLICE_BYTES as u64 {
                self.breaks = (Breaks::new(self.rest.offset), self.rest.offset);
            }
            if let Some(error) = self.broken.take()
                && !self.lane.wait_after_break(&mut self.breaks.0, &error).await
            {
                return Err(error);
            }
            self.broken = self.open(key, etag).await.err();
            if self.broken.is_some() {
                continue;
            }
            let mut slice = self.lane.slice(len).await;
            self.broken = self.fill(&mut slice, key, len).await.err();
            if !slice.bytes().is_empty() {
                return Ok(slice);
            }
        }
    }

    /// Asks for what has not arrived, unless it is on its way.
    async fn open(&mut self, key: &Key, etag: &str) -> Result<()> {
        if self.body.is_none() && self.left.is_empty() {
            let body = self.lane.source().get(key, Some(self.rest), Some(etag)).await?;
            if body.object.size != self.parts.size {
                return Err(changed(key));
            }
            self.body = Some(body);
        }
        Ok(())
    }

    /// Fills a slice of `len` bytes from the body, which is gone if it breaks off.
    async fn fill(&mut self, slice: &mut Buffer, key: &Key, len: usize) -> Result<()> {
        // Ends: every turn brings bytes.
        while slice.bytes().len() < len {
            let mut piece = match (self.left.is_empty(), &mut self.body) {
                (false, _) => std::mem::take(&mut self.left),
                (true, None) => return Err(cut_short(key)),
                (true, Some(body)) => match body.chunk().await {
                    Ok(Some(piece)) => piece,
                    ended => {
                        self.body = None;
                        return Err(ended.err().unwrap_or_else(|| cut_short(key)));
                    }
                },
            };
            self.left = piece.split_off(piece.len().min(len - slice.bytes().len()));
            self.lane.spend(piece.len()).await;
            slice.append(&piece);
        }
        Ok(())
    }
}
