//! The packets of a fit, in the device's memory.

use crate::cuda::device::Device;
use crate::error::{Error, Kind, Result};
use crate::packet::Packet;
use crate::quantizer::table::MAX_SIZE;
use cudarc::driver::CudaSlice;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Packets of a chunk: few enough that collecting one on the host takes little of its memory (128 MiB).
pub(super) const CHUNK: usize = 1 << 24;

/// Different packets kept on the host, from which a centroid that got none is placed anew.
const KEPT: usize = 1 << 14;

/// Packets that a codebook is to be fitted to, 8 bytes of device memory each. Given piece by piece, so that the host never
/// holds more than a chunk of them.
pub struct Packets {
    device: Arc<Device>,
    chunks: Vec<Chunk>,
    pending: Vec<Packet>,
    survey: Survey,
}

/// Part of the packets.
pub(super) struct Chunk {
    pub packets: CudaSlice<u32>,
    pub len: usize,
}

impl Packets {
    /// None yet, on `device`.
    pub fn new(device: &Arc<Device>) -> Self {
        Self { device: device.clone(), chunks: Vec::new(), pending: Vec::new(), survey: Survey::default() }
    }

    /// Adds `packets`. Refuses, by its index, one whose time is negative or not finite or whose size no IP packet has; then
    /// none of them is added. Where the device's memory is full, [`Kind::NoMemory`].
    pub fn push(&mut self, packets: &[Packet]) -> Result<()> {
        self.survey.add(packets)?;
        let mut rest = packets;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(CHUNK - self.pending.len()));
            self.pending.extend_from_slice(now);
            if self.pending.len() == CHUNK {
                self.flush()?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Number of packets.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len).sum::<usize>() + self.pending.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies what is still on the host.
    pub(super) fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let packets = self.device.run("copying packets", |stream| {
            stream.clone_htod::<u32, _>(bytemuck::cast_slice::<Packet, u32>(&self.pending))
        });
        let packets = packets.map_err(|e| match e.kind() {
            Kind::NoMemory => Error::new(
                Kind::NoMemory,
                format!("{} packets fill the device, {e}; fit on the CPU, which counts equal packets", self.len()),
            ),
            _ => e,
        })?;
        self.chunks.push(Chunk { packets, len: self.pending.len() });
        self.pending.clear();
        Ok(())
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    pub(super) fn survey(&self) -> &Survey {
        &self.survey
    }
}

/// What the host must know of the packets.
#[derive(Default)]
pub(super) struct Survey {
    /// Whether a size occurs, from -65,535 on; empty before the first packet.
    sizes: Vec<bool>,
    kept: BTreeSet<(u64, u64)>,
    /// The greatest of them, once some had to go.
    greatest: Option<(u64, u64)>,
}

impl Survey {
    /// Looks at `packets`, and refuses all of them for one that cannot be.
    pub(super) fn add(&mut self, packets: &[Packet]) -> Result<()> {
        for (i, packet) in packets.iter().enumerate() {
            packet.check().map_err(|e| e.at(format_args!("packet {i}")))?;
            if packet.size.unsigned_abs() > MAX_SIZE.unsigned_abs() {
                let size = packet.size;
                return Err(Error::invalid(format!(
                    "packet {i}: size is {size}; an IP packet has at most {MAX_SIZE} bytes"
                )));
            }
        }
        self.sizes.resize(2 * MAX_SIZE as usize + 1, false);
        for packet in packets {
            self.sizes[(packet.size + MAX_SIZE) as usize] = true;
            self.keep(*packet);
        }
        Ok(())
    }

    /// The sizes that occur, rising.
    pub(super) fn sizes(&self) -> Vec<i32> {
        (-MAX_SIZE..=MAX_SIZE).zip(&self.sizes).filter(|(_, occurs)| **occurs).map(|(size, _)| size).collect()
    }

    /// Different packets drawn from all different ones; which, does not depend on the order in which they came.
    pub(super) fn kept(&self) -> impl Iterator<Item = Packet> + '_ {
        self.kept.iter().map(|&(_, key)| Packet { size: (key >> 32) as i32, ipt_us: f32::from_bits(key as u32) })
    }

    /// Keeps the packets whose hashes are lowest.
    fn keep(&mut self, packet: Packet) {
        let key = u64::from(packet.size as u32) << 32 | u64::from(packet.ipt_us.abs().to_bits());
        let entry = (hash(key), key);
        if self.greatest.is_some_and(|greatest| greatest <= entry) {
            return;
        }
        self.kept.insert(entry);
        if self.kept.len() > KEPT {
            self.kept.pop_last();
            self.greatest = self.kept.last().copied();
        }
    }
}

/// The finaliser of MurmurHash3 (Appleby): each bit of the key changes each bit of the hash with probability one half.
fn hash(key: u64) -> u64 {
    let key = (key ^ (key >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let key = (key ^ (key >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    key ^ (key >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn what_is_kept_does_not_depend_on_order_or_pieces() {
        let mut packets: Vec<Packet> =
            (0..40_000).map(|i| Packet { size: i % 3000 - 1500, ipt_us: (i / 3000 % 10) as f32 }).collect();
        let mut whole = Survey::default();
        whole.add(&packets).unwrap();
        Stream::new(1, 1).shuffle(&mut packets);
        let mut pieces = Survey::default();
        packets.chunks(777).for_each(|piece| pieces.add(piece).unwrap());
        assert_eq!(whole.kept, pieces.kept);
        assert_eq!((whole.kept.len(), whole.sizes()), (KEPT, (-1500..1500).collect()));
        assert!(whole.kept().all(|packet| packets.contains(&packet)));
    }

    #[test]
    fn packets_that_cannot_be_are_refused_and_none_of_them_counted() {
        let mut survey = Survey::default();
        for (bad, part) in [
            (Packet { size: 1, ipt_us: -1.0 }, "packet 1: ipt_us is -1"),
            (Packet { size: 65_536, ipt_us: 0.0 }, "packet 1: size is 65536"),
            (Packet { size: i32::MIN, ipt_us: 0.0 }, "packet 1: size is -2147483648"),
        ] {
            let error = survey.add(&[Packet { size: 7, ipt_us: 0.0 }, bad]).unwrap_err();
            assert!(error.message().contains(part), "{error}");
        }
        assert!(survey.sizes().is_empty() && survey.kept().next().is_none());
    }
}
