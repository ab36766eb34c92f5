//! The terminal: taken over, given back whatever happens, and its keys.
//!
//! ```text
//!   enter:   settings saved -> raw mode -> alternate screen, no cursor
//!   restore: cursor, main screen -> settings as they were
//! ```
//! [`restore`] may be called from anywhere and more than once: on leaving, by the panic hook, and by the thread that
//! waits for signals. It writes past every buffer and takes no lock that a thread could hold while it writes.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::model::Key;
use crate::error::{Error, Result};
use crate::report::ExitCode;

/// A screen that is written in one piece.
pub(super) type Screen = Terminal<CrosstermBackend<BufWriter<File>>>;

/// Alternate screen, no cursor (xterm's private modes).
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
/// The reverse.
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";
/// Bytes of a frame of the largest screens.
const FRAME_BYTES: usize = 1 << 18;

/// The settings to go back to; none while the terminal is its owner's.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raised when the window changes its size.
static RESIZED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whether a full screen can be shown and keys can be read.
pub fn is_there() -> bool {
    use std::io::IsTerminal;
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

/// Takes the terminal over. `parting` is said on stderr when a signal ends the view.
pub(super) fn enter(parting: &str) -> Result<Screen> {
    static GUARDED: Once = Once::new();
    let mut guarded = Ok(());
    GUARDED.call_once(|| guarded = guard(parting.to_owned()));
    guarded?;
    take_over().inspect_err(|_| restore()).map_err(failed)
}

fn take_over() -> io::Result<Screen> {
    let settings = rustix::termios::tcgetattr(io::stdin())?;
    let mut raw = settings.clone();
    raw.make_raw();
    *SAVED.lock() = Some(settings);
    rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
    rustix::io::write(io::stdout(), ENTER)?;
    let tty = io::stdout().as_fd().try_clone_to_owned()?;
    let backend = CrosstermBackend::new(BufWriter::with_capacity(FRAME_BYTES, File::from(tty)));
    let mut screen = Terminal::new(backend)?;
    screen.clear()?;
    Ok(screen)
}

/// Gives the terminal back, if it was taken.
pub(super) fn restore() {
    let saved = SAVED.lock().take();
    if let Some(settings) = saved {
        // A terminal that is gone cannot be restored, and needs not be.
        let _ = rustix::io::write(io::stdout(), LEAVE);
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &settings);
    }
}

/// What a terminal error means: the view is over, the job is not.
pub(super) fn failed(error: io::Error) -> Error {
    Error::refused("terminal", format!("it cannot be used: {error}"))
}

/// Sees to it that neither a panic nor a signal leaves the terminal behind as nobody can use it.
fn guard(parting: String) -> Result<()> {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
    let refused = |error: io::Error| Error::refused("signals", format!("cannot be handled: {error}"));
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(refused)?;
    let resized = RESIZED.get_or_init(Arc::default).clone();
    signal_hook::flag::register(SIGWINCH, resized).map_err(refused)?;
    let thread = std::thread::Builder::new().name("signals".to_owned());
    let waiting = move || {
        if signals.forever().next().is_some() {
            restore();
            // Past std's lock, which the main thread may hold for ever if the terminal takes nothing.
            let _ = rustix::io::write(io::stderr(), parting.as_bytes());
            std::process::exit(ExitCode::Interrupted.code().into());
        }
    };
    thread.spawn(waiting).map(drop).map_err(refused)
}

/// Whether the window changed its size since the last look. What it shows is anybody's guess then, even if it has the
/// same size again.
pub(super) fn was_resized() -> bool {
    RESIZED.get().is_some_and(|resized| resized.swap(false, Ordering::Relaxed))
}

/// The keys that come within `timeout`; those of one read. `None`: there will never be another.
pub(super) fn read_keys(timeout: Duration) -> Result<Option<Vec<Key>>> {
    let stdin = io::stdin();
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    match rustix::event::poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&timeout)) {
        Ok(0) | Err(Errno::INTR) => return Ok(Some(Vec::new())),
        Ok(_) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    let mut bytes = [0; 256];
    match rustix::io::read(stdin, &mut bytes) {
        Ok(0) | Err(Errno::IO) => Ok(None),
        Ok(len) => Ok(Some(keys_of(&bytes[..len]))),
        Err(Errno::INTR | Errno::AGAIN) => Ok(Some(Vec::new())),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Bytes as keys. What terminals send for arrows, functions and pasted text outside ASCII means nothing here.
fn keys_of(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while let Some((&first, rest)) = bytes.split_first() {
        bytes = rest;
        match (first, rest.first()) {
            (0x1b, Some(b'[' | b'O')) => {
                let end = rest[1..].iter().position(|byte| (0x40..=0x7e).contains(byte));
                bytes = end.map_or(&[][..], |end| &rest[end + 2..]);
            }
            // With the Alt key.
            (0x1b, Some(_)) => bytes = &rest[1..],
            (0x1b, None) => keys.push(Key::Escape),
            (0x03, _) => keys.push(Key::Interrupt),
            (0x1a, _) => keys.push(Key::Suspend),
            (b'\r' | b'\n', _) => keys.push(Key::Enter),
            (b' '..=b'~', _) => keys.push(Key::Char(char::from(first))),
            _ => {}
        }
    }
    keys
}

/// Stops this process as a shell expects it, and comes back when it goes on.
pub(super) fn suspend() {
    restore();
    // The whole process group, as the terminal would; a shell without job control cannot be stopped so.
    let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TSTP);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_sequences() {
        let keys = keys_of(b"+\x1b[A\x1bOP\x1b[1;5D\x1bx\xc3\xa4q\x03\r\x1b");
        assert_eq!(keys, [Key::Char('+'), Key::Char('q'), Key::Interrupt, Key::Enter, Key::Escape]);
        assert_eq!(keys_of(b"\x1b[12"), []);
    }
}
