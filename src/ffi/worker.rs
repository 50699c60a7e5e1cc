//! `tgpt_worker`: one thread's scratch.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::context::{Shared, tgpt_context};
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use crate::packet::{Packet, Rows};
use crate::worker::Worker;
use std::sync::{Arc, Mutex};

/// One thread's scratch, for any number of models: memory, caches, streams. It grows to the largest batch seen and is
/// kept. Make one per thread; N workers on one model scale with cores.
pub struct tgpt_worker(());

/// What a worker's calls change.
pub(super) struct State {
    pub(super) worker: Worker,
    /// Generated flows on their way to the caller's buffer.
    pub(super) rows: Rows<Packet>,
    _context: Arc<Shared>,
}

impl Opaque for tgpt_worker {
    type Value = Mutex<State>;
    const NAME: &'static str = "worker";
    const TAG: u64 = 0x7467_7074_776f_726b;
}

/// Makes a worker.
///
/// Writes the new handle to `*out`; free it with tgpt_worker_free.
/// Errors: TGPT_E_INVALID for a NULL.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_worker_new(
    context: *const tgpt_context,
    out: *mut *mut tgpt_worker,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (context, out) = unsafe { (handle::get(context)?, args::out(out, "out")?) };
        call.log_to(context.log);
        handle::give(
            out,
            Mutex::new(State { worker: Worker::new(), rows: Rows::new(), _context: Arc::clone(context) }),
        );
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Frees a worker; NULL is legal. No call may be using it.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_worker_free(worker: *mut tgpt_worker) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(worker) });
}
