//! What a comparison says as it goes: one line an object that differs, and what it comes to at the end.
//!
//! ```text
//! text    content, mtime: dir/name          escaped, so that a line is a line
//! NDJSON  {"path":"dir/name","differs":["content","mtime"],"offset":1048576}   ...   {"summary":{...}}
//! paths   dir/name NUL                      as they are; the summary goes to stderr
//! ```

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::compare::{Aspect, Aspects};
use super::sample::Sampled;
use crate::error::{Error, escape};
use crate::report::{Console, Object, bytes, count, duration};

/// How differences are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
    /// Paths with a NUL behind each.
    Paths,
}

/// Where differences go, and how many there were.
pub struct Findings {
    /// How they are written.
    form: Form,
    /// Where to.
    out: Mutex<Box<dyn Write + Send>>,
    /// Whether something could not be written.
    is_lost: AtomicBool,
    /// Objects by what differs.
    counts: [AtomicU64; Aspect::ALL.len()],
    /// Objects that differ.
    different: AtomicU64,
    /// Of them, directories that a list of paths leaves out.
    unlisted: AtomicU64,
    /// Objects that could not be compared.
    troubles: AtomicU64,
    /// Says what could not be compared.
    console: Arc<Console>,
}

/// Errors said in full; the rest is counted.
const TROUBLES_SHOWN_MAX: u64 = 100;

impl Findings {
    /// Findings written to `out`.
    pub fn new(form: Form, out: Box<dyn Write + Send>, console: Arc<Console>) -> Findings {
        Findings {
            form,
            out: Mutex::new(out),
            is_lost: AtomicBool::new(false),
            counts: Default::default(),
            different: AtomicU64::new(0),
            unlisted: AtomicU64::new(0),
            troubles: AtomicU64::new(0),
            console,
        }
    }

    /// Says that an object differs; `offset` is where its bytes begin to, as far as that is known.
    pub fn differ(&self, path: &[u8], aspects: Aspects, offset: Option<u64>) {
        let path = if path.is_empty() { b"." } else { path };
        self.count(aspects);
        let names: Vec<&str> = aspects.iter().map(Aspect::name).collect();
        let line = match self.form {
            Form::Text => format!("{}: {}\n", names.join(", "), escape(path)).into_bytes(),
            Form::Json => {
                let mut object = Object::default();
                object.text("path", &escape(path));
                object.texts("differs", &names);
                if let Some(offset) = offset {
                    object.number("offset", offset);
                }
                (object.close() + "\n").into_bytes()
            }
            Form::Paths => [path, b"\0"].concat(),
        };
        self.write(&line);
    }

    /// Says that a directory's own metadata differs. As a path of a list it would stand for all that lies below it: in
    /// one it is counted only.
    pub fn differ_dir(&self, path: &[u8], aspects: Aspects) {
        if self.form != Form::Paths || aspects.has(Aspect::Type) {
            return self.differ(path, aspects, None);
        }
        self.unlisted.fetch_add(1, Ordering::Relaxed);
        self.count(aspects);
    }

    fn count(&self, aspects: Aspects) {
        self.different.fetch_add(1, Ordering::Relaxed);
        for aspect in aspects.iter() {
            self.counts[aspect as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Says that an object could not be compared.
    pub fn trouble(&self, error: &Error) {
        let before = self.troubles.fetch_add(1, Ordering::Relaxed);
        if before < TROUBLES_SHOWN_MAX {
            self.console.error(&format!("gfast: {error}"));
        }
    }

    /// Objects that differ.
    pub fn different(&self) -> u64 {
        self.different.load(Ordering::Relaxed)
    }

    /// Objects that could not be compared, and one more if a line was lost.
    pub fn troubles(&self) -> u64 {
        self.troubles.load(Ordering::Relaxed) + u64::from(self.is_lost.load(Ordering::Relaxed))
    }

    /// Writes what is buffered.
    pub fn flush(&self) {
        let flushed = self.out.lock().flush();
        self.note(flushed);
    }

    /// Writes what it came to, in its form.
    pub fn conclude(&self, sum: &Sum) {
        match self.form {
            Form::Json => self.write((self.json(sum) + "\n").as_bytes()),
            Form::Text => self.write(self.text(sum).as_bytes()),
            Form::Paths => self.text(sum).lines().for_each(|line| self.console.note(line)),
        }
        self.flush();
    }

    fn write(&self, line: &[u8]) {
        let written = self.out.lock().write_all(line);
        self.note(written);
    }

    /// A reader that has gone away wanted no more; a line that is lost otherwise is trouble, said once.
    fn note(&self, written: std::io::Result<()>) {
        if let Err(error) = written
            && error.kind() != ErrorKind::BrokenPipe
            && !self.is_lost.swap(true, Ordering::Relaxed)
        {
            self.console.error(&format!("gfast: cannot write to stdout: {error}"));
        }
    }

    fn text(&self, sum: &Sum) -> String {
        let mut lines = vec![format!(
            "gfast verify: {} in {}: {} objects compared, {} read",
            sum.verdict,
            duration(sum.elapsed),
            count(sum.objects),
            bytes(sum.bytes_read)
        )];
        let counts =
            Aspect::ALL.iter().zip(&self.counts).map(|(aspect, count)| (aspect, count.load(Ordering::Relaxed)));
        let counts: Vec<String> = counts
            .filter(|(_, count)| *count > 0)
            .map(|(aspect, n)| format!("{} {}", count(n), aspect.name()))
            .collect();
        if !counts.is_empty() {
            lines.push(format!("  different: {} ({})", count(self.different()), counts.join(", ")));
        }
        let unlisted = self.unlisted.load(Ordering::Relaxed);
        if unlisted > 0 {
            lines.push(format!("  directories whose own metadata differs, left out of the list: {}", count(unlisted)));
        }
        if self.troubles() > 0 {
            lines.push(format!("  not compared: {}", count(self.troubles())));
        }
        if sum.unproved > 0 {
            lines.push(format!("  without a recorded checksum, so by size and time only: {}", count(sum.unproved)));
        }
        if sum.unchecked_links > 0 {
            lines.push(format!("  hard links not compared, for want of room: {}", count(sum.unchecked_links)));
        }
        if sum.cached > 0 {
            lines.push(format!("  read through a page cache that was emptied first: {} files", count(sum.cached)));
        }
        lines.extend(sum.sampled.map(|sampled| format!("  {}", sampled.text())));
        lines.join("\n") + "\n"
    }

    fn json(&self, sum: &Sum) -> String {
        let mut object = Object::default();
        object.text("verdict", sum.verdict);
        object.fraction("seconds", sum.elapsed.as_secs_f64());
        for (key, value) in [
            ("objects", sum.objects),
            ("bytes_read", sum.bytes_read),
            ("different", self.different()),
            ("not_compared", self.troubles()),
            ("without_checksum", sum.unproved),
            ("links_not_compared", sum.unchecked_links),
            ("read_through_cache", sum.cached),
        ] {
            object.number(key, value);
        }
        let mut by = Object::default();
        for (aspect, count) in Aspect::ALL.iter().zip(&self.counts) {
            by.number(aspect.name(), count.load(Ordering::Relaxed));
        }
        object.object("by", by);
        if let Some(sampled) = sum.sampled {
            object.object("sample", sampled.json());
        }
        let mut line = Object::default();
        line.object("summary", object);
        line.close()
    }
}

/// What a comparison came to.
#[derive(Clone, Debug)]
pub struct Sum {
    /// "same", "different" or "trouble".
    pub verdict: &'static str,
    /// Wall-clock time.
    pub elapsed: std::time::Duration,
    /// Objects looked at, directories included.
    pub objects: u64,
    /// Bytes read, from both sides together.
    pub bytes_read: u64,
    /// Files for which the catalog has no checksum.
    pub unproved: u64,
    /// Names whose hard links were not compared.
    pub unchecked_links: u64,
    /// Files of the destination that could not be read past the page cache.
    pub cached: u64,
    /// What was sampled.
    pub sampled: Option<Sampled>,
}
