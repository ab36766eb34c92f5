//! Refuses two trees that share a directory: one would be copied into itself, or written over while it is read.
//!
//! Two independent checks. The ancestors of each end are compared with the other end by (dev, ino), which sees what
//! paths hide (symlinks, case, other mounts of a whole file system). Then the mount table, which sees what ancestors
//! hide: bind mounts of parts, several exports of one server, and what is mounted below either end and will be walked
//! into.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::mounts::{MountTable, Place};
use super::target::Target;
use super::{Found, describe_at, refused_by};
use crate::config::Mounts;
use crate::error::{Errno, Error, Result, escape};
use crate::report::{Activity, Busy};

/// How one tree lies to the other, seen from the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    let place = |found: &Found| table.place(found.stat.mount_id, &found.path, found.stat.dev);
    let (source_place, dest_found) = (place(source), place(&dest.found));
    let dest_place = dest.missing().iter().fold(dest_found, |place, name| place.child(name));
    match through_mounts(&table, (&source.path, source_place), (&dest.path(), dest_place), mounts) {
        Some((relation, through)) => Err(refusal(source, dest, relation, through)),
        None => Ok(()),
    }
}

/// How the table says that two ends lie to each other, and through what.
fn through_mounts(
    table: &MountTable,
    (source, source_place): (&[u8], Place),
    (dest, dest_place): (&[u8], Place),
    mounts: Mounts,
) -> Option<(Relation, &'static str)> {
    if let Some(relation) = relate(&source_place, &dest_place) {
        return Some((relation, " through another mount"));
    }
    let source_trees = trees(table, source, source_place, mounts);
    let dest_trees = trees(table, dest, dest_place, Mounts::Cross);
    let mut related = source_trees.iter().flat_map(|source| dest_trees.iter().map(move |dest| relate(source, dest)));
    related.find_map(|relation| Some((relation?, " through what is mounted below one of them")))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.1 prints NFS, SMB and sshfs; 0:41 as it did before 5.11.
    const TABLE: &[u8] = b"\
20 1 0:19 / / rw - ext4 /dev/vda rw
30 20 0:26 / /3/a rw,relatime - nfs nas:/vol/q1 rw,vers=3,hard,mountaddr=10.0.0.1,local_lock=all,addr=10.0.0.1
31 20 0:26 / /3/b rw,relatime - nfs nas:/vol/q2 rw,vers=3,hard,mountaddr=10.0.0.1,local_lock=all,addr=10.0.0.1
32 20 0:26 / /3/vol rw,relatime - nfs nas:/vol rw,vers=3,hard,mountaddr=10.0.0.1,local_lock=all,addr=10.0.0.1
33 20 0:26 / /3/q rw,relatime - nfs nas:/vol/p/q rw,vers=3,hard,mountaddr=10.0.0.1,local_lock=all,addr=10.0.0.1
37 20 0:26 / /3/bind rw,relatime - nfs nas:/vol/p/q rw,vers=3,hard,mountaddr=10.0.0.1,local_lock=all,addr=10.0.0.1
34 20 0:26 / /3/alias rw,relatime - nfs alias:/vol/p rw,vers=3,hard,mountaddr=10.0.0.1,local_lock=all,addr=10.0.0.1
35 20 0:27 / /3/ro ro,relatime - nfs nas:/vol/p/ ro,vers=3,hard,mountaddr=10.0.0.1,local_lock=all,addr=10.0.0.1
36 20 0:28 / /3/other rw,relatime - nfs nas:/vol/p rw,vers=3,hard,mountaddr=10.0.0.2,local_lock=all,addr=10.0.0.2
38 20 0:29 / /4/new rw,relatime - nfs4 new:/vol rw,vers=4.2,hard,clientaddr=10.0.0.9,local_lock=none,addr=10.0.0.3
39 20 0:30 / /4/a rw,relatime - nfs4 10.0.0.1:/vol/q1 rw,vers=4.2,hard,clientaddr=10.0.0.9,local_lock=none,addr=10.0.0.1
50 20 0:41 /p/q /smb/q rw,relatime - cifs //nas/data/p/q rw,vers=3.1.1,addr=10.0.0.1,serverino
51 20 0:41 /p /smb/p rw,relatime - cifs //nas/data/p/q rw,vers=3.1.1,addr=10.0.0.1,serverino
52 20 0:42 / /smb/ro ro,relatime - cifs //NAS/Data ro,vers=3.1.1,addr=10.0.0.1,serverino
53 20 0:43 / /smb/sub rw,relatime - cifs //nas/data/p rw,vers=3.1.1,addr=10.0.0.1,serverino
54 20 0:43 /q /smb/bind rw,relatime - cifs //nas/data/p rw,vers=3.1.1,addr=10.0.0.1,serverino
60 20 0:51 / /ssh/home rw,relatime - fuse.sshfs far:/home rw,user_id=0,group_id=0
61 20 0:52 / /ssh/x rw,relatime - fuse.sshfs root@far:/home/x rw,user_id=0,group_id=0
";

    fn told<'p>(source: &'p str, dest: &'p str, mounts: Mounts) -> Option<Relation> {
        let table = MountTable::parse(TABLE);
        let end = |path: &'p str| (path.as_bytes(), table.place(0, path.as_bytes(), 0));
        through_mounts(&table, end(source), end(dest), mounts).map(|(relation, _)| relation)
    }

    #[test]
    fn exports_of_one_server_are_told_apart_and_together() {
        use Relation::{Contains, Inside, Same};
        for (source, dest, expected) in [
            ("/3/a", "/3/b", None),
            ("/3/a/x", "/3/b/x", None),
            ("/3/vol/q1", "/3/q", None),
            ("/3/a", "/4/new", None),
            ("/3/vol", "/4/new", None),
            ("/3/vol/p", "/3/q/backup", Some(Inside)),
            ("/3/q/data", "/3/vol/p", Some(Contains)),
            ("/3/bind/data", "/3/vol/p", Some(Contains)),
            ("/3/vol/p", "/3/alias", Some(Same)),
            ("/3/ro", "/3/q/backup", Some(Inside)),
            ("/3/q", "/3/ro", Some(Contains)),
            ("/3/other", "/3/q/backup", Some(Inside)),
            ("/3/a", "/4/a", Some(Same)),
            ("/smb/p", "/smb/q/new", Some(Inside)),
            ("/smb/ro/p", "/smb/q/new", Some(Inside)),
            ("/smb/ro/x", "/smb/q/new", None),
            ("/smb/sub", "/smb/bind/new", Some(Inside)),
            ("/smb/bind", "/smb/ro/p", Some(Contains)),
            ("/smb/q", "/smb/bind", Some(Same)),
            ("/smb/q/q", "/smb/bind/x", None),
            ("/ssh/home", "/ssh/x/new", Some(Inside)),
            ("/ssh/home/y", "/ssh/x", None),
        ] {
            assert_eq!(told(source, dest, Mounts::Cross), expected, "{source} {dest}");
        }
    }

    #[test]
    fn exports_that_are_mounted_below_an_end_are_met() {
        assert_eq!(told("/smb", "/3", Mounts::Cross), None);
        assert_eq!(told("/4", "/3", Mounts::Cross), Some(Relation::Same));
        assert_eq!(told("/4", "/3", Mounts::Stay), None);
        assert_eq!(told("/3/a", "/3/vol", Mounts::Stay), Some(Relation::Contains));
    }
}
