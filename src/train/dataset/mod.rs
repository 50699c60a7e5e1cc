//! The flows a run learns from and the flows it is judged by, as tokens.
//!
//! Training flows are those of split `train`, validation flows those of split `val`; flows of split `test` are dropped
//! as they are read. Flows that name no split go where the rest of their group is, else a share of the groups, drawn
//! from the group's name alone, goes to validation.
//!
//! Flows stay in memory if they fit what a run allows for them; the training flows of larger tables stay on the disk and
//! come in [`Windows`].

mod classifier;
mod splits;
mod staging;
mod windows;

pub use classifier::for_classifier;
pub use splits::Splits;
pub use windows::Windows;

use crate::bundle::files::hex;
use crate::error::{Error, Kind, Result};
use crate::packet::{N_PACKETS, Packet, Rows};
use crate::quantizer::Quantizer;
use crate::tokens::Token;
use crate::train::table::{self, Filter, Split};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use staging::{Staged, Staging};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Most memory for flows that have to be in memory, bytes.
const MAX_BYTES: u64 = 16 << 30;

/// Which flows to read.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Tables whose labels count.
    pub labelled: &'a [PathBuf],
    /// Tables whose labels are ignored.
    pub unlabelled: &'a [PathBuf],
    /// Rows to keep.
    pub filters: &'a [Filter],
    /// Share of the groups that goes to validation among flows that name no split.
    pub val_share: f64,
    /// Whether groups may have flows in several splits.
    pub allow_shared_groups: bool,
    /// Most memory for training flows, bytes: those of larger tables come in windows. `None` if all must be in memory.
    pub most_bytes: Option<u64>,
}

impl Request<'_> {
    /// The files that `paths`, of this request, mean.
    fn files(&self, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut out = Vec::new();
        for path in paths {
            out.extend(table::files_of(path)?);
        }
        Ok(out)
    }
}

/// A file of flows, as a training record names it: by content, not by where it lay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name without directories.
    pub file: String,
    /// SHA-256 of its content, lower-case hexadecimal.
    pub sha256: String,
    /// Rows that were read and kept by the filters, of all splits.
    pub rows: usize,
}

impl Source {
    /// Of the file at `path`, whose content is read.
    pub(super) fn new(path: &Path, rows: usize) -> Result<Self> {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { file, sha256: sha256(path)?, rows })
    }
}

/// Flows of one split, as tokens.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    /// Each flow's first packets; no flow is empty.
    pub packets: Rows<Packet>,
    /// Their tokens.
    pub tokens: Rows<Token>,
    /// Whether the flow ended with the last of them.
    pub ended: Vec<bool>,
    /// Index of the flow's label in [`Dataset::labels`], if it has one.
    pub labels: Vec<Option<u32>>,
    /// Which flows come from one place: those with the same number. A flow of no group has a number of its own.
    pub groups: Vec<u32>,
}

impl Flows {
    /// Number of flows.
    pub fn len(&self) -> usize {
        self.ended.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }

    /// Positions that each flow's sequence takes: its packets and the token that leads them.
    pub fn costs(&self) -> Vec<usize> {
        self.tokens.as_ragged().rows().map(|row| row.len() + 1).collect()
    }

    /// The flows that have a label.
    pub fn labelled(&self) -> Self {
        let mut out = Self::default();
        (0..self.len()).filter(|&i| self.labels[i].is_some()).for_each(|i| out.copy(self, i));
        out
    }

    /// Appends flow `i` of `other`.
    fn copy(&mut self, other: &Self, i: usize) {
        self.packets.push(other.packets.row(i).iter().copied());
        self.tokens.push(other.tokens.row(i).iter().copied());
        self.ended.push(other.ended[i]);
        self.labels.push(other.labels[i]);
        self.groups.push(other.groups[i]);
    }

    /// Appends `flow`, in a group of its own, with its label by number in `labels`.
    fn push(&mut self, flow: &Staged, labels: &BTreeMap<String, u32>) {
        self.packets.push(flow.packets.iter().copied());
        self.tokens.push(flow.tokens.iter().copied());
        self.ended.push(flow.ended);
        self.labels.push(flow.label.as_ref().and_then(|label| labels.get(label).copied()));
        self.groups.push(self.groups.len() as u32);
    }
}

/// All flows of a run.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// To learn from; empty if they come in windows.
    pub train: Flows,
    /// To choose and stop by.
    pub val: Flows,
    /// The labels there are, sorted.
    pub labels: Vec<String>,
    /// Where the flows came from.
    pub sources: Vec<Source>,
    /// What was left out and why, a sentence each; for the user to see.
    pub notes: Vec<String>,
    /// The training flows, if they are too many for memory.
    pub windows: Option<Windows>,
}

impl Dataset {
    /// Reads the flows of `request` and turns them into tokens, `n_packets` of each at most.
    pub fn read(request: &Request<'_>, quantizer: &Quantizer, n_packets: usize) -> Result<Self> {
        let n_packets = n_packets.min(N_PACKETS);
        let mut out = Self::default();
        let mut staging = Staging::new(quantizer, n_packets, request.most_bytes.unwrap_or(MAX_BYTES));
        for (paths, labelled) in [(request.labelled, true), (request.unlabelled, false)] {
            for file in request.files(paths)? {
                let before = staging.rows;
                let notes = table::stream(&file, request.filters, &mut |row| staging.push(row, labelled))?;
                staging.flush(labelled).map_err(|e| e.at(file.display()))?;
                out.sources.push(Source::new(&file, (staging.rows - before) as usize)?);
                out.notes.extend(notes);
            }
        }
        if !request.allow_shared_groups {
            staging.splits.check()?;
        }
        match (staging.flows, request.most_bytes) {
            (Some(mut flows), _) => {
                for flow in &mut flows {
                    let split = staging.splits.of(&flow.group, flow.split, flow.number, request.val_share);
                    flow.split = Some(split);
                }
                out.fill(flows, staging.n_test)?;
            }
            (None, Some(most)) => {
                out.windows = Some(windows::scan(&mut out, request, staging.splits, quantizer, n_packets, most)?);
            }
            (None, None) => {
                return Err(Error::new(
                    Kind::NoMemory,
                    format!("the flows take more than {} GiB; give fewer, or leave some out", MAX_BYTES >> 30),
                ));
            }
        }
        out.check_sides()?;
        Ok(out)
    }

    /// Makes the validation flows training flows too: for a last run, once everything has been chosen.
    pub fn learn_validation(&mut self) -> Result<()> {
        if self.windows.is_some() {
            return Err(Error::invalid(
                "--learn-val needs all flows in memory: raise --shuffle-mib, or give the flows splits anew",
            ));
        }
        (0..self.val.len()).for_each(|i| self.train.copy(&self.val, i));
        let n = self.val.len();
        self.notes.push(format!("{n} validation flows are learnt too: figures on them say nothing of other flows"));
        Ok(())
    }

    /// Number of training flows, and of the positions that their sequences take.
    pub fn train_size(&self) -> (u64, u64) {
        match &self.windows {
            Some(windows) => (windows.flows(), windows.tokens()),
            None => (self.train.len() as u64, self.train.costs().iter().sum::<usize>() as u64),
        }
    }

    fn fill(&mut self, staged: Vec<Staged>, n_test: usize) -> Result<()> {
        let of_split = |split| move |flow: &&Staged| flow.split == Some(split);
        let n_test = n_test + staged.iter().filter(of_split(Split::Test)).count();
        if n_test > 0 {
            self.notes.push(format!("{n_test} flows of split test are left out"));
        }
        let held_out: HashSet<u64> = staged.iter().filter(of_split(Split::Val)).filter_map(|f| f.fingerprint).collect();
        let kept = staged.iter().filter(|f| f.split != Some(Split::Test));
        let labels: BTreeSet<&str> = kept.filter_map(|f| f.label.as_deref()).collect();
        let ids: BTreeMap<String, u32> = labels.into_iter().map(String::from).zip(0..).collect();
        let mut copies = 0;
        let mut groups: HashMap<String, u32> = HashMap::new();
        // Each is let go as soon as it is copied, so that not all of them are in memory twice.
        for (flow, i) in staged.into_iter().zip(0..) {
            let part = match flow.split {
                Some(Split::Val) => &mut self.val,
                Some(Split::Train) if flow.fingerprint.is_some_and(|f| held_out.contains(&f)) => {
                    copies += 1;
                    continue;
                }
                Some(Split::Train) => &mut self.train,
                _ => continue,
            };
            part.push(&flow, &ids);
            // Numbers of flows are used once each, so that of a group's first flow can stand for the group.
            let own = if flow.group.is_empty() { i } else { *groups.entry(flow.group).or_insert(i) };
            part.groups.pop();
            part.groups.push(own);
        }
        if copies > 0 {
            self.notes.push(format!("{copies} training flows equal to a validation flow are left out"));
        }
        self.labels = ids.into_keys().collect();
        Ok(())
    }

    /// Refuses a data set that lacks flows to learn from or to judge by.
    fn check_sides(&self) -> Result<()> {
        for (n, name) in [(self.train_size().0, "train"), (self.val.len() as u64, "val")] {
            if n == 0 {
                return Err(Error::invalid(format!(
                    "no flow of split {name} is left{}: give tables that have some, or flows without a split and a \
                     share of them for validation",
                    if self.notes.is_empty() { String::new() } else { format!(" ({})", self.notes.join("; ")) }
                )));
            }
        }
        Ok(())
    }
}

/// The filters that leave out rows by `column=value`.
pub fn exclusions(texts: &[String]) -> Result<Vec<Filter>> {
    let exclusion = |text: &String| {
        let filter = text.parse::<Filter>().ok().filter(|filter| !filter.exclude);
        let filter = filter.ok_or_else(|| Error::invalid(format!("exclude \"{text}\": write column=value")))?;
        Ok(Filter { exclude: true, ..filter })
    };
    texts.iter().map(exclusion).collect()
}

/// SHA-256 of the file at `path`, lower-case hexadecimal.
fn sha256(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(|e| Error::io(path, &e))?);
    loop {
        let chunk = file.fill_buf().map_err(|e| Error::io(path, &e))?;
        if chunk.is_empty() {
            break;
        }
        hasher.update(chunk);
        let n = chunk.len();
        file.consume(n);
    }
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::{Codebook, Scaler};
    use crate::train::table::Row;

    fn quantizer() -> Quantizer {
        let centroids = (0..16).map(|i| [i as f32 / 8.0 - 1.0, 1.0]).collect();
        Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap())
    }

    fn row(id: usize, n: usize, label: Option<&str>, group: &str, split: Option<Split>) -> Row {
        let packets = (0..n).map(|i| Packet { size: 40 + (id * 7 + i) as i32, ipt_us: (i * id) as f32 }).collect();
        let (label, group) = (label.map(String::from), group.to_string());
        Row { label, group, split, n_packets: n as u64, packets, key: None, start_ns: None }
    }

    fn read(rows: Vec<Row>, val_share: f64, allow_shared_groups: bool) -> Result<Dataset> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.parquet");
        let mut writer = table::Writer::create(&path).unwrap();
        for row in &rows {
            writer.push(row).unwrap();
        }
        writer.finish().unwrap();
        let labelled = [path];
        let request = Request {
            labelled: &labelled,
            unlabelled: &[],
            filters: &[],
            val_share,
            allow_shared_groups,
            most_bytes: None,
        };
        Dataset::read(&request, &quantizer(), N_PACKETS)
    }

    #[test]
    fn splits_are_kept_and_test_is_never_read() {
        let data = read(
            vec![
                row(1, 5, Some("b"), "g1", Some(Split::Train)),
                row(2, 130, Some("a"), "g2", Some(Split::Val)),
                row(3, 5, Some("secret"), "g3", Some(Split::Test)),
                row(4, 3, None, "g4", Some(Split::Train)),
            ],
            0.0,
            false,
        )
        .unwrap();
        assert_eq!((data.train.len(), data.val.len()), (2, 1));
        assert_eq!(data.labels, ["a", "b"]);
        assert_eq!(data.train.labels, [Some(1), None]);
        assert_eq!((data.train.ended[0], data.val.ended[0], data.val.tokens.row(0).len()), (true, false, N_PACKETS));
        assert_eq!(data.train.costs(), [6, 4]);
        assert_eq!((data.sources[0].file.as_str(), data.sources[0].rows), ("flows.parquet", 4));
        let refused = for_classifier(data.clone(), false, 2).unwrap_err();
        assert!(refused.message().contains("a (0), b (1)"), "{refused}");
        let data = for_classifier(data, false, 0).unwrap();
        assert_eq!(data.train.len(), 1);
        assert!(data.notes.iter().any(|n| n.contains("never to be found: a")), "{:?}", data.notes);
    }

    #[test]
    fn flows_without_a_split_follow_their_group() {
        let rows: Vec<Row> = (0..400).map(|i| row(i, 4, None, &format!("g{}", i / 4), None)).collect();
        let data = read(rows.clone(), 0.2, false).unwrap();
        assert_eq!(data.train.len() + data.val.len(), 400);
        assert!((40..120).contains(&data.val.len()), "{}", data.val.len());
        assert_eq!(data.val.len() % 4, 0, "groups stay together");
        let again = read(rows, 0.2, false).unwrap();
        assert_eq!(again.val.tokens, data.val.tokens);
        let mixed =
            vec![row(1, 4, None, "g", None), row(2, 4, None, "g", Some(Split::Val)), row(3, 4, None, "h", None)];
        assert_eq!(read(mixed, 0.0, false).unwrap().val.len(), 2);
    }

    #[test]
    fn copies_of_validation_flows_are_not_learnt() {
        let rows = vec![
            row(1, 5, None, "a", Some(Split::Train)),
            row(1, 5, None, "b", Some(Split::Val)),
            row(2, 3, None, "a", Some(Split::Train)),
            row(2, 3, None, "b", Some(Split::Val)),
        ];
        let data = read(rows, 0.0, false).unwrap();
        assert_eq!((data.train.len(), data.val.len()), (1, 2));
        assert!(data.notes.iter().any(|n| n.starts_with("1 training flows equal")), "{:?}", data.notes);
    }

    #[test]
    fn mistakes_are_named() {
        let shared =
            || vec![row(1, 4, Some("a"), "same", Some(Split::Train)), row(2, 4, Some("a"), "same", Some(Split::Val))];
        let error = read(shared(), 0.0, false).unwrap_err();
        assert!(error.message().contains("same"), "{error}");
        let data = read(shared(), 0.0, true).unwrap();
        assert!(for_classifier(data, false, 0).unwrap_err().message().contains("label a"));
        let unlabelled =
            read(vec![row(1, 4, None, "a", Some(Split::Train)), row(2, 4, None, "b", Some(Split::Val))], 0.0, false);
        assert!(for_classifier(unlabelled.unwrap(), false, 0).unwrap_err().message().contains("no flow has a label"));
        let only_test = read(vec![row(1, 4, None, "a", Some(Split::Test))], 0.0, false).unwrap_err();
        assert!(only_test.message().contains("split train"), "{only_test}");
    }
}
