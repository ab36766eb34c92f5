//! `gfast tune`: what it tells, what becomes of it, and that nothing is left of it however it ends.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::s3::S3sFs;
use support::{Comparison, Engine, Job, Outcome, Rng, Scratch};

/// Longest time anything here waits for.
const LIMIT: Duration = Duration::from_secs(120);

/// A source of small files and a large one, a destination with something in it, and places for all that a tune may
/// touch besides.
struct Scene {
    scratch: Scratch,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { scratch: Scratch::new() };
        let mut rng = Rng::new(1);
        for dir in 0..4 {
            let dir = scene.path(&format!("source/dir-{dir}"));
            fs::create_dir_all(&dir).unwrap();
            (0..40).for_each(|file| noise(&mut rng, &dir.join(format!("file-{file}")), 3000));
        }
        noise(&mut rng, &scene.path("source/large"), 40 << 20);
        symlink("large", scene.path("source/link")).unwrap();
        fs::create_dir_all(scene.path("dest/kept")).unwrap();
        fs::write(scene.path("dest/kept/file"), "kept").unwrap();
        fs::create_dir(scene.path("tmp")).unwrap();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// `gfast tune` from the source to `dest`, with what it may touch in this scene.
    fn command(&self, dest: &str, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
        command.args(["tune", "--source"]).arg(self.path("source")).arg("--dest").arg(dest).arg("--state-dir");
        command.arg(self.path("state")).args(words).env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        command
    }

    fn tune(&self, words: &[&str]) -> Output {
        self.command(self.path("dest").to_str().unwrap(), words).output().unwrap()
    }

    /// A job between the same two, with its state beside the profiles.
    fn job(&self, words: &[&str]) -> Outcome {
        let job = Job::new(self.path("source"), self.path("dest"), self.path("state"), Engine::Auto);
        words.iter().fold(job, |job, word| job.arg(word)).run().expect(0)
    }

    /// All that is there but the state: names, and what would tell that somebody wrote.
    fn listing(&self) -> BTreeMap<PathBuf, [i64; 7]> {
        let mut listing = BTreeMap::new();
        let mut dirs: Vec<PathBuf> = ["source", "dest", "tmp"].iter().map(|name| self.path(name)).collect();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let stat = fs::symlink_metadata(&path).unwrap();
                let facts =
                    [stat.ino() as i64, stat.mode().into(), stat.size() as i64, stat.mtime(), stat.mtime_nsec()];
                let [ino, mode, size, secs, nanos] = facts;
                // The time of the last read is nobody's to keep who may not.
                let changed = [stat.ctime(), stat.ctime_nsec()];
                listing.insert(path.clone(), [ino, mode, size, secs, nanos, changed[0], changed[1]]);
                if stat.is_dir() {
                    dirs.push(path);
                }
            }
        }
        listing
    }

    /// The scratch folder of the tune that runs, once an experiment is under way in it.
    fn wait_for_scratch(&self) -> PathBuf {
        wait_until("a scratch folder", || {
            let scratch = names(&self.path("dest")).into_iter().find(|name| name.starts_with(".gfast-tune-"))?;
            let scratch = self.path("dest").join(scratch);
            names(&scratch).iter().any(|name| name.starts_with("run-")).then_some(scratch)
        })
    }
}

fn noise(rng: &mut Rng, path: &Path, len: usize) {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let listed = fs::read_dir(dir).into_iter().flatten().flatten();
    listed.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Waits until something is there.
fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Some(found) => return found,
            None if started.elapsed() > LIMIT => panic!("{what}: not within {LIMIT:?}"),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn findings(output: &Output) -> Value {
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)))
}

/// The rows of one kind and knob.
fn rows<'v>(findings: &'v Value, kind: &str, knob: &str) -> Vec<&'v Value> {
    let rows = findings["rows"].as_array().unwrap().iter();
    rows.filter(|row| row["kind"] == kind && row["knob"] == knob).collect()
}

#[test]
fn every_setting_is_measured_and_nothing_is_left() {
    let scene = Scene::new();
    let before = scene.listing();
    let output = scene.tune(&["--seconds", "2", "--json", "--quiet"]);
    let findings = findings(&output);
    assert_eq!(scene.listing(), before, "left behind, or the source was touched");
    assert_eq!(names(&scene.path("state")), [""; 0], "without --write nothing is kept");
    assert_eq!(output.stderr, b"", "{}", text(&output.stderr));
    assert_eq!(findings["schema"], 1);
    assert_eq!(findings["profile"], Value::Null);
    let samples = findings["samples"].as_array().unwrap();
    assert!(samples.iter().all(|sample| sample["origin"] == "source"), "{samples:?}");
    let engines = Engine::all().len();
    for (kind, knob, least) in [
        ("small", "streams", 7),
        ("large", "streams", 7),
        ("small", "engine", engines),
        ("large", "buffer_size", 3),
        ("large", "direct", 2),
        ("large", "depth", if engines > 1 { 3 } else { 0 }),
        ("small", "buffers", engines),
        ("large", "buffers", engines),
    ] {
        // One engine, and it is not the ring, is nothing to be compared.
        let least = if least == 1 { 0 } else { least };
        let rows = rows(&findings, kind, knob);
        assert_eq!(rows.len(), least, "{kind} {knob}: {rows:?}");
        for row in rows {
            assert!(row["rate"].as_f64().unwrap() > 0.0 && row["rounds"].as_u64().unwrap() >= 1, "{row}");
            let (median, last) = (row["dest_p50_us"].as_f64().unwrap(), row["dest_p99_us"].as_f64().unwrap());
            assert!(median > 0.0 && median <= last, "{row}");
        }
    }
    let command = findings["command"].as_str().unwrap();
    assert!(command.starts_with("gfast --source ") && command.contains("/dest"), "{command}");
}

#[test]
fn what_the_source_lacks_is_made_at_the_destination_and_told() {
    let scene = Scene::new();
    fs::remove_file(scene.path("source/large")).unwrap();
    let before = scene.listing();
    let output = scene.tune(&["--seconds", "1"]);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(scene.listing(), before);
    for part in ["small files: 160 of the source", "made for it, the source has too few", "streams 64", "best   "] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    assert!(text(&output.stderr).contains("gfast: tune: streams, round 1"), "{}", text(&output.stderr));
}

#[test]
fn killed_or_stopped_it_leaves_nothing_and_follows_no_link() {
    for (how, code) in [(Signal::KILL, None), (Signal::TERM, Some(20)), (Signal::INT, Some(20))] {
        let scene = Scene::new();
        let before = scene.listing();
        let dest = scene.path("dest");
        let mut child = scene.command(dest.to_str().unwrap(), &["--seconds", "60", "--quiet"]).spawn().unwrap();
        let scratch = scene.wait_for_scratch();
        // What its copies hold may lead out, or be closed to its owner.
        symlink(scene.path("dest/kept"), scratch.join("link")).unwrap();
        fs::create_dir(scratch.join("closed")).unwrap();
        fs::write(scratch.join("closed/file"), "x").unwrap();
        support::fixture::set_mode(&scratch.join("closed"), 0);
        signal(&child, how);
        assert_eq!(child.wait().unwrap().code(), code);
        let is_swept = || {
            let is_left = |dir: &str| names(&scene.path(dir)).iter().any(|name| name.starts_with(".gfast-tune-"));
            (!is_left("dest") && !is_left("tmp")).then_some(())
        };
        match code {
            // It has waited for that.
            Some(_) => assert!(is_swept().is_some(), "{:?}", names(&dest)),
            None => wait_until("the end of the sweeping", is_swept),
        }
        assert_eq!(scene.listing(), before, "after {how:?}");
    }
}

#[test]
fn a_profile_is_kept_used_and_named() {
    let scene = Scene::new();
    let written = findings(&scene.tune(&["--seconds", "1", "--json", "--write"]));
    let path = scene.path("state/profiles");
    assert_eq!(written["profile"], path.to_str().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    // The same storages, with what nobody would find by chance.
    let mut profiles: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let profile = profiles["profiles"][0].as_object_mut().unwrap();
    profile.retain(|key, _| ["source", "dest", "measured"].contains(&key.as_str()));
    let day = profile["measured"].as_str().unwrap().to_owned();
    assert_eq!(day.len(), 10, "{day}");
    profile.insert("streams".to_owned(), 7.into());
    profile.insert("engine".to_owned(), "sync".into());
    fs::write(&path, profiles.to_string()).unwrap();

    let plain = scene.job(&[]);
    assert_eq!(plain.number("streams"), 7, "{plain}");
    assert!(plain.says(&format!("gfast: profile of {day} for ")), "{plain}");
    // The tests' jobs always name their engine.
    assert!(plain.says(": streams 7, the rest is as the command line says"), "{plain}");
    let explicit = scene.job(&["--streams=9"]);
    assert_eq!(explicit.number("streams"), 9, "{explicit}");
    assert!(explicit.says("nothing, the command line says otherwise"), "{explicit}");

    fs::write(&path, &profiles.to_string()[..40]).unwrap();
    let damaged = scene.job(&[]);
    assert_eq!(damaged.number("streams"), 32, "{damaged}");
    assert!(damaged.says("profiles is ignored: it is damaged"), "{damaged}");
}

/// What no option says is the profile's alone: blocks in flight, and registered buffers or not.
#[test]
fn depth_and_buffers_of_a_profile_are_used() {
    let scene = Scene::new();
    if !Engine::all().contains(&Engine::Uring) {
        return;
    }
    let job = |dest: &str| {
        let job = Job::new(scene.path("source"), scene.path(dest), scene.path("state"), Engine::Auto);
        job.run().expect(0)
    };
    let usual = job("usual");
    assert_eq!(usual.number("file_depth"), 16, "{usual}");
    assert!(usual.number("registered_buffer_bytes") > 1 << 20, "{usual}");
    findings(&scene.tune(&["--seconds", "1", "--json", "--write"]));
    let path = scene.path("state/profiles");
    let mut profiles: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let profile = profiles["profiles"][0].as_object_mut().unwrap();
    profile.retain(|key, _| ["source", "dest", "measured"].contains(&key.as_str()));
    profile.insert("depth".to_owned(), 48.into());
    profile.insert("buffers".to_owned(), "plain".into());
    fs::write(&path, profiles.to_string()).unwrap();
    let advised = job("dest");
    assert!(advised.says(": depth 48, buffers plain"), "{advised}");
    assert_eq!((advised.number("file_depth"), advised.number("registered_buffer_bytes")), (48, 0), "{advised}");
    // The deeper ring has the memory for it.
    assert!(advised.number("buffer_bytes") > usual.number("buffer_bytes"), "{usual}{advised}");
    Comparison::new(&scene.path("source"), &scene.path("usual")).assert_same();
}

#[test]
fn what_cannot_be_measured_is_refused_and_nothing_is_made() {
    let scene = Scene::new();
    let before = scene.listing();
    let inside = scene.path("source/inside");
    for (dest, words, code, part) in [
        ("x", &["--seconds", "0"][..], 1, "from 1 to 3600 seconds"),
        ("x", &["--seconds", "soon"], 1, "from 1 to 3600 seconds"),
        ("x", &["--streams", "3"], 1, "unknown option --streams"),
        ("", &[], 1, "--dest is empty"),
        (inside.to_str().unwrap(), &[], 2, "lies inside the source"),
        ("/proc/1", &[], 2, "/proc"),
    ] {
        let output = scene.command(dest, words).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(part) && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(output.stdout, b"");
    }
    let between = Command::new(env!("CARGO_BIN_EXE_gfast"))
        .args(["tune", "--source", "s3://a/b", "--dest", "s3://c/d"])
        .output()
        .unwrap();
    assert_eq!(between.status.code(), Some(2));
    assert!(text(&between.stderr).contains("between two buckets nothing is measured"), "{}", text(&between.stderr));
    assert_eq!(scene.listing(), before);
}

/// A server with a bucket, and what a tune needs to reach it.
fn with_server(scene: &Scene, mut command: Command, server: &S3sFs) -> Command {
    let inherited = std::env::vars_os().map(|(name, _)| name);
    inherited.filter(|name| name.as_encoded_bytes().starts_with(b"AWS_")).for_each(|name| {
        command.env_remove(name);
    });
    command.env("AWS_ACCESS_KEY_ID", server.access_key()).env("AWS_SECRET_ACCESS_KEY", server.secret_key());
    command.env("AWS_REGION", "us-east-1").env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", scene.path("tmp"));
    command.arg(format!("--endpoint-url={}", server.endpoint()));
    command
}

/// Objects in a bucket of s3s-fs: the server keeps files of its own beside them.
fn objects(bucket: &Path) -> Vec<PathBuf> {
    let (mut objects, mut dirs) = (Vec::new(), vec![bucket.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for name in names(&dir) {
            let path = dir.join(&name);
            match path.is_dir() {
                true => dirs.push(path),
                false if name.starts_with('.') => {}
                false => objects.push(path),
            }
        }
    }
    objects.sort();
    objects
}

#[test]
fn a_bucket_is_measured_and_left_as_it_was() {
    let (scene, served) = (Scene::new(), Scratch::new());
    let server = S3sFs::start(served.path());
    let bucket = server.bucket("bucket");
    let before = scene.listing();
    let command = scene.command("s3://bucket/p", &["--seconds", "1", "--json", "--write"]);
    let up = with_server(&scene, command, &server).output().unwrap();
    let up_findings = findings(&up);
    assert_eq!(rows(&up_findings, "large", "part_size").len(), 4, "{up_findings}");
    assert_eq!(rows(&up_findings, "small", "streams").len(), 7, "{up_findings}");
    assert!(objects(&bucket).is_empty(), "{:?}", objects(&bucket));
    assert!(!text(&fs::read(scene.path("state/profiles")).unwrap()).contains(server.secret_key()));
    assert_eq!(scene.listing(), before);

    // Killed while objects are being made.
    let command = scene.command("s3://bucket/p", &["--seconds", "60", "--quiet"]);
    let child = with_server(&scene, command, &server).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("an object", || objects(&bucket).first().map(|_| ()));
    signal(&child, Signal::KILL);
    // Whoever sweeps holds stderr until it is done.
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (None, ""));
    assert_eq!((objects(&bucket), names(&scene.path("tmp"))), (Vec::new(), Vec::new()));
    assert_eq!(scene.listing(), before);
}

#[test]
fn a_source_in_a_bucket_is_measured() {
    let (scene, served) = (Scene::new(), Scratch::new());
    let server = S3sFs::start(served.path());
    let bucket = server.bucket("bucket");
    let mut rng = Rng::new(2);
    for index in 0..80 {
        let dir = bucket.join(format!("p/dir-{}", index % 3));
        fs::create_dir_all(&dir).unwrap();
        noise(&mut rng, &dir.join(format!("object-{index}")), 2000);
    }
    let (before, held) = (scene.listing(), objects(&bucket));
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    command.args(["tune", "--source", "s3://bucket/p", "--dest"]).arg(scene.path("dest"));
    command.arg("--state-dir").arg(scene.path("state")).args(["--seconds", "1", "--json"]);
    command.env("TMPDIR", scene.path("tmp"));
    let output = with_server(&scene, command, &server).output().unwrap();
    let findings = findings(&output);
    assert_eq!(rows(&findings, "small", "streams").len(), 7, "{findings}");
    // All 80, or as many as this machine copies in a second's slices, but never fewer than 64.
    let files = findings["samples"][0]["files"].as_u64().unwrap();
    assert!((64..=80).contains(&files), "{findings}");
    assert!(findings["notes"].to_string().contains("too few large files"), "{findings}");
    assert_eq!((scene.listing(), objects(&bucket)), (before, held));
}
