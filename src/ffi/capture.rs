//! `tgpt_capture`: the flows of a capture file.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::config::{self, tgpt_config};
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use crate::error::{Error, Kind, Result};
use crate::flows::mapped;
use crate::meter::{self, Flow};
use crate::packet::{Packet, Rows};
use std::ffi::{CString, c_char};
use std::ptr;

/// Flows that one handle may hold: with 126 packets each they take 18 GB.
const MAX_FLOWS: usize = 1 << 24;

/// The flows of a capture file, metered and in memory. Immutable, shared by any threads.
pub struct tgpt_capture(());

/// What the handle holds.
pub(super) struct State {
    packets: Rows<Packet>,
    flows: Vec<tgpt_flow_info>,
    warning: Option<CString>,
}

impl Opaque for tgpt_capture {
    type Value = State;
    const NAME: &'static str = "capture";
    const TAG: u64 = 0x7467_7074_6361_7074;
}

/// Who talked to whom, and when. Frozen: 72 bytes, no padding.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct tgpt_flow_info {
    /// Address of the client, which sent the first packet, in network order; IPv4 as ::ffff:a.b.c.d.
    pub client: [u8; 16],
    /// Address of the server.
    pub server: [u8; 16],
    /// Time of the first packet: nanoseconds since 1970-01-01 UTC.
    pub start_ns: u64,
    /// Time of the last packet.
    pub end_ns: u64,
    /// Packets of the whole flow; tgpt_capture_packets gives the first of them.
    pub n_packets: u64,
    /// Port of the client in host order; 0 where the protocol has none.
    pub client_port: u16,
    /// Port of the server.
    pub server_port: u16,
    /// IP protocol number: 6 is TCP, 17 is UDP.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// 0.
    pub reserved: [u8; 10],
}

impl tgpt_flow_info {
    fn of(flow: &Flow) -> Self {
        Self {
            client: mapped(flow.key.client),
            server: mapped(flow.key.server),
            start_ns: flow.start_ns,
            end_ns: flow.end_ns,
            n_packets: flow.n_packets,
            client_port: flow.key.client_port,
            server_port: flow.key.server_port,
            protocol: flow.key.protocol,
            ip_version: if flow.key.client.is_ipv4() { 4 } else { 6 },
            reserved: [0; 10],
        }
    }
}

/// Reads a capture (pcap or pcapng, plain or gzip) and meters it into flows, in the order in which they ended.
///
/// `path`: the file. `config`: NULL for defaults; its keys of metering say when a flow ends and how many packets are
/// kept.
/// Writes the new handle to `*out`; free it with tgpt_capture_free.
/// Errors: TGPT_E_IO for a file that cannot be read, TGPT_E_FORMAT for one that is no capture, TGPT_E_NOMEM for more
/// than 2^24 flows, TGPT_E_INVALID for a NULL. A capture that is cut in the middle is no error: what was read
/// counts, and tgpt_capture_warning tells where it ended.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_capture_open(
    path: *const c_char,
    config: *const tgpt_config,
    out: *mut *mut tgpt_capture,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |_: &Call| {
        // SAFETY: the contract of the header.
        let (path, settings, out) =
            unsafe { (args::path(path, "path")?, config::settings(config)?, args::out(out, "out")?) };
        let (mut packets, mut flows) = (Rows::new(), Vec::new());
        let mut keep = |flow: Flow| -> Result<()> {
            if flows.len() == MAX_FLOWS {
                let message = format!("{} has more than {MAX_FLOWS} flows; meter it in parts", path.display());
                return Err(Error::new(Kind::NoMemory, message));
            }
            flows.push(tgpt_flow_info::of(&flow));
            packets.push(flow.packets);
            Ok(())
        };
        let summary = meter::meter_file(path, &settings.meter, &mut keep)?;
        let warning = summary.warning.map(|text| text.replace('\0', "?")).and_then(|text| CString::new(text).ok());
        handle::give(out, State { packets, flows, warning });
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Number of flows. 0 where `capture` is NULL.
///
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_capture_n_flows(capture: *const tgpt_capture) -> usize {
    // SAFETY: the contract of the header.
    guard_value(0, || Ok(unsafe { handle::get(capture) }?.flows.len()))
}

/// The packets of all flows, as tgpt_classify takes them: flow `i` is `packets[offsets[i] .. offsets[i + 1]]`.
///
/// Writes to `*packets` and `*offsets` where they lie; they live as long as the capture.
/// Errors: TGPT_E_INVALID for a NULL.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_capture_packets(
    capture: *const tgpt_capture,
    packets: *mut *const Packet,
    offsets: *mut *const u64,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |_: &Call| {
        // SAFETY: the contract of the header.
        let (state, packets, offsets) =
            unsafe { (handle::get(capture)?, args::out(packets, "packets")?, args::out(offsets, "offsets")?) };
        let rows = state.packets.as_ragged();
        packets.write(rows.values().as_ptr());
        offsets.write(rows.offsets().as_ptr());
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Writes to `*out` who talked to whom in flow `i`, and when.
///
/// Errors: TGPT_E_INVALID for a NULL or an `i` that is no flow.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_capture_flow(
    capture: *const tgpt_capture,
    i: usize,
    out: *mut tgpt_flow_info,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |_: &Call| {
        // SAFETY: the contract of the header.
        let (state, out) = unsafe { (handle::get(capture)?, args::out(out, "out")?) };
        let n = state.flows.len();
        let info = state.flows.get(i).ok_or_else(|| Error::invalid(format!("flow {i} of a capture of {n} flows")))?;
        out.write(*info);
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// What the reader of this capture should know, such as that the file ends inside a record. NULL where there is nothing.
///
/// Returns a string in UTF-8 that lives as long as the capture.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_capture_warning(capture: *const tgpt_capture) -> *const c_char {
    guard_value(ptr::null(), || {
        // SAFETY: the contract of the header.
        let state = unsafe { handle::get(capture) }?;
        Ok(state.warning.as_deref().map_or(ptr::null(), |text| text.as_ptr()))
    })
}

/// Frees a capture and the packets that tgpt_capture_packets showed; NULL is legal. No call may be using it.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_capture_free(capture: *mut tgpt_capture) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(capture) });
}
