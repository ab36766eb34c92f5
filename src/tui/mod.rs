//! The full-screen view of a running job: a client of its control socket like any other.
//!
//! ```text
//!   gfast tui      finds the job in the state directory and shows it
//!   gfast .. -tui  starts the job as a process of its own (detached.rs) and shows it
//!
//!   link.rs --state, answers--> model.rs --> screen.rs, popup.rs --> terminal.rs
//!      ^------- requests -------- keys <------------------------------'
//! ```
//! The job never depends on its view: leaving, killing or breaking the view leaves the job running. `model`, `screen`
//! and `popup` are pure.

mod detached;
mod link;
mod model;
mod popup;
mod screen;
mod terminal;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::detached::Detached;
use self::link::{Found, Link, News, Wanted};
use crate::error::{Error, Result};
use crate::report::shell_command;
use crate::stop::Stop;

pub use self::detached::leave_session;
pub use self::model::{Action, End, HISTORY_MAX, History, Key, Model, Notice, Open, Pane, printable};
pub use self::screen::{Palette, draw};
pub use self::terminal::is_there;

/// Longest time without a look at the job's news.
const TICK: Duration = Duration::from_millis(100);
/// Time between two looks for a job that is being started.
const START_TICK: Duration = Duration::from_millis(50);
/// Lines of the log that are shown at the end.
const LOG_LINES_MAX: usize = 20;
/// How progress lines begin; at the end nobody wants them.
const PROGRESS: &[u8] = b"[walk ";

/// A view of a job that runs already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where the job's state is kept.
    pub state_dir: PathBuf,
    /// Which job, where there are several: by its destination.
    pub dest: Option<PathBuf>,
}

/// How a view ended.
enum Left {
    /// After its job.
    Ended(End),
    /// Before it.
    Running,
}

/// Shows a running job until either ends; the exit code.
pub fn attach(request: &Request) -> Result<u8> {
    if !is_there() {
        return Err(Error::usage("tui needs a terminal; gfast ctl -state-dir DIR status tells the state in lines"));
    }
    let wanted = request.dest.as_deref().map_or(Wanted::Any, Wanted::Dest);
    let Some(job) = link::find(&request.state_dir, wanted)? else {
        let object = request.state_dir.as_os_str().as_encoded_bytes();
        return Err(Error::refused(object, "no such job is running there"));
    };
    let parting = parting(job.status.pid, &request.state_dir);
    let line = match show(job, None, &parting)? {
        Left::Running => parting,
        Left::Ended(_) => {
            let command = command("report", &request.state_dir);
            format!("gfast: the job has ended; {command} tells what it did\n")
        }
    };
    say(line.as_bytes());
    Ok(0)
}

/// Starts `command` as a job of its own and shows it until either ends; the exit code, which is the job's if it ended.
pub fn start(command: &[OsString], state_dir: &Path, stop: &Stop) -> Result<u8> {
    let mut job = Detached::start(command, state_dir)?;
    let found = match wait_for(&mut job, state_dir, stop)? {
        Ok(found) => found,
        Err(end) => return Ok(conclude(&job, end)),
    };
    let parting = parting(job.pid(), state_dir);
    match show(found, Some(&mut job), &parting)? {
        Left::Ended(end) => Ok(conclude(&job, end)),
        Left::Running => {
            say(parting.as_bytes());
            Ok(0)
        }
    }
}

/// Waits until the job answers, or ends. A stop is handed on; then there is only the end to wait for.
fn wait_for(job: &mut Detached, state_dir: &Path, stop: &Stop) -> Result<std::result::Result<Found, End>> {
    let mut is_stopping = false;
    loop {
        if let Some(end) = job.end()? {
            return Ok(Err(end));
        }
        if stop.is_requested() && !is_stopping {
            job.interrupt();
            is_stopping = true;
        }
        // What cannot be looked into is the job's to refuse.
        if let (false, Ok(Some(found))) = (is_stopping, link::find(state_dir, Wanted::Process(job.pid()))) {
            return Ok(Ok(found));
        }
        std::thread::sleep(START_TICK);
    }
}

/// Shows a job on the terminal, and gives the terminal back.
fn show(found: Found, job: Option<&mut Detached>, parting: &str) -> Result<Left> {
    let mut model = Model::new(found.status.clone());
    if let Some(Err(error)) = job.as_ref().map(|job| job.keep(&found.folder)) {
        model.notice = Some(Notice { text: printable(&error.to_string()), is_refusal: true });
    }
    let link = Link::new(found)?;
    let mut screen = terminal::enter(parting)?;
    let left = watch(&mut screen, &mut model, &link, job, parting);
    terminal::restore();
    left
}

/// The loop of a view: news and keys into the model, the model onto the screen.
fn watch(
    screen: &mut terminal::Screen,
    model: &mut Model,
    link: &Link,
    mut job: Option<&mut Detached>,
    parting: &str,
) -> Result<Left> {
    let palette = Palette::of_environment();
    let mut is_changed = true;
    loop {
        is_changed |= hear(model, link, job.as_deref_mut())?;
        if terminal::was_resized() {
            screen.clear().map_err(terminal::failed)?;
            is_changed = true;
        }
        if is_changed {
            screen.draw(|frame| draw(frame, model, palette)).map_err(terminal::failed)?;
            is_changed = false;
            break_if_asked();
        }
        if let (true, Some(end)) = (model.is_over(), model.end) {
            return Ok(Left::Ended(end));
        }
        let Some(keys) = terminal::read_keys(TICK)? else {
            return Ok(model.end.map_or(Left::Running, Left::Ended));
        };
        for key in keys {
            is_changed = true;
            match model.key(key) {
                None => {}
                Some(Action::Leave) => return Ok(model.end.map_or(Left::Running, Left::Ended)),
                Some(Action::Send(request)) if link.send(&request) => {}
                Some(Action::Send(_)) => model.silence("too many requests wait already"),
                Some(Action::Suspend) => {
                    terminal::suspend();
                    *screen = terminal::enter(parting)?;
                }
            }
        }
    }
}

/// Takes in what has come since the last look. True: something has.
fn hear(model: &mut Model, link: &Link, job: Option<&mut Detached>) -> Result<bool> {
    if model.end.is_some() {
        return Ok(false);
    }
    let mut is_news = false;
    let is_ours = job.is_some();
    for news in link.news.try_iter() {
        is_news = true;
        match news {
            News::Status(status) => model.update(*status),
            News::Answer(answer) => model.answer(&answer),
            News::Silent(why) => model.silence(&why),
            // One's own child says more by its exit.
            News::Gone if is_ours => {}
            News::Gone => model.end(End::Unknown, ""),
        }
    }
    if let Some(job) = job
        && let Some(end) = job.end()?
    {
        model.end(end, &String::from_utf8_lossy(&job.summary()));
        is_news = true;
    }
    Ok(is_news)
}

/// Shows what the job left: its last messages on stderr, its summary on stdout.
fn conclude(job: &Detached, end: End) -> u8 {
    let log = job.log();
    let lines: Vec<&[u8]> = log.split_inclusive(|&byte| byte == b'\n').collect();
    let lines: Vec<&[u8]> = lines.into_iter().filter(|line| !line.starts_with(PROGRESS)).collect();
    say(&lines[lines.len().saturating_sub(LOG_LINES_MAX)..].concat());
    // A reader that has gone wanted no more of it.
    let _ = std::io::stdout().write_all(&job.summary()).and_then(|()| std::io::stdout().flush());
    match end {
        End::Code(code) => u8::try_from(code).unwrap_or(u8::MAX),
        End::Signal(signal) => {
            say(format!("gfast: the job was ended by signal {signal}; it is resumable\n").as_bytes());
            // As shells have it.
            u8::try_from(128 + signal).unwrap_or(u8::MAX)
        }
        End::Unknown => 0,
    }
}

/// What is said when a view ends before its job.
fn parting(pid: u32, state_dir: &Path) -> String {
    format!("gfast: the job goes on as process {pid}; see it again with: {}\n", command("tui", state_dir))
}

/// A subcommand on this state directory, to be typed.
fn command(name: &str, state_dir: &Path) -> String {
    shell_command(&["gfast".into(), name.into(), "-state-dir".into(), state_dir.into()])
}

fn say(text: &[u8]) {
    // Nobody is left to be told if stderr is gone.
    let _ = std::io::stderr().write_all(text);
}

/// Breaks the view where a test wants to see what becomes of the terminal. Not in a release.
fn break_if_asked() {
    if cfg!(debug_assertions) && std::env::var_os("GFAST_TUI_BREAK").is_some() {
        std::panic::panic_any("broken as asked");
    }
}
