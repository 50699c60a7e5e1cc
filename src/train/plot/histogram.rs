//! Two distributions in one panel: the one as filled bars, the other as a line over them.

use super::canvas::{Area, BLUE, Drawn, VERMILION, plain};
use plotters::prelude::*;
use std::ops::Range;

/// The horizontal axis.
pub struct Axis<'a> {
    pub range: Range<f64>,
    pub bins: usize,
    pub title: &'a str,
    pub name: &'a dyn Fn(&f64) -> String,
    /// Most names along the axis.
    pub names: usize,
}

/// Shares in percent of the values in each bin; values outside the range count in the nearest bin.
pub fn shares(values: &[f64], range: &Range<f64>, bins: usize) -> Vec<f64> {
    let mut shares = vec![0.0; bins];
    let width = (range.end - range.start) / bins as f64;
    for value in values {
        // A negative quotient and a NaN become bin 0.
        let bin = ((value - range.start) / width) as usize;
        shares[bin.min(bins - 1)] += 100.0 / values.len() as f64;
    }
    shares
}

/// Draws the distributions of `real` and `generated` into `area`.
pub fn overlay(area: &Area<'_>, axis: &Axis<'_>, real: &[f64], generated: &[f64]) -> Drawn {
    let real = shares(real, &axis.range, axis.bins);
    let generated = shares(generated, &axis.range, axis.bins);
    let highest = real.iter().chain(&generated).copied().fold(1.0, f64::max) * 1.08;
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(48)
        .y_label_area_size(56)
        .margin_right(14)
        .build_cartesian_2d(axis.range.clone(), 0.0..highest)?;
    plain(&mut chart.configure_mesh(), 13)
        .disable_x_mesh()
        .x_labels(axis.names)
        .y_labels(6)
        .x_label_formatter(axis.name)
        .y_label_formatter(&|share| format!("{share:.0} %"))
        .x_desc(axis.title)
        .draw()?;
    let width = (axis.range.end - axis.range.start) / axis.bins as f64;
    let left = |bin: usize| axis.range.start + bin as f64 * width;
    chart.draw_series(
        real.iter()
            .enumerate()
            .filter(|(_, share)| **share > 0.0)
            .map(|(bin, &share)| Rectangle::new([(left(bin), 0.0), (left(bin + 1), share)], BLUE.mix(0.55).filled())),
    )?;
    let steps = generated.iter().enumerate().flat_map(|(bin, &share)| [(left(bin), share), (left(bin + 1), share)]);
    let outline = std::iter::once((axis.range.start, 0.0)).chain(steps).chain([(axis.range.end, 0.0)]);
    chart.draw_series(LineSeries::new(outline, VERMILION.stroke_width(2)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_all_whatever_the_values() {
        let values = [-1e300, -1.0, 0.0, 0.49, 0.5, 1.0, 7.0, f64::INFINITY];
        assert_eq!(shares(&values, &(0.0..1.0), 2), [50.0, 50.0]);
        assert_eq!(shares(&[], &(0.0..1.0), 2), [0.0, 0.0]);
    }
}
