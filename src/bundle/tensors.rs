//! The tensors of a bundle, or of a checkpoint, in safetensors files, and how they are checked on the way in.

use crate::error::{Error, Result};
use crate::gpt2::{Config, Weights};
use crate::head::forest::{Forest, Node};
use crate::quantizer::class_spread::{ClassLayer, MAX_CLASS_LAYERS};
use crate::quantizer::spread::{LAYERS, Layer};
use crate::quantizer::{Codebook, Quantizer, Scaler};
use safetensors::{Dtype, SafeTensors};

/// The tensor of the packets behind each centroid: see `quantizer::spread`.
const SPREAD: &str = "spread";

/// The tensors of the packets of each class behind each centroid: see `quantizer::class_spread`.
const CLASS_LAYERS: &str = "class_layers";
const CLASS_ENDS: &str = "class_ends";

/// Room for the header of a safetensors file: some hundred bytes per tensor.
const MAX_HEADER: u64 = 1 << 20;

/// Most bytes the file of a quantizer of `k` centroids may have.
pub(crate) fn quantizer_limit(k: usize) -> u64 {
    size_limit(k * (2 + 3 * LAYERS) + 5 * MAX_CLASS_LAYERS)
}

/// Most bytes a file of `n` f32 values may have.
pub(crate) fn size_limit(n: usize) -> u64 {
    4 * n as u64 + MAX_HEADER
}

/// The tensors of one file, by name.
pub(crate) struct Tensors<'a>(SafeTensors<'a>);

impl<'a> Tensors<'a> {
    /// Parses a file that must hold at least `n` values, so that nothing larger than the file is allocated for them.
    pub fn parse(bytes: &'a [u8], n: usize) -> Result<Self> {
        if bytes.len() / 4 < n {
            return Err(Error::mismatch(format!("{} bytes cannot hold the {n} values there must be", bytes.len())));
        }
        SafeTensors::deserialize(bytes)
            .map(Self)
            .map_err(|e| Error::format(format!("not a safetensors file, or a damaged one: {e}")))
    }

    /// Copies tensor `name` to `out`. It must have this shape, be f32 and finite.
    pub fn copy(&self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<()> {
        let tensor = self.0.tensor(name).map_err(|_| Error::mismatch(format!("tensor {name} is missing")))?;
        if tensor.dtype() != Dtype::F32 {
            return Err(Error::mismatch(format!("tensor {name} is {:?}; it must be F32", tensor.dtype())));
        }
        if tensor.shape() != shape {
            let has = tensor.shape();
            return Err(Error::mismatch(format!("tensor {name} has shape {has:?}; it must be {shape:?}")));
        }
        for (value, bytes) in out.iter_mut().zip(tensor.data().as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        match out.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(Error::format(format!("tensor {name}: value {i} is {}, not finite", out[i]))),
            None => Ok(()),
        }
    }

    /// The names of all tensors, sorted.
    #[cfg(feature = "train")]
    pub fn names(&self) -> Vec<&str> {
        let mut names = self.0.names();
        names.sort_unstable();
        names
    }

    /// The shape of tensor `name`, if it is there.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.tensor(name).ok().map(|t| t.shape().to_vec())
    }
}

/// The network of shape `config` in the bytes of a `model.safetensors`. Tensors that the network does not have (an
/// untied `lm_head` apart, which would change it) are ignored.
pub(super) fn read_weights(bytes: &[u8], config: &Config) -> Result<Weights> {
    let file = Tensors::parse(bytes, config.n_parameters())?;
    if file.0.tensor("lm_head.weight").is_ok() {
        return Err(Error::mismatch("tensor lm_head.weight: the output head must be tied to the token embedding"));
    }
    let mut weights = Weights::zeros(config)?;
    for tensor in weights.tensors() {
        file.copy(&tensor.name, &tensor.shape, &mut weights.data_mut()[tensor.range])?;
    }
    Ok(weights)
}

/// The quantizer of `k` centroids, or of as many as there are, in the bytes of a `quantizer.safetensors`.
pub(crate) fn read_quantizer(bytes: &[u8], scaler: Scaler, k: Option<usize>) -> Result<Quantizer> {
    let file = Tensors::parse(bytes, 2 * k.unwrap_or(1))?;
    let shape = file.shape("centroids").unwrap_or_default();
    let k = match (k, shape.as_slice()) {
        (Some(k), _) => k,
        (None, &[k, 2]) => k,
        _ => return Err(Error::format(format!("tensor centroids has shape {shape:?}; it must be [K, 2]"))),
    };
    let mut centroids = vec![[0.0; 2]; k];
    file.copy("centroids", &[k, 2], centroids.as_flattened_mut())?;
    let quantizer = Quantizer::new(scaler, Codebook::new(centroids)?);
    // Absent in files of version 0.1.0, and where the packets behind the centroids are not known.
    if file.shape(SPREAD).is_none() {
        return Ok(quantizer);
    }
    let shape = [k, LAYERS, 3];
    let mut layers = vec![Layer::default(); k * LAYERS];
    file.copy(SPREAD, &shape, bytemuck::cast_slice_mut(&mut layers))?;
    let quantizer = quantizer.with_spread(&layers)?;
    let rows = |name| file.shape(name).and_then(|shape| shape.first().copied()).unwrap_or(0).min(bytes.len() / 4);
    let (n, n_classes) = (rows(CLASS_LAYERS), rows(CLASS_ENDS));
    if n_classes == 0 {
        return Ok(quantizer);
    }
    let (mut layers, mut ends) = (vec![ClassLayer::default(); n], vec![0.0; n_classes]);
    file.copy(CLASS_LAYERS, &[n, 4], bytemuck::cast_slice_mut(&mut layers))?;
    file.copy(CLASS_ENDS, &[n_classes], &mut ends)?;
    quantizer.with_class_spread(layers, ends.into_iter().map(|end| whole(CLASS_ENDS, end)).collect::<Result<_>>()?)
}

/// `value` of `tensor` as the whole number it must be; such numbers are exact in an f32.
fn whole(tensor: &str, value: f32) -> Result<u32> {
    match value {
        value if value >= 0.0 && value.fract() == 0.0 && value <= (1 << 24) as f32 => Ok(value as u32),
        _ => Err(Error::format(format!("{tensor}: {value} is no place or number"))),
    }
}

/// The forest over `n_labels` labels in the bytes of a `forest.safetensors`: `nodes` f32 `[n, 3]`, a split as feature,
/// threshold and lower child, a leaf as -1 and where its shares begin and end; `shares` `[m, 2]`; `roots`, `weight` and
/// `temperature`; of boosted trees `odds` `[n_labels]`.
pub(crate) fn read_forest(bytes: &[u8], n_labels: usize) -> Result<Forest> {
    let file = Tensors::parse(bytes, 0)?;
    let rows = |name: &str, width: usize| {
        // As many values as the file, whose size is bounded, really holds.
        let n = file.shape(name).and_then(|shape| shape.first().copied()).unwrap_or(0);
        let mut out = vec![0.0; n.min(bytes.len()) * width];
        let shape = [n, width];
        file.copy(name, if width == 1 { &shape[..1] } else { &shape }, &mut out).map(|()| out)
    };
    let whole = |value| whole("forest", value);
    let node = |[feature, threshold, low]: [f32; 3]| match feature {
        -1.0 => Ok(Node::Leaf { begin: whole(threshold)?, end: whole(low)? }),
        _ => Ok(Node::Split { feature: whole(feature)?, threshold, low: whole(low)? }),
    };
    let forest = Forest {
        weight: rows("weight", 1)?.first().copied().unwrap_or_default(),
        temperature: rows("temperature", 1)?.first().copied().unwrap_or_default(),
        roots: rows("roots", 1)?.into_iter().map(whole).collect::<Result<_>>()?,
        nodes: rows("nodes", 3)?.as_chunks().0.iter().map(|values| node(*values)).collect::<Result<_>>()?,
        shares: rows("shares", 2)?
            .as_chunks()
            .0
            .iter()
            .map(|&[label, share]| Ok((whole(label)?, share)))
            .collect::<Result<_>>()?,
        odds: file.shape("odds").map(|_| rows("odds", 1)).transpose()?,
    };
    forest.check(n_labels)?;
    Ok(forest)
}

#[cfg(feature = "train")]
pub(crate) use writing::{forest_bytes, format, metadata, quantizer_bytes, serialize};
#[cfg(feature = "train")]
pub(super) use writing::{offsets, weights_bytes};

#[cfg(feature = "train")]
mod writing {
    use super::*;
    use safetensors::View;
    use std::borrow::Cow;
    use std::collections::{BTreeMap, HashMap};

    /// f32 values with a shape, as safetensors wants to see them.
    struct Values<'a> {
        shape: &'a [usize],
        values: &'a [f32],
    }

    impl View for Values<'_> {
        fn dtype(&self) -> Dtype {
            Dtype::F32
        }

        fn shape(&self) -> &[usize] {
            self.shape
        }

        fn data(&self) -> Cow<'_, [u8]> {
            if cfg!(target_endian = "little") {
                return Cow::Borrowed(bytemuck::cast_slice(self.values));
            }
            Cow::Owned(self.values.iter().flat_map(|v| v.to_le_bytes()).collect())
        }

        fn data_len(&self) -> usize {
            4 * self.values.len()
        }
    }

    /// What Hugging Face wants to find in the metadata.
    pub fn format() -> (&'static str, String) {
        ("format", "pt".to_string())
    }

    /// The bytes of a safetensors file with one entry of metadata: several would stand in random order.
    pub fn serialize<'a>(
        tensors: impl IntoIterator<Item = (&'a str, &'a [usize], &'a [f32])>,
        (key, text): (&str, String),
    ) -> Result<Vec<u8>> {
        let tensors = tensors.into_iter().map(|(name, shape, values)| (name, Values { shape, values }));
        let metadata = HashMap::from([(key.to_string(), text)]);
        safetensors::serialize(tensors, Some(metadata)).map_err(|e| Error::invalid(format!("tensors: {e}")))
    }

    /// The text under `key` in the metadata of a safetensors file of these bytes.
    pub fn metadata(bytes: &[u8], key: &str) -> Result<Option<String>> {
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| Error::format(format!("safetensors: {e}")))?;
        Ok(metadata.metadata().as_ref().and_then(|m| m.get(key)).cloned())
    }

    /// The bytes of `model.safetensors`.
    pub fn weights_bytes(weights: &Weights) -> Result<Vec<u8>> {
        let tensors = weights.tensors();
        for tensor in &tensors {
            if !weights.data()[tensor.range.clone()].iter().all(|v| v.is_finite()) {
                return Err(Error::invalid(format!("tensor {} holds a value that is not finite", tensor.name)));
            }
        }
        serialize(tensors.iter().map(|t| (&*t.name, &*t.shape, &weights.data()[t.range.clone()])), format())
    }

    /// The bytes of `quantizer.safetensors`, with one entry of metadata.
    pub fn quantizer_bytes(quantizer: &Quantizer, metadata: Option<(&'static str, String)>) -> Result<Vec<u8>> {
        let codebook = quantizer.codebook();
        let shapes = [vec![codebook.len(), 2], vec![codebook.len(), LAYERS, 3]];
        let centroids = ("centroids", &*shapes[0], codebook.centroids().as_flattened());
        let spread = quantizer.spread().map(|s| (SPREAD, &*shapes[1], bytemuck::cast_slice(s.layers())));
        let ends: Vec<f32> = quantizer.class_spread().iter().flat_map(|s| s.ends()).map(|&end| end as f32).collect();
        let n_layers = quantizer.class_spread().map_or(0, |s| s.layers().len());
        let class_shapes = [vec![n_layers, 4], vec![ends.len()]];
        let of_classes = quantizer.class_spread().map(|s| {
            let layers = (CLASS_LAYERS, &*class_shapes[0], bytemuck::cast_slice(s.layers()));
            [layers, (CLASS_ENDS, &*class_shapes[1], &*ends)]
        });
        let tensors = std::iter::once(centroids).chain(spread).chain(of_classes.into_iter().flatten());
        serialize(tensors, metadata.unwrap_or_else(format))
    }

    /// The bytes of `forest.safetensors`; see [`read_forest`].
    pub fn forest_bytes(forest: &Forest) -> Result<Vec<u8>> {
        let node = |node: &Node| match *node {
            Node::Split { feature, threshold, low } => [feature as f32, threshold, low as f32],
            Node::Leaf { begin, end } => [-1.0, begin as f32, end as f32],
        };
        let nodes: Vec<[f32; 3]> = forest.nodes.iter().map(node).collect();
        let shares: Vec<[f32; 2]> = forest.shares.iter().map(|&(label, share)| [label as f32, share]).collect();
        let roots: Vec<f32> = forest.roots.iter().map(|&root| root as f32).collect();
        let tensors = [
            ("nodes", &[nodes.len(), 3][..], nodes.as_flattened()),
            ("shares", &[shares.len(), 2][..], shares.as_flattened()),
            ("roots", &[roots.len()][..], &*roots),
            ("weight", &[1][..], std::slice::from_ref(&forest.weight)),
            ("temperature", &[1][..], std::slice::from_ref(&forest.temperature)),
        ];
        let shape = [forest.odds.as_ref().map_or(0, Vec::len)];
        let odds = forest.odds.as_ref().map(|odds| ("odds", &shape[..], &**odds));
        serialize(tensors.into_iter().chain(odds), format())
    }

    /// Where each tensor begins in the safetensors file of these bytes, counted from the file's beginning.
    pub fn offsets(bytes: &[u8]) -> Result<BTreeMap<String, u64>> {
        let (header, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|e| Error::format(format!("safetensors: {e}")))?;
        let begin = |info: &safetensors::tensor::TensorInfo| (8 + header + info.data_offsets.0) as u64;
        Ok(metadata.tensors().into_iter().map(|(name, info)| (name, begin(info))).collect())
    }
}
