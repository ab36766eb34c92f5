//! gfast: moves huge file trees between storage systems, bit-perfect and resumable.

pub mod catalog;
pub mod cli;
pub mod config;
pub mod error;
pub mod filesystem;
pub mod location;
pub mod report;
pub mod ring;
<<<<<<< HEAD
=======
pub mod roots;
>>>>>>> cli
pub mod stop;
