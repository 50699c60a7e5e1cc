//! `trafficgpt import`: a checkpoint of Hugging Face's `transformers` becomes a bundle.

use crate::exit::Outcome;
use std::path::PathBuf;
use trafficgpt::train::import::{self, Meaning};
use trafficgpt::train::progress::Progress;

/// Make a bundle of a GPT-2 checkpoint of Hugging Face's transformers, such as the original project's.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt import checkpoint/ -o model.tgpt
  trafficgpt import checkpoint/ --clusters clusters.json --names ids_to_tokens.json -o model.tgpt
  trafficgpt import saved/ --like model.tgpt -o again.tgpt

The checkpoint is config.json with model.safetensors or pytorch_model.bin, in f32, f16 or bf16, whole or in shards. \
Pickles are read without running anything of them. The bundle's logits equal those of transformers. It has no head: it \
generates and scores, and `trafficgpt finetune --from` makes a classifier of it. The other way needs no command: \
transformers loads the directory of any bundle.")]
pub struct Args {
    /// The checkpoint's directory.
    checkpoint: PathBuf,
    /// The original's clusters.json; the one in the checkpoint's directory if not given.
    #[arg(long, value_name = "FILE", conflicts_with = "like")]
    clusters: Option<PathBuf>,
    /// The original's ids_to_tokens.json; the one in the checkpoint's directory if not given.
    #[arg(long, value_name = "FILE", conflicts_with = "like")]
    names: Option<PathBuf>,
    /// A bundle whose tokens the checkpoint has, in place of the original's files.
    #[arg(long, value_name = "BUNDLE")]
    like: Option<PathBuf>,
    /// The bundle's directory; a bundle that is there is replaced.
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let meaning = match args.like {
        Some(bundle) => Meaning::Bundle(bundle),
        None => Meaning::Original {
            clusters: args.clusters.unwrap_or_else(|| args.checkpoint.join("clusters.json")),
            names: args.names.unwrap_or_else(|| args.checkpoint.join("ids_to_tokens.json")),
        },
    };
    let progress = Progress::stderr();
    for note in import::bundle(&args.checkpoint, &meaning, &args.output, std::env::args().collect())? {
        progress.line(&format!("note: {note}"));
    }
    progress.line(&format!("wrote {}", args.output.display()));
    Ok(())
}
