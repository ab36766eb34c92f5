//! The settings that are measured: one value of each knob, as a job takes them, as the command line spells them, and
//! as a profile keeps them.

use serde::{Deserialize, Serialize};

use crate::config::*;

/// Streams that are tried.
const STREAMS_TRIED: [u32; 7] = [1, 4, 8, 16, 32, 64, 128];
/// Sizes of a block that are tried.
const BLOCKS_TRIED: [usize; 3] = [256 << 10, 1 << 20, 4 << 20];
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
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            streams: STREAMS_DEFAULT,
            block_bytes: BLOCK_BYTES_DEFAULT,
            engine: EngineChoice::Auto,
            direct: DirectChoice::Auto,
            part_bytes: None,
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
        config.streams = filled.streams.unwrap_or(config.streams);
        config.block_bytes = filled.buffer_size.unwrap_or(config.block_bytes);
        config.engine = filled.engine.unwrap_or(config.engine);
        config.direct = filled.direct.unwrap_or(config.direct);
        config.part_bytes = filled.part_size.or(config.part_bytes);
        filled
    }

    /// Name and value of each, as the command line spells them.
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
        let words: Vec<String> =
            self.words().into_iter().map(|(name, value)| format!("{} {value}", plain(name))).collect();
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
    }

    #[test]
    fn only_what_differs_from_the_defaults_is_told() {
        assert_eq!(Settings::default().options(), Options::default());
        assert_eq!(Options::default().text(), "the defaults");
        let settings = Settings { streams: 64, block_bytes: 4 << 20, ..Settings::default() };
        assert_eq!(settings.options().text(), "streams 64, buffer size 4M");
        let words = settings.options().words();
        assert_eq!(words, [("--streams", "64".to_owned()), ("--buffer-size", "4M".to_owned())]);
        assert_eq!([size(256 << 10), size(5000), size(1 << 30), size(0)], ["256K", "5000", "1G", "0"]);
    }

    #[test]
    fn a_profile_fills_what_is_open_and_nothing_else() {
        let place = || Location::Posix("/x".into());
        let mut config = Config::new(place(), place(), "s".into());
        config.open = vec![Knob::BufferSize];
        let options = Options { streams: Some(7), buffer_size: Some(8192), ..Options::default() };
        let filled = options.fill(&mut config);
        assert_eq!((config.streams, config.block_bytes), (STREAMS_DEFAULT, 8192));
        assert_eq!(filled, Options { streams: None, ..options });
    }
}
