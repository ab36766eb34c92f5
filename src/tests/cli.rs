//! The binary's contract where no engine is needed: what goes to stdout and stderr, and the exit code.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Output, Stdio};

fn gfast(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gfast")).args(words).output().unwrap()
}

/// One line on stderr, nothing on stdout, this exit code.
#[track_caller]
fn refuses(output: &Output, code: i32, part: &str) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{stderr}");
    assert!(stderr.starts_with("gfast: ") && stderr.contains(part), "{stderr}");
    assert_eq!((stderr.lines().count(), stderr.ends_with('\n')), (1, true), "{stderr}");
}

#[test]
fn help_and_version_go_to_stdout() {
    for word in ["-h", "-help", "--help"] {
        let output = gfast(&["-source", "a", word]);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
        for part in ["Usage: gfast", "--source", "--state-dir", "--one-file-system", "Error codes:"] {
            assert!(stdout.contains(part), "{part} is missing from:\n{stdout}");
        }
        assert!(stdout.ends_with('\n') && !stdout.contains("{command_name}"));
    }
    let output = gfast(&["--version"]);
    assert_eq!(output.stdout, concat!("gfast ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn the_readme_tells_every_option_and_exit_code() {
    let help = String::from_utf8(gfast(&["--help"]).stdout).unwrap();
    let readme = include_str!("../../README.md");
    let (options, codes) = help.split_once("Error codes:").unwrap();
    let first_words = options.lines().filter(|line| line.starts_with("  -")).map(|line| line.split_whitespace());
    let options: Vec<&str> = first_words.filter_map(|mut words| words.find(|word| word.starts_with("--"))).collect();
    let codes: Vec<&str> = codes.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(options.len() >= 20 && codes.len() == 8, "{options:?} {codes:?}");
    for option in options {
        assert!(readme.contains(&format!("`{option}")), "{option}");
    }
    for code in codes {
        assert!(readme.contains(&format!("| {code} |")), "{code}");
    }
}

#[test]
fn a_command_line_that_cannot_be_understood_is_1() {
    for (words, part) in [
        (&[][..], "--source --dest"),
        (&["-source", "a", "-dest", "b", "-streams", "many"], "1 to 1024"),
        (&["-source", "a", "-dest", "b", "-dest=c"], "--dest is given twice"),
        (&["-source", "a", "-dest", "b", "-no-metadata=yes"], "takes no value"),
        (&["-source", "a", "-dest", "b", "-fast"], "unknown option -fast"),
        (&["-source", "a", "-dest"], "--dest needs a value"),
        (&["a", "b"], "unexpected word a"),
        (&["-source", "a", "-dest", "b", "-tui", "-dry-run"], "nothing for --tui to show"),
        (&["tui", "-state-dir", "a"], "tui needs a terminal"),
        (&["-source", "a", "-dest", "b", "-max-delete", "1"], "--max-delete needs --delete"),
        (&["-source", "a", "-dest", "b", "-exclude="], "--exclude is empty"),
        (&["-source", "a", "-dest", "b", "-dry-run", "-retry-failed"], "whole passes"),
    ] {
        refuses(&gfast(words), 1, part);
    }
}

#[test]
fn bytes_that_are_no_text_stay_on_one_line() {
    let word = OsString::from_vec(b"-x\xff\ny".to_vec());
    let output = Command::new(env!("CARGO_BIN_EXE_gfast")).arg(word).output().unwrap();
    refuses(&output, 1, "unknown option -x\\xff\\x0ay");
}

#[test]
fn a_job_that_must_not_run_is_2_and_leaves_nothing_behind() {
    let scratch = std::env::temp_dir().join(format!("gfast-cli-{}", std::process::id()));
    let (source, dest, state) = (scratch.join("source"), scratch.join("source/dest"), scratch.join("state"));
    std::fs::create_dir_all(&source).unwrap();
    let run = |from: &std::path::Path, to: &std::path::Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.arg("-source").arg(from).arg("-dest").arg(to).arg("-state-dir").arg(&state).output().unwrap()
    };
    refuses(&run(&source, &dest), 2, "lies inside the source");
    refuses(&run(&source, &source), 2, "is the source itself");
    refuses(&run(&scratch.join("missing"), &scratch.join("dest")), 2, "there is no such source");
    let left: Vec<_> = std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!((left.len(), dest.exists()), (1, false), "{left:?}");
    std::fs::remove_dir_all(&scratch).unwrap();
}

#[test]
fn a_result_that_cannot_be_written_is_an_error_unless_nobody_reads() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gfast")).arg("--version").stdout(full).output().unwrap();
    refuses(&output, 11, "cannot write to stdout");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let child = command.arg("--help").stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
