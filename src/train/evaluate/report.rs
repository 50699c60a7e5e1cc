//! What an evaluation found.

use super::method::MethodReport;
use super::openset::OpenSet;
use crate::train::metrics::{LabelScore, Scores};
use crate::train::page::figure;
use serde::Serialize;
use std::fmt::{self, Formatter, Write as _};

/// What an evaluation found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The split that was judged; absent for all flows.
    pub split: Option<&'static str>,
    /// The bundle's classifier.
    #[serde(flatten)]
    pub model: MethodReport,
    /// What it is compared with, fitted to the split `train`.
    pub baselines: Vec<MethodReport>,
    /// How good the answers are early.
    pub early: Early,
    /// Flows of labels that the model does not know; absent if there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_set: Option<OpenSet>,
    /// What was left out and what to mind, a sentence each.
    pub notes: Vec<String>,
}

/// Figures against the number of packets seen.
#[derive(Clone, Debug, Serialize)]
pub struct Early {
    /// First packets that are seen; absent for all.
    pub packets: Vec<Option<usize>>,
    /// Most packets that the forest sees, however many there are.
    pub forest_packets: usize,
    /// The model, and perhaps a forest on sizes that is fitted anew for every number.
    pub methods: Vec<EarlyMethod>,
}

/// One method's figures, for each number of packets.
#[derive(Clone, Debug, Serialize)]
pub struct EarlyMethod {
    /// Its name.
    pub name: String,
    /// Share of the flows that is right.
    pub accuracy: Vec<f64>,
    /// Mean F1 of the labels.
    pub macro_f1: Vec<f64>,
}

impl EarlyMethod {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_string(), accuracy: Vec::new(), macro_f1: Vec::new() }
    }

    pub(super) fn push(&mut self, scores: Scores) {
        self.accuracy.push(scores.accuracy);
        self.macro_f1.push(scores.macro_f1);
    }
}

impl Early {
    /// The name of the `i`th number of packets.
    pub(super) fn name(&self, i: usize) -> String {
        self.packets[i].map_or("all".to_string(), |n| n.to_string())
    }
}

impl Report {
    /// The model and what it is compared with.
    pub(super) fn methods(&self) -> impl Iterator<Item = &MethodReport> + Clone {
        std::iter::once(&self.model).chain(&self.baselines)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let split = self.split.map_or_else(String::new, |split| format!(" of split {split}"));
        writeln!(f, "flows {}{split}", self.model.scores.flows)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        self.summary(f)?;
        self.labels(f)?;
        self.early(f)?;
        self.rejection(f)?;
        self.open_set(f)?;
        self.confusion(f)
    }
}

impl Report {
    fn summary(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nmethod          accuracy  macro-F1  weighted-F1     nll  calibration error  fit, s")?;
        for MethodReport { name, scores: s, nll, calibration_error, fit_seconds, .. } in self.methods() {
            write!(f, "{name:<14}  {:>8.4}  {:>8.4}  {:>11.4}", s.accuracy, s.macro_f1, s.weighted_f1)?;
            let fit = fit_seconds.map_or("-".to_string(), |seconds| format!("{seconds:.1}"));
            writeln!(f, "  {nll:>6.3}  {calibration_error:>17.4}  {fit:>6}")?;
        }
        let us = 1e6 * self.model.judge_seconds / self.model.scores.flows.max(1) as f64;
        writeln!(f, "the model took {us:.1} µs a flow; it called {} flows unknown", self.model.unknown)
    }

    fn labels(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.label_width();
        write!(f, "\n{:<width$}  flows  precision  recall      f1", "label")?;
        self.baselines.iter().try_for_each(|method| write!(f, "  {}", method.name))?;
        writeln!(f, "{}", if self.baselines.is_empty() { "" } else { "  (f1)" })?;
        for (i, label) in self.model.labels.iter().enumerate() {
            let LabelScore { precision, recall, f1, support } = label.score;
            write!(f, "{:<width$}  {support:>5}  {precision:>9.4}  {recall:.4}  {f1:.4}", label.label)?;
            for method in &self.baselines {
                write!(f, "  {:>1$.4}", method.labels[i].score.f1, method.name.len())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn early(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\npackets seen       ")?;
        (0..self.early.packets.len()).try_for_each(|i| write!(f, "  {:>6}", self.early.name(i)))?;
        writeln!(f)?;
        for method in &self.early.methods {
            for (what, values) in [("accuracy", &method.accuracy), ("macro-F1", &method.macro_f1)] {
                write!(f, "{:<19}", format!("{} {what}", method.name))?;
                values.iter().try_for_each(|value| write!(f, "  {value:>6.4}"))?;
                writeln!(f)?;
            }
        }
        Ok(())
    }

    fn rejection(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nreject below  coverage  accuracy of the rest")?;
        for rejection in &self.model.rejection {
            let accuracy = figure(rejection.accuracy);
            writeln!(f, "{:>12}  {:>8.4}  {accuracy:>20}", rejection.threshold, rejection.coverage)?;
        }
        Ok(())
    }

    fn open_set(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(open) = &self.open_set else { return Ok(()) };
        let labels: Vec<String> = open.labels.iter().map(|(label, flows)| format!("{label} ({flows})")).collect();
        writeln!(
            f,
            "\nopen set: {} flows of labels that the model does not know: {}",
            open.strange,
            labels.join(", ")
        )?;
        writeln!(f, "{:<36}   AUROC  false positives at 95%", "score")?;
        for detector in &open.detectors {
            let (auroc, fpr) = (figure(detector.auroc), figure(detector.fpr_at_95));
            writeln!(f, "{:<36}  {auroc:>6}  {fpr:>22}", detector.name)?;
        }
        let rejected: Vec<String> =
            open.rejected.iter().map(|(t, share)| format!("{:.1}% below {t}", 100.0 * share)).collect();
        writeln!(f, "of them rejected: {}", rejected.join(", "))
    }

    fn confusion(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        let digits = model.confusion.iter().flatten().max().map_or(1, |n| n.to_string().len()).max(3);
        let width = self.label_width().max("truth \\ verdict".len());
        let mut header = format!("\n{:<width$}", "truth \\ verdict");
        for i in 0..model.labels.len() {
            let _ = write!(header, " {:>digits$}", format!("#{i}"));
        }
        writeln!(f, "{header} {:>digits$}", "?")?;
        for (i, (label, row)) in model.labels.iter().zip(&model.confusion).enumerate() {
            let cells: String = row.iter().map(|n| format!(" {n:>digits$}")).collect();
            writeln!(f, "{:<width$}{cells}  #{i}", label.label)?;
        }
        Ok(())
    }

    fn label_width(&self) -> usize {
        self.model.labels.iter().map(|l| l.label.chars().count()).max().unwrap_or(0).max("label".len())
    }
}
