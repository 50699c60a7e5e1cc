//! `tgpt_generator`: seed → flows.

use super::args;
use super::boundary::{Call, guard, guard_value};
use super::classifier::TGPT_UNKNOWN;
use super::context::{Shared, tgpt_context};
use super::error::{tgpt_error, tgpt_status};
use super::handle::{self, Opaque};
use super::log::TGPT_LOG_INFO;
use super::names::{self, Names};
use super::worker::{self, tgpt_worker};
use crate::error::{Error, Kind, Result};
use crate::generator::Generator;
use crate::packet::{Packet, Rows};
use crate::sampling::{Decode, Sampling};
use crate::worker::Worker;
use std::ffi::c_char;
use std::ptr;
use std::sync::{Arc, Mutex};

/// Makes flows like those it was trained on. Immutable, shared by any threads; the weights are held once.
pub struct tgpt_generator(());

/// What the handle holds.
pub(super) struct State {
    generator: Generator,
    classes: Names,
    context: Arc<Shared>,
}

impl Opaque for tgpt_generator {
    type Value = State;
    const NAME: &'static str = "generator";
    const TAG: u64 = 0x7467_7074_6765_6e65;
}

/// In tgpt_sampling.flags: a drawn token becomes one of the packets that it stands for, not always the same one, its
/// centroid. Sizes and times are then as various as those the quantizer was fitted to, and those of the class where the
/// bundle knows what packets each class has. Needs a bundle that knows them.
pub const TGPT_SAMPLE_PACKETS: u32 = 1;

/// How flows are drawn. Begin with TGPT_SAMPLING_INIT, which sets `type_size` and every default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgpt_sampling {
    /// `sizeof(tgpt_sampling)` of the caller.
    pub type_size: usize,
    /// Where the draws come from: the same seed gives the same flows, on any engine and any number of threads.
    pub seed: u64,
    /// Number of the first flow: flow `i` of the call is flow `first_flow + i` of the seed, so that a long run can be
    /// cut into calls.
    pub first_flow: u64,
    /// The class of the flows, less than tgpt_generator_n_classes; or TGPT_UNKNOWN: any.
    pub class_id: u32,
    /// Most packets of a flow; 0: as many as the model can.
    pub max_packets: u32,
    /// Draw from this many most likely tokens; 0: from all.
    pub top_k: u32,
    /// Draw from the most likely tokens that together reach this probability, in (0, 1]; 1: from all.
    pub top_p: f32,
    /// Divides the logits, in 0..=100: below 1 the likely becomes likelier; 0 always takes the likeliest.
    pub temperature: f32,
    /// TGPT_SAMPLE_PACKETS, or 0.
    pub flags: u32,
    /// No flow ends before it has as many packets, at most tgpt_generator_max_packets; 0 or 1: any may.
    pub min_packets: u32,
    /// Number of tokens in `banned`.
    pub n_banned: u32,
    /// Tokens that do not come, less than tgpt_quantizer_n_tokens; that number itself stands for the end of a flow,
    /// without which all have `max_packets`. NULL where `n_banned` is 0.
    pub banned: *const u32,
    /// 0.
    pub reserved: [u64; 2],
}

impl tgpt_sampling {
    /// The crate's own form. Its values are checked where they are used.
    ///
    /// # Safety
    /// `pointer` is NULL or points to what its first bytes say, and `banned` in it to `n_banned` tokens.
    unsafe fn read(pointer: *const Self) -> Result<Sampling> {
        // SAFETY: the caller's promise; zeros are a legal struct.
        unsafe { args::sized(pointer, size_of::<Self>(), "sampling")?.convert() }
    }

    /// # Safety
    /// `banned` is NULL or points to `n_banned` tokens.
    unsafe fn convert(&self) -> Result<Sampling> {
        args::reserved(&self.reserved, "sampling")?;
        if self.flags & !TGPT_SAMPLE_PACKETS != 0 {
            return Err(Error::invalid(format!("sampling.flags is {:#x}; no other than 1 is known", self.flags)));
        }
        // SAFETY: the caller's promise.
        let banned = unsafe { args::slice(self.banned, self.n_banned as usize, "sampling.banned") }?;
        Ok(Sampling {
            seed: self.seed,
            first_flow: self.first_flow,
            class: (self.class_id != TGPT_UNKNOWN).then_some(self.class_id),
            min_packets: self.min_packets,
            max_packets: self.max_packets,
            banned: banned.to_vec(),
            top_k: self.top_k,
            top_p: self.top_p,
            temperature: self.temperature,
            decode: if self.flags & TGPT_SAMPLE_PACKETS == 0 { Decode::Centroid } else { Decode::Sample },
        })
    }
}

/// Opens the generator of a bundle, on the engine that the context's config asks for, as tgpt_classifier_open does.
///
/// `bundle`: path of the bundle's directory. It is checked whole before anything of it runs.
/// Writes the new handle to `*out`; free it with tgpt_generator_free.
/// Errors: TGPT_E_IO, TGPT_E_FORMAT, TGPT_E_VERSION, TGPT_E_MISMATCH for a bundle that is not whole; TGPT_E_NO_RUNTIME,
/// TGPT_E_RUNTIME from the engine; TGPT_E_INVALID for a NULL.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_generator_open(
    context: *const tgpt_context,
    bundle: *const c_char,
    out: *mut *mut tgpt_generator,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (context, bundle, out) =
            unsafe { (handle::get(context)?, args::path(bundle, "bundle")?, args::out(out, "out")?) };
        call.log_to(context.log);
        let generator = Generator::open(&context.context, bundle)?;
        let classes = Names::new(generator.classes())?;
        let opened = format!("generator {} runs on engine {}", bundle.display(), generator.engine());
        context.log.write(TGPT_LOG_INFO, &opened);
        handle::give(out, State { generator, classes, context: Arc::clone(context) });
        Ok(())
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// The engine in use, "native", "onnx" or "cuda". NULL where `generator` is NULL.
///
/// Returns a static string.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_generator_engine(generator: *const tgpt_generator) -> *const c_char {
    // SAFETY: the contract of the header.
    guard_value(ptr::null(), || Ok(names::engine(unsafe { handle::get(generator) }?.generator.engine()).as_ptr()))
}

/// Number of classes that flows can be asked for by; 0 for a model trained without, or where `generator` is NULL.
///
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_generator_n_classes(generator: *const tgpt_generator) -> u32 {
    // SAFETY: the contract of the header.
    guard_value(0, || Ok(unsafe { handle::get(generator) }?.classes.len()))
}

/// The name of class `class_id`, in UTF-8. NULL where there is no such class.
///
/// Returns a string that lives as long as the generator.
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_generator_class(generator: *const tgpt_generator, class_id: u32) -> *const c_char {
    // SAFETY: the contract of the header.
    guard_value(ptr::null(), || Ok(unsafe { handle::get(generator) }?.classes.get(class_id)))
}

/// Most packets that a flow of this model can have: `n_flows` times it always is enough room. 0 where `generator` is
/// NULL.
///
/// Threads: any.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_generator_max_packets(generator: *const tgpt_generator) -> u32 {
    // SAFETY: the contract of the header.
    guard_value(0, || Ok(unsafe { handle::get(generator) }?.generator.max_packets() as u32))
}

/// Draws `n_flows` flows of at least one packet each. Flow `i` depends on `sampling` and `i` alone, not on `n_flows`.
///
/// `packets`: room for `cap` packets; flow `i` is written to `packets[offsets[i] .. offsets[i + 1]]`.
/// `offsets`: room for `n_flows + 1` values.
/// `needed`: NULL, or gets the number of packets of all the flows, also with TGPT_E_NOSPACE.
/// Errors: TGPT_E_NOSPACE where `cap` is less than what is needed: nothing but `*needed` is written, and the same call
/// with enough room gives the flows. TGPT_E_INVALID for a class that is not there, a value out of its range, more
/// flows than 2^24, a banned token that is none, reserved bytes that are not 0, a NULL. TGPT_E_BUSY where another thread
/// is inside this worker; TGPT_E_RUNTIME from the engine.
/// Threads: any number on one generator, each with its own worker.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_generate(
    generator: *const tgpt_generator,
    worker: *mut tgpt_worker,
    sampling: *const tgpt_sampling,
    n_flows: usize,
    packets: *mut Packet,
    cap: usize,
    offsets: *mut u64,
    needed: *mut usize,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, worker) = unsafe { (handle::get(generator)?, handle::get(worker)?) };
        call.log_to(state.context.log);
        // SAFETY: the contract of the header.
        let (sampling, room) =
            unsafe { (tgpt_sampling::read(sampling)?, Room::new(packets, cap, offsets, n_flows, needed)?) };
        room.fill(worker, |worker, rows| state.generator.generate(worker, &sampling, n_flows, rows))
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Continues `n_flows` flows whose first packets are given: each is written whole, first the packets given as they are,
/// then those drawn. Flow `i` depends on `sampling`, `i` and its own packets alone.
///
/// A packet's draw depends on the seed, the flow's number and its place in the flow: with the seed and number that a
/// flow was generated with, it goes on as it did.
///
/// `begun`, `begun_offsets`: flow `i` begins with `begun[begun_offsets[i] .. begun_offsets[i + 1]]`, as in tgpt_classify:
/// at most as many packets as a flow may have; with none it is a new flow, as of tgpt_generate.
/// `packets`, `cap`, `offsets`, `needed`: as of tgpt_generate, whose errors these are.
/// Errors: TGPT_E_INVALID also for a flow with too many packets, a packet that is none, offsets that do not rise.
/// Threads: any number on one generator, each with its own worker.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_continue(
    generator: *const tgpt_generator,
    worker: *mut tgpt_worker,
    sampling: *const tgpt_sampling,
    begun: *const Packet,
    begun_offsets: *const u64,
    n_flows: usize,
    packets: *mut Packet,
    cap: usize,
    offsets: *mut u64,
    needed: *mut usize,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, worker) = unsafe { (handle::get(generator)?, handle::get(worker)?) };
        call.log_to(state.context.log);
        // SAFETY: the contract of the header.
        let (sampling, begun, room) = unsafe {
            (
                tgpt_sampling::read(sampling)?,
                args::flows(begun, begun_offsets, n_flows)?,
                Room::new(packets, cap, offsets, n_flows, needed)?,
            )
        };
        room.fill(worker, |worker, rows| state.generator.continue_flows(worker, &sampling, begun, rows))
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Where a call writes its flows.
struct Room<'a> {
    packets: &'a mut [Packet],
    offsets: &'a mut [u64],
    needed: Option<args::Out<usize>>,
}

impl<'a> Room<'a> {
    /// # Safety
    /// Each pointer is NULL or points to as many values as are asked for, which nobody else uses.
    unsafe fn new(
        packets: *mut Packet,
        cap: usize,
        offsets: *mut u64,
        n_flows: usize,
        needed: *mut usize,
    ) -> Result<Self> {
        let n_offsets = args::count(n_flows, 1, 1, "n_flows")?;
        // SAFETY: the caller's promise.
        unsafe {
            Ok(Self {
                packets: args::slice_mut(packets, cap, "packets")?,
                offsets: args::slice_mut(offsets, n_offsets, "offsets")?,
                needed: if needed.is_null() { None } else { Some(args::out(needed, "needed")?) },
            })
        }
    }

    /// Writes the flows that `draw` gives in a worker's scratch.
    fn fill(
        self,
        worker: &Mutex<worker::State>,
        draw: impl FnOnce(&mut Worker, &mut Rows<Packet>) -> Result<()>,
    ) -> Result<()> {
        let mut held = handle::exclusive(worker, tgpt_worker::NAME)?;
        let worker::State { worker, rows, .. } = &mut *held;
        rows.clear();
        draw(worker, rows)?;
        let flows = rows.as_ragged();
        let (total, cap) = (flows.total(), self.packets.len());
        if let Some(needed) = self.needed {
            needed.write(total);
        }
        let Some(packets) = self.packets.get_mut(..total) else {
            return Err(Error::new(Kind::NoSpace, format!("the flows have {total} packets; cap is {cap}")));
        };
        packets.copy_from_slice(flows.values());
        self.offsets.copy_from_slice(flows.offsets());
        Ok(())
    }
}

/// Scores flows by how likely the model is to generate them: what is unlike the traffic it has seen scores high.
///
/// `class_id`: score the flows as flows of this class, less than tgpt_generator_n_classes; or TGPT_UNKNOWN: of any.
/// `packets`, `offsets`, `n_flows`: flow `i` is `packets[offsets[i] .. offsets[i + 1]]`, as in tgpt_classify. Of each
/// flow as many packets count as tgpt_generator_max_packets; the first packets of a longer flow may be given.
/// `nll`: room for `n_flows` values: the negative log-likelihood of a packet's token in nats, on average over the flow.
/// Errors: TGPT_E_INVALID for a class that is not there, a flow without packets, a packet that is none, offsets that do
/// not rise, a NULL. TGPT_E_BUSY where another thread is inside this worker; TGPT_E_RUNTIME from the engine.
/// Threads: any number on one generator, each with its own worker.
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_score(
    generator: *const tgpt_generator,
    worker: *mut tgpt_worker,
    class_id: u32,
    packets: *const Packet,
    offsets: *const u64,
    n_flows: usize,
    nll: *mut f32,
    error: *mut tgpt_error,
) -> tgpt_status {
    let body = |call: &Call| {
        // SAFETY: the contract of the header.
        let (state, worker) = unsafe { (handle::get(generator)?, handle::get(worker)?) };
        call.log_to(state.context.log);
        // SAFETY: the contract of the header.
        let (flows, nll) = unsafe { (args::flows(packets, offsets, n_flows)?, args::slice_mut(nll, n_flows, "nll")?) };
        let mut held = handle::exclusive(worker, tgpt_worker::NAME)?;
        let class = (class_id != TGPT_UNKNOWN).then_some(class_id);
        state.generator.score(&mut held.worker, class, flows, nll)
    };
    // SAFETY: the contract of the header.
    unsafe { guard(error, body) }
}

/// Frees a generator; NULL is legal. No call may be using it.
///
/// Since: 0.1.0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tgpt_generator_free(generator: *mut tgpt_generator) {
    // SAFETY: the contract of the header.
    guard_value((), || unsafe { handle::free(generator) });
}
