//! When each endpoint's queue has something due, and up to where it is in memory. The
//! entries of one queue stand in the due indexes of several partitions.

use std::collections::{BTreeSet, HashMap};

use crate::delivery::fold::{before, split};
use askwhen_domain::time::Millis;

/// How many entries of one queue in one partition are read at a time, before the queue and
/// partition that are due first are looked for again.
const MAX_RANGE_ENTRIES: usize = 32;
/// About how many bytes an [`EndpointQueue`] takes in memory.
const QUEUE_BYTES: usize = 192;

/// Entries of a due index that are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRange {
    pub partition: u32,
    pub queue_id: u64,
    /// Everything up to this key is in memory; empty at the beginning of the queue.
    pub after: Vec<u8>,
    pub until: Millis,
    pub limit: usize,
}

/// The queue of one endpoint in the due index of one partition.
#[derive(Debug, Default)]
struct EndpointQueue {
    /// Everything up to this key is in memory.
    loaded: Vec<u8>,
    /// When the next entry behind `loaded` is due.
    due: Option<Millis>,
}

#[derive(Debug, Default)]
pub struct TimerQueue {
    /// The queues of each partition that is open.
    partitions: HashMap<u32, HashMap<u64, EndpointQueue>>,
    /// Due time, partition and queue.
    timers: BTreeSet<(Millis, u32, u64)>,
    /// Queues that have no room in memory, with the partitions in which more is due.
    full: HashMap<u64, Vec<u32>>,
}

impl TimerQueue {
    /// Adds the queues of a partition, each with the time at which its first is due.
    pub fn open(&mut self, partition: u32, queues: Vec<(u64, Millis)>) {
        self.partitions.insert(partition, HashMap::new());
        for (queue_id, due) in queues {
            self.plan(partition, queue_id, due);
        }
    }

    pub fn close(&mut self, partition: u32) {
        self.timers.retain(|(_, of, _)| *of != partition);
        self.partitions.remove(&partition);
        // Deliveries of this partition may have filled a queue: now others have room.
        for (queue_id, partitions) in std::mem::take(&mut self.full) {
            self.plan_again(queue_id, partitions);
        }
    }

    /// Sets the timer of a queue, unless it is set for an earlier time.
    fn plan(&mut self, partition: u32, queue_id: u64, due: Millis) {
        let Some(queues) = self.partitions.get_mut(&partition) else { return };
        let known = queues.entry(queue_id).or_default();
        if known.due.is_some_and(|known| known <= due) {
            return;
        }
        if let Some(before) = known.due.replace(due) {
            self.timers.remove(&(before, partition, queue_id));
        }
        self.timers.insert((due, partition, queue_id));
    }

    /// Has a queue read again from a due time on, because a delivery was not due yet or
    /// had no room. Deliveries that are in memory are recognised when they are read again.
    pub fn put_back(&mut self, partition: u32, queue_id: u64, due_at: Millis) {
        let queues = self.partitions.get_mut(&partition);
        if let Some(known) = queues.and_then(|queues| queues.get_mut(&queue_id)) {
            let before = before(queue_id, due_at);
            if known.loaded > before {
                known.loaded = before;
            }
        }
        self.plan(partition, queue_id, due_at);
    }

    /// Whether a new entry at this key of the due index comes into memory without a read:
    /// it would have been read already, or it is due by `until` and there is nothing unread
    /// before it.
    pub fn load(&mut self, partition: u32, key: &[u8], until: Millis) -> bool {
        let (queue_id, due_at) = split(key);
        let Some(queues) = self.partitions.get_mut(&partition) else { return false };
        let known = queues.entry(queue_id).or_default();
        if key <= known.loaded.as_slice() {
            return true;
        }
        let is_next = known.due.is_none() && due_at <= until;
        if is_next {
            known.loaded = key.to_vec();
        }
        is_next
    }

    /// The next range to be read of what is due by `until`. `room` gives how many entries of
    /// a queue may come into memory.
    pub fn next(&mut self, until: Millis, room: impl Fn(u64) -> usize) -> Option<DueRange> {
        while let Some((due, partition, queue_id)) = self.timers.first().copied().filter(|(due, ..)| *due <= until) {
            self.timers.remove(&(due, partition, queue_id));
            let room = room(queue_id);
            if room > 0 {
                let known = self.partitions.get(&partition).and_then(|queues| queues.get(&queue_id));
                let Some(known) = known else { continue };
                let (after, limit) = (known.loaded.clone(), room.min(MAX_RANGE_ENTRIES));
                return Some(DueRange { partition, queue_id, after, until, limit });
            }
            let full = self.full.entry(queue_id).or_default();
            if !full.contains(&partition) {
                full.push(partition);
            }
        }
        None
    }

    /// Notes that a range has been read: the queue is in memory up to the key `last`, and
    /// the entry behind it is due at `next`.
    pub fn read(&mut self, range: &DueRange, last: Option<&[u8]>, next: Option<Millis>) {
        let (partition, queue_id) = (range.partition, range.queue_id);
        let queues = self.partitions.get_mut(&partition);
        let Some(known) = queues.and_then(|queues| queues.get_mut(&queue_id)) else { return };
        if let Some(last) = last {
            known.loaded = last.to_vec();
        }
        known.due = next;
        self.timers.extend(next.map(|due| (due, partition, queue_id)));
    }

    /// Has more of a queue read, because it has room in memory again.
    pub fn refill(&mut self, queue_id: u64) {
        let waiting = self.full.remove(&queue_id).unwrap_or_default();
        self.plan_again(queue_id, waiting);
    }

    fn plan_again(&mut self, queue_id: u64, partitions: Vec<u32>) {
        for partition in partitions {
            let due = self.partitions.get(&partition).and_then(|queues| queues.get(&queue_id)?.due);
            self.timers.extend(due.map(|due| (due, partition, queue_id)));
        }
    }

    /// When a range is to be read next.
    pub fn first(&self) -> Option<Millis> {
        self.timers.first().map(|(due, ..)| *due)
    }

    pub fn memory_bytes(&self) -> usize {
        self.partitions.values().map(|queues| queues.len() * QUEUE_BYTES).sum()
    }
}
