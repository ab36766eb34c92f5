//! Servers that stumble, lie, refuse and hang up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use gfast::config::S3Options;
use gfast::digest::crc64;
use gfast::error::{Cause, Class, Error};
use gfast::provider::s3::xml::encode_crc64;
use gfast::provider::s3::{Bucket, ByteRange, Checksums, Client, From, Part};
use gfast::ring::Side;

use super::support::scripted::{Asked, Reply, Scripted};
use super::{BUCKET, block, key, read, variables};

/// The secret of all requests here: nothing may tell it.
const SECRET: &str = "canary-of-the-fault-server";

fn answer(status: &'static str, body: &str) -> Reply {
    Reply::Answer(status, Vec::new(), body.as_bytes().to_vec())
}

fn error(status: &'static str, code: &str) -> Reply {
    answer(status, &format!("<Error><Code>{code}</Code><Message>canary-message</Message></Error>"))
}

/// Starts a server that has a bucket and answers everything else by `script`, and opens a client to it.
fn start(script: impl Fn(&Asked, bool) -> Option<Reply> + Send + Sync + 'static) -> (Scripted, Client) {
    let server = Scripted::start(move |asked, is_read| match asked.line.starts_with("HEAD /bucket/?") {
        true => Some(answer("200 OK", "")),
        false => script(asked, is_read),
    });
    let client = block(async {
        let bucket = open(&server.endpoint).await.unwrap();
        Client::new(Arc::new(bucket)).unwrap()
    });
    (server, client)
}

async fn open(endpoint: &str) -> Result<Bucket, Error> {
    let options = S3Options { endpoint_url: Some(endpoint.to_owned()), ..S3Options::default() };
    Bucket::open_at(BUCKET, "", &options, Side::Source, &variables("AKIAFAULT", SECRET)).await
}

fn remote(status: u16, code: &str) -> Cause {
    Cause::Remote { status, code: code.to_owned() }
}

#[test]
fn throttled_broken_and_cut_requests_are_sent_again() {
    let turns = AtomicUsize::new(0);
    let content = Bytes::from(vec![7; 3 << 20]);
    let expected = content.clone();
    let (_server, client) = start(move |asked, is_read| {
        if !is_read {
            return None;
        }
        assert!(asked.body == expected, "every attempt sends the whole body");
        assert_eq!(asked.headers["x-amz-checksum-crc64nvme"], encode_crc64(crc64(&asked.body)));
        let reply = match turns.fetch_add(1, Ordering::Relaxed) {
            0 => error("503 Slow Down", "SlowDown"),
            1 => Reply::Cut,
            2 => error("500 Internal Server Error", "InternalError"),
            3 => answer("502 Bad Gateway", "<html>no XML"),
            4 => error("400 Bad Request", "BadDigest"),
            _ => answer("200 OK", ""),
        };
        Some(reply)
    });
    let stored = block(client.put(&key("k"), content.clone(), crc64(&content), &[])).unwrap();
    assert!(!stored.is_checked);
    assert_eq!(client.bucket().checksums(), Checksums::Ignored);
}

#[test]
fn damage_is_sent_again_once_and_refusals_are_not() {
    let (server, client) = start(|asked, _| match asked.line.contains("damaged") {
        true => Some(error("400 Bad Request", "BadDigest")),
        false => Some(error("403 Forbidden", "AccessDenied")),
    });
    let before = server.count.load(Ordering::Relaxed);
    let error = block(client.put(&key("damaged"), Bytes::new(), 0, &[])).unwrap_err();
    assert_eq!((&error.cause, error.class()), (&remote(400, "BadDigest"), Class::Object));
    assert_eq!(server.count.load(Ordering::Relaxed) - before, 3, "twice, and a look at what is there");
    let error = block(client.put(&key("denied"), Bytes::new(), 0, &[])).unwrap_err();
    assert_eq!((&error.cause, error.class()), (&remote(403, "AccessDenied"), Class::Object));
    assert_eq!(server.count.load(Ordering::Relaxed) - before, 4);
}

#[test]
fn a_refusal_in_the_middle_of_a_body_is_told_as_what_it_is() {
    let (_server, client) = start(|_, _| Some(error("403 Forbidden", "AccessDenied")));
    let content = Bytes::from(vec![1; 32 << 20]);
    let error = block(client.put(&key("k"), content.clone(), 1, &[])).unwrap_err();
    assert_eq!(error.cause, remote(403, "AccessDenied"));
    let error = block(client.put_part(&key("k"), "upload", 1, content, 1)).unwrap_err();
    assert_eq!(error.cause, remote(403, "AccessDenied"));
}

#[test]
fn an_error_inside_a_success_is_an_error() {
    let turns = AtomicUsize::new(0);
    let made = "<CompleteMultipartUploadResult><ETag>\"e-1\"</ETag><ChecksumCRC64NVME>AAAAAAAAAAk=</ChecksumCRC64NVME>\
        </CompleteMultipartUploadResult>";
    let (_server, client) = start(move |_, is_read| match (is_read, turns.load(Ordering::Relaxed)) {
        (false, _) => None,
        (true, 0) => {
            turns.fetch_add(1, Ordering::Relaxed);
            Some(error("200 OK", "InternalError"))
        }
        (true, _) => Some(answer("200 OK", &format!("  \n  <?xml version=\"1.0\"?>\n{made}"))),
    });
    let parts = [Part { number: 1, etag: "e".to_owned(), len: 5, crc64: 9 }];
    let stored = block(client.complete_upload(&key("k"), "u", &parts, 9)).unwrap();
    assert!(stored.is_checked && stored.etag == "e-1");
    let error = block(client.complete_upload(&key("k"), "u", &parts, 8)).unwrap_err();
    assert_eq!(error.class(), Class::Retry, "{error}");
}

#[test]
fn a_completion_whose_answer_was_lost_is_found_again() {
    let turns = AtomicUsize::new(0);
    let (_server, client) = start(move |asked, is_read| {
        if asked.line.starts_with("HEAD ") {
            let headers = vec![
                ("content-length", "5".to_owned()),
                ("etag", "\"x-1\"".to_owned()),
                ("x-amz-checksum-crc64nvme", encode_crc64(9)),
            ];
            return Some(Reply::Answer("200 OK", headers, Vec::new()));
        }
        match is_read {
            false => None,
            true if turns.fetch_add(1, Ordering::Relaxed) == 0 => Some(Reply::Cut),
            true => Some(error("404 Not Found", "NoSuchUpload")),
        }
    });
    let parts = [Part { number: 1, etag: "e".to_owned(), len: 5, crc64: 9 }];
    let stored = block(client.complete_upload(&key("k"), "u", &parts, 9)).unwrap();
    assert!(stored.is_checked && stored.etag == "x-1");
    let error = block(client.complete_upload(&key("k"), "u", &parts, 10)).unwrap_err();
    assert_eq!(error.cause, remote(404, "NoSuchUpload"));
}

#[test]
fn a_body_that_ends_early_may_be_asked_for_again() {
    let (_server, client) = start(|_, _| Some(Reply::Short(100, vec![1; 40])));
    let error = block(async { read(client.get(&key("k"), None, None).await.unwrap()).await }).unwrap_err();
    assert_eq!(error.class(), Class::Retry, "{error}");
    assert!(matches!(error.cause, Cause::Cut(_)));
}

#[test]
fn answers_about_something_else_are_not_taken() {
    let (_server, client) = start(|asked, _| {
        let range = if asked.line.contains("other-range") { "bytes 1-5/100" } else { "bytes 0-4/100" };
        let headers = vec![("etag", "\"new\"".to_owned()), ("content-range", range.to_owned())];
        Some(Reply::Answer("200 OK", headers, vec![0; 5]))
    });
    let range = Some(ByteRange { offset: 0, len: 5 });
    block(async {
        let error = client.get(&key("k"), range, Some("old")).await.err().unwrap();
        assert_eq!(error.cause, Cause::Unstable { attempts: 1 });
        let error = client.get(&key("other-range"), range, None).await.err().unwrap();
        assert_eq!(
            (error.class(), error.cause),
            (Class::Object, Cause::Protected("the server answered another range than was asked for"))
        );
        let download = client.get(&key("k"), range, Some("new")).await.unwrap();
        assert_eq!((download.object.size, read(download).await.unwrap().len()), (100, 5));
    });
}

#[test]
fn the_bucket_s_region_is_followed() {
    let server = Scripted::start(|asked, _| match asked.line.contains("eu-west-3") {
        true => Some(answer("200 OK", "")),
        false => {
            let region = vec![("x-amz-bucket-region", "eu-west-3".to_owned())];
            Some(Reply::Answer("301 Moved Permanently", region, Vec::new()))
        }
    });
    block(open(&server.endpoint)).unwrap();
    assert_eq!(server.count.load(Ordering::Relaxed), 2);
}

#[test]
fn a_clock_that_is_off_is_set_by_the_server_s() {
    let server = Scripted::start(|asked, _| match asked.line.contains("X-Amz-Date=2033051") {
        true => Some(answer("200 OK", "")),
        false => {
            let date = vec![("date", "Wed, 18 May 2033 03:33:20 GMT".to_owned())];
            Some(Reply::Answer("403 Forbidden", date, Vec::new()))
        }
    });
    block(open(&server.endpoint)).unwrap();
    assert_eq!(server.count.load(Ordering::Relaxed), 2);
}

/// By then a presigned URL has expired, or is of the future, which AWS calls AccessDenied. Where the clocks agree that
/// is what it is.
#[test]
fn a_clock_that_steps_on_the_way_is_set_again() {
    let (server, client) = start(|asked, _| {
        let is_of_its_time = asked.line.contains("X-Amz-Date=2033051");
        let date = vec![("date", "Wed, 18 May 2033 03:33:20 GMT".to_owned())];
        Some(match is_of_its_time && !asked.line.contains("/forbidden") {
            true => answer("204 No Content", ""),
            false => Reply::Answer("403 Forbidden", date, b"<Error><Code>AccessDenied</Code></Error>".to_vec()),
        })
    });
    block(client.delete(&key("k"))).unwrap();
    assert_eq!(server.count.load(Ordering::Relaxed), 3, "the bucket, an expired URL, and one more");
    assert!(block(client.delete(&key("forbidden"))).is_err());
    assert_eq!(server.count.load(Ordering::Relaxed), 4);
}

#[test]
fn a_server_that_refuses_checksums_gets_none() {
    let (_server, client) = start(|asked, _| {
        let has_checksum = asked.headers.keys().any(|name| name.starts_with("x-amz-checksum"));
        match (has_checksum, asked.line.contains("uploads=")) {
            (true, _) => Some(error("400 Bad Request", "InvalidArgument")),
            (false, true) => Some(answer(
                "200 OK",
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            )),
            (false, false) => Some(Reply::Answer("200 OK", vec![("etag", "\"e\"".to_owned())], Vec::new())),
        }
    });
    block(async {
        assert_eq!(client.create_upload(&key("k"), &[]).await.unwrap().0, "u");
        assert_eq!(client.bucket().checksums(), Checksums::Ignored);
        assert_eq!(client.put_part(&key("k"), "u", 1, Bytes::from_static(b"x"), 1).await.unwrap().etag, "e");
        assert!(!client.put(&key("k"), Bytes::from_static(b"x"), 1, &[]).await.unwrap().is_checked);
    });
}

#[test]
fn a_listing_that_turns_in_a_circle_or_ends_early_is_an_error() {
    let (_server, client) = start(|asked, _| match asked.line.contains("prefix=cut") {
        true => Some(answer("200 OK", "<ListBucketResult><Contents><Key>k</Key>")),
        false => {
            let page = "<ListBucketResult><IsTruncated>true</IsTruncated>\
                <NextContinuationToken>t</NextContinuationToken></ListBucketResult>";
            Some(answer("200 OK", page))
        }
    });
    block(async {
        assert_eq!(client.list("", &From::Start).await.unwrap().next.as_deref(), Some("t"));
        let again = client.list("", &From::Token("t".to_owned())).await.unwrap_err();
        assert_eq!(again.cause, Cause::Protected("the server's answer cannot be read"));
        assert!(client.list("cut", &From::Start).await.is_err());
    });
}

/// An error, or a page of somebody else's, is no page without names.
#[test]
fn what_is_no_listing_is_no_empty_listing() {
    let (server, client) = start(|asked, _| match &asked.line {
        line if line.contains("prefix=html") => Some(answer("200 OK", "<html><body/></html>")),
        line if line.contains("/bucket/html") => Some(answer("200 OK", "<html><body/></html>")),
        line if line.contains("/bucket/gone") => Some(error("200 OK", "NoSuchUpload")),
        line if line.contains("prefix=moto") => Some(answer("200 OK", "<n:ListBucketResult xmlns:n='x'/>")),
        line if line.contains("/bucket/moto") => Some(answer("200 OK", "<ListPartsResponse/>")),
        line if line.contains("/bucket/other") => Some(error("200 OK", "AccessDenied")),
        line if line.contains("prefix=busy") && asked.number < 3 => Some(error("200 OK", "SlowDown")),
        line if line.contains("prefix=busy") => Some(answer("200 OK", "<ListBucketResult/>")),
        _ => Some(error("200 OK", "AccessDenied")),
    });
    block(async {
        assert_eq!(server.count.load(Ordering::Relaxed), 1);
        assert!(client.list("busy", &From::Start).await.unwrap().objects.is_empty());
        assert_eq!(server.count.load(Ordering::Relaxed), 4, "twice refused, once answered");
        assert_eq!(client.list("", &From::Start).await.unwrap_err().cause, remote(200, "AccessDenied"));
        let unreadable = Cause::Protected("the server's answer cannot be read");
        assert_eq!(client.list("html", &From::Start).await.unwrap_err().cause, unreadable);
        assert!(client.list("moto", &From::Start).await.unwrap().objects.is_empty());
        assert_eq!(client.list_parts(&key("other"), "u").await.unwrap_err().cause, remote(200, "AccessDenied"));
        assert_eq!(client.list_parts(&key("html"), "u").await.unwrap_err().cause, unreadable);
        assert_eq!(client.list_parts(&key("gone"), "u").await.unwrap(), None);
        assert_eq!(client.list_parts(&key("moto"), "u").await.unwrap(), Some(Vec::new()));
        assert_eq!(client.list_uploads("").await.unwrap_err().cause, remote(200, "AccessDenied"));
    });
}

/// A request that is refused with and without its checksum says nothing about checksums.
#[test]
fn one_bad_request_does_not_end_the_checksums() {
    let (_server, client) = start(|asked, is_read| match (asked.line.contains("/odd"), is_read) {
        (true, _) => Some(error("400 Bad Request", "InvalidRequest")),
        (false, false) => None,
        (false, true) => {
            let name = "x-amz-checksum-crc64nvme";
            Some(Reply::Answer("200 OK", vec![(name, asked.headers[name].clone())], Vec::new()))
        }
    });
    block(async {
        let content = Bytes::from_static(b"x");
        let refused = remote(400, "InvalidRequest");
        assert_eq!(client.put(&key("odd"), content.clone(), 1, &[]).await.unwrap_err().cause, refused);
        assert_eq!(client.create_upload(&key("odd"), &[]).await.unwrap_err().cause, refused);
        assert_eq!(client.bucket().checksums(), Checksums::Unknown);
        assert!(client.put(&key("good"), content.clone(), crc64(&content), &[]).await.unwrap().is_checked);
    });
}

/// AWS's own header counts milliseconds, and HTTP's may tell a time of day.
#[test]
fn a_server_is_given_the_time_it_asks_for() {
    let date = |seconds: u32| format!("Tue, 14 Nov 2023 22:13:{seconds} GMT");
    let cases = [
        (vec![("x-amz-retry-after", "1100".to_owned()), ("retry-after", "4000".to_owned())], 1100),
        (vec![("date", date(20)), ("retry-after", date(22))], 2000),
    ];
    for (headers, least_ms) in cases {
        let turns = AtomicUsize::new(0);
        let (_server, client) = start(move |_, _| match turns.fetch_add(1, Ordering::Relaxed) {
            0 => Some(Reply::Answer("503 Slow Down", headers.clone(), Vec::new())),
            _ => Some(answer("200 OK", "")),
        });
        let started = Instant::now();
        block(client.delete(&key("k"))).unwrap();
        let took_ms = started.elapsed().as_millis();
        assert!((least_ms..60_000).contains(&took_ms), "{took_ms} ms of {least_ms}");
    }
}

/// How long an object is must be said: silence does not make it empty.
#[test]
fn a_head_without_a_length_is_an_error() {
    let (_server, client) = start(|asked, _| {
        let len = if asked.line.contains("/told") { "7" } else { "" };
        Some(Reply::Answer("200 OK", vec![("content-length", len.to_owned())], Vec::new()))
    });
    block(async {
        assert_eq!(client.head(&key("told")).await.unwrap().unwrap().size, 7);
        let error = client.head(&key("silent")).await.unwrap_err();
        assert!(error.class() == Class::Object, "{error}");
    });
}

/// A bucket whose HEADs are refused for other tokens than those from `first` on; the keys come from a container's
/// endpoint that makes new ones each time. Asks for an object `times` times: the last answer, how often keys were asked
/// for, and how often for the object.
fn heads_by_sessions(first: usize, times: usize) -> (Result<u64, Error>, usize, usize) {
    let (given, asked_for) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (keys_given, heads) = (given.clone(), asked_for.clone());
    let server = Scripted::start(move |asked, _| {
        if asked.line.starts_with("GET /role") {
            let token = keys_given.fetch_add(1, Ordering::Relaxed);
            let keys = format!(
                "{{\"AccessKeyId\":\"AKIAFAULT\",\"SecretAccessKey\":\"{SECRET}\",\"Token\":\"token-{token}\",\
                 \"Expiration\":\"2099-01-01T00:00:00Z\"}}"
            );
            return Some(answer("200 OK", &keys));
        }
        if asked.line.starts_with("HEAD /bucket/?") {
            return Some(answer("200 OK", ""));
        }
        heads.fetch_add(1, Ordering::Relaxed);
        let (_, token) = asked.line.split_once("token-").unwrap();
        let digits = token.split(|digit: char| !digit.is_ascii_digit()).next().unwrap();
        match digits.parse::<usize>().unwrap() >= first {
            true => Some(Reply::Answer("200 OK", vec![("content-length", "7".to_owned())], Vec::new())),
            false => Some(answer("403 Forbidden", "")),
        }
    });
    let role = format!("{}/role", server.endpoint);
    let pairs = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &role[..]), ("AWS_EC2_METADATA_DISABLED", "true")];
    let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = S3Options { endpoint_url: Some(server.endpoint.clone()), ..S3Options::default() };
    let last = block(async {
        let bucket = Bucket::open_at(BUCKET, "", &options, Side::Source, &variables).await.unwrap();
        let client = Client::new(Arc::new(bucket)).unwrap();
        for _ in 1..times {
            let _ = client.head(&key("k")).await;
        }
        client.head(&key("k")).await.map(|object| object.unwrap().size)
    });
    (last, given.load(Ordering::Relaxed), asked_for.load(Ordering::Relaxed))
}

/// An answer to HEAD says no more than 403 of a session that has ended, as of what is forbidden: then with any keys.
#[test]
fn keys_are_asked_for_anew_once_for_a_refusal_that_may_be_their_session_s() {
    assert!(matches!(heads_by_sessions(0, 1), (Ok(7), 1, 1)), "no more than it takes");
    let (last, given, asked) = heads_by_sessions(1, 1);
    assert_eq!((last.ok(), given, asked), (Some(7), 2, 2));
    let (last, given, asked) = heads_by_sessions(usize::MAX, 20);
    let error = last.unwrap_err();
    // Each of them is asked about by a listing, too, whose refusal would have a name.
    assert_eq!((&error.cause, given, asked), (&remote(403, "Forbidden"), 2, 1 + 20 + 20));
}

#[test]
fn credentials_that_are_refused_end_the_job() {
    for code in ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket"] {
        let (_server, client) = start(move |_, _| Some(error("403 Forbidden", code)));
        let error = block(client.put(&key("k"), Bytes::new(), 0, &[])).unwrap_err();
        assert_eq!((error.class(), &error.cause), (Class::Fatal, &remote(403, code)));
    }
}

#[test]
fn an_endpoint_without_a_server_is_refused_soon() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let started = Instant::now();
    let error = block(open(&endpoint)).err().unwrap();
    assert!(error.to_string().contains("cannot be reached") && error.to_string().contains("refused"), "{error}");
    assert!(started.elapsed().as_secs() < 10);
    let unusable = ["http://user:canary@host:bad", "http://user:canary@[::x", "user:canary@host", "//canary@"];
    for endpoint in ["ftp://x", "http://", "http://user:canary@host"].into_iter().chain(unusable) {
        let error = block(open(endpoint)).err().unwrap();
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

/// Every way to fail, and no text of it holds what signs a request or what a server says beyond the error's name.
#[test]
fn no_error_tells_a_secret() {
    let turns = AtomicUsize::new(0);
    let (_server, client) = start(move |asked, _| match turns.fetch_add(1, Ordering::Relaxed) % 4 {
        0 => Some(error("403 Forbidden", "AccessDenied")),
        1 => Some(error("404 Not Found", "X-Amz-Signature=canary")),
        2 => Some(answer("409 Conflict", &asked.line)),
        _ => Some(Reply::Short(10, b"canary".to_vec())),
    });
    let mut texts = Vec::new();
    block(async {
        let source = open(&_server.endpoint).await.unwrap();
        for _ in 0..4 {
            let mut note = |error: Option<Error>| texts.extend(error.map(|error| format!("{error} {error:?}")));
            let content = Bytes::from_static(b"x");
            note(client.put(&key("k"), content.clone(), 1, &[]).await.err());
            note(client.put_part(&key("k"), "u", 1, content, 1).await.err());
            note(client.create_upload(&key("k"), &[]).await.err());
            note(client.list("p", &From::Start).await.err());
            note(client.copy(&source, &key("s"), "e", &key("k"), None).await.err());
            match client.get(&key("k"), None, None).await {
                Ok(download) => note(read(download).await.err()),
                Err(error) => note(Some(error)),
            }
        }
    });
    assert!(texts.len() >= 16, "{texts:#?}");
    for text in texts {
        for secret in [SECRET, "canary", "Signature", "X-Amz", "Credential"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
