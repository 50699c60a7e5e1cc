//! [`crate::Error`] → status and `tgpt_error`.

use crate::error::{Error, Kind};
use std::ffi::{CStr, c_char};

/// 0, or one of the negative `TGPT_E_*`. Numbers are never given another meaning; new ones may be added, so treat an
/// unknown negative number as a failure.
pub type tgpt_status = i32;

/// Done.
pub const TGPT_OK: tgpt_status = 0;
/// An argument or a setting is NULL, out of its range, or a reserved byte is not 0.
pub const TGPT_E_INVALID: tgpt_status = -1;
/// Memory, or a limit on memory, is exhausted.
pub const TGPT_E_NOMEM: tgpt_status = -2;
/// The operating system refused: a file is missing or unreadable.
pub const TGPT_E_IO: tgpt_status = -3;
/// A file is damaged or is not what it should be.
pub const TGPT_E_FORMAT: tgpt_status = -4;
/// A bundle is of a newer format than this library reads.
pub const TGPT_E_VERSION: tgpt_status = -5;
/// Parts that do not belong together.
pub const TGPT_E_MISMATCH: tgpt_status = -6;
/// The runtime of the engine that was asked for is not there; the message says how to get it.
pub const TGPT_E_NO_RUNTIME: tgpt_status = -7;
/// The runtime of the engine failed.
pub const TGPT_E_RUNTIME: tgpt_status = -8;
/// The handle is in use on another thread.
pub const TGPT_E_BUSY: tgpt_status = -9;
/// A buffer is too small; `*needed` says how large it must be.
pub const TGPT_E_NOSPACE: tgpt_status = -10;
/// A bug in this library, caught. A worker or config that was in the call refuses every call from then on and can only
/// be freed; models are immutable and stay usable.
pub const TGPT_E_PANIC: tgpt_status = -99;

/// What went wrong, filled by the call if the caller passes one. Frozen: 512 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgpt_error {
    /// The status that the call returned.
    pub code: tgpt_status,
    /// A sentence in UTF-8 that names what, where and, where there is one, the remedy. Always ends with a NUL; empty
    /// after success; a longer one is cut and ends in "...".
    pub msg: [c_char; 508],
}

/// The status of each kind of error.
pub(super) fn status(kind: Kind) -> tgpt_status {
    match kind {
        Kind::Invalid => TGPT_E_INVALID,
        Kind::NoMemory => TGPT_E_NOMEM,
        Kind::Io => TGPT_E_IO,
        Kind::Format => TGPT_E_FORMAT,
        Kind::Version => TGPT_E_VERSION,
        Kind::Mismatch => TGPT_E_MISMATCH,
        Kind::NoRuntime => TGPT_E_NO_RUNTIME,
        // Only the trainer can be interrupted; were it ever to come from below, it is a run that did not finish.
        Kind::Runtime | Kind::Interrupted => TGPT_E_RUNTIME,
        Kind::Busy => TGPT_E_BUSY,
        Kind::NoSpace => TGPT_E_NOSPACE,
        Kind::Panic => TGPT_E_PANIC,
    }
}

impl tgpt_error {
    /// The error of a call that succeeded.
    const fn none() -> Self {
        Self { code: TGPT_OK, msg: [0; 508] }
    }

    /// Code and message of `error`, cut at a character's end to leave room for the NUL.
    fn of(error: &Error) -> Self {
        const CUT: &str = "...";
        let mut out = Self { code: status(error.kind()), ..Self::none() };
        let room = out.msg.len() - 1;
        let text = error.message();
        let (kept, tail) =
            if text.len() <= room { (text, "") } else { (&text[..text.floor_char_boundary(room - CUT.len())], CUT) };
        // A NUL inside would end the message early.
        let bytes = kept.bytes().chain(tail.bytes()).map(|b| if b == 0 { b'?' } else { b });
        for (to, byte) in out.msg.iter_mut().zip(bytes) {
            *to = byte as c_char;
        }
        out
    }

    /// Reports `result` to `to`, if there is one, and gives its status.
    ///
    /// # Safety
    /// `to` is NULL or points to a `tgpt_error` that nobody else uses during the call.
    pub(super) unsafe fn report(to: *mut Self, result: &Result<(), Error>) -> tgpt_status {
        match result {
            Ok(()) => {
                if !to.is_null() {
                    // SAFETY: the caller's promise. Written through the pointer: the memory may be uninitialised.
                    unsafe { (&raw mut (*to).code).write(TGPT_OK) };
                    // SAFETY: as above.
                    unsafe { (&raw mut (*to).msg).cast::<c_char>().write(0) };
                }
                TGPT_OK
            }
            Err(error) => {
                let report = Self::of(error);
                if !to.is_null() {
                    // SAFETY: the caller's promise.
                    unsafe { to.write(report) };
                }
                report.code
            }
        }
    }
}

/// A few words for `status`, for messages where no `tgpt_error` was passed.
///
/// Returns a static string, also for numbers that are no status.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub extern "C" fn tgpt_status_str(status: tgpt_status) -> *const c_char {
    let text: &CStr = match status {
        TGPT_OK => c"success",
        TGPT_E_INVALID => c"invalid argument",
        TGPT_E_NOMEM => c"out of memory",
        TGPT_E_IO => c"input/output error",
        TGPT_E_FORMAT => c"damaged or foreign file",
        TGPT_E_VERSION => c"format newer than this library",
        TGPT_E_MISMATCH => c"parts that do not belong together",
        TGPT_E_NO_RUNTIME => c"runtime not found",
        TGPT_E_RUNTIME => c"runtime failed",
        TGPT_E_BUSY => c"handle in use on another thread",
        TGPT_E_NOSPACE => c"buffer too small",
        TGPT_E_PANIC => c"internal error of the library",
        _ => c"unknown status",
    };
    text.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &tgpt_error) -> &str {
        let bytes: &[u8] = bytemuck::cast_slice(&error.msg);
        CStr::from_bytes_until_nul(bytes).unwrap().to_str().unwrap()
    }

    #[test]
    fn messages_are_cut_at_a_character_and_ended() {
        for n in 490..520 {
            let long = "é".repeat(n / 2) + &"x".repeat(n % 2);
            let out = tgpt_error::of(&Error::invalid(long.clone()));
            assert_eq!(out.msg[507], 0);
            let got = text(&out);
            match long.len() <= 507 {
                true => assert_eq!(got, long),
                false => assert!(got.len() >= 506 && long.starts_with(got.strip_suffix("...").unwrap())),
            }
        }
        assert_eq!(text(&tgpt_error::of(&Error::invalid("a\0b"))), "a?b");
    }

    #[test]
    fn a_report_may_go_nowhere_and_success_clears_the_message() {
        let failure = Err(Error::new(Kind::Busy, "in use"));
        // SAFETY: NULL is legal.
        assert_eq!(unsafe { tgpt_error::report(std::ptr::null_mut(), &failure) }, TGPT_E_BUSY);
        let mut error = tgpt_error::none();
        // SAFETY: `error` is ours.
        assert_eq!(unsafe { tgpt_error::report(&mut error, &failure) }, TGPT_E_BUSY);
        assert_eq!((error.code, text(&error)), (TGPT_E_BUSY, "in use"));
        // SAFETY: `error` is ours.
        assert_eq!(unsafe { tgpt_error::report(&mut error, &Ok(())) }, TGPT_OK);
        assert_eq!((error.code, text(&error)), (TGPT_OK, ""));
    }

    #[test]
    fn every_status_has_its_own_words() {
        let words = |s| {
            // SAFETY: a static string.
            unsafe { CStr::from_ptr(tgpt_status_str(s)) }
        };
        let kinds = [
            Kind::Invalid,
            Kind::NoMemory,
            Kind::Io,
            Kind::Format,
            Kind::Version,
            Kind::Mismatch,
            Kind::NoRuntime,
            Kind::Runtime,
            Kind::Busy,
            Kind::NoSpace,
            Kind::Panic,
        ];
        let mut seen: Vec<_> = kinds.iter().map(|&k| words(status(k))).chain([words(TGPT_OK), words(7)]).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), kinds.len() + 2);
    }
}
