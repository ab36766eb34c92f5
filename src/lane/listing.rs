//! Directories of a lane's job: of a file system on the way up, of a bucket on the other ways.
//!
//! A bucket's directory is what its keys below a prefix and up to the next slash say: one listing with a delimiter,
//! page by page, several directories at a time. Names are handed on in slices, each looked up in the catalog as one
//! run; a listing waits when its lane has enough of them (I4). What no file system can hold is refused here, per name
//! (I8).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::{Lane, Way, hash};
use crate::catalog::{DirId, DirStamp, Stamp, refused_name, shown_name};
use crate::config::{Attributes, Mounts, SpecialBits};
use crate::dir_stamp::seen;
use crate::error::{Cause, Errno, Error, Result};
use crate::filter::Sort;
use crate::job::{BucketRoot, Job, KeyNames, Past};
use crate::listing::{Met, leave_out, look_up, make_dest, parse, remove_probe};
use crate::pages::Pages;
use crate::provider::posix::Posix;
use crate::provider::s3::{From, Key, Listed, Object, attributes, extended, keys};
use crate::report::Count;
use crate::ring::{Handle, Name, Side, Time};
use crate::walk::{DestDir, DirNode, DirPair, Entry};

/// Bytes of one getdents buffer.
const BUFFER_BYTES: usize = 64 << 10;
/// Names of one slice.
const SLICE_ENTRIES: usize = 256;
/// Longest name of a file system, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// How a listing ended.
enum Listing {
    /// All names were handed on.
    Done,
    /// The job was stopped before: the directory stays unlisted.
    Stopped,
}

/// One thing a page lists below its directory.
pub(crate) struct Item {
    /// What follows the directory's key, without the slash of a prefix.
    pub component: String,
    /// The object; `None` for a prefix.
    pub object: Option<Listed>,
}

impl Item {
    /// Its key, in a directory whose keys begin with `prefix`.
    pub fn key(&self, prefix: &str) -> String {
        let end = if self.object.is_some() { "" } else { "/" };
        format!("{prefix}{}{end}", self.component)
    }

    /// Whether it is the directory's own object.
    pub fn is_marker(&self) -> bool {
        self.component.is_empty() && self.object.is_some()
    }

    /// Its name, or why it has none (I8).
    pub fn name(&self, names: KeyNames) -> std::result::Result<Name, &'static str> {
        match names {
            KeyNames::Pieces => piece_name(self),
            KeyNames::Posix => posix_name(&self.component),
        }
    }
}

/// The things of a bucket's directory, less those that no name can stand for (I8). They come in the order of their
/// keys; an object is held back while a prefix of its name may follow.
pub(crate) struct Sieve {
    /// How names become keys.
    names: KeyNames,
    /// What is held back: those whose key the listing is still below.
    held: Vec<(String, Entry)>,
}

/// What a sieve holds back for good.
pub(crate) struct Refused {
    /// What follows the directory's key.
    pub component: String,
    /// What it would be if it had a name.
    pub sort: Sort,
    /// Why.
    pub why: &'static str,
}

impl Refused {
    /// The name it is recorded under, and the one that rules know it by.
    pub fn names(&self) -> (Name, Name) {
        let name = refused_name(&self.component);
        let shown = shown_name(&name).to_owned();
        (name, shown)
    }
}

impl Sieve {
    /// For one listing.
    pub fn new(names: KeyNames) -> Sieve {
        Sieve { names, held: Vec::new() }
    }

    /// Takes the next thing; what is certain by now goes among `entries`.
    pub fn pass(&mut self, item: Item, entries: &mut VecDeque<Entry>) -> Option<Refused> {
        let sort = if item.object.is_some() { Sort::Other } else { Sort::Dir };
        let name = match item.name(self.names) {
            Ok(name) => name,
            Err(why) => return Some(Refused { component: item.component, sort, why }),
        };
        let kind = if item.object.is_some() { libc::DT_REG } else { libc::DT_DIR };
        let stamp = item.object.as_ref().map(|object| stamp_of(object.size, object.modified, &object.etag));
        let entry = Entry { name, kind, ino: 0, record: None, stamp, page: None };
        if self.names == KeyNames::Pieces {
            entries.push_back(entry);
            return None;
        }
        // Keys come in order: what the next one does not begin with, none that follows does.
        while self.held.last().is_some_and(|(component, _)| !item.component.starts_with(component.as_str())) {
            entries.extend(self.held.pop().map(|(_, entry)| entry));
        }
        if item.object.is_some() {
            self.held.push((item.component, entry));
            return None;
        }
        entries.push_back(entry);
        self.held.pop_if(|(component, _)| *component == item.component)?;
        let why = "its key is also the beginning of others: a file and a directory of one name";
        Some(Refused { component: item.component, sort: Sort::Other, why })
    }

    /// The listing is at its end: nothing is held back any more.
    pub fn end(&mut self, entries: &mut VecDeque<Entry>) {
        entries.extend(self.held.drain(..).map(|(_, entry)| entry));
    }

    /// The component of the first thing that is held back.
    fn held(&self) -> Option<&str> {
        self.held.first().map(|(component, _)| component.as_str())
    }
}

/// How far a listing's names can be handed on: up to the first that is held back.
#[derive(Default)]
struct Frontier {
    /// The key that was passed last.
    last: Option<String>,
    /// The key before the first that is held back; without one, the last.
    free: Option<String>,
    /// Whether a key was refused: a resume is to refuse it again.
    is_refused: bool,
}

impl Frontier {
    /// The listing has come to `key`; `held` is the component of the first object that is held back.
    fn pass(&mut self, key: String, is_taken: bool, prefix: &str, held: Option<&str>) {
        self.is_refused |= !is_taken;
        let before = self.last.replace(key);
        match held {
            None => self.free.clone_from(&self.last),
            Some(held) if self.last.as_deref().and_then(|key| key.strip_prefix(prefix)) == Some(held) => {
                self.free = before;
            }
            Some(_) => {}
        }
    }

    /// The key up to which all names are handed on.
    fn mark(&self) -> Option<String> {
        self.free.clone().filter(|_| !self.is_refused)
    }
}

impl Lane {
    /// Lists a directory and hands its names on.
    pub(super) async fn list(self: &Rc<Lane>, dir: Arc<DirNode>) {
        self.errands.counters.add(Count::EntriesWalked, dir.parent.is_none() as u64);
        let listed = match self.way {
            Way::Up => self.list_files(&dir).await,
            Way::Down | Way::Across => self.list_keys(&dir).await,
        };
        match listed {
            Ok(Listing::Done) => self.errands.end_names(&dir),
            Ok(Listing::Stopped) => {}
            Err(error) => self.errands.fail_dir(&dir, error),
        }
    }

    /// Notes what is known of the destination of a directory that this run has not listed.
    pub(super) fn look_at_dest(&self, dir: &DirNode, open: &DirPair) -> Result<()> {
        if self.way == Way::Down {
            return crate::listing::look_at_dest(self.job(), &*self.errands.caller, dir, open);
        }
        if dir.dest() == DestDir::Unknown {
            dir.set_dest(DestDir::Existing);
        }
        Ok(())
    }

    async fn list_files(&self, dir: &Arc<DirNode>) -> Result<Listing> {
        let Some(open) = self.open_source(dir)? else { return Ok(Listing::Done) };
        self.inherit_dest(dir);
        self.touch_if_changed(dir)?;
        let job = self.job();
        let is_other_mount = dir.stamp().is_some_and(|stamp| stamp.dev != job.source.stat.dev);
        if is_other_mount && job.config.mounts == Mounts::Stay {
            return Ok(Listing::Done);
        }
        let mut pair = DirPair { source: open.clone(), dest: job.dest.handle.clone() };
        let posix = Posix::new(&*self.errands.caller, Side::Source);
        let failed = |errno| job.dir_error(Side::Source, dir, "list", errno);
        let (mut names, mut met, mut buffer) = (open, Met::new(job.reach), vec![0; BUFFER_BYTES]);
        // Ends: each turn reads on in the directory, is at its end, or begins once more.
        loop {
            let filled = match posix.read_dir(&names, &mut buffer) {
                Err(Errno::STALE) if met.begin_again() => {
                    self.cache.borrow_mut().forget(dir);
                    pair = self.open_dir(dir)?;
                    names = posix.open_dir(&pair.source, &c".".to_owned()).map_err(failed)?;
                    continue;
                }
                filled => filled.map_err(failed)?,
            };
            if filled == 0 {
                return Ok(Listing::Done);
            }
            let mut entries = VecDeque::new();
            parse(&buffer[..filled], &mut entries);
            met.take_in(&mut entries);
            if self.hand_on(dir, &pair, entries).await? {
                return Ok(Listing::Stopped);
            }
        }
    }

    /// Opens a source directory and notes its state; `None` if it is left out. Where one above it has become stale it
    /// is looked up once more, from the root.
    fn open_source(&self, dir: &Arc<DirNode>) -> Result<Option<Handle>> {
        self.reopening(dir, || self.try_open_source(dir))
    }

    fn try_open_source(&self, dir: &Arc<DirNode>) -> Result<Option<Handle>> {
        let (job, caller) = (self.job(), &*self.errands.caller);
        let posix = Posix::new(caller, Side::Source);
        let failed = |verb, errno| match errno {
            Errno::NOENT => Error { verb, object: job.path(Side::Source, dir), cause: Cause::Vanished },
            errno => job.dir_error(Side::Source, dir, verb, errno),
        };
        let Some(parent) = &dir.parent else {
            let handle = job.source.handle.clone();
            let stat = posix.stat_handle(&handle).map_err(|errno| failed("stat", errno))?;
            dir.set_stamp(seen(job, caller, (&handle, c""), dir, &stat)?);
            return Ok(Some(handle));
        };
        let at = self.open_dir(parent)?.source;
        let opened = posix.open_dir(&at, &dir.name);
        if let Err(errno @ (Errno::ACCESS | Errno::PERM)) = opened {
            // It is made at the destination all the same, with its own metadata.
            let stat = posix.stat(&at, &dir.name).map_err(|errno| failed("stat", errno))?;
            dir.set_stamp(seen(job, caller, (&at, &dir.name), dir, &stat)?);
            dir.touch();
            return Err(failed("open", errno));
        }
        let handle = opened.map_err(|errno| failed("open", errno))?;
        let stat = posix.stat_handle(&handle).map_err(|errno| failed("stat", errno))?;
        if let Some(reason) = leave_out((&job.source.stat, job.state_dir), dir, &handle, &stat)? {
            job.note_left_out(dir, reason);
            return Ok(None);
        }
        dir.set_stamp(seen(job, caller, (&handle, c""), dir, &stat)?);
        self.cache.borrow_mut().insert(dir, handle.clone());
        Ok(Some(handle))
    }

    fn touch_if_changed(&self, dir: &DirNode) -> Result<()> {
        if !self.job().is_as_recorded(dir, dir.stamp())? {
            dir.touch();
        }
        Ok(())
    }

    /// Looks names up and offers them in slices; true if the job was stopped.
    async fn hand_on(&self, dir: &Arc<DirNode>, open: &DirPair, mut entries: VecDeque<Entry>) -> Result<bool> {
        look_up(self.job(), dir.id, &mut entries)?;
        // Ends: every turn takes names away.
        while !entries.is_empty() && !self.job().walker.is_stopped() {
            let rest = entries.split_off(entries.len().min(SLICE_ENTRIES));
            self.offer(dir, open, std::mem::replace(&mut entries, rest)).await;
        }
        Ok(self.job().walker.is_stopped())
    }

    async fn list_keys(&self, dir: &Arc<DirNode>) -> Result<Listing> {
        if !self.find_twins_of(dir).await? {
            return Ok(Listing::Stopped);
        }
        let open = self.open_dest(dir)?;
        let root = self.job().source.bucket.as_ref().expect("I8: the way says that the source is a bucket");
        let prefix = root.dir_key(dir);
        if prefix.starts_with('/') {
            let why = "some servers take a key with a leading slash for the one without it";
            return Err(Error::refused_object(self.job().path(Side::Source, dir), why));
        }
        if !self.find_twins(dir, &open).await? {
            return Ok(Listing::Stopped);
        }
        let mut from = self.listing_start(dir, &prefix).await?;
        let (mut sieve, mut frontier, pages) =
            (Sieve::new(root.names), Frontier::default(), Arc::new(Pages::default()));
        // Ends: each page goes on behind the one before.
        loop {
            let page = self.source().list(&prefix, &from).await?;
            let mut entries = VecDeque::new();
            for item in items(&prefix, page.objects, page.prefixes) {
                let key = item.key(&prefix);
                // Some servers tell it all the same.
                if matches!(&from, From::After(mark) if key <= *mark) {
                    continue;
                }
                let is_taken = self.sort_in(dir, item, &mut sieve, &mut entries).await?;
                frontier.pass(key, is_taken, &prefix, sieve.held());
            }
            if page.next.is_none() {
                sieve.end(&mut entries);
            }
            let part = pages.begin(entries.len(), frontier.mark());
            entries.iter_mut().for_each(|entry| entry.page = Some(part.clone()));
            if self.hand_on(dir, &open, entries).await? {
                return Ok(Listing::Stopped);
            }
            self.errands.release_page(dir, Some(&part));
            match page.next {
                Some(token) => from = From::Token(token),
                None => break,
            }
        }
        if self.way == Way::Down && dir.stamp().is_none() {
            dir.set_stamp(unknown_dir(self.job()));
        }
        if self.way == Way::Down {
            self.touch_if_changed(dir)?;
        }
        Ok(Listing::Done)
    }

    /// Where a listing begins: behind the names that an interrupted run has dealt with. Those do not come up again, so
    /// the directory's own object, which is the first of them, is asked for by itself.
    async fn listing_start(&self, dir: &Arc<DirNode>, prefix: &str) -> Result<From> {
        if self.job().past != Past::Interrupted {
            return Ok(From::Start);
        }
        let Some(mark) = self.job().catalog.reader()?.listed_to(dir.id)? else { return Ok(From::Start) };
        if self.way == Way::Down
            && let Ok(key) = Key::new(prefix.to_owned())
            && let Some(object) = self.source().head(&key).await?
        {
            self.note_marker(dir, &object);
        }
        Ok(From::After(mark))
    }

    /// The destination's directory, made if it is missing; likewise.
    fn open_dest(&self, dir: &Arc<DirNode>) -> Result<DirPair> {
        let opened = self.reopening(dir, || self.try_open_dest(dir))?;
        remove_probe(self.job(), &*self.errands.caller, &opened.dest);
        Ok(opened)
    }

    /// Opens what is reached by a directory; where one has become stale it is looked up once more, from the root.
    pub(super) fn reopening<T>(&self, dir: &DirNode, open: impl Fn() -> Result<T>) -> Result<T> {
        match open() {
            Err(error) if error.is_stale() => {
                self.cache.borrow_mut().forget(dir);
                open()
            }
            opened => opened,
        }
    }

    fn try_open_dest(&self, dir: &Arc<DirNode>) -> Result<DirPair> {
        let Some(parent) = dir.parent.as_ref().filter(|_| self.way == Way::Down) else {
            self.inherit_dest(dir);
            let open = self.open_dir(dir)?;
            if self.way == Way::Down {
                self.look_at_dest(dir, &open)?;
            }
            return Ok(open);
        };
        let at = self.open_dir(parent)?;
        self.look_at_dest(parent, &at)?;
        let (dest, state) = make_dest(self.job(), &*self.errands.caller, &at, dir)?;
        dir.set_dest(state);
        self.cache.borrow_mut().insert(dir, dest.clone());
        self.errands.note_made(dir);
        Ok(DirPair { source: at.source, dest })
    }

    fn inherit_dest(&self, dir: &DirNode) {
        if let Some(parent) = &dir.parent {
            let state = if parent.dest() == DestDir::Created { DestDir::Created } else { DestDir::Existing };
            dir.set_dest(state);
        }
    }

    /// Puts one listed thing among the directory's entries, or refuses it. False if it was refused.
    async fn sort_in(
        &self,
        dir: &Arc<DirNode>,
        item: Item,
        sieve: &mut Sieve,
        entries: &mut VecDeque<Entry>,
    ) -> Result<bool> {
        if item.is_marker() && self.way == Way::Down {
            return self.read_marker(dir, &item).await;
        }
        let refused = sieve.pass(item, entries);
        Ok(!refused.is_some_and(|refused| self.refuse(dir, &refused)))
    }

    /// The object whose key is the directory's own says what the directory is like. False if it is refused, because it
    /// has content, which no directory can hold.
    async fn read_marker(&self, dir: &Arc<DirNode>, item: &Item) -> Result<bool> {
        let Some(listed) = &item.object else { return Ok(true) };
        let why = "it has content, and its key is a directory's";
        let refused = Refused { component: String::new(), sort: Sort::Other, why };
        let is_taken = listed.size == 0 || !self.refuse(dir, &refused);
        let Ok(key) = Key::new(listed.key.clone()) else { return Ok(is_taken) };
        if let Some(object) = self.source().head(&key).await? {
            self.note_marker(dir, &object);
        }
        Ok(is_taken)
    }

    fn note_marker(&self, dir: &DirNode, object: &Object) {
        dir.set_stamp(dir_stamp(self.job(), object));
        if self.job().config.attributes != Attributes::None {
            dir.set_told(extended::told(&object.attributes));
        }
    }

    /// Records a thing whose key no name can stand for, under a name that is none. False if it is no part of the job.
    fn refuse(&self, dir: &Arc<DirNode>, refused: &Refused) -> bool {
        let (name, shown) = refused.names();
        if !self.job().meets(dir, &shown, refused.sort) {
            return false;
        }
        let object = crate::error::join(&self.job().path(Side::Source, dir), &shown);
        self.errands.counters.add(Count::EntriesWalked, 1);
        self.errands.push_failure(dir, name, Error::refused_object(object, refused.why), 1, None);
        true
    }
}

/// The things of one page in the order of their keys.
pub(crate) fn items(prefix: &str, objects: Vec<Listed>, prefixes: Vec<String>) -> Vec<Item> {
    let below = |key: &str| key.strip_prefix(prefix).map(str::to_owned);
    let objects = objects.into_iter().filter_map(|object| {
        let component = below(&object.key)?;
        Some((object.key.clone(), Item { component, object: Some(object) }))
    });
    let prefixes = prefixes.into_iter().filter_map(|key| {
        let component = below(key.strip_suffix('/')?)?;
        Some((key, Item { component, object: None }))
    });
    let mut items: Vec<(String, Item)> = objects.chain(prefixes).collect();
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    items.into_iter().map(|(_, item)| item).collect()
}

/// The name that gfast would write this very key for. A directory's own object has none here: it goes with the
/// directory.
pub(crate) fn own_name(root: &BucketRoot, dir: &Arc<DirNode>, item: &Item) -> Option<Name> {
    let name = item.name(root.names).ok()?;
    let own = match &item.object {
        Some(_) => root.key(dir, &name).ok()?,
        None => Key::new(root.dir_key(&DirNode::child(dir, DirId(0), name.clone()))).ok()?,
    };
    (own.as_str() == item.key(&root.dir_key(dir))).then_some(name)
}

/// The name of a file system for a component of a key, or why there is none (I8).
fn posix_name(component: &str) -> std::result::Result<Name, &'static str> {
    let name = keys::name_of(component).ok_or("its key holds control characters")?;
    match name.as_slice() {
        b"" => Err("a component of its key is empty"),
        b"." | b".." => Err("a component of its key is `.` or `..`"),
        name if name.len() > NAME_BYTES_MAX => Err("a component of its key is longer than 255 bytes"),
        _ => Name::new(name).map_err(|_| "its key holds a NUL"),
    }
}

/// The piece of a key as a name: see [`KeyNames::Pieces`].
fn piece_name(item: &Item) -> std::result::Result<Name, &'static str> {
    let piece = match (&item.object, item.component.as_str()) {
        (_, "." | "..") => return Err("a component of its key is `.` or `..`"),
        (Some(_), "") => ".".to_owned(),
        (Some(_), component) => component.to_owned(),
        (None, component) => format!("{component}/"),
    };
    if piece.len() > keys::KEY_BYTES_MAX {
        return Err("its key is longer than 1,024 bytes");
    }
    Name::new(piece).map_err(|_| "its key holds a NUL")
}

/// What is recorded of an object of a bucket: any change of it changes this. Whole seconds, for HEAD tells no more than
/// that and a listing may.
pub(crate) fn stamp_of(size: u64, modified: Time, etag: &str) -> Stamp {
    let modified = Time { nanos: 0, ..modified };
    Stamp { size, mtime: modified, ctime: modified, ino: hash(etag) }
}

/// A directory as its marker describes it.
fn dir_stamp(job: &Job, object: &Object) -> DirStamp {
    let posix = attributes::decode(&object.attributes);
    let unknown = unknown_dir(job);
    let special = if job.config.special_bits == SpecialBits::Restore { 0 } else { 0o6000 };
    DirStamp {
        mode: libc::S_IFDIR | posix.mode.map_or(unknown.mode, |mode| mode & 0o7777 & !special),
        uid: posix.uid.unwrap_or(unknown.uid),
        gid: posix.gid.unwrap_or(unknown.gid),
        atime: posix.atime.or(posix.mtime).unwrap_or(object.modified),
        mtime: posix.mtime.unwrap_or(object.modified),
        ctime: object.modified,
        ino: hash(&object.etag).max(1),
        dev: 0,
        is_mount: false,
    }
}

/// A directory of which nothing is known: inode 0 says that it has no times to be set.
fn unknown_dir(job: &Job) -> DirStamp {
    let mode = libc::S_IFDIR | 0o777 & !job.identity.umask;
    DirStamp { mode, uid: job.identity.uid, gid: job.identity.gid, ..DirStamp::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_file_system_holds_are_refused() {
        for component in ["", ".", "..", "a\nb", "a\0", &"n".repeat(256)] {
            assert!(posix_name(component).is_err(), "{component:?}");
        }
        assert_eq!(posix_name("a%FFb").unwrap().as_bytes(), b"a\xffb");
        assert_eq!(posix_name("...").unwrap().as_bytes(), b"...");
    }

    #[test]
    fn a_listing_is_marked_before_what_is_held_back() {
        let mut frontier = Frontier::default();
        frontier.pass("p/a".into(), true, "p/", Some("a"));
        assert_eq!(frontier.mark(), None, "nothing is before what is held");
        frontier.pass("p/b".into(), true, "p/", Some("b"));
        assert_eq!(frontier.mark().as_deref(), Some("p/a"));
        frontier.pass("p/b-c".into(), true, "p/", Some("b"));
        assert_eq!(frontier.mark().as_deref(), Some("p/a"));
        frontier.pass("p/c/".into(), true, "p/", None);
        assert_eq!(frontier.mark().as_deref(), Some("p/c/"));
        frontier.pass("p/d//".into(), false, "p/", None);
        assert_eq!(frontier.mark(), None, "a refused key is to be refused again");
    }

    #[test]
    fn a_page_is_in_the_order_of_its_keys_and_pieces_tell_prefix_and_object_apart() {
        let listed = |key: &str| Listed { key: key.into(), size: 1, etag: "e".into(), modified: Default::default() };
        let objects = vec![listed("p/b"), listed("p/"), listed("p/a"), listed("q/x")];
        let items = items("p/", objects, vec!["p/a/".into(), "p//".into()]);
        let names: Vec<String> =
            items.iter().map(|item| piece_name(item).unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, [".", "/", "a", "a/", "b"]);
        let piece = |len, object| piece_name(&Item { component: "n".repeat(len), object }).is_ok();
        assert_eq!((piece(1024, Some(listed("p/b"))), piece(1024, None), piece(1023, None)), (true, false, true));
    }
}
