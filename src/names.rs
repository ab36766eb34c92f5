//! Names that a destination takes for one another: file systems that fold case or normalise Unicode.
//!
//! What is found under a name there may be another object. It is looked at when a name answers (EEXIST, or a file that
//! might be adopted), never for a new name; where all names are told apart, once a directory:
//!
//! ```text
//! "Foo" answers; does "fOO", too, with the same inode?   no: this directory folds nothing
//!    |- yes: is "Foo" itself in the listing?             yes: it is what it is taken for
//!    '- no: the listing has "foo"                        the source has it, too: "Foo" fails, never two files in one
//!                                                        it has not: what "Foo" was called before, and is renamed
//! ```

use std::collections::HashSet;

use crate::error::{Cause, Errno, Error, Result, join};
use crate::job::{Job, Seen, fnv1a, temp_name};
use crate::provider::posix::Posix;
use crate::ring::{Caller, Handle, Kind, Name, Side, Stat};
use crate::walk::{DirNode, DirPair, Folding};

/// Bytes of one getdents buffer.
const BUFFER_BYTES: usize = 64 << 10;
/// Offset of the name in a `linux_dirent64`.
const NAME_AT: usize = 19;
/// Names of one directory that are kept, so that not every name of it needs a listing (I4).
const SEEN_MAX: usize = 65_536;

/// A name in a directory, on both sides.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// The directory.
    pub dir: &'a DirNode,
    /// Its handles.
    pub open: &'a DirPair,
    /// The name in the source.
    pub name: &'a Name,
    /// The name at the destination.
    pub dest_name: &'a Name,
}

/// What a listing says of a name that answers.
enum Listed {
    /// It is there itself.
    Itself,
    /// The object is called otherwise.
    Otherwise(Name),
    /// Nothing like it is there any more.
    Gone,
}

/// Makes sure that what the destination has under a name is an object of this very name. It is an error if it is
/// another object of the source.
pub(crate) fn own(job: &Job, caller: &dyn Caller, claim: Claim<'_>) -> Result<()> {
    let failed = |errno| Error::os("look up", path(job, &claim), errno);
    if !may_fold(job, caller, &claim).map_err(failed)? {
        return Ok(());
    }
    match look(job, caller, &claim).map_err(failed)? {
        Listed::Itself | Listed::Gone => Ok(()),
        Listed::Otherwise(other) if is_of_source(job, caller, &claim, &other)? => {
            let other = join(&job.path(Side::Dest, claim.dir), &other);
            Err(Error { verb: "copy", object: path(job, &claim), cause: Cause::Clash(other) })
        }
        Listed::Otherwise(other) => {
            // By way of a third name: to the kernel a file's names that fold to one are one, and nothing is to be done.
            let (dest, at) = (Posix::new(caller, Side::Dest), &claim.open.dest);
            let between = temp_name(job.job_id, claim.dest_name);
            *job.seen.lock() = Seen::default();
            let renamed = dest.rename(at, &other, &between).and_then(|()| dest.rename(at, &between, claim.dest_name));
            renamed.map_err(|errno| Error::os("rename to", path(job, &claim), errno))
        }
    }
}

/// Whether a directory folds case, by a name that is known to be in it. Where inode numbers are made up for each name
/// that is looked up, one that answers in the other case might be a file of its own: then the listing says so.
pub(crate) fn folds(
    job: &Job,
    caller: &dyn Caller,
    dir: &DirNode,
    at: &Handle,
    known: &Name,
) -> std::result::Result<bool, Errno> {
    let dest = Posix::new(caller, Side::Dest);
    match (dir.folding(), other_case(known)) {
        (Folding::None, _) | (Folding::Unknown, None) => return Ok(false),
        (Folding::Case, _) => return Ok(true),
        (Folding::Unknown, Some(other)) => match dest.stat(at, &other) {
            Ok(other) => {
                let there = dest.stat(at, known)?;
                let is_one = (there.dev, there.ino) == (other.dev, other.ino) || !job.dest.inodes.is_lasting();
                dir.set_folding(if is_one { Folding::Case } else { Folding::None });
            }
            Err(Errno::NOENT) => dir.set_folding(Folding::None),
            Err(errno) => return Err(errno),
        },
    }
    Ok(dir.folding() == Folding::Case)
}

/// Whether the name that answers may be another one. What keeps case apart keeps all apart on a local file system; a
/// server, or a file system of Windows, may still normalise Unicode or drop a dot.
fn may_fold(job: &Job, caller: &dyn Caller, claim: &Claim<'_>) -> std::result::Result<bool, Errno> {
    if folds(job, caller, claim.dir, &claim.open.dest, claim.dest_name)? {
        return Ok(true);
    }
    let bytes = claim.dest_name.to_bytes();
    let is_plain = bytes.is_ascii() && !bytes.contains(&b'~') && !bytes.ends_with(b".") && !bytes.ends_with(b" ");
    let is_local = job.dest_file_system.trusts_syncfs();
    Ok(!is_plain && (!is_local || claim.dir.folding() == Folding::Unknown))
}

/// The name with all its ASCII letters in the other case; `None` without any.
fn other_case(name: &Name) -> Option<Name> {
    let flip =
        |byte: &u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    let flipped: Vec<u8> = name.to_bytes().iter().map(flip).collect();
    Name::new(flipped).ok().filter(|flipped| flipped != name)
}

/// Looks for a name that answers in the listing.
fn look(job: &Job, caller: &dyn Caller, claim: &Claim<'_>) -> std::result::Result<Listed, Errno> {
    let dest = Posix::new(caller, Side::Dest);
    let mut seen = job.seen.lock();
    if seen.dir == Some(claim.dir.id) && seen.names.contains(&fnv1a(claim.dest_name.to_bytes())) {
        return Ok(Listed::Itself);
    }
    let there = match dest.stat(&claim.open.dest, claim.dest_name) {
        Err(Errno::NOENT) => return Ok(Listed::Gone),
        there => there?,
    };
    // A handle of its own has an offset of its own.
    let handle = dest.open_dir(&claim.open.dest, &c".".to_owned())?;
    *seen = Seen { dir: Some(claim.dir.id), names: HashSet::new() };
    let (mut buffer, mut is_there, mut other) = (vec![0; BUFFER_BYTES], false, None);
    let folded = fold(claim.dest_name.to_bytes());
    // Ends: the directory does.
    loop {
        let filled = dest.read_dir(&handle, &mut buffer)?;
        if filled == 0 {
            break;
        }
        for (name, ino, _) in records(&buffer[..filled]) {
            is_there |= name == claim.dest_name.to_bytes();
            if seen.names.len() < SEEN_MAX {
                seen.names.insert(fnv1a(name));
            }
            if ino == there.ino || fold(name) == folded {
                other = Name::new(name).ok();
            }
            if claim.dir.folding() == Folding::Unknown
                && let Ok(name) = Name::new(name)
            {
                folds(job, caller, claim.dir, &claim.open.dest, &name)?;
            }
        }
    }
    Ok(match (is_there, other) {
        (true, _) => Listed::Itself,
        (false, Some(other)) => Listed::Otherwise(other),
        // It answers, and nobody can say by which name: one that nothing may replace.
        (false, None) => Listed::Otherwise(c"?".to_owned()),
    })
}

fn fold(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

/// Whether the source has an object of its own under the name that the destination's has. Two names of one source
/// object are two objects, too, unless the source folds them as well.
fn is_of_source(job: &Job, caller: &dyn Caller, claim: &Claim<'_>, other: &Name) -> Result<bool> {
    if job.source.bucket.is_some() || &**other == c"?" {
        return Ok(true);
    }
    if job.single.is_some() && claim.dir.parent.is_none() {
        return Ok(false);
    }
    let source = Posix::new(caller, Side::Source);
    let failed = |errno| Error::os("stat", join(&job.path(Side::Source, claim.dir), other), errno);
    let theirs = match source.stat(&claim.open.source, other) {
        Err(Errno::NOENT) => return Ok(false),
        theirs => theirs.map_err(failed)?,
    };
    let ours = source.stat(&claim.open.source, claim.name).map_err(failed)?;
    let is_one = |a: &Stat, b: &Stat| (a.dev, a.ino) == (b.dev, b.ino);
    Ok(!(is_one(&ours, &theirs) && (ours.nlink == 1 || ours.kind() == Kind::Dir)))
}

fn path(job: &Job, claim: &Claim<'_>) -> Vec<u8> {
    join(&job.path(Side::Dest, claim.dir), claim.dest_name)
}

/// The names in a buffer of `linux_dirent64` records (inode 8 bytes, offset 8, length of the record 2, type 1, name
/// with its NUL), with inode and type; `.` and `..` left out.
pub(crate) fn records(filled: &[u8]) -> impl Iterator<Item = (&[u8], u64, u8)> {
    let mut rest = filled;
    std::iter::from_fn(move || {
        if rest.len() <= NAME_AT {
            return None;
        }
        let len = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
        assert!(len > NAME_AT && len <= rest.len(), "the kernel's directory records are whole");
        let (record, after) = rest.split_at(len);
        rest = after;
        let name = record[NAME_AT..].split(|&b| b == 0).next().unwrap_or_default();
        let ino = u64::from_ne_bytes(record[..8].try_into().unwrap_or_default());
        Some((name, ino, record[18]))
    })
    .filter(|(name, ..)| !matches!(*name, b"." | b".." | b""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_letters_has_no_other_case() {
        assert_eq!(other_case(&c"Foo-1".to_owned()), Some(c"fOO-1".to_owned()));
        assert_eq!(other_case(&c"123 \xff".to_owned()), None);
    }
}
