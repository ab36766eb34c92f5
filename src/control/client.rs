//! The other end of the control socket: what `gfast ctl` and the terminal interface ask a running job with.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::server::path_in;
use super::status::{Answer, Status};
use crate::catalog::Catalog;
use crate::error::{Error, Result};

/// Longest time an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest answer: a status of many objects with long paths.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// A connection to a running job.
#[derive(Debug)]
pub struct Client {
    /// The connection.
    stream: BufReader<UnixStream>,
    /// The job's folder, for messages.
    folder: PathBuf,
}

impl Client {
    /// Connects to the job of `state_dir` with this destination, or to the only one there. Refused: there is no such
    /// job, there are several, or it does not run.
    pub fn connect(state_dir: &Path, dest: Option<&Path>) -> Result<Client> {
        // The catalog knows canonical paths; one that is not there any more, or a bucket, is taken as it was typed.
        let dest = dest.map(|dest| std::fs::canonicalize(dest).unwrap_or_else(|_| dest.to_owned()));
        let dest = dest.as_deref().map(|dest| dest.as_os_str().as_encoded_bytes());
        let folder = Catalog::recorded_folder(state_dir, dest)?;
        let client = Client::open(&folder)?;
        client.ok_or_else(|| Error::refused(folder.as_os_str().as_encoded_bytes(), "this job is not running"))
    }

    /// Connects to the job of a folder. `None`: it does not run.
    pub fn open(folder: &Path) -> Result<Option<Client>> {
        let refused = |why: String| Error::refused(folder.as_os_str().as_encoded_bytes(), why);
        let opened = File::open(folder).map_err(|error| refused(format!("it cannot be opened: {error}")))?;
        let stream = match UnixStream::connect(path_in(&opened)) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(refused(format!("its control socket cannot be reached: {error}"))),
        };
        let timeouts = stream.set_read_timeout(Some(ANSWER_TIME_MAX));
        let timeouts = timeouts.and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME_MAX)));
        timeouts.map_err(|error| refused(format!("its control socket cannot be used: {error}")))?;
        Ok(Some(Client { stream: BufReader::new(stream), folder: folder.to_owned() }))
    }

    /// Sends one line and waits for the answer, one line too.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        let refused = |why: String| Error::refused(self.folder.as_os_str().as_encoded_bytes(), why);
        let mut answer = Vec::new();
        let asked = self.stream.get_mut().write_all(format!("{line}\n").as_bytes());
        let read = asked.and_then(|()| (&mut self.stream).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut answer));
        match read {
            Ok(_) if answer.ends_with(b"\n") => {}
            Ok(_) => return Err(refused("the job has ended".to_owned())),
            Err(error) => return Err(refused(format!("the job does not answer: {error}"))),
        }
        answer.pop();
        String::from_utf8(answer).map_err(|_| refused("the job's answer is not UTF-8".to_owned()))
    }

    /// Tells the job something.
    pub fn tell(&mut self, command: &str) -> Result<Answer> {
        self.ask(command).and_then(|answer| self.read(&answer))
    }

    /// Asks how it stands.
    pub fn status(&mut self) -> Result<Status> {
        self.ask("status").and_then(|answer| self.read(&answer))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, answer: &str) -> Result<T> {
        serde_json::from_str(answer).map_err(|error| {
            let folder = self.folder.as_os_str().as_encoded_bytes();
            Error::refused(folder, format!("the job's answer is not understood: {error}"))
        })
    }
}
