//! One GPU: finding it, and running driver calls on it so that every failure becomes an [`Error`].

use crate::backend::loader;
use crate::error::{Error, Kind, Result};
use cudarc::driver::sys::{CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Compute capability the kernels are compiled for; GPUs of a later one run them too.
const NEEDED: (i32, i32) = (8, 0);

/// The first driver that takes the version of PTX that the kernels are in.
const NEEDED_DRIVER: &str = "530";

/// How long it is asked without a pause whether something is done.
const SPIN: Duration = Duration::from_millis(2);

/// Time between two questions after that.
const PAUSE: Duration = Duration::from_micros(200);

/// Bytes that the driver takes from the host's memory at once; what is longer waits for what was asked for before.
const TAKEN_AT_ONCE: usize = 1 << 16;

/// Number of GPUs that this process may use. Without a driver, or where it does not start, an error of
/// [`Kind::NoRuntime`]; a driver without a GPU is one too.
pub fn count() -> Result<usize> {
    if loader::is_missing() {
        return Err(Error::new(
            Kind::NoRuntime,
            "this program is linked with -static, and such a program cannot load the CUDA driver: link libtrafficgpt.a without \
             -static, or choose the CPU",
        ));
    }
    // SAFETY: loading the driver's library runs its initialisers, which is what the caller asks for.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(no_runtime("the CUDA driver's library, libcuda.so.1, is not on this machine"));
    }
    match guarded("counting GPUs", CudaContext::device_count)? {
        n @ 1.. => Ok(n as usize),
        _ => Err(no_runtime("the CUDA driver finds no GPU")),
    }
}

fn no_runtime(what: impl std::fmt::Display) -> Error {
    Error::new(
        Kind::NoRuntime,
        format!(
            "CUDA: {what}. Install NVIDIA's driver, {NEEDED_DRIVER} or later, and see that `nvidia-smi` lists a GPU, that \
             CUDA_VISIBLE_DEVICES does not hide it and that a container is given it; or choose the CPU, which needs none \
             of this"
        ),
    )
}

/// A GPU, ready to run kernels. Shared by any number of threads; what they ask for runs one after the other.
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    uuid: [u8; 16],
    multiprocessors: usize,
    /// How long it may take to do what it was asked for; as long as it likes, if not set.
    patience: OnceLock<Duration>,
    /// Whether it took longer: nothing is asked of it any more, since that might never return.
    is_lost: AtomicBool,
}

impl Device {
    /// GPU number `ordinal`, from 0 on. Nothing of CUDA has been touched before the first call.
    pub fn open(ordinal: usize) -> Result<Arc<Self>> {
        let n = count()?;
        if ordinal >= n {
            return Err(Error::invalid(format!("GPU {ordinal} was asked for; there are {n}, from 0 on")));
        }
        let what = format!("opening GPU {ordinal}");
        let context = guarded(&what, || CudaContext::new(ordinal))?;
        let name = guarded(&what, || context.name())?;
        let capability = guarded(&what, || context.compute_capability())?;
        if capability < NEEDED {
            let ((major, minor), (need_major, need_minor)) = (capability, NEEDED);
            return Err(no_runtime(format!(
                "GPU {ordinal}, {name}, has compute capability {major}.{minor}; {need_major}.{need_minor} is needed"
            )));
        }
        let multiprocessors =
            guarded(&what, || context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT))?;
        let uuid = guarded(&what, || context.uuid())?.bytes.map(|byte| byte as u8);
        let stream = guarded(&what, || context.new_stream())?;
        let multiprocessors = multiprocessors.max(1) as usize;
        Ok(Arc::new(Self::of(context, stream, name, uuid, multiprocessors)))
    }

    fn of(
        context: Arc<CudaContext>,
        stream: Arc<CudaStream>,
        name: String,
        uuid: [u8; 16],
        multiprocessors: usize,
    ) -> Self {
        let (patience, is_lost) = (OnceLock::new(), AtomicBool::new(false));
        Self { context, stream, name, uuid, multiprocessors, patience, is_lost }
    }

    /// The same GPU with a stream of its own: what is asked for through one does not wait for the other. Memory that was
    /// written through one may be read through the other once that has been waited for.
    pub fn beside(&self) -> Result<Arc<Self>> {
        let stream = guarded("making a stream", || self.context.new_stream())?;
        let beside = Self::of(self.context.clone(), stream, self.name.clone(), self.uuid, self.multiprocessors);
        self.patience.get().inspect(|&&patience| beside.give_up_after(patience));
        Ok(Arc::new(beside))
    }

    /// Processors of the GPU that each run blocks.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Its name, as the driver tells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What no other GPU has: the same for all processes that see this one.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// From now on the GPU is given up when what was asked for takes longer than `patience`: an error instead of a wait without
    /// end. The first call counts.
    pub fn give_up_after(&self, patience: Duration) {
        self.patience.get_or_init(|| patience);
    }

    /// Bytes of its memory: free now, and in all.
    pub fn memory(&self) -> Result<(usize, usize)> {
        guarded("asking for free memory", || self.context.mem_get_info())
    }

    /// Waits until all that was asked for is done.
    pub fn synchronize(&self) -> Result<()> {
        self.wait("waiting")?;
        self.run("waiting", |stream| stream.synchronize())
    }

    /// Waits until all that was asked for is done, if the GPU is to be given up at some time, so that what follows does not wait.
    pub(super) fn wait(&self, what: &str) -> Result<()> {
        let Some(&patience) = self.patience.get() else { return Ok(()) };
        let event = self.run(what, |stream| stream.record_event(None))?;
        if self.is_done(what, &event, patience, || Ok(()))? {
            return Ok(());
        }
        Err(self.lost(what, &format!("has not answered for {} s", patience.as_secs_f64())))
    }

    /// The same before `bytes` bytes are copied to it.
    pub(super) fn wait_to_copy(&self, what: &str, bytes: usize) -> Result<()> {
        if bytes > TAKEN_AT_ONCE { self.wait(what) } else { Ok(()) }
    }

    /// Whether `event` has come within `patience`, or else the GPU is given up; `check` may end the wait with an error.
    pub(super) fn is_done(
        &self,
        what: &str,
        event: &CudaEvent,
        patience: Duration,
        check: impl Fn() -> Result<()>,
    ) -> Result<bool> {
        let began = Instant::now();
        loop {
            check()?;
            if self.run(what, |_| event.try_is_complete())? {
                return Ok(true);
            }
            match began.elapsed() {
                waited if waited > patience => {
                    self.is_lost.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                waited if waited > SPIN => std::thread::sleep(PAUSE),
                _ => std::thread::yield_now(),
            }
        }
    }

    /// Whether the GPU has been given up.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    fn lost(&self, what: &str, why: &str) -> Error {
        Error::new(
            Kind::Runtime,
            format!(
                "CUDA, {what}: GPU {} {why} and is given up: start this process anew once nvidia-smi answers for it, or go on \
                 with another",
                self.name
            ),
        )
    }

    /// Runs driver calls on the device's stream; `what` says what they are for.
    pub(super) fn run<T>(
        &self,
        what: &str,
        calls: impl FnOnce(&Arc<CudaStream>) -> Result<T, DriverError>,
    ) -> Result<T> {
        if self.is_lost() {
            return Err(self.lost(what, "has not answered in time"));
        }
        guarded(what, || calls(&self.stream)).map_err(|e| e.at(format_args!("GPU {}", self.name)))
    }

    /// Makes the GPU the one that this thread's calls of CUDA are for.
    pub(super) fn bind(&self) -> Result<()> {
        self.run("choosing the GPU", |stream| stream.context().bind_to_thread())
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // To release the context of a GPU that hangs may take as long as it hangs.
        if self.is_lost() {
            std::mem::forget(self.context.clone());
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Runs driver calls. cudarc panics where the driver lacks a function; that is an error like others here.
fn guarded<T>(what: &str, calls: impl FnOnce() -> Result<T, DriverError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(calls)) {
        Ok(result) => result.map_err(|e| failure(what, e.0, &describe(e))),
        Err(_) => Err(no_runtime(format!("the driver lacks a function, so it is too old ({what})"))),
    }
}

/// The driver's own words, as far as it has any.
fn describe(error: DriverError) -> String {
    let text = catch_unwind(|| error.error_string().ok().map(|text| text.to_string_lossy().into_owned()));
    let text = text.ok().flatten().unwrap_or_else(|| "no description".into());
    format!("{:?}: {text}", error.0)
}

/// The error for the driver's status `code`.
fn failure(what: &str, code: CUresult, words: &str) -> Error {
    use CUresult as C;
    match code {
        C::CUDA_ERROR_OUT_OF_MEMORY => Error::new(
            Kind::NoMemory,
            format!(
                "CUDA, {what}: the GPU's memory is exhausted ({words}); give it less at once, or free what others hold"
            ),
        ),
        C::CUDA_ERROR_NO_DEVICE
        | C::CUDA_ERROR_STUB_LIBRARY
        | C::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        | C::CUDA_ERROR_SYSTEM_NOT_READY
        | C::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE
        | C::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | C::CUDA_ERROR_NO_BINARY_FOR_GPU
        | C::CUDA_ERROR_JIT_COMPILER_NOT_FOUND => no_runtime(format!("{what}: {words}")),
        C::CUDA_ERROR_ILLEGAL_ADDRESS
        | C::CUDA_ERROR_LAUNCH_FAILED
        | C::CUDA_ERROR_LAUNCH_TIMEOUT
        | C::CUDA_ERROR_HARDWARE_STACK_ERROR
        | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | C::CUDA_ERROR_MISALIGNED_ADDRESS
        | C::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | C::CUDA_ERROR_INVALID_PC
        | C::CUDA_ERROR_ECC_UNCORRECTABLE
        | C::CUDA_ERROR_ASSERT => Error::new(
            Kind::Runtime,
            format!(
                "CUDA, {what}: {words}; this process can use the GPU no longer: start it anew, or go on with the CPU"
            ),
        ),
        _ => Error::new(Kind::Runtime, format!("CUDA, {what}: {words}")),
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "says why a test was skipped")]
mod tests {
    use super::*;

    /// Either way there is no panic; which way depends on the machine.
    #[test]
    fn opening_a_gpu_works_or_says_what_to_do() {
        match Device::open(0) {
            Ok(device) => assert!(!device.name().is_empty()),
            Err(error) => {
                assert_eq!(error.kind(), Kind::NoRuntime, "{error}");
                for part in ["CUDA", "nvidia-smi", "CPU"] {
                    assert!(error.message().contains(part), "{error}");
                }
                println!("skipped: {error}");
            }
        }
    }

    #[test]
    fn a_missing_function_is_an_error_not_a_panic() {
        let error = guarded("testing", || -> Result<(), DriverError> { panic!("as cudarc does") }).unwrap_err();
        assert_eq!(error.kind(), Kind::NoRuntime);
        assert!(error.message().contains("too old (testing)"), "{error}");
    }

    #[test]
    fn what_the_driver_says_becomes_a_kind_to_act_on() {
        for (code, kind) in [
            (CUresult::CUDA_ERROR_OUT_OF_MEMORY, Kind::NoMemory),
            (CUresult::CUDA_ERROR_NO_DEVICE, Kind::NoRuntime),
            (CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, Kind::NoRuntime),
            (CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, Kind::Runtime),
            (CUresult::CUDA_ERROR_INVALID_VALUE, Kind::Runtime),
        ] {
            let error = failure("testing", code, "words");
            assert_eq!(error.kind(), kind);
            assert!(error.message().contains("testing") && error.message().contains("words"), "{error}");
        }
    }
}
