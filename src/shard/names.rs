//! Where a shard's objects come from: listings, slices of them, names by themselves, large files to help with.

use std::sync::Arc;

use crossbeam_deque::Steal;

use super::{Current, Part, Shard, Task};
use crate::errand::Errand;
use crate::error::{Error, Result};
use crate::large::{LargeFile, LargeTask};
use crate::listing::{Listing, Opened, look_at_dest, open_listed, open_pair};
use crate::report::Count;
use crate::ring::{Interpreter, Name};
use crate::walk::{DestDir, DirNode, DirPair, Work};

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
            match listing.next(&self.errands.job, &*self.errands.caller, &mut self.dirs) {
                Ok(Some(entry)) => {
                    let (dir, open) = (listing.dir.clone(), listing.open.clone());
                    if self.walker().is_hungry()
                        && let Some(half) = listing.split(self.errands.job.reach)
                    {
                        dir.hold();
                        self.walker().share(&self.errands.worker, Work::Slice(dir.clone(), half));
                    }
                    self.current = Some(current);
                    if let Some(errand) = self.errands.meet(dir, open, entry) {
                        return Some(errand);
                    }
                    if self.walker().is_stopped() || self.errands.intake.is_full() {
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
        let job = self.errands.job.clone();
        if job.gate.is_crowded() {
            return None;
        }
        if let Steal::Success(file) = self.common.help.steal() {
            self.help_with(file);
            return Some(None);
        }
        if let Steal::Success(current) = self.common.begun.steal() {
            self.current = Some(current);
            return Some(None);
        }
        match job.walker.take(&self.errands.worker)? {
            Work::List(dir) => self.open_listing(dir),
            Work::Slice(dir, entries) => match open_listed(&job, &*self.errands.caller, &mut self.dirs, &dir) {
                Ok(open) => self.current = Some(Current::Slice(Box::new(Listing::of_slice(dir, open, entries)))),
                Err(error) => {
                    self.errands.fail_dir(&dir, error);
                    self.errands.job.walker.complete();
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
        self.errands.counters.add(Count::EntriesWalked, dir.parent.is_none() as u64);
        let opened = Listing::open(&self.errands.job, &*self.errands.caller, &mut self.dirs, &dir);
        self.tell_made();
        self.errands.note_made(&dir);
        match opened {
            Ok(Opened::Listing(listing)) => {
                let is_as_recorded = match dir.dest() {
                    DestDir::Unneeded => Ok(true),
                    _ => self.errands.job.is_as_recorded(&dir, dir.stamp()),
                };
                match is_as_recorded {
                    Ok(true) => {}
                    Ok(false) => dir.touch(),
                    Err(error) => return self.errands.job.end_with(error),
                }
                self.current = Some(Current::Listing(listing));
            }
            Ok(Opened::LeftOut(reason)) => {
                self.errands.job.note_left_out(&dir, reason);
                self.errands.end_names(&dir);
            }
            Ok(Opened::Unreadable(error)) => {
                dir.touch();
                self.errands.fail_dir(&dir, error);
            }
            Err(error) => self.errands.fail_dir(&dir, error),
        }
    }

    pub(super) fn end_current(&mut self, current: Current) {
        match current {
            Current::Listing(listing) => self.errands.end_names(&listing.dir),
            Current::Slice(listing) => {
                self.errands.end_names(&listing.dir);
                self.errands.job.walker.complete();
            }
        }
    }

    pub(super) fn fail_listing(&mut self, current: Current, error: Error) {
        let (Current::Listing(listing) | Current::Slice(listing)) = &current;
        let dir = listing.dir.clone();
        if self.errands.stops(&error) {
            return;
        }
        dir.note_unread();
        self.errands.push_failure(&dir, Name::default(), error, 1, None);
        self.end_current(current);
    }

    /// Both sides of a directory that was listed before.
    pub(super) fn open_pair(&mut self, dir: &Arc<DirNode>) -> Result<DirPair> {
        let opened = open_pair(&self.errands.job, &*self.errands.caller, &mut self.dirs, dir);
        self.tell_made();
        opened
    }

    /// Directories that an earlier pass had finished and that were made again, or made writable, are to be finished by
    /// this one, and so are those that new ones are in.
    fn tell_made(&mut self) {
        for dir in std::mem::take(&mut self.dirs.made) {
            let above = dir.parent.iter().filter(|_| dir.dest() == DestDir::Created);
            above.chain([&dir]).for_each(|dir| self.errands.reopen(dir));
        }
    }

    /// A name handed back by a checkpoint or left by an interrupted run.
    pub(super) fn single(&mut self, dir: Arc<DirNode>, name: Name) -> Option<Errand> {
        let opened = self.open_pair(&dir);
        let (job, caller) = (&self.errands.job, &*self.errands.caller);
        let opened = opened.and_then(|open| look_at_dest(job, caller, &dir, &open).map(|()| open));
        self.errands.single(dir, name, opened)
    }
}
