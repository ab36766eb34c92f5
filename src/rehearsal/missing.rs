//! Names of the destination that the source has not, as delete/judge.rs judges them.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::asked::{Asked, End, Files};
use super::extras::Extra;
use super::{Rehearsal, tell};
use crate::catalog::DirId;
use crate::delete::{each, has, has_below, listed};
use crate::error::{Result, escape};
use crate::provider::s3::{Key, keys};
use crate::ring::Kind;
use crate::spelling::{self, Folds, Suspects, Verdict};
use crate::walk::DirNode;

impl Rehearsal<'_> {
    /// Those of `found` that the source has not. What cannot be asked for is not known to be gone.
    pub(super) async fn missing(
        &mut self,
        dir: &Arc<DirNode>,
        found: Vec<Extra>,
        after: Option<&str>,
    ) -> Result<Vec<Extra>> {
        let asked = self.asked.clone();
        let gone = match &asked.source {
            End::Files(files) => missing_in_files(files, dir, found)?,
            End::Bucket(..) => missing_in_bucket(&asked, dir, found, after).await?,
        };
        match &asked.dest {
            End::Files(files) => self.less_others(files, dir, gone).await,
            End::Bucket(..) => Ok(gone),
        }
    }

    /// Those that are not what the destination calls another name of the source.
    async fn less_others(&mut self, files: &Files, dir: &Arc<DirNode>, gone: Vec<Extra>) -> Result<Vec<Extra>> {
        let asked = self.asked.clone();
        let failed = |errno| files.error("list", &dir.path(), errno);
        let at = files.open(dir).map_err(failed)?;
        let (mut kept, mut suspects) = (Vec::new(), Vec::new());
        for extra in gone {
            match files.stat(dir, &extra.name) {
                Ok(Some(stat)) => {
                    suspects.push((extra.name.clone(), stat));
                    kept.push(extra);
                }
                Ok(None) => {}
                Err(error) => self.fail(error)?,
            }
        }
        let mut folds = Folds::new(files.file_system.tells_names_apart());
        let how = (&mut folds, files.inodes.is_lasting());
        let held = Suspects::of(files.posix(), &at, how, suspects.into_iter()).map_err(failed)?;
        let Some(mut held) = held else { return Ok(kept) };
        let mut listing = asked.source.list(dir)?;
        // Ends: the directory does.
        while let Some((entries, _)) = asked.source.next(dir, &mut listing).await? {
            entries.iter().for_each(|entry| held.meet(&entry.name));
        }
        let mut gone = Vec::new();
        for (extra, verdict) in kept.into_iter().zip(held.verdicts()) {
            match verdict {
                Verdict::Extra => gone.push(extra),
                Verdict::Same(_) => {}
                Verdict::Unsure => {
                    self.is_withheld = true;
                    let why = "the destination may have another name of the source under it";
                    tell(&format!("not deleted: {}: {why}", escape(&dir.path_of(&extra.name))));
                }
            }
        }
        Ok(gone)
    }
}

/// Where a source that folds names has answered, what it lists counts.
fn missing_in_files(files: &Files, dir: &Arc<DirNode>, found: Vec<Extra>) -> Result<Vec<Extra>> {
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    for extra in found {
        match files.stat(dir, &extra.name) {
            // In a bucket an object and a prefix of one name are two things.
            Ok(Some(stat)) if extra.item.is_some() && (stat.kind() == Kind::Dir) != extra.is_dir => gone.push(extra),
            Ok(Some(_)) => there.push(extra),
            Ok(None) => gone.push(extra),
            Err(_) => {}
        }
    }
    let failed = |errno| files.error("list", &dir.path(), errno);
    let at = files.open(dir).map_err(failed)?;
    let mut folds = Folds::new(files.file_system.tells_names_apart());
    let names = there.iter().map(|extra| &extra.name);
    let unlisted = spelling::unlisted(files.posix(), &at, &mut folds, names).map_err(failed)?;
    gone.extend(there.into_iter().filter(|extra| unlisted.contains(&extra.name)));
    Ok(gone)
}

async fn missing_in_bucket(
    asked: &Rc<Asked>,
    dir: &Arc<DirNode>,
    mut found: Vec<Extra>,
    after: Option<&str>,
) -> Result<Vec<Extra>> {
    let Some((root, client)) = asked.source.bucket() else { return Ok(found) };
    // A file system's name is there if either an object or a prefix is.
    let components = |extra: &Extra| match &extra.item {
        Some(item) => vec![item.key("")],
        None => {
            let component = keys::encode_name(extra.name.as_bytes()).0;
            vec![component.clone() + "/", component]
        }
    };
    let wanted: BTreeSet<String> = found.iter().flat_map(components).collect();
    let known: HashSet<String> = listed(client, &root.dir_key(dir), after, &wanted).await?;
    found.retain(|extra| !components(extra).iter().any(|component| known.contains(component)));
    // A listing may miss what a server tells out of order: each is asked for once more.
    let (asked, dir, failed) = (asked.clone(), dir.clone(), Rc::new(RefCell::new(None)));
    let failure = failed.clone();
    let gone = each(found, async move |extra| match is_gone(&asked, &dir, &extra).await {
        Ok(is_gone) => is_gone.then_some(extra),
        Err(error) => {
            failure.borrow_mut().get_or_insert(error);
            None
        }
    });
    let gone = gone.await.into_iter().flatten().collect();
    failed.take().map_or(Ok(gone), Err)
}

async fn is_gone(asked: &Asked, dir: &Arc<DirNode>, extra: &Extra) -> Result<bool> {
    let Some((root, client)) = asked.source.bucket() else { return Ok(false) };
    if let Some(item) = &extra.item {
        return has(client, root, dir, (&extra.name, item)).await.map(|has| !has);
    }
    let object: Option<Key> = root.key(dir, &extra.name).ok();
    if let Some(key) = object
        && client.head(&key).await?.is_some()
    {
        return Ok(false);
    }
    let below = DirNode::child(dir, DirId(0), extra.name.clone());
    has_below(client, &root.dir_key(&below)).await.map(|has| !has)
}
