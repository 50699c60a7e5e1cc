//! Context: the settings, and the models open under them.

use crate::config::Settings;
use crate::error::Result;
use crate::model::Model;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What models are opened under. Making one touches neither ONNX Runtime nor a device, so a process may still fork.
#[derive(Debug, Default)]
pub struct Context {
    settings: Settings,
    /// Models still in use, so that a classifier and a generator of one bundle share its weights.
    models: Mutex<Vec<Weak<Model>>>,
}

impl Context {
    /// A context with `settings`.
    pub fn new(settings: Settings) -> Self {
        Self { settings, models: Mutex::default() }
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The model of the bundle at `path`: checked whole, and shared if it is open already.
    pub(crate) fn model(&self, path: &Path) -> Result<Arc<Model>> {
        let bundle = crate::bundle::Bundle::open(path)?;
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.retain(|m| m.strong_count() > 0);
        if let Some(open) = models.iter().filter_map(Weak::upgrade).find(|m| *m.manifest() == bundle.manifest) {
            return Ok(open);
        }
        let model = Arc::new(Model::load(bundle, &self.settings)?);
        models.push(Arc::downgrade(&model));
        Ok(model)
    }
}
