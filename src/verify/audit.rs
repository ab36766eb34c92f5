//! What all threads of one comparison share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_deque::Injector;
use parking_lot::Mutex;

use super::compare::{Aspect, Aspects, Measure};
use super::content::Content;
use super::findings::Findings;
use super::links::Groups;
use super::sample::Sample;
use crate::catalog::{Catalog, DirId, DirRecord, DirStamp};
use crate::config::Mounts;
use crate::error::{Cause, Errno, Error, Result, join};
use crate::job::JobRoot;
use crate::provider::block::Device;
use crate::provider::posix::Posix;
use crate::ring::syscalls::Kernel;
use crate::ring::{Caller, FixedBuffers, Handle, Kind, Name, Side, Stat};
use crate::selection::Choice;
use crate::unmet::{Finder, objection};
use crate::walk::{DirNode, DirPair, Walker};

/// One comparison.
pub(super) struct Audit {
    /// Where the source begins; the destination once more where a catalog stands for it.
    pub source: JobRoot,
    /// Where the destination begins.
    pub dest: JobRoot,
    /// What stands for the source, where it is not read.
    pub catalog: Option<Catalog>,
    /// Whether that is a bucket: then the sizes and times of files that it recorded are those of objects.
    pub is_of_bucket: bool,
    /// Where one file is compared: its name on both sides.
    pub single: Option<(Name, Name)>,
    /// Which names are compared.
    pub choice: Choice,
    /// What is compared of metadata.
    pub measure: Measure,
    /// Which content is compared; all of it if `None`.
    pub sample: Option<Sample>,
    /// Whether holes are compared.
    pub has_holes: bool,
    /// Whether mount points below the source are crossed.
    pub mounts: Mounts,
    /// A state directory of gfast's, which belongs to neither side.
    pub state_dir: Option<(u64, u64)>,
    /// The queues.
    pub walker: Walker,
    /// Large files to help with.
    pub help: Injector<Arc<Content>>,
    /// Hard links met.
    pub groups: Groups,
    /// Where differences go.
    pub findings: Findings,
    /// The next directory's number.
    pub next_id: AtomicU64,
    /// Names found at the destination, of directories under way: added up over all who look through one.
    pub found: Mutex<HashMap<DirId, u64>>,
    /// What is counted.
    pub tally: Tally,
    /// Directories each thread may keep open.
    pub cached_dirs: usize,
    /// How many threads there are.
    pub shards: usize,
    /// Units in flight on each of them.
    pub depth: usize,
    /// Bytes of a unit of a large file.
    pub block_bytes: usize,
}

/// What is counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Objects looked at.
    pub objects: AtomicU64,
    /// Bytes read on both sides.
    pub bytes_read: AtomicU64,
    /// Bytes of content there are.
    pub bytes: AtomicU64,
    /// Of them, compared.
    pub bytes_compared: AtomicU64,
    /// Units of content there are.
    pub units: AtomicU64,
    /// Of them, compared.
    pub units_compared: AtomicU64,
    /// Files without a recorded checksum.
    pub unproved: AtomicU64,
    /// Names whose groups were not compared.
    pub unchecked_links: AtomicU64,
    /// Files read through the page cache.
    pub cached: AtomicU64,
}

/// A listed path that the source has not, as a comparison sees it.
pub(super) fn not_compared(error: Error) -> Error {
    let cause = match error.cause {
        Cause::Vanished => Cause::Protected("it is listed, and the source has nothing there"),
        cause => cause,
    };
    Error { verb: "compare", cause, ..error }
}

/// Adds to a counter that nothing waits for.
pub(super) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

impl Audit {
    /// Compares the roots themselves.
    pub fn compare_roots(&self, caller: &dyn Caller) {
        add(&self.tally.objects, 1);
        let mut source = self.source.stat;
        if let Some(catalog) = &self.catalog {
            match catalog.reader().and_then(|reader| reader.dir(DirId::ROOT)) {
                Ok(Some(DirRecord { stamp: Some(stamp), .. })) => source = self.recorded_dir(&stamp, source),
                Ok(_) => return self.findings.differ(b"", Aspects::only(Aspect::Unfinished), None),
                Err(error) => return self.findings.trouble(&error),
            }
        }
        let root = (&self.source.handle, &Name::default());
        let mut aspects = self.compare_stats(caller, root, &source, &self.dest.stat);
        let open = DirPair { source: self.source.handle.clone(), dest: self.dest.handle.clone() };
        aspects.extend(self.compare_attributes(caller, (&DirNode::root(), &open), &Name::default(), Kind::Dir));
        if !aspects.is_empty() {
            self.findings.differ_dir(b"", aspects);
        }
    }

    /// A directory as it was recorded, as far as that tells: of one that no object of a bucket describes nothing is
    /// known.
    pub fn recorded_dir(&self, stamp: &DirStamp, dest: Stat) -> Stat {
        let DirStamp { mode, uid, gid, mtime, ino, .. } = *stamp;
        if self.is_of_bucket && ino == 0 { dest } else { Stat { mode, uid, gid, mtime, ..dest } }
    }

    /// Says which listed paths the source has not: they could not be compared.
    pub fn tell_unmet(&self) -> Result<()> {
        if self.single.is_some() || self.catalog.is_some() {
            return Ok(());
        }
        let buffers = FixedBuffers::new(1, 4096, 4096)?;
        let kernel = Kernel::new(buffers.arena().clone());
        let mut finder = Finder::new(&kernel, self.source.handle.clone());
        for path in self.choice.unmet().filter(|path| !self.choice.rules_out(path)) {
            let objection = objection([&self.source.path, &b"/"[..], path].concat(), finder.find(path));
            objection.into_iter().for_each(|error| self.findings.trouble(&not_compared(error)));
        }
        Ok(())
    }

    /// The block device on one side, if that is what is compared.
    pub fn device(&self, side: Side) -> Option<&Device> {
        match side {
            Side::Source => self.source.device.as_deref(),
            Side::Dest => self.dest.device.as_deref(),
        }
    }

    /// Whether either side is a block device.
    pub fn has_device(&self) -> bool {
        self.source.device.is_some() || self.dest.device.is_some()
    }

    /// Describes a name; a device as a file of its size.
    pub fn stat(&self, caller: &dyn Caller, side: Side, at: &Handle, name: &Name) -> std::result::Result<Stat, Errno> {
        match self.device(side) {
            Some(device) => device.stat(),
            None => Posix::new(caller, side).stat(at, name),
        }
    }

    /// A destination as far as it is compared with a source of `size` bytes: a device may hold more, and it has no
    /// owner, mode and times of its content, nor has the image of one.
    pub fn as_far_as(&self, source: &Stat, dest: Stat) -> Stat {
        let size = match self.device(Side::Dest) {
            Some(_) => dest.size.min(source.size),
            None => dest.size,
        };
        let (mode, uid, gid, mtime) = (source.mode, source.uid, source.gid, source.mtime);
        match self.has_device() {
            true if dest.kind() == Kind::File => Stat { size, mode, uid, gid, mtime, ..dest },
            _ => dest,
        }
    }

    /// The name at the destination.
    pub fn dest_name<'a>(&'a self, dir: &DirNode, name: &'a Name) -> &'a Name {
        match &self.single {
            Some((_, dest)) if dir.parent.is_none() => dest,
            _ => name,
        }
    }

    /// A directory's path, or that of a name in it, on one side, for messages.
    pub fn path(&self, side: Side, dir: &DirNode, name: &Name) -> Vec<u8> {
        let root = if side == Side::Source { &self.source.path } else { &self.dest.path };
        let name = if side == Side::Source { name } else { self.dest_name(dir, name) };
        let below = if name.is_empty() { dir.path() } else { dir.path_of(name) };
        match std::ffi::CString::new(below) {
            Ok(below) if !below.is_empty() => join(root, &below),
            _ => root.clone(),
        }
    }

    /// Says that an object could not be compared.
    pub fn fail(&self, side: Side, dir: &DirNode, name: &Name, verb: &'static str, errno: Errno) {
        self.findings.trouble(&Error::os(verb, self.path(side, dir, name), errno));
    }
}
