//! A mount that does not answer is told wherever it is asked: while the ends are opened, compared, or only looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::support::fixture::must;
use super::support::slow::can_mount_fuse;
use super::support::{Engine, Scratch, SlowMount};

/// Longest wait for a line that must come.
const LIMIT: Duration = Duration::from_secs(20);

/// A process of gfast with half a second of patience, ended when dropped.
struct Asker<'s> {
    child: Child,
    log: PathBuf,
    /// What it asks.
    slow: &'s SlowMount,
}

impl Asker<'_> {
    fn new<'s>(slow: &'s SlowMount, words: &[&str], scratch: &Scratch) -> Asker<'s> {
        let log = scratch.path().join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.args(words).env("GFAST_STALL_TIME", "0.5").stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        Asker { child, log, slow }
    }

    /// Waits until it has said this.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        loop {
            let said = fs::read_to_string(&self.log).unwrap();
            if said.contains(text) {
                return;
            }
            let is_late = began.elapsed() > LIMIT || self.child.try_wait().unwrap().is_some();
            assert!(!is_late, "never said `{text}`:\n{said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its exit code.
    fn end(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        // Nobody ends who waits for an answer.
        self.slow.halt(false);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whatever is asked of a mount that is silent, it is named, with nothing else, and all goes on when it answers.
#[track_caller]
fn assert_told(slow: &SlowMount, words: &[&str], silent: &Path) {
    let scratch = Scratch::new();
    slow.halt(true);
    let mut asker = Asker::new(slow, words, &scratch);
    asker.wait_for(&format!("gfast: no progress on {} for ", silent.display()));
    slow.halt(false);
    asker.wait_for(&format!("gfast: {} answers again, after ", silent.display()));
    assert_eq!(asker.end(), Some(0), "{words:?}: {}", fs::read_to_string(&asker.log).unwrap());
    let said = fs::read_to_string(&asker.log).unwrap();
    assert_eq!(said.matches("no progress on ").count(), said.matches(silent.to_str().unwrap()).count() - 1, "{said}");
}

#[test]
fn a_mount_that_is_silent_while_the_ends_are_opened_is_told() {
    if !can_mount_fuse("a_mount_that_is_silent_while_the_ends_are_opened_is_told") {
        return;
    }
    let (slow, other) = (SlowMount::new(Duration::ZERO), Scratch::new());
    let (local, far) = (other.path().join("local"), slow.path().join("far"));
    fs::create_dir(&local).unwrap();
    fs::write(local.join("file"), "content").unwrap();
    must(Command::new("cp").arg("-a").arg(&local).arg(slow.folder().join("far")));
    let state = other.path().join("state");
    let (near, state) = (local.to_str().unwrap(), state.to_str().unwrap());
    let copy = slow.path().join("copy");
    let inward = other.path().join("inward");
    let (silent, copy, inward) = (far.to_str().unwrap(), copy.to_str().unwrap(), inward.to_str().unwrap());
    assert_told(&slow, &["-source", silent, "-dest", inward, "-state-dir", state], &far);
    assert_told(&slow, &["-source", near, "-dest", copy, "-state-dir", state], Path::new(copy));
    assert_told(&slow, &["-dry-run", "-source", silent, "-dest", inward, "-state-dir", state], &far);
    assert_told(&slow, &["verify", "-source", silent, "-dest", near], &far);
    assert_told(&slow, &["verify", "-dest", copy, "-state-dir", state], Path::new(copy));
}

/// A mount that falls silent half-way, under each engine.
#[test]
fn a_mount_that_falls_silent_is_told_by_verify_and_by_a_dry_run() {
    if !can_mount_fuse("a_mount_that_falls_silent_is_told_by_verify_and_by_a_dry_run") {
        return;
    }
    let (slow, other) = (SlowMount::new(Duration::from_millis(5)), Scratch::new());
    let (tree, copy) = (other.path().join("tree"), slow.path().join("copy"));
    fs::create_dir(&tree).unwrap();
    for number in 0..200 {
        fs::write(tree.join(format!("file-{number}")), "content").unwrap();
    }
    must(Command::new("cp").arg("-a").arg(&tree).arg(slow.folder().join("copy")));
    let (tree, far) = (tree.to_str().unwrap(), copy.to_str().unwrap());
    let state = other.path().join("state");
    let mut asks = vec![vec!["-dry-run", "-source", tree, "-dest", far, "-state-dir", state.to_str().unwrap()]];
    for engine in Engine::all() {
        let engine = if engine == Engine::Uring { "uring" } else { "sync" };
        asks.push(vec!["verify", "-source", tree, "-dest", far, "-streams", "2", "-engine", engine]);
        asks.push(vec!["verify", "-source", far, "-dest", tree, "-streams", "2", "-engine", engine]);
    }
    for words in asks {
        let scratch = Scratch::new();
        let mut asker = Asker::new(&slow, &words, &scratch);
        // Long enough to be in the midst of it: all of it takes more than a second.
        std::thread::sleep(Duration::from_millis(500));
        slow.halt(true);
        asker.wait_for(&format!("gfast: no progress on {far} for "));
        slow.halt(false);
        asker.wait_for(&format!("gfast: {far} answers again, after "));
        assert_eq!(asker.end(), Some(0), "{words:?}");
    }
}

/// Nothing is made yet that a checkpoint would wait for: the turns that it is looked for in are no answers.
#[test]
fn a_mount_that_is_silent_before_anything_is_made_is_told() {
    if !can_mount_fuse("a_mount_that_is_silent_before_anything_is_made_is_told") {
        return;
    }
    for engine in Engine::all() {
        let engine = if engine == Engine::Uring { "uring" } else { "sync" };
        let (slow, other) = (SlowMount::falling_silent(), Scratch::new());
        let (tree, copy, state) = (other.path().join("tree"), slow.path().join("copy"), other.path().join("state"));
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("first"), "content").unwrap();
        let [near, far, state] = [&tree, &copy, &state].map(|path| path.to_str().unwrap());
        let ends = ["-source", near, "-dest", far, "-state-dir", state];
        let words = [&ends[..], &["-engine", engine, "-checkpoint-interval", "0.2"]].concat();
        assert_eq!(Asker::new(&slow, &words, &other).end(), Some(0));
        fs::write(tree.join("silent"), "content").unwrap();
        let mut asker = Asker::new(&slow, &words, &other);
        asker.wait_for(&format!("gfast: no progress on {far} for "));
        slow.halt(false);
        assert_eq!(asker.end(), Some(0), "{engine}: {}", fs::read_to_string(&asker.log).unwrap());
        assert!(slow.folder().join("copy/silent").exists());
    }
}
