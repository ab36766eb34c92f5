//! s3s-fs as a program, for `scripts/bench`: the same server for gfast and its rivals.
//!
//! `s3server DIR` keeps its buckets below DIR; prints `ENDPOINT ACCESS_KEY SECRET_KEY` and serves until it is
//! killed.

#[path = "../src/tests/support/s3.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod s3;

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: s3server DIR")?);
    let server = s3::S3sFs::start(&dir);
    println!("{} {} {}", server.endpoint(), server.access_key(), server.secret_key());
    loop {
        std::thread::park();
    }
}
