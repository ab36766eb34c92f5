//! What an interruption leaves of a large file: taken up only as far as it is known to be durable, and removed once
//! nothing needs it any more.

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use gfast::catalog::Catalog;
use support::fixture::{Journal, can_mount, has, must, rebooted, skip};
use support::slow::can_mount_fuse;
use support::{Comparison, Engine, Job, Kind, Mount, Rng, Scratch, SlowMount, tree};

/// Bytes of the large file: below those whose record does not wait for a checkpoint.
const BYTES: u64 = 32 << 20;
/// Slow enough that there is time to kill it: 32 MiB take 5 s.
const SLOW: [&str; 2] = ["--bwlimit", "6M"];

/// A source with one large file, and a destination.
struct Scene {
    /// Holds the source.
    source: Mount,
    /// The source.
    tree: PathBuf,
    /// Holds the copy.
    dest: Mount,
    /// Holds the catalog.
    state: Scratch,
    /// What answers.
    engine: Engine,
}

impl Scene {
    fn new(engine: Engine, mib: u64) -> Scene {
        let source = Mount::new(Kind::Ext4, 256);
        let tree = source.dir("tree");
        tree::regular(&mut Rng::new(41), &tree::open_dir(&tree), c"large", BYTES);
        Scene { source, tree, dest: Mount::new(Kind::Ext4, mib), state: Scratch::new(), engine }
    }

    fn job(&self, arguments: &[&str]) -> Job {
        Job::new(&self.tree, self.dest.join("copy"), self.state.path().join("state"), self.engine).args(arguments)
    }

    fn partial(&self) -> PathBuf {
        self.dest.join("copy/large")
    }

    /// Files of which ranges are recorded.
    fn ranged(&self) -> usize {
        let (catalog, _) = Catalog::open_recorded(&self.state.path().join("state"), None).unwrap();
        catalog.reader().unwrap().ranged(usize::MAX).unwrap().len()
    }

    /// Bytes of the file that are recorded as durable.
    fn durable(&self) -> u64 {
        let (catalog, _) = Catalog::open_recorded(&self.state.path().join("state"), None).unwrap();
        let reader = catalog.reader().unwrap();
        let ids = reader.ranged(usize::MAX).unwrap();
        ids.iter().flat_map(|id| reader.ranges(*id).unwrap()).map(|range| range.len).sum()
    }

    /// Copies a part of the file, of which ranges are recorded, and kills the job; the inode number of what it left.
    fn copy_in_part(&self) -> u64 {
        let running = self.job(&SLOW).args(&["--checkpoint-interval", "1"]).start();
        let alive = running.run_for(Duration::from_millis(3500));
        let outcome = running.kill();
        assert!(alive, "it ended too early: {outcome}");
        assert_eq!(self.ranged(), 1, "nothing was recorded: {outcome}");
        fs::metadata(self.partial()).unwrap().ino()
    }

    /// Runs until the file is there in its whole length, and kills it before anything of that is recorded.
    fn begin_again(&self, ino: u64) {
        let running = self.job(&SLOW).args(&["--checkpoint-interval", "60"]).start();
        let is_there = || fs::metadata(self.partial()).is_ok_and(|now| now.len() >= BYTES);
        let begun = running.run_until(|_| is_there());
        let outcome = running.kill();
        assert!(begun, "it ended too early: {outcome}");
        assert_eq!(fs::metadata(self.partial()).unwrap().ino(), ino, "the inode number was not given again");
    }

    fn finish(&self) {
        self.job(&[]).run().expect(0);
        Comparison::new(&self.tree, &self.dest.join("copy")).assert_same();
    }
}

/// An inode number is given again as soon as it is free, and ranges of the file that had it before are none of the new
/// one's: a run that begins it anew forgets them before there is anything that could be taken for it.
#[test]
fn ranges_of_a_removed_file_are_not_those_of_its_successor() {
    if !can_mount("ranges_of_a_removed_file_are_not_those_of_its_successor") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new(engine, 256);
        let ino = scene.copy_in_part();
        fs::remove_file(scene.partial()).unwrap();
        scene.begin_again(ino);
        scene.finish();
    }
}

/// Likewise where somebody else has put a file there that has the length and the inode number.
#[test]
fn ranges_are_not_those_of_a_file_that_was_born_later() {
    if !can_mount("ranges_are_not_those_of_a_file_that_was_born_later") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new(engine, 256);
        let ino = scene.copy_in_part();
        fs::remove_file(scene.partial()).unwrap();
        tree::regular(&mut Rng::new(42), &tree::open_dir(&scene.dest.join("copy")), c"large", BYTES);
        assert_eq!(fs::metadata(scene.partial()).unwrap().ino(), ino, "the inode number was not given again");
        scene.finish();
    }
}

/// What is durable of a file is so whatever the size of the blocks that are to follow.
#[test]
fn finished_ranges_count_under_another_block_size() {
    if !can_mount("finished_ranges_count_under_another_block_size") {
        return;
    }
    let checksums = [&[][..], &["-checksum"]];
    for (engine, checksum) in Engine::all().into_iter().flat_map(|engine| checksums.map(|words| (engine, words))) {
        let scene = Scene::new(engine, 256);
        let mut durable = 0;
        for block in ["1M", "8M"] {
            let slow = scene.job(checksum).args(&["--bwlimit", "4M", "--checkpoint-interval", "0.5"]);
            let running = slow.args(&["--buffer-size", block]).start();
            let alive = running.run_for(Duration::from_millis(3000));
            let outcome = running.kill();
            let now = scene.durable();
            assert!(alive && now > durable, "{durable}, {now} with {block}, {alive}: {outcome}");
            durable = now;
        }
        let job = scene.job(checksum).args(&["--buffer-size", "16M"]);
        job.load_program();
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("bytes"), BYTES - durable, "{outcome}");
        assert!(outcome.io.read_bytes < BYTES - durable + (3 << 20), "{durable}: {outcome}");
        Comparison::new(&scene.tree, &scene.dest.join("copy")).assert_same();
    }
}

/// A full destination gets the space of a file under way back, and its ranges are forgotten with it.
#[test]
fn what_a_full_destination_cost_is_not_recorded_any_more() {
    if !can_mount("what_a_full_destination_cost_is_not_recorded_any_more") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new(engine, 128);
        // Its space is not allocated before it is written.
        let extents = [(0, 12 << 20), (40 << 20, 12 << 20)];
        tree::sparse(&mut Rng::new(43), &tree::open_dir(&scene.tree), c"sparse", &extents, 64 << 20);
        let running = scene.job(&["--bwlimit", "8M", "--checkpoint-interval", "1"]).start();
        assert!(running.run_for(Duration::from_millis(3500)), "it ended too early: {}", running.said());
        let ino = fs::metadata(scene.partial()).unwrap().ino();
        fill(&scene.dest.join("filler"));
        let outcome = running.wait().expect(11);
        assert!(!scene.partial().exists(), "it stays: {outcome}");
        assert_eq!(scene.ranged(), 0, "{outcome}");
        fs::remove_file(scene.dest.join("filler")).unwrap();
        fs::remove_file(scene.tree.join("sparse")).unwrap();
        scene.begin_again(ino);
        scene.finish();
    }
}

/// Anything else that ends a job leaves the large files under way to the resume. Here it is a directory of the
/// destination that is read-only, which shows late, since that of the source is far away.
#[test]
fn what_ends_a_job_costs_no_large_file_its_ranges() {
    let test = "what_ends_a_job_costs_no_large_file_its_ranges";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    // Without a ring the directory's turn comes when the file is done.
    for engine in Engine::all().into_iter().filter(|engine| *engine != Engine::Sync) {
        let (scene, slow) = (Scene::new(engine, 256), SlowMount::new(Duration::from_millis(1500)));
        fs::create_dir(slow.folder().join("dir")).unwrap();
        let (from, to) = (scene.tree.join("far"), scene.dest.join("copy/far"));
        [&from, &to].iter().for_each(|point| fs::create_dir_all(point).unwrap());
        let far = Over::new(&from, &["--bind", slow.path().to_str().unwrap()]);
        let read_only = Over::new(&to, &["-t", "tmpfs", "-o", "ro", "tmpfs"]);
        scene.copy_in_part();
        let before = scene.durable();
        let outcome = scene.job(&["--bwlimit", "1M"]).run().expect(11);
        assert!(outcome.says("Read-only file system") && scene.partial().exists(), "{outcome}");
        let durable = scene.durable();
        assert!(durable >= before && durable < BYTES, "{before}, {durable}: {outcome}");
        drop((far, read_only));
        fs::create_dir(from.join("dir")).unwrap();
        let outcome = scene.job(&[]).run().expect(0);
        let bytes = outcome.number("bytes");
        assert_eq!(bytes, BYTES - durable, "{durable} bytes were there: {outcome}");
        assert!(fs::read(scene.partial()).unwrap() == fs::read(scene.tree.join("large")).unwrap(), "{outcome}");
    }
}

/// Something mounted on a directory of a test, gone again when dropped.
struct Over(PathBuf);

impl Over {
    fn new(at: &Path, words: &[&str]) -> Over {
        must(Command::new("mount").args(words).arg(at));
        Over(at.to_owned())
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A direct write leaves a padded tail, which the run that goes on may not know of: it may write another way.
#[test]
fn a_copy_is_as_long_as_its_source_whatever_was_left() {
    if !can_mount("a_copy_is_as_long_as_its_source_whatever_was_left") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new(engine, 256);
        scene.copy_in_part();
        let partial = fs::OpenOptions::new().write(true).open(scene.partial()).unwrap();
        partial.set_len(BYTES + 512).unwrap();
        let outcome = scene.job(&["--direct", "never"]).run().expect(0);
        assert!(outcome.number("bytes") < BYTES, "it was not taken up: {outcome}");
        Comparison::new(&scene.tree, &scene.dest.join("copy")).assert_same();
    }
}

/// A destination that keeps times by the second, or may: a copy that is killed in the second its source was changed in
/// has its source's mtime by then, and is not whole for all that.
#[test]
fn a_half_written_copy_of_a_young_source_is_not_taken_for_sealed() {
    if !can_mount_fuse("a_half_written_copy_of_a_young_source_is_not_taken_for_sealed") {
        return;
    }
    for (engine, is_sparse) in Engine::all().into_iter().flat_map(|engine| [(engine, false), (engine, true)]) {
        let (at, slow) = (Scratch::new(), SlowMount::new(Duration::ZERO));
        let (root, copy) = (at.path().join("tree"), slow.path().join("copy"));
        fs::create_dir(&root).unwrap();
        let (dir, mut rng) = (tree::open_dir(&root), Rng::new(44));
        match is_sparse {
            true => tree::sparse(&mut rng, &dir, c"large", &[(0, 24 << 20)], BYTES),
            false => tree::regular(&mut rng, &dir, c"large", BYTES),
        }
        // Yet to come, so that the moment can be waited for.
        let mtime = SystemTime::now() + Duration::from_secs(3);
        fs::File::options().write(true).open(root.join("large")).unwrap().set_modified(mtime).unwrap();
        let job = Job::new(&root, &copy, at.path().join("state"), engine);
        let running = job.clone().args(&SLOW).args(&["--checkpoint-interval", "0.5"]).start();
        let second = fs::metadata(root.join("large")).unwrap().mtime();
        let is_there = || fs::metadata(slow.folder().join("copy/large")).is_ok_and(|now| now.mtime() == second);
        let alive = running.run_until(|_| is_there());
        let outcome = running.kill();
        assert!(alive, "it ended too early: {outcome}");
        let left = slow.folder().join("copy/large");
        let len = fs::metadata(&left).unwrap().len();
        assert!(len > BYTES, "{len} bytes may look like a whole copy: {outcome}");
        // As if another clock had timed it.
        let left = fs::File::options().write(true).open(&left).unwrap();
        left.set_len(BYTES).unwrap();
        left.set_modified(mtime).unwrap();
        job.run().expect(0);
        Comparison::new(&root, &copy).assert_same();
    }
}

/// A name that leaves the source before the resume is met by no run any more: what was begun of it goes all the same,
/// from under its own name and from under its temporary one, and nothing else does.
#[test]
fn what_was_begun_of_a_name_that_left_the_source_does_not_stay() {
    if !can_mount("what_was_begun_of_a_name_that_left_the_source_does_not_stay") {
        return;
    }
    for engine in Engine::all() {
        let scene = Scene::new(engine, 256);
        scene.copy_in_part();
        fs::rename(scene.tree.join("large"), scene.tree.join("renamed")).unwrap();
        let outcome = scene.job(&[]).run().expect(0);
        assert!(outcome.says("removed") && outcome.says("copy/large"), "{outcome}");
        assert_eq!(names(&scene.dest.join("copy")), ["renamed"], "{outcome}");
        Comparison::new(&scene.tree, &scene.dest.join("copy")).assert_same();
        assert_eq!(scene.ranged(), 0);
        // The copy of a name that is replaced stays until its replacement is whole, and longer where none comes.
        let before = fs::read(scene.dest.join("copy/renamed")).unwrap();
        tree::regular(&mut Rng::new(45), &tree::open_dir(&scene.tree), c"other", BYTES);
        fs::rename(scene.tree.join("other"), scene.tree.join("renamed")).unwrap();
        let running = scene.job(&SLOW).args(&["--checkpoint-interval", "1"]).start();
        assert!(running.run_for(Duration::from_millis(3500)), "it ended too early: {}", running.said());
        let outcome = running.kill();
        assert_eq!(names(&scene.dest.join("copy")).len(), 2, "{outcome}");
        fs::remove_file(scene.tree.join("renamed")).unwrap();
        let outcome = scene.job(&[]).run().expect(0);
        assert_eq!(names(&scene.dest.join("copy")), ["renamed"], "{outcome}");
        assert!(fs::read(scene.dest.join("copy/renamed")).unwrap() == before, "{outcome}");
        assert_eq!(scene.ranged(), 0);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.into_iter().map(|name| name.into_string().unwrap()).collect()
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let (file, bytes) = (fs::File::create(path).unwrap(), vec![0; 1 << 20]);
    let mut offset = 0;
    for len in [1 << 20, 4096] {
        while file.write_at(&bytes[..len], offset).is_ok_and(|written| written == len) {
            offset += len as u64;
        }
    }
    let _ = file.sync_all();
}

/// Ranges that were never synced are there for as long as the machine runs.
#[test]
fn ranges_that_were_never_synced_are_of_one_boot() {
    let test = "ranges_that_were_never_synced_are_of_one_boot";
    if !can_mount(test) || !(has("xfs_io") || skip(test, "no xfs_io")) {
        return;
    }
    for engine in Engine::all() {
        for is_rebooted in [false, true] {
            let (scene, scratch) = (Scene::new(engine, 256), Scratch::new());
            let unsynced = ["--sync", "none", "--direct", "never"];
            let running = scene.job(&SLOW).args(&unsynced).args(&["--checkpoint-interval", "0.5"]).start();
            assert!(running.run_until(|_| scene.partial().exists()), "it ended too early");
            // The file is there in its length, and most of its bytes are to come.
            must(Command::new("sync").arg("-f").arg(scene.dest.path()));
            let alive = running.run_for(Duration::from_millis(3000));
            let outcome = running.kill();
            assert!(alive, "it ended too early: {outcome}");
            let recorded = scene.durable();
            assert!(recorded > 0, "nothing was recorded: {outcome}");
            let mut job = scene.job(&[]);
            if is_rebooted {
                scene.dest.cut_power(Journal::Lost);
                scene.dest.power_on();
                assert!(scene.partial().exists(), "it was not synced");
                job = job.within(&rebooted(&scratch, &[&scene.source, &scene.dest]));
            }
            let resumed = job.run().expect(0);
            Comparison::new(&scene.tree, &scene.dest.join("copy")).assert_same();
            let expected = if is_rebooted { BYTES } else { BYTES - recorded };
            assert_eq!(resumed.number("bytes"), expected, "{recorded} were recorded: {resumed}");
        }
    }
}
