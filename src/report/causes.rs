//! [`Causes`]: errors counted by what they meant and what they were, for whoever watches many jobs.
//!
//! The words are few and bounded: an errno's name, the HTTP status of a server's answer, or what gfast calls it. No
//! path, no name and no text of a server is among them (I10).

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::error::{Cause, Errno};

/// Most different errors that are counted apart (I4).
const CAUSES_MAX: usize = 64;

/// What an error meant where it was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// The same was tried once more.
    Retry,
    /// An object did not arrive.
    Object,
    /// The job ended for it.
    Fatal,
}

impl Weight {
    /// As it is told: the name of the class of the error.
    pub fn name(self) -> &'static str {
        match self {
            Weight::Retry => "retry",
            Weight::Object => "object",
            Weight::Fatal => "fatal",
        }
    }
}

/// Errors by weight and cause.
#[derive(Debug, Default)]
pub struct Causes {
    /// How many of each.
    counted: Mutex<BTreeMap<(Weight, String), u64>>,
}

impl Causes {
    /// Counts an error.
    pub fn note(&self, weight: Weight, cause: &Cause) {
        let mut counted = self.counted.lock();
        let mut key = (weight, name_of(cause));
        if counted.len() >= CAUSES_MAX && !counted.contains_key(&key) {
            key.1 = "other".to_owned();
        }
        *counted.entry(key).or_default() += 1;
    }

    /// All of them, in order.
    pub fn counted(&self) -> Vec<(Weight, String, u64)> {
        self.counted.lock().iter().map(|((weight, name), count)| (*weight, name.clone(), *count)).collect()
    }
}

/// One word for a cause.
pub fn name_of(cause: &Cause) -> String {
    let name = match cause {
        Cause::Os(errno) | Cause::Unreadable(errno, _) | Cause::BadSectors(errno, _) => return errno_name(*errno),
        Cause::Stale => return errno_name(Errno::STALE),
        Cause::Remote { status, .. } => return format!("http_{status}"),
        Cause::Usage(_) | Cause::Refused(_) => "refused",
        Cause::Protected(_) => "protected",
        Cause::Catalog(_) => "catalog",
        Cause::Unstable { .. } => "unstable",
        Cause::Vanished => "vanished",
        Cause::Loss(_) => "loss",
        Cause::Clash(_) => "clash",
        Cause::Name(_) | Cause::Key(_) => "name",
        Cause::Network(_) | Cause::Silence(_) => "network",
        Cause::Transfer(_) | Cause::Cut(_) => "transfer",
    };
    name.to_owned()
}

/// The names of those that a copy meets, and the numbers of others.
fn errno_name(errno: Errno) -> String {
    let names = [
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::IO, "EIO"),
        (Errno::NXIO, "ENXIO"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::XDEV, "EXDEV"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::NFILE, "ENFILE"),
        (Errno::MFILE, "EMFILE"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::FBIG, "EFBIG"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::ROFS, "EROFS"),
        (Errno::MLINK, "EMLINK"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::NOTEMPTY, "ENOTEMPTY"),
        (Errno::LOOP, "ELOOP"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::ILSEQ, "EILSEQ"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::HOSTDOWN, "EHOSTDOWN"),
        (Errno::STALE, "ESTALE"),
        (Errno::UCLEAN, "EUCLEAN"),
        (Errno::REMOTEIO, "EREMOTEIO"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::NODATA, "ENODATA"),
    ];
    let name = names.iter().find(|(number, _)| *number == errno).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| format!("errno_{}", errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_one_word_each_and_a_bound() {
        let causes = Causes::default();
        causes.note(Weight::Object, &Cause::Os(Errno::ACCESS));
        causes.note(Weight::Object, &Cause::Os(Errno::ACCESS));
        causes.note(Weight::Retry, &Cause::Remote { status: 503, code: "SlowDown of 10.0.0.1".to_owned() });
        let found = causes.counted();
        let expected = [(Weight::Retry, "http_503".to_owned(), 1), (Weight::Object, "EACCES".to_owned(), 2)];
        assert_eq!(found, expected);
        for status in 0..1000 {
            causes.note(Weight::Object, &Cause::Remote { status, code: String::new() });
        }
        let found = causes.counted();
        let all: u64 = found.iter().map(|(_, _, count)| count).sum();
        assert_eq!((found.len(), all), (CAUSES_MAX + 1, 1003));
        assert_eq!(errno_name(Errno::from_raw_os_error(133)), "errno_133");
    }
}
