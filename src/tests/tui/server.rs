//! A job as its view sees it: a control socket that answers with a recorded state and keeps what it is asked.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use gfast::control::status::{Answer, Status};

use super::support::Scratch;

/// What the job is at the moment.
pub struct Told {
    /// Its state; a request changes it as a job's would.
    pub status: Status,
    /// Requests so far, but for `status`.
    pub requests: Vec<String>,
    /// Connections.
    streams: Vec<UnixStream>,
    /// Whether the job has ended.
    is_over: bool,
}

/// A job that does nothing else. Ends when dropped.
pub struct Server {
    /// Holds the state directory, of the first one.
    scratch: Option<Scratch>,
    /// The state directory.
    pub state: PathBuf,
    socket: PathBuf,
    told: Arc<Mutex<Told>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A job in this state, with a state directory of its own.
    pub fn new(status: Status) -> Server {
        let scratch = Scratch::new();
        let state = scratch.path().join("state");
        let mut server = Server::within(state, status);
        server.scratch = Some(scratch);
        server
    }

    /// A second job in the state directory of another.
    pub fn beside(other: &Server, status: Status) -> Server {
        Server::within(other.state.clone(), status)
    }

    fn within(state: PathBuf, status: Status) -> Server {
        let folder = state.join(format!("job-{:016x}", status.pid));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("control");
        let listener = UnixListener::bind(&socket).unwrap();
        let told = Arc::new(Mutex::new(Told { status, requests: Vec::new(), streams: Vec::new(), is_over: false }));
        let answering = told.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let mut told = answering.lock().unwrap();
                if told.is_over {
                    return;
                }
                told.streams.push(stream.try_clone().unwrap());
                let answering = answering.clone();
                std::thread::spawn(move || serve(&stream, &answering));
            }
        });
        Server { scratch: None, state, socket, told, thread: Some(thread) }
    }

    /// Changes the state.
    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.told.lock().unwrap().status);
    }

    /// Requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.told.lock().unwrap().requests.clone()
    }

    /// The job ends.
    pub fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.told.lock().unwrap().is_over = true;
            // The listener looks up, and goes.
            drop(UnixStream::connect(&self.socket));
            thread.join().unwrap();
            std::fs::remove_file(&self.socket).unwrap();
            for stream in self.told.lock().unwrap().streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// One connection, until either side ends it.
fn serve(stream: &UnixStream, told: &Mutex<Told>) {
    for request in BufReader::new(stream).lines().map_while(Result::ok) {
        let line = answer(&request, &mut told.lock().unwrap());
        // A view that was killed reads no more.
        let _ = (&mut &*stream).write_all(format!("{line}\n").as_bytes());
    }
}

fn answer(request: &str, told: &mut Told) -> String {
    let status = &mut told.status;
    if request == "status" {
        return serde_json::to_string(status).unwrap();
    }
    told.requests.push(request.to_owned());
    if let Some(step) = request.strip_prefix("streams=").and_then(|step| step.parse::<i32>().ok()) {
        status.streams.limit = status.streams.limit.checked_add_signed(step).unwrap();
    }
    serde_json::to_string(&Answer { ok: true, line: format!("done: {request}") }).unwrap()
}
