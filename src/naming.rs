//! Whose turn it is to give a name that a destination may take for another, and moments in which an object has none.
//!
//! What is to be called otherwise goes by way of a third name ([`names`](crate::names)): for that moment its own name
//! is free, and whoever makes something under it, or finds nothing there, is misled. So nothing is made meanwhile in
//! its directory, or does not count.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{ReentrantMutex, ReentrantMutexGuard, RwLock};

use crate::catalog::DirId;
use crate::error::Errno;

/// Directories that share a turn are seldom two of those that are worked on.
const SLOTS: usize = 64;

/// Held, and asked, where names are given.
#[derive(Debug)]
pub struct Naming {
    slots: [Slot; SLOTS],
}

/// What directories have of it.
#[derive(Debug, Default)]
struct Slot {
    /// Held by whoever gives a name.
    turn: ReentrantMutex<()>,
    /// Shared by whoever makes something, and held while an object has no name.
    gap: RwLock<()>,
    /// Moments without a name that have begun and ended, so that it is odd during one.
    edges: AtomicU64,
}

/// A moment in which an object has no name.
struct Moment<'a>(&'a AtomicU64);

impl Naming {
    /// Waits for one's turn in a directory; it is over when what is returned is dropped. Who has it may ask again.
    pub fn turn(&self, dir: DirId) -> ReentrantMutexGuard<'_, ()> {
        self.slot(dir).turn.lock()
    }

    /// Renames an object of a directory by way of a third name.
    pub fn rename<T>(&self, dir: DirId, rename: impl FnOnce() -> T) -> T {
        let slot = self.slot(dir);
        let _turn = slot.turn.lock();
        let _alone = slot.gap.write();
        let _moment = Moment::new(&slot.edges);
        rename()
    }

    /// Looks for a name in a directory, again if an object had none meanwhile. Not to be called by what renames.
    pub fn settled<T>(&self, dir: DirId, mut look: impl FnMut() -> T) -> T {
        let slot = self.slot(dir);
        // Ends: renaming does.
        loop {
            let before = slot.edges.load(Ordering::SeqCst);
            let found = look();
            if slot.is_settled_since(before) {
                return found;
            }
            drop(slot.turn.lock());
        }
    }

    /// Makes something under a name that must be free, in a directory that may take names for one another. Of one that
    /// does not seem to, `may_fold` is false: nobody waits for anybody then. If an object had no name meanwhile, this
    /// may have been its name, and what was made been replaced: it is answered for as if it had been there before.
    pub fn make<T>(&self, dir: DirId, may_fold: bool, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let slot = self.slot(dir);
        if may_fold {
            let _named = slot.gap.read();
            return make();
        }
        let before = slot.edges.load(Ordering::SeqCst);
        let made = make()?;
        if slot.is_settled_since(before) {
            return Ok(made);
        }
        drop(slot.turn.lock());
        Err(Errno::EXIST)
    }

    fn slot(&self, dir: DirId) -> &Slot {
        &self.slots[dir.0 as usize % SLOTS]
    }
}

impl Default for Naming {
    fn default() -> Naming {
        Naming { slots: array::from_fn(|_| Slot::default()) }
    }
}

impl Slot {
    fn is_settled_since(&self, before: u64) -> bool {
        before.is_multiple_of(2) && self.edges.load(Ordering::SeqCst) == before
    }
}

impl Moment<'_> {
    fn new(edges: &AtomicU64) -> Moment<'_> {
        edges.fetch_add(1, Ordering::SeqCst);
        Moment(edges)
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    const DIR: DirId = DirId(7);

    #[test]
    fn what_is_made_or_seen_during_a_renaming_does_not_count() {
        let naming = Naming::default();
        assert_eq!(naming.make(DIR, false, || Ok(1)), Ok(1));
        assert_eq!(naming.make(DIR, false, || naming.rename(DIR, || Ok(1))), Err(Errno::EXIST));
        assert_eq!(naming.make(DIR, false, || naming.rename(DirId(8), || Ok(1))), Ok(1), "of another directory");
        assert_eq!(naming.rename(DIR, || naming.make(DIR, false, || Ok(1))), Err(Errno::EXIST));
        assert_eq!(naming.make(DIR, false, || naming.rename(DIR, || Err::<(), _>(Errno::IO))), Err(Errno::IO));
        let mut looks = 0;
        naming.settled(DIR, || {
            looks += 1;
            if looks < 3 {
                naming.rename(DIR, || ());
            }
        });
        assert_eq!(looks, 3);
    }

    #[test]
    fn nothing_is_made_where_names_fold_while_an_object_has_none() {
        let (naming, made) = (Naming::default(), AtomicU64::new(0));
        thread::scope(|scope| {
            naming.rename(DIR, || {
                scope.spawn(|| naming.make(DIR, true, || Ok(made.fetch_add(1, Ordering::SeqCst))));
                thread::sleep(Duration::from_millis(50));
                assert_eq!(made.load(Ordering::SeqCst), 0);
            });
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }
}
