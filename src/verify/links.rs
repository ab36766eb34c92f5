//! Which names are one file, on both sides: a group in the source must be a group at the destination, and the other way
//! round.
//!
//! Groups are held from their first name met to their last; what does not fit any more is counted, not compared (I4).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;

use crate::config::scaled;
use crate::ring::Stat;

/// Most groups held on each side; 64 bytes each.
const GROUPS_MAX: usize = scaled(1 << 20, 4);

/// Device and inode.
type Id = (u64, u64);

/// The groups met and not yet complete.
#[derive(Debug, Default)]
pub struct Groups {
    sides: Mutex<[HashMap<Id, Group>; 2]>,
}

/// One file of several names.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The file on the other side.
    other: Id,
    /// Names not met yet.
    left: u32,
}

/// What a pair of names says of their groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// Both have one name only, or are the first of theirs.
    First,
    /// The two files are known to belong together: their bytes are compared already.
    Known,
    /// One of them belongs to another.
    Different,
    /// There is no room to tell.
    Unknown,
}

impl Groups {
    /// Takes in a pair of files of one name.
    pub fn meet(&self, source: &Stat, dest: &Stat) -> Grouping {
        if source.nlink < 2 && dest.nlink < 2 {
            return Grouping::First;
        }
        let (source_id, dest_id) = ((source.dev, source.ino), (dest.dev, dest.ino));
        let mut sides = self.sides.lock();
        let [sources, dests] = &mut *sides;
        let is_full = sources.len().max(dests.len()) >= GROUPS_MAX;
        if is_full && !sources.contains_key(&source_id) && !dests.contains_key(&dest_id) {
            return Grouping::Unknown;
        }
        let there = note(sources, source_id, (dest_id, source.nlink), is_full);
        let back = note(dests, dest_id, (source_id, dest.nlink), is_full);
        match (there, back) {
            (None, None) => Grouping::First,
            (Some(known), _) if known != dest_id => Grouping::Different,
            (_, Some(known)) if known != source_id => Grouping::Different,
            // One side has a single name, which cannot be in a group that is known.
            (Some(_), Some(_)) => Grouping::Known,
            _ => Grouping::Different,
        }
    }
}

/// Notes that `id` was met beside `other`, if it is known or there is room; answers what it was met beside before.
fn note(groups: &mut HashMap<Id, Group>, id: Id, (other, nlink): (Id, u32), is_full: bool) -> Option<Id> {
    if nlink < 2 {
        return None;
    }
    match groups.entry(id) {
        Entry::Vacant(_) if is_full => None,
        Entry::Vacant(vacant) => {
            vacant.insert(Group { other, left: nlink - 1 });
            None
        }
        Entry::Occupied(mut group) => {
            group.get_mut().left -= 1;
            let known = group.get().other;
            if group.get().left == 0 {
                group.remove();
            }
            Some(known)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ino: u64, nlink: u32) -> Stat {
        Stat { ino, nlink, ..Stat::default() }
    }

    #[test]
    fn groups_must_agree_both_ways() {
        let meet = |pairs: &[(u64, u32, u64, u32)]| -> Vec<Grouping> {
            let groups = Groups::default();
            pairs.iter().map(|&(a, m, b, n)| groups.meet(&stat(a, m), &stat(b, n))).collect()
        };
        use Grouping::*;
        assert_eq!(meet(&[(1, 3, 9, 3), (1, 3, 9, 3), (1, 3, 9, 3)]), [First, Known, Known]);
        assert_eq!(meet(&[(1, 2, 8, 1), (1, 2, 9, 1)]), [First, Different], "two copies for one file");
        assert_eq!(meet(&[(1, 1, 9, 2), (2, 1, 9, 2)]), [First, Different], "one file for two");
        assert_eq!(
            meet(&[(1, 2, 8, 2), (2, 2, 9, 2), (1, 2, 9, 2), (2, 2, 8, 2)]),
            [First, First, Different, Different]
        );
    }

    #[test]
    fn where_there_is_no_room_those_that_are_known_go_on_and_make_some() {
        let groups = Groups::default();
        let meet = |a, b| groups.meet(&stat(a, 2), &stat(b, 2));
        let lens = || groups.sides.lock().each_ref().map(HashMap::len);
        (1..=4).for_each(|ino| assert_eq!(meet(ino, ino), Grouping::First));
        assert_eq!([meet(5, 5), meet(6, 6)], [Grouping::Unknown; 2]);
        // One that is known beside one that is not.
        assert_eq!((meet(1, 7), meet(2, 2), lens()), (Grouping::Different, Grouping::Known, [2, 3]));
        assert_eq!(meet(8, 8), Grouping::First);
        assert_eq!([meet(3, 3), meet(4, 4), meet(8, 8)], [Grouping::Known; 3]);
        assert_eq!(lens(), [0, 1], "the one whose other name belongs to another");
    }

    #[test]
    fn a_complete_group_is_forgotten() {
        let groups = Groups::default();
        let meetings = [(); 2].map(|()| groups.meet(&stat(1, 2), &stat(2, 2)));
        assert_eq!(meetings, [Grouping::First, Grouping::Known]);
        assert!(groups.sides.lock().iter().all(HashMap::is_empty));
    }
}
