//! Settings of the library as string keys. One table serves the C setter, the command line's `--set` and the docs.

use crate::engine::EngineChoice;
use crate::error::{Error, Result};
use crate::meter::{self, Tunnel};
use std::path::PathBuf;
use std::time::Duration;

/// Threads one worker may be given.
const MAX_THREADS: usize = 1024;

/// Packets of a flow that metering may be told to keep, flows it may track at once, and seconds of a timeout.
const MAX_PACKETS: usize = 65_536;
const MAX_FLOWS: usize = 1 << 26;
const MAX_SECONDS: f64 = 1e9;

/// What a [`crate::context::Context`] is made with.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Who runs the network.
    pub engine: EngineChoice,
    /// CPU threads that one worker uses.
    pub threads: usize,
    /// Path of ONNX Runtime's shared library; searched for where absent.
    pub onnx_library: Option<PathBuf>,
    /// How captures become flows.
    pub meter: meter::Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self { engine: EngineChoice::Auto, threads: 1, onnx_library: None, meter: meter::Options::default() }
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
    Key {
        name: "meter.idle_timeout",
        default: "60",
        help: "seconds without a packet after which a flow of a capture has ended; more than 0",
        set: |settings, value| {
            let timeout = seconds("meter.idle_timeout", value)?;
            settings.meter.idle_timeout =
                timeout.ok_or_else(|| Error::invalid("meter.idle_timeout is 0; it must be more"))?;
            Ok(())
        },
    },
    Key {
        name: "meter.active_timeout",
        default: "0",
        help: "seconds after its first packet at which a flow of a capture is ended; 0: never",
        set: |settings, value| {
            settings.meter.active_timeout = seconds("meter.active_timeout", value)?;
            Ok(())
        },
    },
    Key {
        name: "meter.n_packets",
        default: "126",
        help: "packets of a flow that are kept, 1..=65536; models read 126 at most",
        set: |settings, value| {
            settings.meter.n_packets = integer("meter.n_packets", value, 1, MAX_PACKETS)?;
            Ok(())
        },
    },
    Key {
        name: "meter.max_flows",
        default: "1048576",
        help: "flows tracked at once, 1..=67108864; one more ends the one idle the longest",
        set: |settings, value| {
            settings.meter.max_flows = integer("meter.max_flows", value, 1, MAX_FLOWS)?;
            Ok(())
        },
    },
    Key {
        name: "meter.tunnel",
        default: "inner",
        help: "which packet of a tunnelled one is metered: inner or outer",
        set: |settings, value| {
            settings.meter.tunnel = match value {
                "inner" => Tunnel::Inner,
                "outer" => Tunnel::Outer,
                _ => return Err(Error::invalid(format!("meter.tunnel is \"{value}\"; it must be inner or outer"))),
            };
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

/// A duration, or `None` for 0.
fn seconds(key: &str, value: &str) -> Result<Option<Duration>> {
    match value.parse() {
        Ok(0.0) => Ok(None),
        // Shorter than the clock's step would be 0 again.
        Ok(s) if (1e-9..=MAX_SECONDS).contains(&s) => Ok(Some(Duration::from_secs_f64(s))),
        _ => Err(Error::invalid(format!("{key} is \"{value}\"; it must be seconds in 0..={MAX_SECONDS}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("engine", "onnx"),
            ("threads", "7"),
            ("onnx.library", "x"),
            ("meter.idle_timeout", "0.5"),
            ("meter.active_timeout", "60"),
            ("meter.n_packets", "20"),
            ("meter.max_flows", "9"),
            ("meter.tunnel", "outer"),
        ] {
            let before = settings.clone();
            settings.set(key, value).unwrap();
            assert_ne!(settings, before, "{key}");
        }
        assert_eq!(settings.meter.idle_timeout, Duration::from_millis(500));
        for key in KEYS {
            settings.set(key.name, key.default).unwrap();
        }
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn bad_values_and_unknown_keys_change_nothing() {
        let mut settings = Settings::default();
        for (key, value) in [
            ("threads", "0"),
            ("threads", "x"),
            ("engine", "gpu"),
            ("no.such", "1"),
            ("meter.idle_timeout", "0"),
            ("meter.idle_timeout", "nan"),
            ("meter.active_timeout", "-1"),
            ("meter.n_packets", "0"),
            ("meter.max_flows", ""),
            ("meter.tunnel", "x"),
        ] {
            let error = settings.set(key, value).unwrap_err();
            assert!(error.message().contains(key), "{error}");
        }
        assert_eq!(settings, Settings::default());
    }
}
