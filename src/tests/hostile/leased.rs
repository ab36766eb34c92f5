//! Files of the source that somebody has a lease on: they are waited for, at leisure, and the rest is copied meanwhile.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::support::fixture::can_mount;
use super::support::lease::{Lease, holder};
use super::support::{Comparison, Engine, Job, Kind, Mount, Rng, Scratch, seed, tree};

#[test]
fn a_leased_file_is_waited_for() {
    let test = "a_leased_file_is_waited_for";
    let scratch = Scratch::new();
    if !can_mount(test) {
        return;
    }
    let Some(holder) = holder(test, scratch.path()) else { return };
    let source = Mount::new(Kind::Ext4, 64);
    let tree = source.dir("tree");
    tree::wide(&tree, 300);
    let at = tree::open_dir(&tree);
    let mut rng = Rng::new(seed(test, 29));
    let leased = [(c"small", 5000), (c"large", 3 << 20)].map(|(name, size)| {
        tree::regular(&mut rng, &at, name, size);
        tree.join(name.to_str().unwrap())
    });
    for engine in Engine::all() {
        for streams in ["1", "32"] {
            let (dest, state) = (Mount::new(Kind::Xfs, 320), Scratch::new());
            let job = Job::new(&tree, dest.join("copy"), state.path().join("state"), engine);
            let job = job.args(&["--streams", streams, "--checkpoint-interval", "1"]);
            let leases = leased.each_ref().map(|file| Lease::take(&holder, file));
            let running = job.start();
            assert!(running.run_for(Duration::from_millis(1500)), "it ended without them: {}", running.said());
            let spent = running.cpu_time();
            assert!(spent < Duration::from_millis(500), "{engine:?}: {spent:?} of CPU time while it waited");
            if streams == "32" {
                let there = fs::read_dir(job.dest()).unwrap().count();
                assert!(there >= 300, "{there} of the others are there");
            }
            // A stop does not wait for them.
            running.signal(Signal::TERM);
            assert!(!running.run_for(Duration::from_secs(10)), "still running: {}", running.said());
            running.wait().expect(20);
            let running = job.start();
            assert!(running.run_for(Duration::from_millis(500)), "it ended without them: {}", running.said());
            drop(leases);
            let outcome = running.wait().expect(0);
            assert!(outcome.elapsed < Duration::from_secs(20), "{outcome}");
            Comparison::new(&tree, job.dest()).assert_same();
        }
    }
}
