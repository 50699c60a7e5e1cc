//! The classifiers of a table, and how another one comes in while packets flow.
//!
//! A flow's tokens mean something only to the codebook that made them. Where the new classifier has the same codebook,
//! every flow goes on with it. Where it has another, flows already begun are finished by the classifier they began with,
//! and only new ones are given to the new. At most [`MAX_MODELS`] are kept that way; a classifier for which there is no
//! place waits until the flows of the oldest have ended, and gives way to one that is swapped in after it.

use super::stats::Published;
use crate::classifier::Classifier;
use crate::error::{Error, Result};
use crate::quantizer::Quantizer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Classifiers whose flows a table can hold at once.
pub(super) const MAX_MODELS: usize = 4;

/// Tokens are kept in two bytes.
const MAX_TOKENS: usize = 1 << 16;

/// A classifier and the number that its verdicts carry.
#[derive(Clone)]
pub(super) struct Model {
    pub classifier: Classifier,
    pub epoch: u32,
}

/// That a table which keeps `kept` packets of a flow can use `classifier`.
pub(super) fn check(classifier: &Classifier, kept: usize) -> Result<()> {
    let (k, reads) = (classifier.quantizer().n_tokens(), classifier.max_packets());
    if k > MAX_TOKENS {
        return Err(Error::mismatch(format!(
            "the classifier's codebook has {k} centroids; a flow table keeps tokens in two bytes, so at most {MAX_TOKENS}"
        )));
    }
    if kept > reads {
        return Err(Error::mismatch(format!(
            "flows.counts ends with {kept}, and the classifier reads {reads} packets at most; set it lower"
        )));
    }
    Ok(())
}

/// Whether both make the same token of every packet.
fn same(a: &Quantizer, b: &Quantizer) -> bool {
    a.scaler() == b.scaler() && a.codebook().centroids() == b.codebook().centroids()
}

/// What other threads may do with a table while one pushes and polls.
#[derive(Clone)]
pub struct Control {
    pub(super) shared: Arc<Shared>,
}

/// What the table and its controls share.
pub(super) struct Shared {
    pub counts: Published,
    pub memory: usize,
    pub max_flows: usize,
    kept: usize,
    waiting: Mutex<Waiting>,
    /// Whether somebody waits: looked at without the lock.
    is_waiting: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    model: Option<Model>,
    /// Of the classifier given last.
    epoch: u32,
}

impl Shared {
    pub fn new(memory: usize, max_flows: usize, kept: usize) -> Self {
        Self {
            counts: Published::default(),
            memory,
            max_flows,
            kept,
            waiting: Mutex::default(),
            is_waiting: AtomicBool::new(false),
        }
    }
}

impl Control {
    /// Gives the table another classifier, from any thread; the next poll takes it in. Returns the epoch that its
    /// verdicts will carry.
    ///
    /// Errors: [`Kind::Mismatch`](crate::Kind::Mismatch) for one that reads fewer packets than the table's last count,
    /// or whose codebook has more than 2^16 centroids.
    pub fn swap(&self, classifier: &Classifier) -> Result<u32> {
        check(classifier, self.shared.kept)?;
        let mut waiting = self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.epoch = waiting.epoch.wrapping_add(1);
        let epoch = waiting.epoch;
        let before = waiting.model.replace(Model { classifier: classifier.clone(), epoch });
        self.shared.is_waiting.store(true, Ordering::Release);
        drop(waiting);
        // A model may be large: it is freed outside of the lock.
        drop(before);
        Ok(epoch)
    }
}

/// The classifiers in use; index = which model a slot names.
pub(super) struct Models {
    models: [Option<Model>; MAX_MODELS],
    current: usize,
}

impl Models {
    pub fn new(classifier: Classifier) -> Self {
        let mut models = [const { None }; MAX_MODELS];
        models[0] = Some(Model { classifier, epoch: 0 });
        Self { models, current: 0 }
    }

    pub fn get(&self, i: usize) -> Option<&Model> {
        self.models.get(i)?.as_ref()
    }

    pub fn current(&self) -> u8 {
        self.current as u8
    }

    /// Lets go of classifiers without flows, and takes in the one that waits if it can; whether it did.
    pub fn adopt(&mut self, shared: &Shared, flows: &[u32; MAX_MODELS]) -> bool {
        for (i, model) in self.models.iter_mut().enumerate() {
            if i != self.current && flows[i] == 0 {
                *model = None;
            }
        }
        if !shared.is_waiting.load(Ordering::Acquire) {
            return false;
        }
        // Somebody is giving one at this moment: next time.
        let Ok(mut waiting) = shared.waiting.try_lock() else { return false };
        let Some(new) = &waiting.model else { return false };
        let current = self.models[self.current].as_ref().map(|model| model.classifier.quantizer());
        let place = match current {
            Some(quantizer) if same(quantizer, new.classifier.quantizer()) => Some(self.current),
            _ => self.models.iter().position(Option::is_none),
        };
        let Some(place) = place else { return false };
        self.models[place] = waiting.model.take();
        self.current = place;
        shared.is_waiting.store(false, Ordering::Release);
        true
    }
}
