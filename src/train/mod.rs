//! Training, and what the command line needs around it.

pub mod atomic;
pub mod interrupt;
pub mod optimizer;
pub mod plot;
pub mod progress;
pub mod similarity;
pub mod table;
