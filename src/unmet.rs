//! Paths of a list that no listing brought up: what became of them, told when a pass ends.
//!
//! ```text
//! nothing there                          vanished
//! below what is no directory             failed: no symlink is followed (I8)
//! there                                  an earlier run dealt with it, or it is none of the job's
//! ```
//! Each is looked for by itself, from the root or the directory of the one before: there are few, but in a resume.

use crate::catalog::{DirId, Reader, Record};
use crate::error::{Cause, Errno, Error, Result, escape, join};
use crate::job::{Job, Past};
use crate::provider::posix::Posix;
use crate::report::{Count, Counters};
use crate::ring::{Caller, Handle, Name, Side};

/// Of those that are gone, how many are named.
const NAMED_MAX: u64 = 20;

/// What there is under a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Something.
    There,
    /// Nothing.
    Nothing,
    /// A name above it is no directory.
    NoWay,
}

/// Looks for paths below a root, one after the other.
pub(crate) struct Finder<'f> {
    posix: Posix<'f>,
    root: Handle,
    /// The directory of the last path, and its handle.
    last: Option<(Vec<u8>, Handle)>,
}

impl<'f> Finder<'f> {
    /// Below the source's root.
    pub(crate) fn new(caller: &'f dyn Caller, root: Handle) -> Finder<'f> {
        Finder { posix: Posix::new(caller, Side::Source), root, last: None }
    }

    /// What there is under a path.
    pub(crate) fn find(&mut self, path: &[u8]) -> std::result::Result<Found, Errno> {
        let (above, last) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let found = self.open(above).and_then(|at| self.posix.stat(&at, &name(last)));
        match found {
            Ok(_) => Ok(Found::There),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(Found::NoWay),
            Err(errno) => Err(errno),
        }
    }

    fn open(&mut self, dir: &[u8]) -> std::result::Result<Handle, Errno> {
        if let Some((_, handle)) = self.last.as_ref().filter(|(path, _)| path == dir) {
            return Ok(handle.clone());
        }
        let mut at = self.root.clone();
        for component in dir.split(|&byte| byte == b'/').filter(|component| !component.is_empty()) {
            at = self.posix.open_dir(&at, &name(component))?;
        }
        self.last = Some((dir.to_vec(), at.clone()));
        Ok(at)
    }
}

fn name(component: &[u8]) -> Name {
    Name::new(component).expect("I8: the list was cut at its NULs")
}

/// What is wrong with a listed path; nothing if something is there.
pub(crate) fn objection(path: Vec<u8>, found: std::result::Result<Found, Errno>) -> Option<Error> {
    let cause = match found {
        Ok(Found::There) => return None,
        Ok(Found::Nothing) => Cause::Vanished,
        Ok(Found::NoWay) => {
            Cause::Protected("what it is listed below is no directory of the source; no symbolic link is followed")
        }
        Err(errno) => return Some(Error::os("stat", path, errno)),
    };
    Some(Error { verb: "copy", object: path, cause })
}

/// Counts and tells what became of listed paths that this run did not meet.
pub(crate) fn tell(job: &Job, caller: &dyn Caller, counters: &Counters) -> Result<()> {
    if job.single.is_some() || job.has_device() {
        return Ok(());
    }
    let mut finder = Finder::new(caller, job.source.handle.clone());
    let mut gone = 0;
    for path in job.choice.unmet().filter(|path| !job.choice.rules_out(path)) {
        let found = match &job.source.bucket {
            None => finder.find(path),
            Some(_) => Ok(if is_recorded(job, path)? { Found::There } else { Found::Nothing }),
        };
        let Some(error) = objection(join(&job.source.path, &name(path)), found) else { continue };
        if error.cause != Cause::Vanished {
            job.say(&error, 1);
            counters.add(Count::Failed, 1);
            continue;
        }
        gone += 1;
        counters.add(Count::Vanished, 1);
        if gone <= NAMED_MAX {
            job.console.note(&format!("gfast: listed, but not there: {}", escape(&error.object)));
        }
    }
    Ok(())
}

/// Whether a run before this one of the same pass dealt with a key. Listings of a whole pass bring up all there are.
fn is_recorded(job: &Job, path: &[u8]) -> Result<bool> {
    if job.past != Past::Interrupted {
        return Ok(false);
    }
    let reader = job.catalog.reader()?;
    let mut dir = Some(DirId::ROOT);
    let mut is_known = false;
    for component in path.split(|&byte| byte == b'/') {
        let Some(at) = dir else { return Ok(false) };
        let record = entry(&reader, at, component)?;
        is_known = record.is_some();
        dir = match record {
            Some(Record::Dir(id)) => Some(id),
            _ => None,
        };
    }
    Ok(is_known)
}

/// Between two buckets a prefix has its slash.
fn entry(reader: &Reader<'_>, dir: DirId, component: &[u8]) -> Result<Option<Record>> {
    match reader.entry(dir, &name(component))? {
        None => reader.entry(dir, &name(&[component, b"/"].concat())),
        found => Ok(found),
    }
}
