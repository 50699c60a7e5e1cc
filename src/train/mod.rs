//! Training, and what the command line needs around it.

pub mod atomic;
pub mod interrupt;
pub mod optimizer;
pub mod progress;
pub mod table;
