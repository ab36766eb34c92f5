//! The process that removes what a measurement has made, however the measurement ends.
//!
//! ```text
//! gfast tune  --{"make":..} {"clear":..}-->  sweeper: makes scratch folders, holds them, empties them
//!             <------------ answers -------
//!     X  (done, signal, SIGKILL)  --end of file-->  sweeper: removes them all, exits
//! ```
//! It is gfast itself, started with one word. It is in a session of its own, so what the terminal sends does not reach
//! it, and it makes the folders itself, so there is no moment in which one is there that it does not know.

use std::ffi::CString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::bucket::Prefix;
use super::removal::Folder;
use crate::config::S3Options;
use crate::error::{Cause, Errno, Error, Result, escape, unescape};

/// The word that makes a gfast a sweeper. Nobody types it: it listens to a measurement on its stdin.
pub const SWEEPER: &str = "tune-sweeper";

/// What the sweeper is told, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    /// Makes a scratch folder.
    Make {
        /// Path of the directory it is made in, escaped.
        parent: String,
        /// Its name.
        name: String,
    },
    /// Keeps a prefix of a bucket for scratch objects.
    Keep {
        /// The bucket.
        bucket: String,
        /// The prefix, with its slash.
        prefix: String,
        /// Where it is; holds no secret.
        server: Server,
    },
    /// Removes one folder in a scratch folder, or all below one name of a prefix.
    Clear {
        /// Which of them, by the order they were made in.
        index: usize,
        /// The name.
        name: String,
    },
}

/// How a bucket is reached: what the command line said; the rest is in the environment, which is inherited.
#[derive(Debug, Serialize, Deserialize)]
struct Server {
    /// `--endpoint-url`.
    endpoint_url: Option<String>,
    /// `--region`.
    region: Option<String>,
    /// `--profile`.
    profile: Option<String>,
}

/// What it answers: device and inode of a folder made, zeroes for all else that went well; or what was refused, and
/// why.
type Answer = std::result::Result<(u64, u64), (String, String)>;

/// The sweeper, as the measurement sees it. Dropping it is as good as being killed: it sweeps.
pub(super) struct Sweeper {
    /// Its process.
    child: Child,
    /// Its stdin; closed, it sweeps.
    tell: Option<ChildStdin>,
    /// Its stdout.
    hear: BufReader<ChildStdout>,
    /// Scratch folders and prefixes made.
    count: usize,
}

/// A scratch folder or prefix, by the order it was made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Sweeper {
    /// Starts one.
    pub fn start() -> Result<Sweeper> {
        let failed = |error: std::io::Error| Error::refused("the process that cleans up", error.to_string());
        let mut command = Command::new("/proc/self/exe");
        // Its environment is the measurement's: credentials come from there.
        command.arg(SWEEPER).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(tell), Some(hear)) => Ok(Sweeper { child, tell: Some(tell), hear: BufReader::new(hear), count: 0 }),
            _ => Err(Error::refused("the process that cleans up", "it has no pipes")),
        }
    }

    /// Makes a folder of this name in a directory, and opens it.
    pub fn make(&mut self, parent: &OwnedFd, name: &str) -> Result<(Place, OwnedFd)> {
        let failed = |errno| Error::os("open", name, errno);
        let path = rustix::fs::readlink(format!("/proc/self/fd/{}", parent.as_raw_fd()), Vec::new()).map_err(failed)?;
        let identity = self.ask(&Task::Make { parent: escape(path.as_bytes()), name: name.to_owned() })?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&dir).map_err(failed)?;
        match (stat.st_dev, stat.st_ino) == identity {
            true => Ok((self.next(), dir)),
            false => Err(Error::refused(name, "it is not the folder that was made")),
        }
    }

    /// Keeps a prefix of a bucket, which nothing may begin with yet.
    pub fn keep(&mut self, bucket: &str, prefix: &str, options: &S3Options) -> Result<Place> {
        let S3Options { endpoint_url, region, profile, .. } = options.clone();
        let server = Server { endpoint_url, region, profile };
        self.ask(&Task::Keep { bucket: bucket.to_owned(), prefix: prefix.to_owned(), server })?;
        Ok(self.next())
    }

    /// Removes what one experiment has made.
    pub fn clear(&mut self, place: Place, name: &str) -> Result<()> {
        self.ask(&Task::Clear { index: place.0, name: name.to_owned() }).map(drop)
    }

    /// Lets it sweep, and waits until all is gone.
    pub fn sweep(mut self) -> Result<()> {
        drop(self.tell.take());
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            // It has said what it could not remove.
            _ => Err(Error::os("remove all of", "the scratch folders", Errno::NOTEMPTY)),
        }
    }

    fn next(&mut self) -> Place {
        self.count += 1;
        Place(self.count - 1)
    }

    fn ask(&mut self, task: &Task) -> Result<(u64, u64)> {
        let gone = || Error::refused("the process that cleans up", "it is gone");
        let mut line = serde_json::to_string(task).map_err(|_| gone())?;
        line.push('\n');
        let tell = self.tell.as_mut().ok_or_else(gone)?;
        tell.write_all(line.as_bytes()).map_err(|_| gone())?;
        line.clear();
        self.hear.read_line(&mut line).map_err(|_| gone())?;
        let answer: Answer = serde_json::from_str(&line).map_err(|_| gone())?;
        answer.map_err(|(object, why)| Error::refused(unescape(&object).unwrap_or_default(), why))
    }
}

/// What a scratch is, for its sweeper.
enum Held {
    /// A folder.
    Folder(Folder),
    /// A prefix of a bucket.
    Prefix(Prefix),
}

/// Serves the measurement on stdin until it ends, then removes all that was made. True if all is gone.
pub fn serve() -> bool {
    // Refused for the leader of a process group only, which this is not.
    let _ = rustix::process::setsid();
    // No file system is to be kept busy.
    let _ = rustix::process::chdir("/");
    let mut held = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let answer: Answer = match serde_json::from_str(&line) {
            Ok(task) => perform(task, &mut held).map_err(told),
            Err(_) => Err(("the process that cleans up".to_owned(), "it was not understood".to_owned())),
        };
        let text = serde_json::to_string(&answer).unwrap_or_default() + "\n";
        // Whoever does not listen any more has ended: the next line is the end of file.
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
    let swept: Vec<Result<()>> = held.into_iter().rev().map(remove).collect();
    for error in swept.iter().filter_map(|swept| swept.as_ref().err()) {
        let _ = writeln!(std::io::stderr(), "gfast: {error}");
    }
    swept.iter().all(Result::is_ok)
}

/// An error, for the measurement to tell.
fn told(error: Error) -> (String, String) {
    let why = match error.cause {
        Cause::Refused(why) => why,
        cause => format!("cannot {} it: {cause}", error.verb),
    };
    (escape(&error.object), why)
}

fn perform(task: Task, held: &mut Vec<Held>) -> Result<(u64, u64)> {
    match task {
        Task::Make { parent, name } => {
            let path = unescape(&parent).ok_or_else(|| Error::refused(&parent, "no path"))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = rustix::fs::open(path.as_slice(), flags, Mode::empty());
            let dir = dir.map_err(|errno| Error::os("open", &path, errno))?;
            let folder = Folder::make(dir, &path, c_name(&name)?)?;
            let identity = folder.identity();
            held.push(Held::Folder(folder));
            Ok(identity)
        }
        Task::Keep { bucket, prefix, server: Server { endpoint_url, region, profile } } => {
            let options = S3Options { endpoint_url, region, profile, storage_class: None };
            held.push(Held::Prefix(Prefix::keep(&bucket, &prefix, &options)?));
            Ok((0, 0))
        }
        Task::Clear { index, name } => {
            match held.get(index) {
                Some(Held::Folder(folder)) => folder.clear(&c_name(&name)?)?,
                Some(Held::Prefix(prefix)) => prefix.clear(&name)?,
                None => return Err(Error::refused(name, "no such scratch")),
            }
            Ok((0, 0))
        }
    }
}

fn remove(held: Held) -> Result<()> {
    match held {
        Held::Folder(folder) => folder.remove(),
        Held::Prefix(prefix) => prefix.sweep(),
    }
}

/// One name, not a path: nothing but what is in the scratch folder can be named.
fn c_name(name: &str) -> Result<CString> {
    let is_name = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    let name = is_name.then(|| CString::new(name).ok()).flatten();
    name.ok_or_else(|| Error::refused("scratch", "not a name"))
}
