//! GPUs and an NCCL that run on the processor, for tests of the command line.
#![allow(dead_code)]

#[path = "cpp.rs"]
mod cpp;

use std::path::{Path, PathBuf};
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
        let compile = |source, library: PathBuf| cpp::compile(source, &["-O2", "-shared", "-fPIC"], &library);
        let is_made = compile("driver_on_cpu.cpp", driver.join("libcuda.so"))
            && compile("nccl_on_cpu.cpp", both.join("libnccl.so.2"));
        if !is_made {
            return None;
        }
        std::fs::copy(driver.join("libcuda.so"), both.join("libcuda.so")).unwrap();
        Some(Libraries { driver, both })
    })
    .as_ref()
}
