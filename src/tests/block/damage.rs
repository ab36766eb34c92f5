//! Kills, devices that are exchanged between two runs, and bad sectors.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::support::block::Loop;
use super::support::fixture::{can_mount, has, must, skip, traced};
use super::support::s3::S3sFs;
use super::support::slow::{BAD, SlowMount, can_mount_fuse};
use super::support::{Engine, Job, Rng, Scratch, seed};
use super::{assert_same, noisy};

/// Kills a job again and again, a little later each time, until one run ends; bytes that all runs wrote together.
fn until_done(job: &Job, rng: &mut Rng) -> (u64, u32) {
    for kills in 0..60 {
        let running = job.start();
        if running.run_for(Duration::from_millis(60 + rng.below(250) + 10 * kills)) {
            running.kill();
            continue;
        }
        let outcome = running.wait();
        // A kill behind the last commit hits a job that has finished, and what its device carries is not for another
        // pass to write over. Whether it is whole is for the caller to compare.
        if kills > 0 && outcome.code() == Some(2) && outcome.says("--overwrite-device") {
            return (0, kills as u32);
        }
        return (outcome.expect(0).number("bytes"), kills as u32);
    }
    panic!("never done");
}

#[test]
fn a_killed_copy_goes_on_where_it_was() {
    let test = "a_killed_copy_goes_on_where_it_was";
    if !can_mount(test) {
        return;
    }
    let source = noisy(48, seed(test, 21));
    // Carries what a destination would be refused for: only the job's own writing may be written over.
    source.write(510, &[0x55, 0xaa]);
    let expected = source.content();
    for engine in Engine::all() {
        let scratch = Scratch::new();
        let dest = Loop::new(48 << 20);
        let image = scratch.path().join("image");
        for (dest, state) in [(dest.path(), "device"), (&*image, "image")] {
            let job = Job::new(source.path(), dest, scratch.path().join(format!("state-{state}")), engine);
            let job = job.args(&["--bwlimit", "24M", "--checkpoint-interval", "0.1", "--buffer-size", "256K"]);
            let (bytes, kills) = until_done(&job, &mut Rng::new(seed(test, 22)));
            assert!(kills > 1, "never killed");
            assert!(bytes < 48 << 20, "the last of {kills} runs copied everything");
        }
        assert_same(&dest.content(), &expected);
        assert_same(&fs::read(&image).unwrap(), &expected);
    }
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    if !can_mount("a_killed_download_goes_on_where_it_was") {
        return;
    }
    let (source, scratch) = (noisy(40, 33), Scratch::new());
    source.write(510, &[0x55, 0xaa]);
    let server = S3sFs::start(scratch.path());
    server.bucket("bucket");
    let object = Path::new("s3://bucket/disk.img");
    let job = |from: &Path, to: &Path, state: &str| {
        Job::new(from, to, scratch.path().join(state), Engine::Auto)
            .env("AWS_ACCESS_KEY_ID", server.access_key())
            .env("AWS_SECRET_ACCESS_KEY", server.secret_key())
            .args(&["--endpoint-url", &server.endpoint(), "--region", "us-east-1", "--part-size", "5M"])
    };
    job(source.path(), object, "up").run().expect(0);
    let dest = Loop::new(40 << 20);
    let down = job(object, dest.path(), "down");
    let running = down.clone().args(&["--bwlimit", "8M", "--checkpoint-interval", "0.1", "--streams", "1"]).start();
    assert!(running.run_for(Duration::from_secs(3)), "it was too fast");
    running.kill();
    let outcome = down.run().expect(0);
    assert!(outcome.number("bytes") < 40 << 20, "everything was copied again: {outcome}");
    assert_same(&dest.content(), &source.content());
}

/// A job between these, interrupted when some of it is durable.
pub(super) fn interrupted(source: &Path, dest: &Path, state: &Path) -> Job {
    let job = Job::new(source, dest, state, Engine::Auto);
    interrupt(&job);
    job
}

/// Likewise, of this job.
pub(super) fn interrupt(job: &Job) {
    let slow = job.clone().args(&["--bwlimit", "8M", "--checkpoint-interval", "0.1", "--buffer-size", "256K"]);
    let running = slow.start();
    match running.run_for(Duration::from_millis(1500)) {
        true => drop(running.kill()),
        false => panic!("it ended by itself: {}", running.wait()),
    }
}

#[test]
fn a_device_that_was_used_meanwhile_is_not_written_to() {
    if !can_mount("a_device_that_was_used_meanwhile_is_not_written_to") {
        return;
    }
    let (source, dest, scratch) = (noisy(40, 23), Loop::new(40 << 20), Scratch::new());
    let job = interrupted(source.path(), dest.path(), &scratch.path().join("state"));
    must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(dest.path()));
    let before = dest.content();
    assert!(job.run().expect(2).says("does not hold any more"));
    assert_same(&dest.content(), &before);
    job.arg("--overwrite-device").run().expect(0);
    assert_same(&dest.content(), &source.content());
}

#[test]
fn another_device_under_the_same_name_is_not_written_to() {
    if !can_mount("another_device_under_the_same_name_is_not_written_to") {
        return;
    }
    let (source, scratch) = (noisy(40, 24), Scratch::new());
    let (first, second) = (Loop::new(40 << 20), noisy(40, 25));
    let name = scratch.path().join("disk");
    first.make_node(&name);
    let job = interrupted(source.path(), &name, &scratch.path().join("state"));
    // The node is the second's now, as after a reboot.
    fs::remove_file(&name).unwrap();
    second.make_node(&name);
    let before = second.content();
    let outcome = job.run().expect(2);
    assert!(outcome.says("replaced"), "{outcome}");
    assert_same(&second.content(), &before);
    fs::remove_file(&name).unwrap();
    first.make_node(&name);
    job.run().expect(0);
    assert_same(&first.content(), &source.content());
}

/// A device that has another size than when the job began is another device, on either side; as it was it is known
/// again.
#[test]
fn a_device_of_another_size_is_not_gone_on_with() {
    if !can_mount("a_device_of_another_size_is_not_gone_on_with") {
        return;
    }
    let (source, dest, scratch) = (noisy(40, 26), Loop::new(48 << 20), Scratch::new());
    let job = interrupted(source.path(), dest.path(), &scratch.path().join("state"));
    let (before, mib) = (dest.content(), 1 << 20);
    let changes = [
        (&dest, 52, "the destination is not"),
        (&dest, 44, "the destination is not"),
        (&source, 44, "the source is not"),
    ];
    for (changed, other, reason) in changes {
        let size = changed.content().len() as u64;
        changed.resize(other * mib);
        for job in [job.clone(), job.clone().arg("--overwrite-device")] {
            assert!(job.run().expect(2).says(reason), "{reason}");
        }
        changed.resize(size);
        assert_same(&dest.content()[..40 << 20], &before[..40 << 20]);
    }
    let expected = source.content();
    job.run().expect(0);
    assert_same(&dest.content()[..40 << 20], &expected);
}

#[test]
fn a_device_is_made_durable_itself() {
    let test = "a_device_is_made_durable_itself";
    if !can_mount(test) || !(has("strace") || skip(test, "no strace")) {
        return;
    }
    let (source, dest) = (noisy(8, 26), noisy(8, 27));
    for (more, is_synced) in [(&[][..], true), (&["--sync", "none"], false)] {
        let scratch = Scratch::new();
        let log = scratch.path().join("log");
        let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Auto).args(more);
        job.within(&traced(&scratch, &format!("-y -e trace=fsync -o {}", log.display()))).run().expect(0);
        let called = format!("<{}", dest.path().display());
        let log = fs::read_to_string(&log).unwrap();
        let is_there = log.lines().any(|line| line.contains(&called) && line.trim_end().ends_with("= 0"));
        assert_eq!(is_there, is_synced, "{more:?}\n{log}");
    }
}

#[test]
fn what_the_first_write_leaves_is_known_for_the_jobs_own() {
    let test = "what_the_first_write_leaves_is_known_for_the_jobs_own";
    if !can_mount(test) || !(has("strace") || skip(test, "no strace")) {
        return;
    }
    let (source, dest, scratch) = (noisy(8, 28), Loop::new(8 << 20), Scratch::new());
    source.write(510, &[0x55, 0xaa]);
    let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Sync);
    let node = dest.path().display();
    let words = format!("-o /dev/null -P {node} -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=2");
    let outcome = job.clone().within(&traced(&scratch, &words)).run();
    assert_eq!(outcome.code(), None, "{outcome}");
    assert_eq!(&dest.content()[510..512], &[0x55, 0xaa], "it was killed before its first write");
    job.run().expect(0);
    assert_same(&dest.content(), &source.content());
}

/// Nothing of the copy was recorded when it was killed: what the device carries is known by the source's own sector.
#[test]
fn a_file_system_made_after_the_first_write_is_not_overwritten() {
    let test = "a_file_system_made_after_the_first_write_is_not_overwritten";
    if !can_mount(test) || !(has("strace") || skip(test, "no strace")) {
        return;
    }
    let (source, dest, scratch) = (noisy(8, 29), Loop::new(8 << 20), Scratch::new());
    let format = |device: &Path| must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(device));
    format(source.path());
    let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Sync);
    let words =
        format!("-o /dev/null -P {} -e trace=pwrite64 -e inject=pwrite64:signal=KILL:when=2", dest.path().display());
    let outcome = job.clone().within(&traced(&scratch, &words)).run();
    assert_eq!(outcome.code(), None, "{outcome}");
    let written = dest.content();
    format(dest.path());
    let before = dest.content();
    assert!(job.run().expect(2).says("does not hold any more"));
    assert_same(&dest.content(), &before);
    // mdadm leaves the superblock of ext4 where it is.
    dest.write(0, &written);
    dest.write(4096, &[0xfc, 0x4e, 0x2b, 0xa9]);
    assert!(job.run().expect(2).says("a member of a RAID"));
    dest.write(0, &written);
    job.run().expect(0);
    assert_same(&dest.content(), &source.content());
}

/// A disk with a page that cannot be read in its 5th and another in its 9th MiB, over FUSE.
fn failing(mount: &SlowMount) -> (Loop, Vec<u8>) {
    failing_of(mount, 12)
}

/// Likewise, of `mib` MiB.
pub(super) fn failing_of(mount: &SlowMount, mib: usize) -> (Loop, Vec<u8>) {
    let mut content = vec![0; mib << 20];
    Rng::new(31).fill(&mut content);
    for at in [5 << 20, (9 << 20) + 8192] {
        content[at..at + BAD.len()].copy_from_slice(BAD);
    }
    fs::write(mount.folder().join("disk"), &content).unwrap();
    for at in [5 << 20, (9 << 20) + 8192] {
        content[at..at + 4096].fill(0);
    }
    (Loop::over(&mount.path().join("disk"), &[]), content)
}

#[test]
fn bad_sectors_are_found_reported_and_zeroed() {
    let test = "bad_sectors_are_found_reported_and_zeroed";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    let mount = SlowMount::new(Duration::ZERO);
    let (source, expected) = failing(&mount);
    for engine in Engine::all() {
        let (scratch, dest) = (Scratch::new(), noisy(12, 32));
        let image = scratch.path().join("image");
        for (to, state) in [(dest.path(), "device"), (&*image, "image")] {
            let job = Job::new(source.path(), to, scratch.path().join(format!("state-{state}")), engine);
            // Slow enough for a checkpoint before the first bad page.
            let slow = job.clone().args(&["--bwlimit", "8M", "--checkpoint-interval", "0.1"]);
            let outcome = slow.run().expect(11);
            assert!(outcome.says("5242880+4096") || outcome.says("9445376+4096"), "{outcome}");
            assert!(outcome.says("--skip-bad-sectors"), "{outcome}");
            assert!(to.exists(), "what there is of the copy is gone");
            let outcome = job.arg("--skip-bad-sectors").run().expect(23);
            assert!(outcome.number("bytes") < 12 << 20, "everything was copied again: {outcome}");
            assert!(outcome.stdout.contains("\"unreadable\":\"5242880+4096, 9445376+4096\""), "{outcome}");
            assert_eq!((outcome.number("unreadable_bytes"), outcome.number("failed")), (8192, 1), "{outcome}");
        }
        assert_same(&dest.content(), &expected);
        assert_same(&fs::read(&image).unwrap(), &expected);
        let state = scratch.path().join("state-device");
        let report = Command::new(env!("CARGO_BIN_EXE_gfast"))
            .arg("report")
            .arg("-state-dir")
            .arg(state)
            .args(["-format", "ndjson"])
            .output();
        let report = String::from_utf8_lossy(&report.unwrap().stdout).into_owned();
        assert!(report.contains("5242880+4096, 9445376+4096"), "{report}");
    }
}

/// The destination's blocks are larger than what cannot be read.
#[test]
fn a_bad_sector_takes_none_of_its_neighbours_along() {
    let test = "a_bad_sector_takes_none_of_its_neighbours_along";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    let mount = SlowMount::new(Duration::ZERO);
    drop(failing(&mount));
    let options = ["--direct-io=on", "--sector-size", "512"];
    let source = Loop::over(&mount.path().join("disk"), &options);
    let mut expected = fs::read(mount.folder().join("disk")).unwrap();
    for at in [5 << 20, (9 << 20) + 8192] {
        expected[at..at + 512].fill(0);
    }
    for engine in Engine::all() {
        let scratch = Scratch::new();
        let image = scratch.path().join("image");
        fs::write(&image, noisy(12, 33).content()).unwrap();
        let dest = Loop::over(&image, &["--sector-size", "4096"]);
        let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), engine);
        let outcome = job.arg("--skip-bad-sectors").run().expect(23);
        assert!(outcome.stdout.contains("\"unreadable\":\"5242880+512, 9445376+512\""), "{outcome}");
        assert_same(&dest.content(), &expected);
    }
}

#[test]
fn the_map_is_whole_after_a_kill() {
    let test = "the_map_is_whole_after_a_kill";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    let mount = SlowMount::new(Duration::ZERO);
    let (source, expected) = failing(&mount);
    let (scratch, dest) = (Scratch::new(), Loop::new(12 << 20));
    let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), Engine::Auto);
    let job = job.args(&["--skip-bad-sectors", "--bwlimit", "8M", "--checkpoint-interval", "0.1"]);
    let running = job.start();
    // Behind the first bad page and the chunk it lies in.
    assert!(running.run_until(|io| io.write_bytes > 17 << 19), "it was too fast");
    running.run_for(Duration::from_millis(200));
    running.kill();
    let outcome = job.run().expect(23);
    assert!(outcome.stdout.contains("\"unreadable\":\"5242880+4096, 9445376+4096\""), "{outcome}");
    assert!(outcome.number("bytes") < 12 << 20, "everything was copied again: {outcome}");
    assert_same(&dest.content(), &expected);
}

#[test]
fn an_image_with_bad_pages_goes_onto_a_device() {
    let test = "an_image_with_bad_pages_goes_onto_a_device";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    let mount = SlowMount::new(Duration::ZERO);
    let (_source, expected) = failing(&mount);
    let (scratch, dest) = (Scratch::new(), Loop::new(12 << 20));
    let job = Job::new(mount.path().join("disk"), dest.path(), scratch.path().join("state"), Engine::Auto);
    let job = job.arg("--skip-bad-sectors");
    let outcome = job.run().expect(23);
    assert!(outcome.stdout.contains("\"unreadable\":\"5242880+4096, 9445376+4096\""), "{outcome}");
    assert_same(&dest.content(), &expected);
    // Repaired: what failed is copied by the next run.
    let mut repaired = expected;
    repaired[5 << 20..][..4096].fill(b'r');
    fs::write(mount.folder().join("disk"), &repaired).unwrap();
    job.run().expect(0);
    assert_same(&dest.content(), &repaired);
}

/// Makes pages of the disk behind `mount` unreadable, and others other; the content where it can be read.
pub(super) fn worsen(mount: &SlowMount, bad: &[usize], repaired: &[usize]) -> Vec<u8> {
    let disk = mount.folder().join("disk");
    let mut content = fs::read(&disk).unwrap();
    repaired.iter().for_each(|at| content[*at..at + 4096].fill(b'r'));
    bad.iter().for_each(|at| content[*at..at + BAD.len()].copy_from_slice(BAD));
    fs::write(&disk, &content).unwrap();
    content
}

/// What an earlier run has read stays, by a run that reads less, one that is killed, and one after that.
#[test]
fn what_was_read_of_a_disk_that_gets_worse_stays() {
    let test = "what_was_read_of_a_disk_that_gets_worse_stays";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    const MIB: usize = 1 << 20;
    let mount = SlowMount::new(Duration::ZERO);
    for engine in Engine::all() {
        for to_device in [true, false] {
            let (source, mut expected) = failing(&mount);
            let (scratch, device) = (Scratch::new(), noisy(12, 34));
            let dest = if to_device { device.path().to_owned() } else { scratch.path().join("image") };
            let content = || if to_device { device.content() } else { fs::read(&dest).unwrap() };
            let job = |source: &Loop| {
                let job = Job::new(source.path(), &dest, scratch.path().join("state"), engine);
                job.args(&["--skip-bad-sectors", "--checkpoint-interval", "0.1"])
            };
            job(&source).run().expect(23);
            assert_same(&content(), &expected);
            drop(source);
            // One place can be read by now, one is another, and many are lost.
            let lost: Vec<usize> = (0..64).map(|page| 7 * MIB + page * 4096).chain([0, 12 * MIB - 4096]).collect();
            worsen(&mount, &lost, &[5 * MIB, 11 * MIB]);
            [5 * MIB, 11 * MIB].iter().for_each(|at| expected[*at..at + 4096].fill(b'r'));
            let source = Loop::over(&mount.path().join("disk"), &[]);
            let running = job(&source).args(&["--bwlimit", "4M", "--buffer-size", "256K"]).start();
            assert!(running.run_for(Duration::from_millis(2500)), "it was too fast");
            running.kill();
            for _ in 0..2 {
                let outcome = job(&source).run().expect(23);
                assert!(outcome.stdout.contains("0+4096, 7340032+262144, 9445376+4096, 12578816+4096"), "{outcome}");
                assert_same(&content(), &expected);
            }
        }
    }
}

/// A resume reads a chunk again of which a part could not be read: what was read of the rest stays as well.
#[test]
fn what_was_read_beside_a_bad_sector_outlives_a_kill() {
    let test = "what_was_read_beside_a_bad_sector_outlives_a_kill";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    const MIB: usize = 1 << 20;
    let mount = SlowMount::new(Duration::ZERO);
    for to_device in [true, false] {
        let (source, expected) = failing(&mount);
        let (scratch, device) = (Scratch::new(), noisy(12, 35));
        let dest = if to_device { device.path().to_owned() } else { scratch.path().join("image") };
        let job = |source: &Loop| {
            let job = Job::new(source.path(), &dest, scratch.path().join("state"), Engine::Auto);
            job.args(&["--skip-bad-sectors", "--checkpoint-interval", "0.1"])
        };
        let running = job(&source).args(&["--bwlimit", "2M"]).start();
        // Behind the first bad page and the chunk it lies in, whatever of what is written is the catalog's.
        assert!(running.run_for(Duration::from_millis(5200)), "it was too fast");
        running.kill();
        drop(source);
        worsen(&mount, &(0..16).map(|page| 6 * MIB + page * 4096).collect::<Vec<_>>(), &[]);
        let source = Loop::over(&mount.path().join("disk"), &[]);
        let outcome = job(&source).run().expect(23);
        assert!(outcome.stdout.contains("6291456+65536"), "{outcome}");
        assert_same(&if to_device { device.content() } else { fs::read(&dest).unwrap() }, &expected);
    }
}
