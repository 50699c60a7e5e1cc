//! Packets to tokens on a GPU.

use super::lookup::{DeviceLookup, Lookup};
use crate::cuda::device::Device;
use crate::cuda::geometry::{self, FOUR_EACH};
use crate::cuda::module;
use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::quantizer::Quantizer;
use crate::quantizer::table::SEARCH;
use crate::tokens::Token;
use cudarc::driver::{CudaFunction, CudaSlice, PushKernelArg};
use std::sync::Arc;

/// Bytes of device memory that a packet takes: itself and its token.
const EACH: usize = size_of::<Packet>() + size_of::<Token>();

/// Turns packets into tokens on a GPU: those of [`Quantizer::encode`], exactly. May be used by several threads at once.
///
/// ```no_run
/// # use trafficgpt::{cuda::{device::Device, quantizer::Encoder}, packet::Packet, quantizer::Quantizer};
/// # fn f(quantizer: &Quantizer, packets: &[Packet]) -> trafficgpt::Result<()> {
/// let encoder = Encoder::new(&Device::open(0)?, quantizer)?;
/// let mut tokens = vec![0; packets.len()];
/// encoder.encode(packets, &mut tokens)?;
/// # Ok(()) }
/// ```
pub struct Encoder {
    device: Arc<Device>,
    quantizer: Quantizer,
    kernel: EncodeKernel,
    lookup: DeviceLookup,
    budget: usize,
}

/// Packets on the device, and room for their tokens.
pub struct Batch {
    packets: CudaSlice<u32>,
    tokens: CudaSlice<u32>,
    report: CudaSlice<u32>,
    len: usize,
}

impl Encoder {
    /// Copies the table of `quantizer` to `device`. Batches may take half of the memory that is free now.
    pub fn new(device: &Arc<Device>, quantizer: &Quantizer) -> Result<Self> {
        let kernel = EncodeKernel::load(device)?;
        let lookup = Lookup::of(quantizer.table()).upload(device)?;
        let (free, _) = device.memory()?;
        Ok(Self { device: device.clone(), quantizer: quantizer.clone(), kernel, lookup, budget: free / 2 })
    }

    /// Batches may take `bytes` of the device's memory; more packets are encoded in several.
    #[must_use]
    pub fn with_budget(mut self, bytes: usize) -> Self {
        self.budget = bytes;
        self
    }

    /// The token of each packet, to `tokens` of the same length. Refuses packets whose time is negative or not finite,
    /// naming the first; then, and on any other error, nothing is written but by a device that fails midway.
    pub fn encode(&self, packets: &[Packet], tokens: &mut [Token]) -> Result<()> {
        if packets.len() != tokens.len() {
            return Err(Error::invalid(format!("{} packets, room for {} tokens", packets.len(), tokens.len())));
        }
        let len = geometry::batch_len(self.budget, EACH);
        if packets.len() > len {
            // The device would find an illegal time of a later batch when the tokens of earlier ones are written.
            for (i, packet) in packets.iter().enumerate() {
                packet.check().map_err(|e| e.at(format_args!("packet {i}")))?;
            }
        }
        for range in geometry::batches(packets.len(), len) {
            let packets = &packets[range.clone()];
            let mut batch = self.upload(packets)?;
            self.launch(&mut batch)?;
            let undecided = self.finish(&batch, packets)?;
            let tokens = &mut tokens[range];
            self.device.run("copying tokens", |stream| {
                stream.memcpy_dtoh(&batch.tokens, tokens)?;
                stream.synchronize()
            })?;
            if undecided > 0 {
                self.decide(packets, tokens);
            }
        }
        Ok(())
    }

    /// Copies `packets`, at most 2^26 and at least one, to the device.
    pub fn upload(&self, packets: &[Packet]) -> Result<Batch> {
        let len = packets.len();
        geometry::launch(len, FOUR_EACH)?;
        self.device.run("copying packets", |stream| {
            Ok(Batch {
                packets: stream.clone_htod::<u32, _>(bytemuck::cast_slice(packets))?,
                tokens: stream.alloc_zeros(len)?,
                report: stream.alloc_zeros(2)?,
                len,
            })
        })
    }

    /// Asks the device to encode `batch` and does not wait for it; for measurements.
    pub fn launch(&self, batch: &mut Batch) -> Result<()> {
        let Batch { packets, tokens, report, len } = batch;
        self.kernel.launch(&self.device, packets, *len, &self.lookup, tokens, report)
    }

    /// Waits for the encoding of `batch` and returns how many packets the table left undecided. `packets` are those of
    /// the batch.
    fn finish(&self, batch: &Batch, packets: &[Packet]) -> Result<usize> {
        let report = Report::read(&self.device, &batch.report)?;
        if let Some((i, packet)) = report.first_illegal.and_then(|i| Some((i, packets.get(i)?))) {
            // The index within all packets is that within the batch: several batches were checked before.
            packet.check().map_err(|e| e.at(format_args!("packet {i}")))?;
        }
        Ok(report.undecided)
    }

    /// Lets the search over all centroids decide what the table did not.
    fn decide(&self, packets: &[Packet], tokens: &mut [Token]) {
        for (&packet, token) in packets.iter().zip(tokens).filter(|(_, token)| **token == SEARCH) {
            *token = self.quantizer.codebook().nearest(self.quantizer.scaler().point(packet));
        }
    }
}

/// `kernels/encode.cu`.
pub(in crate::cuda) struct EncodeKernel(CudaFunction);

impl EncodeKernel {
    pub(in crate::cuda) fn load(device: &Device) -> Result<Self> {
        module::ENCODE.load(device).map(Self)
    }

    /// Encodes the first `n` of `packets` to `tokens`, with an account of it in `report`.
    pub(in crate::cuda) fn launch(
        &self,
        device: &Device,
        packets: &CudaSlice<u32>,
        n: usize,
        lookup: &DeviceLookup,
        tokens: &mut CudaSlice<u32>,
        report: &mut CudaSlice<u32>,
    ) -> Result<()> {
        let grid = geometry::launch(n, FOUR_EACH)?;
        if packets.len() < 2 * n || tokens.len() < n || report.len() != 2 {
            return Err(Error::mismatch(format!("{n} packets do not fit the buffers of the device")));
        }
        let count = n as u32;
        device.run("encoding", |stream| {
            stream.memcpy_htod(&[u32::MAX, 0], report)?;
            let mut launch = stream.launch_builder(&self.0);
            launch.arg(packets).arg(&count).arg(&lookup.ranges).arg(&lookup.steps);
            launch.arg(tokens).arg(report);
            // SAFETY: the arguments are those of the kernel, in order and type (module.rs tests the list). It reads `n`
            // packets and writes `n` tokens and two words, for which there is room as checked above; what it reads of the
            // table stays inside it, because every bucket is followed by a step, every list ends with a time that no legal
            // one reaches (lookup.rs tests both), and illegal times are not looked up.
            unsafe { launch.launch(grid) }.map(drop)
        })
    }
}

/// What `encode` says of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) struct Report {
    /// Index of the first packet whose time is negative or not finite.
    pub first_illegal: Option<usize>,
    /// Packets whose token is [`SEARCH`], the illegal ones among them.
    pub undecided: usize,
}

impl Report {
    /// Waits for the kernel that writes `report`.
    pub(in crate::cuda) fn read(device: &Device, report: &CudaSlice<u32>) -> Result<Self> {
        let mut words = [0; 2];
        device.run("encoding", |stream| {
            stream.memcpy_dtoh(report, &mut words)?;
            stream.synchronize()
        })?;
        let [first, undecided] = words;
        Ok(Self { first_illegal: (first != u32::MAX).then_some(first as usize), undecided: undecided as usize })
    }
}
