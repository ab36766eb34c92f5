//! The catalog's records of names that are to be removed: forgotten before the names go (I1).

use super::BATCH;
use crate::catalog::{Batch, DirId, DirState, FileRecord, Record, Row};
use crate::error::Result;
use crate::job::Job;
use crate::ring::Name;
use crate::walk::DirNode;

/// Rows of one commit: the records below a directory may be many.
const ROWS_MAX: usize = 65_536;

/// Forgets names, with all that is recorded below those that are directories; the directories they lie in are to be
/// finished again.
pub(super) fn forget<'d>(
    job: &Job,
    doomed: impl Iterator<Item = (&'d DirNode, &'d Name, Option<&'d Record>)>,
) -> Result<()> {
    let (mut rows, mut last) = (Vec::new(), None);
    for (dir, name, record) in doomed {
        if last.replace(dir.id) != Some(dir.id) {
            rows.push(Row::OpenDir { id: dir.id, state: DirState::Unfinished });
        }
        match record {
            Some(Record::Dir(id)) => forget_dir(job, *id, &mut rows)?,
            Some(Record::File(record)) => rows.extend(ranges_of(job, record)?),
            None => {}
        }
        rows.push(Row::CloseFile { dir: dir.id, name: name.clone() });
        rows.push(Row::DeleteEntry { dir: dir.id, name: name.clone() });
        commit_if(job, &mut rows, ROWS_MAX)?;
    }
    commit_if(job, &mut rows, 1)
}

/// Forgets files of a directory that are missing at the destination, and puts them into the index of what a run has to
/// do: one commit, so that none of them is lost between the two.
pub(super) fn reopen(job: &Job, dir: &DirNode, missing: &[(Name, Record)]) -> Result<()> {
    let mut rows = Vec::new();
    for (name, record) in missing {
        if let Record::File(record) = record {
            rows.extend(ranges_of(job, record)?);
        }
        rows.push(Row::DeleteEntry { dir: dir.id, name: name.clone() });
        rows.push(Row::OpenFile { dir: dir.id, name: name.clone() });
    }
    if !rows.is_empty() {
        rows.push(Row::OpenDir { id: dir.id, state: DirState::Unfinished });
    }
    commit_if(job, &mut rows, 1)
}

/// Forgets a directory that neither side has any more, with all that is recorded below it.
pub(crate) fn forget_gone(job: &Job, dir: &DirNode) -> Result<()> {
    let Some(parent) = &dir.parent else { return Ok(()) };
    let mut rows = Vec::new();
    // Something else may have its name by now.
    if job.catalog.reader()?.entry(parent.id, &dir.name)? == Some(Record::Dir(dir.id)) {
        rows.push(Row::DeleteEntry { dir: parent.id, name: dir.name.clone() });
    }
    forget_dir(job, dir.id, &mut rows)?;
    commit_if(job, &mut rows, 1)
}

/// Forgets that directories could not be listed.
pub(super) fn forget_unlisted(job: &Job, dirs: Vec<DirId>) -> Result<()> {
    let mut rows = Vec::new();
    for dir in dirs {
        let name = Name::default();
        rows.push(Row::CloseFile { dir, name: name.clone() });
        rows.push(Row::DeleteEntry { dir, name });
    }
    commit_if(job, &mut rows, 1)
}

/// Forgets all that is recorded below a directory, and the directory.
fn forget_dir(job: &Job, id: DirId, rows: &mut Vec<Row>) -> Result<()> {
    let mut dirs = vec![id];
    // Ends: a directory's number is higher than that of the one it lies in.
    while let Some(id) = dirs.pop() {
        let mut after = None;
        loop {
            let page = job.catalog.reader()?.entries(id, after.as_deref(), BATCH)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (name, record) in page {
                match record {
                    Record::Dir(child) => dirs.push(child),
                    Record::File(record) => rows.extend(ranges_of(job, &record)?),
                }
                rows.push(Row::CloseFile { dir: id, name: name.clone() });
                rows.push(Row::DeleteEntry { dir: id, name });
            }
            commit_if(job, rows, ROWS_MAX)?;
        }
        rows.extend([Row::CloseDir { id }, Row::DeleteDir { id }]);
    }
    Ok(())
}

/// The ranges of a large file. Parts of an upload stay recorded for the end of the pass, which gives the upload up.
fn ranges_of(job: &Job, record: &FileRecord) -> Result<Option<Row>> {
    let large_id = record.large_id;
    let is_ranges = large_id != 0 && job.catalog.reader()?.upload(large_id)?.is_none();
    Ok(is_ranges.then_some(Row::DropRanges { large_id }))
}

/// Records rows, if they are as many.
fn commit_if(job: &Job, rows: &mut Vec<Row>, least: usize) -> Result<()> {
    if rows.len() < least {
        return Ok(());
    }
    let reseal_dirs = job.catalog.reader()?.reseal_dirs()?;
    job.catalog.commit(&Batch { rows: std::mem::take(rows), header: job.catalog.header(), reseal_dirs })
}
