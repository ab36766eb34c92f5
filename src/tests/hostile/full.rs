//! A destination that has no room left for names: a link, or the rename that gives a file its own name, ends the job
//! (exit 11) as a write would, and is no failure of each name.

use std::fs;
use std::path::{Path, PathBuf};

use super::fill_but;
use super::support::fixture::can_mount;
use super::support::{Comparison, Engine, Job, Kind, Mount, Outcome};

/// Names of 250 bytes: a block of a directory holds 15 of them.
const COUNT: usize = 3000;

fn names(dir: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    (0..COUNT).map(move |number| dir.join(format!("{number:0>250}")))
}

#[track_caller]
fn assert_said_once(outcome: &Outcome) {
    let told = outcome.stderr.lines().filter(|line| line.contains("No space left")).count();
    assert!(told <= 2, "told {told} times: {outcome}");
    assert_eq!(outcome.number("failed"), 0, "{outcome}");
}

fn fills_up(test: &str, room: u64, words: &[&str], grow: fn(&Path)) {
    if !can_mount(test) {
        return;
    }
    let source = Mount::new(Kind::Ext4, 64);
    let tree = source.dir("tree");
    grow(&tree);
    for engine in Engine::all() {
        let (dest, state) = (Mount::new(Kind::Ext4, 64), Mount::new(Kind::Tmpfs, 64));
        fill_but(&dest, room);
        let job = Job::new(&tree, dest.join("copy"), state.join("state"), engine).args(words);
        // Again without anything having changed.
        for _ in 0..2 {
            let outcome = job.run().expect(11);
            assert_said_once(&outcome);
            Comparison::new(&tree, job.dest()).sealed_only().assert_same();
        }
        fs::remove_file(dest.join("ballast")).unwrap();
        job.run().expect(0);
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

#[test]
fn links_that_find_no_room_stop_the_job() {
    fills_up("links_that_find_no_room_stop_the_job", 400 << 10, &[], |tree| {
        let first = tree.join("first");
        fs::write(&first, [7; 4096]).unwrap();
        names(tree).for_each(|name| fs::hard_link(&first, name).unwrap());
    });
}

#[test]
fn renames_that_find_no_room_stop_the_job() {
    fills_up("renames_that_find_no_room_stop_the_job", 400 << 10, &["--atomic"], |tree| {
        names(tree).for_each(|name| fs::write(name, []).unwrap());
    });
}
