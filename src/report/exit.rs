//! The exit codes: a contract with scripts and schedulers, told in the README. `EXIT_CODES` in `tests/cli.rs` says
//! which test sees each of them come out of a real run.

use crate::error::{Cause, Class, Error};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// 0: all done.
    Done,
    /// 1: the command line cannot be understood.
    Usage,
    /// 2: refused before anything was touched.
    Refused,
    /// 11: stopped by a full destination, a broken catalog or the like.
    Fatal,
    /// 20: interrupted, resumable.
    Interrupted,
    /// 23: finished, and some objects failed.
    Failed,
    /// 24: finished, and some source objects vanished or kept changing.
    Vanished,
    /// 25: finished, and more deletions were due than allowed.
    DeleteCap,
}

impl ExitCode {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            ExitCode::Done => 0,
            ExitCode::Usage => 1,
            ExitCode::Refused => 2,
            ExitCode::Fatal => 11,
            ExitCode::Interrupted => 20,
            ExitCode::Failed => 23,
            ExitCode::Vanished => 24,
            ExitCode::DeleteCap => 25,
        }
    }

    /// What an error that ended the job makes of it: nothing was copied after it.
    pub fn of(error: &Error) -> ExitCode {
        match (&error.cause, error.class()) {
            (Cause::Usage(_), _) => ExitCode::Usage,
            (Cause::Refused(_), _) => ExitCode::Refused,
            (Cause::Catalog(_) | Cause::Os(_), _) | (_, Class::Fatal) => ExitCode::Fatal,
            (cause, _) => ExitCode::of_object(cause),
        }
    }

    /// What one object's failure makes of a job that went on.
    pub fn of_object(cause: &Cause) -> ExitCode {
        match cause {
            Cause::Vanished | Cause::Unstable { .. } => ExitCode::Vanished,
            _ => ExitCode::Failed,
        }
    }

    /// The one to exit with where both apply.
    pub fn and(self, other: ExitCode) -> ExitCode {
        match other.rank() < self.rank() {
            true => other,
            false => self,
        }
    }

    /// 0 first: what ended the job early, then what is missing from it, most severe first.
    fn rank(self) -> u8 {
        match self {
            ExitCode::Usage => 0,
            ExitCode::Refused => 1,
            ExitCode::Fatal => 2,
            ExitCode::Interrupted => 3,
            ExitCode::DeleteCap => 4,
            ExitCode::Failed => 5,
            ExitCode::Vanished => 6,
            ExitCode::Done => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Errno;

    #[test]
    fn the_first_of_11_20_25_23_24_0_wins_in_any_order() {
        let order = [
            ExitCode::Fatal,
            ExitCode::Interrupted,
            ExitCode::DeleteCap,
            ExitCode::Failed,
            ExitCode::Vanished,
            ExitCode::Done,
        ];
        assert_eq!(order.map(ExitCode::code), [11, 20, 25, 23, 24, 0]);
        for (i, &first) in order.iter().enumerate() {
            for &later in &order[i..] {
                assert_eq!(first.and(later), first);
                assert_eq!(later.and(first), first);
            }
        }
    }

    #[test]
    fn errors_have_the_documented_codes() {
        assert_eq!(ExitCode::of(&Error::usage("x")).code(), 1);
        assert_eq!(ExitCode::of(&Error::refused("x", "y")).code(), 2);
        assert_eq!(ExitCode::of(&Error::catalog("x", "y")).code(), 11);
        assert_eq!(ExitCode::of(&Error::os("write", "x", Errno::NOSPC)).code(), 11);
        assert_eq!(ExitCode::of_object(&Cause::Os(Errno::IO)).code(), 23);
        assert_eq!(ExitCode::of_object(&Cause::Loss("owner")).code(), 23);
        assert_eq!(ExitCode::of_object(&Cause::Vanished).code(), 24);
        assert_eq!(ExitCode::of_object(&Cause::Unstable { attempts: 3 }).code(), 24);
    }
}
