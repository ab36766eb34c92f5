//! Hard links at a checkpoint: waiting names become links to what was just sealed, or wait on, or are copied
//! themselves.
//!
//! ```text
//! first sealed in this batch, or recorded    waiting names are linked to it (or stored in a bucket as its links)
//! first failed, or recorded and lost         one waiting name is promoted and copied, the others wait for it
//! neither, or it is being copied again       they wait in the catalog's late links
//! ```
//!
//! What is recorded says nothing of what became of the first name's copy since: it is linked to only if it is still the
//! file that it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Checkpointer, Draft};
use crate::catalog::{DirId, Row, Stamp};
use crate::error::{Cause, Class, Errno, Error, Result};
use crate::filesystem::Reach;
use crate::job::Sealed;
use crate::lane::publish;
use crate::links::{LinkKey, LinkName};
use crate::names::{self, Claim};
use crate::provider::posix::Posix;
use crate::report::{Count, Loss};
use crate::ring::{Handle, Kind, Name, Side};
use crate::walk::{DirNode, DirPair, Work};

/// A further name waiting for its link.
pub(super) struct Further {
    /// Its group.
    pub(super) key: LinkKey,
    /// Its directory.
    pub(super) dir: Arc<DirNode>,
    /// Its name.
    pub(super) name: Name,
    /// The source's state; unknown for names that come from the catalog.
    pub(super) stamp: Stamp,
}

impl Checkpointer {
    /// Makes the links that can be made, promotes a waiting name where a first failed, leaves the rest waiting in the
    /// catalog.
    pub(super) fn settle_groups(&mut self, draft: &mut Draft) -> Result<()> {
        let mut waiting: BTreeMap<LinkKey, Vec<Further>> = BTreeMap::new();
        for further in std::mem::take(&mut draft.further) {
            waiting.entry(further.key).or_default().push(further);
        }
        let sealed: Vec<LinkKey> = draft.firsts.keys().copied().collect();
        for key in sealed.into_iter().chain(draft.orphans.iter().copied()) {
            waiting.entry(key).or_default();
        }
        for (key, names) in waiting {
            self.settle_group(draft, key, names)?;
        }
        self.publish_links(draft)
    }

    fn settle_group(&mut self, draft: &mut Draft, key: LinkKey, mut names: Vec<Further>) -> Result<()> {
        let has_failed = draft.orphans.contains(&key);
        let (first, is_lost) = match draft.firsts.get(&key) {
            Some(first) => (Some(first.clone()), false),
            None => {
                let stamp = names.first().map_or_else(Stamp::default, |name| name.stamp);
                let recorded = self.job.sealed_first(key, &stamp)?;
                let is_recorded = recorded.is_some();
                let first = self.still_there(recorded)?;
                let is_lost = is_recorded && first.is_none();
                // Asked after the look: what is being copied to where the first was may have got its number.
                let is_whole = has_failed || self.publisher.is_some() || !self.job.links.is_claimed(key);
                (first.filter(|_| is_whole), is_lost)
            }
        };
        let is_orphan = first.is_none() && has_failed;
        if first.is_some() || is_orphan {
            names.extend(self.late_names(key)?);
        }
        if is_orphan {
            return self.promote(draft, key, names);
        }
        // Who has failed was to be a first beside the one that is there (another file system): none has the claim.
        if has_failed {
            draft.settled.push(key);
        }
        if is_lost
            && let Some(heir) = names.first()
            && self.job.links.succeed(key, (heir.dir.id, heir.name.clone()))
        {
            self.hand_back(draft, names);
            return Ok(());
        }
        for name in names {
            match &first {
                Some(first) if self.publisher.is_some() => draft.published.push((first.clone(), name)),
                Some(first) => self.make_link(draft, first, name)?,
                None => wait(draft, name),
            }
        }
        Ok(())
    }

    /// Names of a group that wait in the catalog.
    fn late_names(&mut self, key: LinkKey) -> Result<Vec<Further>> {
        let late = self.job.catalog.reader()?.late_links(key.waiting_dev(), key.ino, usize::MAX)?;
        let mut names = Vec::with_capacity(late.len());
        for (id, name) in late {
            names.push(Further { key, dir: self.node(id)?, name, stamp: Stamp::default() });
        }
        Ok(names)
    }

    /// A group whose first failed: one waiting name is copied in its place, the others wait for that one.
    fn promote(&mut self, draft: &mut Draft, key: LinkKey, names: Vec<Further>) -> Result<()> {
        let Some(next) = names.first() else {
            draft.settled.push(key);
            return Ok(());
        };
        self.job.links.promote(key, (next.dir.id, next.name.clone()));
        self.hand_back(draft, names);
        Ok(())
    }

    /// The first of these names is copied, the others wait for it.
    fn hand_back(&self, draft: &mut Draft, names: Vec<Further>) {
        let mut names = names.into_iter();
        for Further { key, dir, name, .. } in names.by_ref().take(1) {
            draft.rows.extend(reopen_rows((key.waiting_dev(), key.ino), dir.id, &name));
            self.job.walker.inject(Work::File(dir, name));
        }
        names.for_each(|name| wait(draft, name));
    }

    /// A first name of which this is recorded, if what the destination has under it is still that. A user-space daemon
    /// may have given it another number meanwhile; its size tells most others. In a bucket nobody looks.
    pub(super) fn still_there(&mut self, recorded: Option<Sealed>) -> Result<Option<Sealed>> {
        let Some(first) = recorded else { return Ok(None) };
        if self.publisher.is_some() {
            return Ok(Some(first));
        }
        let (id, name) = &first.name;
        let node = self.node(*id)?;
        let inodes = self.job.dest.inodes;
        let is_there = match self.open(&node).map(|at| self.dest().stat(&at, name)) {
            Ok(Ok(there)) => {
                let is_same = self.job.dest_id(&there) == first.dest_ino;
                is_same || !inodes.is_lasting() && there.size == first.stamp.size
            }
            Ok(Err(errno)) | Err(Error { cause: Cause::Os(errno), .. }) => {
                // Of any other reason linking to it tells.
                !matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
            }
            Err(_) => true,
        };
        Ok(is_there.then_some(first))
    }

    /// Makes one link. What is recorded of it is what was copied to its first name, not what its source is by now.
    fn make_link(&mut self, draft: &mut Draft, first: &Sealed, further: Further) -> Result<()> {
        let linked = self.link(&first.name, &further.dir, &further.name);
        let Further { key, dir, name, .. } = &further;
        match linked {
            Ok(dest_ino) => self.linked(draft, first, further, dest_ino),
            // The file has as many names as the file system allows, or this name is on another file system, or the
            // file system allows one name only: it becomes a file of its own, but for the last case the first of those
            // that follow.
            Err(Error { verb: "link", cause: Cause::Os(Errno::MLINK | Errno::XDEV), .. })
                if draft.heirs.contains(key) =>
            {
                wait(draft, further);
            }
            Err(Error { verb: "link", cause: Cause::Os(errno), .. }) if is_none_there(errno) => {
                match errno {
                    Errno::MLINK | Errno::XDEV => {
                        if let Err(error) = self.job.lose_of(dir, name, Loss::HardLink) {
                            return self.link_failed(draft, further, &error);
                        }
                        draft.heirs.insert(*key);
                        self.job.links.promote(*key, (dir.id, name.clone()));
                    }
                    _ => self.job.links.give_up(),
                }
                draft.rows.extend(reopen_rows((key.waiting_dev(), key.ino), dir.id, name));
                self.job.walker.inject(Work::File(further.dir, further.name));
            }
            Err(error) if error.class() == Class::Fatal => return Err(error),
            Err(error) => self.link_failed(draft, further, &error)?,
        }
        Ok(())
    }

    fn linked(&self, draft: &mut Draft, first: &Sealed, further: Further, dest_ino: u64) {
        self.counters.add(Count::Linked, 1);
        let Further { key, dir, name, stamp } = further;
        draft.rows.push(Row::DropLateLink { dev: key.waiting_dev(), ino: key.ino, dir: dir.id, name: name.clone() });
        draft.rows.push(Row::CloseFile { dir: dir.id, name: name.clone() });
        // A bucket's link is an object of its own; one that waited in the catalog shows its state in the next listing,
        // and so does one whose first stands in for another.
        let is_own = key.is_in_bucket() && stamp != Stamp::default() && !first.stamp.is_racy();
        let stamp = if is_own { stamp } else { first.stamp };
        // What its file has lost it has lost, too; that the first name was no link itself is nothing of this one's.
        let mut losses = first.losses.without(Loss::HardLink);
        let path = crate::error::join(&self.job.path(Side::Dest, &dir), self.job.dest_name(&dir, &name));
        losses.iter().for_each(|loss| self.job.losses.record(loss, &path));
        losses.extend(self.job.take_lost(dir.id, &name));
        self.record_done(draft, Sealed { name: (dir.id, name), stamp, dest_ino, losses, ..first.clone() });
    }

    fn link_failed(&self, draft: &mut Draft, further: Further, error: &Error) -> Result<()> {
        let Further { key, dir, name, .. } = further;
        draft.rows.push(Row::DropLateLink { dev: key.waiting_dev(), ino: key.ino, dir: dir.id, name: name.clone() });
        self.failed(draft, &dir, name, error, 1, None)
    }

    /// Stores the objects of further names in a bucket, many at a time.
    fn publish_links(&mut self, draft: &mut Draft) -> Result<()> {
        let links = std::mem::take(&mut draft.published);
        let mut publications = Vec::with_capacity(links.len());
        for (first, further) in &links {
            let first_dir = self.node(first.name.0)?;
            publications.push(publish::link(&self.job, (&first_dir, &first.name.1), &further.dir, &further.name));
        }
        let Some(publisher) = &self.publisher else { return Ok(()) };
        for ((first, further), stored) in links.into_iter().zip(publisher.publish(publications)) {
            match stored {
                Ok(etag) => self.linked(draft, &first, further, etag),
                Err(error) if error.class() == Class::Fatal => return Err(error),
                Err(error) => self.link_failed(draft, further, &error)?,
            }
        }
        Ok(())
    }

    /// A name that is taken is its own object's, or the destination takes it for another's.
    fn own_name(&mut self, dir: &Arc<DirNode>, name: &Name, at: &Handle) -> Result<()> {
        let source = match self.job.source.bucket {
            Some(_) => self.job.source.handle.clone(),
            None => self.sealers[0].open_source(dir)?,
        };
        let open = DirPair { source, dest: at.clone() };
        names::own(&self.job, &*self.caller, Claim { dir, open: &open, name, dest_name: name }).map(drop)
    }

    /// Links two names, once more where a directory of either has become stale.
    fn link(&mut self, first: &LinkName, dir: &Arc<DirNode>, name: &Name) -> Result<u64> {
        match self.try_link(first, dir, name) {
            Err(error) if error.is_stale() => {
                let first_node = self.node(first.0)?;
                self.sealers[0].forget(&first_node);
                self.sealers[0].forget(dir);
                self.try_link(first, dir, name)
            }
            linked => linked,
        }
    }

    /// Links `name` to the first name's destination file; the inode both then have. A name that is taken is replaced by
    /// a link under the temporary name and a rename.
    fn try_link(&mut self, first: &LinkName, dir: &Arc<DirNode>, name: &Name) -> Result<u64> {
        let first_node = self.node(first.0)?;
        let (first_at, at) = (self.open(&first_node)?, self.open(dir)?);
        let (job, caller) = (self.job.clone(), self.caller.clone());
        let dest = Posix::new(&*caller, Side::Dest);
        let failed = |verb, errno| Error::os(verb, crate::error::join(&job.path(Side::Dest, dir), name), errno);
        let there = dest.stat(&first_at, &first.1).map_err(|errno| failed("link", errno))?;
        if job.may_have_leftovers(dir) {
            job.temporaries.remove_leftovers(&dest, (&at, dir.id), name);
        }
        match job.make(dir, || dest.link(&first_at, &first.1, &at, name)) {
            Ok(()) => return Ok(job.dest_id(&there)),
            Err(Errno::EXIST) => self.own_name(dir, name, &at)?,
            Err(errno) => return Err(names::unmade(&job, &*caller, (&at, name), failed("link", errno))),
        }
        let taken = dest.stat(&at, name).map_err(|errno| failed("stat", errno))?;
        if (taken.dev, taken.ino) == (there.dev, there.ino) {
            return Ok(job.dest_id(&there));
        }
        if taken.kind() == Kind::Dir {
            let removed = dest.remove_dir(&at, name);
            if removed == Err(Errno::NOTEMPTY) {
                job.note_clash(dir.id, name);
            }
            removed.map_err(|errno| failed("replace the directory", errno))?;
        }
        let temp = job.temporaries.of(name);
        let linked = match dest.link(&first_at, &first.1, &at, &temp) {
            Err(Errno::EXIST) if !job.temporaries.is_held(dir.id, &temp) => {
                dest.unlink(&at, &temp).map_err(|errno| failed("replace the leftover of", errno))?;
                dest.link(&first_at, &first.1, &at, &temp)
            }
            linked => linked,
        };
        linked.map_err(|errno| failed("link", errno))?;
        dest.rename(&at, &temp, name).map_err(|errno| {
            let _ = dest.unlink(&at, &temp);
            failed("rename to", errno)
        })?;
        // What looks like two files may be one behind the mount (sshfs): then the rename did nothing (rename(2)).
        if job.dest_reach() == Reach::Remote {
            let _ = dest.unlink(&at, &temp);
        }
        Ok(job.dest_id(&there))
    }
}

/// Whether an errno of link(2) says that there can be no such link.
fn is_none_there(errno: Errno) -> bool {
    matches!(errno, Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)
}

/// A name that waits no more for a first name, and has work of its own instead.
pub(super) fn reopen_rows((dev, ino): (u64, u64), dir: DirId, name: &Name) -> [Row; 2] {
    let dropped = Row::DropLateLink { dev, ino, dir, name: name.clone() };
    [dropped, Row::OpenFile { dir, name: name.clone() }]
}

fn late_row(further: &Further) -> Row {
    let Further { key, dir, name, .. } = further;
    Row::PutLateLink { dev: key.waiting_dev(), ino: key.ino, dir: dir.id, name: name.clone() }
}

fn wait(draft: &mut Draft, further: Further) {
    draft.rows.push(late_row(&further));
}
