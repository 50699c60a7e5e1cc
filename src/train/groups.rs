//! Groups of flows that may be related, as those of one capture: on which side of a split each stands.

use crate::error::Error;
use crate::train::table::Split;
use std::collections::{BTreeMap, BTreeSet};

/// Groups that an error message lists.
const SHOWN: usize = 3;

/// The first split of every group that has a name, and the groups with flows in several.
pub fn splits<'a>(flows: impl IntoIterator<Item = (&'a str, Split)>) -> (BTreeMap<&'a str, Split>, BTreeSet<&'a str>) {
    let (mut splits, mut shared) = (BTreeMap::new(), BTreeSet::new());
    for (group, split) in flows.into_iter().filter(|(group, _)| !group.is_empty()) {
        if *splits.entry(group).or_insert(split) != split {
            shared.insert(group);
        }
    }
    (splits, shared)
}

/// Why flows of `shared` groups are refused.
pub fn refusal(shared: &BTreeSet<&str>) -> Error {
    let some: Vec<&str> = shared.iter().copied().take(SHOWN).collect();
    Error::mismatch(format!(
        "{} groups have flows in more than one split, such as {}: related flows would be learnt and judged by; split by \
         group, or allow it with --allow-shared-groups",
        shared.len(),
        some.join(", ")
    ))
}
