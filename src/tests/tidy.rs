//! The rules of the code base that no compiler checks: which file may use which, where `unsafe` may stand, how long a
//! file and a line may be, what may not be written, and that the map in `lib.rs` is complete.
//!
//! Each rule is a function from sources to findings. It runs on the real tree and, in a test of its own, on a small
//! bad example, so that a rule that finds nothing is a rule that has nothing to find.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Modules below the crate's root by rank. A file uses modules of its own rank and of the ranks before it, and no two
/// modules use each other, not even through a third.
const RANKS: [&[&str]; 13] = [
    &[
        "error",
        "extents",
        "remains",
        "location",
        "config",
        "digest",
        "filter",
        "selection",
        "filesystem",
        "stop",
        "bell",
        "nudges",
    ],
    &["gate", "report", "tuner", "limits", "boards"],
    &["ring", "catalog"],
    &["provider", "roots", "links", "temporaries"],
    &["dirents", "naming", "pages", "plan", "walk"],
    &["job"],
    &[
        "forms",
        "names",
        "recognise",
        "dir_stamp",
        "transfer",
        "large",
        "listing",
        "spelling",
        "resume",
        "outcome",
        "errand",
        "lane",
        "seal",
        "readback",
        "checkpoint",
        "delete",
        "finish",
        "unmet",
        "conduct",
    ],
    &["shard"],
    &["control"],
    &["engine", "crew"],
    &["verify", "ledger", "rehearsal"],
    &["tune"],
    &["cli", "tui"],
];

/// Longest file, in lines: the aim is 500, and a few have a reason.
const LINES_MAX: usize = 600;

/// Longest line, in characters.
const COLUMNS_MAX: usize = 120;

/// Words that stand for work not done, split so that this file may name them.
const UNDONE: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// One file.
struct Source {
    /// Relative to the package: `src/ring/op.rs`.
    path: String,
    /// As it is.
    text: String,
    /// The same length, comments and the insides of literals as spaces.
    code: String,
    /// As `code`, and what is compiled for tests only as spaces as well.
    shipped: String,
}

impl Source {
    fn new(path: impl Into<String>, text: impl Into<String>) -> Source {
        let (path, text) = (path.into(), text.into());
        let code = blank_comments_and_literals(&text);
        let is_test = ["src/tests/", "src/ring/sim"].iter().any(|folder| path.starts_with(folder))
            || path.ends_with("/tests.rs")
            || !path.starts_with("src/");
        let shipped = if is_test { String::new() } else { blank_tests(&code) };
        Source { path, text, code, shipped }
    }

    /// The module below the crate's root this file belongs to: `ring` for `src/ring/op.rs`.
    fn module(&self) -> &str {
        let path = self.path.trim_start_matches("src/");
        path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
    }

    /// The line of a byte of `text`, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1
    }
}

/// Every Rust file of the package.
fn package() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    let mut dirs: Vec<_> = ["src", "benches", "fuzz"].iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                sources.push(Source::new(relative, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

/// `text` with comments and the insides of string and character literals as spaces, byte for byte.
fn blank_comments_and_literals(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let len = match rest[0] {
            b'/' if rest.starts_with(b"//") => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => block_comment_len(rest),
            b'"' => string_len(rest),
            b'r' if is_raw_string(text.as_bytes(), at) => raw_string_len(rest),
            b'\'' => char_len(rest),
            _ => 0,
        };
        if len > 0 {
            let is_comment = rest[0] == b'/';
            let (first, last) = if is_comment { (at, at + len) } else { (at + 1, at + len - 1) };
            blank(&mut bytes[first..last.max(first)]);
        }
        at += len.max(1);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

fn string_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Whether the `r` at `at` starts a raw string and does not end a name.
fn is_raw_string(text: &[u8], at: usize) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let before = text[..at].iter().rev().take_while(|&&byte| is_name(byte)).collect::<Vec<_>>();
    let hashes = text[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    matches!(before[..], [] | [b'b'] | [b'c']) && text.get(at + 1 + hashes) == Some(&b'"')
}

fn raw_string_len(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let start = 2 + hashes;
    let body = rest[start..].windows(end.len()).position(|window| window == end);
    body.map_or(rest.len(), |body| start + body + end.len())
}

/// The length of a character literal; 0 for a lifetime.
fn char_len(rest: &[u8]) -> usize {
    match rest {
        [_, b'\\', _, more @ ..] => more.iter().position(|&byte| byte == b'\'').map_or(0, |end| end + 4),
        [_, first, ..] => {
            let width = [1, 1, 2, 3, 4][(first.leading_ones() as usize).min(4)];
            if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

/// `code` with every item behind `#[cfg(test)]` as spaces.
fn blank_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut bytes = code.as_bytes().to_vec();
    for (at, _) in code.match_indices(MARK) {
        let (mut depth, mut end) = (0, code.len());
        for (offset, byte) in code.bytes().enumerate().skip(at + MARK.len()) {
            depth += i32::from(byte == b'{') - i32::from(byte == b'}');
            if depth == 0 && matches!(byte, b'}' | b';') {
                end = offset + 1;
                break;
            }
        }
        blank(&mut bytes[at..end]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether the byte before `at` belongs to the same name.
fn continues_name(code: &str, at: usize) -> bool {
    code[..at].bytes().next_back().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn name_at(code: &str) -> &str {
    let end = code.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(code.len());
    &code[..end]
}

/// The modules below the crate's root that `source` uses, with where.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let is_top_level = source.path.matches('/').count() == 1;
    let roots: &[&str] = if is_top_level { &["crate::", "super::"] } else { &["crate::", "super::super::"] };
    let mut uses = Vec::new();
    for root in roots {
        for (at, _) in source.shipped.match_indices(root) {
            let before = &source.shipped[..at];
            if continues_name(&source.shipped, at) || before.ends_with("::") {
                continue;
            }
            let rest = &source.shipped[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => uses.extend(group_heads(group).into_iter().map(|name| (at, name))),
                None => uses.push((at, name_at(rest).to_owned())),
            }
        }
    }
    uses
}

/// The first names of the members of `{a::b, c::{d, e}}`, given what follows the first brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut is_head) = (0, Vec::new(), true);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'}' if depth == 0 => break,
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => is_head = true,
            byte if is_head && !byte.is_ascii_whitespace() => {
                heads.push(name_at(&group[at..]).to_owned());
                is_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn rank(module: &str) -> Option<usize> {
    RANKS.iter().position(|modules| modules.contains(&module))
}

/// Every module has a rank, none uses a higher one, and there are no cycles.
fn check_ranks(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut edges: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let is_crate = |source: &&Source| {
        let is_root = matches!(source.path.as_str(), "src/lib.rs" | "src/main.rs");
        source.path.starts_with("src/") && !source.path.starts_with("src/tests/") && !is_root
    };
    for source in sources.iter().filter(is_crate) {
        let module = source.module();
        let Some(own) = rank(module) else {
            findings.push(format!("{}: `{module}` has no rank", source.path));
            continue;
        };
        for (at, used) in uses(source) {
            if rank(&used).is_some_and(|used| used > own) {
                findings.push(format!("{}:{}: uses `{used}` of a higher rank", source.path, source.line(at)));
            }
            if used != module {
                edges.entry(module).or_default().push(used);
            }
        }
    }
    findings.extend(edges.keys().filter(|module| reaches(&edges, module)).map(|m| format!("`{m}` is in a cycle")));
    findings
}

/// Whether `module` uses itself through others.
fn reaches(edges: &BTreeMap<&str, Vec<String>>, module: &str) -> bool {
    let mut found: Vec<&str> = edges.get(module).into_iter().flatten().map(String::as_str).collect();
    let mut at = 0;
    while let Some(&next) = found.get(at) {
        for used in edges.get(next).into_iter().flatten() {
            if !found.contains(&used.as_str()) {
                found.push(used);
            }
        }
        at += 1;
    }
    found.contains(&module)
}

/// `unsafe` stands only in the ring and in the one file that opens LMDB.
fn check_unsafe(sources: &[Source]) -> Vec<String> {
    let opens_lmdb =
        |source: &Source| source.path.starts_with("src/catalog/") && source.code.contains("EnvOpenOptions");
    let mut openers = sources.iter().filter(|source| opens_lmdb(source)).map(|source| source.path.as_str());
    let opener = openers.next();
    let mut findings: Vec<String> = openers.map(|path| format!("{path}: a second file opens LMDB")).collect();
    for source in sources {
        let is_ring = source.path.starts_with("src/ring/") && !source.path.starts_with("src/ring/sim");
        if is_ring || Some(source.path.as_str()) == opener {
            continue;
        }
        for (at, word) in source.code.match_indices("unsafe") {
            if !continues_name(&source.code, at) && name_at(&source.code[at..]) == word {
                findings.push(format!("{}:{}: unsafe", source.path, source.line(at)));
            }
        }
    }
    findings
}

/// Files and lines are short, and nothing is marked as undone.
fn check_text(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let count = source.text.lines().count();
        if count > LINES_MAX {
            findings.push(format!("{}: {count} lines", source.path));
        }
        for (line, number) in source.text.lines().zip(1..) {
            if line.chars().count() > COLUMNS_MAX {
                findings.push(format!("{}:{number}: longer than {COLUMNS_MAX}", source.path));
            }
            if let Some(word) = UNDONE.iter().find(|word| line.contains(**word)) {
                findings.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    findings
}

/// Outside tests nothing panics on an error, but for what an invariant rules out and cites: `expect("I3: ...")`.
fn check_panics(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for call in [".unwrap(", ".expect("] {
            for (at, _) in source.shipped.match_indices(call) {
                let message = source.text[at + call.len()..].trim_start().strip_prefix("\"I").unwrap_or_default();
                let digits = message.bytes().take_while(u8::is_ascii_digit).count();
                if digits == 0 || !message[digits..].starts_with(": ") {
                    findings.push(format!("{}:{}: {call})", source.path, source.line(at)));
                }
            }
        }
    }
    findings
}

/// The map in the documentation of `lib.rs`, once there is one, names every file: `error.rs`, `ring/{mod,op}.rs`,
/// or a whole folder, `ring/sim/*.rs`.
fn check_map(sources: &[Source]) -> Vec<String> {
    let Some(lib) = sources.iter().find(|source| source.path == "src/lib.rs") else { return Vec::new() };
    let docs = lib.text.lines().filter_map(|line| line.trim_start().strip_prefix("//!"));
    let words = docs.flat_map(|line| line.split(|c: char| c.is_whitespace() || "`|()".contains(c)));
    let named: Vec<String> = words.flat_map(expand).filter(|word| word.ends_with(".rs")).collect();
    if named.is_empty() {
        return Vec::new();
    }
    let is_named = |path: &str| {
        let folder = path.rsplit_once('/').map(|(folder, _)| format!("{folder}/*.rs"));
        named.iter().any(|name| name == path || Some(name) == folder.as_ref())
    };
    let files = sources.iter().filter_map(|source| source.path.strip_prefix("src/"));
    let mapped = files.filter(|path| !path.starts_with("tests/") && !matches!(*path, "lib.rs" | "main.rs"));
    mapped.filter(|path| !is_named(path)).map(|path| format!("src/{path}: not in the map of lib.rs")).collect()
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`; a final full stop or comma is the sentence's.
fn expand(word: &str) -> Vec<String> {
    let word = word.trim_end_matches([',', ';', ':', '.']);
    match word.split_once('{').and_then(|(head, rest)| Some((head, rest.split_once('}')?))) {
        Some((head, (names, tail))) => names.split(',').map(|name| format!("{head}{name}{tail}")).collect(),
        None => vec![word.to_owned()],
    }
}

#[test]
fn the_package_keeps_its_rules() {
    let sources = package();
    assert!(sources.iter().any(|source| source.path == "src/ring/op.rs"), "the package was found");
    let rules = [check_ranks, check_unsafe, check_text, check_panics, check_map];
    let findings: Vec<String> = rules.iter().flat_map(|rule| rule(&sources)).collect();
    assert!(findings.is_empty(), "{findings:#?}");
}

mod rules {
    use super::*;

    fn find(rule: fn(&[Source]) -> Vec<String>, files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(*path, *text)).collect();
        rule(&sources)
    }

    #[test]
    fn a_higher_rank_a_cycle_and_a_module_without_rank_are_found() {
        let upward =
            [("src/ring/op.rs", "use crate::error::E;\nuse crate::{\n    config, engine::{self, Engine},\n};\n")];
        assert_eq!(find(check_ranks, &upward), ["src/ring/op.rs:2: uses `engine` of a higher rank"]);
        let cycle = [("src/error.rs", "use super::config::C;"), ("src/config.rs", "fn f() -> crate::error::E {}")];
        assert_eq!(find(check_ranks, &cycle), ["`config` is in a cycle", "`error` is in a cycle"]);
        assert_eq!(find(check_ranks, &[("src/utils.rs", "")]), ["src/utils.rs: `utils` has no rank"]);
        let good =
            [("src/shard.rs", "use crate::{ring, walk};\n#[cfg(test)]\nmod tests { use crate::tui; }\n// crate::cli")];
        assert!(find(check_ranks, &good).is_empty());
    }

    #[test]
    fn unsafe_out_of_its_place_is_found() {
        let files = [
            ("src/ring/mod.rs", "unsafe {}"),
            ("src/catalog/mod.rs", "unsafe { EnvOpenOptions::new() }"),
            ("src/catalog/record.rs", "// unsafe\n#![expect(unsafe_code)]\nlet s = \"unsafe\"; unsafe {}"),
            ("src/ring/sim/mod.rs", "unsafe {}"),
            ("src/catalog/second.rs", "EnvOpenOptions::new()"),
        ];
        let findings = find(check_unsafe, &files);
        let expected = ["src/catalog/second.rs: a second file opens LMDB", "src/catalog/record.rs:3: unsafe"];
        assert_eq!(findings[..2], expected);
        assert_eq!(findings[2..], ["src/ring/sim/mod.rs:1: unsafe"]);
    }

    #[test]
    fn long_files_long_lines_and_undone_work_are_found() {
        let long_file = "\n".repeat(LINES_MAX + 1);
        let undone = format!("// {} later\n", UNDONE[1]);
        let long_line = "\u{fc}".repeat(COLUMNS_MAX + 1);
        let files = [("src/a.rs", &long_file[..]), ("src/b.rs", &undone), ("src/c.rs", &long_line)];
        let undone = format!("src/b.rs:1: {}", UNDONE[1]);
        assert_eq!(find(check_text, &files), ["src/a.rs: 601 lines", &undone, "src/c.rs:1: longer than 120"]);
        let good = ["\u{fc}".repeat(COLUMNS_MAX), "\n".repeat(LINES_MAX)];
        assert!(find(check_text, &[("src/a.rs", &good[0]), ("src/b.rs", &good[1])]).is_empty());
    }

    #[test]
    fn panics_on_errors_are_found() {
        let bad = "a.unwrap();\nb\n    .expect(\n\"it works\");\nc.expect(\"I: no\");\nd.expect(message);";
        let findings = find(check_panics, &[("src/walk.rs", bad)]);
        assert_eq!(
            findings,
            [
                "src/walk.rs:1: .unwrap()",
                "src/walk.rs:3: .expect()",
                "src/walk.rs:5: .expect()",
                "src/walk.rs:6: .expect()"
            ]
        );
        let test = "#[cfg(test)]\nmod tests { fn f() { d.unwrap(); } }";
        let good = &format!("a.expect(\"I10: cited\");\nb.unwrap_or(1);\n// c.unwrap()\n{test}");
        let behind = format!("{good}\nfn g() {{ e.unwrap(); }}");
        assert!(find(check_panics, &[("src/walk.rs", good), ("src/tests/x.rs", bad)]).is_empty());
        assert_eq!(find(check_panics, &[("src/walk.rs", &behind)]), ["src/walk.rs:6: .unwrap()"]);
    }

    #[test]
    fn a_file_that_is_not_in_the_map_is_found() {
        let lib = "//! ```\n//! 0 error.rs    errors\n//! 2 ring/{mod,op}.rs  ring/sim/*.rs the ring\n//! ```\n";
        let files = ["src/error.rs", "src/ring/mod.rs", "src/ring/op.rs", "src/ring/sim/a.rs", "src/main.rs"];
        let mut files: Vec<_> = files.iter().map(|path| (*path, "")).collect();
        files.push(("src/lib.rs", lib));
        assert!(find(check_map, &files).is_empty());
        files.push(("src/ring/threads.rs", ""));
        assert_eq!(find(check_map, &files), ["src/ring/threads.rs: not in the map of lib.rs"]);
        assert!(find(check_map, &[("src/lib.rs", "//! No map yet."), ("src/walk.rs", "")]).is_empty());
    }

    #[test]
    fn literals_and_comments_are_not_code() {
        let text = "a(\"x\\\"y\", 'z', '\\'', r#\"q\"r\"#, b\"w\"); /* k /* l */ m */ fn f<'t>(t: &'t u8) {} // n";
        let code = blank_comments_and_literals(text);
        assert_eq!(code.len(), text.len());
        let names: Vec<&str> = code.split(|c: char| !c.is_alphanumeric()).filter(|name| !name.is_empty()).collect();
        assert_eq!(names, ["a", "r", "b", "fn", "f", "t", "t", "t", "u8"].map(|name| name).to_vec());
    }
}
