//! The floor under every copy of small files: create, write and set times, from a few threads, reading nothing.
//!
//! `floor DIR DIRS FILES BYTES [THREADS]` makes DIRS directories of FILES files of BYTES bytes below DIR. No two files
//! hold the same bytes, so `scripts/bench` also makes its source trees with it: a copy that swaps two files is found
//! out.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags, Timespec, Timestamps, futimens, open, openat};

/// Files of one directory that a thread takes at a time.
const SLICE_FILES: u64 = 1000;

/// What to make.
struct Tree<'a> {
    root: &'a Path,
    dirs: u64,
    files: u64,
    bytes: usize,
    /// The next slice nobody has taken.
    next: AtomicU64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, dirs, files, bytes, threads @ ..] = args.as_slice() else {
        return Err("usage: floor DIR DIRS FILES BYTES [THREADS]".into());
    };
    let threads = threads.first().map_or(Ok(2), |text| text.parse())?;
    let root = Path::new(root);
    let tree =
        Tree { root, dirs: dirs.parse()?, files: files.parse()?, bytes: bytes.parse()?, next: AtomicU64::new(0) };
    for dir in 0..tree.dirs {
        fs::create_dir(tree.dir(dir))?;
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| tree.fill())).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?.map_err(Into::into))
    })
}

impl Tree<'_> {
    fn dir(&self, index: u64) -> std::path::PathBuf {
        self.root.join(format!("dir-{index:06}"))
    }

    /// Takes slices until none is left.
    fn fill(&self) -> rustix::io::Result<()> {
        let slices = self.files.div_ceil(SLICE_FILES);
        let mut content = vec![0; self.bytes];
        loop {
            let taken = self.next.fetch_add(1, Ordering::Relaxed);
            if taken >= slices * self.dirs {
                return Ok(());
            }
            let (dir, slice) = (taken / slices, taken % slices);
            let last = self.files.min((slice + 1) * SLICE_FILES);
            self.slice(dir, slice * SLICE_FILES..last, &mut content)?;
        }
    }

    fn slice(&self, dir: u64, files: std::ops::Range<u64>, content: &mut [u8]) -> rustix::io::Result<()> {
        let at = open(self.dir(dir), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for index in files {
            let number = dir * self.files + index;
            noise(number, content);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(&at, format!("file-{index:07}"), flags, Mode::from_raw_mode(0o644))?;
            let mut written = 0;
            while written < content.len() {
                written += rustix::io::write(&file, &content[written..])?;
            }
            let time = Timespec { tv_sec: 1_000_000_000 + number as i64, tv_nsec: (number % 1_000_000_000) as _ };
            futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
        }
        Ok(())
    }
}

/// Fills `bytes` with what belongs to file `number` alone (splitmix64).
fn noise(number: u64, bytes: &mut [u8]) {
    let mut state = number.wrapping_mul(0x2545_f491_4f6c_dd1d);
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        chunk.copy_from_slice(&z.to_le_bytes()[..chunk.len()]);
    }
}
