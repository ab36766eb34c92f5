//! The life of one object: from a name in a listing to a closed, not yet sealed, object at the destination.
//!
//! ```text
//! prepare    stat source, decide; symlinks, devices, clones and empty files are done here         (straight line)
//!   |-> Ended         skipped, linked later, copied, failed
//!   |-> Small         a lease, then ReadWhole on the ring                                              (asynchronous)
//!   |     place_small stat source again (I8), create, write, owner, mode, close                    (straight line)
//!   '-> Large         large.rs
//! ```
//!
//! A file of which only the ctime is new is read first: if it has the recorded CRC64, owner, mode and times are all
//! that changes at the destination (held.rs).
//!
//! What is asynchronous is a state of the shard; what is not is straight-line code over a [`Caller`]. On any error the
//! partial file is removed (I2). The mtime, which is the seal, comes later: checkpoint.rs.

mod attributes;
mod copied;
mod device;
mod grouping;
mod held;
mod named;
mod source;

pub(crate) use attributes::note_unasked;
pub use copied::{Copied, Seal};
pub(crate) use device::{left_standing, note_standing, source_holds};
pub(crate) use grouping::{Grouping, claim_group};
use grouping::{claim_inode, new_first};
pub use source::{open_source, restat_source, source_error, stat_source};

use std::sync::Arc;

use crate::catalog::{Checksum, FileRecord, Owner, Proof, Stamp};
use crate::config::{ChecksumPolicy, Metadata, Naming, ReflinkChoice, SMALL_BYTES_MAX};
use crate::error::{Cause, Class, Errno, Error, Result};
use crate::filesystem::Reach;
use crate::job::{Job, Place, Reflink};
use crate::links::LinkKey;
use crate::names::{self, Claim};
use crate::plan::{self, Plan, Skip};
use crate::provider::metadata::{self, UNSEALED};
use crate::provider::posix::Posix;
use crate::provider::xattrs::Made;
use crate::report::Count;
use crate::ring::{Access, Caller, Handle, Kind, Lease, Name, Side, Stat, Time};
use crate::walk::DestDir;

/// How often a name is tried that was taken, and free when it was looked at.
const NAME_TRIES: u32 = 3;

/// What became of one object.
#[derive(Debug)]
pub enum Ending {
    /// Nothing was to be done.
    Skipped(Skip),
    /// Nothing was to be done, but it has further names by now: it is their first.
    First(LinkKey),
    /// It is at the destination, waiting for its seal.
    Copied(Box<Copied>),
    /// The destination cannot hold such an object, which its record tells as a loss.
    NotMade(Stamp, Owner),
    /// A further name of a file that another name brings over.
    Further(LinkKey, Stamp),
    /// It turned out to be a directory.
    IsDir,
    /// It changed while it was read: to be tried again.
    Changed,
    /// It was read again, and is not what was recorded: to be copied.
    Differs,
    /// It was gone.
    Vanished,
    /// It failed, and the job goes on; or the job ends with it, by the error's class.
    Failed(Error),
}

/// What [`prepare`] found.
#[derive(Debug)]
pub enum Prepared {
    /// Done with.
    Ended(Ending),
    /// To be decided once its directory is open at the destination.
    Unopened,
    /// To be read whole.
    Small(Subject),
    /// To be read in blocks.
    Large(Subject),
}

/// A source that is about to be read.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// What it was when it was decided on.
    pub stat: Stat,
    /// What is recorded of that state.
    pub stamp: Stamp,
    /// The CRC64 of the copy that is there: it is copied unless it has that.
    pub known: Option<u64>,
}

/// Looks at one name, decides, and does all that needs no reading of data. `group` is set as soon as the name is
/// claimed as the first of several: whatever becomes of it then, those that wait for it must hear of it.
pub fn prepare(
    job: &Job,
    caller: &dyn Caller,
    place: &Place,
    record: Option<&FileRecord>,
    group: &mut Option<LinkKey>,
) -> Prepared {
    match try_prepare(job, caller, place, record, group) {
        Ok(prepared) => prepared,
        Err(error) => Prepared::Ended(ending_of(error)),
    }
}

/// An error as an ending: a source that is gone, or another one by now, is no failure.
pub fn ending_of(error: Error) -> Ending {
    match error.cause {
        Cause::Vanished => Ending::Vanished,
        Cause::Unstable { .. } => Ending::Changed,
        _ => Ending::Failed(error),
    }
}

fn try_prepare(
    job: &Job,
    caller: &dyn Caller,
    place: &Place,
    record: Option<&FileRecord>,
    group: &mut Option<LinkKey>,
) -> Result<Prepared> {
    let stat = stat_source(job, caller, place)?;
    if job.has_device() {
        let work = Work { job, caller, place, stat: &stat, stamp: job.stamp(&stat), group: None, told: None };
        return Ok(work.prepare_device(record));
    }
    if stat.kind() == Kind::Dir {
        return Ok(Prepared::Ended(Ending::IsDir));
    }
    let is_fresh = place.dir.dest() == DestDir::Created;
    let plan = plan::decide(&stat, record, &job.progress, is_fresh);
    if let Plan::Skip(skip) = plan {
        let linked = match skip {
            Skip::Unchanged => new_first(job, place, record, &stat, group)?,
            Skip::Done => None,
        };
        return Ok(Prepared::Ended(linked.unwrap_or(Ending::Skipped(skip))));
    }
    if Arc::ptr_eq(&place.open.dest, &job.nowhere) {
        return Ok(Prepared::Unopened);
    }
    let mut stamp = job.stamp_to_read(&stat);
    *group = match claim_inode(job, place, &stat)? {
        Grouping::Alone => None,
        Grouping::First(key) => Some(key),
        Grouping::Split(key) => {
            stamp = stamp.racy();
            Some(key)
        }
        Grouping::Further(key) => return Ok(Prepared::Ended(Ending::Further(key, job.stamp(&stat)))),
    };
    let stat = job
        .shown(caller, &place.open.source, &place.name, stat)
        .map_err(|errno| source_error(job, place, "read the ACL of", errno))?;
    let work = Work { job, caller, place, stat: &stat, stamp, group: *group, told: None };
    if !plan.is_again()
        && let Some(copied) = work.reseal(record)?
    {
        return Ok(Prepared::Ended(Ending::Copied(Box::new(copied))));
    }
    let is_small = stat.size <= SMALL_BYTES_MAX.min(job.config.block_bytes) as u64;
    let known = match plan {
        Plan::Reread(crc64) => Some(crc64),
        _ => None,
    };
    if known.is_some() && stat.size > 0 {
        let subject = Subject { stat, stamp, known };
        return Ok(if is_small { Prepared::Small(subject) } else { Prepared::Large(subject) });
    }
    let is_renewed = plan == Plan::Renew && stat.kind() == Kind::File;
    if let (true, Some(record)) = (known.is_some() || is_renewed, record)
        && let Some(copied) = work.refresh(record)?
    {
        return Ok(Prepared::Ended(Ending::Copied(Box::new(copied))));
    }
    // Without a sync before it a seal proves nothing.
    if plan == Plan::Compare
        && job.syncs()
        && let Some(copied) = work.adopt()?
    {
        return Ok(Prepared::Ended(Ending::Copied(Box::new(copied))));
    }
    let copied = match stat.kind() {
        Kind::Symlink => work.copy_symlink()?,
        Kind::Special => work.copy_special()?,
        Kind::Dir => unreachable!("handled above"),
        Kind::File if stat.size == 0 => {
            let copied = work.finish(work.create()?, 0, Count::FilesCopied)?;
            let is_kept = job.config.checksum != ChecksumPolicy::Free;
            // The checksum of nothing is 0.
            let checksum = is_kept.then_some(Checksum { crc64: 0, proof: Proof::Written });
            Some(Copied { checksum, ..copied })
        }
        Kind::File => match work.try_clone()? {
            Some(copied) => Some(copied),
            None if is_small => return Ok(Prepared::Small(Subject { stat, stamp, known: None })),
            None => return Ok(Prepared::Large(Subject { stat, stamp, known: None })),
        },
    };
    Ok(Prepared::Ended(match copied {
        Some(copied) => Ending::Copied(Box::new(copied)),
        None => Ending::NotMade(work.stamp, Owner::of(&stat)),
    }))
}

/// A new file at the destination, open and without its seal.
#[derive(Debug)]
pub struct NewFile {
    /// Open for writing.
    pub handle: Handle,
    /// Its temporary name, when it does not stand under its final one.
    pub temp: Option<Name>,
    /// What the system made of it.
    pub made: Stat,
}

/// One object being worked on: what all its steps need.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// The job.
    pub job: &'a Job,
    /// Who answers.
    pub caller: &'a dyn Caller,
    /// Where it is.
    pub place: &'a Place,
    /// What the source was when it was decided on.
    pub stat: &'a Stat,
    /// What is recorded of that state.
    pub stamp: Stamp,
    /// Its group if it has several names.
    pub group: Option<LinkKey>,
    /// Its extended attributes and ACLs, where the source cannot be asked for them.
    pub told: Option<&'a [(Name, Vec<u8>)]>,
}

impl<'a> Work<'a> {
    fn dest(&self) -> Posix<'a> {
        Posix::new(self.caller, Side::Dest)
    }

    fn source(&self) -> Posix<'a> {
        Posix::new(self.caller, Side::Source)
    }

    fn error(&self, verb: &'static str, errno: Errno) -> Error {
        self.place.error(self.job, Side::Dest, verb, errno)
    }

    /// The source is another one than it was when it was decided on.
    pub fn unstable(&self, attempts: u32) -> Error {
        let object = self.place.path(self.job, Side::Source);
        Error { verb: "open", object, cause: Cause::Unstable { attempts } }
    }

    /// The state by which an earlier attempt's record is known to be of this source: that of an object is the one it
    /// is listed with; that of a file is what it is now, for what is recorded of a racy one is of no state at all.
    pub(crate) fn state(&self) -> Stamp {
        match self.job.source.bucket {
            Some(_) => self.stamp,
            None => self.job.stamp(self.stat),
        }
    }

    fn dest_dir(&self) -> &'a Handle {
        &self.place.open.dest
    }

    fn copied(&self, dest: &Stat, seal: Seal, bytes: u64, count: Count) -> Copied {
        Copied {
            stamp: self.stamp,
            dest_ino: self.job.dest_id(dest),
            dest_dev: dest.dev,
            seal,
            bytes,
            count,
            group: self.group,
            large_id: 0,
            checksum: None,
            attempts: 1,
            owner: Some(Owner::of(self.stat)),
        }
    }

    fn seal(&self, temp: Option<Name>) -> Seal {
        let (atime, mtime) = match self.job.device(Side::Source) {
            // A device has no times: its image is as old as it is.
            Some(_) => (Time::now(), Time::now()),
            None => (self.stat.atime, self.stat.mtime),
        };
        match temp {
            Some(temp) => Seal::Rename { temp, atime, mtime },
            None => Seal::Times { atime, mtime },
        }
    }

    fn keeps_metadata(&self) -> bool {
        self.job.config.metadata == Metadata::Keep
    }

    /// Creates the destination file: under its own name if that is free, else under the temporary one (I2).
    pub fn create(&self) -> Result<NewFile> {
        self.create_as(self.creation_mode())
    }

    /// Likewise for a file that is opened again before it is whole.
    pub fn create_large(&self) -> Result<NewFile> {
        self.create_as(metadata::mode_under_way(self.creation_mode()))
    }

    fn creation_mode(&self) -> u32 {
        let mode = metadata::creation_mode(self.stat, self.job.config.metadata, &self.job.identity);
        match self.place.dir.dest() {
            // Whoever the directory hands its files to is not the source's group, until the owner is set (I9).
            DestDir::ExistingWithAcl | DestDir::ExistingWithGroup if self.keeps_metadata() => mode & 0o700,
            _ => mode,
        }
    }

    fn create_as(&self, mode: u32) -> Result<NewFile> {
        if let Some(device) = self.job.device(Side::Dest) {
            return Ok(self.open_device(device));
        }
        let (handle, temp) = match self.job.config.naming {
            Naming::InPlace => match self.create_in_place(mode)? {
                Some(handle) => (handle, None),
                None => self.create_temp(mode)?,
            },
            Naming::Atomic => {
                if self.place.dir.dest() != DestDir::Created && self.is_taken() {
                    self.own_name()?;
                    self.make_way()?;
                }
                self.create_temp(mode)?
            }
        };
        let described = self.describe(&handle);
        match described {
            Ok(made) => Ok(NewFile { handle, temp, made }),
            Err(error) => {
                self.remove(temp.as_ref());
                Err(error)
            }
        }
    }

    fn describe(&self, handle: &Handle) -> Result<Stat> {
        self.clear_acls(handle)?;
        self.dest().stat_new(handle).map_err(|errno| self.error("stat", errno))
    }

    /// What the directory hands to its files is not the source's (I9).
    pub fn clear_acls(&self, handle: &Handle) -> Result<()> {
        match self.place.dir.dest() {
            DestDir::ExistingWithAcl => {
                self.dest().drop_acls(handle).map_err(|errno| self.error("clear the ACL of", errno))
            }
            _ => Ok(()),
        }
    }

    fn create_in_place(&self, mode: u32) -> Result<Option<Handle>> {
        let Place { dir, dest_name, .. } = self.place;
        // Ends: what is free that often, and taken, is an error.
        for _ in 0..NAME_TRIES {
            match self.job.make(dir, || self.dest().create(self.dest_dir(), dest_name, mode)) {
                Ok(handle) => {
                    self.remove_leftover(None);
                    return Ok(Some(handle));
                }
                Err(Errno::EXIST) if self.free_name()? => {}
                Err(Errno::EXIST) => return Ok(None),
                Err(errno) => return Err(self.unmade(self.error("create", errno))),
            }
        }
        Err(self.error("create", Errno::EXIST))
    }

    /// An error of making something under the object's own name.
    fn unmade(&self, error: Error) -> Error {
        names::unmade(self.job, self.caller, (self.dest_dir(), &self.place.dest_name), error)
    }

    fn is_taken(&self) -> bool {
        self.dest().stat(self.dest_dir(), &self.place.dest_name).is_ok()
    }

    /// The name was taken: true if it is free by now.
    fn free_name(&self) -> Result<bool> {
        let is_there = self.own_name()?;
        Ok(self.make_way()? || !is_there)
    }

    /// The name is taken: by its own object, or by another that the destination takes for it. False if it is not any
    /// more.
    fn own_name(&self) -> Result<bool> {
        let Place { dir, open, name, dest_name, .. } = self.place;
        names::own(self.job, self.caller, Claim { dir, open, name, dest_name })
    }

    /// What was to replace a file when the power went may still be there, and not be needed any more, unless it is what
    /// is `kept`. Best effort.
    pub fn remove_leftover(&self, kept: Option<&Name>) {
        if kept.is_none() && self.job.may_have_leftovers(&self.place.dir) {
            let Place { dir, dest_name, .. } = self.place;
            self.job.temporaries.remove_leftovers(&self.dest(), (self.dest_dir(), dir.id), dest_name);
        }
    }

    /// Takes a temporary name; false if this run has made something there and still needs it.
    pub(crate) fn hold(&self, temp: &Name) -> bool {
        self.job.temporaries.hold(self.place.dir.id, temp)
    }

    /// Nothing that this run needs has the temporary name any more.
    fn release(&self, temp: &Name) {
        self.job.temporaries.release(self.place.dir.id, temp);
    }

    /// A directory cannot be renamed over: an empty one is removed, one that holds anything is left alone. True if
    /// there was one: the name is free.
    fn make_way(&self) -> Result<bool> {
        let taken = self.dest().stat(self.dest_dir(), &self.place.dest_name);
        if !taken.is_ok_and(|taken| taken.kind() == Kind::Dir) {
            return Ok(false);
        }
        let removed = self.dest().remove_dir(self.dest_dir(), &self.place.dest_name);
        if removed == Err(Errno::NOTEMPTY) {
            self.job.note_clash(self.place.dir.id, &self.place.name);
        }
        removed.map_err(|errno| self.error("replace the directory", errno))?;
        self.job.seen.forget(self.place.dir.id);
        Ok(true)
    }

    fn create_temp(&self, mode: u32) -> Result<(Handle, Option<Name>)> {
        let temp = self.place.temp_name(self.job);
        let created = self.replacing(&temp, || self.dest().create(self.dest_dir(), &temp, mode))?;
        Ok((created, Some(temp)))
    }

    /// Makes something under a temporary name; one that an interrupted run left there is removed first, and never what
    /// this run has made.
    fn replacing<T>(&self, temp: &Name, make: impl Fn() -> std::result::Result<T, Errno>) -> Result<T> {
        if !self.hold(temp) {
            return Err(self.error("create", Errno::EXIST));
        }
        if self.job.may_have_leftovers(&self.place.dir) {
            let _ = self.dest().unlink(self.dest_dir(), &self.job.temporaries.former_of(&self.place.dest_name));
        }
        let made = match make() {
            Err(Errno::EXIST) => match self.dest().unlink(self.dest_dir(), temp) {
                Ok(()) => make().map_err(|errno| self.error("create", errno)),
                Err(errno) => Err(self.error("replace the leftover of", errno)),
            },
            made => made.map_err(|errno| self.error("create", errno)),
        };
        made.inspect_err(|_| self.release(temp))
    }

    /// Removes what was made, after an error (I2). Best effort: what stays has no seal.
    pub fn remove(&self, temp: Option<&Name>) {
        // A device's node is not ours to remove, and has no seal.
        if self.job.device(Side::Dest).is_some() {
            return;
        }
        let name = temp.unwrap_or(&self.place.dest_name);
        let _ = self.dest().unlink(self.dest_dir(), name);
        if temp.is_none() {
            self.job.seen.forget(self.place.dir.id);
        }
        temp.into_iter().for_each(|temp| self.release(temp));
    }

    /// Owner, mode, attributes, durability if each file has its own, close. Consumes the file; on an error it is
    /// removed.
    pub fn finish(&self, file: NewFile, bytes: u64, count: Count) -> Result<Copied> {
        let NewFile { handle, temp, made } = file;
        if self.job.device(Side::Dest).is_some() {
            // Durable by the checkpoint's fsync; owner, mode and times are its node's own.
            return Ok(self.copied(&made, Seal::None, bytes, count));
        }
        match self.try_finish(handle, &made) {
            Ok(()) => Ok(self.copied(&made, self.seal(temp), bytes, count)),
            Err(error) => {
                self.remove(temp.as_ref());
                Err(error)
            }
        }
    }

    fn try_finish(&self, handle: Handle, made: &Stat) -> Result<()> {
        self.end_way(&handle, made)?;
        let kept = self.keep_metadata(&handle, made)?;
        self.keep_attributes_of(&handle, kept, Made::New)?;
        let dest = self.dest();
        if metadata::is_young(self.stat.mtime, Time::now()) {
            dest.set_times(&handle, self.stat.atime, UNSEALED).map_err(|errno| self.error("set times of", errno))?;
        }
        if self.job.syncs_each() {
            dest.sync_file(&handle).map_err(|errno| self.error("sync", errno))?;
            self.job.forget_unsynced(&handle);
        }
        dest.close(handle).map_err(|errno| self.error("close", errno))
    }

    /// A file that was created with another mode than it is to have, and keeps no metadata, gets it now.
    fn end_way(&self, handle: &Handle, made: &Stat) -> Result<()> {
        let mode = self.creation_mode();
        if self.keeps_metadata() || made.permissions() == mode || metadata::mode_under_way(mode) == mode {
            return Ok(());
        }
        match self.dest().set_mode(handle, mode) {
            Err(errno) if self.job.dest_reach() == Reach::Remote && metadata::is_denied(errno) => Ok(()),
            set => set.map_err(|errno| self.error("set mode of", errno)),
        }
    }

    /// Shares the source's extents where one file system holds both sides and can. `None`: copy the bytes.
    fn try_clone(&self) -> Result<Option<Copied>> {
        let wanted = self.job.config.reflink == ReflinkChoice::Auto && self.job.reflink() != Reflink::Refused;
        if !wanted || self.stat.dev != self.job.dest.stat.dev {
            return Ok(None);
        }
        let source = self.source();
        let from = source
            .open(&self.place.open.source, &self.place.name, Access::Read)
            .map_err(|errno| source_error(self.job, self.place, "open", errno))?;
        let file = self.create()?;
        let cloned = self.dest().clone_extents(&from, &file.handle);
        if let Err(errno) = cloned {
            self.remove(file.temp.as_ref());
            // Any other reason is this file's: a swap file, or a group of XFS without room. Its bytes go, or tell.
            if matches!(errno, Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) {
                self.job.set_reflink(Reflink::Refused);
            }
            return Ok(None);
        }
        self.job.set_reflink(Reflink::Works);
        let after = source.restat_handle(&from).map_err(|errno| source_error(self.job, self.place, "stat", errno));
        let after = after.inspect_err(|_| self.remove(file.temp.as_ref()))?;
        if !self.stat.is_unchanged_in(&after) {
            self.remove(file.temp.as_ref());
            return Ok(None);
        }
        self.finish(file, 0, Count::FilesCloned).map(Some)
    }

    fn source_target(&self) -> Result<Name> {
        let target = self.source().read_link(&self.place.open.source, &self.place.name);
        target.map_err(|errno| source_error(self.job, self.place, "read link", errno))
    }

    /// The second half of a small file: `count` bytes of it, of this checksum, were read into `lease`.
    pub fn place_small(&self, lease: Lease, count: usize, checksum: Option<Checksum>) -> (Lease, Ending) {
        match restat_source(self.job, self.caller, self.place) {
            Ok(after) if self.stat.is_unchanged_in(&after) && count as u64 == self.stat.size => {}
            Ok(_) => return (lease, Ending::Changed),
            Err(error) => return (lease, ending_of(error)),
        }
        let file = match self.create() {
            Ok(file) => file,
            Err(error) => return (lease, ending_of(error)),
        };
        let (lease, written) = self.dest().write_all(&file.handle, lease, count, 0);
        let finished = match written {
            Ok(()) => self.finish(file, count as u64, Count::FilesCopied),
            Err(errno) => {
                self.remove(file.temp.as_ref());
                Err(self.error("write", errno))
            }
        };
        match finished {
            Ok(copied) => (lease, Ending::Copied(Box::new(Copied { checksum, ..copied }))),
            Err(error) => (lease, ending_of(error)),
        }
    }
}

/// Whether an error on the destination ends the whole job.
pub fn is_fatal(error: &Error) -> bool {
    error.class() == Class::Fatal
}
