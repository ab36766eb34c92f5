//! Whose turn it is to give a name that a destination may take for another, and moments in which an object has none.
//!
//! What is to be called otherwise goes by way of a third name ([`names`](crate::names)): for that moment its own name
//! is free, and whoever makes something under it, or finds nothing there, has been misled.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{ReentrantMutex, ReentrantMutexGuard};

use crate::error::Errno;

/// Held, and asked, where names are given.
#[derive(Debug, Default)]
pub struct Naming {
    /// Held by whoever gives a name.
    turn: ReentrantMutex<()>,
    /// Moments without a name that have begun and ended, so that it is odd during one.
    edges: AtomicU64,
}

impl Naming {
    /// Waits for one's turn; it is over when what is returned is dropped. Who has it may ask again.
    pub fn turn(&self) -> ReentrantMutexGuard<'_, ()> {
        self.turn.lock()
    }

    /// Renames an object by way of a third name.
    pub fn rename<T>(&self, rename: impl FnOnce() -> T) -> T {
        let _turn = self.turn();
        self.edges.fetch_add(1, Ordering::SeqCst);
        let renamed = rename();
        self.edges.fetch_add(1, Ordering::SeqCst);
        renamed
    }

    /// Looks for a name, again if an object had none meanwhile. Not to be called by what renames.
    pub fn settled<T>(&self, mut look: impl FnMut() -> T) -> T {
        // Ends: renaming does.
        loop {
            let before = self.edges.load(Ordering::SeqCst);
            let found = look();
            if self.is_settled_since(before) {
                return found;
            }
            drop(self.turn());
        }
    }

    /// Makes something under a name that must be free. If an object had no name meanwhile, this may have been its name:
    /// what was made has most likely been replaced, and is answered for as if it had been there before.
    pub fn make<T>(&self, make: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let before = self.edges.load(Ordering::SeqCst);
        let made = make()?;
        if self.is_settled_since(before) {
            return Ok(made);
        }
        drop(self.turn());
        Err(Errno::EXIST)
    }

    fn is_settled_since(&self, before: u64) -> bool {
        before.is_multiple_of(2) && self.edges.load(Ordering::SeqCst) == before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_or_seen_during_a_renaming_does_not_count() {
        let naming = Naming::default();
        assert_eq!(naming.make(|| Ok(1)), Ok(1));
        assert_eq!(naming.make(|| naming.rename(|| Ok(1))), Err(Errno::EXIST));
        assert_eq!(naming.rename(|| naming.make(|| Ok(1))), Err(Errno::EXIST));
        assert_eq!(naming.make(|| naming.rename(|| Err::<(), _>(Errno::IO))), Err(Errno::IO));
        let mut looks = 0;
        naming.settled(|| {
            looks += 1;
            if looks < 3 {
                naming.rename(|| ());
            }
        });
        assert_eq!(looks, 3);
    }
}
