//! Flow tables: the one form of flow data between metering, training, classifying and generating.
//!
//! | column | type | |
//! | --- | --- | --- |
//! | `label` | text, nullable | traffic class |
//! | `group` | text | captures that may share flows; splits never cut a group |
//! | `split` | text, nullable | `train`, `val` or `test` |
//! | `packets` | integer | packets of the whole flow |
//! | `sizes` | list of i32 | signed IP packet lengths of the first packets, bytes |
//! | `ipt_us` | list of f32 | time since the packet before, microseconds; as many as `sizes` |
//! | `client_ip`, `server_ip` | text, nullable | who sent the first packet, and the other |
//! | `client_port`, `server_port`, `protocol` | integer, nullable | |
//! | `start_ns` | integer, nullable | time of the first packet, nanoseconds since 1970 |
//!
//! Only `sizes` and `ipt_us` must be there. Parquet, CSV and JSON lines (an object a line) hold the same columns; in CSV a
//! list is its values with spaces (or semicolons) between. The CSV files of the original project (`raw_packet0, raw_iat0, …`, milliseconds) and
//! of nfstream with SPLT columns are read as well; which kind a file is shows in its content.

mod csv_file;
mod csv_reader;
mod filter;
mod guard;
mod jsonl;
mod labels;
mod parquet_reader;
pub mod pcap;
mod row;
mod writer;

pub use filter::Filter;
pub use labels::Labels;
pub use row::{MAX_PACKETS_OF_ROW, Row, Split};
pub use writer::Writer;

use crate::error::{Error, Kind, Result};
use crate::packet::{Packet, Rows};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most packets a table holds in memory, all rows together (8 GiB of them).
const MAX_PACKETS: usize = 1 << 30;

/// Most rows a table holds in memory.
const MAX_ROWS: usize = 1 << 28;

/// Rows of one or more files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The flows, in the order of the files and of the rows in them.
    pub rows: Vec<Row>,
    /// What was left out while reading, a sentence each; for the user to see.
    pub warnings: Vec<String>,
    n_packets: usize,
}

impl From<Vec<Row>> for Table {
    fn from(rows: Vec<Row>) -> Self {
        let n_packets = rows.iter().map(|row| row.packets.len()).sum();
        Self { rows, warnings: Vec::new(), n_packets }
    }
}

impl Table {
    /// Reads a Parquet, CSV or JSON-lines file, or every `*.parquet`, `*.csv` and `*.jsonl` file of a directory and those in it,
    /// in order of path. An error names file, row, column and reason.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_filtered(path, &[])
    }

    /// The same, of the rows that `filters` keep.
    pub fn read_filtered(path: &Path, filters: &[Filter]) -> Result<Self> {
        Self::read_many(&[path], filters)
    }

    /// Reads several files or directories into one table.
    pub fn read_many(paths: &[impl AsRef<Path>], filters: &[Filter]) -> Result<Self> {
        let mut table = Self::default();
        for path in paths.iter().map(AsRef::as_ref) {
            for file in files_of(path)? {
                let warnings = stream(&file, filters, &mut |row| table.push(row))?;
                table.warnings.extend(warnings);
            }
        }
        Ok(table)
    }

    /// Writes a Parquet, CSV or JSON-lines file, by the extension of `path`: whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut writer = Writer::create(path)?;
        for row in &self.rows {
            writer.push(row)?;
        }
        writer.finish()
    }

    /// The different labels, sorted.
    pub fn labels(&self) -> Vec<String> {
        let labels: BTreeSet<&str> = self.rows.iter().filter_map(|r| r.label.as_deref()).collect();
        labels.into_iter().map(String::from).collect()
    }

    /// The first `n` packets of every flow.
    pub fn packets(&self, n: usize) -> Rows<Packet> {
        self.rows.iter().map(|row| row.packets.iter().take(n).copied()).collect()
    }

    /// Appends a row, within the limits on memory.
    fn push(&mut self, row: Row) -> Result<()> {
        self.n_packets += row.packets.len();
        if self.rows.len() >= MAX_ROWS || self.n_packets > MAX_PACKETS {
            return Err(Error::new(
                Kind::NoMemory,
                format!("more than {MAX_ROWS} rows or {MAX_PACKETS} packets; split the table into smaller files"),
            ));
        }
        self.rows.push(row);
        Ok(())
    }
}

/// A part of a table that can be read by itself: a row group of a Parquet file, or another file whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unit(Option<usize>);

/// The units of the table at `path`, in the order of its rows.
pub fn units(path: &Path) -> Result<Vec<Unit>> {
    let of_file = || match magic(path)?.as_slice() {
        b"PAR1" => {
            let file = open(path)?;
            Ok((0..guard::catch(|| parquet_reader::row_groups(file))?).map(|i| Unit(Some(i))).collect())
        }
        _ => Ok(vec![Unit(None)]),
    };
    of_file().map_err(|e: Error| e.at(path.display()))
}

/// Gives `sink` the rows of the Parquet, CSV or JSON-lines file at `path` that `filters` keep, a batch of rows in memory
/// at a time. Returns what was left out, a sentence each. An error names file, row, column and reason.
pub fn stream(path: &Path, filters: &[Filter], sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<Vec<String>> {
    stream_unit(path, Unit(None), filters, sink)
}

/// The same of the rows in `unit`, which is one of the table's [`units`].
pub fn stream_unit(
    path: &Path,
    unit: Unit,
    filters: &[Filter],
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<Vec<String>> {
    stream_any(path, unit, filters, sink).map_err(|e| e.at(path.display()))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Error::new(Kind::Io, e.to_string()))
}

/// The first bytes of a file, which tell its kind.
fn magic(path: &Path) -> Result<Vec<u8>> {
    let mut magic = Vec::new();
    open(path)?.take(4).read_to_end(&mut magic).map_err(|e| Error::new(Kind::Io, e.to_string()))?;
    Ok(magic)
}

fn stream_any(
    path: &Path,
    Unit(unit): Unit,
    filters: &[Filter],
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<Vec<String>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match magic(path)?.as_slice() {
        b"PAR1" => {
            let file = open(path)?;
            guard::catch(|| parquet_reader::stream(file, unit, &name, filters, sink))?;
            Ok(Vec::new())
        }
        [b'{', ..] => {
            jsonl::stream(open(path)?, &name, filters, sink)?;
            Ok(Vec::new())
        }
        [] => Err(Error::format("the file is empty; a flow table is Parquet, CSV with a header line, or JSON lines")),
        _ => Ok(csv_reader::stream(open(path)?, &name, filters, sink)?.into_iter().collect()),
    }
}

/// Most directories that lie in each other, and most files of one argument.
const MAX_DEPTH: usize = 32;
const MAX_FILES: usize = 1 << 20;

/// The table files that `path` means: itself, or those of a directory and the directories in it, in order of path. Names
/// that begin with a dot are hidden.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    search(path, MAX_DEPTH, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(Error::invalid(format!(
            "{}: the directory holds no *.parquet, *.csv or *.jsonl file",
            path.display()
        )));
    }
    Ok(files)
}

/// Adds the table files in `directory` and at most `depth` levels below.
fn search(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in directory.read_dir().map_err(|e| Error::io(directory, &e))? {
        let path = entry.map_err(|e| Error::io(directory, &e))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        if path.is_dir() {
            if depth == 0 {
                let place = path.display();
                return Err(Error::invalid(format!(
                    "{place}: {MAX_DEPTH} directories in each other; is a link a loop?"
                )));
            }
            search(&path, depth - 1, files)?;
        } else if path.extension().is_some_and(|e| e == "parquet" || e == "csv" || e == "jsonl") {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::invalid(format!("{}: more than {MAX_FILES} files", directory.display())));
        }
    }
    Ok(())
}
