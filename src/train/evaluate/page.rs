//! The report as one HTML page that needs nothing else: tables, and pictures inline.

use super::method::MethodReport;
use super::report::Report;
use crate::error::Result;
use crate::train::page::{self, END_TABLE, escaped, figure};
use crate::train::plot;
use std::fmt::Write as _;

/// The page of a report under `title`.
pub fn page(title: &str, report: &Report) -> Result<String> {
    let mut out = page::begin(title);
    introduction(&mut out, report);
    summary(&mut out, report);
    early(&mut out, report)?;
    confidence(&mut out, report)?;
    open_set(&mut out, report);
    labels(&mut out, report);
    confusion(&mut out, report)?;
    out.push_str(page::END);
    Ok(out)
}

fn introduction(out: &mut String, report: &Report) {
    let of = report.split.map_or("<b>all</b> flows".to_string(), |split| format!("flows of split <b>{split}</b>"));
    let (flows, labels) = (report.model.scores.flows, report.model.labels.len());
    let _ = writeln!(out, "<p>{flows} {of}, {labels} labels. Baselines are fitted to split <b>train</b>.</p>\n<ul>");
    for method in report.methods() {
        let _ = writeln!(out, "<li><b>{}</b>: {}</li>", escaped(&method.name), escaped(&method.what));
    }
    out.push_str("</ul>\n");
    report.notes.iter().for_each(|note| page::remark(out, note));
}

/// A row of one figure per method; the best, by `rank` the smallest, is set in bold.
fn row(out: &mut String, name: &str, report: &Report, of: impl Fn(&MethodReport) -> Option<f64>, sign: f64) {
    let best = report.methods().filter_map(&of).map(|value| sign * value).fold(f64::INFINITY, f64::min);
    page::row(
        out,
        name,
        report.methods().map(|method| {
            let value = of(method);
            (figure(value), sign != 0.0 && value.is_some_and(|value| sign * value <= best))
        }),
    );
}

/// Whether less of a figure is better, or more; or neither.
const LESS: f64 = 1.0;
const MORE: f64 = -1.0;
const NEITHER: f64 = 0.0;

fn names(report: &Report) -> impl Iterator<Item = &str> {
    report.methods().map(|method| method.name.as_str())
}

fn summary(out: &mut String, report: &Report) {
    out.push_str("<h2>At a glance</h2>\n");
    page::begin_table(out, "all flows", names(report));
    row(out, "accuracy", report, |m| Some(m.scores.accuracy), MORE);
    row(out, "macro-F1", report, |m| Some(m.scores.macro_f1), MORE);
    row(out, "weighted F1", report, |m| Some(m.scores.weighted_f1), MORE);
    row(out, "negative log-likelihood, nats", report, |m| Some(m.nll), LESS);
    row(out, "calibration error", report, |m| Some(m.calibration_error), LESS);
    row(out, "to fit, s", report, |m| m.fit_seconds, NEITHER);
    let per_flow = |m: &MethodReport| Some(1e6 * m.judge_seconds / m.scores.flows.max(1) as f64);
    row(out, "to answer, µs a flow", report, per_flow, NEITHER);
    out.push_str(END_TABLE);
    page::remark(
        out,
        "Figures are scikit-learn's: macro-F1 is the mean over the labels that occur, weighted F1 counts each as its flows; a \
         flow that is called unknown is missed. Calibration error: flows in 15 bins of equal width by their best probability, \
         the mean gap between this probability and the share that is right. Only the model's probabilities are calibrated. \
         Times are by the clock on the wall of this machine, whatever else ran on it.",
    );
}

fn early(out: &mut String, report: &Report) -> Result<()> {
    let early = &report.early;
    let packets: Vec<String> = (0..early.packets.len()).map(|i| early.name(i)).collect();
    out.push_str("<h2>After the first packets</h2>\n");
    let series: Vec<(&str, &[f64])> = early.methods.iter().map(|m| (m.name.as_str(), &m.macro_f1[..])).collect();
    out.push_str(&plot::steps("macro-F1 by packets seen", "packets seen", &packets, &series)?);
    page::begin_table(out, "packets seen", packets.iter().map(String::as_str));
    for method in &early.methods {
        for (what, values) in [("accuracy", &method.accuracy), ("macro-F1", &method.macro_f1)] {
            page::row(out, &format!("{}, {what}", method.name), values.iter().map(|&v| (figure(Some(v)), false)));
        }
    }
    out.push_str(END_TABLE);
    if early.methods.len() > 1 {
        let most = early.forest_packets;
        page::remark(
            out,
            &format!(
                "The forest is fitted anew to training flows cut as short; it never sees more than {most} packets."
            ),
        );
    }
    Ok(())
}

fn confidence(out: &mut String, report: &Report) -> Result<()> {
    let model = &report.model;
    out.push_str("<h2>Sure and right</h2>\n");
    let points: Vec<(f64, f64)> =
        model.reliability.iter().filter(|bin| bin.flows > 0).map(|bin| (bin.confidence, bin.accuracy)).collect();
    out.push_str(&plot::reliability("Share that is right by best probability", &points)?);
    page::begin_table(out, "label only from this best probability on", ["flows that get one", "of them right", "risk"]);
    for rejection in &model.rejection {
        let shares = [Some(rejection.coverage), rejection.accuracy, rejection.accuracy.map(|share| 1.0 - share)];
        page::row(out, &rejection.threshold.to_string(), shares.map(|share| (figure(share), false)));
    }
    out.push_str(END_TABLE);
    Ok(())
}

fn open_set(out: &mut String, report: &Report) {
    let Some(open) = &report.open_set else { return };
    out.push_str("<h2>Flows of other labels</h2>\n");
    let labels: Vec<String> = open.labels.iter().map(|(label, flows)| format!("{label} ({flows})")).collect();
    let _ = writeln!(
        out,
        "<p>{} flows have labels that the model does not know: {}. A score that is to be lower for them than for the {} flows \
         of labels that it knows:</p>",
        open.strange,
        escaped(&labels.join(", ")),
        open.known
    );
    page::begin_table(out, "score", ["AUROC (0.5: cannot tell)", "strangers that pass where 95% of the known do"]);
    for detector in &open.detectors {
        page::row(out, &detector.name, [detector.auroc, detector.fpr_at_95].map(|v| (figure(v), false)));
    }
    out.push_str(END_TABLE);
    page::begin_table(out, "unknown below this best probability", ["strangers told"]);
    for (threshold, share) in &open.rejected {
        page::row(out, &threshold.to_string(), [(figure(Some(*share)), false)]);
    }
    out.push_str(END_TABLE);
}

fn labels(out: &mut String, report: &Report) {
    out.push_str("<h2>F1 of every label</h2>\n");
    page::begin_table(out, "label (flows)", names(report));
    for (i, label) in report.model.labels.iter().enumerate() {
        let name = format!("{} ({})", label.label, label.score.support);
        row(out, &name, report, |method| Some(method.labels[i].score.f1), MORE);
    }
    out.push_str(END_TABLE);
    out.push_str("<h2>The model, label by label</h2>\n");
    page::begin_table(out, "label", ["flows", "precision", "recall", "F1"]);
    for label in &report.model.labels {
        let score = label.score;
        let shares = [score.precision, score.recall, score.f1].map(|share| (figure(Some(share)), false));
        page::row(out, &label.label, std::iter::once((score.support.to_string(), false)).chain(shares));
    }
    out.push_str(END_TABLE);
}

fn confusion(out: &mut String, report: &Report) -> Result<()> {
    let model = &report.model;
    out.push_str("<h2>What was taken for what</h2>\n");
    let names: Vec<String> = model.labels.iter().map(|label| label.label.clone()).collect();
    if names.len() > plot::MAX_LABELS {
        page::remark(out, &format!("A picture has no room for {} labels.", names.len()));
        return Ok(());
    }
    // The column of "unknown" only where there is something in it.
    let width = names.len() + usize::from(model.unknown > 0);
    let rows: Vec<&[u64]> = model.confusion.iter().map(|row| &row[..width]).collect();
    out.push_str(&plot::confusion("The model's confusion matrix", &names, &rows)?);
    Ok(())
}
