//! What lies over the screen for a while: help, and the question whether the job is to stop.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use super::model::{Model, Pane};
use super::screen::Palette;

/// What the keys do.
const HELP: [&str; 11] = [
    "+ -    a quarter more or fewer streams",
    "a      the job chooses the number of streams",
    "p      pause, and go on",
    "q      leave: the job stops with a checkpoint, or runs on",
    "Ctrl-C the same; twice leaves the job running",
    "Ctrl-Z the shell for a while; fg comes back",
    "? h    this help",
    "",
    "durable: what would be there after a power cut",
    "busy:    streams that have an object open",
    "any key closes this",
];

/// What `q` asks.
const QUIT: [&str; 5] = [
    "The job runs on by itself unless it is stopped.",
    "",
    "s      stop it with a checkpoint; it can be resumed",
    "l      leave it running",
    "Esc    go on watching",
];

/// Draws what is open, if anything is.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, palette: Palette) {
    let (title, lines) = match model.pane {
        Pane::None => return,
        Pane::Help => (" help ", &HELP[..]),
        Pane::Quit => (" quit? ", &QUIT[..]),
    };
    let text: Vec<Line<'_>> = lines.iter().map(|&line| Line::raw(line)).collect();
    let width = text.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
    let area = centred(frame.area(), width, text.len() as u16 + 2);
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(title).border_style(palette.warning());
    let block = block.padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(text).block(block), area);
}

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height }
}
