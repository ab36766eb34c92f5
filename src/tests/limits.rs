//! "What limits me": each cause in turn is made the narrowest place, and the summary names it.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::fault::{Fault, FaultServer, Kind as Request, Rule};
use support::fixture::{can_mount, skip};
use support::slow::can_mount_fuse;
use support::{Engine, Job, Kind, Mount, Outcome, Rng, Scratch, SlowMount};

/// Bytes a second through a throttled device, and bytes of the file that goes through it.
const THROTTLED: u64 = 20 << 20;
const FILE: usize = 48 << 20;

/// A control group of version 1, removed at the end.
struct Group {
    path: PathBuf,
    /// Runs its arguments inside of it.
    enter: PathBuf,
    _scratch: Scratch,
}

impl Group {
    /// Of `controller`, with `settings`; `None`, and a line, where that is not possible.
    fn new(test: &str, controller: &str, settings: &[(&str, String)]) -> Option<Group> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/{controller}/gfast-test-{}-{test}", std::process::id()));
        let made = fs::create_dir(&path)
            .and_then(|()| settings.iter().try_for_each(|(name, value)| fs::write(path.join(name), value)));
        if let Err(error) = made {
            let _ = fs::remove_dir(&path);
            skip(test, &format!("no control group for {controller}: {error}"));
            return None;
        }
        let scratch = Scratch::new();
        let enter = scratch.path().join("enter");
        fs::write(&enter, format!("#!/bin/sh\necho $$ >{}/cgroup.procs\nexec \"$@\"\n", path.display())).unwrap();
        fs::set_permissions(&enter, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Group { path, enter, _scratch: scratch })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// `major:minor` of the device below a mounted path.
fn device(path: &Path) -> String {
    let dev = fs::metadata(path).unwrap().dev();
    format!("{}:{}", libc::major(dev), libc::minor(dev))
}

fn noise(path: &Path, len: usize) {
    let mut bytes = vec![0; len];
    Rng::new(len as u64).fill(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Files of a block each, in some directories.
fn small_files(at: &Path) {
    for dir in 0..8 {
        let dir = at.join(format!("dir-{dir}"));
        fs::create_dir_all(&dir).unwrap();
        (0..32).for_each(|file| noise(&dir.join(format!("file-{file}")), 4096));
    }
}

#[track_caller]
fn assert_named(outcome: &Outcome, causes: &[&str]) {
    let is_named = causes.iter().any(|cause| outcome.says(&format!("\"limit\":\"{cause}\"")));
    assert!(is_named, "expected one of {causes:?}: {outcome}");
}

#[test]
fn a_slow_device_is_named_on_either_side() {
    let test = "a_slow_device_is_named_on_either_side";
    if !can_mount(test) {
        return;
    }
    for (is_source, setting, cause) in
        [(true, "blkio.throttle.read_bps_device", "source"), (false, "blkio.throttle.write_bps_device", "dest")]
    {
        for engine in Engine::all() {
            let (from, to) = (Mount::new(Kind::Xfs, 300), Mount::new(Kind::Xfs, 300));
            noise(&from.join("file"), FILE);
            from.settle();
            let slow = device(if is_source { from.path() } else { to.path() });
            let Some(group) = Group::new(test, "blkio", &[(setting, format!("{slow} {THROTTLED}"))]) else { return };
            let state = Scratch::new();
            let job = Job::new(from.path(), to.join("copy"), state.path(), engine).within(&group.enter);
            let outcome = job.run().expect(0);
            assert!(outcome.elapsed >= Duration::from_millis(1500), "it was not throttled: {outcome}");
            assert_named(&outcome, &[cause]);
        }
    }
}

#[test]
fn few_processors_are_named() {
    let test = "few_processors_are_named";
    let quota = [("cpu.cfs_period_us", "100000".to_owned()), ("cpu.cfs_quota_us", "10000".to_owned())];
    let Some(group) = Group::new(test, "cpu", &quota) else { return };
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    (0..20).for_each(|index| small_files(&tree.join(format!("part-{index}"))));
    let job = Job::new(&tree, scratch.path().join("copy"), scratch.path().join("state"), Engine::all()[0]);
    assert_named(&job.within(&group.enter).run().expect(0), &["cpu"]);
}

#[test]
fn slow_names_and_too_few_streams_are_named() {
    let test = "slow_names_and_too_few_streams_are_named";
    if !can_mount_fuse(test) {
        return;
    }
    let (slow, other) = (SlowMount::new(Duration::from_millis(8)), Scratch::new());
    let tree = other.path().join("tree");
    small_files(&tree);
    for (streams, cause) in [("32", "metadata"), ("2", "streams")] {
        let state = other.path().join(streams);
        let job = Job::new(&tree, slow.path().join(streams), state, Engine::Auto);
        assert_named(&job.arg("--streams").arg(streams).run().expect(0), &[cause]);
    }
}

/// A bucket on a server of this process, and a job between a tree and it.
struct Bucket {
    server: FaultServer,
}

impl Bucket {
    fn new() -> Bucket {
        let server = FaultServer::start(1);
        server.make_bucket("b");
        Bucket { server }
    }

    fn job(&self, source: impl AsRef<Path>, dest: impl AsRef<Path>, state: impl AsRef<Path>) -> Job {
        Job::new(source.as_ref(), dest.as_ref(), state.as_ref(), Engine::all()[0])
            .env("AWS_ACCESS_KEY_ID", "AKIAFAULT")
            .env("AWS_SECRET_ACCESS_KEY", "canary/secret+0123456789abcdefghijklmnop")
            .env("AWS_REGION", "us-east-1")
            .arg(format!("--endpoint-url={}", self.server.endpoint()))
    }
}

#[test]
fn a_slow_server_is_named() {
    let (bucket, scratch) = (Bucket::new(), Scratch::new());
    bucket.server.script(Rule::new(Fault::StallMs(400)).on(&[Request::Put]));
    let tree = scratch.path().join("tree");
    small_files(&tree);
    let job = bucket.job(&tree, "s3://b/p", scratch.path().join("state"));
    assert_named(&job.run().expect(0), &["network"]);
}

#[test]
fn a_slow_device_behind_a_fast_server_is_named() {
    let test = "a_slow_device_behind_a_fast_server_is_named";
    if !can_mount(test) {
        return;
    }
    let (from, bucket, state) = (Mount::new(Kind::Xfs, 300), Bucket::new(), Scratch::new());
    // Parts of one file, and files of a request each.
    noise(&from.join("large"), FILE / 2);
    (0..6).for_each(|file| noise(&from.join(format!("file-{file}")), FILE / 12));
    from.settle();
    let setting = format!("{} {THROTTLED}", device(from.path()));
    let Some(group) = Group::new(test, "blkio", &[("blkio.throttle.read_bps_device", setting)]) else { return };
    let outcome = bucket.job(from.path(), "s3://b/p", state.path()).within(&group.enter).run().expect(0);
    assert!(outcome.elapsed >= Duration::from_millis(1500), "it was not throttled: {outcome}");
    assert_named(&outcome, &["source"]);
}

#[test]
fn a_bandwidth_limit_is_named() {
    let (bucket, scratch) = (Bucket::new(), Scratch::new());
    let tree = scratch.path().join("tree");
    small_files(&tree);
    noise(&tree.join("large"), FILE / 2);
    let limited = |job: Job| assert_named(&job.arg("--bwlimit=10M").run().expect(0), &["bwlimit"]);
    for engine in Engine::all() {
        let place = scratch.path().join(format!("{engine:?}"));
        limited(Job::new(&tree, place.join("copy"), place.join("state"), engine));
    }
    limited(bucket.job(&tree, "s3://b/p", scratch.path().join("up")));
    limited(bucket.job("s3://b/p", scratch.path().join("back"), scratch.path().join("down")));
}

/// One stream is one object, but on a ring many blocks of it are in flight: more streams would gain nothing.
#[test]
fn one_stream_in_depth_is_not_blamed_for_a_slow_device() {
    let test = "one_stream_in_depth_is_not_blamed_for_a_slow_device";
    if !can_mount(test) {
        return;
    }
    for engine in Engine::all() {
        let (from, to, state) = (Mount::new(Kind::Xfs, 300), Scratch::new(), Scratch::new());
        noise(&from.join("file"), FILE);
        from.settle();
        let setting = format!("{} {THROTTLED}", device(from.path()));
        let Some(group) = Group::new(test, "blkio", &[("blkio.throttle.read_bps_device", setting)]) else { return };
        let job = Job::new(from.path(), to.path().join("copy"), state.path(), engine).within(&group.enter);
        let expected = if engine == Engine::Uring { "source" } else { "streams" };
        assert_named(&job.arg("--streams=1").run().expect(0), &[expected]);
    }
}

/// Small files that no cache holds, on a device of few operations a second: the source is waited for, its inodes or its
/// bytes, never the destination.
#[test]
fn cold_small_files_of_a_slow_device_are_named() {
    let test = "cold_small_files_of_a_slow_device_are_named";
    if !can_mount(test) {
        return;
    }
    for engine in Engine::all() {
        let (from, to, state) = (Mount::new(Kind::Ext4, 100), Scratch::new(), Scratch::new());
        (0..4).for_each(|part| small_files(&from.join(format!("part-{part}"))));
        from.settle();
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        let setting = format!("{} 300", device(from.path()));
        let Some(group) = Group::new(test, "blkio", &[("blkio.throttle.read_iops_device", setting)]) else { return };
        let job = Job::new(from.path(), to.path().join("copy"), state.path(), engine).within(&group.enter);
        let outcome = job.run().expect(0);
        assert!(outcome.elapsed >= Duration::from_millis(1500), "it was not throttled: {outcome}");
        assert_named(&outcome, &["source", "metadata"]);
        assert!(!outcome.says("of the destination"), "{outcome}");
    }
}
