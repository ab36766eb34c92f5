//! --delete where the destination is a bucket.
//!
//! ```text
//! each directory that both have   its keys, a page at a time -> asked for in the source -> not there: doomed
//! a batch of doomed keys          their records forgotten: one commit (I1) -> each asked for once more -> removed
//! a prefix that is gone           its keys, then its `dir/` object, unless something below it stays
//! ```
//! Only a key that gfast itself would write for a name is ever removed: one with a `.` or `..` is none, nor is, where
//! names are a file system's, one with an empty component or control characters (I8). All requests come from one
//! thread, many at a time. Memory: a batch of doomed keys, a page of each directory under way, and the prefixes of one
//! branch (I4).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::forget::forget;
use super::source::{has, holds_names, listed};
use super::trust::{Standing, is_to_be_trusted, standing, tell_changed};
use super::{BATCH, is_empty, withhold};
use crate::catalog::{DirId, Record};
use crate::config::{Deletes, PUBLISH_DEPTH};
use crate::error::{Class, Errno, Error, Result};
use crate::filesystem::FileSystem;
use crate::filter::Sort;
use crate::job::{BucketRoot, Job, KeyNames};
use crate::lane;
use crate::lane::listing::{Item, items, own_name};
use crate::listing::open_side;
use crate::provider::posix::Posix;
use crate::provider::s3::{Client, From, Key};
use crate::report::{Count, Counters};
use crate::ring::{Caller, Handle, Kind, Name, Side};
use crate::spelling::{self, Folds};
use crate::stop::Stop;
use crate::walk::{DirCache, DirNode};

/// One clearing of a bucket.
pub(super) struct Clearing {
    pub(super) job: Arc<Job>,
    caller: Arc<dyn Caller>,
    counters: Arc<Counters>,
    stop: Stop,
    /// Where the destination's keys begin.
    pub(super) root: BucketRoot,
    /// Asks the destination.
    pub(super) dest: Client,
    source: Source,
    /// Removals that are still allowed.
    left: Cell<u64>,
    /// Removals at a time.
    pub(super) requests: Semaphore,
    /// Prefixes that are removed at a time.
    trees: Semaphore,
    /// What ends the job.
    fatal: RefCell<Option<Error>>,
}

/// Where names are asked for.
enum Source {
    /// A file system's open directories.
    Files(RefCell<DirCache<Handle>>),
    /// Another bucket.
    Bucket(BucketRoot, Client),
}

/// A page of a directory that is to be looked at.
struct Look {
    dir: Arc<DirNode>,
    from: From,
    /// The last component of the page before.
    after: Option<String>,
}

/// What a look has found.
#[derive(Default)]
struct Found {
    /// The directory's next page, then directories in it that both sides have.
    looks: Vec<Look>,
    doomed: Vec<Doomed>,
}

/// A key, or all keys below a prefix, that are to go.
struct Doomed {
    dir: Arc<DirNode>,
    name: Name,
    item: Item,
    record: Option<Record>,
    /// Whether the source has another thing of this name, whose record stays.
    is_replaced: bool,
}

/// What the source has for a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// What it was made from.
    Here,
    /// A directory for an object's key, or the other way round.
    Replaced,
    /// Nothing.
    Gone,
    /// Nobody knows.
    Unknown,
}

/// A prefix being removed.
struct Level {
    node: Arc<DirNode>,
    /// Its next page.
    from: Option<From>,
    /// Prefixes below it that are still there.
    subdirs: Vec<Arc<DirNode>>,
    /// The object that stands for it.
    marker: Option<Key>,
    /// Whether nothing below it stays.
    is_clean: bool,
}

/// Removes from the destination's bucket what the source no longer has.
pub(super) fn run(
    job: &Arc<Job>,
    caller: &Arc<dyn Caller>,
    counters: &Arc<Counters>,
    (deletes, stop): (Deletes, &Stop),
) -> Result<()> {
    let Some(root) = job.dest.bucket.clone() else { return Ok(()) };
    let source = match &job.source.bucket {
        None => Source::Files(RefCell::new(DirCache::new(job.source.handle.clone(), job.cached_dirs))),
        Some(from) => Source::Bucket(from.clone(), Client::new(from.bucket.clone())?),
    };
    let clearing = Rc::new(Clearing {
        job: job.clone(),
        caller: caller.clone(),
        counters: counters.clone(),
        stop: stop.clone(),
        dest: Client::new(root.bucket.clone())?,
        root,
        source,
        left: Cell::new(deletes.max.unwrap_or(u64::MAX)),
        requests: Semaphore::new(PUBLISH_DEPTH),
        trees: Semaphore::new(PUBLISH_DEPTH),
        fatal: RefCell::new(None),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(lane::cannot_start)?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        if !deletes.is_forced && clearing.is_source_empty().await? && clearing.has_names().await? {
            clearing.counters.add(Count::DeletesWithheld, 1);
            withhold(&clearing.job, "the source is empty");
            return Ok(());
        }
        clearing.clone().walk().await?;
        clearing.fatal.take().map_or(Ok(()), Err)
    })
}

impl Clearing {
    async fn is_source_empty(&self) -> Result<bool> {
        match &self.source {
            Source::Files(_) => Ok(is_empty(&*self.caller, Side::Source, &self.job.source.handle)),
            Source::Bucket(root, client) => Ok(!holds_names(client, &root.prefix).await?),
        }
    }

    async fn has_names(&self) -> Result<bool> {
        holds_names(&self.dest, &self.root.prefix).await
    }

    /// Whether the source is a file system, whose hard links are links among the objects.
    pub(super) fn has_files(&self) -> bool {
        matches!(self.source, Source::Files(_))
    }

    pub(super) fn is_over(&self) -> bool {
        self.stop.is_requested() || self.job.fatal.lock().is_some() || self.fatal.borrow().is_some()
    }

    /// Looks through all directories, several pages at a time, and removes what is found, batch by batch.
    async fn walk(self: Rc<Clearing>) -> Result<()> {
        let mut looks = vec![Look { dir: DirNode::root(), from: From::Start, after: None }];
        let mut doomed = Vec::new();
        // Ends: a directory is looked at page by page, and below it lie others.
        while !looks.is_empty() && !self.is_over() {
            let now = looks.split_off(looks.len().saturating_sub(PUBLISH_DEPTH));
            let this = self.clone();
            for found in each(now, async move |look| this.look(look).await).await {
                let mut found = found?;
                looks.append(&mut found.looks);
                doomed.append(&mut found.doomed);
            }
            if doomed.len() >= BATCH {
                self.clone().remove(std::mem::take(&mut doomed)).await?;
            }
        }
        match self.is_over() {
            true => Ok(()),
            false => self.remove(doomed).await,
        }
    }

    /// How the source's directory stands; a bucket is asked by name each time.
    fn standing(&self, dir: &Arc<DirNode>) -> Result<Standing> {
        let Source::Files(open) = &self.source else { return Ok(Standing::AsListed) };
        match open_side(&self.job, &*self.caller, Side::Source, &mut open.borrow_mut(), dir) {
            Ok(handle) => standing(&self.job, &*self.caller, &self.counters, dir, &handle),
            Err(error) => {
                self.fail(error);
                Ok(Standing::Another)
            }
        }
    }

    /// Finds what is doomed in a page of a directory.
    async fn look(&self, look: Look) -> Result<Found> {
        let (mut found, prefix) = (Found::default(), self.root.dir_key(&look.dir));
        if !is_to_be_trusted(&self.job, look.dir.id)? || prefix.starts_with('/') {
            return Ok(found);
        }
        let standing = self.standing(&look.dir)?;
        if standing == Standing::Another {
            return Ok(found);
        }
        let mut is_withheld = false;
        let page = match self.dest.list(&prefix, &look.from).await {
            Ok(page) => page,
            Err(error) => {
                self.fail(error);
                return Ok(found);
            }
        };
        let next = page.next;
        let mut named = Vec::new();
        let page = items(&prefix, page.objects, page.prefixes);
        let last = page.last().map(|item| item.key(""));
        for item in page {
            if let Some(name) = own_name(&self.root, &look.dir, &item)
                && self.job.takes(&look.dir, &name, sort(&item))
            {
                named.push((name, item));
            }
        }
        let answers = match self.ask_all(&look, &named).await {
            Ok(answers) => answers,
            Err(error) => {
                self.fail(error);
                return Ok(found);
            }
        };
        if let Some(token) = next {
            found.looks.push(Look { dir: look.dir.clone(), from: From::Token(token), after: last });
        }
        for ((name, item), answer) in named.into_iter().zip(answers) {
            let record = self.job.catalog.reader()?.entry(look.dir.id, &name)?;
            match (answer, record) {
                (Answer::Here, Some(Record::Dir(id))) if item.object.is_none() => {
                    let dir = DirNode::child(&look.dir, id, name);
                    found.looks.push(Look { dir, from: From::Start, after: None });
                }
                (Answer::Here | Answer::Unknown, _) => {}
                (Answer::Gone, _) if !self.job.clears(&look.dir, &name, sort(&item)) => {}
                _ if standing == Standing::Changed => is_withheld = true,
                (answer, record) => {
                    let is_replaced = answer == Answer::Replaced;
                    found.doomed.push(Doomed { dir: look.dir.clone(), name, item, record, is_replaced });
                }
            }
        }
        if is_withheld {
            tell_changed(&self.job, &self.counters, &look.dir);
        }
        Ok(found)
    }

    /// A directory of which only the key counts.
    fn below(&self, dir: &Arc<DirNode>, name: Name) -> Arc<DirNode> {
        DirNode::child(dir, DirId(0), name)
    }

    /// What the source has for each key of a page.
    async fn ask_all(&self, look: &Look, named: &[(Name, Item)]) -> Result<Vec<Answer>> {
        let Source::Bucket(root, client) = &self.source else { return self.ask_files(&look.dir, named) };
        let wanted: BTreeSet<String> = named.iter().map(|(_, item)| item.key("")).collect();
        let found = listed(client, &root.dir_key(&look.dir), look.after.as_deref(), &wanted).await?;
        let answer = |item: &Item| if found.contains(&item.key("")) { Answer::Here } else { Answer::Gone };
        Ok(named.iter().map(|(_, item)| answer(item)).collect())
    }

    /// Where a source that folds names has answered, what it lists counts.
    fn ask_files(&self, dir: &Arc<DirNode>, named: &[(Name, Item)]) -> Result<Vec<Answer>> {
        let Source::Files(open) = &self.source else { return Ok(vec![Answer::Unknown; named.len()]) };
        let at = open_side(&self.job, &*self.caller, Side::Source, &mut open.borrow_mut(), dir)?;
        let source = Posix::new(&*self.caller, Side::Source);
        let answer = |(name, item): &(Name, Item)| match source.stat(&at, name) {
            Ok(stat) if (stat.kind() == Kind::Dir) == item.object.is_none() => Answer::Here,
            Ok(_) => Answer::Replaced,
            Err(Errno::NOENT) => Answer::Gone,
            // What cannot be asked for is not known to be gone.
            Err(_) => Answer::Unknown,
        };
        let mut answers: Vec<Answer> = named.iter().map(answer).collect();
        let is_there = |answer: &Answer| matches!(answer, Answer::Here | Answer::Replaced);
        let there = named.iter().zip(&answers).filter(|(_, answer)| is_there(answer)).map(|((name, _), _)| name);
        let mut folds = Folds::new(FileSystem::of(&at)?.tells_names_apart());
        let gone = spelling::unlisted(source, &at, &mut folds, there);
        let gone = gone.map_err(|errno| self.job.dir_error(Side::Source, dir, "list", errno))?;
        for ((name, _), answer) in named.iter().zip(&mut answers) {
            if gone.contains(name) {
                *answer = Answer::Gone;
            }
        }
        Ok(answers)
    }

    /// Forgets the records of what is doomed, then removes it.
    async fn remove(self: Rc<Clearing>, doomed: Vec<Doomed>) -> Result<()> {
        if doomed.is_empty() || self.left.get() == 0 {
            self.counters.add(Count::DeletesWithheld, doomed.len() as u64);
            return Ok(());
        }
        // The record of what came in its place stays; what is removed is forgotten, if the source changed since.
        let is_its_own = |doomed: &&Doomed| match &doomed.record {
            Some(Record::Dir(_)) => doomed.item.object.is_none(),
            Some(Record::File(_)) => doomed.item.object.is_some(),
            None => true,
        };
        let gone = doomed.iter().filter(|doomed| !doomed.is_replaced || is_its_own(doomed));
        forget(&self.job.catalog, gone.map(|doomed| (&*doomed.dir, &doomed.name, doomed.record.as_ref())))?;
        let this = self.clone();
        let keys = each(doomed, async move |doomed| this.clone().remove_one(doomed).await).await;
        self.delete_all(keys.into_iter().flatten().collect()).await;
        Ok(())
    }

    /// Removes a prefix; answers the key of what is an object, if it is to go.
    async fn remove_one(self: Rc<Clearing>, doomed: Doomed) -> Option<Key> {
        let Doomed { dir, name, item, .. } = doomed;
        let named = [(name, item)];
        let _tree = self.trees.acquire().await.ok()?;
        // The source may have it again by now, or be another one.
        let answer = match (&self.source, self.standing(&dir)) {
            (_, Err(error)) => Err(error),
            (_, Ok(Standing::Another)) => Ok(Answer::Unknown),
            (_, Ok(Standing::Changed)) => {
                tell_changed(&self.job, &self.counters, &dir);
                Ok(Answer::Unknown)
            }
            (Source::Files(_), _) => self.ask_files(&dir, &named).map(|answers| answers[0]),
            (Source::Bucket(root, client), _) => {
                let has = has(client, root, &dir, (&named[0].0, &named[0].1)).await;
                has.map(|has| if has { Answer::Here } else { Answer::Gone })
            }
        };
        let [(name, item)] = named;
        match (answer, &item.object) {
            (Ok(Answer::Here | Answer::Unknown), _) => {}
            (Ok(_), Some(_)) => return self.root.key(&dir, &name).ok(),
            (Ok(_), None) => self.clone().remove_tree(self.below(&dir, name)).await,
            (Err(error), _) => self.fail(error),
        }
        None
    }

    /// Removes all keys below a prefix, and the `dir/` objects of what is empty then, deepest first.
    async fn remove_tree(self: Rc<Clearing>, node: Arc<DirNode>) {
        let mut levels = vec![Level::new(node)];
        // Ends: every turn reads a page, goes into a prefix that was listed once, or leaves one.
        while let Some(level) = levels.last_mut() {
            if self.is_over() {
                return;
            }
            if self.left.get() == 0 {
                self.counters.add(Count::DeletesWithheld, 1);
                return;
            }
            if let Some(subdir) = level.subdirs.pop() {
                levels.push(Level::new(subdir));
            } else if let Some(from) = level.from.take() {
                self.clone().empty(level, from).await;
            } else if let Some(Level { marker, mut is_clean, .. }) = levels.pop() {
                if let Some(key) = marker.filter(|_| is_clean) {
                    is_clean = self.delete(key).await;
                }
                if let Some(above) = levels.last_mut() {
                    above.is_clean &= is_clean;
                }
            }
        }
    }

    /// Removes the objects of a page of a prefix, and notes the prefixes.
    async fn empty(self: Rc<Clearing>, level: &mut Level, from: From) {
        let prefix = self.root.dir_key(&level.node);
        let page = match self.dest.list(&prefix, &from).await {
            Ok(page) => page,
            Err(error) => {
                level.is_clean = false;
                self.fail(error);
                return;
            }
        };
        level.from = page.next.map(From::Token);
        let mut keys = Vec::new();
        for item in items(&prefix, page.objects, page.prefixes) {
            if item.is_marker() && self.root.names == KeyNames::Posix {
                level.marker = Key::new(prefix.clone()).ok();
                continue;
            }
            let name = own_name(&self.root, &level.node, &item);
            match name.filter(|name| self.job.takes(&level.node, name, sort(&item))) {
                None => level.is_clean = false,
                Some(name) if item.object.is_none() => level.subdirs.push(self.below(&level.node, name)),
                Some(name) => keys.extend(self.root.key(&level.node, &name).ok()),
            }
        }
        let gone = self.delete_all(keys).await;
        level.is_clean &= gone.into_iter().all(|is_gone| is_gone);
    }

    /// Removes one object, if that is still allowed. Whether it is gone.
    pub(super) async fn delete(&self, key: Key) -> bool {
        let Ok(_request) = self.requests.acquire().await else { return false };
        if self.is_over() {
            return false;
        }
        let Some(left) = self.left.get().checked_sub(1) else {
            self.counters.add(Count::DeletesWithheld, 1);
            return false;
        };
        self.left.set(left);
        match self.dest.delete(&key).await {
            Ok(()) => self.counters.add(Count::Removed, 1),
            Err(error) => {
                self.fail(error);
                return false;
            }
        }
        true
    }

    /// Says and counts what could not be removed; refused credentials and the like end the job.
    pub(super) fn fail(&self, error: Error) {
        self.job.say(&error, 1);
        self.counters.add(Count::Failed, 1);
        if error.class() == Class::Fatal {
            self.fatal.borrow_mut().get_or_insert(error);
        }
    }
}

impl Level {
    fn new(node: Arc<DirNode>) -> Level {
        Level { node, from: Some(From::Start), subdirs: Vec::new(), marker: None, is_clean: true }
    }
}

fn sort(item: &Item) -> Sort {
    if item.object.is_none() { Sort::Dir } else { Sort::Other }
}

/// Does `work` for each of `items`, all at once, and answers in their order.
pub(crate) async fn each<I: 'static, O: 'static>(
    items: Vec<I>,
    work: impl AsyncFn(I) -> O + Clone + 'static,
) -> Vec<O> {
    let spawn = |item| {
        let work = work.clone();
        tokio::task::spawn_local(async move { work(item).await })
    };
    let tasks: Vec<_> = items.into_iter().map(spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        match task.await {
            Ok(result) => results.push(result),
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
    results
}
