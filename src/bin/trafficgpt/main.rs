//! The command line: one file per subcommand. A subcommand is a module with `Args` and `run`, and three lines here.

mod arrivals;
mod bundle;
mod captures;
mod classify;
mod compare;
mod engine;
mod evaluate;
mod exit;
mod finetune;
mod generate;
mod head;
mod import;
mod info;
mod input;
mod meter;
mod output;
mod pages;
mod pretrain;
mod quantizer;
mod score;
mod training;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::process::ExitCode;

/// Classifies and generates encrypted network flows with a GPT-2 over packet sizes and times.
#[derive(Parser)]
#[command(name = "trafficgpt", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Meter(meter::Args),
    Quantizer(quantizer::Args),
    Pretrain(pretrain::Args),
    Finetune(finetune::Args),
    Head(head::Args),
    Bundle(bundle::Args),
    Import(import::Args),
    Evaluate(evaluate::Args),
    Classify(classify::Args),
    Score(score::Args),
    Generate(generate::Args),
    Compare(compare::Args),
    Info(info::Args),
}

fn main() -> ExitCode {
    let matches = Cli::command().subcommand(pages::command()).get_matches();
    if let Some((pages::NAME, arguments)) = matches.subcommand() {
        return exit::code(pages::run(arguments, Cli::command()));
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    exit::code(match cli.command {
        Command::Meter(args) => meter::run(args),
        Command::Quantizer(args) => quantizer::run(args),
        Command::Pretrain(args) => pretrain::run(args),
        Command::Finetune(args) => finetune::run(args),
        Command::Head(args) => head::run(args),
        Command::Bundle(args) => bundle::run(args),
        Command::Import(args) => import::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Score(args) => score::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Info(args) => info::run(args),
    })
}
