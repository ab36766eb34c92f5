//! Notes: what was changed while a job ran. They lie beside the header, each under one of [`NOTES_MAX`] keys that are
//! used in turn, so that the oldest gives way to the newest. A catalog of an earlier gfast has none.

use super::bytes::{Damage, Decoded, Put, Take};
use super::key::Key;
use super::record::{put_version, take_version};
use crate::report::{NOTES_MAX, Note};

/// What the keys of all notes begin with.
pub(super) fn prefix() -> Key {
    Key::new().raw(b"note")
}

/// Key of the note of this number.
pub(super) fn key(serial: u64) -> Key {
    prefix().number(serial % NOTES_MAX as u64)
}

/// Appends a note.
pub fn encode_note(serial: u64, note: &Note, body: &mut Vec<u8>) {
    put_version(body);
    body.put_varint(serial);
    body.put_varint(note.at_secs);
    body.put_bytes(note.text.as_bytes());
}

/// Reads a note and its number.
pub fn decode_note(body: &[u8]) -> Decoded<(u64, Note)> {
    let mut take = Take(body);
    if take_version(&mut take)? != 0 {
        return Err(Damage("a record is of no known kind"));
    }
    let (serial, at_secs) = (take.varint()?, take.varint()?);
    let text = std::str::from_utf8(take.bytes()?).map_err(|_| Damage("a text is not UTF-8"))?.to_owned();
    take.end()?;
    Ok((serial, Note { at_secs, text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_keys_are_used_in_turn() {
        let note = Note { at_secs: 1_800_000_000, text: "streams 32 -> 40 (SIGUSR1)".to_owned() };
        let mut body = Vec::new();
        encode_note(1003, &note, &mut body);
        assert_eq!(decode_note(&body), Ok((1003, note)));
        assert!((0..body.len()).all(|len| decode_note(&body[..len]).is_err()));
        assert_eq!(key(3).as_bytes(), key(1003).as_bytes());
        assert_ne!(key(3).as_bytes(), key(4).as_bytes());
    }
}
