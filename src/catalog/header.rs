//! The header: where the job as a whole stands. Written anew by every commit, so it is the catalog's clock.

use super::bytes::{Damage, Decoded, Put, Take};
use super::record::{self, DirId};
use crate::report::{PASSES_MAX, Pass};

/// Bytes of one stored piece of the list of directories to seal again: small enough to lie inside a page.
const PIECE_BYTES_MAX: usize = 1500;

/// Bits of the status.
const STATUS_FINISHED: u8 = 1;
const STATUS_UNSYNCED: u8 = 2;
/// A header without passes, as the first ones were.
const KIND_PLAIN: u8 = 0;
/// A header that ends with passes.
const KIND_WITH_PASSES: u8 = 1;

/// Where the job as a whole stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Drawn at random when the job began; names its temporary files.
    pub job_id: u64,
    /// The current pass, or the last one if `status` is finished; the first is 1.
    pub pass: u32,
    /// Whether that pass is over.
    pub status: JobStatus,
    /// Records of this batch and later ones were handled in the current pass.
    pub pass_start_batch: u64,
    /// Newest batch whose data is durable.
    pub durable_batch: u64,
    /// Newest batch whose seals are durable too: its records are Completed.
    pub completed_batch: u64,
    /// Next free number for directories and large files.
    pub next_id: u64,
    /// The boot during which the records from `boot_batch` on were written; zeros where the kernel does not tell.
    pub boot_id: [u8; 16],
    /// First batch of that boot: Written records of earlier ones (`--sync none`) hold no longer.
    pub boot_batch: u64,
    /// Whether any run left what it wrote without a sync (`--sync none`): only then there may be Written records.
    pub has_unsynced: bool,
    /// What the last finished pass saw, for the ETA of the next.
    pub totals: Totals,
    /// What the last passes took, oldest first; those that nothing interrupted.
    pub passes: Vec<Pass>,
}

/// Whether a pass is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStatus {
    /// A run resumes it.
    Running,
    /// A run begins the next pass.
    Finished,
}

/// What a pass saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl Header {
    /// A new job's first header.
    pub(super) fn first(job_id: u64) -> Header {
        Header {
            job_id,
            pass: 1,
            status: JobStatus::Running,
            pass_start_batch: 0,
            durable_batch: 0,
            completed_batch: 0,
            next_id: DirId::ROOT.0 + 1,
            boot_id: boot_id(),
            boot_batch: 1,
            has_unsynced: false,
            totals: Totals::default(),
            passes: Vec::new(),
        }
    }

    /// This header for a run of this boot: after a reboot, or where the kernel does not tell, Written records of the
    /// batches so far hold no longer.
    pub fn for_this_boot(self) -> Header {
        match self.boot_id != [0; 16] && self.boot_id == boot_id() {
            true => self,
            false => Header { boot_id: boot_id(), boot_batch: self.durable_batch + 1, ..self },
        }
    }
}

/// This boot's id; zeros where the kernel does not tell.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits = text.trim().replace('-', "");
    u128::from_str_radix(&digits, 16).map(u128::to_be_bytes).unwrap_or_default()
}

/// A header as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHeader {
    /// The header.
    pub header: Header,
    /// The LMDB transaction that wrote it. A meta page that names another one is damaged.
    pub transaction: u64,
    /// Directories in the list to seal again.
    pub reseal_count: u64,
}

/// Appends a header.
pub fn encode_header(stored: &StoredHeader, body: &mut Vec<u8>) {
    let header = &stored.header;
    let kind_at = body.len();
    record::put_version(body);
    body[kind_at] |= if header.passes.is_empty() { KIND_PLAIN } else { KIND_WITH_PASSES };
    body.extend_from_slice(&header.job_id.to_le_bytes());
    body.extend_from_slice(&header.boot_id);
    let status = match header.status {
        JobStatus::Running => 0,
        JobStatus::Finished => STATUS_FINISHED,
    };
    body.push(status | if header.has_unsynced { STATUS_UNSYNCED } else { 0 });
    body.put_varint(u64::from(header.pass));
    for number in [
        header.pass_start_batch,
        header.durable_batch,
        header.completed_batch,
        header.next_id,
        header.boot_batch,
        header.totals.entries,
        header.totals.bytes,
        stored.transaction,
        stored.reseal_count,
    ] {
        body.put_varint(number);
    }
    if header.passes.is_empty() {
        return;
    }
    body.put_varint(header.passes.len() as u64);
    for Pass { elapsed_ms, entries, changes, bytes } in &header.passes {
        [*elapsed_ms, *entries, *changes, *bytes].into_iter().for_each(|number| body.put_varint(number));
    }
}

/// Reads a header.
pub fn decode_header(body: &[u8]) -> Decoded<StoredHeader> {
    let mut take = Take(body);
    let kind = record::take_version(&mut take)?;
    if ![KIND_PLAIN, KIND_WITH_PASSES].contains(&kind) {
        return Err(Damage("the header is of no known kind"));
    }
    let job_id = u64::from_le_bytes(take.array()?);
    let boot_id = take.array()?;
    let flags = take.byte()?;
    let status = match flags & !STATUS_UNSYNCED {
        0 => JobStatus::Running,
        STATUS_FINISHED => JobStatus::Finished,
        _ => return Err(Damage("the header's status is unknown")),
    };
    let mut header = Header {
        job_id,
        boot_id,
        status,
        pass: take.varint_u32()?,
        pass_start_batch: take.varint()?,
        durable_batch: take.varint()?,
        completed_batch: take.varint()?,
        next_id: take.varint()?,
        boot_batch: take.varint()?,
        has_unsynced: flags & STATUS_UNSYNCED != 0,
        totals: Totals { entries: take.varint()?, bytes: take.varint()? },
        passes: Vec::new(),
    };
    let (transaction, reseal_count) = (take.varint()?, take.varint()?);
    let passes = if kind == KIND_WITH_PASSES { take.varint()? } else { 0 };
    if passes > PASSES_MAX as u64 {
        return Err(Damage("a number is out of range"));
    }
    for _ in 0..passes {
        let (elapsed_ms, entries) = (take.varint()?, take.varint()?);
        header.passes.push(Pass { elapsed_ms, entries, changes: take.varint()?, bytes: take.varint()? });
    }
    take.end()?;
    Ok(StoredHeader { header, transaction, reseal_count })
}

/// Cuts ascending ids into stored pieces: each a first id and the steps to the next ones.
pub(super) fn encode_pieces(dirs: &[DirId]) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut last = 0;
    for dir in dirs {
        if pieces.last().is_none_or(|piece| piece.len() > PIECE_BYTES_MAX) {
            let mut piece = Vec::new();
            record::put_version(&mut piece);
            pieces.push(piece);
            last = 0;
        }
        if let Some(piece) = pieces.last_mut() {
            piece.put_varint(dir.0 - last);
        }
        last = dir.0;
    }
    pieces
}

/// Appends the ids of one piece to `dirs`.
pub fn decode_piece(body: &[u8], dirs: &mut Vec<DirId>) -> Decoded<()> {
    let mut take = Take(body);
    if record::take_version(&mut take)? != 0 {
        return Err(Damage("a list of directories is of no known kind"));
    }
    let mut last = 0u64;
    while !take.0.is_empty() {
        last = last.checked_add(take.varint()?).ok_or(Damage("a number is out of range"))?;
        dirs.push(DirId(last));
    }
    Ok(())
}
