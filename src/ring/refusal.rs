//! Rings that the kernel refuses: asked for again where memory is short, else told with the remedy.
//!
//! Memory may be short for a moment: it is io_uring_setup that says ENOMEM. On Linux 6.18 the memory of a ring counts
//! against RLIMIT_MEMLOCK of an ordinary user, over all processes, and that of a ring that was just closed does for a
//! while yet; on a busy machine the kernel does not wait for pages.

use std::time::Duration;

use crate::config::BufferChoice;
use crate::error::Errno;

/// Pauses before a ring is asked for again.
const PAUSES_MS: [u64; 4] = [10, 30, 90, 200];
/// Operations in flight of a ring that hardly needs memory: 40 KiB.
const DEPTH_SMALL: usize = 64;

/// Asks for a ring of this depth, with such buffers, until it is there, then for a small one; otherwise why there is
/// none, with the remedy.
pub(super) fn climb_down<T>(
    wanted: (usize, BufferChoice),
    mut make: impl FnMut((usize, BufferChoice)) -> Result<T, Errno>,
    pause: impl FnMut(Duration),
) -> Result<T, String> {
    let made = match patiently(|| make(wanted), pause) {
        Err(Errno::NOMEM | Errno::AGAIN) => make((wanted.0.min(DEPTH_SMALL), BufferChoice::Plain)),
        made => made,
    };
    made.map_err(|errno| why_refused(errno, disabled().trim()))
}

/// Asks for what takes memory, again after each pause. What is no shortage of memory will be none later either.
fn patiently<T>(mut make: impl FnMut() -> Result<T, Errno>, mut pause: impl FnMut(Duration)) -> Result<T, Errno> {
    let mut made = make();
    for pause_ms in PAUSES_MS {
        if !matches!(made, Err(Errno::NOMEM | Errno::AGAIN)) {
            break;
        }
        pause(Duration::from_millis(pause_ms));
        made = make();
    }
    made
}

/// Asks for anything that has a ring of its own, patiently; otherwise why there is none, with the remedy.
pub(crate) fn ask_for<T>(make: impl FnMut() -> Result<T, Errno>) -> Result<T, String> {
    patiently(make, std::thread::sleep).map_err(|errno| why_refused(errno, disabled().trim()))
}

/// What kernel.io_uring_disabled reads.
fn disabled() -> String {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default()
}

/// Why io_uring_setup failed with `errno` where kernel.io_uring_disabled reads `disabled`, and what to do.
fn why_refused(errno: Errno, disabled: &str) -> String {
    match (errno, disabled) {
        (Errno::PERM, "2") => "io_uring is switched off (remedy: sysctl kernel.io_uring_disabled=0)".into(),
        (Errno::PERM, "1") => "io_uring is for privileged processes only (remedy: sysctl kernel.io_uring_disabled=0, \
             or add this user to the group in kernel.io_uring_group)"
            .into(),
        (Errno::PERM | Errno::ACCESS, _) => {
            "a sandbox forbids io_uring (remedy: allow io_uring_setup, io_uring_enter and \
             io_uring_register in the container's seccomp profile)"
                .into()
        }
        (Errno::NOSYS, _) => {
            "this kernel or sandbox has no io_uring (remedy: Linux 5.15 or later, or a seccomp profile \
             that allows it)"
                .into()
        }
        (Errno::NOMEM, _) => "io_uring was refused memory (remedy: raise `ulimit -l`)".into(),
        (errno, _) => format!("io_uring_setup failed: {}", std::io::Error::from(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_memory_is_asked_for_again_and_then_less_of_it() {
        let wanted = (1024, BufferChoice::Registered);
        let asked = |errno: Errno, failures: usize| {
            let (mut asked, mut paused) = (Vec::new(), 0);
            let make = |of: (usize, BufferChoice)| {
                asked.push(of);
                if asked.len() > failures { Ok(()) } else { Err(errno) }
            };
            let made = climb_down(wanted, make, |_| paused += 1);
            (made, asked, paused)
        };
        assert_eq!(asked(Errno::NOMEM, 0), (Ok(()), vec![wanted], 0));
        assert_eq!(asked(Errno::NOMEM, 2), (Ok(()), vec![wanted; 3], 2));
        let ladder = [vec![wanted; 5], vec![(DEPTH_SMALL, BufferChoice::Plain)]].concat();
        assert_eq!(asked(Errno::NOMEM, 5), (Ok(()), ladder.clone(), 4));
        let refused = |errno| Err(why_refused(errno, disabled().trim()));
        assert_eq!(asked(Errno::NOMEM, 6), (refused(Errno::NOMEM), ladder, 4));
        assert_eq!(asked(Errno::PERM, 1), (refused(Errno::PERM), vec![wanted], 0), "no shortage");
    }

    #[test]
    fn every_refusal_names_its_cause_and_its_remedy() {
        let cases = [
            (Errno::PERM, "2", "switched off", "kernel.io_uring_disabled=0"),
            (Errno::PERM, "1", "privileged processes only", "kernel.io_uring_group"),
            (Errno::PERM, "0", "sandbox", "seccomp profile"),
            (Errno::PERM, "", "sandbox", "seccomp profile"),
            (Errno::NOSYS, "", "no io_uring", "Linux 5.15"),
            (Errno::NOMEM, "0", "refused memory", "ulimit -l"),
            (Errno::MFILE, "0", "io_uring_setup failed", "Too many open files"),
        ];
        for (errno, disabled, cause, remedy) in cases {
            let why = why_refused(errno, disabled);
            assert!(why.contains(cause) && why.contains(remedy) && !why.contains('\n'), "{errno:?} {disabled}: {why}");
        }
    }
}
