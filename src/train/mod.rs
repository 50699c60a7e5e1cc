//! Training, and what the command line needs around it.

pub mod atomic;
pub mod batch;
pub mod calibrate;
pub mod checkpoint;
pub mod dataset;
pub mod evaluate;
pub mod finetune;
pub mod head_loss;
pub mod interrupt;
pub mod jitter;
pub mod metrics;
pub mod optimizer;
pub mod pace;
pub mod parameters;
pub mod pretrain;
pub mod progress;
pub mod quantizer_file;
pub mod record;
pub mod rundir;
pub mod schedule;
pub mod session;
pub mod settings;
pub mod ship;
pub mod table;
pub mod trainer;
