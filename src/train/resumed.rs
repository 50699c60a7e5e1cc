//! What a run is gone on with: rank 0 finds it in the run directory and tells the others, who need not see that.

use crate::error::{Error, Result};
use crate::quantizer::Quantizer;
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::parallel::Group;
use crate::train::quantizer_file;
use crate::train::rundir::{MAX_RECORD, Record, RunDir};
use crate::train::session::{Data, take_data};
use crate::train::settings::{self, MAX_FILE, MAY_CHANGE};
use std::path::Path;

/// A run as it stood.
pub(super) struct Resumed {
    pub record: Record,
    pub quantizer: Quantizer,
    pub checkpoint: Option<Checkpoint>,
    config: toml::Table,
}

impl Resumed {
    /// That of the run at `path`, which rank 0 has open as `directory`.
    pub fn read(path: &Path, directory: Option<&RunDir>, group: &mut Group) -> Result<Self> {
        let mut read = |most: u64, read: &dyn Fn(&RunDir) -> Result<Vec<u8>>| -> Result<Vec<u8>> {
            let mut bytes = directory.map_or_else(|| Ok(Vec::new()), read)?;
            group.tell(&mut bytes, most as usize)?;
            Ok(bytes)
        };
        let at = |error: Error| error.at(path.display());
        let record = read(MAX_RECORD, &|_| RunDir::record_bytes(path))?;
        let record = Record::parse(&record).map_err(at)?;
        let config = read(MAX_FILE, &|_| RunDir::config_text(path).map(String::into_bytes))?;
        let config = settings::parse_table(&String::from_utf8_lossy(&config)).map_err(at)?;
        let quantizer =
            read(quantizer_file::most_bytes(), &|_| quantizer_file::read_bytes(&RunDir::quantizer_path(path)))?;
        let quantizer = record.parse_quantizer(&quantizer).map_err(|e| e.at(RunDir::quantizer_path(path).display()))?;
        let (model, n_labels) = (&record.model, record.n_labels());
        let last = |directory: &RunDir| Ok(directory.last(&record)?.map(|(_, bytes)| bytes).unwrap_or_default());
        let bytes = read(checkpoint::limit(model, n_labels)?, &last)?;
        let checkpoint = (!bytes.is_empty()).then(|| Checkpoint::parse(&bytes, model, n_labels)).transpose();
        let checkpoint = checkpoint.map_err(|e| at(e.at("the newest checkpoint")))?;
        if checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.moments.is_empty()) {
            return Err(at(Error::format("the newest checkpoint is without the optimiser's moments")));
        }
        Ok(Self { config, record, quantizer, checkpoint })
    }

    /// Its settings with what `flags` may change, and its data, wherever they lie now. `path` is that of the run.
    pub fn settings(&self, path: &Path, flags: &toml::Table, moved: &Data) -> Result<(toml::Table, Data)> {
        let mut config = self.config.clone();
        let mut data = take_data(&mut config)?;
        for (key, value) in flags {
            if config.get(key) == Some(value) {
                continue;
            }
            if !MAY_CHANGE.contains(&key.as_str()) {
                let is = config.get(key).map_or_else(String::new, |v| format!(" of {v}"));
                return Err(Error::invalid(format!(
                    "{}: a resumed run keeps its {key}{is}; only {} may change",
                    path.display(),
                    MAY_CHANGE.join(", ")
                )));
            }
            config.insert(key.clone(), value.clone());
        }
        if !moved.flows.is_empty() {
            data.flows.clone_from(&moved.flows);
        }
        if !moved.unlabelled.is_empty() {
            data.unlabelled.clone_from(&moved.unlabelled);
        }
        if !moved.teachers.is_empty() {
            data.teachers.clone_from(&moved.teachers);
        }
        Ok((config, data))
    }
}
