//! What a destination is tried with leaves nothing behind, and takes nothing away.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::support::fixture::must;
use super::support::slow::can_mount_fuse;
use super::support::{Comparison, Engine, Job, Scratch, SlowMount};

/// Temporary names below a root.
fn temporary(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            }
            if entry.file_name().to_string_lossy().starts_with(".gfast-") {
                found.push(entry.path());
            }
        }
    }
    found
}

/// A job of 20 directories, killed while what it tries the destination with stands there: true if that is left. The
/// resume removes it, wherever it is.
fn is_left_and_removed(with_links: bool) -> bool {
    let (slow, other) = (SlowMount::new(Duration::from_millis(10)), Scratch::new());
    let (source, copy) = (other.path().join("tree"), slow.folder().join("copy"));
    for dir in 0..20 {
        let dir = source.join(format!("dir-{dir}"));
        fs::create_dir_all(&dir).unwrap();
        match with_links {
            true => symlink("nowhere", dir.join("link")).unwrap(),
            false => fs::write(dir.join("file"), "content").unwrap(),
        }
    }
    if !with_links {
        // What is there already is compared by its times.
        must(Command::new("cp").arg("-a").arg(&source).arg(&copy));
    }
    let job = Job::new(&source, slow.path().join("copy"), other.path().join("state"), Engine::Auto);
    let running = job.clone().args(&["--checkpoint-interval", "0.1", "--streams", "1"]).start();
    let mut found = Vec::new();
    let is_tried = running.run_until(|_| {
        found = if copy.exists() { temporary(&copy) } else { Vec::new() };
        !found.is_empty()
    });
    slow.halt(true);
    assert!(is_tried, "nothing was tried");
    running.signal(Signal::KILL);
    // What was under way in the mount still happens there; nothing else is asked.
    slow.halt(false);
    running.wait();
    let is_left = temporary(&copy) == found;
    let resumed = job.run().expect(0);
    assert_eq!(temporary(&copy), [] as [PathBuf; 0], "{resumed}");
    Comparison::new(&source, &copy).assert_same();
    is_left
}

#[test]
fn what_a_killed_run_tried_a_destination_with_is_removed() {
    let test = "what_a_killed_run_tried_a_destination_with_is_removed";
    if !can_mount_fuse(test) {
        return;
    }
    for with_links in [false, true] {
        let is_left = (0..5).any(|_| is_left_and_removed(with_links));
        assert!(is_left, "each kill came too late");
    }
}
