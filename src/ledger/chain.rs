//! The running digest of a report's lines: made while it is written, followed when it is checked.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::report::Object;

/// The columns of a CSV report.
const CSV_COLUMNS: &str =
    "path,kind,outcome,size,mtime,ctime,uid,gid,crc64,dest_crc64,level,attempts,losses,error,chain";

/// How the line of columns begins, whichever there are: no object is of this kind.
const CSV_COLUMNS_START: &[u8] = b"path,kind,outcome,";

/// Longest line that is read: a path of any length, four times escaped, is far below.
const LINE_BYTES_MAX: u64 = 1 << 26;
/// Bytes of a link, as it is written.
const LINK_BYTES: usize = 32;
/// What stands before and behind a link in NDJSON.
const JSON_BEFORE: &str = ",\"chain\":\"";
const JSON_BEHIND: &str = "\"}";

/// The digest so far.
pub(super) struct Chain {
    link: [u8; 16],
}

impl Chain {
    /// Before the first line.
    pub fn new() -> Chain {
        let mut chain = Chain { link: [0; 16] };
        chain.extend(b"gfast report 1");
        chain
    }

    /// Takes in a line without its own link.
    fn extend(&mut self, line: &[u8]) {
        let digest = Sha256::new().chain_update(self.link).chain_update(line).finalize();
        self.link.copy_from_slice(&digest[..16]);
    }

    fn hex(&self) -> String {
        self.link.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// An object as a line of NDJSON.
    pub fn json(&mut self, object: Object) -> String {
        let text = object.close();
        let body = text.strip_suffix('}').unwrap_or(&text);
        self.extend(body.as_bytes());
        format!("{body}{JSON_BEFORE}{}{JSON_BEHIND}\n", self.hex())
    }

    /// The names of CSV's columns. They are taken in, and their line has no link.
    pub fn columns(&mut self) -> String {
        self.extend(CSV_COLUMNS.as_bytes());
        format!("{CSV_COLUMNS}\n")
    }

    /// Values as a line of CSV.
    pub fn csv(&mut self, values: &str) -> String {
        self.extend(values.as_bytes());
        format!("{values},{}\n", self.hex())
    }
}

/// A report that is as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Objects in it.
    pub lines: u64,
    /// Its last chain: what to keep elsewhere.
    pub chain: String,
}

/// Follows the chain of a report that was written as NDJSON or CSV, to its end.
pub fn check(path: &Path) -> Result<Checked> {
    let name = path.as_os_str().as_encoded_bytes();
    let unreadable = |error| Error::refused(name, format!("cannot be read: {error}"));
    let wrong = |number: u64, why: &str| Error::refused(name, format!("line {number} {why}"));
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut chain, mut number, mut objects, mut end) = (Chain::new(), 0, 0, None);
    let mut line = Vec::new();
    // Ends: every turn reads a line, or reaches the end.
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut reader, LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        number += 1;
        if end.is_some() {
            return Err(wrong(number, "comes after the end: it was put in"));
        }
        if line.starts_with(CSV_COLUMNS_START) {
            chain.extend(line.strip_suffix(b"\n").unwrap_or(&line));
            continue;
        }
        let (body, link) = split(&line).ok_or_else(|| wrong(number, "is no line of a report, or was cut"))?;
        end = end_of(body);
        chain.extend(body);
        if chain.hex().as_bytes() != link {
            return Err(wrong(number, "does not fit those before it: it was changed, or lines are missing before it"));
        }
        let is_about_the_job = body.starts_with(b"#") || body.starts_with(b"{\"summary\":") || end.is_some();
        objects += u64::from(!is_about_the_job);
    }
    match end {
        Some(lines) if lines == objects => Ok(Checked { lines, chain: chain.hex() }),
        Some(_) => Err(wrong(number, "names another number of objects than there are")),
        None => Err(wrong(number, "is the last one, but not the end: the report was cut")),
    }
}

/// A line's body and its link.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\n")?;
    if line.starts_with(b"{") {
        let (body, link) = line.strip_suffix(JSON_BEHIND.as_bytes())?.split_last_chunk::<LINK_BYTES>()?;
        return Some((body.strip_suffix(JSON_BEFORE.as_bytes())?, link));
    }
    let (body, link) = line.split_last_chunk::<LINK_BYTES>()?;
    Some((body.strip_suffix(b",")?, link))
}

/// The number of objects, if this is the last line.
fn end_of(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    text.strip_prefix("# end: ").or_else(|| text.strip_prefix("{\"end\":"))?.parse().ok()
}
