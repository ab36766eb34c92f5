//! Wishes for more or fewer streams, as signals bring them: SIGUSR1 raises, SIGUSR2 lowers.
//!
//! A handler may do next to nothing, so it writes a byte into a pipe; whoever runs the job counts the bytes when it
//! gets to them. What comes before the job runs waits there.

use std::io::{PipeReader, Read};

use parking_lot::Mutex;
use rustix::io::ioctl_fionbio;
use signal_hook::consts::{SIGUSR1, SIGUSR2};

/// The reading ends; by default nobody writes to them.
#[derive(Debug, Default)]
pub struct Nudges {
    /// A byte for each SIGUSR1, then one for each SIGUSR2.
    pipes: Option<Mutex<[PipeReader; 2]>>,
}

/// Signals that came since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// SIGUSR1.
    pub raises: usize,
    /// SIGUSR2.
    pub lowers: usize,
}

impl Nudges {
    /// Installs the handlers.
    pub fn install() -> std::io::Result<Nudges> {
        let pipe = |signal| {
            let (reader, writer) = std::io::pipe()?;
            ioctl_fionbio(&reader, true)?;
            signal_hook::low_level::pipe::register(signal, writer)?;
            Ok::<_, std::io::Error>(reader)
        };
        Ok(Nudges { pipes: Some(Mutex::new([pipe(SIGUSR1)?, pipe(SIGUSR2)?])) })
    }

    /// Counts what came since the last look.
    pub fn take(&self) -> Heard {
        let Some(pipes) = &self.pipes else { return Heard::default() };
        let mut pipes = pipes.lock();
        let [raises, lowers] = pipes.each_mut().map(count);
        Heard { raises, lowers }
    }
}

/// Ends: what cannot be read now is not waited for, and a pipe holds 64 KiB.
fn count(pipe: &mut PipeReader) -> usize {
    let (mut bytes, mut count) = ([0; 256], 0);
    loop {
        match pipe.read(&mut bytes) {
            Ok(read) if read > 0 => count += read,
            _ => return count,
        }
    }
}
