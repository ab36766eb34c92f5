//! A job as a process of its own, which goes on when the view ends.
//!
//! ```text
//!   this process --spawn--> the same program, without -tui, in a session of its own (no terminal, no hang-up)
//!                             stdout -> `summary`, stderr -> `log`: files without a name at first
//!   the job answers            -> they get their names in the job's folder
//!   the job is refused         -> they are shown and go, and nothing was touched
//! ```
//! The program makes the session itself, at its start: nothing that may be done between fork and exec is needed.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::process::{Pid, Signal};

use super::model::End;
use crate::error::{Errno, Error, Result};

/// Tells the started process to leave the session. Not an option: it means nothing to a user.
const VARIABLE: &str = "GFAST_DETACHED";
/// What the job says while it runs, in its folder.
const LOG: &str = "log";
/// What it says at its end.
const SUMMARY: &str = "summary";
/// Most bytes of either that are shown, from its end.
const SHOWN_BYTES_MAX: u64 = 64 << 10;

/// A started job.
pub(super) struct Detached {
    /// The process.
    child: Child,
    /// Its stderr.
    log: File,
    /// Its stdout.
    summary: File,
}

/// Leaves the terminal's session, in a process that was started to do so. To be called before anything else.
pub fn leave_session() {
    if std::env::var_os(VARIABLE).is_some() {
        // A process that leads its group cannot, and was not started from here.
        let _ = rustix::process::setsid();
    }
}

impl Detached {
    /// Starts `command`, program name first.
    pub fn start(command: &[OsString], state_dir: &Path) -> Result<Detached> {
        let place = existing(state_dir);
        let (log, summary) = (unnamed(&place)?, unnamed(&place)?);
        let handed = |file: &File| file.try_clone().map(Stdio::from);
        let failed = |error: std::io::Error| Error::refused("job", format!("it cannot be started: {error}"));
        // The name that `ps` shows is the program's, not the link's.
        let program = std::env::current_exe().ok().filter(|path| path.exists());
        let mut started = Command::new(program.unwrap_or_else(|| PathBuf::from("/proc/self/exe")));
        if let Some((name, words)) = command.split_first() {
            started.arg0(name).args(words);
        }
        started.env(VARIABLE, "1").stdin(Stdio::null());
        started.stdout(handed(&summary).map_err(failed)?).stderr(handed(&log).map_err(failed)?);
        let child = started.spawn().map_err(failed)?;
        Ok(Detached { child, log, summary })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn end(&mut self) -> Result<Option<End>> {
        let status = self.child.try_wait();
        let status = status.map_err(|error| Error::refused("job", format!("it cannot be waited for: {error}")))?;
        Ok(status.map(|status| match (status.code(), status.signal()) {
            (Some(code), _) => End::Code(code),
            (None, Some(signal)) => End::Signal(signal),
            (None, None) => End::Unknown,
        }))
    }

    /// Asks it to stop, as Ctrl-C would.
    pub fn interrupt(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, Signal::INT);
        }
    }

    /// Gives the log and the summary their names in the job's folder, over those of the run before.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        for (file, name) in [(&self.log, LOG), (&self.summary, SUMMARY)] {
            let (fresh, path) = (folder.join(format!("{name}.new")), folder.join(name));
            let failed = |errno| Error::os("keep", path.as_os_str().as_encoded_bytes(), errno);
            let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
            // Left by a view that was killed between the two.
            let _ = rustix::fs::unlink(&fresh);
            rustix::fs::linkat(CWD, unnamed, CWD, &fresh, AtFlags::SYMLINK_FOLLOW).map_err(failed)?;
            rustix::fs::rename(&fresh, &path).map_err(failed)?;
        }
        Ok(())
    }

    /// The end of what it logged.
    pub fn log(&self) -> Vec<u8> {
        tail(&self.log)
    }

    /// The end of what it wrote to stdout.
    pub fn summary(&self) -> Vec<u8> {
        tail(&self.summary)
    }
}

/// The nearest directory above `path`, or itself, that is there: what is made below it is on its file system.
fn existing(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    whole.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// A file without a name, appended to by whoever writes.
fn unnamed(place: &Path) -> Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    let opened = rustix::fs::open(place, flags, Mode::RUSR | Mode::WUSR);
    opened.map(File::from).map_err(|errno| match errno {
        Errno::OPNOTSUPP | Errno::ISDIR => Error::refused(
            place.as_os_str().as_encoded_bytes(),
            "its file system has no unnamed files for the log; run without -tui, then attach with gfast tui",
        ),
        errno => Error::os("make the log in", place.as_os_str().as_encoded_bytes(), errno),
    })
}

/// The last lines of a file. One that cannot be read is shown as empty. The job's position in the file is left alone.
fn tail(file: &File) -> Vec<u8> {
    let len = file.metadata().map_or(0, |metadata| metadata.len());
    let from = len.saturating_sub(SHOWN_BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len - from).unwrap_or(0)];
    if file.read_exact_at(&mut bytes, from).is_err() {
        return Vec::new();
    }
    let first = bytes.iter().position(|&byte| byte == b'\n').filter(|_| from > 0);
    bytes.split_off(first.map_or(0, |at| at + 1))
}
