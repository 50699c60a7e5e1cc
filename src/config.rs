//! Settings of the library as string keys. One table serves the C setter, the command line's `--set` and the docs.

use crate::engine::EngineChoice;
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Threads one worker may be given.
const MAX_THREADS: usize = 1024;

/// What a [`crate::context::Context`] is made with.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Who runs the network.
    pub engine: EngineChoice,
    /// CPU threads that one worker uses.
    pub threads: usize,
    /// Path of ONNX Runtime's shared library; searched for where absent.
    pub onnx_library: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { engine: EngineChoice::Auto, threads: 1, onnx_library: None }
    }
}

/// One setting: its key, its default, and what it does.
pub struct Key {
    /// The string the setter takes.
    pub name: &'static str,
    /// The default, as the setter would take it.
    pub default: &'static str,
    /// One sentence with the legal values.
    pub help: &'static str,
    set: fn(&mut Settings, &str) -> Result<()>,
}

/// Every setting there is.
pub const KEYS: &[Key] = &[
    Key {
        name: "engine",
        default: "auto",
        help: "who runs the network: auto (onnx where its library is found, else native), native or onnx; \
               an engine named here never falls back to another",
        set: |settings, value| {
            settings.engine = value.parse()?;
            Ok(())
        },
    },
    Key {
        name: "threads",
        default: "1",
        help: "CPU threads of one worker, 1..=1024; leave it at 1 and use one worker per core where flows are many",
        set: |settings, value| {
            settings.threads = integer("threads", value, 1, MAX_THREADS)?;
            Ok(())
        },
    },
    Key {
        name: "onnx.library",
        default: "",
        help: "path of libonnxruntime.so; empty: ORT_DYLIB_PATH, beside this library, then the system's",
        set: |settings, value| {
            settings.onnx_library = (!value.is_empty()).then(|| PathBuf::from(value));
            Ok(())
        },
    },
];

impl Settings {
    /// Sets `key` to `value`. An unknown key or a value out of range leaves everything as it was.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let Some(entry) = KEYS.iter().find(|k| k.name == key) else {
            let known: Vec<&str> = KEYS.iter().map(|k| k.name).collect();
            return Err(Error::invalid(format!("no setting is called \"{key}\"; there are {}", known.join(", "))));
        };
        (entry.set)(self, value)
    }
}

fn integer(key: &str, value: &str, min: usize, max: usize) -> Result<usize> {
    match value.parse() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(Error::invalid(format!("{key} is \"{value}\"; it must be a whole number in {min}..={max}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineKind;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let mut settings = Settings { engine: EngineChoice::Named(EngineKind::Onnx), threads: 7, onnx_library: None };
        for key in KEYS {
            settings.set(key.name, key.default).unwrap();
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn bad_values_and_unknown_keys_change_nothing() {
        let mut settings = Settings::default();
        for (key, value) in [("threads", "0"), ("threads", "x"), ("engine", "gpu"), ("no.such", "1")] {
            let error = settings.set(key, value).unwrap_err();
            assert!(error.message().contains(key), "{error}");
        }
        assert_eq!(settings, Settings::default());
    }
}
