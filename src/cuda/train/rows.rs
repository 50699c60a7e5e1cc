//! What the host tells of a batch's rows.

use crate::packet::Ragged;
use crate::tokens::Token;

/// Rows of a segment of `kernels/scatter.cu`.
const SEGMENT: usize = 128;

/// A list within the words that go to the device: where it begins and how long it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    pub begin: usize,
    pub len: usize,
}

/// The rows of a batch of whole sequences, in lists one after another.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub words: Vec<u32>,
    pub n: usize,
    pub tokens: List,
    pub positions: List,
    /// Rows of the sequence after each row.
    pub lasts: List,
    /// First rows of the sequences, and the number of all rows.
    pub begins: List,
    /// All rows twice: sorted by token, then by position.
    pub order: List,
    /// Where segments of `order` begin, and its end.
    pub segments: List,
    /// What the segments are of: a token, or `vocabulary` plus a position, each once.
    pub keys: List,
    /// Each key's first segment, and the number of all.
    pub firsts: List,
}

impl Rows {
    /// Most segments, and most words in all, of `n` rows of `sequences` sequences that `embeddings` embeddings are for.
    pub fn most(n: usize, sequences: usize, embeddings: usize) -> [usize; 2] {
        let keys = embeddings.min(2 * n);
        let segments = keys + 2 * n / SEGMENT + 1;
        [segments, 5 * n + (sequences + 1) + segments + 2 * keys + 1]
    }

    /// Those of `sequences`, none of which is empty.
    pub fn read(&mut self, sequences: Ragged<'_, Token>, vocabulary: usize) {
        self.words.clear();
        self.n = sequences.total();
        self.tokens = self.push(sequences.values().iter().copied());
        self.positions = self.push(sequences.rows().flat_map(|row| 0..row.len() as u32));
        self.lasts = self.push(sequences.rows().flat_map(|row| (0..row.len() as u32).rev()));
        self.begins = self.push(sequences.offsets().iter().map(|&at| at as u32));

        let by_token = sequences.values().iter().map(|&token| u64::from(token));
        let by_position = sequences.rows().flat_map(|row| (0..row.len()).map(|i| (vocabulary + i) as u64));
        let row = |(i, key)| (key, i as u32);
        let mut sorted: Vec<(u64, u32)> = by_token.enumerate().chain(by_position.enumerate()).map(row).collect();
        sorted.sort_unstable();
        let (mut segments, mut keys, mut firsts) = (Vec::new(), Vec::new(), Vec::new());
        let mut begin = 0;
        for run in sorted.chunk_by(|(a, _), (b, _)| a == b) {
            keys.push(run[0].0 as u32);
            firsts.push(segments.len() as u32);
            segments.extend((begin..begin + run.len()).step_by(SEGMENT).map(|at| at as u32));
            begin += run.len();
        }
        firsts.push(segments.len() as u32);
        segments.push(begin as u32);
        self.order = self.push(sorted.into_iter().map(|(_, row)| row));
        self.segments = self.push(segments);
        self.keys = self.push(keys);
        self.firsts = self.push(firsts);
    }

    fn push(&mut self, list: impl IntoIterator<Item = u32>) -> List {
        let begin = self.words.len();
        self.words.extend(list);
        List { begin, len: self.words.len() - begin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Rows as Packed;

    #[test]
    fn every_row_is_added_once_to_its_token_and_once_to_its_position() {
        let sequences: Packed<Token> = [vec![3; 300], vec![1, 3], vec![2]].into_iter().collect();
        let mut rows = Rows::default();
        rows.read(sequences.as_ragged(), 5);
        let list = |list: List| &rows.words[list.begin..list.begin + list.len];
        let (order, segments, keys, firsts) =
            (list(rows.order), list(rows.segments), list(rows.keys), list(rows.firsts));
        assert_eq!((order.len(), keys.len(), rows.n), (606, 303, 303));
        let mut seen = 0;
        for (i, &key) in keys.iter().enumerate() {
            for s in firsts[i] as usize..firsts[i + 1] as usize {
                let part = &order[segments[s] as usize..segments[s + 1] as usize];
                assert!(part.len() <= SEGMENT);
                for &row in part {
                    let row = row as usize;
                    let of = if key < 5 { list(rows.tokens)[row] } else { 5 + list(rows.positions)[row] };
                    assert_eq!(of, key);
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 606);
        let [most_segments, most_words] = Rows::most(303, 3, 5 + 300);
        assert!(rows.segments.len <= most_segments && rows.words.len() <= most_words);
        assert_eq!(list(rows.lasts)[298..], [1, 0, 1, 0, 0]);
    }
}
