//! Further passes over sources of which only the ctime is new: what has its recorded content gets new metadata, what
//! has not is copied, and what has nothing to compare with is copied too.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use support::fixture::can_mount;
use support::{Comparison, Engine, Job, Kind, Mount, Outcome, Rng, seed, tree};

/// Names of files of all the sizes that are treated apart.
const FILES: [(&str, u64); 6] =
    [("empty", 0), ("small", 5000), ("blocks", 900_000), ("large", 9 << 20), ("quiet-small", 7000), ("quiet", 9 << 20)];

/// A tree of [`FILES`], with a file with a hole and one of two names.
fn make(tree: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    let at = tree::open_dir(tree);
    for (name, size) in FILES {
        tree::regular(&mut rng, &at, &std::ffi::CString::new(name).unwrap(), size);
    }
    tree::sparse(&mut rng, &at, c"holes", &[(0, 9), (3 << 20, 70_000)], 8 << 20);
    tree::regular(&mut rng, &at, c"first", 40_000);
    fs::hard_link(tree.join("first"), tree.join("second")).unwrap();
}

/// Everything but `quiet*` gets a change that only its ctime shows, and no new content.
fn change_attributes(tree: &Path) {
    for name in ["empty", "small", "large", "holes"] {
        fs::set_permissions(tree.join(name), Permissions::from_mode(0o4710)).unwrap();
    }
    for name in ["blocks", "first"] {
        chown(tree.join(name), Some(4321), Some(8765)).unwrap();
    }
    fs::hard_link(tree.join("first"), tree.join("a-third")).unwrap();
}

/// One bit of a file, behind its mtime's back.
fn edit_quietly(path: &Path) {
    let before = fs::metadata(path).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    let at = before.size() / 2;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[track_caller]
fn assert_counts(outcome: &Outcome, refreshed: u64, copied: u64) {
    let counts = (outcome.number("metadata_only"), outcome.number("copied"));
    assert_eq!(counts, (refreshed, copied), "metadata only and copied: {outcome}");
}

/// chmod, chown and a further name copy no byte; an edit that keeps size and mtime is copied.
#[test]
fn attributes_alone_copy_nothing_and_quiet_edits_are_found() {
    let test = "attributes_alone_copy_nothing_and_quiet_edits_are_found";
    if !can_mount(test) {
        return;
    }
    for (engine, direct) in Engine::all().into_iter().flat_map(|engine| [(engine, "auto"), (engine, "never")]) {
        let (source, dest) = (Mount::new(Kind::Ext4, 256), Mount::new(Kind::Xfs, 512));
        let tree = source.dir("tree");
        make(&tree, seed(test, 1));
        let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine);
        let job = job.arg("--checksum").arg("--direct").arg(direct);
        job.run().expect(0);
        let inodes: Vec<u64> = FILES.iter().map(|(name, _)| inode(&job.dest().join(name))).collect();

        change_attributes(&tree);
        let outcome = job.run().expect(0);
        assert_counts(&outcome, 6, 0);
        assert_eq!((outcome.number("bytes"), outcome.number("failed")), (0, 0), "{outcome}");
        Comparison::new(&tree, job.dest()).assert_same();
        let now: Vec<u64> = FILES.iter().map(|(name, _)| inode(&job.dest().join(name))).collect();
        assert_eq!(inodes, now, "a file was replaced for its attributes");

        assert_counts(&job.run().expect(0), 0, 0);
        edit_quietly(&tree.join("quiet-small"));
        edit_quietly(&tree.join("quiet"));
        let outcome = job.run().expect(0);
        assert_counts(&outcome, 0, 2);
        assert_eq!(outcome.number("bytes"), 7000 + (9 << 20), "{outcome}");
        Comparison::new(&tree, job.dest()).assert_same();
        assert_counts(&job.run().expect(0), 0, 0);
    }
}

/// Without a recorded checksum there is nothing to compare with: such a file is copied.
#[test]
fn without_a_checksum_a_new_ctime_is_copied() {
    for engine in Engine::all() {
        let scratch = support::Scratch::new();
        let tree = scratch.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a"), "content").unwrap();
        let dest = scratch.path().join("copy");
        let job = Job::new(&tree, &dest, scratch.path().join("state"), engine).arg("--reflink").arg("never");
        job.run().expect(0);
        fs::set_permissions(tree.join("a"), Permissions::from_mode(0o600)).unwrap();
        assert_counts(&job.run().expect(0), 0, 1);
        Comparison::new(&tree, &dest).assert_same();
    }
}

/// A copy that somebody changed or removed is not given new metadata: it is copied again.
#[test]
fn a_copy_that_is_not_what_was_written_is_copied_again() {
    for engine in Engine::all() {
        let scratch = support::Scratch::new();
        let (tree, dest) = (scratch.path().join("tree"), scratch.path().join("copy"));
        fs::create_dir(&tree).unwrap();
        for name in ["gone", "replaced", "cut", "small"] {
            fs::write(tree.join(name), vec![7; if name == "small" { 9 } else { 2 << 20 }]).unwrap();
        }
        let job = Job::new(&tree, &dest, scratch.path().join("state"), engine).arg("--checksum");
        job.run().expect(0);
        fs::remove_file(dest.join("gone")).unwrap();
        fs::remove_file(dest.join("small")).unwrap();
        fs::rename(dest.join("replaced"), dest.join("old")).unwrap();
        fs::copy(dest.join("old"), dest.join("replaced")).unwrap();
        fs::remove_file(dest.join("old")).unwrap();
        File::options().write(true).open(dest.join("cut")).unwrap().set_len(5).unwrap();
        for entry in fs::read_dir(&tree).unwrap() {
            fs::set_permissions(entry.unwrap().path(), Permissions::from_mode(0o604)).unwrap();
        }
        let outcome = job.run().expect(0);
        let made = outcome.number("copied") + outcome.number("cloned");
        assert_eq!((outcome.number("metadata_only"), made), (0, 4), "{outcome}");
        Comparison::new(&tree, &dest).assert_same();
    }
}

/// `--ignore-ctime` takes all of it for unchanged, and still links a new name to the file it belongs to.
#[test]
fn ignored_ctimes_change_nothing() {
    for engine in Engine::all() {
        let scratch = support::Scratch::new();
        let (tree, dest) = (scratch.path().join("tree"), scratch.path().join("copy"));
        fs::create_dir(&tree).unwrap();
        make(&tree, 3);
        let state = scratch.path().join("state");
        let job = Job::new(&tree, &dest, &state, engine).arg("--checksum");
        job.run().expect(0);
        change_attributes(&tree);
        let ignoring = Job::new(&tree, &dest, &state, engine).arg("--ignore-ctime");
        let outcome = ignoring.run().expect(0);
        assert_counts(&outcome, 0, 0);
        assert_eq!((outcome.number("bytes"), outcome.number("hard_links")), (0, 1), "{outcome}");
        assert_eq!(inode(&dest.join("first")), inode(&dest.join("a-third")));
        assert_counts(&job.run().expect(0), 6, 0);
        Comparison::new(&tree, &dest).assert_same();
    }
}

/// A file that had one name when it was copied, and gets more: with and without `--ignore-ctime` they are links to it,
/// whichever of them is met first.
#[test]
fn new_names_of_a_file_that_had_one_are_links() {
    for engine in Engine::all() {
        for option in ["--quiet", "--ignore-ctime"] {
            let scratch = support::Scratch::new();
            let (tree, dest) = (scratch.path().join("tree"), scratch.path().join("copy"));
            fs::create_dir_all(tree.join("d/e")).unwrap();
            for name in ["m", "d/m", "d/e/m"] {
                fs::write(tree.join(name), name).unwrap();
            }
            let job = Job::new(&tree, &dest, scratch.path().join("state"), engine).arg(option);
            job.run().expect(0);
            for (name, more) in [("m", ["a", "d/e/z"]), ("d/m", ["z", "d/a"]), ("d/e/m", ["b", "d/e/c"])] {
                more.iter().for_each(|more| fs::hard_link(tree.join(name), tree.join(more)).unwrap());
            }
            let outcome = job.run().expect(0);
            Comparison::new(&tree, &dest).assert_same();
            let names = [["m", "a", "d/e/z"], ["d/m", "z", "d/a"], ["d/e/m", "b", "d/e/c"]];
            for [one, two, three] in names.map(|names| names.map(|name| inode(&dest.join(name)))) {
                assert!(one == two && two == three, "{engine:?} {option}: {outcome}");
            }
            let outcome = job.run().expect(0);
            assert_counts(&outcome, 0, 0);
        }
    }
}

/// A directory of files of several names is renamed on both sides: what the catalog knows of their first names is of a
/// place that is no more.
#[test]
fn names_in_a_directory_that_was_renamed_on_both_sides_stay_links() {
    for engine in Engine::all() {
        let scratch = support::Scratch::new();
        let (tree, copy) = (scratch.path().join("tree"), scratch.path().join("copy"));
        fs::create_dir_all(tree.join("old/sub")).unwrap();
        for number in 0..5 {
            let first = tree.join(format!("old/{number}"));
            fs::write(&first, vec![number; 10_000 * number as usize]).unwrap();
            ["old/again", "old/sub/more"]
                .iter()
                .for_each(|name| fs::hard_link(&first, tree.join(format!("{name}{number}"))).unwrap());
        }
        let job = Job::new(&tree, &copy, scratch.path().join("state"), engine);
        job.run().expect(0);
        [&tree, &copy].iter().for_each(|root| fs::rename(root.join("old"), root.join("new")).unwrap());
        let outcome = job.run().expect(0);
        Comparison::new(&tree, &copy).assert_same();
        assert_eq!(outcome.number("bytes"), 0, "{outcome}");
        // The copy of before is gone, removed by hand.
        fs::rename(tree.join("new"), tree.join("newer")).unwrap();
        fs::remove_dir_all(copy.join("new")).unwrap();
        let outcome = job.run().expect(0);
        Comparison::new(&tree, &copy).assert_same();
        assert_eq!((outcome.number("copied"), outcome.number("hard_links")), (5, 10), "{outcome}");
        // Where it is not removed, it is linked to.
        fs::rename(tree.join("newer"), tree.join("newest")).unwrap();
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("hard_links")), (0, 15), "{outcome}");
        assert_eq!(inode(&copy.join("newest/3")), inode(&copy.join("newer/again3")));
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("hard_links")), (0, 0), "{outcome}");
    }
}

/// A file that had one name when it was copied, which is gone at the destination, or is another file there.
#[test]
fn a_new_name_of_a_file_whose_copy_is_lost_is_copied() {
    for engine in Engine::all() {
        let scratch = support::Scratch::new();
        let (tree, copy) = (scratch.path().join("tree"), scratch.path().join("copy"));
        fs::create_dir_all(&tree).unwrap();
        let names = ["gone", "other"];
        names.iter().for_each(|name| fs::write(tree.join(name), name).unwrap());
        // Met after them: names are met in the order of their inodes.
        fs::create_dir(tree.join("later")).unwrap();
        // What is younger than a tick of the clock is read again.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let job = Job::new(&tree, &copy, scratch.path().join("state"), engine).arg("--ignore-ctime");
        job.run().expect(0);
        fs::remove_file(copy.join("gone")).unwrap();
        fs::write(copy.join("another"), "another").unwrap();
        fs::rename(copy.join("another"), copy.join("other")).unwrap();
        names.iter().for_each(|name| fs::hard_link(tree.join(name), tree.join("later").join(name)).unwrap());
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("hard_links")), (2, 0), "{outcome}");
        Comparison::new(&tree.join("later"), &copy.join("later")).assert_same();
        let outcome = job.run().expect(0);
        assert_eq!((outcome.number("copied"), outcome.number("hard_links")), (0, 0), "{outcome}");
    }
}

/// From the second pass on the summary tells what the next one will take, and from how much.
#[test]
fn a_second_pass_tells_of_the_third() {
    let scratch = support::Scratch::new();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    (0..40).for_each(|index| fs::write(tree.join(index.to_string()), "content").unwrap());
    let job = Job::new(&tree, scratch.path().join("copy"), scratch.path().join("state"), Engine::Sync);
    let outcome = job.run().expect(0);
    assert!(outcome.stdout.contains("\"forecast\":null"), "one pass is no ground for a forecast: {outcome}");
    fs::write(tree.join("3"), "other content").unwrap();
    let outcome = job.run().expect(0);
    let counts = ["changes", "change_bytes", "entries"].map(|key| outcome.number(key));
    assert_eq!(counts, [1, 13, 41], "{outcome}");
    assert!(!outcome.stdout.contains("\"forecast\":{\"elapsed_s\":0.000"), "{outcome}");
}

/// A further pass looks at the destination only where the source has something new; what it needs there and does not
/// find it makes, with all that is above it.
#[test]
fn directories_are_looked_at_where_something_is_new_and_made_if_they_are_gone() {
    for engine in Engine::all() {
        let scratch = support::Scratch::new();
        let (tree, copy) = (scratch.path().join("tree"), scratch.path().join("copy"));
        for dir in ["still/a/b", "moving/a/b/c", "moving/other"] {
            fs::create_dir_all(tree.join(dir)).unwrap();
            fs::write(tree.join(dir).join("file"), "content").unwrap();
        }
        fs::write(tree.join("moving/a/b/changing"), "content").unwrap();
        fs::set_permissions(tree.join("moving/a"), Permissions::from_mode(0o2750)).unwrap();
        let job = Job::new(&tree, &copy, scratch.path().join("state"), engine);
        job.run().expect(0);
        for gone in ["still", "moving"] {
            fs::remove_dir_all(copy.join(gone)).unwrap();
        }
        let before = fs::metadata(&copy).unwrap();
        job.run().expect(0);
        assert!(!copy.join("still").exists() && !copy.join("moving").exists(), "nothing is new");
        assert_eq!(fs::metadata(&copy).unwrap().ctime_nsec(), before.ctime_nsec(), "nothing was touched");

        fs::write(tree.join("moving/a/b/changing"), "new content").unwrap();
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("copied"), 1, "{outcome}");
        let made = fs::read(copy.join("moving/a/b/changing")).unwrap();
        assert_eq!(made, b"new content");
        assert!(!copy.join("still").exists() && !copy.join("moving/a/b/c").exists(), "{outcome}");
        for dir in ["", "moving", "moving/a", "moving/a/b"] {
            let [source, dest] = [&tree, &copy].map(|root| fs::metadata(root.join(dir)).unwrap());
            let of = |meta: &fs::Metadata| (meta.mode(), meta.mtime(), meta.mtime_nsec());
            assert_eq!(of(&source), of(&dest), "{engine:?} {dir:?}");
        }
    }
}

/// Where times have no fraction, as on ext4 with small inodes, an edit within the second of the copy leaves no trace:
/// what is as young as that is read again by the next pass, and what is older is not.
#[test]
fn an_edit_within_the_second_of_its_copy_is_found() {
    let test = "an_edit_within_the_second_of_its_copy_is_found";
    if !can_mount(test) {
        return;
    }
    for (engine, checksum) in Engine::all().into_iter().zip([false, true]) {
        let (source, dest) = (Mount::new(Kind::OldExt4, 64), Mount::new(Kind::Ext4, 64));
        let (tree, file) = (source.dir("tree"), source.join("tree/file"));
        fs::write(tree.join("old"), "content").unwrap();
        std::thread::sleep(std::time::Duration::from_secs(3));
        // Ends: a run takes far less than a second, but for now and then.
        let outcome = (0..20).find_map(|round| {
            let job = Job::new(&tree, dest.join(format!("copy{round}")), dest.join(format!("state{round}")), engine);
            let job = if checksum { job.arg("--checksum") } else { job };
            fs::write(&file, "old content").unwrap();
            let before = fs::metadata(&file).unwrap();
            job.run().expect(0);
            File::options().write(true).open(&file).unwrap().write_all_at(b"new", 0).unwrap();
            let after = fs::metadata(&file).unwrap();
            let is_within = (before.ctime(), before.ctime_nsec()) == (after.ctime(), after.ctime_nsec());
            is_within.then(|| (job.run().expect(0), job))
        });
        let (outcome, job) = outcome.expect("a run within a second");
        assert_eq!(fs::read(job.dest().join("file")).unwrap(), b"new content", "{outcome}");
        assert_counts(&outcome, 0, 1);
        // Old enough now: read once more if the last pass came within the second of the edit, and never again.
        std::thread::sleep(std::time::Duration::from_secs(3));
        job.run().expect(0);
        assert_counts(&job.run().expect(0), 0, 0);
    }
}
