//! Uploads that nothing will go on with: the job's own are given up, whatever became of their source; others stay.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::fault::{Checksums, Fault, FaultServer, Kind, Rule};
use super::support::fixture::{has, must, skip, traced};
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
    interrupt_as(server, scene, prefix, prefix)
}

/// The same by the job that has its state in `state`.
fn interrupt_as(server: &FaultServer, scene: &Scene, prefix: &str, state: &str) -> Job {
    server.reset_counts();
    server.script(Rule::new(Fault::StallMs(100)).on(&[Kind::PutPart]));
    let job = scene.job(scene.join("tree"), format!("s3://b/{prefix}"), state).arg("--checkpoint-interval=0.1");
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

/// A file that is another by now is uploaded, also where the server keeps what was there of the one before.
#[test]
fn an_upload_that_is_kept_does_not_hold_up_the_file() {
    let (server, scene, job) = interrupted("p");
    noise(&scene.join("tree/large"), &mut Rng::new(3), LARGE - 1000);
    server.script(Rule::new(Fault::Refuse { status: 403, code: "AccessDenied" }).on(&[Kind::Abort]));
    let outcome = job.run().expect(0);
    assert_eq!(outcome.number("uploads_left"), 1, "{outcome}");
    assert!(server.object("b", "p/large").unwrap().body == fs::read(scene.join("tree/large")).unwrap());
    server.heal();
    assert_eq!(job.run().expect(0).number("uploads_left"), 0);
    assert_eq!(keys_of_uploads(&server), [""; 0]);
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

/// Killed after the server has begun the upload and before its id was read: it has no parts, and is told. Other clients
/// have begun uploads of the same object since: nothing tells one without parts from ours, so none is given up.
#[test]
fn an_upload_whose_id_was_never_read_is_told_and_nobody_else_s_is_given_up() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    noise(&scene.dir("tree").join("large"), &mut Rng::new(1), LARGE);
    server.script(Rule::new(Fault::LostAnswer).on(&[Kind::CreateUpload]).times(1));
    server.script(Rule::new(Fault::StallMs(60_000)).on(&[Kind::CreateUpload]));
    let job = scene.job(scene.join("tree"), "s3://b/p", "p");
    let running = job.start();
    assert!(running.run_until(|_| keys_of_uploads(&server).contains(&"p/large".to_owned())), "ended too soon");
    running.kill();
    server.heal();
    server.begin_upload("b", "p/large");
    interrupt_as(&server, &scene, "p", "stranger");
    fs::write(scene.join("tree/new"), "x").unwrap();
    let outcome = job.run().expect(0);
    assert_eq!(keys_of_uploads(&server), ["p/large"; 3], "ours, and two of other clients");
    assert_eq!(outcome.number("uploads_left"), 2, "{outcome}");
    assert!(outcome.says("s3://b/p/large: an upload without parts, of this job or another client's"), "{outcome}");
    assert!(server.object("b", "p/large").unwrap().body == fs::read(scene.join("tree/large")).unwrap());
    assert_eq!(job.run().expect(0).number("uploads_left"), 0, "told once");
}

/// The answer of a request that begins an upload is lost, and it is sent again within the run: there are two of them,
/// and one without parts is told.
#[test]
fn an_upload_that_was_begun_twice_is_told() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    noise(&scene.dir("tree").join("large"), &mut Rng::new(1), LARGE);
    // Another client is about to write the same object, and has sent parts of it.
    interrupt(&server, &scene, "p");
    server.script(Rule::new(Fault::LostAnswer).on(&[Kind::CreateUpload]).times(1));
    server.reset_counts();
    let outcome = scene.job(scene.join("tree"), "s3://b/p", "other").run().expect(0);
    assert_eq!((server.counts().of(Kind::CreateUpload), outcome.number("uploads_left")), (2, 1), "{outcome}");
    let mut left: Vec<_> = server.uploads().into_iter().map(|upload| upload.parts.is_empty()).collect();
    left.sort_unstable();
    assert_eq!(left, [false, true], "the other client's, and the one that was begun first");
    assert!(server.object("b", "p/large").unwrap().body == fs::read(scene.join("tree/large")).unwrap());
}

/// Killed at each write to the catalog, while commits take so long that everything that does not wait for them goes on:
/// the catalog knows an upload's id before the server has a part of it, so a resume leaves nothing that is stored.
#[test]
fn an_upload_that_has_a_part_is_known_by_its_id() {
    let test = "an_upload_that_has_a_part_is_known_by_its_id";
    if !(has("strace") || skip(test, "no strace")) {
        return;
    }
    for write in 1.. {
        let server = fault_server(write);
        let scene = Scene::new(&server, Engine::all()[0]);
        noise(&scene.dir("tree").join("large"), &mut Rng::new(1), LARGE);
        let slow = "-e inject=fdatasync:delay_enter=200000";
        let kill = format!("-e inject=pwrite64:signal=KILL:when={write}");
        let wrapper = traced(&scene.scratch, &format!("-o /dev/null -e trace=fdatasync,pwrite64 {slow} {kill}"));
        let job = scene.job(scene.join("tree"), "s3://b/p", "state");
        if job.clone().within(&wrapper).run().code() == Some(0) {
            assert!(write > 6, "the job ends after {write} writes");
            return;
        }
        job.run().expect(0);
        let parts: Vec<_> = server.uploads().into_iter().map(|upload| upload.parts.len()).collect();
        assert!(parts.iter().all(|count| *count == 0), "killed at write {write}: {parts:?} parts left");
    }
}

/// A new mode is new metadata: nothing is sent but that, unless the content is another one, too.
#[test]
fn a_new_ctime_alone_sends_no_content() {
    for engine in Engine::all() {
        let server = fault_server(2);
        let scene = Scene::new(&server, engine);
        let tree = scene.dir("tree");
        noise(&tree.join("large"), &mut Rng::new(1), LARGE);
        ["small", "edited", "empty"].iter().for_each(|name| noise(&tree.join(name), &mut Rng::new(2), 70_000));
        File::create(tree.join("empty")).unwrap();
        let job = scene.job(&tree, "s3://b/p", "state");
        job.run().expect(0);
        for name in ["large", "small", "edited", "empty"] {
            fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o751)).unwrap();
        }
        let time = fs::metadata(tree.join("edited")).unwrap().modified().unwrap();
        let edited = File::options().write(true).open(tree.join("edited")).unwrap();
        edited.write_all_at(b"edited", 7).unwrap();
        edited.set_modified(time).unwrap();
        server.reset_counts();
        let outcome = job.run().expect(0);
        let counts = server.counts();
        assert_eq!((counts.of(Kind::Copy), counts.of(Kind::CreateUpload), counts.body_in), (3, 0, 70_000), "{outcome}");
        assert_eq!((outcome.number("metadata_only"), outcome.number("copied")), (3, 1), "{outcome}");
        for name in ["large", "small", "edited", "empty"] {
            let object = server.object("b", &format!("p/{name}")).unwrap();
            assert_eq!(object.attributes["file-permissions"], "0100751", "{name}");
            assert!(object.body == fs::read(tree.join(name)).unwrap(), "{name}");
        }
        server.reset_counts();
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("metadata_only")), (0, 0), "{outcome}");
        // A server that copies nothing gets the content again.
        fs::set_permissions(tree.join("small"), fs::Permissions::from_mode(0o600)).unwrap();
        server.script(Rule::new(Fault::Refuse { status: 501, code: "NotImplemented" }).on(&[Kind::Copy]));
        assert_eq!(job.run().expect(0).number("copied"), 1);
        assert_eq!(server.object("b", "p/small").unwrap().attributes["file-permissions"], "0100600");
    }
}

/// A hard link whose first name lies outside of what is restored, and is larger than one request.
#[test]
fn a_large_object_that_a_link_names_comes_in_ranges() {
    let server = fault_server(3);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    ["x", "y"].iter().for_each(|dir| fs::create_dir(tree.join(dir)).unwrap());
    noise(&tree.join("x/large"), &mut Rng::new(1), LARGE);
    fs::hard_link(tree.join("x/large"), tree.join("y/large")).unwrap();
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    let is_link = |dir: &&str| server.object("b", &format!("p/{dir}/large")).unwrap().body.is_empty();
    let dir = ["x", "y"].into_iter().find(is_link).unwrap();
    server.reset_counts();
    let back = scene.join("back");
    scene.job(format!("s3://b/p/{dir}"), &back, "down").run().expect(0);
    assert!(server.counts().of(Kind::Get) >= LARGE / PART_BYTES, "{:?}", server.counts());
    assert!(fs::read(back.join("large")).unwrap() == fs::read(tree.join("x/large")).unwrap());
}

/// The report of a job with a bucket: of both sides' checksums, those that are known.
#[test]
fn a_report_tells_the_checksums_of_both_sides() {
    let server = fault_server(4);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    noise(&tree.join("file"), &mut Rng::new(1), 9000);
    noise(&tree.join("bad"), &mut Rng::new(2), 9000);
    server.script(Rule::new(Fault::Refuse { status: 403, code: "AccessDenied" }).on(&[Kind::Put]).key("bad"));
    scene.job(&tree, "s3://b/up", "state").run().expect_one_of(&[11, 23]);
    server.heal();
    scene.job(&tree, "s3://b/up", "state").run().expect(0);
    scene.job(&tree, "s3://b/other", "state").run().expect(0);
    scene.job("s3://b/up", scene.join("back"), "down").run().expect(0);
    let report = |state: &str, words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.args(["report", "-format", "ndjson", "-state-dir"]).arg(scene.join(state)).args(words);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find(|line| line.contains("\"path\":\"file\"")).unwrap().to_owned()
    };
    let value = |line: &str, key: &str| {
        let rest = line.split_once(&format!("\"{key}\":")).unwrap().1;
        rest.split([',', '}']).next().unwrap().to_owned()
    };
    let up = report("state", &["-dest", "s3://b/up"]);
    assert!(value(&up, "crc64").len() == 18 && value(&up, "dest_crc64") == value(&up, "crc64"), "{up}");
    assert_eq!((value(&up, "level"), value(&up, "outcome")), ("\"server\"".into(), "\"completed\"".into()), "{up}");
    // What came is what the server says of the object; what the file system holds was not read.
    let down = report("down", &[]);
    assert_eq!((value(&down, "crc64"), value(&down, "dest_crc64")), (value(&up, "crc64"), "null".into()), "{down}");
}

/// The memory of a ring counts against RLIMIT_MEMLOCK of an ordinary user (Linux 6.18). Lanes that get none have
/// threads read their files, and one of them says so.
#[test]
fn lanes_without_memory_for_a_ring_go_on_with_threads() {
    const NOBODY: u32 = 65_534;
    let test = "lanes_without_memory_for_a_ring_go_on_with_threads";
    if !has("setpriv") {
        skip(test, "no setpriv");
        return;
    }
    if Engine::all().len() == 1 {
        return;
    }
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::Uring);
    noise(&scene.dir("tree").join("large"), &mut Rng::new(1), 20 << 20);
    must(Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(scene.scratch.path()));
    let before = getrlimit(Resource::Memlock);
    // Of this process, and so of those that it starts; root's rings do not count.
    setrlimit(Resource::Memlock, Rlimit { current: Some(8 << 10), ..before }).unwrap();
    let outcome = scene.job(scene.join("tree"), "s3://b/p", "up").user(NOBODY).run();
    setrlimit(Resource::Memlock, before).unwrap();
    let outcome = outcome.expect(0);
    assert!(server.object("b", "p/large").expect("it was sent").body == fs::read(scene.join("tree/large")).unwrap());
    let lines = outcome.stderr.lines().filter(|line| line.contains("plain system calls")).count();
    assert!(lines <= 1, "said once: {outcome}");
}

/// Killed when the server had put the parts together, and nothing was recorded of it: the object is known again, and
/// not sent again; another one in its place is.
#[test]
fn an_upload_that_was_completed_is_not_sent_again() {
    // By an object of other content, or by one that says nothing of the file.
    let replaced = [None, None, Some(b'x'), Some(b'=')];
    let checksums = [Checksums::Stored, Checksums::Ignored, Checksums::Stored, Checksums::Stored];
    for (checksums, replaced) in checksums.into_iter().zip(replaced) {
        for is_up in [true, false] {
            let (server, other) = (fault_server(1), fault_server(2));
            let scene = Scene::new(&server, Engine::all()[0]);
            let tree = scene.dir("tree");
            noise(&tree.join("large"), &mut Rng::new(1), LARGE - 77);
            let content = fs::read(tree.join("large")).unwrap();
            let job = match is_up {
                true => scene.job(&tree, "s3://b/p", "state"),
                false => {
                    other.put("b", "p/large", content.clone(), &[("file-mtime", "1234567890")]);
                    let job = scene.job("s3://b/p", "s3://b/p", "state");
                    job.arg(format!("--source-endpoint-url={}", other.endpoint()))
                }
            };
            server.set_checksums(checksums);
            // Done, and answered too late.
            server.script(Rule::new(Fault::StallBodyMs(1, 60_000)).on(&[Kind::Complete]));
            let running = job.clone().arg("--checkpoint-interval=0.1").start();
            assert!(running.run_until(|_| server.object("b", "p/large").is_some()), "ended too soon");
            // By then every part is recorded.
            assert!(running.run_for(Duration::from_millis(1500)), "ended too soon");
            running.kill();
            server.heal();
            match replaced {
                Some(b'=') => server.put("b", "p/large", content.clone(), &[]),
                Some(byte) => server.put("b", "p/large", vec![byte; content.len()], &[]),
                None => {}
            }
            server.reset_counts();
            let outcome = job.run().expect(0);
            let sent = server.counts().body_in;
            let (least, most) = if replaced.is_some() { (LARGE - 77, LARGE + 10_000) } else { (0, 10_000) };
            assert!((least..=most).contains(&sent), "{checksums:?} {replaced:?} {is_up}: {sent} bytes sent: {outcome}");
            assert_eq!(outcome.number("copied"), 1, "{outcome}");
            let proved = if checksums == Checksums::Stored { "proved_by_server" } else { "proved_by_length" };
            assert!(outcome.number(proved) >= 1, "{outcome}");
            let stored = server.object("b", "p/large").unwrap();
            assert!(stored.body == content && stored.attributes.contains_key("file-mtime"));
            assert!(server.uploads().is_empty());
            let outcome = job.run().expect(0);
            assert_eq!((outcome.number("copied"), server.counts().body_in), (0, sent), "{outcome}");
        }
    }
}
