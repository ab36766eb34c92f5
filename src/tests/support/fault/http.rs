//! HTTP/1.1 from the server's side, over blocking streams: heads in, heads out, bodies left to the caller.
//!
//! Own code rather than hyper's, on purpose: hyper keeps a server from sending what a broken one sends (a body shorter
//! or longer than announced, a reset in its middle), and a thread that reads a socket is what a null sink should cost.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most bytes of a request's head.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// The head of a request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET`, `PUT` and so on.
    pub method: String,
    /// The path without its first slash, percent-decoded.
    pub path: String,
    /// The query, percent-decoded; a name without value has an empty one.
    pub query: BTreeMap<String, String>,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Length of the body; `None` if none was announced.
    pub body_bytes: Option<u64>,
}

impl Request {
    /// Reads one head; `None` if the client closed the connection before it.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut stream = stream.take(HEAD_BYTES_MAX);
        let Some(line) = read_line(&mut stream)? else { return Ok(None) };
        let mut words = line.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(invalid("request line")) };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request {
            method: method.to_owned(),
            path: percent_decode(path.strip_prefix('/').unwrap_or(path))?,
            ..Request::default()
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            request.query.insert(percent_decode(name)?, percent_decode(value)?);
        }
        loop {
            let line = read_line(&mut stream)?.ok_or_else(|| invalid("head ends early"))?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("header"))?;
            request.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let announced = request.headers.get("content-length");
        request.body_bytes = announced.map(|text| text.parse().map_err(|_| invalid("content-length"))).transpose()?;
        Ok(Some(request))
    }

    /// A header; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// A word of the query.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    /// Bucket and key: the path up to and behind its first slash.
    pub fn bucket_and_key(&self) -> (&str, &str) {
        self.path.split_once('/').unwrap_or((&self.path, ""))
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }
}

/// One line without its end; `None` at the end of the stream.
fn read_line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if stream.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    let line = line.strip_suffix(b"\n").ok_or_else(|| invalid("head too long or cut"))?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8(line.to_vec()).map(Some).map_err(|_| invalid("head is not UTF-8"))
}

/// Writes a response's head. `body_bytes` is what is announced, whatever follows.
pub fn write_head(
    stream: &mut impl Write,
    status: u16,
    headers: &[(String, String)],
    body_bytes: u64,
) -> io::Result<()> {
    write_head_announcing(stream, status, headers, Some(body_bytes))
}

/// The same, where nothing may be announced at all.
pub fn write_head_announcing(
    stream: &mut impl Write,
    status: u16,
    headers: &[(String, String)],
    body_bytes: Option<u64>,
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    if let Some(body_bytes) = body_bytes {
        head.push_str(&format!("Content-Length: {body_bytes}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        411 => "Length Required",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Slow Down",
        _ => "Answer",
    }
}

/// `%41` as `A`; a plus stays a plus, as in a path and in what presigning makes of a query.
pub fn percent_decode(text: &str) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| invalid("percent escape"))?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| invalid("escaped text is not UTF-8"))
}

/// Everything but unreserved characters and slashes as `%41`.
pub fn percent_encode(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes().map(|byte| if is_plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `first-last` of `bytes=first-last`, `bytes=first-` or `bytes=-count`, within `size`; `None` if there is no such
/// byte.
pub fn range(header: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (first.parse::<u64>().ok(), last.parse::<u64>().ok()) {
        (Some(first), Some(last)) => (first, last.min(size.checked_sub(1)?)),
        (Some(first), None) => (first, size.checked_sub(1)?),
        (None, Some(count)) => (size.saturating_sub(count), size.checked_sub(1)?),
        (None, None) => return None,
    };
    (first <= last).then_some((first, last))
}

/// A moment as year, month, day, weekday (0 is a Thursday) and second of the day; H. Hinnant, days_from_civil.
fn civil(moment: SystemTime) -> (i64, u32, u32, usize, u64) {
    let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let days = (seconds / 86_400) as i64 + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day, (seconds / 86_400 % 7) as usize, seconds % 86_400)
}

/// As in `Last-Modified`: `Thu, 01 Jan 1970 00:00:00 GMT`.
pub fn rfc1123(moment: SystemTime) -> String {
    let (year, month, day, weekday, second) = civil(moment);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][weekday];
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", names[month as usize - 1])
}

/// As in a listing: `1970-01-01T00:00:00.000Z`.
pub fn iso8601(moment: SystemTime) -> String {
    let (year, month, day, _, second) = civil(moment);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}

/// The seconds since 1970 of `20260131T235959Z`, as presigned requests write it.
pub fn parse_amz_date(text: &str) -> Option<u64> {
    let number = |at: std::ops::Range<usize>| text.get(at).and_then(|digits| digits.parse::<u64>().ok());
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    let (year, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * shifted + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_and_no_more() {
        let mut text: &[u8] =
            b"PUT /b/a%20b/%C3%A4+?x-id=1&uploads HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        let request = Request::read(&mut text).unwrap().unwrap();
        assert_eq!(request.bucket_and_key(), ("b", "a b/\u{e4}+"));
        assert_eq!((request.word("x-id"), request.word("uploads"), request.body_bytes), (Some("1"), Some(""), Some(3)));
        assert_eq!(text, b"abc");
        assert!(Request::read(&mut &b""[..]).unwrap().is_none());
        assert!(Request::read(&mut &b"GET / HTTP/1.1\r\nHost"[..]).is_err());
    }

    #[test]
    fn ranges_stay_within_the_object() {
        assert_eq!(range("bytes=0-9", 5), Some((0, 4)));
        assert_eq!(range("bytes=2-", 5), Some((2, 4)));
        assert_eq!(range("bytes=-2", 5), Some((3, 4)));
        assert_eq!((range("bytes=5-", 5), range("bytes=0-", 0), range("lines=1-2", 5)), (None, None, None));
    }

    #[test]
    fn moments_are_written_and_read() {
        let moment = UNIX_EPOCH + Duration::from_secs(1_709_251_199);
        assert_eq!(rfc1123(moment), "Thu, 29 Feb 2024 23:59:59 GMT");
        assert_eq!(iso8601(moment), "2024-02-29T23:59:59.000Z");
        assert_eq!(parse_amz_date("20240229T235959Z"), Some(1_709_251_199));
        assert_eq!(parse_amz_date("2024"), None);
    }
}
