//! Devices that the kernel calls otherwise than when their job began, and other devices that it calls so.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gfast::digest::crc64;

use super::damage::interrupted;
use super::support::block::Loop;
use super::support::fixture::can_mount;
use super::support::{Engine, Job, Outcome, Scratch};
use super::{assert_same, bucket_job, fault_server, noisy, verify};

/// Bytes of each device.
const BYTES: usize = 40 << 20;

/// The same image under the number of another loop device; the first number is free again afterwards.
fn moved(first: Loop) -> Loop {
    let second = Loop::over(first.image(), &[]);
    assert_ne!(first.path(), second.path());
    second
}

/// An image that outlives its devices.
fn image(scratch: &Scratch, name: &str, content: &[u8]) -> PathBuf {
    let path = scratch.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

#[track_caller]
fn assert_resumed(outcome: &Outcome) {
    assert!(outcome.number("bytes") < BYTES as u64, "everything was copied again: {outcome}");
    assert!(outcome.says("is the device that this job began with as"), "{outcome}");
}

#[test]
fn a_device_is_known_again_by_another_name() {
    if !can_mount("a_device_is_known_again_by_another_name") {
        return;
    }
    let (content, scratch) = (noisy(40, 61), Scratch::new());
    // Only the job's own writing may be written over.
    content.write(510, &[0x55, 0xaa]);
    let expected = content.content();
    let (from, to) = (image(&scratch, "from", &expected), image(&scratch, "to", &vec![0; BYTES]));
    let (source, dest) = (Loop::over(&from, &[]), Loop::over(&to, &[]));
    let state = scratch.path().join("state");
    interrupted(source.path(), dest.path(), &state);
    let (new_source, new_dest) = (moved(source), moved(dest));
    assert_resumed(&Job::new(new_source.path(), new_dest.path(), &state, Engine::Auto).run().expect(0));
    assert_same(&new_dest.content(), &expected);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "another job was made");
    // What was recorded of it is found, too, by the name that it has now.
    let (code, said) = verify(None, new_dest.path(), &["-state-dir", state.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    let back = moved(new_dest);
    let (code, said) = verify(None, back.path(), &["-state-dir", state.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn one_renamed_end_is_enough_with_an_image_or_a_bucket_at_the_other() {
    let test = "one_renamed_end_is_enough_with_an_image_or_a_bucket_at_the_other";
    if !can_mount(test) {
        return;
    }
    let scratch = Scratch::new();
    let expected = noisy(40, 62).content();
    let from = image(&scratch, "from", &expected);
    let (source, copy) = (Loop::over(&from, &[]), scratch.path().join("copy"));
    interrupted(source.path(), &copy, &scratch.path().join("state"));
    let source = moved(source);
    let job = Job::new(source.path(), &copy, scratch.path().join("state"), Engine::Auto);
    assert_resumed(&job.run().expect(0));
    assert_same(&fs::read(&copy).unwrap(), &expected);

    let server = fault_server(test, 66);
    let up = |source: &Path| bucket_job(&server, source, "s3://bucket/disks/", &scratch.path().join("up"));
    let parts = ["--part-size", "5M"];
    let slow = ["--bwlimit", "8M", "--checkpoint-interval", "0.1", "--streams", "1"];
    let running = up(source.path()).args(&parts).args(&slow).start();
    assert!(running.run_for(Duration::from_secs(3)), "it was too fast");
    running.kill();
    let began_as = source.path().file_name().unwrap().to_str().unwrap().to_owned();
    let source = moved(source);
    assert_resumed(&up(source.path()).args(&parts).run().expect(0));
    // The object has its first name.
    let key = format!("disks/{began_as}");
    assert_eq!(server.keys("bucket"), std::slice::from_ref(&key));
    assert_same(&server.object("bucket", &key).unwrap().body, &expected);
    assert_eq!(server.uploads().len(), 0, "an upload was left");
}

/// The device's name and its image's are what they were; the image, or where the device begins in it, is not.
#[test]
fn another_device_with_the_names_of_the_first_is_not_gone_on_with() {
    if !can_mount("another_device_with_the_names_of_the_first_is_not_gone_on_with") {
        return;
    }
    let (scratch, expected) = (Scratch::new(), noisy(44, 63).content());
    let (from, copy, node) =
        (image(&scratch, "from", &expected), scratch.path().join("copy"), scratch.path().join("disk"));
    let begins = |at: &str| {
        let device = Loop::over(&from, &["-o", at, "--sizelimit", "41943040"]);
        let _ = fs::remove_file(&node);
        device.make_node(&node);
        device
    };
    let first = begins("0");
    let job = interrupted(&node, &copy, &scratch.path().join("state"));
    drop(first);
    let shifted = begins("4194304");
    assert!(job.run().expect(2).says("the source is not the one this job began with"));
    drop(shifted);
    // Kept open, so that its inode number is not given to the other one.
    let kept = fs::File::open(&from).unwrap();
    fs::remove_file(&from).unwrap();
    image(&scratch, "from", &noisy(44, 64).content());
    let replaced = begins("0");
    assert!(job.run().expect(2).says("the source is not the one this job began with"));
    drop((replaced, kept));
}

/// A state directory of a gfast that knew loop devices by the paths of their images.
#[test]
fn a_job_that_knows_its_device_by_the_path_of_its_image_goes_on() {
    if !can_mount("a_job_that_knows_its_device_by_the_path_of_its_image_goes_on") {
        return;
    }
    let (source, scratch) = (noisy(40, 65), Scratch::new());
    let (copy, state) = (scratch.path().join("copy"), scratch.path().join("state"));
    let job = interrupted(source.path(), &copy, &state);
    let folder = fs::read_dir(&state).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(folder.join("job")).unwrap();
    let identity = |path: &[u8]| crc64(&[&(BYTES as u64).to_le_bytes(), path].concat());
    let former = identity(source.image().to_str().unwrap().as_bytes());
    let lines =
        text.lines().filter(|line| !line.starts_with("crc=")).map(|line| match line.strip_prefix("source_root=") {
            Some(root) => format!("source_root={former}:{}\n", root.split_once(':').unwrap().1),
            None => format!("{line}\n"),
        });
    let text: String = lines.collect();
    fs::write(folder.join("job"), format!("{text}crc={:08x}\n", crc32fast::hash(text.as_bytes()))).unwrap();
    job.run().expect(0);
    assert_same(&fs::read(&copy).unwrap(), &source.content());
    // Another one's is another job still.
    let other = text.replace(&former.to_string(), &identity(b"/another/image").to_string());
    fs::write(folder.join("job"), format!("{other}crc={:08x}\n", crc32fast::hash(other.as_bytes()))).unwrap();
    assert!(job.run().expect(2).says("the source is not the one this job began with"));
}
