//! Weights → ONNX graphs, for ONNX Runtime and any other runtime: plain operators of opset 17.
//!
//! The network's tensors are not in the graphs: they point into the bundle's safetensors file (ONNX external data),
//! which all engines share.

mod classifier;
mod generator;
mod graph;
mod network;
#[allow(missing_docs, reason = "the schema is ONNX's, and documented there")]
mod proto;

pub use classifier::classifier;
pub use generator::generator;

use std::collections::BTreeMap;

/// Where the network's tensors lie.
#[derive(Clone, Debug)]
pub struct External {
    /// The file, beside the graph's.
    pub file: &'static str,
    /// Where each tensor begins in it, in bytes, by Hugging Face name.
    pub offsets: BTreeMap<String, u64>,
}
