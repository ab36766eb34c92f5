//! Keys that were refused, in the runs that follow: refused again for as long as they are there, whatever else would be
//! found under the name they are recorded by; and what is beside them stays as it is.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::{Engine, Job};
use super::{Scene, fault_server};

/// Keys of a bucket that a file system cannot have, each with another one that it might be taken for, or that belongs
/// to it.
fn bad() -> Vec<(String, Option<&'static str>)> {
    let bad = [
        ("p//x", Some("p//")),
        ("p/a\nb", Some("p/a%0Ab")),
        ("p/nul\0l", Some("p/nul\\0l")),
        ("p/./dot", Some("p/")),
        ("p/..", None),
        ("p/clash", Some("p/clash/below")),
        ("p/dir/", Some("p/dir/below")),
    ];
    // The second is longer than a name of the catalog.
    let long = [256, 1_100].map(|len| (format!("p/{}", "n".repeat(len)), None));
    bad.map(|(key, other)| (key.to_owned(), other)).into_iter().chain(long).collect()
}

/// Paths of what the state calls failed, as they are shown.
fn failed(scene: &Scene, state: &str) -> Vec<String> {
    let mut report = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let output = report.arg("report").arg("--failed").arg("--state-dir").arg(scene.join(state)).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("failed: "));
    lines.map(|line| line.split(" (cannot").next().unwrap().to_owned()).collect()
}

fn put(server: &FaultServer, keys: &[&str]) {
    // No directory's object has content but the one that is to be refused.
    let is_marker = |key: &str| key.ends_with('/') && key != "p/dir/";
    keys.iter().for_each(|key| server.put("b", key, if is_marker(key) { "" } else { "content" }, &[]));
}

#[test]
fn what_is_refused_is_refused_again_until_it_is_gone() {
    for (key, other) in bad() {
        let key = key.as_str();
        for is_retried in [true, false] {
            let server = fault_server(1);
            server.set_page_max(2);
            put(&server, &["p/!", "p/good", "p/zz/good", key]);
            put(&server, &other.into_iter().collect::<Vec<_>>());
            let scene = Scene::new(&server, Engine::all()[0]);
            let back = scene.join("back");
            let job = scene.job("s3://b/p", &back, "state");
            let again = if is_retried { job.clone().arg("--retry-failed") } else { job.clone() };
            let first = job.run().expect(23);
            let refused = failed(&scene, "state");
            assert_eq!((first.number("failed"), refused.len()), (1, 1), "{key:?}: {refused:?} {first}");
            let arrived = || fs::read(back.join("good")).unwrap() == b"content" && back.join("zz/good").exists();
            for _ in 0..2 {
                let outcome = again.run().expect(23);
                assert_eq!((outcome.number("failed"), outcome.number("vanished")), (1, 0), "{key:?}: {outcome}");
                assert_eq!((failed(&scene, "state"), arrived()), (refused.clone(), true), "{key:?}: {outcome}");
            }
            // What comes into a directory that is listed for it comes along; what is left of the key counts no more.
            server.remove("b", key);
            if let Some(other) = other.filter(|other| key.starts_with(*other)) {
                server.remove("b", other);
            }
            put(&server, &["p/new"]);
            let outcome = again.run().expect(0);
            assert!(failed(&scene, "state").is_empty() && arrived(), "{key:?}: {outcome}");
            let is_listed = !is_retried || key != "p/dir/";
            assert_eq!(back.join("new").exists(), is_listed, "{key:?}: {outcome}");
            again.run().expect(0);
        }
    }
}

/// What the rules leave out by its name is no part of the job, whether a file system has such names or not.
#[test]
fn what_the_rules_leave_out_is_not_refused() {
    let long = format!("p/{}", "n".repeat(256));
    let server = fault_server(1);
    put(&server, &["p/good", "p/a\nb", &long, "p/clash", "p/clash/below", "p/./dot", "p/sub/a\nb"]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let back = scene.join("back");
    let rules =
        ["--include", "clash/", "--exclude", "clash", "--exclude", "/a*b", "--exclude", "nnn*", "--exclude", "."];
    let job = scene.job("s3://b/p", &back, "state").args(&rules);
    for tried in [job.clone().arg("--dry-run"), job.clone(), job.clone()] {
        let outcome = tried.run().expect(23);
        let told = outcome.stderr.matches("control characters").count();
        assert_eq!((told, outcome.stderr.matches("cannot").count()), (1, 1), "of another directory: {outcome}");
    }
    assert!(back.join("good").exists() && back.join("clash/below").exists());
    let job = scene.job("s3://b/p", &back, "other").args(&rules).args(&["--exclude", "sub/a*b"]);
    for tried in [job.clone().arg("--dry-run"), job.clone(), job] {
        let outcome = tried.run().expect(0);
        assert!(!outcome.says("cannot"), "{outcome}");
    }
    let verify = |rules: &[&str]| {
        let mut args = vec!["-source", "s3://b/p", "-dest", back.to_str().unwrap()];
        args.extend(rules);
        scene.verify(&args.into_iter().map(std::ffi::OsStr::new).collect::<Vec<_>>())
    };
    let (code, differences, said) = verify(&[&rules[..], &["--exclude", "sub/a*b"]].concat());
    assert_eq!((code, differences.len()), (0, 0), "{differences:?} {said}");
    // What cannot be compared is told, and the others are.
    fs::write(back.join("good"), "other").unwrap();
    let (code, differences, said) = verify(&rules);
    assert_eq!((code, said.matches("control characters").count()), (2, 1), "{differences:?} {said}");
    assert!(differences.contains_key("good"), "{differences:?} {said}");
}

/// Between two buckets an empty component is a name; `.` is that of a prefix's own object, and no key's.
#[test]
fn what_is_refused_between_buckets_is_refused_again_until_it_is_gone() {
    let long = format!("p/{}", "n".repeat(1_100));
    for key in ["p/./dot", "p/..", "p/nul\0l", &long] {
        let server = fault_server(1);
        server.make_bucket("c");
        put(&server, &["p/", "p/good", "p//empty", "p/nul\\0l", key]);
        let scene = Scene::new(&server, Engine::all()[0]);
        let job = scene.job("s3://b/p", "s3://c/q", "state");
        let retry = job.clone().arg("--retry-failed");
        job.run().expect(23);
        let refused = failed(&scene, "state");
        for _ in 0..2 {
            let outcome = retry.run().expect(23);
            assert_eq!((outcome.number("failed"), failed(&scene, "state")), (1, refused.clone()), "{key:?}: {outcome}");
        }
        let (code, differences, said) =
            scene.verify(&["-dest".as_ref(), "s3://c/q".as_ref(), "-state-dir".as_ref(), scene.join("state").as_ref()]);
        let names: Vec<_> = differences.into_values().collect();
        assert_eq!((code, names), (1, vec!["missing".to_owned()]), "{key:?}: {said}");
        server.remove("b", key);
        retry.run().expect(0);
        assert_eq!((failed(&scene, "state").len(), server.keys("c").len()), (0, 4), "{key:?}");
    }
}

/// Nothing is listed of a prefix that is gone, nor made for it.
#[test]
fn what_is_refused_goes_with_its_directory() {
    let server = fault_server(1);
    put(&server, &["p/good", "p/d//x", "p/d/e/y\ny"]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let job = scene.job("s3://b/p", scene.join("back"), "state");
    job.run().expect(23);
    ["p/d//x", "p/d/e/y\ny"].iter().for_each(|key| server.remove("b", key));
    fs::remove_dir_all(scene.join("back/d")).unwrap();
    job.run().expect(0);
    let outcome = job.clone().arg("--retry-failed").run().expect(0);
    assert!(failed(&scene, "state").is_empty() && !scene.join("back/d").exists(), "{outcome}");
}

/// A retry lists the directory of a refused key; what goes on with it lists the rest of that, once.
#[test]
fn a_retry_that_was_cut_short_is_gone_on_with() {
    let server = fault_server(1);
    server.set_page_max(2);
    let keys: Vec<String> = (0..10).map(|n| format!("p/d{n}")).collect();
    put(&server, &keys.iter().map(String::as_str).chain(["p/zz\nq"]).collect::<Vec<_>>());
    let scene = Scene::new(&server, Engine::all()[0]);
    let job = scene.job("s3://b/p", scene.join("back"), "state").arg("--checkpoint-interval=0.1");
    job.run().expect(23);
    server.reset_counts();
    // The first answer says whether there is anything at all.
    server.script(Rule::new(Fault::StallMs(400)).on(&[Kind::List]).after(1));
    let running = job.clone().arg("--retry-failed").start();
    assert!(running.run_until(|_| server.counts().of(Kind::List) == 5), "ended too soon");
    running.kill();
    server.heal();
    // Its names come up once.
    let outcome = job.run().expect(23);
    assert!((4..10).contains(&outcome.number("unchanged")), "{outcome}");
    assert_eq!((outcome.number("failed"), failed(&scene, "state").len()), (1, 1), "{outcome}");
    job.arg("--retry-failed").run().expect(23);
}

/// A directory that is listed for a refused key brings what else has failed in it: once.
#[test]
fn what_failed_beside_a_refused_key_is_tried_once() {
    let server = fault_server(1);
    put(&server, &["p/!", "p/good", "p/z", "p/a\nb", "p/a", "p/a/x"]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let job = scene.job("s3://b/p", scene.join("back"), "state");
    for key in ["p/!", "p/z"] {
        server.script(Rule::new(Fault::Refuse { status: 403, code: "AccessDenied" }).on(&[Kind::Get]).key(key));
    }
    let first = job.run().expect(23);
    let outcome = job.clone().arg("--retry-failed").run().expect(23);
    assert_eq!((first.number("failed"), outcome.number("failed")), (4, 4), "{outcome}");
    server.heal();
    let outcome = job.arg("--retry-failed").run().expect(23);
    assert_eq!((outcome.number("failed"), outcome.number("copied")), (2, 2), "{outcome}");
    assert_eq!(failed(&scene, "state").len(), 2);
}

/// Names that are not POSIX's are as missing at the destination as they are in the record.
#[test]
fn what_was_refused_is_missing_to_a_comparison_with_the_record() {
    let server = fault_server(1);
    put(&server, &["p/good", "p//x", "p/etc", "p/etc/below", "p/a\nb"]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let back = scene.join("back");
    scene.job("s3://b/p", &back, "state").run().expect(23);
    let state = scene.join("state");
    let (code, differences, said) =
        scene.verify(&["-dest".as_ref(), back.as_ref(), "-state-dir".as_ref(), state.as_ref()]);
    let missing: Vec<_> =
        differences.into_iter().filter(|(_, aspects)| aspects == "missing").map(|(path, _)| path).collect();
    assert_eq!((code, missing.len()), (1, 3), "{missing:?} {said}");
    assert_eq!(failed(&scene, "state").len(), 3);
}

/// A bucket with an object and a prefix of one name, and prefixes that wait for one that is not listed.
fn clash(server: &FaultServer, scene: &Scene, held: &str) -> Job {
    put(server, &["p/a", "p/a/x", "p/b/x", "p/c/x"]);
    server.script(Rule::new(Fault::StallMs(60_000)).on(&[Kind::List]).key(held));
    scene.job("s3://b/p", scene.join("back"), "state").arg("--checkpoint-interval=0.1")
}

/// Kills a run once all that is not held is done and recorded.
fn kill(job: &Job, server: &FaultServer, done: &Path) {
    let running = job.start();
    assert!(running.run_until(|_| done.exists()) && running.run_for(Duration::from_millis(800)), "ended too soon");
    running.kill();
    server.heal();
}

#[test]
fn a_key_that_is_a_prefix_too_is_no_file_to_a_resume() {
    for engine in Engine::all() {
        let server = fault_server(1);
        let scene = Scene::new(&server, engine);
        let job = clash(&server, &scene, "p/a/");
        kill(&job, &server, &scene.join("back/b/x"));
        // Listed long after what a resume begins with.
        server.script(Rule::new(Fault::StallMs(500)).on(&[Kind::List]).key("p/a/").times(1));
        let outcome = job.run().expect(23);
        assert_eq!(fs::read(scene.join("back/a/x")).unwrap_or_default(), b"content", "{outcome}");
        assert_eq!(failed(&scene, "state"), ["a"], "{outcome}");
    }
}

#[test]
fn a_prefix_stays_where_a_key_of_its_name_is_refused() {
    for engine in Engine::all() {
        let server = fault_server(1);
        let scene = Scene::new(&server, engine);
        let plain = clash(&server, &scene, "p/c/");
        let job = plain.clone().arg("--delete");
        kill(&job, &server, &scene.join("back/a/x"));
        let copied = || fs::read(scene.join("back/a/x")).unwrap_or_default() == b"content";
        let outcome = job.run().expect(23);
        assert!(copied() && scene.join("back/c/x").exists(), "{outcome}");
        let outcome = plain.arg("--retry-failed").run().expect(23);
        assert!(copied(), "{outcome}");
        // It is gone into like any other.
        fs::write(scene.join("back/a/extra"), "x").unwrap();
        let outcome = job.run().expect(23);
        assert!(copied() && !scene.join("back/a/extra").exists(), "{outcome}");
    }
}

/// What lies below a prefix is looked up in the catalog in each pass, whatever its name's object is refused for.
#[test]
fn what_is_beside_a_refused_key_costs_no_request_of_its_own() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    put(&server, &["p/a", "p/a/x", "p/a/y", "p/a/sub/z"]);
    let job = scene.job("s3://b/p", scene.join("back"), "state");
    for pass in 0..4 {
        server.reset_counts();
        let outcome = job.run().expect(23);
        let counts = server.counts();
        let asked = (counts.of(Kind::Head), counts.of(Kind::Get));
        assert!(pass == 0 || asked == (0, 0), "pass {pass}: {asked:?} {outcome}");
    }
}

/// A directory's copy is in nobody's way once the source has keys below its name, too.
#[test]
fn a_directory_that_comes_to_the_source_while_its_name_is_cleared_stays() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    put(&server, &["p/a", "p/b/slow"]);
    fs::create_dir_all(scene.join("back/a")).unwrap();
    fs::write(scene.join("back/a/x"), "before").unwrap();
    server.script(Rule::new(Fault::StallMs(2_000)).on(&[Kind::Get]).key("slow"));
    let running = scene.job("s3://b/p", scene.join("back"), "state").arg("--delete").start();
    assert!(running.run_until(|_| server.counts().of(Kind::Get) == 2) && running.run_for(Duration::from_millis(300)));
    put(&server, &["p/a/x"]);
    let outcome = running.wait().expect(23);
    assert!(scene.join("back/a/x").exists(), "{outcome}");
}
