//! What an IP packet carries inside: IP in IP, GRE (RFC 2784, 2890, 2637), VXLAN (RFC 7348), GTP-U (3GPP TS 29.281).

use super::Layer;
use super::bytes::Bytes;
use super::ip::Ip;

const IP_IN_IP: u8 = 4;
const UDP: u8 = 17;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;

const GTP_U_PORT: u16 = 2152;
const VXLAN_PORT: u16 = 4789;

/// The layer inside the packet whose transport header is at `at`, if it is a tunnel and that header is whole.
///
/// On `Some`, `at` is moved to that layer; on `None` its place does not matter.
pub(super) fn enter(ip: &Ip, at: &mut Bytes<'_>) -> Option<Layer> {
    match ip.protocol {
        IP_IN_IP | IPV6_IN_IP => Some(Layer::Ip),
        GRE => gre(at),
        UDP => {
            let header: [u8; 8] = at.take().ok()?;
            let port = |i: usize| u16::from_be_bytes([header[i], header[i + 1]]);
            if port(2) == VXLAN_PORT {
                return vxlan(at);
            }
            if port(0) == GTP_U_PORT || port(2) == GTP_U_PORT {
                return gtp_u(at);
            }
            None
        }
        _ => None,
    }
}

fn gre(at: &mut Bytes<'_>) -> Option<Layer> {
    let [flags, flags_and_version, high, low] = at.take().ok()?;
    let has = |bit: u8| usize::from(flags & bit != 0);
    let (checksum, routing, key, sequence) = (has(0x80), has(0x40), has(0x20), has(0x10));
    let fields = match flags_and_version & 0x07 {
        // Source routes are long gone, and their length can only be found by walking them.
        0 if routing == 0 => checksum + key + sequence,
        // PPTP: the key holds length and call; a packet without a sequence number only acknowledges.
        1 if sequence == 1 => key + sequence + usize::from(flags_and_version & 0x80 != 0),
        _ => return None,
    };
    at.skip(fields * 4).ok()?;
    Some(Layer::EtherType(u16::from_be_bytes([high, low])))
}

fn vxlan(at: &mut Bytes<'_>) -> Option<Layer> {
    let header: [u8; 8] = at.take().ok()?;
    let has_network = header[0] & 0x08 != 0;
    has_network.then_some(Layer::Ethernet)
}

fn gtp_u(at: &mut Bytes<'_>) -> Option<Layer> {
    let header: [u8; 8] = at.take().ok()?;
    let (flags, message) = (header[0], header[1]);
    let (is_version_1, is_user_data) = (flags & 0xf0 == 0x30, message == 0xff);
    if !is_version_1 || !is_user_data {
        return None;
    }
    // Any of the three flags brings all three fields: sequence number, N-PDU number, next extension's type.
    if flags & 0x07 != 0 {
        let [_, _, _, mut next]: [u8; 4] = at.take().ok()?;
        while flags & 0x04 != 0 && next != 0 {
            // Length in units of 4 bytes, itself and the type of the next one included.
            let [units] = at.take().ok()?;
            at.skip((usize::from(units) * 4).checked_sub(2)?).ok()?;
            [next] = at.take().ok()?;
        }
    }
    // Not announced: the PDU may as well be Ethernet or PPP.
    matches!(at.peek(0)? >> 4, 4 | 6).then_some(Layer::Ip)
}
