//! gfast moves huge file trees between storage systems at the speed of the hardware, bit-perfect, resumable at any
//! moment.
//!
//! # Map
//! ```text
//! main.rs              signals, command line, run, summary, exit code
//! cli/*.rs             arguments -> Config
//! config.rs            what was asked for, resolved; every limit in one place
//! location.rs          one side of a job, as named on the command line
//! filter.rs            which names a job is about: include and exclude rules (pure)
//! selection.rs         those and lists of paths, and what of a list was met
//! extents.rs           parts of an object: where a device cannot be read
//! remains.rs           what earlier runs have left of the copy of a device
//! error.rs             Error {verb, object, cause} and what it means for the job
//! digest.rs            CRC64/NVME, and putting the values of parts together
//! filesystem.rs        kinds of file systems, and what each can be trusted with
//! stop.rs bell.rs      the flag that ends a run; the bell that wakes its main thread
//! nudges.rs            signals that ask for more or fewer streams
//! gate/mod.rs          stream permits, parked large objects, a pause
//! gate/rate.rs         most bytes and operations a second
//! limits.rs            what limits a job (pure)
//! tuner.rs             how many streams a job should have (pure)
//! boards.rs            what the threads have open, told when asked
//! report/*.rs          counters, activities, latencies, failures, losses, progress, summary, exit codes
//! ring/mod.rs          who answers operations: Interpreter (asynchronous) and Caller (on the spot)
//! ring/op.rs           Op: every question to the operating system, owning its memory
//! ring/buffers.rs      the arena and its leases
//! ring/uring.rs        io_uring answers
//! ring/refusal.rs      rings that the kernel refuses
//! ring/syscalls.rs     plain system calls answer
//! ring/xattrs.rs       those of extended attributes
//! ring/loops.rs        what a loop device lies on
//! ring/sim/*.rs        the seeded simulator answers (tests)
//! catalog/*.rs         LMDB through heed: records, indexes, one commit a batch
//! provider/mod.rs      what each kind of storage can do
//! provider/posix.rs    a mounted file system's verbs, typed
//! provider/metadata.rs owner and mode
//! provider/xattrs.rs   extended attributes and ACLs
//! provider/block/*.rs  block devices: opened, described, what they carry, who uses them
//! provider/s3/*.rs     S3: the bucket, a lane's client of it, keys, attributes, retries
//! provider/s3/credentials/tests.rs  which source gives the keys
//! roots/*.rs           both ends of a job: examined, refused, opened
//! links.rs             hard links in flight
//! temporaries.rs       names under which things are made before they get their own
//! dirents.rs           names as the kernel lists them
//! names.rs             names that a destination takes for one another
//! naming.rs            whose turn it is to give such a name
//! forms.rs             in which form a destination keeps names
//! spelling.rs          names that one side lists otherwise than the other
//! plan.rs              the decision about one object (pure)
//! pages.rs             how far a bucket's listing has outcomes, page by page
//! walk/mod.rs          directories as work items, shared by all shards
//! walk/node.rs         one directory known to the walk
//! walk/cache.rs        open-directory caches
//! walk/pending.rs      directories that wait in a walk which may write nothing
//! walk/seen.rs         what was seen of the names of one directory
//! job.rs               what all parts of a run share
//! recognise.rs         how objects are known again where inode numbers last, and where not
//! listing.rs           one directory being listed
//! dir_stamp.rs         what is recorded of a directory of the source
//! transfer/mod.rs      the life of one object
//! transfer/copied.rs   what its checkpoint has to know of it
//! transfer/attributes.rs  its extended attributes and ACLs
//! transfer/held.rs     what the destination holds already: sealed again, adopted, given new metadata
//! transfer/device.rs   ends that are block devices
//! transfer/grouping.rs  which of an object's names is copied
//! transfer/source.rs   its source described and opened, and described again when it is read
//! transfer/named.rs    objects without content: symlinks, FIFOs, sockets, device nodes
//! large/mod.rs         the life of a large file
//! large/task.rs        one shard's part in it
//! large/leftover.rs    what an interrupted attempt left of it
//! large/room.rs        the size and the space of its copy
//! large/device.rs      where an end of it is a block device
//! large/sparing.rs     which parts of a block are written
//! large/salvage.rs     bad sectors: what can be read around them
//! outcome.rs           what shards tell the checkpoints
//! seal.rs              what makes a durable object final
//! readback.rs          what a durable batch left at the destination, read past the page cache
//! checkpoint/mod.rs    a batch: durable, sealed, recorded
//! checkpoint/groups.rs  hard links at a checkpoint
//! checkpoint/partials.rs  what was begun and is not gone on with
//! delete/*.rs          what the source no longer has goes from the destination
//! finish.rs            the end of a pass: directories, last commit
//! resume.rs            where a run begins
//! errand.rs            names on their way to an outcome
//! lane/mod.rs          one thread's event loop where a bucket is on either side
//! lane/*.rs            its listings, objects, parts, buffers and file operations
//! shard/mod.rs         one thread's event loop
//! shard/names.rs       where its objects come from
//! shard/objects.rs     what becomes of them
//! unmet.rs             listed paths that no listing brought up
//! conduct.rs           the decisions of a run, apart from the waiting
//! verify/*.rs          both sides compared on the same walker and rings; verify/bucket.rs where one is a bucket
//! rehearsal/mod.rs     what a run would do, and why: nothing is changed
//! rehearsal/*.rs       what both ends are asked for it, what --delete would remove, what a resume passes over
//! ledger/*.rs          what a job did to every object, as a report of lines that vouch for each other
//! crew.rs              who does the work: what answers, on how many threads, with how much memory
//! engine/mod.rs        one run, from the checks to the summary
//! engine/ends.rs       both ends of a job, file systems or buckets
//! engine/renamed.rs    devices that are called otherwise than when their job began
//! engine/emptied.rs    whether a destination bucket holds anything yet of what its job has stored
//! engine/overwriting.rs whether a destination device may be overwritten
//! engine/team.rs       its threads, started and ended as the streams need them
//! engine/autopilot.rs  the tuner at the wheel of a running job
//! engine/watch.rs      looks at a running job, and what limits it
//! control/mod.rs       a running job seen and steered from outside
//! control/status.rs    what it says of itself
//! control/command.rs   what it can be told (pure)
//! control/desk.rs      does it, and says how the job stands
//! control/server.rs    the socket in the job's folder
//! control/client.rs    the other end of it
//! control/metrics.rs   its figures for Prometheus
//! control/show.rs      a status for people
//! tui/*.rs             the full-screen view of a running job, a client of its control socket
//! tune/mod.rs          which settings copy fastest between two places, measured
//! tune/*.rs            its samples, trials, choice, profiles, and the process that cleans up
//! ```
//!
//! # The life of one small file
//! A shard takes its directory from the walker ([`walk`]), opens it on both sides and hands out its names
//! ([`listing`]). The source is described and the decision made ([`plan`]); the file is opened, then read and closed
//! on the ring ([`ring::uring`]); the source is described again, and if it is the same, the destination is
//! created, written, given its owner and mode, and closed ([`transfer`]). The outcome waits for the next checkpoint
//! ([`outcome`]), which makes it durable, sets the source's times (the seal), and records it ([`checkpoint`]). A resume
//! goes on from the catalog ([`resume`]).
//!
//! # Invariants
//! - **I1** The catalog never claims more than the destination durably holds.
//! - **I2** The source's mtime is the seal: a file under its final name gets it only after its data is durable.
//! - **I3** Memory the kernel may touch belongs to its operation until the completion is reaped.
//! - **I4** Every queue, pool and table has a bound.
//! - **I5** One object's failure ends that object; only a fatal condition ends the job, after a drain, resumable.
//! - **I6** The source is opened read-only and never modified.
//! - **I7** A streamed byte is read once, hashed once and written once from the same buffer.
//! - **I8** No path is followed out of the tree: every name is one component below a held directory, no symlink is
//!   followed.
//! - **I9** Nothing is ever more permissive than its source.
//! - **I10** No secret reaches a log, the catalog, a report, argv or an error text.

pub mod bell;
pub mod boards;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod conduct;
pub mod config;
pub mod control;
pub(crate) mod crew;
pub(crate) mod delete;
pub mod digest;
pub mod dir_stamp;
pub(crate) mod dirents;
pub mod engine;
pub(crate) mod errand;
pub mod error;
pub mod extents;
pub mod filesystem;
pub mod filter;
pub mod finish;
pub(crate) mod forms;
pub mod gate;
pub mod job;
pub(crate) mod lane;
pub mod large;
pub mod ledger;
pub mod limits;
pub mod links;
pub mod listing;
pub mod location;
pub mod names;
pub mod naming;
pub mod nudges;
pub mod outcome;
pub mod pages;
pub mod plan;
pub mod provider;
pub(crate) mod readback;
pub(crate) mod recognise;
pub mod rehearsal;
pub(crate) mod remains;
pub mod report;
pub mod resume;
pub mod ring;
pub mod roots;
pub(crate) mod seal;
pub mod selection;
pub mod shard;
pub(crate) mod spelling;
pub mod stop;
pub mod temporaries;
pub mod transfer;
pub mod tui;
pub mod tune;
pub mod tuner;
pub(crate) mod unmet;
pub mod verify;
pub mod walk;

#[cfg(test)]
#[path = "tests/simulation.rs"]
mod simulation;
