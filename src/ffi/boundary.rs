//! The panic guard: what every exported function runs inside.
//!
//! A panic is a bug of this library. It must neither unwind into C nor abort the host nor print, so it becomes
//! `TGPT_E_PANIC` and a line for the host's log. The hook that silences it is the process's, for a host that is itself
//! written in Rust and links the library statically; it therefore hands on every panic that is not ours.

use super::error::{tgpt_error, tgpt_status};
use super::log::{Log, TGPT_LOG_ERROR};
use crate::error::{Error, Kind, Result};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// How many guarded calls this thread is inside of: a log hook may call the library again.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the panic in flight on this thread began.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How the name of every thread begins that the library starts (`engine::native`); a panic there travels to the guarded call that waits
/// for it.
const OWN_THREADS: &str = "tgpt-";

/// What a guarded call tells the guard while it runs.
#[derive(Default)]
pub(super) struct Call {
    log: Cell<Log>,
}

impl Call {
    /// From here on, a panic of this call is logged to `log`.
    pub(super) fn log_to(&self, log: Log) {
        self.log.set(log);
    }
}

/// Runs a function that reports to `error`. A panic in `body` comes back as [`Kind::Panic`].
///
/// # Safety
/// `error` is NULL or points to a `tgpt_error` that nobody else uses during the call.
pub(super) unsafe fn guard(error: *mut tgpt_error, body: impl FnOnce(&Call) -> Result<()>) -> tgpt_status {
    let call = Call::default();
    let result = catch(|| body(&call)).unwrap_or_else(|bug| {
        call.log.get().write(TGPT_LOG_ERROR, bug.message());
        Err(bug)
    });
    // SAFETY: the caller's promise.
    unsafe { tgpt_error::report(error, &result) }
}

/// Runs a function that returns a value and cannot report: `otherwise` stands for every failure.
pub(super) fn guard_value<T>(otherwise: T, body: impl FnOnce() -> Result<T>) -> T {
    catch(body).and_then(|result| result).unwrap_or(otherwise)
}

/// Runs `body`; a panic in it is an error that tells where it was and what it said.
fn catch<T>(body: impl FnOnce() -> T) -> Result<T> {
    install_hook();
    // The thread-local may be gone when a host frees handles while its thread ends; then a panic is not silenced, but
    // still caught.
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() + 1));
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    let _ = DEPTH.try_with(|depth| depth.set(depth.get() - 1));
    result.map_err(|payload| {
        let place = PLACE.try_with(RefCell::take).ok().flatten();
        let message = describe(payload.as_ref(), place.as_deref());
        // Dropping a payload can run anyone's code, which may panic again; a bug may leak a few bytes.
        std::mem::forget(payload);
        Error::new(Kind::Panic, message)
    })
}

fn describe(payload: &(dyn Any + Send), place: Option<&str>) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    format!("internal error at {}: {text}; please report it", place.unwrap_or("another thread"))
}

/// Puts a hook before the process's, once, that keeps our own panics to ourselves.
fn install_hook() {
    static ONCE: Once = Once::new();
    // A thread that unwinds may not change the hook; it may still free handles. A later call will do it.
    if ONCE.is_completed() || std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !keep(info) {
                others(info)
            }
        }));
    });
}

/// Notes where the panic was and says true, if it is ours.
fn keep(info: &PanicHookInfo<'_>) -> bool {
    if DEPTH.try_with(Cell::get).unwrap_or(0) > 0 {
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line()));
        let _ = PLACE.try_with(|p| p.replace(place));
        return true;
    }
    std::thread::current().name().is_some_and(|name| name.starts_with(OWN_THREADS))
}

#[cfg(test)]
mod tests {
    use super::super::error::{TGPT_E_PANIC, TGPT_OK};
    use super::super::log::tgpt_hooks;
    use super::*;
    use std::ffi::{c_char, c_void};
    use std::process::Command;
    use std::ptr::null_mut;

    fn bug() -> Result<()> {
        panic!("the bug")
    }

    unsafe extern "C" fn collect(user: *mut c_void, level: i32, msg: *const c_char, len: usize) {
        // SAFETY: `user` is the test's vector, `msg` a line of `len` bytes.
        unsafe {
            let line = std::slice::from_raw_parts(msg.cast::<u8>(), len);
            (*user.cast::<Vec<(i32, String)>>()).push((level, String::from_utf8(line.to_vec()).unwrap()));
        }
    }

    #[test]
    fn a_panic_becomes_a_status_and_a_line_of_the_log() {
        let mut lines: Vec<(i32, String)> = Vec::new();
        let user = (&raw mut lines).cast();
        let log = Log::of(&tgpt_hooks { type_size: 0, user, log: Some(collect), reserved: [0; 4] });
        let run = |body: &dyn Fn() -> Result<()>| {
            // SAFETY: NULL is legal.
            unsafe {
                guard(null_mut(), |call| {
                    call.log_to(log);
                    body()
                })
            }
        };
        assert_eq!(run(&bug), TGPT_E_PANIC);
        assert_eq!(run(&|| Ok(())), TGPT_OK);
        let [(TGPT_LOG_ERROR, line)] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.contains("the bug") && line.contains("boundary.rs:"), "{line}");
        assert_eq!(guard_value(7, || bug().map(|()| 8)), 7);
    }

    #[test]
    fn a_payload_of_another_type_and_one_that_panics_when_dropped_are_caught() {
        struct Mine;
        impl Drop for Mine {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        // SAFETY: NULL is legal.
        let status = unsafe { guard(null_mut(), |_| panic::panic_any(Mine)) };
        assert_eq!(status, TGPT_E_PANIC);
    }

    /// Runs itself again as a process, to see all that reaches its stderr.
    #[test]
    fn only_the_hosts_own_panics_reach_stderr() {
        const CHILD: &str = "TRAFFICGPT_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            // SAFETY: NULL is legal.
            assert_eq!(unsafe { guard(null_mut(), |_| bug()) }, TGPT_E_PANIC);
            let ours = std::thread::Builder::new().name("tgpt-0".into()).spawn(|| panic!("in the pool")).unwrap();
            assert!(ours.join().is_err());
            assert!(std::thread::spawn(|| panic!("of the host")).join().is_err());
            return;
        }
        let name = "ffi::boundary::tests::only_the_hosts_own_panics_reach_stderr";
        let child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8(child.stderr).unwrap();
        assert!(child.status.success(), "{stderr}");
        assert!(stderr.contains("of the host"), "{stderr}");
        assert!(!stderr.contains("the bug") && !stderr.contains("in the pool"), "{stderr}");
    }
}
