//! Local file systems that hold fewer times than the source: whole seconds only, or none beyond 2038.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::support::fixture::{can_mount, has, skip, traced};
use super::support::{Engine, Job, Kind, Mount, Scratch, seed};
use super::{Losses, assert_nothing_to_do, grow, lost, paths, reported, set_times};

/// 2040-01-01 and 1890-01-01, in seconds.
const LATE: i64 = 2_208_988_800;
const EARLY: i64 = -2_524_521_600;

fn date(path: &Path, secs: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: 987_654_321 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The tree of all mounts, with objects of other centuries in it.
fn grow_dated(root: &Path, seed: u64) {
    grow(root, seed, &super::NAMES);
    fs::write(root.join("late"), "2040").unwrap();
    fs::write(root.join("early"), "1890").unwrap();
    std::os::unix::fs::symlink("late", root.join("late-link")).unwrap();
    fs::create_dir(root.join("late-dir")).unwrap();
    for (name, secs) in [("late", LATE), ("early", EARLY), ("late-link", LATE), ("late-dir", LATE)] {
        date(&root.join(name), secs);
    }
    set_times(root, 123_456_789);
}

/// What verify says, by path.
fn verified(words: &[&str], dest: &Path) -> BTreeMap<PathBuf, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let output = command.args(["verify", "-json"]).args(words).arg("-dest").arg(dest).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| Some((PathBuf::from(line["path"].as_str()?), line["differs"].to_string()))).collect()
}

/// What has another time than its source, to the second: that is a difference, and rounding is none.
fn wrong(losses: &Losses) -> BTreeMap<PathBuf, String> {
    let with_times = losses.iter().filter(|(_, kinds)| kinds.contains("times"));
    with_times.map(|(path, _)| (path.clone(), "[\"mtime\"]".to_owned())).collect()
}

/// Copied, copied again, compared, adopted, and refused: each object whose time is not kept is told once, and nothing
/// else is.
fn copy_to(test: &str, kind: Kind) {
    if !can_mount(test) {
        return;
    }
    let (from, to, other) = (Mount::new(Kind::Tmpfs, 64), Mount::new(kind, 320), Scratch::new());
    let tree = from.dir("tree");
    grow_dated(&tree, seed(test, 111));
    let source = tree.to_str().unwrap();
    for engine in Engine::all() {
        let (copy, state) = (to.join(format!("{engine:?}")), other.path().join(format!("{engine:?}")));
        let job = Job::new(&tree, &copy, &state, engine);
        let outcome = job.run().expect(0);
        let lost = lost(&tree, &copy, &copy);
        assert!(lost[Path::new("late")].contains("times") && lost[Path::new("late-dir")].contains("times"), "{lost:?}");
        assert_eq!(reported(&state), lost, "{outcome}");
        for (key, word) in [("times", "times"), ("time_precision", "time_precision")] {
            let count = lost.values().filter(|kinds| kinds.contains(word)).count();
            assert!(outcome.says(&format!("\"{key}\":{count}")) || count == 0, "{count} {key}: {outcome}");
        }
        assert_nothing_to_do(&job);
        assert_eq!(reported(&state), lost, "after another pass");
        assert_eq!(verified(&["-source", source], &copy), wrong(&lost), "against the source");
        assert_eq!(verified(&["-state-dir", state.to_str().unwrap()], &copy), wrong(&lost), "against the records");
        let adopting = Job::new(&tree, &copy, state.with_extension("other"), engine).run().expect(0);
        let is_wrong = |path: &PathBuf| lost.get(path).is_some_and(|kinds| kinds.contains("times"));
        let objects = paths(&tree).into_iter().filter(|path| is_wrong(path) && !tree.join(path).is_dir()).count();
        assert_eq!(adopting.number("copied") + adopting.number("symlinks"), objects as u64, "{adopting}");
        assert_eq!(reported(&state.with_extension("other")), lost, "after adopting");
        let strict = Job::new(&tree, copy.with_extension("strict"), state.with_extension("strict"), engine);
        let strict = strict.arg("--strict").run().expect(23);
        assert_eq!(strict.number("failed"), lost.len() as u64, "{strict}");
        date(&copy.join("whole-second"), 1_500_000_001);
        let mut wrong = wrong(&lost);
        wrong.insert(PathBuf::from("whole-second"), "[\"mtime\"]".to_owned());
        assert_eq!(verified(&["-source", source], &copy), wrong, "a time that is wrong by a second");
    }
}

#[test]
fn to_an_ext4_of_whole_seconds_every_loss_is_told_and_nothing_else() {
    copy_to("to_an_ext4_of_whole_seconds_every_loss_is_told_and_nothing_else", Kind::OldExt4);
}

#[test]
fn to_an_xfs_that_ends_in_2038_every_loss_is_told_and_nothing_else() {
    copy_to("to_an_xfs_that_ends_in_2038_every_loss_is_told_and_nothing_else", Kind::OldXfs);
}

/// A time that is not kept as it is must not look like no seal: what was done before a kill stays done.
#[test]
fn a_resume_on_whole_seconds_copies_nothing_twice() {
    let test = "a_resume_on_whole_seconds_copies_nothing_twice";
    if !can_mount(test) {
        return;
    }
    for kind in [Kind::OldExt4, Kind::OldXfs] {
        let (from, to, other) = (Mount::new(Kind::Tmpfs, 64), Mount::new(kind, 320), Scratch::new());
        let (tree, copy, state) = (from.dir("tree"), to.join("copy"), other.path().join("state"));
        for number in 0..400 {
            let file = tree.join(format!("file-{number}"));
            fs::write(&file, vec![number as u8; 16 << 10]).unwrap();
            if number % 2 == 0 { date(&file, LATE) } else { set_times(&file, 123_456_789) }
        }
        let job = Job::new(&tree, &copy, &state, Engine::Auto).args(&["--checkpoint-interval", "0.1"]);
        let running = job.clone().args(&["--bwlimit", "4M", "--streams", "4"]).start();
        let durable = || fs::read_dir(&copy).map_or(0, Iterator::count);
        assert!(running.run_until(|_| durable() > 150), "it was too fast");
        // What is there by now is sealed and recorded by the second checkpoint from here.
        assert!(running.run_for(Duration::from_millis(400)), "it was too fast");
        running.kill();
        let resumed = job.run().expect(0);
        assert!(resumed.number("copied") < 300, "copied again: {resumed}");
        let lost = lost(&tree, &copy, &copy);
        assert_eq!(lost.values().filter(|kinds| kinds.contains("times")).count(), 200);
        assert_eq!(reported(&state), lost, "{resumed}");
        assert_nothing_to_do(&job);
    }
}

/// A time that is surely kept is not looked at again: no system call more for each file.
#[test]
fn a_time_within_range_is_not_looked_at_again() {
    let test = "a_time_within_range_is_not_looked_at_again";
    if !can_mount(test) || !(has("strace") || skip(test, "no strace")) {
        return;
    }
    for (kind, looks) in [(Kind::Ext4, 0), (Kind::Xfs, 0), (Kind::Btrfs, 0), (Kind::OldExt4, 40)] {
        let (from, to, other) = (Mount::new(Kind::Tmpfs, 64), Mount::new(kind, 320), Scratch::new());
        let (tree, log) = (from.dir("tree"), other.path().join("log"));
        for number in 0..40 {
            fs::write(tree.join(format!("file-{number}")), "content").unwrap();
            set_times(&tree.join(format!("file-{number}")), 123_456_789);
        }
        let job = Job::new(&tree, to.join("copy"), other.path().join("state"), Engine::Sync);
        let job = job.args(&["--streams", "1"]);
        job.within(&traced(&other, &format!("-e trace=statx,utimensat -o {}", log.display()))).run().expect(0);
        let text = fs::read_to_string(&log).unwrap();
        let calls: Vec<&str> = text.lines().filter(|line| line.contains("\"file-")).collect();
        let sealed = |line: &str| line.contains("utimensat(");
        let looked = calls.windows(2).filter(|pair| sealed(pair[0]) && !sealed(pair[1]) && same_name(pair)).count();
        assert_eq!(looked, looks, "{kind:?}:\n{text}");
    }
}

/// Whether two calls are about one file.
fn same_name(calls: &[&str]) -> bool {
    let name = |line: &str| line.split('"').nth(1).map(str::to_owned);
    name(calls[0]) == name(calls[1])
}

/// The kernel's vfat, as it answers, on any file system: a chmod does nothing and says that all is well, or is refused
/// where a bit is asked for that vfat has not. Each is a loss, and no failure for ever.
#[test]
fn a_mode_that_vfat_only_says_it_keeps_is_a_loss() {
    let test = "a_mode_that_vfat_only_says_it_keeps_is_a_loss";
    if !can_mount(test) || !(has("strace") || skip(test, "no strace")) {
        return;
    }
    // The magic number of vfat, and chmod's two calls.
    let vfat = "-o /dev/null -e trace=fstatfs,fchmod,fchmodat -e inject=fstatfs:poke_exit=@arg2=444d000000000000";
    let calls = "fchmod,fchmodat";
    for engine in Engine::all() {
        for (answer, sticky) in [("retval=0", 0), ("error=EPERM", 0o1000)] {
            let scratch = Scratch::new();
            let tree = scratch.path().join("tree");
            fs::create_dir_all(tree.join("dir")).unwrap();
            fs::write(tree.join("file"), "content").unwrap();
            std::os::unix::fs::chown(tree.join("file"), Some(1234), Some(1234)).unwrap();
            for (name, mode) in [("file", 0o644), ("dir", 0o755 | sticky), ("", 0o755)] {
                fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
            }
            let wrapper = traced(&scratch, &format!("{vfat} -e inject={calls}:{answer}"));
            let job = Job::new(&tree, scratch.path().join("copy"), scratch.path().join("state"), engine);
            let outcome = job.clone().within(&wrapper).run().expect(0);
            assert_eq!((outcome.number("failed"), outcome.number("copied")), (0, 1), "{outcome}");
            assert!(outcome.says("\"losses\":{\"mode\":3}"), "{outcome}");
            job.arg("--strict").within(&wrapper).run().expect(23);
        }
    }
}
