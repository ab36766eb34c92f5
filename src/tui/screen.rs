//! Draws a [`Model`]: pure, into whatever frame there is.
//!
//! ```text
//!   header, progress                       always
//!   facts (walk, copied, speed, ..)        on a wide screen beside the history, else above it
//!   history of throughput                  goes first when there is little room
//!   objects under way                      take what is left
//!   errors                                 the last ones
//!   what happened last, keys               always
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};

use super::model::{End, Model, Open, Pane};
use super::popup;
use crate::control::status::{Latency, Phase};
use crate::report::{bytes, count, duration};

/// Columns from which facts stand beside the history.
const WIDE_COLUMNS: u16 = 136;
/// Columns of the facts there.
const FACTS_COLUMNS: u16 = 81;
/// Columns of the names beside the facts.
const LABEL_COLUMNS: usize = 8;
/// Most rows of what limits the job.
const LIMIT_ROWS_MAX: usize = 3;
/// Rows of the history and of its title beside or below the facts.
const HISTORY_ROWS: u16 = 4;
/// Rows that objects and errors need before the history gets any.
const LISTS_ROWS: u16 = 6;
/// Most rows of errors on a small screen; a high one gives them a quarter.
const ERROR_ROWS: u16 = 3;

/// Whether colours may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Palette {
    /// They may.
    Colours,
    /// NO_COLOR: bold and dim only.
    Plain,
}

impl Palette {
    /// As NO_COLOR says (no-color.org): set and not empty.
    pub fn of_environment() -> Palette {
        match std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            true => Palette::Plain,
            false => Palette::Colours,
        }
    }

    fn colour(self, colour: Color) -> Style {
        match self {
            Palette::Colours => Style::new().fg(colour),
            Palette::Plain => Style::new(),
        }
    }

    /// Of what moves.
    pub(super) fn accent(self) -> Style {
        self.colour(Color::Cyan)
    }

    /// Of what wants a look.
    pub(super) fn warning(self) -> Style {
        self.colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Of what went wrong.
    pub(super) fn error(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Of names beside values.
    pub(super) fn label(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model, palette: Palette) {
    let [header, progress, body, notice, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_header(frame, header, model, palette);
    frame.render_widget(progress_line(model, progress.width, palette), progress);
    draw_body(frame, body, model, palette);
    frame.render_widget(notice_line(model, notice.width, palette), notice);
    frame.render_widget(Line::styled(keys_text(model), palette.label()), keys);
    popup::draw(frame, model, palette);
}

fn draw_header(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let status = &model.status;
    let phase = match (model.end, status.phase) {
        (Some(_), _) => Span::styled("ended", palette.warning()),
        (None, Phase::Running) => Span::styled("running", palette.accent()),
        (None, Phase::Paused) => Span::styled("paused", palette.warning()),
        (None, Phase::Stopping) => Span::styled("stopping", palette.warning()),
        (None, Phase::Finishing) => Span::styled("finishing", palette.accent()),
    };
    let right = Line::from(vec![phase, format!("  {}  {} ", status.run, seconds(status.elapsed_s)).into()]);
    let right_width = columns_of(right.width()).min(area.width);
    let [left, right_area] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(right_width)]).areas(area);
    let sides = format!("{} -> {}", status.source, status.dest);
    let name = Span::styled(" gfast ", Style::new().add_modifier(Modifier::BOLD));
    let room = usize::from(left.width).saturating_sub(name.width() + 2);
    frame.render_widget(Line::from(vec![name, fit(&sides, room).into()]), left);
    frame.render_widget(right, right_area);
}

/// How far the job is, as far as that can be known: no share before everything is counted.
fn progress_line(model: &Model, width: u16, palette: Palette) -> Line<'static> {
    let eta = model.status.eta_s.map(|eta_s| format!("  ETA {}", seconds(eta_s))).unwrap_or_default();
    let Some(share) = share(model) else {
        let text = match model.end {
            Some(_) => String::new(),
            None => format!(" walking, so nobody knows how much is left{eta}"),
        };
        return Line::styled(text, palette.label());
    };
    let text = format!(" {:3} %{eta} ", (share * 100.0) as u32);
    let room = usize::from(width).saturating_sub(text.len() + 2);
    let mut spans = vec![Span::raw(" ")];
    spans.extend(bar(share, room, palette));
    spans.push(text.into());
    Line::from(spans)
}

/// The lesser of the entries' and the bytes' share; never all of it while something is not durable yet.
fn share(model: &Model) -> Option<f64> {
    let totals = &model.status.totals;
    if !totals.is_walked {
        return None;
    }
    let of = |part: u64, whole: u64| if whole == 0 { 1.0 } else { (part as f64 / whole as f64).min(1.0) };
    let share = of(totals.entries_done, totals.entries_walked).min(of(totals.bytes_copied, totals.bytes_planned));
    let is_all = totals.bytes_durable >= totals.bytes_copied && model.status.phase != Phase::Finishing;
    Some(if is_all || model.end.is_some() { share } else { share.min(0.99) })
}

fn bar(share: f64, width: usize, palette: Palette) -> [Span<'static>; 2] {
    let filled = ((share * width as f64) as usize).min(width);
    [
        Span::styled("\u{2588}".repeat(filled), palette.accent()),
        Span::styled("\u{2591}".repeat(width - filled), palette.label()),
    ]
}

fn draw_body(frame: &mut Frame<'_>, body: Rect, model: &Model, palette: Palette) {
    let is_wide = body.width >= WIDE_COLUMNS;
    let facts = facts(model, if is_wide { FACTS_COLUMNS } else { body.width }, palette);
    let facts_rows = columns_of(facts.len()).min(body.height);
    let facts = Paragraph::new(facts);
    if is_wide {
        let top_rows = (body.height / 3).clamp(facts_rows, facts_rows.max(16)).min(body.height);
        let [top, lists] = Layout::vertical([Constraint::Length(top_rows), Constraint::Fill(1)]).areas(body);
        let [history, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(FACTS_COLUMNS)]).areas(top);
        draw_history(frame, Rect { width: history.width.saturating_sub(2), ..history }, model, palette);
        frame.render_widget(facts, right);
        draw_lists(frame, lists, model, palette);
        return;
    }
    let left = body.height - facts_rows;
    let history_rows = match left.checked_sub(HISTORY_ROWS + LISTS_ROWS) {
        Some(spare) => HISTORY_ROWS + spare / 4,
        None => 0,
    };
    let [top, history, lists] =
        Layout::vertical([Constraint::Length(facts_rows), Constraint::Length(history_rows), Constraint::Fill(1)])
            .areas(body);
    frame.render_widget(facts, top);
    draw_history(frame, history, model, palette);
    draw_lists(frame, lists, model, palette);
}

/// The numbers, a line each; what has nothing to say is left out.
fn facts(model: &Model, width: u16, palette: Palette) -> Vec<Line<'static>> {
    let status = &model.status;
    let (totals, streams) = (&status.totals, &status.streams);
    let walked = match totals.is_walked {
        true => format!("all {} entries", count(totals.entries_walked)),
        false => format!("{} entries so far", count(totals.entries_walked)),
    };
    let per_s = |limit: Option<u64>, shown: fn(u64) -> String, what: &str| match limit {
        Some(limit) => format!(", at most {}{what}/s", shown(limit)),
        None => String::new(),
    };
    let how = if streams.auto { "chosen by the job" } else { "fixed" };
    let mut facts = vec![
        ("walk", format!("{walked}, {} done", count(totals.entries_done))),
        ("copied", copied(model)),
        (
            "speed",
            format!(
                "{}/s{}, {} files/s{}",
                bytes(status.bytes_per_s as u64),
                per_s(status.bwlimit, bytes, ""),
                count(status.files_per_s as u64),
                per_s(status.iops_limit, count, " operations"),
            ),
        ),
        ("streams", format!("{}, {how}, {} busy, {} possible", streams.limit, streams.active, streams.max)),
        ("latency", format!("source {}; dest {}", latency(&status.source_latency), latency(&status.dest_latency))),
    ];
    if [totals.failed, totals.unstable, totals.losses].iter().any(|&lost| lost > 0) {
        let text = format!(
            "{} failed, {} vanished or kept changing, {} losses",
            count(totals.failed),
            count(totals.unstable),
            count(totals.losses)
        );
        facts.push(("trouble", text));
    }
    let labelled = |label: &str, text: String| {
        Line::from(vec![Span::styled(format!(" {label:LABEL_COLUMNS$}"), palette.label()), text.into()])
    };
    let mut lines: Vec<Line<'static>> = facts.into_iter().map(|(label, text)| labelled(label, text)).collect();
    if let (Some(limit), None) = (&status.limit, model.end) {
        let text = format!("{}: {}", limit.cause, limit.text);
        let room = usize::from(width).saturating_sub(LABEL_COLUMNS + 2);
        let wrapped = wrap(&text, room, LIMIT_ROWS_MAX);
        lines.extend(wrapped.into_iter().zip(["limit", "", ""]).map(|(text, label)| labelled(label, text)));
    }
    lines
}

/// A sentence in at most `rows` lines; the last one is cut to what fits.
fn wrap(text: &str, width: usize, rows: usize) -> Vec<String> {
    let (mut lines, mut line): (Vec<String>, String) = (Vec::new(), String::new());
    for word in text.split_whitespace() {
        let is_full = Span::raw(line.as_str()).width() + 1 + Span::raw(word).width() > width;
        if is_full && !line.is_empty() && lines.len() + 1 < rows {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(fit(&line, width));
    lines
}

fn copied(model: &Model) -> String {
    let totals = &model.status.totals;
    let planned = match totals.is_walked {
        true => format!(" of {}", bytes(totals.bytes_planned)),
        false => String::new(),
    };
    let (copied, durable) = (bytes(totals.bytes_copied), bytes(totals.bytes_durable));
    format!("{copied}{planned}, {durable} durable, {} files", count(totals.files_copied))
}

fn latency(latency: &Latency) -> String {
    let shown = |us: f64| seconds(us / 1e6);
    match latency.p99_us > 0.0 {
        true => format!("p50 {}, p99 {}", shown(latency.p50_us), shown(latency.p99_us)),
        false => "-".to_owned(),
    }
}

/// Bytes a second over time, the newest on the right; files a second below them where there is room.
fn draw_history(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let history = &model.history;
    if area.height < 2 * HISTORY_ROWS {
        let title = |top| format!("throughput, up to {}/s", bytes(top));
        draw_series(frame, area, (&history.bytes, &title), palette);
        return;
    }
    let [above, below] = Layout::vertical([Constraint::Fill(2), Constraint::Fill(1)]).areas(area);
    draw_series(frame, above, (&history.bytes, &|top| format!("throughput, up to {}/s", bytes(top))), palette);
    draw_series(frame, below, (&history.files, &|top| format!("files, up to {}/s", count(top))), palette);
}

/// One history below its title, which tells what its highest column stands for.
fn draw_series(
    frame: &mut Frame<'_>,
    area: Rect,
    (values, title): (&VecDeque<u64>, &dyn Fn(u64) -> String),
    palette: Palette,
) {
    if area.height < 2 {
        return;
    }
    let [heading, inside] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let inside = Rect { x: inside.x + 1.min(inside.width), width: inside.width.saturating_sub(2), ..inside };
    let newest_first: Vec<u64> = values.iter().rev().take(inside.width.into()).copied().collect();
    let top = newest_first.iter().copied().max().unwrap_or(0);
    let text = format!("{}, {} s", title(top), newest_first.len());
    frame.render_widget(rule(&text, heading.width, palette), heading);
    // A highest value of zero would be divided by.
    let line = Sparkline::default().max(top.max(1)).style(palette.accent()).direction(RenderDirection::RightToLeft);
    frame.render_widget(line.data(newest_first), inside);
}

/// Objects and, below them, errors.
fn draw_lists(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let errors = &model.status.errors;
    let error_rows = match errors.len() {
        0 => 0,
        // A title is of no use without a line.
        _ if area.height < 2 => 0,
        len => columns_of(len).min(ERROR_ROWS.max(area.height / 4)).min(area.height - 1) + 1,
    };
    let [objects, below] = Layout::vertical([Constraint::Fill(1), Constraint::Length(error_rows)]).areas(area);
    draw_objects(frame, objects, model, palette);
    let [heading, lines] = Layout::vertical([Constraint::Length(1.min(error_rows)), Constraint::Fill(1)]).areas(below);
    if error_rows > 0 {
        frame.render_widget(rule("last errors", heading.width, palette), heading);
        let room = usize::from(lines.width).saturating_sub(2);
        let shown = &errors[errors.len() - usize::from(lines.height).min(errors.len())..];
        let text: Vec<Line<'_>> =
            shown.iter().map(|error| Line::styled(format!(" {}", fit(error, room)), palette.error())).collect();
        frame.render_widget(Paragraph::new(text), lines);
    }
}

/// Objects under way; of a job that has ended, what it said.
fn draw_objects(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    if area.height < 2 || (model.end.is_some() && model.summary.is_empty()) {
        return;
    }
    let [heading, lines] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    if model.end.is_some() {
        let room = usize::from(lines.width).saturating_sub(2);
        let text: Vec<Line<'_>> = model.summary.iter().map(|line| Line::raw(format!(" {}", fit(line, room)))).collect();
        frame.render_widget(rule("summary", heading.width, palette), heading);
        frame.render_widget(Paragraph::new(text), lines);
        return;
    }
    let shown = model.open.len().min(lines.height.into());
    let all = usize::try_from(model.status.streams.active).unwrap_or(0).max(model.open.len());
    let title = match shown < all {
        true => format!("under way: {shown} of {all}, the oldest first"),
        false => format!("under way: {all}"),
    };
    frame.render_widget(rule(&title, heading.width, palette), heading);
    let text: Vec<Line<'_>> =
        model.open[..shown].iter().map(|open| object_line(open, lines.width.into(), palette)).collect();
    frame.render_widget(Paragraph::new(text), lines);
}

/// Path, size, how far, how fast, how long; a bar where there is room for it.
fn object_line(open: &Open, width: usize, palette: Palette) -> Line<'static> {
    let object = &open.object;
    let share = if object.size == 0 { 0.0 } else { (object.done as f64 / object.size as f64).min(1.0) };
    let bar_width = if width >= 100 { 20 } else { 0 };
    let numbers = format!(
        " {:>10} {:>3} % {:>10}/s {:>8} ",
        bytes(object.size),
        (share * 100.0) as u32,
        bytes(open.bytes_per_s as u64),
        seconds(object.age_ms as f64 / 1e3),
    );
    let room = width.saturating_sub(numbers.len() + bar_width + 2);
    let path = fit(&object.path, room);
    let padding = room.saturating_sub(Span::raw(path.as_str()).width());
    let mut spans = vec![Span::raw(format!(" {path}{}", " ".repeat(padding + 1)))];
    spans.extend(bar(share, bar_width, palette));
    spans.push(numbers.into());
    Line::from(spans)
}

fn notice_line(model: &Model, width: u16, palette: Palette) -> Line<'static> {
    let (text, style) = match (&model.end, &model.silence, &model.notice) {
        (Some(end), ..) => (format!("the job has ended{}", meaning(*end)), palette.warning()),
        (None, Some(why), _) => (format!("no answer from the job: {why}"), palette.error()),
        (None, None, Some(notice)) if notice.is_refusal => (notice.text.clone(), palette.error()),
        (None, None, Some(notice)) => (notice.text.clone(), palette.accent()),
        (None, None, None) => return Line::default(),
    };
    Line::styled(format!(" {}", fit(&text, usize::from(width).saturating_sub(2))), style)
}

/// How a job ended, as the README has it.
pub(super) fn meaning(end: End) -> String {
    let text = match end {
        End::Unknown => return String::new(),
        End::Signal(signal) => return format!(" by signal {signal}; it is resumable"),
        End::Code(0) => "all done",
        End::Code(1 | 2) => "refused",
        End::Code(11) => "stopped, resumable",
        End::Code(20) => "interrupted, resumable",
        End::Code(23) => "finished, some objects failed",
        End::Code(24) => "finished, some objects vanished or kept changing",
        End::Code(25) => "finished, more deletes were due than allowed",
        End::Code(_) => "of an unknown kind",
    };
    match end {
        End::Code(code) => format!(", exit {code}: {text}"),
        End::Signal(_) | End::Unknown => String::new(),
    }
}

fn keys_text(model: &Model) -> &'static str {
    match (model.end, model.pane, model.status.phase) {
        (_, Pane::Quit, _) => " s stop   l leave it running   Esc go on watching",
        (Some(_), ..) => " q leave   ? help",
        (None, _, Phase::Paused) => " + - streams   a auto   p continue   q quit   ? help",
        (None, ..) => " + - streams   a auto   p pause   q quit   ? help",
    }
}

/// A title on a line of its own.
fn rule(title: &str, width: u16, palette: Palette) -> Line<'static> {
    let title = format!("\u{2500} {} ", fit(title, usize::from(width).saturating_sub(3)));
    let rest = usize::from(width).saturating_sub(Span::raw(title.as_str()).width());
    Line::styled(format!("{title}{}", "\u{2500}".repeat(rest)), palette.label())
}

/// A text in at most `width` columns. What is too long loses its middle: the end of a path is its name, and the end of
/// an error its cause.
fn fit(text: &str, width: usize) -> String {
    if Span::raw(text).width() <= width {
        return text.to_owned();
    }
    if width < 4 {
        return ".".repeat(width);
    }
    let (head_room, mut buffer) = ((width - 2) / 3, [0; 4]);
    let mut width_of = |c: char| Span::raw(&*c.encode_utf8(&mut buffer)).width();
    let mut take = |room: usize, chars: &mut dyn Iterator<Item = char>| {
        let mut used = 0;
        let mut taken = Vec::new();
        for c in chars {
            used += width_of(c);
            if used > room {
                break;
            }
            taken.push(c);
        }
        taken
    };
    let head = take(head_room, &mut text.chars());
    let tail = take(width - 2 - head_room, &mut text.chars().rev());
    head.into_iter().chain("..".chars()).chain(tail.into_iter().rev()).collect()
}

/// Seconds as people read them.
fn seconds(value: f64) -> String {
    duration(Duration::try_from_secs_f64(value).unwrap_or_default())
}

fn columns_of(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_loses_its_middle() {
        assert_eq!(fit("/a/b", 4), "/a/b");
        assert_eq!(fit("/very/long/path/name", 11), "/ve..h/name");
        assert_eq!(fit("abcdef", 3), "...");
        assert_eq!(fit("abcdef", 0), "");
        // Two columns each: what does not fit whole is left out.
        let wide = "\u{6f22}\u{5b57}".repeat(10);
        for width in 0..40 {
            assert!(Span::raw(fit(&wide, width)).width() <= width, "{width}");
        }
    }
}
