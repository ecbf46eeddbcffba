//! Operators' actions on endpoints: enable, rotate the secret, test.

use serde_json::{Value, json};
use std::time::Duration;

use super::app::{App, RequestContext};
use super::fields::Fields;
use super::manage::{outcome_answer, random};
use super::problem::{Answer, Problem, json_answer};
use super::view::ListedDefinition;
use askwhen_domain::id;
use askwhen_domain::time::{self, DAY, Millis};
use askwhen_domain::webhook::endpoint::{Disabled, Profile};
use askwhen_domain::webhook::health::{Health, State};
use askwhen_domain::webhook::message::TESTER;
use askwhen_log::TopicPartition;
use askwhen_partition::EngineReply;
use askwhen_wire::definition::{Code, DefinitionRef, Kind};
use askwhen_wire::profile;
use askwhen_wire::record::{EndpointAction, EndpointCommand, Internal};
use askwhen_wire::topic::Topic;

const MAX_OVERLAP: Millis = 30 * DAY;
/// How much longer than the attempt a test may take to be reported.
const TEST_MARGIN: Duration = Duration::from_secs(3);
/// The longest timeout of an endpoint.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);

impl App {
    /// Adds the endpoint's state, its reason and time to `body`.
    pub(super) fn show_state(&self, shown: &ListedDefinition, body: &mut Value) {
        let record = &shown.record;
        let own = record.body.value();
        let disabled: Option<Disabled> = serde_json::from_value(own["disabled"].clone()).ok();
        let enabled = own["enabled"].as_bool().unwrap_or(true);
        let health = self.health(&record.project, &record.id);
        let hold = (self.find_hold)(&record.project, &record.id);
        let (state, reason, since) = match (enabled, disabled, health) {
            (true, None, _) if hold.is_some() => {
                let (reason, since) = hold.unwrap_or_default();
                (State::Open.name(), Some(reason), time::format_time(since))
            }
            (false, ..) => ("disabled", Some("manual"), record.updated_at.clone()),
            (true, Some(disabled), _) => {
                ("disabled", Some(disabled.reason.name()), time::format_time(disabled.since_ms))
            }
            (true, None, Some(health)) => {
                if let (State::Open, Some(until)) = (health.state, health.until) {
                    body["state_until"] = time::format_time(until).into();
                }
                // 0 when nothing has happened since it was created.
                let since = Some(health.since).filter(|since| *since > 0).map(time::format_time);
                let since = since.unwrap_or_else(|| record.updated_at.clone());
                (health.state.name(), health.reason.map(|reason| reason.name()), since)
            }
            (true, None, None) => (State::Healthy.name(), None, record.updated_at.clone()),
        };
        (body["state"], body["state_reason"], body["state_since"]) = (state.into(), reason.into(), since.into());
    }

    pub(super) fn health(&self, project: &str, endpoint_id: &str) -> Option<Health> {
        let shown = self.view.get(project, Kind::Health, endpoint_id)?;
        serde_json::from_str(shown.record.body.as_str()).ok()
    }

    pub(super) fn known_endpoint(&self, asked: &RequestContext<'_>) -> Result<ListedDefinition, Problem> {
        let shown = self.view.get(&asked.caller.project, Kind::Endpoint, &asked.route.parts[0]);
        shown.ok_or_else(|| Problem::not_found("there is no such endpoint"))
    }

    pub(super) async fn enable(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_members()?;
        self.operate(asked, EndpointAction::Enable, None).await
    }

    pub(super) async fn rotate_secret(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = asked.text()?;
        let mut fields = Fields::of(text, String::new());
        let given = fields.text("secret");
        let overlap = fields.text("overlap").map(|text| time::parse_duration(&text));
        let overlap = match overlap {
            None => DAY,
            Some(Ok(span)) if span <= MAX_OVERLAP => span,
            Some(_) => {
                fields.fault(Code::BadTime, "overlap", "must be a duration such as 24h, at most 30d");
                0
            }
        };
        let faults = fields.close();
        if !faults.is_empty() {
            return Err(Problem::fields(faults));
        }
        let body = self.known_endpoint(asked)?.record.body.value();
        let profile = serde_json::from_value(body["profile"].clone()).unwrap_or(Profile::Standard);
        if let Some(Err(why)) = given.as_deref().map(|secret| profile::check_secret(profile, secret)) {
            return Err(Problem::field(Code::Invalid, "/secret", format!("secret {why}")));
        }
        let made = given.is_none();
        let secret = match given {
            Some(secret) => secret,
            None => profile::new_secret(profile, &random()?),
        };
        let sealed = self.seal(asked, &asked.route.parts[0], &secret)?;
        self.operate(asked, EndpointAction::Rotate { secret: sealed, overlap }, made.then_some(secret.as_str())).await
    }

    async fn operate(
        &self,
        asked: &RequestContext<'_>,
        act: EndpointAction,
        secret: Option<&str>,
    ) -> Result<Answer, Problem> {
        let (project, endpoint_id) = (asked.caller.project.clone(), asked.route.parts[0].clone());
        let definition = DefinitionRef { project: &project, kind: Kind::Endpoint, id: &endpoint_id };
        let internal = Internal::EndpointCommand(EndpointCommand {
            project: project.clone(),
            endpoint_id: endpoint_id.clone(),
            act,
            if_match: self.if_match(asked, Kind::Endpoint, &asked.route.parts[0])?,
            asked_at: self.clock.now(),
            request_id: asked.request_id.to_owned(),
            actor: Some(asked.caller.actor.clone()),
        });
        let outcome = self.ask_registrar(definition, &internal).await?;
        self.wait_for_view(definition, false, &outcome).await;
        Ok(outcome_answer(&outcome, secret, 200))
    }

    /// Makes a single attempt at once, whatever the endpoint's state, and waits for its
    /// outcome.
    pub(super) async fn test_endpoint(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        asked.no_members()?;
        self.known_endpoint(asked)?;
        let partition = id::partition_of(TESTER, self.log.partitions());
        let (project, endpoint_id) = (asked.caller.project.clone(), asked.route.parts[0].clone());
        let delivery_id = id::delivery_by_chance(uuid::Uuid::new_v4().as_u128());
        let ping = Internal::Ping { project, endpoint_id, delivery_id, asked_at: self.clock.now() };
        let mut waiter = self.send_internal(TopicPartition { topic: Topic::Events, partition }, TESTER, &ping).await?;
        match tokio::time::timeout(LONGEST_ATTEMPT + TEST_MARGIN, waiter.next()).await {
            Ok(Some(EngineReply::Attempted { delivery_id, http_status, outcome, error })) => {
                let mut body = json!({"delivery_id": delivery_id, "http_status": http_status, "outcome": outcome});
                if let Some(error) = error {
                    body["error"] = error.into();
                }
                Ok(json_answer(200, body.to_string()))
            }
            Ok(Some(EngineReply::Refused { code, pointer, detail })) => Err(Problem::refused(&code, pointer, detail)),
            _ => {
                let detail = "the attempt was not told of in time; look at GET /v1/deliveries?user_id=askwhen-test";
                Err(Problem::later(503, "outcome_unknown", detail, Duration::from_secs(5)))
            }
        }
    }
}
