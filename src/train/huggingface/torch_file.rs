//! `pytorch_model.bin`: a zip archive, as `torch.save` has written since version 1.6, that holds a pickle of what there is
//! and a member of raw values for every storage.

use super::files::{Dtype, Place};
use super::pickle::{self, Pickled};
use crate::error::{Error, Result};
use rawzip::{CompressionMethod, ZipArchive, ZipSliceArchive};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// Most members of an archive: a network of the most layers has far fewer.
const MAX_MEMBERS: u64 = 1 << 16;

/// Largest pickle: some hundred bytes a tensor.
const MAX_PICKLE: usize = 1 << 21;

/// What files of PyTorch before 1.6 begin with: a pickle of a number that serves as a mark.
const OLD: &[u8] = &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc];

/// The tensors of the file of these bytes.
pub(super) fn tensors(bytes: &[u8]) -> Result<BTreeMap<String, Place>> {
    if bytes.starts_with(OLD) {
        return Err(Error::format(
            "written by PyTorch before 1.6; load it with a newer one and save the state_dict again, best as safetensors",
        ));
    }
    let archive = Archive::open(bytes)?;
    if archive.members.get("byteorder").is_some_and(|place| &bytes[place.clone()] != b"little") {
        return Err(Error::format("its values are big-endian; save it on a little-endian machine"));
    }
    let pickle = archive.member("data.pkl")?;
    if pickle.len() > MAX_PICKLE {
        let n = pickle.len();
        return Err(Error::format(format!("data.pkl has {n} bytes; a state dict has at most {MAX_PICKLE}")));
    }
    let pickled = pickle::read(&bytes[pickle]).map_err(|e| e.at("data.pkl"))?;
    let mut storages = BTreeMap::new();
    let mut out = BTreeMap::new();
    for tensor in pickled {
        let place =
            place(&archive, &tensor, &mut storages).map_err(|e| e.at(format_args!("tensor {}", tensor.name)))?;
        out.insert(tensor.name.to_string(), place);
    }
    Ok(out)
}

/// Where the values of a tensor lie. `storages` are the members found so far.
fn place(archive: &Archive<'_>, tensor: &Pickled<'_>, storages: &mut BTreeMap<String, Range<usize>>) -> Result<Place> {
    let shape = tensor.shape.clone();
    let dtype = match tensor.storage.kind {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::Bf16,
        other => return Ok(Place { dtype: Dtype::Other(other.to_string()), shape, range: 0..0 }),
    };
    let n = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
    let is_row_major = tensor.stride.len() == shape.len() && {
        let mut step = 1usize;
        shape.iter().zip(&tensor.stride).rev().all(|(&dim, &stride)| {
            let fits = dim <= 1 || stride == step;
            step = step.saturating_mul(dim);
            fits
        })
    };
    if !is_row_major {
        return Err(Error::mismatch("its values do not lie row by row; call .contiguous() before it is saved"));
    }
    let key = format!("data/{}", tensor.storage.key);
    let member = match storages.get(&key) {
        Some(member) => member.clone(),
        None => storages.entry(key.clone()).or_insert(archive.member(&key)?).clone(),
    };
    let size = dtype.size();
    let begin = tensor.offset.checked_mul(size);
    let end = n.and_then(|n| n.checked_add(tensor.offset)).and_then(|end| end.checked_mul(size));
    match (begin, end) {
        (Some(begin), Some(end)) if end <= member.len() => {
            Ok(Place { dtype, shape, range: member.start + begin..member.start + end })
        }
        _ => Err(Error::format(format!(
            "shape {shape:?} from value {} on does not fit the {} bytes of {key}",
            tensor.offset,
            member.len()
        ))),
    }
}

/// A zip archive whose members are stored as they are.
struct Archive<'a> {
    zip: ZipSliceArchive<&'a [u8]>,
    entries: BTreeMap<String, rawzip::ZipArchiveEntryWayfinder>,
    /// Members that were looked at already.
    members: BTreeMap<&'static str, Range<usize>>,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let zip = ZipArchive::from_slice(bytes).map_err(|e| {
            Error::format(format!("not a file of torch.save, or one that is cut off: no zip archive ends it ({e})"))
        })?;
        let mut entries = BTreeMap::new();
        let mut found = zip.entries();
        let mut n = 0;
        while let Some(entry) = found.next_entry().map_err(|e| damaged(&e))? {
            n += 1;
            if n > MAX_MEMBERS {
                return Err(Error::format(format!("the archive has more than {MAX_MEMBERS} members")));
            }
            // All members lie in one directory, whatever its name.
            let path = String::from_utf8_lossy(entry.file_path().as_ref()).into_owned();
            let Some((_, name)) = path.split_once('/') else { continue };
            if entry.compression_method() != CompressionMethod::STORE {
                return Err(Error::format(format!("member {name} is compressed, which torch.save never does")));
            }
            entries.insert(name.to_string(), entry.wayfinder());
        }
        let mut archive = Self { zip, entries, members: BTreeMap::new() };
        if archive.entries.contains_key("byteorder") {
            let place = archive.member("byteorder")?;
            archive.members.insert("byteorder", place);
        }
        Ok(archive)
    }

    /// Where member `name` lies, once its checksum is found right.
    fn member(&self, name: &str) -> Result<Range<usize>> {
        let wayfinder = self.entries.get(name).ok_or_else(|| Error::format(format!("the archive has no {name}")))?;
        let at = |e: Error| e.at(format_args!("member {name}"));
        let entry = self.zip.get_entry(*wayfinder).map_err(|e| at(damaged(&e)))?;
        io::copy(&mut entry.verifying_reader(entry.data()), &mut io::sink())
            .map_err(|e| at(Error::format(format!("damaged: {e}"))))?;
        let (begin, end) = entry.compressed_data_range();
        Ok(begin as usize..end as usize)
    }
}

fn damaged(error: &rawzip::Error) -> Error {
    Error::format(format!("damaged zip archive: {error}"))
}
