//! `gfast verify`: its words into a [`Request`].

use std::ffi::OsString;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::{location, values, words};
use crate::config::*;
use crate::error::{Error, Result};
use crate::filter::{Filter, Rule};
use crate::verify::{Form, Request};

/// The command line of `verify` as argh reads it and explains it.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    name = "verify",
    usage = "[-source PATH] -dest PATH [options]",
    description = "Compares DEST with SOURCE, or with what was recorded when it was written, and\n\
                   says what differs. Changes neither.",
    help_triggers("-h", "--help"),
    example = "gfast verify -source /data/old -dest /data/new",
    example = "gfast verify -dest /data/new -state-dir /var/lib/gfast",
    note = "The destination's content is read past the page cache.",
    error_code(0, "all is the same"),
    error_code(1, "something differs"),
    error_code(2, "something could not be compared")
)]
pub(super) struct Arguments {
    /// what it is compared with; the state in --state-dir if left out
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    source: Option<OsString>,
    /// what is compared
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    dest: OsString,
    /// where the job's state is kept (./.gofast-state)
    #[argh(option, arg_name = "dir", default = "STATE_DIR_DEFAULT.into()", from_str_fn(words::decode_value))]
    state_dir: OsString,
    /// compare this much of the content, drawn at random
    #[argh(option, arg_name = "percent", from_str_fn(values::percent))]
    sample: Option<f64>,
    /// holes of the source must be holes at the destination
    #[argh(switch)]
    holes: bool,
    /// compare neither owner nor mode
    #[argh(switch)]
    no_metadata: bool,
    /// compare extended attributes and file capabilities
    #[argh(switch)]
    xattrs: bool,
    /// compare POSIX ACLs
    #[argh(switch)]
    acls: bool,
    /// do not cross mount points below the source
    #[argh(switch)]
    one_file_system: bool,
    /// compare names that match, whatever a later --exclude says
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
    /// compare only these NUL-separated paths; - is stdin
    #[argh(option, arg_name = "file", from_str_fn(words::decode_value))]
    files_from: Option<OsString>,
    /// files read at once, 1 to 1024 (32)
    #[argh(option, arg_name = "count", default = "STREAMS_DEFAULT", from_str_fn(values::streams))]
    streams: u32,
    /// bytes of one read of a large file (1M)
    #[argh(option, arg_name = "bytes", default = "BLOCK_BYTES_DEFAULT", from_str_fn(values::block_bytes))]
    buffer_size: usize,
    /// auto, uring or sync: how the system is asked (auto)
    #[argh(option, arg_name = "which", default = "EngineChoice::Auto", from_str_fn(values::engine))]
    engine: EngineChoice,
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
    /// print what differs, and a summary, as one JSON object a line
    #[argh(switch)]
    json: bool,
    /// print only the paths that differ, a NUL behind each
    #[argh(switch, short = '0')]
    null: bool,
    /// no notes, errors only, on stderr
    #[argh(switch)]
    quiet: bool,
}

impl Arguments {
    pub(super) fn resolve(self) -> Result<Request> {
        let form = match (self.json, self.null) {
            (false, false) => Form::Text,
            (true, false) => Form::Json,
            (false, true) => Form::Paths,
            (true, true) => return Err(Error::usage("--json and -0 exclude each other")),
        };
        if self.source.is_none() && self.files_from.is_some() {
            return Err(Error::usage("--files-from needs --source"));
        }
        if self.source.is_none() && (self.xattrs || self.acls) {
            return Err(Error::usage("--xattrs and --acls need --source: no state holds any"));
        }
        Ok(Request {
            source: self.source.map(|source| location("--source", source)).transpose()?,
            dest: location("--dest", self.dest)?,
            state_dir: PathBuf::from(self.state_dir),
            streams: self.streams,
            block_bytes: self.buffer_size,
            engine: self.engine,
            metadata: if self.no_metadata { Metadata::TimesOnly } else { Metadata::Keep },
            attributes: Attributes::of(self.xattrs, self.acls),
            mounts: if self.one_file_system { Mounts::Stay } else { Mounts::Cross },
            filter: Filter::new(self.rule),
            files_from: self.files_from.map(PathBuf::from),
            sample: self.sample,
            has_holes: self.holes,
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
                storage_class: None,
            },
            form,
            is_quiet: self.quiet,
            stall_time: values::stall_time(),
        })
    }
}
