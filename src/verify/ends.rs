//! The sides of a comparison in which a bucket takes part: a file system, a bucket, or what was recorded of one.
//!
//! Each side names what a directory holds, describes an object as far as it knows it, and tells the CRC64 of its
//! content: the stored one where there is one, else by reading. A bucket's objects are what a restored tree would have.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::compare::{Aspect, Aspects};
use super::reading::{self, Place};
use crate::catalog::{Catalog, DirId, DirStamp, FileRecord, Record, Status, refused_name};
use crate::config::{Attributes, Mounts, PART_BYTES_MIN};
use crate::delete::has_below;
use crate::digest::crc64;
use crate::error::{Cause, Errno, Error, Result, join};
use crate::filter::Sort;
use crate::job::{BucketRoot, KeyNames, fnv1a};
use crate::lane::listing::{Item, items};
use crate::links::LinkKey;
use crate::listing::{BUFFER_BYTES, leave_out, parse};
use crate::provider::block::Device;
use crate::provider::posix::{Posix, Verb, is_missing};
use crate::provider::s3::retry::{Attempts, Pace, Patience};
use crate::provider::s3::{ByteRange, Client, From, Key, Object, Sum, attributes, extended};
use crate::provider::xattrs::{self, Thing, Told};
use crate::report::{Crowd, Loss};
use crate::ring::syscalls::Kernel;
use crate::ring::{Handle, Kind, Name, Side, Stat, Time};
use crate::walk::{DirCache, DirNode, Entry, path_steps};

/// Records read from the catalog at a time.
const PAGE: usize = 1024;
/// Attribute of an object that others are links to.
const LINKS_ATTRIBUTE: &str = "gfast-links";

/// One side.
pub(super) enum End {
    /// A mounted file system.
    Files {
        /// Its canonical path.
        path: Vec<u8>,
        /// Answers what is asked of it.
        caller: Kernel,
        /// Who waits for it.
        crowd: Arc<Crowd>,
        /// Which side it is.
        side: Side,
        /// Its open directories.
        open: RefCell<DirCache<Handle>>,
        /// A state directory of gfast's, which belongs to neither side.
        state_dir: Option<(u64, u64)>,
        /// The block device that is compared, if it is one.
        device: Option<Arc<Device>>,
        /// Which attributes are asked for.
        attributes: Attributes,
        /// What its root is.
        root: Box<Stat>,
    },
    /// A bucket.
    Bucket {
        /// Where keys begin.
        root: BucketRoot,
        /// Asks it.
        client: Client,
        /// What its objects are taken for.
        objects: Objects,
    },
    /// What a job recorded.
    Recorded {
        /// Where.
        catalog: Box<Catalog>,
        /// What its records are of.
        objects: Objects,
    },
}

/// What objects and their records are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objects {
    /// The files that they were made of, by their metadata.
    Files,
    /// Themselves: a job from bucket to bucket records what it lists, and nothing of what they stand for.
    Plain,
}

/// A directory while it is compared.
pub(super) struct Dir {
    /// Its name and number.
    pub node: Arc<DirNode>,
    /// By side: the directory itself, where it is one of a file system.
    pub handles: [Option<Handle>; 2],
}

/// What a listing says a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A directory.
    Dir,
    /// Anything else, or not known.
    Other,
    /// A key that no file system has a name for: what it would be if it had one, and why it has none. Its name is the
    /// one by which it is recorded.
    Refused(Sort, &'static str),
}

impl Hint {
    /// What it is to the rules.
    pub fn sort(self) -> Sort {
        match self {
            Hint::Dir => Sort::Dir,
            Hint::Other => Sort::Other,
            Hint::Refused(sort, _) => sort,
        }
    }
}

/// What one side knows of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// What it is.
    pub kind: Option<Kind>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Those of a copy without its ACL, where they are others.
    pub bare_mode: Option<u32>,
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
    /// Last change of its content.
    pub mtime: Option<Time>,
    /// Number of a device node.
    pub rdev: Option<u64>,
    /// CRC64 of its content, where it is stored.
    pub crc64: Option<u64>,
    /// Which file it is a name of, if of one with several.
    pub group: Option<LinkKey>,
    /// Where its content is.
    pub content: Content,
    /// Whether it is a link to an object that is not there, or has no finished record.
    pub broken: Option<Aspect>,
    /// Its extended attributes and ACLs as far as they are asked for, where they are known.
    pub told: Option<Told>,
    /// Which of them are more than any object has room for.
    pub excess: Aspects,
}

/// Where an object's content is.
#[derive(Clone, Debug, Default)]
pub(super) enum Content {
    /// Nowhere, or not to be had.
    #[default]
    None,
    /// In the file.
    File,
    /// This is it: a symlink's target.
    Target(Vec<u8>),
    /// In the object of this key and tag.
    Object(Key, String),
}

/// The names of a directory on one side, as they come.
pub(super) struct Names {
    at_hand: VecDeque<(Name, Hint)>,
    /// A file system's: the directory, with an offset of its own.
    handle: Option<Handle>,
    /// A bucket's next page.
    from: From,
    /// The last name that the catalog told.
    after: Option<Name>,
    at_end: bool,
}

impl End {
    /// The names of a directory.
    pub(super) fn names(&self, dir: &Dir) -> Result<Names> {
        let handle = match self {
            End::Files { caller, side, .. } => {
                let opened = Posix::new(caller, *side).open_dir(dir.handle(*side)?, &c".".to_owned());
                Some(opened.map_err(|errno| self.error("list", &dir.node, None, errno))?)
            }
            _ => None,
        };
        Ok(Names { at_hand: VecDeque::new(), handle, from: From::Start, after: None, at_end: false })
    }

    /// The next name. Ends: every turn takes a name, reads on, or is at the end.
    pub(super) async fn next(&self, names: &mut Names, dir: &Dir) -> Result<Option<(Name, Hint)>> {
        loop {
            if let Some(next) = names.at_hand.pop_front() {
                return Ok(Some(next));
            }
            if names.at_end {
                return Ok(None);
            }
            match self {
                End::Files { caller, side, state_dir, .. } => {
                    let (mut buffer, mut entries) = (vec![0; BUFFER_BYTES], VecDeque::new());
                    let handle = names.handle.as_ref().expect("I8: a file system's names come from its directory");
                    let filled = Posix::new(caller, *side).read_dir(handle, &mut buffer);
                    let filled = filled.map_err(|errno| self.error("list", &dir.node, None, errno))?;
                    names.at_end = filled == 0;
                    parse(&buffer[..filled], &mut entries);
                    for Entry { name, kind, ino, .. } in entries {
                        let is_suspect = kind == libc::DT_UNKNOWN || Some(ino) == state_dir.map(|(_, ino)| ino);
                        let stat = if is_suspect { Posix::new(caller, *side).stat(handle, &name).ok() } else { None };
                        if stat.is_some_and(|stat| Some((stat.dev, stat.ino)) == *state_dir) {
                            continue;
                        }
                        let is_dir = kind == libc::DT_DIR || stat.is_some_and(|stat| stat.kind() == Kind::Dir);
                        names.at_hand.push_back((name, if is_dir { Hint::Dir } else { Hint::Other }));
                    }
                }
                End::Recorded { catalog, .. } => {
                    let page = catalog.reader()?.entries(dir.node.id, names.after.as_deref(), PAGE)?;
                    names.at_end = page.len() < PAGE;
                    names.after = page.last().map(|(name, _)| name.clone());
                    let hint = |record| if matches!(record, Record::Dir(_)) { Hint::Dir } else { Hint::Other };
                    // A directory's own failure stands under an empty name.
                    let named = page.into_iter().filter(|(name, _)| !name.is_empty());
                    names.at_hand.extend(named.map(|(name, record)| (name, hint(record))));
                }
                End::Bucket { root, client, .. } => {
                    let prefix = root.dir_key(&dir.node);
                    let page = client.list(&prefix, &names.from).await?;
                    let found = items(&prefix, page.objects, page.prefixes);
                    names.at_hand.extend(found.iter().filter_map(|item| name_of(root.names, item)));
                    names.at_end = page.next.is_none();
                    names.from = page.next.map_or(From::Start, From::Token);
                }
            }
        }
    }

    /// What is known of a name; `None` if there is none.
    pub(super) async fn describe(&self, dir: &Dir, name: &Name, hint: Hint) -> Result<Option<Seen>> {
        match self {
            End::Files { device: Some(device), .. } => match device.stat() {
                Ok(stat) => Ok(Some(Seen::of_device(&stat))),
                Err(errno) => Err(self.error("stat", &dir.node, Some(name), errno)),
            },
            End::Files { caller, side, attributes, .. } => {
                let (posix, at) = (Posix::new(caller, *side), dir.handle(*side)?);
                let failed = |verb, errno| self.error(verb, &dir.node, Some(name), errno);
                match posix.stat(at, name) {
                    Ok(stat) => {
                        let mut seen = Seen::of(&stat);
                        if *side == Side::Source && !attributes.has_acls() {
                            let bare = xattrs::without_acl(Thing::named(posix, at, name), stat);
                            seen.bare_mode = bare.ok().map(|bare| bare.permissions());
                        }
                        if seen.kind == Some(Kind::Symlink) {
                            let target = posix.read_link(at, name).map_err(|errno| failed("read link", errno))?;
                            seen.content = Content::Target(target.into_bytes());
                        }
                        seen.read_attributes(Thing::named(posix, at, name), *attributes)
                            .map_err(|errno| failed("read the attributes of", errno))?;
                        Ok(Some(seen))
                    }
                    Err(errno) if is_missing(errno) => Ok(None),
                    Err(errno) => Err(failed("stat", errno)),
                }
            }
            End::Recorded { catalog, objects } => {
                let reader = catalog.reader()?;
                Ok(match reader.entry(dir.node.id, name)? {
                    None => None,
                    Some(Record::Dir(id)) => match objects {
                        Objects::Files => Some(Seen::of_dir(reader.dir(id)?.and_then(|record| record.stamp))),
                        Objects::Plain => Some(Seen { kind: Some(Kind::Dir), ..Seen::default() }),
                    },
                    Some(Record::File(record)) => Some(Seen::of_record(&record, *objects)),
                })
            }
            End::Bucket { root, client, objects } => {
                let below = || DirNode::child(&dir.node, dir.node.id, name.clone());
                if hint == Hint::Dir
                    && let Some(seen) = describe_prefix(root, client, &below()).await?
                {
                    return Ok(Some(seen));
                }
                let path = || join(&dir.node.path(), name);
                let key = root.key(&dir.node, name).map_err(|why| Error::refused_object(path(), why))?;
                match describe_key(client, key, *objects).await? {
                    None if hint == Hint::Other => describe_prefix(root, client, &below()).await,
                    seen => Ok(seen),
                }
            }
        }
    }

    /// What is known of the root; `None` where nothing is: a whole bucket has no attributes.
    pub(super) async fn describe_root(&self, dir: &Dir) -> Result<Option<Seen>> {
        match self {
            End::Files { caller, side, attributes, .. } => {
                let (posix, root) = (Posix::new(caller, *side), dir.handle(*side)?);
                let failed = |verb, errno| self.error(verb, &dir.node, None, errno);
                let stat = posix.stat_handle(root).map_err(|errno| failed("stat", errno))?;
                let mut seen = Seen::of(&stat);
                if *side == Side::Source && !attributes.has_acls() {
                    let bare = xattrs::without_acl(Thing::open(posix, root, &Name::default()), stat);
                    seen.bare_mode = bare.ok().map(|bare| bare.permissions());
                }
                seen.read_attributes(Thing::open(posix, root, &Name::default()), *attributes)
                    .map_err(|errno| failed("read the attributes of", errno))?;
                Ok(Some(seen))
            }
            End::Bucket { objects: Objects::Plain, .. } | End::Recorded { objects: Objects::Plain, .. } => Ok(None),
            End::Bucket { root, client, .. } => describe_prefix(root, client, &dir.node).await,
            End::Recorded { catalog, .. } => {
                let record = catalog.reader()?.dir(DirId::ROOT)?;
                Ok(record.map(|record| Seen::of_dir(record.stamp)))
            }
        }
    }

    /// The CRC64 of a part of an object's content, which is read for it.
    pub(super) async fn checksum_of(&self, dir: &Dir, name: &Name, seen: &Seen, range: ByteRange) -> Result<u64> {
        match (self, &seen.content) {
            (End::Bucket { client, .. }, Content::Object(key, etag)) => {
                Ok(checksum_of_object(client, key, etag, Some(range)).await?.0)
            }
            _ => Ok(self.read(dir, name, Some(range)).await?.0),
        }
    }

    /// Reads a file, or a part of it: its CRC64 and its length.
    async fn read(&self, dir: &Dir, name: &Name, range: Option<ByteRange>) -> Result<(u64, u64)> {
        let End::Files { side, device, crowd, .. } = self else { return Ok((0, 0)) };
        let (side, crowd) = (*side, crowd.clone());
        let place = match device {
            Some(device) => Place::Device(device.clone()),
            None => Place::File(dir.handle(side)?.clone(), name.clone()),
        };
        let read = tokio::task::spawn_blocking(move || reading::read(side, &place, range, &crowd));
        let read = read.await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))?;
        read.map_err(|errno| self.error("read", &dir.node, Some(name), errno))
    }

    /// The CRC64 of an object's content, and the bytes that were read for it; `None` where nobody knows it.
    pub(super) async fn checksum(&self, dir: &Dir, name: &Name, seen: &Seen) -> Result<(Option<u64>, u64)> {
        if seen.crc64.is_some() {
            return Ok((seen.crc64, 0));
        }
        match (self, &seen.content) {
            (_, Content::Target(target)) => Ok((Some(crc64(target)), 0)),
            (End::Files { device, .. }, Content::File) => {
                let whole = seen.size.filter(|_| device.is_some()).map(|len| ByteRange { offset: 0, len });
                let (crc64, bytes) = self.read(dir, name, whole).await?;
                Ok((Some(crc64), bytes))
            }
            (End::Bucket { client, .. }, Content::Object(key, etag)) => {
                let (value, bytes) = checksum_of_object(client, key, etag, None).await?;
                Ok((Some(value), bytes))
            }
            _ => Ok((None, 0)),
        }
    }

    /// Opens a directory from its nearest open ancestor; only a file system's is opened.
    pub(super) fn open(&self, dir: &Arc<DirNode>) -> Result<Option<Handle>> {
        let End::Files { caller, side, open, .. } = self else { return Ok(None) };
        let mut open = open.borrow_mut();
        if let Some(handle) = open.get(dir) {
            return Ok(Some(handle));
        }
        let (mut handle, below) = open.nearest(dir);
        for (path, node) in path_steps(&below) {
            let opened = Posix::new(caller, *side).open_dir(&handle, &path);
            handle = opened.map_err(|errno| self.error("open", node, None, errno))?;
            open.insert(node, handle.clone());
        }
        Ok(Some(handle))
    }

    /// Why nothing below a directory of the source is compared; nothing said where another file system that is not
    /// crossed begins.
    pub(super) fn left_out(&self, dir: &Arc<DirNode>, mounts: Mounts) -> Result<Option<&'static str>> {
        let (End::Files { caller, side, state_dir, root, .. }, Some(handle)) = (self, self.open(dir)?) else {
            return Ok(None);
        };
        let stat = Posix::new(caller, *side).stat_handle(&handle);
        let stat = stat.map_err(|errno| self.error("stat", dir, None, errno))?;
        if dir.parent.is_some()
            && let Some(reason) = leave_out((root, state_dir.unwrap_or_default()), dir, &handle, &stat)?
        {
            return Ok(Some(reason));
        }
        dir.set_stamp(DirStamp::of(&stat));
        Ok((mounts == Mounts::Stay && stat.dev != root.dev).then_some(""))
    }

    fn error(&self, verb: &'static str, dir: &DirNode, name: Option<&Name>, errno: Errno) -> Error {
        let End::Files { path, .. } = self else { return Error::os(verb, dir.path(), errno) };
        let below = name.map_or_else(|| dir.path(), |name| dir.path_of(name));
        Error::os(verb, [&path[..], b"/", &below].concat(), errno)
    }
}

impl Dir {
    fn handle(&self, side: Side) -> Result<&Handle> {
        Ok(self.handles[side as usize].as_ref().expect("I8: a file system's directory is open while it is compared"))
    }
}

impl Seen {
    fn of(stat: &Stat) -> Seen {
        let kind = stat.kind();
        Seen {
            kind: Some(kind),
            size: matches!(kind, Kind::File | Kind::Symlink).then_some(stat.size),
            mode: (kind != Kind::Symlink).then(|| stat.permissions()),
            owner: Some((stat.uid, stat.gid)),
            mtime: Some(stat.mtime),
            rdev: matches!(stat.mode & libc::S_IFMT, libc::S_IFBLK | libc::S_IFCHR).then_some(stat.rdev),
            group: (stat.nlink > 1 && kind != Kind::Dir).then_some(LinkKey { dev: stat.dev, ino: stat.ino, state: 0 }),
            content: if kind == Kind::File { Content::File } else { Content::None },
            ..Seen::default()
        }
    }

    /// A device: owner, mode and times are its node's own.
    fn of_device(stat: &Stat) -> Seen {
        Seen { mode: None, owner: None, mtime: None, group: None, rdev: None, ..Seen::of(stat) }
    }

    /// Whether it is a device node.
    pub(super) fn is_device(&self) -> bool {
        self.kind == Some(Kind::Special) && self.rdev.is_some()
    }

    /// A destination as far as it is compared with a source of `size` bytes: a device may hold more.
    pub(super) fn cut(self, end: &End, size: Option<u64>) -> Seen {
        let is_larger = matches!(end, End::Files { device: Some(_), .. }) && self.size > size;
        if is_larger { Seen { size, ..self } } else { self }
    }

    fn read_attributes(&mut self, thing: Thing<'_>, wanted: Attributes) -> Verb<()> {
        if wanted == Attributes::None {
            return Ok(());
        }
        let kind = self.kind.unwrap_or(Kind::File);
        let (told, losses) = xattrs::read(thing, kind, wanted, extended::BYTES_MAX)?;
        self.told = Some(told);
        for loss in losses.iter() {
            self.excess.add(if loss == Loss::Acl { Aspect::Acls } else { Aspect::Xattrs });
        }
        Ok(())
    }

    fn of_dir(stamp: Option<DirStamp>) -> Seen {
        let known = stamp.filter(|stamp| stamp.ino != 0);
        Seen {
            kind: Some(Kind::Dir),
            mode: known.map(|stamp| stamp.mode & 0o7777),
            owner: known.map(|stamp| (stamp.uid, stamp.gid)),
            mtime: known.map(|stamp| stamp.mtime),
            broken: stamp.is_none().then_some(Aspect::Unfinished),
            ..Seen::default()
        }
    }

    /// A record does not tell what sort of object it is of: only content and time are held against it.
    fn of_record(record: &FileRecord, objects: Objects) -> Seen {
        let is_done = matches!(record.status, Status::Done | Status::Written);
        Seen {
            size: Some(record.stamp.size),
            mtime: (objects == Objects::Files).then_some(record.stamp.mtime),
            // The record of a link has the checksum of what it links to; the object itself is empty.
            crc64: match (objects, record.stamp.size) {
                (Objects::Plain, 0) => Some(0),
                _ => record.checksum.map(|checksum| checksum.crc64),
            },
            broken: (!is_done).then_some(Aspect::Unfinished),
            ..Seen::default()
        }
    }

    fn of_object(object: &Object) -> Seen {
        let posix = attributes::decode(&object.attributes);
        let mode = posix.mode;
        let kind = Stat { mode: mode.unwrap_or(libc::S_IFREG), ..Stat::default() }.kind();
        Seen {
            kind: Some(kind),
            size: matches!(kind, Kind::File | Kind::Symlink).then_some(object.size),
            mode: mode.filter(|_| kind != Kind::Symlink).map(|mode| mode & 0o7777),
            owner: posix.uid.zip(posix.gid),
            mtime: posix.mtime,
            rdev: posix.rdev,
            crc64: object.crc64.filter(|_| kind != Kind::Special),
            told: Some(extended::decode(&extended::told(&object.attributes))),
            ..Seen::default()
        }
    }
}

/// The name of a listed thing; `None` for the directory's own object.
fn name_of(names: KeyNames, item: &Item) -> Option<(Name, Hint)> {
    if names == KeyNames::Posix && item.is_marker() {
        return None;
    }
    let hint = if item.object.is_some() { Hint::Other } else { Hint::Dir };
    Some(match item.name(names) {
        Ok(name) => (name, hint),
        Err(why) => (refused_name(&item.component), Hint::Refused(hint.sort(), why)),
    })
}

async fn describe_key(client: &Client, key: Key, objects: Objects) -> Result<Option<Seen>> {
    let Some(mut object) = client.head(&key).await? else { return Ok(None) };
    if objects == Objects::Plain {
        let (size, crc64) = (Some(object.size), object.crc64);
        let content = Content::Object(key, object.etag);
        return Ok(Some(Seen { kind: Some(Kind::File), size, crc64, content, ..Seen::default() }));
    }
    let link = attributes::decode(&object.attributes).link;
    let is_first = object.attributes.contains_key(LINKS_ATTRIBUTE);
    let group = |key: &str| LinkKey::in_bucket(fnv1a(key.as_bytes()));
    let Some(first) = link else {
        let content = Content::Object(key.clone(), object.etag.clone());
        let group = is_first.then(|| group(key.as_str()));
        return Ok(Some(Seen { group, content, ..Seen::of_object(&object) }));
    };
    let dangling = Seen { broken: Some(Aspect::Links), ..Seen::default() };
    let Ok(first) = Key::new(first) else { return Ok(Some(dangling)) };
    match client.head(&first).await? {
        Some(found) => object = found,
        None => return Ok(Some(dangling)),
    }
    let content = Content::Object(first.clone(), object.etag.clone());
    Ok(Some(Seen { group: Some(group(first.as_str())), content, ..Seen::of_object(&object) }))
}

/// A directory: as its own object says, or of unknown attributes where only keys below it tell of it.
async fn describe_prefix(root: &BucketRoot, client: &Client, node: &DirNode) -> Result<Option<Seen>> {
    let prefix = root.dir_key(node);
    // Of a bucket's own names only those of prefixes end in a slash.
    if !prefix.ends_with('/') {
        return Ok(None);
    }
    let page = client.list(&prefix, &From::Start).await?;
    let is_told = !(page.objects.is_empty() && page.prefixes.is_empty());
    if !is_told && (page.next.is_none() || !has_below(client, &prefix).await?) {
        return Ok(None);
    }
    let mut seen = Seen::default();
    // Only what is listed is asked for: servers that list no such objects may fail at the question.
    if page.objects.iter().any(|object| object.key == prefix)
        && let Ok(key) = Key::new(prefix)
        && let Some(object) = client.head(&key).await?
    {
        seen = Seen::of_object(&object);
    }
    Ok(Some(Seen { kind: Some(Kind::Dir), size: None, crc64: None, ..seen }))
}

/// The CRC64 of what an object or a range of it holds, and its length. What breaks off is asked for again as a copy
/// would: 8 times for each 8 MiB. Ends: every turn brings as much or is a break, and breaks are bounded.
async fn checksum_of_object(client: &Client, key: &Key, etag: &str, range: Option<ByteRange>) -> Result<(u64, u64)> {
    let attempts = || Attempts::new(Patience::JOB, jiff::Timestamp::now().as_nanosecond() as u64);
    let (mut sum, mut left) = (Sum::new(range, etag), attempts());
    loop {
        let (before, began) = (sum.done(), Instant::now());
        let Err(error) = sum.go_on(client, key).await else { return Ok((sum.crc64(), sum.done())) };
        if sum.done() >= before + PART_BYTES_MIN {
            left = attempts();
        }
        let is_break = matches!(error.cause, Cause::Cut(_));
        let wait = if is_break { left.wait(Pace::Error, began.elapsed(), None) } else { None };
        tokio::time::sleep(wait.ok_or(error)?).await;
    }
}
