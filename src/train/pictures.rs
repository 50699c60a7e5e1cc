//! Pictures of a run, drawn from its `metrics.jsonl`.

use crate::error::Result;
use crate::train::plot::{self, Series};
use crate::train::rundir::RunDir;
use serde_json::Value;
use std::path::Path;

/// Evaluations' figures that are shares, by name in `metrics.jsonl` and in the picture.
const SCORES: [(&str, &str); 2] = [("accuracy", "accuracy"), ("macro_f1", "macro-F1")];

/// Draws `loss.svg` and, for a language model, `perplexity.svg`, for a classifier, `scores.svg` into the run at `path`.
pub fn draw(path: &Path) -> Result<()> {
    let lines = RunDir::metrics(path)?;
    // Lines of steps have a learning rate, lines of evaluations a validation loss.
    let (steps, evaluations): (Vec<&Value>, Vec<&Value>) = lines.iter().partition(|line| line.get("lr").is_some());
    let losses: Vec<Series> = [("training", &steps, "loss"), ("validation", &evaluations, "val_loss")]
        .into_iter()
        .map(|(name, lines, key)| (name.to_string(), curve(lines, key)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    plot::curves(&path.join("loss.svg"), "Loss", "step", "nats", &losses)?;
    let perplexity = curve(&evaluations, "perplexity");
    if !perplexity.is_empty() {
        let series = [("validation".to_string(), perplexity)];
        plot::curves(&path.join("perplexity.svg"), "Perplexity", "step", "perplexity of a packet", &series)?;
    }
    let scores: Vec<Series> = SCORES
        .into_iter()
        .map(|(key, name)| (name.to_string(), curve(&evaluations, key)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    if scores.is_empty() {
        return Ok(());
    }
    plot::curves(&path.join("scores.svg"), "Validation flows", "step", "share", &scores)
}

/// The values under `key` over steps.
fn curve(lines: &[&Value], key: &str) -> Vec<(f64, f64)> {
    lines.iter().filter_map(|line| Some((line["step"].as_f64()?, line.get(key)?.as_f64()?))).collect()
}
