//! Comparisons in which a bucket takes part, on either side, against a file system, another bucket or the catalog.
//!
//! ```text
//! source's names    each described on both sides and compared, many at a time
//! destination's     each asked for in the source: what is not there is extra
//! directories       one after the other, deepest first; their own attributes as their `dir/` objects have them
//! ```
//! An answer takes milliseconds here and no processor, so one thread keeps `--streams` objects under way. Content is
//! the same if the CRC64s are: the stored one of a whole object where the server tells it, else that of what is read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::audit::{Tally, add};
use super::compare::{Aspect, Aspects, Measure};
use super::ends::{Dir, End, Hint, Names, Objects, Seen, compare};
use super::findings::Findings;
use super::{Request, Verdict, conclude};
use crate::catalog::{Catalog, DirId, Record};
use crate::config::{Attributes, Metadata, Output};
use crate::engine::ends::open_to_read as open_bucket;
use crate::engine::{granularity_nanos, raise_descriptor_limit};
use crate::error::{Error, Result};
use crate::filter::{Choice, Sort};
use crate::job::{KeyNames, read_choice};
use crate::links::LinkKey;
use crate::location::Location;
use crate::provider::s3::Client;
use crate::report::Console;
use crate::ring::syscalls::Kernel;
use crate::ring::{FixedBuffers, Handle, Kind, Name, Side};
use crate::roots::open_to_read as open_files;
use crate::stop::Stop;
use crate::walk::DirNode;

/// Most names of hard links that are held against each other; those beyond are counted.
const GROUPS_MAX: usize = 1 << 20;

/// One comparison.
struct Comparison {
    source: End,
    dest: End,
    choice: Choice,
    measure: Measure,
    /// Whether set-id bits are compared: they do not come back from a bucket by themselves.
    has_special_bits: bool,
    findings: Findings,
    tally: Tally,
    /// The destination's file for each of the source's of several names, and the other way round.
    groups: RefCell<[HashMap<LinkKey, LinkKey>; 2]>,
}

/// A directory under way.
struct Level {
    dir: Rc<Dir>,
    names: Names,
    /// Whose names they are.
    side: Side,
}

/// Compares as `request` asks, until it is done or `stop` is raised.
pub(super) fn run(request: &Request, stop: &Stop, started: Instant) -> Result<Verdict> {
    if request.sample.is_some() || request.has_holes {
        return Err(Error::usage("--sample and --holes are for file systems, not for buckets"));
    }
    if request.attributes != Attributes::None {
        return Err(Error::usage("--xattrs and --acls are for file systems, not for buckets"));
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::refused("s3", format!("no runtime can be started: {error}")))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let (comparison, root, path) = open(request).await?;
        let comparison = Rc::new(comparison);
        let is_whole = comparison.clone().walk(root, request.streams, stop).await?;
        let told = (&comparison.findings, &comparison.tally);
        Ok(conclude(request, told, &path, started, !is_whole))
    })
}

/// Opens both sides: the comparison, its root, and the destination's path.
async fn open(request: &Request) -> Result<(Comparison, Dir, Vec<u8>)> {
    let buckets = |location: &Location| matches!(location, Location::S3 { .. });
    let recorded = match (&request.source, &request.dest) {
        (None, Location::S3 { bucket, prefix }) => Some(open_recorded(request, bucket, prefix)?),
        _ => None,
    };
    let is_across = match (&request.source, &recorded) {
        (Some(source), _) => buckets(source) && buckets(&request.dest),
        (None, Some((_, is_across, _))) => *is_across,
        (None, None) => false,
    };
    let names = if is_across { KeyNames::Pieces } else { KeyNames::Posix };
    let objects = if is_across && recorded.is_some() { Objects::Plain } else { Objects::Files };
    let (dest, dest_root, path, granularity) = open_end(request, &request.dest, Side::Dest, (names, objects)).await?;
    let (source, source_root, is_kept) = match (&request.source, recorded) {
        (Some(source), _) => {
            let (source, root, ..) = open_end(request, source, Side::Source, (names, objects)).await?;
            (source, root, true)
        }
        (None, Some((catalog, _, is_kept))) => (End::Recorded { catalog: Box::new(catalog), objects }, None, is_kept),
        (None, None) => return Err(Error::usage("--source is missing")),
    };
    let console = Arc::new(Console::stderr(if request.is_quiet { Output::Quiet } else { Output::Text }));
    let stdout = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout());
    let comparison = Comparison {
        has_special_bits: !matches!((&source, &dest), (End::Bucket { .. }, End::Files { .. })),
        source,
        dest,
        choice: read_choice(&request.filter, request.files_from.as_deref())?,
        measure: Measure {
            has_owner_and_mode: request.metadata == Metadata::Keep && is_kept,
            attributes: Attributes::None,
            granularity_nanos: granularity,
        },
        findings: Findings::new(request.form, Box::new(stdout), console),
        tally: Tally::default(),
        groups: RefCell::default(),
    };
    Ok((comparison, Dir { node: DirNode::root(), handles: [source_root, dest_root] }, path))
}

/// The catalog of the job that wrote below a prefix, whether its source was a bucket, and whether it kept owner and
/// mode.
fn open_recorded(request: &Request, bucket: &str, prefix: &[u8]) -> Result<(Catalog, bool, bool)> {
    let slash: &[u8] = if prefix.is_empty() || prefix.ends_with(b"/") { b"" } else { b"/" };
    let path = [b"s3://", bucket.as_bytes(), b"/", prefix, slash].concat();
    let (catalog, identity) = Catalog::open_recorded(&request.state_dir, Some(&path))?;
    if catalog.reader()?.dir(DirId::ROOT)?.is_none() {
        return Err(Error::refused(path, "the job has not listed its source, or was about one file"));
    }
    let is_kept = !identity.options.starts_with(b"metadata=TimesOnly");
    Ok((catalog, identity.source.starts_with(b"s3://"), is_kept))
}

/// One side, its root directory if it is a file system's, its path, and how finely it tells times apart.
async fn open_end(
    request: &Request,
    location: &Location,
    side: Side,
    (names, objects): (KeyNames, Objects),
) -> Result<(End, Option<Handle>, Vec<u8>, u32)> {
    match location {
        Location::Posix(_) => {
            let (root, name) = open_files(location)?;
            if name.is_some() {
                return Err(Error::refused(&root.path, "a bucket is compared with a directory, not with one file"));
            }
            let caller = Kernel::new(FixedBuffers::new(1, 4096, 4096)?.arena().clone());
            let state_dir = std::fs::metadata(&request.state_dir).ok().map(|dir| (dir.dev(), dir.ino()));
            let end = End::Files { path: root.path.clone(), caller, side, state_dir };
            Ok((end, Some(root.handle), root.path, granularity_nanos(root.file_system)))
        }
        Location::S3 { bucket, prefix } => {
            let options = if side == Side::Source { &request.source_s3 } else { &request.dest_s3 };
            let (root, path) = open_bucket(bucket, prefix, options, side, names).await?;
            let client = Client::new(root.bucket.clone())?;
            Ok((End::Bucket { root, client, objects }, None, path, 1))
        }
    }
}

impl Comparison {
    /// Compares all there is below `root`; false if it was stopped before the end. Ends: every turn takes a name or
    /// leaves a directory.
    async fn walk(self: Rc<Comparison>, root: Dir, streams: u32, stop: &Stop) -> Result<bool> {
        let slots = Arc::new(Semaphore::new(streams as usize));
        let mut levels = Vec::new();
        self.enter(&mut levels, Rc::new(root));
        while let Some(level) = levels.last_mut() {
            if stop.is_requested() {
                return Ok(false);
            }
            let end = if level.side == Side::Source { &self.source } else { &self.dest };
            let next = end.next(&mut level.names, &level.dir).await;
            let (dir, side) = (level.dir.clone(), level.side);
            match next {
                Ok(Some((name, hint))) => {
                    let sort = if hint == Hint::Dir { Sort::Dir } else { Sort::Other };
                    if !self.choice.is_everything() && !self.choice.takes(&dir.node.path_of(&name), sort) {
                        continue;
                    }
                    if side == Side::Source && hint == Hint::Dir {
                        if let Some(below) = self.meet_dir(&dir, &name).await {
                            self.enter(&mut levels, Rc::new(below));
                        }
                        continue;
                    }
                    let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(false) };
                    let this = self.clone();
                    tokio::task::spawn_local(async move {
                        this.meet(&dir, &name, hint, side).await;
                        drop(slot);
                    });
                }
                Ok(None) if side == Side::Source => match self.dest.names(&dir) {
                    Ok(names) => (level.names, level.side) = (names, Side::Dest),
                    Err(error) => {
                        self.findings.trouble(&error);
                        levels.pop();
                    }
                },
                Ok(None) => drop(levels.pop()),
                Err(error) => {
                    self.findings.trouble(&error);
                    levels.pop();
                }
            }
        }
        // All slots are back when all objects are compared.
        let is_whole = slots.acquire_many(streams).await.is_ok();
        self.findings.flush();
        Ok(is_whole)
    }

    fn enter(&self, levels: &mut Vec<Level>, dir: Rc<Dir>) {
        match self.source.names(&dir) {
            Ok(names) => levels.push(Level { dir, names, side: Side::Source }),
            Err(error) => self.findings.trouble(&error),
        }
    }

    /// Compares a directory of the source; goes into it if it is one at the destination, too.
    async fn meet_dir(&self, dir: &Dir, name: &Name) -> Option<Dir> {
        match self.try_dir(dir, name).await {
            Ok(below) => below,
            Err(error) => {
                self.findings.trouble(&error);
                None
            }
        }
    }

    async fn try_dir(&self, dir: &Dir, name: &Name) -> Result<Option<Dir>> {
        add(&self.tally.objects, 1);
        let path = dir.node.path_of(name);
        let Some(source) = self.source.describe(dir, name, Hint::Dir).await? else { return Ok(None) };
        let Some(dest) = self.dest.describe(dir, name, Hint::Dir).await? else {
            self.findings.differ(&path, Aspects::only(Aspect::Missing), None);
            return Ok(None);
        };
        let aspects = compare(&source, &dest, &self.measure, self.has_special_bits);
        if !aspects.is_empty() {
            self.findings.differ(&path, aspects, None);
        }
        if aspects.has(Aspect::Type) {
            return Ok(None);
        }
        let id = match &self.source {
            End::Recorded { catalog, .. } => match catalog.reader()?.entry(dir.node.id, name)? {
                Some(Record::Dir(id)) => id,
                _ => return Ok(None),
            },
            _ => dir.node.id,
        };
        let handles = [self.source.enter(dir, name)?, self.dest.enter(dir, name)?];
        Ok(Some(Dir { node: DirNode::child(&dir.node, id, name.clone()), handles }))
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
        // Gone since it was listed: nothing is missing.
        let Some(source) = self.source.describe(dir, name, Hint::Other).await? else { return Ok(()) };
        let path = dir.node.path_of(name);
        let Some(dest) = self.dest.describe(dir, name, Hint::Other).await? else {
            self.findings.differ(&path, Aspects::only(Aspect::Missing), None);
            return Ok(());
        };
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
        let (expected, source_bytes) = self.source.checksum(dir, name, source).await?;
        let (found, dest_bytes) = self.dest.checksum(dir, name, dest).await?;
        add(&self.tally.bytes_read, source_bytes + dest_bytes);
        add(&self.tally.bytes_compared, size);
        Ok(expected == found)
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
