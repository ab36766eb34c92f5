//! Names of both sides, directory by directory.
//!
//! ```text
//! source's names    each described on both sides and compared; files whose bytes are to be compared are handed on
//! destination's     counted; only where there are more than were found is each asked for in the source
//! ```
//! So a directory takes no more memory than a buffer, however many names it has (I4). Where a catalog stands for the
//! source its records are the names. Directories that find no room in the queues are gone into at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_deque::Steal;

use super::audit::add;
use super::auditor::Auditor;
use super::compare::{Aspect, Aspects, compare, has_filled_holes};
use super::content::Content;
use super::links::Grouping;
use crate::catalog::{DirId, DirStamp, FileRecord, Record, Status, is_refused, shown_name};
use crate::config::{Mounts, QUEUED_DIRS_MAX};
use crate::digest::crc64;
use crate::error::{Errno, join};
use crate::filesystem::FileSystem;
use crate::filter::Sort;
use crate::listing::{BUFFER_BYTES, each_page, parse};
use crate::provider::posix::{Posix, is_missing};
use crate::ring::{Handle, Interpreter, Kind, Name, Side, Stat, Time};
use crate::spelling;
use crate::walk::{DirNode, DirPair, Entry, Work, path_steps};

/// Records read from the catalog at a time.
const PAGE: usize = 1024;
/// Names worth giving away half of.
const WORTH_SHARING: usize = 128;

/// A directory whose names are handed out.
pub(super) struct Names {
    /// The directory.
    dir: Arc<DirNode>,
    /// Both sides of it.
    open: DirPair,
    /// Names at hand.
    entries: VecDeque<Entry>,
    /// What getdents fills.
    buffer: Vec<u8>,
    /// Whether there are no more.
    at_end: bool,
    /// Names that the destination has as well.
    found: u64,
}

/// What there is to do.
pub(super) enum Next {
    /// A file whose bytes are to be compared.
    Content(Box<Content>),
    /// A large file that others read, joined.
    Join(Arc<Content>),
    /// Nothing.
    Nothing,
}

impl<I: Interpreter> Auditor<I> {
    /// The next file to read. Ends: every turn takes a name or a work item, or returns.
    pub(super) fn next_name(&mut self) -> Next {
        loop {
            if self.audit.walker.is_stopped() {
                return Next::Nothing;
            }
            let Some(mut names) = self.names.pop() else {
                match self.take_work() {
                    Some(Next::Nothing) => continue,
                    Some(next) => return next,
                    None => return Next::Nothing,
                }
            };
            match self.next_entry(&mut names) {
                Ok(Some(entry)) => {
                    self.share(&mut names);
                    let (dir, open) = (names.dir.clone(), names.open.clone());
                    let depth = self.names.len();
                    self.names.push(names);
                    let (was_found, content) = self.meet(&dir, &open, entry);
                    if let Some(names) = self.names.get_mut(depth) {
                        names.found += u64::from(was_found);
                    }
                    if let Some(content) = content {
                        return Next::Content(content);
                    }
                }
                Ok(None) => self.end_names(names),
                Err((side, errno)) => {
                    self.audit.fail(side, &names.dir, &Name::default(), "list", errno);
                    self.end_names(names);
                }
            }
        }
    }

    /// A work item from the walker. `None`: there is none.
    fn take_work(&mut self) -> Option<Next> {
        let audit = self.audit.clone();
        if let Steal::Success(content) = audit.help.steal() {
            let next = if content.join() { Next::Join(content) } else { Next::Nothing };
            // The file itself is the work item; what joins it is not.
            audit.walker.complete();
            return Some(next);
        }
        match audit.walker.take(&self.worker)? {
            Work::List(dir) => self.open_names(dir),
            Work::Slice(dir, entries) => match self.open_pair(&dir) {
                Ok(open) => {
                    let buffer = Vec::new();
                    self.names.push(Names { dir, open, entries, buffer, at_end: true, found: 0 });
                }
                Err((side, errno)) => {
                    audit.fail(side, &dir, &Name::default(), "open", errno);
                    self.release(&dir, 0);
                }
            },
            Work::File(dir, name) => {
                let open = DirPair { source: audit.source.handle.clone(), dest: audit.dest.handle.clone() };
                let entry = match &audit.catalog {
                    Some(_) => self.recorded(&dir, None).map_or(None, |mut records| records.pop_front()),
                    None => Some(Entry {
                        name: name.clone(),
                        kind: libc::DT_UNKNOWN,
                        ino: 0,
                        record: None,
                        stamp: None,
                        page: None,
                    }),
                };
                if entry.is_none() && !audit.walker.is_stopped() {
                    // An interrupted run that has recorded nothing yet of the one file it is about.
                    add(&audit.tally.objects, 1);
                    audit.findings.differ(&dir.path_of(&name), Aspects::only(Aspect::Unfinished), None);
                }
                let content = entry.and_then(|entry| self.meet(&dir, &open, entry).1);
                audit.walker.complete();
                return Some(content.map_or(Next::Nothing, Next::Content));
            }
        }
        Some(Next::Nothing)
    }

    /// Begins a directory: opens it on both sides, unless it is left out.
    fn open_names(&mut self, dir: Arc<DirNode>) {
        let audit = self.audit.clone();
        let opened = self.open_pair(&dir).and_then(|open| {
            let side = if audit.catalog.is_some() { Side::Dest } else { Side::Source };
            let stat = Posix::new(&*self.caller, side).stat_handle(&open.source);
            stat.map(|stat| (open, stat)).map_err(|errno| (side, errno))
        });
        let (open, stat) = match opened {
            Ok(opened) => opened,
            Err((side, errno)) => {
                audit.fail(side, &dir, &Name::default(), "open", errno);
                return audit.walker.complete();
            }
        };
        if self.is_left_out(&dir, &open, &stat) {
            return audit.walker.complete();
        }
        dir.set_stamp(DirStamp::of(&stat));
        let path = dir.path();
        let listed = audit.choice.names_in(&path).filter(|_| audit.catalog.is_none());
        let at_end = listed.is_some();
        let names = listed.unwrap_or_default().into_iter().filter_map(|name| Name::new(name).ok());
        let entries = names
            .map(|name| Entry { name, kind: libc::DT_UNKNOWN, ino: 0, record: None, stamp: None, page: None })
            .collect();
        let buffer = if audit.catalog.is_some() { Vec::new() } else { vec![0; BUFFER_BYTES] };
        self.names.push(Names { dir, open, entries, buffer, at_end, found: 0 });
    }

    /// Whether what lies below a directory is no part of the comparison: another mount, a file system of the kernel's
    /// own, a directory mounted into itself.
    fn is_left_out(&self, dir: &DirNode, open: &DirPair, stat: &Stat) -> bool {
        let root = &self.audit.source.stat;
        if stat.mount_id == root.mount_id && stat.dev == root.dev {
            return false;
        }
        let mut above = std::iter::successors(dir.parent.as_ref(), |node| node.parent.as_ref());
        (self.audit.mounts == Mounts::Stay && stat.dev != root.dev)
            || FileSystem::of(&open.source).is_ok_and(|kind| kind == FileSystem::Kernel)
            || above.any(|node| node.source_id() == Some((stat.dev, stat.ino)))
    }

    /// Both sides of a directory, opened from the nearest open ancestor; from the root where one has become stale.
    fn open_pair(&mut self, dir: &Arc<DirNode>) -> Result<DirPair, (Side, Errno)> {
        match self.try_open_pair(dir) {
            Err((_, Errno::STALE)) => {
                self.cache.forget(dir);
                self.try_open_pair(dir)
            }
            opened => opened,
        }
    }

    fn try_open_pair(&mut self, dir: &Arc<DirNode>) -> Result<DirPair, (Side, Errno)> {
        if let Some(pair) = self.cache.get(dir) {
            return Ok(pair);
        }
        let has_source = self.audit.catalog.is_none();
        let (mut pair, below) = self.cache.nearest(dir);
        for (path, node) in path_steps(&below) {
            let open =
                |side, at: &Handle| Posix::new(&*self.caller, side).open_dir(at, &path).map_err(|errno| (side, errno));
            let dest = open(Side::Dest, &pair.dest)?;
            let source = if has_source { open(Side::Source, &pair.source)? } else { dest.clone() };
            pair = DirPair { source, dest };
            self.cache.insert(node, pair.clone());
        }
        Ok(pair)
    }

    fn next_entry(&mut self, names: &mut Names) -> Result<Option<Entry>, (Side, Errno)> {
        // Ends: each turn fills the names at hand or reaches the end.
        while names.entries.is_empty() && !names.at_end {
            if self.audit.catalog.is_some() {
                names.entries = self.recorded(&names.dir, names.buffer.first().map(|_| &names.buffer[..]))?;
                names.at_end = names.entries.len() < PAGE;
                // The last name, from which the next page goes on.
                names.buffer = names.entries.back().map(|entry| entry.name.to_bytes().to_vec()).unwrap_or_default();
            } else {
                let posix = Posix::new(&*self.caller, Side::Source);
                let filled = posix.read_dir(&names.open.source, &mut names.buffer);
                let filled = filled.map_err(|errno| (Side::Source, errno))?;
                names.at_end = filled == 0;
                parse(&names.buffer[..filled], &mut names.entries);
            }
        }
        Ok(names.entries.pop_front())
    }

    /// A page of a directory's records behind a name.
    fn recorded(&self, dir: &DirNode, after: Option<&[u8]>) -> Result<VecDeque<Entry>, (Side, Errno)> {
        let Some(catalog) = &self.audit.catalog else { return Ok(VecDeque::new()) };
        let after = after.and_then(|name| Name::new(name).ok());
        let page = catalog.reader().and_then(|reader| reader.entries(dir.id, after.as_deref(), PAGE));
        match page {
            Ok(page) => Ok(page.into_iter().map(|(name, record)| entry(name, record)).collect()),
            Err(error) => {
                self.audit.findings.trouble(&error);
                self.audit.walker.stop();
                Ok(VecDeque::new())
            }
        }
    }

    /// Gives half of many names away while others have nothing to do.
    fn share(&mut self, names: &mut Names) {
        if names.entries.len() >= WORTH_SHARING && self.audit.walker.is_hungry() {
            let half = names.entries.split_off(names.entries.len() / 2);
            names.dir.hold();
            self.audit.walker.share(&self.worker, Work::Slice(names.dir.clone(), half));
        }
    }

    fn end_names(&mut self, names: Names) {
        self.release(&names.dir, names.found);
    }

    /// A part of a directory's names is through. With the last one it is looked at what else the destination has.
    fn release(&mut self, dir: &Arc<DirNode>, found: u64) {
        let audit = self.audit.clone();
        *audit.found.lock().entry(dir.id).or_default() += found;
        if dir.release() {
            let found = audit.found.lock().remove(&dir.id).unwrap_or_default();
            let looked = self.open_pair(dir).and_then(|open| self.look_for_extra(dir, &open, found));
            if let Err((side, errno)) = looked
                && !audit.walker.is_stopped()
            {
                audit.fail(side, dir, &Name::default(), "list", errno);
            }
        }
        audit.walker.complete();
    }

    /// Says what the destination has and the source has not.
    fn look_for_extra(&self, dir: &Arc<DirNode>, open: &DirPair, found: u64) -> Result<(), (Side, Errno)> {
        let posix = Posix::new(&*self.caller, Side::Dest);
        let failed = |errno| (Side::Dest, errno);
        let mut count = 0;
        for is_counting in [true, false] {
            // Each lot of names that the source has not may take another listing of it.
            let (mut names, mut asked) = (VecDeque::new(), Ok(()));
            each_page(posix, &open.dest, |page| {
                count += page.len() as u64;
                match is_counting {
                    true => page.clear(),
                    false => names.append(page),
                }
                if asked.is_ok() && names.len() >= spelling::LOT {
                    asked = self.ask_source(dir, open, std::mem::take(&mut names));
                }
            })
            .map_err(failed)?;
            asked.and_then(|()| self.ask_source(dir, open, names))?;
            if is_counting && count == found {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Compares one name. Answers whether the destination has it, and a file whose bytes are to be compared.
    fn meet(&mut self, dir: &Arc<DirNode>, open: &DirPair, entry: Entry) -> (bool, Option<Box<Content>>) {
        let audit = self.audit.clone();
        let caller = self.caller.clone();
        let source = match &audit.catalog {
            Some(_) => None,
            None => match audit.stat(&*caller, Side::Source, &open.source, &entry.name) {
                Ok(source) if Some((source.dev, source.ino)) == audit.state_dir => return (false, None),
                Ok(source) => Some(source),
                // One file that was named is there, or it is trouble.
                Err(Errno::NOENT) if audit.single.is_none() => return (false, None),
                Err(errno) => {
                    audit.fail(Side::Source, dir, &entry.name, "stat", errno);
                    return (true, None);
                }
            },
        };
        let is_dir = match &source {
            Some(source) => source.kind() == Kind::Dir,
            None => matches!(entry.record, Some(Record::Dir(_))),
        };
        let sort = if is_dir { Sort::Dir } else { Sort::Other };
        let path = join(&dir.path(), shown_name(&entry.name));
        if !audit.choice.is_everything() && !audit.choice.meets(&path, sort) {
            return (false, None);
        }
        add(&audit.tally.objects, 1);
        // A key that was refused is nowhere, and its name leads out of the tree (I8).
        if audit.catalog.is_some() && !is_dir && is_refused(&entry.name) {
            audit.findings.differ(&path, Aspects::only(Aspect::Missing), None);
            return (false, None);
        }
        let dest_name = audit.dest_name(dir, &entry.name);
        let dest = match audit.stat(&*caller, Side::Dest, &open.dest, dest_name) {
            Ok(dest) => source.as_ref().map_or(dest, |source| audit.as_far_as(source, dest)),
            // What the destination could not hold was told as a loss.
            Err(errno) if is_missing(errno) && entry.record.as_ref().is_some_and(is_not_made) => return (false, None),
            Err(errno) if is_missing(errno) => {
                audit.findings.differ(&path, Aspects::only(Aspect::Missing), None);
                return (false, None);
            }
            Err(errno) => {
                audit.fail(Side::Dest, dir, &entry.name, "stat", errno);
                return (true, None);
            }
        };
        let content = match (source, entry.record) {
            (Some(source), _) => self.meet_pair(dir, open, entry.name, source, dest),
            (None, Some(Record::Dir(id))) => {
                self.meet_recorded_dir(dir, id, entry.name, &dest);
                None
            }
            (None, Some(Record::File(record))) => self.meet_record(dir, open, entry.name, &record, dest),
            (None, None) => None,
        };
        (true, content)
    }

    /// Compares two objects that are there.
    fn meet_pair(
        &mut self,
        dir: &Arc<DirNode>,
        open: &DirPair,
        name: Name,
        source: Stat,
        dest: Stat,
    ) -> Option<Box<Content>> {
        let audit = self.audit.clone();
        let mut aspects = audit.compare_stats(&*self.caller, (&open.source, &name), &source, &dest);
        let is_one_type = !aspects.has(Aspect::Type);
        if is_one_type && source.kind() == Kind::Dir {
            self.queue(dir, DirId(audit.next_id.fetch_add(1, Ordering::Relaxed)), name.clone());
        }
        let mut is_read = is_one_type && source.kind() == Kind::File && !aspects.has(Aspect::Size) && source.size > 0;
        if is_one_type && source.kind() != Kind::Dir {
            match audit.groups.meet(&source, &dest) {
                Grouping::First => {}
                Grouping::Known => is_read = false,
                Grouping::Different => aspects.add(Aspect::Links),
                Grouping::Unknown => add(&audit.tally.unchecked_links, 1),
            }
        }
        if is_one_type && source.kind() == Kind::Symlink && self.has_other_target(dir, open, &name) {
            aspects.add(Aspect::Target);
        }
        if is_one_type {
            aspects.extend(audit.compare_attributes(&*self.caller, (dir, open), &name, source.kind()));
        }
        if audit.has_holes && is_one_type && source.kind() == Kind::File && has_filled_holes(&source, &dest) {
            aspects.add(Aspect::Holes);
        }
        let mut content = Content::new(dir, open, name, Some(source), dest);
        content.aspects = aspects;
        if is_read {
            return self.draw(content);
        }
        let path = dir.path_of(&content.name);
        match source.kind() {
            _ if aspects.is_empty() => {}
            Kind::Dir => audit.findings.differ_dir(&path, aspects),
            _ => audit.findings.differ(&path, aspects, None),
        }
        None
    }

    fn has_other_target(&self, dir: &Arc<DirNode>, open: &DirPair, name: &Name) -> bool {
        let audit = &self.audit;
        let source = Posix::new(&*self.caller, Side::Source).read_link(&open.source, name);
        let dest = Posix::new(&*self.caller, Side::Dest).read_link(&open.dest, audit.dest_name(dir, name));
        match (source, dest) {
            (Ok(source), Ok(dest)) => source != dest,
            (Err(errno), _) => {
                audit.fail(Side::Source, dir, name, "read the link", errno);
                false
            }
            (_, Err(errno)) => {
                audit.fail(Side::Dest, dir, name, "read the link", errno);
                false
            }
        }
    }

    /// Compares a file with its record.
    fn meet_record(
        &mut self,
        dir: &Arc<DirNode>,
        open: &DirPair,
        name: Name,
        record: &FileRecord,
        dest: Stat,
    ) -> Option<Box<Content>> {
        let audit = self.audit.clone();
        if !matches!(record.status, Status::Done | Status::Written) {
            audit.findings.differ(&dir.path_of(&name), Aspects::only(Aspect::Unfinished), None);
            return None;
        }
        // What the record does not tell, the type among it, is taken as it is.
        let (mut size, mut mtime) = (record.stamp.size, record.stamp.mtime);
        let mut dest = dest;
        if audit.is_of_bucket {
            // A file has the time that the object's metadata told, and a hard link the content of another object.
            mtime = dest.mtime;
            if size == 0 && record.checksum.is_some_and(|recorded| recorded.crc64 != 0) {
                size = dest.size.max(1);
            }
        }
        if audit.device(Side::Dest).is_some() {
            dest = Stat { size: dest.size.min(size), mtime, ..dest };
        } else if (mtime, record.stamp.ctime) == (Time::default(), Time::default()) {
            // The image of a device, which has no times.
            mtime = dest.mtime;
        }
        let is_sized = matches!(dest.kind(), Kind::File | Kind::Symlink);
        let size = if is_sized { size } else { dest.size };
        let source = Stat { size, mtime, ..dest };
        let is_other_type = match dest.kind() {
            Kind::Dir => true,
            Kind::File => false,
            // A bucket's symlink is recorded with the checksum of its target; no other has one.
            Kind::Symlink => record.checksum.is_some_and(|recorded| {
                let target = Posix::new(&*self.caller, Side::Dest).read_link(&open.dest, &name);
                target.is_ok_and(|target| crc64(target.to_bytes()) != recorded.crc64)
            }),
            // Of what holds no bytes none were recorded.
            Kind::Special => record.stamp.size > 0,
        };
        let mut aspects = match is_other_type && audit.device(Side::Dest).is_none() {
            true => Aspects::only(Aspect::Type),
            false => compare(&source, &dest, &audit.measure),
        };
        if dest.kind() == Kind::Symlink && size != dest.size && !aspects.has(Aspect::Type) {
            aspects.add(Aspect::Target);
        }
        let mut content = Content::new(dir, open, name, None, dest);
        content.aspects = aspects;
        content.expected = record.checksum.map(|checksum| checksum.crc64);
        let is_file = dest.kind() == Kind::File && !aspects.has(Aspect::Size);
        if is_file && content.expected.is_none() {
            add(&audit.tally.unproved, 1);
        } else if is_file && dest.size > 0 {
            return self.draw(content);
        }
        if !aspects.is_empty() {
            audit.findings.differ(&dir.path_of(&content.name), aspects, None);
        }
        None
    }

    fn meet_recorded_dir(&mut self, dir: &Arc<DirNode>, id: DirId, name: Name, dest: &Stat) {
        let audit = self.audit.clone();
        if dest.kind() != Kind::Dir {
            audit.findings.differ(&dir.path_of(&name), Aspects::only(Aspect::Type), None);
            return;
        }
        let record = audit.catalog.as_ref().map(|catalog| catalog.reader().and_then(|reader| reader.dir(id)));
        let aspects = match record {
            Some(Ok(Some(record))) => match record.stamp {
                Some(stamp) => compare(&audit.recorded_dir(&stamp, *dest), dest, &audit.measure),
                None => Aspects::only(Aspect::Unfinished),
            },
            Some(Err(error)) => return audit.findings.trouble(&error),
            _ => Aspects::only(Aspect::Unfinished),
        };
        match aspects.has(Aspect::Unfinished) {
            _ if aspects.is_empty() => {}
            true => audit.findings.differ(&dir.path_of(&name), aspects, None),
            false => audit.findings.differ_dir(&dir.path_of(&name), aspects),
        }
        self.queue(dir, id, name);
    }

    /// Decides whether a file's bytes are compared, and opens it if it is a large one.
    fn draw(&mut self, mut content: Content) -> Option<Box<Content>> {
        let audit = self.audit.clone();
        let is_small = content.size() <= self.small_bytes_max() && !audit.has_device();
        // A recorded checksum is that of a whole file, which is drawn as one.
        let is_whole = is_small || content.source.is_none();
        let units = if is_whole { 1 } else { content.size().div_ceil(audit.block_bytes as u64) };
        add(&audit.tally.units, units);
        add(&audit.tally.bytes, content.size());
        let is_drawn = audit.sample.is_none_or(|sample| !is_whole || sample.draws(content.dest.ino, 0));
        let opened = match is_drawn && !is_small {
            true => content.open_files(&audit, &*self.caller),
            false => Ok(()),
        };
        match opened {
            Ok(()) if is_drawn => {
                // Taken back when the file is finished.
                audit.walker.expect_help();
                return Some(Box::new(content));
            }
            Ok(()) if content.aspects.is_empty() => {}
            Ok(()) => audit.findings.differ(&content.dir.path_of(&content.name), content.aspects, None),
            Err((side, errno)) => audit.fail(side, &content.dir, &content.name, "open", errno),
        }
        None
    }

    /// Queues a directory that both sides have, or goes into it at once where the queues are full.
    fn queue(&mut self, dir: &Arc<DirNode>, id: DirId, name: Name) {
        let child = DirNode::child(dir, id, name);
        if self.audit.walker.queued() < QUEUED_DIRS_MAX / 2 {
            let _ = self.audit.walker.push_dir(&self.worker, child);
            return;
        }
        self.audit.walker.expect_help();
        self.open_names(child);
    }
}

/// Whether a job recorded that the destination cannot hold such an object.
fn is_not_made(record: &Record) -> bool {
    matches!(record, Record::File(record) if record.losses.has_object())
}

fn entry(name: Name, record: Record) -> Entry {
    let kind = if matches!(record, Record::Dir(_)) { libc::DT_DIR } else { libc::DT_UNKNOWN };
    Entry { name, kind, ino: 0, record: Some(record), stamp: None, page: None }
}
