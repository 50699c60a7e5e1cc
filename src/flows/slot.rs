//! What the table keeps of a flow besides its tokens: one cache line.

use super::observation::Observation;
use super::verdict::Reason;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// In the queue for a verdict.
pub(super) const QUEUED: u8 = 1;
/// Its final verdict was given: packets are only counted.
pub(super) const FINAL: u8 = 2;
/// The client sent a FIN.
pub(super) const FIN_CLIENT: u8 = 4;
/// The server sent a FIN.
pub(super) const FIN_SERVER: u8 = 8;
/// The connection is over: FINs of both sides, or a RST.
pub(super) const CLOSED: u8 = 16;
/// Where in the flags the flow's model is.
const MODEL_SHIFT: u8 = 6;

/// States besides the reasons of [`Reason`], which are those of flows that have ended and wait for their verdict.
const FREE: u8 = 0;
const LIVE: u8 = u8::MAX;

/// One flow, or a free place.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Slot {
    pub client: [u8; 16],
    pub server: [u8; 16],
    /// The latest time of its packets.
    pub last_ns: u64,
    /// The time of its first packet; of a free slot, the next free one.
    pub start_ns: u64,
    pub zone: u32,
    /// Saturating.
    pub n_packets: u32,
    pub client_port: u16,
    pub server_port: u16,
    pub protocol: u8,
    pub n_tokens: u8,
    pub flags: u8,
    state: u8,
}

const _: () = assert!(size_of::<Slot>() == 64);

impl Slot {
    /// A free slot before `next` in the list of free ones.
    pub fn free(next: u32) -> Self {
        Self { start_ns: next.into(), state: FREE, ..bytemuck::Zeroable::zeroed() }
    }

    /// The free slot after this one.
    pub fn next_free(&self) -> u32 {
        self.start_ns as u32
    }

    /// A flow that begins with `o`.
    pub fn begin(o: &Observation, model: u8) -> Self {
        Self {
            client: o.src,
            server: o.dst,
            last_ns: o.ts_ns,
            start_ns: o.ts_ns,
            zone: o.zone,
            n_packets: 0,
            client_port: o.src_port,
            server_port: o.dst_port,
            protocol: o.protocol,
            n_tokens: 0,
            flags: model << MODEL_SHIFT,
            state: LIVE,
        }
    }

    /// Whether `o` is a packet of this flow, in either direction. Both are compared, without a branch: which one it is
    /// cannot be predicted.
    #[inline(always)]
    pub fn has(&self, o: &Observation) -> bool {
        let end = |address: [u8; 16], port: u16| (u128::from_ne_bytes(address), port);
        let (src, dst) = (end(o.src, o.src_port), end(o.dst, o.dst_port));
        let (client, server) = (end(self.client, self.client_port), end(self.server, self.server_port));
        let differ = |a: (u128, u16), b: (u128, u16)| (a.0 ^ b.0) | u128::from(a.1 ^ b.1);
        let forward = differ(src, client) | differ(dst, server);
        let backward = differ(src, server) | differ(dst, client);
        ((forward == 0) | (backward == 0)) & (self.protocol == o.protocol) & (self.zone == o.zone)
    }

    /// Whether the client sent `o`. Where both ends are the same, all packets go one way.
    #[inline(always)]
    pub fn is_from_client(&self, o: &Observation) -> bool {
        (self.client_port == o.src_port) & (u128::from_ne_bytes(self.client) == u128::from_ne_bytes(o.src))
    }

    /// Which model made its tokens.
    pub fn model(&self) -> usize {
        usize::from(self.flags >> MODEL_SHIFT)
    }

    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn is_live(&self) -> bool {
        self.state == LIVE
    }

    pub fn end(&mut self, reason: Reason) {
        self.state = reason as u8;
    }

    /// Why it has ended, if it has.
    pub fn ended(&self) -> Option<Reason> {
        Reason::of(self.state)
    }
}
