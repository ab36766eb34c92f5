//! Keys: which may be sent, and how a name of a file system becomes part of one and the other way round. Pure.
//!
//! I8: a URL resolves `.` and `..` segments away, in the library that builds it and in every HTTP client, so
//! `a/../b` would be `b` and `../x/y` the key `y` of bucket `x`; an empty key is the bucket itself. Such keys cannot be
//! sent. Towards a file system a component must be one name.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest key, in bytes of UTF-8.
pub const KEY_BYTES_MAX: usize = 1024;

/// A key that may be sent to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Takes a key of 1..=1024 bytes without NUL and without a segment `.` or `..`; else tells what is wrong with it.
    pub fn new(key: String) -> Result<Key, &'static str> {
        match key.len() {
            0 => return Err("the key is empty"),
            1..=KEY_BYTES_MAX => {}
            _ => return Err("the key is longer than 1,024 bytes"),
        }
        if key.contains('\0') {
            return Err("the key holds a NUL");
        }
        if key.split('/').any(|segment| segment == "." || segment == "..") {
            return Err("the key holds a component `.` or `..`");
        }
        Ok(Key(key))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A name of a file system as a component of a key, and whether it had to be escaped: a name that is not UTF-8, or
/// holds control characters (XML cannot carry them), gets those bytes and every `%` as `%XX`; so does a name that would
/// be taken for an escaped one. An escaped name travels along as `gfast-name` ([`name_attribute`]).
///
/// Names and components that [`name_of`] takes correspond one to one: no two names have the same component.
pub fn encode_name(name: &[u8]) -> (String, bool) {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) && unescape(text).is_none() => (text.to_owned(), false),
        _ => (escape(name), true),
    }
}

/// The name that a component of a key stands for, without a look at the object's attributes: the one that
/// [`encode_name`] makes this component of. `None` for a component no name has: one with control characters.
pub fn name_of(component: &str) -> Option<Vec<u8>> {
    if let Some(raw) = unescape(component) {
        return Some(raw);
    }
    (!component.chars().any(char::is_control)).then(|| component.as_bytes().to_vec())
}

/// What was escaped to `component`, if it is what escaping makes of a name that needs it: none holds a NUL.
fn unescape(component: &str) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                raw.push(hex(*high)? << 4 | hex(*low)?);
                rest = after;
            }
            (b'%', _) => return None,
            _ => {
                raw.push(first);
                rest = after;
            }
        }
    }
    // Ends: what is unescaped is shorter than what it was, or there was nothing to unescape.
    let may_be = raw != component.as_bytes() && !raw.contains(&0);
    (may_be && encode_name(&raw) == (component.to_owned(), true)).then_some(raw)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn escape(name: &[u8]) -> String {
    let mut component = String::with_capacity(name.len() + 16);
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '%' {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_escaped(&mut component, byte));
            } else {
                component.push(c);
            }
        }
        chunk.invalid().iter().for_each(|&byte| push_escaped(&mut component, byte));
    }
    component
}

fn push_escaped(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The value of `gfast-name` for a raw name: base64url without padding.
pub fn name_attribute(name: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

/// What [`name_attribute`] made this text of.
pub fn name_of_attribute(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_that_a_url_would_change_are_refused() {
        let refused = ["", ".", "..", "a/./b", "a/../b", "../x", "a/..", "a\0b"];
        for key in refused {
            assert!(Key::new(key.to_owned()).is_err(), "{key:?}");
        }
        assert!(Key::new("k".repeat(KEY_BYTES_MAX + 1)).is_err());
        for key in ["a//b", "/a", "a/", "...", "a/.b", "%2e%2e/", " ", "\u{1}", &"k".repeat(KEY_BYTES_MAX)] {
            assert_eq!(Key::new(key.to_owned()).unwrap().as_str(), key);
        }
    }

    #[test]
    fn only_names_that_need_it_are_escaped() {
        assert_eq!(encode_name("\u{e4} %41+".as_bytes()), ("\u{e4} %41+".to_owned(), false));
        assert_eq!(encode_name(b"a\xff\n%"), ("a%FF%0A%25".to_owned(), true));
        assert_eq!(encode_name(b"100%"), ("100%".to_owned(), false));
        assert_eq!(encode_name(b"a%FF"), ("a%25FF".to_owned(), true), "or it would be the component of a\\xff");
        assert_eq!(name_of("caf%C3%A9").as_deref(), Some(&b"caf%C3%A9"[..]), "nobody escapes what is UTF-8");
    }

    #[test]
    fn what_no_name_is_escaped_to_is_a_name_itself() {
        for component in ["x%00y", "x%00%FF", "a%2Fb", "caf%e9.txt", "caf%C3%A9.txt"] {
            assert_eq!(name_of(component).as_deref(), Some(component.as_bytes()));
            assert_eq!(encode_name(component.as_bytes()), (component.to_owned(), false));
        }
        assert_eq!(name_of("caf%E9.txt").as_deref(), Some(&b"caf\xe9.txt"[..]));
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in prop::collection::vec(1u8.., 1..255)) {
            prop_assume!(!name.contains(&b'/') && name != b"." && name != b"..");
            let (component, is_escaped) = encode_name(&name);
            prop_assert!(!component.chars().any(char::is_control));
            let attribute = is_escaped.then(|| name_attribute(&name));
            prop_assert!(attribute.is_none_or(|text| name_of_attribute(&text).as_ref() == Some(&name)));
            prop_assert_eq!(name_of(&component), Some(name));
        }

        #[test]
        fn every_component_has_one_name(component in "(%[0-9A-F]{2}|%25|[a-z%]){0,12}") {
            let name = name_of(&component).unwrap();
            prop_assert_eq!(encode_name(&name).0, component);
        }
    }
}
