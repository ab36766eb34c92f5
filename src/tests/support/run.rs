//! The binary under test as a user runs it: arguments in, exit code, output and kernel accounting out.
//!
//! `GFAST` names another binary that understands the same command line. Output goes to files, so nothing blocks on a
//! pipe; a process that is still running after [`LIMIT`] is a hang, is killed and fails the test.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};

use super::Scratch;
use super::fixture::{set_mode, skip};

/// No job of a test takes this long, not even one of a soak (the longest takes about a minute).
const LIMIT: Duration = Duration::from_secs(300);

/// Which interpreter answers the operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The ring.
    Uring,
    /// System calls.
    Sync,
    /// Whichever suits.
    Auto,
}

/// A command line.
#[derive(Clone, Debug)]
pub struct Job {
    source: PathBuf,
    dest: PathBuf,
    state: PathBuf,
    engine: Engine,
    extra: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    uid: Option<u32>,
    wrapper: Option<PathBuf>,
}

/// A job under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    output: Scratch,
    started: Instant,
    line: String,
}

/// A job that ended.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed as result.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
    /// What the kernel counted for it and all its threads.
    pub io: Io,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// The command line, for messages.
    line: String,
}

/// `/proc/PID/io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Bytes fetched from block devices, page cache misses and direct I/O alike.
    pub read_bytes: u64,
    /// Bytes sent, or to be sent, to block devices.
    pub write_bytes: u64,
}

impl Engine {
    /// The engines that can run here: the ring is left out, with a line, where the kernel or a sandbox forbids it.
    pub fn all() -> Vec<Engine> {
        match io_uring::IoUring::new(2) {
            Ok(_) => vec![Engine::Uring, Engine::Sync],
            Err(error) => {
                skip("engine uring", &error.to_string());
                vec![Engine::Sync]
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Sync => "sync",
            Engine::Auto => "auto",
        }
    }
}

/// The program under test.
fn binary() -> OsString {
    std::env::var_os("GFAST").unwrap_or_else(|| env!("CARGO_BIN_EXE_gfast").into())
}

impl Job {
    /// `gfast --source .. --dest .. --state-dir .. --json --engine ..`.
    pub fn new(source: impl Into<PathBuf>, dest: impl Into<PathBuf>, state: impl Into<PathBuf>, engine: Engine) -> Job {
        let (source, dest, state) = (source.into(), dest.into(), state.into());
        let (extra, env) = (Vec::new(), Vec::new());
        Job { source, dest, state, engine, extra, env, uid: None, wrapper: None }
    }

    /// With one more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Job {
        self.extra.push(arg.as_ref().to_owned());
        self
    }

    /// With more arguments.
    pub fn args(self, args: &[&str]) -> Job {
        args.iter().fold(self, Job::arg)
    }

    /// With a variable in its environment. The first one takes away those that AWS's tools read.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Job {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// As an unprivileged user without groups. The binary is copied to `bin`, which that user must reach.
    pub fn user(mut self, uid: u32) -> Job {
        self.uid = Some(uid);
        self
    }

    /// Run by `program`, whose arguments are the command line.
    pub fn within(mut self, program: &Path) -> Job {
        self.wrapper = Some(program.to_owned());
        self
    }

    /// Where the copy goes.
    pub fn dest(&self) -> &Path {
        &self.dest
    }

    /// Runs to the end.
    #[track_caller]
    pub fn run(&self) -> Outcome {
        self.start().wait()
    }

    /// Starts it, a tick of the kernel's clock after what the test has changed: what is younger is read again by the
    /// next pass.
    pub fn start(&self) -> Running {
        std::thread::sleep(Duration::from_millis(15));
        let output = Scratch::new();
        let mut command = self.command(output.path());
        let open = |name| File::create(output.path().join(name)).unwrap();
        command.stdin(Stdio::null()).stdout(open("stdout")).stderr(open("stderr"));
        let line = format!("{command:?}");
        println!("run: {line}");
        let child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Running { child, pidfd, output, started: Instant::now(), line }
    }

    /// Reads the program into the page cache, so that what is read of it does not count as the job's.
    pub fn load_program(&self) {
        std::fs::read(binary()).unwrap();
    }

    fn command(&self, scratch: &Path) -> Command {
        let binary = binary();
        let mut command = match (self.uid, &self.wrapper) {
            (None, None) => Command::new(binary),
            (None, Some(wrapper)) => {
                let mut command = Command::new(wrapper);
                command.arg(binary);
                command
            }
            (Some(uid), _) => {
                // The build directory may be closed to other users.
                let reachable = scratch.join("gfast");
                // By another process: a descriptor open for writing that a fork elsewhere inherits makes it "busy".
                super::fixture::must(Command::new("cp").arg(&binary).arg(&reachable));
                set_mode(&reachable, 0o755);
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}")).arg("--clear-groups").arg("--");
                command.arg(reachable);
                command
            }
        };
        command.arg("--source").arg(&self.source).arg("--dest").arg(&self.dest);
        command.arg("--state-dir").arg(&self.state).args(["--engine", self.engine.name(), "--json"]);
        command.args(&self.extra);
        if !self.env.is_empty() {
            let inherited = std::env::vars_os().map(|(name, _)| name);
            let aws = inherited.filter(|name| name.as_encoded_bytes().starts_with(b"AWS_"));
            for name in aws {
                command.env_remove(name);
            }
            command.envs(self.env.iter().map(|(name, value)| (name, value)));
        }
        command
    }
}

impl Running {
    /// What the kernel has counted so far.
    pub fn io(&self) -> Io {
        let text = fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse().unwrap()
        };
        Io { read_bytes: field("read_bytes:"), write_bytes: field("write_bytes:") }
    }

    /// Most memory it has had at a time, in bytes; 0 once it has ended.
    pub fn peak_bytes(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Time that processors have spent on it so far, all its threads together.
    pub fn cpu_time(&self) -> Duration {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the program's name, which may hold anything: state, then 10 numbers, then ticks of 10 ms (proc(5)).
        let fields = text.rsplit_once(')').unwrap().1.split_whitespace();
        Duration::from_millis(fields.skip(11).take(2).map(|ticks| 10 * ticks.parse::<u64>().unwrap()).sum())
    }

    /// Lets it run for `delay`, unless it ends before. True if it is still running.
    pub fn run_for(&self, delay: Duration) -> bool {
        let timeout = Timespec { tv_sec: delay.as_secs() as i64, tv_nsec: delay.subsec_nanos().into() };
        let deadline = Instant::now() + delay;
        loop {
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return true,
                Ok(_) => return false,
                Err(rustix::io::Errno::INTR) if Instant::now() < deadline => {}
                Err(error) => panic!("poll: {error}"),
            }
        }
    }

    /// Lets it run until `reached` says so. True if it is still running then.
    pub fn run_until(&self, mut reached: impl FnMut(Io) -> bool) -> bool {
        while self.run_for(Duration::from_millis(1)) {
            assert!(self.started.elapsed() < LIMIT, "still running: {}", self.line);
            if reached(self.io()) {
                return true;
            }
        }
        false
    }

    /// Sends a signal; one that comes too late is none.
    pub fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => panic!("signal: {error}"),
        }
    }

    /// What it has logged so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.output.path().join("stderr")).unwrap()).into_owned()
    }

    /// Kills it, as the out-of-memory killer would.
    pub fn kill(self) -> Outcome {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let hung = self.run_for(LIMIT);
        if hung {
            self.signal(Signal::KILL);
        }
        // The zombie still has its accounting; reaping it ends that.
        let pid = Pid::from_child(&self.child);
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        let io = self.io();
        let elapsed = self.started.elapsed();
        let status = self.child.wait().unwrap();
        let read = |name| String::from_utf8_lossy(&fs::read(self.output.path().join(name)).unwrap()).into_owned();
        let outcome =
            Outcome { status, stdout: read("stdout"), stderr: read("stderr"), io, elapsed, line: self.line.clone() };
        assert!(!hung, "hung for {LIMIT:?}: {outcome}");
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test that fails half-way must not leave a process on a mount that is about to go.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Outcome {
    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Panics unless it ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Outcome {
        self.expect_one_of(&[code])
    }

    /// Panics unless it ended with one of `codes`.
    #[track_caller]
    pub fn expect_one_of(self, codes: &[i32]) -> Outcome {
        assert!(codes.iter().any(|&code| self.code() == Some(code)), "expected exit {codes:?}: {self}");
        self
    }

    /// Whether it said `text`, in the summary or in the log, in whatever case.
    pub fn says(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.stdout.to_lowercase().contains(&text) || self.stderr.to_lowercase().contains(&text)
    }

    /// A number of the JSON summary, by its key; the key must be there.
    #[track_caller]
    pub fn number(&self, key: &str) -> u64 {
        let quoted = format!("\"{key}\"");
        let value = self.stdout.split_once(&quoted).and_then(|(_, rest)| rest.trim_start().strip_prefix(':'));
        let digits = value.map(|rest| rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>());
        digits
            .and_then(|digits| digits.parse().ok())
            .unwrap_or_else(|| panic!("no number {key} in the summary: {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (code, signal) = (self.status.code(), self.status.signal());
        let tail = |text: &str| {
            text.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        writeln!(f, "{}\nexit {code:?} signal {signal:?} after {:?}, {:?}", self.line, self.elapsed, self.io)?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}
