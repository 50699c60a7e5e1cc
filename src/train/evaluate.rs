//! Judging a bundle by labelled flows, through the library's own [`Classifier`], as its users run it.

use crate::classifier::{Classifier, argmax};
use crate::error::{Error, Result};
use crate::packet::Rows;
use crate::train::calibrate;
use crate::train::metrics::{Confusion, LabelScore, Scores};
use crate::train::table::{Row, Split, Table};
use crate::worker::Worker;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

/// Flows that one thread classifies at a time.
const FLOWS_PER_TASK: usize = 256;

/// Bins of the calibration error.
const BINS: usize = 10;

/// What an evaluation found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The split that was judged; absent for all flows.
    pub split: Option<&'static str>,
    /// Accuracy and mean F1.
    #[serde(flatten)]
    pub scores: Scores,
    /// Mean negative log-likelihood of the truths in nats, of labels that the model knows.
    pub nll: f64,
    /// Expected calibration error: mean gap between the best probability and the share that is right, over ten bins of
    /// equal width (Guo et al., 2017).
    pub calibration_error: f64,
    /// Flows that the model called "unknown".
    pub unknown: u64,
    /// Every label by name.
    pub labels: Vec<LabelReport>,
    /// Rows are truths, columns predictions in the order of `labels`, and "unknown" last.
    pub confusion: Vec<Vec<u64>>,
}

/// One label's part of the report.
#[derive(Clone, Debug, Serialize)]
pub struct LabelReport {
    /// Its name.
    pub label: String,
    /// Its figures.
    #[serde(flatten)]
    pub score: LabelScore,
}

/// Classifies the labelled rows of `table` that are of `split` (all of them if none is named) and counts.
///
/// A label that the model does not know can only be missed, and is listed after those that it knows.
pub fn evaluate(classifier: &Classifier, table: &Table, split: Option<Split>) -> Result<Report> {
    let chosen = table.rows.iter().filter(|row| split.is_none_or(|s| row.split == Some(s)));
    let rows: Vec<(&Row, &str)> = chosen.filter_map(|row| Some((row, row.label.as_deref()?))).collect();
    if rows.is_empty() {
        let of = split.map_or_else(String::new, |s| format!(" of split {s}"));
        return Err(Error::invalid(format!("there are no flows{of} with a label to judge by")));
    }
    let mut labels = classifier.labels().to_vec();
    let known: BTreeSet<&str> = classifier.labels().iter().map(String::as_str).collect();
    let strange: BTreeSet<&str> = rows.iter().map(|(_, label)| *label).filter(|l| !known.contains(l)).collect();
    labels.extend(strange.into_iter().map(String::from));

    let n = classifier.labels().len();
    let judged: Vec<(Vec<u32>, Vec<f32>)> = rows
        .par_chunks(FLOWS_PER_TASK)
        .map_init(Worker::new, |worker, rows| {
            let flows: Rows<_> = rows.iter().map(|(row, _)| row.packets.iter().copied()).collect();
            let (mut verdicts, mut scores) = (vec![0; rows.len()], vec![0.0; rows.len() * n]);
            classifier.classify(worker, flows.as_ragged(), &mut verdicts, Some(&mut scores))?;
            Ok((verdicts, scores))
        })
        .collect::<Result<_>>()?;

    let truth_of = |label: &str| labels.iter().position(|l| l == label).unwrap_or(0) as u32;
    let truths: Vec<u32> = rows.iter().map(|(_, label)| truth_of(label)).collect();
    let mut confusion = Confusion::new(labels.len());
    let (mut log_scores, mut unknown) = (Vec::new(), 0);
    for ((verdicts, scores), truths) in judged.iter().zip(truths.chunks(FLOWS_PER_TASK)) {
        for (&verdict, &truth) in verdicts.iter().zip(truths) {
            unknown += u64::from(verdict as usize >= n);
            confusion.add(truth, verdict)?;
        }
        // The softmax of logarithms of probabilities is these probabilities.
        log_scores.extend(scores.iter().map(|p| p.max(f32::MIN_POSITIVE).ln()));
    }
    let report = |label: usize| LabelReport { label: labels[label].clone(), score: confusion.label(label) };
    Ok(Report {
        split: split.map(Split::name),
        scores: confusion.scores(),
        nll: calibrate::nll(&log_scores, &truths, n, 1.0),
        calibration_error: calibration_error(&log_scores, &truths, n),
        unknown,
        labels: (0..labels.len()).map(report).collect(),
        confusion: (0..labels.len()).map(|label| confusion.row(label).to_vec()).collect(),
    })
}

fn calibration_error(log_scores: &[f32], truths: &[u32], n: usize) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for (row, &truth) in log_scores.chunks_exact(n).zip(truths) {
        let best = argmax(row).0;
        let confidence = f64::from(row[best]).exp();
        let bin = &mut bins[((confidence * BINS as f64) as usize).min(BINS - 1)];
        bin.0 += confidence;
        bin.1 += f64::from(u8::from(best as u32 == truth));
    }
    bins.iter().map(|(confidence, right)| (confidence - right).abs()).sum::<f64>() / truths.len() as f64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.labels.iter().map(|l| l.label.chars().count()).max().unwrap_or(0).max("label".len());
        let s = &self.scores;
        writeln!(f, "flows {}{}", s.flows, self.split.map_or_else(String::new, |s| format!(" of split {s}")))?;
        writeln!(f, "accuracy {:.4}  macro-F1 {:.4}  weighted-F1 {:.4}", s.accuracy, s.macro_f1, s.weighted_f1)?;
        writeln!(
            f,
            "nll {:.4}  calibration error {:.4}  unknown {}\n",
            self.nll, self.calibration_error, self.unknown
        )?;
        writeln!(f, "{:<width$}  precision  recall      f1  flows", "label")?;
        for LabelReport { label, score } in &self.labels {
            let LabelScore { precision, recall, f1, support } = score;
            writeln!(f, "{label:<width$}  {precision:>9.4}  {recall:.4}  {f1:.4}  {support:>5}")?;
        }
        let digits = self.confusion.iter().flatten().max().map_or(1, |n| n.to_string().len()).max(3);
        let mut header = format!("\n{:<width$}", "truth \\ verdict");
        for i in 0..self.labels.len() {
            let _ = write!(header, " {:>digits$}", format!("#{i}"));
        }
        writeln!(f, "{header} {:>digits$}", "?")?;
        for (i, (label, row)) in self.labels.iter().zip(&self.confusion).enumerate() {
            let cells: String = row.iter().map(|n| format!(" {n:>digits$}")).collect();
            writeln!(f, "{:<width$}{cells}  #{i}", label.label, width = width.max(15))?;
        }
        Ok(())
    }
}
