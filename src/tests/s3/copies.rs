//! Objects that the server copies by itself, in parts: as those beyond 5 GiB have to be, and those beyond a part size
//! that is asked for.

use std::time::Duration;

use rustix::process::Signal;

use super::support::fault::{Checksums, Fault, FaultServer, Kind, Rule};
use super::support::{Engine, Job, Outcome, Rng};
use super::{PART_BYTES, Scene, fault_server};

/// Parts of the object, the last of them not whole.
const PARTS: u64 = 12;
/// Its attributes.
const ATTRIBUTES: [(&str, &str); 2] = [("file-permissions", "0100640"), ("colour", "blue")];
/// What HTTP says of it.
const HEADERS: [(&str, &str); 2] = [("content-type", "text/plain"), ("cache-control", "no-store")];

/// One object in one bucket, and a job that copies it into another.
struct Trial {
    server: FaultServer,
    scene: Scene,
}

impl Trial {
    fn new(checksums: Checksums) -> Trial {
        let server = fault_server(1);
        server.make_bucket("c");
        server.set_checksums(checksums);
        let scene = Scene::new(&server, Engine::all()[0]);
        let trial = Trial { server, scene };
        trial.put(1);
        trial
    }

    /// Stores the object's content of this number.
    fn put(&self, seed: u64) -> Vec<u8> {
        let mut content = vec![0; ((PARTS - 1) * PART_BYTES + 77) as usize];
        Rng::new(seed).fill(&mut content);
        self.server.put("b", "p/large", content.clone(), &ATTRIBUTES);
        self.server.set_headers("b", "p/large", &HEADERS);
        content
    }

    fn job(&self) -> Job {
        self.scene.job("s3://b/p", "s3://c/q", "state")
    }

    /// It has arrived as it is, and nothing else.
    #[track_caller]
    fn assert_copied(&self, outcome: &Outcome) {
        let (sent, arrived) = (self.server.object("b", "p/large").unwrap(), self.server.object("c", "q/large"));
        let arrived = arrived.unwrap_or_else(|| panic!("it is not there: {outcome}"));
        assert!(arrived.body == sent.body, "{outcome}");
        assert_eq!((arrived.attributes, arrived.headers), (sent.attributes, sent.headers), "{outcome}");
        self.assert_nothing_left(outcome);
    }

    #[track_caller]
    fn assert_nothing_left(&self, outcome: &Outcome) {
        assert!(self.server.uploads().is_empty(), "an upload was left behind: {outcome}");
    }

    #[track_caller]
    fn assert_not_copied(&self, outcome: &Outcome) {
        assert!(self.server.object("c", "q/large").is_none(), "{outcome}");
        self.assert_nothing_left(outcome);
    }

    fn expired(&self) -> Rule {
        Rule::new(Fault::Refuse { status: 400, code: "ExpiredToken" }).on(&[Kind::CopyPart])
    }
}

#[test]
fn parts_are_copied_by_the_server() {
    for checksums in [Checksums::Stored, Checksums::Ignored] {
        let trial = Trial::new(checksums);
        trial.server.put("b", "p/small", vec![1; PART_BYTES as usize], &[]);
        trial.server.reset_counts();
        let outcome = trial.job().run().expect(0);
        trial.assert_copied(&outcome);
        let counts = trial.server.counts();
        assert_eq!(
            (counts.of(Kind::CopyPart), counts.of(Kind::Copy), counts.of(Kind::Get)),
            (PARTS, 1, 0),
            "{outcome}"
        );
        assert!(counts.body_in + counts.body_out < 100_000, "{counts:?}: {outcome}");
        // Of what it copies in one request a server does not say what it has compared.
        let (proved, by_length) = if checksums == Checksums::Stored { (1, 1) } else { (0, 2) };
        assert_eq!(outcome.number("proved_by_server"), proved, "{outcome}");
        assert_eq!(outcome.number("proved_by_length"), by_length, "{outcome}");
        assert_eq!(trial.job().run().expect(0).number("copied"), 0);
    }
}

/// A server that knows no checksums has both read, and a part that it has copied wrong does not pass.
#[test]
fn parts_copied_by_the_server_are_read_back() {
    let trial = Trial::new(Checksums::Ignored);
    let job = trial.job().arg("--checksum");
    trial.server.script(Rule::new(Fault::FlipAnswer(99)).on(&[Kind::Get]).key("q/large"));
    let outcome = job.run().expect(23);
    assert_eq!(outcome.number("failed"), 1, "{outcome}");
    trial.server.heal();
    let outcome = job.run().expect(0);
    trial.assert_copied(&outcome);
    assert_eq!(outcome.number("proved_by_reading"), 1, "{outcome}");
}

/// What was copied when the job was killed or stopped is not copied again.
#[test]
fn an_interrupted_copy_in_parts_goes_on() {
    const DONE: u64 = 5;
    let trial = Trial::new(Checksums::Stored);
    let job = trial.job().arg("--streams=2").arg("--checkpoint-interval=0.1");
    for is_killed in [true, false] {
        let stall = Fault::StallMs(if is_killed { 120_000 } else { 300 });
        trial.server.script(Rule::new(stall).on(&[Kind::CopyPart]).after(DONE));
        trial.server.reset_counts();
        let running = job.start();
        assert!(running.run_until(|_| trial.server.counts().of(Kind::CopyPart) > DONE), "ended too soon");
        match is_killed {
            true => {
                // What is done is recorded by then.
                assert!(running.run_for(Duration::from_millis(1000)), "ended too soon");
                drop(running.kill());
                trial.server.reset_counts();
            }
            false => {
                running.signal(Signal::TERM);
                running.wait().expect(20);
            }
        }
        assert_eq!(trial.server.uploads().len(), 1);
        trial.server.heal();
        let outcome = job.run().expect(0);
        trial.assert_copied(&outcome);
        let copied = trial.server.counts().of(Kind::CopyPart);
        assert_eq!(copied, if is_killed { PARTS - DONE } else { PARTS }, "{outcome}");
        trial.put(2);
    }
}

/// Another object is there under the source's key before all parts are copied: never a mixture, and never its upload.
#[test]
fn an_object_that_is_replaced_while_its_parts_are_copied_is_not_mixed() {
    let trial = Trial::new(Checksums::Stored);
    trial.server.script(Rule::new(Fault::StallMs(200)).on(&[Kind::CopyPart]).times(6));
    let running = trial.job().arg("--streams=1").start();
    assert!(running.run_until(|_| trial.server.counts().of(Kind::CopyPart) > 3), "ended too soon");
    trial.put(2);
    let outcome = running.wait().expect_one_of(&[0, 24]);
    match outcome.code() {
        Some(0) => trial.assert_copied(&outcome),
        _ => trial.assert_not_copied(&outcome),
    }
    trial.server.heal();
    trial.job().run().expect(0);
    let before = trial.server.object("c", "q/large").unwrap().etag;
    trial.put(3);
    let refuse = Fault::Refuse { status: 412, code: "PreconditionFailed" };
    trial.server.script(Rule::new(refuse).on(&[Kind::CopyPart]).after(2));
    let outcome = trial.job().run().expect(24);
    assert_eq!(trial.server.object("c", "q/large").unwrap().etag, before, "{outcome}");
    trial.assert_nothing_left(&outcome);
    trial.server.heal();
    let outcome = trial.job().run().expect(0);
    trial.assert_copied(&outcome);
}

/// A 200 with an error inside is an error, which passes or does not.
#[test]
fn an_error_inside_a_200_is_no_part() {
    let trial = Trial::new(Checksums::Stored);
    let fault = || Rule::new(Fault::OkWithError("InternalError")).on(&[Kind::CopyPart]).after(2);
    trial.server.script(fault());
    let outcome = trial.job().arg("--streams=1").run().expect(23);
    assert!(outcome.says("InternalError"), "{outcome}");
    trial.assert_not_copied(&outcome);
    trial.server.heal();
    trial.server.script(fault().times(2));
    let outcome = trial.job().run().expect(0);
    trial.assert_copied(&outcome);
}

/// A session that ends leaves the parts where they are.
#[test]
fn a_copy_in_parts_goes_on_with_another_session() {
    const DONE: u64 = 7;
    let trial = Trial::new(Checksums::Stored);
    trial.server.script(trial.expired().after(DONE));
    let outcome = trial.job().run().expect(11);
    assert!(outcome.says("ExpiredToken"), "{outcome}");
    trial.server.heal();
    trial.server.reset_counts();
    let outcome = trial.job().run().expect(0);
    trial.assert_copied(&outcome);
    assert_eq!(trial.server.counts().of(Kind::CopyPart), PARTS - DONE, "{outcome}");
}
