//! One row of a flow table, and the checks that every way into it shares.

use crate::error::{Error, Result};
use crate::meter::{Flow, FlowKey};
use crate::packet::Packet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Most packets that one row may list.
pub const MAX_PACKETS_OF_ROW: usize = 1 << 16;

/// Largest |size| of a packet in bytes: whatever metering can give, and a number whose sign can be turned.
const MAX_SIZE: i64 = i32::MAX as i64;

/// One flow and what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its traffic class.
    pub label: Option<String>,
    /// Flows of one group may be related: a split keeps them together.
    pub group: String,
    /// Which part of an experiment it belongs to.
    pub split: Option<Split>,
    /// Packets of the whole flow; at least as many as are kept.
    pub n_packets: u64,
    /// The first packets; never empty in a row that was read.
    pub packets: Vec<Packet>,
    /// Who talked to whom.
    pub key: Option<FlowKey>,
    /// Time of the first packet, nanoseconds since 1970.
    pub start_ns: Option<u64>,
}

impl Row {
    /// The row of a metered flow.
    pub fn of_flow(flow: Flow, label: Option<String>, group: String, split: Option<Split>) -> Self {
        Self {
            label,
            group,
            split,
            n_packets: flow.n_packets,
            packets: flow.packets,
            key: Some(flow.key),
            start_ns: Some(flow.start_ns),
        }
    }
}

/// A part of an experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To fit on.
    Train,
    /// To choose and stop by.
    Val,
    /// To judge by.
    Test,
}

impl Split {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Split {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "train" => Ok(Self::Train),
            "val" => Ok(Self::Val),
            "test" => Ok(Self::Test),
            _ => Err(Error::invalid(format!("split is \"{text}\"; it must be train, val or test"))),
        }
    }
}

/// Pairs sizes in bytes with times in microseconds.
pub(super) fn packets(sizes: &[i64], times_us: &[f64]) -> Result<Vec<Packet>> {
    if sizes.len() != times_us.len() {
        let (a, b) = (sizes.len(), times_us.len());
        return Err(Error::format(format!("{a} sizes but {b} times; each packet has one of both")));
    }
    if sizes.is_empty() || sizes.len() > MAX_PACKETS_OF_ROW {
        return Err(Error::format(format!("{} packets; a flow has 1..={MAX_PACKETS_OF_ROW}", sizes.len())));
    }
    let pair = |(i, (&size, &us)): (usize, (&i64, &f64))| {
        if !(-MAX_SIZE..=MAX_SIZE).contains(&size) {
            return Err(Error::format(format!("packet {i}: size {size} is past ±{MAX_SIZE} bytes")));
        }
        let packet = Packet { size: size as i32, ipt_us: us as f32 };
        packet.check().map_err(|e| Error::format(format!("packet {i}: {e}")))?;
        Ok(packet)
    };
    sizes.iter().zip(times_us).enumerate().map(pair).collect()
}

/// The count of the whole flow, which cannot be less than what is listed of it.
pub(super) fn n_packets(stated: Option<i64>, listed: usize) -> Result<u64> {
    match stated {
        None => Ok(listed as u64),
        Some(n) if n >= listed as i64 => Ok(n as u64),
        Some(n) => Err(Error::format(format!("column packets: {n}, but {listed} packets are listed"))),
    }
}

/// A start time, which cannot be before 1970.
pub(super) fn start_ns(stated: Option<i64>) -> Result<Option<u64>> {
    let negative = |_| Error::format("column start_ns: negative; it counts nanoseconds since 1970");
    stated.map(|ns| u64::try_from(ns).map_err(negative)).transpose()
}

/// The five parts of a key as a file gives them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyParts<'a> {
    pub client_ip: Option<&'a str>,
    pub server_ip: Option<&'a str>,
    pub client_port: Option<i64>,
    pub server_port: Option<i64>,
    pub protocol: Option<i64>,
}

impl KeyParts<'_> {
    /// The key; none if an address or the protocol is missing. Protocols without ports have ports 0.
    pub fn key(self) -> Result<Option<FlowKey>> {
        let (Some(client), Some(server), Some(protocol)) = (self.client_ip, self.server_ip, self.protocol) else {
            return Ok(None);
        };
        let address = |column: &str, text: &str| {
            text.parse::<IpAddr>()
                .map_err(|_| Error::format(format!("column {column}: \"{text}\" is not an IP address")))
        };
        let port = |column: &str, port: Option<i64>| {
            let port = port.unwrap_or(0);
            u16::try_from(port).map_err(|_| Error::format(format!("column {column}: {port} is not a port")))
        };
        Ok(Some(FlowKey {
            client: address("client_ip", client)?,
            server: address("server_ip", server)?,
            client_port: port("client_port", self.client_port)?,
            server_port: port("server_port", self.server_port)?,
            protocol: u8::try_from(protocol)
                .map_err(|_| Error::format(format!("column protocol: {protocol} is not in 0..=255")))?,
        }))
    }
}

/// IP protocol number of a name or a number.
pub fn protocol_number(text: &str) -> Option<u8> {
    let number = match text.to_ascii_lowercase().as_str() {
        "icmp" => 1,
        "igmp" => 2,
        "tcp" => 6,
        "udp" => 17,
        "ipv6-icmp" | "icmpv6" | "icmp6" => 58,
        "sctp" => 132,
        other => return other.parse().ok(),
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_cannot_be_are_refused_by_place() {
        let refused = |sizes: &[i64], times: &[f64]| packets(sizes, times).unwrap_err().message().to_string();
        assert!(refused(&[40, 50], &[0.0]).contains("2 sizes but 1 times"));
        assert!(refused(&[], &[]).contains("0 packets"));
        assert!(refused(&[40, i64::MIN], &[0.0, 1.0]).contains("packet 1: size"));
        assert!(refused(&[40], &[f64::NAN]).contains("packet 0"));
        assert!(refused(&[40], &[-1.0]).contains("packet 0"));
        assert!(refused(&[40], &[1e300]).contains("packet 0"));
        assert!(refused(&vec![1; MAX_PACKETS_OF_ROW + 1], &vec![0.0; MAX_PACKETS_OF_ROW + 1]).contains("65537"));
        assert_eq!(packets(&[-40], &[2.5]).unwrap(), [Packet { size: -40, ipt_us: 2.5 }]);
    }

    #[test]
    fn a_key_needs_its_addresses_and_fits_its_fields() {
        let full = KeyParts {
            client_ip: Some("2001:db8::1"),
            server_ip: Some("192.0.2.1"),
            client_port: None,
            server_port: Some(53),
            protocol: Some(17),
        };
        let key = full.key().unwrap().unwrap();
        assert_eq!((key.client_port, key.server_port, key.protocol), (0, 53, 17));
        assert!(KeyParts { server_ip: None, ..full }.key().unwrap().is_none());
        assert!(KeyParts { client_ip: Some("host"), ..full }.key().unwrap_err().message().contains("client_ip"));
        assert!(KeyParts { server_port: Some(65_536), ..full }.key().unwrap_err().message().contains("server_port"));
        assert!(KeyParts { protocol: Some(-1), ..full }.key().unwrap_err().message().contains("protocol"));
    }
}
