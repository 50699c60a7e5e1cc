//! New references for the k-NN head of a bundle: flows of a class that it does not know yet, or more of one it does.

use super::{Sample, knn};
use crate::bundle::{self, Bundle, ClassifierSpec, Parts};
use crate::classifier::Classifier;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::head::{Head, Knn};
use crate::packet::{Packet, Rows};
use crate::train::dataset::Source;
use crate::train::record;
use crate::worker::Worker;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Flows that one thread embeds at a time.
const FLOWS_PER_TASK: usize = 256;

/// A bundle with a k-NN head that grows. The network and the temperature stay as they are.
pub struct Growing {
    bundle: Bundle,
    classifier: Classifier,
    spec: ClassifierSpec,
    head: Knn,
    added: BTreeMap<String, usize>,
}

impl Growing {
    /// Opens the bundle at `path`; `context` says who runs the network. Refuses one without a k-NN head.
    pub fn open(context: &Context, path: &Path) -> Result<Self> {
        let bundle = Bundle::open(path)?;
        let remedy = "make one with `trafficgpt finetune --freeze --head knn`";
        let (spec, head) = match (&bundle.manifest.classifier, bundle.head.as_deref()) {
            (Some(spec), Some(Head::Knn(_))) if spec.has_forest() => {
                return Err(Error::mismatch(format!(
                    "{}: trees vote beside the head, and they learn no new flows: {remedy} and without trees",
                    path.display()
                )));
            }
            (Some(spec), Some(Head::Knn(head))) => (spec.clone(), head.clone()),
            (Some(ClassifierSpec { head, .. }), _) => {
                let path = path.display();
                return Err(Error::mismatch(format!(
                    "{path}: the head is of kind {head}; only one of kind knn takes new flows: {remedy}"
                )));
            }
            _ => return Err(Error::mismatch(format!("{}: the bundle has no classifier; {remedy}", path.display()))),
        };
        Ok(Self { classifier: Classifier::open(context, path)?, bundle, spec, head, added: BTreeMap::new() })
    }

    /// Adds a reference for each of `flows`, whose labels are `labels`. New labels come after those that are there, so
    /// that a label keeps its number; returns them.
    pub fn add(&mut self, flows: &Rows<Packet>, labels: &[String]) -> Result<Vec<String>> {
        let known = self.spec.labels.len();
        let mut spec = self.spec.clone();
        let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
        for label in labels {
            let id =
                ids.get(label.as_str()).copied().or_else(|| Some(spec.labels.iter().position(|l| l == label)? as u32));
            let id = id.unwrap_or_else(|| {
                spec.labels.push(label.clone());
                spec.labels.len() as u32 - 1
            });
            ids.insert(label, id);
        }
        spec.check().map_err(|e| Error::invalid(e.message()))?;
        let n_embd = self.classifier.embedding_dim();
        let sample = Sample {
            embeddings: &embed(&self.classifier, flows)?,
            n_embd,
            labels: &labels.iter().map(|label| ids[label.as_str()]).collect::<Vec<_>>(),
            n_labels: spec.labels.len(),
        };
        knn::add(&mut self.head, sample)?;
        self.spec = spec;
        labels.iter().for_each(|label| *self.added.entry(label.clone()).or_default() += 1);
        Ok(self.spec.labels[known..].to_vec())
    }

    /// How many references there are.
    pub fn references(&self) -> usize {
        self.head.len()
    }

    /// Flows that were added, by label.
    pub fn added(&self) -> &BTreeMap<String, usize> {
        &self.added
    }

    /// Writes the bundle `output`, which may be the one that was opened. Its training record tells of `arguments` and of
    /// the `files` with how many flows came of each.
    pub fn write(self, arguments: Vec<String>, files: &[(PathBuf, usize)], output: &Path) -> Result<()> {
        let sources = files.iter().map(|(path, rows)| Source::new(path, *rows)).collect::<Result<Vec<_>>>()?;
        let stage = json!({
            "command": record::shown_arguments(arguments).join(" "),
            "stage": "head add",
            "library_version": env!("CARGO_PKG_VERSION"),
            "data": sources,
            "flows": self.added,
        });
        let mut training = self.bundle.manifest.training;
        match training.get_mut("stages") {
            Some(Value::Array(stages)) => stages.push(stage),
            // Free-form: whatever else it is becomes the first stage.
            _ => training = json!({ "stages": [training, stage] }),
        }
        let head = Head::Knn(self.head);
        let parts = Parts {
            quantizer: &self.bundle.quantizer,
            vocabulary: &self.bundle.manifest.vocabulary,
            weights: &self.bundle.weights,
            classifier: Some((self.spec, &head)),
            forest: None,
            training,
        };
        bundle::write(output, &parts)
    }
}

/// The embeddings of `flows`, row-major.
fn embed(classifier: &Classifier, flows: &Rows<Packet>) -> Result<Vec<f32>> {
    let rows: Vec<usize> = (0..flows.len()).collect();
    let embed = |worker: &mut Worker, rows: &[usize]| -> Result<Vec<f32>> {
        let part: Rows<Packet> = rows.iter().map(|&i| flows.row(i).iter().copied()).collect();
        let mut out = vec![0.0; rows.len() * classifier.embedding_dim()];
        classifier.embed(worker, part.as_ragged(), &mut out)?;
        Ok(out)
    };
    let parts: Vec<Vec<f32>> = rows.par_chunks(FLOWS_PER_TASK).map_init(Worker::new, embed).collect::<Result<_>>()?;
    Ok(parts.concat())
}
