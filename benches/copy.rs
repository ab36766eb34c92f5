//! A whole copy, durable at its end: 20,000 files of 4 KiB in 200 directories, and two files of 256 MiB.
//!
//! `cargo bench --bench copy` works in the temporary directory (TMPDIR), within one file system: it isolates what the
//! engines cost. Whole copies against rivals, between file systems and with the result compared: `scripts/bench`.

#[path = "scratch.rs"]
mod scratch;

use std::path::Path;
use std::time::Instant;

use gfast::report::Count;
use scratch::{Result, Scratch, grow, run_job};

/// Copies with each engine.
const RUNS: usize = 3;

fn main() -> Result<()> {
    let scratch = Scratch::new("copy")?;
    let (small, large) = (scratch.join("small"), scratch.join("large"));
    grow(&small, 200, 100, 4096)?;
    grow(&large, 1, 2, 256 << 20)?;
    for (what, source, files) in [("20,000 files of 4 KiB", &small, 20_000), ("2 files of 256 MiB", &large, 2)] {
        for engine in ["auto", "sync"] {
            let mut times = Vec::with_capacity(RUNS);
            for run in 0..RUNS {
                times.push(copy(&scratch, source, &format!("{files}-{engine}-{run}"), engine, files)?);
            }
            times.sort_by(f64::total_cmp);
            let (median, least, most) = (times[RUNS / 2], times[0], times[RUNS - 1]);
            println!("{what}, --engine {engine}: {median:.3} s ({least:.3}-{most:.3})");
        }
    }
    Ok(())
}

/// One copy to a new place, removed afterwards; the seconds it took.
fn copy(scratch: &Scratch, source: &Path, name: &str, engine: &str, files: u64) -> Result<f64> {
    let (dest, state) = (scratch.join(format!("dest-{name}")), scratch.join(format!("state-{name}")));
    let started = Instant::now();
    let summary = run_job(source, &dest, &state, &["--engine", engine, "--reflink", "never"])?;
    let took = started.elapsed().as_secs_f64();
    if summary.totals.get(Count::FilesCopied) != files {
        return Err(summary.text().into());
    }
    std::fs::remove_dir_all(dest)?;
    std::fs::remove_dir_all(state)?;
    Ok(took)
}
