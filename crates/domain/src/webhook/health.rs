//! The health of an endpoint. Pure: from the outcomes and times of attempts follow its
//! state, how many attempts may be in flight, and whether it is given up.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

use crate::time::{DAY, HOUR, MINUTE, Millis, SECOND};

/// Consecutive failures that make an endpoint degraded.
const DEGRADED_AFTER: usize = 3;
/// Consecutive failures within [`OPEN_WITHIN`] that open the breaker.
const OPEN_AFTER: usize = 10;
const OPEN_WITHIN: Millis = MINUTE;
/// How long the breaker stays open the first time, in milliseconds; each further time is
/// twice as long.
const OPEN_FIRST: Millis = 10 * SECOND;
const OPEN_LONGEST: Millis = 5 * MINUTE;
/// An endpoint is given up when all attempts have failed for this long, in milliseconds.
const GIVE_UP_AFTER: Millis = 5 * DAY;
/// A run of failures counts towards giving up once one of them is at least this long after
/// the first, in milliseconds.
const SURE_AFTER: Millis = 12 * HOUR;
/// Where the first failure after that time is later than this, a new run begins with it. In
/// milliseconds, longer than the day of quiet that a receiver may ask for.
const SURE_WITHIN: Millis = 2 * DAY;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Healthy,
    /// The last attempts failed; deliveries are still sent.
    Degraded,
    /// Nothing is sent until `until`.
    Open,
    /// One attempt at a time tests whether the receiver is back.
    HalfOpen,
}

impl State {
    pub const ALL: [State; 4] = [State::Healthy, State::Degraded, State::Open, State::HalfOpen];

    pub fn name(self) -> &'static str {
        match self {
            State::Healthy => "healthy",
            State::Degraded => "degraded",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// Why an endpoint is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthReason {
    Failures,
    /// The receiver asked for a pause, by 429 or `Retry-After`.
    RetryAfter,
}

impl HealthReason {
    pub fn name(self) -> &'static str {
        match self {
            HealthReason::Failures => "failures",
            HealthReason::RetryAfter => "retry_after",
        }
    }
}

/// Times in milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Health {
    pub state: State,
    pub reason: Option<HealthReason>,
    pub since: Millis,
    /// Until when the breaker is open.
    pub until: Option<Millis>,
    /// When attempts resumed after the breaker was open last: deliveries that were due
    /// before count as due then.
    pub resumed_at: Millis,
    /// How often the breaker was opened since the endpoint was healthy.
    opened: u32,
    /// When the current run of failures began.
    failing_from: Option<Millis>,
    /// Whether failures of the run are far enough apart to count towards giving up.
    failing_surely: bool,
    /// The number of attempts that may be in flight while the endpoint recovers.
    ramp: Option<u32>,
    /// Times of the latest consecutive failures.
    #[serde(skip)]
    failures: VecDeque<Millis>,
}

/// The outcome of an attempt, as far as it concerns health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthSignal {
    Success,
    Failure {
        /// The receiver asked for a pause up to then.
        hold_until: Option<Millis>,
    },
}

/// The consequence of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Whether other processes should be told.
    pub changed: bool,
    /// Whether the endpoint is to be given up.
    pub give_up: bool,
}

impl Health {
    /// The health of an endpoint that starts afresh.
    pub fn anew(now: Millis) -> Health {
        Health { since: now, ..Health::default() }
    }

    /// Applies the outcome of an attempt at `at`. Without `breaker` the endpoint is healthy
    /// or degraded and never given up.
    pub fn record(&mut self, at: Millis, signal: HealthSignal, concurrency: u32, breaker: bool) -> Verdict {
        match signal {
            HealthSignal::Success => Verdict { changed: self.succeeded(at, concurrency), give_up: false },
            HealthSignal::Failure { hold_until } => {
                self.failures.push_back(at);
                if self.failures.len() > OPEN_AFTER {
                    self.failures.pop_front();
                }
                let has_become_sure = self.count_to_give_up(at);
                let give_up = breaker
                    && self.failing_surely
                    && self.failing_from.is_some_and(|from| at.saturating_sub(from) >= GIVE_UP_AFTER);
                let changed = match hold_until.filter(|until| breaker && *until > at) {
                    Some(until) => self.hold(at, until),
                    None => self.failed(at, breaker),
                };
                Verdict { changed: changed || has_become_sure, give_up }
            }
        }
    }

    fn succeeded(&mut self, at: Millis, concurrency: u32) -> bool {
        self.failing_from = None;
        // The long run of failures has been reported; a further report has to take that
        // back.
        let was_sure = std::mem::take(&mut self.failing_surely);
        self.failures.clear();
        let changed = match self.state {
            // The attempt was started before the breaker opened.
            State::Open => false,
            State::HalfOpen => {
                self.ramp = Some(2);
                self.enter(State::Healthy, None, at);
                true
            }
            State::Healthy | State::Degraded => {
                let ramped = self.ramp.is_some();
                self.ramp = self.ramp.map(|ramp| ramp.saturating_mul(2)).filter(|ramp| *ramp < concurrency);
                if self.ramp.is_none() {
                    self.opened = 0;
                }
                let degraded = self.state == State::Degraded;
                if degraded {
                    self.enter(State::Healthy, None, at);
                }
                degraded || (ramped && self.ramp.is_none())
            }
        };
        changed || was_sure
    }

    /// Counts a failure towards giving up; returns whether the run of failures has just
    /// become long enough to count.
    fn count_to_give_up(&mut self, at: Millis) -> bool {
        let from = *self.failing_from.get_or_insert(at);
        let apart = at.saturating_sub(from);
        if self.failing_surely || apart < SURE_AFTER {
            return false;
        }
        if apart > SURE_WITHIN {
            self.failing_from = Some(at);
            return false;
        }
        self.failing_surely = true;
        true
    }

    fn failed(&mut self, at: Millis, breaker: bool) -> bool {
        let in_a_row = self.failures.len();
        let quick = in_a_row >= OPEN_AFTER && at.saturating_sub(self.failures[0]) <= OPEN_WITHIN;
        let relapse = self.state == State::HalfOpen || (self.ramp.is_some() && self.state != State::Open);
        match self.state {
            State::Open => false,
            _ if breaker && (quick || relapse) => {
                let span = (OPEN_FIRST << self.opened.min(16)).min(OPEN_LONGEST);
                self.opened = self.opened.saturating_add(1);
                self.open(at, at.saturating_add(span), HealthReason::Failures);
                true
            }
            State::Healthy if in_a_row >= DEGRADED_AFTER => {
                self.enter(State::Degraded, Some(HealthReason::Failures), at);
                true
            }
            _ => false,
        }
    }

    fn hold(&mut self, at: Millis, until: Millis) -> bool {
        let known = self.until.unwrap_or(i64::MIN);
        let longer = until > known.saturating_add(SECOND);
        let changed = longer || self.state != State::Open;
        self.open(
            at,
            until.max(known),
            if longer { HealthReason::RetryAfter } else { self.reason.unwrap_or(HealthReason::RetryAfter) },
        );
        changed
    }

    fn open(&mut self, at: Millis, until: Millis, reason: HealthReason) {
        if self.state != State::Open {
            self.enter(State::Open, Some(reason), at);
        }
        self.reason = Some(reason);
        self.until = Some(until);
        self.failures.clear();
        self.ramp = None;
    }

    fn enter(&mut self, state: State, reason: Option<HealthReason>, at: Millis) {
        (self.state, self.reason, self.since, self.until) = (state, reason, at, None);
    }

    /// Whether other processes, which know `reported`, need no new report.
    pub fn looks_like(&self, reported: &Health) -> bool {
        let look =
            |health: &Health| (health.state, health.reason, health.until, health.failing_surely, health.ramp.is_some());
        look(self) == look(reported)
    }

    /// Moves an open breaker to half open when its time has come; returns whether other
    /// processes should be told.
    pub fn tick(&mut self, now: Millis) -> bool {
        let over = self.state == State::Open && self.until.is_none_or(|until| until <= now);
        if over {
            self.enter(State::HalfOpen, self.reason, now);
            self.resumed_at = now;
        }
        over
    }

    /// How many attempts may be in flight, at most `concurrency`.
    pub fn max_in_flight(&self, concurrency: u32) -> u32 {
        match self.state {
            State::Open => 0,
            State::HalfOpen => 1,
            State::Healthy | State::Degraded => self.ramp.map_or(concurrency, |ramp| ramp.min(concurrency)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: HealthSignal = HealthSignal::Failure { hold_until: None };

    fn after(steps: &[(Millis, HealthSignal)]) -> (Health, Verdict) {
        let (mut health, mut verdict) = (Health::default(), Verdict::default());
        for (at, seen) in steps {
            health.tick(*at);
            verdict = health.record(*at, *seen, 10, true);
        }
        (health, verdict)
    }

    fn failures(every: Millis, count: i64) -> Vec<(Millis, HealthSignal)> {
        (0..count).map(|n| (n * every, FAILED)).collect()
    }

    #[test]
    fn failures_in_a_row_degrade_and_quick_ones_open() {
        assert_eq!(after(&failures(SECOND, 2)).0.state, State::Healthy);
        assert_eq!(after(&failures(SECOND, 3)).0.state, State::Degraded);
        let (health, verdict) = after(&failures(SECOND, 10));
        assert_eq!((health.state, health.until, verdict.changed), (State::Open, Some(19 * SECOND), true));
        assert_eq!(after(&failures(MINUTE, 50)).0.state, State::Degraded, "slow ones are what retries are for");
        let mut mixed = failures(SECOND, 9);
        mixed.push((9 * SECOND, HealthSignal::Success));
        mixed.extend(failures(SECOND, 2).into_iter().map(|(at, seen)| (at + 10 * SECOND, seen)));
        assert_eq!(after(&mixed).0.state, State::Healthy);
    }

    #[test]
    fn it_opens_longer_each_time_and_recovers_step_by_step() {
        let (mut health, _) = after(&failures(SECOND, 10));
        let mut spans = Vec::new();
        for _ in 0..7 {
            let at = health.until.expect("open");
            assert_eq!(health.max_in_flight(10), 0);
            assert!(!health.tick(at - 1) && health.tick(at));
            assert_eq!((health.state, health.max_in_flight(10)), (State::HalfOpen, 1));
            assert!(health.record(at, FAILED, 10, true).changed);
            spans.push((health.until.expect("open again") - at) / SECOND);
        }
        assert_eq!(spans, [20, 40, 80, 160, 300, 300, 300]);
        let at = health.until.expect("open");
        health.tick(at);
        let steps: Vec<u32> = (0..4)
            .map(|_| {
                health.record(at, HealthSignal::Success, 10, true);
                health.max_in_flight(10)
            })
            .collect();
        assert_eq!((health.state, steps), (State::Healthy, vec![2, 4, 8, 10]));
        assert_eq!(health.resumed_at, at);
        for n in 0..10 {
            health.record(at + n, FAILED, 10, true);
        }
        assert_eq!(health.until, Some(at + 9 + OPEN_FIRST), "a new stretch begins short");
    }

    #[test]
    fn a_success_takes_back_what_was_told_of_failures() {
        let mut health = Health::default();
        health.record(0, FAILED, 10, true);
        assert!(health.record(12 * HOUR, FAILED, 10, true).changed, "they lie far apart");
        let reported = health.clone();
        assert!(health.record(24 * HOUR, HealthSignal::Success, 10, true).changed);
        assert!(!health.looks_like(&reported));
        let (mut health, _) = after(&failures(SECOND, 10));
        health.tick(HOUR);
        let changes: Vec<bool> = (0..5).map(|_| health.record(HOUR, HealthSignal::Success, 10, true).changed).collect();
        assert_eq!(changes, [true, false, false, true, false], "that it is back, and that it is well");
    }

    #[test]
    fn a_wish_holds_and_is_never_shortened() {
        let hold = |until| HealthSignal::Failure { hold_until: Some(until) };
        let (mut health, _) = after(&[(0, hold(HOUR))]);
        assert_eq!((health.state, health.reason), (State::Open, Some(HealthReason::RetryAfter)));
        assert!(!health.record(SECOND, hold(MINUTE), 10, true).changed);
        assert_eq!(health.until, Some(HOUR));
        assert!(health.record(SECOND, hold(2 * HOUR), 10, true).changed);
        assert_eq!(health.until, Some(2 * HOUR));
        assert_eq!(
            Health::default().record(0, hold(HOUR), 10, false),
            Verdict::default(),
            "some policies know no wish"
        );
    }

    #[test]
    fn it_is_given_up_after_five_days_of_nothing_but_failures() {
        let when = |steps: &[(Millis, HealthSignal)]| {
            let mut health = Health::default();
            steps.iter().position(|(at, seen)| {
                health.tick(*at);
                health.record(*at, *seen, 10, true).give_up
            })
        };
        assert_eq!(when(&failures(HOUR, 200)), Some(120));
        assert_eq!(when(&[(0, FAILED), (6 * DAY, FAILED), (6 * DAY + HOUR, FAILED)]), None, "two are too few");
        let mut saved = failures(HOUR, 119);
        saved.push((119 * HOUR, HealthSignal::Success));
        saved.extend(failures(HOUR, 119).into_iter().map(|(at, seen)| (at + 120 * HOUR, seen)));
        assert_eq!(when(&saved), None, "one success and the clock starts anew");
        assert_eq!(when(&failures(DAY + MINUTE, 60)), Some(5), "once a day will do");
        let mut health = Health::default();
        assert!(failures(HOUR, 500).iter().all(|(at, seen)| !health.record(*at, *seen, 10, false).give_up));
        assert_eq!(health.state, State::Degraded);
    }
}
