//! Heads: embedding → scores, and what votes beside them.

pub mod forest;
pub mod linear;

pub use forest::Forest;
pub use linear::Linear;
