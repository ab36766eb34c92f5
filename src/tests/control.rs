//! A running job steered: by signals, by `gfast ctl`, by its socket. What is copied is the same whatever was asked for.
//! `control/alone.rs`: a job that steers itself, and its figures for others; `control/bucket.rs`: jobs with a bucket.

mod support;

#[path = "control/alone.rs"]
mod alone;
#[path = "control/bucket.rs"]
mod bucket;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gfast::control::client::Client;
use gfast::control::status::{Answer, Phase, Status};
use rustix::process::Signal;
use support::slow::can_mount_fuse;
use support::{Comparison, Engine, Job, Rng, Running, Scratch, SlowMount, seed};

/// In what time a change must show.
const EFFECT_TIME_MAX: Duration = Duration::from_secs(1);
/// What a loaded machine may need for anything else.
const PATIENCE: Duration = Duration::from_secs(30);

/// A time as it is on a machine that has nothing else to do, and longer where others wait for the same processors.
fn here(time: Duration) -> Duration {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    time.mul_f64((load / cores).max(1.0))
}

/// A job in a directory of its own.
struct Scene {
    scratch: Scratch,
    engine: Engine,
}

impl Scene {
    fn new(engine: Engine) -> Scene {
        let scene = Scene { scratch: Scratch::new(), engine };
        fs::create_dir(scene.source()).unwrap();
        scene
    }

    fn source(&self) -> PathBuf {
        self.scratch.path().join("source")
    }

    fn dest(&self) -> PathBuf {
        self.scratch.path().join("dest")
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// `count` files of `bytes` in directories of ten, below `at`.
    fn grow(&self, at: &Path, seed: u64, count: u64, bytes: u64) {
        let mut rng = Rng::new(seed);
        let mut content = vec![0; bytes as usize];
        for file in 0..count {
            let dir = at.join(format!("dir-{}", file / 10));
            fs::create_dir_all(&dir).unwrap();
            rng.fill(&mut content);
            fs::write(dir.join(format!("file-{file}")), &content).unwrap();
        }
    }

    fn job(&self, args: &[&str]) -> Job {
        let job = Job::new(self.source(), self.dest(), self.state(), self.engine);
        job.args(args)
    }

    fn assert_same(&self) {
        Comparison::new(&self.source(), &self.dest()).assert_same();
    }

    /// Connects as soon as the job listens.
    #[track_caller]
    fn client(&self) -> Client {
        connect(&self.state())
    }

    /// The job's socket, once it is there.
    fn socket(&self) -> PathBuf {
        drop(self.client());
        let job = fs::read_dir(self.state()).unwrap().map(|entry| entry.unwrap().path());
        let mut job = job.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("job-"));
        job.next().unwrap().join("control")
    }
}

#[track_caller]
fn connect(state: &Path) -> Client {
    let started = Instant::now();
    loop {
        match Client::connect(state, None) {
            Ok(client) => return client,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `gfast ctl`.
fn ctl(state: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    command.arg("ctl").arg("-state-dir").arg(state).args(args).output().unwrap()
}

#[track_caller]
fn told(client: &mut Client, command: &str) -> Answer {
    let answer = client.tell(command).unwrap();
    assert!(answer.ok, "{command}: {answer:?}");
    answer
}

/// Asks until `reached`; how long that took, and the last answer.
#[track_caller]
fn until(client: &mut Client, what: &str, reached: impl Fn(&Status) -> bool) -> (Duration, Status) {
    let started = Instant::now();
    loop {
        let mut status = client.status().unwrap_or_else(|error| panic!("before it was {what}: {error}"));
        if reached(&status) {
            return (started.elapsed(), status);
        }
        status.objects.truncate(3);
        assert!(started.elapsed() < PATIENCE, "never {what}: {status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What has been copied of all files. Bytes of large ones are counted chunk by chunk, so what is open counts, too.
fn moved(status: &Status) -> u64 {
    status.totals.bytes_copied + status.objects.iter().map(|object| object.done).sum::<u64>()
}

/// Threads of a process whose names begin like this.
fn threads(pid: u32, name: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks.flatten().map(|task| fs::read_to_string(task.path().join("comm")).unwrap_or_default());
    names.filter(|comm| comm.starts_with(name)).count()
}

/// Sixty changes at random, by signal, by the socket and by `gfast ctl`, up and down between 1 and 256: each is in
/// effect within a second, bytes go on flowing, and the copy is what it would have been.
#[test]
fn streams_change_at_random_in_a_running_copy() {
    let test = "streams_change_at_random_in_a_running_copy";
    let seed = seed(test, 501);
    for engine in Engine::all() {
        let scene = Scene::new(engine);
        scene.grow(&scene.source(), seed, 300, 600 << 10);
        scene.grow(&scene.source().join("small"), seed, 300, 3000);
        let running = scene.job(&["--bwlimit=1M", "--buffer-size=64K", "--checkpoint-interval=0.5"]).start();
        let mut client = scene.client();
        let mut changes = Changes::new(Rng::new(seed), &mut client);
        for _ in 0..60 {
            changes.one(&scene, &running);
        }
        let lines = changes.lines;
        told(&mut client, "bwlimit=off");
        let outcome = running.wait().expect(0);
        scene.assert_same();
        assert_eq!(outcome.number("steered"), 61, "{outcome}");
        for line in lines {
            assert!(outcome.stderr.contains(&line), "not said: {line}: {outcome}");
        }
        let mut report = Command::new(env!("CARGO_BIN_EXE_gfast"));
        let report = report.arg("report").arg("-state-dir").arg(scene.state()).output().unwrap();
        let text = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(text.contains("  changes          61\n") && text.contains("(SIGUSR1)"), "{text}");
    }
}

/// Changes of one job's streams.
struct Changes<'c> {
    rng: Rng,
    client: &'c mut Client,
    /// What must be said of them.
    lines: Vec<String>,
    /// Bytes copied, and when they were last seen to grow.
    bytes: (u64, Instant),
}

impl<'c> Changes<'c> {
    fn new(rng: Rng, client: &'c mut Client) -> Changes<'c> {
        Changes { rng, client, lines: Vec::new(), bytes: (0, Instant::now()) }
    }

    #[track_caller]
    fn one(&mut self, scene: &Scene, running: &Running) {
        let before = self.client.status().unwrap().streams.limit;
        let (wanted, who) = match self.rng.below(4) {
            0 => {
                running.signal(Signal::USR1);
                (before + (before / 4).max(1), "SIGUSR1")
            }
            1 => {
                running.signal(Signal::USR2);
                (before.saturating_sub((before / 4).max(1)).max(1), "SIGUSR2")
            }
            2 => {
                let wanted = 1 + self.rng.below(256) as u32;
                assert_eq!(
                    told(self.client, &format!("streams={wanted}")).line,
                    format!("streams {before} -> {wanted}")
                );
                (wanted, "ctl")
            }
            _ => {
                let (step, up) = (1 + self.rng.below(64) as u32, self.rng.below(2) == 0 && before < 192);
                let output = ctl(&scene.state(), &[&format!("streams={}{step}", if up { '+' } else { '-' })]);
                assert!(output.status.success(), "{output:?}");
                (if up { before + step } else { before.saturating_sub(step).max(1) }, "ctl")
            }
        };
        self.lines.push(format!("gfast: streams {before} -> {wanted} ({who})"));
        let started = Instant::now();
        // A signal that lowers one stream changes nothing else that could be waited for.
        let is_said = || running.said().matches("gfast: streams ").count() == self.lines.len();
        let (_, status) = until(self.client, &format!("in effect: {:?}", self.lines), |status| {
            status.streams.limit == wanted && status.streams.active <= wanted && is_said()
        });
        let took = started.elapsed();
        assert!(took < here(EFFECT_TIME_MAX), "{before} -> {wanted} took {took:?}: {status:?}");
        let (bytes, now) = (moved(&status), Instant::now());
        if bytes != self.bytes.0 {
            self.bytes = (bytes, now);
        }
        let stalled = now - self.bytes.1;
        assert!(stalled < here(Duration::from_secs(2)), "nothing was copied for {stalled:?}: {status:?}");
    }
}

/// More streams are used, and fewer: what is open follows the limit, and what was parked goes on.
#[test]
fn what_is_open_follows_the_limit() {
    for engine in Engine::all() {
        let scene = Scene::new(engine);
        scene.grow(&scene.source(), seed("what_is_open_follows_the_limit", 502), 200, 2 << 20);
        let running = scene.job(&["--bwlimit=6M", "--buffer-size=64K", "--streams=4"]).start();
        let mut client = scene.client();
        until(&mut client, "4 in use", |status| status.streams.active == 4);
        told(&mut client, "streams=100");
        let (took, _) = until(&mut client, "100 in use", |status| status.streams.active == 100);
        assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
        told(&mut client, "streams=3");
        let (took, status) = until(&mut client, "3 in use", |status| status.streams.active == 3);
        assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
        assert!(status.streams.parked >= 90, "{status:?}");
        assert!(
            status.objects.iter().any(|object| object.path.contains("file-") && object.size == 2 << 20),
            "{status:?}"
        );
        told(&mut client, "bwlimit=off");
        running.wait().expect(0);
        scene.assert_same();
    }
}

/// A pause lets nothing go on, checkpoints excepted; a stop ends it, and a resume finishes.
#[test]
fn a_paused_job_rests_goes_on_and_stops() {
    for engine in Engine::all() {
        let scene = Scene::new(engine);
        let seed = seed("a_paused_job_rests_goes_on_and_stops", 503);
        scene.grow(&scene.source(), seed, 12, 8 << 20);
        scene.grow(&scene.source().join("small"), seed, 40, 3000);
        // The large ones alone take 16 s, eight of them at a time.
        let args = ["--bwlimit=6M", "--buffer-size=64K", "--streams=8", "--checkpoint-interval=0.2"];
        let running = scene.job(&args).start();
        let mut client = scene.client();
        until(&mut client, "moving", |status| status.totals.files_copied > 0 && moved(status) > 1 << 20);
        told(&mut client, "pause");
        let (took, _) = until(&mut client, "at rest", |status| status.streams.active == 0);
        assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
        // What was under way as it was parked has arrived by then, and a checkpoint has passed.
        std::thread::sleep(Duration::from_millis(600));
        let rested = client.status().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let later = client.status().unwrap();
        assert_eq!(moved(&rested), moved(&later), "{later:?}");
        assert!(later.streams.parked > 0, "{later:?}");
        assert_eq!(later.phase, Phase::Paused, "{later:?}");
        assert!(later.totals.bytes_durable > 0, "no checkpoint while paused: {later:?}");
        told(&mut client, "continue");
        until(&mut client, "moving again", |status| moved(status) > moved(&later) + (1 << 20));
        told(&mut client, "pause");
        until(&mut client, "at rest again", |status| status.streams.active == 0);
        running.signal(Signal::TERM);
        running.wait().expect(20);
        let outcome = scene.job(&[]).run().expect(0);
        assert!(outcome.says("\"run\":\"resume\""), "{outcome}");
        scene.assert_same();
    }
}

/// Bytes of small and of large files stay below the limit, as it is and as it is changed to, and come near it.
#[test]
fn bandwidth_stays_below_its_limit() {
    const MIB: f64 = (1 << 20) as f64;
    for engine in Engine::all() {
        let scene = Scene::new(engine);
        let seed = seed("bandwidth_stays_below_its_limit", 504);
        scene.grow(&scene.source(), seed, 30, 1 << 20);
        scene.grow(&scene.source().join("small"), seed, 300, 40_000);
        let running = scene.job(&["--bwlimit=6M", "--buffer-size=64K", "--streams=6"]).start();
        let mut client = scene.client();
        until(&mut client, "moving", |status| status.totals.bytes_copied > 0);
        for limit in [6.0, 12.0] {
            told(&mut client, &format!("bwlimit={limit}M"));
            let rate = rate_over(&mut client, Duration::from_millis(1500));
            println!("{engine:?}: {:.2} MiB/s of {limit}", rate / MIB);
            // A tenth of a second is credit, a block is in flight: 10 % of so short a time.
            assert!(rate < limit * MIB * 1.12, "{:.2} MiB/s of {limit}", rate / MIB);
            let slowness = here(Duration::from_secs(1)).as_secs_f64();
            assert!(rate * slowness > limit * MIB * 0.5, "{:.2} MiB/s of {limit}", rate / MIB);
        }
        told(&mut client, "bwlimit=off");
        running.wait().expect(0);
        scene.assert_same();
        assert_limited(&scene);
    }
}

/// A limit is for all alike: a small file has its turn between two blocks of a large one. Several times: which thread
/// has which file is chance, and only some such chances would show it.
#[test]
fn under_a_limit_a_small_file_does_not_wait_for_the_end_of_a_large_one() {
    for engine in [Engine::all(), Engine::all(), Engine::all(), Engine::all()].concat() {
        let scene = Scene::new(engine);
        let seed = seed("under_a_limit_a_small_file_does_not_wait_for_the_end_of_a_large_one", 505);
        scene.grow(&scene.source(), seed, 1, 6 << 20);
        scene.grow(&scene.source().join("small"), seed, 3, 100);
        let running = scene.job(&["--bwlimit=4M", "--buffer-size=64K"]).start();
        let small = scene.dest().join("small/dir-0/file-2");
        assert!(running.run_until(|_| small.exists()), "it is over already");
        let status = scene.client().status().unwrap();
        assert!(status.totals.bytes_copied < 4 << 20, "{engine:?}: {:?}", status.totals);
        running.wait().expect(0);
        scene.assert_same();
    }
}

/// Bytes a second over about `time`.
fn rate_over(client: &mut Client, time: Duration) -> f64 {
    let (first, started) = (client.status().unwrap(), Instant::now());
    std::thread::sleep(time);
    let last = client.status().unwrap();
    (last.totals.bytes_copied - first.totals.bytes_copied) as f64 / started.elapsed().as_secs_f64()
}

/// A whole copy takes as long as the limits say, and not less.
fn assert_limited(scene: &Scene) {
    let again = scene.scratch.path().join("again");
    let job = Job::new(scene.source().join("small"), &again, scene.state(), scene.engine);
    let outcome = job.clone().arg("--bwlimit=6M").run().expect(0);
    let least = outcome.number("bytes") as f64 / (6 << 20) as f64;
    assert!(outcome.elapsed.as_secs_f64() > least * 0.9 - 0.1, "{outcome}");
    let third = scene.scratch.path().join("third");
    let job = Job::new(scene.source().join("small"), third, scene.state(), scene.engine);
    let outcome = job.arg("--iops-limit=300").run().expect(0);
    assert!(outcome.elapsed > Duration::from_millis(850), "300 files at 300 a second: {outcome}");
    assert!(outcome.elapsed < here(Duration::from_secs(8)), "{outcome}");
}

/// Where each operation takes milliseconds the streams are threads: they come and go with the limit.
#[test]
fn threads_follow_the_streams_of_a_slow_mount() {
    let test = "threads_follow_the_streams_of_a_slow_mount";
    if !can_mount_fuse(test) {
        return;
    }
    let slow = SlowMount::new(Duration::from_millis(2));
    let scene = Scene::new(Engine::Auto);
    scene.grow(slow.folder(), seed(test, 505), 3000, 700);
    for large in 0..3 {
        fs::write(slow.folder().join(format!("large-{large}")), vec![large as u8 + 1; 3 << 20]).unwrap();
    }
    let job = Job::new(slow.path(), scene.dest(), scene.state(), Engine::Auto);
    let running = job.arg("--streams=2").start();
    let mut client = scene.client();
    let (_, status) = until(&mut client, "moving", |status| status.totals.entries_done > 0);
    assert_eq!(threads(status.pid, "shard-"), 2);
    told(&mut client, "streams=64");
    let (took, status) = until(&mut client, "64 threads", |status| threads(status.pid, "shard-") == 64);
    assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
    assert!(status.streams.active > 4, "{status:?}");
    told(&mut client, "streams=4");
    let (took, status) = until(&mut client, "4 in use", |status| status.streams.active <= 4);
    assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
    assert!(status.totals.entries_done < 3000, "too late to see: {status:?}");
    // Whoever has a directory in its hands leaves it to the others; only a parked large file keeps its threads.
    let (took, _) = until(&mut client, "fewer threads", |status| threads(status.pid, "shard-") <= 8);
    assert!(took < here(EFFECT_TIME_MAX), "{took:?}");
    told(&mut client, "streams=64");
    let outcome = running.wait().expect(0);
    assert!(outcome.number("buffer_bytes") <= 128 << 20, "{outcome}");
    Comparison::new(slow.folder(), &scene.dest()).assert_same();
}

/// Whatever comes over the socket, the job goes on, and others are answered.
#[test]
fn garbage_on_the_socket_harms_nobody() {
    let scene = Scene::new(Engine::all()[0]);
    let seed = seed("garbage_on_the_socket_harms_nobody", 507);
    scene.grow(&scene.source(), seed, 20, 1 << 20);
    let running = scene.job(&["--bwlimit=5M", "--buffer-size=64K"]).start();
    let socket = scene.socket();
    let metadata = fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let mut rng = Rng::new(seed);
    let mut silent = Vec::new();
    for nth in 0..40 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut bytes = vec![0; rng.below(9000) as usize];
        rng.fill(&mut bytes);
        let _ = match nth % 4 {
            0 => stream.write_all(&bytes),
            // Asks for ever and never reads an answer.
            1 => (0..4000).try_for_each(|_| stream.write_all(b"status\n")),
            2 => stream.write_all(b"streams="),
            _ => Ok(()),
        };
        silent.push(stream);
    }
    let (mut one, mut other) = (scene.client(), scene.client());
    for _ in 0..5 {
        assert_eq!(one.status().unwrap().pid, other.status().unwrap().pid);
    }
    for line in ["", "streams=0", "streams=99999999999", "streams=1000000000", "bwlimit=-1", "rm -rf /", "pause pause"]
    {
        let answer = one.tell(line).unwrap();
        assert!(!answer.ok && !answer.line.is_empty(), "{line}: {answer:?}");
    }
    drop(silent);
    told(&mut other, "bwlimit=off");
    running.wait().expect(0);
    assert!(!socket.exists(), "the socket is left behind");
    scene.assert_same();
}

/// Several requests in one write are answered in their order; a socket left by a dead process is replaced.
#[test]
fn a_line_at_a_time_and_a_stale_socket() {
    let scene = Scene::new(Engine::all()[0]);
    scene.grow(&scene.source(), seed("a_line_at_a_time_and_a_stale_socket", 508), 20, 1 << 20);
    let running = scene.job(&["--bwlimit=5M", "--buffer-size=64K", "--streams=9"]).start();
    let socket = scene.socket();
    running.kill();
    assert!(socket.exists(), "a killed job removes nothing");
    let output = ctl(&scene.state(), &["status"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("not running"), "{output:?}");
    let running = scene.job(&["--bwlimit=5M", "--buffer-size=64K", "--streams=9"]).start();
    drop(scene.client());
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"streams=12\nnonsense\nstatus\nstreams=auto\nstop\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines[0], r#"{"ok":true,"line":"streams 9 -> 12"}"#);
    assert!(lines[1].starts_with(r#"{"ok":false,"#), "{text}");
    assert_eq!(lines[3], r#"{"ok":true,"line":"streams 12 -> auto"}"#);
    let status: Status = serde_json::from_str(lines[2]).unwrap();
    assert_eq!((status.streams.limit, status.bwlimit), (12, Some(5 << 20)), "{status:?}");
    running.wait().expect(20);
}

/// `gfast ctl` says what it can do, and does not reach what is not there.
#[test]
fn ctl_refuses_what_makes_no_sense() {
    let scratch = Scratch::new();
    for (args, code) in [
        (&["status"][..], 2),
        (&[], 1),
        (&["streams=0"], 1),
        (&["status", "nonsense"], 1),
        (&["-nonsense", "status"], 1),
    ] {
        let output = ctl(&scratch.path().join("nowhere"), args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
    let output = ctl(scratch.path(), &["--help"]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("bwlimit=off"), "{output:?}");
}

/// Signals that come while the command line is read, and the list of files, count all the same.
#[test]
fn signals_before_the_job_runs_are_not_lost() {
    let scene = Scene::new(Engine::all()[0]);
    fs::write(scene.source().join("file"), "content").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfast"));
    command.arg("-source").arg(scene.source()).arg("-dest").arg(scene.dest()).arg("-state-dir").arg(scene.state());
    command.args(["-streams", "32", "-files-from", "-"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let handles = |signal: Signal| {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&caught, 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
    };
    let started = Instant::now();
    while !(handles(Signal::USR1) && handles(Signal::USR2)) {
        assert!(started.elapsed() < PATIENCE, "no handlers");
        std::thread::sleep(Duration::from_millis(1));
    }
    for signal in [Signal::USR1, Signal::USR1, Signal::USR2] {
        rustix::process::kill_process(pid, signal).unwrap();
        // Two signals of one kind that wait together are one, to every process.
        std::thread::sleep(Duration::from_millis(50));
    }
    child.stdin.take().unwrap().write_all(b"file\0").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{output:?}");
    let expected = [
        "gfast: streams 32 -> 40 (SIGUSR1)\n",
        "gfast: streams 40 -> 50 (SIGUSR1)\n",
        "gfast: streams 50 -> 38 (SIGUSR2)\n",
    ];
    assert!(text.contains(&expected.concat()), "{text}");
    assert_eq!(fs::read(scene.dest().join("file")).unwrap(), b"content");
}
