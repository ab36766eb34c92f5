//! Records: what the catalog knows of an entry, a directory and a hard-linked inode.
//!
//! A file's record, the one of which there are millions (about 31 bytes with its CRC; numbers are varints):
//! ```text
//!   version << 4 | status   flags   batch   size   mtime   [ctime - mtime]   ino   [dest_ino]   [large_id]   [failure]
//!   [proof   crc64]   [losses]   [uid   gid - uid]
//! ```
//! One whose owner is not known is of version 1, as all were once; one whose owner is known is of version 2, and 0:0
//! takes no bytes there (another owner takes 2 to 10, that of a user with a group of the same number 2 to 6).
//! A time is its seconds from 2024 on, signed, and 4 bytes of nanoseconds unless they are 0. Every decoder here takes
//! any bytes and answers a record or a [`Damage`]; each has a fuzz target.

use std::ffi::CStr;

use super::bytes::{Damage, Decoded, Put, Take};
use super::key;
use crate::report::LossSet;
use crate::ring::op::{Name, Stat, Time};

/// Version of all values; a newer one is refused, never guessed at.
pub(super) const VERSION: u8 = 1;
/// Version of a file's record that tells its owner.
const VERSION_OWNED: u8 = 2;
/// Seconds of 2024-01-01: recent times take 4 bytes.
const TIME_BASE_SECS: i64 = 1_704_067_200;
/// The ctime of a racy state: no file has it, and the default is that of objects that have none.
const RACY: Time = Time { secs: 0, nanos: 1 };
/// Longest texts that a failure keeps.
const VERB_BYTES_MAX: usize = 48;
const CAUSE_BYTES_MAX: usize = 240;

/// Batch of a record whose data is durable while its seal was cut short by an interruption: no commit completes it,
/// only being sealed again does.
pub const BATCH_UNSEALED: u64 = u64::MAX;

/// A directory's number, from the header's counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirId(pub u64);

impl DirId {
    /// The source's root.
    pub const ROOT: DirId = DirId(1);
}

/// The state of the source object that was copied; any difference means it is copied again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Inode number.
    pub ino: u64,
}

impl Stamp {
    /// What of a description is recorded.
    pub fn of(stat: &Stat) -> Stamp {
        Stamp { size: stat.size, mtime: stat.mtime, ctime: stat.ctime, ino: stat.ino }
    }

    /// This state, of which nobody can say whether the content is still the one that was read: no ctime is known.
    pub fn racy(self) -> Stamp {
        Stamp { ctime: RACY, ..self }
    }

    /// Whether it is such a state.
    pub fn is_racy(&self) -> bool {
        self.ctime == RACY
    }
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    const ROOT: Owner = Owner { uid: 0, gid: 0 };

    /// What of a description is recorded.
    pub fn of(stat: &Stat) -> Owner {
        Owner { uid: stat.uid, gid: stat.gid }
    }
}

/// How far an entry has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Known, not begun.
    Pending,
    /// Begun; what is at the destination counts for nothing but its recorded ranges.
    InProgress,
    /// Written and never synced (`--sync none`): valid only while the header's boot id is this boot's.
    Written,
    /// Durable data. With a batch up to the header's `completed_batch` it is Completed: content, name and metadata are
    /// durable (I1). Above it is DataDurable: a resume seals it again without copying.
    Done,
    /// Failed; a later run tries again.
    Failed,
}

/// Why an entry failed; of one that did not fail in the end, or not yet, how often it was tried and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kernel's errno; 0 where the cause is not one.
    pub errno: u16,
    /// The operation; 48 bytes of it are kept.
    pub verb: String,
    /// The cause as text; 240 bytes of it are kept.
    pub cause: String,
    /// How often it was tried.
    pub attempts: u32,
}

impl Failure {
    /// So many tries of an entry that has not failed.
    pub fn tries(attempts: u32) -> Failure {
        Failure { errno: 0, verb: String::new(), cause: String::new(), attempts }
    }
}

/// What is known of one object that is not a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRecord {
    /// How far it has come.
    pub status: Status,
    /// The batch that recorded it.
    pub batch: u64,
    /// The source as it was copied.
    pub stamp: Stamp,
    /// The destination's inode; 0 where there is none yet. Of a failed copy of a device, the mark of what there is.
    pub dest_ino: u64,
    /// Key of its ranges; 0 where it has none.
    pub large_id: u64,
    /// Why it failed, and how often it was tried; none of what was done at the first try.
    pub failure: Option<Failure>,
    /// Checksum of its content where one was computed.
    pub checksum: Option<Checksum>,
    /// What of its metadata was not kept.
    pub losses: LossSet,
    /// Whose it was in the source when it was copied; where a bucket tells no owner of what becomes a file, who copied
    /// it. None where a bucket tells none of what becomes an object, and in records of before it was kept.
    pub owner: Option<Owner>,
}

impl FileRecord {
    /// How often it was tried in vain since it was last at the destination as it is recorded.
    pub fn tried(&self) -> u32 {
        let is_open = matches!(self.status, Status::Failed | Status::InProgress);
        self.failure.as_ref().filter(|_| is_open).map_or(0, |failure| failure.attempts)
    }
}

/// The checksum of an object's content, and what it proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// CRC64/NVME of the whole content.
    pub crc64: u64,
    /// What it was compared with.
    pub proof: Proof,
}

/// How far it is proved that the destination holds the content that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing but the length was compared.
    Length,
    /// The checksum is that of the bytes as they were written.
    Written,
    /// The server that keeps the object compared the checksum, or the server it came from did.
    Server,
    /// The destination was read back.
    ReadBack,
}

/// What is known of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A directory, with a record of its own.
    Dir(DirId),
    /// Anything else.
    File(FileRecord),
}

/// What is known of one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirRecord {
    /// The directory it lies in; the root's is the root.
    pub parent: DirId,
    /// Its name there; the root's is empty.
    pub name: Name,
    /// The source's state when it was listed.
    pub stamp: Option<DirStamp>,
    /// The batch whose commit recorded the end of its listing; 0 before.
    pub listed_batch: u64,
    /// What of its own metadata was not kept.
    pub losses: LossSet,
    /// Its extended attributes and ACLs as its bucket tells them; empty for none.
    pub told: Vec<u8>,
}

/// The state of a source directory when it was listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirStamp {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of its names.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Inode number.
    pub ino: u64,
    /// Device of its file system.
    pub dev: u64,
    /// Whether it was what is mounted there. Catalogs of earlier versions do not tell: false.
    pub is_mount: bool,
}

impl DirStamp {
    /// What of a description is recorded.
    pub fn of(stat: &Stat) -> DirStamp {
        DirStamp {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
            ino: stat.ino,
            dev: stat.dev,
            is_mount: stat.is_mount,
        }
    }
}

/// What a directory in the index of directories still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirState {
    /// Its listing has not ended.
    Unlisted,
    /// Listed; something below it, or its own metadata, is not done.
    Unfinished,
}

/// The name under which a hard-linked inode was first copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFirst {
    /// The directory of that name.
    pub dir: DirId,
    /// The name.
    pub name: Name,
    /// The batch that recorded it.
    pub batch: u64,
}

const TAG_DIR: u8 = 7;
const MTIME_NANOS: u8 = 1;
const CTIME: u8 = 2;
const CTIME_NANOS: u8 = 4;
const DEST_INO: u8 = 8;
const LARGE_ID: u8 = 16;
const FAILURE: u8 = 32;
const CHECKSUM: u8 = 64;
const LOSSES: u8 = 128;
/// In a record of version 1: the losses take two bytes.
const WIDE_LOSSES: u8 = 8;
/// In a record of version 2, whose losses are a varint: the owner is another than 0:0.
const OWNER: u8 = 8;

const DIR_STAMP: u8 = 1;
const DIR_LOSSES: u8 = 2;
const DIR_TOLD: u8 = 4;
/// Among a directory's mode, where no type or permission has a bit: it was what is mounted there.
const MODE_MOUNT: u32 = 1 << 16;

const TAG_LISTED_TO: u8 = 1;

/// Appends an entry's record.
pub fn encode_record(record: &Record, body: &mut Vec<u8>) {
    match record {
        Record::Dir(id) => {
            body.push(VERSION << 4 | TAG_DIR);
            body.put_varint(id.0);
        }
        Record::File(file) => encode_file(file, body),
    }
}

fn encode_file(file: &FileRecord, body: &mut Vec<u8>) {
    let Stamp { size, mtime, ctime, ino } = file.stamp;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let flags = flag(mtime.nanos != 0, MTIME_NANOS)
        | flag(ctime != mtime, CTIME)
        | flag(ctime != mtime && ctime.nanos != 0, CTIME_NANOS)
        | flag(file.dest_ino != 0, DEST_INO)
        | flag(file.large_id != 0, LARGE_ID)
        | flag(file.failure.is_some(), FAILURE)
        | flag(file.checksum.is_some(), CHECKSUM)
        | flag(!file.losses.is_empty(), LOSSES);
    let version = match file.owner {
        // The kinds of losses that were there first need one byte.
        None => VERSION << 4 | flag(file.losses.bits() > 0xff, WIDE_LOSSES),
        Some(owner) => VERSION_OWNED << 4 | flag(owner != Owner::ROOT, OWNER),
    };
    body.extend_from_slice(&[version | status_tag(file.status), flags]);
    body.put_varint(file.batch);
    body.put_varint(size);
    put_time(body, mtime, TIME_BASE_SECS, flags & MTIME_NANOS != 0);
    if flags & CTIME != 0 {
        put_time(body, ctime, mtime.secs, flags & CTIME_NANOS != 0);
    }
    body.put_varint(ino);
    [file.dest_ino, file.large_id].into_iter().filter(|id| *id != 0).for_each(|id| body.put_varint(id));
    if let Some(failure) = &file.failure {
        body.put_varint(u64::from(failure.errno));
        body.put_bytes(head(&failure.verb, VERB_BYTES_MAX).as_bytes());
        body.put_bytes(head(&failure.cause, CAUSE_BYTES_MAX).as_bytes());
        body.put_varint(u64::from(failure.attempts));
    }
    if let Some(Checksum { crc64, proof }) = file.checksum {
        body.push(proof as u8);
        body.extend_from_slice(&crc64.to_le_bytes());
    }
    match file.owner {
        _ if file.losses.is_empty() => {}
        Some(_) => body.put_varint(file.losses.bits().into()),
        None => {
            let [low, high] = file.losses.bits().to_le_bytes();
            body.push(low);
            body.extend((high != 0).then_some(high));
        }
    }
    if let Some(Owner { uid, gid }) = file.owner.filter(|owner| *owner != Owner::ROOT) {
        body.put_varint(uid.into());
        body.put_signed(i64::from(gid) - i64::from(uid));
    }
}

/// Reads an entry's record.
pub fn decode_record(body: &[u8]) -> Decoded<Record> {
    let mut take = Take(body);
    let first = take.byte()?;
    let record = match (first >> 4, first & 0xf) {
        (VERSION, TAG_DIR) => Record::Dir(DirId(take.varint()?)),
        (version @ (VERSION | VERSION_OWNED), tag) => Record::File(decode_file(version, tag, &mut take)?),
        _ => return Err(Damage("a record is of an unknown version")),
    };
    take.end()?;
    Ok(record)
}

fn decode_file(version: u8, tag: u8, take: &mut Take<'_>) -> Decoded<FileRecord> {
    let status = status_of(tag & 7)?;
    let flags = take.byte()?;
    let batch = take.varint()?;
    let size = take.varint()?;
    let mtime = take_time(take, TIME_BASE_SECS, flags & MTIME_NANOS != 0)?;
    let ctime = match flags & CTIME {
        0 => mtime,
        _ => take_time(take, mtime.secs, flags & CTIME_NANOS != 0)?,
    };
    let ino = take.varint()?;
    let dest_ino = if flags & DEST_INO != 0 { take.varint()? } else { 0 };
    let large_id = if flags & LARGE_ID != 0 { take.varint()? } else { 0 };
    let failure = if flags & FAILURE != 0 { Some(decode_failure(take)?) } else { None };
    let checksum = if flags & CHECKSUM != 0 { Some(decode_checksum(take)?) } else { None };
    let (losses, owner) = match version {
        VERSION => (decode_losses(tag, flags, take)?, None),
        _ => decode_owned(tag, flags, take)?,
    };
    let losses = LossSet::from_bits(losses);
    let stamp = Stamp { size, mtime, ctime, ino };
    Ok(FileRecord { status, batch, stamp, dest_ino, large_id, failure, checksum, losses, owner })
}

/// Losses of a record of version 1.
fn decode_losses(tag: u8, flags: u8, take: &mut Take<'_>) -> Decoded<u16> {
    let low = if flags & LOSSES != 0 { take.byte()? } else { 0 };
    let high = if tag & WIDE_LOSSES != 0 { take.byte()? } else { 0 };
    Ok(u16::from_le_bytes([low, high]))
}

/// Losses and owner of a record of version 2.
fn decode_owned(tag: u8, flags: u8, take: &mut Take<'_>) -> Decoded<(u16, Option<Owner>)> {
    let out_of_range = |_| Damage("a number is out of range");
    let losses = if flags & LOSSES != 0 { take.varint()? } else { 0 };
    let owner = match tag & OWNER {
        0 => Owner::ROOT,
        _ => {
            let uid = take.varint_u32()?;
            let gid = take.signed()?.checked_add(uid.into()).unwrap_or(-1);
            Owner { uid, gid: u32::try_from(gid).map_err(out_of_range)? }
        }
    };
    Ok((u16::try_from(losses).map_err(out_of_range)?, Some(owner)))
}

fn decode_checksum(take: &mut Take<'_>) -> Decoded<Checksum> {
    let proofs = [Proof::Length, Proof::Written, Proof::Server, Proof::ReadBack];
    let proof = *proofs.get(usize::from(take.byte()?)).ok_or(Damage("a record is of no known kind"))?;
    Ok(Checksum { crc64: u64::from_le_bytes(take.array()?), proof })
}

fn decode_failure(take: &mut Take<'_>) -> Decoded<Failure> {
    let errno = u16::try_from(take.varint()?).map_err(|_| Damage("a number is out of range"))?;
    let verb = take_text(take, VERB_BYTES_MAX)?;
    let cause = take_text(take, CAUSE_BYTES_MAX)?;
    Ok(Failure { errno, verb, cause, attempts: take.varint_u32()? })
}

/// Appends a directory's record.
pub fn encode_dir(dir: &DirRecord, body: &mut Vec<u8>) {
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let tag = flag(dir.stamp.is_some(), DIR_STAMP)
        | flag(!dir.losses.is_empty(), DIR_LOSSES)
        | flag(!dir.told.is_empty(), DIR_TOLD);
    body.push(VERSION << 4 | tag);
    body.put_varint(dir.parent.0);
    body.put_varint(dir.listed_batch);
    body.put_bytes(dir.name.to_bytes());
    if let Some(stamp) = &dir.stamp {
        let mode = stamp.mode | if stamp.is_mount { MODE_MOUNT } else { 0 };
        [mode, stamp.uid, stamp.gid].into_iter().for_each(|number| body.put_varint(u64::from(number)));
        [stamp.atime, stamp.mtime, stamp.ctime].into_iter().for_each(|time| put_time(body, time, TIME_BASE_SECS, true));
        body.put_varint(stamp.ino);
        body.put_varint(stamp.dev);
    }
    if !dir.told.is_empty() {
        body.put_bytes(&dir.told);
    }
    if !dir.losses.is_empty() {
        body.extend_from_slice(&dir.losses.bits().to_le_bytes());
    }
}

/// Reads a directory's record.
pub fn decode_dir(body: &[u8]) -> Decoded<DirRecord> {
    let mut take = Take(body);
    let tag = take_version(&mut take)?;
    let parent = DirId(take.varint()?);
    let listed_batch = take.varint()?;
    let name = Name::new(take.bytes()?).map_err(|_| Damage("a name holds a NUL"))?;
    if tag & !(DIR_STAMP | DIR_LOSSES | DIR_TOLD) != 0 {
        return Err(Damage("a record is of no known kind"));
    }
    let stamp = if tag & DIR_STAMP != 0 { Some(decode_dir_stamp(&mut take)?) } else { None };
    let told = if tag & DIR_TOLD != 0 { take.bytes()?.to_vec() } else { Vec::new() };
    let losses = if tag & DIR_LOSSES != 0 { u16::from_le_bytes(take.array()?) } else { 0 };
    take.end()?;
    Ok(DirRecord { parent, name, stamp, listed_batch, losses: LossSet::from_bits(losses), told })
}

fn decode_dir_stamp(take: &mut Take<'_>) -> Decoded<DirStamp> {
    let mode = take.varint_u32()?;
    Ok(DirStamp {
        mode: mode & !MODE_MOUNT,
        is_mount: mode & MODE_MOUNT != 0,
        uid: take.varint_u32()?,
        gid: take.varint_u32()?,
        atime: take_time(take, TIME_BASE_SECS, true)?,
        mtime: take_time(take, TIME_BASE_SECS, true)?,
        ctime: take_time(take, TIME_BASE_SECS, true)?,
        ino: take.varint()?,
        dev: take.varint()?,
    })
}

/// Appends the first name of a hard-linked inode.
pub fn encode_link(first: &LinkFirst, body: &mut Vec<u8>) {
    body.push(VERSION << 4);
    body.put_varint(first.dir.0);
    body.put_varint(first.batch);
    body.put_bytes(first.name.to_bytes());
}

/// Reads the first name of a hard-linked inode.
pub fn decode_link(body: &[u8]) -> Decoded<LinkFirst> {
    let mut take = Take(body);
    if take_version(&mut take)? != 0 {
        return Err(Damage("a record is of no known kind"));
    }
    let dir = DirId(take.varint()?);
    let batch = take.varint()?;
    let name = Name::new(take.bytes()?).map_err(|_| Damage("a name holds a NUL"))?;
    take.end()?;
    Ok(LinkFirst { dir, name, batch })
}

/// Appends a value that says nothing but that its key is there.
pub(super) fn encode_mark(body: &mut Vec<u8>) {
    body.push(VERSION << 4);
}

/// Reads such a value.
pub(super) fn decode_mark(mut take: Take<'_>) -> Decoded<()> {
    match take_version(&mut take)? {
        0 => take.end(),
        _ => Err(Damage("a record is of no known kind")),
    }
}

/// Appends a mark that says how far a directory is listed.
pub(super) fn encode_listed_to(mark: &str, body: &mut Vec<u8>) {
    body.push(VERSION << 4 | TAG_LISTED_TO);
    body.put_bytes(mark.as_bytes());
}

/// Reads a mark of an open directory: the key it is listed up to.
pub(super) fn decode_open_dir(body: &[u8]) -> Decoded<Option<String>> {
    let mut take = Take(body);
    let mark = match take_version(&mut take)? {
        0 => None,
        TAG_LISTED_TO => Some(take_text(&mut take, usize::MAX)?),
        _ => return Err(Damage("a record is of no known kind")),
    };
    take.end()?;
    Ok(mark)
}

/// Whether a name can be recorded.
pub(super) fn is_recordable(name: &CStr) -> bool {
    name.count_bytes() <= key::NAME_BYTES_MAX
}

/// The low half of a record's first byte, its version checked.
pub(super) fn take_version(take: &mut Take<'_>) -> Decoded<u8> {
    let byte = take.byte()?;
    if byte >> 4 != VERSION {
        return Err(Damage("a record is of an unknown version"));
    }
    Ok(byte & 0xf)
}

/// A record's first byte with its version and nothing else.
pub(super) fn put_version(body: &mut Vec<u8>) {
    body.push(VERSION << 4);
}

fn status_tag(status: Status) -> u8 {
    match status {
        Status::Pending => 0,
        Status::InProgress => 1,
        Status::Written => 2,
        Status::Done => 3,
        Status::Failed => 4,
    }
}

fn status_of(tag: u8) -> Decoded<Status> {
    Ok(match tag {
        0 => Status::Pending,
        1 => Status::InProgress,
        2 => Status::Written,
        3 => Status::Done,
        4 => Status::Failed,
        _ => return Err(Damage("a record is of no known kind")),
    })
}

fn put_time(body: &mut Vec<u8>, time: Time, base_secs: i64, has_nanos: bool) {
    body.put_signed(time.secs.wrapping_sub(base_secs));
    if has_nanos {
        body.extend_from_slice(&time.nanos.to_le_bytes());
    }
}

fn take_time(take: &mut Take<'_>, base_secs: i64, has_nanos: bool) -> Decoded<Time> {
    let secs = take.signed()?.wrapping_add(base_secs);
    let nanos = if has_nanos { u32::from_le_bytes(take.array()?) } else { 0 };
    Ok(Time { secs, nanos })
}

pub(super) fn take_text(take: &mut Take<'_>, len_max: usize) -> Decoded<String> {
    let bytes = take.bytes()?;
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= len_max => Ok(text.to_owned()),
        _ => Err(Damage("a text is not in its form")),
    }
}

/// The first `len_max` bytes of a text, cut between characters.
fn head(text: &str, len_max: usize) -> &str {
    &text[..text.floor_char_boundary(len_max)]
}
