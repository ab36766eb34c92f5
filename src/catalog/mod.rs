//! The catalog: what the job knows, in LMDB, committed batch by batch.
//!
//! It owns the state directory's job folder, the format of every record and the only handle on LMDB. It does not
//! decide: the engine says what a batch holds and when it is durable (I1), the catalog makes the commit all or nothing.
//!
//! ```text
//!   STATE_DIR/job-0123456789abcdef/
//!     owner   job   lock.mdb   data.mdb
//!                              meta         header, directories to seal again, notes
//!                              entries      (directory, name)  -> record          the big one
//!                              dirs         directory          -> parent, name, state when listed
//!                              open_dirs    (state, directory)    -> [last key]   what a resume has to do
//!                              open_files   (directory, name)                     likewise
//!                              ranges       (large id, offset) -> finished range; the upload they are parts of
//!                              links        (device, inode)    -> first name
//!                              late_links   (device, inode, directory, name)
//! ```
//! - One batch is one LMDB transaction in default sync mode: it is there after a power cut, or it is not there at all.
//! - Every value carries a CRC that covers its key as well: a flipped bit is an error, never a wrong answer.
//! - The data file is looked through before it is mapped, so that a short or broken one is refused instead of killing
//!   the process by SIGBUS. Damage is never repaired by starting from zero; the message names the folder to remove.
//! - The folder is locked; a second process is refused with the first one's name.

mod bytes;
mod check;
mod commit;
mod folder;
mod header;
mod identity;
mod key;
mod note;
mod range;
mod reader;
mod record;
mod refused;
mod store;

use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

pub use bytes::{Damage, Decoded};
pub use header::{Header, JobStatus, StoredHeader, Totals, boot_id, decode_header, decode_piece, encode_header};
pub use identity::{JobIdentity, KnownBy, RootId};
pub use note::{decode_note, encode_note};
pub use range::{Range, Upload, decode_range, decode_upload, encode_range, encode_upload};
pub use reader::{LateLink, Reader};
pub use record::{
    BATCH_UNSEALED, Checksum, DirId, DirRecord, DirStamp, DirState, Failure, FileRecord, LinkFirst, Owner, Proof,
    Record, Stamp, Status, decode_dir, decode_link, decode_record, encode_dir, encode_link, encode_record,
};

pub(crate) use refused::{is_refused, refused_name, shown_name};

use crate::error::{Error, Result};
use crate::report::Note;
use crate::ring::op::Name;
use check::Fault;
use commit::Changes;
use folder::{Access, Folder, Found, bytes_of};
use store::{Store, trouble};

/// Read transactions at a time; far above the number of threads.
const READERS_MAX: u32 = 4096;

/// One change. A batch's changes take effect in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// Records a name.
    PutEntry {
        /// Its directory.
        dir: DirId,
        /// The name.
        name: Name,
        /// What is known of it.
        record: Record,
    },
    /// Forgets a name.
    DeleteEntry {
        /// Its directory.
        dir: DirId,
        /// The name.
        name: Name,
    },
    /// Records a directory.
    PutDir {
        /// Its number.
        id: DirId,
        /// What is known of it.
        record: DirRecord,
    },
    /// Forgets a directory.
    DeleteDir {
        /// Its number.
        id: DirId,
    },
    /// Puts a directory into the index of those that need work, or changes what it needs.
    OpenDir {
        /// Its number.
        id: DirId,
        /// What it needs.
        state: DirState,
    },
    /// Says how far a directory of that index is listed: all names up to this key have outcomes.
    ListFrom {
        /// Its number.
        id: DirId,
        /// The key, as its bucket knows it.
        mark: String,
    },
    /// Takes a directory out of that index.
    CloseDir {
        /// Its number.
        id: DirId,
    },
    /// Puts an entry into the index of those that need work: Pending, InProgress, Failed.
    OpenFile {
        /// Its directory.
        dir: DirId,
        /// Its name.
        name: Name,
    },
    /// Takes an entry out of that index.
    CloseFile {
        /// Its directory.
        dir: DirId,
        /// Its name.
        name: Name,
    },
    /// Records a finished range of a large file.
    PutRange {
        /// Key of the file's ranges.
        large_id: u64,
        /// The range.
        range: Range,
    },
    /// Records the upload that a large file's ranges are parts of.
    PutUpload {
        /// Key of the file's ranges.
        large_id: u64,
        /// The upload.
        upload: Upload,
    },
    /// Forgets all ranges of a large file, and its upload.
    DropRanges {
        /// Key of the file's ranges.
        large_id: u64,
    },
    /// Records the first name of a hard-linked inode.
    PutLink {
        /// Its device.
        dev: u64,
        /// Its inode number.
        ino: u64,
        /// The name.
        first: LinkFirst,
    },
    /// Records a further name, to be linked once the first is sealed.
    PutLateLink {
        /// Its device.
        dev: u64,
        /// Its inode number.
        ino: u64,
        /// The further name's directory.
        dir: DirId,
        /// The further name.
        name: Name,
    },
    /// Forgets it again.
    DropLateLink {
        /// Its device.
        dev: u64,
        /// Its inode number.
        ino: u64,
        /// The further name's directory.
        dir: DirId,
        /// The further name.
        name: Name,
    },
    /// Records what was changed while the job ran.
    PutNote {
        /// Its number.
        serial: u64,
        /// What it says.
        note: Note,
    },
}

/// What one commit records.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Changes, in their order.
    pub rows: Vec<Row>,
    /// The new header.
    pub header: Header,
    /// Directories that hold records of `header.durable_batch`: ascending, each once.
    pub reseal_dirs: Vec<DirId>,
}

/// An open catalog. Shared by all threads; one of them commits.
pub struct Catalog {
    /// Closed before the folder's lock is freed: fields are dropped in this order.
    store: Store,
    folder: Folder,
    /// As of the last commit; held while one is made.
    header: Mutex<Header>,
}

impl Catalog {
    /// Refuses what [`Catalog::open`] would refuse wherever the job's roots are: a state directory on a network or FUSE
    /// file system. Touches nothing.
    pub fn check_place(state_dir: &Path) -> Result<()> {
        folder::refuse_remote(state_dir)
    }

    /// Opens the job's catalog in `state_dir`, or makes it. An existing one is not changed; before anything is recorded
    /// in it comes [`Catalog::raise_format`].
    ///
    /// Refused (exit 2), with nothing touched: a state directory that is a symlink, not ours, writable by others, or on
    /// a network or FUSE file system (unless `force_network`); a job that another process runs; source or destination
    /// replaced or not mounted; other options; a newer format; damage.
    pub fn open(state_dir: &Path, identity: &JobIdentity, force_network: bool) -> Result<Catalog> {
        let (folder, job_id) = match Folder::find(state_dir, identity, force_network)? {
            Found::Job(folder, job_id) => (folder, job_id),
            Found::New(folder) => create(folder, identity)?,
        };
        Catalog::open_in(folder, job_id)
    }

    /// Lets the job file tell this program's format, whose records may be there from now on, and what of `identity` it
    /// did not tell before. To be called once nothing refuses the run any more, and before its first commit: a refused
    /// run may be at another server than the job's.
    pub fn raise_format(&self, identity: &JobIdentity) -> Result<()> {
        self.folder.raise_format(identity, self.header().job_id)
    }

    /// Opens the catalog of a job that ran before, known by its destination or as the only one, to read it. Makes
    /// nothing; refuses as [`Catalog::open`] does.
    pub fn open_recorded(state_dir: &Path, dest: Option<&[u8]>) -> Result<(Catalog, JobIdentity)> {
        let (folder, job_id, identity) = Folder::find_recorded(state_dir, dest)?;
        Ok((Catalog::open_in(folder, job_id)?, identity))
    }

    /// What the job between these ends was recorded as, if there is one. Locks nothing.
    pub fn recorded_between(state_dir: &Path, source: KnownBy<'_>, dest: KnownBy<'_>) -> Option<JobIdentity> {
        Folder::between(state_dir, source, dest)
    }

    /// The folder of a job that runs or ran before, known by its destination or as the only one. Locks nothing.
    pub fn recorded_folder(state_dir: &Path, dest: Option<&[u8]>) -> Result<PathBuf> {
        Folder::recorded(state_dir, dest).map(|(path, ..)| path)
    }

    /// Opens the catalog of this very job, if it ran before, to read it: refuses as [`Catalog::open`] does, and makes
    /// nothing.
    pub fn find_job(state_dir: &Path, identity: &JobIdentity) -> Result<Option<Catalog>> {
        let Some((folder, job_id)) = Folder::find_job(state_dir, identity)? else { return Ok(None) };
        Catalog::open_in(folder, job_id).map(Some)
    }

    /// Opens the catalog of the job between these paths, if there is one, to read it. Makes nothing.
    pub fn find(state_dir: &Path, source: &[u8], dest: &[u8]) -> Result<Option<Catalog>> {
        let Some((folder, job_id)) = Folder::find_existing(state_dir, source, dest)? else { return Ok(None) };
        Catalog::open_in(folder, job_id).map(Some)
    }

    fn open_in(folder: Folder, job_id: u64) -> Result<Catalog> {
        check_data(&folder)?;
        if folder.access == Access::Write {
            folder.fill_lock_file()?;
        }
        let store = Store::open(&folder.path, folder.access)?;
        let header = {
            let txn = store.read().map_err(|error| trouble(&folder.path, &error))?;
            store.header(&txn, &folder.path)?.header
        };
        if header.job_id != job_id {
            return Err(folder.damaged("its job file and its data are of different jobs"));
        }
        Ok(Catalog { store, folder, header: Mutex::new(header) })
    }

    /// The header as of the last commit.
    pub fn header(&self) -> Header {
        self.header.lock().clone()
    }

    /// Records a batch: all of it, durably, or on an error nothing.
    pub fn commit(&self, batch: &Batch) -> Result<()> {
        if let Some(objection) = commit::objection(batch) {
            return Err(Error::catalog(bytes_of(self.path()), objection));
        }
        let mut header = self.header.lock();
        self.commit_held(batch)?;
        header.clone_from(&batch.header);
        Ok(())
    }

    /// Forgets the ranges of a large file, durably and at once, whatever batch is being made: before another file is
    /// made that might be taken for the one they are of. The thread that asks may hold no [`Reader`].
    pub fn forget_ranges(&self, large_id: u64) -> Result<()> {
        let header = self.header.lock();
        let reseal_dirs = self.reader()?.reseal_dirs()?;
        self.commit_held(&Batch { rows: vec![Row::DropRanges { large_id }], header: header.clone(), reseal_dirs })
    }

    /// Commits a batch while the header is held.
    fn commit_held(&self, batch: &Batch) -> Result<()> {
        let changes = Changes::of(batch);
        // Ends: every turn doubles the map, which has a limit.
        loop {
            match changes.commit(&self.store) {
                Ok(()) => return Ok(()),
                Err(heed::Error::Mdb(heed::MdbError::MapFull)) if self.store.grow() => {}
                Err(error) => return Err(trouble(self.path(), &error)),
            }
        }
    }

    /// A snapshot to read from.
    pub fn reader(&self) -> Result<Reader<'_>> {
        Reader::new(self)
    }

    /// The device that the source's root had when the job began; nothing if the job file does not tell.
    pub fn source_dev(&self) -> Result<Option<u64>> {
        self.folder.source_dev()
    }

    /// Device and inode of the state directory, so that a walk that meets it skips it.
    pub fn state_dev_ino(&self) -> (u64, u64) {
        self.folder.state_dev_ino
    }

    /// The job's folder.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }
}

/// Refuses a data file that LMDB must not be let loose on.
fn check_data(folder: &Folder) -> Result<()> {
    check::check(&folder.data_file()?).map_err(|fault| match fault {
        Fault::Damaged(what) => folder.damaged(what),
        Fault::Unreadable(error) => {
            Error::catalog(bytes_of(&folder.path), format!("its data file cannot be read: {error}"))
        }
    })
}

/// Fills a new folder with an empty catalog and gives it the job's name.
fn create(mut folder: Folder, identity: &JobIdentity) -> Result<(Folder, u64)> {
    let job_id = random_id();
    let batch = Batch { rows: Vec::new(), header: Header::first(job_id), reseal_dirs: Vec::new() };
    folder.fill_lock_file()?;
    let store = Store::open(&folder.path, folder.access)?;
    Changes::of(&batch).commit(&store).map_err(|error| trouble(&folder.path, &error))?;
    // Closed before the rename: LMDB keeps no path of an environment that is open under another.
    drop(store);
    folder.publish(identity, job_id)?;
    Ok((folder, job_id))
}

/// A number that no other job has: the standard library seeds its hasher from the system's random source.
fn random_id() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
