//! What operators ask of the delivery: a message once more, a test. They come
//! out as deliveries like any other.

use serde_json::json;

use super::registrar::REQUEST_LIFE;
use super::remembered::ERASURE_KEPT;
use super::{Engine, outputs};
use askwhen_domain::endpoint::EventType;
use askwhen_domain::id::Kind as IdKind;
use askwhen_domain::json::Json;
use askwhen_domain::message::{Data, Delivery, Message, TESTER};
use askwhen_domain::time::Millis;
use askwhen_partition::{Answer, Effects, Failure, Moment};
use askwhen_wire::definition::Kind;

impl Engine {
    /// The same message under its own `webhook-id`, as a delivery of its own: whoever
    /// asks has named it, so that a copy of this record makes no other.
    pub(super) fn redeliver(
        &mut self,
        at: Moment<'_>,
        mut delivery: Delivery,
        (told_at, asked_at): (Millis, Millis),
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let request = format!("redeliver/{asked_at}/{}", delivery.delivery_id);
        if !self.remembered.is_new((&delivery.project, &delivery.user_id), &request, at.now)? {
            return Ok(());
        }
        let erased_at = self.remembered.erased_at(&delivery.project, &delivery.user_id, at.now)?;
        let erased = erased_at.is_some_and(|erased_at| erased_at >= told_at);
        let unknown = at.now >= told_at.saturating_add(ERASURE_KEPT);
        let refusal = if (at.now - asked_at).abs() > REQUEST_LIFE {
            Some(("overloaded", "the request is too old; send it anew"))
        } else if erased && delivery.message.kind != EventType::Erased {
            Some(("user_erased", "the user was erased since; nothing of theirs is sent again"))
        } else if unknown && delivery.message.kind != EventType::Erased {
            Some((
                "gone",
                "the message is older than 100 days: whether its user was erased since is not known any more",
            ))
        } else {
            self.refusal(&delivery.project, &delivery.endpoint_id)
        };
        if let Some((code, detail)) = refusal {
            effects.reply = Some(Answer::Refused { code: code.into(), pointer: None, detail: detail.into() });
            return Ok(());
        }
        delivery.test_for = None;
        let body = Json::of(&json!({"delivery_id": delivery.delivery_id, "message_id": delivery.message_id}));
        effects.reply = Some(Answer::Body { server: body.clone(), client: body });
        effects.outputs.push(outputs::delivery(delivery));
        Ok(())
    }

    fn refusal(&self, project: &str, endpoint_id: &str) -> Option<(&'static str, &'static str)> {
        let endpoints = self.table.definitions.project(project).map(|p| &p.endpoints);
        match endpoints.and_then(|endpoints| endpoints.get(endpoint_id)) {
            None => Some(("not_found", "there is no such endpoint any more")),
            Some(endpoint) if !endpoint.body.is_enabled() => {
                Some(("endpoint_disabled", "the endpoint is disabled: enable it first"))
            }
            Some(_) => None,
        }
    }

    /// A message that tells of nobody, to find out whether it arrives.
    pub(super) fn ping(
        &mut self,
        at: Moment<'_>,
        (project, endpoint_id, delivery_id): (&str, &str, String),
        asked_at: Millis,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let request = format!("ping/{asked_at}/{delivery_id}");
        if !self.remembered.is_new((project, endpoint_id), &request, at.now)? {
            return Ok(());
        }
        let row = self.table.row(project, Kind::Endpoint, endpoint_id);
        let known = row.is_some_and(|row| row.body.is_some());
        let reply_to = at.reply_to.and_then(|to| std::str::from_utf8(to).ok());
        let (true, Some(reply_to), true) = (known, reply_to, (at.now - asked_at).abs() <= REQUEST_LIFE) else {
            let detail = "there is no such endpoint, or the request is too old".into();
            effects.reply = Some(Answer::Refused { code: "not_found".into(), pointer: None, detail });
            return Ok(());
        };
        let natural = [project, endpoint_id, "test"];
        effects.outputs.push(outputs::delivery(Delivery {
            delivery_id,
            message_id: at.origin.id(IdKind::Message, &natural),
            endpoint_id: endpoint_id.to_owned(),
            project: project.to_owned(),
            user_id: TESTER.to_owned(),
            survey_id: None,
            created_at: at.now,
            message: Message { kind: EventType::Test, at: at.now, data: Some(Data::sample(project, at.now)) },
            test_for: Some(reply_to.to_owned()),
            not_before: None,
        }));
        Ok(())
    }
}
