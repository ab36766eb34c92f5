//! [`Download`].
use bytes::Bytes;

use super::Object;
use crate::error::Result;

/// A body that is arriving.
pub struct Download {
    /// What the object is.
    pub object: Object,
}

impl Download {
    /// The next bytes.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        unimplemented!()
    }
}
