//! Which names of the source a job is about: include and exclude rules. Pure; lists of paths are selection.rs's.
//!
//! Rules mean what they mean to rsync (rsync(1), "FILTER RULES"; `src/tests/filter.rs` asks the real one): each name
//! met is held against them in command-line order, the first rule that matches decides, and a name that none matches
//! is taken. A directory that is left out is not entered, so nothing below it is met.
//!
//! ```text
//! foo        the last name of a path is foo                *    any bytes but /
//! /foo       foo in the root                               **   any bytes
//! a/foo      foo in any directory named a                  ?    one byte but /
//! foo/       as foo, directories only                      [ ]  one byte of a set, never /
//! foo/***    the directory foo and all below it            \*   the byte itself, in a pattern with one of these
//! ```
//! A path is matched in one pass with a set of places in the pattern, so that no pattern takes more than its length for
//! each byte. Paths and patterns are bytes; paths are relative to the root, without a slash at either end.

use crate::error::escape;

/// Include and exclude rules, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The first that matches decides.
    rules: Vec<Rule>,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is taken.
    Include,
    /// It is left out.
    Exclude,
}

/// What a name is, as far as rules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// A directory.
    Dir,
    /// Anything else.
    Other,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    action: Action,
    /// As it was typed.
    text: Vec<u8>,
    /// What it matches.
    pattern: Pattern,
}

impl Filter {
    /// The rules, in their order.
    pub fn new(rules: Vec<Rule>) -> Filter {
        Filter { rules }
    }

    /// Whether everything is taken.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the object at `path` is taken, given that the directory it lies in is.
    pub fn takes(&self, path: &[u8], sort: Sort) -> bool {
        let first = self.rules.iter().find(|rule| rule.pattern.matches(path, sort));
        first.is_none_or(|rule| rule.action == Action::Include)
    }

    /// The rules as one line, for a job's identity: `+pattern -pattern`.
    pub fn to_text(&self) -> String {
        let texts = self.rules.iter().map(|rule| match rule.action {
            Action::Include => format!("+{}", escape(&rule.text)),
            Action::Exclude => format!("-{}", escape(&rule.text)),
        });
        texts.collect::<Vec<_>>().join(" ")
    }
}

impl Rule {
    /// The rule that `text` spells. `Err` says what is wrong with it. What is no pattern to rsync, but a rule of the
    /// kind that its beginning says, is refused: taken for a pattern it would do the opposite, or nothing.
    pub fn parse(action: Action, text: &[u8]) -> Result<Rule, String> {
        let meant = |rule: &str, literal: &str| {
            let text = escape(text);
            Err(format!(
                "\"{text}\" is a rule of another kind to rsync: write {rule}, or {literal} for the name itself"
            ))
        };
        match text {
            [] => Err("is empty".to_owned()),
            [b'+', b' ', rest @ ..] => meant(&format!("--include={}", escape(rest)), &format!("[+] {}", escape(rest))),
            [b'-', b' ', rest @ ..] => meant(&format!("--exclude={}", escape(rest)), &format!("[-] {}", escape(rest))),
            [b'!'] => meant("no rule before it", "[\\!]"),
            _ if text.contains(&0) => Err("holds a NUL byte".to_owned()),
            _ => Ok(Rule { action, text: text.to_vec(), pattern: Pattern::parse(text) }),
        }
    }
}

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// What is matched, piece by piece.
    pieces: Vec<Piece>,
    /// What of a path it is held against.
    scope: Scope,
    /// Whether it matches directories only.
    only_dirs: bool,
    /// Whether it ends in `***`: then a directory counts with a slash behind it.
    takes_dir_itself: bool,
}

/// What of a path a pattern is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The last name.
    Name,
    /// The whole path.
    Path,
    /// The path from any of its names on.
    Tail,
    /// The whole path with a slash before it: `**/` matches at the root, too.
    Rooted,
}

/// A piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// This byte.
    Byte(u8),
    /// Any byte but a slash.
    Any,
    /// A byte of this set.
    Set(Box<[bool; 256]>),
    /// Any bytes but slashes.
    Star,
    /// Any bytes.
    Stars,
    /// Nothing: the pattern is not well-formed from here on.
    Never,
}

impl Pattern {
    fn parse(text: &[u8]) -> Pattern {
        let (body, only_dirs) = match text {
            [body @ .., b'/'] if !body.is_empty() => (body, true),
            _ => (text, false),
        };
        let is_wild = body.iter().any(|byte| b"*?[".contains(byte));
        let spans = body.windows(2).any(|pair| pair == b"**");
        let scope = match body {
            [b'/', ..] => Scope::Path,
            [b'*', b'*', ..] => Scope::Rooted,
            _ if spans || body.contains(&b'/') => Scope::Tail,
            _ => Scope::Name,
        };
        let body = body.strip_prefix(b"/").unwrap_or(body);
        let pieces = match is_wild {
            true => pieces(body),
            false => body.iter().map(|&byte| Piece::Byte(byte)).collect(),
        };
        Pattern { pieces, scope, only_dirs, takes_dir_itself: body.ends_with(b"***") }
    }

    fn matches(&self, path: &[u8], sort: Sort) -> bool {
        if self.only_dirs && sort != Sort::Dir {
            return false;
        }
        let slash_if = |is_there: bool| -> &[u8] { if is_there { b"/" } else { b"" } };
        let head = slash_if(self.scope == Scope::Rooted);
        let tail = slash_if(self.takes_dir_itself && sort == Sort::Dir);
        let body = match self.scope {
            Scope::Name => path.rsplit(|&byte| byte == b'/').next().unwrap_or(path),
            _ => path,
        };
        self.run(head.iter().chain(body).chain(tail).copied())
    }

    /// Follows all ways through the pattern at once. `places` holds the pieces that may come next.
    fn run(&self, text: impl Iterator<Item = u8>) -> bool {
        let end = self.pieces.len();
        let mut places = vec![false; end + 1];
        let mut next = places.clone();
        self.enter(&mut places, 0);
        for byte in text {
            next.fill(false);
            for at in (0..end).filter(|&at| places[at]) {
                match &self.pieces[at] {
                    Piece::Byte(wanted) if *wanted == byte => self.enter(&mut next, at + 1),
                    Piece::Any if byte != b'/' => self.enter(&mut next, at + 1),
                    Piece::Set(set) if set[usize::from(byte)] => self.enter(&mut next, at + 1),
                    Piece::Star if byte != b'/' => self.enter(&mut next, at),
                    Piece::Stars => self.enter(&mut next, at),
                    _ => {}
                }
            }
            if byte == b'/' && self.scope == Scope::Tail {
                self.enter(&mut next, 0);
            }
            std::mem::swap(&mut places, &mut next);
        }
        places[end]
    }

    /// Marks a place, and those behind it that need no byte to be reached. Ends: each turn is one piece further.
    fn enter(&self, places: &mut [bool], mut at: usize) {
        places[at] = true;
        while let Some(Piece::Star | Piece::Stars) = self.pieces.get(at) {
            at += 1;
            places[at] = true;
        }
    }
}

/// The pieces of a pattern with wildcards.
fn pieces(mut text: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(text.len());
    // Ends: each turn takes at least a byte.
    while let [first, rest @ ..] = text {
        text = rest;
        pieces.push(match first {
            b'*' => {
                let more = rest.iter().take_while(|&&byte| byte == b'*').count();
                text = &rest[more..];
                if more == 0 { Piece::Star } else { Piece::Stars }
            }
            b'?' => Piece::Any,
            b'[' => match set(rest) {
                Some((set, behind)) => {
                    text = behind;
                    Piece::Set(set)
                }
                None => Piece::Never,
            },
            b'\\' => match rest {
                [escaped, behind @ ..] => {
                    text = behind;
                    Piece::Byte(*escaped)
                }
                [] => Piece::Never,
            },
            byte => Piece::Byte(*byte),
        });
    }
    pieces
}

/// The set that begins behind a `[`, and what follows its `]`; `None` if it does not end.
fn set(text: &[u8]) -> Option<(Box<[bool; 256]>, &[u8])> {
    let (mut rest, is_negated) = match text {
        [b'!' | b'^', rest @ ..] => (rest, true),
        _ => (text, false),
    };
    let mut set = Box::new([false; 256]);
    let (mut from, mut is_first) = (None, true);
    // Ends: each turn takes at least a byte.
    loop {
        rest = match rest {
            [b']', behind @ ..] if !is_first => {
                rest = behind;
                break;
            }
            [b'[', b':', class @ ..] if class.contains(&b']') => {
                from = None;
                match named_class(class) {
                    Class::Known(test, behind) => {
                        (0..=255u8).filter(test).for_each(|byte| set[usize::from(byte)] = true);
                        behind
                    }
                    Class::Unknown => return None,
                    Class::None => {
                        set[usize::from(b'[')] = true;
                        from = Some(b'[');
                        &rest[1..]
                    }
                }
            }
            [b'-', last, behind @ ..] if from.is_some() && *last != b']' => {
                let (last, behind) = match (last, behind) {
                    (b'\\', [escaped, behind @ ..]) => (escaped, behind),
                    (b'\\', []) => return None,
                    _ => (last, behind),
                };
                let first = from.take().unwrap_or_default();
                (first..=*last).for_each(|byte| set[usize::from(byte)] = true);
                behind
            }
            [b'\\', byte, behind @ ..] | [byte, behind @ ..] => {
                set[usize::from(*byte)] = true;
                from = Some(*byte);
                behind
            }
            [] => return None,
        };
        is_first = false;
    }
    if is_negated {
        set.iter_mut().for_each(|is_in| *is_in = !*is_in);
    }
    set[usize::from(b'/')] = false;
    Some((set, rest))
}

/// What follows `[:` in a set.
enum Class<'t> {
    /// A class of bytes, and what follows its `:]`.
    Known(fn(&u8) -> bool, &'t [u8]),
    /// A class that nobody knows.
    Unknown,
    /// No class at all.
    None,
}

fn named_class(text: &[u8]) -> Class<'_> {
    let end = text.iter().position(|&byte| byte == b']').unwrap_or(text.len());
    let Some(name) = text[..end].strip_suffix(b":") else { return Class::None };
    let test: fn(&u8) -> bool = match name {
        b"alnum" => u8::is_ascii_alphanumeric,
        b"alpha" => u8::is_ascii_alphabetic,
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"cntrl" => u8::is_ascii_control,
        b"digit" => u8::is_ascii_digit,
        b"graph" => u8::is_ascii_graphic,
        b"lower" => u8::is_ascii_lowercase,
        b"print" => |byte| matches!(byte, b' '..=b'~'),
        b"punct" => u8::is_ascii_punctuation,
        b"space" => |byte| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"upper" => u8::is_ascii_uppercase,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return Class::Unknown,
    };
    Class::Known(test, &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str, sort: Sort) -> bool {
        Pattern::parse(pattern.as_bytes()).matches(path.as_bytes(), sort)
    }

    #[test]
    fn a_pattern_without_a_slash_is_a_name_and_one_with_it_a_path() {
        for (pattern, path, expected) in [
            ("foo", "a/b/foo", true),
            ("foo", "foo/b", false),
            ("/foo", "foo", true),
            ("/foo", "a/foo", false),
            ("a/foo", "x/a/foo", true),
            ("a/foo", "xa/foo", false),
            ("a/*", "x/a/b", true),
            ("a/*", "a/b/c", false),
            ("a/**", "x/a/b/c", true),
            ("**/c", "c", true),
            ("**c", "a/bc", true),
            ("a**/c", "x/ab/d/c", true),
            ("?", "/", false),
            ("[!x]", "y", true),
            ("[]x]", "]", true),
            ("[a-c]z", "bz", true),
            ("[[:digit:]]", "7", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a\\b", "a\\b", true),
            ("[", "[", false),
        ] {
            assert_eq!(matches(pattern, path, Sort::Other), expected, "{pattern} {path}");
        }
        assert!(matches("a/***", "x/a", Sort::Dir) && !matches("a/***", "x/a", Sort::Other));
        assert!(matches("a/", "x/a", Sort::Dir) && !matches("a/", "x/a", Sort::Other));
    }

    #[test]
    fn no_pattern_takes_long() {
        let pattern = "a*".repeat(2_000) + "b";
        assert!(!matches(&pattern, &"a".repeat(20_000), Sort::Other));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |action, text: &str| Rule::parse(action, text.as_bytes()).unwrap();
        let filter = Filter::new(vec![rule(Action::Include, "keep.o"), rule(Action::Exclude, "*.o")]);
        assert!(filter.takes(b"a/keep.o", Sort::Other) && filter.takes(b"x", Sort::Other));
        assert!(!filter.takes(b"a/b.o", Sort::Other));
        assert_eq!(filter.to_text(), "+keep.o -*.o");
    }
}
