//! When a failed delivery is tried again. Pure: a policy, the failure and the times so far
//! give the next due time or the end.

use serde::{Deserialize, Serialize};

use crate::time::{DAY, HOUR, MINUTE, Millis, SECOND};

/// The HTTP statuses that count as success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Success {
    #[serde(rename = "2xx")]
    Any2xx,
    #[serde(rename = "200")]
    Only200,
}

impl Success {
    pub fn takes(self, status: u16) -> bool {
        match self {
            Success::Any2xx => (200..300).contains(&status),
            Success::Only200 => status == 200,
        }
    }
}

/// How the intervals between attempts grow, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Intervals {
    /// One after the other; after the last the delivery ends.
    Schedule(Vec<Millis>),
    Fixed(Millis),
    Exponential {
        base: Millis,
        factor: f64,
        cap: Millis,
    },
}

/// A complete policy; all durations in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub intervals: Intervals,
    /// 0.2 varies every interval by ±20 %.
    pub jitter: f64,
    pub max_attempts: Option<u32>,
    /// How long after the start of the first attempt the last one may be due, that time
    /// included.
    pub max_age: Option<Millis>,
    pub success: Success,
    pub terminal_status: Vec<u16>,
    /// The longest `Retry-After` that is followed; `None` ignores the header.
    pub retry_after_max: Option<Millis>,
    /// Whether the endpoint's health can hold deliveries back, and whether the receiver can
    /// disable the endpoint.
    pub breaker: bool,
    pub connect_timeout: Millis,
    pub timeout: Millis,
}

impl Policy {
    /// The default: retries after 5s 5m 30m 2h 5h 10h 10h, each ±20 %.
    pub fn standard(timeout: Millis) -> Policy {
        let delays = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR];
        Policy {
            intervals: Intervals::Schedule(delays.to_vec()),
            jitter: 0.2,
            max_attempts: None,
            max_age: None,
            success: Success::Any2xx,
            terminal_status: vec![410],
            retry_after_max: Some(DAY),
            breaker: true,
            connect_timeout: 3 * SECOND,
            timeout,
        }
    }

    /// The default of the profile `1flow`: every 60 minutes for at most 3 days; only 200
    /// within 10 s is a success.
    pub fn one_flow() -> Policy {
        Policy {
            intervals: Intervals::Fixed(HOUR),
            jitter: 0.0,
            max_attempts: None,
            max_age: Some(3 * DAY),
            success: Success::Only200,
            terminal_status: Vec::new(),
            retry_after_max: None,
            breaker: false,
            connect_timeout: 3 * SECOND,
            timeout: 10 * SECOND,
        }
    }

    pub fn succeeded(&self, status: u16) -> bool {
        self.success.takes(status)
    }
}

/// A failed attempt, and those before it.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    pub delivery_id: &'a str,
    /// 1 for the first.
    pub attempt: u32,
    pub first_started_at: Millis,
    /// When this attempt was due; for the first its start.
    pub due_at: Millis,
    pub ended_at: Millis,
    pub status: Option<u16>,
    /// The wait that the receiver asked for, in milliseconds.
    pub retry_after: Option<Millis>,
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    AttemptsExhausted,
    MaxAge,
    TerminalStatus,
}

/// When the next attempt is due, or why there is none.
pub fn next(policy: &Policy, failed: Failed<'_>) -> Result<Millis, End> {
    if failed.status.is_some_and(|status| policy.terminal_status.contains(&status)) {
        return Err(End::TerminalStatus);
    }
    if policy.max_attempts.is_some_and(|max| failed.attempt >= max) {
        return Err(End::AttemptsExhausted);
    }
    let plain = match &policy.intervals {
        Intervals::Schedule(delays) => *delays.get(failed.attempt as usize - 1).ok_or(End::AttemptsExhausted)?,
        Intervals::Fixed(interval) => *interval,
        Intervals::Exponential { base, factor, cap } => {
            let grown = *base as f64 * factor.powi(failed.attempt.min(1_000) as i32 - 1);
            grown.min(*cap as f64) as Millis
        }
    };
    // No interval exceeds a day.
    let interval = (plain + jitter(policy.jitter, plain, failed.delivery_id, failed.attempt)).min(DAY);
    let asked = match (policy.retry_after_max, failed.retry_after) {
        (Some(max), Some(wish)) => failed.ended_at.saturating_add(wish.clamp(0, max)),
        _ => failed.ended_at,
    };
    let due_at = failed.due_at.saturating_add(interval).max(asked);
    match policy.max_age {
        Some(max_age) if due_at > failed.first_started_at.saturating_add(max_age) => Err(End::MaxAge),
        _ => Ok(due_at),
    }
}

/// A deterministic part of the interval between −`share` and +`share`: a hash of delivery
/// and attempt.
fn jitter(share: f64, interval: Millis, delivery_id: &str, attempt: u32) -> Millis {
    if share == 0.0 {
        return 0;
    }
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(delivery_id.as_bytes(), u64::from(attempt));
    let unit = (hash >> 11) as f64 / (1u64 << 53) as f64;
    (interval as f64 * share * (2.0 * unit - 1.0)) as Millis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(attempt: u32, due_at: Millis) -> Failed<'static> {
        Failed {
            delivery_id: "dlv_1",
            attempt,
            first_started_at: 0,
            due_at,
            ended_at: due_at,
            status: Some(500),
            retry_after: None,
        }
    }

    fn walk(policy: &Policy) -> (Vec<Millis>, End) {
        let mut due = vec![0];
        loop {
            match next(policy, failed(due.len() as u32, *due.last().unwrap())) {
                Ok(at) => due.push(at),
                Err(end) => return (due, end),
            }
        }
    }

    #[test]
    fn one_flow_is_called_73_times() {
        let (due, end) = walk(&Policy::one_flow());
        assert_eq!(due, (0..73).map(|n| n * HOUR).collect::<Vec<_>>());
        assert_eq!(end, End::MaxAge);
    }

    #[test]
    fn standard_keeps_its_schedule_within_its_jitter() {
        let (due, end) = walk(&Policy::standard(15 * SECOND));
        let plain = [5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 10 * HOUR];
        assert_eq!(due.len(), 8);
        assert_eq!(end, End::AttemptsExhausted);
        for (pair, plain) in due.windows(2).zip(plain) {
            let interval = (pair[1] - pair[0]) as f64;
            assert!((0.8..=1.2).contains(&(interval / plain as f64)), "{interval} for {plain}");
        }
        assert_eq!(walk(&Policy::standard(15 * SECOND)).0, due, "jitter is a hash, not a die");
    }

    #[test]
    fn exponential_grows_to_its_cap() {
        let policy = Policy {
            intervals: Intervals::Exponential { base: SECOND, factor: 2.0, cap: 5 * SECOND },
            jitter: 0.0,
            max_attempts: Some(5),
            ..Policy::one_flow()
        };
        assert_eq!(walk(&policy).0, [0, 1_000, 3_000, 7_000, 12_000]);
    }

    #[test]
    fn never_sooner_than_the_end_and_a_wish_is_capped() {
        let policy = Policy { jitter: 0.0, ..Policy::standard(15 * SECOND) };
        let slow = Failed { ended_at: 14 * SECOND, ..failed(1, 0) };
        assert_eq!(next(&policy, slow), Ok(14 * SECOND));
        let wish = Failed { retry_after: Some(3_650 * DAY), ..failed(1, 0) };
        assert_eq!(next(&policy, wish), Ok(DAY));
        let gone = Failed { status: Some(410), ..failed(1, 0) };
        assert_eq!(next(&policy, gone), Err(End::TerminalStatus));
    }
}
