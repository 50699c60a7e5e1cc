//! Packets counted by size and time, in bounded memory, whatever their number and order.
//!
//! Sizes are whole bytes and clocks are coarse, so most packets of real traffic equal others. Where there are more different
//! ones than there is room for, times lose their last bits, one for all packets at a time, until they fit: 13 dropped
//! of the 23 leave a time known to one part in a thousand. How many are dropped depends on the set of packets alone,
//! not on their order.

use crate::error::{Error, Result};
use crate::packet::Packet;
use rayon::prelude::*;

/// Bytes of memory, at most, for each different packet there is room for: its count here twice while counts are merged,
/// its share of the packets not counted yet, or its point in the columns made of it.
pub const BYTES_PER_ENTRY: usize = 48;

/// Room by default: 16 million different packets.
pub const DEFAULT_ROOM: usize = 1 << 24;

/// Least room: with every bit of the mantissa dropped, all sizes that occur fit within it.
const MIN_ROOM: usize = 1 << 16;

/// Most low bits of a time that may be dropped: all of the mantissa.
const MAX_DROPPED: u32 = f32::MANTISSA_DIGITS - 1;

/// Counts of packets that are equal in size and, to the bits kept, in time.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Rising keys with their counts.
    counts: Vec<(u64, u64)>,
    /// Keys not counted yet.
    pending: Vec<u64>,
    dropped: u32,
    room: usize,
    n_packets: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new(DEFAULT_ROOM)
    }
}

impl Histogram {
    /// Room for `room` different packets, 65,536 at least, and [`BYTES_PER_ENTRY`] of memory for each.
    pub fn new(room: usize) -> Self {
        Self { counts: Vec::new(), pending: Vec::new(), dropped: 0, room: room.max(MIN_ROOM), n_packets: 0 }
    }

    /// Counts `packets`. Refuses one whose time is negative or not finite, by its index; those before it are counted.
    pub fn add(&mut self, packets: &[Packet]) -> Result<()> {
        for (i, packet) in packets.iter().enumerate() {
            packet.check().map_err(|e| e.at(format_args!("packet {i}")))?;
            if self.pending.len() >= self.room {
                self.count()?;
            }
            self.pending.push(key(*packet));
            self.n_packets += 1;
        }
        Ok(())
    }

    /// Packets counted.
    pub fn n_packets(&self) -> u64 {
        self.n_packets
    }

    /// The different packets, by rising size and time, with their counts; and how many low bits of the times were
    /// dropped to hold them.
    pub fn finish(mut self) -> Result<(Vec<(Packet, u64)>, u32)> {
        self.count()?;
        let middle = if self.dropped == 0 { 0 } else { 1 << (self.dropped - 1) };
        // Time 0 is a value of its own, not the middle of the smallest ones.
        let packet = |key: u64| if key as u32 == 0 { packet(key) } else { packet(key | middle) };
        Ok((self.counts.into_iter().map(|(key, n)| (packet(key), n)).collect(), self.dropped))
    }

    /// Counts what is pending, and drops bits while there are too many different packets.
    fn count(&mut self) -> Result<()> {
        self.mask_pending();
        self.pending.par_sort_unstable();
        let fresh = self.pending.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64));
        let old = std::mem::take(&mut self.counts);
        self.counts = Vec::with_capacity(old.len() + self.pending.len());
        let mut old = old.into_iter().peekable();
        for (key, n) in fresh {
            while let Some(before) = old.next_if(|&(k, _)| k < key) {
                self.counts.push(before);
            }
            let equal = old.next_if(|&(k, _)| k == key).map_or(0, |(_, n)| n);
            self.counts.push((key, n + equal));
        }
        self.counts.extend(old);
        self.pending.clear();
        while self.counts.len() > self.room {
            if self.dropped == MAX_DROPPED {
                return Err(Error::new(
                    crate::error::Kind::NoMemory,
                    format!(
                        "more than {} different packets, by size and power of two of the time: allow more memory",
                        self.room
                    ),
                ));
            }
            self.dropped += 1;
            let mask = u64::MAX << self.dropped;
            self.counts.dedup_by(|next, kept| {
                let equal = next.0 & mask == kept.0 & mask;
                kept.1 += if equal { next.1 } else { 0 };
                equal
            });
            self.counts.iter_mut().for_each(|(key, _)| *key &= mask);
        }
        self.counts.shrink_to_fit();
        Ok(())
    }

    fn mask_pending(&mut self) {
        let mask = u64::MAX << self.dropped;
        self.pending.iter_mut().for_each(|key| *key &= mask);
    }
}

/// Size and time in one number that rises with size, then time.
fn key(packet: Packet) -> u64 {
    let size = (packet.size as u32) ^ (1 << 31);
    // Adding 0 turns -0 into it.
    u64::from(size) << 32 | u64::from((packet.ipt_us + 0.0).to_bits())
}

fn packet(key: u64) -> Packet {
    Packet { size: ((key >> 32) as u32 ^ (1 << 31)) as i32, ipt_us: f32::from_bits(key as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn packets(n: usize) -> Vec<Packet> {
        let mut draws = Stream::new(5, 0);
        (0..n)
            .map(|_| Packet { size: draws.below(3) as i32 - 1, ipt_us: 10f32.powf(draws.uniform() as f32 * 6.0) })
            .collect()
    }

    #[test]
    fn equal_packets_are_counted_and_come_out_in_order() {
        let mut histogram = Histogram::default();
        let at = |size, ipt_us| Packet { size, ipt_us };
        histogram.add(&[at(40, 1.0), at(-7, 0.5), at(40, 0.0), at(40, -0.0), at(40, 1.0)]).unwrap();
        assert_eq!(histogram.n_packets(), 5);
        let (counts, dropped) = histogram.finish().unwrap();
        assert_eq!(counts, [(at(-7, 0.5), 1), (at(40, 0.0), 2), (at(40, 1.0), 2)]);
        assert_eq!(dropped, 0);
    }

    #[test]
    fn too_many_different_packets_lose_bits_whatever_their_order() {
        let mut packets = packets(400_000);
        let count = |packets: &[Packet], chunk: usize| {
            let mut histogram = Histogram::new(MIN_ROOM);
            packets.chunks(chunk).for_each(|chunk| histogram.add(chunk).unwrap());
            histogram.finish().unwrap()
        };
        let one = count(&packets, 1000);
        assert!(one.1 > 0 && one.0.len() <= MIN_ROOM, "{} bits, {} entries", one.1, one.0.len());
        assert_eq!(one.0.iter().map(|(_, n)| n).sum::<u64>(), 400_000);
        assert!(one.0.windows(2).all(|w| (w[0].0.size, w[0].0.ipt_us) < (w[1].0.size, w[1].0.ipt_us)));
        Stream::new(9, 9).shuffle(&mut packets);
        assert_eq!(one, count(&packets, 77_777));
    }

    #[test]
    fn a_packet_that_cannot_be_is_refused_by_number() {
        let packets = [Packet { size: 1, ipt_us: 0.0 }, Packet { size: 1, ipt_us: f32::NAN }];
        let error = Histogram::default().add(&packets).unwrap_err();
        assert!(error.message().contains("packet 1"), "{error}");
    }
}
