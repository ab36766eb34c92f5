//! The command line: words in, one [`Config`] out.
//!
//! ```text
//! OsString words --encode--> one char a byte --normalise--> --name value pairs --argh--> Arguments --resolve--> Config
//! ```
//!
//! argh reads the normalised words and writes the help. It takes neither single-dash long options nor `--name=value`
//! nor bytes that are not UTF-8 (measured with 0.1.19); `normalise` and `words` put that right in front of it.

mod ctl;
mod normalise;
mod report;
mod tui;
mod tune;
mod values;
mod verify;
mod words;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, EarlyExit, FromArgs};

use crate::config::*;
use crate::error::{Error, Result, escape};
use crate::filter::{Filter, Rule};
use crate::ledger;
use crate::location::Location;
use crate::tui::Request as View;
use crate::tune::{Request as Measurement, SWEEPER};
use crate::verify::Request;
pub use ctl::Request as Steering;
use normalise::Normalised;

/// The command line as argh reads it and explains it.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    name = "gfast",
    usage = "-source PATH -dest PATH [options]",
    description = "Copies what SOURCE holds into DEST. The same command again resumes an\n\
                   interrupted job, or copies what has changed since; it says which it does.",
    help_triggers("-h", "--help"),
    example = "{command_name} -source /data/old -dest /data/new -streams 32",
    example = "{command_name} verify -source /data/old -dest /data/new",
    note = "gfast verify compares, gfast report says what was done: see their --help.",
    note = "gfast ctl steers a running job, gfast tui shows it.",
    note = "gfast tune measures which settings are best.",
    note = "Options are written -name or --name, with their value as the next word or after '='.",
    note = "Sizes: K, M, G, T and KiB, MiB, GiB, TiB count in 1024, KB, MB, GB, TB in 1000.",
    error_code(0, "all done"),
    error_code(1, "the command line cannot be understood"),
    error_code(2, "refused, nothing was touched"),
    error_code(11, "stopped: destination full, state damaged; resumable"),
    error_code(20, "interrupted, resumable"),
    error_code(23, "finished, some objects failed"),
    error_code(24, "finished, some source objects vanished or kept changing"),
    error_code(25, "finished, more deletes were due than allowed")
)]
struct Arguments {
    /// file, directory or block device to read
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    source: OsString,
    /// where its copy goes; made if it is missing
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    dest: OsString,
    /// objects open at once, 1 to 1024 (32), or auto: as the job finds best
    #[argh(option, arg_name = "count", from_str_fn(values::steered))]
    streams: Option<(u32, Pilot)>,
    /// most bytes a second: 500M, or off (off)
    #[argh(option, arg_name = "bytes", default = "None", from_str_fn(values::rate))]
    bwlimit: Option<u64>,
    /// most operations a second: objects, and blocks of large ones (off)
    #[argh(option, arg_name = "count", default = "None", from_str_fn(values::rate))]
    iops_limit: Option<u64>,
    /// bytes of one read or write of a large file (1M)
    #[argh(option, arg_name = "bytes", from_str_fn(values::block_bytes))]
    buffer_size: Option<usize>,
    /// where the job's state is kept (./.gofast-state)
    #[argh(option, arg_name = "dir", default = "STATE_DIR_DEFAULT.into()", from_str_fn(words::decode_value))]
    state_dir: OsString,
    /// leave owner and mode to the system; times are still set
    #[argh(switch)]
    no_metadata: bool,
    /// keep extended attributes and file capabilities
    #[argh(switch)]
    xattrs: bool,
    /// keep POSIX ACLs
    #[argh(switch)]
    acls: bool,
    /// auto, uring or sync: how the system is asked (auto)
    #[argh(option, arg_name = "which", from_str_fn(values::engine))]
    engine: Option<EngineChoice>,
    /// auto, always or never: pass the page cache by (auto)
    #[argh(option, arg_name = "when", from_str_fn(values::direct))]
    direct: Option<DirectChoice>,
    /// auto or never: clone within one file system (auto)
    #[argh(option, arg_name = "when", default = "ReflinkChoice::Auto", from_str_fn(values::reflink))]
    reflink: ReflinkChoice,
    /// batch, file or none: what is made durable together (batch)
    #[argh(option, arg_name = "what", default = "SyncPolicy::Batch", from_str_fn(values::sync))]
    sync: SyncPolicy,
    /// write every file under a temporary name and rename it
    #[argh(switch)]
    atomic: bool,
    /// count metadata that cannot be kept as a failure
    #[argh(switch)]
    strict: bool,
    /// seconds between checkpoints (5)
    #[argh(
        option,
        arg_name = "secs",
        default = "CHECKPOINT_INTERVAL_DEFAULT",
        from_str_fn(values::checkpoint_interval)
    )]
    checkpoint_interval: Duration,
    /// bytes between checkpoints (4G)
    #[argh(option, arg_name = "bytes", default = "CHECKPOINT_BYTES_DEFAULT", from_str_fn(values::checkpoint_bytes))]
    checkpoint_bytes: u64,
    /// do not cross mount points below the source
    #[argh(switch)]
    one_file_system: bool,
    /// take names that match, whatever a later --exclude says
    #[argh(option, arg_name = "pattern")]
    #[expect(dead_code, reason = "the normaliser turns it into a rule; it stands here for the help")]
    include: Vec<String>,
    /// leave out names that match, as rsync does; repeatable
    #[argh(option, arg_name = "pattern")]
    #[expect(dead_code, reason = "the normaliser turns it into a rule; it stands here for the help")]
    exclude: Vec<String>,
    /// both, in their order
    #[argh(option, hidden_help, from_str_fn(values::rule))]
    rule: Vec<Rule>,
    /// take only these NUL-separated paths; - is stdin
    #[argh(option, arg_name = "file", from_str_fn(words::decode_value))]
    files_from: Option<OsString>,
    /// where S3 requests go, instead of AWS
    #[argh(option, arg_name = "url", from_str_fn(words::decode_text))]
    endpoint_url: Option<String>,
    /// the S3 region
    #[argh(option, arg_name = "name", from_str_fn(words::decode_text))]
    region: Option<String>,
    /// the profile of ~/.aws to use
    #[argh(option, arg_name = "name", from_str_fn(words::decode_text))]
    profile: Option<String>,
    /// the same for the source, where it differs
    #[argh(option, arg_name = "url", from_str_fn(words::decode_text))]
    source_endpoint_url: Option<String>,
    /// the same for the source, where it differs
    #[argh(option, arg_name = "name", from_str_fn(words::decode_text))]
    source_region: Option<String>,
    /// the same for the source, where it differs
    #[argh(option, arg_name = "name", from_str_fn(words::decode_text))]
    source_profile: Option<String>,
    /// bytes of a part of a large S3 object (8M to 16M)
    #[argh(option, arg_name = "bytes", from_str_fn(values::part_bytes))]
    part_size: Option<u64>,
    /// storage class of new S3 objects
    #[argh(option, arg_name = "name", from_str_fn(words::decode_text))]
    storage_class: Option<String>,
    /// take set-id bits and device nodes from S3 metadata
    #[argh(switch)]
    special_bits: bool,
    /// write to a device that carries a file system or partitions
    #[argh(switch)]
    overwrite_device: bool,
    /// read a device although it is mounted read-write or in use
    #[argh(switch)]
    live_source: bool,
    /// go on behind unreadable blocks of a device; exit 23
    #[argh(switch)]
    skip_bad_sectors: bool,
    /// leave blocks alone that the destination device has already
    #[argh(switch)]
    skip_equal: bool,
    /// print what would be done and why; change nothing
    #[argh(switch)]
    dry_run: bool,
    /// take a file whose ctime alone is new for unchanged
    #[argh(switch)]
    ignore_ctime: bool,
    /// try only what failed in the last pass
    #[argh(switch)]
    retry_failed: bool,
    /// copy what is selected again, whatever is there or recorded
    #[argh(switch)]
    recopy: bool,
    /// remove what the source no longer has, at the end
    #[argh(switch)]
    delete: bool,
    /// with --delete: remove at most this many names, exit 25
    #[argh(option, arg_name = "count", from_str_fn(values::max_delete))]
    max_delete: Option<u64>,
    /// as --delete, even if the source is empty or not all listed
    #[argh(switch)]
    force_delete: bool,
    /// errors only; no progress, no summary when all went well
    #[argh(switch)]
    quiet: bool,
    /// print the summary as one JSON object
    #[argh(switch)]
    json: bool,
    /// record every file's CRC64; read back S3 objects that the server does not check
    #[argh(switch)]
    checksum: bool,
    /// as --checksum; read every copy back from the device too
    #[argh(switch)]
    readback: bool,
    /// serve figures for Prometheus at ADDRESS:PORT, or a port of this machine
    #[argh(option, arg_name = "addr", from_str_fn(values::metrics_addr))]
    metrics_addr: Option<SocketAddr>,
    /// show the job on the whole terminal; it goes on when the view is left
    #[argh(switch)]
    tui: bool,
    /// print the version
    #[argh(switch)]
    #[expect(dead_code, reason = "answered before argh parses; it stands here for the help and the normaliser")]
    version: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// A job.
    Run(Box<Config>),
    /// A job that is only to be told.
    Rehearse(Box<Config>),
    /// A job that is started by itself, with these words, and shown; without a terminal it is a job like any other.
    Show(Box<Config>, Vec<OsString>),
    /// A view of a job that runs already.
    View(Box<View>),
    /// A comparison.
    Verify(Box<Request>),
    /// A report to be written or checked.
    Report(Box<ledger::Request>),
    /// What a running job is to be told.
    Steer(Box<Steering>),
    /// Settings to be measured.
    Tune(Box<Measurement>),
    /// What a measurement has made is to be removed when it ends.
    Sweep,
    /// A text for stdout; exit 0.
    Print(String),
    /// A command whose only code for errors is 2 cannot be understood.
    Trouble(Error),
    /// It cannot be understood; exit 1.
    Err(Error),
}

/// Reads the command line, program name first. Touches nothing: no file system, no environment.
pub fn parse(args: impl Iterator<Item = OsString>) -> Parsed {
    let command: Vec<OsString> = args.collect();
    let words: Vec<String> = command.iter().skip(1).map(words::encode).collect();
    let (parsed, refused): (_, fn(Error) -> Parsed) = match words.split_first() {
        Some((word, rest)) if word == "verify" => {
            let parsed = read::<verify::Arguments>(&["gfast", "verify"], rest.to_vec());
            let request = |arguments: verify::Arguments| arguments.resolve().map(Box::new).map(Parsed::Verify);
            (parsed.and_then(|read| read.map_or_else(Ok, request)), Parsed::Trouble)
        }
        Some((word, rest)) if word == "tune" => {
            let parsed = read::<tune::Arguments>(&["gfast", "tune"], rest.to_vec());
            let request = |arguments: tune::Arguments| arguments.resolve().map(Box::new).map(Parsed::Tune);
            (parsed.and_then(|read| read.map_or_else(Ok, request)), Parsed::Err)
        }
        Some((word, [])) if word == SWEEPER => return Parsed::Sweep,
        Some((word, rest)) if word == "report" => {
            let parsed = read::<report::Arguments>(&["gfast", "report"], rest.to_vec());
            let request = |arguments: report::Arguments| arguments.resolve().map(Box::new).map(Parsed::Report);
            (parsed.and_then(|read| read.map_or_else(Ok, request)), Parsed::Err)
        }
        Some((word, rest)) if word == "ctl" => {
            let parsed = read::<ctl::Arguments>(&["gfast", "ctl"], rest.to_vec());
            let request = |arguments: ctl::Arguments| arguments.resolve().map(Box::new).map(Parsed::Steer);
            (parsed.and_then(|read| read.map_or_else(Ok, request)), Parsed::Err)
        }
        Some((word, rest)) if word == "tui" => {
            let parsed = read::<tui::Arguments>(&["gfast", "tui"], rest.to_vec());
            let view = |arguments: tui::Arguments| Ok(Parsed::View(Box::new(arguments.resolve())));
            (parsed.and_then(|read| read.map_or_else(Ok, view)), Parsed::Err)
        }
        _ => {
            let shown = normalise::without("tui", &words, &Arguments::get_args_info());
            let config = |arguments: Arguments| {
                let (is_rehearsal, is_shown) = (arguments.dry_run, arguments.tui);
                let config = Box::new(arguments.resolve(command.clone())?);
                Ok(match (is_rehearsal, is_shown) {
                    (true, _) => Parsed::Rehearse(config),
                    (false, true) => Parsed::Show(config, keep(&command, &shown)),
                    (false, false) => Parsed::Run(config),
                })
            };
            (read::<Arguments>(&["gfast"], words).and_then(|read| read.map_or_else(Ok, config)), Parsed::Err)
        }
    };
    parsed.unwrap_or_else(refused)
}

/// Reads one command's words; the inner `Err` is a text that was asked for instead.
fn read<A: ArgsInfo + FromArgs>(name: &[&str], words: Vec<String>) -> Result<std::result::Result<A, Parsed>> {
    let normalised = match normalise::normalise(words, &A::get_args_info())? {
        Normalised::Help => vec!["--help".to_owned()],
        Normalised::Version => return Ok(Err(Parsed::Print(format!("gfast {}\n", env!("CARGO_PKG_VERSION"))))),
        Normalised::Words(words) => words,
    };
    let words: Vec<&str> = normalised.iter().map(String::as_str).collect();
    match A::from_args(name, &words) {
        Ok(arguments) => Ok(Ok(arguments)),
        Err(EarlyExit { output, status: Ok(()) }) => Ok(Err(Parsed::Print(output))),
        Err(EarlyExit { output, status: Err(()) }) => Err(Error::usage(one_line(&output))),
    }
}

/// The program's name, and those of the words behind it that are kept.
fn keep(command: &[OsString], kept: &[bool]) -> Vec<OsString> {
    let words = command.iter().skip(1).zip(kept).filter(|(_, kept)| **kept).map(|(word, _)| word);
    command.iter().take(1).chain(words).cloned().collect()
}

/// argh's message as one printable line; it may quote a value, which is still encoded.
fn one_line(output: &str) -> String {
    let words: Vec<&str> = output.split_ascii_whitespace().collect();
    escape(&words::decode(&words.join(" ")))
}

impl Arguments {
    /// What a profile may choose.
    fn left_open(&self) -> Vec<Knob> {
        let knobs = [
            (self.streams.is_none(), Knob::Streams),
            (self.buffer_size.is_none(), Knob::BufferSize),
            (self.engine.is_none(), Knob::Engine),
            (self.direct.is_none(), Knob::Direct),
            (self.part_size.is_none(), Knob::PartSize),
            // No options: a profile alone chooses.
            (true, Knob::Depth),
            (true, Knob::Buffers),
        ];
        knobs.into_iter().filter(|(is_open, _)| *is_open).map(|(_, knob)| knob).collect()
    }

    /// What is allowed with block devices.
    fn devices(&self) -> DeviceOptions {
        DeviceOptions {
            overwrite: if self.overwrite_device { Overwrite::Allow } else { Overwrite::Refuse },
            live_source: if self.live_source { LiveSource::Allow } else { LiveSource::Refuse },
            bad_sectors: if self.skip_bad_sectors { BadSectors::Skip } else { BadSectors::Fail },
            equal_blocks: if self.skip_equal { EqualBlocks::Leave } else { EqualBlocks::Write },
        }
    }

    fn resolve(self, command: Vec<OsString>) -> Result<Config> {
        let (open, devices) = (self.left_open(), self.devices());
        let source = location("--source", self.source)?;
        let dest = location("--dest", self.dest)?;
        if self.retry_failed && (self.delete || self.force_delete) {
            return Err(Error::usage("--retry-failed looks at nothing else, so it cannot --delete"));
        }
        if self.retry_failed && self.recopy {
            return Err(Error::usage("--retry-failed and --recopy exclude each other"));
        }
        if self.dry_run && self.retry_failed {
            return Err(Error::usage("--dry-run tells of whole passes only"));
        }
        if self.max_delete.is_some() && !self.delete && !self.force_delete {
            return Err(Error::usage("--max-delete needs --delete"));
        }
        if self.acls && self.no_metadata {
            return Err(Error::usage("--acls keeps modes, --no-metadata leaves them to the system"));
        }
        if self.state_dir.is_empty() {
            return Err(Error::usage("--state-dir is empty"));
        }
        if self.tui && self.dry_run {
            return Err(Error::usage("--dry-run prints and ends: there is nothing for --tui to show"));
        }
        if self.tui && self.files_from.as_deref().is_some_and(|file| file == "-") {
            return Err(Error::usage("--tui reads its keys from stdin: put what --files-from takes in a file"));
        }
        Ok(Config {
            source,
            dest,
            streams: self.streams.map_or(STREAMS_DEFAULT, |(streams, _)| streams),
            pilot: self.streams.map_or(Pilot::User, |(_, pilot)| pilot),
            metrics_addr: self.metrics_addr,
            bytes_per_s: self.bwlimit,
            ops_per_s: self.iops_limit,
            block_bytes: self.buffer_size.unwrap_or(BLOCK_BYTES_DEFAULT),
            file_depth: FILE_DEPTH,
            buffers: BufferChoice::Registered,
            state_dir: PathBuf::from(self.state_dir),
            metadata: if self.no_metadata { Metadata::TimesOnly } else { Metadata::Keep },
            attributes: Attributes::of(self.xattrs, self.acls),
            engine: self.engine.unwrap_or(EngineChoice::Auto),
            direct: self.direct.unwrap_or(DirectChoice::Auto),
            reflink: self.reflink,
            sync: self.sync,
            naming: if self.atomic { Naming::Atomic } else { Naming::InPlace },
            losses: if self.strict { LossPolicy::Fail } else { LossPolicy::Count },
            checkpoint_interval: self.checkpoint_interval,
            checkpoint_bytes: self.checkpoint_bytes,
            mounts: if self.one_file_system { Mounts::Stay } else { Mounts::Cross },
            ctime: if self.ignore_ctime { CtimePolicy::Ignore } else { CtimePolicy::Heed },
            retry: match (self.retry_failed, self.recopy) {
                (true, _) => Retry::FailedOnly,
                (false, true) => Retry::All,
                (false, false) => Retry::WithAll,
            },
            delete: (self.delete || self.force_delete)
                .then_some(Deletes { max: self.max_delete, is_forced: self.force_delete }),
            filter: Filter::new(self.rule),
            files_from: self.files_from.map(PathBuf::from),
            source_s3: S3Options {
                endpoint_url: self.source_endpoint_url.or_else(|| self.endpoint_url.clone()),
                region: self.source_region.or_else(|| self.region.clone()),
                profile: self.source_profile.or_else(|| self.profile.clone()),
                storage_class: None,
            },
            dest_s3: S3Options {
                endpoint_url: self.endpoint_url,
                region: self.region,
                profile: self.profile,
                storage_class: self.storage_class,
            },
            part_bytes: self.part_size,
            checksum: match (self.readback, self.checksum) {
                (true, _) => ChecksumPolicy::ReadBack,
                (false, true) => ChecksumPolicy::Keep,
                (false, false) => ChecksumPolicy::Free,
            },
            special_bits: if self.special_bits { SpecialBits::Restore } else { SpecialBits::Leave },
            devices,
            output: match (self.quiet, self.json) {
                (false, false) => Output::Text,
                (true, false) => Output::Quiet,
                (false, true) => Output::Json,
                (true, true) => Output::QuietJson,
            },
            umask: UMASK_DEFAULT,
            command,
            stop_time: STOP_TIME_MAX,
            stall_time: values::stall_time(),
            open,
        })
    }
}

fn location(option: &str, value: OsString) -> Result<Location> {
    Location::parse(value).map_err(|why| Error::usage(format!("{option} {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn parse_line(line: &str) -> Parsed {
        parse(std::iter::once("gfast").chain(line.split_whitespace()).map(OsString::from))
    }

    fn config(line: &str) -> Config {
        match parse_line(line) {
            Parsed::Run(config) => *config,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(line: &str) -> String {
        match parse_line(line) {
            Parsed::Err(error) => error.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_documented_command_in_every_spelling() {
        let full = "-source /a -dest /b -streams 16 -buffer-size 2MiB -state-dir ./s -no-metadata";
        let spelt = "--source=/a --dest=/b --streams=16 --buffer-size=2097152 --state-dir=./s --no-metadata";
        let (one, two) = (config(full), config(spelt));
        let key = |c: &Config| format!("{:?}", Config { command: Vec::new(), ..c.clone() });
        assert_eq!(key(&one), key(&two));
        assert_eq!(one.source, Location::Posix("/a".into()));
        assert_eq!((one.streams, one.block_bytes, one.metadata), (16, 2 << 20, Metadata::TimesOnly));
        assert_eq!(one.state_dir, PathBuf::from("./s"));
        assert_eq!(one.command[1], "-source");
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = config("-source a -dest b");
        assert_eq!((config.streams, config.block_bytes), (32, 1_048_576));
        assert_eq!(config.state_dir, PathBuf::from("./.gofast-state"));
        assert_eq!((config.checkpoint_interval, config.checkpoint_bytes), (Duration::from_secs(5), 4 << 30));
        assert_eq!((config.sync, config.output, config.naming), (SyncPolicy::Batch, Output::Text, Naming::InPlace));
        assert_eq!((config.mounts, config.losses, config.metadata), (Mounts::Cross, LossPolicy::Count, Metadata::Keep));
    }

    #[test]
    fn values_of_any_bytes_arrive_unchanged() {
        let value = OsString::from_vec(b"/a\xff=\xc3\xa4 \n".to_vec());
        let mut joined = OsString::from("-dest=");
        joined.push(&value);
        let words = ["gfast".into(), "--source".into(), value.clone(), joined];
        match parse(words.into_iter()) {
            Parsed::Run(config) => {
                assert_eq!(config.source, Location::Posix(value.clone().into()));
                assert_eq!(config.dest, Location::Posix(value.into()));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_shown_job_is_started_without_the_view() {
        match parse_line("-source -tui -tui --dest=-tui --tui -quiet") {
            Parsed::Show(config, command) => {
                assert_eq!(config.source, Location::Posix("-tui".into()));
                assert_eq!(command, ["gfast", "-source", "-tui", "--dest=-tui", "-quiet"]);
            }
            other => panic!("{other:?}"),
        }
        assert!(error("-source a -dest b -tui -dry-run").contains("nothing for --tui"));
        assert!(error("-source a -dest b -tui -files-from -").contains("stdin"));
    }

    #[test]
    fn what_is_not_there_yet_says_so() {
        assert!(error("-source a -dest s3:///key").contains("--dest"));
    }

    #[test]
    fn unusable_command_lines_are_one_clear_line() {
        for (line, part) in [
            ("", "--source --dest"),
            ("-source a", "--dest"),
            ("-source a -dest b -streams 0", "1 to 1024"),
            ("-source a -dest b -streams 1025", "1 to 1024"),
            ("-source a -dest b -buffer-size 1", "4096"),
            ("-source a -dest b -engine fast", "auto, uring or sync"),
            ("-source a -dest b -checkpoint-interval -1", "seconds"),
            ("-source a -dest b -state-dir=", "--state-dir is empty"),
            ("-source= -dest b", "--source is empty"),
            ("-source a -dest b extra", "extra"),
        ] {
            let message = error(line);
            assert!(message.contains(part) && !message.contains('\n'), "{line}: {message}");
        }
    }

    #[test]
    fn help_and_version_are_printed_whatever_else_is_there() {
        for line in ["-h", "--help", "-help", "-source a --help -streams 0"] {
            match parse_line(line) {
                Parsed::Print(text) => assert!(text.starts_with("Usage: gfast") && text.contains("--checkpoint-bytes")),
                other => panic!("{line}: {other:?}"),
            }
        }
        match parse_line("--version") {
            Parsed::Print(text) => assert_eq!(text, concat!("gfast ", env!("CARGO_PKG_VERSION"), "\n")),
            other => panic!("{other:?}"),
        }
    }
}
