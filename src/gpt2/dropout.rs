//! Dropout whose masks depend on the seed, the step and the place alone: the backward pass draws them again instead of
//! keeping them, and neither batch layout nor threads change them.

use crate::backend::simd::LANES;
use crate::error::{Error, Result};
use crate::random::{philox, philox_lanes};

/// Dropout of one training step, as GPT-2's `embd_pdrop`, `attn_pdrop` and `resid_pdrop`: one probability for all
/// three places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that a value is dropped, in `[0, 1)`; kept values are scaled by `1 / (1 - p)`. Held to 16 bits.
    pub p: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step; every step draws other masks.
    pub step: u64,
    /// Which row of the step's batch the first row is: 0, but where the rows are a part of a larger batch.
    pub first_row: usize,
}

/// Where in the network a mask is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Site {
    Embedding,
    Attention { layer: usize, head: usize },
    AttentionOutput { layer: usize },
    MlpOutput { layer: usize },
}

impl Site {
    /// The two counter words that tell one site from another.
    pub fn words(self) -> [u32; 2] {
        match self {
            Site::Embedding => [u32::MAX, 0],
            Site::Attention { layer, head } => [3 * layer as u32, head as u32],
            Site::AttentionOutput { layer } => [3 * layer as u32 + 1, 0],
            Site::MlpOutput { layer } => [3 * layer as u32 + 2, 0],
        }
    }
}

/// Draws made by one group of counters: four words of 16 lanes, two draws a word.
pub(super) const MASK_GROUP: usize = 8 * LANES;

/// Drawn masks as multipliers: 0 where a value is dropped, `1 / (1 - p)` where it is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Masks {
    key: u64,
    threshold: u32,
    scale: f32,
    first_row: u32,
}

impl Masks {
    /// `None` where nothing is dropped.
    pub fn new(dropout: Option<Dropout>) -> Result<Option<Self>> {
        let Some(Dropout { p, seed, step, first_row }) = dropout else { return Ok(None) };
        if !(0.0..1.0).contains(&p) {
            return Err(Error::invalid(format!("dropout is {p}; it must be in [0, 1)")));
        }
        let threshold = ((p * 65536.0).round() as u32).min(65535);
        if threshold == 0 {
            return Ok(None);
        }
        let [a, b, ..] = philox(seed, [step as u32, (step >> 32) as u32, 0, 0]);
        let scale = 65536.0 / (65536 - threshold) as f32;
        let (key, first_row) = (u64::from(a) | u64::from(b) << 32, first_row as u32);
        Ok(Some(Self { key, threshold, scale, first_row }))
    }

    /// Key, threshold, scale and first row, for those who draw elsewhere.
    #[cfg(feature = "train")]
    pub fn parts(&self) -> (u64, u32, f32, u32) {
        (self.key, self.threshold, self.scale, self.first_row)
    }

    /// Writes the multipliers of row `row` of the batch at `site`. `out` holds whole groups of [`MASK_GROUP`].
    #[inline(always)]
    pub fn fill(&self, site: Site, row: usize, out: &mut [f32]) {
        let [site, head] = site.words();
        let row = self.first_row.wrapping_add(row as u32);
        let (groups, _) = out.as_chunks_mut::<MASK_GROUP>();
        for (g, group) in groups.iter_mut().enumerate() {
            let mut first = [0; LANES];
            for (l, c) in first.iter_mut().enumerate() {
                *c = (g * LANES + l) as u32;
            }
            let words = philox_lanes(self.key, [first, [row; LANES], [site; LANES], [head; LANES]]);
            for (w, lanes) in words.iter().enumerate() {
                for l in 0..LANES {
                    group[2 * w * LANES + l] = self.multiplier(lanes[l] & 0xffff);
                    group[(2 * w + 1) * LANES + l] = self.multiplier(lanes[l] >> 16);
                }
            }
        }
    }

    #[inline(always)]
    fn multiplier(&self, draw: u32) -> f32 {
        if draw < self.threshold { 0.0 } else { self.scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_drop_the_stated_share_and_keep_the_mean() {
        let p = 0.1;
        let masks = Masks::new(Some(Dropout { p, seed: 5, step: 1, first_row: 0 })).unwrap().unwrap();
        let (rows, width) = (400, 2 * MASK_GROUP);
        let mut row = vec![0.0; width];
        let mut dropped = vec![0u32; width];
        for r in 0..rows {
            masks.fill(Site::MlpOutput { layer: 3 }, r, &mut row);
            for (count, m) in dropped.iter_mut().zip(&row) {
                assert!(*m == 0.0 || (*m - 1.0 / 0.9).abs() < 1e-4);
                *count += u32::from(*m == 0.0);
            }
        }
        let n = (rows * width) as f64;
        let share = f64::from(dropped.iter().sum::<u32>()) / n;
        let sigma = (0.1 * 0.9 / n).sqrt();
        assert!((share - 0.1).abs() < 4.0 * sigma, "{share}");
        // No column is special: each count is binomial; chi-square over the columns, 255 degrees, p = 0.001.
        let (mean, variance) = (f64::from(rows as u32) * 0.1, f64::from(rows as u32) * 0.09);
        let chi2: f64 = dropped.iter().map(|&c| (f64::from(c) - mean).powi(2) / variance).sum();
        assert!(chi2 < 330.5, "{chi2}");
    }

    #[test]
    fn masks_differ_between_sites_rows_and_steps() {
        let draw = |step, site, row| {
            let masks = Masks::new(Some(Dropout { p: 0.5, seed: 5, step, first_row: 0 })).unwrap().unwrap();
            let mut out = [0.0; MASK_GROUP];
            masks.fill(site, row, &mut out);
            out
        };
        let base = draw(0, Site::Embedding, 0);
        assert_eq!(base, draw(0, Site::Embedding, 0));
        for other in [
            draw(1, Site::Embedding, 0),
            draw(0, Site::Embedding, 1),
            draw(0, Site::AttentionOutput { layer: 0 }, 0),
            draw(0, Site::MlpOutput { layer: 0 }, 0),
            draw(0, Site::Attention { layer: 0, head: 0 }, 0),
            draw(0, Site::Attention { layer: 0, head: 1 }, 0),
        ] {
            let same = base.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!((30..100).contains(&same), "{same} of {MASK_GROUP} equal");
        }
    }

    #[test]
    fn rows_of_a_part_have_the_masks_that_they_have_in_the_whole() {
        let draw = |first_row, row| {
            let masks = Masks::new(Some(Dropout { p: 0.5, seed: 5, step: 2, first_row })).unwrap().unwrap();
            let mut out = [0.0; MASK_GROUP];
            masks.fill(Site::MlpOutput { layer: 1 }, row, &mut out);
            out
        };
        assert_eq!(draw(0, 7), draw(5, 2));
        assert_ne!(draw(0, 7), draw(5, 7));
    }

    #[test]
    fn no_dropout_is_no_mask_and_bad_probabilities_are_refused() {
        let new = |p| Masks::new(Some(Dropout { p, seed: 0, step: 0, first_row: 0 }));
        assert!(Masks::new(None).unwrap().is_none() && new(0.0).unwrap().is_none());
        assert!(new(1.0).is_err() && new(-0.1).is_err() && new(f32::NAN).is_err());
    }
}
