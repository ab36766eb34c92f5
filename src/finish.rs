//! The end of a pass: every directory gets its owner, mode and times, deepest first, and the catalog says that all is
//! done.
//!
//! Directories are finished last because every name created, renamed or linked in them changes their mtime, and because
//! 0700 shields what they hold until then (I9). What to do is an index in the catalog, read in descending numbers: a
//! child's number is always higher than its parent's. So the end needs no memory that grows with the tree, and an
//! interrupted end goes on where it stopped.

use std::sync::Arc;
use std::time::Instant;

use crate::catalog::{Batch, DirId, DirStamp, DirState, Header, JobStatus, Row, Totals};
use crate::checkpoint::Checkpointer;
use crate::config::{LossPolicy, Metadata, scaled};
use crate::error::{Cause, Class, Errno, Error, Result};
use crate::lane::publish;
use crate::provider::metadata;
use crate::report::{Count, Loss, PASSES_MAX, Pass};
use crate::ring::Side;
use crate::seal::{Sealer, on_all};
use crate::walk::DirNode;

/// Directories finished between two commits.
const PAGE: usize = scaled(16_384, 3);
/// Ranges of abandoned attempts that are looked at when a pass ends.
const ABANDONED_MAX: usize = 16_384;
/// Abandoned uploads that are given up when a pass ends; the next pass sees to the rest (I4).
const UPLOADS_MAX: usize = 4096;

impl Checkpointer {
    /// Finishes the directories, makes everything durable, and records the pass as finished. To be called after the
    /// last checkpoint, when nothing is queued. `pass` is what it came to, with its start, if it was a whole one.
    pub fn finish_pass(&mut self, totals: Totals, pass: Option<(Instant, Pass)>) -> Result<()> {
        let mut below = None;
        // Ends: each page lies strictly below the one before.
        loop {
            let page = self.job.catalog.reader()?.open_dirs_below(below, Some(DirState::Unfinished), PAGE)?;
            let is_last = page.len() < PAGE;
            below = page.last().map(|(id, _)| *id);
            let mut rows = Vec::with_capacity(page.len());
            match self.publisher {
                Some(_) => self.publish_dirs(page.into_iter().map(|(id, _)| id).collect(), &mut rows)?,
                None => self.finish_dirs(page.into_iter().map(|(id, _)| id).collect(), &mut rows)?,
            }
            if is_last {
                rows.extend(self.abandoned_ranges()?);
                rows.extend(self.abandoned_uploads()?);
                rows.extend(self.job.note_rows());
            }
            self.sync()?;
            let header = self.finished_header(is_last, totals, pass);
            let batch = Batch { rows, header, reseal_dirs: Vec::new() };
            self.job.catalog.commit(&batch)?;
            self.header = batch.header;
            self.nodes.clear();
            if is_last {
                return Ok(());
            }
        }
    }

    /// At the end of a pass no file is in progress: ranges that are still recorded are of attempts that a changed
    /// source or an error ended. What exceeds one look at them waits for the end of the next pass.
    fn abandoned_ranges(&self) -> Result<Vec<Row>> {
        let ids = self.job.catalog.reader()?.ranged(ABANDONED_MAX)?;
        Ok(ids.into_iter().map(|large_id| Row::DropRanges { large_id }).collect())
    }

    /// Likewise no upload is: what is still recorded is of objects that vanished or are another thing by now. Each
    /// is given up at the server; one that the server keeps stays recorded.
    fn abandoned_uploads(&self) -> Result<Vec<Row>> {
        let Some(publisher) = &self.publisher else { return Ok(Vec::new()) };
        let uploads = self.job.catalog.reader()?.uploads(UPLOADS_MAX)?;
        let given_up = publisher.give_up(uploads.iter().map(|(_, upload)| upload.clone()).collect());
        let mut rows = Vec::with_capacity(uploads.len());
        for ((large_id, upload), given_up) in uploads.into_iter().zip(given_up) {
            if let Err(error) = &given_up {
                self.job.console.note(&format!("gfast: {error}"));
                self.counters.add(Count::UploadsLeft, 1);
            }
            // Of one without an id it is not even known that there is any.
            if given_up.is_ok() || upload.id.is_empty() {
                rows.push(Row::DropRanges { large_id });
            }
        }
        Ok(rows)
    }

    /// The sync just made covers the seals of the last batch: all its records are Completed.
    fn finished_header(&self, is_last: bool, totals: Totals, pass: Option<(Instant, Pass)>) -> Header {
        let status = if is_last { JobStatus::Finished } else { JobStatus::Running };
        let totals = if is_last { totals } else { self.header.totals };
        let mut passes = self.header.passes.clone();
        if let Some((started, pass)) = pass.filter(|_| is_last) {
            let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            passes.drain(..(passes.len() + 1).saturating_sub(PASSES_MAX));
            passes.push(Pass { elapsed_ms, ..pass });
        }
        Header { status, totals, passes, completed_batch: self.header.durable_batch, ..self.header.clone() }
    }

    /// Finishes directories, those of one depth together: none above them is finished before, for that might shut the
    /// way to them.
    fn finish_dirs(&mut self, ids: Vec<DirId>, rows: &mut Vec<Row>) -> Result<()> {
        let mut due = Vec::with_capacity(ids.len());
        for id in ids {
            let record = self.job.catalog.reader()?.dir(id)?;
            match record.and_then(|record| record.stamp) {
                Some(stamp) => due.push((self.node(id)?, stamp)),
                None => rows.push(Row::CloseDir { id }),
            }
        }
        due.sort_by_key(|(dir, _)| std::cmp::Reverse(dir.depth));
        for level in due.chunk_by(|(a, _), (b, _)| a.depth == b.depth) {
            let settled = on_all(&mut self.sealers, level, |sealer, (dir, stamp)| sealer.settle_dir(dir, stamp));
            for ((dir, _), settled) in level.iter().zip(settled) {
                match settled {
                    Ok(()) => {
                        self.counters.add(Count::Dirs, 1);
                        rows.push(Row::CloseDir { id: dir.id });
                    }
                    Err(error) => {
                        self.job.say(&error, 1);
                        self.counters.add(Count::Failed, 1);
                        // It stays in the index: the next pass lists it again and finishes it.
                    }
                }
            }
        }
        Ok(())
    }

    /// Stores the objects of a page of directories in a bucket, many at a time. One whose state is not known has none.
    fn publish_dirs(&mut self, ids: Vec<DirId>, rows: &mut Vec<Row>) -> Result<()> {
        let (mut stored_ids, mut publications) = (Vec::new(), Vec::new());
        for id in ids {
            let record = self.job.catalog.reader()?.dir(id)?;
            let dir = self.node(id)?;
            let stamp = record.and_then(|record| record.stamp);
            match stamp.map(|stamp| publish::marker(&self.job, &dir, &stamp)) {
                None | Some(Ok(None)) => {
                    self.counters.add(Count::Dirs, 1);
                    rows.push(Row::CloseDir { id });
                }
                Some(Ok(Some(publication))) => {
                    stored_ids.push(id);
                    publications.push(Ok(publication));
                }
                Some(Err(error)) => {
                    stored_ids.push(id);
                    publications.push(Err(error));
                }
            }
        }
        let Some(publisher) = &self.publisher else { return Ok(()) };
        for (id, stored) in stored_ids.into_iter().zip(publisher.publish(publications)) {
            match stored {
                Ok(_) => {
                    self.counters.add(Count::Dirs, 1);
                    rows.push(Row::CloseDir { id });
                }
                Err(error) if error.class() == Class::Fatal => return Err(error),
                // It stays in the index: the next pass lists it again and finishes it.
                Err(error) => {
                    self.job.say(&error, 1);
                    self.counters.add(Count::Failed, 1);
                }
            }
        }
        Ok(())
    }
}

impl Sealer {
    fn settle_dir(&mut self, dir: &Arc<DirNode>, stamp: &DirStamp) -> Result<()> {
        let job = self.job.clone();
        let handle = self.open(dir)?;
        let dest = self.dest();
        let failed = |verb, errno| job.dir_error(Side::Dest, dir, verb, errno);
        if job.config.metadata == Metadata::Keep {
            let now = dest.stat_handle(&handle).map_err(|errno| failed("stat", errno))?;
            let wanted = crate::ring::Stat { mode: stamp.mode, uid: stamp.uid, gid: stamp.gid, ..now };
            let lost = metadata::keep_owner_and_mode(&dest, &handle, &wanted, &now);
            if let Some(loss) = lost.map_err(|errno| failed("set owner and mode of", errno))? {
                self.lose_dir(dir, loss)?;
            }
        }
        // A prefix without an object of its own has no times.
        if stamp.ino == 0 {
            return Ok(());
        }
        match dest.set_times(&handle, stamp.atime, stamp.mtime) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.lose_dir(dir, Loss::Times),
            Err(errno) => Err(failed("set times of", errno)),
        }
    }

    fn lose_dir(&self, dir: &DirNode, loss: Loss) -> Result<()> {
        let path = self.job.path(Side::Dest, dir);
        match self.job.config.losses {
            LossPolicy::Count => {
                self.job.losses.record(loss, &path);
                Ok(())
            }
            LossPolicy::Fail => Err(Error { verb: "copy", object: path, cause: Cause::Loss(loss.name()) }),
        }
    }
}
