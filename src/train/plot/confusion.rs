//! Which class was taken for which.

use super::canvas::{Drawn, FAINT, INK, anchored, letters, render};
use crate::error::{Error, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Most labels a picture has room for.
pub const MAX_LABELS: usize = 200;

/// A picture of a confusion matrix, as SVG. `rows[truth]` counts the predictions of the flows of a class: one for every
/// label, and perhaps one more for "unknown". A cell's shade is its share of the row, so that rare classes are seen.
pub fn confusion(title: &str, labels: &[String], rows: &[&[u64]]) -> Result<String> {
    let n = labels.len();
    let columns = rows.first().map_or(0, |row| row.len());
    if n == 0
        || n > MAX_LABELS
        || rows.len() != n
        || ![n, n + 1].contains(&columns)
        || rows.iter().any(|r| r.len() != columns)
    {
        return Err(Error::invalid(format!(
            "a confusion matrix of {} rows and {columns} columns for {n} labels; it has a row and a column for each of \
             1..={MAX_LABELS} labels, and at most one column more",
            rows.len()
        )));
    }
    let names = labels.iter().map(String::as_str).chain((columns > n).then_some("unknown"));
    let columns: Vec<&str> = names.take(columns).collect();
    let cell = (900 / n as i32).clamp(14, 52);
    let letter = (cell * 2 / 5).clamp(9, 15) as u32;
    let widest = columns.iter().map(|name| name.chars().count()).max().unwrap_or(0) as i32;
    let (left, top) = (60 + widest * letter as i32 * 6 / 10, 110 + widest * letter as i32 * 6 / 10);
    let right = left + cell * columns.len() as i32;
    let size = ((right + 130).max(640) as u32, (top + cell * n as i32 + 30) as u32);
    render(size, |sheet| {
        sheet.draw_text(title, &letters(22, INK), (16, 14))?;
        let remark = "row: the true class · column: what it was taken for · number: percent of the row";
        sheet.draw_text(remark, &letters(14, FAINT), (16, 46))?;
        sheet.draw_text("flows", &anchored(letter, FAINT, HPos::Left, VPos::Bottom), (right + 10, top - 6))?;
        let name = anchored(letter, INK, HPos::Right, VPos::Center);
        for (i, (label, row)) in labels.iter().zip(rows).enumerate() {
            let y = top + i as i32 * cell;
            sheet.draw_text(label, &name, (left - 8, y + cell / 2))?;
            draw_row(sheet, row, i, (left, y), cell)?;
            let flows = row.iter().sum::<u64>().to_string();
            sheet.draw_text(&flows, &anchored(letter, FAINT, HPos::Left, VPos::Center), (right + 10, y + cell / 2))?;
        }
        let name = anchored(letter, INK, HPos::Left, VPos::Center).transform(FontTransform::Rotate270);
        for (j, label) in columns.iter().enumerate() {
            sheet.draw_text(label, &name, (left + j as i32 * cell + cell / 2, top - 8))?;
        }
        Ok(())
    })
}

fn draw_row(sheet: &super::canvas::Area<'_>, row: &[u64], truth: usize, (left, y): (i32, i32), cell: i32) -> Drawn {
    let flows = row.iter().sum::<u64>().max(1) as f64;
    for (j, &count) in row.iter().enumerate() {
        let (x, share) = (left + j as i32 * cell, count as f64 / flows);
        let corners = [(x, y), (x + cell - 1, y + cell - 1)];
        sheet.draw(&Rectangle::new(corners, shade(share).filled()))?;
        if j == truth {
            sheet.draw(&Rectangle::new(corners, INK.stroke_width(1)))?;
        }
        if count > 0 && cell >= 24 {
            let ink = if share > 0.5 { WHITE } else { INK };
            let text = format!("{:.0}", 100.0 * share);
            let text = if share < 0.005 { "·".to_string() } else { text };
            sheet.draw_text(&text, &anchored(12, ink, HPos::Center, VPos::Center), (x + cell / 2, y + cell / 2))?;
        }
    }
    Ok(())
}

/// From nearly white to dark blue; lightness alone tells the share.
fn shade(share: f64) -> RGBColor {
    if share <= 0.0 {
        return RGBColor(246, 246, 246);
    }
    let (light, dark) = ((226.0, 238.0, 247.0), (8.0, 62.0, 110.0));
    let mix = |a: f64, b: f64| (a + (b - a) * share.min(1.0).sqrt()) as u8;
    RGBColor(mix(light.0, dark.0), mix(light.1, dark.1), mix(light.2, dark.2))
}
