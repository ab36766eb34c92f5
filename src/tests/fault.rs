//! The fault server is what it says: S3 as long as nothing is scripted, and exactly the scripted fault otherwise.
//!
//! Asked through reqwest with requests of the tests' own making, so that nothing here shares code with gfast.

mod support;

use std::io::Read;

use reqwest::{Client, Method, Response};
use support::fault::crc64::{crc64, header};
use support::fault::{Checksums, Fault, FaultServer, Kind, Rule, Terms};

/// A request as presigning would make it, without the signature's value.
struct Ask<'a> {
    server: &'a FaultServer,
    method: Method,
    target: String,
    headers: Vec<(&'a str, String)>,
    body: Vec<u8>,
}

impl<'a> Ask<'a> {
    fn new(server: &'a FaultServer, method: &str, target: &str) -> Ask<'a> {
        let (method, target) = (method.parse().unwrap(), target.to_owned());
        Ask { server, method, target, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &'a str, value: impl Into<String>) -> Ask<'a> {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: &[u8]) -> Ask<'a> {
        self.body = body.to_vec();
        self
    }

    async fn send(self) -> reqwest::Result<Response> {
        let amz = self.headers.iter().map(|(name, _)| *name).filter(|name| name.starts_with("x-amz-"));
        let signed: Vec<&str> = ["host"].into_iter().chain(amz).collect();
        let sign = format!(
            "X-Amz-Credential=AKIAFAULT%2F20260101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date={}&X-Amz-Expires=900&\
             X-Amz-SignedHeaders={}&X-Amz-Signature=0",
            now(),
            signed.join("%3B")
        );
        let joint = if self.target.contains('?') { '&' } else { '?' };
        let url = format!("{}{}{joint}{sign}", self.server.endpoint(), self.target);
        let mut request = Client::new().request(self.method.clone(), url);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if self.method == Method::PUT || self.method == Method::POST {
            request = request.header("content-length", self.body.len()).body(self.body);
        }
        request.send().await
    }

    async fn text(self) -> (u16, String) {
        let response = self.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn status(self) -> u16 {
        self.send().await.unwrap().status().as_u16()
    }
}

/// The present as `X-Amz-Date`.
fn now() -> String {
    let text = support::fault::http::iso8601(std::time::SystemTime::now());
    text.split('.').next().unwrap().replace(['-', ':'], "") + "Z"
}

fn server() -> FaultServer {
    let server = FaultServer::start(1);
    server.make_bucket("b");
    server
}

/// Runs a test's requests.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn an_object_is_put_read_ranged_and_deleted() {
    let server = server();
    block_on(async {
        let sum = header(crc64(b"hello"));
        let put = || Ask::new(&server, "PUT", "/b/a/x%20y").with("x-amz-meta-file-mtime", "5ns").body(b"hello");
        let wrong = put().with("x-amz-checksum-crc64nvme", header(1)).text().await;
        assert!(wrong.0 == 400 && wrong.1.contains("<Code>BadDigest</Code>"), "{wrong:?}");
        let stored = put().with("x-amz-checksum-crc64nvme", &sum).send().await.unwrap();
        assert_eq!((stored.status().as_u16(), told(&stored, "x-amz-checksum-crc64nvme")), (200, &sum[..]));
        let etag = told(&stored, "etag").to_owned();
        let head = Ask::new(&server, "HEAD", "/b/a/x%20y").with("x-amz-checksum-mode", "ENABLED").send().await.unwrap();
        let names = ["etag", "x-amz-meta-file-mtime", "content-length", "x-amz-checksum-crc64nvme"];
        assert_eq!(names.map(|name| told(&head, name)), [&etag[..], "5ns", "5", &sum[..]]);
        let range = || Ask::new(&server, "GET", "/b/a/x%20y").with("range", "bytes=1-2");
        let part = range().with("if-match", &etag).send().await.unwrap();
        assert_eq!((part.status().as_u16(), told(&part, "content-range")), (206, "bytes 1-2/5"));
        assert_eq!(part.text().await.unwrap(), "el");
        assert_eq!(range().with("if-match", "\"old\"").status().await, 412);
        assert_eq!(Ask::new(&server, "GET", "/b/a/x%20y").with("range", "bytes=5-").status().await, 416);
        assert_eq!(put().with("if-none-match", "*").status().await, 412);
        assert_eq!(Ask::new(&server, "DELETE", "/b/a/x%20y").status().await, 204);
        assert_eq!(Ask::new(&server, "GET", "/b/a/x%20y").status().await, 404);
        assert!(Ask::new(&server, "GET", "/c/x").text().await.1.contains("NoSuchBucket"));
    });
    let counts = server.counts();
    assert_eq!((counts.of(Kind::Put), counts.of(Kind::Get), counts.of(Kind::Delete)), (3, 5, 1));
    assert_eq!(counts.body_in, 15);
    assert!(server.keys("b").is_empty());
}

#[test]
fn an_upload_in_parts_is_checked_as_a_whole() {
    let server = server();
    server.set_part_bytes_min(3);
    block_on(async {
        let create = Ask::new(&server, "POST", "/b/big?uploads")
            .with("x-amz-checksum-algorithm", "CRC64NVME")
            .with("x-amz-meta-k", "v");
        let id = between(&create.text().await.1, "<UploadId>", "</UploadId>");
        let mut list = String::new();
        for (number, body) in [(2, "world"), (1, "hello "), (7, "!")] {
            let part = Ask::new(&server, "PUT", &format!("/b/big?partNumber={number}&uploadId={id}"));
            let sum = header(crc64(body.as_bytes()));
            let answer = part.with("x-amz-checksum-crc64nvme", sum).body(body.as_bytes()).send().await.unwrap();
            let etag = answer.headers()["etag"].to_str().unwrap();
            let entry = format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
            list = if number == 1 { entry + &list } else { list + &entry };
        }
        server.set_page_max(2);
        let listed = Ask::new(&server, "GET", &format!("/b/big?uploadId={id}")).text().await.1;
        assert!(listed.contains("<IsTruncated>true</IsTruncated>") && listed.contains("<NextPartNumberMarker>2<"));
        let rest = Ask::new(&server, "GET", &format!("/b/big?uploadId={id}&part-number-marker=2")).text().await.1;
        assert!(rest.contains("<PartNumber>7</PartNumber><Size>1</Size>") && !rest.contains("<PartNumber>2<"));
        assert!(Ask::new(&server, "GET", "/b?uploads&prefix=bi").text().await.1.contains(&id));
        let complete = |sum: u64| {
            let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
            let ask = Ask::new(&server, "POST", &format!("/b/big?uploadId={id}"));
            ask.with("x-amz-checksum-crc64nvme", header(sum)).body(body.as_bytes())
        };
        assert_eq!(complete(1).status().await, 400);
        let done = complete(crc64(b"hello world!")).text().await;
        assert!(done.0 == 200 && done.1.contains("CompleteMultipartUploadResult"), "{done:?}");
        assert_eq!(complete(1).status().await, 404, "an upload ends once");
        let copy = Ask::new(&server, "PUT", "/b/copy").with("x-amz-copy-source", "/b/big").text().await;
        assert!(copy.0 == 200 && copy.1.contains("CopyObjectResult"), "{copy:?}");
    });
    let object = server.object("b", "copy").unwrap();
    assert_eq!((&object.body[..], object.attributes["k"].as_str()), (&b"hello world!"[..], "v"));
    assert!(server.object("b", "big").unwrap().etag.ends_with("-3") && server.uploads().is_empty());
}

#[test]
fn a_listing_is_paged_folded_and_encoded() {
    let server = server();
    for key in ["p/a/1", "p/a/2", "p/b", "p/c/1", "p/d&+ \u{1}", "q"] {
        server.put("b", key, "x", &[]);
    }
    server.set_page_max(2);
    let (mut found, mut token) = (Vec::new(), String::new());
    block_on(async {
        loop {
            let target = format!("/b?list-type=2&prefix=p/&delimiter=%2F&encoding-type=url{token}");
            let page = Ask::new(&server, "GET", &target).text().await.1;
            for piece in page.split("<Contents>").flat_map(|piece| piece.split("<CommonPrefixes>")).skip(1) {
                let name = if piece.starts_with("<Key>") { "Key" } else { "Prefix" };
                found.push(between(piece, &format!("<{name}>"), &format!("</{name}>")));
            }
            if page.contains("<IsTruncated>false") {
                break;
            }
            token = between(&page, "<NextContinuationToken>", "</NextContinuationToken>").replace('%', "%25");
            token.insert_str(0, "&continuation-token=");
        }
    });
    assert_eq!(found, ["p/a/", "p/b", "p/c/", "p/d%26%2B%20%01"]);
}

#[test]
fn who_may_not_come_in_is_told_why() {
    let server = server();
    let ask = || Ask::new(&server, "HEAD", "/b");
    let set = |terms: fn(&mut Terms)| {
        let mut changed = Terms::default();
        terms(&mut changed);
        server.set_terms(changed);
    };
    block_on(async {
        assert_eq!(ask().status().await, 200);
        set(|terms| terms.region = Some("eu-west-3".to_owned()));
        let answer = ask().send().await.unwrap();
        assert_eq!((answer.status().as_u16(), told(&answer, "x-amz-bucket-region")), (400, "eu-west-3"));
        set(|terms| terms.access_key = Some("AKIAOTHER".to_owned()));
        assert!(Ask::new(&server, "GET", "/b/x").text().await.1.contains("InvalidAccessKeyId"));
        set(|terms| terms.clock_ahead_secs = 7200);
        assert_eq!(ask().status().await, 403);
        set(|_| ());
        let url = format!("{}/b/x", server.endpoint());
        assert_eq!(Client::new().get(&url).send().await.unwrap().status().as_u16(), 403);
    });
}

#[test]
fn every_fault_is_what_it_says() {
    let server = server();
    server.put("b", "o", "0123456789", &[]);
    let one = |fault: Fault| {
        server.heal();
        server.script(Rule::new(fault).times(1));
    };
    let get = || Ask::new(&server, "GET", "/b/o").with("x-amz-checksum-mode", "ENABLED");
    let put = || Ask::new(&server, "PUT", "/b/n").body(&[7; 1000]);
    block_on(async {
        one(Fault::Refuse { status: 503, code: "SlowDown" });
        assert!(get().text().await.1.contains("SlowDown"));
        assert_eq!(get().status().await, 200, "once is once");
        one(Fault::RefuseFor { status: 503, code: "SlowDown", seconds: 3 });
        assert_eq!(get().send().await.unwrap().headers()["retry-after"], "3");
        one(Fault::OkWithError("InternalError"));
        let answer = get().text().await;
        assert!(answer.0 == 200 && answer.1.contains("<Code>InternalError"), "{answer:?}");
        for (fault, expected) in [
            (Fault::FlipAnswer(3), "0122456789"),
            (Fault::FlipAnswer(99), "0123456788"),
            (Fault::Slow(500), "0123456789"),
        ] {
            one(fault);
            assert_eq!(get().text().await.1, expected);
        }
        for fault in [Fault::Short(1), Fault::ResetAnswer(4)] {
            one(fault.clone());
            let response = get().send().await.unwrap();
            assert!(response.text().await.is_err(), "{fault:?}");
        }
        one(Fault::WrongChecksum);
        assert_eq!(get().send().await.unwrap().headers()["x-amz-checksum-crc64nvme"], header(0x5eed));
        one(Fault::WrongEtag);
        assert!(get().send().await.unwrap().headers()["etag"].to_str().unwrap().starts_with("\"0123"));
        one(Fault::IgnoreRange);
        assert_eq!(get().with("range", "bytes=2-3").text().await, (200, "0123456789".to_owned()));
        one(Fault::ShiftRange);
        assert_eq!(get().with("range", "bytes=2-3").text().await, (206, "34".to_owned()));
        one(Fault::ResetRequest(100));
        assert!(put().send().await.is_err());
        assert_eq!(server.keys("b"), ["o"]);
        one(Fault::FlipRequest(0));
        let sum = header(crc64(&[7; 1000]));
        assert_eq!(put().with("x-amz-checksum-crc64nvme", &sum).status().await, 400);
        server.set_checksums(Checksums::Ignored);
        one(Fault::FlipRequest(0));
        assert_eq!(put().with("x-amz-checksum-crc64nvme", &sum).status().await, 200);
        assert_eq!(server.object("b", "n").unwrap().body[..2], [6, 7]);
        server.remove("b", "n");
        one(Fault::LostAnswer);
        assert!(put().send().await.is_err());
        assert_eq!(server.object("b", "n").unwrap().body[..], [7; 1000]);
    });
}

/// What reqwest cannot show: the bytes on the wire.
#[test]
fn long_early_and_stalled_answers_on_the_wire() {
    let server = server();
    server.set_terms(Terms { access_key: None, ..Terms::default() });
    server.put("b", "o", "0123456789", &[]);
    server.script(Rule::new(Fault::Long(3)).on(&[Kind::Get]).times(1));
    let answer = raw(&server, b"GET /b/o HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.contains("Content-Length: 10\r\n") && answer.ends_with("0123456789+++"), "{answer}");
    server.script(Rule::new(Fault::RefuseEarly { status: 403, code: "AccessDenied", after_bytes: 2 }).on(&[Kind::Put]));
    let answer = raw(&server, b"PUT /b/n HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nabcd");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    server.heal();
    server.script(Rule::new(Fault::StallBodyMs(4, 300)).key("o"));
    let start = std::time::Instant::now();
    let answer = raw(&server, b"GET /b/o HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("0123456789") && start.elapsed().as_millis() >= 300, "{answer}");
    assert_eq!(server.counts().body_in, 2);
}

#[test]
fn a_rate_hits_its_share_and_counts_are_kept() {
    let server = server();
    server.script(Rule::new(Fault::Refuse { status: 503, code: "SlowDown" }).on(&[Kind::Head]).per_mille(300).after(2));
    let mut refused = 0;
    block_on(async {
        for turn in 0..200 {
            let status = Ask::new(&server, "HEAD", "/b/x").status().await;
            assert!(turn >= 2 || status == 404, "the first two are spared");
            refused += u64::from(status == 503);
        }
    });
    assert!((30..90).contains(&refused), "{refused} of 200");
    let counts = server.counts();
    assert_eq!((counts.faults, counts.of(Kind::Head), counts.concurrent_max), (refused, 200, 1));
    server.reset_counts();
    assert_eq!(server.counts().of(Kind::Head), 0);
}

/// Sends `request` and returns what comes until the server closes, or stops answering for a second.
fn raw(server: &FaultServer, request: &[u8]) -> String {
    use std::io::Write;
    let mut socket = std::net::TcpStream::connect(server.endpoint().trim_start_matches("http://")).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    // A reset or the time running out ends the answer as well: what has come is compared.
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// A header of an answer.
#[track_caller]
fn told<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers()[name].to_str().unwrap()
}

/// What stands between two texts.
#[track_caller]
fn between(text: &str, start: &str, end: &str) -> String {
    let rest = text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}")).1;
    rest.split_once(end).unwrap().0.to_owned()
}
