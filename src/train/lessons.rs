//! The order of lessons: which training flow a run learns, and how often, in an epoch.

use crate::train::dataset::Flows;

/// What an epoch consists of: each labelled training flow as often as asked, and each other one once.
#[derive(Debug)]
pub struct Lessons {
    /// The flows of one pass, labelled ones first.
    flows: Vec<usize>,
    n_labelled: usize,
    repeats: usize,
}

/// One training flow as it is learnt once.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    /// Its index among the training flows.
    pub flow: usize,
    /// What its draws are made under: every time that a flow is learnt has its own.
    pub pass: u64,
}

impl Lessons {
    /// Those of `flows`, the labelled ones `repeats` times.
    pub fn new(flows: &Flows, repeats: u64) -> Self {
        let (mut labelled, bare): (Vec<usize>, Vec<usize>) =
            (0..flows.len()).partition(|&flow| flows.labels[flow].is_some());
        let n_labelled = labelled.len();
        labelled.extend(bare);
        Self { flows: labelled, n_labelled, repeats: repeats as usize }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Lessons of an epoch.
    pub fn len(&self) -> usize {
        self.n_labelled * (self.repeats - 1) + self.flows.len()
    }

    /// Lesson `i` of `epoch`.
    pub fn lesson(&self, i: usize, epoch: u64) -> Lesson {
        let again = self.n_labelled * (self.repeats - 1);
        let (flow, repeat) =
            if i < again { (i % self.n_labelled, i / self.n_labelled) } else { (i - again, self.repeats - 1) };
        Lesson { flow: self.flows[flow], pass: epoch * self.repeats as u64 + repeat as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labelled_flows_come_as_often_as_asked_each_time_with_draws_of_its_own() {
        let flows = Flows { labels: vec![Some(0), None, Some(0), Some(1)], ended: vec![true; 4], ..Flows::default() };
        let lessons = Lessons::new(&flows, 3);
        assert_eq!(lessons.len(), 10);
        let mut seen = std::collections::BTreeMap::new();
        for epoch in 0..2 {
            for lesson in (0..lessons.len()).map(|i| lessons.lesson(i, epoch)) {
                seen.entry(lesson.flow).or_insert_with(Vec::new).push(lesson.pass);
            }
        }
        for flow in [0, 2, 3] {
            assert_eq!(seen[&flow], [0, 1, 2, 3, 4, 5]);
        }
        assert_eq!(seen[&1].len(), 2);
        assert_ne!(seen[&1][0], seen[&1][1]);
        let once = Lessons::new(&flows, 1);
        assert_eq!((0..4).map(|i| once.lesson(i, 7).pass).collect::<Vec<_>>(), [7; 4]);
    }
}
