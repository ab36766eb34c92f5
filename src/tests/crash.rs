//! Processes that are killed and power that goes: at no moment does a file lie about being finished, and the same
//! command always ends the job.
//!
//! What the catalog calls completed is checked by the resume itself: it neither reads nor stats what is completed, so
//! an entry that was completed too early stays wrong and the comparison at the end finds it.
//!
//! `GFAST_KILLS`, `GFAST_CUTS`, `GFAST_PAIRS`, `GFAST_PAIR_KILLS` and `GFAST_LARGE_MIB` raise the counts for the soak.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use support::fixture::{Journal, can_mount, has, rebooted, set_mode, skip};
use support::{Comparison, Engine, Job, Kind, Mount, Outcome, Rng, Scratch, number, seed, tree};

/// Bytes between checkpoints: small, so that every stop finds some files finished, some not.
const CHECKPOINT_BYTES: u64 = 8 << 20;
/// Bytes that may be in flight beside a checkpoint: 32 streams of a block, and the read-ahead of the kernel.
const FLIGHT_BYTES: u64 = 48 << 20;

/// Most rounds that may pass without a process that was still running when its end came.
const ROUNDS_MAX: u64 = 10;

/// A source of small files, hard links, sparse files and a few large ones: about 250 MiB.
fn source(seed: u64) -> (Mount, PathBuf) {
    let mount = Mount::new(Kind::Ext4, 1024);
    let tree = mount.dir("tree");
    tree::mixed(&tree, seed, 1500);
    let at = tree::open_dir(&tree);
    for index in 0..5 {
        let name = std::ffi::CString::new(format!("large-{index}")).unwrap();
        tree::regular(&mut Rng::new(seed + index), &at, &name, (32 << 20) + index * 4097);
    }
    tree::pairs(&mount.dir("tree/pairs"), 300);
    mount.settle();
    (mount, tree)
}

fn job(tree: &Path, base: &Path, state: &Path, engine: Engine) -> Job {
    Job::new(tree, base.join("copy"), state.join("state"), engine)
        .arg("--checkpoint-bytes")
        .arg(CHECKPOINT_BYTES.to_string())
        .arg("--checkpoint-interval")
        .arg("1")
}

/// How long the job takes when nothing happens to it.
fn undisturbed(tree: &Path, kind: Kind, engine: Engine) -> Duration {
    let dest = Mount::new(kind, 1024);
    let outcome = job(tree, dest.path(), dest.path(), engine).run().expect(0);
    outcome.elapsed
}

fn random_moment(rng: &mut Rng, within: Duration) -> Duration {
    within.mul_f64(rng.below(10_000) as f64 / 10_000.0)
}

/// Whatever carries the source's mtime has the source's content. Returns files and bytes that do.
#[track_caller]
fn nothing_lies(tree: &Path, copy: &Path, outcome: &Outcome) -> (u64, u64) {
    if !copy.exists() {
        return (0, 0);
    }
    let report = Comparison::new(tree, copy).sealed_only().report();
    assert!(report.found.is_empty(), "sealed but wrong: {:#?}\n{outcome}", report.found);
    (report.files, report.bytes)
}

#[test]
fn a_job_killed_at_random_moments_resumes() {
    let test = "a_job_killed_at_random_moments_resumes";
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, 31);
    let mut rng = Rng::new(seed);
    let (_source, tree) = source(seed);
    for engine in Engine::all() {
        let whole = undisturbed(&tree, Kind::Xfs, engine);
        let kills = number("GFAST_KILLS", 4);
        let mut killed = 0;
        let mut partly = 0;
        while killed < kills {
            let dest = Mount::new(Kind::Xfs, 1024);
            let job = job(&tree, dest.path(), dest.path(), engine);
            // Up to three kills a round: on the first copy, and on the resumes.
            let (mut sealed, mut killed_before) = (0, false);
            for _ in 0..3 {
                let running = job.start();
                let alive = running.run_for(random_moment(&mut rng, whole));
                let outcome = running.kill();
                let (files, bytes) = nothing_lies(&tree, job.dest(), &outcome);
                assert!(
                    bytes + CHECKPOINT_BYTES >= sealed,
                    "{sealed} sealed bytes became {bytes}: a resume undid work"
                );
                println!("kill {killed}: alive {alive}, {files} files sealed, {bytes} bytes");
                sealed = bytes;
                killed_before |= alive;
                killed += u64::from(alive);
                partly += u64::from(alive && files > 0);
            }
            let outcome = job.run().expect(0);
            Comparison::new(&tree, job.dest()).assert_same();
            let again = outcome.number("bytes");
            let left = total_bytes(&tree) - sealed + CHECKPOINT_BYTES + FLIGHT_BYTES;
            assert!(!killed_before || again <= left, "{again} bytes copied, {left} were left: {outcome}");
        }
        println!("{partly} of {kills} kills left a partly sealed copy");
    }
}

fn total_bytes(tree: &Path) -> u64 {
    Comparison::new(tree, tree).present_only().report().bytes
}

#[test]
fn a_power_cut_on_xfs_loses_nothing_that_was_claimed() {
    power_cuts("a_power_cut_on_xfs_loses_nothing_that_was_claimed", Kind::Xfs, 32);
}

#[test]
fn a_power_cut_on_ext4_loses_nothing_that_was_claimed() {
    power_cuts("a_power_cut_on_ext4_loses_nothing_that_was_claimed", Kind::Ext4, 33);
}

/// Cuts the destination's power at random moments: every other time with the journal flushed (the worst case: names,
/// sizes and times survive data that was never written), every other pair with the catalog on the same file system.
fn power_cuts(test: &str, kind: Kind, seed_default: u64) {
    if !can_mount(test) {
        return;
    }
    if !has("xfs_io") {
        skip(test, "no xfs_io");
        return;
    }
    let seed = seed(test, seed_default);
    let mut rng = Rng::new(seed);
    let (_source, tree) = source(seed);
    for engine in Engine::all() {
        let whole = undisturbed(&tree, kind, engine);
        let (cuts, mut cut, mut tries) = (number("GFAST_CUTS", 4), 0, 0);
        while cut < cuts {
            // One that hits a copy that has ended is none.
            tries += 1;
            assert!(tries <= cuts + ROUNDS_MAX + cuts / 2, "{cut} cuts in {tries} tries");
            let journal = if cut % 2 == 0 { Journal::Flushed } else { Journal::Lost };
            let (dest, elsewhere) = (Mount::new(kind, 1024), Mount::new(Kind::Tmpfs, 256));
            let state = if cut % 4 < 2 { dest.path() } else { elsewhere.path() };
            let job = job(&tree, dest.path(), state, engine);
            let running = job.start();
            let alive = running.run_for(random_moment(&mut rng, whole));
            dest.cut_power(journal);
            // It meets EIO everywhere now; whatever it makes of that, it must not claim anything more.
            running.run_for(random_moment(&mut rng, Duration::from_millis(200)));
            let outcome = running.kill();
            dest.power_on();
            let (files, bytes) = nothing_lies(&tree, job.dest(), &outcome);
            println!("cut {cut}: {journal:?}, alive {alive}, {files} files sealed, {bytes} bytes");
            if outcome.code() == Some(0) {
                Comparison::new(&tree, job.dest()).assert_same();
            }
            job.run().expect(0);
            Comparison::new(&tree, job.dest()).assert_same();
            cut += u64::from(alive);
        }
    }
}

/// Hard-link pairs of which the process was killed between the first name and the second.
#[test]
fn hard_links_survive_kills() {
    let test = "hard_links_survive_kills";
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, 34);
    let mut rng = Rng::new(seed);
    let pairs = number("GFAST_PAIRS", 4000);
    let source = Mount::new(Kind::Ext4, 1024 + pairs / 100);
    let tree = source.dir("tree");
    tree::pairs(&tree, pairs as u32);
    for engine in Engine::all() {
        let whole = undisturbed(&tree, Kind::Xfs, engine);
        let (kills, mut killed) = (number("GFAST_PAIR_KILLS", 2), 0);
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "{killed} kills in {round} rounds");
            let dest = Mount::new(Kind::Xfs, 1024);
            let job = job(&tree, dest.path(), dest.path(), engine);
            // As many on one copy as there is time for: one that has ended is not killed.
            let mut alive = true;
            while alive && killed < kills {
                let running = job.start();
                alive = running.run_for(random_moment(&mut rng, whole / 2));
                let outcome = running.kill();
                nothing_lies(&tree, job.dest(), &outcome);
                killed += u64::from(alive);
            }
            job.run().expect(0);
            Comparison::new(&tree, job.dest()).assert_same();
            if killed >= kills {
                break;
            }
        }
    }
}

/// A large file killed at half is resumed inside: what is read afterwards is the other half and at most a checkpoint.
#[test]
fn a_large_file_is_resumed_inside() {
    let test = "a_large_file_is_resumed_inside";
    if !can_mount(test) {
        return;
    }
    let mib = number("GFAST_LARGE_MIB", 1024);
    let checkpoint = (mib << 20) / 16;
    let source = Mount::new(Kind::Ext4, mib + mib / 8 + 256);
    let tree = source.dir("tree");
    let at = tree::open_dir(&tree);
    tree::regular(&mut Rng::new(seed(test, 35)), &at, c"large", (mib << 20) + 12_345);
    for engine in Engine::all() {
        let dest = Mount::new(Kind::Xfs, mib + mib / 8 + 256);
        let job = Job::new(&tree, dest.join("copy"), dest.join("state"), engine)
            .arg("--checkpoint-bytes")
            .arg(checkpoint.to_string())
            .arg("--checkpoint-interval")
            .arg("1");
        source.settle();
        let running = job.start();
        let at_half = running.run_until(|io| io.write_bytes >= mib << 19);
        let outcome = running.kill();
        assert!(at_half, "it ended before half of the file was written: {outcome}");
        nothing_lies(&tree, job.dest(), &outcome);
        source.settle();
        job.load_program();
        let resumed = job.run().expect(0);
        let written = outcome.io.write_bytes.min(mib << 20);
        let allowed = (mib << 20) - written + checkpoint + FLIGHT_BYTES;
        let read = resumed.io.read_bytes;
        println!("killed after {written} bytes written; the resume read {read}, {allowed} allowed");
        assert!(read <= allowed, "{read} bytes read, {allowed} allowed: {resumed}");
        Comparison::new(&tree, job.dest()).assert_same();
    }
}

/// SIGTERM and SIGINT end the job within seconds, with exit 20 and the command that resumes it.
#[test]
fn a_signal_drains_and_the_job_resumes() {
    let test = "a_signal_drains_and_the_job_resumes";
    if !can_mount(test) {
        return;
    }
    let seed = seed(test, 36);
    let mut rng = Rng::new(seed);
    let (_source, tree) = source(seed);
    for engine in Engine::all() {
        let whole = undisturbed(&tree, Kind::Xfs, engine);
        for signal in [Signal::TERM, Signal::INT] {
            let dest = Mount::new(Kind::Xfs, 1024);
            let job = job(&tree, dest.path(), dest.path(), engine);
            let running = job.start();
            running.run_for(whole / 5 + random_moment(&mut rng, whole / 2));
            running.signal(signal);
            let ended = !running.run_for(Duration::from_secs(10));
            let outcome = running.wait().expect_one_of(&[20, 0]);
            assert!(ended, "still running 10 s after the signal: {outcome}");
            nothing_lies(&tree, job.dest(), &outcome);
            assert!(outcome.code() == Some(0) || outcome.says("--state-dir"), "no resume command: {outcome}");
            job.run().expect(0);
            Comparison::new(&tree, job.dest()).assert_same();
        }
    }
}

/// What `--sync none` has written is copied again after a reboot: by the resume of a run that the power cut short, and
/// by the pass after one that had ended.
#[test]
fn what_was_never_synced_is_made_again_after_a_reboot() {
    let test = "what_was_never_synced_is_made_again_after_a_reboot";
    if !can_mount(test) || !(has("xfs_io") || skip(test, "no xfs_io")) {
        return;
    }
    let scratch = Scratch::new();
    let tree = scratch.path().join("tree");
    for number in 0..40 {
        let dir = tree.join(format!("dir-{number}"));
        fs::create_dir_all(dir.join("empty")).unwrap();
        (0..10).for_each(|file| fs::write(dir.join(format!("file-{file}")), [number; 16 << 10]).unwrap());
        fs::hard_link(dir.join("file-0"), dir.join("linked")).unwrap();
        set_mode(&dir.join("empty"), 0o750);
    }
    for engine in Engine::all() {
        for (journal, is_whole) in [(Journal::Flushed, false), (Journal::Lost, false), (Journal::Lost, true)] {
            let (dest, state) = (Mount::new(Kind::Xfs, 512), Scratch::new());
            let job = Job::new(&tree, dest.join("copy"), state.path().join("state"), engine);
            let job = job.args(&["--sync", "none", "--checkpoint-interval", "0.2"]);
            let outcome = match is_whole {
                true => job.run().expect(0),
                false => {
                    let running = job.clone().args(&["--bwlimit", "2M", "--buffer-size", "64K"]).start();
                    let half = || fs::read_dir(job.dest()).map_or(0, Iterator::count) > 20;
                    assert!(running.run_until(|_| half()), "it was too fast");
                    running.kill()
                }
            };
            dest.cut_power(journal);
            dest.power_on();
            let lost = Comparison::new(&tree, job.dest()).report().found.len();
            assert!(lost > 40, "nothing was lost: {outcome}");
            let job = job.within(&rebooted(&scratch, &[&dest]));
            // A retry looks at what failed alone, and would leave what is lost for done.
            let refused = job.clone().args(&["--retry-failed"]).run().expect(2);
            let reason = if is_whole { "was never synced" } else { "was interrupted" };
            assert!(refused.stderr.contains(reason), "{refused}");
            let told = job.clone().args(&["--dry-run"]).run().expect(0);
            assert!(is_whole || !told.stdout.contains("listed before"), "{told}");
            let again = job.run().expect(0);
            println!("{journal:?}, whole {is_whole}: {lost} were wrong\n{again}");
            Comparison::new(&tree, job.dest()).assert_same();
        }
    }
}
