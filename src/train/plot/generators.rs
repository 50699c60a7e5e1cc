//! Generators beside real flows: pictures for a page, as SVG.

use super::canvas::{Area, Drawn, HUES, INK, letters, plain, render};
use crate::error::Result;
use crate::train::similarity::Grid;
use plotters::prelude::*;

/// A named series: of values, or of points in order.
pub type Named<'a, T> = (&'a str, &'a [T]);

/// Bins of a distribution, and the share of the real values at either end that is beyond them.
const BINS: usize = 60;
const TRIM: f64 = 0.005;

/// Bars of every generator in groups, one group for every name in `groups`; `series` holds one value a group, if any.
pub fn bars(groups: &[&str], y_title: &str, series: &[(&str, Vec<Option<f64>>)]) -> Result<String> {
    let highest = series.iter().flat_map(|s| s.1.iter().flatten()).copied().fold(0.1, f64::max) * 1.08;
    render((1000, 320), |sheet| {
        let sheet = legend(sheet, series.iter().map(|s| s.0), None)?;
        let mut chart = ChartBuilder::on(&sheet)
            .margin_right(14)
            .x_label_area_size(34)
            .y_label_area_size(62)
            .build_cartesian_2d(0.0..groups.len() as f64, 0.0..highest)?;
        let name = |place: &f64| {
            let group = (*place - 0.5).round();
            if (place - 0.5 - group).abs() > 0.01 { "" } else { groups.get(group as usize).copied().unwrap_or("") }
                .to_string()
        };
        plain(&mut chart.configure_mesh(), 13)
            .disable_x_mesh()
            // Twice as many places as groups: every second one is the middle of a group.
            .x_labels(2 * groups.len() + 1)
            .y_labels(6)
            .x_label_formatter(&name)
            .y_label_formatter(&|y| format!("{y:.2}"))
            .y_desc(y_title)
            .draw()?;
        let width = 0.8 / series.len().max(1) as f64;
        for (i, (_, values)) in series.iter().enumerate() {
            let left = |group: usize| group as f64 + 0.1 + i as f64 * width;
            chart.draw_series(values.iter().enumerate().filter_map(|(group, value)| {
                let corners = [(left(group), 0.0), (left(group) + width * 0.9, (*value)?)];
                Some(Rectangle::new(corners, HUES[i % HUES.len()].filled()))
            }))?;
        }
        Ok(())
    })
}

/// The distribution of the real values, filled, and of every generator's as a line, on a grid over most of the real ones;
/// what is beyond is in the first and the last bin.
pub fn densities(title: &str, unit: &str, real: &[f64], series: &[Named<'_, f64>]) -> Result<String> {
    let grid = Grid::over(real, BINS, TRIM);
    let edges = grid.as_ref().map_or(&[0.0, 1.0][..], Grid::edges);
    let (low, high) = (edges[0], edges[edges.len() - 1]);
    let shares = |values: &[f64]| grid.as_ref().filter(|_| !values.is_empty()).map_or(Vec::new(), |g| g.shares(values));
    let (real, others): (Vec<f64>, Vec<Vec<f64>>) = (shares(real), series.iter().map(|s| shares(s.1)).collect());
    let highest = others.iter().flatten().chain(&real).copied().fold(0.01, f64::max) * 108.0;
    let step = (high - low) / BINS as f64;
    let left = |bin: usize| low + (bin as f64 - 1.0) * step;
    render((490, 300), |sheet| {
        let sheet = legend(sheet, series.iter().map(|s| s.0), Some(title))?;
        let mut chart = ChartBuilder::on(&sheet)
            .margin_right(12)
            .x_label_area_size(42)
            .y_label_area_size(54)
            .build_cartesian_2d(low - step..high + step, 0.0..highest)?;
        plain(&mut chart.configure_mesh(), 12)
            .disable_x_mesh()
            .x_labels(7)
            .y_labels(5)
            .x_label_formatter(&|x| if high - low > 30.0 { format!("{x:.0}") } else { format!("{x:.1}") })
            .y_label_formatter(&|y| format!("{y:.0} %"))
            .x_desc(unit)
            .draw()?;
        let bar = |(bin, share): (usize, &f64)| {
            Rectangle::new([(left(bin), 0.0), (left(bin + 1), share * 100.0)], INK.mix(0.22).filled())
        };
        chart.draw_series(real.iter().enumerate().filter(|(_, share)| **share > 0.0).map(bar))?;
        for (i, shares) in others.iter().enumerate() {
            let steps = shares.iter().enumerate().flat_map(|(b, s)| [(left(b), s * 100.0), (left(b + 1), s * 100.0)]);
            chart.draw_series(LineSeries::new(steps, HUES[i % HUES.len()].stroke_width(2)))?;
        }
        Ok(())
    })
}

/// Correlations at lags from 1: of real flows as dots, of generators as lines.
pub fn lags(title: &str, real: &[Option<f64>], series: &[Named<'_, Option<f64>>]) -> Result<String> {
    let points = |values: &[Option<f64>]| -> Vec<(f64, f64)> {
        values.iter().enumerate().filter_map(|(lag, value)| Some((lag as f64 + 1.0, (*value)?))).collect()
    };
    let all = real.iter().chain(series.iter().flat_map(|s| s.1)).flatten();
    let (low, high) = all.fold((0.0, 0.1), |(a, b): (f64, f64), &v| (a.min(v), b.max(v)));
    render((490, 300), |sheet| {
        let sheet = legend(sheet, series.iter().map(|s| s.0), Some(title))?;
        let mut chart = ChartBuilder::on(&sheet)
            .margin_right(12)
            .x_label_area_size(42)
            .y_label_area_size(54)
            .build_cartesian_2d(0.5..real.len().max(1) as f64 + 0.5, low - 0.03..high + 0.03)?;
        plain(&mut chart.configure_mesh(), 12)
            .disable_x_mesh()
            .x_labels(real.len().max(1))
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.2}"))
            .x_desc("lag, packets")
            .draw()?;
        for (i, (_, values)) in series.iter().enumerate() {
            chart.draw_series(LineSeries::new(points(values), HUES[i % HUES.len()].stroke_width(2)))?;
        }
        chart.draw_series(points(real).into_iter().map(|point| Circle::new(point, 4, INK.filled())))?;
        Ok(())
    })
}

/// Writes the title and what the colours mean at the top of a sheet, and gives the rest of it.
pub fn legend<'a, 'n>(sheet: &Area<'a>, names: impl Iterator<Item = &'n str>, title: Option<&str>) -> Drawn<Area<'a>> {
    let mut y = 6;
    if let Some(title) = title {
        sheet.draw_text(title, &letters(16, INK), (12, y))?;
        y += 24;
    }
    let mut x = 12;
    for (i, name) in names.enumerate() {
        sheet.draw(&Rectangle::new([(x, y + 3), (x + 14, y + 11)], HUES[i % HUES.len()].filled()))?;
        sheet.draw_text(name, &letters(12, INK), (x + 19, y))?;
        x += 36 + name.chars().count() as i32 * 6;
    }
    Ok(sheet.margin(y as u32 + 20, 2, 2, 2))
}
