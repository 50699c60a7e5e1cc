//! The packets of each traffic class behind each centroid. A token says what a packet is about; which of the token's
//! packets it was depends on the class: the sizes near a centroid are this application's in one class and that one's in
//! another. With them, a generated flow has the sizes that its own class has.

use super::spread::{LAYERS, Layer};
use crate::error::{Error, Result};
use crate::tokens::Token;

/// Most layers of all classes and tokens: a bound on what a file can ask for.
pub const MAX_CLASS_LAYERS: usize = 1 << 21;

/// A layer of one class and token. Frozen as four f32 in files.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ClassLayer {
    /// The token, whole.
    pub token: f32,
    /// Packets of it.
    pub layer: Layer,
}

/// The layers of every class: of each token up to [`LAYERS`], all as likely; of tokens that the class does not have, none.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassSpread {
    /// By class, then by token.
    layers: Vec<ClassLayer>,
    /// Where the layers of each class end.
    ends: Vec<u32>,
}

impl ClassSpread {
    /// Layers as a file has them: those up to `ends[0]` belong to class 0, those from there to `ends[1]` to class 1. `own`
    /// says whether a layer holds packets of a token, of which there are `n_tokens`.
    pub(super) fn new(
        layers: Vec<ClassLayer>,
        ends: Vec<u32>,
        n_tokens: usize,
        own: impl Fn(Token, &Layer) -> bool,
    ) -> Result<Self> {
        let n = layers.len();
        if n > MAX_CLASS_LAYERS || !ends.is_sorted() || ends.last().map_or(0, |&end| end as usize) != n {
            return Err(Error::mismatch(format!(
                "the classes' spread: classes end at {ends:?} of {n} layers; they must rise to that number, at most \
                 {MAX_CLASS_LAYERS}"
            )));
        }
        for (i, ClassLayer { token, layer }) in layers.iter().enumerate() {
            let known = token.fract() == 0.0 && (0.0..n_tokens as f32).contains(token);
            if !(known && own(*token as Token, layer)) {
                return Err(Error::mismatch(format!(
                    "the classes' spread: layer {i} is {layer:?}, which is not of token {token}: the file is damaged, or \
                     made for another codebook"
                )));
            }
        }
        let out = Self { layers, ends };
        for class in 0..out.ends.len() {
            if !out.of_class(class).is_sorted_by(|a, b| a.token <= b.token) {
                return Err(Error::mismatch(format!("the classes' spread: tokens of class {class} do not rise")));
            }
        }
        Ok(out)
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.ends.len()
    }

    /// All layers, by class, then by token.
    pub fn layers(&self) -> &[ClassLayer] {
        &self.layers
    }

    /// Where the layers of each class end.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    fn of_class(&self, class: usize) -> &[ClassLayer] {
        let begin = class.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.layers[begin as usize..self.ends[class] as usize]
    }

    /// One of the layers of `class` and `token` for a draw of 0..1; none where the class has no such packets.
    pub(super) fn layer(&self, class: usize, token: Token, which: f64) -> Option<&Layer> {
        let rows = self.of_class(class);
        let begin = rows.partition_point(|row| row.token < token as f32);
        let n = rows[begin..].iter().take_while(|row| row.token == token as f32).take(LAYERS).count();
        let i = ((which * n as f64) as usize).min(n.checked_sub(1)?);
        Some(&rows[begin + i].layer)
    }
}

#[cfg(feature = "train")]
pub use gather::ClassPackets;

#[cfg(feature = "train")]
mod gather {
    use super::*;
    use crate::packet::Packet;
    use crate::quantizer::Quantizer;
    use crate::quantizer::spread::is_of_ip;
    use crate::random::uniform;
    use std::collections::BTreeMap;

    /// Packets kept of a class and token, from which its layers are made.
    const KEPT: usize = 4 * LAYERS;

    /// Sets these draws apart from others of the same seed: ASCII "kept".
    const KEPT_DRAWS: u64 = 0x6b65_7074;

    /// Some packets of one class and token, each as likely to be among them.
    #[derive(Default)]
    struct Kept {
        seen: u64,
        packets: Vec<Packet>,
    }

    /// Gathers packets of every class and token, in memory that does not grow with their number.
    pub struct ClassPackets {
        n_classes: usize,
        kept: BTreeMap<(u32, Token), Kept>,
    }

    impl ClassPackets {
        /// Of `n_classes` classes, none so far.
        pub fn new(n_classes: usize) -> Self {
            Self { n_classes, kept: BTreeMap::new() }
        }

        /// Adds the packets of a flow of `class`, and the token of each.
        pub fn add(&mut self, class: u32, tokens: &[Token], packets: &[Packet]) {
            for (&token, &packet) in tokens.iter().zip(packets) {
                // Of no IP packet; other packets, or the centroid, have to do.
                if !is_of_ip(packet.size) {
                    continue;
                }
                let kept = self.kept.entry((class, token)).or_default();
                // Vitter's algorithm R, "Random sampling with a reservoir", 1985.
                let draw = uniform(KEPT_DRAWS ^ u64::from(class) << 32, u64::from(token), kept.seen);
                kept.seen += 1;
                let place = (draw * kept.seen as f64) as usize;
                if kept.packets.len() < KEPT {
                    kept.packets.push(packet);
                } else if let Some(old) = kept.packets.get_mut(place) {
                    *old = packet;
                }
            }
        }

        /// `quantizer`, whose tokens they are, with what was gathered; as it is where that would be too much to keep.
        pub fn spread(mut self, quantizer: Quantizer) -> Result<Quantizer> {
            let (mut layers, mut ends) = (Vec::new(), Vec::with_capacity(self.n_classes));
            for class in 0..self.n_classes as u32 {
                for ((_, token), kept) in self.kept.range_mut((class, 0)..=(class, Token::MAX)) {
                    kept.packets.sort_by(|a, b| a.size.cmp(&b.size).then(a.ipt_us.total_cmp(&b.ipt_us)));
                    let n = kept.packets.len().min(LAYERS);
                    layers
                        .extend((0..n).map(|i| ClassLayer { token: *token as f32, layer: part(&kept.packets, i, n) }));
                }
                if layers.len() > MAX_CLASS_LAYERS {
                    return Ok(quantizer);
                }
                ends.push(layers.len() as u32);
            }
            quantizer.with_class_spread(layers, ends)
        }
    }

    /// Part `i` of `n` of the sorted `packets`: the size of its middle packet, and the times of that size.
    fn part(packets: &[Packet], i: usize, n: usize) -> Layer {
        let part = &packets[packets.len() * i / n..packets.len() * (i + 1) / n];
        let size = part[part.len() / 2].size;
        let mut times = part.iter().filter(|p| p.size == size).map(|p| p.ipt_us);
        let low_us = times.next().unwrap_or_default();
        Layer { size: size as f32, low_us, high_us: times.next_back().unwrap_or(low_us) }
    }
}

#[cfg(feature = "train")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::quantizer::columns::Columns;
    use crate::quantizer::histogram::Histogram;
    use crate::quantizer::spread::Spread;
    use crate::quantizer::{Codebook, Quantizer, Scaler};

    /// Two tokens, of small packets and of large ones; class 0 has sizes 100 and 110, class 1 has 104, both have 1400.
    fn flow(class: usize, n: usize) -> Vec<Packet> {
        let size = |i: usize| [[100, 1400, 110], [104, 1400, 104]][class][i % 3];
        (0..n).map(|i| Packet { size: size(i), ipt_us: [7.0, 9.0, 1e4][i / 3 % 3] }).collect()
    }

    fn tokens(quantizer: &Quantizer, packets: &[Packet]) -> Vec<Token> {
        let mut tokens = vec![0; packets.len()];
        quantizer.encode(packets, &mut tokens).unwrap();
        tokens
    }

    fn plain() -> Quantizer {
        let codebook = Codebook::new(vec![[0.07, 2.0], [0.93, 2.0], [-0.5, 2.0]]).unwrap();
        let mut histogram = Histogram::default();
        histogram.add(&[flow(0, 900), flow(1, 900)].concat()).unwrap();
        let spread = Spread::new(&Columns::new(histogram, Scaler::Log1pUs).unwrap().0, &codebook);
        Quantizer::new(Scaler::Log1pUs, codebook).with_spread(spread.layers()).unwrap()
    }

    fn gathered() -> Quantizer {
        let quantizer = plain();
        let mut packets = ClassPackets::new(3);
        for class in 0..2 {
            let flow = flow(class, 900);
            packets.add(class as u32, &tokens(&quantizer, &flow), &flow);
        }
        packets.spread(quantizer).unwrap()
    }

    /// Of each size, the share in packets of token 0 drawn for `class`.
    fn shares(quantizer: &Quantizer, class: Option<u32>) -> [f64; 3] {
        let mut packets = vec![Packet { size: 0, ipt_us: 0.0 }; 8000];
        quantizer.decode_sampled(&[0; 8000], class, 5, 0, &mut packets).unwrap();
        assert_eq!(tokens(quantizer, &packets), [0; 8000]);
        // Two in three times are below what clocks tell apart: those come as they were seen.
        let seen = packets.iter().filter(|p| [7.0, 9.0].contains(&p.ipt_us)).count();
        assert!(seen > 2500, "{seen}");
        [100, 104, 110].map(|size| packets.iter().filter(|p| p.size == size).count() as f64 / 8000.0)
    }

    #[test]
    fn a_class_has_its_own_sizes_and_what_it_lacks_comes_from_all() {
        let quantizer = gathered();
        let [a, b, c] = shares(&quantizer, Some(0));
        // As often as in the flows, but for 32 packets standing for 600.
        assert!(b == 0.0 && (a - 0.5).abs() < 0.2 && a + c == 1.0, "{a} {b} {c}");
        assert_eq!(shares(&quantizer, Some(1)), [0.0, 1.0, 0.0]);
        let all = shares(&quantizer, None);
        assert!(all.iter().all(|share| *share > 0.1), "{all:?}");
        // Class 2 has no packets, class 3 is not known.
        assert_eq!(shares(&quantizer, Some(2)), all);
        assert_eq!(shares(&quantizer, Some(3)), all);
    }

    #[test]
    fn layers_that_cannot_be_are_refused() {
        let quantizer = gathered();
        let spread = quantizer.class_spread().unwrap();
        let (layers, ends) = (spread.layers().to_vec(), spread.ends().to_vec());
        assert_eq!((ends.len(), ends[1], ends[2]), (3, ends[2], layers.len() as u32));
        let again = |layers: &[ClassLayer], ends: &[u32]| plain().with_class_spread(layers.to_vec(), ends.to_vec());
        assert_eq!(again(&layers, &ends).unwrap().class_spread(), Some(spread));
        let with = |change: &dyn Fn(&mut Vec<ClassLayer>)| {
            let mut layers = layers.clone();
            change(&mut layers);
            again(&layers, &ends).unwrap_err().message().to_string()
        };
        for token in [0.5, -1.0, 3.0, 1.0, f32::NAN] {
            assert!(with(&|layers| layers[0].token = token).contains("layer 0"), "{token}");
        }
        assert!(with(&|layers| layers[0].layer.size = 1400.0).contains("layer 0"));
        assert!(with(&|layers| layers[0].layer.low_us = 1e9).contains("layer 0"));
        assert!(with(&|layers| layers[..ends[0] as usize].reverse()).contains("do not rise"));
        assert!(with(&|layers| layers.truncate(3)).contains("classes end at"));
        assert!(again(&layers, &[5, 3, layers.len() as u32]).unwrap_err().message().contains("classes end at"));
        assert!(again(&layers, &[]).unwrap_err().message().contains("classes end at"));
        assert_eq!(again(&[], &[]).unwrap().class_spread().unwrap().n_classes(), 0);
    }
}
