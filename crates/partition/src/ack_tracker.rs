//! Tracks which journal offsets have all their outputs acknowledged. Pure accounting: the
//! frontier up to which a checkpoint may be written is computed, never inferred.

use std::collections::{BTreeMap, VecDeque};

use askwhen_wire::topic::Topic;

/// A batch of journal records, with the appends that it caused.
#[derive(Debug)]
struct Entry {
    /// One past the last journal offset of the batch.
    next: u64,
    outstanding: usize,
    ends: Vec<(Topic, u64)>,
}

#[derive(Debug, Default)]
pub struct AckTracker {
    /// Number of the first entry in `open`.
    base: u64,
    open: VecDeque<Entry>,
    tags: BTreeMap<u64, (u64, Option<Topic>)>,
    next_tag: u64,
    /// All outputs of records below it are acknowledged.
    acked: u64,
    /// End offsets of acknowledged outputs, each with the end of its batch.
    settled: VecDeque<(u64, Topic, u64)>,
}

impl AckTracker {
    pub fn new(acked: u64) -> AckTracker {
        AckTracker { acked, ..AckTracker::default() }
    }

    /// Begins the batch that ends before the journal offset `next`.
    pub fn begin(&mut self, next: u64) {
        self.open.push_back(Entry { next, outstanding: 0, ends: Vec::new() });
    }

    /// Adds an append to the current batch; returns its tag. Forwards have no topic,
    /// because their offsets are not needed.
    pub fn expect(&mut self, topic: Option<Topic>) -> u64 {
        self.next_tag += 1;
        let batch = self.base + self.open.len() as u64 - 1;
        self.open.back_mut().expect("a batch has begun").outstanding += 1;
        self.tags.insert(self.next_tag, (batch, topic));
        self.next_tag
    }

    /// Notes that the append with this tag is durable and ends before `end`.
    pub fn acknowledge(&mut self, tag: u64, end: u64) {
        let Some((batch, topic)) = self.tags.remove(&tag) else { return };
        let entry = &mut self.open[(batch - self.base) as usize];
        entry.outstanding -= 1;
        if let Some(topic) = topic {
            entry.ends.push((topic, end));
        }
        self.settle();
    }

    /// Moves the frontier past batches without unacknowledged appends.
    pub fn settle(&mut self) {
        while self.open.front().is_some_and(|entry| entry.outstanding == 0) {
            let entry = self.open.pop_front().expect("just seen");
            self.base += 1;
            self.acked = entry.next;
            self.settled.extend(entry.ends.into_iter().map(|(topic, end)| (entry.next, topic, end)));
        }
    }

    pub fn acked(&self) -> u64 {
        self.acked
    }

    pub fn outstanding(&self) -> usize {
        self.tags.len()
    }

    /// Removes and returns the end offsets of outputs of batches up to `next`.
    pub fn ends_up_to(&mut self, next: u64) -> Vec<(Topic, u64)> {
        let mut ends = Vec::new();
        while self.settled.front().is_some_and(|(batch, ..)| *batch <= next) {
            let (_, topic, end) = self.settled.pop_front().expect("just seen");
            ends.push((topic, end));
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frontier_waits_for_the_slowest_and_ends_stay_with_their_batch() {
        let mut tracker = AckTracker::new(10);
        tracker.begin(12);
        let (a, b) = (tracker.expect(Some(Topic::Decisions)), tracker.expect(None));
        tracker.begin(15);
        let c = tracker.expect(Some(Topic::Decisions));
        tracker.begin(16);
        tracker.settle();
        tracker.acknowledge(c, 8);
        tracker.acknowledge(a, 7);
        assert_eq!(tracker.acked(), 10);
        tracker.acknowledge(b, 0);
        assert_eq!((tracker.acked(), tracker.outstanding()), (16, 0));
        assert_eq!(tracker.ends_up_to(12), [(Topic::Decisions, 7)]);
        assert_eq!(tracker.ends_up_to(16), [(Topic::Decisions, 8)]);
    }
}
