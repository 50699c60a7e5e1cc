//! Values over steps.

use super::canvas::{Drawn, GRID, HUES, INK, letters, plain, save};
use crate::error::Result;
use plotters::prelude::*;
use std::ops::Range;
use std::path::Path;

/// A named curve: its points, in order of x.
pub type Series = (String, Vec<(f64, f64)>);

/// Writes a picture of curves in one pair of axes, as of loss over steps. Points that are not finite are left out.
pub fn curves(path: &Path, title: &str, x_title: &str, y_title: &str, series: &[Series]) -> Result<()> {
    let finite: Vec<(&str, Vec<(f64, f64)>)> = series
        .iter()
        .map(|(name, points)| {
            (name.as_str(), points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect())
        })
        .collect();
    save(path, (1000, 560), |sheet| {
        let points = || finite.iter().flat_map(|(_, points)| points);
        let (x_range, y_range) = (range(points().map(|p| p.0), 0.0), range(points().map(|p| p.1), 0.05));
        let mut chart = ChartBuilder::on(sheet)
            .caption(title, letters(22, INK))
            .margin(16)
            .x_label_area_size(46)
            .y_label_area_size(70)
            .build_cartesian_2d(x_range, y_range)?;
        plain(&mut chart.configure_mesh(), 14)
            .x_desc(x_title)
            .y_desc(y_title)
            .x_labels(10)
            .y_labels(8)
            .x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .draw()?;
        draw_lines(&mut chart, &finite)
    })
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn draw_lines<'b: 'a, 'a>(chart: &mut Chart<'a, 'b>, series: &[(&str, Vec<(f64, f64)>)]) -> Drawn {
    for (i, (name, points)) in series.iter().enumerate() {
        // Curves past the number of hues are drawn thinner; few pictures have so many.
        let style = HUES[i % HUES.len()].stroke_width(if i < HUES.len() { 2 } else { 1 });
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], style.stroke_width(3)));
        if let [only] = points.as_slice() {
            chart.draw_series([Circle::new(*only, 4, style.filled())])?;
        }
    }
    if series.is_empty() {
        return Ok(());
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(letters(15, INK))
        .draw()
}

/// The span of the values with a margin around, never empty.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let room = (high - low) * margin;
    if high - low > 1e-9 * high.abs().max(1.0) { low - room..high + room } else { low - 0.5..high + 0.5 }
}

/// A number as short as it is told apart from its neighbours.
fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_never_empty_and_numbers_short() {
        assert_eq!(range([].into_iter(), 0.1), 0.0..1.0);
        assert_eq!(range([3.0, 3.0].into_iter(), 0.1), 2.5..3.5);
        assert_eq!(range([0.0, 10.0].into_iter(), 0.1), -1.0..11.0);
        assert_eq!([0.0, 1.5, 2000.0, 0.125].map(number), ["0", "1.5", "2000", "0.125"]);
    }
}
