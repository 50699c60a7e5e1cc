//! How good a classifier's answers are: early, and for how sure it is. Pictures for a page, as SVG.

use super::canvas::{BLUE, Drawn, FAINT, HUES, INK, letters, plain, render};
use super::generators::legend;
use crate::error::Result;
use plotters::prelude::*;

/// Shares in 0..=1 over steps that are set apart evenly and have names; `series` holds a value for each step.
pub fn steps(title: &str, x_title: &str, names: &[String], series: &[(&str, &[f64])]) -> Result<String> {
    let last = names.len().saturating_sub(1) as f64;
    render((760, 400), |sheet| {
        let sheet = legend(sheet, series.iter().map(|s| s.0), Some(title))?;
        let mut chart = ChartBuilder::on(&sheet)
            .margin_right(18)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.2..last + 0.2, 0.0..1.0)?;
        let name = |place: &f64| {
            let step = place.round();
            let at = (place - step).abs() < 0.01 && step >= 0.0;
            at.then(|| names.get(step as usize).cloned()).flatten().unwrap_or_default()
        };
        plain(&mut chart.configure_mesh(), 13)
            .disable_x_mesh()
            .x_labels(names.len() + 1)
            .y_labels(6)
            .x_label_formatter(&name)
            .y_label_formatter(&|y| format!("{y:.1}"))
            .x_desc(x_title)
            .draw()?;
        for (i, (_, values)) in series.iter().enumerate() {
            let hue = HUES[i % HUES.len()];
            let points: Vec<(f64, f64)> = values.iter().enumerate().map(|(step, v)| (step as f64, *v)).collect();
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, hue.filled())))?;
            chart.draw_series(LineSeries::new(points, hue.stroke_width(2)))?;
        }
        Ok(())
    })
}

/// Shares that are right over best probabilities, beside the diagonal on which honest ones lie.
pub fn reliability(title: &str, points: &[(f64, f64)]) -> Result<String> {
    render((440, 440), |sheet| -> Drawn {
        sheet.draw_text(title, &letters(14, INK), (12, 6))?;
        let area = sheet.margin(28, 2, 2, 14);
        let mut chart = ChartBuilder::on(&area)
            .x_label_area_size(44)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
        plain(&mut chart.configure_mesh(), 13)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.1}"))
            .y_label_formatter(&|y| format!("{y:.1}"))
            .x_desc("best probability")
            .y_desc("share that is right")
            .draw()?;
        chart.draw_series(LineSeries::new([(0.0, 0.0), (1.0, 1.0)], FAINT))?;
        chart.draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(2)))?;
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, BLUE.filled())))?;
        Ok(())
    })
}
