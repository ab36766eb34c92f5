//! A real terminal: a shell in a tmux of its own, looked at as a person would.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::support::fixture::{has, must, skip};

/// Nothing on the screen takes this long to come, on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether there is a tmux; if not, `test` is reported as skipped.
pub fn can_show(test: &str) -> bool {
    has("tmux") || skip(test, "no tmux")
}

/// A terminal of 80 columns and 24 rows with a shell in it, gone when dropped.
pub struct Tmux {
    /// The server's name.
    name: String,
}

impl Tmux {
    /// A new one. Its shell shows `$ ` where it waits, and knows `gfast`.
    pub fn new() -> Tmux {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gfast-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let tmux = Tmux { name };
        let shell = "exec env PS1='$ ' HISTFILE= bash --norc --noprofile";
        // tmux starts a server that outlives this command: it must not hold the test's own descriptors.
        let mut start = tmux.command();
        start.args(["-u", "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", shell]);
        must(start.env_remove("TMUX").env_remove("NO_COLOR"));
        tmux.wait_until("the shell", |screen| screen.starts_with('$'));
        tmux.line(&format!("gfast() {{ {} \"$@\"; }}; clear", env!("CARGO_BIN_EXE_gfast")));
        tmux
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.name]);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command().args(words).output().unwrap()
    }

    /// Types one key after the other, by tmux's names for them.
    pub fn keys(&self, keys: &[&str]) {
        must(self.command().arg("send-keys").args(keys));
    }

    /// Types a line and Return.
    pub fn line(&self, line: &str) {
        must(self.command().args(["send-keys", "-l", line]));
        self.keys(&["Enter"]);
    }

    /// Makes the window this large.
    pub fn resize(&self, columns: u16, rows: u16) {
        must(self.command().args(["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]));
    }

    /// What is on the screen now.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.run(&["capture-pane", "-p"]).stdout).into_owned()
    }

    /// Whether anything on the screen has a colour.
    pub fn is_coloured(&self) -> bool {
        let screen = self.run(&["capture-pane", "-e", "-p"]).stdout;
        // SGR 30 to 37 and 38 choose a colour, 39 goes back to the terminal's own.
        screen.windows(4).any(|code| code.starts_with(b"\x1b[3") && (b'0'..=b'8').contains(&code[3]))
    }

    /// Waits until the screen is as asked; the screen.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let screen = self.screen();
            if is_so(&screen) {
                return screen;
            }
            assert!(started.elapsed() < LIMIT, "never seen: {what}\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a text is on the screen; the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |screen| screen.contains(text))
    }

    /// Whether the program has the whole screen, and whether there is a cursor.
    pub fn modes(&self) -> (bool, bool) {
        let shown = self.run(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        match String::from_utf8_lossy(&shown.stdout).trim() {
            "0 0" => (false, false),
            "0 1" => (false, true),
            "1 0" => (true, false),
            "1 1" => (true, true),
            other => panic!("{other}"),
        }
    }

    /// The terminal's settings, all of them.
    #[track_caller]
    pub fn settings(&self) -> String {
        self.line("clear; stty -g; echo settings told");
        let screen = self.wait_until("settings", |screen| screen.lines().any(|line| line == "settings told"));
        screen.lines().find(|line| line.contains(':')).unwrap_or_else(|| panic!("{screen}")).to_owned()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.run(&["kill-server"]);
    }
}
