//! What bad input gets: refused before anything moves, or the object's own failure, and never a secret in the answer.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::support::fault::{Fault, FaultServer, Kind, Rule, Terms};
use super::support::fixture::skip;
use super::support::s3::S3sFs;
use super::support::{Comparison, Engine, Outcome, Rng};
use super::{SECRET_KEY, Scene, fault_server, noise, plain_tree};

/// One clear line, before anything moved: exit 2, nothing in the bucket.
#[track_caller]
fn refused(outcome: Outcome, words: &[&str]) {
    let outcome = outcome.expect(2);
    let errors: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("gfast:")).collect();
    assert!(errors.len() == 1 && words.iter().all(|word| outcome.says(word)), "{words:?} expected: {outcome}");
}

fn small_scene(server: &FaultServer) -> Scene {
    let scene = Scene::new(server, Engine::all()[0]);
    noise(&scene.dir("tree").join("f"), &mut Rng::new(1), 100);
    scene
}

#[test]
fn wrong_credentials_are_refused() {
    let server = fault_server(1);
    let scene = small_scene(&server);
    let wrong = |source: &str, dest: &str| scene.job(source, dest, "wrong").env("AWS_ACCESS_KEY_ID", "AKIAOTHER").run();
    let tree = scene.join("tree");
    refused(wrong(tree.to_str().unwrap(), "s3://b/p"), &["s3://b"]);
    refused(wrong("s3://b/p", scene.join("back").to_str().unwrap()), &["s3://b"]);
    assert!(server.keys("b").is_empty() && !scene.join("back").exists());
    let dir = super::Scratch::new();
    let real = S3sFs::start(dir.path());
    real.bucket("bucket");
    let scene = Scene::with(real.endpoint(), real.access_key(), "not-the-secret", scene.engine);
    noise(&scene.dir("tree").join("f"), &mut Rng::new(1), 100);
    refused(scene.job(scene.join("tree"), "s3://bucket/p", "state").run(), &["s3://bucket"]);
}

#[test]
fn no_credentials_at_all_are_refused() {
    let server = fault_server(1);
    let scene = small_scene(&server);
    let job = scene.job(scene.join("tree"), "s3://b/p", "state");
    refused(job.env("AWS_ACCESS_KEY_ID", "").env("AWS_SECRET_ACCESS_KEY", "").run(), &["credentials"]);
}

#[test]
fn a_missing_bucket_is_refused() {
    let server = fault_server(1);
    let scene = small_scene(&server);
    refused(scene.job(scene.join("tree"), "s3://nosuch/p", "state").run(), &["nosuch"]);
    refused(scene.job("s3://nosuch/p", scene.join("back"), "down").run(), &["nosuch"]);
}

#[test]
fn an_unreachable_endpoint_is_refused() {
    let server = fault_server(1);
    let scene = small_scene(&server);
    drop(server);
    refused(scene.job(scene.join("tree"), "s3://b/p", "state").run(), &["s3://b"]);
}

#[test]
fn the_bucket_s_region_is_followed() {
    let server = fault_server(1);
    server.set_terms(Terms { region: Some("eu-west-3".to_owned()), ..Terms::default() });
    let scene = small_scene(&server);
    scene.job(scene.join("tree"), "s3://b/p", "state").run().expect(0);
    assert!(server.object("b", "p/f").is_some());
}

#[test]
fn a_clock_that_is_wrong_is_put_right() {
    let server = fault_server(1);
    server.set_terms(Terms { clock_ahead_secs: 2 * 3600, ..Terms::default() });
    let scene = small_scene(&server);
    scene.job(scene.join("tree"), "s3://b/p", "state").run().expect(0);
    assert!(server.object("b", "p/f").is_some());
}

/// A policy that allows the keys below one prefix and nothing else: no question about the bucket, no other listing.
#[test]
fn an_account_that_may_see_one_prefix_only_copies_below_it() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    plain_tree(&scene.dir("tree"), 31, 12, 2 * super::PART_BYTES);
    noise(&scene.join("tree/a+b %41"), &mut Rng::new(1), 100);
    for prefix in ["home/me/", "home/m+e%41/"] {
        let denied = Fault::Refuse { status: 403, code: "AccessDenied" };
        server.heal();
        server.script(Rule::new(denied).outside(prefix));
        let location = format!("s3://b/{prefix}");
        let state = |way: &str| format!("{way}-{}", prefix.len());
        for _pass in 0..2 {
            scene.job(scene.join("tree"), &location, &state("up")).run().expect(0);
        }
        let back = scene.join(&state("back"));
        scene.job(location.trim_end_matches('/'), &back, &state("down")).run().expect(0);
        Comparison::new(&scene.join("tree"), &back).assert_same();
        let one = scene.join(&state("one"));
        scene.job(format!("{location}file-0"), &one, &state("single")).run().expect(0);
        assert!(fs::read(&one).unwrap() == fs::read(scene.join("tree/file-0")).unwrap());
        refused(scene.job(scene.join("tree"), "s3://b/other", &state("other")).run(), &["not allowed", "AccessDenied"]);
    }
}

#[test]
fn a_key_over_1024_bytes_fails_its_object_alone() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    let name = "n".repeat(250);
    let deep = tree.join(&name).join(&name).join(&name).join(&name);
    fs::create_dir_all(&deep).unwrap();
    let mut rng = Rng::new(1);
    noise(&deep.join("f".repeat(100)), &mut rng, 10);
    noise(&deep.join("short"), &mut rng, 10);
    noise(&tree.join("other"), &mut rng, 10);
    let outcome = scene.job(&tree, "s3://b/p", "state").run().expect(23);
    assert!(outcome.says("1024") || outcome.says("1,024"), "{outcome}");
    let keys = server.keys("b");
    assert!(keys.contains(&"p/other".to_owned()) && keys.iter().any(|key| key.ends_with("/short")), "{keys:?}");
    assert!(keys.iter().all(|key| key.len() <= 1024));
}

/// Keys that name no POSIX path are refused one by one; the rest comes down and nothing is written outside.
#[test]
fn keys_that_lead_out_of_the_tree_are_refused() {
    let server = fault_server(1);
    let long = format!("p/long/{}", "n".repeat(256));
    let bad = ["p/../escape", "p/a/../../escape", "p/./dot", "p/..", "p/a//b", "p//x", "p/nul\0l", &long, "p/clash"];
    for key in bad {
        server.put("b", key, "bad", &[]);
    }
    server.put("b", "p/clash/below", "fine or refused", &[]);
    for key in ["p/good", "p/a/good", "p/...", "p/.hidden", "p/a b&<>\"'"] {
        server.put("b", key, key.to_owned(), &[]);
    }
    let scene = Scene::new(&server, Engine::all()[0]);
    let (outside, back) = (scene.dir("outside"), scene.join("outside/back"));
    fs::create_dir(&back).unwrap();
    let outcome = scene.job("s3://b/p", &back, "down").run().expect(23);
    for name in ["good", "a/good", "...", ".hidden", "a b&<>\"'"] {
        let content = fs::read_to_string(back.join(name));
        assert_eq!(content.unwrap_or_default(), format!("p/{name}"), "{name}: {outcome}");
    }
    let around: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(around, ["back"], "written outside the destination");
    assert!(!back.join("escape").exists() && !back.join("dot").exists() && !back.join("x").exists());
    assert!(outcome.number("failed") >= 8, "{outcome}");
    let again = scene.job("s3://b/p", &back, "down").run().expect(23);
    assert!(again.number("failed") >= 8, "a repeated job refuses them again: {again}");
}

/// Some servers take `/x` for `x`: such keys are neither asked for nor made.
#[test]
fn a_slash_at_the_start_of_a_key_is_refused() {
    let server = fault_server(1);
    let scene = small_scene(&server);
    for (source, dest) in [("tree", "s3://b//p"), ("tree", "s3://b//")] {
        refused(scene.job(scene.join(source), dest, "up").run(), &["empty at its start"]);
    }
    refused(scene.job("s3://b//p", scene.join("back"), "down").run(), &["empty at its start"]);
    assert!(server.keys("b").is_empty() && !scene.join("back").exists());
    server.put("b", "/x", "stripped", &[]);
    server.put("b", "x", "as it is", &[]);
    let outcome = scene.job("s3://b", scene.join("back"), "all").run().expect(23);
    assert_eq!(outcome.number("failed"), 1, "{outcome}");
    assert_eq!(fs::read(scene.join("back/x")).unwrap(), b"as it is");
}

/// An object's metadata asks for no more than the job allows: set-id bits only with `--special-bits`.
#[test]
fn set_id_bits_come_down_only_when_asked_for() {
    let server = fault_server(1);
    let mtime = ("file-mtime", "1500000000000000000ns");
    server.put("b", "p/su", "x", &[("file-permissions", "0104755"), ("file-owner", "0"), ("file-group", "0"), mtime]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let mode = |name: &str| fs::metadata(scene.join(name).join("su")).unwrap().mode() & 0o7777;
    scene.job("s3://b/p", scene.join("plain"), "plain").run().expect(0);
    assert_eq!(mode("plain"), 0o755);
    scene.job("s3://b/p", scene.join("special"), "special").arg("--special-bits").run().expect(0);
    assert_eq!(mode("special"), 0o4755);
}

/// Whoever may write to the bucket opens no disk of this machine: device nodes come with `--special-bits` only. FIFOs
/// do in any case.
#[test]
fn device_nodes_come_down_only_when_asked_for() {
    let test = "device_nodes_come_down_only_when_asked_for";
    if !rustix::process::geteuid().is_root() {
        skip(test, "device nodes need root");
        return;
    }
    let server = fault_server(1);
    let mtime = ("file-mtime", "1500000000000000000ns");
    let put =
        |name: &str, pairs: &[(&str, &str)]| server.put("b", &format!("p/{name}"), "", &[pairs, &[mtime]].concat());
    put("disk", &[("file-permissions", "0060666"), ("gfast-rdev", "2048"), ("gfast-links", "2")]);
    put("disk-too", &[("gfast-link", "p/disk")]);
    put("memory", &[("file-permissions", "0020666"), ("gfast-rdev", "257")]);
    put("of-rclone", &[("mode", "60666"), ("rdev", "2048")]);
    put("fifo", &[("file-permissions", "0010644")]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let names = |dir: &str| {
        let entries = fs::read_dir(scene.join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let plain = scene.job("s3://b/p", scene.join("plain"), "state");
    let outcome = plain.run().expect(0);
    assert_eq!(names("plain"), ["fifo"], "{outcome}");
    assert_eq!(outcome.number("device_node"), 4, "{outcome}");
    assert!(outcome.says("--special-bits"), "{outcome}");
    // They are asked for once more, and lost once more.
    assert_eq!(plain.run().expect(0).number("device_node"), 4);
    let back = scene.join("plain");
    let (code, differences, said) =
        scene.verify(&["-source".as_ref(), "s3://b/p".as_ref(), "-dest".as_ref(), back.as_os_str()]);
    assert_eq!((code, differences.len()), (0, 0), "{said}");
    scene.job("s3://b/p", scene.join("strict"), "state-strict").arg("--strict").run().expect(23);
    assert_eq!(names("strict"), ["fifo"]);
    scene.job("s3://b/p", scene.join("special"), "state-special").arg("--special-bits").run().expect(0);
    assert_eq!(names("special"), ["disk", "disk-too", "fifo", "memory", "of-rclone"]);
    let disk = fs::metadata(scene.join("special/disk-too")).unwrap();
    assert_eq!((disk.mode(), disk.rdev()), (0o060_666, 2048));
}

#[test]
fn metadata_that_lies_does_no_harm() {
    let server = fault_server(1);
    let link = [("file-permissions", "0120777"), ("file-mtime", "999999999999999999999999ns"), ("file-owner", "-1")];
    server.put("b", "p/link", "../../../../etc/passwd", &link);
    server.put("b", "p/link/below", "x", &[]);
    server.put("b", "p/name", "x", &[("gfast-name", "Li4vZXNjYXBl")]);
    server.put("b", "p/hard", "", &[("gfast-link", "../../../etc/shadow")]);
    server.put("b", "p/mode", "x", &[("file-permissions", "lots")]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let (outside, back) = (scene.dir("outside"), scene.join("outside/back"));
    let outcome = scene.job("s3://b/p", &back, "down").run().expect_one_of(&[0, 23]);
    let around: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(around, ["back"], "{outcome}");
    assert!(!back.join("hard").exists() || fs::metadata(back.join("hard")).unwrap().len() == 0);
}

/// Keys of other tools that look like escaped names come down as what they would stand for, which is said: as one name,
/// that all parts of gfast agree about. What no name is escaped to is the name itself.
#[test]
fn keys_that_look_escaped_come_down_as_the_names_they_would_stand_for() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    for key in ["caf%E9.txt", "log%0A1", "x%00y", "100%", "caf%C3%A9"] {
        server.put("b", &format!("p/{key}"), key.to_owned(), &[]);
    }
    let back = scene.join("back");
    let job = scene.job("s3://b/p", &back, "state");
    let outcome = job.run().expect(0);
    let contents: [(&[u8], &str); 5] = [
        (b"caf\xe9.txt", "caf%E9.txt"),
        (b"log\n1", "log%0A1"),
        (b"x%00y", "x%00y"),
        (b"100%", "100%"),
        (b"caf%C3%A9", "caf%C3%A9"),
    ];
    for (name, content) in contents {
        assert_eq!(fs::read(back.join(OsStr::from_bytes(name))).unwrap(), content.as_bytes(), "{outcome}");
    }
    let lines = outcome.stderr.lines().filter(|line| line.contains("gfast-name")).count();
    assert_eq!(lines, 1, "{outcome}");
    let (code, differences, said) =
        scene.verify(&["-source".as_ref(), "s3://b/p".as_ref(), "-dest".as_ref(), back.as_os_str()]);
    assert_eq!((code, differences.len()), (0, 0), "{said}");
    let outcome = job.arg("--delete").run().expect(0);
    assert_eq!((outcome.number("copied"), outcome.number("removed")), (0, 0), "{outcome}");
    // What gfast has escaped itself says so.
    scene.job(&back, "s3://b/q", "up").run().expect(0);
    let outcome = scene.job("s3://b/q", scene.join("again"), "down").run().expect(0);
    assert!(!outcome.says("gfast-name"), "{outcome}");
    Comparison::new(&back, &scene.join("again")).assert_same();
}

/// No secret in any output, log or state, whatever happens: good runs, failing requests, refused credentials.
#[test]
fn no_secret_is_ever_seen() {
    let token = "canary-session-token-4711";
    for rule in [
        None,
        Some(Rule::new(Fault::Refuse { status: 403, code: "AccessDenied" }).on(&[Kind::Put, Kind::PutPart]).times(40)),
        // Silence is waited out: a few times are enough here.
        Some(Rule::new(Fault::ResetAnswer(0)).on(&[Kind::List, Kind::HeadBucket]).times(7)),
        Some(Rule::new(Fault::OkWithError("InternalError")).on(&[Kind::Complete, Kind::CreateUpload]).times(40)),
        Some(Rule::new(Fault::Refuse { status: 403, code: "SignatureDoesNotMatch" }).times(40)),
    ] {
        let server = fault_server(1);
        let scene = Scene::new(&server, Engine::all()[0]);
        let tree = scene.dir("tree");
        plain_tree(&tree, 1, 10, 6 << 20);
        if let Some(rule) = rule {
            server.script(rule);
        }
        let job = scene.job(&tree, "s3://b/p", "state").env("AWS_SESSION_TOKEN", token).env("RUST_BACKTRACE", "1");
        let outcome = job.env("RUST_LOG", "trace").run();
        let canaries = [SECRET_KEY, token, "X-Amz-Signature", "X-Amz-Credential"];
        let encoded = SECRET_KEY.replace('/', "%2F").replace('+', "%2B");
        for canary in canaries.into_iter().chain([encoded.as_str()]) {
            assert!(!outcome.stdout.contains(canary) && !outcome.stderr.contains(canary), "{canary}: {outcome}");
            assert!(!holds(&scene.join("state"), canary), "the state holds {canary}");
        }
        if outcome.code() == Some(0) {
            scene.job("s3://b/p", scene.join("back"), "down").env("AWS_SESSION_TOKEN", token).run().expect(0);
            Comparison::new(&tree, &scene.join("back")).assert_same();
        }
    }
}

/// Whether any file below `dir` holds `text`.
fn holds(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).into_iter().flatten().any(|entry| {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let is_in = |bytes: Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        if stat.is_dir() { holds(&path, text) } else { stat.is_file() && is_in(fs::read(&path).unwrap()) }
    })
}
