//! Pictures of flows and of training, as SVG: no font or image library needed, sharp at any size.
//!
//! Two hues carry every comparison, blue and vermilion of the Okabe-Ito palette, which people who see red and green
//! alike tell apart; what is laid over something differs in shape too (a line over filled bars).

mod canvas;
mod codebook;
mod compare;
mod confusion;
mod curves;
mod flows;
mod generators;
mod histogram;
mod judged;

pub use codebook::codebook;
pub use compare::compare;
pub use confusion::{MAX_LABELS, confusion};
pub use curves::{Series, curves};
pub use generators::{bars, densities, lags};
pub use judged::{reliability, steps};
