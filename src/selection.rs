//! What a job is about: all that its rules take and, where there is a list of paths, what that names.
//!
//! A list is held in memory as it is read. What of it the source turned out to have is marked as it is met, so that
//! the end of a pass can tell what became of the rest: every listed path is copied, or has vanished, or fails. Paths
//! are bytes, relative to the root, without a slash at either end.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::digest::crc64;
use crate::error::{Error, Result};
use crate::filter::{Filter, Sort};

/// What a job is about: all that its rules take and its list names.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The rules.
    pub filter: Filter,
    /// The list, where there is one.
    pub list: Option<Selection>,
}

impl Choice {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.filter.is_empty() && self.list.is_none()
    }

    /// Whether the object at `path` is part of the job, given that the directory it lies in is.
    pub fn takes(&self, path: &[u8], sort: Sort) -> bool {
        let is_listed = self.list.as_ref().is_none_or(|list| match list.has(path) {
            Listed::Whole => true,
            Listed::Partly => sort == Sort::Dir,
            Listed::No => false,
        });
        is_listed && self.filter.takes(path, sort)
    }

    /// Likewise for a name that the source has: the list need not ask what became of it.
    pub fn meets(&self, path: &[u8], sort: Sort) -> bool {
        let is_taken = self.takes(path, sort);
        if is_taken && let Some(list) = &self.list {
            list.meet(path);
        }
        is_taken
    }

    /// Whether a name that the source lacks may go from the destination. One that the list names itself stays, as with
    /// rsync: a slip in a list removes nothing. So does what leads to one.
    pub fn clears(&self, path: &[u8], sort: Sort) -> bool {
        let parent = path.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |at| &path[..at]);
        self.takes(path, sort) && self.list.as_ref().is_none_or(|list| list.has(parent) == Listed::Whole)
    }

    /// Whether the rules leave a path out, or a directory above it.
    pub fn rules_out(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut above = slashes.map(|(at, _)| &path[..at]);
        above.any(|dir| !self.filter.takes(dir, Sort::Dir)) || !self.filter.takes(path, Sort::Other)
    }

    /// The paths of the list that nobody met in the source.
    pub fn unmet(&self) -> impl Iterator<Item = &[u8]> {
        self.list.iter().flat_map(Selection::unmet)
    }

    /// The names to look at in a directory of which only a part is listed; `None` where it is to be read.
    pub fn names_in(&self, dir: &[u8]) -> Option<Vec<&[u8]>> {
        self.list.as_ref().filter(|list| list.has(dir) != Listed::Whole).map(|list| list.names_in(dir))
    }

    /// What tells this choice from others, as a job's options are recorded; empty if nothing is left out.
    pub fn to_text(&self) -> String {
        let filter = (!self.filter.is_empty()).then(|| format!(" filter={}", self.filter.to_text()));
        let list = self.list.as_ref().map(|list| format!(" list={:016x}", list.digest()));
        filter.into_iter().chain(list).collect()
    }
}

/// Reads what a job is about: its rules, and its list if it has one.
pub fn read_choice(filter: &Filter, files_from: Option<&Path>) -> Result<Choice> {
    let filter = filter.clone();
    let Some(path) = files_from else { return Ok(Choice { filter, list: None }) };
    let name = path.as_os_str().as_encoded_bytes();
    let mut text = Vec::new();
    let read = match name {
        b"-" => std::io::stdin().lock().read_to_end(&mut text).map(drop),
        _ => std::fs::read(path).map(|bytes| text = bytes),
    };
    read.map_err(|error| Error::refused(name, format!("the list of files cannot be read: {error}")))?;
    let list = Selection::parse(&text).map_err(|bad| match bad {
        BadList::Upwards(line) => Error::refused(line, "a list of files may not hold `..`"),
        BadList::Lines => {
            Error::refused(name, r"the list has its paths on lines, not a NUL between them: tr '\n' '\0' makes one")
        }
    })?;
    Ok(Choice { filter, list: Some(list) })
}

/// A list of paths: these objects, and all below those that are directories.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Sorted by names, without those that lie below another one.
    paths: Vec<Vec<u8>>,
    /// Those, sorted likewise.
    below: Vec<Vec<u8>>,
    /// Which were met in the source: of `paths`, then of `below`.
    met: Arc<[AtomicBool]>,
}

/// What is wrong with a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadList {
    /// This path holds `..`.
    Upwards(Vec<u8>),
    /// It holds newlines and no NUL: its paths stand on lines.
    Lines,
}

/// What a list says of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is listed, or lies below what is.
    Whole,
    /// Something below it is listed.
    Partly,
    /// Neither.
    No,
}

impl Selection {
    /// Reads paths relative to the root, with a NUL behind or between them. Slashes at the ends and `.` count for
    /// nothing; `..` is refused (I8), and so is a list of lines: it would be one path, which no source has.
    pub fn parse(text: &[u8]) -> std::result::Result<Selection, BadList> {
        if text.contains(&b'\n') && !text.contains(&0) {
            return Err(BadList::Lines);
        }
        let mut paths = Vec::new();
        for line in text.split(|&byte| byte == 0).filter(|line| !line.is_empty()) {
            let names = line.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
            let names: Vec<&[u8]> = names.collect();
            if names.contains(&&b".."[..]) {
                return Err(BadList::Upwards(line.to_vec()));
            }
            paths.push(names.join(&b'/'));
        }
        paths.sort_unstable_by(|a, b| by_names(a, b));
        paths.dedup();
        let mut below = Vec::new();
        paths.dedup_by(|path, before| {
            let is_below = is_at_or_below(path, before);
            below.extend(is_below.then(|| std::mem::take(path)));
            is_below
        });
        let met = std::iter::repeat_with(AtomicBool::default).take(paths.len() + below.len()).collect();
        Ok(Selection { paths, below, met })
    }

    /// Notes that the source has `path`.
    fn meet(&self, path: &[u8]) {
        let found = |paths: &[Vec<u8>]| paths.binary_search_by(|listed| by_names(listed, path)).ok();
        let at = found(&self.paths).or_else(|| found(&self.below).map(|at| self.paths.len() + at));
        if let Some(at) = at {
            self.met[at].store(true, Ordering::Relaxed);
        }
    }

    /// The paths that were not met; the root needs no meeting.
    fn unmet(&self) -> impl Iterator<Item = &[u8]> {
        let paths = self.paths.iter().chain(&self.below).zip(self.met.iter());
        let unmet = paths.filter(|(path, met)| !path.is_empty() && !met.load(Ordering::Relaxed));
        unmet.map(|(path, _)| &path[..])
    }

    /// What the list says of `path`; of the root if it is empty.
    pub fn has(&self, path: &[u8]) -> Listed {
        let at = self.paths.partition_point(|listed| by_names(listed, path).is_lt());
        let is_below = at > 0 && is_at_or_below(path, &self.paths[at - 1]);
        match self.paths.get(at) {
            Some(listed) if listed == path => Listed::Whole,
            _ if is_below => Listed::Whole,
            Some(listed) if is_at_or_below(listed, path) => Listed::Partly,
            _ => Listed::No,
        }
    }

    /// The names in the directory `dir` that are listed wholly or partly, each once.
    pub fn names_in(&self, dir: &[u8]) -> Vec<&[u8]> {
        let at = self.paths.partition_point(|listed| by_names(listed, dir).is_lt());
        let below = self.paths[at..].iter().take_while(|listed| is_at_or_below(listed, dir));
        let skip = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let heads = below.filter_map(|listed| listed.get(skip..)?.split(|&byte| byte == b'/').next());
        let mut names: Vec<&[u8]> = heads.filter(|name| !name.is_empty()).collect();
        names.dedup();
        names
    }

    /// A checksum of the list.
    fn digest(&self) -> u64 {
        crc64(&self.paths.join(&0))
    }
}

/// The order of paths name by name: what lies below a directory follows it at once.
fn by_names(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

fn is_at_or_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Action, Rule};

    #[test]
    fn a_list_takes_what_it_names_and_what_lies_below() {
        let list = Selection::parse(b"./a/b/\0a/b/c\0a-x\0/d\0\0").unwrap();
        let expected: [&[u8]; 3] = [b"a/b", b"a-x", b"d"];
        assert_eq!(list.paths, expected);
        for (path, listed) in [
            ("", Listed::Partly),
            ("a", Listed::Partly),
            ("a/b", Listed::Whole),
            ("a/b/z", Listed::Whole),
            ("a/c", Listed::No),
            ("a-x", Listed::Whole),
            ("d/e", Listed::Whole),
            ("e", Listed::No),
        ] {
            assert_eq!(list.has(path.as_bytes()), listed, "{path}");
        }
        let names: [&[u8]; 3] = [b"a", b"a-x", b"d"];
        assert_eq!((list.names_in(b""), list.names_in(b"a")), (names.to_vec(), vec![&b"b"[..]]));
        assert_eq!(Selection::parse(b"a\0b/../c\0").err(), Some(BadList::Upwards(b"b/../c".to_vec())));
        assert_eq!(Selection::parse(b"a\nb\n").err(), Some(BadList::Lines));
        assert_eq!(Selection::parse(b".\0x").map(|list| list.has(b"y")), Ok(Listed::Whole));
    }

    #[test]
    fn a_list_knows_what_was_not_met_and_clears_only_what_lies_below() {
        let list = Some(Selection::parse(b"a/b\0a/b/c\0d\0e/f\0").unwrap());
        let choice = Choice { list, ..Choice::default() };
        assert!(choice.meets(b"a", Sort::Dir) && choice.meets(b"a/b", Sort::Dir) && choice.meets(b"d", Sort::Other));
        assert!(!choice.meets(b"e", Sort::Other) && choice.takes(b"e/f", Sort::Other));
        let unmet: [&[u8]; 2] = [b"e/f", b"a/b/c"];
        assert_eq!(choice.unmet().collect::<Vec<_>>(), unmet);
        assert!(choice.clears(b"a/b/x", Sort::Other) && !choice.clears(b"d", Sort::Other));
        assert!(!choice.clears(b"a", Sort::Dir) && !choice.clears(b"e", Sort::Dir));
        let filter = Filter::new(vec![Rule::parse(Action::Exclude, b"b/").unwrap()]);
        let ruled = Choice { filter, list: None };
        assert!(ruled.rules_out(b"a/b/c") && !ruled.rules_out(b"a/b") && !ruled.rules_out(b"a/c"));
    }
}
