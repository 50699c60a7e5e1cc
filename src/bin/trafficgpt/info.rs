//! `trafficgpt info`: what a bundle says of itself.

use crate::exit::Outcome;
use crate::output;
use std::io::{self, Write};
use std::path::PathBuf;
use trafficgpt::bundle::{Bundle, Manifest};
use trafficgpt::head::svm::Kernel;
use trafficgpt::head::{Forest, Head};

/// Check a bundle and print what it holds: tokens, network, labels, files and how it was trained.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt info model.tgpt
  trafficgpt info model.tgpt --json | jq .classifier.labels")]
pub struct Args {
    /// The bundle's directory.
    bundle: PathBuf,
    /// Print the manifest as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let bundle = Bundle::open(&args.bundle)?;
    let parts = [bundle.head.as_deref().and_then(describe), bundle.forest.as_deref().map(describe_forest)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    output::show(&bundle.manifest, args.json, |out, manifest| print(out, manifest, &parts))
}

/// A line about a head that was fitted; its size decides what a verdict costs.
fn describe(head: &Head) -> Option<String> {
    match head {
        Head::Linear(_) => None,
        Head::Knn(head) => {
            let looked_at = match &head.cells {
                None => "all looked at".to_string(),
                Some(cells) => format!("{} of {} cells looked at", cells.probes, cells.ends.len()),
            };
            Some(format!("the nearest {} of {} references, {looked_at}", head.k, head.len()))
        }
        Head::Svm(head) => {
            let kernel = match head.kernel {
                Kernel::Linear => "linear".to_string(),
                Kernel::Rbf { gamma } => format!("rbf, gamma {gamma:.3e}"),
            };
            Some(format!("{} machines of {} support vectors, kernel {kernel}", head.intercepts.len(), head.len()))
        }
    }
}

/// A line about trees that vote.
fn describe_forest(forest: &Forest) -> String {
    let kind = if forest.odds.is_some() { "boosted trees" } else { "trees" };
    format!("{} {kind} have {} of the probability", forest.roots.len(), forest.weight)
}

/// `parts`: a line about each part of the classifier that has something to say.
fn print(out: &mut impl Write, manifest: &Manifest, parts: &[String]) -> io::Result<()> {
    let model = &manifest.model;
    let vocabulary = &manifest.vocabulary;
    writeln!(out, "format      {} (written by libtrafficgpt {})", manifest.format_version, manifest.library_version)?;
    let scaler = serde_json::to_value(manifest.scaler)?;
    writeln!(
        out,
        "quantizer   {} packet tokens, scaler {}",
        vocabulary.n_packet_tokens,
        scaler.as_str().unwrap_or_default()
    )?;
    writeln!(
        out,
        "network     {} layers x {} wide, {} heads, {} positions, {} ids, {} weights",
        model.n_layer,
        model.n_embd,
        model.n_head,
        model.n_positions,
        model.vocab_size,
        model.n_parameters()
    )?;
    let names = vocabulary.classes.iter().map(|(name, _)| name.as_str());
    print_names(out, "generates", "unconditioned flows only", names)?;
    match &manifest.classifier {
        None => writeln!(out, "classifies  nothing: no head")?,
        Some(spec) => {
            writeln!(out, "head        {}, rejects below probability {}", spec.head, spec.reject_below)?;
            for part in parts {
                writeln!(out, "            {part}")?;
            }
            print_names(out, "classifies", "no labels", spec.labels.iter().map(String::as_str))?;
        }
    }
    writeln!(out, "files")?;
    for (name, file) in &manifest.files {
        writeln!(out, "  {:>12}  {}  {name}", file.size, &file.sha256.get(..16).unwrap_or(&file.sha256))?;
    }
    if !manifest.training.is_null() {
        writeln!(out, "training")?;
        for line in serde_json::to_string_pretty(&manifest.training)?.lines() {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}

fn print_names<'a>(
    out: &mut impl Write,
    what: &str,
    none: &str,
    names: impl ExactSizeIterator<Item = &'a str>,
) -> io::Result<()> {
    match names.len() {
        0 => writeln!(out, "{what:<11} {none}"),
        n => writeln!(out, "{what:<11} {n} classes: {}", names.collect::<Vec<_>>().join(", ")),
    }
}
