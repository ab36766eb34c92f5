//! What is wrong at the destination, or was lost there, is put right by the run that is asked for it.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::fixture::{can_mount, must, set_mode, skip};
use support::{Comparison, Engine, Job, Kind, Mount, Scratch};

mod support;

fn verify(source: &Path, dest: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    command.arg("verify").arg("-source").arg(source).arg("-dest").arg(dest).args(words).output().unwrap()
}

/// Other bytes in the middle of a file that keeps its size and times.
fn corrupt(path: &Path) {
    let times = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"rot", 1).unwrap();
    file.set_modified(times).unwrap();
}

/// A tree of small, large, linked and empty files, and a symlink.
fn make_tree(source: &Path) {
    fs::create_dir_all(source.join("d")).unwrap();
    for name in ["f1", "f2", "d/f3", "d/f4"] {
        fs::write(source.join(name), name.repeat(9)).unwrap();
    }
    fs::write(source.join("large"), vec![7; 3 << 20]).unwrap();
    fs::write(source.join("none"), "").unwrap();
    ["d/h2", "h3"].iter().for_each(|name| fs::hard_link(source.join("f2"), source.join(name)).unwrap());
    symlink("f1", source.join("link")).unwrap();
}

#[test]
fn what_verify_finds_is_repaired() {
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    make_tree(&source);
    for engine in Engine::all() {
        let dir = scratch.path().join(format!("{engine:?}"));
        let job = Job::new(&source, dir.join("dest"), dir.join("state"), engine);
        job.run().expect(0);
        let dest = job.dest();
        let inode = |name: &str| fs::symlink_metadata(dest.join(name)).unwrap().ino();
        ["d/f3", "large"].iter().for_each(|name| corrupt(&dest.join(name)));
        // Their own times differ, which does not make a list of all that lies in them.
        must(Command::new("touch").args(["-d", "2001-01-01"]).args([dest.join("d"), dest.to_owned()]));
        let found = verify(&source, dest, &["-0"]);
        assert_eq!(found.status.code(), Some(1));
        let mut paths: Vec<&[u8]> = found.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty()).collect();
        paths.sort();
        assert_eq!(paths, [&b"d/f3"[..], b"large"], "{found:?}");
        assert!(String::from_utf8_lossy(&found.stderr).contains("left out of the list: 2"), "{found:?}");
        let list = dir.join("list");
        fs::write(&list, &found.stdout).unwrap();
        let before = ["d/f3", "large", "f1", "f2"].map(inode);
        let repair = |state: &str| Job::new(&source, dest, dir.join(state), engine).arg("-files-from").arg(&list);
        let adopting = repair("adopting").run().expect(0);
        assert_eq!((adopting.number("copied"), verify(&source, dest, &[]).status.code()), (0, Some(1)), "{adopting}");
        let told = repair("fresh").args(&["-recopy", "-dry-run"]).run().expect(0);
        assert_eq!(told.stdout.matches("copy     asked for").count(), 2, "{told}");
        let repaired = repair("fresh").arg("-recopy").run().expect(0);
        assert_eq!((repaired.number("copied"), repaired.number("adopted")), (2, 0), "{repaired}");
        let same = verify(&source, dest, &["-quiet"]);
        assert_eq!(same.status.code(), Some(0), "{same:?}");
        let after = ["d/f3", "large", "f1", "f2"].map(inode);
        assert!(before[0] != after[0] && before[1] != after[1], "replaced, not written over");
        assert_eq!(before[2..], after[2..], "what is not listed stays");
        // All of it, with the job's own state: links stay links.
        corrupt(&dest.join("h3"));
        corrupt(&dest.join("f1"));
        job.run().expect(0);
        assert_eq!(verify(&source, dest, &[]).status.code(), Some(1));
        let repaired = job.clone().arg("-recopy").run().expect(0);
        assert_eq!((repaired.number("copied"), repaired.number("unchanged")), (6, 0), "{repaired}");
        Comparison::new(&source, dest).assert_same();
        assert_eq!(verify(&source, dest, &[]).status.code(), Some(0));
        let unchanged = job.run().expect(0);
        assert_eq!(unchanged.number("copied"), 0, "{unchanged}");
    }
}

/// What is at the destination is not believed because a run that was to replace it could not.
#[test]
fn what_could_not_be_copied_again_is_copied_by_the_next_run() {
    if !can_mount("what_could_not_be_copied_again_is_copied_by_the_next_run") {
        return;
    }
    for option in [None, Some("-retry-failed")] {
        let (mount, scratch) = (Mount::new(Kind::Ext4, 64), Scratch::new());
        let source = scratch.path().join("source");
        make_tree(&source);
        let job = Job::new(&source, mount.join("dest"), scratch.path().join("state"), Engine::Auto).arg("-checksum");
        job.run().expect(0);
        let rotten = job.dest().join("d/f3");
        corrupt(&rotten);
        must(Command::new("chattr").arg("+i").arg(&rotten));
        let outcome = job.clone().arg("-recopy").run();
        must(Command::new("chattr").arg("-i").arg(&rotten));
        assert_eq!(outcome.expect(23).number("failed"), 1);
        let outcome = option.into_iter().fold(job.clone(), Job::arg).run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("adopted")), (1, 0), "{outcome}");
        let same = verify(&source, job.dest(), &[]);
        assert_eq!(same.status.code(), Some(0), "{same:?}");
        Comparison::new(&source, job.dest()).assert_same();
    }
}

#[test]
fn verify_and_repair_are_one_pipe() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.path().join("source"), scratch.path().join("dest"));
    make_tree(&source);
    let job = Job::new(&source, &dest, scratch.path().join("state"), Engine::Auto);
    job.run().expect(0);
    corrupt(&dest.join("d/f4"));
    let mut found = Command::new(env!("CARGO_BIN_EXE_gfast"));
    found.arg("verify").arg("-source").arg(&source).arg("-dest").arg(&dest).args(["-0", "-quiet"]);
    let mut found = found.stdout(Stdio::piped()).spawn().unwrap();
    let mut repair = Command::new(env!("CARGO_BIN_EXE_gfast"));
    repair.arg("-source").arg(&source).arg("-dest").arg(&dest).args(["-files-from", "-", "-recopy", "-state-dir"]);
    let output = repair.arg(scratch.path().join("repair")).stdin(found.stdout.take().unwrap()).output().unwrap();
    assert_eq!((found.wait().unwrap().code(), output.status.code()), (Some(1), Some(0)), "{output:?}");
    assert_eq!(verify(&source, &dest, &[]).status.code(), Some(0));
}

#[test]
fn an_interrupted_run_is_ended_before_all_is_copied_again() {
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), vec![7; 8 << 20]).unwrap();
    let job = Job::new(&source, scratch.path().join("dest"), scratch.path().join("state"), Engine::Sync);
    let running = job.clone().arg("-bwlimit=1M").start();
    assert!(running.run_for(Duration::from_millis(1_500)));
    running.kill();
    assert!(job.clone().arg("-recopy").run().expect(2).says("without --recopy"));
    assert!(job.clone().args(&["-recopy", "-dry-run"]).run().expect(2).says("without --recopy"));
    job.run().expect(0);
    let again = job.clone().arg("-recopy").run().expect(0);
    assert_eq!(again.number("copied"), 1, "{again}");
    Comparison::new(&source, job.dest()).assert_same();
}

/// A program that runs another one as root that may not give files away.
fn without_chown(scratch: &Scratch) -> PathBuf {
    let path = scratch.path().join("without-chown");
    fs::write(&path, "#!/bin/sh\nexec setpriv --bounding-set=-chown -- \"$@\"\n").unwrap();
    set_mode(&path, 0o755);
    path
}

#[test]
fn what_was_lost_is_kept_once_it_can_be() {
    if !rustix::process::geteuid().is_root() {
        skip("what_was_lost_is_kept_once_it_can_be", "needs root");
        return;
    }
    let scratch = Scratch::new();
    let (source, wrapper) = (scratch.path().join("source"), without_chown(&scratch));
    make_tree(&source);
    for name in ["", "d", "f1", "f2", "d/f3", "large", "none", "link"] {
        lchown(source.join(name), Some(12_345), Some(12_345)).unwrap();
    }
    for engine in Engine::all() {
        for (nth, option) in ["-strict", "-retry-failed"].into_iter().enumerate() {
            let dir = scratch.path().join(format!("{engine:?}-{nth}"));
            let job = Job::new(&source, dir.join("dest"), dir.join("state"), engine);
            let first = job.clone().within(&wrapper).run().expect(0);
            // Eight, and two more names of f2.
            assert!(first.says("\"losses\":{\"owner\":10}"), "{first}");
            let second = job.clone().within(&wrapper).run().expect(0);
            assert!(second.says("\"losses\":{\"owner\":10}") && second.number("copied") == 0, "{second}");
            job.clone().within(&wrapper).arg("-strict").run().expect(23);
            let job = job.arg(option);
            let put_right = job.run().expect(0);
            assert!(put_right.says("\"losses\":{}"), "{put_right}");
            // What failed under --strict is adopted, what lost something gets its owner: nothing is copied.
            assert_eq!(put_right.number("bytes"), 0, "{put_right}");
            Comparison::new(&source, job.dest()).assert_same();
            let third = job.run().expect(0);
            assert!(third.says("\"losses\":{}") && third.number("metadata_only") == 0, "{third}");
        }
    }
}

#[test]
fn what_was_lost_is_all_that_a_retry_touches() {
    if !rustix::process::geteuid().is_root() {
        skip("what_was_lost_is_all_that_a_retry_touches", "needs root");
        return;
    }
    let scratch = Scratch::new();
    let (source, wrapper) = (scratch.path().join("source"), without_chown(&scratch));
    make_tree(&source);
    for name in ["d", "f2", "large"] {
        lchown(source.join(name), Some(12_345), Some(12_345)).unwrap();
    }
    for engine in Engine::all() {
        for option in ["-strict", "-retry-failed"] {
            let dir = scratch.path().join(format!("{engine:?}{option}"));
            let job = Job::new(&source, dir.join("dest"), dir.join("state"), engine);
            job.clone().within(&wrapper).run().expect(0);
            let outcome = job.clone().arg(option).run().expect(0);
            assert_eq!((outcome.number("bytes"), outcome.number("copied")), (0, 0), "{outcome}");
            Comparison::new(&source, job.dest()).assert_same();
        }
    }
}
