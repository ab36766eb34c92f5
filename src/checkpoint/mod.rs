//! Checkpoints: a batch of outcomes becomes durable, sealed, and recorded, in this order and no other (I1, I2).
//!
//! ```text
//! batch k    written --> syncfs --> sealed (times, renames, links) --> one commit: k DataDurable, k-1 Completed
//!                          '-- covers the seals of k-1
//! end        last batch, then directories deepest first, syncfs, one transaction: everything Completed
//! ```
//!
//! Runs beside the shards, on one thread; `--readback` reads a batch back before its seals (readback.rs). A record is
//! written once: it carries its batch number, and the header says up to which batch records are Completed. A sync that
//! fails names no culprit: nothing of the batch is recorded, the job ends, and the next run copies it again. A seal is
//! set only on the very inode that was written (seal.rs).

mod groups;
mod partials;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use groups::{Further, reopen_rows};

use crate::catalog::{
    Batch, DirId, DirRecord, DirState, Failure, FileRecord, Header, LateLink, LinkFirst, Range, Record, Row, Status,
    boot_id,
};
use crate::config::scaled;
use crate::error::{Cause, Class, Error, Result};
use crate::job::{Job, Past, Sealed};
use crate::lane::publish::Publisher;
use crate::links::LinkKey;
use crate::outcome::{Intake, Outcome, What};
use crate::provider::posix::Posix;
use crate::readback::Readback;
use crate::report::{Count, Counters, Loss, LossSet};
use crate::ring::{Caller, FixedBuffers, Handle, Name, Side};
use crate::seal::{Sealer, on_all};
use crate::transfer::{Copied, left_standing};
use crate::walk::DirNode;

/// Records that are read at a time.
const PAGE: usize = scaled(4096, 3);
/// Rows that end refusals of one directory; what is more is for the next time that it is listed (I4).
const REFUSALS_MAX: usize = 65_536;

/// Turns batches of outcomes into records.
pub struct Checkpointer {
    /// The job.
    pub(crate) job: Arc<Job>,
    /// Answers its operations.
    pub(crate) caller: Arc<dyn Caller>,
    /// Where outcomes come from.
    intake: Arc<Intake>,
    /// Counts what it finishes.
    pub(crate) counters: Arc<Counters>,
    /// Seal what is durable, one on each thread; the first also keeps this thread's directories open.
    pub(crate) sealers: Vec<Sealer>,
    /// Stores what a checkpoint has to store in a bucket.
    pub(crate) publisher: Option<Publisher>,
    /// Reads back what is durable.
    readback: Readback,
    /// The header of the last commit.
    pub(crate) header: Header,
    /// The first batch of this run.
    first_batch: u64,
    /// Directories that hold records of the last batch.
    reseal_dirs: Vec<DirId>,
    /// Directories whose numbers are recorded and that no resume lists yet.
    found_early: Vec<(Arc<DirNode>, Name, DirId)>,
    /// Directories of this batch by id, so that links find their first's directory before it is in the catalog.
    pub(crate) nodes: HashMap<DirId, Arc<DirNode>>,
    /// Leaves the sync before the seals out, so that the simulator can show that it would notice.
    #[cfg(test)]
    pub(crate) skips_sync: bool,
}

/// A batch being turned into rows.
#[derive(Default)]
pub(crate) struct Draft {
    /// Its number.
    number: u64,
    /// What it records.
    pub(crate) rows: Vec<Row>,
    /// Directories that hold records of it.
    dirs: Vec<DirId>,
    /// Firsts sealed in it, with what was copied.
    firsts: HashMap<LinkKey, Sealed>,
    /// Groups whose first failed in it.
    orphans: Vec<LinkKey>,
    /// Further names in it.
    further: Vec<Further>,
    /// Further names whose objects are to be stored in a bucket, with what they link to.
    published: Vec<(Sealed, Further)>,
    /// Groups of which a name that could be no link is copied: others like it wait for that.
    heirs: HashSet<LinkKey>,
    /// Groups that the catalog will know after the commit, or that nobody waits for.
    settled: Vec<LinkKey>,
}

impl Checkpointer {
    /// Checkpoints of `job`, fed by `intake`, sealing on up to `threads` threads (at least one). `caller` answers on
    /// the arena of `buffers`.
    pub fn new(
        job: Arc<Job>,
        caller: Arc<dyn Caller>,
        intake: Arc<Intake>,
        counters: Arc<Counters>,
        (threads, buffers): (usize, FixedBuffers),
    ) -> Result<Checkpointer> {
        let sealers = (0..threads.max(1)).map(|_| Sealer::new(job.clone(), caller.clone())).collect();
        let publisher = Publisher::new(&job)?;
        let header = job.catalog.header();
        let reseal_dirs = job.catalog.reader()?.reseal_dirs()?;
        Ok(Checkpointer {
            job,
            caller,
            intake,
            counters,
            sealers,
            publisher,
            readback: Readback::new(buffers),
            first_batch: header.durable_batch + 1,
            header,
            reseal_dirs,
            found_early: Vec::new(),
            nodes: HashMap::new(),
            #[cfg(test)]
            skips_sync: false,
        })
    }

    /// Whether a batch is due by number or bytes.
    pub fn is_due(&self) -> bool {
        self.intake.is_due()
    }

    /// Whether outcomes wait.
    pub fn has_outcomes(&self) -> bool {
        !self.intake.is_empty()
    }

    /// Whether a checkpoint would change anything.
    pub fn has_work(&self) -> bool {
        self.has_outcomes() || !self.job.notes.is_empty() || self.header.completed_batch < self.header.durable_batch
    }

    /// One batch: durable, sealed, recorded.
    pub fn checkpoint(&mut self) -> Result<()> {
        let (mut outcomes, bytes) = self.intake.take();
        self.sync_batch()?;
        self.readback.run(&mut self.sealers, &mut outcomes);
        self.record_replaced(&outcomes)?;
        let mut draft = Draft { number: self.header.durable_batch + 1, ..Draft::default() };
        for (dir, name, id) in std::mem::take(&mut self.found_early) {
            self.found(&mut draft, &dir, name, id)?;
        }
        let unsealed = on_all(&mut self.sealers, &outcomes, Sealer::seal_outcome);
        for (outcome, unsealed) in outcomes.into_iter().zip(unsealed) {
            self.take_in(&mut draft, outcome, unsealed)?;
        }
        self.settle_groups(&mut draft)?;
        self.commit(draft)?;
        self.counters.add(Count::BytesDurable, bytes);
        self.intake.close();
        Ok(())
    }

    /// Files that are about to be replaced under their first names, and have others: once replaced, they tell nobody.
    fn record_replaced(&self, outcomes: &[Outcome]) -> Result<()> {
        let batch = self.header.durable_batch + 1;
        let row_of = |outcome: &Outcome| {
            let What::Replacing(dest_ino) = outcome.what else { return None };
            let (key, dir, name) = (LinkKey::replaced(dest_ino), outcome.dir.id, outcome.name.clone());
            Some(Row::PutLink { dev: key.dev, ino: key.ino, first: LinkFirst { dir, name, batch } })
        };
        let rows: Vec<Row> = outcomes.iter().filter_map(row_of).collect();
        if rows.is_empty() {
            return Ok(());
        }
        self.job.catalog.commit(&Batch { rows, header: self.header.clone(), reseal_dirs: self.reseal_dirs.clone() })
    }

    /// What lets the seals of a batch claim anything (I2).
    fn sync_batch(&self) -> Result<()> {
        #[cfg(test)]
        if self.skips_sync {
            return Ok(());
        }
        self.sync()
    }

    /// Whether a large file was begun whose record should not wait for the next checkpoint.
    pub fn has_early(&self) -> bool {
        self.intake.has_early()
    }

    /// Records directories found and large files begun, which claims nothing about data: the batch numbers stay.
    pub fn record_early(&mut self) -> Result<()> {
        let mut draft = Draft { number: self.header.durable_batch, ..Draft::default() };
        for outcome in self.intake.take_early() {
            let Outcome { dir, name, what } = outcome;
            match what {
                // To be listed by a resume is only what lies in a durable directory; its number is needed at once.
                What::Found(id) => {
                    self.record_found(&mut draft, &dir, &name, id)?;
                    self.found_early.push((dir, name, id));
                }
                what => self.take_in(&mut draft, Outcome { dir, name, what }, None)?,
            }
        }
        let header = Header { next_id: self.job.next_id.load(Ordering::Relaxed), ..self.header.clone() };
        let batch = Batch { rows: draft.rows, header, reseal_dirs: self.reseal_dirs.clone() };
        self.job.catalog.commit(&batch)?;
        self.header = batch.header;
        Ok(())
    }

    /// Names that waited for a first name become names with work of their own: whatever becomes of them, they wait no
    /// more.
    pub(crate) fn reopen(&mut self, late: &[LateLink]) -> Result<()> {
        let mut rows = Vec::with_capacity(2 * late.len());
        for (dev, ino, dir, name) in late {
            rows.extend(reopen_rows((*dev, *ino), *dir, name));
        }
        let batch = Batch { rows, header: self.header.clone(), reseal_dirs: self.reseal_dirs.clone() };
        self.job.catalog.commit(&batch)
    }

    /// Has directories finished at the end of the run that an earlier one has finished.
    pub(crate) fn finish_again(&mut self, dirs: &[DirId]) -> Result<()> {
        if dirs.is_empty() {
            return Ok(());
        }
        let rows = dirs.iter().map(|&id| Row::OpenDir { id, state: DirState::Unfinished }).collect();
        let batch = Batch { rows, header: self.header.clone(), reseal_dirs: self.reseal_dirs.clone() };
        self.job.catalog.commit(&batch)
    }

    /// Makes everything written so far durable, on every destination file system (I1).
    pub(crate) fn sync(&self) -> Result<()> {
        if !self.job.syncs() {
            return Ok(());
        }
        if let Some(device) = self.job.device(Side::Dest) {
            let synced = self.dest().sync_file(&device.buffered);
            return synced.map_err(|errno| Error::os("sync", &device.path, errno));
        }
        let unsynced = std::mem::take(&mut *self.job.unsynced.lock());
        for (large_id, file) in unsynced {
            let synced = self.dest().sync_file(&file);
            match synced.map_err(|errno| (errno, Error::os("sync large files below", &self.job.dest.path, errno))) {
                Ok(()) => {}
                Err((_, error)) if error.class() == Class::Fatal => return Err(error),
                // Told once: whoever syncs that file next is told that all is well.
                Err((errno, _)) => drop(self.job.unsyncable.lock().insert(large_id, errno)),
            }
        }
        let handles: Vec<Handle> = self.job.superblocks.lock().values().cloned().collect();
        for handle in handles {
            let synced = self.dest().sync_file_system(&handle);
            synced.map_err(|errno| Error::os("sync the file system of", &self.job.dest.path, errno))?;
        }
        Ok(())
    }

    pub(crate) fn dest(&self) -> Posix<'_> {
        Posix::new(&*self.caller, Side::Dest)
    }

    /// Whether what is written may go with the power (`--sync none`). What a server has is in its hands, whatever
    /// becomes of this machine.
    fn leaves_unsynced(&self) -> bool {
        !self.job.syncs() && self.job.dest.bucket.is_none()
    }

    fn commit(&mut self, draft: Draft) -> Result<()> {
        let mut dirs = draft.dirs;
        dirs.sort_unstable();
        dirs.dedup();
        let header = Header {
            durable_batch: draft.number,
            completed_batch: draft.number - 1,
            next_id: self.job.next_id.load(Ordering::Relaxed),
            has_unsynced: self.header.has_unsynced || self.leaves_unsynced(),
            ..self.header.clone()
        };
        let rows = draft.rows.into_iter().chain(self.job.note_rows()).collect();
        let batch = Batch { rows, header, reseal_dirs: dirs };
        self.job.catalog.commit(&batch)?;
        self.header = batch.header;
        self.reseal_dirs = batch.reseal_dirs;
        self.nodes.clear();
        let is_over = |key: &LinkKey| !draft.heirs.contains(key);
        draft.settled.into_iter().filter(is_over).for_each(|key| self.job.links.forget(key));
        Ok(())
    }

    /// Turns an outcome into rows; `unsealed` is why a copied object could not be sealed: it is not there any more,
    /// or that ends the job.
    fn take_in(&mut self, draft: &mut Draft, outcome: Outcome, unsealed: Option<Error>) -> Result<()> {
        let Outcome { dir, name, what } = outcome;
        self.nodes.entry(dir.id).or_insert_with(|| dir.clone());
        match what {
            What::Found(id) => self.found(draft, &dir, name, id)?,
            What::ListedTo(mark) => draft.rows.push(Row::ListFrom { id: dir.id, mark }),
            What::Listed => self.listed(draft, &dir)?,
            What::Copied(copied) => match unsealed {
                None => self.copied(draft, &dir, name, *copied),
                // It is there, whole, and nothing is recorded of it: the resume seals it, or copies it again.
                Some(error) if error.class() == Class::Fatal => return Err(error),
                Some(error) => self.failed(draft, &dir, name, &error, copied.attempts, copied.group)?,
            },
            What::NotMade { stamp, owner, group } => {
                // Each of its names is lost by itself.
                draft.orphans.extend(group);
                draft.rows.push(Row::CloseFile { dir: dir.id, name: name.clone() });
                let losses = self.job.take_lost(dir.id, &name);
                let (name, owner) = ((dir.id, name), Some(owner));
                self.record_done(draft, Sealed { name, stamp, dest_ino: 0, checksum: None, owner, losses });
            }
            What::Further(key, stamp) => draft.further.push(Further { key, dir, name, stamp }),
            // Recorded before the seals.
            What::Replacing(_) => {}
            What::Begun(record) => {
                draft.rows.extend(self.replaced_ranges(&dir, &name, record.large_id)?);
                let mut put = |range| draft.rows.push(Row::PutRange { large_id: record.large_id, range });
                let standing = self.job.standing.mark();
                // Nothing, too, where an earlier attempt that is gone on with has recorded something.
                if standing != 0 || self.job.device(Side::Dest).is_some() {
                    put(Range::standing(standing));
                }
                if self.leaves_unsynced() {
                    put(Range::unsynced(boot_id()));
                }
                let record = Record::File(FileRecord { batch: draft.number, ..record });
                draft.rows.push(Row::OpenFile { dir: dir.id, name: name.clone() });
                draft.rows.push(Row::PutEntry { dir: dir.id, name, record });
            }
            What::Uploading(large_id, upload) => draft.rows.push(Row::PutUpload { large_id, upload }),
            What::Abandoned(large_id) | What::Removed(large_id) => draft.rows.push(Row::DropRanges { large_id }),
            What::Written(large_id, _) if self.job.unsyncable.lock().contains_key(&large_id) => {}
            What::Written(large_id, range) => draft.rows.push(Row::PutRange { large_id, range }),
            What::Failed { error, attempts, group } => {
                self.end_begun(&dir, &name)?;
                self.failed(draft, &dir, name, &error, attempts, group)?;
            }
            What::Vanished(group) => {
                self.end_begun(&dir, &name)?;
                self.job.take_lost(dir.id, &name);
                draft.orphans.extend(group);
                draft.rows.push(Row::CloseFile { dir: dir.id, name: name.clone() });
                draft.rows.push(Row::DeleteEntry { dir: dir.id, name });
            }
            What::First(key) => self.known_first(draft, &dir, name, key)?,
            What::Left(group) => draft.orphans.push(group),
            What::Reopened => self.reopened(draft, &dir)?,
        }
        Ok(())
    }

    /// What was recorded of an earlier attempt at a large file that is begun anew. Parts of an upload are for whoever
    /// ends that upload.
    fn replaced_ranges(&self, dir: &DirNode, name: &Name, large_id: u64) -> Result<Option<Row>> {
        let reader = self.job.catalog.reader()?;
        let Some(Record::File(former)) = reader.entry(dir.id, name)? else { return Ok(None) };
        let is_replaced = former.large_id != 0 && former.large_id != large_id;
        let is_ranges = is_replaced && reader.upload(former.large_id)?.is_none();
        Ok(is_ranges.then_some(Row::DropRanges { large_id: former.large_id }))
    }

    /// A directory to be listed. What an earlier pass recorded of it stays, so that it is not finished again for
    /// nothing.
    fn found(&self, draft: &mut Draft, dir: &DirNode, name: Name, id: DirId) -> Result<()> {
        self.record_found(draft, dir, &name, id)?;
        draft.rows.push(Row::OpenDir { id, state: DirState::Unlisted });
        Ok(())
    }

    fn record_found(&self, draft: &mut Draft, dir: &DirNode, name: &Name, id: DirId) -> Result<()> {
        if !self.job.is_finished(id)? {
            let record = DirRecord { parent: dir.id, name: name.clone(), ..DirRecord::default() };
            draft.rows.push(Row::PutDir { id, record });
        }
        draft.rows.push(Row::PutEntry { dir: dir.id, name: name.clone(), record: Record::Dir(id) });
        Ok(())
    }

    /// A directory that was listed long ago is changed again: it will have to be finished again. One that is not listed
    /// yet must stay unlisted in the index.
    fn reopened(&self, draft: &mut Draft, dir: &DirNode) -> Result<()> {
        if self.job.is_listed(dir.id)? {
            draft.rows.push(Row::OpenDir { id: dir.id, state: DirState::Unfinished });
        }
        Ok(())
    }

    fn listed(&self, draft: &mut Draft, dir: &DirNode) -> Result<()> {
        // One that is not finished again stays as it was finished.
        let losses = if dir.is_touched() { LossSet::default() } else { self.recorded_losses(dir.id)? };
        self.job.stand((dir, &Name::default()), losses, &self.counters);
        let record = DirRecord {
            parent: dir.parent.as_ref().map_or(DirId::ROOT, |parent| parent.id),
            name: dir.name.clone(),
            stamp: dir.stamp().map(|stamp| self.job.recorded_dir(stamp)),
            listed_batch: draft.number,
            losses,
            told: dir.told().to_vec(),
        };
        draft.rows.push(Row::CloseDir { id: dir.id });
        // What failed before, unless it failed again: a failure of this listing may be of an earlier batch.
        if !dir.is_unread() {
            draft.rows.push(Row::CloseFile { dir: dir.id, name: Name::default() });
            if self.job.past != Past::Nothing {
                draft.rows.push(Row::DeleteEntry { dir: dir.id, name: Name::default() });
                self.end_refusals(draft, dir.id)?;
            }
        }
        draft.rows.push(Row::PutDir { id: dir.id, record });
        match dir.is_touched() {
            true => draft.rows.push(Row::OpenDir { id: dir.id, state: DirState::Unfinished }),
            false => self.counters.add(Count::Unchanged, 1),
        }
        Ok(())
    }

    /// Keys that an earlier run has refused, and the listing that this one has ended has not, are refused no more. What
    /// it has refused is of this run's batches, or among the outcomes that follow.
    fn end_refusals(&self, draft: &mut Draft, dir: DirId) -> Result<()> {
        if self.job.source.bucket.is_none() {
            return Ok(());
        }
        let (mut after, rows_max) = (None, draft.rows.len() + REFUSALS_MAX);
        // Ends: each page lies strictly behind the one before.
        while draft.rows.len() < rows_max {
            let page = self.job.catalog.reader()?.slashed(dir, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (name, record) in page {
                if matches!(&record, Record::File(record) if record.batch < self.first_batch) {
                    draft.rows.push(Row::CloseFile { dir, name: name.clone() });
                    draft.rows.push(Row::DeleteEntry { dir, name });
                }
            }
        }
        Ok(())
    }

    fn recorded_losses(&self, dir: DirId) -> Result<LossSet> {
        Ok(self.job.catalog.reader()?.dir(dir)?.map_or_else(LossSet::default, |record| record.losses))
    }

    fn copied(&mut self, draft: &mut Draft, dir: &DirNode, name: Name, copied: Copied) {
        self.counters.settle(copied.count, 1);
        if let Some(proved) = copied.proved() {
            self.counters.add(proved, 1);
        }
        // Those of a device tell a resume that both ends are still what they were, until the pass is finished.
        let is_kept = self.job.has_device() && self.job.dest.bucket.is_none();
        if copied.large_id != 0 && !is_kept {
            draft.rows.push(Row::DropRanges { large_id: copied.large_id });
        }
        let large_id = if is_kept { copied.large_id } else { 0 };
        draft.rows.push(Row::CloseFile { dir: dir.id, name: name.clone() });
        let at = (dir.id, name.clone());
        let losses = self.job.take_lost(dir.id, &name);
        let Copied { stamp, dest_ino, checksum, owner, .. } = copied;
        let sealed = Sealed { name: at, stamp, dest_ino, checksum, owner, losses };
        if let Some(key) = copied.group {
            let first = LinkFirst { dir: dir.id, name: name.clone(), batch: draft.number };
            draft.rows.push(Row::PutLink { dev: key.dev, ino: key.ino, first });
            draft.rows.push(Row::DropLateLink {
                dev: key.waiting_dev(),
                ino: key.ino,
                dir: dir.id,
                name: name.clone(),
            });
            draft.firsts.insert(key, sealed.clone());
            draft.settled.push(key);
        }
        self.record_copied(draft, sealed, (copied.attempts, large_id));
    }

    /// An unchanged file that has further names by now.
    fn known_first(&mut self, draft: &mut Draft, dir: &DirNode, name: Name, key: LinkKey) -> Result<()> {
        let recorded = match self.job.catalog.reader()?.entry(dir.id, &name)? {
            Some(Record::File(record)) => Some(Sealed::of((dir.id, name.clone()), record)),
            _ => None,
        };
        let Some(sealed) = self.still_there(recorded)? else {
            draft.orphans.push(key);
            return Ok(());
        };
        let first = LinkFirst { dir: dir.id, name, batch: draft.number };
        draft.rows.push(Row::PutLink { dev: key.dev, ino: key.ino, first });
        draft.firsts.insert(key, sealed);
        draft.settled.push(key);
        Ok(())
    }

    fn record_done(&self, draft: &mut Draft, sealed: Sealed) {
        self.record_copied(draft, sealed, (1, 0));
    }

    /// What was copied at one of its tries; the number is that of its ranges, where they are kept until the pass ends.
    fn record_copied(&self, draft: &mut Draft, sealed: Sealed, (attempts, large_id): (u32, u64)) {
        let Sealed { name: (dir, name), stamp, dest_ino, checksum, owner, losses } = sealed;
        let failure = (attempts > 1).then(|| Failure::tries(attempts));
        let status = if self.leaves_unsynced() { Status::Written } else { Status::Done };
        let batch = draft.number;
        let record = FileRecord { status, batch, stamp, dest_ino, large_id, failure, checksum, losses, owner };
        draft.rows.push(Row::PutEntry { dir, name, record: Record::File(record) });
        draft.dirs.push(dir);
    }

    /// The destination's directory.
    pub(crate) fn open(&mut self, dir: &Arc<DirNode>) -> Result<Handle> {
        self.sealers[0].open(dir)
    }

    fn failed(
        &self,
        draft: &mut Draft,
        dir: &DirNode,
        name: Name,
        error: &Error,
        attempts: u32,
        group: Option<LinkKey>,
    ) -> Result<()> {
        // A name that `--delete` is about to clear the way for is recorded as failed, but counted by its next try.
        if !self.job.clashes.lock().contains(&(dir.id, name.clone())) {
            self.job.say(error, attempts);
            let is_unstable = matches!(error.cause, Cause::Unstable { .. });
            self.counters.add(if is_unstable { Count::Unstable } else { Count::Failed }, 1);
        }
        let errno = match error.cause {
            Cause::Os(errno) | Cause::Name(errno) => errno.raw_os_error() as u16,
            _ => 0,
        };
        let failure = Failure { errno, verb: error.verb.into(), cause: error.cause.to_string(), attempts };
        let (stamp, owner) = self.job.held(dir.id, &name)?;
        let mut losses = self.job.take_lost(dir.id, &name);
        if error.is_of_name() {
            losses.add(Loss::Name);
        }
        let record = FileRecord {
            status: Status::Failed,
            batch: draft.number,
            stamp,
            dest_ino: left_standing(&self.job),
            large_id: 0,
            failure: Some(failure),
            checksum: None,
            losses,
            owner,
        };
        draft.orphans.extend(group);
        draft.rows.push(Row::OpenFile { dir: dir.id, name: name.clone() });
        draft.rows.push(Row::PutEntry { dir: dir.id, name, record: Record::File(record) });
        Ok(())
    }

    /// A directory by its number: of this batch, or from the catalog.
    pub(crate) fn node(&mut self, id: DirId) -> Result<Arc<DirNode>> {
        if let Some(node) = self.nodes.get(&id) {
            return Ok(node.clone());
        }
        let node = crate::resume::load_node(&self.job.catalog, id, &mut self.nodes)?;
        Ok(node)
    }
}
