//! Words of any bytes through a parser of text: each byte becomes the character of the same number (ISO 8859-1).
//!
//! ASCII stays as it is, so option names match; everything else comes back byte for byte.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A word as text, one character a byte.
pub(super) fn encode(word: &OsString) -> String {
    word.as_bytes().iter().map(|&byte| char::from(byte)).collect()
}

/// The bytes of an encoded text. What never was a byte (a parser's own words beyond U+00FF) stays as UTF-8.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(byte) => bytes.push(byte),
            Err(_) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// An option's value in its own bytes, as argh asks for it.
pub(super) fn decode_value(text: &str) -> Result<OsString, String> {
    Ok(OsString::from_vec(decode(text)))
}

/// An option's value that can only be text.
pub(super) fn decode_text(text: &str) -> Result<String, String> {
    match String::from_utf8(decode(text)) {
        Ok(text) if !text.is_empty() => Ok(text),
        Ok(_) => Err("a value that is not empty".to_owned()),
        Err(_) => Err("a value in UTF-8".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let word = OsString::from_vec((0..=255).collect());
        let text = encode(&word);
        assert_eq!(text.chars().count(), 256);
        assert_eq!(decode_value(&text), Ok(word));
    }
}
