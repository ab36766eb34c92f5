//! Network file systems that this machine serves to itself: `scripts/fixtures`, kept running as long as it is needed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Scratch;
use super::fixture::skip;

/// How a folder is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// sshfs on an sshd.
    Sshfs,
    /// smbnetfs on an smbd.
    Smb,
}

/// A folder mounted over the network, unmounted when dropped.
#[derive(Debug)]
pub struct NetworkMount {
    /// Which.
    network: Network,
    /// The script, which ends with its standard input: also if the test is killed.
    script: Option<Child>,
    /// The mount point.
    point: Scratch,
    /// The folder that is served.
    folder: Scratch,
}

impl NetworkMount {
    /// An empty folder, mounted; `None`, and the test is reported as skipped, where that cannot be done.
    pub fn new(test: &str, network: Network) -> Option<NetworkMount> {
        let (point, folder) = (Scratch::new(), Scratch::new());
        let mut mount = NetworkMount { network, script: None, point, folder };
        match mount.attach() {
            Ok(()) => Some(mount),
            Err(reason) => {
                skip(test, &reason);
                None
            }
        }
    }

    fn attach(&mut self) -> Result<(), String> {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/fixtures");
        let kind = match self.network {
            Network::Sshfs => "sshfs",
            Network::Smb => "smb",
        };
        let mut command = Command::new(script);
        command.arg(kind).arg(self.folder.path()).arg(self.point.path());
        command.args(["--", "sh", "-c", "echo mounted; exec cat >/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut script = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line == "mounted\n" {
            self.script = Some(script);
            return Ok(());
        }
        let mut said = String::new();
        script.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        let status = script.wait().unwrap();
        assert_eq!(status.code(), Some(77), "{said}");
        Err(said.trim().to_owned())
    }

    fn detach(&mut self) {
        let Some(mut script) = self.script.take() else { return };
        drop(script.stdin.take());
        match script.wait() {
            Ok(status) if status.success() => {}
            ended => eprintln!("left mounted: {}: {ended:?}", self.point.path().display()),
        }
    }

    /// Unmounts it and mounts it again, with servers of their own.
    pub fn remount(&mut self) {
        self.detach();
        self.attach().unwrap();
    }

    /// Leaves the bare mount point behind.
    pub fn unmount(&mut self) {
        self.detach();
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// The folder that is served, as its server has it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for NetworkMount {
    fn drop(&mut self) {
        self.detach();
    }
}
