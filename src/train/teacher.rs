//! Teachers: classifiers whose probabilities a student learns, beside the labels and where there are none (Hinton et al.,
//! "Distilling the knowledge in a neural network", 2015).
//!
//! A teacher reads packets, not tokens, so it may have another quantizer, another size and another pretraining than its
//! student. Only the labels have to be the same.

use crate::bundle::files::sha256;
use crate::classifier::Classifier;
use crate::config::Settings;
use crate::context::Context;
use crate::engine::{EngineChoice, EngineKind};
use crate::error::{Error, Result};
use crate::packet::Rows;
use crate::train::dataset::Flows;
use crate::worker::Worker;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Flows that one thread asks about at a time.
const FLOWS_PER_TASK: usize = 256;

/// A teacher, as a training record names it: by content, not by where it lay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Teacher {
    /// Name of its bundle without directories.
    pub bundle: String,
    /// SHA-256 of the bundle's manifest, which holds that of every other file; lower-case hexadecimal.
    pub sha256: String,
}

/// The teachers of a run.
#[derive(Debug, Default)]
pub struct Teachers {
    classifiers: Vec<Classifier>,
    /// Who they are.
    pub records: Vec<Teacher>,
}

impl Teachers {
    /// Opens the bundles at `paths`, all of which must tell exactly `labels` apart.
    pub fn open(paths: &[PathBuf], labels: &[String]) -> Result<Self> {
        // The engine that every build has: a run gives the same answers wherever it is gone on with.
        let context = Context::new(Settings { engine: EngineChoice::Named(EngineKind::Native), ..Settings::default() });
        let mut out = Self::default();
        for path in paths {
            let classifier = Classifier::open(&context, path).map_err(|e| e.at("teacher"))?;
            let lacks = |of: &[String], other: &[String]| {
                let names: Vec<&str> = of.iter().filter(|l| !other.contains(l)).map(String::as_str).collect();
                if names.is_empty() { "nothing".to_string() } else { names.join(", ") }
            };
            if classifier.labels().len() != labels.len() || labels.iter().any(|l| !classifier.labels().contains(l)) {
                return Err(Error::mismatch(format!(
                    "{}: this teacher has other labels than the flows: only it knows {}, only the flows have {}; \
                     a teacher must be fine-tuned on the same labels",
                    path.display(),
                    lacks(classifier.labels(), labels),
                    lacks(labels, classifier.labels())
                )));
            }
            let manifest = path.join("manifest.json");
            let bytes = std::fs::read(&manifest).map_err(|e| Error::io(&manifest, &e))?;
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            out.records.push(Teacher { bundle: name, sha256: sha256(&bytes) });
            out.classifiers.push(classifier);
        }
        Ok(out)
    }

    /// What they say of `flows`: row-major `[flows.len(), labels.len()]`, the mean of their calibrated probabilities;
    /// none without teachers.
    pub fn answers(&self, flows: &Flows, labels: &[String]) -> Result<Option<Vec<f32>>> {
        if self.classifiers.is_empty() {
            return Ok(None);
        }
        let n = labels.len();
        let rows: Vec<usize> = (0..flows.len()).collect();
        let parts: Vec<Vec<f32>> = rows
            .par_chunks(FLOWS_PER_TASK)
            .map_init(Worker::new, |worker, rows| {
                let packets: Rows<_> = rows.iter().map(|&i| flows.packets.row(i).iter().copied()).collect();
                let mut mean = vec![0.0; rows.len() * n];
                for classifier in &self.classifiers {
                    let (mut verdicts, mut scores) = (vec![0; rows.len()], vec![0.0; rows.len() * n]);
                    classifier.classify(worker, packets.as_ragged(), &mut verdicts, Some(&mut scores))?;
                    let own = classifier.labels();
                    for (label, name) in labels.iter().enumerate() {
                        let column = own.iter().position(|l| l == name).unwrap_or(label);
                        let scores = scores.chunks_exact(n).map(|row| row[column] / self.classifiers.len() as f32);
                        mean.chunks_exact_mut(n).zip(scores).for_each(|(row, score)| row[label] += score);
                    }
                }
                Ok(mean)
            })
            .collect::<Result<_>>()?;
        Ok(Some(parts.concat()))
    }

    /// Checks that they are those that a run began with.
    pub fn check(&self, began_with: &[Teacher]) -> Result<()> {
        if self.records == began_with {
            return Ok(());
        }
        let list = |teachers: &[Teacher]| {
            let one = |t: &Teacher| format!("{} (SHA-256 {:.12})", t.bundle, t.sha256);
            if teachers.is_empty() {
                "none".to_string()
            } else {
                teachers.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        };
        Err(Error::mismatch(format!(
            "the teachers are not those that the run began with: then {}; now {}",
            list(began_with),
            list(&self.records)
        )))
    }
}
