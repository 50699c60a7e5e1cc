//! The bundle: a directory that holds a model ready to load.
//!
//! ```text
//! model.tgpt/
//!   manifest.json           what everything is, and size and SHA-256 of every other file
//!   quantizer.safetensors   centroids f32 [K, 2]
//!   model.safetensors       the network, Hugging Face GPT-2 names and shapes
//!   config.json             its shape for Hugging Face's `transformers`
//!   head.safetensors        the classifier's head; absent in a bundle that only generates
//!   classifier.onnx generator.onnx   the graphs; their weights point into model.safetensors
//! ```
//!
//! It is checked whole before anything of it runs, and written whole or not at all.

pub mod manifest;

pub use manifest::Manifest;
