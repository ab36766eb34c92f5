//! `gfast .. -tui`: a job that is a process of its own, in a real terminal and without one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::{Engine, Job, Scratch};
use super::tmux::{Tmux, can_show};

/// Files of the job: at the rate below they take four minutes, and each of them a moment.
const FILES: usize = 1000;
/// Bytes of each.
const FILE_BYTES: usize = 32 << 10;

/// A source, and the words that begin a slow job on it in a terminal.
struct Slow {
    scratch: Scratch,
}

impl Slow {
    fn new() -> Slow {
        let scratch = Scratch::new();
        let source = scratch.path().join("source");
        fs::create_dir(&source).unwrap();
        (0..FILES).for_each(|n| fs::write(source.join(format!("file-{n}")), vec![n as u8; FILE_BYTES]).unwrap());
        Slow { scratch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The command, with more words, and its exit code behind it. A path with the folder's name alone fits the screen.
    fn command(&self, more: &str) -> String {
        let place = self.scratch.path().display();
        format!("clear; cd {place}; gfast -source source -dest dest -state-dir state {more}; echo \"exit=$?\"")
    }

    /// The job's folder.
    fn folder(&self) -> PathBuf {
        let mut folders = fs::read_dir(self.path("state")).unwrap().map(|entry| entry.unwrap().path());
        folders.next().unwrap()
    }

    /// What a running job says of itself; nothing if there is none.
    fn status(&self) -> Option<String> {
        let words = ["ctl", "-state-dir", "state", "status", "--json"];
        let output = Command::new(env!("CARGO_BIN_EXE_gfast")).args(words).current_dir(self.scratch.path()).output();
        let output = output.unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until no job runs any more.
    #[track_caller]
    fn wait_for_end(&self) {
        let started = Instant::now();
        while self.status().is_some() {
            assert!(started.elapsed() < Duration::from_secs(60), "the job runs on");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn files_at(&self, folder: &Path) -> usize {
        fs::read_dir(folder).map_or(0, |entries| entries.count())
    }
}

impl Drop for Slow {
    /// A test that fails leaves a job behind otherwise.
    fn drop(&mut self) {
        let words = ["ctl", "-state-dir", "state", "stop"];
        let _ = Command::new(env!("CARGO_BIN_EXE_gfast")).args(words).current_dir(self.scratch.path()).output();
    }
}

#[test]
fn a_job_goes_on_when_its_view_is_left_and_can_be_seen_again() {
    if !can_show("a_job_goes_on_when_its_view_is_left_and_can_be_seen_again") {
        return;
    }
    let (slow, tmux) = (Slow::new(), Tmux::new());
    let settings = tmux.settings();
    tmux.line(&slow.command("-streams 8 -bwlimit 128K -tui"));
    let screen = tmux.wait_for("8, fixed");
    assert!(screen.contains("/dest  running  copy") && screen.contains("at most 128.0 KiB/s"), "{screen}");
    tmux.keys(&["+"]);
    tmux.wait_for("10, fixed");
    tmux.keys(&["q", "l"]);
    tmux.wait_for("exit=0");
    assert_eq!(tmux.settings(), settings);
    // Not even the end of its terminal ends it, and its words are kept for its owner only.
    drop(tmux);
    assert!(slow.status().is_some_and(|status| status.contains("\"phase\":\"running\"")));
    for name in ["log", "summary"] {
        let mode = fs::metadata(slow.folder().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let tmux = Tmux::new();
    tmux.line(&format!("cd {}; gfast tui -state-dir state; echo \"exit=$?\"", slow.scratch.path().display()));
    tmux.wait_for("10, fixed");
    tmux.keys(&["p"]);
    tmux.wait_for("p continue");
    tmux.keys(&["p"]);
    tmux.wait_for("p pause");
    tmux.keys(&["q", "s"]);
    let screen = tmux.wait_for("exit=0");
    assert!(screen.contains("the job has ended"), "{screen}");
    slow.wait_for_end();
    let summary = fs::read_to_string(slow.folder().join("summary")).unwrap();
    assert!(summary.contains("interrupted") && !summary.contains("-tui"), "{summary}");
    assert!(slow.files_at(&slow.path("dest")) < FILES);
}

#[test]
fn a_stopped_job_gives_the_view_its_code_and_its_summary() {
    if !can_show("a_stopped_job_gives_the_view_its_code_and_its_summary") {
        return;
    }
    let (slow, tmux) = (Slow::new(), Tmux::new());
    let settings = tmux.settings();
    tmux.line(&slow.command("-bwlimit 128K -tui"));
    tmux.wait_for("+ - streams");
    tmux.keys(&["q", "s"]);
    let screen = tmux.wait_for("exit=20");
    assert!(screen.contains("interrupted"), "{screen}");
    assert_eq!(tmux.settings(), settings);
    // Resumed without a limit it is through before anybody looks, or a moment later.
    tmux.line(&slow.command("-tui"));
    tmux.wait_until("the end", |screen| screen.contains("exit=0") || screen.contains("q leave"));
    tmux.keys(&["Enter"]);
    tmux.wait_for("exit=0");
    assert_eq!(tmux.settings(), settings);
    assert_eq!(slow.files_at(&slow.path("dest")), FILES);
}

#[test]
fn a_job_that_is_killed_says_so() {
    if !can_show("a_job_that_is_killed_says_so") {
        return;
    }
    let (slow, tmux) = (Slow::new(), Tmux::new());
    tmux.line(&slow.command("-bwlimit 128K -tui"));
    tmux.wait_for("+ - streams");
    let status = slow.status().unwrap();
    let (_, pid) = status.split_once("\"pid\":").unwrap();
    let pid: i32 = pid.split(',').next().unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // Its parent is the view, its session its own.
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid);
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    tmux.wait_for("ended by signal 9; it is resumable");
    tmux.keys(&["q"]);
    tmux.wait_for("exit=137");
}

#[test]
fn without_a_terminal_the_job_runs_by_itself() {
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content").unwrap();
    let job = Job::new(&source, scratch.path().join("dest"), scratch.path().join("state"), Engine::Auto);
    let outcome = job.arg("-tui").run().expect(0);
    assert!(outcome.stderr.contains("there is no terminal for -tui"), "{outcome}");
    assert_eq!(std::fs::read_to_string(scratch.path().join("dest/file")).unwrap(), "content");
}

#[test]
fn a_job_that_is_refused_says_why_and_leaves_nothing_behind() {
    if !can_show("a_job_that_is_refused_says_why_and_leaves_nothing_behind") {
        return;
    }
    let scratch = Scratch::new();
    let tmux = Tmux::new();
    let settings = tmux.settings();
    let (source, dest, state) =
        (scratch.path().join("missing"), scratch.path().join("dest"), scratch.path().join("a/state"));
    let (source, dest, state) = (source.display(), dest.display(), state.display());
    tmux.line(&format!("gfast -source {source} -dest {dest} -state-dir {state} -tui; echo \"exit=$?\""));
    let screen = tmux.wait_for("exit=2").replace('\n', "");
    assert!(screen.contains("there is no such source"), "{screen}");
    assert_eq!(tmux.settings(), settings);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}
