//! The vocabulary and the sequences the network reads.
//!
//! Ids are `0..K` for packets, then `[EOF] [PAD] [UNK] [BOF]`, then one token per traffic class in sorted order. A
//! sequence is `BOF` or a class token, the packets, and `EOF` if the flow ended within the positions kept.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A token id.
pub type Token = u32;

/// Which id means what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// Packet tokens are `0..n_packet_tokens`: the size K of the codebook.
    pub n_packet_tokens: u32,
    /// End of flow.
    pub eof: Token,
    /// Padding.
    pub pad: Token,
    /// Unknown.
    pub unk: Token,
    /// Begin of flow.
    pub bof: Token,
    /// The traffic classes that have a token, with it, sorted by name in a vocabulary of ours.
    pub classes: Vec<(String, Token)>,
}

impl Vocabulary {
    /// The vocabulary over `n_packet_tokens` centroids and `classes` (sorted here; duplicates are one class).
    pub fn new(n_packet_tokens: u32, classes: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<String> = classes.into_iter().collect();
        names.sort();
        names.dedup();
        let k = n_packet_tokens;
        let classes = names.into_iter().zip(k + 4..).collect();
        Self { n_packet_tokens, eof: k, pad: k + 1, unk: k + 2, bof: k + 3, classes }
    }

    /// Number of ids: what the network's embedding must have rows for.
    pub fn len(&self) -> usize {
        self.n_packet_tokens as usize + 4 + self.classes.len()
    }

    /// Never: four special tokens are always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The token of class `name`, if it has one.
    pub fn class(&self, name: &str) -> Option<Token> {
        self.classes.iter().find(|(n, _)| n == name).map(|&(_, t)| t)
    }

    /// Checks that every id but the packets' has exactly one meaning and none is missing.
    pub fn check(&self) -> Result<()> {
        let mut ids = vec![self.eof, self.pad, self.unk, self.bof];
        ids.extend(self.classes.iter().map(|c| c.1));
        ids.sort_unstable();
        let k = self.n_packet_tokens;
        if k == 0 || !ids.iter().copied().eq((0..ids.len()).map(|i| k.saturating_add(i as u32))) {
            return Err(Error::format(format!(
                "vocabulary: the ids of the special and class tokens must be {k}..{}, each once",
                self.len()
            )));
        }
        Ok(())
    }

    /// Appends to `out` the sequence that starts with `first`, holds at most `n_positions - 1` of `packets`, and ends
    /// with `EOF` if `ended` and there is a position left for it.
    pub fn sequence(&self, first: Token, packets: &[Token], ended: bool, n_positions: usize, out: &mut Vec<Token>) {
        let kept = packets.len().min(n_positions.saturating_sub(1));
        out.push(first);
        out.extend_from_slice(&packets[..kept]);
        if ended && kept == packets.len() && kept + 1 < n_positions {
            out.push(self.eof);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_design() {
        let v = Vocabulary::new(10, ["web", "dns", "web"].map(String::from));
        assert_eq!((v.eof, v.pad, v.unk, v.bof), (10, 11, 12, 13));
        assert_eq!(v.classes, [("dns".to_string(), 14), ("web".to_string(), 15)]);
        assert_eq!((v.len(), v.class("web"), v.class("ssh")), (16, Some(15), None));
        v.check().unwrap();
    }

    #[test]
    fn a_vocabulary_with_a_doubled_id_is_refused() {
        let mut v = Vocabulary::new(10, ["dns".to_string()]);
        v.classes[0].1 = 12;
        assert!(v.check().is_err());
    }

    #[test]
    fn a_cut_flow_has_no_eof() {
        let v = Vocabulary::new(10, []);
        let build = |packets: &[Token], ended| {
            let mut out = Vec::new();
            v.sequence(v.bof, packets, ended, 4, &mut out);
            out
        };
        assert_eq!(build(&[1, 2], true), [13, 1, 2, 10]);
        assert_eq!(build(&[1, 2], false), [13, 1, 2]);
        assert_eq!(build(&[1, 2, 3, 4], true), [13, 1, 2, 3]);
    }
}
