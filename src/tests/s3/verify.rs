//! verify with a bucket on either side: what is the same is called the same, and every single difference is named.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::process::Command;

use support::fault::{Checksums, Fault, Kind, Rule};

use super::*;

impl Scene {
    /// Runs `verify`: the exit code, what differs by path, and all it said.
    pub(super) fn verify(&self, words: &[&OsStr]) -> (i32, BTreeMap<String, String>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.arg("verify");
        self.verify_by(command, words)
    }

    fn verify_by(&self, mut command: Command, words: &[&OsStr]) -> (i32, BTreeMap<String, String>, String) {
        let output = command
            .args(words)
            .arg(format!("--endpoint-url={}", self.endpoint))
            .arg("--json")
            .env("AWS_ACCESS_KEY_ID", &self.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret_key)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", self.scratch.path())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let said = stdout.clone() + &String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains(&self.secret_key), "a secret was said");
        let mut differences = BTreeMap::new();
        for line in stdout.lines().filter_map(|line| line.strip_prefix("{\"path\":\"")) {
            let (path, rest) = line.split_once("\",\"differs\":[").unwrap();
            let names = rest.split_once(']').unwrap().0.replace('"', "");
            assert!(differences.insert(path.to_owned(), names).is_none(), "{path} is said twice: {said}");
        }
        (output.status.code().unwrap(), differences, said)
    }

    /// The same, of all there is in two places; nothing for the catalog.
    fn compare(&self, source: &OsStr, dest: &OsStr) -> (i32, BTreeMap<String, String>, String) {
        self.verify(&["-source".as_ref(), source, "-dest".as_ref(), dest])
    }

    fn compare_recorded(&self, dest: &OsStr, state: &str) -> (i32, BTreeMap<String, String>, String) {
        let state = self.join(state);
        self.verify(&["-dest".as_ref(), dest, "-state-dir".as_ref(), state.as_os_str()])
    }
}

#[track_caller]
fn assert_same(compared: (i32, BTreeMap<String, String>, String)) {
    let (code, differences, said) = compared;
    assert_eq!((code, differences), (0, BTreeMap::new()), "{said}");
}

fn named(differences: &[(&str, &str)]) -> BTreeMap<String, String> {
    differences.iter().map(|(path, names)| ((*path).to_owned(), (*names).to_owned())).collect()
}

/// Up, down and across: each pair is the same, and against the catalogs, too.
#[test]
fn trees_in_buckets_are_the_same() {
    let server = fault_server(61);
    server.make_bucket("c");
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    plain_tree(&tree, 61, 40, 12 << 20);
    let (up, across, down) = (OsStr::new("s3://b/up"), OsStr::new("s3://c/across"), scene.join("down"));
    scene.job(&tree, "s3://b/up", "state-up").run().expect(0);
    scene.job("s3://b/up", "s3://c/across", "state-across").run().expect(0);
    scene.job("s3://b/up", &down, "state-down").run().expect(0);
    assert_same(scene.compare(tree.as_os_str(), up));
    assert_same(scene.compare(up, across));
    assert_same(scene.compare(up, down.as_os_str()));
    assert_same(scene.compare_recorded(up, "state-up"));
    assert_same(scene.compare_recorded(across, "state-across"));
    assert_same(scene.compare_recorded(down.as_os_str(), "state-down"));
}

/// What was restored is held to what was recorded of it: by content, hard links too, whose objects are empty, and not
/// by the times and attributes that a bucket has of its own.
#[test]
fn a_restored_tree_is_held_to_what_was_recorded() {
    let server = fault_server(72);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    for (index, name) in ["same", "flipped", "linked", "emptied", "empty"].into_iter().enumerate() {
        noise(&tree.join(name), &mut Rng::new(index as u64), if name == "empty" { 0 } else { 5000 });
    }
    fs::hard_link(tree.join("linked"), tree.join("linked-too")).unwrap();
    fs::hard_link(tree.join("emptied"), tree.join("emptied-too")).unwrap();
    fs::hard_link(tree.join("empty"), tree.join("empty-too")).unwrap();
    scene.job(&tree, "s3://b/up", "state-up").run().expect(0);
    server.put("b", "up/dir/of-rclone", vec![7; 100], &[("mtime", "1500000000.123456789")]);
    let down = scene.join("down");
    scene.job("s3://b/up", &down, "state-down").run().expect(0);
    assert_same(scene.compare_recorded(down.as_os_str(), "state-down"));
    for name in ["flipped", "linked"] {
        let path = down.join(name);
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        File::options().write(true).open(&path).unwrap().write_all_at(b"flip", 2500).unwrap();
        File::open(&path).unwrap().set_modified(before).unwrap();
    }
    File::options().write(true).open(down.join("emptied")).unwrap().set_len(0).unwrap();
    fs::write(down.join("empty-too"), "x").unwrap();
    fs::remove_file(down.join("dir/of-rclone")).unwrap();
    let (code, differences, said) = scene.compare_recorded(down.as_os_str(), "state-down");
    let expected = [
        ("emptied", "size"),
        ("emptied-too", "size"),
        ("flipped", "content"),
        ("linked", "content"),
        ("linked-too", "content"),
        ("empty", "size"),
        ("empty-too", "size"),
        ("dir/of-rclone", "missing"),
    ];
    assert_eq!((code, differences), (1, named(&expected)), "{said}");
}

/// Every difference between a tree and a bucket is named, whichever of the two is the source.
#[test]
fn every_difference_from_a_bucket_is_named() {
    let server = fault_server(62);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    plain_tree(&tree, 62, 30, 0);
    for name in ["flipped", "grown", "moded", "timed", "gone", "retyped", "owned"] {
        noise(&tree.join(name), &mut Rng::new(7), 5000);
    }
    symlink("here", tree.join("retargeted")).unwrap();
    let bucket = OsStr::new("s3://b/up");
    scene.job(&tree, "s3://b/up", "state").run().expect(0);

    let keeping_time = |name: &str, change: &dyn Fn(&Path)| {
        let path = tree.join(name);
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        change(&path);
        File::open(&path).unwrap().set_modified(before).unwrap();
    };
    keeping_time("flipped", &|path| {
        File::options().write(true).open(path).unwrap().write_all_at(b"flip", 2500).unwrap();
    });
    keeping_time("grown", &|path| File::options().write(true).open(path).unwrap().set_len(5001).unwrap());
    fs::set_permissions(tree.join("moded"), fs::Permissions::from_mode(0o4711)).unwrap();
    date(&tree.join("timed"), &mut Rng::new(99));
    let top = fs::metadata(&tree).unwrap().modified().unwrap();
    fs::remove_file(tree.join("gone")).unwrap();
    fs::remove_file(tree.join("retyped")).unwrap();
    fs::create_dir(tree.join("retyped")).unwrap();
    fs::write(tree.join("new"), "new").unwrap();
    fs::create_dir(tree.join("new-dir")).unwrap();
    fs::remove_file(tree.join("retargeted")).unwrap();
    symlink("gone", tree.join("retargeted")).unwrap();
    File::open(&tree).unwrap().set_modified(top).unwrap();
    let mut expected =
        named(&[("flipped", "content"), ("grown", "size"), ("moded", "mode"), ("timed", "mtime"), ("retyped", "type")]);
    if rustix::process::geteuid().is_root() {
        chown(tree.join("owned"), Some(77), None).unwrap();
        expected.insert("owned".into(), "owner".into());
    }
    expected.insert("retargeted".into(), "target,mtime".into());

    let (code, differences, said) = scene.compare(tree.as_os_str(), bucket);
    let upwards = [("new", "missing"), ("new-dir", "missing"), ("gone", "extra")];
    let both = expected.clone().into_iter().chain(named(&upwards)).collect::<BTreeMap<_, _>>();
    assert_eq!((code, differences), (1, both), "{said}");
    // Set-id bits do not come back from a bucket, so they are not missed.
    fs::set_permissions(tree.join("moded"), fs::Permissions::from_mode(0o711)).unwrap();
    let (code, differences, said) = scene.compare(bucket, tree.as_os_str());
    let downwards = [("new", "extra"), ("new-dir", "extra"), ("gone", "missing")];
    let both = expected.into_iter().chain(named(&downwards)).collect::<BTreeMap<_, _>>();
    assert_eq!((code, differences), (1, both), "{said}");
}

/// Against the catalog: objects that others changed, removed and added.
#[test]
fn a_bucket_is_held_to_what_was_recorded() {
    let server = fault_server(63);
    let scene = Scene::new(&server, Engine::Auto);
    let (tree, other) = (scene.dir("tree"), scene.dir("other"));
    for name in ["same", "changed", "gone"] {
        noise(&tree.join(name), &mut Rng::new(1), 9000);
    }
    fs::create_dir(tree.join("dir")).unwrap();
    noise(&tree.join("dir/inner"), &mut Rng::new(2), 100);
    let bucket = OsStr::new("s3://b/up");
    scene.job(&tree, "s3://b/up", "state").run().expect(0);
    assert_same(scene.compare_recorded(bucket, "state"));

    let source = File::options().write(true).open(tree.join("changed")).unwrap();
    source.write_all_at(b"other", 4000).unwrap();
    fs::rename(tree.join("changed"), other.join("changed")).unwrap();
    fs::create_dir(other.join("dir")).unwrap();
    noise(&other.join("dir/added"), &mut Rng::new(3), 10);
    scene.job(&other, "s3://b/up", "state-other").run().expect(0);
    let (code, differences, said) = scene.compare_recorded(bucket, "state");
    // The other job's directories have their own times.
    let mut without_times = differences;
    without_times.retain(|_, names| names != "mtime");
    assert_eq!((code, without_times), (1, named(&[("changed", "content,mtime"), ("dir/added", "extra")])), "{said}");
}

/// What cannot be asked is trouble, exit 2.
#[test]
fn a_bucket_that_is_not_there_is_trouble() {
    let server = fault_server(64);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    fs::write(tree.join("a"), "a").unwrap();
    let (code, _, said) = scene.compare(tree.as_os_str(), "s3://nowhere/up".as_ref());
    assert_eq!(code, 2, "{said}");
    let (code, _, said) = scene.compare_recorded("s3://b/up".as_ref(), "no-state");
    assert_eq!(code, 2, "{said}");
}

/// s3s-fs lists no `dir/` objects; all else is the same by the checksums it stores.
#[test]
fn trees_on_another_server_are_the_same() {
    let scratch = Scratch::new();
    let server = S3sFs::start(scratch.path());
    server.bucket("bucket");
    let scene = Scene::with_s3s(&server, Engine::Auto);
    let tree = scene.dir("tree");
    plain_tree(&tree, 65, 30, 0);
    fs::remove_dir(tree.join("empty")).unwrap();
    scene.job(&tree, "s3://bucket/up", "state").run().expect(0);
    assert_same(scene.compare(tree.as_os_str(), "s3://bucket/up".as_ref()));
    assert_same(scene.compare_recorded("s3://bucket/up".as_ref(), "state"));
}

/// What somebody does to a bucket itself is named on every side it is compared with, whether the server stores
/// checksums or the objects have to be read, over listings of many pages.
#[test]
fn objects_changed_on_the_server_are_named() {
    for checksums in [Checksums::Stored, Checksums::Ignored] {
        let server = fault_server(66);
        server.make_bucket("c");
        server.set_checksums(checksums);
        server.set_page_max(3);
        let scene = Scene::new(&server, Engine::Auto);
        let tree = scene.dir("tree");
        plain_tree(&tree, 66, 20, 6 << 20);
        for name in ["flipped", "moded", "gone", "unlinked"] {
            noise(&tree.join(name), &mut Rng::new(8), 5000);
        }
        fs::hard_link(tree.join("unlinked"), tree.join("unlinked-too")).unwrap();
        scene.job(&tree, "s3://b/up", "state").run().expect(0);
        scene.job("s3://b/up", "s3://c/twin", "state-twin").run().expect(0);
        assert_same(scene.compare(tree.as_os_str(), "s3://b/up".as_ref()));

        let object = |key: &str| server.object("b", key).unwrap();
        let put = |key: &str, body: Vec<u8>, change: (&str, &str)| {
            let mut attributes = object(key).attributes;
            attributes.insert(change.0.to_owned(), change.1.to_owned());
            let pairs: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            server.put("b", key, body, &pairs);
        };
        for key in ["up/flipped", "up/a/large"] {
            let mut body = object(key).body.to_vec();
            body[4321] ^= 1;
            put(key, body, ("other", "1"));
        }
        put("up/moded", object("up/moded").body.to_vec(), ("file-permissions", "0100711"));
        let linked = ["up/unlinked", "up/unlinked-too"].into_iter().find(|key| object(key).body.is_empty()).unwrap();
        let body = object("up/gone").body.to_vec();
        let first = linked == "up/unlinked";
        let source = object(if first { "up/unlinked-too" } else { "up/unlinked" });
        let pairs: Vec<_> = source.attributes.iter().filter(|(name, _)| *name != "gfast-links").collect();
        let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        server.put("b", linked, source.body.clone(), &pairs);
        assert_eq!(body, source.body, "made of the same noise");
        server.remove("b", "up/gone");
        server.put("b", "up/a/extra", "extra", &[]);
        let linked = linked.trim_start_matches("up/");
        let ours = [("flipped", "content"), ("a/large", "content"), ("moded", "mode"), (linked, "links")];
        let expected = |gone, extra| {
            named(&ours).into_iter().chain(named(&[("gone", gone), ("a/extra", extra)])).collect::<BTreeMap<_, _>>()
        };
        let (code, differences, said) = scene.compare(tree.as_os_str(), "s3://b/up".as_ref());
        assert_eq!((code, differences), (1, expected("missing", "extra")), "{checksums:?} {said}");
        let (code, differences, said) = scene.compare("s3://c/twin".as_ref(), "s3://b/up".as_ref());
        assert_eq!((code, differences), (1, expected("missing", "extra")), "{checksums:?} {said}");
        let (code, differences, said) = scene.compare("s3://b/up".as_ref(), tree.as_os_str());
        assert_eq!((code, differences), (1, expected("extra", "missing")), "{checksums:?} {said}");
        let (code, differences, said) = scene.compare_recorded("s3://b/up".as_ref(), "state");
        let mut recorded = expected("missing", "extra");
        recorded.retain(|_, names| !["mode", "links"].contains(&names.as_str()));
        assert_eq!((code, differences), (1, recorded), "{checksums:?} {said}");
    }
}

/// Mode and time of the root itself, which stand in the object of its prefix.
#[test]
fn the_roots_themselves_are_compared() {
    let server = fault_server(67);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    noise(&tree.join("file"), &mut Rng::new(1), 10);
    scene.job(&tree, "s3://b/up", "state").run().expect(0);
    let bucket = OsStr::new("s3://b/up");
    assert_same(scene.compare(tree.as_os_str(), bucket));
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o711)).unwrap();
    date(&tree, &mut Rng::new(2));
    for (source, dest) in [(tree.as_os_str(), bucket), (bucket, tree.as_os_str())] {
        let (code, differences, said) = scene.compare(source, dest);
        assert_eq!((code, differences), (1, named(&[(".", "mode,mtime")])), "{said}");
    }
    let mut attributes = server.object("b", "up/").unwrap().attributes;
    attributes.insert("file-mtime".into(), "1ns".into());
    let pairs: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    server.put("b", "up/", "", &pairs);
    let (code, differences, said) = scene.compare_recorded(bucket, "state");
    assert_eq!((code, differences), (1, named(&[(".", "mtime")])), "{said}");
}

/// A sample reads its share, of large objects block by block; what is asked of a bucket that it has not is refused.
#[test]
fn a_sample_reads_its_share_and_says_so() {
    let server = fault_server(68);
    server.set_checksums(Checksums::Ignored);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    let mut rng = Rng::new(68);
    (0..200).for_each(|index| noise(&tree.join(format!("file-{index}")), &mut rng, 20_000));
    noise(&tree.join("large"), &mut rng, 40 << 20);
    scene.job(&tree, "s3://b/up", "state").run().expect(0);
    let bucket = OsStr::new("s3://b/up");
    let sample = |percent: &str| {
        server.reset_counts();
        let words =
            ["-source".as_ref(), tree.as_os_str(), "-dest".as_ref(), bucket, "-sample".as_ref(), percent.as_ref()];
        (scene.verify(&words), server.counts().body_out)
    };
    let bytes = bytes_below(&tree);
    let ((code, _, said), read) = sample("20");
    assert!(code == 0 && (bytes / 20..bytes / 2).contains(&read), "{read} of {bytes}: {said}");
    assert!(said.contains("\"percent_asked\":20") && said.contains("\"units\":240"), "{said}");
    let mut body = server.object("b", "up/large").unwrap().body.to_vec();
    body[33 << 20] ^= 1;
    let attributes = server.object("b", "up/large").unwrap().attributes;
    let pairs: Vec<_> = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    server.put("b", "up/large", body, &pairs);
    let ((code, differences, said), _) = sample("100");
    assert_eq!((code, differences), (1, named(&[("large", "content")])), "{said}");
    let ((code, _, said), read) = sample("0.001");
    assert!(code == 0 && read < 2_000_000, "{read}: {said}");
    let holes = ["-source".as_ref(), tree.as_os_str(), "-dest".as_ref(), bucket, "-holes".as_ref()];
    let (code, _, said) = scene.verify(&holes);
    assert!(code == 2 && said.contains("have no holes"), "{said}");
}

/// A body that breaks off is no trouble: it goes on where it did, on either side, in ranges too, as often as a copy
/// would have it.
#[test]
fn a_comparison_survives_bodies_that_break_off() {
    let server = fault_server(73);
    server.set_checksums(Checksums::Ignored);
    server.make_bucket("c");
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    noise(&tree.join("small"), &mut Rng::new(1), 70_000);
    noise(&tree.join("large"), &mut Rng::new(2), 3 << 20);
    scene.job(&tree, "s3://b/up", "state").run().expect(0);
    scene.job("s3://b/up", "s3://c/up", "across").run().expect(0);
    let (up, across) = (OsStr::new("s3://b/up"), OsStr::new("s3://c/up"));
    let broken = |fault: Fault, times: u64| {
        server.heal();
        server.reset_counts();
        server.script(Rule::new(fault).on(&[Kind::Get]).times(times));
    };
    for fault in [Fault::Short(1000), Fault::ResetAnswer(60_000)] {
        for (source, dest) in [(tree.as_os_str(), up), (up, across)] {
            broken(fault.clone(), 5);
            assert_same(scene.compare(source, dest));
            assert_eq!(server.counts().faults, 5);
            let read = server.counts().body_out;
            assert!(read < 7_500_000, "{read} bytes read: a body goes on where it broke off");
        }
        broken(fault, 3);
        assert_same(scene.compare_recorded(up, "state"));
    }
    broken(Fault::Short(1000), 3);
    let words = ["-source".as_ref(), tree.as_os_str(), "-dest".as_ref(), up, "-sample".as_ref(), "100".as_ref()];
    assert_same(scene.verify(&words));
    broken(Fault::ResetAnswer(0), u64::MAX);
    let (code, _, said) = scene.compare(tree.as_os_str(), up);
    assert_eq!(code, 2, "{said}");
}

#[test]
fn one_file_is_compared_with_one_object() {
    let server = fault_server(69);
    server.make_bucket("c");
    let scene = Scene::new(&server, Engine::Auto);
    let (tree, back) = (scene.dir("tree"), scene.dir("back"));
    let file = tree.join("file");
    noise(&file, &mut Rng::new(1), 9000);
    let (one, below, two) = (OsStr::new("s3://b/x/one"), OsStr::new("s3://b/y/"), OsStr::new("s3://c/two"));
    scene.job(&file, one, "up").run().expect(0);
    scene.job(&file, below, "up-below").run().expect(0);
    scene.job(one, two, "across").run().expect(0);
    scene.job(one, &back, "down").run().expect(0);
    for (source, dest) in [(file.as_os_str(), one), (file.as_os_str(), below), (one, two), (one, back.as_os_str())] {
        assert_same(scene.compare(source, dest));
    }
    assert_same(scene.compare(one, back.join("one").as_os_str()));
    assert_same(scene.compare_recorded(one, "up"));
    assert_same(scene.compare_recorded(below, "up-below"));
    assert_same(scene.compare_recorded(two, "across"));
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    File::options().write(true).open(&file).unwrap().write_all_at(b"flip", 2500).unwrap();
    File::open(&file).unwrap().set_modified(time).unwrap();
    let (code, differences, said) = scene.compare(file.as_os_str(), one);
    assert_eq!((code, differences), (1, named(&[("file", "content")])), "{said}");
    let (code, _, said) = scene.compare(tree.as_os_str(), one);
    assert!(code == 2 && said.contains("the source is a directory"), "{said}");
    server.remove("b", "x/one");
    let (code, differences, said) = scene.compare_recorded(one, "up");
    assert_eq!((code, differences), (1, named(&[("file", "missing")])), "{said}");
}

/// A tree deeper than files may be open: compared, and gone through by a dry run.
#[test]
fn a_deep_tree_needs_few_open_directories() {
    let server = fault_server(70);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    let deepest = (0..450).fold(tree.clone(), |dir, _| dir.join("d"));
    fs::create_dir_all(&deepest).unwrap();
    fs::write(deepest.join("file"), "deep").unwrap();
    scene.job(&tree, "s3://b/up", "state").run().expect(0);
    let few = scene.join("few");
    fs::write(&few, "#!/bin/sh\nulimit -n 256\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&few, fs::Permissions::from_mode(0o755)).unwrap();
    let words = ["-source".as_ref(), tree.as_os_str(), "-dest".as_ref(), "s3://b/up".as_ref()];
    let mut command = Command::new(&few);
    command.arg(env!("CARGO_BIN_EXE_gfast")).arg("verify");
    assert_same(scene.verify_by(command, &words));
    let outcome = scene.job(&tree, "s3://b/up", "anew").arg("--dry-run").within(&few).run().expect(0);
    assert!(outcome.stdout.contains("adopt    same size and time"), "{outcome}");
}

/// What a copy does not cross is not compared either.
#[test]
fn mounts_that_a_copy_leaves_out_are_left_out() {
    let test = "mounts_that_a_copy_leaves_out_are_left_out";
    if !support::fixture::can_mount(test) {
        return;
    }
    let server = fault_server(71);
    let scene = Scene::new(&server, Engine::Auto);
    let tree = scene.dir("tree");
    fs::write(tree.join("file"), "x").unwrap();
    let mounted = |at: &str, args: &[&str]| {
        fs::create_dir(tree.join(at)).unwrap();
        support::fixture::must(Command::new("mount").args(args).arg(tree.join(at)));
        Unmounted(tree.join(at))
    };
    let _other = mounted("other", &["-t", "tmpfs", "tmpfs"]);
    fs::write(tree.join("other/below"), "x").unwrap();
    let _kernel = mounted("kernel", &["-t", "proc", "proc"]);
    let _loop = mounted("loop", &["--bind", tree.to_str().unwrap()]);
    let up = OsStr::new("s3://b/up");
    scene.job(&tree, "s3://b/up", "state").arg("--one-file-system").run().expect(0);
    let words = ["-source".as_ref(), tree.as_os_str(), "-dest".as_ref(), up, "-one-file-system".as_ref()];
    assert_same(scene.verify(&words));
    let (code, differences, said) = scene.compare(tree.as_os_str(), up);
    assert_eq!((code, differences), (1, named(&[("other/below", "missing")])), "{said}");
}

/// A mount point that is unmounted when it is dropped.
struct Unmounted(std::path::PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
