//! Servers and wires that fail: a storm completes, a lie about content fails its object, on every path.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::support::fault::{Checksums, Fault, FaultServer, Kind, Rule};
use super::support::{Comparison, Engine, Job, Outcome, Rng};
use super::{PART_BYTES, Scene, fault_server, noise, plain_tree};

/// Which way a faulty job goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
    Across,
}

const WAYS: [Way; 3] = [Way::Up, Way::Down, Way::Across];

/// One small file `small` and one of three parts, `large`, on the side the job reads from.
struct Trial {
    source: FaultServer,
    dest: FaultServer,
    scene: Scene,
    way: Way,
}

impl Trial {
    fn new(way: Way) -> Trial {
        let (source, dest) = (fault_server(11), fault_server(12));
        let scene = Scene::new(&dest, Engine::all()[0]);
        let tree = scene.dir("tree");
        noise(&tree.join("small"), &mut Rng::new(1), 70_000);
        noise(&tree.join("large"), &mut Rng::new(2), 2 * PART_BYTES + 12_345);
        let trial = Trial { source, dest, scene, way };
        if way != Way::Up {
            for name in ["small", "large"] {
                trial.source.put("b", &format!("p/{name}"), fs::read(tree.join(name)).unwrap(), &[]);
            }
        }
        trial
    }

    fn run(&self) -> Outcome {
        self.run_with(&[])
    }

    fn run_with(&self, args: &[&str]) -> Outcome {
        self.job(args).run()
    }

    fn job(&self, args: &[&str]) -> Job {
        let tree = self.scene.join("tree");
        let job = match self.way {
            Way::Up => self.scene.job(tree, "s3://b/p", "state"),
            Way::Down => self.scene.job("s3://b/p", self.scene.join("back"), "state"),
            Way::Across => self.scene.job("s3://b/p", "s3://b/q", "state"),
        };
        let source = format!("--source-endpoint-url={}", self.source.endpoint());
        job.arg(source).args(args)
    }

    /// What has arrived under a name, if anything.
    fn arrived(&self, name: &str) -> Option<Vec<u8>> {
        let object =
            |prefix: &str| self.dest.object("b", &format!("{prefix}/{name}")).map(|object| object.body.to_vec());
        match self.way {
            Way::Up => object("p"),
            Way::Down => fs::read(self.scene.join("back").join(name)).ok(),
            Way::Across => object("q"),
        }
    }

    /// Everything has arrived as it was sent.
    #[track_caller]
    fn assert_complete(&self) {
        for name in ["small", "large"] {
            let sent = fs::read(self.scene.join("tree").join(name)).unwrap();
            assert!(self.arrived(name).as_ref() == Some(&sent), "{:?}: {name} is not what was sent", self.way);
        }
        assert!(self.dest.uploads().is_empty(), "{:?}: an upload was left behind", self.way);
    }

    /// No name holds anything but what was sent.
    #[track_caller]
    fn assert_nothing_wrong(&self, outcome: &Outcome) {
        for name in ["small", "large"] {
            let sent = fs::read(self.scene.join("tree").join(name)).unwrap();
            let arrived = self.arrived(name);
            assert!(arrived.is_none() || arrived == Some(sent), "{:?}: {name} is wrong: {outcome}", self.way);
        }
    }
}

#[test]
fn a_storm_of_503_is_weathered() {
    for way in WAYS {
        let trial = Trial::new(way);
        for server in [&trial.source, &trial.dest] {
            server.script(Rule::new(Fault::Refuse { status: 503, code: "SlowDown" }).per_mille(300));
        }
        trial.run().expect(0);
        trial.assert_complete();
        let faults = trial.source.counts().faults + trial.dest.counts().faults;
        assert!(faults > 0, "{way:?}: no storm");
    }
}

#[test]
fn a_tree_survives_the_storm() {
    let server = fault_server(13);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    plain_tree(&tree, 6, 150, 0);
    server.script(Rule::new(Fault::Refuse { status: 503, code: "SlowDown" }).per_mille(300));
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    scene.job("s3://b/p", scene.join("back"), "down").run().expect(0);
    Comparison::new(&tree, &scene.join("back")).assert_same();
}

/// What was stored is gone, or another's, when it is read back: the bucket is to blame, and not the source.
#[test]
fn a_destination_that_loses_what_was_stored_is_not_the_source_s_fault() {
    let gone = Fault::Refuse { status: 404, code: "NoSuchKey" };
    let replaced = Fault::Refuse { status: 412, code: "PreconditionFailed" };
    // Without --checksum it is HEAD that looks after what was put together of parts.
    let cases = [
        (gone.clone(), Kind::Get, "--checksum", 2, "what was stored is not there any more"),
        (replaced, Kind::Get, "--checksum", 2, "what was stored has been replaced by somebody else"),
        (gone, Kind::Head, "--quiet", 1, "what was stored is not there any more"),
    ];
    for (fault, kind, arg, failed, why) in cases {
        let trial = Trial::new(Way::Up);
        trial.dest.set_checksums(Checksums::Ignored);
        trial.dest.script(Rule::new(fault).on(&[kind]));
        let outcome = trial.run_with(&[arg]).expect(23);
        assert_eq!((outcome.number("failed"), outcome.number("vanished")), (failed, 0), "{outcome}");
        assert!(outcome.says(why) && trial.dest.counts().faults > 0, "{outcome}");
        trial.dest.heal();
        trial.run_with(&[arg]).expect(0);
        trial.assert_complete();
    }
}

/// A hard link whose first fails takes its place, and may fail like it: nobody waits for ever.
#[test]
fn hard_links_whose_first_fails_are_tried_by_themselves() {
    let server = fault_server(14);
    let scene = Scene::new(&server, Engine::all()[0]);
    server.put("b", "p/first", vec![1; 5000], &[("gfast-links", "3")]);
    for key in ["p/second", "p/third"] {
        server.put("b", key, "", &[("gfast-link", "p/first")]);
    }
    // The first is asked for three times.
    for (times, failed) in [(u64::MAX, 3), (3, 1)] {
        server.script(Rule::new(Fault::FlipAnswer(77)).on(&[Kind::Get]).key("first").times(times));
        let job = scene.job("s3://b/p", scene.join("back"), "down");
        let running = job.start();
        assert!(!running.run_for(Duration::from_secs(60)), "it goes round and round: {}", running.said());
        let outcome = running.wait().expect(23);
        assert_eq!(outcome.number("failed"), failed, "{outcome}");
        server.heal();
    }
    scene.job("s3://b/p", scene.join("back"), "down").run().expect(0);
    let inode = |name: &str| fs::metadata(scene.join("back").join(name)).unwrap().ino();
    let is_whole = |name: &str| fs::read(scene.join("back").join(name)).unwrap() == [1; 5000];
    assert!(["first", "second", "third"].into_iter().all(is_whole));
    // What came without its first is looked at again, and they are one file.
    assert_eq!((inode("second"), inode("third")), (inode("first"), inode("first")));
}

/// What passes by itself: every one of these once, on every path that meets it.
#[test]
fn what_passes_is_tried_again() {
    let once = [
        (Fault::ResetRequest(0), vec![Way::Up, Way::Down, Way::Across]),
        (Fault::ResetRequest(30_000), vec![Way::Up, Way::Across]),
        (Fault::ResetAnswer(1000), vec![Way::Down, Way::Across]),
        (Fault::Short(1), vec![Way::Down, Way::Across]),
        (Fault::LostAnswer, vec![Way::Up, Way::Down, Way::Across]),
        (Fault::FlipRequest(1), vec![Way::Up, Way::Across]),
        (Fault::FlipAnswer(1), vec![Way::Down]),
        (Fault::WrongEtag, vec![Way::Down]),
        (Fault::RefuseFor { status: 503, code: "SlowDown", seconds: 1 }, vec![Way::Up, Way::Down, Way::Across]),
        (Fault::Refuse { status: 500, code: "InternalError" }, vec![Way::Up, Way::Down, Way::Across]),
        (Fault::Refuse { status: 400, code: "RequestTimeout" }, vec![Way::Up, Way::Across]),
    ];
    let mut failed = Vec::new();
    for (fault, ways) in once {
        for way in ways {
            let trial = Trial::new(way);
            let moving = [Kind::Get, Kind::Put, Kind::PutPart];
            for server in [&trial.source, &trial.dest] {
                server.script(Rule::new(fault.clone()).on(&moving).key("large").times(1));
                server.script(Rule::new(fault.clone()).on(&moving).key("small").times(1));
            }
            let outcome = trial.run();
            match outcome.code() {
                Some(0) => trial.assert_complete(),
                _ => failed.push(format!("{fault:?} {way:?}: {outcome}")),
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Another range than the one asked for, or all of the object, is not taken for it.
#[test]
fn a_wrong_range_is_not_taken() {
    for fault in [Fault::ShiftRange, Fault::IgnoreRange] {
        for way in [Way::Down, Way::Across] {
            let trial = Trial::new(way);
            trial.source.script(Rule::new(fault.clone()).on(&[Kind::Get]).key("large").times(1));
            let outcome = trial.run().expect_one_of(&[0, 23]);
            trial.assert_nothing_wrong(&outcome);
            trial.run().expect(0);
            trial.assert_complete();
        }
    }
}

/// A Complete whose answer is lost, refused, or an error in a 200 is brought to its end.
#[test]
fn complete_is_brought_to_its_end() {
    let once =
        [Fault::LostAnswer, Fault::OkWithError("InternalError"), Fault::Refuse { status: 503, code: "SlowDown" }];
    for fault in once {
        for way in [Way::Up, Way::Across] {
            let trial = Trial::new(way);
            trial.dest.script(Rule::new(fault.clone()).on(&[Kind::Complete]).times(1));
            let outcome = trial.run();
            assert_eq!(outcome.code(), Some(0), "{fault:?} {way:?}: {outcome}");
            trial.assert_complete();
        }
    }
}

/// Content that arrives wrong every time fails its objects, and nothing of it stays under their names.
#[test]
fn a_wrong_checksum_fails_the_object_on_every_path() {
    let always = [
        (Way::Up, Fault::FlipRequest(9), vec![Kind::Put]),
        (Way::Up, Fault::FlipRequest(9), vec![Kind::PutPart]),
        (Way::Down, Fault::FlipAnswer(9), vec![Kind::Get]),
        (Way::Down, Fault::WrongChecksum, vec![Kind::Get, Kind::Head]),
        (Way::Across, Fault::FlipAnswer(9), vec![Kind::Get]),
        (Way::Across, Fault::FlipRequest(9), vec![Kind::Put]),
        (Way::Across, Fault::FlipRequest(9), vec![Kind::PutPart]),
    ];
    for (way, fault, kinds) in always {
        let trial = Trial::new(way);
        for server in [&trial.source, &trial.dest] {
            server.script(Rule::new(fault.clone()).on(&kinds));
        }
        let outcome = trial.run();
        assert_eq!(outcome.code(), Some(23), "{way:?} {fault:?} {kinds:?}: {outcome}");
        assert!(outcome.number("failed") >= 1, "{outcome}");
        trial.assert_nothing_wrong(&outcome);
        // Once the wire is good again the same command puts it right.
        trial.source.heal();
        trial.dest.heal();
        trial.run().expect(0);
        trial.assert_complete();
    }
}

/// A server that checks nothing: `--checksum` reads back what it stored, and a flipped bit does not pass.
#[test]
fn without_the_server_s_help_checksum_reads_back() {
    for kinds in [vec![Kind::Put], vec![Kind::PutPart]] {
        let trial = Trial::new(Way::Up);
        trial.dest.set_checksums(Checksums::Ignored);
        trial.dest.script(Rule::new(Fault::FlipRequest(9)).on(&kinds));
        let outcome = trial.run_with(&["--checksum"]);
        assert_eq!(outcome.code(), Some(23), "{kinds:?}: {outcome}");
        trial.assert_nothing_wrong(&outcome);
        trial.dest.heal();
        trial.run_with(&["--checksum"]).expect(0);
        trial.assert_complete();
    }
}

/// A part that fails ends its object, also where streams are fewer than parts that could be under way.
#[test]
fn a_part_that_fails_ends_its_object_however_few_streams_there_are() {
    for (way, kind) in WAYS.into_iter().zip([Kind::PutPart, Kind::Get, Kind::Get]) {
        let trial = Trial::new(way);
        for server in [&trial.source, &trial.dest] {
            let denied = Fault::Refuse { status: 403, code: "AccessDenied" };
            server.script(Rule::new(denied).on(&[kind]).key("large"));
        }
        let running = trial.job(&["--streams=1"]).start();
        assert!(
            !running.run_for(Duration::from_secs(60)),
            "{way:?}: it waits for what never comes: {}",
            running.said()
        );
        let outcome = running.wait().expect(23);
        assert_eq!(outcome.number("failed"), 1, "{way:?}: {outcome}");
        assert!(trial.arrived("small").is_some() && trial.arrived("large").is_none(), "{way:?}: {outcome}");
        assert!(trial.dest.uploads().is_empty(), "{way:?}: an upload was left behind");
    }
}

/// An upload that the server will not put together is given up, and its parts are freed.
#[test]
fn a_refused_completion_leaves_no_upload() {
    for way in [Way::Up, Way::Across] {
        let trial = Trial::new(way);
        trial.dest.script(Rule::new(Fault::Refuse { status: 400, code: "InvalidPart" }).on(&[Kind::Complete]));
        let outcome = trial.run();
        assert_eq!(outcome.code(), Some(23), "{way:?}: {outcome}");
        assert!(trial.dest.uploads().is_empty(), "{way:?}: an upload was left behind");
        trial.dest.heal();
        trial.run().expect(0);
        trial.assert_complete();
    }
}

/// A 200 with an error inside, every time, is a failure: for Complete and for copies within a server.
#[test]
fn an_error_inside_a_200_is_no_success() {
    let server = fault_server(1);
    server.make_bucket("c");
    server.put("b", "p/f", "content", &[]);
    server.script(Rule::new(Fault::OkWithError("InternalError")).on(&[Kind::Copy]));
    let scene = Scene::new(&server, Engine::all()[0]);
    let outcome = scene.job("s3://b/p", "s3://c/p", "state").run().expect_one_of(&[11, 23]);
    assert!(server.object("c", "p/f").is_none(), "{outcome}");
    server.heal();
    scene.job("s3://b/p", "s3://c/p", "state").run().expect(0);
    assert_eq!(server.object("c", "p/f").unwrap().body, "content");
}

/// An error instead of a page is that error: never a listing without names, which would end a job with nothing done.
#[test]
fn an_error_inside_a_200_is_no_empty_listing() {
    for way in [Way::Down, Way::Across] {
        let trial = Trial::new(way);
        trial.source.script(Rule::new(Fault::OkWithError("InternalError")).on(&[Kind::List]).times(2));
        trial.run().expect(0);
        trial.assert_complete();
        trial.source.script(Rule::new(Fault::OkWithError("AccessDenied")).on(&[Kind::List]));
        let outcome = trial.run_with(&["--delete"]).expect(23);
        assert!(outcome.says("AccessDenied"), "{outcome}");
        trial.assert_complete();
    }
}

/// Bodies that break off again and again are asked for again, after a while, as often as other requests.
#[test]
fn bodies_that_break_off_are_asked_for_again() {
    let cases = [(Way::Down, "small", Fault::ResetAnswer(1000)), (Way::Down, "large", Fault::Short(1000))];
    for (way, name, fault) in cases.into_iter().chain([(Way::Across, "small", Fault::ResetAnswer(1000))]) {
        let trial = Trial::new(way);
        trial.source.script(Rule::new(fault.clone()).on(&[Kind::Get]).key(name).times(7));
        let outcome = trial.run();
        assert_eq!(outcome.code(), Some(0), "{way:?} {name} {fault:?}: {outcome}");
        trial.assert_complete();
        assert_eq!(trial.source.counts().faults, 7, "{outcome}");
    }
}

/// What is read back goes on where it broke off, and nothing is sent again for it.
#[test]
fn reading_back_goes_on_where_it_broke_off() {
    let trial = Trial::new(Way::Up);
    trial.dest.set_checksums(Checksums::Ignored);
    trial.dest.script(Rule::new(Fault::Short(1000)).on(&[Kind::Get]).times(4));
    let outcome = trial.run_with(&["--checksum"]).expect(0);
    trial.assert_complete();
    let (counts, whole) = (trial.dest.counts(), 2 * PART_BYTES + 12_345 + 70_000);
    assert_eq!((counts.faults, outcome.number("proved_by_reading")), (4, 2), "{outcome}");
    assert!(counts.body_in < whole + 100_000, "{} bytes sent for {whole}", counts.body_in);
    assert!(counts.body_out < whole + 100_000, "{} bytes read back for {whole}", counts.body_out);
}

/// Once a stop was asked for, what keeps breaking off is left for the resume: it has not failed.
#[test]
fn what_breaks_off_after_a_stop_is_left_for_the_resume() {
    for (way, name) in [(Way::Down, "small"), (Way::Down, "large"), (Way::Across, "small"), (Way::Across, "large")] {
        let trial = Trial::new(way);
        trial.source.script(Rule::new(Fault::Short(1000)).on(&[Kind::Get]).key(name));
        let running = trial.job(&[]).start();
        assert!(running.run_until(|_| trial.source.counts().faults > 0), "ended too soon");
        running.signal(Signal::TERM);
        let outcome = running.wait().expect(20);
        assert_eq!(outcome.number("failed"), 0, "{way:?} {name}: {outcome}");
        trial.source.heal();
        trial.run().expect(0);
        trial.assert_complete();
    }
}

/// What the server refuses is the object's failure, also where it does not let the upload go.
#[test]
fn an_upload_that_is_not_let_go_hides_no_cause() {
    for way in [Way::Up, Way::Across] {
        let trial = Trial::new(way);
        trial.dest.script(Rule::new(Fault::Refuse { status: 400, code: "InvalidPart" }).on(&[Kind::Complete]));
        trial.dest.script(Rule::new(Fault::Refuse { status: 403, code: "AccessDenied" }).on(&[Kind::Abort]));
        let outcome = trial.run().expect(23);
        assert!(outcome.says("InvalidPart"), "{way:?}: {outcome}");
        assert_eq!(outcome.number("uploads_left"), 1, "{way:?}: {outcome}");
        trial.dest.heal();
        trial.run().expect(0);
        trial.assert_complete();
    }
}

/// Refused while the body is still being sent: the server's reason arrives, not "connection reset".
#[test]
fn an_early_403_is_told_as_such() {
    let trial = Trial::new(Way::Up);
    let fault = Fault::RefuseEarly { status: 403, code: "AccessDenied", after_bytes: 100_000 };
    trial.dest.script(Rule::new(fault).on(&[Kind::PutPart]));
    let outcome = trial.run().expect(23);
    assert!(outcome.says("AccessDenied") || outcome.says("403"), "{outcome}");
    assert!(trial.arrived("small").is_some() && trial.arrived("large").is_none());
}

/// More bytes than announced belong to nobody: the object is what was announced.
#[test]
fn bytes_beyond_the_announced_are_not_taken() {
    let trial = Trial::new(Way::Down);
    trial.source.script(Rule::new(Fault::Long(500)).on(&[Kind::Get]));
    trial.run().expect(0);
    trial.assert_complete();
}

/// Slow is not dead: pauses below the stall limit are waited for.
#[test]
fn slow_bodies_and_pauses_are_waited_for() {
    for fault in [Fault::Slow(1_000_000), Fault::StallMs(1500), Fault::StallBodyMs(10_000, 1500)] {
        let trial = Trial::new(Way::Down);
        trial.source.script(Rule::new(fault.clone()).on(&[Kind::Get]).key("small"));
        let outcome = trial.run();
        assert_eq!(outcome.code(), Some(0), "{fault:?}: {outcome}");
        trial.assert_complete();
    }
}

/// A server that never answers one request does not hold the job: the request is given up and sent again.
#[test]
fn a_stall_is_given_up() {
    let trial = Trial::new(Way::Down);
    trial.source.script(Rule::new(Fault::StallBodyMs(1000, 120_000)).on(&[Kind::Get]).key("small").times(1));
    let outcome = trial.run().expect(0);
    assert!(outcome.elapsed < Duration::from_secs(90), "{outcome}");
    trial.assert_complete();
}

/// The object is replaced between two ranges: no mixture of both, and exit 24.
#[test]
fn an_object_that_changes_while_read_is_not_mixed() {
    let trial = Trial::new(Way::Down);
    let refuse = Fault::Refuse { status: 412, code: "PreconditionFailed" };
    trial.source.script(Rule::new(refuse).on(&[Kind::Get]).key("large").after(1));
    let outcome = trial.run().expect(24);
    assert!(trial.arrived("small").is_some() && trial.arrived("large").is_none(), "{outcome}");
    trial.source.heal();
    trial.run().expect(0);
    trial.assert_complete();
}

/// An object listed and then gone is a vanished one.
#[test]
fn an_object_that_is_gone_has_vanished() {
    let trial = Trial::new(Way::Down);
    let gone = Fault::Refuse { status: 404, code: "NoSuchKey" };
    trial.source.script(Rule::new(gone).on(&[Kind::Get, Kind::Head]).key("small"));
    trial.run().expect(24);
    assert!(trial.arrived("large").is_some() && trial.arrived("small").is_none());
}

/// Credentials that end while the job runs stop it, resumable.
#[test]
fn credentials_that_expire_stop_the_job() {
    let trial = Trial::new(Way::Up);
    let expired = Fault::Refuse { status: 400, code: "ExpiredToken" };
    trial.dest.script(Rule::new(expired).on(&[Kind::Put, Kind::PutPart, Kind::CreateUpload]));
    let outcome = trial.run().expect(11);
    assert!(outcome.says("ExpiredToken") || outcome.says("expired"), "{outcome}");
    trial.dest.heal();
    trial.run().expect(0);
    trial.assert_complete();
}

/// A server that asks for less is sent less: under throttling fewer requests are under way than streams would allow.
#[test]
fn throttling_lowers_the_requests_under_way() {
    let under_way = |is_throttled: bool| {
        let server = fault_server(5);
        let scene = Scene::new(&server, Engine::all()[0]);
        let tree = scene.dir("tree");
        small_files(&tree, 400);
        server.script(Rule::new(Fault::StallMs(20)).on(&[Kind::Put]).per_mille(if is_throttled { 0 } else { 1000 }));
        if is_throttled {
            // Half of the first hundred are refused; counted is what comes after.
            server.script(Rule::new(Fault::Refuse { status: 503, code: "SlowDown" }).on(&[Kind::Put]).times(60));
            server.script(Rule::new(Fault::StallMs(20)).on(&[Kind::Put]));
        }
        let running = scene.job(&tree, "s3://b/p", "state").arg("--streams=64").start();
        running.run_until(|_| server.counts().of(Kind::Put) > 100);
        server.reset_counts();
        running.wait().expect(0);
        server.counts().concurrent_max
    };
    let (free, throttled) = (under_way(false), under_way(true));
    assert!(throttled < free, "{throttled} requests at once under throttling, {free} without");
}

fn small_files(dir: &Path, count: u32) {
    let mut rng = Rng::new(3);
    (0..count).for_each(|index| noise(&dir.join(format!("f{index}")), &mut rng, 1000));
}
