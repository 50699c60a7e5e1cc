//! Panics of the Parquet decoder, turned into errors: damaged pages trip assertions in it.

use crate::error::{Error, Result};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`catch`], whose panics are reported by its result and by nothing else.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `decode`; a panic inside is an error that says what the decoder said. What `decode` borrows mutably may be left
/// half changed by an error and must be dropped.
pub(super) fn catch<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(decode));
    QUIET.set(outer);
    outcome.unwrap_or_else(|payload| {
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given");
        Err(Error::format(format!("damaged Parquet file: {said}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_next_call_works() {
        let error = catch::<()>(|| panic!("page {} is odd", 7)).unwrap_err();
        assert!(error.message().contains("page 7 is odd"), "{error}");
        assert_eq!(catch(|| Ok(3)).unwrap(), 3);
    }
}
