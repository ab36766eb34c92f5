//! What a source that is a bucket still has: asked for a page of names at a time, and for a single name.

use std::collections::{BTreeSet, HashSet};

use crate::error::Result;
use crate::job::BucketRoot;
use crate::lane::listing::{Item, items};
use crate::provider::s3::{Client, From, Key};
use crate::ring::Name;
use crate::walk::DirNode;

/// Those of `wanted` that a bucket's directory holds: components of keys, prefixes with their slash. All of them lie
/// behind the component `after`. What it misses of a server that tells keys out of their order is asked for by itself
/// before anything goes ([`has`]).
pub(super) async fn listed(
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
pub(super) async fn has(
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
pub(super) async fn has_below(client: &Client, prefix: &str) -> Result<bool> {
    let page = client.list(prefix, &From::Start).await?;
    Ok(!(page.objects.is_empty() && page.prefixes.is_empty()))
}

/// Whether keys begin with `prefix` besides the one that is the prefix.
pub(super) async fn holds_names(client: &Client, prefix: &str) -> Result<bool> {
    let page = client.list(prefix, &From::Start).await?;
    let is_own = |key: &str| Key::new(key.to_owned()).is_ok() && key == prefix;
    Ok(page.next.is_some() || !page.prefixes.is_empty() || page.objects.iter().any(|object| !is_own(&object.key)))
}
