//! The ONNX engine: the bundle's graphs in ONNX Runtime, loaded at run time.
