//! The catalog's objects one by one, directory by directory, and each as a line.

use std::collections::VecDeque;

use crate::catalog::{
    BATCH_UNSEALED, Catalog, Checksum, DirId, FileRecord, Header, JobIdentity, Owner, Proof, Record, Stamp, Status,
    shown_name,
};
use crate::error::{Result, escape, join};
use crate::report::{Loss, LossSet, Object};
use crate::ring::{Name, Time};

/// Records read at a time.
const PAGE: usize = 1024;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Content, name and metadata are durable at the destination.
    Completed,
    /// Its content is durable, its times may not be.
    Durable,
    /// Written, never synced (`--sync none`).
    Written,
    /// It failed; a later run tries again.
    Failed,
    /// Begun and not done.
    InProgress,
    /// Not begun.
    Pending,
    /// The destination cannot hold such an object.
    NotMade,
}

impl Outcome {
    /// All of them, in the order of their indexes.
    pub const ALL: [Outcome; 7] = [
        Outcome::Completed,
        Outcome::Durable,
        Outcome::Written,
        Outcome::Failed,
        Outcome::InProgress,
        Outcome::Pending,
        Outcome::NotMade,
    ];

    /// Its name in all formats.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Durable => "durable",
            Outcome::Written => "written",
            Outcome::Failed => "failed",
            Outcome::InProgress => "in_progress",
            Outcome::Pending => "pending",
            Outcome::NotMade => "not_made",
        }
    }

    fn of(record: &FileRecord, header: &Header) -> Outcome {
        match record.status {
            Status::Done | Status::Written if record.losses.has_object() => Outcome::NotMade,
            Status::Done if record.batch != BATCH_UNSEALED && record.batch <= header.completed_batch => {
                Outcome::Completed
            }
            Status::Done => Outcome::Durable,
            Status::Written => Outcome::Written,
            Status::Failed => Outcome::Failed,
            Status::InProgress => Outcome::InProgress,
            Status::Pending => Outcome::Pending,
        }
    }
}

/// What is known of one object.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its path below the root; empty for the root.
    pub path: Vec<u8>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// What became of it.
    pub outcome: Outcome,
    /// How far it has come; none for a directory.
    pub status: Option<Status>,
    /// Its size in bytes as it was copied.
    pub size: u64,
    /// Its last change as it was copied.
    pub mtime: Time,
    /// Likewise of anything, unless it was too near to the moment of the copy to prove anything.
    pub ctime: Option<Time>,
    /// Whose it was in the source, where that is known.
    pub owner: Option<Owner>,
    /// Checksum of its content, as it came from the source.
    pub checksum: Option<Checksum>,
    /// CRC64 of what the destination holds, as far as it was read back or the destination's server told it.
    pub dest_crc64: Option<u64>,
    /// How often it was tried, over all runs until it was there; none of a directory and of what nobody has tried.
    pub attempts: Option<u32>,
    /// What it lost.
    pub losses: LossSet,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether it is another name of a file that is counted by its first.
    pub is_further: bool,
}

impl Line {
    fn of_file(path: Vec<u8>, record: FileRecord, header: &Header, identity: &JobIdentity) -> Line {
        let is_told = |checksum: &Checksum| match checksum.proof {
            Proof::ReadBack => true,
            // On the way down it is the source that has a server.
            Proof::Server => identity.dest.starts_with(b"s3://"),
            Proof::Length | Proof::Written => false,
        };
        Line {
            path,
            is_dir: false,
            outcome: Outcome::of(&record, header),
            status: Some(record.status),
            size: record.stamp.size,
            mtime: record.stamp.mtime,
            ctime: (!record.stamp.is_racy()).then_some(record.stamp.ctime),
            owner: record.owner,
            dest_crc64: record.checksum.filter(is_told).map(|checksum| checksum.crc64),
            checksum: record.checksum,
            attempts: match &record.failure {
                Some(failure) => Some(failure.attempts),
                None => is_copied(record.status).then_some(1),
            },
            losses: record.losses,
            error: record
                .failure
                .filter(|_| record.status == Status::Failed)
                .map(|failure| format!("cannot {}: {}", failure.verb, failure.cause)),
            is_further: false,
        }
    }

    fn shown_path(&self) -> String {
        if self.path.is_empty() { ".".to_owned() } else { escape(&self.path) }
    }

    fn kind(&self) -> &'static str {
        if self.is_dir { "directory" } else { "object" }
    }

    fn level(&self) -> &'static str {
        match self.checksum.map(|checksum| checksum.proof) {
            None => "none",
            Some(Proof::Length) => "length",
            Some(Proof::Written) => "written",
            Some(Proof::Server) => "server",
            Some(Proof::ReadBack) => "verified",
        }
    }

    /// The checksums of source and destination.
    fn crc64s(&self) -> [Option<String>; 2] {
        [self.checksum.map(|checksum| checksum.crc64), self.dest_crc64].map(|crc64| Some(format!("{:016x}", crc64?)))
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let owner = self.owner.map(|Owner { uid, gid }| format!(" (owner {uid}:{gid})")).unwrap_or_default();
        let attempts = self.attempts.unwrap_or_default();
        let error = self.error.as_ref().map(|error| format!(" ({error}, {attempts} attempts)"));
        let losses: Vec<&str> = self.losses.iter().map(Loss::name).collect();
        let losses = if losses.is_empty() { String::new() } else { format!(" (lost: {})", losses.join(", ")) };
        format!("{}: {}{owner}{}{losses}\n", self.outcome.name(), self.shown_path(), error.unwrap_or_default())
    }

    /// As an object.
    pub(super) fn json(&self) -> Object {
        let mut object = Object::default();
        object.text("path", &self.shown_path());
        object.text("kind", self.kind());
        object.text("outcome", self.outcome.name());
        object.number("size", self.size);
        object.text("mtime", &time(self.mtime));
        object.text_or_null("ctime", self.ctime.map(time).as_deref());
        object.number_or_null("uid", self.owner.map(|owner| owner.uid.into()));
        object.number_or_null("gid", self.owner.map(|owner| owner.gid.into()));
        let [source_crc64, dest_crc64] = self.crc64s();
        object.text_or_null("crc64", source_crc64.as_deref());
        object.text_or_null("dest_crc64", dest_crc64.as_deref());
        object.text("level", self.level());
        object.number_or_null("attempts", self.attempts.map(u64::from));
        object.texts("losses", &self.losses.iter().map(Loss::key).collect::<Vec<_>>());
        object.text_or_null("error", self.error.as_deref());
        object
    }

    /// As values, in the order of the columns.
    pub(super) fn csv(&self) -> String {
        let losses: Vec<&str> = self.losses.iter().map(Loss::key).collect();
        let [source_crc64, dest_crc64] = self.crc64s();
        let values = [
            quote_text(&self.shown_path()),
            self.kind().to_owned(),
            self.outcome.name().to_owned(),
            self.size.to_string(),
            time(self.mtime),
            self.ctime.map(time).unwrap_or_default(),
            self.owner.map(|owner| owner.uid.to_string()).unwrap_or_default(),
            self.owner.map(|owner| owner.gid.to_string()).unwrap_or_default(),
            source_crc64.unwrap_or_default(),
            dest_crc64.unwrap_or_default(),
            self.level().to_owned(),
            self.attempts.map(|attempts| attempts.to_string()).unwrap_or_default(),
            losses.join(" "),
            quote_text(&escape(self.error.as_deref().unwrap_or_default().as_bytes())),
        ];
        values.join(",")
    }
}

/// Seconds since 1970, exactly. The system counts nanoseconds upwards from the second before, also where that is less
/// than 0.
fn time(Time { secs, nanos }: Time) -> String {
    match secs < 0 && nanos > 0 {
        true => format!("-{}.{:09}", secs.unsigned_abs() - 1, 1_000_000_000 - nanos),
        false => format!("{secs}.{nanos:09}"),
    }
}

/// A text that a spreadsheet would take for a formula has an apostrophe before it, and so has one that begins with an
/// apostrophe: taking one away gives back what it was.
fn quote_text(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\'']) {
        true => quote(&format!("'{text}")),
        false => quote(text),
    }
}

/// A value in quotes where it needs them (RFC 4180). One that begins with `#` would pass as a comment.
fn quote(text: &str) -> String {
    match text.contains(['"', ',']) || text.starts_with('#') {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// A directory whose records are being read.
struct Level {
    id: DirId,
    /// Bytes of its path, which is the beginning of the paths of those below it.
    path_bytes: usize,
    page: VecDeque<(Name, Record)>,
    after: Option<Name>,
}

/// Calls `take` for every object, each directory before what it holds. Holds a page of records for each level of the
/// tree (I4).
pub(super) fn each_line(
    (catalog, identity): (&Catalog, &JobIdentity),
    take: &mut dyn FnMut(Line) -> Result<()>,
) -> Result<()> {
    let header = catalog.header();
    let mut levels = vec![Level { id: DirId::ROOT, path_bytes: 0, page: VecDeque::new(), after: None }];
    // One path for all levels: a copy for each would grow with the square of the depth.
    let mut dir_path = Vec::new();
    take(dir_line(catalog, DirId::ROOT, Vec::new())?)?;
    // Ends: every turn takes a record, or leaves a directory.
    while let Some(level) = levels.last_mut() {
        if level.page.is_empty() {
            let page = catalog.reader()?.entries(level.id, level.after.as_deref(), PAGE)?;
            level.after = page.last().map(|(name, _)| name.clone());
            level.page = page.into();
        }
        let Some((name, record)) = level.page.pop_front() else {
            levels.pop();
            continue;
        };
        dir_path.truncate(level.path_bytes);
        // The directory itself, where it could not be read, has an empty name.
        let path = if name.is_empty() { dir_path.clone() } else { join(&dir_path, shown_name(&name)) };
        match record {
            Record::File(record) => {
                let is_further = is_further(catalog, (level.id, &name), &record)?;
                take(Line { is_further, ..Line::of_file(path, record, &header, identity) })?;
            }
            Record::Dir(id) => {
                take(dir_line(catalog, id, path.clone())?)?;
                levels.push(Level { id, path_bytes: path.len(), page: VecDeque::new(), after: None });
                dir_path = path;
            }
        }
    }
    Ok(())
}

/// Whether a name is a hard link to a file that is recorded by another name, its first.
fn is_further(catalog: &Catalog, (dir, name): (DirId, &Name), record: &FileRecord) -> Result<bool> {
    let (stamp, reader) = (record.stamp, catalog.reader()?);
    let Some(dir_stamp) = reader.dir(dir)?.and_then(|dir| dir.stamp).filter(|_| stamp.ino != 0) else {
        return Ok(false);
    };
    let Some(first) = reader.link(dir_stamp.dev, stamp.ino)? else { return Ok(false) };
    let is_itself = (first.dir, &first.name) == (dir, name);
    // An inode of the same number may be another file by now.
    let is_one = |first: &Stamp| (first.ino, first.size, first.mtime) == (stamp.ino, stamp.size, stamp.mtime);
    Ok(!is_itself
        && match reader.entry(first.dir, &first.name)? {
            Some(Record::File(first)) => is_copied(first.status) && is_one(&first.stamp),
            _ => false,
        })
}

/// Whether it is at the destination.
pub(super) fn is_copied(status: Status) -> bool {
    matches!(status, Status::Done | Status::Written)
}

fn dir_line(catalog: &Catalog, id: DirId, path: Vec<u8>) -> Result<Line> {
    use crate::catalog::DirState::{Unfinished, Unlisted};
    let reader = catalog.reader()?;
    let record = reader.dir(id)?.unwrap_or_default();
    let stamp = record.stamp;
    let outcome = match stamp {
        None => Outcome::Pending,
        Some(_) if reader.is_open_dir(id, Unlisted)? || reader.is_open_dir(id, Unfinished)? => Outcome::InProgress,
        Some(_) => Outcome::Completed,
    };
    let owner = stamp.map(|stamp| Owner { uid: stamp.uid, gid: stamp.gid });
    let stamp = stamp.unwrap_or_default();
    Ok(Line {
        path,
        is_dir: true,
        outcome,
        status: None,
        size: 0,
        mtime: stamp.mtime,
        ctime: Some(stamp.ctime),
        owner,
        checksum: None,
        dest_crc64: None,
        attempts: None,
        losses: record.losses,
        error: None,
        is_further: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_what_they_are() {
        let text = |secs, nanos| time(Time { secs, nanos });
        assert_eq!([text(-1, 500_000_000), text(-2, 250_000_000)], ["-0.500000000", "-1.750000000"]);
        assert_eq!(
            [text(-1, 0), text(0, 1), text(i64::MIN, 0)],
            ["-1.000000000", "0.000000001", "-9223372036854775808.000000000"]
        );
    }

    #[test]
    fn values_that_would_break_a_line_are_quoted() {
        assert_eq!(quote("plain text"), "plain text");
        assert_eq!(quote("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quote("# end: 3"), "\"# end: 3\"");
        assert_eq!(quote_text("=1+\"1\""), "\"'=1+\"\"1\"\"\"");
        let texts = ["-a", "+a", "@a", "'a", "=a", "a=", "\\x09"].map(quote_text);
        assert_eq!(texts, ["'-a", "'+a", "'@a", "''a", "'=a", "a=", "\\x09"]);
        assert!(Outcome::ALL.iter().enumerate().all(|(index, outcome)| index == *outcome as usize));
    }
}
