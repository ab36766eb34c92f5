//! Block devices, as source and destination: copied, resumed, verified, and refused wherever data could be lost.
//! `block/refusals.rs` what is refused; `block/copies.rs` what arrives; `block/damage.rs` kills and bad sectors;
//! `block/renamed.rs` devices under other names; `block/disks.rs` disks that are hard to tell apart; `block/bucket.rs`
//! devices held against objects; `block/power.rs` power cuts; `block/signatures.rs` what a destination may carry;
//! `block/used.rs` copies that are used before the job goes on.

mod support;

#[path = "block/bucket.rs"]
mod bucket;
#[path = "block/copies.rs"]
mod copies;
#[path = "block/damage.rs"]
mod damage;
#[path = "block/disks.rs"]
mod disks;
#[path = "block/power.rs"]
mod power;
#[path = "block/refusals.rs"]
mod refusals;
#[path = "block/renamed.rs"]
mod renamed;
#[path = "block/signatures.rs"]
mod signatures;
#[path = "block/used.rs"]
mod used;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::block::Loop;
use support::fault::FaultServer;
use support::{Engine, Job, Rng, seed};

/// A device of `mib` MiB: a quarter of noise, a quarter of zeros, and so on, each part of another length.
fn noisy(mib: u64, seed: u64) -> Loop {
    let device = Loop::new(mib << 20);
    let mut rng = Rng::new(seed);
    let mut at = 0;
    while at < mib << 20 {
        let len = (rng.below(96 << 10) & !511).min((mib << 20) - at) + 512;
        let mut bytes = vec![0; len.min((mib << 20) - at) as usize];
        if rng.below(2) == 0 {
            rng.fill(&mut bytes);
            device.write(at, &bytes);
        }
        at += len;
    }
    device
}

/// A job with the bucket `bucket` of a fault server at one end.
fn bucket_job(server: &FaultServer, from: impl Into<PathBuf>, to: impl Into<PathBuf>, state: &Path) -> Job {
    Job::new(from, to, state, Engine::Auto)
        .env("AWS_ACCESS_KEY_ID", "AKIAFAULT")
        .env("AWS_SECRET_ACCESS_KEY", "canary-secret-41c0")
        .args(&["--endpoint-url", &server.endpoint(), "--region", "us-east-1"])
}

/// A fault server with that bucket.
fn fault_server(test: &str, default: u64) -> FaultServer {
    let server = FaultServer::start(seed(test, default));
    server.make_bucket("bucket");
    server
}

/// `gfast verify`: its exit code, and all it said.
fn verify(source: Option<&Path>, dest: &Path, more: &[&str]) -> (Option<i32>, String) {
    verify_by(source, dest, more, &[])
}

/// Likewise, with variables of its environment.
fn verify_by(source: Option<&Path>, dest: &Path, more: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    command.arg("verify").arg("-dest").arg(dest).args(more).envs(variables.iter().copied());
    if let Some(source) = source {
        command.arg("-source").arg(source);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

/// Panics without printing megabytes.
#[track_caller]
fn assert_same(found: &[u8], expected: &[u8]) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(differs.is_none(), "byte {differs:?} differs");
    assert_eq!(found.len(), expected.len());
}
