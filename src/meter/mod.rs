//! Captures → flows.

use crate::packet::Packet;
use std::net::IpAddr;

/// Who talks to whom: the client sent the flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Address of the client.
    pub client: IpAddr,
    /// Address of the server.
    pub server: IpAddr,
    /// The client's port; 0 for protocols without ports.
    pub client_port: u16,
    /// The server's port; 0 for protocols without ports.
    pub server_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// A bidirectional flow.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Its 5-tuple.
    pub key: FlowKey,
    /// Time of the first packet, nanoseconds since 1970.
    pub start_ns: u64,
    /// Time of the last packet.
    pub end_ns: u64,
    /// Packets of the whole flow.
    pub n_packets: u64,
    /// The first packets.
    pub packets: Vec<Packet>,
}
