//! A lane's file operations: tokio-uring where the kernel allows it, else a pool of threads.
//!
//! The one place that knows tokio-uring. An operation is never dropped before it is done (I3): nothing here is put into
//! a select or a timeout, and a lane waits for all its tasks before its runtime ends.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::OnceLock;

use super::Lane;
use super::buffers::Buffer;
use crate::config::{ANSWER_BYTES, SLICES_BYTES};
use crate::error::Errno;
use crate::job::Job;
use crate::provider::posix::Posix;
use crate::report::Activity;
use crate::ring::{Handle, Side, refusal};

/// Who does a lane's reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// A ring of the lane's own.
    Ring,
    /// tokio's pool of blocking threads.
    Threads,
}

/// What a lane with a ring of its own runs on. Nothing where the kernel refuses memory for one, which is said once.
pub(super) fn ring_runtime(job: &Job, refused: &OnceLock<String>) -> Option<tokio_uring::Runtime> {
    let make = || {
        let made = tokio_uring::Runtime::new(&tokio_uring::builder());
        made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    };
    let made = refusal::ask_for(make);
    if let Err(why) = &made
        && refused.set(why.clone()).is_ok()
    {
        job.console.note(&format!("gfast: files are read and written by plain system calls: {why}"));
    }
    made.ok()
}

/// An open file of one lane.
#[derive(Clone)]
pub(super) enum LaneFile {
    /// On the ring.
    Ring(Rc<tokio_uring::fs::File>),
    /// For a thread of the pool.
    Threads(std::sync::Arc<File>),
}

impl Disk {
    /// A file of this lane's own over an open file: the descriptor is duplicated.
    pub fn open(self, handle: &Handle) -> Result<LaneFile, Errno> {
        let file = File::from(rustix::io::fcntl_dupfd_cloexec(&**handle, 0)?);
        Ok(match self {
            Disk::Ring => LaneFile::Ring(Rc::new(tokio_uring::fs::File::from_std(file))),
            Disk::Threads => LaneFile::Threads(std::sync::Arc::new(file)),
        })
    }
}

impl LaneFile {
    /// Reads `len` bytes at `offset` into the empty `buffer`; fewer only at the end of the file. Ends: every turn reads
    /// at least a byte.
    pub async fn read(&self, buffer: &mut Buffer, offset: u64, len: usize) -> Result<(), Errno> {
        while buffer.bytes().len() < len {
            let done = buffer.bytes().len();
            let (bytes, start) = buffer.lend();
            let (read, bytes) = self.read_once(bytes, start + done, len - done, offset + done as u64).await;
            buffer.put_back(bytes);
            match read {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    async fn read_once(
        &self,
        bytes: Vec<u8>,
        start: usize,
        len: usize,
        offset: u64,
    ) -> (Result<usize, Errno>, Vec<u8>) {
        use tokio_uring::buf::BoundedBuf;
        match self {
            LaneFile::Ring(file) => {
                let (read, slice) = file.read_at(bytes.slice(start..start + len), offset).await;
                (read.map_err(errno_of), slice.into_inner())
            }
            LaneFile::Threads(file) => {
                let file = file.clone();
                blocking(bytes, move |bytes| {
                    bytes.resize(start + len, 0);
                    let read = file.read_at(&mut bytes[start..], offset).map_err(errno_of);
                    bytes.truncate(start + read.unwrap_or(0));
                    read
                })
                .await
            }
        }
    }

    /// Writes all of `buffer` at `offset`. Ends: every turn writes at least a byte.
    pub async fn write(&self, buffer: &mut Buffer, offset: u64) -> Result<(), Errno> {
        let mut written = 0;
        while written < buffer.bytes().len() {
            let (bytes, start) = buffer.lend();
            let (count, bytes) = self.write_once(bytes, start + written, offset + written as u64).await;
            buffer.put_back(bytes);
            match count {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => written += count,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    async fn write_once(&self, bytes: Vec<u8>, start: usize, offset: u64) -> (Result<usize, Errno>, Vec<u8>) {
        use tokio_uring::buf::BoundedBuf;
        match self {
            LaneFile::Ring(file) => {
                let (written, slice) = file.write_at(bytes.slice(start..), offset).submit().await;
                (written.map_err(errno_of), slice.into_inner())
            }
            LaneFile::Threads(file) => {
                let file = file.clone();
                blocking(bytes, move |bytes| file.write_at(&bytes[start..], offset).map_err(errno_of)).await
            }
        }
    }
}

impl Lane {
    /// Memory for `len` bytes, waited for within the budget.
    pub(super) async fn memory(&self, len: usize) -> Buffer {
        let _starved = self.busy.turn_to(Activity::NoWork);
        self.common.pool.acquire(len, 0).await
    }

    /// Memory for a slice of a part that is sent as it is read. [`Lane::set_slices_apart`] was called before.
    pub(super) async fn slice(&self, len: usize) -> Buffer {
        let _starved = self.busy.turn_to(Activity::NoWork);
        let slices = self.common.slices.get().unwrap_or(&self.common.pool);
        slices.acquire(len, 0).await
    }

    /// Sets memory for slices apart, before the first of them is wanted by somebody who has a place under a throttle.
    pub(super) async fn set_slices_apart(&self) {
        let _starved = self.busy.turn_to(Activity::NoWork);
        self.common.slices.get_or_init(|| self.common.pool.split(SLICES_BYTES)).await;
    }

    /// The same for the body of an answer, of which the HTTP client holds some as well: what it reads at a time, and
    /// what it has read and not handed over yet.
    pub(super) async fn memory_for_answer(&self, len: usize) -> Buffer {
        let _starved = self.busy.turn_to(Activity::NoWork);
        self.common.pool.acquire(len, len.min(ANSWER_BYTES)).await
    }

    /// Reads `len` bytes of a file of the source into an empty buffer.
    pub(super) async fn read(&self, file: &LaneFile, buffer: &mut Buffer, at: u64, len: usize) -> Result<(), Errno> {
        let _reading = self.busy.turn_to(Activity::ReadSource);
        file.read(buffer, at, len).await
    }

    /// Writes all of a buffer to a file of the destination.
    pub(super) async fn write(&self, file: &LaneFile, buffer: &mut Buffer, at: u64) -> Result<(), Errno> {
        let _writing = self.busy.turn_to(Activity::WriteDest);
        file.write(buffer, at).await
    }

    /// Closes this lane's descriptor of a file of the destination, of which there is no other clone. A FUSE daemon may
    /// say once, to whoever closes a descriptor first, that it could not keep what was written.
    pub(super) async fn close(&self, file: LaneFile) -> Result<(), Errno> {
        let _writing = self.busy.turn_to(Activity::WriteDest);
        match file {
            LaneFile::Ring(file) => match Rc::try_unwrap(file) {
                Ok(file) => file.close().await.map_err(errno_of),
                Err(_) => Ok(()),
            },
            LaneFile::Threads(file) => match std::sync::Arc::try_unwrap(file) {
                Ok(file) => Posix::new(&*self.errands.caller, Side::Dest).close(std::sync::Arc::new(file.into())),
                Err(_) => Ok(()),
            },
        }
    }
}

/// Runs `work` on a thread of the pool, lending it `bytes`.
async fn blocking<T: Send + 'static>(
    mut bytes: Vec<u8>,
    work: impl FnOnce(&mut Vec<u8>) -> T + Send + 'static,
) -> (T, Vec<u8>) {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut bytes);
        (result, bytes)
    });
    match done.await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn errno_of(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
