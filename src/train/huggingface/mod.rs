//! GPT-2 checkpoints of Hugging Face's `transformers`, read into our network.
//!
//! A directory holds `config.json` and the weights: `model.safetensors`, `pytorch_model.bin`, or an index of either with
//! the files that it names. Names may have the prefix `transformer.` of `GPT2LMHeadModel` or not; values may be f32, f16
//! or bf16. What would make `transformers` compute something else than our network does is refused, so that logits are
//! equal. Nothing in a file is trusted: a pickle is read, never run.

mod config;
mod files;
mod pickle;
mod torch_file;

use crate::error::{Error, Result};
use crate::gpt2::Weights;
use config::Shape;
use files::Checkpoint;
use std::collections::BTreeSet;
use std::path::Path;

/// The prefix of all tensors but the output head's in a `GPT2LMHeadModel`.
const PREFIX: &str = "transformer.";

/// The output head's tensor, where a file repeats it.
const OUTPUT: &str = "lm_head.weight";

/// Most names that a message lists.
const NAMES_SHOWN: usize = 4;

/// A network that was read.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its weights.
    pub weights: Weights,
    /// The files it came from: name and SHA-256.
    pub files: Vec<(String, String)>,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// Reads the checkpoint in `directory`. An error names file, tensor and reason.
///
/// A feed-forward layer narrower than ours is filled up with zeros, which changes no logit.
pub fn read(directory: &Path) -> Result<Network> {
    let (shape, config_file) = config::read(directory)?;
    let checkpoint = Checkpoint::read(directory, shape.most_bytes())?;
    let place = checkpoint.place(directory);
    let (weights, mut notes) = assemble(&checkpoint, &shape).map_err(|e| e.at(place))?;
    let wide = shape.config.n_inner();
    if shape.n_inner < wide {
        notes.push(format!("n_inner {} is filled up with zeros to {wide}; no logit changes", shape.n_inner));
    }
    let files = std::iter::once(config_file).chain(checkpoint.checksums()).collect();
    Ok(Network { weights, files, notes })
}

/// The network of `shape` in `checkpoint`, and what was left out.
fn assemble(checkpoint: &Checkpoint, shape: &Shape) -> Result<(Weights, Vec<String>)> {
    let prefix = match (checkpoint.has("transformer.wte.weight"), checkpoint.has("wte.weight")) {
        (true, _) => PREFIX,
        (_, true) => "",
        _ => {
            let names = shown(checkpoint.names());
            return Err(Error::mismatch(format!("no tensor wte.weight, so not a GPT-2; there are {names}")));
        }
    };
    let own = |name: &str| format!("{prefix}{}", name.strip_prefix(PREFIX).unwrap_or(name));

    // Before anything of the size that the configuration states is allocated, the file must prove to hold it.
    let parts = shape.parts();
    let mut bytes = 0;
    for (name, of_file) in &parts {
        bytes += checkpoint.check(&own(name), of_file)?;
    }
    if bytes > checkpoint.bytes() {
        let has = checkpoint.bytes();
        return Err(Error::format(format!("tensors of {bytes} bytes in files of {has}: they share their values")));
    }
    let used: BTreeSet<String> = parts.iter().map(|(name, _)| own(name)).collect();
    let strange = checkpoint.names().filter(|name| !used.contains(*name) && *name != OUTPUT);
    let (blocks, other): (Vec<&str>, Vec<&str>) = strange
        // The causal masks that earlier versions kept among the weights.
        .filter(|name| !name.ends_with(".attn.bias") && !name.ends_with(".attn.masked_bias"))
        .partition(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("h.")));
    if !blocks.is_empty() {
        let (n, names) = (shape.config.n_layer, shown(blocks.into_iter()));
        return Err(Error::mismatch(format!("tensors that {n} layers of a GPT-2 do not have: {names}")));
    }

    let mut weights = Weights::zeros(&shape.config)?;
    for (tensor, (name, of_file)) in weights.tensors().into_iter().zip(&parts) {
        let values = checkpoint.values(&own(name), of_file)?;
        let out = &mut weights.data_mut()[tensor.range];
        // Rows of the file at the beginning of our rows: a narrower layer leaves zeros.
        let (theirs, ours) = (of_file.last().copied().unwrap_or(1), tensor.shape.last().copied().unwrap_or(1));
        for (row, values) in out.chunks_exact_mut(ours.max(1)).zip(values.chunks_exact(theirs.max(1))) {
            row[..theirs].copy_from_slice(values);
        }
    }
    check_output(checkpoint, &weights, shape)?;
    let notes = match other.is_empty() {
        true => Vec::new(),
        false => vec![format!("left out, since a language model has no such tensors: {}", shown(other.into_iter()))],
    };
    Ok((weights, notes))
}

/// Refuses an output head that is not the token embedding.
fn check_output(checkpoint: &Checkpoint, weights: &Weights, shape: &Shape) -> Result<()> {
    if checkpoint.has(OUTPUT) {
        let embedding = [shape.config.vocab_size, shape.config.n_embd];
        checkpoint.check(OUTPUT, &embedding)?;
        if checkpoint.values(OUTPUT, &embedding)? != weights.data()[weights.wte()] {
            return Err(Error::mismatch(format!(
                "tensor {OUTPUT} is not the token embedding; our network has one matrix for both"
            )));
        }
    } else if !shape.tied {
        return Err(Error::mismatch(format!("tie_word_embeddings is false, but there is no tensor {OUTPUT}")));
    }
    Ok(())
}

/// The first few of `names`, for a message.
fn shown<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let list = names[..names.len() - more].join(", ");
    match (list.is_empty(), more) {
        (true, _) => "none".to_string(),
        (_, 0) => list,
        _ => format!("{list} and {more} more"),
    }
}
