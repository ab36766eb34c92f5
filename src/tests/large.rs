//! Large files of an unusual kind: those that their owner may not write to, and those whose blocks do not fit.

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use support::block::Loop;
use support::compare::What;
use support::fixture::{can_mount, must, set_mode};
use support::{Comparison, Engine, Job, Kind, Mount, Rng, Scratch, tree};

/// An ordinary user.
const UID: u32 = 12_345;

/// A source of a user's, with a large file of each of `modes`, on a file system with room for its copy.
fn of_user(modes: &[u32], bytes: u64) -> (Mount, PathBuf) {
    let mount = Mount::new(Kind::Ext4, 512);
    let tree = mount.dir("tree");
    let at = tree::open_dir(&tree);
    for (seed, mode) in modes.iter().enumerate() {
        let name = format!("mode-{mode:o}");
        tree::regular(&mut Rng::new(seed as u64), &at, &std::ffi::CString::new(name.clone()).unwrap(), bytes);
        chown(tree.join(&name), Some(UID), Some(UID)).unwrap();
        set_mode(&tree.join(&name), *mode);
    }
    for path in [mount.path(), &tree] {
        chown(path, Some(UID), Some(UID)).unwrap();
    }
    (mount, tree)
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Such a file is opened again, past the page cache, after it was made: its owner may always write to it until it is
/// whole, and nobody else may then.
#[test]
fn an_ordinary_user_copies_large_files_that_nobody_may_write_to() {
    if !can_mount("an_ordinary_user_copies_large_files_that_nobody_may_write_to") {
        return;
    }
    let modes = [0o444, 0o400, 0o555, 0o644];
    for engine in Engine::all() {
        for arguments in [&[][..], &["--no-metadata", "--atomic"]] {
            let (mount, tree) = of_user(&modes, 3 << 20);
            let job = Job::new(&tree, mount.join("copy"), mount.join("state"), engine).args(arguments).user(UID);
            job.run().expect(0);
            let found = Comparison::new(&tree, job.dest()).run();
            // Without metadata the directory is the system's; the files get their modes all the same.
            assert!(found.iter().all(|found| found.what == What::Mode && found.path.is_empty()), "{found:?}");
            for mode in modes {
                assert_eq!(mode_of(&mount.join(format!("copy/mode-{mode:o}"))), mode);
            }
        }
    }
}

/// What an interruption left of it is taken up, with whatever mode it has by then.
#[test]
fn a_large_file_that_nobody_may_write_to_is_resumed() {
    if !can_mount("a_large_file_that_nobody_may_write_to_is_resumed") {
        return;
    }
    const BYTES: u64 = 32 << 20;
    for (engine, mode) in Engine::all().into_iter().flat_map(|engine| [(engine, 0o600), (engine, 0o444)]) {
        let (mount, tree) = of_user(&[0o444], BYTES);
        let job = Job::new(&tree, mount.join("copy"), mount.join("state"), engine).user(UID);
        let running = job.clone().args(&["--bwlimit", "6M", "--checkpoint-interval", "1"]).start();
        let alive = running.run_for(Duration::from_millis(3500));
        let outcome = running.kill();
        assert!(alive, "it ended too early: {outcome}");
        let left = mount.join("copy/mode-444");
        assert_eq!(mode_of(&left), 0o600, "{outcome}");
        // As it is between its metadata and its record.
        set_mode(&left, mode);
        let outcome = job.run().expect(0);
        assert!(outcome.number("bytes") < BYTES, "all of it was copied again: {outcome}");
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

/// A device with a file system on it, mounted; unmounted before the device goes.
struct LoopMount {
    /// Where it is mounted.
    point: Scratch,
    /// The device.
    _device: Loop,
}

impl LoopMount {
    fn new(device: Loop, make: &[&str]) -> LoopMount {
        must(Command::new(make[0]).args(&make[1..]).arg(device.path()));
        let point = Scratch::new();
        must(Command::new("mount").arg(device.path()).arg(point.path()));
        LoopMount { point, _device: device }
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.point.path()).status();
        if !matches!(unmounted, Ok(status) if status.success()) {
            let _ = Command::new("umount").arg("-l").arg(self.point.path()).status();
        }
    }
}

/// Data of a source with blocks of 1 KiB begins and ends off the alignment of a destination with sectors of 4 KiB.
#[test]
fn data_that_ends_off_the_destinations_alignment_is_copied() {
    if !can_mount("data_that_ends_off_the_destinations_alignment_is_copied") {
        return;
    }
    let source = LoopMount::new(Loop::new(64 << 20), &["mkfs.ext4", "-q", "-F", "-b", "1024"]);
    let root = source.point.path().join("tree");
    fs::create_dir(&root).unwrap();
    // Runs of data that begin and end in every way, some of them in one block of the destination.
    let kib = |from: u64, count: u64| (from << 10, count << 10);
    let extents = [kib(0, 1027), kib(1029, 1), kib(1031, 2), kib(2049, 5), kib(4095, 4), kib(5001, 1), kib(8190, 1)];
    let at = tree::open_dir(&root);
    tree::sparse(&mut Rng::new(51), &at, c"ends-in-data", &extents, (8191 << 10) - 100);
    tree::sparse(&mut Rng::new(52), &at, c"ends-in-a-hole", &extents, (12 << 20) + 1234);
    let images = Scratch::new();
    let image = images.path().join("image");
    fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let device = Loop::over(&image, &["--sector-size", "4096"]);
    let dest = LoopMount::new(device, &["mkfs.xfs", "-q", "-f", "-s", "size=4096"]);
    for engine in Engine::all() {
        let name = format!("{engine:?}");
        let copy = dest.point.path().join(&name);
        let job = Job::new(&root, copy, images.path().join(format!("state-{name}")), engine);
        job.args(&["--direct", "always"]).run().expect(0);
        Comparison::new(&root, &dest.point.path().join(&name)).assert_same();
    }
}

/// Somebody exchanges each file for another as soon as it is made: whenever that is, nothing is written to the other.
#[test]
fn a_file_that_is_exchanged_for_another_gets_no_blocks() {
    if !can_mount("a_file_that_is_exchanged_for_another_gets_no_blocks") {
        return;
    }
    const FILES: usize = 100;
    let (source, dest) = (Mount::new(Kind::Ext4, 512), Mount::new(Kind::Ext4, 1024));
    let root = source.dir("tree");
    (0..FILES).for_each(|file| fs::write(root.join(file.to_string()), vec![1; 2 << 20]).unwrap());
    for engine in Engine::all() {
        let (copy, others) = (dest.join("copy"), dest.dir("others"));
        let other = |file: usize| others.join(file.to_string());
        (0..FILES).for_each(|file| fs::write(other(file), vec![2; 2 << 20]).unwrap());
        // Whatever becomes of their names.
        let held: Vec<_> = (0..FILES).map(|file| fs::File::open(other(file)).unwrap()).collect();
        let is_over = AtomicBool::new(false);
        let exchanged = std::thread::scope(|scope| {
            let exchanging = scope.spawn(|| {
                let mut left: Vec<usize> = (0..FILES).collect();
                while !is_over.load(Ordering::Relaxed) {
                    left.retain(|&file| {
                        let (from, to) = (copy.join(file.to_string()), other(file));
                        rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE).is_err()
                    });
                }
                FILES - left.len()
            });
            let job = Job::new(&root, &copy, source.join(format!("state-{engine:?}")), engine);
            let outcome = job.args(&["--direct", "always"]).run().expect_one_of(&[0, 23]);
            is_over.store(true, Ordering::Relaxed);
            (exchanging.join().unwrap(), outcome)
        });
        let (exchanged, outcome) = exchanged;
        assert!(exchanged > 0, "{outcome}");
        for (file, held) in held.iter().enumerate() {
            let mut bytes = vec![0; 2 << 20];
            held.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes.iter().all(|&byte| byte == 2), "{engine:?}: {file} of {exchanged} was written to: {outcome}");
        }
        [copy, others].iter().for_each(|dir| fs::remove_dir_all(dir).unwrap());
    }
}
