//! `gfast tui`: its words into a [`Request`].

use std::ffi::OsString;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::words;
use crate::config::STATE_DIR_DEFAULT;
use crate::tui::Request;

/// The command line of `tui` as argh reads it and explains it.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    name = "tui",
    usage = "[-state-dir DIR] [-dest PATH]",
    description = "Shows a running job on the whole terminal and steers it. Leaving it does not\n\
                   stop the job.",
    help_triggers("-h", "--help"),
    example = "gfast tui -state-dir /var/lib/gfast",
    note = "? shows the keys. No colours with NO_COLOR.",
    error_code(0, "left, or the job has ended"),
    error_code(1, "the command line cannot be understood, or there is no terminal"),
    error_code(2, "no such job is running"),
    error_code(20, "a signal ended the view; the job goes on")
)]
pub(super) struct Arguments {
    /// where the job's state is kept (./.gofast-state)
    #[argh(option, arg_name = "dir", default = "STATE_DIR_DEFAULT.into()", from_str_fn(words::decode_value))]
    state_dir: OsString,
    /// which job, where there are several: by its destination
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    dest: Option<OsString>,
}

impl Arguments {
    pub(super) fn resolve(self) -> Request {
        Request { state_dir: PathBuf::from(self.state_dir), dest: self.dest.map(PathBuf::from) }
    }
}
