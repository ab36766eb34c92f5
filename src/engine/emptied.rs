//! Whether a destination bucket holds anything yet of what its job has stored there.
//!
//! ```text
//! something below the prefix                       a run goes on
//! nothing, and nothing was stored so far           likewise: the run before was interrupted, or deleted all of it
//! nothing, and the catalog calls objects stored    refused: they would be taken for done, and none is there
//!   --recopy, or a device, of which all is copied  a run goes on, and stores all of it again
//! ```
//! A bucket has no inode and no time of birth to be known by: one that was made anew under its name looks like this.

use super::ends;
use crate::catalog::{Catalog, Record, Status};
use crate::config::{Config, Retry, scaled};
use crate::error::{Error, Result, escape};
use crate::job::BucketRoot;
use crate::provider::s3::Client;
use crate::resume::Kind;
use crate::roots::Roots;
use crate::walk::DirNode;

/// Entries of the catalog that are read at a time.
const PAGE: usize = scaled(4096, 3);

/// Refuses a destination bucket, if it is one, that was emptied since the job has stored objects in it. `name` is the
/// destination's.
pub(crate) fn refuse(
    config: &Config,
    catalog: &Catalog,
    kind: Kind,
    (roots, name, dest): (&Roots, &[u8], Option<&BucketRoot>),
) -> Result<()> {
    let Some(dest) = dest.filter(|_| kind != Kind::First && config.retry != Retry::All && !roots.has_device()) else {
        return Ok(());
    };
    if !is_empty(roots, dest)? || !has_stored(catalog)? {
        return Ok(());
    }
    let way_out = match kind {
        Kind::Resume => format!("remove {} to begin anew", escape(catalog.path().as_os_str().as_encoded_bytes())),
        Kind::First | Kind::NextPass | Kind::Retry => "say --recopy to store all of it again".to_owned(),
    };
    Err(Error::refused(
        name,
        format!("holds nothing of what this job has stored: it was emptied, or made anew; {way_out}"),
    ))
}

/// Whether nothing is below the prefix; of a job about one object, whether that is not there.
fn is_empty(roots: &Roots, dest: &BucketRoot) -> Result<bool> {
    let Some(single) = &roots.single else { return Ok(dest.is_empty) };
    let Ok(key) = dest.key(&DirNode::root(), &single.dest_name) else { return Ok(false) };
    let head = async { Client::new(dest.bucket.clone())?.head(&key).await };
    Ok(ends::block_on(head)?.is_none())
}

/// Whether the catalog calls any object stored.
fn has_stored(catalog: &Catalog) -> Result<bool> {
    let (reader, mut after) = (catalog.reader()?, None);
    // Ends: each page lies strictly behind the one before.
    loop {
        let page = reader.all_entries(after.as_ref(), PAGE)?;
        let Some((dir, name, _)) = page.last() else { return Ok(false) };
        after = Some((*dir, name.clone()));
        if page.iter().any(|(.., record)| is_stored(record)) {
            return Ok(true);
        }
    }
}

fn is_stored(record: &Record) -> bool {
    let Record::File(record) = record else { return false };
    matches!(record.status, Status::Done | Status::Written) && !record.losses.has_object()
}
