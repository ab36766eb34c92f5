//! Kills: a process that dies at any point of its commits leaves the last acknowledged one, whole.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Random, Scratch, dump, open, random_batch};

const SEED: u64 = 0xfeed_5eed_0000_0001;
const ROWS: u64 = 400;

#[test]
fn killed_commits_leave_the_last_one_whole() {
    eprintln!("seed {SEED:#x}");
    let mut random = Random(SEED);
    let scratch = Scratch::new("kills");
    let model = Scratch::new("kills-model");
    let modelled = open(&model.state()).unwrap();
    for turn in 0..15 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "kills::child_commits_until_it_is_killed", "--nocapture"])
            .env("GFAST_TEST_STATE", scratch.state())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // The first output is that of the test harness; every further line is one acknowledged batch.
        let acknowledged = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let acknowledged = acknowledged.filter_map(|line| line.strip_prefix("batch ")?.parse::<u64>().ok());
        let last = acknowledged.take(1 + random.below(12) as usize).last();
        child.kill().unwrap();
        child.wait().unwrap();

        let catalog = open(&scratch.state()).unwrap();
        let reached = catalog.header().durable_batch;
        assert!(Some(reached) >= last, "turn {turn}: batch {last:?} was acknowledged, {reached} is there");
        while modelled.header().durable_batch < reached {
            commit_next(&modelled);
        }
        let same_job = |text: String| text.split_once("pass: ").map(|(_, rest)| rest.to_owned());
        assert_eq!(same_job(dump(&catalog).unwrap()), same_job(dump(&modelled).unwrap()), "turn {turn}");
    }
}

/// Commits the batch that follows: always the same one after the same number of batches.
fn commit_next(catalog: &gfast::catalog::Catalog) {
    let header = catalog.header();
    let mut random = Random(SEED ^ (header.durable_batch + 1));
    catalog.commit(&random_batch(&mut random, &header, ROWS)).unwrap();
}

#[test]
#[ignore = "the process that killed_commits_leave_the_last_one_whole starts and kills"]
fn child_commits_until_it_is_killed() {
    let catalog = open(&PathBuf::from(std::env::var_os("GFAST_TEST_STATE").unwrap())).unwrap();
    println!();
    loop {
        commit_next(&catalog);
        println!("batch {}", catalog.header().durable_batch);
        std::io::stdout().flush().unwrap();
    }
}
