//! `gfast tune`: which settings copy fastest between two places, found by copying with each of them.
//!
//! ```text
//! sample of the source  --\                      one knob after the other, from the defaults:
//! scratch files, where    +--> trial (a real job, --> streams, engine, block size, direct, depth, buffers; part size
//! the source has too few -/     ended after a while)   rounds over all its values in turns, medians --> choice
//!                                                      what won, against the defaults --> best
//! ```
//! The source is only read. Copies go into a scratch folder at the destination, which another process removes however
//! this one ends (sweeper.rs). Clones are not measured: they take no time. What is best can be kept as a profile
//! (profile.rs), which later jobs between the same two storages take for the options they are not given.

mod bucket;
mod choice;
mod findings;
mod pace;
mod place;
mod profile;
mod removal;
mod sample;
mod settings;
mod sweeper;
mod trial;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::AtFlags;

use self::choice::{GAIN_MIN, PROOF_MIN, Vote};
use self::findings::{SampleFacts, vote};
use self::pace::{Pace, ROUNDS_WANTED, SLICE_MAX, SLICE_MIN, slice};
use self::place::Place;
use self::profile::Profile;
use self::sample::{Extent, File, Kind, Origin, Sample};
use self::settings::Settings;
use self::trial::{Lab, Trial};
use crate::catalog::Catalog;
use crate::config::{Config, EngineChoice, Knob, Output, S3Options};
use crate::crew;
use crate::error::{Error, Result, escape};
use crate::filesystem::FileSystem;
use crate::location::Location;
use crate::report::{Busy, Console, shell_command};
use crate::roots::{self, Root, open_to_read};
use crate::stop::Stop;

pub use findings::Findings;
pub use profile::advise;
pub use sweeper::{SWEEPER, serve};

/// Share of the time for finding samples, and for making each kind of them.
const SAMPLING_SHARE: u32 = 10;
/// A sample holds as many times the files that a run gets through: other settings may be faster.
const SAMPLE_RESERVE: f64 = 4.0;

/// A measurement, as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// What a job would read.
    pub source: Location,
    /// Where its copy would go.
    pub dest: Location,
    /// How long it may take.
    pub seconds: Duration,
    /// Whether later jobs are to know.
    pub keeping: Keeping,
    /// Where profiles are kept.
    pub state_dir: PathBuf,
    /// How a bucket on either side is reached.
    pub s3: S3Options,
    /// How findings are printed.
    pub form: Form,
    /// Whether only errors go to stderr.
    pub is_quiet: bool,
}

/// What becomes of the findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// They are told.
    Tell,
    /// They are told, and kept for later jobs.
    Write,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Tables.
    Text,
    /// One JSON object.
    Json,
}

/// The source, looked at.
enum Source {
    /// A directory, or the one a file lies in and the file.
    Posix(Root, Option<File>),
    /// A bucket and a prefix.
    Bucket(String, String),
}

/// A measurement under way.
struct Bench<'b> {
    /// What was asked for.
    request: &'b Request,
    /// Where experiments are made.
    lab: Lab<'b>,
    /// What is copied.
    samples: Vec<Sample>,
    /// Engines other than the one that is taken by itself.
    engines: Vec<EngineChoice>,
    /// Shortest time of a run that says something here.
    least: Duration,
    /// What was found.
    findings: Findings,
    /// Notes for whoever waits.
    console: Console,
    /// When it began.
    started: Instant,
    /// The user's wish.
    stop: &'b Stop,
}

/// Settings that are compared with each other.
struct Heat {
    /// What differs: a knob's name, as machines have it, or `all`.
    name: &'static str,
    /// The samples it makes a difference to.
    kinds: Vec<usize>,
    /// The settings and what tells them apart, the present ones first.
    candidates: Vec<(String, Settings)>,
    /// How much faster one of them must be than the present ones.
    gain_min: f64,
}

/// Measures. `None`: the user wanted no more of it. Nothing that was made is left, whatever comes of it.
pub fn run(request: &Request, stop: &Stop) -> Result<Option<Findings>> {
    let started = Instant::now();
    let console = Console::stderr(if request.is_quiet { Output::Quiet } else { Output::Text });
    let base = Config {
        source_s3: request.s3.clone(),
        dest_s3: request.s3.clone(),
        ..Config::new(request.source.clone(), request.dest.clone(), request.state_dir.clone())
    };
    [&request.source, &request.dest].into_iter().try_for_each(refuse_device)?;
    let source = examine(request, &base)?;
    Catalog::check_place(&request.state_dir)?;
    let places = (Place::of(&request.source, &request.s3)?, Place::of(&request.dest, &request.s3)?);
    let findings = Findings {
        source: escape(&request.source.display()),
        dest: escape(&request.dest.display()),
        source_place: places.0.key.clone(),
        dest_place: places.1.key.clone(),
        ..Findings::default()
    };
    let engines = engines(request, &source)?;
    let lab = Lab::open(request, base, stop)?;
    let mut bench =
        Bench { request, lab, samples: Vec::new(), engines, least: SLICE_MIN, findings, console, started, stop };
    let measured = bench.measure(&source);
    // What is waited for here was made above; its own failure is told as well.
    let (swept, mut findings) = (bench.lab.close(), bench.findings);
    let Some(best) = measured? else { return swept.map(|()| None) };
    swept?;
    findings.recommended = best.options();
    findings.command = command(request, &best);
    findings.elapsed_s = started.elapsed().as_secs_f64();
    if request.keeping == Keeping::Write {
        let path = keep(request, &places, &best)?;
        findings.profile = Some(escape(path.as_os_str().as_encoded_bytes()));
    }
    Ok(Some(findings))
}

/// Measurements make and remove trees: a device holds none.
fn refuse_device(location: &Location) -> Result<()> {
    let Location::Posix(path) = location else { return Ok(()) };
    match std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device()) {
        true => Err(Error::refused(path.as_os_str().as_encoded_bytes(), "is a block device: tune measures with files")),
        false => Ok(()),
    }
}

/// Refuses what no job could copy, and what is not measured. Touches nothing.
fn examine(request: &Request, base: &Config) -> Result<Source> {
    match (&request.source, &request.dest) {
        (Location::S3 { .. }, Location::S3 { .. }) => {
            Err(Error::refused(request.source.display(), "between two buckets nothing is measured: see --streams"))
        }
        (Location::S3 { bucket, prefix }, Location::Posix(_)) => {
            let prefix = String::from_utf8(prefix.clone());
            let prefix = prefix.map_err(|_| Error::refused(request.source.display(), "the prefix is not UTF-8"))?;
            let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
            Ok(Source::Bucket(bucket.clone(), prefix + slash))
        }
        (Location::Posix(_), dest) => {
            if matches!(dest, Location::Posix(_)) {
                roots::examine(base, &Busy::default())?;
            }
            let (root, name) = open_to_read(&request.source)?;
            let Some(name) = name else { return Ok(Source::Posix(root, None)) };
            let stat = rustix::fs::statat(&root.handle, &name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|errno| Error::os("stat", &root.path, errno))?;
            let file = File { path: name.into_bytes(), size: stat.st_size.unsigned_abs() };
            Ok(Source::Posix(root, Some(file)))
        }
    }
}

/// The engine that is not taken by itself, where there is a choice.
fn engines(request: &Request, source: &Source) -> Result<Vec<EngineChoice>> {
    let (Source::Posix(root, _), Location::Posix(dest)) = (source, &request.dest) else { return Ok(Vec::new()) };
    if crew::ring_refused(EngineChoice::Auto)?.is_some() {
        return Ok(Vec::new());
    }
    let dest = FileSystem::of(place::nearest_dir(dest)?)?;
    let is_slow = root.file_system.is_remote() || dest.is_remote();
    Ok(vec![if is_slow { EngineChoice::Uring } else { EngineChoice::Sync }])
}

/// The job, with what was found best.
fn command(request: &Request, best: &Settings) -> String {
    let mut words: Vec<OsString> = vec!["gfast".into(), "--source".into()];
    words.extend([OsString::from_vec(request.source.display()), "--dest".into()]);
    words.push(OsString::from_vec(request.dest.display()));
    for (name, value) in best.options().words() {
        words.extend([name.into(), value.into()]);
    }
    shell_command(&words)
}

fn keep(request: &Request, places: &(Place, Place), best: &Settings) -> Result<PathBuf> {
    let now = jiff::Timestamp::now().to_string();
    let day = now.split('T').next().unwrap_or_default().to_owned();
    let (source, dest) = (places.0.key.clone(), places.1.key.clone());
    profile::save(&request.state_dir, Profile { source, dest, measured: day, options: best.options() })
}

impl Bench<'_> {
    /// Takes samples, then turns one knob after the other; the best settings, or `None` if the user wants no more.
    fn measure(&mut self, source: &Source) -> Result<Option<Settings>> {
        self.take_samples(source)?;
        if self.samples.is_empty() && !self.stop.is_requested() {
            return Err(Error::refused(self.request.source.display(), "holds nothing that could be measured"));
        }
        let knobs = self.knobs();
        let mut best = Settings::default();
        if !self.calibrate(&best, &knobs)? {
            return Ok(None);
        }
        self.findings.samples = self.samples.iter().map(SampleFacts::of).collect();
        for (index, &knob) in knobs.iter().enumerate() {
            let left = self.request.seconds.saturating_sub(self.started.elapsed());
            let all: u32 = knobs[index..].iter().map(|&knob| self.runs(knob, &best)).sum();
            let budget = left * self.runs(knob, &best) / (all + self.runs_of_proof()).max(1);
            match self.turn(knob, &best, budget)? {
                Some(better) => best = better,
                None => return Ok(None),
            }
        }
        let proved = self.prove(best)?;
        self.note_rounds();
        Ok(proved.filter(|_| !self.stop.is_requested()))
    }

    /// Whoever tries many settings finds some that were lucky. So what won by and by has to win once more, as a whole
    /// and against the defaults.
    fn prove(&mut self, best: Settings) -> Result<Option<Settings>> {
        let usual = Settings::default();
        if best == usual {
            return Ok(Some(best));
        }
        let left = self.request.seconds.saturating_sub(self.started.elapsed());
        let candidates = vec![("the defaults".to_owned(), usual.clone()), ("the best".to_owned(), best.clone())];
        let heat = Heat { name: "all", kinds: (0..self.samples.len()).collect(), candidates, gain_min: PROOF_MIN };
        let Some(winner) = self.compare(&heat, left)? else { return Ok(None) };
        if winner == 0 {
            let lucky = best.options().text();
            self.findings.notes.push(format!("{lucky}: looked better, and was not when it was measured once more"));
        }
        Ok(Some(if winner == 0 { usual } else { best }))
    }

    /// Runs that [`Bench::prove`] takes.
    fn runs_of_proof(&self) -> u32 {
        2 * ROUNDS_WANTED * u32::try_from(self.samples.len()).unwrap_or(u32::MAX)
    }

    fn take_samples(&mut self, source: &Source) -> Result<()> {
        let time = self.request.seconds / SAMPLING_SHARE;
        let limits = self.lab.limits(time)?;
        let (files, extent) = match source {
            Source::Bucket(bucket, prefix) => {
                (bucket::sample(bucket, prefix, &self.request.s3, &limits)?, Extent::Listed)
            }
            Source::Posix(_, Some(file)) => (vec![file.clone()], Extent::Whole),
            Source::Posix(root, None) => {
                let state = rustix::fs::stat(&self.request.state_dir).ok().map(|stat| (stat.st_dev, stat.st_ino));
                (sample::walk(&root.handle, state, &limits, self.stop), Extent::Listed)
            }
        };
        for kind in Kind::ALL {
            let selected = kind.select(&files, &limits);
            let location = self.request.source.clone();
            let root = match source {
                Source::Posix(root, _) => Some(reopened(root)?),
                Source::Bucket(..) => None,
            };
            let sample = match (selected.is_empty(), source) {
                (false, _) => Sample { kind, origin: Origin::Source, location, root, files: selected, extent },
                (true, Source::Posix(..)) => sample::make(kind, self.lab.source_folder(kind)?, &limits, self.stop)?,
                (true, Source::Bucket(..)) => {
                    let note = format!("the source has too few {} files: they are not measured", kind.name());
                    self.findings.notes.push(note);
                    continue;
                }
            };
            match sample.files.is_empty() {
                false => self.samples.push(sample),
                true => self.findings.notes.push(format!("there is no room for {} files to measure with", kind.name())),
            }
        }
        Ok(())
    }

    /// What can be turned between these two ends, in this order.
    fn knobs(&self) -> Vec<Knob> {
        let is_bucket = |location: &Location| matches!(location, Location::S3 { .. });
        let knobs: &[Knob] = match is_bucket(&self.request.source) || is_bucket(&self.request.dest) {
            true => &[Knob::Streams, Knob::PartSize],
            false => &[Knob::Streams, Knob::Engine, Knob::BufferSize, Knob::Direct, Knob::Depth, Knob::Buffers],
        };
        knobs.iter().copied().filter(|&knob| self.samples.iter().any(|sample| concerns(knob, sample.kind))).collect()
    }

    /// Runs that turning a knob takes.
    fn runs(&self, knob: Knob, present: &Settings) -> u32 {
        let kinds = self.samples.iter().filter(|sample| concerns(knob, sample.kind)).count();
        let candidates = present.around(knob, &self.engines).len();
        if candidates < 2 { 0 } else { u32::try_from(kinds * candidates).unwrap_or(u32::MAX) * ROUNDS_WANTED }
    }

    /// First runs of each kind: they warm up what is warm later, and tell how much a run gets through and how long it
    /// must be to tell anything. False if the user wants no more.
    fn calibrate(&mut self, settings: &Settings, knobs: &[Knob]) -> Result<bool> {
        let runs: u32 = knobs.iter().map(|&knob| self.runs(knob, settings)).sum();
        let wanted = slice(self.request.seconds, runs, self.least);
        for sample in &mut self.samples {
            let mut slice = wanted;
            // Ends: the slice doubles.
            let trial = loop {
                let Some(trial) = self.lab.run(sample, settings, slice)? else { return Ok(false) };
                if trial.is_telling || slice >= SLICE_MAX {
                    break trial;
                }
                slice = (slice * 2).min(SLICE_MAX);
                self.least = self.least.max(slice);
            };
            if sample.extent == Extent::Listed && sample.kind == Kind::Small {
                sample.cut((trial.rate * slice.as_secs_f64() * SAMPLE_RESERVE) as usize);
            }
        }
        Ok(true)
    }

    /// Turns one knob; the best settings then.
    fn turn(&mut self, knob: Knob, present: &Settings, budget: Duration) -> Result<Option<Settings>> {
        let candidates = present.around(knob, &self.engines);
        if candidates.len() < 2 {
            return Ok(Some(present.clone()));
        }
        let kinds = (0..self.samples.len()).filter(|&index| concerns(knob, self.samples[index].kind)).collect();
        let candidates: Vec<_> = candidates.into_iter().map(|settings| (settings.text(knob), settings)).collect();
        let heat = Heat { name: name_of(knob), kinds, candidates, gain_min: GAIN_MIN };
        let winner = self.compare(&heat, budget)?;
        Ok(winner.and_then(|winner| heat.candidates.into_iter().nth(winner)).map(|(_, settings)| settings))
    }

    /// Measures every candidate in every round, a round at least; which is best then.
    fn compare(&mut self, heat: &Heat, budget: Duration) -> Result<Option<usize>> {
        let Heat { name, kinds, candidates, gain_min } = heat;
        let mut runs: Vec<Vec<Vec<Trial>>> = vec![vec![Vec::new(); candidates.len()]; kinds.len()];
        let each = u32::try_from(kinds.len() * candidates.len()).unwrap_or(u32::MAX);
        let mut pace = Pace::new(budget, each, self.least);
        while let Some(slice) = pace.next() {
            let round = runs[0][0].len();
            self.console.note(&format!("gfast: tune: {}, round {}", name.replace('_', " "), round + 1));
            for turn in 0..candidates.len() {
                // Each round begins with another one: what drains from caches is not always the same one's burden.
                let candidate = (turn + round) % candidates.len();
                for (of_kind, &index) in runs.iter_mut().zip(kinds) {
                    let (sample, settings) = (&self.samples[index], &candidates[candidate].1);
                    let mut trial = self.lab.run(sample, settings, slice)?;
                    // A run that was over before it had begun says nothing of its settings: it gets more time, once.
                    if trial.as_ref().is_some_and(|trial| trial.rate <= 0.0) {
                        trial = self.lab.run(sample, settings, SLICE_MAX)?;
                    }
                    let Some(trial) = trial else { return Ok(None) };
                    of_kind[candidate].push(trial);
                }
            }
            pace.count(slice);
        }
        let has_own = self.samples.iter().any(|sample| sample.origin == Origin::Source);
        let weight = |index: usize| match self.samples[index].origin {
            Origin::Scratch if has_own => 0.0,
            Origin::Scratch | Origin::Source => 1.0,
        };
        let votes: Vec<Vote> = runs.iter().zip(kinds).map(|(runs, &index)| vote(weight(index), runs)).collect();
        for (runs, &index) in runs.iter().zip(kinds) {
            self.findings.add(self.samples[index].kind, name, candidates, runs);
        }
        Ok(Some(choice::choose(&votes, *gain_min)))
    }

    fn note_rounds(&mut self) {
        let rounds = self.findings.rounds_min();
        if (1..ROUNDS_WANTED as usize).contains(&rounds) {
            let secs = self.request.seconds.as_secs();
            let times = if rounds == 1 { "run" } else { "runs" };
            self.findings.notes.push(format!(
                "{secs} s are too short: some medians are of {rounds} {times}, which prove nothing; give more --seconds"
            ));
        }
        if self.samples.iter().any(|sample| sample.origin == Origin::Scratch)
            && self.samples.iter().any(|sample| sample.origin == Origin::Source)
        {
            self.findings.notes.push("files made for it are told of, and count for nothing in the choice".to_owned());
        }
    }
}

/// Whether a knob makes a difference to a kind of files.
fn concerns(knob: Knob, kind: Kind) -> bool {
    match knob {
        Knob::Streams | Knob::Engine | Knob::Buffers => true,
        Knob::BufferSize | Knob::Direct | Knob::PartSize | Knob::Depth => kind == Kind::Large,
    }
}

fn name_of(knob: Knob) -> &'static str {
    match knob {
        Knob::Streams => "streams",
        Knob::BufferSize => "buffer_size",
        Knob::Engine => "engine",
        Knob::Direct => "direct",
        Knob::PartSize => "part_size",
        Knob::Depth => "depth",
        Knob::Buffers => "buffers",
    }
}

/// The root once more, for a sample of its own.
fn reopened(root: &Root) -> Result<OwnedFd> {
    let handle: &Arc<OwnedFd> = &root.handle;
    handle.try_clone().map_err(|error| Error::refused(&root.path, error.to_string()))
}
