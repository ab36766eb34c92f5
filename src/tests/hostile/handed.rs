//! Directories of the destination that hand their group, or an ACL, to what is created in them: until its owner is
//! right nobody but the owner of the copy may read it (I9).

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::support::fixture::{can_mount, has, must, set_mode, skip, traced};
use super::support::{Comparison, Engine, Job, Kind, Mount, Rng, Scratch, seed, tree};

/// A group that no file of the source has.
const OTHERS: u32 = 4321;
/// Names in the root and in a directory that the destination has already.
const NAMES: [&str; 4] = ["small", "empty", "large", "pipe"];

fn grow(root: &Path, seed: u64) {
    let mut rng = Rng::new(seed);
    for dir in ["", "there", "new"] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).unwrap();
        let at = tree::open_dir(&dir);
        tree::regular(&mut rng, &at, c"small", 5000);
        tree::regular(&mut rng, &at, c"large", 3 << 20);
        tree::regular(&mut rng, &at, c"empty", 0);
        mknodat(CWD, dir.join("pipe"), FileType::Fifo, Mode::empty(), 0).unwrap();
        for name in NAMES {
            let path = dir.join(name);
            chown(&path, Some(0), Some(0)).unwrap();
            set_mode(&path, 0o640);
        }
    }
}

/// The modes that files and FIFOs were made with, and how many were given one later, as strace tells it in a file for
/// each thread.
fn modes(logs: &Path) -> (Vec<u32>, usize) {
    let logs = fs::read_dir(logs).unwrap().map(|log| fs::read_to_string(log.unwrap().path()).unwrap());
    let text: String = logs.collect();
    let is_made =
        |line: &&str| NAMES.iter().any(|name| line.contains(&format!("\"{name}\""))) && !line.contains("EEXIST");
    let octal = |word: &str| u32::from_str_radix(word.split([')', ',']).next().unwrap().trim_start_matches("0o"), 8);
    let made = text.lines().filter(is_made).filter_map(|line| match line.split_once("O_CREAT") {
        Some((_, rest)) => octal(rest.split_once(", ")?.1).ok(),
        None => octal(line.split_once("S_IFIFO|")?.1).ok(),
    });
    (made.collect(), text.matches("fchmod(").count())
}

/// What such a directory does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hands {
    /// Nothing.
    Nothing,
    /// Its group, for it is setgid.
    Group,
    /// Its group, for so it is mounted.
    GroupByMount,
    /// An ACL.
    Acl,
}

impl Hands {
    /// Makes a directory do so.
    fn prepare(self, dir: &Path) {
        match self {
            Hands::Nothing => {}
            Hands::Group | Hands::GroupByMount => {
                chown(dir, None, Some(OTHERS)).unwrap();
                set_mode(dir, if self == Hands::Group { 0o2775 } else { 0o775 });
            }
            Hands::Acl => drop(must(Command::new("setfacl").args(["-d", "-m", "u:1234:rwx"]).arg(dir))),
        }
    }
}

#[test]
fn what_a_directory_hands_on_is_shut_until_its_owner_is_right() {
    let test = "what_a_directory_hands_on_is_shut_until_its_owner_is_right";
    if let Some(missing) = ["strace", "setfacl"].into_iter().find(|tool| !has(tool)) {
        skip(test, &format!("no {missing}"));
        return;
    }
    if !can_mount(test) {
        return;
    }
    let source = Mount::new(Kind::Ext4, 64);
    let tree = source.dir("tree");
    grow(&tree, seed(test, 28));
    let cases = [Hands::Nothing, Hands::Group, Hands::GroupByMount, Hands::Acl];
    for (engine, hands) in Engine::all().into_iter().flat_map(|engine| cases.map(|hands| (engine, hands))) {
        let (dest, scratch) = (Mount::new(Kind::Ext4, 64), Scratch::new());
        if hands == Hands::GroupByMount {
            must(Command::new("mount").args(["-o", "remount,grpid"]).arg(dest.path()));
        }
        let copy = dest.dir("copy");
        fs::create_dir(copy.join("there")).unwrap();
        [&copy, &copy.join("there")].into_iter().for_each(|dir| hands.prepare(dir));
        let logs = scratch.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let wrapper = traced(&scratch, &format!("-ff -o {}/log -e trace=openat,mknodat,fchmod", logs.display()));
        let job = Job::new(&tree, &copy, scratch.path().join("state"), engine).args(&["--reflink", "never"]);
        let job = job.within(&wrapper);
        job.run().expect(0);
        Comparison::new(&tree, &copy).assert_same();
        let (made, set) = modes(&logs);
        println!("{engine:?}, {hands:?}: made {made:?}, set {set} times");
        assert_eq!(made.len(), 3 * NAMES.len(), "{engine:?}, {hands:?}");
        let open = made.iter().filter(|mode| *mode & 0o077 != 0).count();
        match hands {
            // The directories get theirs; what is made as it is to be gets none.
            Hands::Nothing => assert!(open == made.len() && set <= 3, "{made:?}, {set}"),
            // A new directory is shut itself.
            _ => assert!(open <= NAMES.len(), "{engine:?}, {hands:?}: {made:?}"),
        }
    }
}
