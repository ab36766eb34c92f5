//! The end of a pass: every directory gets its owner, mode, attributes and times, deepest first, and the catalog says
//! that all is done.
//!
//! Directories are finished last because every name created, renamed or linked in them changes their mtime, and because
//! 0700 shields what they hold until then (I9). What to do is an index in the catalog, read in descending numbers: a
//! child's number is always higher than its parent's. So the end needs no memory that grows with the tree, and an
//! interrupted end goes on where it stopped.

use std::sync::Arc;
use std::time::Instant;

use crate::catalog::{Batch, DirId, DirRecord, DirStamp, DirState, Header, JobStatus, Row, Totals};
use crate::checkpoint::Checkpointer;
use crate::config::{Attributes, LossPolicy, Metadata, SpecialBits, scaled};
use crate::delete;
use crate::error::{Cause, Class, Errno, Error, Result};
use crate::lane::publish::{self, Publication};
use crate::provider::metadata;
use crate::provider::s3::{Unfinished, extended};
use crate::provider::xattrs::{self, Failed, Made, Origin, Target, Thing, Trust};
use crate::report::{Count, Failure, Loss, LossSet, PASSES_MAX, Pass};
use crate::ring::{Handle, Kind, Name, Side, Stat};
use crate::seal::{Sealer, on_all};
use crate::walk::DirNode;

/// Directories finished between two commits.
const PAGE: usize = scaled(16_384, 3);
/// Ranges of abandoned attempts that are looked at when a pass ends.
const ABANDONED_MAX: usize = 16_384;
/// Abandoned uploads that are given up when a pass ends; the next pass sees to the rest (I4).
const UPLOADS_MAX: usize = 4096;

impl Checkpointer {
    /// Finishes the directories, makes everything durable, and records the pass as finished. To be called after the
    /// last checkpoint, when nothing is queued. `pass` is what it came to, with its start, if it was a whole one.
    pub fn finish_pass(&mut self, totals: Totals, pass: Option<(Instant, Pass)>) -> Result<()> {
        let unlisted = self.job.catalog.reader()?.open_dirs_below(None, Some(DirState::Unlisted), 1)?;
        if self.job.single.is_none() && !unlisted.is_empty() {
            return Err(Error::catalog("", "directories that were not listed are left at the end of a pass"));
        }
        self.remove_unmet()?;
        let mut below = None;
        // Ends: each page lies strictly below the one before.
        loop {
            let page = self.job.catalog.reader()?.open_dirs_below(below, Some(DirState::Unfinished), PAGE)?;
            let is_last = page.len() < PAGE;
            below = page.last().map(|(id, _)| *id);
            let mut rows = Vec::with_capacity(page.len());
            match self.publisher {
                Some(_) => self.publish_dirs(page.into_iter().map(|(id, _)| id).collect(), &mut rows)?,
                None => self.finish_dirs(page.into_iter().map(|(id, _)| id).collect(), &mut rows)?,
            }
            if is_last {
                rows.extend(self.abandoned_ranges()?);
                rows.extend(self.abandoned_uploads()?);
                rows.extend(self.job.note_rows());
            }
            self.sync()?;
            let header = self.finished_header(is_last, totals, pass);
            let batch = Batch { rows, header, reseal_dirs: Vec::new() };
            self.job.catalog.commit(&batch)?;
            self.header = batch.header;
            self.nodes.clear();
            if is_last {
                return Ok(());
            }
        }
    }

    /// At the end of a pass no file is in progress any more: ranges that are still recorded are of attempts that a
    /// changed source or an error ended. What exceeds one look at them waits for the end of the next pass.
    fn abandoned_ranges(&self) -> Result<Vec<Row>> {
        let ids = self.job.catalog.reader()?.ranged(ABANDONED_MAX)?;
        Ok(ids.into_iter().map(|large_id| Row::DropRanges { large_id }).collect())
    }

    /// Likewise no upload is: what is still recorded is of objects that vanished or are another thing by now. Each
    /// is given up at the server; one that the server keeps stays recorded. Of one without an id it is not even known
    /// that there is any: what may be it is told, and forgotten.
    fn abandoned_uploads(&self) -> Result<Vec<Row>> {
        let Some(publisher) = &self.publisher else { return Ok(Vec::new()) };
        let uploads = self.job.catalog.reader()?.uploads(UPLOADS_MAX)?;
        let given_up = publisher.give_up(uploads.iter().map(|(_, upload)| upload.clone()).collect());
        let mut rows = Vec::with_capacity(uploads.len());
        for ((large_id, upload), given_up) in uploads.into_iter().zip(given_up) {
            if given_up.is_ok() || upload.id.is_empty() {
                rows.push(Row::DropRanges { large_id });
            }
            match given_up {
                Ok(doubtful) => doubtful.iter().for_each(|upload| self.tell_doubtful(upload)),
                Err(error) => {
                    self.job.console.note(&format!("gfast: {error}"));
                    self.counters.add(Count::UploadsLeft, 1);
                }
            }
        }
        Ok(rows)
    }

    fn tell_doubtful(&self, upload: &Unfinished) {
        let Unfinished { key, id, .. } = upload;
        let bucket = self.job.dest.bucket.as_ref().map_or("", |root| root.bucket.name());
        let what = "an upload without parts, of this job or another client's, is not given up";
        self.job.console.note(&format!("gfast: s3://{bucket}/{key}: {what}: id {id}"));
        self.counters.add(Count::UploadsLeft, 1);
    }

    /// The sync just made covers the seals of the last batch: all its records are Completed.
    fn finished_header(&self, is_last: bool, totals: Totals, pass: Option<(Instant, Pass)>) -> Header {
        let status = if is_last { JobStatus::Finished } else { JobStatus::Running };
        let totals = if is_last { totals } else { self.header.totals };
        let mut passes = self.header.passes.clone();
        if let Some((started, pass)) = pass.filter(|_| is_last) {
            let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            passes.drain(..(passes.len() + 1).saturating_sub(PASSES_MAX));
            passes.push(Pass { elapsed_ms, ..pass });
        }
        Header { status, totals, passes, completed_batch: self.header.durable_batch, ..self.header.clone() }
    }

    /// Finishes directories, those of one depth together: none above them is finished before, for that might shut the
    /// way to them.
    fn finish_dirs(&mut self, ids: Vec<DirId>, rows: &mut Vec<Row>) -> Result<()> {
        let mut due = Vec::with_capacity(ids.len());
        for id in ids {
            let record = self.job.catalog.reader()?.dir(id)?;
            match record.filter(|record| record.stamp.is_some()) {
                Some(record) => due.push((self.node(id)?, record)),
                None => rows.push(Row::CloseDir { id }),
            }
        }
        due.sort_by_key(|(dir, _)| std::cmp::Reverse(dir.depth));
        for level in due.chunk_by(|(a, _), (b, _)| a.depth == b.depth) {
            let settled = on_all(&mut self.sealers, level, |sealer, (dir, record)| sealer.finish_dir(dir, record));
            for ((dir, record), settled) in level.iter().zip(settled) {
                match settled {
                    // Nothing would ever list it again.
                    Ok(None) => delete::forget_gone(&self.job.catalog, dir)?,
                    Ok(Some((losses, count))) => {
                        self.counters.add(count, 1);
                        rows.push(Row::CloseDir { id: dir.id });
                        if losses != record.losses {
                            let record = DirRecord { losses, ..record.clone() };
                            rows.push(Row::PutDir { id: dir.id, record });
                        }
                    }
                    Err(error) if error.class() == Class::Fatal => return Err(error),
                    Err(error) => {
                        self.job.say(&error, 1);
                        self.counters.add(Count::Failed, 1);
                        // It stays in the index: the next pass lists it again and finishes it.
                    }
                }
            }
        }
        Ok(())
    }

    /// Stores the objects of a page of directories in a bucket, many at a time. One whose state is not known has none.
    fn publish_dirs(&mut self, ids: Vec<DirId>, rows: &mut Vec<Row>) -> Result<()> {
        let (mut stored, mut publications) = (Vec::new(), Vec::new());
        for id in ids {
            let record = self.job.catalog.reader()?.dir(id)?;
            let dir = self.node(id)?;
            let marked = match &record {
                Some(record) => self.sealers[0].mark_dir(&dir, record),
                None => Ok(None),
            };
            match marked {
                Ok(None) => {
                    self.counters.add(Count::Dirs, 1);
                    rows.push(Row::CloseDir { id });
                }
                Ok(Some((publication, losses))) => {
                    stored.push((id, DirRecord { losses, ..record.unwrap_or_default() }));
                    publications.push(Ok(publication));
                }
                Err(error) => {
                    stored.push((id, DirRecord::default()));
                    publications.push(Err(error));
                }
            }
        }
        let Some(publisher) = &self.publisher else { return Ok(()) };
        for ((id, record), published) in stored.into_iter().zip(publisher.publish(publications)) {
            match published {
                Ok(_) => {
                    self.counters.add(Count::Dirs, 1);
                    rows.push(Row::CloseDir { id });
                    if !record.losses.is_empty() {
                        rows.push(Row::PutDir { id, record });
                    }
                }
                Err(error) if error.class() == Class::Fatal => return Err(error),
                // It stays in the index: the next pass lists it again and finishes it.
                Err(error) => {
                    self.job.say(&error, 1);
                    self.counters.add(Count::Failed, 1);
                }
            }
        }
        Ok(())
    }
}

impl Sealer {
    /// Owner, mode, attributes and times of a directory; what was lost of them, and what to count it as. `None`:
    /// neither side has it any more. Once more, from the root, where it has become stale.
    fn finish_dir(&mut self, dir: &Arc<DirNode>, record: &DirRecord) -> Result<Option<(LossSet, Count)>> {
        match self.settle_dir(dir, record) {
            Err(error) if error.is_stale() => {
                self.forget(dir);
                self.settle_dir(dir, record)
            }
            settled => settled,
        }
    }

    fn settle_dir(&mut self, dir: &Arc<DirNode>, record: &DirRecord) -> Result<Option<(LossSet, Count)>> {
        let Some(stamp) = record.stamp else { return Ok(Some((LossSet::default(), Count::Dirs))) };
        let job = self.job.clone();
        let is_asked = job.config.attributes != Attributes::None && job.source.bucket.is_none();
        let found = if is_asked { self.find_source(dir, record)? } else { None };
        let is_gone = is_asked && found.is_none();
        let hidden = hidden_bits(is_gone, job.config.attributes);
        let handle = match self.open(dir) {
            Err(Error { cause: Cause::Os(Errno::NOENT | Errno::NOTDIR | Errno::LOOP), .. })
                if !self.is_in_source(dir, record)? =>
            {
                return Ok(None);
            }
            opened => opened?,
        };
        let dest = self.dest();
        let mut losses = LossSet::default();
        let failed = |verb, errno| job.dir_error(Side::Dest, dir, verb, errno);
        let now = dest.stat_handle(&handle).map_err(|errno| failed("stat", errno))?;
        let mut wanted = Stat { uid: now.uid, gid: now.gid, mode: now.mode, ..now };
        if job.config.metadata == Metadata::Keep {
            wanted = Stat { mode: stamp.mode & !hidden, uid: stamp.uid, gid: stamp.gid, ..now };
            let lost = metadata::keep_owner_and_mode(&dest, &handle, &wanted, &now, job.dest_reach());
            losses = lost.map_err(|errno| failed("set owner and mode of", errno))?;
        }
        if job.config.attributes != Attributes::None && !is_gone {
            let trust = if losses.has(Loss::Owner) { Trust::NoCapabilities } else { Trust::Full };
            losses.extend(self.keep_dir_attributes(dir, (record, found), &handle, (wanted.permissions(), trust))?);
        }
        // A prefix without an object of its own has no times.
        if stamp.ino != 0 {
            let set = metadata::keep_times(&self.dest(), &handle, (stamp.atime, stamp.mtime), job.clock());
            set.map_err(|errno| failed("set times of", errno))?.into_iter().for_each(|loss| losses.add(loss));
        }
        losses.iter().try_for_each(|loss| self.lose_dir(dir, loss))?;
        if is_gone {
            let error = Error { verb: "copy", object: job.path(Side::Source, dir), cause: Cause::Vanished };
            job.failures.say_vanished(&Failure { error, attempts: 1 });
        }
        Ok(Some((losses, if is_gone { Count::Vanished } else { Count::Dirs })))
    }

    /// Whether the source has a directory. A bucket has what this pass has listed.
    fn is_in_source(&mut self, dir: &Arc<DirNode>, record: &DirRecord) -> Result<bool> {
        match self.job.source.bucket {
            Some(_) => self.job.is_listed(dir.id),
            None => Ok(self.find_source(dir, record)?.is_some()),
        }
    }

    /// The source is asked for them by the directory's name: it may be one that nobody may list.
    fn keep_dir_attributes(
        &mut self,
        dir: &Arc<DirNode>,
        (record, found): (&DirRecord, Option<(Handle, Name)>),
        handle: &Handle,
        (permissions, trust): (u32, Trust),
    ) -> Result<LossSet> {
        let (job, none) = (self.job.clone(), Name::default());
        let is_told = job.source.bucket.is_some();
        let told = extended::decode(&record.told);
        let origin = match &found {
            Some((at, name)) => Origin::Object(Thing::named(self.source(), at, name)),
            None => Origin::Told(&told),
        };
        let is_trusted = !is_told || job.config.special_bits == SpecialBits::Restore;
        let trust = if is_trusted { trust } else { Trust::UserOnly };
        let thing = Thing::open(self.dest(), handle, &none);
        let target = Target { thing, kind: Kind::Dir, permissions, made: Made::Before, trust };
        xattrs::keep(origin, &target, job.config.attributes).map_err(|failed| match failed {
            Failed::Source(errno) => job.dir_error(Side::Source, dir, "read the attributes of", errno),
            Failed::Dest(errno) => job.dir_error(Side::Dest, dir, "set the attributes of", errno),
        })
    }

    /// What a directory's object in a bucket says; `None` for one that has no object, or of which nothing is known.
    fn mark_dir(&mut self, dir: &Arc<DirNode>, record: &DirRecord) -> Result<Option<(Publication, LossSet)>> {
        let Some(stamp) = record.stamp else { return Ok(None) };
        let (job, wanted) = (self.job.clone(), self.job.config.attributes);
        let is_asked = wanted != Attributes::None && job.source.bucket.is_none();
        let found = if is_asked { self.find_source(dir, record)? } else { None };
        let stamp = DirStamp { mode: stamp.mode & !hidden_bits(is_asked && found.is_none(), wanted), ..stamp };
        let read = found.map(|(at, name)| {
            let read = xattrs::read(Thing::named(self.source(), &at, &name), Kind::Dir, wanted, extended::BYTES_MAX);
            read.map_err(|errno| job.dir_error(Side::Source, dir, "read the attributes of", errno))
        });
        let (told, mut losses) = read.transpose()?.unwrap_or_default();
        let Some((publication, more)) = publish::marker(&job, dir, &stamp, told)? else { return Ok(None) };
        losses.extend(more);
        losses.iter().try_for_each(|loss| self.lose_dir(dir, loss))?;
        Ok(Some((publication, losses)))
    }

    /// The source's directory as a name in an open one; nothing if it has gone. One that is another than the one that
    /// was listed fails: the next pass lists it.
    pub(crate) fn find_source(&mut self, dir: &Arc<DirNode>, record: &DirRecord) -> Result<Option<(Handle, Name)>> {
        let Some(parent) = &dir.parent else { return Ok(Some((self.job.source.handle.clone(), Name::default()))) };
        let at = match self.open_source(parent) {
            Ok(at) => at,
            Err(Error { cause: Cause::Stale | Cause::Vanished, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_it = |now: Stat| record.stamp.is_some_and(|stamp| self.job.is_same_dir(&stamp, &now));
        match self.source().stat(&at, &dir.name) {
            Ok(now) if is_it(now) => Ok(Some((at, dir.name.clone()))),
            Ok(now) if now.kind() == Kind::Dir => {
                let why = "it is another directory now than the one that was listed";
                Err(Error::refused_object(self.job.path(Side::Source, dir), why))
            }
            Ok(_) | Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(errno) => Err(self.job.dir_error(Side::Source, dir, "stat", errno)),
        }
    }

    fn lose_dir(&self, dir: &DirNode, loss: Loss) -> Result<()> {
        let path = self.job.path(Side::Dest, dir);
        match self.job.config.losses {
            LossPolicy::Count => {
                self.job.losses.record(loss, &path);
                Ok(())
            }
            LossPolicy::Fail => Err(Error { verb: "copy", object: path, cause: Cause::Loss(loss.name()) }),
        }
    }
}

/// What is not shown of the mode of a directory that has gone: the bits of its group may be the mask of an ACL that
/// nobody can read any more (I9).
fn hidden_bits(is_gone: bool, wanted: Attributes) -> u32 {
    if is_gone && wanted.has_acls() { 0o070 } else { 0 }
}
