//! Options of the commands that run a network.

use trafficgpt::Error;
use trafficgpt::Result;
use trafficgpt::config::{KEYS, Settings};
use trafficgpt::context::Context;

/// Who runs the network, and how.
#[derive(clap::Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Who runs the network: auto, native, onnx or cuda; one named here never falls back to another.
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// CPU threads; as many as the machine has, if not given.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Any setting of the library; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", long_help = keys_help())]
    set: Vec<String>,
}

impl EngineArgs {
    /// A context with these settings.
    pub fn context(&self) -> Result<Context> {
        let mut settings = Settings::default();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        settings.set("threads", &self.threads.unwrap_or(cores).to_string())?;
        if let Some(engine) = &self.engine {
            settings.set("engine", engine)?;
        }
        for pair in &self.set {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Error::invalid(format!("--set {pair}: not of the form key=value")))?;
            settings.set(key, value)?;
        }
        Ok(Context::new(settings))
    }
}

fn keys_help() -> String {
    let mut help = String::from("Any setting of the library; may be given several times. There are:");
    for key in KEYS {
        let default = if key.default.is_empty() { "empty" } else { key.default };
        help.push_str(&format!("\n  {}: {} (default: {default})", key.name, key.help));
    }
    help
}
