//! A dry run and a report read a job's state: they refuse what a run refuses, and change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
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

#[test]
fn the_first_signal_ends_a_report() {
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    (0..3_000).for_each(|nth| fs::write(source.join(format!("{nth:0>100}")), "").unwrap());
    Job::new(&source, scratch.path().join("dest"), scratch.path().join("state"), Engine::Sync).run().expect(0);
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.args(["report", "-format", "ndjson", "-state-dir"]).arg(scratch.path().join("state"));
        // Nobody reads: it waits for the pipe.
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut waits = 0;
        let is_waiting = |child: &std::process::Child| {
            let state = fs::read_to_string(format!("/proc/{}/wchan", child.id())).unwrap_or_default();
            state.contains("pipe")
        };
        while !is_waiting(&child) && waits < 500 {
            waits += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        for _ in 0..500 {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let ended = child.try_wait().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(ended.and_then(|status| status.code()), Some(20), "{signal:?}");
    }
}

#[test]
fn a_report_of_a_deep_tree_takes_little_memory() {
    let scratch = Scratch::new();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut at = rustix::fs::open(&source, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..3_000 {
        rustix::fs::mkdirat(&at, "twenty-bytes-of-name", rustix::fs::Mode::RWXU).unwrap();
        let below =
            rustix::fs::openat(&at, "twenty-bytes-of-name", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty());
        at = below.unwrap();
    }
    Job::new(&source, scratch.path().join("dest"), scratch.path().join("state"), Engine::Sync).run().expect(0);
    // Paths of all levels at once are 94 MB; the program with its map and buffers takes less than half of that.
    let script = "import resource, subprocess, sys\n\
                  code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)\n\
                  print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_gfast")).args(["report", "-state-dir"]);
    let output = match python.arg(scratch.path().join("state")).output() {
        Ok(output) => output,
        Err(error) => {
            support::fixture::skip("a_report_of_a_deep_tree_takes_little_memory", &error.to_string());
            return;
        }
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let [code, kib]: [u64; 2] =
        text.split_whitespace().map(|n| n.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    assert!(code == 0 && kib < 70_000, "exit {code}, {kib} KiB");
}
