//! Device memory by address, as the kernels take it.

use crate::cuda::device::Device;
use crate::error::{Error, Result};
use bytemuck::Pod;
use cudarc::driver::{CudaSlice, DevicePtr, HostSlice};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of device memory, begun at a multiple of 256. Used through the stream it was made on, or, where nothing writes to it
/// any more, through any.
pub(in crate::cuda) struct Buffer {
    slice: CudaSlice<u8>,
    address: u64,
    id: u64,
}

impl Buffer {
    /// `bytes` zeros, at least one.
    pub(in crate::cuda) fn zeros(device: &Device, bytes: usize, what: &str) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        device.run(&format!("making room for {what}"), |stream| {
            let slice = stream.alloc_zeros::<u8>(bytes.max(1))?;
            let address = slice.device_ptr(stream).0;
            Ok(Self { slice, address, id })
        })
    }

    /// A copy of `values`.
    pub(in crate::cuda) fn of<T: Pod>(device: &Device, values: &[T], what: &str) -> Result<Self> {
        let mut buffer = Self::zeros(device, size_of_val(values), what)?;
        buffer.write(device, values, what)?;
        Ok(buffer)
    }

    /// Where it begins.
    pub(in crate::cuda) fn begin(&self) -> u64 {
        self.address
    }

    /// What no other buffer is called, not even one that comes to lie in the same place.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Where byte `byte` of it lies.
    pub(in crate::cuda) fn at(&self, byte: usize) -> u64 {
        debug_assert!(byte <= self.slice.len());
        self.address + byte as u64
    }

    /// Copies `values` to its beginning.
    pub(in crate::cuda) fn write<T: Pod>(&mut self, device: &Device, values: &[T], what: &str) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(mut to) = self.slice.try_slice_mut(..bytes.len()) else { return Err(too_small(what)) };
        let what = format!("copying {what} to the GPU");
        device.wait_to_copy(&what, bytes.len())?;
        device.run(&what, |stream| stream.memcpy_htod(bytes, &mut to))
    }

    /// Copies `values` to its beginning; if they are pinned, without waiting for it.
    pub(super) fn begin_write(&mut self, device: &Device, values: &impl HostSlice<u8>, what: &str) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let Some(mut to) = self.slice.try_slice_mut(..values.len()) else { return Err(too_small(what)) };
        device.run(&format!("copying {what} to the GPU"), |stream| stream.memcpy_htod(values, &mut to))
    }

    /// Copies from byte `begin` on to `values`; if they are pinned, without waiting for it.
    pub(super) fn begin_read(
        &self,
        device: &Device,
        begin: usize,
        values: &mut impl HostSlice<u8>,
        what: &str,
    ) -> Result<()> {
        let Some(from) = self.slice.try_slice(begin..begin + values.len()) else { return Err(too_small(what)) };
        let what = format!("computing and copying {what} from the GPU");
        device.run(&what, |stream| stream.memcpy_dtoh(&from, values))
    }

    /// Sets `bytes` bytes from byte `begin` on to zero.
    #[cfg(feature = "train")]
    pub(in crate::cuda) fn clear(&mut self, device: &Device, begin: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let Some(mut part) = self.slice.try_slice_mut(begin..begin + bytes) else { return Err(too_small("zeros")) };
        device.run("clearing a buffer", |stream| stream.memset_zeros(&mut part))
    }

    /// Copies from its beginning to `values` and waits for it, and so for all that was asked for before.
    pub(in crate::cuda) fn read<T: Pod>(&self, device: &Device, values: &mut [T], what: &str) -> Result<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        let Some(from) = self.slice.try_slice(..bytes.len()) else { return Err(too_small(what)) };
        let what = format!("computing and copying {what} from the GPU");
        device.wait(&what)?;
        device.run(&what, |stream| {
            stream.memcpy_dtoh(&from, bytes)?;
            stream.synchronize()
        })
    }
}

fn too_small(what: &str) -> Error {
    Error::mismatch(format!("{what}: the buffer on the GPU is too small"))
}
