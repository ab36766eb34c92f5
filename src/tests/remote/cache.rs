//! A mount whose answers the kernel may believe for a minute: what was read of a file that somebody else has written to
//! meanwhile is no copy of it.

use std::fs;

use super::support::slow::{TORN, can_mount_fuse};
use super::support::{Comparison, Engine, Job, Rng, Scratch, SlowMount, seed};

#[test]
fn a_source_that_changes_behind_a_cache_is_never_torn() {
    let test = "a_source_that_changes_behind_a_cache_is_never_torn";
    if !can_mount_fuse(test) {
        return;
    }
    let mut rng = Rng::new(seed(test, 131));
    for engine in Engine::all() {
        for words in [&["--streams", "1"][..], &["--streams", "8", "--xattrs"]] {
            let (slow, other) = (SlowMount::remembering(), Scratch::new());
            for (name, size) in [("small", 5000), ("middle", 200 << 10), ("large", (9 << 20) + 77)] {
                let mut bytes = vec![0; size];
                rng.fill(&mut bytes);
                fs::write(slow.folder().join(format!("{TORN}{name}")), &bytes).unwrap();
                fs::write(slow.folder().join(name), bytes).unwrap();
            }
            let copy = other.path().join("copy");
            let job = Job::new(slow.path(), &copy, other.path().join("state"), engine).args(words);
            let outcome = job.run().expect(0);
            Comparison::new(slow.folder(), &copy).assert_same();
            assert_eq!((outcome.number("copied"), outcome.number("failed")), (6, 0), "{outcome}");
        }
    }
}
