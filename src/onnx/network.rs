//! What both graphs share: GPT-2 around its attention, on rows `[rows, n_embd]`.

use super::graph::{Graph, Value, float, int};
use crate::gpt2::Config;

/// A number so low that its softmax weight is 0, and yet finite, which some runtimes prefer.
pub const LOWEST: f32 = f32::MIN;

/// Reshapes `value` to a constant shape, in which -1 is whatever is left over.
pub fn reshape(g: &mut Graph, value: &str, shape: &[i64]) -> Value {
    let shape = g.int64s(shape);
    g.node("Reshape", &[value, &shape], vec![])
}

/// All blocks and the final layer norm over the rows of `x`. `attention` makes the rows of the weighted values out of
/// the rows of queries (already divided by the root of the head's width), keys and values of a layer.
pub fn blocks(
    g: &mut Graph,
    config: &Config,
    mut x: Value,
    mut attention: impl FnMut(&mut Graph, usize, [Value; 3]) -> Value,
) -> Value {
    let scale = g.f32(1.0 / (config.head_dim() as f32).sqrt());
    for layer in 0..config.n_layer {
        let name = |part: &str| format!("transformer.h.{layer}.{part}");
        let h = layer_norm(g, config, &x, &name("ln_1"));
        let qkv = linear(g, &h, &name("attn.c_attn"));
        let [q, k, v] = g.split3(&qkv, 1);
        let q = g.node("Mul", &[&q, &scale], vec![]);
        let h = attention(g, layer, [q, k, v]);
        let h = linear(g, &h, &name("attn.c_proj"));
        x = g.node("Add", &[&x, &h], vec![]);

        let h = layer_norm(g, config, &x, &name("ln_2"));
        let h = linear(g, &h, &name("mlp.c_fc"));
        let h = gelu(g, &h);
        let h = linear(g, &h, &name("mlp.c_proj"));
        x = g.node("Add", &[&x, &h], vec![]);
    }
    layer_norm(g, config, &x, "transformer.ln_f")
}

fn layer_norm(g: &mut Graph, config: &Config, x: &str, name: &str) -> Value {
    let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
    g.node(
        "LayerNormalization",
        &[x, &weight, &bias],
        vec![int("axis", -1), float("epsilon", config.layer_norm_epsilon)],
    )
}

fn linear(g: &mut Graph, x: &str, name: &str) -> Value {
    g.node("Gemm", &[x, &format!("{name}.weight"), &format!("{name}.bias")], vec![])
}

/// `gelu_new`: x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))), in the form that ONNX Runtime recognises and fuses.
fn gelu(g: &mut Graph, x: &str) -> Value {
    let [three, cubic, root, one, half] =
        [3.0, 0.044715, (2.0 / std::f32::consts::PI).sqrt(), 1.0, 0.5].map(|c| g.f32(c));
    let cube = g.node("Pow", &[x, &three], vec![]);
    let cube = g.node("Mul", &[&cube, &cubic], vec![]);
    let inner = g.node("Add", &[x, &cube], vec![]);
    let inner = g.node("Mul", &[&inner, &root], vec![]);
    let tanh = g.node("Tanh", &[&inner], vec![]);
    let gate = g.node("Add", &[&tanh, &one], vec![]);
    let halved = g.node("Mul", &[x, &half], vec![]);
    g.node("Mul", &[&halved, &gate], vec![])
}
