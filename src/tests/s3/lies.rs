//! Servers that tell one thing here and another there, and metadata that says what is not so: nothing is taken for more
//! than is known of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::support::Engine;
use super::support::fault::{Checksums, Fault, FaultServer, Kind, Rule};
use super::{PART_BYTES, Rng, Scene, fault_server, noise};

/// Bytes of an object of three parts.
const LARGE: usize = 2 * PART_BYTES as usize + 12_345;

fn scene_of(server: &FaultServer) -> Scene {
    Scene::new(server, Engine::all()[0])
}

fn content(len: usize) -> Vec<u8> {
    let mut content = vec![0; len];
    Rng::new(7).fill(&mut content);
    content
}

/// HEAD tells no length, or another than the listing and the object's ranges: the object fails, and nothing of it
/// stands under its name.
#[test]
fn a_length_that_is_not_told_or_wrong_is_not_believed() {
    let cases =
        [(Fault::NoLength, 23), (Fault::WrongLength(2 * PART_BYTES), 24), (Fault::WrongLength(LARGE as u64 + 9), 24)];
    for (fault, code) in cases {
        for is_across in [false, true] {
            let (source, dest) = (fault_server(1), fault_server(2));
            source.set_checksums(Checksums::Ignored);
            source.put("b", "p/large", content(LARGE), &[]);
            source.put("b", "p/small", content(100), &[]);
            let scene = scene_of(&dest);
            let back = scene.join("back");
            let job = || {
                let dest = if is_across { "s3://b/q".into() } else { back.clone() };
                let job = scene.job("s3://b/p", dest, "state");
                job.arg(format!("--source-endpoint-url={}", source.endpoint()))
            };
            let arrived = |name: &str| match is_across {
                true => dest.object("b", &format!("q/{name}")).map(|object| object.body.to_vec()),
                false => fs::read(back.join(name)).ok(),
            };
            source.script(Rule::new(fault.clone()).on(&[Kind::Head]).key("large"));
            let outcome = job().run();
            assert_eq!(outcome.code(), Some(code), "{fault:?}, across {is_across}: {outcome}");
            assert!(arrived("large").is_none() && arrived("small").is_some(), "{fault:?}: {outcome}");
            source.heal();
            job().run().expect(0);
            assert!(arrived("large").unwrap() == content(LARGE));
        }
    }
}

/// An object that has grown since it was listed is read in ranges, as any of its size.
#[test]
fn an_object_that_grew_is_read_in_parts() {
    let server = fault_server(1);
    server.put("b", "p/grown", content(1000), &[]);
    server.script(Rule::new(Fault::StallMs(1500)).on(&[Kind::Get]).times(1));
    let scene = scene_of(&server);
    let running = scene.job("s3://b/p", scene.join("back"), "state").start();
    assert!(running.run_until(|_| server.counts().of(Kind::Get) > 0), "ended too soon");
    server.put("b", "p/grown", content(LARGE), &[]);
    running.wait().expect(0);
    assert!(fs::read(scene.join("back/grown")).unwrap() == content(LARGE));
    assert_eq!(server.counts().of(Kind::Get), 4, "one that announced too much, and three parts");
}

/// What metadata calls a symlink or a pipe is not read as if it were a file: no target is that long, and a pipe has no
/// content.
#[test]
fn bodies_that_nothing_is_made_of_are_not_read() {
    const BYTES: usize = 64 << 20;
    let server = fault_server(1);
    let body = bytes::Bytes::from(vec![b'a'; BYTES]);
    server.put("b", "p/link", body.clone(), &[("file-permissions", "0120777")]);
    server.put("b", "p/pipe", body, &[("file-permissions", "0010644")]);
    server.put("b", "p/short", vec![b'a'; 4095], &[("file-permissions", "0120777")]);
    let scene = scene_of(&server);
    let outcome = scene.job("s3://b/p", scene.join("back"), "state").run().expect(23);
    assert_eq!(outcome.number("failed"), 1, "{outcome}");
    assert!(fs::symlink_metadata(scene.join("back/link")).is_err());
    assert!(fs::symlink_metadata(scene.join("back/pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read_link(scene.join("back/short")).unwrap().as_os_str().len(), 4095);
    let read = server.counts().body_out;
    assert!(read < BYTES as u64, "{read} bytes of what nothing is made of");
}

/// Permissions that name no type, or none that there is, are those of a file: its content comes down.
#[test]
fn permissions_without_a_type_are_a_file_s() {
    let server = fault_server(1);
    for (name, permissions) in [("plain", "0640"), ("odd", "0030640")] {
        server.put("b", &format!("p/{name}"), "content", &[("file-permissions", permissions)]);
    }
    let scene = scene_of(&server);
    scene.job("s3://b/p", scene.join("back"), "state").run().expect(0);
    for name in ["plain", "odd"] {
        let path = scene.join("back").join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), "content", "{name}");
        assert_eq!(fs::metadata(&path).unwrap().mode(), 0o100_640, "{name}");
    }
}

/// A directory cannot hold what an object `dir/` holds: it fails, in every pass, and what is below comes down.
#[test]
fn the_content_of_a_directory_s_object_is_a_failure() {
    let server = fault_server(1);
    server.put("b", "p/dir/", "content", &[("file-permissions", "0040750")]);
    server.put("b", "p/dir/f", "below", &[]);
    let scene = scene_of(&server);
    for _ in 0..2 {
        let outcome = scene.job("s3://b/p", scene.join("back"), "state").run().expect(23);
        assert_eq!(outcome.number("failed"), 1, "{outcome}");
        assert!(outcome.says("a directory's"), "{outcome}");
        assert_eq!(fs::read_to_string(scene.join("back/dir/f")).unwrap(), "below");
        assert_eq!(fs::metadata(scene.join("back/dir")).unwrap().mode() & 0o7777, 0o750);
    }
}

/// What was not compared is not called so: an object that is there already, of a file that was not read, and one that
/// a server copied without a checksum.
#[test]
fn what_was_not_compared_is_by_length_only() {
    let server = fault_server(1);
    let scene = scene_of(&server);
    noise(&scene.dir("tree").join("f"), &mut Rng::new(1), 1000);
    let proved = |state: &str| {
        let outcome = scene.job(scene.join("tree"), "s3://b/p", state).run().expect(0);
        (outcome.number("proved_by_server"), outcome.number("proved_by_length"))
    };
    assert_eq!(proved("one"), (1, 0));
    assert_eq!(proved("two"), (0, 1), "adopted");
    server.set_checksums(Checksums::Ignored);
    assert_eq!(proved("three"), (0, 1), "adopted, without a checksum");
    let outcome = scene.job("s3://b/p/", "s3://b/q", "across").run().expect(0);
    let proved = (outcome.number("proved_by_server"), outcome.number("proved_by_length"));
    assert_eq!(proved, (0, 2), "the file and its directory's object: {outcome}");
    assert!(server.object("b", "q/f").is_some());
}

/// Where much was removed a page may hold nothing, and not be the last.
#[test]
fn an_empty_page_is_not_the_end_of_a_listing() {
    let server = fault_server(1);
    server.put("b", "p/f", "content", &[]);
    server.put("b", "p/d/x", "below", &[]);
    let scene = scene_of(&server);
    let (back, one) = (scene.join("back"), scene.join("one"));
    let empty = || Rule::new(Fault::EmptyPage).on(&[Kind::List]);
    server.script(empty().times(1));
    scene.job("s3://b/p", &back, "down").run().expect(0);
    assert_eq!(fs::read_to_string(back.join("d/x")).unwrap(), "below");
    // Below the name of one object a page is empty, and the last one is, too.
    server.script(empty().key("p/f/").times(1));
    scene.job("s3://b/p/f", &one, "state-one").run().expect(0);
    assert_eq!(fs::read_to_string(&one).unwrap(), "content");
    server.script(empty().key("p/d/").times(1));
    let outcome = scene.job(&back, "s3://b/p", "up").arg("--dry-run").run().expect(0);
    assert!(outcome.stdout.contains("copy") && !outcome.stdout.contains("make"), "{outcome}");
    server.script(empty().key("p/d/").times(1));
    let words = ["-source".as_ref(), back.as_os_str(), "-dest".as_ref(), "s3://b/p".as_ref()];
    let (code, differences, said) = scene.verify(&words);
    assert_eq!((code, differences.len()), (0, 0), "{said}");
}

/// Nor does it say that there is something.
#[test]
fn an_empty_page_is_no_content_of_a_source() {
    let server = fault_server(1);
    server.put("b", "p/", "", &[]);
    let scene = scene_of(&server);
    let full = scene.dir("full");
    fs::write(full.join("kept"), "content").unwrap();
    // The first questions are whether the prefix is there, and what it holds.
    server.script(Rule::new(Fault::EmptyPage).on(&[Kind::List]).after(2).times(1));
    let outcome = scene.job("s3://b/p", &full, "state").arg("--delete").run().expect(25);
    assert!(outcome.says("the source is empty") && full.join("kept").exists(), "{outcome}");
}
