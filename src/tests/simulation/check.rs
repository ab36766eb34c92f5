//! What must hold, told from the disks and the catalog alone.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::{Machine, Ran, Style};
use crate::catalog::{Catalog, DirId, DirState, FileRecord, Header, Record, Stamp, Status};
use crate::config::{Attributes, Metadata};
use crate::error::{Result, escape};
use crate::report::Count;
use crate::ring::sim::{Disk, Dump, Entry, EntryKind};
use crate::ring::{Name, Stat};
use crate::temporaries::Temporaries;

/// What is wrong, or nothing.
pub type Verdict = std::result::Result<(), String>;

/// What the catalog claims.
pub struct Claims {
    /// The header.
    pub header: Header,
    /// Records of everything but directories.
    pub files: BTreeMap<Vec<u8>, FileRecord>,
    /// What this pass calls failed; a directory by its own path.
    pub failed: BTreeSet<Vec<u8>>,
    /// Large files that have ranges.
    pub ranged: BTreeSet<u64>,
}

impl Claims {
    /// Reads all of it.
    pub fn of(catalog: &Catalog) -> Result<Claims> {
        let reader = catalog.reader()?;
        let header = catalog.header();
        let (mut files, mut failed) = (BTreeMap::new(), BTreeSet::new());
        let mut found = vec![(DirId::ROOT, Vec::new())];
        while let Some((id, path)) = found.pop() {
            let unfinished = reader.open_dirs_below(Some(DirId(id.0 + 1)), Some(DirState::Unfinished), 1)?;
            if unfinished.first().is_some_and(|(found, _)| *found == id) {
                failed.insert(path.clone());
            }
            for (name, record) in reader.entries(id, None, usize::MAX)? {
                let path = join(&path, name.as_bytes());
                match record {
                    Record::Dir(id) => found.push((id, path)),
                    Record::File(record) => {
                        let is_open = reader.open_files(None, usize::MAX)?.contains(&(id, name));
                        if is_open && record.batch >= header.pass_start_batch {
                            failed.insert(path.clone());
                        }
                        files.insert(path, record);
                    }
                }
            }
        }
        let ranged = reader.ranged(usize::MAX)?.into_iter().collect();
        Ok(Claims { header, files, failed, ranged })
    }

    /// Whether `path` or a directory above it is among what failed.
    pub fn is_failed(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| self.failed.contains(&path[..end])) || self.failed.contains(&b""[..])
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    match (dir.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => dir.to_vec(),
        _ => [dir, b"/", name].concat(),
    }
}

/// How an object looks: as dumped, without what belongs to names, and with its atime.
fn same(wanted: (&Entry, &Stat), there: Option<(&Entry, Stat)>, style: &Style) -> Verdict {
    let Some((entry, stat)) = there else { return Err("is missing".into()) };
    let bare = |kind: &EntryKind| match kind {
        EntryKind::File { size, content, .. } => {
            EntryKind::File { size: *size, content: content.clone(), first: Vec::new() }
        }
        other => other.clone(),
    };
    if bare(&wanted.0.kind) != bare(&entry.kind) {
        return Err(format!("is {:?}, not {:?}", entry.kind, wanted.0.kind));
    }
    let times = |stat: &Stat| (stat.atime, stat.mtime);
    if times(wanted.1) != times(&stat) {
        return Err(format!("has times {:?}, not {:?}", times(&stat), times(wanted.1)));
    }
    let owner = |entry: &Entry| (format!("{:o}", entry.mode), entry.uid, entry.gid);
    if style.metadata == Metadata::Keep && owner(entry) != owner(wanted.0) {
        return Err(format!("has mode and owner {:?}, not {:?}", owner(entry), owner(wanted.0)));
    }
    if style.attributes == Attributes::All {
        return match entry.xattrs == wanted.0.xattrs {
            true => Ok(()),
            false => Err(format!("has attributes {:?}, not {:?}", entry.xattrs, wanted.0.xattrs)),
        };
    }
    if entry.has_acls && entry.kind != EntryKind::Dir {
        return Err("has an ACL that its source has not".into());
    }
    Ok(())
}

/// I1: every record that counts as Completed has the right object on `disk`.
pub fn claims_hold(machine: &Machine, claims: &Claims, disk: &Disk) -> Verdict {
    let dest = disk.dump();
    let sources: Vec<(&Disk, Dump)> = machine.sources().into_iter().map(|source| (source, source.dump())).collect();
    let mut inodes: BTreeMap<(u64, u64), (u64, &[u8])> = BTreeMap::new();
    for (path, record) in &claims.files {
        let is_completed = record.status == Status::Done && record.batch <= claims.header.completed_batch;
        let is_current = machine.source.stat_path(path).is_some_and(|stat| Stamp::of(&stat) == record.stamp);
        if !is_completed || !(is_current || record.batch >= claims.header.pass_start_batch) {
            continue;
        }
        let version = sources.iter().rev().enumerate().find_map(|(age, (source, dump))| {
            let is_version = |stamp: Stamp| stamp == record.stamp || stamp.racy() == record.stamp;
            let stat = source.stat_path(path).filter(|stat| is_version(Stamp::of(stat)))?;
            Some((age as u64, stat, &dump[path]))
        });
        let Some((age, stat, entry)) = version else {
            return Err(format!("I1: {} has a stamp that its source never had", escape(path)));
        };
        let there = dest.get(path).zip(disk.stat_path(path));
        let ino = there.as_ref().map_or(0, |(_, stat)| stat.ino);
        same((entry, &stat), there, &machine.style).or_else(|what| {
            match machine.may_adopt && looks_like_a_version(&sources, path, entry, dest.get(path)) {
                true => Ok(()),
                false => Err(format!("I1: {} is Completed but {what}", escape(path))),
            }
        })?;
        if matches!(entry.kind, EntryKind::File { .. }) {
            let (first, other) = *inodes.entry((age, stat.ino)).or_insert((ino, path));
            if first != ino {
                let other = escape(other);
                return Err(format!("I1: {} and {other} are Completed and no hard links", escape(path)));
            }
        }
    }
    Ok(())
}

/// A power cut may take a record and leave its file, sealed; others come from elsewhere. If the source then gets other
/// bytes with the same size and the same mtime, the file is adopted: nothing but its bytes tells the two apart.
fn looks_like_a_version(sources: &[(&Disk, Dump)], path: &[u8], wanted: &Entry, there: Option<&Entry>) -> bool {
    let quiet = |version: &&Entry| match (&version.kind, &wanted.kind) {
        (EntryKind::File { size, .. }, EntryKind::File { size: wanted_size, .. }) => {
            size == wanted_size && version.mtime == wanted.mtime
        }
        _ => false,
    };
    let mut versions = sources.iter().filter_map(|(_, source)| source.get(path)).filter(quiet);
    there.is_some_and(|there| versions.any(|version| there.mtime == version.mtime && same_bytes(version, there)))
}

fn same_bytes(a: &Entry, b: &Entry) -> bool {
    match (&a.kind, &b.kind) {
        (EntryKind::File { size, content, .. }, EntryKind::File { size: other_size, content: other, .. }) => {
            (size, content) == (other_size, other)
        }
        _ => false,
    }
}

/// I2: no file with a source's mtime has other bytes.
pub fn seals_hold(machine: &Machine, disk: &Disk) -> Verdict {
    let sources: Vec<Dump> = machine.sources().into_iter().map(Disk::dump).collect();
    for (path, there) in disk.dump() {
        let EntryKind::File { size, content, .. } = &there.kind else { continue };
        let versions = sources.iter().filter_map(|source| source.get(&path)).filter(|v| v.mtime == there.mtime);
        let contents: Vec<_> = versions
            .filter_map(|version| match &version.kind {
                EntryKind::File { size, content, .. } => Some((size, content)),
                _ => None,
            })
            .collect();
        if !contents.is_empty() && !contents.contains(&(size, content)) {
            return Err(format!("I2: {} is sealed with {size} bytes {content:?}, not {contents:?}", escape(&path)));
        }
    }
    Ok(())
}

/// A finished run: what did not fail and did not change since `before` is there; failures are counted.
pub fn outcome_is_true(machine: &Machine, claims: &Claims, ran: &Ran, before: &Disk, disk: &Disk) -> Verdict {
    // What failed in an interrupted run and then vanished from the source is not met again.
    let failed = claims.failed.iter().filter(|path| machine.source.stat_path(path).is_some());
    let failed: Vec<String> = failed.map(|path| escape(path)).collect();
    // What failed in this run and had vanished when it was tried again is counted as both, and recorded no more.
    let may_be_gone = ran.totals.get(Count::Vanished) > 0;
    let is_unrecorded = ran.failures() > 0 && claims.failed.is_empty() && !may_be_gone;
    if is_unrecorded || (ran.failures() == 0 && !failed.is_empty()) {
        return Err(format!("{} failures counted, but recorded: {failed:?}", ran.failures()));
    }
    if !claims.ranged.is_empty() {
        return Err(format!("ranges of {:?} are recorded, and no file is in progress", claims.ranged));
    }
    let is_excused = |path: &[u8]| {
        let (then, now) = (before.stat_path(path), machine.source.stat_path(path));
        then.zip(now).is_none_or(|(then, now)| then.ctime != now.ctime || then.ino != now.ino) || claims.is_failed(path)
    };
    trees_agree(machine, disk, is_excused)?;
    no_temporary_names(machine, claims, disk)
}

/// One name of a file: its path, the destination's inode, its names there, its names in the source.
type Linked<'a> = (&'a [u8], u64, u32, u32);

/// The destination has all that the source has, but for what `is_excused`.
pub fn trees_agree(machine: &Machine, disk: &Disk, is_excused: impl Fn(&[u8]) -> bool) -> Verdict {
    let (source, dest) = (machine.source.dump(), disk.dump());
    let sources: Vec<(&Disk, Dump)> = machine.sources().into_iter().map(|source| (source, source.dump())).collect();
    let mut groups: BTreeMap<u64, Vec<Linked>> = BTreeMap::new();
    let mut torn: BTreeSet<u64> = BTreeSet::new();
    for (path, entry) in &source {
        let stat = machine.source.stat_path(path).expect("it was dumped");
        if is_excused(path) {
            torn.insert(stat.ino);
            continue;
        }
        let there = dest.get(path).zip(disk.stat_path(path));
        let found = there.as_ref().map(|(_, stat)| (stat.ino, stat.nlink));
        same((entry, &stat), there, &machine.style).or_else(|what| {
            match machine.may_adopt && looks_like_a_version(&sources, path, entry, dest.get(path)) {
                true => Ok(()),
                false => Err(format!("{} {what}", escape(path))),
            }
        })?;
        if let (EntryKind::File { .. }, Some((ino, nlink))) = (&entry.kind, found) {
            groups.entry(stat.ino).or_default().push((path, ino, nlink, stat.nlink));
        }
    }
    for (_, names) in groups.iter().filter(|(ino, _)| !torn.contains(ino)) {
        let (_, ino, nlink, wanted) = names[0];
        // Names that the source has no more stay, and stay names of the same file; so does one that is another object
        // there by now, and failed.
        let is_kept = |path: &&Vec<u8>| {
            let is_left = !source.contains_key(*path) || is_excused(path);
            is_left && disk.stat_path(path).is_some_and(|stat| stat.ino == ino)
        };
        let kept = if nlink == wanted { 0 } else { dest.keys().filter(is_kept).count() as u32 };
        if nlink != wanted + kept || names.iter().any(|name| name.1 != ino) {
            let names: Vec<String> = names.iter().map(|name| format!("{} ino {}", escape(name.0), name.1)).collect();
            return Err(format!("{nlink} names instead of {wanted}: {names:?}"));
        }
    }
    Ok(())
}

/// Nothing is left under the temporary name of an object that the source still has.
fn no_temporary_names(machine: &Machine, claims: &Claims, disk: &Disk) -> Verdict {
    for (path, entry) in machine.source.dump() {
        let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        if entry.kind == EntryKind::Dir || claims.is_failed(&path) {
            continue;
        }
        let name = Name::new(name).expect("a name holds no NUL");
        let temp = join(dir, Temporaries::new(claims.header.job_id).of(&name).as_bytes());
        if disk.stat_path(&temp).is_some() {
            return Err(format!("{} of {} is left", escape(&temp), escape(&path)));
        }
    }
    Ok(())
}
