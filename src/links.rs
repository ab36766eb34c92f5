//! Hard links in flight: which name of a file is copied, and which names wait to become links to it.
//!
//! The first name of an inode that a shard meets is copied; every further one becomes an outcome of its own, and the
//! checkpoint makes the link after the first name is sealed. If the first fails, a waiting name is promoted to first.
//! A file system gives the number of a file that was removed to the next one, in the same second: names are of one
//! group only if size and mtime are one, too. A file that is written to between two of its names is two groups in this
//! pass; what is recorded of the second is not believed by the next one, which makes them one.
//!
//! Only groups in flight are in memory (I4): once a first is recorded, the catalog's `links` tree answers for it, and
//! names that wait over a checkpoint wait in its `late_links` tree.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::catalog::{DirId, Stamp};
use crate::digest::crc64;
use crate::ring::Name;

/// An inode of the source, in one state of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkKey {
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// A number for size and mtime; 0 where the device and number alone tell files apart.
    pub state: u64,
}

impl LinkKey {
    /// Device of the groups of a bucket's objects: no file system has it.
    const BUCKET_DEV: u64 = u64::MAX;

    /// Device of files that were replaced at the destination: no file system has it either.
    const REPLACED_DEV: u64 = u64::MAX - 1;

    /// The destination's file of this number, from when its first name gets another one: what is recorded of it is that
    /// first name.
    pub fn replaced(dest_ino: u64) -> LinkKey {
        LinkKey { dev: LinkKey::REPLACED_DEV, ino: dest_ino, state: 0 }
    }

    /// The group of the objects that link to a key with this hash.
    pub fn in_bucket(key_hash: u64) -> LinkKey {
        LinkKey { dev: LinkKey::BUCKET_DEV, ino: key_hash, state: 0 }
    }

    /// The number for the size and mtime of `stamp`: another for any other, but for 1 in 2^64.
    pub fn state_of(stamp: &Stamp) -> u64 {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&stamp.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&stamp.mtime.secs.to_le_bytes());
        bytes[16..].copy_from_slice(&stamp.mtime.nanos.to_le_bytes());
        crc64(&bytes)
    }

    /// The device under which the group's names wait in the catalog, apart from those of another state.
    pub fn waiting_dev(&self) -> u64 {
        self.dev ^ self.state
    }

    /// Whether it is a group of a bucket's objects.
    pub fn is_in_bucket(&self) -> bool {
        self.dev == LinkKey::BUCKET_DEV
    }
}

/// A name that belongs to a group.
pub type LinkName = (DirId, Name);

/// What a shard is to do with a name of a file that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Copy it: it is the group's first name.
    First,
    /// Likewise, while another state of the file has a first name in flight.
    Split,
    /// Leave it to the checkpoint: another name is being copied, or was.
    Further,
}

/// The names of one file that are copied, one for each state it was found in.
type Firsts = Vec<(u64, LinkName)>;

/// Firsts in flight, by inode.
#[derive(Debug, Default)]
pub struct LinkMap {
    /// By device and inode number: of each state the name being copied, or copied and not yet recorded.
    firsts: Mutex<HashMap<(u64, u64), Firsts>>,
    /// The groups of names that were promoted and are not looked at again yet.
    promoted: Mutex<HashMap<LinkName, LinkKey>>,
    /// Raised when the destination turns out to have no hard links: every further name is a file of its own.
    given_up: AtomicBool,
    /// Raised when a file that has further names is replaced under its first.
    replaced: AtomicBool,
}

impl LinkMap {
    /// The first name of a file is about to be another file's.
    pub fn note_replaced(&self) {
        self.replaced.store(true, Ordering::Relaxed);
    }

    /// Whether that was noted in this run.
    pub fn has_replaced(&self) -> bool {
        self.replaced.load(Ordering::Relaxed)
    }

    /// Every further name from now on is a file of its own.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether further names are files of their own.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Claims `name` for the group `key`. `recorded` asks the catalog, on a snapshot taken after this call began,
    /// whether the group has a first in this pass; it is asked under the lock, so that a first just recorded is always
    /// seen.
    pub fn claim<E>(
        &self,
        key: LinkKey,
        name: LinkName,
        recorded: impl FnOnce() -> Result<Option<LinkName>, E>,
    ) -> Result<Claim, E> {
        let mut numbers = self.firsts.lock();
        let firsts = numbers.entry((key.dev, key.ino)).or_default();
        let is_first = match firsts.iter().find(|(state, _)| *state == key.state) {
            Some((_, first)) => *first == name,
            None => {
                let is_first = recorded()?.is_none_or(|first| first == name);
                firsts.extend(is_first.then_some((key.state, name)));
                is_first
            }
        };
        let states = firsts.len();
        if states == 0 {
            numbers.remove(&(key.dev, key.ino));
        }
        Ok(match is_first {
            true if states > 1 => Claim::Split,
            true => Claim::First,
            false => Claim::Further,
        })
    }

    /// Makes `name` the first of `key`, whose former first failed.
    pub fn promote(&self, key: LinkKey, name: LinkName) {
        let mut numbers = self.firsts.lock();
        let firsts = numbers.entry((key.dev, key.ino)).or_default();
        firsts.retain(|(state, _)| *state != key.state);
        firsts.push((key.state, name.clone()));
        self.promoted.lock().insert(name, key);
    }

    /// Likewise, of a group whose recorded first is lost; false if a name of its file, in whatever state, is being
    /// copied.
    pub fn succeed(&self, key: LinkKey, name: LinkName) -> bool {
        let mut numbers = self.firsts.lock();
        let firsts = numbers.entry((key.dev, key.ino)).or_default();
        let is_free = firsts.is_empty();
        if is_free {
            firsts.push((key.state, name.clone()));
            self.promoted.lock().insert(name, key);
        }
        is_free
    }

    /// Whether a name of the group's file is being copied, in whatever state.
    pub fn is_claimed(&self, key: LinkKey) -> bool {
        self.firsts.lock().contains_key(&(key.dev, key.ino))
    }

    /// The group that a name was promoted in, told once: whoever takes the name up sees to it that the group hears of
    /// it, whatever the name has become meanwhile.
    pub fn take_promoted(&self, name: &LinkName) -> Option<LinkKey> {
        self.promoted.lock().remove(name)
    }

    /// Forgets a group: its first is recorded, or failed with nobody waiting.
    pub fn forget(&self, key: LinkKey) {
        let mut numbers = self.firsts.lock();
        if let Some(firsts) = numbers.get_mut(&(key.dev, key.ino)) {
            firsts.retain(|(state, _)| *state != key.state);
            if firsts.is_empty() {
                numbers.remove(&(key.dev, key.ino));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_first_a_group_until_it_is_forgotten() {
        let map = LinkMap::default();
        let key = LinkKey { dev: 1, ino: 2, state: 3 };
        let name = |n: &str| (DirId(1), Name::new(n).unwrap());
        let claim = |n, recorded: Option<LinkName>| map.claim(key, name(n), || Ok::<_, ()>(recorded)).unwrap();
        assert_eq!(claim("a", None), Claim::First);
        assert_eq!(claim("b", None), Claim::Further);
        assert_eq!(claim("a", None), Claim::First, "the first itself, tried again");
        map.promote(key, name("b"));
        assert_eq!(claim("b", None), Claim::First);
        assert_eq!(map.take_promoted(&name("a")), None);
        assert_eq!((map.take_promoted(&name("b")), map.take_promoted(&name("b"))), (Some(key), None));
        let later = LinkKey { state: 1, ..key };
        let none = || Ok::<_, ()>(None);
        assert_eq!(map.claim(later, name("d"), none), Ok(Claim::Split), "it was written to meanwhile");
        map.forget(key);
        assert_eq!(map.claim(later, name("d"), none), Ok(Claim::First));
        assert_eq!(claim("c", Some(name("b"))), Claim::Further, "the catalog knows the first");
        assert!(map.is_claimed(key) && !map.succeed(key, name("c")), "it is being copied in another state");
        map.forget(later);
        assert!(!map.is_claimed(key) && map.succeed(key, name("c")) && map.is_claimed(key));
        assert_eq!((claim("c", Some(name("b"))), map.take_promoted(&name("c"))), (Claim::First, Some(key)));
    }
}
