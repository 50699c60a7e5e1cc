//! `trafficgpt head add`: new classes for a k-NN head.

use crate::captures::MeterArgs;
use crate::engine::EngineArgs;
use crate::exit::Outcome;
use crate::input;
use std::path::PathBuf;
use trafficgpt::packet::Rows;
use trafficgpt::train::heads::add::Growing;
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::{self, Split};
use trafficgpt::{Error, Result};

/// Add flows to a k-NN head: of new classes, or more of known ones. Nothing is trained.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt head add model.tgpt printer.pcap --class printer -o larger.tgpt
  trafficgpt head add model.tgpt labelled.parquet -o larger.tgpt
  trafficgpt head add model.tgpt labelled.parquet -o model.tgpt        # in place; whole or not at all

The bundle's head must be of kind knn (`trafficgpt finetune --freeze --head knn`). Flows of a table keep their labels if \
no --class is given; those of split val or test are left out. The temperature stays that of the classes before: with many \
new flows, fine-tune anew for honest probabilities.")]
pub struct Args {
    /// The bundle's directory.
    bundle: PathBuf,
    /// Captures (pcap or pcapng, plain or gzip), flow tables (.parquet, .csv or .jsonl), or directories of tables.
    #[arg(value_name = "FLOWS", required = true)]
    flows: Vec<PathBuf>,
    /// The class of all flows, whatever labels they have.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// The new bundle's directory; a bundle that is there is replaced, also the one that is read.
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    meter: MeterArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    let progress = Progress::stderr();
    // Before any flow is read: who has another head need not wait for the answer.
    let mut growing = Growing::open(&args.engine.context()?, &args.bundle)?;
    let (mut flows, mut labels, mut files) = (Rows::new(), Vec::new(), Vec::new());
    let (mut held_out, mut bare) = (0, 0);
    for path in &args.flows {
        for file in table::files_of(path)? {
            let before = labels.len();
            input::each_flow(&file, &args.meter, &mut |row| -> Result<()> {
                interrupt.check()?;
                if matches!(row.split, Some(Split::Val | Split::Test)) {
                    held_out += 1;
                } else if let Some(label) = args.class.clone().or(row.label) {
                    flows.push(row.packets);
                    labels.push(label);
                } else {
                    bare += 1;
                }
                Ok(())
            })?;
            files.push((file, labels.len() - before));
        }
    }
    if labels.is_empty() {
        let what = match (held_out, bare) {
            (0, 0) => "there are no flows".to_string(),
            (0, _) => "no flow has a label: give --class, or a table with a column label".to_string(),
            (held_out, 0) => format!("all {held_out} flows are of split val or test"),
            (held_out, bare) => {
                format!("{held_out} flows are of split val or test, {bare} have no label: give --class")
            }
        };
        return Err(Error::invalid(format!("nothing to add: {what}")).into());
    }
    for (n, why) in [(held_out, "of split val or test"), (bare, "without a label")] {
        if n > 0 {
            progress.line(&format!("note: {n} flows {why} are left out"));
        }
    }
    let new = growing.add(&flows, &labels)?;
    for (label, n) in growing.added() {
        let new = if new.contains(label) { " (new)" } else { "" };
        progress.line(&format!("{label}{new}: {n} flows added"));
    }
    let references = growing.references();
    growing.write(std::env::args().collect(), &files, &args.output)?;
    progress.line(&format!("wrote {}, {references} references", args.output.display()));
    Ok(())
}
