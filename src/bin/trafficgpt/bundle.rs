//! `trafficgpt bundle`: a run becomes a model that the library loads.

use crate::exit::Outcome;
use std::path::PathBuf;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::ship;

/// Make a bundle of a run's best checkpoint.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt bundle classifier -o model.tgpt")]
pub struct Args {
    /// The directory of a run.
    run: PathBuf,
    /// The bundle's directory; a bundle that is there is replaced.
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let progress = Progress::stderr();
    for note in ship::bundle(&args.run, &args.output)? {
        progress.line(&format!("note: {note}"));
    }
    progress.line(&format!("wrote {}", args.output.display()));
    Ok(())
}
