//! The streaming table, through its public face.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod bench;
mod captures;
#[path = "../common/mod.rs"]
mod common;
mod ends;
mod full;
mod hostile;
mod swap;
mod verdicts;
