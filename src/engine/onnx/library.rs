//! Where ONNX Runtime's library is looked for.

use crate::backend::{loader, ort};
use crate::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// Names of the file, the one of the stable ABI first.
const NAMES: &[&str] = if cfg!(windows) {
    &["onnxruntime.dll"]
} else if cfg!(target_os = "macos") {
    &["libonnxruntime.1.dylib", "libonnxruntime.dylib"]
} else {
    &["libonnxruntime.so.1", "libonnxruntime.so"]
};

/// The environment variable that names the library, as in other programs that load it.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Directories looked through, relative to the one this library or program lies in: beside it, a directory of its
/// own, the `lib` that goes with a `bin`, and `lib/trafficgpt` from a `lib/x86_64-linux-gnu`.
const PLACES: &[&str] = &["", "onnxruntime", "../lib", "../lib/onnxruntime", "../lib/trafficgpt", "../trafficgpt"];

/// The library: the path given, else that of `ORT_DYLIB_PATH`, else one beside this library or program, else the name
/// that the system's loader finds. A path that is named but not there is an error, not a reason to look further; it
/// may be the directory that holds the library.
pub fn find_library(explicit: Option<&Path>) -> Result<PathBuf> {
    if loader::is_missing() {
        return Err(Error::new(
            Kind::NoRuntime,
            "this program is linked with -static, and such a program cannot load ONNX Runtime: link libtrafficgpt.a \
             without -static, or choose the engine native",
        ));
    }
    if let Some(path) = explicit {
        return named(path).map_err(|e| e.at("setting onnx.library"));
    }
    if let Some(path) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
        return named(Path::new(&path)).map_err(|e| e.at(VARIABLE));
    }
    let mut tried = Vec::new();
    for home in homes() {
        for place in PLACES {
            let directory = home.join(place);
            match in_directory(&directory) {
                Some(path) => return Ok(path),
                None => tried.push(directory.display().to_string()),
            }
        }
    }
    if let Some(name) = NAMES.iter().find(|name| ort::loader_finds(name)) {
        return Ok(PathBuf::from(name));
    }
    Err(no_runtime(format!("{} is in none of {}, nor among the system's libraries", NAMES[0], tried.join(", "))))
}

fn no_runtime(what: String) -> Error {
    Error::new(
        Kind::NoRuntime,
        format!(
            "ONNX Runtime was not found: {what}. Get it by `make runtime` in the sources, by `pip install \
             onnxruntime==1.28.0` (it lies in onnxruntime/capi there) or from your distribution, and name it by the \
             setting onnx.library or by {VARIABLE}; or choose the engine native, which needs no library"
        ),
    )
}

/// The file at `path`, or the library in the directory at `path`, as an absolute path: the loader would not look for
/// a relative one where the caller does.
fn named(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|e| Error::io(path, &e))?;
    if path.is_file() {
        return Ok(path);
    }
    if path.is_dir() {
        return in_directory(&path)
            .ok_or_else(|| no_runtime(format!("the directory {} has no {}", path.display(), NAMES[0])));
    }
    Err(no_runtime(format!("there is no file {}", path.display())))
}

/// The library in `directory`, under one of its names or with its version at the end, as wheels have it.
fn in_directory(directory: &Path) -> Option<PathBuf> {
    let plain = NAMES.iter().map(|name| directory.join(name)).find(|path| path.is_file());
    plain.or_else(|| {
        let versioned = |path: &PathBuf| {
            let name = path.file_name().and_then(|n| n.to_str());
            name.is_some_and(|n| n.starts_with(&format!("{}.", NAMES[0]))) && path.is_file()
        };
        std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path())).filter(versioned).max()
    })
}

/// The directories of the file that holds this code and of the program that runs it.
fn homes() -> Vec<PathBuf> {
    let mut homes = Vec::new();
    for file in [module(), std::env::current_exe().ok()].into_iter().flatten() {
        if let Some(home) = file.parent().filter(|home| !homes.iter().any(|h| h == home)) {
            homes.push(home.to_path_buf());
        }
    }
    homes
}

/// The file that holds this code: the shared library, or the program it is linked into. Linux tells which file every
/// address comes from.
fn module() -> Option<PathBuf> {
    let address = find_library as fn(Option<&Path>) -> Result<PathBuf> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (begin, end) = range.split_once('-')?;
        let within =
            usize::from_str_radix(begin, 16).ok()? <= address && address < usize::from_str_radix(end, 16).ok()?;
        within.then(|| rest.find('/').map(|i| PathBuf::from(&rest[i..])))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_code_lies_in_the_test_program() {
        assert_eq!(module(), std::env::current_exe().ok());
    }

    #[test]
    fn a_named_library_that_is_not_there_is_an_error_that_helps() {
        let error = find_library(Some(Path::new("/nonexistent/libonnxruntime.so"))).unwrap_err();
        assert_eq!(error.kind(), Kind::NoRuntime);
        for part in ["onnx.library", "/nonexistent/libonnxruntime.so", "make runtime", "ORT_DYLIB_PATH", "native"] {
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn a_directory_may_be_named_and_the_library_may_carry_its_version() {
        let directory = tempfile::tempdir().unwrap();
        let error = find_library(Some(directory.path())).unwrap_err();
        assert!(error.message().contains("has no"), "{error}");
        let versioned = directory.path().join(format!("{}.28.0", NAMES[0]));
        std::fs::write(&versioned, "").unwrap();
        assert_eq!(find_library(Some(directory.path())).unwrap(), versioned);
        let plain = directory.path().join(NAMES[0]);
        std::fs::write(&plain, "").unwrap();
        assert_eq!(find_library(Some(directory.path())).unwrap(), plain);
    }
}
