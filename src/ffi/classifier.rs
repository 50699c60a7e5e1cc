//! `tgpt_classifier`: flows → labels, scores, embeddings.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::context::{Shared, tgpt_context};
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use super::log::TGPT_LOG_INFO;
use super::names::{self, Names};
use super::worker::tgpt_worker;
use crate::classifier::{Classifier, UNKNOWN};
use crate::packet::Packet;
use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

/// The label of a flow that the classifier does not know, and the class that asks the generator for flows of any kind.
pub const TGPT_UNKNOWN: u32 = u32::MAX;
const _: () = assert!(TGPT_UNKNOWN == UNKNOWN);

/// Tells what a flow is. Immutable, shared by any threads; the weights are held once.
pub struct tgpt_classifier(());

/// What the handle holds.
pub(super) struct State {
    pub(super) classifier: Classifier,
    labels: Names,
    pub(super) context: Arc<Shared>,
}

impl Opaque for tgpt_classifier {
    type Value = State;
    const NAME: &'static str = "classifier";
    const TAG: u64 = 0x7467_7074_636c_6173;
}

/// Opens the classifier of a bundle, on the engine that the context's config asks for. "auto" may choose, and
/// tgpt_classifier_engine tells what it chose; an engine that was named is used or refused.
///
/// `bundle`: path of the bundle's directory. It is checked whole before anything of it runs.
/// Writes the new handle to `*out`; free it with tgpt_classifier_free.
/// Errors: TGPT_E_IO, TGPT_E_FORMAT, TGPT_E_VERSION, TGPT_E_MISMATCH for a bundle that is not whole or has no
/// classifier; TGPT_E_NO_RUNTIME, TGPT_E_RUNTIME from the engine; TGPT_E_INVALID for a NULL.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_classifier_open(
    context: *const tgpt_context,
    bundle: *const c_char,
    out: *mut *mut tgpt_classifier,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (context, bundle, out) =
            unsafe { (handle::get(context)?, args::path(bundle, "bundle")?, args::out(out, "out")?) };
        call.log_to(context.log);
        let classifier = Classifier::open(&context.context, bundle)?;
        let labels = Names::new(classifier.labels())?;
        let opened = format!("classifier {} runs on engine {}", bundle.display(), classifier.engine());
        context.log.write(TGPT_LOG_INFO, &opened);
        handle::give(out, State { classifier, labels, context: Arc::clone(context) });
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// The engine in use, "native", "onnx" or "cuda". NULL where `classifier` is NULL.
///
/// Returns a static string.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_classifier_engine(classifier: *const tgpt_classifier) -> *const c_char {
    // SAFETY: the contract of the header.
    guard_value(ptr::null(), || Ok(names::engine(unsafe { handle::get(classifier) }?.classifier.engine()).as_ptr()))
}

/// Number of labels; a label is less than it, or TGPT_UNKNOWN. 0 where `classifier` is NULL.
///
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_classifier_n_labels(classifier: *const tgpt_classifier) -> u32 {
    // SAFETY: the contract of the header.
    guard_value(0, || Ok(unsafe { handle::get(classifier) }?.labels.len()))
}

/// The name of `label`, in UTF-8. NULL where there is no such label (TGPT_UNKNOWN has no name).
///
/// Returns a string that lives as long as the classifier.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_classifier_label(classifier: *const tgpt_classifier, label: u32) -> *const c_char {
    // SAFETY: the contract of the header.
    guard_value(ptr::null(), || Ok(unsafe { handle::get(classifier) }?.labels.get(label)))
}

/// Number of dimensions of an embedding. 0 where `classifier` is NULL.
///
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_classifier_embedding_dim(classifier: *const tgpt_classifier) -> u32 {
    // SAFETY: the contract of the header.
    guard_value(0, || Ok(unsafe { handle::get(classifier) }?.classifier.embedding_dim() as u32))
}

/// The label of each flow, and the probability of every label.
///
/// `packets`, `offsets`: flow `i` is `packets[offsets[i] .. offsets[i + 1]]` for `i` in `0 .. n_flows`; `offsets` has
/// `n_flows + 1` values, begins with 0 and never falls.
/// Every flow has at least one packet; those past what the model reads (126 at most) are ignored.
/// `labels`: room for `n_flows` labels; TGPT_UNKNOWN where no probability reached the bundle's threshold.
/// `scores`: NULL, or room for `n_flows * n_labels` calibrated probabilities, one row per flow.
/// Errors: TGPT_E_INVALID for a NULL where there is something to read or write, offsets that fall or do not begin with
/// 0, a flow without packets, a packet whose time is negative or not finite; TGPT_E_BUSY where another thread is
/// inside this worker; TGPT_E_RUNTIME from the engine.
/// Threads: any number on one classifier, each with its own worker.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_classify(
    classifier: *const tgpt_classifier,
    worker: *mut tgpt_worker,
    packets: *const Packet,
    offsets: *const u64,
    n_flows: usize,
    labels: *mut u32,
    scores: *mut f32,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, worker) = unsafe { (handle::get(classifier)?, handle::get(worker)?) };
        call.log_to(state.context.log);
        // SAFETY: the contract of the header.
        let flows = unsafe { args::flows(packets, offsets, n_flows) }?;
        let n_scores = args::count(n_flows, state.classifier.labels().len(), 0, "n_flows")?;
        // SAFETY: the contract of the header.
        let labels = unsafe { args::slice_mut(labels, n_flows, "labels") }?;
        let scores = match scores.is_null() {
            true => None,
            // SAFETY: the contract of the header.
            false => Some(unsafe { args::slice_mut(scores, n_scores, "scores") }?),
        };
        let mut held = handle::exclusive(worker, tgpt_worker::NAME)?;
        state.classifier.classify(&mut held.worker, flows, labels, scores)
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// The embedding of each flow: the mean of the network's last hidden states over the flow's packets.
///
/// `packets`, `offsets`, `n_flows`: as of tgpt_classify.
/// `embeddings`: room for `n_flows * tgpt_classifier_embedding_dim` values, one row per flow.
/// Errors: as of tgpt_classify.
/// Threads: any number on one classifier, each with its own worker.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_embed(
    classifier: *const tgpt_classifier,
    worker: *mut tgpt_worker,
    packets: *const Packet,
    offsets: *const u64,
    n_flows: usize,
    embeddings: *mut f32,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, worker) = unsafe { (handle::get(classifier)?, handle::get(worker)?) };
        call.log_to(state.context.log);
        // SAFETY: the contract of the header.
        let flows = unsafe { args::flows(packets, offsets, n_flows) }?;
        let n_values = args::count(n_flows, state.classifier.embedding_dim(), 0, "n_flows")?;
        // SAFETY: the contract of the header.
        let embeddings = unsafe { args::slice_mut(embeddings, n_values, "embeddings") }?;
        let mut held = handle::exclusive(worker, tgpt_worker::NAME)?;
        state.classifier.embed(&mut held.worker, flows, embeddings)
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Frees a classifier; NULL is legal. No call may be using it.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_classifier_free(classifier: *mut tgpt_classifier) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(classifier) });
}
