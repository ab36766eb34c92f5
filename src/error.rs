//! The one error of the crate: what was being done, to what, why it failed, and what that means for the job.
//!
//! An errno is kept as it came from the kernel and given its meaning in one place, [`Cause::class`]. No caller
//! ever looks at a message. The text of an error is written for the administrator who reads it: verb, path
//! (bytes escaped), cause, and where there is one, the remedy.

use std::ffi::CStr;
use std::fmt;

use crate::extents::Extents;
pub use rustix::io::Errno;

/// What a failure means for the work that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The same operation may succeed if it is tried again, on the same object.
    Retry,
    /// This object cannot be copied; the job goes on (I5).
    Object,
    /// The job cannot go on: drain, checkpoint, stop resumable (I5).
    Fatal,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel refused, with this errno.
    Os(Errno),
    /// The command line cannot be understood (exit 1).
    Usage(String),
    /// The job is refused before anything is touched (exit 2).
    Refused(String),
    /// This object is not to be touched; the job goes on.
    Protected(&'static str),
    /// The catalog is damaged or cannot be written (exit 11).
    Catalog(String),
    /// A device cannot be read there: what the kernel said, and where.
    Unreadable(Errno, Extents),
    /// The same, where nobody has said that such places are to be skipped: the job can go on only once somebody does.
    BadSectors(Errno, Extents),
    /// The source changed while it was read, `attempts` times in a row.
    Unstable {
        /// How often the object was read.
        attempts: u32,
    },
    /// The source object is no longer there.
    Vanished,
    /// What the source was reached by leads nowhere any more (ESTALE); by its path it may still be there.
    Stale,
    /// What the object is cannot be kept at the destination and `--strict` asked for it.
    Loss(&'static str),
    /// The destination takes its name for that of this other object, by a path there.
    Clash(Vec<u8>),
    /// The destination holds no such name: so the kernel refused it.
    Name(Errno),
    /// A bucket holds no such key, for this reason.
    Key(&'static str),
    /// An S3 server answered with an error.
    Remote {
        /// The HTTP status.
        status: u16,
        /// S3's name for the error: "AccessDenied"; the status's own where the answer holds none. Never more than
        /// the name: a server's text may quote the request (I10).
        code: String,
    },
    /// No answer came from the network for as long as it was tried: what was seen last.
    Network(String),
    /// The server answers, but never about this object: what was seen last.
    Silence(String),
    /// Data was damaged on its way: the same bytes may be asked for or sent again.
    Transfer(String),
    /// Data broke off on its way: the same bytes may be asked for again, after a while.
    Cut(String),
}

/// One failure: `verb` names the operation, `object` is the path or thing it was applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The operation, as a verb that reads well before the path: "open", "set owner of".
    pub verb: &'static str,
    /// The path or thing, as raw bytes; escaped when shown.
    pub object: Vec<u8>,
    /// Why.
    pub cause: Cause,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An operation on `object` that the kernel refused with `errno`.
    pub fn os(verb: &'static str, object: impl AsRef<[u8]>, errno: Errno) -> Error {
        Error { verb, object: object.as_ref().to_vec(), cause: Cause::Os(errno) }
    }

    /// A command line that cannot be understood.
    pub fn usage(why: impl Into<String>) -> Error {
        Error { verb: "", object: Vec::new(), cause: Cause::Usage(why.into()) }
    }

    /// A job that is refused before anything is touched.
    pub fn refused(object: impl AsRef<[u8]>, why: impl Into<String>) -> Error {
        Error { verb: "refused", object: object.as_ref().to_vec(), cause: Cause::Refused(why.into()) }
    }

    /// An object that gfast will not touch, while the job goes on.
    pub fn refused_object(object: impl AsRef<[u8]>, why: &'static str) -> Error {
        Error { verb: "copy", object: object.as_ref().to_vec(), cause: Cause::Protected(why) }
    }

    /// An object whose key a bucket cannot hold.
    pub fn refused_key(object: impl AsRef<[u8]>, why: &'static str) -> Error {
        Error { verb: "copy", object: object.as_ref().to_vec(), cause: Cause::Key(why) }
    }

    /// A catalog that is damaged or cannot be written.
    pub fn catalog(object: impl AsRef<[u8]>, why: impl Into<String>) -> Error {
        Error { verb: "catalog", object: object.as_ref().to_vec(), cause: Cause::Catalog(why.into()) }
    }

    /// What this failure means for the work that met it.
    pub fn class(&self) -> Class {
        self.cause.class()
    }

    /// Whether it is the object's name that the destination cannot hold.
    pub fn is_of_name(&self) -> bool {
        matches!(self.cause, Cause::Name(_) | Cause::Key(_) | Cause::Clash(_))
    }

    /// Whether the object may be found again by its path, on whichever side it is.
    pub fn is_stale(&self) -> bool {
        matches!(self.cause, Cause::Stale | Cause::Os(Errno::STALE))
    }
}

impl Cause {
    /// The meaning of each cause, decided here and nowhere else.
    pub fn class(&self) -> Class {
        match self {
            Cause::Os(errno) => class_of(*errno),
            Cause::Usage(_) | Cause::Refused(_) | Cause::Catalog(_) | Cause::BadSectors(..) => Class::Fatal,
            Cause::Unstable { .. } | Cause::Vanished | Cause::Loss(_) | Cause::Protected(_) => Class::Object,
            Cause::Stale | Cause::Unreadable(..) => Class::Object,
            Cause::Name(_) | Cause::Key(_) | Cause::Clash(_) => Class::Object,
            Cause::Remote { code, .. } => class_of_code(code),
            // The whole budget of retries met no server: no other object will fare better now.
            Cause::Network(_) => Class::Fatal,
            Cause::Silence(_) => Class::Object,
            // Whoever asks again counts the attempts.
            Cause::Transfer(_) | Cause::Cut(_) => Class::Retry,
        }
    }
}

/// What an error of S3 means once the client has given up on the request. That one object may not be read says nothing
/// about the next; that a key is unknown or the bucket is gone does. A server's trouble (5xx) with one object stays
/// that object's: each was tried for minutes, and the job goes on.
fn class_of_code(code: &str) -> Class {
    match code {
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => {
            Class::Fatal
        }
        "NoSuchBucket" | "RequestTimeTooSkewed" | "AccountProblem" => Class::Fatal,
        // The destination is full, in the words of radosgw, MinIO and HTTP.
        "QuotaExceeded" | "InsufficientCapacity" | "XMinioStorageFull" | "InsufficientStorage" => Class::Fatal,
        _ => Class::Object,
    }
}

/// ENOSPC and EDQUOT end the job because every further file would meet them too; EROFS, and the process's own limits,
/// likewise.
fn class_of(errno: Errno) -> Class {
    match errno {
        Errno::INTR | Errno::AGAIN => Class::Retry,
        Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::MFILE | Errno::NFILE | Errno::NOMEM => Class::Fatal,
        _ => Class::Object,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Usage(why) => write!(f, "{why}"),
            Cause::Refused(why) | Cause::Catalog(why) => write!(f, "{} {}: {why}", self.verb, escape(&self.object)),
            cause => write!(f, "cannot {} {}: {cause}", self.verb, escape(&self.object)),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Os(errno) => write!(f, "{}", describe(*errno)),
            Cause::Usage(why) | Cause::Refused(why) | Cause::Catalog(why) => f.write_str(why),
            Cause::Unstable { attempts } => write!(f, "it kept changing while it was read ({attempts} attempts)"),
            Cause::Unreadable(errno, extents) => {
                write!(f, "{} in {} bytes: {extents}", describe(*errno), extents.bytes())
            }
            Cause::BadSectors(errno, extents) => {
                write!(f, "{} at {extents}; --skip-bad-sectors goes on behind it", describe(*errno))
            }
            Cause::Vanished => f.write_str("it vanished while the job ran"),
            Cause::Stale => f.write_str(&describe(Errno::STALE)),
            Cause::Protected(why) | Cause::Key(why) => f.write_str(why),
            Cause::Name(errno) => write!(f, "the destination cannot hold such a name ({})", describe(*errno)),
            Cause::Loss(what) => write!(f, "the destination cannot keep its {what} (--strict)"),
            Cause::Clash(other) => {
                write!(f, "the destination takes its name for that of {}, which is another file", escape(other))
            }
            Cause::Remote { status, code } => write!(f, "the server answered {code} (HTTP {status})"),
            Cause::Network(what) => write!(f, "no answer from the server: {what}"),
            Cause::Silence(what) => write!(f, "the server answers, but not about this: {what}"),
            Cause::Transfer(what) | Cause::Cut(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// The system's text for an errno, without Rust's "(os error N)".
fn describe(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    match text.rfind(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// A path as one line of printable text: bytes that are not printable UTF-8, and the backslash, as `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => {
                    let mut utf8 = [0; 4];
                    c.encode_utf8(&mut utf8).bytes().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| text.push_str(&format!("\\x{b:02x}")));
    }
    text
}

/// The bytes that [`escape`] made `text` of; `None` if it did not.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        match (first, behind) {
            (b'\\', [b'\\', behind @ ..]) => {
                bytes.push(b'\\');
                rest = behind;
            }
            (b'\\', [b'x', high, low, behind @ ..]) => {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = behind;
            }
            (b'\\', _) => return None,
            (byte, _) => bytes.push(*byte),
        }
    }
    Some(bytes)
}

/// A directory's path with a name below it, both as bytes.
pub fn join(dir: &[u8], name: &CStr) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.count_bytes());
    path.extend_from_slice(dir);
    if !dir.is_empty() && !dir.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_verb_path_and_cause() {
        let error = Error::os("open", b"/a/\xff\n\\", Errno::ACCESS);
        assert_eq!(error.to_string(), "cannot open /a/\\xff\\x0a\\\\: Permission denied");
    }

    #[test]
    fn a_full_destination_is_fatal_and_a_bad_sector_is_not() {
        assert_eq!(Error::os("write", "x", Errno::NOSPC).class(), Class::Fatal);
        assert_eq!(Error::os("read", "x", Errno::IO).class(), Class::Object);
        assert_eq!(Error::os("read", "x", Errno::INTR).class(), Class::Retry);
    }
}
