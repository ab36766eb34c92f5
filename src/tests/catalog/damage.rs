//! Damage: every broken catalog is refused with the way out, or answers what it answered before. It never kills the
//! process.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Random, Scratch, dump, identity, open, random_batch, refusal};
use gfast::catalog::{Catalog, JobIdentity};
use gfast::error::Error;

const PAGE_BYTES: u64 = 4096;
const EXIT_SAME: i32 = 0;
const EXIT_REFUSED: i32 = 40;
const EXIT_DIFFERENT: i32 = 41;

/// A catalog after some batches, closed; what it answers.
fn build(state: &Path, random: &mut Random) -> (PathBuf, String) {
    let catalog = open(state).unwrap();
    for _ in 0..6 {
        catalog.commit(&random_batch(random, &catalog.header(), 1500)).unwrap();
    }
    (catalog.path().to_owned(), dump(&catalog).unwrap())
}

#[test]
fn damaged_files_are_refused_or_answer_right() {
    let scratch = Scratch::new("damage");
    let seed = 0x0123_4567_89ab_cdef;
    eprintln!("seed {seed:#x}");
    let mut random = Random(seed);
    let (folder, expected) = build(&scratch.state(), &mut random);
    let data = fs::read(folder.join("data.mdb")).unwrap();
    let expected_path = scratch.0.join("expected");
    fs::write(&expected_path, expected).unwrap();
    let (mut same, mut refused) = (0, 0);
    for turn in 0..200 {
        fs::write(folder.join("data.mdb"), &data).unwrap();
        let what = damage(&folder.join("data.mdb"), turn % 6, &mut random);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "damage::child_reads_a_damaged_catalog", "--nocapture"])
            .env("GFAST_TEST_STATE", scratch.state())
            .env("GFAST_TEST_EXPECTED", &expected_path)
            .output()
            .unwrap();
        match output.status.code() {
            Some(EXIT_SAME) => same += 1,
            Some(EXIT_REFUSED) => refused += 1,
            _ => panic!("turn {turn}, {what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }
    eprintln!("{refused} refused, {same} answered right");
    assert!(refused > 60, "{refused} of 200 refused: the damage misses the catalog");
    assert!(same > 0, "nothing was ever answered: the catalog refuses everything");
}

/// Breaks the file one way; says how.
fn damage(path: &Path, way: u64, random: &mut Random) -> String {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let at = random.below(len);
    let page = random.below(len / PAGE_BYTES) * PAGE_BYTES;
    match way {
        0 => {
            file.set_len(at).unwrap();
            format!("cut to {at} of {len} bytes")
        }
        1 => {
            let count = (1 + random.below(20_000)).min(len - at);
            file.write_all_at(&vec![0; count as usize], at).unwrap();
            format!("{count} zeros at {at}")
        }
        2 => flip(&file, at, random),
        3 => flip(&file, page + random.below(64), random),
        4 => flip(&file, random.below(2) * PAGE_BYTES + random.below(160), random),
        _ => {
            let garbage: Vec<u8> = (0..PAGE_BYTES).map(|_| random.below(256) as u8).collect();
            file.write_all_at(&garbage, page).unwrap();
            format!("garbage in the page at {page}")
        }
    }
}

fn flip(file: &File, at: u64, random: &mut Random) -> String {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    let bit = random.below(8);
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
    format!("bit {bit} of byte {at} flipped")
}

/// Reads all and commits once more, as a run would.
#[test]
#[ignore = "the process that damaged_files_are_refused_or_answer_right starts"]
fn child_reads_a_damaged_catalog() {
    let state = PathBuf::from(std::env::var_os("GFAST_TEST_STATE").unwrap());
    let expected = fs::read_to_string(std::env::var_os("GFAST_TEST_EXPECTED").unwrap()).unwrap();
    let answer = open(&state).and_then(|catalog| {
        let first = dump(&catalog)?;
        catalog.commit(&random_batch(&mut Random(7), &catalog.header(), 1000))?;
        dump(&catalog)?;
        Ok(first)
    });
    std::process::exit(match answer {
        Ok(text) if text == expected => EXIT_SAME,
        Ok(_) => EXIT_DIFFERENT,
        Err(error) if names_the_way_out(&error, &state) => EXIT_REFUSED,
        Err(error) => panic!("a message without a way out: {error}"),
    });
}

fn names_the_way_out(error: &Error, state: &Path) -> bool {
    let text = error.to_string();
    text.contains(state.to_str().unwrap()) && text.contains("damaged") && text.contains("remove this folder")
}

#[test]
fn a_missing_file_is_damage() {
    let scratch = Scratch::new("missing");
    let (folder, _) = build(&scratch.state(), &mut Random(3));
    for name in ["data.mdb", "job"] {
        let bytes = fs::read(folder.join(name)).unwrap();
        fs::remove_file(folder.join(name)).unwrap();
        assert!(refusal(open(&scratch.state())).contains("damaged"));
        fs::write(folder.join(name), "").unwrap();
        assert!(refusal(open(&scratch.state())).contains("damaged"));
        fs::write(folder.join(name), bytes).unwrap();
    }
    fs::remove_file(folder.join("lock.mdb")).unwrap();
    open(&scratch.state()).unwrap();
}

#[test]
fn data_of_another_job_is_damage() {
    let scratch = Scratch::new("swapped");
    let (folder, _) = build(&scratch.state(), &mut Random(3));
    let other = JobIdentity { dest: b"/elsewhere".to_vec(), ..identity() };
    let other = Catalog::open(&scratch.state(), &other, false).unwrap().path().to_owned();
    fs::copy(other.join("data.mdb"), folder.join("data.mdb")).unwrap();
    assert!(refusal(open(&scratch.state())).contains("different jobs"));
}

#[test]
fn a_newer_format_is_refused_without_being_called_damaged() {
    let scratch = Scratch::new("newer");
    let (folder, _) = build(&scratch.state(), &mut Random(3));
    let job = fs::read_to_string(folder.join("job")).unwrap();
    let newer = job.replace("format=2", "format=3");
    assert_ne!(newer, job);
    fs::write(folder.join("job"), newer).unwrap();
    let text = refusal(open(&scratch.state()));
    assert!(text.contains("newer gfast") && !text.contains("damaged"), "{text}");
}

#[test]
fn a_folder_that_was_being_made_is_made_again() {
    let scratch = Scratch::new("half-made");
    let made = open(&scratch.state()).unwrap();
    let (folder, first) = (made.path().to_owned(), made.header());
    drop(made);
    let half_made = PathBuf::from(folder.to_str().unwrap().replace("/job-", "/new-"));
    fs::rename(&folder, &half_made).unwrap();
    let data = fs::read(half_made.join("data.mdb")).unwrap();
    // As a process leaves them that dies before the rename: with the job file, and before that with less and less.
    for (has_job, data) in [(true, &data[..]), (false, &data[..]), (false, &data[..5000]), (false, &[])] {
        if !has_job {
            let _ = fs::remove_file(half_made.join("job"));
        }
        fs::write(half_made.join("data.mdb"), data).unwrap();
        let catalog = open(&scratch.state()).unwrap();
        assert_ne!(catalog.header().job_id, first.job_id);
        assert!(!half_made.exists());
        drop(catalog);
        fs::rename(&folder, &half_made).unwrap();
    }
}
