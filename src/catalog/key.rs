//! Keys: byte strings whose order is the order of what they stand for.
//!
//! ```text
//!   number     count of bytes (0..8) | the bytes, big endian        7 -> 01 07     70,000 -> 03 01 11 70
//!   entry      number of the directory | name                       so that a directory's entries lie together
//!   long name  first 200 bytes | 00 | 16 bytes FNV-1a               the name itself opens the value
//! ```
//! LMDB takes keys of up to 511 bytes. A name of a file system has at most 255, a component of an S3 key up to 1,024:
//! those are stored under a hash. No name holds a NUL, so the two forms cannot be confused.

use std::ffi::CStr;

use super::bytes::{Damage, Decoded, Put, Take};
use super::record::{DirId, DirState};
use crate::ring::op::Name;

/// LMDB's limit.
const KEY_BYTES_MAX: usize = 511;
/// Longest name that is stored as it is.
const NAME_BYTES_PLAIN: usize = 255;
/// Bytes of a longer name that open its key.
const NAME_BYTES_HEAD: usize = 200;
/// Longest name there is: a whole S3 key.
pub(super) const NAME_BYTES_MAX: usize = 1024;

/// A key under construction, on the stack: look-ups allocate nothing.
#[derive(Clone)]
pub(super) struct Key {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl Key {
    pub fn new() -> Key {
        Key { bytes: [0; KEY_BYTES_MAX], len: 0 }
    }

    /// Adds a number.
    pub fn number(mut self, value: u64) -> Key {
        let skip = value.leading_zeros() as usize / 8;
        self.push(&[8 - skip as u8]);
        self.push(&value.to_be_bytes()[skip..]);
        self
    }

    /// Adds a name; nothing can follow it.
    pub fn name(mut self, name: &CStr) -> Key {
        let name = name.to_bytes();
        if name.len() <= NAME_BYTES_PLAIN {
            self.push(name);
        } else {
            self.push(&name[..NAME_BYTES_HEAD]);
            self.push(&[0]);
            self.push(&fnv128(name).to_be_bytes());
        }
        self
    }

    /// Adds bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Key {
        self.push(bytes);
        self
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Fits always: three numbers of 9 bytes and a name of 255 are the longest key.
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// Key of an entry, and of its place in the index of open files.
pub(super) fn entry(dir: DirId, name: &CStr) -> Key {
    Key::new().number(dir.0).name(name)
}

/// Key of a directory in the index of directories that need work.
pub(super) fn open_dir(id: DirId, state: DirState) -> Key {
    open_dirs(state).number(id.0)
}

/// What the keys of all directories in that state begin with.
pub(super) fn open_dirs(state: DirState) -> Key {
    Key::new().raw(match state {
        DirState::Unlisted => b"\x00",
        DirState::Unfinished => b"\x01",
    })
}

/// Key of an inode.
pub(super) fn inode(dev: u64, ino: u64) -> Key {
    Key::new().number(dev).number(ino)
}

/// Key of a name that waits for an inode's first name.
pub(super) fn late_link(dev: u64, ino: u64, dir: DirId, name: &CStr) -> Key {
    inode(dev, ino).number(dir.0).name(name)
}

/// Key of a piece of the list of directories to seal again.
pub(super) fn piece(index: u64) -> Key {
    Key::new().raw(b"reseal").number(index)
}

/// First key after all pieces.
pub(super) fn piece_end() -> Key {
    below(&Key::new().raw(b"reseal")).1
}

/// First and end (exclusive) of the keys that go on after `prefix` with a number: its first byte is at most 8.
pub(super) fn below(prefix: &Key) -> (Key, Key) {
    (prefix.clone(), prefix.clone().raw(&[9]))
}

/// Reads a number from a key's start.
pub(super) fn take_number(take: &mut Take<'_>) -> Decoded<u64> {
    let len = take.byte()?;
    if len > 8 {
        return Err(Damage("a key is not in its form"));
    }
    (0..len).try_fold(0, |value, _| Ok(value << 8 | u64::from(take.byte()?)))
}

/// Whether a name is too long to be in its key.
pub(super) fn is_long(name: &CStr) -> bool {
    name.count_bytes() > NAME_BYTES_PLAIN
}

/// Opens a value whose key ends in `name`: a name too long for the key comes first.
pub(super) fn open_value(name: &CStr, value: &mut Vec<u8>) {
    if is_long(name) {
        value.put_bytes(name.to_bytes());
    }
}

/// The name that a key's rest `in_key` stands for; takes it from the value where it is too long for the key.
pub(super) fn take_name(in_key: &[u8], body: &mut Take<'_>) -> Decoded<Name> {
    let is_long = in_key.len() == NAME_BYTES_HEAD + 1 + 16 && in_key[NAME_BYTES_HEAD] == 0;
    let name = if is_long { body.bytes()? } else { in_key };
    if is_long && fnv128(name).to_be_bytes() != in_key[NAME_BYTES_HEAD + 1..] {
        return Err(Damage("a long name does not fit its key"));
    }
    Name::new(name).map_err(|_| Damage("a name holds a NUL"))
}

/// FNV-1a of 128 bits (offset basis and prime from the FNV reference). Two names that collide would share one record
/// and be copied again by every pass: harmless, and not met by accident.
pub(super) fn fnv128(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = (1 << 88) + 0x13b;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_order() {
        let mut numbers: Vec<u64> = (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]).collect();
        numbers.push(u64::MAX);
        numbers.sort_unstable();
        let keys: Vec<Vec<u8>> = numbers.iter().map(|n| Key::new().number(*n).as_bytes().to_vec()).collect();
        assert!(keys.is_sorted());
        for (number, key) in numbers.iter().zip(&keys) {
            assert_eq!(take_number(&mut Take(key)), Ok(*number));
        }
    }

    #[test]
    fn a_long_name_comes_back_from_its_value() {
        for len in [1, 255, 256, 1024] {
            let name = Name::new(vec![b'n'; len]).unwrap();
            let key = entry(DirId(u64::MAX), &name);
            let mut value = Vec::new();
            open_value(&name, &mut value);
            let mut take = Take(key.as_bytes());
            assert_eq!(take_number(&mut take), Ok(u64::MAX));
            assert_eq!(take_name(take.0, &mut Take(&value)), Ok(name));
        }
    }
}
