//! GPT-2 on the CPU: forward, backward and cached decoding of one fixed network, of any size by its [`Config`].
//!
//! Pre-LN blocks, `gelu_new`, learned positions, tied output head (Radford et al., 2019). Batches are ragged: all
//! sequences lie one after another, so nothing is ever computed for padding.
//!
//! A training step is [`forward`], then [`lm_loss`] or a gradient of one's own in [`Tape::d_hidden_mut`] (or both, they
//! add up), then [`backward`]. It runs on the current rayon pool. A batch is cut into chunks of whole sequences by its
//! lengths alone; a chunk is computed by one thread, and sums over chunks are taken in their order. Results are
//! therefore the same bit by bit from run to run and for any number of threads.

mod attention;
mod backward;
mod buffers;
pub(crate) mod cache;
pub mod config;
mod dropout;
mod embedding;
mod forward;
mod gelu;
pub(crate) mod infer;
mod loss;
pub(crate) mod network;
mod norm;
mod tape;
mod tile;
pub mod weights;

pub use backward::backward;
pub use config::Config;
pub use dropout::Dropout;
#[cfg(feature = "train")]
pub(crate) use dropout::{Masks, Site};
pub(crate) use embedding::check_sequences;
pub use forward::forward;
pub use loss::{NO_TARGET, lm_loss, lm_nll};
pub use tape::Tape;
pub use weights::Weights;
