//! Seals: the times that tell a finished file from one that is not (I2).
//!
//! Called only with what is durable (checkpoint.rs). Large batches are sealed on several threads: by then the shards
//! may have nothing left to do, and the whole job waits.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Errno, Error, Result, join};
use crate::job::Job;
use crate::listing::open_side;
use crate::outcome::{Outcome, What};
use crate::provider::posix::Posix;
use crate::ring::{Caller, Handle, Name, Side, Time};
use crate::transfer::{Copied, Seal};
use crate::walk::{DirCache, DirNode};

/// Outcomes that are worth a thread of their own.
const OUTCOMES_PER_THREAD: usize = 1024;

/// Sets seals, on one thread.
pub(crate) struct Sealer {
    /// The job.
    job: Arc<Job>,
    /// Answers its operations.
    caller: Arc<dyn Caller>,
    /// Open destination directories.
    cache: DirCache<Handle>,
}

/// Seals every copied object among `outcomes`; those that could not be are removed, and come back with the reason by
/// their index.
pub(crate) fn seal_all(sealers: &mut [Sealer], outcomes: &[Outcome]) -> HashMap<usize, Error> {
    let threads = (outcomes.len() / OUTCOMES_PER_THREAD).clamp(1, sealers.len());
    let share = outcomes.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let mut shares = sealers.iter_mut().zip(outcomes.chunks(share)).enumerate();
        let first = shares.next();
        let others: Vec<_> = shares
            .map(|(index, (sealer, outcomes))| scope.spawn(move || sealer.seal_share(outcomes, index * share)))
            .collect();
        let mut unsealed = first.map_or_else(HashMap::new, |(_, (sealer, outcomes))| sealer.seal_share(outcomes, 0));
        for other in others {
            match other.join() {
                Ok(more) => unsealed.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        unsealed
    })
}

impl Sealer {
    /// Seals for `job`, by `caller`.
    pub(crate) fn new(job: Arc<Job>, caller: Arc<dyn Caller>) -> Sealer {
        let cache = DirCache::new(job.dest.handle.clone(), job.cached_dirs);
        Sealer { job, caller, cache }
    }

    fn seal_share(&mut self, outcomes: &[Outcome], base: usize) -> HashMap<usize, Error> {
        let mut unsealed = HashMap::new();
        for (index, Outcome { dir, name, what }) in outcomes.iter().enumerate() {
            let What::Copied(copied) = what else { continue };
            if let Err(error) = self.seal(dir, name, copied) {
                self.remove_unsealed(dir, name, copied);
                unsealed.insert(base + index, error);
            }
        }
        unsealed
    }

    /// Sets the seal on the inode that was written, and on no other (I2).
    fn seal(&mut self, dir: &Arc<DirNode>, name: &Name, copied: &Copied) -> Result<()> {
        let (temp, atime, mtime) = match &copied.seal {
            Seal::None => return Ok(()),
            Seal::Times { atime, mtime } => (None, *atime, *mtime),
            Seal::Rename { temp, atime, mtime } => (Some(temp), *atime, *mtime),
        };
        let at = self.open(dir)?;
        let dest_name = self.job.dest_name(dir, name);
        let sealed = self.seal_at(&at, temp, dest_name, copied, atime, mtime);
        sealed.map_err(|errno| Error::os("seal", join(&self.job.path(Side::Dest, dir), dest_name), errno))
    }

    fn seal_at(
        &self,
        at: &Handle,
        temp: Option<&Name>,
        name: &Name,
        copied: &Copied,
        atime: Time,
        mtime: Time,
    ) -> std::result::Result<(), Errno> {
        let dest = self.dest();
        let written = temp.unwrap_or(name);
        let now = dest.stat(at, written)?;
        if (now.dev, now.ino) != (copied.dest_dev, copied.dest_ino) {
            return Err(Errno::STALE);
        }
        dest.set_times_at(at, written, atime, mtime)?;
        match temp {
            Some(temp) => dest.rename(at, temp, name),
            None => Ok(()),
        }
    }

    /// A file that cannot be sealed does not stay (I2). Best effort: what stays has no seal.
    fn remove_unsealed(&mut self, dir: &Arc<DirNode>, name: &Name, copied: &Copied) {
        let written = match &copied.seal {
            Seal::None => return,
            Seal::Times { .. } => self.job.dest_name(dir, name).clone(),
            Seal::Rename { temp, .. } => temp.clone(),
        };
        let Ok(at) = self.open(dir) else { return };
        let now = self.dest().stat(&at, &written);
        if now.is_ok_and(|now| (now.dev, now.ino) == (copied.dest_dev, copied.dest_ino)) {
            let _ = self.dest().unlink(&at, &written);
        }
    }

    /// The destination's directory, reopened from the nearest open ancestor.
    pub(crate) fn open(&mut self, dir: &Arc<DirNode>) -> Result<Handle> {
        open_side(&self.job, &*self.caller, Side::Dest, &mut self.cache, dir)
    }

    fn dest(&self) -> Posix<'_> {
        Posix::new(&*self.caller, Side::Dest)
    }
}
