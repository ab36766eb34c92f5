//! Disks that are hard to tell apart: without a serial number, with one and the same, and two paths that lead to one.
//!
//! They are loop devices, which /sys shows as disks to the jobs.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::damage::interrupt;
use super::refusals::{Mounted, format};
use super::support::block::{Disguise, Loop};
use super::support::fixture::can_mount;
use super::support::{Engine, Job, Scratch};
use super::{assert_same, bucket_job, fault_server, noisy};

/// Bytes of each disk.
const BYTES: u64 = 40 << 20;

/// Two disks of one size, and names that lead to them.
struct Pair {
    disks: [Loop; 2],
    disguise: Disguise,
    scratch: Scratch,
}

impl Pair {
    /// Each has these files in /sys.
    fn new(disks: [Loop; 2], files: &[(&str, &str)]) -> Pair {
        let mut disguise = Disguise::new();
        disks.iter().for_each(|disk| disguise.disk(disk, files));
        let pair = Pair { disks, disguise, scratch: Scratch::new() };
        pair.call(["sdb", "sdc"]);
        pair
    }

    /// Gives each disk a name.
    fn call(&self, names: [&str; 2]) {
        names.iter().for_each(|name| drop(fs::remove_file(self.name(name))));
        names.iter().zip(&self.disks).for_each(|(name, disk)| disk.make_node(&self.name(name)));
    }

    fn name(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn job(&self, from: &Path, to: &Path) -> Job {
        let state = self.scratch.path().join("state");
        Job::new(from, to, state, Engine::Auto).within(&self.disguise.wrapper())
    }
}

/// What a resume asks of its destination is true of the source as well: it holds what was copied, for that came from
/// there.
#[test]
fn disks_that_have_each_others_names_are_not_written_to() {
    if !can_mount("disks_that_have_each_others_names_are_not_written_to") {
        return;
    }
    for files in [&[][..], &[("serial", "0123456789ABCDEF")], &[("wwid", "t10.JMicron Generic 0123456789ABCDEF")]] {
        let pair = Pair::new([noisy(40, 81), Loop::new(BYTES)], files);
        let [source, dest] = &pair.disks;
        source.write(510, &[0x55, 0xaa]);
        let expected = source.content();
        let job = pair.job(&pair.name("sdb"), &pair.name("sdc"));
        interrupt(&job);
        let before = dest.content();
        let assert_refused = |names| {
            pair.call(names);
            for job in [job.clone(), job.clone().arg("--overwrite-device")] {
                let outcome = job.run().expect(2);
                assert!(outcome.says("has no WWID, serial number or UUID of its own"), "{files:?}: {outcome}");
            }
            assert_same(&source.content(), &expected);
            assert_same(&dest.content(), &before);
        };
        assert_refused(["sdc", "sdb"]);
        pair.disguise.boot(2);
        assert_refused(["sdc", "sdb"]);
        // They may be the same, or not.
        assert_refused(["sdb", "sdc"]);
        pair.disguise.boot(1);
        let outcome = job.run().expect(0);
        assert!(outcome.number("bytes") < BYTES, "everything was copied again: {outcome}");
        assert_same(&dest.content(), &expected);
        assert_same(&source.content(), &expected);
    }
}

#[test]
fn what_was_recorded_of_a_disk_without_a_serial_number_is_of_this_boot() {
    if !can_mount("what_was_recorded_of_a_disk_without_a_serial_number_is_of_this_boot") {
        return;
    }
    let pair = Pair::new([noisy(40, 82), Loop::new(BYTES)], &[]);
    pair.job(&pair.name("sdb"), &pair.name("sdc")).arg("--checksum").run().expect(0);
    let assert_verified = |more: &[&str], expected, reason| {
        let mut command = Command::new(pair.disguise.wrapper());
        command.args([env!("CARGO_BIN_EXE_gfast"), "verify", "-dest"]).arg(pair.name("sdc")).args(more);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{more:?}: {said}");
        assert!(said.contains(reason), "{said}");
    };
    let (state, source) = (pair.scratch.path().join("state"), pair.name("sdb"));
    let [recorded, both] = [["-state-dir", state.to_str().unwrap()], ["-source", source.to_str().unwrap()]];
    assert_verified(&recorded, 0, "");
    pair.disguise.boot(2);
    assert_verified(&recorded, 2, "has no WWID, serial number or UUID of its own");
    assert_verified(&both, 0, "");
}

/// Without a sync nobody knows after a reboot what has reached a disk.
#[test]
fn what_was_never_synced_to_a_disk_is_written_again_after_a_reboot() {
    if !can_mount("what_was_never_synced_to_a_disk_is_written_again_after_a_reboot") {
        return;
    }
    let (source, dest, scratch, disguise) = (noisy(40, 86), Loop::new(BYTES), Scratch::new(), Disguise::new());
    let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Auto);
    let job = job.args(&["--sync", "none"]).within(&disguise.wrapper());
    interrupt(&job);
    // As if the power had gone before it was written: all but what the job knows the disk by.
    dest.write(4 << 20, &vec![0; 36 << 20]);
    disguise.boot(2);
    let outcome = job.run().expect(0);
    assert_same(&dest.content(), &source.content());
    assert_eq!(outcome.number("bytes"), BYTES, "{outcome}");
}

/// Cheap adapters give each disk behind them the same serial number.
#[test]
fn another_disk_with_the_same_serial_number_is_copied_from_its_beginning() {
    let test = "another_disk_with_the_same_serial_number_is_copied_from_its_beginning";
    if !can_mount(test) {
        return;
    }
    let pair = Pair::new([noisy(40, 83), noisy(40, 84)], &[("serial", "0123456789ABCDEF")]);
    let expected = pair.disks[1].content();
    let (disk, image) = (pair.name("sdb"), pair.name("image"));
    let job = pair.job(&disk, &image);
    interrupt(&job);
    let server = fault_server(test, 85);
    let up = bucket_job(&server, &disk, "s3://bucket/disk.img", &pair.name("up")).within(&pair.disguise.wrapper());
    let up = up.args(&["--part-size", "5M"]);
    let running = up.clone().args(&["--bwlimit", "8M", "--checkpoint-interval", "0.1", "--streams", "1"]).start();
    assert!(running.run_for(Duration::from_secs(3)), "it was too fast");
    running.kill();
    pair.call(["sdc", "sdb"]);
    for job in [job, up] {
        let outcome = job.run().expect(0);
        assert!(outcome.says("copied from its beginning"), "{outcome}");
    }
    assert_same(&fs::read(&image).unwrap(), &expected);
    assert_same(&server.object("bucket", "disk.img").unwrap().body, &expected);
    assert_eq!(server.uploads().len(), 0, "an upload was left");
}

/// The rest of a source that has changed does not fit what was copied of it, unless it is asked for as it is.
#[test]
fn a_source_that_was_written_to_between_two_runs_is_copied_from_its_beginning() {
    if !can_mount("a_source_that_was_written_to_between_two_runs_is_copied_from_its_beginning") {
        return;
    }
    let (source, scratch) = (noisy(40, 86), Scratch::new());
    let (dest, image) = (Loop::new(BYTES), scratch.path().join("image"));
    for (index, (to, is_resumed)) in [(dest.path(), false), (&*image, false), (&*image, true)].into_iter().enumerate() {
        let state = scratch.path().join(format!("state-{index}"));
        let job = Job::new(source.path(), to, state, Engine::Auto);
        interrupt(&job);
        source.write(4096, &[is_resumed as u8 + 7; 512]);
        let job = if is_resumed { job.arg("--live-source") } else { job };
        let outcome = job.run().expect(0);
        assert_eq!(outcome.says("copied from its beginning"), !is_resumed, "{outcome}");
        if !is_resumed {
            assert_same(&fs::read(to).unwrap(), &source.content());
        }
        source.write(4096, &[0; 512]);
    }
}

/// A LUN without multipath: each path to it is a device of its own to the kernel.
#[test]
fn two_paths_that_lead_to_one_disk_are_one_disk() {
    if !can_mount("two_paths_that_lead_to_one_disk_are_one_disk") {
        return;
    }
    let pair = Pair::new([noisy(8, 87), noisy(8, 88)], &[("wwid", "naa.60050768018105e0f000000000000a1b")]);
    let [first, second] = &pair.disks;
    let source = noisy(8, 89);
    let assert_refused = |from: &Path, more: &[&str], reason: &str| {
        let before = second.content();
        let job = pair.job(from, second.path()).arg("--overwrite-device").args(more);
        let outcome = job.run().expect(2);
        assert!(outcome.says(reason), "{reason}: {outcome}");
        assert_same(&second.content(), &before);
    };
    assert_refused(first.path(), &[], "lies on the same blocks");
    let held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(first.path()).unwrap();
    assert_refused(source.path(), &[], "held by another process, through loop");
    drop(held);
    format(first.path());
    for options in ["rw", "ro,noload"] {
        let _mounted = Mounted::new(first.path(), options);
        assert_refused(source.path(), &[], "mounted at");
    }
    {
        let _mounted = Mounted::new(first.path(), "rw");
        let outcome = pair.job(second.path(), &pair.name("image")).run().expect(2);
        assert!(outcome.says("mounted read-write at") && outcome.says("--live-source"), "{outcome}");
    }
    // Nobody mounts it by its other name while it is written.
    let job = pair.job(source.path(), second.path()).arg("--overwrite-device");
    let running = job.clone().args(&["--bwlimit", "2M", "--buffer-size", "256K"]).start();
    assert!(running.run_for(Duration::from_millis(1000)), "it was too fast");
    let taken = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(first.path());
    assert_eq!(taken.err().and_then(|error| error.raw_os_error()), Some(libc::EBUSY));
    running.kill();
    job.run().expect(0);
    assert_same(&second.content(), &source.content());
    // A vendor's name for its disks is none of one disk.
    let alike = Pair::new([noisy(8, 90), noisy(8, 91)], &[("wwid", "t10.ACME    DISK")]);
    alike.job(alike.disks[0].path(), alike.disks[1].path()).run().expect(0);
    assert_same(&alike.disks[1].content(), &alike.disks[0].content());
}

/// Which blocks a volume has, its table tells, and a pool gives each of its volumes other ones.
#[test]
fn volumes_beside_each_other_are_copied_and_what_they_lie_on_is_not() {
    if !can_mount("volumes_beside_each_other_are_copied_and_what_they_lie_on_is_not") {
        return;
    }
    let (source, dest, scratch) = (noisy(8, 92), noisy(8, 93), Scratch::new());
    let below = [Loop::new(10 << 20), Loop::new(10 << 20), Loop::new(8 << 20)];
    let [disk, other, real] = &below;
    let pool = "LVM-iPZpool-tpool";
    // What both volumes lie on, with its UUID, and whether they have blocks in common.
    let stacks = [
        (vec![(disk, ""), (other, "")], false),
        (vec![(disk, pool)], false),
        (vec![(disk, "")], true),
        (vec![(real, "LVM-iPZorigin-real")], true),
    ];
    for (index, (on, is_refused)) in stacks.into_iter().enumerate() {
        let mut disguise = Disguise::new();
        for volume in [&source, &dest] {
            let mut files = vec![("dm/uuid".to_owned(), format!("LVM-iPZ{}", volume.path().display()))];
            for (device, uuid) in &on {
                let name = device.path().file_name().unwrap().to_str().unwrap();
                for file in ["dev", "size"] {
                    let content = fs::read_to_string(format!("/sys/class/block/{name}/{file}")).unwrap();
                    files.push((format!("slaves/{name}/{file}"), content.trim().to_owned()));
                }
                files.push((format!("slaves/{name}/dm/uuid"), (*uuid).to_owned()));
            }
            let files: Vec<_> = files.iter().map(|(name, content)| (&**name, &**content)).collect();
            disguise.disk(volume, &files);
        }
        let job = |to: &Loop| {
            let state = scratch.path().join(format!("{index}-{}", to.image().metadata().unwrap().len()));
            let job = Job::new(source.path(), to.path(), state, Engine::Auto).within(&disguise.wrapper());
            job.arg("--overwrite-device").run()
        };
        match is_refused {
            true => assert!(job(&dest).expect(2).says("lies on the same blocks"), "{index}"),
            false => drop(job(&dest).expect(0)),
        }
        on.iter().for_each(|(device, _)| assert!(job(device).expect(2).says("lies on the same blocks")));
    }
    assert_same(&dest.content(), &source.content());
}
