//! Devices and the objects of a bucket, compared.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::damage::{failing_of, worsen};
use super::refusals::{Mounted, format};
use super::support::block::Loop;
use super::support::fault::{Fault, Kind, Rule};
use super::support::fixture::can_mount;
use super::support::s3::S3sFs;
use super::support::slow::{SlowMount, can_mount_fuse};
use super::support::{Engine, Job, Scratch};
use super::{assert_same, bucket_job, fault_server, noisy, verify_by};

/// A server and what reaches it.
struct Scene {
    scratch: Scratch,
    server: S3sFs,
}

impl Scene {
    fn new() -> Scene {
        let scratch = Scratch::new();
        let server = S3sFs::start(scratch.path());
        server.bucket("bucket");
        Scene { scratch, server }
    }

    fn job(&self, from: &Path, to: &Path, state: &str) -> Job {
        Job::new(from, to, self.scratch.path().join(state), Engine::Auto)
            .env("AWS_ACCESS_KEY_ID", self.server.access_key())
            .env("AWS_SECRET_ACCESS_KEY", self.server.secret_key())
            .args(&["--endpoint-url", &self.server.endpoint(), "--region", "us-east-1", "--part-size", "5M"])
    }

    fn copy(&self, from: &Path, to: &Path, state: &str) {
        self.job(from, to, state).run().expect(0);
    }

    /// Refused for this reason, and neither the destination nor the state was touched.
    #[track_caller]
    fn assert_refused(&self, from: &Path, to: &Path, more: &[&str], reason: &str) {
        let before = fs::read(to).ok();
        let outcome = self.job(from, to, "refused").args(more).run().expect(2);
        assert!(outcome.says(reason), "{reason}: {outcome}");
        assert!(fs::read(to).ok() == before, "the destination was touched: {outcome}");
        let jobs = fs::read_dir(self.scratch.path().join("refused")).map_or(0, Iterator::count);
        assert_eq!(jobs, 0, "a job was made");
    }

    /// Exit code and all that `verify` said; against what was recorded in `state` without a source.
    fn verify(&self, source: Option<&Path>, dest: &Path, more: &[&str]) -> (Option<i32>, String) {
        let endpoint = self.server.endpoint();
        let words = [more, &["-json", "-endpoint-url", &endpoint, "-region", "us-east-1"]].concat();
        let secrets =
            [("AWS_ACCESS_KEY_ID", self.server.access_key()), ("AWS_SECRET_ACCESS_KEY", self.server.secret_key())];
        verify_by(source, dest, &words, &secrets)
    }

    #[track_caller]
    fn assert_verified(&self, code: i32, source: &Path, dest: &Path, says: &str) {
        for more in [&[][..], &["-sample", "100"], &["-xattrs", "-acls"]] {
            let (found, said) = self.verify(Some(source), dest, more);
            assert!(found == Some(code) && said.contains(says), "{more:?}: {said}");
        }
    }
}

#[test]
fn a_device_is_compared_with_its_object() {
    if !can_mount("a_device_is_compared_with_its_object") {
        return;
    }
    let (scene, source, larger) = (Scene::new(), noisy(20, 41), noisy(24, 42));
    let object = Path::new("s3://bucket/disk.img");
    scene.copy(source.path(), object, "up");
    scene.copy(object, larger.path(), "down");
    let state = |name: &str| scene.scratch.path().join(name).to_str().unwrap().to_owned();
    let same = |source: &Path, dest: &Path| scene.assert_verified(0, source, dest, "\"verdict\":\"same\"");
    same(source.path(), object);
    same(object, source.path());
    same(object, larger.path());
    assert_eq!(scene.verify(None, object, &["-state-dir", &state("up")]).0, Some(0));
    assert_eq!(scene.verify(None, larger.path(), &["-state-dir", &state("down")]).0, Some(0));
    // The object is not all that the larger device holds.
    scene.assert_verified(1, larger.path(), object, "\"size\"");
    larger.write((20 << 20) + 5, b"behind the copy");
    same(object, larger.path());
    larger.write((17 << 20) + 12_345, b"within it");
    scene.assert_verified(1, object, larger.path(), "\"content\"");
    assert_eq!(scene.verify(None, larger.path(), &["-state-dir", &state("down")]).0, Some(1));
    source.write(0, b"first");
    scene.assert_verified(1, source.path(), object, "\"content\"");
    let smaller = Loop::new(19 << 20);
    scene.assert_verified(1, object, smaller.path(), "\"size\"");
    // A device is one object, and no prefix.
    let (code, said) = scene.verify(Some(Path::new("s3://bucket/")), source.path(), &[]);
    assert_eq!(code, Some(2), "{said}");
}

#[test]
fn an_object_that_ends_within_a_block_is_compared_to_its_end() {
    if !can_mount("an_object_that_ends_within_a_block_is_compared_to_its_end") {
        return;
    }
    const END: usize = (2 << 20) + 700;
    let (scene, source, dest) = (Scene::new(), noisy(4, 43), noisy(4, 44));
    let (image, object) = (scene.scratch.path().join("image"), Path::new("s3://bucket/short.img"));
    fs::write(&image, &source.content()[..END]).unwrap();
    scene.copy(&image, object, "up");
    scene.copy(object, dest.path(), "down");
    assert_same(&dest.content()[..END], &source.content()[..END]);
    scene.assert_verified(0, object, dest.path(), "\"verdict\":\"same\"");
    dest.write(END as u64, b"behind");
    scene.assert_verified(0, object, dest.path(), "\"verdict\":\"same\"");
    let last = !source.content()[END - 1];
    dest.write(END as u64 - 1, &[last]);
    scene.assert_verified(1, object, dest.path(), "\"content\"");
}

/// What is refused between devices and images is refused towards and from a bucket as well.
#[test]
fn what_would_destroy_data_is_refused_from_a_bucket_too() {
    if !can_mount("what_would_destroy_data_is_refused_from_a_bucket_too") {
        return;
    }
    let (scene, dest) = (Scene::new(), Loop::new(20 << 20));
    let (image, object) = (scene.scratch.path().join("image"), Path::new("s3://bucket/disk.img"));
    fs::write(&image, noisy(20, 45).content()).unwrap();
    scene.copy(&image, object, "up");
    let overwrite = ["--overwrite-device"];
    format(dest.path());
    scene.assert_refused(object, dest.path(), &[], "ext4 file system");
    {
        let mounted = Mounted::new(dest.path(), "rw");
        scene.assert_refused(object, dest.path(), &overwrite, "mounted at");
        scene.assert_refused(dest.path(), Path::new("s3://bucket/live.img"), &[], "--live-source");
        drop(mounted);
    }
    {
        let _held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(dest.path()).unwrap();
        scene.assert_refused(object, dest.path(), &overwrite, "in use");
    }
    {
        let copy = scene.scratch.path().join("copy");
        fs::copy(&image, &copy).unwrap();
        let device = Loop::over(&copy, &[]);
        let _held = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(device.path()).unwrap();
        scene.assert_refused(object, &copy, &[], "held by another process");
        let other = Loop::over(&copy, &[]);
        scene.assert_refused(object, other.path(), &overwrite, "held by another process");
    }
    let small = noisy(19, 46);
    scene.assert_refused(object, small.path(), &overwrite, "too small");
    let frozen = Loop::over(&image, &["-r"]);
    scene.assert_refused(object, frozen.path(), &overwrite, "read-only");
    let missing = Path::new("/dev/gfast-no-such-device");
    scene.assert_refused(object, missing, &[], "is not there");
    assert!(!missing.exists());
    scene.assert_refused(object, Path::new("/dev"), &[], "no file is made where devices are");
    for option in ["--skip-equal", "--skip-bad-sectors"] {
        scene.assert_refused(object, dest.path(), &["--overwrite-device", option], "is in a bucket");
    }
    scene.assert_refused(dest.path(), object, &["--skip-equal"], "is in a bucket");
    scene.assert_refused(&image, object, &["--skip-bad-sectors"], "is no block device");
    scene.assert_refused(Path::new("s3://bucket/"), dest.path(), &overwrite, "is not a directory");
}

/// What a device carries behind the end of the object, or where the object ends, is none of the job's writing.
#[test]
fn what_lies_behind_the_end_of_the_object_is_somebody_elses() {
    let test = "what_lies_behind_the_end_of_the_object_is_somebody_elses";
    if !can_mount(test) {
        return;
    }
    let server = fault_server(test, 47);
    let (content, scratch) = (noisy(20, 48).content(), Scratch::new());
    for (end, mib) in [(20 << 20, 24), ((20 << 20) - 300, 20)] {
        let (key, dest) = (format!("{end}.img"), Loop::new(mib << 20));
        server.put("bucket", &key, content[..end].to_vec(), &[]);
        dest.write((mib << 20) - 512, b"EFI PART");
        let job = bucket_job(&server, format!("s3://bucket/{key}"), dest.path(), &scratch.path().join(&key));
        let job = job.args(&["--part-size", "5M"]);
        let slow = ["--bwlimit", "4M", "--checkpoint-interval", "0.1", "--streams", "1", "--overwrite-device"];
        let running = job.clone().args(&slow).start();
        assert!(running.run_for(Duration::from_secs(2)), "it was too fast");
        running.kill();
        let before = dest.content();
        let outcome = job.run().expect(2);
        assert!(outcome.says("carries a GPT partition table: to overwrite it say --overwrite-device"), "{outcome}");
        assert_same(&dest.content(), &before);
        job.arg("--overwrite-device").run().expect(0);
        assert_same(&dest.content()[..end], &content[..end]);
    }
}

/// A device has no times of its content: its object tells none, and what is restored from it has the object's.
#[test]
fn an_image_restored_from_the_object_of_a_device_is_not_of_1970() {
    let test = "an_image_restored_from_the_object_of_a_device_is_not_of_1970";
    if !can_mount(test) {
        return;
    }
    let (server, scratch) = (fault_server(test, 49), Scratch::new());
    let job = |from: &Path, to: &Path, state: &str| {
        bucket_job(&server, from, to, &scratch.path().join(state)).args(&["--part-size", "5M"])
    };
    // In one request, and in parts.
    for mib in [1, 12] {
        let (source, restored) = (noisy(mib, 50), scratch.path().join(format!("restored-{mib}")));
        let (key, began) = (format!("disk-{mib}.img"), SystemTime::now() - Duration::from_secs(2));
        let object = Path::new("s3://bucket").join(&key);
        job(source.path(), &object, &format!("up-{mib}")).args(&["--xattrs", "--acls"]).run().expect(0);
        let stored = server.object("bucket", &key).unwrap();
        let told: Vec<&str> = stored.attributes.keys().map(String::as_str).collect();
        assert!(!told.contains(&"file-mtime") && !told.contains(&"file-atime"), "{told:?}");
        assert!(told.contains(&"file-permissions"), "{told:?}");
        job(&object, &restored, &format!("down-{mib}")).run().expect(0);
        assert_same(&fs::read(&restored).unwrap(), &source.content());
        let mtime = fs::metadata(&restored).unwrap().modified().unwrap();
        assert!(mtime >= began && mtime <= SystemTime::now(), "{mtime:?}");
    }
}

/// In one request, in parts, in parts that are sent as they are read, and where a run was killed.
#[test]
fn bad_sectors_are_zeros_in_the_object_and_told() {
    let test = "bad_sectors_are_zeros_in_the_object_and_told";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    let mount = SlowMount::new(Duration::ZERO);
    let (server, scratch) = (fault_server(test, 51), Scratch::new());
    for (mib, part) in [(12, "16M"), (12, "5M"), (36, "32M"), (36, "5M")] {
        let (source, expected) = failing_of(&mount, mib);
        let state = scratch.path().join(format!("{mib}-{part}"));
        let job = bucket_job(&server, source.path(), "s3://bucket/disk.img", &state).args(&["--part-size", part]);
        server.remove("bucket", "disk.img");
        let skipping = job.clone().arg("--skip-bad-sectors");
        if (mib, part) == (36, "5M") {
            let slow = ["--bwlimit", "8M", "--checkpoint-interval", "0.1", "--streams", "1"];
            let running = skipping.clone().args(&slow).start();
            // The part with the bad sectors is the second of eight.
            assert!(running.run_for(Duration::from_millis(2500)), "it was too fast");
            running.kill();
        } else {
            let outcome = job.run().expect(11);
            assert!(outcome.says("5242880+4096") && outcome.says("--skip-bad-sectors goes on behind it"), "{outcome}");
            assert!(server.object("bucket", "disk.img").is_none());
        }
        for _ in 0..2 {
            let outcome = skipping.run().expect(23);
            assert!(outcome.stdout.contains("\"unreadable\":\"5242880+4096, 9445376+4096\""), "{outcome}");
            assert_same(&server.object("bucket", "disk.img").unwrap().body, &expected);
            assert_eq!(server.uploads().len(), 0, "an upload was left");
        }
    }
}

/// In one request, in parts, and in parts that are sent as they are read; by a run that was killed, too.
#[test]
fn an_object_keeps_what_was_read_of_a_disk_that_gets_worse() {
    let test = "an_object_keeps_what_was_read_of_a_disk_that_gets_worse";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    const MIB: usize = 1 << 20;
    let mount = SlowMount::new(Duration::ZERO);
    let (server, scratch) = (fault_server(test, 52), Scratch::new());
    for (mib, part) in [(12, "16M"), (12, "5M"), (36, "32M"), (36, "5M")] {
        let (source, mut expected) = failing_of(&mount, mib);
        let state = scratch.path().join(format!("{mib}-{part}"));
        let job = |source: &Loop| {
            let job = bucket_job(&server, source.path(), "s3://bucket/disk.img", &state);
            job.args(&["--part-size", part, "--skip-bad-sectors"])
        };
        job(&source).run().expect(23);
        assert_same(&server.object("bucket", "disk.img").unwrap().body, &expected);
        drop(source);
        let lost: Vec<usize> = (0..32).map(|page| 7 * MIB + page * 4096).chain([0, 12 * MIB - 4096]).collect();
        worsen(&mount, &lost, &[5 * MIB]);
        expected[5 * MIB..][..4096].fill(b'r');
        let source = Loop::over(&mount.path().join("disk"), &[]);
        if (mib, part) == (36, "5M") {
            let slow = ["--bwlimit", "8M", "--checkpoint-interval", "0.1", "--streams", "1"];
            let running = job(&source).args(&slow).start();
            assert!(running.run_for(Duration::from_millis(2500)), "it was too fast");
            running.kill();
        }
        for _ in 0..2 {
            let outcome = job(&source).run().expect(23);
            assert!(outcome.stdout.contains("0+4096, 7340032+131072, 9445376+4096, 12578816+4096"), "{outcome}");
            assert_same(&server.object("bucket", "disk.img").unwrap().body, &expected);
            assert_eq!(server.uploads().len(), 0, "an upload was left");
        }
        server.remove("bucket", "disk.img");
    }
}

/// The only place that a throttled server leaves is the part's, which is sent as it is read: what it needs of the
/// object that is there comes without another one.
#[test]
fn what_an_object_keeps_is_read_for_the_part_that_has_the_last_place() {
    let test = "what_an_object_keeps_is_read_for_the_part_that_has_the_last_place";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    const MIB: usize = 1 << 20;
    let mount = SlowMount::new(Duration::ZERO);
    let (server, scratch) = (fault_server(test, 53), Scratch::new());
    let (source, mut expected) = failing_of(&mount, 68);
    let job = |source: &Loop| {
        let job = bucket_job(&server, source.path(), "s3://bucket/disk.img", &scratch.path().join("state"));
        job.args(&["--part-size", "128M", "--skip-bad-sectors"])
    };
    job(&source).run().expect(23);
    drop(source);
    let lost: Vec<usize> = (0..32).map(|page| 16 * MIB + page * 4096).collect();
    let repaired = [5 * MIB, 9_445_376];
    worsen(&mount, &lost, &repaired);
    repaired.iter().for_each(|at| expected[*at..at + 4096].fill(b'r'));
    let source = Loop::over(&mount.path().join("disk"), &[]);
    server.reset_counts();
    // Not the byte that asks whether parts must bring their checksums.
    let refuse = Fault::Refuse { status: 503, code: "SlowDown" };
    server.script(Rule::new(refuse).on(&[Kind::PutPart]).after(1).times(1));
    let (running, began) = (job(&source).start(), Instant::now());
    // Far more than it takes.
    let is_running = running.run_until(|_| began.elapsed() > Duration::from_secs(60));
    assert!(!is_running, "it waits for itself: {}", running.said());
    let outcome = running.wait().expect(23);
    assert!(outcome.stdout.contains("\"unreadable\":\"16777216+131072\""), "{outcome}");
    assert_same(&server.object("bucket", "disk.img").unwrap().body, &expected);
    let counts = server.counts();
    assert_eq!((counts.faults, counts.of(Kind::PutPart)), (1, 3), "{outcome}");
}
