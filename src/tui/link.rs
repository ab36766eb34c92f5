//! The line to a running job: its control socket, and a thread that asks for the job's state and hands over requests.
//!
//! ```text
//!   keys --requests (bounded)--> thread --one line--> socket `control` in the job's folder
//!   screen <---news (bounded)--- thread <--one line of JSON--
//! ```
//! A job that is slow to answer keeps only the thread waiting, never the keys.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::control::client::Client;
use crate::control::status::{Answer, Status};
use crate::error::{Errno, Error, Result, escape};

/// Time between two looks at the job.
const INTERVAL: Duration = Duration::from_millis(500);
/// Requests and news that may wait.
const WAITING_MAX: usize = 16;

/// A running job.
#[derive(Debug)]
pub(super) struct Found {
    /// Its folder.
    pub folder: PathBuf,
    /// What it said first.
    pub status: Status,
    /// The connection; none after trouble with it.
    client: Option<Client>,
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
    let folders = listed.flatten().map(|entry| entry.path());
    let is_job = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"job-"));
    for folder in folders.filter(|folder| is_job(folder) && wanted.may_be(folder)) {
        match (Found::of(folder), wanted) {
            (Ok(found), _) => running.extend(found),
            (Err(error), Wanted::Any) => return Err(error),
            // Another one's trouble, as far as anybody can know.
            (Err(_), Wanted::Process(_) | Wanted::Dest(_)) => {}
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
    /// Whether the job of a folder can be it. Asking nobody else keeps a job that hangs from holding up another one.
    fn may_be(self, folder: &Path) -> bool {
        let Wanted::Process(pid) = self else { return true };
        let owner = fs::read_to_string(folder.join("owner")).unwrap_or_default();
        owner.lines().any(|line| line == format!("pid={pid}"))
    }

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

impl Found {
    /// The job of a folder, if it runs.
    fn of(folder: PathBuf) -> Result<Option<Found>> {
        let Some(mut client) = Client::open(&folder)? else { return Ok(None) };
        let status = client.status()?;
        Ok(Some(Found { folder, status, client: Some(client) }))
    }

    /// Asks the job something. What went wrong may have been the connection: the next question takes a new one.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Client) -> Result<T>) -> std::result::Result<T, News> {
        let silent = |error: Error| News::Silent(error.to_string());
        if self.client.is_none() {
            self.client = Client::open(&self.folder).map_err(silent)?;
        }
        let answer = question(self.client.as_mut().ok_or(News::Gone)?);
        answer.map_err(|error| {
            let reopened = Client::open(&self.folder);
            let is_gone = matches!(reopened, Ok(None));
            self.client = reopened.unwrap_or_default();
            if is_gone { News::Gone } else { silent(error) }
        })
    }
}

impl Link {
    /// Begins to listen to a job.
    pub fn new(mut job: Found) -> Result<Link> {
        let (requests, asked) = sync_channel(WAITING_MAX);
        let (told, news) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("link".to_owned());
        let spawned = thread.spawn(move || listen(&mut job, &asked, &told));
        spawned.map_err(|error| Error::refused("threads", format!("cannot be started: {error}")))?;
        Ok(Link { requests, news })
    }

    /// Hands a request over. False: too many wait already.
    pub fn send(&self, request: &str) -> bool {
        !matches!(self.requests.try_send(request.to_owned()), Err(TrySendError::Full(_)))
    }
}

/// The thread: ends with the job, or with the view.
fn listen(job: &mut Found, asked: &Receiver<String>, told: &SyncSender<News>) {
    loop {
        let request = match asked.recv_timeout(INTERVAL) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if let Some(request) = request {
            let answer = job.ask(|client| client.tell(&request));
            if told.send(answer.map_or_else(|trouble| trouble, News::Answer)).is_err() {
                return;
            }
        }
        let news = match job.ask(Client::status) {
            // Another process runs the job now: this one has ended.
            Ok(status) if status.pid != job.status.pid => News::Gone,
            Ok(status) => News::Status(Box::new(status)),
            Err(trouble) => trouble,
        };
        let is_gone = matches!(news, News::Gone);
        if told.send(news).is_err() || is_gone {
            return;
        }
    }
}
