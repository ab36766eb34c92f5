//! An answer that says no: what can be learned from it.

use std::time::Duration;

use reqwest::Response;
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use super::body::read_whole;
use super::{retry, times, xml};

/// An error that was answered.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// S3's name for the error, or the status's.
    pub code: String,
    /// Whether the server named the error.
    pub is_named: bool,
    /// The region the server spoke of.
    pub region: Option<String>,
    /// The wait the server asked for.
    pub retry_after: Option<Duration>,
    /// The server's clock, in seconds since 1970.
    pub date: Option<i64>,
}

impl Refusal {
    /// Reads the body of an error answer; one that breaks off or is no XML leaves the status to judge by.
    pub async fn read(response: Response) -> Refusal {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = read_whole(response).await.unwrap_or_default();
        Refusal::new(status, &headers, xml::failure(&body))
    }

    /// From an answer's parts.
    pub fn new(status: u16, headers: &HeaderMap, failure: Option<xml::Failure>) -> Refusal {
        let header = |name: &str| headers.get(name)?.to_str().ok();
        let failure = failure.filter(|failure| is_name(&failure.code));
        let named = failure.as_ref().map(|failure| failure.code.clone());
        let region = header("x-amz-bucket-region").map(str::to_owned);
        let region = region.or_else(|| failure.and_then(|failure| failure.region));
        let date = header(DATE.as_str()).and_then(times::parse).map(|time| time.secs);
        // A time of day is told by the server's clock.
        let now = || date.unwrap_or_else(|| jiff::Timestamp::now().as_second());
        let retry_after = header("x-amz-retry-after").and_then(retry::retry_after_ms);
        let retry_after =
            retry_after.or_else(|| header(RETRY_AFTER.as_str()).and_then(|value| retry::retry_after(value, now())));
        Refusal {
            status,
            is_named: named.is_some(),
            code: named.unwrap_or_else(|| name_of(status)),
            region: region.filter(|region| is_region(region)),
            retry_after,
            date,
        }
    }
}

/// Whether a text can be S3's name of an error: it is shown, so it may not be anything a server likes to say (I10).
fn is_name(code: &str) -> bool {
    (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
}

/// Whether a text can be a region's name: it becomes part of a host name.
fn is_region(region: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=64).contains(&region.len()) && region.bytes().all(is_plain)
}

/// "Forbidden" for 403: what is shown where the server names nothing, as in answers to HEAD.
fn name_of(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.unwrap_or("an error").replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn what_an_answer_tells_is_taken_and_what_it_says_beyond_names_is_not() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-bucket-region", HeaderValue::from_static("eu-west-1"));
        headers.insert(DATE, HeaderValue::from_static("Tue, 14 Nov 2023 22:13:20 GMT"));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let failure = xml::Failure { code: "SlowDown".to_owned(), region: Some("other".to_owned()) };
        let refusal = Refusal::new(503, &headers, Some(failure));
        assert_eq!((refusal.code.as_str(), refusal.region.as_deref()), ("SlowDown", Some("eu-west-1")));
        assert_eq!((refusal.date, refusal.retry_after), (Some(1_700_000_000), Some(Duration::from_secs(7))));
        headers.insert(RETRY_AFTER, HeaderValue::from_static("Tue, 14 Nov 2023 22:13:29 GMT"));
        assert_eq!(Refusal::new(503, &headers, None).retry_after, Some(Duration::from_secs(9)));
        headers.insert("x-amz-retry-after", HeaderValue::from_static("1500"));
        assert_eq!(Refusal::new(503, &headers, None).retry_after, Some(Duration::from_millis(1500)));
        let failure =
            xml::Failure { code: "AWS?X-Amz-Signature=1".to_owned(), region: Some("evil.example/".to_owned()) };
        let refusal = Refusal::new(403, &HeaderMap::new(), Some(failure));
        assert_eq!((refusal.code.as_str(), refusal.is_named, refusal.region), ("Forbidden", false, None));
    }
}
