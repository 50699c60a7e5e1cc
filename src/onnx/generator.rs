//! `generator.onnx`: one step of a decode.
//!
//! The cache is the caller's. The graph reads keys and values of the past and gives those of the new position alone:
//! returning past and present joined, as is common, would copy the whole cache at every step.

use super::External;
use super::graph::{Dim, Graph, Value, int, ints};
use super::network::{LOWEST, blocks, reshape};
use super::proto;
use crate::error::Result;
use crate::gpt2::Weights;

/// The model file. `weights` gives the shapes; the values stay where `external` says.
pub fn generator(weights: &Weights, external: &External) -> Result<Vec<u8>> {
    let doc = "One decode step of several flows. Append the outputs key.N and value.N to the cache, which comes back as \
               past_key.N and past_value.N in the next step.";
    let mut graph = Graph::new("generator", doc, weights, external)?;
    let (g, c) = (&mut graph, weights.config());
    let (d, heads, width) = (c.n_embd as i64, c.n_head as i64, c.head_dim() as i64);
    let (batch, past) = (Dim::Name("batch"), Dim::Name("past"));
    let one = Dim::Size(1);
    let token = g.input("token", proto::INT64, &[batch, one], "The flow's newest token.");
    let position = g.input("position", proto::INT64, &[batch, one], "Its position: the number of tokens before it.");
    let mask = g.input(
        "mask",
        proto::FLOAT,
        &[batch, one, one, past],
        "1 where the past holds a token of the flow, else 0; what the cache holds there must be finite.",
    );

    let token = g.node("Gather", &["transformer.wte.weight", &token], vec![]);
    let position = g.node("Gather", &["transformer.wpe.weight", &position], vec![]);
    let x = g.node("Add", &[&token, &position], vec![]);
    let x = reshape(g, &x, &[-1, d]);
    let bias = {
        let (whole, lowest) = (g.f32(1.0), g.f32(LOWEST));
        let absent = g.node("Sub", &[&whole, &mask], vec![]);
        g.node("Mul", &[&absent, &lowest], vec![])
    };
    let x = blocks(g, c, x, |g, layer, qkv| {
        let [q, k, v] = qkv.map(|rows| reshape(g, &rows, &[-1, heads, 1, width]));
        let (head, dim) = (Dim::Size(c.n_head), Dim::Size(c.head_dim()));
        let mut cached = |what: &str| {
            let name = format!("past_{what}.{layer}");
            g.input(&name, proto::FLOAT, &[batch, head, past, dim], "The cache of a layer.")
        };
        let (past_k, past_v) = (cached("key"), cached("value"));
        g.output(&format!("key.{layer}"), &k, &[batch, head, one, dim], "To append to the cache.");
        g.output(&format!("value.{layer}"), &v, &[batch, head, one, dim], "To append to the cache.");
        let mixed = attention(g, &bias, [&q, &k, &v], [&past_k, &past_v]);
        reshape(g, &mixed, &[-1, d])
    });
    let logits = g.node("Gemm", &[&x, "transformer.wte.weight"], vec![int("transB", 1)]);
    g.output("logits", &logits, &[batch, Dim::Size(c.vocab_size)], "Of the token that comes next.");
    Ok(graph.into_model())
}

/// The new position looks at the past, as far as `bias` lets it, and at itself. Only the scores of the two are joined.
fn attention(g: &mut Graph, bias: &str, [q, k, v]: [&str; 3], [past_k, past_v]: [&str; 2]) -> Value {
    let past_k = g.node("Transpose", &[past_k], vec![ints("perm", &[0, 1, 3, 2])]);
    let past = g.node("MatMul", &[q, &past_k], vec![]);
    let past = g.node("Add", &[&past, bias], vec![]);
    let (last, end, first, axis) = (g.int64s(&[-1]), g.int64s(&[i64::MAX]), g.int64s(&[0]), g.int64s(&[3]));
    let own = g.node("Mul", &[q, k], vec![]);
    let own = g.node("ReduceSum", &[&own, &axis], vec![int("keepdims", 1)]);
    let scores = g.node("Concat", &[&past, &own], vec![int("axis", -1)]);
    let weights = g.node("Softmax", &[&scores], vec![int("axis", -1)]);
    let past = g.node("Slice", &[&weights, &first, &last, &axis], vec![]);
    let past = g.node("MatMul", &[&past, past_v], vec![]);
    let own = g.node("Slice", &[&weights, &last, &end, &axis], vec![]);
    let own = g.node("Mul", &[&own, v], vec![]);
    g.node("Add", &[&past, &own], vec![])
}
