//! Pointers of C → slices, strings, structs. Everything that can be checked is.

use crate::error::{Error, Result};
use crate::packet::{Packet, Ragged};
use bytemuck::Pod;
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A place for one result, checked; written at the end of a call that succeeded.
pub(super) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result.
    pub(super) fn write(self, value: T) {
        // SAFETY: `out` checked it, and its caller promised that it can be written.
        unsafe { self.0.write(value) };
    }
}

/// A place for a result, which must not be NULL.
///
/// # Safety
/// `pointer` is NULL or can be written during the call.
pub(super) unsafe fn out<T>(pointer: *mut T, name: &str) -> Result<Out<T>> {
    check(pointer, 1, name)?;
    Ok(Out(pointer))
}

/// `n` values to read; NULL is legal where `n` is 0.
///
/// # Safety
/// `pointer` is NULL or points to `n` values that nobody writes while the result is used.
pub(super) unsafe fn slice<'a, T: Pod>(pointer: *const T, n: usize, name: &str) -> Result<&'a [T]> {
    if n == 0 {
        return Ok(&[]);
    }
    check(pointer, n, name)?;
    // SAFETY: checked as far as it can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, n) })
}

/// `n` values to write; NULL is legal where `n` is 0.
///
/// # Safety
/// `pointer` is NULL or points to `n` values that nobody else uses while the result is used.
pub(super) unsafe fn slice_mut<'a, T: Pod>(pointer: *mut T, n: usize, name: &str) -> Result<&'a mut [T]> {
    if n == 0 {
        return Ok(&mut []);
    }
    check(pointer, n, name)?;
    // SAFETY: checked as far as it can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, n) })
}

/// `n` pointers to read; NULL is legal where `n` is 0. What they point to is not looked at.
///
/// # Safety
/// `pointer` is NULL or points to `n` pointers that nobody writes while the result is used.
pub(super) unsafe fn pointers<'a, T>(pointer: *const *const T, n: usize, name: &str) -> Result<&'a [*const T]> {
    if n == 0 {
        return Ok(&[]);
    }
    check(pointer, n, name)?;
    // SAFETY: checked as far as it can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, n) })
}

/// `n` flows: flow `i` is `packets[offsets[i] .. offsets[i + 1]]`. Both may be NULL where `n` is 0.
///
/// # Safety
/// `offsets` is NULL or points to `n + 1` values, and `packets` is NULL or points to as many as the last of them says.
pub(super) unsafe fn flows<'a>(packets: *const Packet, offsets: *const u64, n: usize) -> Result<Ragged<'a, Packet>> {
    if n == 0 && offsets.is_null() {
        return Ragged::new(&[], &[0]);
    }
    // SAFETY: the caller's promise.
    let offsets = unsafe { slice(offsets, count(n, 1, 1, "n_flows")?, "offsets") }?;
    let last = offsets[offsets.len() - 1];
    let total = usize::try_from(last).map_err(|_| Error::invalid(format!("offsets end at {last}, past all memory")))?;
    // SAFETY: the caller's promise.
    Ragged::new(unsafe { slice(packets, total, "packets") }?, offsets)
}

/// `n * each + more` as the length of a buffer.
pub(super) fn count(n: usize, each: usize, more: usize, name: &str) -> Result<usize> {
    n.checked_mul(each)
        .and_then(|total| total.checked_add(more))
        .ok_or_else(|| Error::invalid(format!("{name} is {n}: the buffers for it would be larger than memory")))
}

/// A string in UTF-8.
///
/// # Safety
/// `pointer` is NULL or points to bytes that end with a NUL and stay as they are while the result is used.
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(pointer, name) }?;
    std::str::from_utf8(bytes).map_err(|error| Error::invalid(format!("{name} is not UTF-8: {error}")))
}

/// A path, in whatever bytes the system takes.
///
/// # Safety
/// As of [`text`].
pub(super) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Result<&'a Path> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(pointer, name) }?;
    if bytes.is_empty() {
        return Err(Error::invalid(format!("{name} is empty; it must be a path")));
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

unsafe fn bytes<'a>(pointer: *const c_char, name: &str) -> Result<&'a [u8]> {
    check(pointer, 1, name)?;
    // SAFETY: not NULL; the rest is the caller's promise.
    Ok(unsafe { CStr::from_ptr(pointer) }.to_bytes())
}

/// Largest struct of the caller that is looked at: a wrong `type_size` must not make us read far.
const MAX_TYPE_SIZE: usize = 4096;

/// A struct that begins with its `type_size`, as the caller was compiled with it. A smaller, older one is filled up
/// with zeros; of a larger, newer one, the part unknown here must be zero.
///
/// # Safety
/// All zeros is a legal `T`; `T` is `repr(C)` and begins with a `usize`, its size; `pointer` is NULL or points to as
/// many bytes as the first of them says.
pub(super) unsafe fn sized<T: Copy>(pointer: *const T, oldest: usize, name: &str) -> Result<T> {
    check(pointer, 1, name)?;
    let known = size_of::<T>();
    // SAFETY: the caller's promise.
    let size = unsafe { pointer.cast::<usize>().read() };
    if !(oldest..=MAX_TYPE_SIZE).contains(&size) {
        return Err(Error::invalid(format!("{name}.type_size is {size}; set it to sizeof(tgpt_{name})")));
    }
    // SAFETY: the struct has `size` bytes, so it has those behind the ones known.
    let rest =
        unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known.min(size)), size.saturating_sub(known)) };
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Error::invalid(format!("{name} uses a field that this version of the library does not know")));
    }
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: both have at least that many bytes and are apart.
    unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast(), size.min(known)) };
    // SAFETY: zeros are legal, and the caller's fields are.
    Ok(unsafe { value.assume_init() })
}

/// That `fields` of struct `name` which are kept for later are zero.
pub(super) fn reserved(fields: &[u64], name: &str) -> Result<()> {
    match fields.iter().all(|&field| field == 0) {
        true => Ok(()),
        false => Err(Error::invalid(format!("{name}.reserved must be 0"))),
    }
}

fn check<T>(pointer: *const T, n: usize, name: &str) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid(format!("{name} is not aligned to {} bytes", align_of::<T>())));
    }
    let end = n.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
    if end.and_then(|bytes| pointer.addr().checked_add(bytes)).is_none() {
        return Err(Error::invalid(format!("{name}: {n} values would reach past all memory")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::{null, null_mut};

    #[test]
    fn buffers_that_cannot_be_are_refused() {
        let values = [0u32; 4];
        // SAFETY: none of these is followed, or it points to `values`.
        unsafe {
            assert_eq!(slice(values.as_ptr(), 4, "v").unwrap().len(), 4);
            assert!(slice::<u32>(null(), 0, "v").unwrap().is_empty());
            assert!(slice_mut::<u32>(null_mut(), 0, "v").unwrap().is_empty());
            assert!(slice::<u32>(null(), 1, "v").is_err());
            assert!(slice_mut::<u32>(null_mut(), 1, "v").is_err());
            assert!(slice(values.as_ptr().cast::<u8>().add(1).cast::<u32>(), 1, "v").is_err());
            assert!(slice(values.as_ptr(), usize::MAX / 2, "v").is_err());
            assert!(slice(values.as_ptr(), usize::MAX, "v").is_err());
            assert!(out::<u32>(null_mut(), "out").is_err());
        }
        assert!(count(usize::MAX, 1, 1, "n").is_err() && count(usize::MAX / 2, 3, 0, "n").is_err());
    }

    #[test]
    fn flows_are_checked_before_they_are_followed() {
        let packets = [Packet { size: 40, ipt_us: 0.0 }; 3];
        // SAFETY: the offsets accepted stay within `packets`; the others are not followed.
        let of = |offsets: &[u64]| unsafe { flows(packets.as_ptr(), offsets.as_ptr(), offsets.len() - 1) };
        assert_eq!(of(&[0, 1, 3]).unwrap().row(1).len(), 2);
        assert!(of(&[0]).unwrap().is_empty());
        for bad in [&[1, 2][..], &[0, 2, 1], &[0, u64::MAX], &[0, u64::MAX / 8], &[1]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        // SAFETY: NULL is legal for no flow, and refused for others.
        unsafe {
            assert!(flows(null(), null(), 0).unwrap().is_empty());
            assert!(flows(packets.as_ptr(), null(), 1).is_err());
            assert!(flows(packets.as_ptr(), [0].as_ptr(), usize::MAX).is_err());
            assert!(flows(null(), [0, 1].as_ptr(), 1).is_err());
            assert!(flows(null(), [0, 0].as_ptr(), 1).unwrap().row(0).is_empty());
        }
    }

    #[test]
    fn structs_of_other_versions_are_read_or_refused() {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Known {
            type_size: usize,
            a: u64,
            b: u64,
        }
        let mut memory = [0usize, 5, 6, 0, 0];
        let mut of = |size: usize, beyond: usize| {
            memory[0] = size;
            memory[3] = beyond;
            // SAFETY: sizes accepted stay within `memory`.
            unsafe { sized(memory.as_ptr().cast::<Known>(), 16, "known") }
        };
        let same = of(24, 9).unwrap();
        assert_eq!((same.type_size, same.a, same.b), (24, 5, 6));
        assert_eq!(of(16, 9).unwrap().b, 0);
        assert_eq!(of(40, 0).unwrap().b, 6);
        for (size, beyond) in [(0, 0), (15, 0), (40, 1), (usize::MAX, 0)] {
            assert!(of(size, beyond).is_err(), "{size}");
        }
    }

    #[test]
    fn strings_must_be_there_and_be_utf8() {
        // SAFETY: static strings, or NULL.
        unsafe {
            assert_eq!(text(c"a".as_ptr(), "key").unwrap(), "a");
            assert!(text(null(), "key").is_err() && text(c"\xff".as_ptr(), "key").is_err());
            assert!(path(c"\xff".as_ptr(), "bundle").is_ok() && path(c"".as_ptr(), "bundle").is_err());
        }
    }
}
