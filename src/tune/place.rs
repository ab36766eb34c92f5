//! What tells one storage from another, so that what was measured between two of them is found again.
//!
//! ```text
//! local file system    its type and its own id (statfs: of its UUID or device)      ext4:8f3a21c05d17e642
//! network, FUSE        its type and what is mounted, since its id changes           nfs4:nas:/export
//! bucket               server and bucket                                            s3:https://host:9000/bucket
//! ```

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::config::S3Options;
use crate::error::{Cause, Errno, Error, Result, escape, unescape};
use crate::filesystem::FileSystem;
use crate::location::Location;
use crate::provider::s3;

/// One storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What tells it from others.
    pub key: String,
    /// Its kind, for people: `xfs`, `s3`.
    pub name: String,
}

impl Place {
    /// Where a location is, or would be if it were made.
    pub fn of(location: &Location, options: &S3Options) -> Result<Place> {
        match location {
            Location::S3 { bucket, .. } => {
                let server = s3::server_of(options, &s3::process_variables());
                Ok(Place { key: format!("s3:{server}/{bucket}"), name: "s3".to_owned() })
            }
            Location::Posix(path) => Place::of_dir(&nearest_dir(path)?),
        }
    }

    /// The file system a directory is on.
    pub fn of_dir(dir: &OwnedFd) -> Result<Place> {
        let (name, device) = mounted(dir).unwrap_or_else(|| ("unknown".to_owned(), String::new()));
        let id = rustix::fs::fstatvfs(dir).map_err(|errno| Error::os("statfs", "file system", errno))?.f_fsid;
        let is_lasting = id != 0 && !FileSystem::of(dir)?.is_remote();
        let which = if is_lasting { format!("{id:016x}") } else { escape(device.as_bytes()) };
        Ok(Place { key: format!("{name}:{which}"), name })
    }
}

/// The directory itself, or the nearest one above it that is there: where a scratch folder can be made.
pub(super) fn nearest_dir(path: &Path) -> Result<OwnedFd> {
    let bytes = path.as_os_str().as_bytes();
    let whole = std::path::absolute(path).map_err(|error| Error::refused(bytes, error.to_string()))?;
    for place in whole.ancestors() {
        match rustix::fs::open(place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => return Ok(dir),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(Error::refused(bytes, format!("cannot be opened: {}", Cause::Os(errno)))),
        }
    }
    Err(Error::refused(bytes, "has no directory to start from"))
}

/// Type and device of the mount that an open directory was reached through, from the mount table.
fn mounted(dir: &OwnedFd) -> Option<(String, String)> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", dir.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    // A mount point may be any bytes.
    let table = String::from_utf8_lossy(&std::fs::read("/proc/self/mountinfo").ok()?).into_owned();
    table.lines().find_map(|line| type_and_device(line, id))
}

/// The end of one line of /proc/self/mountinfo, if it is the mount `id`'s: `36 35 ... - ext4 /dev/root rw`.
fn type_and_device(line: &str, id: &str) -> Option<(String, String)> {
    let (front, back) = line.split_once(" - ")?;
    let mut fields = back.split(' ');
    let (name, device) = (fields.next()?, fields.next()?);
    // Blanks are written as \040: \x20 is what unescape knows.
    let device = unescape(&device.replace("\\040", "\\x20")).unwrap_or_else(|| device.as_bytes().to_vec());
    (front.split(' ').next() == Some(id)).then(|| (name.to_owned(), String::from_utf8_lossy(&device).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_mount_tells_type_and_device() {
        let line = "36 35 0:53 / /mnt/b rw,noatime shared:1 - nfs4 nas:/a\\040b rw,vers=4.2";
        assert_eq!(type_and_device(line, "36"), Some(("nfs4".to_owned(), "nas:/a b".to_owned())));
        assert_eq!(type_and_device(line, "35"), None);
        assert_eq!(type_and_device("36 35 0:53 /", "36"), None);
    }

    #[test]
    fn a_place_that_is_not_there_yet_is_where_it_would_be() {
        let dir = std::env::temp_dir();
        let options = S3Options::default();
        let there = Place::of(&Location::Posix(dir.clone()), &options).unwrap();
        let below = Place::of(&Location::Posix(dir.join("no/such/dir")), &options).unwrap();
        assert_eq!(there, below);
        assert!(there.key.starts_with(&format!("{}:", there.name)), "{there:?}");
        let bucket = Location::S3 { bucket: "b".to_owned(), prefix: b"p".to_vec() };
        let options = S3Options { endpoint_url: Some("http://user:secret@host:9000/x".to_owned()), ..options };
        assert_eq!(Place::of(&bucket, &options).unwrap().key, "s3:http://host:9000/b");
    }
}
