//! Power cuts below a destination device: what the catalog calls finished is there.
//!
//! This kernel has no device mapper, so the device is a loop device, and the power of the file system that holds its
//! image is cut: what no fsync has reached is gone, as from a disk's write cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::support::block::Loop;
use super::support::fixture::{Journal, can_mount, has, must, skip, traced};
use super::support::{Engine, Job, Kind, Mount, Rng, Scratch, seed};
use super::{assert_same, noisy};

const MIB: u64 = 40;

/// A device whose power can be cut. Declared in the order in which its parts have to go.
struct Fragile {
    device: Option<Loop>,
    disk: Mount,
    /// A name that stays the same whatever loop device it is.
    name: PathBuf,
    scratch: Scratch,
}

impl Fragile {
    fn new(kind: Kind) -> Fragile {
        let (disk, scratch) = (Mount::new(kind, 512), Scratch::new());
        let image = disk.join("image");
        std::fs::File::create(&image).unwrap().set_len(MIB << 20).unwrap();
        must(Command::new("sync").arg("-f").arg(&image));
        let name = scratch.path().join("disk");
        let mut fragile = Fragile { device: None, disk, name, scratch };
        fragile.attach();
        fragile
    }

    fn attach(&mut self) {
        let device = Loop::over(&self.disk.join("image"), &[]);
        let _ = std::fs::remove_file(&self.name);
        device.make_node(&self.name);
        self.device = Some(device);
    }

    fn device(&self) -> &Loop {
        self.device.as_ref().unwrap()
    }

    /// Runs a job until the power goes, and a moment longer if it `survives`: whatever it makes of EIO everywhere, it
    /// must not claim anything more.
    fn cut(&mut self, job: &Job, after: Duration, journal: Journal, survives: bool) {
        let running = job.start();
        assert!(running.run_for(after), "it was too fast");
        match survives {
            true => {
                self.disk.cut_power(journal);
                running.run_for(Duration::from_millis(200));
                running.kill();
            }
            false => {
                running.kill();
                self.disk.cut_power(journal);
            }
        }
        self.device = None;
        self.disk.power_on();
        self.attach();
    }

    fn job(&self, source: &Path, engine: Engine) -> Job {
        Job::new(source, &self.name, self.scratch.path().join("state"), engine)
    }
}

fn slowed(job: &Job) -> Job {
    job.clone().args(&["--bwlimit", "16M", "--checkpoint-interval", "0.1", "--buffer-size", "256K"])
}

#[test]
fn a_power_cut_takes_nothing_that_was_claimed_of_a_device() {
    let test = "a_power_cut_takes_nothing_that_was_claimed_of_a_device";
    if !can_mount(test) || !(has("xfs_io") || skip(test, "no xfs_io")) {
        return;
    }
    let mut rng = Rng::new(seed(test, 51));
    let source = noisy(MIB, rng.below(1 << 32));
    let expected = source.content();
    for engine in Engine::all() {
        for (kind, journal) in [(Kind::Xfs, Journal::Lost), (Kind::Ext4, Journal::Flushed)] {
            let mut dest = Fragile::new(kind);
            let job = dest.job(source.path(), engine);
            for round in 0..2 {
                let after = Duration::from_millis(500 + rng.below(500));
                dest.cut(&slowed(&job), after, journal, round == 0);
            }
            let lost = dest.device().content().iter().zip(&expected).filter(|(a, b)| a != b).count();
            let outcome = job.run().expect(0);
            assert!(outcome.number("bytes") < MIB << 20, "nothing had been claimed: {outcome}");
            println!("{kind:?}: {lost} bytes were not there, {} copied", outcome.number("bytes"));
            assert_same(&dest.device().content(), &expected);
        }
    }
}

/// The same where fsync does nothing and says that it did: the cut takes what was claimed, and that is found out.
#[test]
fn a_device_that_lies_about_fsync_is_found_out() {
    let test = "a_device_that_lies_about_fsync_is_found_out";
    if !can_mount(test) || !(has("xfs_io") || skip(test, "no xfs_io")) || !(has("strace") || skip(test, "no strace")) {
        return;
    }
    let source = noisy(MIB, 52);
    // What its copy begins with is not what an empty device begins with.
    source.write(0, &[7; 4096]);
    let mut dest = Fragile::new(Kind::Xfs);
    let job = dest.job(source.path(), Engine::Sync);
    let lying = traced(&dest.scratch, "-D -o /dev/null -e trace=fsync -e inject=fsync:retval=0");
    dest.cut(&slowed(&job).within(&lying), Duration::from_millis(1500), Journal::Lost, false);
    let outcome = job.run().expect(2);
    assert!(outcome.says("does not hold any more"), "{outcome}");
}
