//! Which head a fine-tuning gives, and how it is fitted.

use crate::error::{Error, Result};
use crate::head::knn::{MAX_K, MAX_REFERENCES};
use crate::head::svm::MAX_LABELS;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Most flows of a label that an SVM learns from: a machine holds its kernel's values for all pairs of flows of two labels.
const MAX_SVM_FLOWS: usize = 1 << 12;

/// Kinds of head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// An affine map, learnt step by step, with the network or on top of it as it is.
    #[default]
    Linear,
    /// The labels of the nearest training flows.
    Knn,
    /// ν-support vector machines, one for each pair of labels.
    Svm,
}

impl FromStr for HeadKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "linear" => Ok(Self::Linear),
            "knn" => Ok(Self::Knn),
            "svm" => Ok(Self::Svm),
            _ => Err(Error::invalid(format!("head is \"{text}\"; it must be linear, knn or svm"))),
        }
    }
}

/// Kernels of an SVM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelKind {
    /// `x·y`
    Linear,
    /// `exp(-gamma |x - y|²)`
    #[default]
    Rbf,
}

impl FromStr for KernelKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "linear" => Ok(Self::Linear),
            "rbf" => Ok(Self::Rbf),
            _ => Err(Error::invalid(format!("svm_kernel is \"{text}\"; it must be linear or rbf"))),
        }
    }
}

/// The head's part of the settings of a fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Its kind.
    pub head: HeadKind,
    /// k-NN: neighbours that vote.
    pub knn_k: usize,
    /// k-NN: cells that the references are parted into; 0: none, all references are looked at.
    pub knn_cells: usize,
    /// k-NN: cells that are looked at.
    pub knn_probes: usize,
    /// SVM: what embeddings are compared by.
    pub svm_kernel: KernelKind,
    /// SVM: the `gamma` of the kernel rbf; 0: one over the dimensions times their variance.
    pub svm_gamma: f64,
    /// SVM: most of the flows that may lie within the margin, as a share, and least that hold it up. Less where a label has
    /// too few flows beside the other, more where two labels cannot be told apart with so few errors.
    pub svm_nu: f64,
    /// SVM: most flows of a label to learn from, drawn by the seed.
    pub svm_flows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            head: HeadKind::Linear,
            knn_k: 10,
            knn_cells: 0,
            knn_probes: 16,
            svm_kernel: KernelKind::Rbf,
            svm_gamma: 0.0,
            svm_nu: 0.1,
            svm_flows: 1000,
        }
    }
}

impl Options {
    /// Checks every value against its range and against the others; `freeze` is whether the network stays as it is.
    pub fn check(&self, freeze: bool) -> Result<()> {
        if self.head != HeadKind::Linear && !freeze {
            return Err(Error::invalid(
                "a head of kind knn or svm is fitted on a network that stays as it is: give --freeze (to fine-tune the \
                 network first, do so with a linear head, then give that run or bundle as --from)",
            ));
        }
        whole("knn_k", self.knn_k, 1, MAX_K)?;
        whole("knn_cells", self.knn_cells, 0, MAX_REFERENCES)?;
        if self.knn_cells > 0 {
            whole("knn_probes", self.knn_probes, 1, self.knn_cells)?;
        }
        whole("svm_flows", self.svm_flows, 1, MAX_SVM_FLOWS)?;
        if !(self.svm_nu > 0.0 && self.svm_nu <= 1.0) {
            return Err(Error::invalid(format!("svm_nu is {}; it must be above 0 and at most 1", self.svm_nu)));
        }
        if !(0.0..=1e6).contains(&self.svm_gamma) {
            return Err(Error::invalid(format!("svm_gamma is {}; it must be in 0..=1000000", self.svm_gamma)));
        }
        Ok(())
    }

    /// Checks that a head can be fitted to `n_flows` training flows of `n_labels` labels.
    pub fn check_sizes(&self, n_flows: usize, n_labels: usize) -> Result<()> {
        let refused = match self.head {
            HeadKind::Knn if n_flows > MAX_REFERENCES => {
                format!("{n_flows} flows are too many for a k-NN head; it keeps at most {MAX_REFERENCES}")
            }
            HeadKind::Knn if self.knn_cells > n_flows => {
                format!("knn_cells is {}; there are only {n_flows} training flows", self.knn_cells)
            }
            HeadKind::Svm if n_labels > MAX_LABELS => {
                format!("{n_labels} labels are too many for an SVM head; at most {MAX_LABELS} may be")
            }
            _ => return Ok(()),
        };
        Err(Error::invalid(refused))
    }
}

fn whole(name: &str, value: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {value}; it must be in {min}..={max}")))
}
