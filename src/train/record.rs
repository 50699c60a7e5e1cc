//! What a run says of itself: the table at its start, and the record that its bundle carries.

use crate::error::Result;
use crate::train::dataset::{Dataset, Flows};
use crate::train::rundir::{Record, RunDir};
use crate::train::session;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// The stages that made the model of the run at `path`, this run the last: commands, settings, data and figures. No
/// path of the machine is in it.
pub fn stages(path: &Path, record: &Record) -> Result<Vec<Value>> {
    let mut settings = RunDir::config(path)?;
    session::take_data(&mut settings)?;
    // How many threads there were changes nothing but the time it took.
    settings.remove("threads");
    let best = RunDir::best(path, record)?;
    let mut stages = record.history.clone();
    stages.push(json!({
        "command": record.arguments.join(" "),
        "stage": record.command,
        "quantizer": {"sha256": record.quantizer_sha256, "fit": record.quantizer_fit},
        "library_version": record.library_version,
        "settings": settings,
        "data": record.data,
        "teachers": record.teachers,
        "flows": {"train": record.flows.0, "val": record.flows.1},
        "notes": record.notes,
        "best": RunDir::figures(path, best.state.best_step)?,
    }));
    Ok(stages)
}

/// Everything about a run on one screen.
pub fn table(record: &Record, settings: &toml::Table, flows: &Dataset) -> String {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_string(), value));
    let tokens = |flows: &Flows| flows.costs().iter().sum::<usize>();
    for source in &record.data {
        row("file", format!("{} ({} rows)", source.file, source.rows));
    }
    for teacher in &record.teachers {
        row("teacher", teacher.bundle.clone());
    }
    let (n, of_train) = flows.train_size();
    row("training flows", format!("{n} ({of_train} tokens)"));
    row("validation flows", format!("{} ({} tokens)", flows.val.len(), tokens(&flows.val)));
    let (model, vocabulary) = (&record.model, &record.vocabulary);
    let (k, classes) = (vocabulary.n_packet_tokens, vocabulary.classes.len());
    row("vocabulary", format!("{k} packet tokens, 4 special, {classes} classes"));
    if !record.labels.is_empty() {
        row("labels", format!("{}: {}", record.labels.len(), record.labels.join(", ")));
    }
    let (layers, width, heads) = (model.n_layer, model.n_embd, model.n_head);
    row("network", format!("{layers} layers x {width} wide, {heads} heads, {} weights", model.n_parameters()));
    for (name, value) in settings {
        row(name, value.to_string());
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut out, (name, value)| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}{name:<width$}  {value}", if out.is_empty() { "" } else { "\n" });
        out
    })
}

/// `arguments` as a record may show them: paths cut to their last part, and the program by its own name.
pub fn shown_arguments(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let name = |text: &str| text.rsplit('/').find(|part| !part.is_empty()).unwrap_or(text).to_string();
    let program = std::iter::once("trafficgpt".to_string());
    program
        .chain(arguments.into_iter().skip(1))
        .map(|argument| match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with('-') => format!("{flag}={}", name(value)),
            _ => name(&argument),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_arguments_show_no_directory() {
        let given = ["/usr/bin/trafficgpt", "pretrain", "data/a.parquet", "--quantizer=/home/me/q.st", "-o", "runs/x/"];
        let shown = shown_arguments(given.map(String::from));
        assert_eq!(shown, ["trafficgpt", "pretrain", "a.parquet", "--quantizer=q.st", "-o", "x"]);
        let odd = ["renamed", "corpus=a", "/"].map(String::from);
        assert_eq!(shown_arguments(odd), ["trafficgpt", "corpus=a", "/"]);
    }
}
