//! gfast: moves huge file trees between storage systems, bit-perfect and resumable.

pub mod bell;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod conduct;
pub mod config;
pub mod engine;
pub mod error;
pub mod filesystem;
pub mod finish;
pub mod gate;
pub mod job;
pub mod large;
pub mod links;
pub mod listing;
pub mod location;
pub mod outcome;
pub mod plan;
pub mod provider;
pub mod report;
pub mod resume;
pub mod ring;
pub mod roots;
pub mod shard;
pub mod stop;
pub mod transfer;
pub mod walk;

#[cfg(test)]
#[path = "tests/simulation.rs"]
mod simulation;
