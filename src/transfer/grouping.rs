//! Which of an object's names is copied, and which become links to that one.

use super::Ending;
use crate::catalog::{FileRecord, LinkFirst, Stamp};
use crate::error::Result;
use crate::job::{Job, Place};
use crate::links::{self, LinkKey};
use crate::report::Loss;
use crate::ring::Stat;

/// Whether an object has other names, and which of them is copied.
pub(crate) enum Grouping {
    /// A file of its own.
    Alone,
    /// Several names; this one is copied.
    First(LinkKey),
    /// Likewise, after another one was copied in another state: the file was written to meanwhile. What is recorded of
    /// this name is not to be believed by the next pass, which has to make links of them all.
    Split(LinkKey),
    /// Several names; another one is copied.
    Further(LinkKey),
}

pub(super) fn claim_inode(job: &Job, place: &Place, stat: &Stat) -> Result<Grouping> {
    match stat.nlink {
        0 | 1 => Ok(Grouping::Alone),
        _ => claim_group(job, place, job.link_key(stat), &job.stamp(stat)),
    }
}

/// An unchanged file of several names: where a new ctime counts for nothing, it may have had one only when it was
/// copied. Then nothing tells yet that its new names are links to it. `None`: it is as it was.
pub(super) fn new_first(
    job: &Job,
    place: &Place,
    record: Option<&FileRecord>,
    stat: &Stat,
    group: &mut Option<LinkKey>,
) -> Result<Option<Ending>> {
    let (key, stamp) = (job.link_key(stat), job.stamp(stat));
    if stat.nlink < 2 || record.is_none_or(|record| record.stamp.ctime == stamp.ctime) {
        return Ok(None);
    }
    let first = job.catalog.reader()?.link(key.dev, key.ino)?;
    let is_own = |first: &LinkFirst| first.dir == place.dir.id && first.name == place.name;
    if first.is_some_and(|first| first.batch < job.progress.pass_start_batch || is_own(&first)) {
        return Ok(None);
    }
    Ok(match claim_group(job, place, key, &stamp)? {
        Grouping::Alone => None,
        Grouping::First(key) | Grouping::Split(key) => {
            *group = Some(key);
            Some(Ending::First(key))
        }
        Grouping::Further(key) => Some(Ending::Further(key, stamp)),
    })
}

/// Claims a name for its group. Where there are no hard links a further name is a file of its own, and a loss.
pub(crate) fn claim_group(job: &Job, place: &Place, key: LinkKey, stamp: &Stamp) -> Result<Grouping> {
    let claim = job.links.claim(key, (place.dir.id, place.name.clone()), || job.recorded_first(key, stamp))?;
    match claim {
        links::Claim::Split => Ok(Grouping::Split(key)),
        links::Claim::First if job.is_split(key)? => Ok(Grouping::Split(key)),
        links::Claim::First => Ok(Grouping::First(key)),
        links::Claim::Further if job.links.is_given_up() => {
            job.lose(place, Loss::HardLink)?;
            Ok(Grouping::Alone)
        }
        links::Claim::Further => Ok(Grouping::Further(key)),
    }
}
