//! Kills at random moments, and what a resume costs in bytes at the server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::Signal;

use super::support::fault::{Checksums, Counts, Fault, FaultServer, Kind, Rule};
use super::support::{Comparison, Engine, Job, Rng, number, seed};
use super::{PART_BYTES, Scene, bytes_below, fault_server, noise, plain_tree};

/// Kills of each direction; the soak raises it.
const KILLS: u64 = 6;
/// Bytes of the large file: a dozen parts.
const LARGE: u64 = 12 * PART_BYTES + 77;
/// Streams of the killed jobs.
const STREAMS: u64 = 4;
/// Bytes between two checkpoints of the killed jobs.
const CHECKPOINT_BYTES: u64 = 2 * PART_BYTES;

/// A tree and a server that takes its time, so that kills hit something.
fn scene_of(server: &FaultServer, seed: u64) -> Scene {
    let scene = Scene::new(server, Engine::all()[0]);
    let tree = scene.dir("tree");
    plain_tree(&tree, seed, 60, LARGE);
    scene
}

fn patient(job: Job) -> Job {
    patient_in(job, STREAMS)
}

fn patient_in(job: Job, streams: u64) -> Job {
    let job = job.arg(format!("--streams={streams}")).arg("--checkpoint-interval=0.2");
    job.arg(format!("--checkpoint-bytes={CHECKPOINT_BYTES}"))
}

/// Kills `job` until it has been hit `kills` times after some more bytes each, then lets it end.
fn killed(job: &Job, server: &FaultServer, rng: &mut Rng, moved: fn(&Counts) -> u64, whole: u64) -> u64 {
    let kills = number("GFAST_S3_KILLS", KILLS);
    let mut hit = 0;
    for _ in 0..kills {
        let goal = moved(&server.counts()) + rng.below(2 * whole / kills);
        let running = job.start();
        let is_running = running.run_until(|_| moved(&server.counts()) >= goal);
        hit += u64::from(is_running);
        let outcome = running.kill();
        assert!(is_running || outcome.code() == Some(0), "{outcome}");
    }
    job.run().expect(0);
    hit
}

/// Whether anything is stored of an upload that has not ended. One whose id a kill took has no parts, and stays.
fn has_parts_left(server: &FaultServer) -> bool {
    server.uploads().iter().any(|upload| !upload.parts.is_empty())
}

/// Parts or objects in flight, in both directions of the pipe, and one checkpoint's work.
fn cost_of_a_kill() -> u64 {
    (STREAMS + 8) * PART_BYTES + CHECKPOINT_BYTES
}

#[test]
fn killed_uploads_end_identical_and_cost_little() {
    let test = "killed_uploads_end_identical_and_cost_little";
    let server = fault_server(1);
    let seed = seed(test, 21);
    let scene = scene_of(&server, seed);
    let whole = bytes_below(&scene.join("tree"));
    server.script(Rule::new(Fault::StallMs(15)).on(&[Kind::Put, Kind::PutPart]));
    let job = patient(scene.job(scene.join("tree"), "s3://b/p", "up"));
    let hit = killed(&job, &server, &mut Rng::new(seed), |counts| counts.body_in, whole);
    let sent = server.counts().body_in;
    assert!(hit >= 2, "only {hit} kills hit a running job");
    assert!(sent <= whole + hit * cost_of_a_kill() + 100_000, "{sent} bytes sent for {whole}, {hit} kills");
    assert!(!has_parts_left(&server), "an upload was left behind");
    server.heal();
    scene.job("s3://b/p", scene.join("back"), "down").run().expect(0);
    Comparison::new(&scene.join("tree"), &scene.join("back")).assert_same();
}

/// One stream and a large file of many parts: what a kill costs is little beside what it would cost to begin anew.
#[test]
fn killed_downloads_end_identical_and_cost_little() {
    let test = "killed_downloads_end_identical_and_cost_little";
    let server = fault_server(1);
    let seed = seed(test, 22);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    plain_tree(&tree, seed, 60, 5 * LARGE);
    let whole = bytes_below(&tree);
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    server.script(Rule::new(Fault::StallMs(15)).on(&[Kind::Get]));
    server.reset_counts();
    let job = patient_in(scene.job("s3://b/p", scene.join("back"), "down"), 1);
    let hit = killed(&job, &server, &mut Rng::new(seed), |counts| counts.body_out, whole);
    let received = server.counts().body_out;
    assert!(hit >= 2, "only {hit} kills hit a running job");
    // A part in flight, and what the next checkpoint was to record. Listings are bodies as well: some 100 KB a run.
    let most = whole + hit * (2 * PART_BYTES + CHECKPOINT_BYTES) + (hit + 1) * 200_000;
    assert!(received <= most, "{received} bytes received for {whole}, {hit} kills: {most} at most");
    Comparison::new(&tree, &scene.join("back")).assert_same();
}

/// One large object, killed late: the rest is fetched, into the file that is there.
#[test]
fn a_killed_download_of_a_large_object_goes_on_in_its_file() {
    const PARTS: u64 = 60;
    const DONE: u64 = 50;
    /// All lanes help, and each has so many parts in flight as there are streams.
    const IN_FLIGHT: u64 = 4 * STREAMS;
    let server = fault_server(1);
    for (engine, dest) in Engine::all().into_iter().zip(["back/large", "back"]) {
        let scene = Scene::new(&server, engine);
        let mut content = vec![0; (PARTS * PART_BYTES) as usize];
        Rng::new(24).fill(&mut content);
        server.put("b", "p/large", content.clone(), &[]);
        let back = scene.dir("back");
        if dest == "back" {
            // What is there already is replaced when all of the object has come.
            fs::write(back.join("large"), "before").unwrap();
        }
        server.script(Rule::new(Fault::StallMs(30)).on(&[Kind::Get]));
        server.reset_counts();
        let job =
            patient(scene.job(if dest == "back" { "s3://b/p" } else { "s3://b/p/large" }, scene.join(dest), "down"));
        let running = job.start();
        assert!(running.run_until(|_| server.counts().of(Kind::Get) > DONE), "ended too soon");
        running.kill();
        server.heal();
        let inodes = || {
            let entries = fs::read_dir(&back).unwrap().map(|entry| entry.unwrap().path());
            let large = entries.filter(|path| fs::metadata(path).unwrap().len() >= PARTS * PART_BYTES);
            large.map(|path| fs::metadata(path).unwrap().ino()).collect::<Vec<_>>()
        };
        let before = inodes();
        assert_eq!(before.len(), 1);
        server.reset_counts();
        job.run().expect(0);
        let received = server.counts().body_out;
        let most = (PARTS - DONE + IN_FLIGHT) * PART_BYTES + CHECKPOINT_BYTES;
        assert!(received <= most, "{engine:?}: {received} bytes received again, {most} at most");
        assert_eq!(inodes(), before, "{engine:?}: another file was made");
        assert_eq!(fs::read_dir(&back).unwrap().count(), 1);
        assert!(fs::read(back.join("large")).unwrap() == content);
    }
}

/// What ends the whole job is not the fault of the large objects under way: the resume moves what had not come, and not
/// a part that had. Nor does a run lose any of it that comes no further, because the session has ended by then: answers
/// to HEAD do not say so.
#[test]
fn what_stops_the_job_leaves_large_objects_to_the_resume() {
    const PARTS: u64 = 12;
    const DONE: u64 = 8;
    let expired = || Rule::new(Fault::Refuse { status: 400, code: "ExpiredToken" });
    for (way, engine) in ["up", "down", "down over", "across"].into_iter().zip(Engine::all().into_iter().cycle()) {
        let (source, dest) = (fault_server(1), fault_server(2));
        let scene = Scene::new(&dest, engine);
        let (tree, back) = (scene.dir("tree"), scene.dir("back"));
        noise(&tree.join("large"), &mut Rng::new(25), PARTS * PART_BYTES);
        let content = fs::read(tree.join("large")).unwrap();
        let (from, to) = match way {
            "up" => (tree, "s3://b/q".into()),
            "across" => ("s3://b/p".into(), "s3://b/q".into()),
            _ => ("s3://b/p".into(), back.clone()),
        };
        source.put("b", "p/large", content.clone(), &[]);
        if way == "down over" {
            fs::write(back.join("large"), "before").unwrap();
        }
        let job = scene.job(from, to, "state").arg(format!("--source-endpoint-url={}", source.endpoint()));
        let job = job.env("AWS_SESSION_TOKEN", "session");
        let (breaking, kind) = if way == "up" { (&dest, Kind::PutPart) } else { (&source, Kind::Get) };
        breaking.script(expired().on(&[kind]).after(DONE));
        let outcome = job.run().expect(11);
        assert!(outcome.says("ExpiredToken"), "{way}: {outcome}");
        if way.starts_with("down") {
            let names = || fs::read_dir(&back).unwrap().count();
            let before = names();
            source.heal();
            source.script(expired().on(&[Kind::Head]).key("large"));
            source.script(expired().on(&[Kind::List]).outside("p"));
            let outcome = job.run().expect(11);
            assert!(outcome.says("ExpiredToken"), "{way}: {outcome}");
            assert_eq!((before, names()), (1 + usize::from(way == "down over"), before), "{way}");
        }
        for server in [&source, &dest] {
            server.heal();
            server.reset_counts();
        }
        let outcome = job.run().expect(0);
        let moved = source.counts().body_out.max(dest.counts().body_in);
        let most = (PARTS - DONE) * PART_BYTES + 100_000;
        assert!(moved <= most, "{way}: {moved} bytes moved again, {most} at most: {outcome}");
        let arrived = match way.starts_with("down") {
            true => fs::read(back.join("large")).unwrap(),
            false => dest.object("b", "q/large").unwrap().body.to_vec(),
        };
        assert!(arrived == content, "{way}: {outcome}");
        assert!(dest.uploads().is_empty(), "{way}: an upload was left behind");
    }
}

#[test]
fn killed_copies_between_servers_end_identical() {
    let (server, other) = (fault_server(1), fault_server(2));
    let seed = seed("killed_copies_between_servers_end_identical", 23);
    let scene = scene_of(&server, seed);
    let whole = bytes_below(&scene.join("tree"));
    scene.job(scene.join("tree"), "s3://b/p", "up").run().expect(0);
    let there = Scene::new(&other, scene.engine);
    other.script(Rule::new(Fault::StallMs(15)).on(&[Kind::Put, Kind::PutPart]));
    let job = patient(there.job("s3://b/p", "s3://b/q", "across"));
    let job = job.arg(format!("--source-endpoint-url={}", server.endpoint()));
    let hit = killed(&job, &other, &mut Rng::new(seed), |counts| counts.body_in, whole);
    assert!(hit >= 2, "only {hit} kills hit a running job");
    assert!(!has_parts_left(&other), "an upload was left behind");
    let sent = other.counts().body_in;
    assert!(sent <= whole + hit * cost_of_a_kill() + 100_000, "{sent} bytes sent for {whole}, {hit} kills");
    other.heal();
    there.job("s3://b/q", there.join("back"), "down").run().expect(0);
    Comparison::new(&scene.join("tree"), &there.join("back")).assert_same();
}

/// SIGTERM: drained, exit 20, and the same command goes on without sending finished parts again.
#[test]
fn an_interrupted_upload_goes_on() {
    let server = fault_server(1);
    let scene = scene_of(&server, 7);
    let whole = bytes_below(&scene.join("tree"));
    server.script(Rule::new(Fault::StallMs(15)).on(&[Kind::Put, Kind::PutPart]));
    let job = patient(scene.job(scene.join("tree"), "s3://b/p", "up"));
    let running = job.start();
    assert!(running.run_until(|_| server.counts().body_in > whole / 2), "ended too soon");
    running.signal(Signal::TERM);
    let outcome = running.wait().expect(20);
    assert!(outcome.elapsed < Duration::from_secs(60), "{outcome}");
    job.run().expect(0);
    let sent = server.counts().body_in;
    assert!(sent <= whole + CHECKPOINT_BYTES + 100_000, "{sent} bytes sent for {whole}: a drained job loses nothing");
    assert!(server.uploads().is_empty());
}

/// The source changes while its upload waits for a resume: the old upload is aborted, the new content arrives.
#[test]
fn an_upload_of_a_changed_source_is_begun_again() {
    let server = fault_server(1);
    let scene = scene_of(&server, 8);
    server.script(Rule::new(Fault::StallMs(50)).on(&[Kind::PutPart]));
    let job = patient(scene.job(scene.join("tree"), "s3://b/p", "up"));
    let running = job.start();
    assert!(running.run_until(|_| server.counts().of(Kind::PutPart) >= 8), "ended too soon");
    running.kill();
    server.heal();
    noise(&scene.join("tree/a/large"), &mut Rng::new(99), LARGE);
    job.run().expect(0);
    assert!(server.uploads().is_empty(), "the old upload was not aborted");
    let arrived = server.object("b", "p/a/large").unwrap().body;
    assert!(arrived == fs::read(scene.join("tree/a/large")).unwrap(), "a mixture of both versions");
}

/// The object changes while its download waits for a resume: nothing of the old one is left.
#[test]
fn a_download_of_a_changed_object_is_begun_again() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let mut content = vec![1; LARGE as usize];
    server.put("b", "p/large", content.clone(), &[]);
    server.script(Rule::new(Fault::StallMs(50)).on(&[Kind::Get]));
    let job = patient(scene.job("s3://b/p", scene.join("back"), "down"));
    let running = job.start();
    assert!(running.run_until(|_| server.counts().of(Kind::Get) >= 8), "ended too soon");
    running.kill();
    content.fill(2);
    server.put("b", "p/large", content.clone(), &[]);
    server.heal();
    job.run().expect(0);
    assert!(fs::read(scene.join("back/large")).unwrap() == content, "a mixture of both versions");
}

/// What a link leads to changes while its content comes down under the link's name: the link's object does not.
#[test]
fn a_download_through_a_link_of_a_changed_object_is_begun_again() {
    for engine in Engine::all() {
        let server = fault_server(1);
        server.set_checksums(Checksums::Ignored);
        let scene = Scene::new(&server, engine);
        let mut content = vec![1; LARGE as usize];
        server.put("b", "p/first", content.clone(), &[("gfast-links", "2")]);
        server.put("b", "p/d/link", "", &[("gfast-link", "p/first")]);
        server.script(Rule::new(Fault::StallMs(50)).on(&[Kind::Get]));
        let job = patient_in(scene.job("s3://b/p/d", scene.join("back"), "down"), 1);
        let running = job.start();
        assert!(running.run_until(|_| server.counts().of(Kind::Get) >= 9), "ended too soon");
        running.kill();
        content.fill(2);
        server.put("b", "p/first", content.clone(), &[("gfast-links", "2")]);
        server.heal();
        job.run().expect(0);
        assert!(fs::read(scene.join("back/link")).unwrap() == content, "a mixture of both versions");
    }
}

/// The object changes after the resume has listed it and before it is asked for, and keeps its size.
#[test]
fn what_changes_after_the_listing_of_a_resume_is_begun_again() {
    for is_across in [false, true] {
        let (server, other) = (fault_server(1), fault_server(2));
        [&server, &other].iter().for_each(|server| server.set_checksums(Checksums::Ignored));
        let scene = Scene::new(&other, Engine::all()[0]);
        let mut content = vec![1; LARGE as usize];
        server.put("b", "p/large", content.clone(), &[]);
        server.script(Rule::new(Fault::StallMs(50)).on(&[Kind::Get]));
        let dest = if is_across { "s3://b/q".into() } else { scene.join("back") };
        let job = scene.job("s3://b/p", dest, "state").arg(format!("--source-endpoint-url={}", server.endpoint()));
        let job = patient_in(job, 1);
        let running = job.start();
        assert!(running.run_until(|_| server.counts().of(Kind::Get) >= 9), "ended too soon");
        running.kill();
        server.heal();
        server.reset_counts();
        server.script(Rule::new(Fault::StallMs(1500)).on(&[Kind::Head]));
        let running = job.start();
        assert!(running.run_until(|_| server.counts().of(Kind::Head) > 0), "ended too soon");
        content.fill(2);
        server.put("b", "p/large", content.clone(), &[]);
        running.wait().expect(0);
        let arrived = match is_across {
            true => other.object("b", "q/large").unwrap().body.to_vec(),
            false => fs::read(scene.join("back/large")).unwrap(),
        };
        assert!(arrived == content, "across {is_across}: a mixture of both versions");
        assert!(other.uploads().is_empty(), "the old upload was not aborted");
    }
}

/// The server has forgotten the upload (a lifecycle rule, an administrator): it is begun again, without an error.
#[test]
fn a_forgotten_upload_is_begun_again() {
    let server = fault_server(1);
    let scene = scene_of(&server, 9);
    server.script(Rule::new(Fault::StallMs(50)).on(&[Kind::PutPart]));
    let job = patient(scene.job(scene.join("tree"), "s3://b/p", "up"));
    let running = job.start();
    assert!(running.run_until(|_| server.counts().of(Kind::PutPart) >= 8), "ended too soon");
    running.kill();
    server.heal();
    server.forget_uploads();
    job.run().expect(0);
    assert!(server.object("b", "p/a/large").unwrap().body == fs::read(scene.join("tree/a/large")).unwrap());
}

/// A flat prefix of many pages, killed again and again: each run goes on at the page it had come to, tries again what
/// had failed before it, and in the end nothing is missing.
#[test]
fn a_flat_listing_goes_on_at_its_last_page() {
    const NAMES: u64 = 1200;
    const PAGE: u64 = 40;
    for dest in ["back", "s3://b/q"] {
        let server = fault_server(1);
        server.set_page_max(PAGE as usize);
        let scene = Scene::new(&server, Engine::all()[0]);
        server.put("b", "p/", "", &[("file-permissions", "0040751"), ("file-mtime", "1234567890000000000ns")]);
        (0..NAMES).for_each(|n| server.put("b", &format!("p/f{n:05}"), format!("{n}"), &[]));
        (0..3).for_each(|n| server.put("b", &format!("p/f{:05}.d/x", n * 300), "x", &[]));
        let is_down = !dest.starts_with("s3:");
        let kind = if is_down { Kind::Get } else { Kind::Copy };
        let dest = if is_down { scene.join(dest) } else { dest.into() };
        let job = scene.job("s3://b/p", &dest, "state").arg("--streams=4").arg("--checkpoint-interval=0.1");
        let mut pages = 0;
        for goal in [NAMES / 3, NAMES / 3] {
            server.reset_counts();
            let refuse = Fault::Refuse { status: 403, code: "AccessDenied" };
            server.script(Rule::new(refuse).on(&[kind]).key("f00123"));
            server.script(Rule::new(Fault::StallMs(3)).on(&[kind]));
            let running = job.start();
            assert!(running.run_until(|_| server.counts().of(kind) >= goal), "ended too soon");
            running.kill();
            server.heal();
            pages += server.counts().of(Kind::List);
        }
        server.reset_counts();
        job.run().expect(0);
        let last = server.counts().of(Kind::List);
        assert!(last < NAMES / PAGE * 7 / 10, "{last} pages listed by the last run, {pages} by those before");
        for n in 0..NAMES {
            let name = format!("f{n:05}");
            let content = if is_down {
                fs::read(scene.join("back").join(&name)).unwrap()
            } else {
                server.object("b", &format!("q/{name}")).unwrap().body.to_vec()
            };
            assert!(content == format!("{n}").into_bytes(), "{name}");
        }
        if is_down {
            assert!((0..3).all(|n| scene.join("back").join(format!("f{:05}.d/x", n * 300)).exists()));
            let root = fs::metadata(scene.join("back")).unwrap();
            assert_eq!((root.mode() & 0o7777, root.mtime()), (0o751, 1_234_567_890));
        }
    }
}
