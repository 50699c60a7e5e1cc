//! The command line: one file per subcommand. A subcommand is a module with `Args` and `run`, and three lines here.

mod engine;
mod exit;
mod generate;
mod info;

use clap::{Parser, Subcommand};
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
    Generate(generate::Args),
    Info(info::Args),
}

fn main() -> ExitCode {
    exit::code(match Cli::parse().command {
        Command::Generate(args) => generate::run(args),
        Command::Info(args) => info::run(args),
    })
}
