//! Memory of the host that the GPU copies from and to by itself. Of other memory the driver makes a copy first, which takes the
//! host's time and keeps it waiting.

use super::buffer::Buffer;
use crate::cuda::device::Device;
use crate::error::Result;
use cudarc::driver::{CudaStream, HostSlice, PinnedHostSlice, SyncOnDrop};

/// Bytes that are copied at once from the GPU: much enough for the bus, little enough that the host can copy one piece on while
/// the next one comes. In tests so few that pieces there are many.
const PIECE: usize = if cfg!(test) { 1 << 10 } else { 1 << 22 };

/// What goes to the GPU; grows to the most that went.
#[derive(Default)]
pub(super) struct Upload(Option<PinnedHostSlice<u8>>);

/// What comes from it: a piece that the host reads, and one that is on its way.
#[derive(Default)]
pub(super) struct Download([Option<PinnedHostSlice<u8>>; 2]);

impl Upload {
    /// Copies the first `words` of `values` to the beginning of `to`, without waiting for it.
    pub(super) fn run(
        &mut self,
        device: &Device,
        to: &mut Buffer,
        words: usize,
        values: impl Iterator<Item = u32>,
    ) -> Result<()> {
        let memory = room(&mut self.0, device, 4 * words)?;
        // Waits for the copy before this one.
        let bytes = device.run("waiting for a copy", |_| memory.as_mut_slice())?;
        for (to, value) in bytes.chunks_exact_mut(4).take(words).zip(values) {
            to.copy_from_slice(&value.to_ne_bytes());
        }
        to.begin_write(device, &First(memory, 4 * words), "tokens")
    }
}

impl Download {
    /// Copies from the beginning of `from` to `out` and waits for it, and so for all that was asked for before.
    pub(super) fn run(&mut self, device: &Device, from: &Buffer, out: &mut [u8], what: &str) -> Result<()> {
        let n = out.len();
        let begin = |memory: &mut Option<PinnedHostSlice<u8>>, at: usize| -> Result<()> {
            let bytes = PIECE.min(n - at);
            from.begin_read(device, at, &mut First(room(memory, device, bytes)?, bytes), what)
        };
        if n > 0 {
            begin(&mut self.0[0], 0)?;
        }
        for (at, piece) in (0..n).step_by(PIECE).zip(out.chunks_mut(PIECE)) {
            if at + PIECE < n {
                begin(&mut self.0[1], at + PIECE)?;
            } else {
                // The last: the stream's wait comes back sooner than an event's.
                device.synchronize()?;
            }
            if let Some(memory) = &self.0[0] {
                let bytes = device.run(what, |_| memory.as_slice())?;
                piece.copy_from_slice(&bytes[..piece.len()]);
            }
            self.0.swap(0, 1);
        }
        Ok(())
    }
}

/// At least `bytes` bytes of pinned memory.
fn room<'a>(
    memory: &'a mut Option<PinnedHostSlice<u8>>,
    device: &Device,
    bytes: usize,
) -> Result<&'a mut PinnedHostSlice<u8>> {
    let memory = match memory {
        Some(has) if has.len() >= bytes => memory,
        _ => {
            *memory = None;
            let bytes = bytes.next_power_of_two().max(1 << 12);
            *memory = Some(device.run("making room for copies", |_| {
                // SAFETY: all of it is written to before anything reads it.
                let mut memory = unsafe { device.context().alloc_pinned_with_flags::<u8>(bytes, 0) }?;
                let address = memory.as_mut_ptr()?;
                // SAFETY: as many bytes were just allocated there, and nobody else knows of them.
                unsafe { address.write_bytes(0, bytes) };
                Ok(memory)
            })?);
            memory
        }
    };
    memory.as_mut().ok_or_else(|| crate::Error::new(crate::Kind::NoMemory, "CUDA: there is no room for copies"))
}

/// The first bytes of pinned memory, for cudarc, which copies all of what it is given.
struct First<'m>(&'m mut PinnedHostSlice<u8>, usize);

impl HostSlice<u8> for First<'_> {
    fn len(&self) -> usize {
        self.1
    }

    unsafe fn stream_synced_slice<'a>(&'a self, stream: &'a CudaStream) -> (&'a [u8], SyncOnDrop<'a>) {
        // SAFETY: the caller's promise is the same.
        let (all, sync) = unsafe { self.0.stream_synced_slice(stream) };
        (&all[..self.1], sync)
    }

    unsafe fn stream_synced_mut_slice<'a>(&'a mut self, stream: &'a CudaStream) -> (&'a mut [u8], SyncOnDrop<'a>) {
        // SAFETY: the caller's promise is the same.
        let (all, sync) = unsafe { self.0.stream_synced_mut_slice(stream) };
        (&mut all[..self.1], sync)
    }
}
