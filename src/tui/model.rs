//! What the view knows, and what a key means to it. Pure: no terminal, no socket, and time is the job's own.
//!
//! Everything the job says is made printable on its way in, so that whoever draws need not think of it.

use std::collections::{HashMap, VecDeque};

use crate::control::status::{Answer, Object, Phase, Status};

/// Seconds of history kept: a column each, on the widest screens there are.
pub const HISTORY_MAX: usize = 512;

/// Highest rate kept: far above any, and no sum of it overflows.
const RATE_MAX: f64 = 1e15;

/// A key, as far as keys mean anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A printable one.
    Char(char),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-Z.
    Suspend,
    /// Escape.
    Escape,
    /// Return.
    Enter,
}

/// What a key asks for beyond the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A request to the job.
    Send(String),
    /// The end of the view, whatever the job does.
    Leave,
    /// The shell, for a while.
    Suspend,
}

/// What lies over the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// Nothing.
    None,
    /// What the keys do.
    Help,
    /// Whether to stop the job or to leave it running.
    Quit,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody here knows: it was started by somebody else.
    Unknown,
}

/// A line about what happened last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The line.
    pub text: String,
    /// Whether it says that something was not done.
    pub is_refusal: bool,
}

/// An object under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// What the job says of it.
    pub object: Object,
    /// Bytes a second since the state before.
    pub bytes_per_s: f64,
}

/// What was measured each second, oldest first, at most [`HISTORY_MAX`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Bytes a second.
    pub bytes: VecDeque<u64>,
    /// Files a second.
    pub files: VecDeque<u64>,
    /// The job's second that the last one is of.
    second: u64,
}

/// Everything that is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The last state; its objects are in `open`.
    pub status: Status,
    /// Objects under way, the oldest first.
    pub open: Vec<Open>,
    /// What came before.
    pub history: History,
    /// What lies over the screen.
    pub pane: Pane,
    /// What happened last.
    pub notice: Option<Notice>,
    /// Why the job does not answer just now.
    pub silence: Option<String>,
    /// How the job ended, once it has.
    pub end: Option<End>,
    /// What it said at its end, a line each.
    pub summary: Vec<String>,
    /// Whether the view ends with the job: it was told to stop from here.
    is_stopping: bool,
}

impl History {
    /// Takes in what was measured at the job's `elapsed_s`. Of a second the last word stands; seconds without one are
    /// filled with the next.
    fn push(&mut self, elapsed_s: f64, bytes_per_s: f64, files_per_s: f64) {
        let second = elapsed_s.max(0.0) as u64;
        let missed = match self.bytes.is_empty() {
            true => 1,
            false => second.saturating_sub(self.second).min(HISTORY_MAX as u64),
        };
        for (values, value) in [(&mut self.bytes, bytes_per_s), (&mut self.files, files_per_s)] {
            if missed == 0 {
                values.pop_back();
            }
            for _ in 0..missed.max(1) {
                if values.len() == HISTORY_MAX {
                    values.pop_front();
                }
                values.push_back(value.clamp(0.0, RATE_MAX) as u64);
            }
        }
        self.second = self.second.max(second);
    }
}

impl Model {
    /// A view that has heard `status` first.
    pub fn new(status: Status) -> Model {
        let mut model = Model {
            status: Status::default(),
            open: Vec::new(),
            history: History::default(),
            pane: Pane::None,
            notice: None,
            silence: None,
            end: None,
            summary: Vec::new(),
            is_stopping: false,
        };
        model.update(status);
        model
    }

    /// Takes in a state.
    pub fn update(&mut self, mut status: Status) {
        make_printable(&mut status);
        let since_s = status.elapsed_s - self.status.elapsed_s;
        let former: HashMap<String, Object> =
            self.open.drain(..).map(|open| (open.object.path.clone(), open.object)).collect();
        self.open = std::mem::take(&mut status.objects)
            .into_iter()
            .map(|object| Open { bytes_per_s: rate(&object, former.get(&object.path), since_s), object })
            .collect();
        // A stable order, and what takes long on top.
        self.open.sort_by(|a, b| b.object.age_ms.cmp(&a.object.age_ms).then(a.object.path.cmp(&b.object.path)));
        self.history.push(status.elapsed_s, status.bytes_per_s, status.files_per_s);
        self.status = status;
        self.silence = None;
    }

    /// Takes in an answer.
    pub fn answer(&mut self, answer: &Answer) {
        self.notice = Some(Notice { text: printable(&answer.line), is_refusal: !answer.ok });
    }

    /// Takes in that the job did not answer.
    pub fn silence(&mut self, why: &str) {
        self.silence = Some(printable(why));
    }

    /// Takes in that the job has ended, and what it said then.
    pub fn end(&mut self, end: End, summary: &str) {
        self.end = Some(end);
        self.summary = summary.lines().map(printable).collect();
        self.silence = None;
        self.pane = Pane::None;
        self.open.clear();
        (self.status.bytes_per_s, self.status.files_per_s, self.status.eta_s) = (0.0, 0.0, None);
    }

    /// Whether there is nothing more to be seen: the job has ended as it was told to from here.
    pub fn is_over(&self) -> bool {
        self.is_stopping && self.end.is_some()
    }

    /// What a key does.
    pub fn key(&mut self, key: Key) -> Option<Action> {
        match (key, self.pane) {
            (Key::Suspend, _) => Some(Action::Suspend),
            (_, Pane::Help) => self.close(),
            (key, Pane::Quit) => self.quit(key),
            (Key::Char('?' | 'h'), _) => self.open_pane(Pane::Help),
            (Key::Char('q') | Key::Interrupt | Key::Enter | Key::Escape, _) if self.end.is_some() => {
                Some(Action::Leave)
            }
            (Key::Char('q') | Key::Interrupt, _) => self.open_pane(Pane::Quit),
            _ if self.end.is_some() => None,
            (Key::Char('+' | '='), _) => Some(Action::Send(format!("streams=+{}", self.streams_step()))),
            (Key::Char('-' | '_'), _) => Some(Action::Send(format!("streams=-{}", self.streams_step()))),
            (Key::Char('a'), _) => Some(Action::Send("streams=auto".to_owned())),
            (Key::Char('p'), _) if self.status.phase == Phase::Paused => Some(Action::Send("continue".to_owned())),
            (Key::Char('p'), _) => Some(Action::Send("pause".to_owned())),
            _ => None,
        }
    }

    /// What a key answers to the question that `q` asks. Two interrupts in a row end the view, and only the view.
    fn quit(&mut self, key: Key) -> Option<Action> {
        self.pane = Pane::None;
        match key {
            Key::Char('s') => {
                self.is_stopping = true;
                Some(Action::Send("stop".to_owned()))
            }
            Key::Char('l') | Key::Interrupt => Some(Action::Leave),
            _ => None,
        }
    }

    /// A quarter, as the signals have it, and at least one.
    fn streams_step(&self) -> u32 {
        (self.status.streams.limit / 4).max(1)
    }

    fn open_pane(&mut self, pane: Pane) -> Option<Action> {
        self.pane = pane;
        None
    }

    fn close(&mut self) -> Option<Action> {
        self.open_pane(Pane::None)
    }
}

/// Bytes a second of an object: since the state before if it is the same object, else since its beginning.
fn rate(object: &Object, former: Option<&Object>, since_s: f64) -> f64 {
    let same = former.filter(|former| former.age_ms <= object.age_ms && former.done <= object.done);
    match same {
        Some(former) if since_s > 0.0 => (object.done - former.done) as f64 / since_s,
        Some(_) => 0.0,
        None if object.age_ms > 0 => object.done as f64 * 1e3 / object.age_ms as f64,
        None => 0.0,
    }
}

fn make_printable(status: &mut Status) {
    let limit = status.limit.iter_mut().flat_map(|limit| [&mut limit.cause, &mut limit.text]);
    let lines = [&mut status.source, &mut status.dest, &mut status.run].into_iter();
    let paths = status.objects.iter_mut().map(|object| &mut object.path);
    for text in limit.chain(lines).chain(paths).chain(&mut status.errors) {
        *text = printable(text);
    }
}

/// A text that moves no cursor and turns no line round: control characters, line and paragraph separators, and what
/// changes the direction of text are written as their numbers.
pub fn printable(text: &str) -> String {
    let is_unruly = |c: char| {
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_unruly(c) {
            true => shown.push_str(&format!("\\u{{{:x}}}", c as u32)),
            false => shown.push(c),
        }
    }
    shown
}
