//! Compares each generator's flows with the real ones, class by class.

use super::Settings;
use super::data::{Class, Classes};
use super::features::{self, Direction, Quantity, Values};
use super::forest::{Forest, Matrix};
use super::report::{Autocorrelation, ClassReport, Feature, LAGS, Report, SourceReport, mean};
use crate::classifier::argmax;
use crate::error::Result;
use crate::generator::Generator;
use crate::packet::{Packet, Ragged, Rows};
use crate::quantizer::Quantizer;
use crate::random::Stream;
use crate::tokens::Token;
use crate::train::metrics::{Confusion, auc};
use crate::train::similarity::{Grid, autocorrelation, kolmogorov_smirnov, wasserstein};
use rayon::prelude::*;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Bins over the real values, and the share of these at either end that is beyond them.
const BINS: usize = 50;
const TRIM: f64 = 0.005;

/// What pictures are drawn from: the values of all classes together.
#[derive(Clone, Debug, Default)]
pub struct Pictures {
    /// Of real flows.
    pub real: Values,
    /// Of each generator's, with its name.
    pub sources: Vec<(String, Values)>,
}

/// Real flows, and the report as it grows.
pub(super) struct Judge<'a> {
    quantizer: &'a Quantizer,
    classes: &'a Classes,
    /// Values of the real flows of each class.
    values: Vec<Values>,
    /// Rows of the real flows of each class, for a forest.
    rows: Vec<Matrix>,
    /// Tokens of every training flow.
    seen: HashSet<&'a [Token]>,
    seed: u64,
    report: Report,
    pictures: Pictures,
}

impl<'a> Judge<'a> {
    pub fn new(generator: &'a Generator, classes: &'a Classes, settings: &Settings) -> Result<Self> {
        let of = |class: &Class| (Values::of(class.real.as_ragged()), matrix(class.real.as_ragged()));
        let (values, rows): (Vec<_>, Vec<_>) = classes.classes.par_iter().map(of).unzip();
        let mut pictures = Pictures::default();
        values.iter().for_each(|values| pictures.real.extend(values));
        let mut judge = Self {
            quantizer: generator.quantizer(),
            classes,
            values,
            rows,
            seen: classes
                .classes
                .iter()
                .flat_map(|class| class.train_tokens.tokens().rows().collect::<Vec<_>>())
                .collect(),
            seed: settings.seed,
            report: Report {
                split: settings.split.name(),
                max_packets: classes.max_packets,
                classes: classes.classes.iter().map(|class| class.name.clone()).collect(),
                flows: classes.classes.iter().map(|class| class.real.len()).collect(),
                f1_real: None,
                copies_unseen: 0.0,
                sources: Vec::new(),
                notes: classes.notes.clone(),
                interrupted: false,
            },
            pictures,
        };
        let unseen: Vec<Option<f64>> =
            classes.classes.iter().map(|c| judge.copies(c.real.as_ragged()).map(Some)).collect::<Result<_>>()?;
        judge.report.copies_unseen = mean(unseen).unwrap_or(0.0);
        judge.report.f1_real = judge.f1(&judge.training_rows())?;
        Ok(judge)
    }

    /// Compares the flows of one generator, class by class.
    pub fn add(&mut self, name: &str, what: String, flows: &[Rows<Packet>]) -> Result<()> {
        let per_class: Vec<(Values, Matrix, ClassReport)> =
            (0..flows.len()).into_par_iter().map(|c| self.class(c, flows[c].as_ragged())).collect::<Result<_>>()?;
        let mut values = Values::default();
        let (mut rows, mut classes) = (Vec::new(), Vec::new());
        for (its_values, its_rows, report) in per_class {
            values.extend(&its_values);
            rows.push(its_rows);
            classes.push(report);
        }
        let f1 = self.f1(&rows)?;
        let copies = mean(classes.iter().map(|c| Some(c.copies))).unwrap_or(0.0);
        // The chain is judged after the model, whose figures are set beside its later.
        self.report.sources.push(SourceReport {
            name: name.to_string(),
            what,
            features: means(&classes),
            autocorrelation_sizes: correlations(&self.pictures.real.sizes, &values.sizes),
            autocorrelation_times: correlations(&self.pictures.real.times, &values.times),
            auc: mean(classes.iter().map(|c| c.auc)),
            f1,
            f1_share: f1.zip(self.report.f1_real).filter(|(_, real)| *real > 0.0).map(|(f1, real)| f1 / real),
            copies,
            copies_beyond_unseen: copies - self.report.copies_unseen,
            classes,
        });
        self.pictures.sources.push((name.to_string(), values));
        Ok(())
    }

    /// Notes that no more generators will come, and why.
    pub fn interrupted(&mut self, why: String) {
        self.report.interrupted = true;
        self.report.notes.push(why);
    }

    /// The report, every generator's distances beside those of the chain.
    pub fn finish(mut self) -> (Report, Pictures) {
        let chain = self.report.sources.iter().find(|s| s.name == "Markov chain").map(|s| s.features.clone());
        for source in self.report.sources.iter_mut().filter(|s| s.name != "Markov chain") {
            for (feature, chain) in source.features.iter_mut().zip(chain.iter().flatten()) {
                let both = feature.ks.zip(chain.ks);
                feature.ks_beside_chain = both.filter(|(_, chain)| *chain > 0.0).map(|(ks, chain)| ks / chain);
            }
        }
        (self.report, self.pictures)
    }

    fn class(&self, c: usize, flows: Ragged<'_, Packet>) -> Result<(Values, Matrix, ClassReport)> {
        let (values, rows) = (Values::of(flows), matrix(flows));
        let class = &self.classes.classes[c];
        let report = ClassReport {
            class: class.name.clone(),
            flows: flows.len(),
            features: distances(&self.values[c], &values),
            auc: self.discriminate(c, class.real.as_ragged(), flows, &rows)?,
            copies: self.copies(flows)?,
        };
        Ok((values, rows, report))
    }

    /// Share of `flows` whose tokens are those of a training flow.
    fn copies(&self, flows: Ragged<'_, Packet>) -> Result<f64> {
        let (mut tokens, mut copies) = (Vec::new(), 0);
        for flow in flows.rows() {
            tokens.resize(flow.len(), 0);
            self.quantizer.encode(flow, &mut tokens)?;
            copies += usize::from(self.seen.contains(&tokens[..]));
        }
        Ok(copies as f64 / flows.len().max(1) as f64)
    }

    /// How well a forest tells `generated` from the real flows of class `c`: fitted to half of both and judged by the
    /// other half, both ways. Equal flows are all in one half, or a forest would know them by heart.
    fn discriminate(
        &self,
        c: usize,
        real: Ragged<'_, Packet>,
        generated: Ragged<'_, Packet>,
        rows: &Matrix,
    ) -> Result<Option<f64>> {
        let (mut halves, mut labels) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (label, flows, rows) in [(0, real, &self.rows[c]), (1, generated, rows)] {
            for (flow, row) in flows.rows().zip(rows.values.chunks_exact(rows.width)) {
                let half = half(flow);
                halves[half].extend_from_slice(row);
                labels[half].push(label);
            }
        }
        let halves = halves.map(|values| Matrix { values, width: features::WIDTH });
        let by_other = |fitted: usize, judged: usize| -> Result<Option<f64>> {
            let both = |labels: &[u32]| labels.contains(&0) && labels.contains(&1);
            if !both(&labels[fitted]) || !both(&labels[judged]) {
                return Ok(None);
            }
            let scores = Forest::fit(&halves[fitted], &labels[fitted], 2, self.seed)?.scores(&halves[judged]);
            let of = |wanted: u32| -> Vec<f64> {
                let rows = scores.chunks_exact(2).zip(&labels[judged]).filter(|(_, label)| **label == wanted);
                rows.map(|(scores, _)| f64::from(scores[1])).collect()
            };
            Ok(auc(&of(1), &of(0)))
        };
        Ok(mean([by_other(0, 1)?, by_other(1, 0)?]))
    }

    /// Macro-F1 on the real flows of a forest fitted to `rows`, one matrix per class; none for a single class.
    fn f1(&self, rows: &[Matrix]) -> Result<Option<f64>> {
        if rows.len() < 2 {
            return Ok(None);
        }
        let mut labels = Vec::new();
        let mut x = Matrix { values: Vec::new(), width: features::WIDTH };
        for (label, rows) in (0..).zip(rows) {
            labels.resize(labels.len() + rows.len(), label);
            x.values.extend_from_slice(&rows.values);
        }
        let forest = Forest::fit(&x, &labels, rows.len(), self.seed)?;
        let mut confusion = Confusion::new(rows.len());
        for (truth, real) in (0..).zip(&self.rows) {
            for scores in forest.scores(real).chunks_exact(rows.len()) {
                confusion.add(truth, argmax(scores).0 as u32)?;
            }
        }
        Ok(Some(confusion.scores().macro_f1))
    }

    /// As many training flows of each class as there are held-out ones, all different if there are enough.
    fn training_rows(&self) -> Vec<Matrix> {
        let rows = |(stream, class): (u64, &Class)| {
            let mut order: Vec<usize> = (0..class.train.len()).collect();
            Stream::new(self.seed, stream).shuffle(&mut order);
            order.truncate(class.real.len());
            let flows: Rows<Packet> = order.iter().map(|&i| class.train.row(i).to_vec()).collect();
            matrix(flows.as_ragged())
        };
        (0..).zip(&self.classes.classes).map(rows).collect()
    }
}

fn matrix(flows: Ragged<'_, Packet>) -> Matrix {
    let mut values = Vec::with_capacity(flows.len() * features::WIDTH);
    flows.rows().for_each(|flow| features::row(flow, &mut values));
    Matrix { values, width: features::WIDTH }
}

/// Which half a flow is in, by its packets alone.
fn half(flow: &[Packet]) -> usize {
    let mut hasher = DefaultHasher::new();
    bytemuck::cast_slice::<Packet, u8>(flow).hash(&mut hasher);
    (hasher.finish() % 2) as usize
}

fn distances(real: &Values, generated: &Values) -> Vec<Feature> {
    let distance = |quantity, direction| {
        let (a, b) = (real.get(quantity, direction), generated.get(quantity, direction));
        Feature {
            quantity,
            direction,
            ks: kolmogorov_smirnov(a, b),
            jensen_shannon: Grid::over(a, BINS, TRIM).and_then(|grid| grid.jensen_shannon(a, b)),
            wasserstein: wasserstein(a, b),
            ks_beside_chain: None,
        }
    };
    Quantity::ALL
        .into_iter()
        .flat_map(|quantity| Direction::ALL.map(|direction| distance(quantity, direction)))
        .collect()
}

/// The mean of every feature over the classes.
fn means(classes: &[ClassReport]) -> Vec<Feature> {
    let n = classes.first().map_or(0, |c| c.features.len());
    let of = |i: usize| Feature {
        ks: mean(classes.iter().map(|c| c.features[i].ks)),
        jensen_shannon: mean(classes.iter().map(|c| c.features[i].jensen_shannon)),
        wasserstein: mean(classes.iter().map(|c| c.features[i].wasserstein)),
        ..classes[0].features[i]
    };
    (0..n).map(of).collect()
}

fn correlations(real: &[Vec<f64>], generated: &[Vec<f64>]) -> Autocorrelation {
    let of = |flows: &[Vec<f64>]| -> Vec<Option<f64>> {
        (1..=LAGS).into_par_iter().map(|lag| autocorrelation(flows.iter().map(Vec::as_slice), lag)).collect()
    };
    let (real, generated) = (of(real), of(generated));
    let gaps = real.iter().zip(&generated).map(|(a, b)| a.zip(*b).map(|(a, b)| (a - b).abs()));
    Autocorrelation { gap: mean(gaps), real, generated }
}
