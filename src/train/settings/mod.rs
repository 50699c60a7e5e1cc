//! What a run is told to do: defaults, then a TOML file, then the command line.

mod finetune;
mod pretrain;
mod run;

pub use finetune::{ClassWeights, Finetune};
pub use pretrain::{Pretrain, preset};
pub use run::{Choose, Device, Loop};

use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// Largest configuration file that is read.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// The table of a run's `config.toml` that names its data; no setting.
pub const DATA: &str = "data";

/// Keys that a resumed run may be given anew: none of them changes what a step computes, the device but for rounding.
pub const MAY_CHANGE: [&str; 9] =
    ["epochs", "steps", "patience", "eval_every", "save_every", "log_every", "keep", "threads", "device"];

/// Keys that ranks which train together may have different values of.
pub const MAY_DIFFER: [&str; 1] = ["threads"];

fn range(name: &str, value: f64, min: f64, max: f64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {value}; it must be in {min}..={max}")))
}

/// The defaults of `T`, overridden by the keys of `file`, overridden by `flags`. A key that `T` does not have is
/// refused with the list of those that it has.
pub fn resolve<T: Default + Serialize + DeserializeOwned>(file: Option<&Path>, flags: toml::Table) -> Result<T> {
    let defaults = to_table(&T::default())?;
    let mut settings = defaults.clone();
    if let Some(path) = file {
        for (key, value) in read_table(path)?.into_iter().filter(|(key, _)| key != DATA) {
            if !defaults.contains_key(&key) {
                let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
                return Err(Error::invalid(format!(
                    "{}: no setting is called \"{key}\"; there are {}",
                    path.display(),
                    known.join(", ")
                )));
            }
            settings.insert(key, value);
        }
    }
    settings.extend(flags);
    settings.try_into().map_err(|e: toml::de::Error| {
        let place = file.map_or_else(String::new, |p| format!("{}: ", p.display()));
        Error::invalid(format!("{place}settings: {}", e.message()))
    })
}

/// `value` as a TOML table; absent options are left out.
pub fn to_table<T: Serialize>(value: &T) -> Result<toml::Table> {
    toml::Table::try_from(value).map_err(|e| Error::invalid(format!("settings: {e}")))
}

/// The table in the TOML file at `path`.
pub fn read_table(path: &Path) -> Result<toml::Table> {
    parse_table(&read_text(path)?).map_err(|e| e.at(path.display()))
}

/// The table that the TOML `text` holds.
pub fn parse_table(text: &str) -> Result<toml::Table> {
    text.parse().map_err(|e: toml::de::Error| Error::invalid(e.to_string()))
}

/// The configuration file at `path`.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let size = path.metadata().map_err(|e| Error::io(path, &e))?.len();
    if size > MAX_FILE {
        return Err(Error::invalid(format!("{}: {size} bytes are too many for a configuration", path.display())));
    }
    std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::reshape::Reshape;
    use crate::train::schedule::Schedule;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run.toml");
        std::fs::write(&file, "lr = 0.002\nlayers = 2\nschedule = \"plateau\"\n").unwrap();
        let s: Pretrain = resolve(Some(&file), table("layers = 3\nwith_classes = true")).unwrap();
        assert_eq!((s.run.lr, s.layers, s.run.schedule, s.with_classes), (0.002, 3, Schedule::Plateau, true));
        assert_eq!(s.width, Pretrain::default().width);
        s.check().unwrap();
    }

    #[test]
    fn resolved_settings_survive_their_own_file() {
        let mut settings = Finetune { crop: 0.25, class_weights: ClassWeights::Balanced, ..Finetune::default() };
        settings.run.reshape = Reshape { size_jitter: 0.1, header_shift: 0.2, packet_loss: 0.3, late_start: 0.4 };
        settings.run.choose = Choose::Last;
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(resolve::<Finetune>(None, table(&text)).unwrap(), settings);
    }

    #[test]
    fn mistakes_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run.toml");
        for (text, word) in
            [("learning_rate = 1", "learning_rate"), ("lr = \"fast\"", "run.toml"), ("lr = ", "run.toml")]
        {
            std::fs::write(&file, text).unwrap();
            let error = resolve::<Pretrain>(Some(&file), toml::Table::new()).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
        let missing = resolve::<Pretrain>(Some(&directory.path().join("none.toml")), toml::Table::new());
        assert_eq!(missing.unwrap_err().kind(), crate::Kind::Io);
        for bad in [
            "epochs = 0",
            "lr = -1.0",
            "dropout = 1.5",
            "batch_tokens = 3",
            "bof_share = nan",
            "smooth_embeddings = 1.1",
            "size_jitter = -0.1",
            "header_shift = 2.0",
            "packet_loss = nan",
            "late_start = 1.01",
            "n_packets = 0",
            "n_packets = 127",
            "accumulate = 0",
            "shuffle_mib = 0.001",
        ] {
            let settings: Pretrain = resolve(None, table(bad)).unwrap();
            let error = settings.check().unwrap_err();
            assert!(error.message().starts_with(bad.split(' ').next().unwrap()), "{error}");
        }
        for bad in [
            "teacher_weight = 1.1",
            "unlabelled_weight = -1.0",
            "labelled_repeats = 0",
            "forest_trees = 10001",
            "boost_rounds = 10001",
            "forest_trees = 1\nboost_rounds = 1",
            "temperature = -1.0",
            "knn_k = 0",
            "knn_cells = 1048577",
            "knn_probes = 9\nknn_cells = 8",
            "svm_nu = 0.0",
            "svm_nu = nan",
            "svm_gamma = -1.0",
            "svm_flows = 5000",
        ] {
            let settings: Finetune = resolve(None, table(bad)).unwrap();
            let error = settings.check().unwrap_err();
            assert!(error.message().starts_with(bad.split(' ').next().unwrap()), "{error}");
        }
        assert!(resolve::<Pretrain>(None, table("choose = \"first\"")).is_err());
        assert!(resolve::<Finetune>(None, table("head = \"forest\"")).is_err());
        let settings: Finetune = resolve(None, table("head = \"knn\"")).unwrap();
        assert!(settings.check().unwrap_err().message().contains("--freeze"));
        for change in
            ["crop", "borrow_times", "time_jitter", "size_jitter", "header_shift", "packet_loss", "late_start"]
        {
            let settings: Finetune = resolve(None, table(&format!("freeze = true\n{change} = 0.1"))).unwrap();
            assert!(settings.check().unwrap_err().message().contains(change), "{change}");
        }
    }
}
