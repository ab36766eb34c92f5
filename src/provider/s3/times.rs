//! The times of S3's answers: ISO 8601 in listings, RFC 1123 in headers. Pure.

use jiff::Timestamp;

use crate::ring::Time;

/// `2023-11-14T22:13:20.000Z` or `Tue, 14 Nov 2023 22:13:20 GMT`.
pub fn parse(text: &str) -> Option<Time> {
    let text = text.trim();
    let timestamp: Timestamp = match text.parse() {
        Ok(timestamp) => timestamp,
        Err(_) => jiff::fmt::rfc2822::parse(text).ok()?.timestamp(),
    };
    let nanos = timestamp.as_nanosecond();
    let secs = i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?;
    Some(Time { secs, nanos: nanos.rem_euclid(1_000_000_000) as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let time = Some(Time { secs: 1_700_000_000, nanos: 0 });
        assert_eq!(parse("Tue, 14 Nov 2023 22:13:20 GMT"), time);
        assert_eq!(parse("2023-11-14T22:13:20.000Z"), time);
        assert_eq!(parse("2023-11-14T22:13:20+00:00"), time);
        assert_eq!(parse("1969-12-31T23:59:59.75Z"), Some(Time { secs: -1, nanos: 750_000_000 }));
        assert_eq!(parse("yesterday"), None);
    }
}
