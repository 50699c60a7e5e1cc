//! ONNX Runtime: loading its library, and running graphs from any number of threads at once.
//!
//! Nothing here is touched before an engine asks for it, so a process may fork before that. Once loaded, the library
//! and its environment stay until the process ends: tearing them down while it exits has crashed others.

use crate::error::{Error, Kind, Result};
use crate::gpt2::Weights;
use ort::AsPointer;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{TensorRef, TensorRefMut};
use std::error::Error as _;
use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The one runtime of this process.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// First minor version of the 1.x releases that phone home when they start.
const FIRST_WITH_TELEMETRY: u32 = 29;

/// Switches that off, if the process was started with it.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// Whether the system's loader finds a library called `name`.
pub fn loader_finds(name: &str) -> bool {
    open_library(Path::new(name)).is_ok()
}

/// Loads the library at `path`, unless it is loaded already. A process has one: another path later is an error.
pub fn load(path: &Path) -> Result<()> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((first, _)) = &*loaded {
        if same_file(first, path) {
            return Ok(());
        }
        return Err(Error::new(
            Kind::Runtime,
            format!(
                "{}: this process runs the ONNX Runtime of {} already, and can have one only",
                path.display(),
                first.display()
            ),
        ));
    }
    let place = |e: Error| e.at(path.display());
    check_version(path).map_err(place)?;
    let builder = ort::init_from(path).map_err(|e| no_runtime(e.to_string())).map_err(place)?;
    // It would write to stderr otherwise; what matters comes back as an error.
    let environment = builder
        .with_name("trafficgpt")
        .with_telemetry(false)
        .with_logger(Arc::new(|_, _, _, _, _| {}))
        .build()
        .map_err(|e| runtime("environment", &e))
        .map_err(place)?;
    environment.set_log_level(LogLevel::Fatal);
    *loaded = Some((path.to_path_buf(), environment));
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    real(a) == real(b)
}

fn no_runtime(message: impl Into<String>) -> Error {
    Error::new(Kind::NoRuntime, message)
}

fn runtime<R>(what: &str, error: &ort::Error<R>) -> Error {
    Error::new(Kind::Runtime, format!("ONNX Runtime, {what}: {error}"))
}

/// Loads a library and never unloads it: code that ran once may have left threads or handlers behind.
fn open_library(path: &Path) -> Result<ManuallyDrop<libloading::Library>> {
    // SAFETY: loading runs the library's initialisers. The caller chose this file to be run in this process; ONNX
    // Runtime's own do nothing but fill tables.
    let library = unsafe { libloading::Library::new(path) };
    library.map(ManuallyDrop::new).map_err(|e| match e.source() {
        Some(cause) => no_runtime(cause.to_string()),
        None => no_runtime(e.to_string()),
    })
}

/// Refuses what is not ONNX Runtime, and a version that would use the network.
fn check_version(path: &Path) -> Result<()> {
    let library = open_library(path)?;
    // SAFETY: this is the type of the symbol in every release of ONNX Runtime.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase\0") }
        .map_err(|_| no_runtime("is not ONNX Runtime: it has no OrtGetApiBase"))?;
    // SAFETY: the function takes nothing and returns a pointer to a constant, or null.
    let base = unsafe { base().as_ref() }.ok_or_else(|| no_runtime("OrtGetApiBase returned null"))?;
    // SAFETY: the C API promises a NUL-terminated constant.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy();
    let minor: u32 = version.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let disabled = std::env::var_os(TELEMETRY_SWITCH).is_some_and(|v| v == "1");
    if minor >= FIRST_WITH_TELEMETRY && !disabled {
        // Setting the variable from here would race with every getenv of the host.
        return Err(no_runtime(format!(
            "ONNX Runtime {version} sends telemetry when it starts; use 1.28 or older, or start this process with \
             {TELEMETRY_SWITCH}=1"
        )));
    }
    Ok(())
}

/// What a graph reads: a shape and the values.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// 64-bit integers.
    I64(&'a [usize], &'a [i64]),
    /// 32-bit floats.
    F32(&'a [usize], &'a [f32]),
}

/// Where a graph writes: a shape and room for its values.
#[derive(Debug)]
pub struct Output<'a>(pub &'a [usize], pub &'a mut [f32]);

/// A graph, optimised and ready to run. Shared by any number of threads.
pub struct Graph {
    /// Declared before the weights that it points into, and so dropped before them.
    session: Session,
    _weights: Arc<Weights>,
}

impl Graph {
    /// Compiles a model file whose every external tensor is one of `weights`. The weights are shared, not copied.
    /// Products use `threads` threads, the caller's among them. A library must be loaded.
    pub fn compile(model: &[u8], weights: Arc<Weights>, threads: usize) -> Result<Self> {
        let environment = {
            let loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
            loaded.as_ref().map(|(_, e)| e.clone()).ok_or_else(|| no_runtime("ONNX Runtime is not loaded"))?
        };
        let mut builder = options(&environment, threads).map_err(|e| runtime("options", &e))?;
        add_weights(&mut builder, &weights).map_err(|e| runtime("weights", &e))?;
        let session = builder.commit_from_memory(model).map_err(|e| runtime("graph", &e))?;
        Ok(Self { session, _weights: weights })
    }

    /// Runs the graph: reads every input, writes every output that is asked for. May be called from many threads at
    /// once. Shapes that the graph does not take or give are an error.
    pub fn run(&self, inputs: &[(&CStr, Input<'_>)], outputs: &mut [(&CStr, Output<'_>)]) -> Result<()> {
        let failed = |e: ort::Error| runtime("run", &e);
        let inputs = inputs
            .iter()
            .map(|(name, input)| {
                Ok((
                    name.as_ptr(),
                    match *input {
                        Input::I64(shape, data) => TensorRef::from_array_view((shape, data))?.into_dyn(),
                        Input::F32(shape, data) => TensorRef::from_array_view((shape, data))?.into_dyn(),
                    },
                ))
            })
            .collect::<ort::Result<Vec<_>>>()
            .map_err(failed)?;
        let outputs = outputs
            .iter_mut()
            .map(|(name, Output(shape, data))| {
                Ok((name.as_ptr(), TensorRefMut::from_array_view_mut((*shape, &mut **data))?))
            })
            .collect::<ort::Result<Vec<_>>>()
            .map_err(failed)?;
        let (input_names, input_values): (Vec<_>, Vec<_>) = inputs.iter().map(|(n, v)| (*n, v.ptr())).unzip();
        let (output_names, mut output_values): (Vec<_>, Vec<_>) =
            outputs.iter().map(|(n, v)| (*n, v.ptr().cast_mut())).unzip();
        // SAFETY: names and values live until the end of this function, as many as is said. The values' buffers are
        // borrowed for as long, the outputs' exclusively. `Run` may be called on one session by many threads at once:
        // the C API says so, and of the state that is shared, the arena locks itself, and the cache of memory
        // patterns, the only other, is switched off. ort's own `run` wants `&mut` because of execution providers
        // other than the CPU's, which alone is registered here.
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                std::ptr::null(),
                input_names.as_ptr(),
                input_values.as_ptr(),
                input_values.len(),
                output_names.as_ptr(),
                output_names.len(),
                output_values.as_mut_ptr(),
            )
        };
        // SAFETY: the status comes from the call above and is given away here.
        unsafe { ort::Error::result_from_status(status) }.map_err(failed)
    }
}

fn options(environment: &Environment, threads: usize) -> ort::Result<SessionBuilder> {
    Ok(Session::builder(environment)?
        .with_log_level(LogLevel::Fatal)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        // Idle threads must sleep, not burn the host's cores.
        .with_intra_op_spinning(false)?
        // It remembers a plan for every shape ever seen, and ours differ from batch to batch.
        .with_memory_pattern(false)?)
}

/// Hands every weight tensor over by name, in place of the file that the graph points into.
fn add_weights(builder: &mut SessionBuilder, weights: &Weights) -> ort::Result<()> {
    let tensors = weights.tensors();
    let names: Vec<CString> = tensors.iter().map(|t| CString::new(&*t.name).unwrap_or_default()).collect();
    let values = tensors
        .iter()
        .map(|t| TensorRef::from_array_view((&*t.shape, &weights.data()[t.range.clone()])))
        .collect::<ort::Result<Vec<_>>>()?;
    let names: Vec<_> = names.iter().map(|n| n.as_ptr()).collect();
    let values: Vec<_> = values.iter().map(|v| v.ptr()).collect();
    // SAFETY: as many names as values, alive during the call, which copies the names and shares the values' handles.
    // The buffers behind them belong to `weights`, which `Graph` keeps as long as the session.
    let status = unsafe {
        (ort::api().AddExternalInitializers)(builder.ptr_mut(), names.as_ptr(), values.as_ptr(), values.len())
    };
    // SAFETY: the status comes from the call above and is given away here.
    unsafe { ort::Error::result_from_status(status) }
}
