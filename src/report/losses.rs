//! Losses: what a destination, or a process without privilege, cannot keep. Said once each, counted, and listed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::console::Console;

/// One kind of metadata that was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Owner or group (no CAP_CHOWN).
    Owner,
    /// Permission bits (file systems without them).
    Mode,
    /// setuid, setgid: not set where the owner could not be (I9).
    SetIds,
    /// Times.
    Times,
    /// A device node (no CAP_MKNOD): not made.
    DeviceNode,
    /// A FIFO or socket (file systems without them): not made.
    FifoOrSocket,
    /// A symlink (file systems without them): not made.
    Symlink,
    /// A further name of a file (file systems without hard links): copied as a file of its own.
    HardLink,
    /// Extended attributes (file systems without them or without room for them; no CAP_SYS_ADMIN).
    Xattrs,
    /// An ACL (file systems without them).
    Acl,
    /// A file's capabilities (no CAP_SETFCAP, or another owner).
    Capabilities,
    /// What a time has beyond the second, or whatever the file system counts in.
    TimePrecision,
    /// The name, and with it the object, which failed: it is counted there, and listed as this, too.
    Name,
}

/// Number of [`Loss`] kinds.
const LOSSES: usize = Loss::Name as usize + 1;

impl Loss {
    /// All of them, in the order of their indexes.
    pub const ALL: [Loss; LOSSES] = [
        Loss::Owner,
        Loss::Mode,
        Loss::SetIds,
        Loss::Times,
        Loss::DeviceNode,
        Loss::FifoOrSocket,
        Loss::Symlink,
        Loss::HardLink,
        Loss::Xattrs,
        Loss::Acl,
        Loss::Capabilities,
        Loss::TimePrecision,
        Loss::Name,
    ];

    /// For people, and for [`crate::error::Cause::Loss`].
    pub fn name(self) -> &'static str {
        match self {
            Loss::Owner => "owner",
            Loss::Mode => "permission bits",
            Loss::SetIds => "set-id bits",
            Loss::Times => "times",
            Loss::DeviceNode => "device node",
            Loss::FifoOrSocket => "FIFO or socket",
            Loss::Symlink => "symlink",
            Loss::HardLink => "hard link",
            Loss::Xattrs => "extended attributes",
            Loss::Acl => "ACL",
            Loss::Capabilities => "capabilities",
            Loss::TimePrecision => "fraction of its time",
            Loss::Name => "name",
        }
    }

    /// Its key in the JSON summary.
    pub fn key(self) -> &'static str {
        match self {
            Loss::Owner => "owner",
            Loss::Mode => "mode",
            Loss::SetIds => "set_ids",
            Loss::Times => "times",
            Loss::DeviceNode => "device_node",
            Loss::FifoOrSocket => "fifo_or_socket",
            Loss::Symlink => "symlink",
            Loss::HardLink => "hard_link",
            Loss::Xattrs => "xattrs",
            Loss::Acl => "acl",
            Loss::Capabilities => "capabilities",
            Loss::TimePrecision => "time_precision",
            Loss::Name => "names",
        }
    }

    /// Why it happens and what helps.
    fn remedy(self) -> &'static str {
        match self {
            Loss::Owner | Loss::SetIds => "run as root to keep it, or ask for --no-metadata",
            Loss::DeviceNode => "run as root to make it; from S3 with --special-bits",
            Loss::Mode | Loss::Times => "this destination cannot hold it, or this user may not set it",
            Loss::Xattrs => "this destination cannot hold all of them, or this user may not set them",
            Loss::Acl => "this destination cannot hold it: nobody gets in whom it would have kept out",
            Loss::Capabilities => "run as root to keep them, with owner and mode; from S3 with --special-bits",
            Loss::TimePrecision => "this destination keeps whole seconds, or not all digits",
            Loss::Name => "this destination cannot hold it: give it another name",
            Loss::FifoOrSocket | Loss::Symlink => "this destination cannot hold one",
            Loss::HardLink => "this destination cannot hold one: each name becomes a file of its own",
        }
    }
}

/// Losses of one object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossSet(u16);

impl LossSet {
    /// As it is recorded: a bit each, in the order of [`Loss::ALL`].
    pub fn from_bits(bits: u16) -> LossSet {
        LossSet(bits)
    }

    /// To be recorded.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Adds one.
    pub fn add(&mut self, loss: Loss) {
        self.0 |= 1 << loss as u8;
    }

    /// Adds those of another set.
    pub fn extend(&mut self, other: LossSet) {
        self.0 |= other.0;
    }

    /// All but this one.
    pub fn without(self, loss: Loss) -> LossSet {
        LossSet(self.0 & !(1 << loss as u8))
    }

    /// Whether this one is among them.
    pub fn has(self, loss: Loss) -> bool {
        self.0 & 1 << loss as u8 != 0
    }

    /// Whether the object itself could not be made.
    pub fn has_object(self) -> bool {
        [Loss::DeviceNode, Loss::FifoOrSocket, Loss::Symlink].into_iter().any(|loss| self.has(loss))
    }

    /// Whether nothing was lost.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Loss> {
        Loss::ALL.into_iter().filter(move |loss| self.has(*loss))
    }
}

/// Counts losses and says each kind once.
pub struct Losses {
    /// Where to.
    console: Arc<Console>,
    /// By `Loss as usize`.
    counts: [AtomicU64; LOSSES],
    /// Those of objects that are as an earlier run left them, likewise.
    standing: [AtomicU64; LOSSES],
}

impl Losses {
    /// None yet.
    pub fn new(console: Arc<Console>) -> Losses {
        Losses { console, counts: Default::default(), standing: Default::default() }
    }

    /// Counts one loss; the first of its kind is said, with its path.
    pub fn record(&self, loss: Loss, path: &[u8]) {
        if self.counts[loss as usize].fetch_add(1, Ordering::Relaxed) == 0 {
            let path = crate::error::escape(path);
            let line = format!("gfast: not kept: {} of {path}: {} (said once, counted)", loss.name(), loss.remedy());
            self.console.note(&line);
        }
    }

    /// Counts what an earlier run has lost, and said.
    pub fn stand(&self, losses: LossSet) {
        for loss in losses.iter() {
            self.standing[loss as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The kinds that occurred, with their numbers.
    pub fn counts(&self) -> Vec<(Loss, u64)> {
        let of = |counts: &[AtomicU64; LOSSES], loss: Loss| counts[loss as usize].load(Ordering::Relaxed);
        let count = |loss: Loss| (loss, of(&self.counts, loss) + of(&self.standing, loss));
        Loss::ALL.into_iter().map(count).filter(|&(_, count)| count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::{Screen, tests::Kept};
    use super::*;

    #[test]
    fn each_kind_is_said_once_and_counted() {
        let kept = Kept::default();
        let losses = Losses::new(Arc::new(Console::new(Screen::Log, Box::new(kept.clone()))));
        losses.record(Loss::Owner, b"/a");
        losses.record(Loss::DeviceNode, b"/b\xff");
        losses.record(Loss::Owner, b"/c");
        let mut standing = LossSet::default();
        [Loss::Owner, Loss::Acl].into_iter().for_each(|loss| standing.add(loss));
        losses.stand(standing);
        assert_eq!(losses.counts(), [(Loss::Owner, 3), (Loss::DeviceNode, 1), (Loss::Acl, 1)]);
        let text = kept.text();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("owner of /a") && text.contains("device node of /b\\xff"), "{text}");
        for (index, loss) in Loss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, index);
        }
    }
}
