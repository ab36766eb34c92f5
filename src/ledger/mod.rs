//! report: what a job's catalog says of every object, as lines that vouch for each other.
//!
//! ```text
//! text     the summary, and the objects that are asked for (--failed, --losses)
//! NDJSON   {"summary":{..},"chain":"<h0>"}   {"path":..,"chain":"<h1>"}  ...  {"end":N,"chain":"<hN>"}
//! CSV      # key: value,<h0>  ...  path,kind,..,chain   a/b,object,..,<h1>  ...  # end: N,<hN>
//! chain    the first 16 bytes of SHA-256(the chain before, this line up to its own chain)
//! ```
//! A line that was changed, left out, put in or moved does not fit the chain, and a report that was cut has no end.
//! Who keeps the last chain elsewhere can tell that the whole report is the one it was.

mod chain;
mod walk;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub use chain::check;
pub use walk::Line;

use crate::catalog::{Catalog, JobIdentity, JobStatus};
use crate::error::{Error, Result, escape};
use crate::report::{Loss, Note, Object, bytes, count};
use chain::Chain;
use walk::{Outcome, each_line, is_copied};

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Ndjson,
    /// Comma-separated values (RFC 4180), with comment lines.
    Csv,
}

/// Which objects a report lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Those that failed.
    pub failed: bool,
    /// Those that lost metadata.
    pub losses: bool,
}

impl Wanted {
    fn is_all(self) -> bool {
        self == Wanted::default()
    }

    fn has(self, line: &Line) -> bool {
        let is_failed = self.failed && line.outcome == Outcome::Failed;
        self.is_all() || is_failed || (self.losses && !line.losses.is_empty())
    }
}

/// A report, as asked for.
#[derive(Clone, Debug)]
pub enum Request {
    /// To be written.
    Write {
        /// Where the job's state is kept.
        state_dir: PathBuf,
        /// Which job, where there are several: by its destination.
        dest: Option<PathBuf>,
        /// Which objects.
        wanted: Wanted,
        /// How.
        format: Format,
    },
    /// To be checked.
    Check(PathBuf),
}

/// Does what is asked for, with results to `out`.
pub fn run(request: &Request, out: &mut dyn Write) -> Result<()> {
    match request {
        Request::Check(path) => {
            let checked = check(path)?;
            write(out, &format!("intact: {} lines, chain {}\n", count(checked.lines), checked.chain))
        }
        Request::Write { state_dir, dest, wanted, format } => {
            // The catalog knows canonical paths; one that is not there any more is taken as it was typed.
            let dest = dest.as_ref().map(|dest| std::fs::canonicalize(dest).unwrap_or_else(|_| dest.clone()));
            let dest = dest.as_deref().map(|dest: &Path| name_of(dest.as_os_str().as_encoded_bytes()));
            let (catalog, identity) = Catalog::open_recorded(state_dir, dest.as_deref())?;
            let mut sum = Sum::default();
            each_line((&catalog, &identity), &mut |line| {
                sum.add(&line);
                Ok(())
            })?;
            let facts = facts(&catalog, &identity, &sum)?;
            match format {
                Format::Text => write_text(out, (&catalog, &identity), &facts, *wanted),
                Format::Ndjson => write_ndjson(out, (&catalog, &identity), &facts, *wanted),
                Format::Csv => write_csv(out, (&catalog, &identity), &facts, *wanted),
            }
        }
    }
}

/// A destination as the catalog names it: what lies below a prefix of a bucket ends in a slash.
fn name_of(dest: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dest.starts_with(b"s3://") && !dest.ends_with(b"/") { b"/" } else { b"" };
    [dest, slash].concat()
}

/// What all objects come to.
#[derive(Debug, Default)]
struct Sum {
    /// Objects by what became of them.
    outcomes: [u64; Outcome::ALL.len()],
    /// Directories.
    dirs: u64,
    /// Bytes of content of what arrived.
    bytes: u64,
    /// Objects with a checksum.
    checksums: u64,
    /// Objects by what they lost.
    losses: [u64; Loss::ALL.len()],
}

impl Sum {
    fn add(&mut self, line: &Line) {
        self.outcomes[line.outcome as usize] += 1;
        self.dirs += u64::from(line.is_dir);
        self.checksums += u64::from(line.checksum.is_some());
        let is_there = line.status.is_some_and(is_copied) && line.outcome != Outcome::NotMade;
        if is_there && !line.is_further {
            self.bytes += line.size;
        }
        line.losses.iter().for_each(|loss| self.losses[loss as usize] += 1);
    }
}

/// One line of a summary: its key, as text, and as a number where it is one.
type Fact = (String, String, Option<u64>);

fn facts(catalog: &Catalog, identity: &JobIdentity, sum: &Sum) -> Result<Vec<Fact>> {
    let header = catalog.header();
    let text = |key: &str, value: String| (key.to_owned(), value, None);
    let number = |key: &str, value: u64| (key.to_owned(), count(value), Some(value));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let status = if header.status == JobStatus::Finished { "finished" } else { "not finished" };
    let mut facts = vec![
        text("source", escape(&identity.source)),
        text("dest", escape(&identity.dest)),
        text("job", format!("{:016x}", header.job_id)),
        text("version", env!("CARGO_PKG_VERSION").to_owned()),
        number("written_at", now),
        number("pass", header.pass.into()),
        text("status", status.to_owned()),
        number("directories", sum.dirs),
        ("bytes".to_owned(), bytes(sum.bytes), Some(sum.bytes)),
        number("with_checksum", sum.checksums),
    ];
    facts.extend(Outcome::ALL.map(|outcome| number(outcome.name(), sum.outcomes[outcome as usize])));
    let notes = catalog.reader()?.notes()?;
    facts.push(number("changes", notes.len() as u64));
    let losses = Loss::ALL.into_iter().filter(|loss| sum.losses[*loss as usize] > 0);
    facts.extend(losses.map(|loss| number(&format!("lost_{}", loss.key()), sum.losses[loss as usize])));
    facts.extend(notes.iter().enumerate().map(|(nth, (_, note))| text(&format!("change_{}", nth + 1), change(note))));
    Ok(facts)
}

/// A change of the running job: when, by UTC, and what.
fn change(note: &Note) -> String {
    let at = i64::try_from(note.at_secs).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    format!("{} {}", at.map_or_else(String::new, |at| at.to_string()), note.text)
}

fn write_text(out: &mut dyn Write, recorded: (&Catalog, &JobIdentity), facts: &[Fact], wanted: Wanted) -> Result<()> {
    write(out, "gfast report\n")?;
    for (key, value, _) in facts.iter().filter(|(key, ..)| key != "written_at") {
        write(out, &format!("  {:<16} {value}\n", key.replace('_', " ")))?;
    }
    if wanted.is_all() {
        return Ok(());
    }
    each_line(recorded, &mut |line| match wanted.has(&line) {
        true => write(out, &line.text()),
        false => Ok(()),
    })
}

fn write_ndjson(out: &mut dyn Write, recorded: (&Catalog, &JobIdentity), facts: &[Fact], wanted: Wanted) -> Result<()> {
    let mut chain = Chain::new();
    let mut summary = Object::default();
    for (key, value, figure) in facts {
        match figure {
            Some(figure) => summary.number(key, *figure),
            None => summary.text(key, value),
        }
    }
    let mut first = Object::default();
    first.object("summary", summary);
    write(out, &chain.json(first))?;
    let mut lines = 0;
    each_line(recorded, &mut |line| {
        if !wanted.has(&line) {
            return Ok(());
        }
        lines += 1;
        write(out, &chain.json(line.json()))
    })?;
    let mut last = Object::default();
    last.number("end", lines);
    write(out, &chain.json(last))
}

fn write_csv(out: &mut dyn Write, recorded: (&Catalog, &JobIdentity), facts: &[Fact], wanted: Wanted) -> Result<()> {
    let mut chain = Chain::new();
    for (key, value, figure) in facts {
        let value = figure.map_or_else(|| value.clone(), |figure| figure.to_string());
        write(out, &chain.csv(&format!("# {key}: {value}")))?;
    }
    write(out, &chain.columns())?;
    let mut lines = 0u64;
    each_line(recorded, &mut |line| {
        if !wanted.has(&line) {
            return Ok(());
        }
        lines += 1;
        write(out, &chain.csv(&line.csv()))
    })?;
    write(out, &chain.csv(&format!("# end: {lines}")))
}

/// Writes to stdout. A reader that has gone away is told as an error, too: half a report is none.
fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    let written = out.write_all(text.as_bytes());
    written.map_err(|error| Error::refused("stdout", format!("the report cannot be written: {error}")))
}
