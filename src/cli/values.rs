//! Option values into numbers and choices. An `Err` says what would be right; argh puts option and value before it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::words;
use crate::config::*;
use crate::filter::{Action, Rule};
use crate::ledger::Format;

/// `--streams`.
pub(super) fn streams(text: &str) -> Result<u32, String> {
    let streams = text.parse().ok().filter(|streams| (1..=STREAMS_MAX).contains(streams));
    streams.ok_or_else(|| format!("a number from 1 to {STREAMS_MAX}"))
}

/// `--buffer-size`, rounded up to whole pages, which O_DIRECT needs.
pub(super) fn block_bytes(text: &str) -> Result<usize, String> {
    let bytes = usize::try_from(parse_size(text)?).ok().filter(|bytes| BLOCK_BYTES_RANGE.contains(bytes));
    let (least, most) = (BLOCK_BYTES_RANGE.start(), BLOCK_BYTES_RANGE.end());
    bytes.map(|bytes| bytes.next_multiple_of(*least)).ok_or_else(|| format!("from {least} to {most} bytes"))
}

/// `--part-size`, rounded up to whole mebibytes.
pub(super) fn part_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    let (least, most) = (PART_BYTES_RANGE.start(), PART_BYTES_RANGE.end());
    match PART_BYTES_RANGE.contains(&bytes) {
        true => Ok(bytes.next_multiple_of(1 << 20)),
        false => Err(format!("from {least} to {most} bytes, as S3 takes parts")),
    }
}

/// `GFAST_STALL_TIME` in seconds, for those who know their storage, or the time that suits most.
pub(super) fn stall_time() -> Duration {
    let asked = std::env::var("GFAST_STALL_TIME").ok().and_then(|text| text.parse().ok());
    asked.and_then(|secs| Duration::try_from_secs_f64(secs).ok()).unwrap_or(STALL_TIME_MAX)
}

/// `--streams` of a copy, which may leave them to the job.
pub(super) fn steered(text: &str) -> Result<(u32, Pilot), String> {
    match text {
        "auto" => Ok((STREAMS_DEFAULT, Pilot::Job)),
        number => streams(number).map(|streams| (streams, Pilot::User)).map_err(|why| format!("{why}, or auto")),
    }
}

/// `--metrics-addr`: a port is one of the loopback interface.
pub(super) fn metrics_addr(text: &str) -> Result<SocketAddr, String> {
    let of_port = |port: &str| port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let of_address = |ip: &str| ip.parse::<IpAddr>().ok().map(|ip| SocketAddr::from((ip, METRICS_PORT_DEFAULT)));
    let found = text.parse().ok().or_else(|| of_port(text.trim_start_matches(':'))).or_else(|| of_address(text));
    found.ok_or_else(|| "a port, or an IP address and a port: 9464, 127.0.0.1:9464".to_owned())
}

/// `--bwlimit` and `--iops-limit`.
pub(super) fn rate(text: &str) -> Result<Option<u64>, String> {
    parse_rate(text)
}

/// `--checkpoint-bytes`.
pub(super) fn checkpoint_bytes(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("at least 1 byte".to_owned()),
        bytes => Ok(bytes),
    }
}

/// `--checkpoint-interval`.
pub(super) fn checkpoint_interval(text: &str) -> Result<Duration, String> {
    let secs = text.parse::<f64>().ok().filter(|secs| CHECKPOINT_SECS_RANGE.contains(secs));
    let (least, most) = (CHECKPOINT_SECS_RANGE.start(), CHECKPOINT_SECS_RANGE.end());
    secs.map(Duration::from_secs_f64).ok_or_else(|| format!("from {least} to {most} seconds"))
}

/// `--seconds`.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let secs = text.parse::<f64>().ok().filter(|secs| (1.0..=3600.0).contains(secs));
    secs.map(Duration::from_secs_f64).ok_or_else(|| "from 1 to 3600 seconds".to_owned())
}

/// `--engine`.
pub(super) fn engine(text: &str) -> Result<EngineChoice, String> {
    choose(text, &[("auto", EngineChoice::Auto), ("uring", EngineChoice::Uring), ("sync", EngineChoice::Sync)])
}

/// `--direct`.
pub(super) fn direct(text: &str) -> Result<DirectChoice, String> {
    choose(text, &[("auto", DirectChoice::Auto), ("always", DirectChoice::Always), ("never", DirectChoice::Never)])
}

/// `--reflink`.
pub(super) fn reflink(text: &str) -> Result<ReflinkChoice, String> {
    choose(text, &[("auto", ReflinkChoice::Auto), ("never", ReflinkChoice::Never)])
}

/// `--sync`.
pub(super) fn sync(text: &str) -> Result<SyncPolicy, String> {
    choose(text, &[("batch", SyncPolicy::Batch), ("file", SyncPolicy::File), ("none", SyncPolicy::None)])
}

/// `--format`.
pub(super) fn format(text: &str) -> Result<Format, String> {
    choose(text, &[("text", Format::Text), ("ndjson", Format::Ndjson), ("csv", Format::Csv)])
}

/// `--max-delete`.
pub(super) fn max_delete(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a number of names".to_owned())
}

/// `--sample`.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok();
    let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| "a share of 100, above 0".to_owned())
}

/// An `--include` or `--exclude`, as the normaliser marks them: `+pattern`, `-pattern`.
pub(super) fn rule(text: &str) -> Result<Rule, String> {
    match text.split_at_checked(1) {
        Some(("+", pattern)) => Rule::parse(Action::Include, &words::decode(pattern)),
        Some((_, pattern)) => Rule::parse(Action::Exclude, &words::decode(pattern)),
        None => Err("is empty".to_owned()),
    }
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let chosen = choices.iter().find(|(name, _)| *name == text).map(|&(_, choice)| choice);
    chosen.ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
        let (last, first) = (names[names.len() - 1], &names[..names.len() - 1]);
        format!("{} or {last}", first.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_every_unit() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("1M", 1 << 20),
            ("1m", 1 << 20),
            ("1MiB", 1 << 20),
            ("1MB", 1_000_000),
            ("2kB", 2_000),
            ("3K", 3_072),
            ("4G", 4 << 30),
            ("2TiB", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "+1", "1.5M", "1 M", "1MM", "1Mi", "18446744073709551616", "18446744073709551615K"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_keep_their_bounds() {
        assert_eq!(block_bytes("1000000"), Ok(1_003_520));
        assert!(["4095", "65M"].iter().all(|text| block_bytes(text).is_err()));
        assert_eq!(checkpoint_interval("0.5"), Ok(Duration::from_millis(500)));
        assert!(["0", "nan", "inf", "1e9", "x"].iter().all(|text| checkpoint_interval(text).is_err()));
        assert!(checkpoint_bytes("0").is_err());
        assert_eq!(sync("Batch"), Err("batch, file or none".to_owned()));
        assert_eq!(reflink("never"), Ok(ReflinkChoice::Never));
    }
}
