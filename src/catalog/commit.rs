//! One batch into the trees: rows become changes, changes are sorted by tree and key, and go in by one transaction.
//!
//! Sorting is what keeps the file small: LMDB splits a page where a key goes in, in half if that is its middle, but
//! leaves it full if the key is its last. Sorted, a directory's records go in as one ascending run.

use std::ops::Bound;

use heed::RwTxn;

use super::bytes::seal;
use super::header::{self, StoredHeader};
use super::key::{self, Key};
use super::note;
use super::range::{self, Range, UPLOAD_OFFSET, Upload};
use super::record::{self, DirId, DirState};
use super::store::{HEADER_KEY, Handle, Store, Tree};
use super::{Batch, Row};

/// A batch's changes, in one buffer. The last of several changes to one key counts.
pub(super) struct Changes<'b> {
    buffer: Vec<u8>,
    list: Vec<Change>,
    /// Changes of ranges, in the order they came: a drop covers what came before it.
    ranges: Vec<RangeChange>,
    batch: &'b Batch,
}

/// One change: the places of its key and value in the buffer.
struct Change {
    tree: Tree,
    key: (u32, u32),
    /// `None` deletes.
    value: Option<(u32, u32)>,
}

enum RangeChange {
    Put { large_id: u64, range: Range },
    Upload { large_id: u64, upload: Upload },
    Drop { large_id: u64 },
}

impl<'b> Changes<'b> {
    /// The changes of `batch`, sorted.
    pub fn of(batch: &'b Batch) -> Changes<'b> {
        let mut changes = Changes {
            buffer: Vec::with_capacity(batch.rows.len() * 64),
            list: Vec::with_capacity(batch.rows.len() + 8),
            ranges: Vec::new(),
            batch,
        };
        batch.rows.iter().for_each(|row| changes.add(row));
        let Changes { buffer, list, .. } = &mut changes;
        // Stable: of two changes to one key the later one stays behind the earlier one.
        list.sort_by(|a, b| (a.tree, slice(buffer, a.key)).cmp(&(b.tree, slice(buffer, b.key))));
        changes
    }

    fn add(&mut self, row: &Row) {
        match row {
            Row::PutEntry { dir, name, record } => self.put(Tree::Entries, &key::entry(*dir, name), |body| {
                key::open_value(name, body);
                record::encode_record(record, body);
            }),
            Row::DeleteEntry { dir, name } => self.delete(Tree::Entries, &key::entry(*dir, name)),
            Row::PutDir { id, record } => {
                self.put(Tree::Dirs, &Key::new().number(id.0), |body| record::encode_dir(record, body));
            }
            Row::DeleteDir { id } => self.delete(Tree::Dirs, &Key::new().number(id.0)),
            Row::OpenDir { id, state } => {
                self.put(Tree::OpenDirs, &key::open_dir(*id, *state), record::encode_mark);
                self.delete(Tree::OpenDirs, &key::open_dir(*id, other(*state)));
            }
            Row::ListFrom { id, mark } => {
                let key = key::open_dir(*id, DirState::Unlisted);
                self.put(Tree::OpenDirs, &key, |body| record::encode_listed_to(mark, body));
            }
            Row::CloseDir { id } => {
                self.delete(Tree::OpenDirs, &key::open_dir(*id, DirState::Unlisted));
                self.delete(Tree::OpenDirs, &key::open_dir(*id, DirState::Unfinished));
            }
            Row::OpenFile { dir, name } => self.put(Tree::OpenFiles, &key::entry(*dir, name), |body| {
                key::open_value(name, body);
                record::encode_mark(body);
            }),
            Row::CloseFile { dir, name } => self.delete(Tree::OpenFiles, &key::entry(*dir, name)),
            Row::PutRange { large_id, range } => {
                self.ranges.push(RangeChange::Put { large_id: *large_id, range: *range });
            }
            Row::PutUpload { large_id, upload } => {
                self.ranges.push(RangeChange::Upload { large_id: *large_id, upload: upload.clone() });
            }
            Row::DropRanges { large_id } => self.ranges.push(RangeChange::Drop { large_id: *large_id }),
            Row::PutLink { dev, ino, first } => {
                self.put(Tree::Links, &key::inode(*dev, *ino), |body| record::encode_link(first, body));
            }
            Row::PutLateLink { dev, ino, dir, name } => {
                self.put(Tree::LateLinks, &key::late_link(*dev, *ino, *dir, name), |body| {
                    key::open_value(name, body);
                    record::encode_mark(body);
                });
            }
            Row::PutNote { serial, note } => {
                self.put(Tree::Meta, &note::key(*serial), |body| note::encode_note(*serial, note, body));
            }
            Row::DropLateLink { dev, ino, dir, name } => {
                self.delete(Tree::LateLinks, &key::late_link(*dev, *ino, *dir, name));
            }
        }
    }

    fn put(&mut self, tree: Tree, key: &Key, encode: impl FnOnce(&mut Vec<u8>)) {
        let key_at = self.append(key.as_bytes());
        let mut body = Vec::with_capacity(96);
        encode(&mut body);
        seal(key.as_bytes(), &mut body);
        let value_at = self.append(&body);
        self.list.push(Change { tree, key: key_at, value: Some(value_at) });
    }

    fn delete(&mut self, tree: Tree, key: &Key) {
        let key_at = self.append(key.as_bytes());
        self.list.push(Change { tree, key: key_at, value: None });
    }

    /// A batch is bounded far below 4 GiB (I4).
    fn append(&mut self, bytes: &[u8]) -> (u32, u32) {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        assert!(self.buffer.len() <= u32::MAX as usize, "I4: a batch is bounded");
        (start as u32, self.buffer.len() as u32)
    }

    /// Puts everything into the trees by one durable transaction.
    pub fn commit(&self, store: &Store) -> heed::Result<()> {
        let _no_resize = store.resize.read();
        let mut txn = store.write()?;
        self.put_changes(store, &mut txn)?;
        self.put_ranges(store, &mut txn)?;
        self.put_header(store, &mut txn)?;
        txn.commit()
    }

    fn put_changes(&self, store: &Store, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let mut list = self.list.iter().peekable();
        while let Some(change) = list.next() {
            let key = slice(&self.buffer, change.key);
            if list.peek().is_some_and(|next| next.tree == change.tree && slice(&self.buffer, next.key) == key) {
                continue;
            }
            let tree = store.tree(change.tree);
            match change.value {
                Some(value) => tree.put(txn, key, slice(&self.buffer, value))?,
                None => drop(tree.delete(txn, key)?),
            }
        }
        Ok(())
    }

    fn put_ranges(&self, store: &Store, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let tree = store.tree(Tree::Ranges);
        for change in &self.ranges {
            match change {
                RangeChange::Put { large_id, range } => {
                    let mut body = Vec::new();
                    range::encode_range(range, &mut body);
                    put_sealed(tree, txn, &Key::new().number(*large_id).number(range.offset), body)?;
                }
                RangeChange::Upload { large_id, upload } => {
                    let mut body = Vec::new();
                    range::encode_upload(upload, &mut body);
                    put_sealed(tree, txn, &Key::new().number(*large_id).number(UPLOAD_OFFSET), body)?;
                }
                RangeChange::Drop { large_id } => {
                    let (first, end) = key::below(&Key::new().number(*large_id));
                    let range = (Bound::Included(first.as_bytes()), Bound::Excluded(end.as_bytes()));
                    tree.delete_range(txn, &range)?;
                }
            }
        }
        Ok(())
    }

    fn put_header(&self, store: &Store, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let meta = store.tree(Tree::Meta);
        let pieces = header::encode_pieces(&self.batch.reseal_dirs);
        for (index, mut piece) in pieces.iter().cloned().enumerate() {
            let key = key::piece(index as u64);
            seal(key.as_bytes(), &mut piece);
            meta.put(txn, key.as_bytes(), &piece)?;
        }
        let left_over = (Bound::Included(key::piece(pieces.len() as u64)), Bound::Excluded(key::piece_end()));
        let left_over = (left_over.0.as_ref().map(Key::as_bytes), left_over.1.as_ref().map(Key::as_bytes));
        meta.delete_range(txn, &left_over)?;
        let stored = StoredHeader {
            header: self.batch.header.clone(),
            transaction: txn.id() as u64,
            reseal_count: self.batch.reseal_dirs.len() as u64,
        };
        let mut body = Vec::new();
        header::encode_header(&stored, &mut body);
        seal(HEADER_KEY, &mut body);
        meta.put(txn, HEADER_KEY, &body)
    }
}

fn put_sealed(tree: Handle, txn: &mut RwTxn<'_>, key: &Key, mut body: Vec<u8>) -> heed::Result<()> {
    seal(key.as_bytes(), &mut body);
    tree.put(txn, key.as_bytes(), &body)
}

fn slice(buffer: &[u8], (start, end): (u32, u32)) -> &[u8] {
    &buffer[start as usize..end as usize]
}

fn other(state: DirState) -> DirState {
    match state {
        DirState::Unlisted => DirState::Unfinished,
        DirState::Unfinished => DirState::Unlisted,
    }
}

/// Why a batch cannot be recorded, if it cannot: names and lists out of their bounds.
pub(super) fn objection(batch: &Batch) -> Option<&'static str> {
    let names_fit = batch.rows.iter().all(|row| match row {
        Row::PutEntry { name, .. }
        | Row::OpenFile { name, .. }
        | Row::PutLateLink { name, .. }
        | Row::PutDir { record: record::DirRecord { name, .. }, .. }
        | Row::PutLink { first: record::LinkFirst { name, .. }, .. } => record::is_recordable(name),
        _ => true,
    });
    let is_sorted = batch.reseal_dirs.is_sorted_by(|a: &DirId, b| a < b);
    match (names_fit, is_sorted) {
        (false, _) => Some("a name is longer than 1,024 bytes"),
        (_, false) => Some("the directories to seal again are not in order"),
        _ => None,
    }
}
