//! What each kind of storage can do. So far: mounted file systems.

pub mod metadata;
pub mod posix;
