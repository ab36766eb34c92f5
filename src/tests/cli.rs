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

/// Where each exit code is tested with a real run: the code, the file, the test, and what of it asks for the code.
const EXIT_CODES: &[(&str, &str, &str, &str)] = &[
    ("0", include_str!("copy.rs"), "the_source_is_not_touched", "expect(0)"),
    ("1", include_str!("cli.rs"), "a_command_line_that_cannot_be_understood_is_1", ", 1, part"),
    ("2", include_str!("cli.rs"), "a_job_that_must_not_run_is_2_and_leaves_nothing_behind", ", 2, "),
    ("11", include_str!("hostile.rs"), "a_full_destination_stops_the_job_and_it_resumes", "expect(11)"),
    ("20", include_str!("control.rs"), "a_paused_job_rests_goes_on_and_stops", "expect(20)"),
    ("23", include_str!("hostile.rs"), "an_ordinary_user_gets_what_may_be_read", "expect(23)"),
    ("24", include_str!("filter.rs"), "a_list_of_files_takes_what_it_names", "expect(24)"),
    ("25", include_str!("delete.rs"), "a_limit_is_kept_and_told", "expect(25)"),
    ("verify 0", include_str!("verify.rs"), "a_copy_is_the_same_until_it_is_changed", "(0, &BTreeMap::new())"),
    (
        "verify 1",
        include_str!("verify.rs"),
        "a_bit_flipped_on_the_device_is_found_although_the_cache_knows_better",
        "(1, ",
    ),
    ("verify 2", include_str!("verify.rs"), "what_cannot_be_compared_is_2", "code == 2"),
];

#[test]
fn every_exit_code_has_a_test() {
    let help = String::from_utf8(gfast(&["--help"]).stdout).unwrap();
    let told = help.split_once("Error codes:").unwrap().1.lines().filter_map(|line| line.split_whitespace().next());
    let codes: Vec<&str> = EXIT_CODES.iter().map(|(code, ..)| *code).collect();
    assert_eq!(told.collect::<Vec<_>>(), codes[..8]);
    for (code, file, test, asks) in EXIT_CODES {
        let body = file.split_once(&format!("#[test]\nfn {test}()")).and_then(|(_, rest)| rest.split_once("\n}\n"));
        assert!(body.is_some_and(|(body, _)| body.contains(asks)), "{code}: {test} does not ask for it");
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
