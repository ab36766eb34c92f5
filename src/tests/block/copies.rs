//! What arrives: device to device, to an image and from one, and through a bucket.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::refusals::{Mounted, format};
use super::support::block::Loop;
use super::support::fixture::{can_mount, must};
use super::support::s3::S3sFs;
use super::support::{Engine, Job, Scratch};
use super::{assert_same, noisy, verify};

#[test]
fn a_device_goes_to_a_device_to_an_image_and_back() {
    if !can_mount("a_device_goes_to_a_device_to_an_image_and_back") {
        return;
    }
    let source = noisy(20, 11);
    let expected = source.content();
    for engine in Engine::all() {
        let (larger, scratch) = (noisy(24, 12), Scratch::new());
        let rest = larger.content()[20 << 20..].to_vec();
        let run = |from: &Path, to: &Path, state: &str| {
            Job::new(from, to, scratch.path().join(state), engine).arg("--checksum").run().expect(0)
        };
        let outcome = run(source.path(), larger.path(), "a");
        assert_eq!((outcome.number("bytes"), outcome.number("checksums_recorded")), (20 << 20, 1), "{outcome}");
        let content = larger.content();
        assert_same(&content[..20 << 20], &expected);
        assert_same(&content[20 << 20..], &rest);
        assert_eq!(verify(Some(source.path()), larger.path(), &[]).0, Some(0));
        let state = scratch.path().join("a");
        assert_eq!(verify(None, larger.path(), &["-state-dir", state.to_str().unwrap()]).0, Some(0));

        let image = scratch.path().join("image");
        run(source.path(), &image, "b");
        assert_same(&fs::read(&image).unwrap(), &expected);
        let zeros = expected.chunks(64 << 10).filter(|grain| grain.iter().all(|byte| *byte == 0)).count() as u64;
        let taken = fs::metadata(&image).unwrap().blocks() * 512;
        assert!(zeros > 0 && taken <= (20 << 20) - (zeros << 16) + (1 << 20), "{taken} bytes, {zeros} grains of zeros");
        assert_eq!(verify(Some(source.path()), &image, &[]).0, Some(0));
        let state = scratch.path().join("b");
        assert_eq!(verify(None, &image, &["-state-dir", state.to_str().unwrap()]).0, Some(0));
        // Nothing tells whether a device has changed, so it is copied again.
        assert!(run(source.path(), &image, "b").says("copied again"));

        let back = noisy(20, 13);
        run(&image, back.path(), "c");
        assert_same(&back.content(), &expected);
        // An image tells, but not what has become of its copy.
        back.write(7 << 20, b"somebody else's");
        let outcome = run(&image, back.path(), "c");
        assert!(outcome.says("copied again") && outcome.number("unchanged") == 0, "{outcome}");
        assert_same(&back.content(), &expected);
        back.write(5 << 20, b"another byte");
        let (code, said) = verify(Some(&image), back.path(), &["-json"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("5242880"), "{said}");
        let state = scratch.path().join("c");
        assert_eq!(verify(None, back.path(), &["-state-dir", state.to_str().unwrap()]).0, Some(1));
    }
}

#[test]
fn an_image_that_ends_within_a_block_leaves_the_rest_of_it_alone() {
    if !can_mount("an_image_that_ends_within_a_block_leaves_the_rest_of_it_alone") {
        return;
    }
    for engine in Engine::all() {
        for (len, more) in [((2 << 20) + 700, "--readback"), (700, "--checksum"), (3 << 20, "--skip-equal")] {
            let (source, dest, scratch) = (noisy(4, 14), noisy(4, 15), Scratch::new());
            let image = scratch.path().join("image");
            fs::write(&image, &source.content()[..len]).unwrap();
            let before = dest.content();
            Job::new(&image, dest.path(), scratch.path().join("state"), engine).arg(more).run().expect(0);
            let after = dest.content();
            assert_same(&after[..len], &source.content()[..len]);
            assert_same(&after[len..], &before[len..]);
        }
    }
}

#[test]
fn equal_blocks_are_left_alone() {
    if !can_mount("equal_blocks_are_left_alone") {
        return;
    }
    let (source, scratch) = (noisy(24, 16), Scratch::new());
    for engine in Engine::all() {
        let dest = Loop::new(24 << 20);
        fs::write(dest.path(), source.content()).unwrap();
        dest.write(9 << 20, b"differs");
        dest.write((24 << 20) - 3, b"end");
        let state = scratch.path().join(format!("{engine:?}"));
        let job = Job::new(source.path(), dest.path(), &state, engine).arg("--skip-equal");
        let outcome = job.run().expect(0);
        assert_same(&dest.content(), &source.content());
        assert_eq!(outcome.number("bytes"), 2 << 16, "{outcome}");
        assert_eq!(job.run().expect(0).number("bytes"), 0);
    }
}

#[test]
fn a_file_system_survives() {
    let test = "a_file_system_survives";
    if !can_mount(test) {
        return;
    }
    // More than a segment: all shards take part.
    let (source, dest, scratch) = (Loop::new(300 << 20), Loop::new(300 << 20), Scratch::new());
    must(Command::new("mkfs.ext4").args(["-q", "-F", "-d", "/usr/share/perl5"]).arg(source.path()));
    let image = scratch.path().join("image");
    for (index, (from, to)) in [(source.path(), dest.path()), (dest.path(), &*image)].into_iter().enumerate() {
        let state = scratch.path().join(index.to_string());
        Job::new(from, to, state, Engine::Auto).run().expect(0);
        must(Command::new("fsck.ext4").arg("-fn").arg(to));
    }
    assert_same(&fs::read(&image).unwrap(), &source.content());
}

#[test]
fn a_device_goes_through_a_bucket() {
    if !can_mount("a_device_goes_through_a_bucket") {
        return;
    }
    let source = noisy(40, 17);
    for engine in Engine::all() {
        let (scratch, back) = (Scratch::new(), noisy(44, 18));
        let server = S3sFs::start(scratch.path());
        server.bucket("bucket");
        let job = |from: &Path, to: &Path, state: &str| {
            Job::new(from, to, scratch.path().join(state), engine)
                .env("AWS_ACCESS_KEY_ID", server.access_key())
                .env("AWS_SECRET_ACCESS_KEY", server.secret_key())
                .args(&["--endpoint-url", &server.endpoint(), "--region", "us-east-1", "--part-size", "5M"])
        };
        let object = Path::new("s3://bucket/disk.img");
        job(source.path(), object, "up").run().expect(0);
        let small = noisy(39, 19);
        let before = small.content();
        assert!(job(object, small.path(), "small").run().expect(2).says("too small"));
        assert_same(&small.content(), &before);
        job(object, back.path(), "down").run().expect(0);
        assert_same(&back.content()[..40 << 20], &source.content());
        back.write(30 << 20, b"somebody else's");
        job(object, back.path(), "down").arg("--overwrite-device").run().expect(0);
        assert_same(&back.content()[..40 << 20], &source.content());
        let node = fs::metadata(back.path()).unwrap();
        assert_eq!(node.mode() & libc::S_IFMT, libc::S_IFBLK, "the node is another one now");
        // The same command again: a device does not tell that it has changed.
        let mut expected = source.content();
        expected[20 << 20..][..4096].fill(engine as u8 + 1);
        source.write(20 << 20, &expected[20 << 20..][..4096]);
        job(source.path(), object, "up").run().expect(0);
        job(object, back.path(), "down again").arg("--overwrite-device").run().expect(0);
        assert_same(&back.content()[..40 << 20], &expected);
    }
}

/// Direct I/O on the image's file system takes whole blocks of 4 KiB, the device ends within one.
#[test]
fn equal_blocks_are_left_to_the_very_end_of_a_device() {
    if !can_mount("equal_blocks_are_left_to_the_very_end_of_a_device") {
        return;
    }
    const END: usize = (3 << 20) + 512;
    let scratch = Scratch::new();
    let disk = scratch.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(48 << 20).unwrap();
    let disk = Loop::over(&disk, &["--sector-size", "4096"]);
    format(disk.path());
    let mounted = Mounted::new(disk.path(), "rw");
    let (image, content) = (mounted.path().join("image"), noisy(4, 15).content());
    fs::write(&image, &content[..END]).unwrap();
    for engine in Engine::all() {
        for is_equal in [true, false] {
            let dest = Loop::new(END as u64);
            if is_equal {
                dest.write(0, &content[..END]);
            }
            let state = scratch.path().join(format!("{is_equal}-{engine:?}"));
            let job = Job::new(&image, dest.path(), state, engine).args(&["--skip-equal", "--direct", "always"]);
            job.arg("--overwrite-device").run().expect(0);
            assert_same(&dest.content(), &content[..END]);
        }
    }
}
