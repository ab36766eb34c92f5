//! Whether a destination device may be overwritten without being told to.
//!
//! ```text
//! carries nothing                                                             yes
//! carries signatures, each in a range that this job recorded, as recorded       yes: an interrupted run has written it
//!                        in a sector that is the source's own                 yes: it is written once more
//!                        else                                                 no: somebody uses it
//! ```

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::ends;
use crate::catalog::{Catalog, DirId, FileRecord, JobStatus, Record};
use crate::config::{Config, Overwrite};
use crate::error::{Error, Result};
use crate::job::BucketRoot;
use crate::provider::block::{Device, SECTOR_BYTES, Signature};
use crate::provider::s3::{ByteRange, Client};
use crate::roots::{Roots, SingleFile};
use crate::walk::DirNode;

/// Refuses a destination device that carries something, unless it is what an interrupted run of this very job has
/// written, or that is what is wanted. `names` are the job's source and destination, `bucket` is its source's.
pub(super) fn refuse(
    config: &Config,
    roots: &Roots,
    bucket: Option<&BucketRoot>,
    names: &(Vec<u8>, Vec<u8>),
) -> Result<()> {
    let Some(device) = roots.dest.device.as_ref().filter(|_| config.devices.overwrite == Overwrite::Refuse) else {
        return Ok(());
    };
    let signatures = device.signatures()?;
    let Some(first) = signatures.first() else { return Ok(()) };
    let (mut found, mut since) = (first, "");
    if let Some(single) = &roots.single
        && let Some(catalog) = Catalog::find(&config.state_dir, &names.0, &names.1)?
        && catalog.header().status == JobStatus::Running
        && let Some(Record::File(record)) = catalog.reader()?.entry(DirId::ROOT, &single.source_name)?
        && record.dest_ino == device.identity()
    {
        let is_ours = |signature: &Signature| -> Result<bool> {
            Ok(is_as_recorded(&catalog, &record, device, signature)?
                || is_of_source((roots, single), bucket, device, signature)?)
        };
        let mut foreign = signatures.iter().filter_map(|signature| match is_ours(signature) {
            Ok(true) => None,
            Ok(false) => Some(Ok(signature)),
            Err(error) => Some(Err(error)),
        });
        match foreign.next() {
            None => return Ok(()),
            Some(signature) => found = signature?,
        }
        since = "does not hold any more what this job has written to it, and ";
    }
    let why = format!("{since}carries {}: to overwrite it say --overwrite-device", found.name);
    Err(Error::refused(&device.path, why))
}

/// Whether the signature lies in a range that the job has recorded, and the range holds what was recorded.
fn is_as_recorded(catalog: &Catalog, record: &FileRecord, device: &Device, signature: &Signature) -> Result<bool> {
    for range in catalog.reader()?.ranges(record.large_id)? {
        let is_inside = (range.offset..range.offset + range.len).contains(&signature.offset);
        if let Some(crc64) = range.crc64.filter(|_| is_inside) {
            let now = device.crc64(range.offset, range.len);
            return Ok(now.map_err(|errno| Error::os("read", &device.path, errno))? == crc64);
        }
    }
    Ok(false)
}

/// Whether the sector with the signature, which names its owner by a UUID or a table, is the source's own.
fn is_of_source(
    (roots, single): (&Roots, &SingleFile),
    bucket: Option<&BucketRoot>,
    device: &Device,
    signature: &Signature,
) -> Result<bool> {
    let found = device.sector(signature.offset).map_err(|errno| Error::os("read", &device.path, errno))?;
    let source = match (&roots.source.device, bucket) {
        (Some(source), _) => source.sector(signature.offset).unwrap_or_default(),
        (None, Some(root)) => sector_of_object(root, single, signature.offset)?,
        (None, None) => sector_of_file(roots, single, signature.offset).unwrap_or_default(),
    };
    Ok(source == found)
}

/// A sector of the source file; what lies beyond its end is not there.
fn sector_of_file(roots: &Roots, single: &SingleFile, offset: u64) -> rustix::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: OwnedFd = rustix::fs::openat(&roots.source.handle, &single.source_name, flags, Mode::empty())?;
    let mut bytes = vec![0; SECTOR_BYTES as usize];
    let count = rustix::io::pread(&file, &mut bytes[..], offset & !(SECTOR_BYTES - 1))?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The same of the source object, which may end before the sector or in it.
fn sector_of_object(root: &BucketRoot, single: &SingleFile, offset: u64) -> Result<Vec<u8>> {
    let Ok(key) = root.key(&DirNode::root(), &single.source_name) else { return Ok(Vec::new()) };
    ends::block_on(async {
        let client = Client::new(root.bucket.clone())?;
        let first = offset & !(SECTOR_BYTES - 1);
        let object = client.head(&key).await?;
        let Some(object) = object.filter(|object| object.size > first) else { return Ok(Vec::new()) };
        let range = ByteRange { offset: first, len: SECTOR_BYTES.min(object.size - first) };
        let mut body = client.get(&key, Some(range), Some(&object.etag)).await?;
        let mut bytes = Vec::new();
        // Ends: the body does.
        while let Some(chunk) = body.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    })
}
