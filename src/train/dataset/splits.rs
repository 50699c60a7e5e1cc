//! Which side of an experiment each flow is on: as its row says, else with the rest of its group, else as is drawn from
//! the group's name alone.

use crate::error::{Error, Kind, Result};
use crate::train::table::Split;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Groups that an error message lists.
const GROUPS_SHOWN: usize = 3;

/// Most groups with a split: a few gigabytes of them.
const MAX_GROUPS: usize = 1 << 26;

/// What the rows say of the groups. Groups go by the digest of their name, so that long names take no memory.
#[derive(Clone, Debug, Default)]
pub struct Splits {
    of_group: HashMap<u128, Split>,
    shared: HashSet<u128>,
    /// Names of the first of those.
    shown: BTreeSet<String>,
}

impl Splits {
    /// Notes what a row says.
    pub fn observe(&mut self, group: &str, split: Option<Split>) -> Result<()> {
        let Some(split) = split.filter(|_| !group.is_empty()) else { return Ok(()) };
        let id = digest(group);
        if *self.of_group.entry(id).or_insert(split) != split
            && self.shared.insert(id)
            && self.shown.len() < GROUPS_SHOWN
        {
            self.shown.insert(group.to_string());
        }
        if self.of_group.len() > MAX_GROUPS {
            return Err(Error::new(Kind::NoMemory, format!("more than {MAX_GROUPS} groups of flows")));
        }
        Ok(())
    }

    /// Groups that lie on several sides.
    pub fn n_shared(&self) -> usize {
        self.shared.len()
    }

    /// Refuses groups that lie on several sides.
    pub fn check(&self) -> Result<()> {
        if self.shared.is_empty() {
            return Ok(());
        }
        let some: Vec<&str> = self.shown.iter().map(String::as_str).collect();
        Err(Error::mismatch(format!(
            "{} groups have flows in more than one split, such as {}: related flows would be learnt and judged by; \
             split by group, or allow it with --allow-shared-groups",
            self.n_shared(),
            some.join(", ")
        )))
    }

    /// The split of flow `number`, once all rows were seen; a share `val_share` of the groups that have none is for
    /// validation.
    pub fn of(&self, group: &str, split: Option<Split>, number: u64, val_share: f64) -> Split {
        if let Some(split) = split.or_else(|| self.of_group.get(&digest(group)).copied().filter(|_| !group.is_empty()))
        {
            return split;
        }
        // A flow without a group stands for itself.
        let key = if group.is_empty() { format!("flow {number}") } else { format!("group {group}") };
        if share_of(&key) < val_share { Split::Val } else { Split::Train }
    }
}

fn digest(group: &str) -> u128 {
    Sha256::digest(group.as_bytes()).iter().take(16).fold(0, |id, byte| id << 8 | u128::from(*byte))
}

/// Where in [0, 1) `key` falls; the same on every machine.
pub(super) fn share_of(key: &str) -> f64 {
    let digest = Sha256::digest(key.as_bytes());
    let bits = digest.iter().take(4).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    f64::from(bits) / 2f64.powi(32)
}
