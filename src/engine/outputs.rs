//! Encodes the domain's outputs as records of topics, and its replies as bodies.

use serde::Serialize;
use std::cell::OnceCell;

use askwhen_domain::eligibility::apply::{self, AnswerView, ApplyContext, LinkView, OfferView};
use askwhen_domain::eligibility::decision::{self, Offered};
use askwhen_domain::id::{Kind, Origin};
use askwhen_domain::json::Json;
use askwhen_domain::survey::placeholder::TextValues;
use askwhen_domain::time;
use askwhen_domain::webhook::message::Delivery;
use askwhen_partition::{EngineReply, Output, RecordContext};
use askwhen_wire::record::EndpointHealthReport;
use askwhen_wire::topic::Topic;
use askwhen_wire::topics::{self, DeliveryRecord, DisplayRecord, RejectRecord, ResponseRecord};

/// Encodes an output. The body for server keys of the decision that the record has led to is
/// serialised once, into `decided`.
pub fn encode(ctx: ApplyContext<'_>, item: &apply::Output, decided: &OnceCell<Json>) -> Output {
    let (topic, id, value) = match item {
        apply::Output::Decision(decision) => {
            let body = decided.get_or_init(|| decision.server_body());
            (Topic::Decisions, decision.decision_id.clone(), topics::decision::encode(ctx.project_id, body))
        }
        apply::Output::Response { kind, at, data, left_behind } => (
            Topic::Responses,
            ctx.origin.id(Kind::Response, &[kind.name()]),
            topics::encode(&ResponseRecord::of(*kind, *at, data).without(left_behind)),
        ),
        apply::Output::OfferEvent(seen) => (
            Topic::Displays,
            ctx.origin.id(Kind::Display, &[seen.kind.name()]),
            topics::encode(&DisplayRecord::of(seen)),
        ),
        apply::Output::Delivery(delivery) => {
            let record = DeliveryRecord::Deliver(delivery.clone());
            (Topic::Deliveries, delivery.delivery_id.clone(), topics::encode(&record))
        }
        apply::Output::CancelDeliveries => {
            let (project, user_id) = (ctx.project_id.to_owned(), ctx.user_id.to_owned());
            let record = DeliveryRecord::CancelUser { project, user_id };
            (Topic::Deliveries, ctx.origin.id(Kind::Delivery, &["cancel_user"]), topics::encode(&record))
        }
    };
    // Records about an anonymous response must not have the user's id as their key.
    let user_id = match item {
        apply::Output::Response { data, .. } => &data.user_id,
        apply::Output::Delivery(delivery) => &delivery.user_id,
        _ => ctx.user_id,
    };
    Output { topic, key: Some(user_id.to_owned().into()), id, value: Some(value.into()) }
}

/// A delivery for an endpoint.
pub fn delivery(delivery: Delivery) -> Output {
    let (id, key) = (delivery.delivery_id.clone(), delivery.user_id.clone());
    let record = DeliveryRecord::Deliver(Box::new(delivery));
    Output { topic: Topic::Deliveries, key: Some(key.into()), id, value: Some(topics::encode(&record).into()) }
}

/// The health of an endpoint, for topic `deliveries`.
pub fn health(at: RecordContext<'_>, health: EndpointHealthReport) -> Option<Output> {
    let EndpointHealthReport { project, endpoint_id, health, by, seq, .. } = health;
    let id = at.origin.id(Kind::Definition, &[&project, &endpoint_id, "health"]);
    let key = Some(endpoint_id.clone().into());
    let record = DeliveryRecord::Health { project, endpoint_id, seq: seq?, by, health };
    Some(Output { topic: Topic::Deliveries, key, id, value: Some(topics::encode(&record).into()) })
}

/// What nobody is told by a reply, as a reject: the refusal of a record, or a part of it.
pub fn unheard_refusal(at: RecordContext<'_>, reason: &str, detail: &str, raw: &Json) -> Output {
    let Origin { partition, offset, .. } = at.origin;
    let raw = raw.as_str().as_bytes();
    let value = topics::encode(&RejectRecord::of(Topic::Events, partition, offset, reason, detail, raw));
    let id = at.origin.id(Kind::Reject, &[]);
    Output { topic: Topic::Rejects, key: None, id, value: Some(value.into()) }
}

#[derive(Serialize)]
struct OfferBody<'a> {
    offer_id: &'a str,
    survey: &'a Offered,
    displayed_at: Option<String>,
    dismissed_at: Option<String>,
    completed: bool,
    answers: Vec<AnswerBody<'a>>,
}

#[derive(Serialize)]
struct AnswerBody<'a> {
    question_id: &'a str,
    value: &'a Json,
    answered_at: String,
    duration_ms: Option<u64>,
    /// Present, and `false`, where the path does not lead through its question.
    #[serde(skip_serializing_if = "Option::is_none")]
    on_path: Option<bool>,
}

/// The bodies of a decision, of which only the one for server keys is stored.
pub fn decision_bodies(server: Json, exposed: Option<&Json>) -> EngineReply {
    let client = decision::client_body(&server, exposed);
    EngineReply::Body { server, client }
}

pub fn offer_bodies(view: OfferView) -> EngineReply {
    let body = |offered: &Offered, answers: &[AnswerView]| {
        Json::of(&OfferBody {
            offer_id: &offered.offer_id,
            survey: offered,
            displayed_at: view.displayed_at.map(time::format_time),
            dismissed_at: view.dismissed_at.map(time::format_time),
            completed: view.completed,
            answers: answers
                .iter()
                .map(|view| AnswerBody {
                    question_id: &view.question_id,
                    value: &view.answer.value,
                    answered_at: time::format_time(view.answer.answered_at),
                    duration_ms: view.answer.duration_ms,
                    on_path: (!view.on_path).then_some(false),
                })
                .collect(),
        })
    };
    // Answers to an anonymous survey are shown to the user's own device only.
    let seen = if view.offered.anonymous { &[][..] } else { &view.answers };
    EngineReply::Body {
        server: body(&view.offered, seen),
        client: body(&view.offered.clone().for_client(), &view.answers),
    }
}

pub fn link_body(view: &LinkView) -> EngineReply {
    let survey = &view.survey;
    let values = TextValues { expose: &survey.expose, activation: None, attributes: &view.attributes };
    let localized = survey.localized(view.locale.as_deref()).filled(values);
    let body = Json::of(&localized.shown(&view.survey, view.version));
    EngineReply::Body { server: body.clone(), client: body }
}
