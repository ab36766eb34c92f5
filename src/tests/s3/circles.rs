//! Memory for parts and places under the throttle: a server that asks for less never leaves some with all of the one
//! who wait for others with all of the other. It waits for ever itself, so a job that does is found out by the time.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use super::support::fault::{Fault, FaultServer, Kind, Rule};
use super::support::{Engine, Job, Outcome};
use super::{Scene, fault_server};

const MIB: u64 = 1 << 20;
/// Bytes of a part that is sent as it is read.
const STREAMED: u64 = 17 * MIB;
/// Far more than these jobs take.
const TIME_MAX: Duration = Duration::from_secs(120);
const SLOW_DOWN: Fault = Fault::Refuse { status: 503, code: "SlowDown" };

/// Runs to the end, which comes, within the memory that there is.
#[track_caller]
fn ended(job: &Job) -> Outcome {
    let (running, began, mut peak) = (job.start(), Instant::now(), 0);
    let is_running = running.run_until(|_| {
        peak = peak.max(running.peak_bytes());
        began.elapsed() > TIME_MAX
    });
    assert!(!is_running, "everybody waits for somebody else: {}", running.said());
    assert!((1..256 * MIB).contains(&peak), "{} MiB", peak / MIB);
    running.wait().expect(0)
}

fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

#[track_caller]
fn assert_size(server: &FaultServer, key: &str, bytes: u64) {
    assert_eq!(server.object("b", key).unwrap().body.len() as u64, bytes, "{key}");
}

/// Files that are buffers have all memory and are refused, until there are fewer places than streamed parts have.
#[test]
fn streamed_parts_and_buffers_go_up_through_a_storm() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    let tree = scene.dir("tree");
    sparse(&tree.join("large"), 8 * STREAMED);
    (0..30).for_each(|index| sparse(&tree.join(format!("file-{index}")), 16 * MIB));
    server.script(Rule::new(SLOW_DOWN).on(&[Kind::Put]).times(36));
    ended(&scene.job_in_parts(&tree, "s3://b/p", "up", STREAMED));
    assert_eq!(server.counts().faults, 36, "no storm");
    assert_size(&server, "p/large", 8 * STREAMED);
    (0..30).for_each(|index| assert_size(&server, &format!("p/file-{index}"), 16 * MIB));
}

/// Ranges have all memory and are refused, until there are fewer places than whole objects have that want memory.
#[test]
fn ranges_and_whole_objects_come_down_through_a_storm() {
    let server = fault_server(1);
    let scene = Scene::new(&server, Engine::all()[0]);
    server.put("b", "p/large", vec![1; 256 << 20], &[]);
    let whole = bytes::Bytes::from(vec![2; 6 << 20]);
    (0..31).for_each(|index| server.put("b", &format!("p/file-{index}"), whole.clone(), &[]));
    server.script(Rule::new(SLOW_DOWN).on(&[Kind::Get]).key("large").times(24));
    server.script(Rule::new(Fault::StallMs(1000)).on(&[Kind::Get]).key("file"));
    let job = scene.job_in_parts("s3://b/p", scene.join("back"), "down", 16 * MIB);
    ended(&job);
    assert_eq!(server.counts().faults, 24 + 31, "no storm");
    let size = |name: &str| fs::metadata(scene.join("back").join(name)).unwrap().len();
    assert_eq!((size("large"), size("file-30")), (256 * MIB, 6 * MIB));
}

/// Streamed parts have all places of the destination, and whole objects those of the source.
#[test]
fn streamed_parts_and_whole_objects_go_across_through_two_storms() {
    let (source, dest) = (fault_server(1), fault_server(2));
    let scene = Scene::new(&dest, Engine::all()[0]);
    source.put("b", "p/large", vec![1; 8 * STREAMED as usize], &[]);
    let whole = bytes::Bytes::from(vec![2; 1 << 20]);
    (0..31).for_each(|index| source.put("b", &format!("p/file-{index}"), whole.clone(), &[]));
    source.script(Rule::new(SLOW_DOWN).on(&[Kind::Get]).key("large").times(24));
    dest.script(Rule::new(SLOW_DOWN).on(&[Kind::Put]).times(80));
    let job = scene.job_in_parts("s3://b/p", "s3://b/q", "across", STREAMED);
    ended(&job.arg(format!("--source-endpoint-url={}", source.endpoint())));
    assert_eq!((source.counts().faults, dest.counts().faults), (24, 80), "no storm");
    assert_size(&dest, "q/large", 8 * STREAMED);
    (0..31).for_each(|index| assert_size(&dest, &format!("q/file-{index}"), MIB));
}
