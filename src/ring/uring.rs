//! The ring: one io_uring per shard, with the arena registered and a table of direct descriptors.
//!
//! ```text
//! ask(Read)       one SQE ------------------------------------------+
//! ask(ReadWhole)  open, and when it is open: read -HARDLINK-> close |-> enter in wait() -> CQEs -> Completions
//! ask(other)      answered on the spot by syscalls.rs               (never reaches the ring)
//! ```
//!
//! The reads of all files that one enter has opened go to the kernel together, in the order they were asked: only then
//! does it merge those of neighbours on the device. A read linked to its open is issued by itself when that completes
//! (40,000 cold files of 4 KiB that lie in the order of their names: 40,600 reads of the device so, 6,300 this way).
//!
//! What is really asynchronous goes to the ring: reads, and direct writes into allocated space. All else would only
//! be handed to a kernel worker thread and is answered by a plain system call on the spot (design.md section 4).
//!
//! - I3: an asked [`Op`] lives in its `flight` until the last of its completions is reaped; `Drop` waits for them.
//! - A direct descriptor is free again only when its *close* has completed: reusing it after the read's completion
//!   silently lost 40 % of the files in an experiment. The close is hard-linked to the read, so it runs after a short
//!   one too.
//! - The submission queue takes a read and its close together or not at all; the completion queue has room for
//!   everything in flight.

#![expect(unsafe_code, reason = "submission entries point into memory that the flights own")]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

use super::refusal::{self, climb_down};
use super::{Access, Answer, Arena, Asked, Completion, Interpreter, Op, Side, WritePath, syscalls};
use crate::config::BufferChoice;
use crate::error::Errno;

/// Bits of `user_data` that tell which part of a flight a completion belongs to; the rest is the flight's index.
const PART_BITS: u32 = 2;
/// Parts of a flight: open, read, close. A lone operation uses the middle one.
const PART_OPEN: usize = 0;
/// The second of them.
const PART_IO: usize = 1;
/// The third.
const PART_CLOSE: usize = 2;

/// How a ring came to be, for the summary.
#[derive(Clone, Debug)]
pub struct RingFacts {
    /// Set-up flags the kernel accepted.
    pub flags: &'static str,
    /// Bytes of the arena that are registered as fixed buffers.
    pub registered_bytes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
}

/// How often the ring was entered, and with how much.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingUse {
    /// Submission entries handed to the kernel.
    pub submissions: u64,
    /// Calls of io_uring_enter that carried submissions.
    pub enters: u64,
}

/// Whether a flight waits for its file to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// The open is queued or under way.
    Asked,
    /// The file is open, or the operation is one of an open file.
    Done,
}

/// One asked operation, with what has come back of it.
struct Flight {
    /// The asker's token.
    token: u32,
    /// The operation and all memory the kernel may touch.
    op: Op,
    /// Direct descriptor of a ReadWhole.
    direct: Option<u32>,
    /// Whether its open is still to come.
    opening: Opening,
    /// Raw results by part.
    results: [i32; 3],
    /// Completions still to come.
    parts_left: u8,
    /// O_NOATIME if the open was asked with it.
    noatime: i32,
}

/// One io_uring and its operations in flight.
pub struct Ring {
    /// The kernel's queues. Declared before `flights`: closed first, though `Drop` has drained it by then.
    ring: IoUring,
    /// Operations in flight by index.
    flights: Vec<Option<Flight>>,
    /// Unused indexes of `flights`.
    free_flights: Vec<usize>,
    /// Unused direct descriptors.
    free_direct: Vec<u32>,
    /// The memory leases point into.
    arena: Arc<Arena>,
    /// How much of the arena is registered.
    registered: Registered,
    /// Flags the kernel accepted.
    flags: &'static str,
    /// O_NOATIME, until a file of another owner refuses it.
    noatime: i32,
    /// Counted use.
    usage: RingUse,
    /// Whether opens are queued.
    has_opens: bool,
    /// Flights whose file is open and wants to be read.
    opened: Vec<usize>,
    /// Flights that met EPERM under O_NOATIME and go again without it.
    again: Vec<usize>,
}

/// Flag sets from best to plainest, dropped step by step on EINVAL (older kernels). TASKRUN_FLAG goes with
/// DEFER_TASKRUN: without it completions never show on a plain submit.
const LADDER: [&str; 4] = [
    "SUBMIT_ALL|SINGLE_ISSUER|DEFER_TASKRUN|COOP_TASKRUN|TASKRUN_FLAG",
    "SUBMIT_ALL|COOP_TASKRUN|TASKRUN_FLAG",
    "SUBMIT_ALL",
    "",
];

impl Ring {
    /// A ring for up to `depth` operations in flight on the calling thread, with `arena` registered as far as allowed,
    /// if that is wanted.
    /// The ring must be used by the thread that makes it (SINGLE_ISSUER).
    pub fn new(depth: usize, arena: Arc<Arena>, buffers: BufferChoice) -> Result<Ring, Errno> {
        let entries = (depth * 3).next_power_of_two().clamp(64, 4096) as u32;
        let (ring, flags) = build(entries, (depth as u32 * 3).next_power_of_two().max(entries * 2))?;
        let direct_count = depth as u32;
        let has_direct = ring.submitter().register_files_sparse(direct_count).is_ok();
        // Two bounded workers are plenty for the few operations the kernel still punts; unbounded ones are not used.
        let _ = ring.submitter().register_iowq_max_workers(&mut [4, 1]);
        let registered = Registered::begin(&ring, &arena, buffers);
        Ok(Ring {
            ring,
            flights: (0..depth).map(|_| None).collect(),
            free_flights: (0..depth).rev().collect(),
            free_direct: if has_direct { (0..direct_count).rev().collect() } else { Vec::new() },
            arena,
            registered,
            flags,
            noatime: libc::O_NOATIME,
            usage: RingUse::default(),
            has_opens: false,
            opened: Vec::new(),
            again: Vec::new(),
        })
    }

    /// The same where memory may be short: asked for again, then for a small ring without registered buffers; otherwise
    /// why there is none, with the remedy.
    pub fn patient(depth: usize, arena: &Arc<Arena>, buffers: BufferChoice) -> Result<Ring, String> {
        let make = |(depth, buffers)| Ring::new(depth, arena.clone(), buffers);
        climb_down((depth, buffers), make, std::thread::sleep)
    }

    /// Why this process cannot have a ring, with the remedy, or `None` if it can.
    pub fn probe() -> Option<String> {
        refusal::ask_for(|| build(4, 8).map(drop)).err()
    }

    /// How the ring came to be.
    pub fn facts(&self) -> RingFacts {
        let arena_bytes = self.arena.len();
        RingFacts { flags: self.flags, registered_bytes: self.registered.bytes(), arena_bytes }
    }

    /// How much it was used so far.
    pub fn usage(&self) -> RingUse {
        self.usage
    }

    /// Whether `op` is better off in the ring than answered on the spot.
    fn takes(&self, op: &Op) -> bool {
        match op {
            Op::ReadWhole { .. } => !self.free_direct.is_empty(),
            Op::Read { .. } => true,
            Op::Write { path, .. } => *path == WritePath::Direct,
            _ => false,
        }
    }

    /// Queues the first, or only, entry of a flight.
    fn launch(&mut self, index: usize) {
        let flight = self.flights[index].as_ref().expect("I3: a launched flight is in its slot");
        let entry = match flight.direct {
            Some(direct) => {
                self.has_opens = true;
                tagged(open_entry(flight, direct), index, PART_OPEN)
            }
            None => tagged(self.single(flight), index, PART_IO),
        };
        self.push(&[entry]);
    }

    /// Queues the reads of the files that are open, each with the close of its descriptor. Ends: takes what is there.
    fn read_opened(&mut self) {
        let mut opened = std::mem::take(&mut self.opened);
        for index in opened.drain(..) {
            let flight = self.flights[index].as_mut().expect("I3: an open file's flight is in its slot");
            flight.parts_left = 2;
            let (Op::ReadWhole { lease, len, .. }, Some(direct)) = (&flight.op, flight.direct) else {
                unreachable!("only ReadWhole is opened")
            };
            let (at, len) = (lease.offset(), *len);
            let read = self.read_entry(Target::Direct(direct), at, len, 0).flags(Flags::IO_HARDLINK);
            let close = opcode::Close::new(types::Fixed(direct)).build();
            self.push(&[tagged(read, index, PART_IO), tagged(close, index, PART_CLOSE)]);
        }
        self.opened = opened;
    }

    /// Puts entries on the submission queue together; a full queue is submitted first.
    fn push(&mut self, entries: &[Entry]) {
        loop {
            // SAFETY: every pointer in an entry leads to memory owned by its flight (the Op's name or lease), which
            // stays in `flights` until the entry's completion is reaped.
            if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
                return;
            }
            self.enter(0, Duration::ZERO);
        }
    }

    fn single(&self, flight: &Flight) -> Entry {
        match &flight.op {
            Op::Read { file, lease, start, len, offset } => {
                self.read_entry(Target::Fd(file.as_raw_fd()), lease.offset() + start, *len, *offset)
            }
            Op::Write { file, lease, start, len, offset, .. } => {
                let fd = types::Fd(file.as_raw_fd());
                let at = lease.offset() + start;
                let pointer = self.arena.as_ptr().wrapping_add(at);
                match self.registered.index_of(at, *len) {
                    Some(index) => opcode::WriteFixed::new(fd, pointer, *len as u32, index).offset(*offset).build(),
                    None => opcode::Write::new(fd, pointer, *len as u32).offset(*offset).build(),
                }
            }
            other => unreachable!("not a ring operation: {other:?}"),
        }
    }

    /// A read into the arena at byte `at`: with the registered buffer where it is registered.
    fn read_entry(&self, target: Target, at: usize, len: usize, offset: u64) -> Entry {
        let pointer = self.arena.as_ptr().wrapping_add(at);
        let (index, len) = (self.registered.index_of(at, len), len as u32);
        match (target, index) {
            (Target::Fd(fd), Some(index)) => {
                opcode::ReadFixed::new(types::Fd(fd), pointer, len, index).offset(offset).build()
            }
            (Target::Fd(fd), None) => opcode::Read::new(types::Fd(fd), pointer, len).offset(offset).build(),
            (Target::Direct(slot), Some(index)) => {
                opcode::ReadFixed::new(types::Fixed(slot), pointer, len, index).offset(offset).build()
            }
            (Target::Direct(slot), None) => opcode::Read::new(types::Fixed(slot), pointer, len).offset(offset).build(),
        }
    }

    /// Submits what is queued and waits up to `timeout` for `want` completions.
    fn enter(&mut self, want: usize, timeout: Duration) {
        let queued = self.ring.submission().len();
        if queued > 0 {
            self.usage.enters += 1;
            self.usage.submissions += queued as u64;
        }
        let timespec = types::Timespec::from(timeout);
        let args = types::SubmitArgs::new().timespec(&timespec);
        let entered = match want {
            0 => self.ring.submit(),
            _ => self.ring.submitter().submit_with_args(want, &args),
        };
        match entered.map_err(|error| Errno::from_io_error(&error)) {
            // ETIME: the timeout; EINTR: a signal; EAGAIN and EBUSY: the kernel wants completions reaped first.
            Ok(_) | Err(Some(Errno::TIME | Errno::INTR | Errno::AGAIN | Errno::BUSY)) => {}
            // Anything else is a malformed call: a defect of this file, not of the world.
            Err(errno) => panic!("I3: io_uring_enter refused with {errno:?}; operations in flight cannot be given up"),
        }
    }

    /// Takes every completion that is there.
    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let mut landed = Vec::new();
        for cqe in self.ring.completion() {
            let index = (cqe.user_data() >> PART_BITS) as usize;
            let part = cqe.user_data() as usize & ((1 << PART_BITS) - 1);
            let flight = self.flights[index].as_mut().expect("I3: a completion belongs to a flight");
            flight.results[part] = cqe.result();
            flight.parts_left -= 1;
            if flight.parts_left == 0 {
                landed.push(index);
            }
        }
        for index in landed {
            self.land(index, completions);
        }
    }

    /// What was queued of a flight is back: it goes on, or its memory and descriptor are free again.
    fn land(&mut self, index: usize, completions: &mut Vec<Completion>) {
        let flight = self.flights[index].as_mut().expect("I3: a landed flight is in its slot");
        let opened = std::mem::replace(&mut flight.opening, Opening::Done);
        match (opened, flight.results[PART_OPEN]) {
            (Opening::Asked, 0..) => return self.opened.push(index),
            (Opening::Asked, error) if error == -libc::EPERM && flight.noatime != 0 => {
                self.noatime = 0;
                flight.noatime = 0;
                flight.opening = Opening::Asked;
                flight.parts_left = 1;
                return self.again.push(index);
            }
            (Opening::Asked, error) => flight.results[PART_IO] = error,
            (Opening::Done, _) => {}
        }
        let flight = self.flights[index].take().expect("I3: a landed flight is in its slot");
        self.free_flights.push(index);
        self.free_direct.extend(flight.direct);
        let raw = flight.results[PART_IO];
        let result = match usize::try_from(raw) {
            Ok(count) => Ok(Answer::Count(count)),
            Err(_) => Err(Errno::from_raw_os_error(-raw)),
        };
        completions.push(Completion { token: flight.token, op: flight.op, result });
    }
}

/// An entry whose completion is part `part` of the flight at `index`.
fn tagged(entry: Entry, index: usize, part: usize) -> Entry {
    entry.user_data((index as u64) << PART_BITS | part as u64)
}

/// Opens the file of a ReadWhole on a direct descriptor.
fn open_entry(flight: &Flight, direct: u32) -> Entry {
    let Op::ReadWhole { at, name, access, .. } = &flight.op else { unreachable!("only ReadWhole opens a file") };
    let target = types::DestinationSlot::try_from_slot_target(direct).ok();
    let direct_io = if *access == Access::ReadDirect { libc::O_DIRECT } else { 0 };
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | direct_io | flight.noatime;
    opcode::OpenAt::new(types::Fd(at.as_raw_fd()), name.as_ptr()).flags(flags).file_index(target).build()
}

/// What a read entry reads from.
enum Target {
    /// A plain descriptor.
    Fd(i32),
    /// A direct descriptor of this ring.
    Direct(u32),
}

impl Interpreter for Ring {
    fn ask(&mut self, token: u32, side: Side, mut op: Op) -> Asked {
        if self.free_flights.is_empty() || !self.takes(&op) {
            let result = syscalls::answer(side, &mut op, &self.arena);
            return Asked::Answered(Completion { token, op, result });
        }
        if let Op::Read { .. } = op {
            self.registered.complete(&self.ring, &self.arena);
        }
        let Some(index) = self.free_flights.pop() else { unreachable!("checked above") };
        let is_whole = matches!(op, Op::ReadWhole { .. });
        let direct = if is_whole { self.free_direct.pop() } else { None };
        let opening = if is_whole { Opening::Asked } else { Opening::Done };
        let noatime = self.noatime;
        self.flights[index] = Some(Flight { token, op, direct, opening, results: [0; 3], parts_left: 1, noatime });
        self.launch(index);
        Asked::Pending
    }

    fn wait(&mut self, want: usize, timeout: Duration, completions: &mut Vec<Completion>) {
        let before = completions.len();
        if self.has_opens {
            self.has_opens = false;
            self.enter(0, Duration::ZERO);
            self.reap(completions);
        }
        self.read_opened();
        let want = want.saturating_sub(completions.len() - before).min(self.in_flight());
        self.enter(want, timeout);
        self.reap(completions);
        while let Some(index) = self.again.pop() {
            self.launch(index);
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.len() - self.free_flights.len()
    }
}

impl Drop for Ring {
    /// I3: memory in flight is never given back before the kernel is done with it. Ends: each turn reaps what came,
    /// and the kernel completes every operation.
    fn drop(&mut self) {
        let mut completions = Vec::new();
        while self.in_flight() > 0 {
            self.wait(1, Duration::from_secs(1), &mut completions);
            completions.clear();
        }
    }
}

fn build(entries: u32, completions: u32) -> Result<(IoUring, &'static str), Errno> {
    let mut last = Errno::INVAL;
    for flags in LADDER {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(completions);
        for flag in flags.split('|') {
            match flag {
                "SUBMIT_ALL" => builder.setup_submit_all(),
                "SINGLE_ISSUER" => builder.setup_single_issuer(),
                "DEFER_TASKRUN" => builder.setup_defer_taskrun(),
                "COOP_TASKRUN" => builder.setup_coop_taskrun(),
                "TASKRUN_FLAG" => builder.setup_taskrun_flag(),
                _ => &mut builder,
            };
        }
        match builder.build(entries) {
            Ok(ring) => return usable(ring.params().is_feature_ext_arg()).map(|()| (ring, flags)),
            Err(error) => last = Errno::from_io_error(&error).unwrap_or(Errno::INVAL),
        }
        if last != Errno::INVAL {
            break;
        }
    }
    Err(last)
}

/// Whether a ring will do, by whether one may wait for it for a limited time (IORING_ENTER_EXT_ARG, Linux 5.11): one
/// that answers such a wait with EINVAL is as good as none.
fn usable(has_ext_arg: bool) -> Result<(), Errno> {
    if has_ext_arg { Ok(()) } else { Err(Errno::NOSYS) }
}

/// What of the arena is registered: its head from the start, the rest with the first block of a large file. Registering
/// pins and zeroes every page, which costs a job of small files 25 ms per shard for memory it never uses.
#[derive(Clone, Copy, Debug)]
struct Registered {
    /// Bytes registered as buffer 0.
    head: usize,
    /// Bytes registered as buffer 1, from `HEAD_BYTES` on.
    rest: usize,
    /// Whether the rest was asked for.
    is_complete: bool,
}

/// Bytes of the arena's head: what the small leases of a shard's streams come from.
const HEAD_BYTES: usize = 2 << 20;

impl Registered {
    /// Registers the head, in a table with room for the rest. Old kernels have no such table: then it is all or
    /// nothing.
    fn begin(ring: &IoUring, arena: &Arena, buffers: BufferChoice) -> Registered {
        let len = HEAD_BYTES.min(arena.len());
        let none = Registered { head: 0, rest: 0, is_complete: true };
        if buffers == BufferChoice::Plain || ring.submitter().register_buffers_sparse(2).is_err() {
            return none;
        }
        match register(ring, arena, 0, 0, len) {
            true => Registered { head: len, rest: 0, is_complete: arena.len() <= HEAD_BYTES },
            false => none,
        }
    }

    /// Registers the rest, as much as RLIMIT_MEMLOCK allows: all, else halves of it down to one mebibyte. For ordinary
    /// users registered buffers count against that limit, per user and over all rings.
    fn complete(&mut self, ring: &IoUring, arena: &Arena) {
        if self.is_complete {
            return;
        }
        self.is_complete = true;
        let mut len = arena.len() - HEAD_BYTES;
        while len >= (1 << 20) {
            if register(ring, arena, 1, HEAD_BYTES, len) {
                self.rest = len;
                return;
            }
            len = (len / 2) & !4095;
        }
    }

    /// The registered buffer that holds `len` bytes from byte `at` of the arena, if one does.
    fn index_of(&self, at: usize, len: usize) -> Option<u16> {
        match at + len {
            end if end <= self.head => Some(0),
            end if at >= HEAD_BYTES && end <= HEAD_BYTES + self.rest => Some(1),
            _ => None,
        }
    }

    /// Bytes registered.
    fn bytes(&self) -> usize {
        self.head + self.rest
    }
}

fn register(ring: &IoUring, arena: &Arena, index: u32, start: usize, len: usize) -> bool {
    let iovec = libc::iovec { iov_base: arena.as_ptr().wrapping_add(start).cast(), iov_len: len };
    // SAFETY: the range lies in the arena, which outlives the ring (an `Arc` of it is held beside the ring and dropped
    // after it).
    unsafe { ring.submitter().register_buffers_update(index, &[iovec], None) }.is_ok()
}
