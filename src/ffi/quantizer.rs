//! `tgpt_quantizer`: packets ↔ tokens.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::context::tgpt_context;
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use super::log::Log;
use crate::bundle::Bundle;
use crate::packet::Packet;
use crate::quantizer::Quantizer;
use std::ffi::c_char;

/// Packets to tokens and back: the nearest centroid of the bundle's codebook. Immutable, shared by any threads.
pub struct tgpt_quantizer(());

/// What the handle holds.
pub(super) struct State {
    quantizer: Quantizer,
    log: Log,
}

impl Opaque for tgpt_quantizer {
    type Value = State;
    const NAME: &'static str = "quantizer";
    const TAG: u64 = 0x7467_7074_7175_616e;
}

/// Opens the quantizer of a bundle.
///
/// `bundle`: path of the bundle's directory. It is checked whole, as by the other two calls that open one.
/// Writes the new handle to `*out`; free it with tgpt_quantizer_free.
/// Errors: TGPT_E_IO, TGPT_E_FORMAT, TGPT_E_VERSION, TGPT_E_MISMATCH for a bundle that is not whole; TGPT_E_INVALID
/// for a NULL.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_quantizer_open(
    context: *const tgpt_context,
    bundle: *const c_char,
    out: *mut *mut tgpt_quantizer,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (context, bundle, out) =
            unsafe { (handle::get(context)?, args::path(bundle, "bundle")?, args::out(out, "out")?) };
        call.log_to(context.log);
        let quantizer = Bundle::open(bundle)?.quantizer;
        handle::give(out, State { quantizer, log: context.log });
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Number of packet tokens K; a token is less than it. 0 where `quantizer` is NULL.
///
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_quantizer_n_tokens(quantizer: *const tgpt_quantizer) -> u32 {
    // SAFETY: the contract of the header.
    guard_value(0, || Ok(unsafe { handle::get(quantizer) }?.quantizer.n_tokens() as u32))
}

/// The token of each packet: its nearest centroid, ties to the lowest token.
///
/// `packets`: `n` packets. `tokens`: room for `n` tokens.
/// Errors: TGPT_E_INVALID for a packet whose time is negative or not finite, or a NULL where `n` is not 0.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_quantizer_encode(
    quantizer: *const tgpt_quantizer,
    packets: *const Packet,
    n: usize,
    tokens: *mut u32,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let state = unsafe { handle::get(quantizer) }?;
        call.log_to(state.log);
        // SAFETY: the contract of the header.
        let (packets, tokens) = unsafe { (args::slice(packets, n, "packets")?, args::slice_mut(tokens, n, "tokens")?) };
        state.quantizer.encode(packets, tokens)
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// The packet at each token's centroid.
///
/// `tokens`: `n` tokens, each less than tgpt_quantizer_n_tokens. `packets`: room for `n` packets.
/// Errors: TGPT_E_INVALID for a token that is no packet's, or a NULL where `n` is not 0.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_quantizer_decode(
    quantizer: *const tgpt_quantizer,
    tokens: *const u32,
    n: usize,
    packets: *mut Packet,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let state = unsafe { handle::get(quantizer) }?;
        call.log_to(state.log);
        // SAFETY: the contract of the header.
        let (tokens, packets) = unsafe { (args::slice(tokens, n, "tokens")?, args::slice_mut(packets, n, "packets")?) };
        state.quantizer.decode(tokens, packets)
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// A packet of each token, drawn from those that the token stands for: its size occurred among them, its time lies between
/// times that did, and it has that token.
///
/// `tokens`: `n` tokens, each less than tgpt_quantizer_n_tokens. `packets`: room for `n` packets. `seed`, `stream`: where
/// the draws come from; token `i` gets draw `i` of that stream, so that equal arguments give equal packets.
/// Errors: TGPT_E_INVALID for a token that is no packet's, or a NULL where `n` is not 0; TGPT_E_MISMATCH where the bundle
/// does not know the packets behind its centroids.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_quantizer_decode_sampled(
    quantizer: *const tgpt_quantizer,
    tokens: *const u32,
    n: usize,
    seed: u64,
    stream: u64,
    packets: *mut Packet,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let state = unsafe { handle::get(quantizer) }?;
        call.log_to(state.log);
        // SAFETY: the contract of the header.
        let (tokens, packets) = unsafe { (args::slice(tokens, n, "tokens")?, args::slice_mut(packets, n, "packets")?) };
        state.quantizer.decode_sampled(tokens, None, seed, stream, packets)
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Frees a quantizer; NULL is legal. No call may be using it.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_quantizer_free(quantizer: *mut tgpt_quantizer) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(quantizer) });
}
