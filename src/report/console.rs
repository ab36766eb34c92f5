//! The one way to stderr, so that a log line never lands in the middle of the progress line.
//!
//! A terminal's last line may hold the progress line. Whoever writes a log line erases it first; the next tick draws it
//! again. An stderr that is closed or full stops nothing: what cannot be shown is dropped.

use std::io::{IsTerminal, Write};

use parking_lot::Mutex;

use crate::config::Output;

/// Columns assumed where the terminal does not tell.
const COLUMNS_DEFAULT: usize = 80;
/// Back to the first column and erase to the end of the line (ECMA-48 EL).
const ERASE: &str = "\r\x1b[K";

/// What stderr is, which decides how progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// A terminal that can redraw a line.
    Terminal,
    /// A file, a pipe or a dumb terminal.
    Log,
    /// Errors only (`--quiet`).
    Quiet,
}

/// Writes log lines and the progress line.
pub struct Console {
    /// What is written to.
    screen: Screen,
    /// The stream, and whether a progress line stands on it.
    sink: Mutex<Sink>,
}

/// The stream behind a [`Console`].
struct Sink {
    /// stderr, or a buffer in tests.
    stream: Box<dyn Write + Send>,
    /// Whether the last line is a progress line.
    drawn: bool,
}

impl Console {
    /// stderr, as `output` and the terminal allow.
    pub fn stderr(output: Output) -> Console {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let screen = match output {
            Output::Quiet | Output::QuietJson => Screen::Quiet,
            Output::Text | Output::Json if std::io::stderr().is_terminal() && !dumb => Screen::Terminal,
            Output::Text | Output::Json => Screen::Log,
        };
        Console::new(screen, Box::new(std::io::stderr()))
    }

    /// A console of any kind on any stream.
    pub fn new(screen: Screen, stream: Box<dyn Write + Send>) -> Console {
        Console { screen, sink: Mutex::new(Sink { stream, drawn: false }) }
    }

    /// What is written to.
    pub fn screen(&self) -> Screen {
        self.screen
    }

    /// An error line: always shown.
    pub fn error(&self, line: &str) {
        self.write_line(line);
    }

    /// A line that is worth knowing: not shown under `--quiet`.
    pub fn note(&self, line: &str) {
        if self.screen != Screen::Quiet {
            self.write_line(line);
        }
    }

    /// Draws the progress line over the one before, cut to the terminal's width.
    pub fn draw(&self, line: &str) {
        if self.screen != Screen::Terminal {
            return;
        }
        // A line that fills the last column would wrap, and could not be erased any more.
        let shown: String = line.chars().take(columns().saturating_sub(1)).collect();
        let mut sink = self.sink.lock();
        let _ = write!(sink.stream, "{ERASE}{shown}").and_then(|()| sink.stream.flush());
        sink.drawn = true;
    }

    /// Erases the progress line.
    pub fn erase(&self) {
        self.sink.lock().erase();
    }

    fn write_line(&self, line: &str) {
        let mut sink = self.sink.lock();
        sink.erase();
        let _ = writeln!(sink.stream, "{line}").and_then(|()| sink.stream.flush());
    }
}

impl Sink {
    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(self.stream, "{ERASE}").and_then(|()| self.stream.flush());
        }
    }
}

/// Width of the terminal behind stderr, asked each time because windows are resized.
fn columns() -> usize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => COLUMNS_DEFAULT,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::sync::Arc;

    /// A stream that keeps what was written.
    #[derive(Clone, Default)]
    pub struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Kept {
        /// Everything written so far.
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_erases_the_progress_line_first() {
        let kept = Kept::default();
        let console = Console::new(Screen::Terminal, Box::new(kept.clone()));
        console.draw("50 %");
        console.error("bad");
        console.note("good");
        assert_eq!(kept.text(), "\r\x1b[K50 %\r\x1b[Kbad\ngood\n");
    }

    #[test]
    fn quiet_shows_errors_only() {
        let kept = Kept::default();
        let console = Console::new(Screen::Quiet, Box::new(kept.clone()));
        console.draw("50 %");
        console.note("good");
        console.error("bad");
        assert_eq!(kept.text(), "bad\n");
    }
}
