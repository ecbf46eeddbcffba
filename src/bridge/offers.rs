//! Routes of apps: triggers, displays, dismissals, answers and links; and users'
//! attributes.

use serde_json::json;
use serde_json::value::RawValue;

use super::app::{App, RequestContext};
use super::auth::Kind;
use super::fields::Fields;
use super::ingest::{context, event_id, idempotency_key, times};
use super::links::ANONYMOUS_PREFIX;
use super::problem::{Answer, Problem, json_answer};
use super::routes::Name;
use askwhen_domain::json::Json;
use askwhen_domain::record::{Answers, Body, GivenAnswer, Record, Target};
use askwhen_domain::time::ClientTimes;
use askwhen_domain::user::MAX_ATTRIBUTES_BYTES;
use askwhen_partition::EngineReply;
use askwhen_wire::definition::{Code, Fault};
use askwhen_wire::json;
use askwhen_wire::record::{self, AliasRequest, Erase, Internal, MAX_ANSWERS, MAX_EVENT_BYTES, MAX_PROPERTIES, Query};

impl App {
    pub(super) async fn user_trigger(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = if asked.body.is_empty() { "{}" } else { json::check(&asked.body).map_err(Problem::json)? };
        if text.len() > MAX_EVENT_BYTES {
            return Err(Problem::new(413, "event_too_large", "a trigger may have at most 32 KiB"));
        }
        let mut fields = Fields::of_client(text);
        let properties = fields.object("properties", MAX_PROPERTIES);
        let context = context(&mut fields);
        let event_id = event_id(&mut fields, idempotency_key(asked.headers)?);
        let times = times(&mut fields, self.clock.now());
        refuse(fields.close())?;
        let trigger = (&*asked.route.parts[1]).into();
        let body = Body::Trigger { trigger, properties, context };
        self.ask_about(asked, Some(&event_id), times, body).await
    }

    pub(super) async fn seen(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = if asked.body.is_empty() { "{}" } else { json::check(&asked.body).map_err(Problem::json)? };
        let mut fields = Fields::of_client(text);
        let times = times(&mut fields, self.clock.now());
        let ask_again_in =
            if asked.route.name == Name::Dismissed { fields.positive_duration("ask_again_in") } else { None };
        refuse(fields.close())?;
        let offer_id = (&*asked.route.parts[1]).into();
        let body = match asked.route.name {
            Name::Displayed => Body::Displayed { offer_id },
            _ => Body::Dismissed { offer_id, ask_again_in },
        };
        self.ask_about(asked, None, times, body).await
    }

    pub(super) async fn answers(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = json::check(&asked.body).map_err(Problem::json)?;
        let mut fields = Fields::of_client(text);
        let (answers, completed, times) = read_answers(&mut fields, self.clock.now());
        refuse(fields.close())?;
        let target = Target::Offer(asked.route.parts[1].clone());
        let body = Body::Answers(Answers { target, answers, completed, context: Default::default() });
        self.ask_about(asked, None, times, body).await
    }

    pub(super) async fn link_responses(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = json::check(&asked.body).map_err(Problem::json)?;
        let mut fields = Fields::of_client(text);
        let (answers, completed, times) = read_answers(&mut fields, self.clock.now());
        let context = context(&mut fields);
        let response_id = fields.id("response_id");
        let single_use = self.single_use(asked, &mut fields)?;
        refuse(fields.close())?;
        let target = Target::Link { survey_id: asked.route.parts[1].clone(), response_id, single_use };
        let body = Body::Answers(Answers { target, answers, completed, context });
        self.ask_about(asked, None, times, body).await
    }

    pub(super) async fn offer(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        self.query(asked, Some(asked.route.parts[1].clone()), None).await
    }

    /// The user's state, read in the journal's order.
    pub(super) async fn user(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        self.query(asked, None, None).await
    }

    /// Erases a user, and waits until the engine has done it or time is up. The request is
    /// durable by then, so later requests of the user find nothing of before.
    pub(super) async fn erase(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let user_id = asked.route.parts[0].clone();
        let (project, asked_at) = (asked.caller.project.clone(), self.clock.now());
        let request_id = asked.request_id.to_owned();
        let erase = Internal::Erase(Erase { project, user_id: user_id.clone(), asked_at, request_id });
        let reply = self.ask_internal(self.journal_of(&user_id), &user_id, &erase).await?;
        if let Some(EngineReply::Refused { code, pointer, detail }) = reply {
            return Err(Problem::refused(&code, pointer, detail));
        }
        Ok(json_answer(202, json!({"user_id": user_id, "status": "accepted"}).to_string()))
    }

    /// Makes another name an alias of the user, with everything that is known under it.
    pub(super) async fn alias(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        // Taking over another user's state needs an identity, also for users who are
        // otherwise exempt.
        self.auth.identified(&asked.caller, asked.headers, &asked.route.parts[0])?;
        let text = json::check(&asked.body).map_err(Problem::json)?;
        let mut fields = Fields::of_client(text);
        let alias = fields.required_id("alias");
        let user_id = asked.route.parts[0].clone();
        if fields.has("alias") && alias == user_id {
            fields.fault(Code::Invalid, "alias", "must be another id than the user's own");
        }
        // The right to speak for one user is not one to speak for another.
        let is_client = asked.caller.kind == Kind::Client;
        if is_client && !alias.starts_with(ANONYMOUS_PREFIX) && fields.faults.is_empty() {
            fields.fault(Code::Invalid, "alias", "must begin with anon- when a client key asks");
        }
        refuse(fields.close())?;
        let (project, asked_at) = (asked.caller.project.clone(), self.clock.now());
        let request_id = asked.request_id.to_owned();
        let request = AliasRequest { project, user_id: user_id.clone(), alias, asked_at, request_id };
        let reply = self.ask_internal(self.journal_of(&user_id), &user_id, &Internal::Alias(request)).await?;
        answer(reply, asked.caller.kind, None)
    }

    pub(super) async fn link_survey(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        self.query(asked, None, Some(asked.route.parts[1].clone())).await
    }

    async fn query(
        &self,
        asked: &RequestContext<'_>,
        offer_id: Option<String>,
        survey_id: Option<String>,
    ) -> Result<Answer, Problem> {
        let (project, user_id) = (asked.caller.project.clone(), asked.route.parts[0].clone());
        let query = Query { project, user_id, offer_id, survey_id, link_id: None };
        answer(self.read_user(query).await?, asked.caller.kind, None)
    }

    /// The user's state from the engine, or that it has not answered in time.
    pub(super) async fn show_user(&self, project: &str, user_id: &str) -> Result<Option<EngineReply>, Problem> {
        let (project, user_id) = (project.to_owned(), user_id.to_owned());
        self.read_user(Query { project, user_id, offer_id: None, survey_id: None, link_id: None }).await
    }

    async fn read_user(&self, query: Query) -> Result<Option<EngineReply>, Problem> {
        let user_id = query.user_id.clone();
        let at = self.journal_of(&user_id);
        self.ask_internal(at, &user_id, &Internal::Query(query)).await
    }

    async fn ask_about(
        &self,
        asked: &RequestContext<'_>,
        event_id: Option<&str>,
        times: ClientTimes,
        body: Body<'_>,
    ) -> Result<Answer, Problem> {
        let user_id = &asked.route.parts[0];
        let record = Record {
            project: (&*asked.caller.project).into(),
            user_id: user_id.into(),
            event_id: event_id.map(Into::into),
            times,
            body,
        };
        let reply = self.ask(user_id, record::encode(&record), event_id).await?;
        answer(reply, asked.caller.kind, event_id)
    }

    pub(super) async fn attributes(&self, asked: &RequestContext<'_>) -> Result<Answer, Problem> {
        let text = json::check(&asked.body).map_err(Problem::json)?;
        let mut fields = Fields::of(text, String::new());
        let given = fields.object("attributes", MAX_PROPERTIES);
        if !fields.has("attributes") {
            fields.fault(Code::MissingField, "attributes", "is required");
        }
        if given.len() > MAX_ATTRIBUTES_BYTES {
            fields.fault(Code::Invalid, "attributes", "must have at most 32 KiB");
        }
        refuse(fields.close())?;
        let members = Fields::of(given, "/attributes".into());
        let merge =
            members.members().iter().map(|(name, raw)| (name.to_string(), Json::from_valid(raw.get()))).collect();
        let user_id = &asked.route.parts[0];
        let record = Record {
            project: (&*asked.caller.project).into(),
            user_id: user_id.into(),
            event_id: None,
            times: ClientTimes { received_at: Some(self.clock.now()), ..ClientTimes::default() },
            body: Body::Attributes(merge),
        };
        // Only the engine knows whether the merged attributes are too large.
        if let Some(EngineReply::Refused { code, pointer, detail }) =
            self.ask(user_id, record::encode(&record), None).await?
        {
            return Err(Problem::refused(&code, pointer.or(Some("/attributes".into())), detail));
        }
        Ok(json_answer(202, json!({"user_id": user_id, "status": "accepted"}).to_string()))
    }
}

fn refuse(faults: Vec<Fault>) -> Result<(), Problem> {
    if faults.is_empty() { Ok(()) } else { Err(Problem::fields(faults)) }
}

/// The engine's answer as a response, or that there is none yet.
fn answer(reply: Option<EngineReply>, kind: Kind, event_id: Option<&str>) -> Result<Answer, Problem> {
    match reply {
        None => {
            let mut body = json!({"status": "pending"});
            if let Some(event_id) = event_id {
                body["event_id"] = event_id.into();
            }
            Ok(json_answer(202, body.to_string()))
        }
        Some(EngineReply::Body { server, client }) => {
            let body = if kind == Kind::Client { client } else { server };
            Ok(json_answer(200, body.as_str().to_owned()))
        }
        Some(EngineReply::Accepted { duplicate, response_id }) => {
            let mut body = json!({"status": if duplicate { "duplicate" } else { "accepted" }});
            if let Some(response_id) = response_id {
                body["response_id"] = response_id.into();
            }
            Ok(json_answer(200, body.to_string()))
        }
        Some(EngineReply::Refused { code, pointer, detail }) => Err(Problem::refused(&code, pointer, detail)),
        Some(EngineReply::Defined { .. } | EngineReply::Attempted { .. }) => {
            Err(Problem::new(500, "internal", "an answer that does not belong here"))
        }
    }
}

pub(super) fn read_answers(fields: &mut Fields<'_>, now: i64) -> (Vec<GivenAnswer>, bool, ClientTimes) {
    let list = fields.list("answers");
    if list.is_none() && !fields.has("answers") {
        fields.fault(Code::MissingField, "answers", "is required");
    }
    let list = list.unwrap_or_default();
    if list.len() > MAX_ANSWERS {
        fields.fault(Code::Invalid, "answers", "must have at most 200 entries");
    }
    let answers = list.iter().take(MAX_ANSWERS).enumerate().map(|(i, raw)| given(fields, i, raw)).collect();
    let completed = fields.boolean("completed").unwrap_or(false);
    let times = ClientTimes { occurred_at: None, sent_at: fields.time("sent_at"), received_at: Some(now) };
    (answers, completed, times)
}

fn given(fields: &mut Fields<'_>, index: usize, raw: &RawValue) -> GivenAnswer {
    let mut inner = Fields::of(raw.get(), format!("/answers/{index}"));
    let question_id = inner.required_id("question_id");
    let value = inner.raw("value");
    if value.is_none() {
        inner.fault(Code::MissingField, "value", "is required");
    }
    let given = GivenAnswer {
        question_id,
        value: Json::from_valid(value.unwrap_or("null")),
        answered_at: inner.time("answered_at"),
        duration_ms: inner.unsigned("duration_ms"),
    };
    fields.faults.extend(inner.close());
    given
}
