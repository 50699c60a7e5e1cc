//! Packets and flows: the vocabulary every room speaks.

use crate::error::{Error, Result};

/// Packets of a flow that metering keeps: 128 positions of the network less the first token and `EOF`.
pub const N_PACKETS: usize = 126;

/// One packet of a flow, as anyone on the wire sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Packet {
    /// IP packet length in bytes: positive from client to server, negative from server to client.
    pub size: i32,
    /// Time since the flow's previous packet, in microseconds; 0 for the first.
    pub ipt_us: f32,
}

impl Packet {
    /// A packet of `len` bytes, `since_last_ns` after the one before it in the flow.
    pub(crate) fn seen(len: u32, from_client: bool, since_last_ns: u64) -> Self {
        let size = i32::try_from(len).unwrap_or(i32::MAX);
        Self { size: if from_client { size } else { -size }, ipt_us: (since_last_ns as f64 / 1000.0) as f32 }
    }

    /// Whether the time is finite and not negative.
    pub fn is_legal(&self) -> bool {
        (0.0..=f32::MAX).contains(&self.ipt_us)
    }

    /// Why this packet cannot be one, if it cannot: its time must be finite and not negative.
    pub fn check(&self) -> Result<()> {
        if self.is_legal() {
            return Ok(());
        }
        Err(Error::invalid(format!("ipt_us is {}; it must be finite and not negative", self.ipt_us)))
    }
}

/// Rows of different lengths in one buffer (CSR): row `i` is `values[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a, T> {
    values: &'a [T],
    offsets: &'a [u64],
}

impl<'a, T> Ragged<'a, T> {
    /// Checks that `offsets` (one more than rows, so never empty) rise from 0 and end inside `values`.
    pub fn new(values: &'a [T], offsets: &'a [u64]) -> Result<Self> {
        if offsets.first() != Some(&0) {
            return Err(Error::invalid("offsets must begin with 0"));
        }
        if let Some(i) = offsets.windows(2).position(|w| w[1] < w[0]) {
            let (a, b) = (offsets[i], offsets[i + 1]);
            return Err(Error::invalid(format!("offsets[{}] is {b}, less than the {a} before it", i + 1)));
        }
        let last = offsets[offsets.len() - 1];
        if last > values.len() as u64 {
            return Err(Error::invalid(format!("offsets end at {last}, past the {} values given", values.len())));
        }
        Ok(Self { values, offsets })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of values in all rows.
    pub fn total(&self) -> usize {
        self.offsets[self.len()] as usize
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.values[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// Every row in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &'a [T]> + '_ {
        (0..self.len()).map(|i| self.row(i))
    }

    /// The values of all rows, one after another.
    pub fn values(&self) -> &'a [T] {
        &self.values[..self.total()]
    }

    /// Where each row begins, and where the last ends.
    pub fn offsets(&self) -> &'a [u64] {
        self.offsets
    }
}

/// Owned rows of different lengths, the buffer behind a [`Ragged`]. Clearing keeps the memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<T> {
    values: Vec<T>,
    offsets: Vec<u64>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { values: Vec::new(), offsets: vec![0] }
    }
}

impl<T> Rows<T> {
    /// No row yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a row.
    pub fn push(&mut self, row: impl IntoIterator<Item = T>) {
        self.values.extend(row);
        self.offsets.push(self.values.len() as u64);
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.values.clear();
        self.offsets.truncate(1);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[T] {
        &self.values[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// The rows, borrowed.
    pub fn as_ragged(&self) -> Ragged<'_, T> {
        Ragged { values: &self.values, offsets: &self.offsets }
    }
}

impl<T, R: IntoIterator<Item = T>> FromIterator<R> for Rows<T> {
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        let mut out = Self::new();
        for row in rows {
            out.push(row);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_refuses_offsets_that_do_not_fit() {
        let values = [1, 2, 3];
        assert!(Ragged::new(&values, &[]).is_err());
        assert!(Ragged::new(&values, &[1, 2]).is_err());
        assert!(Ragged::new(&values, &[0, 2, 1]).is_err());
        assert!(Ragged::new(&values, &[0, 4]).is_err());
        assert!(Ragged::new(&values, &[0, u64::MAX]).is_err());
    }

    #[test]
    fn ragged_rows_come_back_as_pushed() {
        let rows: Rows<i32> = [vec![1, 2], vec![], vec![3]].into_iter().collect();
        let ragged = rows.as_ragged();
        assert_eq!(ragged.rows().collect::<Vec<_>>(), [&[1, 2][..], &[], &[3]]);
        assert_eq!((ragged.len(), ragged.total()), (3, 3));
        assert!(Ragged::<i32>::new(&[], &[0]).unwrap().is_empty());
    }

    #[test]
    fn packet_times_must_be_finite_and_not_negative() {
        let at = |ipt_us| Packet { size: 40, ipt_us }.check();
        assert!(at(0.0).is_ok() && at(f32::MIN_POSITIVE / 2.0).is_ok() && at(f32::MAX).is_ok());
        assert!(at(-1.0).is_err() && at(f32::NAN).is_err() && at(f32::INFINITY).is_err());
    }
}
