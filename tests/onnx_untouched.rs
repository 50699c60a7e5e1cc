//! Contexts, bundles and the native engine leave ONNX Runtime alone, so that a process may fork before it opens an
//! engine that uses it. A program of its own: tests of other files load the library.
#![cfg(all(feature = "train", target_os = "linux"))]
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;

#[test]
fn nothing_loads_the_library_before_the_engine_is_opened() {
    let mut settings = Settings::default();
    settings.set("engine", "native").unwrap();
    settings.set("onnx.library", "/nonexistent").unwrap();
    let context = Context::new(settings);
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx/tiny.tgpt");
    Classifier::open(&context, &bundle).unwrap();
    assert!(!std::fs::read_to_string("/proc/self/maps").unwrap().contains("libonnxruntime"));
}
