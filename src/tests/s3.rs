//! Copies to, from and between buckets, as a user runs them: against s3s-fs, which checks signatures and checksums, and
//! against the fault server, which counts and breaks.
//!
//! `s3/directions.rs` trees both ways and across; `s3/refusals.rs` what bad input gets; `s3/faults.rs` servers and
//! wires that fail; `s3/lies.rs` servers and metadata that say what is not so; `s3/resume.rs` kills and what they
//! cost; `s3/uploads.rs` uploads that nothing goes on with; `s3/verify.rs` comparisons; `s3/rehearsal.rs` what a dry
//! run says; `s3/delete.rs` what goes from a destination; `s3/stale.rs` mounts that become stale; `s3/streamed.rs`
//! parts that fit no buffer; `s3/circles.rs` memory and places that are wanted at once; `s3/tls.rs` whose certificate
//! is believed; `s3/xattrs.rs` extended attributes and ACLs; `s3/credentials.rs` where keys come from; `s3/headers.rs`
//! what objects are stored with beside their content; `s3/identity.rs` which bucket of which server a job is about;
//! `s3/links.rs` names of one file and their objects; `s3/again.rs` refused keys in the runs that follow;
//! `s3/copies.rs` parts that the server copies by itself.

mod support;

#[path = "s3/again.rs"]
mod again;
#[path = "s3/circles.rs"]
mod circles;
#[path = "s3/copies.rs"]
mod copies;
#[path = "s3/credentials.rs"]
mod credentials;
#[path = "s3/delete.rs"]
mod delete;
#[path = "s3/directions.rs"]
mod directions;
#[path = "s3/faults.rs"]
mod faults;
#[path = "s3/headers.rs"]
mod headers;
#[path = "s3/identity.rs"]
mod identity;
#[path = "s3/lies.rs"]
mod lies;
#[path = "s3/links.rs"]
mod links;
#[path = "s3/refusals.rs"]
mod refusals;
#[path = "s3/rehearsal.rs"]
mod rehearsal;
#[path = "s3/resume.rs"]
mod resume;
#[path = "s3/stale.rs"]
mod stale;
#[path = "s3/streamed.rs"]
mod streamed;
#[path = "s3/tls.rs"]
mod tls;
#[path = "s3/uploads.rs"]
mod uploads;
#[path = "s3/verify.rs"]
mod verify;
#[path = "s3/xattrs.rs"]
mod xattrs;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use support::fault::FaultServer;
use support::s3::S3sFs;
use support::{Engine, Job, Rng, Scratch};

/// The access key the fault server knows.
const ACCESS_KEY: &str = "AKIAFAULT";
/// What must never be seen anywhere.
const SECRET_KEY: &str = "canary/secret+0123456789abcdefghijklmnop";
/// Bytes of a part in these tests: the least that S3 takes.
const PART_BYTES: u64 = 5 << 20;

/// A directory for both ends and the state of one job.
struct Scene {
    scratch: Scratch,
    endpoint: String,
    access_key: String,
    secret_key: String,
    engine: Engine,
}

impl Scene {
    /// For jobs with the fault server.
    fn new(server: &FaultServer, engine: Engine) -> Scene {
        Scene::with(server.endpoint(), ACCESS_KEY, SECRET_KEY, engine)
    }

    /// For jobs with s3s-fs.
    fn with_s3s(server: &S3sFs, engine: Engine) -> Scene {
        Scene::with(server.endpoint(), server.access_key(), server.secret_key(), engine)
    }

    fn with(endpoint: String, access_key: &str, secret_key: &str, engine: Engine) -> Scene {
        let (access_key, secret_key) = (access_key.to_owned(), secret_key.to_owned());
        Scene { scratch: Scratch::new(), endpoint, access_key, secret_key, engine }
    }

    /// A path that nothing has made yet.
    fn join(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A new directory.
    fn dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// A job between two locations, with the server's credentials and nobody else's.
    fn job(&self, source: impl Into<PathBuf>, dest: impl Into<PathBuf>, state: &str) -> Job {
        self.job_in_parts(source, dest, state, PART_BYTES)
    }

    /// The same with parts of another size.
    fn job_in_parts(&self, source: impl Into<PathBuf>, dest: impl Into<PathBuf>, state: &str, part_bytes: u64) -> Job {
        let job = Job::new(source, dest, self.join(state), self.engine);
        job.env("AWS_ACCESS_KEY_ID", &self.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret_key)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", self.scratch.path())
            .arg(format!("--endpoint-url={}", self.endpoint))
            .arg(format!("--part-size={part_bytes}"))
    }
}

/// A fault server with an empty bucket `b`.
fn fault_server(seed: u64) -> FaultServer {
    let server = FaultServer::start(seed);
    server.make_bucket("b");
    server
}

/// A tree that every S3 server can hold: nested and empty directories, modes, owners, times with nanoseconds, symlinks,
/// hard links, empty files, one file of `large` bytes.
fn plain_tree(root: &Path, seed: u64, files: u32, large: u64) {
    let mut rng = Rng::new(seed);
    let dirs = ["", "a", "a/b", "a/b/c", "with space", "\u{e4}\u{4e16}"].map(|name| root.join(name));
    dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
    fs::create_dir(root.join("empty")).unwrap();
    for index in 0..files {
        let path = dirs[index as usize % dirs.len()].join(format!("file-{index}"));
        let size = rng.pick(&[0, 1, 4096, 65_537, 300_000]);
        noise(&path, &mut rng, size);
        fs::set_permissions(&path, fs::Permissions::from_mode(rng.pick(&[0o644, 0o600, 0o755, 0o440]))).unwrap();
    }
    if large > 0 {
        noise(&root.join("a/large"), &mut rng, large);
    }
    symlink("b/../file-1", root.join("a/link")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    fs::hard_link(root.join("file-0"), root.join("a/b/hard")).unwrap();
    // Times last, deepest first: making entries changes those of directories.
    for dir in dirs.iter().rev().chain([&root.join("empty")]) {
        date(dir, &mut rng);
    }
}

/// A file of `size` random bytes with a time of its own.
fn noise(path: &Path, rng: &mut Rng, size: u64) {
    let file = File::create(path).unwrap();
    let mut block = vec![0; 1 << 20];
    for offset in (0..size).step_by(1 << 20) {
        let len = (size - offset).min(1 << 20) as usize;
        rng.fill(&mut block[..len]);
        file.write_all_at(&block[..len], offset).unwrap();
    }
    date(path, rng);
}

/// A time in the years 2001 to 2017, to the nanosecond.
fn date(path: &Path, rng: &mut Rng) {
    let time = UNIX_EPOCH + Duration::new(1_000_000_000 + rng.below(500_000_000), rng.below(1_000_000_000) as u32);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// Bytes of all regular files below `dir`.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let stat = fs::symlink_metadata(&path).unwrap();
            if stat.is_dir() { bytes_below(&path) } else { stat.size() }
        })
        .sum()
}
