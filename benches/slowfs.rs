//! The tests' slow file system as a program, for `scripts/bench`: a file server far away, source or destination.
//!
//! `slowfs FOLDER POINT DELAY_US THREADS` shows FOLDER at POINT, each operation taking DELAY_US microseconds, THREADS
//! of them at a time. It prints a line once it is mounted, and unmounts when it gets SIGTERM or SIGINT.

#[path = "../src/tests/support/described.rs"]
mod described;
#[path = "../src/tests/support/habit.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod habit;
#[path = "../src/tests/support/halt.rs"]
#[allow(dead_code, reason = "nobody stops this one")]
mod halt;
#[path = "../src/tests/support/passthrough.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod passthrough;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, point, delay, threads] = args.as_slice() else {
        return Err("usage: slowfs FOLDER POINT DELAY_US THREADS".into());
    };
    // Before the mount: a signal that comes while it is made must not leave it behind.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (delay, threads) = (Duration::from_micros(delay.parse()?), threads.parse()?);
    let answering = (threads, Default::default());
    let session =
        passthrough::mount(Path::new(folder), Path::new(point), delay, passthrough::Habit::Ordinary, answering)?;
    println!("{folder} is at {point}");
    signals.forever().next();
    session.umount_and_join()?;
    Ok(())
}
