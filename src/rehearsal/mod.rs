//! --dry-run: what a run would do with every name, and why. Nothing is changed, the catalog included.
//!
//! ```text
//! copy     new | changed | differs | missing | asked for | failed before | interrupted before
//!                                                                              dir/name
//! adopt    same size and time                                                  dir/name
//! renew    metadata that was lost                                              dir/name
//! reread   ctime alone is new: metadata if the content is as recorded, or copy dir/name
//! skip     unchanged | done | listed before                                    dir/name
//! make     new directory                                                       dir
//! update   owner or mode of a directory                                        dir
//! leave    the state directory and the like, which are none of the job's       dir
//! delete   not in the source | replaced: a directory, by what is none          dir/name
//! ```
//! Decisions are those of plan.rs from the same source, record and destination as a run would take them. Lines come in
//! the order of the walk, a directory before what it holds; a bucket is asked about the names of a page all at once.
//! What would be deleted comes after them, of a walk of its own: that nothing would be is known when all are listed.
//! Memory: a page of names, and a bounded number of directories that wait ([`Pending`], I4).

mod asked;
mod extras;
mod missing;
mod resumed;

use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;

use self::asked::{Asked, End, Met, listed};
use crate::catalog::{Catalog, DirId, DirStamp, JobStatus, Record, boot_id};
use crate::config::{Config, Metadata, Mounts};
use crate::delete::each;
use crate::dir_stamp::is_unmounted;
use crate::engine::emptied;
use crate::engine::ends::{Ends, look};
use crate::engine::{identity_of, raise_descriptor_limit};
use crate::error::{Cause, Class, Error, Result, escape};
use crate::filesystem::Inodes;
use crate::filter::Sort;
use crate::job::KeyNames;
use crate::lane::cannot_start;
use crate::lane::listing::{Refused, stamp_of};
use crate::listing::leave_out;
use crate::plan::{Again, Progress};
use crate::provider::s3::Client;
use crate::recognise::renumbered;
use crate::report::{Console, Crowd, ExitCode, Lookout, Vigil};
use crate::resume;
use crate::ring::{Kind, Name, Side};
use crate::roots::DestOrigin;
use crate::selection::{Choice, read_choice};
use crate::stop::Stop;
use crate::unmet::{Found, objection};
use crate::walk::{DirNode, Entry, Pending};

/// What is said of a name: what would be done, and why.
type Said = (&'static str, &'static str);

/// What is said of a name that a resume does not come to.
const PASSED_OVER: Said = ("skip", "listed before");

/// One dry run.
struct Rehearsal<'r> {
    config: &'r Config,
    stop: &'r Stop,
    choice: Choice,
    asked: Rc<Asked>,
    out: &'r mut dyn Write,
    /// The state directory, if it is there.
    state_dir: Option<(u64, u64)>,
    /// Numbers for directories that the catalog does not know.
    next_id: u64,
    /// Whether a run would go on with an interrupted one.
    is_resume: bool,
    /// Directories in the way of what is none, with what would be done once they are gone.
    clashes: Vec<(Arc<DirNode>, Name, Said)>,
    deletes: u64,
    failed: u64,
    vanished: u64,
    /// Directories that could not be listed.
    unlisted: u64,
    /// Whether nothing would be deleted, whatever there is to delete.
    is_withheld: bool,
}

/// A directory of the source under way.
struct Level {
    dir: Arc<DirNode>,
    /// Whether the destination has it.
    is_there: bool,
    /// Directories in it.
    pending: Pending,
}

/// What a walk is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The source's names.
    Names,
    /// What --delete would remove.
    Extras,
}

/// Says what the job that `config` asks for would do, to `out`.
pub fn run(config: &Config, stop: &Stop, out: &mut dyn Write) -> Result<ExitCode> {
    let choice = read_choice(&config.filter, config.files_from.as_deref())?;
    raise_descriptor_limit();
    Catalog::check_place(&config.state_dir)?;
    let crowd: Arc<Crowd> = Arc::default();
    let names = (&config.source.display()[..], &config.dest.display()[..]);
    let console = Arc::new(Console::stderr(config.output));
    let _lookout = Lookout::start(Vigil::new(console, crowd.clone(), config.stall_time, names));
    let Ends { roots, names, source, dest } = look(config, &crowd.enlist())?;
    if roots.has_device() {
        return Err(Error::refused(names.0, "--dry-run tells of files: a block device is always copied"));
    }
    let identity = identity_of(config, &choice, &names, &roots);
    let catalog = Catalog::find_job(&config.state_dir, &identity)?;
    let mut is_resume = false;
    if let Some(catalog) = &catalog {
        let kind = resume::kind(catalog, config.retry)?;
        emptied::refuse(config, catalog, kind, (&roots, &names.1, dest.as_ref()))?;
        is_resume = kind == resume::Kind::Resume;
    }
    let granularity_nanos = roots.dest.granularity_nanos();
    let end = |bucket: Option<crate::job::BucketRoot>, root, side| match bucket {
        Some(root) => Client::new(root.bucket.clone()).map(|client| End::Bucket(root, client)),
        None => End::files(root, side, &crowd),
    };
    let is_there = roots.dest_origin == DestOrigin::Found;
    let inodes = roots.source.inodes;
    let ends = (end(source, roots.source, Side::Source)?, end(dest, roots.dest, Side::Dest)?);
    let next_id = catalog.as_ref().map_or(DirId::ROOT.0 + 1, |catalog| catalog.header().next_id);
    let progress = progress(catalog.as_ref(), config, inodes, is_resume)?;
    let single = roots.single.map(|single| (single.source_name, single.dest_name));
    let state_dir = std::fs::metadata(&config.state_dir).ok();
    let mut rehearsal = Rehearsal {
        config,
        stop,
        choice,
        asked: Rc::new(Asked::new(config, ends, (catalog, progress), single, granularity_nanos)),
        out,
        state_dir: state_dir
            .map(|dir| (std::os::unix::fs::MetadataExt::dev(&dir), std::os::unix::fs::MetadataExt::ino(&dir))),
        next_id,
        is_resume,
        clashes: Vec::new(),
        deletes: 0,
        failed: 0,
        vanished: 0,
        unlisted: 0,
        is_withheld: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot_start)?;
    tokio::task::LocalSet::new().block_on(&runtime, rehearsal.rehearse(is_there))?;
    rehearsal.out.flush().map_err(lost)?;
    Ok(rehearsal.exit_code())
}

/// Where a run of now would stand: in a pass of its own after a finished one.
fn progress(catalog: Option<&Catalog>, config: &Config, inodes: Inodes, is_resume: bool) -> Result<Progress> {
    let (ctime, again) = (config.ctime, Again::of(config));
    let Some(catalog) = catalog else {
        return Ok(Progress { pass_start_batch: 0, completed_batch: 0, boot_batch: u64::MAX, ctime, inodes, again });
    };
    let header = catalog.header();
    let is_same_boot = header.boot_id != [0; 16] && header.boot_id == boot_id();
    Ok(Progress {
        pass_start_batch: match header.status {
            // It meets every name again.
            _ if is_resume && resume::is_doubtful(catalog)? => header.durable_batch + 1,
            JobStatus::Finished if !is_resume => header.durable_batch + 1,
            JobStatus::Finished | JobStatus::Running => header.pass_start_batch,
        },
        completed_batch: header.completed_batch,
        boot_batch: if is_same_boot { header.boot_batch } else { u64::MAX },
        ctime,
        inodes,
        again,
    })
}

fn lost(error: std::io::Error) -> Error {
    Error::refused("stdout", format!("what would be done cannot be written: {error}"))
}

fn tell(what: &str) {
    // Who reads no stderr wants no notes.
    let _ = writeln!(std::io::stderr(), "gfast: {what}");
}

impl Rehearsal<'_> {
    async fn rehearse(&mut self, is_there: bool) -> Result<()> {
        if self.is_resume {
            tell("the last run was interrupted: a run would go on with it, and look only at what that one left");
        }
        match self.asked.single.clone() {
            Some((name, _)) => self.single(name, is_there).await?,
            None => {
                self.walk(is_there, Turn::Names).await?;
                if self.config.delete.is_some() && !self.stop.is_requested() {
                    self.clear_all(is_there).await?;
                }
            }
        }
        if self.asked.single.is_none() && !self.stop.is_requested() {
            self.tell_unmet()?;
        }
        Ok(())
    }

    fn exit_code(&self) -> ExitCode {
        let is_over = self.config.delete.and_then(|deletes| deletes.max).is_some_and(|max| self.deletes > max);
        let ends = [
            (self.stop.is_requested(), ExitCode::Interrupted),
            (is_over || self.is_withheld, ExitCode::DeleteCap),
            (self.failed > 0, ExitCode::Failed),
            (self.vanished > 0, ExitCode::Vanished),
        ];
        ends.into_iter().find(|(is_so, _)| *is_so).map_or(ExitCode::Done, |(_, code)| code)
    }

    /// Says which listed paths the source has not.
    fn tell_unmet(&mut self) -> Result<()> {
        let (asked, choice) = (self.asked.clone(), self.choice.clone());
        let mut finder = match &asked.source {
            End::Files(files) => Some(files.finder()),
            End::Bucket(..) => None,
        };
        for path in choice.unmet().filter(|path| !choice.rules_out(path)) {
            let found = finder.as_mut().map_or(Ok(Found::Nothing), |finder| finder.find(path));
            let Some(error) = objection(path.to_vec(), found) else { continue };
            if error.cause == Cause::Vanished {
                tell(&format!("listed, but not there: {}", escape(path)));
            }
            self.fail(error)?;
        }
        Ok(())
    }

    fn is_delete_forced(&self) -> bool {
        self.config.delete.is_some_and(|deletes| deletes.is_forced)
    }

    fn say(&mut self, (verb, reason): Said, path: &[u8]) -> Result<()> {
        let path = if path.is_empty() { ".".to_owned() } else { escape(path) };
        writeln!(self.out, "{verb:<8} {reason:<20} {path}").map_err(lost)
    }

    /// Says and counts what a run would fail at; refused credentials and the like end it here, too.
    fn fail(&mut self, error: Error) -> Result<()> {
        if error.class() == Class::Fatal {
            return Err(error);
        }
        match error.cause {
            Cause::Vanished => self.vanished += 1,
            _ => {
                self.failed += 1;
                tell(&error.to_string());
            }
        }
        Ok(())
    }

    fn fail_dir(&mut self, error: Error) -> Result<()> {
        self.unlisted += u64::from(error.cause != Cause::Vanished);
        self.fail(error)
    }

    async fn single(&mut self, name: Name, is_there: bool) -> Result<()> {
        let dir = DirNode::root();
        let stat = match &self.asked.source {
            End::Files(files) => files.stat(&dir, &name),
            End::Bucket(root, client) => match root.key(&dir, &name) {
                Err(why) => Err(Error::refused_object(name.as_bytes(), why)),
                Ok(key) => client
                    .head(&key)
                    .await
                    .map(|object| object.map(|object| listed(stamp_of(object.size, object.modified, &object.etag)))),
            },
        };
        match stat {
            Ok(None) => Ok(()),
            Ok(Some(stat)) => self.decide(vec![Met { dir, name, stat, is_there }]).await,
            Err(error) => self.fail(error),
        }
    }

    async fn walk(&mut self, is_there: bool, turn: Turn) -> Result<()> {
        let mut levels = Vec::new();
        levels.extend(self.enter(DirNode::root(), (is_there, Pending::root()), turn).await?);
        // Ends: every turn goes into a directory that was listed once, lists one for more of them, or leaves one.
        while let Some(level) = levels.last_mut() {
            if self.stop.is_requested() {
                return Ok(());
            }
            if let Some(name) = level.pending.take() {
                let (dir, is_there, below) = (level.dir.clone(), level.is_there, level.pending.below());
                if let Some((child, is_there)) = self.subdir(&dir, name, (is_there, turn)).await? {
                    levels.extend(self.enter(child, (is_there, below), turn).await?);
                }
            } else if level.pending.is_cut() {
                self.list(level, false).await?;
            } else {
                levels.pop();
            }
        }
        Ok(())
    }

    /// A directory of the source, and whether the destination has it. `None`: a run would not come to it.
    async fn subdir(
        &mut self,
        dir: &Arc<DirNode>,
        name: Name,
        (is_there, turn): (bool, Turn),
    ) -> Result<Option<(Arc<DirNode>, bool)>> {
        let known = match self.asked.record(dir, &name)? {
            Some(Record::Dir(id)) => Some(id),
            _ => None,
        };
        if known.is_none() && self.is_passed_over(dir, &name)? {
            if turn == Turn::Names {
                self.say(PASSED_OVER, &dir.path_of(&name))?;
            }
            return Ok(None);
        }
        let id = known.unwrap_or_else(|| self.new_id());
        let child = DirNode::child(dir, id, name);
        let has_it = match is_there {
            true => self.asked.clone().has_dir(dir, &child, known.is_some()).await,
            false => Ok(false),
        };
        match has_it {
            Ok(has_it) => Ok(Some((child, has_it))),
            Err(error) => self.fail(error).map(|()| Some((child, false))),
        }
    }

    fn new_id(&mut self) -> DirId {
        self.next_id += 1;
        DirId(self.next_id)
    }

    /// Decides about the names of a directory, or about what --delete would remove of the destination's. `None`:
    /// nothing below it is looked at.
    async fn enter(
        &mut self,
        dir: Arc<DirNode>,
        (is_there, pending): (bool, Pending),
        turn: Turn,
    ) -> Result<Option<Level>> {
        let mut level = Level { dir: dir.clone(), is_there, pending };
        if turn == Turn::Extras {
            return Ok(if self.clear_dir(&mut level).await? { Some(level) } else { None });
        }
        let is_listed = match self.look_at(&dir) {
            Ok(None) => true,
            Ok(Some("")) => false,
            Ok(Some(reason)) => {
                let reason = reason.trim_start_matches("it is ").trim_start_matches("the ").trim_start_matches("a ");
                self.say_left_out(reason, &dir)?;
                return Ok(None);
            }
            Err(error) => {
                self.say_made(&dir, is_there)?;
                self.fail_dir(error)?;
                return Ok(None);
            }
        };
        self.say_made(&dir, is_there)?;
        self.say_updated(&dir, is_there)?;
        let is_whole = !is_listed || self.list(&mut level, true).await?.is_some();
        Ok(if is_whole { Some(level) } else { None })
    }

    /// Why a directory is none of the job's; nothing said where it is not listed for being on another mount.
    fn look_at(&self, dir: &Arc<DirNode>) -> Result<Option<&'static str>> {
        let End::Files(files) = &self.asked.source else { return Ok(None) };
        let (handle, stat) = files.open_with_stat(dir)?;
        if dir.parent.is_some()
            && let Some(reason) = leave_out((&files.stat, self.state_dir.unwrap_or_default()), dir, &handle, &stat)?
        {
            return Ok(Some(reason));
        }
        dir.set_stamp(DirStamp::of(&stat));
        let is_other_mount = stat.dev != files.stat.dev;
        Ok((is_other_mount && self.config.mounts == Mounts::Stay).then_some(""))
    }

    /// As listing.rs has it.
    fn is_unmounted(&self, dir: &DirNode) -> Result<bool> {
        let (Some(catalog), Some(now), Some(above)) = (&self.asked.catalog, dir.stamp(), &dir.parent) else {
            return Ok(false);
        };
        let End::Files(files) = &self.asked.source else { return Ok(false) };
        let reader = catalog.reader()?;
        let numbers = (files.stat.dev, catalog.source_dev()?.unwrap_or(files.stat.dev));
        let here = |stamp: DirStamp| DirStamp { dev: renumbered(stamp.dev, numbers), ..stamp };
        let recorded = |id| Ok::<_, Error>(reader.dir(id)?.and_then(|record| record.stamp).map(here));
        let (Some(then), then_above) = (recorded(dir.id)?, recorded(above.id)?) else { return Ok(false) };
        let dev_above = then_above.map(|stamp| stamp.dev);
        Ok(files.inodes.is_lasting() && is_unmounted(&then, dev_above, &now, above.source_id()))
    }

    fn say_left_out(&mut self, reason: &str, dir: &DirNode) -> Result<()> {
        let path = escape(&dir.path());
        writeln!(self.out, "{:<8} {reason:<20} {path}", "leave").map_err(lost)
    }

    /// Only where a directory is an object of its own is one made.
    fn say_made(&mut self, dir: &DirNode, is_there: bool) -> Result<()> {
        let is_one = match self.asked.dest.bucket() {
            None => true,
            Some((root, _)) => root.names == KeyNames::Posix && !root.dir_key(dir).is_empty(),
        };
        if is_there || !is_one { Ok(()) } else { self.say(("make", "new directory"), &dir.path()) }
    }

    /// Says that a directory which both sides have would get another owner or mode: another one than is recorded, or
    /// than it has, if nothing is.
    fn say_updated(&mut self, dir: &Arc<DirNode>, is_there: bool) -> Result<()> {
        let (asked, Some(now)) = (self.asked.clone(), dir.stamp()) else { return Ok(()) };
        let is_kept = self.config.metadata == Metadata::Keep && asked.source.bucket().is_none();
        if !is_there || !is_kept || self.is_listed_before(dir)? {
            return Ok(());
        }
        let recorded = match &asked.catalog {
            Some(catalog) => catalog.reader()?.dir(dir.id)?.and_then(|record| record.stamp),
            None => None,
        };
        let there = match (&recorded, &asked.dest) {
            (Some(recorded), _) => Some((recorded.mode, recorded.uid, recorded.gid)),
            (None, End::Files(files)) => match files.open_with_stat(dir) {
                Ok((_, stat)) => Some((stat.mode, stat.uid, stat.gid)),
                Err(error) => return self.fail(error),
            },
            (None, End::Bucket(..)) => None,
        };
        match there.is_some_and(|there| there != (now.mode, now.uid, now.gid)) {
            true => self.say(("update", "owner or mode"), &dir.path()),
            false => Ok(()),
        }
    }

    /// Lists a directory of the source; decides about its objects if they are new. How many names it has, the
    /// directory's own object not counted; `None` if it cannot be listed.
    async fn list(&mut self, level: &mut Level, is_first: bool) -> Result<Option<u64>> {
        let asked = self.asked.clone();
        let mut listing = match asked.source.list(&level.dir) {
            Ok(listing) => listing,
            Err(error) => return self.fail_dir(error).map(|()| None),
        };
        level.pending.begin();
        let mut count = 0;
        // Ends: the directory does.
        loop {
            let (entries, refused) = match asked.source.next(&level.dir, &mut listing).await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Some(count)),
                Err(error) => return self.fail_dir(error).map(|()| None),
            };
            let is_taken =
                |refused: &Refused| is_first && self.choice.meets(&level.dir.path_of(&refused.names().1), refused.sort);
            let refused: Vec<Refused> = refused.into_iter().filter(is_taken).collect();
            for refused in refused {
                let path = [&level.dir.path()[..], b"/", refused.component.as_bytes()].concat();
                self.fail(Error::refused_object(path, refused.why))?;
            }
            let mut met = Vec::new();
            for entry in entries {
                count += u64::from(entry.name.as_bytes() != b".");
                met.extend(self.meet(level, entry, is_first)?);
            }
            self.decide(met).await?;
        }
    }

    /// Meets a name of the source; an object of a first listing is to be decided about.
    fn meet(&mut self, level: &mut Level, entry: Entry, is_first: bool) -> Result<Option<Met>> {
        let dir = &level.dir;
        let is_known_object = !is_first && !matches!(entry.kind, libc::DT_DIR | libc::DT_UNKNOWN);
        if is_known_object {
            return Ok(None);
        }
        let stat = match &self.asked.source {
            End::Bucket(..) if entry.kind == libc::DT_DIR => None,
            End::Bucket(..) => Some(listed(entry.stamp.unwrap_or_default())),
            End::Files(_) if entry.kind == libc::DT_DIR => None,
            End::Files(files) => match files.stat(dir, &entry.name) {
                Ok(Some(stat)) => Some(stat),
                Ok(None) => return Ok(None),
                Err(error) => return self.fail(error).map(|()| None),
            },
        };
        let stat = stat.filter(|stat| stat.kind() != Kind::Dir);
        let sort = if stat.is_none() { Sort::Dir } else { Sort::Other };
        if !self.choice.is_everything() && !self.choice.meets(&dir.path_of(&entry.name), sort) {
            return Ok(None);
        }
        match stat {
            None => level.pending.meet(entry.name),
            Some(stat) if is_first => {
                return Ok(Some(Met { dir: dir.clone(), name: entry.name, stat, is_there: level.is_there }));
            }
            Some(_) => {}
        }
        Ok(None)
    }

    /// Says what would become of objects.
    async fn decide(&mut self, met: Vec<Met>) -> Result<()> {
        let paths: Vec<_> = met.iter().map(|met| (met.dir.clone(), met.name.clone())).collect();
        let asked = self.asked.clone();
        let judged = each(met, async move |met| asked.clone().judge(met).await).await;
        for ((dir, name), judged) in paths.into_iter().zip(judged) {
            match judged {
                Ok(Some(said)) => {
                    // --delete looks for what is missing wherever it is.
                    let is_due = matches!(said, ("skip", _) | ("copy", "missing"));
                    let is_due = is_due || !self.is_passed_over(&dir, &name)?;
                    let said = if is_due { said } else { PASSED_OVER };
                    let is_made = !matches!(said.0, "skip" | "adopt" | "reread");
                    let is_clash = is_made && self.asked.is_dir_there(&dir, &name)? && self.clash(&dir, &name, said)?;
                    if !is_clash {
                        self.say(said, &dir.path_of(&name))?;
                    }
                }
                Ok(None) => {}
                Err(error) => self.fail(error)?,
            }
        }
        Ok(())
    }
}
