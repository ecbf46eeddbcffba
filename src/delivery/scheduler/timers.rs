//! When each endpoint's queue has something due, and how much of it is in memory
//! already. A queue is stored in parts, one in the due index of each partition.

use std::collections::{BTreeSet, HashMap};

use crate::delivery::fold::{before, split};
use askwhen_domain::time::Millis;

/// Of one partition's part of a queue at a time: then whichever is due first.
const STRETCH: usize = 32;
/// What is known of a partition's part of a queue takes about so much.
const QUEUE_BYTES: usize = 192;

/// Entries of a due index that are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRange {
    pub partition: u32,
    pub queue_id: u64,
    /// Everything up to this key is in memory; empty before the first.
    pub after: Vec<u8>,
    pub until: Millis,
    pub limit: usize,
}

/// One endpoint's part of a partition's due index.
#[derive(Debug, Default)]
struct EndpointQueue {
    /// Everything up to here is in memory.
    loaded: Vec<u8>,
    /// When the next one behind that is due.
    due: Option<Millis>,
}

#[derive(Debug, Default)]
pub struct TimerQueue {
    /// The queues of each partition that is open.
    partitions: HashMap<u32, HashMap<u64, EndpointQueue>>,
    timers: BTreeSet<(Millis, u32, u64)>,
    /// Queues with more due than has room, and in which partitions.
    full: HashMap<u64, Vec<u32>>,
}

impl TimerQueue {
    /// Takes a partition's queues up, each with the time that its first is due.
    pub fn open(&mut self, partition: u32, queues: Vec<(u64, Millis)>) {
        self.partitions.insert(partition, HashMap::new());
        for (queue_id, due) in queues {
            self.plan(partition, queue_id, due);
        }
    }

    pub fn close(&mut self, partition: u32) {
        self.timers.retain(|(_, of, _)| *of != partition);
        self.partitions.remove(&partition);
        // What filled a queue may have been this partition's: the others' turn.
        for (queue_id, partitions) in std::mem::take(&mut self.full) {
            self.plan_again(queue_id, partitions);
        }
    }

    /// Something of a queue is due then, or sooner than was known.
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

    /// What is due from then on is read anew: its time has not come after all, or
    /// there is no room. What is in memory already is known there.
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

    /// Whether what stands at a key of the due index has been read past.
    pub fn is_loaded(&self, partition: u32, key: &[u8]) -> bool {
        let known = self.partitions.get(&partition).and_then(|queues| queues.get(&split(key).0));
        known.is_some_and(|known| key <= known.loaded.as_slice())
    }

    /// What is to be read next of what is due by `until`; `room` says how many of a
    /// queue may come into memory.
    pub fn next(&mut self, until: Millis, room: impl Fn(u64) -> usize) -> Option<DueRange> {
        while let Some((due, partition, queue_id)) = self.timers.first().copied().filter(|(due, ..)| *due <= until) {
            self.timers.remove(&(due, partition, queue_id));
            let room = room(queue_id);
            if room > 0 {
                let known = self.partitions.get(&partition).and_then(|queues| queues.get(&queue_id));
                let Some(known) = known else { continue };
                let (after, limit) = (known.loaded.clone(), room.min(STRETCH));
                return Some(DueRange { partition, queue_id, after, until, limit });
            }
            let full = self.full.entry(queue_id).or_default();
            if !full.contains(&partition) {
                full.push(partition);
            }
        }
        None
    }

    /// A range has been read: up to `last` it is in memory, and behind it the next is
    /// due at `next`.
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

    /// There is room in a queue: what waits behind it is read.
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

    /// When something is to be read next.
    pub fn first(&self) -> Option<Millis> {
        self.timers.first().map(|(due, ..)| *due)
    }

    pub fn memory_bytes(&self) -> usize {
        self.partitions.values().map(|queues| queues.len() * QUEUE_BYTES).sum()
    }
}
