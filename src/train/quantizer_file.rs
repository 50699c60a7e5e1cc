//! `quantizer.safetensors` with what it takes to use it alone: the scaler, and how the centroids came to be.

use crate::bundle::tensors::{self, metadata};
use crate::error::{Error, Result};
use crate::quantizer::codebook::MAX_CENTROIDS;
use crate::quantizer::{Quantizer, Scaler};
use crate::train::atomic::AtomicFile;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// The one key of the file's metadata: several would stand in random order, and equal fits should give equal files.
const KEY: &str = "trafficgpt.quantizer";

/// What the metadata holds, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Meta {
    scaler: Scaler,
    #[serde(default)]
    fit: serde_json::Value,
}

/// The bytes of the file of `quantizer`; `fit` says how the centroids came to be.
pub fn to_bytes(quantizer: &Quantizer, fit: serde_json::Value) -> Result<Vec<u8>> {
    let meta = serde_json::to_string(&Meta { scaler: quantizer.scaler(), fit })
        .map_err(|e| Error::invalid(format!("metadata: {e}")))?;
    tensors::quantizer_bytes(quantizer, Some((KEY, meta)))
}

/// Writes the file of `quantizer` to `path`, whole or not at all; `fit` says how the centroids came to be.
pub fn write(path: &Path, quantizer: &Quantizer, fit: serde_json::Value) -> Result<()> {
    let bytes = to_bytes(quantizer, fit)?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(&bytes).map_err(|e| Error::io(path, &e))?;
    file.commit()
}

/// Reads the quantizer in the file at `path`.
pub fn read(path: &Path) -> Result<Quantizer> {
    parse(&read_bytes(path)?).map_err(|e| e.at(path.display()))
}

/// Most bytes that a quantizer's file can have.
pub(super) fn most_bytes() -> u64 {
    tensors::quantizer_limit(MAX_CENTROIDS)
}

/// The bytes of the file at `path`, which may not be larger than a quantizer can be.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let size = path.metadata().map_err(|e| Error::io(path, &e))?.len();
    if size > most_bytes() {
        return Err(Error::format(format!("{}: {size} bytes are too many for a quantizer", path.display())));
    }
    std::fs::read(path).map_err(|e| Error::io(path, &e))
}

/// The quantizer in the bytes of a file.
pub fn parse(bytes: &[u8]) -> Result<Quantizer> {
    tensors::read_quantizer(bytes, meta(bytes)?.scaler, None)
}

/// How the centroids in the bytes of a file came to be; null if it does not say.
pub fn fit_of(bytes: &[u8]) -> Result<serde_json::Value> {
    Ok(meta(bytes)?.fit)
}

fn meta(bytes: &[u8]) -> Result<Meta> {
    metadata(bytes, KEY)?
        .and_then(|text| serde_json::from_str(&text).ok())
        .ok_or_else(|| Error::format("its metadata names no scaler; make a quantizer with `trafficgpt quantizer fit`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::Codebook;

    #[test]
    fn a_quantizer_comes_back_with_its_scaler() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("q.safetensors");
        let codebook = Codebook::new(vec![[0.5, 1.0], [-0.25, 3.0], [1.0 / 3.0, 0.1]]).unwrap();
        let quantizer = Quantizer::new(Scaler::Log10Ms, codebook);
        write(&path, &quantizer, serde_json::json!({"seed": 7})).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.scaler(), Scaler::Log10Ms);
        assert_eq!(back.codebook().centroids(), quantizer.codebook().centroids());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert!(read(&path).unwrap_err().message().contains("q.safetensors"));
        std::fs::write(&path, b"not one").unwrap();
        assert!(read(&path).is_err());
    }
}
