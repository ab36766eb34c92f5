//! Where a run begins: at the root, at the next pass, or exactly where an interrupted run stopped.
//!
//! A resume lists only directories that the catalog calls unlisted, and looks at no file that it calls Completed. What
//! it starts from are indexes of unfinished things, so it starts at once, however large the finished part is.

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::{
    BATCH_UNSEALED, Batch, Catalog, DirId, DirRecord, DirState, FileRecord, Header, JobStatus, Reader, Record, Row,
    Status, is_refused,
};
use crate::config::{QUEUED_DIRS_MAX, Retry, scaled};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::links::LinkName;
use crate::ring::Name;
use crate::walk::{DirNode, Work};

/// Entries of an index that are read at a time.
const PAGE: usize = scaled(4096, 3);
/// Most failed entries of an interrupted run that its resume tries again; the next pass tries all of them (I4).
const RETRIED_MAX: usize = 100_000;
/// Entries that a run which only tries again queues at a time (I4).
const RETRIED_ROUND: usize = scaled(100_000, 3);

/// What kind of run this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first run of a job.
    First,
    /// The rest of an interrupted pass.
    Resume,
    /// A further pass over a finished job.
    NextPass,
    /// What failed in a finished pass, and nothing else.
    Retry,
}

/// What the catalog says this run is. Only a finished pass has failures that can be tried by themselves: what an
/// interrupted one has not come to would be taken for done.
pub fn kind(catalog: &Catalog, what: Retry) -> Result<Kind> {
    let is_finished = catalog.header().status == JobStatus::Finished && !has_rest(catalog)?;
    match (catalog.reader()?.dir(DirId::ROOT)?, what) {
        (Some(_), Retry::FailedOnly) if is_finished && is_doubtful(catalog)? => {
            let why = "what this job has written was never synced, and the machine was started anew since: \
                       run it without --retry-failed first";
            Err(Error::refused(catalog.path().as_os_str().as_encoded_bytes(), why))
        }
        (Some(_), Retry::FailedOnly) if is_finished => Ok(Kind::Retry),
        (root, Retry::FailedOnly) => {
            let why = match root {
                Some(_) => "the last run of this job was interrupted: run it without --retry-failed first",
                None => "this job never ran: there is nothing to be tried again",
            };
            Err(Error::refused(catalog.path().as_os_str().as_encoded_bytes(), why))
        }
        (_, Retry::WithAll | Retry::All) if is_finished => Ok(Kind::NextPass),
        (Some(_), Retry::WithAll) => Ok(Kind::Resume),
        // What the interrupted pass has listed would not come up again.
        (Some(_), Retry::All) => {
            let why = "the last run of this job was interrupted: run it without --recopy first";
            Err(Error::refused(catalog.path().as_os_str().as_encoded_bytes(), why))
        }
        (None, Retry::WithAll | Retry::All) => Ok(Kind::First),
    }
}

/// Whether a finished pass has something of a retry that was cut short: seals that may not be durable, directories that
/// were found and not listed. This version calls a pass unfinished for as long as a retry runs; earlier ones did not,
/// and a pass that followed took both for seen to.
fn has_rest(catalog: &Catalog) -> Result<bool> {
    let header = catalog.header();
    // The newest first. The root of a job about one file is never listed.
    let unlisted = catalog.reader()?.open_dirs_below(None, Some(DirState::Unlisted), 1)?;
    Ok(header.completed_batch < header.durable_batch || unlisted.iter().any(|(id, _)| *id != DirId::ROOT))
}

/// Puts the beginning of a run into the catalog, so that a crash a moment later finds it.
pub fn begin(catalog: &Catalog, kind: Kind) -> Result<()> {
    let before = catalog.header().for_this_boot();
    let header = match kind {
        Kind::Resume | Kind::Retry => return begin_resume(catalog, kind),
        Kind::First => Header { pass_start_batch: 1, ..before },
        Kind::NextPass => Header {
            pass: before.pass + 1,
            status: JobStatus::Running,
            pass_start_batch: before.durable_batch + 1,
            ..before
        },
    };
    let mut rows = vec![Row::OpenDir { id: DirId::ROOT, state: DirState::Unlisted }];
    if kind == Kind::First {
        let record = DirRecord { parent: DirId::ROOT, ..DirRecord::default() };
        rows.push(Row::PutDir { id: DirId::ROOT, record });
    } else {
        if is_doubtful(catalog)? {
            doubt_dirs(catalog)?;
        }
        rows.extend(leftover_rows(catalog)?);
        rows.extend(unfinished_root(catalog)?);
    }
    catalog.commit(&Batch { rows, header, reseal_dirs: Vec::new() })
}

/// Entries whose data is durable but whose seal may not be are marked, and put into the index of what a run has to do.
/// The next checkpoint completes their batch; they themselves are completed by being sealed again (I1). Names that wait
/// for the first of their group get work of their own, too. A retry opens the pass it belongs to again: cut short, it
/// is gone on with like any other run. What was written and never synced (`--sync none`) may be gone after a reboot,
/// with the directories it was in: the pass meets every name again.
fn begin_resume(catalog: &Catalog, kind: Kind) -> Result<()> {
    end_waiting(catalog)?;
    let before = catalog.header();
    let mut header = Header { status: JobStatus::Running, ..before.clone().for_this_boot() };
    let mut rows = Vec::new();
    if kind == Kind::Resume && is_doubtful(catalog)? {
        header.pass_start_batch = header.boot_batch;
        rows.push(Row::OpenDir { id: DirId::ROOT, state: DirState::Unlisted });
        close_unlisted(catalog)?;
    }
    let reader = catalog.reader()?;
    for dir in reader.reseal_dirs()? {
        let mut after = None;
        // Ends: each page lies strictly behind the one before.
        loop {
            let page = reader.entries(dir, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (name, record) in page {
                let Record::File(record) = record else { continue };
                if record.status == Status::Done && record.batch > header.completed_batch {
                    let record = Record::File(FileRecord { batch: BATCH_UNSEALED, ..record });
                    rows.push(Row::PutEntry { dir, name: name.clone(), record });
                    rows.push(Row::OpenFile { dir, name });
                }
            }
        }
    }
    drop(reader);
    match rows.is_empty() && header == before {
        true => Ok(()),
        false => catalog.commit(&Batch { rows, header, reseal_dirs: Vec::new() }),
    }
}

/// Whether anything was written and never synced, and may have gone with the boot that it was written in.
pub(crate) fn is_doubtful(catalog: &Catalog) -> Result<bool> {
    let header = catalog.header();
    if !header.has_unsynced || header.boot_batch == header.clone().for_this_boot().boot_batch {
        return Ok(false);
    }
    let is_written = |record: &Record| matches!(record, Record::File(record) if record.status == Status::Written);
    let mut found = false;
    each_page(catalog, |page| {
        found = page.iter().any(|(_, _, record)| is_written(record));
        Ok(!found)
    })?;
    Ok(found)
}

/// Directories that wait for their listing come up in those of the ones that they lie in, which may have to be made
/// first.
fn close_unlisted(catalog: &Catalog) -> Result<()> {
    // Ends: each turn closes what it has read.
    loop {
        let reader = catalog.reader()?;
        let page = reader.open_dirs_below(None, Some(DirState::Unlisted), PAGE)?;
        if page.is_empty() {
            return Ok(());
        }
        let reseal_dirs = reader.reseal_dirs()?;
        drop(reader);
        let rows = page.into_iter().map(|(id, _)| Row::CloseDir { id }).collect();
        catalog.commit(&Batch { rows, header: catalog.header(), reseal_dirs })?;
    }
}

/// Every directory is made and finished by the pass that begins, even if the source's is as it was: none was synced
/// either.
fn doubt_dirs(catalog: &Catalog) -> Result<()> {
    let reseal_dirs = catalog.reader()?.reseal_dirs()?;
    each_page(catalog, |page| {
        let ids = page.into_iter().filter_map(|(_, _, record)| match record {
            Record::Dir(id) => Some(id),
            Record::File(_) => None,
        });
        let rows: Vec<_> = ids.map(|id| Row::OpenDir { id, state: DirState::Unfinished }).collect();
        if !rows.is_empty() {
            catalog.commit(&Batch { rows, header: catalog.header(), reseal_dirs: reseal_dirs.clone() })?;
        }
        Ok(true)
    })
}

/// Reads all entries, a page at a time, for as long as `take` wants more (I4).
fn each_page(catalog: &Catalog, mut take: impl FnMut(Vec<(DirId, Name, Record)>) -> Result<bool>) -> Result<()> {
    let mut after = None;
    // Ends: each page lies strictly behind the one before.
    loop {
        let page = catalog.reader()?.all_entries(after.as_ref(), PAGE)?;
        let Some((dir, name, _)) = page.last() else { return Ok(()) };
        after = Some((*dir, name.clone()));
        if !take(page)? {
            return Ok(());
        }
    }
}

/// Names that wait for the first of their group wait no more, a page of them in each commit (I4).
fn end_waiting(catalog: &Catalog) -> Result<()> {
    // Ends: each turn drops what it has read.
    loop {
        let reader = catalog.reader()?;
        let page = reader.any_late_links(PAGE)?;
        if page.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(2 * page.len());
        for (dev, ino, dir, name) in page {
            rows.push(Row::DropLateLink { dev, ino, dir, name: name.clone() });
            rows.push(Row::OpenFile { dir, name });
        }
        let reseal_dirs = reader.reseal_dirs()?;
        drop(reader);
        catalog.commit(&Batch { rows, header: catalog.header(), reseal_dirs })?;
    }
}

/// A root that the last pass could not finish has no record worth keeping: what says so is lost as it is opened again.
fn unfinished_root(catalog: &Catalog) -> Result<Option<Row>> {
    let reader = catalog.reader()?;
    let record =
        reader.dir(DirId::ROOT)?.filter(|_| reader.is_open_dir(DirId::ROOT, DirState::Unfinished).unwrap_or(true));
    Ok(record.map(|record| Row::PutDir { id: DirId::ROOT, record: DirRecord { stamp: None, ..record } }))
}

/// A new pass meets every name anyway: what an earlier one left waiting is dropped.
fn leftover_rows(catalog: &Catalog) -> Result<Vec<Row>> {
    let late = catalog.reader()?.any_late_links(usize::MAX)?;
    Ok(late.into_iter().map(|(dev, ino, dir, name)| Row::DropLateLink { dev, ino, dir, name }).collect())
}

/// Queues what a run starts from; `root` with what is known of the destination's.
pub fn start(job: &Job, kind: Kind, root: Arc<DirNode>) -> Result<()> {
    if let Some((name, _)) = &job.single {
        job.walker.inject(Work::File(root, name.clone()));
        return Ok(());
    }
    if root.is_widened() && job.is_listed(root.id)? {
        let rows = vec![Row::OpenDir { id: root.id, state: DirState::Unfinished }];
        let reseal_dirs = job.catalog.reader()?.reseal_dirs()?;
        job.catalog.commit(&Batch { rows, header: job.catalog.header(), reseal_dirs })?;
    }
    if kind == Kind::Retry {
        // Round by round, as the conductor has them brought.
        return Ok(());
    }
    if kind != Kind::Resume {
        job.walker.inject(Work::List(root));
        return Ok(());
    }
    let mut nodes = HashMap::new();
    job.walker.expect_spilled(count_unlisted(&job.catalog)?);
    retry_files(job, &mut nodes)?;
    if job.walker.spilled() > 0 {
        refill(job)?;
    }
    Ok(())
}

fn count_unlisted(catalog: &Catalog) -> Result<usize> {
    let reader = catalog.reader()?;
    let (mut count, mut below) = (0, None);
    // Ends: each page lies strictly below the one before.
    loop {
        let page = reader.open_dirs_below(below, Some(DirState::Unlisted), PAGE)?;
        count += page.len();
        match page.last() {
            Some((id, _)) => below = Some(*id),
            None => return Ok(count),
        }
    }
}

/// Loads a page of directories that wait in the catalog only: the newest, which are the deepest. To be called when
/// nothing else is queued or under way, right after a checkpoint: then every unlisted directory of the index is one
/// that waits.
pub fn refill(job: &Job) -> Result<()> {
    let page = job.catalog.reader()?.open_dirs_below(None, Some(DirState::Unlisted), QUEUED_DIRS_MAX / 2)?;
    if page.is_empty() && job.walker.spilled() > 0 {
        return Err(Error::catalog("", "directories that should wait in it are missing"));
    }
    let mut nodes = HashMap::new();
    for (id, _) in page {
        job.walker.unspill(load_node(&job.catalog, id, &mut nodes)?);
    }
    Ok(())
}

/// Entries that an interruption left to be sealed again, and those that failed before it. Those of unlisted directories
/// come up in the listing.
fn retry_files(job: &Job, nodes: &mut HashMap<DirId, Arc<DirNode>>) -> Result<()> {
    let (mut after, mut retried) = (None, 0);
    // Ends: each page lies strictly behind the one before.
    loop {
        let Some(page) = open_names(job, &mut after)? else { return Ok(()) };
        let reader = job.catalog.reader()?;
        for (dir, name) in page {
            let record = reader.entry(dir, &name)?;
            let is_dir = is_dir_by_now(job, record.as_ref());
            // What --delete found missing has no record.
            let is_failed = record.is_none_or(|record| match record {
                Record::File(record) => record.status == Status::Failed,
                Record::Dir(_) => false,
            });
            let node = load_node(&job.catalog, dir, nodes)?;
            // A directory that is listed brings its names, but for those before the mark that its listing goes on from.
            let waits = !job.is_listed(dir)? || reader.is_open_dir(dir, DirState::Unlisted)?;
            let comes_up = match waits {
                true => !is_before_mark(job, &node, &name)?,
                false => listed_by(job, &reader, dir)?.is_some_and(|by| by != name),
            };
            if comes_up || is_dir || (is_failed && retried == RETRIED_MAX) {
                continue;
            }
            retried += usize::from(is_failed);
            take_up(job, node, name);
        }
    }
}

/// A name of the index is taken up: by itself, or by listing its directory once more.
fn take_up(job: &Job, dir: Arc<DirNode>, name: Name) {
    job.walker.inject(match name.is_empty() || is_refused(&name) {
        true => Work::List(dir),
        false => Work::File(dir, name),
    });
}

/// The name of the index by which a directory is listed once more: the empty one if it could not be listed, or its
/// first refused key. Only the listing tells whether a key is still to be refused, and it brings all other names.
fn listed_by(job: &Job, reader: &Reader<'_>, dir: DirId) -> Result<Option<Name>> {
    match &job.source.bucket {
        _ if reader.is_open_file(dir, c"")? => Ok(Some(Name::default())),
        Some(_) => reader.first_refused(dir),
        None => Ok(None),
    }
}

/// Whether an object of a bucket failed before its name became a directory's. The bucket may have both: then the object
/// is refused.
fn is_dir_by_now(job: &Job, record: Option<&Record>) -> bool {
    job.source.bucket.is_some() && matches!(record, Some(Record::Dir(_)))
}

/// A page of the index of what a run has to do, from behind `after` on. Names of directories that are recorded no more,
/// as earlier versions left them, are closed; so are refused keys of those that this pass has not listed: it refuses
/// them again when it does.
fn open_names(job: &Job, after: &mut Option<LinkName>) -> Result<Option<Vec<LinkName>>> {
    let reader = job.catalog.reader()?;
    let page = reader.open_files(after.as_ref(), PAGE)?;
    let Some(last) = page.last() else { return Ok(None) };
    *after = Some(last.clone());
    let (mut kept, mut rows) = (Vec::with_capacity(page.len()), Vec::new());
    for (dir, name) in page {
        let is_known = dir == DirId::ROOT || reader.dir(dir)?.is_some();
        match is_known && (!is_refused(&name) || job.is_listed(dir)?) {
            true => kept.push((dir, name)),
            false => {
                if is_refused(&name) {
                    rows.push(Row::DeleteEntry { dir, name: name.clone() });
                }
                rows.push(Row::CloseFile { dir, name });
            }
        }
    }
    let reseal_dirs = reader.reseal_dirs()?;
    drop(reader);
    if !rows.is_empty() {
        job.catalog.commit(&Batch { rows, header: job.catalog.header(), reseal_dirs })?;
    }
    Ok(Some(kept))
}

/// Whether a name of an unlisted directory lies before what the listing goes on with.
fn is_before_mark(job: &Job, dir: &DirNode, name: &Name) -> Result<bool> {
    let has_key = !name.is_empty() && !is_refused(name);
    let Some(root) = job.source.bucket.as_ref().filter(|_| has_key) else { return Ok(false) };
    let mark = job.catalog.reader()?.listed_to(dir.id)?;
    Ok(mark.is_some_and(|mark| root.key(dir, name).is_ok_and(|key| key.as_str() <= mark.as_str())))
}

/// Queues the next of the entries that failed, from behind `after` on, up to `RETRIED_ROUND`; the last one looked at,
/// or `None` if there are no more. To be called when nothing is queued, right after a checkpoint.
pub fn retry_failed(job: &Job, after: Option<LinkName>) -> Result<Option<LinkName>> {
    let (last, _) = retry_open(job, after, |reader, dir, name| {
        let is_dir = is_dir_by_now(job, reader.entry(dir, name)?.as_ref());
        Ok(!is_dir && listed_by(job, reader, dir)?.is_none_or(|by| by == *name))
    })?;
    Ok(last)
}

/// Likewise the next of those that `--delete` found missing at the destination, and how many these are. They have no
/// record. Those of directories that this pass has not listed come up when one does.
pub fn retry_missing(job: &Job, after: Option<LinkName>) -> Result<(Option<LinkName>, usize)> {
    retry_open(job, after, |reader, dir, name| {
        let is_missing = reader.entry(dir, name)?.is_none() && job.is_listed(dir)?;
        Ok(is_missing && !reader.is_open_file(dir, c"")?)
    })
}

fn retry_open(
    job: &Job,
    mut after: Option<LinkName>,
    is_wanted: impl Fn(&Reader<'_>, DirId, &Name) -> Result<bool>,
) -> Result<(Option<LinkName>, usize)> {
    let (mut nodes, mut queued) = (HashMap::new(), 0);
    // Ends: each page lies strictly behind the one before.
    while queued < RETRIED_ROUND {
        let Some(page) = open_names(job, &mut after)? else { return Ok((None, queued)) };
        let reader = job.catalog.reader()?;
        for (dir, name) in page {
            if is_wanted(&reader, dir, &name)? {
                queued += 1;
                take_up(job, load_node(&job.catalog, dir, &mut nodes)?, name);
            }
        }
    }
    Ok((after, queued))
}

/// Likewise the next of the entries that have lost something; what is lost of directories is theirs to have again when
/// the run ends, so these are answered.
pub fn retry_losses(job: &Job, mut after: Option<LinkName>) -> Result<(Option<LinkName>, Vec<DirId>)> {
    let reader = job.catalog.reader()?;
    let (mut nodes, mut queued, mut dirs) = (HashMap::new(), 0, Vec::new());
    let is_lossy = |id| Ok::<_, Error>(reader.dir(id)?.is_some_and(|dir| job.progress.renews(dir.losses)));
    if after.is_none() && is_lossy(DirId::ROOT)? {
        dirs.push(DirId::ROOT);
    }
    // Ends: each page lies strictly behind the one before.
    while queued < RETRIED_ROUND {
        let page = reader.all_entries(after.as_ref(), PAGE)?;
        let Some((dir, name, _)) = page.last() else { return Ok((None, dirs)) };
        after = Some((*dir, name.clone()));
        for (dir, name, record) in page {
            match record {
                Record::Dir(id) if is_lossy(id)? => dirs.push(id),
                Record::File(record) if job.progress.is_renewed(&record) => {
                    queued += 1;
                    job.walker.inject(Work::File(load_node(&job.catalog, dir, &mut nodes)?, name));
                }
                _ => {}
            }
        }
    }
    Ok((after, dirs))
}

/// Likewise the next of the names that are links to a file that this pass has replaced under its first name.
pub fn queue_outdated(job: &Job, mut after: Option<LinkName>) -> Result<Option<LinkName>> {
    let reader = job.catalog.reader()?;
    let (mut nodes, mut queued) = (HashMap::new(), 0);
    // Ends: each page lies strictly behind the one before.
    while queued < RETRIED_MAX {
        let page = reader.all_entries(after.as_ref(), PAGE)?;
        let Some((dir, name, _)) = page.last() else { return Ok(None) };
        after = Some((*dir, name.clone()));
        for (dir, name, record) in page {
            let Record::File(record) = record else { continue };
            if record.stamp.size == 0 && record.status != Status::Failed && job.is_outdated_link(&record)? {
                queued += 1;
                job.walker.inject(Work::File(load_node(&job.catalog, dir, &mut nodes)?, name));
            }
        }
    }
    Ok(after)
}

/// A directory by its number, with its parents up to the root, from the catalog. `nodes` remembers those made in one
/// go, so that siblings share their parents.
pub fn load_node(catalog: &Catalog, id: DirId, nodes: &mut HashMap<DirId, Arc<DirNode>>) -> Result<Arc<DirNode>> {
    let reader = catalog.reader()?;
    let mut missing = Vec::new();
    let mut at = id;
    // Ends: a parent's number is lower than its child's, and the root has none.
    let mut node = loop {
        if let Some(node) = nodes.get(&at) {
            break node.clone();
        }
        if at == DirId::ROOT {
            break nodes.entry(at).or_insert_with(DirNode::root).clone();
        }
        let record = reader.dir(at)?;
        let record = record.filter(|record| record.parent < at).ok_or_else(|| {
            let why = "the record of a directory is missing; remove the folder to start over";
            Error::catalog(catalog.path().as_os_str().as_encoded_bytes(), why)
        })?;
        missing.push((at, record.name));
        at = record.parent;
    };
    for (id, name) in missing.into_iter().rev() {
        node = DirNode::child(&node, id, name);
        nodes.insert(id, node.clone());
    }
    Ok(node)
}
