//! Reads back what a batch wrote, once it is durable and before it is sealed and recorded.
//!
//! ```text
//! batch durable -> files that are due, in segments -> read past the page cache, on the sealing threads -> CRC64
//!    what was streamed     -> the record says so: ReadBack
//!    anything else         -> the file goes, the object has failed, nothing stays under its name (I2)
//!    none streamed         -> a clone under `--checksum`: its CRC64 is this one, for only writers change a clone
//! ```
//! Memory is a block a thread (I4). Where there is no O_DIRECT a file's pages are dropped before it is read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::catalog::{Checksum, Proof};
use crate::config::{ChecksumPolicy, Config, SEGMENT_BYTES};
use crate::digest::{Assembly, crc64};
use crate::error::{Cause, Errno, Error, Result, join};
use crate::job::Job;
use crate::outcome::{Outcome, What};
use crate::provider::block::Device;
use crate::provider::posix::{Posix, Verb};
use crate::report::Count;
use crate::ring::{Access, Arena, FixedBuffers, Handle, LEASE_ALIGN, Lease, Name, Side, Stat};
use crate::seal::Sealer;
use crate::transfer::Copied;
use crate::walk::DirNode;

/// Most threads that read back, each with a block.
const THREADS_MAX: usize = 16;
/// Most bytes of one read.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// The memory of those who read back.
pub(crate) struct Readback {
    /// It.
    arena: Arc<Arena>,
    /// A block for each thread.
    leases: Vec<Lease>,
}

/// A file to be read.
struct Due {
    /// Which outcome it is.
    index: usize,
    /// Its length in bytes.
    size: u64,
    /// What has been read of it.
    read: Mutex<Result<Assembly>>,
}

/// What all threads look at.
struct Round<'a> {
    arena: &'a Arena,
    outcomes: &'a [Outcome],
    dues: &'a [Due],
    /// Which file, and from where.
    segments: &'a [(usize, u64)],
    /// The next segment that nobody has taken.
    next: AtomicUsize,
}

/// The buffers that checkpoints on up to `threads` threads need.
pub(crate) fn buffers(config: &Config, threads: usize) -> Result<FixedBuffers> {
    match config.checksum {
        ChecksumPolicy::Free => FixedBuffers::new(1, LEASE_ALIGN, LEASE_ALIGN),
        ChecksumPolicy::Keep | ChecksumPolicy::ReadBack => {
            let block_bytes = config.block_bytes.min(BLOCK_BYTES_MAX);
            FixedBuffers::new(threads.clamp(1, THREADS_MAX), block_bytes, block_bytes)
        }
    }
}

/// The file of an outcome that is to be read, if it is.
fn due<'a>(job: &Job, outcome: &'a Outcome) -> Option<&'a Copied> {
    let What::Copied(copied) = &outcome.what else { return None };
    if job.dest.bucket.is_some() {
        return None;
    }
    let is_due = match (job.config.checksum, copied.count, &copied.checksum) {
        (ChecksumPolicy::Free, ..) => false,
        (ChecksumPolicy::Keep | ChecksumPolicy::ReadBack, Count::FilesCloned, None) => true,
        (ChecksumPolicy::ReadBack, Count::FilesCopied, Some(checksum)) => checksum.proof != Proof::ReadBack,
        _ => false,
    };
    is_due.then_some(copied)
}

impl Readback {
    /// Reads back into `buffers`, whose arena answers the sealers' operations.
    pub(crate) fn new(mut buffers: FixedBuffers) -> Readback {
        let mut leases = Vec::new();
        // Ends: the buffers do.
        while let Some(lease) = buffers.acquire(buffers.block_bytes()) {
            leases.push(lease);
        }
        Readback { arena: buffers.arena().clone(), leases }
    }

    /// Reads back what is due of a durable batch. What is not what was written is removed, and fails.
    pub(crate) fn run(&mut self, sealers: &mut [Sealer], outcomes: &mut [Outcome]) {
        let job = sealers[0].job.clone();
        let found = outcomes.iter().enumerate().filter_map(|(index, outcome)| Some((index, due(&job, outcome)?)));
        let dues: Vec<Due> = found
            .map(|(index, copied)| Due { index, size: copied.stamp.size, read: Mutex::new(Ok(Assembly::default())) })
            .collect();
        if dues.is_empty() {
            return;
        }
        let starts = |due: &Due| (0..due.size.max(1)).step_by(SEGMENT_BYTES as usize);
        let segments: Vec<(usize, u64)> =
            dues.iter().enumerate().flat_map(|(due, file)| starts(file).map(move |start| (due, start))).collect();
        let next = AtomicUsize::new(0);
        let round = Round { arena: &self.arena, outcomes, dues: &dues, segments: &segments, next };
        let leases = std::mem::take(&mut self.leases);
        self.leases = round.on_threads(sealers, leases);
        for Due { index, size, read } in dues {
            let outcome = &mut outcomes[index];
            if let Err(error) = settle(&job, outcome, read.into_inner(), size) {
                fail(&mut sealers[0], outcome, error);
            }
        }
    }
}

/// Notes in an outcome what its file turned out to be.
fn settle(job: &Job, outcome: &mut Outcome, read: Result<Assembly>, size: u64) -> Result<()> {
    let crc64 = read?.finish(size);
    let Outcome { dir, name, what: What::Copied(copied) } = outcome else { return Ok(()) };
    if copied.checksum.is_some_and(|written| written.crc64 != crc64) {
        let object = join(&job.path(Side::Dest, dir), job.dest_name(dir, name));
        let cause = Cause::Transfer("the destination gives back other bytes than were written".to_owned());
        return Err(Error { verb: "read back", object, cause });
    }
    let proof = if job.config.checksum == ChecksumPolicy::ReadBack { Proof::ReadBack } else { Proof::Written };
    copied.checksum = Some(Checksum { crc64, proof });
    Ok(())
}

/// Removes a file that is not what was written.
fn fail(sealer: &mut Sealer, outcome: &mut Outcome, error: Error) {
    let Outcome { dir, name, what: What::Copied(copied) } = outcome else { return };
    sealer.remove_unsealed(dir, name, copied);
    outcome.what = What::Failed { error, attempts: 1, group: copied.group };
}

impl Round<'_> {
    /// Reads all segments, on as many threads as there are blocks; gives the blocks back.
    fn on_threads(&self, sealers: &mut [Sealer], leases: Vec<Lease>) -> Vec<Lease> {
        let mut spare = leases;
        let mut at_work = spare.split_off(spare.len() - sealers.len().min(self.segments.len()).min(spare.len()));
        std::thread::scope(|scope| {
            let Some(own) = at_work.pop() else { return };
            let (first, others) = sealers.split_at_mut(1);
            let working: Vec<_> = others
                .iter_mut()
                .zip(at_work)
                .map(|(sealer, lease)| scope.spawn(move || self.work(sealer, lease)))
                .collect();
            spare.push(self.work(&mut first[0], own));
            for other in working {
                match other.join() {
                    Ok(lease) => spare.push(lease),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        spare
    }

    /// Reads segments until none is left.
    fn work(&self, sealer: &mut Sealer, mut lease: Lease) -> Lease {
        while let Some(&(index, start)) = self.segments.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let due = &self.dues[index];
            let Outcome { dir, name, what: What::Copied(copied) } = &self.outcomes[due.index] else { continue };
            let opened = match open_in(sealer, dir, name, copied) {
                Err(error) if error.is_stale() => {
                    sealer.forget(dir);
                    open_in(sealer, dir, name, copied)
                }
                opened => opened,
            };
            let read;
            (lease, read) = match opened {
                Ok(file) => {
                    let (lease, read) = self.read(sealer.dest(), file, lease, start, due);
                    let path = || join(&sealer.job.path(Side::Dest, dir), name);
                    (lease, read.map_err(|errno| Error::os("read back", path(), errno)))
                }
                Err(error) => (lease, Err(error)),
            };
            if let Err(error) = read {
                *due.read.lock() = Err(error);
            }
        }
        lease
    }

    /// Reads the segment from `start` on. Ends: every turn reads a block, or passes a hole.
    fn read(&self, dest: Posix<'_>, mut file: File, mut lease: Lease, start: u64, due: &Due) -> (Lease, Verb<()>) {
        let end = (start + SEGMENT_BYTES).min(due.size);
        let block = lease.capacity() as u64;
        let mut at = start;
        while at < end {
            if file.is_sparse {
                match dest.next_data(&file.plain, at) {
                    Ok(Some((data, _))) => at = at.max(data / block * block),
                    Ok(None) => return (lease, Ok(())),
                    Err(errno) => return (lease, Err(errno)),
                }
            }
            if at >= end {
                break;
            }
            let wanted = block.min(end - at) as usize;
            let read;
            (lease, read) = match &file.direct {
                Some(direct) => dest.read_all(direct, file.align, lease, wanted, at),
                None => dest.read_all(&file.plain, 1, lease, wanted, at),
            };
            match read {
                // A device or file system that refuses O_DIRECT only when it comes to it.
                Err(Errno::INVAL) if file.direct.take().is_some() => {
                    if let Err(errno) = dest.drop_cache(&file.plain) {
                        return (lease, Err(errno));
                    }
                }
                Err(errno) => return (lease, Err(errno)),
                Ok(filled) => {
                    let crc64 = crc64(&self.arena.bytes(&lease)[..filled]);
                    if let Ok(assembly) = &mut *due.read.lock() {
                        assembly.add(at, filled as u64, crc64);
                    }
                    at += wanted as u64;
                }
            }
        }
        (lease, Ok(()))
    }
}

/// A file that is read back.
struct File {
    /// Through the page cache.
    plain: Handle,
    /// Past it, where that can be.
    direct: Option<Handle>,
    /// What it wants offsets and lengths to be multiples of then.
    align: usize,
    /// Whether it has holes.
    is_sparse: bool,
}

impl File {
    /// A device, as it was claimed when the job began.
    fn of(device: &Device) -> File {
        let (plain, align) = (device.buffered.clone(), device.block_bytes() as usize);
        File { plain, direct: Some(device.direct.clone()), align, is_sparse: false }
    }
}

/// Opens what was written by its name, or the device.
fn open_in(sealer: &mut Sealer, dir: &Arc<DirNode>, name: &Name, copied: &Copied) -> Result<File> {
    let at = sealer.open(dir)?;
    if let Some(device) = sealer.job.device(Side::Dest) {
        return Ok(File::of(device));
    }
    let name = copied.written_name(sealer.job.dest_name(dir, name));
    let opened = open(&sealer.job, sealer.dest(), &at, name, copied);
    opened.map_err(|errno| Error::os("read back", join(&sealer.job.path(Side::Dest, dir), name), errno))
}

/// Opens the very file that was written, past the page cache or with its pages dropped.
fn open(job: &Job, dest: Posix<'_>, at: &Handle, name: &Name, copied: &Copied) -> Verb<File> {
    let plain = dest.open(at, name, Access::Read)?;
    let now: Stat = dest.stat_handle(&plain)?;
    if !copied.is_in(job, &now) || now.size != copied.stamp.size {
        return Err(Errno::STALE);
    }
    let align = now.direct_align as usize;
    let direct = if align > 0 && align <= LEASE_ALIGN { dest.open(at, name, Access::ReadDirect).ok() } else { None };
    if direct.is_none() {
        dest.drop_cache(&plain)?;
    }
    Ok(File { plain, direct, align, is_sparse: now.blocks * 512 < now.size })
}
