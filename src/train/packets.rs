//! The packets of flow tables, a flow at a time: what quantizers are fitted to and judged by.

use crate::error::{Error, Result};
use crate::packet::{N_PACKETS, Packet};
use crate::train::dataset::{self, Source};
use crate::train::table::{self, Split};
use std::path::PathBuf;

/// Which flows to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Those that are not held out: of split `train`, or of none.
    Fitted,
    /// Those of one split.
    Split(Split),
    /// All.
    All,
}

impl Part {
    fn holds(self, split: Option<Split>) -> bool {
        match self {
            Self::Fitted => !matches!(split, Some(Split::Val | Split::Test)),
            Self::Split(wanted) => split == Some(wanted),
            Self::All => true,
        }
    }
}

/// Shows `sink` the first [`N_PACKETS`] packets of every flow of `part` in the tables at `paths`, but for the rows that
/// `exclude` (texts like `column=value`) names. A batch of rows is in memory at a time, so tables may be larger than it.
/// Returns the files that were read.
pub fn stream(
    paths: &[PathBuf],
    exclude: &[String],
    part: Part,
    sink: &mut dyn FnMut(&[Packet]) -> Result<()>,
) -> Result<Vec<Source>> {
    let filters = dataset::exclusions(exclude)?;
    let (mut sources, mut any) = (Vec::new(), false);
    for path in paths {
        for file in table::files_of(path)? {
            let mut rows = 0;
            table::stream(&file, &filters, &mut |row| {
                rows += 1;
                if !part.holds(row.split) {
                    return Ok(());
                }
                any = true;
                sink(&row.packets[..row.packets.len().min(N_PACKETS)])
            })?;
            sources.push(Source::new(&file, rows)?);
        }
    }
    if any {
        return Ok(sources);
    }
    Err(Error::invalid(match part {
        Part::Fitted => "there are no packets to fit to: all flows are of split val or test".to_string(),
        Part::Split(split) => format!("there are no flows of split {split}"),
        Part::All => "there are no flows".to_string(),
    }))
}
