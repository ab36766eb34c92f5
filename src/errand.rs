//! Errands: names on their way to an outcome, and what is told of them. Shards and lanes do this alike.
//!
//! A name is met in a listing or handed back by a checkpoint, worked on elsewhere (transfer.rs, lane/), and ended here:
//! its outcome goes into the intake before its directory's counter is lowered, so that a directory is never called
//! listed before all its entries are accounted for (I1).

use std::sync::Arc;
use std::time::Instant;

use crossbeam_deque::Worker;

use crate::catalog::{DirId, DirState, FileRecord, Record, Stamp, Status};
use crate::config::UNSTABLE_ATTEMPTS_MAX;
use crate::error::{Cause, Errno, Error, Result, join};
use crate::filter::Sort;
use crate::job::{Job, Past, Place, Ticket};
use crate::links::LinkKey;
use crate::outcome::{Intake, Outcome, What};
use crate::pages::Page;
use crate::plan::Skip;
use crate::provider::posix::Posix;
use crate::report::{Count, Counters, Failure, LossSet, Meter, Weight};
use crate::ring::{Caller, Name, Side};
use crate::transfer::{Ending, is_fatal};
use crate::walk::{DestDir, DirNode, DirPair, Entry, Queued, Unmet, Work};

/// An object on its way.
#[derive(Debug)]
pub(crate) struct Errand {
    /// Where it is.
    pub place: Place,
    /// Whom to tell.
    pub ticket: Ticket,
    /// What the catalog knows of it.
    pub record: Option<FileRecord>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// The group that the attempt before was the first of.
    pub claimed: Option<LinkKey>,
    /// The source object as its bucket lists it.
    pub listed: Option<Stamp>,
    /// The page of its bucket's listing that it came with.
    pub page: Option<Arc<Page>>,
    /// Held while nobody knows whether it is a directory.
    pub unmet: Option<Unmet>,
    /// Counts its bytes as they pass, where that takes long.
    pub meter: Option<Arc<Meter>>,
    /// Since when somebody's lease keeps it from being opened.
    pub leased: Option<Instant>,
}

impl Errand {
    /// How often it was tried, in earlier runs, too.
    fn attempts(&self) -> u32 {
        self.record.as_ref().map_or(0, FileRecord::tried).saturating_add(self.attempt)
    }

    /// So many bytes of it have passed, in the present attempt.
    pub(crate) fn passed(&self, bytes: usize) {
        if let Some(meter) = &self.meter {
            meter.reach(bytes as u64);
        }
    }
}

/// The errands of one shard or lane.
pub(crate) struct Errands {
    /// Its number.
    pub index: usize,
    /// The job.
    pub job: Arc<Job>,
    /// Where outcomes go.
    pub intake: Arc<Intake>,
    /// Answers straight-line work.
    pub caller: Arc<dyn Caller>,
    /// Its own queue.
    pub worker: Worker<Work>,
    /// What it counts.
    pub counters: Arc<Counters>,
}

impl Errands {
    pub(crate) fn errand(
        &self,
        dir: Arc<DirNode>,
        open: DirPair,
        name: Name,
        (record, listed): (Option<FileRecord>, Option<Stamp>),
        ticket: Ticket,
    ) -> Errand {
        let dest_name = self.job.dest_name(&dir, &name).clone();
        Errand {
            place: Place { dir, open, name, dest_name, is_reopened: false },
            ticket,
            record,
            attempt: 1,
            claimed: None,
            listed,
            page: None,
            unmet: None,
            meter: None,
            leased: None,
        }
    }

    /// A name handed back by a checkpoint or left by an interrupted run, in a directory that was `opened`.
    pub(crate) fn single(&self, dir: Arc<DirNode>, name: Name, opened: Result<DirPair>) -> Option<Errand> {
        let record = self.job.catalog.reader().and_then(|reader| reader.entry(dir.id, &name));
        let group = self.job.links.take_promoted(&(dir.id, name.clone()));
        match (opened, record) {
            (Ok(open), Ok(record)) => {
                dir.touch();
                self.push(&dir, Name::default(), What::Reopened);
                let record = file_record(record).filter(|record| !self.is_lost(&dir, &open, &name, record));
                let errand = self.errand(dir, open, name, (record, None), Ticket::Alone);
                Some(Errand { claimed: group, ..errand })
            }
            // Its directory has left the source, and it with that.
            (Err(Error { cause: Cause::Vanished, .. }), Ok(_)) => {
                self.end_vanished(&dir, name, 1, group);
                self.job.walker.complete();
                None
            }
            (Err(error), _) | (_, Err(error)) => {
                if !self.stops(&error) {
                    self.push_failure(&dir, name, error, 1, group);
                    self.job.walker.complete();
                }
                None
            }
        }
    }

    /// Whether what an earlier pass has done is not at the destination any more: it waited there for the first name of
    /// its group, and is copied now.
    fn is_lost(&self, dir: &DirNode, open: &DirPair, name: &Name, record: &FileRecord) -> bool {
        let is_of_before = record.batch < self.job.progress.pass_start_batch;
        let is_done = is_of_before && matches!(record.status, Status::Done | Status::Written);
        let is_looked_at = is_done && self.job.dest.bucket.is_none() && !self.job.has_device();
        let there = || Posix::new(&*self.caller, Side::Dest).stat(&open.dest, self.job.dest_name(dir, name));
        is_looked_at && matches!(there(), Err(Errno::NOENT))
    }

    /// Looks at a name of a listing: a directory is queued, an object that is done is counted, any other is an errand.
    pub(crate) fn meet(&self, dir: Arc<DirNode>, open: DirPair, mut entry: Entry) -> Option<Errand> {
        let page = entry.page.take();
        match self.sort_out(&dir, open, entry) {
            Ok(Some(errand)) => Some(Errand { page, ..errand }),
            Ok(None) => {
                self.release_page(&dir, page.as_deref());
                None
            }
            Err(error) => {
                self.job.end_with(error);
                None
            }
        }
    }

    fn sort_out(&self, dir: &Arc<DirNode>, open: DirPair, mut entry: Entry) -> Result<Option<Errand>> {
        if !self.job.choice.is_everything() && !self.is_taken(dir, &open, &mut entry) {
            return Ok(None);
        }
        self.counters.add(Count::EntriesWalked, 1);
        if entry.kind == libc::DT_DIR {
            self.find_dir(dir, entry.name, entry.record)?;
            return Ok(None);
        }
        let record = file_record(entry.record);
        if let Some(record) = record.as_ref().filter(|record| self.job.progress.is_handled(record)) {
            self.counters.add(Count::Unchanged, 1);
            self.job.stand((dir, &entry.name), record.losses, &self.counters);
            return Ok(None);
        }
        dir.hold();
        let unmet = (entry.kind == libc::DT_UNKNOWN).then(|| self.job.walker.expect_dir());
        let errand = self.errand(dir.clone(), open, entry.name, (record, entry.stamp), Ticket::Listed);
        Ok(Some(Errand { unmet, ..errand }))
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
        self.job.meets(dir, &entry.name, sort)
    }

    /// Queues a directory found in `dir`, unless this pass has seen to it already.
    pub(crate) fn find_dir(&self, dir: &Arc<DirNode>, name: Name, record: Option<Record>) -> Result<()> {
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
    fn is_seen_to(&self, id: DirId) -> Result<bool> {
        let reader = self.job.catalog.reader()?;
        let is_listed = reader.dir(id)?.is_some_and(|dir| dir.listed_batch >= self.job.progress.pass_start_batch);
        Ok(is_listed || reader.is_open_dir(id, DirState::Unlisted)?)
    }

    /// A directory that was known and had to be made changes the one it is in, which may have been listed long ago.
    /// After an interruption nobody knows who made it.
    pub(crate) fn note_made(&self, dir: &Arc<DirNode>) {
        let is_resume = self.job.past == Past::Interrupted;
        // Nor does anybody know then whose mode was widened, before that was recorded.
        let may_be_widened = is_resume && self.job.identity.uid != 0 && self.job.dest.bucket.is_none();
        if dir.is_widened() || (may_be_widened && dir.stamp().is_none_or(|stamp| stamp.mode & 0o700 != 0o700)) {
            self.reopen(dir);
        }
        let Some(parent) = &dir.parent else { return };
        if dir.dest() == DestDir::Created || is_resume {
            self.reopen(parent);
        }
        if may_be_widened {
            std::iter::successors(parent.parent.as_ref(), |above| above.parent.as_ref())
                .for_each(|above| self.reopen(above));
        }
    }

    /// Something changes in the destination's directory, which may have been listed long ago: this pass finishes it.
    pub(crate) fn reopen(&self, dir: &Arc<DirNode>) {
        if !dir.is_touched() {
            dir.touch();
            self.push(dir, Name::default(), What::Reopened);
        }
    }

    /// A directory that cannot be opened: recorded under its own number with an empty name.
    pub(crate) fn fail_dir(&self, dir: &Arc<DirNode>, error: Error) {
        if self.stops(&error) {
            return;
        }
        if error.cause == Cause::Vanished {
            self.counters.add(Count::Vanished, 1);
            self.job.failures.say_vanished(&Failure { error, attempts: 1 });
        } else {
            dir.note_unread();
            self.push_failure(dir, Name::default(), error, 1, None);
        }
        self.end_names(dir);
    }

    /// Ends the job if the error is of that class.
    pub(crate) fn stops(&self, error: &Error) -> bool {
        if is_fatal(error) {
            self.job.end_with(error.clone());
        }
        is_fatal(error)
    }

    /// Tells what became of an object. Returns it if it is to be tried again.
    pub(crate) fn end(&self, mut errand: Errand, group: Option<LinkKey>, ending: Ending) -> Option<Errand> {
        let dir = errand.place.dir.clone();
        let name = errand.place.name.clone();
        // A file that was made and removed again changes its directory too.
        if !matches!(ending, Ending::Skipped(_) | Ending::First(_) | Ending::NotMade(..) | Ending::IsDir) {
            dir.touch();
        }
        // What ends the job leaves an earlier run's to the resume.
        let is_over = match &ending {
            Ending::Failed(error) => !is_fatal(error),
            ending => matches!(ending, Ending::Vanished),
        };
        if is_over && self.job.may_have_leftovers(&dir) {
            let dest = Posix::new(&*self.caller, Side::Dest);
            let at = (&errand.place.open.dest, dir.id);
            self.job.temporaries.remove_leftovers(&dest, at, &errand.place.dest_name);
        }
        match ending {
            // Not even from the root is it reached by its name.
            Ending::Failed(Error { cause: Cause::Stale, .. }) => {
                self.end_vanished(&dir, name, errand.attempts(), group);
            }
            Ending::Changed if errand.attempt < UNSTABLE_ATTEMPTS_MAX => {
                self.job.failures.causes.note(Weight::Retry, &Cause::Unstable { attempts: errand.attempt });
                errand.attempt += 1;
                errand.claimed = group;
                return Some(errand);
            }
            // Ends: without its checksum nothing is read again for it.
            Ending::Differs => {
                errand.record = errand.record.map(|record| FileRecord { checksum: None, ..record });
                errand.claimed = group;
                return Some(errand);
            }
            Ending::Changed => {
                let cause = Cause::Unstable { attempts: errand.attempt };
                let object = errand.place.path(&self.job, Side::Source);
                let error = Error { verb: "copy", object, cause };
                self.push_failure(&dir, name, error, errand.attempts(), group);
            }
            Ending::Failed(error) if self.stops(&error) => return None,
            Ending::Failed(error) => self.push_failure(&dir, name, error, errand.attempts(), group),
            Ending::Vanished => self.end_vanished(&dir, name, errand.attempts(), group),
            Ending::NotMade(stamp, owner) => {
                self.counters.add(Count::Unchanged, 1);
                self.push(&dir, name, What::NotMade { stamp, owner, group });
            }
            Ending::Skipped(Skip::Done | Skip::Unchanged) => {
                self.counters.add(Count::Unchanged, 1);
                let losses = errand.record.as_ref().map_or_else(LossSet::default, |record| record.losses);
                self.job.stand((&dir, &name), losses, &self.counters);
            }
            Ending::First(key) => {
                self.counters.add(Count::Unchanged, 1);
                self.push(&dir, name, What::First(key));
            }
            Ending::Further(key, stamp) => self.push(&dir, name, What::Further(key, stamp)),
            Ending::IsDir if !self.job.takes(&dir, &name, Sort::Dir) => {}
            Ending::IsDir => {
                let record = self.job.catalog.reader().and_then(|reader| reader.entry(dir.id, &name));
                // The directory has no outcome then, and the one it is in must not be called listed (I1).
                if let Err(error) = record.and_then(|record| self.find_dir(&dir, name, record)) {
                    self.job.end_with(error);
                    return None;
                }
            }
            Ending::Copied(mut copied) => {
                copied.attempts = errand.attempts();
                let passed = errand.meter.as_ref().map_or(0, |meter| meter.passed());
                self.counters.foresee(Count::BytesCopied, copied.bytes.saturating_sub(passed));
                self.counters.settle(Count::BytesCopied, copied.bytes);
                self.counters.foresee(copied.count, 1);
                self.intake.add_bytes(copied.bytes);
                self.push(&dir, name, What::Copied(copied));
            }
        }
        // A directory it turned out to be is queued by now.
        drop(errand.unmet);
        self.release_page(&dir, errand.page.as_deref());
        match errand.ticket {
            Ticket::Listed => self.release_dir(&dir),
            Ticket::Alone => self.job.walker.complete(),
        }
        None
    }

    fn end_vanished(&self, dir: &Arc<DirNode>, name: Name, attempts: u32, group: Option<LinkKey>) {
        self.counters.add(Count::Vanished, 1);
        let object = join(&self.job.path(Side::Source, dir), &name);
        let error = Error { verb: "copy", object, cause: Cause::Vanished };
        self.job.failures.say_vanished(&Failure { error, attempts });
        self.push(dir, name, What::Vanished(group));
    }

    pub(crate) fn push(&self, dir: &Arc<DirNode>, name: Name, what: What) {
        self.intake.push(self.index, Outcome { dir: dir.clone(), name, what });
    }

    pub(crate) fn push_failure(
        &self,
        dir: &Arc<DirNode>,
        name: Name,
        error: Error,
        attempts: u32,
        group: Option<LinkKey>,
    ) {
        self.push(dir, name, What::Failed { error, attempts, group });
    }

    /// A name of a page has its outcome, or the listing has handed all of them on. To be called before the directory is
    /// released: a mark of a directory that is listed would open it again.
    pub(crate) fn release_page(&self, dir: &Arc<DirNode>, page: Option<&Page>) {
        if let Some(mark) = page.and_then(Page::release) {
            self.push(dir, Name::default(), What::ListedTo(mark));
        }
    }

    /// All names of a listing or a slice of `dir` have been met, or it failed.
    pub(crate) fn end_names(&self, dir: &Arc<DirNode>) {
        self.job.walker.met();
        self.release_dir(dir);
    }

    /// The last entry of a directory, or its listing, has its outcome.
    fn release_dir(&self, dir: &Arc<DirNode>) {
        if dir.release() {
            self.push(dir, Name::default(), What::Listed);
            self.job.walker.complete();
        }
    }
}

pub(crate) fn file_record(record: Option<Record>) -> Option<FileRecord> {
    match record {
        Some(Record::File(record)) => Some(record),
        _ => None,
    }
}
