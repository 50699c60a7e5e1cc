//! Memory that the workers of a network share out among themselves.

use crate::error::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may still be taken.
#[derive(Debug)]
pub(super) struct Budget(AtomicUsize);

/// Bytes taken of a budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(AtomicUsize::new(bytes)))
    }

    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes `bytes` for `what`.
    pub(super) fn take(self: &Arc<Self>, bytes: usize, what: &str) -> Result<Share> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map(|_| Share { budget: self.clone(), bytes }).map_err(|left| {
            Error::new(
                Kind::NoMemory,
                format!(
                    "CUDA: {what} takes {bytes} bytes of the GPU's memory, and {left} are left of those allowed; give it \
                     less at once, use fewer workers, or raise cuda.memory"
                ),
            )
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_no_more_is_given_than_there_is() {
        let budget = Budget::new(100);
        let share = budget.take(60, "a test").unwrap();
        let error = budget.take(41, "a test").unwrap_err();
        assert_eq!((error.kind(), budget.left()), (Kind::NoMemory, 40));
        assert!(error.message().contains("41 bytes") && error.message().contains("40 are left"), "{error}");
        drop(share);
        assert!(budget.take(100, "a test").is_ok());
    }
}
