//! One experiment: a real job with settings of its own, from a sample to a fresh scratch folder, ended after a while.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Request;
use super::place::nearest_dir;
use super::sample::{Extent, Kind, Limits, Sample};
use super::settings::Settings;
use super::sweeper::{Place, Sweeper};
use crate::config::{Config, Output, ReflinkChoice, STOP_TIME_MAX};
use crate::engine::{self, Asks};
use crate::error::{Error, Result};
use crate::location::Location;
use crate::report::{Count, End, ExitCode, Latency, Summary};
use crate::stop::Stop;

/// Time between two looks at a running experiment.
const TICK: Duration = Duration::from_millis(10);
/// An experiment that is over is waited for as long as it takes to make durable what it has copied: that is part of
/// what is measured.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(3600);

/// Small files that a run must get through to say something: before the first there are connections and listings.
const FILES_TELLING: u64 = 32;

/// Where experiments are made.
pub(super) struct Lab<'l> {
    /// A job with nothing but its ends.
    base: Config,
    /// Makes and removes the scratch folders.
    sweeper: Sweeper,
    /// Where copies go.
    dest: (Place, Space),
    /// Where jobs keep their state, and lists of files are.
    state: (Place, OwnedFd),
    /// Experiments made.
    runs: u32,
    /// The user's wish.
    stop: &'l Stop,
}

/// Where copies go.
enum Space {
    /// A scratch folder.
    Folder(OwnedFd),
    /// A prefix of a bucket.
    Prefix(String, Vec<u8>),
}

/// What an experiment came to.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// Files a second, or bytes where they are large.
    pub rate: f64,
    /// Whether it got far enough to say something, or was through.
    pub is_telling: bool,
    /// How long the operations took.
    pub latency: Latency,
}

impl<'l> Lab<'l> {
    /// Makes the scratch folders. `base` is the job that would run between the two ends.
    pub fn open(request: &Request, base: Config, stop: &'l Stop) -> Result<Lab<'l>> {
        let mut sweeper = Sweeper::start()?;
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        // The time: what a killed process of the same number has left must not be in the way.
        let name = format!("{SCRATCH_NAME}{}-{nanos:x}", std::process::id());
        let dest = match &request.dest {
            Location::Posix(path) => {
                let (place, dir) = sweeper.make(&nearest_dir(path)?, &name)?;
                (place, Space::Folder(dir))
            }
            Location::S3 { bucket, prefix } => {
                let slash: &[u8] = if prefix.is_empty() || prefix.ends_with(b"/") { b"" } else { b"/" };
                let prefix = [prefix, slash, name.as_bytes(), b"/"].concat();
                let text = String::from_utf8(prefix.clone());
                let text = text.map_err(|_| Error::refused(request.dest.display(), "the prefix is not UTF-8"))?;
                (sweeper.keep(bucket, &text, &request.s3)?, Space::Prefix(bucket.clone(), prefix))
            }
        };
        // As a job would have it: beside its state. Where there is none yet none is made.
        let state_dir = if request.state_dir.is_dir() { request.state_dir.clone() } else { std::env::temp_dir() };
        let state = sweeper.make(&nearest_dir(&state_dir)?, &(name + "-state"))?;
        let base = Config { output: Output::Quiet, reflink: ReflinkChoice::Never, stop_time: DRAIN_TIME_MAX, ..base };
        Ok(Lab { base, sweeper, dest, state, runs: 0, stop })
    }

    /// A folder for scratch files that are to be copied: where copies go or, if that is a bucket, beside the state.
    pub fn source_folder(&self, kind: Kind) -> Result<OwnedFd> {
        let dir = match &self.dest.1 {
            Space::Folder(dir) => dir,
            Space::Prefix(..) => &self.state.1,
        };
        let failed = |errno| Error::os("create", "a scratch folder", errno);
        let (name, mode) = (format!("source-{}", kind.name()), rustix::fs::Mode::RWXU);
        rustix::fs::mkdirat(dir, &name, mode).map_err(failed)?;
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(dir, &name, flags, rustix::fs::Mode::empty()).map_err(failed)
    }

    /// What a sample may take: an eighth of the room there is, so that copies never fill a destination.
    pub fn limits(&self, time: Duration) -> Result<Limits> {
        let limits = Limits { names: 20_000, time, files: 16_384, bytes: 64 << 30 };
        match &self.dest.1 {
            Space::Prefix(..) => Ok(Limits { files: 1_024, ..limits }),
            Space::Folder(dir) => {
                let room = rustix::fs::fstatvfs(dir).map_err(|errno| Error::os("statfs", "the destination", errno))?;
                let inodes = if room.f_files == 0 { u64::MAX } else { room.f_favail / 8 };
                let files = usize::try_from(inodes).unwrap_or(usize::MAX).min(limits.files);
                Ok(Limits { files, bytes: room.f_bavail * room.f_frsize / 8, ..limits })
            }
        }
    }

    /// Copies the sample with these settings, for about as long as `slice`. `None`: the user wants no more.
    pub fn run(&mut self, sample: &Sample, settings: &Settings, slice: Duration) -> Result<Option<Trial>> {
        self.runs += 1;
        let name = format!("run-{}", self.runs);
        sample.drop_from_cache(slice);
        let config = self.config(sample, settings, &name)?;
        let summary = copy(&config, slice, self.stop)?;
        self.sweeper.clear(self.dest.0, &name)?;
        self.sweeper.clear(self.state.0, &name)?;
        match summary.end {
            _ if self.stop.is_requested() => Ok(None),
            End::Stopped(error) => Err(error),
            End::Finished | End::Interrupted => Ok(Some(Trial::of(sample.kind, summary))),
        }
    }

    fn config(&self, sample: &Sample, settings: &Settings, name: &str) -> Result<Config> {
        let state_path = format!("/proc/self/fd/{}", self.state.1.as_raw_fd());
        let list = format!("{state_path}/list");
        let written = std::fs::write(&list, sample.list());
        written.map_err(|error| Error::refused("scratch", format!("a list of files cannot be written: {error}")))?;
        let dest = match &self.dest.1 {
            Space::Folder(dir) => Location::Posix(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()).into()),
            Space::Prefix(bucket, prefix) => {
                Location::S3 { bucket: bucket.clone(), prefix: [prefix, name.as_bytes(), b"/"].concat() }
            }
        };
        let files_from = (sample.extent == Extent::Listed).then(|| list.into());
        let state_dir = format!("{state_path}/{name}").into();
        let source = sample.location.clone();
        Ok(settings.apply(&Config { source, dest, state_dir, files_from, ..self.base.clone() }))
    }

    /// Removes everything that was made.
    pub fn close(self) -> Result<()> {
        self.sweeper.sweep()
    }
}

/// What the names of scratch folders begin with.
const SCRATCH_NAME: &str = ".gfast-tune-";

impl Trial {
    fn of(kind: Kind, summary: Summary) -> Trial {
        let amount = match kind {
            Kind::Small => summary.totals.get(Count::FilesCopied),
            Kind::Large => summary.totals.get(Count::BytesCopied),
        };
        let secs = summary.elapsed.as_secs_f64();
        let rate = if secs > 0.0 { amount as f64 / secs } else { 0.0 };
        let is_telling =
            summary.end == End::Finished || (amount > 0 && (kind == Kind::Large || amount >= FILES_TELLING));
        Trial { rate, is_telling, latency: summary.latency }
    }
}

/// Runs a job until it is done or its time is up.
fn copy(config: &Config, slice: Duration, asked: &Stop) -> Result<Summary> {
    let (asks, is_over) = (Asks::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&asks.stop, asked, slice, &is_over));
        let summary = engine::run(config, &asks);
        is_over.store(true, Ordering::Release);
        watcher.thread().unpark();
        summary
    })
}

/// Ends the job when its time is up. A user who wants to stop does not wait longer than for any other job.
fn watch(own: &Stop, asked: &Stop, slice: Duration, is_over: &AtomicBool) {
    let (started, mut since) = (Instant::now(), None);
    while !is_over.load(Ordering::Acquire) {
        if asked.is_requested() {
            let since = *since.get_or_insert_with(Instant::now);
            if since.elapsed() > STOP_TIME_MAX {
                std::process::exit(ExitCode::Interrupted.code().into());
            }
        }
        if asked.is_requested() || started.elapsed() >= slice {
            own.request();
        }
        std::thread::park_timeout(TICK);
    }
}
