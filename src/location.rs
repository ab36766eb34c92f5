//! Where data comes from and goes to, as named on the command line.
//!
//! Parsing only: nothing here touches a file system. `s3://` names are recognised so that they can be answered
//! with a clear line until the S3 provider is there.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// One side of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory, file or block device in the file system.
    Posix(PathBuf),
    /// `s3://bucket/prefix`; the prefix has no leading slash and may be empty.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What every key begins with.
        prefix: Vec<u8>,
    },
}

impl Location {
    /// Reads a `--source` or `--dest` value. `Err` holds what is wrong with it, for the user.
    pub fn parse(text: OsString) -> Result<Location, String> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err("is empty".into());
        }
        match bytes.strip_prefix(b"s3://") {
            Some(rest) => parse_s3(rest),
            None => Ok(Location::Posix(PathBuf::from(text))),
        }
    }

    /// The location as it was written, for messages.
    pub fn display(&self) -> Vec<u8> {
        match self {
            Location::Posix(path) => path.as_os_str().as_bytes().to_vec(),
            Location::S3 { bucket, prefix } => {
                let mut text = format!("s3://{bucket}/").into_bytes();
                text.extend_from_slice(prefix);
                text
            }
        }
    }
}

fn parse_s3(rest: &[u8]) -> Result<Location, String> {
    let slash = rest.iter().position(|&b| b == b'/');
    let (bucket, prefix) = match slash {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &rest[rest.len()..]),
    };
    if bucket.is_empty() {
        return Err("names no bucket".into());
    }
    let bucket =
        OsString::from_vec(bucket.to_vec()).into_string().map_err(|_| "has a bucket name that is not UTF-8")?;
    Ok(Location::S3 { bucket, prefix: prefix.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_buckets_are_told_apart() {
        assert_eq!(Location::parse("s3:/x".into()), Ok(Location::Posix("s3:/x".into())));
        let s3 = Location::S3 { bucket: "b".into(), prefix: b"p/q".to_vec() };
        assert_eq!(Location::parse("s3://b/p/q".into()), Ok(s3));
        assert!(Location::parse("s3:///p".into()).is_err());
        assert!(Location::parse("".into()).is_err());
    }
}
