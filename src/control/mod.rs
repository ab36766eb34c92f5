//! A running job seen and steered from outside: what it says of itself, and what it can be told.

pub mod status;
