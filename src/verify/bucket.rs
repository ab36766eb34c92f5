//! Comparisons in which a bucket takes part, on either side, against a file system, another bucket or the catalog.
//!
//! ```text
//! source's names    each described on both sides and compared, many at a time
//! destination's     each asked for in the source: what is not there is extra
//! directories       one after the other, in depth; their own attributes as their `dir/` objects have them
//! ```
//! Few directories are open or wait at a time, however deep the tree and however many there are ([`Pending`], I4).
//! An answer takes milliseconds here and no processor, so one thread keeps `--streams` objects under way. Content is
//! the same if the CRC64s are: the stored one of a whole object where the server tells it, else that of what is read.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::audit::{Tally, add, not_compared};
use super::compare::{Aspect, Aspects, Measure};
use super::ends::{Dir, End, Hint, Objects, Seen};
use super::findings::Findings;
use super::judge::compare;
use super::reading::BLOCK_BYTES;
use super::sample::Sample;
use super::{Request, Verdict, conclude};
use crate::catalog::{Catalog, DirId, Record, is_refused, shown_name};
use crate::config::{DIR_CACHE_PER_SHARD, Metadata, Mounts};
use crate::engine::descriptor_limit;
use crate::engine::ends::{find_copy_to_read, find_to_read};
use crate::error::{Cause, Error, Result, join};
use crate::job::{KeyNames, fnv1a};
use crate::links::LinkKey;
use crate::location::Location;
use crate::provider::s3::{ByteRange, Client};
use crate::report::{Activity, Console, Crowd};
use crate::ring::syscalls::Kernel;
use crate::ring::{FixedBuffers, Kind, Name, Side};
use crate::roots::{Root, open_to_read as open_files};
use crate::selection::{Choice, read_choice};
use crate::stop::Stop;
use crate::walk::{DirCache, DirNode, Pending};

/// Most names of hard links that are held against each other; those beyond are counted.
const GROUPS_MAX: usize = 1 << 20;

/// One comparison.
struct Comparison {
    source: End,
    dest: End,
    choice: Choice,
    measure: Measure,
    /// Where one file is compared: its name on both sides.
    single: Option<(Name, Name)>,
    /// Whether mount points below the source are crossed.
    mounts: Mounts,
    /// Which content is compared; all of it if `None`.
    sample: Option<Sample>,
    /// Bytes of a unit of a sample.
    unit_bytes: u64,
    /// Whether set-id bits are compared, and device nodes missed: they do not come back from a bucket by themselves.
    has_special_bits: bool,
    findings: Findings,
    tally: Tally,
    /// The destination's file for each of the source's of several names, and the other way round.
    groups: RefCell<[HashMap<LinkKey, LinkKey>; 2]>,
    /// Numbers for directories that no catalog knows.
    next_id: Cell<u64>,
}

/// A directory under way.
struct Level {
    node: Arc<DirNode>,
    /// Directories in it.
    pending: Pending,
}

/// What is compared with the destination, open.
struct SourceEnd {
    end: End,
    /// The name of the one file or object that it is about.
    single: Option<Name>,
    /// Whether owner and mode were kept.
    is_kept: bool,
}

/// Compares as `request` asks, until it is done or `stop` is raised.
pub(super) fn run(
    request: &Request,
    stop: &Stop,
    started: Instant,
    (console, crowd): (Arc<Console>, &Arc<Crowd>),
) -> Result<Verdict> {
    if request.has_holes {
        return Err(Error::usage("--holes is for file systems: the objects of a bucket have no holes"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::refused("s3", format!("no runtime can be started: {error}")))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (comparison, path) = open(request, (console, crowd)).await?;
        let comparison = Rc::new(comparison);
        let is_whole = comparison.clone().walk(request.streams, stop).await?;
        let told = (&comparison.findings, &comparison.tally);
        Ok(conclude(request, told, &path, started, !is_whole))
    })
}

/// Opens both sides: the comparison, and the destination's path.
async fn open(request: &Request, (console, crowd): (Arc<Console>, &Arc<Crowd>)) -> Result<(Comparison, Vec<u8>)> {
    let is_bucket = |location: &Location| matches!(location, Location::S3 { .. });
    let recorded = match (&request.source, &request.dest) {
        (None, Location::S3 { bucket, prefix }) => Some(open_recorded(request, bucket, prefix)?),
        _ => None,
    };
    let is_across = match (&request.source, &recorded) {
        (Some(source), _) => is_bucket(source) && is_bucket(&request.dest),
        (None, Some((_, is_across))) => *is_across,
        (None, None) => false,
    };
    let names = if is_across { KeyNames::Pieces } else { KeyNames::Posix };
    let objects = if is_across && recorded.is_some() { Objects::Plain } else { Objects::Files };
    let source = match (&request.source, recorded) {
        (Some(source), _) => open_source(request, source, (names, objects), crowd).await?,
        (None, Some((source, _))) => source(objects),
        (None, None) => return Err(Error::usage("--source is missing")),
    };
    let (dest, path, granularity_nanos, dest_name) =
        open_dest(request, (names, objects), source.single.as_ref(), crowd).await?;
    let single = match (source.single, dest_name) {
        (None, None) => None,
        (Some(name), dest_name) => Some((name.clone(), dest_name.unwrap_or(name))),
        (None, Some(_)) => return Err(Error::refused(path, "is one object, but the source is a directory")),
    };
    let stdout = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout());
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    let comparison = Comparison {
        has_special_bits: !matches!((&source.end, &dest), (End::Bucket { .. }, End::Files { .. })),
        source: source.end,
        dest,
        choice: read_choice(&request.filter, request.files_from.as_deref())?,
        measure: Measure {
            has_owner_and_mode: request.metadata == Metadata::Keep && source.is_kept,
            attributes: request.attributes,
            granularity_nanos,
        },
        single,
        mounts: request.mounts,
        sample: request.sample.map(|percent| Sample::new(percent, seed)),
        unit_bytes: request.block_bytes.next_multiple_of(BLOCK_BYTES) as u64,
        findings: Findings::new(request.form, Box::new(stdout), console),
        tally: Tally::default(),
        groups: RefCell::default(),
        next_id: Cell::new(DirId::ROOT.0),
    };
    Ok((comparison, path))
}

/// The catalog of the job that wrote below a prefix, and whether its source was a bucket.
fn open_recorded(request: &Request, bucket: &str, prefix: &[u8]) -> Result<(impl FnOnce(Objects) -> SourceEnd, bool)> {
    let slash: &[u8] = if prefix.is_empty() || prefix.ends_with(b"/") { b"" } else { b"/" };
    let path = [b"s3://", bucket.as_bytes(), b"/", prefix, slash].concat();
    let (catalog, identity) = Catalog::open_recorded(&request.state_dir, Some(&path))?;
    let mut single = None;
    if catalog.reader()?.dir(DirId::ROOT)?.is_none_or(|root| root.listed_batch == 0) {
        // A job about one file lists nothing, and knows one name.
        let entries = catalog.reader()?.entries(DirId::ROOT, None, 2)?;
        let [(name, Record::File(_))] = &entries[..] else {
            return Err(Error::refused(path, "the job has not listed its source"));
        };
        single = Some(name.clone());
    }
    let is_kept = !identity.options.starts_with(b"metadata=TimesOnly");
    let catalog = Box::new(catalog);
    let source = move |objects| SourceEnd { end: End::Recorded { catalog, objects }, single, is_kept };
    Ok((source, identity.source.starts_with(b"s3://")))
}

async fn open_source(
    request: &Request,
    location: &Location,
    (names, objects): (KeyNames, Objects),
    crowd: &Arc<Crowd>,
) -> Result<SourceEnd> {
    let (end, single) = match location {
        Location::Posix(_) => {
            let busy = crowd.enlist();
            busy.set(Activity::SourceNames);
            let (root, name) = open_files(location)?;
            (files(request, root, Side::Source, crowd)?, name)
        }
        Location::S3 { bucket, prefix } => {
            let found = find_to_read((bucket, prefix), &request.source_s3, Side::Source, names);
            let (root, _, name) = found.await?;
            (End::Bucket { client: Client::new(root.bucket.clone())?, root, objects }, name)
        }
    };
    Ok(SourceEnd { end, single, is_kept: true })
}

/// The destination, its path, how finely it tells times apart, and the name of the one file that is compared there.
async fn open_dest(
    request: &Request,
    (names, objects): (KeyNames, Objects),
    single: Option<&Name>,
    crowd: &Arc<Crowd>,
) -> Result<(End, Vec<u8>, u32, Option<Name>)> {
    match &request.dest {
        Location::Posix(_) => {
            let busy = crowd.enlist();
            busy.set(Activity::DestNames);
            let (root, name) = open_files(&request.dest)?;
            let (path, granularity) = (root.path.clone(), root.granularity_nanos());
            Ok((files(request, root, Side::Dest, crowd)?, path, granularity, name))
        }
        Location::S3 { bucket, prefix } => {
            let place = (bucket.as_str(), &prefix[..]);
            let (root, path, name) = match single {
                Some(name) => {
                    let found = find_copy_to_read(place, &request.dest_s3, names, name).await?;
                    (found.0, found.1, Some(found.2))
                }
                None => find_to_read(place, &request.dest_s3, Side::Dest, names).await?,
            };
            Ok((End::Bucket { client: Client::new(root.bucket.clone())?, root, objects }, path, 1, name))
        }
    }
}

fn files(request: &Request, root: Root, side: Side, crowd: &Arc<Crowd>) -> Result<End> {
    let caller = Kernel::new(FixedBuffers::new(1, 4096, 4096)?.arena().clone()).telling(crowd.enlist());
    let state_dir = std::fs::metadata(&request.state_dir).ok().map(|dir| (dir.dev(), dir.ino()));
    // Beside them each stream may hold two files and a connection.
    let free = descriptor_limit().saturating_sub(64 + 3 * u64::from(request.streams)) / 4;
    let open = RefCell::new(DirCache::new(root.handle, (free as usize).clamp(4, DIR_CACHE_PER_SHARD)));
    let (device, attributes, path) = (root.device, request.attributes, root.path);
    let (crowd, root) = (crowd.clone(), Box::new(root.stat));
    Ok(End::Files { path, caller, crowd, side, open, state_dir, device, attributes, root })
}

impl Comparison {
    /// Compares all there is below the root; false if it was stopped before the end.
    async fn walk(self: Rc<Comparison>, streams: u32, stop: &Stop) -> Result<bool> {
        let slots = Arc::new(Semaphore::new(streams as usize));
        let root = DirNode::root();
        let mut levels = Vec::new();
        match &self.single {
            Some((name, _)) => {
                let dir = Rc::new(self.dir(root)?);
                self.clone().spawn(&slots, (&dir, name.clone()), Hint::Other, Side::Source).await;
            }
            None => {
                if let Err(error) = self.compare_roots(&self.dir(root.clone())?).await {
                    self.findings.trouble(&error);
                }
                levels.extend(self.enter(root, Pending::root(), &slots, stop).await);
            }
        }
        // Ends: every turn goes into a directory that was listed once, lists one for more of them, or leaves one.
        while let Some(level) = levels.last_mut() {
            if stop.is_requested() {
                return Ok(false);
            }
            if let Some(name) = level.pending.take() {
                let (node, below) = (level.node.clone(), level.pending.below());
                if let Some(child) = self.meet_dir(&node, &name).await {
                    levels.extend(self.enter(child, below, &slots, stop).await);
                }
            } else if level.pending.is_cut() {
                if let Err(error) = self.list_again(level).await {
                    self.findings.trouble(&error);
                }
            } else {
                levels.pop();
            }
        }
        // All slots are back when all objects are compared.
        let is_whole = slots.acquire_many(streams).await.is_ok();
        let is_whole = is_whole && !stop.is_requested();
        if is_whole {
            self.tell_unmet();
        }
        self.findings.flush();
        Ok(is_whole)
    }

    /// A directory, open on the sides that are file systems.
    fn dir(&self, node: Arc<DirNode>) -> Result<Dir> {
        let handles = [self.source.open(&node)?, self.dest.open(&node)?];
        Ok(Dir { node, handles })
    }

    async fn compare_roots(&self, root: &Dir) -> Result<()> {
        add(&self.tally.objects, 1);
        let (source, dest) = (self.source.describe_root(root).await?, self.dest.describe_root(root).await?);
        let aspects = source.zip(dest).map(|(a, b)| compare(&a, &b, &self.measure, self.has_special_bits));
        if let Some(aspects) = aspects.filter(|aspects| !aspects.is_empty()) {
            self.findings.differ_dir(b"", aspects);
        }
        Ok(())
    }

    /// Compares the objects of a directory; those below are still to be gone into.
    async fn enter(
        self: &Rc<Comparison>,
        node: Arc<DirNode>,
        pending: Pending,
        slots: &Arc<Semaphore>,
        stop: &Stop,
    ) -> Option<Level> {
        let mut level = Level { node, pending };
        let entered = self.list(&mut level, slots, stop).await;
        entered.inspect_err(|error| self.findings.trouble(error)).ok()?;
        Some(level)
    }

    async fn list(self: &Rc<Comparison>, level: &mut Level, slots: &Arc<Semaphore>, stop: &Stop) -> Result<()> {
        let dir = Rc::new(self.dir(level.node.clone())?);
        if self.source.left_out(&level.node, self.mounts)?.is_some() {
            return Ok(());
        }
        level.pending.begin();
        for (end, side) in [(&self.source, Side::Source), (&self.dest, Side::Dest)] {
            let mut names = end.names(&dir)?;
            // Ends: the listing does.
            while let Some((name, hint)) = end.next(&mut names, &dir).await? {
                if stop.is_requested() {
                    return Ok(());
                }
                if !self.takes(&dir.node, &name, hint, side) {
                    continue;
                }
                match (side, hint) {
                    // No file system has such a name. Another bucket may.
                    (Side::Dest, Hint::Refused(..)) if !matches!(self.source, End::Bucket { .. }) => {
                        let path = join(&dir.node.path(), shown_name(&name));
                        self.findings.differ(&path, Aspects::only(Aspect::Extra), None);
                    }
                    (_, Hint::Refused(_, why)) => {
                        let path = join(&dir.node.path(), shown_name(&name));
                        self.findings.trouble(&Error::refused_object(path, why));
                    }
                    (Side::Source, Hint::Dir) => level.pending.meet(name),
                    _ => self.clone().spawn(slots, (&dir, name), hint, side).await,
                }
            }
        }
        Ok(())
    }

    /// Lists a directory of the source once more, for the directories in it that were too many.
    async fn list_again(&self, level: &mut Level) -> Result<()> {
        let dir = self.dir(level.node.clone())?;
        let mut names = self.source.names(&dir)?;
        level.pending.begin();
        // Ends: the listing does.
        while let Some((name, hint)) = self.source.next(&mut names, &dir).await? {
            if hint == Hint::Dir && self.takes(&dir.node, &name, hint, Side::Source) {
                level.pending.meet(name);
            }
        }
        Ok(())
    }

    fn takes(&self, dir: &DirNode, name: &Name, hint: Hint, side: Side) -> bool {
        let (sort, path) = (hint.sort(), || dir.path_of(&shown_name(name).to_owned()));
        self.choice.is_everything()
            || match side {
                Side::Source => self.choice.meets(&path(), sort),
                Side::Dest => self.choice.takes(&path(), sort),
            }
    }

    /// Says which listed paths the source has not: they could not be compared.
    fn tell_unmet(&self) {
        for path in self.choice.unmet().filter(|path| self.single.is_none() && !self.choice.rules_out(path)) {
            let error = Error { verb: "compare", object: path.to_vec(), cause: Cause::Vanished };
            self.findings.trouble(&not_compared(error));
        }
    }

    /// Has a name compared beside others, once there is a slot for it.
    async fn spawn(self: Rc<Self>, slots: &Arc<Semaphore>, (dir, name): (&Rc<Dir>, Name), hint: Hint, side: Side) {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let dir = dir.clone();
        tokio::task::spawn_local(async move {
            self.meet(&dir, &name, hint, side).await;
            drop(slot);
        });
    }

    /// The name at the destination.
    fn dest_name<'n>(&'n self, dir: &DirNode, name: &'n Name) -> &'n Name {
        match &self.single {
            Some((_, dest)) if dir.parent.is_none() => dest,
            _ => name,
        }
    }

    /// Compares a directory of the source; goes into it if it is one at the destination, too.
    async fn meet_dir(&self, node: &Arc<DirNode>, name: &Name) -> Option<Arc<DirNode>> {
        let met = match self.dir(node.clone()) {
            Ok(dir) => self.try_dir(&dir, name).await,
            Err(error) => Err(error),
        };
        match met {
            Ok(below) => below,
            Err(error) => {
                self.findings.trouble(&error);
                None
            }
        }
    }

    async fn try_dir(&self, dir: &Dir, name: &Name) -> Result<Option<Arc<DirNode>>> {
        add(&self.tally.objects, 1);
        let path = dir.node.path_of(name);
        let Some(source) = self.source.describe(dir, name, Hint::Dir).await? else { return Ok(None) };
        let Some(dest) = self.dest.describe(dir, name, Hint::Dir).await? else {
            let below = DirNode::child(&dir.node, DirId(0), name.clone());
            if self.source.left_out(&below, Mounts::Cross)?.is_none() {
                self.findings.differ(&path, Aspects::only(Aspect::Missing), None);
            }
            return Ok(None);
        };
        let aspects = compare(&source, &dest, &self.measure, self.has_special_bits);
        if !aspects.is_empty() {
            self.findings.differ_dir(&path, aspects);
        }
        if aspects.has(Aspect::Type) {
            return Ok(None);
        }
        let id = match &self.source {
            End::Recorded { catalog, .. } => match catalog.reader()?.entry(dir.node.id, name)? {
                Some(Record::Dir(id)) => id,
                _ => return Ok(None),
            },
            _ => {
                self.next_id.set(self.next_id.get() + 1);
                DirId(self.next_id.get())
            }
        };
        Ok(Some(DirNode::child(&dir.node, id, name.clone())))
    }

    /// Compares an object of the source, or looks for one of the destination in the source.
    async fn meet(&self, dir: &Dir, name: &Name, hint: Hint, side: Side) {
        let met = match side {
            Side::Source => self.try_object(dir, name).await,
            Side::Dest => self.try_extra(dir, name, hint).await,
        };
        if let Err(error) = met {
            self.findings.trouble(&error);
        }
    }

    async fn try_extra(&self, dir: &Dir, name: &Name, hint: Hint) -> Result<()> {
        if self.source.describe(dir, name, hint).await?.is_none() {
            self.findings.differ(&dir.node.path_of(name), Aspects::only(Aspect::Extra), None);
        }
        Ok(())
    }

    async fn try_object(&self, dir: &Dir, name: &Name) -> Result<()> {
        add(&self.tally.objects, 1);
        // A key that was refused has none at the destination.
        if matches!(self.source, End::Recorded { .. }) && is_refused(name) {
            let path = join(&dir.node.path(), shown_name(name));
            self.findings.differ(&path, Aspects::only(Aspect::Missing), None);
            return Ok(());
        }
        // Gone since it was listed: nothing is missing.
        let Some(source) = self.source.describe(dir, name, Hint::Other).await? else { return Ok(()) };
        let path = dir.node.path_of(name);
        let Some(dest) = self.dest.describe(dir, self.dest_name(&dir.node, name), Hint::Other).await? else {
            if self.has_special_bits || !source.is_device() {
                self.findings.differ(&path, Aspects::only(Aspect::Missing), None);
            }
            return Ok(());
        };
        let dest = dest.cut(&self.dest, source.size);
        let mut aspects = compare(&source, &dest, &self.measure, self.has_special_bits);
        let has_content = [Some(Kind::File), Some(Kind::Symlink)].contains(&dest.kind);
        let is_out = [Aspect::Type, Aspect::Unfinished, Aspect::Links].into_iter().any(|aspect| aspects.has(aspect));
        if has_content
            && !is_out
            && !aspects.has(Aspect::Size)
            && !self.is_content_same(dir, name, &source, &dest).await?
        {
            aspects.add(if dest.kind == Some(Kind::Symlink) { Aspect::Target } else { Aspect::Content });
        }
        if !is_out && !self.are_links_same(&source, &dest) {
            aspects.add(Aspect::Links);
        }
        if !aspects.is_empty() {
            self.findings.differ(&path, aspects, None);
        }
        Ok(())
    }

    async fn is_content_same(&self, dir: &Dir, name: &Name, source: &Seen, dest: &Seen) -> Result<bool> {
        let size = dest.size.unwrap_or_default();
        add(&self.tally.bytes, size);
        if matches!(self.source, End::Recorded { .. }) && source.crc64.is_none() {
            add(&self.tally.unproved, 1);
            return Ok(true);
        }
        let is_stored = source.crc64.is_some() && dest.crc64.is_some();
        match self.sample {
            // What both sides know costs no reading.
            Some(sample) if !is_stored => self.is_sample_same(sample, (dir, name), source, dest).await,
            _ => {
                self.count_units(1, 1, size);
                self.is_whole_same(dir, name, source, dest).await
            }
        }
    }

    fn count_units(&self, units: u64, compared: u64, bytes_compared: u64) {
        add(&self.tally.units, units);
        add(&self.tally.units_compared, compared);
        add(&self.tally.bytes_compared, bytes_compared);
    }

    async fn is_whole_same(&self, dir: &Dir, name: &Name, source: &Seen, dest: &Seen) -> Result<bool> {
        let (expected, source_bytes) = self.source.checksum(dir, name, source).await?;
        let (found, dest_bytes) = self.dest.checksum(dir, self.dest_name(&dir.node, name), dest).await?;
        add(&self.tally.bytes_read, source_bytes + dest_bytes);
        Ok(expected == found)
    }

    /// Compares what is drawn of an object: all or nothing of one that is a unit or known by the checksum of its whole
    /// only, else units of it, each read on both sides.
    async fn is_sample_same(
        &self,
        sample: Sample,
        (dir, name): (&Dir, &Name),
        source: &Seen,
        dest: &Seen,
    ) -> Result<bool> {
        let (size, id) = (dest.size.unwrap_or_default(), fnv1a(&dir.node.path_of(name)));
        if size <= self.unit_bytes || matches!(self.source, End::Recorded { .. }) {
            let is_drawn = sample.draws(id, 0);
            self.count_units(1, is_drawn.into(), if is_drawn { size } else { 0 });
            return if is_drawn { self.is_whole_same(dir, name, source, dest).await } else { Ok(true) };
        }
        for unit in 0..size.div_ceil(self.unit_bytes) {
            let is_drawn = sample.draws(id, unit);
            let offset = unit * self.unit_bytes;
            let range = ByteRange { offset, len: self.unit_bytes.min(size - offset) };
            self.count_units(1, is_drawn.into(), if is_drawn { range.len } else { 0 });
            if !is_drawn {
                continue;
            }
            add(&self.tally.bytes_read, 2 * range.len);
            let expected = self.source.checksum_of(dir, name, source, range).await?;
            if self.dest.checksum_of(dir, self.dest_name(&dir.node, name), dest, range).await? != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the names that are one file in the source are one at the destination. The catalog does not tell.
    fn are_links_same(&self, source: &Seen, dest: &Seen) -> bool {
        if matches!(self.source, End::Recorded { .. }) {
            return true;
        }
        let (Some(from), Some(to)) = (source.group, dest.group) else {
            return source.group.is_none() && dest.group.is_none();
        };
        let mut groups = self.groups.borrow_mut();
        if groups[0].len() >= GROUPS_MAX && !groups[0].contains_key(&from) {
            add(&self.tally.unchecked_links, 1);
            return true;
        }
        *groups[0].entry(from).or_insert(to) == to && *groups[1].entry(to).or_insert(from) == from
    }
}
