//! A full file system under the state directory: the commit fails, says so, and what was committed before stays.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::{Random, Scratch, dump, open, random_batch};

/// A tmpfs of 3 MiB, unmounted when the test ends.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn mount(path: PathBuf) -> Option<SmallFileSystem> {
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "gfast-test"]).arg(&path).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallFileSystem(path))
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: a process that another test is just starting may hold a copy of a descriptor until its exec.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_file_system_ends_a_commit_and_nothing_else() {
    let scratch = Scratch::new("full");
    let Some(small) = SmallFileSystem::mount(scratch.0.join("small")) else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    fs::set_permissions(&small.0, fs::Permissions::from_mode(0o700)).unwrap();
    let catalog = open(&small.0).unwrap();
    let mut random = Random(5);
    let (before, error) = loop {
        let before = dump(&catalog).unwrap();
        // Far more than the file system holds in the end: the loop ends at the first that does not fit.
        if let Err(error) = catalog.commit(&random_batch(&mut random, &catalog.header(), 3000)) {
            break (before, error);
        }
        fs::write(small.0.join(format!("filler-{}", random.below(u64::MAX))), vec![1; 100_000]).unwrap_or_default();
    };
    assert!(error.to_string().contains("is full"), "{error}");
    assert_eq!(dump(&catalog).unwrap(), before);
    drop(catalog);
    for entry in fs::read_dir(&small.0).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("filler") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let catalog = open(&small.0).unwrap();
    assert_eq!(dump(&catalog).unwrap(), before);
    catalog.commit(&random_batch(&mut random, &catalog.header(), 10)).unwrap();
}
