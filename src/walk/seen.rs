//! What was seen of the names of one directory, so that not every name of it needs a listing.
//!
//! Names are kept as hashes, so that they are bounded in bytes (I4), and of a secret key, so that nobody can make two
//! of them clash.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::catalog::DirId;

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
}
