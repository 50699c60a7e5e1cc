//! The native engine: [`crate::gpt2`] on the CPU.
