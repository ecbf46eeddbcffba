//! What arms a survey: one event, several in any order, a sequence, or the absence of an
//! event. Armings are computed from the activation events of one user in the order of event
//! time, so the order of arrival does not matter.

use serde::Serialize;
use std::collections::VecDeque;
use std::ops::Deref;

use crate::survey::filter::Condition;
use crate::survey::schedule::Zone;
use crate::time::{self, Millis};
use crate::user::distinct::{self, Distinct, Occurrence};
use crate::user::{ActivationEvent, EventOrder};

/// The most patterns of an activation; each is a bit of [`ActivationEvent::pattern_mask`].
pub const MAX_PATTERNS: usize = 16;
/// The bit of an event that cancels.
pub const CANCELS: u32 = 1 << 31;
/// The bit of an event that came too late to arm; it still takes part.
pub const LATE: u32 = 1 << 30;
/// The highest `count` of events; as many are remembered.
pub const MAX_COUNT: u32 = 50;

/// A name of an event, with conditions on its properties.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pattern {
    pub event: String,
    #[serde(rename = "where", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    pub at_least: u32,
    #[serde(serialize_with = "time::as_duration")]
    pub within: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distinct: Option<Distinct>,
    /// The time zone in which days are counted.
    #[serde(skip)]
    pub zone: Zone,
}

impl Count {
    pub fn of(at_least: u32, within: Millis) -> Count {
        Count { at_least, within, distinct: None, zone: Zone::default() }
    }
}

/// What arms a survey, and by which property its windows are separate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Arming {
    #[serde(flatten)]
    pub activation: Activation,
    /// The `match` property: each of its values has windows of its own, and events without
    /// it do not take part.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_by: Option<String>,
}

impl Deref for Arming {
    type Target = Activation;

    fn deref(&self) -> &Activation {
        &self.activation
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sequence {
    pub steps: Vec<Pattern>,
    #[serde(serialize_with = "time::as_duration")]
    pub within: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Absence {
    pub after: Pattern,
    pub without: Pattern,
    #[serde(rename = "for", serialize_with = "time::as_duration")]
    pub span: Millis,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Activation {
    /// Every event, or the last of `count` within a time.
    Event {
        #[serde(flatten)]
        event: Pattern,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<Count>,
    },
    Any {
        any: Vec<Pattern>,
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<Count>,
    },
    /// All events in any order; the last one arms.
    All {
        all: Vec<Pattern>,
        #[serde(serialize_with = "time::as_duration")]
        within: Millis,
    },
    /// Events in this order; the last one arms.
    Sequence { sequence: Sequence },
    /// A time after an event, unless another event came in between.
    Absence { absence: Absence },
}

/// One arming: its time, and the event whose properties it shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Armed<'a> {
    pub at: Millis,
    pub by: &'a ActivationEvent,
}

impl Armed<'_> {
    pub fn order(&self) -> EventOrder {
        EventOrder { at: self.at, offset: self.by.event.offset }
    }
}

impl Activation {
    /// All patterns, in the order of their bits.
    pub fn patterns(&self) -> Vec<&Pattern> {
        match self {
            Activation::Event { event, .. } => vec![event],
            Activation::Any { any, .. } => any.iter().collect(),
            Activation::All { all, .. } => all.iter().collect(),
            Activation::Sequence { sequence } => sequence.steps.iter().collect(),
            Activation::Absence { absence } => vec![&absence.after, &absence.without],
        }
    }

    /// How long before an arming the events can lie that take part in it, in milliseconds.
    pub fn reach(&self) -> Millis {
        match self {
            Activation::Event { count, .. } | Activation::Any { count, .. } => {
                count.as_ref().map_or(0, |count| count.within)
            }
            Activation::All { within, .. } => *within,
            Activation::Sequence { sequence } => sequence.within,
            Activation::Absence { absence } => absence.span,
        }
    }

    /// The bits of events that prevent an arming.
    pub fn prevents(&self) -> u32 {
        if self.waits() { 1 << 1 } else { 0 }
    }

    /// Whether it arms some time after its event, as an absence does.
    pub fn waits(&self) -> bool {
        matches!(self, Activation::Absence { .. })
    }

    /// Whether it counts sessions.
    pub fn counts_sessions(&self) -> bool {
        self.count().is_some_and(|count| count.distinct == Some(Distinct::Session))
    }

    fn count(&self) -> Option<&Count> {
        match self {
            Activation::Event { count, .. } | Activation::Any { count, .. } => count.as_ref(),
            _ => None,
        }
    }

    /// Sets the time zone in which days are counted.
    pub fn on_clocks(&mut self, zone: &Zone) {
        if let Activation::Event { count: Some(count), .. } | Activation::Any { count: Some(count), .. } = self {
            count.zone = zone.clone();
        }
    }

    pub fn is_counted(&self) -> bool {
        matches!(self, Activation::Event { count: Some(_), .. } | Activation::Any { count: Some(_), .. })
    }

    /// Whether each event arms by itself.
    pub fn is_single(&self) -> bool {
        matches!(self, Activation::Event { count: None, .. } | Activation::Any { count: None, .. })
    }

    /// All armings, in order.
    pub fn armed<'a>(&self, facts: &'a [ActivationEvent]) -> Vec<Armed<'a>> {
        let patterns = |fact: &&ActivationEvent| fact.pattern_mask & !(CANCELS | LATE) != 0;
        let facts = facts.iter().filter(patterns);
        let mut armed = match self {
            Activation::Event { count, .. } | Activation::Any { count, .. } => match count {
                None => facts.map(now).collect(),
                Some(count) => counted(facts, count),
            },
            Activation::All { all, within } => together(facts, all.len(), *within),
            Activation::Sequence { sequence } => in_order(facts, sequence.steps.len(), sequence.within),
            Activation::Absence { absence } => missed(facts.collect(), absence.span),
        };
        armed.retain(|armed| armed.by.pattern_mask & LATE == 0);
        armed
    }
}

fn now(fact: &ActivationEvent) -> Armed<'_> {
    Armed { at: fact.event.at, by: fact }
}

fn counted<'a>(facts: impl Iterator<Item = &'a ActivationEvent>, count: &Count) -> Vec<Armed<'a>> {
    let mut lately: VecDeque<Occurrence> = VecDeque::new();
    let mut armed = Vec::new();
    for fact in facts {
        lately.push_back(Occurrence { at: fact.event.at, session: fact.session });
        while lately.front().is_some_and(|one| one.at.saturating_add(count.within) < fact.event.at) {
            lately.pop_front();
        }
        let times = distinct::count(lately.iter().copied(), count.distinct, &count.zone);
        if times >= count.at_least as usize {
            armed.push(now(fact));
        }
    }
    armed
}

fn together<'a>(facts: impl Iterator<Item = &'a ActivationEvent>, patterns: usize, within: Millis) -> Vec<Armed<'a>> {
    let mut latest: Vec<Option<Millis>> = vec![None; patterns];
    let mut armed = Vec::new();
    for fact in facts {
        let at = fact.event.at;
        for (i, last) in latest.iter_mut().enumerate() {
            if fact.pattern_mask & (1 << i) != 0 {
                *last = Some(at);
            }
        }
        if latest.iter().all(|last| last.is_some_and(|last| last.saturating_add(within) >= at)) {
            armed.push(now(fact));
        }
    }
    armed
}

fn in_order<'a>(facts: impl Iterator<Item = &'a ActivationEvent>, steps: usize, within: Millis) -> Vec<Armed<'a>> {
    // By step, the latest start of a sequence that has come so far.
    let mut begun: Vec<Option<Millis>> = vec![None; steps];
    let mut armed = Vec::new();
    for fact in facts {
        let at = fact.event.at;
        // Backwards, so that one event does not complete two steps of the same sequence.
        for step in (0..steps).rev() {
            if fact.pattern_mask & (1 << step) == 0 {
                continue;
            }
            let chain = if step == 0 { Some(at) } else { begun[step - 1] };
            begun[step] = begun[step].max(chain);
            if step + 1 == steps && chain.is_some_and(|begin| begin.saturating_add(within) >= at) {
                armed.push(now(fact));
            }
        }
    }
    armed
}

fn missed(facts: Vec<&ActivationEvent>, span: Millis) -> Vec<Armed<'_>> {
    let mut armed = Vec::new();
    for (i, fact) in facts.iter().enumerate().filter(|(_, fact)| fact.pattern_mask & 1 != 0) {
        let at = fact.event.at.saturating_add(span);
        let came = facts[i + 1..].iter().any(|later| later.pattern_mask & 2 != 0 && later.event.at < at);
        if !came {
            armed.push(Armed { at, by: fact });
        }
    }
    armed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MINUTE;
    use crate::user::Activated;

    /// Minutes and patterns by letter: `a0 b5` is pattern 0 at minute 0, 1 at 5.
    fn facts(text: &str) -> Vec<ActivationEvent> {
        let mut facts: Vec<ActivationEvent> = Vec::new();
        for (offset, word) in (0..).zip(text.split(' ')) {
            let quota_messages = word.bytes().take_while(u8::is_ascii_lowercase);
            let pattern_mask =
                quota_messages.clone().fold(0, |pattern_mask, letter| pattern_mask | 1 << (letter - b'a'));
            let at: Millis = word[quota_messages.count()..].parse::<Millis>().unwrap() * MINUTE;
            let event = Activated { at, offset, event_id: String::new(), event_name: "".into(), properties: None };
            facts.push(ActivationEvent::new(pattern_mask, event.into()));
        }
        facts.sort_by_key(|fact| (fact.event.at, fact.event.offset));
        facts
    }

    #[track_caller]
    fn check(activation: &Activation, text: &str, expected: &[Millis]) {
        let facts = facts(text);
        let found: Vec<Millis> = activation.armed(&facts).iter().map(|armed| armed.at / MINUTE).collect();
        assert_eq!(found, expected, "{text}");
    }

    fn pattern() -> Pattern {
        Pattern { event: "e".into(), conditions: Vec::new() }
    }

    #[test]
    fn a_count_is_reached_by_the_last_of_them_and_both_ends_belong_to_it() {
        let third = Activation::Event { event: pattern(), count: Some(Count::of(3, 10 * MINUTE)) };
        check(&third, "a0 a5 a10", &[10]);
        check(&third, "a0 a5 a11", &[]);
        check(&third, "a0 a5 a10 a12", &[10, 12]);
        check(&third, "a10 a0 a5", &[10]);
        check(&third, "a3 a3 a3", &[3]);
    }

    #[test]
    fn all_of_them_in_any_order() {
        let all = Activation::All { all: vec![pattern(), pattern()], within: 10 * MINUTE };
        check(&all, "a0 b10", &[10]);
        check(&all, "b0 a10", &[10]);
        check(&all, "a0 b11", &[]);
        check(&all, "a0 b11 a12", &[12]);
        check(&all, "ab4", &[4]);
    }

    #[test]
    fn one_after_the_other() {
        let steps = vec![pattern(), pattern(), pattern()];
        let sequence = Activation::Sequence { sequence: Sequence { steps, within: 10 * MINUTE } };
        check(&sequence, "a0 b5 c10", &[10]);
        check(&sequence, "a0 b5 c11", &[]);
        check(&sequence, "b0 a1 c2", &[]);
        check(&sequence, "a0 a4 b5 c14", &[14]);
        check(&sequence, "abc1", &[]);
        check(&sequence, "a1 b1 c1", &[1]);
        check(&sequence, "c1 b1 a1", &[]);
        check(&sequence, "c9 a0 b5", &[9]);
    }

    #[test]
    fn what_does_not_come() {
        let absence = Absence { after: pattern(), without: pattern(), span: 30 * MINUTE };
        let absence = Activation::Absence { absence };
        check(&absence, "a0", &[30]);
        check(&absence, "a0 b29", &[]);
        check(&absence, "a0 b30", &[30]);
        check(&absence, "b0 a0", &[30]);
        check(&absence, "a0 b0", &[]);
        check(&absence, "a0 b5 a6", &[36]);
        check(&absence, "a0 a10", &[30, 40]);
    }
}
