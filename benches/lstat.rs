//! The floor under every pass that finds nothing changed: names listed and described, from a few threads, nothing else.
//!
//! `lstat DIR [THREADS]` prints how many entries lie below DIR.

use std::error::Error;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, open, statx};

/// Directories that wait, and how many are waiting or under way.
struct Walk {
    waiting: Mutex<(Vec<PathBuf>, usize)>,
    changed: Condvar,
    entries: AtomicU64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, threads @ ..] = args.as_slice() else { return Err("usage: lstat DIR [THREADS]".into()) };
    if !Path::new(root).is_dir() {
        return Err(format!("{root}: no directory").into());
    }
    let threads: usize = threads.first().map_or(Ok(2), |text| text.parse())?;
    let waiting = Mutex::new((vec![PathBuf::from(root)], 1));
    let walk = Walk { waiting, changed: Condvar::new(), entries: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| walk.work())).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a thread panicked")?.map_err(Into::into))
    })
    .map_err(|error: Box<dyn Error>| error)?;
    println!("{}", walk.entries.load(Ordering::Relaxed));
    Ok(())
}

impl Walk {
    /// Takes directories until none is left.
    fn work(&self) -> rustix::io::Result<()> {
        loop {
            let mut waiting = self.waiting.lock().expect("no thread panics");
            let dir = loop {
                match waiting.0.pop() {
                    Some(dir) => break dir,
                    None if waiting.1 == 0 => return Ok(()),
                    None => waiting = self.changed.wait(waiting).expect("no thread panics"),
                }
            };
            drop(waiting);
            let found = self.list(&dir)?;
            let mut waiting = self.waiting.lock().expect("no thread panics");
            waiting.1 += found.len();
            waiting.1 -= 1;
            waiting.0.extend(found);
            self.changed.notify_all();
        }
    }

    /// Describes every name of a directory; those that are directories.
    fn list(&self, path: &Path) -> rustix::io::Result<Vec<PathBuf>> {
        let fd = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name: CString = entry.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statx(fd.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
            self.entries.fetch_add(1, Ordering::Relaxed);
            if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                found.push(path.join(name.to_string_lossy().as_ref()));
            }
        }
        Ok(found)
    }
}
