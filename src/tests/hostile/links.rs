//! Names of one file that cannot all be links at the destination: its directories are on several file systems, or one
//! file may not have so many names there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::fixture::{can_mount, must};
use super::support::{Engine, Job, Kind, Mount, Outcome};

/// A directory with another file system on it.
struct Below(PathBuf);

impl Below {
    fn new(point: PathBuf, mount: &Mount) -> Below {
        must(Command::new("mount").arg("--bind").arg(mount.path()).arg(&point));
        Below(point)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status();
        if !matches!(unmounted, Ok(status) if status.success()) {
            eprintln!("left mounted: {}", self.0.display());
        }
    }
}

/// The numbers of the files that these names are, in each directory.
fn files(root: &Path, names: &[&str]) -> BTreeMap<PathBuf, BTreeSet<u64>> {
    let mut found: BTreeMap<_, BTreeSet<u64>> = BTreeMap::new();
    for name in names {
        let dir = Path::new(name).parent().unwrap().to_owned();
        found.entry(dir).or_default().insert(fs::metadata(root.join(name)).unwrap().ino());
    }
    found
}

#[track_caller]
fn assert_lost(outcome: &Outcome, count: u64) {
    assert!(outcome.says(&format!("\"hard_link\":{count}")), "{outcome}");
    assert_eq!(outcome.number("failed"), 0, "{outcome}");
}

#[test]
fn names_on_two_file_systems_are_a_file_on_each() {
    let test = "names_on_two_file_systems_are_a_file_on_each";
    if !can_mount(test) {
        return;
    }
    let names = ["home/a", "home/b", "home/c", "var/a", "var/b", "var/c"];
    let source = Mount::new(Kind::Tmpfs, 64);
    let tree = source.dir("tree");
    fs::create_dir(tree.join("home")).unwrap();
    fs::create_dir(tree.join("var")).unwrap();
    for engine in Engine::all() {
        fs::write(tree.join("first"), format!("{engine:?}")).unwrap();
        names.iter().for_each(|name| fs::hard_link(tree.join("first"), tree.join(name)).unwrap());
        fs::remove_file(tree.join("first")).unwrap();
        let (dest, disk, state) = (Mount::new(Kind::Ext4, 64), Mount::new(Kind::Ext4, 64), Mount::new(Kind::Tmpfs, 64));
        let copy = dest.dir("copy");
        fs::create_dir(copy.join("var")).unwrap();
        let _below = Below::new(copy.join("var"), &disk);
        let job = Job::new(&tree, &copy, state.join("state"), engine);
        let assert_copied = |outcome: Outcome, content: &str| {
            names.iter().for_each(|name| assert_eq!(fs::read_to_string(copy.join(name)).unwrap(), content, "{name}"));
            let files = files(&copy, &names);
            assert!(files.values().all(|numbers| numbers.len() == 1), "{files:?}, {outcome}");
            assert_lost(&outcome, 1);
        };
        assert_copied(job.run().expect(0), &format!("{engine:?}"));
        let again = job.run().expect(0);
        assert_eq!(again.number("copied"), 0, "{again}");
        fs::write(tree.join("var/a"), "another content").unwrap();
        assert_copied(job.run().expect(0), "another content");
        names.iter().for_each(|name| fs::remove_file(tree.join(name)).unwrap());
    }
}

/// ext4 allows 65,000.
#[test]
fn names_beyond_the_most_that_a_file_may_have_are_a_second_file() {
    let test = "names_beyond_the_most_that_a_file_may_have_are_a_second_file";
    if !can_mount(test) {
        return;
    }
    let (source, dest) = (Mount::new(Kind::Xfs, 320), Mount::new(Kind::Ext4, 64));
    let tree = source.dir("tree");
    fs::write(tree.join("0"), "content").unwrap();
    (1..65_010).for_each(|name| fs::hard_link(tree.join("0"), tree.join(name.to_string())).unwrap());
    let job = Job::new(&tree, dest.join("copy"), dest.join("state"), Engine::Auto);
    assert_lost(&job.run().expect(0), 1);
    let mut names: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in fs::read_dir(job.dest()).unwrap() {
        *names.entry(entry.unwrap().metadata().unwrap().ino()).or_default() += 1;
    }
    let counts: BTreeSet<u64> = names.into_values().collect();
    assert_eq!(counts, BTreeSet::from([10, 65_000]));
}
