//! What the device's memory gives: the measure of kernels that do little but read and write.

use super::device::Device;
use crate::error::{Error, Result};
use std::time::Instant;

impl Device {
    /// Bytes a second that the device reads and writes, both counted, while it copies `bytes` of its memory `times` times.
    pub fn copy_bandwidth(&self, bytes: usize, times: usize) -> Result<f64> {
        if bytes == 0 || times == 0 {
            return Err(Error::invalid(format!("{times} copies of {bytes} bytes take no time")));
        }
        let (from, mut to) = self.run("making room to copy", |stream| {
            // Both are written once before, so that no page is new.
            Ok((stream.alloc_zeros::<u8>(bytes)?, stream.alloc_zeros::<u8>(bytes)?))
        })?;
        let mut copy = |times| {
            self.run("copying", |stream| {
                (0..times).try_for_each(|_| stream.memcpy_dtod(&from, &mut to))?;
                stream.synchronize()
            })
        };
        copy(1)?;
        let begin = Instant::now();
        copy(times)?;
        Ok(2.0 * bytes as f64 * times as f64 / begin.elapsed().as_secs_f64())
    }
}
