//! The LMDB environment: its eight trees, opened; the only place where `unsafe` stands in the catalog.
//!
//! Default sync mode. NOSYNC and WRITEMAP lose or corrupt the database in a power cut (measured on ext4 and xfs), so a
//! commit is two waits for the disk, and commits are few.

use std::fs::File;
use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Env, EnvFlags, EnvOpenOptions, RoTxn, RwTxn, WithoutTls};
use parking_lot::RecursiveRwLock;

use super::bytes;
use super::folder::{Access, WAY_OUT, bytes_of};
use super::header::{self, StoredHeader};
use crate::error::{Error, Result};

/// Addresses reserved for the map. They cost nothing until they hold data; a process with a limit on its addresses gets
/// fewer.
const MAP_BYTES: [usize; 4] = [1 << 40, 1 << 37, 1 << 34, 1 << 31];
/// The map grows no further than this.
const MAP_BYTES_MAX: usize = 1 << 45;

/// The trees. Each is a named LMDB database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tree {
    /// "header", the pieces of the list of directories to seal again, and notes.
    Meta,
    /// (directory, name) -> record.
    Entries,
    /// directory -> record.
    Dirs,
    /// (state, directory): directories that need work.
    OpenDirs,
    /// (directory, name): entries that need work.
    OpenFiles,
    /// (large id, offset) -> range.
    Ranges,
    /// (device, inode) -> first name.
    Links,
    /// (device, inode, directory, name): names to link once the first is sealed.
    LateLinks,
}

/// Names of the trees, in the order of [`Tree`].
pub(super) const TREE_NAMES: [&str; 8] =
    ["meta", "entries", "dirs", "open_dirs", "open_files", "ranges", "links", "late_links"];
/// Key of the header.
pub(super) const HEADER_KEY: &[u8] = b"header";

/// One tree's handle.
pub(super) type Handle = heed::Database<'static, Bytes, Bytes>;

/// An open environment.
pub(super) struct Store {
    /// LMDB's environment.
    env: Env<WithoutTls>,
    /// Handles in the order of [`Tree`].
    trees: [Handle; TREE_NAMES.len()],
    /// Read-held by every transaction, write-held to grow the map.
    pub resize: RecursiveRwLock<()>,
}

impl Store {
    /// Opens the environment in `folder`; makes the trees that are missing, if it is held for writing.
    pub fn open(folder: &Path, access: Access) -> Result<Store> {
        Store::open_sized(folder, access, &MAP_BYTES)
    }

    /// Opens it with the first of these sizes of the map that there are addresses for.
    fn open_sized(folder: &Path, access: Access, sizes: &[usize]) -> Result<Store> {
        let mut opened = Err(Error::catalog(bytes_of(folder), "no size of the map was tried"));
        for map_bytes in sizes {
            match open_env(folder, access, *map_bytes) {
                Err(heed::Error::Io(error)) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    opened = Err(Error::catalog(bytes_of(folder), "no address space for its map (ulimit -v)"));
                }
                result => {
                    opened = result.map_err(|error| trouble(folder, &error));
                    break;
                }
            }
        }
        let env = opened?;
        let trees = open_trees(&env).map_err(|error| trouble(folder, &error))?;
        Ok(Store { env, trees, resize: RecursiveRwLock::new(()) })
    }

    /// A read transaction. The caller read-holds `resize`.
    pub fn read(&self) -> heed::Result<RoTxn<'_, WithoutTls>> {
        self.env.read_txn()
    }

    /// A write transaction. The caller read-holds `resize`.
    pub fn write(&self) -> heed::Result<RwTxn<'_>> {
        self.env.write_txn()
    }

    /// One tree's handle.
    pub fn tree(&self, tree: Tree) -> Handle {
        self.trees[tree as usize]
    }

    /// Doubles the map; false if it cannot be.
    pub fn grow(&self) -> bool {
        let _alone = self.resize.write();
        let map_bytes = self.env.info().map_size.saturating_mul(2);
        map_bytes <= MAP_BYTES_MAX && resize(&self.env, map_bytes).is_ok()
    }

    /// The stored header, as of `txn`.
    pub fn header(&self, txn: &RoTxn<'_, WithoutTls>, folder: &Path) -> Result<StoredHeader> {
        let stored = self.tree(Tree::Meta).get(txn, HEADER_KEY).map_err(|error| trouble(folder, &error))?;
        let stored = stored.ok_or_else(|| damaged(folder, "its header is missing"))?;
        let decoded = bytes::unseal(HEADER_KEY, stored).and_then(header::decode_header);
        let stored = decoded.map_err(|damage| damaged(folder, damage.0))?;
        if stored.transaction != txn.id() as u64 {
            return Err(damaged(folder, "its header and its meta page are of different commits"));
        }
        Ok(stored)
    }
}

#[expect(unsafe_code, reason = "LMDB maps the data file into memory")]
fn open_env(folder: &Path, access: Access, map_bytes: usize) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_readers(super::READERS_MAX).max_dbs(TREE_NAMES.len() as u32);
    if access == Access::Read {
        // SAFETY: the folder's flock is held shared until the environment is closed, and keeps all writers out: a
        // reader needs no place in LMDB's own lock file.
        unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK) };
    }
    // SAFETY: the mapped file is changed by nobody else: its folder is 0700 and ours, and this process holds its flock
    // until the environment is closed. Its size and pages were checked before (check.rs): LMDB reads what is mapped.
    unsafe { options.open(folder) }
}

#[expect(unsafe_code, reason = "LMDB moves its map")]
fn resize(env: &Env<WithoutTls>, map_bytes: usize) -> heed::Result<()> {
    // SAFETY: every transaction read-holds `resize`, which the only caller write-holds: none is active.
    unsafe { env.resize(map_bytes) }
}

fn open_trees(env: &Env<WithoutTls>) -> heed::Result<[Handle; TREE_NAMES.len()]> {
    let txn = env.read_txn()?;
    let opened = env.open_databases_and_commit(txn, |opener, txn| {
        let mut trees = Vec::with_capacity(TREE_NAMES.len());
        for name in TREE_NAMES {
            trees.extend(opener.open_database::<Bytes, Bytes>(txn, Some(name))?);
        }
        Ok::<_, heed::Error>(match <[_; TREE_NAMES.len()]>::try_from(trees) {
            Ok(trees) => CommitOrAbort::Commit(trees),
            Err(_) => CommitOrAbort::Abort(()),
        })
    })?;
    match opened {
        CommitOrAbort::Commit(trees) => Ok(trees),
        CommitOrAbort::Abort(()) => create_trees(env),
    }
}

fn create_trees(env: &Env<WithoutTls>) -> heed::Result<[Handle; TREE_NAMES.len()]> {
    let txn = env.write_txn()?;
    let created = env.create_databases_and_commit(txn, |opener, txn| {
        let mut trees = Vec::with_capacity(TREE_NAMES.len());
        for name in TREE_NAMES {
            trees.push(opener.create_database::<Bytes, Bytes>(txn, Some(name))?);
        }
        Ok::<_, heed::Error>(match <[_; TREE_NAMES.len()]>::try_from(trees) {
            Ok(trees) => CommitOrAbort::Commit(trees),
            Err(_) => CommitOrAbort::Abort(()),
        })
    })?;
    created.commit().ok_or(heed::Error::Mdb(heed::MdbError::Problem))
}

/// A failure of LMDB, with the way out.
pub(super) fn trouble(folder: &Path, error: &heed::Error) -> Error {
    match error {
        heed::Error::Io(error) if says_full(error) || is_full(folder) => {
            Error::catalog(bytes_of(folder), format!("the file system of the state directory is full ({error})"))
        }
        heed::Error::Mdb(
            heed::MdbError::Corrupted
            | heed::MdbError::PageNotFound
            | heed::MdbError::Invalid
            | heed::MdbError::VersionMismatch
            | heed::MdbError::CursorFull
            | heed::MdbError::Incompatible,
        ) => damaged(folder, &error.to_string()),
        error => Error::catalog(bytes_of(folder), error.to_string()),
    }
}

/// Damage met while the job runs.
pub(super) fn damaged(folder: &Path, what: &str) -> Error {
    Error::catalog(bytes_of(folder), format!("damaged ({what}); {WAY_OUT}"))
}

fn says_full(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// LMDB says EIO where a write ended short; a file system without a free mebibyte explains it.
fn is_full(folder: &Path) -> bool {
    let statvfs = File::open(folder).ok().and_then(|dir| rustix::fs::fstatvfs(dir).ok());
    statvfs.is_some_and(|statvfs| statvfs.f_bavail.saturating_mul(statvfs.f_frsize) < 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_grows() {
        let folder = std::env::temp_dir().join(format!("gfast-store-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let store = Store::open_sized(&folder, Access::Write, &[1 << 17]).unwrap();
        let mut turns = 0;
        let full = loop {
            let _no_resize = store.resize.read();
            let mut txn = store.write().unwrap();
            let put = (0..100u64).try_for_each(|key| {
                store.tree(Tree::Entries).put(&mut txn, &(turns * 100 + key).to_be_bytes(), &[0; 500])
            });
            if let Err(error) = put.and_then(|()| txn.commit()) {
                break error;
            }
            turns += 1;
        };
        assert!(matches!(full, heed::Error::Mdb(heed::MdbError::MapFull)), "{full}");
        assert!(store.grow());
        let _no_resize = store.resize.read();
        let mut txn = store.write().unwrap();
        store.tree(Tree::Entries).put(&mut txn, b"more", &[0; 2000]).unwrap();
        txn.commit().unwrap();
        let txn = store.read().unwrap();
        assert_eq!(store.tree(Tree::Entries).len(&txn).unwrap(), turns * 100 + 1);
        drop(txn);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
