//! Partitions that tell each other things in any order but their own: never a display
//! too many within the time, never a request that waits for ever, and places that are
//! free are given.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use super::*;
use crate::time::Millis;

const PARTITIONS: usize = 8;
const WITHIN: Millis = 1_000;

/// A place that an offer holds.
#[derive(Debug, Clone, Copy)]
struct Offer {
    partition: usize,
    until: Millis,
}

/// A request, as its partition waits with it.
#[derive(Debug, Clone)]
struct Waiting {
    wanted: Vec<CapKey>,
    granted: Vec<CapKey>,
}

struct World {
    allocators: Vec<CapAllocator>,
    /// Between any two partitions, in order.
    ways: BTreeMap<(u32, u32), VecDeque<CapMessage>>,
    rule: CapRule,
    keys: Vec<CapKey>,
    waiting: BTreeMap<(usize, u64), Waiting>,
    offers: Vec<Offer>,
    /// Of every key: when it was displayed.
    displays: Vec<Millis>,
    /// Clocks of the partitions differ.
    clocks: Vec<Millis>,
    requests: u64,
    answered: BTreeMap<(usize, u64), CapAnswer>,
}

impl World {
    fn new(max: u64, within: Option<Millis>, keys: u64) -> World {
        let make = |partition| CapAllocator::new(partition, PARTITIONS as u32);
        World {
            allocators: (0..PARTITIONS as u32).map(make).collect(),
            ways: BTreeMap::new(),
            rule: CapRule { max, within },
            keys: (0..keys).map(|cap| CapKey { cap: cap * 7 + 3, value: 0 }).collect(),
            waiting: BTreeMap::new(),
            offers: Vec::new(),
            displays: Vec::new(),
            clocks: (0..PARTITIONS as Millis).map(|partition| partition * 5).collect(),
            requests: 0,
            answered: BTreeMap::new(),
        }
    }

    fn send(&mut self, partition: usize, messages: Vec<CapMessage>) {
        let now = self.clocks[partition];
        let mut queue = VecDeque::from(self.allocators[partition].receive(messages, now));
        while let Some(message) = queue.pop_front() {
            if message.to as usize != partition {
                self.ways.entry((message.from, message.to)).or_default().push_back(message);
                continue;
            }
            let CapSignal::Answer { request, answer } = message.signal else { panic!("{message:?}") };
            let more = self.answer(partition, request, message.key, answer);
            queue.extend(self.allocators[partition].receive(more, now));
        }
    }

    /// Takes an answer: asks for the next place, offers, or gives all back.
    fn answer(&mut self, partition: usize, request: u64, key: CapKey, answer: CapAnswer) -> Vec<CapMessage> {
        let allocator = &self.allocators[partition];
        let at = self.clocks[partition];
        let Some(waiting) = self.waiting.get_mut(&(partition, request)) else {
            return vec![allocator.give_back(key, request)];
        };
        if let CapAnswer::Refused(refusal) = answer {
            let granted = self.waiting.remove(&(partition, request)).expect("just seen").granted;
            self.answered.insert((partition, request), CapAnswer::Refused(refusal));
            return granted.into_iter().map(|key| allocator.give_back(key, request)).collect();
        }
        waiting.granted.push(key);
        if let Some(next) = waiting.wanted.get(waiting.granted.len()) {
            return vec![allocator.ask(CapAsk { key: *next, rule: self.rule }, request, false, at)];
        }
        self.waiting.remove(&(partition, request));
        self.answered.insert((partition, request), CapAnswer::Granted);
        let until = at + 100;
        self.offers.push(Offer { partition, until });
        let (place, outcome) = (CapPlace::Request(request), CapOutcome::Held(until));
        self.keys.iter().map(|key| allocator.settle(CapChange { key: *key, place, outcome })).collect()
    }

    fn trigger(&mut self, partition: usize) -> (usize, u64) {
        let request = self.requests;
        self.requests += 1;
        self.waiting.insert((partition, request), Waiting { wanted: self.keys.clone(), granted: Vec::new() });
        let ask = CapAsk { key: self.keys[0], rule: self.rule };
        let message = self.allocators[partition].ask(ask, request, false, self.clocks[partition]);
        self.send(partition, vec![message]);
        (partition, request)
    }

    fn end(&mut self, offer: usize, displayed: bool) {
        let Offer { partition, until } = self.offers.remove(offer);
        let at = self.clocks[partition];
        if until <= at {
            return;
        }
        let outcome = if displayed { CapOutcome::Counted(at) } else { CapOutcome::Free };
        if displayed {
            self.displays.push(at);
        }
        let change = |key: &CapKey| CapChange { key: *key, place: CapPlace::Held(until), outcome };
        let messages = self.keys.iter().map(|key| self.allocators[partition].settle(change(key))).collect();
        self.send(partition, messages);
    }

    /// A request gives up.
    fn give_up(&mut self, pick: usize) {
        let Some(whose) = self.waiting.keys().nth(pick % self.waiting.len().max(1)).copied() else { return };
        let waiting = self.waiting.remove(&whose).expect("just seen");
        let asked = waiting.wanted.get(waiting.granted.len());
        let keys = waiting.granted.iter().chain(asked);
        let messages = keys.map(|key| self.allocators[whose.0].give_back(*key, whose.1)).collect();
        self.send(whose.0, messages);
    }

    /// One message arrives, on the way that `pick` chooses.
    fn deliver(&mut self, pick: usize) -> bool {
        self.ways.retain(|_, way| !way.is_empty());
        let Some(way) = self.ways.keys().nth(pick % self.ways.len().max(1)).copied() else { return false };
        let message = self.ways.get_mut(&way).and_then(VecDeque::pop_front).expect("no way is empty");
        self.send(way.1 as usize, vec![message]);
        true
    }

    fn rest(&mut self) {
        while self.deliver(0) {}
    }

    fn check(&self) {
        let mut displays = self.displays.clone();
        displays.sort_unstable();
        let max = self.rule.max as usize;
        for (first, at) in displays.iter().enumerate() {
            let Some(over) = displays.get(first + max) else { break };
            let together = self.rule.within.is_none_or(|within| over - at <= within);
            assert!(!together, "{max} are allowed: {displays:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_display_too_many_and_none_too_few(
        max in 1_u64..4,
        within in prop::option::of(Just(WITHIN)),
        keys in 1_u64..4,
        steps in prop::collection::vec((0_u8..12, 0_usize..1_000), 1..300),
    ) {
        let mut world = World::new(max, within, keys);
        for (step, pick) in steps {
            match step {
                0..=2 => drop(world.trigger(pick % PARTITIONS)),
                3 if !world.offers.is_empty() => {
                    let offer = pick % world.offers.len();
                    world.end(offer, true);
                }
                4 if !world.offers.is_empty() => {
                    let offer = pick % world.offers.len();
                    world.end(offer, false);
                }
                5 => world.clocks[pick % PARTITIONS] += 30,
                6 => world.clocks.iter_mut().for_each(|clock| *clock += pick as Millis),
                7 if pick % 4 == 0 => world.give_up(pick),
                _ => drop(world.deliver(pick)),
            }
            world.check();
        }
        world.rest();
        world.check();
        prop_assert!(world.waiting.is_empty(), "everybody is answered: {:?}", world.waiting);
        // All that is held lapses, and what was counted counts no more: then as many get a
        // place as there are.
        world.offers.clear();
        let later = world.clocks.iter().max().copied().unwrap_or(0) + WITHIN + 200;
        world.clocks.iter_mut().for_each(|clock| *clock = later);
        let used = if within.is_none() { world.displays.len() as u64 } else { 0 };
        let asked: BTreeSet<(usize, u64)> = (0..6).map(|n| world.trigger(n)).collect();
        world.rest();
        let given = asked.iter().filter(|request| world.answered[request] == CapAnswer::Granted).count() as u64;
        prop_assert_eq!(given, (max - used.min(max)).min(6));
    }
}

#[test]
fn a_refusal_says_how_many_and_until_when() {
    let mut world = World::new(2, Some(WITHIN), 1);
    world.clocks.iter_mut().for_each(|clock| *clock = 10_000);
    for partition in [1, 2] {
        world.trigger(partition);
        world.rest();
    }
    world.end(0, true);
    world.rest();
    let refused = |world: &mut World, partition| {
        let asked = world.trigger(partition);
        world.rest();
        match world.answered[&asked] {
            CapAnswer::Refused(refusal) => refusal,
            CapAnswer::Granted => panic!("both places are taken"),
        }
    };
    // One is counted up to and with 11,000; the other is held up to 10,100.
    let told = refused(&mut world, 3);
    let of_two = CapRefusal { max: 2, count: 2, until: Some(10_100), is_final: false, count_until: None };
    assert_eq!(told, of_two);
    world.end(0, true);
    world.rest();
    let told = refused(&mut world, 3);
    assert_eq!(told, CapRefusal { until: Some(11_001), is_final: true, ..of_two });
    world.clocks.iter_mut().for_each(|clock| *clock = 11_000);
    assert!(refused(&mut world, 3).is_final, "the far end is included");
    world.clocks.iter_mut().for_each(|clock| *clock = 11_001);
    let asked = world.trigger(3);
    world.rest();
    assert_eq!(world.answered[&asked], CapAnswer::Granted);
}

/// Counts two displays at 100 and 200, and lets an offer hold a place up to 300; then asks
/// for one of `max` places at `at`.
fn refused_of(max: u64, at: Millis) -> CapRefusal {
    let mut allocator = CapAllocator::new(0, 1);
    let key = CapKey { cap: 0, value: 0 };
    let ask = |max, request| {
        let rule = CapRule { max, within: Some(WITHIN) };
        CapMessage { key, from: 0, to: 0, signal: CapSignal::Ask { request, rule, at, looks: false } }
    };
    let outcomes = [CapOutcome::Counted(100), CapOutcome::Counted(200), CapOutcome::Held(300)];
    for (request, outcome) in (0..).zip(outcomes) {
        allocator.receive(vec![ask(3, request)], 0);
        let settled = allocator.settle(CapChange { key, place: CapPlace::Request(request), outcome });
        allocator.receive(vec![settled], 0);
    }
    match allocator.receive(vec![ask(max, 9)], at)[..] {
        [CapMessage { signal: CapSignal::Answer { answer: CapAnswer::Refused(refusal), .. }, .. }] => refusal,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_refusal_counts_what_is_counted_or_held_and_not_what_has_lapsed() {
    let full = CapRefusal { max: 2, count: 3, until: Some(1_101), is_final: false, count_until: Some(300) };
    assert_eq!(refused_of(2, 299), full);
    assert_eq!(
        refused_of(2, 300),
        CapRefusal { count: 2, until: Some(1_101), is_final: true, count_until: None, ..full }
    );
    // A `max` that was lowered below what is counted.
    let lowered = CapRefusal { max: 1, count: 2, until: Some(1_201), is_final: true, count_until: Some(1_101) };
    assert_eq!(refused_of(1, 300), lowered);
}

#[test]
fn a_refusal_is_remembered_while_its_count_and_its_cap_stay() {
    let key = CapKey { cap: 7, value: 1 };
    let rule = CapRule { max: 1, within: Some(WITHIN) };
    let lowered = CapRefusal { max: 1, count: 2, until: Some(1_201), is_final: true, count_until: Some(1_101) };
    let mut allocator = CapAllocator::new(0, 8);
    let known = |allocator: &CapAllocator, now| allocator.refusal(key, rule, now).is_some();
    allocator.remember(key, CapAnswer::Refused(lowered), 300);
    assert!(known(&allocator, 1_100));
    assert!(!known(&allocator, 1_101), "it counts one less");
    allocator.forget_refusals(8);
    assert!(known(&allocator, 1_100), "that is another cap");
    allocator.forget_refusals(7);
    assert!(!known(&allocator, 1_100));
    allocator.remember(key, CapAnswer::Refused(lowered), 300);
    allocator.remember(key, CapAnswer::Granted, 301);
    assert!(!known(&allocator, 1_100), "a later answer counts");
}

#[test]
fn values_that_count_no_more_go_first_when_there_are_too_many() {
    // So many partitions that one keeps few.
    let partitions = 500_000;
    let mut allocator = CapAllocator::new(0, partitions);
    let rule = CapRule { max: 1, within: Some(WITHIN) };
    let key = |value: u128| CapKey { cap: 0, value: value * u128::from(partitions) };
    let count = |allocator: &mut CapAllocator, value, at: Millis| {
        let ask = CapAsk { key: key(value), rule };
        let request = allocator.ask(ask, value as u64, false, at);
        allocator.receive(vec![request], at);
        let change =
            CapChange { key: key(value), place: CapPlace::Request(value as u64), outcome: CapOutcome::Counted(at) };
        let settled = allocator.settle(change);
        allocator.receive(vec![settled], at);
    };
    let known = |allocator: &CapAllocator| (0..5).map(key).filter(|key| allocator.has(*key)).collect::<Vec<_>>();
    let later = 10 * crate::time::HOUR;
    count(&mut allocator, 1, 0);
    count(&mut allocator, 2, later);
    count(&mut allocator, 3, later + 1);
    assert_eq!(known(&allocator), [key(2), key(3)], "the first counts no more");
    count(&mut allocator, 4, later + 2);
    assert_eq!(known(&allocator), [key(3), key(4)], "the second was used least recently");
}

#[test]
fn a_key_is_read_back_from_text_and_bytes() {
    let cap = Cap {
        count: CapEvent::Displayed,
        max: 1,
        within: None,
        per: Some("company".into()),
        missing: MissingValue::Pass,
    };
    let key = |value: Value| cap.key("p", "s", Some(&value));
    assert_eq!(key(7.into()), key(7.0.into()), "a number is one value however it is written");
    assert_ne!(key(7.into()), key("7".into()));
    let text = serde_json::to_string(&key(7.into())).unwrap();
    assert_eq!(serde_json::from_str::<CapKey>(&text).unwrap(), key(7.into()));
    assert_eq!(CapKey::from_bytes(&key(7.into()).to_bytes()), Some(key(7.into())));
}
