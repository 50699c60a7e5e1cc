//! Opaque handles: who owns what a pointer of C points to.
//!
//! A handle is a box whose first word tells its kind, so that NULL, a handle of another kind and, mostly, one already
//! freed are refused instead of followed. What a handle needs of its parents it holds by `Arc`: any order of frees is
//! legal.

use super::args;
use crate::error::{Error, Kind, Result};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// An opaque type of the header, and what is behind it.
pub(super) trait Opaque {
    /// What the handle holds.
    type Value: Send + Sync;
    /// The handle's name in messages.
    const NAME: &'static str;
    /// The first word of a live handle of this kind.
    const TAG: u64;
}

/// What a handle points to.
#[repr(C)]
struct Slot<V> {
    tag: AtomicU64,
    value: V,
}

/// The tag of a freed handle.
const FREED: u64 = 0;

/// Gives a new handle to the caller.
pub(super) fn give<H: Opaque>(out: args::Out<*mut H>, value: H::Value) {
    let slot = Box::new(Slot { tag: AtomicU64::new(H::TAG), value });
    out.write(Box::into_raw(slot).cast());
}

/// What `handle` holds.
///
/// # Safety
/// `handle` is NULL or a live handle of any kind, not freed while the result is used.
pub(super) unsafe fn get<'a, H: Opaque>(handle: *const H) -> Result<&'a H::Value> {
    // SAFETY: the caller's promise.
    unsafe { check(handle) }?;
    // SAFETY: the tag says that this is a live slot of this kind.
    Ok(unsafe { &(*handle.cast::<Slot<H::Value>>()).value })
}

/// Frees `handle`; NULL is nothing to free, and what is no such handle is left alone.
///
/// # Safety
/// `handle` is NULL or a live handle of any kind, and no call uses it.
pub(super) unsafe fn free<H: Opaque>(handle: *mut H) -> Result<()> {
    // SAFETY: the caller's promise.
    let tag = unsafe { check(handle) }?;
    tag.store(FREED, Relaxed);
    // SAFETY: `give` made it from a box, and by the caller's promise nobody else has it.
    drop(unsafe { Box::from_raw(handle.cast::<Slot<H::Value>>()) });
    Ok(())
}

/// The tag of `handle`, if it is one of its kind.
///
/// # Safety
/// As of [`get`].
unsafe fn check<'a, H: Opaque>(handle: *const H) -> Result<&'a AtomicU64> {
    let tag = handle.cast::<AtomicU64>();
    if tag.is_null() {
        return Err(Error::invalid(format!("{} is NULL", H::NAME)));
    }
    if !tag.is_aligned() {
        return Err(Error::invalid(format!("{} is not a handle of this library", H::NAME)));
    }
    // SAFETY: every handle begins with its tag.
    let tag = unsafe { &*tag };
    if tag.load(Relaxed) != H::TAG {
        return Err(Error::invalid(format!("{} is a handle of another kind, or was freed", H::NAME)));
    }
    Ok(tag)
}

/// Takes a handle's changing part for the length of a call: `Busy` if another thread is inside, `Panic` if a call
/// panicked there before.
pub(super) fn exclusive<'a, T>(state: &'a Mutex<T>, name: &str) -> Result<MutexGuard<'a, T>> {
    state.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => {
            Error::new(Kind::Busy, format!("{name} is in use on another thread; every thread needs its own"))
        }
        TryLockError::Poisoned(_) => Error::new(
            Kind::Panic,
            format!("{name} met an internal error in an earlier call; free it and make another"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::{null, null_mut};
    use std::sync::Arc;

    struct cat;
    impl Opaque for cat {
        type Value = Arc<u32>;
        const NAME: &'static str = "cat";
        const TAG: u64 = 0xca7;
    }
    struct dog;
    impl Opaque for dog {
        type Value = u8;
        const NAME: &'static str = "dog";
        const TAG: u64 = 0xd06;
    }

    #[test]
    fn handles_are_told_apart_and_freed_once() {
        let (shared, mut handle) = (Arc::new(3), null_mut::<cat>());
        // SAFETY: `handle` outlives its use; what `give` wrote is a live handle until `free`.
        unsafe {
            give(args::out(&raw mut handle, "out").unwrap(), Arc::clone(&shared));
            assert_eq!(**get(handle).unwrap(), 3);
            assert!(get::<cat>(null()).is_err() && free::<cat>(null_mut()).is_err());
            assert!(get(handle.cast::<dog>()).is_err());
            assert!(get(handle.cast::<u8>().add(1).cast::<cat>()).is_err());
            assert!(free(handle.cast::<dog>()).is_err());
            assert_eq!(Arc::strong_count(&shared), 2);
            free(handle).unwrap();
        }
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[test]
    fn state_is_refused_while_it_is_in_use_and_after_a_panic() {
        let state = Mutex::new(());
        let held = exclusive(&state, "worker").unwrap();
        assert_eq!(exclusive(&state, "worker").unwrap_err().kind(), Kind::Busy);
        drop(held);
        let panicked = std::thread::scope(|scope| {
            let call = || {
                let _held = exclusive(&state, "worker").unwrap();
                panic!("a bug");
            };
            scope.spawn(call).join().is_err()
        });
        assert!(panicked);
        assert_eq!(exclusive(&state, "worker").unwrap_err().kind(), Kind::Panic);
    }
}
