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
//! Some file systems keep names in another form than they are given (HFS+ normalises, vfat drops a dot): there the
//! source's "foo" may be what was made as "Foo" before. So where the source has such twins, the destination is shown
//! one in a directory of its own, and whoever the catalog says has made the object keeps it. A bucket's twins are
//! looked for before its directory is listed, unless the destination is seen to keep names as they are.

use icu_normalizer::DecomposingNormalizerBorrowed;
use unicase::UniCase;

use crate::catalog::{BATCH_UNSEALED, DirRecord, Record, Stamp, Status};
use crate::dirents::each_name;
use crate::error::{Cause, Errno, Error, Result, join};
use crate::filter::Sort;
use crate::forms::{self, other_case};
use crate::job::Job;
use crate::provider::metadata;
use crate::provider::posix::Posix;
use crate::ring::{Caller, Handle, Kind, Name, Side, Stat};
use crate::walk::{DestDir, DirNode, DirPair, Folding, Twins};

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

/// How much a name of a listing is like the one that answers, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// They are one in Unicode's canonical caseless matching.
    Folded,
    /// They differ in case.
    Case,
    /// They have one inode number.
    Inode,
    /// They have one inode number, and are one but for what file systems fold: of several links the one that is meant.
    Both,
}

/// A name that answers, as it is looked for in a listing.
struct Wanted {
    /// The inode number that it leads to.
    ino: u64,
    /// The name in lower case.
    lower: Vec<u8>,
    /// The name without what any file system folds.
    folded: Vec<u8>,
    /// Likewise, without what they drop at its end.
    loose: Vec<u8>,
}

/// Makes sure that what the destination has under a name is an object of this very name. It is an error if it is
/// another object of the source. False if there is nothing under it any more.
pub(crate) fn own(job: &Job, caller: &dyn Caller, claim: Claim<'_>) -> Result<bool> {
    let failed = |errno| Error::os("look up", path(job, &claim), errno);
    if !may_fold(job, caller, &claim).map_err(failed)? {
        return Ok(true);
    }
    let clash = |other: &Name| {
        let other = join(&job.path(Side::Dest, claim.dir), other);
        Err(Error { verb: "copy", object: path(job, &claim), cause: Cause::Clash(other) })
    };
    match look(job, caller, &claim).map_err(failed)? {
        Listed::Gone => Ok(false),
        Listed::Itself => match maker(job, caller, &claim, claim.dest_name)? {
            Some(other) => clash(&other),
            None => Ok(true),
        },
        Listed::Otherwise(other) if is_of_source(job, caller, &claim, &other)? => {
            match is_made_as(job, caller, &claim, &other)? {
                true => Ok(true),
                false => clash(&other),
            }
        }
        Listed::Otherwise(other) => match maker(job, caller, &claim, &other)? {
            Some(maker) => clash(&maker),
            None if call(job, caller, &claim, &other)? => Ok(true),
            None => own(job, caller, claim),
        },
    }
}

/// Has an object that is called `other` called by this name. False if it is called otherwise by now.
fn call(job: &Job, caller: &dyn Caller, claim: &Claim<'_>, other: &Name) -> Result<bool> {
    let failed = |errno| Error::os("rename to", path(job, claim), errno);
    let (dest, at) = (Posix::new(caller, Side::Dest), &claim.open.dest);
    // Where it cannot be tried it is renamed.
    let kept = || forms::kept_as(job, caller, (claim.dir, at), claim.dest_name);
    if forms::changes_names(job, caller, claim.dir, at) && kept().as_ref() == Ok(other) {
        return Ok(true);
    }
    // Another name of the source may want it as well: whoever comes second finds it taken.
    let _turn = job.naming.turn(claim.dir.id);
    let is_other = |listed: &Listed| matches!(listed, Listed::Otherwise(now) if now == other);
    if !is_other(&look(job, caller, claim).map_err(failed)?) {
        return Ok(false);
    }
    // By way of a third name: to the kernel a file's names that fold to one are one, and nothing is to be done.
    let between = job.temporaries.between(claim.dir.id, claim.dest_name);
    let renamed = job.naming.rename(claim.dir.id, || {
        dest.rename(at, other, &between)?;
        let renamed = dest.rename(at, &between, claim.dest_name);
        if renamed.is_err() {
            let _ = dest.rename(at, &between, other);
        }
        job.seen.forget(claim.dir.id);
        renamed
    });
    renamed.map_err(failed)?;
    // What was made under a name like it meanwhile keeps that name where it is replaced.
    let listed = look(job, caller, claim).map_err(failed)?;
    Ok(matches!(listed, Listed::Itself) || is_other(&listed))
}

/// The other name of the source under which the object was made that is listed as `listed`; nothing if it is this
/// name's.
fn maker(job: &Job, caller: &dyn Caller, claim: &Claim<'_>, listed: &Name) -> Result<Option<Name>> {
    if job.single.is_some() && claim.dir.parent.is_none() {
        return Ok(None);
    }
    let (mine, at) = (hold(job, claim.dir, claim.name)?, (claim.dir, &claim.open.dest));
    let folded = loosely(claim.name.to_bytes());
    let may_be_new = matches!(claim.dir.dest(), DestDir::Created | DestDir::Unknown);
    let (mut twins, is_whole) = match (&job.source.bucket, claim.dir.twins()) {
        (None, _) => twins(job, caller, claim, &folded)?,
        (Some(_), Some(known)) => (known.of(claim.name, &folded), known.is_whole(&folded)),
        // What has the name in a directory that this run has made, this run has made. It may have made one that it only
        // comes back to: better refused than merged, there.
        (Some(_), None) if mine.is_none() && may_be_new && forms::changes_names(job, caller, claim.dir, at.1) => {
            let variant = forms::variant(job, caller, at, (claim.dest_name, listed));
            return variant.map_err(|errno| Error::os("look up", path(job, claim), errno));
        }
        (Some(_), None) => return Ok(None),
    };
    twins.retain(|twin| [Sort::Other, Sort::Dir].into_iter().any(|sort| job.takes(claim.dir, twin, sort)));
    for twin in twins {
        let is_listed = *twin == **listed;
        if is_listed || mine > hold(job, claim.dir, &twin)? {
            continue;
        }
        let failed = |errno| Error::os("look up", path(job, claim), errno);
        let theirs = Claim { name: &twin, dest_name: &twin, ..*claim };
        let is_it = match look(job, caller, &theirs).map_err(failed)? {
            Listed::Otherwise(other) => other == *listed || *other == *c"?",
            Listed::Itself | Listed::Gone => false,
        };
        if is_it && forms::kept_as(job, caller, at, &twin).map_err(failed)? == *listed {
            return Ok(Some(twin));
        }
    }
    // One of too many.
    Ok((!is_whole && mine.is_none()).then(|| c"?".to_owned()))
}

/// Whether the object that is listed under another name of the source was made under this one.
fn is_made_as(job: &Job, caller: &dyn Caller, claim: &Claim<'_>, listed: &Name) -> Result<bool> {
    let mine = hold(job, claim.dir, claim.name)?;
    if mine.is_none() || mine <= hold(job, claim.dir, listed)? {
        return Ok(false);
    }
    let kept = forms::kept_as(job, caller, (claim.dir, &claim.open.dest), claim.dest_name);
    Ok(kept.map_err(|errno| Error::os("look up", path(job, claim), errno))? == *listed)
}

/// When the catalog says that the object at the destination was made under this name: the later of two is right. A
/// name of an earlier pass that the source did not have since keeps its record. In a directory that this run has made
/// nothing is older.
fn hold(job: &Job, dir: &DirNode, name: &Name) -> Result<Option<u64>> {
    let reader = job.catalog.reader()?;
    let first = job.progress.completed_batch + 1;
    let counts = |batch: u64| dir.dest() != DestDir::Created || (first..BATCH_UNSEALED).contains(&batch);
    let hold = match reader.entry(dir.id, name)? {
        Some(Record::Dir(id)) => {
            // Under no name it is recorded that it failed. One whose listing did has what that brought up.
            let recorded = reader.entries(id, None, 2)?;
            let has_failed = recorded.first().is_some_and(|(name, _)| name.is_empty());
            let has_names = recorded.iter().any(|(name, _)| !name.is_empty());
            let is_listed = |record: &DirRecord| has_names || (record.stamp.is_some() && !has_failed);
            reader.dir(id)?.filter(is_listed).map(|record| record.listed_batch)
        }
        Some(Record::File(record)) if record.losses.has_object() => None,
        Some(Record::File(record)) => match record.status {
            Status::Pending => None,
            Status::Failed => (record.stamp != Stamp::default()).then_some(0),
            Status::InProgress | Status::Written | Status::Done => Some(record.batch),
        },
        None => None,
    };
    Ok(hold.filter(|batch| counts(*batch)))
}

/// Names of the source's directory that are one with this but for what file systems fold, and whether those are all.
fn twins(job: &Job, caller: &dyn Caller, claim: &Claim<'_>, folded: &[u8]) -> Result<(Vec<Name>, bool)> {
    let source = Posix::new(caller, Side::Source);
    let known = job.twins.of(claim.dir.id);
    let mut known = known.lock();
    while !known.is_read() {
        let read = each_name(source, &claim.open.source, |name, _| {
            known.meet(name, &loosely(name));
            Ok(())
        });
        if let Err(errno) = read {
            *known = Twins::default();
            return Err(Error::os("list", job.path(Side::Source, claim.dir), errno));
        }
        known.end();
        job.twins.weigh(claim.dir.id, known.len());
    }
    Ok((known.of(claim.name, folded), known.is_whole(folded)))
}

/// Whether a directory may fold case, by a name that is known to be in it. Where inode numbers are made up for each
/// name that is looked up, one that answers in the other case might be a file of its own: then the listing says so.
pub(crate) fn folds(
    job: &Job,
    caller: &dyn Caller,
    dir: &DirNode,
    at: &Handle,
    known: &Name,
) -> std::result::Result<bool, Errno> {
    let dest = Posix::new(caller, Side::Dest);
    let other = match (dir.folding(), other_case(known)) {
        (Folding::None, _) | (Folding::Unknown, None) => return Ok(false),
        (Folding::Case, _) => return Ok(true),
        (Folding::Unknown, Some(other)) => other,
    };
    let both = job.naming.settled(dir.id, || Ok((dest.stat(at, &other), dest.stat(at, known)?)));
    let is_one = match both {
        Ok((Err(Errno::NOENT), _)) => false,
        Ok((other, there)) => {
            let other = other?;
            (there.dev, there.ino) == (other.dev, other.ino) || !job.dest.inodes.is_lasting()
        }
        // It is gone by now, and tells nothing.
        Err(Errno::NOENT) => return Ok(true),
        Err(errno) => return Err(errno),
    };
    dir.set_folding(if is_one { Folding::Case } else { Folding::None });
    Ok(dir.folding() == Folding::Case)
}

/// Whether the name that answers may be another one. What keeps case apart keeps all apart on a local file system; a
/// server, or a file system of Windows, may still normalise Unicode or drop a dot.
fn may_fold(job: &Job, caller: &dyn Caller, claim: &Claim<'_>) -> std::result::Result<bool, Errno> {
    if folds(job, caller, claim.dir, &claim.open.dest, claim.dest_name)? {
        return Ok(true);
    }
    let is_local = job.dest_file_system.tells_names_apart();
    Ok(!is_plain(claim.dest_name) && (!is_local || claim.dir.folding() == Folding::Unknown))
}

/// Whether a name that is new may be another one, as far as is known of its directory.
pub(crate) fn may_be_one(job: &Job, dir: &DirNode, name: &Name) -> bool {
    dir.folding() != Folding::None || (!is_plain(name) && !job.dest_file_system.tells_names_apart())
}

/// Whether nothing but its case could make a name another one.
pub(crate) fn is_plain(name: &Name) -> bool {
    let bytes = name.to_bytes();
    bytes.is_ascii() && !bytes.contains(&b'~') && !bytes.ends_with(b".") && !bytes.ends_with(b" ")
}

/// Why something could not be made under a name: for the name itself, if the destination holds no such names.
pub(crate) fn unmade(job: &Job, caller: &dyn Caller, (at, name): (&Handle, &Name), error: Error) -> Error {
    let Cause::Os(errno) = error.cause else { return error };
    let dest = Posix::new(caller, Side::Dest);
    let is_of_name = match errno {
        // A symlink's target may be too long, too.
        Errno::NAMETOOLONG => matches!(dest.stat(at, name), Err(Errno::NAMETOOLONG)),
        // exfat-fuse answers ENOENT. Whatever it is, it is of no other name there.
        Errno::INVAL | Errno::ILSEQ | Errno::NOENT | Errno::ACCESS => takes_names(job, &dest, at),
        _ => false,
    };
    if is_of_name { Error { cause: Cause::Name(errno), ..error } } else { error }
}

/// Whether a file of an innocent name can be made in a directory. One at a time: they have one name.
fn takes_names(job: &Job, dest: &Posix, at: &Handle) -> bool {
    let _turn = job.link_changes.lock();
    let probe = job.temporaries.probe();
    let made = metadata::make_probe(dest, at, &probe, || dest.create(at, &probe, 0o600));
    made.is_ok_and(|file| {
        drop(file);
        dest.unlink(at, &probe).is_ok()
    })
}

/// Looks for a name that answers in the listing.
fn look(job: &Job, caller: &dyn Caller, claim: &Claim<'_>) -> std::result::Result<Listed, Errno> {
    job.naming.settled(claim.dir.id, || try_look(job, caller, claim))
}

fn try_look(job: &Job, caller: &dyn Caller, claim: &Claim<'_>) -> std::result::Result<Listed, Errno> {
    let dest = Posix::new(caller, Side::Dest);
    let seen = job.seen.of(claim.dir.id);
    let mut seen = seen.lock();
    if seen.has(claim.dest_name.to_bytes()) {
        return Ok(Listed::Itself);
    }
    let there = match dest.stat(&claim.open.dest, claim.dest_name) {
        Err(Errno::NOENT) => return Ok(Listed::Gone),
        there => there?,
    };
    seen.clear();
    let (mut is_there, mut others, mut telling) = (false, Vec::new(), None);
    let wanted = Wanted::new(claim.dest_name.to_bytes(), there.ino);
    let listed = each_name(dest, &claim.open.dest, |name, ino| {
        is_there |= name == claim.dest_name.to_bytes();
        seen.meet(name);
        if let Some(likeness) = wanted.likeness(name, ino) {
            keep_likest(&mut others, likeness, name);
        }
        if telling.is_none() {
            telling = Name::new(name).ok().filter(|name| other_case(name).is_some());
        }
        Ok(())
    });
    job.seen.weigh(claim.dir.id, seen.end());
    // Whose turn it is may wait for what was seen.
    drop(seen);
    listed?;
    if claim.dir.folding() == Folding::Unknown
        && let Some(name) = telling
    {
        folds(job, caller, claim.dir, &claim.open.dest, &name)?;
    }
    let others: Vec<Name> = others.into_iter().filter_map(|(_, name)| Name::new(name).ok()).collect();
    Ok(match (is_there, &others[..]) {
        (true, _) => Listed::Itself,
        (false, [other]) => Listed::Otherwise(other.clone()),
        // It answers, and nobody can say by which name: one that nothing may replace.
        (false, _) => Listed::Otherwise(c"?".to_owned()),
    })
}

/// Keeps a name with those that are as like as it; two of those are all that counts (I4).
fn keep_likest(others: &mut Vec<(Likeness, Vec<u8>)>, likeness: Likeness, name: &[u8]) {
    others.retain(|(known, _)| *known >= likeness);
    // A listing may tell a name twice while others come and go.
    let is_told = others.iter().any(|(_, told)| told == name);
    if !is_told && others.len() < 2 && others.iter().all(|(known, _)| *known == likeness) {
        others.push((likeness, name.to_vec()));
    }
}

impl Wanted {
    fn new(name: &[u8], ino: u64) -> Wanted {
        Wanted { ino, lower: lower(name), folded: fold(name), loose: loosely(name) }
    }

    /// How much a name of the listing is like it. A number alone does not do: daemons make them up for each look-up.
    fn likeness(&self, name: &[u8], ino: u64) -> Option<Likeness> {
        match () {
            () if ino == self.ino && loosely(name) == self.loose => Some(Likeness::Both),
            () if ino == self.ino => Some(Likeness::Inode),
            () if lower(name) == self.lower => Some(Likeness::Case),
            () if fold(name) == self.folded => Some(Likeness::Folded),
            () => None,
        }
    }
}

fn lower(name: &[u8]) -> Vec<u8> {
    std::str::from_utf8(name).map_or_else(|_| name.to_ascii_lowercase(), |text| text.to_lowercase().into_bytes())
}

/// A name without what file systems fold, as Unicode has it (D145): decomposed, full case folding, decomposed again.
/// Bytes that are no UTF-8 are left as they are.
pub(crate) fn fold(name: &[u8]) -> Vec<u8> {
    let Some(text) = std::str::from_utf8(name).ok().filter(|text| !text.is_ascii()) else {
        return name.to_ascii_lowercase();
    };
    let decomposer = DecomposingNormalizerBorrowed::new_nfd();
    let folded = UniCase::unicode(decomposer.normalize(text)).to_folded_case();
    decomposer.normalize(&folded).into_owned().into_bytes()
}

/// A name without what file systems fold, and what they drop at its end.
pub(crate) fn loosely(name: &[u8]) -> Vec<u8> {
    let len = name.iter().rposition(|byte| !b". ".contains(byte)).map_or(name.len(), |last| last + 1);
    fold(&name[..len])
}

/// Whether the source has an object of its own under the name that the destination's has. Two names of one source
/// object are two objects, too, unless the source folds them as well.
fn is_of_source(job: &Job, caller: &dyn Caller, claim: &Claim<'_>, other: &Name) -> Result<bool> {
    if &**other == c"?" {
        return Ok(true);
    }
    if job.source.bucket.is_some() {
        return Ok(claim
            .dir
            .twins()
            .is_none_or(|twins| twins.of(claim.name, &loosely(claim.name.to_bytes())).contains(other)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_as_file_systems_do() {
        let same = ["caf\u{e9}", "cafe\u{301}", "CAF\u{c9}", "CAFE\u{301}"];
        assert!(same.iter().all(|name| fold(name.as_bytes()) == fold(same[0].as_bytes())));
        // Two marks in either order, a capital sharp s, the last sigma of a word, one syllable of Hangul in its parts.
        let pairs = [
            ("q\u{307}\u{323}", "Q\u{323}\u{307}"),
            ("Stra\u{df}e", "STRASSE"),
            ("\u{3c2}", "\u{3a3}"),
            ("\u{ac01}", "\u{1100}\u{1161}\u{11a8}"),
        ];
        assert!(pairs.iter().all(|(a, b)| fold(a.as_bytes()) == fold(b.as_bytes())));
        assert_ne!(fold(b"cafe"), fold(same[0].as_bytes()));
        assert_eq!(fold("\u{fb01}".as_bytes()), fold(b"fi"), "a ligature is its letters: full folding, as ext4 has it");
        assert_eq!((fold(b"A\xff"), fold(b"A\xfe") == fold(b"A\xff")), (b"a\xff".to_vec(), false));
    }

    #[test]
    fn the_likest_name_is_taken_and_of_equals_none() {
        let wanted = Wanted::new("STRASSE".as_bytes(), 7);
        let mut others = Vec::new();
        let names = [("stra\u{df}e", 1), ("strasse", 2), ("Stra\u{df}e", 3), ("other", 4)];
        for (name, ino) in names {
            if let Some(likeness) = wanted.likeness(name.as_bytes(), ino) {
                keep_likest(&mut others, likeness, name.as_bytes());
            }
        }
        assert_eq!(others, [(Likeness::Case, b"strasse".to_vec())]);
        keep_likest(&mut others, Likeness::Case, b"strasse");
        assert_eq!(others.len(), 1, "it was told twice");
        keep_likest(&mut others, Likeness::Case, b"Strasse");
        assert_eq!(others.len(), 2, "nobody can say which");
        keep_likest(&mut others, Likeness::Inode, b"x");
        assert_eq!(others, [(Likeness::Inode, b"x".to_vec())]);
    }
}
