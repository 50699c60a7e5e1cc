//! `trafficgpt head`: heads, changed without training.

mod add;

use crate::exit::Outcome;

/// Heads: change a bundle's classifier without training.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Add(add::Args),
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    match args.command {
        Command::Add(args) => add::run(args),
    }
}
