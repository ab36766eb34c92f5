//! Large files that were begun and will not be gone on with: their names left the source, or failed, before a resume
//! came to them. What there is of their copies stays nowhere, under no name (I2).
//!
//! A name that is begun stands in the index of those that need work until it has an outcome. At the end of a pass those
//! that are still in progress were begun by a run that was interrupted, and not met by any since.

use std::sync::Arc;

use super::Checkpointer;
use crate::catalog::{Batch, DirId, DirState, FileRecord, Record, Row, Status};
use crate::error::{Result, escape, join};
use crate::plan::same_time;
use crate::ring::{Kind, Name, Side, Stat};
use crate::walk::DirNode;

/// Names of the index that are looked at between two commits.
const PAGE: usize = 4096;

impl Checkpointer {
    /// Removes and forgets what was begun and not met in this pass. To be called when nothing is queued, before
    /// directories are finished.
    pub(crate) fn remove_unmet(&mut self) -> Result<()> {
        let mut after = None;
        // Ends: each page lies strictly behind the one before.
        loop {
            let page = self.job.catalog.reader()?.open_files(after.as_ref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut rows = Vec::new();
            for (dir, name) in page {
                let record = self.job.catalog.reader()?.entry(dir, &name)?;
                match record {
                    Some(Record::File(record)) if record.status == Status::InProgress => {
                        self.remove_begun(dir, &name, &record)?;
                        rows.extend(self.forgotten(dir, name, &record)?);
                    }
                    // A directory by now.
                    Some(Record::Dir(_)) => rows.push(Row::CloseFile { dir, name }),
                    _ => {}
                }
            }
            if !rows.is_empty() {
                let batch = Batch { rows, header: self.header.clone(), reseal_dirs: self.reseal_dirs.clone() };
                self.job.catalog.commit(&batch)?;
            }
        }
    }

    fn remove_begun(&mut self, dir: DirId, name: &Name, record: &FileRecord) -> Result<()> {
        let node = self.node(dir)?;
        self.remove_partial(&node, name, record);
        Ok(())
    }

    /// An upload is forgotten when it is given up.
    fn forgotten(&self, dir: DirId, name: Name, record: &FileRecord) -> Result<Vec<Row>> {
        let mut rows = vec![Row::CloseFile { dir, name: name.clone() }, Row::DeleteEntry { dir, name }];
        if self.job.catalog.reader()?.upload(record.large_id)?.is_none() {
            rows.push(Row::DropRanges { large_id: record.large_id });
        }
        if self.job.is_listed(dir)? {
            rows.push(Row::OpenDir { id: dir, state: DirState::Unfinished });
        }
        Ok(rows)
    }

    /// A name has an outcome that leaves no copy of it: what was begun of it goes.
    pub(super) fn end_begun(&mut self, dir: &Arc<DirNode>, name: &Name) -> Result<()> {
        let record = self.job.catalog.reader()?.entry(dir.id, name)?;
        if let Some(Record::File(record)) = record
            && record.status == Status::InProgress
        {
            self.remove_partial(dir, name, &record);
        }
        Ok(())
    }

    /// Removes what was begun of a file, unless it is sealed, for then it is whole. Best effort: it has no seal.
    fn remove_partial(&mut self, dir: &Arc<DirNode>, name: &Name, record: &FileRecord) {
        let job = self.job.clone();
        // What could be read of a failing device stays.
        if job.dest.bucket.is_some() || job.has_device() {
            return;
        }
        let Ok(at) = self.open(dir) else { return };
        let dest_name = job.dest_name(dir, name);
        job.temporaries.remove_leftovers(&self.dest(), (&at, dir.id), dest_name);
        let is_partial = |now: &Stat| {
            let is_sealed = now.size == record.stamp.size
                && same_time(record.stamp.mtime, now.mtime, self.job.clock().granularity_nanos);
            now.kind() == Kind::File && self.job.dest_id(now) == record.dest_ino && !is_sealed
        };
        let now = self.dest().stat(&at, dest_name);
        if now.is_ok_and(|now| is_partial(&now)) && self.dest().unlink(&at, dest_name).is_ok() {
            let path = escape(&join(&job.path(Side::Dest, dir), dest_name));
            job.console.note(&format!("gfast: removed {path}: it was begun, and is not gone on with"));
        }
    }
}
