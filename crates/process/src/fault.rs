//! Fault injection for tests: points at which the process can be ended, and deliberate
//! bugs that the simulation must find. A release build has neither: every function here is
//! empty there, and [`ENABLED`] is false.
//!
//! `ASKWHEN_FAULT` contains rules, separated by commas, each `POINT[=DETAIL]:ACTION[:NTH]`:
//!
//! ```text
//! ASKWHEN_FAULT=sent:abort:3                    aborts at the third pass
//! ASKWHEN_FAULT=applying=events/3@17:abort      aborts at that record, always
//! ```
//!
//! `ACTION` is `abort` (as `kill -9` would), `panic`, or `hang` (the thread sleeps for
//! ever). Without `NTH` the rule acts at every pass.

/// Whether this build has fault points.
pub const ENABLED: bool = cfg!(debug_assertions);

/// Every point, in the order in which a record passes them; each is named after what has
/// just been done.
pub const POINTS: [&str; 16] = [
    "parsed",
    "written",
    "appended",
    "acked",
    "answered",
    "applying",
    "applied",
    "output",
    "outputs_acked",
    "checkpointed",
    "folding",
    "folded",
    "sent",
    "attempt_recorded",
    "next_hop_recorded",
    "listing",
];

/// Deliberate bugs, each of which the simulation must find; see `tests/sim`.
pub const MUTANTS: [&str; 12] = [
    "ack_before_sync",
    "skip_dedupe",
    "checkpoint_before_outputs",
    "forget_what_is_redone",
    "take_every_forward",
    "leave_owed_unwritten",
    "record_after_next_hop",
    "send_early",
    "erase_leaves_deliveries",
    "grant_without_asking",
    "skip_a_record_at_restart",
    "now_follows_the_wall",
];

#[cfg(not(debug_assertions))]
pub use off::{mutant, point, point_of};
#[cfg(debug_assertions)]
pub use on::{mutant, point, point_of, set_mutant};

#[cfg(not(debug_assertions))]
mod off {
    #[inline]
    pub fn point(_: &'static str) {}

    #[inline]
    pub fn point_of(_: &'static str, _: impl FnOnce() -> String) {}

    #[inline]
    pub fn mutant(_: &'static str) -> bool {
        false
    }
}

#[cfg(debug_assertions)]
mod on {
    use std::cell::Cell;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        Abort,
        Panic,
        Hang,
    }

    #[derive(Debug)]
    pub(super) struct Rule {
        pub point: String,
        pub detail: Option<String>,
        pub action: Action,
        /// At which pass it acts, from 1; 0 for every one.
        pub nth: u64,
        passed: AtomicU64,
    }

    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    /// Whether any thread has ever switched a deliberate bug on.
    static MUTATED: AtomicBool = AtomicBool::new(false);
    thread_local! {
        /// Per thread, because a simulation is one thread and others run beside it.
        static MUTANT: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    fn rules() -> &'static [Rule] {
        RULES.get_or_init(|| {
            let text = std::env::var("ASKWHEN_FAULT").unwrap_or_default();
            parse(&text).unwrap_or_else(|why| {
                // A test with a wrong rule must not pass.
                eprintln!("ASKWHEN_FAULT: {why}");
                #[expect(clippy::disallowed_methods, reason = "a test asks for it, before there is anything to lose")]
                std::process::exit(2);
            })
        })
    }

    /// Why a text is not a rule.
    #[derive(Debug, thiserror::Error)]
    pub(super) enum RuleError {
        #[error("there is no point {0:?}; the points are {points}", points = super::POINTS.join(", "))]
        UnknownPoint(String),
        #[error("{rule:?}: the action is abort, panic or hang, not {action:?}")]
        UnknownAction { rule: String, action: Option<String> },
        #[error("{rule:?}: the last part is a number")]
        NoNumber { rule: String, source: std::num::ParseIntError },
    }

    pub(super) fn parse(text: &str) -> Result<Vec<Rule>, RuleError> {
        text.split(',').filter(|rule| !rule.is_empty()).map(rule).collect()
    }

    fn rule(text: &str) -> Result<Rule, RuleError> {
        let mut parts = text.split(':');
        let (point, detail) = match parts.next().unwrap_or_default().split_once('=') {
            Some((point, detail)) => (point, Some(detail.to_owned())),
            None => (text.split(':').next().unwrap_or_default(), None),
        };
        if !super::POINTS.contains(&point) {
            return Err(RuleError::UnknownPoint(point.to_owned()));
        }
        let action = match parts.next() {
            Some("abort") => Action::Abort,
            Some("panic") => Action::Panic,
            Some("hang") => Action::Hang,
            other => {
                return Err(RuleError::UnknownAction { rule: text.to_owned(), action: other.map(str::to_owned) });
            }
        };
        let nth = parts.next().map_or(Ok(0), str::parse);
        let nth = nth.map_err(|source| RuleError::NoNumber { rule: text.to_owned(), source })?;
        Ok(Rule { point: point.to_owned(), detail, action, nth, passed: AtomicU64::new(0) })
    }

    /// A point at which a test may end the process.
    #[inline]
    pub fn point(name: &'static str) {
        pass(name, None);
    }

    /// The same as [`point`], with a detail that rules may name. The detail is only
    /// computed while a rule is set.
    #[inline]
    pub fn point_of(name: &'static str, detail: impl FnOnce() -> String) {
        if !rules().is_empty() {
            pass(name, Some(&detail()));
        }
    }

    fn pass(name: &str, detail: Option<&str>) {
        for rule in rules() {
            if rule.point != name || rule.detail.as_deref().is_some_and(|wanted| detail != Some(wanted)) {
                continue;
            }
            let passed = rule.passed.fetch_add(1, Ordering::Relaxed) + 1;
            if rule.nth != 0 && passed != rule.nth {
                continue;
            }
            match rule.action {
                // Without destructors, flushed buffers or a log line, as after a kill from
                // outside.
                Action::Abort => std::process::abort(),
                Action::Panic => panic!("a test asked for this panic at {name}"),
                Action::Hang => loop {
                    std::thread::sleep(Duration::from_secs(3_600));
                },
            }
        }
    }

    /// Whether a deliberate bug is switched on in this thread.
    #[inline]
    pub fn mutant(name: &'static str) -> bool {
        MUTATED.load(Ordering::Relaxed) && MUTANT.get() == Some(name)
    }

    /// Switches a deliberate bug on for this thread, or all off.
    ///
    /// # Panics
    /// When there is no such bug.
    pub fn set_mutant(name: Option<&'static str>) {
        assert!(name.is_none_or(|name| super::MUTANTS.contains(&name)), "{name:?} is no mutant");
        MUTATED.store(true, Ordering::Relaxed);
        MUTANT.set(name);
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::on::{Action, parse};

    #[test]
    fn rules_name_a_point_an_action_and_which_passing() {
        let rules = parse("sent:abort:3,applying=events/3@17:panic").unwrap();
        assert_eq!((&*rules[0].point, rules[0].action, rules[0].nth), ("sent", Action::Abort, 3));
        assert_eq!(
            (rules[1].detail.as_deref(), rules[1].action, rules[1].nth),
            (Some("events/3@17"), Action::Panic, 0)
        );
        for wrong in ["sant:abort", "sent", "sent:die", "sent:abort:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("").unwrap().is_empty());
    }
}
