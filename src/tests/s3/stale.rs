//! A mount beside a bucket whose handles become stale while a job runs (ESTALE), or that loses what is written to it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::support::slow::{STALE, UNKEPT, can_mount_fuse};
use super::support::{Comparison, Engine, Rng, Scratch, SlowMount};
use super::{Scene, fault_server, noise};

/// Whether a directory has another number than it had: it was looked up again.
fn has_been_stale(dir: &Path) -> bool {
    fs::metadata(dir).unwrap().ino() >> 40 > 0
}

#[test]
fn what_becomes_stale_goes_up_and_comes_down() {
    if !can_mount_fuse("what_becomes_stale_goes_up_and_comes_down") {
        return;
    }
    let (upwards, downwards) = (["open", "read"], ["create", "write", "times"]);
    for engine in Engine::all() {
        let server = fault_server(72);
        let scene = Scene::new(&server, engine);
        let (from, to) = (SlowMount::going_stale(), SlowMount::going_stale());
        let mut rng = Rng::new(72);
        let sizes = [("small", 5000), ("large", 20 << 20)];
        let dirs = |verbs: &[&str]| {
            let of = |verb: &str| sizes.map(|(size, _)| format!("{size}-{verb}"));
            verbs.iter().flat_map(|verb| of(verb)).collect::<Vec<_>>()
        };
        for verb in upwards.iter().chain(&downwards) {
            for (kind, size) in sizes {
                let dir = from.folder().join(format!("{kind}-{verb}"));
                fs::create_dir_all(dir.join("below")).unwrap();
                for name in ["a", "z", "below/b"] {
                    noise(&dir.join(name), &mut rng, 3000);
                }
                noise(&dir.join(format!("{STALE}{verb}")), &mut rng, size);
            }
        }
        scene.job(from.path(), "s3://b/up", "up").run().expect(0);
        scene.job("s3://b/up", to.path().join("copy"), "down").run().expect(0);
        for dir in dirs(&upwards) {
            assert!(has_been_stale(&from.path().join(&dir)), "{dir} did not become stale on the way up");
        }
        for dir in dirs(&downwards) {
            assert!(has_been_stale(&to.path().join("copy").join(&dir)), "{dir} did not become stale on the way down");
        }
        Comparison::new(from.folder(), &to.folder().join("copy")).assert_same();
    }
}

/// Each descriptor that is closed may be the one to which a loss is told, and it is told once.
#[test]
fn what_a_mount_has_lost_fails_whoever_is_told() {
    if !can_mount_fuse("what_a_mount_has_lost_fails_whoever_is_told") {
        return;
    }
    for engine in Engine::all() {
        let server = fault_server(73);
        let scene = Scene::new(&server, engine);
        let (from, to, mut rng) = (Scratch::new(), SlowMount::losing_writes(), Rng::new(73));
        let lost = ["small", "large"].map(|size| format!("{UNKEPT}{size}"));
        for (name, size) in [("kept-small", 5000), ("kept-large", 20 << 20), (&lost[0], 5000), (&lost[1], 20 << 20)] {
            noise(&from.path().join(name), &mut rng, size);
        }
        scene.job(from.path(), "s3://b/up", "up").run().expect(0);
        let copy = to.path().join("copy");
        let outcome = scene.job("s3://b/up", &copy, "down").run().expect(23);
        for name in &lost {
            assert!(outcome.says(name), "{name}: {outcome}");
            assert!(!copy.join(name).exists(), "{name} is there");
        }
        for name in ["kept-small", "kept-large"] {
            assert!(fs::read(copy.join(name)).unwrap() == fs::read(from.path().join(name)).unwrap(), "{name} differs");
        }
    }
}
