//! [`World`]: two disks, what is open on them, and the faults; answers one operation at a time.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::disk::{Disk, Ino, ROOT};
use super::faults::{Failure, Faults, Target, Verb};
use super::random::Random;
use crate::error::Errno;
use crate::ring::{Access, Answer, Arena, Handle, Name, Op, Side};

/// What a handle stands for.
#[derive(Debug)]
pub(super) struct Opened {
    /// The side it is on.
    pub side: Side,
    /// The inode.
    pub ino: Ino,
    /// How it was opened; `None` for a directory opened to be listed.
    pub access: Option<Access>,
    /// The last component it was opened by.
    pub name: Vec<u8>,
    /// A directory's names, taken when the listing starts, and how many are told.
    pub listing: Option<(Vec<Vec<u8>>, usize)>,
}

/// The state that all interpreters of one simulation share.
#[derive(Debug)]
pub(super) struct World {
    /// Source and destination.
    pub disks: [Disk; 2],
    /// What each fd stands for. A number that the process uses again is overwritten; `Close` removes it.
    pub opened: HashMap<RawFd, Opened>,
    /// What every handle is a duplicate of.
    null: OwnedFd,
    /// What goes wrong.
    pub faults: Faults,
    /// Decides all the rest.
    pub random: Random,
    /// Operations executed.
    pub ops: u64,
    /// Whether the power is gone.
    pub crashed: bool,
    /// Operations so far, by side and sort.
    verbs: HashMap<(bool, Verb), u32>,
    /// Operations so far on a source object, by name.
    touches: HashMap<Vec<u8>, u32>,
    /// The source before each of its changes.
    pub former_sources: Vec<Disk>,
}

fn index(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Dest => 1,
    }
}

/// A name as bytes. One component: anything else could be followed out of the tree.
pub(super) fn component(name: &Name) -> &[u8] {
    assert!(!name.to_bytes().contains(&b'/'), "I8: {name:?} is not one component");
    name.to_bytes()
}

impl World {
    pub fn new(seed: u64, faults: Faults, source: Disk, dest: Disk) -> World {
        let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, 0.into());
        let mut disks = [source, dest];
        let clock_ns = disks[0].clock_ns.max(disks[1].clock_ns);
        disks.iter_mut().for_each(|disk| disk.clock_ns = clock_ns);
        World {
            disks,
            opened: HashMap::new(),
            null: null.expect("every machine has /dev/null"),
            faults,
            random: Random::new(seed),
            ops: 0,
            crashed: false,
            verbs: HashMap::new(),
            touches: HashMap::new(),
            former_sources: Vec::new(),
        }
    }

    pub fn disk(&mut self, side: Side) -> &mut Disk {
        &mut self.disks[index(side)]
    }

    /// A handle on an inode.
    pub fn handle(&mut self, side: Side, ino: Ino, access: Option<Access>, name: &[u8]) -> Handle {
        let fd = self.null.try_clone().expect("the limit of open files is high enough");
        let opened = Opened { side, ino, access, name: name.to_vec(), listing: None };
        self.opened.insert(fd.as_raw_fd(), opened);
        Arc::new(fd)
    }

    /// A handle on the root of one side.
    pub fn root(&mut self, side: Side) -> Handle {
        self.handle(side, ROOT, None, b"")
    }

    /// What `handle` stands for; EBADF after its `Close`.
    pub fn opened(&self, handle: &Handle) -> Result<&Opened, Errno> {
        self.opened.get(&handle.as_raw_fd()).ok_or(Errno::BADF)
    }

    /// The inode of a handle that must be on `side`.
    pub fn ino(&self, side: Side, handle: &Handle) -> Result<Ino, Errno> {
        let opened = self.opened(handle)?;
        assert_eq!(opened.side, side, "an operation for one side got a handle of the other: {opened:?}");
        Ok(opened.ino)
    }

    /// Executes one operation, unless something goes wrong first. A close that fails has closed all the same.
    pub fn execute(&mut self, side: Side, op: &mut Op, arena: &Arena) -> Result<Answer, Errno> {
        let result = self.try_execute(side, op, arena);
        if let Op::Close { file } = op {
            if Arc::strong_count(file) == 1 {
                self.opened.remove(&file.as_raw_fd());
            }
            *op = Op::Closed;
        }
        result
    }

    fn try_execute(&mut self, side: Side, op: &mut Op, arena: &Arena) -> Result<Answer, Errno> {
        check_source_is_read_only(side, op);
        if self.crashed {
            return Err(Errno::IO);
        }
        self.ops += 1;
        if self.faults.crash_at == Some(self.ops) {
            self.crashed = true;
            return Err(Errno::IO);
        }
        let elapsed_ns = 1_000 + self.random.below(100_000) as i64;
        self.disks.iter_mut().for_each(|disk| disk.clock_ns += elapsed_ns);
        let name = self.object_name(op);
        if side == Side::Source {
            self.mutate(&name);
        }
        self.fail(side, op, &name)?;
        self.answer(side, op, arena)
    }

    /// The last component of what an operation is about.
    fn object_name(&self, op: &Op) -> Vec<u8> {
        match subject(op) {
            Subject::Name(name) => name.to_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec(),
            Subject::Handle(handle) => self.opened(handle).map(|opened| opened.name.clone()).unwrap_or_default(),
        }
    }

    /// Changes the source object `name` if this is the operation before which it changes.
    fn mutate(&mut self, name: &[u8]) {
        if !self.faults.mutations.iter().any(|mutation| mutation.name == name) {
            return;
        }
        let touch = self.touches.entry(name.to_vec()).or_insert(0);
        *touch += 1;
        for mutation in &self.faults.mutations {
            if mutation.name == name && mutation.at_touch == *touch {
                self.former_sources.push(self.disks[0].clone());
                self.disks[0].mutate(name, mutation.change, &mut self.random);
            }
        }
    }

    /// The errno of a failure that hits this operation. What fails is not executed; a sync that fails has also lost
    /// what it should have written.
    fn fail(&mut self, side: Side, op: &Op, name: &[u8]) -> Result<(), Errno> {
        let verbs: &[Verb] = match op {
            Op::ReadWhole { .. } => &[Verb::Open, Verb::Read],
            op => &[Verb::of(op)],
        };
        for &verb in verbs {
            let count = self.verbs.entry((side == Side::Dest, verb)).or_insert(0);
            *count += 1;
            let count = *count;
            let hits = |failure: &&mut Failure| {
                let is_subject = match &failure.target {
                    Target::Name(target) => target == name,
                    Target::From(first) => count >= *first,
                };
                is_subject && (failure.side, failure.verb) == (side, verb) && failure.times > 0
            };
            if let Some(failure) = self.faults.failures.iter_mut().find(hits) {
                failure.times -= u32::from(failure.times != u32::MAX);
                let errno = failure.errno;
                self.lose_unsynced(side, op)?;
                return Err(errno);
            }
        }
        match may_be_repeated(op) && self.random.chance(self.faults.retry_permille) {
            true => Err([Errno::INTR, Errno::AGAIN][self.random.index(2)]),
            false => Ok(()),
        }
    }

    fn lose_unsynced(&mut self, side: Side, op: &Op) -> Result<(), Errno> {
        match op {
            Op::SyncFile { file } | Op::DropCache { file } => {
                let ino = self.ino(side, file)?;
                self.disk(side).fail_sync(ino);
            }
            Op::SyncFileSystem { .. } => {
                let inos: Vec<Ino> = self.disk(side).nodes.keys().copied().collect();
                for ino in inos {
                    if self.random.chance(500) {
                        self.disk(side).fail_sync(ino);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What an operation is about.
enum Subject<'a> {
    /// A name in a directory.
    Name(&'a Name),
    /// Something open.
    Handle(&'a Handle),
}

fn subject(op: &Op) -> Subject<'_> {
    match op {
        Op::ListXattrs { at, name }
        | Op::GetXattr { at, name, .. }
        | Op::SetXattr { at, name, .. }
        | Op::RemoveXattr { at, name, .. } => match name.is_empty() {
            true => Subject::Handle(at),
            false => Subject::Name(name),
        },
        Op::OpenDir { path: name, .. }
        | Op::MakeDir { name, .. }
        | Op::Stat { name, .. }
        | Op::Restat { name, .. }
        | Op::ReadWhole { name, .. }
        | Op::Open { name, .. }
        | Op::SetOwnerAt { name, .. }
        | Op::SetModeAt { name, .. }
        | Op::SetTimesAt { name, .. }
        | Op::DropAclsAt { name, .. }
        | Op::ReadLink { name, .. }
        | Op::MakeSymlink { name, .. }
        | Op::MakeNode { name, .. }
        | Op::Link { name, .. }
        | Op::Rename { to: name, .. }
        | Op::Unlink { name, .. }
        | Op::RemoveDir { name, .. } => Subject::Name(name),
        Op::ReadDir { dir: file, .. }
        | Op::StatHandle { file }
        | Op::RestatHandle { file }
        | Op::StatNew { file }
        | Op::Read { file, .. }
        | Op::Write { file, .. }
        | Op::Allocate { file, .. }
        | Op::Truncate { file, .. }
        | Op::NextData { file, .. }
        | Op::Clone { to: file, .. }
        | Op::SetOwner { file, .. }
        | Op::SetMode { file, .. }
        | Op::SetTimes { file, .. }
        | Op::HasDefaultAcl { dir: file }
        | Op::DropAcls { file }
        | Op::SyncFile { file }
        | Op::DropCache { file }
        | Op::SyncFileSystem { file }
        | Op::HasRoom { file }
        | Op::Close { file } => Subject::Handle(file),
        Op::Closed => unreachable!("never asked"),
    }
}

/// Calls a signal may interrupt before they have done anything.
fn may_be_repeated(op: &Op) -> bool {
    matches!(
        op,
        Op::OpenDir { .. }
            | Op::ReadWhole { .. }
            | Op::Open { .. }
            | Op::Read { .. }
            | Op::Write { .. }
            | Op::Allocate { .. }
    )
}

/// I6: what changes something is never asked of the source.
fn check_source_is_read_only(side: Side, op: &Op) {
    let changes = match Verb::of(op) {
        Verb::Write | Verb::Create | Verb::Attributes | Verb::Rename => true,
        Verb::Open => matches!(op, Op::Open { access: Access::Write | Access::WriteDirect, .. }),
        Verb::Read | Verb::List | Verb::Stat | Verb::Sync | Verb::Close => false,
    };
    assert!(side == Side::Dest || !changes, "I6: the source is never modified: {op:?}");
}
