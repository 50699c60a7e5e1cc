//! The one error of the crate: what kind of failure it is, and a sentence that names what and where.

use std::fmt;
use std::path::Path;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the classes a caller can act on. Each is one `TGPT_E_*` status of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An argument or a setting is out of its range.
    Invalid,
    /// Memory, or a limit on memory, is exhausted.
    NoMemory,
    /// The operating system refused: a file that is missing, unreadable or cannot be written.
    Io,
    /// A file's content is damaged or is not what it should be.
    Format,
    /// A file is of a newer format than this library knows.
    Version,
    /// Parts that do not belong together.
    Mismatch,
    /// ONNX Runtime or the CUDA driver is not there.
    NoRuntime,
    /// ONNX Runtime or CUDA failed.
    Runtime,
    /// A handle is in use on another thread.
    Busy,
    /// A buffer is too small; the size it needs is reported beside the error.
    NoSpace,
    /// A bug in this library, caught before it left it.
    Panic,
    /// The user asked to stop.
    Interrupted,
}

/// A failure: its [`Kind`] and a message that names the thing, the place and, where there is one, the remedy.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Shorthand for [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// Shorthand for [`Kind::Format`].
    pub fn format(message: impl Into<String>) -> Self {
        Self::new(Kind::Format, message)
    }

    /// Shorthand for [`Kind::Mismatch`].
    pub fn mismatch(message: impl Into<String>) -> Self {
        Self::new(Kind::Mismatch, message)
    }

    /// An I/O failure on `path`.
    pub fn io(path: &Path, error: &std::io::Error) -> Self {
        Self::new(Kind::Io, format!("{}: {error}", path.display()))
    }

    /// The class of the failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without its kind.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error, said to have happened at `place` (a file, a row, a flow).
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
