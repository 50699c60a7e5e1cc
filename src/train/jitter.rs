//! Training flows as tokens, anew in every epoch: with their times shaken as other links would have delayed them, and
//! their packets changed as [`Reshape`] says.
//!
//! The delays of a capture are those of the places it was made at. Shaking the times of a flow, on the scale the
//! quantizer sees them, keeps the network from learning them by heart; lending it the times of another flow keeps a
//! classifier from leaning on them at all.

use crate::error::Result;
use crate::packet::Packet;
use crate::quantizer::Quantizer;
use crate::tokens::Token;
use crate::train::batch::Draw;
use crate::train::dataset::Flows;
use crate::train::reshape::Reshape;

/// Turns training flows into tokens, with their times shaken and their packets changed.
#[derive(Debug)]
pub struct Jitter<'a> {
    quantizer: &'a Quantizer,
    /// Standard deviation in decades, once for a flow and once for each of its packets.
    decades: f64,
    reshape: Reshape,
    seed: u64,
    packets: Vec<Packet>,
    tokens: Vec<Token>,
}

impl<'a> Jitter<'a> {
    /// Shakes by `decades` and changes by `reshape`; all draws are made under `seed`.
    pub fn new(quantizer: &'a Quantizer, decades: f64, reshape: Reshape, seed: u64) -> Self {
        Self { quantizer, decades, reshape, seed, packets: Vec::new(), tokens: Vec::new() }
    }

    /// The tokens of flow `i` of `flows` in `epoch`.
    pub fn tokens<'b>(&'b mut self, flows: &'b Flows, i: usize, epoch: u64) -> Result<&'b [Token]> {
        self.with_times_of(flows, i, i, epoch)
    }

    /// The tokens of flow `i` of `flows` in `epoch` with the times of another flow, drawn for it.
    pub fn borrowed<'b>(&'b mut self, flows: &'b Flows, i: usize, epoch: u64) -> Result<&'b [Token]> {
        let lender = (Draw::Lender.uniform(self.seed, epoch, i) * flows.len() as f64) as usize;
        self.with_times_of(flows, i, lender.min(flows.len() - 1), epoch)
    }

    /// The sizes of flow `i` with the times of flow `lender`, over again where it has fewer packets.
    fn with_times_of<'b>(&'b mut self, flows: &'b Flows, i: usize, lender: usize, epoch: u64) -> Result<&'b [Token]> {
        if self.decades == 0.0 && lender == i && self.reshape.is_none() {
            return Ok(flows.tokens.row(i));
        }
        let times = flows.packets.row(lender);
        // The time of a first packet is 0 by definition and says nothing of the flow.
        let later = times.get(1..).filter(|later| !later.is_empty()).unwrap_or(times);
        let mut draws = Draw::Jitter.sequence(self.seed, epoch, i);
        let whole = self.decades * draws.normal();
        self.packets.clear();
        let times = times[..1].iter().chain(later.iter().cycle());
        self.packets.extend(flows.packets.row(i).iter().zip(times).map(|(packet, time)| {
            let shift = whole + self.decades * draws.normal();
            Packet { size: packet.size, ipt_us: shaken(time.ipt_us, shift) }
        }));
        self.reshape.apply(&mut self.packets, &mut Draw::Reshape.sequence(self.seed, epoch, i));
        self.tokens.resize(self.packets.len(), 0);
        self.quantizer.encode(&self.packets, &mut self.tokens)?;
        Ok(&self.tokens)
    }
}

/// `ipt_us` moved by `decades` on the scale of `log10(1 + ipt_us)`; a time of 0 stays, and none becomes negative.
fn shaken(ipt_us: f32, decades: f64) -> f32 {
    if ipt_us == 0.0 {
        return 0.0;
    }
    let moved = (1.0 + f64::from(ipt_us)) * 10f64.powf(decades) - 1.0;
    moved.clamp(0.0, f64::from(f32::MAX)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::{Codebook, Scaler};

    fn quantizer() -> Quantizer {
        let centroids = (0..90).map(|i| [0.1, i as f32 / 10.0]).collect();
        Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap())
    }

    fn flows() -> Flows {
        let times = [0.0, 1e3, 1e3, 1e5, 0.0, 1e6];
        let packets: Vec<Packet> = times.iter().map(|&ipt_us| Packet { size: 150, ipt_us }).collect();
        let mut tokens = vec![0; packets.len()];
        quantizer().encode(&packets, &mut tokens).unwrap();
        let mut flows = Flows { ended: vec![true], labels: vec![None], groups: vec![0], ..Flows::default() };
        flows.packets.push(packets);
        flows.tokens.push(tokens);
        flows
    }

    #[test]
    fn times_move_by_as_much_as_asked_and_zero_stays() {
        let (quantizer, flows) = (quantizer(), flows());
        let mut jitter = Jitter::new(&quantizer, 0.3, Reshape::default(), 1);
        let (mut sum, mut squares, n) = (0.0, 0.0, 2000);
        for epoch in 0..n {
            let tokens = jitter.tokens(&flows, 0, epoch).unwrap();
            assert_eq!((tokens[0], tokens[4]), (0, 0));
            let moved = (f64::from(tokens[3]) - 50.0) / 10.0;
            sum += moved;
            squares += moved * moved;
        }
        let (mean, variance) = (sum / n as f64, squares / n as f64);
        assert!(mean.abs() < 0.04, "{mean}");
        assert!((variance - 2.0 * 0.09).abs() < 0.03, "{variance}");
    }

    #[test]
    fn the_same_epoch_gives_the_same_tokens_and_none_gives_the_flows_own() {
        let (quantizer, flows) = (quantizer(), flows());
        let mut jitter = Jitter::new(&quantizer, 0.3, Reshape::default(), 1);
        let first = jitter.tokens(&flows, 0, 4).unwrap().to_vec();
        assert_ne!(jitter.tokens(&flows, 0, 5).unwrap(), first);
        assert_eq!(jitter.tokens(&flows, 0, 4).unwrap(), first);
        assert_eq!(
            Jitter::new(&quantizer, 0.0, Reshape::default(), 1).tokens(&flows, 0, 4).unwrap(),
            flows.tokens.row(0)
        );
    }

    #[test]
    fn borrowed_times_come_from_the_lender_and_sizes_stay() {
        let quantizer = quantizer();
        let mut flows = flows();
        let short: Vec<Packet> = [0.0, 1e2].iter().map(|&ipt_us| Packet { size: 150, ipt_us }).collect();
        flows.packets.push(short);
        flows.tokens.push([0, 20]);
        flows.ended.push(true);
        flows.labels.push(None);
        flows.groups.push(1);
        let mut jitter = Jitter::new(&quantizer, 0.0, Reshape::default(), 1);
        let mut seen = std::collections::BTreeSet::new();
        for epoch in 0..50 {
            seen.insert(jitter.borrowed(&flows, 0, epoch).unwrap().to_vec());
        }
        let own = flows.tokens.row(0).to_vec();
        assert_eq!(seen, [own, vec![0, 20, 20, 20, 20, 20]].into_iter().collect());
    }

    #[test]
    fn packets_are_changed_before_they_become_tokens() {
        let (quantizer, flows) = (quantizer(), flows());
        let reshape = Reshape { late_start: 1.0, ..Reshape::default() };
        let mut jitter = Jitter::new(&quantizer, 0.0, reshape, 1);
        let (own, mut lengths) = (flows.tokens.row(0), std::collections::BTreeSet::new());
        for epoch in 0..50 {
            let tokens = jitter.tokens(&flows, 0, epoch).unwrap();
            assert_eq!(tokens[0], 0, "what is now the first packet waits for nothing");
            assert_eq!(tokens[1..], own[own.len() - tokens.len() + 1..]);
            lengths.insert(tokens.len());
        }
        assert_eq!(lengths, [2, 3, 4, 5].into_iter().collect());
    }

    #[test]
    fn no_shift_leaves_the_range_of_times() {
        for decades in [-400.0, -1.0, 0.0, 1.0, 400.0] {
            for time in [0.0, f32::MIN_POSITIVE, 1.0, f32::MAX] {
                let packet = Packet { size: 1, ipt_us: shaken(time, decades) };
                packet.check().unwrap();
            }
        }
    }
}
