//! Strings that live as long as their handle.

use crate::engine::EngineKind;
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char};
use std::ptr;

/// The names of a model's labels or classes, as C reads them.
pub(super) struct Names(Vec<CString>);

impl Names {
    /// Copies `names`.
    pub(super) fn new(names: &[String]) -> Result<Self> {
        let owned = |name: &String| {
            CString::new(name.as_str()).map_err(|_| Error::format(format!("name {name:?} has a NUL character in it")))
        };
        names.iter().map(owned).collect::<Result<_>>().map(Self)
    }

    /// Number of names.
    pub(super) fn len(&self) -> u32 {
        self.0.len() as u32
    }

    /// Name `i`, or NULL where there is none.
    pub(super) fn get(&self, i: u32) -> *const c_char {
        self.0.get(i as usize).map_or(ptr::null(), |name| name.as_ptr())
    }
}

/// An engine's name as a static string.
pub(super) fn engine(kind: EngineKind) -> &'static CStr {
    match kind {
        EngineKind::Native => c"native",
        EngineKind::Onnx => c"onnx",
        EngineKind::Cuda => c"cuda",
    }
}
