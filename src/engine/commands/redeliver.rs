//! A request to send a message again, under the same message id, as a delivery whose id the
//! request names.

use serde_json::json;

use crate::engine::outputs;
use crate::engine::registrar::REQUEST_LIFE;
use crate::engine::remembered::ERASURE_KEPT;
use crate::engine::state::Engine;
use askwhen_domain::json::Json;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::Delivery;
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};

/// The message that is sent again.
pub struct Redelivery {
    pub delivery: Delivery,
    /// When the message was first emitted: an erasure since then forbids it.
    pub told_at: Millis,
    pub asked_at: Millis,
}

/// Emits the message again as a delivery of its own. The request names the delivery's id,
/// so that a copy of this record makes no other.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: Redelivery) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    let Redelivery { mut delivery, told_at, asked_at } = command;
    let request = format!("redeliver/{asked_at}/{}", delivery.delivery_id);
    if !engine.remembered.is_new(&delivery.project, &delivery.user_id, &request, at.now)? {
        return Ok(effects);
    }
    let erased_at = engine.remembered.erased_at(&delivery.project, &delivery.user_id, at.now)?;
    let erased = erased_at.is_some_and(|erased_at| erased_at >= told_at);
    let unknown = at.now >= told_at.saturating_add(ERASURE_KEPT);
    // Neither does the closing of a survey concern a user.
    let tells_erasure = matches!(delivery.message.kind, EventType::Erased | EventType::Closed);
    let refusal = if (at.now - asked_at).abs() > REQUEST_LIFE {
        Some(("overloaded", "the request is too old; send it anew"))
    } else if erased && !tells_erasure {
        Some(("user_erased", "the user was erased since; nothing of theirs is sent again"))
    } else if unknown && !tells_erasure {
        Some(("gone", "the message is older than 100 days: whether its user was erased since is not known any more"))
    } else {
        refusal(engine, &delivery.project, &delivery.endpoint_id)
    };
    if let Some((code, detail)) = refusal {
        effects.reply = Some(EngineReply::Refused { code: code.into(), pointer: None, detail: detail.into() });
        return Ok(effects);
    }
    delivery.test_for = None;
    let body = Json::of(&json!({"delivery_id": delivery.delivery_id, "message_id": delivery.message_id}));
    effects.reply = Some(EngineReply::Body { server: body.clone(), client: body });
    effects.outputs.push(outputs::delivery(delivery));
    Ok(effects)
}

fn refusal(engine: &Engine, project: &str, endpoint_id: &str) -> Option<(&'static str, &'static str)> {
    let endpoints = engine.table.definitions.project(project).map(|p| &p.endpoints);
    match endpoints.and_then(|endpoints| endpoints.get(endpoint_id)) {
        None => Some(("not_found", "there is no such endpoint any more")),
        Some(endpoint) if !endpoint.body.is_enabled() => {
            Some(("endpoint_disabled", "the endpoint is disabled: enable it first"))
        }
        Some(_) => None,
    }
}
