//! What a presigned request must be to be let in: the rules of AWS beside the signature's value. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::http::{Request, parse_amz_date};
use super::store::Answer;

/// Seconds a request's clock may differ from the server's.
const SKEW_SECS_MAX: u64 = 15 * 60;

/// Who is let in, and where the server believes to be.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The access key that is known; `None` lets everybody in.
    pub access_key: Option<String>,
    /// The region requests must be signed for; `None` takes any.
    pub region: Option<String>,
    /// Seconds the server's clock is ahead of the true one.
    pub clock_ahead_secs: u64,
    /// A session token that has expired, and the status of the answer that says so.
    pub expired_token: Option<(u16, String)>,
}

impl Default for Terms {
    fn default() -> Terms {
        Terms { access_key: Some("AKIAFAULT".to_owned()), region: None, clock_ahead_secs: 0, expired_token: None }
    }
}

impl Terms {
    /// The time by the server's clock.
    pub fn shifted(&self, now: SystemTime) -> SystemTime {
        now + Duration::from_secs(self.clock_ahead_secs)
    }

    /// The refusal of a request that may not come in.
    pub fn check(&self, request: &Request, now: SystemTime) -> Option<Answer> {
        let access_key = self.access_key.as_ref()?;
        let Some(credential) = request.word("X-Amz-Credential") else {
            return Some(Answer::error(403, "AccessDenied"));
        };
        let mut scope = credential.split('/');
        if scope.next() != Some(access_key) {
            return Some(Answer::error(403, "InvalidAccessKeyId"));
        }
        let signed_for = scope.nth(1).unwrap_or_default();
        if let Some(region) = self.region.as_ref().filter(|region| *region != signed_for) {
            let answer = Answer::error(400, "AuthorizationHeaderMalformed");
            return Some(answer.with("x-amz-bucket-region", region));
        }
        let token = request.word("X-Amz-Security-Token");
        if let Some((status, _)) = self.expired_token.as_ref().filter(|(_, expired)| token == Some(expired)) {
            return Some(Answer::error(*status, "ExpiredToken"));
        }
        self.check_time(request, now).or_else(|| check_signed_headers(request))
    }

    fn check_time(&self, request: &Request, now: SystemTime) -> Option<Answer> {
        let now = self.shifted(now).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let signed = request.word("X-Amz-Date").and_then(parse_amz_date);
        let lifetime = request.word("X-Amz-Expires").and_then(|text| text.parse::<u64>().ok());
        match (signed, lifetime) {
            (Some(signed), Some(lifetime)) if now > signed + lifetime => Some(Answer::error(403, "AccessDenied")),
            (Some(signed), Some(_)) if now.abs_diff(signed) > SKEW_SECS_MAX => {
                Some(Answer::error(403, "RequestTimeTooSkewed"))
            }
            (Some(_), Some(1..=604_800)) => None,
            _ => Some(Answer::error(400, "AuthorizationQueryParametersError")),
        }
    }
}

/// Every `x-amz-*` header that is sent must be signed.
fn check_signed_headers(request: &Request) -> Option<Answer> {
    let signed: Vec<&str> = request.word("X-Amz-SignedHeaders").unwrap_or_default().split(';').collect();
    let sent = request.headers.keys().filter(|name| name.starts_with("x-amz-"));
    let mut unsigned = sent.filter(|name| !signed.contains(&name.as_str()));
    let is_complete =
        unsigned.next().is_none() && signed.contains(&"host") && request.word("X-Amz-Signature").is_some();
    (!is_complete).then(|| Answer::error(403, "AccessDenied"))
}
