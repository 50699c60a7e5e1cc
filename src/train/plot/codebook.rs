//! Where the centroids of a codebook lie among the packets they stand for.

use super::canvas::{BLUE, INK, VERMILION, letters, plain, save, thousands};
use super::flows::{DECADES, decade, decade_name, size_bound, size_name};
use crate::error::Result;
use crate::packet::Packet;
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// Cells of the density in each direction.
const CELLS: (i32, i32) = (160, 120);

/// Writes a picture of `centroids` over the density of the packets in `counts`, which says how often each occurs: size
/// against time.
pub fn codebook(path: &Path, title: &str, counts: &[(Packet, u64)], centroids: &[Packet]) -> Result<()> {
    let bound = size_bound(counts.iter().map(|(packet, _)| packet).chain(centroids)) * 1.02;
    let (width, height) = (DECADES / f64::from(CELLS.0), 2.0 * bound / f64::from(CELLS.1));
    let mut density: BTreeMap<(i32, i32), u64> = BTreeMap::new();
    for (packet, n) in counts {
        let (x, y) = place(packet, bound);
        let cell = ((x / width) as i32, ((y + bound) / height) as i32);
        *density.entry((cell.0.min(CELLS.0 - 1), cell.1.min(CELLS.1 - 1))).or_default() += n;
    }
    let busiest = (density.values().copied().max().unwrap_or(1) as f64).ln().max(1.0);
    let heading = format!(
        "{title}: {} centroids (dots) over {} packets (shade: logarithm of their number)",
        thousands(centroids.len()),
        thousands(counts.iter().map(|(_, n)| *n as usize).sum())
    );
    save(path, (1200, 800), |sheet| {
        let mut chart = ChartBuilder::on(sheet)
            .caption(heading, letters(20, INK))
            .margin(16)
            .x_label_area_size(50)
            .y_label_area_size(74)
            .build_cartesian_2d(0.0..DECADES, -bound..bound)?;
        plain(&mut chart.configure_mesh(), 14)
            .x_labels(9)
            .y_labels(9)
            .x_label_formatter(&|place| decade_name(*place))
            .y_label_formatter(&|size| size_name(*size))
            .x_desc("time since the flow's previous packet")
            .y_desc("signed size in bytes: client to server above 0, server to client below")
            .draw()?;
        chart.draw_series(density.iter().map(|(&(x, y), &count)| {
            let (left, bottom) = (f64::from(x) * width, f64::from(y) * height - bound);
            let shade = BLUE.mix(0.15 + 0.85 * (count as f64).ln() / busiest);
            Rectangle::new([(left, bottom), (left + width, bottom + height)], shade.filled())
        }))?;
        chart.draw_series(centroids.iter().map(|c| Circle::new(place(c, bound), 2, VERMILION.filled())))?;
        Ok(())
    })
}

fn place(packet: &Packet, bound: f64) -> (f64, f64) {
    (decade(f64::from(packet.ipt_us)), f64::from(packet.size).clamp(-bound, bound))
}
