//! Windows of one survey and one user: the spans of time in which an armed survey may be
//! offered. They are computed from the activation events (`facts`) and the displays alone.

use crate::survey::OnRepeat;
use crate::survey::activation::{Activation, Armed, CANCELS, LATE};
use crate::time::Millis;
use crate::user::{Activated, ActivationEvent, EventOrder, PerSurvey, WINDOW_REMEMBERED, WindowDisplay};

/// The most activation events that are remembered; more than any count can ask for.
const MAX_FACTS: usize = 64;

/// Cancelling events remembered behind the newest event that arms by itself.
const MAX_CANCELLATIONS: usize = 8;

/// Returns the end of the window that the record at an offset began at a time.
pub type EndOf<'a> = &'a dyn Fn(Millis, u64) -> Millis;

/// The rules by which activation events become windows.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub activation: &'a Activation,
    pub on_repeat: OnRepeat,
    pub end_of: EndOf<'a>,
}

impl Rules<'_> {
    /// Whether each event arms by itself and restarts the window.
    fn is_single_refresh(&self) -> bool {
        self.activation.is_single() && self.on_repeat == OnRepeat::Refresh
    }
}

/// A window, before delay and expiry are added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window<'a> {
    /// The arming whose properties are shown, and from which delay and expiry count.
    pub by: Armed<'a>,
    /// The events of the first and the last arming.
    begins: EventOrder,
    last: EventOrder,
    pub shown: bool,
    /// When it was cancelled, unless it had been displayed before.
    pub cancelled_at: Option<Millis>,
}

impl Window<'_> {
    pub fn end(&self, rules: Rules<'_>) -> Millis {
        (rules.end_of)(self.by.at, self.by.by.event.offset)
    }
}

impl ActivationEvent {
    /// Whether the event can arm: it was not late, and it does more than cancel.
    fn arms(&self) -> bool {
        self.pattern_mask & LATE == 0 && self.pattern_mask & !CANCELS != 0
    }
}

impl PerSurvey {
    /// Inserts an event in the order of event time. `now` is the partition's time;
    /// `offered` says whether an offer that an event armed may still be displayed.
    pub fn insert(&mut self, new: ActivationEvent, rules: Rules<'_>, now: Millis, offered: &dyn Fn(u64) -> bool) {
        let place = self.facts.partition_point(|fact| fact.order() < new.order());
        // Most windows keep one event or two, of many users.
        self.facts.reserve_exact(1);
        self.facts.insert(place, new);
        if rules.is_single_refresh() {
            self.let_go_of_superseded(now, offered);
        }
        self.drop_properties(rules);
        if self.facts.len() > MAX_FACTS {
            self.remove(self.victim(rules));
        }
    }

    /// Merges the events and displays of an alias, as if all had come under one name.
    pub fn absorb(&mut self, theirs: &PerSurvey, rules: Rules<'_>, now: Millis, offered: &dyn Fn(u64) -> bool) {
        let is_known = |fact: &&ActivationEvent| self.facts.iter().any(|own| own.event.offset == fact.event.offset);
        let news: Vec<ActivationEvent> = theirs.facts.iter().filter(|fact| !is_known(fact)).cloned().collect();
        self.facts.extend(news);
        self.facts.sort_by_key(ActivationEvent::order);
        self.shown.extend(&theirs.shown);
        self.shown.sort_by_key(|shown| shown.at);
        let too_many = self.shown.len().saturating_sub(crate::user::MAX_SHOWN);
        self.shown.drain(..too_many);
        if rules.is_single_refresh() {
            self.let_go_of_superseded(now, offered);
        }
        self.drop_properties(rules);
        while self.facts.len() > MAX_FACTS {
            self.remove(self.victim(rules));
        }
    }

    /// Drops events that newer ones replace, where each event arms by itself and restarts
    /// the window: then the newest event alone decides how long the window lasts, whatever
    /// comes late. An earlier event is kept only if its window was displayed after it, or
    /// still may be, because the events between then decide whether both are one window.
    fn let_go_of_superseded(&mut self, now: Millis, offered: &dyn Fn(u64) -> bool) {
        self.facts.retain(|fact| fact.pattern_mask & CANCELS != 0 || fact.arms());
        let begun = |fact: &&ActivationEvent| fact.arms() && fact.event.at <= now;
        let Some(newest) = self.facts.iter().rev().find(begun).map(ActivationEvent::order) else { return };
        let counts = |fact: &&ActivationEvent| offered(fact.event.offset) || self.is_shown_since(fact, newest.at);
        let mut oldest = self.facts.iter().find(counts).map_or(newest, |fact| fact.order().min(newest));
        // A window displayed no sooner than the kept events reaches up to them: its first
        // display decides what begins another window.
        while let Some(earlier) =
            self.facts.iter().find(|fact| fact.order() < oldest && self.is_shown_since(fact, oldest.at))
        {
            oldest = earlier.order();
        }
        let gone = self.facts.partition_point(|fact| fact.order() < oldest);
        if gone > 0 {
            self.facts.drain(..gone);
            let facts = &self.facts;
            self.shown.retain(|shown| facts.iter().any(|fact| fact.event.offset == shown.offset));
        }
        self.let_go_of_cancellations(newest);
    }

    /// Whether the window that the event armed was displayed at `at` or later.
    fn is_shown_since(&self, fact: &ActivationEvent, at: Millis) -> bool {
        self.shown.iter().any(|shown| shown.offset == fact.event.offset && shown.at >= at)
    }

    /// Drops cancelling events that decide nothing: of many that cancel one window the
    /// first says when it ended, and the newest cancel events that come late.
    fn let_go_of_cancellations(&mut self, newest: EventOrder) {
        let is_one = |fact: &ActivationEvent| !fact.arms() && fact.order() > newest;
        let count = self.facts.iter().filter(|fact| is_one(fact)).count();
        let first = self.facts.iter().position(is_one);
        if let Some(first) = first.filter(|_| count > MAX_CANCELLATIONS)
            && let Some(second) = self.facts.iter().skip(first + 1).position(is_one)
        {
            self.facts.remove(first + 1 + second);
        }
    }

    /// Drops properties that no offer can show any more: where windows restart with every
    /// arming, those of all but the newest event. An absence keeps them, because the event
    /// that it waits for may still come.
    fn drop_properties(&mut self, rules: Rules<'_>) {
        if rules.on_repeat != OnRepeat::Refresh || rules.activation.waits() {
            return;
        }
        let newest = rules.activation.armed(&self.facts).last().map(Armed::order);
        let Some(newest) = newest else { return };
        for fact in self.facts.iter_mut().take_while(|fact| fact.order() < newest) {
            fact.drop_properties();
        }
    }

    /// The index of the event to drop when there are too many: one without which all
    /// windows stay the same, else the oldest.
    fn victim(&self, rules: Rules<'_>) -> usize {
        let all = 0..self.facts.len();
        let oldest_first = rules.is_single_refresh() || rules.activation.is_counted();
        let order: Vec<usize> = if oldest_first { all.collect() } else { all.rev().collect() };
        let before = self.outline(rules);
        let missed_by_none = |at: &usize| {
            let mut without =
                PerSurvey { facts: self.facts.clone(), shown: self.shown.clone(), ..PerSurvey::default() };
            without.facts.remove(*at);
            without.outline(rules) == before
        };
        order.into_iter().find(missed_by_none).unwrap_or(0)
    }

    /// All that identifies the windows: begin, displayed, cancelled.
    fn outline(&self, rules: Rules<'_>) -> Vec<(EventOrder, bool, Option<Millis>)> {
        self.windows(rules).iter().map(|window| (window.by.order(), window.shown, window.cancelled_at)).collect()
    }

    /// Removes an event; the display of its window stays recorded.
    pub(crate) fn remove(&mut self, at: usize) {
        let gone = self.facts.remove(at).event;
        let heir = self.facts.get(at).or_else(|| self.facts.last()).map(|fact| (fact.event.offset, fact.event.at));
        for shown in self.shown.iter_mut().filter(|shown| shown.offset == gone.offset) {
            if let Some((offset, heir_at)) = heir
                && heir_at <= shown.at
            {
                shown.offset = offset;
            }
        }
    }

    /// Drops the events of windows that are over, window by window, because the start of a
    /// window decides which events belong to it.
    pub fn forget_facts(&mut self, rules: Rules<'_>, now: Millis) {
        let reach = rules.activation.reach();
        let end = |event: &Activated| (rules.end_of)(event.at.saturating_add(reach), event.offset);
        let over = |fact: &ActivationEvent| end(&fact.event).saturating_add(WINDOW_REMEMBERED) <= now;
        let mut keep_from = self.facts.partition_point(over);
        if keep_from == 0 {
            return;
        }
        for window in self.windows(rules) {
            // The events on which a window's first arming depends are kept with it.
            let rests_on = |fact: &ActivationEvent| fact.event.at.saturating_add(reach) < window.begins.at;
            let first = self.facts.partition_point(rests_on);
            let last = self.facts.partition_point(|fact| fact.order() <= window.last);
            if first < keep_from && keep_from < last {
                keep_from = first;
            }
        }
        self.facts.drain(..keep_from);
        let facts = &self.facts;
        self.shown.retain(|shown| facts.iter().any(|fact| fact.event.offset == shown.offset));
    }

    /// The last window that has begun by `now`, whether it is open or over.
    pub fn window(&self, rules: Rules<'_>, now: Millis) -> Option<Window<'_>> {
        let begun = self.windows_until(rules, now).pop();
        // An absence arms at its time and not before. Other events are at most a moment in
        // the future: such a window waits as for a delay.
        begun.or_else(|| if rules.activation.waits() { None } else { self.windows(rules).pop() })
    }

    /// When the next window begins if no further event comes.
    pub fn next_window(&self, rules: Rules<'_>, now: Millis) -> Option<Millis> {
        rules.activation.armed(&self.facts).iter().map(|armed| armed.at).find(|at| *at > now)
    }

    fn windows(&self, rules: Rules<'_>) -> Vec<Window<'_>> {
        self.windows_until(rules, Millis::MAX)
    }

    /// All windows in order, from armings up to `until`.
    fn windows_until(&self, rules: Rules<'_>, until: Millis) -> Vec<Window<'_>> {
        let mut windows: Vec<Window<'_>> = Vec::new();
        let mut shown_at: Option<Millis> = None;
        for next in rules.activation.armed(&self.facts).into_iter().filter(|armed| armed.at <= until) {
            let own_display = self.shown_by(next.by);
            let before = windows.last().copied().filter(|window| {
                // A window that was displayed or cancelled is over for later events: they
                // begin another.
                let spent = shown_at.is_some_and(|at| next.at > at);
                let cancelled = self.cancelled(&window.by, shown_at, Some(next.order())).is_some();
                next.at < window.end(rules) && !spent && !cancelled
            });
            match before {
                Some(window) => {
                    let by = if rules.on_repeat == OnRepeat::Refresh { next } else { window.by };
                    // The first of several displays ends the window.
                    shown_at = [shown_at, own_display].into_iter().flatten().min();
                    let grown = Window { by, last: next.by.order(), shown: shown_at.is_some(), ..window };
                    *windows.last_mut().expect("just seen") = grown;
                }
                None => {
                    shown_at = own_display;
                    let shown = shown_at.is_some();
                    let (begins, last) = (next.by.order(), next.by.order());
                    windows.push(Window { by: next, begins, last, shown, cancelled_at: None });
                }
            }
            let cancelled_at = self.cancelled(&windows[windows.len() - 1].by, shown_at, None);
            windows.last_mut().expect("just pushed").cancelled_at = cancelled_at;
        }
        windows
    }

    fn shown_by(&self, fact: &ActivationEvent) -> Option<Millis> {
        self.shown.iter().filter(|shown| shown.offset == fact.event.offset).map(|shown| shown.at).min()
    }

    /// The first cancelling event after an arming and before `before`, unless the window
    /// had been displayed by then.
    fn cancelled(&self, armed: &Armed<'_>, shown_at: Option<Millis>, before: Option<EventOrder>) -> Option<Millis> {
        let after = |fact: &&ActivationEvent| {
            fact.pattern_mask & CANCELS != 0
                && fact.order() > armed.order()
                && before.is_none_or(|order| fact.order() < order)
        };
        let cancel = self.facts.iter().find(after)?;
        let displayed = shown_at.is_some_and(|at| at <= cancel.event.at);
        (!displayed).then_some(cancel.event.at)
    }

    /// Records the display of the window that the event at `armed_by` armed.
    pub fn displayed(&mut self, at: Millis, armed_by: Option<u64>) {
        self.displays = self.displays.saturating_add(1);
        self.last_display_at = self.last_display_at.max(Some(at));
        if let Some(wanted) = armed_by {
            self.window_displayed(at, wanted);
        }
    }

    /// Records the display of the window that the event at the offset `wanted` armed.
    pub fn window_displayed(&mut self, at: Millis, wanted: u64) {
        // When the event has been dropped, the newest event of its window represents it.
        let known = self.facts.iter().any(|fact| fact.event.offset == wanted);
        let stands_in = self.facts.iter().rev().find(|fact| fact.event.at <= at).map(|fact| fact.event.offset);
        let offset = if known { wanted } else { stands_in.unwrap_or(wanted) };
        self.shown.push(WindowDisplay { offset, at });
        if self.shown.len() > crate::user::MAX_SHOWN {
            self.shown.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;
    use crate::survey::activation::Pattern;
    use crate::time::MINUTE;

    fn fact(at: Millis, offset: u64) -> ActivationEvent {
        let event = Activated {
            at,
            offset,
            event_id: format!("e{offset}"),
            event_name: "x".into(),
            properties: Some(Json::empty_object()),
        };
        ActivationEvent::new(1, event.into())
    }

    fn cancel(at: Millis, offset: u64) -> ActivationEvent {
        ActivationEvent { pattern_mask: CANCELS, ..fact(at, offset) }
    }

    fn single() -> Activation {
        Activation::Event { event: Pattern { event: "x".into(), conditions: Vec::new() }, count: None }
    }

    fn rules(activation: &Activation, on_repeat: OnRepeat) -> Rules<'_> {
        Rules { activation, on_repeat, end_of: &ten }
    }

    fn ten(at: Millis, _: u64) -> Millis {
        at + 10 * MINUTE
    }

    #[test]
    fn windows_go_as_a_whole_and_many_activations_leave_their_start() {
        let single = single();
        let rules = rules(&single, OnRepeat::KeepFirst);
        let mut survey = PerSurvey::default();
        for n in 0..100 {
            survey.insert(fact(n * MINUTE / 20, n as u64), rules, Millis::MAX, &|_| true);
        }
        let start = |survey: &PerSurvey| survey.window(rules, 5 * MINUTE).unwrap().by.at;
        assert_eq!(start(&survey), 0, "its start is never the one to go");
        survey.insert(fact(20 * MINUTE, 200), rules, Millis::MAX, &|_| true);
        let last = survey.facts[survey.facts.len() - 2].event.at;
        survey.forget_facts(rules, ten(last, 0) + WINDOW_REMEMBERED - 1);
        assert_eq!(survey.facts[0].event.at, 0);
        survey.forget_facts(rules, ten(last, 0) + WINDOW_REMEMBERED);
        let left: Vec<Millis> = survey.facts.iter().map(|fact| fact.event.at).collect();
        assert_eq!(left, [20 * MINUTE]);
    }

    #[test]
    fn a_display_outlives_its_activation() {
        let single = single();
        let rules = rules(&single, OnRepeat::Refresh);
        let mut survey = PerSurvey::default();
        survey.insert(fact(0, 0), rules, Millis::MAX, &|_| true);
        for n in 1..100 {
            survey.insert(fact(n, n as u64), rules, Millis::MAX, &|_| true);
        }
        survey.displayed(MINUTE, Some(0));
        assert!(survey.window(rules, MINUTE).unwrap().shown);
    }

    #[test]
    fn windows_do_not_depend_on_the_order_of_arrival() {
        let single = single();
        let facts = [
            fact(0, 0),
            fact(5 * MINUTE, 1),
            cancel(6 * MINUTE, 2),
            fact(12 * MINUTE, 3),
            fact(30 * MINUTE, 4),
            fact(31 * MINUTE, 5),
            cancel(29 * MINUTE, 6),
        ];
        for on_repeat in [OnRepeat::Refresh, OnRepeat::KeepFirst] {
            let rules = rules(&single, on_repeat);
            let mut expected = None;
            for turn in 0..facts.len() {
                let mut survey = PerSurvey::default();
                for i in 0..facts.len() {
                    survey.insert(facts[(i * 3 + turn) % facts.len()].clone(), rules, Millis::MAX, &|_| true);
                }
                let window = survey.window(rules, 32 * MINUTE).unwrap();
                let found = (window.by.at, window.by.by.event.properties.is_some(), window.shown, window.cancelled_at);
                assert_eq!(*expected.get_or_insert(found), found);
            }
            let first = if on_repeat == OnRepeat::Refresh { 31 } else { 30 };
            assert_eq!(expected, Some((first * MINUTE, true, false, None)));
        }
    }

    #[test]
    fn a_displayed_window_is_spent_and_the_next_activation_begins_another() {
        let single = single();
        for on_repeat in [OnRepeat::Refresh, OnRepeat::KeepFirst] {
            let rules = rules(&single, on_repeat);
            let shown = |survey: &PerSurvey| survey.window(rules, 4 * MINUTE).unwrap().shown;
            let mut survey = PerSurvey::default();
            survey.insert(fact(0, 0), rules, Millis::MAX, &|_| true);
            survey.displayed(2 * MINUTE, Some(0));
            assert!(shown(&survey));
            survey.insert(fact(MINUTE, 1), rules, Millis::MAX, &|_| true);
            assert!(shown(&survey), "before the display: the same window");
            survey.insert(fact(3 * MINUTE, 2), rules, Millis::MAX, &|_| true);
            let next = survey.window(rules, 4 * MINUTE).unwrap();
            assert_eq!((next.by.at, next.shown), (3 * MINUTE, false));
        }
    }

    #[test]
    fn the_first_display_of_a_window_counts_whichever_of_its_events_was_offered() {
        let single = single();
        let rules = rules(&single, OnRepeat::Refresh);
        let mut survey = PerSurvey::default();
        survey.insert(fact(0, 1), rules, Millis::MAX, &|_| true);
        survey.insert(fact(0, 2), rules, Millis::MAX, &|_| true);
        survey.displayed(5 * MINUTE, Some(1));
        survey.insert(fact(6 * MINUTE, 3), rules, Millis::MAX, &|offset| offset == 2);
        survey.displayed(7 * MINUTE, Some(2));
        survey.insert(fact(4 * MINUTE, 4), rules, Millis::MAX, &|_| false);
        let window = survey.window(rules, 8 * MINUTE).unwrap();
        assert_eq!((window.by.at, window.shown), (6 * MINUTE, false), "spent after five minutes");
    }

    #[test]
    fn a_cancellation_ends_what_stood_before_it_and_nothing_else() {
        let single = single();
        let rules = rules(&single, OnRepeat::KeepFirst);
        let cancelled = |survey: &PerSurvey| survey.window(rules, 9 * MINUTE).unwrap().cancelled_at;
        let mut survey = PerSurvey::default();
        survey.insert(cancel(0, 0), rules, Millis::MAX, &|_| true);
        survey.insert(fact(0, 1), rules, Millis::MAX, &|_| true);
        assert_eq!(cancelled(&survey), None, "the same time, but before it in the journal");
        survey.insert(cancel(MINUTE, 2), rules, Millis::MAX, &|_| true);
        assert_eq!(cancelled(&survey), Some(MINUTE));
        survey.insert(fact(2 * MINUTE, 3), rules, Millis::MAX, &|_| true);
        assert_eq!((cancelled(&survey), survey.window(rules, 9 * MINUTE).unwrap().by.at), (None, 2 * MINUTE));
        survey.displayed(3 * MINUTE, Some(3));
        survey.insert(cancel(4 * MINUTE, 4), rules, Millis::MAX, &|_| true);
        assert_eq!(cancelled(&survey), None, "it had been displayed");
    }

    #[test]
    fn many_events_push_out_none_that_a_window_rests_on() {
        let two = || vec![Pattern { event: "x".into(), conditions: Vec::new() }; 2];
        let with = |pattern_mask: u32, at: Millis, offset: u64| ActivationEvent { pattern_mask, ..fact(at, offset) };
        let day = |at: Millis, _: u64| at + 1_440 * MINUTE;
        let rules_of = |activation| Rules { activation, on_repeat: OnRepeat::Refresh, end_of: &day };
        let pattern = || Pattern { event: "x".into(), conditions: Vec::new() };
        let absence = crate::survey::activation::Absence { after: pattern(), without: pattern(), span: 30 * MINUTE };
        let absence = Activation::Absence { absence };
        let mut survey = PerSurvey::default();
        survey.insert(with(1, 0, 0), rules_of(&absence), Millis::MAX, &|_| true);
        for n in 1..200 {
            survey.insert(with(2, (30 + n) * MINUTE, n as u64), rules_of(&absence), Millis::MAX, &|_| true);
        }
        assert_eq!(survey.window(rules_of(&absence), 300 * MINUTE).unwrap().by.at, 30 * MINUTE);
        let steps = crate::survey::activation::Sequence { steps: two(), within: 1_440 * MINUTE };
        let sequence = Activation::Sequence { sequence: steps };
        let mut survey = PerSurvey::default();
        survey.insert(with(1, 0, 0), rules_of(&sequence), Millis::MAX, &|_| true);
        for n in 1..200 {
            survey.insert(with(2, n * MINUTE, n as u64), rules_of(&sequence), Millis::MAX, &|_| true);
        }
        assert_eq!(survey.window(rules_of(&sequence), 300 * MINUTE).unwrap().by.at, 199 * MINUTE);
    }
}
