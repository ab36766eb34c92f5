//! `gfast tune`: its words into a [`Request`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::{location, values, words};
use crate::config::{S3Options, STATE_DIR_DEFAULT};
use crate::error::{Error, Result};
use crate::tune::{Form, Keeping, Request};

/// The command line of `tune` as argh reads it and explains it.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    name = "tune",
    usage = "-source PATH -dest PATH [options]",
    description = "Measures which settings copy fastest from SOURCE to DEST, by copying samples of\n\
                   SOURCE into a scratch folder in DEST, which is removed again.",
    help_triggers("-h", "--help"),
    example = "gfast tune -source /data/old -dest /data/new -seconds 60",
    example = "gfast tune -source /data/old -dest s3://bucket/prefix -write",
    error_code(0, "measured"),
    error_code(1, "the command line cannot be understood"),
    error_code(2, "refused, nothing was touched"),
    error_code(11, "stopped: destination full, or the scratch folder could not be removed"),
    error_code(20, "interrupted")
)]
pub(super) struct Arguments {
    /// what a job would read
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    source: OsString,
    /// where its copy would go
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    dest: OsString,
    /// how long it may take, 1 to 3600 (30)
    #[argh(option, arg_name = "secs", default = "Duration::from_secs(30)", from_str_fn(values::seconds))]
    seconds: Duration,
    /// keep what was found as a profile in --state-dir: later jobs use it
    #[argh(switch)]
    write: bool,
    /// where profiles and the jobs' state are kept (./.gofast-state)
    #[argh(option, arg_name = "dir", default = "STATE_DIR_DEFAULT.into()", from_str_fn(words::decode_value))]
    state_dir: OsString,
    /// where S3 requests go, instead of AWS
    #[argh(option, arg_name = "url", from_str_fn(words::decode_text))]
    endpoint_url: Option<String>,
    /// the S3 region
    #[argh(option, arg_name = "name", from_str_fn(words::decode_text))]
    region: Option<String>,
    /// the profile of ~/.aws to use
    #[argh(option, arg_name = "name", from_str_fn(words::decode_text))]
    profile: Option<String>,
    /// print what was measured as one JSON object
    #[argh(switch)]
    json: bool,
    /// no notes, errors only, on stderr
    #[argh(switch)]
    quiet: bool,
}

impl Arguments {
    pub(super) fn resolve(self) -> Result<Request> {
        if self.state_dir.is_empty() {
            return Err(Error::usage("--state-dir is empty"));
        }
        Ok(Request {
            source: location("--source", self.source)?,
            dest: location("--dest", self.dest)?,
            seconds: self.seconds,
            keeping: if self.write { Keeping::Write } else { Keeping::Tell },
            state_dir: PathBuf::from(self.state_dir),
            s3: S3Options {
                endpoint_url: self.endpoint_url,
                region: self.region,
                profile: self.profile,
                storage_class: None,
            },
            form: if self.json { Form::Json } else { Form::Text },
            is_quiet: self.quiet,
        })
    }
}
