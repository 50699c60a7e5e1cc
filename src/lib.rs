//! libtrafficgpt: a GPT-2 over packet sizes and times that classifies network flows and generates them.
//!
//! ```text
//! capture ─ meter ─► Flow(packets) ─ quantizer ─► tokens ─ engine ─┬► embedding ─ head ─► label, score
//!                                                                  └► next-token sampling ─► tokens ─ quantizer⁻¹ ─► Flow
//! ```
//!
//! Modules depend on those before them in that picture, never after: `ffi` → [`flows`] → [`classifier`], [`generator`] →
//! [`engine`] → [`gpt2`], [`tokens`] → [`quantizer`] → [`packet`]. Nothing below `ffi` knows that C exists.
//!
//! The library prints nothing, never panics on input, and allocates no size that came from outside before bounding
//! it. `unsafe` is denied everywhere but in `ffi`, [`backend`] and [`cuda`].

pub mod backend;
pub mod bundle;
pub mod classifier;
pub mod config;
pub mod context;
pub mod cuda;
pub mod engine;
pub mod error;
pub mod ffi;
pub mod flows;
pub mod generator;
pub mod gpt2;
pub mod head;
pub mod meter;
mod model;
pub mod packet;
pub mod quantizer;
pub mod random;
pub mod sampling;
pub mod tokens;
pub mod worker;

#[cfg(feature = "train")]
pub mod onnx;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, Kind, Result};
