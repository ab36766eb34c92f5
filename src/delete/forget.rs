//! The catalog's records of names that are to be removed: forgotten before the names go (I1).

use super::BATCH;
use crate::catalog::{Batch, Catalog, DirId, DirRecord, DirState, FileRecord, Record, Row};
use crate::config::scaled;
use crate::error::Result;
use crate::ring::Name;
use crate::walk::DirNode;

/// Rows of one commit: the records below a directory may be many.
const ROWS_MAX: usize = scaled(65_536, 2);

/// Forgets names, with all that is recorded below those that are directories; the directories they lie in are to be
/// finished again.
pub(super) fn forget<'d>(
    catalog: &Catalog,
    doomed: impl Iterator<Item = (&'d DirNode, &'d Name, Option<&'d Record>)>,
) -> Result<()> {
    let (mut rows, mut last) = (Vec::new(), None);
    for (dir, name, record) in doomed {
        if last.replace(dir.id) != Some(dir.id) {
            rows.push(Row::OpenDir { id: dir.id, state: DirState::Unfinished });
        }
        match record {
            Some(Record::Dir(id)) => forget_dir(catalog, *id, &mut rows)?,
            Some(Record::File(record)) => rows.extend(ranges_of(catalog, record)?),
            None => {}
        }
        rows.push(Row::CloseFile { dir: dir.id, name: name.clone() });
        rows.push(Row::DeleteEntry { dir: dir.id, name: name.clone() });
        commit_if(catalog, &mut rows, ROWS_MAX)?;
    }
    commit_if(catalog, &mut rows, 1)
}

/// Forgets files of a directory that are missing at the destination, and puts them into the index of what a run has to
/// do: one commit, so that none of them is lost between the two.
pub(super) fn reopen(catalog: &Catalog, dir: &DirNode, missing: &[(Name, Record)]) -> Result<()> {
    let mut rows = Vec::new();
    for (name, record) in missing {
        if let Record::File(record) = record {
            rows.extend(ranges_of(catalog, record)?);
        }
        rows.push(Row::DeleteEntry { dir: dir.id, name: name.clone() });
        rows.push(Row::OpenFile { dir: dir.id, name: name.clone() });
    }
    if !rows.is_empty() {
        rows.push(Row::OpenDir { id: dir.id, state: DirState::Unfinished });
    }
    commit_if(catalog, &mut rows, 1)
}

/// Forgets a directory that neither side has any more, with all that is recorded below it.
pub(crate) fn forget_gone(catalog: &Catalog, dir: &DirNode) -> Result<()> {
    let Some(parent) = &dir.parent else { return Ok(()) };
    let mut rows = Vec::new();
    forget_dir(catalog, dir.id, &mut rows)?;
    // Something else may have its name by now.
    if catalog.reader()?.entry(parent.id, &dir.name)? == Some(Record::Dir(dir.id)) {
        rows.push(Row::DeleteEntry { dir: parent.id, name: dir.name.clone() });
    }
    commit_if(catalog, &mut rows, 1)
}

/// Forgets that directories could not be listed.
pub(super) fn forget_unlisted(catalog: &Catalog, dirs: Vec<DirId>) -> Result<()> {
    let mut rows = Vec::new();
    for dir in dirs {
        let name = Name::default();
        rows.push(Row::CloseFile { dir, name: name.clone() });
        rows.push(Row::DeleteEntry { dir, name });
    }
    commit_if(catalog, &mut rows, 1)
}

/// Forgets all that is recorded below a directory, and the directory; its name is the caller's to forget in the commit
/// that is left to make. A run that is cut short in between leaves a tree that hangs together, so that the next one
/// finds its way to all that is left: first the files of all directories go, from the top down, then the directories,
/// each after those that lie in it. What is to be done in them stays open until they go: none passes for finished.
fn forget_dir(catalog: &Catalog, top: DirId, rows: &mut Vec<Row>) -> Result<()> {
    let (mut dirs, mut seen) = (vec![top], Vec::new());
    // Ends: a directory's number is higher than that of the one it lies in.
    while let Some(id) = dirs.pop() {
        seen.push(id);
        forget_files(catalog, id, &mut dirs, rows)?;
        close_files(catalog, id, rows)?;
    }
    for id in seen.into_iter().rev() {
        rows.extend([Row::CloseDir { id }, Row::DeleteDir { id }]);
        let record = if id == top { None } else { catalog.reader()?.dir(id)? };
        if let Some(DirRecord { parent: dir, name, .. }) = record {
            rows.push(Row::CloseFile { dir, name: name.clone() });
            rows.push(Row::DeleteEntry { dir, name });
            commit_if(catalog, rows, ROWS_MAX)?;
        }
    }
    Ok(())
}

/// Forgets the files of a directory; hands on the directories in it.
fn forget_files(catalog: &Catalog, dir: DirId, dirs: &mut Vec<DirId>, rows: &mut Vec<Row>) -> Result<()> {
    let mut after: Option<Name> = None;
    // Ends: each page lies strictly behind the one before.
    loop {
        let page = catalog.reader()?.entries(dir, after.as_deref(), BATCH)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (name, record) in page {
            match record {
                Record::Dir(child) => dirs.push(child),
                Record::File(record) => {
                    rows.extend(ranges_of(catalog, &record)?);
                    rows.push(Row::CloseFile { dir, name: name.clone() });
                    rows.push(Row::DeleteEntry { dir, name });
                }
            }
        }
        commit_if(catalog, rows, ROWS_MAX)?;
    }
}

/// Nothing is to be done in a directory any more, nor is it to be listed; some of what was has no record.
fn close_files(catalog: &Catalog, dir: DirId, rows: &mut Vec<Row>) -> Result<()> {
    let mut after = (dir, Name::default());
    rows.push(Row::CloseFile { dir, name: Name::default() });
    // Ends: each page lies strictly behind the one before.
    loop {
        let page = catalog.reader()?.open_files(Some(&after), BATCH)?;
        let is_last = page.last().is_none_or(|(id, _)| *id != dir);
        for (_, name) in page.into_iter().take_while(|(id, _)| *id == dir) {
            after.1 = name.clone();
            rows.push(Row::CloseFile { dir, name });
        }
        commit_if(catalog, rows, ROWS_MAX)?;
        if is_last {
            return Ok(());
        }
    }
}

/// The ranges of a large file. Parts of an upload stay recorded for the end of the pass, which gives the upload up.
fn ranges_of(catalog: &Catalog, record: &FileRecord) -> Result<Option<Row>> {
    let large_id = record.large_id;
    let is_ranges = large_id != 0 && catalog.reader()?.upload(large_id)?.is_none();
    Ok(is_ranges.then_some(Row::DropRanges { large_id }))
}

/// Records rows, if they are as many.
fn commit_if(catalog: &Catalog, rows: &mut Vec<Row>, least: usize) -> Result<()> {
    if rows.len() < least {
        return Ok(());
    }
    #[cfg(test)]
    tests::spend_commit()?;
    let reseal_dirs = catalog.reader()?.reseal_dirs()?;
    catalog.commit(&Batch { rows: std::mem::take(rows), header: catalog.header(), reseal_dirs })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::catalog::{BATCH_UNSEALED, JobIdentity, Reader, RootId, Stamp, Status};
    use crate::error::Error;
    use crate::report::LossSet;
    use crate::resume::load_node;
    use crate::ring::Time;

    thread_local! {
        /// Commits before the run is cut short.
        static COMMITS_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    pub(super) fn spend_commit() -> Result<()> {
        let left = COMMITS_LEFT.get().checked_sub(1).ok_or_else(|| Error::refused("", "cut short"))?;
        COMMITS_LEFT.set(left);
        Ok(())
    }

    /// Directories, each with the one it lies in; 4 is the one to be forgotten, and 3, 9 and 10 stay.
    const DIRS: [(u64, u64); 9] = [(3, 1), (4, 1), (5, 4), (6, 4), (7, 5), (8, 7), (9, 1), (10, 9), (11, 8)];
    const TOP: DirId = DirId(4);

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    /// A directory's name tells its number.
    fn name_of(id: DirId) -> Name {
        name(&format!("dir{}", id.0))
    }

    fn catalog(state: &Path) -> Catalog {
        let root = RootId { ino: 2, birth: Time::default(), dev: 0 };
        let (source, dest) = (b"/source".to_vec(), b"/dest".to_vec());
        let (source_server, dest_server) = (String::new(), String::new());
        let (source_root, dest_root, options) = (root, root, Vec::new());
        let identity = JobIdentity { source, dest, source_root, dest_root, options, source_server, dest_server };
        let catalog = Catalog::open(state, &identity, false).unwrap();
        let (state, dir) = (DirState::Unfinished, DirId::ROOT);
        let mut rows = vec![Row::PutDir { id: dir, record: DirRecord { parent: dir, ..DirRecord::default() } }];
        for (id, parent) in DIRS.map(|(id, parent)| (DirId(id), DirId(parent))) {
            let record = DirRecord { parent, name: name_of(id), ..DirRecord::default() };
            rows.push(Row::PutDir { id, record });
            rows.push(Row::PutEntry { dir: parent, name: name_of(id), record: Record::Dir(id) });
            rows.push(Row::OpenDir { id, state });
            for number in 0..5 {
                let record = FileRecord {
                    status: Status::Failed,
                    batch: BATCH_UNSEALED,
                    stamp: Stamp::default(),
                    dest_ino: 0,
                    large_id: 0,
                    failure: None,
                    checksum: None,
                    losses: LossSet::default(),
                    owner: None,
                };
                let file = name(&format!("file{number}"));
                rows.push(Row::PutEntry { dir: id, name: file.clone(), record: Record::File(record) });
                rows.push(Row::OpenFile { dir: id, name: file });
                // It has no record.
                rows.push(Row::OpenFile { dir: id, name: name(&format!("missing{number}")) });
            }
            rows.push(Row::OpenFile { dir: id, name: Name::default() });
        }
        catalog.commit(&Batch { rows, header: catalog.header(), reseal_dirs: Vec::new() }).unwrap();
        catalog
    }

    /// Numbers of the directories that are recorded.
    fn recorded(reader: &Reader<'_>) -> Vec<DirId> {
        DIRS.map(|(id, _)| DirId(id)).into_iter().filter(|id| reader.dir(*id).unwrap().is_some()).collect()
    }

    /// A run finds its way to all that is left, and takes nothing that is half forgotten for finished.
    fn hangs_together(catalog: &Catalog) {
        let reader = catalog.reader().unwrap();
        let mut nodes = HashMap::new();
        let mut load = |id| drop(load_node(catalog, id, &mut nodes).unwrap());
        reader.open_files(None, usize::MAX).unwrap().into_iter().for_each(|(dir, _)| load(dir));
        reader.open_dirs_below(None, None, usize::MAX).unwrap().into_iter().for_each(|(id, _)| load(id));
        for id in recorded(&reader) {
            load(id);
            assert!(reader.is_open_dir(id, DirState::Unfinished).unwrap(), "{id:?} passes for finished");
            let dir = reader.dir(id).unwrap().unwrap();
            let found = reader.entry(dir.parent, &dir.name).unwrap();
            assert_eq!(found, Some(Record::Dir(id)), "nothing leads to {id:?}");
        }
        for (dir, name, record) in reader.all_entries(None, usize::MAX).unwrap() {
            load(dir);
            let Record::Dir(id) = record else { continue };
            assert!(reader.dir(id).unwrap().is_some(), "{name:?} leads nowhere");
        }
    }

    #[test]
    fn what_is_half_forgotten_hangs_together_and_is_forgotten_by_the_next_run() {
        let root = DirNode::root();
        let top = DirNode::child(&root, TOP, name_of(TOP));
        let record = Record::Dir(TOP);
        for is_gone in [false, true] {
            let forget = |catalog: &Catalog| match is_gone {
                false => forget(catalog, [(&*root, &top.name, Some(&record))].into_iter()),
                true => forget_gone(catalog, &top),
            };
            // Ends: with so many commits nothing is cut short.
            for commits in 0.. {
                let state =
                    std::env::temp_dir().join(format!("gfast-forget-{}-{is_gone}-{commits}", std::process::id()));
                let folder = Folder(state);
                let catalog = catalog(&folder.0);
                hangs_together(&catalog);
                COMMITS_LEFT.set(commits);
                let is_whole = forget(&catalog).is_ok();
                hangs_together(&catalog);
                COMMITS_LEFT.set(usize::MAX);
                forget(&catalog).unwrap();
                hangs_together(&catalog);
                let reader = catalog.reader().unwrap();
                assert_eq!(recorded(&reader), [3, 9, 10].map(DirId), "after {commits} commits");
                let entries = reader.all_entries(None, usize::MAX).unwrap();
                let open = reader.open_files(None, usize::MAX).unwrap();
                assert_eq!((entries.len(), open.len()), (3 + 3 * 5, 3 * 11), "after {commits} commits");
                if is_whole {
                    assert!(commits > 20, "only {commits} commits");
                    break;
                }
            }
        }
    }
}
