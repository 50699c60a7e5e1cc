//! Sums over GPUs, by NVIDIA's NCCL, which is loaded at run time as the driver is.
//!
//! The C API is that of NCCL 2. A sum is of `2 (n - 1) / n` of its bytes each way over every link of n ranks, whatever NCCL
//! makes of it; all ranks get the same bits.

use super::device::Device;
use super::gpt2::Buffer;
use crate::backend::loader;
use crate::error::{Error, Kind, Result};
use cudarc::driver::DriverError;
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The library, by the name of its ABI.
const LIBRARY: &str = "libnccl.so.2";

/// `ncclSuccess`, `ncclFloat32` and `ncclSum`.
const SUCCESS: c_int = 0;
const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// What one rank makes and all begin with: `ncclUniqueId`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Id([u8; Id::BYTES]);

type Handle = *mut c_void;

/// The functions that are used.
struct Api {
    get_unique_id: unsafe extern "C" fn(*mut Id) -> c_int,
    init_rank: unsafe extern "C" fn(*mut Handle, c_int, Id, c_int) -> c_int,
    all_reduce: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, *mut c_void) -> c_int,
    async_error: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    abort: unsafe extern "C" fn(Handle) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Never unloaded: it leaves threads behind.
    _library: ManuallyDrop<Library>,
}

impl Api {
    /// The library, loaded when it is asked for first.
    fn get() -> Result<&'static Self> {
        static API: OnceLock<std::result::Result<Api, String>> = OnceLock::new();
        let loaded =
            API.get_or_init(|| if loader::is_missing() { Err("linked with -static".into()) } else { Self::load() });
        loaded.as_ref().map_err(|why| {
            Error::new(
                Kind::NoRuntime,
                format!(
                    "NCCL: {LIBRARY} cannot be loaded ({why}): install NCCL 2 (`pip install nvidia-nccl-cu12` has it) and put \
                     its directory into LD_LIBRARY_PATH, or train on one GPU"
                ),
            )
        })
    }

    fn load() -> std::result::Result<Self, String> {
        // SAFETY: loading runs the library's initialisers, which is what the caller asks for.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|e| e.to_string())?;
        /// A function of the library.
        fn find<F: Copy>(library: &Library, name: &'static [u8]) -> std::result::Result<F, String> {
            // SAFETY: each field of `Api` has the type that nccl.h declares for its function, in all releases of NCCL 2.
            unsafe { library.get::<F>(name) }.map(|function| *function).map_err(|e| e.to_string())
        }
        Ok(Self {
            get_unique_id: find(&library, b"ncclGetUniqueId\0")?,
            init_rank: find(&library, b"ncclCommInitRank\0")?,
            all_reduce: find(&library, b"ncclAllReduce\0")?,
            async_error: find(&library, b"ncclCommGetAsyncError\0")?,
            abort: find(&library, b"ncclCommAbort\0")?,
            error_string: find(&library, b"ncclGetErrorString\0")?,
            _library: ManuallyDrop::new(library),
        })
    }

    fn check(&self, what: &str, status: c_int) -> Result<()> {
        if status == SUCCESS {
            return Ok(());
        }
        // SAFETY: the function takes any number and returns a constant, or null.
        let text = unsafe { (self.error_string)(status) };
        let words = match text.is_null() {
            true => "no description".into(),
            // SAFETY: the C API promises a NUL-terminated constant.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy(),
        };
        Err(failed(what, &format!("{words} (status {status})")))
    }
}

fn failed(what: &str, words: &str) -> Error {
    Error::new(Kind::Runtime, format!("NCCL, {what}: {words}; start with NCCL_DEBUG=WARN to hear more"))
}

/// Says what is missing where NCCL cannot be loaded, before it is needed.
///
/// # Errors
/// [`Kind::NoRuntime`].
pub fn check() -> Result<()> {
    Api::get().map(|_| ())
}

impl Id {
    /// Bytes of it.
    pub const BYTES: usize = 128;

    /// A new one, of this process: rank 0 makes it and tells the others.
    pub fn new() -> Result<Self> {
        let (api, mut id) = (Api::get()?, Self([0; Self::BYTES]));
        // SAFETY: the function writes as many bytes as the struct has.
        api.check("making an id", unsafe { (api.get_unique_id)(&raw mut id) })?;
        Ok(id)
    }

    /// The bytes that [`Self::from_bytes`] takes.
    pub fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// The id that another process made.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

/// Values of f32 in a GPU's memory.
pub struct Floats {
    buffer: Buffer,
    len: usize,
}

impl Floats {
    /// `len` zeros on `device`; `what` says what for.
    pub fn zeros(device: &Device, len: usize, what: &str) -> Result<Self> {
        Ok(Self { buffer: Buffer::zeros(device, len * size_of::<f32>(), what)?, len })
    }

    /// A copy of `values` on `device`.
    pub fn of(device: &Device, values: &[f32]) -> Result<Self> {
        Ok(Self { buffer: Buffer::of(device, values, "values to sum")?, len: values.len() })
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where value `i` lies.
    pub fn at(&self, i: usize) -> u64 {
        self.buffer.at(size_of::<f32>() * i)
    }

    /// Copies `values` to the beginning; there must be room for them.
    pub fn write(&mut self, device: &Device, values: &[f32]) -> Result<()> {
        self.buffer.write(device, values, "values to sum")
    }

    /// Copies them back; there must be room for no more than there are.
    pub fn read(&self, device: &Device, values: &mut [f32]) -> Result<()> {
        self.buffer.read(device, values, "sums")
    }
}

/// A handle that goes to the thread that uses it.
struct Sent(Handle);

// SAFETY: NCCL's communicators may be used by any thread, by one at a time.
unsafe impl Send for Sent {}

/// One rank's end of what connects the GPUs.
pub struct Communicator {
    api: &'static Api,
    device: Arc<Device>,
    handle: Sent,
    timeout: Duration,
    is_broken: bool,
}

impl Communicator {
    /// Joins `size` ranks, each with a GPU of its own and the same `id`, as number `rank`. Returns once all have come.
    ///
    /// # Errors
    /// If NCCL is not there, if it fails, and if the others have not come within `timeout`; a sum that takes as long is an
    /// error too.
    pub fn new(device: &Arc<Device>, id: Id, rank: usize, size: usize, timeout: Duration) -> Result<Self> {
        let api = Api::get()?;
        let number = |n: usize| c_int::try_from(n).map_err(|_| Error::invalid(format!("{n} ranks are too many")));
        if rank >= size {
            return Err(Error::invalid(format!("rank {rank} of {size}: ranks count from 0")));
        }
        let (rank, size) = (number(rank)?, number(size)?);
        let (of_thread, (done, joined)) = (device.clone(), channel());
        // Joining waits for the others for as long as they take; where that is too long, the thread is left behind.
        std::thread::Builder::new()
            .name("nccl-join".into())
            .spawn(move || {
                let join = || {
                    of_thread.bind()?;
                    let mut handle = std::ptr::null_mut();
                    // SAFETY: the handle is written before the function returns, and the id is passed by value.
                    api.check("joining", unsafe { (api.init_rank)(&raw mut handle, size, id, rank) })?;
                    match handle.is_null() {
                        true => Err(failed("joining", "no communicator came back")),
                        false => Ok(Sent(handle)),
                    }
                };
                if let Err(unclaimed) = done.send(join())
                    && let Ok(Sent(handle)) = unclaimed.0
                {
                    // SAFETY: nobody else has the handle.
                    unsafe { (api.abort)(handle) };
                }
            })
            .map_err(|e| Error::new(Kind::NoMemory, format!("a thread to join NCCL: {e}")))?;
        let seconds = timeout.as_secs_f64();
        let handle = joined
            .recv_timeout(timeout)
            .map_err(|_| failed("joining", &format!("the other ranks have not come within {seconds} s")))??;
        Ok(Self { api, device: device.clone(), handle, timeout, is_broken: false })
    }

    /// Replaces `values` by their sums over all ranks, and waits for them. After an error nothing can be summed any more.
    pub fn sum(&mut self, values: &mut Floats) -> Result<()> {
        if self.is_broken {
            return Err(failed("summing", "an earlier sum has failed"));
        }
        let result = self.try_sum(values);
        self.is_broken = result.is_err();
        result
    }

    fn try_sum(&self, values: &mut Floats) -> Result<()> {
        if values.len == 0 {
            return Ok(());
        }
        let (what, api, handle, count) = ("summing", self.api, self.handle.0, values.len);
        let mut status = SUCCESS;
        let event = self.device.run(what, |stream| -> std::result::Result<_, DriverError> {
            stream.context().bind_to_thread()?;
            let address = values.buffer.begin() as *mut c_void;
            // SAFETY: `count` values lie at the address, which nothing else uses while `values` is borrowed; the stream is of
            // the GPU that the communicator was made on, and what was asked for on it before is done first.
            status =
                unsafe { (api.all_reduce)(address, address, count, FLOAT32, SUM, handle, stream.cu_stream().cast()) };
            stream.record_event(None)
        })?;
        api.check(what, status)?;
        let state = || {
            let mut state = SUCCESS;
            // SAFETY: the function writes one status.
            api.check(what, unsafe { (api.async_error)(handle, &raw mut state) })?;
            api.check(what, state)
        };
        if self.device.is_done(what, &event, self.timeout, state)? {
            return Ok(());
        }
        let seconds = self.timeout.as_secs_f64();
        Err(failed(what, &format!("it takes longer than {seconds} s: a rank or a link is gone")))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // Every sum has been waited for, or has failed: there is nothing that an orderly end would wait for, as it might for ever
        // where a rank is gone. A GPU that has been given up would be waited for in any case.
        if !self.device.is_lost() {
            // SAFETY: the handle is used no more.
            unsafe { (self.api.abort)(self.handle.0) };
        }
    }
}

impl std::fmt::Debug for Communicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Communicator").field("device", &self.device).finish_non_exhaustive()
    }
}
