//! What every picture is drawn with: the sheet and how it becomes a file, colours and letters.

use crate::error::{Error, Kind, Result};
use crate::train::atomic::AtomicFile;
use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::io::{self, Write};
use std::path::Path;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Drawn<T = ()> = std::result::Result<T, DrawingAreaErrorKind<io::Error>>;

pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const VERMILION: RGBColor = RGBColor(213, 94, 0);
/// For more curves than two: the rest of Okabe-Ito that is legible on white.
pub const HUES: [RGBColor; 6] =
    [BLUE, VERMILION, RGBColor(0, 158, 115), RGBColor(204, 121, 167), RGBColor(230, 159, 0), RGBColor(86, 180, 233)];
pub const INK: RGBColor = RGBColor(34, 34, 34);
pub const FAINT: RGBColor = RGBColor(110, 110, 110);
pub const GRID: RGBColor = RGBColor(228, 228, 228);

/// Draws a picture of `size` pixels and writes it to `path`, whole or not at all.
pub fn save(path: &Path, size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<()> {
    let svg = render(size, draw).map_err(|e| e.at(path.display()))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(svg.as_bytes()).map_err(|e| Error::io(path, &e))?;
    file.commit()
}

/// Draws a picture of `size` pixels, as SVG.
pub fn render(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String> {
    let mut svg = String::new();
    {
        let sheet = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        let drawn = sheet.fill(&WHITE).and_then(|()| draw(&sheet)).and_then(|()| sheet.present());
        drawn.map_err(|e| Error::new(Kind::Runtime, format!("cannot draw: {e}")))?;
    }
    Ok(svg)
}

/// Letters of `size` pixels in `colour`.
pub fn letters(size: u32, colour: RGBColor) -> TextStyle<'static> {
    TextStyle { color: colour.to_backend_color(), ..TextStyle::from(("sans-serif", size).into_font()) }
}

/// The same, anchored at a point of their own rather than their upper left corner.
pub fn anchored(size: u32, colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    letters(size, colour).pos(Pos::new(horizontal, vertical))
}

/// Axes and grid of every chart: one grid, faint; names of places in letters of `size` pixels, of axes in the next larger ones.
pub fn plain<'m, 'a, 'b, X: Ranged, Y: Ranged, B: DrawingBackend>(
    mesh: &'m mut MeshStyle<'a, 'b, X, Y, B>,
    size: u32,
) -> &'m mut MeshStyle<'a, 'b, X, Y, B> {
    mesh.bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(FAINT)
        .label_style(letters(size, INK))
        .axis_desc_style(letters(size + 1, FAINT))
}

/// Writes the heading of a panel, with a remark below it in smaller letters, and gives the rest of the panel.
pub fn headed<'a>(panel: &Area<'a>, heading: &str, remark: &str) -> Drawn<Area<'a>> {
    panel.draw_text(heading, &letters(18, INK), (14, 8))?;
    panel.draw_text(remark, &letters(14, FAINT), (14, 31))?;
    Ok(panel.margin(54, 6, 6, 14))
}

/// A count with its digits in threes: `1 234 567`.
pub fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    groups.iter().map(|g| String::from_utf8_lossy(g)).collect::<Vec<_>>().join("\u{202f}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_apart() {
        let plain = |n| super::thousands(n).replace('\u{202f}', " ");
        assert_eq!([0, 999, 1000, 1_234_567].map(plain), ["0", "999", "1 000", "1 234 567"]);
    }
}
