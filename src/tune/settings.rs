//! The settings that are measured: one value of each knob, as a job takes them, as the command line spells them, and
//! as a profile keeps them.

use serde::{Deserialize, Serialize};

use crate::config::*;

/// Streams that are tried.
const STREAMS_TRIED: [u32; 7] = [1, 4, 8, 16, 32, 64, 128];
/// Sizes of a block that are tried.
const BLOCKS_TRIED: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
/// Blocks of one file in flight that are tried.
const DEPTHS_TRIED: [usize; 3] = [4, 16, 48];
/// Sizes of a part that are tried.
const PARTS_TRIED: [u64; 3] = [8 << 20, 16 << 20, 64 << 20];

/// One value of each knob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Objects open at once.
    pub streams: u32,
    /// Bytes of one read or write of a large file.
    pub block_bytes: usize,
    /// What answers the operations.
    pub engine: EngineChoice,
    /// When the page cache is passed by.
    pub direct: DirectChoice,
    /// Bytes of a part of a large S3 object, where they are not left to the job.
    pub part_bytes: Option<u64>,
    /// Blocks of one large file in flight on a ring.
    pub file_depth: usize,
    /// Whether a ring's buffers are registered.
    pub buffers: BufferChoice,
}

/// Settings that are not the defaults, as they are kept and told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `--streams`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// `--buffer-size`, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_size: Option<usize>,
    /// `--engine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineChoice>,
    /// `--direct`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectChoice>,
    /// `--part-size`, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part_size: Option<u64>,
    /// Blocks of one large file in flight on a ring; no option of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// `plain` or `registered` buffers of a ring; no option of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffers: Option<BufferChoice>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            streams: STREAMS_DEFAULT,
            block_bytes: BLOCK_BYTES_DEFAULT,
            engine: EngineChoice::Auto,
            direct: DirectChoice::Auto,
            part_bytes: None,
            file_depth: FILE_DEPTH,
            buffers: BufferChoice::Registered,
        }
    }
}

impl Settings {
    /// These settings and, behind them, each other value of one knob that is worth a try. `engines` are the other
    /// engines that there are here.
    pub(super) fn around(&self, knob: Knob, engines: &[EngineChoice]) -> Vec<Settings> {
        let own = || self.clone();
        let others: Vec<Settings> = match knob {
            Knob::Streams => STREAMS_TRIED.iter().map(|&streams| Settings { streams, ..own() }).collect(),
            Knob::BufferSize => BLOCKS_TRIED.iter().map(|&block_bytes| Settings { block_bytes, ..own() }).collect(),
            Knob::Engine => engines.iter().map(|&engine| Settings { engine, ..own() }).collect(),
            Knob::Direct => vec![Settings { direct: DirectChoice::Never, ..own() }],
            Knob::PartSize => PARTS_TRIED.iter().map(|&size| Settings { part_bytes: Some(size), ..own() }).collect(),
            // A thread of system calls has one block in flight, and no buffers that could be registered.
            Knob::Depth | Knob::Buffers if !self.has_ring(engines) => Vec::new(),
            Knob::Depth => DEPTHS_TRIED.iter().map(|&file_depth| Settings { file_depth, ..own() }).collect(),
            Knob::Buffers => vec![Settings { buffers: BufferChoice::Plain, ..own() }],
        };
        let others = others.into_iter().filter(|other| other != self);
        std::iter::once(own()).chain(others).collect()
    }

    /// The value of one knob, as tables show it.
    pub(super) fn text(&self, knob: Knob) -> String {
        match knob {
            Knob::Streams => format!("streams {}", self.streams),
            Knob::BufferSize => format!("buffer size {}", size(self.block_bytes as u64)),
            Knob::Engine => format!("engine {}", engine_name(self.engine)),
            Knob::Direct => format!("direct {}", direct_name(self.direct)),
            Knob::PartSize => format!("part size {}", self.part_bytes.map_or_else(|| "auto".to_owned(), size)),
            Knob::Depth => format!("depth {}", self.file_depth),
            Knob::Buffers => format!("buffers {}", buffers_name(self.buffers)),
        }
    }

    /// What is not as it would be anyway.
    pub(super) fn options(&self) -> Options {
        let usual = Settings::default();
        Options {
            streams: (self.streams != usual.streams).then_some(self.streams),
            buffer_size: (self.block_bytes != usual.block_bytes).then_some(self.block_bytes),
            engine: (self.engine != usual.engine).then_some(self.engine),
            direct: (self.direct != usual.direct).then_some(self.direct),
            part_size: self.part_bytes,
            depth: (self.file_depth != usual.file_depth).then_some(self.file_depth),
            buffers: (self.buffers != usual.buffers).then_some(self.buffers),
        }
    }

    /// Whether a ring answers, where `engines` are those that are not taken by themselves.
    fn has_ring(&self, engines: &[EngineChoice]) -> bool {
        match self.engine {
            EngineChoice::Uring => true,
            EngineChoice::Sync => false,
            EngineChoice::Auto => engines.contains(&EngineChoice::Sync),
        }
    }

    /// The job with these settings.
    pub(super) fn apply(&self, config: &Config) -> Config {
        Config {
            streams: self.streams,
            block_bytes: self.block_bytes,
            engine: self.engine,
            direct: self.direct,
            part_bytes: self.part_bytes,
            file_depth: self.file_depth,
            buffers: self.buffers,
            ..config.clone()
        }
    }
}

impl Options {
    /// Whether every value is one that the command line would take.
    pub(super) fn are_sound(&self) -> bool {
        let is_block = |bytes: usize| BLOCK_BYTES_RANGE.contains(&bytes) && bytes.is_multiple_of(4096);
        self.streams.is_none_or(|streams| (1..=STREAMS_MAX).contains(&streams))
            && self.buffer_size.is_none_or(is_block)
            && self.part_size.is_none_or(|bytes| PART_BYTES_RANGE.contains(&bytes))
            && self.depth.is_none_or(|depth| FILE_DEPTH_RANGE.contains(&depth))
    }

    /// Sets what the job's command line left open; what was set.
    pub(super) fn fill(&self, config: &mut Config) -> Options {
        let mut filled = self.clone();
        let is_open = |knob| config.open.contains(&knob);
        filled.streams = filled.streams.filter(|_| is_open(Knob::Streams));
        filled.buffer_size = filled.buffer_size.filter(|_| is_open(Knob::BufferSize));
        filled.engine = filled.engine.filter(|_| is_open(Knob::Engine));
        filled.direct = filled.direct.filter(|_| is_open(Knob::Direct));
        filled.part_size = filled.part_size.filter(|_| is_open(Knob::PartSize));
        filled.depth = filled.depth.filter(|_| is_open(Knob::Depth));
        filled.buffers = filled.buffers.filter(|_| is_open(Knob::Buffers));
        config.streams = filled.streams.unwrap_or(config.streams);
        config.block_bytes = filled.buffer_size.unwrap_or(config.block_bytes);
        config.engine = filled.engine.unwrap_or(config.engine);
        config.direct = filled.direct.unwrap_or(config.direct);
        config.part_bytes = filled.part_size.or(config.part_bytes);
        config.file_depth = filled.depth.unwrap_or(config.file_depth);
        config.buffers = filled.buffers.unwrap_or(config.buffers);
        filled
    }

    /// Name and value of each that the command line has, as it spells them.
    pub(super) fn words(&self) -> Vec<(&'static str, String)> {
        let words = [
            ("--streams", self.streams.map(|streams| streams.to_string())),
            ("--buffer-size", self.buffer_size.map(|bytes| size(bytes as u64))),
            ("--engine", self.engine.map(|engine| engine_name(engine).to_owned())),
            ("--direct", self.direct.map(|direct| direct_name(direct).to_owned())),
            ("--part-size", self.part_size.map(size)),
        ];
        words.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// All of them on one line for people: `streams 64, buffer size 4M`.
    pub(super) fn text(&self) -> String {
        let plain = |name: &str| name.trim_start_matches('-').replace('-', " ");
        let mut words: Vec<String> =
            self.words().into_iter().map(|(name, value)| format!("{} {value}", plain(name))).collect();
        words.extend(self.depth.map(|depth| format!("depth {depth}")));
        words.extend(self.buffers.map(|buffers| format!("buffers {}", buffers_name(buffers))));
        if words.is_empty() { "the defaults".to_owned() } else { words.join(", ") }
    }
}

fn engine_name(engine: EngineChoice) -> &'static str {
    match engine {
        EngineChoice::Auto => "auto",
        EngineChoice::Uring => "uring",
        EngineChoice::Sync => "sync",
    }
}

fn direct_name(direct: DirectChoice) -> &'static str {
    match direct {
        DirectChoice::Auto => "auto",
        DirectChoice::Always => "always",
        DirectChoice::Never => "never",
    }
}

fn buffers_name(buffers: BufferChoice) -> &'static str {
    match buffers {
        BufferChoice::Registered => "registered",
        BufferChoice::Plain => "plain",
    }
}

/// A size as the command line takes it: 4M, 256K, 5000.
fn size(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::location::Location;

    #[test]
    fn a_knob_is_turned_alone_and_the_settings_themselves_come_first() {
        let settings = Settings { streams: 64, ..Settings::default() };
        let tried = settings.around(Knob::Streams, &[]);
        assert_eq!(tried[0], settings);
        assert_eq!(tried.iter().filter(|other| other.streams == 64).count(), 1);
        assert!(tried.iter().all(|other| Settings { streams: 64, ..other.clone() } == settings));
        let engines = settings.around(Knob::Engine, &[EngineChoice::Sync]);
        assert_eq!(
            engines.iter().map(|one| one.text(Knob::Engine)).collect::<Vec<_>>(),
            ["engine auto", "engine sync"]
        );
        assert_eq!(settings.around(Knob::Engine, &[]).len(), 1);
        assert_eq!(settings.around(Knob::PartSize, &[])[1].text(Knob::PartSize), "part size 8M");
        let tried = |settings: &Settings, knob, engines: &[_]| -> Vec<String> {
            settings.around(knob, engines).iter().map(|one| one.text(knob)).collect()
        };
        let ring = [EngineChoice::Sync];
        assert_eq!(tried(&settings, Knob::Depth, &ring), ["depth 16", "depth 4", "depth 48"]);
        assert_eq!(tried(&settings, Knob::Buffers, &ring), ["buffers registered", "buffers plain"]);
        for (engine, engines) in [(EngineChoice::Auto, &[EngineChoice::Uring][..]), (EngineChoice::Sync, &ring)] {
            let without = Settings { engine, ..settings.clone() };
            assert_eq!(tried(&without, Knob::Depth, engines).len() + tried(&without, Knob::Buffers, engines).len(), 2);
        }
    }

    #[test]
    fn only_what_differs_from_the_defaults_is_told() {
        assert_eq!(Settings::default().options(), Options::default());
        assert_eq!(Options::default().text(), "the defaults");
        let settings = Settings { streams: 64, block_bytes: 4 << 20, ..Settings::default() };
        assert_eq!(settings.options().text(), "streams 64, buffer size 4M");
        let words = settings.options().words();
        assert_eq!(words, [("--streams", "64".to_owned()), ("--buffer-size", "4M".to_owned())]);
        let settings = Settings { file_depth: 48, buffers: BufferChoice::Plain, ..Settings::default() };
        assert_eq!(settings.options().text(), "depth 48, buffers plain");
        assert!(settings.options().words().is_empty(), "the command line has no such options");
        assert_eq!([size(256 << 10), size(5000), size(1 << 30), size(0)], ["256K", "5000", "1G", "0"]);
    }

    #[test]
    fn a_profile_fills_what_is_open_and_nothing_else() {
        let place = || Location::Posix("/x".into());
        let mut config = Config::new(place(), place(), "s".into());
        config.open = vec![Knob::BufferSize, Knob::Depth];
        let options = Options { streams: Some(7), buffer_size: Some(8192), depth: Some(5), ..Options::default() };
        let filled = options.fill(&mut config);
        assert_eq!((config.streams, config.block_bytes, config.file_depth), (STREAMS_DEFAULT, 8192, 5));
        assert_eq!(filled, Options { streams: None, ..options });
    }
}
