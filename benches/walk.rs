//! The walk alone: a further pass over a finished job of 100,000 names lists every directory, looks every name up and
//! describes it, and copies nothing. Beside it a plain walk of one thread that only lists and describes.
//!
//! `cargo bench --bench walk` works in the temporary directory (TMPDIR); on a RAM-backed one it measures the code.

#[path = "scratch.rs"]
mod scratch;

use std::path::Path;
use std::time::Instant;

use gfast::report::Count;
use scratch::{Result, Scratch, grow, run_job};

/// Directories, and files in each.
const DIRS: u64 = 1000;
const FILES: u64 = 99;
/// Names with the root's.
const NAMES: u64 = DIRS * (FILES + 1) + 1;
/// Passes with each engine.
const RUNS: usize = 5;

fn main() -> Result<()> {
    let scratch = Scratch::new("walk")?;
    let source = scratch.join("source");
    grow(&source, DIRS, FILES, 0)?;
    let mut plain: Vec<f64> = (0..RUNS).map(|_| plain_walk(&source)).collect::<Result<_>>()?;
    report("listed and described by one thread", &mut plain);
    for engine in ["auto", "sync"] {
        let (dest, state) = (scratch.join(format!("dest-{engine}")), scratch.join(format!("state-{engine}")));
        run_job(&source, &dest, &state, &["--engine", engine])?;
        let mut times = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let started = Instant::now();
            let summary = run_job(&source, &dest, &state, &["--engine", engine])?;
            times.push(started.elapsed().as_secs_f64());
            let (walked, copied) = (summary.totals.get(Count::EntriesWalked), summary.totals.files_made());
            if (walked, copied) != (NAMES, 0) {
                return Err(format!("{walked} names walked of {NAMES}, {copied} files made").into());
            }
        }
        report(&format!("a pass that finds nothing to do, --engine {engine}"), &mut times);
    }
    Ok(())
}

fn report(what: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let (median, least, most) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    println!("{what}: {median:.3} s ({least:.3}-{most:.3}), {:.0} names/s", NAMES as f64 / median);
}

fn plain_walk(root: &Path) -> Result<f64> {
    let started = Instant::now();
    let (mut found, mut names) = (vec![root.to_owned()], 1);
    while let Some(dir) = found.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            names += 1;
            if entry.metadata()?.is_dir() {
                found.push(entry.path());
            }
        }
    }
    if names != NAMES {
        return Err(format!("{names} names found of {NAMES}").into());
    }
    Ok(started.elapsed().as_secs_f64())
}
