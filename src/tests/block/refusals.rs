//! What is refused, exit 2: each of these would destroy or miss data. Every destination holds noise, and still does.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::block::{LET_GO, Loop};
use super::support::fixture::{can_mount, must, skip};
use super::support::{Engine, Job, Scratch};
use super::{assert_same, noisy};

const MIB: u64 = 4;

/// Refused for this reason, and neither the destination nor the state was touched.
#[track_caller]
pub(super) fn refused(source: &Path, dest: &Path, more: &[&str], reason: &str) {
    let scratch = Scratch::new();
    let state = scratch.path().join("state");
    let before = fs::read(dest).ok();
    let outcome = Job::new(source, dest, &state, Engine::Auto).args(more).run().expect(2);
    assert!(outcome.says(reason), "{reason}: {outcome}");
    assert!(fs::read(dest).ok() == before, "the destination was touched: {outcome}");
    let jobs = fs::read_dir(&state).map_or(0, Iterator::count);
    assert_eq!(jobs, 0, "a job was made");
}

/// An empty file system on it.
pub(super) fn format(device: &Path) {
    must(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(device));
}

/// Mounted for as long as this lives.
pub(super) struct Mounted(Scratch);

impl Mounted {
    pub(super) fn new(device: &Path, options: &str) -> Mounted {
        let point = Scratch::new();
        must(Command::new("mount").args(["-o", options]).arg(device).arg(point.path()));
        // What mounting itself writes is not what a test looks for.
        must(Command::new("sync").arg("-f").arg(point.path()));
        Mounted(point)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn what_carries_something_is_overwritten_only_when_asked() {
    if !can_mount("what_carries_something_is_overwritten_only_when_asked") {
        return;
    }
    let (source, dest, scratch) = (noisy(MIB, 1), Loop::new(MIB << 20), Scratch::new());
    format(dest.path());
    refused(source.path(), dest.path(), &[], "ext4 file system");
    let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Auto);
    job.clone().arg("--overwrite-device").run().expect(0);
    assert_same(&dest.content(), &source.content());
    // A finished job's device may be in use for something else by now.
    format(dest.path());
    job.run().expect(2);
    dest.write(0, &vec![0; (MIB << 20) as usize]);
    dest.write(510, &[0x55, 0xaa]);
    refused(source.path(), dest.path(), &[], "MBR");
}

#[test]
fn what_is_in_use_is_not_written_to() {
    if !can_mount("what_is_in_use_is_not_written_to") {
        return;
    }
    let (source, dest) = (noisy(MIB, 2), Loop::new(MIB << 20));
    format(dest.path());
    {
        let _mounted = Mounted::new(dest.path(), "ro,noload");
        refused(source.path(), dest.path(), &["--overwrite-device"], "mounted at");
    }
    {
        let _held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(dest.path()).unwrap();
        refused(source.path(), dest.path(), &["--overwrite-device"], "in use");
    }
    let image = Scratch::new();
    let file = image.path().join("file");
    fs::write(&file, vec![7; 1 << 20]).unwrap();
    let frozen = Loop::over(&file, &["-r"]);
    refused(source.path(), frozen.path(), &["--overwrite-device"], "read-only");
}

#[test]
fn what_has_no_room_or_is_no_device_is_not_written_to() {
    if !can_mount("what_has_no_room_or_is_no_device_is_not_written_to") {
        return;
    }
    let (source, small, scratch) = (noisy(MIB, 3), noisy(MIB - 1, 4), Scratch::new());
    refused(source.path(), small.path(), &["--overwrite-device"], "too small");
    refused(source.image(), small.path(), &["--overwrite-device"], "too small");
    let missing = Path::new("/dev/gfast-no-such-device");
    refused(source.path(), missing, &[], "is not there");
    refused(source.image(), missing, &[], "is not there");
    refused(scratch.path(), Path::new("/dev/gfast-no-such/tree"), &[], "is not there");
    assert!(!missing.exists() && !Path::new("/dev/gfast-no-such").exists());
    let image = scratch.path().join("gfast-no-such-image");
    fs::write(&image, b"content").unwrap();
    for dest in ["/dev", "/dev/.", "/proc/self/root/dev"] {
        refused(&image, Path::new(dest), &[], "no file is made where devices are");
        refused(source.path(), Path::new(dest), &[], "no file is made where devices are");
    }
    assert!(!Path::new("/dev/gfast-no-such-image").exists());
    refused(scratch.path(), small.path(), &["--overwrite-device"], "is not a directory");
    let empty = scratch.path().join("empty");
    fs::write(&empty, b"").unwrap();
    refused(&empty, small.path(), &["--overwrite-device"], "is empty");
    refused(source.path(), &scratch.path().join("new"), &["--skip-equal"], "is no block device");
    refused(source.path(), small.path(), &["--dry-run"], "");
}

#[test]
fn tune_makes_nothing_on_devices() {
    if !can_mount("tune_makes_nothing_on_devices") {
        return;
    }
    let (device, scratch) = (noisy(1, 9), Scratch::new());
    let before = device.content();
    for (source, dest) in [(device.path(), scratch.path()), (scratch.path(), device.path())] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.arg("tune").arg("-source").arg(source).arg("-dest").arg(dest);
        let output = command.arg("-state-dir").arg(scratch.path().join("state")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("is a block device"), "{said}");
    }
    assert_same(&device.content(), &before);
}

#[test]
fn ends_on_the_same_blocks_are_refused() {
    if !can_mount("ends_on_the_same_blocks_are_refused") {
        return;
    }
    let device = noisy(MIB, 5);
    refused(device.path(), device.path(), &["--overwrite-device"], "same blocks");
    refused(device.image(), device.path(), &["--overwrite-device"], "same blocks");
    refused(device.path(), device.image(), &[], "same blocks");
    let second = Loop::over(device.image(), &[]);
    refused(device.path(), second.path(), &["--overwrite-device"], "same blocks");
    let part = Loop::over(device.image(), &["-o", "1048576", "--sizelimit", "1048576"]);
    refused(part.path(), device.path(), &["--overwrite-device"], "same blocks");
    // Parts that lie apart are two devices.
    let other = Loop::over(device.image(), &["-o", "2097152", "--sizelimit", "1048576"]);
    let scratch = Scratch::new();
    Job::new(part.path(), other.path(), scratch.path().join("state"), Engine::Auto).run().expect(0);
    assert_same(&other.content(), &part.content());
}

#[test]
fn a_disk_and_its_partition_are_refused() {
    if !can_mount("a_disk_and_its_partition_are_refused") {
        return;
    }
    let disk = noisy(MIB, 6);
    let mut whole = Loop::over(disk.image(), &["-P"]);
    // Told to the kernel, which need not know any partition table for it.
    let added = Command::new("addpart").arg(whole.path()).args(["1", "2048", "4096"]).output();
    if !added.is_ok_and(|added| added.status.success()) {
        skip("a_disk_and_its_partition_are_refused", "loop devices have no partitions here");
        return;
    }
    let part = whole.part();
    refused(whole.path(), &part, &["--overwrite-device"], "same blocks");
    refused(&part, whole.path(), &["--overwrite-device"], "same blocks");
    let source = noisy(1, 7);
    let _held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&part).unwrap();
    refused(source.path(), whole.path(), &["--overwrite-device"], "in use");
}

#[test]
fn a_source_that_may_change_is_copied_only_when_asked() {
    if !can_mount("a_source_that_may_change_is_copied_only_when_asked") {
        return;
    }
    let (source, dest, scratch) = (Loop::new(MIB << 20), noisy(MIB, 8), Scratch::new());
    format(source.path());
    let job = |name: &str| Job::new(source.path(), dest.path(), scratch.path().join(name), Engine::Auto);
    {
        let mounted = Mounted::new(source.path(), "rw");
        refused(source.path(), dest.path(), &[], "--live-source");
        // An image of a device on itself would never end.
        refused(source.path(), &mounted.0.path().join("image"), &["--live-source"], "same blocks");
        job("live").arg("--live-source").run().expect(0);
    }
    let _mounted = Mounted::new(source.path(), "ro,noload");
    job("still").arg("--overwrite-device").run().expect(0);
    assert_same(&dest.content(), &source.content());
}

/// A btrfs, and each of its subvolumes, has a device number that no device has.
#[test]
fn an_image_of_a_live_btrfs_does_not_go_onto_it() {
    if !can_mount("an_image_of_a_live_btrfs_does_not_go_onto_it") {
        return;
    }
    let members = [Loop::new(256 << 20), Loop::new(256 << 20)];
    let paths = members.each_ref().map(Loop::path);
    must(Command::new("mkfs.btrfs").args(["-q", "-f", "-m", "raid1", "-d", "raid1"]).args(paths));
    let mounted = Mounted::new(paths[0], &format!("rw,device={}", paths[1].display()));
    let below = mounted.path().join("subvolume");
    must(Command::new("btrfs").args(["subvolume", "create"]).arg(&below));
    let there = mounted.path().join("there");
    fs::write(&there, b"an earlier image").unwrap();
    for source in paths {
        for dest in [&mounted.path().join("image"), &below.join("image"), &below, &there] {
            refused(source, dest, &["--live-source"], "same blocks");
        }
    }
    assert_eq!(fs::read(&there).unwrap(), b"an earlier image");
    assert!(fs::read_dir(&below).unwrap().next().is_none());
}

/// What no table tells: the further devices of a file system, its journal, mounts of another namespace. The kernel has
/// claimed each of them for its user.
#[test]
fn a_source_in_use_out_of_sight_is_copied_only_when_asked() {
    if !can_mount("a_source_in_use_out_of_sight_is_copied_only_when_asked") {
        return;
    }
    let dest = noisy(300, 12);
    let assert_live = |source: &Path| {
        refused(source, dest.path(), &["--overwrite-device"], "--live-source");
        refused(source, &Scratch::new().path().join("image"), &[], "--live-source");
    };
    {
        let members = [Loop::new(256 << 20), Loop::new(256 << 20)];
        let paths = members.each_ref().map(Loop::path);
        must(Command::new("mkfs.btrfs").args(["-q", "-f", "-m", "raid1", "-d", "raid1"]).args(paths));
        let _mounted = Mounted::new(paths[0], &format!("rw,device={}", paths[1].display()));
        paths.iter().for_each(|path| assert_live(path));
        let (first, scratch) = (members[0].image().metadata().unwrap().len(), Scratch::new());
        let job = Job::new(paths[1], dest.path(), scratch.path().join("state"), Engine::Auto);
        let outcome = job.args(&["--live-source", "--overwrite-device"]).run().expect(0);
        assert_eq!(outcome.number("bytes"), first, "{outcome}");
    }
    {
        let (disk, journal) = (Loop::new(16 << 20), Loop::new(8 << 20));
        must(Command::new("mke2fs").args(["-q", "-F", "-b", "4096", "-O", "journal_dev"]).arg(journal.path()));
        let device = format!("device={}", journal.path().display());
        must(Command::new("mkfs.ext4").args(["-q", "-F", "-b", "4096", "-J", &device]).arg(disk.path()));
        let _mounted = Mounted::new(disk.path(), "rw");
        assert_live(disk.path());
        assert_live(journal.path());
    }
    let (disk, point) = (Loop::new(MIB << 20), Scratch::new());
    format(disk.path());
    let script = format!("{LET_GO}; mount \"$0\" \"$1\" && echo mounted && read -r _");
    let mut elsewhere = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .args([disk.path(), point.path()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 7];
    elsewhere.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_live(disk.path());
    drop(elsewhere.stdin.take());
    elsewhere.wait().unwrap();
}

#[test]
fn nobody_takes_a_source_into_use_while_it_is_copied() {
    if !can_mount("nobody_takes_a_source_into_use_while_it_is_copied") {
        return;
    }
    let (source, dest, scratch) = (noisy(MIB, 13), noisy(MIB, 14), Scratch::new());
    let claim = || OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(source.path());
    let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Auto);
    let slow = job.clone().args(&["--bwlimit", "1M", "--buffer-size", "256K"]);
    for (more, is_free) in [(&[][..], false), (&["--live-source"], true)] {
        let running = slow.clone().args(more).start();
        assert!(running.run_for(Duration::from_millis(1000)), "it was too fast");
        assert_eq!(claim().is_ok(), is_free, "{more:?}");
        // A second reader cannot know that the first is one.
        if !is_free {
            let image = scratch.path().join("image");
            refused(source.path(), &image, &[], "--live-source");
            let second = Job::new(source.path(), &image, scratch.path().join("second"), Engine::Auto);
            second.arg("--live-source").run().expect(0);
            assert_same(&fs::read(&image).unwrap(), &source.content());
        }
        running.kill();
    }
    job.run().expect(0);
    assert_same(&dest.content(), &source.content());
}

/// The kernel gives nobody a disk of which a partition is mounted; read-only it stays what it is.
#[test]
fn a_disk_with_a_partition_that_is_mounted_read_only_is_copied() {
    let test = "a_disk_with_a_partition_that_is_mounted_read_only_is_copied";
    if !can_mount(test) {
        return;
    }
    let disk = Loop::new(16 << 20);
    let mut whole = Loop::over(disk.image(), &["-P"]);
    let added = Command::new("addpart").arg(whole.path()).args(["1", "2048", "16384"]).output();
    if !added.is_ok_and(|added| added.status.success()) {
        skip(test, "loop devices have no partitions here");
        return;
    }
    let (part, dest, scratch) = (whole.part(), noisy(16, 15), Scratch::new());
    format(&part);
    {
        let _mounted = Mounted::new(&part, "rw");
        refused(whole.path(), dest.path(), &["--overwrite-device"], "mounted read-write at");
    }
    {
        let _held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&part).unwrap();
        refused(whole.path(), dest.path(), &["--overwrite-device"], "held by another process");
    }
    let _mounted = Mounted::new(&part, "ro,noload");
    Job::new(whole.path(), dest.path(), scratch.path().join("state"), Engine::Auto).run().expect(0);
    assert_same(&dest.content(), &whole.content());
}

/// To the kernel two loop devices over one file are two devices, and a file is none.
#[test]
fn what_is_in_use_by_another_name_is_not_written_to() {
    if !can_mount("what_is_in_use_by_another_name_is_not_written_to") {
        return;
    }
    let (source, dest, scratch) = (noisy(MIB, 9), Loop::new(MIB << 20), Scratch::new());
    format(dest.path());
    let file = scratch.path().join("file");
    fs::write(&file, source.content()).unwrap();
    let second = Loop::over(dest.image(), &[]);
    let all_refused = |reason: &str| {
        for from in [source.path(), &file] {
            refused(from, dest.path(), &["--overwrite-device"], reason);
            refused(from, dest.image(), &[], reason);
        }
        // By its name in the directory that is the destination.
        let named = Scratch::new();
        let linked = named.path().join("file");
        fs::hard_link(dest.image(), &linked).unwrap_or_else(|_| drop(fs::copy(dest.image(), &linked)));
        if fs::metadata(&linked).unwrap().ino() == fs::metadata(dest.image()).unwrap().ino() {
            refused(&file, named.path(), &[], reason);
        }
    };
    for options in ["rw", "ro,noload"] {
        let _mounted = Mounted::new(second.path(), options);
        all_refused("mounted at");
        // A device on a device: the file system lies in its bytes, too.
        let third = Loop::over(second.path(), &[]);
        refused(source.path(), third.path(), &["--overwrite-device"], "mounted at");
    }
    let held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(second.path()).unwrap();
    all_refused("in use");
    drop(held);
    {
        let _mounted = Mounted::new(second.path(), "rw");
        refused(dest.path(), source.path(), &["--overwrite-device"], "--live-source");
    }
    // Free again.
    Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Auto)
        .arg("--overwrite-device")
        .run()
        .expect(0);
    assert_same(&dest.content(), &source.content());
}

/// Of one file, or of one device, what lies beside the destination is nobody's business, and what lies in it is.
#[test]
fn parts_of_one_image_are_told_apart() {
    if !can_mount("parts_of_one_image_are_told_apart") {
        return;
    }
    let whole = noisy(16, 10);
    for image in [whole.image(), whole.path()] {
        let part = |first: u64, mib: u64| {
            let (offset, limit) = ((first << 20).to_string(), (mib << 20).to_string());
            Loop::over(image, &["-o", &offset, "--sizelimit", &limit])
        };
        let (first, beside, across) = (part(0, 4), part(4, 4), part(3, 4));
        refused(first.path(), across.path(), &["--overwrite-device"], "same blocks");
        refused(across.path(), beside.path(), &["--overwrite-device"], "same blocks");
        format(first.path());
        {
            let _mounted = Mounted::new(first.path(), "ro,noload");
            refused(part(8, 4).path(), across.path(), &["--overwrite-device"], "mounted at");
            let (from, scratch) = (part(8, 4), Scratch::new());
            let job = Job::new(from.path(), beside.path(), scratch.path().join("state"), Engine::Auto);
            job.arg("--overwrite-device").run().expect(0);
            assert_same(&beside.content(), &from.content());
        }
        // Nobody takes it into use while it is written.
        let (from, scratch, twin) = (noisy(4, 11), Scratch::new(), part(4, 4));
        let job = Job::new(from.path(), beside.path(), scratch.path().join("state"), Engine::Auto);
        let running = job.args(&["--overwrite-device", "--bwlimit", "1M", "--buffer-size", "256K"]).start();
        assert!(running.run_for(Duration::from_millis(1000)), "it was too fast");
        let taken = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(twin.path());
        assert_eq!(taken.err().and_then(|error| error.raw_os_error()), Some(libc::EBUSY));
        running.kill();
    }
}
