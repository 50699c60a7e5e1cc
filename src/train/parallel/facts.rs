//! What all ranks must have in common before they train together: settings, data, vocabulary, starting point.

use crate::bundle::files::{hex, sha256};
use crate::error::{Error, Result};
use crate::tokens::Vocabulary;
use crate::train::checkpoint::Model;
use crate::train::dataset::{Dataset, Flows};
use crate::train::settings::MAY_DIFFER;
use crate::train::teacher::Teacher;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Digits of a digest that are compared and shown.
const DIGITS: usize = 16;

/// Facts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// With the fact that `name` is `value`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.0.insert(name.into(), value.to_string());
        self
    }

    /// With every one of `settings` that has a bearing on what is learnt.
    #[must_use]
    pub fn with_settings(self, settings: &toml::Table) -> Self {
        let settings = settings.iter().filter(|(name, _)| !MAY_DIFFER.contains(&name.as_str()));
        settings.fold(self, |facts, (name, value)| facts.with(format!("setting {name}"), value))
    }

    /// With what is read: files by their content, wherever they lie, and what became of them.
    #[must_use]
    pub fn with_data(self, flows: &Dataset) -> Self {
        // In their order, on which that of the flows depends.
        let sources: Vec<String> = flows.sources.iter().map(|s| format!("{} {}", s.sha256, s.rows)).collect();
        let (rows, n) = (flows.sources.iter().map(|s| s.rows).sum::<usize>(), sources.len());
        let (train, tokens) = flows.train_size();
        self.with("data", format!("{n} files, {rows} rows, digest {}", digest(sources.join("\n").as_bytes())))
            .with("training flows", format!("{train} ({tokens} tokens), digest {}", content(&flows.train)))
            .with("validation flows", format!("{}, digest {}", flows.val.len(), content(&flows.val)))
            .with("labels", format!("{}, digest {}", flows.labels.len(), digest(flows.labels.join("\n").as_bytes())))
    }

    /// With what flows are read through, and who teaches.
    pub fn with_parts(self, quantizer: &[u8], vocabulary: &Vocabulary, teachers: &[Teacher]) -> Result<Self> {
        let (k, classes) = (vocabulary.n_packet_tokens, vocabulary.classes.len());
        let of = |value: serde_json::Result<Vec<u8>>| match value {
            Ok(bytes) => Ok(digest(&bytes)),
            Err(e) => Err(Error::invalid(format!("facts: {e}"))),
        };
        let vocabulary = of(serde_json::to_vec(vocabulary))?;
        Ok(self
            // By name after the settings: with classes, it follows from them.
            .with("the quantizer", digest(quantizer))
            .with("vocabulary", format!("{k} packet tokens, {classes} classes, digest {vocabulary}"))
            .with("teachers", format!("{}, digest {}", teachers.len(), of(serde_json::to_vec(teachers))?)))
    }

    /// With the weights of `model`.
    #[must_use]
    pub fn with_model(self, model: &Model) -> Self {
        let of = |values: &[f32]| digest(bytemuck::cast_slice(values));
        let head = model.head.as_ref().map(|head| of(&[&head.weight[..], &head.bias].concat()));
        self.with("weights of the network", of(model.weights.data()))
            .with("weights of the head", head.unwrap_or_default())
    }

    /// What differs from `other`, if anything does: the first by name, quantizer and weights after what they may follow from.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let names = self.0.keys().chain(other.0.keys());
        let mut differing = names.filter(|name| self.0.get(*name) != other.0.get(*name));
        let show = |facts: &Self, name: &String| facts.0.get(name).cloned().unwrap_or_else(|| "nothing".to_string());
        differing.next().map(|name| format!("{name} is {} there and {} at rank 0", show(self, name), show(other, name)))
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::invalid(format!("facts: {e}")))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::format(format!("its facts cannot be read: {e}")))
    }
}

/// The beginning of a digest of `bytes`.
fn digest(bytes: &[u8]) -> String {
    beginning(sha256(bytes))
}

/// The same of what is learnt of `flows`: tokens, labels and ends.
fn content(flows: &Flows) -> String {
    let (tokens, mut hasher) = (flows.tokens.as_ragged(), Sha256::new());
    hasher.update(bytemuck::cast_slice(tokens.values()));
    hasher.update(bytemuck::cast_slice(tokens.offsets()));
    for (label, ended) in flows.labels.iter().zip(&flows.ended) {
        hasher.update(label.map_or(u32::MAX, |label| label).to_le_bytes());
        hasher.update([u8::from(*ended)]);
    }
    beginning(hex(&hasher.finalize()))
}

fn beginning(mut digest: String) -> String {
    digest.truncate(DIGITS);
    digest
}
