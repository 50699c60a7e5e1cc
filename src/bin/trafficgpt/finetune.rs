//! `trafficgpt finetune`: a classifier from a pretrained network.

use crate::exit::Outcome;
use crate::training::{LoopArgs, Plan, RunArgs};
use serde::Serialize;
use std::path::PathBuf;
use trafficgpt::Error;
use trafficgpt::train::heads::HeadKind;
use trafficgpt::train::heads::options::KernelKind;
use trafficgpt::train::settings::{self, ClassWeights, Finetune};

/// Train a classifier on labelled flows, from a pretrained run or a bundle.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt finetune flows.parquet --from run -o classifier
  trafficgpt finetune flows.parquet --from model.tgpt --freeze -o classifier
  trafficgpt finetune flows.parquet --from model.tgpt --freeze --head knn -o neighbours
  trafficgpt finetune flows.parquet --from run --unlabelled more.parquet --teacher a.tgpt --teacher b.tgpt -o student
  trafficgpt finetune --resume -o classifier
  mpirun -np 2 trafficgpt finetune flows.parquet --from run --threads 8 -o classifier   (or torchrun --no-python, srun)")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// A run directory or a bundle to start from.
    #[arg(long, value_name = "RUN|BUNDLE", required_unless_present = "resume", conflicts_with = "resume")]
    from: Option<PathBuf>,
    /// A classifier's bundle whose probabilities are learnt beside the labels, and without any for --unlabelled flows;
    /// may be given several times: they are averaged.
    #[arg(long, value_name = "BUNDLE")]
    teacher: Vec<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// Options of heads that are fitted at once.
const FITTED: &str = "Heads on a frozen network";

#[derive(clap::Args, Serialize)]
struct Flags {
    /// Train the head alone and leave the network as it is.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    freeze: bool,
    /// The head: linear, or with --freeze also knn (the labels of the nearest training flows) or svm (support vector
    /// machines).
    #[arg(long, value_name = "KIND")]
    head: Option<HeadKind>,
    /// knn: nearest training flows that vote.
    #[arg(long, value_name = "K", help_heading = FITTED)]
    knn_k: Option<usize>,
    /// knn: cells that the training flows are parted into, so that only the nearest cells are looked at; 0: none, the
    /// nearest flows are found exactly.
    #[arg(long, value_name = "N", help_heading = FITTED)]
    knn_cells: Option<usize>,
    /// knn: cells that are looked at.
    #[arg(long, value_name = "N", help_heading = FITTED)]
    knn_probes: Option<usize>,
    /// svm: linear or rbf.
    #[arg(long, value_name = "KERNEL", help_heading = FITTED)]
    svm_kernel: Option<KernelKind>,
    /// svm: gamma of the kernel rbf; 0: one over the dimensions times their variance.
    #[arg(long, help_heading = FITTED)]
    svm_gamma: Option<f64>,
    /// svm: largest share of the training flows that may lie within the margin.
    #[arg(long, help_heading = FITTED)]
    svm_nu: Option<f64>,
    /// svm: most training flows of a label; others are left out by chance.
    #[arg(long, value_name = "N", help_heading = FITTED)]
    svm_flows: Option<usize>,
    /// Fewest training flows that a label may have; 0: a label may even have none.
    #[arg(long)]
    min_flows: Option<usize>,
    /// Weight of the language model's loss beside the classifier's; 0: the network forgets how to generate.
    #[arg(long)]
    lm_weight: Option<f64>,
    /// How labels of different size count: none, sqrt or balanced.
    #[arg(long)]
    class_weights: Option<ClassWeights>,
    /// Probability mass that the target gives to all labels alike.
    #[arg(long)]
    label_smoothing: Option<f64>,
    /// Probability that a training flow is cut after a random number of packets, few more often than many, so that the
    /// answer is good early; trees that vote learn such flows too.
    #[arg(long)]
    crop: Option<f64>,
    /// Probability that a training flow is classified with the times of another flow, so that the classifier leans on
    /// sizes.
    #[arg(long)]
    borrow_times: Option<f64>,
    /// Trees of a random forest, grown on the labelled flows, that votes beside the network; 0: none.
    #[arg(long)]
    forest_trees: Option<usize>,
    /// Boosted trees of each label, grown on the labelled flows, that vote beside the network instead; 100 are a good start;
    /// 0: none.
    #[arg(long)]
    boost_rounds: Option<usize>,
    /// Share of the trees in the probabilities.
    #[arg(long)]
    forest_weight: Option<f64>,
    /// Let the trees look at times as well as at sizes: for flows that come from the places of the training flows.
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    forest_times: bool,
    /// Share of the teachers' answer, beside the label, in what a labelled flow is to give.
    #[arg(long)]
    teacher_weight: Option<f64>,
    /// What a flow without a label counts, beside one with a label, where there are teachers.
    #[arg(long)]
    unlabelled_weight: Option<f64>,
    /// Times that an epoch goes through the labelled flows for each time through those without a label.
    #[arg(long)]
    labelled_repeats: Option<u64>,
    /// What divides the logits before the softmax; 0: what fits the validation flows best.
    #[arg(long)]
    temperature: Option<f64>,
    /// Probability below which the classifier says "unknown"; 0: never.
    #[arg(long)]
    reject_below: Option<f64>,
    #[command(flatten)]
    #[serde(flatten)]
    run: LoopArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    match args.run.plan(settings::to_table(&args.flags)?, &args.teacher)? {
        Plan::New { flags, data } => {
            let settings: Finetune = settings::resolve(args.run.config(), flags)?;
            let from = args.from.ok_or_else(|| Error::invalid("--from is missing"))?;
            args.run.run(settings.run.threads, |session| session.finetune(&settings, &data, &from))
        }
        Plan::Resume { flags, data } => {
            args.run.run(args.flags.run.threads(), |session| session.resume("finetune", &flags, &data))
        }
    }
}
