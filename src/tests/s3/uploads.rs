//! Uploads that nothing will go on with: the job's own are given up, whatever became of their source; others stay.

use std::fs::{self, File};
use std::path::Path;

use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::{Engine, Job, Rng};
use super::{PART_BYTES, Scene, fault_server, noise};

/// Bytes of the large file.
const LARGE: u64 = 4 * PART_BYTES;

/// A job whose upload of `tree/large` was killed at its third part, and its server.
fn interrupted(prefix: &str) -> (FaultServer, Scene, Job) {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    noise(&tree.join("large"), &mut Rng::new(1), LARGE);
    noise(&tree.join("other"), &mut Rng::new(2), 1000);
    let job = interrupt(&server, &scene, prefix);
    (server, scene, job)
}

fn interrupt(server: &FaultServer, scene: &Scene, prefix: &str) -> Job {
    server.reset_counts();
    server.script(Rule::new(Fault::StallMs(100)).on(&[Kind::PutPart]));
    let job = scene.job(scene.join("tree"), format!("s3://b/{prefix}"), prefix).arg("--checkpoint-interval=0.1");
    let job = job.arg("--streams=1");
    let running = job.start();
    assert!(running.run_until(|_| server.counts().of(Kind::PutPart) >= 3), "ended too soon");
    running.kill();
    assert!(server.uploads().iter().any(|upload| upload.target.1 == format!("{prefix}/large")));
    server.heal();
    job
}

fn keys_of_uploads(server: &FaultServer) -> Vec<String> {
    server.uploads().into_iter().map(|upload| upload.target.1).collect()
}

/// Gone, small, or a directory by now: in each case the upload goes, and another job's does not.
#[test]
fn an_upload_whose_source_is_another_by_now_is_given_up() {
    let gone = |tree: &Path| fs::remove_file(tree.join("large")).unwrap();
    let small = |tree: &Path| File::create(tree.join("large")).unwrap().set_len(10).unwrap();
    let dir = |tree: &Path| {
        fs::remove_file(tree.join("large")).unwrap();
        fs::create_dir(tree.join("large")).unwrap();
    };
    for (index, change) in [gone as fn(&Path), small, dir].into_iter().enumerate() {
        let (server, scene, job) = interrupted("p");
        interrupt(&server, &scene, "foreign");
        change(&scene.join("tree"));
        job.run().expect(0);
        assert_eq!(keys_of_uploads(&server), ["foreign/large"], "change {index}");
    }
}

/// A server that keeps an upload: said, and tried again by the next pass.
#[test]
fn an_upload_that_cannot_be_given_up_is_told_and_tried_again() {
    let (server, scene, job) = interrupted("p");
    fs::remove_file(scene.join("tree/large")).unwrap();
    server.script(Rule::new(Fault::Refuse { status: 403, code: "AccessDenied" }).on(&[Kind::Abort]));
    let outcome = job.run().expect(0);
    assert_eq!(outcome.number("uploads_left"), 1, "{outcome}");
    assert!(outcome.says("AccessDenied"), "{outcome}");
    assert_eq!(keys_of_uploads(&server), ["p/large"]);
    server.heal();
    assert_eq!(job.run().expect(0).number("uploads_left"), 0);
    assert_eq!(keys_of_uploads(&server), [""; 0]);
}

/// Killed after the server has begun the upload and before its id was read.
#[test]
fn an_upload_whose_id_was_never_read_is_given_up() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    noise(&scene.dir("tree").join("large"), &mut Rng::new(1), LARGE);
    interrupt(&server, &scene, "foreign");
    server.script(Rule::new(Fault::LostAnswer).on(&[Kind::CreateUpload]).times(1));
    server.script(Rule::new(Fault::StallMs(60_000)).on(&[Kind::CreateUpload]));
    let job = scene.job(scene.join("tree"), "s3://b/p", "p");
    let running = job.start();
    assert!(running.run_until(|_| keys_of_uploads(&server).contains(&"p/large".to_owned())), "ended too soon");
    running.kill();
    server.heal();
    fs::write(scene.join("tree/new"), "x").unwrap();
    job.run().expect(0);
    assert_eq!(keys_of_uploads(&server), ["foreign/large"]);
    assert!(server.object("b", "p/large").unwrap().body == fs::read(scene.join("tree/large")).unwrap());
}
