//! The files of a bundle, read with suspicion: regular files of the directory, of the recorded size and content.

use super::manifest::FileSpec;
use crate::error::{Error, Kind, Result};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A directory whose files are read.
pub(super) struct Directory<'a> {
    path: &'a Path,
    /// Where it really is, so that a link out of it shows.
    real: PathBuf,
}

impl<'a> Directory<'a> {
    /// The directory at `path`, which must exist.
    pub fn open(path: &'a Path) -> Result<Self> {
        let real = path.canonicalize().map_err(|e| Error::io(path, &e))?;
        if !real.is_dir() {
            return Err(Error::format(format!("{}: a bundle is a directory", path.display())));
        }
        Ok(Self { path, real })
    }

    /// The path of file `name`, as messages show it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The whole of file `name`, which may have at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, size) = self.open_file(name)?;
        if size > limit {
            let path = self.join(name);
            return Err(Error::format(format!("{}: {size} bytes; at most {limit} are allowed", path.display())));
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size as usize).map_err(|_| {
            Error::new(Kind::NoMemory, format!("{}: no room for {size} bytes", self.join(name).display()))
        })?;
        // The limit holds even for a file that grows meanwhile.
        file.take(limit).read_to_end(&mut bytes).map_err(|e| Error::io(&self.join(name), &e))?;
        Ok(bytes)
    }

    /// The whole of file `name` of at most `limit` bytes, once it is found to be what `spec` recorded.
    pub fn read_checked(&self, name: &str, spec: &FileSpec, limit: u64) -> Result<Vec<u8>> {
        let bytes = self.read(name, limit)?;
        check(spec, bytes.len() as u64, &sha256(&bytes)).map_err(|e| e.at(self.join(name).display()))?;
        Ok(bytes)
    }

    /// Checks that file `name` is what `spec` recorded, whatever it holds.
    pub fn check(&self, name: &str, spec: &FileSpec) -> Result<()> {
        let (file, size) = self.open_file(name)?;
        let path = self.join(name);
        if size != spec.size {
            return check(spec, size, "").map_err(|e| e.at(path.display()));
        }
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut input = file.take(size);
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(&path, &e)),
            }
        }
        check(spec, size, &hex(&hasher.finalize())).map_err(|e| e.at(path.display()))
    }

    /// Opens file `name` and asks its size. Refuses what is not a regular file of this directory: reading a pipe or a
    /// device could wait for ever, and a link could lead anywhere.
    fn open_file(&self, name: &str) -> Result<(File, u64)> {
        let path = self.join(name);
        let failed = |e: std::io::Error| Error::io(&path, &e);
        let real = path.canonicalize().map_err(failed)?;
        if real.parent() != Some(&self.real) {
            return Err(Error::format(format!("{}: links to {}, out of the bundle", path.display(), real.display())));
        }
        if !real.metadata().map_err(failed)?.is_file() {
            return Err(Error::format(format!("{}: not a regular file", path.display())));
        }
        let file = File::open(&real).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        Ok((file, size))
    }
}

fn check(spec: &FileSpec, size: u64, sha256: &str) -> Result<()> {
    if size != spec.size {
        let recorded = spec.size;
        return Err(Error::format(format!("{size} bytes, the manifest records {recorded}: the bundle is damaged")));
    }
    if !sha256.eq_ignore_ascii_case(&spec.sha256) {
        return Err(Error::format(format!(
            "SHA-256 is {sha256}, the manifest records {:.64}: the bundle is damaged",
            spec.sha256
        )));
    }
    Ok(())
}

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// `bytes` in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}
