//! What --delete would remove, as delete/ finds it: names of the destination that the source has not, each after what
//! lies below it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::asked::{End, Files, next_page};
use super::{Level, Rehearsal, Said, Turn, tell};
use crate::config::CtimePolicy;
use crate::delete::{NAMES_MAX, holds_names, is_beside_jobs, is_job_folder};
use crate::error::{Errno, Result, escape};
use crate::filter::Sort;
use crate::job::KeyNames;
use crate::lane::listing::{Item, own_name};
use crate::lane::upload::LINKS_ATTRIBUTE;
use crate::ring::{Kind, Name};
use crate::spelling;
use crate::walk::{DirNode, Entry, Pending};

/// Directories in the way of what is none that are remembered, as a run does (job.rs).
const CLASHES_MAX: usize = 65_536;

/// A name of the destination.
pub(super) struct Extra {
    /// Its name there.
    pub name: Name,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The key, in a bucket.
    pub item: Option<Item>,
}

/// A directory that would go.
struct Branch {
    dir: Arc<DirNode>,
    /// Directories in it.
    pending: Pending,
    /// Whether nothing in it stays.
    is_clean: bool,
    /// Whether something stands for the directory itself.
    is_object: bool,
    /// The mount that what goes is on; none in a bucket.
    mount: (u64, u64),
}

impl Rehearsal<'_> {
    /// Whether the destination holds any names.
    pub(super) async fn has_dest_names(&self) -> Result<bool> {
        match &self.asked.dest {
            End::Bucket(root, client) => holds_names(client, &root.prefix).await,
            End::Files(files) => {
                let root = DirNode::root();
                Ok(files.next(&root, &mut self.asked.dest.list(&root)?)?.is_some_and(|names| !names.is_empty()))
            }
        }
    }

    /// Says what the destination has in a directory and the source has not.
    pub(super) async fn extras(&mut self, dir: &Arc<DirNode>) -> Result<()> {
        let asked = self.asked.clone();
        let mut listing = match asked.dest.list(dir) {
            Ok(listing) => listing,
            Err(error) => return self.fail(error),
        };
        // Ends: the directory does.
        loop {
            let after = listing.after.clone();
            let found = match &asked.dest {
                End::Files(files) => {
                    let mut names = VecDeque::new();
                    // A bucket is listed anew for each lot of names.
                    let least = if asked.source.bucket().is_some() { NAMES_MAX } else { spelling::LOT };
                    let mut read = Ok(false);
                    while names.len() < least {
                        match files.next(dir, &mut listing) {
                            Ok(Some(mut more)) => names.append(&mut more),
                            ended => {
                                read = ended.map(|_| true);
                                break;
                            }
                        }
                    }
                    read.and_then(|is_end| Ok((self.names_at(files, dir, names)?, is_end)))
                }
                End::Bucket(root, client) => match next_page(root, client, dir, &mut listing).await {
                    Ok(Some(page)) => {
                        listing.after = page.last().map(|item| item.key(""));
                        let own = |item: Item| {
                            let name = own_name(root, dir, &item)?;
                            Some(Extra { name, is_dir: item.object.is_none(), item: Some(item) })
                        };
                        Ok((page.into_iter().filter_map(own).collect(), false))
                    }
                    Ok(None) => return Ok(()),
                    Err(error) => Err(error),
                },
            };
            let (mut found, is_end) = match found {
                Ok(found) => found,
                Err(error) => return self.fail(error),
            };
            found.retain(|extra| self.clears(dir, extra));
            let extras = match self.missing(dir, found, after.as_deref()).await {
                Ok(extras) => extras,
                Err(error) => return self.fail(error),
            };
            if !extras.is_empty() && self.has_changed(dir)? {
                self.withhold(dir, "it changed after the interrupted run listed it", " before the next pass");
                return Ok(());
            }
            for extra in extras {
                self.extra(dir, extra).await?;
            }
            if is_end || self.stop.is_requested() {
                return Ok(());
            }
        }
    }

    fn takes(&self, dir: &DirNode, extra: &Extra) -> bool {
        let sort = if extra.is_dir { Sort::Dir } else { Sort::Other };
        self.choice.is_everything() || self.choice.takes(&dir.path_of(&extra.name), sort)
    }

    fn clears(&self, dir: &DirNode, extra: &Extra) -> bool {
        let sort = if extra.is_dir { Sort::Dir } else { Sort::Other };
        self.choice.is_everything() || self.choice.clears(&dir.path_of(&extra.name), sort)
    }

    /// Names of a file system, less the state directory. What cannot be described stays, and is a failure.
    fn names_at(&mut self, files: &Files, dir: &Arc<DirNode>, entries: VecDeque<Entry>) -> Result<Vec<Extra>> {
        let mut found = Vec::with_capacity(entries.len());
        for Entry { name, kind, .. } in entries {
            let mut is_dir = false;
            if matches!(kind, libc::DT_DIR | libc::DT_UNKNOWN) {
                let stat = match files.stat(dir, &name) {
                    Ok(stat) => stat,
                    Err(error) => {
                        self.fail(error)?;
                        continue;
                    }
                };
                let Some(stat) = stat.filter(|stat| self.state_dir != Some((stat.dev, stat.ino))) else { continue };
                is_dir = stat.kind() == Kind::Dir;
            }
            found.push(Extra { name, is_dir, item: None });
        }
        Ok(found)
    }

    /// Says that a name would go, after all below it.
    async fn extra(&mut self, dir: &Arc<DirNode>, extra: Extra) -> Result<()> {
        match extra.is_dir {
            true => self.tree(dir, extra.name, "not in the source").await.map(drop),
            false => self.say_gone(dir, &extra.name).await.map(drop),
        }
    }

    /// Says that a directory would go, for this reason, after all below it. Whether nothing of it would stay.
    pub(super) async fn tree(&mut self, dir: &Arc<DirNode>, name: Name, why: &'static str) -> Result<bool> {
        let child = DirNode::child(dir, self.new_id(), name);
        // What is mounted on the name itself is another mount, too; a bind mount may be of the same device.
        let mount = match &self.asked.dest {
            End::Files(files) => match files.open_with_stat(dir) {
                Ok((_, stat)) => (stat.dev, stat.mount_id),
                Err(error) => return self.fail(error).map(|()| false),
            },
            End::Bucket(..) => (0, 0),
        };
        let mut is_gone = false;
        let mut levels = vec![self.branch(child, Pending::root(), mount).await?];
        // Ends: every turn goes into a directory that was listed once, lists one for more of them, or leaves one.
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.pending.take() {
                let (dir, below) = (level.dir.clone(), level.pending.below());
                let child = DirNode::child(&dir, self.new_id(), name);
                levels.push(self.branch(child, below, mount).await?);
            } else if level.pending.is_cut() {
                self.clear(level, false).await?;
            } else if let Some(Branch { dir, is_clean, is_object, .. }) = levels.pop() {
                if is_clean && is_object {
                    self.deletes += 1;
                    self.say(("delete", why), &dir.path())?;
                }
                match levels.last_mut() {
                    Some(above) => above.is_clean &= is_clean,
                    None => is_gone = is_clean,
                }
            }
        }
        Ok(is_gone)
    }

    async fn branch(&mut self, dir: Arc<DirNode>, pending: Pending, mount: (u64, u64)) -> Result<Branch> {
        let is_object = self.asked.dest.bucket().is_none();
        let mut branch = Branch { dir, pending, is_clean: true, is_object, mount };
        self.clear(&mut branch, true).await?;
        Ok(branch)
    }

    /// Says of what is in a directory and is none itself that it would go, if that was not said before.
    async fn clear(&mut self, branch: &mut Branch, is_first: bool) -> Result<()> {
        let asked = self.asked.clone();
        if let End::Files(files) = &asked.dest
            && let Some(reason) = kept(files, branch)
        {
            if is_first {
                tell(&format!("not deleted: {}: {reason}", escape(&branch.dir.path())));
            }
            branch.is_clean = false;
            return Ok(());
        }
        let dir = branch.dir.clone();
        let listed = async {
            let mut listing = asked.dest.list(&dir)?;
            branch.pending.begin();
            // Ends: the directory does.
            loop {
                let found: Vec<Extra> = match &asked.dest {
                    End::Files(files) => match files.next(&dir, &mut listing)? {
                        None => return Ok(()),
                        Some(entries) => {
                            let told = entries.len();
                            let found = self.names_at(files, &dir, entries)?;
                            branch.is_clean &= found.len() == told;
                            found
                        }
                    },
                    End::Bucket(root, client) => {
                        let Some(page) = next_page(root, client, &dir, &mut listing).await? else { return Ok(()) };
                        let mut found = Vec::new();
                        for item in page {
                            if item.is_marker() && root.names == KeyNames::Posix {
                                branch.is_object = true;
                                continue;
                            }
                            match own_name(root, &dir, &item) {
                                None => branch.is_clean = false,
                                Some(name) => {
                                    found.push(Extra { name, is_dir: item.object.is_none(), item: Some(item) })
                                }
                            }
                        }
                        found
                    }
                };
                for extra in found {
                    if !self.takes(&dir, &extra) {
                        branch.is_clean = false;
                    } else if extra.is_dir {
                        branch.pending.meet(extra.name);
                    } else if is_first {
                        branch.is_clean &= self.say_gone(&dir, &extra.name).await?;
                    }
                }
            }
        };
        match listed.await {
            Ok(()) => Ok(()),
            Err(error) => {
                branch.is_clean = false;
                self.fail(error)
            }
        }
    }

    /// Whether a directory is in the way of what is none: nothing is removed for it without --delete, and a directory
    /// that holds anything is never replaced. With it what is `said` is said once the directory would be gone.
    pub(super) fn clash(&mut self, dir: &Arc<DirNode>, name: &Name, said: Said) -> Result<bool> {
        let asked = self.asked.clone();
        let End::Files(files) = &asked.dest else { return Ok(false) };
        let child = DirNode::child(dir, self.new_id(), name.clone());
        let is_empty = match asked.dest.list(&child).and_then(|mut listing| files.next(&child, &mut listing)) {
            Ok(names) => names.is_none_or(|names| names.is_empty()),
            Err(error) => return self.fail(error).map(|()| true),
        };
        if is_empty {
            return Ok(false);
        }
        let may_go = self.config.delete.is_some() && asked.single.is_none() && self.clashes.len() < CLASHES_MAX;
        match may_go && self.takes(dir, &Extra::dir(name.clone())) {
            true => self.clashes.push((dir.clone(), name.clone(), said)),
            false => self.fail_clash(dir, name)?,
        }
        Ok(true)
    }

    fn fail_clash(&mut self, dir: &Arc<DirNode>, name: &Name) -> Result<()> {
        let asked = self.asked.clone();
        let End::Files(files) = &asked.dest else { return Ok(()) };
        self.fail(files.error("replace the directory", &dir.path_of(name), Errno::NOTEMPTY))
    }

    /// Says what --delete would remove, once the source's names are listed.
    pub(super) async fn clear_all(&mut self, is_there: bool) -> Result<()> {
        let clashes = std::mem::take(&mut self.clashes);
        let is_withheld = self.unlisted > 0 && !self.is_delete_forced();
        for (dir, name, said) in clashes {
            match !is_withheld && self.tree(&dir, name.clone(), "replaced").await? {
                true => self.say(said, &dir.path_of(&name))?,
                false => self.fail_clash(&dir, &name)?,
            }
        }
        if is_withheld {
            tell("nothing would be deleted: some directories cannot be listed (--force-delete deletes all the same)");
            return Ok(());
        }
        self.walk(is_there, Turn::Extras).await
    }

    /// Says what --delete would remove from a directory. Whether it would look at those in it.
    pub(super) async fn clear_dir(&mut self, level: &mut Level) -> Result<bool> {
        let dir = level.dir.clone();
        // What lies below a mount that is not crossed stays.
        let is_read = match self.look_at(&dir) {
            Ok(reason) => reason.is_none(),
            Err(error) => self.fail(error).map(|()| false)?,
        };
        if !is_read || !level.is_there || self.is_spared(&dir)? {
            return Ok(false);
        }
        let Some(count) = self.list(level, false).await? else { return Ok(false) };
        if count == 0 && dir.parent.is_none() && !self.is_delete_forced() {
            if self.has_dest_names().await? {
                self.is_withheld = true;
                tell("nothing would be deleted: the source is empty (--force-delete deletes all the same)");
            }
            return Ok(false);
        }
        self.extras(&dir).await?;
        Ok(true)
    }

    /// Whether nothing would be deleted for a directory, whatever there is.
    fn is_spared(&mut self, dir: &DirNode) -> Result<bool> {
        let is_spared = !self.is_delete_forced() && self.is_unmounted(dir)?;
        if is_spared {
            self.withhold(
                dir,
                "the file system that was mounted there is not there any more",
                " without --force-delete",
            );
        }
        Ok(is_spared)
    }

    fn withhold(&mut self, dir: &DirNode, what: &str, unless: &str) {
        self.is_withheld = true;
        let path = if dir.parent.is_none() { ".".to_owned() } else { escape(&dir.path()) };
        tell(&format!("{path}: {what}: nothing would be deleted for it{unless}"));
    }

    /// Says that an object would go, unless it is one that others may be links to.
    async fn say_gone(&mut self, dir: &Arc<DirNode>, name: &Name) -> Result<bool> {
        let path = dir.path_of(name);
        if let End::Files(files) = &self.asked.dest
            && let Ok(at) = files.open(dir)
            && is_beside_jobs(files.posix(), &at, name)
        {
            tell(&format!("not deleted: {}: it is the state of a job", escape(&path)));
            return Ok(false);
        }
        if self.config.ctime == CtimePolicy::Ignore
            && self.asked.source.bucket().is_none()
            && let Some((root, client)) = self.asked.dest.bucket()
            && let Ok(key) = root.key(dir, name)
            && client.head(&key).await?.is_some_and(|object| object.attributes.contains_key(LINKS_ATTRIBUTE))
        {
            let why = "other objects may be hard links to it (--ignore-ctime does not tell)";
            tell(&format!("not deleted: {}: {why}", escape(&path)));
            return Ok(false);
        }
        self.deletes += 1;
        self.say(("delete", "not in the source"), &path)?;
        Ok(true)
    }
}

impl Extra {
    fn dir(name: Name) -> Extra {
        Extra { name, is_dir: true, item: None }
    }
}

/// Why a directory of a file system would stay, as delete/ has it.
fn kept(files: &Files, branch: &Branch) -> Option<&'static str> {
    let Ok((handle, stat)) = files.open_with_stat(&branch.dir) else { return Some("it cannot be opened") };
    match () {
        () if (stat.dev, stat.mount_id) != branch.mount => Some("another file system is mounted there"),
        () if is_job_folder(files.posix(), &branch.dir.name, &handle) => Some("it is the state of a job"),
        () => None,
    }
}
