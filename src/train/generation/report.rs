//! What an evaluation of generators found, as figures.

use super::features::{Direction, Quantity};
use crate::train::page::figure;
use serde::Serialize;
use std::fmt;

/// Lags of the autocorrelations, from 1.
pub const LAGS: usize = 10;

/// What an evaluation found. Figures of a generator are means over the classes, each counting the same, unless said
/// otherwise; a figure that no class has is absent.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The split that was compared with.
    pub split: &'static str,
    /// Most packets of a flow that count.
    pub max_packets: usize,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Flows of each class, on either side.
    pub flows: Vec<usize>,
    /// Macro-F1 on the held-out flows of a forest fitted to as many real training flows.
    pub f1_real: Option<f64>,
    /// Share of the held-out flows that are, token by token, a training flow: what no generator can be blamed for.
    pub copies_unseen: f64,
    /// Every generator.
    pub sources: Vec<SourceReport>,
    /// What was left out and why.
    pub notes: Vec<String>,
    /// Whether the evaluation was interrupted, so that generators are missing.
    pub interrupted: bool,
}

/// One generator's part of the report.
#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: String,
    /// Distances of every quantity in every direction.
    pub features: Vec<Feature>,
    /// Of signed sizes, those past an Ethernet frame's 1500 bytes cut to it.
    pub autocorrelation_sizes: Autocorrelation,
    /// Of the logarithms of times.
    pub autocorrelation_times: Autocorrelation,
    /// How well a forest tells its flows from real ones: 0.5 for not at all.
    pub auc: Option<f64>,
    /// Macro-F1 on the held-out flows of a forest fitted to its flows.
    pub f1: Option<f64>,
    /// That, over what real training flows give.
    pub f1_share: Option<f64>,
    /// Share of its flows that are, token by token, a training flow.
    pub copies: f64,
    /// That, less the share among held-out flows.
    pub copies_beyond_unseen: f64,
    /// Every class.
    pub classes: Vec<ClassReport>,
}

/// How far one quantity in one direction is from that of real flows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Feature {
    /// What.
    pub quantity: Quantity,
    /// Of which packets.
    pub direction: Direction,
    /// Kolmogorov-Smirnov distance.
    pub ks: Option<f64>,
    /// Jensen-Shannon distance to base 2, on a grid of 50 bins over the real values but for 0.5% at either end, and a
    /// bin for what is beyond on either side.
    pub jensen_shannon: Option<f64>,
    /// Wasserstein distance of order 1, in the unit of the quantity.
    pub wasserstein: Option<f64>,
    /// The Kolmogorov-Smirnov distance over that of the Markov chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ks_beside_chain: Option<f64>,
}

/// Correlations of packets with later ones of their flow, at lags from 1; all classes together.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Autocorrelation {
    /// Of real flows.
    pub real: Vec<Option<f64>>,
    /// Of the generator's.
    pub generated: Vec<Option<f64>>,
    /// Mean distance of the two.
    pub gap: Option<f64>,
}

/// One class of one generator.
#[derive(Clone, Debug, Serialize)]
pub struct ClassReport {
    /// Its name.
    pub class: String,
    /// Flows on either side.
    pub flows: usize,
    /// Distances of every quantity in every direction.
    pub features: Vec<Feature>,
    /// How well a forest tells its flows from real ones.
    pub auc: Option<f64>,
    /// Share of its flows that are, token by token, a training flow.
    pub copies: f64,
}

impl SourceReport {
    /// Mean Kolmogorov-Smirnov distance of all quantities in both directions together.
    pub fn mean_ks(&self) -> Option<f64> {
        mean(self.features.iter().filter(|f| f.direction == Direction::Both).map(|f| f.ks))
    }
}

/// The mean of what there is.
pub fn mean(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let (sum, n) = values.into_iter().flatten().fold((0.0, 0), |(sum, n), value| (sum + value, n + 1));
    (n > 0).then(|| sum / f64::from(n))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flows: usize = self.flows.iter().sum();
        writeln!(
            f,
            "{} classes, {flows} flows of split {}, as many of each generator\n",
            self.classes.len(),
            self.split
        )?;
        write!(f, "{:<38}", "mean over classes")?;
        self.sources.iter().try_for_each(|s| write!(f, " {:>20}", s.name))?;
        writeln!(f)?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, of: &dyn Fn(&SourceReport) -> Option<f64>| {
            write!(f, "{name:<38}")?;
            self.sources.iter().try_for_each(|s| write!(f, " {:>20}", figure(of(s))))?;
            writeln!(f)
        };
        let n_features = self.sources.first().map_or(0, |s| s.features.len());
        for i in 0..n_features {
            let Feature { quantity, direction, .. } = self.sources[0].features[i];
            row(f, &format!("KS {}, {}", quantity.name(), direction.name()), &|s| s.features[i].ks)?;
        }
        row(f, "autocorrelation of sizes, gap", &|s| s.autocorrelation_sizes.gap)?;
        row(f, "autocorrelation of times, gap", &|s| s.autocorrelation_times.gap)?;
        row(f, "discriminator AUC", &|s| s.auc)?;
        row(f, "train on it, test on real: macro-F1", &|s| s.f1)?;
        row(f, "  over train on real", &|s| s.f1_share)?;
        row(f, "copies of training flows", &|s| Some(s.copies))?;
        row(f, "  beyond those of unseen flows", &|s| Some(s.copies_beyond_unseen))?;
        writeln!(f, "\ntrain on real, test on real: macro-F1 {}", figure(self.f1_real))?;
        writeln!(f, "copies among unseen flows: {:.3}", self.copies_unseen)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
