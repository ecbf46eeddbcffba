//! A request for a test delivery to an endpoint.

use crate::engine::outputs;
use crate::engine::registrar::REQUEST_LIFE;
use crate::engine::state::Engine;
use askwhen_domain::id::Kind as IdKind;
use askwhen_domain::time::Millis;
use askwhen_domain::webhook::endpoint::EventType;
use askwhen_domain::webhook::message::{Data, Delivery, Message, TESTER};
use askwhen_partition::{Effects, EngineReply, Failure, RecordContext};
use askwhen_wire::definition::Kind;

/// The endpoint, and the id of the delivery that tests it.
pub struct Ping {
    pub project: String,
    pub endpoint_id: String,
    pub delivery_id: String,
    pub asked_at: Millis,
}

/// Emits a test message, which concerns no user.
///
/// # Errors
/// When the store cannot be read.
pub fn apply(engine: &mut Engine, at: RecordContext<'_>, command: Ping) -> Result<Effects, Failure> {
    let mut effects = Effects::default();
    let Ping { project, endpoint_id, delivery_id, asked_at } = command;
    let request = format!("ping/{asked_at}/{delivery_id}");
    if !engine.remembered.is_new(&project, &endpoint_id, &request, at.now)? {
        return Ok(effects);
    }
    let row = engine.table.row(&project, Kind::Endpoint, &endpoint_id);
    let known = row.is_some_and(|row| row.body.is_some());
    let reply_to = at.reply_to.and_then(|to| std::str::from_utf8(to).ok());
    let (true, Some(reply_to), true) = (known, reply_to, (at.now - asked_at).abs() <= REQUEST_LIFE) else {
        let detail = "there is no such endpoint, or the request is too old".into();
        effects.reply = Some(EngineReply::Refused { code: "not_found".into(), pointer: None, detail });
        return Ok(effects);
    };
    let natural = [project.as_str(), endpoint_id.as_str(), "test"];
    effects.outputs.push(outputs::delivery(Delivery {
        delivery_id,
        message_id: at.origin.id(IdKind::Message, &natural),
        endpoint_id: endpoint_id.clone(),
        project: project.clone(),
        user_id: TESTER.to_owned(),
        survey_id: None,
        created_at: at.now,
        message: Message { kind: EventType::Test, at: at.now, data: Some(Data::sample(&project, at.now)) },
        test_for: Some(reply_to.to_owned()),
        not_before: None,
    }));
    Ok(effects)
}
