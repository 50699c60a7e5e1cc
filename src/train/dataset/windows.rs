//! Training flows that are too many for memory: read anew in every epoch, a window of them at a time.
//!
//! Tables come in units: the row groups of Parquet files, and other files whole. Every epoch draws an order of the units,
//! lays the flows out in it and cuts them into windows of equal size; the flows of a window are shuffled as those of a
//! small table are. All of it follows from the seed and the epoch, so a run that is gone on with finds its window
//! without having read those before it.

use super::splits::{Splits, share_of};
use super::staging::Staged;
use super::{Dataset, Flows, Request};
use crate::error::{Error, Result};
use crate::quantizer::Quantizer;
use crate::random::Stream;
use crate::train::batch::Draw;
use crate::train::table::{self, Filter, Row, Split, Unit};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// Most labels there may be.
const MAX_LABELS: usize = 1 << 16;

/// Rows that are turned into tokens at a time.
const CHUNK: usize = 4096;

/// A part of a table and what it holds.
#[derive(Clone, Debug)]
struct Part {
    path: PathBuf,
    unit: Unit,
    /// Whether its labels count.
    labelled: bool,
    /// Number of its first row among all rows that the filters keep.
    first: u64,
    /// Memory that its training flows take.
    bytes: u64,
}

/// Training flows on the disk.
#[derive(Clone, Debug)]
pub struct Windows {
    parts: Vec<Part>,
    /// Memory that all training flows would take.
    bytes: u64,
    /// Windows of an epoch.
    n: u64,
    /// Training flows, and the positions that their sequences take.
    flows: u64,
    tokens: u64,
    splits: Splits,
    filters: Vec<Filter>,
    val_share: f64,
    n_packets: usize,
    /// Fingerprints of the validation flows.
    held_out: HashSet<u64>,
    labels: BTreeMap<String, u32>,
}

/// The memory that a flow of `n` packets takes: packets, tokens and what is kept of each flow.
pub(super) fn flow_bytes(n: usize) -> u64 {
    12 * n as u64 + 64
}

/// Validation flows, no more than there is room for: of too many, an even sample.
struct HeldOut {
    most: u64,
    bytes: u64,
    /// Flows are kept whose draw is below this.
    share: f64,
    flows: Vec<(f64, Staged)>,
    seen: u64,
}

impl HeldOut {
    fn push(&mut self, number: u64, flow: Staged) {
        self.seen += 1;
        let draw = share_of(&format!("validation {number}"));
        if draw >= self.share {
            return;
        }
        self.bytes += flow_bytes(flow.tokens.len());
        self.flows.push((draw, flow));
        while self.bytes > self.most && self.flows.len() > 1 {
            self.share /= 2.0;
            self.flows.retain(|(draw, _)| *draw < self.share);
            self.bytes = self.flows.iter().map(|(_, flow)| flow_bytes(flow.tokens.len())).sum();
        }
    }
}

/// Reads the tables of `request` once more: the validation flows into `data`, and what the training flows amount to.
/// Windows take at most `most` bytes each.
pub(super) fn scan(
    data: &mut Dataset,
    request: &Request<'_>,
    splits: Splits,
    quantizer: &Quantizer,
    n_packets: usize,
    most: u64,
) -> Result<Windows> {
    let mut held_out = HeldOut { most, bytes: 0, share: 1.0, flows: Vec::new(), seen: 0 };
    let mut labels: BTreeMap<String, u32> = BTreeMap::new();
    let mut out = Windows {
        parts: Vec::new(),
        bytes: 0,
        n: 1,
        flows: 0,
        tokens: 0,
        splits,
        filters: request.filters.to_vec(),
        val_share: request.val_share,
        n_packets,
        held_out: HashSet::new(),
        labels: BTreeMap::new(),
    };
    let (mut number, mut n_test) = (0, 0);
    for (paths, labelled) in [(request.labelled, true), (request.unlabelled, false)] {
        for path in request.files(paths)? {
            for unit in table::units(&path)? {
                let mut part = Part { path: path.clone(), unit, labelled, first: number, bytes: 0 };
                table::stream_unit(&path, unit, request.filters, &mut |row| {
                    number += 1;
                    let split = out.splits.of(&row.group, row.split, number - 1, request.val_share);
                    if split == Split::Test {
                        n_test += 1;
                        return Ok(());
                    }
                    if let Some(label) = row.label.as_ref().filter(|label| labelled && !labels.contains_key(*label)) {
                        if labels.len() >= MAX_LABELS {
                            return Err(Error::format(format!("more than {MAX_LABELS} labels")));
                        }
                        labels.insert(label.clone(), 0);
                    }
                    if split == Split::Val {
                        held_out.push(number - 1, Staged::new(row, number - 1, labelled, quantizer, n_packets)?);
                    } else {
                        let n = row.packets.len().min(n_packets);
                        part.bytes += flow_bytes(n);
                        out.flows += 1;
                        out.tokens += n as u64 + 1;
                    }
                    Ok(())
                })?;
                out.bytes += part.bytes;
                out.parts.push(part);
            }
        }
    }
    labels.values_mut().zip(0..).for_each(|(id, i)| *id = i);
    if n_test > 0 {
        data.notes.push(format!("{n_test} flows of split test are left out"));
    }
    if held_out.flows.len() as u64 != held_out.seen {
        let (kept, seen) = (held_out.flows.len(), held_out.seen);
        data.notes
            .push(format!("{kept} of {seen} validation flows are judged by: as many as --shuffle-mib has room for"));
    }
    for (_, flow) in &held_out.flows {
        out.held_out.extend(flow.fingerprint);
        data.val.push(flow, &labels);
    }
    out.n = out.bytes.div_ceil(most.max(1)).max(1);
    data.labels = labels.keys().cloned().collect();
    out.labels = labels;
    data.notes.push(format!(
        "the training flows take more memory than --shuffle-mib allows: an epoch has {} windows, flows are shuffled \
         within each; those equal to a validation flow are left out as they come",
        out.n
    ));
    Ok(out)
}

impl Windows {
    /// Windows of an epoch.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Training flows, copies of validation flows included.
    pub fn flows(&self) -> u64 {
        self.flows
    }

    /// Positions that their sequences take.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The flows of window `window` of `epoch`, in the order of the tables.
    pub fn read(&self, quantizer: &Quantizer, seed: u64, epoch: u64, window: u64) -> Result<Flows> {
        let mut order: Vec<&Part> = self.parts.iter().collect();
        Stream::new(seed, Draw::Units.stream(epoch)).shuffle(&mut order);
        let edge = |window: u64| (u128::from(self.bytes) * u128::from(window) / u128::from(self.n)) as u64;
        let (begin, end) = (edge(window), edge(window + 1));
        let (mut at, mut flows) = (0, Flows::default());
        for part in order {
            let next = at + part.bytes;
            if next > begin && at < end {
                self.read_part(part, at, begin..end, quantizer, &mut flows)?;
            }
            at = next;
        }
        Ok(flows)
    }

    /// Adds the flows of `part`, which begins at byte `at` of the epoch, that begin within `span`.
    fn read_part(
        &self,
        part: &Part,
        mut at: u64,
        span: std::ops::Range<u64>,
        quantizer: &Quantizer,
        flows: &mut Flows,
    ) -> Result<()> {
        let (expected, mut number, mut is_past) = (at + part.bytes, part.first, false);
        let mut waiting: Vec<(Row, u64)> = Vec::with_capacity(CHUNK);
        let streamed = table::stream_unit(&part.path, part.unit, &self.filters, &mut |row| {
            number += 1;
            let split = self.splits.of(&row.group, row.split, number - 1, self.val_share);
            if split != Split::Train {
                return Ok(());
            }
            let begins = at;
            at += flow_bytes(row.packets.len().min(self.n_packets));
            is_past = begins >= span.end;
            if is_past {
                // Ends the reading; the error goes no further.
                return Err(Error::invalid("the window is full"));
            }
            if begins < span.start {
                return Ok(());
            }
            waiting.push((row, number - 1));
            if waiting.len() == CHUNK {
                self.take(&mut waiting, part.labelled, quantizer, flows)?;
            }
            Ok(())
        });
        if !is_past {
            streamed?;
            if at != expected {
                let path = part.path.display();
                return Err(Error::mismatch(format!("{path}: changed while it was learnt from; begin the run anew")));
            }
        }
        self.take(&mut waiting, part.labelled, quantizer, flows).map_err(|e| e.at(part.path.display()))
    }

    /// Turns the rows that wait into flows.
    fn take(
        &self,
        waiting: &mut Vec<(Row, u64)>,
        labelled: bool,
        quantizer: &Quantizer,
        flows: &mut Flows,
    ) -> Result<()> {
        let staged: Result<Vec<Staged>> = waiting
            .par_drain(..)
            .map(|(row, number)| Staged::new(row, number, labelled, quantizer, self.n_packets))
            .collect();
        for flow in staged? {
            if !flow.fingerprint.is_some_and(|f| self.held_out.contains(&f)) {
                flows.push(&flow, &self.labels);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::quantizer::{Codebook, Scaler};
    use crate::train::table::Writer;
    use std::path::Path;

    fn quantizer() -> Quantizer {
        let centroids = (0..16).map(|i| [i as f32 / 8.0 - 1.0, 1.0]).collect();
        Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap())
    }

    /// Flow `i`: its number is the time of its second packet, so that it can be told among all.
    fn row(i: usize, split: Option<Split>) -> Row {
        let packet = |j: usize| Packet { size: 40 + j as i32, ipt_us: if j == 1 { i as f32 } else { 0.0 } };
        let packets: Vec<Packet> = (0..2 + i % 5).map(packet).collect();
        let label = i.is_multiple_of(3).then(|| format!("label {}", i % 2));
        let group = format!("group {}", i / 7);
        Row { label, group, split, n_packets: packets.len() as u64, packets, key: None, start_ns: None }
    }

    /// Files of 50 flows each in nested directories.
    fn tables(directory: &Path, n_files: usize, split: fn(usize) -> Option<Split>) {
        for file in 0..n_files {
            let place = directory.join(format!("{}/{}", file % 3, file % 2));
            std::fs::create_dir_all(&place).unwrap();
            let name = format!("{file:02}.{}", ["parquet", "jsonl", "csv"][file % 3]);
            let mut writer = Writer::create(&place.join(name)).unwrap();
            (0..50).for_each(|i| writer.push(&row(50 * file + i, split(50 * file + i))).unwrap());
            writer.finish().unwrap();
        }
    }

    fn read(directory: &Path, most_bytes: Option<u64>) -> Result<Dataset> {
        let labelled = [directory.to_path_buf()];
        let (unlabelled, filters) = (&[][..], &[][..]);
        let request = Request {
            labelled: &labelled,
            unlabelled,
            filters,
            val_share: 0.08,
            allow_shared_groups: false,
            most_bytes,
        };
        Dataset::read(&request, &quantizer(), 126)
    }

    /// Number, tokens and label of every flow, sorted.
    fn shown(flows: &Flows) -> Vec<(u32, Vec<u32>, Option<u32>)> {
        let one = |i| (flows.packets.row(i)[1].ipt_us as u32, flows.tokens.row(i).to_vec(), flows.labels[i]);
        let mut all: Vec<_> = (0..flows.len()).map(one).collect();
        all.sort();
        all
    }

    #[test]
    fn windows_hold_every_flow_once_an_epoch_and_no_more_than_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        tables(directory.path(), 12, |_| None);
        let whole = read(directory.path(), None).unwrap();
        let most = 11_000;
        let data = read(directory.path(), Some(most)).unwrap();
        let windows = data.windows.as_ref().unwrap();
        assert!((5..9).contains(&windows.n()), "{}", windows.n());
        assert!(whole.windows.is_none() && data.train.is_empty());
        assert_eq!((shown(&data.val), &data.labels), (shown(&whole.val), &whole.labels));
        assert_eq!(data.sources, whole.sources);
        let mut orders = Vec::new();
        for epoch in 0..3 {
            let (mut all, mut order) = (Vec::new(), Vec::new());
            for window in 0..windows.n() {
                let flows = windows.read(&quantizer(), 7, epoch, window).unwrap();
                let bytes: u64 = flows.tokens.as_ragged().rows().map(|row| flow_bytes(row.len())).sum();
                assert!(bytes > most / 2 && bytes <= most + flow_bytes(6), "{bytes}");
                order.extend((0..flows.len()).map(|i| flows.packets.row(i)[1].ipt_us as u32));
                all.extend(shown(&flows));
                // The same again, without those before it.
                assert_eq!(shown(&windows.read(&quantizer(), 7, epoch, window).unwrap()), shown(&flows));
            }
            all.sort();
            assert_eq!(all, shown(&whole.train));
            orders.push(order);
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        assert_eq!(windows.flows(), whole.train.len() as u64);
        assert_eq!(windows.tokens(), whole.train_size().1);
    }

    #[test]
    fn validation_and_test_flows_and_copies_are_never_learnt() {
        let directory = tempfile::tempdir().unwrap();
        tables(directory.path(), 8, |i| Some([Split::Train, Split::Val, Split::Test, Split::Train][i / 7 % 4]));
        // Copies of a validation flow in a group that is learnt.
        let mut writer = Writer::create(&directory.path().join("copies.jsonl")).unwrap();
        let original = (0..400).find(|i| i / 7 % 4 == 1 && i % 5 >= 2).unwrap();
        let copy = Row { group: "another".into(), ..row(original, Some(Split::Train)) };
        (0..5).for_each(|_| writer.push(&copy).unwrap());
        writer.finish().unwrap();
        let whole = read(directory.path(), None).unwrap();
        let data = read(directory.path(), Some(12_000)).unwrap();
        assert_eq!(shown(&data.val), shown(&whole.val));
        let windows = data.windows.as_ref().unwrap();
        let flows = (0..windows.n()).map(|window| windows.read(&quantizer(), 1, 0, window).unwrap());
        let mut learnt: Vec<_> = flows.flat_map(|flows| shown(&flows)).collect();
        learnt.sort();
        assert_eq!(learnt, shown(&whole.train));
        assert!(learnt.iter().all(|(number, _, _)| number / 7 % 4 % 3 == 0), "of split train alone");
        assert!(data.notes.iter().any(|note| note.contains("split test")), "{:?}", data.notes);
        // Validation flows have a bound as well.
        let data = read(directory.path(), Some(4000)).unwrap();
        let kept: u64 = data.val.tokens.as_ragged().rows().map(|row| flow_bytes(row.len())).sum();
        assert!(kept <= 4000 && data.val.len() > 10 && data.val.len() < whole.val.len(), "{}", data.val.len());
        assert!(data.notes.iter().any(|note| note.contains("validation flows are judged by")), "{:?}", data.notes);
    }

    #[test]
    fn a_table_that_changes_meanwhile_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        tables(directory.path(), 3, |_| None);
        let data = read(directory.path(), Some(3000)).unwrap();
        let windows = data.windows.unwrap();
        std::fs::remove_dir_all(directory.path().join("1")).unwrap();
        let place = directory.path().join("1/1");
        std::fs::create_dir_all(&place).unwrap();
        let mut writer = Writer::create(&place.join("01.jsonl")).unwrap();
        (0..20).for_each(|i| writer.push(&row(i, None)).unwrap());
        writer.finish().unwrap();
        let errors = (0..windows.n()).filter_map(|window| windows.read(&quantizer(), 1, 0, window).err());
        let said: Vec<String> = errors.map(|e| e.to_string()).collect();
        assert!(said.iter().any(|e| e.contains("01.jsonl") && e.contains("changed")), "{said:?}");
    }
}
