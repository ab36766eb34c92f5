//! Questions to the catalog, answered from one snapshot. Each costs what its answer holds, whatever the catalog's size.

use std::ffi::CStr;
use std::ops::Bound;

use heed::{RoTxn, WithoutTls};
use parking_lot::RecursiveRwLockReadGuard;

use super::Catalog;
use super::bytes::{Damage, Decoded, Take, unseal};
use super::header;
use super::key::{self, Key};
use super::note;
use super::range::{self, Range, UPLOAD_OFFSET, Upload};
use super::record::{self, DirId, DirRecord, DirState, LinkFirst, Record};
use super::refused::is_refused;
use super::store::{Tree, damaged, trouble};
use crate::error::Result;
use crate::report::Note;
use crate::ring::op::Name;

/// What the names of refused keys begin with.
const SLASH: &CStr = c"/";
/// Ranges that are looked through at a time.
const PAGE: usize = 4096;

/// Records that are passed over on the way to a name before it is searched for.
const STEPS_MAX: usize = 8;

/// A snapshot of the catalog as of its last commit. Keep it short: while it lives, pages that later commits free are
/// not used again, and the thread that holds it must not wait for a commit.
pub struct Reader<'c> {
    txn: RoTxn<'c, WithoutTls>,
    catalog: &'c Catalog,
    _no_resize: RecursiveRwLockReadGuard<'c, ()>,
}

/// A name waiting for the first name of its inode: device, inode, directory, name.
pub type LateLink = (u64, u64, DirId, Name);

impl<'c> Reader<'c> {
    pub(super) fn new(catalog: &'c Catalog) -> Result<Reader<'c>> {
        let no_resize = catalog.store.resize.read();
        let txn = catalog.store.read().map_err(|error| trouble(catalog.path(), &error))?;
        Ok(Reader { txn, catalog, _no_resize: no_resize })
    }

    /// What is known of one name.
    pub fn entry(&self, dir: DirId, name: &CStr) -> Result<Option<Record>> {
        self.get(Tree::Entries, &key::entry(dir, name), |body| {
            let mut take = Take(body);
            // A long name is checked against its hash when it is listed; here it has led to the key itself.
            if key::is_long(name) && take.bytes()? != name.to_bytes() {
                return Err(Damage("a long name does not fit its key"));
            }
            record::decode_record(take.0)
        })
    }

    /// What is known of each of these names of one directory; sorts them. They are met on one way along the directory's
    /// records where they lie close together, and looked up one by one where not.
    pub fn entries_named(&self, dir: DirId, asked: &mut [(&CStr, &mut Option<Record>)]) -> Result<()> {
        asked.sort_unstable_by_key(|(name, _)| *name);
        let failed = |error| trouble(self.catalog.path(), &error);
        let tree = self.catalog.store.tree(Tree::Entries);
        let (mut run, mut next, mut steps_max) = (None, None, 0);
        for (name, record) in asked {
            // The key of a long name does not stand where the name does.
            if key::is_long(name) {
                **record = self.entry(dir, name)?;
                continue;
            }
            let key = key::entry(dir, name);
            let mut steps = 0;
            // Ends: a search finds the key or one behind it; before one there are so many steps at most.
            while run.is_none() || next.is_some_and(|(at, _)| at < key.as_bytes()) {
                let is_near = run.is_some() && steps < steps_max;
                steps += 1;
                let range = match run.as_mut().filter(|_| is_near) {
                    Some(range) => range,
                    None => {
                        let range = (Bound::Included(key.as_bytes()), Bound::Unbounded);
                        steps_max = if run.is_none() { STEPS_MAX } else { 1 };
                        run.insert(tree.range(&self.txn, &range).map_err(failed)?)
                    }
                };
                next = range.next().transpose().map_err(failed)?;
            }
            if let Some((at, value)) = next.filter(|(at, _)| *at == key.as_bytes()) {
                steps_max = if steps <= steps_max { STEPS_MAX } else { steps_max };
                let decoded = unseal(at, value).and_then(record::decode_record);
                **record = Some(decoded.map_err(|damage| damaged(self.catalog.path(), damage.0))?);
            }
        }
        Ok(())
    }

    /// Up to `limit` names of a directory behind `after`, in order of their keys.
    pub fn entries(&self, dir: DirId, after: Option<&CStr>, limit: usize) -> Result<Vec<(Name, Record)>> {
        let prefix = Key::new().number(dir.0);
        let after = after.map(|name| key::entry(dir, name));
        self.scan(Tree::Entries, &prefix, after.as_ref(), limit, take_entry)
    }

    /// Up to `limit` names of all directories behind `after`, in order of their keys.
    pub fn all_entries(&self, after: Option<&(DirId, Name)>, limit: usize) -> Result<Vec<(DirId, Name, Record)>> {
        let after = after.map(|(dir, name)| key::entry(*dir, name));
        self.scan(Tree::Entries, &Key::new(), after.as_ref(), limit, |rest, body| {
            let (mut in_key, mut take) = (Take(rest), Take(body));
            let dir = DirId(key::take_number(&mut in_key)?);
            let name = key::take_name(in_key.0, &mut take)?;
            Ok((dir, name, record::decode_record(take.0)?))
        })
    }

    /// Up to `limit` names of a directory that begin with a slash, from the first or behind `after`: those of refused
    /// keys, and the directory of an empty component.
    pub fn slashed(&self, dir: DirId, after: Option<&CStr>, limit: usize) -> Result<Vec<(Name, Record)>> {
        let prefix = Key::new().number(dir.0);
        let (first, after) = (key::entry(dir, SLASH), after.map(|name| key::entry(dir, name)));
        let start = after.as_ref().map_or(Bound::Included(first.as_bytes()), |after| Bound::Excluded(after.as_bytes()));
        let found = self.scan_from(Tree::Entries, &prefix, start, limit, take_entry)?;
        Ok(found.into_iter().take_while(|(name, _)| is_refused(name)).collect())
    }

    /// The first of a directory's refused keys in the index of entries that need work.
    pub fn first_refused(&self, dir: DirId) -> Result<Option<Name>> {
        let (prefix, first) = (Key::new().number(dir.0), key::entry(dir, SLASH));
        let start = Bound::Included(first.as_bytes());
        let mut found = self.scan_from(Tree::OpenFiles, &prefix, start, 1, take_marked_name)?;
        Ok(found.pop().filter(|name| is_refused(name)))
    }

    /// What is known of one directory.
    pub fn dir(&self, id: DirId) -> Result<Option<DirRecord>> {
        self.get(Tree::Dirs, &Key::new().number(id.0), record::decode_dir)
    }

    /// Whether a directory is in the index of those that need work of this sort.
    pub fn is_open_dir(&self, id: DirId, state: DirState) -> Result<bool> {
        Ok(self.get(Tree::OpenDirs, &key::open_dir(id, state), record::decode_open_dir)?.is_some())
    }

    /// The key of its bucket up to which all names of an unlisted directory have outcomes.
    pub fn listed_to(&self, id: DirId) -> Result<Option<String>> {
        let found = self.get(Tree::OpenDirs, &key::open_dir(id, DirState::Unlisted), record::decode_open_dir)?;
        Ok(found.flatten())
    }

    /// Whether an entry is in the index of those that need work.
    pub fn is_open_file(&self, dir: DirId, name: &CStr) -> Result<bool> {
        let found = self.get(Tree::OpenFiles, &key::entry(dir, name), |body| {
            let mut take = Take(body);
            if key::is_long(name) {
                take.bytes()?;
            }
            record::decode_mark(take)
        })?;
        Ok(found.is_some())
    }

    /// Up to `limit` directories that need work, the newest number first, strictly below `below`.
    pub fn open_dirs_below(
        &self,
        below: Option<DirId>,
        state: Option<DirState>,
        limit: usize,
    ) -> Result<Vec<(DirId, DirState)>> {
        let mut dirs = Vec::new();
        for each in [DirState::Unlisted, DirState::Unfinished] {
            if state.is_none_or(|state| state == each) {
                dirs.extend(self.open_dirs_of(each, below, limit)?.into_iter().map(|id| (id, each)));
            }
        }
        dirs.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        dirs.truncate(limit);
        Ok(dirs)
    }

    fn open_dirs_of(&self, state: DirState, below: Option<DirId>, limit: usize) -> Result<Vec<DirId>> {
        let (first, end) = key::below(&key::open_dirs(state));
        let end = below.map_or(end, |below| key::open_dir(below, state));
        let range = (Bound::Included(first.as_bytes()), Bound::Excluded(end.as_bytes()));
        let found = self.catalog.store.tree(Tree::OpenDirs).rev_range(&self.txn, &range);
        let found = found.map_err(|error| trouble(self.catalog.path(), &error))?;
        self.collect(found, first.as_bytes().len(), limit, |rest, body| {
            record::decode_open_dir(body)?;
            Ok(DirId(take_last_number(rest)?))
        })
    }

    /// Up to `limit` entries that need work (Pending, InProgress, Failed) behind `after`.
    pub fn open_files(&self, after: Option<&(DirId, Name)>, limit: usize) -> Result<Vec<(DirId, Name)>> {
        let after = after.map(|(dir, name)| key::entry(*dir, name));
        self.scan(Tree::OpenFiles, &Key::new(), after.as_ref(), limit, |rest, body| {
            let mut in_key = Take(rest);
            let dir = DirId(key::take_number(&mut in_key)?);
            Ok((dir, take_marked_name(in_key.0, body)?))
        })
    }

    /// The finished ranges of a large file, by offset.
    pub fn ranges(&self, large_id: u64) -> Result<Vec<Range>> {
        let ranges =
            self.scan(
                Tree::Ranges,
                &Key::new().number(large_id),
                None,
                usize::MAX,
                |rest, body| match take_last_number(rest)? {
                    UPLOAD_OFFSET => Ok(None),
                    offset => range::decode_range(offset, body).map(Some),
                },
            )?;
        Ok(ranges.into_iter().flatten().collect())
    }

    /// Large files that have ranges and no upload, ascending: of the first `limit` ranges there are.
    pub fn ranged(&self, limit: usize) -> Result<Vec<u64>> {
        let mut found =
            self.scan(Tree::Ranges, &Key::new(), None, limit, |rest, _| key::take_number(&mut Take(rest)))?;
        found.dedup();
        let mut ids = Vec::with_capacity(found.len());
        for large_id in found {
            if self.upload(large_id)?.is_none() {
                ids.push(large_id);
            }
        }
        Ok(ids)
    }

    /// Uploads that are recorded, by the key of their ranges, ascending: the first `limit` of them.
    pub fn uploads(&self, limit: usize) -> Result<Vec<(u64, Upload)>> {
        let (mut uploads, mut after) = (Vec::new(), None);
        // Ends: each page lies strictly behind the one before.
        while uploads.len() < limit {
            let page = self.scan(Tree::Ranges, &Key::new(), after.as_ref(), PAGE, |rest, body| {
                let mut in_key = Take(rest);
                let large_id = key::take_number(&mut in_key)?;
                let offset = take_last_number(in_key.0)?;
                let upload = if offset == UPLOAD_OFFSET { Some(range::decode_upload(body)?) } else { None };
                Ok((large_id, offset, upload))
            })?;
            let Some((large_id, offset, _)) = page.last() else { break };
            after = Some(Key::new().number(*large_id).number(*offset));
            uploads.extend(page.into_iter().filter_map(|(large_id, _, upload)| Some((large_id, upload?))));
        }
        uploads.truncate(limit);
        Ok(uploads)
    }

    /// The upload that the ranges of a large file are parts of.
    pub fn upload(&self, large_id: u64) -> Result<Option<Upload>> {
        self.get(Tree::Ranges, &Key::new().number(large_id).number(UPLOAD_OFFSET), range::decode_upload)
    }

    /// The name under which a hard-linked inode was first copied.
    pub fn link(&self, dev: u64, ino: u64) -> Result<Option<LinkFirst>> {
        self.get(Tree::Links, &key::inode(dev, ino), record::decode_link)
    }

    /// Up to `limit` names that wait for the first name of an inode.
    pub fn late_links(&self, dev: u64, ino: u64, limit: usize) -> Result<Vec<(DirId, Name)>> {
        self.scan(Tree::LateLinks, &key::inode(dev, ino), None, limit, |rest, body| {
            let mut in_key = Take(rest);
            let dir = DirId(key::take_number(&mut in_key)?);
            Ok((dir, take_marked_name(in_key.0, body)?))
        })
    }

    /// Up to `limit` names that wait for the first name of any inode.
    pub fn any_late_links(&self, limit: usize) -> Result<Vec<LateLink>> {
        self.scan(Tree::LateLinks, &Key::new(), None, limit, |rest, body| {
            let mut in_key = Take(rest);
            let (dev, ino) = (key::take_number(&mut in_key)?, key::take_number(&mut in_key)?);
            let dir = DirId(key::take_number(&mut in_key)?);
            Ok((dev, ino, dir, take_marked_name(in_key.0, body)?))
        })
    }

    /// How many names wait.
    pub fn late_links_len(&self) -> Result<u64> {
        let tree = self.catalog.store.tree(Tree::LateLinks);
        tree.len(&self.txn).map_err(|error| trouble(self.catalog.path(), &error))
    }

    /// Directories that hold records of the newest durable batch, ascending.
    pub fn reseal_dirs(&self) -> Result<Vec<DirId>> {
        let expected = self.catalog.store.header(&self.txn, self.catalog.path())?.reseal_count;
        let mut dirs = Vec::new();
        let prefix = Key::new().raw(b"reseal");
        self.scan(Tree::Meta, &prefix, None, usize::MAX, |_, body| header::decode_piece(body, &mut dirs))?;
        if dirs.len() as u64 != expected {
            return Err(damaged(self.catalog.path(), "the list of directories to seal again is not whole"));
        }
        Ok(dirs)
    }

    /// What was changed while the job ran, oldest first, with numbers.
    pub fn notes(&self) -> Result<Vec<(u64, Note)>> {
        let mut notes = self.scan(Tree::Meta, &note::prefix(), None, usize::MAX, |_, body| note::decode_note(body))?;
        notes.sort_by_key(|(serial, _)| *serial);
        Ok(notes)
    }

    fn get<T>(&self, tree: Tree, key: &Key, decode: impl FnOnce(&[u8]) -> Decoded<T>) -> Result<Option<T>> {
        let path = self.catalog.path();
        let value = self.catalog.store.tree(tree).get(&self.txn, key.as_bytes());
        let Some(value) = value.map_err(|error| trouble(path, &error))? else { return Ok(None) };
        let decoded = unseal(key.as_bytes(), value).and_then(decode);
        decoded.map(Some).map_err(|damage| damaged(path, damage.0))
    }

    /// Up to `limit` values whose keys begin with `prefix`, behind `after`; `decode` gets the rest of the key and the
    /// body.
    fn scan<T>(
        &self,
        tree: Tree,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
        decode: impl FnMut(&[u8], &[u8]) -> Decoded<T>,
    ) -> Result<Vec<T>> {
        let start = match after {
            Some(after) => Bound::Excluded(after.as_bytes()),
            // LMDB has no empty key.
            None if prefix.as_bytes().is_empty() => Bound::Unbounded,
            None => Bound::Included(prefix.as_bytes()),
        };
        self.scan_from(tree, prefix, start, limit, decode)
    }

    fn scan_from<T>(
        &self,
        tree: Tree,
        prefix: &Key,
        start: Bound<&[u8]>,
        limit: usize,
        decode: impl FnMut(&[u8], &[u8]) -> Decoded<T>,
    ) -> Result<Vec<T>> {
        let tree = self.catalog.store.tree(tree);
        let range = (start, Bound::Unbounded);
        let found = tree.range(&self.txn, &range).map_err(|error| trouble(self.catalog.path(), &error))?;
        let found = found.take_while(|item| !matches!(item, Ok((key, _)) if !key.starts_with(prefix.as_bytes())));
        self.collect(found, prefix.as_bytes().len(), limit, decode)
    }

    fn collect<'t, T>(
        &self,
        found: impl Iterator<Item = heed::Result<(&'t [u8], &'t [u8])>>,
        prefix_len: usize,
        limit: usize,
        mut decode: impl FnMut(&[u8], &[u8]) -> Decoded<T>,
    ) -> Result<Vec<T>> {
        let mut answers = Vec::new();
        for item in found.take(limit) {
            let (key, value) = item.map_err(|error| trouble(self.catalog.path(), &error))?;
            let decoded = unseal(key, value).and_then(|body| decode(&key[prefix_len..], body));
            answers.push(decoded.map_err(|damage| damaged(self.catalog.path(), damage.0))?);
        }
        Ok(answers)
    }
}

fn take_last_number(rest: &[u8]) -> Decoded<u64> {
    let mut take = Take(rest);
    let number = key::take_number(&mut take)?;
    take.end()?;
    Ok(number)
}

fn take_entry(in_key: &[u8], body: &[u8]) -> Decoded<(Name, Record)> {
    let mut take = Take(body);
    let name = key::take_name(in_key, &mut take)?;
    Ok((name, record::decode_record(take.0)?))
}

fn take_marked_name(in_key: &[u8], body: &[u8]) -> Decoded<Name> {
    let mut take = Take(body);
    let name = key::take_name(in_key, &mut take)?;
    record::decode_mark(take)?;
    Ok(name)
}
