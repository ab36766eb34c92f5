//! Where a shard's objects come from: listings, slices of them, names by themselves, large files to help with.

use std::sync::Arc;

use crossbeam_deque::Steal;

use super::{Current, Errand, Part, Shard, Task};
use crate::catalog::{DirId, DirStamp, DirState, FileRecord, Record};
use crate::error::{Cause, Error, Result};
use crate::filter::Sort;
use crate::job::{Past, Place, Ticket};
use crate::large::{LargeFile, LargeTask};
use crate::listing::{Listing, Opened, look_at_dest, open_pair};
use crate::outcome::What;
use crate::provider::posix::Posix;
use crate::report::Count;
use crate::ring::{Interpreter, Name, Side};
use crate::transfer::is_fatal;
use crate::walk::{DestDir, DirNode, DirPair, Entry, Queued, Work};

impl<I: Interpreter> Shard<I> {
    /// The next object to work on. Ends: every turn takes a name or a work item, or returns.
    pub(super) fn next_errand(&mut self) -> Option<Errand> {
        loop {
            let Some(mut current) = self.current.take() else {
                if let Some(errand) = self.take_work()? {
                    return Some(errand);
                }
                continue;
            };
            let listing = match &mut current {
                Current::Listing(listing) | Current::Slice(listing) => listing,
            };
            match listing.next(&self.job, &*self.caller) {
                Ok(Some(entry)) => {
                    let (dir, open) = (listing.dir.clone(), listing.open.clone());
                    if self.walker().is_hungry()
                        && let Some(half) = listing.split()
                    {
                        dir.hold();
                        self.walker().share(&self.worker, Work::Slice(dir.clone(), half));
                    }
                    self.current = Some(current);
                    if let Some(errand) = self.meet(dir, open, entry) {
                        return Some(errand);
                    }
                    if self.walker().is_stopped() || self.intake.is_full() {
                        return None;
                    }
                }
                Ok(None) => self.end_current(current),
                Err(error) => self.fail_listing(current, error),
            }
        }
    }

    /// A work item taken from the walker: an object, or `None` within when it was something else. The outer `None`: no
    /// work.
    pub(super) fn take_work(&mut self) -> Option<Option<Errand>> {
        let job = self.job.clone();
        if let Steal::Success(file) = self.help.steal() {
            self.help_with(file);
            return Some(None);
        }
        match job.walker.take(&self.worker)? {
            Work::List(dir) => self.open_listing(dir),
            Work::Slice(dir, entries) => match open_pair(&job, &*self.caller, &mut self.cache, &dir) {
                Ok(open) => self.current = Some(Current::Slice(Box::new(Listing::of_slice(dir, open, entries)))),
                Err(error) => {
                    self.fail_dir(&dir, error);
                    self.job.walker.complete();
                }
            },
            Work::File(dir, name) => return Some(self.single(dir, name)),
        }
        Some(None)
    }

    /// Joins another shard's work on a large file.
    pub(super) fn help_with(&mut self, file: Arc<LargeFile>) {
        match LargeTask::helper(file) {
            Some(task) => {
                let index = self.insert(Task::Large(task, Part::Helper));
                self.drive(index);
            }
            None => self.walker().complete(),
        }
    }

    pub(super) fn open_listing(&mut self, dir: Arc<DirNode>) {
        self.counters.add(Count::EntriesWalked, dir.parent.is_none() as u64);
        let opened = Listing::open(&self.job, &*self.caller, &mut self.cache, &dir);
        self.note_made(&dir);
        match opened {
            Ok(Opened::Listing(listing)) => {
                match self.is_as_recorded(&dir) {
                    Ok(true) => {}
                    Ok(false) => dir.touch(),
                    Err(error) => self.job.end_with(error),
                }
                self.current = Some(Current::Listing(listing));
            }
            Ok(Opened::LeftOut(reason)) => {
                self.job.note_left_out(&dir, reason);
                self.release_dir(&dir);
            }
            Ok(Opened::Unreadable(error)) => {
                dir.touch();
                self.fail_dir(&dir, error);
            }
            Err(error) => self.fail_dir(&dir, error),
        }
    }

    /// A directory that was known and had to be made changes the one it is in, which may have been listed long ago.
    /// After an interruption nobody knows who made it.
    fn note_made(&self, dir: &DirNode) {
        let Some(parent) = &dir.parent else { return };
        let is_made = dir.dest() == DestDir::Created || self.job.past == Past::Interrupted;
        if is_made && !parent.is_touched() {
            parent.touch();
            self.push(parent, Name::default(), What::Reopened);
        }
    }

    /// Whether a directory's own metadata is what the last pass gave its copy; its atime counts for nothing. After an
    /// interruption nobody knows what the interrupted run did in it.
    pub(super) fn is_as_recorded(&self, dir: &DirNode) -> Result<bool> {
        if self.job.past != Past::Finished || dir.dest() == DestDir::Created {
            return Ok(false);
        }
        let reader = self.job.catalog.reader()?;
        let recorded = reader.dir(dir.id)?.and_then(|record| record.stamp);
        let (Some(recorded), Some(now)) = (recorded, dir.stamp()) else { return Ok(false) };
        let is_finished = !reader.is_open_dir(dir.id, DirState::Unfinished)?;
        Ok(is_finished && DirStamp { atime: now.atime, ..recorded } == now)
    }

    pub(super) fn end_current(&mut self, current: Current) {
        match current {
            Current::Listing(listing) => self.release_dir(&listing.dir),
            Current::Slice(listing) => {
                self.release_dir(&listing.dir);
                self.job.walker.complete();
            }
        }
    }

    pub(super) fn fail_listing(&mut self, current: Current, error: Error) {
        let (Current::Listing(listing) | Current::Slice(listing)) = &current;
        let dir = listing.dir.clone();
        if self.stops(&error) {
            return;
        }
        self.push_failure(&dir, Name::default(), error, 1, None);
        self.end_current(current);
    }

    /// A directory that cannot be opened: recorded under its own number with an empty name.
    pub(super) fn fail_dir(&mut self, dir: &Arc<DirNode>, error: Error) {
        if self.stops(&error) {
            return;
        }
        if error.cause == Cause::Vanished {
            self.counters.add(Count::Vanished, 1);
        } else {
            self.push_failure(dir, Name::default(), error, 1, None);
        }
        self.release_dir(dir);
    }

    /// Ends the job if the error is of that class.
    pub(super) fn stops(&self, error: &Error) -> bool {
        if is_fatal(error) {
            self.job.end_with(error.clone());
        }
        is_fatal(error)
    }

    /// A name handed back by a checkpoint or left by an interrupted run.
    pub(super) fn single(&mut self, dir: Arc<DirNode>, name: Name) -> Option<Errand> {
        let opened = open_pair(&self.job, &*self.caller, &mut self.cache, &dir);
        let opened = opened.and_then(|open| look_at_dest(&self.job, &*self.caller, &dir, &open).map(|()| open));
        let record = self.job.catalog.reader().and_then(|reader| reader.entry(dir.id, &name));
        match (opened, record) {
            (Ok(open), Ok(record)) => {
                dir.touch();
                self.push(&dir, Name::default(), What::Reopened);
                Some(self.errand(dir, open, name, file_record(record), Ticket::Alone))
            }
            (Err(error), _) | (_, Err(error)) => {
                if !self.stops(&error) {
                    let group = self.group_of(&dir, &name);
                    self.push_failure(&dir, name, error, 1, group);
                    self.job.walker.complete();
                }
                None
            }
        }
    }

    pub(super) fn errand(
        &self,
        dir: Arc<DirNode>,
        open: DirPair,
        name: Name,
        record: Option<FileRecord>,
        ticket: Ticket,
    ) -> Errand {
        let dest_name = self.job.dest_name(&dir, &name).clone();
        Errand { place: Place { dir, open, name, dest_name }, ticket, record, attempt: 1, claimed: None }
    }

    /// Looks at a name of a listing: a directory is queued, an object that is done is counted, any other is an errand.
    pub(super) fn meet(&mut self, dir: Arc<DirNode>, open: DirPair, mut entry: Entry) -> Option<Errand> {
        if !self.job.choice.is_everything() && !self.is_taken(&dir, &open, &mut entry) {
            return None;
        }
        self.counters.add(Count::EntriesWalked, 1);
        if entry.kind == libc::DT_DIR {
            if let Err(error) = self.find_dir(&dir, entry.name, entry.record) {
                self.job.end_with(error);
            }
            return None;
        }
        let record = file_record(entry.record);
        if record.as_ref().is_some_and(|record| self.job.progress.is_handled(record)) {
            self.counters.add(Count::Unchanged, 1);
            return None;
        }
        dir.hold();
        Some(self.errand(dir, open, entry.name, record, Ticket::Listed))
    }

    /// Whether a name is part of the job. Where the listing does not tell what it is, the source is asked: some rules
    /// are about directories only.
    fn is_taken(&self, dir: &DirNode, open: &DirPair, entry: &mut Entry) -> bool {
        if entry.kind == libc::DT_UNKNOWN {
            let stat = Posix::new(&*self.caller, Side::Source).stat(&open.source, &entry.name);
            // What cannot be described is met as an object, and fails or has vanished as one.
            entry.kind = stat.map_or(libc::DT_UNKNOWN, |stat| (stat.mode >> 12) as u8);
        }
        let sort = if entry.kind == libc::DT_DIR { Sort::Dir } else { Sort::Other };
        self.job.takes(dir, &entry.name, sort)
    }

    /// Queues a directory found in `dir`, unless this pass has seen to it already.
    pub(super) fn find_dir(&mut self, dir: &Arc<DirNode>, name: Name, record: Option<Record>) -> Result<()> {
        let known = match record {
            Some(Record::Dir(id)) => Some(id),
            _ => None,
        };
        if let Some(id) = known
            && self.is_seen_to(id)?
        {
            self.counters.add(Count::Unchanged, 1);
            return Ok(());
        }
        if known.is_none() {
            dir.touch();
        }
        let id = known.unwrap_or_else(|| DirId(self.job.new_id()));
        let child = DirNode::child(dir, id, name.clone());
        self.push(dir, name, What::Found(id));
        match self.job.walker.push_dir(&self.worker, child) {
            Queued::InMemory | Queued::Spilled => Ok(()),
        }
    }

    /// Whether a known directory was listed in this pass, or waits in the catalog for it.
    pub(super) fn is_seen_to(&self, id: DirId) -> Result<bool> {
        let reader = self.job.catalog.reader()?;
        let is_listed = reader.dir(id)?.is_some_and(|dir| dir.listed_batch >= self.job.progress.pass_start_batch);
        Ok(is_listed || reader.is_open_dir(id, DirState::Unlisted)?)
    }
}

fn file_record(record: Option<Record>) -> Option<FileRecord> {
    match record {
        Some(Record::File(record)) => Some(record),
        _ => None,
    }
}
