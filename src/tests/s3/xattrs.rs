//! Extended attributes and ACLs in the metadata of objects: they come back as far as there is room for them, and as far
//! as the bucket is trusted.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::fixture::{can_mount, has, must, skip};
use super::support::xattrs::{CAPABILITY, get_xattr, set_xattr};
use super::support::{Comparison, Engine, Kind, Mount};
use super::{Scene, fault_server};

/// All attributes of all that lies below `root`, but those that are a file system's own view of others.
fn attributes(root: &Path) -> BTreeMap<PathBuf, BTreeMap<String, Vec<u8>>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = waiting.pop() {
        let mut list = vec![0; 65_536];
        let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        let keys = list[..len].split(|byte| *byte == 0).map(|key| String::from_utf8(key.to_vec()).unwrap());
        let keys = keys.filter(|key| !key.is_empty() && !key.starts_with("trusted.SGI_ACL_"));
        let values = keys.map(|key| (key.clone(), get_xattr(&path, &key).unwrap())).collect();
        found.insert(path.strip_prefix(root).unwrap().to_owned(), values);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

fn grow(tree: &Path) {
    fs::create_dir_all(tree.join("dir/empty")).unwrap();
    for (name, size) in [("small", 10), ("nothing", 0), ("dir/large", 12 << 20), ("dir/program", 5000)] {
        fs::write(tree.join(name), vec![b'x'; size]).unwrap();
        set_xattr(&tree.join(name), "user.note", &[&b"of \0"[..], name.as_bytes(), &[0xff]].concat());
        set_xattr(&tree.join(name), "trusted.note", b"");
    }
    fs::hard_link(tree.join("small"), tree.join("dir/linked")).unwrap();
    let acl = |words: &[&str], name: &str| must(Command::new("setfacl").args(words).arg(tree.join(name)));
    acl(&["-m", "u:1234:rwx,g:77:r"], "dir/large");
    acl(&["-m", "u:1234:rwx,d:u:55:rx,d:g::r"], "dir");
    acl(&["-m", "d:u:55:rx"], "dir/empty");
    set_xattr(&tree.join("dir/program"), "security.capability", &CAPABILITY);
    set_xattr(&tree.join("dir"), "user.dir", b"1");
    set_xattr(tree, "user.root", b"2");
}

#[test]
fn attributes_travel_with_objects() {
    let test = "attributes_travel_with_objects";
    if !can_mount(test) || (!has("setfacl") && !skip(test, "no setfacl")) {
        return;
    }
    for engine in Engine::all() {
        let (from, to) = (Mount::new(Kind::Ext4, 512), Mount::new(Kind::Xfs, 512));
        let tree = from.dir("tree");
        grow(&tree);
        let server = fault_server(1);
        let scene = Scene::new(&server, engine);
        let words = ["--xattrs", "--acls"];
        let up = scene.job(&tree, "s3://b/p", "up").args(&words);
        let outcome = up.run().expect(0);
        assert!(!outcome.says("not kept"), "{outcome}");
        assert_eq!(up.run().expect(0).number("copied"), 0);
        // Without its records it finds all objects as they should be.
        let again = scene.job(&tree, "s3://b/p", "again").args(&words).run().expect(0);
        assert_eq!(again.number("copied"), 0, "{again}");

        let trusting = scene.job("s3://b/p", to.join("copy"), "down").args(&words).arg("--special-bits");
        trusting.run().expect(0);
        assert_eq!(attributes(&tree), attributes(&to.join("copy")));
        Comparison::new(&tree, &to.join("copy")).assert_same();
        assert_eq!(trusting.run().expect(0).number("copied"), 0);

        // What the system itself believes does not come out of a bucket by itself.
        let outcome = scene.job("s3://b/p", to.join("plain"), "plain").args(&words).run().expect(0);
        let mut expected = attributes(&tree);
        expected
            .values_mut()
            .for_each(|values| values.retain(|key, _| !key.starts_with("trusted.") && key != "security.capability"));
        assert_eq!(attributes(&to.join("plain")), expected, "{outcome}");
        assert_eq!(outcome.number("capabilities"), 1, "{outcome}");
        let unasked = to.join("unasked");
        scene.job("s3://b/p", &unasked, "unasked").run().expect(0);
        assert!(attributes(&unasked).values().all(BTreeMap::is_empty));
    }
}

#[test]
fn what_an_object_has_no_room_for_is_lost() {
    let test = "what_an_object_has_no_room_for_is_lost";
    if !can_mount(test) {
        return;
    }
    let from = Mount::new(Kind::Xfs, 512);
    let tree = from.dir("tree");
    for (name, bytes) in [("fits", 1000), ("does-not", 3000)] {
        fs::write(tree.join(name), name).unwrap();
        set_xattr(&tree.join(name), "user.large", &vec![7; bytes]);
        set_xattr(&tree.join(name), "user.small", b"small");
    }
    fs::create_dir(tree.join("dir")).unwrap();
    set_xattr(&tree.join("dir"), "user.large", &[7; 2000]);
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let outcome = scene.job(&tree, "s3://b/p", "up").arg("--xattrs").run().expect(0);
    assert_eq!(outcome.number("xattrs"), 2, "{outcome}");
    scene.job("s3://b/p", from.join("copy"), "down").arg("--xattrs").run().expect(0);
    assert_eq!(get_xattr(&from.join("copy/fits"), "user.large"), Some(vec![7; 1000]));
    assert_eq!(get_xattr(&from.join("copy/does-not"), "user.small").as_deref(), Some(&b"small"[..]));
    assert_eq!(get_xattr(&from.join("copy/does-not"), "user.large"), None);
    let strict = scene.job(&tree, "s3://b/strict", "strict").args(&["--xattrs", "--strict"]);
    assert_eq!(strict.run().expect(23).number("failed"), 2);
}

/// What `verify` names of two sides, by path; all it said comes with it.
fn differing(scene: &Scene, source: &Path, dest: &Path, words: &[&str]) -> (i32, BTreeMap<String, String>, String) {
    let mut all = vec!["-source".as_ref(), source.as_os_str(), "-dest".as_ref(), dest.as_os_str()];
    all.extend(words.iter().map(|word| std::ffi::OsStr::new(*word)));
    scene.verify(&all)
}

/// Objects are held against files, files against objects and objects against objects, by their attributes, too.
#[test]
fn attributes_in_a_bucket_are_compared() {
    let test = "attributes_in_a_bucket_are_compared";
    if !can_mount(test) || (!has("setfacl") && !skip(test, "no setfacl")) {
        return;
    }
    let (from, to) = (Mount::new(Kind::Ext4, 512), Mount::new(Kind::Xfs, 512));
    let (tree, copy) = (from.dir("tree"), to.join("copy"));
    grow(&tree);
    std::os::unix::fs::symlink("small", tree.join("link")).unwrap();
    let server = fault_server(71);
    server.make_bucket("c");
    let scene = Scene::new(&server, Engine::Auto);
    let words = ["--xattrs", "--acls"];
    let (bucket, twin) = (Path::new("s3://b/p"), Path::new("s3://c/twin"));
    scene.job(&tree, bucket, "up").args(&words).run().expect(0);
    scene.job(bucket, twin, "across").args(&words).run().expect(0);
    scene.job(bucket, &copy, "down").args(&words).run().expect(0);
    for (source, dest) in [(&*tree, bucket), (bucket, twin), (bucket, &*copy), (&*tree, &*copy)] {
        let (code, differences, said) = differing(&scene, source, dest, &words);
        // From file system to file system the privileges are missed that did not come out of the bucket.
        let is_missed = source == tree && dest == copy;
        let expected = ["dir/large", "dir/linked", "dir/program", "nothing", "small"];
        let expected = if is_missed { &expected[..] } else { &[] };
        assert_eq!(differences.keys().collect::<Vec<_>>(), expected, "{} {}: {said}", source.display(), dest.display());
        assert_eq!(code, i32::from(is_missed), "{said}");
    }

    set_xattr(&tree.join("small"), "user.note", b"another");
    set_xattr(&tree.join("nothing"), "user.more", b"");
    rustix::fs::removexattr(tree.join("dir/large"), "user.note").unwrap();
    rustix::fs::removexattr(tree.join("dir/program"), "security.capability").unwrap();
    must(Command::new("setfacl").args(["-n", "-m", "u:1234:r"]).arg(tree.join("dir/large")));
    must(Command::new("setfacl").arg("-k").arg(tree.join("dir")));
    set_xattr(&tree, "user.root", b"changed");
    set_xattr(&tree.join("dir/empty"), "user.large", &[7; 3000]);
    let named = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(path, names)| ((*path).to_owned(), (*names).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let expected = named(&[
        (".", "xattrs"),
        ("dir", "acls"),
        ("dir/empty", "xattrs"),
        ("dir/large", "xattrs,acls"),
        ("dir/linked", "xattrs"),
        ("dir/program", "xattrs"),
        ("nothing", "xattrs"),
        ("small", "xattrs"),
    ]);
    let (code, differences, said) = differing(&scene, &tree, bucket, &words);
    assert_eq!((code, &differences), (1, &expected), "{said}");
    // The same the other way, but for the capability: it is not missed, for it would not come out of the bucket.
    let (code, differences, said) = differing(&scene, bucket, &tree, &words);
    let mut downwards = expected.clone();
    downwards.remove("dir/program");
    assert_eq!((code, &differences), (1, &downwards), "{said}");
    let only = |kind: &str| expected.iter().filter(|(_, names)| names.contains(kind)).count();
    for (word, kind) in [("--xattrs", "xattrs"), ("--acls", "acls")] {
        let (code, differences, said) = differing(&scene, &tree, bucket, &[word]);
        assert_eq!((code, differences.len()), (1, only(kind)), "{said}");
        assert!(differences.values().all(|names| names == kind), "{said}");
    }
    let (code, _, said) = differing(&scene, &tree, bucket, &[]);
    assert_eq!(code, 0, "nothing else is another: {said}");
}
