//! Heads: embedding → scores, and what votes beside them.

pub mod forest;
pub mod knn;
pub mod linear;
pub mod standard;
pub mod svm;

pub use forest::Forest;
pub use knn::Knn;
pub use linear::Linear;
pub use standard::Standard;
pub use svm::Svm;

use crate::error::Result;

/// Most values of a head's references or support vectors: 1 GiB.
pub const MAX_VALUES: usize = 1 << 28;

/// What makes probabilities of an embedding.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// One affine map.
    Linear(Linear),
    /// The labels of the references that are nearest.
    Knn(Knn),
    /// A support vector machine for each pair of labels.
    Svm(Svm),
}

/// What a head computes in between; grows to the largest batch and is kept.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Embeddings as the head sees them.
    points: Vec<f32>,
    /// Their products with rows of the head.
    products: Vec<f32>,
    /// Squared lengths of the head's rows.
    squares: Vec<f32>,
    /// References near each embedding.
    nearest: Vec<knn::Nearest>,
    /// Cells near one of them.
    probed: knn::Nearest,
}

impl Head {
    /// Its kind, as a manifest names it; a forest that votes beside it is not part of it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Linear(_) => crate::bundle::manifest::LINEAR,
            Self::Knn(_) => crate::bundle::manifest::KNN,
            Self::Svm(_) => crate::bundle::manifest::SVM,
        }
    }

    /// Checks shapes and values for `n_labels` labels over embeddings of `n_embd`.
    pub fn check(&self, n_labels: usize, n_embd: usize) -> Result<()> {
        match self {
            Self::Linear(head) => head.check(n_labels, n_embd),
            Self::Knn(head) => head.check(n_labels, n_embd),
            Self::Svm(head) => head.check(n_labels, n_embd),
        }
    }

    /// The probability of each label, written to `scores` `[n, n_labels]`, for `embeddings` `[n, n_embd]`; both row-major,
    /// of the shapes that [`Self::check`] found to fit.
    pub fn scores(&self, embeddings: &[f32], n_embd: usize, scratch: &mut Scratch, scores: &mut [f32]) {
        let n = embeddings.len() / n_embd;
        if n == 0 {
            return;
        }
        let n_labels = scores.len() / n;
        match self {
            Self::Linear(head) => {
                let rows = embeddings.chunks_exact(n_embd).zip(scores.chunks_exact_mut(n_labels));
                rows.for_each(|(embedding, scores)| head.scores(embedding, scores));
            }
            Self::Knn(head) => head.scores(embeddings, scratch, scores),
            Self::Svm(head) => head.scores(embeddings, scratch, scores),
        }
    }

    /// What divides the logits.
    pub fn temperature(&self) -> f32 {
        match self {
            Self::Linear(Linear { temperature, .. })
            | Self::Knn(Knn { temperature, .. })
            | Self::Svm(Svm { temperature, .. }) => *temperature,
        }
    }

    /// Divides the logits by `temperature` from now on.
    pub fn set_temperature(&mut self, temperature: f32) {
        match self {
            Self::Linear(head) => head.temperature = temperature,
            Self::Knn(head) => head.temperature = temperature,
            Self::Svm(head) => head.temperature = temperature,
        }
    }
}
