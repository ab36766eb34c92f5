//! Seals: the times that tell a finished file from one that is not (I2).
//!
//! Called only with what is durable (checkpoint.rs). Large batches are sealed on several threads: by then the shards
//! may have nothing left to do, and the whole job waits. Where answers are slow small ones are, too.

use std::sync::Arc;

use crate::config::{Metadata, Naming};
use crate::error::{Class, Errno, Error, Result, join};
use crate::filesystem::Reach;
use crate::job::Job;
use crate::listing::open_side;
use crate::names::{self, Claim};
use crate::outcome::{Outcome, What};
use crate::provider::metadata;
use crate::provider::posix::{Posix, Verb};
use crate::report::LossSet;
use crate::ring::{Caller, Handle, Name, Side, Stat, Time};
use crate::transfer::{Copied, Seal};
use crate::walk::{DirCache, DirNode, DirPair};

/// Items that are worth a thread of their own: where each takes microseconds, and where each takes milliseconds.
const ITEMS_PER_THREAD: usize = 1024;
const ITEMS_PER_THREAD_REMOTE: usize = 4;

/// Sets seals and finishes directories, on one thread.
pub(crate) struct Sealer {
    /// The job.
    pub(crate) job: Arc<Job>,
    /// Answers its operations.
    caller: Arc<dyn Caller>,
    /// Open destination directories.
    cache: DirCache<Handle>,
    /// Open source directories, for the attributes of those below them.
    source_cache: DirCache<Handle>,
}

/// Does `work` on each of `items`, on as many threads as are worth it; the results are in the order of the items.
pub(crate) fn on_all<T: Sync, R: Send>(
    sealers: &mut [Sealer],
    items: &[T],
    work: impl Fn(&mut Sealer, &T) -> R + Sync,
) -> Vec<R> {
    let per_thread = match sealers[0].job.reach {
        Reach::Local => ITEMS_PER_THREAD,
        Reach::Remote => ITEMS_PER_THREAD_REMOTE,
    };
    let streams = sealers[0].job.gate.limit() as usize;
    let threads = (items.len() / per_thread).clamp(1, sealers.len().min(streams));
    let share = items.len().div_ceil(threads).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let mut shares = sealers.iter_mut().zip(items.chunks(share));
        let first = shares.next();
        let others: Vec<_> = shares
            .map(|(sealer, items)| scope.spawn(move || items.iter().map(|item| work(sealer, item)).collect::<Vec<R>>()))
            .collect();
        let mut results = Vec::with_capacity(items.len());
        if let Some((sealer, items)) = first {
            results.extend(items.iter().map(|item| work(sealer, item)));
        }
        for other in others {
            match other.join() {
                Ok(more) => results.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}

impl Sealer {
    /// Seals for `job`, by `caller`.
    pub(crate) fn new(job: Arc<Job>, caller: Arc<dyn Caller>) -> Sealer {
        let cache = DirCache::new(job.dest.handle.clone(), job.cached_dirs);
        let source_cache = DirCache::new(job.source.handle.clone(), job.cached_dirs);
        Sealer { job, caller, cache, source_cache }
    }

    /// Seals a copied object, and does nothing with any other outcome. One that could not be sealed is removed, unless
    /// the job ends with that; the reason comes back.
    pub(crate) fn seal_outcome(&mut self, outcome: &Outcome) -> Option<Error> {
        let Outcome { dir, name, what: What::Copied(copied) } = outcome else { return None };
        let sealed = self.seal(dir, name, copied);
        if let (Ok(()), Seal::Rename { temp, .. }) = (&sealed, &copied.seal) {
            self.job.temporaries.release(dir.id, temp);
        }
        let error = sealed.err()?;
        // What was there before this run, whole, is not ours to remove; what ends the job leaves all to the resume.
        if !copied.is_held() && error.class() != Class::Fatal {
            self.remove_unsealed(dir, name, copied);
        }
        Some(error)
    }

    /// Sets the seal on the inode that was written, and on no other (I2).
    fn seal(&mut self, dir: &Arc<DirNode>, name: &Name, copied: &Copied) -> Result<()> {
        let (temp, atime, mtime) = match &copied.seal {
            Seal::None => return Ok(()),
            Seal::Times { atime, mtime } => (None, *atime, *mtime),
            Seal::Rename { temp, atime, mtime } => (Some(temp), *atime, *mtime),
        };
        let job = self.job.clone();
        if let Some(errno) = job.unsyncable.lock().remove(&copied.large_id) {
            return Err(Error::os("sync", join(&job.path(Side::Dest, dir), job.dest_name(dir, name)), errno));
        }
        let seal = |sealer: &mut Sealer| sealer.seal_as(dir, name, copied, (temp, atime, mtime));
        match seal(self) {
            Err(error) if error.is_stale() => {
                self.forget(dir);
                seal(self)
            }
            sealed => sealed,
        }
    }

    /// Likewise, by what the file was written as and the times it gets.
    fn seal_as(
        &mut self,
        dir: &Arc<DirNode>,
        name: &Name,
        copied: &Copied,
        (temp, atime, mtime): (Option<&Name>, Time, Time),
    ) -> Result<()> {
        let at = self.open(dir)?;
        let job = self.job.clone();
        let _turn = match (job.config.naming, temp) {
            (Naming::Atomic, Some(temp)) => {
                // One after the other where names are folded: two that are new are each free until one is given.
                let turn = names::may_be_one(&job, dir, job.dest_name(dir, name)).then(|| job.naming.turn(dir.id));
                self.own_name(dir, name, temp, &at)?;
                turn
            }
            _ => None,
        };
        let dest_name = job.dest_name(dir, name);
        let failed = |errno| Error::os("seal", join(&self.job.path(Side::Dest, dir), dest_name), errno);
        let lost = self.set_times(&at, temp.unwrap_or(dest_name), copied, (atime, mtime)).map_err(failed)?;
        lost.iter().try_for_each(|loss| job.lose_of(dir, name, loss))?;
        match temp {
            Some(temp) => self.dest().rename(&at, temp, dest_name).map_err(|errno| match errno {
                // What was written may have been removed by somebody.
                Errno::NOENT if self.dest().stat(&at, temp).is_err() => failed(errno),
                errno => names::unmade(&job, &*self.caller, (&at, dest_name), failed(errno)),
            }),
            None => Ok(()),
        }
    }

    /// The seal itself; what it could not keep.
    fn set_times(&self, at: &Handle, written: &Name, copied: &Copied, times: (Time, Time)) -> Verb<LossSet> {
        let dest = self.dest();
        let before = dest.stat(at, written)?;
        if !copied.is_in(&self.job, &before) {
            return Err(Errno::STALE);
        }
        let lost = match metadata::keep_times_at(&dest, (at, written), times, self.job.clock()) {
            // Another user's file with the source's content and mtime: only its atime would be new.
            Err(Errno::PERM | Errno::ACCESS) if copied.is_held() => None,
            kept => kept?,
        };
        let mut losses = LossSet::default();
        lost.into_iter().for_each(|loss| losses.add(loss));
        if self.job.dest_reach() == Reach::Remote && self.job.config.metadata == Metadata::Keep {
            losses.extend(self.keep_mode(at, written, &before)?);
        }
        Ok(losses)
    }

    /// Setting times may cost a file its mode: smbnetfs makes one that nobody may write to writable.
    fn keep_mode(&self, at: &Handle, written: &Name, before: &Stat) -> Verb<LossSet> {
        let dest = self.dest();
        if dest.stat(at, written)?.permissions() == before.permissions() {
            return Ok(LossSet::default());
        }
        // Looked at again, whatever it says.
        let _ = dest.set_mode_at(at, written, before.permissions());
        Ok(metadata::lost(before, true, dest.stat(at, written)?.permissions()))
    }

    /// A new name is given by a rename under `--atomic`, which replaces what the destination takes for it.
    fn own_name(&mut self, dir: &Arc<DirNode>, name: &Name, temp: &Name, at: &Handle) -> Result<()> {
        let job = self.job.clone();
        let dest_name = job.dest_name(dir, name);
        let folds = names::folds(&job, &*self.caller, dir, at, temp);
        let is_taken =
            folds.map(|_| names::may_be_one(&job, dir, dest_name) && self.dest().stat(at, dest_name).is_ok());
        match is_taken {
            Ok(true) => {
                let source = match job.source.bucket {
                    Some(_) => job.source.handle.clone(),
                    None => self.open_source(dir)?,
                };
                let open = DirPair { source, dest: at.clone() };
                names::own(&job, &*self.caller, Claim { dir, open: &open, name, dest_name }).map(drop)
            }
            Ok(false) => Ok(()),
            Err(errno) => Err(Error::os("look up", join(&job.path(Side::Dest, dir), dest_name), errno)),
        }
    }

    /// A file that cannot be sealed does not stay (I2). Best effort: what stays has no seal.
    pub(crate) fn remove_unsealed(&mut self, dir: &Arc<DirNode>, name: &Name, copied: &Copied) {
        if matches!(copied.seal, Seal::None) {
            return;
        }
        if let Seal::Rename { temp, .. } = &copied.seal {
            self.job.temporaries.release(dir.id, temp);
        }
        let Ok(at) = self.open(dir) else { return };
        let written = copied.written_name(self.job.dest_name(dir, name));
        let now = self.dest().stat(&at, written);
        if now.is_ok_and(|now| copied.is_in(&self.job, &now)) {
            let _ = self.dest().unlink(&at, written);
            self.job.seen.forget(dir.id);
        }
    }

    /// The destination's directory, reopened from the nearest open ancestor.
    pub(crate) fn open(&mut self, dir: &Arc<DirNode>) -> Result<Handle> {
        open_side(&self.job, &*self.caller, Side::Dest, &mut self.cache, dir)
    }

    /// The source's directory, likewise.
    pub(crate) fn open_source(&mut self, dir: &Arc<DirNode>) -> Result<Handle> {
        open_side(&self.job, &*self.caller, Side::Source, &mut self.source_cache, dir)
    }

    /// Closes a directory on both sides, and those above it: one has become stale.
    pub(crate) fn forget(&mut self, dir: &DirNode) {
        self.cache.forget(dir);
        self.source_cache.forget(dir);
    }

    pub(crate) fn source(&self) -> Posix<'_> {
        Posix::new(&*self.caller, Side::Source)
    }

    pub(crate) fn dest(&self) -> Posix<'_> {
        Posix::new(&*self.caller, Side::Dest)
    }
}
