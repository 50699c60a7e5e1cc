//! The files of the original project: its codebook as JSON, and the names of its tokens.

use crate::error::{Error, Kind, Result};
use crate::quantizer::codebook::MAX_CENTROIDS;
use crate::quantizer::{Codebook, Quantizer, Scaler};
use std::collections::BTreeMap;
use std::path::Path;

/// Most bytes of a file: a hundred for each centroid there may be.
const MAX_BYTES: u64 = 100 * MAX_CENTROIDS as u64;

/// What `clusters.json` held.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The finite rows in their order, through the original's scaler.
    pub quantizer: Quantizer,
    /// Rows that were not finite: clusters that came out empty.
    pub dropped: usize,
    /// Values that f32 holds rounded only.
    pub rounded: usize,
}

/// Reads the original's `clusters.json`: a list of `[size / 1500, log10 of milliseconds]`, where an empty cluster is
/// `[NaN, NaN]`. Token ids count the finite rows.
pub fn read_clusters(path: &Path) -> Result<Imported> {
    parse_clusters(&read(path)?).map_err(|e| e.at(path.display()))
}

fn parse_clusters(text: &str) -> Result<Imported> {
    // Python writes numbers that are none as words, which JSON does not know. There is no text in the file they could be of.
    let plain = text.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
    let rows: Vec<[Option<f64>; 2]> = serde_json::from_str(&plain)
        .map_err(|e| Error::format(format!("not a list of [size, time] pairs as the original project writes: {e}")))?;
    let finite: Vec<[f64; 2]> = rows.iter().filter_map(|row| Some([row[0]?, row[1]?])).collect();
    // Parsing may leave a number off by its last bit, which f32 does not see.
    let is_rounded = |v: &&f64| (f64::from(**v as f32) - **v).abs() > 4.0 * f64::EPSILON * v.abs();
    let rounded = finite.as_flattened().iter().filter(is_rounded).count();
    let codebook = Codebook::new(finite.iter().map(|row| row.map(|v| v as f32)).collect())?;
    Ok(Imported { quantizer: Quantizer::new(Scaler::Log10Ms, codebook), dropped: rows.len() - finite.len(), rounded })
}

/// Checks that the names in the original's `ids_to_tokens.json` belong to a codebook of `k` centroids: ids without a gap
/// from `k` on, `[EOF]`, `[PAD]`, `[UNK]` and `[BOF]` first, then the classes, which are returned in the order of their
/// ids.
pub fn read_names(path: &Path, k: usize) -> Result<Vec<String>> {
    parse_names(&read(path)?, k).map_err(|e| e.at(path.display()))
}

fn parse_names(text: &str, k: usize) -> Result<Vec<String>> {
    let names: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|e| Error::format(format!("not an object of ids and names: {e}")))?;
    let mut ids = BTreeMap::new();
    for (id, name) in names {
        let id: usize = id.parse().map_err(|_| Error::format(format!("\"{id}\" is no token id")))?;
        ids.insert(id, name);
    }
    if let Some((at, (&id, name))) = ids.iter().enumerate().find(|(at, (id, _))| **id != k + at) {
        return Err(Error::mismatch(format!(
            "{name} has id {id} where {} should follow: the names are not of a codebook with {k} centroids",
            k + at
        )));
    }
    let special = ["[EOF]", "[PAD]", "[UNK]", "[BOF]"];
    if !ids.values().take(4).eq(special) {
        let found: Vec<&str> = ids.values().take(4).map(String::as_str).collect();
        return Err(Error::mismatch(format!("ids {k}.. are {found:?}; they must be {special:?}")));
    }
    Ok(ids.into_values().skip(4).collect())
}

fn read(path: &Path) -> Result<String> {
    let size = path.metadata().map_err(|e| Error::io(path, &e))?.len();
    if size > MAX_BYTES {
        return Err(Error::format(format!("{}: {size} bytes are more than {MAX_BYTES}", path.display())));
    }
    std::fs::read_to_string(path).map_err(|e| Error::new(Kind::Io, format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;

    #[test]
    fn ids_count_the_finite_rows() {
        let imported =
            parse_clusters("[[NaN, NaN], [0.5, -1.0], [Infinity, 0.0], [-0.25, 2.0], [0.1, -Infinity]]").unwrap();
        assert_eq!((imported.dropped, imported.rounded), (3, 0));
        assert_eq!(imported.quantizer.codebook().centroids(), [[0.5, -1.0], [-0.25, 2.0]]);
        let mut tokens = [9];
        imported.quantizer.encode(&[Packet { size: -400, ipt_us: 90_000.0 }], &mut tokens).unwrap();
        assert_eq!(tokens, [1]);
        assert_eq!(parse_clusters("[[0.1, 0.0]]").unwrap().rounded, 1);
        for bad in ["", "{}", "[[1.0]]", "[[\"a\", 1.0]]", "[[NaN, 1.0]]"] {
            assert!(parse_clusters(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_must_follow_the_centroids() {
        let names = r#"{"3": "[PAD]", "2": "[EOF]", "4": "[UNK]", "5": "[BOF]", "6": "Zoom", "7": "DNS"}"#;
        assert_eq!(parse_names(names, 2).unwrap(), ["Zoom", "DNS"]);
        assert!(parse_names(names, 3).unwrap_err().message().contains("[EOF]"));
        assert!(parse_names(&names.replace("\"7\"", "\"8\""), 2).unwrap_err().message().contains("DNS"));
        assert!(parse_names(r#"{"2": "Zoom"}"#, 2).is_err());
        assert!(parse_names("[1]", 2).is_err());
    }
}
