//! Which bucket of which server a job is about: what is recorded of one is not believed of another; and which buckets
//! are one.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use super::support::fault::{Fault, FaultServer, Kind, Rule, Terms};
use super::support::{Comparison, Engine, Outcome};
use super::{ACCESS_KEY, PART_BYTES, SECRET_KEY, Scene, fault_server, plain_tree};

/// Exit 2, for a reason that says all of `words`.
#[track_caller]
fn refused(outcome: Outcome, words: &[&str]) {
    let outcome = outcome.expect(2);
    assert!(words.iter().all(|word| outcome.says(word)), "{words:?} expected: {outcome}");
}

fn authority(server: &FaultServer) -> String {
    server.endpoint().replace("http://", "")
}

/// The lines of the job file that tell servers.
fn recorded_servers(state: &Path) -> Vec<String> {
    let job = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.join("job").exists());
    let text = fs::read_to_string(job.unwrap().join("job")).unwrap();
    text.lines().filter(|line| line.contains("_server=")).map(str::to_owned).collect()
}

/// Makes a job file one from before servers were recorded.
fn forget_servers(state: &Path) {
    let job = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.join("job").exists());
    let path = job.unwrap().join("job");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.contains("_server=") && !line.starts_with("crc="));
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    fs::write(path, format!("{body}crc={:08x}\n", crc32fast::hash(body.as_bytes()))).unwrap();
}

/// The same bucket name at another site: what the first one holds is not taken for done there.
#[test]
fn a_job_stays_with_the_server_it_began_at() {
    let (here, there) = (fault_server(1), fault_server(2));
    let scene = Scene::new(&here, Engine::all()[0]);
    let elsewhere = |job: super::Job| job.env("AWS_ENDPOINT_URL_S3", there.endpoint());
    // By the environment, as it is set for a whole shell; an option would come before it.
    let job = |source: &Path, dest: &Path, state: &str| {
        let job = super::Job::new(source, dest, scene.join(state), scene.engine);
        let job = job.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let job = job.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", scene.scratch.path());
        job.env("AWS_ENDPOINT_URL_S3", here.endpoint()).arg(format!("--part-size={PART_BYTES}"))
    };
    let (tree, bucket, back) = (scene.dir("tree"), Path::new("s3://b/p"), scene.join("back"));
    plain_tree(&tree, 51, 20, 0);
    let (up, down) = (job(&tree, bucket, "up"), job(bucket, &back, "down"));
    up.run().expect(0);
    down.run().expect(0);
    let (first, second) = (authority(&here), authority(&there));
    there.put("b", "p/other", "other", &[]);
    for job in [&up, &down] {
        let words = [&first[..], &second[..], "--state-dir"];
        refused(elsewhere(job.clone()).run(), &words);
        refused(elsewhere(job.clone()).arg("--dry-run").run(), &words);
        // However it is written.
        job.clone().env("AWS_ENDPOINT_URL_S3", format!("{}/", here.endpoint())).run().expect(0);
    }
    assert_eq!(there.keys("b"), ["p/other"]);
    Comparison::new(&tree, &back).assert_same();
    // What the message says to do.
    elsewhere(job(&tree, bucket, "up-there")).run().expect(0);
    elsewhere(job(bucket, &scene.join("back-there"), "down-there")).run().expect(0);
    fs::remove_file(scene.join("back-there/other")).unwrap();
    let found = Comparison::new(&tree, &scene.join("back-there")).run();
    assert!(found.iter().all(|found| found.path.is_empty()), "{found:#?}");
    // From before servers were recorded: goes on as it did, and stays where it is from then on.
    forget_servers(&scene.join("up"));
    assert_eq!(recorded_servers(&scene.join("up")), [""; 0]);
    // A run that is refused binds it to nothing.
    there.make_bucket("b");
    refused(elsewhere(up.clone()).run(), &["emptied"]);
    assert_eq!(recorded_servers(&scene.join("up")), [""; 0]);
    up.run().expect(0);
    assert_eq!(recorded_servers(&scene.join("up")), [format!("dest_server={first}")]);
    refused(elsewhere(up).run(), &[&first, &second]);
}

/// The bucket was emptied, or made anew, behind the job's back.
#[test]
fn an_emptied_bucket_is_not_taken_for_the_copy() {
    let server = fault_server(3);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    plain_tree(&tree, 52, 20, 2 * PART_BYTES);
    let job = scene.job(&tree, "s3://b/p", "up");
    job.run().expect(0);
    server.make_bucket("b");
    server.put("b", "q/other", "other", &[]);
    for job in [job.clone(), job.clone().arg("--dry-run"), job.clone().arg("--retry-failed")] {
        refused(job.run(), &["emptied", "--recopy"]);
    }
    assert_eq!(server.keys("b"), ["q/other"]);
    job.clone().arg("--recopy").run().expect(0);
    scene.job("s3://b/p", scene.join("back"), "down").run().expect(0);
    Comparison::new(&tree, &scene.join("back")).assert_same();
    job.run().expect(0);

    let single = scene.job(tree.join("a/large"), "s3://b/one/name", "single");
    single.run().expect(0);
    single.run().expect(0);
    server.remove("b", "one/name");
    refused(single.run(), &["emptied", "--recopy"]);
    single.arg("--recopy").run().expect(0);
    assert!(server.object("b", "one/name").is_some());
}

/// Of an interrupted run nothing may be there yet; what was there and is not any more is not gone on with.
#[test]
fn an_interrupted_run_goes_on_in_an_empty_bucket_if_it_has_stored_nothing() {
    let server = fault_server(4);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    super::noise(&tree.join("large"), &mut super::Rng::new(1), 6 * PART_BYTES);
    server.script(Rule::new(Fault::StallMs(50)).on(&[Kind::PutPart]));
    let job = scene.job(&tree, "s3://b/p", "up").arg("--streams=1").arg("--checkpoint-interval=0.1");
    let running = job.start();
    assert!(running.run_until(|_| server.counts().of(Kind::PutPart) >= 3), "ended too soon");
    running.kill();
    assert_eq!(server.keys("b"), [""; 0]);
    server.heal();
    job.run().expect(0);
    assert!(server.object("b", "p/large").is_some());

    plain_tree(&scene.dir("many"), 53, 60, 0);
    server.make_bucket("c");
    server.script(Rule::new(Fault::StallMs(30)).on(&[Kind::Put]));
    let job = scene.job(scene.join("many"), "s3://c/p", "many-up").arg("--streams=1").arg("--checkpoint-interval=0.1");
    let running = job.start();
    assert!(running.run_until(|_| server.counts().of(Kind::Put) >= 25), "ended too soon");
    // Drained: nothing that was on its way arrives later.
    running.signal(Signal::TERM);
    running.wait().expect(20);
    server.heal();
    server.make_bucket("c");
    refused(job.run(), &["emptied", "remove", "job-"]);
    assert_eq!(server.keys("c"), [""; 0]);
}

/// What empties a bucket is the job itself.
#[test]
fn a_job_that_has_deleted_everything_goes_on() {
    let server = fault_server(5);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    (0..5).for_each(|n| fs::write(tree.join(format!("f{n}")), "x").unwrap());
    let job = scene.job(&tree, "s3://b", "up").arg("--delete").arg("--force-delete");
    job.run().expect(0);
    (0..5).for_each(|n| fs::remove_file(tree.join(format!("f{n}"))).unwrap());
    job.run().expect(0);
    assert_eq!(server.keys("b"), [""; 0]);
    job.run().expect(0);
    fs::write(tree.join("new"), "x").unwrap();
    job.run().expect(0);
    assert_eq!(server.keys("b"), ["new"]);
}

/// A profile for each end of one bucket: the copy would find itself in the source, for ever.
#[test]
fn a_bucket_is_not_copied_into_itself_whoever_asks() {
    let server = fault_server(6);
    server.set_terms(Terms { access_key: None, ..Terms::default() });
    let scene = Scene::new(&server, Engine::all()[0]);
    server.put("b", "x", "x", &[]);
    fs::create_dir(scene.join(".aws")).unwrap();
    let profile = |name: &str| format!("[{name}]\naws_access_key_id={name}\naws_secret_access_key={SECRET_KEY}\n");
    fs::write(scene.join(".aws/credentials"), profile("reader") + &profile("writer")).unwrap();
    let job = |source: &str, dest: &str, state: &str| {
        let job = scene.job(source, dest, state).arg("--source-profile=reader").arg("--profile=writer");
        job.env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "")
    };
    for (source, dest) in [("s3://b", "s3://b/mirror"), ("s3://b/p", "s3://b"), ("s3://b", "s3://b")] {
        server.put("b", "p/y", "y", &[]);
        refused(job(source, dest, "inside").run(), &["the destination is, lies in, or holds the source"]);
        let written = format!("{}/", server.endpoint().to_uppercase().replace("HTTP", "http"));
        let other = job(source, dest, "inside").arg(format!("--source-endpoint-url={written}"));
        refused(other.run(), &["the destination is, lies in, or holds the source"]);
    }
    assert_eq!(server.keys("b"), ["p/y", "x"]);
    job("s3://b/p", "s3://b/q", "beside").run().expect(0);
    assert!(server.object("b", "q/y").is_some());
}

/// Temporary keys: each end has others, and both have them from the same place.
#[test]
fn the_server_copies_by_itself_for_keys_from_one_place() {
    let server = fault_server(7);
    server.make_bucket("c");
    server.set_terms(Terms { access_key: None, ..Terms::default() });
    let scene = Scene::new(&server, Engine::all()[0]);
    (0..10).for_each(|n| server.put("b", &format!("f{n}"), vec![b'x'; 10_000], &[]));
    let script = scene.join("keys");
    let secret = format!("\"SecretAccessKey\":\"{SECRET_KEY}\",\"SessionToken\":\"t\"");
    let told = format!(
        "echo '{{\"Version\":1,\"AccessKeyId\":\"ASIA'$$'\",{secret},\"Expiration\":\"2099-01-01T00:00:00Z\"}}'\n"
    );
    fs::write(&script, told).unwrap();
    fs::create_dir(scene.join(".aws")).unwrap();
    let process = format!("[default]\ncredential_process = /bin/sh {}\n", script.display());
    fs::write(scene.join(".aws/config"), format!("{process}[profile other]\n{}", &process[10..])).unwrap();
    let job = |dest: &str, state: &str| {
        let job = scene.job("s3://b", dest, state).arg("--storage-class=STANDARD_IA");
        job.env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "")
    };
    job("s3://c/one", "one").run().expect(0);
    let counts = server.counts();
    assert_eq!((counts.of(Kind::Copy), counts.of(Kind::Get), counts.body_in), (10, 0, 0), "{counts:?}");
    // Another profile may be another account: its objects pass through.
    server.reset_counts();
    job("s3://c/two", "two").arg("--source-profile=other").run().expect(0);
    let counts = server.counts();
    assert_eq!((counts.of(Kind::Copy), counts.of(Kind::Get), counts.body_in), (0, 10, 100_000), "{counts:?}");
}
