//! `trafficgpt quantizer import`: the codebook of the original project.

use crate::exit::Outcome;
use serde_json::json;
use std::path::PathBuf;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::{original, quantizer_file};

/// Import the codebook of the original project; the tokens keep its ids.
#[derive(clap::Args)]
#[command(after_help = "Example:
  trafficgpt quantizer import clusters.json --names ids_to_tokens.json -o quantizer.safetensors

Rows that are not finite (empty clusters) are dropped; ids count the finite rows. The scaler is log10-ms.")]
pub struct Args {
    /// The original's clusters.json.
    clusters: PathBuf,
    /// The original's ids_to_tokens.json, to check that it belongs to the clusters.
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let imported = original::read_clusters(&args.clusters)?;
    let k = imported.quantizer.n_tokens();
    let classes = args.names.as_deref().map(|names| original::read_names(names, k)).transpose()?;
    let file = args.clusters.file_name().unwrap_or_default().to_string_lossy();
    let mut meta = json!({ "imported": file, "rows_dropped": imported.dropped });
    if let Some(classes) = &classes {
        meta["classes"] = json!(classes);
    }
    quantizer_file::write(&args.output, &imported.quantizer, meta)?;
    let progress = Progress::stderr();
    if imported.rounded > 0 {
        progress.line(&format!("warning: {} values were rounded to f32", imported.rounded));
    }
    let dropped = imported.dropped;
    progress.line(&format!("{k} centroids, {dropped} empty rows dropped; wrote {}", args.output.display()));
    if let Some(classes) = classes {
        progress.line(&format!("the names belong to it: [EOF] is {k}, {} classes follow [BOF]", classes.len()));
    }
    Ok(())
}
