//! Flows as TCP connections: which flags, numbers and options make packets of given sizes one.
//!
//! A flow that begins as a handshake does (two packets that are little more than headers with options, and a third that is
//! less) is given one, and a teardown at its end; another is a connection that was seen from its middle on.
//! Sequence numbers count the payloads, every packet acknowledges all that came before it. Windows are scaled and
//! timestamps used where the handshake has room to agree on them.

use crate::packet::Packet;
use etherparse::TcpHeader;

/// Bytes of a TCP header without options.
pub const HEADER: u32 = 20;

/// Bytes of an Ethernet frame's payload, which a segment is to fit in.
const MTU: u16 = 1500;

/// Most bytes of options that a TCP header can have.
const MAX_OPTIONS: u32 = 40;

/// Bytes of the timestamps option with its padding.
const TIMESTAMPS: u32 = 12;

/// First packets that are the handshake.
const HANDSHAKE: usize = 3;

/// Least options with which a handshake agrees on scaled windows, and on timestamps too.
const SCALED: u32 = 12;
const TIMED: u32 = 20;

/// Whether `packets` begin as a TCP connection does, with IP headers of at most `ip_header` bytes, sizes being off by a few
/// bytes as those of centroids are.
pub fn is_connection(packets: &[Packet], ip_header: u32) -> bool {
    let [first, second, third, ..] = packets else { return false };
    let headers = (ip_header + HEADER) as i32;
    let opens = 38..=headers + 44;
    let answers = 38..=headers + 18;
    opens.contains(&first.size) && opens.contains(&second.size.saturating_neg()) && answers.contains(&third.size)
}

/// One side of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Sequence number of its first packet.
    first: u32,
    /// Sequence number of the next byte.
    next: u32,
    /// Index of the packet that ends this side's stream.
    fin: Option<u32>,
    /// Its clock at the moment from which times are counted.
    clock: u32,
    /// The last timestamp it sent.
    sent: u32,
}

/// A connection as it goes on; packets are to be given in order.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Bytes of the headers of IP and TCP without options: of the smallest packet.
    headers: u32,
    /// The client and the server.
    sides: [Side; 2],
    handshake: bool,
    scaled: bool,
    timed: bool,
}

impl Connection {
    /// The connection of flow number `flow`, none of whose packets was sent yet, over IP headers of `ip_header` bytes.
    pub fn new(flow: u32, packets: &[Packet], ip_header: u32) -> Self {
        let handshake = is_connection(packets, ip_header);
        let headers = ip_header + HEADER;
        let room = |packet: &Packet| opening_room(packet.size.unsigned_abs().saturating_sub(headers));
        let least = if handshake { room(&packets[0]).min(room(&packets[1])) } else { 0 };
        // Initial numbers only need to differ; these are Knuth's multiplicative hash of the flow.
        let isn = flow.wrapping_add(1).wrapping_mul(2_654_435_761);
        let side = |first| Side { first, next: first, fin: None, clock: first ^ 0x5555_5555, sent: 0 };
        let mut out = Self {
            headers,
            sides: [side(isn), side(isn.rotate_left(16))],
            handshake,
            scaled: least >= SCALED,
            timed: least >= TIMED,
        };
        if handshake {
            out.plan_teardown(packets);
        }
        out
    }

    /// Each side ends with its last packet, but for a bare acknowledgement of the other's end at the very end.
    fn plan_teardown(&mut self, packets: &[Packet]) {
        let last_of = |side: usize, before: usize| {
            (HANDSHAKE..before).rev().find(|&i| side_of(&packets[i]) == side).map(|i| i as u32)
        };
        let Some(last) = packets.len().checked_sub(1).filter(|last| *last >= HANDSHAKE) else { return };
        let (side, other) = (side_of(&packets[last]), 1 - side_of(&packets[last]));
        let (before, others) = (last_of(side, last), last_of(other, last));
        let bare = self.payload(last, &packets[last]) == 0;
        self.sides[side].fin = if bare && others.is_some() && before.is_some() { before } else { Some(last as u32) };
        self.sides[other].fin = others;
    }

    /// Bytes of a packet past the headers without options.
    fn room(&self, packet: &Packet) -> u32 {
        packet.size.unsigned_abs().saturating_sub(self.headers)
    }

    /// Bytes of options of packet `index`.
    fn options(&self, index: usize, packet: &Packet) -> u32 {
        if self.handshake && index < 2 {
            opening_room(self.room(packet))
        } else if self.timed && self.room(packet) >= TIMESTAMPS {
            TIMESTAMPS
        } else {
            0
        }
    }

    fn payload(&self, index: usize, packet: &Packet) -> u32 {
        self.room(packet) - self.options(index, packet)
    }

    /// The header of packet `index`, sent `ms` milliseconds after some moment, and how many bytes of payload follow.
    pub fn send(&mut self, index: usize, packet: &Packet, ms: u32, ports: (u16, u16)) -> (TcpHeader, u32) {
        let (side, payload) = (side_of(packet), self.payload(index, packet));
        let options = self.options(index, packet);
        let (mine, theirs) = (self.sides[side], self.sides[1 - side]);
        let opens = self.handshake && index < 2;
        // No two windows in a row are equal, or bare acknowledgements would be taken for signs of a loss.
        let window = if self.scaled && !opens { 502 } else { 64_240 } - (index % 16) as u16;
        let mut header = TcpHeader::new(ports.0, ports.1, mine.next, window);
        header.syn = opens;
        header.ack = !opens || index > 0;
        header.acknowledgment_number = match (header.ack, opens) {
            (false, _) => 0,
            // An answer that opens takes the opening alone: data that came with it counts from the third packet on.
            (true, true) => theirs.first.wrapping_add(1),
            (true, false) => theirs.next,
        };
        header.psh = payload > 0 && !opens;
        header.fin = mine.fin == Some(index as u32);
        let time = mine.clock.wrapping_add(ms);
        let answered = if header.ack { theirs.sent } else { 0 };
        let mut bytes = Vec::with_capacity(MAX_OPTIONS as usize);
        match (opens, options) {
            (_, 0) => {}
            (true, n) => opening_options(n, MTU - self.headers as u16, time, answered, &mut bytes),
            (false, _) => {
                bytes.extend([1, 1]);
                timestamps(time, answered, &mut bytes);
            }
        }
        // At most 40 bytes, a multiple of 4: never refused.
        let _ = header.set_options_raw(&bytes);
        let stream = payload + u32::from(header.syn) + u32::from(header.fin);
        self.sides[side] = Side { next: mine.next.wrapping_add(stream), sent: time, ..mine };
        (header, payload)
    }
}

/// Bytes of options in a packet that opens and has so many past the headers; what is left carries data already.
fn opening_room(room: u32) -> u32 {
    room.min(MAX_OPTIONS) / 4 * 4
}

/// 0 for the client, 1 for the server.
fn side_of(packet: &Packet) -> usize {
    usize::from(packet.size < 0)
}

/// The options of a packet that opens, in `room` bytes: what fits of the segment size, selective acknowledgements,
/// timestamps and the window's scale; then padding.
fn opening_options(room: u32, segment: u16, time: u32, answered: u32, out: &mut Vec<u8>) {
    let [high, low] = segment.to_be_bytes();
    let segment_size = [2, 4, high, low];
    let scale = [1, 3, 3, 7];
    if room >= 4 {
        out.extend(segment_size);
    }
    match room {
        TIMED.. => {
            out.extend([4, 2]);
            timestamps(time, answered, out);
            out.extend(scale);
        }
        SCALED.. => {
            out.extend(scale);
            out.extend([1, 1, 4, 2]);
        }
        8.. => out.extend([1, 1, 4, 2]),
        _ => {}
    }
    // The end of the options, as often as there is room.
    out.resize(room as usize, 0);
}

fn timestamps(time: u32, answered: u32, out: &mut Vec<u8>) {
    out.extend([8, 10]);
    out.extend(time.to_be_bytes());
    out.extend(answered.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(sizes: &[i32]) -> Vec<Packet> {
        sizes.iter().map(|&size| Packet { size, ipt_us: 0.0 }).collect()
    }

    /// `S`, `A`, `F`, `P` and payload of each packet over IPv4; sizes must come out as they went in. Over IPv6, the same
    /// of packets that are larger by its header.
    fn sent(sizes: &[i32]) -> Vec<(String, u32)> {
        let larger: Vec<i32> = sizes.iter().map(|size| size + 20 * size.signum()).collect();
        let over_v4 = sent_over(20, sizes);
        assert_eq!(sent_over(40, &larger), over_v4);
        over_v4
    }

    fn sent_over(ip_header: u32, sizes: &[i32]) -> Vec<(String, u32)> {
        let (packets, least) = (packets(sizes), ip_header + HEADER);
        let mut connection = Connection::new(3, &packets, ip_header);
        let mut next = [None::<u32>; 2];
        let send = |(i, packet): (usize, &Packet)| {
            let (header, payload) = connection.send(i, packet, i as u32, (1, 2));
            let length = ip_header + header.header_len() as u32 + payload;
            assert_eq!(length, packet.size.unsigned_abs().max(least), "packet {i}");
            let side = usize::from(packet.size < 0);
            assert!(next[side].is_none_or(|next| next == header.sequence_number), "packet {i}: no gap, no overlap");
            if let Some(theirs) = next[1 - side].filter(|_| header.ack && !header.syn) {
                assert_eq!(header.acknowledgment_number, theirs, "packet {i} acknowledges all");
            }
            let length = payload + u32::from(header.syn) + u32::from(header.fin);
            next[side] = Some(header.sequence_number.wrapping_add(length));
            let flags = [(header.syn, 'S'), (header.ack, 'A'), (header.fin, 'F'), (header.psh, 'P')];
            (flags.iter().filter(|f| f.0).map(|f| f.1).collect(), payload)
        };
        packets.iter().enumerate().map(send).collect()
    }

    #[test]
    fn a_handshake_becomes_one_and_a_teardown_ends_it() {
        let flags = |sizes: &[i32]| sent(sizes).into_iter().map(|s| s.0).collect::<Vec<_>>().join(" ");
        assert_eq!(flags(&[60, -60, 52, 569, -52, -1500, 52, 52, -52, 52]), "S SA A AP A AP A AF AF A");
        assert_eq!(flags(&[60, -60, 52, 100, -52, -90]), "S SA A AFP A AFP");
        assert_eq!(flags(&[44, -44, 40, 90, -40]), "S SA A AFP AF");
        assert_eq!(flags(&[60, -60, 52]), "S SA A", "nothing to end");
        assert_eq!(flags(&[569, -52, -1500, 52]), "AP AP AP AP", "from the middle on");
    }

    #[test]
    fn timestamps_are_used_where_the_handshake_has_room_for_them() {
        assert_eq!(sent(&[60, -60, 52, 53, 45])[2..], [("A".into(), 0), ("AP".into(), 1), ("AFP".into(), 5)]);
        assert_eq!(sent(&[52, -52, 40, 52])[3], ("AFP".into(), 12));
        assert_eq!(sent(&[80, -40, 52, 41])[2].1, 12);
        for size in 40..=84 {
            sent(&[size, -size, 40, 700, -1500, -1500, 40]);
        }
    }

    #[test]
    fn only_what_begins_like_a_connection_is_one() {
        let is = |sizes: &[i32]| is_connection(&packets(sizes), 20);
        assert!(is(&[60, -60, 52]) && is(&[40, -44, 40, 1500]) && is(&[65, -54, 53]));
        let is_over_v6 = |sizes: &[i32]| is_connection(&packets(sizes), 40);
        assert!(is_over_v6(&[80, -80, 72]) && is_over_v6(&[100, -60, 60]) && is_over_v6(&[60, -60, 52]));
        assert!(!is_over_v6(&[110, -80, 72]) && !is_over_v6(&[80, -80, 90]));
        for sizes in
            [&[60, -60][..], &[60, 60, 52], &[-60, 60, 52], &[90, -60, 52], &[60, -60, 300], &[60, i32::MIN, 40]]
        {
            assert!(!is(sizes), "{sizes:?}");
        }
    }
}
