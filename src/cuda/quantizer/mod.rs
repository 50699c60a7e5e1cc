//! The quantizer on a GPU: [`Encoder`] turns packets into tokens, [`fit`] fits a codebook to [`Packets`].
//!
//! What the GPU is for. Encoding is a look-up a packet, so it goes as fast as memory does. In a fit by the CPU
//! (`crate::quantizer::kmeans`), an iteration costs what the lines of the sizes cost and nothing for each packet; what takes
//! its time at 100 million packets is to sort and count them first. Here nothing is sorted: the packets lie on the device as
//! they came, 8 bytes each with every bit of their time, and an iteration looks all of them up in a new table and sums
//! them, 3 ms by the floors of the kernels. The table of the iteration is made by the CPU's threads meanwhile, over the sizes
//! that occur: tens of milliseconds on two cores, which is what an iteration takes. So start from a codebook that is good
//! already, one fitted on the CPU to a sample of the flows: then few iterations are left.

pub(super) mod encoder;
mod fit;
mod lloyd;
pub(super) mod lookup;
mod packets;

pub use encoder::{Batch, Encoder};
pub use fit::fit;
pub use packets::Packets;
