//! Handles that become stale while a job runs (ESTALE): what they led to is looked up once more, from the root.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::support::slow::{LOST, STALE, can_mount_fuse};
use super::support::{Comparison, Engine, Job, Rng, Scratch, SlowMount, seed};

/// Bytes of files that are copied in blocks.
const LARGE: usize = (3 << 20) + 77;

/// Directories, in each of which an operation makes it and all below it stale, with files before and behind that.
fn grow(root: &Path, verbs: &[&str], seed: u64) {
    let mut rng = Rng::new(seed);
    for verb in verbs {
        for (kind, size) in [("small", 5000), ("large", LARGE)] {
            let dir = root.join(format!("{kind}-{verb}"));
            fs::create_dir_all(dir.join("below/deep")).unwrap();
            let names = (0..8).map(|number| format!("file-{number}"));
            for name in names.chain([format!("{STALE}{verb}"), "below/one".into(), "below/deep/two".into()]) {
                let mut bytes = vec![0; if name.starts_with(STALE) { size } else { 1 + rng.below(9000) as usize }];
                rng.fill(&mut bytes);
                fs::write(dir.join(&name), bytes).unwrap();
                // Times that are set by the seal alone: what is new gets others before it.
                File::open(dir.join(name)).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1 << 30)).unwrap();
            }
        }
    }
}

/// How often a directory has become stale, by the number that it has now.
fn times_stale(dir: &Path) -> u64 {
    fs::metadata(dir).unwrap().ino() >> 40
}

#[track_caller]
fn assert_stale_once(root: &Path) {
    for dir in fs::read_dir(root).unwrap() {
        let dir = dir.unwrap().path();
        assert_eq!(times_stale(&dir), 1, "{} has not become stale", dir.display());
    }
}

#[test]
fn a_source_that_becomes_stale_is_looked_up_again() {
    let test = "a_source_that_becomes_stale_is_looked_up_again";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        for streams in ["1", "32"] {
            let (slow, other) = (SlowMount::going_stale(), Scratch::new());
            grow(slow.folder(), &["open", "read"], seed(test, 111));
            let copy = other.path().join("copy");
            let job = Job::new(slow.path(), &copy, other.path().join("state"), engine).args(&["--streams", streams]);
            let outcome = job.run().expect(0);
            assert_eq!((outcome.number("failed"), outcome.number("vanished")), (0, 0), "{outcome}");
            assert_stale_once(slow.path());
            Comparison::new(slow.folder(), &copy).assert_same();
            let again = job.run().expect(0);
            assert_eq!(again.number("copied"), 0, "{again}");
        }
    }
}

#[test]
fn a_destination_that_becomes_stale_is_looked_up_again() {
    let test = "a_destination_that_becomes_stale_is_looked_up_again";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        for streams in ["1", "32"] {
            let (slow, other) = (SlowMount::going_stale(), Scratch::new());
            let source = other.path().join("tree");
            grow(&source, &["create", "write", "times"], seed(test, 112));
            fs::create_dir(source.join("links")).unwrap();
            fs::write(source.join("links/first"), "of two names").unwrap();
            fs::hard_link(source.join("links/first"), source.join(format!("links/{STALE}link"))).unwrap();
            fs::create_dir_all(source.join(format!("dirs/{STALE}mkdir/below"))).unwrap();
            fs::write(source.join("dirs/file"), "beside it").unwrap();
            // Which of the two names is the link is chance.
            fs::rename(source.join("links/first"), source.join(format!("links/{STALE}also-link"))).unwrap();
            let copy = slow.path().join("copy");
            let job = Job::new(&source, &copy, other.path().join("state"), engine).args(&["--streams", streams]);
            let outcome = job.run().expect(0);
            assert_eq!((outcome.number("failed"), outcome.number("hard_links")), (0, 1), "{outcome}");
            assert_stale_once(&copy);
            Comparison::new(&source, &slow.folder().join("copy")).assert_same();
            let again = job.run().expect(0);
            assert_eq!((again.number("copied"), again.number("hard_links")), (0, 0), "{again}");
        }
    }
}

/// Looked up again once, and not for ever: then it counts as gone in the source, and as failed at the destination.
#[test]
fn what_stays_stale_is_told_and_the_rest_is_copied() {
    let test = "what_stays_stale_is_told_and_the_rest_is_copied";
    if !can_mount_fuse(test) {
        return;
    }
    for engine in Engine::all() {
        let (slow, other) = (SlowMount::going_stale(), Scratch::new());
        let names = ["before", "zz-behind", &format!("{LOST}open"), &format!("{LOST}create")];
        for root in [slow.folder().join("tree"), other.path().join("tree")] {
            fs::create_dir_all(root.join("dir")).unwrap();
            names.iter().for_each(|name| fs::write(root.join("dir").join(name), name).unwrap());
        }
        let inward = Job::new(slow.path().join("tree"), other.path().join("copy"), other.path().join("in"), engine);
        let outcome = inward.run().expect(24);
        assert_eq!((outcome.number("vanished"), outcome.number("copied")), (1, 3), "{outcome}");
        assert!(!other.path().join("copy/dir").join(names[2]).exists(), "{outcome}");
        let outward = Job::new(other.path().join("tree"), slow.path().join("copy"), other.path().join("out"), engine);
        let outcome = outward.run().expect(23);
        assert_eq!((outcome.number("failed"), outcome.number("copied")), (1, 3), "{outcome}");
        assert!(outcome.says(&format!("copy/dir/{}: Stale file handle", names[3])), "{outcome}");
        assert!(!slow.folder().join("copy/dir").join(names[3]).exists(), "{outcome}");
    }
}
