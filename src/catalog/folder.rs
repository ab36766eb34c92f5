//! The folders on disk: the state directory, one job's folder in it, and who has it.
//!
//! ```text
//!   STATE_DIR/            0700, ours, no symlink, on a local file system
//!     job-0123456789abcdef/     named after source and destination
//!       owner             locked (flock) while a process runs the job, and says which one; or while others read it
//!       job               the identity, as text; `job.new` while it is raised to a newer format
//!       data.mdb          LMDB's data        lock.mdb    LMDB's readers
//!     new-0123456789abcdef/     a job folder being made; renamed when it is whole
//! ```
//! A job's folder appears by one rename with everything in it. So whatever is missing in one was lost, not late: it is
//! refused as damaged. What a process that died has left of a `new-` folder is made again.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::header::boot_id;
use super::identity::RootId;
use super::identity::{self, Difference, JobIdentity, KnownBy};
use crate::error::{Errno, Error, Result};
use crate::filesystem::FileSystem;

/// A job file is a few lines; nothing longer is read.
const JOB_FILE_BYTES_MAX: u64 = 1 << 20;
/// LMDB's lock file: a header and 64 bytes for each reader, rounded up.
const LOCK_FILE_BYTES: usize = (super::READERS_MAX as usize + 16) * 64;

/// A job's folder, held by this process.
#[derive(Debug)]
pub(super) struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// Device and inode of the state directory.
    pub state_dev_ino: (u64, u64),
    /// What it is held for.
    pub access: Access,
    /// The lock; freed by a crash too, when the last copy of the descriptor is closed.
    owner: File,
}

/// What a folder is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To run the job: nobody else has it.
    Write,
    /// To read it: others may read it too, and nothing in it is changed.
    Read,
}

/// What was found where the job's folder should be.
pub(super) enum Found {
    /// The job, with the id in its job file.
    Job(Folder, u64),
    /// A folder to fill: a catalog goes in, then [`Folder::publish`].
    New(Folder),
}

impl Drop for Folder {
    /// Closing alone would not do: a process that another thread is just starting holds a copy of the descriptor until
    /// its exec.
    fn drop(&mut self) {
        // If this fails the lock goes with the last copy.
        let _ = rustix::fs::flock(&self.owner, FlockOperation::Unlock);
    }
}

impl Folder {
    /// Finds the job's folder in `state_dir` and locks it, or prepares a new one.
    pub fn find(state_dir: &Path, identity: &JobIdentity, force_network: bool) -> Result<Found> {
        let state_dev_ino = check_state_dir(state_dir, force_network)?;
        let path = state_dir.join(identity.folder_name());
        match fs::symlink_metadata(&path) {
            Ok(_) => {
                let folder = Folder::lock(path, state_dev_ino, Access::Write)?;
                let job_id = folder.check_job(identity)?;
                Ok(Found::Job(folder, job_id))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let path = state_dir.join(identity.folder_name().replace("job-", "new-"));
                make_dir(&path)?;
                let folder = Folder::lock(path, state_dev_ino, Access::Write)?;
                folder.clear()?;
                Ok(Found::New(folder))
            }
            Err(error) => Err(Error::os("stat", bytes_of(&path), errno_of(&error))),
        }
    }

    /// Finds the folder of the job between these paths, if there is one, to read it. Makes nothing.
    pub fn find_existing(state_dir: &Path, source: &[u8], dest: &[u8]) -> Result<Option<(Folder, u64)>> {
        let Some(folder) = Folder::find_named(state_dir, &identity::folder_name(source, dest))? else {
            return Ok(None);
        };
        let parsed = JobIdentity::parse(&read_job_file(&folder.path)?);
        let (job_id, _) = parsed.map_err(|damage| folder.damaged(damage.0))?;
        Ok(Some((folder, job_id)))
    }

    /// Likewise of this very job; another one in its place is refused.
    pub fn find_job(state_dir: &Path, identity: &JobIdentity) -> Result<Option<(Folder, u64)>> {
        let Some(folder) = Folder::find_named(state_dir, &identity.folder_name())? else { return Ok(None) };
        let job_id = folder.check_job(identity)?;
        Ok(Some((folder, job_id)))
    }

    fn find_named(state_dir: &Path, name: &str) -> Result<Option<Folder>> {
        let path = state_dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::os("stat", bytes_of(&path), errno_of(&error))),
        }
        let metadata = check_is_ours(&open_dir(state_dir)?, state_dir)?;
        Folder::lock(path, (metadata.dev(), metadata.ino()), Access::Read).map(Some)
    }

    /// Finds the folder of a job that ran before, to read it: the one with this destination, or the only one. Makes
    /// nothing.
    pub fn find_recorded(state_dir: &Path, dest: Option<&[u8]>) -> Result<(Folder, u64, JobIdentity)> {
        let (path, identity, state_dev_ino) = Folder::recorded(state_dir, dest)?;
        let folder = Folder::lock(path, state_dev_ino, Access::Read)?;
        let job_id = folder.check_job(&identity)?;
        Ok((folder, job_id, identity))
    }

    /// Where such a job's folder is, what the job is, and the state directory's device and inode. Locks nothing. A
    /// folder that tells no job is in nobody's way who asks for another one.
    pub fn recorded(state_dir: &Path, dest: Option<&[u8]>) -> Result<(PathBuf, JobIdentity, (u64, u64))> {
        let dir = open_dir(state_dir)?;
        let metadata = check_is_ours(&dir, state_dir)?;
        let (mut jobs, mut damage) = (Vec::new(), None);
        for path in folders_in(state_dir)? {
            match job_in(&path) {
                Ok(found) => jobs.extend(found.map(|identity| (path, identity))),
                Err(error) => damage = Some(error),
            }
        }
        jobs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let known: Vec<String> = jobs.iter().map(|(_, identity)| identity.to_line()).collect();
        jobs.retain(|(_, identity)| dest.is_none_or(|dest| identity.dest == dest));
        match (jobs.len(), jobs.pop()) {
            (1, Some((path, identity))) => Ok((path, identity, (metadata.dev(), metadata.ino()))),
            (0, _) if let Some(error) = damage => Err(error),
            (0, _) if known.is_empty() => Err(Error::refused(bytes_of(state_dir), "no job is recorded there")),
            (0, _) => Err(Error::refused(
                bytes_of(state_dir),
                format!("no such job is recorded there, only {}", known.join("; ")),
            )),
            _ => Err(Error::refused(
                bytes_of(state_dir),
                format!("several jobs are recorded there: {}", known.join("; ")),
            )),
        }
    }

    /// The job between these ends, whatever the paths it was recorded with: of several the one that wrote last. Locks
    /// nothing, and refuses nothing: the one that is found is looked at when it is opened.
    pub fn between(state_dir: &Path, source: KnownBy<'_>, dest: KnownBy<'_>) -> Option<JobIdentity> {
        let is_it = |job: &JobIdentity| source.is(&job.source, &job.source_root) && dest.is(&job.dest, &job.dest_root);
        let jobs = folders_in(state_dir).ok()?.filter_map(|path| Some((job_in(&path).ok()??, path)));
        let written = |folder: &Path| fs::metadata(folder.join("data.mdb")).and_then(|data| data.modified()).ok();
        let found = jobs.filter(|(job, _)| is_it(job)).max_by_key(|(_, folder)| written(folder));
        found.map(|(job, _)| job)
    }

    fn lock(path: PathBuf, state_dev_ino: (u64, u64), access: Access) -> Result<Folder> {
        let dir = open_dir(&path)?;
        let metadata = check_is_ours(&dir, &path)?;
        let file = path.join("owner");
        let (flags, lock) = match access {
            Access::Write => (OFlags::RDWR | OFlags::CREATE, FlockOperation::NonBlockingLockExclusive),
            Access::Read => (OFlags::RDONLY, FlockOperation::NonBlockingLockShared),
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let owner = rustix::fs::openat(&dir, "owner", flags, Mode::RUSR | Mode::WUSR);
        let mut owner = owner.map(File::from).map_err(|errno| match (errno, access) {
            (Errno::NOENT, Access::Read) => Error::refused(bytes_of(&file), "is missing; a run of the job makes it"),
            _ => Error::os("open", bytes_of(&file), errno),
        })?;
        match rustix::fs::flock(&owner, lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(&path, &mut owner)),
            Err(errno) => return Err(Error::os("lock", bytes_of(&file), errno)),
        }
        // The one who had the lock may have published the folder under another name before it let go.
        if !fs::symlink_metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino())) {
            return Err(Error::refused(bytes_of(&path), SAME_MOMENT));
        }
        if access == Access::Write {
            let written = note_owner(&owner);
            written.map_err(|error| Error::os("write", bytes_of(&file), errno_of(&error)))?;
        }
        Ok(Folder { path, state_dev_ino, access, owner })
    }

    /// Compares the job file with the job that was asked for.
    fn check_job(&self, identity: &JobIdentity) -> Result<u64> {
        let text = read_job_file(&self.path)?;
        let answer = identity.compare(&text).map_err(|damage| self.damaged(damage.0))?;
        answer.map_err(|difference| {
            let servers = JobIdentity::parse(&text).ok().and_then(|(_, recorded)| identity.other_server(&recorded));
            let why = match (difference, servers) {
                (Difference::Server, Some((then, now))) => format!("this job began at {then}, not at {now}; {SERVER}"),
                (difference, _) => refusal(difference).to_owned(),
            };
            Error::refused(bytes_of(&self.path), why)
        })
    }

    /// Removes what a process that died while making this folder has left.
    fn clear(&self) -> Result<()> {
        for name in ["job", "data.mdb", "lock.mdb"] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::os("remove", bytes_of(&path), errno_of(&error)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a filled new folder the job's: writes the job file, makes everything durable, renames the folder.
    pub fn publish(&mut self, identity: &JobIdentity, job_id: u64) -> Result<()> {
        self.write_job("job", identity, job_id)?;
        sync_dir(&self.path)?;
        let path = self.path.with_file_name(identity.folder_name());
        fs::rename(&self.path, &path).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => Error::refused(bytes_of(&path), SAME_MOMENT),
            _ => Error::os("create", bytes_of(&path), errno_of(&error)),
        })?;
        self.path = path;
        self.path.parent().map_or(Ok(()), sync_dir)
    }

    /// The device of the source's root as the job was recorded; nothing if the job file does not tell.
    pub fn source_dev(&self) -> Result<Option<u64>> {
        Ok(job_in(&self.path)?.map(|job| job.source_root.dev))
    }

    /// Raises the format that the job file tells to this program's, durably and by one rename, before anything of it is
    /// recorded: so an older gfast refuses the job, and does not take what it cannot read for damage. What was not told
    /// of the job before is from now on.
    pub fn raise_format(&self, identity: &JobIdentity, job_id: u64) -> Result<()> {
        if !identity.tells_more_than(&read_job_file(&self.path)?) {
            return Ok(());
        }
        // What is recorded was recorded by the device of then.
        let source_root =
            RootId { dev: self.source_dev()?.unwrap_or(identity.source_root.dev), ..identity.source_root };
        self.write_job("job.new", &JobIdentity { source_root, ..identity.clone() }, job_id)?;
        let file = self.path.join("job");
        let renamed = fs::rename(self.path.join("job.new"), &file);
        renamed.map_err(|error| Error::os("replace", bytes_of(&file), errno_of(&error)))?;
        sync_dir(&self.path)
    }

    fn write_job(&self, name: &str, identity: &JobIdentity, job_id: u64) -> Result<()> {
        let file = self.path.join(name);
        let mut job = open_file(&file)?;
        let text = identity.to_text(job_id);
        let written = job.set_len(0).and_then(|()| job.write_all(text.as_bytes())).and_then(|()| job.sync_all());
        written.map_err(|error| Error::os("write", bytes_of(&file), errno_of(&error)))
    }

    /// Fills LMDB's lock file. LMDB extends it as a hole and maps it for writing, so that on a full file system the
    /// first reader would die of SIGBUS; with its blocks written it cannot.
    pub fn fill_lock_file(&self) -> Result<()> {
        let path = self.path.join("lock.mdb");
        let written = open_file(&path)?.write_all(&[0; LOCK_FILE_BYTES]);
        written.map_err(|error| Error::os("write", bytes_of(&path), errno_of(&error)))
    }

    /// LMDB's data file, for looking at it before it is mapped.
    pub fn data_file(&self) -> Result<File> {
        let path = self.path.join("data.mdb");
        open_existing(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.damaged("its data file is missing"),
            _ => Error::os("open", bytes_of(&path), errno_of(&error)),
        })
    }

    /// The refusal of a damaged catalog, with the way out.
    pub fn damaged(&self, what: &str) -> Error {
        damaged(&self.path, what)
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::refused(bytes_of(path), format!("the catalog is damaged ({what}); {WAY_OUT}"))
}

/// The folders of a state directory's jobs.
fn folders_in(state_dir: &Path) -> Result<impl Iterator<Item = PathBuf>> {
    let listed = fs::read_dir(state_dir).map_err(|error| Error::os("list", bytes_of(state_dir), errno_of(&error)))?;
    let paths = listed.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"job-"))))
}

/// The job of a folder. One that is damaged is the business of who names it.
fn job_in(folder: &Path) -> Result<Option<JobIdentity>> {
    Ok(JobIdentity::parse(&read_job_file(folder)?).ok().map(|(_, identity)| identity))
}

/// The text of a job file.
fn read_job_file(folder: &Path) -> Result<Vec<u8>> {
    let path = folder.join("job");
    let mut text = Vec::new();
    let read = match open_existing(&path) {
        Ok(file) => file.take(JOB_FILE_BYTES_MAX).read_to_end(&mut text),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(damaged(folder, "its job file is missing")),
        Err(error) => Err(error),
    };
    read.map_err(|error| Error::os("read", bytes_of(&path), errno_of(&error)))?;
    Ok(text)
}

const SAME_MOMENT: &str = "another process began this job at the same moment; run it again";

/// What to do about a bucket of another server.
const SERVER: &str = "name that server, or use another --state-dir: then what is there already is looked for, and \
                      what is not is copied";

/// What to do about a damaged catalog.
pub(super) const WAY_OUT: &str = "remove this folder to start over: the next run compares with the destination and \
                                  adopts files of the same size and time";

fn refusal(difference: Difference) -> &'static str {
    match difference {
        Difference::NewerFormat => "the catalog was written by a newer gfast; use that one, or another --state-dir",
        Difference::Paths => "this folder belongs to a job with another source or destination; use another --state-dir",
        Difference::Server => SERVER,
        Difference::SourceRoot => "the source is not the one this job began with: it was replaced, or is not mounted",
        Difference::DestRoot => {
            "the destination is not the one this job began with: it was replaced, or is not mounted"
        }
        Difference::Options => "this job began with other options; repeat those, or use another --state-dir",
    }
}

/// Refuses a state directory on a network or FUSE file system, there already or to be made. Touches nothing.
pub(super) fn refuse_remote(state_dir: &Path) -> Result<()> {
    let whole = std::path::absolute(state_dir).map_err(|error| unusable(state_dir, &error))?;
    for place in whole.ancestors() {
        match File::options().read(true).custom_flags(libc::O_PATH).open(place) {
            Ok(there) if FileSystem::of(&there)?.is_remote() => {
                let why = "the state directory is on a network or FUSE file system, where LMDB loses data; \
                           use a local --state-dir";
                return Err(Error::refused(bytes_of(state_dir), why));
            }
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(state_dir, &error)),
        }
    }
    Ok(())
}

fn unusable(state_dir: &Path, error: &std::io::Error) -> Error {
    Error::refused(bytes_of(state_dir), format!("the state directory cannot be used: {error}"))
}

/// Creates the state directory where it is missing and refuses one that others could tamper with.
fn check_state_dir(state_dir: &Path, force_network: bool) -> Result<(u64, u64)> {
    if !force_network {
        refuse_remote(state_dir)?;
    }
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Error::refused(bytes_of(state_dir), format!("the state directory cannot be created: {error}")));
        }
        _ => {}
    }
    let dir = open_dir(state_dir)?;
    let metadata = check_is_ours(&dir, state_dir)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn check_is_ours(dir: &File, path: &Path) -> Result<fs::Metadata> {
    let metadata = dir.metadata().map_err(|error| Error::os("stat", bytes_of(path), errno_of(&error)))?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::refused(bytes_of(path), "it belongs to another user; use another --state-dir"));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(Error::refused(
            bytes_of(path),
            "others may write to it; chmod it to 0700 or use another --state-dir",
        ));
    }
    Ok(metadata)
}

/// Says in the lock's file who has it.
fn note_owner(owner: &File) -> std::io::Result<()> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = u128::from_be_bytes(boot_id());
    let record = format!("pid={}\nhost={host}\nboot={boot:032x}\n", std::process::id());
    owner.set_len(0)?;
    owner.write_all_at(record.as_bytes(), 0)
}

fn in_use(path: &Path, owner: &mut File) -> Error {
    // Only who reads lets others read; it leaves no name.
    if rustix::fs::flock(&*owner, FlockOperation::NonBlockingLockShared).is_ok() {
        return Error::refused(bytes_of(path), "in use: a report, a comparison or a dry run reads it");
    }
    let mut record = String::new();
    // A record that cannot be read leaves the message without names; the refusal stands.
    let _ = owner.take(4096).read_to_string(&mut record);
    let value = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").to_owned();
    let (pid, host, boot) = (value("pid="), value("host="), value("boot="));
    Error::refused(bytes_of(path), format!("in use by process {pid} on {host} (boot {boot})"))
}

fn make_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Error::os("create", bytes_of(path), errno_of(&error)))
        }
        _ => Ok(()),
    }
}

fn open_dir(path: &Path) -> Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => Ok(File::from(dir)),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(Error::refused(bytes_of(path), "it is a symbolic link or not a directory; use another --state-dir"))
        }
        Err(errno) => Err(Error::refused(bytes_of(path), format!("it cannot be opened: {errno}"))),
    }
}

/// Opens a file of ours, made if it is missing.
fn open_file(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(path).map_err(|error| Error::os("open", bytes_of(path), errno_of(&error)))
}

fn open_existing(path: &Path) -> std::io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn sync_dir(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Error::os("sync", bytes_of(path), errno_of(&error)))
}

/// A path's bytes, for an error.
pub(super) fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
