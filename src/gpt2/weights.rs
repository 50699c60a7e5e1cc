//! All weights of a network in one buffer, under their Hugging Face names.
//!
//! One buffer makes the optimiser, the gradients, the checkpoints and a device copy each a single loop. Matrices are
//! row-major and stand as in Hugging Face's `Conv1D`: `[inputs, outputs]`, so a layer is `y = x W + b`.

use super::Config;
use crate::error::{Error, Result};
use crate::random::Stream;
use std::ops::Range;

/// The tensors of a block, in the order they lie in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Block {
    /// `ln_1.weight` `[d]`
    Ln1Weight,
    /// `ln_1.bias` `[d]`
    Ln1Bias,
    /// `attn.c_attn.weight` `[d, 3d]`: queries, keys, values side by side
    QkvWeight,
    /// `attn.c_attn.bias` `[3d]`
    QkvBias,
    /// `attn.c_proj.weight` `[d, d]`
    AttnProjWeight,
    /// `attn.c_proj.bias` `[d]`
    AttnProjBias,
    /// `ln_2.weight` `[d]`
    Ln2Weight,
    /// `ln_2.bias` `[d]`
    Ln2Bias,
    /// `mlp.c_fc.weight` `[d, 4d]`
    FcWeight,
    /// `mlp.c_fc.bias` `[4d]`
    FcBias,
    /// `mlp.c_proj.weight` `[4d, d]`
    ProjWeight,
    /// `mlp.c_proj.bias` `[d]`
    ProjBias,
}

const BLOCK: [Block; 12] = [
    Block::Ln1Weight,
    Block::Ln1Bias,
    Block::QkvWeight,
    Block::QkvBias,
    Block::AttnProjWeight,
    Block::AttnProjBias,
    Block::Ln2Weight,
    Block::Ln2Bias,
    Block::FcWeight,
    Block::FcBias,
    Block::ProjWeight,
    Block::ProjBias,
];

impl Block {
    fn name(self) -> &'static str {
        match self {
            Block::Ln1Weight => "ln_1.weight",
            Block::Ln1Bias => "ln_1.bias",
            Block::QkvWeight => "attn.c_attn.weight",
            Block::QkvBias => "attn.c_attn.bias",
            Block::AttnProjWeight => "attn.c_proj.weight",
            Block::AttnProjBias => "attn.c_proj.bias",
            Block::Ln2Weight => "ln_2.weight",
            Block::Ln2Bias => "ln_2.bias",
            Block::FcWeight => "mlp.c_fc.weight",
            Block::FcBias => "mlp.c_fc.bias",
            Block::ProjWeight => "mlp.c_proj.weight",
            Block::ProjBias => "mlp.c_proj.bias",
        }
    }

    /// `[rows, columns]` of a matrix, `[1, n]` of a vector.
    fn shape(self, d: usize) -> [usize; 2] {
        match self {
            Block::QkvWeight => [d, 3 * d],
            Block::QkvBias => [1, 3 * d],
            Block::AttnProjWeight => [d, d],
            Block::FcWeight => [d, 4 * d],
            Block::FcBias => [1, 4 * d],
            Block::ProjWeight => [4 * d, d],
            _ => [1, d],
        }
    }

    fn is_matrix(self) -> bool {
        matches!(self, Block::QkvWeight | Block::AttnProjWeight | Block::FcWeight | Block::ProjWeight)
    }
}

/// One tensor of the buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its Hugging Face name, with the `transformer.` prefix of `GPT2LMHeadModel`.
    pub name: String,
    /// Its shape, row-major.
    pub shape: Vec<usize>,
    /// Where it lies in the buffer.
    pub range: Range<usize>,
}

impl Tensor {
    /// Whether AdamW decays it: matrices, but neither biases nor layer norms.
    pub fn decays(&self) -> bool {
        self.shape.len() == 2
    }
}

/// The weights (or gradients, or moments: anything of the same shape) of one network.
#[derive(Clone, Debug)]
pub struct Weights {
    config: Config,
    data: Vec<f32>,
}

impl Weights {
    /// All zeros. The configuration is checked, so the size is bounded.
    pub fn zeros(config: &Config) -> Result<Self> {
        config.check()?;
        Ok(Self { config: config.clone(), data: vec![0.0; config.n_parameters()] })
    }

    /// GPT-2's initialisation: normal(0, 0.02), projections back into the residual stream scaled by 1/sqrt(2 layers),
    /// biases 0, layer norms 1.
    pub fn init(config: &Config, seed: u64) -> Result<Self> {
        let mut weights = Self::zeros(config)?;
        let residual = 0.02 / (2.0 * config.n_layer as f64).sqrt();
        for (i, tensor) in weights.tensors().into_iter().enumerate() {
            let out = &mut weights.data[tensor.range.clone()];
            if !tensor.decays() {
                out.fill(if tensor.name.contains("ln_") && tensor.name.ends_with("weight") { 1.0 } else { 0.0 });
                continue;
            }
            let std = if tensor.name.ends_with("c_proj.weight") { residual } else { 0.02 };
            let mut draws = Stream::new(seed, i as u64);
            for pair in out.chunks_mut(2) {
                // Box-Muller
                let radius = std * (-2.0 * (1.0 - draws.uniform()).ln()).sqrt();
                let (sin, cos) = (std::f64::consts::TAU * draws.uniform()).sin_cos();
                pair[0] = (radius * cos) as f32;
                if let Some(second) = pair.get_mut(1) {
                    *second = (radius * sin) as f32;
                }
            }
        }
        Ok(weights)
    }

    /// Wraps a buffer of exactly [`Config::n_parameters`] values, all of them finite.
    pub fn from_vec(config: &Config, data: Vec<f32>) -> Result<Self> {
        config.check()?;
        if data.len() != config.n_parameters() {
            let (has, needs) = (data.len(), config.n_parameters());
            return Err(Error::mismatch(format!("the model config needs {needs} weights, {has} are given")));
        }
        let weights = Self { config: config.clone(), data };
        if let Some(i) = weights.data.iter().position(|w| !w.is_finite()) {
            let name =
                weights.tensors().into_iter().find(|t| t.range.contains(&i)).map_or_else(String::new, |t| t.name);
            return Err(Error::format(format!("weight {name} holds a value that is not finite")));
        }
        Ok(weights)
    }

    /// The shape of the network.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The whole buffer.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The whole buffer, to write.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Every tensor in buffer order: `wte`, `wpe`, the blocks, `ln_f`.
    pub fn tensors(&self) -> Vec<Tensor> {
        Self::layout(&self.config)
    }

    /// The same of any network of shape `c`, before there is room for it.
    pub fn layout(c: &Config) -> Vec<Tensor> {
        let mut out = Vec::with_capacity(4 + BLOCK.len() * c.n_layer);
        let mut begin = 0;
        let mut push = |name: String, shape: Vec<usize>| {
            let end = begin + shape.iter().product::<usize>();
            out.push(Tensor { name, shape, range: begin..end });
            begin = end;
        };
        push("transformer.wte.weight".into(), vec![c.vocab_size, c.n_embd]);
        push("transformer.wpe.weight".into(), vec![c.n_positions, c.n_embd]);
        for layer in 0..c.n_layer {
            for part in BLOCK {
                let [rows, columns] = part.shape(c.n_embd);
                let shape = if part.is_matrix() { vec![rows, columns] } else { vec![columns] };
                push(format!("transformer.h.{layer}.{}", part.name()), shape);
            }
        }
        push("transformer.ln_f.weight".into(), vec![c.n_embd]);
        push("transformer.ln_f.bias".into(), vec![c.n_embd]);
        out
    }

    /// Where the token embedding `[vocab_size, d]` lies; also the output head.
    pub fn wte(&self) -> Range<usize> {
        0..self.config.vocab_size * self.config.n_embd
    }

    /// Where the position embedding `[n_positions, d]` lies.
    pub fn wpe(&self) -> Range<usize> {
        let begin = self.wte().end;
        begin..begin + self.config.n_positions * self.config.n_embd
    }

    /// Where one tensor of block `layer` lies.
    pub fn block(&self, layer: usize, part: Block) -> Range<usize> {
        let d = self.config.n_embd;
        let size = |b: &Block| b.shape(d).iter().product::<usize>();
        let begin =
            self.wpe().end + layer * (12 * d * d + 13 * d) + BLOCK[..part as usize].iter().map(size).sum::<usize>();
        begin..begin + size(&part)
    }

    /// Where the final layer norm's weight and bias lie.
    pub fn ln_f(&self) -> (Range<usize>, Range<usize>) {
        let d = self.config.n_embd;
        let begin = self.data.len() - 2 * d;
        (begin..begin + d, begin + d..begin + 2 * d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_tile_the_buffer_and_agree_with_the_shortcuts() {
        let w = Weights::init(&Config::new(11, 3, 8, 2), 1).unwrap();
        let tensors = w.tensors();
        let mut end = 0;
        for t in &tensors {
            assert_eq!(t.range.start, end, "{}", t.name);
            end = t.range.end;
        }
        assert_eq!(end, w.data().len());
        let find = |name: &str| tensors.iter().find(|t| t.name == name).unwrap().range.clone();
        assert_eq!(find("transformer.wpe.weight"), w.wpe());
        assert_eq!(find("transformer.h.2.mlp.c_fc.weight"), w.block(2, Block::FcWeight));
        assert_eq!(find("transformer.h.0.attn.c_attn.bias"), w.block(0, Block::QkvBias));
        assert_eq!((find("transformer.ln_f.weight"), find("transformer.ln_f.bias")), w.ln_f());
    }

    #[test]
    fn initial_weights_have_the_stated_spread() {
        let w = Weights::init(&Config::new(2000, 2, 64, 4), 5).unwrap();
        let wte = &w.data()[w.wte()];
        let std = (wte.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / wte.len() as f64).sqrt();
        assert!((std - 0.02).abs() < 2e-4, "{std}");
        assert!(w.data()[w.block(1, Block::Ln2Weight)].iter().all(|&x| x == 1.0));
        assert!(w.data()[w.block(1, Block::FcBias)].iter().all(|&x| x == 0.0));
    }

    #[test]
    fn weights_that_are_not_finite_are_refused_by_name() {
        let config = Config::new(3, 1, 4, 1);
        let mut data = vec![0.0; config.n_parameters()];
        data[1] = f32::NAN;
        let error = Weights::from_vec(&config, data).unwrap_err();
        assert!(error.message().contains("wte"), "{error}");
    }
}
