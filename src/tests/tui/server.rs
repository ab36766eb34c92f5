//! A job as its view sees it: a control socket that answers with a recorded state and keeps what it is asked.

use std::io::{BufRead, BufReader, Write};
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
}

/// A job that does nothing else. Ends when dropped.
pub struct Server {
    /// Holds the state directory.
    _scratch: Scratch,
    /// The state directory.
    pub state: PathBuf,
    socket: PathBuf,
    told: Arc<Mutex<Told>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A job in this state.
    pub fn new(status: Status) -> Server {
        let scratch = Scratch::new();
        let state = scratch.path().join("state");
        let folder = state.join("job-0123456789abcdef");
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("control");
        let listener = UnixListener::bind(&socket).unwrap();
        let told = Arc::new(Mutex::new(Told { status, requests: Vec::new() }));
        let answering = told.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !answer(stream.unwrap(), &answering) {
                    return;
                }
            }
        });
        Server { _scratch: scratch, state, socket, told, thread: Some(thread) }
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
            let _ = UnixStream::connect(&self.socket).unwrap().write_all(b"end of the test\n");
            thread.join().unwrap();
            std::fs::remove_file(&self.socket).unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// One connection, one request. False: the end.
fn answer(stream: UnixStream, told: &Mutex<Told>) -> bool {
    let mut request = String::new();
    BufReader::new(&stream).read_line(&mut request).unwrap();
    let told = &mut *told.lock().unwrap();
    let status = &mut told.status;
    let request = request.trim_end();
    let line = match request {
        "end of the test" => return false,
        "status" => serde_json::to_string(status).unwrap(),
        request => {
            told.requests.push(request.to_owned());
            if let Some(step) = request.strip_prefix("streams=").and_then(|step| step.parse::<i32>().ok()) {
                status.streams.limit = status.streams.limit.checked_add_signed(step).unwrap();
            }
            serde_json::to_string(&Answer { ok: true, line: format!("done: {request}") }).unwrap()
        }
    };
    // A view that was killed reads no more.
    let _ = (&stream).write_all(format!("{line}\n").as_bytes());
    true
}
