//! Capture files among the arguments, and options of metering that several commands share.

use std::path::{Path, PathBuf};
use std::time::Duration;
use trafficgpt::meter::{Options, Tunnel};
use trafficgpt::{Error, Result};

/// Ends of the names of capture files, also with `.gz` after.
const EXTENSIONS: [&str; 5] = ["pcap", "pcapng", "cap", "dmp", "ntar"];

/// Longest timeout in seconds: beyond any capture, and far from any overflow.
const MAX_SECONDS: f64 = 1e9;

/// How packets become flows.
#[derive(clap::Args)]
#[command(next_help_heading = "Metering")]
pub struct MeterArgs {
    /// Which flow of tunnelled traffic counts (IP in IP, GRE, VXLAN, GTP-U).
    #[arg(long, value_enum, default_value_t = TunnelChoice::Inner)]
    tunnel: TunnelChoice,
    /// A flow ends after this many seconds without a packet.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    idle_timeout: Duration,
    /// A flow ends this many seconds after its first packet; never, if not given.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    active_timeout: Option<Duration>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum TunnelChoice {
    /// The flow inside.
    Inner,
    /// The tunnel itself.
    Outer,
}

impl MeterArgs {
    /// The meter's options.
    pub fn options(&self) -> Options {
        Options {
            idle_timeout: self.idle_timeout,
            active_timeout: self.active_timeout,
            tunnel: match self.tunnel {
                TunnelChoice::Inner => Tunnel::Inner,
                TunnelChoice::Outer => Tunnel::Outer,
            },
            ..Options::default()
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= MAX_SECONDS => Ok(Duration::from_secs_f64(s)),
        _ => Err(format!("it must be a number of seconds above 0 and at most {MAX_SECONDS:e}")),
    }
}

/// A capture, and what to call it.
#[derive(Debug, PartialEq)]
pub struct Capture {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the directory that was searched, or its file name.
    pub name: String,
}

/// The captures that `paths` mean: files as they are, of directories (searched in depth, links to directories not
/// followed) every file with a capture's extension, in order of name.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Capture>> {
    let mut captures = Vec::new();
    for path in paths {
        if !path.is_dir() {
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            captures.push(Capture { path: path.clone(), name });
            continue;
        }
        let mut found = Vec::new();
        search(path, &mut found)?;
        if found.is_empty() {
            let any = EXTENSIONS.map(|e| format!("*.{e}")).join(", ");
            return Err(Error::invalid(format!("{}: no capture in this directory ({any}, or .gz)", path.display())));
        }
        found.sort();
        captures.extend(found.into_iter().map(|file| {
            let name = file.strip_prefix(path).unwrap_or(&file).to_string_lossy().into_owned();
            Capture { path: file, name }
        }));
    }
    Ok(captures)
}

fn search(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let io = |e| Error::io(&directory, &e);
        for entry in directory.read_dir().map_err(io)? {
            let entry = entry.map_err(io)?;
            let path = entry.path();
            if entry.file_type().map_err(io)?.is_dir() {
                pending.push(path);
            } else if is_capture_name(&path) && path.is_file() {
                found.push(path);
            }
        }
    }
    Ok(())
}

fn is_capture_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    stem(&name) != name
}

/// The name without a capture's extension.
pub fn stem(name: &str) -> &str {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    EXTENSIONS.iter().find_map(|e| plain.strip_suffix(e)?.strip_suffix('.')).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn directories_are_searched_in_order_of_name() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("b/deep")).unwrap();
        for name in ["z.pcap", "b/deep/1.PCAPNG.gz", "b/2.cap", "notes.txt", "b/x.gz"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let names: Vec<String> = find(&[directory.path().to_path_buf()]).unwrap().into_iter().map(|c| c.name).collect();
        assert_eq!(names, ["b/2.cap", "b/deep/1.PCAPNG.gz", "z.pcap"]);
        assert!(
            find(&[directory.path().join("b/missing")]).unwrap().len() == 1,
            "missing files are the meter's to tell"
        );
        let empty = tempfile::tempdir().unwrap();
        assert!(find(&[empty.path().to_path_buf()]).is_err());
    }

    #[test]
    fn stems_lose_a_captures_extension_only() {
        assert_eq!(stem("dns.pcap"), "dns");
        assert_eq!(stem("dns.v2.pcapng.gz"), "dns.v2");
        assert_eq!(stem("dns.gz"), "dns.gz");
        assert_eq!(stem("pcap"), "pcap");
    }

    #[test]
    fn timeouts_are_positive_seconds() {
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        for bad in ["0", "-1", "nan", "inf", "1e30", "soon", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
