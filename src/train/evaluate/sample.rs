//! Which flows of a table are judged, which are learnt from, and what is wrong with them.

use super::Settings;
use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::train::dataset::Splits;
use crate::train::table::{Row, Split, Table};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Labels that a message lists.
const SHOWN: usize = 8;

/// The flows of an evaluation.
#[derive(Debug, Default)]
pub(super) struct Sample<'a> {
    /// Flows that are judged, of labels that the model knows.
    pub judged: Vec<&'a [Packet]>,
    /// Their labels.
    pub truths: Vec<u32>,
    /// Flows of the same split whose labels it does not know.
    pub strangers: Vec<&'a [Packet]>,
    /// Those labels and their flows.
    pub strange_labels: Vec<(String, usize)>,
    /// Flows that baselines are fitted to; empty if there is nothing to fit to or to compare with.
    pub train: Vec<&'a [Packet]>,
    /// Their labels.
    pub train_labels: Vec<u32>,
    /// What was left out and what to mind, a sentence each.
    pub notes: Vec<String>,
}

impl<'a> Sample<'a> {
    /// Chooses flows of `table` for a model that knows `labels`.
    pub fn new(labels: &[String], table: &'a Table, settings: &Settings) -> Result<Self> {
        let mut out = Self { notes: table.warnings.clone(), ..Self::default() };
        let ids: HashMap<&str, u32> = labels.iter().map(String::as_str).zip(0..).collect();
        let wanted = |row: &&Row| settings.split.is_none_or(|split| row.split == Some(split));
        let rows: Vec<&Row> = table.rows.iter().filter(wanted).collect();
        let labelled: Vec<(&Row, &str)> = rows.iter().filter_map(|row| Some((*row, row.label.as_deref()?))).collect();
        if labelled.is_empty() {
            return Err(nothing_to_judge(table, rows.len(), settings.split));
        }
        if labelled.len() < rows.len() {
            out.notes.push(format!("{} flows without a label are left out", rows.len() - labelled.len()));
        }
        let mut strange: BTreeMap<&str, usize> = BTreeMap::new();
        for (row, label) in labelled {
            match ids.get(label) {
                Some(id) => {
                    out.judged.push(&row.packets);
                    out.truths.push(*id);
                }
                None => {
                    out.strangers.push(&row.packets);
                    *strange.entry(label).or_default() += 1;
                }
            }
        }
        let names = strange.keys().copied().collect::<Vec<_>>();
        if out.judged.is_empty() {
            return Err(Error::mismatch(format!(
                "the model knows none of the flows' labels: the flows have {}, the model {}",
                some(&names),
                some(&labels.iter().map(String::as_str).collect::<Vec<_>>())
            )));
        }
        if !names.is_empty() {
            out.notes.push(format!(
                "{} flows have labels that the model does not know and are judged apart, as an open set: {}",
                out.strangers.len(),
                some(&names)
            ));
        }
        out.strange_labels = strange.into_iter().map(|(label, flows)| (label.to_string(), flows)).collect();
        if out.truths.iter().all(|truth| *truth == out.truths[0]) {
            out.notes.push(format!(
                "all flows judged have the label {}: the figures say how often it is missed, not what else is taken for it",
                labels[out.truths[0] as usize]
            ));
        }
        out.check_groups(table, settings)?;
        if !settings.baselines.is_empty() {
            out.find_training(labels, &ids, table, settings);
        }
        Ok(out)
    }

    /// Refuses, or tells of, groups that stand on both sides of a split.
    fn check_groups(&mut self, table: &Table, settings: &Settings) -> Result<()> {
        if settings.split.is_none() {
            return Ok(());
        }
        let mut splits = Splits::default();
        table.rows.iter().try_for_each(|row| splits.observe(&row.group, row.split))?;
        if !settings.allow_shared_groups {
            return splits.check();
        }
        if splits.n_shared() > 0 {
            self.notes.push(format!(
                "{} groups have flows in more than one split: the figures flatter whatever learnt from the others",
                splits.n_shared()
            ));
        }
        Ok(())
    }

    /// Takes the flows of split `train` whose labels the model knows, or notes why there is nothing to fit.
    fn find_training(&mut self, labels: &[String], ids: &HashMap<&str, u32>, table: &'a Table, settings: &Settings) {
        if !matches!(settings.split, Some(Split::Val | Split::Test)) {
            let what = settings.split.map_or("all flows are".to_string(), |split| format!("split {split} is"));
            self.notes.push(format!("{what} judged: no flow is left to fit baselines to, and they are left out"));
            return;
        }
        for row in table.rows.iter().filter(|row| row.split == Some(Split::Train)) {
            if let Some(id) = row.label.as_deref().and_then(|label| ids.get(label)) {
                self.train.push(&row.packets);
                self.train_labels.push(*id);
            }
        }
        let there: BTreeSet<u32> = self.train_labels.iter().copied().collect();
        if there.len() < 2 {
            let what = match there.first() {
                None => "no flow of split train has a label that the model knows".to_string(),
                Some(only) => format!("all flows of split train have the label {}", labels[*only as usize]),
            };
            self.notes.push(format!("{what}: there is nothing to fit baselines to, and they are left out"));
            self.train.clear();
            self.train_labels.clear();
            return;
        }
        let missing: Vec<&str> =
            labels.iter().zip(0..).filter(|(_, id)| !there.contains(id)).map(|(label, _)| label.as_str()).collect();
        if !missing.is_empty() {
            self.notes.push(format!("labels without training flows, which no baseline can find: {}", some(&missing)));
        }
    }
}

/// Why a table has no flows to judge by.
fn nothing_to_judge(table: &Table, of_split: usize, split: Option<Split>) -> Error {
    if table.rows.is_empty() {
        return Error::invalid("the table holds no flows");
    }
    if table.rows.iter().all(|row| row.label.is_none()) {
        return Error::invalid(
            "no flow has a label to judge by: give tables with a column label, or meter captures with --label-from",
        );
    }
    let split = split.map_or_else(String::new, |split| format!(" of split {split}"));
    if of_split > 0 {
        return Error::invalid(format!("there are no flows{split} with a label to judge by: {of_split} have none"));
    }
    let count = |split: Option<Split>| table.rows.iter().filter(|row| row.split == split).count();
    let kinds =
        [(Some(Split::Train), "train"), (Some(Split::Val), "val"), (Some(Split::Test), "test"), (None, "no split")];
    let there: Vec<String> = kinds
        .into_iter()
        .map(|(split, name)| (count(split), name))
        .filter(|(n, _)| *n > 0)
        .map(|(n, name)| format!("{n} of {name}"))
        .collect();
    Error::invalid(format!(
        "there are no flows{split}; the table has {}: name another --split, or all",
        there.join(", ")
    ))
}

/// Names in a row, the first few of many.
fn some(names: &[&str]) -> String {
    match names.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}
