//! Refuses two trees that share a directory: one would be copied into itself, or written over while it is read.
//!
//! Two independent checks. The ancestors of each end are compared with the other end by (dev, ino), which sees what
//! paths hide (symlinks, case, other mounts of a whole file system). Then the mount table, which sees what ancestors
//! hide: bind mounts of parts, and what is mounted below either end and will be walked into.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::mounts::{MountTable, Place};
use super::target::Target;
use super::{Found, describe_at, refused_by};
use crate::config::Mounts;
use crate::error::{Errno, Error, Result, escape};
use crate::report::{Activity, Busy};

/// How one tree lies to the other, seen from the destination.
#[derive(Clone, Copy, Debug)]
enum Relation {
    /// They are one.
    Same,
    /// The destination lies inside the source.
    Inside,
    /// The destination contains the source.
    Contains,
}

/// Refuses a destination that is the source, lies inside it or contains it.
pub(super) fn refuse(source: &Found, dest: &Target, mounts: Mounts, busy: &Busy) -> Result<()> {
    match by_ancestors(source, dest, busy)? {
        Some(relation) => Err(refusal(source, dest, relation, "")),
        None => by_mounts(source, dest, mounts),
    }
}

fn refusal(source: &Found, dest: &Target, relation: Relation, through: &str) -> Error {
    let how = match relation {
        Relation::Same => "is the source itself",
        Relation::Inside => "lies inside the source",
        Relation::Contains => "contains the source",
    };
    Error::refused(dest.path(), format!("the destination {how}{through}: {}", escape(&source.path)))
}

fn by_ancestors(source: &Found, dest: &Target, busy: &Busy) -> Result<Option<Relation>> {
    if dest.is_there() && source.is(&dest.found.stat) {
        return Ok(Some(Relation::Same));
    }
    busy.set(Activity::DestNames);
    if has_ancestor(&dest.found, source)? {
        return Ok(Some(Relation::Inside));
    }
    busy.set(Activity::SourceNames);
    // What does not exist contains nothing.
    if dest.is_there() && has_ancestor(source, &dest.found)? {
        return Ok(Some(Relation::Contains));
    }
    Ok(None)
}

/// Whether `ancestor` is met on the way from `start`, itself included, up to the root directory.
fn has_ancestor(start: &Found, ancestor: &Found) -> Result<bool> {
    let mut here = (start.stat.dev, start.stat.ino, start.stat.mount_id);
    let mut dir: Option<OwnedFd> = None;
    // Ends: every turn is one level higher, and ".." of the root directory is itself.
    loop {
        if (here.0, here.1) == (ancestor.stat.dev, ancestor.stat.ino) {
            return Ok(true);
        }
        let up = rustix::fs::openat(
            dir.as_ref().unwrap_or(&start.fd),
            c"..",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let up = match up {
            Ok(up) => up,
            // A directory that may not be searched ends this way up; the mount table knows the rest by path.
            Err(Errno::ACCESS) => return Ok(false),
            Err(errno) => return Err(refused_by(&start.path, "traced to the root directory", errno)),
        };
        let described = describe_at(&up, c"", AtFlags::EMPTY_PATH);
        let (stat, _) = described.map_err(|errno| refused_by(&start.path, "traced to the root directory", errno))?;
        let above = (stat.dev, stat.ino, stat.mount_id);
        if above == here {
            return Ok(false);
        }
        (here, dir) = (above, Some(up));
    }
}

fn by_mounts(source: &Found, dest: &Target, mounts: Mounts) -> Result<()> {
    let table = MountTable::read()?;
    let unknown = |path: &[u8]| Error::refused(path, "is on no mount of /proc/self/mountinfo");
    let source_place = table.place(source.stat.mount_id, &source.path).ok_or_else(|| unknown(&source.path))?;
    let dest_found = table.place(dest.found.stat.mount_id, &dest.found.path);
    let dest_found = dest_found.ok_or_else(|| unknown(&dest.found.path))?;
    let dest_place = dest.missing().iter().fold(dest_found, |place, name| place.child(name));
    if let Some(relation) = relate(&source_place, &dest_place) {
        return Err(refusal(source, dest, relation, " through another mount"));
    }
    let source_trees = trees(&table, &source.path, source_place, mounts);
    let dest_trees = trees(&table, &dest.path(), dest_place, Mounts::Cross);
    for source_tree in &source_trees {
        if let Some(relation) = dest_trees.iter().find_map(|dest_tree| relate(source_tree, dest_tree)) {
            return Err(refusal(source, dest, relation, " through what is mounted below one of them"));
        }
    }
    Ok(())
}

/// What a walk of `path` reaches: its own place, and what is mounted below it. A walk that stays on one file system may
/// still meet bind mounts of that same file system.
fn trees(table: &MountTable, path: &[u8], own: Place, mounts: Mounts) -> Vec<Place> {
    let is_reached = |place: &Place| mounts == Mounts::Cross || place.shares_device_with(&own);
    let mut trees: Vec<Place> = table.places_below(path).filter(is_reached).collect();
    trees.push(own);
    trees
}

fn relate(source: &Place, dest: &Place) -> Option<Relation> {
    match (source.holds(dest), dest.holds(source)) {
        (true, true) => Some(Relation::Same),
        (true, false) => Some(Relation::Inside),
        (false, true) => Some(Relation::Contains),
        (false, false) => None,
    }
}
