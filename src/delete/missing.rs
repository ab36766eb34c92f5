//! What is recorded and is not at the destination any more: copied once more by the pass that finds it missing.
//!
//! Only where fewer names of a directory were found than are recorded is each that is recorded asked for. A record goes
//! before its name is copied again (I1). Until then the catalog's index of what a run has to do holds the name, however
//! many there are (I4); there it is told apart by having no record.

use std::sync::Arc;

use super::forget::{forget, reopen};
use super::{BATCH, Deletion, Remover};
use crate::catalog::{DirId, Record, Status};
use crate::error::{Errno, Result};
use crate::filter::Sort;
use crate::job::Job;
use crate::provider::posix::Posix;
use crate::ring::{Name, Side};
use crate::walk::{DirNode, DirPair};

/// Whether the destination is to have what is recorded.
pub(super) fn is_held(record: &Record) -> bool {
    match record {
        Record::Dir(_) => true,
        Record::File(file) => matches!(file.status, Status::Done | Status::Written) && !file.losses.has_object(),
    }
}

impl Remover<'_> {
    /// Looks for recorded names of a directory that the destination has not, if it has but `found` of them.
    pub(super) fn look_for_missing(&self, dir: &Arc<DirNode>, open: &DirPair, found: u64) -> Result<()> {
        let Deletion { job, caller, .. } = *self.deletion;
        let mut held = 0;
        each_held(job, dir.id, |page| {
            held += page.len() as u64;
            Ok(())
        })?;
        if held <= found {
            return Ok(());
        }
        let dest = Posix::new(caller, Side::Dest);
        each_held(job, dir.id, |mut page| {
            page.retain(|(name, record)| {
                let sort = if matches!(record, Record::Dir(_)) { Sort::Dir } else { Sort::Other };
                dest.stat(&open.dest, name) == Err(Errno::NOENT) && job.takes(dir, name, sort)
            });
            self.restore(dir, open, page)
        })
    }

    /// Leaves names to be copied again that the source has, and forgets those that it has not.
    fn restore(&self, dir: &Arc<DirNode>, open: &DirPair, missing: Vec<(Name, Record)>) -> Result<()> {
        let Deletion { job, .. } = *self.deletion;
        let (mut gone, mut again) = (Vec::new(), Vec::new());
        for (name, record) in missing {
            match (self.look_for(dir, open, &name), &record) {
                (Some(None), _) => gone.push((name, record)),
                (Some(Some(false)), Record::File(_)) => again.push((name, record)),
                _ => {}
            }
        }
        forget(&job.catalog, gone.iter().map(|(name, record)| (&**dir, name, Some(record))))?;
        reopen(&job.catalog, dir, &again)
    }
}

/// Hands on what is recorded of a directory and to be at the destination, a page at a time.
fn each_held(job: &Job, dir: DirId, mut take: impl FnMut(Vec<(Name, Record)>) -> Result<()>) -> Result<()> {
    let mut after: Option<Name> = None;
    // Ends: each page lies strictly behind the one before.
    loop {
        let page = job.catalog.reader()?.entries(dir, after.as_deref(), BATCH)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        take(page.into_iter().filter(|(name, record)| !name.is_empty() && is_held(record)).collect())?;
    }
}
