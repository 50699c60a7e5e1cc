//! Settings of the library as string keys. One table serves the C setter, the command line's `--set` and the docs.

use crate::cuda::gpt2;
use crate::engine::{EngineChoice, Precision};
use crate::error::{Error, Result};
use crate::flows::{self, WhenFull};
use crate::meter::{self, Tunnel};
use std::path::PathBuf;
use std::time::Duration;

/// Threads one worker may be given.
const MAX_THREADS: usize = 1024;

/// Highest number of a GPU.
const MAX_DEVICE: usize = 255;

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
    /// What the engines native and cuda round the factors of its products to.
    pub precision: Precision,
    /// Path of ONNX Runtime's shared library; searched for where absent.
    pub onnx_library: Option<PathBuf>,
    /// How a network is put on a GPU.
    pub cuda: gpt2::Options,
    /// How captures become flows.
    pub meter: meter::Options,
    /// How a streaming table is made.
    pub flows: flows::Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: EngineChoice::Auto,
            threads: 1,
            precision: Precision::F32,
            onnx_library: None,
            cuda: gpt2::Options::default(),
            meter: meter::Options::default(),
            flows: flows::Options::default(),
        }
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
        help: "who runs the network: auto (onnx where onnx.library names one, else cuda where a GPU answers, else native), \
               native, onnx or cuda; an engine named here never falls back to another",
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
        name: "precision",
        default: "f32",
        help: "of the engines native and cuda: f32, or bf16 for two digits and up to twice the speed (native; needs \
               AVX512-BF16) or tensor cores (cuda; the network's width must be a multiple of 8)",
        set: |settings, value| {
            settings.precision = match value {
                "f32" => Precision::F32,
                "bf16" => Precision::Bf16,
                _ => return Err(Error::invalid(format!("precision is \"{value}\"; it must be f32 or bf16"))),
            };
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
        name: "cuda.device",
        default: "0",
        help: "which GPU the engine cuda takes, 0..=255",
        set: |settings, value| {
            settings.cuda.device = integer("cuda.device", value, 0, MAX_DEVICE)?;
            Ok(())
        },
    },
    Key {
        name: "cuda.memory",
        default: "0",
        help: "bytes of the GPU's memory that one model may take, with K, M or G for powers of 1024; more work than fits \
               is done in parts; 0: half of what is free",
        set: |settings, value| {
            let bytes = bytes("cuda.memory", value)?;
            settings.cuda.memory = (bytes > 0).then_some(bytes);
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
        help: "which packet of a tunnelled one is metered, in captures and in frames: inner or outer",
        set: |settings, value| {
            settings.meter.tunnel = match value {
                "inner" => Tunnel::Inner,
                "outer" => Tunnel::Outer,
                _ => return Err(Error::invalid(format!("meter.tunnel is \"{value}\"; it must be inner or outer"))),
            };
            Ok(())
        },
    },
    Key {
        name: "flows.max_flows",
        default: "65536",
        help: "flows that a streaming table tracks at once, 1..=67108864; all memory is taken when it is made, \
               150 bytes a flow at 32 packets",
        set: |settings, value| {
            settings.flows.max_flows = integer("flows.max_flows", value, 1, flows::MAX_FLOWS)?;
            Ok(())
        },
    },
    Key {
        name: "flows.memory",
        default: "0",
        help: "bytes that a streaming table may take, with K, M or G for powers of 1024; it then tracks as many flows \
               as fit; 0: as flows.max_flows says",
        set: |settings, value| {
            let bytes = bytes("flows.memory", value)?;
            settings.flows.memory = (bytes > 0).then_some(bytes);
            Ok(())
        },
    },
    Key {
        name: "flows.counts",
        default: "4,8,16,32",
        help: "packet counts at which a flow is classified, rising, in 1..=126; the last is how many packets are kept",
        set: |settings, value| {
            let counts: Option<Vec<u8>> = value.split(',').map(|n| n.trim().parse().ok()).collect();
            let counts = counts.filter(|counts| flows::check_counts(counts).is_ok()).ok_or_else(|| {
                wrong("flows.counts", value, "numbers with commas between them that rise, in 1..=126")
            })?;
            settings.flows.counts = counts;
            Ok(())
        },
    },
    Key {
        name: "flows.confidence",
        default: "0.95",
        help: "a verdict with at least this probability is the flow's last; more than 0, at most 1",
        set: |settings, value| {
            settings.flows.confidence = match value.parse() {
                Ok(p) if p > 0.0 && p <= 1.0 => p,
                _ => return Err(wrong("flows.confidence", value, "a number above 0 and at most 1")),
            };
            Ok(())
        },
    },
    Key {
        name: "flows.min_packets",
        default: "2",
        help: "a flow that ends with fewer packets gets no verdict, 1..=65536",
        set: |settings, value| {
            settings.flows.min_packets = integer("flows.min_packets", value, 1, MAX_PACKETS)? as u32;
            Ok(())
        },
    },
    Key {
        name: "flows.idle_timeout",
        default: "60",
        help: "seconds without a packet after which a flow of a streaming table has ended; more than 0",
        set: |settings, value| {
            let timeout = seconds("flows.idle_timeout", value)?;
            settings.flows.idle_timeout =
                timeout.ok_or_else(|| Error::invalid("flows.idle_timeout is 0; it must be more"))?;
            Ok(())
        },
    },
    Key {
        name: "flows.active_timeout",
        default: "60",
        help: "seconds after its first packet at which a flow of a streaming table is ended; 0: never",
        set: |settings, value| {
            settings.flows.active_timeout = seconds("flows.active_timeout", value)?;
            Ok(())
        },
    },
    Key {
        name: "flows.when_full",
        default: "evict",
        help: "what a full streaming table does with a new flow: evict (one that is idle gives way to it) or refuse",
        set: |settings, value| {
            settings.flows.when_full = match value {
                "evict" => WhenFull::Evict,
                "refuse" => WhenFull::Refuse,
                _ => return Err(wrong("flows.when_full", value, "evict or refuse")),
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

fn wrong(key: &str, value: &str, must_be: &str) -> Error {
    Error::invalid(format!("{key} is \"{value}\"; it must be {must_be}"))
}

/// A number of bytes: `1048576`, `1024K`, `1M`.
fn bytes(key: &str, value: &str) -> Result<usize> {
    let (digits, shift) = match value.char_indices().last() {
        Some((end, 'K')) => (&value[..end], 10),
        Some((end, 'M')) => (&value[..end], 20),
        Some((end, 'G')) => (&value[..end], 30),
        _ => (value, 0),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| wrong(key, value, "a number of bytes, with K, M or G behind it or without"))
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
            ("precision", "bf16"),
            ("onnx.library", "x"),
            ("cuda.device", "1"),
            ("cuda.memory", "2G"),
            ("meter.idle_timeout", "0.5"),
            ("meter.active_timeout", "60"),
            ("meter.n_packets", "20"),
            ("meter.max_flows", "9"),
            ("meter.tunnel", "outer"),
            ("flows.max_flows", "10"),
            ("flows.memory", "3M"),
            ("flows.counts", "2, 126"),
            ("flows.confidence", "1"),
            ("flows.min_packets", "1"),
            ("flows.idle_timeout", "5"),
            ("flows.active_timeout", "0"),
            ("flows.when_full", "refuse"),
        ] {
            let before = settings.clone();
            settings.set(key, value).unwrap();
            assert_ne!(settings, before, "{key}");
        }
        assert_eq!(settings.meter.idle_timeout, Duration::from_millis(500));
        assert_eq!((settings.flows.memory, &*settings.flows.counts), (Some(3 << 20), &[2, 126][..]));
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
            ("precision", "f16"),
            ("no.such", "1"),
            ("cuda.device", "256"),
            ("cuda.memory", "-1"),
            ("meter.idle_timeout", "0"),
            ("meter.idle_timeout", "nan"),
            ("meter.active_timeout", "-1"),
            ("meter.n_packets", "0"),
            ("meter.max_flows", ""),
            ("meter.tunnel", "x"),
            ("flows.max_flows", "67108865"),
            ("flows.memory", "1T"),
            ("flows.memory", "99999999999G"),
            ("flows.memory", "é"),
            ("flows.counts", ""),
            ("flows.counts", "8,4"),
            ("flows.counts", "4,127"),
            ("flows.confidence", "0"),
            ("flows.confidence", "nan"),
            ("flows.min_packets", "0"),
            ("flows.idle_timeout", "0"),
            ("flows.active_timeout", "-1"),
            ("flows.when_full", "grow"),
        ] {
            let error = settings.set(key, value).unwrap_err();
            assert!(error.message().contains(key), "{error}");
        }
        assert_eq!(settings, Settings::default());
    }
}
