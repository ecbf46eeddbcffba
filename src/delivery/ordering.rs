//! Decides whose turn it is; it is pure. Endpoints take turns, as far as each is ready;
//! first attempts of one user at one endpoint go one after the other; retries take at
//! most half of all slots. An endpoint that is not ready is not asked again until
//! something changes: so it costs nothing.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use askwhen_domain::time::Millis;

/// How many deliveries of a queue are searched for one whose user has no attempt in
/// flight.
const LOOK_AHEAD: usize = 256;
/// An item, the copy of its id in `TrackedDeliveries`, and the overhead of allocations.
const ITEM_BYTES: usize = size_of::<Item>() + size_of::<String>() + 48;

/// A delivery that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub partition: u32,
    pub delivery_id: String,
    pub due_at: Millis,
    /// Whether it has had no attempt.
    pub first: bool,
    /// The queue of its endpoint.
    pub queue_id: u64,
    /// Hash of endpoint and user.
    pub ordering_key: u64,
}

impl Item {
    /// Bytes that it takes in memory, in all maps that hold it.
    pub fn len_bytes(&self) -> usize {
        ITEM_BYTES + 2 * self.delivery_id.len()
    }
}

/// Whether an endpoint takes another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointReadiness {
    Now,
    /// Not before then.
    At(Millis),
    /// Not before one of its attempts is over, or [`OrderingQueues::look_again`] is called.
    Later,
}

const FIRSTS: usize = 0;
const RETRIES: usize = 1;

#[derive(Debug, Default)]
struct Queue {
    /// First attempts and retries, each by due time.
    items: [VecDeque<Item>; 2],
    /// Whether it stands in `turns`.
    in_turn: [bool; 2],
    under_way: u32,
}

impl Queue {
    fn len(&self) -> usize {
        self.items[FIRSTS].len() + self.items[RETRIES].len()
    }
}

#[derive(Debug)]
pub struct OrderingQueues {
    queues: HashMap<u64, Queue>,
    /// Queues that are not empty and may be ready.
    turns: [VecDeque<u64>; 2],
    /// Queues that are ready from a time on.
    wakes: BTreeSet<(Millis, u64)>,
    /// Whether first attempts are asked before retries; it changes with every turn.
    firsts_before_retries: bool,
    /// Ordering keys that have a first attempt in flight.
    busy: HashSet<u64>,
    queued_bytes: usize,
    under_way: u32,
    retries_under_way: u32,
    slots: u32,
}

impl OrderingQueues {
    pub fn new(slots: u32) -> OrderingQueues {
        OrderingQueues {
            queues: HashMap::new(),
            turns: Default::default(),
            wakes: BTreeSet::new(),
            firsts_before_retries: false,
            busy: HashSet::new(),
            queued_bytes: 0,
            under_way: 0,
            retries_under_way: 0,
            slots: slots.max(2),
        }
    }

    pub fn push(&mut self, item: Item) {
        let (queue_id, class) = (item.queue_id, class(&item));
        // Items of several partitions come nearly in order: the place is near the end.
        let items = &mut self.queues.entry(queue_id).or_default().items[class];
        self.queued_bytes += item.len_bytes();
        let place = items.iter().rposition(|before| before.due_at <= item.due_at).map_or(0, |at| at + 1);
        items.insert(place, item);
        self.enter(queue_id, class);
    }

    fn enter(&mut self, queue_id: u64, class: usize) {
        let Some(queue) = self.queues.get_mut(&queue_id) else { return };
        if !queue.in_turn[class] && !queue.items[class].is_empty() {
            queue.in_turn[class] = true;
            self.turns[class].push_back(queue_id);
        }
    }

    /// Asks a queue again whether it is ready, because something of it has changed.
    pub fn look_again(&mut self, queue_id: u64) {
        self.enter(queue_id, FIRSTS);
        self.enter(queue_id, RETRIES);
    }

    /// The next delivery to send. `ready` is called with a queue and the number of its
    /// attempts in flight.
    pub fn next(&mut self, now: Millis, mut ready: impl FnMut(u64, u32) -> EndpointReadiness) -> Option<Item> {
        while let Some((_, queue_id)) = self.wakes.first().copied().filter(|(at, _)| *at <= now) {
            self.wakes.pop_first();
            self.look_again(queue_id);
        }
        if self.under_way >= self.slots {
            return None;
        }
        self.firsts_before_retries = !self.firsts_before_retries;
        let order = if self.firsts_before_retries { [FIRSTS, RETRIES] } else { [RETRIES, FIRSTS] };
        order.into_iter().find_map(|class| self.next_of(class, &mut ready))
    }

    fn next_of(&mut self, class: usize, ready: &mut impl FnMut(u64, u32) -> EndpointReadiness) -> Option<Item> {
        if class == RETRIES && self.retries_under_way >= self.slots / 2 {
            return None;
        }
        while let Some(queue_id) = self.turns[class].pop_front() {
            // Its last item may have gone with its partition.
            let Some(queue) = self.queues.get_mut(&queue_id) else { continue };
            queue.in_turn[class] = false;
            let under_way = queue.under_way;
            match ready(queue_id, under_way) {
                EndpointReadiness::Now => {}
                EndpointReadiness::At(at) => {
                    self.wakes.insert((at, queue_id));
                    continue;
                }
                EndpointReadiness::Later => continue,
            }
            // When each user has an attempt in flight, the end of one asks the queue again.
            let Some(item) = take(&mut queue.items[class], class, &self.busy) else { continue };
            queue.under_way += 1;
            self.under_way += 1;
            self.queued_bytes -= item.len_bytes();
            if item.first {
                self.busy.insert(item.ordering_key);
            } else {
                self.retries_under_way += 1;
            }
            self.enter(queue_id, class);
            return Some(item);
        }
        None
    }

    /// Frees the slot of an attempt that is over.
    pub fn done(&mut self, item: &Item) {
        self.under_way -= 1;
        if item.first {
            self.busy.remove(&item.ordering_key);
        } else {
            self.retries_under_way -= 1;
        }
        if let Some(queue) = self.queues.get_mut(&item.queue_id) {
            queue.under_way -= 1;
            if queue.under_way == 0 && queue.len() == 0 {
                self.queues.remove(&item.queue_id);
            }
        }
        self.look_again(item.queue_id);
    }

    /// Removes the items of a partition that are not in flight.
    pub fn forget(&mut self, partition: u32) {
        for queue in self.queues.values_mut() {
            queue.items.iter_mut().for_each(|items| items.retain(|item| item.partition != partition));
        }
        self.queues.retain(|_, queue| queue.under_way > 0 || queue.len() > 0);
        for class in [FIRSTS, RETRIES] {
            let queues = &mut self.queues;
            self.turns[class].retain(|queue_id| {
                let Some(queue) = queues.get_mut(queue_id) else { return false };
                queue.in_turn[class] = !queue.items[class].is_empty();
                queue.in_turn[class]
            });
        }
        let items = self.queues.values().flat_map(|queue| queue.items.iter().flatten());
        self.queued_bytes = items.map(Item::len_bytes).sum();
    }

    pub fn queued_ids(&self) -> HashSet<String> {
        let items = self.queues.values().flat_map(|queue| queue.items.iter().flatten());
        items.map(|item| item.delivery_id.clone()).collect()
    }

    /// Bytes that all queued items take in memory.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub fn queued_of(&self, queue_id: u64) -> usize {
        self.queues.get(&queue_id).map_or(0, Queue::len)
    }

    pub fn under_way(&self) -> u32 {
        self.under_way
    }

    /// When the first queue that waits for a time is ready.
    pub fn next_wake(&self) -> Option<Millis> {
        self.wakes.first().map(|(at, _)| *at)
    }
}

fn class(item: &Item) -> usize {
    if item.first { FIRSTS } else { RETRIES }
}

fn take(items: &mut VecDeque<Item>, class: usize, busy: &HashSet<u64>) -> Option<Item> {
    if class == RETRIES {
        return items.pop_front();
    }
    let free = items.iter().take(LOOK_AHEAD).position(|item| !busy.contains(&item.ordering_key))?;
    items.remove(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(queue_id: u64, id: u32, ordering_key: u64, first: bool) -> Item {
        Item { partition: 0, delivery_id: id.to_string(), due_at: 0, first, queue_id, ordering_key }
    }

    fn most(bound: u32) -> impl Fn(u64, u32) -> EndpointReadiness {
        move |_, under_way| if under_way < bound { EndpointReadiness::Now } else { EndpointReadiness::Later }
    }

    #[test]
    fn one_users_first_attempts_keep_their_order_and_others_pass() {
        let mut ordering = OrderingQueues::new(10);
        for (id, ordering_key) in [(1, 7), (2, 7), (3, 8)] {
            ordering.push(item(1, id, ordering_key, true));
        }
        let first = ordering.next(0, most(10)).unwrap();
        assert_eq!((first.delivery_id.as_str(), ordering.next(0, most(10)).unwrap().delivery_id.as_str()), ("1", "3"));
        assert_eq!(ordering.next(0, most(10)), None);
        ordering.done(&first);
        assert_eq!(ordering.next(0, most(10)).unwrap().delivery_id, "2");
    }

    #[test]
    fn what_is_due_first_goes_first_whichever_partition_it_is_of() {
        let mut ordering = OrderingQueues::new(10);
        for (id, due_at) in [(1, 10), (2, 30), (3, 20), (4, 20), (5, 5)] {
            ordering.push(Item { due_at, ..item(1, id, u64::from(id), true) });
        }
        let order: String = std::iter::from_fn(|| ordering.next(0, most(10))).map(|i| i.delivery_id).collect();
        assert_eq!(order, "51342");
    }

    #[test]
    fn endpoints_take_turns_within_their_bounds() {
        let mut ordering = OrderingQueues::new(10);
        for id in 0..5 {
            ordering.push(item(1, id, u64::from(id), true));
        }
        ordering.push(item(2, 9, 99, true));
        let went: Vec<Item> = std::iter::from_fn(|| ordering.next(0, most(2))).collect();
        assert_eq!(went.iter().map(|i| i.queue_id).collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!((ordering.queued_ids().len(), ordering.under_way()), (3, 3));
        ordering.done(&went[0]);
        assert_eq!(ordering.next(0, most(2)).map(|i| i.queue_id), Some(1), "there is room again");
    }

    #[test]
    fn retries_leave_half_of_the_slots() {
        let mut ordering = OrderingQueues::new(4);
        for id in 0..6 {
            ordering.push(item(1, id, 0, false));
        }
        let went: Vec<Item> = std::iter::from_fn(|| ordering.next(0, most(10))).collect();
        assert_eq!(went.len(), 2);
        ordering.push(item(1, 9, 1, true));
        assert!(ordering.next(0, most(10)).unwrap().first);
        ordering.done(&went[0]);
        assert!(!ordering.next(0, most(10)).unwrap().first);
    }

    #[test]
    fn one_that_waits_for_a_time_is_not_asked_before() {
        let mut ordering = OrderingQueues::new(10);
        ordering.push(item(1, 1, 1, true));
        ordering.push(item(2, 2, 2, false));
        let mut asked = 0;
        let mut ready = |queue_id: u64, _: u32| {
            asked += 1;
            if queue_id == 1 { EndpointReadiness::At(100) } else { EndpointReadiness::Later }
        };
        assert_eq!((ordering.next(0, &mut ready), ordering.next(99, &mut ready)), (None, None));
        assert_eq!((asked, ordering.next_wake()), (2, Some(100)));
        assert_eq!(ordering.next(100, most(1)).map(|i| i.queue_id), Some(1));
        ordering.look_again(2);
        assert_eq!(ordering.next(100, most(1)).map(|i| i.queue_id), Some(2));
    }

    #[test]
    fn what_is_forgotten_leaves_no_turn_behind() {
        let mut ordering = OrderingQueues::new(10);
        for queue_id in 1..5 {
            ordering.push(item(queue_id, queue_id as u32, queue_id, true));
            ordering.push(item(queue_id, 10 + queue_id as u32, 10 + queue_id, true));
        }
        let went = ordering.next(0, most(1)).unwrap();
        ordering.forget(0);
        ordering.done(&went);
        assert_eq!((ordering.queued_ids().len(), ordering.under_way(), ordering.next(0, most(1))), (0, 0, None));
        ordering.push(item(1, 7, 7, true));
        let went = ordering.next(0, most(1)).unwrap();
        ordering.push(item(went.queue_id, 9, 9, true));
        ordering.done(&went);
        assert_eq!(ordering.next(0, most(1)).map(|i| i.delivery_id), Some("9".into()));
    }
}
