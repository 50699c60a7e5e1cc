//! The host's log hook.

use std::ffi::{c_char, c_void};

/// A bug of the library, caught.
pub const TGPT_LOG_ERROR: i32 = 1;
/// What was loaded, and which engine was chosen.
pub const TGPT_LOG_INFO: i32 = 3;

/// Functions of the host that the library calls. Set `type_size` to `sizeof(tgpt_hooks)` and everything unused to 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgpt_hooks {
    /// `sizeof(tgpt_hooks)` of the caller.
    pub type_size: usize,
    /// Handed to every hook as it is.
    pub user: *mut c_void,
    /// Takes one line of the log: `level` is one of `TGPT_LOG_*` (new ones may come), `msg` is UTF-8 of `len` bytes
    /// with a NUL behind it, valid during the call. Called on the thread that is inside a `tgpt_*` call; several may
    /// be at once. It must return: no longjmp, no exception.
    pub log: Option<unsafe extern "C" fn(user: *mut c_void, level: i32, msg: *const c_char, len: usize)>,
    /// 0.
    pub reserved: [u64; 4],
}

/// Where log lines go: the host's hook, or nowhere.
#[derive(Clone, Copy, Default)]
pub(super) struct Log(Option<Hook>);

#[derive(Clone, Copy)]
struct Hook {
    call: unsafe extern "C" fn(*mut c_void, i32, *const c_char, usize),
    user: *mut c_void,
}

// SAFETY: `user` is never dereferenced here, and the header demands a hook that any thread may call.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    /// The hook in `hooks`, if it has one.
    pub(super) fn of(hooks: &tgpt_hooks) -> Self {
        Self(hooks.log.map(|call| Hook { call, user: hooks.user }))
    }

    /// Writes one line.
    pub(super) fn write(self, level: i32, message: &str) {
        let Some(hook) = self.0 else { return };
        let mut line: Vec<u8> = message.bytes().map(|b| if b == 0 { b'?' } else { b }).collect();
        line.push(0);
        // SAFETY: the host gave a function of this type and promised that any thread may call it; the line outlives
        // the call.
        unsafe { (hook.call)(hook.user, level, line.as_ptr().cast(), line.len() - 1) };
    }
}
