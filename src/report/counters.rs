//! What a shard counts: one block of relaxed counters each, added up by whoever wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One thing that is counted. The outcomes ([`Count::OUTCOMES`]) count each entry of the tree exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Names the walk has found, the root included.
    EntriesWalked,
    /// Directories that are done, times and mode included.
    Dirs,
    /// Regular files whose bytes were copied.
    FilesCopied,
    /// Regular files shared with the source's extents instead (FICLONE).
    FilesCloned,
    /// Entries that were as the catalog says: nothing was done.
    Unchanged,
    /// Entries whose owner, mode or times alone were set again.
    Refreshed,
    /// Files found at the destination with the source's size and mtime, and taken as they are.
    Adopted,
    /// Further names of a file: hard links made.
    Linked,
    /// Symlinks made.
    Symlinks,
    /// FIFOs, sockets and device nodes made.
    Specials,
    /// Entries that failed.
    Failed,
    /// Entries that were gone when it was their turn.
    Vanished,
    /// Entries that kept changing while they were read.
    Unstable,
    /// Names removed from the destination.
    Removed,
    /// Names that were to be removed and were not, for the limit or the source forbade it.
    DeletesWithheld,
    /// Bytes of the files that were found in need of a copy.
    BytesPlanned,
    /// Planned bytes that need not be written after all: holes, clones, and what failed.
    BytesSkipped,
    /// Bytes written.
    BytesCopied,
    /// Bytes durable at the destination.
    BytesDurable,
    /// Unfinished uploads that nothing will go on with: of the job, and kept by the server; or without parts, and
    /// perhaps of the job.
    UploadsLeft,
    /// Parts of uploads that were read once more, before they were sent, for a server that wants their checksum first.
    PartsReadTwice,
    /// Entries handed to the kernel's submission queues.
    Submissions,
    /// Calls of io_uring_enter that carried submissions.
    Enters,
    /// Objects whose checksum a server compared.
    ProvedByServer,
    /// Objects that were read back.
    ProvedByReading,
    /// Objects of which nothing but the length was compared.
    ProvedByLength,
    /// Objects whose checksum was recorded as their bytes were written.
    ChecksumsKept,
}

/// Number of [`Count`]s.
const COUNTS: usize = Count::ChecksumsKept as usize + 1;

impl Count {
    /// All of them, in the order of their indexes.
    pub const ALL: [Count; COUNTS] = [
        Count::EntriesWalked,
        Count::Dirs,
        Count::FilesCopied,
        Count::FilesCloned,
        Count::Unchanged,
        Count::Refreshed,
        Count::Adopted,
        Count::Linked,
        Count::Symlinks,
        Count::Specials,
        Count::Failed,
        Count::Vanished,
        Count::Unstable,
        Count::Removed,
        Count::DeletesWithheld,
        Count::BytesPlanned,
        Count::BytesSkipped,
        Count::BytesCopied,
        Count::BytesDurable,
        Count::UploadsLeft,
        Count::PartsReadTwice,
        Count::Submissions,
        Count::Enters,
        Count::ProvedByServer,
        Count::ProvedByReading,
        Count::ProvedByLength,
        Count::ChecksumsKept,
    ];

    /// What can become of an entry.
    pub const OUTCOMES: [Count; 12] = [
        Count::Dirs,
        Count::FilesCopied,
        Count::FilesCloned,
        Count::Unchanged,
        Count::Refreshed,
        Count::Adopted,
        Count::Linked,
        Count::Symlinks,
        Count::Specials,
        Count::Failed,
        Count::Vanished,
        Count::Unstable,
    ];

    /// Its key in the JSON summary.
    pub fn key(self) -> &'static str {
        match self {
            Count::EntriesWalked => "entries_walked",
            Count::Dirs => "directories",
            Count::FilesCopied => "copied",
            Count::FilesCloned => "cloned",
            Count::Unchanged => "unchanged",
            Count::Refreshed => "metadata_only",
            Count::Adopted => "adopted",
            Count::Linked => "hard_links",
            Count::Symlinks => "symlinks",
            Count::Specials => "special_files",
            Count::Failed => "failed",
            Count::Vanished => "vanished",
            Count::Unstable => "unstable",
            Count::Removed => "removed",
            Count::DeletesWithheld => "deletes_withheld",
            Count::BytesPlanned => "bytes_planned",
            Count::BytesSkipped => "bytes_skipped",
            Count::BytesCopied => "bytes",
            Count::BytesDurable => "bytes_durable",
            Count::UploadsLeft => "uploads_left",
            Count::PartsReadTwice => "parts_read_twice",
            Count::Submissions => "submissions",
            Count::Enters => "enters",
            Count::ProvedByServer => "proved_by_server",
            Count::ProvedByReading => "proved_by_reading",
            Count::ProvedByLength => "proved_by_length",
            Count::ChecksumsKept => "checksums_recorded",
        }
    }
}

/// One shard's counters. Aligned to two cache lines, because processors fetch lines in pairs: shards never write to a
/// line that another shard writes to.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// By `Count as usize`.
    counts: [AtomicU64; COUNTS],
    /// Outcomes that the next checkpoint is expected to count, and bytes that are on their way, from the beginning of
    /// the run on.
    foreseen: [AtomicU64; COUNTS],
    /// What came of them.
    settled: [AtomicU64; COUNTS],
}

impl Counters {
    /// Adds `by`. Relaxed: a counter orders nothing, it is only looked at.
    pub fn add(&self, count: Count, by: u64) {
        self.counts[count as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Counts what is at the destination, or on its way: `by` of them. A checkpoint decides what became of objects, and
    /// may be seconds away; so may the end of a part.
    pub fn foresee(&self, count: Count, by: u64) {
        self.foreseen[count as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Counts what came of what was foreseen.
    pub fn settle(&self, count: Count, by: u64) {
        self.settled[count as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// As it stands now.
    pub fn get(&self, count: Count) -> u64 {
        let at = count as usize;
        self.counts[at].load(Ordering::Relaxed) + self.settled[at].load(Ordering::Relaxed)
    }

    /// As it stands now, with what is foreseen.
    fn get_at_once(&self, count: Count) -> u64 {
        let at = count as usize;
        self.counts[at].load(Ordering::Relaxed) + self.foreseen[at].load(Ordering::Relaxed)
    }
}

/// All shards' counters added up, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By `Count as usize`.
    counts: [u64; COUNTS],
}

impl Totals {
    /// Adds up `counters`.
    pub fn of(counters: &[Arc<Counters>]) -> Totals {
        Totals::sum(counters, Counters::get)
    }

    /// The same with what is foreseen in the place of what checkpoints made of it: for whoever looks on. No figure ever
    /// falls, so an object that could not be sealed stays among those copied here, beside the failed, and so do bytes
    /// of a part that never arrived.
    pub fn at_once(counters: &[Arc<Counters>]) -> Totals {
        Totals::sum(counters, Counters::get_at_once)
    }

    fn sum(counters: &[Arc<Counters>], get: impl Fn(&Counters, Count) -> u64) -> Totals {
        let mut totals = Totals::default();
        for count in Count::ALL {
            totals.counts[count as usize] = counters.iter().map(|shard| get(shard, count)).sum();
        }
        totals
    }

    /// One figure.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    /// Entries whose fate is decided.
    pub fn entries_done(&self) -> u64 {
        Count::OUTCOMES.iter().map(|&count| self.get(count)).sum()
    }

    /// Entries made at the destination that are not directories.
    pub fn files_made(&self) -> u64 {
        let made = [Count::FilesCopied, Count::FilesCloned, Count::Linked, Count::Symlinks, Count::Specials];
        made.iter().map(|&count| self.get(count)).sum()
    }

    /// Entries that did not arrive.
    pub fn errors(&self) -> u64 {
        [Count::Failed, Count::Vanished, Count::Unstable].iter().map(|&count| self.get(count)).sum()
    }

    /// Bytes that are known to be still to write.
    pub fn bytes_left(&self) -> u64 {
        let gone = self.get(Count::BytesCopied) + self.get(Count::BytesSkipped);
        self.get(Count::BytesPlanned).saturating_sub(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_up() {
        let shards = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        shards[0].add(Count::FilesCopied, 2);
        shards[1].add(Count::FilesCopied, 3);
        shards[1].add(Count::Vanished, 1);
        shards[0].add(Count::BytesPlanned, 10);
        shards[1].add(Count::BytesCopied, 4);
        let totals = Totals::of(&shards);
        assert_eq!((totals.entries_done(), totals.files_made(), totals.errors()), (6, 5, 1));
        assert_eq!(totals.bytes_left(), 6);
    }

    #[test]
    fn what_is_foreseen_shows_at_once_and_is_counted_once() {
        let (shard, checkpoints) = (Arc::new(Counters::default()), Arc::new(Counters::default()));
        let both = [shard.clone(), checkpoints.clone()];
        shard.foresee(Count::FilesCopied, 1);
        shard.add(Count::Unchanged, 1);
        let done = || (Totals::of(&both).entries_done(), Totals::at_once(&both).entries_done());
        assert_eq!(done(), (1, 2));
        checkpoints.settle(Count::FilesCopied, 1);
        checkpoints.add(Count::Linked, 1);
        assert_eq!(done(), (3, 3));
    }

    #[test]
    fn every_count_has_its_own_index_and_key() {
        for (index, count) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, index);
        }
        let keys: std::collections::BTreeSet<_> = Count::ALL.iter().map(|count| count.key()).collect();
        assert_eq!(keys.len(), Count::ALL.len());
    }
}
