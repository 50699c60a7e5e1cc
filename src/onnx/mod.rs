//! Weights → ONNX graphs.
