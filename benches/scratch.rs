//! What the benches of whole runs share: a directory of their own, trees in it, and the engine as the program runs it.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use gfast::cli::{self, Parsed};
use gfast::engine::Asks;
use gfast::report::{ExitCode, Summary};

/// What a bench may end with.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A directory below TMPDIR, removed when dropped.
pub struct Scratch {
    /// Where it is.
    path: PathBuf,
}

impl Scratch {
    /// A new directory for the bench `name`.
    pub fn new(name: &str) -> Result<Scratch> {
        let path = std::env::temp_dir().join(format!("gfast-bench-{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Scratch { path })
    }

    /// A path below it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("left behind: {}: {error}", self.path.display());
        }
    }
}

/// Makes `dirs` directories of `files` files of `bytes` bytes each; no two hold the same.
#[allow(dead_code, reason = "the bench of the ring makes its own files")]
pub fn grow(at: &Path, dirs: u64, files: u64, bytes: usize) -> Result<()> {
    let mut content = vec![0x5a; bytes];
    for dir in 0..dirs {
        let at = at.join(format!("dir-{dir:04}"));
        fs::create_dir_all(&at)?;
        for file in 0..files {
            let number = (dir * files + file).to_le_bytes();
            let len = number.len().min(bytes);
            content[..len].copy_from_slice(&number[..len]);
            fs::write(at.join(format!("file-{file:04}")), &content)?;
        }
    }
    Ok(())
}

/// Runs a job with these arguments besides source, destination and state; anything but exit code 0 is an error.
#[allow(dead_code, reason = "the bench of the ring runs no job")]
pub fn run_job(source: &Path, dest: &Path, state: &Path, args: &[&str]) -> Result<Summary> {
    // As the program does: modes are given exactly as meant.
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    let mut line: Vec<OsString> = vec!["gfast".into(), "--source".into(), source.into(), "--dest".into(), dest.into()];
    line.extend(["--state-dir".into(), state.into(), "--quiet".into()]);
    line.extend(args.iter().map(OsString::from));
    let config = match cli::parse(line.into_iter()) {
        Parsed::Run(config) => config,
        Parsed::Print(text) => return Err(text.into()),
        Parsed::Err(error) => return Err(error.to_string().into()),
        other => return Err(format!("this asks for no copy: {other:?}").into()),
    };
    let ran = gfast::engine::run(&config, &Asks::default());
    rustix::process::umask(umask);
    let summary = ran.map_err(|error| error.to_string())?;
    match summary.exit_code() {
        ExitCode::Done => Ok(summary),
        _ => Err(summary.text().into()),
    }
}
