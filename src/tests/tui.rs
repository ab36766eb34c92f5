//! The view of a running job: its screens against stored ones, its keys, and the real thing in a real terminal.
//!
//! `GFAST_RECORD=1` writes the stored screens anew: look at the difference before it is committed.

#[path = "tui/attached.rs"]
mod attached;
#[path = "tui/server.rs"]
mod server;
#[path = "tui/started.rs"]
mod started;
#[path = "support/mod.rs"]
mod support;
#[path = "tui/tmux.rs"]
mod tmux;

use std::path::Path;

use gfast::control::status::{Answer, Limit, Object, Phase, Status};
use gfast::tui::{Action, End, HISTORY_MAX, Key, Model, Palette, Pane, draw, printable};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

/// Small and large, as the screens are stored.
const SIZES: [(u16, u16); 2] = [(80, 24), (200, 50)];

/// A job in the middle of its work.
fn recorded() -> Status {
    serde_json::from_str(include_str!("screens/status.json")).unwrap()
}

/// A view that has watched the recorded job for two minutes: throughput in steps and waves, one object moving.
fn watched(change: impl Fn(&mut Status)) -> Model {
    let at = |second: u32| {
        let mut status = recorded();
        let wave = f64::from(second % 20) / 20.0;
        status.elapsed_s -= f64::from(120 - second);
        status.bytes_per_s *= 0.25 + 0.75 * wave;
        status.files_per_s *= 1.0 - 0.5 * wave;
        status.objects[0].done -= u64::from(120 - second) * (9 << 20);
        status.objects[0].age_ms -= u64::from(120 - second) * 1000;
        change(&mut status);
        status
    };
    let mut model = Model::new(at(0));
    (1..=120).for_each(|second| model.update(at(second)));
    model
}

fn drawn(model: &Model, palette: Palette, (width, height): (u16, u16)) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, palette)).unwrap();
    terminal.backend().clone()
}

/// Compares with the stored screens, and tells all that differ.
fn check(name: &str, model: &Model) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/screens");
    let mut differing = String::new();
    for size in SIZES {
        let path = folder.join(format!("{name}-{}x{}.txt", size.0, size.1));
        let screen = drawn(model, Palette::Colours, size).to_string();
        if std::env::var_os("GFAST_RECORD").is_some() {
            std::fs::write(&path, &screen).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        if screen != stored {
            differing.push_str(&format!("{}\n--- stored\n{stored}\n--- drawn\n{screen}\n", path.display()));
        }
    }
    assert!(differing.is_empty(), "{differing}");
}

#[test]
fn a_job_that_has_walked_shows_share_and_eta() {
    check("running", &watched(|_| {}));
}

#[test]
fn a_job_that_walks_has_neither() {
    let model = watched(|status| {
        (status.totals.is_walked, status.eta_s, status.run) = (false, None, "copy".to_owned());
        status.streams.auto = true;
        status.limit = None;
    });
    check("walking", &model);
}

#[test]
fn a_paused_job_says_so() {
    let mut model = watched(|status| {
        (status.phase, status.eta_s, status.bwlimit) = (Phase::Paused, None, Some(500 << 20));
        (status.bytes_per_s, status.files_per_s, status.streams.active) = (0.0, 0.0, 0);
        status.objects.clear();
        status.limit = Some(Limit { cause: "paused".to_owned(), text: "continue lets it go on".to_owned() });
    });
    model.answer(&Answer { ok: true, line: "paused; 28 objects are finished first".to_owned() });
    check("paused", &model);
}

#[test]
fn errors_are_counted_and_the_last_ones_shown() {
    let mut model = watched(|status| {
        (status.totals.failed, status.totals.unstable, status.totals.losses) = (12, 3, 40_000);
        let path = "x".repeat(300);
        let errors = (1..=12).map(|n| format!("cannot open /data/old/{path}/{n}: Permission denied"));
        status.errors = errors.collect();
    });
    model.answer(&Answer { ok: false, line: "streams: 1 to 1024".to_owned() });
    check("errors", &model);
}

#[test]
fn huge_numbers_stay_in_their_places() {
    let model = watched(|status| {
        let max = u64::MAX / 2;
        let totals = &mut status.totals;
        (totals.entries_walked, totals.entries_done, totals.files_copied) = (max, max / 2, max / 3);
        (totals.bytes_planned, totals.bytes_copied, totals.bytes_durable) = (max, max / 2, max / 2);
        (totals.failed, totals.unstable, totals.losses) = (max, max, max);
        (status.bytes_per_s, status.files_per_s, status.eta_s) = (1e18, 1e12, Some(1e9));
        (status.bwlimit, status.iops_limit, status.elapsed_s) = (Some(max), Some(max), 1e8 + status.elapsed_s);
        (status.streams.limit, status.streams.active, status.streams.max) = (1024, 1024, 1024);
        (status.source_latency.p99_us, status.dest_latency.p99_us) = (3e8, 4e9);
        status.source = "s3://a-bucket-with-a-rather-long-name/and/a/prefix/of/several/components".to_owned();
        let object = |n: u64| Object { path: format!("{n:0200}"), size: max, done: n << 50, age_ms: n << 30 };
        status.objects = (0..256).map(object).collect();
    });
    check("huge", &model);
}

#[test]
fn paths_of_any_script_keep_the_columns() {
    let model = watched(|status| {
        status.dest = "/d\u{e4}ten/\u{6f22}\u{5b57}".repeat(12);
        let paths =
            ["\u{6f22}\u{5b57}/".repeat(60), "e\u{301}te\u{301}/".repeat(40), "\u{1f468}\u{200d}\u{1f469}".repeat(40)];
        for (object, path) in status.objects.iter_mut().zip(paths) {
            object.path = path;
        }
    });
    check("scripts", &model);
}

#[test]
fn help_and_the_question_lie_over_the_screen() {
    let mut model = watched(|_| {});
    assert_eq!(model.key(Key::Char('?')), None);
    check("help", &model);
    model.key(Key::Escape);
    assert_eq!(model.key(Key::Char('q')), None);
    check("quit", &model);
}

#[test]
fn a_job_that_has_ended_shows_what_it_said() {
    let mut model = watched(|_| {});
    let summary = "copied 810,554 files\ndurable: all\n\nresume with: gfast -source /data/old\x1b[2J -dest /data/new\n";
    model.end(End::Code(23), summary);
    check("ended", &model);
}

#[test]
fn a_job_that_does_not_answer_is_shown_as_it_was() {
    let mut model = watched(|_| {});
    model.silence("for 5 s");
    check("silent", &model);
    model.update(recorded());
    assert_eq!(model.silence, None);
}

/// Every view there is.
fn views() -> Vec<Model> {
    let plain = watched(|_| {});
    let mut views = vec![plain.clone(), Model::new(Status::default())];
    for key in ['?', 'q'] {
        views.push(plain.clone());
        views.last_mut().unwrap().key(Key::Char(key));
    }
    let mut ended = plain.clone();
    ended.end(End::Signal(9), "a\nb");
    let errors = vec!["e".repeat(300); 32];
    views.extend([ended, watched(move |status| status.errors = errors.clone())]);
    views
}

#[test]
fn every_size_can_be_drawn() {
    for model in views() {
        for width in [0, 1, 3, 9, 40, 77, 129, 130, 300] {
            for height in (0..=12).chain([16, 20, 24, 70]) {
                drawn(&model, Palette::Colours, (width, height));
            }
        }
    }
}

#[test]
fn no_colour_is_used_with_no_color() {
    let is_coloured =
        |buffer: &Buffer| buffer.content.iter().any(|cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset));
    for model in views() {
        assert!(!is_coloured(drawn(&model, Palette::Plain, (80, 24)).buffer()));
        assert!(is_coloured(drawn(&model, Palette::Colours, (80, 24)).buffer()));
    }
}

#[test]
fn nothing_that_moves_a_cursor_reaches_the_screen() {
    let nasty = "a\x1b[2J\r\n\u{7}\u{9b}31m\u{202e}txt.exe\u{2028}\u{feff}b";
    let model = watched(|status| {
        for text in [&mut status.source, &mut status.dest, &mut status.run] {
            *text = nasty.to_owned();
        }
        status.errors = vec![nasty.to_owned()];
        status.objects[0].path = nasty.to_owned();
        status.limit = Some(Limit { cause: nasty.to_owned(), text: nasty.to_owned() });
    });
    let screen = drawn(&model, Palette::Colours, (200, 50)).to_string();
    assert!(screen.contains("a\\u{1b}[2J\\u{d}\\u{a}\\u{7}\\u{9b}31m\\u{202e}txt.exe\\u{2028}\\u{feff}b"), "{screen}");
    let is_unruly = |c: char| (c.is_control() && c != '\n') || ('\u{2028}'..='\u{202e}').contains(&c);
    assert!(!screen.contains(is_unruly), "{screen:?}");
    assert_eq!(printable("caf\u{e9} \u{6f22}"), "caf\u{e9} \u{6f22}");
}

#[test]
fn keys_become_requests() {
    let mut model = Model::new(recorded());
    let send = |request: &str| Some(Action::Send(request.to_owned()));
    assert_eq!(model.key(Key::Char('+')), send("streams=+8"));
    assert_eq!(model.key(Key::Char('-')), send("streams=-8"));
    assert_eq!(model.key(Key::Char('a')), send("streams=auto"));
    assert_eq!(model.key(Key::Char('p')), send("pause"));
    assert_eq!(model.key(Key::Suspend), Some(Action::Suspend));
    for key in [Key::Char('x'), Key::Escape, Key::Enter] {
        assert_eq!(model.key(key), None, "{key:?}");
    }
    let mut few = recorded();
    (few.streams.limit, few.phase) = (3, Phase::Paused);
    model.update(few);
    assert_eq!(model.key(Key::Char('+')), send("streams=+1"));
    assert_eq!(model.key(Key::Char('p')), send("continue"));
}

#[test]
fn leaving_is_asked_for_and_answered() {
    let ask = |answer| {
        let mut model = Model::new(recorded());
        assert_eq!((model.key(Key::Interrupt), model.pane), (None, Pane::Quit));
        let action = model.key(answer);
        assert_eq!((model.pane, model.is_over()), (Pane::None, false));
        model.end(End::Code(20), "");
        (action, model.is_over())
    };
    // Only a job that was told to stop takes the view along.
    assert_eq!(ask(Key::Char('s')), (Some(Action::Send("stop".to_owned())), true));
    assert_eq!(ask(Key::Char('l')), (Some(Action::Leave), false));
    assert_eq!(ask(Key::Interrupt), (Some(Action::Leave), false));
    for key in [Key::Escape, Key::Char('+'), Key::Enter, Key::Char('q')] {
        assert_eq!(ask(key), (None, false));
    }
    let mut model = Model::new(recorded());
    model.end(End::Code(0), "");
    assert_eq!((model.key(Key::Char('+')), model.key(Key::Char('p'))), (None, None));
    assert_eq!(model.key(Key::Char('q')), Some(Action::Leave));
}

#[test]
fn rates_are_those_of_the_same_object() {
    let at = |elapsed_s: f64, objects: &[(&str, u64, u64)]| {
        let object =
            |&(path, done, age_ms): &(&str, u64, u64)| Object { path: path.into(), size: 1 << 20, done, age_ms };
        Status { elapsed_s, objects: objects.iter().map(object).collect(), ..Status::default() }
    };
    let mut model = Model::new(at(1.0, &[("a", 100, 1000), ("b", 500, 500)]));
    model.update(at(3.0, &[("b", 30, 10), ("a", 500, 3000), ("c", 0, 0)]));
    let rates: Vec<_> = model.open.iter().map(|open| (open.object.path.as_str(), open.bytes_per_s)).collect();
    // `b` was begun anew: its rate is that since then.
    assert_eq!(rates, [("a", 200.0), ("b", 3000.0), ("c", 0.0)]);
}

#[test]
fn the_history_has_a_column_a_second_and_a_bound() {
    let at = |elapsed_s, bytes_per_s| Status { elapsed_s, bytes_per_s, ..Status::default() };
    let mut model = Model::new(at(0.2, 1.0));
    for (elapsed_s, bytes_per_s) in [(0.7, 2.0), (1.2, 3.0), (4.0, 4.0), (3.9, 5.0)] {
        model.update(at(elapsed_s, bytes_per_s));
    }
    assert_eq!(model.history.bytes, [2, 3, 4, 4, 5]);
    model.update(at(1e9, 6.0));
    (0..2000).for_each(|second| model.update(at(1e9 + f64::from(second), 7.0)));
    assert_eq!((model.history.bytes.len(), model.history.files.len()), (HISTORY_MAX, HISTORY_MAX));
}
