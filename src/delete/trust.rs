//! What of the source's absence counts: only a directory that this pass has read to its end, and that is still the one
//! it has read, says that a name is gone. And what at the destination is nobody's to remove: a job's state.

use std::collections::VecDeque;

use super::BATCH;
use super::forget::forget_unlisted;
use crate::catalog::{DirId, DirRecord, DirState};
use crate::config::Mounts;
use crate::error::{Result, escape};
use crate::job::{Job, Past};
use crate::listing::each_page;
use crate::provider::posix::Posix;
use crate::report::{Count, Counters};
use crate::ring::{Caller, Handle, Kind, Name, Side, Stat};
use crate::walk::DirNode;

/// Whether a directory could not be listed: it failed under an empty name.
pub(super) fn has_unlisted(job: &Job) -> Result<bool> {
    let mut after = None;
    // Ends: each page lies strictly behind the one before.
    loop {
        let page = job.catalog.reader()?.open_files(after.as_ref(), BATCH)?;
        let mut gone = Vec::new();
        for (dir, _) in page.iter().filter(|(_, name)| name.is_empty()) {
            match is_gone(job, *dir)? {
                true => gone.push(*dir),
                false => return Ok(true),
            }
        }
        forget_unlisted(&job.catalog, gone)?;
        match page.last() {
            Some(last) => after = Some(last.clone()),
            None => return Ok(false),
        }
    }
}

/// Whether this pass did not meet a directory, though it listed the one where it would have been met.
fn is_gone(job: &Job, mut dir: DirId) -> Result<bool> {
    // Ends: a directory's number is higher than that of the one it lies in.
    while dir != DirId::ROOT && !job.is_listed(dir)? {
        let Some(record) = job.catalog.reader()?.dir(dir)? else { return Ok(false) };
        if is_to_be_trusted(job, record.parent)? {
            return Ok(true);
        }
        if record.parent >= dir {
            return Ok(false);
        }
        dir = record.parent;
    }
    Ok(false)
}

/// Whether this pass has listed all names of a directory, without an error. What it left out, or did not enter because
/// another file system begins there, it knows nothing of.
pub(super) fn is_to_be_trusted(job: &Job, dir: DirId) -> Result<bool> {
    let reader = job.catalog.reader()?;
    let stamp = reader.dir(dir)?.and_then(|record| record.stamp);
    let is_read = match job.config.mounts {
        _ if job.source.bucket.is_some() => true,
        Mounts::Stay => stamp.is_some_and(|stamp| stamp.dev == job.recorded_dev(job.source.stat.dev)),
        _ => stamp.is_some(),
    };
    Ok(is_read
        && job.is_listed(dir)?
        && !reader.is_open_dir(dir, DirState::Unlisted)?
        && !reader.is_open_file(dir, c"")?)
}

/// What became of a directory of the source since this pass listed it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing that matters.
    AsListed,
    /// It changed after an earlier run of the pass listed it. What is gone may have a new name, in it or elsewhere,
    /// that no listing has met: its copy under the old name would be the only one.
    Changed,
    /// It is not the one that was listed, or has no name any more: a file system was mounted or unmounted since, or the
    /// directory was removed. What it does not hold is not known to be gone.
    Another,
}

/// How an open directory of the source stands; says so where it is another one.
pub(super) fn standing(
    job: &Job,
    caller: &dyn Caller,
    counters: &Counters,
    dir: &DirNode,
    source: &Handle,
) -> Result<Standing> {
    let record = job.catalog.reader()?.dir(dir.id)?;
    let is_earlier = record.as_ref().is_some_and(|record| is_of_earlier_run(job, record));
    let now = Posix::new(caller, Side::Source).stat_handle(source);
    Ok(match (record.and_then(|record| record.stamp), now) {
        (Some(stamp), Ok(now)) if job.is_same_dir(&stamp, &now) && !is_nameless(job, &now) => {
            let has_changed = (stamp.mtime, stamp.ctime) != (now.mtime, now.ctime);
            if is_earlier && has_changed { Standing::Changed } else { Standing::AsListed }
        }
        _ => {
            tell_withheld(job, counters, dir, "it is another directory now than the one that was listed");
            Standing::Another
        }
    })
}

/// Says that names stay which the source lacks, since their directory changed.
pub(super) fn tell_changed(job: &Job, counters: &Counters, dir: &DirNode) {
    tell_withheld(job, counters, dir, "it changed after an earlier run listed it: the next pass sees to it");
}

fn tell_withheld(job: &Job, counters: &Counters, dir: &DirNode, why: &str) {
    counters.add(Count::DeletesWithheld, 1);
    let path = escape(&job.path(Side::Source, dir));
    job.console.note(&format!("gfast: nothing is deleted for {path}: {why}"));
}

/// Whether a directory was listed before this run of the pass began: by a batch up to the last durable one of then,
/// which is at most one above the last completed. Where these were the same, this run's first batch counts as earlier.
fn is_of_earlier_run(job: &Job, record: &DirRecord) -> bool {
    job.past == Past::Interrupted && record.listed_batch <= job.progress.completed_batch + 1
}

/// Whether a directory of the source was removed while it was held open. Some file systems count no names at all.
fn is_nameless(job: &Job, now: &Stat) -> bool {
    now.nlink == 0 && job.source.stat.nlink != 0
}

/// Whether the source's root was removed, or cannot be read any more: then every name would seem to be gone.
pub(super) fn is_root_lost(job: &Job, caller: &dyn Caller) -> bool {
    let (posix, root) = (Posix::new(caller, Side::Source), &job.source.handle);
    let is_nameless = posix.stat_handle(root).map_or(true, |now| is_nameless(job, &now));
    is_nameless || each_page(posix, root, VecDeque::clear).is_err()
}

/// Whether an open directory is the folder of a job, this one's or another's (catalog/folder.rs).
pub(crate) fn is_job_folder(dest: Posix<'_>, name: &Name, handle: &Handle) -> bool {
    is_named_so(name) && dest.stat(handle, &c"owner".to_owned()).is_ok_and(|stat| stat.kind() == Kind::File)
}

/// Whether a name in an open directory is what `gfast tune` has found (tune/profile.rs), beside the folders of jobs.
pub(crate) fn is_beside_jobs(dest: Posix<'_>, at: &Handle, name: &Name) -> bool {
    let mut has_job = false;
    let mut look = |folder: &Name| {
        has_job = has_job
            || is_named_so(folder) && dest.open_dir(at, folder).is_ok_and(|open| is_job_folder(dest, folder, &open));
    };
    let is_so = name.to_bytes() == b"profiles"
        && each_page(dest, at, |page| page.drain(..).for_each(|entry| look(&entry.name))).is_ok();
    is_so && has_job
}

fn is_named_so(name: &Name) -> bool {
    let name = name.as_bytes();
    let number = name.strip_prefix(b"job-").or_else(|| name.strip_prefix(b"new-"));
    number.is_some_and(|number| number.len() == 16 && number.iter().all(u8::is_ascii_hexdigit))
}
