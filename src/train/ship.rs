//! A run's best checkpoint as a bundle.

use crate::bundle::{self, ClassifierSpec, Parts, Pool, manifest};
use crate::error::{Error, Result};
use crate::head::Head;
use crate::train::heads::HeadKind;
use crate::train::record;
use crate::train::rundir::RunDir;
use crate::train::session;
use crate::train::settings::{self, Finetune};
use serde_json::json;
use std::path::Path;

/// Writes the bundle `output` of the best checkpoint of the run at `path`. Returns what the user should know.
pub fn bundle(path: &Path, output: &Path) -> Result<Vec<String>> {
    let run = RunDir::record(path)?;
    let quantizer = RunDir::quantizer(path, &run)?;
    let best = RunDir::best(path, &run)?;
    let (mut notes, mut forest) = (Vec::new(), None);
    let head = match (run.head, best.model.head) {
        (HeadKind::Linear, head) => head.map(Head::Linear),
        (HeadKind::Knn, _) => Some(RunDir::head(path, &run, manifest::KNN)?),
        (HeadKind::Svm, _) => Some(RunDir::head(path, &run, manifest::SVM)?),
    };
    let classifier = match &head {
        None => None,
        Some(head) => {
            let mut config = RunDir::config(path)?;
            session::take_data(&mut config)?;
            let settings: Finetune = settings::resolve(None, config)?;
            if !best.state.finished {
                notes.push("the run has not come to its end: its probabilities are not calibrated yet".to_string());
            }
            let (labels, reject_below) = (run.labels.clone(), settings.reject_below as f32);
            let kind = match settings.trees() {
                None => head.kind().to_string(),
                Some(_) => {
                    forest = Some(RunDir::forest(path, labels.len())?);
                    format!("{}{}", head.kind(), manifest::AND_FOREST)
                }
            };
            Some((ClassifierSpec { labels, head: kind, pool: Pool::Packets, reject_below }, head))
        }
    };
    if path.canonicalize().ok() == output.canonicalize().ok() && output.exists() {
        return Err(Error::invalid(format!("{}: the bundle would replace its own run", output.display())));
    }
    let training = json!({ "stages": record::stages(path, &run)? });
    let parts = Parts {
        quantizer: &quantizer,
        vocabulary: &run.vocabulary,
        weights: &best.model.weights,
        classifier,
        forest: forest.as_ref(),
        training,
    };
    bundle::write(output, &parts)?;
    Ok(notes)
}
