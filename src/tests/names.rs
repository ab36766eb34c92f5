//! Destinations that fold case or normalise Unicode: no two objects of the source ever become one.

#[path = "names/keys.rs"]
mod keys;
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use gfast::error::escape;
use gfast::temporaries::Temporaries;
use support::fixture::must;
use support::slow::can_mount_fuse;
use support::{Comparison, Engine, Job, Outcome, Scratch, SlowMount};

/// Files of the source with their content; of each pair the destination can hold one.
const PAIRS: [[&str; 2]; 3] = [["Readme", "README"], ["dir/a.TXT", "dir/A.txt"], ["caf\u{e9}", "cafe\u{301}"]];

/// A source with pairs of names that fold to one, a pair of directories among them, and other names.
fn grow(tree: &Path) {
    fs::create_dir_all(tree.join("dir")).unwrap();
    for name in PAIRS.iter().flatten() {
        fs::write(tree.join(name), format!("content of {name}")).unwrap();
    }
    for (dir, count) in [("Photos", 3), ("photos", 2)] {
        fs::create_dir(tree.join(dir)).unwrap();
        (0..count).for_each(|n| fs::write(tree.join(dir).join(format!("{dir}-{n}")), dir).unwrap());
    }
    for number in 0..40 {
        fs::write(tree.join(format!("Other-{number}")), number.to_string()).unwrap();
    }
    fs::hard_link(tree.join("Other-1"), tree.join("Linked")).unwrap();
    fs::hard_link(tree.join("Other-1"), tree.join("LINKED")).unwrap();
}

fn job(tree: &Path, slow: &SlowMount, state: &Path, engine: Engine) -> Job {
    Job::new(tree, slow.path().join("copy"), state, engine)
}

/// Of each pair one is there, whole and under its own name; the other has failed, with both names.
#[track_caller]
fn assert_one_of_each(tree: &Path, slow: &SlowMount, outcome: &Outcome) {
    let copy = slow.folder().join("copy");
    for pair in PAIRS {
        let there: Vec<&str> = pair.into_iter().filter(|name| copy.join(name).exists()).collect();
        assert_eq!(there.len(), 1, "{there:?} of {pair:?}: {outcome}");
        let content = fs::read_to_string(copy.join(there[0])).unwrap();
        assert_eq!(content, format!("content of {}", there[0]), "{outcome}");
    }
    let dirs = [("Photos", 3), ("photos", 2)].map(|(dir, count)| {
        let is_there = copy.join(dir).exists();
        assert!(!is_there || fs::read_dir(copy.join(dir)).unwrap().count() == count, "two directories became one");
        is_there
    });
    assert!(dirs[0] != dirs[1], "{outcome}");
    let linked = ["Linked", "LINKED"].map(|name| copy.join(name).exists());
    assert!(linked[0] != linked[1], "{outcome}");
    for number in 0..40 {
        let name = format!("Other-{number}");
        assert_eq!(fs::read(copy.join(&name)).unwrap(), fs::read(tree.join(&name)).unwrap());
    }
    assert!(outcome.says("another file") && outcome.says("Readme") && outcome.says("README"), "{outcome}");
    assert_eq!(outcome.number("failed"), 5, "{outcome}");
}

#[test]
fn two_names_never_become_one_file() {
    let test = "two_names_never_become_one_file";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in [Engine::all(), vec![Engine::Auto]].concat() {
        for extra in [&[][..], &["--atomic"]] {
            let (slow, other) = (SlowMount::folding(), Scratch::new());
            let tree = other.path().join("tree");
            grow(&tree);
            let job = job(&tree, &slow, &other.path().join("state"), engine).args(extra);
            assert_one_of_each(&tree, &slow, &job.run().expect(23));
            // Again, and with both of a pair changed: whoever is there stays there.
            assert_one_of_each(&tree, &slow, &job.run().expect(23));
            let copy = slow.folder().join("copy");
            let there = PAIRS.map(|pair| pair.map(|name| copy.join(name).exists()));
            for name in PAIRS.iter().flatten() {
                let file = fs::File::options().write(true).open(tree.join(name)).unwrap();
                file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000)).unwrap();
            }
            assert_one_of_each(&tree, &slow, &job.run().expect(23));
            assert_eq!(PAIRS.map(|pair| pair.map(|name| copy.join(name).exists())), there);
            // Without its records: what is there is adopted by its own name only.
            let adopting = Job::new(&tree, job.dest(), other.path().join("other-state"), engine).args(extra);
            assert_one_of_each(&tree, &slow, &adopting.run().expect(23));
            assert_eq!(PAIRS.map(|pair| pair.map(|name| copy.join(name).exists())), there);
        }
    }
}

/// Where a listing tells no inode numbers, the name that is there already is known by what Unicode says of both.
#[test]
fn both_names_are_told_where_listings_have_no_numbers() {
    let test = "both_names_are_told_where_listings_have_no_numbers";
    if !can_mount_fuse(test) {
        return;
    }
    let pairs = [["caf\u{e9}", "cafe\u{301}"], ["Stra\u{df}e", "STRASSE"], ["Readme", "README"]];
    for engine in Engine::all() {
        let (slow, other) = (SlowMount::folding_unnumbered(), Scratch::new());
        let tree = other.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in pairs.iter().flatten() {
            fs::write(tree.join(name), format!("content of {name}")).unwrap();
        }
        let job = job(&tree, &slow, &other.path().join("state"), engine);
        for _ in 0..2 {
            let outcome = job.run().expect(23);
            for [a, b] in pairs {
                let told = |name: &str, of: &str| {
                    let (name, of) = (escape(name.as_bytes()), escape(of.as_bytes()));
                    let lines = outcome.stderr.lines();
                    lines.filter(|line| line.contains("another file")).any(|line| {
                        line.split_once("for that of").is_some_and(|(front, back)| {
                            front.contains(&format!("/{name}")) && back.contains(&format!("/{of},"))
                        })
                    })
                };
                assert!(told(a, b) || told(b, a), "{a} and {b}: {outcome}");
            }
            assert_eq!(outcome.number("failed"), pairs.len() as u64, "{outcome}");
        }
    }
}

/// A name that the source has in another case by now is renamed at the destination, with what it holds.
#[test]
fn a_new_case_is_a_new_name() {
    let test = "a_new_case_is_a_new_name";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        let (slow, other) = (SlowMount::folding(), Scratch::new());
        let tree = other.path().join("tree");
        fs::create_dir_all(tree.join("sub/deep")).unwrap();
        fs::write(tree.join("file"), "one").unwrap();
        fs::write(tree.join("sub/deep/below"), "two").unwrap();
        let job = job(&tree, &slow, &other.path().join("state"), engine).arg("--delete");
        job.run().expect(0);
        fs::rename(tree.join("file"), tree.join("FILE")).unwrap();
        fs::rename(tree.join("sub"), tree.join("Sub")).unwrap();
        let inode = fs::metadata(slow.folder().join("copy/sub/deep/below")).unwrap().ino();
        job.run().expect(0);
        Comparison::new(&tree, &slow.folder().join("copy")).assert_same();
        assert_eq!(fs::metadata(slow.folder().join("copy/Sub/deep/below")).unwrap().ino(), inode, "copied once more");
        job.run().expect(0);
        Comparison::new(&tree, &slow.folder().join("copy")).assert_same();
    }
}

/// Names of the source that [`Habit::KeepsLowerCase`](support::habit::Habit) keeps as the one behind them.
const KEPT: [([&str; 2], &str); 5] = [
    (["Readme", "readme"], "readme"),
    (["File", "FILE"], "file"),
    (["dir/b.", "dir/b"], "dir/b"),
    (["caf\u{e9}", "CAFE\u{301}"], "caf\u{e9}"),
    (["linked", "Linked"], "linked"),
];

/// Writes all of them, in this order or the other; two of them are links to one file.
fn write_twins(tree: &Path, is_reversed: bool, round: u32) {
    for (mut names, kept) in KEPT {
        if is_reversed {
            names.reverse();
        }
        for name in names {
            let _ = fs::remove_file(tree.join(name));
            match kept {
                "linked" if tree.join("other").exists() => fs::hard_link(tree.join("other"), tree.join(name)).unwrap(),
                _ => fs::write(tree.join(name), format!("{round}: {name}")).unwrap(),
            }
        }
    }
}

/// Which of each pair has its content there.
#[track_caller]
fn holders(copy: &Path, round: u32, outcome: &Outcome) -> Vec<&'static str> {
    let holder = |(names, kept): ([&'static str; 2], &str)| {
        let content = fs::read_to_string(copy.join(kept)).unwrap();
        let holder = names.into_iter().find(|name| content == format!("{round}: {name}"));
        holder.unwrap_or_else(|| panic!("{kept} is {content}: {outcome}"))
    };
    KEPT[..4].iter().map(|pair| holder(*pair)).collect()
}

/// Which of two directories is there.
#[track_caller]
fn dir_holder(copy: &Path, outcome: &Outcome) -> String {
    let mut names: Vec<_> =
        fs::read_dir(copy.join("photos")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let names: Vec<_> = names.iter().map(|name| name.to_str().unwrap()).collect();
    assert!(names == ["upper-0", "upper-1"] || names == ["lower-0", "lower-1"], "{names:?}: {outcome}");
    names[0].to_owned()
}

/// A destination that keeps names in another form than it is given lists one name for two of the source: what is listed
/// under a name may have been made under the other.
#[test]
fn two_names_that_are_kept_as_one_never_become_one_file() {
    let test = "two_names_that_are_kept_as_one_never_become_one_file";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        for (extra, is_reversed) in [(&[][..], false), (&[], true), (&["--atomic"], false), (&["--atomic"], true)] {
            let (slow, other) = (SlowMount::keeping_lower_case(), Scratch::new());
            let (tree, copy) = (other.path().join("tree"), slow.folder().join("copy"));
            fs::create_dir_all(tree.join("dir")).unwrap();
            fs::write(tree.join("other"), "other").unwrap();
            for name in if is_reversed { ["photos", "Photos"] } else { ["Photos", "photos"] } {
                fs::create_dir(tree.join(name)).unwrap();
                let stem = if name == "photos" { "lower" } else { "upper" };
                (0..2).for_each(|n| fs::write(tree.join(name).join(format!("{stem}-{n}")), name).unwrap());
            }
            write_twins(&tree, is_reversed, 0);
            let job = job(&tree, &slow, &other.path().join("state"), engine).args(extra);
            let assert_clashes = |outcome: &Outcome| {
                assert_eq!(outcome.number("failed"), KEPT.len() as u64 + 1, "{outcome}");
                assert_eq!(outcome.stderr.matches("another file").count(), KEPT.len() + 1, "{outcome}");
            };
            let first = job.run().expect(23);
            assert_clashes(&first);
            let (held, dir) = (holders(&copy, 0, &first), dir_holder(&copy, &first));
            // Again, and with all of them changed: whoever is there stays there.
            for round in [0, 1, 2] {
                if round > 0 {
                    write_twins(&tree, is_reversed, round);
                    let name = if dir == "lower-0" { "photos/lower-0" } else { "Photos/upper-0" };
                    fs::write(tree.join(name), round.to_string()).unwrap();
                }
                let outcome = job.run().expect(23);
                assert_clashes(&outcome);
                assert_eq!((holders(&copy, round, &outcome), dir_holder(&copy, &outcome)), (held.clone(), dir.clone()));
                if round > 0 {
                    assert_eq!(fs::read_to_string(copy.join("photos").join(&dir)).unwrap(), round.to_string());
                }
            }
            // The other of each takes its place.
            for name in held.iter().copied().chain(["linked"]) {
                fs::remove_file(tree.join(name)).unwrap();
            }
            fs::remove_dir_all(tree.join(if dir == "lower-0" { "photos" } else { "Photos" })).unwrap();
            let outcome = job.arg("--delete").run().expect(0);
            let now = holders(&copy, 2, &outcome);
            assert!(now.iter().zip(&held).all(|(now, held)| now != held), "{now:?}, {held:?}");
            assert_ne!(dir_holder(&copy, &outcome), dir);
            let left = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().file_name());
            assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with(".gfast-")), "{outcome}");
        }
    }
}

/// What was one name is two: either may take the copy's place, one does, and nothing is between two names for long.
#[test]
fn two_names_that_follow_one_never_become_one_file() {
    let test = "two_names_that_follow_one_never_become_one_file";
    if !can_mount_fuse(test) {
        return;
    }
    const COUNT: usize = 24;
    for engine in Engine::all() {
        for extra in [&[][..], &["--atomic"]] {
            let (slow, other) = (SlowMount::folding(), Scratch::new());
            let (tree, copy) = (other.path().join("tree"), slow.folder().join("copy"));
            fs::create_dir(&tree).unwrap();
            let names = |n: usize| [format!("twin-{n}"), format!("Twin-{n}"), format!("TWIN-{n}")];
            (0..COUNT).for_each(|n| fs::write(tree.join(&names(n)[0]), "of before").unwrap());
            let job = job(&tree, &slow, &other.path().join("state"), engine).args(extra);
            job.run().expect(0);
            for [before, one, two] in (0..COUNT).map(names) {
                fs::remove_file(tree.join(before)).unwrap();
                [one, two].iter().for_each(|name| fs::write(tree.join(name), format!(" {name}").as_bytes()).unwrap());
            }
            for _ in 0..2 {
                let outcome = job.run().expect(23);
                assert_eq!(outcome.number("failed"), COUNT as u64, "{outcome}");
                let mut there: Vec<_> = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path()).collect();
                there.sort();
                assert_eq!(there.len(), COUNT, "{there:?}: {outcome}");
                for path in &there {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    assert!(!name.starts_with("twin"), "{there:?}: {outcome}");
                    assert_eq!(fs::read_to_string(path).unwrap(), format!(" {name}"), "{outcome}");
                }
            }
        }
    }
}

/// What a comparison of both sides says.
fn verify(tree: &Path, job: &Job) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    let output = command.arg("verify").arg("-source").arg(tree).arg("-dest").arg(job.dest()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// What a dry run says would go.
fn doomed(job: &Job) -> Vec<String> {
    let outcome = job.clone().arg("-dry-run").run().expect(0);
    let lines = outcome.stdout.lines().filter(|line| line.starts_with("delete"));
    let mut paths: Vec<_> = lines.map(|line| line[30..].to_owned()).collect();
    paths.sort();
    paths
}

/// What the destination has of the source is no extra for being listed otherwise, whatever the source lists.
#[test]
fn what_is_listed_otherwise_is_no_extra() {
    let test = "what_is_listed_otherwise_is_no_extra";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        for is_source_folding in [false, true] {
            let (slow, other, folding) = (SlowMount::keeping_lower_case(), Scratch::new(), SlowMount::folding());
            let tree = if is_source_folding { folding.path() } else { other.path() }.join("tree");
            fs::create_dir_all(tree.join("Dir/Deep")).unwrap();
            for name in ["Foo", "Dir/Baz", "Dir/Deep/X", "Dot.", "CAF\u{c9}", "plain"] {
                fs::write(tree.join(name), name).unwrap();
            }
            let job = job(&tree, &slow, &other.path().join("state"), engine);
            job.run().expect(0);
            let copy = slow.folder().join("copy");
            for name in ["gone", "dir/deep/gone"] {
                fs::write(copy.join(name), "x").unwrap();
            }
            let (code, said) = verify(&tree, &job);
            assert!(code == Some(1) && said.contains("gone") && !said.contains("baz"), "{said}");
            let job = job.arg("-delete");
            assert_eq!(doomed(&job), ["Dir/Deep/gone", "gone"]);
            for removed in [2, 0] {
                let outcome = job.run().expect(0);
                assert_eq!(outcome.number("removed"), removed, "{outcome}");
                for name in ["foo", "dir/baz", "dir/deep/x", "dot", "caf\u{e9}", "plain"] {
                    assert!(copy.join(name).exists(), "{name}: {outcome}");
                }
            }
            let (_, said) = verify(&tree, &job);
            assert!(said.contains("9 objects") && !said.contains("missing") && !said.contains("extra"), "{said}");
        }
    }
}

/// The destination lists two names that answer for one file: which of them is the source's nobody can tell.
#[test]
fn what_verify_cannot_tell_apart_is_trouble() {
    let test = "what_verify_cannot_tell_apart_is_trouble";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        let (slow, other) = (SlowMount::folding(), Scratch::new());
        let tree = other.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("Foo"), "foo").unwrap();
        let job = job(&tree, &slow, &other.path().join("state"), engine);
        job.run().expect(0);
        let copy = slow.folder().join("copy");
        must(Command::new("cp").arg("-p").arg(copy.join("Foo")).arg(copy.join("FOO")));
        let outcome = job.clone().arg("-delete").run().expect(25);
        let (code, said) = verify(&tree, &job);
        assert!(code == Some(2) && said.contains("another name"), "{code:?} {said} {outcome}");
    }
}

/// A source that folds names answers for what it does not have.
#[test]
fn what_a_folding_source_does_not_list_goes() {
    let test = "what_a_folding_source_does_not_list_goes";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        let (slow, other) = (SlowMount::folding(), Scratch::new());
        let tree = slow.path().join("tree");
        fs::create_dir_all(tree.join("dir")).unwrap();
        fs::write(tree.join("foo"), "foo").unwrap();
        fs::write(tree.join("dir/y"), "y").unwrap();
        let job = Job::new(&tree, other.path().join("copy"), other.path().join("state"), engine);
        job.run().expect(0);
        fs::create_dir(job.dest().join("Dir")).unwrap();
        fs::write(job.dest().join("FOO"), "old").unwrap();
        fs::write(job.dest().join("Dir/z"), "old").unwrap();
        let (code, said) = verify(&tree, &job);
        assert!(code == Some(1) && said.contains("FOO") && said.contains("Dir"), "{said}");
        let job = job.arg("-delete");
        assert_eq!(doomed(&job), ["Dir", "Dir/z", "FOO"]);
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("removed"), 3, "{outcome}");
        Comparison::new(&slow.folder().join("tree"), job.dest()).assert_same();
        assert_eq!(verify(&tree, &job).0, Some(0));
    }
}

/// Where case counts nothing of this happens.
#[test]
fn names_that_are_told_apart_all_arrive() {
    for engine in Engine::all() {
        let scratch = Scratch::new();
        let tree = scratch.path().join("tree");
        grow(&tree);
        let job = Job::new(&tree, scratch.path().join("copy"), scratch.path().join("state"), engine);
        job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
        let adopting = Job::new(&tree, job.dest(), scratch.path().join("other-state"), engine).run().expect(0);
        assert_eq!(adopting.number("failed"), 0);
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

/// A name that a destination cannot hold fails its object, which is listed among the losses as well: counted once.
#[test]
fn a_name_that_cannot_be_held_is_listed_among_the_losses() {
    let test = "a_name_that_cannot_be_held_is_listed_among_the_losses";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::refusing_names(), Scratch::new());
    let tree = other.path().join("tree");
    fs::create_dir_all(tree.join("dir:one")).unwrap();
    let refused = ["a:b", "why?", "link:", "linked:", "dir:one"];
    for name in ["a:b", "why?", "plain", "dir:one/below"] {
        fs::write(tree.join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("plain", tree.join("link:")).unwrap();
    fs::hard_link(tree.join("plain"), tree.join("linked:")).unwrap();
    for engine in [Engine::all(), vec![Engine::Auto]].concat() {
        for extra in [&[][..], &["--atomic"]] {
            let name = format!("{engine:?}-{}", extra.len());
            let (copy, state) = (slow.path().join(&name), other.path().join(format!("state-{name}")));
            let job = Job::new(&tree, &copy, &state, engine).args(extra);
            for _ in 0..2 {
                let outcome = job.run().expect(23);
                assert_eq!(outcome.number("failed"), refused.len() as u64, "{outcome}");
                assert!(outcome.says("cannot hold such a name") && !outcome.says("\"names\""), "{outcome}");
                let mut report = std::process::Command::new(env!("CARGO_BIN_EXE_gfast"));
                report.args(["report", "-losses", "-format", "ndjson", "-state-dir"]).arg(&state);
                let text = must(&mut report);
                let mut told: Vec<&str> = text.lines().filter(|line| line.contains("\"losses\":[\"names\"]")).collect();
                told.retain(|line| line.contains("\"outcome\":\"failed\""));
                let is_told = |path: &str| told.iter().any(|line| line.starts_with(&format!("{{\"path\":\"{path}\"")));
                assert!(refused.into_iter().all(is_told) && told.len() == refused.len(), "{text}");
                assert!(text.contains(&format!("\"lost_names\":{}", refused.len())), "{text}");
            }
            let mut there: Vec<_> =
                fs::read_dir(slow.folder().join(&name)).unwrap().map(|e| e.unwrap().file_name()).collect();
            there.sort();
            assert_eq!(there, ["plain"], "what was tried is left");
        }
    }
}

/// FNV-1a of 64 bits makes one number of both: temporary names were made of it once.
const ALIKE: [&str; 2] = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];

#[test]
fn names_that_hash_alike_keep_their_own_content() {
    for engine in Engine::all() {
        for extra in [&[][..], &["--atomic"]] {
            let scratch = Scratch::new();
            let tree = scratch.path().join("tree");
            fs::create_dir(&tree).unwrap();
            let job = Job::new(&tree, scratch.path().join("copy"), scratch.path().join("state"), engine).args(extra);
            for round in 0..3 {
                for name in ALIKE {
                    fs::write(tree.join(name), format!("{round}: content of {name}")).unwrap();
                }
                job.run().expect(0);
                Comparison::new(&tree, job.dest()).assert_same();
            }
        }
    }
}

/// The number of the only job in a state directory.
fn job_id(state: &Path) -> u64 {
    let folders = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path().join("job"));
    let text = folders.filter_map(|path| fs::read_to_string(path).ok()).next().expect("a job was begun");
    let id = text.lines().find_map(|line| line.strip_prefix("job=")).unwrap();
    u64::from_str_radix(id, 16).unwrap()
}

#[test]
fn what_an_interrupted_run_left_goes_whichever_version_named_it() {
    for engine in Engine::all() {
        let scratch = Scratch::new();
        let (tree, state) = (scratch.path().join("tree"), scratch.path().join("state"));
        fs::create_dir(&tree).unwrap();
        let names: Vec<String> = (0..60).map(|number| format!("file-{number}")).collect();
        names.iter().for_each(|name| fs::write(tree.join(name), [7; 16 << 10]).unwrap());
        fs::hard_link(tree.join("file-0"), tree.join("linked")).unwrap();
        std::os::unix::fs::symlink("file-1", tree.join("symlink")).unwrap();
        let job = Job::new(&tree, scratch.path().join("copy"), &state, engine);
        let running = job.clone().args(&["--bwlimit", "100K"]).start();
        let is_begun = running.run_until(|_| fs::read_dir(job.dest()).is_ok_and(|mut names| names.next().is_some()));
        assert!(is_begun, "the run was over at once");
        running.kill();
        let temporaries = Temporaries::new(job_id(&state));
        for name in names.iter().map(String::as_str).chain(["linked", "symlink"]) {
            let name = std::ffi::CString::new(name).unwrap();
            for left in [temporaries.of(&name), temporaries.former_of(&name)] {
                fs::write(job.dest().join(left.to_str().unwrap()), "torn").unwrap();
            }
        }
        let resumed = job.run().expect(0);
        let left: Vec<_> = fs::read_dir(job.dest()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let left: Vec<_> = left.iter().filter(|name| name.to_string_lossy().starts_with(".gfast-")).collect();
        assert!(left.is_empty(), "{left:?} stayed: {resumed}");
        Comparison::new(&tree, job.dest()).assert_same();
    }
}
