//! Launches that come again: recorded once, and then replayed as one.
//!
//! A decode step of a network of six layers is 45 launches, each of which takes the host two or three microseconds: more than
//! the 16 µs in which a GPU can read the weights. A graph is one launch of them all. It names addresses and numbers as they were
//! when it was recorded; so all that changes from step to step is read from memory (tokens, positions, slots, draws, and the
//! rule they are drawn by), and what is left is told apart by [`Key`] and by the buffers that are named.
//!
//! Few numbers of rows come up, as rows are added that nobody looks at: see [`Graphs::rows`]. Where the driver does not record or
//! replay, launches go one by one as before.

use crate::cuda::device::Device;
use crate::error::{Error, Kind, Result};
use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

/// Most rows whose launches are recorded: with more the GPU is so busy that the host is ahead of it.
const MAX_ROWS: usize = 2048;

/// Up to so many rows one tile of a product holds them all, so that more of them take no more time.
const TILE: usize = 64;

/// Most graphs of a lane; each takes some 100 KB of the GPU's memory.
const MAX_GRAPHS: usize = 16;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Means of so many sequences over their rows from this one on.
    Embed { sequences: usize, first: usize },
    /// Logits of a decode step.
    Logits,
    /// Tokens of a decode step.
    Draws,
}

/// What launches depend on besides the buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub work: Work,
    pub rows: usize,
}

/// Launches that came up.
struct Known {
    key: Key,
    /// None after the first time: what comes once is not worth a recording.
    graph: Option<Graph>,
    /// The turn it was last wanted in.
    last: u64,
}

struct Graph(CudaGraph);

// SAFETY: the driver ties graphs to no thread; it asks that no two use one at once, and a graph belongs to one lane, which is
// used through `&mut` alone.
unsafe impl Send for Graph {}

/// A lane's graphs.
pub(super) struct Graphs {
    known: Vec<Known>,
    /// Which buffers they name: none of them is replayed with others.
    buffers: [u64; 3],
    turn: u64,
    works: bool,
    #[cfg(test)]
    pub replays: usize,
}

impl Graphs {
    /// None yet; if not `works`, none ever.
    pub(super) fn new(works: bool) -> Self {
        Self {
            known: Vec::new(),
            buffers: [0; 3],
            turn: 0,
            works,
            #[cfg(test)]
            replays: 0,
        }
    }

    /// How many rows to compute where `rows` are wanted: up to a tile's the next power of two, then as many as at most an
    /// eighth more, so that a decode whose flows end one by one goes through few numbers. The rows besides are of token 0 at
    /// position 0, in no slot. A row's results depend on itself, its sequence and its slot alone, so they change nothing.
    pub(super) fn rows(&self, rows: usize) -> usize {
        match rows {
            _ if !self.works || rows > MAX_ROWS => rows,
            ..=TILE => rows.next_power_of_two(),
            _ => rows.next_multiple_of(rows.next_power_of_two() / 16),
        }
    }

    /// Has `device` do what `launches` asks for, in one launch if it was asked for before. Beside the driver's own launches
    /// `launches` does nothing, and they are the same for the same `key` and `buffers`.
    pub(super) fn run(
        &mut self,
        device: &Device,
        key: Key,
        buffers: [u64; 3],
        launches: impl Fn() -> Result<()>,
    ) -> Result<()> {
        if !self.works || key.rows > MAX_ROWS {
            return launches();
        }
        if self.buffers != buffers {
            self.forget(device);
            self.buffers = buffers;
        }
        self.turn += 1;
        let turn = self.turn;
        let Some(known) = self.known.iter_mut().find(|known| known.key == key) else {
            if self.known.len() == MAX_GRAPHS {
                self.forget_oldest(device);
            }
            self.known.push(Known { key, graph: None, last: turn });
            return launches();
        };
        known.last = turn;
        if let Some(graph) = &known.graph {
            if device.run("replaying launches", |_| graph.0.launch()).is_ok() {
                #[cfg(test)]
                {
                    self.replays += 1;
                }
                return Ok(());
            }
        } else if let Ok(graph) = record(device, &launches) {
            known.graph = Some(graph);
            return self.run(device, key, buffers, launches);
        }
        // This driver cannot; or the GPU is lost, which the launches tell.
        self.works = false;
        self.forget(device);
        launches()
    }

    fn forget_oldest(&mut self, device: &Device) {
        if let Some((oldest, _)) = self.known.iter().enumerate().min_by_key(|(_, known)| known.last) {
            wait(device);
            self.known.swap_remove(oldest);
        }
    }

    fn forget(&mut self, device: &Device) {
        if !self.known.is_empty() {
            wait(device);
            self.known.clear();
        }
    }
}

/// A graph that still runs is not to be dropped. That the wait fails is told by whatever comes next.
fn wait(device: &Device) {
    let _ = device.synchronize();
}

/// Records what `launches` asks for, which is not done.
fn record(device: &Device, launches: impl Fn() -> Result<()>) -> Result<Graph> {
    const WHAT: &str = "recording launches";
    // Other threads may do meanwhile what they like.
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    device.run(WHAT, |stream| stream.begin_capture(mode))?;
    let launched = launches();
    // Whatever came of it, so that the stream does again what it is asked for.
    let graph = device.run(WHAT, |stream| stream.end_capture(CUgraphInstantiate_flags(0)));
    launched?;
    graph?.map(Graph).ok_or_else(|| Error::new(Kind::Runtime, "CUDA: the driver has recorded nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_up_to_few_numbers_and_by_little() {
        let graphs = Graphs::new(true);
        let mut numbers = Vec::new();
        for rows in 1..=MAX_ROWS {
            let rounded = graphs.rows(rows);
            let most = if rows <= TILE { 2 * rows - 1 } else { rows + rows / 8 };
            assert!((rows..=most.max(1)).contains(&rounded) && rounded <= MAX_ROWS, "{rows}: {rounded}");
            assert_eq!(graphs.rows(rounded), rounded);
            numbers.push(rounded);
        }
        numbers.dedup();
        assert_eq!(numbers.len(), 7 + 5 * 8, "{numbers:?}");
        assert_eq!([MAX_ROWS + 1, 5000].map(|rows| graphs.rows(rows)), [MAX_ROWS + 1, 5000]);
        assert_eq!(Graphs::new(false).rows(5), 5);
    }
}
