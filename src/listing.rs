//! One directory being listed: opened on both sides, its names handed out one by one.
//!
//! Names come in buffers of 64 KiB, each looked up in the catalog as one run while it is parsed; what is not yet handed
//! out is one buffer's worth (I4: a directory of a million names needs no more memory than one of a thousand). Only
//! what the walk must know is asked of the source: the directory itself is described once, its entries not at all.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::catalog::{DirId, Record};
use crate::config::{Metadata, Mounts, scaled};
use crate::dir_stamp::{recorded_as, seen};
use crate::dirents::records;
use crate::error::{Cause, Errno, Error, Result};
use crate::filesystem::{FileSystem, Reach};
use crate::forms;
use crate::job::{Job, Past};
use crate::names::{self, Claim};
use crate::provider::metadata;
use crate::provider::posix::{Posix, Verb};
use crate::ring::{Caller, Handle, Kind, Name, Side, Stat};
use crate::walk::{DestDir, DirCache, DirNode, DirPair, Entry, OpenDirs, path_steps};

/// Bytes of one getdents buffer.
pub(crate) const BUFFER_BYTES: usize = scaled(64 << 10, 1 << 10);

/// A directory whose names are being handed out.
#[derive(Debug)]
pub struct Listing {
    /// The directory.
    pub dir: Arc<DirNode>,
    /// Both sides of it, to reach what it names.
    pub open: DirPair,
    /// What its names are read from.
    names: Handle,
    /// Those that were read.
    met: Met,
    /// Names parsed and not handed out.
    entries: VecDeque<Entry>,
    /// What getdents fills.
    buffer: Vec<u8>,
    /// Whether the source has no more names.
    at_end: bool,
}

/// What became of opening a directory for its listing.
#[derive(Debug)]
pub enum Opened {
    /// It can be listed.
    Listing(Box<Listing>),
    /// It is left out, for this reason: the state directory, a mount point, a kernel file system.
    LeftOut(&'static str),
    /// It may not be read. It is made at the destination all the same, with its own metadata.
    Unreadable(Error),
}

impl Listing {
    /// Opens `dir`, and its side at the destination if this pass may need it, which is created if it is missing (mode
    /// 0700 until it is finished, I9). Where a directory above it has become stale it is looked up once more, from the
    /// root.
    pub fn open(job: &Job, caller: &dyn Caller, dirs: &mut OpenDirs, dir: &Arc<DirNode>) -> Result<Opened> {
        match Listing::try_open(job, caller, dirs, dir) {
            Err(error) if error.is_stale() => {
                dirs.forget(dir);
                Listing::try_open(job, caller, dirs, dir)
            }
            opened => opened,
        }
    }

    fn try_open(job: &Job, caller: &dyn Caller, dirs: &mut OpenDirs, dir: &Arc<DirNode>) -> Result<Opened> {
        let (open, stat) = match &dir.parent {
            None => {
                let open = DirPair { source: job.source.handle.clone(), dest: job.dest.handle.clone() };
                let stat = Posix::new(caller, Side::Source).stat_handle(&open.source);
                let stat = stat.map_err(|errno| job.dir_error(Side::Source, dir, "stat", errno))?;
                let then = job.catalog.reader()?.dir(dir.id)?.and_then(|record| record.stamp);
                then.iter().for_each(|then| dir.set_recorded_dev(job.recorded_dev(then.dev)));
                dir.set_stamp(seen(job, caller, (&open.source, c""), dir, &stat)?);
                look_at_dest(job, caller, dir, &open)?;
                (open, stat)
            }
            Some(parent) => match open_child(job, caller, dirs, parent, dir)? {
                Child::Open(open, stat) => (open, stat),
                Child::LeftOut(reason) => return Ok(Opened::LeftOut(reason)),
                Child::Unreadable(errno) => {
                    return Ok(Opened::Unreadable(job.dir_error(Side::Source, dir, "open", errno)));
                }
            },
        };
        remove_probe(job, caller, &open.dest);
        let (entries, buffer) = (listed_entries(job, dir), vec![0; BUFFER_BYTES]);
        // A mount point that is not crossed is an empty directory.
        let is_other_mount = job.config.mounts == Mounts::Stay && stat.dev != job.source.stat.dev;
        let at_end = is_other_mount || entries.is_some();
        let entries = entries.filter(|_| !is_other_mount).unwrap_or_default();
        let names = open.source.clone();
        let mut listing = Listing { dir: dir.clone(), open, names, met: Met::new(job.reach), entries, buffer, at_end };
        listing.look_up(job)?;
        Ok(Opened::Listing(Box::new(listing)))
    }

    /// A listing of entries that another shard found.
    pub fn of_slice(dir: Arc<DirNode>, open: DirPair, entries: VecDeque<Entry>) -> Listing {
        let names = open.source.clone();
        Listing { dir, open, names, met: Met::new(Reach::Local), entries, buffer: Vec::new(), at_end: true }
    }

    /// The next name, or `None` at the end.
    pub fn next(&mut self, job: &Job, caller: &dyn Caller, dirs: &mut OpenDirs) -> Result<Option<Entry>> {
        let posix = Posix::new(caller, Side::Source);
        let failed = |dir: &DirNode, errno| job.dir_error(Side::Source, dir, "list", errno);
        // Ends: each turn parses a full buffer, reaches the end, or begins once more.
        while self.entries.is_empty() && !self.at_end {
            let filled = match posix.read_dir(&self.names, &mut self.buffer) {
                Err(Errno::STALE) if self.met.begin_again() => {
                    dirs.forget(&self.dir);
                    self.open = open_listed(job, caller, dirs, &self.dir)?;
                    let again = posix.open_dir(&self.open.source, &c".".to_owned());
                    self.names = again.map_err(|errno| failed(&self.dir, errno))?;
                    continue;
                }
                filled => filled.map_err(|errno| failed(&self.dir, errno))?,
            };
            self.at_end = filled == 0;
            parse(&self.buffer[..filled], &mut self.entries);
            self.met.take_in(&mut self.entries);
            self.look_up(job)?;
        }
        Ok(self.entries.pop_front())
    }

    /// Adds what the catalog knows of the names at hand. What is recorded of files counts for nothing where the
    /// destination's directory had to be made.
    fn look_up(&mut self, job: &Job) -> Result<()> {
        look_up(job, self.dir.id, &mut self.entries)?;
        if self.dir.dest() == DestDir::Created {
            let forget = |entry: &mut Entry| drop(entry.record.take_if(|record| matches!(record, Record::File(_))));
            self.entries.iter_mut().for_each(forget);
        }
        Ok(())
    }

    /// Gives away the later half of the names at hand, if they are worth opening the directory once more.
    pub fn split(&mut self, reach: Reach) -> Option<VecDeque<Entry>> {
        let worth_sharing = match reach {
            Reach::Local => scaled(128, 4),
            Reach::Remote => 4,
        };
        if self.entries.len() < worth_sharing {
            return None;
        }
        Some(self.entries.split_off(self.entries.len() / 2))
    }
}

/// Names of a directory that were read. One that becomes stale (ESTALE) while it is listed is read from its beginning
/// again, and what was met of it is passed over. That takes memory, so it is for storages where handles become stale,
/// and for directories of few names (I4); others fail then.
#[derive(Debug)]
pub(crate) struct Met {
    /// All of them, if there are few.
    names: HashSet<Name>,
    /// How it may begin again.
    again: Again,
}

/// Whether a listing may begin once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It may.
    Possible,
    /// It may not: not all names are known.
    Never,
    /// It has.
    Begun,
}

/// Most names of a directory that are kept: some 250 KB for each listing under way.
const MET_MAX: usize = scaled(4096, 64);

impl Met {
    /// None yet.
    pub(crate) fn new(reach: Reach) -> Met {
        let again = if reach == Reach::Remote { Again::Possible } else { Again::Never };
        Met { names: HashSet::new(), again }
    }

    /// Whether the listing is to begin once more.
    pub(crate) fn begin_again(&mut self) -> bool {
        let is_possible = self.again == Again::Possible;
        if is_possible {
            self.again = Again::Begun;
        }
        is_possible
    }

    /// Notes names that were read; of a listing that began once more only those stay that were not met before.
    pub(crate) fn take_in(&mut self, entries: &mut VecDeque<Entry>) {
        match self.again {
            Again::Never => {}
            Again::Begun => entries.retain(|entry| !self.names.contains(&entry.name)),
            Again::Possible if self.names.len() + entries.len() > MET_MAX => *self = Met::new(Reach::Local),
            Again::Possible => self.names.extend(entries.iter().map(|entry| entry.name.clone())),
        }
    }
}

/// Puts the names of a buffer of directory records in the order of their inodes.
pub(crate) fn parse(filled: &[u8], entries: &mut VecDeque<Entry>) {
    let mut found: Vec<_> = records(filled).collect();
    found.sort_unstable_by_key(|(_, ino, _)| *ino);
    entries.extend(found.into_iter().map(|(name, ino, kind)| {
        let name = Name::new(name).expect("I8: the name was cut at its NUL");
        Entry { name, kind, ino, record: None, stamp: None, page: None }
    }));
}

/// Reads a directory's names from its beginning, a buffer at a time.
pub(crate) fn each_page(
    posix: Posix<'_>,
    dir: &Handle,
    mut take: impl FnMut(&mut VecDeque<Entry>),
) -> std::result::Result<(), Errno> {
    // A handle of its own has an offset of its own.
    let handle = posix.open_dir(dir, &c".".to_owned())?;
    let (mut entries, mut buffer) = (VecDeque::new(), vec![0; BUFFER_BYTES]);
    // Ends: the directory does.
    loop {
        let filled = posix.read_dir(&handle, &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        parse(&buffer[..filled], &mut entries);
        take(&mut entries);
        entries.clear();
    }
}

/// Adds what the catalog knows of the names of a directory.
pub(crate) fn look_up(job: &Job, dir: DirId, entries: &mut VecDeque<Entry>) -> Result<()> {
    if job.past == Past::Nothing || entries.is_empty() {
        return Ok(());
    }
    let mut asked: Vec<_> = entries.iter_mut().map(|entry| (entry.name.as_c_str(), &mut entry.record)).collect();
    job.catalog.reader()?.entries_named(dir, &mut asked)
}

/// The names of a directory of which the user's list names only a part: it need not be read.
fn listed_entries(job: &Job, dir: &DirNode) -> Option<VecDeque<Entry>> {
    job.choice.list.as_ref()?;
    let path = dir.path();
    let names = job.choice.names_in(&path)?.into_iter();
    // No name of the list holds a NUL: it was read as what stands between them.
    let names = names.filter_map(|name| Name::new(name).ok());
    Some(
        names
            .map(|name| Entry { name, kind: libc::DT_UNKNOWN, ino: 0, record: None, stamp: None, page: None })
            .collect(),
    )
}

/// Both sides of a directory that was listed before. One that this pass has not needed at the destination is made if
/// it is missing by now, and so are those above it.
pub fn open_pair(job: &Job, caller: &dyn Caller, dirs: &mut OpenDirs, dir: &Arc<DirNode>) -> Result<DirPair> {
    let upwards = std::iter::successors(Some(dir), |node| node.parent.as_ref());
    let unneeded: Vec<_> = upwards.take_while(|node| node.dest() == DestDir::Unneeded).collect();
    for node in unneeded.into_iter().rev() {
        if make_child(job, caller, dirs, node)?.1 == DestDir::Created || node.is_widened() {
            dirs.made.push(node.clone());
        }
    }
    let source = open_side(job, caller, Side::Source, &mut dirs.source, dir)?;
    let dest = open_side(job, caller, Side::Dest, &mut dirs.dest, dir)?;
    Ok(DirPair { source, dest })
}

/// A directory that is being listed: both sides if this pass needs them by now.
pub fn open_listed(job: &Job, caller: &dyn Caller, dirs: &mut OpenDirs, dir: &Arc<DirNode>) -> Result<DirPair> {
    match dir.dest() {
        DestDir::Unneeded => {
            let source = open_side(job, caller, Side::Source, &mut dirs.source, dir)?;
            Ok(DirPair { source, dest: job.nowhere.clone() })
        }
        _ => open_pair(job, caller, dirs, dir),
    }
}

/// One side of a directory that was listed before, reopened from the nearest open ancestor; from the root where one
/// has become stale. One that the source has no more is [`Cause::Vanished`].
pub(crate) fn open_side(
    job: &Job,
    caller: &dyn Caller,
    side: Side,
    cache: &mut DirCache<Handle>,
    dir: &Arc<DirNode>,
) -> Result<Handle> {
    match try_open_side(job, caller, side, cache, dir) {
        Err(error) if error.is_stale() => {
            cache.forget(dir);
            try_open_side(job, caller, side, cache, dir)
        }
        opened => opened,
    }
}

fn try_open_side(
    job: &Job,
    caller: &dyn Caller,
    side: Side,
    cache: &mut DirCache<Handle>,
    dir: &Arc<DirNode>,
) -> Result<Handle> {
    if let Some(handle) = cache.get(dir) {
        return Ok(handle);
    }
    let (mut handle, below) = cache.nearest(dir);
    for (path, node) in path_steps(&below) {
        let opened = Posix::new(caller, side).open_dir(&handle, &path);
        handle = opened.map_err(|errno| match (side, errno) {
            (Side::Source, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Error { verb: "open", object: job.path(side, node), cause: Cause::Vanished }
            }
            (side, errno) => job.dir_error(side, node, "open", errno),
        })?;
        if side == Side::Dest {
            note_dest(job, caller, node, &handle)?;
        }
        cache.insert(node, handle.clone());
    }
    Ok(handle)
}

/// A destination directory that an earlier run listed is open again: its file system is among those to sync (I1).
fn note_dest(job: &Job, caller: &dyn Caller, dir: &Arc<DirNode>, handle: &Handle) -> Result<()> {
    if job.dest.bucket.is_some() {
        return Ok(());
    }
    let there = Posix::new(caller, Side::Dest).stat_handle(handle);
    let there = there.map_err(|errno| job.dir_error(Side::Dest, dir, "stat", errno))?;
    job.note_superblock(there.dev, handle)
}

/// Removes what an interrupted run left in a directory when it tried the destination.
pub(crate) fn remove_probe(job: &Job, caller: &dyn Caller, dest: &Handle) {
    let is_file_system = job.dest.bucket.is_none() && job.dest.device.is_none();
    if job.past != Past::Interrupted || !is_file_system {
        return;
    }
    forms::remove_trial(job, caller, dest);
    if job.dest_reach() == Reach::Remote {
        for probe in [job.temporaries.probe(), job.temporaries.former_probe()] {
            metadata::remove_probe(&Posix::new(caller, Side::Dest), dest, &probe);
        }
    }
}

/// A directory that was not listed by this run: whether it hands a default ACL on, or may be written to, is not known
/// yet (I9). The root's way is clear already.
pub fn look_at_dest(job: &Job, caller: &dyn Caller, dir: &DirNode, open: &DirPair) -> Result<()> {
    if dir.dest() == DestDir::Unknown {
        let dest = Posix::new(caller, Side::Dest);
        remove_probe(job, caller, &open.dest);
        let there = dest.stat_handle(&open.dest);
        let there = there.map_err(|errno| job.dir_error(Side::Dest, dir, "stat", errno))?;
        if dir.parent.is_some() && job.identity.uid != 0 {
            widen(job, dest, dir, &open.dest, &there)?;
        }
        let handed = handed_on(job, dest, &open.dest, &there);
        dir.set_dest(handed.map_err(|errno| job.dir_error(Side::Dest, dir, "read the ACL of", errno))?);
    }
    Ok(())
}

/// What an existing directory of the destination, of this description, hands on to what is created in it (I9).
pub(crate) fn handed_on(job: &Job, dest: Posix, handle: &Handle, there: &Stat) -> Verb<DestDir> {
    Ok(match dest.has_default_acl(handle)? {
        true => DestDir::ExistingWithAcl,
        false if there.gid != job.identity.gid => DestDir::ExistingWithGroup,
        false => DestDir::Existing,
    })
}

/// What came of opening a directory below its parent.
enum Child {
    /// What is needed of it, and the source's description.
    Open(DirPair, Stat),
    /// Left out, for this reason.
    LeftOut(&'static str),
    /// The source may not be read.
    Unreadable(Errno),
}

/// Opens a directory below `parent`. One that is as the last pass left it needs nothing at the destination until
/// something in it does; `--delete` will look there anyway.
fn open_child(
    job: &Job,
    caller: &dyn Caller,
    dirs: &mut OpenDirs,
    parent: &Arc<DirNode>,
    dir: &Arc<DirNode>,
) -> Result<Child> {
    let failed = |verb, errno| match errno {
        Errno::NOENT => Error { verb, object: job.path(Side::Source, dir), cause: Cause::Vanished },
        errno => job.dir_error(Side::Source, dir, verb, errno),
    };
    let posix = Posix::new(caller, Side::Source);
    let at = open_side(job, caller, Side::Source, &mut dirs.source, parent)?;
    let source = match posix.open_dir(&at, &dir.name) {
        Ok(source) => source,
        Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
            let stat = posix.stat(&at, &dir.name).map_err(|errno| failed("stat", errno))?;
            make_child(job, caller, dirs, dir)?;
            dir.set_stamp(seen(job, caller, (&at, &dir.name), dir, &stat)?);
            return Ok(Child::Unreadable(errno));
        }
        Err(errno) => return Err(failed("open", errno)),
    };
    let stat = posix.stat_handle(&source).map_err(|errno| failed("stat", errno))?;
    if let Some(reason) = leave_out((&job.source.stat, job.state_dir), dir, &source, &stat)? {
        return Ok(Child::LeftOut(reason));
    }
    dirs.source.insert(dir, source.clone());
    let stamp = seen(job, caller, (&source, c""), dir, &stat)?;
    let stamp = recorded_as(job, parent, dir, stamp)?;
    let dest = match job.config.delete.is_none() && job.is_as_recorded(dir, Some(stamp))? {
        true => {
            dir.set_dest(DestDir::Unneeded);
            job.nowhere.clone()
        }
        false => make_child(job, caller, dirs, dir)?.0,
    };
    dir.set_stamp(stamp);
    Ok(Child::Open(DirPair { source, dest }, stat))
}

/// Opens the destination's side of a directory, created if it is missing. Ends: none of those above it is unneeded
/// then, and [`open_pair`] comes back here at most once.
fn make_child(job: &Job, caller: &dyn Caller, dirs: &mut OpenDirs, dir: &Arc<DirNode>) -> Result<(Handle, DestDir)> {
    let Some(parent) = &dir.parent else { return Ok((job.dest.handle.clone(), dir.dest())) };
    let open = open_pair(job, caller, dirs, parent)?;
    look_at_dest(job, caller, parent, &open)?;
    let (dest, state) = make_dest(job, caller, &open, dir)?;
    dir.set_dest(state);
    dirs.dest.insert(dir, dest.clone());
    Ok((dest, state))
}

/// Why a directory of the source is none of the job's; `root` is the source's.
pub(crate) fn leave_out(
    (root, state_dir): (&Stat, (u64, u64)),
    dir: &Arc<DirNode>,
    source: &Handle,
    stat: &Stat,
) -> Result<Option<&'static str>> {
    if (stat.dev, stat.ino) == state_dir {
        return Ok(Some("it is the state directory"));
    }
    if stat.mount_id == root.mount_id && stat.dev == root.dev {
        return Ok(None);
    }
    if FileSystem::of(source)? == FileSystem::Kernel {
        return Ok(Some("it is a kernel file system"));
    }
    Ok(is_loop(root, dir, stat).then_some("it is mounted inside itself"))
}

/// Whether a directory on another mount is one of its own ancestors: a bind mount of a tree into itself.
fn is_loop(root: &Stat, dir: &Arc<DirNode>, stat: &Stat) -> bool {
    let mut ancestors = std::iter::successors(dir.parent.as_ref(), |node| node.parent.as_ref());
    (stat.dev, stat.ino) == (root.dev, root.ino) || ancestors.any(|node| node.source_id() == Some((stat.dev, stat.ino)))
}

/// The destination's directory: created, or the one that is there. A file or symlink in its place is removed; a
/// directory is never entered through a symlink (I8).
pub(crate) fn make_dest(
    job: &Job,
    caller: &dyn Caller,
    parent: &DirPair,
    dir: &Arc<DirNode>,
) -> Result<(Handle, DestDir)> {
    let dest = Posix::new(caller, Side::Dest);
    let (at, name) = (&parent.dest, &dir.name);
    let failed = |verb, errno| job.dir_error(Side::Dest, dir, verb, errno);
    let mode = match job.config.metadata {
        Metadata::Keep => 0o700,
        Metadata::TimesOnly => 0o777 & !job.identity.umask,
    };
    // An earlier run has most likely left it there: one question then, not three.
    let found = if job.past == Past::Nothing { None } else { dest.open_dir(at, name).ok() };
    let make = || match &dir.parent {
        Some(above) => job.make(above, || dest.make_dir(at, name, mode)),
        None => dest.make_dir(at, name, mode),
    };
    let is_new = match found.as_ref().map_or_else(make, |_| Err(Errno::EXIST)) {
        Ok(()) => true,
        Err(Errno::EXIST) => {
            if let Some(above) = &dir.parent {
                names::own(job, caller, Claim { dir: above, open: parent, name, dest_name: name })?;
            }
            found.is_none() && replace(job, dest, dir, (at, mode)).map_err(|(verb, errno)| failed(verb, errno))?
        }
        Err(errno) => return Err(names::unmade(job, caller, (at, name), failed("create", errno))),
    };
    let handle = found.map_or_else(|| dest.open_dir(at, name), Ok).map_err(|errno| failed("open", errno))?;
    if is_new {
        if dir.parent.as_ref().is_some_and(|parent| parent.dest() == DestDir::ExistingWithAcl) {
            dest.drop_acls(&handle).map_err(|errno| failed("clear the ACL of", errno))?;
        }
        return Ok((handle, DestDir::Created));
    }
    let there = dest.stat_handle(&handle).map_err(|errno| failed("stat", errno))?;
    prepare_existing(job, dest, dir, &handle, &there)?;
    let handed = handed_on(job, dest, &handle, &there).map_err(|errno| failed("read the ACL of", errno))?;
    Ok((handle, handed))
}

/// Puts a directory where something has the name, unless that is one; true if it is new. Otherwise what failed.
fn replace_by_dir(
    dest: Posix,
    at: &Handle,
    name: &Name,
    mode: u32,
) -> std::result::Result<bool, (&'static str, Errno)> {
    let there = dest.stat(at, name).map_err(|errno| ("stat", errno))?;
    if there.kind() == Kind::Dir {
        return Ok(false);
    }
    dest.unlink(at, name).map_err(|errno| ("replace", errno))?;
    dest.make_dir(at, name, mode).map_err(|errno| ("create", errno))?;
    Ok(true)
}

/// Likewise, and forgets what was seen there, if anything was removed.
fn replace(
    job: &Job,
    dest: Posix,
    dir: &DirNode,
    (at, mode): (&Handle, u32),
) -> std::result::Result<bool, (&'static str, Errno)> {
    let replaced = replace_by_dir(dest, at, &dir.name, mode);
    if let (Some(above), true) = (&dir.parent, replaced != Ok(false)) {
        job.seen.forget(above.id);
    }
    replaced
}

/// An existing directory: never the state directory, always writable for us, its file system among those to sync (I1).
fn prepare_existing(job: &Job, dest: Posix, dir: &Arc<DirNode>, handle: &Handle, there: &Stat) -> Result<()> {
    if (there.dev, there.ino) == job.state_dir {
        let why = "the state directory lies there; nothing is copied into it";
        return Err(Error::refused_object(job.path(Side::Dest, dir), why));
    }
    job.note_superblock(there.dev, handle)?;
    widen(job, dest, dir, handle, there)
}

/// Makes a directory of an ordinary user writable, who notes that it has to get its mode back.
fn widen(job: &Job, dest: Posix, dir: &DirNode, handle: &Handle, there: &Stat) -> Result<()> {
    if job.identity.uid == there.uid && job.identity.uid != 0 && there.permissions() & 0o700 != 0o700 {
        dir.note_widened();
        let opened = dest.set_mode(handle, there.permissions() | 0o700);
        opened.map_err(|errno| job.dir_error(Side::Dest, dir, "set mode of", errno))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset of the name in a `linux_dirent64`.
    const NAME_AT: usize = 19;

    fn record(ino: u64, name: &[u8], kind: u8) -> Vec<u8> {
        let len = (NAME_AT + name.len() + 1).next_multiple_of(8);
        let mut bytes = vec![0; len];
        bytes[..8].copy_from_slice(&ino.to_ne_bytes());
        bytes[16..18].copy_from_slice(&(len as u16).to_ne_bytes());
        bytes[18] = kind;
        bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name);
        bytes
    }

    #[test]
    fn records_of_any_bytes_are_parsed_and_dots_left_out() {
        let long = [b'x'; 255];
        let names: [&[u8]; 6] = [b".", b"..", b"...", b"a\n\xff\x1b", &long, b"-"];
        let buffer: Vec<u8> = names.iter().zip((0..6).rev()).flat_map(|(name, ino)| record(ino, name, 8)).collect();
        let mut entries = VecDeque::new();
        parse(&buffer, &mut entries);
        let parsed: Vec<&[u8]> = entries.iter().map(|e| e.name.to_bytes()).collect();
        let in_inode_order: Vec<&[u8]> = names[2..].iter().rev().copied().collect();
        assert_eq!(parsed, in_inode_order);
        assert!(entries.iter().all(|entry| entry.kind == 8));
    }
}
