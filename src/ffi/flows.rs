//! `tgpt_flows`: the streaming table.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::classifier::tgpt_classifier;
use super::config::{self, tgpt_config};
use super::context::Shared;
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use crate::error::{Error, Kind};
use crate::flows::{Control, Count, Flows, FrameInfo, Observation, Reason, Verdict};
use crate::meter::frame::Link;
use std::ffi::c_char;
use std::sync::{Arc, Mutex};

/// The flow reached one of the packet counts.
pub const TGPT_REASON_COUNT: u8 = 1;
/// It reached one, and the label's probability the threshold.
pub const TGPT_REASON_CONFIDENT: u8 = 2;
/// Its TCP connection is over: FINs of both sides, or a RST.
pub const TGPT_REASON_TCP_END: u8 = 3;
/// No packet came for the idle timeout.
pub const TGPT_REASON_IDLE: u8 = 4;
/// The active timeout passed since its first packet.
pub const TGPT_REASON_ACTIVE: u8 = 5;
/// It gave way to a new flow in a full table.
pub const TGPT_REASON_EVICTED: u8 = 6;
/// The table was flushed.
pub const TGPT_REASON_FLUSHED: u8 = 7;

const _: () = assert!(
    TGPT_REASON_COUNT == Reason::Count as u8
        && TGPT_REASON_CONFIDENT == Reason::Confident as u8
        && TGPT_REASON_TCP_END == Reason::TcpEnd as u8
        && TGPT_REASON_IDLE == Reason::Idle as u8
        && TGPT_REASON_ACTIVE == Reason::Active as u8
        && TGPT_REASON_EVICTED == Reason::Evicted as u8
        && TGPT_REASON_FLUSHED == Reason::Flushed as u8
);

/// The streaming table of a data path: packets in, verdicts out. Make one per core or RSS queue, and send both directions
/// of a flow to the same one.
///
/// A flow becomes due for a verdict when it has as many packets as one of `flows.counts`, and when it ends: by FINs of
/// both sides or a RST, by idle or active timeout in packet time, by eviction, by a flush. A verdict at a count rests on
/// exactly that many of the flow's first packets, however late the poll; of several counts reached by then, only the last
/// is looked at. Every flow of at least `flows.min_packets` gets exactly one final verdict: at the last count, at one
/// where the label's probability reaches `flows.confidence`, or when it ends.
///
/// All memory of the table is taken when it is made; only tgpt_flows_poll uses more, for the network's scratch. A push
/// allocates nothing, waits for nobody and makes no system call. tgpt_flows_poll runs the network on the calling thread:
/// `cap` bounds how long.
pub struct tgpt_flows(());

/// What the handle holds.
pub(super) struct State {
    flows: Mutex<Flows>,
    control: Control,
    context: Arc<Shared>,
}

impl Opaque for tgpt_flows {
    type Value = State;
    const NAME: &'static str = "flows";
    const TAG: u64 = 0x7467_7074_666c_6f77;
}

/// Makes a table whose flows `classifier` tells apart. The classifier may be freed before the table.
///
/// `config`: NULL for defaults; its keys of flows say how large the table is and when a verdict is given, and
/// `meter.tunnel` which packet of a frame counts.
/// Writes the new handle to `*out`; free it with tgpt_flows_free.
/// Errors: TGPT_E_NOMEM where there is no memory for so many flows; TGPT_E_MISMATCH for a classifier that reads fewer
/// packets than the last of `flows.counts`, or whose codebook has more than 2^16 centroids; TGPT_E_INVALID for a NULL or
/// a `flows.memory` that holds no flow; TGPT_E_BUSY where another thread is inside `config`.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_new(
    classifier: *const tgpt_classifier,
    config: *const tgpt_config,
    out: *mut *mut tgpt_flows,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (model, settings, out) =
            unsafe { (handle::get(classifier)?, config::settings(config)?, args::out(out, "out")?) };
        call.log_to(model.context.log);
        let flows = Flows::new(&model.classifier, &settings.flows, settings.meter.tunnel)?;
        let (control, context) = (flows.control(), Arc::clone(&model.context));
        handle::give(out, State { flows: Mutex::new(flows), control, context });
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Takes packets that the caller has parsed, in the order in which they were seen. Bursts of 32 or more are fastest.
///
/// Every packet is taken: new flows for which there is no room are counted, not reported. A packet older than the latest
/// of its flow is taken to have come with that one.
/// `observations`: `n` packets.
/// Errors: TGPT_E_INVALID for a NULL where `n` is not 0, or reserved bytes that are not 0: nothing is taken then;
/// TGPT_E_BUSY where another thread is inside this table.
/// Threads: one at a time per table.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_push(
    flows: *mut tgpt_flows,
    observations: *const Observation,
    n: usize,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, observations) = unsafe { (handle::get(flows)?, args::slice(observations, n, "observations")?) };
        call.log_to(state.context.log);
        if let Some(i) = observations.iter().position(|o| o.reserved != [0; 10]) {
            return Err(Error::invalid(format!("observations[{i}].reserved must be 0")));
        }
        handle::exclusive(&state.flows, tgpt_flows::NAME)?.push(observations);
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Takes frames as they came from the wire, in the order in which they were seen; the library finds the IP packet in them
/// (VLAN, MPLS, PPPoE, IPv4, IPv6, tunnels).
///
/// Frames without an IP packet that can be read are counted, not reported. Fragments join the flow that their first one
/// names. The zone of all flows is 0.
/// `link_type`: of all `n` frames, by the numbers of the tcpdump group's registry: 1 is Ethernet, 101 bare IP.
/// `frames`: `n` pointers to the bytes, of which frame `i` has `infos[i].captured`. `infos`: one per frame.
/// Errors: TGPT_E_INVALID for a link type that is not supported, a NULL where there is something to read: nothing is
/// taken then; TGPT_E_BUSY where another thread is inside this table.
/// Threads: one at a time per table.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_push_frames(
    flows: *mut tgpt_flows,
    link_type: u32,
    frames: *const *const u8,
    infos: *const FrameInfo,
    n: usize,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let state = unsafe { handle::get(flows) }?;
        call.log_to(state.context.log);
        let link = Link::from_linktype(link_type)
            .ok_or_else(|| Error::invalid(format!("link_type {link_type} is not supported; 1 is Ethernet")))?;
        // SAFETY: the contract of the header.
        let (frames, infos) = unsafe { (args::pointers(frames, n, "frames")?, args::slice(infos, n, "infos")?) };
        if let Some(i) = frames.iter().zip(infos).position(|(frame, info)| frame.is_null() && info.captured > 0) {
            return Err(Error::invalid(format!("frames[{i}] is NULL")));
        }
        let bytes = frames.iter().zip(infos).map(|(&frame, info)| match info.captured {
            0 => (*info, &[][..]),
            // SAFETY: not NULL; that it has as many bytes is the contract of the header.
            captured => (*info, unsafe { std::slice::from_raw_parts(frame, captured as usize) }),
        });
        handle::exclusive(&state.flows, tgpt_flows::NAME)?.push_frames(link, bytes);
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Number of flows that are due for a verdict, as of the last push or poll. 0 where `flows` is NULL.
///
/// Threads: any, also while another is inside this table.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_due(flows: *const tgpt_flows) -> usize {
    // SAFETY: the contract of the header.
    guard_value(0, || Ok(unsafe { handle::get(flows) }?.control.count(Count::Due) as usize))
}

/// Ends flows whose time is over, runs the network over flows that are due, and writes their verdicts, in the order in
/// which the flows became due.
///
/// `now_ns`: the time, on the packets' clock, up to which all packets have been pushed; 0 takes the packets' own.
/// `out`: room for `cap` verdicts; `*n` gets their number. Fewer than `cap`: no flow is due any more. With `cap` 0,
/// flows are ended and none is classified.
/// Errors: TGPT_E_RUNTIME from the engine: the flows stay due; TGPT_E_INVALID for a NULL; TGPT_E_BUSY where another
/// thread is inside this table.
/// Threads: one at a time per table.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_poll(
    flows: *mut tgpt_flows,
    now_ns: u64,
    out: *mut Verdict,
    cap: usize,
    n: *mut usize,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, out, n) = unsafe { (handle::get(flows)?, args::slice_mut(out, cap, "out")?, args::out(n, "n")?) };
        call.log_to(state.context.log);
        let now_ns = (now_ns > 0).then_some(now_ns);
        n.write(handle::exclusive(&state.flows, tgpt_flows::NAME)?.poll(now_ns, out)?);
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Gives the table another classifier, while packets flow. The next poll takes it in; no packet and no verdict is lost.
///
/// Where its codebook is that of the classifier before, all flows go on with it. Where it is another, flows already begun
/// are finished by the classifier they began with and only new ones are given to this one. Up to four are kept that
/// way; a fifth waits until the flows of one have ended, and gives way to one that is swapped in after it.
/// `epoch`: NULL, or gets the number that its verdicts will carry, from 1. A label is to be read with the classifier of
/// its verdict's epoch.
/// Errors: TGPT_E_MISMATCH for a classifier that does not fit (see tgpt_flows_new); TGPT_E_INVALID for a NULL.
/// Threads: any, also while another is inside this table.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_swap(
    flows: *const tgpt_flows,
    classifier: *const tgpt_classifier,
    epoch: *mut u32,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, model) = unsafe { (handle::get(flows)?, handle::get(classifier)?) };
        call.log_to(state.context.log);
        let out = match epoch.is_null() {
            true => None,
            // SAFETY: the contract of the header.
            false => Some(unsafe { args::out(epoch, "epoch") }?),
        };
        let epoch = state.control.swap(&model.classifier)?;
        if let Some(out) = out {
            out.write(epoch);
        }
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Ends every flow: the polls after it give their final verdicts.
///
/// Errors: TGPT_E_INVALID for a NULL; TGPT_E_BUSY where another thread is inside this table.
/// Threads: one at a time per table.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_flush(flows: *mut tgpt_flows, error: *mut tgpt_error) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let state = unsafe { handle::get(flows) }?;
        call.log_to(state.context.log);
        handle::exclusive(&state.flows, tgpt_flows::NAME)?.flush();
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// What the table has counted, as of the last push or poll: a JSON object of numbers, among them `packets`, `flows`,
/// `flows_evicted`, `packets_refused`, `verdicts`, `flows_tracked`, `flows_due`, `max_flows`, and `memory` in bytes. New
/// ones may come.
///
/// `json`: room for `cap` bytes, for text in UTF-8 with a NUL behind it. `needed`: NULL, or gets the bytes that takes.
/// Errors: TGPT_E_NOSPACE where `cap` is less than is needed: nothing but `*needed` is written; TGPT_E_INVALID for a
/// NULL.
/// Threads: any, also while another is inside this table.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_stats(
    flows: *const tgpt_flows,
    json: *mut c_char,
    cap: usize,
    needed: *mut usize,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, json) = unsafe { (handle::get(flows)?, args::slice_mut(json.cast::<u8>(), cap, "json")?) };
        call.log_to(state.context.log);
        let text = state.control.stats();
        let bytes = text.len() + 1;
        if !needed.is_null() {
            // SAFETY: the contract of the header.
            unsafe { args::out(needed, "needed") }?.write(bytes);
        }
        let Some(room) = json.get_mut(..bytes) else {
            return Err(Error::new(Kind::NoSpace, format!("json has room for {cap} bytes; {bytes} are needed")));
        };
        room[..text.len()].copy_from_slice(text.as_bytes());
        room[text.len()] = 0;
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Frees a table, with the flows in it; NULL is legal. No call may be using it.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_flows_free(flows: *mut tgpt_flows) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(flows) });
}
