//! A running job's figures for Prometheus: `GET /metrics` on the address of `--metrics-addr`.
//!
//! One thread, one connection at a time, each with little time and one answer: a scraper comes every few seconds. The
//! page holds numbers only, no path and no name (I10).

use std::fmt::Write as _;
use std::io::{self, PipeReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::desk::Desk;
use super::status::{Errors, Status};
use crate::error::{Error, Result};
use crate::report::{Latency, SideLatency, Weight};

/// Longest time a scraper may take to ask, and to read the answer.
const TALK_TIME_MAX: Duration = Duration::from_secs(2);
/// Longest request.
const REQUEST_BYTES_MAX: usize = 8192;
/// Upper bounds of the latency buckets, in microseconds: 50 us to 10 s.
const BUCKETS_US: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000];

/// Opens the address; a job that was asked for figures and cannot give them is refused.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let opened = TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    opened.map_err(|error| Error::refused(address.to_string(), format!("cannot serve metrics there: {error}")))
}

/// Serves scrapers until the other end of `end` is closed.
pub(crate) fn serve(desk: &Desk, listener: &TcpListener, end: &PipeReader) {
    loop {
        let mut fds = [PollFd::new(end, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // A call that fails for want of memory may succeed later; the job does not depend on it.
            Err(_) => std::thread::sleep(TALK_TIME_MAX),
        }
        if let Ok((stream, _)) = listener.accept() {
            // A scraper that goes away is its own loss.
            let _ = talk(stream, desk);
        }
    }
}

fn talk(mut stream: TcpStream, desk: &Desk) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TALK_TIME_MAX))?;
    stream.set_write_timeout(Some(TALK_TIME_MAX))?;
    let request = request(&mut stream)?;
    let mut words = request.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(path)) if path.split('?').next() == Some("/metrics") => {
            ("200 OK", page(&desk.status(Instant::now()), &desk.latency()))
        }
        (Some("GET"), Some(_)) => ("404 Not Found", "the figures are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "GET only\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// The first line of a request, once all of its head was sent. Ends: each read brings bytes, or is the last; a talk
/// that lasts too long is none.
fn request(stream: &mut TcpStream) -> io::Result<String> {
    let (mut head, began) = (Vec::new(), Instant::now());
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes)?;
        if count == 0 || head.len() > REQUEST_BYTES_MAX || began.elapsed() > TALK_TIME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&bytes[..count]);
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    String::from_utf8(line.to_vec()).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The page, in Prometheus's text format.
fn page(status: &Status, latency: &Latency) -> String {
    let totals = &status.totals;
    let mut page = Page::default();
    page.family("gfast_entries_walked_total", "counter", "Names that the walk has found.");
    page.value("gfast_entries_walked_total", "", totals.entries_walked as f64);
    page.family("gfast_entries_done_total", "counter", "Entries whose fate is decided.");
    page.value("gfast_entries_done_total", "", totals.entries_done as f64);
    page.family("gfast_files_copied_total", "counter", "Files copied.");
    page.value("gfast_files_copied_total", "", totals.files_copied as f64);
    page.family("gfast_bytes_total", "counter", "Bytes of files: planned, copied, durable at the destination.");
    let bytes = [("planned", totals.bytes_planned), ("copied", totals.bytes_copied), ("durable", totals.bytes_durable)];
    bytes.iter().for_each(|(kind, count)| page.value("gfast_bytes_total", &label("kind", kind), *count as f64));
    page.errors(&status.causes);
    page.family("gfast_losses_total", "counter", "Metadata that could not be kept.");
    page.value("gfast_losses_total", "", totals.losses as f64);
    page.family("gfast_streams", "gauge", "Streams: allowed, at work, resting.");
    let streams = &status.streams;
    let streams = [("limit", streams.limit), ("active", streams.active), ("parked", streams.parked)];
    streams.iter().for_each(|(kind, count)| page.value("gfast_streams", &label("kind", kind), f64::from(*count)));
    if let Some(limit) = status.bwlimit {
        page.family("gfast_bwlimit_bytes", "gauge", "Most bytes a second.");
        page.value("gfast_bwlimit_bytes", "", limit as f64);
    }
    page.family("gfast_elapsed_seconds", "gauge", "Time since the run began.");
    page.value("gfast_elapsed_seconds", "", status.elapsed_s);
    let name = "gfast_operation_seconds";
    page.family(name, "histogram", "How long operations took: reads of the source, writes of the destination.");
    page.histogram(name, "source", &latency.source);
    page.histogram(name, "dest", &latency.dest);
    page.text
}

fn label(name: &str, value: &str) -> String {
    format!("{{{name}=\"{value}\"}}")
}

/// The page being written.
#[derive(Default)]
struct Page {
    /// What is written.
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.text, "{name}{labels} {value}");
    }

    /// Every class has its line, so that a rise from none shows; causes have theirs once they are met.
    fn errors(&mut self, causes: &[Errors]) {
        let name = "gfast_errors_total";
        self.family(
            name,
            "counter",
            "Errors by class: tried again, an object that did not arrive, the end of the job.",
        );
        for class in [Weight::Retry, Weight::Object, Weight::Fatal].map(Weight::name) {
            let count: u64 = causes.iter().filter(|one| one.class == class).map(|one| one.count).sum();
            self.value(name, &label("class", class), count as f64);
        }
        let name = "gfast_error_causes_total";
        self.family(name, "counter", "The same by cause as well: an errno, an HTTP status, or a word.");
        for Errors { class, cause, count } in causes {
            self.value(name, &format!("{{class=\"{class}\",cause=\"{cause}\"}}"), *count as f64);
        }
    }

    fn histogram(&mut self, name: &str, side: &str, latency: &SideLatency) {
        let bucket = format!("{name}_bucket");
        for bound in BUCKETS_US {
            let labels = format!("{{side=\"{side}\",le=\"{}\"}}", bound as f64 / 1e6);
            self.value(&bucket, &labels, latency.count_up_to(Duration::from_micros(bound)) as f64);
        }
        self.value(&bucket, &format!("{{side=\"{side}\",le=\"+Inf\"}}"), latency.count() as f64);
        self.value(&format!("{name}_sum"), &label("side", side), latency.total().as_secs_f64());
        self.value(&format!("{name}_count"), &label("side", side), latency.count() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_in_prometheus_s_format() {
        let mut status = Status { bwlimit: Some(1 << 20), ..Status::default() };
        (status.totals.bytes_copied, status.streams.limit) = (4096, 32);
        let errors = |class: &str, cause: &str, count| Errors { class: class.into(), cause: cause.into(), count };
        status.causes = vec![errors("object", "EACCES", 2), errors("object", "vanished", 1)];
        let mut latency = Latency::default();
        for micros in [60, 600, 600, 20_000_000] {
            latency.source.record(Duration::from_micros(micros));
        }
        let page = page(&status, &latency);
        for line in [
            "# TYPE gfast_bytes_total counter",
            "gfast_bytes_total{kind=\"copied\"} 4096",
            "gfast_errors_total{class=\"object\"} 3",
            "gfast_errors_total{class=\"fatal\"} 0",
            "gfast_error_causes_total{class=\"object\",cause=\"EACCES\"} 2",
            "gfast_streams{kind=\"limit\"} 32",
            "gfast_bwlimit_bytes 1048576",
            "gfast_operation_seconds_bucket{side=\"source\",le=\"0.00005\"} 0",
            "gfast_operation_seconds_bucket{side=\"source\",le=\"0.0001\"} 1",
            "gfast_operation_seconds_bucket{side=\"source\",le=\"0.001\"} 3",
            "gfast_operation_seconds_bucket{side=\"source\",le=\"10\"} 3",
            "gfast_operation_seconds_bucket{side=\"source\",le=\"+Inf\"} 4",
            "gfast_operation_seconds_count{side=\"dest\"} 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing:\n{page}");
        }
        let is_sample = |line: &str| line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok());
        assert!(page.lines().all(|line| line.starts_with("# ") || is_sample(line)), "{page}");
        let mut names: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "a family stands once");
    }
}
