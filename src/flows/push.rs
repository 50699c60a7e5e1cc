//! Packets in: a burst at a time, so that the memory which one packet needs is on its way while others are looked at.

use super::Flows;
use super::observation::Observation;
use super::slot::NONE;
use super::stats::Count;
use super::table::Place;
use crate::backend::prefetch::prefetch;
use crate::packet::Packet;
use crate::tokens::Token;

/// Packets whose memory is asked for together: enough to hide its latency, few enough to stay in the nearest cache.
pub(super) const BURST: usize = 64;

/// Packets of one burst that become tokens, until the quantizer takes them together.
pub(super) struct Staged {
    packets: [Packet; BURST],
    places: [Place; BURST],
    n: usize,
    model: usize,
}

impl Default for Staged {
    fn default() -> Self {
        Self {
            packets: [Packet { size: 0, ipt_us: 0.0 }; BURST],
            places: [Place { slot: NONE, position: 0 }; BURST],
            n: 0,
            model: 0,
        }
    }
}

impl Flows {
    /// Takes packets, in the order in which they were seen. Nothing is refused but flows for which there is no room,
    /// and that is counted.
    pub fn push(&mut self, observations: &[Observation]) {
        for burst in observations.chunks(BURST) {
            self.burst(burst);
        }
        self.publish();
    }

    /// Takes at most [`BURST`] packets.
    pub(super) fn burst(&mut self, burst: &[Observation]) {
        let (mut hashes, mut guesses) = ([0; BURST], [NONE; BURST]);
        for (hash, o) in hashes.iter_mut().zip(burst) {
            *hash = o.hash(self.table.secret);
            self.table.index.prefetch(*hash);
        }
        for ((guess, &hash), _) in guesses.iter_mut().zip(&hashes).zip(burst) {
            *guess = self.table.index.guess(hash);
            if let Some(slot) = self.table.slots.get(*guess as usize) {
                prefetch(slot);
            }
        }
        let mut bytes = 0;
        for ((o, &hash), &guess) in burst.iter().zip(&hashes).zip(&guesses) {
            bytes += u64::from(o.size);
            if let Some((packet, place)) = self.table.packet(o, hash, guess) {
                self.stage(packet, place);
            }
            self.clock.tick(o.ts_ns);
        }
        self.encode();
        self.table.counts.add(Count::Packets, burst.len() as u64);
        self.table.counts.add(Count::Bytes, bytes);
    }

    #[inline(always)]
    fn stage(&mut self, packet: Packet, place: Place) {
        let model = self.table.slots[place.slot as usize].model();
        if model != self.staged.model {
            self.encode();
            self.staged.model = model;
        }
        self.table.prefetch_token(place);
        let staged = &mut self.staged;
        (staged.packets[staged.n], staged.places[staged.n]) = (packet, place);
        staged.n += 1;
    }

    /// Makes tokens of what is staged and puts them in their places.
    fn encode(&mut self) {
        let n = std::mem::take(&mut self.staged.n);
        if n == 0 {
            return;
        }
        let mut tokens: [Token; BURST] = [0; BURST];
        let Some(model) = self.models.get(self.staged.model) else { return };
        // The times are finite and not negative, so none is refused.
        let _ = model.classifier.quantizer().encode(&self.staged.packets[..n], &mut tokens[..n]);
        for (&place, &token) in self.staged.places.iter().zip(&tokens[..n]) {
            self.table.set_token(place, token);
        }
        self.table.counts.add(Count::Tokens, n as u64);
    }
}
