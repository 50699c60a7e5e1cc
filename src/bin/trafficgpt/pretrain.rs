//! `trafficgpt pretrain`: a language model of flows.

use crate::exit::Outcome;
use crate::training::{LoopArgs, Plan, RunArgs};
use serde::Serialize;
use std::path::PathBuf;
use trafficgpt::Error;
use trafficgpt::train::settings::{self, Pretrain};

/// Train a language model on flows, labelled or not.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt pretrain flows.parquet --quantizer quantizer.safetensors -o run
  trafficgpt pretrain labelled.parquet --unlabelled pool.parquet --with-classes --quantizer q.safetensors -o run
  trafficgpt pretrain tables/ --quantizer q.safetensors --shuffle-mib 512 --accumulate 8 --eval-every 500 -o run
  trafficgpt pretrain --resume -o run
  torchrun --no-python --nproc-per-node 2 trafficgpt pretrain flows.parquet --quantizer q.safetensors --threads 8 -o run
  mpirun -np 2 trafficgpt pretrain flows.parquet --quantizer q.safetensors --threads 8 -o run   (or srun -n 2)
  RANK=0 WORLD_SIZE=2 MASTER_ADDR=a trafficgpt pretrain flows.parquet --quantizer q.safetensors -o run   (and RANK=1)")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// The quantizer, of `trafficgpt quantizer fit`.
    #[arg(long, value_name = "FILE", required_unless_present = "resume", conflicts_with = "resume")]
    quantizer: Option<PathBuf>,
    /// Size of the network: edge or base.
    #[arg(long, conflicts_with_all = ["layers", "width", "heads", "resume"])]
    preset: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args, Serialize)]
struct Flags {
    /// Give every label a token that leads its flows.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    with_classes: bool,
    /// With classes: share of the labelled flows that are led by BOF all the same.
    #[arg(long)]
    bof_share: Option<f64>,
    /// Share of the packets' first embeddings that is a smooth function of size and time; 0: each begins on its own.
    #[arg(long)]
    smooth_embeddings: Option<f64>,
    /// Blocks of the network.
    #[arg(long)]
    layers: Option<usize>,
    /// Width of its hidden state.
    #[arg(long)]
    width: Option<usize>,
    /// Attention heads of a block.
    #[arg(long)]
    heads: Option<usize>,
    /// Most packets of a flow that the network reads; what is fine-tuned from it reads no more.
    #[arg(long)]
    n_packets: Option<usize>,
    /// Most memory for training flows, MiB; larger tables are read anew in every epoch, in windows of that size, and
    /// shuffled within each.
    #[arg(long)]
    shuffle_mib: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    run: LoopArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let mut flags = settings::to_table(&args.flags)?;
    if let Some(preset) = &args.preset {
        let (layers, width, heads) = settings::preset(preset)?;
        for (key, value) in [("layers", layers), ("width", width), ("heads", heads)] {
            flags.insert(key.to_string(), toml::Value::Integer(value as i64));
        }
    }
    match args.run.plan(flags, &[])? {
        Plan::New { flags, data } => {
            let settings: Pretrain = settings::resolve(args.run.config(), flags)?;
            let quantizer = args.quantizer.ok_or_else(|| Error::invalid("--quantizer is missing"))?;
            args.run.run(settings.run.threads, |session| session.pretrain(&settings, &data, &quantizer))
        }
        Plan::Resume { flags, data } => {
            args.run.run(args.flags.run.threads(), |session| session.resume("pretrain", &flags, &data))
        }
    }
}
