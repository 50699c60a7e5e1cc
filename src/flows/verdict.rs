//! What the table says of a flow.

use super::slot::Slot;

/// Why a verdict was given. The numbers are those of the C ABI.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The flow reached one of the packet counts.
    Count = 1,
    /// It reached one, and the label's probability the threshold.
    Confident = 2,
    /// Its TCP connection is over: FINs of both sides, or a RST.
    TcpEnd = 3,
    /// No packet came for the idle timeout.
    Idle = 4,
    /// The active timeout passed since its first packet.
    Active = 5,
    /// It gave way to a new flow in a full table.
    Evicted = 6,
    /// The table was flushed.
    Flushed = 7,
}

impl Reason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Count, Self::Confident, Self::TcpEnd, Self::Idle, Self::Active, Self::Evicted, Self::Flushed];

    /// The reason with this number.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).wrapping_sub(1)).copied()
    }
}

/// What a flow is. Frozen: 80 bytes, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Verdict {
    /// Address of the client, which sent the first packet, in network order; IPv4 as ::ffff:a.b.c.d.
    pub client: [u8; 16],
    /// Address of the server.
    pub server: [u8; 16],
    /// Time of the flow's first packet.
    pub start_ns: u64,
    /// The latest time of its packets so far.
    pub last_ns: u64,
    /// Its packets so far; stays at the largest number there is.
    pub n_packets: u32,
    /// The observations' zone.
    pub zone: u32,
    /// Its label, or TGPT_UNKNOWN where no probability reached the bundle's threshold.
    pub label: u32,
    /// The largest of the labels' calibrated probabilities.
    pub score: f32,
    /// Which classifier's label it is: 0 for the table's first, or what tgpt_flows_swap gave.
    pub epoch: u32,
    /// Port of the client in host order.
    pub client_port: u16,
    /// Port of the server.
    pub server_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// Why it was given: one of TGPT_REASON_*; new ones may come.
    pub reason: u8,
    /// 1 if no other verdict of this flow will come, else 0.
    pub is_final: u8,
    /// The label rests on this many of the flow's packets, its first.
    pub n_read: u8,
    /// 0.
    pub reserved: [u8; 3],
}

impl Verdict {
    /// Of the flow in `slot`, by its first `n_read` packets.
    pub(super) fn of(slot: &Slot, n_read: u8, label: u32, score: f32, epoch: u32, reason: Reason, last: bool) -> Self {
        let is_v4 = |address: &[u8; 16]| address[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        Self {
            client: slot.client,
            server: slot.server,
            start_ns: slot.start_ns,
            last_ns: slot.last_ns,
            n_packets: slot.n_packets,
            zone: slot.zone,
            label,
            score,
            epoch,
            client_port: slot.client_port,
            server_port: slot.server_port,
            protocol: slot.protocol,
            ip_version: if is_v4(&slot.client) && is_v4(&slot.server) { 4 } else { 6 },
            reason: reason as u8,
            is_final: last.into(),
            n_read,
            reserved: [0; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_their_numbers() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of(reason as u8), Some(reason));
        }
        assert_eq!((Reason::of(0), Reason::of(8), Reason::of(255)), (None, None, None));
    }
}
