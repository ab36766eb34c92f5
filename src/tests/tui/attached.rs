//! `gfast tui` in a real terminal, on a job that is only recorded.

use gfast::control::status::{Phase, Status};
use rustix::process::{Pid, Signal};

use super::recorded;
use super::server::Server;
use super::tmux::{Tmux, can_show};

/// A terminal in which the view of a recorded job is open, and the terminal's settings before it was.
fn opened(server: &Server, environment: &str) -> (Tmux, String) {
    let tmux = Tmux::new();
    let settings = tmux.settings();
    tmux.line("clear; echo before the view");
    tmux.wait_until("the marker", |screen| screen.lines().any(|line| line == "before the view"));
    tmux.line(&format!("{environment} gfast tui -state-dir {}; echo \"exit=$?\"", server.state.display()));
    (tmux, settings)
}

/// Everything is as it was before the view, which ended with this code.
#[track_caller]
fn is_restored(tmux: &Tmux, settings: &str, code: u8) -> String {
    let screen = tmux.wait_for(&format!("exit={code}"));
    assert_eq!(tmux.modes(), (false, true), "{screen}");
    assert!(screen.contains("before the view") && !screen.contains("+ - streams"), "{screen}");
    assert_eq!(tmux.settings(), settings);
    screen
}

/// The process that shows the server's job: nobody else names its state directory.
fn view_of(server: &Server) -> Pid {
    let state = server.state.as_os_str().as_encoded_bytes();
    let is_view = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|&byte| byte == 0).skip(1).take(3).eq([&b"tui"[..], b"-state-dir", state])
    };
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    Pid::from_raw(processes.into_iter().find(is_view).unwrap()).unwrap()
}

#[test]
fn keys_reach_the_job_and_leaving_leaves_it_running() {
    if !can_show("keys_reach_the_job_and_leaving_leaves_it_running") {
        return;
    }
    let server = Server::new(recorded());
    let (tmux, settings) = opened(&server, "");
    let screen = tmux.wait_for("+ - streams");
    for part in ["/data/old -> /data/new", "running  pass 3", "32, fixed", "archive/2019/volume-01.tar", "ETA 4m03s"] {
        assert!(screen.contains(part), "{part} is missing from\n{screen}");
    }
    assert_eq!(tmux.modes(), (true, false));
    assert!(tmux.is_coloured());
    tmux.keys(&["+"]);
    tmux.wait_for("done: streams=+8");
    tmux.wait_for("40, fixed");
    tmux.keys(&["-"]);
    tmux.wait_for("done: streams=-10");
    tmux.keys(&["a"]);
    tmux.wait_for("done: streams=auto");
    tmux.keys(&["p"]);
    tmux.wait_for("done: pause");
    assert_eq!(server.requests(), ["streams=+8", "streams=-10", "streams=auto", "pause"]);
    // Arrows mean nothing, not even their letters.
    tmux.keys(&["Up", "Left", "F5", "q"]);
    tmux.wait_for("leave it running");
    tmux.keys(&["l"]);
    let screen = is_restored(&tmux, &settings, 0);
    assert!(screen.contains("the job goes on as process 4242") && screen.contains("gfast tui -state-dir"), "{screen}");
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn a_window_may_change_its_size() {
    if !can_show("a_window_may_change_its_size") {
        return;
    }
    let server = Server::new(recorded());
    let (tmux, _) = opened(&server, "");
    tmux.wait_for("+ - streams");
    // tmux cuts the old screen first: it is the new one when both ends of the first line are there.
    let is_whole_at = |columns: usize| {
        move |screen: &str| {
            let (first, rule) = (screen.lines().next(), screen.lines().find(|line| line.contains("under way")));
            let is_header =
                first.is_some_and(|line| line.starts_with(" gfast ") && line.trim_end().ends_with("12m34s"));
            let is_wide = rule.is_some_and(|rule| rule.chars().count() == columns);
            is_header && is_wide && screen.trim_end().ends_with("? help")
        }
    };
    for (columns, rows) in [(200, 50), (60, 20), (120, 40), (80, 24)] {
        tmux.resize(columns, rows);
        tmux.wait_until("the new size", is_whole_at(columns.into()));
    }
    // Far too small for anything, and back.
    tmux.resize(4, 2);
    tmux.resize(80, 24);
    tmux.wait_until("the old size", is_whole_at(80));
}

#[test]
fn a_stop_takes_the_view_along_when_the_job_ends() {
    if !can_show("a_stop_takes_the_view_along_when_the_job_ends") {
        return;
    }
    let mut server = Server::new(recorded());
    let (tmux, settings) = opened(&server, "");
    tmux.wait_for("+ - streams");
    tmux.keys(&["C-c"]);
    tmux.wait_for("quit?");
    tmux.keys(&["s"]);
    tmux.wait_for("done: stop");
    server.change(|status| status.phase = Phase::Stopping);
    tmux.wait_for("stopping");
    server.end();
    let screen = is_restored(&tmux, &settings, 0);
    assert!(screen.contains("the job has ended") && screen.contains("gfast report"), "{screen}");
}

#[test]
fn a_job_that_ends_stays_on_the_screen_until_a_key() {
    if !can_show("a_job_that_ends_stays_on_the_screen_until_a_key") {
        return;
    }
    let mut server = Server::new(recorded());
    let (tmux, settings) = opened(&server, "NO_COLOR=1");
    tmux.wait_for("+ - streams");
    assert!(!tmux.is_coloured());
    server.end();
    let screen = tmux.wait_for("the job has ended");
    assert!(screen.contains("/data/old -> /data/new") && screen.contains("q leave"), "{screen}");
    tmux.keys(&["q"]);
    is_restored(&tmux, &settings, 0);
}

#[test]
fn signals_and_defects_give_the_terminal_back() {
    if !can_show("signals_and_defects_give_the_terminal_back") {
        return;
    }
    let server = Server::new(recorded());
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let (tmux, settings) = opened(&server, "");
        tmux.wait_for("+ - streams");
        rustix::process::kill_process(view_of(&server), signal).unwrap();
        let screen = is_restored(&tmux, &settings, 20);
        assert!(screen.contains("the job goes on as process 4242"), "{screen}");
    }
    let (tmux, settings) = opened(&server, "GFAST_TUI_BREAK=1 RUST_BACKTRACE=0");
    let screen = is_restored(&tmux, &settings, 11);
    assert!(screen.contains("defect of gfast"), "{screen}");
}

#[test]
fn the_shell_comes_and_goes() {
    if !can_show("the_shell_comes_and_goes") {
        return;
    }
    let server = Server::new(recorded());
    let (tmux, settings) = opened(&server, "");
    tmux.wait_for("+ - streams");
    tmux.keys(&["C-z"]);
    tmux.wait_for("Stopped");
    assert_eq!(tmux.modes(), (false, true));
    assert_eq!(tmux.settings(), settings);
    tmux.line("fg");
    tmux.wait_for("+ - streams");
    assert_eq!(tmux.modes(), (true, false));
    tmux.keys(&["C-c"]);
    tmux.wait_for("quit?");
    tmux.keys(&["C-c"]);
    tmux.wait_until("the shell", |screen| screen.lines().any(|line| line.starts_with("gfast: the job goes on")));
    assert_eq!(tmux.settings(), settings);
}

#[test]
fn no_job_is_2_and_several_are_named() {
    if !can_show("no_job_is_2_and_several_are_named") {
        return;
    }
    let server = Server::new(recorded());
    let tmux = Tmux::new();
    tmux.line(&format!("gfast tui -state-dir {}/nowhere; echo \"exit=$?\"", server.state.display()));
    let screen = tmux.wait_for("exit=2").replace('\n', "");
    assert!(screen.contains("no such job is running there"), "{screen}");
    let other = Server::beside(&server, Status { pid: 4343, dest: "/data/other".to_owned(), ..recorded() });
    let state = server.state.display();
    tmux.line(&format!("clear; gfast tui -state-dir {state}; echo \"several=$?\""));
    let screen = tmux.wait_for("several=2").replace('\n', "");
    assert!(screen.contains("/data/old -> /data/new; /data/old -> /data/other"), "{screen}");
    tmux.line(&format!("clear; gfast tui -state-dir {state} -dest /data/other; echo \"chosen=$?\""));
    tmux.wait_for("/data/old -> /data/other");
    tmux.keys(&["q", "l"]);
    tmux.wait_for("chosen=0");
    tmux.line(&format!("clear; gfast tui -state-dir {state} -dest /elsewhere; echo \"exit=$?\""));
    tmux.wait_until("no such job", |screen| screen.replace('\n', "").contains("no such job is running there"));
    drop(other);
}
