//! POSIX attributes as user metadata of an object, and back. Pure.
//!
//! Written in the names of AWS's own tools (DataSync, FSx for Lustre, File Gateway, S3 Files), so that those restore
//! what gfast stored:
//!
//! ```text
//! file-permissions   st_mode, octal with the type: 0100644
//! file-owner         uid, decimal             file-group   gid, decimal
//! file-atime         nanoseconds + "ns"       file-mtime   likewise
//! gfast-name         the raw name, base64url, where the key holds it escaped
//! gfast-link         the key whose further hard link this object is, percent-escaped to ASCII
//! gfast-rdev         device number of a device node, decimal
//! ```
//! Read as well: rclone's `mode` (octal), `uid`, `gid`, `mtime` (seconds), `atime` (RFC 3339), `rdev`; s3fs's `mode`
//! (decimal), `mtime`/`atime` (seconds, with or without a fraction). rclone and s3fs differ in the base of `mode`: of
//! the two readings the one whose type bits name a file type is taken, rclone's first. `file-permissions` without the
//! type of a file, or with one that there is not, are those of a regular file: its content is what the object holds.
//!
//! Values are ASCII: servers return other bytes in the words of RFC 2047.

use std::collections::BTreeMap;

use super::{keys, times};
use crate::ring::{Stat, Time};

/// What an object's metadata says about the file it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Posix {
    /// `st_mode`, type bits included.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Time>,
    /// Last change of the content.
    pub mtime: Option<Time>,
    /// The key of the first of several hard links.
    pub link: Option<String>,
    /// `gfast-name` as it stands: whoever wrote it has escaped the name in the key.
    pub name: Option<String>,
    /// Device number of a device node.
    pub rdev: Option<u64>,
}

/// The metadata of an object that holds what `stat` describes. `raw_name` is given where the key holds the name
/// escaped, `link` is the first link's key where the object stands for a further hard link.
pub fn encode(stat: &Stat, raw_name: Option<&[u8]>, link: Option<&str>) -> Vec<(String, String)> {
    let mut pairs = vec![
        ("file-permissions", format!("{:07o}", stat.mode)),
        ("file-owner", stat.uid.to_string()),
        ("file-group", stat.gid.to_string()),
        ("file-atime", nanoseconds(stat.atime)),
        ("file-mtime", nanoseconds(stat.mtime)),
    ];
    pairs.extend(raw_name.map(|name| ("gfast-name", keys::name_attribute(name))));
    pairs.extend(link.map(|key| (LINK, key_value(key))));
    if matches!(stat.mode & libc::S_IFMT, libc::S_IFBLK | libc::S_IFCHR) {
        pairs.push(("gfast-rdev", stat.rdev.to_string()));
    }
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Name of the attribute that makes an object a further hard link.
pub const LINK: &str = "gfast-link";
/// Longest form of a key that is readable in an attribute.
const KEY_VALUE_BYTES_MAX: usize = 1024;

/// What makes an object a further hard link of the one under `first`.
pub fn link_pair(first: &str) -> (String, String) {
    (LINK.to_owned(), key_value(first))
}

/// What tells the raw name behind an escaped component.
pub fn name_pair(raw_name: &[u8]) -> (String, String) {
    ("gfast-name".to_owned(), keys::name_attribute(raw_name))
}

/// What metadata says, in gfast's, AWS's, rclone's or s3fs's names; what cannot be read is left out.
pub fn decode(attributes: &BTreeMap<String, String>) -> Posix {
    let get = |name: &str| attributes.get(name).map(|value| value.trim());
    let either = |first: &str, second: &str| get(first).or_else(|| get(second));
    Posix {
        mode: get("file-permissions").and_then(octal).map(typed).or_else(|| get("mode").and_then(mode_of_either)),
        uid: either("file-owner", "uid").and_then(|value| value.parse().ok()),
        gid: either("file-group", "gid").and_then(|value| value.parse().ok()),
        atime: time(get("file-atime"), get("atime")),
        mtime: time(get("file-mtime"), get("mtime")),
        link: get(LINK).and_then(key_of_value),
        name: get("gfast-name").map(str::to_owned),
        rdev: either("gfast-rdev", "rdev").and_then(|value| value.parse().ok()),
    }
}

fn nanoseconds(time: Time) -> String {
    format!("{}ns", i128::from(time.secs) * 1_000_000_000 + i128::from(time.nanos))
}

fn octal(value: &str) -> Option<u32> {
    let is_number = !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { u32::from_str_radix(value, 8).ok() } else { None }
}

/// rclone's octal or s3fs's decimal `st_mode`: whichever names a file type.
fn mode_of_either(value: &str) -> Option<u32> {
    let is_typed = |mode: &u32| *mode <= 0o177_777 && names_a_type(*mode);
    octal(value).filter(is_typed).or_else(|| value.parse().ok().filter(is_typed))
}

fn names_a_type(mode: u32) -> bool {
    let kinds =
        [libc::S_IFREG, libc::S_IFDIR, libc::S_IFLNK, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFBLK, libc::S_IFCHR];
    kinds.contains(&(mode & libc::S_IFMT))
}

/// A mode that names a type: its own, or that of a regular file.
fn typed(mode: u32) -> u32 {
    if names_a_type(mode) { mode & 0o177_777 } else { libc::S_IFREG | mode & 0o7777 }
}

/// AWS's form first: nanoseconds with "ns", else milliseconds; then seconds with an optional fraction, or RFC 3339.
fn time(aws: Option<&str>, other: Option<&str>) -> Option<Time> {
    let from_aws = |value: &str| match value.strip_suffix("ns") {
        Some(digits) => from_nanoseconds(digits.parse().ok()?),
        None => from_nanoseconds(value.parse::<i128>().ok()?.checked_mul(1_000_000)?),
    };
    let from_other = |value: &str| from_seconds(value).or_else(|| times::parse(value));
    aws.and_then(from_aws).or_else(|| other.and_then(from_other))
}

fn from_nanoseconds(total: i128) -> Option<Time> {
    let secs = i64::try_from(total.div_euclid(1_000_000_000)).ok()?;
    Some(Time { secs, nanos: total.rem_euclid(1_000_000_000) as u32 })
}

/// `-1.25` is a second and a quarter before 1970; digits beyond nanoseconds are dropped.
fn from_seconds(value: &str) -> Option<Time> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let secs: i128 = whole.parse::<i64>().ok()?.into();
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: i128 = digits.parse::<u32>().ok()?.into();
    let sign = if whole.starts_with('-') { -1 } else { 1 };
    from_nanoseconds(secs * 1_000_000_000 + sign * nanos)
}

/// A key as a value: readable, or as base64url behind a `*` where it would fill the 2 KiB that an object's metadata
/// has.
fn key_value(key: &str) -> String {
    let text = escape(key);
    if text.len() <= KEY_VALUE_BYTES_MAX { text } else { format!("*{}", keys::name_attribute(key.as_bytes())) }
}

fn key_of_value(value: &str) -> Option<String> {
    match value.strip_prefix('*') {
        Some(text) => String::from_utf8(keys::name_of_attribute(text)?).ok(),
        None => unescape(value),
    }
}

/// ASCII letters, digits and a few marks as they are, everything else as `%XX`.
fn escape(key: &str) -> String {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn unescape(text: &str) -> Option<String> {
    super::xml::percent_decode(text, super::xml::Plus::Literal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn names_and_forms_are_those_of_aws() {
        let time = Time { secs: 1_700_000_000, nanos: 5 };
        let stat = Stat { mode: 0o100_644, uid: 1000, gid: 100, mtime: time, ..Stat::default() };
        let pairs = encode(&stat, Some(b"\xff"), Some("dir/\u{e4} b"));
        let expected = [
            ("file-permissions", "0100644"),
            ("file-owner", "1000"),
            ("file-group", "100"),
            ("file-atime", "0ns"),
            ("file-mtime", "1700000000000000005ns"),
            ("gfast-name", "_w"),
            ("gfast-link", "dir/%C3%A4%20b"),
        ];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn rclone_and_s3fs_are_read() {
        let rclone = decode(&attributes(&[
            ("mode", "100644"),
            ("uid", "7"),
            ("gid", "8"),
            ("mtime", "1700000000.25"),
            ("atime", "2023-11-14T22:13:20.5Z"),
            ("rdev", "0"),
        ]));
        let expected = Posix {
            mode: Some(0o100_644),
            uid: Some(7),
            gid: Some(8),
            mtime: Some(Time { secs: 1_700_000_000, nanos: 250_000_000 }),
            atime: Some(Time { secs: 1_700_000_000, nanos: 500_000_000 }),
            rdev: Some(0),
            ..Posix::default()
        };
        assert_eq!(rclone, expected);
        let s3fs = decode(&attributes(&[("mode", "33188"), ("mtime", "-1.25")]));
        assert_eq!(s3fs.mode, Some(0o100_644));
        assert_eq!(s3fs.mtime, Some(Time { secs: -2, nanos: 750_000_000 }));
        assert_eq!(decode(&attributes(&[("mode", "16877")])).mode, Some(0o040_755));
    }

    #[test]
    fn permissions_without_a_type_are_those_of_a_file() {
        let table = [
            ("0644", 0o100_644),
            ("4755", 0o104_755),
            ("0030600", 0o100_600),
            ("37777777777", 0o107_777),
            ("0120777", 0o120_777),
        ];
        for (text, mode) in table {
            assert_eq!(decode(&attributes(&[("file-permissions", text)])).mode, Some(mode), "{text}");
        }
    }

    #[test]
    fn milliseconds_of_aws_are_read_and_nonsense_is_left_out() {
        let read = decode(&attributes(&[("file-mtime", "1500"), ("file-permissions", "+9"), ("file-owner", "-1")]));
        let mtime = Some(Time { secs: 1, nanos: 500_000_000 });
        assert_eq!(read, Posix { mtime, ..Posix::default() });
        let long = "9".repeat(60);
        assert_eq!(decode(&attributes(&[("file-mtime", &long), ("mtime", &long)])), Posix::default());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (bits, uid, gid, rdev) in (0..0o170_000u32, any::<u32>(), any::<u32>(), any::<u64>()),
            (asecs, msecs) in (any::<i64>(), any::<i64>()),
            nanos in 0..1_000_000_000u32,
            name in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            link in prop::option::of(".{0,40}|[a-z\u{4e00}-\u{4fff}]{300,341}"),
        ) {
            let mode = typed(bits);
            let (atime, mtime) = (Time { secs: asecs, nanos: 0 }, Time { secs: msecs, nanos });
            let stat = Stat { mode, uid, gid, rdev, atime, mtime, ..Stat::default() };
            let pairs = encode(&stat, name.as_deref(), link.as_deref());
            let is_ascii = |value: &str| value.bytes().all(|byte| byte.is_ascii_graphic());
            prop_assert!(pairs.iter().all(|(_, value)| is_ascii(value)));
            let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(bytes <= 2048, "more than an object's metadata may be: {}", bytes);
            let posix = decode(&pairs.into_iter().collect());
            let is_node = matches!(mode & libc::S_IFMT, libc::S_IFBLK | libc::S_IFCHR);
            let expected = Posix {
                mode: Some(mode),
                uid: Some(uid),
                gid: Some(gid),
                atime: Some(atime),
                mtime: Some(mtime),
                link,
                name: name.map(|name| keys::name_attribute(&name)),
                rdev: is_node.then_some(rdev),
            };
            prop_assert_eq!(posix, expected);
        }

        #[test]
        fn any_values_are_read_without_panic(value in ".{0,40}") {
            let names = ["file-mtime", "mtime", "atime", "mode", "file-permissions", "gfast-link", "uid"];
            decode(&names.iter().map(|name| ((*name).to_owned(), value.clone())).collect());
        }
    }
}
