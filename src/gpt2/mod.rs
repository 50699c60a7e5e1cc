//! GPT-2 on the CPU: forward, backward and cached decoding of one fixed network, of any size by its [`Config`].
//!
//! Pre-LN blocks, `gelu_new`, learned positions, tied output head (Radford et al., 2019). Batches are ragged: all
//! sequences lie one after another, so nothing is ever computed for padding.

pub mod config;
pub mod weights;

pub use config::Config;
pub use weights::Weights;
