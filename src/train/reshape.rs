//! Training flows as they would have been elsewhere: what differs between places, and not between protocols.
//!
//! Names, cookies and certificates have other lengths; TCP options and the IP version move all sizes of a flow alike;
//! packets are lost before the capture, and some captures begin in the middle of a flow. Changing the flows in these
//! ways keeps a network from learning exact sizes of few captures by heart.

use crate::packet::Packet;
use crate::random::Stream;
use serde::{Deserialize, Serialize};

/// Sizes from here on are full segments: what fills them does not depend on the length of what is sent.
const FULL: i32 = 1380;

/// Sizes up to this one hold headers and next to nothing else.
const BARE: i32 = 80;

/// Bytes of headers that do not stretch with what is sent.
const HEADERS: f64 = 40.0;

/// Smallest IP packet with a transport header.
const SMALLEST: i32 = 28;

/// What headers differ by: TCP timestamps, and IPv6 instead of IPv4.
const HEADER_SHIFTS: [i32; 4] = [12, -12, 20, -20];

/// Most packets that a late capture misses.
const MOST_MISSED: usize = 4;

/// How much flows are changed; all 0: not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reshape {
    /// Standard deviation, as a share of what is sent, by which the size of every other packet changes. Bare headers
    /// and full segments stay.
    pub size_jitter: f64,
    /// Probability that all packets of the flow but full segments have as many header bytes more or fewer.
    pub header_shift: f64,
    /// Probability that a packet is missing; its time goes to the next one.
    pub packet_loss: f64,
    /// Probability that the first one to four packets are missing. The direction of the flow is again that of its
    /// first packet.
    pub late_start: f64,
}

impl Reshape {
    /// Whether flows stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Changes the packets of a flow by `draws`. At least one is left of any that there were.
    pub fn apply(&self, packets: &mut Vec<Packet>, draws: &mut Stream) {
        if draws.uniform() < self.late_start {
            let missed = 1 + draws.below(MOST_MISSED);
            packets.drain(..missed.min(packets.len().saturating_sub(2)));
        }
        if self.packet_loss > 0.0 {
            lose(packets, self.packet_loss, draws);
        }
        begin(packets);
        if draws.uniform() < self.header_shift {
            shift(packets, HEADER_SHIFTS[draws.below(HEADER_SHIFTS.len())]);
        }
        if self.size_jitter > 0.0 {
            stretch(packets, self.size_jitter, draws);
        }
    }
}

/// Takes packets away with probability `p` each, but not the last one left.
fn lose(packets: &mut Vec<Packet>, p: f64, draws: &mut Stream) {
    let (n, mut lost, mut waited) = (packets.len(), 0, 0.0);
    packets.retain_mut(|packet| {
        if draws.uniform() < p && lost + 1 < n {
            lost += 1;
            waited += packet.ipt_us;
            return false;
        }
        packet.ipt_us = (packet.ipt_us + waited).min(f32::MAX);
        waited = 0.0;
        true
    });
}

/// Makes the first packet one: it comes from the client and waits for nothing.
fn begin(packets: &mut [Packet]) {
    let Some(first) = packets.first_mut() else { return };
    first.ipt_us = 0.0;
    if first.size < 0 {
        packets.iter_mut().for_each(|packet| packet.size = packet.size.saturating_neg());
    }
}

/// Moves all sizes but those of full segments by `bytes`, unless one would be too small for its headers.
fn shift(packets: &mut [Packet], bytes: i32) {
    if packets.iter().all(|packet| packet.size.saturating_abs().saturating_add(bytes) >= SMALLEST) {
        for packet in packets.iter_mut().filter(|packet| packet.size.saturating_abs() < FULL) {
            packet.size += bytes * packet.size.signum();
        }
    }
}

/// Changes what every other packet carries by a normal share of spread `spread`.
fn stretch(packets: &mut [Packet], spread: f64, draws: &mut Stream) {
    for packet in packets {
        let size = packet.size.saturating_abs();
        if (BARE..FULL).contains(&size) && draws.uniform() < 0.5 {
            let sent = (f64::from(size) - HEADERS) * (spread * draws.normal()).exp();
            packet.size = packet.size.signum() * ((sent + HEADERS).round() as i32).clamp(BARE, FULL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(sizes: &[i32]) -> Vec<Packet> {
        sizes.iter().enumerate().map(|(i, &size)| Packet { size, ipt_us: i as f32 }).collect()
    }

    fn sizes(packets: &[Packet]) -> Vec<i32> {
        packets.iter().map(|packet| packet.size).collect()
    }

    fn drawn(reshape: Reshape, original: &[i32], n: u64) -> Vec<Vec<Packet>> {
        (0..n)
            .map(|stream| {
                let mut packets = flow(original);
                reshape.apply(&mut packets, &mut Stream::new(1, stream));
                packets
            })
            .collect()
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        for packets in drawn(Reshape::default(), &[60, -60, 52, 1500], 20) {
            assert_eq!(packets, flow(&[60, -60, 52, 1500]));
        }
    }

    #[test]
    fn sizes_stretch_by_as_much_as_asked_and_headers_and_full_segments_stay() {
        let reshape = Reshape { size_jitter: 0.1, ..Reshape::default() };
        let all = drawn(reshape, &[52, -540, 1500], 4000);
        let changed: Vec<f64> = all.iter().map(|p| f64::from(p[1].size)).filter(|&size| size != -540.0).collect();
        assert!((1700..2200).contains(&changed.len()), "{}", changed.len());
        let logs = changed.iter().map(|size| ((-size - 40.0) / 500.0).ln());
        let spread = (logs.map(|x| x * x).sum::<f64>() / changed.len() as f64).sqrt();
        assert!((spread - 0.1).abs() < 0.01, "{spread}");
        assert!(all.iter().all(|p| p[0].size == 52 && p[2].size == 1500));
    }

    #[test]
    fn headers_shift_all_sizes_alike_and_never_below_their_own_length() {
        let reshape = Reshape { header_shift: 1.0, ..Reshape::default() };
        let mut seen: Vec<Vec<i32>> = drawn(reshape, &[44, -44, 300, -1500], 200).iter().map(|p| sizes(p)).collect();
        seen.sort();
        seen.dedup();
        let by = |bytes: i32| vec![44 + bytes, -44 - bytes, 300 + bytes, -1500];
        assert_eq!(seen, [by(-12), by(0), by(12), by(20)], "20 fewer would leave 24");
    }

    #[test]
    fn lost_packets_leave_their_time_to_the_next() {
        let reshape = Reshape { packet_loss: 0.3, ..Reshape::default() };
        let mut left = 0;
        for packets in drawn(reshape, &[60; 20], 500) {
            let passed: f32 = packets.iter().map(|packet| packet.ipt_us).sum();
            assert!(passed <= (0..20).sum::<i32>() as f32 && packets[0].ipt_us == 0.0);
            left += packets.len();
        }
        assert!((6700..7300).contains(&left), "{left} of 10000");
        for packets in drawn(Reshape { packet_loss: 1.0, ..reshape }, &[60, -60, 60], 5) {
            assert_eq!(packets.len(), 1);
        }
        let mut packets = flow(&[1, 2, 3, 4]);
        lose(&mut packets, 0.5, &mut Stream::new(3, 0));
        let kept_to_the_end = packets.last().is_some_and(|packet| packet.size == 4);
        let passed: f32 = packets.iter().map(|packet| packet.ipt_us).sum();
        assert!(!kept_to_the_end || passed == 6.0);
    }

    #[test]
    fn a_flow_that_starts_late_begins_with_its_client() {
        let reshape = Reshape { late_start: 1.0, ..Reshape::default() };
        let mut lengths = [0; 8];
        for packets in drawn(reshape, &[60, -61, 62, -63, 64, -65, 66], 400) {
            assert!(packets[0].size > 0 && packets[0].ipt_us == 0.0);
            assert!(packets.windows(2).all(|pair| pair[0].size.signum() != pair[1].size.signum()));
            lengths[packets.len()] += 1;
        }
        assert!(lengths[3..7].iter().all(|&n| n > 60), "{lengths:?}");
        assert!(drawn(reshape, &[60, -61], 5).iter().all(|packets| packets.len() == 2));
    }

    #[test]
    fn any_packets_stay_legal() {
        let reshape = Reshape { size_jitter: 10.0, header_shift: 1.0, packet_loss: 0.5, late_start: 1.0 };
        for original in [&[][..], &[0], &[i32::MIN, i32::MAX, -1, 1, 90], &[-500, 65_535, -65_535]] {
            for packets in drawn(reshape, original, 50) {
                assert_eq!(packets.is_empty(), original.is_empty());
                packets.iter().for_each(|packet| packet.check().unwrap());
            }
        }
    }
}
