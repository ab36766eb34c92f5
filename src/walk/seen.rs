//! What was seen of the names of one directory, so that not every name of it needs a listing.
//!
//! Names are kept as hashes, so that they are bounded in bytes (I4), and of a secret key, so that nobody can make two
//! of them clash.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::catalog::DirId;
use crate::ring::Name;

/// Names of a destination directory that folds case, as they were listed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Which directory's.
    pub dir: Option<DirId>,
    /// Its names.
    pub names: HashSet<u64>,
    /// What they are hashed with.
    pub keys: RandomState,
}

/// Names of the source that are looked at for one that they may be taken for (I4).
pub(crate) const TWINS_MAX: usize = 256;

/// Slots for the names of a directory: of 100,000 one in 40 shares one that is not its own.
const SLOTS: usize = 1 << 22;

/// Which names of a source directory may be one with another of its names, however many it has.
#[derive(Debug, Default)]
pub struct Twins {
    /// Which directory's.
    dir: Option<DirId>,
    /// Slots of names that were met, a bit each; empty before the first.
    met: Vec<u64>,
    /// Slots that were met more than once.
    again: Vec<u64>,
    /// What names are hashed with.
    keys: RandomState,
}

impl Twins {
    /// Whether they are this directory's.
    pub fn is_of(&self, dir: DirId) -> bool {
        self.dir == Some(dir)
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.dir = None;
        for slots in [&mut self.met, &mut self.again] {
            slots.clear();
            slots.resize(SLOTS / 64, 0);
        }
    }

    /// Takes in a name, without what tells it from its twins. To be called after [`Twins::clear`].
    pub fn meet(&mut self, folded: &[u8]) {
        let (word, bit) = self.slot(folded);
        self.again[word] |= self.met[word] & bit;
        self.met[word] |= bit;
    }

    /// All names of the directory were met.
    pub fn complete(&mut self, dir: DirId) {
        self.dir = Some(dir);
    }

    /// Whether the name may have a twin; surely if it has.
    pub fn may_have(&self, folded: &[u8]) -> bool {
        let (word, bit) = self.slot(folded);
        self.again[word] & bit != 0
    }

    fn slot(&self, folded: &[u8]) -> (usize, u64) {
        let slot = self.keys.hash_one(folded) as usize % SLOTS;
        (slot / 64, 1 << (slot % 64))
    }
}

/// Which names of a bucket's directory a destination may take for one another. Read twice: the first time tells which
/// may have a twin, by hashes (16 bytes a name, while it is read), the second one what they are called. All
/// are met folded: without what tells them from their twins.
#[derive(Debug, Default)]
pub struct KnownTwins {
    /// Hashes of folded names, with those of the names.
    met: HashMap<u64, u64>,
    /// The names of those that were met with more than one name.
    groups: HashMap<u64, Vec<Name>>,
    /// What all are hashed with.
    keys: RandomState,
}

impl KnownTwins {
    /// Takes in a name, in the first reading.
    pub fn meet(&mut self, name: &Name, folded: &[u8]) {
        let (key, itself) = (self.keys.hash_one(folded), self.keys.hash_one(name.to_bytes()));
        // The key of an object may be the beginning of others, too: one name, listed twice.
        if *self.met.entry(key).or_insert(itself) != itself {
            self.groups.entry(key).or_default();
        }
    }

    /// Whether no name has a twin: then there is no need to read once more. To be called after the first reading.
    pub fn end(&mut self) -> bool {
        self.met = HashMap::new();
        self.groups.is_empty()
    }

    /// Takes in a name, in the second reading.
    pub fn name(&mut self, name: Name, folded: &[u8]) {
        if let Some(group) = self.groups.get_mut(&self.keys.hash_one(folded))
            && group.len() < TWINS_MAX
            && !group.contains(&name)
        {
            group.push(name);
        }
    }

    /// The names that one of the directory may be taken for.
    pub fn of(&self, name: &Name, folded: &[u8]) -> Vec<Name> {
        let group = self.groups.get(&self.keys.hash_one(folded)).map_or(&[][..], Vec::as_slice);
        group.iter().filter(|twin| *twin != name).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_met_twice_has_a_twin() {
        let mut twins = Twins::default();
        twins.clear();
        (0..1000_u32).for_each(|number| twins.meet(&number.to_le_bytes()));
        twins.meet(&7_u32.to_le_bytes());
        twins.complete(DirId(3));
        assert!(twins.is_of(DirId(3)) && twins.may_have(&7_u32.to_le_bytes()));
        let wrong = (8..1000_u32).filter(|number| twins.may_have(&number.to_le_bytes())).count();
        assert!(wrong < 20, "{wrong} share a slot");
        twins.clear();
        assert!(!twins.is_of(DirId(3)) && !twins.may_have(&7_u32.to_le_bytes()));
    }

    #[test]
    fn twins_are_known_by_name() {
        let mut twins = KnownTwins::default();
        let names = [c"Foo", c"bar", c"bar", c"foo", c"FOO", c"other"].map(|name| name.to_owned());
        let folded = |name: &Name| name.to_bytes().to_ascii_lowercase();
        names.iter().for_each(|name| twins.meet(name, &folded(name)));
        assert!(!twins.end());
        names.iter().for_each(|name| twins.name(name.clone(), &folded(name)));
        assert_eq!(twins.of(&names[3], b"foo"), [c"Foo".to_owned(), c"FOO".to_owned()]);
        assert!(twins.of(&names[1], b"bar").is_empty() && twins.of(&c"none".to_owned(), b"none").is_empty());
        let mut none = KnownTwins::default();
        names[1..4].iter().for_each(|name| none.meet(name, &folded(name)));
        assert!(none.end());
    }
}
