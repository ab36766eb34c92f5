//! Objects that checkpoints store in a bucket: further hard links, and what directories are like; and uploads that are
//! given up when a pass ends.
//!
//! They have no content; all they say stands in their metadata. The checkpoints' thread is not a lane: it has a runtime
//! and a client of its own, and stores many at a time.

use std::sync::Arc;

use super::hash;
use crate::catalog::{DirStamp, Upload};
use crate::config::{Metadata, PUBLISH_DEPTH};
use crate::error::{Error, Result};
use crate::job::{Job, Past};
use crate::provider::s3::{Client, Key, Unfinished, attributes, extended};
use crate::provider::xattrs::Told;
use crate::report::LossSet;
use crate::ring::{Name, Side, Stat};
use crate::walk::DirNode;

/// One object to be stored.
pub(crate) struct Publication {
    /// Its key.
    key: Key,
    /// Its metadata.
    attributes: Vec<(String, String)>,
}

/// Stores what checkpoints have to store.
pub(crate) struct Publisher {
    /// Where requests wait.
    runtime: tokio::runtime::Runtime,
    /// Asks the bucket.
    client: Arc<Client>,
    /// Whether the objects may be there already, by a job whose catalog is gone.
    may_be_there: bool,
}

impl Publisher {
    /// For `job`, if its destination is a bucket.
    pub fn new(job: &Job) -> Result<Option<Publisher>> {
        let Some(root) = &job.dest.bucket else { return Ok(None) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(super::cannot_start)?;
        let client = Arc::new(Client::new(root.bucket.clone())?);
        let may_be_there = job.past == Past::Nothing && !root.is_empty;
        Ok(Some(Publisher { runtime, client, may_be_there }))
    }

    /// Stores all of them, several at a time; what became of each: the hash of its ETag. Ends: each has its bounded
    /// number of attempts.
    pub fn publish(&self, publications: Vec<Result<Publication>>) -> Vec<Result<u64>> {
        let may_be_there = self.may_be_there;
        self.each(publications, async move |client: &Client, publication: Result<Publication>| {
            let Publication { key, attributes } = publication?;
            if may_be_there
                && let Some(object) = client.head(&key).await?
                && object.size == 0
                && object.attributes == attributes.iter().cloned().collect()
            {
                return Ok(hash(&object.etag));
            }
            let stored = client.put(&key, bytes::Bytes::new(), 0, &attributes).await?;
            Ok(hash(&stored.etag))
        })
    }

    /// Gives uploads up that nothing will go on with, several at a time. For one whose id was never read, what may be
    /// it, and stays.
    pub fn give_up(&self, uploads: Vec<Upload>) -> Vec<Result<Vec<Unfinished>>> {
        self.each(uploads, async |client: &Client, Upload { id, key, begun_secs, .. }: Upload| {
            let key = Key::new(key).map_err(|why| Error::refused_object("the object of an upload", why))?;
            match id.as_str() {
                "" => client.uploads_in_doubt(&key, begun_secs as i64).await,
                id => client.abort_upload(&key, id).await.map(|()| Vec::new()),
            }
        })
    }

    /// Does `work` for each of `items`, several at a time, and answers in their order.
    fn each<I: 'static, O: 'static>(
        &self,
        items: Vec<I>,
        work: impl AsyncFn(&Client, I) -> Result<O> + Clone + 'static,
    ) -> Vec<Result<O>> {
        let local = tokio::task::LocalSet::new();
        let depth = Arc::new(tokio::sync::Semaphore::new(PUBLISH_DEPTH));
        local.block_on(&self.runtime, async {
            let spawn = |item| {
                let (client, depth, work) = (self.client.clone(), depth.clone(), work.clone());
                tokio::task::spawn_local(async move {
                    let _permit = depth.acquire().await;
                    work(&client, item).await
                })
            };
            let tasks: Vec<_> = items.into_iter().map(spawn).collect();
            let mut results = Vec::with_capacity(tasks.len());
            for task in tasks {
                results.push(match task.await {
                    Ok(result) => result,
                    Err(failed) => std::panic::resume_unwind(failed.into_panic()),
                });
            }
            results
        })
    }
}

/// The object of a further name of a file: it says which object holds the content.
pub(crate) fn link(job: &Job, first: (&DirNode, &Name), dir: &DirNode, name: &Name) -> Result<Publication> {
    let root = job.dest.bucket.as_ref().expect("I8: only a bucket's checkpoints publish");
    let refused = |why| Error::refused_key(crate::error::join(&job.path(Side::Dest, dir), name), why);
    let first = root.key(first.0, first.1).map_err(refused)?;
    let key = root.key(dir, name).map_err(refused)?;
    let mut attributes = vec![attributes::link_pair(first.as_str())];
    if crate::provider::s3::keys::encode_name(name.as_bytes()).1 {
        attributes.push(attributes::name_pair(name.as_bytes()));
    }
    Ok(Publication { key, attributes })
}

/// The object whose key is a directory's: it says what the directory is like. `None` for the root of a whole bucket,
/// which has no key. Of the attributes that it is to tell, those for
/// which there is no room are lost.
pub(crate) fn marker(
    job: &Job,
    dir: &DirNode,
    stamp: &DirStamp,
    extended: Told,
) -> Result<Option<(Publication, LossSet)>> {
    let root = job.dest.bucket.as_ref().expect("I8: only a bucket's checkpoints publish");
    let key = root.dir_key(dir);
    if key.is_empty() {
        return Ok(None);
    }
    let key = Key::new(key).map_err(|why| Error::refused_key(job.path(Side::Dest, dir), why))?;
    let DirStamp { mode, uid, gid, atime, mtime, .. } = *stamp;
    let stat = Stat { mode, uid, gid, atime, mtime, ..Stat::default() };
    let is_escaped = crate::provider::s3::keys::encode_name(dir.name.as_bytes()).1;
    let raw_name = is_escaped.then_some(dir.name.as_bytes());
    let mut attributes = attributes::encode(&stat, raw_name, None);
    if job.config.metadata == Metadata::TimesOnly {
        attributes.retain(|(name, _)| !matches!(name.as_str(), "file-owner" | "file-group" | "file-permissions"));
    }
    let losses = extended::append(&mut attributes, extended);
    Ok(Some((Publication { key, attributes }, losses)))
}
