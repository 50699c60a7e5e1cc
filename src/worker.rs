//! Worker: one thread's sessions and scratch, for any model.

use crate::engine::Session;
use crate::error::Result;
use crate::head;
use crate::model::Model;
use crate::packet::Rows;
use crate::tokens::Token;
use std::fmt;
use std::sync::{Arc, Weak};

/// Belongs to one thread at a time. Memory grows to the largest batch seen and is kept.
#[derive(Default)]
pub struct Worker {
    sessions: Vec<(Weak<Model>, Box<dyn Session>)>,
    pub(crate) scratch: Scratch,
}

/// Buffers that classification and generation reuse from call to call.
#[derive(Default)]
pub(crate) struct Scratch {
    pub tokens: Vec<Token>,
    pub sequences: Rows<Token>,
    pub embeddings: Vec<f32>,
    pub scores: Vec<f32>,
    pub head: head::Scratch,
    pub votes: Vec<f32>,
    pub logits: Vec<f32>,
}

impl Worker {
    /// A worker that has done nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// This worker's session on `model`, made at the first call, and the scratch beside it. Sessions of models that
    /// are no longer open are dropped.
    pub(crate) fn session(&mut self, model: &Arc<Model>) -> Result<(&mut dyn Session, &mut Scratch)> {
        // The Weak keeps the address from being used again, so equal addresses mean the same model.
        let known = self.sessions.iter().position(|(m, _)| std::ptr::eq(m.as_ptr(), Arc::as_ptr(model)));
        let i = match known {
            Some(i) => i,
            None => {
                self.sessions.retain(|(m, _)| m.strong_count() > 0);
                self.sessions.push((Arc::downgrade(model), model.engine().clone().session()?));
                self.sessions.len() - 1
            }
        };
        Ok((self.sessions[i].1.as_mut(), &mut self.scratch))
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("sessions", &self.sessions.len()).finish()
    }
}
