//! The learning rate over a run: linear warm-up, then cosine decay, or as it is until the validation loss stalls.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What happens to the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine from the full rate down to a tenth of it at the run's end.
    #[default]
    Cosine,
    /// Halved whenever the validation loss has not improved for some evaluations in a row.
    Plateau,
    /// Stays.
    Constant,
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cosine" => Ok(Self::Cosine),
            "plateau" => Ok(Self::Plateau),
            "constant" => Ok(Self::Constant),
            _ => Err(Error::invalid(format!("schedule is \"{text}\"; it must be cosine, plateau or constant"))),
        }
    }
}

/// Share of the full rate that the cosine ends at.
const COSINE_END: f64 = 0.1;

/// What a plateau multiplies the rate by.
const PLATEAU_FACTOR: f64 = 0.5;

/// A gain in validation loss smaller than this share of it is none.
const PLATEAU_THRESHOLD: f64 = 1e-4;

/// What the plateau schedule remembers; part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    best: Option<f64>,
    stalled: u32,
    factor: f64,
}

impl Default for Plateau {
    fn default() -> Self {
        Self { best: None, stalled: 0, factor: 1.0 }
    }
}

impl Plateau {
    /// Takes note of a validation loss: after more than `patience` of them in a row without a gain the rate is halved.
    pub fn observe(&mut self, loss: f64, patience: u32) {
        if self.best.is_none_or(|best| loss < best - PLATEAU_THRESHOLD * best.abs()) {
            self.best = Some(loss);
            self.stalled = 0;
            return;
        }
        self.stalled += 1;
        if self.stalled > patience {
            self.stalled = 0;
            self.factor *= PLATEAU_FACTOR;
        }
    }
}

impl Schedule {
    /// What the full learning rate is multiplied by in step `step` (from 0), when the share `done` (0..=1) of the run
    /// lies behind.
    pub fn factor(self, step: u64, done: f64, warmup: u64, plateau: &Plateau) -> f64 {
        let warm = if step < warmup { (step + 1) as f64 / warmup as f64 } else { 1.0 };
        let after = match self {
            Self::Cosine => {
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done.clamp(0.0, 1.0)).cos());
                COSINE_END + (1.0 - COSINE_END) * cosine
            }
            Self::Plateau => plateau.factor,
            Self::Constant => 1.0,
        };
        warm * after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_warms_up_then_falls_to_a_tenth() {
        let at = |step, done| Schedule::Cosine.factor(step, done, 10, &Plateau::default());
        assert!((at(0, 0.0) - 0.1).abs() < 1e-12);
        assert!((at(9, 0.0) - 1.0).abs() < 1e-12);
        assert!((at(50, 0.5) - 0.55).abs() < 1e-12);
        assert!((at(100, 1.0) - 0.1).abs() < 1e-12);
        assert_eq!(at(200, 2.0), at(100, 1.0));
    }

    #[test]
    fn plateau_halves_after_its_patience() {
        let mut plateau = Plateau::default();
        let rate = |p: &Plateau| Schedule::Plateau.factor(5, 0.9, 0, p);
        for (loss, expected) in [(3.0, 1.0), (2.0, 1.0), (2.0, 1.0), (1.9999, 1.0), (2.5, 0.5), (2.5, 0.5), (1.0, 0.5)]
        {
            plateau.observe(loss, 2);
            assert_eq!(rate(&plateau), expected, "after {loss}");
        }
        assert_eq!(Schedule::Constant.factor(5, 0.9, 0, &plateau), 1.0);
    }
}
