//! verify on real file systems: what is the same is called the same, and every single difference is named.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use gfast::catalog::{Batch, Catalog, Checksum, DirId, Proof, Record, Row};
use gfast::digest::crc64;
use rustix::process::{Pid, Signal, kill_process};
use support::fixture::{can_mount, must, set_mode};
use support::slow::can_mount_fuse;
use support::{Engine, Job, Kind, Mount, Rng, Scratch, SlowMount, mutate, seed, tree};

mod support;

fn gfast(words: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gfast")).arg("verify").args(words).output().unwrap()
}

/// Runs `verify` with these words besides `-json`: the exit code, and what differs by path.
fn verify(words: &[&dyn AsRef<OsStr>]) -> (i32, BTreeMap<String, Vec<String>>, String) {
    let words: Vec<&OsStr> = words.iter().map(|word| (*word).as_ref()).chain([OsStr::new("-json")]).collect();
    let output = gfast(&words);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let mut differences = BTreeMap::new();
    let mut lines: Vec<&str> = stdout.lines().collect();
    let summary = lines.pop().unwrap_or_default().to_owned() + &String::from_utf8_lossy(&output.stderr);
    for line in lines {
        let (path, rest) = line.strip_prefix("{\"path\":\"").unwrap().split_once("\",\"differs\":[").unwrap();
        let names = rest.split_once(']').unwrap().0.split(',').map(|name| name.trim_matches('"').to_owned());
        assert!(differences.insert(path.to_owned(), names.collect()).is_none(), "{path} is said twice");
    }
    (output.status.code().unwrap(), differences, summary)
}

#[test]
fn a_copy_is_the_same_until_it_is_changed() {
    let test = "a_copy_is_the_same_until_it_is_changed";
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, 21);
    for (from, to) in [(Kind::Ext4, Kind::Xfs), (Kind::Xfs, Kind::Btrfs), (Kind::Btrfs, Kind::Tmpfs)] {
        let (source, dest) = (Mount::new(from, 1024), Mount::new(to, 1024));
        let tree = source.dir("tree");
        tree::mixed(&tree, seed, 300);
        mutate::prepare(&source.dir("tree/changing"), seed);
        let copy = dest.join("copy");
        Job::new(&tree, &copy, dest.join("state"), Engine::Sync).run().expect(0);
        for engine in Engine::all() {
            let engine = format!("-engine={engine:?}").to_lowercase();
            let (code, differences, summary) = verify(&[&"-source", &tree, &"-dest", &copy, &engine, &"-holes"]);
            assert_eq!((code, &differences), (0, &BTreeMap::new()), "{from:?} {to:?} {summary}");
            let state = dest.join("state");
            let (code, differences, summary) = verify(&[&"-dest", &copy, &"-state-dir", &state, &engine]);
            assert_eq!((code, &differences), (0, &BTreeMap::new()), "{from:?} {to:?} {summary}");
        }
    }
}

#[test]
fn every_difference_is_named() {
    let test = "every_difference_is_named";
    if !can_mount(test) {
        return;
    }
    let (source, dest) = (Mount::new(Kind::Ext4, 256), Mount::new(Kind::Xfs, 512));
    let tree = source.dir("tree");
    let mut rng = Rng::new(seed(test, 4));
    fs::create_dir_all(tree.join("d/e")).unwrap();
    let at = tree::open_dir(&tree);
    for (name, size) in [(c"small", 3000), (c"large", 5_000_000), (c"grown", 10), (c"retyped", 10), (c"gone", 10)] {
        tree::regular(&mut rng, &at, name, size);
    }
    for (name, size) in [(c"mode", 1), (c"owner", 1), (c"time", 1), (c"one", 9), (c"two", 9), (c"d2", 0)] {
        tree::regular(&mut rng, &at, name, size);
    }
    tree::sparse(&mut rng, &at, c"holes", &[(0, 4096)], 8 << 20);
    fs::hard_link(tree.join("one"), tree.join("linked")).unwrap();
    symlink("there", tree.join("link")).unwrap();
    let copy = dest.join("copy");
    let job = Job::new(&tree, &copy, dest.join("state"), Engine::Sync);
    job.run().expect(0);
    let touch = |name: &str| {
        let reference = tree.join(name);
        must(Command::new("touch").arg("-h").arg("-r").arg(&reference).arg(copy.join(name)));
    };
    for (name, offset) in [("small", 2999), ("large", 4_000_001)] {
        let file = File::options().read(true).write(true).open(copy.join(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        touch(name);
    }
    File::options().append(true).open(copy.join("grown")).unwrap().set_len(11).unwrap();
    touch("grown");
    fs::remove_file(copy.join("retyped")).unwrap();
    fs::create_dir(copy.join("retyped")).unwrap();
    fs::remove_file(copy.join("gone")).unwrap();
    fs::write(copy.join("d/e/new"), "x").unwrap();
    touch("d/e");
    let mode = fs::metadata(copy.join("mode")).unwrap().mode();
    set_mode(&copy.join("mode"), mode ^ 0o001);
    let owner = fs::metadata(copy.join("owner")).unwrap();
    lchown(copy.join("owner"), Some(owner.uid() ^ 1), None).unwrap();
    // A change of owner takes set-id bits with it.
    set_mode(&copy.join("owner"), owner.mode());
    must(Command::new("touch").args(["-d", "2001-01-01"]).arg(copy.join("time")));
    fs::remove_file(copy.join("linked")).unwrap();
    must(Command::new("cp").arg("-p").arg(copy.join("one")).arg(copy.join("linked")));
    fs::remove_file(copy.join("link")).unwrap();
    symlink("where", copy.join("link")).unwrap();
    touch("link");
    let holes = File::options().write(true).open(copy.join("holes")).unwrap();
    rustix::fs::fallocate(&holes, rustix::fs::FallocateFlags::empty(), 0, 8 << 20).unwrap();
    touch("holes");
    touch(".");
    let said = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let mut expected: BTreeMap<String, Vec<String>> = [
        ("small", said(&["content"])),
        ("large", said(&["content"])),
        ("grown", said(&["size"])),
        ("retyped", said(&["type"])),
        ("gone", said(&["missing"])),
        ("d/e/new", said(&["extra"])),
        ("mode", said(&["mode"])),
        ("owner", said(&["owner"])),
        ("time", said(&["mtime"])),
        ("link", said(&["target"])),
        ("holes", said(&["holes"])),
    ]
    .into_iter()
    .map(|(name, aspects)| (name.to_owned(), aspects))
    .collect();
    for engine in Engine::all() {
        let engine = format!("-engine={engine:?}").to_lowercase();
        let (code, mut differences, summary) = verify(&[&"-source", &tree, &"-dest", &copy, &engine, &"-holes"]);
        // Whichever of a group's names comes second.
        let links: BTreeSet<_> = ["one", "linked"].into_iter().filter_map(|name| differences.remove(name)).collect();
        assert_eq!(links, [said(&["links"])].into(), "{summary}");
        assert_eq!((code, &differences), (1, &expected), "{summary}");
        assert!(summary.contains("\"read_through_cache\":0"), "{summary}");
    }
    // The record knows neither modes nor targets of equal length, and has no checksums yet.
    let state = dest.join("state");
    let (code, differences, _) = verify(&[&"-dest", &copy, &"-state-dir", &state]);
    ["small", "large", "mode", "owner", "link", "holes"].iter().for_each(|name| drop(expected.remove(*name)));
    assert_eq!((code, differences), (1, expected.clone()));
    record_checksums(&tree, &state, &copy);
    let (code, differences, summary) = verify(&[&"-dest", &copy, &"-state-dir", &state]);
    expected.insert("small".to_owned(), said(&["content"]));
    expected.insert("large".to_owned(), said(&["content"]));
    assert_eq!((code, differences), (1, expected), "{summary}");
    assert!(summary.contains("\"without_checksum\":0"), "{summary}");
}

#[test]
fn checksums_recorded_while_copying_are_those_of_the_files() {
    let test = "checksums_recorded_while_copying_are_those_of_the_files";
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, 33);
    let (source, dest) = (Mount::new(Kind::Ext4, 1024), Mount::new(Kind::Xfs, 1024));
    let tree = source.dir("tree");
    tree::mixed(&tree, seed, 200);
    let large = File::create(tree.join("large")).unwrap();
    let mut bytes = vec![0; 9 << 20];
    Rng::new(seed).fill(&mut bytes);
    large.write_all_at(&bytes, 5 << 20).unwrap();
    large.write_all_at(&bytes, 30_000_001).unwrap();
    large.set_len(41 << 20).unwrap();
    for engine in Engine::all() {
        let (copy, state) = (dest.join(format!("copy-{engine:?}")), dest.join(format!("state-{engine:?}")));
        Job::new(&tree, &copy, &state, engine).arg("--checksum").run().expect(0);
        let (code, differences, summary) = verify(&[&"-dest", &copy, &"-state-dir", &state]);
        assert_eq!((code, differences), (0, BTreeMap::new()), "{summary}");
        assert!(summary.contains("\"without_checksum\":0"), "{summary}");
        let path = copy.join("large");
        let times = fs::metadata(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"x", 3 << 20).unwrap();
        file.set_modified(times.modified().unwrap()).unwrap();
        let (code, differences, summary) = verify(&[&"-dest", &copy, &"-state-dir", &state]);
        let expected = BTreeMap::from([("large".to_owned(), vec!["content".to_owned()])]);
        assert_eq!((code, differences), (1, expected), "{summary}");
    }
}

/// Puts the source's checksums into the catalog.
fn record_checksums(tree: &Path, state: &Path, copy: &Path) {
    let (reader, identity) = Catalog::open_recorded(state, Some(copy.as_os_str().as_bytes())).unwrap();
    drop(reader);
    let catalog = Catalog::open(state, &identity, false).unwrap();
    let mut rows = Vec::new();
    for (name, record) in catalog.reader().unwrap().entries(DirId::ROOT, None, 1000).unwrap() {
        let Record::File(mut record) = record else { continue };
        let path = tree.join(OsStr::from_bytes(name.to_bytes()));
        if path.is_symlink() {
            continue;
        }
        let content = fs::read(&path).unwrap();
        record.checksum = Some(Checksum { crc64: crc64(&content), proof: Proof::Written });
        rows.push(Row::PutEntry { dir: DirId::ROOT, name, record: Record::File(record) });
    }
    let batch = Batch { rows, header: catalog.header(), reseal_dirs: Vec::new() };
    catalog.commit(&batch).unwrap();
}

/// The first extent of each file on its device, as byte offset and length.
fn extents(files: &[PathBuf]) -> Vec<(u64, u64)> {
    let text = must(Command::new("filefrag").args(["-v", "-b4096"]).args(files));
    let first = text.lines().filter(|line| line.trim_start().starts_with("0:"));
    let extents = first.map(|line| {
        let parts: Vec<&str> = line.split(':').collect();
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        (number(parts[2].split("..").next().unwrap()) * 4096, number(parts[3]) * 4096)
    });
    extents.collect()
}

#[test]
fn a_bit_flipped_on_the_device_is_found_although_the_cache_knows_better() {
    let test = "a_bit_flipped_on_the_device_is_found";
    if !can_mount(test) {
        return;
    }
    let mut rng = Rng::new(seed(test, 8));
    for kind in [Kind::Ext4, Kind::Xfs] {
        let (source, dest) = (Mount::new(Kind::Ext4, 1024), Mount::new(kind, 1024));
        let tree = source.dir("tree");
        let names: Vec<String> = (0..200).map(|index| format!("file{index:03}")).collect();
        for name in &names {
            let mut bytes = vec![0; if rng.below(8) == 0 { 1 << 21 } else { 1 + rng.below(300_000) as usize }];
            rng.fill(&mut bytes);
            fs::write(tree.join(name), bytes).unwrap();
        }
        fs::write(tree.join("whole"), "whole").unwrap();
        let copy = dest.join("copy");
        Job::new(&tree, &copy, dest.join("state"), Engine::Sync).run().expect(0);
        must(Command::new("sync").arg("-f").arg(&copy));
        let files: Vec<PathBuf> = names.iter().map(|name| copy.join(name)).collect();
        // All of them are in the cache as they were written.
        files.iter().for_each(|file| drop(fs::read(file).unwrap()));
        let device = must(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(dest.path()));
        let device = File::options().read(true).write(true).open(device.trim()).unwrap();
        for (file, (start, len)) in files.iter().zip(extents(&files)) {
            let at = start + rng.below(len.min(fs::metadata(file).unwrap().len()));
            let mut byte = [0];
            device.read_exact_at(&mut byte, at).unwrap();
            device.write_all_at(&[byte[0] ^ 1 << rng.below(8)], at).unwrap();
        }
        device.sync_all().unwrap();
        for engine in Engine::all() {
            let engine = format!("-engine={engine:?}").to_lowercase();
            let (code, differences, summary) = verify(&[&"-source", &tree, &"-dest", &copy, &engine]);
            let expected: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), vec!["content".into()])).collect();
            assert_eq!((code, differences), (1, expected), "{kind:?} {summary}");
            let words = [&"-source" as &dyn AsRef<OsStr>, &tree, &"-dest", &copy, &"-0", &engine];
            let output = gfast(&words.map(|word| word.as_ref()));
            let paths: BTreeSet<&[u8]> =
                output.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty()).collect();
            assert_eq!(paths, names.iter().map(|name| name.as_bytes()).collect());
        }
    }
}

#[test]
fn what_cannot_be_compared_is_2() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::write(a.join("x"), "x").unwrap();
    must(Command::new("cp").arg("-a").arg(&a).arg(&b));
    let state = scratch.path().join("state");
    assert_eq!(verify(&[&"-source", &a, &"-dest", &b]).0, 0);
    for words in [
        &[&"-source" as &dyn AsRef<OsStr>, &a, &"-dest", &scratch.path().join("nowhere")][..],
        &[&"-source", &scratch.path().join("nowhere"), &"-dest", &b],
        &[&"-source", &a],
        &[&"-source", &a, &"-dest", &b, &"-sample", &"0"],
        &[&"-source", &a, &"-dest", &b, &"-0"],
        &[&"-dest", &b, &"-state-dir", &state],
        &[&"-source", &a, &"-dest", &b.join("x")],
    ] {
        let (code, _, said) = verify(words);
        assert!(code == 2 && said.contains("gfast: "), "{code} {said}");
    }
    assert!(!state.exists(), "a comparison makes nothing");
    // A directory that cannot be read: only others than root meet that.
    if rustix::process::geteuid().is_root() {
        fs::create_dir(a.join("closed")).unwrap();
        must(Command::new("cp").arg("-a").arg(a.join("closed")).arg(&b));
        must(Command::new("touch").arg("-r").arg(&a).arg(&b));
        set_mode(&a.join("closed"), 0o700);
        set_mode(&b.join("closed"), 0o700);
        let binary = scratch.path().join("gfast");
        must(Command::new("cp").arg(env!("CARGO_BIN_EXE_gfast")).arg(&binary));
        let mut command = Command::new("setpriv");
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups", "--"]).arg(&binary).arg("verify");
        let output = command.arg("-source").arg(&a).arg("-dest").arg(&b).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains("cannot open"), "{stderr}");
    }
}

#[test]
fn one_file_and_a_choice_of_files_are_compared() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
    fs::create_dir_all(a.join("d")).unwrap();
    ["x.o", "d/y.o", "d/z"].iter().for_each(|name| fs::write(a.join(name), name).unwrap());
    must(Command::new("cp").arg("-a").arg(&a).arg(&b));
    assert_eq!(verify(&[&"-source", &a.join("d/z"), &"-dest", &b.join("d/z")]).0, 0);
    assert_eq!(verify(&[&"-source", &a.join("d/z"), &"-dest", &b.join("d")]).0, 0);
    ["x.o", "d/y.o"].iter().for_each(|name| fs::write(b.join(name), "other").unwrap());
    fs::write(b.join("d/w.o"), "").unwrap();
    let (code, differences, _) = verify(&[&"-source", &a.join("d/y.o"), &"-dest", &b.join("d/y.o")]);
    assert_eq!((code, differences.len()), (1, 1));
    must(Command::new("touch").arg("-r").arg(a.join("d")).arg(b.join("d")));
    let (code, differences, _) = verify(&[&"-source", &a, &"-dest", &b, &"-exclude", &"*.o"]);
    assert_eq!((code, differences.len()), (0, 0));
    let list = scratch.path().join("list");
    fs::write(&list, "d\0").unwrap();
    let (code, differences, _) = verify(&[&"-source", &a, &"-dest", &b, &"-files-from", &list]);
    assert_eq!((code, differences.into_keys().collect::<Vec<_>>()), (1, vec!["d/w.o".to_owned(), "d/y.o".to_owned()]));
}

#[test]
fn a_sample_says_what_it_read() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
    fs::create_dir(&a).unwrap();
    (0..400).for_each(|index| fs::write(a.join(format!("{index}")), [0; 100]).unwrap());
    fs::write(a.join("large"), vec![7; 100 << 20]).unwrap();
    must(Command::new("cp").arg("-a").arg(&a).arg(&b));
    let (code, _, summary) = verify(&[&"-source", &a, &"-dest", &b, &"-sample", &"20"]);
    let value = |key: &str| {
        let rest = summary.split_once(&format!("\"{key}\":")).unwrap().1;
        rest.split([',', '}']).next().unwrap().parse::<f64>().unwrap()
    };
    assert_eq!((code, value("units"), value("bytes")), (0, 500.0, f64::from((100 << 20) + 40_000)));
    let read = value("units_compared");
    assert!((50.0..150.0).contains(&read) && value("bytes_read") == 2.0 * value("bytes_compared"), "{summary}");
    assert!((value("differ_below_percent_95") - (1.0 - 0.05f64.powf(1.0 / read)) * 100.0).abs() < 0.01, "{summary}");
}

/// The record of a file does not hold for a symlink that is as long, or for a FIFO.
#[test]
fn another_kind_of_object_is_told_from_the_record_of_a_file() {
    for engine in Engine::all() {
        let scratch = Scratch::new();
        let (tree, copy, state) = ["tree", "copy", "state"].map(|name| scratch.path().join(name)).into();
        fs::create_dir(&tree).unwrap();
        for name in ["link", "fifo", "same"] {
            fs::write(tree.join(name), "four").unwrap();
        }
        symlink("there", tree.join("symlink")).unwrap();
        Job::new(&tree, &copy, &state, engine).arg("-checksum").run().expect(0);
        for name in ["link", "fifo"] {
            fs::remove_file(copy.join(name)).unwrap();
        }
        symlink("back", copy.join("link")).unwrap();
        must(Command::new("mkfifo").arg("-m644").arg(copy.join("fifo")));
        for name in ["link", "fifo"] {
            must(Command::new("touch").arg("-h").arg("-r").arg(tree.join(name)).arg(copy.join(name)));
        }
        must(Command::new("touch").arg("-r").arg(&tree).arg(&copy));
        let (code, differences, summary) = verify(&[&"-dest", &copy, &"-state-dir", &state]);
        let is_type = |name: &str| differences.get(name).is_some_and(|said| said.contains(&"type".to_owned()));
        assert!(code == 1 && differences.len() == 2 && is_type("link") && is_type("fifo"), "{differences:?} {summary}");
    }
}

/// A file that is drawn as a whole is one unit of the sample, however long it is.
#[test]
fn a_recorded_file_is_one_unit_of_a_sample() {
    let scratch = Scratch::new();
    let (tree, copy, state) = ["tree", "copy", "state"].map(|name| scratch.path().join(name)).into();
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("large"), vec![7; 5 << 20]).unwrap();
    fs::write(tree.join("small"), "small").unwrap();
    Job::new(&tree, &copy, &state, Engine::Sync).arg("-checksum").run().expect(0);
    let (code, _, summary) = verify(&[&"-dest", &copy, &"-state-dir", &state, &"-sample=100"]);
    assert!(code == 0 && summary.contains("\"units_compared\":2,\"units\":2"), "{summary}");
    let (code, _, summary) = verify(&[&"-source", &tree, &"-dest", &copy, &"-sample=100"]);
    assert!(code == 0 && summary.contains("\"units_compared\":6,\"units\":6"), "{summary}");
}

/// A run that was killed before it recorded anything of its one file has not copied it.
#[test]
fn a_file_of_which_nothing_is_recorded_is_not_the_same() {
    for engine in Engine::all() {
        let scratch = Scratch::new();
        let (source, dest, state) = ["source", "dest", "state"].map(|name| scratch.path().join(name)).into();
        fs::write(&source, vec![7; 20 << 20]).unwrap();
        fs::write(&dest, "old").unwrap();
        let running =
            Job::new(&source, &dest, &state, engine).args(&["-bwlimit=1K", "-checkpoint-interval=60"]).start();
        // The new content goes to a name of its own, beside the three.
        let is_begun = || fs::read_dir(scratch.path()).unwrap().count() > 3;
        assert!(running.run_until(|_| is_begun()), "it is over");
        running.kill();
        let (code, differences, summary) = verify(&[&"-dest", &dest, &"-state-dir", &state]);
        let expected = BTreeMap::from([("dest".to_owned(), vec!["unfinished".to_owned()])]);
        assert_eq!((code, differences), (1, expected), "{summary}");
        Job::new(&source, &dest, &state, engine).run().expect(0);
        assert_eq!(verify(&[&"-dest", &dest, &"-state-dir", &state]).0, 0);
    }
}

#[test]
fn a_name_that_cannot_be_described_is_trouble() {
    if !can_mount_fuse("a_name_that_cannot_be_described_is_trouble") {
        return;
    }
    let (scratch, slow) = (Scratch::new(), SlowMount::damaged());
    let (local, there) = (scratch.path().join("tree"), slow.folder().join("tree"));
    for dir in [&local, &there] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("same"), "same").unwrap();
    }
    let touch = || {
        for name in ["same", "."] {
            must(Command::new("touch").arg("-r").arg(local.join(name)).arg(there.join(name)));
        }
    };
    touch();
    let far = slow.path().join("tree");
    assert_eq!(verify(&[&"-source", &local, &"-dest", &far]).0, 0);
    // The one side has it, and the other cannot tell.
    fs::write(there.join("lost"), "x").unwrap();
    touch();
    let (code, differences, said) = verify(&[&"-source", &local, &"-dest", &far]);
    assert!(code == 2 && differences.is_empty() && said.contains("cannot stat"), "{code} {said}");
    fs::rename(there.join("lost"), local.join("lost")).unwrap();
    touch();
    let (code, differences, said) = verify(&[&"-source", &far, &"-dest", &local]);
    assert!(code == 2 && differences.is_empty() && said.contains("cannot stat"), "{code} {said}");
}

/// However it ends, it ends with one of its own codes.
#[test]
fn a_second_signal_is_trouble() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.path().join("a"), scratch.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    (0..3_000).for_each(|nth| fs::write(a.join(format!("{nth:0>100}")), "").unwrap());
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.arg("verify").arg("-source").arg(&a).arg("-dest").arg(&b).arg("-engine=sync");
        // Nobody reads: it waits for the pipe, as it might for a server that is gone.
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let tasks = format!("/proc/{}/task", child.id());
        let is_waiting = || {
            let tasks = fs::read_dir(&tasks).into_iter().flatten().flatten();
            let mut waits = tasks.map(|task| fs::read_to_string(task.path().join("wchan")).unwrap_or_default());
            waits.any(|wait| wait.contains("pipe"))
        };
        let within_10_s = |mut is_so: Box<dyn FnMut() -> bool + '_>| {
            (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(20));
                is_so()
            })
        };
        assert!(within_10_s(Box::new(is_waiting)), "it does not wait");
        let pid = Pid::from_child(&child);
        kill_process(pid, signal).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "the first signal lets it end by itself");
        kill_process(pid, signal).unwrap();
        assert!(within_10_s(Box::new(|| child.try_wait().unwrap().is_some())), "it does not end");
        assert_eq!(child.wait().unwrap().code(), Some(2), "{signal:?}");
    }
}
