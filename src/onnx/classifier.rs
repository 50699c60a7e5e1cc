//! `classifier.onnx`: sequences → embeddings, and labels' scores where there is a head.

use super::External;
use super::graph::{Dim, Graph, Value, int, ints};
use super::network::{LOWEST, blocks, reshape};
use super::proto;
use crate::error::Result;
use crate::gpt2::{Config, Weights};
use crate::head::Linear;

/// The model file. `weights` gives the shapes; the values stay where `external` says.
pub fn classifier(weights: &Weights, external: &External, head: Option<&Linear>) -> Result<Vec<u8>> {
    let doc = "Embeds right-padded sequences of tokens: the mean of the last hidden states where the mask is 1.";
    let mut graph = Graph::new("classifier", doc, weights, external)?;
    let (g, c) = (&mut graph, weights.config());
    let (d, batch) = (c.n_embd, Dim::Name("batch"));
    let rows_by_time = [batch, Dim::Name("seq")];
    let tokens = g.input("tokens", proto::INT64, &rows_by_time, "Token ids; any valid id where a row is padded.");
    let mask = g.input("mask", proto::FLOAT, &rows_by_time, "1 at the positions to average, else 0.");

    let x = embed_tokens(g, &tokens);
    let x = reshape(g, &x, &[-1, d as i64]);
    let by_head = by_head_shape(g, c, &tokens);
    let bias = causal_bias(g, &tokens);
    let x = blocks(g, c, x, |g, _, qkv| attention(g, d, &by_head, &bias, qkv));

    let x = {
        let sizes = g.node("Shape", &[&tokens], vec![]);
        let width = g.int64s(&[d as i64]);
        let shape = g.node("Concat", &[&sizes, &width], vec![int("axis", 0)]);
        g.node("Reshape", &[&x, &shape], vec![])
    };
    let embedding = pool(g, d, &x, &mask);
    g.output("embedding", &embedding, &[batch, Dim::Size(d)], "Mean hidden state.");
    if let Some(head) = head {
        let labels = head.bias.len();
        let weight = g.f32s(&[labels, d], &head.weight);
        let bias = g.f32s(&[labels], &head.bias);
        let temperature = g.f32(head.temperature);
        let logits = g.node("Gemm", &[&embedding, &weight, &bias], vec![int("transB", 1)]);
        let tempered = g.node("Div", &[&logits, &temperature], vec![]);
        let scores = g.node("Softmax", &[&tempered], vec![int("axis", -1)]);
        let shape = [batch, Dim::Size(labels)];
        g.output("logits", &logits, &shape, "The head's outputs, before the temperature.");
        g.output("scores", &scores, &shape, "Probability of each label.");
    }
    Ok(graph.into_model())
}

/// Token and position embeddings, `[batch, seq, n_embd]`.
fn embed_tokens(g: &mut Graph, tokens: &str) -> Value {
    let token = g.node("Gather", &["transformer.wte.weight", tokens], vec![]);
    let zero = g.int64s(&[0]);
    let seq = g.node("Shape", &[tokens], vec![int("start", 1), int("end", 2)]);
    let position = g.node("Slice", &["transformer.wpe.weight", &zero, &seq, &zero], vec![]);
    g.node("Add", &[&token, &position], vec![])
}

/// The shape `[batch, seq, n_head, head_dim]`.
fn by_head_shape(g: &mut Graph, c: &Config, tokens: &str) -> Value {
    let sizes = g.node("Shape", &[tokens], vec![]);
    let heads = g.int64s(&[c.n_head as i64, c.head_dim() as i64]);
    g.node("Concat", &[&sizes, &heads], vec![int("axis", 0)])
}

/// `[seq, seq]`, to be added to the scores: 0 where a position may look, the lowest number where it may not. Padding
/// stands to the right, so that nothing that counts looks at it.
fn causal_bias(g: &mut Graph, tokens: &str) -> Value {
    let (zero, one) = (g.int64(0), g.int64(1));
    let axis = g.int64s(&[1]);
    let seq = g.node("Shape", &[tokens], vec![int("start", 1), int("end", 2)]);
    let seq = g.node("Squeeze", &[&seq], vec![]);
    let column = g.node("Range", &[&zero, &seq, &one], vec![]);
    let row = g.node("Unsqueeze", &[&column, &axis], vec![]);
    let later = g.node("Greater", &[&column, &row], vec![]);
    let (lowest, nothing) = (g.f32(LOWEST), g.f32(0.0));
    g.node("Where", &[&later, &lowest, &nothing], vec![])
}

fn attention(g: &mut Graph, d: usize, by_head: &str, bias: &str, qkv: [Value; 3]) -> Value {
    let [q, k, v] = qkv.map(|rows| g.node("Reshape", &[&rows, by_head], vec![]));
    let q = g.node("Transpose", &[&q], vec![ints("perm", &[0, 2, 1, 3])]);
    let k = g.node("Transpose", &[&k], vec![ints("perm", &[0, 2, 3, 1])]);
    let v = g.node("Transpose", &[&v], vec![ints("perm", &[0, 2, 1, 3])]);
    let scores = g.node("MatMul", &[&q, &k], vec![]);
    let scores = g.node("Add", &[&scores, bias], vec![]);
    let weights = g.node("Softmax", &[&scores], vec![int("axis", -1)]);
    let mixed = g.node("MatMul", &[&weights, &v], vec![]);
    let mixed = g.node("Transpose", &[&mixed], vec![ints("perm", &[0, 2, 1, 3])]);
    reshape(g, &mixed, &[-1, d as i64])
}

/// The mean of `x` `[batch, seq, n_embd]` over the positions where `mask` is 1; 0 for a row that has none.
fn pool(g: &mut Graph, d: usize, x: &str, mask: &str) -> Value {
    let axis = g.int64s(&[1]);
    let tiny = g.f32(1e-9);
    let row = g.node("Unsqueeze", &[mask, &axis], vec![]);
    let sum = g.node("MatMul", &[&row, x], vec![]);
    let sum = reshape(g, &sum, &[-1, d as i64]);
    let count = g.node("ReduceSum", &[mask, &axis], vec![int("keepdims", 1)]);
    let count = g.node("Max", &[&count, &tiny], vec![]);
    g.node("Div", &[&sum, &count], vec![])
}
