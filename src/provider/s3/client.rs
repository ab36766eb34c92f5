//! [`Client`].
use std::sync::Arc;

use bytes::Bytes;

use super::{Bucket, ByteRange, Download, From, Key, Object, Page, Part, Stored};
use crate::error::Result;

/// One lane's connections to a bucket.
pub struct Client {}

#[allow(missing_docs, unused_variables, clippy::too_many_arguments)]
impl Client {
    pub fn new(bucket: Arc<Bucket>) -> Result<Client> {
        unimplemented!()
    }
    pub fn bucket(&self) -> &Arc<Bucket> {
        unimplemented!()
    }
    pub async fn list(&self, prefix: &str, from: &From) -> Result<Page> {
        unimplemented!()
    }
    pub async fn head(&self, key: &Key) -> Result<Option<Object>> {
        unimplemented!()
    }
    pub async fn get(&self, key: &Key, range: Option<ByteRange>, etag: Option<&str>) -> Result<Download> {
        unimplemented!()
    }
    pub async fn put(&self, key: &Key, body: Bytes, crc64: u64, attributes: &[(String, String)]) -> Result<Stored> {
        unimplemented!()
    }
    pub async fn create_upload(&self, key: &Key, attributes: &[(String, String)]) -> Result<String> {
        unimplemented!()
    }
    pub async fn put_part(&self, key: &Key, upload: &str, number: u32, body: Bytes, crc64: u64) -> Result<Part> {
        unimplemented!()
    }
    pub async fn complete_upload(&self, key: &Key, upload: &str, parts: &[Part], crc64: u64) -> Result<Stored> {
        unimplemented!()
    }
    pub async fn abort_upload(&self, key: &Key, upload: &str) -> Result<()> {
        unimplemented!()
    }
    pub async fn list_parts(&self, key: &Key, upload: &str) -> Result<Option<Vec<Part>>> {
        unimplemented!()
    }
    pub async fn list_uploads(&self, prefix: &str) -> Result<Vec<(String, String)>> {
        unimplemented!()
    }
    pub async fn copy(
        &self,
        source: &Bucket,
        source_key: &Key,
        etag: &str,
        key: &Key,
        attributes: Option<&[(String, String)]>,
    ) -> Result<Stored> {
        unimplemented!()
    }
    pub async fn copy_part(
        &self,
        source: &Bucket,
        source_key: &Key,
        etag: &str,
        range: ByteRange,
        key: &Key,
        upload: &str,
        number: u32,
    ) -> Result<Part> {
        unimplemented!()
    }
    pub async fn delete(&self, key: &Key) -> Result<()> {
        unimplemented!()
    }
}
