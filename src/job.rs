//! What every part of a running job shares: what was asked for, who we are, where things stand, and where to report.
//!
//! Everything here is either fixed for the run or an atomic; the only locks are off the common path.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::boards::Boards;
use crate::catalog::{Catalog, Checksum, DirId, DirState, FileRecord, Owner, Record, Row, Stamp, Status};
use crate::config::{Config, LossPolicy, SyncPolicy};
use crate::error::{Cause, Errno, Error};
use crate::extents::Extents;
use crate::filesystem::{FileSystem, Inodes, KernelVersion, Reach};
use crate::filter::Sort;
use crate::gate::Gate;
use crate::links::{LinkMap, LinkName};
use crate::naming::Naming;
use crate::plan::{Again, Progress};
use crate::provider::block::Device;
use crate::provider::metadata::Identity;
use crate::provider::s3::{Bucket, Key, keys};
use crate::remains::Remains;
use crate::report::{Console, Crowd, Failure, Failures, Loss, LossSet, Losses, Notes};
use crate::ring::{Handle, Name, Side, Stat, Time};
use crate::roots::Root;
use crate::selection::Choice;
use crate::temporaries::Temporaries;
use crate::walk::{DestDir, DirNode, DirPair, Folding, Recent, Seen, Twins, Walker};

/// One root of the job.
#[derive(Clone, Debug)]
pub struct JobRoot {
    /// The open directory. A bucket has none: it is /dev/null then, in which no name can be looked up.
    pub handle: Handle,
    /// Its canonical path, for messages.
    pub path: Vec<u8>,
    /// What it was when the job began; nothing, for a bucket.
    pub stat: Stat,
    /// The bucket, if it is one.
    pub bucket: Option<BucketRoot>,
    /// The block device that the job is about, if it is one; its parent directory is the root then.
    pub device: Option<Arc<Device>>,
    /// How long its inode numbers last.
    pub inodes: Inodes,
}

impl JobRoot {
    /// A root of a mounted file system, or the parent directory of a device.
    pub fn of(root: &Root) -> JobRoot {
        JobRoot {
            handle: root.handle.clone(),
            path: root.path.clone(),
            stat: root.stat,
            bucket: None,
            device: root.device.clone(),
            inodes: root.inodes,
        }
    }
}

/// A root that is a bucket, or the keys of one that begin with a prefix.
#[derive(Clone)]
pub struct BucketRoot {
    /// The bucket.
    pub bucket: Arc<Bucket>,
    /// What every key begins with: empty, or with a slash at its end.
    pub prefix: String,
    /// How names become keys.
    pub names: KeyNames,
    /// Whether a destination held nothing when the run began.
    pub is_empty: bool,
    /// Whether the server is near: it answered the first listing within [`crate::config::NEAR_TIME_MAX`].
    pub is_near: bool,
}

/// How the names of the walk become keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyNames {
    /// They are names of a file system: each is escaped where it must be, and followed by a slash if it is a
    /// directory's.
    Posix,
    /// They are pieces of keys, a directory's with its slash: so a key and a prefix of the same name stay apart, and
    /// empty components are names too. The object whose key is a directory's own is called `.`, which is no key's name.
    Pieces,
}

impl std::fmt::Debug for BucketRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BucketRoot({:?}, {:?})", self.prefix, self.names)
    }
}

impl BucketRoot {
    /// The key of a directory itself, with its slash; the prefix for the root.
    pub fn dir_key(&self, dir: &DirNode) -> String {
        let mut names = Vec::new();
        let mut node = dir;
        while let Some(parent) = &node.parent {
            names.push(&node.name);
            node = parent;
        }
        let mut key = self.prefix.clone();
        for name in names.into_iter().rev() {
            self.append(&mut key, name);
            if self.names == KeyNames::Posix {
                key.push('/');
            }
        }
        key
    }

    /// The key of a name in a directory, or why it has none that may be used (I8).
    pub fn key(&self, dir: &DirNode, name: &Name) -> Result<Key, &'static str> {
        let mut key = self.dir_key(dir);
        if !(self.names == KeyNames::Pieces && name.as_bytes() == b".") {
            self.append(&mut key, name);
        }
        if key.starts_with('/') {
            return Err("some servers take a key with a leading slash for the one without it");
        }
        Key::new(key)
    }

    fn append(&self, key: &mut String, name: &Name) {
        match self.names {
            KeyNames::Posix => key.push_str(&keys::encode_name(name.as_bytes()).0),
            KeyNames::Pieces => key.push_str(&String::from_utf8_lossy(name.as_bytes())),
        }
    }
}

/// Shared by all shards and the checkpoints of one run.
pub struct Job {
    /// What was asked for.
    pub config: Config,
    /// Who this process is.
    pub identity: Identity,
    /// Where the source begins.
    pub source: JobRoot,
    /// Where the destination begins.
    pub dest: JobRoot,
    /// Stands for the destination's side of a directory that has not been needed: no name can be looked up in it.
    pub nowhere: Handle,
    /// For a job that copies one file: its name in the source root and in the destination root.
    pub single: Option<(Name, Name)>,
    /// Which names it is about.
    pub choice: Choice,
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// What the catalog held when the run began.
    pub past: Past,
    /// Where decisions stand, from the header as the run began.
    pub progress: Progress,
    /// Its temporary files.
    pub temporaries: Temporaries,
    /// The state directory, which no walk enters.
    pub state_dir: (u64, u64),
    /// The device of the source's root as the catalog has it.
    pub source_dev: u64,
    /// When the run began.
    pub began: Time,
    /// How far away the source's clock is.
    pub clock_reach: Reach,
    /// Whether each file is made durable by itself: asked for, or the file system's syncfs cannot be trusted (I1).
    pub sync_each: AtomicBool,
    /// Nanoseconds the destination's times are told apart by at worst, as its file systems tell.
    pub granularity_nanos: AtomicU32,
    /// Those of a mount, once they were tried.
    pub measured_nanos: OnceLock<u32>,
    /// What the destination root lives on.
    pub dest_file_system: FileSystem,
    /// Whether anything at the destination is on another machine, or behind a user-space daemon.
    pub is_dest_remote: AtomicBool,
    /// Whether anything there may not do what it says it has done: what it is told to change is looked at again.
    pub is_dest_doubted: AtomicBool,
    /// Names of the destination's directories that were looked through last.
    pub seen: Recent<Seen>,
    /// Names of the source's directories that were looked through last for such as a destination may take for one.
    pub twins: Recent<Twins>,
    /// Whose turn it is to give a name that the destination might take for another.
    pub naming: Naming,
    /// Which of the destination's file systems, by device, keep names in another form than they are given.
    pub forms: Mutex<HashMap<u64, bool>>,
    /// The queues.
    pub walker: Walker,
    /// Streams.
    pub gate: Gate,
    /// Hard links in flight.
    pub links: LinkMap,
    /// Where notes go.
    pub console: Arc<Console>,
    /// What its threads are busy with.
    pub crowd: Arc<Crowd>,
    /// Failures, said as they happen.
    pub failures: Failures,
    /// Losses, said once each.
    pub losses: Losses,
    /// What is changed while it runs.
    pub notes: Notes,
    /// The number of the next note.
    pub next_note: AtomicU64,
    /// What its threads have open, if they are asked.
    pub boards: Boards,
    /// Names of directories at the destination that are in the way of what is none in the source, until `--delete` has
    /// cleared the way.
    pub clashes: Mutex<HashSet<(DirId, Name)>>,
    /// Losses of objects whose outcome is not recorded yet.
    pub lost: Mutex<HashMap<(DirId, Name), LossSet>>,
    /// Blocks of one large file in flight on one shard: a ring overlaps them, a thread of system calls does not.
    pub file_depth: usize,
    /// How far away the slower side is: work is cut smaller, and spread over more threads, where answers are slow.
    pub reach: Reach,
    /// Directories that each shard, and the checkpoints, may keep open.
    pub cached_dirs: usize,
    /// The next directory or large-file id.
    pub next_id: AtomicU64,
    /// Raised once every entry that was to be sealed again has been tried: what is still unsealed is out of reach.
    pub is_resealed: AtomicBool,
    /// Raised once `--delete` has been here.
    pub is_cleared: AtomicBool,
    /// What ended the job early.
    pub fatal: Mutex<Option<Error>>,
    /// Whether FICLONE works between the roots: see [`Reflink`].
    pub reflink: AtomicU8,
    /// One descriptor per destination file system, opened before the first write there: syncfs reports an error once
    /// per descriptor (I1).
    pub superblocks: Mutex<HashMap<u64, Handle>>,
    /// Large files of which ranges were written since the last sync, by the key of their ranges, where a sync of the
    /// whole file system proves nothing (I1).
    pub unsynced: Mutex<HashMap<u64, Handle>>,
    /// Large files that could not be synced, by the key of their ranges: whatever is written to them yet, they fail.
    pub unsyncable: Mutex<HashMap<u64, Errno>>,
    /// Whether symlinks have owner and times of their own there, by device, where that had to be tried.
    pub link_changes: Mutex<HashMap<u64, LinkChanges>>,
    /// Bytes of a source device that could not be read and are zeros at the destination, or what was read earlier.
    pub unreadable: Mutex<Extents>,
    /// Of a job with a device: what earlier runs have left, which stays where this one can read less.
    pub standing: Remains,
}

/// What a destination does that is asked to give a symlink an owner or times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChanges {
    /// The symlink gets them.
    Own,
    /// It refuses, or gives them to what the symlink leads to: it is not asked (I8).
    Never,
}

/// What the catalog held when a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// No records: nothing is looked up.
    Nothing,
    /// A whole pass.
    Finished,
    /// A part of this pass, and whatever passes there were before it.
    Interrupted,
}

/// What is known of FICLONE between source and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reflink {
    /// Not tried yet.
    Untried = 0,
    /// It works.
    Works = 1,
    /// It does not, or is not wanted.
    Refused = 2,
}

/// A name that is sealed, with what was copied to it; the further names of a group become links to one.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The name.
    pub name: LinkName,
    /// The source's state that was copied.
    pub stamp: Stamp,
    /// What it is recognised by at the destination; 0 where that is not known.
    pub dest_ino: u64,
    /// Checksum of its content where one was computed.
    pub checksum: Option<Checksum>,
    /// Whose it was in the source, where that is known.
    pub owner: Option<Owner>,
    /// What it has lost, and a link to it with it.
    pub losses: LossSet,
}

impl Sealed {
    /// A name of which this is recorded.
    pub fn of(name: LinkName, record: FileRecord) -> Sealed {
        let FileRecord { stamp, dest_ino, checksum, owner, losses, .. } = record;
        Sealed { name, stamp, dest_ino, checksum, owner, losses }
    }
}

impl Job {
    /// A fresh id for a directory or a large file.
    pub fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// What is known of FICLONE.
    pub fn reflink(&self) -> Reflink {
        match self.reflink.load(Ordering::Relaxed) {
            0 => Reflink::Untried,
            1 => Reflink::Works,
            _ => Reflink::Refused,
        }
    }

    /// Notes what became of FICLONE.
    pub fn set_reflink(&self, reflink: Reflink) {
        self.reflink.store(reflink as u8, Ordering::Relaxed);
    }

    /// Ends the job: no new work, drain, checkpoint, resumable. The first cause is kept.
    pub fn end_with(&self, error: Error) {
        self.fatal.lock().get_or_insert(error);
        self.walker.stop();
    }

    /// Records a loss, or makes a failure of it under `--strict`.
    pub fn lose(&self, place: &Place, loss: Loss) -> Result<(), Error> {
        self.lose_of(&place.dir, &place.name, loss)
    }

    /// Likewise of a name in the source's directory.
    pub fn lose_of(&self, dir: &DirNode, name: &Name, loss: Loss) -> Result<(), Error> {
        let path = crate::error::join(&self.path(Side::Dest, dir), self.dest_name(dir, name));
        match self.config.losses {
            LossPolicy::Count => {
                if self.note_lost(dir.id, name, loss) {
                    self.losses.record(loss, &path);
                }
                Ok(())
            }
            LossPolicy::Fail => Err(Error { verb: "copy", object: path, cause: Cause::Loss(loss.name()) }),
        }
    }

    /// Keeps a loss for the object's record; whether it is a new one. There are as many as outcomes that wait for a
    /// checkpoint (I4).
    pub fn note_lost(&self, dir: DirId, name: &Name, loss: Loss) -> bool {
        let mut lost = self.lost.lock();
        let losses = lost.entry((dir, name.clone())).or_default();
        let is_new = !losses.has(loss);
        losses.add(loss);
        is_new
    }

    /// What was changed since the last commit, for the next one.
    pub fn note_rows(&self) -> impl Iterator<Item = Row> {
        let row = |note| Row::PutNote { serial: self.next_note.fetch_add(1, Ordering::Relaxed), note };
        self.notes.take().into_iter().map(row)
    }

    /// What an object has lost, for its record.
    pub fn take_lost(&self, dir: DirId, name: &Name) -> LossSet {
        let mut lost = self.lost.lock();
        match lost.is_empty() {
            true => LossSet::default(),
            false => lost.remove(&(dir, name.clone())).unwrap_or_default(),
        }
    }

    /// Notes that a directory that holds something is in the way of a name. There is room for as many (I4); any further
    /// one fails.
    pub fn note_clash(&self, dir: DirId, name: &Name) {
        const CLASHES_MAX: usize = 65_536;
        let mut clashes = self.clashes.lock();
        if self.config.delete.is_some() && !self.is_cleared.load(Ordering::Relaxed) && clashes.len() < CLASHES_MAX {
            clashes.insert((dir, name.clone()));
        }
    }

    /// Says a failure on the console.
    pub fn say(&self, error: &Error, attempts: u32) {
        self.failures.say(&Failure { error: error.clone(), attempts });
    }

    /// Makes something in the destination's directory under a name that must be free: see [`Naming::make`].
    pub fn make<T>(&self, dir: &DirNode, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let may_fold = dir.folding() == Folding::Case || !self.dest_file_system.tells_names_apart();
        self.naming.make(dir.id, may_fold, make)
    }

    /// Whether a name of `dir` is part of the job.
    pub fn takes(&self, dir: &DirNode, name: &Name, sort: Sort) -> bool {
        self.choice.is_everything() || self.choice.takes(&chosen_path(dir, name, sort), sort)
    }

    /// Likewise of a name that the source has.
    pub fn meets(&self, dir: &DirNode, name: &Name, sort: Sort) -> bool {
        self.choice.is_everything() || self.choice.meets(&chosen_path(dir, name, sort), sort)
    }

    /// Whether a name of `dir` that the source lacks may go from the destination.
    pub fn clears(&self, dir: &DirNode, name: &Name, sort: Sort) -> bool {
        self.choice.is_everything() || self.choice.clears(&chosen_path(dir, name, sort), sort)
    }

    /// Notes that a range of a large file is written, before anybody is told: it may be recorded only after a sync of
    /// the file itself where that of the file system proves nothing.
    pub fn note_unsynced(&self, large_id: u64, file: &Handle) {
        if self.syncs_each() && self.device(Side::Dest).is_none() {
            self.unsynced.lock().insert(large_id, file.clone());
        }
    }

    /// A file is synced, to be closed: that nobody else holds it lets closing tell its errors.
    pub fn forget_unsynced(&self, file: &Handle) {
        self.unsynced.lock().retain(|_, held| !Arc::ptr_eq(held, file));
    }

    /// What the destination holds of a name that failed now: an older file goes only when its replacement is there. So
    /// the next run knows it again, with its hard links, if the source did not change after all. Where all is copied
    /// again whatever is there, what is there proves nothing, and the next run copies it, too.
    pub fn held(&self, dir: DirId, name: &Name) -> Result<(Stamp, Option<Owner>), Error> {
        Ok(match self.catalog.reader()?.entry(dir, name)? {
            Some(Record::File(record)) if matches!(record.status, Status::Done | Status::Failed) => {
                let is_believed = self.progress.again != Again::All;
                (if is_believed { record.stamp } else { Stamp::default() }, record.owner)
            }
            _ => (Stamp::default(), None),
        })
    }

    /// Whether this pass has listed a directory. The entries of one that it has not come up in its listing, and must
    /// not be taken up from an index as well: two transfers of one name would replace each other's file.
    pub fn is_listed(&self, dir: DirId) -> Result<bool, Error> {
        let record = self.catalog.reader()?.dir(dir)?;
        Ok(record.is_some_and(|record| record.listed_batch >= self.progress.pass_start_batch))
    }

    /// Whether an earlier pass has finished a directory: its record says what its copy looks like.
    pub fn is_finished(&self, dir: DirId) -> Result<bool, Error> {
        if self.past == Past::Nothing {
            return Ok(false);
        }
        let reader = self.catalog.reader()?;
        let is_listed = reader.dir(dir)?.is_some_and(|record| record.stamp.is_some());
        Ok(is_listed && !reader.is_open_dir(dir, DirState::Unfinished)?)
    }

    /// Says that a directory is left out.
    pub fn note_left_out(&self, dir: &DirNode, reason: &str) {
        let path = crate::error::escape(&self.path(Side::Source, dir));
        self.console.note(&format!("gfast: left out {path}: {reason}"));
    }

    /// The block device on one side, if there is one.
    pub fn device(&self, side: Side) -> Option<&Arc<Device>> {
        match side {
            Side::Source => self.source.device.as_ref(),
            Side::Dest => self.dest.device.as_ref(),
        }
    }

    /// Whether either side is a block device.
    pub fn has_device(&self) -> bool {
        self.source.device.is_some() || self.dest.device.is_some()
    }

    /// Whether an interrupted run may have left something under a temporary name in `dir`.
    pub fn may_have_leftovers(&self, dir: &DirNode) -> bool {
        self.dest.device.is_none() && self.past == Past::Interrupted && dir.dest() != DestDir::Created
    }

    /// The destination's name for a name of the source: the same, but for the root of a single file's job.
    pub fn dest_name<'a>(&'a self, dir: &DirNode, name: &'a Name) -> &'a Name {
        match &self.single {
            Some((source, dest)) if dir.parent.is_none() && name == source => dest,
            _ => name,
        }
    }

    /// Whether either side is a bucket.
    pub fn is_remote(&self) -> bool {
        self.source.bucket.is_some() || self.dest.bucket.is_some()
    }

    /// A destination directory is open: its file system is among those to sync from here on (I1). Once there is one
    /// whose syncfs cannot be trusted, each file is made durable by itself.
    pub fn note_superblock(&self, dev: u64, dir: &Handle) -> Result<(), Error> {
        if dev == self.dest.stat.dev || self.superblocks.lock().contains_key(&dev) {
            return Ok(());
        }
        let file_system = FileSystem::of(dir)?;
        if self.config.sync == SyncPolicy::Batch && !file_system.trusts_syncfs(KernelVersion::running()) {
            self.sync_each.store(true, Ordering::Release);
        }
        self.is_dest_remote.fetch_or(file_system.is_remote(), Ordering::Release);
        self.is_dest_doubted.fetch_or(!file_system.does_as_it_says(), Ordering::Release);
        self.granularity_nanos.fetch_max(file_system.granularity_nanos(dir), Ordering::Relaxed);
        self.superblocks.lock().entry(dev).or_insert_with(|| dir.clone());
        Ok(())
    }

    /// Whether each file is made durable by itself.
    pub fn syncs_each(&self) -> bool {
        self.sync_each.load(Ordering::Acquire)
    }

    /// Whether data durability is asked for at all.
    pub fn syncs(&self) -> bool {
        self.config.sync != SyncPolicy::None
    }

    /// The directory's path on one side, for messages.
    pub fn path(&self, side: Side, dir: &DirNode) -> Vec<u8> {
        let root = match side {
            Side::Source => &self.source.path,
            Side::Dest => &self.dest.path,
        };
        let below = dir.path();
        match below.is_empty() {
            true => root.clone(),
            false => [root.strip_suffix(b"/").unwrap_or(root), b"/", &below[..]].concat(),
        }
    }

    /// An error on a directory itself.
    pub fn dir_error(&self, side: Side, dir: &DirNode, verb: &'static str, errno: Errno) -> Error {
        error_of(side, self.path(side, dir), verb, errno)
    }
}

/// A path as rules and lists know it. They know nothing of the slash that a prefix between two buckets has; an empty
/// component is one.
fn chosen_path(dir: &DirNode, name: &Name, sort: Sort) -> Vec<u8> {
    let mut path = dir.path_of(name);
    if sort == Sort::Dir && name.count_bytes() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    path
}

/// What has to be told when an object has its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// The listing of its directory waits for it.
    Listed,
    /// It is a work item of its own.
    Alone,
}

/// One name in one directory, with both sides' directories open.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub dir: Arc<DirNode>,
    /// Its handles.
    pub open: DirPair,
    /// The name in the source.
    pub name: Name,
    /// The name at the destination: the same, unless one file was given a new name on the command line.
    pub dest_name: Name,
    /// Whether its handles were looked up again, from the root, because one had become stale: done once.
    pub is_reopened: bool,
}

impl Place {
    /// The full path on one side, for messages. A device may be called otherwise in its record.
    pub fn path(&self, job: &Job, side: Side) -> Vec<u8> {
        if let Some(device) = job.device(side) {
            return device.path.clone();
        }
        let name = if side == Side::Source { &self.name } else { &self.dest_name };
        crate::error::join(&job.path(side, &self.dir), name)
    }

    /// An error of an operation on this name.
    pub fn error(&self, job: &Job, side: Side, verb: &'static str, errno: Errno) -> Error {
        error_of(side, self.path(job, side), verb, errno)
    }

    /// The temporary name of this name.
    pub fn temp_name(&self, job: &Job) -> Name {
        job.temporaries.of(&self.dest_name)
    }
}

fn error_of(side: Side, object: Vec<u8>, verb: &'static str, errno: Errno) -> Error {
    match (side, errno) {
        (Side::Source, Errno::STALE) => Error { verb, object, cause: Cause::Stale },
        _ => Error::os(verb, object, errno),
    }
}

/// FNV-1a, 64 bits: tells texts apart that nobody chose to look alike (Fowler, Noll, Vo, 1991).
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
