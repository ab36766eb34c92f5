//! The tests' comparison of two trees as a program, for `scripts/bench` and `scripts/soak`.
//!
//! `compare SOURCE COPY [--skip NAME]...` prints every difference and exits 1 if there is one, 2 on a usage error.

#[path = "../src/tests/support/compare.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod compare;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// Differences printed.
const SHOWN_MAX: usize = 50;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let [source, copy, options @ ..] = args.as_slice() else { return usage() };
    let mut comparison = compare::Comparison::new(Path::new(source), Path::new(copy));
    for option in options.chunks(2) {
        match option {
            [word, name] if word == "--skip" => comparison = comparison.skipping(name.as_bytes()),
            _ => return usage(),
        }
    }
    let found = comparison.run();
    found.iter().take(SHOWN_MAX).for_each(|difference| println!("{difference}"));
    println!("{} differences", found.len());
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn usage() -> ExitCode {
    eprintln!("usage: compare SOURCE COPY [--skip NAME]...");
    ExitCode::from(2)
}
