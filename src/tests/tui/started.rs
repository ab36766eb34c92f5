//! `gfast .. -tui`: a job that is a process of its own, in a real terminal and without one.

use super::support::{Engine, Job, Scratch};
use super::tmux::{Tmux, can_show};

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
