//! What a package carries beside the command: its man pages and its shell completions, from the definitions that parse
//! the command line. `make install` asks for them by a subcommand that no user sees.

use crate::exit::Outcome;
use clap::{Arg, ArgMatches, Command};
use clap_complete::aot::{Shell, generate_to};
use clap_mangen::Man;
use std::fs;
use std::path::{Path, PathBuf};
use trafficgpt::{Error, Result};

/// The name of the subcommand.
pub const NAME: &str = "write-pages";

/// The subcommand. It is not among the others, as completions would offer it although it is hidden.
pub fn command() -> Command {
    let directory = Arg::new("directory").required(true).value_parser(clap::value_parser!(PathBuf));
    Command::new(NAME).hide(true).about("Write man pages and shell completions to a directory").arg(directory)
}

/// Runs it: `man1` with a page for each command of `cli`, and one directory for each shell.
pub fn run(matches: &ArgMatches, mut cli: Command) -> Outcome {
    let Some(directory) = matches.get_one::<PathBuf>("directory") else {
        return Err(Error::invalid("the directory to write to is missing").into());
    };
    // `trafficgpt help` tells what the pages tell.
    let mut manual = cli.clone().disable_help_subcommand(true);
    manual.build();
    write_man(&manual, &made(directory.join("man1"))?)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let place = made(directory.join(shell.to_string()))?;
        generate_to(shell, &mut cli, "trafficgpt", &place).map_err(|e| Error::io(&place, &e))?;
    }
    Ok(())
}

fn made(directory: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&directory).map_err(|e| Error::io(&directory, &e))?;
    Ok(directory)
}

/// The page of `command` and those of its subcommands.
fn write_man(command: &Command, directory: &Path) -> Result<()> {
    let page =
        Man::new(command.clone()).source(concat!("trafficgpt ", env!("CARGO_PKG_VERSION"))).manual("libtrafficgpt");
    page.generate_to(directory).map_err(|e| Error::io(directory, &e))?;
    command.get_subcommands().try_for_each(|subcommand| write_man(subcommand, directory))
}
