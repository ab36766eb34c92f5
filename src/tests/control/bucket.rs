//! A job with a bucket steered: its bodies are paced as they pass, and its large parts rest between two slices.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gfast::control::client::Client;

use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::{Comparison, Engine, Job, seed};
use super::{EFFECT_TIME_MAX, Scene, here, told, until};

const MIB: u64 = 1 << 20;

/// To a bucket and back, up and down, limited: parts wait while their object is parked, and all arrives.
#[test]
fn streams_of_an_s3_job_change() {
    let seed = seed("streams_of_an_s3_job_change", 506);
    let server = FaultServer::start(seed);
    server.make_bucket("b");
    let scene = Scene::new(Engine::all()[0]);
    scene.grow(&scene.source(), seed, 60, 300_000);
    fs::write(scene.source().join("large"), vec![7; 24 << 20]).unwrap();
    let bucket = PathBuf::from("s3://b/p");
    let back = scene.scratch.path().join("back");
    for (from, to) in [(scene.source(), bucket.clone()), (bucket, back.clone())] {
        let job = s3_job(&scene, &server, from, to, "5M").args(&["--bwlimit=2M", "--streams=2"]);
        let running = job.start();
        let mut client = scene.client();
        until(&mut client, "2 in use", |status| status.streams.active == 2);
        told(&mut client, "streams=40");
        let (took, _) = until(&mut client, "more in use", |status| status.streams.active > 20);
        assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
        told(&mut client, "streams=1");
        until(&mut client, "1 in use", |status| status.streams.active <= 1);
        told(&mut client, "pause");
        until(&mut client, "at rest", |status| status.streams.active == 0);
        told(&mut client, "continue");
        told(&mut client, "streams=8");
        told(&mut client, "bwlimit=off");
        running.wait().expect(0);
        fs::rename(scene.state(), scene.scratch.path().join("former")).unwrap();
        fs::remove_dir_all(scene.scratch.path().join("former")).unwrap();
    }
    Comparison::new(&scene.source(), &back).assert_same();
}

/// Whole objects and parts, up, down and across, take as long as the limit says.
#[test]
fn bodies_to_and_from_a_bucket_stay_below_the_limit() {
    let server = FaultServer::start(seed("bodies_to_and_from_a_bucket_stay_below_the_limit", 509));
    server.make_bucket("b");
    let scene = Scene::new(Engine::all()[0]);
    scene.grow(&scene.source(), 509, 8, 500_000);
    fs::write(scene.source().join("large"), vec![7; 12 << 20]).unwrap();
    let back = scene.scratch.path().join("back");
    let (p, q) = (PathBuf::from("s3://b/p"), PathBuf::from("s3://b/q"));
    for (from, to) in [(scene.source(), p.clone()), (p, q.clone()), (q, back.clone())] {
        let is_across = from.starts_with("s3:") && to.starts_with("s3:");
        let job = s3_job(&scene, &server, from, to, "5M");
        let outcome = job.arg("--bwlimit=8M").run().expect(0);
        let least = outcome.number("bytes") as f64 / f64::from(8 << 20);
        // One server copies by itself: no body passes.
        assert!(is_across || outcome.elapsed.as_secs_f64() > least * 0.95 - 0.1, "{outcome}");
        assert!(outcome.elapsed < here(Duration::from_secs(6)), "{outcome}");
    }
    Comparison::new(&scene.source(), &back).assert_same();
}

/// What the server got and what the status tells grows by the limit, second for second, while parts that take seconds
/// are under way; and by another limit as soon as that is set.
#[test]
fn parts_pass_as_fast_as_the_limit_says() {
    let server = FaultServer::start(seed("parts_pass_as_fast_as_the_limit_says", 510));
    server.make_bucket("b");
    let scene = Scene::new(Engine::all()[0]);
    for file in 0..4 {
        fs::write(scene.source().join(format!("large-{file}")), vec![file + 1; 28 << 20]).unwrap();
    }
    let back = scene.scratch.path().join("back");
    let bucket = PathBuf::from("s3://b/p");
    for (from, to) in [(scene.source(), bucket.clone()), (bucket, back.clone())] {
        let is_up = to.starts_with("s3:");
        let running = s3_job(&scene, &server, from, to, "16M").args(&["--bwlimit=20M", "--streams=8"]).start();
        let mut client = scene.client();
        until(&mut client, "moving", |status| status.totals.bytes_copied > MIB);
        for limit in [20, 10] {
            told(&mut client, &format!("bwlimit={limit}M"));
            // What the connections hold already is on its way.
            std::thread::sleep(Duration::from_millis(300));
            let look = |status: u64| (Instant::now(), status, server.counts().body_in);
            let first = look(client.status().unwrap().totals.bytes_copied);
            std::thread::sleep(Duration::from_millis(2500));
            let last = look(client.status().unwrap().totals.bytes_copied);
            let secs = (last.0 - first.0).as_secs_f64() * (limit * MIB) as f64;
            let (told, came) = ((last.1 - first.1) as f64 / secs, (last.2 - first.2) as f64 / secs);
            println!("limit {limit} MiB/s, up {is_up}: {told:.3} of it told, {came:.3} came");
            let slowness = here(Duration::from_secs(1)).as_secs_f64();
            for share in [Some(told), is_up.then_some(came)].into_iter().flatten() {
                assert!((0.9 / slowness..1.1).contains(&share), "{share} of {limit} MiB/s");
            }
        }
        told(&mut client, "bwlimit=off");
        let outcome = running.wait().expect(0);
        assert_eq!(outcome.number("bytes"), 112 * MIB, "{outcome}");
        fs::remove_dir_all(scene.state()).unwrap();
    }
    Comparison::new(&scene.source(), &back).assert_same();
}

/// A limit that is set while parts are under way without one holds them at their next slice; what is sent again takes
/// its time again, and is counted once.
#[test]
fn a_limit_holds_what_is_under_way_and_what_is_sent_again() {
    let server = FaultServer::start(seed("a_limit_holds_what_is_under_way", 511));
    server.make_bucket("b");
    let scene = Scene::new(Engine::all()[0]);
    fs::write(scene.source().join("large"), vec![7; 24 << 20]).unwrap();
    server.script(Rule::new(Fault::ResetRequest(3 * MIB)).on(&[Kind::PutPart]).times(3));
    // At first so slow that nothing is through before the other limit is set.
    let job = s3_job(&scene, &server, scene.source(), "s3://b/p".into(), "12M").arg("--bwlimit=1M");
    let running = job.start();
    let mut client = scene.client();
    until(&mut client, "moving", |status| status.totals.bytes_copied > 256 << 10);
    told(&mut client, "bwlimit=8M");
    let (since, before) = (Instant::now(), server.counts().body_in);
    let outcome = running.wait().expect(0);
    let (took, came) = (since.elapsed().as_secs_f64(), server.counts().body_in);
    assert_eq!((server.counts().faults, outcome.number("bytes")), (3, 24 * MIB), "{outcome}");
    assert!(came >= 33 * MIB, "{came} bytes: parts of 12 MiB, three of them cut after 3 MiB");
    // A tenth of a second is credit, and some slices are in the connections.
    let least = (came - before) as f64 / (8 * MIB) as f64;
    assert!(took > least * 0.9 - 0.1, "{took} s for what takes {least} s");
    assert!(took < here(Duration::from_secs(10)).as_secs_f64(), "{took} s");
}

/// A part that is sent as it is read rests between two slices; its connection is kept, and nothing is sent twice.
#[test]
fn a_streamed_part_rests_between_two_slices() {
    let server = FaultServer::start(seed("a_streamed_part_rests_between_two_slices", 512));
    server.make_bucket("b");
    let scene = Scene::new(Engine::all()[0]);
    for file in 0..2 {
        fs::write(scene.source().join(format!("large-{file}")), vec![file + 1; 34 << 20]).unwrap();
    }
    let job = s3_job(&scene, &server, scene.source(), "s3://b/p".into(), "32M");
    let running = job.args(&["--bwlimit=6M", "--streams=2"]).start();
    let mut client = scene.client();
    until(&mut client, "moving", |status| {
        status.objects.len() == 2 && status.objects.iter().all(|object| object.done > 6 * MIB)
    });
    told(&mut client, "streams=1");
    let (took, status) = until(&mut client, "1 in use", |status| status.streams.active == 1);
    assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
    assert_eq!(status.streams.parked, 1, "{status:?}");
    told(&mut client, "pause");
    let (took, _) = until(&mut client, "at rest", |status| status.streams.active == 0);
    assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
    // What was read before comes yet.
    std::thread::sleep(Duration::from_millis(1500));
    let bytes = |client: &mut Client| (client.status().unwrap().totals.bytes_copied, server.counts().body_in);
    let rested = bytes(&mut client);
    // The server counts 64 KiB at a time.
    assert!(rested.0.abs_diff(rested.1) < 128 << 10, "{rested:?}");
    // Longer than a connection may be silent: a byte goes now and then.
    std::thread::sleep(Duration::from_secs(9));
    let later = bytes(&mut client);
    assert_eq!(later.0 - rested.0, 2, "{rested:?} {later:?}");
    told(&mut client, "continue");
    told(&mut client, "bwlimit=off");
    running.wait().expect(0);
    // Each is two parts; before the first there is the byte that asks whether parts must bring their checksums.
    assert_eq!((server.counts().of(Kind::PutPart), server.counts().body_in / MIB), (5, 68));
    for file in 0..2 {
        let object = server.object("b", &format!("p/large-{file}")).unwrap();
        assert!(object.body.iter().all(|byte| *byte == file + 1) && object.body.len() == 34 << 20, "large-{file}");
    }
}

/// A job with the fault server, in parts of this size.
pub fn s3_job(scene: &Scene, server: &FaultServer, from: PathBuf, to: PathBuf, part: &str) -> Job {
    Job::new(from, to, scene.state(), scene.engine)
        .env("AWS_ACCESS_KEY_ID", "AKIAFAULT")
        .env("AWS_SECRET_ACCESS_KEY", "canary/secret+0123456789abcdefghijklmnop")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", scene.scratch.path())
        .arg(format!("--endpoint-url={}", server.endpoint()))
        .arg(format!("--part-size={part}"))
}
