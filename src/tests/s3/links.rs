//! Several names of one file, and the objects that stand for them: one with the content, the others link to it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::slow::can_mount_fuse;
use super::support::{Comparison, Engine, Rng, SlowMount};
use super::{PART_BYTES, Scene, fault_server, noise};

/// Names of a small file, and of a large one.
const GROUPS: [[&str; 3]; 2] = [["a", "b", "d/c"], ["l", "m", "d/n"]];

fn linked(dir: &Path) -> PathBuf {
    fs::create_dir(dir.join("d")).unwrap();
    for (names, size) in GROUPS.iter().zip([5000, 3 * PART_BYTES]) {
        noise(&dir.join(names[0]), &mut Rng::new(size), size);
        names[1..].iter().for_each(|name| fs::hard_link(dir.join(names[0]), dir.join(name)).unwrap());
    }
    (0..40).for_each(|n| noise(&dir.join(format!("z{n:02}")), &mut Rng::new(n), 100));
    dir.to_owned()
}

/// The key of the object that holds the content of these names.
fn first_of(server: &FaultServer, names: &[&str]) -> String {
    let keys = names.iter().map(|name| format!("p/{name}"));
    let mut firsts = keys.filter(|key| !server.object("b", key).unwrap().body.is_empty());
    let first = firsts.next().expect("one has the content");
    assert_eq!(firsts.next(), None);
    first
}

/// The names are one file of this content.
#[track_caller]
fn is_one_file(dir: &Path, names: &[&str], content: &[u8]) {
    let inodes: Vec<u64> = names.iter().map(|name| fs::metadata(dir.join(name)).unwrap().ino()).collect();
    for (name, ino) in names.iter().zip(&inodes) {
        assert!(fs::read(dir.join(name)).unwrap() == content, "{name} holds what it held before");
        assert_eq!(ino, &inodes[0], "{name}");
    }
}

/// Only the object with the content changes, by another client: the objects of the further names stay as they are, and
/// what they stand for is another content nevertheless.
#[test]
fn further_names_follow_their_first_object() {
    for (engine, is_killed) in Engine::all().into_iter().zip([false, true]) {
        let server = fault_server(1);
        let scene = Scene::new(&server, engine);
        let tree = linked(&scene.dir("tree"));
        scene.job(&tree, "s3://b/p", "up").run().expect(0);
        let mirror = scene.join("mirror");
        let job = scene.job("s3://b/p", &mirror, "down").arg("--checkpoint-interval=0.1").arg("--streams=1");
        // A name that has waited for its first shows its state in the next listing.
        (0..3).for_each(|_| drop(job.run().expect(0)));
        Comparison::new(&tree, &mirror).assert_same();
        // One more of each kind: with what gfast writes of a file of several names, and with nothing.
        for (round, told) in [&[("gfast-links", "3"), ("file-mtime", "1234567890")][..], &[]].into_iter().enumerate() {
            let contents = [7000, 2 * PART_BYTES].map(|size| vec![b'0' + round as u8; size as usize]);
            for (names, content) in GROUPS.iter().zip(&contents) {
                server.put("b", &first_of(&server, names), content.clone(), told);
            }
            if is_killed {
                (0..40).for_each(|n| server.put("b", &format!("p/z{n:02}"), format!("{round}"), &[]));
                server.script(Rule::new(Fault::StallMs(40)).on(&[Kind::Get]).key("p/z"));
                server.reset_counts();
                let running = job.start();
                assert!(running.run_until(|_| server.counts().of(Kind::Get) >= 25), "ended too soon");
                running.kill();
                server.heal();
            }
            job.run().expect(0);
            for (names, content) in GROUPS.iter().zip(&contents) {
                is_one_file(&mirror, names, content);
            }
            job.run().expect(0);
            server.reset_counts();
            let outcome = job.run().expect(0);
            let moved = (outcome.number("copied"), outcome.number("hard_links"), server.counts().of(Kind::Get));
            assert_eq!(moved, (0, 0, 0), "{outcome}");
        }
    }
}

/// Killed when the first name is another file already, and no batch says so: only what was recorded before it was
/// replaced tells that the further names have to follow.
#[test]
fn further_names_follow_a_first_that_was_replaced_by_a_run_that_was_killed() {
    if !can_mount_fuse("further_names_follow_a_first_that_was_replaced_by_a_run_that_was_killed") {
        return;
    }
    for engine in Engine::all() {
        let server = fault_server(3);
        let scene = Scene::new(&server, engine);
        let tree = linked(&scene.dir("tree"));
        scene.job(&tree, "s3://b/p", "up").run().expect(0);
        // Between two seals of a batch there is time to kill it.
        let slow = SlowMount::new(Duration::from_millis(2));
        let (mirror, behind) = (slow.path().join("mirror"), slow.folder().join("mirror"));
        let job = scene.job("s3://b/p", &mirror, "down").arg("--streams=1").arg("--checkpoint-interval=60");
        (0..3).for_each(|_| drop(job.run().expect(0)));
        let [names, _] = GROUPS;
        is_one_file(&behind, &names, &fs::read(tree.join("a")).unwrap());
        let first = first_of(&server, &names);
        let content = vec![b'0'; 7000];
        server.put("b", &first, content.clone(), &[]);
        (0..40).for_each(|n| server.put("b", &format!("p/z{n:02}"), format!("new {n}"), &[]));
        let path = behind.join(first.strip_prefix("p/").unwrap());
        let before = fs::metadata(&path).unwrap().ino();
        let running = job.start();
        let is_replaced = || fs::metadata(&path).unwrap().ino() != before;
        assert!(running.run_until(|_| is_replaced()), "ended too soon");
        running.kill();
        job.run().expect(0);
        is_one_file(&behind, &names, &content);
        assert_eq!(job.run().expect(0).number("hard_links"), 0);
    }
}

/// The state is lost, and the file has got another name since: an object that does not call itself the first of several
/// would come back apart from the others.
#[test]
fn a_file_that_got_another_name_comes_back_with_both() {
    let server = fault_server(2);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    for (name, size) in [("f", 5000), ("large", 2 * PART_BYTES + 5), ("alone", 700)] {
        noise(&tree.join(name), &mut Rng::new(size), size);
    }
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    fs::hard_link(tree.join("f"), tree.join("g")).unwrap();
    fs::hard_link(tree.join("large"), tree.join("a")).unwrap();
    let job = scene.job(&tree, "s3://b/p", "another");
    let told = job.clone().arg("--dry-run").run().expect(0);
    assert_eq!(told.stdout.lines().filter(|line| line.starts_with("adopt")).count(), 1, "{told}");
    let outcome = job.run().expect(0);
    assert_eq!((outcome.number("adopted"), outcome.number("hard_links")), (1, 2), "{outcome}");
    scene.job("s3://b/p", scene.join("back"), "down").run().expect(0);
    Comparison::new(&tree, &scene.join("back")).assert_same();
}
