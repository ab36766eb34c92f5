//! Whose catalog it is: the job's identity, and the `job` file that keeps it as text an administrator can read.
//!
//! ```text
//!   gfast job
//!   format=2
//!   job=1f0c...                        the header's job id
//!   source=/data/old                   bytes escaped as in messages
//!   dest=/data/new
//!   source_root=128:1700000000.5:2049  inode, birth time, device (the last one informs, it is not compared)
//!   dest_root=...
//!   options=...
//!   source_server=...                  of a bucket, where it is; not there before servers were recorded
//!   dest_server=...
//!   crc=89abcdef                       CRC-32 of the lines above
//! ```
//! Identities are compared as the lines they are written as, but for births, of which only two that are told differ.

use std::fmt::Write;

use super::bytes::{Damage, Decoded};
use crate::error::{escape, unescape};
use crate::ring::op::Time;

/// Format of the whole catalog: the job file, the trees, their keys and records. 2: files' records tell their owners.
/// Older ones are read as they are.
const FORMAT: u32 = 2;

/// What makes a job this job and no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobIdentity {
    /// Canonical path of the source.
    pub source: Vec<u8>,
    /// Canonical path of the destination.
    pub dest: Vec<u8>,
    /// The source's root.
    pub source_root: RootId,
    /// The destination's root.
    pub dest_root: RootId,
    /// Options that must not change during a job, encoded by the caller.
    pub options: Vec<u8>,
    /// The server of the source's bucket; empty if it is in none, or if none was recorded.
    pub source_server: String,
    /// The server of the destination's bucket, likewise.
    pub dest_server: String,
}

/// What tells a root from another one mounted or made in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RootId {
    /// Inode number.
    pub ino: u64,
    /// Birth time; zero where the file system has none.
    pub birth: Time,
    /// Device number. It informs only: device numbers change over reboots.
    pub dev: u64,
}

impl RootId {
    /// Whether a root is the one that was recorded, as far as both tell: a kernel or a gfast may tell a birth that
    /// another does not.
    pub fn is(&self, recorded: &RootId) -> bool {
        let are_told = [self, recorded].iter().all(|root| root.birth != Time::default());
        self.ino == recorded.ino && (!are_told || self.birth == recorded.birth)
    }
}

/// How an end of a job is found among those that are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownBy<'a> {
    /// By nothing: it is the other end that tells.
    Nothing,
    /// By its canonical path.
    Path(&'a [u8]),
    /// By its root's inode number, one of these, whatever its path: a device that the kernel may give another name.
    Ino([u64; 3]),
}

impl KnownBy<'_> {
    /// Whether it is the end that was recorded with this path and root.
    pub(super) fn is(&self, path: &[u8], root: &RootId) -> bool {
        match self {
            KnownBy::Nothing => true,
            KnownBy::Path(known) => *known == path,
            KnownBy::Ino(known) => known.contains(&root.ino) && root.birth == Time::default(),
        }
    }
}

/// How a job file's identity differs from the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// It was written by a newer gfast.
    NewerFormat,
    /// Another source or destination.
    Paths,
    /// A bucket of another server.
    Server,
    /// The source's path leads elsewhere now.
    SourceRoot,
    /// The destination's path leads elsewhere now.
    DestRoot,
    /// Other options.
    Options,
}

impl JobIdentity {
    /// Name of the job's folder: the same paths always lead to the same one.
    pub(super) fn folder_name(&self) -> String {
        folder_name(&self.source, &self.dest)
    }

    /// The job file's text.
    pub(super) fn to_text(&self, job_id: u64) -> String {
        let mut text = format!("gfast job\nformat={FORMAT}\njob={job_id:016x}\n{}", self.lines());
        let crc = crc32fast::hash(text.as_bytes());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "crc={crc:08x}");
        text
    }

    /// The job in a line, for messages.
    pub(super) fn to_line(&self) -> String {
        format!("{} -> {}", escape(&self.source), escape(&self.dest))
    }

    fn lines(&self) -> String {
        let servers = self.servers().map(|(name, server)| match server {
            "" => String::new(),
            server => format!("{name}={}\n", escape(server.as_bytes())),
        });
        format!(
            "source={}\ndest={}\nsource_root={}\ndest_root={}\noptions={}\n{}",
            escape(&self.source),
            escape(&self.dest),
            root_text(&self.source_root),
            root_text(&self.dest_root),
            escape(&self.options),
            servers.concat()
        )
    }

    /// The servers of both ends, by the names of their lines.
    fn servers(&self) -> [(&'static str, &str); 2] {
        [("source_server", &self.source_server), ("dest_server", &self.dest_server)]
    }

    /// The servers of an end, theirs and ours, where they are two.
    pub(super) fn other_server(&self, theirs: &JobIdentity) -> Option<(String, String)> {
        let pairs = theirs.servers().into_iter().zip(self.servers());
        let mut pairs = pairs.map(|((_, theirs), (_, ours))| (theirs.to_owned(), ours.to_owned()));
        pairs.find(|(theirs, ours)| !theirs.is_empty() && !ours.is_empty() && theirs != ours)
    }

    /// Whether a job file's text, known to be whole, tells less than this program's would: it is of an older format, or
    /// from before servers were recorded.
    pub(super) fn tells_more_than(&self, text: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(text) else { return false };
        let lacks = |(name, server): (&str, &str)| !server.is_empty() && value_of(text, name).is_none();
        format_of(text).is_some_and(|format| format < FORMAT) || self.servers().into_iter().any(lacks)
    }

    /// Compares with a job file's text: the job id if it is this job.
    pub(super) fn compare(&self, text: &[u8]) -> Decoded<Result<u64, Difference>> {
        let text = std::str::from_utf8(text).map_err(|_| Damage("its job file is not text"))?;
        if format_of(text).is_some_and(|format| format > FORMAT) {
            return Ok(Err(Difference::NewerFormat));
        }
        let (body, crc) = text.rsplit_once("crc=").ok_or(Damage("its job file is cut short"))?;
        if u32::from_str_radix(crc.trim_end(), 16) != Ok(crc32fast::hash(body.as_bytes())) {
            return Err(Damage("its job file's checksum does not fit"));
        }
        let job_id = value_of(body, "job").and_then(|id| u64::from_str_radix(id, 16).ok());
        let job_id = job_id.ok_or(Damage("its job file names no job"))?;
        Ok(self.difference(body).map_or(Ok(job_id), Err))
    }

    /// The job of a job file's text, and its id.
    pub(super) fn parse(text: &[u8]) -> Decoded<(u64, JobIdentity)> {
        let text = std::str::from_utf8(text).map_err(|_| Damage("its job file is not text"))?;
        let bytes = |name| value_of(text, name).and_then(unescape).ok_or(Damage("its job file names no roots"));
        let root = |name| value_of(text, name).and_then(parse_root).ok_or(Damage("its job file names no roots"));
        let server = |name| match value_of(text, name) {
            Some(server) => {
                let server = unescape(server).and_then(|server| String::from_utf8(server).ok());
                server.ok_or(Damage("its job file names no server"))
            }
            None => Ok(String::new()),
        };
        let identity = JobIdentity {
            source: bytes("source")?,
            dest: bytes("dest")?,
            source_root: root("source_root")?,
            dest_root: root("dest_root")?,
            options: bytes("options")?,
            source_server: server("source_server")?,
            dest_server: server("dest_server")?,
        };
        match identity.compare(text.as_bytes())? {
            Ok(job_id) => Ok((job_id, identity)),
            Err(_) => Err(Damage("its job file is of another format")),
        }
    }

    fn difference(&self, theirs: &str) -> Option<Difference> {
        let ours = self.lines();
        let differs = |name| value_of(&ours, name) != value_of(theirs, name);
        let server_differs = |name| value_of(theirs, name).is_some_and(|theirs| value_of(&ours, name) != Some(theirs));
        let recorded = |name| value_of(theirs, name).and_then(parse_root);
        let root_differs = |ours: &RootId, name| recorded(name).is_none_or(|recorded| !ours.is(&recorded));
        let checks = [
            (differs("source") || differs("dest"), Difference::Paths),
            (server_differs("source_server") || server_differs("dest_server"), Difference::Server),
            (root_differs(&self.source_root, "source_root"), Difference::SourceRoot),
            (root_differs(&self.dest_root, "dest_root"), Difference::DestRoot),
            (differs("options"), Difference::Options),
        ];
        checks.into_iter().find(|(differs, _)| *differs).map(|(_, difference)| difference)
    }
}

fn format_of(text: &str) -> Option<u32> {
    value_of(text, "format").and_then(|format| format.parse().ok())
}

/// Name of the folder of the job between two paths.
pub(super) fn folder_name(source: &[u8], dest: &[u8]) -> String {
    let paths = [source, &[0], dest].concat();
    format!("job-{:016x}", super::key::fnv128(&paths) as u64)
}

fn root_text(root: &RootId) -> String {
    format!("{}:{}.{:09}:{}", root.ino, root.birth.secs, root.birth.nanos, root.dev)
}

fn parse_root(text: &str) -> Option<RootId> {
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let [ino, secs, nanos, dev] = parts[..] else { return None };
    let birth = Time { secs: secs.parse().ok()?, nanos: nanos.parse().ok()? };
    Some(RootId { ino: ino.parse().ok()?, birth, dev: dev.parse().ok()? })
}

fn value_of<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.split('\n').find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> JobIdentity {
        let root = |ino| RootId { ino, birth: Time { secs: -1, nanos: 5 }, dev: 7 };
        JobIdentity {
            source: b"/a\ndest=/x\xff\\".to_vec(),
            dest: b"/b=c".to_vec(),
            source_root: root(2),
            dest_root: root(3),
            options: vec![0, 1, b'\n', 255],
            source_server: String::new(),
            dest_server: "site:9000".to_owned(),
        }
    }

    #[test]
    fn its_own_text_is_the_same_job_on_any_device() {
        let mut same = identity();
        same.source_root.dev = 99;
        assert_eq!(same.compare(identity().to_text(77).as_bytes()), Ok(Ok(77)));
        assert_eq!(JobIdentity::parse(identity().to_text(77).as_bytes()), Ok((77, identity())));
    }

    #[test]
    fn a_birth_that_is_not_told_is_no_other() {
        let told = identity();
        let mut untold = identity();
        untold.dest_root.birth = Time::default();
        assert_eq!(told.compare(untold.to_text(77).as_bytes()), Ok(Ok(77)));
        assert_eq!(untold.compare(told.to_text(77).as_bytes()), Ok(Ok(77)));
        untold.dest_root.ino += 1;
        assert_eq!(told.compare(untold.to_text(77).as_bytes()), Ok(Err(Difference::DestRoot)));
        assert_eq!(untold.compare(told.to_text(77).as_bytes()), Ok(Err(Difference::DestRoot)));
    }

    #[test]
    fn every_difference_is_told() {
        let text = identity().to_text(1);
        let told = |change: fn(&mut JobIdentity)| {
            let mut other = identity();
            change(&mut other);
            other.compare(text.as_bytes())
        };
        assert_eq!(told(|other| other.dest.push(b'x')), Ok(Err(Difference::Paths)));
        assert_eq!(told(|other| other.dest_server.push('1')), Ok(Err(Difference::Server)));
        assert_eq!(told(|other| other.source_root.ino += 1), Ok(Err(Difference::SourceRoot)));
        assert_eq!(told(|other| other.dest_root.birth.nanos += 1), Ok(Err(Difference::DestRoot)));
        assert_eq!(told(|other| other.options.clear()), Ok(Err(Difference::Options)));
        let newer = text.replace(&format!("format={FORMAT}"), &format!("format={}", FORMAT + 1));
        assert_ne!(newer, text);
        assert_eq!(identity().compare(newer.as_bytes()), Ok(Err(Difference::NewerFormat)));
    }

    #[test]
    fn a_job_from_before_servers_were_recorded_is_the_same_job() {
        let before = JobIdentity { dest_server: String::new(), ..identity() };
        let text = before.to_text(5);
        assert!(!text.contains("server"), "{text}");
        assert_eq!(identity().compare(text.as_bytes()), Ok(Ok(5)));
        assert!(identity().tells_more_than(text.as_bytes()) && !before.tells_more_than(text.as_bytes()));
        assert!(!identity().tells_more_than(identity().to_text(5).as_bytes()));
        let other = JobIdentity { dest_server: "elsewhere".to_owned(), ..identity() };
        let servers = ("site:9000".to_owned(), "elsewhere".to_owned());
        assert_eq!((other.other_server(&identity()), other.other_server(&before)), (Some(servers), None));
    }

    #[test]
    fn an_end_is_known_by_its_path_or_by_its_root() {
        let device = RootId { ino: 5, birth: Time::default(), dev: 7 };
        let dir = RootId { birth: Time { secs: 1, nanos: 0 }, ..device };
        assert!(KnownBy::Path(b"/a").is(b"/a", &device) && !KnownBy::Path(b"/a").is(b"/b", &device));
        assert!(KnownBy::Ino([4, 4, 5]).is(b"/a", &device) && !KnownBy::Ino([4, 6, 6]).is(b"/a", &device));
        assert!(!KnownBy::Ino([4, 5, 5]).is(b"/a", &dir), "a device has no time of birth");
    }

    #[test]
    fn no_cut_text_and_no_flipped_bit_passes_as_the_job() {
        let text = identity().to_text(77).into_bytes();
        for len in 0..text.len() - 1 {
            assert!(identity().compare(&text[..len]).is_err(), "{len} bytes");
        }
        for bit in 0..(text.len() - 1) * 8 {
            let mut text = text.clone();
            text[bit / 8] ^= 1 << (bit % 8);
            let answer = identity().compare(&text);
            // The case of a hexadecimal digit says nothing.
            assert!(!matches!(answer, Ok(Ok(id)) if id != 77), "bit {bit}: {answer:?}");
        }
    }
}
