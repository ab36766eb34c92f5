//! A running job seen and steered from outside: what it says of itself, and what it can be told.
//!
//! ```text
//! gfast ctl, tui --client--> socket in the job's folder --server--> command --> desk --> gate, limits, stop
//! SIGUSR1, SIGUSR2 ----------------------- nudges -----------------------------^
//! ```
//! One line in, one line of JSON out. Whoever may read the job's folder (0700) may steer it; nobody can harm it.

pub mod client;
pub mod command;
mod desk;
pub(crate) mod metrics;
mod server;
mod show;
pub mod status;

pub(crate) use desk::{Desk, Facts};
pub(crate) use server::{listen, serve};

/// Name of the socket in the job's folder.
const SOCKET: &str = "control";
