//! A job that steers itself, and one whose figures others read.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gfast::control::status::Status;

use super::bucket::s3_job;
use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::{Engine, Job, seed};
use super::{Scene, told, until};

/// A limit makes any number of streams equally fast: the job comes down to few, and leaves them to who sets a number.
#[test]
fn a_job_left_to_itself_finds_how_many_streams_are_enough() {
    let scene = Scene::new(Engine::all()[0]);
    scene.grow(&scene.source(), seed("a_job_left_to_itself", 91), 2400, 64 << 10);
    let running = scene.job(&["--streams", "auto", "--bwlimit", "6M"]).start();
    let mut client = scene.client();
    let (_, first) = until(&mut client, "started", |status| status.streams.auto);
    assert!(first.streams.limit <= 64, "{first:?}");
    until(&mut client, "down", |status| status.streams.limit <= 16);
    let answer = told(&mut client, "streams=20");
    assert!(answer.line.ends_with("-> 20"), "{answer:?}");
    let (_, status) = until(&mut client, "set", |status| status.streams.limit == 20);
    assert!(!status.streams.auto);
    told(&mut client, "streams=auto");
    until(&mut client, "left to itself", |status| status.streams.auto);
    told(&mut client, "bwlimit=off");
    running.wait().expect(0);
    scene.assert_same();
}

/// What an HTTP server on this machine answers: status line, body.
fn fetch(port: u16, request: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "{request}\r\nHost: here\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn figures_are_served_while_the_job_runs() {
    let scene = Scene::new(Engine::all()[0]);
    scene.grow(&scene.source(), seed("figures_are_served", 92), 40, 256 << 10);
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let refused = scene.job(&["--metrics-addr", &address]).run().expect(2);
    assert!(refused.stderr.contains("cannot serve metrics there"), "{refused}");
    assert!(!scene.dest().exists() && !scene.state().exists(), "nothing is touched before that is known");
    drop(taken);
    let running = scene.job(&["--metrics-addr", &address, "--bwlimit", "2M"]).start();
    until(&mut scene.client(), "copying", |status| status.totals.bytes_copied > 1 << 20);
    let (status, page) = fetch(port, "GET /metrics HTTP/1.1");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse::<f64>().unwrap()
    };
    let copied = value("gfast_bytes_total{kind=\"copied\"}");
    assert!((1_000_000.0..=10_485_760.0).contains(&copied), "{copied}");
    assert_eq!(value("gfast_streams{kind=\"limit\"}"), 32.0);
    assert_eq!(value("gfast_errors_total{class=\"object\"}"), 0.0);
    assert!(!page.contains("source/") && !page.contains("file-"), "no names: {page}");
    assert!(fetch(port, "GET / HTTP/1.1").0.contains("404"));
    assert!(fetch(port, "POST /metrics HTTP/1.1").0.contains("405"));
    // Somebody who connects and says nothing is in nobody's way for long.
    let silent = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    told(&mut scene.client(), "bwlimit=off");
    running.wait().expect(0);
    drop(silent);
    scene.assert_same();
}

/// Threads tell what they measured when they are asked to: a page must not wait for somebody who looks at the status.
#[test]
fn latencies_are_served_although_nobody_asks_for_a_status() {
    let scene = Scene::new(Engine::all()[0]);
    scene.grow(&scene.source(), seed("latencies_are_served", 96), 40, 256 << 10);
    let port = free_port();
    let running = scene.job(&["--metrics-addr", &port.to_string(), "--bwlimit", "2M"]).start();
    let began = Instant::now();
    let counted = |page: &str, side: &str| {
        let name = format!("gfast_operation_seconds_count{{side=\"{side}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
    };
    loop {
        let page = std::net::TcpStream::connect(("127.0.0.1", port)).map(|_| fetch(port, "GET /metrics HTTP/1.1").1);
        let page = page.unwrap_or_default();
        if ["source", "dest"].iter().all(|side| counted(&page, side).is_some_and(|count| count > 0)) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(4), "nothing was told: {page}");
        std::thread::sleep(Duration::from_millis(50));
    }
    told(&mut scene.client(), "bwlimit=off");
    running.wait().expect(0);
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Errors of a server and of the disk, in a job that goes on: by class, and by cause.
#[test]
fn errors_are_told_by_class_and_cause() {
    let server = FaultServer::start(seed("errors_are_told_by_class_and_cause", 95));
    server.make_bucket("b");
    server.script(Rule::new(Fault::Refuse { status: 403, code: "AccessDenied" }).on(&[Kind::Put]).key("file-7"));
    server.script(Rule::new(Fault::Refuse { status: 500, code: "InternalError" }).on(&[Kind::Put]).times(2));
    let scene = Scene::new(Engine::all()[0]);
    scene.grow(&scene.source(), 95, 10, 3000);
    // A key may have 1,024 bytes.
    let deep = (0..4).fold(scene.source(), |dir, _| dir.join("d".repeat(240)));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("f".repeat(100)), "content").unwrap();
    fs::write(scene.source().join("large"), vec![7; 12 << 20]).unwrap();
    let port = free_port();
    let job = s3_job(&scene, &server, scene.source(), "s3://b/p".into(), "5M");
    let running = job.args(&["--bwlimit=1M", "--metrics-addr", &format!("127.0.0.1:{port}")]).start();
    let mut client = scene.client();
    let (_, status) = until(&mut client, "in trouble", |status| {
        status.causes.iter().any(|one| one.cause == "http_403")
            && status.causes.iter().any(|one| one.cause == "name")
            && status.causes.iter().any(|one| one.cause == "http_500" && one.count == 2)
    });
    let page = fetch(port, "GET /metrics HTTP/1.1").1;
    for line in [
        "gfast_errors_total{class=\"retry\"} 2",
        "gfast_errors_total{class=\"object\"} 2",
        "gfast_errors_total{class=\"fatal\"} 0",
        "gfast_error_causes_total{class=\"retry\",cause=\"http_500\"} 2",
        "gfast_error_causes_total{class=\"object\",cause=\"http_403\"} 1",
        "gfast_error_causes_total{class=\"object\",cause=\"name\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing: {status:?}\n{page}");
    }
    told(&mut client, "bwlimit=off");
    let outcome = running.wait().expect(23);
    assert_eq!(outcome.number("failed"), 2, "{outcome}");
}

/// A job from file system to file system on each engine, and one into and one out of a bucket: all copy the same tree.
fn on_each_way(name: &str, salt: u64, grow: impl Fn(&Scene), look: impl Fn(&Scene, Job)) {
    for engine in Engine::all() {
        let scene = Scene::new(engine);
        grow(&scene);
        look(&scene, scene.job(&[]));
        scene.assert_same();
    }
    let server = FaultServer::start(seed(name, salt));
    server.make_bucket("b");
    let scene = Scene::new(Engine::all()[0]);
    grow(&scene);
    let bucket = PathBuf::from("s3://b/p");
    look(&scene, s3_job(&scene, &server, scene.source(), bucket.clone(), "5M"));
    fs::remove_dir_all(scene.state()).unwrap();
    look(&scene, s3_job(&scene, &server, bucket, scene.dest(), "5M"));
    scene.assert_same();
}

/// Names of one large directory are met as fast as they are copied: the walk has not ended before the last of them,
/// whether a thread lists it, slices of it wait, or directories below it do.
#[test]
fn a_walk_has_ended_when_every_name_is_met() {
    const FILES: u64 = 1500;
    let grow = |scene: &Scene| {
        for file in 0..FILES {
            fs::write(scene.source().join(format!("file-{file}")), [7; 2048]).unwrap();
        }
        scene.grow(&scene.source(), 93, 20, 2048);
    };
    on_each_way("a_walk_has_ended_when_every_name_is_met", 93, grow, |scene, job| {
        let running = job.args(&["--bwlimit=2M", "--streams=8"]).start();
        let mut client = scene.client();
        let (_, status) = until(&mut client, "walking", |status| status.totals.entries_walked > 100);
        assert!(!status.totals.is_walked, "{:?}", status.totals);
        // The root, two directories in it and the files there. The job may end with the last name.
        while let Ok(Status { totals, .. }) = client.status() {
            assert!(!totals.is_walked || totals.entries_walked == FILES + 23, "{totals:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        running.wait().expect(0);
    });
}

/// What is copied shows before a checkpoint counts it, and is counted once.
#[test]
fn small_files_count_before_a_checkpoint() {
    const FILES: u64 = 400;
    let grow = |scene: &Scene| scene.grow(&scene.source(), 94, FILES, 4096);
    on_each_way("small_files_count_before_a_checkpoint", 94, grow, |scene, job| {
        let running = job.args(&["--bwlimit=1M", "--checkpoint-interval=600"]).start();
        let mut client = scene.client();
        let (_, status) = until(&mut client, "copying", |status| status.totals.files_copied > FILES / 4);
        let totals = status.totals;
        assert!(totals.bytes_durable == 0 && totals.files_copied < FILES, "{totals:?}");
        assert!(totals.entries_done >= totals.files_copied && status.files_per_s > 0.0, "{status:?}");
        told(&mut client, "bwlimit=off");
        let outcome = running.wait().expect(0);
        assert_eq!(outcome.number("copied"), FILES, "{outcome}");
    });
}
