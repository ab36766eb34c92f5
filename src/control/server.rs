//! The control socket of a running job: several clients at once, one line in, one line of JSON out.
//!
//! One thread, which never waits for a client: what a client does not send or read in time is its own loss. All is
//! bounded (I4): clients, the length of a line, and one answer for each client at a time.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::SOCKET;
use super::command::{self, Command};
use super::desk::Desk;
use super::status::Answer;

/// Most clients at a time; one more takes the place of the one that was quiet for longest.
const CLIENTS_MAX: usize = 16;
/// Longest line of a request.
const LINE_BYTES_MAX: usize = 4096;
/// Longest time a status waits for the threads to tell what they have open.
const WATCH_TIME_MAX: Duration = Duration::from_millis(200);
/// Longest time a client may leave its answer unread.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Time between two looks at the clock: rates are taken over seconds.
const TICK: Duration = Duration::from_secs(1);
/// Time between two looks at the threads' answers.
const WATCH_TICK: Duration = Duration::from_millis(5);

/// The socket of a job, bound; its file goes when this does.
pub(crate) struct Socket {
    /// Where clients come in.
    listener: UnixListener,
    /// The socket's file, by the job's open folder: a path of a socket holds 108 bytes.
    path: PathBuf,
    /// The job's folder.
    _folder: File,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What stays behind is replaced by the next run.
        let _ = fs::remove_file(&self.path);
    }
}

/// The socket's path by way of an open folder.
pub(super) fn path_in(folder: &File) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(SOCKET)
}

/// Binds the socket in a job's folder, which this process has locked: whatever is there is left from a dead one.
pub(crate) fn listen(folder: &Path) -> io::Result<Socket> {
    let folder = File::open(folder)?;
    let path = path_in(&folder);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let socket = Socket { listener, path, _folder: folder };
    // The folder is 0700: nobody else comes here in between.
    fs::set_permissions(&socket.path, Permissions::from_mode(0o600))?;
    socket.listener.set_nonblocking(true)?;
    Ok(socket)
}

/// Serves clients until the other end of `end` is closed.
pub(crate) fn serve(desk: &Desk, socket: Socket, end: &PipeReader) {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let is_asked = clients.iter().any(|client| client.question.is_some());
        let timeout = if is_asked { WATCH_TICK } else { TICK };
        match wait(&socket, &clients, end, timeout) {
            Ok(Ready::Ended) => return,
            Ok(Ready::News(is_new)) => {
                if is_new {
                    accept(&socket, &mut clients);
                }
            }
            // A call that fails for want of memory may succeed later; the job does not depend on it.
            Err(_) => std::thread::sleep(WATCH_TICK),
        }
        let now = Instant::now();
        desk.tick(now);
        clients.retain_mut(|client| client.turn(desk, now) == Turn::Stays);
    }
}

/// What a wait came to.
enum Ready {
    /// The job is over.
    Ended,
    /// There may be news; true if somebody wants to come in.
    News(bool),
}

fn wait(socket: &Socket, clients: &[Client], end: &PipeReader, timeout: Duration) -> io::Result<Ready> {
    let mut fds = Vec::with_capacity(clients.len() + 2);
    fds.push(PollFd::new(end, PollFlags::IN));
    fds.push(PollFd::new(&socket.listener, PollFlags::IN));
    fds.extend(clients.iter().map(|client| PollFd::from_borrowed_fd(client.stream.as_fd(), client.interest())));
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(match fds[0].revents().is_empty() {
        true => Ready::News(!fds[1].revents().is_empty()),
        false => Ready::Ended,
    })
}

/// Lets in who wants to. Ends: nobody can come faster than for ever, and one call takes as many as there is room for.
fn accept(socket: &Socket, clients: &mut Vec<Client>) {
    for _ in 0..CLIENTS_MAX {
        let Ok((stream, _)) = socket.listener.accept() else { return };
        if stream.set_nonblocking(true).is_err() {
            continue;
        }
        if clients.len() == CLIENTS_MAX {
            let quietest = (0..clients.len()).min_by_key(|index| clients[*index].heard);
            quietest.map(|index| clients.swap_remove(index));
        }
        clients.push(Client::new(stream));
    }
}

/// Whether a client stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It does.
    Stays,
    /// It has gone, or is sent away.
    Leaves,
}

/// One client.
struct Client {
    /// Its connection.
    stream: UnixStream,
    /// What it sent and was not answered yet.
    inbox: Vec<u8>,
    /// What it has not read yet.
    outbox: Vec<u8>,
    /// The question the threads were asked for its sake, and when.
    question: Option<(u64, Instant)>,
    /// When it last sent or took anything.
    heard: Instant,
    /// Whether nothing more comes from it.
    is_closed: bool,
}

impl Client {
    fn new(stream: UnixStream) -> Client {
        let (inbox, outbox, heard) = (Vec::new(), Vec::new(), Instant::now());
        Client { stream, inbox, outbox, question: None, heard, is_closed: false }
    }

    /// What to wait for: first the answer goes out, then the next request comes in.
    fn interest(&self) -> PollFlags {
        match (self.outbox.is_empty(), self.question) {
            (false, _) => PollFlags::OUT,
            (true, Some(_)) => PollFlags::empty(),
            (true, None) => PollFlags::IN,
        }
    }

    fn turn(&mut self, desk: &Desk, now: Instant) -> Turn {
        if self.question.is_none() && self.outbox.is_empty() && self.read(now).is_err() {
            return Turn::Leaves;
        }
        // Ends: every turn but the last takes a line out of a bounded inbox.
        loop {
            self.answer(desk, now);
            if self.write(now).is_err() {
                return Turn::Leaves;
            }
            if !self.may_answer() {
                break;
            }
        }
        let is_unread = !self.outbox.is_empty() && now.duration_since(self.heard) > UNREAD_TIME_MAX;
        let is_done = self.is_closed && self.outbox.is_empty() && self.question.is_none();
        if is_unread || is_done { Turn::Leaves } else { Turn::Stays }
    }

    /// Whether a request waits, and nothing else.
    fn may_answer(&self) -> bool {
        self.outbox.is_empty() && self.question.is_none() && self.inbox.contains(&b'\n')
    }

    /// Takes in what is there, up to one line's length. Ends: at that, or when nothing is there now.
    fn read(&mut self, now: Instant) -> io::Result<()> {
        let mut bytes = [0; LINE_BYTES_MAX];
        while !self.is_closed && self.inbox.len() <= LINE_BYTES_MAX {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.is_closed = true,
                Ok(read) => {
                    self.heard = now;
                    self.inbox.extend_from_slice(&bytes[..read]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Answers one request at a time; the next one waits until the answer is read. Ends: every turn but the last takes
    /// a line.
    fn answer(&mut self, desk: &Desk, now: Instant) {
        if let Some((question, asked)) = self.question {
            if !desk.is_answered(question) && now.duration_since(asked) < WATCH_TIME_MAX {
                return;
            }
            self.question = None;
            self.send(&desk.status(now));
        }
        while self.outbox.is_empty() && self.question.is_none() {
            let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') else {
                if self.inbox.len() > LINE_BYTES_MAX {
                    self.refuse("the line is too long");
                    (self.is_closed, self.inbox) = (true, Vec::new());
                }
                return;
            };
            let line: Vec<u8> = self.inbox.drain(..=end).collect();
            match std::str::from_utf8(&line)
                .map_err(|_| "not understood: it is not UTF-8".to_owned())
                .and_then(command::parse)
            {
                Ok(Command::Status) => self.question = Some((desk.ask(), now)),
                Ok(command) => {
                    let answer = desk.perform(command);
                    self.send(&answer);
                }
                Err(why) => self.refuse(&why),
            }
        }
    }

    fn refuse(&mut self, why: &str) {
        self.send(&Answer { ok: false, line: why.to_owned() });
    }

    fn send(&mut self, answer: &impl serde::Serialize) {
        // Plain data: there is nothing in it that JSON cannot say.
        if let Ok(text) = serde_json::to_vec(answer) {
            self.outbox.extend_from_slice(&text);
            self.outbox.push(b'\n');
        }
    }

    /// Sends what the client takes now. Ends: every turn sends something.
    fn write(&mut self, now: Instant) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.heard = now;
                    self.outbox.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
