//! Where a command's answer goes: a file, which is there whole or not at all, or standard output.

use crate::exit::{Outcome, Stop};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::path::Path;
use trafficgpt::train::atomic::AtomicFile;
use trafficgpt::{Error, Result};

/// An answer being written. Only [`Self::finish`] gives a file its name.
pub enum Output {
    /// The file that was asked for.
    File(BufWriter<AtomicFile>),
    /// Standard output.
    Stdout(BufWriter<StdoutLock<'static>>),
}

impl Output {
    /// Opens what will be `path`; standard output for none.
    pub fn create(path: Option<&Path>) -> Result<Self> {
        Ok(match path {
            Some(path) => Self::File(BufWriter::new(AtomicFile::create(path)?)),
            None => Self::Stdout(BufWriter::new(io::stdout().lock())),
        })
    }

    /// Whether somebody watches the lines come.
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Stdout(out) => out.get_ref().is_terminal(),
        }
    }

    /// What `result`, of a write to this, means for the command.
    pub fn written(&self, result: io::Result<()>) -> Outcome {
        result.map_err(|e| match self {
            Self::File(out) => Error::io(out.get_ref().path(), &e).into(),
            Self::Stdout(_) => Stop::stdout(e),
        })
    }

    /// Writes what is left; a file gets its name.
    pub fn finish(mut self) -> Outcome {
        let flushed = self.flush();
        self.written(flushed)?;
        match self {
            Self::File(out) => {
                let (file, _) = out.into_parts();
                Ok(file.commit()?)
            }
            Self::Stdout(_) => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(out) => out.write(bytes),
            Self::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(out) => out.flush(),
            Self::Stdout(out) => out.flush(),
        }
    }
}

/// Writes `text` as the whole answer.
pub fn write(path: Option<&Path>, text: &str) -> Outcome {
    let mut out = Output::create(path)?;
    let written = out.write_all(text.as_bytes());
    out.written(written)?;
    out.finish()
}

/// Writes `report` to standard output, as JSON or as `print` has it.
pub fn show<T: Serialize + ?Sized>(
    report: &T,
    as_json: bool,
    print: impl FnOnce(&mut Output, &T) -> io::Result<()>,
) -> Outcome {
    let mut out = Output::create(None)?;
    let printed = if as_json {
        serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from).and_then(|()| writeln!(out))
    } else {
        print(&mut out, report)
    };
    out.written(printed)?;
    out.finish()
}
