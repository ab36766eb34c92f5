//! A dry run and a report read a job's state: they refuse what a run refuses, and change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Engine, Job, Scratch};

mod support;

/// A finished job, and where it is.
fn finished(scratch: &Scratch, name: &str, engine: Engine) -> Job {
    let dir = scratch.path().join(name);
    fs::create_dir_all(dir.join("source")).unwrap();
    ["f", "g"].iter().for_each(|name| fs::write(dir.join("source").join(name), name).unwrap());
    let job = Job::new(dir.join("source"), dir.join("dest"), dir.join("state"), engine);
    job.run().expect(0);
    job
}

/// What lies in a state directory: content and times.
fn state_of(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(dir).unwrap().flatten().map(|folder| folder.path()) {
        for file in fs::read_dir(&folder).into_iter().flatten().flatten().map(|file| file.path()) {
            let stat = fs::metadata(&file).unwrap();
            found.insert(file.clone(), (fs::read(&file).unwrap(), stat.mtime(), stat.mtime_nsec()));
        }
    }
    found
}

#[test]
fn a_dry_run_is_refused_as_the_run_is() {
    let scratch = Scratch::new();
    for engine in Engine::all() {
        let at = |name: &str| scratch.path().join(format!("{engine:?}-{name}"));
        for option in ["-exclude=g", "-xattrs", "-no-metadata", "-one-file-system"] {
            let job = finished(&scratch, &format!("{engine:?}-{}", &option[1..]), engine);
            job.clone().arg("-dry-run").run().expect(0);
            let refused = job.clone().args(&[option, "-dry-run"]).run().expect(2);
            assert!(refused.says("other options") && refused.stdout.is_empty(), "{refused}");
            job.arg(option).run().expect(2);
        }
        for (end, words) in [("dest", "the destination is not the one"), ("source", "the source is not the one")] {
            let job = finished(&scratch, &format!("{engine:?}-{end}"), engine);
            fs::rename(at(end).join(end), at(end).join("away")).unwrap();
            fs::create_dir(at(end).join(end)).unwrap();
            let refused = job.clone().args(&["-dry-run", "-force-delete"]).run().expect(2);
            assert!(refused.says(words) && refused.stdout.is_empty(), "{refused}");
            job.arg("-force-delete").run().expect(2);
        }
        let job = finished(&scratch, &format!("{engine:?}-gone"), engine);
        fs::remove_dir_all(job.dest()).unwrap();
        job.clone().arg("-dry-run").run().expect(2);
        assert!(!job.dest().exists());
    }
}

#[test]
fn who_reads_a_state_changes_nothing_in_it() {
    let scratch = Scratch::new();
    let job = finished(&scratch, "read", Engine::Sync);
    let state = scratch.path().join("read/state");
    let before = state_of(&state);
    job.clone().args(&["-dry-run", "-delete"]).run().expect(0);
    let gfast = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        let output = command.args(words).arg("-state-dir").arg(&state).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    gfast(&["report", "-format", "csv"]);
    gfast(&["verify", "-dest", job.dest().to_str().unwrap()]);
    assert!(state_of(&state) == before, "the state is another one now");
    job.run().expect(0);
}

#[test]
fn a_folder_without_a_job_is_in_nobodys_way() {
    let scratch = Scratch::new();
    let job = finished(&scratch, "one", Engine::Sync);
    let state = scratch.path().join("one/state");
    let other = state.join("job-0123456789abcdef");
    fs::create_dir(&other).unwrap();
    let report = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.arg("report").args(words).arg("-state-dir").arg(&state).output().unwrap()
    };
    assert!(report(&[]).status.success() && report(&["-dest", job.dest().to_str().unwrap()]).status.success());
    // Where nothing else is it, the damage is told.
    let output = report(&["-dest", "/elsewhere"]);
    assert!(
        output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("damaged"),
        "{output:?}"
    );
}
