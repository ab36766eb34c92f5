//! What is recorded of a directory of the source: what its copy shows, and which file system it was of.

use std::ffi::CStr;

use crate::catalog::DirStamp;
use crate::error::{Error, Result, escape};
use crate::job::{Job, Past};
use crate::ring::{Caller, Handle, Side, Stat};
use crate::walk::DirNode;

/// What is recorded of a directory of the source. One that a file system was mounted on, and is not any more, stays
/// recorded as that file system's root, whatever is listed below the mount point: that says nothing of what is gone.
pub(crate) fn recorded_as(job: &Job, parent: &DirNode, dir: &DirNode, stamp: DirStamp) -> Result<DirStamp> {
    let is_forced = job.config.delete.is_some_and(|deletes| deletes.is_forced);
    if job.past == Past::Nothing || is_forced || !job.source.inodes.is_lasting() {
        return Ok(stamp);
    }
    let reader = job.catalog.reader()?;
    // In this run's numbers, as all that is compared here.
    let recorded = |id| Ok::<_, Error>(reader.dir(id)?.and_then(|dir| dir.stamp).map(|stamp| job.recorded_dir(stamp)));
    let Some(then) = recorded(dir.id)? else { return Ok(stamp) };
    dir.set_recorded_dev(then.dev);
    let dev_above = match parent.recorded_dev() {
        Some(dev) => Some(dev),
        None => recorded(parent.id)?.map(|stamp| stamp.dev),
    };
    let is_unmounted = is_unmounted(&then, dev_above, &stamp, parent.source_id());
    if is_unmounted {
        let path = escape(&job.path(Side::Source, dir));
        let what = "the file system that was mounted there is not there any more";
        job.console.note(&format!("gfast: {path}: {what}: nothing is deleted for it without --force-delete"));
    }
    let DirStamp { dev, ino, is_mount, .. } = if is_unmounted { then } else { stamp };
    Ok(DirStamp { dev, ino, is_mount, ..stamp })
}

/// Whether a directory that was recorded as `then`, in one on the device `dev_above`, was a mount point, and is none
/// `now`; the one it lies in is `above` now. A directory that was mounted on itself is the same without.
pub(crate) fn is_unmounted(then: &DirStamp, dev_above: Option<u64>, now: &DirStamp, above: Option<(u64, u64)>) -> bool {
    let was_mounted = then.is_mount || dev_above.is_some_and(|dev| dev != then.dev);
    let is_mounted = now.is_mount || above.is_none_or(|(dev, _)| dev != now.dev);
    was_mounted && !is_mounted && (then.dev, then.ino) != (now.dev, now.ino)
}

/// A directory of the source as it is recorded, and shown by its copy. An empty name is the open directory itself.
pub(crate) fn seen(
    job: &Job,
    caller: &dyn Caller,
    (at, name): (&Handle, &CStr),
    dir: &DirNode,
    stat: &Stat,
) -> Result<DirStamp> {
    let shown = job.shown(caller, at, &name.to_owned(), *stat);
    let shown = shown.map_err(|errno| job.dir_error(Side::Source, dir, "read the ACL of", errno))?;
    Ok(DirStamp::of(&shown))
}
