//! Heads: embedding → scores.

pub mod linear;

pub use linear::Linear;
