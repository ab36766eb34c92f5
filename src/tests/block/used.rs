//! What somebody has changed, on either side, before the job came back: no part of the copy.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::damage::failing_of;
use super::support::block::Loop;
use super::support::fault::{Fault, Kind, Rule};
use super::support::fixture::{can_mount, has, must, skip, traced};
use super::support::slow::{SlowMount, can_mount_fuse};
use super::support::{Engine, Job, Rng, Scratch};
use super::{assert_same, bucket_job, fault_server, noisy};

/// Kills a job when all of its copy is durable and recorded, and the pass is not finished yet.
fn kill_at_the_end(job: &Job) {
    kill_at_sync(job, 2);
}

/// Kills a job when it syncs its destination for this time.
fn kill_at_sync(job: &Job, count: u32) {
    let (scratch, dest) = (Scratch::new(), job.dest().display());
    let (sync, of) = match job.dest().starts_with("/dev") {
        true => ("fsync", format!("-P {dest}")),
        false => ("syncfs", String::new()),
    };
    let words = format!("-o /dev/null {of} -e trace={sync} -e inject={sync}:signal=KILL:when={count}");
    let outcome = job.clone().within(&traced(&scratch, &words)).run();
    assert_eq!(outcome.code(), None, "{outcome}");
}

fn can_trace(test: &str) -> bool {
    can_mount(test) && (has("strace") || skip(test, "no strace"))
}

#[test]
fn a_device_that_was_changed_before_the_pass_ended_is_not_taken_for_the_copy() {
    if !can_trace("a_device_that_was_changed_before_the_pass_ended_is_not_taken_for_the_copy") {
        return;
    }
    for engine in Engine::all() {
        let (source, dest, scratch) = (noisy(8, 71), Loop::new(8 << 20), Scratch::new());
        let job = Job::new(source.path(), dest.path(), scratch.path().join("state"), engine);
        kill_at_the_end(&job);
        assert_same(&dest.content(), &source.content());
        dest.write(0, &vec![0; 8 << 20]);
        let outcome = job.run().expect(2);
        assert!(outcome.says("does not hold any more"), "{outcome}");
        assert_same(&dest.content(), &vec![0; 8 << 20]);
        job.clone().arg("--overwrite-device").run().expect(0);
        assert_same(&dest.content(), &source.content());
    }
}

/// Likewise of what came from a bucket, in parts or in one piece.
#[test]
fn a_device_that_was_changed_before_a_download_ended_is_not_taken_for_the_object() {
    let test = "a_device_that_was_changed_before_a_download_ended_is_not_taken_for_the_object";
    if !can_trace(test) {
        return;
    }
    let server = fault_server(test, 78);
    for mib in [20, 4] {
        let (dest, scratch, content) = (Loop::new(mib << 20), Scratch::new(), noisy(mib, 79).content());
        server.put("bucket", "disk.img", content.clone(), &[]);
        let job = bucket_job(&server, "s3://bucket/disk.img", dest.path(), &scratch.path().join("state"));
        let job = job.args(&["--part-size", "5M"]);
        kill_at_the_end(&job);
        assert_same(&dest.content(), &content);
        let zeros = vec![0; content.len()];
        dest.write(0, &zeros);
        assert!(job.run().expect(2).says("does not hold any more"));
        assert_same(&dest.content(), &zeros);
        job.arg("--overwrite-device").run().expect(0);
        assert_same(&dest.content(), &content);
    }
}

/// What a small object has left of itself on a device is known for the job's own, as that of a large one.
#[test]
fn a_device_that_a_small_object_was_written_to_is_gone_on_with() {
    let test = "a_device_that_a_small_object_was_written_to_is_gone_on_with";
    if !can_trace(test) {
        return;
    }
    let (server, source) = (fault_server(test, 80), noisy(4, 81));
    source.write(510, &[0x55, 0xaa]);
    let (dest, scratch, content) = (Loop::new(4 << 20), Scratch::new(), source.content());
    server.put("bucket", "disk.img", content.clone(), &[]);
    let job = bucket_job(&server, "s3://bucket/disk.img", dest.path(), &scratch.path().join("state"));
    kill_at_sync(&job, 1);
    assert_same(&dest.content(), &content);
    job.run().expect(0);
    assert_same(&dest.content(), &content);
}

/// What is still there is not copied again.
#[test]
fn a_pass_that_only_had_to_end_copies_nothing() {
    if !can_trace("a_pass_that_only_had_to_end_copies_nothing") {
        return;
    }
    let (source, dest, scratch) = (noisy(8, 72), Loop::new(8 << 20), Scratch::new());
    let image = scratch.path().join("image");
    for (to, state) in [(dest.path(), "device"), (&*image, "image")] {
        let job = Job::new(source.path(), to, scratch.path().join(format!("state-{state}")), Engine::Auto);
        kill_at_the_end(&job);
        let outcome = job.run().expect(0);
        assert_eq!(outcome.number("bytes"), 0, "{outcome}");
        assert_same(&fs::read(to).unwrap(), &source.content());
    }
}

#[test]
fn a_source_that_was_changed_before_the_pass_ended_is_copied_again() {
    if !can_trace("a_source_that_was_changed_before_the_pass_ended_is_copied_again") {
        return;
    }
    let (dest, scratch) = (Loop::new(8 << 20), Scratch::new());
    let image = scratch.path().join("image");
    for (to, state) in [(dest.path(), "device"), (&*image, "image")] {
        let source = noisy(8, 73);
        let job = Job::new(source.path(), to, scratch.path().join(format!("state-{state}")), Engine::Auto);
        kill_at_the_end(&job);
        source.write(4096, b"written since");
        job.run().expect(0);
        assert_same(&fs::read(to).unwrap(), &source.content());
    }
}

#[test]
fn an_object_that_was_changed_before_the_pass_ended_is_stored_again() {
    let test = "an_object_that_was_changed_before_the_pass_ended_is_stored_again";
    if !can_mount(test) {
        return;
    }
    let (server, scratch, source) = (fault_server(test, 74), Scratch::new(), noisy(4, 75));
    let job = bucket_job(&server, source.path(), "s3://bucket/disk.img", &scratch.path().join("state"));
    server.script(Rule::new(Fault::StallMs(1500)).on(&[Kind::Put]).key("disk.img"));
    let running = job.start();
    assert!(running.run_until(|_| server.counts().of(Kind::Put) > 0), "it was too fast");
    running.signal(Signal::TERM);
    running.wait().expect(20);
    assert_same(&server.object("bucket", "disk.img").unwrap().body, &source.content());
    server.heal();
    server.put("bucket", "disk.img", &b"another's"[..], &[]);
    job.run().expect(0);
    assert_same(&server.object("bucket", "disk.img").unwrap().body, &source.content());
}

/// Where the source cannot be read there is what an earlier run has read, and never what others have written since.
#[test]
fn what_others_have_written_is_not_taken_for_what_was_read() {
    let test = "what_others_have_written_is_not_taken_for_what_was_read";
    if !can_mount(test) || !can_mount_fuse(test) {
        return;
    }
    let mount = SlowMount::new(Duration::ZERO);
    let (source, expected) = failing_of(&mount, 12);
    for is_killed in [false, true] {
        for to_device in [true, false] {
            let (scratch, device) = (Scratch::new(), noisy(12, 76));
            let dest = if to_device { device.path().to_owned() } else { scratch.path().join("image") };
            let job = Job::new(source.path(), &dest, scratch.path().join("state"), Engine::Auto);
            let job = job.args(&["--skip-bad-sectors", "--checkpoint-interval", "0.1"]);
            let job = if to_device { job.arg("--overwrite-device") } else { job };
            job.run().expect(23);
            if is_killed {
                let running = job.clone().args(&["--bwlimit", "4M", "--buffer-size", "256K"]).start();
                assert!(running.run_for(Duration::from_millis(1500)), "it was too fast");
                running.kill();
            }
            use_it(&dest, to_device);
            for is_used in [true, false] {
                let outcome = job.run().expect(23);
                assert_eq!(outcome.says("is not what this job has left there"), is_used, "{outcome}");
                assert_same(&fs::read(&dest).unwrap(), &expected);
            }
        }
    }
}

/// Takes a copy into use, and writes where its source could not be read.
fn use_it(dest: &Path, is_device: bool) {
    if is_device {
        must(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(dest));
    }
    let file = OpenOptions::new().write(true).open(dest).unwrap();
    let mut noise = vec![0; 4096];
    Rng::new(77).fill(&mut noise);
    for at in [5 << 20, (9 << 20) + 8192] {
        file.write_all_at(&noise, at).unwrap();
    }
    file.sync_all().unwrap();
}
