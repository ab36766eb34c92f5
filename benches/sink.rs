//! The null sink: an S3 server that costs nothing, so that what is measured is the client.
//!
//! ```text
//! sink PORT [--tls CERT KEY] [--objects COUNT BYTES]
//! ```
//! PUT bodies are dropped in the kernel (MSG_TRUNC: not even copied), GET bodies are one block of noise sent again and
//! again, answers are what AWS's would be. Nothing that is uploaded is kept but its length and the checksum the client
//! sent; a test of content needs a real server. `--objects` puts COUNT objects `p/00000` and so on of BYTES bytes into
//! every bucket. Prints `ready` when it listens; `GET /sink-counts` tells bytes in, bytes out and requests since the
//! last time it was asked.

#[path = "../src/tests/support/fault/http.rs"]
#[allow(dead_code, reason = "the fault server uses more of it")]
mod http;

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use base64::Engine;
use http::{Request, iso8601, range, rfc1123, write_head};
use parking_lot::Mutex;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Bytes of the block that objects consist of, and of one read or write.
const BLOCK_BYTES: usize = 1 << 20;
/// Objects of one page of a listing.
const PAGE_MAX: u64 = 1000;
/// The ETag of everything.
const ETAG: &str = "\"00000000000000000000000000000000-1\"";

/// What an object is remembered by.
#[derive(Clone)]
struct Object {
    /// Its length.
    bytes: u64,
    /// Its checksum as the client sent it, or as the block gives it.
    checksum: Option<String>,
    /// User metadata as it was sent.
    attributes: Vec<(String, String)>,
}

/// What all connections share.
struct Sink {
    block: Vec<u8>,
    count: u64,
    offered: Object,
    objects: Mutex<HashMap<String, Object>>,
    uploads: Mutex<HashMap<String, Object>>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    requests: AtomicU64,
}

/// A connection, plain or not.
enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.read(into),
            Wire::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.write(from),
            Wire::Tls(stream) => stream.write(from),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(socket) => socket.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let [port, options @ ..] = words.as_slice() else { return Err(usage()) };
    let (mut tls, mut count, mut bytes) = (None, 0, 0);
    for option in options.chunks(3) {
        match option {
            ["--tls", cert, key] => tls = Some(tls_config(cert, key)?),
            ["--objects", many, size] => (count, bytes) = (many.parse()?, size.parse()?),
            _ => return Err(usage()),
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))?;
    let sink = Arc::new(Sink::new(count, bytes));
    println!("ready");
    for socket in listener.incoming() {
        let (socket, sink) = (socket?, Arc::clone(&sink));
        socket.set_nodelay(true)?;
        let wire = match &tls {
            None => Wire::Plain(socket),
            Some(config) => Wire::Tls(Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(config))?, socket))),
        };
        // A connection that breaks is the client's affair.
        std::thread::spawn(move || drop(sink.serve(wire)));
    }
    Ok(())
}

fn usage() -> Box<dyn Error> {
    "usage: sink PORT [--tls CERT KEY] [--objects COUNT BYTES]".into()
}

fn tls_config(cert: &str, key: &str) -> Result<Arc<ServerConfig>, Box<dyn Error>> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?))
}

impl Sink {
    fn new(count: u64, bytes: u64) -> Sink {
        let mut block = vec![0; BLOCK_BYTES];
        let mut state = 1_u64;
        for byte in &mut block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        let mut digest = crc64fast_nvme::Digest::new();
        for offset in (0..if count > 0 { bytes } else { 0 }).step_by(BLOCK_BYTES) {
            digest.write(&block[..(bytes - offset).min(BLOCK_BYTES as u64) as usize]);
        }
        let checksum = base64::engine::general_purpose::STANDARD.encode(digest.sum64().to_be_bytes());
        Sink {
            block,
            count,
            offered: Object { bytes, checksum: Some(checksum), attributes: Vec::new() },
            objects: Mutex::default(),
            uploads: Mutex::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        }
    }

    fn serve(&self, wire: Wire) -> io::Result<()> {
        // Small: what it takes of a body beyond the head is copied.
        let mut wire = BufReader::with_capacity(4096, wire);
        let mut scratch = vec![0; BLOCK_BYTES];
        while let Some(request) = Request::read(&mut wire)? {
            if request.expects_continue() {
                wire.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = self.take_body(&mut wire, &request, &mut scratch)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.answer(wire.get_mut(), &request, body)?;
        }
        Ok(())
    }

    /// Drops the body of an upload; others, which are small, are returned.
    fn take_body(&self, wire: &mut BufReader<Wire>, request: &Request, scratch: &mut [u8]) -> io::Result<u64> {
        let whole = request.body_bytes.unwrap_or(0);
        let mut left = whole;
        while left > 0 {
            let most = left.min(scratch.len() as u64) as usize;
            let taken = match wire.get_ref() {
                Wire::Plain(socket) if wire.buffer().is_empty() => {
                    recv(socket, &mut scratch[..most], RecvFlags::TRUNC)?.1
                }
                _ => wire.read(&mut scratch[..most])?,
            };
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= taken as u64;
        }
        self.bytes_in.fetch_add(whole, Ordering::Relaxed);
        Ok(whole)
    }

    fn answer(&self, wire: &mut Wire, request: &Request, body: u64) -> io::Result<()> {
        let (_, key) = request.bucket_and_key();
        let upload = request.word("uploadId");
        match (request.method.as_str(), key.is_empty()) {
            ("GET", true) if request.path == "sink-counts" => {
                let counts =
                    [&self.bytes_in, &self.bytes_out, &self.requests].map(|count| count.swap(0, Ordering::Relaxed));
                text(wire, &format!("{} {} {}\n", counts[0], counts[1], counts[2]))
            }
            ("HEAD", true) => write_head(wire, 200, &[("x-amz-bucket-region".into(), "us-east-1".into())], 0),
            ("GET", true) if request.query.contains_key("uploads") => text(wire, "<ListMultipartUploadsResult/>"),
            ("GET", true) => text(wire, &self.list(request)),
            ("GET", false) if upload.is_some() => text(wire, "<ListPartsResult/>"),
            ("GET" | "HEAD", false) => self.object(wire, request),
            ("PUT", false) => {
                let sum = request.header("x-amz-checksum-crc64nvme").map(str::to_owned);
                match upload.and_then(|id| self.uploads.lock().get_mut(id).map(|object| object.bytes += body)) {
                    Some(()) => {}
                    None => self
                        .remember(key, Object { bytes: body, checksum: sum.clone(), attributes: attributes(request) }),
                }
                write_head(wire, 200, &stored(sum), 0)
            }
            ("POST", false) if upload.is_none() => {
                let id = format!("upload-{}", self.requests.load(Ordering::Relaxed));
                let object = Object { bytes: 0, checksum: None, attributes: attributes(request) };
                self.uploads.lock().insert(id.clone(), object);
                text(
                    wire,
                    &format!(
                        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ),
                )
            }
            ("POST", false) => {
                let sum = request.header("x-amz-checksum-crc64nvme").map(str::to_owned);
                let object = upload.and_then(|id| self.uploads.lock().remove(id));
                if let Some(object) = object {
                    self.remember(key, Object { checksum: sum.clone(), ..object });
                }
                let told = sum.map(|sum| format!("<ChecksumCRC64NVME>{sum}</ChecksumCRC64NVME>")).unwrap_or_default();
                text(
                    wire,
                    &format!(
                        "<CompleteMultipartUploadResult><ETag>{ETAG}</ETag>{told}</CompleteMultipartUploadResult>"
                    ),
                )
            }
            _ => write_head(wire, 204, &[], 0),
        }
    }

    fn remember(&self, key: &str, object: Object) {
        self.objects.lock().insert(key.to_owned(), object);
    }

    /// One page: the objects on offer whose names begin with the prefix, flat as they are.
    fn list(&self, request: &Request) -> String {
        let prefix = request.word("prefix").unwrap_or("");
        let after = request.word("continuation-token").or(request.word("start-after")).unwrap_or("").to_owned();
        let keys =
            (0..self.count).map(|index| format!("p/{index:05}")).filter(|key| key.starts_with(prefix) && *key > after);
        let page: Vec<String> = keys.take(PAGE_MAX as usize + 1).collect();
        let (is_cut, mut text) = (page.len() as u64 > PAGE_MAX, "<ListBucketResult>".to_owned());
        for key in page.iter().take(PAGE_MAX as usize) {
            let (bytes, modified) = (self.offered.bytes, iso8601(SystemTime::UNIX_EPOCH));
            text += &format!(
                "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{ETAG}</ETag>\
                 <Size>{bytes}</Size>\
                 </Contents>"
            );
        }
        if is_cut {
            text += &format!("<NextContinuationToken>{}</NextContinuationToken>", page[PAGE_MAX as usize - 1]);
        }
        text + &format!("<IsTruncated>{is_cut}</IsTruncated></ListBucketResult>")
    }

    fn object(&self, wire: &mut Wire, request: &Request) -> io::Result<()> {
        let key = request.bucket_and_key().1;
        let is_offered =
            key.strip_prefix("p/").and_then(|text| text.parse().ok()).is_some_and(|index: u64| index < self.count);
        let found = self.objects.lock().get(key).cloned().or(is_offered.then(|| self.offered.clone()));
        let Some(object) = found else { return write_head(wire, 404, &[], 0) };
        let mut headers = stored(object.checksum.filter(|_| request.header("range").is_none()));
        headers.push(("Last-Modified".to_owned(), rfc1123(SystemTime::UNIX_EPOCH)));
        headers.extend(object.attributes);
        let (status, first, end) = match request.header("range").and_then(|text| range(text, object.bytes)) {
            None => (200, 0, object.bytes),
            Some((first, last)) => {
                headers.push(("Content-Range".to_owned(), format!("bytes {first}-{last}/{}", object.bytes)));
                (206, first, last + 1)
            }
        };
        write_head(wire, status, &headers, end - first)?;
        let mut at = first;
        while at < end && request.method == "GET" {
            let from = (at % BLOCK_BYTES as u64) as usize;
            let len = (end - at).min((BLOCK_BYTES - from) as u64);
            wire.write_all(&self.block[from..from + len as usize])?;
            at += len;
        }
        self.bytes_out.fetch_add(at - first, Ordering::Relaxed);
        Ok(())
    }
}

fn attributes(request: &Request) -> Vec<(String, String)> {
    let meta = request.headers.iter().filter(|(name, _)| name.starts_with("x-amz-meta-"));
    meta.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn stored(checksum: Option<String>) -> Vec<(String, String)> {
    let mut headers = vec![("ETag".to_owned(), ETAG.to_owned())];
    if let Some(sum) = checksum {
        headers.push(("x-amz-checksum-crc64nvme".to_owned(), sum));
        headers.push(("x-amz-checksum-type".to_owned(), "FULL_OBJECT".to_owned()));
    }
    headers
}

fn text(wire: &mut Wire, body: &str) -> io::Result<()> {
    write_head(wire, 200, &[("Content-Type".to_owned(), "application/xml".to_owned())], body.len() as u64)?;
    wire.write_all(body.as_bytes())
}
