//! Flows as rows of numbers.

use super::PACKETS;
use crate::packet::Packet;
use crate::train::generation::forest::Matrix;

/// What of a flow a baseline sees.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Its first packets, as many as this.
    pub packets: usize,
    /// Whether their times as well.
    pub times: bool,
}

impl View {
    /// A row for each flow: signed sizes in bytes, then for times `log10(1 + ipt_us)`; 0 where there is no packet.
    pub fn matrix(self, flows: &[&[Packet]]) -> Matrix {
        let n = self.packets.min(PACKETS);
        let width = if self.times { 2 * n } else { n };
        let mut values = vec![0.0; flows.len() * width];
        for (row, flow) in values.chunks_exact_mut(width).zip(flows) {
            for (i, packet) in flow.iter().take(n).enumerate() {
                row[i] = packet.size as f32;
                if self.times {
                    row[n + i] = (1.0 + packet.ipt_us).log10();
                }
            }
        }
        Matrix { values, width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sizes_then_times() {
        let flow = [Packet { size: 60, ipt_us: 0.0 }, Packet { size: -1500, ipt_us: 999.0 }];
        let rows = View { packets: 3, times: true }.matrix(&[&flow, &flow[..1]]);
        assert_eq!(rows.width, 6);
        assert_eq!(rows.values, [60.0, -1500.0, 0.0, 0.0, 3.0, 0.0, 60.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(View { packets: 1, times: false }.matrix(&[&flow]).values, [60.0]);
    }
}
