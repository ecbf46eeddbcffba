//! Whose turn it is: pure. Endpoints take turns; each has its own bound of
//! attempts under way; first attempts of one user at one endpoint go one after
//! the other; retries never take more than half of all slots.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::domain::time::Millis;

/// How far behind a busy lane a free one is looked for.
const LOOK_AHEAD: usize = 256;

/// A delivery whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub partition: u32,
    pub delivery_id: String,
    pub due_at: Millis,
    pub first: bool,
    /// Project and endpoint.
    pub endpoint: String,
    /// Hash of endpoint and user.
    pub lane: u64,
}

#[derive(Debug, Default)]
struct Queue {
    firsts: VecDeque<Item>,
    retries: VecDeque<Item>,
    under_way: u32,
}

#[derive(Debug)]
pub struct Lanes {
    queues: HashMap<String, Queue>,
    /// Endpoints with something queued, in the order of their turns.
    turns: VecDeque<String>,
    busy: HashSet<u64>,
    queued: usize,
    under_way: u32,
    retries_under_way: u32,
    slots: u32,
}

impl Lanes {
    pub fn new(slots: u32) -> Lanes {
        Lanes {
            queues: HashMap::new(),
            turns: VecDeque::new(),
            busy: HashSet::new(),
            queued: 0,
            under_way: 0,
            retries_under_way: 0,
            slots: slots.max(2),
        }
    }

    pub fn push(&mut self, item: Item) {
        let queue = self.queues.entry(item.endpoint.clone()).or_default();
        if queue.firsts.is_empty() && queue.retries.is_empty() && !self.turns.contains(&item.endpoint) {
            self.turns.push_back(item.endpoint.clone());
        }
        let line = if item.first { &mut queue.firsts } else { &mut queue.retries };
        line.push_back(item);
        self.queued += 1;
    }

    /// The next delivery to send; `concurrency` is the endpoint's bound.
    pub fn next(&mut self, concurrency: impl Fn(&str) -> u32) -> Option<Item> {
        for _ in 0..self.turns.len() {
            if self.under_way >= self.slots {
                return None;
            }
            let endpoint = self.turns.pop_front()?;
            let most = concurrency(&endpoint);
            let retry_allowed = self.retries_under_way < self.slots / 2;
            let queue = self.queues.get_mut(&endpoint).expect("turns are of queues");
            let item = if queue.under_way >= most { None } else { take(queue, &self.busy, retry_allowed) };
            let left = !(queue.firsts.is_empty() && queue.retries.is_empty());
            if left {
                self.turns.push_back(endpoint);
            }
            if let Some(item) = item {
                queue.under_way += 1;
                self.under_way += 1;
                self.queued -= 1;
                if item.first {
                    self.busy.insert(item.lane);
                } else {
                    self.retries_under_way += 1;
                }
                return Some(item);
            }
        }
        None
    }

    /// An attempt is over.
    pub fn done(&mut self, item: &Item) {
        self.under_way -= 1;
        if item.first {
            self.busy.remove(&item.lane);
        } else {
            self.retries_under_way -= 1;
        }
        if let Some(queue) = self.queues.get_mut(&item.endpoint) {
            queue.under_way -= 1;
            if queue.under_way == 0 && queue.firsts.is_empty() && queue.retries.is_empty() {
                self.queues.remove(&item.endpoint);
            }
        }
    }

    /// Lets go of everything of a partition that is not under way.
    pub fn forget(&mut self, partition: u32) {
        for queue in self.queues.values_mut() {
            queue.firsts.retain(|item| item.partition != partition);
            queue.retries.retain(|item| item.partition != partition);
        }
        self.queues.retain(|_, queue| queue.under_way > 0 || !(queue.firsts.is_empty() && queue.retries.is_empty()));
        let queues = &self.queues;
        let waits = |endpoint: &String| queues.get(endpoint).is_some_and(|q| q.firsts.len() + q.retries.len() > 0);
        self.turns.retain(waits);
        self.queued = self.queues.values().map(|queue| queue.firsts.len() + queue.retries.len()).sum();
    }

    pub fn queued_ids(&self) -> HashSet<String> {
        let items = self.queues.values().flat_map(|queue| queue.firsts.iter().chain(&queue.retries));
        items.map(|item| item.delivery_id.clone()).collect()
    }

    pub fn queued(&self) -> usize {
        self.queued
    }

    pub fn under_way(&self) -> u32 {
        self.under_way
    }
}

fn take(queue: &mut Queue, busy: &HashSet<u64>, retry_allowed: bool) -> Option<Item> {
    let free = queue.firsts.iter().take(LOOK_AHEAD).position(|item| !busy.contains(&item.lane));
    if let Some(at) = free {
        return queue.firsts.remove(at);
    }
    if retry_allowed { queue.retries.pop_front() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(endpoint: &str, id: u32, lane: u64, first: bool) -> Item {
        Item { partition: 0, delivery_id: id.to_string(), due_at: 0, first, endpoint: endpoint.into(), lane }
    }

    #[test]
    fn one_users_first_attempts_keep_their_order_and_others_pass() {
        let mut lanes = Lanes::new(10);
        for (id, lane) in [(1, 7), (2, 7), (3, 8)] {
            lanes.push(item("a", id, lane, true));
        }
        let first = lanes.next(|_| 10).unwrap();
        assert_eq!((first.delivery_id.as_str(), lanes.next(|_| 10).unwrap().delivery_id.as_str()), ("1", "3"));
        assert_eq!(lanes.next(|_| 10), None);
        lanes.done(&first);
        assert_eq!(lanes.next(|_| 10).unwrap().delivery_id, "2");
    }

    #[test]
    fn endpoints_take_turns_within_their_bounds() {
        let mut lanes = Lanes::new(10);
        for id in 0..5 {
            lanes.push(item("a", id, u64::from(id), true));
        }
        lanes.push(item("b", 9, 99, true));
        let order: Vec<String> = std::iter::from_fn(|| lanes.next(|_| 2)).map(|i| i.endpoint).collect();
        assert_eq!(order, ["a", "b", "a"]);
        assert_eq!((lanes.queued(), lanes.under_way()), (3, 3));
    }

    #[test]
    fn retries_leave_half_of_the_slots() {
        let mut lanes = Lanes::new(4);
        for id in 0..6 {
            lanes.push(item("a", id, 0, false));
        }
        assert_eq!(std::iter::from_fn(|| lanes.next(|_| 10)).count(), 2);
        lanes.push(item("a", 9, 1, true));
        assert!(lanes.next(|_| 10).unwrap().first);
    }
}
