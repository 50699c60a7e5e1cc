//! GPUs and an NCCL that run on the processor, for tests of the command line.
#![allow(dead_code, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A directory with `libcuda.so` alone, and one with `libnccl.so.2` too, for `LD_LIBRARY_PATH`.
pub struct Libraries {
    pub driver: PathBuf,
    pub both: PathBuf,
}

/// The libraries, compiled once; none, with the reason printed, where they cannot be.
pub fn libraries() -> Option<&'static Libraries> {
    static MADE: OnceLock<Option<Libraries>> = OnceLock::new();
    MADE.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
        let (driver, both) = (root.join("driver"), root.join("both"));
        [&driver, &both].into_iter().for_each(|directory| std::fs::create_dir_all(directory).unwrap());
        let is_made = compile("driver_on_cpu.cpp", &driver.join("libcuda.so"))
            && compile("nccl_on_cpu.cpp", &both.join("libnccl.so.2"));
        if !is_made {
            return None;
        }
        std::fs::copy(driver.join("libcuda.so"), both.join("libcuda.so")).unwrap();
        Some(Libraries { driver, both })
    })
    .as_ref()
}

fn compile(source: &str, library: &Path) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let run = Command::new(compiler)
        .args(["-std=c++20", "-pthread", "-ffp-contract=off", "-O2", "-shared", "-fPIC", "-I"])
        .arg(root.join("kernels"))
        .arg(root.join("tests/kernels").join(source))
        .arg("-o")
        .arg(library)
        .output();
    match run {
        Ok(output) if output.status.success() => true,
        other => {
            println!("skipped: no C++ compiler makes {}: {other:?}", library.display());
            false
        }
    }
}
