//! Keys of a bucket that a destination takes for one another.

use std::fs;
use std::path::Path;

use super::support::fault::FaultServer;
use super::support::slow::can_mount_fuse;
use super::support::{Engine, Job, Scratch, SlowMount, seed};
use super::{KEPT, holders, write_twins};

fn job(server: &FaultServer, (from, to): (&Path, &Path), state: &Path) -> Job {
    Job::new(from, to, state, Engine::Auto)
        .env("AWS_ACCESS_KEY_ID", "AKIAFAULT")
        .env("AWS_SECRET_ACCESS_KEY", "canary-secret-41c0")
        .args(&["--endpoint-url", &server.endpoint(), "--region", "us-east-1"])
}

/// A destination that keeps names in another form, in directories that the run makes and in such as were there before.
#[test]
fn two_keys_that_are_kept_as_one_never_become_one_file() {
    let test = "two_keys_that_are_kept_as_one_never_become_one_file";
    if !can_mount_fuse(test) {
        return;
    }
    for were_there in [false, true] {
        let (slow, other, server) =
            (SlowMount::keeping_lower_case(), Scratch::new(), FaultServer::start(seed(test, 71)));
        server.make_bucket("b");
        let tree = other.path().join("tree");
        for dir in ["Photos", "photos", "dir"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
            fs::write(tree.join(dir).join(format!("only-{}", dir == "photos")), dir).unwrap();
        }
        fs::write(tree.join("Alone"), "alone").unwrap();
        write_twins(&tree, false, 0);
        let job = |from: &Path, to: &Path, state: &str| job(&server, (from, to), &other.path().join(state));
        job(&tree, Path::new("s3://b/tree"), "up").run().expect(0);
        let down = job(Path::new("s3://b/tree"), &slow.path().join("copy"), "down");
        let copy = slow.folder().join("copy");
        if were_there {
            fs::create_dir_all(copy.join("dir")).unwrap();
            fs::write(copy.join("alone"), "of before").unwrap();
            fs::write(copy.join("dir/only-false"), "of before").unwrap();
        }
        let mut held = None;
        for round in [0, 0, 1] {
            if round > 0 {
                write_twins(&tree, false, round);
                job(&tree, Path::new("s3://b/tree"), "up").run().expect(0);
            }
            let outcome = down.run().expect(23);
            assert_eq!(outcome.number("failed"), KEPT.len() as u64 + 1, "{were_there}: {outcome}");
            let now = holders(&copy, round, &outcome);
            assert_eq!(*held.get_or_insert(now.clone()), now, "{were_there}: {outcome}");
            assert_eq!(fs::read_to_string(copy.join("alone")).unwrap(), "alone", "{outcome}");
            assert_eq!(fs::read_to_string(copy.join("dir/only-false")).unwrap(), "dir", "{outcome}");
            assert_eq!(fs::read_dir(copy.join("photos")).unwrap().count(), 1, "two directories became one: {outcome}");
            assert_eq!(fs::read_dir(&copy).unwrap().count(), 7, "{outcome}");
        }
    }
}

/// A bucket's directory that rules take for a directory alone is one all the same; and what failed for its name fails
/// again when it is tried by itself, whatever had the name in a pass before.
#[test]
fn two_keys_never_become_one_whatever_is_tried() {
    let test = "two_keys_never_become_one_whatever_is_tried";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other, server) = (SlowMount::keeping_lower_case(), Scratch::new(), FaultServer::start(seed(test, 72)));
    server.make_bucket("b");
    let copy = slow.folder().join("copy");
    fs::create_dir(&copy).unwrap();
    let job = |state: &str| {
        let (from, to) = (Path::new("s3://b/tree"), slow.path().join("copy"));
        job(&server, (from, &to), &other.path().join(state))
    };
    let put = |key: &str| server.put("b", &format!("tree/{key}"), key.to_owned(), &[]);
    let photo = || fs::read_to_string(copy.join("photo")).unwrap();
    // Of each pair the one or the other comes first.
    ["Albums/a.jpg", "albums/b.jpg", "albums/c.txt", "stra\u{df}e/a.jpg", "strasse/b.jpg"].into_iter().for_each(put);
    let rules = ["--include", "*/", "--include", "*.jpg", "--exclude", "*"];
    let outcome = job("rules").args(&rules).run().expect(23);
    for dir in ["albums", "strasse"] {
        let there: Vec<_> = fs::read_dir(copy.join(dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!((outcome.number("failed"), there.len()), (2, 1), "{there:?}: {outcome}");
    }
    server.remove("b", "tree/Albums/a.jpg");
    server.remove("b", "tree/strasse/b.jpg");
    // The name is this key's, then that one's, and then there are both.
    let job = job("state");
    server.put("b", "tree/photo", "a photo", &[]);
    job.run().expect(0);
    server.remove("b", "tree/photo");
    put("Photo");
    let outcome = job.run().expect(0);
    assert_eq!(photo(), "Photo", "{outcome}");
    server.put("b", "tree/photo", "another photo", &[]);
    for again in [job.clone(), job.clone().arg("--retry-failed"), job.clone(), job.clone().arg("--retry-failed")] {
        let outcome = again.run().expect(23);
        assert_eq!(outcome.number("failed"), 1, "{outcome}");
        assert_eq!(photo(), "Photo", "{outcome}");
    }
}
