//! Parts that are larger than a buffer: sent as they are read, in bounded memory, and never a mixture.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::support::fault::{Checksums, Fault, FaultServer, Kind, Rule};
use super::support::{Engine, Job, Outcome, Rng};
use super::{Scene, fault_server, noise};

const MIB: u64 = 1 << 20;
/// Bytes of a part in most of these tests: a slice more than a buffer.
const PART: u64 = 17 * MIB;
/// Bytes of the large file there: two parts and a bit, which is no multiple of a slice.
const LARGE: u64 = 2 * PART + 3 * MIB + 777;

/// A large file, and a job that sends it in streamed parts.
fn trial(engine: Engine) -> (FaultServer, Scene, Job) {
    let server = fault_server(1);
    let scene = Scene::new(&server, engine);
    noise(&scene.dir("tree").join("large"), &mut Rng::new(1), LARGE);
    let job = scene.job_in_parts(scene.join("tree"), "s3://b/p", "up", PART);
    (server, scene, job)
}

#[track_caller]
fn assert_arrived(server: &FaultServer, scene: &Scene, key: &str) {
    let sent = fs::read(scene.join("tree/large")).unwrap();
    let object = server.object("b", key).expect("it was said to be there");
    assert!(object.body == sent, "{key} is not what was sent");
    assert!(server.uploads().is_empty(), "an upload was left behind");
}

/// Runs to the end; the most memory it had.
fn peak_of(job: &Job) -> (Outcome, u64) {
    let mut peak = 0;
    let running = job.start();
    running.run_until(|_| {
        peak = peak.max(running.peak_bytes());
        false
    });
    (running.wait(), peak)
}

#[test]
fn a_streamed_part_arrives_as_it_was_read() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let file = File::create(scene.dir("tree").join("large")).unwrap();
    let mut block = vec![0; MIB as usize];
    Rng::new(3).fill(&mut block);
    for index in 0..300 {
        block[7] = index as u8;
        file.write_all_at(&block, index * MIB).unwrap();
    }
    let job = scene.job_in_parts(scene.join("tree"), "s3://b/p", "up", 64 * MIB).arg("--checksum");
    let outcome = job.run().expect(0);
    assert_arrived(&server, &scene, "p/large");
    assert_eq!((outcome.number("proved_by_server"), outcome.number("parts_read_twice")), (1, 0), "{outcome}");
    // Five parts, and the byte that asks whether parts must bring their checksums.
    assert_eq!((server.counts().of(Kind::PutPart), server.counts().body_in / MIB), (6, 300));
}

/// Far more than the lanes may hold, in parts that are each more than they may hold.
#[test]
fn memory_does_not_grow_with_the_part() {
    for engine in Engine::all() {
        let server = fault_server(1);
        let scene = Scene::new(&server, engine);
        // Its own checksums of so much would take it long.
        server.set_checksums(Checksums::Ignored);
        File::create(scene.dir("tree").join("sparse")).unwrap().set_len(600 * MIB).unwrap();
        let (outcome, peak) = peak_of(&scene.job_in_parts(scene.join("tree"), "s3://b/p", "up", 256 * MIB));
        outcome.expect(0);
        let (arrived, zeros) = (server.object("b", "p/sparse").unwrap().body, vec![0; MIB as usize]);
        assert!(arrived.len() as u64 == 600 * MIB && arrived.chunks(zeros.len()).all(|block| block == zeros));
        assert!((1..256 * MIB).contains(&peak), "{engine:?}: {} MiB", peak / MIB);
    }
}

#[test]
fn a_streamed_part_is_sent_again_from_its_start() {
    let engines = Engine::all();
    for (index, fault) in [
        Fault::ResetRequest(7 * MIB + 5),
        Fault::Refuse { status: 503, code: "SlowDown" },
        Fault::RefuseEarly { status: 500, code: "InternalError", after_bytes: 3 * MIB },
        Fault::LostAnswer,
    ]
    .into_iter()
    .enumerate()
    {
        let (server, scene, job) = trial(engines[index % engines.len()]);
        // Not the first byte, which is not streamed.
        server.script(Rule::new(fault).on(&[Kind::PutPart]).after(1).times(2));
        job.run().expect(0);
        assert_eq!(server.counts().faults, 2);
        assert_arrived(&server, &scene, "p/large");
    }
}

/// One bit is wrong on the wire: nothing that is not what was read is ever completed.
#[test]
fn a_streamed_part_damaged_on_its_way_is_found_out() {
    for checksums in [Checksums::Stored, Checksums::Demanded] {
        let (server, scene, job) = trial(Engine::all()[0]);
        server.set_checksums(checksums);
        server.script(Rule::new(Fault::FlipRequest(5 * MIB)).on(&[Kind::PutPart]).after(2).times(1));
        job.run().expect(0);
        assert_eq!(server.counts().faults, 1);
        assert_arrived(&server, &scene, "p/large");
        let sent = server.counts().body_in;
        assert!(sent <= LARGE + PART + 100_000, "{sent} bytes sent: the part alone was wrong");
    }
}

#[test]
fn a_server_that_wants_checksums_of_parts_gets_them_by_a_second_reading() {
    let (server, scene, job) = trial(Engine::all()[0]);
    server.set_checksums(Checksums::Demanded);
    let outcome = job.run().expect(0);
    assert_arrived(&server, &scene, "p/large");
    // The last part is small enough for a buffer.
    assert_eq!(outcome.number("parts_read_twice"), 2, "{outcome}");
    let (ignorant, scene, job) = trial(Engine::all()[0]);
    ignorant.set_checksums(Checksums::Ignored);
    let outcome = job.run().expect(0);
    assert_arrived(&ignorant, &scene, "p/large");
    assert_eq!((outcome.number("parts_read_twice"), outcome.number("proved_by_length")), (0, 1), "{outcome}");
}

/// The file is written to while its parts are under way: what is completed is one state of it, or nothing is.
#[test]
fn a_source_that_changes_under_a_streamed_part_is_not_done() {
    for keeps_changing in [false, true] {
        let (server, scene, job) = trial(Engine::all()[0]);
        server.script(Rule::new(Fault::StallMs(300)).on(&[Kind::PutPart]));
        let file = File::options().write(true).open(scene.join("tree/large")).unwrap();
        let running = job.start();
        let (mut seen, mut changes) = (0, 0);
        running.run_until(|_| {
            // Each time some of it has been sent, and not all.
            let sent = server.counts().body_in;
            if sent > seen + LARGE / 2 && (keeps_changing || changes == 0) {
                file.write_all_at(format!("change {changes}").as_bytes(), 11).unwrap();
                (seen, changes) = (seen + LARGE / 2, changes + 1);
            }
            false
        });
        let outcome = running.wait().expect(if keeps_changing { 24 } else { 0 });
        assert!(changes > 0, "{outcome}");
        match keeps_changing {
            true => assert!(server.object("b", "p/large").is_none() && server.uploads().is_empty(), "{outcome}"),
            false => assert_arrived(&server, &scene, "p/large"),
        }
    }
}

/// From one server to another, with either end breaking off.
#[test]
fn a_streamed_part_goes_across() {
    for (fault, kind, is_source) in [
        (Fault::ResetAnswer(9 * MIB + 1), Kind::Get, true),
        (Fault::Short(MIB + 3), Kind::Get, true),
        (Fault::ResetRequest(9 * MIB + 1), Kind::PutPart, false),
    ] {
        let (source, scene, _) = trial(Engine::all()[0]);
        source.put("b", "p/large", fs::read(scene.join("tree/large")).unwrap(), &[]);
        let dest = fault_server(2);
        let there = Scene::new(&dest, scene.engine);
        let faulty = if is_source { &source } else { &dest };
        faulty.script(Rule::new(fault).on(&[kind]).after(1).times(2));
        let job = there.job_in_parts("s3://b/p", "s3://b/q", "across", PART);
        job.arg(format!("--source-endpoint-url={}", source.endpoint())).run().expect(0);
        assert_eq!(faulty.counts().faults, 2);
        assert_arrived(&dest, &scene, "q/large");
        if is_source {
            let read = source.counts().body_out;
            assert!(read < LARGE + LARGE / 4, "{read} bytes read: a body goes on where it broke off");
        }
    }
}

/// A stop does not wait for gigabytes: streamed parts under way are given up, and sent by the resume.
#[test]
fn a_stopped_job_gives_up_its_streamed_parts() {
    let (server, scene, job) = trial(Engine::all()[0]);
    let job = job.arg("--streams=1");
    server.script(Rule::new(Fault::StallMs(400)).on(&[Kind::PutPart]));
    let running = job.start();
    assert!(running.run_until(|_| server.counts().body_in > 2 * MIB), "ended too soon");
    running.signal(rustix::process::Signal::TERM);
    running.wait().expect(20);
    assert!(server.object("b", "p/large").is_none());
    server.heal();
    job.run().expect(0);
    assert_arrived(&server, &scene, "p/large");
}

/// One whose source keeps breaking off when the job is to stop has not failed, and is sent by the resume.
#[test]
fn a_streamed_part_that_breaks_off_after_a_stop_is_left() {
    let (source, scene, _) = trial(Engine::all()[0]);
    source.put("b", "p/large", fs::read(scene.join("tree/large")).unwrap(), &[]);
    let dest = fault_server(2);
    let there = Scene::new(&dest, scene.engine);
    source.script(Rule::new(Fault::Short(1000)).on(&[Kind::Get]));
    let job = there.job_in_parts("s3://b/p", "s3://b/q", "across", PART);
    let job = job.arg(format!("--source-endpoint-url={}", source.endpoint()));
    let running = job.start();
    assert!(running.run_until(|_| source.counts().faults > 3), "ended too soon");
    running.signal(rustix::process::Signal::TERM);
    let outcome = running.wait().expect(20);
    assert_eq!(outcome.number("failed"), 0, "{outcome}");
    source.heal();
    job.run().expect(0);
    assert_arrived(&dest, &scene, "q/large");
}
