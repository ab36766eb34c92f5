//! [`Bucket`]: one end of a job.
use super::Checksums;
use crate::config::S3Options;
use crate::error::Result;
use crate::ring::Side;

/// One end of a job, shared by all its lanes.
pub struct Bucket {}

impl Bucket {
    /// Opens.
    pub async fn open(_name: &str, _options: &S3Options, _side: Side) -> Result<Bucket> {
        unimplemented!()
    }

    /// Same.
    pub fn is_same_account(&self, _other: &Bucket) -> bool {
        unimplemented!()
    }

    /// Sums.
    pub fn checksums(&self) -> Checksums {
        unimplemented!()
    }
}
