//! What a destination gives back: `--readback` compares it before a file is recorded, and `--checksum` reads clones.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use support::fixture::can_mount;
use support::slow::{ROT, SlowMount, can_mount_fuse};
use support::{Comparison, Engine, Job, Kind, Mount, Rng, Scratch, seed, tree};

/// Files of all the sizes that are treated apart, one with holes, one of two names. Regular files by content.
const FILES: u64 = 6;

fn make(tree: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    let at = tree::open_dir(tree);
    for (name, size) in [(c"empty", 0), (c"small", 5001), (c"blocks", 900_000), (c"large", (9 << 20) + 5)] {
        tree::regular(&mut rng, &at, name, size);
    }
    tree::sparse(&mut rng, &at, c"holes", &[(0, 9), (3 << 20, 70_000)], 8 << 20);
    tree::regular(&mut rng, &at, c"first", 40_000);
    fs::hard_link(tree.join("first"), tree.join("second")).unwrap();
}

fn run(words: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gfast")).args(words.iter().map(|word| (*word).as_ref())).output().unwrap()
}

/// The objects whose level of proof a job's report calls `level`.
fn reported(state: &Path, level: &str) -> usize {
    let word = format!("\"level\":\"{level}\"");
    let output = run(&[&"report", &"-state-dir", &state, &"-format", &"ndjson"]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| line.contains(&word)).count()
}

/// Verifies the copy against what was recorded: the exit code and what was said.
fn verify(dest: &Path, state: &Path) -> (Option<i32>, String) {
    let output = run(&[&"verify", &"-dest", &dest, &"-state-dir", &state, &"-json"]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn everything_is_read_back_from_the_device() {
    let test = "everything_is_read_back_from_the_device";
    if !can_mount(test) {
        return;
    }
    for engine in Engine::all() {
        for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs] {
            let (source, dest) = (Scratch::new(), Mount::new(kind, 512));
            make(source.path(), seed(test, 1));
            let (copy, state) = (dest.join("copy"), dest.join("state"));
            let outcome = Job::new(source.path(), &copy, &state, engine).arg("--readback").run().expect(0);
            assert_eq!(outcome.number("proved_by_reading"), FILES, "{kind:?} {outcome}");
            if kind != Kind::Tmpfs {
                assert!(outcome.io.read_bytes > 9 << 20, "{kind:?}: the device was not asked: {outcome}");
            }
            Comparison::new(source.path(), &copy).assert_same();
            assert_eq!(reported(&state, "verified"), FILES as usize + 1, "{kind:?}");
        }
    }
}

/// A file that comes back other than it was written fails, does not stay, and is tried again by the next run; so is
/// the other name of a file that failed.
#[test]
fn what_rots_on_its_way_fails() {
    let test = "what_rots_on_its_way_fails";
    if !can_mount_fuse(test) {
        return;
    }
    for arguments in [&["--readback"][..], &["--readback", "--atomic"]] {
        let (source, state) = (Scratch::new(), Scratch::new());
        make(source.path(), seed(test, 2));
        let mut bytes = vec![7; 3 << 20];
        bytes[2 << 20..][..ROT.len()].copy_from_slice(ROT);
        fs::write(source.path().join("rotten"), &bytes).unwrap();
        fs::write(source.path().join("rotten-small"), ROT).unwrap();
        fs::hard_link(source.path().join("rotten-small"), source.path().join("rotten-too")).unwrap();
        let dest = SlowMount::new(Duration::ZERO);
        let job = Job::new(source.path(), dest.path(), state.path(), Engine::Auto);
        let job = arguments.iter().fold(job, |job, argument| job.arg(argument));
        let outcome = job.run().expect(23);
        assert_eq!((outcome.number("failed"), outcome.number("proved_by_reading")), (3, FILES), "{outcome}");
        assert!(outcome.stderr.contains("read back"), "{outcome}");
        let mut names: Vec<_> = fs::read_dir(dest.folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["blocks", "empty", "first", "holes", "large", "second", "small"]);

        for name in ["rotten", "rotten-small"] {
            File::options().write(true).open(source.path().join(name)).unwrap().write_at(b"healthy!!", 0).unwrap();
        }
        let rest = File::options().write(true).open(source.path().join("rotten")).unwrap();
        rest.write_at(b"healthy!!", 2 << 20).unwrap();
        job.run().expect(0);
        Comparison::new(source.path(), dest.folder()).assert_same();
    }
}

/// Without it the same file passes: what the page cache holds is what was written.
#[test]
fn what_is_not_read_back_is_not_noticed() {
    let test = "what_is_not_read_back_is_not_noticed";
    if !can_mount_fuse(test) {
        return;
    }
    let (source, state) = (Scratch::new(), Scratch::new());
    fs::write(source.path().join("rotten"), ROT).unwrap();
    let dest = SlowMount::new(Duration::ZERO);
    Job::new(source.path(), dest.path(), state.path(), Engine::Auto).arg("--checksum").run().expect(0);
}

/// A clone has the checksum of its own bytes, and verify holds it to that.
#[test]
fn clones_have_checksums() {
    let test = "clones_have_checksums";
    if !can_mount(test) {
        return;
    }
    for (kind, engine) in
        [Kind::Xfs, Kind::Btrfs].into_iter().flat_map(|k| Engine::all().into_iter().map(move |e| (k, e)))
    {
        for (argument, counted, level) in
            [("--checksum", "checksums_recorded", "written"), ("--readback", "proved_by_reading", "verified")]
        {
            let mount = Mount::new(kind, 512);
            let tree = mount.dir("tree");
            make(&tree, seed(test, 3));
            let (copy, state) = (mount.join("copy"), mount.join("state"));
            let job = Job::new(&tree, &copy, &state, engine).arg(argument);
            let outcome = job.run().expect(0);
            assert_eq!((outcome.number("cloned"), outcome.number(counted)), (FILES - 1, FILES), "{outcome}");
            assert_eq!(reported(&state, level), FILES as usize + 1);
            let (code, said) = verify(&copy, &state);
            assert_eq!(code, Some(0), "{said}");
            let stat = fs::metadata(copy.join("large")).unwrap();
            let file = File::options().write(true).open(copy.join("large")).unwrap();
            file.write_at(b"another", 5 << 20).unwrap();
            file.set_modified(stat.modified().unwrap()).unwrap();
            let (code, said) = verify(&copy, &state);
            assert!(code == Some(1) && said.contains("large"), "{said}");
            // What only ctime tells apart is compared with the clone's checksum.
            support::fixture::set_mode(&tree.join("small"), 0o640);
            let outcome = job.run().expect(0);
            assert_eq!((outcome.number("metadata_only"), outcome.number("cloned")), (1, 0), "{outcome}");
        }
    }
}
