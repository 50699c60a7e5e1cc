//! Real flows beside generated ones.

use super::canvas::{
    Area, BLUE, Drawn, FAINT, GRID, INK, VERMILION, anchored, headed, letters, plain, save, thousands,
};
use super::flows::{DECADES, decade, decade_name, size_bound, size_name};
use super::histogram::{Axis, overlay};
use crate::error::Result;
use crate::packet::{Packet, Ragged};
use crate::train::similarity::{Distances, Marginals};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::collections::BTreeMap;
use std::path::Path;

const SIZE: (u32, u32) = (1400, 1330);
/// Flows whose packets are drawn one by one, in rows and columns of each side.
const FINGERPRINTS: (usize, usize) = (4, 2);
/// Packets of such a flow.
const FINGERPRINT_PACKETS: usize = 32;

/// Writes a picture of `real` beside `generated`: distributions of sizes, times and lengths, every packet's size
/// against its time, and the first packets of some flows. `title` says what they are flows of.
pub fn compare(path: &Path, title: &str, real: Ragged<'_, Packet>, generated: Ragged<'_, Packet>) -> Result<()> {
    save(path, SIZE, |sheet| {
        let (head, rest) = sheet.split_vertically(84);
        let (distributions, rest) = rest.split_vertically(380);
        let (scatter, fingerprints) = rest.split_vertically(430);
        draw_head(&head, title, real, generated)?;
        draw_distributions(&distributions, real, generated)?;
        let bound = size_bound(real.values().iter().chain(generated.values()));
        for (area, (name, flows, colour)) in scatter.split_evenly((1, 2)).iter().zip(sides(real, generated)) {
            draw_scatter(area, name, flows, colour, bound)?;
        }
        let shown = |flows| fingerprints_of(flows).into_iter().flat_map(|flow| flow.iter().take(FINGERPRINT_PACKETS));
        let bound = size_bound(shown(real).chain(shown(generated)));
        for (area, (name, flows, colour)) in fingerprints.split_evenly((1, 2)).iter().zip(sides(real, generated)) {
            draw_fingerprints(area, name, flows, colour, bound)?;
        }
        Ok(())
    })
}

type Side<'a> = (&'static str, Ragged<'a, Packet>, RGBColor);

fn sides<'a>(real: Ragged<'a, Packet>, generated: Ragged<'a, Packet>) -> [Side<'a>; 2] {
    [("Real", real, BLUE), ("Generated", generated, VERMILION)]
}

fn draw_head(area: &Area<'_>, title: &str, real: Ragged<'_, Packet>, generated: Ragged<'_, Packet>) -> Drawn {
    area.draw_text(title, &letters(28, INK), (14, 14))?;
    let mut x = 14;
    for (name, flows, colour) in sides(real, generated) {
        let legend = format!("{name}: {} flows, {} packets", thousands(flows.len()), thousands(flows.total()));
        if name == "Real" {
            area.draw(&Rectangle::new([(x, 57), (x + 22, 71)], colour.mix(0.55).filled()))?;
        } else {
            area.draw(&PathElement::new(vec![(x, 64), (x + 22, 64)], colour.stroke_width(3)))?;
        }
        area.draw_text(&legend, &letters(16, INK), (x + 30, 55))?;
        x += 60 + legend.chars().count() as i32 * 8;
    }
    Ok(())
}

fn draw_distributions(area: &Area<'_>, real: Ragged<'_, Packet>, generated: Ragged<'_, Packet>) -> Drawn {
    let (left, rest) = area.split_horizontally(560);
    let (middle, right) = rest.split_horizontally(480);
    let (real_is, generated_is) = (Marginals::of(real), Marginals::of(generated));
    let distances = Distances::between(&real_is, &generated_is);
    let remark = |distance: Option<f64>| {
        distance.map_or("no values to compare".to_string(), |d| format!("Kolmogorov-Smirnov distance {d:.3}"))
    };

    let bound = size_bound(real.values().iter().chain(generated.values()));
    let axis = Axis {
        range: -bound..bound,
        bins: 80,
        title: "← server to client · bytes · client to server →",
        name: &|size| size_name(*size),
        names: 9,
    };
    let panel = headed(&left, "Packet sizes", &remark(distances.size))?;
    overlay(&panel, &axis, &real_is.sizes, &generated_is.sizes)?;

    let axis = Axis {
        range: 0.0..DECADES,
        bins: 64,
        title: "time since the flow's previous packet",
        name: &|place| decade_name(*place),
        names: 9,
    };
    let decades = |times: &[f64]| times.iter().map(|us| decade(*us)).collect::<Vec<_>>();
    let panel = headed(&middle, "Times between packets", &remark(distances.time))?;
    overlay(&panel, &axis, &decades(&real_is.times_us), &decades(&generated_is.times_us))?;

    let longest = real_is.lengths.iter().chain(&generated_is.lengths).copied().fold(8.0, f64::max);
    let axis = Axis {
        // Each length has a bin of its own while they are few.
        range: 0.5..longest + 0.5,
        bins: (longest as usize).min(42),
        title: "packets of a flow",
        name: &|length| format!("{length:.0}"),
        names: 7,
    };
    let panel = headed(&right, "Packets per flow", &remark(distances.length))?;
    overlay(&panel, &axis, &real_is.lengths, &generated_is.lengths)
}

fn draw_scatter(area: &Area<'_>, name: &str, flows: Ragged<'_, Packet>, colour: RGBColor, bound: f64) -> Drawn {
    let panel = headed(
        area,
        &format!("{name}: size against time"),
        "every packet but a flow's first; darker: more; larger ones at the edge",
    )?;
    let mut chart = ChartBuilder::on(&panel)
        .x_label_area_size(48)
        .y_label_area_size(70)
        .margin_right(14)
        .build_cartesian_2d(-0.1..DECADES, -bound * 1.05..bound * 1.05)?;
    plain(&mut chart.configure_mesh(), 13)
        .x_labels(9)
        .y_labels(9)
        .x_label_formatter(&|place| decade_name(*place))
        .y_label_formatter(&|size| size_name(*size))
        .x_desc("time since the flow's previous packet")
        .y_desc("signed size in bytes")
        .draw()?;
    chart.draw_series([PathElement::new(vec![(-0.1, 0.0), (DECADES, 0.0)], FAINT)])?;
    // Packets at nearly one place become one dot, so that the file stays small however many there are.
    let mut dots: BTreeMap<(i32, i32), u32> = BTreeMap::new();
    let (column, row) = (DECADES / 200.0, bound / 80.0);
    for packet in flows.rows().flat_map(|flow| flow.iter().skip(1)) {
        let size = f64::from(packet.size).clamp(-bound, bound);
        let place = ((decade(f64::from(packet.ipt_us)) / column) as i32, (size / row).round() as i32);
        *dots.entry(place).or_default() += 1;
    }
    let busiest = f64::from(dots.values().copied().max().unwrap_or(1));
    chart.draw_series(dots.iter().map(|(&(x, y), &count)| {
        let opacity = 0.25 + 0.75 * f64::from(count).ln() / busiest.ln().max(1.0);
        Circle::new((f64::from(x) * column, f64::from(y) * row), 3, colour.mix(opacity).filled())
    }))?;
    Ok(())
}

fn draw_fingerprints(area: &Area<'_>, name: &str, flows: Ragged<'_, Packet>, colour: RGBColor, bound: f64) -> Drawn {
    let (rows, columns) = FINGERPRINTS;
    let shown = fingerprints_of(flows);
    let heading = format!("{name}: the first packets of {} flows", shown.len());
    let remark = format!(
        "in order, up to {FINGERPRINT_PACKETS}; up: client to server, down: server to client, ±{bound:.0} bytes; \
         flows evenly spaced through the file"
    );
    let panel = headed(area, &heading, &remark)?;
    for (cell, flow) in panel.split_evenly((rows, columns)).iter().zip(shown) {
        draw_fingerprint(&cell.margin(3, 5, 10, 10), flow, colour, bound)?;
    }
    Ok(())
}

fn draw_fingerprint(area: &Area<'_>, flow: &[Packet], colour: RGBColor, bound: f64) -> Drawn {
    let (width, height) = area.dim_in_pixel();
    let (width, height) = (width as i32 - 36, height as i32);
    let (middle, half) = (height / 2, height as f64 / 2.0);
    area.draw(&Rectangle::new([(0, 0), (width, height)], GRID.mix(0.45).filled()))?;
    let bar = width / FINGERPRINT_PACKETS as i32;
    for (i, packet) in flow.iter().take(FINGERPRINT_PACKETS).enumerate() {
        let reach = f64::from(packet.size).clamp(-bound, bound) / bound * half;
        // At least two pixels, or an acknowledgement would not be seen.
        let reach = if reach < 0.0 { reach.min(-2.0) } else { reach.max(2.0) };
        let left = i as i32 * bar;
        let corners = [(left, middle - reach as i32), (left + bar - 3, middle)];
        area.draw(&Rectangle::new(corners, colour.mix(if packet.size < 0 { 0.6 } else { 1.0 }).filled()))?;
    }
    area.draw(&PathElement::new(vec![(0, middle), (width, middle)], FAINT))?;
    if flow.len() > FINGERPRINT_PACKETS {
        let more = format!("+{}", flow.len() - FINGERPRINT_PACKETS);
        area.draw_text(&more, &anchored(13, FAINT, HPos::Left, VPos::Center), (width + 6, middle))?;
    }
    Ok(())
}

/// The flows drawn packet by packet: evenly spaced, not chosen.
fn fingerprints_of(flows: Ragged<'_, Packet>) -> Vec<&[Packet]> {
    let n = (FINGERPRINTS.0 * FINGERPRINTS.1).min(flows.len());
    (0..n).map(|i| flows.row(i * flows.len() / n)).collect()
}
