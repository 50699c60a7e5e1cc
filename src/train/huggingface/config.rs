//! `config.json` of a checkpoint: the shape of its network, and whether ours computes the same.

use super::files::read_small;
use crate::bundle::files::sha256;
use crate::error::{Error, Result};
use crate::gpt2::{Config, Weights};
use serde::Deserialize;
use std::path::Path;

const NAME: &str = "config.json";

/// Names of our activation: the tanh approximation of GELU.
const ACTIVATIONS: [&str; 3] = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast"];

/// Most bytes of causal masks that a file may hold beside the weights.
const MAX_MASKS: u64 = 1 << 30;

/// The fields of `config.json` that decide what `transformers` computes; defaults are those of its `GPT2Config`.
#[derive(Deserialize)]
struct Stated {
    model_type: Option<String>,
    vocab_size: usize,
    n_positions: usize,
    n_ctx: Option<usize>,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_inner: Option<usize>,
    layer_norm_epsilon: Option<f32>,
    activation_function: Option<String>,
    tie_word_embeddings: Option<bool>,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    add_cross_attention: Option<bool>,
}

/// The shape of a checkpoint's network.
pub(super) struct Shape {
    /// The shape of ours.
    pub config: Config,
    /// Width of the feed-forward layer in the file; at most [`Config::n_inner`].
    pub n_inner: usize,
    /// Whether the output head is the token embedding.
    pub tied: bool,
}

/// Reads `config.json` in `directory`; also gives the file's name and SHA-256.
pub(super) fn read(directory: &Path) -> Result<(Shape, (String, String))> {
    let path = directory.join(NAME);
    let bytes = read_small(&path)?;
    let shape = parse(&bytes).map_err(|e| e.at(path.display()))?;
    Ok((shape, (NAME.to_string(), sha256(&bytes))))
}

fn parse(json: &[u8]) -> Result<Shape> {
    let stated: Stated = serde_json::from_slice(json)
        .map_err(|e| Error::format(format!("not the configuration of a GPT-2 of transformers: {e}")))?;
    let refuse = |what: String| Err(Error::mismatch(what));
    if let Some(kind) = stated.model_type.filter(|kind| kind != "gpt2") {
        return refuse(format!("model_type is \"{kind}\"; it must be \"gpt2\""));
    }
    if let Some(n_ctx) = stated.n_ctx.filter(|n| *n != stated.n_positions) {
        let n = stated.n_positions;
        return refuse(format!("n_ctx is {n_ctx}, n_positions {n}: they must be the same, the longest sequence"));
    }
    if let Some(name) = stated.activation_function.filter(|name| !ACTIVATIONS.contains(&name.as_str())) {
        return refuse(format!("activation_function is \"{name}\"; the network has \"gelu_new\""));
    }
    for (name, value, needed) in [
        ("scale_attn_weights", stated.scale_attn_weights, true),
        ("scale_attn_by_inverse_layer_idx", stated.scale_attn_by_inverse_layer_idx, false),
        ("add_cross_attention", stated.add_cross_attention, false),
    ] {
        if value.is_some_and(|value| value != needed) {
            return refuse(format!("{name} is {}; the network computes as if it were {needed}", !needed));
        }
    }
    let config = Config {
        vocab_size: stated.vocab_size,
        n_positions: stated.n_positions,
        n_embd: stated.n_embd,
        n_layer: stated.n_layer,
        n_head: stated.n_head,
        layer_norm_epsilon: stated.layer_norm_epsilon.unwrap_or(1e-5),
    };
    config.check()?;
    let n_inner = stated.n_inner.unwrap_or(config.n_inner());
    if !(1..=config.n_inner()).contains(&n_inner) {
        return refuse(format!("n_inner is {n_inner}; it must be in 1..={}, four times n_embd", config.n_inner()));
    }
    Ok(Shape { config, n_inner, tied: stated.tie_word_embeddings.unwrap_or(true) })
}

impl Shape {
    /// Every tensor of the network, in the order of [`Weights::tensors`], with the shape that it has in the file.
    pub fn parts(&self) -> Vec<(String, Vec<usize>)> {
        let n = self.n_inner;
        let of_file = |name: &str, shape: Vec<usize>| match name.rsplit_once(".mlp.").map(|(_, part)| part) {
            Some("c_fc.weight") => vec![shape[0], n],
            Some("c_fc.bias") => vec![n],
            Some("c_proj.weight") => vec![n, shape[1]],
            _ => shape,
        };
        Weights::layout(&self.config).into_iter().map(|t| (t.name.clone(), of_file(&t.name, t.shape))).collect()
    }

    /// Most bytes that its files may have: the weights in f32, the embedding once more, and the causal masks.
    pub fn most_bytes(&self) -> u64 {
        let c = &self.config;
        let masks = (c.n_layer * c.n_positions * c.n_positions * 4) as u64;
        4 * (c.n_parameters() + c.vocab_size * c.n_embd) as u64 + masks.min(MAX_MASKS) + (64 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"model_type": "gpt2", "vocab_size": 20, "n_positions": 16, "n_ctx": 16, "n_embd": 8,
        "n_layer": 2, "n_head": 2, "n_inner": null, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05}"#;

    #[test]
    fn what_our_network_does_not_compute_is_refused_by_name() {
        let good = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((good.n_inner, good.tied, good.config.n_positions), (32, true, 16));
        assert_eq!(parse(GOOD.replace("null", "13").as_bytes()).unwrap().n_inner, 13);
        for (from, to, word) in [
            ("\"gpt2\"", "\"bert\"", "bert"),
            ("\"n_ctx\": 16", "\"n_ctx\": 64", "n_ctx is 64"),
            ("gelu_new", "relu", "relu"),
            ("null", "33", "n_inner is 33"),
            ("null", "0", "n_inner is 0"),
            ("\"n_head\": 2", "\"n_head\": 3", "n_head 3"),
            ("\"n_layer\": 2", "\"n_layer\": 999999999999", "n_layer"),
            ("\"vocab_size\": 20,", "", "vocab_size"),
            ("\"n_embd\": 8", "\"n_embd\": -8", "-8"),
            ("1e-05", "0", "layer_norm_epsilon"),
            ("null", "null, \"scale_attn_weights\": false", "scale_attn_weights is false"),
            ("null", "null, \"scale_attn_by_inverse_layer_idx\": true", "inverse_layer_idx is true"),
            ("null", "null, \"add_cross_attention\": true", "add_cross_attention"),
            ("{", "[", "GPT-2"),
        ] {
            let error = parse(GOOD.replacen(from, to, 1).as_bytes()).err().unwrap();
            assert!(error.message().contains(word), "{word}: {error}");
        }
    }
}
