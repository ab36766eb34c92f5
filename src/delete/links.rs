//! Objects of a bucket whose content other objects stand for: a hard link's first name goes only once no other name of
//! the file leads to it.
//!
//! A name that is met before another one of its file is removed from the source stays as it is in this pass, though its
//! object holds nothing but the other's key. The next pass sees its new ctime and stores it by itself.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::BATCH;
use super::bucket::{Clearing, each};
use crate::catalog::{DirId, Record};
use crate::error::{Result, escape};
use crate::lane::upload::LINKS_ATTRIBUTE;
use crate::provider::s3::{Key, attributes};
use crate::ring::{Name, Time};
use crate::walk::DirNode;

/// Recorded names that are asked for at a time, whether they are links; where there are more, nothing goes.
const SUSPECTS_MAX: usize = 16_384;

/// What the object of a key may be to others.
enum Content {
    /// None of theirs.
    Own,
    /// That of several hard links, with its size and time.
    Shared(u64, Option<Time>),
    /// Nobody knows.
    Unknown,
}

impl Clearing {
    /// Removes objects but for those that others lead to. Whether each is gone.
    pub(super) async fn delete_all(self: Rc<Clearing>, keys: Vec<Key>) -> Vec<bool> {
        let this = self.clone();
        let contents = each(keys.clone(), async move |key| this.content(&key).await).await;
        let mut shared = HashMap::new();
        for (key, content) in keys.iter().zip(&contents) {
            if let Content::Shared(size, mtime) = content {
                shared.insert(key.as_str().to_owned(), (*size, *mtime));
            }
        }
        let led_to = match self.clone().led_to(&shared).await {
            Ok(led_to) => led_to,
            Err(error) => {
                self.fail(error);
                shared.into_keys().collect()
            }
        };
        let may_go = move |(key, content): (Key, Content)| {
            let is_kept = matches!(content, Content::Unknown) || led_to.contains(key.as_str());
            (key, !is_kept)
        };
        let this = self.clone();
        let deletions = keys.into_iter().zip(contents).map(may_go).collect();
        each(deletions, async move |(key, may_go): (Key, bool)| match may_go {
            true => this.delete(key).await,
            false => {
                let key = escape(key.as_str().as_bytes());
                this.job.console.note(&format!("gfast: not deleted: {key}: other objects are hard links to it"));
                false
            }
        })
        .await
    }

    async fn content(&self, key: &Key) -> Content {
        if !self.has_files() {
            return Content::Own;
        }
        let Ok(_request) = self.requests.acquire().await else { return Content::Unknown };
        match self.dest.head(key).await {
            Ok(Some(object)) if object.attributes.contains_key(LINKS_ATTRIBUTE) => {
                Content::Shared(object.size, attributes::decode(&object.attributes).mtime)
            }
            Ok(_) => Content::Own,
            Err(error) => {
                self.fail(error);
                Content::Unknown
            }
        }
    }

    /// Those of `shared` that the object of a recorded name leads to. Such a name is recorded with the size and time of
    /// the content.
    async fn led_to(self: Rc<Clearing>, shared: &HashMap<String, (u64, Option<Time>)>) -> Result<HashSet<String>> {
        if shared.is_empty() {
            return Ok(HashSet::new());
        }
        let contents: HashSet<_> = shared.values().filter_map(|(size, mtime)| Some((*size, (*mtime)?))).collect();
        let suspects = self.suspects(&contents)?;
        if suspects.len() > SUSPECTS_MAX || self.is_over() {
            return Ok(shared.keys().cloned().collect());
        }
        let mut keys = Vec::with_capacity(suspects.len());
        for (dir, name) in suspects {
            let Some(dir) = self.node(dir)? else { continue };
            keys.extend(self.root.key(&dir, &name).ok());
        }
        let this = self.clone();
        let links = each(keys, async move |key| {
            let _request = this.requests.acquire().await;
            let object = this.dest.head(&key).await?;
            Ok(object.and_then(|object| attributes::decode(&object.attributes).link))
        });
        links.await.into_iter().filter_map(Result::transpose).collect()
    }

    /// Recorded names of files with these sizes and times: all of the catalog is read for a page of doomed keys.
    fn suspects(&self, contents: &HashSet<(u64, Time)>) -> Result<Vec<(DirId, Name)>> {
        let mut suspects = Vec::new();
        for id in (DirId::ROOT.0..self.job.next_id.load(Ordering::Relaxed)).map(DirId) {
            let mut after = None;
            // Ends: each page lies strictly behind the one before.
            loop {
                let page = self.job.catalog.reader()?.entries(id, after.as_deref(), BATCH)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(last.clone());
                suspects.extend(page.into_iter().filter_map(|(name, record)| match record {
                    Record::File(file) => contents.contains(&(file.stamp.size, file.stamp.mtime)).then_some((id, name)),
                    Record::Dir(_) => None,
                }));
            }
            if suspects.len() > SUSPECTS_MAX || self.is_over() {
                break;
            }
        }
        Ok(suspects)
    }

    /// A recorded directory with all it lies in.
    fn node(&self, id: DirId) -> Result<Option<Arc<DirNode>>> {
        let (mut names, mut at) = (Vec::new(), id);
        // Ends: a directory's number is higher than that of the one it lies in.
        while at != DirId::ROOT {
            let Some(record) = self.job.catalog.reader()?.dir(at)?.filter(|record| record.parent < at) else {
                return Ok(None);
            };
            names.push((at, record.name));
            at = record.parent;
        }
        let child = |parent: Arc<DirNode>, (id, name)| DirNode::child(&parent, id, name);
        Ok(Some(names.into_iter().rev().fold(DirNode::root(), child)))
    }
}
