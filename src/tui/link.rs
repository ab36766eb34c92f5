//! The line to a running job: its control socket, and a thread that asks for the job's state and hands over requests.
//!
//! ```text
//!   keys --requests (bounded)--> thread --one line--> socket `control` in the job's folder
//!   screen <---news (bounded)--- thread <--one line of JSON--
//! ```
//! A job that is slow to answer keeps only the thread waiting, never the keys.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::control::status::{Answer, Status};
use crate::error::{Errno, Error, Result, escape};

/// Name of the socket in a job's folder.
const SOCKET: &str = "control";
/// Time between two looks at the job.
const INTERVAL: Duration = Duration::from_millis(500);
/// Longest time an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Longest answer: 256 objects with paths of any length, and errors.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Requests and news that may wait.
const WAITING_MAX: usize = 16;

/// A running job.
#[derive(Debug)]
pub(super) struct Found {
    /// Its folder.
    pub folder: PathBuf,
    /// The same, open: paths to sockets hold 108 bytes only.
    dir: File,
    /// What it said first.
    pub status: Status,
}

/// Which job is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted<'a> {
    /// The one of this process.
    Process(u32),
    /// The one with this destination.
    Dest(&'a Path),
    /// The only one.
    Any,
}

/// What the thread has heard.
#[derive(Debug)]
pub(super) enum News {
    /// The job's state.
    Status(Box<Status>),
    /// What it says to a request.
    Answer(Answer),
    /// It did not answer, and why.
    Silent(String),
    /// Nobody listens any more.
    Gone,
}

/// Why there is no answer.
enum Trouble {
    /// Nobody listens.
    Gone,
    /// Somebody does, and says nothing that can be understood.
    Silent(String),
}

/// The thread's two ends.
pub(super) struct Link {
    /// To the job.
    requests: SyncSender<String>,
    /// From it.
    pub news: Receiver<News>,
}

/// The job that is wanted, if it runs. Several that fit are refused, and named.
pub(super) fn find(state_dir: &Path, wanted: Wanted<'_>) -> Result<Option<Found>> {
    let object = state_dir.as_os_str().as_encoded_bytes();
    let listed = match fs::read_dir(state_dir) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::os("list", object, Errno::from_io_error(&error).unwrap_or(Errno::IO))),
    };
    let mut running = Vec::new();
    for entry in listed.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"job-") {
            match call(entry.path()) {
                Ok(found) => running.push(found),
                Err(Trouble::Gone) => {}
                Err(Trouble::Silent(why)) if matches!(wanted, Wanted::Any) => {
                    return Err(Error::refused(entry.path().as_os_str().as_encoded_bytes(), why));
                }
                Err(Trouble::Silent(_)) => {}
            }
        }
    }
    running.sort_by(|a, b| a.folder.cmp(&b.folder));
    let all: Vec<String> = running.iter().map(|job| format!("{} -> {}", job.status.source, job.status.dest)).collect();
    running.retain(|job| wanted.is(&job.status));
    match running.len() {
        0 | 1 => Ok(running.pop()),
        _ => Err(Error::refused(
            object,
            format!("several jobs are running there (choose by --dest): {}", all.join("; ")),
        )),
    }
}

impl Wanted<'_> {
    /// Whether a job that says this of itself is it. A destination is known by the name the job gives it.
    fn is(self, status: &Status) -> bool {
        match self {
            Wanted::Process(pid) => status.pid == pid,
            Wanted::Dest(dest) => {
                let canonical = fs::canonicalize(dest).unwrap_or_else(|_| dest.to_owned());
                [dest, &canonical].iter().any(|dest| escape(dest.as_os_str().as_encoded_bytes()) == status.dest)
            }
            Wanted::Any => true,
        }
    }
}

/// Asks the job of a folder what it does.
fn call(folder: PathBuf) -> std::result::Result<Found, Trouble> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let dir = File::options().read(true).custom_flags(flags).open(&folder).map_err(|error| trouble(&error))?;
    let status = state(&dir)?;
    Ok(Found { folder, dir, status })
}

fn state(dir: &File) -> std::result::Result<Status, Trouble> {
    read_as(&ask(dir, "status")?)
}

fn read_as<T: serde::de::DeserializeOwned>(line: &[u8]) -> std::result::Result<T, Trouble> {
    serde_json::from_slice(line).map_err(|error| Trouble::Silent(format!("its answer cannot be read: {error}")))
}

/// One line there, one line back.
fn ask(dir: &File, line: &str) -> std::result::Result<Vec<u8>, Trouble> {
    let answer = || {
        let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        read_line(&mut stream)
    };
    let answer: std::io::Result<Vec<u8>> = answer();
    answer.map_err(|error| trouble(&error))
}

/// Up to the end of the line, or of the stream.
fn read_line(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 1 << 16];
    let mut stream = stream.take(ANSWER_BYTES_MAX);
    loop {
        let len = stream.read(&mut chunk)?;
        line.extend_from_slice(&chunk[..len]);
        if len == 0 || chunk[..len].contains(&b'\n') {
            return Ok(line);
        }
    }
}

fn trouble(error: &std::io::Error) -> Trouble {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => Trouble::Gone,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Trouble::Silent(format!("for {} s", ANSWER_TIME_MAX.as_secs())),
        _ => Trouble::Silent(error.to_string()),
    }
}

impl Link {
    /// Begins to listen to a job.
    pub fn new(job: Found) -> Result<Link> {
        let (requests, asked) = sync_channel(WAITING_MAX);
        let (told, news) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("link".to_owned());
        let spawned = thread.spawn(move || listen(&job, &asked, &told));
        spawned.map_err(|error| Error::refused("threads", format!("cannot be started: {error}")))?;
        Ok(Link { requests, news })
    }

    /// Hands a request over. False: too many wait already.
    pub fn send(&self, request: &str) -> bool {
        !matches!(self.requests.try_send(request.to_owned()), Err(TrySendError::Full(_)))
    }
}

/// The thread: ends with the job, or with the view.
fn listen(job: &Found, asked: &Receiver<String>, told: &SyncSender<News>) {
    loop {
        let request = match asked.recv_timeout(INTERVAL) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if let Some(request) = request {
            let answer = ask(&job.dir, &request).and_then(|line| read_as(&line));
            if told.send(answer.map_or_else(News::of, News::Answer)).is_err() {
                return;
            }
        }
        let news = match state(&job.dir) {
            // Another process runs the job now: this one has ended.
            Ok(status) if status.pid != job.status.pid => News::Gone,
            Ok(status) => News::Status(Box::new(status)),
            Err(trouble) => News::of(trouble),
        };
        let is_gone = matches!(news, News::Gone);
        if told.send(news).is_err() || is_gone {
            return;
        }
    }
}

impl News {
    fn of(trouble: Trouble) -> News {
        match trouble {
            Trouble::Gone => News::Gone,
            Trouble::Silent(why) => News::Silent(why),
        }
    }
}
