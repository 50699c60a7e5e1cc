//! How a command ends: what it says on standard error and the exit code it leaves.

use std::io::{self, Write};
use std::process::ExitCode;
use trafficgpt::{Error, Kind};

/// What every command's `run` returns.
pub type Outcome<T = ()> = Result<T, Stop>;

/// Why a command stopped early.
pub enum Stop {
    /// Something failed.
    Failed(Error),
    /// The reader of standard output has seen enough (`| head`): not a failure.
    BrokenPipe,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Stop {
    /// A failure to write to standard output.
    pub fn stdout(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::Failed(Error::new(Kind::Io, format!("standard output: {error}")))
    }
}

/// Reports the outcome and turns it into the exit code: 0 for success, 2 for bad input or arguments, 130 for SIGINT, 1
/// for every other failure.
pub fn code(outcome: Outcome) -> ExitCode {
    let error = match outcome {
        Ok(()) | Err(Stop::BrokenPipe) => return ExitCode::SUCCESS,
        Err(Stop::Failed(error)) => error,
    };
    // Nothing is left to do if standard error is closed as well.
    let _ = writeln!(io::stderr(), "error: {error}");
    match error.kind() {
        Kind::Invalid | Kind::Io | Kind::Format | Kind::Version | Kind::Mismatch => ExitCode::from(2),
        Kind::Interrupted => ExitCode::from(130),
        Kind::NoMemory | Kind::NoRuntime | Kind::Runtime | Kind::Busy | Kind::NoSpace | Kind::Panic => {
            ExitCode::FAILURE
        }
    }
}
