//! What the delivery logs and counts. The scheduler returns notices as effects, and the
//! loop publishes them.

use super::hold::HoldReason;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::DisabledReason;
use askwhen_domain::webhook::health::State;
use askwhen_wire::topics::Outcome;

/// The endpoint that a notice is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointName {
    pub project: String,
    pub endpoint_id: String,
}

/// Failed attempts since the last that was no failure.
#[derive(Debug, Clone, Default)]
pub struct FailureRow {
    pub count: u64,
    /// How the latest of them ended.
    pub latest: Option<(Outcome, Option<u16>)>,
}

#[derive(Debug, Clone)]
pub enum Notice {
    /// An attempt begins, this long after it was due.
    Started {
        lag_ms: Millis,
    },
    Attempted {
        outcome: Outcome,
        duration_ms: u64,
    },
    /// A delivery has arrived, this long after it was due.
    Delivered {
        latency_ms: Millis,
    },
    Dead {
        reason: &'static str,
    },
    /// Deliveries of an endpoint that were given up since that was last logged.
    GivenUp {
        endpoint: EndpointName,
        reason: &'static str,
        count: u64,
    },
    /// A definition has disabled an endpoint.
    Disabled {
        endpoint: EndpointName,
        version: u64,
    },
    /// The registrar is asked to disable an endpoint.
    Ending {
        endpoint: EndpointName,
        reason: DisabledReason,
    },
    /// The health of an endpoint has changed since it was last reported.
    Health {
        endpoint: EndpointName,
        state: State,
        reason: Option<&'static str>,
        failures: FailureRow,
    },
    Held {
        endpoint: EndpointName,
        reason: HoldReason,
    },
    HoldOver {
        endpoint: EndpointName,
    },
    /// The log has refused a record.
    NotWritten(askwhen_log::Error),
}

impl Notice {
    pub fn publish(&self) {
        let metrics = askwhen_process::metrics::get();
        match self {
            Notice::Started { lag_ms } => metrics.delivery_due_lag_seconds.observe(seconds(*lag_ms)),
            Notice::Attempted { outcome, duration_ms } => {
                metrics.delivery_attempts.with_label_values(&[outcome.name()]).inc();
                metrics.delivery_attempt_seconds.observe(*duration_ms as f64 / 1_000.0);
            }
            Notice::Delivered { latency_ms } => metrics.delivery_latency_seconds.observe(seconds(*latency_ms)),
            Notice::Dead { reason } => metrics.delivery_dead.with_label_values(&[reason]).inc(),
            Notice::NotWritten(error) => {
                tracing::warn!(%error, "the outcome of an attempt cannot be written down yet");
            }
            Notice::Disabled { endpoint: EndpointName { project, endpoint_id }, version } => {
                tracing::info!(project, endpoint_id, version, "nothing is sent to an endpoint any more");
                metrics.delivery_transitions.with_label_values(&["disabled"]).inc();
            }
            Notice::Health { endpoint, state, reason, failures } => {
                log_health(endpoint, *state, *reason, failures);
                metrics.delivery_transitions.with_label_values(&[state.name()]).inc();
            }
            Notice::GivenUp { endpoint: EndpointName { project, endpoint_id }, reason, count } => tracing::warn!(
                project,
                endpoint_id,
                reason,
                count,
                "deliveries are given up: see their attempts, mend the receiver, then `askwhen deliveries recover`"
            ),
            Notice::Ending { endpoint: EndpointName { project, endpoint_id }, reason } => {
                tracing::warn!(project, endpoint_id, reason = reason.name(), "an endpoint is given up");
            }
            Notice::Held { endpoint: EndpointName { project, endpoint_id }, reason } => tracing::warn!(
                project,
                endpoint_id,
                reason = reason.name(),
                advice = reason.advice(),
                "nothing can be sent to an endpoint: its deliveries wait"
            ),
            Notice::HoldOver { endpoint: EndpointName { project, endpoint_id } } => {
                tracing::info!(project, endpoint_id, "an endpoint's deliveries go on");
            }
        }
    }
}

fn log_health(
    EndpointName { project, endpoint_id }: &EndpointName,
    state: State,
    reason: Option<&'static str>,
    FailureRow { count, latest }: &FailureRow,
) {
    let name = state.name();
    let status = latest.and_then(|(_, status)| status);
    let outcome = latest.map(|(outcome, _)| outcome.name());
    match state {
        State::Open => tracing::warn!(
            project,
            endpoint_id,
            state = name,
            reason,
            failures = count,
            outcome,
            status,
            "nothing is sent to an endpoint for now: see its newest attempts, and whether it runs"
        ),
        _ => tracing::info!(project, endpoint_id, state = name, reason, "how an endpoint fares has changed"),
    }
}

/// A span in seconds. An attempt before its due time is no time late.
fn seconds(span: Millis) -> f64 {
    span.max(0) as f64 / 1_000.0
}
