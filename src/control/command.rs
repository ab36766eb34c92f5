//! What a running job can be told: text into a [`Command`]. Pure.

use crate::config::{STREAMS_MAX, parse_rate};

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// More or fewer streams.
    Streams(Change),
    /// Nothing new is begun, and what is open rests.
    Pause,
    /// All goes on.
    Continue,
    /// Most bytes a second.
    BytesLimit(Option<u64>),
    /// Most operations a second.
    OpsLimit(Option<u64>),
    /// How it stands.
    Status,
    /// What is under way is finished, the rest is for a resume: as SIGTERM.
    Stop,
}

/// How the number of streams changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// To this number.
    To(u32),
    /// By so many more.
    Up(u32),
    /// By so many fewer.
    Down(u32),
    /// By a quarter more, at least one.
    Raise,
    /// By a quarter fewer, at least one.
    Lower,
    /// As the job finds best.
    Auto,
}

impl Change {
    /// The number of streams that is wanted, where there are `now`; none for the job's own choice.
    pub fn applied(self, now: u32) -> Option<u32> {
        let quarter = (now / 4).max(1);
        Some(match self {
            Change::To(streams) => streams,
            Change::Up(more) => now.saturating_add(more),
            Change::Down(fewer) => now.saturating_sub(fewer).max(1),
            Change::Raise => now.saturating_add(quarter),
            Change::Lower => now.saturating_sub(quarter).max(1),
            Change::Auto => return None,
        })
    }
}

/// What every request looks like.
const USAGE: &str = "streams=48, streams=+8, streams=-8, streams=auto, pause, continue, bwlimit=500M, bwlimit=off, \
                     iops-limit=1000, iops-limit=off, status or stop";

/// Reads one request; an `Err` says what would be right.
pub fn parse(text: &str) -> Result<Command, String> {
    let (name, value) = match text.trim().split_once('=') {
        Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
        None => (text.trim(), None),
    };
    let of = |name: &str, why: String| format!("{name}: {why}");
    match (name, value) {
        ("streams", Some(value)) => change(value).map(Command::Streams).map_err(|why| of("streams", why)),
        ("bwlimit", Some(value)) => parse_rate(value).map(Command::BytesLimit).map_err(|why| of("bwlimit", why)),
        ("iops-limit", Some(value)) => parse_rate(value).map(Command::OpsLimit).map_err(|why| of("iops-limit", why)),
        ("pause", None) => Ok(Command::Pause),
        ("continue", None) => Ok(Command::Continue),
        ("status", None) => Ok(Command::Status),
        ("stop", None) => Ok(Command::Stop),
        _ => Err(format!("not understood: it takes {USAGE}")),
    }
}

fn change(value: &str) -> Result<Change, String> {
    let number = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|number| is_number && (1..=STREAMS_MAX).contains(number));
        number.ok_or_else(|| format!("a number from 1 to {STREAMS_MAX}, with + or - for more or fewer, or auto"))
    };
    match value.split_at_checked(1) {
        _ if value == "auto" => Ok(Change::Auto),
        Some(("+", digits)) => number(digits).map(Change::Up),
        Some(("-", digits)) => number(digits).map(Change::Down),
        _ => number(value).map(Change::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_read_and_nothing_else() {
        for (text, command) in [
            ("streams=48", Command::Streams(Change::To(48))),
            (" streams = +8 ", Command::Streams(Change::Up(8))),
            ("streams=-8", Command::Streams(Change::Down(8))),
            ("streams=auto", Command::Streams(Change::Auto)),
            ("pause", Command::Pause),
            ("continue", Command::Continue),
            ("bwlimit=500M", Command::BytesLimit(Some(500 << 20))),
            ("bwlimit=off", Command::BytesLimit(None)),
            ("iops-limit=1000", Command::OpsLimit(Some(1000))),
            ("iops-limit=off", Command::OpsLimit(None)),
            ("status", Command::Status),
            ("stop", Command::Stop),
        ] {
            assert_eq!(parse(text), Ok(command), "{text}");
        }
        for text in [
            "",
            "=",
            "streams",
            "streams=",
            "streams=0",
            "streams=1025",
            "streams=++1",
            "streams=+-1",
            "streams=1.5",
            "streams=+",
            "pause=1",
            "bwlimit",
            "bwlimit=0",
            "bwlimit=fast",
            "iops-limit=-1",
            "halt",
            "status\0",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn streams_go_up_and_down_by_a_quarter_and_at_least_one() {
        let applied = |change: Change, now: u32| change.applied(now).unwrap();
        assert_eq!([1, 3, 8, 32].map(|now| applied(Change::Raise, now)), [2, 4, 10, 40]);
        assert_eq!([1, 2, 8, 40].map(|now| applied(Change::Lower, now)), [1, 1, 6, 30]);
        assert_eq!((applied(Change::Up(8), 32), applied(Change::Down(40), 32), applied(Change::To(7), 32)), (40, 1, 7));
        assert_eq!(Change::Auto.applied(32), None);
    }
}
