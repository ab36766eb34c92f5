//! What each kind of storage can do: mounted file systems, S3.

pub mod block;
pub mod metadata;
pub mod posix;
pub mod s3;
pub mod xattrs;
