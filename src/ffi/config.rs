//! `tgpt_config`: settings as string keys.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use crate::config::Settings;
use crate::error::Result;
use std::ffi::c_char;
use std::sync::Mutex;

/// Settings by key, all at their defaults when new. The keys are listed at the top of this header.
pub struct tgpt_config(());

impl Opaque for tgpt_config {
    type Value = Mutex<Settings>;
    const NAME: &'static str = "config";
    const TAG: u64 = 0x7467_7074_636f_6e66;
}

/// The settings of `config`, or the defaults for NULL.
///
/// # Safety
/// `config` is NULL or a live handle.
pub(super) unsafe fn settings(config: *const tgpt_config) -> Result<Settings> {
    if config.is_null() {
        return Ok(Settings::default());
    }
    // SAFETY: the caller's promise.
    let settings = unsafe { handle::get(config) }?;
    Ok(handle::exclusive(settings, tgpt_config::NAME)?.clone())
}

/// Makes a config with every key at its default.
///
/// Writes the new handle to `*out`; free it with tgpt_config_free.
/// Errors: TGPT_E_INVALID where `out` is NULL.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_config_new(out: *mut *mut tgpt_config, error: *mut tgpt_error) -> tgpt_status {
    let body = |_: &Call| {
        // SAFETY: the contract of the header.
        let out = unsafe { args::out(out, "out") }?;
        handle::give(out, Mutex::new(Settings::default()));
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Sets one key. Handles made from the config before keep what they were made with.
///
/// `key`, `value`: UTF-8, copied.
/// Errors: TGPT_E_INVALID for an unknown key or a value out of its range; the key then keeps its value. TGPT_E_BUSY where
/// another thread is inside this config.
/// Threads: one at a time per config.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_config_set(
    config: *mut tgpt_config,
    key: *const c_char,
    value: *const c_char,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |_: &Call| {
        // SAFETY: the contract of the header.
        let (settings, key, value) =
            unsafe { (handle::get(config)?, args::text(key, "key")?, args::text(value, "value")?) };
        handle::exclusive(settings, tgpt_config::NAME)?.set(key, value)
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Frees a config; NULL is legal. Handles made from it are not touched.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_config_free(config: *mut tgpt_config) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(config) });
}
