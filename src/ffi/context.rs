//! `tgpt_context`: the root of everything that runs.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::config::{self, tgpt_config};
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use super::log::{Log, tgpt_hooks};
use crate::context::Context;
use std::sync::Arc;

/// The root of everything that runs: settings, threads, runtimes, hooks. One per process is enough; several are legal.
pub struct tgpt_context(());

/// What the handles made from a context keep of it.
pub(super) struct Shared {
    pub(super) context: Context,
    pub(super) log: Log,
}

impl Opaque for tgpt_context {
    type Value = Arc<Shared>;
    const NAME: &'static str = "context";
    const TAG: u64 = 0x7467_7074_6374_7874;
}

/// Makes a context. No thread is started and nothing of an engine's runtime is touched before a model is opened, so a
/// process may fork until then.
///
/// `config`: NULL for defaults; copied. `hooks`: NULL for none; copied. The hooks are called as long as the context or
/// any handle made from it lives.
/// Writes the new handle to `*out`; free it with tgpt_context_free.
/// Errors: TGPT_E_INVALID for a NULL `out` or hooks that break their rules; TGPT_E_BUSY where another thread is inside
/// `config`.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_context_new(
    config: *const tgpt_config,
    hooks: *const tgpt_hooks,
    out: *mut *mut tgpt_context,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        let mut log = Log::default();
        if !hooks.is_null() {
            // SAFETY: the contract of the header; zeros are legal hooks.
            let hooks = unsafe { args::sized(hooks, size_of::<tgpt_hooks>(), "hooks") }?;
            args::reserved(&hooks.reserved, "hooks")?;
            log = Log::of(&hooks);
            call.log_to(log);
        }
        // SAFETY: the contract of the header.
        let (settings, out) = unsafe { (config::settings(config)?, args::out(out, "out")?) };
        let context = Context::new(settings);
        handle::give(out, Arc::new(Shared { context, log }));
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Frees a context; NULL is legal. Handles made from it live on and keep what they need of it.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_context_free(context: *mut tgpt_context) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(context) });
}
