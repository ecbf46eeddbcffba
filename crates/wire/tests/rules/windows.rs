//! Windows worked out as one would by hand, from the whole past at once, and
//! compared with what the state gives, whatever order the facts arrived in.

use proptest::prelude::*;
use std::collections::BTreeSet;

use crate::clocks::Clocks;
use askwhen_domain::eligibility::windows::Rules;
use askwhen_domain::survey::OnRepeat;
use askwhen_domain::survey::activation::{Absence, Activation, CANCELS, Count, LATE, Pattern, Sequence};
use askwhen_domain::time::Millis;
use askwhen_domain::user::distinct::Distinct;
use askwhen_domain::user::{Activated, ActivationEvent, EventOrder, PerSurvey};

const EXPIRES: Millis = 20;

fn end_of(at: Millis, _: u64) -> Millis {
    at + EXPIRES
}

/// Every arming: when, and the event behind it.
pub fn armings(activation: &Activation, facts: &[ActivationEvent]) -> Vec<(Millis, EventOrder)> {
    let role = |fact: &ActivationEvent, bit: usize| fact.pattern_mask & (1 << bit) != 0;
    let takes_part = |fact: &&ActivationEvent| fact.pattern_mask & !(CANCELS | LATE) != 0;
    let facts: Vec<&ActivationEvent> = facts.iter().filter(takes_part).collect();
    let mut found = Vec::new();
    for (i, fact) in facts.iter().enumerate() {
        let so_far = &facts[..=i];
        let lately = |within: Millis| so_far.iter().filter(move |f| f.event.at >= fact.event.at - within);
        let at = match activation {
            Activation::Event { count: None, .. } | Activation::Any { count: None, .. } => Some(fact.event.at),
            Activation::Event { count: Some(count), .. } | Activation::Any { count: Some(count), .. } => {
                let times = distinct(count, lately(count.within).copied().collect());
                (times >= count.at_least as usize).then_some(fact.event.at)
            }
            Activation::All { all, within } => {
                let there = (0..all.len()).all(|bit| lately(*within).any(|f| role(f, bit)));
                there.then_some(fact.event.at)
            }
            Activation::Sequence { sequence } => {
                let steps = sequence.steps.len();
                let begins = chains(so_far, steps);
                (role(fact, steps - 1) && begins.iter().any(|begin| fact.event.at - begin <= sequence.within))
                    .then_some(fact.event.at)
            }
            Activation::Absence { absence } => {
                let at = fact.event.at + absence.span;
                let came = facts[i + 1..].iter().any(|later| role(later, 1) && later.event.at < at);
                (role(fact, 0) && !came).then_some(at)
            }
        };
        if let Some(at) = at.filter(|_| fact.pattern_mask & LATE == 0) {
            found.push((at, fact.order()));
        }
    }
    found
}

/// How often something happened: each time, or once a day or session.
fn distinct(count: &Count, lately: Vec<&ActivationEvent>) -> usize {
    match count.distinct {
        None => lately.len(),
        Some(Distinct::Day) => {
            let clocks = Clocks::named(count.zone.name());
            lately.iter().map(|fact| clocks.date(fact.event.at).number).collect::<BTreeSet<i64>>().len()
        }
        Some(Distinct::Session) => {
            let known: BTreeSet<u64> = lately.iter().filter_map(|fact| fact.session).collect();
            known.len() + lately.iter().filter(|fact| fact.session.is_none()).count()
        }
    }
}

/// Beginnings of all chains of so many steps that end with the last fact.
fn chains(facts: &[&ActivationEvent], steps: usize) -> BTreeSet<Millis> {
    let Some((last, before)) = facts.split_last() else { return BTreeSet::new() };
    if last.pattern_mask & (1 << (steps - 1)) == 0 {
        return BTreeSet::new();
    }
    if steps == 1 {
        return BTreeSet::from([last.event.at]);
    }
    (1..=before.len()).flat_map(|n| chains(&before[..n], steps - 1)).collect()
}

#[derive(Debug, Clone)]
pub struct Stretch {
    pub by: (Millis, EventOrder),
    members: Vec<u64>,
    pub shown: bool,
    pub cancelled_at: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Armed(Millis, u64, EventOrder),
    Cancelled(Millis, u64),
    Displayed(Millis, u64),
}

impl Happening {
    fn order(&self) -> EventOrder {
        match *self {
            Happening::Armed(at, offset, _) | Happening::Cancelled(at, offset) => EventOrder { at, offset },
            Happening::Displayed(at, _) => EventOrder { at, offset: u64::MAX },
        }
    }
}

/// One thing after the other, as it happened; `facts` in their order, `displays`
/// by the event whose window was displayed.
pub fn by_hand(
    (activation, on_repeat, expires): (&Activation, OnRepeat, Millis),
    facts: &[ActivationEvent],
    displays: &[(u64, Millis)],
    now: Millis,
) -> Option<Stretch> {
    let armed = armings(activation, facts);
    // What has not begun yet is looked at only when nothing else is there.
    let none_yet = armed.iter().all(|(at, _)| *at > now);
    let mut all: Vec<Happening> = armed
        .into_iter()
        .filter(|(at, _)| *at <= now || (none_yet && !activation.waits()))
        .map(|(at, order)| Happening::Armed(at, order.offset, order))
        .collect();
    let cancels = facts.iter().filter(|fact| fact.pattern_mask & CANCELS != 0);
    all.extend(cancels.map(|fact| Happening::Cancelled(fact.event.at, fact.event.offset)));
    all.extend(displays.iter().map(|(offset, at)| Happening::Displayed(*at, *offset)));
    all.sort_by_key(Happening::order);
    let mut stretches: Vec<Stretch> = Vec::new();
    for happening in all {
        let current = stretches.last_mut();
        match happening {
            Happening::Armed(at, offset, order) => match current {
                Some(current) if !current.shown && current.cancelled_at.is_none() && at < current.by.0 + expires => {
                    current.members.push(offset);
                    if on_repeat == OnRepeat::Refresh {
                        current.by = (at, order);
                    }
                }
                _ => {
                    stretches.push(Stretch { by: (at, order), members: vec![offset], shown: false, cancelled_at: None })
                }
            },
            Happening::Cancelled(at, _) => {
                if let Some(current) = current.filter(|current| !current.shown && current.cancelled_at.is_none()) {
                    current.cancelled_at = Some(at);
                }
            }
            Happening::Displayed(_, offset) => {
                for stretch in stretches.iter_mut().filter(|stretch| stretch.members.contains(&offset)) {
                    stretch.shown = true;
                }
            }
        }
    }
    stretches.pop()
}

fn pattern() -> Pattern {
    Pattern { event: "e".into(), conditions: Vec::new() }
}

fn activations() -> impl Strategy<Value = Activation> {
    let patterns = |n: usize| vec![pattern(); n];
    prop_oneof![
        Just(Activation::Event { event: pattern(), count: None }),
        (2..5_u32, 1..30_i64).prop_map(|(at_least, within)| Activation::Event {
            event: pattern(),
            count: Some(Count::of(at_least, within))
        }),
        Just(Activation::Any { any: patterns(3), count: None }),
        (1..4_usize, 1..30_i64).prop_map(move |(n, within)| Activation::All { all: patterns(n), within }),
        (1..4_usize, 1..40_i64)
            .prop_map(move |(n, within)| Activation::Sequence { sequence: Sequence { steps: patterns(n), within } }),
        (1..15_i64).prop_map(|span| Activation::Absence {
            absence: Absence { after: pattern(), without: pattern(), span: span * 2 }
        }),
    ]
}

/// Times and roles; displays fall between, so that nothing is at the same time.
fn pasts() -> impl Strategy<Value = Vec<(Millis, u32)>> {
    let pattern_mask =
        prop_oneof![6 => 1..8_u32, 1 => Just(CANCELS), 1 => (1..8_u32).prop_map(|pattern_mask| pattern_mask | LATE)];
    prop::collection::vec((0..60_i64, pattern_mask), 1..14)
        .prop_map(|past| past.into_iter().map(|(at, pattern_mask)| (at * 2, pattern_mask)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150_000, ..ProptestConfig::default() })]
    #[test]
    fn windows_are_what_one_would_work_out_by_hand(
        activation in activations(),
        refresh: bool,
        past in pasts(),
        order in any::<u64>(),
        shown in prop::option::of((any::<prop::sample::Index>(), 0..40_i64)),
        now in 0..160_i64,
    ) {
        let on_repeat = if refresh { OnRepeat::Refresh } else { OnRepeat::KeepFirst };
        let bits = activation.patterns().len() as u32;
        let mut facts: Vec<ActivationEvent> = (0..).zip(past).map(|(offset, (at, pattern_mask))| {
            let known = pattern_mask & ((1 << bits) - 1);
            let pattern_mask = if pattern_mask & CANCELS != 0 { CANCELS } else { known.max(1) | (pattern_mask & LATE) };
            let event = Activated { at, offset, event_id: String::new(), event_name: "".into(), properties: None };
            ActivationEvent::new(pattern_mask, event.into())
        }).collect();
        let rules = Rules { activation: &activation, on_repeat, end_of: &end_of };
        let mut survey = PerSurvey::default();
        let mut arrivals = facts.clone();
        arrivals.sort_by_key(|fact| (fact.event.offset + 1).wrapping_mul(order | 1));
        facts.sort_by_key(ActivationEvent::order);
        let armed = armings(&activation, &facts);
        // The newest of all is offered, where each event moves the window: one that came
        // behind a newer one never is, and is not displayed.
        let newest_first = activation.is_single() && refresh;
        let was_newest = |place: EventOrder| {
            let before = arrivals.iter().take_while(|fact| fact.order() != place);
            let mut newer = before.filter(|fact| fact.order() > place && fact.event.at <= now);
            !newer.any(|fact| armed.iter().any(|(_, other)| *other == fact.order()))
        };
        let display = shown.filter(|_| !armed.is_empty()).and_then(|(which, later)| {
            let (at, place) = armed[which.index(armed.len())];
            (!newest_first || was_newest(place)).then_some((place.offset, at + later * 2 + 1))
        });
        for fact in arrivals.clone() {
            survey.insert(fact, rules, now, &|offset| display.is_some_and(|(offered, _)| offered == offset));
        }
        if let Some((offset, at)) = display {
            survey.displayed(at, Some(offset));
        }
        let found = survey.window(rules, now);
        let displays: Vec<(u64, Millis)> = display.into_iter().collect();
        let expected = by_hand((&activation, on_repeat, EXPIRES), &facts, &displays, now);
        let found = found.map(|w| (w.by.at, w.by.by.order(), w.shown, w.cancelled_at));
        let expected = expected.map(|s| (s.by.0, s.by.1, s.shown, s.cancelled_at));
        prop_assert_eq!(found, expected, "{:?} {:?} {:?}", activation, facts, display);
    }
}
