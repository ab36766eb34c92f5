//! Trees up, down and across, repeated and changed.

use std::fs;
use std::path::Path;

use super::support::compare::{Difference, What};
use super::support::fault::{Checksums, FaultServer, Kind};
use super::support::fixture::can_mount;
use super::support::s3::S3sFs;
use super::support::{Comparison, Engine, Kind as FsKind, Mount, Rng, seed, tree};
use super::{PART_BYTES, Scene, bytes_below, fault_server, noise, plain_tree};

/// More than four parts, the last one short.
const LARGE: u64 = 23_456_789;

/// Up and down again; what differs then.
fn round_trip(scene: &Scene, tree: &Path, bucket: &str) -> Vec<Difference> {
    let place = format!("s3://{bucket}/some/prefix");
    scene.job(tree, &place, "up").run().expect(0);
    scene.job(&place, scene.join("back"), "down").run().expect(0);
    Comparison::new(tree, &scene.join("back")).run()
}

/// What s3s-fs loses: its listings leave out the objects that stand for directories.
fn is_lost_by_s3s(found: &Difference, tree: &Path) -> bool {
    let path = tree.join(String::from_utf8_lossy(&found.path).as_ref());
    path.is_dir() && (found.what == What::Mtime || found.path == b"empty")
}

#[test]
fn a_tree_survives_s3s_fs() {
    for engine in Engine::all() {
        let scene_dir = super::Scratch::new();
        let server = S3sFs::start(scene_dir.path());
        server.bucket("bucket");
        let scene = Scene::with_s3s(&server, engine);
        let tree = scene.dir("tree");
        plain_tree(&tree, 1, 60, LARGE);
        let found = round_trip(&scene, &tree, "bucket");
        let wrong: Vec<_> = found.iter().filter(|found| !is_lost_by_s3s(found, &tree)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn a_tree_survives_servers_with_and_without_checksums() {
    for checksums in [Checksums::Stored, Checksums::Ignored] {
        for engine in Engine::all() {
            let server = fault_server(1);
            server.set_checksums(checksums);
            server.set_page_max(7);
            let scene = Scene::new(&server, engine);
            let tree = scene.dir("tree");
            plain_tree(&tree, 2, 60, LARGE);
            let found = round_trip(&scene, &tree, "b");
            assert!(found.is_empty(), "{checksums:?} {engine:?}: {found:#?}");
            assert!(server.uploads().is_empty(), "an upload was left behind");
            let object = server.object("b", "some/prefix/a/large").unwrap();
            assert_eq!(object.etag.rsplit('-').next(), Some("5"), "parts of 5 MiB");
            assert_eq!(object.body, fs::read(tree.join("a/large")).unwrap());
        }
    }
}

/// Everything a POSIX tree can hold: names of any bytes, dates from 1901 to 2400, set-id bits, sparse files.
#[test]
fn a_mixed_tree_survives() {
    let test = "a_mixed_tree_survives";
    if !can_mount(test) {
        return;
    }
    let (from, to) = (Mount::new(FsKind::Xfs, 1024), Mount::new(FsKind::Xfs, 1024));
    let tree = from.dir("tree");
    tree::mixed(&tree, seed(test, 3), 200);
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let long: Vec<_> = too_long(&tree, "p/");
    let code = if long.is_empty() { 0 } else { 23 };
    scene.job(&tree, "s3://b/p", "up").run().expect(code);
    scene.job("s3://b/p", to.join("copy"), "down").arg("--special-bits").run().expect(0);
    let below_long = |found: &Difference| {
        found.what == What::Missing && long.iter().any(|path| found.path.starts_with(path) || path == &found.path)
    };
    let found = Comparison::new(&tree, &to.join("copy")).run();
    // S3 keeps no holes, and no links between symlinks or FIFOs: only those of files have a key to point to.
    let is_kept = |found: &Difference| {
        let name = found.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let is_linked = name.starts_with(b"linked-link") || name.starts_with(b"linked-fifo");
        found.what != What::Holes && !(found.what == What::Links && is_linked)
    };
    let wrong: Vec<_> = found.iter().filter(|found| is_kept(found) && !below_long(found)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Paths below `root` whose keys S3 does not take.
fn too_long(root: &Path, prefix: &str) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let (mut found, mut waiting) = (Vec::new(), vec![root.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            // Every byte of a name that is not UTF-8 may take three in its key.
            let escaped = if std::str::from_utf8(below).is_ok() { below.len() } else { below.len() * 3 };
            if prefix.len() + escaped >= 1000 {
                found.push(below.to_vec());
            } else if fs::symlink_metadata(&path).unwrap().is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

#[test]
fn a_bucket_is_copied_within_a_server_and_to_another() {
    let (server, other_dir) = (fault_server(1), super::Scratch::new());
    server.make_bucket("c");
    let other = S3sFs::start(other_dir.path());
    other.bucket("other");
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    plain_tree(&tree, 4, 60, LARGE);
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    server.reset_counts();
    scene.job("s3://b/p", "s3://c/q", "within").run().expect(0);
    let counts = server.counts();
    assert!(counts.of(Kind::Copy) >= 60 && counts.body_in < 100_000, "copied by the server itself: {counts:?}");
    scene.job("s3://c/q", scene.join("back"), "down").run().expect(0);
    Comparison::new(&tree, &scene.join("back")).assert_same();

    // Two accounts: the source's credentials come from a profile.
    let profile =
        format!("[source]\naws_access_key_id={}\naws_secret_access_key={}\n", scene.access_key, scene.secret_key);
    fs::create_dir(scene.join(".aws")).unwrap();
    fs::write(scene.join(".aws/credentials"), profile).unwrap();
    let there = Scene::with_s3s(&other, scene.engine);
    let across = there.job("s3://c/q", "s3://other/r", "across");
    let across = across.env("HOME", scene.scratch.path()).arg("--source-profile=source");
    across.arg(format!("--source-endpoint-url={}", server.endpoint())).run().expect(0);
    there.job("s3://other/r", there.join("back"), "down").run().expect(0);
    let found = Comparison::new(&tree, &there.join("back")).run();
    let wrong: Vec<_> = found.iter().filter(|found| !is_lost_by_s3s(found, &tree)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_repeated_job_moves_only_what_changed() {
    for engine in Engine::all() {
        let server = fault_server(1);
        let scene = Scene::new(&server, engine);
        let tree = scene.dir("tree");
        plain_tree(&tree, 5, 60, 0);
        let (up, down) = (scene.job(&tree, "s3://b/p", "up"), scene.job("s3://b/p", scene.join("back"), "down"));
        up.run().expect(0);
        down.run().expect(0);
        unmoved(&server, || {
            up.run().expect(0);
            down.run().expect(0);
        });
        // Without the catalog size and recorded time decide; what has no content of its own is written again.
        server.reset_counts();
        scene.job(&tree, "s3://b/p", "up-again").run().expect(0);
        // Which name of a linked file is its first is open: it may be another one now.
        let linked = fs::metadata(tree.join("file-0")).unwrap().len();
        assert!(server.counts().body_in < 100 + linked, "targets of symlinks at most: {:?}", server.counts());
        // What is new since a whole pass costs its own request and none before it; the directory has another mtime.
        noise(&tree.join("a/new"), &mut Rng::new(8), 700);
        server.reset_counts();
        up.run().expect(0);
        let counts = server.counts();
        assert_eq!((counts.body_in, counts.of(Kind::Put), counts.of(Kind::Head)), (700, 2, 0), "{counts:?}");
        noise(&tree.join("a/file-1"), &mut Rng::new(9), 5000);
        server.reset_counts();
        up.run().expect(0);
        assert_eq!(server.counts().body_in, 5000, "{:?}", server.counts());
        server.reset_counts();
        down.run().expect(0);
        // The two files, and the symlinks and the hard link that were written again above.
        assert!((1..=8).contains(&server.counts().of(Kind::Get)), "{:?}", server.counts());
        Comparison::new(&tree, &scene.join("back")).assert_same();
    }
}

/// Runs jobs that must not move the content of any file.
#[track_caller]
fn unmoved(server: &FaultServer, jobs: impl FnOnce()) {
    server.reset_counts();
    jobs();
    let counts = server.counts();
    assert_eq!((counts.of(Kind::Put), counts.body_in), (0, 0), "{counts:?}");
    // A symlink's target is its object's content: a download reads it to compare. The tree has two.
    assert!(counts.of(Kind::Get) <= 2, "{counts:?}");
}

#[test]
fn one_file_and_a_prefix_of_one_level() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let dir = scene.dir("one");
    noise(&dir.join("f"), &mut Rng::new(1), 100);
    scene.job(&dir, "s3://b", "root").run().expect(0);
    assert_eq!(server.keys("b").iter().filter(|key| *key == "f").count(), 1, "{:?}", server.keys("b"));
    scene.job("s3://b", scene.join("back"), "down").run().expect(0);
    assert_eq!(bytes_below(&scene.join("back")), 100);
}

/// Objects of other tools: no metadata of ours, rclone's and s3fs's names, folders without markers.
#[test]
fn objects_of_other_tools_come_down() {
    use std::os::unix::fs::MetadataExt;
    let server = fault_server(1);
    server.put("b", "x/plain", "1", &[]);
    let rclone = [("mtime", "1500000000.123456789"), ("mode", "100640"), ("uid", "12"), ("gid", "34")];
    server.put("b", "x/deep/rclone", "22", &rclone);
    server.put("b", "x/s3fs", "333", &[("mode", "33184"), ("mtime", "1400000000")]);
    let scene = Scene::new(&server, Engine::all()[0]);
    let back = scene.join("back");
    scene.job("s3://b/x", &back, "down").run().expect(0);
    let stat = fs::metadata(back.join("deep/rclone")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o640, 12, 34));
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_500_000_000, 123_456_789));
    let stat = fs::metadata(back.join("s3fs")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o640, 1_400_000_000));
    assert_eq!(fs::read(back.join("plain")).unwrap(), b"1");
}

/// Names of a group whose first is there already, with no record of it: it is taken as it is, and the others link to
/// it.
#[test]
fn names_of_a_file_that_is_there_already_are_linked_to_it() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    plain_tree(&tree, 11, 12, 2 * PART_BYTES);
    fs::hard_link(tree.join("a/large"), tree.join("large too")).unwrap();
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    let back = scene.join("back");
    scene.job("s3://b/p", &back, "down").run().expect(0);
    for (one, other) in [("file-0", "a/b/hard"), ("a/large", "large too")] {
        let is_further = server.object("b", &format!("p/{one}")).unwrap().body.is_empty();
        fs::remove_file(back.join(if is_further { one } else { other })).unwrap();
    }
    server.reset_counts();
    scene.job("s3://b/p", &back, "another").run().expect(0);
    Comparison::new(&tree, &back).assert_same();
    let received = server.counts().body_out;
    assert!(received < PART_BYTES, "{received} bytes received for files that were there");
}

/// --recopy, and lists of keys that are not there, in each direction.
#[test]
fn all_is_copied_again_if_that_is_asked_for_and_every_listed_key_is_told_of() {
    for engine in Engine::all() {
        let server = fault_server(27);
        server.make_bucket("c");
        let scene = Scene::new(&server, engine);
        let tree = scene.dir("tree");
        plain_tree(&tree, 27, 10, LARGE);
        let (local, back) = (tree.display().to_string(), scene.join("back").display().to_string());
        let list = scene.join("list");
        fs::write(&list, "a\0nodir/x\0gone\0").unwrap();
        for (from, to, state) in
            [(&local[..], "s3://b/p", "up"), ("s3://b/p", &back[..], "down"), ("s3://b/p", "s3://c/q", "across")]
        {
            let job = scene.job(from, to, state);
            let first = job.run().expect(0);
            let unchanged = job.run().expect(0);
            assert_eq!(unchanged.number("copied"), 0, "{state}: {unchanged}");
            let again = job.clone().arg("--recopy").run().expect(0);
            let counts = ["copied", "symlinks"].map(|key| (again.number(key), first.number(key)));
            assert!(counts.iter().all(|(again, first)| again == first), "{state}: {first}\n{again}");
            if state == "down" {
                Comparison::new(&tree, &scene.join("back")).assert_same();
            }
            // Elsewhere: without the other name of its file a hard link is a file of its own.
            let job = scene.job(from, format!("{to}-part"), &format!("{state}-list")).arg("--files-from").arg(&list);
            let told = job.clone().arg("--dry-run").run().expect(24);
            assert!(told.says("nodir/x") && told.says("gone"), "{state}: {told}");
            for _ in 0..2 {
                let outcome = job.run().expect(24);
                assert_eq!(outcome.number("vanished"), 2, "{state}: {outcome}");
            }
        }
    }
}
