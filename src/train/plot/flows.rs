//! The two axes on which packets are drawn: signed size and logarithmic time.

use crate::packet::Packet;

/// Time axis: powers of ten of a microsecond, from 1 µs; what is shorter counts as 1 µs.
pub const DECADES: f64 = 8.0;

/// Place of a time on the time axis.
pub fn decade(us: f64) -> f64 {
    us.max(1.0).log10().min(DECADES)
}

/// Name of a place on the time axis; nothing between powers of ten.
pub fn decade_name(place: f64) -> String {
    if (place - place.round()).abs() > 1e-6 {
        return String::new();
    }
    ["≤1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "10 s", "100 s"]
        .get(place.round().max(0.0) as usize)
        .map_or_else(String::new, |name| (*name).to_string())
}

/// Share of packets that a picture may draw at the edge of the size axis, for the others to be seen better.
const BEYOND: f64 = 0.02;

/// Bounds of the size axis, a round number of bytes each.
const BOUNDS: [f64; 10] = [100.0, 200.0, 300.0, 400.0, 500.0, 750.0, 1000.0, 1250.0, 1600.0, 2000.0];

/// The least bound that all but a fiftieth of the packets fit in; larger ones are drawn at the edge.
pub fn size_bound<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> f64 {
    let mut counts = [0_usize; BOUNDS.len()];
    let mut total = 0;
    for packet in packets {
        let size = f64::from(packet.size).abs();
        counts[BOUNDS.iter().position(|&bound| size <= bound).unwrap_or(BOUNDS.len() - 1)] += 1;
        total += 1;
    }
    let mut within = 0;
    for (bound, count) in BOUNDS.into_iter().zip(counts) {
        within += count;
        if (total - within) as f64 <= BEYOND * total as f64 {
            return bound;
        }
    }
    BOUNDS[BOUNDS.len() - 1]
}

/// Name of a place on the size axis.
pub fn size_name(size: f64) -> String {
    match size.round() as i64 {
        0 => "0".to_string(),
        n if n < 0 => format!("−{}", -n),
        n => format!("+{n}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_and_size_has_a_place() {
        for us in [0.0, 0.5, 1.0, 1e6, 1e30, f64::from(f32::MAX)] {
            assert!((0.0..=DECADES).contains(&decade(us)));
        }
        assert_eq!(decade_name(6.0), "1 s");
        assert_eq!(decade_name(2.5), "");
        let packets = |size, n| vec![Packet { size, ipt_us: 0.0 }; n];
        assert_eq!(size_bound(&packets(0, 0)), 100.0);
        assert_eq!(size_bound(&packets(i32::MIN, 3)), 2000.0);
        assert_eq!(size_bound([packets(-90, 98), packets(1500, 2)].concat().iter()), 100.0);
        assert_eq!(size_bound([packets(-90, 97), packets(1500, 3)].concat().iter()), 1600.0);
        assert_eq!(size_name(-40.0), "−40");
    }
}
