//! How the shared library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        // The number is TGPT_ABI.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libtrafficgpt.so.1");
        // Threads of the pool and ONNX Runtime outlive the last handle: code that may still run must stay mapped after
        // a dlclose.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
