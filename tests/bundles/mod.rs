//! Small bundles for the tests: random weights, a few labels and classes.

use std::path::Path;
use trafficgpt::bundle::{ClassifierSpec, Parts, Pool, write};
use trafficgpt::gpt2::{Config, Weights};
use trafficgpt::head::{Head, Linear};
use trafficgpt::quantizer::{Codebook, Quantizer, Scaler};
use trafficgpt::random::Stream;
use trafficgpt::tokens::Vocabulary;

/// What a test bundle is made of.
pub struct Made {
    pub quantizer: Quantizer,
    pub vocabulary: Vocabulary,
    pub weights: Weights,
    pub head: Head,
}

/// A network of this shape over `k` centroids, with biases and layer norms that are not the trivial ones, so that a
/// part that is left out shows.
pub fn make(k: u32, n_layer: usize, n_embd: usize, n_head: usize, n_positions: usize) -> Made {
    let mut draws = Stream::new(11, 0);
    let mut uniform = |scale: f64| ((draws.uniform() - 0.5) * 2.0 * scale) as f32;
    let centroids = (0..k).map(|_| [uniform(1.0), uniform(3.0) + 3.0]).collect();
    let vocabulary = Vocabulary::new(k, ["web", "dns", "ssh"].map(String::from));
    let config = Config { n_positions, ..Config::new(vocabulary.len(), n_layer, n_embd, n_head) };
    let mut weights = Weights::init(&config, 7).unwrap();
    for value in weights.data_mut() {
        *value = *value * 3.0 + uniform(0.05);
    }
    let labels = 4;
    let head = Head::Linear(Linear {
        weight: (0..labels * n_embd).map(|_| uniform(1.0)).collect(),
        bias: (0..labels).map(|_| uniform(1.0)).collect(),
        temperature: 1.25,
    });
    let quantizer = Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap());
    Made { quantizer, vocabulary, weights, head }
}

impl Made {
    pub fn spec(&self) -> ClassifierSpec {
        ClassifierSpec {
            labels: ["chat", "dns", "ssh", "web"].map(String::from).to_vec(),
            head: "linear".to_string(),
            pool: Pool::Packets,
            reject_below: 0.0,
        }
    }

    pub fn parts(&self) -> Parts<'_> {
        Parts {
            quantizer: &self.quantizer,
            vocabulary: &self.vocabulary,
            weights: &self.weights,
            classifier: Some((self.spec(), &self.head)),
            forest: None,
            training: serde_json::json!({ "b": 1, "a": "random weights" }),
        }
    }

    pub fn write(&self, directory: &Path) {
        write(directory, &self.parts()).unwrap();
    }
}
