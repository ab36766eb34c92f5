//! --delete: what the source no longer has goes from the destination, at the end of a pass.
//!
//! ```text
//! each directory that both have   names of the destination -> asked for in the source -> not there: doomed
//! a batch of doomed names         their records forgotten, their directories to be finished again: one commit (I1)
//!                                 -> each asked for once more -> removed, with all below it
//! ```
//! Only directories that this pass listed without an error are looked at; if any could not be listed, or the source is
//! empty, nothing is removed at all, unless that is forced. Names that the job's rules leave out stay. Nothing is
//! followed: every name is removed below a held directory, no symlink is entered (I8), nor another mount, nor a state
//! directory. Memory: a page of doomed names for each thread, the subdirectories of one branch, and the numbers of the
//! directories that are recorded below one that goes (I4).

mod bucket;
mod forget;
mod judge;
mod links;
mod missing;
mod source;
mod trust;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_deque::Worker;

pub(crate) use self::bucket::each;
use self::forget::forget;
pub(crate) use self::forget::forget_gone;
use self::judge::{Found, Met};
use self::source::Asked;
pub(crate) use self::source::{has, has_below, holds_names, listed};
use self::trust::{Standing, has_unlisted, is_root_lost, is_to_be_trusted, standing, tell_changed};
pub(crate) use self::trust::{is_beside_jobs, is_job_folder};
use crate::bell::Bell;
use crate::catalog::{DirId, Record};
use crate::config::{Deletes, QUEUED_DIRS_MAX, scaled};
use crate::error::{Cause, Class, Errno, Error, Result, escape, join};
use crate::filesystem::FileSystem;
use crate::filter::Sort;
use crate::job::Job;
use crate::listing::{each_page, open_pair, open_side};
use crate::provider::posix::Posix;
use crate::report::{Count, Counters};
use crate::ring::{Caller, Handle, Kind, Name, Side, Stat};
use crate::spelling;
use crate::stop::Stop;
use crate::walk::{DirCache, DirNode, DirPair, OpenDirs, Walker, Work, path_steps};

/// Doomed names whose records are forgotten by one commit.
const BATCH: usize = scaled(4096, 3);
/// Names of a directory that are held against a bucket's listing at a time.
pub(crate) const NAMES_MAX: usize = 65_536;
/// Time between two looks at the stop.
const TICK: Duration = Duration::from_millis(50);

/// What all threads share.
struct Deletion<'j> {
    job: &'j Job,
    caller: &'j dyn Caller,
    counters: &'j Counters,
    /// Directories to look at.
    walker: Walker,
    /// Removals that are still allowed.
    left: AtomicU64,
    /// Whether the source's file system tells all names apart, if it tells their case apart.
    is_source_local: bool,
}

/// Removes what the source no longer has. To be called when nothing is queued or under way, after a checkpoint.
/// `clashes` are directories in the way of what is none in the source: they go first. What is found to be missing at
/// the destination is left in the catalog's index, to be copied once more.
pub(crate) fn run(
    job: &Arc<Job>,
    caller: &Arc<dyn Caller>,
    counters: &Arc<Counters>,
    (threads, stop): (usize, &Stop),
    clashes: &[(Arc<DirNode>, Name)],
) -> Result<()> {
    let Some(deletes) = job.config.delete.filter(|_| job.single.is_none()) else { return Ok(()) };
    if !deletes.is_forced && has_unlisted(job)? {
        withhold(job, "some directories could not be listed");
        return Ok(());
    }
    if !deletes.is_forced && job.source.bucket.is_none() && is_root_lost(job, &**caller) {
        counters.add(Count::DeletesWithheld, 1);
        withhold(job, "the source is not there any more");
        return Ok(());
    }
    if job.dest.bucket.is_some() {
        return bucket::run(job, caller, counters, (deletes, stop));
    }
    run_local(job, &**caller, counters, (threads, stop, deletes), clashes)
}

/// Says that nothing is removed, and why.
fn withhold(job: &Job, why: &str) {
    job.console.error(&format!("gfast: nothing is deleted: {why} (--force-delete deletes all the same)"));
}

fn run_local(
    job: &Job,
    caller: &dyn Caller,
    counters: &Counters,
    (threads, stop, deletes): (usize, &Stop, Deletes),
    clashes: &[(Arc<DirNode>, Name)],
) -> Result<()> {
    let is_source_empty = match &job.source.bucket {
        None => is_empty(caller, Side::Source, &job.source.handle),
        Some(root) => Asked::new(root)?.is_empty()?,
    };
    if !deletes.is_forced && is_source_empty && !is_empty(caller, Side::Dest, &job.dest.handle) {
        counters.add(Count::DeletesWithheld, 1);
        withhold(job, "the source is empty");
        return Ok(());
    }
    let (walker, workers) = Walker::new(threads.max(1), Arc::new(Bell::default()));
    let left = AtomicU64::new(deletes.max.unwrap_or(u64::MAX));
    let is_source_local = FileSystem::of(&job.source.handle).is_ok_and(FileSystem::tells_names_apart);
    let deletion = Deletion { job, caller, counters, walker, left, is_source_local };
    deletion.walker.inject(Work::List(DirNode::root()));
    for (dir, name) in clashes {
        deletion.walker.inject(Work::File(dir.clone(), name.clone()));
    }
    let remove = |worker| {
        let ended = Remover::new(&deletion, worker).and_then(Remover::run);
        // What this one leaves undone the others would wait for.
        ended.inspect_err(|_| deletion.walker.stop())
    };
    let remove = &remove;
    std::thread::scope(|scope| {
        let spawn = |worker| scope.spawn(move || remove(worker));
        let removers: Vec<_> = workers.into_iter().map(spawn).collect();
        while !removers.iter().all(|remover| remover.is_finished()) {
            std::thread::park_timeout(TICK);
            if stop.is_requested() || job.fatal.lock().is_some() || deletion.walker.is_done() {
                deletion.walker.stop();
            }
        }
        removers.into_iter().try_for_each(|remover| remover.join().unwrap_or(Ok(())))
    })
}

/// Whether a root holds no names. One that cannot be read holds what nobody knows.
fn is_empty(caller: &dyn Caller, side: Side, root: &Handle) -> bool {
    let mut names = VecDeque::new();
    each_page(Posix::new(caller, side), root, |page| names.append(page)).is_ok() && names.is_empty()
}

/// A name that is to go.
struct Doomed {
    dir: Arc<DirNode>,
    name: Name,
    dest: Stat,
    record: Option<Record>,
}

/// One thread.
struct Remover<'d> {
    deletion: &'d Deletion<'d>,
    worker: Worker<Work>,
    cache: OpenDirs,
    /// The source, if it is a bucket, and the destination's open directories then.
    asked: Option<(Asked, DirCache<Handle>)>,
    /// Names whose turn comes with the next commit.
    doomed: Vec<Doomed>,
}

/// A directory being removed.
struct Level {
    node: Arc<DirNode>,
    /// Directories in it that are still there.
    subdirs: Vec<Name>,
    /// Whether nothing in it stays.
    is_clean: bool,
}

impl<'d> Remover<'d> {
    fn new(deletion: &'d Deletion<'d>, worker: Worker<Work>) -> Result<Remover<'d>> {
        let job = deletion.job;
        let asked = match &job.source.bucket {
            None => None,
            Some(root) => Some((Asked::new(root)?, DirCache::new(job.dest.handle.clone(), job.cached_dirs))),
        };
        let root = DirPair { source: job.source.handle.clone(), dest: job.dest.handle.clone() };
        let cache = OpenDirs::new(root, job.cached_dirs);
        Ok(Remover { deletion, worker, cache, asked, doomed: Vec::new() })
    }

    /// Opens a directory on both sides; a bucket has none.
    fn open(&mut self, dir: &Arc<DirNode>) -> Result<DirPair> {
        let Deletion { job, caller, .. } = *self.deletion;
        let Some((_, cache)) = &mut self.asked else { return open_pair(job, caller, &mut self.cache, dir) };
        let dest = open_side(job, caller, Side::Dest, cache, dir)?;
        Ok(DirPair { source: job.source.handle.clone(), dest })
    }

    /// Works until there are no directories left. Ends with the last names removed, or with a fatal error.
    fn run(mut self) -> Result<()> {
        let walker = &self.deletion.walker;
        while !walker.is_stopped() {
            match walker.take(&self.worker) {
                Some(Work::List(dir)) => self.look_through(vec![dir])?,
                Some(Work::File(dir, name)) => {
                    self.doom_clash(dir, name)?;
                    walker.complete();
                }
                Some(Work::Slice(..)) => unreachable!("directories are not cut here"),
                None if self.doomed.is_empty() => walker.sleep(TICK),
                None => self.remove_doomed()?,
            }
        }
        match walker.is_done() {
            true => self.remove_doomed(),
            false => Ok(()),
        }
    }

    /// How the source's side of a directory stands; a bucket is asked by name each time.
    fn standing(&self, dir: &DirNode, open: &DirPair) -> Result<Standing> {
        let Deletion { job, caller, counters, .. } = *self.deletion;
        match self.asked {
            Some(_) => Ok(Standing::AsListed),
            None => standing(job, caller, counters, dir, &open.source),
        }
    }

    /// Looks through directories; those that find no room in the queue are looked through here.
    fn look_through(&mut self, mut dirs: Vec<Arc<DirNode>>) -> Result<()> {
        let walker = &self.deletion.walker;
        while let Some(dir) = dirs.pop() {
            if is_to_be_trusted(self.deletion.job, dir.id)? {
                let found = self.look_at(&dir)?;
                for child in found {
                    match walker.queued() < QUEUED_DIRS_MAX / 2 {
                        true => drop(walker.push_dir(&self.worker, child)),
                        false => {
                            walker.expect_help();
                            dirs.push(child);
                        }
                    }
                }
            }
            walker.complete();
        }
        Ok(())
    }

    /// Finds what is doomed in a directory; answers the directories in it that both sides have.
    fn look_at(&mut self, dir: &Arc<DirNode>) -> Result<Vec<Arc<DirNode>>> {
        let Deletion { job, caller, counters, .. } = *self.deletion;
        let open = match self.open(dir) {
            Ok(open) => open,
            Err(error) => {
                self.fail(&error);
                return Ok(Vec::new());
            }
        };
        let standing = self.standing(dir, &open)?;
        if standing == Standing::Another {
            return Ok(Vec::new());
        }
        let mut met = Met { is_changed: standing == Standing::Changed, ..Met::default() };
        let (mut judged, mut names) = (Ok(()), VecDeque::new());
        let mut folds = self.folds();
        let listed = each_page(Posix::new(caller, Side::Dest), &open.dest, |page| {
            names.append(page);
            // Each lot of names may take another listing.
            let least = match () {
                () if self.asked.is_some() => NAMES_MAX,
                () if folds.are_likely() => spelling::LOT,
                () => 1,
            };
            if judged.is_ok() && names.len() >= least {
                judged = self.judge_page((dir, &open, &mut folds), &mut names, &mut met);
            }
        });
        judged = judged.and_then(|()| self.judge_page((dir, &open, &mut folds), &mut names, &mut met));
        judged?;
        if met.is_withheld {
            tell_changed(job, counters, dir);
        }
        match listed {
            Ok(()) => self.look_for_missing(dir, &open, met.held)?,
            Err(errno) => self.fail(&job.dir_error(Side::Dest, dir, "list", errno)),
        }
        Ok(met.dirs)
    }

    /// A directory in the way of what is none in the source.
    fn doom_clash(&mut self, dir: Arc<DirNode>, name: Name) -> Result<()> {
        let caller = self.deletion.caller;
        let Ok(open) = self.open(&dir) else { return Ok(()) };
        let Ok(dest) = Posix::new(caller, Side::Dest).stat(&open.dest, &name) else { return Ok(()) };
        let is_ours = dest.kind() == Kind::Dir && self.deletion.job.takes(&dir, &name, Sort::Dir);
        if is_ours && self.look_for(&dir, &open, &name) == Some(Some(false)) && !self.is_dir_too(&dir, &name) {
            self.remove(&dir, &open.dest, &name, &dest);
        }
        Ok(())
    }

    /// Whether what the source has under a name may be a directory, too, as in a bucket: then its copy is in nobody's
    /// way.
    fn is_dir_too(&self, dir: &DirNode, name: &Name) -> bool {
        let Some((asked, _)) = &self.asked else { return false };
        asked.is_dir(dir, name).inspect_err(|error| self.fail(error)).unwrap_or(true)
    }

    /// Forgets the records of the doomed names, has their directories finished again, then removes them.
    fn remove_doomed(&mut self) -> Result<()> {
        let doomed = std::mem::take(&mut self.doomed);
        if doomed.is_empty() || self.deletion.left.load(Ordering::Relaxed) == 0 {
            self.deletion.counters.add(Count::DeletesWithheld, doomed.len() as u64);
            return Ok(());
        }
        let names = doomed.iter().map(|doomed| (&*doomed.dir, &doomed.name, doomed.record.as_ref()));
        forget(&self.deletion.job.catalog, names)?;
        for of_dir in doomed.chunk_by(|a, b| Arc::ptr_eq(&a.dir, &b.dir)) {
            let dir = &of_dir[0].dir;
            let open = match self.open(dir) {
                Ok(open) => open,
                Err(error) => {
                    self.fail(&error);
                    continue;
                }
            };
            match self.standing(dir, &open)? {
                Standing::AsListed => {}
                Standing::Changed => {
                    tell_changed(self.deletion.job, self.deletion.counters, dir);
                    continue;
                }
                Standing::Another => continue,
            }
            // The source may have a name again by now, and the destination another object under it.
            let names = of_dir.iter().map(|doomed| doomed.name.clone());
            let judged = self.judge((dir, &open, &mut self.folds()), names, &HashSet::new());
            let then: HashMap<_, _> = of_dir.iter().map(|doomed| (&doomed.name, &doomed.dest)).collect();
            for (name, now, found) in judged {
                let is_it = then.get(&name).is_some_and(|then| (now.dev, now.ino) == (then.dev, then.ino));
                if found == Found::Extra && is_it {
                    self.remove(dir, &open.dest, &name, &now);
                }
            }
        }
        Ok(())
    }

    /// Removes a name, with all below it if it is a directory.
    fn remove(&self, dir: &Arc<DirNode>, at: &Handle, name: &Name, dest: &Stat) {
        match dest.kind() {
            Kind::Dir => self.remove_tree(dir, at, name),
            _ => drop(self.unlink(&dir.path(), at, name)),
        }
    }

    /// Removes a name that is no directory. Whether it is gone.
    fn unlink(&self, dir: &[u8], at: &Handle, name: &Name) -> bool {
        let Deletion { job, caller, .. } = *self.deletion;
        if is_beside_jobs(Posix::new(caller, Side::Dest), at, name) {
            let path = escape(&join(dir, name));
            job.console.note(&format!("gfast: not deleted: {path}: it is the state of a job"));
            return false;
        }
        let removed = |dest: Posix<'_>| dest.unlink(at, name);
        self.removal(dir, name, removed)
    }

    /// One removal, if it is still allowed. Whether the name is gone.
    fn removal(
        &self,
        dir: &[u8],
        name: &Name,
        remove: impl FnOnce(Posix<'_>) -> std::result::Result<(), Errno>,
    ) -> bool {
        let Deletion { job, caller, counters, .. } = *self.deletion;
        if self.is_over() {
            return false;
        }
        let taken = self.deletion.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if taken.is_err() {
            counters.add(Count::DeletesWithheld, 1);
            return false;
        }
        match remove(Posix::new(caller, Side::Dest)) {
            Ok(()) => counters.add(Count::Removed, 1),
            Err(Errno::NOENT) => {}
            Err(errno) => {
                let below = join(dir, name);
                let path = [&job.dest.path[..], b"/", &below[..]].concat();
                self.fail(&Error::os("delete", path, errno));
                return false;
            }
        }
        true
    }

    /// Removes a directory, deepest first. Few of its directories are open at a time, however deep it is.
    fn remove_tree(&self, dir: &Arc<DirNode>, at: &Handle, name: &Name) {
        let Deletion { job, caller, .. } = *self.deletion;
        // What is mounted on the name itself is another mount, too; a bind mount may be of the same device.
        let mount = match Posix::new(caller, Side::Dest).stat_handle(at) {
            Ok(stat) => (stat.dev, stat.mount_id),
            Err(errno) => return self.fail(&job.dir_error(Side::Dest, dir, "stat", errno)),
        };
        // Its own root stands for the directory it lies in.
        let above = DirNode::root();
        let mut open = DirCache::new(at.clone(), job.cached_dirs);
        let path_above = dir.path();
        let path_of = |node: &DirNode| match node.parent {
            None => path_above.clone(),
            Some(_) => {
                std::ffi::CString::new(node.path()).map_or_else(|_| Vec::new(), |below| join(&path_above, &below))
            }
        };
        let child = |parent: &Arc<DirNode>, name: Name| DirNode::child(parent, DirId(job.new_id()), name);
        let mut levels = Vec::new();
        levels.push(self.empty(&mut open, child(&above, name.clone()), mount, &path_of));
        // Ends: every turn removes a directory, or goes into one that was listed once.
        while let Some(level) = levels.last_mut() {
            if self.is_over() {
                return;
            }
            if self.deletion.left.load(Ordering::Relaxed) == 0 {
                self.deletion.counters.add(Count::DeletesWithheld, 1);
                return;
            }
            if let Some(subdir) = level.subdirs.pop() {
                let node = child(&level.node, subdir);
                levels.push(self.empty(&mut open, node, mount, &path_of));
                continue;
            }
            let Some(Level { node, is_clean, .. }) = levels.pop() else { return };
            let Some(parent) = &node.parent else { return };
            let handle = reopen(&mut open, caller, parent);
            let is_gone = is_clean
                && handle.is_ok_and(|at| {
                    self.removal(&path_of(parent), &node.name, |dest| dest.remove_dir(&at, &node.name))
                });
            if let Some(level) = levels.last_mut() {
                level.is_clean &= is_gone;
            }
        }
    }

    /// Removes what is in a directory and is none itself.
    fn empty(
        &self,
        open: &mut DirCache<Handle>,
        node: Arc<DirNode>,
        mount: (u64, u64),
        path_of: &dyn Fn(&DirNode) -> Vec<u8>,
    ) -> Level {
        let Deletion { job, caller, .. } = *self.deletion;
        let dest = Posix::new(caller, Side::Dest);
        let path = path_of(&node);
        let mut level = Level { node: node.clone(), subdirs: Vec::new(), is_clean: true };
        let opened =
            reopen(open, caller, &node).and_then(|handle| dest.stat_handle(&handle).map(|stat| (handle, stat)));
        let listed = opened.and_then(|(handle, stat)| {
            let reason = match () {
                _ if (stat.dev, stat.mount_id) != mount => Some("another file system is mounted there"),
                _ if is_job_folder(dest, &node.name, &handle) => Some("it is the state of a job"),
                _ => None,
            };
            if let Some(reason) = reason {
                job.console.note(&format!("gfast: not deleted: {}: {reason}", escape(&path)));
            }
            if reason.is_some() || (stat.dev, stat.ino) == job.state_dir {
                level.is_clean = false;
                return Ok(());
            }
            each_page(dest, &handle, |page| {
                for entry in page.drain(..) {
                    let is_dir = match entry.kind {
                        libc::DT_UNKNOWN => dest.stat(&handle, &entry.name).is_ok_and(|stat| stat.kind() == Kind::Dir),
                        kind => kind == libc::DT_DIR,
                    };
                    let sort = if is_dir { Sort::Dir } else { Sort::Other };
                    if !job.choice.takes(&join(&path, &entry.name), sort) {
                        level.is_clean = false;
                    } else if is_dir {
                        level.subdirs.push(entry.name);
                    } else {
                        level.is_clean &= self.unlink(&path, &handle, &entry.name);
                    }
                }
            })
        });
        if let Err(errno) = listed {
            level.is_clean = false;
            self.fail(&Error::os("list", [&job.dest.path[..], b"/", &path[..]].concat(), errno));
        }
        level
    }

    /// Whether something has ended the job.
    fn is_over(&self) -> bool {
        self.deletion.job.fatal.lock().is_some()
    }

    /// Says and counts what could not be removed; a full destination and the like end the job.
    fn fail(&self, error: &Error) {
        if matches!(error.cause, Cause::Vanished) {
            return;
        }
        let Deletion { job, counters, .. } = *self.deletion;
        job.say(error, 1);
        counters.add(Count::Failed, 1);
        if error.class() == Class::Fatal {
            job.end_with(error.clone());
            self.deletion.walker.stop();
        }
    }
}

/// A directory at the destination, opened from the nearest open ancestor.
fn reopen(open: &mut DirCache<Handle>, caller: &dyn Caller, node: &Arc<DirNode>) -> std::result::Result<Handle, Errno> {
    if let Some(handle) = open.get(node) {
        return Ok(handle);
    }
    let (mut handle, below) = open.nearest(node);
    for (path, node) in path_steps(&below) {
        handle = Posix::new(caller, Side::Dest).open_dir(&handle, &path)?;
        open.insert(node, handle.clone());
    }
    Ok(handle)
}
