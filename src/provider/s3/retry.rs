//! What an error answer means for the request, and how long to wait before the next attempt. Pure.
//!
//! Classes as in botocore, s5cmd, object_store and AWS's own C client (they agree but for details): connection trouble,
//! 408, 429 and 5xx are tried again; refusals are not. Waits are full jitter (AWS Architecture Blog, "Exponential
//! Backoff And Jitter", 2015): uniform below a bound that doubles, so that the lanes do not come back all at once.
//!
//! What ends it: other errors get 8 attempts. Throttling and a network without an answer end by time, 5 minutes: at 30
//! % of answers 503, eight attempts would still lose one request in 15,000, and a switch that reboots takes a minute.
//! The time is that of the waits and of the attempts, each for as long as a silent one would have lasted at most: a
//! part that was on its way for ten minutes, because a limit or a slow line held it, has used up little patience.

use std::time::Duration;

use super::times;

/// What to do about an error answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the request fails.
    Fail,
    /// The same again, after a wait.
    Again(Pace),
    /// Again with the region the answer names.
    Region,
    /// Again with the clock set by the answer's `Date`.
    Clock,
    /// Again with credentials asked for anew.
    Credentials,
    /// Likewise, if they may be what it was refused for: that was not said.
    Suspicion,
}

/// How the wait before the next attempt grows, and what ends the attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The server's trouble with this request: from 100 ms; ended by attempts.
    Error,
    /// The data was damaged on its way: at once, one time.
    Resend,
    /// The server asks for less: from 1 s, with fewer requests in flight; ended by time.
    Throttle,
    /// No answer: from 100 ms; ended by time.
    Network,
}

/// The longest wait of its own accord; a server's `Retry-After` may ask for more.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// What an attempt counts for at most: longer than that it was not without progress.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(30);

/// How much is tried before a request is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts at a request whose answers are errors.
    pub attempts_max: u32,
    /// Attempts at a request that is throttled.
    pub throttled_max: u32,
    /// Attempts at a request that gets no answer.
    pub silent_max: u32,
    /// Time of all waits and attempts, of each no more than 30 s.
    pub time_max: Duration,
}

impl Patience {
    /// While a job runs.
    pub const JOB: Patience =
        Patience { attempts_max: 8, throttled_max: 64, silent_max: 64, time_max: Duration::from_secs(300) };
    /// Before it begins: somebody waits for the line that says what is wrong.
    pub const START: Patience =
        Patience { attempts_max: 4, throttled_max: 4, silent_max: 4, time_max: Duration::from_secs(15) };
}

/// The meaning of an answer's status and S3's name for the error; an answer to HEAD has no name.
pub fn verdict(status: u16, code: &str) -> Verdict {
    match code {
        "RequestTimeTooSkewed" => Verdict::Clock,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Verdict::Credentials,
        "AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect" | "Redirect" => Verdict::Region,
        "SlowDown" | "ServiceUnavailable" | "TooManyRequests" | "RequestLimitExceeded" | "BandwidthLimitExceeded" => {
            Verdict::Again(Pace::Throttle)
        }
        code if code.starts_with("Throttl") || code.starts_with("SlowDown") => Verdict::Again(Pace::Throttle),
        "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" => Verdict::Again(Pace::Resend),
        "RequestTimeout" | "RequestTimeoutException" | "InternalError" | "IncompleteBody" => {
            Verdict::Again(Pace::Error)
        }
        "PriorRequestNotComplete" | "ConditionalRequestConflict" | "OperationAborted" => Verdict::Again(Pace::Error),
        _ => verdict_of_status(status),
    }
}

fn verdict_of_status(status: u16) -> Verdict {
    match status {
        301 | 307 => Verdict::Region,
        429 | 503 | 509 => Verdict::Again(Pace::Throttle),
        408 | 500 | 502 | 504 => Verdict::Again(Pace::Error),
        _ => Verdict::Fail,
    }
}

/// The attempts at one request.
#[derive(Clone, Debug)]
pub struct Attempts {
    /// How much may be tried.
    patience: Patience,
    /// Attempts that have failed, by what ended them: errors, resends, throttling, silence.
    failed: [u32; 4],
    /// Time they and the waits between them have used up.
    spent: Duration,
    /// State of the random numbers.
    random: u64,
}

impl Attempts {
    /// No attempt made yet; `seed` decides the waits.
    pub fn new(patience: Patience, seed: u64) -> Attempts {
        Attempts { patience, failed: [0; 4], spent: Duration::ZERO, random: seed }
    }

    /// Takes note of a failed attempt that `took` so long. The wait before the next; `None` when it was the last.
    /// `retry_after` is what the server asked for; of that there is waited for what time is left.
    pub fn wait(&mut self, pace: Pace, took: Duration, retry_after: Option<Duration>) -> Option<Duration> {
        let (kind, attempts_max, base_ms) = match pace {
            Pace::Error => (0, self.patience.attempts_max, 100),
            Pace::Resend => (1, 2, 0),
            Pace::Throttle => (2, self.patience.throttled_max, 1000),
            Pace::Network => (3, self.patience.silent_max, 100),
        };
        let exponent = self.failed[kind].min(16);
        self.failed[kind] += 1;
        self.spent += took.min(ATTEMPT_TIME_MAX);
        let left = self.patience.time_max.checked_sub(self.spent)?;
        if self.failed[kind] >= attempts_max {
            return None;
        }
        let bound = (Duration::from_millis(base_ms) * (1 << exponent)).min(WAIT_MAX);
        let jitter = bound.mul_f64(self.fraction());
        // Nobody waits for an attempt there is no time for.
        let wait = Some(jitter.max(retry_after.unwrap_or_default().min(left))).filter(|wait| *wait <= left)?;
        self.spent += wait;
        Some(wait)
    }

    /// The next random number in `0.0..1.0` (splitmix64).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Reads `Retry-After`: seconds, or the time of day when to come back; `now` is seconds since 1970 by the same clock.
pub fn retry_after(value: &str, now: i64) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let left = times::parse(value)?.secs.saturating_sub(now);
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// Reads `x-amz-retry-after`, which AWS's own clients take for milliseconds (botocore, retries/standard.py; the SDKs'
/// retry specification).
pub fn retry_after_ms(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_their_classes() {
        let table = [
            (503, "SlowDown", Verdict::Again(Pace::Throttle)),
            (503, "", Verdict::Again(Pace::Throttle)),
            (400, "ThrottlingException", Verdict::Again(Pace::Throttle)),
            (500, "InternalError", Verdict::Again(Pace::Error)),
            (200, "InternalError", Verdict::Again(Pace::Error)),
            (400, "RequestTimeout", Verdict::Again(Pace::Error)),
            (400, "BadDigest", Verdict::Again(Pace::Resend)),
            (403, "RequestTimeTooSkewed", Verdict::Clock),
            (400, "ExpiredToken", Verdict::Credentials),
            (301, "", Verdict::Region),
            (400, "AuthorizationHeaderMalformed", Verdict::Region),
            (403, "AccessDenied", Verdict::Fail),
            (404, "NoSuchKey", Verdict::Fail),
            (412, "PreconditionFailed", Verdict::Fail),
            (400, "InvalidArgument", Verdict::Fail),
            (501, "NotImplemented", Verdict::Fail),
        ];
        for (status, code, expected) in table {
            assert_eq!(verdict(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn errors_end_by_attempts_and_waits_grow_below_their_bound() {
        let mut attempts = Attempts::new(Patience::JOB, 1);
        let mut bound = Duration::from_millis(100);
        for _ in 1..Patience::JOB.attempts_max {
            let wait = attempts.wait(Pace::Error, Duration::ZERO, None).unwrap();
            assert!(wait <= bound, "{wait:?} {bound:?}");
            bound = (bound * 2).min(WAIT_MAX);
        }
        assert_eq!(attempts.wait(Pace::Error, Duration::ZERO, None), None);
        assert!(attempts.wait(Pace::Resend, Duration::ZERO, None).is_some());
        assert_eq!(attempts.wait(Pace::Resend, Duration::ZERO, None), None);
    }

    #[test]
    fn throttling_ends_by_time_and_a_server_is_obeyed() {
        let mut attempts = Attempts::new(Patience::JOB, 2);
        let mut elapsed = Duration::ZERO;
        let mut count = 0;
        while let Some(wait) = attempts.wait(Pace::Throttle, Duration::ZERO, None) {
            (elapsed, count) = (elapsed + wait, count + 1);
        }
        assert!(elapsed <= Patience::JOB.time_max && (15..64).contains(&count), "{elapsed:?} {count}");
        let mut attempts = Attempts::new(Patience { silent_max: 2, ..Patience::JOB }, 4);
        (0..5).for_each(|_| assert!(attempts.wait(Pace::Throttle, Duration::ZERO, None).is_some()));
        assert!(attempts.wait(Pace::Network, Duration::ZERO, None).is_some(), "counted apart");
        assert_eq!(attempts.wait(Pace::Network, Duration::ZERO, None), None);
        let asked = Duration::from_secs(60);
        let mut attempts = Attempts::new(Patience::JOB, 3);
        assert_eq!(attempts.wait(Pace::Throttle, Duration::ZERO, Some(asked)), Some(asked));
        let took = [Some(asked), Some(asked), Some(asked / 2), None];
        assert_eq!(
            [0; 4].map(|_| attempts.wait(Pace::Throttle, ATTEMPT_TIME_MAX, Some(asked))),
            took,
            "60 + 2 x 90 + 60 s"
        );
        let mut attempts = Attempts::new(Patience::JOB, 3);
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(attempts.wait(Pace::Throttle, Duration::ZERO, hour), Some(Patience::JOB.time_max), "all there is");
        assert_eq!(attempts.wait(Pace::Throttle, Duration::ZERO, hour), None);
        // However long a part was on its way before, it may be sent again.
        let mut attempts = Attempts::new(Patience::JOB, 5);
        assert!([0; 3].iter().all(|_| attempts.wait(Pace::Network, Duration::from_secs(3600), None).is_some()));
        assert_eq!(retry_after(" 60 ", 0), Some(asked));
        assert_eq!(retry_after("Tue, 14 Nov 2023 22:13:20 GMT", 1_700_000_000 - 60), Some(asked));
        assert_eq!(retry_after("Tue, 14 Nov 2023 22:13:20 GMT", 1_800_000_000), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", 0), None);
        assert_eq!(retry_after_ms("60000"), Some(asked));
    }
}
