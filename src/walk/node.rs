//! One directory known to the walk.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::catalog::{DirId, DirStamp};
use crate::ring::Name;
use crate::walk::Twins;

/// One directory of the source, and its counterpart at the destination.
#[derive(Debug)]
pub struct DirNode {
    /// Its key in the catalog.
    pub id: DirId,
    /// The directory it was found in; `None` for the root.
    pub parent: Option<Arc<DirNode>>,
    /// Its name there; empty for the root.
    pub name: Name,
    /// Levels below the root.
    pub depth: u32,
    /// Listing (1) plus entries that have no outcome yet.
    pending: AtomicU32,
    /// What is known of the destination's directory, a [`DestDir`] as number.
    dest: AtomicU8,
    /// Whether this pass changed anything in the destination's directory.
    touched: AtomicBool,
    /// Whether this run has made the destination's directory writable for its owner.
    widened: AtomicBool,
    /// Whether a part of its names could not be read.
    unread: AtomicBool,
    /// Whether the destination's directory tells names apart, a [`Folding`] as number.
    folding: AtomicU8,
    /// Its extended attributes and ACLs as its bucket tells them.
    told: OnceLock<Vec<u8>>,
    /// Which of its names its destination may take for one another, where its bucket was asked.
    twins: OnceLock<Box<Twins>>,
    /// The source's state when the listing began.
    stamp: OnceLock<Box<DirStamp>>,
    /// The device that it was on in the last pass, by its number in this run.
    recorded_dev: OnceLock<u64>,
}

/// What is known of a destination directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DestDir {
    /// Not opened yet.
    Unknown = 0,
    /// Created by this run: it holds no names but ours.
    Created = 1,
    /// It was there before: a name may be taken.
    Existing = 2,
    /// It was there before and hands a default ACL to what is created in it (I9).
    ExistingWithAcl = 3,
    /// The last pass left it as it should be, and this one has not needed it: it is opened once it does.
    Unneeded = 4,
    /// It was there before and may hand on another group than this process's: setgid, or mounted so (grpid; I9).
    ExistingWithGroup = 5,
}

/// Whether a destination directory tells all names apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Folding {
    /// Nobody has looked.
    Unknown = 0,
    /// It tells upper case from lower.
    None = 1,
    /// It does not.
    Case = 2,
}

impl DirNode {
    /// The root of a walk.
    pub fn root() -> Arc<DirNode> {
        Arc::new(DirNode::new(DirId::ROOT, None, Name::default(), 0))
    }

    /// A directory found in `parent`.
    pub fn child(parent: &Arc<DirNode>, id: DirId, name: Name) -> Arc<DirNode> {
        Arc::new(DirNode::new(id, Some(parent.clone()), name, parent.depth + 1))
    }

    fn new(id: DirId, parent: Option<Arc<DirNode>>, name: Name, depth: u32) -> DirNode {
        DirNode {
            id,
            parent,
            name,
            depth,
            pending: AtomicU32::new(1),
            dest: AtomicU8::new(0),
            touched: AtomicBool::new(false),
            widened: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            folding: AtomicU8::new(0),
            told: OnceLock::new(),
            twins: OnceLock::new(),
            stamp: OnceLock::new(),
            recorded_dev: OnceLock::new(),
        }
    }

    /// Notes that a part of its names could not be read.
    pub fn note_unread(&self) {
        self.unread.store(true, Ordering::Release);
    }

    /// Whether a part of its names could not be read.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Notes the source's state as its listing begins.
    pub fn set_stamp(&self, stamp: DirStamp) {
        let _ = self.stamp.set(Box::new(stamp));
    }

    /// The source's state when the listing began.
    pub fn stamp(&self) -> Option<DirStamp> {
        self.stamp.get().map(|stamp| **stamp)
    }

    /// Notes the device that the source's directory was on in the last pass.
    pub fn set_recorded_dev(&self, dev: u64) {
        let _ = self.recorded_dev.set(dev);
    }

    /// The device that the source's directory was on in the last pass, where this one has looked.
    pub fn recorded_dev(&self) -> Option<u64> {
        self.recorded_dev.get().copied()
    }

    /// Device and inode of the source's directory, once its listing has begun.
    pub fn source_id(&self) -> Option<(u64, u64)> {
        self.stamp.get().map(|stamp| (stamp.dev, stamp.ino))
    }

    /// Notes what a bucket tells of its extended attributes and ACLs.
    pub fn set_told(&self, told: Vec<u8>) {
        let _ = self.told.set(told);
    }

    /// What a bucket tells of them; empty for nothing.
    pub fn told(&self) -> &[u8] {
        self.told.get().map_or(&[], Vec::as_slice)
    }

    /// Notes which of its names its destination may take for one another.
    pub fn set_twins(&self, twins: Twins) {
        let _ = self.twins.set(Box::new(twins));
    }

    /// Which of its names its destination may take for one another, where its bucket was asked.
    pub fn twins(&self) -> Option<&Twins> {
        self.twins.get().map(Box::as_ref)
    }

    /// Whether the destination's directory tells names apart.
    pub fn folding(&self) -> Folding {
        match self.folding.load(Ordering::Relaxed) {
            1 => Folding::None,
            2 => Folding::Case,
            _ => Folding::Unknown,
        }
    }

    /// Notes whether it does.
    pub fn set_folding(&self, folding: Folding) {
        self.folding.store(folding as u8, Ordering::Relaxed);
    }

    /// Notes that this pass changes something in the destination's directory: its times will have to be set again.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    /// Whether this pass changed anything in the destination's directory.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Notes that the destination's directory had to be made writable for its owner: it has to get its mode back.
    pub fn note_widened(&self) {
        self.widened.store(true, Ordering::Relaxed);
    }

    /// Whether it had to be.
    pub fn is_widened(&self) -> bool {
        self.widened.load(Ordering::Relaxed)
    }

    /// An entry whose outcome is still to come.
    pub fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry, or the listing itself, has its outcome. True for the last one: the directory is listed.
    pub fn release(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// What is known of the destination's directory.
    pub fn dest(&self) -> DestDir {
        match self.dest.load(Ordering::Relaxed) {
            1 => DestDir::Created,
            2 => DestDir::Existing,
            3 => DestDir::ExistingWithAcl,
            4 => DestDir::Unneeded,
            5 => DestDir::ExistingWithGroup,
            _ => DestDir::Unknown,
        }
    }

    /// Notes what is known of the destination's directory.
    pub fn set_dest(&self, dest: DestDir) {
        self.dest.store(dest as u8, Ordering::Relaxed);
    }

    /// The path below the root, without a leading slash.
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut node = self;
        while let Some(parent) = &node.parent {
            names.push(node.name.as_bytes());
            node = parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            if !path.is_empty() && !path.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }

    /// The path of an entry of this directory below the root.
    pub fn path_of(&self, name: &Name) -> Vec<u8> {
        crate::error::join(&self.path(), name)
    }
}

impl Drop for DirNode {
    /// Unlinks a chain of last references iteratively: a 10,000-level tree must not recurse 10,000 times.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(node) = next {
            next = match Arc::try_unwrap(node) {
                Ok(mut last) => last.parent.take(),
                Err(_) => None,
            };
        }
    }
}
