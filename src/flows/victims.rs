//! Which flow gives way to a new one in a full table.
//!
//! Exact order by idle time would cost every packet two more cache misses, for a list. Instead a hand goes round the
//! slots, a neighbourhood at a time, and takes what costs the least to forget: connections that are over and flows too
//! short for a verdict, the longest idle first. Only where several neighbourhoods have none does a flow that talks have
//! to go: of each, the one idle the longest. So a flood of single packets pushes out itself.

use super::slot::{CLOSED, QUEUED, Slot};

/// Slots looked at together. A table of no more evicts in exact order.
const NEIGHBOURS: usize = 32;

/// Neighbourhoods looked at before a flow that talks has to go, or a new one is refused.
const PATIENCE: usize = 16;

#[derive(Default)]
pub(super) struct Victims {
    hand: usize,
    /// Slots found, with the time of their latest packet; those to go first are last.
    found: [(u64, u32); NEIGHBOURS],
    n: usize,
}

impl Victims {
    /// A flow to end. `None` where all wait for a verdict.
    pub fn next(&mut self, slots: &[Slot], min_packets: u32) -> Option<u32> {
        self.take(slots).or_else(|| {
            self.look(slots, min_packets.max(2));
            self.take(slots)
        })
    }

    /// The next of those found that has had no packet since, and is still there.
    fn take(&mut self, slots: &[Slot]) -> Option<u32> {
        while self.n > 0 {
            self.n -= 1;
            let (last_ns, at) = self.found[self.n];
            let slot = &slots[at as usize];
            if may_go(slot) && slot.last_ns == last_ns {
                return Some(at);
            }
        }
        None
    }

    fn look(&mut self, slots: &[Slot], few: u32) {
        let mut talkers = [(0, 0); PATIENCE];
        let mut n_talkers = 0;
        for _ in 0..PATIENCE.min(slots.len().div_ceil(NEIGHBOURS)) {
            let mut oldest: Option<(u64, u32)> = None;
            for _ in 0..NEIGHBOURS.min(slots.len()) {
                let (at, slot) = (self.hand as u32, &slots[self.hand]);
                self.hand = if self.hand + 1 == slots.len() { 0 } else { self.hand + 1 };
                if !may_go(slot) {
                    continue;
                }
                if slot.n_packets < few || slot.is(CLOSED) {
                    self.found[self.n] = (slot.last_ns, at);
                    self.n += 1;
                } else if oldest.is_none_or(|(last_ns, _)| slot.last_ns < last_ns) {
                    oldest = Some((slot.last_ns, at));
                }
            }
            if self.n > 0 {
                break;
            }
            if let Some(oldest) = oldest {
                talkers[n_talkers] = oldest;
                n_talkers += 1;
            }
        }
        if self.n == 0 {
            self.found[..n_talkers].copy_from_slice(&talkers[..n_talkers]);
            self.n = n_talkers;
        }
        self.found[..self.n].sort_unstable_by(|a, b| b.cmp(a));
    }
}

fn may_go(slot: &Slot) -> bool {
    slot.is_live() && !slot.is(QUEUED)
}
