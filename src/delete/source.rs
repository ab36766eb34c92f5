//! What a source that is a bucket still has: asked for a page of names at a time, and for a single name.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::error::Result;
use crate::job::BucketRoot;
use crate::lane;
use crate::lane::listing::{Item, items};
use crate::provider::s3::{Client, From, Key, keys};
use crate::ring::Name;
use crate::walk::{DirNode, Entry};

/// A bucket that is asked by a thread which waits for the answer.
pub(super) struct Asked {
    /// Where requests wait.
    runtime: tokio::runtime::Runtime,
    /// Asks it.
    client: Client,
    /// Where its keys begin.
    root: BucketRoot,
}

impl Asked {
    /// For one thread.
    pub(super) fn new(root: &BucketRoot) -> Result<Asked> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(lane::cannot_start)?;
        Ok(Asked { runtime, client: Client::new(root.bucket.clone())?, root: root.clone() })
    }

    /// Whether it holds nothing but the object of the root itself.
    pub(super) fn is_empty(&self) -> Result<bool> {
        self.runtime.block_on(holds_names(&self.client, &self.root.prefix)).map(|holds| !holds)
    }

    /// Those of `names` that a directory has, of whatever sort.
    pub(super) fn listed(&self, dir: &DirNode, names: &VecDeque<Entry>) -> Result<HashSet<Name>> {
        let component = |name: &Name| keys::encode_name(name.as_bytes()).0;
        let of_name = |entry: &Entry| [component(&entry.name), component(&entry.name) + "/"];
        let wanted = names.iter().flat_map(of_name).collect();
        let found = self.runtime.block_on(listed(&self.client, &self.root.dir_key(dir), None, &wanted))?;
        let is_found = |entry: &&Entry| of_name(entry).iter().any(|component| found.contains(component));
        Ok(names.iter().filter(is_found).map(|entry| entry.name.clone()).collect())
    }

    /// Each name of a directory that a file system could have.
    pub(super) fn each_name(&self, dir: &DirNode, mut take: impl FnMut(&Name)) -> Result<()> {
        let (prefix, mut from) = (self.root.dir_key(dir), From::Start);
        self.runtime.block_on(async {
            // Ends: each page goes on behind the one before.
            loop {
                let page = self.client.list(&prefix, &from).await?;
                let listed = items(&prefix, page.objects, page.prefixes);
                listed.iter().filter_map(|item| item.name(self.root.names).ok()).for_each(|name| take(&name));
                match page.next {
                    Some(token) => from = From::Token(token),
                    None => return Ok(()),
                }
            }
        })
    }

    /// Whether it has keys below a name. It may have an object of this name as well.
    pub(super) fn is_dir(&self, dir: &DirNode, name: &Name) -> Result<bool> {
        let prefix = self.prefix_of(dir, name);
        self.runtime.block_on(has_below(&self.client, &prefix))
    }

    fn prefix_of(&self, dir: &DirNode, name: &Name) -> String {
        format!("{}{}/", self.root.dir_key(dir), keys::encode_name(name.as_bytes()).0)
    }

    /// Whether it has a name, and whether that is a directory.
    pub(super) fn look_for(&self, dir: &DirNode, name: &Name) -> Result<Option<bool>> {
        self.runtime.block_on(async {
            if let Ok(key) = self.root.key(dir, name)
                && self.client.head(&key).await?.is_some()
            {
                return Ok(Some(false));
            }
            Ok(has_below(&self.client, &self.prefix_of(dir, name)).await?.then_some(true))
        })
    }
}

/// Those of `wanted` that a bucket's directory holds: components of keys, prefixes with their slash. All of them lie
/// behind the component `after`. What it misses of a server that tells keys out of their order is asked for by itself
/// before anything goes ([`has`]).
pub(crate) async fn listed(
    client: &Client,
    prefix: &str,
    after: Option<&str>,
    wanted: &BTreeSet<String>,
) -> Result<HashSet<String>> {
    let mut found = HashSet::new();
    let Some(last) = wanted.last() else { return Ok(found) };
    let mut from = after.map_or(From::Start, |after| From::After(format!("{prefix}{after}")));
    // Ends: each page goes on behind the one before, and the last name is behind some.
    loop {
        let page = client.list(prefix, &from).await?;
        let listed = items(prefix, page.objects, page.prefixes);
        let is_past = listed.last().is_some_and(|item| item.key("") > *last);
        found.extend(listed.iter().map(|item| item.key("")).filter(|component| wanted.contains(component)));
        match page.next {
            Some(token) if !is_past => from = From::Token(token),
            _ => return Ok(found),
        }
    }
}

/// Whether a bucket has what `item` is below the directory: an object of this name, or keys below it.
pub(crate) async fn has(
    client: &Client,
    root: &BucketRoot,
    dir: &DirNode,
    (name, item): (&Name, &Item),
) -> Result<bool> {
    if item.object.is_some() {
        // What has no key that may be sent is nowhere.
        let Ok(key) = root.key(dir, name) else { return Ok(false) };
        return Ok(client.head(&key).await?.is_some());
    }
    has_below(client, &item.key(&root.dir_key(dir))).await
}

/// Whether any key begins with `prefix`.
pub(crate) async fn has_below(client: &Client, prefix: &str) -> Result<bool> {
    has_key(client, prefix, |_| true).await
}

/// Whether keys begin with `prefix` besides the one that is the prefix.
pub(crate) async fn holds_names(client: &Client, prefix: &str) -> Result<bool> {
    let is_own = |key: &str| Key::new(key.to_owned()).is_ok() && key == prefix;
    has_key(client, prefix, |key| !is_own(key)).await
}

/// Whether a key that is wanted begins with `prefix`. A page may be empty and not the last one: servers leave out of it
/// what has been removed.
async fn has_key(client: &Client, prefix: &str, is_wanted: impl Fn(&str) -> bool) -> Result<bool> {
    let mut from = From::Start;
    // Ends: each page goes on behind the one before.
    loop {
        let page = client.list(prefix, &from).await?;
        if !page.prefixes.is_empty() || page.objects.iter().any(|object| is_wanted(&object.key)) {
            return Ok(true);
        }
        match page.next {
            Some(token) => from = From::Token(token),
            None => return Ok(false),
        }
    }
}
