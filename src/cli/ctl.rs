//! `gfast ctl`: its words into a [`Request`], and what is done with it.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::words;
use crate::config::STATE_DIR_DEFAULT;
use crate::control::client::Client;
use crate::control::command::{self, Command};
use crate::error::{Error, Result};

/// The command line of `ctl` as argh reads it and explains it.
#[derive(Debug, FromArgs, ArgsInfo)]
#[argh(
    name = "ctl",
    usage = "[-state-dir DIR] COMMAND...",
    description = "Steers a running job, or says how it stands.\n\
                   Commands: streams=48, streams=+8, streams=-8, streams=auto, pause, continue,\n\
                   bwlimit=500M, bwlimit=off, iops-limit=1000, iops-limit=off, status, stop.",
    help_triggers("-h", "--help"),
    example = "gfast ctl -state-dir /var/lib/gfast streams=48 bwlimit=500M",
    example = "gfast ctl -state-dir /var/lib/gfast status",
    error_code(0, "done"),
    error_code(1, "the command line cannot be understood"),
    error_code(2, "no such job is running, or it refused")
)]
pub(super) struct Arguments {
    /// where the job's state is kept (./.gofast-state)
    #[argh(option, arg_name = "dir", default = "STATE_DIR_DEFAULT.into()", from_str_fn(words::decode_value))]
    state_dir: OsString,
    /// which job, where there are several: by its destination
    #[argh(option, arg_name = "path", from_str_fn(words::decode_value))]
    dest: Option<OsString>,
    /// print the answers as JSON, one a line
    #[argh(switch)]
    json: bool,
    /// what the job is told, in this order
    #[argh(positional, arg_name = "command")]
    commands: Vec<String>,
}

/// What a running job is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where the job's state is kept.
    state_dir: PathBuf,
    /// Which job, where there are several: by its destination.
    dest: Option<PathBuf>,
    /// How answers are printed.
    form: Form,
    /// What it is told, in this order.
    commands: Vec<String>,
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// For people.
    Text,
    /// As they come.
    Json,
}

impl Arguments {
    pub(super) fn resolve(self) -> Result<Request> {
        if self.commands.is_empty() {
            return Err(Error::usage("ctl needs a command: see gfast ctl --help"));
        }
        for text in &self.commands {
            command::parse(text).map_err(|why| Error::usage(format!("{}: {why}", super::one_line(text))))?;
        }
        Ok(Request {
            state_dir: PathBuf::from(self.state_dir),
            dest: self.dest.map(PathBuf::from),
            form: if self.json { Form::Json } else { Form::Text },
            commands: self.commands,
        })
    }
}

impl Request {
    /// Tells the job, one command after the other, with its answers to `out`. Refused: the job does not run, or will
    /// not do one of them.
    pub fn run(&self, out: &mut dyn Write) -> Result<()> {
        let mut client = Client::connect(&self.state_dir, self.dest.as_deref())?;
        self.commands.iter().try_for_each(|command| self.tell(&mut client, command, out))
    }

    fn tell(&self, client: &mut Client, text: &str, out: &mut dyn Write) -> Result<()> {
        let is_status = command::parse(text) == Ok(Command::Status);
        let (printed, refusal) = match (self.form, is_status) {
            (Form::Json, true) => (client.ask(text)? + "\n", None),
            (Form::Text, true) => (client.status()?.text(), None),
            (form, false) => {
                let answer = client.tell(text)?;
                let refusal = (!answer.ok).then(|| answer.line.clone());
                let json = serde_json::to_string(&answer).unwrap_or_default();
                (if form == Form::Json { json } else { answer.line } + "\n", refusal)
            }
        };
        match refusal {
            Some(why) if self.form == Form::Text => Err(Error::refused(text, why)),
            refusal => {
                let written = out.write_all(printed.as_bytes());
                written.map_err(|error| Error::refused("stdout", format!("cannot be written: {error}")))?;
                refusal.map_or(Ok(()), |why| Err(Error::refused(text, why)))
            }
        }
    }
}
