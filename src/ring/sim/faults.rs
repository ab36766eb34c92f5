//! [`Faults`]: everything that goes wrong in one simulated run, as plain data, so that a test can print it, shrink it
//! and know which objects it hits.

use super::disk::Disk;
use super::random::Random;
use super::tree::EntryKind;
use crate::error::Errno;
use crate::ring::{Access, Op, Side};

/// What goes wrong. [`Faults::none`] is a machine that only answers late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// How often an operation other than a read or write goes pending, in permille. Reads and writes always do.
    pub late_permille: u32,
    /// How often a read, write or listing stops short, in permille.
    pub short_permille: u32,
    /// How often a call that may answer EINTR or EAGAIN does, in permille.
    pub retry_permille: u32,
    /// How often a listing says DT_UNKNOWN, in permille.
    pub untyped_permille: u32,
    /// Operations that fail.
    pub failures: Vec<Failure>,
    /// Source objects that change while they are copied.
    pub mutations: Vec<Mutation>,
    /// The operation, counted from 1, at which the power goes.
    pub crash_at: Option<u64>,
}

/// One operation, or every one of its sort on one object, that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The side it happens on.
    pub side: Side,
    /// The sort of operation.
    pub verb: Verb,
    /// Which of them.
    pub target: Target,
    /// What they answer.
    pub errno: Errno,
    /// How often it happens before it goes away; `u32::MAX` is never.
    pub times: u32,
}

/// Which operations of a sort fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Those on the object of this name (last component), in whatever directory.
    Name(Vec<u8>),
    /// From the n-th of the side on, counted from 1.
    From(u32),
}

/// Sorts of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Opening what is there, ReadWhole's first step included.
    Open,
    /// Reading bytes or extents of an open file, ReadWhole's second step included.
    Read,
    /// Writing, allocating, truncating, cloning.
    Write,
    /// Listing a directory.
    List,
    /// Describing an object, reading a symlink, asking for ACLs.
    Stat,
    /// Creating a name.
    Create,
    /// Setting owner, mode, times, ACLs.
    Attributes,
    /// Renaming and removing.
    Rename,
    /// Making durable.
    Sync,
    /// Closing.
    Close,
}

/// A source object that changes while it is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Its last component.
    pub name: Vec<u8>,
    /// Before which operation on it, counted from 1, it changes.
    pub at_touch: u32,
    /// What happens.
    pub change: Change,
}

/// What happens to a source object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Half of its bytes are overwritten in place.
    Rewrite,
    /// As `Rewrite`, and the old mtime is put back: only ctime tells.
    RewriteQuietly,
    /// It gets longer.
    Grow,
    /// It loses its second half.
    Shrink,
    /// Another file takes its name, of the same size and mtime.
    Replace,
    /// Its name goes.
    Vanish,
}

impl Verb {
    /// The sort of `op`.
    pub fn of(op: &Op) -> Verb {
        match op {
            Op::Open { access: Access::Create, .. } => Verb::Create,
            Op::OpenDir { .. } | Op::Open { .. } => Verb::Open,
            Op::Read { .. } | Op::ReadWhole { .. } | Op::NextData { .. } => Verb::Read,
            Op::Write { .. } | Op::Allocate { .. } | Op::Truncate { .. } | Op::Clone { .. } => Verb::Write,
            Op::ReadDir { .. } => Verb::List,
            Op::Stat { .. } | Op::StatHandle { .. } | Op::StatNew { .. } => Verb::Stat,
            Op::Restat { .. } | Op::RestatHandle { .. } => Verb::Stat,
            Op::ReadLink { .. } | Op::HasDefaultAcl { .. } | Op::HasRoom { .. } => Verb::Stat,
            Op::ListXattrs { .. } | Op::GetXattr { .. } => Verb::Stat,
            Op::MakeDir { .. } | Op::MakeSymlink { .. } | Op::MakeNode { .. } | Op::Link { .. } => Verb::Create,
            Op::SetOwner { .. } | Op::SetMode { .. } | Op::SetTimes { .. } => Verb::Attributes,
            Op::SetOwnerAt { .. } | Op::SetModeAt { .. } | Op::SetTimesAt { .. } => Verb::Attributes,
            Op::DropAcls { .. } | Op::DropAclsAt { .. } => Verb::Attributes,
            Op::SetXattr { .. } | Op::RemoveXattr { .. } => Verb::Attributes,
            Op::Rename { .. } | Op::Unlink { .. } | Op::RemoveDir { .. } => Verb::Rename,
            Op::SyncFile { .. } | Op::DropCache { .. } | Op::SyncFileSystem { .. } => Verb::Sync,
            Op::Close { .. } => Verb::Close,
            Op::Closed => unreachable!("never asked"),
        }
    }
}

impl Faults {
    /// Nothing goes wrong; reads and writes still come late and out of order.
    pub fn none() -> Faults {
        Faults {
            late_permille: 0,
            short_permille: 0,
            retry_permille: 0,
            untyped_permille: 0,
            failures: Vec::new(),
            mutations: Vec::new(),
            crash_at: None,
        }
    }

    /// Late, short and repeated answers in a mixture drawn from `seed`; nothing that keeps an object from being copied.
    pub fn harmless(seed: u64) -> Faults {
        let mut random = Random::new(seed ^ 0x0a11_5afe);
        let mut permille = |most: u64| random.below(most + 1) as u32;
        Faults {
            late_permille: permille(1000),
            short_permille: permille(500),
            retry_permille: permille(200),
            untyped_permille: permille(300),
            ..Faults::none()
        }
    }

    /// As [`Faults::harmless`], and a few objects of `source` that fail or change, drawn from `seed`. Space and the
    /// crash are left to the test ([`Disk::capacity_bytes`], [`Faults::crash_at`]).
    pub fn random(seed: u64, source: &Disk) -> Faults {
        let mut faults = Faults::harmless(seed);
        let mut random = Random::new(seed ^ 0xbad_b10c);
        let files: Vec<Vec<u8>> = source
            .dump()
            .into_iter()
            .filter(|(_, entry)| matches!(entry.kind, EntryKind::File { .. }))
            .map(|(path, _)| path.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec())
            .collect();
        if files.is_empty() {
            return faults;
        }
        for _ in 0..random.below(4) {
            let name = files[random.index(files.len())].clone();
            faults.failures.push(Failure::draw(name, &mut random));
        }
        for _ in 0..random.below(4) {
            let name = files[random.index(files.len())].clone();
            faults.mutations.push(Mutation::draw(name, &mut random));
        }
        if random.chance(300) {
            let (target, errno) = (Target::From(1 + random.below(3) as u32), Errno::IO);
            faults.failures.push(Failure { side: Side::Dest, verb: Verb::Sync, target, errno, times: 1 });
        }
        faults
    }
}

impl Failure {
    fn draw(name: Vec<u8>, random: &mut Random) -> Failure {
        let (side, verb) = [
            (Side::Source, Verb::Open),
            (Side::Source, Verb::Read),
            (Side::Source, Verb::Read),
            (Side::Source, Verb::Stat),
            (Side::Dest, Verb::Write),
            (Side::Dest, Verb::Attributes),
            (Side::Dest, Verb::Close),
        ][random.index(7)];
        let times = [1, 2, u32::MAX][random.index(3)];
        Failure { side, verb, target: Target::Name(name), errno: Errno::IO, times }
    }
}

impl Mutation {
    fn draw(name: Vec<u8>, random: &mut Random) -> Mutation {
        let changes =
            [Change::Rewrite, Change::RewriteQuietly, Change::Grow, Change::Shrink, Change::Replace, Change::Vanish];
        let change = changes[random.index(changes.len())];
        Mutation { name, at_touch: 1 + random.below(6) as u32, change }
    }
}
