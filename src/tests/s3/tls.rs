//! Whose certificate is believed: that of an authority named by AWS_CA_BUNDLE, and no other's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::support::fixture::must;
use super::support::s3::S3sFs;
use super::support::{Engine, Job, Rng};
use super::{PART_BYTES, Scene, noise};

/// An authority of its own in a new directory `dir`, and a certificate of it for 127.0.0.1.
fn authority(dir: &Path) {
    std::fs::create_dir(dir).unwrap();
    std::fs::write(dir.join("server.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for line in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -days 2 \
         -subj /CN=gfast-test-authority",
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key -out server.csr \
         -subj /CN=gfast-test-server",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext \
         -out server.pem",
    ] {
        must(Command::new("openssl").current_dir(dir).args(line.split(' ')));
    }
}

#[test]
fn a_server_is_believed_by_its_authority_only() {
    let dir = super::Scratch::new();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    authority(&at("ours"));
    authority(&at("other"));
    std::fs::create_dir(at("data")).unwrap();
    let server = S3sFs::start_tls(&at("data"), &at("ours/server.pem"), &at("ours/server.key"));
    let objects = server.bucket("bucket");
    let scene = Scene::with_s3s(&server, Engine::all()[0]);
    // Of directories s3s-fs keeps nothing.
    let tree = scene.dir("tree");
    noise(&tree.join("small"), &mut Rng::new(1), 1000);
    noise(&tree.join("large"), &mut Rng::new(2), 2 * PART_BYTES + 77);
    let job = |source: PathBuf, dest: PathBuf, state: &str| scene.job(source, dest, state);
    let bucket = || PathBuf::from("s3://bucket/p");
    let believing = |job: Job, bundle: &str| job.env("AWS_CA_BUNDLE", at(bundle));

    let up = || job(tree.clone(), bucket(), "refused");
    for (refused, word) in [
        (up(), "certificate"),
        (believing(up(), "other/ca.pem"), "certificate"),
        (believing(up(), "ours/ca.key"), "ca.key"),
        (believing(up(), "nosuch.pem"), "nosuch.pem"),
    ] {
        let outcome = refused.run().expect(2);
        let errors = outcome.stderr.lines().filter(|line| line.contains("gfast:")).count();
        assert!(errors == 1 && outcome.says("s3://bucket") && outcome.says(word), "{word}: {outcome}");
        assert!(outcome.elapsed < Duration::from_secs(30), "{outcome}");
        assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 0, "something moved");
    }
    believing(job(tree.clone(), bucket(), "up"), "ours/ca.pem").run().expect(0);
    believing(job(bucket(), scene.join("back"), "down"), "ours/ca.pem").run().expect(0);
    for name in ["small", "large"] {
        let read = |dir: &str| std::fs::read(scene.join(dir).join(name)).unwrap();
        assert!(read("tree") == read("back"), "{name} is not what was sent");
    }
}
