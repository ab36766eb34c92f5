//! Subdirectories that wait in a walk which may write nothing: a bounded number of them (I4).
//!
//! A walk in depth is in one subdirectory while the others wait. A job keeps in its catalog what exceeds its memory; a
//! walk that only looks has no such place. So it keeps a part of the names, and when it is back from those it lists the
//! directory once more and passes by the ones it has been in.

use std::collections::VecDeque;

use crate::config::scaled;
use crate::ring::Name;

/// Names that may wait in all directories on the way down.
const WAITING_MAX: usize = scaled(65_536, 64);
/// Names that may wait in any one of them.
const WAITING_MIN: usize = scaled(64, 2);

/// The subdirectories of one directory that the walk has still to go into.
#[derive(Debug)]
pub struct Pending {
    /// Those at hand.
    waiting: VecDeque<Name>,
    /// How many may wait.
    room: usize,
    /// How many were at hand so far: the first of every listing.
    known: u64,
    /// How many this listing has told.
    told: u64,
}

impl Pending {
    /// For the root of a walk.
    pub fn root() -> Pending {
        Pending::with_room(WAITING_MAX / 2)
    }

    /// For a directory below: it may take half of the room that is left, so that all together keep to their bound.
    pub fn below(&self) -> Pending {
        Pending::with_room((self.room - self.waiting.len()) / 2)
    }

    fn with_room(room: usize) -> Pending {
        Pending { waiting: VecDeque::new(), room: room.max(WAITING_MIN), known: 0, told: 0 }
    }

    /// A listing begins, the first or a further one.
    pub fn begin(&mut self) {
        self.told = 0;
    }

    /// The listing tells a subdirectory.
    pub fn meet(&mut self, name: Name) {
        self.told += 1;
        if self.told > self.known && self.waiting.len() < self.room {
            self.known += 1;
            self.waiting.push_back(name);
        }
    }

    /// The next one to go into.
    pub fn take(&mut self) -> Option<Name> {
        self.waiting.pop_front()
    }

    /// Whether the last listing told more than there was room for: it is to be listed again. Ends: each further listing
    /// makes at least one more known, or tells no more.
    pub fn is_cut(&self) -> bool {
        self.waiting.is_empty() && self.told > self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks a tree of `width` subdirectories in each directory, `depth` deep; the paths, and the most that waited.
    fn walk(width: usize, depth: usize) -> (Vec<Vec<usize>>, usize) {
        let (mut levels, mut path, mut seen, mut most) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let list = |pending: &mut Pending| {
            pending.begin();
            (0..width).for_each(|index| pending.meet(Name::new(index.to_string()).unwrap()));
        };
        let mut root = Pending::root();
        list(&mut root);
        levels.push(root);
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.take() {
                path.push(name.to_str().unwrap().parse().unwrap());
                seen.push(path.clone());
                let mut below = level.below();
                if path.len() < depth {
                    list(&mut below);
                }
                levels.push(below);
                most = most.max(levels.iter().map(|level| level.waiting.len()).sum());
            } else if level.is_cut() {
                list(level);
            } else {
                levels.pop();
                path.pop();
            }
        }
        (seen, most)
    }

    #[test]
    fn every_directory_is_gone_into_once_and_few_wait() {
        let (seen, most) = walk(1000, 1);
        assert_eq!(seen, (0..1000).map(|index| vec![index]).collect::<Vec<_>>());
        assert!(most <= WAITING_MAX / 2, "{most}");
        let (mut seen, most) = walk(13, 4);
        assert!(most <= WAITING_MAX + 4 * WAITING_MIN, "{most}");
        assert_eq!(seen.len(), 13 + 13 * 13 + 13 * 13 * 13 + 13 * 13 * 13 * 13);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 13 + 13 * 13 + 13 * 13 * 13 + 13 * 13 * 13 * 13);
    }
}
