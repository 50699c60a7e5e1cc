//! Frames in: the meter's parser makes observations of them.

use super::Flows;
use super::observation::Observation;
use super::push::BURST;
use super::stats::Count;
use crate::meter::Fragments;
use crate::meter::frame::{self, Link};

/// First fragments that a table remembers, and fragments that wait for theirs: as the meter of captures, in less memory.
const MAX_FIRSTS: usize = 1024;
const MAX_WAITING: usize = BURST;

/// Room for the fragments of one table.
pub(super) fn fragments() -> Fragments {
    Fragments::reserved(MAX_FIRSTS, MAX_WAITING)
}

/// Bytes of that.
pub(super) fn memory() -> usize {
    Fragments::memory(MAX_FIRSTS, MAX_WAITING)
}

/// What a data path knows of a frame besides its bytes. Frozen: 16 bytes, no padding.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct FrameInfo {
    /// When it was seen, in nanoseconds of any clock that all packets of the table share.
    pub ts_ns: u64,
    /// Bytes of it that are there; the headers are enough.
    pub captured: u32,
    /// Its length on the wire, not less than `captured`.
    pub wire_len: u32,
}

impl Flows {
    /// Takes frames of `link`, in the order in which they were seen. Frames whose packet is in no flow are counted and
    /// passed over; fragments join the flow that their first one names, as in [`crate::meter`].
    pub fn push_frames<'a>(&mut self, link: Link, frames: impl Iterator<Item = (FrameInfo, &'a [u8])>) {
        // A first fragment brings those that waited for it.
        let mut held = [Observation::default(); BURST + MAX_WAITING];
        let mut n = 0;
        for (info, bytes) in frames {
            let counts = &mut self.table.counts;
            match frame::parse(link, bytes, info.wire_len, self.tunnel) {
                Ok(packet) => {
                    let mut skip = |_, more| counts.add(Count::Skipped, more);
                    let mut keep = |ts_ns, packet: &frame::Parsed| {
                        held[n] = Observation::of(packet, ts_ns);
                        n += 1;
                        Ok(())
                    };
                    // `keep` refuses nothing.
                    let _ = self.fragments.packet(info.ts_ns, packet, &mut skip, &mut keep);
                }
                Err(_) => counts.add(Count::Skipped, 1),
            }
            if n >= BURST {
                held[..n].chunks(BURST).for_each(|burst| self.burst(burst));
                n = 0;
            }
        }
        self.burst(&held[..n]);
        self.publish();
    }
}
