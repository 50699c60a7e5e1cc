//! `head.safetensors`: the tensors of each kind of head.
//!
//! Numbers that count or name something are f32 as well, which holds whole numbers exactly up to 2^24.

use super::manifest::{KNN, SVM};
use super::tensors::{Tensors, size_limit};
use crate::error::{Error, Result};
use crate::head::svm::{Kernel, MAX_LABELS};
use crate::head::{Head, Knn, Linear, MAX_VALUES, Standard, Svm, knn};

/// Most bytes of the file of a head of this kind.
pub(crate) fn limit(kind: &str, n_labels: usize, n_embd: usize) -> u64 {
    match kind {
        KNN => size_limit(2 * MAX_VALUES),
        SVM => size_limit(2 * MAX_VALUES + MAX_LABELS * MAX_LABELS),
        _ => size_limit(n_labels * (n_embd + 1) + 1),
    }
}

/// The head of this kind, for `n_labels` labels over embeddings of `n_embd`, in the bytes of a `head.safetensors`.
pub(crate) fn read(kind: &str, bytes: &[u8], n_labels: usize, n_embd: usize) -> Result<Head> {
    let head = match kind {
        KNN => Head::Knn(read_knn(bytes, n_embd)?),
        SVM => Head::Svm(read_svm(bytes, n_labels, n_embd)?),
        _ => Head::Linear(read_linear(bytes, n_labels, n_embd)?),
    };
    head.check(n_labels, n_embd)?;
    Ok(head)
}

fn read_linear(bytes: &[u8], n_labels: usize, n_embd: usize) -> Result<Linear> {
    let file = File::parse(bytes, n_labels * n_embd)?;
    Ok(Linear {
        weight: file.tensor("weight", &[n_labels, n_embd])?,
        bias: file.tensor("bias", &[n_labels])?,
        temperature: file.number("temperature")?,
    })
}

fn read_knn(bytes: &[u8], n_embd: usize) -> Result<Knn> {
    let file = File::parse(bytes, n_embd)?;
    let cells = match file.tensors.shape("cells.ends") {
        None => None,
        Some(_) => Some(knn::Cells {
            centroids: file.rows("cells.centroids", &[n_embd])?,
            ends: file.wholes("cells.ends")?,
            probes: file.whole("cells.probes")?,
        }),
    };
    Ok(Knn {
        standard: file.standard(n_embd)?,
        references: file.rows("references", &[n_embd])?,
        labels: file.wholes("labels")?,
        k: file.whole("k")?,
        temperature: file.number("temperature")?,
        cells,
    })
}

fn read_svm(bytes: &[u8], n_labels: usize, n_embd: usize) -> Result<Svm> {
    let file = File::parse(bytes, n_embd)?;
    let vectors = file.rows("vectors", &[n_embd])?;
    let n = vectors.len() / n_embd;
    // A linear kernel has no gamma.
    let kernel = match file.tensors.shape("gamma") {
        None => Kernel::Linear,
        Some(_) => Kernel::Rbf { gamma: file.number("gamma")? },
    };
    Ok(Svm {
        standard: file.standard(n_embd)?,
        counts: file.wholes("counts")?,
        coefficients: file.tensor("coefficients", &[n_labels.saturating_sub(1), n])?,
        intercepts: file.rows("intercepts", &[])?,
        kernel,
        temperature: file.number("temperature")?,
        vectors,
    })
}

/// The tensors of one file and how many bytes it has: no tensor can hold more.
struct File<'a> {
    tensors: Tensors<'a>,
    bytes: usize,
}

impl<'a> File<'a> {
    fn parse(bytes: &'a [u8], n: usize) -> Result<Self> {
        Ok(Self { tensors: Tensors::parse(bytes, n)?, bytes: bytes.len() })
    }

    /// The values of the tensor of this shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let n = shape.iter().copied().fold(1, usize::saturating_mul);
        // What is longer than the file cannot be in it, and its shape says so.
        let mut out = vec![0.0; n.min(self.bytes / 4)];
        self.tensors.copy(name, shape, &mut out)?;
        Ok(out)
    }

    /// As many rows of shape `row` as there are.
    fn rows(&self, name: &str, row: &[usize]) -> Result<Vec<f32>> {
        let n = self.tensors.shape(name).and_then(|shape| shape.first().copied()).unwrap_or(0);
        self.tensor(name, &[&[n], row].concat())
    }

    fn number(&self, name: &str) -> Result<f32> {
        Ok(self.tensor(name, &[1])?[0])
    }

    fn whole(&self, name: &str) -> Result<usize> {
        Ok(whole(name, self.number(name)?)? as usize)
    }

    fn wholes(&self, name: &str) -> Result<Vec<u32>> {
        self.rows(name, &[])?.into_iter().map(|value| whole(name, value)).collect()
    }

    fn standard(&self, n_embd: usize) -> Result<Standard> {
        Ok(Standard { mean: self.tensor("mean", &[n_embd])?, scale: self.tensor("scale", &[n_embd])? })
    }
}

fn whole(name: &str, value: f32) -> Result<u32> {
    match value {
        value if value >= 0.0 && value.fract() == 0.0 && value <= (1 << 24) as f32 => Ok(value as u32),
        _ => Err(Error::format(format!("tensor {name}: {value} is no place or number"))),
    }
}

#[cfg(feature = "train")]
pub(crate) use writing::bytes;

#[cfg(feature = "train")]
mod writing {
    use super::*;
    use crate::bundle::tensors::{format, serialize};
    use std::borrow::Cow;

    /// Tensors with names and shapes, in the making.
    #[derive(Default)]
    struct Made<'a>(Vec<Tensor<'a>>);

    /// Name, shape and values.
    type Tensor<'a> = (&'static str, Vec<usize>, Cow<'a, [f32]>);

    impl<'a> Made<'a> {
        fn push(&mut self, name: &'static str, shape: &[usize], values: impl Into<Cow<'a, [f32]>>) {
            self.0.push((name, shape.to_vec(), values.into()));
        }

        fn wholes(&mut self, name: &'static str, values: &[u32]) {
            self.push(name, &[values.len()], values.iter().map(|&n| n as f32).collect::<Vec<_>>());
        }

        fn number(&mut self, name: &'static str, value: f32) {
            self.push(name, &[1], vec![value]);
        }

        fn standard(&mut self, standard: &'a Standard) {
            self.push("mean", &[standard.mean.len()], &standard.mean);
            self.push("scale", &[standard.scale.len()], &standard.scale);
        }
    }

    /// The bytes of `head.safetensors`.
    pub fn bytes(head: &Head, n_labels: usize, n_embd: usize) -> Result<Vec<u8>> {
        let mut made = Made::default();
        match head {
            Head::Linear(head) => {
                made.push("weight", &[n_labels, n_embd], &head.weight);
                made.push("bias", &[n_labels], &head.bias);
            }
            Head::Knn(head) => {
                made.standard(&head.standard);
                made.push("references", &[head.len(), n_embd], &head.references);
                made.wholes("labels", &head.labels);
                made.number("k", head.k as f32);
                if let Some(cells) = &head.cells {
                    made.push("cells.centroids", &[cells.ends.len(), n_embd], &cells.centroids);
                    made.wholes("cells.ends", &cells.ends);
                    made.number("cells.probes", cells.probes as f32);
                }
            }
            Head::Svm(head) => {
                made.standard(&head.standard);
                made.push("vectors", &[head.len(), n_embd], &head.vectors);
                made.wholes("counts", &head.counts);
                made.push("coefficients", &[n_labels - 1, head.len()], &head.coefficients);
                made.push("intercepts", &[head.intercepts.len()], &head.intercepts);
                if let Kernel::Rbf { gamma } = head.kernel {
                    made.number("gamma", gamma);
                }
            }
        }
        made.number("temperature", head.temperature());
        let tensors = made.0.iter().map(|(name, shape, values)| (*name, shape.as_slice(), &**values));
        serialize(tensors, format())
    }
}
