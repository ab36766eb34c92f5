//! `gfast report`: its words into a [`Request`].

use std::ffi::OsString;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::{values, words};
use crate::config::STATE_DIR_DEFAULT;
use crate::error::{Error, Result};
use crate::ledger::{Format, Request, Wanted};

/// The command line of `report` as argh reads it and explains it.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    name = "report",
    usage = "[-state-dir DIR] [options]",
    description = "Says what a job did to every object, from its recorded state. Every line of\n\
                   ndjson and csv vouches for those before it.",
    help_triggers("-h", "--help"),
    example = "gfast report -state-dir /var/lib/gfast -format csv > report.csv",
    example = "gfast report -check report.csv",
    error_code(0, "written, or intact"),
    error_code(1, "the command line cannot be understood"),
    error_code(2, "no such job, or the checked report was changed or cut")
)]
pub(super) struct Arguments {
    /// where the job's state is kept (./.gofast-state)
    #[argh(option, arg_name = "dir", from_str_fn(words::decode_value))]
    state_dir: Option<OsString>,
    /// which job, where there are several: by its destination
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    dest: Option<OsString>,
    /// list what failed
    #[argh(switch)]
    failed: bool,
    /// list what lost metadata
    #[argh(switch)]
    losses: bool,
    /// text, ndjson or csv (text)
    #[argh(option, arg_name = "which", from_str_fn(values::format))]
    format: Option<Format>,
    /// check a report that was written before
    #[argh(option, arg_name = "file", from_str_fn(words::decode_value))]
    check: Option<OsString>,
}

impl Arguments {
    pub(super) fn resolve(self) -> Result<Request> {
        let wanted = Wanted { failed: self.failed, losses: self.losses };
        let Some(file) = self.check else {
            return Ok(Request::Write {
                state_dir: PathBuf::from(self.state_dir.unwrap_or_else(|| STATE_DIR_DEFAULT.into())),
                dest: self.dest.map(PathBuf::from),
                wanted,
                format: self.format.unwrap_or(Format::Text),
            });
        };
        let is_alone = self.state_dir.is_none() && self.dest.is_none() && self.format.is_none();
        match is_alone && wanted == Wanted::default() {
            true => Ok(Request::Check(PathBuf::from(file))),
            false => Err(Error::usage("--check stands alone: the report tells the rest")),
        }
    }
}
