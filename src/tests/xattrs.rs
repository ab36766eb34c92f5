//! Extended attributes, ACLs and file capabilities: there and back between file systems, further passes, destinations
//! that cannot hold them. rsync says what differs.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::fixture::{can_mount, has, must, set_mode, skip};
use support::slow::can_mount_fuse;
use support::xattrs::{CAPABILITY, get_xattr, set_xattr};
use support::{Comparison, Engine, Job, Kind, Mount, Rng, Scratch, SlowMount, seed};

/// Directories of the tree, and files in each.
const DIRS: u64 = 12;
const FILES: u64 = 30;

fn can_run(test: &str) -> bool {
    let missing = ["rsync", "setfacl", "getfacl"].into_iter().find(|tool| !has(tool));
    can_mount(test) && missing.is_none_or(|tool| skip(test, &format!("no {tool}")))
}

fn acl(path: &Path, entries: &str) {
    must(Command::new("setfacl").args(["-m", entries]).arg(path));
}

/// What rsync would change to make the copy the source: nothing, if they are the same in all it knows of. XFS shows
/// root its ACLs a second time, as attributes in its own form, which no other file system has.
fn differences(source: &Path, copy: &Path) -> Vec<String> {
    let from = PathBuf::from(format!("{}/", source.display()));
    let mut command = Command::new("rsync");
    let said =
        must(command.args(["-naHAXSi", "--checksum", "--delete", "--filter=-x trusted.SGI_ACL_*"]).arg(from).arg(copy));
    said.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_same(source: &Path, copy: &Path) {
    let differences = differences(source, copy);
    assert!(differences.is_empty(), "{differences:#?}");
    Comparison::new(source, copy).assert_same();
}

/// Files of all sizes that are treated apart, with attributes of all kinds on most of them, in directories that hand
/// ACLs on.
fn grow(tree: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    fs::create_dir(tree).unwrap();
    for dir in 0..DIRS {
        let dir = tree.join(format!("dir-{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..FILES {
            let path = dir.join(format!("file-{file}"));
            let mut bytes = vec![0; rng.pick(&[0, 1, 5000, 100_000, 400_000])];
            rng.fill(&mut bytes);
            fs::write(&path, bytes).unwrap();
            decorate(&path, &mut rng, file);
        }
        set_xattr(&dir, "user.dir", b"a directory's");
        set_xattr(&dir, "trusted.dir", b"");
        acl(&dir, "u:1234:rx,g:77:r,d:u:1234:rwx,d:g::r,d:m::rx");
    }
    let large = tree.join("dir-0/large");
    let file = File::create(&large).unwrap();
    file.set_len(9 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 70_000], 5 << 20).unwrap();
    set_xattr(&large, "user.large", &[b'x'; 2000]);
    acl(&large, "u:1:rw");
    fs::hard_link(&large, tree.join("dir-1/linked")).unwrap();
    symlink("nowhere", tree.join("link")).unwrap();
    set_xattr(&tree.join("link"), "trusted.link", b"of the link itself");
    must(Command::new("mkfifo").arg(tree.join("fifo")));
    set_xattr(&tree.join("fifo"), "trusted.fifo", b"1");
    acl(&tree.join("fifo"), "u:9:rw");
    set_xattr(tree, "user.root", b"the root's");
    acl(tree, "g:5:rx,d:o::-");
}

fn decorate(path: &Path, rng: &mut Rng, number: u64) {
    chown(path, Some(rng.pick(&[0, 1000, 65_534])), Some(rng.pick(&[0, 100]))).unwrap();
    let mode = rng.pick(&[0o644, 0o400, 0o755, 0o4755, 0o000]);
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for _ in 0..rng.below(3) {
        let key = format!("{}.{}", rng.pick(&["user", "trusted"]), rng.below(1000));
        let mut value = vec![0; rng.pick(&[0, 1, 20, 300])];
        rng.fill(&mut value);
        set_xattr(path, &key, &value);
    }
    match number % 6 {
        0 => acl(path, "u:1234:rwx,g:77:r,g::-"),
        1 => acl(path, "g:77:rw,m::r"),
        2 => set_xattr(path, "security.capability", &CAPABILITY),
        _ => {}
    }
}

/// ext4 -> xfs -> ext4, a pass that finds nothing to do behind each, and verify.
#[test]
fn attributes_go_there_and_back() {
    let test = "attributes_go_there_and_back";
    if !can_run(test) {
        return;
    }
    for engine in Engine::all() {
        let [first, second, third] = [Kind::Ext4, Kind::Xfs, Kind::Ext4].map(|kind| Mount::new(kind, 512));
        let tree = first.join("tree");
        grow(&tree, seed(test, 81));
        let there = Job::new(&tree, second.join("copy"), second.join("state"), engine).args(&["--xattrs", "--acls"]);
        let back = Job::new(second.join("copy"), third.join("copy"), third.join("state"), engine);
        let back = back.args(&["--xattrs", "--acls", "--atomic"]);
        for (job, source) in [(&there, tree.clone()), (&back, second.join("copy"))] {
            let outcome = job.run().expect(0);
            assert!(!outcome.says("not kept"), "{outcome}");
            assert_same(&source, job.dest());
            let again = job.run().expect(0);
            assert_eq!((again.number("copied"), again.number("metadata_only")), (0, 0), "{again}");
        }
        assert_same(&tree, &third.join("copy"));
        assert_eq!(get_xattr(&third.join("copy/dir-3/file-2"), "security.capability"), Some(CAPABILITY.to_vec()));
    }
}

/// The words of `gfast report` about what was lost, by path.
fn losses(state: &Path) -> BTreeMap<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let report = must(command.args(["report", "-losses", "-format", "ndjson", "-state-dir"]).arg(state));
    let field = |line: &str, from: &str, to: char| {
        line.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(value, _)| value.to_owned())
    };
    let objects = report.lines().filter(|line| line.contains("\"kind\""));
    objects
        .map(|line| {
            (field(line, "\"path\":\"", '"').unwrap(), field(line, "\"losses\":[", ']').unwrap().replace('"', ""))
        })
        .collect()
}

/// What a destination that holds no attributes loses of everything below `dir`, by path.
fn expected_losses(root: &Path) -> BTreeMap<String, String> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = waiting.pop() {
        let mut list = vec![0; 65_536];
        let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        let keys: Vec<&[u8]> = list[..len].split(|byte| *byte == 0).collect();
        let has = |prefix: &[u8]| keys.iter().any(|key| key.starts_with(prefix));
        let kinds = [
            (has(b"user.") || has(b"trusted."), "xattrs"),
            (has(b"system.posix_acl_"), "acl"),
            (has(b"security.capability"), "capabilities"),
        ];
        let kinds: Vec<&str> = kinds.into_iter().filter(|(is_lost, _)| *is_lost).map(|(_, kind)| kind).collect();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if !kinds.is_empty() {
            found.insert(if name.is_empty() { ".".to_owned() } else { name }, kinds.join(","));
        }
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// A destination without attributes: each object's loss is listed, nothing else is; nobody gets rights that an ACL kept
/// from him; under --strict the objects fail.
#[test]
fn every_loss_is_listed_and_nothing_else() {
    let test = "every_loss_is_listed_and_nothing_else";
    if !can_run(test) || !can_mount_fuse(test) {
        return;
    }
    let source = Mount::new(Kind::Ext4, 512);
    let tree = source.join("tree");
    grow(&tree, seed(test, 82));
    fs::remove_file(tree.join("fifo")).unwrap();
    let expected = expected_losses(&tree);
    for engine in Engine::all() {
        let (slow, other) = (SlowMount::new(Duration::ZERO), Scratch::new());
        let (copy, state) = (slow.path().join("copy"), other.path().join("state"));
        let job = Job::new(&tree, &copy, &state, engine).args(&["--xattrs", "--acls"]);
        let outcome = job.run().expect(0);
        // A link has lost what its file has lost.
        assert_eq!(losses(&state), expected, "{outcome}");
        let of_kind = |kind: &str| expected.values().filter(|kinds| kinds.split(',').any(|one| one == kind)).count();
        assert_eq!(
            (outcome.number("xattrs"), outcome.number("acl")),
            (of_kind("xattrs") as u64, of_kind("acl") as u64)
        );
        // u:1234:rwx,g:77:r,g::-: the mode shows the mask, the group has nothing.
        let mode = fs::metadata(copy.join("dir-0/file-0")).unwrap().permissions().mode();
        assert_eq!(mode & 0o070, 0, "{mode:o}");
        assert_eq!(job.run().expect(0).number("copied"), 0);

        let strict = Job::new(&tree, slow.path().join("strict"), other.path().join("strict-state"), engine);
        let outcome = strict.args(&["--xattrs", "--acls", "--strict"]).run().expect(23);
        assert!(outcome.number("failed") >= expected.len() as u64, "{outcome}");
        assert!(!slow.path().join("strict/dir-0/file-0").exists(), "what failed does not stay");
    }
}

/// Attributes that come, change and go show in no byte: the next pass brings them, and copies nothing.
#[test]
fn a_pass_brings_changed_attributes_alone() {
    let test = "a_pass_brings_changed_attributes_alone";
    if !can_run(test) {
        return;
    }
    for engine in Engine::all() {
        let (source, dest) = (Mount::new(Kind::Xfs, 512), Mount::new(Kind::Ext4, 512));
        let tree = source.join("tree");
        grow(&tree, seed(test, 83));
        let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine);
        let job = job.args(&["--xattrs", "--acls", "--checksum"]);
        job.run().expect(0);
        let inode = |name: &str| fs::symlink_metadata(job.dest().join(name)).unwrap().ino();
        let changed = ["dir-0/file-0", "dir-0/file-2", "dir-1/file-5", "dir-2/file-1", "dir-0/large"];
        let before = changed.map(inode);
        must(Command::new("setfacl").arg("-b").arg(tree.join(changed[0])));
        rustix::fs::lremovexattr(tree.join(changed[1]), "security.capability").unwrap();
        set_xattr(&tree.join(changed[2]), "user.new", &[1; 900]);
        acl(&tree.join(changed[3]), "u:4321:r,g:77:rwx");
        rustix::fs::lremovexattr(tree.join(changed[4]), "user.large").unwrap();
        set_xattr(&tree.join("dir-4"), "user.dir", b"another");
        must(Command::new("setfacl").args(["-k", "-m", "u:7:r"]).arg(tree.join("dir-5")));
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("metadata_only"), outcome.number("bytes")), (5, 0), "{outcome}");
        assert_eq!(changed.map(inode), before, "a file was replaced for its attributes");
        assert_same(&tree, job.dest());

        // What is found without a record is put right likewise, extras included.
        set_xattr(&job.dest().join("dir-6/file-5"), "user.extra", b"1");
        acl(&job.dest().join("dir-6/file-3"), "u:3:rwx");
        let adopting = Job::new(&tree, job.dest(), dest.join("other-state"), engine).args(&["--xattrs", "--acls"]);
        adopting.run().expect(0);
        assert_same(&tree, job.dest());
        assert!(job.run().says("file"), "the first job is still one");
        let other = Job::new(&tree, job.dest(), dest.join("state"), engine).run().expect(2);
        assert!(other.says("option"), "a job that keeps less is another one: {other}");
    }
}

/// Killed wherever, it ends with all attributes.
#[test]
fn attributes_survive_kills() {
    let test = "attributes_survive_kills";
    if !can_run(test) {
        return;
    }
    let mut rng = Rng::new(seed(test, 84));
    for engine in Engine::all() {
        let (source, dest) = (Mount::new(Kind::Ext4, 512), Mount::new(Kind::Xfs, 512));
        let tree = source.join("tree");
        grow(&tree, 84);
        let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine);
        let job = job.args(&["--xattrs", "--acls", "--checkpoint-interval", "0.1", "--checkpoint-bytes", "1M"]);
        for _ in 0..8 {
            let running = job.start();
            running.run_for(Duration::from_millis(10 + rng.below(150)));
            running.kill();
        }
        job.run().expect(0);
        assert_same(&tree, job.dest());
    }
}

/// verify sees what rsync sees, and only if it is asked to; the source's root tells that nobody asked.
#[test]
fn verify_compares_attributes_where_they_are_asked_for() {
    let test = "verify_compares_attributes_where_they_are_asked_for";
    if !can_run(test) {
        return;
    }
    let (source, dest) = (Mount::new(Kind::Ext4, 512), Mount::new(Kind::Xfs, 512));
    let tree = source.join("tree");
    grow(&tree, seed(test, 85));
    let copy = dest.join("copy");
    let verify = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        let output = command.arg("verify").args(words).arg("-source").arg(&tree).arg("-dest").arg(&copy).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let outcome =
        Job::new(&tree, &copy, dest.join("state"), Engine::Auto).args(&["--xattrs", "--acls"]).run().expect(0);
    assert!(!outcome.says("is kept without"), "{outcome}");
    assert_eq!(verify(&["-xattrs", "-acls"]).0, Some(0));
    set_xattr(&copy.join("dir-1/file-4"), "user.extra", b"");
    acl(&copy.join("dir-2"), "u:12:rx");
    rustix::fs::lremovexattr(copy.join("link"), "trusted.link").unwrap();
    must(Command::new("setfacl").arg("-b").arg(&copy));
    let (code, said) = verify(&["-xattrs", "-acls"]);
    assert_eq!(code, Some(1), "{said}");
    for line in ["xattrs: dir-1/file-4\n", "acls: dir-2\n", "xattrs: link\n"] {
        assert!(said.contains(line), "{line} {said}");
    }
    let told = said.lines().filter(|line| line.starts_with("xattrs: ") || line.contains("acls: ")).count();
    assert_eq!(told, 4, "{said}");
    assert_eq!(verify(&["-xattrs"]).1.matches("acls").count(), 0);
    let state = dest.join("state");
    let mut recorded = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let recorded = recorded.args(["verify", "-xattrs", "-state-dir"]).arg(&state).arg("-dest").arg(&copy);
    assert_eq!(recorded.output().unwrap().status.code(), Some(2));
    let unasked = Job::new(&tree, dest.join("plain"), dest.join("plain-state"), Engine::Auto).run().expect(0);
    assert!(unasked.says("--xattrs") && unasked.says("--acls"), "{unasked}");
    assert_eq!(get_xattr(&dest.join("plain/dir-0/large"), "user.large"), None);
}

/// A user sets what a user may set, on files that he may not write to as well; the rest is lost.
#[test]
fn an_ordinary_user_keeps_the_attributes_of_users() {
    let test = "an_ordinary_user_keeps_the_attributes_of_users";
    if !can_run(test) {
        return;
    }
    const UID: u32 = 12_345;
    let (source, dest) = (Mount::new(Kind::Ext4, 64), Mount::new(Kind::Xfs, 320));
    let (tree, home) = (source.dir("tree"), dest.dir("home"));
    for (name, mode) in [("plain", 0o644), ("read-only", 0o444), ("privileged", 0o755)] {
        fs::write(tree.join(name), name).unwrap();
        set_xattr(&tree.join(name), "user.note", name.as_bytes());
        acl(&tree.join(name), "u:77:r");
        chown(tree.join(name), Some(UID), Some(UID)).unwrap();
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    set_xattr(&tree.join("privileged"), "security.capability", &CAPABILITY);
    [&tree, &home].iter().for_each(|dir| chown(dir, Some(UID), Some(UID)).unwrap());
    let job = Job::new(&tree, home.join("copy"), home.join("state"), Engine::Auto).args(&["--xattrs", "--acls"]);
    let outcome = job.user(UID).run().expect(0);
    for name in ["plain", "read-only", "privileged"] {
        let copy = home.join("copy").join(name);
        assert_eq!(get_xattr(&copy, "user.note").as_deref(), Some(name.as_bytes()), "{outcome}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&copy), mode(&tree.join(name)), "{name}");
        assert_eq!(get_xattr(&copy, "system.posix_acl_access"), get_xattr(&tree.join(name), "system.posix_acl_access"));
    }
    assert_eq!((outcome.number("capabilities"), outcome.number("failed")), (1, 0), "{outcome}");
}

/// What a file system has no room for beside its files is lost, and no reason to stop: there is room for files.
#[test]
fn an_attribute_without_room_is_lost() {
    let test = "an_attribute_without_room_is_lost";
    if !can_run(test) {
        return;
    }
    for engine in Engine::all() {
        let (source, dest) = (Mount::new(Kind::Xfs, 320), Mount::new(Kind::Ext4, 64));
        let tree = source.dir("tree");
        for (name, bytes) in [("large", 60_000), ("small", 100)] {
            fs::write(tree.join(name), name).unwrap();
            set_xattr(&tree.join(name), "user.value", &vec![b'v'; bytes]);
        }
        let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine).arg("--xattrs");
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("xattrs")), (2, 1), "{outcome}");
        assert_eq!(losses(&dest.join("state")), BTreeMap::from([("large".to_owned(), "xattrs".to_owned())]));
        assert_eq!(get_xattr(&dest.join("copy/small"), "user.value"), Some(vec![b'v'; 100]));
    }
}

/// Without `--acls` the mode alone is kept, and the group's bits of a mode are the mask of an ACL: the copy gives the
/// owning group what the ACL gave it, and no more (I9). `verify` takes such a copy for the same, and no other one.
#[test]
fn a_copy_without_its_acl_grants_the_group_no_more_than_that() {
    let test = "a_copy_without_its_acl_grants_the_group_no_more_than_that";
    if !can_run(test) {
        return;
    }
    for engine in Engine::all() {
        let (source, dest) = (Mount::new(Kind::Ext4, 256), Mount::new(Kind::Xfs, 512));
        let tree = source.dir("tree");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let of = |name: &str| tree.join(name);
        fs::create_dir(of("dir")).unwrap();
        for (name, size) in [("small", 9), ("empty", 0), ("large", 9 << 20), ("plain", 9), ("dir/below", 9)] {
            fs::write(of(name), vec![7; size]).unwrap();
            set_mode(&of(name), 0o640);
        }
        fs::hard_link(of("small"), of("second")).unwrap();
        set_mode(&of("plain"), 0o660);
        set_mode(&of("dir"), 0o750);
        ["small", "empty", "large", "dir/below"].into_iter().for_each(|name| acl(&of(name), "u:1234:rw"));
        acl(&of("dir"), "u:1234:rwx,g::-");
        assert_eq!((mode(&of("small")), mode(&of("dir"))), (0o660, 0o770));
        let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine);
        let outcome = job.run().expect(0);
        let made = |name: &str| mode(&job.dest().join(name));
        for name in ["small", "second", "empty", "large", "dir/below"] {
            assert_eq!(made(name), 0o640, "{name}: {outcome}");
        }
        assert_eq!((made("plain"), made("dir")), (0o660, 0o700), "{outcome}");
        let verified = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
            let output = command.arg("verify").arg("-source").arg(&tree).arg("-dest").arg(job.dest()).output().unwrap();
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (code, said) = verified();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(job.run().expect(0).number("copied"), 0, "nothing has changed");
        set_mode(&job.dest().join("small"), 0o600);
        assert_eq!(verified().0, Some(1));
    }
}

/// A mount that has no POSIX ACLs and others instead: what they say beyond the mode is lost, and told.
#[test]
fn an_acl_of_nfs4_is_a_loss() {
    let test = "an_acl_of_nfs4_is_a_loss";
    if !can_mount_fuse(test) {
        return;
    }
    let (mount, other) = (SlowMount::having_acls_of_nfs4(), Scratch::new());
    for name in ["shared", "plain"] {
        fs::write(mount.folder().join(name), "content").unwrap();
    }
    let job = |more: &[&str], state: &str| {
        let job = Job::new(mount.path(), other.path().join("copy"), other.path().join(state), Engine::Auto);
        job.args(more)
    };
    let asked = job(&["--acls", "--xattrs"], "asked");
    let outcome = asked.run().expect(0);
    assert!(outcome.says("\"losses\":{\"acl\":1}") && outcome.number("copied") == 2, "{outcome}");
    asked.arg("--strict").run().expect(23);
    let outcome = job(&["--xattrs", "--strict"], "unasked").run().expect(0);
    assert!(outcome.says("\"losses\":{}"), "{outcome}");
}
