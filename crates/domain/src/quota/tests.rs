//! Partitions that tell each other things in any order but their own: never a
//! completion too many, and in the end none too few.

use proptest::prelude::*;

use super::*;
use crate::refs::SurveyKey;
use crate::time::Millis;
use std::collections::{BTreeMap, VecDeque};

const PARTITIONS: usize = 8;

fn key() -> SurveyKey {
    SurveyKey::new("p", "s")
}

/// An offer as its user's state has it.
#[derive(Debug, Clone, Copy)]
struct Offer {
    partition: usize,
    until: Millis,
}

struct World {
    allocators: Vec<QuotaAllocator>,
    /// Between any two partitions, in order.
    ways: BTreeMap<(u32, u32), VecDeque<QuotaMessage>>,
    offers: Vec<Offer>,
    /// Triggers that wait for a grant.
    waiting: Vec<u64>,
    completed: u64,
    now: Millis,
}

impl World {
    fn new() -> World {
        let allocators =
            (0..PARTITIONS as u32).map(|partition| QuotaAllocator::new(partition, PARTITIONS as u32)).collect();
        World {
            allocators,
            ways: BTreeMap::new(),
            offers: Vec::new(),
            waiting: vec![0; PARTITIONS],
            completed: 0,
            now: 0,
        }
    }

    fn limit(&mut self, version: u64, limit: u64) {
        for partition in 0..PARTITIONS {
            let messages = self.allocators[partition].set_limit(&key(), version, Some(limit), self.now);
            self.send(messages);
        }
    }

    fn send(&mut self, messages: Vec<QuotaMessage>) {
        for one in messages {
            self.ways.entry((one.from, one.to)).or_default().push_back(one);
        }
    }

    /// One message arrives, on the way that `pick` chooses.
    fn deliver(&mut self, pick: usize) -> bool {
        let ways: Vec<(u32, u32)> = self.ways.iter().filter(|(_, way)| !way.is_empty()).map(|(at, _)| *at).collect();
        let Some(at) = ways.get(pick % ways.len().max(1)) else { return false };
        let messages = self.ways.get_mut(at).and_then(VecDeque::pop_front).expect("it is not empty");
        let messages = self.allocators[at.1 as usize].receive(&messages, self.now);
        self.send(messages);
        self.unpark(at.1 as usize);
        true
    }

    /// As the engine does after every record.
    fn unpark(&mut self, partition: usize) {
        while self.waiting[partition] > 0 {
            match self.allocators[partition].status(&key(), self.now) {
                QuotaStatus::Available => self.hold(partition),
                QuotaStatus::Exhausted => {}
                QuotaStatus::NeedsGrant => {
                    let messages = self.allocators[partition].ask(&key(), self.waiting[partition], self.now);
                    self.send(messages);
                    return;
                }
            }
            self.waiting[partition] -= 1;
        }
        let messages = self.allocators[partition].return_unused(self.now);
        self.send(messages);
    }

    fn hold(&mut self, partition: usize) {
        let until = self.now + 600_000;
        self.allocators[partition].change(&key(), QuotaChange::Hold { until }, self.now);
        self.offers.push(Offer { partition, until });
    }

    fn ask(&mut self, partition: usize) {
        self.waiting[partition] += 1;
        self.unpark(partition);
    }

    fn end(&mut self, pick: usize, how: u8) {
        let now = self.now;
        self.offers.retain(|offer| now < offer.until);
        if self.offers.is_empty() {
            return;
        }
        let at = pick % self.offers.len();
        let Offer { partition, until } = self.offers[at];
        let change = match how {
            0 => QuotaChange::Release { until },
            1 => {
                self.offers[at].until = until + 86_400_000;
                QuotaChange::Prolong { until, to: until + 86_400_000 }
            }
            _ => {
                self.completed += 1;
                QuotaChange::Complete { held: Some(until) }
            }
        };
        if how != 1 {
            self.offers.remove(at);
        }
        self.allocators[partition].change(&key(), change, now);
        self.unpark(partition);
    }

    fn quiet(&mut self) {
        let mut pick = 0;
        while self.deliver(pick) {
            pick += 1;
        }
    }

    /// Offers that have not lapsed.
    fn held(&self) -> u64 {
        self.offers.iter().filter(|offer| self.now < offer.until).count() as u64
    }

    fn used(&self) -> u64 {
        self.allocators.iter().filter_map(|allocator| allocator.leases.get(&key())).map(|lease| lease.used).sum()
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Ask(usize),
    End(usize, u8),
    Deliver(usize),
    Wait(Millis),
    Limit(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..PARTITIONS).prop_map(Op::Ask),
        6 => (any::<usize>(), 0..4u8).prop_map(|(pick, how)| Op::End(pick, how)),
        20 => any::<usize>().prop_map(Op::Deliver),
        1 => prop_oneof![Just(1_000), Just(600_000), Just(86_400_000)].prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn never_too_many_and_in_the_end_all(
        limit in prop_oneof![Just(1), 1..40u64, 60..70u64, 100..400u64],
        mut ops in prop::collection::vec(op(), 1..600),
        raises in prop::collection::vec((0..600usize, 1..500u64), 0..3),
    ) {
        for (at, limit) in raises {
            ops.insert(at.min(ops.len()), Op::Limit(limit));
        }
        let mut world = World::new();
        world.limit(1, limit);
        // What was promised under an earlier limit is kept.
        let (mut limit, mut allowed) = (limit, limit);
        for (version, op) in (2..).zip(ops) {
            match op {
                Op::Ask(partition) => world.ask(partition),
                Op::End(pick, how) => world.end(pick, how),
                Op::Deliver(pick) => drop(world.deliver(pick)),
                Op::Wait(span) => world.now += span,
                Op::Limit(new) => {
                    world.limit(version, new);
                    limit = new;
                    allowed = limit.max(world.completed + world.held());
                }
            }
            prop_assert_eq!(world.used(), world.completed);
            prop_assert!(world.completed <= allowed, "{} of {}", world.completed, allowed);
        }
        // Everyone answers now, from any one partition at a time.
        for round in 0..4 * PARTITIONS {
            world.now += 86_400_000;
            for _ in 0..limit {
                world.ask(round % PARTITIONS);
                world.quiet();
                world.end(usize::MAX / 2, 2);
                world.quiet();
            }
        }
        prop_assert!(world.completed >= limit, "{} of {}", world.completed, limit);
        prop_assert!(world.completed <= allowed, "{} of {}", world.completed, allowed);
    }
}

#[test]
fn a_lowered_limit_holds_at_once_and_a_raised_one_opens_again() {
    let mut world = World::new();
    world.limit(1, 10);
    world.quiet();
    for _ in 0..6 {
        world.ask(3);
        world.quiet();
        world.end(0, 2);
    }
    world.limit(2, 4);
    world.quiet();
    world.ask(5);
    world.quiet();
    assert_eq!((world.completed, world.offers.len()), (6, 0));
    world.limit(3, 7);
    world.quiet();
    world.now += super::allocator::REFUSAL_LIFE;
    world.ask(5);
    world.ask(6);
    world.quiet();
    assert_eq!(world.offers.len(), 1, "one more, whoever asks");
}

#[test]
fn a_dismissal_elsewhere_opens_it_for_whoever_was_refused() {
    let mut world = World::new();
    world.limit(1, 1);
    world.quiet();
    world.ask(3);
    world.quiet();
    world.ask(5);
    world.quiet();
    assert_eq!((world.offers.len(), world.waiting[5]), (1, 0), "refused");
    world.end(0, 0);
    world.quiet();
    world.ask(5);
    world.quiet();
    assert_eq!(world.offers[0].partition, 5, "without waiting");
}

#[test]
fn a_hold_that_moves_is_counted_once_and_comes_free_where_it_is() {
    let key = SurveyKey::new("p", "s");
    for is_late in [false, true] {
        let mut parts: Vec<QuotaAllocator> = (0..3).map(|partition| QuotaAllocator::new(partition, 3)).collect();
        let mut messages: VecDeque<QuotaMessage> = VecDeque::new();
        let deliver = |parts: &mut Vec<QuotaAllocator>, messages: &mut VecDeque<QuotaMessage>| {
            while let Some(message) = messages.pop_front() {
                let answers = parts[message.to as usize].receive(&message, 1);
                messages.extend(answers);
            }
        };
        for part in &mut parts {
            part.change(&key, QuotaChange::Hold { until: 100 }, 0);
        }
        for part in &mut parts {
            messages.extend(part.set_limit(&key, 1, Some(3), 0));
        }
        // The report of the partition that it leaves may come later than the move.
        let report = messages.iter().position(|message| message.from == 1).filter(|_| is_late);
        let late = report.and_then(|place| messages.remove(place));
        assert_eq!(parts[1].move_hold_out(&key, 100, 1), 1);
        assert_eq!(parts[2].epoch(&key), 1);
        messages.extend(parts[2].move_hold_in(&key, 100, 1, 1));
        messages.extend(late);
        deliver(&mut parts, &mut messages);
        assert_eq!(parts[0].coordinators[&key].out, [Some(1), Some(0), Some(2)], "late: {is_late}");
        parts[2].change(&key, QuotaChange::Release { until: 100 }, 2);
        messages.extend(parts[2].return_unused(2));
        deliver(&mut parts, &mut messages);
        assert_eq!(parts[0].coordinators[&key].out, [Some(1), Some(0), Some(1)], "late: {is_late}");
        parts[2].change(&key, QuotaChange::Complete { held: Some(100) }, 3);
        assert_eq!((parts[2].leases[&key].used, parts[2].leases[&key].free), (1, 0));
    }
}
