//! What a run that goes on with an interrupted one passes over (resume.rs): it lists no directory again that was
//! listed, and looks only at those of its names that were left open.

use super::Rehearsal;
use super::asked::End;
use crate::catalog::{DirRecord, DirState};
use crate::error::Result;
use crate::ring::Name;
use crate::walk::DirNode;

impl Rehearsal<'_> {
    /// What is recorded of a directory that the interrupted run has listed.
    fn listed_before(&self, dir: &DirNode) -> Result<Option<DirRecord>> {
        let Some(catalog) = self.asked.catalog.as_ref().filter(|_| self.is_resume) else { return Ok(None) };
        let (reader, start) = (catalog.reader()?, self.asked.progress.pass_start_batch);
        let record = reader.dir(dir.id)?.filter(|record| record.listed_batch >= start);
        let is_open = reader.is_open_dir(dir.id, DirState::Unlisted)?
            || reader.is_open_file(dir.id, c"")?
            || reader.first_refused(dir.id)?.is_some();
        Ok(record.filter(|_| !is_open))
    }

    /// Whether the interrupted run has listed a directory.
    pub(super) fn is_listed_before(&self, dir: &DirNode) -> Result<bool> {
        Ok(self.listed_before(dir)?.is_some())
    }

    /// Whether the run would not come to a name.
    pub(super) fn is_passed_over(&self, dir: &DirNode, name: &Name) -> Result<bool> {
        let Some(catalog) = self.asked.catalog.as_ref().filter(|_| self.asked.single.is_none()) else {
            return Ok(false);
        };
        Ok(self.is_listed_before(dir)? && !catalog.reader()?.is_open_file(dir.id, name)?)
    }

    /// Whether a directory changed after the interrupted run listed it: then nothing is deleted for it.
    pub(super) fn has_changed(&self, dir: &DirNode) -> Result<bool> {
        let End::Files(_) = &self.asked.source else { return Ok(false) };
        let stamps = (self.listed_before(dir)?.and_then(|record| record.stamp), dir.stamp());
        let (Some(then), Some(now)) = stamps else { return Ok(false) };
        Ok((then.mtime, then.ctime) != (now.mtime, now.ctime))
    }
}
