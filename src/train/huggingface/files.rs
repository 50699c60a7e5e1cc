//! The files of a checkpoint and where the tensors lie in them.

use super::torch_file;
use crate::bundle::files::sha256;
use crate::error::{Error, Kind, Result};
use half::{bf16, f16};
use safetensors::SafeTensors;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Most bytes of `config.json` and of an index.
const MAX_SMALL: u64 = 1 << 24;

/// Most files that an index may name.
const MAX_FILES: usize = 4096;

/// Names of the weights as `transformers` looks for them: one file, and the index of several.
const SAFETENSORS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];
const TORCH: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// How values are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F32,
    F16,
    Bf16,
    /// One that is not read, by name.
    Other(String),
}

impl Dtype {
    /// Bytes of a value; 0 for one that is not read.
    pub fn size(&self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(_) => 0,
        }
    }
}

/// Where a tensor lies: its values row by row.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// The tensors of one or more files.
pub(super) struct Checkpoint {
    files: Vec<(String, Vec<u8>)>,
    /// By name, with the number of the file.
    tensors: BTreeMap<String, (usize, Place)>,
}

impl Checkpoint {
    /// Reads the weights in `directory`, which may have `most` bytes in all.
    pub fn read(directory: &Path, most: u64) -> Result<Self> {
        let mut names = SAFETENSORS.into_iter().chain(TORCH);
        let Some(first) = names.find(|name| directory.join(name).exists()) else {
            return Err(Error::new(
                Kind::Io,
                format!(
                    "{}: neither {} nor {} (nor an index of either) is there",
                    directory.display(),
                    SAFETENSORS[0],
                    TORCH[0]
                ),
            ));
        };
        let parse = if SAFETENSORS.contains(&first) { safetensors } else { torch_file::tensors };
        let mut out = Self { files: Vec::new(), tensors: BTreeMap::new() };
        if first.ends_with(".json") {
            let index = Index::read(&directory.join(first))?;
            let names: BTreeSet<&String> = index.weight_map.values().collect();
            for name in names {
                let wanted = |tensor: &str| index.weight_map.get(tensor) == Some(name);
                out.add(directory, name, most, parse, &wanted)?;
            }
        } else {
            out.add(directory, first, most, parse, &|_| true)?;
        }
        Ok(out)
    }

    /// Adds the tensors of file `name` that are `wanted`.
    fn add(
        &mut self,
        directory: &Path,
        name: &str,
        most: u64,
        parse: fn(&[u8]) -> Result<BTreeMap<String, Place>>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<()> {
        let path = directory.join(name);
        let bytes = read_bounded(&path, most.saturating_sub(self.bytes()))?;
        let tensors = parse(&bytes).map_err(|e| e.at(path.display()))?;
        let number = self.files.len();
        let tensors = tensors.into_iter().filter(|(tensor, _)| wanted(tensor));
        self.tensors.extend(tensors.map(|(tensor, place)| (tensor, (number, place))));
        self.files.push((name.to_string(), bytes));
        Ok(())
    }

    /// What a message says of where the tensors are.
    pub fn place(&self, directory: &Path) -> String {
        match self.files.as_slice() {
            [(name, _)] => directory.join(name).display().to_string(),
            _ => directory.display().to_string(),
        }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// Name and SHA-256 of every file.
    pub fn checksums(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.files.iter().map(|(name, bytes)| (name.clone(), sha256(bytes)))
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether tensor `name` is there.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Checks that tensor `name` is there, of this shape and of a type that is read; its bytes.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<u64> {
        let (_, place) = self.find(name)?;
        if place.shape != shape {
            let has = &place.shape;
            return Err(Error::mismatch(format!("tensor {name} has shape {has:?}; by config.json it is {shape:?}")));
        }
        if let Dtype::Other(dtype) = &place.dtype {
            return Err(Error::mismatch(format!("tensor {name} is {dtype}; it must be F32, F16 or BF16")));
        }
        let n = shape.iter().try_fold(place.dtype.size(), |n, &dim| n.checked_mul(dim));
        if n != Some(place.range.len()) {
            let has = place.range.len();
            return Err(Error::format(format!("tensor {name} of shape {shape:?} has {has} bytes of values")));
        }
        Ok(place.range.len() as u64)
    }

    /// The values of tensor `name` of this shape, all of them finite.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.check(name, shape)?;
        let (file, place) = self.find(name)?;
        let bytes = self.files.get(*file).and_then(|(_, bytes)| bytes.get(place.range.clone()));
        let bytes = bytes.ok_or_else(|| Error::format(format!("tensor {name} lies past the end of its file")))?;
        let pairs = || bytes.as_chunks::<2>().0.iter();
        let values: Vec<f32> = match place.dtype {
            Dtype::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::Bf16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(Error::format(format!("tensor {name}: value {i} is {}, not finite", values[i]))),
            None => Ok(values),
        }
    }

    fn find(&self, name: &str) -> Result<&(usize, Place)> {
        self.tensors.get(name).ok_or_else(|| Error::mismatch(format!("tensor {name} is missing")))
    }
}

/// Which file each tensor lies in.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Self> {
        let index: Self = serde_json::from_slice(&read_small(path)?)
            .map_err(|e| Error::format(format!("{}: not an index of weights: {e}", path.display())))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        if names.is_empty() || names.len() > MAX_FILES {
            let n = names.len();
            return Err(Error::format(format!("{}: names {n} files; it must be 1..={MAX_FILES}", path.display())));
        }
        let plain = |name: &str| Path::new(name).file_name() == Some(name.as_ref());
        if let Some(name) = names.into_iter().find(|name| !plain(name)) {
            let place = path.display();
            return Err(Error::format(format!("{place}: {name:?} is not the name of a file in this directory")));
        }
        Ok(index)
    }
}

/// The tensors of a safetensors file of these bytes.
fn safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Place>> {
    let damaged = |e| Error::format(format!("not a safetensors file, or a damaged one: {e}"));
    // Reading the header alone does not check it against the length of the file.
    SafeTensors::deserialize(bytes).map_err(damaged)?;
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let begin = 8 + header;
    let place = |info: &safetensors::tensor::TensorInfo| Place {
        dtype: match info.dtype {
            safetensors::Dtype::F32 => Dtype::F32,
            safetensors::Dtype::F16 => Dtype::F16,
            safetensors::Dtype::BF16 => Dtype::Bf16,
            other => Dtype::Other(format!("{other:?}")),
        },
        shape: info.shape.clone(),
        range: begin + info.data_offsets.0..begin + info.data_offsets.1,
    };
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, place(info))).collect())
}

/// The whole of a small text file.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>> {
    read_bounded(path, MAX_SMALL)
}

/// The whole of the regular file at `path`, which may have `most` bytes.
fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::io(path, &e);
    let metadata = PathBuf::from(path).metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::format(format!("{}: not a regular file", path.display())));
    }
    let size = metadata.len();
    if size > most {
        return Err(Error::mismatch(format!(
            "{}: {size} bytes; a network of the shape in config.json needs at most {most}",
            path.display()
        )));
    }
    let mut bytes = Vec::new();
    let full = |_| Error::new(Kind::NoMemory, format!("{}: no room for {size} bytes", path.display()));
    bytes.try_reserve_exact(size as usize).map_err(full)?;
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}
