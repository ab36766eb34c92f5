//! --dry-run: what a run would do with every name, and why. Nothing is changed, the catalog included.
//!
//! ```text
//! copy     new | changed | differs | failed before | interrupted before        dir/name
//! adopt    same size and time                                                  dir/name
//! reread   ctime alone is new: metadata if the content is as recorded, or copy dir/name
//! skip     unchanged | done                                                    dir/name
//! make     new directory                                                       dir
//! delete   not in the source                                                   dir/name
//! ```
//! Decisions are those of plan.rs from the same source, record and destination as a run would take them. One thread:
//! lines come in the order of the walk, a directory before what it holds.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use crate::catalog::{Catalog, DirId, FileRecord, JobStatus, Record, boot_id};
use crate::config::{Config, CtimePolicy, DIR_CACHE_PER_SHARD};
use crate::engine::granularity_nanos;
use crate::error::{Errno, Error, Result, escape};
use crate::filter::{Choice, Sort};
use crate::job::read_choice;
use crate::listing::{BUFFER_BYTES, parse};
use crate::plan::{Plan, Progress, Reason, Skip, decide, is_sealed_copy};
use crate::provider::posix::Posix;
use crate::report::ExitCode;
use crate::ring::syscalls::Kernel;
use crate::ring::{Caller, FixedBuffers, Handle, Kind, Name, Side, Stat};
use crate::roots::{self, open_to_read};
use crate::stop::Stop;
use crate::walk::{DirCache, DirNode, Entry, path_steps};

/// One dry run.
struct Rehearsal<'r> {
    config: &'r Config,
    caller: &'r dyn Caller,
    choice: Choice,
    catalog: Option<Catalog>,
    progress: Progress,
    granularity_nanos: u32,
    out: &'r mut dyn Write,
    source: DirCache<Handle>,
    dest: Option<DirCache<Handle>>,
    /// Numbers for directories that the catalog does not know.
    next_id: u64,
    deletes: u64,
    failed: u64,
}

/// A directory under way: what is in it and still to be gone into.
struct Level {
    /// Directories of the source; whether the destination has each.
    subdirs: Vec<(Arc<DirNode>, bool)>,
}

/// Says what the job that `config` asks for would do, to `out`.
pub fn run(config: &Config, stop: &Stop, out: &mut dyn Write) -> Result<ExitCode> {
    let choice = read_choice(&config.filter, config.files_from.as_deref())?;
    let examined = roots::examine(config)?;
    if examined.has_device() {
        return Err(Error::refused(
            examined.source_path(),
            "--dry-run tells of files: a block device is always copied",
        ));
    }
    let (source_path, dest_path) = (examined.source_path(), examined.dest_path());
    let (source, name) = open_to_read(&config.source)?;
    let dest = if examined.is_dest_there() { Some(open_to_read(&config.dest)?) } else { None };
    let catalog = Catalog::find(&config.state_dir, &source_path, &dest_path)?;
    let kernel = Kernel::new(FixedBuffers::new(1, 4096, 4096)?.arena().clone());
    let dest_name = dest.as_ref().and_then(|(_, name)| name.clone()).or_else(|| name.clone());
    let mut rehearsal = Rehearsal {
        config,
        caller: &kernel,
        choice,
        progress: progress(catalog.as_ref(), config.ctime),
        next_id: catalog.as_ref().map_or(DirId::ROOT.0 + 1, |catalog| catalog.header().next_id),
        catalog,
        granularity_nanos: dest.as_ref().map_or(1, |(dest, _)| granularity_nanos(dest.file_system)),
        out,
        source: DirCache::new(source.handle, DIR_CACHE_PER_SHARD),
        dest: dest.map(|(dest, _)| DirCache::new(dest.handle, DIR_CACHE_PER_SHARD)),
        deletes: 0,
        failed: 0,
    };
    match name.zip(dest_name) {
        Some((name, dest_name)) => rehearsal.single(&name, &dest_name)?,
        None => rehearsal.walk(stop)?,
    }
    rehearsal.out.flush().map_err(lost)?;
    Ok(rehearsal.exit_code(stop))
}

/// Where a run of now would stand: in a pass of its own after a finished one.
fn progress(catalog: Option<&Catalog>, ctime: CtimePolicy) -> Progress {
    let Some(header) = catalog.map(Catalog::header) else {
        return Progress { pass_start_batch: 0, completed_batch: 0, boot_batch: u64::MAX, ctime };
    };
    let is_same_boot = header.boot_id != [0; 16] && header.boot_id == boot_id();
    Progress {
        pass_start_batch: match header.status {
            JobStatus::Finished => header.durable_batch + 1,
            JobStatus::Running => header.pass_start_batch,
        },
        completed_batch: header.completed_batch,
        boot_batch: if is_same_boot { header.boot_batch } else { u64::MAX },
        ctime,
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::refused("stdout", format!("what would be done cannot be written: {error}"))
}

impl Rehearsal<'_> {
    fn exit_code(&self, stop: &Stop) -> ExitCode {
        let is_over = self.config.delete.and_then(|deletes| deletes.max).is_some_and(|max| self.deletes > max);
        let ends = [
            (stop.is_requested(), ExitCode::Interrupted),
            (is_over, ExitCode::DeleteCap),
            (self.failed > 0, ExitCode::Failed),
        ];
        ends.into_iter().find(|(is_so, _)| *is_so).map_or(ExitCode::Done, |(_, code)| code)
    }

    fn say(&mut self, verb: &str, reason: &str, path: &[u8]) -> Result<()> {
        let path = if path.is_empty() { ".".to_owned() } else { escape(path) };
        writeln!(self.out, "{verb:<8} {reason:<20} {path}").map_err(lost)
    }

    fn fail(&mut self, verb: &'static str, path: &[u8], errno: Errno) {
        self.failed += 1;
        let _ = writeln!(std::io::stderr(), "gfast: {}", Error::os(verb, path, errno));
    }

    fn single(&mut self, name: &Name, dest_name: &Name) -> Result<()> {
        let root = DirNode::root();
        let opened = open(&mut self.source, self.caller, Side::Source, &root);
        let stat = opened.and_then(|at| Posix::new(self.caller, Side::Source).stat(&at, name));
        let dest = self.look_at(&root, dest_name);
        match stat {
            Ok(stat) => self.object(&root, name, &stat, dest),
            Err(errno) => {
                self.fail("stat", name.to_bytes(), errno);
                Ok(())
            }
        }
    }

    /// What the destination has under a name.
    fn look_at(&mut self, dir: &Arc<DirNode>, name: &Name) -> Option<Stat> {
        let at = open(self.dest.as_mut()?, self.caller, Side::Dest, dir).ok()?;
        Posix::new(self.caller, Side::Dest).stat(&at, name).ok()
    }

    fn walk(&mut self, stop: &Stop) -> Result<()> {
        let has_dest = self.dest.is_some();
        if !has_dest {
            self.say("make", "new directory", b"")?;
        }
        let mut levels = vec![self.directory(&DirNode::root(), has_dest)?];
        // Ends: every turn goes into a directory that was listed once, or leaves one.
        while let Some(level) = levels.last_mut() {
            match level.subdirs.pop() {
                _ if stop.is_requested() => return Ok(()),
                Some((dir, is_there)) => levels.push(self.directory(&dir, is_there)?),
                None => drop(levels.pop()),
            }
        }
        Ok(())
    }

    /// Decides about the names of a directory.
    fn directory(&mut self, dir: &Arc<DirNode>, is_there: bool) -> Result<Level> {
        let mut level = Level { subdirs: Vec::new() };
        let path = dir.path();
        let opened = open(&mut self.source, self.caller, Side::Source, dir);
        let listed = match &opened {
            Ok(at) => self.each_name(Side::Source, at, &mut |rehearsal, name| {
                let below = rehearsal.entry(dir, at, &name, is_there)?;
                level.subdirs.extend(below);
                Ok(())
            })?,
            Err(errno) => Err(*errno),
        };
        let (at, count) = match opened.and_then(|at| Ok((at, listed?))) {
            Ok(listed) => listed,
            Err(errno) => {
                self.fail("list", &path, errno);
                return Ok(level);
            }
        };
        let is_empty_root = count == 0 && dir.parent.is_none();
        let is_withheld = is_empty_root && !self.config.delete.is_some_and(|deletes| deletes.is_forced);
        if is_there && self.config.delete.is_some() && !is_withheld {
            self.extras(dir, &at)?;
        }
        Ok(level)
    }

    /// Decides about one name of a directory; a directory comes back, to be gone into.
    fn entry(
        &mut self,
        dir: &Arc<DirNode>,
        at: &Handle,
        name: &Name,
        is_there: bool,
    ) -> Result<Option<(Arc<DirNode>, bool)>> {
        let path = dir.path_of(name);
        let stat = match Posix::new(self.caller, Side::Source).stat(at, name) {
            Ok(stat) => stat,
            Err(errno) => {
                self.fail("stat", &path, errno);
                return Ok(None);
            }
        };
        let sort = if stat.kind() == Kind::Dir { Sort::Dir } else { Sort::Other };
        if !self.choice.takes(&path, sort) {
            return Ok(None);
        }
        let dest = if is_there { self.look_at(dir, name) } else { None };
        match stat.kind() {
            Kind::Dir => self.subdir(dir, name, dest).map(Some),
            _ => self.object(dir, name, &stat, dest).map(|()| None),
        }
    }

    /// Shows `visit` each name of a directory, a buffer of them at a time (I4); how many there were.
    fn each_name(
        &mut self,
        side: Side,
        at: &Handle,
        visit: &mut dyn FnMut(&mut Self, Name) -> Result<()>,
    ) -> Result<std::result::Result<u64, Errno>> {
        let posix = Posix::new(self.caller, side);
        let handle = match posix.open_dir(at, &c".".to_owned()) {
            Ok(handle) => handle,
            Err(errno) => return Ok(Err(errno)),
        };
        let (mut count, mut entries, mut buffer) = (0, VecDeque::new(), vec![0; BUFFER_BYTES]);
        // Ends: the directory does.
        loop {
            match posix.read_dir(&handle, &mut buffer) {
                Ok(0) => return Ok(Ok(count)),
                Ok(filled) => parse(&buffer[..filled], &mut entries),
                Err(errno) => return Ok(Err(errno)),
            }
            for entry in entries.drain(..) {
                count += 1;
                visit(self, entry.name)?;
            }
        }
    }

    fn names(&self, side: Side, at: &Handle) -> std::result::Result<Vec<Name>, Errno> {
        let posix = Posix::new(self.caller, side);
        let handle = posix.open_dir(at, &c".".to_owned())?;
        let (mut entries, mut buffer) = (VecDeque::new(), vec![0; BUFFER_BYTES]);
        // Ends: the directory does.
        loop {
            match posix.read_dir(&handle, &mut buffer)? {
                0 => return Ok(entries.into_iter().map(|entry: Entry| entry.name).collect()),
                filled => parse(&buffer[..filled], &mut entries),
            }
        }
    }

    fn subdir(&mut self, dir: &Arc<DirNode>, name: &Name, dest: Option<Stat>) -> Result<(Arc<DirNode>, bool)> {
        let is_there = dest.is_some_and(|dest| dest.kind() == Kind::Dir);
        if !is_there {
            self.say("make", "new directory", &dir.path_of(name))?;
        }
        let id = match self.record(dir, name)? {
            Some(Record::Dir(id)) => id,
            _ => {
                self.next_id += 1;
                DirId(self.next_id)
            }
        };
        Ok((DirNode::child(dir, id, name.clone()), is_there))
    }

    fn record(&self, dir: &DirNode, name: &Name) -> Result<Option<Record>> {
        self.catalog.as_ref().map_or(Ok(None), |catalog| catalog.reader()?.entry(dir.id, name))
    }

    /// Decides about one object.
    fn object(&mut self, dir: &Arc<DirNode>, name: &Name, stat: &Stat, dest: Option<Stat>) -> Result<()> {
        let record: Option<FileRecord> = match self.record(dir, name)? {
            Some(Record::File(record)) => Some(record),
            _ => None,
        };
        let is_adopted = dest.is_some_and(|dest| is_sealed_copy(stat, &dest, self.granularity_nanos));
        let (verb, reason) = match decide(stat, record.as_ref(), &self.progress, dest.is_none()) {
            Plan::Skip(Skip::Done) => ("skip", "done"),
            Plan::Skip(Skip::Unchanged) => ("skip", "unchanged"),
            Plan::Compare if is_adopted => ("adopt", "same size and time"),
            Plan::Compare if dest.is_none() => ("copy", "new"),
            Plan::Compare => ("copy", "differs"),
            Plan::Reread(_) => ("reread", "only ctime is new"),
            Plan::Copy(Reason::New) => ("copy", "new"),
            Plan::Copy(Reason::Changed) => ("copy", "changed"),
            Plan::Copy(Reason::Failed) => ("copy", "failed before"),
            Plan::Copy(Reason::Interrupted) => ("copy", "interrupted before"),
        };
        self.say(verb, reason, &dir.path_of(name))
    }

    /// Says what the destination has and the source has not.
    fn extras(&mut self, dir: &Arc<DirNode>, source: &Handle) -> Result<()> {
        let Some(dest) = self.dest.as_mut() else { return Ok(()) };
        let listed = match open(dest, self.caller, Side::Dest, dir) {
            Ok(at) => self.each_name(Side::Dest, &at, &mut |rehearsal, name| match Posix::new(
                rehearsal.caller,
                Side::Source,
            )
            .stat(source, &name)
            {
                Err(Errno::NOENT) => rehearsal.extra(dir, name),
                _ => Ok(()),
            })?,
            Err(errno) => Err(errno),
        };
        if let Err(errno) = listed {
            self.fail("list", &dir.path(), errno);
        }
        Ok(())
    }

    /// Says that a name would go, after all below it.
    fn extra(&mut self, dir: &Arc<DirNode>, name: Name) -> Result<()> {
        // Each name with whether what lies below it has been said.
        let mut names = vec![(dir.clone(), name, false)];
        // Ends: every name is taken twice at most, and names lie below each other.
        while let Some((dir, name, is_below_said)) = names.pop() {
            let Some(dest) = self.look_at(&dir, &name) else { continue };
            let path = dir.path_of(&name);
            let is_dir = dest.kind() == Kind::Dir;
            let is_state = self.state_dir() == Some((dest.dev, dest.ino));
            if is_state || !self.choice.takes(&path, if is_dir { Sort::Dir } else { Sort::Other }) {
                // What it lies in, which is all that waits for what lies below, stays with it.
                names.retain(|(.., is_below_said)| !is_below_said);
                continue;
            }
            if !is_dir || is_below_said {
                self.deletes += 1;
                self.say("delete", "not in the source", &path)?;
                continue;
            }
            self.next_id += 1;
            let child = DirNode::child(&dir, DirId(self.next_id), name.clone());
            names.push((dir, name, true));
            let Some(cache) = self.dest.as_mut() else { continue };
            match open(cache, self.caller, Side::Dest, &child).and_then(|at| self.names(Side::Dest, &at)) {
                Ok(below) => names.extend(below.into_iter().map(|name| (child.clone(), name, false))),
                Err(errno) => self.fail("list", &path, errno),
            }
        }
        Ok(())
    }

    fn state_dir(&self) -> Option<(u64, u64)> {
        self.catalog.as_ref().map(Catalog::state_dev_ino)
    }
}

/// A directory on one side, opened from the nearest open ancestor.
fn open(
    cache: &mut DirCache<Handle>,
    caller: &dyn Caller,
    side: Side,
    dir: &Arc<DirNode>,
) -> std::result::Result<Handle, Errno> {
    if let Some(handle) = cache.get(dir) {
        return Ok(handle);
    }
    let (mut handle, below) = cache.nearest(dir);
    for (path, node) in path_steps(&below) {
        handle = Posix::new(caller, side).open_dir(&handle, &path)?;
        cache.insert(node, handle.clone());
    }
    Ok(handle)
}
