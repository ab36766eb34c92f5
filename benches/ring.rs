//! The ring alone, against plain system calls on one thread: small files read whole by chains, one large file read and
//! written in blocks, with the submissions that one io_uring_enter carried.
//!
//! `cargo bench --bench ring` works in the temporary directory (TMPDIR); on a RAM-backed one it measures the code, on a
//! disk the disk. The large file goes past the page cache where the file system allows that.

#[path = "scratch.rs"]
mod scratch;

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gfast::config::BufferChoice;
use gfast::ring::syscalls::{Kernel, answer};
use gfast::ring::uring::Ring;
use gfast::ring::{
    Access, Answer, Asked, Completion, FixedBuffers, Handle, Interpreter, Lease, Name, Op, Side, WritePath,
};
use rustix::fs::{Mode, OFlags};
use scratch::{Result, Scratch};

/// Small files, and bytes of each.
const FILES: u64 = 20_000;
const FILE_BYTES: usize = 4096;
/// Blocks of the large file, and bytes of each.
const BLOCKS: u64 = 512;
const BLOCK_BYTES: usize = 1 << 20;
/// Operations in flight.
const DEPTHS: [usize; 3] = [1, 16, 64];

fn main() -> Result<()> {
    let scratch = Scratch::new("ring")?;
    let at = grow(&scratch.join("files"))?;
    let name = |number: u64| Name::new(format!("file-{number:06}")).unwrap_or_default();
    let whole = |number, lease| {
        let (at, name) = (at.clone(), name(number));
        (Side::Source, Op::ReadWhole { at, name, access: Access::Read, lease, len: FILE_BYTES })
    };
    println!("{FILES} files of {FILE_BYTES} bytes, read whole");
    measure(FILES, FILE_BYTES, whole)?;

    let (path, file) = open_large(&at)?;
    let (offset, len) = (|number| number * BLOCK_BYTES as u64, BLOCK_BYTES);
    println!("{BLOCKS} blocks of {BLOCK_BYTES} bytes, written, {path:?}");
    let write = |number, lease| {
        let (file, offset) = (file.1.clone(), offset(number));
        (Side::Dest, Op::Write { file, lease, start: 0, len, offset, path })
    };
    measure(BLOCKS, BLOCK_BYTES, write)?;
    println!("{BLOCKS} blocks of {BLOCK_BYTES} bytes, read");
    let read = |number, lease| {
        let (file, offset) = (file.0.clone(), offset(number));
        (Side::Source, Op::Read { file, lease, start: 0, len, offset })
    };
    measure(BLOCKS, BLOCK_BYTES, read)
}

fn grow(dir: &Path) -> Result<Handle> {
    std::fs::create_dir(dir)?;
    for number in 0..FILES {
        std::fs::write(dir.join(format!("file-{number:06}")), [number as u8; FILE_BYTES])?;
    }
    Ok(Arc::new(rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
}

/// A file with all its space allocated, open for reading and for writing, both past the page cache if possible.
fn open_large(at: &Handle) -> Result<(WritePath, (Handle, Handle))> {
    let arena = FixedBuffers::new(1, 4096, 4096).map_err(|error| error.to_string())?.arena().clone();
    let open = |access, side| {
        let name = CString::from(c"large");
        match answer(side, &mut Op::Open { at: at.clone(), name, access, mode: 0o600 }, &arena) {
            Ok(Answer::Handle(handle)) => Ok(handle),
            Ok(other) => Err(format!("open answered {other:?}")),
            Err(errno) => Err(format!("open: {errno}")),
        }
    };
    let made = open(Access::Create, Side::Dest)?;
    rustix::fs::fallocate(&made, rustix::fs::FallocateFlags::empty(), 0, BLOCKS * BLOCK_BYTES as u64)?;
    match (open(Access::ReadDirect, Side::Source), open(Access::WriteDirect, Side::Dest)) {
        (Ok(reader), Ok(writer)) => Ok((WritePath::Direct, (reader, writer))),
        _ => Ok((WritePath::Buffered, (open(Access::Read, Side::Source)?, made))),
    }
}

/// Asks `count` operations of `bytes` bytes, of the ring at each depth and of plain system calls.
fn measure(count: u64, bytes: usize, make: impl Fn(u64, Lease) -> (Side, Op)) -> Result<()> {
    let line = |what: &str, took: Duration, more: String| {
        let (secs, mib) = (took.as_secs_f64(), (count * bytes as u64) as f64 / f64::from(1 << 20));
        println!("  {what:<14}{:>9.0} op/s {:>8.0} MiB/s{more}", count as f64 / secs, mib / secs);
    };
    for depth in DEPTHS {
        let mut buffers = FixedBuffers::new(depth, bytes, bytes).map_err(|error| error.to_string())?;
        let mut ring = match Ring::new(depth, buffers.arena().clone(), BufferChoice::Registered) {
            Ok(ring) => ring,
            Err(errno) => {
                println!("  no ring: {errno}");
                break;
            }
        };
        // The first use registers the buffers, which pins and zeroes every page of them.
        drive(&mut ring, &mut buffers, (depth as u64, bytes, depth), &make)?;
        let before = ring.usage();
        let took = drive(&mut ring, &mut buffers, (count, bytes, depth), &make)?;
        let (usage, registered) = (ring.usage(), ring.facts().registered_bytes >> 10);
        let each = (usage.submissions - before.submissions) as f64 / (usage.enters - before.enters).max(1) as f64;
        line(&format!("ring, {depth}"), took, format!("  {each:>5.1} SQEs an enter, {registered} KiB registered"));
    }
    let mut buffers = FixedBuffers::new(1, bytes, bytes).map_err(|error| error.to_string())?;
    let mut kernel = Kernel::new(buffers.arena().clone());
    let took = drive(&mut kernel, &mut buffers, (count, bytes, 1), &make)?;
    line("system calls", took, String::new());
    Ok(())
}

/// Keeps `depth` operations in flight until `count` are answered. Ends: each turn asks more or reaps what is in flight.
fn drive<I: Interpreter>(
    interpreter: &mut I,
    buffers: &mut FixedBuffers,
    (count, bytes, depth): (u64, usize, usize),
    make: impl Fn(u64, Lease) -> (Side, Op),
) -> Result<Duration> {
    let started = Instant::now();
    let (mut asked, mut answered) = (0, 0);
    let mut completions = Vec::with_capacity(depth);
    while answered < count {
        while asked < count && asked - answered < depth as u64 {
            let lease = buffers.acquire(bytes).ok_or("a lease is missing")?;
            let (side, op) = make(asked, lease);
            asked += 1;
            if let Asked::Answered(completion) = interpreter.ask(0, side, op) {
                completions.push(completion);
            }
        }
        let want = if completions.is_empty() { (interpreter.in_flight() / 2).max(1) } else { 0 };
        interpreter.wait(want, Duration::from_secs(1), &mut completions);
        for Completion { op, result, .. } in completions.drain(..) {
            let (Op::ReadWhole { lease, .. } | Op::Read { lease, .. } | Op::Write { lease, .. }) = op else {
                return Err("an operation that was not asked".into());
            };
            match result {
                Ok(Answer::Count(done)) if done == bytes => buffers.release(lease),
                other => return Err(format!("{other:?} instead of {bytes} bytes").into()),
            }
            answered += 1;
        }
    }
    Ok(started.elapsed())
}
