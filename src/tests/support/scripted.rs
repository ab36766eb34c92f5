//! A server that answers what a test says: each request goes to a function, and what that returns goes on the wire.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A request as it arrived.
pub struct Asked {
    /// How many came before it.
    pub number: usize,
    /// Method and target: `GET /bucket/key?x=y`.
    pub line: String,
    /// Headers by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body, where the server read it.
    pub body: Vec<u8>,
}

/// What becomes of a request.
pub enum Reply {
    /// Status and reason, headers, body.
    Answer(&'static str, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection is cut.
    Cut,
    /// Announces so many bytes, sends these, and cuts the connection.
    Short(usize, Vec<u8>),
}

/// Decides on a request: once with an empty body as soon as the headers are there, `None` to read the body first.
type Script = dyn Fn(&Asked, bool) -> Option<Reply> + Send + Sync;

/// A running server; its threads end with the process.
pub struct Scripted {
    /// Its address for `--endpoint-url`.
    pub endpoint: String,
    /// Requests that came.
    pub count: Arc<AtomicUsize>,
    /// Set when dropped: no connection is taken any more.
    stop: Arc<AtomicBool>,
}

impl Scripted {
    /// Starts it. `script` answers with `None` to have the body read and be asked again.
    pub fn start(script: impl Fn(&Asked, bool) -> Option<Reply> + Send + Sync + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let endpoint = format!("http://{}", listener.local_addr().expect("its number"));
        let (count, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped, script): (_, _, Arc<Script>) = (count.clone(), stop.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (counter, script) = (counter.clone(), script.clone());
                std::thread::spawn(move || while serve(&socket, &counter, &*script).is_some() {});
            }
        });
        Scripted { endpoint, count, stop }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.endpoint.trim_start_matches("http://"));
    }
}

/// Answers one request; `None` when the connection is over.
fn serve(mut socket: &TcpStream, count: &AtomicUsize, script: &Script) -> Option<()> {
    let mut asked = read_head(socket)?;
    asked.number = count.fetch_add(1, Ordering::Relaxed);
    let len = asked.headers.get("content-length").map_or(0, |len| len.parse().unwrap());
    let reply = match script(&asked, false) {
        Some(reply) => reply,
        None => {
            asked.body = vec![0; len];
            socket.read_exact(&mut asked.body).ok()?;
            script(&asked, true).expect("an answer to a whole request")
        }
    };
    let is_read = asked.body.len() == len;
    match reply {
        Reply::Answer(status, headers, body) => {
            let is_head = asked.line.starts_with("HEAD ");
            write_head(socket, status, &headers, body.len())?;
            socket.write_all(if is_head { &[] } else { &body }).ok()?;
            // An answer before the end of the request ends the connection, with a reset: bytes are left unread.
            if is_read { Some(()) } else { None }
        }
        Reply::Short(announced, body) => {
            write_head(socket, "200 OK", &[("etag", "\"e\"".to_owned())], announced)?;
            socket.write_all(&body).ok()?;
            None
        }
        Reply::Cut => {
            let _ = socket.shutdown(Shutdown::Both);
            None
        }
    }
}

fn write_head(mut socket: &TcpStream, status: &str, headers: &[(&str, String)], len: usize) -> Option<()> {
    let has_length = headers.iter().any(|(name, _)| *name == "content-length");
    let mut head = format!("HTTP/1.1 {status}\r\n");
    // One without a value is left out.
    headers
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    if !has_length {
        head.push_str(&format!("content-length: {len}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).ok()
}

fn read_head(mut socket: &TcpStream) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Some(Asked { number: 0, line, headers, body: Vec::new() })
}
