//! What was asked for, resolved: enums and numbers, with every limit of the engine in one place.
//!
//! `cli` turns words into a [`Config`]; nobody else reads the command line. Names carry their unit.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::location::Location;

/// Streams (objects open at once) when none are asked for.
pub const STREAMS_DEFAULT: u32 = 32;
/// Port of `--metrics-addr` where none is given, and the only interface unless another is.
pub const METRICS_PORT_DEFAULT: u16 = 9464;
/// Most streams a job may be given.
pub const STREAMS_MAX: u32 = 1024;
/// Bytes of one read or write of a large file when none are asked for.
pub const BLOCK_BYTES_DEFAULT: usize = 1 << 20;
/// Least and most bytes of one block: a page, and what a request may hold without being split everywhere.
pub const BLOCK_BYTES_RANGE: std::ops::RangeInclusive<usize> = 4096..=(64 << 20);
/// Files up to this size are read whole: opened, read and closed by the ring.
pub const SMALL_BYTES_MAX: usize = 256 << 10;
/// Large files are cut in segments of this size, claimed by all shards.
pub const SEGMENT_BYTES: u64 = scaled(256 << 20, 64 << 10) as u64;
/// Files of this size and more are recorded as in progress as soon as they are begun, so that an interruption before
/// the next checkpoint leaves nothing behind that a resume would not know for its own.
pub const EARLY_RECORD_BYTES: u64 = scaled(64 << 20, 48 << 10) as u64;
/// Blocks of one large file in flight on one shard, where a profile does not say otherwise: depth 16 reaches what fio
/// reaches.
pub const FILE_DEPTH: usize = 16;
/// Least and most of them that a profile may ask for.
pub const FILE_DEPTH_RANGE: std::ops::RangeInclusive<usize> = 1..=128;
/// Most bytes of buffers over all shards, whatever the number of cores.
pub const ARENA_BYTES_MAX: usize = 128 << 20;
/// Outcomes that close a checkpoint batch, whatever the time and bytes.
pub const CHECKPOINT_OUTCOMES_MAX: usize = scaled(65_536, 24);
/// Where the state is kept when not asked for otherwise.
pub const STATE_DIR_DEFAULT: &str = "./.gofast-state";
/// The umask assumed until the process's own is known: the strictest.
pub const UMASK_DEFAULT: u32 = 0o077;
/// Least and most seconds between checkpoints.
pub const CHECKPOINT_SECS_RANGE: std::ops::RangeInclusive<f64> = 0.1..=86_400.0;
/// Outcomes that close a batch at the beginning of a run, and later an eighth of all outcomes so far, up to
/// [`CHECKPOINT_OUTCOMES_MAX`]: data is written back and sealed while the rest is still being copied, and what is left
/// for the end is a small part of the job (40,000 files in memory: 0.97 s with one batch, 0.87 s with these).
pub const CHECKPOINT_OUTCOMES_FIRST: usize = scaled(8_192, 8);
/// Seconds between checkpoints when not asked for otherwise.
pub const CHECKPOINT_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);
/// Bytes between checkpoints when not asked for otherwise.
pub const CHECKPOINT_BYTES_DEFAULT: u64 = 4 << 30;
/// Times an object that changes while it is read is read again before it is recorded as unstable.
pub const UNSTABLE_ATTEMPTS_MAX: u32 = 3;
/// Longest time a stop may wait for its last checkpoint before the run ends on the one before.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest time a storage may be silent before that is told; `GFAST_STALL_TIME` is another, in seconds.
pub const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Directories waiting in memory; beyond it they wait in the catalog.
pub const QUEUED_DIRS_MAX: usize = scaled(16_384, 4);
/// Open directory pairs each shard keeps at hand.
pub const DIR_CACHE_PER_SHARD: usize = scaled(256, 4);
/// Open directory pairs of a thread that is started while the job runs.
pub const DIR_CACHE_LEAST: usize = 4;
/// Open directory pairs over all shards, however many.
pub const DIR_CACHE_TOTAL: usize = 4096;
/// Files that the kernel's table of open ones has room for from the start: two for each of those, and the rest.
pub const DESCRIPTOR_TABLE: u64 = 16_384;

/// Bytes of the buffers of all lanes of an S3 job together.
pub const LANE_BYTES: usize = 192 << 20;
/// What the HTTP client holds of the body of one answer: it reads up to 400 KiB at a time, into new memory while the
/// last is in use.
pub const ANSWER_BYTES: usize = 1 << 20;
/// Directories one lane lists at a time.
pub const LISTINGS_PER_LANE: usize = 16;
/// Slices of names that wait in one lane before its listings do.
pub const SLICES_PER_LANE: usize = 32;
/// Parts of one large object in flight in one lane.
pub const PART_DEPTH: usize = 8;
/// Objects without content that a checkpoint stores at a time.
pub const PUBLISH_DEPTH: usize = 32;
/// Largest object that goes in one request when `--part-size` does not say otherwise.
pub const WHOLE_BYTES: u64 = 16 << 20;
/// The same on a server that is near: parts in parallel gain nothing there, and putting them together costs it time
/// (16 objects of 64 MiB to s3s-fs: 4.6 s in parts, 2.6 s whole).
pub const WHOLE_BYTES_NEAR: u64 = 64 << 20;
/// Longest time in which a server that is near answers its first listing, connecting included.
pub const NEAR_TIME_MAX: Duration = Duration::from_millis(10);
/// Bytes of a part of a large object, and of one of 1 GiB and more.
pub const PART_BYTES_MIN: u64 = 8 << 20;
/// See [`PART_BYTES_MIN`].
pub const PART_BYTES_LARGE: u64 = 16 << 20;
/// Bytes of a slice of a part that is larger than that: it is sent as it is read.
pub const SLICE_BYTES: usize = 1 << 20;
/// Bytes of all slices together: of those of all buffers, from the first such part on.
pub const SLICES_BYTES: usize = 32 << 20;
/// Most parts of an object: S3 numbers them up to here.
pub const PARTS_MAX: u64 = 10_000;
/// Least and most bytes of a part that a server takes.
pub const PART_BYTES_RANGE: std::ops::RangeInclusive<u64> = 5 << 20..=5 << 30;

/// Units of sizes. Bare letters and the binary names count in 1024, as dd and rsync do; KB and its like in 1000.
const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("TIB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A size in bytes: a whole number and a unit, in either case.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|&(_, factor)| factor);
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    bytes.ok_or_else(|| "a whole number of bytes, or one with a unit: K, M, G, T, KiB (1024), KB (1000)".to_owned())
}

/// A limit a second: as a size, or `off`.
pub fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    match text {
        "off" => Ok(None),
        text => match parse_size(text)? {
            0 => Err("at least 1 a second, or off".to_owned()),
            rate => Ok(Some(rate)),
        },
    }
}

/// A limit, as it is in production and as the simulator has it: its trees of a hundred small objects are to meet every
/// limit that a tree of a billion meets.
pub(crate) const fn scaled(production: usize, simulated: usize) -> usize {
    if cfg!(test) { simulated } else { production }
}

/// One job, as asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// Read from here; never modified (I6).
    pub source: Location,
    /// Written to.
    pub dest: Location,
    /// Objects open at once, over all shards.
    pub streams: u32,
    /// Who chooses them while the job runs.
    pub pilot: Pilot,
    /// Where figures are served for Prometheus.
    pub metrics_addr: Option<SocketAddr>,
    /// Most bytes a second.
    pub bytes_per_s: Option<u64>,
    /// Most operations a second: objects begun, and blocks or parts of large ones.
    pub ops_per_s: Option<u64>,
    /// Bytes of one read or write of a large file.
    pub block_bytes: usize,
    /// Blocks of one large file in flight on a ring. No option: a measured profile alone chooses it.
    pub file_depth: usize,
    /// Whether the ring's buffers are registered. No option either.
    pub buffers: BufferChoice,
    /// Holds one subfolder per job.
    pub state_dir: PathBuf,
    /// Whether owner and mode are kept.
    pub metadata: Metadata,
    /// What is kept beside owner, mode and times.
    pub attributes: Attributes,
    /// Which interpreter answers the operations.
    pub engine: EngineChoice,
    /// When the page cache is passed by.
    pub direct: DirectChoice,
    /// Whether a clone may stand for a copy.
    pub reflink: ReflinkChoice,
    /// What is made durable, and when.
    pub sync: SyncPolicy,
    /// Whether new names are written in place.
    pub naming: Naming,
    /// What a loss of metadata counts as.
    pub losses: LossPolicy,
    /// Longest time between two checkpoints.
    pub checkpoint_interval: Duration,
    /// Most bytes between two checkpoints.
    pub checkpoint_bytes: u64,
    /// Whether mount points below the source are crossed.
    pub mounts: Mounts,
    /// Which names are taken.
    pub filter: Filter,
    /// A file of NUL-separated paths; they and what lies below them are taken, nothing else. `-` is stdin.
    pub files_from: Option<PathBuf>,
    /// How the source is reached, if it is a bucket.
    pub source_s3: S3Options,
    /// How the destination is reached, if it is one.
    pub dest_s3: S3Options,
    /// Bytes of a part of a large object, when asked for.
    pub part_bytes: Option<u64>,
    /// Whether objects are proved to be what was read.
    pub checksum: ChecksumPolicy,
    /// Whether what privileges comes back from a bucket's metadata.
    pub special_bits: SpecialBits,
    /// What is allowed where an end is a block device.
    pub devices: DeviceOptions,
    /// What a new ctime alone means.
    pub ctime: CtimePolicy,
    /// Whether only what failed is tried again.
    pub retry: Retry,
    /// Whether what the source no longer has goes from the destination, and how much of it at most.
    pub delete: Option<Deletes>,
    /// Where the summary and the progress go.
    pub output: Output,
    /// The umask gfast was started with. The process itself runs with 0; this one decides the modes that are left to
    /// the system: under `--no-metadata`, and of directories made above the destination.
    pub umask: u32,
    /// The command as typed, program name first: typed again it resumes the job.
    pub command: Vec<OsString>,
    /// Longest time a stop may wait for its last checkpoint before the run ends on the one before.
    pub stop_time: Duration,
    /// Longest time a storage may be silent before that is told.
    pub stall_time: Duration,
    /// What the command line left open: a measured profile may choose it.
    pub open: Vec<Knob>,
}

/// An option that is worth measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// `--streams`.
    Streams,
    /// `--buffer-size`.
    BufferSize,
    /// `--engine`.
    Engine,
    /// `--direct`.
    Direct,
    /// `--part-size`.
    PartSize,
    /// Blocks of one large file in flight: a profile's alone.
    Depth,
    /// Registered buffers: a profile's alone.
    Buffers,
}

impl Config {
    /// A job with nothing asked for but its ends and where its state is kept.
    pub fn new(source: Location, dest: Location, state_dir: PathBuf) -> Config {
        Config {
            source,
            dest,
            state_dir,
            streams: STREAMS_DEFAULT,
            pilot: Pilot::User,
            metrics_addr: None,
            bytes_per_s: None,
            ops_per_s: None,
            block_bytes: BLOCK_BYTES_DEFAULT,
            file_depth: FILE_DEPTH,
            buffers: BufferChoice::Registered,
            metadata: Metadata::Keep,
            attributes: Attributes::None,
            engine: EngineChoice::Auto,
            direct: DirectChoice::Auto,
            reflink: ReflinkChoice::Auto,
            sync: SyncPolicy::Batch,
            naming: Naming::InPlace,
            losses: LossPolicy::Count,
            checkpoint_interval: CHECKPOINT_INTERVAL_DEFAULT,
            checkpoint_bytes: CHECKPOINT_BYTES_DEFAULT,
            mounts: Mounts::Cross,
            ctime: CtimePolicy::Heed,
            filter: Filter::default(),
            files_from: None,
            source_s3: S3Options::default(),
            dest_s3: S3Options::default(),
            part_bytes: None,
            checksum: ChecksumPolicy::Free,
            special_bits: SpecialBits::Leave,
            devices: DeviceOptions::default(),
            retry: Retry::WithAll,
            delete: None,
            output: Output::Text,
            umask: UMASK_DEFAULT,
            command: Vec::new(),
            stop_time: STOP_TIME_MAX,
            stall_time: STALL_TIME_MAX,
            open: Vec::new(),
        }
    }
}

/// Who chooses the number of streams while a job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pilot {
    /// Whoever started or steers it.
    User,
    /// The job itself, from how fast it is.
    Job,
}

/// When what failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// With the rest, as the source is walked.
    WithAll,
    /// By itself; nothing else is looked at.
    FailedOnly,
    /// With the rest, which is copied again, too, whatever is there or recorded.
    All,
}

/// How much may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletes {
    /// At most this many names, directories included.
    pub max: Option<u64>,
    /// Whether even if the source is empty or a part of it cannot be listed.
    pub is_forced: bool,
}

/// Whether owner and mode are carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// Mode, owner, group and times.
    Keep,
    /// Times only (mtime is the seal, I2); owner and mode are left to the system.
    TimesOnly,
}

/// What is kept of an object beside owner, mode and times. Nothing is asked for what is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// Nothing.
    None,
    /// Extended attributes, file capabilities among them.
    Xattrs,
    /// POSIX ACLs.
    Acls,
    /// Both.
    All,
}

impl Attributes {
    /// From what the command line says of each.
    pub fn of(xattrs: bool, acls: bool) -> Attributes {
        match (xattrs, acls) {
            (false, false) => Attributes::None,
            (true, false) => Attributes::Xattrs,
            (false, true) => Attributes::Acls,
            (true, true) => Attributes::All,
        }
    }

    /// Whether extended attributes are.
    pub fn has_xattrs(self) -> bool {
        matches!(self, Attributes::Xattrs | Attributes::All)
    }

    /// Whether ACLs are.
    pub fn has_acls(self) -> bool {
        matches!(self, Attributes::Acls | Attributes::All)
    }
}

/// Which interpreter answers the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The ring where the kernel allows it, else system calls, said in one line.
    Auto,
    /// The ring, or exit 2 with the remedy.
    Uring,
    /// System calls only.
    Sync,
}

/// When O_DIRECT is used for large files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectChoice {
    /// Where both file systems report an alignment for it.
    Auto,
    /// Always; a file system without it fails the object.
    Always,
    /// Never.
    Never,
}

/// Whether a ring's buffers are registered with it: then the kernel does not look up their pages for every operation,
/// but all of them are pinned beforehand, which takes a small job longer than it saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BufferChoice {
    /// As far as RLIMIT_MEMLOCK allows.
    Registered,
    /// Not at all.
    Plain,
}

/// Whether FICLONE may stand for a copy within one file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReflinkChoice {
    /// Try it where both sides are one file system.
    Auto,
    /// Always copy the bytes.
    Never,
}

/// What is made durable, and when (I1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// One syncfs per checkpoint where the file system can be trusted with it, else fsync per file.
    Batch,
    /// fsync of every file.
    File,
    /// Nothing; no file is ever marked Completed, only Written.
    None,
}

/// Whether new names are written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// New names in place and sealed later; existing files by temporary name and rename (I2).
    InPlace,
    /// Every file by temporary name and rename.
    Atomic,
}

/// What a loss of metadata counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossPolicy {
    /// Counted and listed; exit 0.
    Count,
    /// A failure of the object; exit 23.
    Fail,
}

/// Whether mount points below the source are crossed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounts {
    /// Crossed; loops are cut by (dev, ino).
    Cross,
    /// The source's own file system only.
    Stay,
}

/// Whether objects are proved to be what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumPolicy {
    /// As far as it costs nothing: what the server compares.
    Free,
    /// All of them: what the server does not compare is read back.
    Keep,
    /// All of them, and what is written to a file system is read back past the page cache.
    ReadBack,
}

/// What a source whose ctime alone is new is taken for. Nothing else shows an edit that keeps size and mtime; but a
/// restore or a move of the source may set every ctime anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtimePolicy {
    /// Changed: its content is compared with the recorded checksum, or copied.
    Heed,
    /// Unchanged.
    Ignore,
}

/// Whether set-id bits, device nodes and attributes that privilege come back from a bucket's metadata, which whoever
/// may write there has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialBits {
    /// They do not (I9).
    Leave,
    /// They do: the bucket is trusted.
    Restore,
}

/// What is allowed where an end of the job is a block device. The least, unless asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceOptions {
    /// What becomes of a destination that carries something.
    pub overwrite: Overwrite,
    /// Whether a source that may change meanwhile is copied.
    pub live_source: LiveSource,
    /// What an unreadable block of the source means.
    pub bad_sectors: BadSectors,
    /// What becomes of blocks that the destination has already.
    pub equal_blocks: EqualBlocks,
}

/// What becomes of a destination device that carries a file system, a partition table or the like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// It is refused.
    #[default]
    Refuse,
    /// It is overwritten.
    Allow,
}

/// Whether a source device that is mounted for writing, or in use otherwise, is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LiveSource {
    /// It is refused: its copy would be of no one moment.
    #[default]
    Refuse,
    /// It is copied as it is read.
    Allow,
}

/// What an unreadable block of the source means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadSectors {
    /// The copy fails.
    #[default]
    Fail,
    /// It is zeroed at the destination and reported, and the copy goes on.
    Skip,
}

/// What becomes of blocks that a destination device has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EqualBlocks {
    /// They are written again.
    #[default]
    Write,
    /// The destination is read, and what is equal is left alone.
    Leave,
}

/// Where the summary and the progress go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Progress on stderr, the summary as text on stdout.
    Text,
    /// Errors on stderr only; the summary as text on stdout only when something failed.
    Quiet,
    /// Progress on stderr, the summary as one JSON object on stdout.
    Json,
    /// Errors on stderr only, the summary as one JSON object on stdout.
    QuietJson,
}

/// How one S3 end of a job is reached, as far as the command line says; the rest comes from the environment and the
/// shared configuration files. Never holds a secret (I10).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Where requests go, instead of AWS's own endpoint of the region.
    pub endpoint_url: Option<String>,
    /// The region requests are signed for.
    pub region: Option<String>,
    /// The profile of the shared configuration files that holds credentials and settings.
    pub profile: Option<String>,
    /// The storage class of new objects.
    pub storage_class: Option<String>,
}
