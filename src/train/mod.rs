//! Training, and what the command line needs around it.

pub mod atomic;
pub mod calibrate;
pub mod dataset;
pub mod head_loss;
pub mod interrupt;
pub mod metrics;
pub mod progress;
pub mod schedule;
pub mod settings;
pub mod table;
