//! Bytes of a stored value: varints, and the CRC that ties a value to its key.
//!
//! ```text
//!   stored value = body | CRC-32 of key and body, 4 bytes little endian
//! ```
//! The CRC covers the key because a flipped bit in a key is as wrong as one in a value. LMDB has no checksum of its
//! own: a flipped bit in a page reads back without a word.

/// What is wrong with a stored value; the reader adds where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage(pub &'static str);

/// A decoder's result.
pub type Decoded<T> = Result<T, Damage>;

/// Bytes of the CRC at a stored value's end.
pub(super) const CRC_BYTES: usize = 4;

/// Appends the CRC over `key` and all of `value`.
pub(super) fn seal(key: &[u8], value: &mut Vec<u8>) {
    let crc = crc_of(key, value);
    value.extend_from_slice(&crc.to_le_bytes());
}

/// The body of a stored value, its CRC checked.
pub(super) fn unseal<'v>(key: &[u8], value: &'v [u8]) -> Decoded<&'v [u8]> {
    let (body, crc) = value.split_last_chunk::<CRC_BYTES>().ok_or(Damage("a value is cut short"))?;
    if u32::from_le_bytes(*crc) != crc_of(key, body) {
        return Err(Damage("a value's checksum does not fit"));
    }
    Ok(body)
}

fn crc_of(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// Writes a body.
pub(super) trait Put {
    /// Seven bits a byte, low bits first.
    fn put_varint(&mut self, value: u64);
    /// Small magnitudes of either sign in few bytes.
    fn put_signed(&mut self, value: i64);
    /// A length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_signed(&mut self, value: i64) {
        self.put_varint(((value << 1) ^ (value >> 63)) as u64);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

/// Reads a body from its start. Every read says what is missing instead of panicking.
pub(super) struct Take<'b>(pub &'b [u8]);

impl<'b> Take<'b> {
    pub fn byte(&mut self) -> Decoded<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Damage("a record is cut short"))?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn varint(&mut self) -> Decoded<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage("a number is out of range"))
    }

    pub fn varint_u32(&mut self) -> Decoded<u32> {
        u32::try_from(self.varint()?).map_err(|_| Damage("a number is out of range"))
    }

    pub fn signed(&mut self) -> Decoded<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn bytes(&mut self) -> Decoded<&'b [u8]> {
        let len = usize::try_from(self.varint()?).map_err(|_| Damage("a number is out of range"))?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(Damage("a record is cut short"))?;
        self.0 = rest;
        Ok(head)
    }

    /// Ends the reading: nothing may be left over.
    pub fn end(self) -> Decoded<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Damage("a record is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size_come_back() {
        for value in (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1, u64::MAX >> bit]) {
            let mut body = Vec::new();
            body.put_varint(value);
            body.put_signed(value as i64);
            let mut take = Take(&body);
            assert_eq!(take.varint(), Ok(value));
            assert_eq!(take.signed(), Ok(value as i64));
            assert_eq!(take.end(), Ok(()));
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_damage() {
        assert!(Take(&[0xff; 11]).varint().is_err());
        assert!(Take(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varint().is_err());
    }

    #[test]
    fn any_flipped_bit_of_key_or_value_is_seen() {
        let key = b"\x01\x07name".to_vec();
        let mut value = b"body".to_vec();
        seal(&key, &mut value);
        assert_eq!(unseal(&key, &value), Ok(&b"body"[..]));
        for bit in 0..key.len() * 8 {
            let mut key = key.clone();
            key[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&key, &value).is_err());
        }
        for bit in 0..value.len() * 8 {
            let mut value = value.clone();
            value[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&key, &value).is_err());
        }
    }
}
