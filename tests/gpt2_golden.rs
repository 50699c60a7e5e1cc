//! The network against PyTorch and transformers on the same weights (vectors by `dev/golden_gpt2.py`).
//!
//! The relative error of a tensor is its largest absolute error over its largest absolute value.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use safetensors::SafeTensors;
use trafficgpt::gpt2::{Config, NO_TARGET, Tape, Weights, backward, forward, lm_loss, lm_nll};
use trafficgpt::packet::Rows;
use trafficgpt::tokens::Token;

struct Golden {
    bytes: Vec<u8>,
    json: serde_json::Value,
    config: Config,
    sequences: Rows<Token>,
    targets: Vec<Token>,
}

impl Golden {
    /// The committed vectors, or those of the file that `GPT2_GOLDEN` names.
    fn read() -> Self {
        let path = std::env::var("GPT2_GOLDEN").unwrap_or_else(|_| "tests/golden/gpt2.safetensors".into());
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let json: serde_json::Value = serde_json::from_str(&header.metadata().as_ref().unwrap()["json"]).unwrap();
        let config = serde_json::from_value(json["config"].clone()).unwrap();
        let mut golden = Self { bytes, json, config, sequences: Rows::new(), targets: Vec::new() };
        let tokens = golden.integers("tokens");
        let mut begin = 0;
        for n in golden.integers("lengths") {
            golden.sequences.push(tokens[begin..begin + n as usize].iter().map(|&t| t as Token));
            begin += n as usize;
        }
        golden.targets = golden.integers("targets").iter().map(|&t| Token::try_from(t).unwrap_or(NO_TARGET)).collect();
        golden
    }

    fn raw(&self, name: &str) -> Vec<[u8; 4]> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec()
    }

    fn integers(&self, name: &str) -> Vec<i32> {
        self.raw(name).into_iter().map(i32::from_le_bytes).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.raw(name).into_iter().map(f32::from_le_bytes).collect()
    }

    /// A whole network of the tensors `prefix.*`.
    fn network(&self, prefix: &str) -> Weights {
        let mut weights = Weights::zeros(&self.config).unwrap();
        for t in weights.tensors() {
            weights.data_mut()[t.range].copy_from_slice(&self.floats(&format!("{prefix}.{}", t.name)));
        }
        weights
    }

    /// Compares every tensor with those of `prefix`.
    fn check(&self, prefix: &str, got: &Weights, most: f64) {
        let want = self.network(prefix);
        for t in got.tensors() {
            // The key part of c_attn.bias cancels in the softmax: its gradient is zero but for rounding, so it is
            // measured with the rest of the tensor, as everything else.
            check(&format!("{prefix} {}", t.name), &got.data()[t.range.clone()], &want.data()[t.range], most);
        }
    }
}

fn check(what: &str, got: &[f32], want: &[f32], most: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let error = got.iter().zip(want).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let size = want.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
    println!("{what}: {:.1e}", error / size); // seen with --nocapture
    assert!(got.iter().all(|x| x.is_finite()), "{what}");
    assert!(error <= most * size, "{what}: error {error:e}, largest {size:e}, relative {:e}", error / size);
}

#[test]
fn hidden_states_logits_and_losses_are_pytorchs() {
    let g = Golden::read();
    let weights = g.network("weight");
    let mut tape = Tape::new();
    let hidden = forward(&weights, g.sequences.as_ragged(), None, &mut tape).unwrap().to_vec();
    check("hidden", &hidden, &g.floats("hidden"), 1e-5);

    let (d, wte) = (g.config.n_embd, &weights.data()[weights.wte()]);
    let logits: Vec<f32> =
        hidden.chunks(d).flat_map(|h| wte.chunks(d).map(move |w| w.iter().zip(h).map(|(w, h)| w * h).sum())).collect();
    check("logits", &logits, &g.floats("logits"), 1e-5);

    let mut nll = vec![f32::NAN; g.targets.len()];
    lm_nll(&weights, &mut tape, &g.targets, &mut nll).unwrap();
    check("nll", &nll, &g.floats("nll"), 1e-5);
    for (nll, target) in nll.iter().zip(&g.targets) {
        assert_eq!(*nll == 0.0, *target == NO_TARGET);
    }
}

#[test]
fn every_gradient_of_the_lm_loss_is_pytorchs() {
    let g = Golden::read();
    let weights = g.network("weight");
    let mut tape = Tape::new();
    let mut grads = Weights::zeros(&g.config).unwrap();
    for _ in 0..2 {
        grads.data_mut().fill(0.0);
        forward(&weights, g.sequences.as_ragged(), None, &mut tape).unwrap();
        let scale = g.json["scale"].as_f64().unwrap() as f32;
        let sum = lm_loss(&weights, &mut tape, &g.targets, scale, &mut grads).unwrap();
        let want: f64 = g.floats("nll").iter().map(|&x| f64::from(x)).sum();
        assert!((sum - want).abs() < 1e-5 * want, "{sum} {want}");
        backward(&weights, &mut tape, &mut grads).unwrap();
        g.check("lm", &grads, 1e-5); // and the second time, on a used tape, the same
    }
    backward(&weights, &mut tape, &mut grads).unwrap();
    assert_ne!(grads.data(), g.network("lm").data(), "gradients accumulate");
}

#[test]
fn every_gradient_through_a_pooled_head_is_pytorchs() {
    let g = Golden::read();
    let weights = g.network("weight");
    let (d, head) = (g.config.n_embd, g.floats("head"));
    let mut tape = Tape::new();
    let hidden = forward(&weights, g.sequences.as_ragged(), None, &mut tape).unwrap().to_vec();
    let sequences = g.sequences.as_ragged();
    let n = sequences.len() as f32;
    for i in 0..sequences.len() {
        let rows = sequences.offsets()[i] as usize * d..sequences.offsets()[i + 1] as usize * d;
        let length = sequences.row(i).len() as f32;
        let pooled: Vec<f32> =
            (0..d).map(|c| hidden[rows.clone()].iter().skip(c).step_by(d).sum::<f32>() / length).collect();
        let mut p: Vec<f32> =
            head.chunks(d).map(|w| w.iter().zip(&pooled).map(|(w, x)| w * x).sum::<f32>().exp()).collect();
        let sum: f32 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
        p[i % 3] -= 1.0;
        for row in tape.d_hidden_mut()[rows].chunks_mut(d) {
            for (c, out) in row.iter_mut().enumerate() {
                *out += (0..3).map(|l| p[l] * head[l * d + c]).sum::<f32>() / (n * length);
            }
        }
    }
    let mut grads = Weights::zeros(&g.config).unwrap();
    backward(&weights, &mut tape, &mut grads).unwrap();
    g.check("pool", &grads, 1e-5);
}

#[cfg(feature = "train")]
#[test]
fn three_clipped_steps_of_adamw_are_pytorchs() {
    use trafficgpt::train::optimizer::{AdamW, Options, clip_factor, global_norm};

    let g = Golden::read();
    let settings = &g.json["adamw"];
    let number = |v: &serde_json::Value| v.as_f64().unwrap() as f32;
    let options = Options {
        beta1: number(&settings["betas"][0]),
        beta2: number(&settings["betas"][1]),
        epsilon: number(&settings["eps"]),
        weight_decay: number(&settings["weight_decay"]),
    };
    let mut weights = g.network("weight");
    let (lm, pool) = (g.network("lm"), g.network("pool"));
    let mut adam = AdamW::for_weights(&weights, options).unwrap();
    for step in 0..3 {
        let factor = [1.0, -0.5, 2.0][step];
        let mut grads: Vec<f32> =
            lm.data().iter().zip(pool.data()).map(|(l, p)| l * factor + 0.01 * step as f32 * p).collect();
        let norm = global_norm(&[&grads]);
        let want = g.json["norms"][step].as_f64().unwrap();
        assert!((norm - want).abs() < 1e-6 * want, "{norm} {want}");
        let clip = clip_factor(norm, Some(number(&settings["clip"]))).unwrap();
        adam.step(weights.data_mut(), &mut grads, clip, number(&settings["lr"][step])).unwrap();
        assert!(grads.iter().all(|&g| g == 0.0));
    }
    g.check("stepped", &weights, 1e-5);
}
