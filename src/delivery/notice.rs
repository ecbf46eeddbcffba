//! What the delivery logs and counts. Whoever decides gives these back; whoever
//! acts publishes them.

use super::hold::HoldReason;
use askwhen_domain::endpoint::DisabledReason;
use askwhen_domain::health::State;
use askwhen_domain::time::Millis;
use askwhen_wire::topics::Outcome;

/// Which endpoint a notice is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointName {
    pub project: String,
    pub endpoint_id: String,
}

#[derive(Debug, Clone)]
pub enum Notice {
    /// An attempt begins so long after it was due, in milliseconds.
    Started {
        lag_ms: Millis,
    },
    Attempted {
        outcome: Outcome,
        duration_ms: u64,
    },
    /// A delivery has arrived so long after it was due, in milliseconds.
    Delivered {
        latency_ms: Millis,
    },
    Dead {
        reason: &'static str,
    },
    /// So many deliveries of an endpoint were given up since it was last said.
    GivenUp {
        endpoint: EndpointName,
        reason: &'static str,
        count: u64,
    },
    /// A definition has put an endpoint out of use.
    Disabled {
        endpoint: EndpointName,
        version: u64,
    },
    /// The registrar is asked to put an endpoint out of use.
    Ending {
        endpoint: EndpointName,
        reason: DisabledReason,
    },
    /// An endpoint's health is another than was reported last.
    Health {
        endpoint: EndpointName,
        state: State,
        reason: Option<&'static str>,
    },
    Held {
        endpoint: EndpointName,
        reason: HoldReason,
    },
    HoldOver {
        endpoint: EndpointName,
    },
    /// The log would not take a record.
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
            Notice::Health { endpoint, state, reason } => {
                log_health(endpoint, *state, *reason);
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

fn log_health(EndpointName { project, endpoint_id }: &EndpointName, state: State, reason: Option<&'static str>) {
    let name = state.name();
    match state {
        State::Open => tracing::warn!(
            project,
            endpoint_id,
            state = name,
            reason,
            "nothing is sent to an endpoint for now: see its newest attempts, and whether it runs"
        ),
        _ => tracing::info!(project, endpoint_id, state = name, reason, "how an endpoint fares has changed"),
    }
}

/// What lies before its time lies no time behind it.
fn seconds(span: Millis) -> f64 {
    span.max(0) as f64 / 1_000.0
}
