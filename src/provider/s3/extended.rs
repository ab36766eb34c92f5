//! Extended attributes and ACLs in an object's metadata. Pure.
//!
//! ```text
//! gfast-xattrs   base64url of   entry   entry   ...      entry   family, key, value
//!                               family  1 user. 2 trusted. 3 security. 4 the access ACL 5 the default ACL
//!                               key     what follows the family, its length before it; value likewise (LEB128)
//! ```
//! An object has room for 2 KiB of metadata in all, names and values together (AWS, "Working with object metadata").
//! What does not fit is a loss; ACLs are put in first, then what is small.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;

use crate::provider::xattrs::{ACCESS, DEFAULT, Told, loss_of};
use crate::report::LossSet;
use crate::ring::Name;

/// Name of the attribute.
pub const KEY: &str = "gfast-xattrs";
/// Most bytes of all metadata of an object.
const METADATA_BYTES_MAX: usize = 2048;
/// What S3 puts before the name of each attribute; whether it counts is not said, so it does.
const PREFIX_BYTES: usize = "x-amz-meta-".len();
/// Families by number.
const FAMILIES: [(u8, &str); 3] = [(1, "user."), (2, "trusted."), (3, "security.")];
const ACCESS_ACL: u8 = 4;
const DEFAULT_ACL: u8 = 5;

/// Most bytes of one attribute, its name included, that can fit at all.
pub const BYTES_MAX: usize = METADATA_BYTES_MAX * 3 / 4;

/// Adds attributes to the metadata of an object as far as there is room; those for which there is none come back.
pub fn append(pairs: &mut Vec<(String, String)>, mut attributes: Told) -> LossSet {
    let mut losses = LossSet::default();
    let used: usize = pairs.iter().map(|(name, value)| PREFIX_BYTES + name.len() + value.len()).sum();
    let room = METADATA_BYTES_MAX.saturating_sub(used + PREFIX_BYTES + KEY.len());
    let is_acl = |key: &Name| **key == *ACCESS || **key == *DEFAULT;
    attributes.sort_by_key(|(key, value)| (!is_acl(key), key.count_bytes() + value.len()));
    let mut bytes = Vec::new();
    for (key, value) in attributes {
        let before = bytes.len();
        if !put(&mut bytes, &key, &value) || bytes.len().div_ceil(3) * 4 > room {
            bytes.truncate(before);
            losses.add(loss_of(&key));
        }
    }
    if !bytes.is_empty() {
        pairs.push((KEY.to_owned(), BASE64.encode(&bytes)));
    }
    losses
}

/// What the metadata of an object tells, as it stands there; empty for nothing.
pub fn told(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    attributes.get(KEY).map(|value| value.trim().as_bytes().to_vec()).unwrap_or_default()
}

/// The attributes in what was told; those that cannot be read are left out.
pub fn decode(told: &[u8]) -> Told {
    let bytes = BASE64.decode(told).unwrap_or_default();
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    // Ends: each turn takes an entry away.
    while let Some((key, value)) = take(&mut rest) {
        found.extend(Name::new(key).ok().map(|key| (key, value)));
    }
    found
}

/// Appends an entry; false for an attribute of no known family.
fn put(bytes: &mut Vec<u8>, key: &Name, value: &[u8]) -> bool {
    let family = |name: &str| key.to_bytes().strip_prefix(name.as_bytes());
    let known = match () {
        () if **key == *ACCESS => Some((ACCESS_ACL, &[][..])),
        () if **key == *DEFAULT => Some((DEFAULT_ACL, &[][..])),
        () => FAMILIES.into_iter().find_map(|(number, name)| Some((number, family(name)?))),
    };
    let Some((number, key)) = known else { return false };
    bytes.push(number);
    for part in [key, value] {
        let mut len = part.len();
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        bytes.extend_from_slice(part);
    }
    true
}

/// Takes an entry; `None` at the end, or where it cannot be read.
fn take(rest: &mut &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (number, behind) = rest.split_first()?;
    *rest = behind;
    let (key, value) = (take_part(rest)?, take_part(rest)?);
    let key = match *number {
        ACCESS_ACL => ACCESS.to_bytes().to_vec(),
        DEFAULT_ACL => DEFAULT.to_bytes().to_vec(),
        number => {
            let (_, family) = FAMILIES.into_iter().find(|(known, _)| *known == number)?;
            [family.as_bytes(), key].concat()
        }
    };
    Some((key, value.to_vec()))
}

fn take_part<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let mut len = 0usize;
    for shift in [0, 7, 14] {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let (part, behind) = rest.split_at_checked(len)?;
            *rest = behind;
            return Some(part);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(key: &str, bytes: usize) -> (Name, Vec<u8>) {
        (Name::new(key).unwrap(), vec![7; bytes])
    }

    fn size(pairs: &[(String, String)]) -> usize {
        pairs.iter().map(|(name, value)| PREFIX_BYTES + name.len() + value.len()).sum()
    }

    fn back(pairs: &[(String, String)]) -> Vec<(Name, Vec<u8>)> {
        decode(&told(&pairs.iter().cloned().collect()))
    }

    #[test]
    fn what_fits_comes_back_and_the_rest_is_lost() {
        let mut pairs = vec![("file-mtime".to_owned(), "1700000000000000005ns".to_owned())];
        let acl = attribute("system.posix_acl_access", 60);
        let small = attribute("user.small", 100);
        let large = attribute("user.large", 1100);
        let other = attribute("security.capability", 300);
        let losses = append(&mut pairs, vec![large, small.clone(), other.clone(), acl.clone()]);
        assert_eq!(losses.iter().map(|loss| loss.key()).collect::<Vec<_>>(), ["xattrs"]);
        assert_eq!(back(&pairs), [acl, small, other]);
        assert!(size(&pairs) <= METADATA_BYTES_MAX);
        let mut none = Vec::new();
        assert!(append(&mut none, Vec::new()).is_empty() && none.is_empty());
    }

    #[test]
    fn an_attribute_of_another_family_is_lost() {
        let mut pairs = Vec::new();
        assert!(!append(&mut pairs, vec![attribute("btrfs.compression", 4)]).is_empty());
        assert!(pairs.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            parts in prop::collection::btree_map("(user|trusted|security)\\.[a-z]{1,20}", any::<Vec<u8>>(), 0..20),
        ) {
            let attributes: Vec<_> =
                parts.into_iter().map(|(key, value)| (Name::new(key).unwrap(), value)).collect();
            let mut pairs = Vec::new();
            let losses = append(&mut pairs, attributes.clone());
            prop_assert!(size(&pairs) <= METADATA_BYTES_MAX);
            let mut found = back(&pairs);
            found.sort();
            prop_assert!(losses.is_empty() == (found == attributes));
            prop_assert!(found.iter().all(|pair| attributes.contains(pair)));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".{0,60}", bytes in any::<Vec<u8>>()) {
            decode(text.as_bytes());
            decode(BASE64.encode(bytes).as_bytes());
        }
    }
}
