//! The flows to fit to and to compare with, class by class.

use super::{Sequences, Settings};
use crate::error::{Error, Result};
use crate::generator::Generator;
use crate::packet::{Packet, Rows};
use crate::random::Stream;
use crate::train::table::{Row, Split, Table};
use std::collections::BTreeMap;

/// Sets these draws apart from others of the same seed: ASCII "held".
const HELD_DRAWS: u64 = 0x6865_6c64;

/// What is known of one class.
#[derive(Clone, Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Its index among the classes of the model; none for a model without classes.
    pub id: Option<u32>,
    /// Training flows, all of them.
    pub train: Rows<Packet>,
    /// Their tokens.
    pub train_tokens: Sequences,
    /// Held-out flows, as many as are compared.
    pub real: Rows<Packet>,
}

/// All classes that are compared.
#[derive(Clone, Debug, Default)]
pub struct Classes {
    /// In the order of their names.
    pub classes: Vec<Class>,
    /// Most packets of a flow that count.
    pub max_packets: usize,
    /// What was left out and why, a sentence each; for the user to see.
    pub notes: Vec<String>,
}

/// Flows of one class: those to fit to, and those held out.
type Parts<'a> = (Vec<&'a Row>, Vec<&'a Row>);

impl Classes {
    /// Sorts the flows of `table` by class. A model without classes has one, of all flows.
    pub fn new(generator: &Generator, table: &Table, settings: &Settings) -> Result<Self> {
        if settings.split == Split::Train {
            return Err(Error::invalid("split train: generators are fitted to it; compare with val or test"));
        }
        let known = generator.classes();
        let mut parts: BTreeMap<&str, Parts<'_>> = BTreeMap::new();
        let (mut unlabelled, mut out) = (0, Self { max_packets: generator.max_packets(), ..Self::default() });
        for row in &table.rows {
            let name = match (&row.label, known) {
                (_, []) => "all",
                (Some(label), _) => label,
                (None, _) => {
                    unlabelled += 1;
                    continue;
                }
            };
            let (train, held) = parts.entry(name).or_default();
            match row.split {
                Some(Split::Train) => train.push(row),
                split if split == Some(settings.split) => held.push(row),
                _ => {}
            }
        }
        if unlabelled > 0 {
            out.notes.push(format!("{unlabelled} flows without a label are left out"));
        }
        let (mut strange, mut few) = (Vec::new(), Vec::new());
        for (name, (train, held)) in parts {
            let id = known.iter().position(|class| class == name).map(|i| i as u32);
            if id.is_none() && !known.is_empty() {
                strange.push(name);
            } else if train.is_empty() || held.len() < settings.min_flows.max(1) {
                few.push(name);
            } else {
                out.classes.push(Class::new(generator, name, id, &train, held, settings)?);
            }
        }
        if !strange.is_empty() {
            out.notes.push(format!("classes that the model does not know are left out: {}", strange.join(", ")));
        }
        if !few.is_empty() {
            out.notes.push(format!(
                "classes without training flows or with fewer than {} flows of split {} are left out: {}",
                settings.min_flows.max(1),
                settings.split,
                few.join(", ")
            ));
        }
        if out.classes.is_empty() {
            return Err(Error::invalid(format!(
                "no class has flows of split train to fit to and enough of split {} to compare with{}",
                settings.split,
                if out.notes.is_empty() { String::new() } else { format!(" ({})", out.notes.join("; ")) }
            )));
        }
        Ok(out)
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }
}

impl Class {
    fn new(
        generator: &Generator,
        name: &str,
        id: Option<u32>,
        train: &[&Row],
        mut held: Vec<&Row>,
        settings: &Settings,
    ) -> Result<Self> {
        if held.len() > settings.per_class.max(1) {
            Stream::new(settings.seed ^ HELD_DRAWS, 0).shuffle(&mut held);
            held.truncate(settings.per_class.max(1));
        }
        let max = generator.max_packets();
        let mut out = Self {
            name: name.to_string(),
            id,
            train: Rows::new(),
            train_tokens: Sequences::default(),
            real: Rows::new(),
        };
        for row in train {
            let packets = &row.packets[..row.packets.len().min(max)];
            let mut tokens = vec![0; packets.len()];
            generator.quantizer().encode(packets, &mut tokens)?;
            out.train.push(packets.iter().copied());
            out.train_tokens.push(&tokens, row.n_packets == packets.len() as u64);
        }
        for row in held {
            out.real.push(row.packets.iter().take(max).copied());
        }
        Ok(out)
    }
}
