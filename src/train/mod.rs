//! Training, and what the command line needs around it.

pub mod interrupt;
pub mod progress;
