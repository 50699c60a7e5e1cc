//! What the loaded library says of itself.

use std::ffi::{CStr, c_char};

/// The ABI this header describes; equals the number in the SONAME `libtrafficgpt.so.1`. It changes when a program must
/// be compiled again.
pub const TGPT_ABI: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The ABI of the loaded library; compare with `TGPT_ABI`.
///
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn tgpt_abi() -> u32 {
    TGPT_ABI
}

/// The version of the loaded library, "major.minor.patch"; compare with `TGPT_VERSION`.
///
/// Returns a static string.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn tgpt_version() -> *const c_char {
    VERSION.as_ptr()
}
