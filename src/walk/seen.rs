//! What was seen of the names of a directory, so that not every name of it needs a listing.
//!
//! Names are kept as hashes, so that they are bounded in bytes (I4), and of a secret key, so that nobody can make two
//! of them clash.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::catalog::DirId;
use crate::ring::Name;

/// Directories of which something is kept (I4).
const RECENT_DIRS: usize = 256;
/// Names that are kept of all of them, of 8 bytes each (I4).
const SEEN_MAX: usize = 1 << 20;
/// Names of the source that are looked at for one that they may be taken for (I4).
const TWINS_MAX: usize = 256;
/// Names that are met in one reading, of 8 bytes each (I4).
const MET_MAX: usize = if cfg!(test) { 1 << 10 } else { 1 << 20 };
/// Names of one directory that have twins, as many as are kept (I4).
const NAMED_MAX: usize = 1 << 16;

/// What is known of the directories that were asked about last.
#[derive(Debug, Default)]
pub struct Recent<T> {
    /// The one that was asked about last is the first.
    dirs: Mutex<VecDeque<Known<T>>>,
}

/// What is known of one directory.
#[derive(Debug)]
struct Known<T> {
    dir: DirId,
    /// Names it is about.
    names: usize,
    what: Arc<Mutex<T>>,
}

impl<T: Default> Recent<T> {
    /// What is known of a directory, by whoever locks it first.
    pub fn of(&self, dir: DirId) -> Arc<Mutex<T>> {
        let mut dirs = self.dirs.lock();
        let at = dirs.iter().position(|known| known.dir == dir);
        let known = at.and_then(|at| dirs.remove(at));
        let known = known.unwrap_or_else(|| Known { dir, names: 0, what: Arc::default() });
        let what = known.what.clone();
        dirs.push_front(known);
        dirs.truncate(RECENT_DIRS);
        what
    }

    /// So many names of a directory are kept: others make room for them.
    pub fn weigh(&self, dir: DirId, names: usize) {
        let mut dirs = self.dirs.lock();
        if let Some(known) = dirs.iter_mut().find(|known| known.dir == dir) {
            known.names = names;
        }
        let mut total = dirs.iter().map(|known| known.names).sum::<usize>();
        // Ends: every turn takes one away.
        while let Some(last) = dirs.pop_back_if(|last| total > SEEN_MAX && last.dir != dir) {
            total -= last.names;
        }
    }

    /// Nothing is known of a directory any more.
    pub fn forget(&self, dir: DirId) {
        self.dirs.lock().retain(|known| known.dir != dir);
    }
}

/// Names of a destination directory, as they were listed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Their hashes, ascending once all are met.
    hashes: Vec<u64>,
    /// What they are hashed with.
    keys: RandomState,
}

impl Seen {
    /// Forgets all names.
    pub fn clear(&mut self) {
        self.hashes.clear();
    }

    /// Takes in a name.
    pub fn meet(&mut self, name: &[u8]) {
        if self.hashes.len() < SEEN_MAX {
            self.hashes.push(self.keys.hash_one(name));
        }
    }

    /// All names are met. How many are kept.
    pub fn end(&mut self) -> usize {
        self.hashes.sort_unstable();
        self.hashes.shrink_to_fit();
        self.hashes.len()
    }

    /// Whether a name is known to be there. To be called once all are met.
    pub fn has(&self, name: &[u8]) -> bool {
        self.hashes.binary_search(&self.keys.hash_one(name)).is_ok()
    }
}

/// Which names of a source's directory a destination may take for one another. It is read several times: first for
/// which may have a twin, by hashes, of as many as fit (I4), then for what those are called. All are met folded:
/// without what tells them from their twins.
///
/// ```
/// # use gfast::walk::Twins;
/// # fn each_name(mut take: impl FnMut(&[u8], &[u8])) { ["a", "A"].map(|name| take(name.as_bytes(), b"a")); }
/// let mut twins = Twins::default();
/// while !twins.is_read() {
///     each_name(|name, folded| twins.meet(name, folded));
///     twins.end();
/// }
/// assert_eq!(twins.of(&c"a".to_owned(), b"a"), [c"A".to_owned()]);
/// ```
#[derive(Debug)]
pub struct Twins {
    /// What names are read for.
    stage: Stage,
    /// The first and the last hash of a folded name that this reading is about.
    range: (u64, u64),
    /// Hashes of folded names that were met.
    met: Vec<u64>,
    /// The names of those that were met twice.
    groups: HashMap<u64, Vec<Name>>,
    /// How many names those hold.
    named: usize,
    /// Whether some are missing, for there are too many.
    is_crowded: bool,
    /// What all are hashed with.
    keys: RandomState,
}

/// What a directory is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Which names may have a twin.
    Hashes,
    /// What they are called.
    Names,
    /// Nothing more.
    Read,
}

impl Twins {
    /// Whether the directory need not be read any more.
    pub fn is_read(&self) -> bool {
        self.stage == Stage::Read
    }

    /// Takes in a name of a reading.
    pub fn meet(&mut self, name: &[u8], folded: &[u8]) {
        let key = self.keys.hash_one(folded);
        match self.stage {
            Stage::Hashes if (self.range.0..=self.range.1).contains(&key) => {
                self.met.push(key);
                if self.met.len() == MET_MAX {
                    self.narrow();
                }
            }
            Stage::Names => {
                if let Some(group) = self.groups.get_mut(&key)
                    && group.iter().all(|known| known.to_bytes() != name)
                {
                    self.is_crowded |= self.named == NAMED_MAX;
                    if self.named < NAMED_MAX && group.len() < TWINS_MAX {
                        group.extend(Name::new(name));
                        self.named += 1;
                    }
                }
            }
            Stage::Hashes | Stage::Read => {}
        }
    }

    /// Leaves the upper half of what was met to another reading.
    fn narrow(&mut self) {
        self.met.sort_unstable();
        let (mut last, mut times) = (None, 0);
        self.met.retain(|key| {
            times = if last == Some(*key) { times + 1 } else { 1 };
            last = Some(*key);
            times <= 2
        });
        if self.met.len() <= MET_MAX / 2 {
            return;
        }
        let half = self.met[self.met.len() / 2];
        self.range.1 = half - 1;
        self.met.truncate(self.met.partition_point(|key| *key < half));
    }

    /// A reading is over.
    pub fn end(&mut self) {
        if self.stage != Stage::Hashes {
            self.stage = Stage::Read;
            return;
        }
        self.met.sort_unstable();
        for twice in self.met.windows(2).filter(|two| two[0] == two[1]) {
            self.is_crowded |= self.groups.len() == NAMED_MAX;
            if self.groups.len() < NAMED_MAX {
                self.groups.entry(twice[0]).or_default();
            }
        }
        self.met.clear();
        self.stage = match self.range {
            (_, u64::MAX) if self.groups.is_empty() => Stage::Read,
            (_, u64::MAX) => Stage::Names,
            _ => Stage::Hashes,
        };
        self.range = (self.range.1.wrapping_add(1), u64::MAX);
        if self.stage != Stage::Hashes {
            self.met = Vec::new();
        }
    }

    /// How many names are kept.
    pub fn len(&self) -> usize {
        self.named
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.named == 0
    }

    /// The names that one of the directory may be taken for, as far as they are known.
    pub fn of(&self, name: &Name, folded: &[u8]) -> Vec<Name> {
        let group = self.groups.get(&self.keys.hash_one(folded)).map_or(&[][..], Vec::as_slice);
        group.iter().filter(|twin| *twin != name).cloned().collect()
    }

    /// Whether all of them are known.
    pub fn is_whole(&self, folded: &[u8]) -> bool {
        !self.is_crowded && self.groups.get(&self.keys.hash_one(folded)).is_none_or(|group| group.len() < TWINS_MAX)
    }
}

impl Default for Twins {
    fn default() -> Twins {
        Twins {
            stage: Stage::Hashes,
            range: (0, u64::MAX),
            met: Vec::new(),
            groups: HashMap::new(),
            named: 0,
            is_crowded: false,
            keys: RandomState::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twins of these names, and how often they were read.
    fn read(names: &[String]) -> (Twins, usize) {
        let (mut twins, mut readings) = (Twins::default(), 0);
        while !twins.is_read() {
            names.iter().for_each(|name| twins.meet(name.as_bytes(), name.to_lowercase().as_bytes()));
            twins.end();
            readings += 1;
        }
        (twins, readings)
    }

    #[test]
    fn twins_are_known_by_name() {
        let names = ["Foo", "bar", "bar", "foo", "FOO", "other"].map(str::to_owned);
        let (twins, readings) = read(&names);
        assert_eq!(twins.of(&c"foo".to_owned(), b"foo"), [c"Foo".to_owned(), c"FOO".to_owned()]);
        assert!(twins.of(&c"bar".to_owned(), b"bar").is_empty() && twins.of(&c"none".to_owned(), b"none").is_empty());
        assert!(readings == 2 && twins.is_whole(b"foo") && twins.is_whole(b"none"));
        assert_eq!(read(&names[3..4]).1, 1);
    }

    #[test]
    fn twins_are_known_however_many_names_there_are() {
        let mut names: Vec<String> = (0..MET_MAX * 4).map(|number| format!("n{number}")).collect();
        names.extend(["N7", "N777", "N4000"].map(str::to_owned));
        let (twins, readings) = read(&names);
        assert!(readings > 2, "{readings}");
        for number in [7, 777, 4_000] {
            let [name, twin] = ["n", "N"].map(|letter| Name::new(format!("{letter}{number}")).unwrap());
            assert_eq!(twins.of(&name, name.to_bytes()), [twin]);
        }
        assert!(twins.of(&c"n8".to_owned(), b"n8").is_empty() && twins.is_whole(b"n8"));
    }

    #[test]
    fn names_that_are_all_one_are_read_in_the_end() {
        let names: Vec<String> = (1..=MET_MAX * 2).map(|dots| format!("a{}", " ".repeat(dots % 7))).collect();
        let (mut twins, mut readings) = (Twins::default(), 0);
        while !twins.is_read() {
            names.iter().for_each(|name| twins.meet(name.as_bytes(), b"a"));
            twins.end();
            readings += 1;
        }
        assert_eq!((readings, twins.of(&c"a".to_owned(), b"a").len()), (2, 6));
    }

    #[test]
    fn too_many_twins_are_not_passed_over() {
        let variant = |bits: u32| (0..9).map(|at| if bits >> at & 1 == 1 { 'A' } else { 'a' }).collect::<String>();
        let mut names: Vec<String> = (0..300).map(variant).collect();
        names.extend(["b", "B"].map(str::to_owned));
        let (twins, _) = read(&names);
        assert!(!twins.is_whole(b"aaaaaaaaa") && twins.is_whole(b"b"));
    }

    #[test]
    fn the_last_directories_are_known_as_long_as_there_is_room() {
        let recent = Recent::<Seen>::default();
        let fill = |dir: u64, names: usize| {
            let seen = recent.of(DirId(dir));
            seen.lock().meet(&dir.to_le_bytes());
            recent.weigh(DirId(dir), seen.lock().end() - 1 + names);
        };
        let knows = |dir: u64| recent.of(DirId(dir)).lock().has(&dir.to_le_bytes());
        (0..RECENT_DIRS as u64 + 1).for_each(|dir| fill(dir, 1));
        assert!(knows(RECENT_DIRS as u64) && knows(1) && !knows(0), "and this took the place of one more");
        fill(1_000, SEEN_MAX - 1);
        assert!(knows(1_000) && knows(1), "asked about before");
        fill(1_001, 2);
        assert!(knows(1_001) && !knows(1_000));
        recent.forget(DirId(1_001));
        assert!(!knows(1_001));
    }
}
