//! What a data set must have for a classifier.

use super::Dataset;
use crate::error::{Error, Kind, Result};

/// Labels that an error message lists.
const LABELS_SHOWN: usize = 5;

/// Checks that a data set has what a classifier needs: labels, and at least two of them. Flows without one are dropped,
/// but for training flows where there are teachers to answer for them. Labels with fewer than `min_flows` training flows
/// are refused.
pub fn for_classifier(mut data: Dataset, taught: bool, min_flows: usize) -> Result<Dataset> {
    if data.labels.len() < 2 {
        let what = match data.labels.first() {
            None => "no flow has a label: give tables with a column label, or meter captures with --label".to_string(),
            Some(only) => format!("all flows have the label {only}: a classifier needs at least two"),
        };
        return Err(Error::new(Kind::Invalid, what));
    }
    for (part, keep) in [(&mut data.train, taught), (&mut data.val, false)] {
        let labelled = part.labelled();
        let bare = part.len() - labelled.len();
        if bare > 0 {
            let what = if keep { "learnt from the teachers alone" } else { "left out" };
            data.notes.push(format!("{bare} flows without a label are {what}"));
        }
        let none = labelled.is_empty();
        if !keep {
            *part = labelled;
        }
        if none {
            return Err(Error::invalid("the training or the validation flows have no labels"));
        }
    }
    let mut counts = vec![0usize; data.labels.len()];
    for label in data.train.labels.iter().flatten() {
        counts[*label as usize] += 1;
    }
    let few = data.labels.iter().zip(&counts).filter(|(_, n)| **n < min_flows);
    let few: Vec<String> = few.map(|(label, n)| format!("{label} ({n})")).collect();
    if !few.is_empty() {
        let more = few.len().saturating_sub(LABELS_SHOWN);
        let others = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Error::invalid(format!(
            "labels with fewer than {min_flows} training flows, too few to learn: {}{others}; meter more of them, leave \
             them out with --exclude label=NAME, or allow it with --min-flows 0",
            few[..few.len() - more].join(", ")
        )));
    }
    let missing: Vec<&str> =
        data.labels.iter().zip(&counts).filter(|(_, n)| **n == 0).map(|(l, _)| l.as_str()).collect();
    if !missing.is_empty() {
        data.notes.push(format!("labels without training flows, never to be found: {}", missing.join(", ")));
    }
    Ok(data)
}
