//! --delete with a bucket on either side: what the source no longer has goes, and nothing else does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::{Comparison, Engine};
use super::{Scene, fault_server, plain_tree};

/// Keys that no name of a file system is written to, and those of other prefixes: none of a job's business.
const FOREIGN: [&str; 9] = ["p/a//x", "p//x", "p/\u{1}x", "p/a/\u{7}/x", "p/./x", "p/d/../x", "p2/x", "p", "q/p/x"];
/// Keys below the prefix that no source has.
const EXTRA: [&str; 6] = ["p/extra", "p/a/extra", "p/gone/", "p/gone/a/b/c", "p/gone/x", "p/caf\u{e9} %FF+x/"];

fn keys(server: &FaultServer, bucket: &str) -> BTreeSet<String> {
    server.keys(bucket).into_iter().collect()
}

fn fill(server: &FaultServer, bucket: &str, keys: &[&str]) {
    keys.iter().for_each(|key| server.put(bucket, key, "x", &[]));
}

/// A scene with a tree that is in the bucket already.
fn copied(server: &FaultServer, engine: Engine) -> (Scene, PathBuf) {
    server.set_page_max(3);
    let scene = Scene::new(server, engine);
    let tree = scene.dir("tree");
    plain_tree(&tree, 71, 20, 0);
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    (scene, tree)
}

/// Changes of every sort: names that go, a file that becomes a directory, and a directory that becomes a file.
fn change(tree: &Path) {
    fs::remove_dir_all(tree.join("a/b")).unwrap();
    fs::remove_dir(tree.join("empty")).unwrap();
    fs::remove_file(tree.join("dangling")).unwrap();
    fs::remove_file(tree.join("file-6")).unwrap();
    fs::create_dir(tree.join("file-6")).unwrap();
    fs::write(tree.join("file-6/in"), "x").unwrap();
    fs::remove_dir_all(tree.join("with space")).unwrap();
    fs::write(tree.join("with space"), "x").unwrap();
}

#[test]
fn what_a_tree_lost_goes_from_the_bucket() {
    for engine in Engine::all() {
        let server = fault_server(71);
        let (scene, tree) = copied(&server, engine);
        let copied = keys(&server, "b");
        fill(&server, "b", &FOREIGN);
        fill(&server, "b", &EXTRA);
        change(&tree);
        // The first of two hard links goes: the other is a file of its own from now on.
        fs::remove_file(tree.join("file-0")).unwrap();
        fs::write(tree.join("a/survivor"), "x").unwrap();
        let kept = scene.job(&tree, "s3://b/p", "up").run().expect(0);
        assert!(copied.is_subset(&keys(&server, "b")), "without --delete nothing goes: {kept}");
        let job = scene.job(&tree, "s3://b/p", "up").arg("--delete");
        let before = server.keys("b").len();
        let outcome = job.run().expect(0);
        scene.job(&tree, "s3://fresh/p", "fresh").run().expect(2);
        server.make_bucket("fresh");
        scene.job(&tree, "s3://fresh/p", "fresh").run().expect(0);
        let expected: BTreeSet<String> = keys(&server, "fresh").into_iter().chain(FOREIGN.map(str::to_owned)).collect();
        assert_eq!(keys(&server, "b"), expected, "{outcome}");
        assert_eq!(outcome.number("removed") as usize, before - expected.len(), "{outcome}");
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("removed"), outcome.number("copied")), (0, 0), "{outcome}");
        FOREIGN.iter().for_each(|key| server.remove("b", key));
        scene.job("s3://b/p", scene.join("back"), "down").run().expect(0);
        Comparison::new(&tree, &scene.join("back")).assert_same();
    }
}

#[test]
fn what_a_bucket_lost_goes_from_the_other() {
    let server = fault_server(72);
    let (scene, _) = copied(&server, Engine::Auto);
    server.make_bucket("c");
    fill(&server, "b", &["p/a//x", "p/n", "p/n/x", "p/a/b"]);
    scene.job("s3://b/p", "s3://c/q", "across").run().expect(0);
    let foreign = ["q2/x", "q", "q/./x", "q/a/../x", "r/q/x"];
    fill(&server, "c", &foreign);
    fill(&server, "c", &["q/a//extra", "q/extra", "q/zz/a/b", "q/zz/", "q/n/y"]);
    for key in ["p/n", "p/a/b", "p/a//x", "p/empty/", "p/dangling"] {
        server.remove("b", key);
    }
    let outcome = scene.job("s3://b/p", "s3://c/q", "across").arg("--delete").run().expect(0);
    let left = keys(&server, "b").into_iter().map(|key| key.replacen("p/", "q/", 1));
    let expected: BTreeSet<String> = left.chain(foreign.map(str::to_owned)).collect();
    assert_eq!(keys(&server, "c"), expected, "{outcome}");
    assert_eq!(outcome.number("removed"), 10, "{outcome}");
}

#[test]
fn what_a_bucket_lost_goes_from_a_tree() {
    for engine in Engine::all() {
        let server = fault_server(78);
        let (scene, tree) = copied(&server, engine);
        let back = scene.join("back");
        let job = scene.job("s3://b/p", &back, "down").arg("--exclude=*.o").arg("--delete");
        job.run().expect(0);
        change(&tree);
        scene.job(&tree, "s3://b/p", "up").arg("--delete").run().expect(0);
        for dir in ["only/here", "a/x", "100%"] {
            fs::create_dir_all(back.join(dir)).unwrap();
            fs::write(back.join(dir).join("y"), "x").unwrap();
        }
        fs::write(back.join("a/saved.o"), "x").unwrap();
        let outside = scene.dir("outside");
        fs::write(outside.join("precious"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, back.join("a/way-out")).unwrap();
        // The job stops deleting where it may not.
        let outcome = job.clone().arg("--max-delete=1").run().expect(25);
        assert_eq!(outcome.number("removed"), 1, "{outcome}");
        let outcome = job.run().expect(0);
        assert!(outcome.number("removed") > 8 && outside.join("precious").exists(), "{outcome}");
        fs::remove_file(back.join("a/saved.o")).expect("what the rules leave out stays");
        assert_eq!(job.run().expect(0).number("removed"), 0);
        let found = Comparison::new(&tree, &back).run();
        assert!(found.iter().all(|found| found.path == b"a"), "{found:#?}");
    }
}

#[test]
fn the_number_of_keys_that_may_go_is_kept() {
    let server = fault_server(73);
    let (scene, tree) = copied(&server, Engine::Auto);
    fill(&server, "b", &EXTRA);
    let before = server.keys("b").len();
    let job = scene.job(&tree, "s3://b/p", "up").arg("--delete");
    let outcome = job.clone().arg("--max-delete=2").run().expect(25);
    assert_eq!((outcome.number("removed"), server.keys("b").len()), (2, before - 2), "{outcome}");
    let outcome = job.clone().arg("--max-delete=4").run().expect(0);
    assert_eq!((outcome.number("removed"), server.keys("b").len()), (4, before - 6), "{outcome}");
}

#[test]
fn an_empty_tree_removes_nothing_from_a_bucket_unless_forced() {
    let server = fault_server(74);
    let (scene, tree) = copied(&server, Engine::Auto);
    fill(&server, "b", &FOREIGN);
    let before = keys(&server, "b");
    fs::remove_dir_all(&tree).unwrap();
    fs::create_dir(&tree).unwrap();
    let job = scene.job(&tree, "s3://b/p", "anew");
    let outcome = job.clone().arg("--delete").run().expect(25);
    assert!(outcome.says("the source is empty") && keys(&server, "b") == before, "{outcome}");
    job.clone().arg("--force-delete").run().expect(0);
    // What a key that nobody may write lies in cannot go, as a directory that is not empty cannot.
    let left: BTreeSet<String> = FOREIGN.iter().copied().chain(["p/", "p/a/"]).map(str::to_owned).collect();
    assert_eq!(keys(&server, "b"), left);
}

#[test]
fn keys_that_the_rules_leave_out_stay_with_what_they_lie_in() {
    let server = fault_server(75);
    let (scene, tree) = copied(&server, Engine::Auto);
    let saved = ["p/saved.o", "p/gone/", "p/gone/deep/", "p/gone/deep/saved.o"];
    fill(&server, "b", &saved);
    fill(&server, "b", &["p/gone/x", "p/gone/empty/", "p/extra"]);
    let before = keys(&server, "b");
    let outcome = scene.job(&tree, "s3://b/p", "ruled").arg("--exclude=*.o").arg("--delete").run().expect(0);
    let gone: Vec<String> = before.difference(&keys(&server, "b")).cloned().collect();
    assert_eq!(gone, ["p/extra", "p/gone/empty/", "p/gone/x"], "{outcome}");
}

/// A directory that cannot be listed, and a key that cannot be removed.
#[test]
fn what_a_server_refuses_removes_nothing_more() {
    let server = fault_server(76);
    let (scene, tree) = copied(&server, Engine::Auto);
    server.make_bucket("c");
    scene.job("s3://b/p", "s3://c/q", "across").run().expect(0);
    fill(&server, "c", &["q/extra", "q/a/extra"]);
    let before = keys(&server, "c");
    let refusal = || Fault::Refuse { status: 400, code: "InvalidArgument" };
    server.script(Rule::new(refusal()).on(&[Kind::List]).key("p/a/b/"));
    let job = scene.job("s3://b/p", "s3://c/q", "across").arg("--delete");
    let outcome = job.run().expect(23);
    assert!(outcome.says("nothing is deleted") && keys(&server, "c") == before, "{outcome}");
    server.heal();
    assert_eq!(job.run().expect(0).number("removed"), 2);
    fill(&server, "b", &["p/extra", "p/stays"]);
    server.script(Rule::new(refusal()).on(&[Kind::Delete]).key("stays"));
    let outcome = scene.job(&tree, "s3://b/p", "up").arg("--delete").run().expect(23);
    assert_eq!((outcome.number("removed"), outcome.number("failed")), (1, 1), "{outcome}");
    assert!(server.object("b", "p/stays").is_some() && server.object("b", "p/extra").is_none());
}

/// A directory with two names of one file in the bucket, and which of them holds the content.
fn linked(server: &FaultServer) -> (Scene, PathBuf, [&'static str; 2]) {
    let scene = Scene::new(server, Engine::Auto);
    let tree = scene.dir("tree");
    fs::write(tree.join("one"), "the content").unwrap();
    fs::hard_link(tree.join("one"), tree.join("two")).unwrap();
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    let is_first = server.object("b", "p/one").unwrap().attributes.contains_key("gfast-links");
    (scene, tree, if is_first { ["one", "two"] } else { ["two", "one"] })
}

fn assert_restored(scene: &Scene, tree: &Path, name: &str) {
    scene.job("s3://b/p", scene.join(name), &format!("state-{name}")).run().expect(0);
    Comparison::new(tree, &scene.join(name)).assert_same();
}

/// Where a new ctime counts for nothing, it counts for hard links all the same: one's content is the other's object.
#[test]
fn hard_links_keep_their_content_where_a_new_ctime_counts_for_nothing() {
    let server = fault_server(77);
    let (scene, tree, [first, _]) = linked(&server);
    fs::write(tree.join("new"), "other content").unwrap();
    fs::rename(tree.join("new"), tree.join(first)).unwrap();
    let job = scene.job(&tree, "s3://b/p", "up").arg("--ignore-ctime").arg("--delete");
    job.run().expect(0);
    assert_restored(&scene, &tree, "replaced");
    assert_eq!(job.run().expect(0).number("copied"), 0);
    fs::hard_link(tree.join(first), tree.join("third")).unwrap();
    job.run().expect(0);
    fs::remove_file(tree.join(first)).unwrap();
    let outcome = job.run().expect(0);
    assert_eq!(server.keys("b").len(), 3, "{outcome}");
    assert_restored(&scene, &tree, "removed");
}

/// A run with `--delete` that has listed all names and waits for the server to take one.
fn start_slowly(server: &FaultServer, scene: &Scene, tree: &Path) -> crate::support::Running {
    server.script(Rule::new(Fault::StallMs(2_000)).on(&[Kind::Put]).key("p/slow"));
    fs::write(tree.join("slow"), "x").unwrap();
    fs::write(tree.join("new"), "x").unwrap();
    let running = scene.job(tree, "s3://b/p", "up").arg("--delete").start();
    assert!(
        running.run_until(|_| server.object("b", "p/new").is_some()) && running.run_for(Duration::from_millis(300))
    );
    running
}

#[test]
fn an_object_that_another_is_a_link_to_stays_until_that_is_stored_by_itself() {
    let server = fault_server(79);
    let (scene, tree, [first, _]) = linked(&server);
    let running = start_slowly(&server, &scene, &tree);
    fs::remove_file(tree.join(first)).unwrap();
    let outcome = running.wait().expect(0);
    let key = format!("p/{first}");
    assert!(outcome.says("hard links to it") && server.object("b", &key).is_some(), "{outcome}");
    server.heal();
    scene.job(&tree, "s3://b/p", "up").arg("--delete").run().expect(0);
    assert!(server.object("b", &key).is_none());
    assert_restored(&scene, &tree, "back");
}

#[test]
fn what_is_removed_for_another_thing_of_its_name_is_stored_again() {
    let server = fault_server(80);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    fs::create_dir(tree.join("foo")).unwrap();
    fs::write(tree.join("foo/in"), "x").unwrap();
    scene.job(&tree, "s3://b/p", "up").run().expect(0);
    let running = start_slowly(&server, &scene, &tree);
    fs::rename(tree.join("foo"), scene.join("aside")).unwrap();
    fs::write(tree.join("foo"), "a file").unwrap();
    running.wait().expect(0);
    assert!(server.object("b", "p/foo/in").is_none(), "it makes room for the file");
    server.heal();
    fs::remove_file(tree.join("foo")).unwrap();
    fs::rename(scene.join("aside"), tree.join("foo")).unwrap();
    scene.job(&tree, "s3://b/p", "up").arg("--delete").run().expect(0);
    assert_restored(&scene, &tree, "back");
}

#[test]
fn a_tree_that_is_removed_while_it_is_read_removes_nothing_from_a_bucket() {
    let server = fault_server(81);
    let (scene, tree) = copied(&server, Engine::Auto);
    let before = keys(&server, "b");
    let running = start_slowly(&server, &scene, &tree);
    fs::remove_dir_all(&tree).unwrap();
    let outcome = running.wait().expect(25);
    assert!(before.is_subset(&keys(&server, "b")), "{outcome}");
}

#[test]
fn rules_and_lists_match_the_prefixes_between_buckets() {
    let server = fault_server(82);
    let scene = Scene::new(&server, Engine::Auto);
    server.make_bucket("c");
    fill(&server, "b", &["p/keep", "p/foo/x", "p/foo/y/z", "p/foo/n", "p/a//b", "p/archive/new"]);
    fill(&server, "c", &["q/archive/x", "q/a/archive/y", "q/a/gone/x", "q/extra"]);
    let job = scene.job("s3://b/p", "s3://c/q", "ruled").arg("--exclude=archive/").arg("--delete");
    let outcome = job.run().expect(0);
    let expected = ["q/a//b", "q/a/archive/y", "q/archive/x", "q/foo/n", "q/foo/x", "q/foo/y/z", "q/keep"];
    assert_eq!(keys(&server, "c"), expected.map(str::to_owned).into(), "{outcome}");
    server.make_bucket("d");
    fs::write(scene.join("list"), "foo/x\0foo/y").unwrap();
    let list = format!("--files-from={}", scene.join("list").display());
    scene.job("s3://b/p", "s3://d/q", "listed").arg(list).run().expect(0);
    assert_eq!(keys(&server, "d"), ["q/foo/x", "q/foo/y/z"].map(str::to_owned).into());
}

#[test]
fn the_upload_of_what_is_gone_is_given_up() {
    let server = fault_server(83);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    fs::create_dir(tree.join("gone")).unwrap();
    fs::write(tree.join("keep"), "x").unwrap();
    fs::write(tree.join("gone/small"), "x").unwrap();
    fs::write(tree.join("gone/large"), vec![7; 3 * super::PART_BYTES as usize]).unwrap();
    server.script(Rule::new(Fault::StallMs(60_000)).on(&[Kind::PutPart]).after(1));
    let job = scene.job(&tree, "s3://b/p", "up").arg("--checkpoint-interval=1");
    let running = job.start();
    assert!(running.run_until(|_| !server.uploads().is_empty()) && running.run_for(Duration::from_millis(2_500)));
    running.kill();
    server.heal();
    fs::remove_dir_all(tree.join("gone")).unwrap();
    // What the interrupted run had begun vanished; what it had stored may have another name by now, and stays.
    let job = job.arg("--delete");
    let outcome = job.run().expect(25);
    assert_eq!((outcome.number("vanished"), server.uploads().len()), (1, 0), "{outcome}");
    assert!(keys(&server, "b").contains("p/gone/small") && outcome.says("tree: it changed after"), "{outcome}");
    let outcome = job.run().expect(0);
    assert_eq!(keys(&server, "b"), ["p/", "p/keep"].map(str::to_owned).into(), "{outcome}");
}
