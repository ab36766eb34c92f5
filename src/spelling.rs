//! Names that a side lists otherwise than they are asked for: file systems that fold case, normalise Unicode or drop a
//! dot (names.rs). Asked before anything counts as an extra of the destination.
//!
//! ```text
//! the source answers for "FOO"       may it fold?  then the listed names count, and not what answers
//! the source has no "foo"            may the destination fold?  then each name of the source that it does not list
//!                                    is asked for there: is one the same object, "foo" is that name's, and no extra
//! ```
//! Memory: the names of a page that are asked about, and hashes of a bounded number of the destination's (I4).

use std::collections::{HashMap, HashSet};

use crate::error::Errno;
use crate::forms::other_case;
use crate::job::fnv1a;
use crate::listing::each_page;
use crate::names::{is_plain, loosely};
use crate::provider::posix::Posix;
use crate::ring::{Handle, Kind, Name, Stat};

/// Names of a destination's directory that are kept as hashes (I4).
const LISTED_MAX: usize = 65_536;

/// Names that are held against a listing at a time, where that may have to be read for each lot of them.
pub(crate) const LOT: usize = 8192;

/// Whether a directory may answer for names that it lists otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folds {
    /// Whether its file system tells apart all names whose case it does.
    is_local: bool,
    /// Whether a name in the other case answered, once that was tried.
    answers: Option<bool>,
}

impl Folds {
    /// Of a directory that nobody has asked yet.
    pub(crate) fn new(is_local: bool) -> Folds {
        Folds { is_local, answers: None }
    }

    /// Whether what answers for `name` may be listed otherwise. One question for a directory: a name in the other case.
    /// A hard link of that name answers, too; then the listing is read, and says so.
    pub(crate) fn may(&mut self, posix: Posix<'_>, at: &Handle, name: &Name) -> Result<bool, Errno> {
        if let (None, Some(other)) = (self.answers, other_case(name)) {
            self.answers = match posix.stat(at, &other) {
                Ok(_) => Some(true),
                Err(Errno::NOENT) => Some(false),
                Err(errno) => return Err(errno),
            };
        }
        Ok(match self.answers {
            Some(true) => true,
            Some(false) => !self.is_local && !is_plain(name),
            None => !is_plain(name),
        })
    }

    /// Whether it is worth reading a large directory a few times only.
    pub(crate) fn is_likely(&self) -> bool {
        self.answers == Some(true) || !self.is_local
    }
}

/// Those of `names`, for which a directory has answered, that it lists otherwise.
pub(crate) fn unlisted<'n>(
    posix: Posix<'_>,
    at: &Handle,
    folds: &mut Folds,
    names: impl Iterator<Item = &'n Name>,
) -> Result<HashSet<Name>, Errno> {
    let mut doubtful = HashSet::new();
    for name in names {
        if folds.may(posix, at, name)? {
            doubtful.insert(name.clone());
        }
    }
    if !doubtful.is_empty() {
        let mut found = |name: &Name| _ = doubtful.remove(name);
        each_page(posix, at, |page| page.drain(..).for_each(|entry| found(&entry.name)))?;
    }
    Ok(doubtful)
}

/// What a name of the destination is that the source does not list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No name of the source leads to it.
    Extra,
    /// What the destination has under this name of the source.
    Same(Name),
    /// Nobody can say.
    Unsure,
}

/// Names of a destination's directory that the source does not list, held against the names that it does.
pub(crate) struct Suspects<'a> {
    dest: Posix<'a>,
    at: &'a Handle,
    /// Each with what it is, and what is known of it by now.
    names: Vec<(Name, Stat, Verdict)>,
    /// Which of them are one but for what file systems fold.
    folded: HashMap<Vec<u8>, Vec<usize>>,
    /// Names that the destination lists, as hashes.
    listed: HashSet<u64>,
    /// Likewise, without what file systems fold, if numbers do not tell which of them answers.
    listed_folded: HashSet<u64>,
    /// Whether all of them are there.
    is_complete: bool,
    /// Whether an object has one inode number, whatever name it is asked for by.
    is_numbered: bool,
}

impl<'a> Suspects<'a> {
    /// Suspects of the directory `at`, unless it tells all names apart; `is_numbered` says whether its inode numbers
    /// last.
    pub(crate) fn of(
        dest: Posix<'a>,
        at: &'a Handle,
        (folds, is_numbered): (&mut Folds, bool),
        suspects: impl Iterator<Item = (Name, Stat)>,
    ) -> Result<Option<Suspects<'a>>, Errno> {
        let suspects: Vec<_> = suspects.collect();
        let mut may_be_others = !folds.is_local && !suspects.is_empty();
        for (name, _) in &suspects {
            may_be_others = may_be_others || folds.may(dest, at, name)?;
        }
        match may_be_others {
            true => Suspects::new(dest, at, suspects, is_numbered).map(Some),
            false => Ok(None),
        }
    }

    fn new(
        dest: Posix<'a>,
        at: &'a Handle,
        suspects: Vec<(Name, Stat)>,
        is_numbered: bool,
    ) -> Result<Suspects<'a>, Errno> {
        let suspect = |(name, stat)| (name, stat, Verdict::Extra);
        let names: Vec<_> = suspects.into_iter().map(suspect).collect();
        let mut folded: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, (name, ..)) in names.iter().enumerate() {
            folded.entry(loosely(name.to_bytes())).or_default().push(index);
        }
        let (mut listed, mut listed_folded, mut is_complete) = (HashSet::new(), HashSet::new(), true);
        each_page(dest, at, |page| {
            for entry in page.drain(..) {
                is_complete &= listed.len() < LISTED_MAX;
                if is_complete {
                    listed.insert(fnv1a(entry.name.to_bytes()));
                    listed_folded.extend((!is_numbered).then(|| fnv1a(&loosely(entry.name.to_bytes()))));
                }
            }
        })?;
        Ok(Suspects { dest, at, names, folded, listed, listed_folded, is_complete, is_numbered })
    }

    /// Meets a name of the source: does it lead to one of them?
    pub(crate) fn meet(&mut self, name: &Name) {
        let is_listed = self.listed.contains(&fnv1a(name.to_bytes()));
        let like = self.folded.get(&loosely(name.to_bytes())).cloned().unwrap_or_default();
        if is_listed && like.is_empty() {
            return;
        }
        let there = match self.dest.stat(self.at, name) {
            Ok(there) => there,
            Err(Errno::NOENT) => return,
            Err(_) => return self.doubt(&like),
        };
        let is_it = |stat: &Stat| (stat.dev, stat.ino) == (there.dev, there.ino);
        let is_alone = there.kind() == Kind::Dir || there.nlink == 1;
        let mut is_known = false;
        for (other, stat, verdict) in &mut self.names {
            if other == name || !is_it(stat) {
                continue;
            }
            is_known = true;
            match is_listed {
                // Two listed names of one object: hard links, or one name answers for the other.
                true if is_alone => *verdict = Verdict::Unsure,
                true => {}
                false if *verdict == Verdict::Extra => *verdict = Verdict::Same(name.clone()),
                false => {}
            }
        }
        // It answers by a name that is listed otherwise, and its number does not tell by which.
        if !is_known && !is_listed && !self.is_numbered {
            match like[..] {
                [only] => self.names[only].2 = Verdict::Same(name.clone()),
                [] if !self.is_complete || self.listed_folded.contains(&fnv1a(&loosely(name.to_bytes()))) => {}
                [] => self.doubt(&(0..self.names.len()).collect::<Vec<_>>()),
                _ => self.doubt(&like),
            }
        }
    }

    /// What could not be asked for.
    fn doubt(&mut self, indexes: &[usize]) {
        for index in indexes {
            if self.names[*index].2 == Verdict::Extra {
                self.names[*index].2 = Verdict::Unsure;
            }
        }
    }

    /// What they are, in their order, once all names of the source were met.
    pub(crate) fn verdicts(self) -> impl Iterator<Item = Verdict> {
        self.names.into_iter().map(|(_, _, verdict)| verdict)
    }
}
