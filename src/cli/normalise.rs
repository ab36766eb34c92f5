//! Brings every spelling of an option into the one that argh takes: `--name`, its value the next word.
//!
//! What is an option, what is a switch and what may be repeated is learnt from argh's own description of the command,
//! so a value is never mistaken for an option: the word after an option is its value, whatever it looks like.

use std::collections::BTreeSet;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};

use super::{values, words};
use crate::error::{Error, Result, escape};

/// Options whose order among each other counts, and the mark before their values in the one list they become.
const RULES: [(&str, &str); 2] = [("--include", "+"), ("--exclude", "-")];
/// That list: an option that no user types.
const RULE: &str = "--rule";

/// What the words come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Normalised {
    /// Help was asked for.
    Help,
    /// The version was asked for.
    Version,
    /// For argh.
    Words(Vec<String>),
}

/// Normalises the words after the program name.
pub(super) fn normalise(words: Vec<String>, command: &CommandInfoWithArgs) -> Result<Normalised> {
    let mut normalised = Vec::with_capacity(words.len());
    let (mut seen, mut end) = (BTreeSet::new(), None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            end = Some(normalised.len());
            normalised.push(word);
            normalised.extend(words.by_ref());
            break;
        }
        let Some((name, joined)) = split(&word) else {
            refuse_stray(&word, command)?;
            normalised.push(word);
            continue;
        };
        if matches!(name, "h" | "help") {
            return Ok(Normalised::Help);
        }
        let flag = find(name, command).ok_or_else(|| unknown(&word))?;
        if name == "version" && joined.is_none() {
            return Ok(Normalised::Version);
        }
        let is_first = seen.insert(flag.long);
        let rule = RULES.iter().find(|(long, _)| *long == flag.long);
        normalised.push(rule.map_or(flag.long, |_| RULE).to_owned());
        match flag.kind {
            FlagInfoKind::Switch if joined.is_some() => {
                return Err(Error::usage(format!("{} takes no value", flag.long)));
            }
            FlagInfoKind::Switch => {}
            FlagInfoKind::Option { .. } if !is_first && !matches!(flag.optionality, Optionality::Repeating) => {
                return Err(Error::usage(format!("{} is given twice", flag.long)));
            }
            FlagInfoKind::Option { .. } => {
                let value = joined.map(str::to_owned).or_else(|| words.next());
                let value = value.ok_or_else(|| Error::usage(format!("{} needs a value", flag.long)))?;
                let value = rule.map_or("", |(_, mark)| *mark).to_owned() + &value;
                if rule.is_some() {
                    let refused = |why| Error::usage(format!("{} {why}", flag.long));
                    values::rule(&value).map_err(refused)?;
                }
                normalised.push(value);
            }
        }
    }
    let strays = end.map_or(&[][..], |end| &normalised[end + 1..]);
    strays.iter().try_for_each(|word| refuse_stray(word, command))?;
    Ok(Normalised::Words(normalised))
}

/// Which words remain when a switch is left out, wherever it stands; the value of an option is never a switch.
pub(super) fn without(switch: &str, words: &[String], command: &CommandInfoWithArgs) -> Vec<bool> {
    let (mut kept, mut is_value, mut is_over) = (Vec::with_capacity(words.len()), false, false);
    for word in words {
        is_over |= !is_value && word == "--";
        let option = split(word).filter(|_| !is_value && !is_over);
        let flag = option.and_then(|(name, _)| find(name, command));
        let takes_value = flag.is_some_and(|flag| matches!(flag.kind, FlagInfoKind::Option { .. }));
        is_value = takes_value && option.is_some_and(|(_, joined)| joined.is_none());
        kept.push(flag.is_none_or(|flag| flag.long.trim_start_matches('-') != switch));
    }
    kept
}

/// The name of an option word without its one or two dashes, and the value after `=`. `None` for other words; `-`
/// alone is one of them.
fn split(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).filter(|name| !name.is_empty())?;
    Some(match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    })
}

fn find<'a>(name: &str, command: &'a CommandInfoWithArgs) -> Option<&'a FlagInfo<'static>> {
    command
        .flags
        .iter()
        .find(|flag| !flag.hidden && (flag.long.strip_prefix("--") == Some(name) || is_short(flag, name)))
}

/// Whether a name is the one character an option is known by as well.
fn is_short(flag: &FlagInfo<'_>, name: &str) -> bool {
    flag.short.is_some_and(|short| name.chars().eq([short]))
}

fn unknown(word: &str) -> Error {
    let name = word.split('=').next().unwrap_or(word);
    Error::usage(format!("unknown option {}: see gfast --help", shown(name)))
}

fn refuse_stray(word: &str, command: &CommandInfoWithArgs) -> Result<()> {
    match command.positionals.is_empty() && command.commands.is_empty() {
        true => Err(Error::usage(format!("unexpected word {}: see gfast --help", shown(word)))),
        false => Ok(()),
    }
}

/// An encoded word as the user typed it, on one line.
fn shown(word: &str) -> String {
    escape(&words::decode(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use argh::{ArgsInfo, FromArgs};

    /// A command with one of each.
    #[derive(FromArgs, ArgsInfo)]
    #[expect(dead_code, reason = "only described, never read")]
    struct Sample {
        /// an option
        #[argh(option)]
        level: Option<String>,
        /// a repeated option
        #[argh(option)]
        list: Vec<String>,
        /// a rule
        #[argh(option)]
        include: Vec<String>,
        /// a rule
        #[argh(option)]
        exclude: Vec<String>,
        /// a switch
        #[argh(switch)]
        fast: bool,
        /// a switch
        #[argh(switch)]
        version: bool,
    }

    fn run(line: &str) -> std::result::Result<Vec<String>, String> {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        match normalise(words, &Sample::get_args_info()) {
            Ok(Normalised::Words(words)) => Ok(words),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_spelling_becomes_one() {
        for line in ["-level 3 -fast", "--level 3 --fast", "-level=3 -fast", "--level=3 --fast"] {
            assert_eq!(run(line).unwrap(), ["--level", "3", "--fast"], "{line}");
        }
        assert_eq!(run("--level=a=b").unwrap(), ["--level", "a=b"]);
        assert_eq!(run("--level=").unwrap(), ["--level", ""]);
        assert_eq!(run("").unwrap(), [""; 0]);
    }

    #[test]
    fn the_word_after_an_option_is_its_value() {
        for value in ["-", "--", "-fast", "--fast", "-h", "--version", "-x=1"] {
            assert_eq!(run(&format!("-level {value}")).unwrap(), ["--level", value]);
        }
    }

    #[test]
    fn repeated_options_are_refused_unless_they_form_a_list() {
        assert_eq!(run("-list a --list=b").unwrap(), ["--list", "a", "--list", "b"]);
        assert_eq!(run("-level 1 --level=2").unwrap_err(), "--level is given twice");
        assert!(run("-fast -fast").is_ok());
    }

    #[test]
    fn rules_become_one_list_in_their_order() {
        let expected = ["--rule", "-*.o", "--rule", "+-x", "--rule", "-="];
        assert_eq!(run("-exclude *.o --include -x -exclude==").unwrap(), expected);
        // A value that looks like the end of all options is none, whatever follows it.
        assert_eq!(run("--exclude - -level 1").unwrap(), ["--rule", "--", "--level", "1"]);
        assert_eq!(run("-level -- -fast").unwrap(), ["--level", "--", "--fast"]);
        assert_eq!(run("--exclude=").unwrap_err(), "--exclude is empty");
    }

    #[test]
    fn nonsense_is_named() {
        for (line, message) in [
            ("--fast=1", "--fast takes no value"),
            ("-level", "--level needs a value"),
            ("---level 1", "unknown option ---level: see gfast --help"),
            ("-levels=secret", "unknown option -levels: see gfast --help"),
            ("--", ""),
            ("a", "unexpected word a: see gfast --help"),
            ("-", "unexpected word -: see gfast --help"),
            ("-- -fast", "unexpected word -fast: see gfast --help"),
            ("-fast -h", "Help"),
            ("-version a", "Version"),
            ("-- -h", "unexpected word -h: see gfast --help"),
        ] {
            assert_eq!(run(line).err().unwrap_or_default(), message, "{line}");
        }
    }
}
