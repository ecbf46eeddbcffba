//! What follows from the result of an attempt, for its delivery and for its endpoint.

use crate::delivery::attempt::AttemptResult;
use crate::delivery::endpoints::OpenedEndpoint;
use crate::delivery::fold::PendingDelivery;
use askwhen_domain::time::{MINUTE, Millis};
use askwhen_domain::webhook::endpoint::DisabledReason;
use askwhen_domain::webhook::health::HealthSignal;
use askwhen_domain::webhook::retry::{self, End, Failed};
use askwhen_wire::topics::Outcome;

/// The longest pause of an endpoint that answers 429 without `Retry-After`.
const DEFAULT_PAUSE: Millis = MINUTE;

/// The endpoint of an attempt that is over.
pub struct EndpointFacts<'a> {
    pub defined: Option<&'a OpenedEndpoint>,
    /// Whether its definition cannot be read by this version.
    pub is_unreadable: bool,
    /// When it was last tried again after its breaker was open.
    pub resumed_at: Millis,
}

/// What an attempt shows of its endpoint.
pub enum HealthFinding {
    /// The receiver asks for no more webhooks.
    End(DisabledReason),
    Signal(HealthSignal),
}

/// When a failed delivery is tried again, or why not.
pub fn next(
    row: &PendingDelivery,
    result: &AttemptResult,
    first_started_at: Millis,
    endpoint: &EndpointFacts,
) -> Result<Millis, &'static str> {
    let Some(defined) = endpoint.defined else {
        // Nothing is sent before its definition can be read again.
        let is_held = endpoint.is_unreadable;
        return if is_held { Ok(result.ended_at.saturating_add(MINUTE)) } else { Err("endpoint_removed") };
    };
    let attempt = (row.attempt + 1).saturating_sub(row.uncounted);
    let policy = &defined.endpoint.retry;
    if policy.breaker && result.http_status == Some(410) {
        return Err("terminal_status");
    }
    let due_at = match attempt {
        1 => result.started_at,
        // A delivery that was due while the breaker was open counts as due when the
        // endpoint was tried again.
        _ => row.due_at.max(endpoint.resumed_at.min(result.started_at)),
    };
    let failed = Failed {
        delivery_id: &row.delivery.delivery_id,
        attempt,
        first_started_at,
        due_at,
        ended_at: result.ended_at,
        status: result.http_status,
        // With a breaker the whole endpoint is held that long, this delivery included. When
        // the hold ends sooner, the delivery goes sooner, too.
        retry_after: result.retry_after.filter(|_| !policy.breaker),
    };
    retry::next(policy, failed).map_err(|end| match end {
        End::AttemptsExhausted => "attempts_exhausted",
        End::MaxAge => "max_age",
        End::TerminalStatus => "terminal_status",
    })
}

/// What an attempt shows of its endpoint, if anything. `next_due_at` is when the delivery
/// is tried again.
pub fn health(
    row: &PendingDelivery,
    result: &AttemptResult,
    defined: &OpenedEndpoint,
    next_due_at: Option<Millis>,
) -> Option<HealthFinding> {
    let policy = &defined.endpoint.retry;
    // The result of a test goes to its operator alone; that of another version says
    // nothing about the version in force.
    if row.delivery.test_for.is_some() || result.version != defined.version {
        return None;
    }
    if policy.breaker && (result.disable || result.http_status == Some(410)) {
        return Some(HealthFinding::End(DisabledReason::Gone));
    }
    let signal = match result.outcome {
        Outcome::Delivered => HealthSignal::Success,
        // Not the receiver's fault.
        Outcome::ProxyFailed | Outcome::NotSent => return None,
        _ => {
            let wish = policy.retry_after_max.and_then(|most| Some(result.retry_after?.min(most)));
            let hold_until = match (wish, result.http_status, next_due_at) {
                (Some(wish), ..) => Some(result.ended_at.saturating_add(wish)),
                (None, Some(429), Some(due)) if policy.retry_after_max.is_some() => {
                    Some(due.min(result.ended_at.saturating_add(DEFAULT_PAUSE)))
                }
                _ => None,
            };
            HealthSignal::Failure { hold_until }
        }
    };
    Some(HealthFinding::Signal(signal))
}
