//! Counters that come and go say what they would say if all of them stayed.

use proptest::prelude::*;

use super::*;
use askwhen_domain::quota::cap::{CapOutcome, CapPlace};
use askwhen_store::Memory;

const NOW: Millis = 1_000_000;

fn key(value: u128) -> CapKey {
    CapKey { cap: 7, value }
}

fn counters(store: &Arc<Store>, bytes: usize) -> CapCounters {
    let mut counters = CapCounters::new(store.clone(), 0, 1, CacheLimit::from(bytes));
    store.each(families::QUOTAS, |key, value| counters.load(&key, &value)).unwrap();
    counters
}

fn write(store: &Store, counters: &mut CapCounters) {
    let mut batch = Batch::default();
    counters.freeze()(&mut batch);
    store.write(batch).unwrap();
    counters.persisted();
}

fn settled(counters: &CapCounters, value: u128, request: u64, outcome: CapOutcome) -> CapMessage {
    counters.settle(CapChange { key: key(value), place: CapPlace::Request(request), outcome })
}

#[test]
fn what_is_in_memory_is_bounded_and_what_is_not_written_stays() {
    let store = Arc::new(Store::Memory(Memory::default()));
    let room = 64 << 10;
    let mut busy = counters(&store, room * SHARE);
    let rule = CapRule { max: 1, within: None };
    for value in 0..2_000 {
        let ask = busy.ask(CapAsk { key: key(value), rule }, value as u64, false, NOW);
        let counted = settled(&busy, value, value as u64, CapOutcome::Counted(NOW));
        busy.receive(vec![ask, counted], NOW + value as Millis).unwrap();
    }
    assert!(busy.memory_bytes() > 2_000 * 128, "nothing is lost before it is written");
    assert_eq!(busy.dirty_bytes(), busy.memory_bytes());
    write(&store, &mut busy);
    assert!((room / 2..=room).contains(&busy.memory_bytes()), "{}", busy.memory_bytes());
    assert!(!busy.caps.has(key(0)) && busy.caps.has(key(1_999)), "the oldest go");
    assert_eq!(busy.dirty_bytes(), 0);
    for value in 0..2_000 {
        let ask = CapAsk { key: key(value), rule };
        assert!(matches!(busy.look(ask, NOW).unwrap(), CapAnswer::Refused(refusal) if refusal.count == 1));
    }
    let read = busy.memory_bytes();
    drop(busy);
    assert_eq!(counters(&store, room).memory_bytes(), 0, "a start reads none of them");
    assert!(read <= room, "looking brings none into memory");
}

#[test]
fn a_counter_that_was_forgotten_does_not_come_back_from_the_store() {
    let store = Arc::new(Store::Memory(Memory::default()));
    let mut busy = counters(&store, 0);
    let rule = CapRule { max: 1, within: Some(1_000) };
    let asked = |busy: &CapCounters, request, at| vec![busy.ask(CapAsk { key: key(1), rule }, request, false, at)];
    let messages = asked(&busy, 1, NOW);
    busy.receive(messages, NOW).unwrap();
    let counted = settled(&busy, 1, 1, CapOutcome::Counted(NOW));
    busy.receive(vec![counted], NOW).unwrap();
    write(&store, &mut busy);
    assert!(!busy.caps.has(key(1)), "it has no room");
    // Asked when its time is long over, and given back: it says no more than a new one would.
    let later = NOW + 10 * askwhen_domain::time::HOUR;
    let messages = asked(&busy, 2, later);
    busy.receive(messages, later).unwrap();
    let back = busy.give_back(key(1), 2);
    busy.receive(vec![back], later).unwrap();
    let is_gone = |busy: &CapCounters| !busy.caps.has(key(1)) && busy.stored(key(1)).unwrap().is_none();
    assert!(is_gone(&busy), "before the checkpoint");
    let changes = busy.freeze();
    assert!(is_gone(&busy), "while it is written");
    let mut batch = Batch::default();
    changes(&mut batch);
    store.write(batch).unwrap();
    busy.persisted();
    assert!(is_gone(&busy), "and behind it");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Two of the same, one with room for everything and one with none, whose checkpoints
    /// come in the midst of it.
    #[test]
    fn where_a_counter_is_decides_nothing(
        steps in prop::collection::vec((0_u8..8, 0_u128..6, 0_i64..400), 1..200),
        within in prop::option::of(Just(500_i64)),
    ) {
        let stores = [(); 2].map(|()| Arc::new(Store::Memory(Memory::default())));
        let mut both = [counters(&stores[0], usize::MAX), counters(&stores[1], 0)];
        let rule = CapRule { max: 2, within };
        let (mut now, mut request) = (NOW, 0);
        let mut places: Vec<(u128, CapPlace)> = Vec::new();
        let mut frozen: Option<Changes> = None;
        for (step, value, pick) in steps {
            let messages = match step {
                0..=2 => {
                    request += 1;
                    both.each_ref().map(|one| one.ask(CapAsk { key: key(value), rule }, request, false, now))
                }
                3 | 4 if !places.is_empty() => {
                    let (value, place) = places.remove(pick as usize % places.len());
                    let outcome = match pick % 3 {
                        0 => CapOutcome::Free,
                        1 => CapOutcome::Counted(now),
                        _ => CapOutcome::Held(now + 100),
                    };
                    if let CapOutcome::Held(until) = outcome {
                        places.push((value, CapPlace::Held(until)));
                    }
                    both.each_ref().map(|one| one.settle(CapChange { key: key(value), place, outcome }))
                }
                5 => {
                    now += pick * 20;
                    continue;
                }
                6 if frozen.is_none() => {
                    frozen = Some(both[1].freeze());
                    continue;
                }
                _ => {
                    if let Some(changes) = frozen.take() {
                        let mut batch = Batch::default();
                        changes(&mut batch);
                        stores[1].write(batch).unwrap();
                        both[1].persisted();
                    }
                    continue;
                }
            };
            let mut said = Vec::new();
            for (one, message) in both.iter_mut().zip(messages) {
                said.push(one.receive(vec![message], now).unwrap());
            }
            prop_assert_eq!(&said[0], &said[1]);
            for message in &said[0] {
                if let CapSignal::Answer { request, answer: CapAnswer::Granted } = message.signal {
                    places.push((message.key.value, CapPlace::Request(request)));
                }
            }
        }
        for value in 0..6 {
            let ask = CapAsk { key: key(value), rule };
            prop_assert_eq!(both[0].look(ask, now).unwrap(), both[1].look(ask, now).unwrap());
        }
        // Written and opened again, all is known that is counted.
        let counted = |one: &CapCounters, store: &Store| {
            let mut all: Vec<CapKey> = (0..6).map(key).filter(|key| one.caps.has(*key)).collect();
            each(store, |key, _| {
                all.extend((!one.caps.has(key) && !one.is_unwritten(key)).then_some(key));
                Ok::<_, Error>(())
            }).unwrap();
            all.sort_unstable();
            all
        };
        let (here, there) = (counted(&both[0], &stores[0]), counted(&both[1], &stores[1]));
        prop_assert_eq!(here, there);
    }
}
