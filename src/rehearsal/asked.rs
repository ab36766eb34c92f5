//! What both ends are asked by a dry run: names, states, and what is there already. Nothing is changed.
//!
//! An end is a file system, asked by plain system calls, or a bucket, asked by requests of which many are under way at
//! a time. Whether what is there is the source's copy is decided by the lanes' own rules, or those of plan.rs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Said;
use crate::catalog::{Catalog, FileRecord, JobStatus, Record, Stamp};
use crate::config::{Config, DIR_CACHE_PER_SHARD, Metadata, PUBLISH_DEPTH, SpecialBits};
use crate::delete::has_below;
use crate::engine::descriptor_limit;
use crate::error::{Cause, Errno, Error, Result, join};
use crate::filesystem::{FileSystem, Inodes};
use crate::job::{BucketRoot, KeyNames};
use crate::lane::download::file_of;
use crate::lane::listing::{Item, Refused, Sieve, items};
use crate::lane::relay::{is_relayed, turned};
use crate::lane::upload::{attributes_of, is_stored};
use crate::listing::{BUFFER_BYTES, parse};
use crate::plan::{Plan, Progress, Reason, Skip, decide, is_sealed_copy, is_source, same_time};
use crate::provider::metadata::Identity;
use crate::provider::posix::{Posix, is_missing};
use crate::provider::s3::{Client, From, Key, Object, Page, attributes};
use crate::report::Crowd;
use crate::ring::syscalls::Kernel;
use crate::ring::{FixedBuffers, Handle, Kind, Name, Side, Stat};
use crate::roots::Root;
use crate::unmet::Finder;
use crate::walk::{DirCache, DirNode, Entry, path_steps};

/// One end.
pub(super) enum End {
    /// A file system's.
    Files(Box<Files>),
    /// A bucket's.
    Bucket(BucketRoot, Client),
}

/// A directory tree.
pub(super) struct Files {
    /// Its root's path.
    pub path: Vec<u8>,
    /// Its root's state.
    pub stat: Stat,
    /// Which side it is.
    pub side: Side,
    /// What it lives on.
    pub file_system: FileSystem,
    /// How long inode numbers last there.
    pub inodes: Inodes,
    /// Its root.
    root: Handle,
    caller: Kernel,
    open: RefCell<DirCache<Handle>>,
}

/// Both ends, and what decisions need.
pub(super) struct Asked {
    /// Where names come from.
    pub source: End,
    /// What is compared with them.
    pub dest: End,
    /// What is recorded, if a job ran before.
    pub catalog: Option<Catalog>,
    /// Where the run would stand.
    pub progress: Progress,
    /// For a job about one file: its name on both sides.
    pub single: Option<(Name, Name)>,
    /// Whether --delete is asked for.
    is_deleting: bool,
    granularity_nanos: u32,
    identity: Identity,
    metadata: Metadata,
    special_bits: SpecialBits,
    /// Requests at a time.
    requests: Semaphore,
}

/// A listing under way.
pub(super) struct Listing {
    /// A file system's directory, with an offset of its own.
    handle: Option<Handle>,
    /// A bucket's next page.
    from: Option<From>,
    /// The last component of the page before.
    pub after: Option<String>,
    sieve: Sieve,
}

/// An object that was met.
pub(super) struct Met {
    /// Its directory.
    pub dir: Arc<DirNode>,
    /// Its name there.
    pub name: Name,
    /// Its state: described, or as its bucket lists it.
    pub stat: Stat,
    /// Whether the destination has the directory.
    pub is_there: bool,
}

/// What the destination has under an object's name.
enum There {
    /// Nothing.
    Nothing,
    /// Its copy.
    Copy,
    /// Anything else.
    Other,
}

impl Asked {
    pub(super) fn new(
        config: &Config,
        (source, dest): (End, End),
        (catalog, progress): (Option<Catalog>, Progress),
        single: Option<(Name, Name)>,
        granularity_nanos: u32,
    ) -> Asked {
        let identity = Identity {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: config.umask,
        };
        Asked {
            source,
            dest,
            catalog,
            progress,
            is_deleting: config.delete.is_some() && single.is_none(),
            single,
            granularity_nanos,
            identity,
            metadata: config.metadata,
            special_bits: config.special_bits,
            requests: Semaphore::new(PUBLISH_DEPTH),
        }
    }

    /// What is recorded of a name.
    pub(super) fn record(&self, dir: &DirNode, name: &Name) -> Result<Option<Record>> {
        self.catalog.as_ref().map_or(Ok(None), |catalog| catalog.reader()?.entry(dir.id, name))
    }

    /// What a run would do with an object; `None` if it is gone.
    pub(super) async fn judge(self: Rc<Asked>, met: Met) -> Result<Option<Said>> {
        // What is recorded counts for nothing where the destination's directory has to be made.
        let is_lost = !met.is_there && matches!(self.dest, End::Files(_));
        let record: Option<FileRecord> = match self.record(&met.dir, &met.name)? {
            Some(Record::File(record)) if !is_lost => Some(record),
            _ => None,
        };
        // A further pass puts what is new into a bucket without a question.
        let is_put = matches!((&self.source, &self.dest), (End::Files(_), End::Bucket(..)))
            && self.catalog.as_ref().is_some_and(|catalog| catalog.header().status == JobStatus::Finished);
        let plan = decide(&met.stat, record.as_ref(), &self.progress, !met.is_there || is_put);
        if !matches!(plan, Plan::Skip(_)) {
            self.source.check_key(&met.dir, &met.name)?;
            self.dest.check_key(&met.dir, self.dest_name(&met))?;
        }
        Ok(Some(match plan {
            Plan::Skip(_) if self.is_missing(&met, record.as_ref())? => ("copy", "missing"),
            Plan::Skip(Skip::Done) => ("skip", "done"),
            Plan::Skip(Skip::Unchanged) => ("skip", "unchanged"),
            Plan::Compare => match self.compare(&met).await? {
                None => return Ok(None),
                Some(There::Nothing) => ("copy", "new"),
                Some(There::Copy) => ("adopt", "same size and time"),
                Some(There::Other) => ("copy", "differs"),
            },
            Plan::Reread(_) => ("reread", "only ctime is new"),
            Plan::Renew => ("renew", "metadata was lost"),
            Plan::Copy(Reason::Asked) => ("copy", "asked for"),
            Plan::Copy(Reason::New) => ("copy", "new"),
            Plan::Copy(Reason::Changed) => ("copy", "changed"),
            Plan::Copy(Reason::Failed) => ("copy", "failed before"),
            Plan::Copy(Reason::Interrupted) => ("copy", "interrupted before"),
        }))
    }

    /// Whether --delete would find an object missing that is recorded as copied (delete/missing.rs).
    fn is_missing(&self, met: &Met, record: Option<&FileRecord>) -> Result<bool> {
        let End::Files(files) = &self.dest else { return Ok(false) };
        let is_made = record.is_some_and(|record| !record.losses.has_object());
        Ok(self.is_deleting && is_made && files.stat(&met.dir, self.dest_name(met))?.is_none())
    }

    /// Whether a file system has a directory under the name of an object.
    pub(super) fn is_dir_there(&self, dir: &Arc<DirNode>, name: &Name) -> Result<bool> {
        let End::Files(files) = &self.dest else { return Ok(false) };
        let name = match &self.single {
            Some((_, dest)) if dir.parent.is_none() => dest,
            _ => name,
        };
        let is_dir = |stat: Stat| stat.kind() == Kind::Dir;
        match files.stat(dir, name) {
            Ok(there) => Ok(there.is_some_and(is_dir)),
            // The directory is still to be made.
            Err(Error { cause: Cause::Vanished | Cause::Os(Errno::NOTDIR | Errno::LOOP), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn dest_name<'m>(&'m self, met: &'m Met) -> &'m Name {
        match &self.single {
            Some((_, dest)) if met.dir.parent.is_none() => dest,
            _ => &met.name,
        }
    }

    /// Compares an object without a record with what the destination has; `None` if it is gone.
    async fn compare(&self, met: &Met) -> Result<Option<There>> {
        let (dir, name) = (&met.dir, self.dest_name(met));
        let there = |is_copy: bool| Some(if is_copy { There::Copy } else { There::Other });
        Ok(match (&self.source, &self.dest) {
            (End::Files(source), End::Files(dest)) => match dest.stat(dir, name)? {
                None => Some(There::Nothing),
                Some(now) => there(match met.stat.kind() {
                    Kind::Symlink => self.is_same_symlink((source, dest), (dir, &met.name, name), (&met.stat, &now))?,
                    _ => self.is_adopted(&met.stat, &now),
                }),
            },
            (End::Files(_), End::Bucket(root, client)) => match self.head((root, client), dir, name).await? {
                None => Some(There::Nothing),
                Some(object) => there(self.is_stored_as(&object, met, client).await?),
            },
            (End::Bucket(root, client), End::Files(dest)) => {
                let Some(now) = dest.stat(dir, name)? else { return Ok(Some(There::Nothing)) };
                let Some(object) = self.head((root, client), dir, &met.name).await? else { return Ok(None) };
                let is_link = attributes::decode(&object.attributes).link.is_some();
                there(!is_link && self.is_adopted(&file_of(&object, &self.identity, self.special_bits), &now))
            }
            (End::Bucket(from, source), End::Bucket(to, dest)) => {
                let Some(now) = self.head((to, dest), dir, name).await? else { return Ok(Some(There::Nothing)) };
                let Some(object) = self.head((from, source), dir, &met.name).await? else { return Ok(None) };
                there(is_relayed(&object, &turned(&object, (&from.prefix, &to.prefix)), &now))
            }
        })
    }

    /// As transfer/held.rs adopts.
    fn is_adopted(&self, source: &Stat, dest: &Stat) -> bool {
        let is_other = source.nlink == dest.nlink && !is_source(source, dest);
        is_other && is_sealed_copy(source, dest, self.granularity_nanos)
    }

    fn is_same_symlink(
        &self,
        (source, dest): (&Files, &Files),
        (dir, name, dest_name): (&Arc<DirNode>, &Name, &Name),
        (stat, now): (&Stat, &Stat),
    ) -> Result<bool> {
        let is_owned = self.metadata == Metadata::TimesOnly || (stat.uid, stat.gid) == (now.uid, now.gid);
        let is_other = now.kind() == Kind::Symlink && !is_source(stat, now);
        if !is_other || !is_owned || !same_time(stat.mtime, now.mtime, self.granularity_nanos) {
            return Ok(false);
        }
        Ok(source.read_link(dir, name)? == dest.read_link(dir, dest_name)?)
    }

    /// Whether an object holds a file. One that is a hard link to another is looked at where the content is.
    async fn is_stored_as(&self, object: &Object, met: &Met, client: &Client) -> Result<bool> {
        let expected = attributes_of(&met.stat, self.dest_name(met), self.metadata);
        let first = attributes::decode(&object.attributes).link.filter(|_| met.stat.nlink > 1);
        let Some(Ok(first)) = first.map(Key::new) else { return Ok(is_stored(object, &met.stat, &expected)) };
        let _request = self.requests.acquire().await;
        Ok(client.head(&first).await?.is_some_and(|first| is_stored(&first, &met.stat, &expected)))
    }

    async fn head(&self, (root, client): (&BucketRoot, &Client), dir: &DirNode, name: &Name) -> Result<Option<Object>> {
        let Ok(key) = root.key(dir, name) else { return Ok(None) };
        let _request = self.requests.acquire().await;
        client.head(&key).await
    }

    /// Whether the destination has a directory of this name in `dir`, which it has. A bucket is not asked for those
    /// that are recorded: a run does not ask either.
    pub(super) async fn has_dir(&self, dir: &Arc<DirNode>, child: &Arc<DirNode>, is_known: bool) -> Result<bool> {
        match &self.dest {
            End::Files(files) => Ok(files.stat(dir, &child.name)?.is_some_and(|stat| stat.kind() == Kind::Dir)),
            End::Bucket(..) if is_known => Ok(true),
            End::Bucket(root, client) => has_below(client, &root.dir_key(child)).await,
        }
    }
}

impl End {
    /// A directory tree.
    pub(super) fn files(root: Root, side: Side, crowd: &Crowd) -> Result<End> {
        let caller = Kernel::new(FixedBuffers::new(1, 4096, 4096)?.arena().clone()).telling(crowd.enlist());
        let free = descriptor_limit().saturating_sub(64 + 2 * PUBLISH_DEPTH as u64) / 4;
        let open = RefCell::new(DirCache::new(root.handle.clone(), (free as usize).clamp(4, DIR_CACHE_PER_SHARD)));
        let Root { path, stat, file_system, inodes, handle, .. } = root;
        Ok(End::Files(Box::new(Files { path, stat, side, file_system, inodes, root: handle, caller, open })))
    }

    /// The bucket, if it is one.
    pub(super) fn bucket(&self) -> Option<(&BucketRoot, &Client)> {
        match self {
            End::Files(_) => None,
            End::Bucket(root, client) => Some((root, client)),
        }
    }

    /// What names an object cannot have as keys (I8).
    fn check_key(&self, dir: &DirNode, name: &Name) -> Result<()> {
        let Some((root, _)) = self.bucket() else { return Ok(()) };
        let refused = |why| Error::refused_object(dir.path_of(name), why);
        root.key(dir, name).map(drop).map_err(refused)
    }

    /// Begins to list a directory.
    pub(super) fn list(&self, dir: &Arc<DirNode>) -> Result<Listing> {
        let listing = |handle, from, names| Listing { handle, from, after: None, sieve: Sieve::new(names) };
        match self {
            End::Files(files) => {
                let opened = files.open(dir).and_then(|at| files.posix().open_dir(&at, &c".".to_owned()));
                let handle = opened.map_err(|errno| files.error("list", &dir.path(), errno))?;
                Ok(listing(Some(handle), None, KeyNames::Posix))
            }
            End::Bucket(root, _) if root.dir_key(dir).starts_with('/') => {
                let why = "some servers take a key with a leading slash for the one without it";
                Err(Error::refused_object(dir.path(), why))
            }
            End::Bucket(root, _) => Ok(listing(None, Some(From::Start), root.names)),
        }
    }

    /// The next names of the source's listing, and what has none; `None` at its end.
    pub(super) async fn next(
        &self,
        dir: &Arc<DirNode>,
        listing: &mut Listing,
    ) -> Result<Option<(VecDeque<Entry>, Vec<Refused>)>> {
        let (root, client) = match self {
            End::Files(files) => return Ok(files.next(dir, listing)?.map(|entries| (entries, Vec::new()))),
            End::Bucket(root, client) => (root, client),
        };
        let Some(page) = next_page(root, client, dir, listing).await? else { return Ok(None) };
        let (mut entries, mut refused) = (VecDeque::new(), Vec::new());
        for item in page {
            if !(item.is_marker() && root.names == KeyNames::Posix) {
                refused.extend(listing.sieve.pass(item, &mut entries));
            }
        }
        if listing.from.is_none() {
            listing.sieve.end(&mut entries);
        }
        Ok(Some((entries, refused)))
    }
}

/// The next page of a bucket's listing, in the order of its keys; `None` at its end.
pub(super) async fn next_page(
    root: &BucketRoot,
    client: &Client,
    dir: &DirNode,
    listing: &mut Listing,
) -> Result<Option<Vec<Item>>> {
    let Some(from) = listing.from.take() else { return Ok(None) };
    let prefix = root.dir_key(dir);
    let Page { objects, prefixes, next } = client.list(&prefix, &from).await?;
    listing.from = next.map(From::Token);
    Ok(Some(items(&prefix, objects, prefixes)))
}

/// An object in its listed state, as decisions see it.
pub(super) fn listed(stamp: Stamp) -> Stat {
    let Stamp { size, mtime, ctime, ino } = stamp;
    Stat { mode: libc::S_IFREG, size, mtime, ctime, ino, nlink: 1, ..Stat::default() }
}

impl Files {
    /// Its verbs.
    pub(super) fn posix(&self) -> Posix<'_> {
        Posix::new(&self.caller, self.side)
    }

    /// Looks for paths below its root.
    pub(super) fn finder(&self) -> Finder<'_> {
        Finder::new(&self.caller, self.root.clone())
    }

    /// A directory, opened from the nearest open ancestor.
    pub(super) fn open(&self, dir: &Arc<DirNode>) -> std::result::Result<Handle, Errno> {
        let mut open = self.open.borrow_mut();
        if let Some(handle) = open.get(dir) {
            return Ok(handle);
        }
        let (mut handle, below) = open.nearest(dir);
        for (path, node) in path_steps(&below) {
            handle = self.posix().open_dir(&handle, &path)?;
            open.insert(node, handle.clone());
        }
        Ok(handle)
    }

    /// A directory with its state.
    pub(super) fn open_with_stat(&self, dir: &Arc<DirNode>) -> Result<(Handle, Stat)> {
        let opened = self.open(dir).and_then(|handle| self.posix().stat_handle(&handle).map(|stat| (handle, stat)));
        opened.map_err(|errno| self.error("list", &dir.path(), errno))
    }

    /// What a name is; `None` where there is nothing.
    pub(super) fn stat(&self, dir: &Arc<DirNode>, name: &Name) -> Result<Option<Stat>> {
        match self.open(dir).and_then(|at| self.posix().stat(&at, name)) {
            Ok(stat) => Ok(Some(stat)),
            Err(errno) if is_missing(errno) => Ok(None),
            Err(errno) => Err(self.error("stat", &dir.path_of(name), errno)),
        }
    }

    fn read_link(&self, dir: &Arc<DirNode>, name: &Name) -> Result<Name> {
        let read = self.open(dir).and_then(|at| self.posix().read_link(&at, name));
        read.map_err(|errno| self.error("read link", &dir.path_of(name), errno))
    }

    /// A buffer of names; `None` at the end of the directory.
    pub(super) fn next(&self, dir: &Arc<DirNode>, listing: &mut Listing) -> Result<Option<VecDeque<Entry>>> {
        let Some(handle) = &listing.handle else { return Ok(None) };
        let (mut buffer, mut entries) = (vec![0; BUFFER_BYTES], VecDeque::new());
        let filled = self.posix().read_dir(handle, &mut buffer);
        match filled.map_err(|errno| self.error("list", &dir.path(), errno))? {
            0 => Ok(None),
            filled => {
                parse(&buffer[..filled], &mut entries);
                Ok(Some(entries))
            }
        }
    }

    /// An error on a path below its root.
    pub(super) fn error(&self, verb: &'static str, below: &[u8], errno: Errno) -> Error {
        let path = match std::ffi::CString::new(below) {
            Ok(below) if !below.is_empty() => join(&self.path, &below),
            _ => self.path.clone(),
        };
        match errno {
            Errno::NOENT => Error { verb, object: path, cause: Cause::Vanished },
            errno => Error::os(verb, path, errno),
        }
    }
}
